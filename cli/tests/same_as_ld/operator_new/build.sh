g++ -O1 -c prog.cc && g++ -static $B prog.o -o prog
