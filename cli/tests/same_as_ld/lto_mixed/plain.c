#include <stdio.h>
int called_back(int);
__attribute__((common)) int common_of_all;
int weak_here(void) { return 300; }
__attribute__((weak)) int weak_in_code(void) { return 2; }
int more[2] __attribute__((section("entries"), used)) = {5, 6};
int from_plain(void) { return called_back(4000) + weak_in_code(); }
__attribute__((constructor)) static void first(void) { puts("constructor of plain"); }
