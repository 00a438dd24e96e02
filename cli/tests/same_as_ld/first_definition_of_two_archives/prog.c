#include <stdio.h>
int which(void), user(void);
int main(void) { printf("%d %d\n", which(), user()); return 0; }
