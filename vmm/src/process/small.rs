//! The small world of a guest that is a process: see [`crate::world::small`]. Its monitor is asked before a file is
//! opened, makes one, and hands it over ([`super::listener`]). In a guest's own file
//! system it looks at what was opened, too, which may be a place of that world however the guest came there. Another
//! thread may change the path meanwhile: that is no more than it may do anyway.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::calls::{Calls, Next, failed};
use super::change::Change;
use super::listener::Wanted;
use super::looked::Looked;
use super::ptrace::{Registers, Tracee};
use super::threads::{Step, Threads};
use crate::trace::Peek;
use crate::world::small::{self, Device, Kind, Large, Listing, Look, Node, Place, Whose};

/// Longest path, with its NUL.
const LONGEST: usize = 4096;
/// Most bytes of a list that are handed over at once.
const MOST_LISTED: usize = 64 << 10;

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
        let Some(node) = found else {
            // A directory, and what is new, is none that has to be looked at.
            let new = OFlags::CREATE | OFlags::EXCL;
            let other = is_place || flags.contains(OFlags::DIRECTORY) || flags.contains(new);
            return match self.elsewhere() {
                Next::Serve if !other => Next::ServeAndSee(flags),
                next => next,
            };
        };
        let file = match node {
            Node::File(path, whose) => {
                small::may_open(flags).and_then(|()| self.file_of(path, whose, tracee, threads))
            }
            Node::Device(device) => {
                small::may_open_device(flags).and_then(|()| self.device(device))
            }
            Node::Descriptor(number) => {
                return match self.file(tracee, number) {
                    Ok(_) => Next::ServeWith(Change::Duplicate(number, closes)),
                    Err(_) => failed(Errno::NOENT),
                };
            }
            Node::Terminal => return failed(Errno::NXIO),
            Node::Program => return self.elsewhere(),
        };
        match file {
            Ok(file) => {
                let wanted = Wanted {
                    file,
                    closes,
                    instead_of: None,
                };
                threads.comes(tracee.0, wanted);
                Next::ServeWith(Change::Wait(self.secret))
            }
            Err(error) => failed(error),
        }
    }

    /// What `tracee` is to do that has opened `number` with `flags`, if that is a place of the small world.
    pub(super) fn instead(
        &mut self,
        tracee: Tracee,
        number: u64,
        flags: OFlags,
        threads: &Threads,
    ) -> Option<Result<Step, Errno>> {
        let stat = rustix::fs::fstat(self.file(tracee, number).ok()?).ok()?;
        let Place::Node(node) = self.begin.place_at(stat.st_dev, stat.st_ino)? else {
            return None;
        };
        let closes = flags.contains(OFlags::CLOEXEC);
        let secret = self.secret;
        Some(match node {
            Node::Descriptor(standard) => match self.file(tracee, standard) {
                Ok(_) if standard != number => {
                    Ok((Change::Replace(standard, number, closes), None))
                }
                // It is closed, or was before this took its number.
                _ => Err(Errno::NOENT),
            },
            Node::File(path, whose) => {
                let file = self.file_of(path, whose, tracee, threads);
                let wanted = |file| Wanted {
                    file,
                    closes,
                    instead_of: Some(number),
                };
                file.map(|file| (Change::Wait(secret), Some(wanted(file))))
            }
            Node::Program | Node::Terminal | Node::Device(_) => return None,
        })
    }

    /// What becomes of a call that lists a directory.
    pub(super) fn list(&self, tracee: Tracee, registers: &Registers, threads: &Threads) -> Next {
        let [number, at, room] = [registers.rdi, registers.rsi, registers.rdx];
        let listed = || -> Result<Option<i64>, Errno> {
            // Or the kernel says what is wrong with it.
            let Ok(directory) = self.file(tracee, number) else {
                return Ok(None);
            };
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
            Ok(Some(node)) => node,
            Ok(None) => return self.elsewhere(),
            Err(error) => return failed(error),
        };
        let written = |bytes: &[u8], result: usize| match tracee.write(at, bytes) {
            Ok(()) => Next::Done(result as i64),
            Err(_) => failed(Errno::FAULT),
        };
        let there = match node {
            Node::Device(device) => self.device(device).map(drop),
            Node::File(..) => self.hands_over(),
            _ => Ok(()),
        };
        if let Err(error) = there {
            return failed(error);
        }
        if let Node::Descriptor(number) = node {
            match self.file(tracee, number) {
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

    /// There is a way to hand over what the guest looks for. Where not, that is noted.
    fn hands_over(&mut self) -> Result<(), Errno> {
        self.unheard |= self.listener.is_none();
        self.listener.as_ref().map(drop).ok_or(Errno::NOENT)
    }

    /// This device, to be handed over.
    fn device(&mut self, device: Device) -> Result<Rc<OwnedFd>, Errno> {
        self.hands_over()?;
        let found = self.devices.iter().find(|(known, _)| *known == device);
        found.map(|(_, file)| Rc::clone(file)).ok_or(Errno::NOENT)
    }

    /// A path that is not of the small world.
    fn elsewhere(&self) -> Next {
        if self.begin.has_world() {
            Next::Serve
        } else {
            failed(Errno::NOENT)
        }
    }

    /// The file `path` as it is now, to be handed over.
    fn file_of(
        &mut self,
        path: &str,
        whose: Whose,
        tracee: Tracee,
        threads: &Threads,
    ) -> Result<Rc<OwnedFd>, Errno> {
        self.hands_over()?;
        let content = small::content(path, whose, &mut self.looked(tracee, threads));
        let file = small::open(&content, true)?;
        if Large::wants(content.len()) {
            let kept = rustix::io::fcntl_dupfd_cloexec(&file, 0)?;
            self.large.take(kept, content.len());
        }
        Ok(Rc::new(file))
    }

    /// What the path at `at` is of the small world, unless the guest's own file system has it, which also says what
    /// is wrong with a path.
    fn find(
        &mut self,
        mut tracee: Tracee,
        at: u64,
        threads: &Threads,
    ) -> Result<Option<Node>, Errno> {
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
            node => Ok(node),
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
