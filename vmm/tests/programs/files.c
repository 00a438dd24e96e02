/* Files and names, in the directory of the first argument. */
#include "told.h"
#include <dirent.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <sys/xattr.h>

static struct stat st;
static char buffer[8192];

static void mode(const char *path)
{
    errno = 0;
    int found = lstat(path, &st);
    printf("%s: %d %o %ld %ld\n", path, found, found ? 0 : st.st_mode, found ? 0 : (long)st.st_size, found ? 0 : (long)st.st_nlink);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

static void list(const char *path)
{
    DIR *directory = opendir(path);
    char *names[64];
    int count = 0;
    if (!directory) { printf("%s: %s\n", path, strerror(errno)); return; }
    for (struct dirent *entry; (entry = readdir(directory)) && count < 64;) {
        snprintf(buffer, sizeof buffer, "%s/%d", entry->d_name, entry->d_type);
        names[count++] = strdup(buffer);
    }
    closedir(directory);
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) printf("%s ", names[i]);
    puts("");
}

int main(int c, char **v)
{
    int fd, other, pair[2];
    T(chdir(v[1]));
    T(umask(027));
    T(umask(022));
    umask(027);
    /* Making, and what modes become. */
    T(fd = open("a", O_CREAT | O_RDWR | O_EXCL, 0666));
    T(open("a", O_CREAT | O_RDWR | O_EXCL, 0666));
    T(write(fd, "0123456789", 10));
    T(pwrite(fd, "xy", 2, 4));
    T(lseek(fd, 3, SEEK_SET));
    T(read(fd, buffer, 4));
    printf("%.4s\n", buffer);
    T(pread(fd, buffer, 100, 8));
    T(pread(fd, buffer, 1, -1));
    T(lseek(fd, -1, SEEK_SET));
    T(lseek(fd, 5, SEEK_HOLE));
    T(ftruncate(fd, 5000));
    T(ftruncate(fd, -1));
    T(fallocate(fd, 0, 0, 8192));
    T(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 16384));
    T(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    T(fsync(fd)); T(fdatasync(fd));
    mode("a");
    T(mkdir("d", 0777)); T(mkdir("d", 0777)); T(mkdir("d/e/", 0700)); T(mkdir("x/y", 0700));
    mode("d"); mode("d/"); mode("d/e");
    T(open("a/", O_RDONLY)); T(open("d/", O_RDWR)); T(open("d", O_RDONLY | O_DIRECTORY) >= 0);
    T(open("a", O_RDONLY | O_DIRECTORY)); T(open("new/", O_CREAT | O_RDWR, 0600));
    T(open("", O_RDONLY)); T(open((char *)1, O_RDONLY)); T(open("a", O_RDONLY | O_NOFOLLOW) >= 0);
    memset(buffer, 'n', 5000); buffer[5000] = 0;
    T(open(buffer, O_RDONLY)); buffer[256] = 0; T(open(buffer, O_RDONLY)); buffer[255] = 0; T(open(buffer, O_RDONLY));
    /* Links, `..` and what lies above. */
    T(symlink("a", "s")); T(symlink("d/e", "se")); T(symlink("nowhere", "sn")); T(symlink("loop", "loop"));
    T(symlink("..", "d/up")); T(link("a", "l")); T(link("s", "ls")); T(linkat(AT_FDCWD, "s", AT_FDCWD, "lf", AT_SYMLINK_FOLLOW));
    mode("s"); mode("ls"); mode("lf"); mode("d/up/a"); mode("se/.."); mode("se/../e"); mode("sn"); mode("sn/"); mode("loop/x");
    T(open("loop", O_RDONLY)); T(open("s", O_RDONLY | O_NOFOLLOW)); T(open("sn", O_RDONLY)); T(open("se/../../a", O_RDONLY) >= 0);
    memset(buffer, 0, 64); T(readlink("s", buffer, 64)); puts(buffer); T(readlink("a", buffer, 64)); T(readlink("sn", buffer, 3)); T(readlink("s", buffer, 0)); T(readlink("s", buffer, -1)); T(readlinkat(AT_FDCWD, "s", buffer, 1L << 32 | 1));
    T(mkdir("sticky", 07777)); mode("sticky"); T(rmdir("sticky"));
    /* Rights and times. */
    T(access("a", F_OK)); T(access("a", R_OK | W_OK)); T(access("a", X_OK)); T(access("d", X_OK)); T(access("none", F_OK)); T(access("a", 64));
    T(faccessat(AT_FDCWD, "sn", F_OK, AT_SYMLINK_NOFOLLOW)); T(chmod("a", 0440)); mode("a"); T(fchmod(fd, 0644)); T(fchmodat(AT_FDCWD, "d", 0711, 0)); mode("d");
    T(chown("a", -1, -1)); T(fchown(fd, -1, -1)); T(lchown("sn", -1, -1));
    struct timespec times[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    T(utimensat(AT_FDCWD, "a", times, 0)); stat("a", &st); printf("%ld %ld %ld %ld\n", st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    times[0].tv_nsec = UTIME_OMIT; times[1].tv_sec = 5; T(futimens(fd, times)); fstat(fd, &st); printf("%ld %ld\n", st.st_atim.tv_sec, st.st_mtim.tv_sec);
    T(utimensat(AT_FDCWD, "none", 0, 0)); T(utimensat(AT_FDCWD, "sn", times, AT_SYMLINK_NOFOLLOW)); T(utimes("a", 0));
    struct statx x;
    T(statx(AT_FDCWD, "a", 0, STATX_BASIC_STATS, &x)); printf("%o %llu\n", x.stx_mode, (unsigned long long)x.stx_size);
    T(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &x)); T(statx(fd, "", 0, STATX_SIZE, &x)); T(fstatat(fd, "", &st, AT_EMPTY_PATH)); T(fstatat(-5, "a", &st, 0)); T(fstatat(fd, "a", &st, 0));
    struct statfs fs, same;
    T(statfs("a", &fs)); T(fstatfs(fd, &same)); printf("%d\n", fs.f_type == same.f_type && fs.f_bsize == same.f_bsize);
    T(setxattr("a", "user.k", "value", 5, 0)); T(setxattr("a", "user.k", "v", 1, XATTR_CREATE)); T(getxattr("a", "user.k", 0, 0));
    memset(buffer, 0, 16); T(getxattr("a", "user.k", buffer, 16)); puts(buffer); T(fgetxattr(fd, "user.none", buffer, 16)); T(getxattr("a", "user.k", buffer, 2)); T(listxattr("a", 0, 0) >= 7);
    /* Names. */
    T(rename("a", "b")); T(rename("none", "c")); T(rename("d", "d/e/f")); T(rename("b", "d")); T(rename("d/e", "e")); T(rename("b/", "g"));
    T(renameat2(AT_FDCWD, "b", AT_FDCWD, "l", RENAME_NOREPLACE)); T(renameat2(AT_FDCWD, "b", AT_FDCWD, "e", RENAME_EXCHANGE)); mode("b"); mode("e");
    T(renameat2(AT_FDCWD, "b", AT_FDCWD, "e", RENAME_EXCHANGE)); T(unlink("d")); T(unlink("none")); T(unlink("b/")); T(rmdir("b")); T(rmdir("d/.")); T(rmdir("e")); T(rmdir("d"));
    T(unlinkat(AT_FDCWD, "d/up", 0)); T(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR)); T(unlinkat(AT_FDCWD, "lf", AT_REMOVEDIR)); T(rmdir("."));
    list("."); list("none"); list("b");
    T(mkdir("w", 0755)); T(other = open("w", O_RDONLY | O_DIRECTORY)); T(fchdir(other)); T(openat(other, "in", O_CREAT | O_WRONLY, 0600) >= 0); T(openat(other, "../b", O_RDONLY) >= 0); T(fchdir(fd));
    T(getcwd(buffer, sizeof buffer) != 0); puts(strrchr(buffer, '/')); T(getcwd(buffer, 1)); T(chdir("..")); T(chdir("b")); T(read(other, buffer, 8)); T(write(other, "x", 1)); T(close(other)); T(close(other));
    T(truncate("b", 7)); T(truncate("w", 7)); T(truncate("none", 7)); mode("b");
    T(other = open(".", O_TMPFILE | O_RDWR, 0600)); T(write(other, "tmp", 3)); T(close(other));
    T(other = open("b", O_PATH)); T(read(other, buffer, 1)); T(fstat(other, &st)); T(fchmod(other, 0600)); T(fchown(other, -1, -1)); T(futimens(other, 0)); T(fchownat(other, "", -1, -1, AT_EMPTY_PATH)); T(utimensat(other, "", 0, AT_EMPTY_PATH)); T(close(other));
    /* Vectors, positions and copies. */
    struct iovec in[3] = {{buffer, 3}, {0, 0}, {buffer + 10, 90}}, bad[2] = {{buffer, -1}, {buffer, 1}};
    T(lseek(fd, 0, SEEK_SET)); T(writev(fd, (struct iovec[]){{"one ", 4}, {"two", 3}}, 2)); T(preadv(fd, in, 3, 1)); printf("%.3s\n", buffer); T(readv(fd, bad, 2)); T(readv(fd, in, -1)); T(readv(fd, in, 0)); T(readv(fd, in, 2000));
    T(preadv2(fd, in, 3, -1, 0)); T(preadv2(fd, in, 3, 0, 0x4000)); T(pwritev(fd, in, 1, 7)); T(read(fd, (char *)8, 5)); T(write(fd, (char *)8, 5)); T(write(fd, 0, 0));
    T(other = open("copy", O_CREAT | O_RDWR | O_APPEND, 0644)); off_t at = 2; T(sendfile(other, fd, &at, 4)); printf("%ld\n", (long)at); T(write(other, "end", 3)); loff_t from = 0;
    T(copy_file_range(fd, &from, other, 0, 3, 0)); T(ftruncate(other, 0)); T(close(other)); T(other = open("copy2", O_CREAT | O_RDWR, 0644)); T(copy_file_range(fd, &from, other, 0, 3, 0)); printf("%ld\n", (long)from); T(close(other));
    /* Numbers of descriptors, flags, locks. */
    T(dup(-1)); T(dup2(fd, fd) == fd); T(dup3(fd, fd, 0)); T(dup2(fd, -1)); T(dup2(fd, 1 << 30)); T(dup3(fd, 33, O_CLOEXEC)); T(fcntl(33, F_GETFD)); T(fcntl(33, F_SETFD, 0)); T(fcntl(33, F_GETFD)); T(fcntl(33, F_DUPFD, 35)); T(fcntl(33, F_DUPFD_CLOEXEC, 35)); T(fcntl(36, F_GETFD));
    T(fcntl(fd, F_GETFL) & ~0100000); T(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK)); T(fcntl(33, F_GETFL) & ~0100000); T(fcntl(fd, F_SETFL, 0)); T(fcntl(fd, 9999)); T(fcntl(99, F_GETFD));
    T(close_range(35, 36, 0)); T(close(35)); T(close_range(9, 3, 0)); T(close_range(33, 33, 64)); T(close_range(33, 33, 4)); T(fcntl(33, F_GETFD));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3};
    T(fcntl(fd, F_SETLK, &lock)); T(fcntl(fd, F_SETLKW, &lock)); T(fcntl(fd, F_GETLK, &lock)); printf("%d\n", lock.l_type); lock.l_type = 9; T(fcntl(fd, F_SETLK, &lock)); T(flock(fd, LOCK_EX)); T(flock(fd, 77)); T(flock(99, LOCK_EX));
    int n = 1; T(ioctl(fd, FIONREAD, &n)); T(ioctl(fd, TCGETS, buffer)); T(ioctl(fd, 0x12345678, buffer)); T(ioctl(99, FIONREAD, &n));
    T(pipe2(pair, O_NONBLOCK | O_CLOEXEC)); T(pipe2(pair, 64)); T(pipe2((int *)1, 0)); T(fcntl(pair[0], F_GETFL)); T(fcntl(pair[1], F_GETPIPE_SZ)); T(fcntl(pair[1], F_SETPIPE_SZ, 8192)); T(lseek(pair[0], 0, SEEK_CUR)); T(pread(pair[0], buffer, 1, 0)); T(read(pair[0], buffer, 1)); T(write(pair[1], "abc", 3)); T(read(pair[0], buffer, 9)); T(close(pair[1])); T(read(pair[0], buffer, 9)); T(write(pair[0], "a", 1));
    /* What is told of two descriptors that nobody can be told of: nothing stays open. */
    other = dup(fd); T(close(other)); T(pipe2((int *)8, 0)); T(syscall(SYS_pipe, 0)); T(dup(fd) == other); T(close(other));
    T(openat(-5, v[1], O_PATH) >= 0); T(openat(99, "none", O_PATH)); T(fstatat(99, v[1], &st, 0)); T(fstatat(99, (char *)8, &st, 0)); T(mkdirat(-5, v[1], 0700));
    /* Who it is, which it cannot change. */
    uid_t r, e, s; char head[8] = {0}; uint32_t sets[6] = {~0u};
    T(setuid(getuid())); T(setgid(getgid())); T(setuid(4711)); T(setgid(4711)); T(setuid(-1)); T(setreuid(-1, geteuid())); T(setreuid(4711, -1)); T(setregid(-1, 4711)); T(setresuid(-1, 4711, -1)); T(setresgid(getgid(), -1, -1));
    T(getresuid(&r, &e, &s)); printf("%d %d %d\n", r, e, s); T(syscall(SYS_getresgid, &r, &e, 8)); T(syscall(SYS_setfsuid, -1)); T(syscall(SYS_setgroups, 1, (gid_t[]){4711}));
    T(syscall(SYS_capget, head, 0)); printf("%x\n", *(uint32_t *)head); T(syscall(SYS_capget, head, sets)); printf("%x\n", sets[0]); T(syscall(SYS_capset, head, sets)); sets[2] = 1; T(syscall(SYS_capset, head, sets)); *head = 0; T(syscall(SYS_capget, head, sets)); ((int *)head)[1] = -1; T(syscall(SYS_capget, head, sets));
    T(open("/dev/null", O_RDWR) >= 0); T(write(open("/dev/full", O_WRONLY), "x", 1)); T(read(open("/dev/zero", O_RDONLY), buffer, 9)); T(read(open("/dev/urandom", O_RDONLY), buffer, 9));
    struct rlimit found;
    T(setrlimit(RLIMIT_NOFILE, &(struct rlimit){150, 150})); T(setrlimit(RLIMIT_NOFILE, &(struct rlimit){150, 200})); T(setrlimit(RLIMIT_NOFILE, &(struct rlimit){151, 150})); T(getrlimit(RLIMIT_NOFILE, &found)); printf("%ld %ld\n", (long)found.rlim_cur, (long)found.rlim_max); T(fcntl(fd, F_DUPFD, 150)); T(prlimit(0, RLIMIT_NOFILE, &(struct rlimit){149, 150}, &found)); printf("%ld\n", (long)found.rlim_cur);
    return 0;
}
