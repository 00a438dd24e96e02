//! What only the kernel can do to a process about to become a guest, and the jump.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::Pid;

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fork {
    /// The new process.
    Child,
    /// The old one; the child's number.
    Parent(Pid),
}

/// Forks. This process has one thread, so the child may go on as any program would.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: no other thread exists that could hold a lock across the fork.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid)
            .map(Fork::Parent)
            .ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// Dies with the parent; forgets the signal handlers and the signal stack of this program.
pub(super) fn forget_program() -> io::Result<()> {
    let none = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: plain values; resetting dispositions and the alternate stack touches no memory.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        for signal in 1..=64 {
            // Fails for SIGKILL, SIGSTOP and those that libc keeps: they have no handler here.
            libc::signal(signal, libc::SIG_DFL);
        }
        if libc::sigaltstack(&raw const none, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What lies behind a mapping at a fixed address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behind<'a> {
    /// Zeros.
    Nothing,
    /// A segment from this byte, shared and never writable.
    Shared(BorrowedFd<'a>, u64),
    /// A segment from this byte, copied on write.
    Private(BorrowedFd<'a>, u64),
}

/// Maps `length` bytes at `address`, where nothing may be mapped yet.
pub(super) fn map_at(
    address: u64,
    length: u64,
    protection: i32,
    behind: Behind<'_>,
) -> io::Result<()> {
    let fixed = libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE;
    let (flags, file, offset) = match behind {
        Behind::Nothing => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
        Behind::Shared(file, offset) => (libc::MAP_SHARED, file.as_raw_fd(), offset),
        Behind::Private(file, offset) => (libc::MAP_PRIVATE, file.as_raw_fd(), offset),
    };
    let wanted = address as *mut libc::c_void;
    // SAFETY: NOREPLACE: the kernel refuses if any of the range is in use, so no memory of this
    // program changes.
    let mapped = unsafe {
        libc::mmap(
            wanted,
            length as usize,
            protection,
            flags | fixed,
            file,
            offset as libc::off_t,
        )
    };
    if mapped == wanted {
        Ok(())
    } else if mapped == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Err(io::ErrorKind::AddrInUse.into())
    }
}

/// Changes the protection of memory that [`map_at`] made.
///
/// # Safety
/// `address..address + length` must be memory made by [`map_at`] alone.
pub(super) unsafe fn protect(address: u64, length: u64, protection: i32) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let result =
        unsafe { libc::mprotect(address as *mut libc::c_void, length as usize, protection) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks for 2 MiB pages behind memory that [`map_at`] made; only advice, so failing is nothing.
///
/// # Safety
/// `address..address + length` must be memory made by [`map_at`] alone.
pub(super) unsafe fn advise_huge(address: u64, length: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        libc::madvise(
            address as *mut libc::c_void,
            length as usize,
            libc::MADV_HUGEPAGE,
        );
    }
}

/// A view of guest memory made by [`map_at`], to be filled.
///
/// # Safety
/// `address..address + length` must be writable memory made by [`map_at`] alone, and no other view of it
/// may exist.
pub(super) unsafe fn bytes<'a>(address: u64, length: u64) -> &'a mut [u8] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(address as *mut u8, length as usize) }
}

/// Closes every descriptor but standard input, output and error.
///
/// # Safety
/// No owned descriptor may be used or dropped afterwards.
pub(super) unsafe fn close_all() {
    // SAFETY: the caller's promise.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
    }
}

/// Becomes the guest.
///
/// # Safety
/// `entry` must be the first instruction of a program mapped by [`map_at`], and `stack` its stack
/// pointer, laid out as the System V ABI says. Nothing of this program runs afterwards.
pub(super) unsafe fn jump(entry: u64, stack: u64) -> ! {
    // SAFETY: the caller's promise; RDX zero says that there is nothing to call at exit.
    unsafe {
        std::arch::asm!(
            "mov rsp, rcx",
            "xor ebx, ebx",
            "xor ecx, ecx",
            "xor edx, edx",
            "xor esi, esi",
            "xor edi, edi",
            "xor ebp, ebp",
            "xor r8d, r8d",
            "xor r9d, r9d",
            "xor r10d, r10d",
            "xor r11d, r11d",
            "xor r12d, r12d",
            "xor r13d, r13d",
            "xor r14d, r14d",
            "xor r15d, r15d",
            "cld",
            "jmp rax",
            in("rax") entry,
            in("rcx") stack,
            options(noreturn),
        )
    }
}
