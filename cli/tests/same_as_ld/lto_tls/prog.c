#include <pthread.h>
#include <stdio.h>
extern __thread int of_other, of_plain;
__thread int of_prog = 1;
int sum(void);
static void *run(void *by) { of_other += (long)by; of_plain *= 2; of_prog++; printf("%d %d %d %d\n", of_other, of_plain, of_prog, sum()); return 0; }
int main(void) { run(0); for (long i = 1; i < 3; i++) { pthread_t t; pthread_create(&t, 0, run, (void *)i); pthread_join(t, 0); } return 0; }
