//! What each filter answers, asked as the kernel does.

use super::super::bpf::tests::answer;
use super::super::own::Reach;
use super::super::own::policy::policy;
use super::super::{THREAD, tracer};
use super::*;

const OWN: u32 = 4711;
const NUMBERS: tracer::Numbers = tracer::Numbers {
    guest: OWN,
    watched: 77,
    own: 4700,
};
const SECRET: [u32; 2] = [0xdead_beef, 0x0bad_cafe];

fn given(files: bool, network: bool, scoped: bool) -> Given {
    Given {
        files,
        network,
        scoped,
        limited: Limited::default(),
        own: OWN,
        memory: Verdict::Trace,
        secret: SECRET,
    }
}

fn asked(files: bool, name: &str, arguments: [u64; 6]) -> Verdict {
    asked_with(given(files, false, true), name, arguments)
}

fn asked_with(given: Given, name: &str, arguments: [u64; 6]) -> Verdict {
    let call = table::calls().find(|call| call.name == name).unwrap();
    answer(
        &guest_policy(given).program(),
        call.number as u32,
        arguments,
    )
}

#[test]
fn sockets_reach_no_name_of_the_host() {
    let none = Verdict::Refused(libc::EAFNOSUPPORT);
    let (unix, inet, netlink) = (1, 2, 16);
    for (network, scoped, family, expected) in [
        (false, true, unix, none),
        (false, true, inet, none),
        (true, true, unix, Verdict::Allow),
        (true, false, unix, none),
        (true, false, inet, Verdict::Allow),
        (false, true, netlink, none),
        (true, true, netlink, Verdict::Allow),
    ] {
        let found = asked_with(
            given(true, network, scoped),
            "socket",
            [family, 1, 0, 0, 0, 0],
        );
        assert_eq!(found, expected, "{network} {scoped} {family}");
    }
    let audit = asked_with(given(true, true, true), "socket", [netlink, 3, 9, 0, 0, 0]);
    assert_eq!(audit, none);
    let (stream, datagram, raw, packets) = (1, 2, 3, 5);
    let close = libc::SOCK_CLOEXEC as u64;
    let refused = Verdict::Refused(libc::ESOCKTNOSUPPORT);
    for (files, scoped, family, kind, expected) in [
        (false, true, unix, stream | close, Verdict::Allow),
        (false, true, unix, packets, Verdict::Allow),
        (false, true, unix, datagram | close, refused),
        (false, true, unix, raw, refused),
        (true, false, unix, datagram, refused),
        (true, true, unix, datagram, refused),
        (true, true, inet, stream, none),
    ] {
        let given = given(files, false, scoped);
        let found = asked_with(given, "socketpair", [family, kind, 0, 0, 0, 0]);
        assert_eq!(found, expected, "{files} {scoped} {family} {kind}");
    }
}

#[test]
fn sockets_are_of_known_protocols() {
    let refused = Verdict::Refused;
    let (stream, datagram, packets, dccp) = (1, 2, 5, 6);
    let close = libc::SOCK_CLOEXEC as u64;
    for (kind, protocol, expected) in [
        (stream | close, 0, Verdict::Allow),
        (stream, 6, Verdict::Allow),
        (stream, 262, Verdict::Allow),
        (datagram, 17, Verdict::Allow),
        (datagram, 58, Verdict::Allow),
        (datagram, 136, refused(libc::EPROTONOSUPPORT)),
        (stream, 132, refused(libc::EPROTONOSUPPORT)),
        (stream, 256, refused(libc::EPROTONOSUPPORT)),
        (packets, 0, refused(libc::ESOCKTNOSUPPORT)),
        (dccp | close, 0, refused(libc::ESOCKTNOSUPPORT)),
    ] {
        for family in [2, 10] {
            let arguments = [1 << 32 | family, kind, 1 << 32 | protocol, 0, 0, 0];
            let found = asked_with(given(true, true, true), "socket", arguments);
            assert_eq!(found, expected, "{family} {kind} {protocol}");
            let served = crate::network::is_socket(family as u32, kind as u32, protocol as u32);
            assert_eq!(served.is_ok(), expected == Verdict::Allow);
        }
    }
}

#[test]
fn without_a_network_no_address_is_named() {
    let refused = Verdict::Errno(libc::EACCES);
    for (name, arguments, expected) in [
        ("connect", [0, 1, 16, 0, 0, 0], refused),
        ("bind", [0, 1, 16, 0, 0, 0], refused),
        ("listen", [0, 1, 0, 0, 0, 0], refused),
        ("sendto", [0, 1, 1, 0, 1 << 32, 16], refused),
        ("sendto", [0, 1, 1, 0, 0, 0], Verdict::Allow),
        ("sendmsg", [0, 1, 0x4040, 0, 0, 0], Verdict::Allow),
        ("sendmsg", [0, 1, 0x2000_0040, 0, 0, 0], refused),
        ("sendmmsg", [0, 1, 0x2000_0000, 0, 0, 0], Verdict::Allow),
        ("sendmmsg", [0, 1, 1, 0x2000_0000, 0, 0], refused),
    ] {
        assert_eq!(asked(true, name, arguments), expected, "{name}");
    }
    for (reach, expected) in [
        (Reach::Files, Verdict::Kill),
        (Reach::Network, Verdict::Allow),
    ] {
        let program = policy(reach, OWN).program();
        for call in [
            libc::SYS_socket,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_connect,
        ] {
            let found = answer(&program, call as u32, [2, 1, 0, 0, 0, 0]);
            assert_eq!(found, expected, "{reach:?} {call}");
        }
    }
    let program = policy(Reach::Network, OWN).program();
    let packets = libc::AF_PACKET as u64;
    let found = answer(&program, libc::SYS_socket as u32, [packets, 3, 0, 0, 0, 0]);
    assert_eq!(found, Verdict::Kill);
}

#[test]
fn only_threads_are_started() {
    let flags = |flags: u64| asked(true, "clone", [flags, 0, 0, 0, 0, 0]);
    for (name, thread) in [
        ("glibc", 0x3d_0f00),
        ("musl", 0x7d_0f00),
        ("go", 0x5_0f00),
        ("upper half", 1 << 32 | 0x5_0f00),
    ] {
        assert_eq!(flags(thread), Verdict::Trace, "{name}");
    }
    for (name, process) in [("fork", 17), ("vfork", 0x4111), ("new user", 0x1000_0000)] {
        assert_eq!(flags(process), Verdict::Refused(libc::ENOSYS), "{name}");
    }
    for (name, odd) in [
        ("untraced", 0x80_0000),
        ("traced by another", 0x2000),
        ("sibling", 0x8000),
        ("vfork", 0x4000),
        ("new mounts", 0x2_0000),
        ("new user", 0x1000_0000),
        ("new time", 0x80),
        ("signal", 17),
    ] {
        let found = flags(0x3d_0f00 | odd);
        assert_eq!(found, Verdict::Refused(libc::EINVAL), "{name}");
    }
    let own_files = flags(0x3d_0f00 & !0x400);
    assert_eq!(own_files, Verdict::Refused(libc::EINVAL));
    for call in [
        "fork", "vfork", "clone3", "execve", "ptrace", "setns", "unshare",
    ] {
        let known = table::calls().find(|known| known.name == call);
        let served = known
            .is_some_and(|known| ![Process::Starts, Process::Unserved].contains(&known.process));
        assert!(!served, "{call}");
    }
}

#[test]
fn the_tracer_opens_and_starts_nothing() {
    let program = tracer::policy(NUMBERS, Limited::default()).program();
    let ask = |call: i64, arguments| answer(&program, call as u32, arguments);
    for call in [
        libc::SYS_openat,
        libc::SYS_execve,
        libc::SYS_clone,
        libc::SYS_socket,
    ] {
        assert_eq!(ask(call, [0; 6]), Verdict::Kill, "{call}");
    }
    let of = |first: u64| [first, 0, 0, 0, 0, 0];
    let own = u64::from(OWN);
    assert_eq!(ask(libc::SYS_kill, of(own)), Verdict::Allow);
    assert_eq!(ask(libc::SYS_kill, of(1)), Verdict::Kill);
    let (watched, first) = (u64::from(NUMBERS.watched), u64::from(NUMBERS.own));
    for (call, number) in [
        (libc::SYS_pidfd_send_signal, watched),
        (libc::SYS_tgkill, first),
    ] {
        assert_eq!(ask(call, of(number)), Verdict::Allow);
        assert_eq!(ask(call, of(number + 1)), Verdict::Kill);
    }
    let seize = u64::from(libc::PTRACE_SEIZE);
    assert_eq!(ask(libc::SYS_ptrace, of(seize)), Verdict::Kill);
    let thread = [own, THREAD.into(), 0, 0, 0, 0];
    assert_eq!(ask(libc::SYS_pidfd_open, thread), Verdict::Allow);
    assert_eq!(ask(libc::SYS_pidfd_open, of(own)), Verdict::Kill);
    assert_eq!(ask(libc::SYS_mmap, [0, 1, 7, 0x22, 0, 0]), Verdict::Kill);
}

#[test]
fn no_call_outside_the_table_passes() {
    for files in [true, false] {
        let program = guest_policy(given(files, false, true)).program();
        for number in (0..1000).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
            let known = table::calls().any(|call| call.number == u64::from(number));
            let found = answer(&program, number, [0; 6]);
            assert!(
                known || found == Verdict::Refused(libc::ENOSYS),
                "{number}: {found:?}"
            );
        }
    }
}

/// A guest that does not know what to say waits for nobody.
#[test]
fn only_the_tracer_has_a_guest_wait() {
    let [first, second] = SECRET.map(u64::from);
    let ask = |files, first, second| {
        let program = guest_policy(given(files, false, true)).program();
        answer(&program, MARK, [first, second, 0, 0, 0, 0])
    };
    let refused = Verdict::Refused(libc::ENOSYS);
    assert_eq!(ask(false, first, second), Verdict::Wait);
    assert_eq!(ask(false, first, second + 1), refused);
    assert_eq!(ask(false, second, second), refused);
    assert_eq!(ask(true, first, second), Verdict::Wait);
    assert_eq!(ask(true, second, first), refused);
    assert!(table::calls().all(|call| call.number != u64::from(MARK)));
}

#[test]
fn without_a_grant_no_call_takes_a_path_to_the_kernel() {
    for call in table::calls() {
        use Process::{Create, CreateAnew, Files, FilesOrEmpty, FilesOrUnserved, Look, PathMode};
        let names_files = matches!(
            call.process,
            Files
                | Look
                | FilesOrEmpty
                | FilesOrUnserved
                | PathMode(_)
                | Create { .. }
                | CreateAnew { .. }
        );
        if names_files {
            // `AT_EMPTY_PATH` lets a path that is not empty through as well.
            for flags in [0, libc::AT_EMPTY_PATH as u64] {
                let found = asked(false, call.name, [0, 1, flags, flags, flags, 0]);
                assert_ne!(found, Verdict::Allow, "{call:?}");
            }
        }
    }
}

#[test]
fn arguments_are_looked_at() {
    let allow = Verdict::Allow;
    let error = Verdict::Errno;
    let refused = Verdict::Refused;
    let own = u64::from(OWN);
    for (name, arguments, expected) in [
        ("kill", [own, 9, 0, 0, 0, 0], allow),
        ("kill", [1, 9, 0, 0, 0, 0], error(libc::ESRCH)),
        ("kill", [0, 9, 0, 0, 0, 0], Verdict::Trace),
        ("kill", [own.wrapping_neg(), 9, 0, 0, 0, 0], Verdict::Trace),
        ("kill", [u64::MAX, 9, 0, 0, 0, 0], error(libc::ESRCH)),
        ("prlimit64", [0, 2, 0, 1, 0, 0], allow),
        ("prlimit64", [own, 2, 0, 1, 0, 0], allow),
        ("prlimit64", [1, 2, 0, 1, 0, 0], Verdict::Trace),
        ("prlimit64", [0, 2, 1 << 32, 0, 0, 0], allow),
        ("prlimit64", [0, 3, 0, 1, 0, 0], allow),
        ("prlimit64", [0, 3, 1 << 32, 0, 0, 0], Verdict::Trace),
        ("prlimit64", [own, 3, 1 << 32, 0, 0, 0], Verdict::Trace),
        ("prlimit64", [1, 7, 1 << 32, 0, 0, 0], Verdict::Trace),
        ("setrlimit", [2, 1, 0, 0, 0, 0], allow),
        ("setrlimit", [3, 1, 0, 0, 0, 0], Verdict::Trace),
        ("setrlimit", [4, 1, 0, 0, 0, 0], Verdict::Trace),
        ("getrlimit", [3, 1, 0, 0, 0, 0], allow),
        ("getrlimit", [4, 1, 0, 0, 0, 0], Verdict::Trace),
        ("prlimit64", [0, 4, 0, 1, 0, 0], Verdict::Trace),
        ("prlimit64", [own, 4, 1 << 32, 0, 0, 0], Verdict::Trace),
        ("mmap", [0, 1, 3, 0x22, 0, 0], Verdict::Trace),
        ("mmap", [0, 1, 3, 1, 0, 0], Verdict::Trace),
        ("mmap", [0, 1, 0, 0x22, 0, 0], allow),
        ("mmap", [0, 1, 0, 0x01, 3, 0], Verdict::Trace),
        ("mmap", [0, 1, 1, 0x22, 0, 0], Verdict::Trace),
        ("mmap", [0, 1, 5, 2, 0, 0], Verdict::Trace),
        ("mmap", [1 << 32, 1, 3, 0x22, 0, 0], Verdict::Trace),
        ("mremap", [0, 1, 2, 1, 0, 0], Verdict::Trace),
        ("mremap", [0, 1, 2, 3, 0, 0], Verdict::Trace),
        ("mremap", [0, 1, 2, 5, 0, 0], refused(libc::EINVAL)),
        ("mmap", [0, 1, 3, 0x21, 0, 0], Verdict::Trace),
        ("mmap", [0, 1, 3, 0x23, 0, 0], Verdict::Trace),
        ("mmap", [0, 1, 3, 0x122, 0, 0], Verdict::Trace),
        ("mmap", [0, 1, 3, 0x4_0022, 0, 0], Verdict::Trace),
        ("mprotect", [0, 1, 3, 0, 0, 0], Verdict::Trace),
        ("mprotect", [0, 1, 5, 0, 0, 0], Verdict::Trace),
        ("mprotect", [0, 1, 0, 0, 0, 0], Verdict::Trace),
        ("madvise", [0, 1, 4, 0, 0, 0], allow),
        ("madvise", [0, 1, 9, 0, 0, 0], allow),
        ("madvise", [0, 1, 12, 0, 0, 0], refused(libc::EINVAL)),
        ("futex", [0, 0x189, 0, 0, 0, 0], allow),
        ("futex", [0, 0x86, 0, 0, 0, 0], allow),
        ("futex", [0, 2, 0, 0, 0, 0], refused(libc::ENOSYS)),
        ("arch_prctl", [0x1002, 0, 0, 0, 0, 0], allow),
        ("arch_prctl", [0x5001, 0, 0, 0, 0, 0], refused(libc::EINVAL)),
        ("prctl", [15, 0, 0, 0, 0, 0], Verdict::Trace),
        ("prctl", [16, 0, 0, 0, 0, 0], Verdict::Trace),
        ("ioctl", [0, 0x540f, 1, 0, 0, 0], Verdict::Trace),
        ("ioctl", [0, 0x5413, 1, 0, 0, 0], allow),
        ("ioctl", [0, 0x5410, 1, 0, 0, 0], refused(libc::ENOTTY)),
        ("mknod", [1, 0o10644, 0, 0, 0, 0], allow),
        ("mknod", [1, 0o140_644, 0, 0, 0, 0], allow),
        ("mknod", [1, 0o20644, 0, 0, 0, 0], error(libc::EPERM)),
        ("mknodat", [3, 1, 0o60644, 0, 0, 0], error(libc::EPERM)),
        ("mknodat", [3, 1, 0o14644, 0, 0, 0], refused(libc::EPERM)),
        ("setsid", [0; 6], Verdict::Trace),
        ("setpriority", [0; 6], Verdict::Trace),
        ("sched_setscheduler", [0; 6], Verdict::Trace),
        ("getdents64", [3, 1, 64, 0, 0, 0], Verdict::Trace),
        ("creat", [1, 0o644, 0, 0, 0, 0], Verdict::Trace),
        ("creat", [1, 0o4755, 0, 0, 0, 0], refused(libc::EPERM)),
        ("fcntl", [0, 8, 0, 0, 0, 0], refused(libc::EINVAL)),
        ("close_range", [3, 9, 4, 0, 0, 0], allow),
        ("close_range", [3, 9, 2, 0, 0, 0], Verdict::Trace),
        ("close_range", [3, 9, 6, 0, 0, 0], Verdict::Trace),
        ("fcntl", [0, 4, 0o2000, 0, 0, 0], allow),
        ("fcntl", [0, 4, 0o22000, 0, 0, 0], refused(libc::EINVAL)),
        ("fcntl", [0, 3, 0o22000, 0, 0, 0], allow),
        ("sched_getaffinity", [0, 8, 1, 0, 0, 0], Verdict::Trace),
        ("sched_getscheduler", [own, 0, 0, 0, 0, 0], Verdict::Trace),
        ("get_robust_list", [0; 6], allow),
        ("get_robust_list", [own, 0, 0, 0, 0, 0], allow),
        ("get_robust_list", [1, 0, 0, 0, 0, 0], Verdict::Trace),
        ("tkill", [own, 9, 0, 0, 0, 0], Verdict::Trace),
        ("tgkill", [own, 1, 9, 0, 0, 0], allow),
        ("tgkill", [1, 1, 9, 0, 0, 0], error(libc::ESRCH)),
        ("tgkill", [0, 1, 9, 0, 0, 0], allow),
        ("tgkill", [u64::MAX, 1, 9, 0, 0, 0], allow),
        ("rt_sigqueueinfo", [0, 9, 1, 0, 0, 0], allow),
        ("rt_sigqueueinfo", [1, 9, 1, 0, 0, 0], error(libc::ESRCH)),
        ("rt_tgsigqueueinfo", [1, 1, 9, 0, 0, 0], error(libc::ESRCH)),
        ("rt_sigqueueinfo", [1, 9, 0, 0, 0, 0], error(libc::ESRCH)),
        ("clock_gettime", [1, 0, 0, 0, 0, 0], allow),
        (
            "clock_gettime",
            [0xffff_fffe, 0, 0, 0, 0, 0],
            Verdict::Trace,
        ),
        ("timer_create", [u64::MAX, 0, 0, 0, 0, 0], Verdict::Trace),
        (
            "ioctl",
            [0, libc::TIOCSTI, 0, 0, 0, 0],
            refused(libc::ENOTTY),
        ),
        ("open", [0, 0o102, 0o644, 0, 0, 0], Verdict::Trace),
        ("open", [0, 0o102, 0o4755, 0, 0, 0], refused(libc::EPERM)),
        ("open", [0, 2, 0o4755, 0, 0, 0], Verdict::Trace),
        ("openat", [0, 0, 0o100, 0o2755, 0, 0], refused(libc::EPERM)),
        (
            "openat",
            [0, 0, 0o20_200_001, 0o4700, 0, 0],
            refused(libc::EPERM),
        ),
        ("fchmod", [3, 0o755, 0, 0, 0, 0], Verdict::Trace),
        ("fchmod", [3, 0o4755, 0, 0, 0, 0], refused(libc::EPERM)),
        ("uname", [0; 6], Verdict::Trace),
        ("fcntl", [0, 1031, 4096, 0, 0, 0], Verdict::Trace),
        ("fcntl", [0, 1033, 1, 0, 0, 0], refused(libc::EINVAL)),
        ("setsockopt", [3, 1, 13, 9, 8, 0], allow),
        (
            "setsockopt",
            [3, 1, 26, 9, 16, 0],
            refused(libc::ENOPROTOOPT),
        ),
        (
            "getsockopt",
            [3, 1, 26, 9, 9, 0],
            refused(libc::ENOPROTOOPT),
        ),
        (
            "getsockopt",
            [3, 1, 77, 9, 9, 0],
            refused(libc::ENOPROTOOPT),
        ),
        (
            "setsockopt",
            [3, 6, 31, 9, 8, 0],
            refused(libc::ENOPROTOOPT),
        ),
        ("renameat2", [3, 1, 3, 1, 2, 0], allow),
        ("renameat2", [3, 1, 3, 1, 4, 0], refused(libc::EINVAL)),
        ("linkat", [3, 1, 3, 1, 0x1000, 0], refused(libc::EINVAL)),
        ("fchmodat2", [1, 1, 0o644, 0, 0, 0], allow),
        ("fchmodat2", [1, 1, 0o644, 0x1000, 0, 0], Verdict::Trace),
        (
            "fchmodat2",
            [1, 1, 0o4644, 0x1000, 0, 0],
            refused(libc::EPERM),
        ),
        ("fchownat", [1, 1, 0, 0, 0x1100, 0], Verdict::Trace),
        ("utimensat", [1, 0, 0, 0, 0, 0], Verdict::Trace),
        ("utimensat", [1, 1 << 32, 0, 0, 0, 0], allow),
    ] {
        let found = asked(true, name, arguments);
        assert_eq!(found, expected, "{name} {arguments:x?}");
    }
    assert_eq!(
        asked(false, "fchmod", [1, 0o755, 0, 0, 0, 0]),
        error(libc::EPERM)
    );
}

#[test]
fn the_monitor_makes_no_memory_executable() {
    for reach in [Reach::Files, Reach::Nothing] {
        let program = policy(reach, OWN).program();
        let ask = |call: i64, arguments| answer(&program, call as u32, arguments);
        assert_eq!(ask(libc::SYS_mmap, [0, 1, 3, 0x22, 0, 0]), Verdict::Allow);
        assert_eq!(ask(libc::SYS_mmap, [0, 1, 7, 0x22, 0, 0]), Verdict::Kill);
        assert_eq!(ask(libc::SYS_mprotect, [0, 1, 4, 0, 0, 0]), Verdict::Kill);
        assert_eq!(
            ask(libc::SYS_ioctl, [0, 0xae80, 0, 0, 0, 0]),
            Verdict::Allow
        );
        assert_eq!(ask(libc::SYS_ioctl, [0, 0xae41, 0, 0, 0, 0]), Verdict::Kill);
        assert_eq!(ask(libc::SYS_execve, [0; 6]), Verdict::Kill);
        let opens = ask(libc::SYS_openat, [0; 6]);
        assert_eq!(opens == Verdict::Allow, reach == Reach::Files);
        assert_eq!(ask(libc::SYS_socket, [1, 1, 0, 0, 0, 0]), Verdict::Kill);
        let read = |process| ask(libc::SYS_process_vm_readv, [process, 0, 1, 0, 1, 0]);
        assert_eq!(read(OWN.into()), Verdict::Allow);
        assert_eq!(read(1), Verdict::Kill);
        assert_eq!(ask(libc::SYS_prlimit64, [0, 9, 1, 0, 0, 0]), Verdict::Kill);
        assert_eq!(ask(libc::SYS_prlimit64, [1, 7, 1, 0, 0, 0]), Verdict::Kill);
        assert_eq!(ask(libc::SYS_prlimit64, [0, 7, 1, 0, 0, 0]), Verdict::Allow);
    }
}

#[test]
fn memory_that_the_tracer_need_not_count_is_the_kernel_s() {
    let given = Given {
        memory: Verdict::Allow,
        ..given(false, false, true)
    };
    for (name, arguments, expected) in [
        ("mmap", [0, 1, 3, 0x22, 0, 0], Verdict::Allow),
        ("mmap", [1 << 32, 1, 3, 0x12, 3, 0], Verdict::Allow),
        ("mmap", [0, 1, 3, 0x01, 3, 0], Verdict::Allow),
        ("mprotect", [0, 1, 3, 0, 0, 0], Verdict::Allow),
        // Pages of the pool stay where they are.
        ("mremap", [0, 1, 2, 1, 0, 0], Verdict::Trace),
        ("brk", [1 << 32, 0, 0, 0, 0, 0], Verdict::Allow),
        // What would count as nothing becomes what counts.
        ("mmap", [0, 1, 3, 0x21, 0, 0], Verdict::Trace),
        ("mmap", [0, 1, 3, 0x122, 0, 0], Verdict::Trace),
        ("mmap", [0, 1, 3, 0x4_0022, 0, 0], Verdict::Trace),
        ("mremap", [0, 1, 2, 5, 0, 0], Verdict::Refused(libc::EINVAL)),
    ] {
        assert_eq!(
            asked_with(given, name, arguments),
            expected,
            "{name} {arguments:?}"
        );
    }
}

#[test]
fn limits_have_addresses_looked_at() {
    let given = Given {
        limited: Limited {
            bind: true,
            connect: true,
        },
        ..given(true, true, true)
    };
    let refused = Verdict::Refused;
    for (name, arguments, expected) in [
        ("bind", [3, 1, 16, 0, 0, 0], Verdict::Trace),
        ("listen", [3, 1, 0, 0, 0, 0], Verdict::Trace),
        ("connect", [3, 1, 16, 0, 0, 0], Verdict::Trace),
        ("sendto", [3, 1, 1, 0, 1 << 32, 16], Verdict::Trace),
        ("sendto", [3, 1, 1, 0, 0, 0], Verdict::Allow),
        ("sendmsg", [3, 1, 0, 0, 0, 0], Verdict::Trace),
        ("sendmmsg", [3, 1, 1, 0, 0, 0], Verdict::Trace),
        // Its path would be another in the tracer's file system.
        ("socket", [1, 1, 0, 0, 0, 0], refused(libc::EAFNOSUPPORT)),
        ("socket", [2, 1, 0, 0, 0, 0], Verdict::Allow),
        (
            "socketpair",
            [1, 2, 0, 0, 0, 0],
            refused(libc::ESOCKTNOSUPPORT),
        ),
    ] {
        assert_eq!(asked_with(given, name, arguments), expected, "{name}");
    }
    for (limited, verdict) in [
        (given.limited, Verdict::Allow),
        (Limited::default(), Verdict::Kill),
    ] {
        let program = tracer::policy(NUMBERS, limited).program();
        let found = answer(&program, libc::SYS_connect as u32, [3, 1, 16, 0, 0, 0]);
        assert_eq!(found, verdict);
    }
}
