//! What Linux tells a program of a processor's exception (arch/x86/kernel/traps.c).

use super::frame::Frame;
use crate::fault::{Allowed, Cause};
use crate::linux::Exception;

/// Values of `si_code`: siginfo.h.
const KERNEL: i32 = 0x80;
const MAPERR: i32 = 1;
const ACCERR: i32 = 2;
const INTDIV: i32 = 1;
const FLTDIV: i32 = 3;
const FLTOVF: i32 = 4;
const FLTUND: i32 = 5;
const FLTRES: i32 = 6;
const FLTINV: i32 = 7;
const ILLOPN: i32 = 2;
const TRACE: i32 = 2;
const ADRALN: i32 = 1;
const ADRERR: i32 = 2;

/// Of the floating-point exceptions that MXCSR (`vector` 19) or the x87 status word (16) tell in extended
/// state `state`, those that are not masked, by their bits there.
pub(super) fn raised(vector: u8, state: &[u8]) -> u16 {
    let word = |at: usize| u16::from_le_bytes([state[at], state[at + 1]]);
    let (told, masked) = if vector == 19 {
        (word(24), word(24) >> 7)
    } else {
        (word(2), word(0))
    };
    told & !masked & 0x3f
}

/// The signal of exception `vector` with `frame`, of which the VMM would say `cause`. `cr2` is the
/// address of the last page fault, `raised` are floating-point exceptions.
pub(super) fn of(vector: u8, frame: &Frame, cr2: u64, cause: &Cause, raised: u16) -> Exception {
    let (code, address) = match cause {
        Cause::Memory {
            address, allowed, ..
        } => match allowed {
            Allowed::Unmapped => (MAPERR, *address),
            Allowed::Only(_) | Allowed::Less => (ACCERR, *address),
        },
        Cause::PastFile { address } => (ADRERR, *address),
        Cause::Arithmetic if vector == 0 => (INTDIV, frame.rip),
        Cause::Arithmetic => (floating(raised), frame.rip),
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

/// Invalid operations come first, then division by zero, overflow, underflow (or a denormal), precision.
fn floating(raised: u16) -> i32 {
    match raised {
        raised if raised & 1 != 0 => FLTINV,
        raised if raised & 4 != 0 => FLTDIV,
        raised if raised & 8 != 0 => FLTOVF,
        raised if raised & 0x12 != 0 => FLTUND,
        raised if raised & 0x20 != 0 => FLTRES,
        _ => 0,
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
        let exception = of(vector, &frame, 0x10, cause, 0x24);
        (exception.signal, exception.code, exception.address)
    }

    #[test]
    fn only_unmasked_exceptions_were_raised() {
        let mut state = [0; 32];
        state[..4].copy_from_slice(&[0x7b, 0x03, 0x2c, 0x38]);
        state[24..26].copy_from_slice(&0x1da8u16.to_le_bytes());
        assert_eq!(
            raised(16, &state),
            4,
            "division; overflow and precision are masked"
        );
        assert_eq!(raised(19, &state), 0, "masked, all of them");
        state[24..26].copy_from_slice(&0x1bacu16.to_le_bytes());
        assert_eq!(raised(19, &state), 8);
        assert_eq!(
            [0x3f, 0x3e, 0x3a, 0x32, 0x22, 0x20, 0].map(floating),
            [7, 3, 4, 5, 5, 6, 0]
        );
    }

    #[test]
    fn programs_are_told_what_and_where() {
        let memory = |allowed| Cause::Memory {
            address: 0x10,
            access: Some(Access::Read),
            allowed,
        };
        let some = Allowed::Only(Protection::READ_WRITE);
        assert_eq!(
            told(14, &memory(Allowed::Unmapped)),
            (libc::SIGSEGV, 1, 0x10)
        );
        assert_eq!(told(14, &memory(some)), (libc::SIGSEGV, 2, 0x10));
        let past = Cause::PastFile { address: 0x10 };
        assert_eq!(told(14, &past), (libc::SIGBUS, 2, 0x10));
        assert_eq!(told(13, &Cause::Protection), (libc::SIGSEGV, 0x80, 0));
        assert_eq!(told(0, &Cause::Arithmetic), (libc::SIGFPE, 1, 0x40_1000));
        assert_eq!(told(19, &Cause::Arithmetic), (libc::SIGFPE, 3, 0x40_1000));
        assert_eq!(told(12, &Cause::Exception(12)), (libc::SIGBUS, 0x80, 0));
        assert_eq!(told(3, &Cause::Breakpoint), (libc::SIGTRAP, 0x80, 0));
        let invalid = told(6, &Cause::UndefinedInstruction);
        assert_eq!(invalid, (libc::SIGILL, 2, 0x40_1000));
    }
}
