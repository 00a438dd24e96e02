g++ -O2 -flto -c prog.cc other.cc && g++ -O2 -c plain.cc && g++ -O2 -flto -static $B prog.o plain.o other.o -o prog
