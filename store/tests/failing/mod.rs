//! Calls that fail, as a disk or a quota makes them.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file includes it and uses a part"
)]

use std::ffi::{c_int, c_long};

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
};

/// Does `work` in a thread of its own in which every such call fails so.
pub fn while_failing<T: Send>(call: c_long, errno: c_int, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let failing = scope.spawn(|| {
            fail(call, errno);
            work()
        });
        failing.join().unwrap()
    })
}

/// Does `work` in a thread of its own that may use of files what everybody may.
#[allow(unsafe_code, reason = "there is no safe way to change a thread's user")]
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    const NOBODY: libc::uid_t = 65_534;
    std::thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            // SAFETY: it changes the credentials of this thread alone, which ends with it (setfsuid(2)).
            unsafe {
                libc::setfsgid(NOBODY);
                libc::setfsuid(NOBODY);
            }
            work()
        });
        nobody.join().unwrap()
    })
}

/// Makes a call of this thread fail for as long as it lives.
#[allow(unsafe_code, reason = "there is no safe way to install a filter")]
pub fn fail(call: c_long, errno: c_int) {
    let statement = |code: u32, k: u32, skip: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: skip,
        k,
    };
    let mut filter = [
        // The call's number (struct seccomp_data, seccomp(2)).
        statement(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        statement(BPF_JMP | BPF_JEQ | BPF_K, call as u32, 1),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno as u32, 0),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads the program, which lives until the calls have returned, and both
    // change this thread alone.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    assert!(done, "{}", std::io::Error::last_os_error());
}
