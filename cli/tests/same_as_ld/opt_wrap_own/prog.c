#include <stdio.h>
int take(int (*)(void)), plain(void), hook(void), own(void);
int __wrap_hook(void) { return 16; }
int main(void) { printf("%d %d %d %d\n", take(0), plain(), hook(), own()); return 0; }
