#include <stdio.h>
int used(int), seen;
int main(void) { printf("%d %d\n", used(3), seen); return 0; }
