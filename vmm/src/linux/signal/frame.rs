//! The frame that a handler finds on its stack: `struct rt_sigframe` of x86-64 Linux
//! (arch/x86/include/asm/sigframe.h, uapi/asm/ucontext.h and sigcontext.h), and above it the
//! processor's extended state as XSAVE writes it.
//!
//! ```text
//!   extended state, 64-byte aligned, with its magic numbers
//!   information (siginfo_t)                 at 312
//!   mask                                    at 304
//!   registers (sigcontext)                  at 48
//!   alternate stack                         at 24
//!   flags, link                             at 8
//!   return address: the restorer            at 0; 8 below a multiple of 16
//! ```

use super::super::Registers;
use super::{Info, SignalStack};

/// Bytes that code may use below its stack pointer (System V ABI, AMD64 supplement, 3.2.2).
const RED_ZONE: u64 = 128;
pub(super) const CONTEXT: usize = 8;
const STACK: usize = 24;
const REGISTERS: usize = 48;
const MASK: usize = 304;
pub(super) const INFO: usize = 312;
/// Bytes of the frame without extended state.
pub(super) const FRAME: usize = INFO + Info::BYTES;
/// Extended state is there, the stack segment is in the context, and counts.
const CONTEXT_FLAGS: u64 = 1 | 2 | 4;
const STRICT_STACK: u64 = 4;
/// Selectors of a program's code and stack.
const CODE: u16 = 0x33;
const DATA: u16 = 0x2b;

/// Bytes of the state that FXSAVE writes, and of that with XSAVE's header.
const LEGACY: usize = 512;
const WITH_HEADER: usize = LEGACY + 64;
/// Where software may write in it, and what Linux writes there.
const SOFTWARE: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// x87 and SSE.
const LEGACY_FEATURES: u64 = 3;

/// Shape of the processor's extended state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bits of XCR0.
    pub features: u64,
    /// Bytes that XSAVE writes for them.
    pub bytes: usize,
}

/// What an exception leaves in the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trap {
    pub(super) vector: u64,
    pub(super) error: u64,
    pub(super) address: u64,
}

/// Where a frame's parts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// The frame, and with it the handler's stack pointer.
    pub(super) frame: u64,
    /// The extended state.
    pub(super) extended: u64,
}

/// Where the frame of a handler goes whose stack ends at `top`: below the red zone of the code that
/// is interrupted, or at the top of an alternate stack.
pub(super) fn places(top: u64, alternate: bool, shape: Shape) -> Option<Places> {
    let top = top.checked_sub(if alternate { 0 } else { RED_ZONE })?;
    let extended = top.checked_sub(shape.bytes as u64 + 4)? & !63;
    let frame = (extended.checked_sub(FRAME as u64)? & !15).checked_sub(8)?;
    Some(Places { frame, extended })
}

/// What the frame tells.
pub(super) struct Content<'a> {
    pub(super) restorer: u64,
    pub(super) registers: &'a Registers,
    pub(super) mask: u64,
    pub(super) stack: [u8; SignalStack::BYTES],
    pub(super) info: &'a Info,
    pub(super) trap: Trap,
}

impl Content<'_> {
    /// The frame's bytes.
    pub(super) fn bytes(&self, places: Places) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &self.restorer.to_le_bytes());
        put(CONTEXT, &CONTEXT_FLAGS.to_le_bytes());
        put(STACK, &self.stack);
        for (at, value) in general(self.registers).into_iter().enumerate() {
            put(REGISTERS + at * 8, &value.to_le_bytes());
        }
        let selectors = u64::from(CODE) | u64::from(DATA) << 48;
        let trap = &self.trap;
        let rest = [
            selectors,
            trap.error,
            trap.vector,
            self.mask,
            trap.address,
            places.extended,
        ];
        for (at, value) in rest.into_iter().enumerate() {
            put(REGISTERS + (18 + at) * 8, &value.to_le_bytes());
        }
        put(MASK, &self.mask.to_le_bytes());
        put(INFO, &self.info.bytes());
        bytes
    }
}

/// In the order of `struct sigcontext`.
fn general(r: &Registers) -> [u64; 18] {
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
        r.rax, r.rcx, r.rsp, r.rip, r.rflags,
    ]
}

/// What a guest wants to go on with. Nothing of it is to be believed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Returned {
    pub(super) registers: Registers,
    pub(super) mask: u64,
    pub(super) stack: [u8; SignalStack::BYTES],
    /// Address of the extended state; 0 for that of a new program.
    pub(super) extended: u64,
}

impl Returned {
    /// Reads a frame; `None` if code or stack are not a program's.
    pub(super) fn parse(bytes: &[u8; FRAME]) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let register = |at: usize| word(REGISTERS + at * 8);
        let selectors = register(18);
        let (code, data) = (selectors as u16 | 3, (selectors >> 48) as u16 | 3);
        let strict = word(CONTEXT) & STRICT_STACK != 0;
        if code != CODE || (strict && data != DATA) {
            return None;
        }
        let mut stack = [0; SignalStack::BYTES];
        stack.copy_from_slice(&bytes[STACK..REGISTERS]);
        Some(Self {
            registers: Registers {
                r8: register(0),
                r9: register(1),
                r10: register(2),
                r11: register(3),
                r12: register(4),
                r13: register(5),
                r14: register(6),
                r15: register(7),
                rdi: register(8),
                rsi: register(9),
                rbp: register(10),
                rbx: register(11),
                rdx: register(12),
                rax: register(13),
                rcx: register(14),
                rsp: register(15),
                rip: register(16),
                rflags: register(17),
            },
            mask: word(MASK),
            stack,
            extended: register(23),
        })
    }
}

/// Adds to `state`, as XSAVE wrote it, what tells programs how long it is.
pub(super) fn sign(state: &mut Vec<u8>, shape: Shape) {
    state.resize(shape.bytes, 0);
    let mut put = |at: usize, part: &[u8]| state[at..at + part.len()].copy_from_slice(part);
    put(SOFTWARE, &[0; 48]);
    put(SOFTWARE, &MAGIC1.to_le_bytes());
    put(SOFTWARE + 4, &(shape.bytes as u32 + 4).to_le_bytes());
    put(SOFTWARE + 8, &shape.features.to_le_bytes());
    put(SOFTWARE + 16, &(shape.bytes as u32).to_le_bytes());
    // XSAVE writes no more of the header than which parts are in use.
    put(LEGACY + 8, &[0; 56]);
    state.extend_from_slice(&MAGIC2.to_le_bytes());
}

/// How many bytes of extended state a guest hands back whose first [`LEGACY`] are `head`, with the
/// second magic number if all is there; `None` if it is FXSAVE's alone.
pub(super) fn signed_length(head: &[u8; LEGACY], shape: Shape) -> Option<usize> {
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&head[at..at + 4]);
        u32::from_le_bytes(word)
    };
    let length = word(SOFTWARE + 16) as usize;
    let extended = word(SOFTWARE + 4) as usize;
    let fits = (WITH_HEADER..=shape.bytes).contains(&length) && length <= extended;
    (word(SOFTWARE) == MAGIC1 && fits).then_some(length)
}

/// Checks the state that a guest hands back, signed or FXSAVE's alone. What is left is what a
/// processor would load: no unknown features, no compact form, no reserved bits.
pub(super) fn check(state: &mut Vec<u8>, shape: Shape) -> Option<()> {
    /// Of MXCSR: all that any processor has.
    const CONTROL: u32 = 0x2_ffff;
    const CONTROL_AT: usize = 24;
    let word = |state: &[u8], at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&state[at..at + 8]);
        u64::from_le_bytes(word)
    };
    if state.len() < WITH_HEADER {
        state.resize(LEGACY, 0);
        state.extend_from_slice(&LEGACY_FEATURES.to_le_bytes());
    }
    state.resize(shape.bytes.max(WITH_HEADER), 0);
    let reserved = &state[LEGACY + 8..WITH_HEADER];
    let unknown = word(state, LEGACY) & !shape.features;
    let control = word(state, CONTROL_AT) as u32;
    if unknown != 0 || reserved.iter().any(|&byte| byte != 0) || control & !CONTROL != 0 {
        return None;
    }
    state[SOFTWARE..LEGACY].fill(0);
    Some(())
}

/// The state of a new program: nothing is in use, all exceptions are masked.
pub(super) fn fresh(shape: Shape) -> Vec<u8> {
    let mut state = vec![0; shape.bytes.max(WITH_HEADER)];
    state[..2].copy_from_slice(&0x37fu16.to_le_bytes());
    state[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    state
}

/// [`LEGACY`], for whoever reads it.
pub(super) const HEAD: usize = LEGACY;
/// The second magic number.
pub(super) const END: [u8; 4] = MAGIC2.to_le_bytes();

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        features: 7,
        bytes: 832,
    };

    fn content(info: &Info, registers: &Registers) -> [u8; FRAME] {
        let places = places(0x10_0000, false, SHAPE).unwrap();
        let content = Content {
            restorer: 0x40_1000,
            registers,
            mask: 0x5555,
            stack: [7; SignalStack::BYTES],
            info,
            trap: Trap {
                vector: 14,
                error: 6,
                address: 0xdead,
            },
        };
        content.bytes(places)
    }

    /// Offsets as the C library's headers have them.
    #[test]
    fn the_layout_is_that_of_the_abi() {
        let context = std::mem::offset_of!(libc::ucontext_t, uc_mcontext);
        let registers = std::mem::offset_of!(libc::mcontext_t, gregs);
        assert_eq!(CONTEXT + context + registers, REGISTERS);
        assert_eq!(
            CONTEXT + std::mem::offset_of!(libc::ucontext_t, uc_stack),
            STACK
        );
        assert_eq!(
            CONTEXT + std::mem::offset_of!(libc::ucontext_t, uc_sigmask),
            MASK
        );
        let info = Info::new(11, 1);
        let bytes = content(
            &info,
            &Registers {
                rip: 0x1234,
                rsp: 0x5678,
                ..Registers::default()
            },
        );
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let register = |name: i32| word(REGISTERS + name as usize * 8);
        assert_eq!(register(libc::REG_RIP), 0x1234);
        assert_eq!(register(libc::REG_RSP), 0x5678);
        assert_eq!(register(libc::REG_TRAPNO), 14);
        assert_eq!(register(libc::REG_ERR), 6);
        assert_eq!(register(libc::REG_CR2), 0xdead);
        assert_eq!(bytes[INFO], 11);
    }

    #[test]
    fn frames_are_aligned_below_the_red_zone_and_above_nothing() {
        for top in 0x10_0000..0x10_0040 {
            let at = places(top, false, SHAPE).unwrap();
            assert!(at.extended.is_multiple_of(64));
            assert!(at.extended + SHAPE.bytes as u64 + 4 <= top - RED_ZONE);
            assert_eq!(at.frame % 16, 8, "as after a call");
            assert!(at.frame + FRAME as u64 <= at.extended);
        }
        assert_eq!(places(100, true, SHAPE), None);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let registers = Registers {
            rax: 1,
            rbx: 2,
            r15: 3,
            rip: 4,
            rflags: 5,
            ..Registers::default()
        };
        let info = Info::new(10, 0);
        let bytes = content(&info, &registers);
        let returned = Returned::parse(&bytes).unwrap();
        assert_eq!(returned.registers, registers);
        assert_eq!((returned.mask, returned.stack), (0x5555, [7; 24]));
    }

    #[test]
    fn no_other_segments_are_taken() {
        let info = Info::new(10, 0);
        let bytes = content(&info, &Registers::default());
        for (at, selector) in [(0, 0x08), (0, 0x23), (0, 0), (6, 0x10), (6, 0)] {
            let mut bytes = bytes;
            bytes[REGISTERS + 144 + at] = selector;
            assert_eq!(Returned::parse(&bytes), None, "{selector:#x}");
        }
    }

    #[test]
    fn extended_state_is_taken_back_as_it_was_given() {
        let mut state = fresh(SHAPE);
        state[LEGACY] = 7;
        state[600] = 9;
        let before = state.clone();
        sign(&mut state, SHAPE);
        let mut head = [0; LEGACY];
        head.copy_from_slice(&state[..LEGACY]);
        assert_eq!(signed_length(&head, SHAPE), Some(832));
        assert_eq!(state[832..], END);
        state.truncate(832);
        check(&mut state, SHAPE).unwrap();
        assert_eq!(state, before);
    }

    #[test]
    fn extended_state_that_no_processor_would_load_is_refused() {
        let with = |at: usize, byte: u8| {
            let mut state = fresh(SHAPE);
            state[at] = byte;
            check(&mut state, SHAPE)
        };
        assert_eq!(with(LEGACY, 7), Some(()));
        assert_eq!(with(LEGACY, 8), None, "an unknown feature");
        assert_eq!(with(LEGACY + 15, 0x80), None, "the compact form");
        assert_eq!(with(LEGACY + 63, 1), None, "reserved");
        assert_eq!(with(27, 0x80), None, "reserved bits of MXCSR");
        let mut legacy = vec![0; LEGACY];
        check(&mut legacy, SHAPE).unwrap();
        assert_eq!(legacy[LEGACY], 3);
        for (at, byte) in [(SOFTWARE, 0), (SOFTWARE + 16, 0xff), (SOFTWARE + 17, 0xff)] {
            let mut state = fresh(SHAPE);
            sign(&mut state, SHAPE);
            state[at] = byte;
            let mut head = [0; LEGACY];
            head.copy_from_slice(&state[..LEGACY]);
            assert_eq!(signed_length(&head, SHAPE), None, "{at}");
        }
    }
}
