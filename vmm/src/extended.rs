//! A task's state beyond its general registers (x87, SSE, AVX, AVX-512), as XSAVE has it in its
//! standard form (Intel SDM volume 1, 13.4), and which of it there is.

use std::arch::x86_64::__cpuid_count;
use std::fmt;

/// Bytes of the part that FXSAVE writes and of the header behind it.
const BASE: usize = 512 + 64;
/// Where the header says which parts are in use.
const IN_USE: usize = 512;
/// x87 and SSE, which have no leaf of their own.
const LEGACY: u64 = 3;

/// Where the parts end, by their bit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    ends: [usize; 64],
    pub(crate) features: u64,
}

impl Parts {
    /// The parts of `features` (XCR0). Where they lie is the processor's own, and the same under KVM.
    pub(crate) fn of(features: u64) -> Self {
        let mut ends = [BASE; 64];
        for (part, end) in ends.iter_mut().enumerate().skip(2) {
            if features >> part & 1 != 0 {
                let leaf = __cpuid_count(0xd, part as u32);
                *end = (leaf.eax as usize + leaf.ebx as usize).max(BASE);
            }
        }
        Self {
            ends,
            features: features | LEGACY,
        }
    }

    /// Bytes up to the end of the last part of `features`.
    pub(crate) fn length(&self, features: u64) -> usize {
        let parts = (0..64).filter(|bit| features >> bit & 1 != 0);
        parts.map(|bit| self.ends[bit]).max().unwrap_or(BASE)
    }
}

fn in_use(state: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&state[IN_USE..IN_USE + 8]);
    u64::from_le_bytes(word)
}

/// Leaves `features` of a state. KVM tells of parts that are in use on the host and that the processor was not
/// given (protection keys), and takes no state back that has such.
pub(crate) fn leave(state: &mut [u8], features: u64) {
    let left = in_use(state) & features;
    state[IN_USE..IN_USE + 8].copy_from_slice(&left.to_le_bytes());
}

/// The state of a task that does not run: no longer than what it uses.
#[derive(Clone)]
pub(crate) struct Stored(Box<[u8]>);

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stored({} bytes)", self.0.len())
    }
}

impl Stored {
    /// What is in use of `state`.
    pub(crate) fn of(state: &[u8], parts: &Parts) -> Self {
        let in_use = in_use(state) & parts.features;
        let length = parts.length(in_use).min(state.len());
        Self(state[..length].into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What this process itself may use (XCR0). A program under KVM without hardware support finds the
/// same: nothing stands between it and the processor.
pub(crate) fn of_this_process() -> u64 {
    /// CPUID says that XGETBV can be executed.
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid_count(1, 0).ecx & OSXSAVE == 0 {
        return 0;
    }
    let (low, high): (u32, u32);
    // SAFETY: the processor has the instruction, which reads a register that exists.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: Parts = {
        let mut ends = [BASE; 64];
        ends[2] = 832;
        ends[7] = 2688;
        Parts {
            ends,
            features: 0x87,
        }
    };

    /// Else the end of a signal's handler would refuse what the program never had.
    #[test]
    fn parts_that_the_processor_was_not_given_are_left_out() {
        let mut state = vec![0; BASE];
        state[IN_USE..IN_USE + 2].copy_from_slice(&0x207u16.to_le_bytes());
        leave(&mut state, PARTS.features);
        assert_eq!(in_use(&state), 7);
    }

    #[test]
    fn no_more_is_kept_than_is_in_use() {
        let mut state = vec![0; 2688];
        for (in_use, length) in [
            (0, BASE),
            (3, BASE),
            (4, 832),
            (7, 832),
            (0x83, 2688),
            (8, BASE),
        ] {
            state[IN_USE] = in_use;
            assert_eq!(Stored::of(&state, &PARTS).bytes().len(), length);
        }
    }
}
