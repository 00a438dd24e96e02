//! Power cuts, file by file: a filesystem that writes down what it is asked for, and what a cut can leave of that.
//!
//! It is a FUSE server of this process that keeps everything in memory, and it promises no more than POSIX does (fsync(2)): a cut
//! leaves what was written to a file before its last `fsync`, and of the rest anything. Names are kept as [`Order`] says. So
//! what a [disk](crate::power) with a particular filesystem happens to keep is not taken for what was asked for.

mod server;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
pub use server::RecordedFiles;

use crate::recording::{self, Course, Kept, Recorded, Requests, SECTOR, write_sparse};

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

impl recording::Asked for Asked {
    fn save(&self) -> (Value, &[u8]) {
        let name = |at: &Name| json!([at.0, at.1.to_string_lossy()]);
        match self {
            Self::Made {
                at,
                inode,
                is_directory,
            } => (json!(["made", name(at), inode, is_directory]), &[]),
            Self::Removed { at } => (json!(["removed", name(at)]), &[]),
            Self::Renamed { from, to, inode } => {
                (json!(["renamed", name(from), name(to), inode]), &[])
            }
            Self::Write {
                inode,
                offset,
                data,
            } => (json!(["write", inode, offset]), data),
            Self::Length { inode, bytes } => (json!(["length", inode, bytes]), &[]),
            Self::Punch {
                inode,
                offset,
                bytes,
            } => (json!(["punch", inode, offset, bytes]), &[]),
            Self::Sync(inode) => (json!(["sync", inode]), &[]),
        }
    }

    fn load(saved: &Value, data: Box<[u8]>) -> Option<Self> {
        let name = |nth: usize| -> Option<Name> {
            let name = saved[nth][1].as_str()?;
            Some((saved[nth][0].as_u64()?, name.into()))
        };
        let inode = |nth: usize| saved[nth].as_u64();
        let bytes = |nth: usize| Some(saved[nth].as_u64()? as usize);
        Some(match saved[0].as_str()? {
            "made" => Self::Made {
                at: name(1)?,
                inode: inode(2)?,
                is_directory: saved[3].as_bool()?,
            },
            "removed" => Self::Removed { at: name(1)? },
            "renamed" => Self::Renamed {
                from: name(1)?,
                to: name(2)?,
                inode: inode(3)?,
            },
            "write" => Self::Write {
                inode: inode(1)?,
                offset: bytes(2)?,
                data,
            },
            "length" => Self::Length {
                inode: inode(1)?,
                bytes: bytes(2)?,
            },
            "punch" => Self::Punch {
                inode: inode(1)?,
                offset: bytes(2)?,
                bytes: bytes(3)?,
            },
            "sync" => Self::Sync(inode(1)?),
            _ => return None,
        })
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
    requests: Requests<Asked>,
}

/// What a cut left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl FileRecording {
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
        let asked = self.requests.until(requests);
        let synced = Synced::of(asked, forgotten);
        let (names, directories) = names(asked, &synced, order, kept, &mut random);
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

impl Recorded for FileRecording {
    fn course(&self) -> &Course {
        self.requests.course()
    }

    fn save(&self, to: &Path, journal: &str) -> Result<()> {
        self.requests.save(to, &json!("files"), journal)
    }

    fn load(from: &Path) -> Result<(Self, String)> {
        let (_, requests, journal) = Requests::load(from)?;
        Ok((Self { requests }, journal))
    }
}

/// Up to which request things are safe.
struct Synced {
    of: HashMap<Inode, usize>,
    last: usize,
}

impl Synced {
    fn of(asked: &[Asked], forgotten: usize) -> Self {
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
    asked: &[Asked],
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
            write_sparse(&to.join(path), content)?;
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
        let mut requests = Requests::default();
        for (nth, one) in asked.into_iter().enumerate() {
            requests.push(nth as u64, one);
        }
        FileRecording { requests }
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
    fn what_was_saved_is_cut_alike() {
        let mut recording = replaced();
        let more = [
            Asked::Length {
                inode: 4,
                bytes: 2000,
            },
            Asked::Punch {
                inode: 4,
                offset: 1,
                bytes: 2,
            },
            Asked::Removed {
                at: name(2, "file"),
            },
        ];
        for asked in more {
            recording.requests.push(77, asked);
        }
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("recording");
        recording.save(&place, "+1\n").unwrap();
        let (loaded, journal) = FileRecording::load(&place).unwrap();
        assert_eq!(journal, "+1\n");
        assert_eq!(loaded.course().len(), recording.course().len());
        for requests in 0..=recording.course().len() {
            let cut = |of: &FileRecording| of.cut(requests, 0, Order::One, Kept::All, |_| 0);
            assert_eq!(cut(&loaded), cut(&recording));
            assert_eq!(
                loaded.course().journal(requests),
                recording.course().journal(requests)
            );
        }
        // That of a disk is another kind.
        assert!(crate::power::Recording::load(&place).is_err());
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
