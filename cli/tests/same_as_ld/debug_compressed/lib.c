struct one { int in_zlib; char text[40]; } first = {1, "one"};
int of_first(void) { return first.in_zlib; }
