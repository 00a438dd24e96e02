g++ -O0 -c prog.cc a.cc b.cc c.cc && ar rcs libx.a b.o a.o && ar rcs liby.a b.o c.o && g++ -static $B prog.o libx.a liby.a -o prog
