//! A follower's scratch directory, and those that killed followers left behind.
//!
//! Each is a new directory of its owner's alone, with a file `lock` that its process holds locked
//! (flock(2)) for as long as it lives. So a directory whose lock is free is a leftover, whatever
//! processes there are, and the kernel frees the lock of a process that dies. Nothing is looked at
//! that has another name, another owner or another mode. The directory is locked itself as well,
//! for those who clean temporary directories of what is old (tmpfiles.d(5)).

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

const PREFIX: &str = "poolfs-scratch-";
/// Random letters and digits after the prefix.
const RANDOM: usize = 6;
const LOCK: &str = "lock";
/// For the owner alone.
const PRIVATE: u32 = 0o700;
/// Names tried before a place is given up.
const MOST_TRIES: u32 = 16;
/// What a follower may write, with room to spare: a new place is tried out with as much.
const NOTES: usize = 1 << 20;
/// Files that it may have beside each other.
const FILES: usize = 8;
/// How deep a leftover's directories may lie in each other. What a follower makes is flat.
const MOST_DEPTH: u32 = 8;

/// Why there is no scratch directory.
#[derive(Debug, Error)]
#[error("making a scratch directory: {0}; name a writable directory with -o scratch=DIR")]
pub struct ScratchError(String);

/// Where scratch directories may be made: in `asked` alone when that is given. Otherwise in the
/// first that works of what the environment names and what every system has; never in a place that
/// goes when a user logs out ($XDG_RUNTIME_DIR), since the daemon stays.
pub fn places(asked: Option<&Path>) -> Vec<PathBuf> {
    if let Some(asked) = asked {
        return vec![asked.into()];
    }
    let named = std::env::var_os("TMPDIR").map(PathBuf::from);
    let named = named.filter(|place| place.is_absolute());
    let run = rustix::process::geteuid().is_root().then(|| "/run".into());
    let everywhere = Some("/tmp".into());
    [named, run, everywhere].into_iter().flatten().collect()
}

/// A scratch directory, removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    directory: OwnedFd,
    lock: OwnedFd,
}

impl Scratch {
    /// Removes what killed processes of this user have left in `places`, then makes a directory in
    /// the first of them that works.
    pub fn new(places: &[PathBuf]) -> Result<Self, ScratchError> {
        let mut failures = Vec::new();
        for place in places {
            if let Err(error) = sweep(place) {
                tracing::debug!(%error, place = %place.display(), "looking for leftovers failed");
            }
        }
        for place in places {
            match Self::new_in(place) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => failures.push(format!("in {}: {error}", place.display())),
            }
        }
        Err(ScratchError(failures.join("; ")))
    }

    fn new_in(place: &Path) -> io::Result<Self> {
        for _ in 0..MOST_TRIES {
            let path = tempfile::Builder::new()
                .prefix(PREFIX)
                .rand_bytes(RANDOM)
                // Not `tempdir_in`, whose errors repeat the path.
                .make_in(place, |path| DirBuilder::new().mode(PRIVATE).create(path))?
                .into_temp_path()
                .keep()?;
            match Self::lock_new(path) {
                Ok(Some(scratch)) => return scratch.try_out().map(|()| scratch),
                // Somebody who looked for leftovers came before the lock.
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("others remove it as soon as it is there"))
    }

    /// `None` when the directory has been taken for a leftover.
    fn lock_new(path: PathBuf) -> io::Result<Option<Self>> {
        let gone = |error: Errno| match error {
            Errno::NOENT | Errno::WOULDBLOCK => Ok(None),
            other => Err(other.into()),
        };
        let directory = match open_directory(CWD, path.as_os_str()) {
            Ok(directory) => directory,
            Err(error) => return gone(error),
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let lock = match rustix::fs::openat(&directory, LOCK, flags, Mode::RUSR | Mode::WUSR) {
            Ok(lock) => lock,
            Err(error) => return gone(error),
        };
        if let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let answer = gone(error);
            if answer.is_err() {
                remove(&path, &directory, &lock);
            }
            return answer;
        }
        if rustix::fs::fstat(&lock)?.st_nlink == 0 {
            return Ok(None);
        }
        // Some filesystems lock no directories, and those who look are not on all machines.
        let _ = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared);
        Ok(Some(Self {
            path,
            directory,
            lock,
        }))
    }

    /// Writes as much as a follower may, and removes it: a place may have room for a directory and for no more.
    fn try_out(&self) -> io::Result<()> {
        let trial = self.path.join("trial");
        fs::create_dir(&trial)?;
        for nth in 0..FILES {
            fs::write(trial.join(nth.to_string()), vec![0; NOTES / FILES])?;
        }
        fs::remove_dir_all(&trial)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path, &self.directory, &self.lock);
    }
}

/// Removes the leftovers in `place`.
fn sweep(place: &Path) -> io::Result<()> {
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        if is_name(&entry.file_name()) {
            remove_if_left(&entry.path());
        }
    }
    Ok(())
}

fn is_name(name: &OsStr) -> bool {
    let random = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    random.is_some_and(|random| {
        random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
    })
}

fn remove_if_left(path: &Path) {
    let Ok(directory) = open_directory(CWD, path.as_os_str()) else {
        return;
    };
    let directory = File::from(directory);
    let ours = rustix::process::geteuid().as_raw();
    let private = directory
        .metadata()
        .is_ok_and(|found| found.uid() == ours && found.mode() & 0o7777 == PRIVATE);
    if !private {
        return;
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = match rustix::fs::openat(&directory, LOCK, flags, Mode::empty()) {
        Ok(lock) => lock,
        Err(Errno::NOENT) => {
            // Its maker has died, or is about to make the lock. It only goes if it is empty.
            let _ = rustix::fs::rmdir(path);
            return;
        }
        Err(_) => return,
    };
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        tracing::info!(path = %path.display(), "removing what a killed poolfs left");
        remove(path, &directory, &lock);
    }
}

/// Removes a directory whose lock the caller holds. The lock goes last, so that what an
/// interrupted removal leaves is still known as a leftover.
fn remove(path: &Path, directory: impl AsFd, _lock: impl AsFd) {
    let removed = empty(directory.as_fd(), 0)
        .and_then(|()| rustix::fs::unlinkat(&directory, LOCK, AtFlags::empty()))
        .and_then(|()| rustix::fs::rmdir(path));
    if let Err(error) = removed
        && error != Errno::NOENT
    {
        tracing::warn!(%error, path = %path.display(), "leaving a scratch directory");
    }
}

/// Removes all that is below a directory, by descriptors, so that nothing outside is reached
/// whatever is moved or linked meanwhile; except the lock at its top.
fn empty(directory: impl AsFd, depth: u32) -> rustix::io::Result<()> {
    if depth > MOST_DEPTH {
        return Err(Errno::NOTEMPTY);
    }
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." || (depth == 0 && name == LOCK) {
            continue;
        }
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                empty(open_directory(&directory, name)?, depth + 1)?;
                rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR)?;
            }
            Err(Errno::NOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn open_directory(at: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use pool_tests::disk::SmallDisk;

    use super::*;

    fn names(place: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn new(place: &Path) -> Scratch {
        Scratch::new(&[place.to_path_buf()]).unwrap()
    }

    /// What a killed process leaves: everything but the lock.
    fn kill(scratch: Scratch) -> PathBuf {
        let path = scratch.path.clone();
        let scratch = std::mem::ManuallyDrop::new(scratch);
        rustix::fs::flock(&scratch.lock, FlockOperation::Unlock).unwrap();
        path
    }

    #[test]
    fn a_scratch_directory_is_private_and_goes_with_its_owner() {
        let place = tempfile::tempdir().unwrap();
        let scratch = new(place.path());
        let metadata = fs::metadata(scratch.path()).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o700);
        fs::create_dir_all(scratch.path().join("index/deeper")).unwrap();
        fs::write(scratch.path().join("index/LOG"), "x").unwrap();
        symlink("/", scratch.path().join("index/root")).unwrap();
        drop(scratch);
        assert!(names(place.path()).is_empty());
    }

    #[test]
    fn a_directory_is_locked_as_long_as_it_is_used() {
        let place = tempfile::tempdir().unwrap();
        let scratch = new(place.path());
        let seen = open_directory(CWD, scratch.path().as_os_str()).unwrap();
        let lock = || rustix::fs::flock(&seen, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(lock(), Err(Errno::WOULDBLOCK));
        drop(scratch);
        assert_eq!(lock(), Ok(()));
    }

    #[test]
    fn what_a_killed_process_left_goes_and_what_lives_stays() {
        let place = tempfile::tempdir().unwrap();
        let live = new(place.path());
        fs::write(live.path().join("x"), "x").unwrap();
        let killed = kill(new(place.path()));
        fs::create_dir(killed.join("index")).unwrap();
        fs::write(killed.join("index/LOG"), "x").unwrap();
        // Killed between its making and its lock.
        let early = place.path().join("poolfs-scratch-abc123");
        fs::create_dir(&early).unwrap();
        fs::set_permissions(&early, Permissions::from_mode(0o700)).unwrap();

        let next = new(place.path());
        assert!(!killed.exists() && !early.exists());
        assert!(live.path().join("x").exists() && next.path().exists());
        assert_eq!(names(place.path()).len(), 2);
    }

    #[test]
    fn what_is_not_surely_a_leftover_stays() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32, lock: bool| {
            let path = place.path().join(name);
            fs::create_dir(&path).unwrap();
            if lock {
                fs::write(path.join(LOCK), "").unwrap();
            }
            fs::write(path.join("precious"), "x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        make("poolfs-scratch-others", 0o755, true);
        make("poolfs-scratch-nolock", 0o700, false);
        make("poolfs-scratch-longer1", 0o700, true);
        make("poolfs-scratch-a_b.cd", 0o700, true);
        make("poolfs-abcdef", 0o700, true);
        make("precious", 0o700, true);
        symlink(
            place.path().join("precious"),
            place.path().join("poolfs-scratch-linked"),
        )
        .unwrap();
        let before = names(place.path());
        drop(new(place.path()));
        assert_eq!(names(place.path()), before);
        for name in &before {
            assert!(place.path().join(name).join("precious").exists(), "{name}");
        }
    }

    #[test]
    fn the_first_place_that_works_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let absent = place.path().join("absent");
        let works = place.path().join("works");
        fs::create_dir(&works).unwrap();
        let scratch = Scratch::new(&[absent.clone(), file.clone(), works.clone()]).unwrap();
        assert_eq!(scratch.path().parent(), Some(works.as_path()));
        let error = Scratch::new(&[absent, file]).unwrap_err().to_string();
        assert!(
            error.contains("/absent: ") && error.contains("/file: "),
            "{error}"
        );
        assert!(error.contains("-o scratch=DIR"), "{error}");
        assert_eq!(error.matches("/absent").count(), 1, "{error}");
    }

    #[test]
    fn a_place_without_room_for_notes_does_not_work() {
        let Some(disk) = SmallDisk::with_options("size=1m,nr_inodes=6").unwrap() else {
            return;
        };
        let works = tempfile::tempdir().unwrap();
        let (full, works) = (disk.path().to_owned(), works.path().to_owned());
        let scratch = Scratch::new(&[full.clone(), works.clone()]).unwrap();
        assert_eq!(scratch.path().parent(), Some(works.as_path()));
        let error = Scratch::new(std::slice::from_ref(&full)).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!(fs::read_dir(full).unwrap().count(), 0);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_is_named_is_the_only_one() {
        assert_eq!(places(Some(Path::new("/x"))), [Path::new("/x")]);
        assert_eq!(places(None).last().unwrap(), Path::new("/tmp"));
    }
}
