//! What Linux tells a program of a processor's exception (arch/x86/kernel/traps.c).

use super::frame::Frame;
use crate::fault::Cause;
use crate::linux::Exception;

/// Values of `si_code`: siginfo.h.
const KERNEL: i32 = 0x80;
const MAPERR: i32 = 1;
const ACCERR: i32 = 2;
const INTDIV: i32 = 1;
const FLTINV: i32 = 7;
const ILLOPN: i32 = 2;
const TRACE: i32 = 2;
const ADRALN: i32 = 1;
const ADRERR: i32 = 2;

/// The signal of exception `vector` with `frame`, of which the VMM would say `cause`. `cr2` is the
/// address of the last page fault.
pub(super) fn of(vector: u8, frame: &Frame, cr2: u64, cause: &Cause) -> Exception {
    let (code, address) = match cause {
        Cause::Memory {
            address, allowed, ..
        } => (allowed.map_or(MAPERR, |_| ACCERR), *address),
        Cause::PastFile { address } => (ADRERR, *address),
        Cause::Arithmetic if vector == 0 => (INTDIV, frame.rip),
        Cause::Arithmetic => (FLTINV, frame.rip),
        Cause::UndefinedInstruction => (ILLOPN, frame.rip),
        Cause::Breakpoint if vector == 1 => (TRACE, frame.rip),
        Cause::Exception(17) => (ADRALN, 0),
        _ => (KERNEL, 0),
    };
    Exception {
        signal: cause.signal(),
        code,
        address,
        vector,
        error: frame.error,
        page_fault: cr2,
    }
}

#[cfg(test)]
mod tests {
    use pool_core::address::Protection;

    use super::*;
    use crate::memory::Access;

    fn told(vector: u8, cause: &Cause) -> (i32, i32, u64) {
        let frame = Frame {
            rip: 0x40_1000,
            ..Frame::default()
        };
        let exception = of(vector, &frame, 0x10, cause);
        (exception.signal, exception.code, exception.address)
    }

    #[test]
    fn programs_are_told_what_and_where() {
        let memory = |allowed| Cause::Memory {
            address: 0x10,
            access: Some(Access::Read),
            allowed,
        };
        let some = Some(Protection::READ_WRITE);
        assert_eq!(told(14, &memory(None)), (libc::SIGSEGV, 1, 0x10));
        assert_eq!(told(14, &memory(some)), (libc::SIGSEGV, 2, 0x10));
        let past = Cause::PastFile { address: 0x10 };
        assert_eq!(told(14, &past), (libc::SIGBUS, 2, 0x10));
        assert_eq!(told(13, &Cause::Protection), (libc::SIGSEGV, 0x80, 0));
        assert_eq!(told(0, &Cause::Arithmetic), (libc::SIGFPE, 1, 0x40_1000));
        assert_eq!(told(3, &Cause::Breakpoint), (libc::SIGTRAP, 0x80, 0));
        let invalid = told(6, &Cause::UndefinedInstruction);
        assert_eq!(invalid, (libc::SIGILL, 2, 0x40_1000));
    }
}
