/* Files that are mapped shared: coherent with reads, writes and other mappings, and gone where the file is. */
#include "told.h"
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <sys/mman.h>

#define PAGE 4096l
static sigjmp_buf back;
static volatile long fault_code;
static char *fault_at;

static void fault(int signal, siginfo_t *info, void *context)
{
    fault_code = info->si_code;
    fault_at = info->si_addr;
    siglongjmp(back, signal);
}

/* What an access does: 0, or the signal and its code. */
#define A(access) do { fault_code = 0; int signal_ = sigsetjmp(back, 1); if (!signal_) { access; } \
    printf("%s: %d %ld\n", #access, signal_, fault_code); fflush(stdout); } while (0)

static char *map(int fd, long length, int bits, long offset)
{
    char *at = mmap(NULL, length, bits, MAP_SHARED, fd, offset);
    printf("mapped %ld bytes from %ld, %d: %s\n", length, offset, bits, at == MAP_FAILED ? strerror(errno) : "yes");
    return at;
}

static int file(const char *directory, const char *name, long pages)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    ftruncate(fd, pages * PAGE);
    return fd;
}

static void coherence(const char *directory)
{
    char bytes[64] = "written", found[64] = "";
    int fd = file(directory, "coherent", 300);
    char *at = map(fd, 300 * PAGE, PROT_READ | PROT_WRITE, 0), *other = map(fd, 100 * PAGE, PROT_READ, 100 * PAGE);
    T(pwrite(fd, bytes, 8, 150 * PAGE)); puts(at + 150 * PAGE); puts(other + 50 * PAGE);
    strcpy(at + 120 * PAGE, "stored"); puts(other + 20 * PAGE);
    T(pread(fd, found, 64, 120 * PAGE)); puts(found);
    /* Past a page that was read before it is written, and into the mapping by calls. */
    long sum = 0;
    for (long page = 0; page < 300; page++) sum += at[page * PAGE];
    printf("sum %ld\n", sum);
    for (long page = 0; page < 300; page++) at[page * PAGE + 7] = page;
    sum = 0;
    for (long page = 0; page < 300; page++) { unsigned char byte; pread(fd, &byte, 1, page * PAGE + 7); sum += byte == (page & 255); }
    printf("pages written through: %ld\n", sum);
    T(pread(fd, at + 200 * PAGE, 3 * PAGE, 119 * PAGE)); puts(at + 201 * PAGE);
    T(pwrite(fd, at + 120 * PAGE, 64, 10)); puts(at + 10);
    T(msync(at, 300 * PAGE, MS_SYNC)); T(msync(at, PAGE, MS_ASYNC)); T(fsync(fd));
    T(mprotect(other, PAGE, PROT_READ | PROT_WRITE)); other[0] = 9; printf("%d\n", at[100 * PAGE]);
    T(madvise(at, 300 * PAGE, MADV_DONTNEED)); puts(at + 120 * PAGE);
    T(madvise(at, PAGE, MADV_FREE)); T(madvise(at, 10 * PAGE, 22)); T(madvise(at, 10 * PAGE, 23));
    close(fd);
    at[5] = 5; puts(at + 120 * PAGE);
    at = mremap(at, 300 * PAGE, 200 * PAGE, 0); puts(at + 120 * PAGE);
    char *moved = mremap(at, 200 * PAGE, 300 * PAGE, MREMAP_MAYMOVE);
    moved[250 * PAGE] = 77; printf("%d %s\n", moved[250 * PAGE], moved + 120 * PAGE);
    T(munmap(moved + 100 * PAGE, 10 * PAGE)); puts(moved + 120 * PAGE);
    T(munmap(moved, 300 * PAGE));
    A(moved[0] = 1);
    fd = open("/dev/null", O_RDWR); T(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED);
    int writes = open("/dev/zero", O_WRONLY), reads = open("/dev/zero", O_RDONLY);
    T(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, writes, 0) == MAP_FAILED); T(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reads, 0) == MAP_FAILED);
    T(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, reads, 0) == MAP_FAILED);
    fd = open("/dev/zero", O_RDWR); at = map(fd, PAGE, PROT_READ | PROT_WRITE, 0); at[3] = 3; printf("%d\n", at[3]);
    T(mmap(NULL, PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, file(directory, "other", 1), 0) == MAP_FAILED);
}

static void rights(const char *directory)
{
    char path[200];
    snprintf(path, sizeof path, "%s/coherent", directory);
    int reads = open(path, O_RDONLY), writes = open(path, O_WRONLY), both = open(path, O_RDWR);
    map(writes, PAGE, PROT_READ, 0); map(writes, PAGE, PROT_WRITE, 0); map(reads, PAGE, PROT_READ | PROT_WRITE, 0);
    char *at = map(reads, PAGE, PROT_READ, 0), *other = map(both, PAGE, PROT_READ, 0);
    T(mprotect(at, PAGE, PROT_READ | PROT_WRITE)); T(mprotect(other, PAGE, PROT_READ | PROT_WRITE));
    other[100] = 42; printf("%d\n", at[100]);
    T(mprotect(other, PAGE, PROT_READ));
    A(other[100] = 1); A(at[100] = 1);
    T(read(both, other, 1)); T(read(both, at, 1));
    T(mprotect(other, PAGE, PROT_NONE));
    A(other[0]++);
    T(mprotect(other, PAGE, PROT_READ | PROT_WRITE)); other[101] = 43; printf("%d\n", at[101]);
}

/* Pages that the file does not have, or not any more. Calls are made directly: a C library may fill a structure
 * itself. */
static void shorter(const char *directory)
{
    int fd = file(directory, "shorter", 8), pipes[2];
    volatile char *at = (void *)map(fd, 16 * PAGE, PROT_READ | PROT_WRITE, 0);
    struct stat st;
    pipe(pipes);
    at[7 * PAGE] = 1;
    A(at[8 * PAGE] = 1); printf("%d\n", fault_at == at + 8 * PAGE);
    A((void)at[15 * PAGE]);
    T(write(pipes[1], (void *)(at + 8 * PAGE), 1)); T(read(fd, (void *)(at + 8 * PAGE), 1)); T(pread(fd, (void *)(at + 8 * PAGE), 100, 0));
    T(syscall(SYS_fstat, fd, (void *)(at + 9 * PAGE))); T(open((void *)(at + 9 * PAGE), O_RDONLY)); T(pread(fd, (void *)(at + 7 * PAGE), 2 * PAGE, 0));
    T(syscall(SYS_getrandom, (void *)(at + 8 * PAGE - 100), 200, 0)); T(syscall(SYS_getrandom, (void *)(at + 8 * PAGE), 200, 0));
    for (int page = 0; page < 8; page++) at[page * PAGE] = page + 1;
    T(madvise((void *)at, 8 * PAGE, 22)); T(madvise((void *)at, 9 * PAGE, 22));
    ftruncate(fd, 4 * PAGE + 100);
    T(madvise((void *)(at + 6 * PAGE), PAGE, 22)); T(madvise((void *)(at + 6 * PAGE), PAGE, 23)); T(madvise((void *)at, 5 * PAGE, 22));
    T(mlock((void *)(at + 6 * PAGE), PAGE)); T(mlock((void *)at, 6 * PAGE)); T(munlock((void *)at, 8 * PAGE));
    A(at[3 * PAGE]++); A(at[4 * PAGE + 200] = 1); A(at[5 * PAGE]++); A((void)at[7 * PAGE]);
    T(write(pipes[1], (void *)(at + 6 * PAGE), 1)); T(syscall(SYS_fstat, fd, (void *)(at + 6 * PAGE))); T(open((void *)(at + 6 * PAGE), O_RDONLY));
    T(syscall(SYS_fstat, fd, (void *)(at + 5 * PAGE - 72)));
    ftruncate(fd, 8 * PAGE);
    A(at[5 * PAGE]++); printf("%d %d\n", at[5 * PAGE], at[7 * PAGE]);
    /* Used before, gone while the machine remembers it, then used by calls first. */
    for (int round = 0; round < 20; round++) {
        at[7 * PAGE] = 1;
        ftruncate(fd, 7 * PAGE);
        if (round % 2) A(at[7 * PAGE] = 2); else T(syscall(SYS_fstat, fd, (void *)(at + 7 * PAGE)));
        ftruncate(fd, 8 * PAGE);
    }
    T(madvise((void *)at, PAGE, MADV_REMOVE)); printf("%d %d\n", at[0], at[PAGE]);
    T(syscall(SYS_fstat, fd, (void *)at)); T(mincore((void *)at, PAGE, (void *)(at + PAGE)));
}

static void *waits(void *word)
{
    struct timespec limit = {20, 0};
    long woken = syscall(SYS_futex, word, 0, 0, &limit, NULL, 0);
    return (void *)woken;
}

/* Wakes who waits for `word`, by `other`. */
static long wakes(int *word, int *other)
{
    pthread_t thread;
    void *result;
    long woken = 0;
    pthread_create(&thread, NULL, waits, word);
    while (!woken) woken = syscall(SYS_futex, other, 1, 1, NULL, NULL, 0);
    pthread_join(thread, &result);
    return woken + (long)result;
}

/* A word is its file's, whatever mapping it is waited for by. */
static void words(const char *directory)
{
    int fd = file(directory, "words", 4);
    int *at = (void *)map(fd, 2 * PAGE, PROT_READ | PROT_WRITE, 0), *other = (void *)map(fd, 2 * PAGE, PROT_READ | PROT_WRITE, PAGE);
    T(wakes(at + 1024, other)); T(wakes(other + 5, at + 1029));
    T(syscall(SYS_futex, at, 1, 1, NULL, NULL, 0));
    int *moved = mremap(at, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE);
    T(wakes(moved + 1024, other));
}

static void *poster(void *semaphore)
{
    for (int n = 0; n < 100; n++) sem_post(semaphore);
    return NULL;
}

static void names(void)
{
    int fd = shm_open("/pool-test", O_RDWR | O_CREAT | O_EXCL, 0600);
    T(fd >= 0); T(shm_open("/pool-test", O_RDWR | O_CREAT | O_EXCL, 0600)); T(ftruncate(fd, 3 * PAGE));
    char *at = map(fd, 3 * PAGE, PROT_READ | PROT_WRITE, 0);
    strcpy(at + PAGE, "by name");
    int again = shm_open("/pool-test", O_RDONLY, 0);
    char *other = map(again, 3 * PAGE, PROT_READ, 0);
    puts(other + PAGE);
    T(shm_unlink("/pool-test")); T(shm_unlink("/pool-test")); puts(other + PAGE);
    sem_t *semaphore = sem_open("/pool-test", O_CREAT | O_EXCL, 0600, 1);
    T(semaphore != SEM_FAILED); T(sem_open("/pool-test", 0) == semaphore);
    T(sem_trywait(semaphore)); T(sem_trywait(semaphore));
    pthread_t thread;
    pthread_create(&thread, NULL, poster, semaphore);
    for (int n = 0; n < 100; n++) sem_wait(semaphore);
    pthread_join(thread, NULL);
    int value; sem_getvalue(semaphore, &value); printf("value %d\n", value);
    T(sem_unlink("/pool-test")); T(sem_close(semaphore)); T(sem_close(semaphore));
}

int main(int count, char **arguments)
{
    struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    coherence(arguments[1]); rights(arguments[1]); shorter(arguments[1]); words(arguments[1]);
    const char *memory[] = {"/tmp", "/dev/shm"};
    for (int n = 0; n < 2; n++) {
        char path[100];
        snprintf(path, sizeof path, "%s/pool-XXXXXX", memory[n]);
        T(mkdtemp(path) != NULL);
        coherence(path); shorter(path);
        char whole[200]; const char *names_of[] = {"coherent", "other", "shorter"};
        for (int nth = 0; nth < 3; nth++) { snprintf(whole, sizeof whole, "%s/%s", path, names_of[nth]); unlink(whole); }
        T(rmdir(path));
    }
    names();
    puts("done");
    return 0;
}
