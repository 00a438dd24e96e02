#include <stdio.h>
int used(int n);
static int __attribute__((noinline, used)) of_program(int n) { return used(n); }
int main(void) {
  printf("%d\n", of_program(2));
  return 0;
}
