#include <csignal>
#include <cstdio>
extern "C" long get(long), add(long, long), put(long), call(long), uncaught(long);
static const long FAR = 0x700000000;
static void fault(int) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    throw 7;
}
struct Left {
    ~Left() { puts("left"); }
};
static long within(long i) {
    Left left;
    return uncaught(i);
}
int main() {
    signal(SIGSEGV, fault);
    printf("%ld %ld\n%ld %ld\n%ld %ld\n%ld\n", get(1), get(FAR), add(1, 2), add(FAR, 5), put(2), put(FAR), call(2));
    for (volatile int i = 0; i < 3; i++)
        try {
            within(FAR + i);
        } catch (int e) {
            printf("caught %d\n", e);
        }
}
