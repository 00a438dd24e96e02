#include <stdio.h>
extern const char *const __start_parts[], *const __stop_parts[];
extern int one, two;
static const char *const own __attribute__((section("parts"), used)) = "own";
int main(void) {
    for (const char *const *p = __start_parts; p < __stop_parts; p++) puts(*p);
    return one + two - 3;
}
