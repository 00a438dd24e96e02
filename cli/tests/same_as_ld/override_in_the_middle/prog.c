#include <stdio.h>
int top(void);
int middle(void) { return 200; }
int (*address(void))(void);
int main(void) { printf("%d %d\n", top(), address() == middle); return 0; }
