#include <stdio.h>
#include <stdlib.h>
int answer(void), limit(void);
int replacement(void) { return 42; }
int counted; 
int main(void) { printf("%d %d\n", answer(), limit()); return 0; }
