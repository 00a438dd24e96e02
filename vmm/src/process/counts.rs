//! What the kernel's text about a process says of its memory.

use super::limits::with_tables;

/// Sums the areas of `/proc/PID/maps` that can be accessed and are not private and writable, in bytes.
pub(super) fn readable(maps: &[u8]) -> Option<u64> {
    sum(maps, |length, protection| match protection {
        [b'-', b'-', b'-', _] | [_, b'w', _, b'p'] => 0,
        _ => length,
    })
}

/// The most that the areas of `/proc/PID/maps` can take: all that is private, and the tables.
pub(super) fn most(maps: &[u8]) -> Option<u64> {
    sum(maps, |length, protection| match protection {
        [b'-', b'-', b'-', _] => 0,
        [.., b'p'] => with_tables(length),
        _ => with_tables(length) - length,
    })
}

/// Whether an area of `/proc/PID/maps` is of shared zeros.
pub(super) fn has_shared_zeros(maps: &[u8]) -> bool {
    let mut lines = maps.split(|&byte| byte == b'\n');
    lines.any(|line| line.ends_with(b" /dev/zero (deleted)"))
}

/// Sums `of` length and protection of each area.
fn sum(maps: &[u8], of: impl Fn(u64, &[u8]) -> u64) -> Option<u64> {
    let mut sum = 0;
    // The kernel writes a line's end in a file's name as `\012`.
    for line in maps
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let mut fields = line.split(|&byte| byte == b' ');
        let range = std::str::from_utf8(fields.next()?).ok()?;
        let (start, end) = range.split_once('-')?;
        let length = u64::from_str_radix(end, 16).ok()? - u64::from_str_radix(start, 16).ok()?;
        sum += of(length, fields.next()?);
    }
    Some(sum)
}

/// Sums what `/proc/PID/status` says of private memory, in bytes.
pub(super) fn used(status: &str) -> Option<u64> {
    const OWN: [&str; 4] = ["RssAnon:", "RssShmem:", "VmSwap:", "VmPTE:"];
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let kib = |key| -> Option<u64> { line(key)?.trim().strip_suffix(" kB")?.parse().ok() };
    OWN.iter().map(|key| kib(key).map(|kib| kib << 10)).sum()
}

/// The same of what `/proc/PID/smaps_rollup` says and of the areas: `own` memory by the one, and of the tables the most that there can be.
pub(super) fn used_by_areas(rollup: &str, maps: &[u8]) -> Option<u64> {
    let line = |key: &str| rollup.lines().find_map(|line| line.strip_prefix(key));
    let kib = |key| -> Option<u64> { line(key)?.trim().strip_suffix(" kB")?.parse().ok() };
    let own = (kib("Anonymous:")? + kib("Swap:")?) << 10;
    let tables = |of: fn(&[u8]) -> bool| {
        sum(maps, |length, protection| {
            if of(protection) {
                with_tables(length) - length
            } else {
                0
            }
        })
    };
    let accessible = tables(|protection| !protection.starts_with(b"---"))?;
    // Of what is only kept free there are none but those of pages that were written.
    let kept = tables(|protection| protection.starts_with(b"---"))?.min(own);
    Some(own.saturating_add(accessible).saturating_add(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_and_does_not_count_is_summed() {
        let maps = b"00400000-00402000 r-xp 00000000 00:21 7    /pool/\xff\\012\n\
                     00402000-00403000 rw-p 00000000 00:00 0 \n\
                     00403000-00404000 rw-s 00000000 00:21 8    /data/x\n\
                     00500000-50500000 ---p 00000000 00:00 0 \n\
                     ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]\n";
        assert_eq!(readable(maps), Some(0x4000));
        assert_eq!(readable(b"nothing of the kind\n"), None);
    }

    #[test]
    fn shared_zeros_are_known() {
        let other = "00800000-00a00000 rw-s 00000000 00:15 7      /data/dev/zero (deleted)\n";
        let zeros = "00400000-00600000 rw-s 00000000 00:01 7      /dev/zero (deleted)\n";
        assert!(!has_shared_zeros(other.as_bytes()));
        assert!(has_shared_zeros(
            format!("{other}{zeros}{other}").as_bytes()
        ));
    }

    #[test]
    fn the_most_that_areas_can_take() {
        let maps = b"00400000-00600000 r-xp 00000000 00:21 7 /x\n\
                     00600000-00800000 rw-s 00000000 00:21 7 /x\n\
                     00800000-00a00000 ---p 00000000 00:00 0\n";
        assert_eq!(most(maps), Some((2 << 20) + 2 * (4096 + 6 * 4096)));
    }

    #[test]
    fn memory_is_counted_whatever_may_be_done_to_it() {
        let rollup = "00400000-7ffd000000 ---p 00000000 00:00 0    [rollup]\nRss:      9999 kB\n\
                      Anonymous:       96 kB\nAnonHugePages: 5 kB\nSwap:  4 kB\nSwapPss: 1 kB\n";
        let maps = b"00400000-00600000 r-xp 00000000 00:21 7 /x\n\
                     00800000-00a00000 ---p 00000000 00:00 0\n";
        let of_one = 4096 + 6 * 4096;
        let own = 100 << 10;
        assert_eq!(used_by_areas(rollup, maps), Some(own + 2 * of_one));
        // What is kept free may be as long as it likes.
        let maps = b"00800000-0a00000000 ---p 00000000 00:00 0\n";
        assert_eq!(used_by_areas(rollup, maps), Some(2 * own));
        assert_eq!(used_by_areas("Anonymous: 96 kB\n", maps), None);
        assert_eq!(used_by_areas("", maps), None);
    }

    #[test]
    fn own_memory_is_summed() {
        let status = "Name:\tpoolvmm\nVmPTE:\t      44 kB\nRssAnon:\t     100 kB\n\
                      RssFile:\t  9 kB\nRssShmem:\t 2 kB\nVmSwap:\t       1 kB\n";
        assert_eq!(used(status), Some(147 << 10));
        assert_eq!(used("Name:\tpoolvmm\n"), None);
    }
}
