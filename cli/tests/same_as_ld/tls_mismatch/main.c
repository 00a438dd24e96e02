#include <stdio.h>
extern int variable;
int main(void) { printf("%d\n", variable); return 0; }
