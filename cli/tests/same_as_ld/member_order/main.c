#include <stdio.h>
extern const int __start_order[], __stop_order[];
int f3(void);
int f0(void) { return 0; }
int main(void) {
    for (const int *n = __start_order; n < __stop_order; n++)
        printf("%d ", *n);
    return f3();
}
