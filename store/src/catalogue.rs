//! A catalogue, as a backup and a checkpoint of the journal have one: which store in which state, its segments, and what only
//! its index knows.
//!
//! FORMAT.md has the bytes. The digest at the end covers all of them, and nothing is taken from a catalogue before it
//! was found right.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use pool_core::page::PAGE_SIZE;

use crate::backend::{new_file, read_file};
use crate::error::{Result, StoreError};
use crate::format::Fields;
use crate::index::{Kept, Recorded};
use crate::manifest::Timestamp;

const MAGIC: &[u8; 8] = b"POOLBACK";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const ENTRY: usize = 12;
const DIGEST: usize = 32;

/// What a catalogue says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of a segment of the store.
    pub(crate) segment_bytes: u64,
    /// The store's identity.
    pub(crate) identity: [u8; 16],
    /// Commits that the store had made.
    pub(crate) commits: u64,
    /// The first bytes of the digest of the last commit's frame in the journal: copies of a store that each went on differ in it.
    /// Zeros where it is not known.
    pub(crate) frame: [u8; 8],
    /// When it was begun.
    pub(crate) begun_at: Timestamp,
}

/// What an entry of a catalogue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A record of the index.
    Kept(Kept),
    /// A segment: its number, as in the index, and its record. A backup has a copy of it.
    Segment,
    /// An object that was damaged in the store: its digest.
    Damaged,
}

impl Entry {
    const ALL: [Self; 10] = [
        Self::Kept(Kept::Meta),
        Self::Kept(Kept::Objects),
        Self::Kept(Kept::Libraries),
        Self::Kept(Kept::Tags),
        Self::Kept(Kept::Manifests),
        Self::Kept(Kept::References),
        Self::Kept(Kept::Registry),
        Self::Kept(Kept::Tokens),
        Self::Segment,
        Self::Damaged,
    ];

    fn number(self) -> u8 {
        let place = Self::ALL.iter().position(|entry| *entry == self);
        place.expect("every entry is listed") as u8 + 1
    }

    fn of(number: u8) -> Option<Self> {
        let place = usize::from(number).checked_sub(1)?;
        Self::ALL.get(place).copied()
    }

    /// What it is in a checkpoint, which names no damaged objects.
    pub(crate) fn recorded(self) -> Option<Recorded> {
        match self {
            Self::Segment => Some(Recorded::Segment),
            Self::Kept(kept) => Some(Recorded::Kept(kept)),
            Self::Damaged => None,
        }
    }
}

impl From<Recorded> for Entry {
    fn from(what: Recorded) -> Self {
        match what {
            Recorded::Segment => Self::Segment,
            Recorded::Kept(kept) => Self::Kept(kept),
        }
    }
}

/// A catalogue in the making.
pub(crate) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Writer {
    pub(crate) fn create(path: &Path, header: &Header) -> Result<Self> {
        let file = new_file(path).map_err(|error| StoreError::io("creating", path, error))?;
        let mut writer = Self {
            path: path.into(),
            file: BufWriter::new(file),
            hasher: blake3::Hasher::new(),
        };
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(PAGE_SIZE as u32).to_le_bytes());
        bytes.extend_from_slice(&header.segment_bytes.to_le_bytes());
        bytes.extend_from_slice(&header.identity);
        bytes.extend_from_slice(&header.commits.to_le_bytes());
        bytes.extend_from_slice(&header.begun_at.to_le_bytes());
        bytes.extend_from_slice(&header.frame);
        writer.write(&bytes)?;
        Ok(writer)
    }

    /// Adds an entry.
    pub(crate) fn put(&mut self, entry: Entry, key: &[u8], value: &[u8]) -> Result<()> {
        let mut head = [0; ENTRY];
        head[0] = entry.number();
        for (part, at) in [(key, 4), (value, 8)] {
            let length = u32::try_from(part.len())
                .map_err(|_| StoreError::Corrupt(format!("a record of {} bytes", part.len())))?;
            head[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        self.write(&head)?;
        self.write(key)?;
        self.write(value)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        let written = self.file.write_all(bytes);
        written.map_err(|error| StoreError::io("writing", &self.path, error))
    }

    /// Writes the digest, and waits until the file survives a power cut. Answers with its length in bytes.
    pub(crate) fn finish(mut self) -> Result<u64> {
        let digest = self.hasher.finalize();
        let mut end = || -> io::Result<u64> {
            self.file.write_all(digest.as_bytes())?;
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            Ok(self.file.get_ref().metadata()?.len())
        };
        end().map_err(|error| StoreError::io("writing", &self.path, error))
    }
}

/// A catalogue that was found whole.
#[derive(Debug)]
pub(crate) struct Catalogue {
    path: PathBuf,
    file: File,
    header: Header,
    /// Bytes before the digest.
    end: u64,
}

impl Catalogue {
    /// Opens the catalogue at `path` and reads it to its end; `None` when there is none. `advice` is what to do about a damaged
    /// one.
    pub(crate) fn open(path: &Path, advice: &str) -> Result<Option<Self>> {
        let Some(catalogue) = Self::open_unread(path, advice)? else {
            return Ok(None);
        };
        let read = |error| StoreError::io("reading", path, error);
        let mut file = &catalogue.file;
        file.rewind().map_err(read)?;
        let mut hasher = blake3::Hasher::new();
        let entries = file.take(catalogue.end);
        hasher.update_reader(entries).map_err(read)?;
        let mut digest = [0; DIGEST];
        file.read_exact(&mut digest).map_err(read)?;
        if hasher.finalize() != digest {
            return Err(damaged(path, advice));
        }
        Ok(Some(catalogue))
    }

    /// The same of one that is not compared with its digest: whatever it says may not be what was written.
    pub(crate) fn open_unread(path: &Path, advice: &str) -> Result<Option<Self>> {
        let read = |error| StoreError::io("reading", path, error);
        let mut file = match read_file(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read(error)),
        };
        let length = file.metadata().map_err(read)?.len();
        let Some(end) = length
            .checked_sub(DIGEST as u64)
            .filter(|end| *end >= HEADER as u64)
        else {
            return Err(damaged(path, advice));
        };
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(read)?;
        let header = decode_header(&header).map_err(|why| unusable(path, why))?;
        Ok(Some(Self {
            path: path.into(),
            file,
            header,
            end,
        }))
    }

    /// What the catalogue at `path` says of itself. That is not compared with its digest.
    pub(crate) fn peek(path: &Path) -> Result<Header> {
        let mut header = [0; HEADER];
        read_file(path)
            .and_then(|mut file| file.read_exact(&mut header))
            .map_err(|error| StoreError::io("reading", path, error))?;
        decode_header(&header).map_err(|why| unusable(path, why))
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.end + DIGEST as u64
    }

    /// Calls `visit` with each entry, its key and its value, in the order in which they were put.
    pub(crate) fn each(
        &self,
        mut visit: impl FnMut(Entry, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut entries = self.entries()?;
        while let Some((entry, key, value)) = entries.read_next()? {
            visit(entry, key, value)?;
        }
        Ok(())
    }

    /// The entries one after the other, in the order in which they were put.
    pub(crate) fn entries(&self) -> Result<Entries<'_>> {
        let mut file = BufReader::new(&self.file);
        file.seek(SeekFrom::Start(HEADER as u64))
            .map_err(|error| StoreError::io("reading", &self.path, error))?;
        Ok(Entries {
            path: &self.path,
            file,
            end: self.end,
            left: self.end - HEADER as u64,
            key: Vec::new(),
            value: Vec::new(),
        })
    }
}

/// An entry, its key and its value.
pub(crate) type Put<'a> = (Entry, &'a [u8], &'a [u8]);

/// See [`Catalogue::entries`].
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    path: &'a Path,
    file: BufReader<&'a File>,
    /// Where the last one ends.
    end: u64,
    /// Bytes of entries that were not read yet.
    left: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Entries<'_> {
    /// Bytes of the file before the next entry.
    pub(crate) fn position(&self) -> u64 {
        self.end - self.left
    }

    /// The next entry, its key and its value; `None` at the end.
    pub(crate) fn read_next(&mut self) -> Result<Option<Put<'_>>> {
        if self.left == 0 {
            return Ok(None);
        }
        let read = |error| StoreError::io("reading", self.path, error);
        let beyond = || unusable(self.path, "has an entry that goes past its end");
        let mut head = [0; ENTRY];
        self.left = self.left.checked_sub(ENTRY as u64).ok_or_else(beyond)?;
        self.file.read_exact(&mut head).map_err(read)?;
        for (at, part) in [(4, &mut self.key), (8, &mut self.value)] {
            let length = u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            self.left = self.left.checked_sub(length.into()).ok_or_else(beyond)?;
            part.resize(length as usize, 0);
            self.file.read_exact(part).map_err(read)?;
        }
        let entry = Entry::of(head[0]).ok_or_else(|| {
            let why =
                "has an entry of a kind that this program does not know: use a newer release of it";
            unusable(self.path, why)
        })?;
        Ok(Some((entry, &self.key, &self.value)))
    }
}

fn damaged(path: &Path, advice: &str) -> StoreError {
    unusable(path, format!("is cut short or damaged: {advice}"))
}

fn unusable(path: &Path, why: impl Into<String>) -> StoreError {
    StoreError::Backup {
        path: path.into(),
        why: why.into(),
    }
}

fn decode_header(bytes: &[u8]) -> std::result::Result<Header, String> {
    let mut fields = Fields(bytes);
    let mut read = || {
        let magic = fields.take(8)?;
        let (version, page_size) = (fields.u32()?, fields.u32()?);
        let header = Header {
            segment_bytes: fields.u64()?,
            identity: fields.take(16)?.try_into().ok()?,
            commits: fields.u64()?,
            begun_at: fields.u64()?,
            frame: fields.take(8)?.try_into().ok()?,
        };
        Some((magic, version, page_size, header))
    };
    match read() {
        Some((magic, version, page_size, header)) if magic == MAGIC => {
            if version != VERSION {
                Err(format!(
                    "has version {version}, and this program reads {VERSION}: use a newer release of it"
                ))
            } else if u64::from(page_size) != PAGE_SIZE {
                Err(format!(
                    "is of pages of {page_size} bytes, and this program knows pages of {PAGE_SIZE}"
                ))
            } else {
                Ok(header)
            }
        }
        _ => Err("is no catalogue".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const STORE: Header = Header {
        segment_bytes: 4 << 20,
        identity: [7; 16],
        commits: 9,
        frame: [3; 8],
        begun_at: 5,
    };

    type Kept = (Entry, Vec<u8>, Vec<u8>);

    fn entries(catalogue: &Catalogue) -> Result<Vec<Kept>> {
        let mut all = Vec::new();
        catalogue.each(|entry, key, value| {
            all.push((entry, key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn what_was_put_is_read_back_and_any_other_byte_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalogue");
        assert!(Catalogue::open(&path, "copy it again").unwrap().is_none());
        let mut writer = Writer::create(&path, &STORE).unwrap();
        for entry in Entry::ALL {
            writer.put(entry, b"key", &[entry.number(); 5]).unwrap();
        }
        writer.put(Entry::Damaged, &[], &[]).unwrap();
        let length = writer.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, length);

        let catalogue = Catalogue::open(&path, "copy it again").unwrap().unwrap();
        assert_eq!(catalogue.header(), &STORE);
        let found = entries(&catalogue).unwrap();
        assert_eq!(found.len(), 11);
        for (entry, (found, key, value)) in Entry::ALL.into_iter().zip(&found) {
            assert_eq!(
                (entry, &key[..], &value[..]),
                (*found, &b"key"[..], &[entry.number(); 5][..])
            );
        }

        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 4;
            fs::write(&path, &spoilt).unwrap();
            assert!(
                Catalogue::open(&path, "copy it again").is_err(),
                "byte {at}"
            );
            fs::write(&path, &bytes[..at]).unwrap();
            assert!(
                Catalogue::open(&path, "copy it again").is_err(),
                "length {at}"
            );
        }
    }

    #[test]
    fn entries_with_a_right_digest_are_looked_at_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalogue");
        let mut writer = Writer::create(&path, &STORE).unwrap();
        writer
            .write(&[11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .unwrap();
        writer.finish().unwrap();
        let unknown =
            entries(&Catalogue::open(&path, "copy it again").unwrap().unwrap()).unwrap_err();
        assert!(unknown.to_string().contains("newer release"), "{unknown}");
        for tail in [
            &[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..],
            &[1, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0],
            &[1],
        ] {
            let mut writer = Writer::create(&path, &STORE).unwrap();
            writer.write(tail).unwrap();
            writer.finish().unwrap();
            let error =
                entries(&Catalogue::open(&path, "copy it again").unwrap().unwrap()).unwrap_err();
            assert!(error.to_string().contains("past its end"), "{error}");
        }
    }
}
