//! What the kernel's text about a process says of its memory.

use std::ops::ControlFlow;

use super::areas::{Area, Areas};
use super::limits::with_tables;

/// Bytes of an area that can be accessed and are not private and writable.
pub(super) fn readable(area: &Area) -> u64 {
    if !area.is_accessible() || area.has(b'w') && area.has(b'p') {
        return 0;
    }
    area.length()
}

/// The most bytes that an area can take: all that is private, and the tables.
pub(super) fn most(area: &Area) -> u64 {
    if !area.is_accessible() {
        0
    } else if area.has(b'p') {
        with_tables(area.length())
    } else {
        tables(area)
    }
}

/// The most bytes of tables by which an area is found.
fn tables(area: &Area) -> u64 {
    with_tables(area.length()) - area.length()
}

/// Sums what `/proc/PID/status` says of private memory, in bytes.
pub(super) fn used(status: &str) -> Option<u64> {
    const OWN: [&str; 4] = ["RssAnon:", "RssShmem:", "VmSwap:", "VmPTE:"];
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let kib = |key| -> Option<u64> { line(key)?.trim().strip_suffix(" kB")?.parse().ok() };
    OWN.iter().map(|key| kib(key).map(|kib| kib << 10)).sum()
}

/// The memory that `/proc/PID/smaps_rollup` says is its own, in bytes.
pub(super) fn own_memory(rollup: &str) -> Option<u64> {
    let line = |key: &str| rollup.lines().find_map(|line| line.strip_prefix(key));
    let kib = |key| -> Option<u64> { line(key)?.trim().strip_suffix(" kB")?.parse().ok() };
    Some((kib("Anonymous:")? + kib("Swap:")?) << 10)
}

/// The most bytes of tables by which areas are found, where `own` memory is what was written: those that can be
/// accessed, and those that are only kept free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    accessible: u64,
    kept: u64,
}

impl Tables {
    /// Of all `areas`.
    pub(super) fn of(areas: &Areas) -> Option<Self> {
        let mut sum = Self::default();
        areas.each(|area| sum.count(&area))?;
        Some(sum)
    }

    fn count(&mut self, area: &Area) -> ControlFlow<()> {
        let kind = if area.is_accessible() {
            &mut self.accessible
        } else {
            &mut self.kept
        };
        *kind = kind.saturating_add(tables(area));
        ControlFlow::Continue(())
    }

    /// With the memory that they are for. Of what is only kept free there are none but those of pages that were written.
    pub(super) fn with(self, own: u64) -> u64 {
        own.saturating_add(self.accessible)
            .saturating_add(self.kept.min(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::areas::of_text;

    fn sum(maps: &str, of: impl Fn(&Area) -> u64) -> u64 {
        of_text(maps.as_bytes()).unwrap().iter().map(of).sum()
    }

    #[test]
    fn what_can_be_read_and_does_not_count_is_summed() {
        let maps = "00400000-00402000 r-xp 00000000 00:21 7    /pool/\\012\n\
                    00402000-00403000 rw-p 00000000 00:00 0 \n\
                    00403000-00404000 rw-s 00000000 00:21 8    /data/x\n\
                    00500000-50500000 ---p 00000000 00:00 0 \n\
                    ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]\n";
        assert_eq!(sum(maps, readable), 0x4000);
    }

    #[test]
    fn the_most_that_areas_can_take() {
        let maps = "00400000-00600000 r-xp 00000000 00:21 7 /x\n\
                    00600000-00800000 rw-s 00000000 00:21 7 /x\n\
                    00800000-00a00000 ---p 00000000 00:00 0\n";
        assert_eq!(sum(maps, most), (2 << 20) + 2 * (4096 + 6 * 4096));
    }

    #[test]
    fn memory_is_counted_whatever_may_be_done_to_it() {
        let rollup = "00400000-7ffd000000 ---p 00000000 00:00 0    [rollup]\nRss:      9999 kB\n\
                      Anonymous:       96 kB\nAnonHugePages: 5 kB\nSwap:  4 kB\nSwapPss: 1 kB\n";
        assert_eq!(own_memory(rollup), Some(100 << 10));
        assert_eq!(own_memory("Anonymous: 96 kB\n"), None);
        assert_eq!(own_memory(""), None);
        let used = |maps: &str| {
            let mut tables = Tables::default();
            for area in of_text(maps.as_bytes()).unwrap() {
                assert!(tables.count(&area).is_continue());
            }
            tables.with(100 << 10)
        };
        let maps = "00400000-00600000 r-xp 00000000 00:21 7 /x\n\
                    00800000-00a00000 ---p 00000000 00:00 0\n";
        let of_one = 4096 + 6 * 4096;
        assert_eq!(used(maps), (100 << 10) + 2 * of_one);
        // What is kept free may be as long as it likes.
        let maps = "00800000-0a00000000 ---p 00000000 00:00 0\n";
        assert_eq!(used(maps), 200 << 10);
    }

    #[test]
    fn own_memory_is_summed() {
        let status = "Name:\tpoolvmm\nVmPTE:\t      44 kB\nRssAnon:\t     100 kB\n\
                      RssFile:\t  9 kB\nRssShmem:\t 2 kB\nVmSwap:\t       1 kB\n";
        assert_eq!(used(status), Some(147 << 10));
        assert_eq!(used("Name:\tpoolvmm\n"), None);
    }
}
