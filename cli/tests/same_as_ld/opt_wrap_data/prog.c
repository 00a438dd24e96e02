#include <stdio.h>
extern int value, count; extern __thread int mine; int get(void), get_mine(void);
int __wrap_value = 20; __thread int __wrap_mine = 40;
int *pointer = &value;
int main(void) { printf("%d %d %d %d %d\n", value, *pointer, get(), mine, get_mine()); return 0; }
