//! A guest that is a process, as the small world has it.

use std::ops::ControlFlow;

use pool_core::address::USER_ADDRESS_END;
use rustix::process::Pid;
use rustix::time::Timespec;

use super::areas;
use super::calls::Calls;
use super::ptrace::Tracee;
use super::system;
use super::threads::Threads;
use crate::trace::Peek;
use crate::world::small::{self, Area, Guest, Text};

const CORE: u64 = libc::RLIMIT_CORE as u64;

/// A guest, as one of its threads looks at it.
pub(super) struct Looked<'a> {
    pub(super) calls: &'a mut Calls,
    pub(super) tracee: Tracee,
    pub(super) threads: &'a Threads,
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

    fn caller(&self) -> i32 {
        self.tracee.0.as_raw_nonzero().get()
    }

    /// It is this process's, which runs that of its tracer.
    fn parent(&self) -> i32 {
        rustix::process::getpid().as_raw_nonzero().get()
    }

    fn threads(&self) -> Vec<i32> {
        self.threads.numbers()
    }

    fn name(&mut self, thread: i32) -> Vec<u8> {
        let name = self.threads.name_of(thread);
        name.map_or_else(|| self.calls.begin.name.clone(), <[u8]>::to_vec)
    }

    fn nice(&self, thread: i32) -> i32 {
        // Of one that has ended meanwhile nobody asks again.
        rustix::process::getpriority_process(Pid::from_raw(thread)).unwrap_or(0)
    }

    fn processors(&self) -> usize {
        self.calls.begin.processors.into()
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
        let (begin, mut found) = (&self.calls.begin, Vec::new());
        // As far as it can be known.
        let _ = self.calls.areas.each(|area| {
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
            found.extend(told(&area, name));
            ControlFlow::Continue(())
        });
        found
    }

    fn processor_time(&mut self) -> u64 {
        system::processor_time(self.calls.guest)
    }

    fn started(&self) -> Timespec {
        self.calls.begin.at
    }

    fn limit(&mut self, number: u64) -> [u64; 2] {
        match number {
            // As the guest is told by calls.
            CORE => [0; 2],
            _ => system::limit(self.calls.guest, number),
        }
    }

    fn boot(&mut self) -> [u8; 16] {
        let new = self.random();
        *self.calls.begin.boot.get_or_insert(new)
    }
}

/// `area` with this `name`, in place of that of a file: that is the host's. The kernel's own page at the end of the
/// address space is left out.
fn told(area: &areas::Area, name: String) -> Option<Area> {
    let of_kernel = area.start >= USER_ADDRESS_END;
    (!of_kernel).then_some(Area {
        start: area.start,
        end: area.end,
        protection: area.protection(),
        shared: area.has(b's'),
        offset: area.offset,
        name,
    })
}

#[cfg(test)]
mod tests {
    use pool_core::address::Protection;

    use super::*;

    #[test]
    fn areas_are_told_without_the_hosts_files() {
        let text = "00400000-00402000 r-xs 00001000 00:21 7    /pool/segments/1\n\
                    ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n";
        let lines = areas::of_text(text.as_bytes()).unwrap();
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
            name: "/program".to_owned(),
        };
        let found: Vec<_> = lines
            .iter()
            .filter_map(|area| told(area, "/program".to_owned()))
            .collect();
        assert_eq!(found, [expected]);
    }
}
