g++ $B prog.cc -o prog
