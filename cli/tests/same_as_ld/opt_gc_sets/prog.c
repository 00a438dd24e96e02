#include <stdio.h>
#include "set.h"
extern const int __start_walked[], __stop_walked[], __start_weakly[] __attribute__((weak)), __stop_weakly[] __attribute__((weak));
extern const int begin[], end[];
void library(void);
__attribute__((section("walked"), used, retain)) static const int a = 1;
IN(weakly) b = 1;
IN(alone) c = 1;
int main(void) {
    printf("%d %d\n", (int)(__stop_walked - __start_walked), (int)(__stop_weakly - __start_weakly));
    printf("%d\n", (int)(end - begin));
    library();
    return 0;
}
