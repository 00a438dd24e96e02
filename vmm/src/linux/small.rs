//! The small world of a guest in a virtual machine: see [`crate::world::small`].

use std::os::fd::IntoRawFd;

use pool_core::address::USER_ADDRESS_END;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use super::process::PID;
use super::{Arguments, Linux, Served, Stop, host};
use crate::memory::space::Backing;
use crate::world::small::{self, Area, Guest, Node, Text};

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
        let node = small::find(&text, PID as i32, &self.granted);
        Ok(node.filter(|node| !self.reach.world || !small::is_kept(*node)))
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
            Node::Descriptor(number) => {
                let old = self.descriptor(number).map_err(|_| Errno::NOENT)?;
                host::duplicate(old, closes).map_err(|error| match error {
                    Errno::BADF => Errno::NOENT,
                    other => other,
                })?
            }
            Node::File(path) => {
                small::may_open(flags)?;
                let content = small::content(path, self);
                small::open(&content, closes)?.into_raw_fd()
            }
        };
        Ok(Some(opened as u64))
    }

    /// Serves a call that looks at a path, for a guest without a file system of its own. `None` if it is not
    /// of the small world.
    pub(super) fn look(&mut self, number: u64, arguments: &Arguments) -> Option<Served> {
        let look = small::Look::of(number)?;
        let path = arguments[look.path];
        match self.small(path) {
            Ok(Some(node)) => Some(self.look_at(node, look, arguments)),
            Ok(None) => None,
            Err(stop) => Some(Err(stop)),
        }
    }

    fn look_at(&mut self, node: Node, look: small::Look, arguments: &Arguments) -> Served {
        let at = arguments[look.path + 1];
        if let Node::Descriptor(number) = node {
            self.descriptor(number).map_err(|_| Errno::NOENT)?;
        }
        match look.kind {
            small::Kind::Access => small::access(node, at)?,
            small::Kind::Stat => self.memory.write(at, &small::stat(node))?,
            small::Kind::Extended => self.memory.write(arguments[4], &small::statx(node))?,
            small::Kind::Link => {
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

    fn thread(&self) -> i32 {
        self.serving as i32
    }

    fn threads(&self) -> usize {
        self.tasks.len()
    }

    fn name(&mut self) -> Vec<u8> {
        let name = self.task().name;
        let length = name.iter().position(|&byte| byte == 0);
        match &name[..length.unwrap_or(name.len())] {
            [] => small::program(&Guest::text(self, Text::Arguments)),
            name => name.to_vec(),
        }
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
