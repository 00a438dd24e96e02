#include <stdio.h>
extern int data;
int code(void);
int main(void) { printf("%d %d\n", data, code()); return 0; }
