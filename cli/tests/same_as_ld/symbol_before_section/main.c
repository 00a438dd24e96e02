#include <stdio.h>
int get(long);
extern const int above[];
int main(void) {
    printf("%d %d\n", get(101), above[102]);
    return 0;
}
