//! Guest addresses and what may be done at them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};
use crate::text::serde_as_text;

/// The first address past the lower canonical half, less the guard page that Linux leaves
/// unmapped (`TASK_SIZE_MAX` in `arch/x86/include/asm/page_64_types.h`).
pub const USER_ADDRESS_END: u64 = (1 << 47) - PAGE_SIZE;

/// A virtual address in a guest (or in a process that plays one). Written as `0x401000`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestAddress(pub u64);

impl GuestAddress {
    /// Position of the address's page in its 2 MiB window, 0 to 511.
    pub const fn page_in_window(self) -> u64 {
        (self.0 % WINDOW_SIZE) / PAGE_SIZE
    }

    /// Start of the 2 MiB window that holds the address.
    #[must_use]
    pub const fn window(self) -> Self {
        Self(self.0 & !(WINDOW_SIZE - 1))
    }

    /// The address `bytes` further on, or `None` past 64 bits.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// True when the address is a multiple of the page size.
    pub const fn is_page_aligned(self) -> bool {
        self.0.is_multiple_of(PAGE_SIZE)
    }
}

const _: () = assert!(PAGES_PER_WINDOW == 512);

impl fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestAddress({self})")
    }
}

/// Why a string is not an address or a protection.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseError {
    /// Not `0x` and hexadecimal digits.
    #[error("not an address: expected 0x and up to 16 hexadecimal digits, got {0:?}")]
    Address(String),
    /// Not three of `r`, `w`, `x` or `-`.
    #[error("not a protection: expected three letters such as r-x, got {0:?}")]
    Protection(String),
}

impl FromStr for GuestAddress {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("0x")
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| ParseError::Address(text.chars().take(80).collect()))
    }
}

/// What a guest may do with a range: `r-x`, `rw-` and so on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protection {
    /// Loads are allowed.
    pub read: bool,
    /// Stores are allowed.
    pub write: bool,
    /// Instruction fetches are allowed.
    pub execute: bool,
}

impl Protection {
    /// Read only.
    pub const READ: Self = Self {
        read: true,
        write: false,
        execute: false,
    };
    /// Read and execute.
    pub const READ_EXECUTE: Self = Self {
        read: true,
        write: false,
        execute: true,
    };
    /// Read and write.
    pub const READ_WRITE: Self = Self {
        read: true,
        write: true,
        execute: false,
    };
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |allowed, letter| if allowed { letter } else { '-' };
        write!(
            f,
            "{}{}{}",
            letter(self.read, 'r'),
            letter(self.write, 'w'),
            letter(self.execute, 'x')
        )
    }
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protection({self})")
    }
}

impl FromStr for Protection {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let flag = |at: usize, letter: u8| match text.as_bytes().get(at) {
            Some(b'-') => Some(false),
            Some(&found) if found == letter => Some(true),
            _ => None,
        };
        match (text.len(), flag(0, b'r'), flag(1, b'w'), flag(2, b'x')) {
            (3, Some(read), Some(write), Some(execute)) => Ok(Self {
                read,
                write,
                execute,
            }),
            _ => Err(ParseError::Protection(text.chars().take(80).collect())),
        }
    }
}

serde_as_text!(GuestAddress, Protection);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_as_text() {
        for value in [0, 0x40_1000, u64::MAX] {
            let address = GuestAddress(value);
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        for bad in ["", "401000", "0x", "0x+1", "0xg", "0x10000000000000000"] {
            assert!(bad.parse::<GuestAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn protections_round_trip_as_text() {
        for text in ["r--", "r-x", "rw-", "rwx", "---"] {
            assert_eq!(text.parse::<Protection>().unwrap().to_string(), text);
        }
        for bad in ["", "rx", "xwr", "r-xx", "R-X"] {
            assert!(bad.parse::<Protection>().is_err(), "{bad}");
        }
    }

    #[test]
    fn window_arithmetic() {
        let address = GuestAddress(0x40_1234);
        assert_eq!(address.window(), GuestAddress(0x40_0000));
        assert_eq!(address.page_in_window(), 1);
    }
}
