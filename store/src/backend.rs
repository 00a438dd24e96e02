//! The only access of the store to files other than the index.
//!
//! Segments are written, synced, read and unlinked through [`Backend`] and nowhere else, so that
//! a second backend can simulate power loss, a slow disk or a full one.

use std::fmt::Debug;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pool_core::extent::SegmentId;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use crate::error::{Result, StoreError};
use crate::freeing;

/// A file, by device and inode, which no other has while it is open.
pub type Identity = (u64, u64);

/// A segment file that can be read.
pub trait SegmentFile: Debug + Send + Sync {
    /// Fills `buffer` from byte `offset`; a shorter file is an error.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buffer` at byte `offset`, within the pre-sized file.
    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all of these one behind the other, from byte `offset` on: in one piece where it can, as the page cache makes folios
    /// of what comes together.
    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut offset = offset;
        for part in parts {
            self.write_all_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }
    /// Gives the disk under a range back where the file system can; the range reads as zeros then.
    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()>;
    /// Says that a range was written and is to be durable soon: the disk may begin with it. Nothing is waited for, and
    /// nothing is durable by that.
    fn begin_sync(&self, _offset: u64, _bytes: u64) {}
    /// Where the first byte at or behind `offset` is that is not in a hole: `offset` itself where that is not known, `None`
    /// when there is none.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }
    /// Makes all writes durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// The file itself, for passthrough; a backend without real files has none.
    fn file(&self) -> Option<&File>;
    /// Which file it is, whatever has its name by now.
    fn identity(&self) -> Option<Identity> {
        let found = self.file()?.metadata().ok()?;
        Some((found.dev(), found.ino()))
    }
}

/// Where segments are kept.
pub trait Backend: Debug + Send + Sync {
    /// Creates a segment of `bytes` bytes that reads as zeros; its size and its name are durable.
    fn create(&self, id: SegmentId, bytes: u64) -> Result<Arc<dyn SegmentFile>>;
    /// Makes the file of a segment that nothing was ever committed to: one of that name can be
    /// there, left by a stop or a refused commit, or not.
    fn recreate(&self, id: SegmentId, bytes: u64) -> Result<Arc<dyn SegmentFile>>;
    /// Opens a segment.
    fn open(&self, id: SegmentId, writable: bool) -> Result<Arc<dyn SegmentFile>>;
    /// Which file has the segment's name.
    fn identity(&self, id: SegmentId) -> Result<Identity>;
    /// True when a file that was opened is still the one that has the segment's name.
    fn is_named(&self, id: SegmentId, file: &dyn SegmentFile) -> bool;
    /// Removes a segment's name; what has it open or mapped keeps it.
    fn unlink(&self, id: SegmentId) -> Result<()>;
    /// Moves a segment out of the way for good, under a name that nothing had; answers with that.
    fn set_aside(&self, id: SegmentId) -> Result<PathBuf>;
    /// Everything that was moved out of the way: name and bytes.
    fn lost(&self) -> Result<Vec<(String, u64)>>;
    /// Bytes of a segment's file.
    fn length(&self, id: SegmentId) -> Result<u64>;
    /// The segment whose file it was made as, where that differs and the file says so.
    fn made_as(&self, id: SegmentId) -> Option<SegmentId>;
    /// Has the file of a segment say whose it is, if it does not and the file system keeps such things.
    fn label(&self, id: SegmentId);
    /// All segments that have a name.
    fn list(&self) -> Result<Vec<SegmentId>>;
    /// Bytes of disk that the segment takes up.
    fn disk_usage(&self, id: SegmentId) -> Result<u64>;
    /// Bytes that can be written to segments before the disk is full, as far as it can be told.
    fn free_bytes(&self) -> Result<u64>;
    /// Bytes that can be written to temporary files before their disk is full, likewise.
    fn free_for_temporary(&self) -> Result<u64>;
    /// A nameless file that grows as it is written and ends with its last user.
    fn temporary(&self) -> Result<Arc<dyn SegmentFile>>;
}

/// Extended attribute with the number of the segment that a file was made as: whatever it is called by now.
const NUMBER_ATTRIBUTE: &str = "user.pool.segment";

/// Segments as files `ID.seg` of a directory.
#[derive(Debug)]
pub struct DirectoryBackend {
    directory: PathBuf,
    staging: PathBuf,
    lost: PathBuf,
}

impl DirectoryBackend {
    /// A backend on two existing directories, for segments and for temporary files, and one that is
    /// made when something has to be moved out of the way.
    pub fn new(
        directory: impl Into<PathBuf>,
        staging: impl Into<PathBuf>,
        lost: impl Into<PathBuf>,
    ) -> Self {
        Self {
            directory: directory.into(),
            staging: staging.into(),
            lost: lost.into(),
        }
    }

    fn path(&self, id: SegmentId) -> PathBuf {
        self.directory.join(format!("{id}.seg"))
    }

    /// Makes the file of a segment, its size and its name durable: slots of it can be on record as
    /// handed out before anything is written to them.
    fn make(
        &self,
        id: SegmentId,
        bytes: u64,
        options: &mut OpenOptions,
    ) -> Result<Arc<dyn SegmentFile>> {
        let path = self.path(id);
        let file = options
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| StoreError::io("creating the segment", &path, source))?;
        self.label(id);
        file.set_len(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|source| StoreError::io("sizing the segment", &path, source))?;
        self.sync_directory()?;
        Ok(Arc::new(file))
    }

    fn sync_directory(&self) -> Result<()> {
        sync_directory(&self.directory)
    }

    fn measure(&self, id: SegmentId) -> Result<Metadata> {
        let path = self.path(id);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NoSegment(id)),
            other => other.map_err(|source| StoreError::io("measuring the segment", &path, source)),
        }
    }
}

/// Opens what must be a file. Somebody may have put a pipe there, which would otherwise be waited for, or a device that
/// has no end.
pub(crate) fn open_file(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let mut options = options.clone();
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a file: move it away"))
    }
}

/// Opens what must be a file to read it.
pub(crate) fn read_file(path: &Path) -> io::Result<File> {
    open_file(path, OpenOptions::new().read(true))
}

/// Makes a file anew, to read and to write, and not what a link that has its name leads to.
pub(crate) fn new_file(path: &Path) -> io::Result<File> {
    remove_if_there(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).open(path)
}

/// Removes a name; that it is gone is no error.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes that can be written before the disk that `directory` is on is full.
pub(crate) fn free_bytes_of(directory: &Path) -> Result<u64> {
    rustix::fs::statvfs(directory)
        .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
        .map_err(|errno| StoreError::io("measuring", directory, errno.into()))
}

/// Makes changes of the names in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|source| StoreError::io("syncing the directory", directory, source))
}

/// Makes the name of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new(".")),
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Moves something to the directory `lost`, which is made if it is not there, under the name `name`, or that and a number if
/// it is taken; answers with where it is, which is durable.
pub(crate) fn move_aside(from: &Path, lost: &Path, name: &str) -> Result<PathBuf> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    fs::create_dir_all(lost).map_err(|source| StoreError::io("creating", lost, source))?;
    sync_parent(lost)?;
    for nth in 0u32.. {
        let to = lost.join(match nth {
            0 => name.to_owned(),
            _ => format!("{name}.{nth}"),
        });
        match renameat_with(CWD, from, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => {
                sync_directory(lost)?;
                sync_parent(from)?;
                return Ok(to);
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(StoreError::io("moving aside", from, errno.into())),
        }
    }
    unreachable!("a directory has fewer than 2^32 entries of one name")
}

impl Backend for DirectoryBackend {
    fn create(&self, id: SegmentId, bytes: u64) -> Result<Arc<dyn SegmentFile>> {
        self.make(id, bytes, OpenOptions::new().create_new(true))
    }

    fn recreate(&self, id: SegmentId, bytes: u64) -> Result<Arc<dyn SegmentFile>> {
        self.make(id, bytes, OpenOptions::new().create(true).truncate(false))
    }

    fn open(&self, id: SegmentId, writable: bool) -> Result<Arc<dyn SegmentFile>> {
        let path = self.path(id);
        match open_file(&path, OpenOptions::new().read(true).write(writable)) {
            Ok(file) => Ok(Arc::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NoSegment(id)),
            // It is lost, whatever is there in its place.
            Err(_) if fs::metadata(&path).is_ok_and(|found| !found.is_file()) => {
                Err(StoreError::NoSegment(id))
            }
            Err(source) => Err(StoreError::io("opening the segment", &path, source)),
        }
    }

    fn identity(&self, id: SegmentId) -> Result<Identity> {
        let found = self.measure(id)?;
        Ok((found.dev(), found.ino()))
    }

    fn is_named(&self, id: SegmentId, file: &dyn SegmentFile) -> bool {
        let opened = file.identity();
        opened.is_some() && opened == self.identity(id).ok()
    }

    fn unlink(&self, id: SegmentId) -> Result<()> {
        let path = self.path(id);
        let opened = open_file(&path, OpenOptions::new().write(true));
        remove_if_there(&path)
            .map_err(|source| StoreError::io("removing the segment", &path, source))?;
        self.sync_directory()?;
        if let Ok(file) = opened {
            freeing::free(&file);
        }
        Ok(())
    }

    fn set_aside(&self, id: SegmentId) -> Result<PathBuf> {
        move_aside(&self.path(id), &self.lost, &format!("{id}.seg"))
    }

    fn lost(&self) -> Result<Vec<(String, u64)>> {
        let error = |source| StoreError::io("listing", &self.lost, source);
        let entries = match fs::read_dir(&self.lost) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            other => other.map_err(error)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(error)?;
            let bytes = entry.metadata().map_err(error)?.len();
            files.push((entry.file_name().to_string_lossy().into_owned(), bytes));
        }
        files.sort();
        Ok(files)
    }

    fn length(&self, id: SegmentId) -> Result<u64> {
        let found = self.measure(id)?;
        if found.is_file() {
            Ok(found.len())
        } else {
            let path = self.path(id);
            Err(StoreError::Corrupt(format!(
                "{} is not a file",
                path.display()
            )))
        }
    }

    fn list(&self) -> Result<Vec<SegmentId>> {
        let error = |source| StoreError::io("listing", &self.directory, source);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            ids.extend(stem.and_then(|stem| stem.parse::<SegmentId>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn made_as(&self, id: SegmentId) -> Option<SegmentId> {
        let mut number = [0; 8];
        let length = getxattr(self.path(id), NUMBER_ATTRIBUTE, &mut number[..]).ok()?;
        let said = std::str::from_utf8(&number[..length]).ok()?;
        said.parse().ok().filter(|said| *said != id)
    }

    fn label(&self, id: SegmentId) {
        let number = id.to_string();
        let flags = XattrFlags::CREATE;
        match setxattr(self.path(id), NUMBER_ATTRIBUTE, number.as_bytes(), flags) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                tracing::debug!(%error, segment = %id, "the segment's file does not say whose it is");
            }
        }
    }

    fn disk_usage(&self, id: SegmentId) -> Result<u64> {
        Ok(self.measure(id)?.blocks() * 512)
    }

    fn free_bytes(&self) -> Result<u64> {
        free_bytes_of(&self.directory)
    }

    fn free_for_temporary(&self) -> Result<u64> {
        free_bytes_of(&self.staging)
    }

    fn temporary(&self) -> Result<Arc<dyn SegmentFile>> {
        let file = tempfile::tempfile_in(&self.staging).map_err(|source| {
            StoreError::io("creating a temporary file in", &self.staging, source)
        })?;
        Ok(Arc::new(Temporary(file)))
    }
}

/// A file that never had a name.
#[derive(Debug)]
struct Temporary(File);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = freeing::in_steps(&self.0) {
            tracing::debug!(%error, "a temporary file is freed as a whole");
        }
    }
}

impl SegmentFile for Temporary {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        SegmentFile::read_exact_at(&self.0, buffer, offset)
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        SegmentFile::write_all_at(&self.0, buffer, offset)
    }

    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.0.write_parts_at(parts, offset)
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.0.discard(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn file(&self) -> Option<&File> {
        Some(&self.0)
    }
}

impl SegmentFile for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, buffer, offset)
    }

    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut offset = offset;
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        // Without those that are empty.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match rustix::io::pwritev(self, rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut rest, written);
                    offset += written as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(self, flags, offset, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => other.map_err(Into::into),
        }
    }

    fn begin_sync(&self, offset: u64, bytes: u64) {
        begin_writeback(self, offset, bytes);
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        next_data(self, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn file(&self) -> Option<&File> {
        Some(self)
    }
}

/// See [`SegmentFile::next_data`], of any file, however long it is.
pub(crate) fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    use rustix::io::Errno;
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        // The filesystem does not tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(errno) => Err(errno.into()),
    }
}

/// Has the kernel begin to write what it has of a range to the disk. That it could not is no matter, and what fails on the way is told
/// by the next `fdatasync` all the same (sync_file_range(2): nothing is waited for, so no error is taken note of).
fn begin_writeback(file: &File, offset: u64, bytes: u64) {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the call takes a descriptor that is open for as long as `file` lives, and numbers.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset as libc::off64_t,
            bytes as libc::off64_t,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}
