#include <stdio.h>
extern const int begin[], end[];
__attribute__((section("s"), used, retain)) static const int x = 2;
__attribute__((section("s"), used)) static const int y = 3;
__attribute__((section("t"), used)) static const int z = 3;
extern const int __start_t[] __attribute__((weak)), __stop_t[] __attribute__((weak));
int unused(void) { return __stop_t - __start_t; }
int main(void) { printf("%d\n", (int)(end - begin)); return 0; }
