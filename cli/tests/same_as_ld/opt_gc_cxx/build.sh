g++ -std=c++17 -O1 -ffunction-sections -fdata-sections -c prog.cc && g++ -static $B -Wl,--gc-sections prog.o -o prog
