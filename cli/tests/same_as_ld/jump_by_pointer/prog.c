#include <stdio.h>
long by_pointer(long), past(long), past_at_end(long), past_if(long);
int main(void) {
    printf("%ld %ld %ld %ld\n", by_pointer(1), past(2), past_at_end(3), past_if(4));
    return 0;
}
