#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
static sigjmp_buf back;
static void caught(int number) { (void)number; siglongjmp(back, 1); }
int often = 1;
/* Writable until the program starts. */
__attribute__((section(".data.rel.ro"))) int *volatile once = &often;
static const char *tries(void) {
    if (sigsetjmp(back, 1)) return "is refused";
    once = 0;
    return "is done";
}
int main(void) {
    signal(SIGSEGV, caught);
    often = 2;
    int before = *once;
    const char *after = tries();
    printf("%d, and a write of what is constant %s\n", before, after);
    free(malloc(100));
    return 0;
}
