#include <stdio.h>
int from_plain(void), weak_in_code(void), start_of(void);
extern int common_of_all;
__attribute__((weak)) int weak_here(void) { return 1; }
int called_back(int n) { return n + common_of_all; }
int table[4] __attribute__((section("entries"), used)) = {1, 2, 3, 4};
extern int __start_entries[], __stop_entries[];
__attribute__((constructor)) static void first(void) { puts("constructor of prog"); }
int main(void) {
    common_of_all += 5;
    printf("%d %d %d %d\n", from_plain(), weak_here(), weak_in_code(), (int)(__stop_entries - __start_entries));
    return 0;
}
