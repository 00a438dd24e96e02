//! Names of calls, errors, signals and flags. They are texts that are searched when a name is wanted: a table
//! would be memory of each instance, since its pointers are relocated at the start.

use std::fmt::Write as _;

/// Flags and enumerations, one a line: its name, then `BITS=NAME`, or `BITS/MASK=NAME` for one value of a field;
/// all in hexadecimal.
const SETS: &str = "\
open 0/3=O_RDONLY 1/3=O_WRONLY 2/3=O_RDWR 40=O_CREAT 80=O_EXCL 100=O_NOCTTY 200=O_TRUNC 400=O_APPEND \
800=O_NONBLOCK 101000=O_SYNC 1000=O_DSYNC 2000=O_ASYNC 4000=O_DIRECT 8000=O_LARGEFILE 410000=O_TMPFILE \
10000=O_DIRECTORY 20000=O_NOFOLLOW 40000=O_NOATIME 80000=O_CLOEXEC 200000=O_PATH
pipe 800=O_NONBLOCK 4000=O_DIRECT 80000=O_CLOEXEC
prot 0/ffffffff=PROT_NONE 1=PROT_READ 2=PROT_WRITE 4=PROT_EXEC
map 1/f=MAP_SHARED 2/f=MAP_PRIVATE 3/f=MAP_SHARED_VALIDATE 10=MAP_FIXED 20=MAP_ANONYMOUS 100=MAP_GROWSDOWN \
800=MAP_DENYWRITE 1000=MAP_EXECUTABLE 2000=MAP_LOCKED 4000=MAP_NORESERVE 8000=MAP_POPULATE \
10000=MAP_NONBLOCK 20000=MAP_STACK 40000=MAP_HUGETLB 100000=MAP_FIXED_NOREPLACE
remap 1=MREMAP_MAYMOVE 2=MREMAP_FIXED 4=MREMAP_DONTUNMAP
msync 1=MS_ASYNC 2=MS_INVALIDATE 4=MS_SYNC
advice 0/ff=MADV_NORMAL 1/ff=MADV_RANDOM 2/ff=MADV_SEQUENTIAL 3/ff=MADV_WILLNEED 4/ff=MADV_DONTNEED \
8/ff=MADV_FREE 9/ff=MADV_REMOVE a/ff=MADV_DONTFORK b/ff=MADV_DOFORK c/ff=MADV_MERGEABLE \
d/ff=MADV_UNMERGEABLE e/ff=MADV_HUGEPAGE f/ff=MADV_NOHUGEPAGE 10/ff=MADV_DONTDUMP 11/ff=MADV_DODUMP \
12/ff=MADV_WIPEONFORK 13/ff=MADV_KEEPONFORK 14/ff=MADV_COLD 15/ff=MADV_PAGEOUT \
16/ff=MADV_POPULATE_READ 17/ff=MADV_POPULATE_WRITE
whence 0/ff=SEEK_SET 1/ff=SEEK_CUR 2/ff=SEEK_END 3/ff=SEEK_DATA 4/ff=SEEK_HOLE
access 0/ff=F_OK 1=X_OK 2=W_OK 4=R_OK
at 100=AT_SYMLINK_NOFOLLOW 200=AT_REMOVEDIR 400=AT_SYMLINK_FOLLOW 800=AT_NO_AUTOMOUNT 1000=AT_EMPTY_PATH
faccessat 100=AT_SYMLINK_NOFOLLOW 200=AT_EACCESS 1000=AT_EMPTY_PATH
statx 7ff/7ff=STATX_BASIC_STATS 1=STATX_TYPE 2=STATX_MODE 4=STATX_NLINK 8=STATX_UID 10=STATX_GID 20=STATX_ATIME \
40=STATX_MTIME 80=STATX_CTIME 100=STATX_INO 200=STATX_SIZE 400=STATX_BLOCKS 800=STATX_BTIME 1000=STATX_MNT_ID
fcntl 0/ffff=F_DUPFD 1/ffff=F_GETFD 2/ffff=F_SETFD 3/ffff=F_GETFL 4/ffff=F_SETFL 5/ffff=F_GETLK 6/ffff=F_SETLK \
7/ffff=F_SETLKW 8/ffff=F_SETOWN 9/ffff=F_GETOWN 24/ffff=F_OFD_GETLK 25/ffff=F_OFD_SETLK 26/ffff=F_OFD_SETLKW \
400/ffff=F_SETLEASE 401/ffff=F_GETLEASE 406/ffff=F_DUPFD_CLOEXEC 407/ffff=F_SETPIPE_SZ 408/ffff=F_GETPIPE_SZ \
409/ffff=F_ADD_SEALS 40a/ffff=F_GET_SEALS
ioctl 5401/ffffffff=TCGETS 5402/ffffffff=TCSETS 5403/ffffffff=TCSETSW 5404/ffffffff=TCSETSF 5409/ffffffff=TCSBRK \
540b/ffffffff=TCFLSH 540e/ffffffff=TIOCSCTTY 540f/ffffffff=TIOCGPGRP 5410/ffffffff=TIOCSPGRP \
5411/ffffffff=TIOCOUTQ 5413/ffffffff=TIOCGWINSZ 5414/ffffffff=TIOCSWINSZ 541b/ffffffff=FIONREAD \
5421/ffffffff=FIONBIO 5450/ffffffff=FIONCLEX 5451/ffffffff=FIOCLEX 5452/ffffffff=FIOASYNC \
8910/ffffffff=SIOCGIFNAME 8912/ffffffff=SIOCGIFCONF 8913/ffffffff=SIOCGIFFLAGS 8915/ffffffff=SIOCGIFADDR \
8919/ffffffff=SIOCGIFBRDADDR 891b/ffffffff=SIOCGIFNETMASK 8921/ffffffff=SIOCGIFMTU 8927/ffffffff=SIOCGIFHWADDR \
8933/ffffffff=SIOCGIFINDEX
how 0/ffffffff=SIG_BLOCK 1/ffffffff=SIG_UNBLOCK 2/ffffffff=SIG_SETMASK
sa 1=SA_NOCLDSTOP 2=SA_NOCLDWAIT 4=SA_SIGINFO 4000000=SA_RESTORER 8000000=SA_ONSTACK 10000000=SA_RESTART \
40000000=SA_NODEFER 80000000=SA_RESETHAND
family 0/ffff=AF_UNSPEC 1/ffff=AF_UNIX 2/ffff=AF_INET a/ffff=AF_INET6 10/ffff=AF_NETLINK 11/ffff=AF_PACKET
socket 1/f=SOCK_STREAM 2/f=SOCK_DGRAM 3/f=SOCK_RAW 5/f=SOCK_SEQPACKET 800=SOCK_NONBLOCK 80000=SOCK_CLOEXEC
shut 0/ffffffff=SHUT_RD 1/ffffffff=SHUT_WR 2/ffffffff=SHUT_RDWR
msg 1=MSG_OOB 2=MSG_PEEK 4=MSG_DONTROUTE 8=MSG_CTRUNC 20=MSG_TRUNC 40=MSG_DONTWAIT 80=MSG_EOR 100=MSG_WAITALL \
2000=MSG_ERRQUEUE 4000=MSG_NOSIGNAL 8000=MSG_MORE 10000=MSG_WAITFORONE 40000000=MSG_CMSG_CLOEXEC
level 0/ffffffff=SOL_IP 1/ffffffff=SOL_SOCKET 6/ffffffff=SOL_TCP 11/ffffffff=SOL_UDP 29/ffffffff=SOL_IPV6 10e/ffffffff=SOL_NETLINK
clone 100=CLONE_VM 200=CLONE_FS 400=CLONE_FILES 800=CLONE_SIGHAND 2000=CLONE_PTRACE 4000=CLONE_VFORK \
8000=CLONE_PARENT 10000=CLONE_THREAD 20000=CLONE_NEWNS 40000=CLONE_SYSVSEM 80000=CLONE_SETTLS \
100000=CLONE_PARENT_SETTID 200000=CLONE_CHILD_CLEARTID 400000=CLONE_DETACHED 800000=CLONE_UNTRACED \
1000000=CLONE_CHILD_SETTID 10000000=CLONE_NEWUSER 11/ff=SIGCHLD
futex 0/7f=FUTEX_WAIT 1/7f=FUTEX_WAKE 3/7f=FUTEX_REQUEUE 4/7f=FUTEX_CMP_REQUEUE 5/7f=FUTEX_WAKE_OP 6/7f=FUTEX_LOCK_PI \
7/7f=FUTEX_UNLOCK_PI 8/7f=FUTEX_TRYLOCK_PI 9/7f=FUTEX_WAIT_BITSET a/7f=FUTEX_WAKE_BITSET \
b/7f=FUTEX_WAIT_REQUEUE_PI c/7f=FUTEX_CMP_REQUEUE_PI d/7f=FUTEX_LOCK_PI2 80=FUTEX_PRIVATE_FLAG 100=FUTEX_CLOCK_REALTIME
prctl f/ffffffff=PR_SET_NAME 10/ffffffff=PR_GET_NAME 1/ffffffff=PR_SET_PDEATHSIG 2/ffffffff=PR_GET_PDEATHSIG 3/ffffffff=PR_GET_DUMPABLE \
7/ffffffff=PR_GET_KEEPCAPS 15/ffffffff=PR_GET_SECCOMP 18/ffffffff=PR_CAPBSET_DROP 1e/ffffffff=PR_GET_TIMERSLACK \
24/ffffffff=PR_SET_CHILD_SUBREAPER 27/ffffffff=PR_GET_NO_NEW_PRIVS 2a/ffffffff=PR_GET_THP_DISABLE 2f/ffffffff=PR_CAP_AMBIENT \
4/ffffffff=PR_SET_DUMPABLE 8/ffffffff=PR_SET_KEEPCAPS 17/ffffffff=PR_CAPBSET_READ 1d/ffffffff=PR_SET_TIMERSLACK \
26/ffffffff=PR_SET_NO_NEW_PRIVS 29/ffffffff=PR_SET_THP_DISABLE 53564d41/ffffffff=PR_SET_VMA
arch 1001/ffffffff=ARCH_SET_GS 1002/ffffffff=ARCH_SET_FS 1003/ffffffff=ARCH_GET_FS 1004/ffffffff=ARCH_GET_GS
rlimit 0/ff=RLIMIT_CPU 1/ff=RLIMIT_FSIZE 2/ff=RLIMIT_DATA 3/ff=RLIMIT_STACK 4/ff=RLIMIT_CORE 5/ff=RLIMIT_RSS \
6/ff=RLIMIT_NPROC 7/ff=RLIMIT_NOFILE 8/ff=RLIMIT_MEMLOCK 9/ff=RLIMIT_AS a/ff=RLIMIT_LOCKS \
b/ff=RLIMIT_SIGPENDING c/ff=RLIMIT_MSGQUEUE d/ff=RLIMIT_NICE e/ff=RLIMIT_RTPRIO f/ff=RLIMIT_RTTIME
who 0/ffffffff=RUSAGE_SELF 1/ffffffff=RUSAGE_THREAD ffffffff/ffffffff=RUSAGE_CHILDREN
clock 0/ffffffff=CLOCK_REALTIME 1/ffffffff=CLOCK_MONOTONIC 2/ffffffff=CLOCK_PROCESS_CPUTIME_ID \
3/ffffffff=CLOCK_THREAD_CPUTIME_ID 4/ffffffff=CLOCK_MONOTONIC_RAW 5/ffffffff=CLOCK_REALTIME_COARSE \
6/ffffffff=CLOCK_MONOTONIC_COARSE 7/ffffffff=CLOCK_BOOTTIME b/ffffffff=CLOCK_TAI
timer 1=TIMER_ABSTIME
itimer 0/ffffffff=ITIMER_REAL 1/ffffffff=ITIMER_VIRTUAL 2/ffffffff=ITIMER_PROF
epoll 1/ffffffff=EPOLL_CTL_ADD 2/ffffffff=EPOLL_CTL_DEL 3/ffffffff=EPOLL_CTL_MOD
epflags 80000=EPOLL_CLOEXEC
events 1=EPOLLIN 2=EPOLLPRI 4=EPOLLOUT 8=EPOLLERR 10=EPOLLHUP 40=EPOLLRDNORM 100=EPOLLWRNORM 2000=EPOLLRDHUP \
10000000=EPOLLEXCLUSIVE 40000000=EPOLLONESHOT 80000000=EPOLLET
polls 1=POLLIN 2=POLLPRI 4=POLLOUT 8=POLLERR 10=POLLHUP 20=POLLNVAL 40=POLLRDNORM 100=POLLWRNORM 2000=POLLRDHUP
eventfd 1=EFD_SEMAPHORE 800=EFD_NONBLOCK 80000=EFD_CLOEXEC
timerfd 800=TFD_NONBLOCK 80000=TFD_CLOEXEC
random 1=GRND_NONBLOCK 2=GRND_RANDOM
rename 1=RENAME_NOREPLACE 2=RENAME_EXCHANGE 4=RENAME_WHITEOUT
flock 1/b=LOCK_SH 2/b=LOCK_EX 8/b=LOCK_UN 4=LOCK_NB
fadvise 0/ff=POSIX_FADV_NORMAL 1/ff=POSIX_FADV_RANDOM 2/ff=POSIX_FADV_SEQUENTIAL 3/ff=POSIX_FADV_WILLNEED \
4/ff=POSIX_FADV_DONTNEED 5/ff=POSIX_FADV_NOREUSE
lock 1=MCL_CURRENT 2=MCL_FUTURE 4=MCL_ONFAULT
rseq 1=RSEQ_FLAG_UNREGISTER
type 1000/f000=S_IFIFO 2000/f000=S_IFCHR 4000/f000=S_IFDIR 6000/f000=S_IFBLK 8000/f000=S_IFREG a000/f000=S_IFLNK \
c000/f000=S_IFSOCK
";

/// Calls of x86-64 from 0 on (`asm/unistd_64.h`).
const CALLS: &str = "\
read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction \
rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield \
mremap msync mincore madvise shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer \
getpid sendfile socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind listen \
getsockname getpeername socketpair setsockopt getsockopt clone fork vfork execve exit wait4 kill \
uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock fsync fdatasync truncate \
ftruncate getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink readlink chmod \
fchmod chown fchown lchown umask gettimeofday getrlimit getrusage sysinfo times ptrace getuid syslog \
getgid setuid setgid geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups \
setgroups setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset \
rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod uselib \
personality ustat statfs fstatfs sysfs getpriority setpriority sched_setparam sched_getparam \
sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min \
sched_rr_get_interval mlock munlock mlockall munlockall vhangup modify_ldt pivot_root _sysctl prctl \
arch_prctl adjtimex setrlimit chroot sync acct settimeofday mount umount2 swapon swapoff reboot \
sethostname setdomainname iopl ioperm create_module init_module delete_module get_kernel_syms \
query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security gettid readahead \
setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr \
removexattr lremovexattr fremovexattr tkill time futex sched_setaffinity sched_getaffinity \
set_thread_area io_setup io_destroy io_getevents io_submit io_cancel get_thread_area lookup_dcookie \
epoll_create epoll_ctl_old epoll_wait_old remap_file_pages getdents64 set_tid_address \
restart_syscall semtimedop fadvise64 timer_create timer_settime timer_gettime timer_getoverrun \
timer_delete clock_settime clock_gettime clock_getres clock_nanosleep exit_group epoll_wait \
epoll_ctl tgkill utimes vserver mbind set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend \
mq_timedreceive mq_notify mq_getsetattr kexec_load waitid add_key request_key keyctl ioprio_set \
ioprio_get inotify_init inotify_add_watch inotify_rm_watch migrate_pages openat mkdirat mknodat \
fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat fchmodat faccessat \
pselect6 ppoll unshare set_robust_list get_robust_list splice tee sync_file_range vmsplice \
move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate timerfd_settime \
timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev \
rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at \
open_by_handle_at clock_adjtime syncfs sendmmsg setns getcpu process_vm_readv process_vm_writev kcmp \
finit_module sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load \
bpf execveat userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc \
pkey_free statx io_pgetevents rseq";

/// The same from 424 on.
const LATE_CALLS: &str = "\
pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen \
fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise \
epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule \
landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack \
futex_wake futex_wait futex_requeue statmount listmount lsm_get_self_attr lsm_set_self_attr \
lsm_list_modules mseal setxattrat getxattrat listxattrat removexattrat open_tree_attr";

/// Errors from 1 on (`asm-generic/errno.h`).
const ERRORS: &str = "\
EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK \
EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE \
EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM \
ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT \
- EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO EMULTIHOP \
EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ \
ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT \
ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH \
ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT \
ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM \
EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED \
EOWNERDEAD ENOTRECOVERABLE ERFKILL -";

/// Signals from 1 on, without `SIG`.
const SIGNALS: &str = "\
HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP \
TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";

/// Name of call `number`.
pub(crate) fn call(number: u64) -> Option<&'static str> {
    const LATE: u64 = 424;
    match number.checked_sub(LATE) {
        Some(late) => nth(LATE_CALLS, late),
        None => nth(CALLS, number),
    }
}

/// Name of an error.
pub(super) fn error(number: u64) -> Option<&'static str> {
    nth(ERRORS, number.wrapping_sub(1))
}

/// Name of a signal, without `SIG`.
fn signal_word(number: u64) -> String {
    match (nth(SIGNALS, number.wrapping_sub(1)), number) {
        (Some(name), _) => name.to_owned(),
        (None, 32) => "RTMIN".to_owned(),
        (None, 33..=64) => format!("RT_{}", number - 32),
        (None, _) => number.to_string(),
    }
}

/// Name of a signal.
pub(super) fn signal(number: u64) -> String {
    let word = signal_word(number);
    if (1..=64).contains(&number) {
        format!("SIG{word}")
    } else {
        word
    }
}

/// The signals of a mask, as a list: of those that are missing, if those are fewer.
pub(super) fn signals(mask: u64) -> String {
    let (sign, shown) = if mask.count_ones() > 32 {
        ("~", !mask)
    } else {
        ("", mask)
    };
    let words = (1..=64).filter(|signal| shown >> (signal - 1) & 1 != 0);
    let words: Vec<String> = words.map(signal_word).collect();
    format!("{sign}[{}]", words.join(" "))
}

/// `value` in the words of `set`; what has no name is in hexadecimal.
pub(super) fn flags(set: &str, value: u64) -> String {
    let mut text = String::new();
    let mut rest = value;
    for (bits, mask, name) in items(set) {
        let is_there = if mask == bits {
            bits != 0 && rest & bits == bits
        } else {
            value & mask == bits
        };
        if is_there {
            rest &= !mask;
            let separator = if text.is_empty() { "" } else { "|" };
            let _ = write!(text, "{separator}{name}");
        }
    }
    match (text.is_empty(), rest) {
        (true, 0) => text.push('0'),
        (true, _) => text = format!("{rest:#x}"),
        (false, 0) => {}
        (false, _) => {
            let _ = write!(text, "|{rest:#x}");
        }
    }
    text
}

fn items(set: &str) -> impl Iterator<Item = (u64, u64, &'static str)> {
    let line = SETS.lines().find_map(|line| {
        let (name, items) = line.split_once(' ')?;
        (name == set).then_some(items)
    });
    line.unwrap_or_default().split(' ').filter_map(|item| {
        let (value, name) = item.split_once('=')?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        let (bits, mask) = match value.split_once('/') {
            Some((bits, mask)) => (number(bits)?, number(mask)?),
            None => (number(value)?, number(value)?),
        };
        Some((bits, mask, name))
    })
}

/// True if there is a set of this name.
#[cfg(test)]
pub(super) fn is_set(set: &str) -> bool {
    items(set).next().is_some()
}

fn nth(words: &'static str, at: u64) -> Option<&'static str> {
    let word = words.split(' ').nth(usize::try_from(at).ok()?)?;
    (word != "-").then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::table;

    #[test]
    fn calls_have_the_names_of_the_table() {
        for served in table::calls() {
            assert_eq!(call(served.number), Some(served.name));
        }
        assert_eq!(call(425), Some("io_uring_setup"));
        assert_eq!(
            [call(335), call(423), call(5000), call(u64::MAX)],
            [None; 4]
        );
    }

    #[test]
    fn errors_and_signals_have_their_numbers() {
        for (number, name) in [
            (libc::ENOENT, "ENOENT"),
            (libc::ENOSYS, "ENOSYS"),
            (libc::ENOTCONN, "ENOTCONN"),
            (libc::EOWNERDEAD, "EOWNERDEAD"),
        ] {
            assert_eq!(error(number as u64), Some(name));
        }
        assert_eq!(signal(libc::SIGUSR2 as u64), "SIGUSR2");
        assert_eq!(signal(libc::SIGSYS as u64), "SIGSYS");
        assert_eq!(
            (signal(32), signal(33), signal(70)),
            ("SIGRTMIN".into(), "SIGRT_1".into(), "70".into())
        );
        assert_eq!(signals(1 << 1 | 1 << 14), "[INT TERM]");
        assert_eq!(signals(!(1 << 8)), "~[KILL]");
    }

    #[test]
    fn flags_are_told_by_name() {
        for (set, value, words) in [
            ("open", 0, "O_RDONLY"),
            ("open", 0x8_0041, "O_WRONLY|O_CREAT|O_CLOEXEC"),
            ("open", 0x1000_0002, "O_RDWR|0x10000000"),
            ("prot", 0, "PROT_NONE"),
            ("prot", 3, "PROT_READ|PROT_WRITE"),
            ("map", 0x22, "MAP_PRIVATE|MAP_ANONYMOUS"),
            ("at", 0, "0"),
            ("at", 0x8_0000, "0x80000"),
            ("ioctl", 0x5413, "TIOCGWINSZ"),
            ("futex", 0x81, "FUTEX_WAKE|FUTEX_PRIVATE_FLAG"),
            ("no such set", 5, "0x5"),
        ] {
            assert_eq!(flags(set, value), words);
        }
    }
}
