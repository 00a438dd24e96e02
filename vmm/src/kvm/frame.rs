//! What the processor pushes on a fault, on the monitor's stack. (Intel SDM volume 3A, 6.14.2.)

/// SS, RSP, RFLAGS, CS, RIP.
const WORDS: usize = 5;
/// Arithmetic flags, TF, DF, AC and ID: what a program may have set. IOPL, IF, NT, RF and VM stay
/// clear.
const USER_FLAGS: u64 = 0x24_0dd5;
/// Always set.
const FIXED_FLAGS: u64 = 1 << 1;

/// The state of the code that faulted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// The error code; zero for vectors that have none.
    pub(super) error: u64,
    pub(super) rip: u64,
    /// Selector of its code segment.
    pub(super) code: u16,
    /// Its flags, privileged ones cleared.
    pub(super) rflags: u64,
    pub(super) rsp: u64,
}

impl Frame {
    /// Most bytes that a frame has.
    pub(super) const MAX_BYTES: usize = (WORDS + 1) * 8;

    /// Bytes of the frame of `vector`.
    pub(super) fn bytes(vector: u8) -> usize {
        (WORDS + usize::from(pushes_error_code(vector))) * 8
    }

    /// Reads the frame of `vector` from its bytes, the last pushed first.
    pub(super) fn parse(vector: u8, bytes: &[u8]) -> Self {
        let mut words = bytes
            .chunks_exact(8)
            .map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let mut pop = || words.next().unwrap_or_default();
        let error = if pushes_error_code(vector) { pop() } else { 0 };
        Self {
            error,
            rip: pop(),
            code: pop() as u16,
            rflags: user_flags(pop()),
            rsp: pop(),
        }
    }
}

/// The flags that a guest may have of `flags`.
pub(super) fn user_flags(flags: u64) -> u64 {
    flags & USER_FLAGS | FIXED_FLAGS
}

fn pushes_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_an_error_code_where_their_vector_has() {
        let words = [6u64, 0x40_1000, 0x33, 0x1_7246, 0x3fff_f000, 0x2b];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let expected = Frame {
            error: 6,
            rip: 0x40_1000,
            code: 0x33,
            rflags: 0x46,
            rsp: 0x3fff_f000,
        };
        assert_eq!(Frame::bytes(14), Frame::MAX_BYTES);
        assert_eq!(Frame::parse(14, &bytes), expected);
        assert_eq!(Frame::bytes(6), Frame::MAX_BYTES - 8);
        let expected = Frame {
            error: 0,
            ..expected
        };
        assert_eq!(Frame::parse(6, &bytes[8..]), expected);
    }

    #[test]
    fn no_flag_gives_a_guest_ports_or_interrupts() {
        let privileged = 1 << 9 | 3 << 12 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 19 | 1 << 20;
        assert_eq!(user_flags(privileged), FIXED_FLAGS);
        assert_eq!(user_flags(!0) & privileged, 0);
        assert_eq!(user_flags(1 << 10 | 1 << 8 | 1), 1 << 10 | 1 << 8 | 3);
    }
}
