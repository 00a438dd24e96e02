# What faults is thrown from (-fnon-call-exceptions), also where it refers to another library's data.
for file in main library other; do g++ -O2 -fno-pie -fnon-call-exceptions -c $file.cc; done
ar rcs liblibrary.a library.o
ar rcs libother.a other.o
g++ -static -no-pie $B main.o liblibrary.a libother.a -o prog
