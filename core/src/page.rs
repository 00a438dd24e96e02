//! Pages and windows: the two granules of the pool.
//!
//! A *page* (4 KiB) is the unit of deduplication. A *window* (2 MiB, 512 pages) is the unit
//! that the host's page cache and the guest's page tables map with one entry; first touch of a
//! window costs about 1/300 of the first touch of its pages one by one.

use std::fmt;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes in a window (an x86-64 large page).
pub const WINDOW_SIZE: u64 = 2 << 20;
/// Pages in a window.
pub const PAGES_PER_WINDOW: u64 = WINDOW_SIZE / PAGE_SIZE;

/// A number of 4 KiB pages.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PageCount(pub u64);

impl PageCount {
    /// The pages needed to hold `bytes` bytes; a partial last page counts.
    pub const fn covering(bytes: u64) -> Self {
        Self(bytes.div_ceil(PAGE_SIZE))
    }

    /// The bytes of this many pages, or `None` when that overflows 64 bits.
    pub const fn checked_bytes(self) -> Option<u64> {
        self.0.checked_mul(PAGE_SIZE)
    }

    /// The bytes of this many pages.
    ///
    /// # Panics
    /// When the product overflows, which no count derived from stored data reaches.
    pub const fn bytes(self) -> u64 {
        self.0 * PAGE_SIZE
    }
}

impl Add for PageCount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for PageCount {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl fmt::Display for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// True when every byte of `bytes` is zero. The all-zero page is never stored.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(64)
        .all(|chunk| chunk.iter().fold(0, |acc, byte| acc | byte) == 0)
}

/// `value` rounded down to a multiple of `granule` (a power of two).
pub const fn round_down(value: u64, granule: u64) -> u64 {
    value & !(granule - 1)
}

/// `value` rounded up to a multiple of `granule` (a power of two), or `None` on overflow.
pub const fn checked_round_up(value: u64, granule: u64) -> Option<u64> {
    match value.checked_add(granule - 1) {
        Some(sum) => Some(sum & !(granule - 1)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_counts_partial_pages() {
        for (bytes, pages) in [(0, 0), (1, 1), (4095, 1), (4096, 1), (4097, 2)] {
            assert_eq!(PageCount::covering(bytes), PageCount(pages), "{bytes}");
        }
        assert_eq!(PageCount(u64::MAX).checked_bytes(), None);
    }

    #[test]
    fn zero_detection_sees_any_byte() {
        let mut page = vec![0u8; 4096];
        assert!(is_zero(&page));
        for at in [0, 1, 63, 64, 2048, 4095] {
            page[at] = 1;
            assert!(!is_zero(&page), "{at}");
            page[at] = 0;
        }
    }

    #[test]
    fn rounding() {
        assert_eq!(round_down(0x1fff, PAGE_SIZE), 0x1000);
        assert_eq!(checked_round_up(0x1001, PAGE_SIZE), Some(0x2000));
        assert_eq!(checked_round_up(u64::MAX, PAGE_SIZE), None);
    }
}
