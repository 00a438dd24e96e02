//! How the arguments of each call are shown: a line a call, with a word an argument. Words in capitals are of what
//! the call writes, and are shown once it has returned.
//!
//! | word | is |
//! |---|---|
//! | `i`, `l`, `u`, `x`, `o`, `p` | a number: an `int`, a `long`, unsigned, in hexadecimal, in octal; an address |
//! | `d`, `at` | a descriptor; the same or `AT_FDCWD` |
//! | `s`, `S` | a string that ends with NUL |
//! | `b:N`, `B` | bytes, as many as argument N says or as the call has returned |
//! | `v:N`, `V:N` | an `iovec` of argument N elements |
//! | `sa:N`, `SA` | an address of a socket: N is its length |
//! | `f:SET` | flags of [`super::names`] |
//! | `sig`, `set`, `SET`, `act`, `ACT` | a signal, a set of them, a `sigaction` |
//! | `time`, `TIME`, `part`, `PART` | a `timespec`, a `timeval` |
//! | others | structures: see [`super::values`] |

const SHAPES: &str = "\
read d B u
write d b:2 u
open s f:open o
close d
stat s STAT
fstat d STAT
lstat s STAT
poll polls:1 u i
lseek d l f:whence
mmap p u f:prot f:map i x =x
mprotect p u f:prot
munmap p u
brk p =x
rt_sigaction sig act ACT u
rt_sigprocmask f:how set SET u
rt_sigreturn
ioctl d f:ioctl p
pread64 d B u l
pwrite64 d b:2 u l
readv d V:2 u
writev d v:2 u
access s f:access
pipe PAIR
select i p p p part
sched_yield
mremap p u u f:remap p =x
msync p u f:msync
mincore p u p
madvise p u f:advice
dup d
dup2 d d
pause
nanosleep time p
getitimer f:itimer p
alarm u
setitimer f:itimer itimer p
getpid
sendfile d d p u
socket f:family f:socket i
connect d sa:2 u
accept d SA INT
sendto d b:2 u f:msg sa:5 u
recvfrom d B u f:msg SA INT
sendmsg d message f:msg
recvmsg d MESSAGE f:msg
shutdown d f:shut
bind d sa:2 u
listen d i
getsockname d SA INT
getpeername d SA INT
socketpair f:family f:socket i PAIR
setsockopt d f:level i int:4 u
getsockopt d f:level i INT INT
clone f:clone p PARENT p p
fork
vfork
execve s p p
exit i
wait4 i p x p
kill i sig
uname UTS
fcntl d f:fcntl x
flock d f:flock
fsync d
fdatasync d
truncate s l
ftruncate d l
getdents d p u
getcwd S u
chdir s
fchdir d
rename s s
mkdir s o
rmdir s
creat s o
link s s
unlink s
symlink s s
readlink s B u
chmod s o
fchmod d o
chown s i i
fchown d i i
lchown s i i
umask o =o
gettimeofday PART p
getrlimit f:rlimit RLIMIT
getrusage f:who p
sysinfo p
times p
getuid
getgid
setuid i
setgid i
geteuid
getegid
setpgid i i
getppid
getpgrp
setsid
setreuid i i
setregid i i
getgroups i p
setgroups i p
setresuid i i i
getresuid INT INT INT
setresgid i i i
getresgid INT INT INT
getpgid i
setfsuid i
setfsgid i
getsid i
capget p p
capset p p
rt_sigpending SET u
rt_sigtimedwait set p time u
rt_sigqueueinfo i sig p
rt_sigsuspend set u
sigaltstack p p
utime s p
mknod s o x
statfs s p
fstatfs d p
getpriority i i
setpriority i i i
sched_setparam i p
sched_getparam i p
sched_setscheduler i i p
sched_getscheduler i
sched_get_priority_max i
sched_get_priority_min i
mlock p u
munlock p u
mlockall f:lock
munlockall
prctl f:prctl x x x x
arch_prctl f:arch p
setrlimit f:rlimit rlimit
gettid
readahead d l u
setxattr s s b:3 u x
lsetxattr s s b:3 u x
fsetxattr d s b:3 u x
getxattr s s B u
lgetxattr s s B u
fgetxattr d s B u
listxattr s B u
llistxattr s B u
flistxattr d B u
removexattr s s
lremovexattr s s
fremovexattr d s
tkill i sig
time p
futex p f:futex u time p x
sched_setaffinity i u p
sched_getaffinity i u p
epoll_create i
getdents64 d p u
set_tid_address p
restart_syscall
fadvise64 d l u f:fadvise
timer_create f:clock p INT
timer_settime i f:timer itimerspec p
timer_gettime i p
timer_getoverrun i
timer_delete i
clock_gettime f:clock TIME
clock_getres f:clock TIME
clock_nanosleep f:clock f:timer time p
exit_group i
epoll_wait d EVENTS i i
epoll_ctl d f:epoll d event
tgkill i i sig
utimes s p
waitid i i p x p
openat at s f:open o
mkdirat at s o
mknodat at s o x
fchownat at s i i f:at
futimesat at s p
newfstatat at s STAT f:at
unlinkat at s f:at
renameat at s at s
linkat at s at s f:at
symlinkat s at s
readlinkat at s B u
fchmodat at s o
faccessat at s f:access
pselect6 i p p p time p
ppoll polls:1 u time set u
set_robust_list p u
get_robust_list i p p
splice d p d p u x
sync_file_range d l l x
utimensat at s p f:at
epoll_pwait d EVENTS i i set u
timerfd_create f:clock f:timerfd
eventfd u
fallocate d x l l
timerfd_settime d f:timer itimerspec p
timerfd_gettime d p
accept4 d SA INT f:socket
eventfd2 u f:eventfd
epoll_create1 f:epflags
dup3 d d f:open
pipe2 PAIR f:pipe
preadv d V:2 u l
pwritev d v:2 u l
rt_tgsigqueueinfo i i sig p
recvmmsg d p u f:msg time
prlimit64 i f:rlimit rlimit RLIMIT
sendmmsg d p u f:msg
getcpu INT INT p
sched_setattr i p x
sched_getattr i p u x
renameat2 at s at s f:rename
getrandom B u f:random
execveat at s p p f:at
membarrier x x i
mlock2 p u x
copy_file_range d p d p u x
preadv2 d V:2 u l l x
pwritev2 d v:2 u l l x
statx at s f:at f:statx p
rseq p u f:rseq x
clone3 p u
close_range u u x
faccessat2 at s f:access f:faccessat
epoll_pwait2 d EVENTS i time set u
fchmodat2 at s o f:at
";

/// A call's arguments: a word each, and how its result is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape(&'static str);

impl Shape {
    /// Of the call `name`; one that has none has six numbers.
    pub(super) fn of(name: &str) -> Self {
        let line = SHAPES.lines().find_map(|line| {
            let (found, kinds) = line.split_once(' ').unwrap_or((line, ""));
            (found == name).then_some(kinds)
        });
        Self(line.unwrap_or("x x x x x x"))
    }

    /// Its arguments.
    pub(super) fn arguments(self) -> impl Iterator<Item = &'static str> {
        let words = self.0.split(' ');
        words.filter(|word| !word.is_empty() && !word.starts_with('='))
    }

    /// How a result that is not an error is shown.
    pub(super) fn result(self) -> &'static str {
        self.0.rsplit_once('=').map_or("", |(_, kind)| kind)
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;
    use crate::linux::table;

    #[test]
    fn every_call_that_is_served_has_its_arguments_here() {
        assert_eq!(SHAPES.lines().count(), table::COUNT);
        for (line, call) in SHAPES.lines().zip(table::calls()) {
            assert_eq!(line.split(' ').next(), Some(call.name));
            let shape = Shape::of(call.name);
            assert!(shape.arguments().count() <= 6, "{line}");
            if let Some(count) = call.host_arguments() {
                assert_eq!(shape.arguments().count(), count, "{line}");
            }
            for word in shape.arguments() {
                if let Some(set) = word.strip_prefix("f:") {
                    assert!(names::is_set(set), "{line}");
                }
            }
        }
    }
}
