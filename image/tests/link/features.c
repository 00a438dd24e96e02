/* The program around features-lib.c: everything the two must agree on is printed. */
#include <pthread.h>
#include <stdio.h>

int library_run(int);
int chosen(int);
void walk(void);
extern int (*chosen_pointer)(int);
extern __thread int tls_set, tls_zero;
extern int common_array[10];

static __thread char tls_large[100];
__thread int tls_application = 5;
int application_data = 9;

int application_callback(int x) { return x * 2; }

static void before_all(void) { fputs("before all\n", stdout); }
__attribute__((section(".preinit_array"), used)) static void (*entry)(void) = before_all;
__attribute__((constructor(200))) static void early(void) { printf("early\n"); }
__attribute__((constructor)) static void late(void) { printf("late\n"); }

static void *thread(void *unused)
{
    tls_large[0]++;
    printf("thread %d %d %d %d\n", tls_set, tls_zero, tls_application, tls_large[0]);
    library_run(3);
    return unused;
}

int main(void)
{
    tls_application++;
    tls_set = 50;
    library_run(21);
    printf("application %d %d %d, common %d, same %d\n", tls_application, tls_set, tls_zero,
           common_array[2], chosen == chosen_pointer);
    walk();
    pthread_t id;
    if (pthread_create(&id, NULL, thread, NULL) != 0 || pthread_join(id, NULL) != 0)
        return 1;
    return 0;
}
