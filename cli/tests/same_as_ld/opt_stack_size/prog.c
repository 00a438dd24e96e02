#include <pthread.h>
#include <stdio.h>
static void *run(void *x) { volatile char room[300000]; room[0] = 1; return (void *)(long)(room[0] + (x != 0)); }
int main(void) {
    pthread_t t;
    void *r;
    if (pthread_create(&t, 0, run, 0) || pthread_join(t, &r)) return 1;
    printf("%ld\n", (long)r);
    return 0;
}
