//! `--trace`: the guest's calls and signals on standard error, in the form of `strace -f`, the same on both platforms.
//!
//! A call is printed as far as it is known when it is made, and what it has written and its result when it has
//! returned. If another thread comes in between, the line breaks off and is taken up again.

pub(crate) mod names;
mod shapes;
mod values;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};

use rustix::event::{PollFd, PollFlags};

use self::shapes::Shape;
pub(crate) use self::values::Peek;
use self::values::Said;

/// A call that has not returned.
#[derive(Debug)]
struct Made {
    number: u64,
    arguments: [u64; 6],
    /// How many arguments have been printed.
    shown: usize,
    /// The comma in front of the next has been.
    separated: bool,
    /// Its line was broken off.
    broken: bool,
}

/// Prints what a guest does.
#[derive(Debug)]
pub(crate) struct Trace {
    out: File,
    made: BTreeMap<i32, Made>,
    /// The thread whose line is not complete.
    open: Option<i32>,
    /// There are several threads: lines say whose they are.
    pub(crate) several: bool,
}

/// A signal on its way to a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) signal: i32,
    pub(crate) code: i32,
    /// The address of what an instruction did.
    pub(crate) address: u64,
    /// Who sent it: process and user.
    pub(crate) sender: (i32, u32),
}

impl Trace {
    /// To `out`.
    pub(crate) fn new(out: File) -> Self {
        Self {
            out,
            made: BTreeMap::new(),
            open: None,
            several: false,
        }
    }

    /// `thread` makes a call.
    pub(crate) fn call(
        &mut self,
        thread: i32,
        number: u64,
        arguments: [u64; 6],
        memory: &mut dyn Peek,
    ) {
        // It was in a call that does not return.
        if self.made.contains_key(&thread) {
            self.returned(thread, None, memory);
        }
        let mut made = Made {
            number,
            arguments,
            shown: 0,
            separated: false,
            broken: false,
        };
        let text = format!("{}({}", name(number), made.show(None, memory));
        self.begin(thread, &text);
        self.open = Some(thread);
        self.made.insert(thread, made);
    }

    /// The call of `thread` has returned, or never will (`None`).
    pub(crate) fn returned(&mut self, thread: i32, result: Option<i64>, memory: &mut dyn Peek) {
        let Some(mut made) = self.made.remove(&thread) else {
            return;
        };
        let rest = made.show(Some(result.unwrap_or(-1)), memory);
        let shape = Shape::of(&name(made.number));
        let result = result.map_or_else(
            || "?".to_owned(),
            |value| values::result(value, shape.result()),
        );
        if made.broken {
            let text = format!("<... {} resumed>{rest}) = {result}\n", name(made.number));
            self.begin(thread, &text);
        } else {
            self.open = None;
            self.print(&format!("{rest}) = {result}\n"));
        }
    }

    /// A signal is delivered to `thread`.
    pub(crate) fn signal(&mut self, thread: i32, told: Told) {
        let name = names::signal(told.signal as u64);
        let code = told.code;
        let by_instruction = [
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGTRAP,
        ];
        let detail = if code > 0 && by_instruction.contains(&told.signal) {
            format!("si_addr={}", values::address(told.address))
        } else {
            let (process, user) = told.sender;
            format!("si_pid={process}, si_uid={user}")
        };
        let code = code_name(told.signal, code);
        self.begin(
            thread,
            &format!("--- {name} {{si_signo={name}, si_code={code}, {detail}}} ---\n"),
        );
    }

    /// `thread` has ended: with this status, or of this signal.
    pub(crate) fn ended(&mut self, thread: i32, how: Result<i32, i32>) {
        if let Some(made) = self.made.remove(&thread) {
            if made.broken {
                let text = format!("<... {} resumed>) = ?\n", name(made.number));
                self.begin(thread, &text);
            } else {
                self.open = None;
                self.print(") = ?\n");
            }
        }
        let text = match how {
            Ok(status) => format!("+++ exited with {status} +++\n"),
            Err(signal) => format!("+++ killed by {} +++\n", names::signal(signal as u64)),
        };
        self.begin(thread, &text);
    }

    /// Prints `text` as a line of `thread`, after breaking off that of another.
    fn begin(&mut self, thread: i32, text: &str) {
        let mut line = String::new();
        if let Some(open) = self.open.take() {
            line.push_str(" <unfinished ...>\n");
            if let Some(made) = self.made.get_mut(&open) {
                made.broken = true;
            }
        }
        if self.several {
            let _ = write!(line, "[pid {thread:>5}] ");
        }
        line.push_str(text);
        self.print(&line);
    }

    /// Failure to print is no reason to stop a guest.
    fn print(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return,
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares a socket with this program may have said so of it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut polls = [PollFd::new(&self.out, PollFlags::OUT)];
                    // Should that fail, writing does, too.
                    let _ = crate::descriptors::poll(&mut polls, None);
                }
                Err(_) => return,
            }
        }
    }
}

impl Made {
    /// The arguments that are known and were not shown before: all when the call has returned.
    fn show(&mut self, result: Option<i64>, memory: &mut dyn Peek) -> String {
        let name = name(self.number);
        let shape = Shape::of(&name);
        let mut said = Said {
            name: &name,
            arguments: &self.arguments,
            result,
            memory,
        };
        let count = said.count(shape);
        let mut text = String::new();
        for (at, word) in shape.arguments().enumerate().take(count).skip(self.shown) {
            let written = word.starts_with(|first: char| first.is_ascii_uppercase());
            if at > 0 && !std::mem::take(&mut self.separated) {
                text.push_str(", ");
            }
            if written && result.is_none() {
                self.separated = at > 0;
                break;
            }
            text.push_str(&said.argument(word, at));
            self.shown = at + 1;
        }
        text
    }
}

/// What `strace` calls it.
fn name(number: u64) -> String {
    names::call(number).map_or_else(|| format!("syscall_{number:#x}"), str::to_owned)
}

/// Who or what sent a signal (`asm-generic/siginfo.h`).
fn code_name(signal: i32, code: i32) -> String {
    let name = match (signal, code) {
        (_, 0) => "SI_USER",
        (_, 0x80) => "SI_KERNEL",
        (_, -1) => "SI_QUEUE",
        (_, -2) => "SI_TIMER",
        (_, -6) => "SI_TKILL",
        (libc::SIGSEGV, 1) => "SEGV_MAPERR",
        (libc::SIGSEGV, 2) => "SEGV_ACCERR",
        (libc::SIGBUS, 1) => "BUS_ADRALN",
        (libc::SIGBUS, 2) => "BUS_ADRERR",
        (libc::SIGILL, 1) => "ILL_ILLOPC",
        (libc::SIGILL, 2) => "ILL_ILLOPN",
        (libc::SIGFPE, 1) => "FPE_INTDIV",
        (libc::SIGFPE, 2) => "FPE_INTOVF",
        (libc::SIGFPE, 3) => "FPE_FLTDIV",
        (libc::SIGTRAP, 1) => "TRAP_BRKPT",
        _ => return code.to_string(),
    };
    name.to_owned()
}

/// A call with those of its arguments that say what it is to do.
pub(crate) fn words_of(number: u64, arguments: &[u64; 6]) -> String {
    let name = name(number);
    let shape = Shape::of(&name);
    let is_option = name.ends_with("sockopt");
    let words = shape.arguments().zip(arguments).enumerate();
    let words = words.filter_map(|(at, (word, &value))| match word.strip_prefix("f:") {
        Some(set) => Some(names::flags(set, value & u64::from(u32::MAX))),
        None if is_option && at == 2 => Some((value as i32).to_string()),
        None => None,
    });
    let words: Vec<_> = words.collect();
    format!("{name}({})", words.join(", "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    struct Nothing;

    impl Peek for Nothing {
        fn peek(&mut self, _: u64, _: &mut [u8]) -> usize {
            0
        }
    }

    #[test]
    fn where_nobody_waits_nothing_is_lost() {
        const CALLS: usize = 50_000;
        let (mut reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut trace = Trace::new(OwnedFd::from(writer).into());
        let printing = std::thread::spawn(move || {
            for _ in 0..CALLS {
                trace.call(7, libc::SYS_getppid as u64, [0; 6], &mut Nothing);
                trace.returned(7, Some(1), &mut Nothing);
            }
        });
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        printing.join().unwrap();
        assert_eq!(text, "getppid() = 1\n".repeat(CALLS));
    }
}
