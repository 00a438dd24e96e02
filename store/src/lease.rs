//! Leases: who maps what, released by the kernel when the holder dies.
//!
//! A lease is a shared record lock of one byte in the store's `leases` file, at an offset that
//! the leased thing determines. The file stays empty: a lock needs no byte under it. Locks belong
//! to an open file description (`F_OFD_SETLK`, `fcntl(2)`), so they end when the holder's last
//! descriptor goes, by `close`, `exit` or SIGKILL alike, and no timer is needed. A collector asks
//! whether anyone holds a byte by `F_OFD_GETLK` of an exclusive lock.
//!
//! Two things could share an offset by accident (62 bits of digest): then one is kept for as long
//! as the other is leased, which wastes space and loses nothing.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pool_core::digest::ObjectId;
use pool_core::extent::SegmentId;

use crate::backend::{Identity, open_file, read_file};
use crate::directory::identity;
use crate::error::{Result, StoreError};

/// A byte of the lease file, standing for an object or a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey(pub(crate) u64);

/// Objects lie above this offset, segments below.
const OBJECT_BASE: u64 = 1 << 62;

impl From<ObjectId> for LeaseKey {
    fn from(id: ObjectId) -> Self {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&id.0[..8]);
        Self(OBJECT_BASE | (u64::from_le_bytes(prefix) >> 2))
    }
}

impl From<SegmentId> for LeaseKey {
    fn from(id: SegmentId) -> Self {
        Self(u64::from(id.0))
    }
}

/// The lease file, opened by one process. Each key is locked once however many leases of it this
/// process holds.
///
/// Somebody may remove the file, move it or put another in its place while leases are held in it. Then
/// the file that is there next is the one that others ask, so all leases are taken in it again as soon
/// as that is noticed, at the next lease, question or [look](Self::look_again). Who holds leases in the
/// former file alone is asked there for as long as this process has it open.
#[derive(Debug)]
pub struct LeaseTable {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file at the path, last, after those that were there before. None as long as there is no
    /// lease file and none can be made, so that nobody can collect.
    files: Vec<LeaseFile>,
    holders: HashMap<LeaseKey, usize>,
}

#[derive(Debug)]
struct LeaseFile {
    file: File,
    /// What the path named then.
    identity: Option<Identity>,
}

/// A byte that stands for nothing: between segments and objects.
pub(crate) const PROBED: u64 = 1 << 61;

/// A lock that holds nothing, for as long as this value lives: to see how the kernel shows one.
#[derive(Debug)]
pub(crate) struct Probe<'a>(&'a File);

impl<'a> Probe<'a> {
    /// `None` where no lock can be taken.
    pub(crate) fn take(file: &'a File) -> Option<Self> {
        ofd::lock_shared(file, PROBED).ok()?;
        Some(Self(file))
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        // It ends with the file, too.
        let _ = ofd::unlock(self.0, PROBED);
    }
}

/// Something that is held against collection for as long as this value lives.
#[derive(Debug)]
pub struct Lease {
    table: Arc<LeaseTable>,
    key: LeaseKey,
}

impl LeaseTable {
    /// Opens the lease file at `path`, and makes one where there is none. Permission to read is
    /// enough where there is one: a shared lock asks for no more, and it is seen through any other
    /// mount of the same filesystem. On a read-only filesystem without lease file there is nobody
    /// to ask for leases, and taking one does nothing.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let state = State {
            files: open_or_make(path)?.into_iter().collect(),
            ..State::default()
        };
        Ok(Arc::new(Self {
            path: path.into(),
            state: Mutex::new(state),
        }))
    }

    /// Takes a lease. Never waits: only a collector's brief question could conflict, and that one
    /// takes no lock.
    pub fn acquire(self: &Arc<Self>, key: impl Into<LeaseKey>) -> Result<Lease> {
        let key = key.into();
        let mut state = self.current(open_or_make)?;
        if let (false, Some(last)) = (state.holders.contains_key(&key), state.files.last()) {
            self.lock(&last.file, key)?;
        }
        *state.holders.entry(key).or_insert(0) += 1;
        drop(state);
        Ok(Lease {
            table: Arc::clone(self),
            key,
        })
    }

    /// True when anybody holds a lease of `key`, this process included.
    pub fn is_held(&self, key: impl Into<LeaseKey>) -> Result<bool> {
        let key = key.into();
        let state = self.current(open)?;
        if state.holders.contains_key(&key) {
            return Ok(true);
        }
        for LeaseFile { file, .. } in &state.files {
            let locked = ofd::is_locked(file, key.0)
                .map_err(|source| StoreError::io("asking for leases in", &self.path, source))?;
            if locked {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes all leases again if the file that they are held in is no longer the one at the path.
    pub fn look_again(&self) -> Result<()> {
        self.current(open).map(drop)
    }

    /// The state with the file that is there now, as `open` finds it.
    fn current(
        &self,
        open: impl FnOnce(&Path) -> Result<Option<LeaseFile>>,
    ) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.files.last().and_then(|last| last.identity);
        if identity(&self.path)? != last
            && let Some(next) = open(&self.path)?
        {
            tracing::warn!(
                path = %self.path.display(),
                "the lease file is another one: leases are taken again in the one that is there now"
            );
            for key in state.holders.keys() {
                self.lock(&next.file, *key)?;
            }
            state.files.push(next);
        }
        Ok(state)
    }

    fn lock(&self, file: &File, key: LeaseKey) -> Result<()> {
        ofd::lock_shared(file, key.0)
            .map_err(|source| StoreError::io("taking a lease in", &self.path, source))
    }

    fn release(&self, key: LeaseKey) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = state.holders.get_mut(&key) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.holders.remove(&key);
        for LeaseFile { file, .. } in &state.files {
            if let Err(error) = ofd::unlock(file, key.0) {
                // The lock then lasts until this process ends: too long, and harmless.
                tracing::warn!(%error, ?key, "releasing a lease failed");
            }
        }
    }
}

/// Opens the lease file; `None` when there is none, so that nobody asks in it.
fn open(path: &Path) -> Result<Option<LeaseFile>> {
    // Before: if it is replaced now, that is noticed the next time.
    let identity = identity(path)?;
    match read_file(path) {
        Ok(file) => Ok(Some(LeaseFile { file, identity })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("opening the lease file", path, error)),
    }
}

/// Opens the lease file, or makes one; `None` where that is impossible and nobody can collect.
fn open_or_make(path: &Path) -> Result<Option<LeaseFile>> {
    let mut create = OpenOptions::new();
    create.read(true).write(true).create(true).truncate(false);
    loop {
        if let Some(file) = open(path)? {
            return Ok(Some(file));
        }
        match open_file(path, &create) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                tracing::warn!(
                    path = %path.display(),
                    "no lease file on a read-only filesystem: nothing is held"
                );
                return Ok(None);
            }
            Err(error) => return Err(StoreError::io("making the lease file", path, error)),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.table.release(self.key);
    }
}

/// Open file description locks, which need `unsafe`.
mod ofd {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    fn request(kind: libc::c_int, offset: u64) -> libc::flock {
        libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: offset as libc::off_t,
            l_len: 1,
            l_pid: 0,
        }
    }

    fn fcntl(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
        // SAFETY: the descriptor is open for as long as `file` is borrowed, and `lock` is a
        // valid flock that the kernel reads and, for F_OFD_GETLK, writes.
        let status = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
        if status == -1 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    pub(super) fn lock_shared(file: &File, offset: u64) -> io::Result<()> {
        fcntl(file, libc::F_OFD_SETLK, &mut request(libc::F_RDLCK, offset))
    }

    pub(super) fn unlock(file: &File, offset: u64) -> io::Result<()> {
        fcntl(file, libc::F_OFD_SETLK, &mut request(libc::F_UNLCK, offset))
    }

    pub(super) fn is_locked(file: &File, offset: u64) -> io::Result<bool> {
        let mut lock = request(libc::F_WRLCK, offset);
        fcntl(file, libc::F_OFD_GETLK, &mut lock)?;
        Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn leases_are_seen_by_other_openers_until_the_last_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        let holder = LeaseTable::open(&path).unwrap();
        let collector = LeaseTable::open(&path).unwrap();
        let key = ObjectId::of(b"library");

        let first = holder.acquire(key).unwrap();
        let second = holder.acquire(key).unwrap();
        assert!(collector.is_held(key).unwrap());
        assert!(holder.is_held(key).unwrap());
        assert!(!collector.is_held(ObjectId::of(b"other")).unwrap());
        drop(first);
        assert!(collector.is_held(key).unwrap());
        drop(second);
        assert!(!collector.is_held(key).unwrap());
    }

    #[test]
    fn two_holders_do_not_exclude_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        let tables: Vec<_> = (0..3).map(|_| LeaseTable::open(&path).unwrap()).collect();
        let a = tables[0].acquire(SegmentId(7)).unwrap();
        let b = tables[1].acquire(SegmentId(7)).unwrap();
        drop(a);
        assert!(tables[2].is_held(SegmentId(7)).unwrap());
        drop(b);
        assert!(!tables[2].is_held(SegmentId(7)).unwrap());
    }

    #[test]
    fn leases_outlive_the_file_they_were_taken_in() {
        type TakeAway = fn(&Path);
        let ways: [(&str, TakeAway); 4] = [
            ("removed", |path| fs::remove_file(path).unwrap()),
            ("moved", |path| {
                fs::rename(path, path.with_extension("old")).unwrap();
            }),
            ("removed, with a link elsewhere", |path| {
                let link = path.with_extension("link");
                let _ = fs::remove_file(&link);
                fs::hard_link(path, link).unwrap();
                fs::remove_file(path).unwrap();
            }),
            ("replaced", |path| {
                let new = path.with_extension("new");
                File::create(&new).unwrap();
                fs::rename(new, path).unwrap();
            }),
        ];
        for (how, take_away) in ways {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("leases");
            let holder = LeaseTable::open(&path).unwrap();
            let running = LeaseTable::open(&path).unwrap();
            let first = holder.acquire(SegmentId(1)).unwrap();
            take_away(&path);
            // Whoever comes later has the next file, and whoever was there asks in both.
            let later = LeaseTable::open(&path).unwrap();
            let new = later.acquire(SegmentId(2)).unwrap();
            for key in [SegmentId(1), SegmentId(2)] {
                assert!(running.is_held(key).unwrap(), "{how}: {key}");
            }
            holder.look_again().unwrap();
            assert!(later.is_held(SegmentId(1)).unwrap(), "{how}");
            take_away(&path);
            let third = holder.acquire(SegmentId(3)).unwrap();
            let latest = LeaseTable::open(&path).unwrap();
            for key in [SegmentId(1), SegmentId(3)] {
                assert!(latest.is_held(key).unwrap(), "{how}: {key}");
            }
            drop((first, new, third));
            for key in 1..4 {
                for table in [&running, &later, &latest, &holder] {
                    assert!(!table.is_held(SegmentId(key)).unwrap(), "{how}: {key}");
                }
            }
        }
    }

    #[test]
    fn a_killed_process_releases_its_leases() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        let collector = LeaseTable::open(&path).unwrap();
        // flock(1) cannot lock a record; python's fcntl module can, and is on every Debian.
        let script = "import fcntl,struct,sys,time\nf=open(sys.argv[1],'r+b')\n\
             fcntl.fcntl(f,37,struct.pack('hhqqi',0,0,5,1,0))\nprint('held',flush=True)\n\
             time.sleep(60)";
        let mut holder = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(holder.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "held\n");
        assert!(collector.is_held(SegmentId(5)).unwrap());
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(!collector.is_held(SegmentId(5)).unwrap());
    }
}
