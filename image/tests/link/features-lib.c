/* A library that uses all that makes a library depend on the image it is linked into:
 * thread-local variables, common symbols, calls and addresses of the application's functions, weak
 * references, functions that choose their implementation, constructors. */
#include <stdio.h>

typedef int (*function)(int);

__thread int tls_zero;
__thread int tls_set = 11;
static __thread long tls_own = 77;
int common_array[10];
int initialised = 3;

extern int application_callback(int);
extern int application_data;
extern int application_lacks_this(int) __attribute__((weak));

const function callbacks[2] = {application_callback, application_callback};

static int implementation(int x) { return x + 100; }
static function choose(void) { return implementation; }
#ifdef HAVE_IFUNC
int chosen(int) __attribute__((ifunc("choose")));
#else
int chosen(int x) { return choose()(x); }
#endif
function chosen_pointer = chosen;

static int constructed;

__attribute__((constructor)) static void construct(void)
{
    constructed++;
    printf("library constructor %d\n", constructed);
}

__attribute__((destructor)) static void destruct(void) { printf("library destructor\n"); }

static int *set_variable(void) { return &tls_set; }

int library_run(int x)
{
    common_array[2] += x;
    (*set_variable())++;
    tls_zero += 2;
    tls_own++;
    printf("tls %d %d %ld, common %d, initialised %d\n", tls_set, tls_zero, tls_own,
           common_array[2], initialised);
    printf("callback %d %d %d, data %d\n", application_callback(x), callbacks[1](x),
           ((function)application_callback)(x), application_data);
    printf("weak %d\n", application_lacks_this ? application_lacks_this(1) : -1);
    printf("chosen %d %d %d\n", chosen(1), chosen_pointer(2), chosen_pointer == chosen);
    return 0;
}
