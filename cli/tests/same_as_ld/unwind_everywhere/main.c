#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <unwind.h>
long run(long);
int main(void);
static volatile long steps, lost, trapping;
static _Unwind_Reason_Code look(struct _Unwind_Context *context, void *found) {
    if (_Unwind_FindEnclosingFunction((void *)(_Unwind_GetIP(context) - 1)) == (void *)main)
        *(int *)found = 1;
    return _URC_NO_REASON;
}
static void step(int signal, siginfo_t *info, void *context) {
    int found = 0;
    (void)signal, (void)info, (void)context;
    if (!trapping)
        return;
    _Unwind_Backtrace(look, &found);
    steps++;
    lost += !found;
}
int main(void) {
    struct sigaction action = {.sa_sigaction = step, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, 0);
    trapping = 1;
    __asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq" ::: "memory", "cc");
    long result = run(1);
    trapping = 0;
    __asm__ volatile("pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq" ::: "memory", "cc");
    printf("%ld, lost %ld, %s\n", result, lost, steps > 10 ? "stepped" : "not stepped");
    return 0;
}
