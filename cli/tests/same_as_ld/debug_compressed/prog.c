#include <stdio.h>
int of_first(void), of_second(void), of_third(void);
int main(void) {
  printf("%d %d %d\n", of_first(), of_second(), of_third());
  return 0;
}
