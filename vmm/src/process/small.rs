//! The small world of a guest that is a process: see [`crate::world::small`]. Its monitor is asked before a file is
//! opened, and has the kernel make one in memory instead, which it fills before the guest goes on. Another
//! thread may change the path meanwhile, or the file: that is no more than it may do anyway.

use std::os::fd::AsFd;

use pool_core::address::Protection;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::PidfdGetfdFlags;
use rustix::time::Timespec;

use super::calls::{Calls, Next, failed};
use super::change::Change;
use super::ptrace::{Registers, Tracee};
use super::system;
use super::threads::Threads;
use crate::linux::start::Stack;
use crate::trace::Peek;
use crate::world::small::{self, Area, Guest, Kind, Look, Node, Text};

/// Longest path, with its NUL.
const LONGEST: usize = 4096;

/// What the small world is made of.
#[derive(Debug)]
pub(super) struct Begin {
    /// Where the guest's arguments, its environment and its auxiliary vector lie.
    texts: [std::ops::Range<u64>; 3],
    at: Timespec,
    boot: Option<[u8; 16]>,
    /// It has a file system of its own, with these directories that it was given.
    world: bool,
    granted: Vec<Vec<u8>>,
    /// Where its image, its heap and its stack lie.
    image: Vec<(u64, u64)>,
    heap: u64,
    stack: std::ops::Range<u64>,
}

impl Begin {
    pub(super) fn new(guest: &super::Guest<'_>, stack: &Stack) -> Self {
        let plan = guest.plan;
        Self {
            texts: [
                stack.arguments.clone(),
                stack.environment.clone(),
                stack.auxiliary.clone(),
            ],
            at: rustix::time::clock_gettime(rustix::time::ClockId::Boottime),
            boot: None,
            world: !guest.grants.is_empty() || guest.network,
            granted: crate::world::granted(guest.grants),
            image: plan
                .mappings
                .iter()
                .map(|m| (m.address.0, m.end()))
                .collect(),
            heap: plan.rooms.heap.0,
            stack: plan.rooms.stack_low.0..plan.rooms.stack_high.0,
        }
    }
}

/// A guest, as one of its threads looks at it.
struct Looked<'a> {
    calls: &'a mut Calls,
    tracee: Tracee,
    threads: usize,
}

impl Calls {
    /// What becomes of a call that opens a path.
    pub(super) fn open(
        &mut self,
        tracee: Tracee,
        registers: &Registers,
        threads: &mut Threads,
    ) -> Next {
        let (path_at, flags) = match registers.orig_rax as i64 {
            libc::SYS_open => (registers.rdi, registers.rsi),
            _ => (registers.rsi, registers.rdx),
        };
        let flags = OFlags::from_bits_retain(flags as u32);
        let node = self.find(tracee, path_at);
        let node = node.filter(|_| !flags.contains(OFlags::PATH));
        let closes = flags.contains(OFlags::CLOEXEC);
        match node {
            Some(Node::File(path)) => {
                if let Err(error) = small::may_open(flags) {
                    return failed(error);
                }
                let threads_now = threads.count();
                let content = small::content(path, &mut self.looked(tracee, threads_now));
                threads.stopped(tracee.0).content = Some(content);
                Next::ServeWith(Change::Memory(path_at, closes))
            }
            Some(Node::Descriptor(number)) => {
                let found = rustix::process::pidfd_getfd(
                    &self.process,
                    number as i32,
                    PidfdGetfdFlags::empty(),
                );
                match found {
                    Ok(_) => Next::ServeWith(Change::Duplicate(number, closes)),
                    Err(_) => failed(Errno::NOENT),
                }
            }
            Some(Node::Terminal) => failed(Errno::NXIO),
            Some(Node::Program) | None => self.elsewhere(),
        }
    }

    /// What becomes of a call that looks at a path, of a guest without a file system.
    pub(super) fn look(
        &mut self,
        look: Look,
        tracee: Tracee,
        registers: &Registers,
        threads: usize,
    ) -> Next {
        let [path, at, third] = match look.path {
            0 => [registers.rdi, registers.rsi, registers.rdx],
            _ => [registers.rsi, registers.rdx, registers.r10],
        };
        let Some(node) = self.find(tracee, path) else {
            return self.elsewhere();
        };
        let written = |bytes: &[u8], result: usize| match tracee.write(at, bytes) {
            Ok(()) => Next::Done(result as i64),
            Err(_) => failed(Errno::FAULT),
        };
        match look.kind {
            Kind::Access => small::access(node, at).map_or_else(failed, |()| Next::Done(0)),
            Kind::Stat => written(&small::stat(node), 0),
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

    /// A path that is not of the small world.
    fn elsewhere(&self) -> Next {
        if self.begin.world {
            Next::Serve
        } else {
            failed(Errno::NOENT)
        }
    }

    /// Fills the file that a thread has opened as `number`.
    pub(super) fn fill(&self, number: i64, content: &[u8]) {
        let flags = PidfdGetfdFlags::empty();
        // Another thread may have closed it, or put something else there, which is no such file.
        if let Ok(number) = i32::try_from(number)
            && number >= 0
            && let Ok(file) = rustix::process::pidfd_getfd(&self.process, number, flags)
            && rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.is_empty())
        {
            let _ = small::fill(file.as_fd(), content);
        }
    }

    /// What the path at `at` is of the small world, unless the guest's own file system has it.
    fn find(&self, mut tracee: Tracee, at: u64) -> Option<Node> {
        let mut start = [0; 6];
        // Most paths are told apart by their first letters.
        let read = tracee.peek(at, &mut start);
        let tops = [&b"/proc"[..], b"/sys", b"/dev", b"/etc", b"//", b"/."];
        if !tops.iter().any(|top| start[..read].starts_with(top)) {
            return None;
        }
        let mut text = vec![0; LONGEST];
        let read = tracee.peek(at, &mut text);
        let end = text[..read].iter().position(|&byte| byte == 0)?;
        let process = self.guest.as_raw_nonzero().get();
        let node = small::find(&text[..end], process, &self.begin.granted)?;
        (!self.begin.world || !small::is_kept(node)).then_some(node)
    }

    fn looked(&mut self, tracee: Tracee, threads: usize) -> Looked<'_> {
        Looked {
            calls: self,
            tracee,
            threads,
        }
    }
}

impl Looked<'_> {
    /// The line of `/proc/PID/status` that begins with `key`.
    fn status(&mut self, key: &str) -> Option<String> {
        let status = self.calls.status_text()?;
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().to_owned())
    }
}

impl Guest for Looked<'_> {
    fn memory(&self) -> u64 {
        self.calls.limits.memory
    }

    fn free(&mut self) -> u64 {
        let used = self.calls.used().unwrap_or(self.memory());
        self.memory().saturating_sub(used)
    }

    fn resident(&mut self) -> u64 {
        let line = self.status("VmRSS:");
        let kib = line.and_then(|line| line.strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map_or(0, |kib| kib << 10)
    }

    fn process(&self) -> i32 {
        self.calls.guest.as_raw_nonzero().get()
    }

    fn thread(&self) -> i32 {
        self.tracee.0.as_raw_nonzero().get()
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn name(&mut self) -> Vec<u8> {
        match self.status("Name:") {
            // It has none of its own yet.
            Some(name) if name != env!("CARGO_PKG_NAME") => name.into_bytes(),
            _ => small::program(&self.text(Text::Arguments)),
        }
    }

    fn text(&mut self, which: Text) -> Vec<u8> {
        let range = self.calls.begin.texts[which as usize].clone();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.tracee.peek(range.start, &mut bytes);
        bytes.truncate(read);
        bytes
    }

    fn areas(&mut self) -> Vec<Area> {
        let program = small::path_of(&self.text(Text::Arguments));
        let program = String::from_utf8_lossy(&program).into_owned();
        let maps = self.calls.maps().unwrap_or_default();
        let begin = &self.calls.begin;
        let lines = maps.split(|&byte| byte == b'\n');
        let areas = lines.filter_map(|line| area(std::str::from_utf8(line).ok()?));
        areas
            .map(|area| {
                let of_image = |&(start, end): &(u64, u64)| (start..end).contains(&area.start);
                let name = if begin.image.iter().any(of_image) {
                    program.clone()
                } else if area.start == begin.heap {
                    "[heap]".to_owned()
                } else if begin.stack.contains(&area.start) {
                    "[stack]".to_owned()
                } else {
                    String::new()
                };
                Area { name, ..area }
            })
            .collect()
    }

    fn processor_time(&mut self) -> u64 {
        system::processor_time(self.calls.guest)
    }

    fn started(&self) -> Timespec {
        self.calls.begin.at
    }

    fn limit(&mut self, number: u64) -> [u64; 2] {
        system::limit(self.calls.guest, number)
    }

    fn boot(&mut self) -> [u8; 16] {
        let new = self.random();
        *self.calls.begin.boot.get_or_insert(new)
    }
}

/// A line of `/proc/PID/maps`, without the file that it names: that is the host's. The kernel's own page at the end of
/// the address space is left out.
fn area(line: &str) -> Option<Area> {
    let mut fields = line.split(' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let protection = fields.next()?.as_bytes();
    let offset = fields.next()?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    let has = |at: usize, letter| protection.get(at) == Some(&letter);
    let start = number(start)?;
    let of_kernel = start >= pool_core::address::USER_ADDRESS_END;
    (!of_kernel).then_some(Area {
        start,
        end: number(end)?,
        protection: Protection {
            read: has(0, b'r'),
            write: has(1, b'w'),
            execute: has(2, b'x'),
        },
        shared: has(3, b's'),
        offset: number(offset)?,
        name: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_told_without_the_hosts_files() {
        let line = "00400000-00402000 r-xs 00001000 00:21 7    /pool/segments/1";
        let expected = Area {
            start: 0x40_0000,
            end: 0x40_2000,
            protection: Protection {
                read: true,
                write: false,
                execute: true,
            },
            shared: true,
            offset: 0x1000,
            name: String::new(),
        };
        assert_eq!(area(line), Some(expected));
        assert_eq!(
            area("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]"),
            None
        );
        assert_eq!(area(""), None);
    }
}
