//! Who holds leases: processes that have the lease file open, and the locks that they have in it.
//!
//! Such locks belong to open files, not to processes, so `/proc/locks` has no process for them (proc_locks(5)). But each
//! process shows the locks of its own open files (`/proc/PID/fdinfo`, proc_pid_fdinfo(5)) to its user and to root. What the
//! one lists and the other doesn't is held by somebody who cannot be seen.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::backend::read_file;
use crate::error::{Result, StoreError};
use crate::format::LEASES_FILE;
use crate::lease::{LeaseKey, PROBED, Probe};

/// Locked bytes of a lease file: the first and the last. Neighbours of one holder are one range to the kernel.
pub type Bytes = (u64, u64);

/// What is held, by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Bytes that processes hold, by number. A process that shares an open file with another holds what that does.
    pub processes: BTreeMap<u32, Vec<Bytes>>,
    /// Bytes that are held, and no process that can be looked at holds them.
    pub unseen: Vec<Bytes>,
    /// Processes that could not be looked at.
    pub hidden_processes: u64,
}

/// Looks at all processes; without root at those of the same user alone.
pub fn holders(directory: &Path) -> Result<Holders> {
    let path = directory.join(LEASES_FILE);
    let file = read_file(&path)
        .map_err(|source| StoreError::io("opening the lease file", &path, source))?;
    let failed = |what: &str, source| StoreError::io("reading", what, source);
    let Some(name) = name_of(&file).map_err(|source| failed("/proc/self/fdinfo", source))? else {
        return Ok(Holders::default());
    };
    let mut found = Holders::default();
    for pid in processes().map_err(|source| failed("/proc", source))? {
        match locks_of(pid, &name) {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => drop(found.processes.insert(pid, bytes)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                found.hidden_processes += 1;
            }
            // It has ended.
            Err(_) => {}
        }
    }
    // After the processes: what one has taken since is listed as unseen rather than not at all.
    let read = || fs::read_to_string("/proc/locks").map(|all| locks_in(&all, &name));
    let mut all = agreed(read).map_err(|source| failed("/proc/locks", source))?;
    for bytes in found.processes.values().flatten() {
        if let Some(nth) = all.iter().position(|other| other == bytes) {
            all.remove(nth);
        }
    }
    all.dedup();
    // Somebody else may ask this, too.
    all.retain(|bytes| *bytes != (PROBED, PROBED));
    found.unseen = all;
    Ok(found)
}

/// Numbers of all processes.
pub fn processes() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse().ok()
    });
    Ok(entries.collect())
}

/// How the kernel names the file's filesystem and inode where it lists locks: `stat` can say otherwise (overlayfs,
/// btrfs). `None` where no lock can be taken, so that nobody has one.
fn name_of(file: &File) -> io::Result<Option<String>> {
    let Some(probe) = Probe::take(file) else {
        return Ok(None);
    };
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let info = fs::read_to_string(path)?;
    let mut locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    let name = locks.find_map(|lock| fields(lock)?.get(5).map(|name| (*name).to_owned()));
    drop(probe);
    Ok(name)
}

/// The locks in the file of this name that are on the kernel's list, sorted; one for each holder.
fn locks_in(all: &str, name: &str) -> Vec<Bytes> {
    let mut all: Vec<_> = all.lines().filter_map(|line| lock(line, name)).collect();
    all.sort_unstable();
    all
}

/// What is read the same several times running, or the last, if it keeps changing.
///
/// The kernel hands its list out a page at a time and goes on at a number of lines (fs/locks.c, `locks_start`). When
/// others take locks or let go of some meanwhile, lines are there twice, or not at all: one reading in a hundred on a busy host.
fn agreed<T: PartialEq>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const RUNNING: u32 = 3;
    const MOST: u32 = 64;
    let (mut last, mut running) = (read()?, 1);
    for _ in 1..MOST {
        if running == RUNNING {
            break;
        }
        let next = read()?;
        running = if next == last { running + 1 } else { 1 };
        last = next;
    }
    Ok(last)
}

/// Locks that a process has in the file of this name.
fn locks_of(pid: u32, name: &str) -> io::Result<Vec<Bytes>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // It may be closed meanwhile.
        let Ok(info) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
        found.extend(locks.filter_map(|line| lock(line, name)));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The fields of a line that describes a lock: number, class, kind, access, process, file, first and last byte.
fn fields(line: &str) -> Option<[&str; 8]> {
    let mut words = line.split_whitespace();
    let fields = [(); 8].map(|()| words.next().unwrap_or_default());
    // What waits for another's lock has an arrow, and holds nothing.
    (fields[1] != "->" && !fields[7].is_empty()).then_some(fields)
}

/// The bytes that a line says to be locked in the file of this name.
fn lock(line: &str, name: &str) -> Option<Bytes> {
    let [_, class, _, _, _, file, first, last] = fields(line)?;
    if class != "OFDLCK" && class != "POSIX" || file != name {
        return None;
    }
    let last = match last {
        "EOF" => u64::MAX,
        last => last.parse().ok()?,
    };
    Some((first.parse().ok()?, last))
}

/// Objects and segments whose leases are among the bytes.
pub fn held<T: Copy + Into<LeaseKey>>(things: &[T], bytes: &[Bytes]) -> Vec<T> {
    let is_held = |thing: &&T| {
        let LeaseKey(byte) = (**thing).into();
        let holds = |(first, last): &Bytes| (*first..=*last).contains(&byte);
        bytes.iter().any(holds)
    };
    things.iter().filter(is_held).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use pool_core::digest::ObjectId;
    use pool_core::extent::SegmentId;

    use super::*;
    use crate::lease::LeaseTable;

    #[test]
    fn lines_of_locks_are_read() {
        let name = "fe:00:10014497";
        for (line, bytes) in [
            (
                "3: OFDLCK ADVISORY  READ -1 fe:00:10014497 5 6",
                Some((5, 6)),
            ),
            (
                "\t1: OFDLCK  ADVISORY  READ -1 fe:00:10014497 7 7",
                Some((7, 7)),
            ),
            (
                "1: POSIX  ADVISORY  WRITE 10102 fe:00:10014497 0 EOF",
                Some((0, u64::MAX)),
            ),
            (
                "1: -> POSIX  ADVISORY  WRITE 10102 fe:00:10014497 0 EOF",
                None,
            ),
            ("2: FLOCK  ADVISORY  WRITE 10102 fe:00:10014497 0 EOF", None),
            ("1: OFDLCK ADVISORY  READ -1 fe:00:1001449 5 6", None),
            ("1: OFDLCK ADVISORY  READ -1 fe:00:10014497 5", None),
            ("1: OFDLCK ADVISORY  READ -1 fe:00:10014497 x 5", None),
            ("", None),
        ] {
            assert_eq!(lock(line, name), bytes, "{line}");
        }
    }

    #[test]
    fn lines_that_one_reading_has_twice_or_not_at_all_are_read_again() {
        let list = |last: &[u64]| {
            let lines = last.iter();
            let lines = lines.map(|last| format!("1: OFDLCK  ADVISORY  READ -1 f:0:7 0 {last}\n"));
            lines.collect::<String>()
        };
        let readings = |readings: &[&[u64]]| {
            let (mut count, readings) = (0, readings.iter().map(|last| list(last)));
            let mut readings = readings.chain(std::iter::repeat_with(|| list(&[3, 5])));
            let read = || {
                count += 1;
                Ok(locks_in(&readings.next().unwrap(), "f:0:7"))
            };
            (agreed(read).unwrap(), count)
        };
        let right = vec![(0, 3), (0, 5)];
        assert_eq!(readings(&[]), (right.clone(), 3));
        assert_eq!(readings(&[&[5, 3, 5]]), (right.clone(), 4));
        assert_eq!(readings(&[&[3, 5], &[3], &[3], &[5, 3]]), (right, 6));
        // Of what keeps changing the last will do.
        let mut count = 0;
        let changing = agreed(|| {
            count += 1;
            Ok(count)
        });
        assert_eq!(changing.unwrap(), 64);
    }

    #[test]
    fn things_are_found_by_their_bytes() {
        let segments = [1, 2, 3, 9].map(SegmentId);
        assert_eq!(
            held(&segments, &[(2, 3), (10, 12)]),
            [SegmentId(2), SegmentId(3)]
        );
        let object = ObjectId::of(b"object");
        let LeaseKey(byte) = object.into();
        assert_eq!(held(&[object], &[(byte, byte)]), [object]);
        assert_eq!(held(&[object], &[(0, 100)]), []);
        assert_eq!(held(&segments, &[(0, u64::MAX)]), segments);
    }

    #[test]
    fn processes_are_found_by_the_locks_that_they_have() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LEASES_FILE);
        let table = LeaseTable::open(&path).unwrap();
        let mine = [4, 5, 70].map(|nth| table.acquire(SegmentId(nth)).unwrap());
        let script = "import fcntl,struct,sys\nf=open(sys.argv[1],'r+b')\n\
             fcntl.fcntl(f,37,struct.pack('hhqqi',0,0,5,1,0))\nprint('held',flush=True)\n\
             sys.stdin.read()";
        let mut other = Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = io::BufReader::new(other.stdout.take().unwrap());
        io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "held\n");
        let found = holders(directory.path()).unwrap();
        // Neighbours are one range.
        assert_eq!(found.processes[&std::process::id()], [(4, 5), (70, 70)]);
        assert_eq!(found.processes[&other.id()], [(5, 5)]);
        assert_eq!(found.processes.len(), 2);
        assert_eq!(found.unseen, []);
        other.kill().unwrap();
        other.wait().unwrap();
        drop(mine);
        let found = holders(directory.path()).unwrap();
        assert!(found.processes.is_empty() && found.unseen.is_empty());
    }
}
