//! What only the kernel can do to a process about to become a guest, and the jump.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use pool_core::PAGE_SIZE;
use rustix::process::Pid;

use crate::vdso::Moved;

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

/// Dies with the parent, and takes back all that this program told the kernel of its own memory: signal
/// handlers and their stack, the list of locks, where to tell of the thread's end, and the area for
/// restartable sequences, without which the kernel would end the guest.
pub(super) fn forget_program() -> io::Result<()> {
    /// Bytes of `struct robust_list_head`.
    const LIST_HEAD: usize = 24;
    let none = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: plain values; resetting dispositions and the alternate stack touches no memory, and this
    // program's C library needs neither of the lists while it has one thread.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        for signal in 1..=64 {
            // Fails for SIGKILL, SIGSTOP and those that libc keeps: they have no handler here.
            let before = libc::signal(signal, libc::SIG_DFL);
            // As over an exec, what the starter has ignored stays ignored (`nohup`).
            if crate::descriptors::was_ignored(signal, before) {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
        if libc::sigaltstack(&raw const none, std::ptr::null_mut()) < 0
            || libc::syscall(libc::SYS_set_robust_list, 0, LIST_HEAD) < 0
        {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(libc::SYS_set_tid_address, 0);
    }
    forget_sequences()
}

/// Takes back the area for restartable sequences (rseq), which glibc names by its distance from the
/// thread pointer.
fn forget_sequences() -> io::Result<()> {
    // SAFETY: declared as in `sys/rseq.h` of glibc 2.35, which sets both before `main`.
    unsafe extern "C" {
        #[link_name = "__rseq_offset"]
        static OFFSET: isize;
        #[link_name = "__rseq_size"]
        static SIZE: libc::c_uint;
    }
    const UNREGISTER: libc::c_int = 1;
    const SIGNATURE: u32 = 0x5305_3053;
    // SAFETY: constants by now.
    let (offset, size) = unsafe { (OFFSET, SIZE) };
    if size == 0 {
        return Ok(());
    }
    let thread: usize;
    // SAFETY: the first word at the thread pointer holds its own address (System V ABI, TLS).
    unsafe {
        std::arch::asm!("mov {}, fs:[0]", out(reg) thread, options(nostack, readonly, preserves_flags));
    }
    let area = thread.wrapping_add_signed(offset);
    // glibc registers 32 bytes, or as many more as a later kernel asks for.
    for length in (32..=512).step_by(32) {
        // SAFETY: the kernel only compares the values with what was registered.
        let done = unsafe { libc::syscall(libc::SYS_rseq, area, length, UNREGISTER, SIGNATURE) };
        if done == 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}

/// What the kernel shall think lies where: `struct prctl_mm_map` of `linux/prctl.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) code: [u64; 2],
    pub(super) data: [u64; 2],
    /// Start and end of the heap (`brk`).
    pub(super) heap: [u64; 2],
    pub(super) stack: u64,
    /// Start and end of the strings that `ps` shows.
    pub(super) arguments: [u64; 2],
    pub(super) environment: [u64; 2],
    /// Address of the auxiliary vector, which the kernel copies.
    pub(super) auxiliary: u64,
    pub(super) auxiliary_length: u32,
    pub(super) executable: u32,
}

/// No other executable behind this process.
pub(super) const SAME_EXECUTABLE: u32 = u32::MAX;

/// Tells the kernel of `parts`, so that the heap grows behind the guest's image.
pub(super) fn describe(parts: &Parts) -> io::Result<()> {
    const PR_SET_MM: libc::c_int = 35;
    const PR_SET_MM_MAP: libc::c_ulong = 14;
    // SAFETY: the kernel reads the structure and the auxiliary vector, and checks all addresses.
    let result = unsafe {
        libc::prctl(
            PR_SET_MM,
            PR_SET_MM_MAP,
            std::ptr::from_ref(parts),
            size_of::<Parts>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
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

/// Moves the vdso to where the guest finds it. This process has none afterwards where its C library
/// thinks that it is, so it may not ask for the time but by [`Stamp::by_call`](crate::stamp::Stamp::by_call).
pub(super) fn move_vdso(to: &Moved) -> io::Result<()> {
    let all = to.all();
    // Nothing else is there, and now nothing can come there.
    map_at(
        all.start,
        all.end - all.start,
        libc::PROT_NONE,
        Behind::Nothing,
    )?;
    for (from, to) in to.from.iter().zip(&to.to) {
        let mut done = 0;
        while done < from.end - from.start {
            done += move_first(from.start + done..from.end, to.start + done)?;
        }
    }
    Ok(())
}

/// Moves the first mapping of `from`, how ever long it is, to `to`; its length. The kernel moves mappings of
/// its own whole or not at all, so the longest part that it moves is one.
fn move_first(from: Range<u64>, to: u64) -> io::Result<u64> {
    let pages = (from.end - from.start) / PAGE_SIZE;
    let mut refused = io::ErrorKind::InvalidInput.into();
    for length in (1..=pages).rev().map(|pages| pages * PAGE_SIZE) {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the range is the kernel's vdso, to which this program refers by its C library's clocks
        // alone, which the caller keeps from being used; at `to` is the room that the caller made.
        let moved = unsafe {
            libc::mremap(
                from.start as *mut libc::c_void,
                length as usize,
                length as usize,
                flags,
                to as *mut libc::c_void,
            )
        };
        if moved != libc::MAP_FAILED {
            return Ok(length);
        }
        refused = io::Error::last_os_error();
    }
    Err(refused)
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

/// Advises on memory that [`map_at`] made, of which nothing is lost by it; only advice, so failing is nothing.
///
/// # Safety
/// `address..address + length` must be memory made by [`map_at`] alone, and `advice` none that takes its content.
pub(super) unsafe fn advise(address: u64, length: u64, advice: i32) {
    // SAFETY: the caller's promise.
    unsafe { libc::madvise(address as *mut libc::c_void, length as usize, advice) };
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

/// Goes on at `address` with `secret` in R15, and never comes back.
///
/// # Safety
/// The code there must be what [`super::leave`] makes, mapped executable, and the plan it was made for
/// must be mapped. Nothing of this program runs afterwards.
pub(super) unsafe fn jump(address: u64, secret: u64) -> ! {
    // SAFETY: the caller's promise.
    unsafe { std::arch::asm!("jmp {}", in(reg) address, in("r15") secret, options(noreturn)) }
}

/// Nanoseconds that the threads of `process` have run.
pub(super) fn processor_time(process: Pid) -> u64 {
    // The clock of a process: the complement of its number, and two bits that say that all of its time counts.
    let clock = !process.as_raw_nonzero().get() << 3 | 2;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure; for a process that has ended it stays as it is.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Soft and hard limit number `number` of `process`.
pub(super) fn limit(process: Pid, number: u64) -> [u64; 2] {
    let mut limit = libc::rlimit64 {
        rlim_cur: u64::MAX,
        rlim_max: u64::MAX,
    };
    let process = process.as_raw_nonzero().get();
    // SAFETY: the kernel fills the structure, or leaves it as it is; nothing is set.
    unsafe { libc::prlimit64(process, number as u32, std::ptr::null(), &raw mut limit) };
    [limit.rlim_cur, limit.rlim_max]
}
