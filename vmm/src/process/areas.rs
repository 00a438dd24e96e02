//! `/proc/PID/maps` of a guest: the areas that it has.
//!
//! The guest says how many there are and which files they are of, and by that how long the text is: some 400 KiB a line,
//! where a file lies deep below a granted directory and its path is of characters that the kernel writes as four. So the text is
//! read into a buffer of one size, of a line no more is kept than what comes before its file's name, and of the areas
//! nothing but what whoever asks makes of them.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use pool_core::address::Protection;
use rustix::process::Pid;

/// As much as the kernel hands out at once, of lines that are not long.
const AT_ONCE: usize = 4096;
/// Longer than a line of which what is behind an area has no name, or that of zeros.
const KEPT: usize = 160;
/// What the kernel calls zeros that are mapped shared. Names of others may end so, behind a space.
const ZEROS: &[u8] = b"/dev/zero (deleted)";

/// An area, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) start: u64,
    pub(super) end: u64,
    /// May it be read, written, executed, and is it shared, in letters: `rwxs`, and `p` for private.
    pub(super) rights: [u8; 4],
    pub(super) offset: u64,
    /// A file is behind it.
    pub(super) has_file: bool,
    /// Zeros are, which are mapped shared.
    pub(super) is_zeros: bool,
}

impl Area {
    pub(super) fn length(&self) -> u64 {
        self.end - self.start
    }

    pub(super) fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// The guest may do something there.
    pub(super) fn is_accessible(&self) -> bool {
        !self.rights.starts_with(b"---")
    }

    /// What the guest may do there.
    pub(super) fn protection(&self) -> Protection {
        Protection {
            read: self.has(b'r'),
            write: self.has(b'w'),
            execute: self.has(b'x'),
        }
    }

    /// One right, by its letter.
    pub(super) fn has(&self, right: u8) -> bool {
        self.rights.contains(&right)
    }

    /// A line is one, if it is `whole` and not the beginning of a longer one.
    fn of(line: &[u8], whole: bool) -> Option<Self> {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let number = |digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let range = fields.next()?;
        let dash = range.iter().position(|&byte| byte == b'-')?;
        let (start, end) = (number(&range[..dash])?, number(&range[dash + 1..])?);
        let rights = fields.next()?.try_into().ok()?;
        let offset = number(fields.next()?)?;
        let inode = fields.nth(1)?;
        let name = fields.next().unwrap_or_default();
        (start <= end).then_some(Self {
            start,
            end,
            rights,
            offset,
            has_file: inode != b"0",
            is_zeros: whole && name.trim_ascii_start() == ZEROS,
        })
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Areas(File);

impl Areas {
    /// Those of `guest`, from now on.
    pub(super) fn of(guest: Pid) -> std::io::Result<Self> {
        File::open(format!("/proc/{}/maps", guest.as_raw_nonzero())).map(Self)
    }

    /// Has `each` see them in order, until it breaks off. None if that cannot be.
    pub(super) fn each(&self, mut each: impl FnMut(Area) -> ControlFlow<()>) -> Option<()> {
        let (mut lines, mut buffer, mut at) = (Lines::default(), [0; AT_ONCE], 0);
        loop {
            let read = self.0.read_at(&mut buffer, at).ok()?;
            if read == 0 {
                return lines.is_done().then_some(());
            }
            at += read as u64;
            if lines.take(&buffer[..read], &mut each)?.is_break() {
                return Some(());
            }
        }
    }

    /// The sum of what `of` says of each. None if that cannot be known.
    pub(super) fn sum(&self, of: impl Fn(&Area) -> u64) -> Option<u64> {
        let mut sum = 0_u64;
        self.each(|area| {
            sum = sum.saturating_add(of(&area));
            ControlFlow::Continue(())
        })?;
        Some(sum)
    }

    /// Whether `is` is true of one. None if that cannot be known.
    pub(super) fn any(&self, is: impl Fn(&Area) -> bool) -> Option<bool> {
        let mut found = false;
        self.each(|area| {
            found = is(&area);
            if found {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Some(found)
    }

    /// The one that holds `address`. None, too, if that cannot be known.
    pub(super) fn at(&self, address: u64) -> Option<Area> {
        let mut found = None;
        self.each(|area| {
            found = area.holds(address).then_some(area);
            match found {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        })?;
        found
    }
}

/// The text, as it comes: what there is of a line whose end has not come.
#[derive(Debug)]
struct Lines {
    line: [u8; KEPT],
    /// How much of it is there.
    length: usize,
    /// There is more of it.
    cut: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            line: [0; KEPT],
            length: 0,
            cut: false,
        }
    }
}

impl Lines {
    /// What comes next. None if that is no area. The kernel writes a line's end in a file's name as `\012`.
    fn take(
        &mut self,
        mut text: &[u8],
        each: &mut impl FnMut(Area) -> ControlFlow<()>,
    ) -> Option<ControlFlow<()>> {
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            self.keep(&text[..end]);
            text = &text[end + 1..];
            let area = Area::of(&self.line[..self.length], !self.cut)?;
            *self = Self::default();
            if each(area).is_break() {
                return Some(ControlFlow::Break(()));
            }
        }
        self.keep(text);
        Some(ControlFlow::Continue(()))
    }

    fn keep(&mut self, part: &[u8]) {
        let room = &mut self.line[self.length..];
        let kept = part.len().min(room.len());
        room[..kept].copy_from_slice(&part[..kept]);
        self.length += kept;
        self.cut |= kept < part.len();
    }

    /// No line has begun and not ended.
    fn is_done(&self) -> bool {
        self.length == 0
    }
}

/// The areas that `text` tells of.
#[cfg(test)]
pub(super) fn of_text(text: &[u8]) -> Option<Vec<Area>> {
    in_pieces(text, text.len().max(1))
}

/// The same, where the text comes in pieces of so many bytes.
#[cfg(test)]
fn in_pieces(text: &[u8], length: usize) -> Option<Vec<Area>> {
    let (mut lines, mut areas) = (Lines::default(), Vec::new());
    for piece in text.chunks(length) {
        let goes_on = lines.take(piece, &mut |area| {
            areas.push(area);
            ControlFlow::Continue(())
        })?;
        assert!(goes_on.is_continue());
    }
    lines.is_done().then_some(areas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_the_same_however_their_text_comes() {
        let long = "/x\\012".repeat(1000);
        let text = format!(
            "00400000-00402000 r-xp 00001000 00:21 7    /pool/segments/1\n\
             00402000-00403000 rw-p 00000000 00:00 0 \n\
             00403000-00404000 rw-s 00000000 fe:01 123456789    {long}\n\
             00404000-00405000 rw-s 00000000 00:01 7    {long} /dev/zero (deleted)\n\
             00404000-00405000 rw-s 00000000 00:01 7    /q /dev/zero (deleted)\n\
             00405000-00406000 rw-s 00002000 00:01 7                          /dev/zero (deleted)\n\
             ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n"
        );
        let area = |start, end, rights: &[u8; 4], offset, has_file| Area {
            start,
            end,
            rights: *rights,
            offset,
            has_file,
            is_zeros: false,
        };
        let zeros = Area {
            is_zeros: true,
            ..area(0x40_5000, 0x40_6000, b"rw-s", 0x2000, true)
        };
        let expected = vec![
            area(0x40_0000, 0x40_2000, b"r-xp", 0x1000, true),
            area(0x40_2000, 0x40_3000, b"rw-p", 0, false),
            area(0x40_3000, 0x40_4000, b"rw-s", 0, true),
            area(0x40_4000, 0x40_5000, b"rw-s", 0, true),
            area(0x40_4000, 0x40_5000, b"rw-s", 0, true),
            zeros,
            area(
                0xffff_ffff_ff60_0000,
                0xffff_ffff_ff60_1000,
                b"--xp",
                0,
                false,
            ),
        ];
        for length in (1..200).chain([4095, 4096, 4097, text.len()]) {
            let found = in_pieces(text.as_bytes(), length);
            assert_eq!(found.as_ref(), Some(&expected), "{length}");
        }
    }

    #[test]
    fn what_is_no_area_is_none() {
        for text in [
            "nothing of the kind\n",
            "\n",
            "00400000-00402000 r-xp 00001000 00:21 7",
            "00402000-00400000 r-xp 00001000 00:21 7\n",
            "00400000-00402000 r-xpx 00001000 00:21 7\n",
            "00400000-00402000 r-xp\n",
            "-00402000 r-xp 00001000 00:21 7\n",
        ] {
            assert_eq!(of_text(text.as_bytes()), None, "{text}");
        }
        assert_eq!(of_text(b""), Some(Vec::new()));
    }

    #[test]
    fn the_kernels_own_text_is_read_to_its_end() {
        let own = Areas::of(rustix::process::getpid()).unwrap();
        let here = &raw const own as u64;
        assert!(own.at(here).unwrap().protection().write);
        assert_eq!(own.at(1), None);
        assert_eq!(own.any(|area| area.start == 1), Some(false));
        let whole = std::fs::read_to_string("/proc/self/maps").unwrap();
        let count = own.sum(|_| 1).unwrap();
        assert!(count.abs_diff(whole.lines().count() as u64) < 8, "{whole}");
    }
}
