//! The small world of a guest in a virtual machine: see [`crate::world::small`].

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, RawFd};

use pool_core::address::USER_ADDRESS_END;
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use super::dispatch::Arg;
use super::limits::unbound_files;
use super::process::PID;
use super::{Arguments, Linux, Served, Stop, Tid, dispatch, host};
use crate::memory::space::Backing;
use crate::world::small::{self, Area, Guest, Kind, Large, Listing, Node, Place, Text, Whose};

/// What a guest was started with, and when.
#[derive(Debug)]
pub(super) struct Begin {
    /// Where its arguments, its environment and its auxiliary vector lie.
    texts: [std::ops::Range<u64>; 3],
    at: Timespec,
    boot: Option<[u8; 16]>,
}

impl Default for Begin {
    fn default() -> Self {
        Self {
            texts: [0..0, 0..0, 0..0],
            at: rustix::time::clock_gettime(ClockId::Boottime),
            boot: None,
        }
    }
}

/// Calls that list a directory, as far as it is for the host's kernel.
const LISTS: [Arg; 3] = [Arg::Descriptor, Arg::OutBytes(2), Arg::Value];
/// Most bytes of a list that are handed over at once.
const MOST_LISTED: u64 = 64 << 10;

/// `getdents`.
pub(super) fn getdents(linux: &mut Linux, arguments: Arguments) -> Served {
    linux.list_directory(libc::SYS_getdents as u64, arguments)
}

/// `getdents64`.
pub(super) fn getdents64(linux: &mut Linux, arguments: Arguments) -> Served {
    linux.list_directory(libc::SYS_getdents64 as u64, arguments)
}

impl Linux {
    /// Says where what the guest was started with lies: arguments, environment, auxiliary vector.
    pub fn started_with(&mut self, texts: [std::ops::Range<u64>; 3]) {
        self.begin.texts = texts;
    }

    /// What `path` is of the small world, unless the guest's own file system has it.
    fn small(&mut self, path: u64) -> Result<Option<Node>, Stop> {
        let mut first = [0];
        self.memory.read(path, &mut first)?;
        if first != *b"/" {
            return Ok(None);
        }
        let mut text = Linux::text(self, path)?;
        text.pop();
        let node = small::find(&text, PID as i32, &self.layout.granted);
        let node = node.filter(|node| !self.reach.world || !small::is_kept(*node));
        match node {
            Some(node) if !node.is_there(self) => Err(Errno::NOENT.into()),
            node => Ok(node),
        }
    }

    /// Opens `path` with `flags`, if it is of the small world.
    pub(super) fn open_small(&mut self, path: u64, flags: OFlags) -> Result<Option<u64>, Stop> {
        let Some(node) = self.small(path)? else {
            return Ok(None);
        };
        if flags.contains(OFlags::PATH) {
            return Ok(None);
        }
        let closes = flags.contains(OFlags::CLOEXEC);
        let opened = match node {
            Node::Program => return Ok(None),
            Node::Terminal => return Err(Errno::NXIO.into()),
            Node::Device(device) => {
                small::may_open_device(flags)?;
                let file = self.devices.iter().find(|(known, _)| *known == device);
                let (_, file) = file.ok_or(Errno::NOENT)?;
                host::duplicate(file.as_raw_fd(), closes)?
            }
            Node::Descriptor(number) => {
                let old = self.descriptor(number).map_err(|_| Errno::NOENT)?;
                host::duplicate(old, closes).map_err(|error| match error {
                    Errno::BADF => Errno::NOENT,
                    other => other,
                })?
            }
            Node::File(path, whose) => {
                small::may_open(flags)?;
                self.open_file_of(path, whose, closes)?
            }
        };
        Ok(Some(opened as u64))
    }

    /// A descriptor of the file `path` as it is now.
    fn open_file_of(&mut self, path: &str, whose: Whose, closes: bool) -> Result<RawFd, Stop> {
        let content = small::content(path, whose, self);
        // The guest's limit is none for what it does not write itself, and this is all that is written in its call.
        unbound_files()?;
        let file = small::open(&content, closes)?;
        if Large::wants(content.len()) {
            let kept = self.own.keep(file.as_fd())?;
            for gone in self.large.take(kept, content.len()) {
                self.own.let_go(&gone);
            }
        }
        Ok(file.into_raw_fd())
    }

    /// The place that the guest's descriptor `number` is open for.
    fn place_of(&self, number: u64) -> Result<Option<Place>, Stop> {
        if !self.reach.world {
            return Ok(None);
        }
        let stat = rustix::fs::fstat(host::borrow(self.descriptor(number)?))?;
        Ok(self.layout.places.at(stat.st_dev, stat.st_ino))
    }

    /// What the guest gets that has opened `opened` with `flags`, if that is a place of the small world.
    pub(super) fn instead(&mut self, opened: u64, flags: OFlags) -> Result<Option<u64>, Stop> {
        let Some(Place::Node(node)) = self.place_of(opened)? else {
            return Ok(None);
        };
        let (number, closes) = (opened as RawFd, flags.contains(OFlags::CLOEXEC));
        match node {
            Node::Descriptor(standard) => {
                let cloexec = if closes { libc::O_CLOEXEC } else { 0 };
                let copied = host::dup3(standard as RawFd, number, cloexec as u64);
                if copied.is_err() {
                    host::close(number)?;
                }
                Ok(Some(copied.map_err(|_| Errno::NOENT)?))
            }
            Node::File(path, whose) => {
                // The next has its number.
                host::close(number)?;
                Ok(Some(self.open_file_of(path, whose, closes)? as u64))
            }
            Node::Program | Node::Terminal | Node::Device(_) => Ok(None),
        }
    }

    fn list_directory(&mut self, call: u64, arguments: Arguments) -> Served {
        let [number, at, room, ..] = arguments;
        let Some(Place::Listing(what)) = self.place_of(number)? else {
            return dispatch::pass(self, call, &LISTS, arguments);
        };
        let numbers = match what {
            Listing::Descriptors => self.own.guests()?,
            Listing::Threads => Guest::threads(self),
        };
        let directory = host::borrow(self.descriptor(number)?);
        let position = rustix::fs::seek(directory, SeekFrom::Current(0))?;
        let old = call == libc::SYS_getdents as u64;
        let room = u64::from(room as u32).min(MOST_LISTED) as usize;
        let (bytes, next) = small::list(what, &numbers, position, room, old)?;
        self.memory.write(at, &bytes)?;
        rustix::fs::seek(directory, SeekFrom::Start(next))?;
        Ok(bytes.len() as u64)
    }

    /// Serves a call that looks at a path, for a guest without a file system of its own. `None` if it is not
    /// of the small world.
    pub(super) fn look(&mut self, number: u64, arguments: &Arguments) -> Option<Served> {
        let look = small::Look::of(number, arguments)?;
        let path = arguments[look.path];
        // Null is no path: it may stand for an open descriptor.
        if path == 0 {
            return None;
        }
        match self.small(path) {
            Ok(Some(node)) => Some(self.look_at(node, look, arguments)),
            Ok(None) => None,
            Err(stop) => Some(Err(stop)),
        }
    }

    fn look_at(&mut self, node: Node, look: small::Look, arguments: &Arguments) -> Served {
        const NO_FOLLOW: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;
        let at = arguments[look.path + 1];
        let open = match node {
            Node::Descriptor(number) => {
                let file = host::borrow(self.descriptor(number).map_err(|_| Errno::NOENT)?);
                rustix::io::fcntl_getfd(file).map_err(|_| Errno::NOENT)?;
                Some(file)
            }
            _ => None,
        };
        let stat = |follows| match open {
            Some(file) if follows => host::stat(file),
            _ => Ok(small::stat(node, follows)),
        };
        match look.kind {
            Kind::Access => small::access(node, at)?,
            Kind::Stat => self.memory.write(at, &stat(true)?)?,
            Kind::StatOfLink => self.memory.write(at, &stat(false)?)?,
            Kind::Extended => {
                let stat = stat(arguments[2] & NO_FOLLOW == 0)?;
                self.memory.write(arguments[4], &small::statx(&stat))?;
            }
            Kind::Link => {
                let room = arguments[look.path + 2];
                if room as i32 <= 0 {
                    return Err(Errno::INVAL.into());
                }
                let text = small::link(node, self)?;
                let length = text.len().min(room as usize);
                self.memory.write(at, &text[..length])?;
                return Ok(length as u64);
            }
        }
        Ok(0)
    }

    /// The name of a thread, which is the program's until it was named.
    pub(super) fn name_of(&mut self, thread: Tid) -> Vec<u8> {
        let name = self.tasks.known(thread).map(|task| task.name);
        let name = name.unwrap_or_default();
        let length = name.iter().position(|&byte| byte == 0);
        match &name[..length.unwrap_or(name.len())] {
            [] => small::program(&Guest::text(self, Text::Arguments)),
            name => name.to_vec(),
        }
    }
}

impl Guest for Linux {
    fn memory(&self) -> u64 {
        self.memory.limit()
    }

    fn free(&mut self) -> u64 {
        self.memory.free()
    }

    fn resident(&mut self) -> u64 {
        self.memory.limit() - self.memory.free()
    }

    fn process(&self) -> i32 {
        PID as i32
    }

    fn caller(&self) -> i32 {
        self.serving as i32
    }

    fn parent(&self) -> i32 {
        0
    }

    fn threads(&self) -> Vec<i32> {
        self.tasks.iter().map(|(tid, _)| tid as i32).collect()
    }

    fn name(&mut self, thread: i32) -> Vec<u8> {
        self.name_of(thread as Tid)
    }

    fn nice(&self, thread: i32) -> i32 {
        let task = self.tasks.known(thread as Tid);
        task.map_or(0, |task| task.scheduling.nice())
    }

    fn text(&mut self, which: Text) -> Vec<u8> {
        let range = self.begin.texts[which as usize].clone();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match self.memory.read(range.start, &mut bytes) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }

    fn areas(&mut self) -> Vec<Area> {
        let program = small::path_of(&Guest::text(self, Text::Arguments));
        let program = String::from_utf8_lossy(&program).into_owned();
        let space = self.memory.space();
        let rooms = space.rooms();
        let heap = rooms.heap.0..space.heap_end();
        let stack = rooms.stack_low.0..rooms.stack_high.0;
        let areas = space.over(0, USER_ADDRESS_END).map(|(start, area)| {
            let name = match area.backing {
                Backing::Shared { .. } => program.clone(),
                _ if heap.contains(&start) => "[heap]".to_owned(),
                _ if stack.contains(&start) => "[stack]".to_owned(),
                _ => String::new(),
            };
            let offset = match area.backing {
                Backing::File { offset, .. } => offset,
                _ => 0,
            };
            Area {
                start,
                end: area.end,
                protection: area.protection,
                shared: area.backing == Backing::Kept,
                offset,
                name,
            }
        });
        areas.collect()
    }

    fn processors(&self) -> usize {
        self.scheduler.processors()
    }

    fn processor_time(&mut self) -> u64 {
        let used = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
        used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64
    }

    fn started(&self) -> Timespec {
        self.begin.at
    }

    fn limit(&mut self, number: u64) -> [u64; 2] {
        let resource = number as usize;
        [self.limits.soft(resource), self.limits.hard(resource)]
    }

    fn boot(&mut self) -> [u8; 16] {
        let new = self.random();
        *self.begin.boot.get_or_insert(new)
    }
}
