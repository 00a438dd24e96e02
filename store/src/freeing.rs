//! Giving back the disk of files that nobody has any more, a little at a time.
//!
//! A filesystem frees all that a file takes up in one piece of its own journal, and whoever syncs anything meanwhile waits for that: on ext4
//! some 20 ms for each 64 MiB.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

/// Bytes that are freed at a time.
const STEP: u64 = 4 << 20;

/// Frees what a file takes up. Does nothing while it has a name, or somebody else has it open: it stays as it is for them, and goes
/// with the last of them.
pub(crate) fn free(file: &File) {
    let freed = || {
        if file.metadata()?.nlink() == 0 && have_alone(file)? {
            in_steps(file)?;
        }
        Ok::<_, io::Error>(())
    };
    if let Err(error) = freed() {
        tracing::debug!(%error, "a file is freed as a whole");
    }
}

/// The same of a file that never had a name, and of which there is this descriptor alone.
pub(crate) fn in_steps(file: &File) -> io::Result<()> {
    let mut left = file.metadata()?.len();
    while left > 0 {
        left = left.saturating_sub(STEP);
        file.set_len(left)?;
    }
    Ok(())
}

/// True when nobody has a file open but by this descriptor: the kernel grants a write lease then, and only then (fcntl(2),
/// `F_SETLEASE`). It is not kept: a file without a name is opened by nobody.
fn have_alone(file: &File) -> io::Result<bool> {
    let lease = |kind: libc::c_int| {
        // SAFETY: the call takes a descriptor that is open for as long as `file` lives, and numbers.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    match lease(libc::F_WRLCK) {
        Ok(()) => lease(libc::F_UNLCK).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    const BYTES: u64 = 2 * STEP + 5;

    /// A file without a name, and another descriptor of it.
    fn unnamed() -> (File, File) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![1; BYTES as usize]).unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        (open().unwrap(), open().unwrap())
    }

    #[test]
    fn what_others_have_open_stays_as_it_is() {
        let (file, other) = unnamed();
        let length = || file.metadata().unwrap().len();
        free(&file);
        assert_eq!(length(), BYTES);
        // SAFETY: nobody writes to it.
        let mapped = unsafe { memmap2::Mmap::map(&other) }.unwrap();
        drop(other);
        free(&file);
        assert_eq!(mapped[BYTES as usize - 1], 1);
        drop(mapped);
        // A child that another test of this process starts has them, too, until it has become the program that it is to run.
        pool_tests::wait::until("it is freed", || {
            free(&file);
            length() == 0
        });
    }

    #[test]
    fn what_has_another_name_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let [path, link] = ["file", "link"].map(|name| directory.path().join(name));
        std::fs::write(&path, vec![1; BYTES as usize]).unwrap();
        std::fs::hard_link(&path, &link).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        free(&file);
        assert_eq!(std::fs::metadata(&link).unwrap().len(), BYTES);
    }

    #[test]
    fn a_file_goes_to_its_end() {
        let file = tempfile::tempfile().unwrap();
        for bytes in [0, 1, STEP, BYTES] {
            file.set_len(bytes).unwrap();
            in_steps(&file).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 0);
        }
    }
}
