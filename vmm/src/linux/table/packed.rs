//! The table as it is kept: without addresses. What has some, the loader relocates, and each instance has that memory for
//! itself; this has it with the program's text. Handlers alone are addresses.

use super::{COUNT, Entry, LIST, Process, Server, Topic};
use crate::linux::dispatch::Arg;
use crate::linux::{Handler, stream};

/// A call.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    pub(super) number: u16,
    name: Part,
    server: Kept,
    topic: Topic,
    process: Process,
}

/// Where a list of one call's lies in that of all.
#[derive(Clone, Copy)]
struct Part {
    first: u16,
    count: u16,
}

impl Part {
    const fn new(first: usize, count: usize) -> Self {
        assert!(first + count <= u16::MAX as usize);
        Self {
            first: first as u16,
            count: count as u16,
        }
    }

    fn of<T>(self, all: &[T]) -> &[T] {
        &all[usize::from(self.first)..][..usize::from(self.count)]
    }
}

/// Who serves a call.
#[derive(Clone, Copy)]
enum Kept {
    Host(Part),
    Disk(Part),
    /// The handler of this number.
    Monitor(u16),
    ProcessOnly,
}

impl Packed {
    pub(super) fn entry(self) -> Entry {
        Entry {
            number: self.number.into(),
            // It was a string, and is a whole one.
            name: std::str::from_utf8(self.name.of(&NAMES)).unwrap_or_default(),
            server: match self.server {
                Kept::Host(kinds) => Server::Host(kinds.of(&ARGUMENTS)),
                Kept::Disk(kinds) => Server::Disk(kinds.of(&ARGUMENTS)),
                Kept::Monitor(number) => Server::Monitor(HANDLERS[usize::from(number)]),
                Kept::ProcessOnly => Server::ProcessOnly,
            },
            topic: self.topic,
            process: self.process,
        }
    }
}

/// How much of each kind the list has.
#[derive(Clone, Copy)]
struct Lengths {
    names: usize,
    arguments: usize,
    handlers: usize,
}

const LENGTHS: Lengths = {
    let mut lengths = Lengths {
        names: 0,
        arguments: 0,
        handlers: 0,
    };
    let mut at = 0;
    while at < COUNT {
        lengths.names += LIST[at].name.len();
        match LIST[at].server {
            Server::Host(kinds) | Server::Disk(kinds) => lengths.arguments += kinds.len(),
            Server::Monitor(_) => lengths.handlers += 1,
            Server::ProcessOnly => {}
        }
        at += 1;
    }
    lengths
};

/// All of the list, kind by kind.
struct Lists {
    packed: [Packed; COUNT],
    names: [u8; LENGTHS.names],
    arguments: [Arg; LENGTHS.arguments],
    handlers: [Handler; LENGTHS.handlers],
}

const LISTS: Lists = {
    const NOTHING: Part = Part::new(0, 0);
    let mut lists = Lists {
        packed: [Packed {
            number: 0,
            name: NOTHING,
            server: Kept::ProcessOnly,
            topic: Topic::File,
            process: Process::Unserved,
        }; COUNT],
        names: [0; LENGTHS.names],
        arguments: [Arg::Value; LENGTHS.arguments],
        handlers: [stream::read; LENGTHS.handlers],
    };
    let mut done = Lengths {
        names: 0,
        arguments: 0,
        handlers: 0,
    };
    let mut at = 0;
    while at < COUNT {
        let Entry {
            number,
            name,
            server,
            topic,
            process,
        } = LIST[at];
        assert!(number <= u16::MAX as u64);
        lists.packed[at] = Packed {
            number: number as u16,
            name: Part::new(done.names, name.len()),
            server: match server {
                Server::Host(kinds) => Kept::Host(Part::new(done.arguments, kinds.len())),
                Server::Disk(kinds) => Kept::Disk(Part::new(done.arguments, kinds.len())),
                Server::Monitor(_) => Kept::Monitor(Part::new(done.handlers, 1).first),
                Server::ProcessOnly => Kept::ProcessOnly,
            },
            topic,
            process,
        };
        let mut nth = 0;
        while nth < name.len() {
            lists.names[done.names] = name.as_bytes()[nth];
            done.names += 1;
            nth += 1;
        }
        match server {
            Server::Host(kinds) | Server::Disk(kinds) => {
                let mut nth = 0;
                while nth < kinds.len() {
                    lists.arguments[done.arguments] = kinds[nth];
                    done.arguments += 1;
                    nth += 1;
                }
            }
            Server::Monitor(handler) => {
                lists.handlers[done.handlers] = handler;
                done.handlers += 1;
            }
            Server::ProcessOnly => {}
        }
        at += 1;
    }
    lists
};

// One place each: a constant would have a copy wherever it is used.
pub(super) static PACKED: [Packed; COUNT] = LISTS.packed;
static NAMES: [u8; LENGTHS.names] = LISTS.names;
static ARGUMENTS: [Arg; LENGTHS.arguments] = LISTS.arguments;
static HANDLERS: [Handler; LENGTHS.handlers] = LISTS.handlers;
