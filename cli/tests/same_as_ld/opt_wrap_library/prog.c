#include <stdio.h>
int f(void), g(void), h(void) __attribute__((weak)), __real_f(void), __real_g(void), call_own(void);
int __wrap_f(void) { return 100 + __real_f(); }
int __wrap_g(void) { return 1000 + __real_g(); }
int (*volatile pointer)(void) = f;
int main(void) { printf("%d %d %d %d %d\n", f(), g(), pointer(), call_own(), h ? h() : -1); return 0; }
