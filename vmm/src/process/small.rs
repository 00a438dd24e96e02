//! The small world of a guest that is a process: see [`crate::world::small`]. Its monitor is asked before a file is
//! opened, and has the kernel make one in memory instead, which it fills before the guest goes on. In a guest's own file
//! system it looks at what was opened, too, which may be a place of that world however the guest came there. Another
//! thread may change the path meanwhile, or the file: that is no more than it may do anyway.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use rustix::process::PidfdGetfdFlags;

use super::calls::{Calls, Next, failed};
use super::change::Change;
use super::looked::Looked;
use super::ptrace::{Registers, Tracee};
use super::threads::Threads;
use crate::trace::Peek;
use crate::world::small::{self, Device, Kind, Large, Listing, Look, Node, Place, Whose};

/// Longest path, with its NUL.
const LONGEST: usize = 4096;
/// Longest name of memory that is a file: the kernel has 249 (`memfd_create(2)`).
const LONGEST_NAME: usize = 200;
/// Most bytes of a list that are handed over at once.
const MOST_LISTED: usize = 64 << 10;

/// What a path is of the small world.
struct Found {
    node: Node,
    /// Its length, without NUL.
    length: usize,
}

impl Calls {
    /// What becomes of a call that opens a path.
    pub(super) fn open(
        &mut self,
        tracee: Tracee,
        registers: &Registers,
        threads: &mut Threads,
    ) -> Next {
        let created = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
        let as_flags = |word: u64| OFlags::from_bits_retain(word as u32);
        let (path_at, flags) = match registers.orig_rax as i64 {
            libc::SYS_open => (registers.rdi, as_flags(registers.rsi)),
            libc::SYS_creat => (registers.rdi, created),
            _ => (registers.rsi, as_flags(registers.rdx)),
        };
        let is_place = flags.contains(OFlags::PATH);
        let found = match self.find(tracee, path_at, threads) {
            Ok(found) => found.filter(|_| !is_place),
            Err(error) => return failed(error),
        };
        let closes = flags.contains(OFlags::CLOEXEC);
        let Some(Found { node, length }) = found else {
            // A directory, and what is new, is none that has to be looked at.
            let new = OFlags::CREATE | OFlags::EXCL;
            let other = is_place || flags.contains(OFlags::DIRECTORY) || flags.contains(new);
            return match self.elsewhere() {
                Next::Serve if !other => Next::ServeAndSee(flags),
                next => next,
            };
        };
        match node {
            Node::File(path, whose) => {
                if let Err(error) = small::may_open(flags) {
                    return failed(error);
                }
                let content = self.content(tracee, path, whose, threads);
                threads.stopped(tracee.0).content = Some(content);
                Next::ServeWith(Change::Memory(name_at(path_at, length), closes))
            }
            Node::Descriptor(number) => match self.file(number) {
                Ok(_) => Next::ServeWith(Change::Duplicate(number, closes)),
                Err(_) => failed(Errno::NOENT),
            },
            Node::Terminal => failed(Errno::NXIO),
            Node::Device(device) => {
                if let Err(error) = small::may_open_device(flags) {
                    return failed(error);
                }
                if !self.has_device(device) {
                    return failed(Errno::NOENT);
                }
                threads.stopped(tracee.0).device = Some((device, closes));
                Next::ServeWith(Change::Wait(self.secret))
            }
            Node::Program => self.elsewhere(),
        }
    }

    /// What `tracee` is to do that has opened `number` with `flags` by the path at `path_at`, if that is a place of the
    /// small world: calls, and what the file is to hold that the last of them makes.
    pub(super) fn instead(
        &mut self,
        tracee: Tracee,
        number: u64,
        flags: OFlags,
        path_at: u64,
        threads: &Threads,
    ) -> Option<(VecDeque<Change>, Option<Vec<u8>>)> {
        let stat = rustix::fs::fstat(self.file(number).ok()?).ok()?;
        let Place::Node(node) = self.begin.place_at(stat.st_dev, stat.st_ino)? else {
            return None;
        };
        let closes = flags.contains(OFlags::CLOEXEC);
        Some(match node {
            Node::Descriptor(standard) => (
                VecDeque::from([Change::Replace(standard, number, closes)]),
                None,
            ),
            Node::File(path, whose) => {
                let content = self.content(tracee, path, whose, threads);
                let mut text = vec![0; LONGEST];
                let read = { tracee }.peek(path_at, &mut text);
                let length = text[..read].iter().position(|&byte| byte == 0);
                let memory = Change::Memory(name_at(path_at, length.unwrap_or(0)), closes);
                // The next has its number.
                (
                    VecDeque::from([Change::Close(number), memory]),
                    Some(content),
                )
            }
            Node::Program | Node::Terminal | Node::Device(_) => return None,
        })
    }

    /// What becomes of a call that lists a directory.
    pub(super) fn list(&self, tracee: Tracee, registers: &Registers, threads: &Threads) -> Next {
        let [number, at, room] = [registers.rdi, registers.rsi, registers.rdx];
        let listed = || -> Result<Option<i64>, Errno> {
            let directory = self.file(number)?;
            let stat = rustix::fs::fstat(&directory)?;
            let place = self.begin.place_at(stat.st_dev, stat.st_ino);
            let Some(Place::Listing(what)) = place else {
                return Ok(None);
            };
            let numbers = match (what, &self.descriptors) {
                (Listing::Threads, _) => threads.numbers(),
                (Listing::Descriptors, Some(directory)) => numbers_in(directory)?,
                (Listing::Descriptors, None) => return Ok(None),
            };
            let position = rustix::fs::seek(&directory, SeekFrom::Current(0))?;
            let old = registers.orig_rax == libc::SYS_getdents as u64;
            let room = (room as u32 as usize).min(MOST_LISTED);
            let (bytes, next) = small::list(what, &numbers, position, room, old)?;
            tracee.write(at, &bytes).map_err(|_| Errno::FAULT)?;
            rustix::fs::seek(&directory, SeekFrom::Start(next))?;
            Ok(Some(bytes.len() as i64))
        };
        match listed() {
            Ok(Some(length)) => Next::Done(length),
            Ok(None) => Next::Serve,
            Err(error) => failed(error),
        }
    }

    /// What becomes of a call that looks at a path, of a guest without a file system.
    pub(super) fn look(
        &mut self,
        look: Look,
        tracee: Tracee,
        registers: &Registers,
        threads: &Threads,
    ) -> Next {
        let [path, at, third] = match look.path {
            0 => [registers.rdi, registers.rsi, registers.rdx],
            _ => [registers.rsi, registers.rdx, registers.r10],
        };
        let node = match self.find(tracee, path, threads) {
            Ok(Some(found)) => found.node,
            Ok(None) => return self.elsewhere(),
            Err(error) => return failed(error),
        };
        let written = |bytes: &[u8], result: usize| match tracee.write(at, bytes) {
            Ok(()) => Next::Done(result as i64),
            Err(_) => failed(Errno::FAULT),
        };
        if let Node::Device(device) = node
            && !self.has_device(device)
        {
            return failed(Errno::NOENT);
        }
        if let Node::Descriptor(number) = node {
            match self.file(number) {
                Err(_) => return failed(Errno::NOENT),
                Ok(_) if look.kind == Kind::Stat => {
                    return Next::ServeWith(Change::Fstat(number, at));
                }
                Ok(_) => {}
            }
        }
        match look.kind {
            Kind::Access => small::access(node, at).map_or_else(failed, |()| Next::Done(0)),
            Kind::Stat => written(&small::stat(node, true), 0),
            Kind::StatOfLink => written(&small::stat(node, false), 0),
            // It is not known without a file system.
            Kind::Extended => failed(Errno::NOSYS),
            Kind::Link if third as i32 <= 0 => failed(Errno::INVAL),
            Kind::Link => match small::link(node, &mut self.looked(tracee, threads)) {
                Ok(text) => {
                    let length = text.len().min(third as usize);
                    written(&text[..length], length)
                }
                Err(error) => failed(error),
            },
        }
    }

    fn has_device(&self, device: Device) -> bool {
        let devices = self.devices.as_ref();
        devices.is_some_and(|devices| devices.has(device))
    }

    /// A path that is not of the small world.
    fn elsewhere(&self) -> Next {
        if self.begin.has_world() {
            Next::Serve
        } else {
            failed(Errno::NOENT)
        }
    }

    fn content(&mut self, tracee: Tracee, path: &str, whose: Whose, threads: &Threads) -> Vec<u8> {
        small::content(path, whose, &mut self.looked(tracee, threads))
    }

    /// Fills the file that a thread has opened as `number`.
    pub(super) fn fill(&mut self, number: i64, content: &[u8]) {
        let flags = PidfdGetfdFlags::empty();
        // Another thread may have closed it, or put something else there, which is no such file.
        if let Ok(number) = i32::try_from(number)
            && number >= 0
            && let Ok(file) = rustix::process::pidfd_getfd(&self.process, number, flags)
            && small::is_new(file.as_fd())
        {
            let _ = small::fill(file.as_fd(), content);
            if Large::wants(content.len()) {
                self.large.take(file, content.len());
            }
        }
    }

    /// What the path at `at` is of the small world, unless the guest's own file system has it, which also says what
    /// is wrong with a path.
    fn find(
        &mut self,
        mut tracee: Tracee,
        at: u64,
        threads: &Threads,
    ) -> Result<Option<Found>, Errno> {
        let has_world = self.begin.has_world();
        let mut start = [0; 6];
        // Most paths are told apart by their first letters.
        let read = tracee.peek(at, &mut start);
        let tops = [&b"/proc"[..], b"/sys", b"/dev", b"/etc", b"//", b"/."];
        let is_top = tops.iter().any(|top| start[..read].starts_with(top));
        if !is_top && (has_world || start[..read].contains(&0)) {
            return Ok(None);
        }
        let mut text = vec![0; LONGEST];
        let read = tracee.peek(at, &mut text);
        let Some(length) = text[..read].iter().position(|&byte| byte == 0) else {
            return match read {
                _ if has_world => Ok(None),
                LONGEST => Err(Errno::NAMETOOLONG),
                _ => Err(Errno::FAULT),
            };
        };
        let process = self.guest.as_raw_nonzero().get();
        let granted = self.begin.layout.as_ref().map(|layout| &layout.granted[..]);
        let node = small::find(&text[..length], process, granted.unwrap_or_default());
        match node.filter(|&node| !has_world || !small::is_kept(node)) {
            Some(node) if !node.is_there(&self.looked(tracee, threads)) => Err(Errno::NOENT),
            node => Ok(node.map(|node| Found { node, length })),
        }
    }

    fn looked<'a>(&'a mut self, tracee: Tracee, threads: &'a Threads) -> Looked<'a> {
        Looked {
            calls: self,
            tracee,
            threads,
        }
    }
}

/// A name for the file that stands for the path of `length` bytes at `at`: its end is as good as any.
fn name_at(at: u64, length: usize) -> u64 {
    at + length.saturating_sub(LONGEST_NAME) as u64
}

/// The numbers that are names in `directory`, in order.
fn numbers_in(directory: &File) -> Result<Vec<i32>, Errno> {
    rustix::fs::seek(directory, SeekFrom::Start(0))?;
    let mut room = [std::mem::MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut room);
    let mut numbers = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        // Beside `.` and `..`.
        numbers.extend(
            entry
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.parse::<i32>().ok()),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}
