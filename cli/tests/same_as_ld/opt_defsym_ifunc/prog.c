#include <stdio.h>
#include <string.h>
static int one(void) { return 1; }
static int two(void) { return 2; }
static void *choose(void) { return two; (void)one; }
int chosen(void) __attribute__((ifunc("choose")));
int also(void);
size_t length(const char *);
int (*volatile pointer)(void) = also;
int main(int c, char **v) { printf("%d %d %d %d\n", chosen(), also(), pointer(), (int)length("abcd")); return 0; (void)c; (void)v; }
