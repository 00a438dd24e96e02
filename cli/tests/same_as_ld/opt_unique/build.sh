gcc -O2 -c prog.c && gcc -static $B prog.o -Wl,-unique='*.own.[ab]*' -o prog && readelf -SW prog | grep -o " \.data\.own\.[a-z]*" | sort > found
