//! Power cuts, file by file: a filesystem that writes down what it is asked for, and what a cut can leave of that.
//!
//! It is a FUSE server of this process that keeps everything in memory, and it promises no more than POSIX does (fsync(2)): a cut
//! leaves what was written to a file before its last `fsync`, and of the rest anything. Names are kept as [`Order`] says. So
//! what a [disk](crate::power) with a particular filesystem happens to keep is not taken for what was asked for.
//!
//! As there, beside each request stands how long the *journal* was by then, to which the program under test adds a line when it is
//! told that something is done.

mod server;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use server::RecordedFiles;

use crate::power::Kept;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

const ROOT: Inode = 1;

type Inode = u64;

/// A name in a directory.
type Name = (Inode, OsString);

/// What the filesystem was asked for.
#[derive(Clone, Debug)]
enum Asked {
    /// A new file or directory.
    Made {
        at: Name,
        inode: Inode,
        is_directory: bool,
    },
    Removed {
        at: Name,
    },
    Renamed {
        from: Name,
        to: Name,
        inode: Inode,
    },
    Write {
        inode: Inode,
        offset: usize,
        data: Box<[u8]>,
    },
    /// The file has so many bytes now.
    Length {
        inode: Inode,
        bytes: usize,
    },
    Punch {
        inode: Inode,
        offset: usize,
        bytes: usize,
    },
    /// Of a file or a directory.
    Sync(Inode),
}

impl Asked {
    /// The directory whose names it changes.
    fn directory(&self) -> Option<Inode> {
        match self {
            Self::Made { at, .. } | Self::Removed { at } | Self::Renamed { from: at, .. } => {
                Some(at.0)
            }
            _ => None,
        }
    }

    /// The file whose content it changes.
    fn file(&self) -> Option<Inode> {
        match self {
            Self::Write { inode, .. } | Self::Length { inode, .. } | Self::Punch { inode, .. } => {
                Some(*inode)
            }
            _ => None,
        }
    }
}

/// In which order names are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All in one, up to the last `fsync` of anything at least, as ext4 does.
    One,
    /// Each directory for itself, up to its own last `fsync` at least, which is all that POSIX says.
    Each,
}

/// Everything that a filesystem was asked for, in order.
#[derive(Debug)]
pub struct FileRecording {
    /// Each with the length that the journal had when it came.
    asked: Vec<(u64, Asked)>,
}

/// What a cut left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl FileRecording {
    /// Requests.
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// True when nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Bytes of the journal that were there when the power went after so many requests.
    pub fn journal(&self, requests: usize) -> u64 {
        let at = requests.min(self.asked.len() - 1);
        self.asked[at].0
    }

    /// What is left when the power goes after so many requests, and the last `forgotten` syncs among them were none. `random`
    /// answers with a number below its argument.
    pub fn cut(
        &self,
        requests: usize,
        forgotten: usize,
        order: Order,
        kept: Kept,
        mut random: impl FnMut(u64) -> u64,
    ) -> Left {
        let asked: Vec<_> = self.asked[..requests].iter().map(|(_, one)| one).collect();
        let synced = Synced::of(&asked, forgotten);
        let (names, directories) = names(&asked, &synced, order, kept, &mut random);
        let mut changes: HashMap<Inode, Vec<(usize, &Asked)>> = HashMap::new();
        for (nth, asked) in asked.iter().enumerate() {
            if let Some(inode) = asked.file() {
                changes.entry(inode).or_default().push((nth, asked));
            }
        }
        let mut left = Left::default();
        let mut open = vec![(ROOT, PathBuf::new())];
        while let Some((directory, path)) = open.pop() {
            let from = (directory, OsString::new());
            let inside = names.range(from..).take_while(|(at, _)| at.0 == directory);
            for ((_, name), inode) in inside {
                let path = path.join(name);
                if directories.contains(inode) {
                    left.directories.insert(path.clone());
                    open.push((*inode, path));
                    continue;
                }
                let changes = changes.get(inode).map_or(&[][..], Vec::as_slice);
                let safe = synced.of.get(inode).copied().unwrap_or(0);
                left.files
                    .insert(path, content(changes, safe, kept, &mut random));
            }
        }
        left
    }
}

/// Up to which request things are safe.
struct Synced {
    of: HashMap<Inode, usize>,
    last: usize,
}

impl Synced {
    fn of(asked: &[&Asked], forgotten: usize) -> Self {
        let mut syncs = Vec::new();
        for (nth, asked) in asked.iter().enumerate() {
            if let Asked::Sync(inode) = asked {
                syncs.push((*inode, nth));
            }
        }
        syncs.truncate(syncs.len().saturating_sub(forgotten));
        Self {
            last: syncs.last().map_or(0, |(_, nth)| *nth),
            of: syncs.into_iter().collect(),
        }
    }
}

/// Which names there are, and which inodes are directories.
fn names(
    asked: &[&Asked],
    synced: &Synced,
    order: Order,
    kept: Kept,
    random: &mut impl FnMut(u64) -> u64,
) -> (BTreeMap<Name, Inode>, BTreeSet<Inode>) {
    // What is kept in one order, and up to which request it is safe.
    let kin = |directory: Inode| match order {
        Order::One => (ROOT, synced.last),
        Order::Each => (
            directory,
            synced.of.get(&directory).copied().unwrap_or_default(),
        ),
    };
    let mut doubtful: BTreeMap<Inode, u64> = BTreeMap::new();
    for (nth, asked) in asked.iter().enumerate() {
        if let Some((kin, safe)) = asked.directory().map(kin)
            && nth >= safe
        {
            *doubtful.entry(kin).or_default() += 1;
        }
    }
    for count in doubtful.values_mut() {
        *count = match kept {
            Kept::None => 0,
            Kept::All => *count,
            Kept::Writes | Kept::Sectors => random(*count + 1),
        };
    }
    let (mut names, mut directories) = (BTreeMap::new(), BTreeSet::new());
    for (nth, asked) in asked.iter().enumerate() {
        let Some((kin, safe)) = asked.directory().map(kin) else {
            continue;
        };
        if nth >= safe {
            match doubtful.get_mut(&kin) {
                Some(left) if *left > 0 => *left -= 1,
                _ => continue,
            }
        }
        match asked {
            Asked::Made {
                at,
                inode,
                is_directory,
            } => {
                names.insert(at.clone(), *inode);
                if *is_directory {
                    directories.insert(*inode);
                }
            }
            Asked::Removed { at } => drop(names.remove(at)),
            Asked::Renamed { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            _ => {}
        }
    }
    (names, directories)
}

/// What a file has that was safe up to a request.
fn content(
    changes: &[(usize, &Asked)],
    safe: usize,
    kept: Kept,
    random: &mut impl FnMut(u64) -> u64,
) -> Vec<u8> {
    let mut content = Vec::new();
    for (nth, change) in changes {
        let is_whole = *nth < safe
            || match kept {
                Kept::None => false,
                Kept::All => true,
                Kept::Writes => random(2) == 0,
                // Pieces of what is written, and any of the rest.
                Kept::Sectors => !matches!(change, Asked::Write { .. }) && random(2) == 0,
            };
        if is_whole {
            change_content(&mut content, change);
        } else if let (Kept::Sectors, Asked::Write { offset, data, .. }) = (kept, change) {
            let mut at = 0;
            while at < data.len() {
                let to_boundary = SECTOR - (offset + at) % SECTOR;
                let piece = &data[at..data.len().min(at + to_boundary)];
                if random(2) == 0 {
                    put(&mut content, offset + at, piece);
                }
                at += piece.len();
            }
        }
    }
    content
}

fn change_content(content: &mut Vec<u8>, change: &Asked) {
    match change {
        Asked::Write { offset, data, .. } => put(content, *offset, data),
        Asked::Length { bytes, .. } => content.resize(*bytes, 0),
        Asked::Punch { offset, bytes, .. } => {
            let end = (offset + bytes).min(content.len());
            if let Some(hole) = content.get_mut(*offset..end) {
                hole.fill(0);
            }
        }
        _ => {}
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    content.resize(content.len().max(end), 0);
    content[offset..end].copy_from_slice(data);
}

impl Left {
    /// Makes all of it in a directory, which is there and empty.
    pub fn write(&self, to: &Path) -> io::Result<()> {
        for path in &self.directories {
            fs::create_dir(to.join(path))?;
        }
        for (path, content) in &self.files {
            crate::power::write_sparse(&to.join(path), content)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(directory: Inode, name: &str) -> Name {
        (directory, name.into())
    }

    fn made(directory: Inode, at: &str, inode: Inode, is_directory: bool) -> Asked {
        Asked::Made {
            at: name(directory, at),
            inode,
            is_directory,
        }
    }

    fn write(inode: Inode, offset: usize, data: &[u8]) -> Asked {
        Asked::Write {
            inode,
            offset,
            data: data.into(),
        }
    }

    fn recording(asked: Vec<Asked>) -> FileRecording {
        let asked = asked.into_iter().enumerate();
        FileRecording {
            asked: asked.map(|(nth, one)| (nth as u64, one)).collect(),
        }
    }

    /// A file that is replaced, as a careful program does.
    fn replaced() -> FileRecording {
        recording(vec![
            made(ROOT, "d", 2, true),
            Asked::Sync(ROOT),
            made(2, "file", 3, false),
            write(3, 0, b"old"),
            Asked::Sync(3),
            Asked::Sync(2),
            made(2, "file.new", 4, false),
            write(4, 0, b"newer"),
            Asked::Sync(4),
            Asked::Renamed {
                from: name(2, "file.new"),
                to: name(2, "file"),
                inode: 4,
            },
            Asked::Sync(2),
        ])
    }

    fn left(cut: &Left, path: &str) -> Option<String> {
        let content = cut.files.get(Path::new(path))?;
        Some(String::from_utf8_lossy(content).into())
    }

    #[test]
    fn what_was_synced_is_there_and_of_the_rest_what_is_kept() {
        let recording = replaced();
        let cut = |requests, order, kept| recording.cut(requests, 0, order, kept, |_| 0);
        let file = |requests, order, kept| left(&cut(requests, order, kept), "d/file");
        for order in [Order::One, Order::Each] {
            assert_eq!(file(6, order, Kept::None).unwrap(), "old");
            assert_eq!(file(11, order, Kept::None).unwrap(), "newer");
            assert_eq!(file(10, order, Kept::None).unwrap(), "old");
            assert_eq!(file(10, order, Kept::All).unwrap(), "newer");
            assert_eq!(file(4, order, Kept::All).unwrap(), "old");
            // A directory that is not there has no files.
            assert_eq!(cut(1, order, Kept::None), Left::default());
        }
        // The file's own sync is none of its name.
        assert_eq!(file(5, Order::One, Kept::None).unwrap(), "old");
        assert_eq!(file(5, Order::Each, Kept::None), None);
        let forgetful = recording.cut(11, 4, Order::Each, Kept::None, |_| 0);
        assert_eq!(left(&forgetful, "d/file"), None);
    }

    #[test]
    fn pieces_of_what_was_not_synced_are_kept_by_sectors() {
        let recording = recording(vec![
            made(ROOT, "file", 2, false),
            write(2, 0, &[1; 700]),
            Asked::Sync(2),
            Asked::Sync(ROOT),
            write(2, 500, &[2; 600]),
            Asked::Length {
                inode: 2,
                bytes: 2000,
            },
            Asked::Punch {
                inode: 2,
                offset: 0,
                bytes: 100,
            },
        ]);
        let mut answers = [0, 1, 0, 1, 0].into_iter();
        let cut = recording.cut(7, 0, Order::Each, Kept::Sectors, |_| {
            answers.next().unwrap()
        });
        let content = &cut.files[Path::new("file")];
        // Bytes 500 to 511 and from 1024 on; the length is not, the hole is.
        let parts: [(usize, u8); 6] = [(0, 0), (99, 0), (100, 1), (500, 2), (512, 1), (1024, 2)];
        for (at, byte) in parts {
            assert_eq!(content[at], byte, "{at}");
        }
        assert_eq!(content.len(), 1100);
    }

    #[test]
    fn all_that_is_left_is_written() {
        let cut = replaced().cut(9, 0, Order::One, Kept::All, |_| 0);
        let directory = tempfile::tempdir().unwrap();
        cut.write(directory.path()).unwrap();
        let read = |name: &str| fs::read(directory.path().join("d").join(name)).unwrap();
        assert_eq!(
            (read("file"), read("file.new")),
            (b"old".into(), b"newer".into())
        );
    }
}
