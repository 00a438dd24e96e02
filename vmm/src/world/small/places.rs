//! Places of the small world in a guest's own file system. The kernel finds the way there, by whatever links,
//! directories and working directory; what it found is known by its inode.

use rustix::fs::{CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::{Node, Whose, files, has_place};

/// The place of open descriptors, and that of threads.
pub(crate) const DESCRIPTORS: &str = "/proc/self/fd";
const THREADS: &str = "/proc/self/task";
/// Directories that hold places.
const DIRECTORIES: [&str; 3] = ["/proc", "/proc/self", DESCRIPTORS];

/// What a place stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// What is opened instead.
    Node(Node),
    /// A directory that lists the guest's.
    Listing(Listing),
}

/// What a directory lists, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    /// Open descriptors.
    Descriptors,
    /// Threads.
    Threads,
}

/// All places, and what they stand for.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, Place)> {
    let files = files().filter(|path| has_place(path) && path.starts_with("/proc/"));
    let files = files.map(|path| (path, Place::Node(Node::File(path, Whose::Process))));
    let standard = ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"];
    let standard = (0..).zip(standard);
    let standard = standard.map(|(number, path)| (path, Place::Node(Node::Descriptor(number))));
    files.chain(standard).chain([
        (DESCRIPTORS, Place::Listing(Listing::Descriptors)),
        (THREADS, Place::Listing(Listing::Threads)),
    ])
}

/// Where they are: inodes of one file system, in the order of [`all`], and zero where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    device: u64,
    inodes: Vec<u64>,
}

impl Places {
    /// Those in the file system whose root is this process's. What is mounted over one of them is none.
    pub(crate) fn look_up() -> Result<Self, Errno> {
        let device = rustix::fs::stat("/")?.st_dev;
        let paths: Vec<_> = all().map(|(path, _)| path).collect();
        let mut inodes = vec![0; paths.len()];
        for directory in DIRECTORIES {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
            let mut room = [std::mem::MaybeUninit::uninit(); 4096];
            let mut entries = RawDir::new(&opened, &mut room);
            while let Some(entry) = entries.next() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                let is_it = |path: &str| {
                    let rest = path.strip_prefix(directory);
                    let rest = rest.and_then(|rest| rest.strip_prefix('/'));
                    rest.is_some_and(|rest| rest.as_bytes() == name)
                };
                if let Some(at) = paths.iter().position(|path| is_it(path)) {
                    inodes[at] = entry.ino();
                }
            }
        }
        Ok(Self { device, inodes })
    }

    /// The place that is this inode of this device.
    pub(crate) fn at(&self, device: u64, inode: u64) -> Option<Place> {
        if device != self.device || inode == 0 {
            return None;
        }
        let at = self.inodes.iter().position(|&known| known == inode)?;
        all().nth(at).map(|(_, place)| place)
    }

    /// Bytes of [`Self::bytes`].
    pub(crate) fn length() -> usize {
        8 * (1 + all().count())
    }

    /// For another process.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let words = std::iter::once(&self.device).chain(&self.inodes);
        words.flat_map(|word| word.to_le_bytes()).collect()
    }

    /// From another process.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let words = bytes.chunks_exact(8).map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_le_bytes(bytes)
        });
        let mut words = words;
        let device = words.next().unwrap_or_default();
        Self {
            device,
            inodes: words.collect(),
        }
    }
}

/// How `getdents` (`true`) or `getdents64` lists `numbers`, which are in order, in `room` bytes from `position` on; and
/// the position behind that.
pub(crate) fn list(
    what: Listing,
    numbers: &[i32],
    position: u64,
    room: usize,
    old: bool,
) -> Result<(Vec<u8>, u64), Errno> {
    let kind = match what {
        Listing::Descriptors => libc::DT_LNK,
        Listing::Threads => libc::DT_DIR,
    };
    let selves = [(0, ".".to_owned()), (1, "..".to_owned())];
    let selves = selves
        .into_iter()
        .map(|(at, name)| (at, name, libc::DT_DIR));
    let numbers = numbers
        .iter()
        .map(|&number| (number as u64 + 2, number.to_string(), kind));
    let (mut bytes, mut next) = (Vec::new(), position);
    for (at, name, kind) in selves.chain(numbers).filter(|entry| entry.0 >= position) {
        let entry = entry(at, &name, kind, old);
        if bytes.len() + entry.len() > room {
            if bytes.is_empty() {
                return Err(Errno::INVAL);
            }
            break;
        }
        bytes.extend_from_slice(&entry);
        next = at + 1;
    }
    Ok((bytes, next))
}

/// `struct linux_dirent`, which has its kind at its end, or `struct linux_dirent64`.
fn entry(at: u64, name: &str, kind: u8, old: bool) -> Vec<u8> {
    // Behind the name a NUL, and in the old one its kind.
    let (head, tail) = if old { (18, 2) } else { (19, 1) };
    let length = (head + name.len() + tail).next_multiple_of(8);
    let mut bytes = vec![0; length];
    bytes[0..8].copy_from_slice(&(at + 1).to_le_bytes());
    bytes[8..16].copy_from_slice(&(at + 1).to_le_bytes());
    bytes[16..18].copy_from_slice(&(length as u16).to_le_bytes());
    bytes[head..head + name.len()].copy_from_slice(name.as_bytes());
    bytes[if old { length - 1 } else { 18 }] = kind;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8], old: bool) -> Vec<(String, u8)> {
        let mut rest = bytes;
        let mut names = Vec::new();
        while !rest.is_empty() {
            let length = u16::from_le_bytes([rest[16], rest[17]]) as usize;
            let (head, kind) = if old { (18, length - 1) } else { (19, 18) };
            let name = std::ffi::CStr::from_bytes_until_nul(&rest[head..]).unwrap();
            names.push((name.to_str().unwrap().to_owned(), rest[kind]));
            rest = &rest[length..];
        }
        names
    }

    #[test]
    fn numbers_are_listed_piece_by_piece() {
        let numbers = [0, 1, 7, 100];
        for old in [false, true] {
            let what = Listing::Descriptors;
            let (mut all, mut position) = (Vec::new(), 0);
            loop {
                let (bytes, next) = list(what, &numbers, position, 60, old).unwrap();
                if bytes.is_empty() {
                    break;
                }
                all.extend(names(&bytes, old));
                position = next;
            }
            let expected = [".", "..", "0", "1", "7", "100"];
            let found: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(found, expected);
            assert_eq!([all[1].1, all[2].1], [libc::DT_DIR, libc::DT_LNK]);
            assert_eq!(list(what, &numbers, 0, 20, old), Err(Errno::INVAL));
            assert_eq!(list(what, &numbers, 200, 20, old), Ok((vec![], 200)));
            // One that was closed meanwhile is left out, and no other twice.
            let (bytes, _) = list(what, &[7, 100], 4, 4096, old).unwrap();
            assert_eq!(names(&bytes, old).len(), 2);
        }
    }

    #[test]
    fn places_are_known_by_their_inodes() {
        let count = all().count() as u64;
        let places = Places {
            device: 5,
            inodes: (0..count).collect(),
        };
        assert_eq!(places.bytes().len(), Places::length());
        assert_eq!(Places::from_bytes(&places.bytes()), places);
        assert_eq!(places.at(5, 0), None, "there is none");
        assert_eq!(places.at(6, 1), None);
        assert_eq!(places.at(5, count), None);
        let last = places.at(5, count - 1);
        assert_eq!(last, Some(Place::Listing(Listing::Threads)));
        assert!(matches!(places.at(5, 1), Some(Place::Node(Node::File(..)))));
    }
}
