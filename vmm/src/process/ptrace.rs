//! What a tracer may do, as safe functions: no request here touches memory of this process but the
//! places that it fills.

use std::io;

use rustix::process::Pid;

use crate::trace::Peek;

pub(super) use libc::user_regs_struct as Registers;

/// `PTRACE_GETSIGMASK` and `PTRACE_SETSIGMASK` (`linux/ptrace.h`).
const GET_MASK: libc::c_uint = 0x420a;
const SET_MASK: libc::c_uint = 0x420b;

/// The arguments of a call.
pub(super) fn arguments(r: &Registers) -> [u64; 6] {
    [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
}

/// A thread of the guest, traced. A request to one that has died fails with `ESRCH`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tracee(pub(super) Pid);

/// How a stopped tracee goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// Runs, with this signal, if it is not zero, delivered.
    Run(i32),
    /// The same, to its next call.
    ToCall(i32),
    /// Runs to the end of the call that it is in.
    ToEndOfCall,
    /// Stays stopped, as its signal asked for, until it is told to continue.
    StayStopped,
}

/// Where a thread stopped that stops at calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stopped {
    /// It is about to make this call, behind this instruction.
    AtCall {
        number: u64,
        arguments: [u64; 6],
        instruction: u64,
    },
    /// Its call has returned this.
    Returned(i64),
}

/// What a signal is about that a thread has stopped for.
#[derive(Clone, Copy)]
pub(super) struct Info(libc::siginfo_t);

impl Info {
    /// The signal.
    pub(super) fn signal(&self) -> i32 {
        self.0.si_signo
    }

    /// Why it was sent (`si_code`): above zero by the kernel.
    pub(super) fn code(&self) -> i32 {
        self.0.si_code
    }

    /// Number and user of the process that sent it. Means something of what a process has sent alone.
    pub(super) fn sender(&self) -> (i32, u32) {
        // SAFETY: all bytes of the structure are the kernel's or zeros, and any are a number.
        unsafe { (self.0.si_pid(), self.0.si_uid()) }
    }

    /// Where a fault was. Means something of SIGSEGV and its like alone, if the code says that it was at an address.
    pub(super) fn address(&self) -> u64 {
        // SAFETY: as above; an address is read as a number.
        unsafe { self.0.si_addr() as u64 }
    }
}

impl Peek for Tracee {
    fn peek(&mut self, address: u64, into: &mut [u8]) -> usize {
        self.read(address, into).unwrap_or(0)
    }
}

impl Tracee {
    /// Becomes its tracer, and that of all threads that it starts: they die with this process, and ask
    /// where their filter says so.
    pub(super) fn seize(self) -> io::Result<()> {
        let options = libc::PTRACE_O_EXITKILL
            | libc::PTRACE_O_TRACESECCOMP
            | libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE;
        let data = options as usize as *mut libc::c_void;
        // SAFETY: PTRACE_SEIZE reads no memory of ours.
        let result = unsafe { self.request(libc::PTRACE_SEIZE, data) };
        done(result)
    }

    /// Lets it go on. If it is gone, the next wait says so.
    pub(super) fn resume(self, how: Resume) {
        let (request, signal) = match how {
            Resume::Run(signal) => (libc::PTRACE_CONT, signal),
            Resume::ToCall(signal) => (libc::PTRACE_SYSCALL, signal),
            Resume::ToEndOfCall => (libc::PTRACE_SYSCALL, 0),
            Resume::StayStopped => (libc::PTRACE_LISTEN, 0),
        };
        // SAFETY: none of the three reads or writes memory of ours.
        unsafe { self.request(request, signal as usize as *mut libc::c_void) };
    }

    /// Has it stop soon.
    pub(super) fn interrupt(self) -> io::Result<()> {
        // SAFETY: PTRACE_INTERRUPT reads no memory of ours.
        done(unsafe { self.request(libc::PTRACE_INTERRUPT, std::ptr::null_mut()) })
    }

    /// The call that it has stopped at or returned from.
    pub(super) fn call(self) -> io::Result<Stopped> {
        const ENTRY: u8 = 1;
        const EXIT: u8 = 2;
        // `struct ptrace_syscall_info` (linux/ptrace.h): the kind of stop, the instruction pointer, the stack
        // pointer; then the number and the arguments, or the result.
        let mut words = [0u64; 11];
        let size = std::mem::size_of_val(&words) as *mut libc::c_void;
        let into = words.as_mut_ptr();
        // SAFETY: the request fills at most as many bytes as it is told that there are.
        done(unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, self.pid(), size, into) })?;
        let mut arguments = [0; 6];
        arguments.copy_from_slice(&words[4..10]);
        let (instruction, first) = (words[1], words[3]);
        match words[0] as u8 {
            ENTRY => Ok(Stopped::AtCall {
                number: first,
                arguments,
                instruction,
            }),
            EXIT => Ok(Stopped::Returned(first.cast_signed())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Its registers.
    pub(super) fn registers(self) -> io::Result<Registers> {
        let mut registers = std::mem::MaybeUninit::<Registers>::zeroed();
        // SAFETY: the request fills the structure it is given; all zeros are a valid value of it.
        unsafe {
            let result = self.request(libc::PTRACE_GETREGS, registers.as_mut_ptr().cast());
            done(result)?;
            Ok(registers.assume_init())
        }
    }

    /// Sets its registers.
    pub(super) fn set_registers(self, registers: &Registers) -> io::Result<()> {
        let data = std::ptr::from_ref(registers).cast_mut().cast();
        // SAFETY: the request reads the structure, and no more.
        let result = unsafe { self.request(libc::PTRACE_SETREGS, data) };
        done(result)
    }

    /// The signals that it has blocked.
    pub(super) fn blocked(self) -> io::Result<u64> {
        let mut mask = 0u64;
        let size = size_of_val(&mask) as *mut libc::c_void;
        let into = &raw mut mask;
        // SAFETY: the request fills as many bytes as it is told that there are.
        done(unsafe { libc::ptrace(GET_MASK, self.pid(), size, into) })?;
        Ok(mask)
    }

    /// Has it block these signals.
    pub(super) fn block(self, mask: u64) -> io::Result<()> {
        let size = size_of_val(&mask) as *mut libc::c_void;
        let from = &raw const mask;
        // SAFETY: the request reads as many bytes as it is told that there are.
        done(unsafe { libc::ptrace(SET_MASK, self.pid(), size, from) })
    }

    /// What it stopped to tell: the number of the thread that it started.
    pub(super) fn message(self) -> io::Result<u64> {
        let mut message = 0u64;
        // SAFETY: the request fills the word that it is given.
        done(unsafe { self.request(libc::PTRACE_GETEVENTMSG, (&raw mut message).cast()) })?;
        Ok(message)
    }

    /// What the signal is about that it stopped for.
    pub(super) fn signal(self) -> io::Result<Info> {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: the request fills the structure it is given; all zeros are a valid value of it.
        unsafe {
            let result = self.request(libc::PTRACE_GETSIGINFO, info.as_mut_ptr().cast());
            done(result)?;
            Ok(Info(info.assume_init()))
        }
    }

    /// Fills `bytes` from `address` of its memory; less where it cannot be read. How many there were.
    pub(super) fn read(self, address: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let ours = vector(bytes.as_mut_ptr() as u64, bytes.len());
        let theirs = vector(address, bytes.len());
        // SAFETY: the kernel writes at most the bytes behind `ours`.
        let moved = unsafe {
            libc::process_vm_readv(self.pid(), &raw const ours, 1, &raw const theirs, 1, 0)
        };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }

    /// The byte at `address` of its memory.
    pub(super) fn byte(self, address: u64) -> Option<u8> {
        let mut byte = [0];
        (self.read(address, &mut byte).ok()? == 1).then_some(byte[0])
    }

    /// Writes `bytes` at `address` of its memory, which it must be able to write.
    pub(super) fn write(self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let ours = vector(bytes.as_ptr() as u64, bytes.len());
        let theirs = vector(address, bytes.len());
        // SAFETY: the kernel only reads the bytes behind `ours`.
        let moved = unsafe {
            libc::process_vm_writev(self.pid(), &raw const ours, 1, &raw const theirs, 1, 0)
        };
        whole(moved, bytes.len())
    }

    fn pid(self) -> libc::pid_t {
        self.0.as_raw_nonzero().get()
    }

    /// # Safety
    /// `data` must be what `request` says, valid for what it reads or writes there.
    unsafe fn request(self, request: libc::c_uint, data: *mut libc::c_void) -> libc::c_long {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the caller's promise.
        unsafe { libc::ptrace(request, self.pid(), none, data) }
    }
}

fn vector(address: u64, length: usize) -> libc::iovec {
    libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: length,
    }
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn whole(moved: isize, length: usize) -> io::Result<()> {
    match usize::try_from(moved) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(moved) if moved == length => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}
