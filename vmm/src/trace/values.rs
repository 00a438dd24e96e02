//! Arguments and results, as `strace` writes them.

use std::fmt::Write as _;

use super::names;
use super::shapes::Shape;

/// Bytes of a buffer, elements of a list, and characters of a path that are shown.
const MOST_BYTES: usize = 32;
const MOST_ELEMENTS: u64 = 16;
const LONGEST_PATH: usize = 4096;

/// The guest's memory, to look at.
pub(crate) trait Peek {
    /// Fills `into` from `address` on, as far as it can be read: how much that was.
    fn peek(&mut self, address: u64, into: &mut [u8]) -> usize;
}

/// A call as it was made, or has returned.
pub(super) struct Said<'a> {
    pub(super) name: &'a str,
    pub(super) arguments: &'a [u64; 6],
    /// `None` before it has returned.
    pub(super) result: Option<i64>,
    pub(super) memory: &'a mut dyn Peek,
}

impl Said<'_> {
    /// How many of its arguments there are: some depend on others.
    pub(super) fn count(&self, shape: Shape) -> usize {
        const MAKES: u64 = 0x40 | 0x40_0000;
        const SET_VMA: u64 = 0x5356_4d41;
        let [first, second, third, ..] = *self.arguments;
        let all = shape.arguments().count();
        match self.name {
            "open" if second & MAKES == 0 => 2,
            "openat" if third & MAKES == 0 => 3,
            // `F_GETFD`, `F_GETFL`, the size of a pipe, seals.
            "fcntl" if [1, 3, 0x408, 0x40a].contains(&second) => 2,
            "prctl" if first != SET_VMA => 2,
            // Wakes and unlocks.
            "futex" if [1, 7, 8].contains(&(second & 0x7f)) => 3,
            "futex" if second.trailing_zeros() >= 7 => 4,
            "mremap" if self.arguments[3] & 2 == 0 => 4,
            _ => all,
        }
    }

    /// Argument `at`, of kind `word`.
    pub(super) fn argument(&mut self, word: &str, at: usize) -> String {
        let value = self.arguments[at];
        let (word, extra) = word.split_once(':').unwrap_or((word, ""));
        let writes = word.starts_with(|first: char| first.is_ascii_uppercase());
        if writes && self.result.is_none_or(|result| result < 0) {
            return address(value);
        }
        let other = || extra.parse::<usize>().map_or(0, |at| self.arguments[at]);
        let shown = match word {
            "l" => return value.cast_signed().to_string(),
            "at" if value as i32 == libc::AT_FDCWD => return "AT_FDCWD".to_owned(),
            "i" | "d" | "at" => return (value as i32).to_string(),
            "u" => return value.to_string(),
            "x" if value == 0 => return "0".to_owned(),
            "x" => return format!("{value:#x}"),
            "o" => return octal(value),
            "f" => return names::flags(extra, value & width(extra)),
            "sig" => return names::signal(value),
            _ if value == 0 => return "NULL".to_owned(),
            "s" | "S" => self.path(value),
            "b" => {
                let length = other();
                self.bytes(value, length)
            }
            "B" => self.bytes(value, self.result.unwrap_or(0) as u64),
            "v" => {
                let count = other();
                self.vector(value, count, u64::MAX)
            }
            "V" => {
                let count = other();
                self.vector(value, count, self.result.unwrap_or(0) as u64)
            }
            "sa" => {
                let length = other();
                self.socket(value, length)
            }
            // Its length is at the next argument.
            "SA" => {
                let length = self.word(self.arguments[at + 1]);
                length.and_then(|length| self.socket(value, length.into()))
            }
            "int" if other() != 4 => None,
            "int" | "INT" | "PARENT" => self.word(value).map(|word| format!("[{}]", word as i32)),
            "PAIR" => self
                .words(value)
                .map(|[pair]| format!("[{}, {}]", pair as i32, pair >> 32)),
            "set" | "SET" => self.words(value).map(|[mask]| names::signals(mask)),
            "act" | "ACT" => self.words(value).map(action),
            "time" | "TIME" => self.words(value).map(|words| time(words, "tv_nsec")),
            "part" | "PART" => self.words(value).map(|words| time(words, "tv_usec")),
            "itimer" => self.interval(value, "tv_usec"),
            "itimerspec" => self.interval(value, "tv_nsec"),
            "rlimit" | "RLIMIT" => self.words(value).map(limits),
            "STAT" => self.stat(value),
            "UTS" => self.names(value),
            "polls" => {
                let count = other();
                self.list(value, count, 8, |_, [word]: [u64; 1]| {
                    let events = names::flags("polls", word >> 32 & 0xffff);
                    format!("{{fd={}, events={events}}}", word as i32)
                })
            }
            "event" => self
                .events(value, 1)
                .map(|text| text.trim_matches(['[', ']']).to_owned()),
            "EVENTS" => self.events(value, self.result.unwrap_or(0) as u64),
            "message" => self.message(value, u64::MAX),
            "MESSAGE" => self.message(value, self.result.unwrap_or(0) as u64),
            _ => None,
        };
        shown.unwrap_or_else(|| address(value))
    }

    fn fill(&mut self, at: u64, into: &mut [u8]) -> Option<()> {
        (self.memory.peek(at, into) == into.len()).then_some(())
    }

    fn word(&mut self, at: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.fill(at, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

    fn words<const N: usize>(&mut self, at: u64) -> Option<[u64; N]> {
        let mut bytes = [[0; 8]; N];
        self.fill(at, bytes.as_flattened_mut())?;
        Some(bytes.map(u64::from_le_bytes))
    }

    fn bytes(&mut self, at: u64, length: u64) -> Option<String> {
        let shown = length.min(MOST_BYTES as u64) as usize;
        let mut bytes = [0; MOST_BYTES];
        self.fill(at, &mut bytes[..shown])?;
        let more = if length > shown as u64 { "..." } else { "" };
        Some(format!("{}{more}", quoted(&bytes[..shown])))
    }

    fn path(&mut self, at: u64) -> Option<String> {
        const CHUNK: u64 = 256;
        let mut text = Vec::new();
        while text.len() < LONGEST_PATH {
            let mut chunk = [0; CHUNK as usize];
            let next = at.checked_add(text.len() as u64)?;
            // Not past the end of what can be read, and never twice at the same place.
            let wanted = (CHUNK - next % CHUNK) as usize;
            let read = self.memory.peek(next, &mut chunk[..wanted]);
            if let Some(end) = chunk[..read].iter().position(|&byte| byte == 0) {
                text.extend_from_slice(&chunk[..end]);
                return Some(quoted(&text));
            }
            if read < wanted {
                return None;
            }
            text.extend_from_slice(&chunk[..read]);
        }
        Some(format!("{}...", quoted(&text)))
    }

    /// A list of `count` elements of `size` bytes.
    fn list<const N: usize>(
        &mut self,
        at: u64,
        count: u64,
        size: u64,
        mut show: impl FnMut(&mut Self, [u64; N]) -> String,
    ) -> Option<String> {
        let mut shown = Vec::new();
        for element in 0..count.min(MOST_ELEMENTS) {
            let words = self.words(at.checked_add(element * size)?)?;
            shown.push(show(self, words));
        }
        if count > MOST_ELEMENTS {
            shown.push("...".to_owned());
        }
        Some(format!("[{}]", shown.join(", ")))
    }

    /// An `iovec` of which `moved` bytes count.
    fn vector(&mut self, at: u64, count: u64, mut moved: u64) -> Option<String> {
        self.list(at, count, 16, |said, [base, length]| {
            let counts = length.min(moved);
            moved -= counts;
            let bytes = said.bytes(base, counts).unwrap_or_else(|| address(base));
            format!("{{iov_base={bytes}, iov_len={length}}}")
        })
    }

    fn message(&mut self, at: u64, moved: u64) -> Option<String> {
        let [name, name_length, vector, count, _, control_length, flags] = self.words(at)?;
        let name = match name {
            0 => "NULL".to_owned(),
            _ => (self.socket(name, name_length as u32 as u64)).unwrap_or_else(|| address(name)),
        };
        let vector = self
            .vector(vector, count, moved)
            .unwrap_or_else(|| address(vector));
        let flags = names::flags("msg", flags as u32 as u64);
        Some(format!(
            "{{msg_name={name}, msg_namelen={}, msg_iov={vector}, msg_iovlen={count}, \
             msg_controllen={control_length}, msg_flags={flags}}}",
            name_length as u32
        ))
    }

    fn socket(&mut self, at: u64, length: u64) -> Option<String> {
        let mut bytes = [0; 110];
        let length = length.min(bytes.len() as u64) as usize;
        self.fill(at, &mut bytes[..length])?;
        if length < 2 {
            return None;
        }
        let family = u16::from_le_bytes([bytes[0], bytes[1]]);
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        let rest = match (i32::from(family), length) {
            (libc::AF_UNIX, _) => {
                let name = &bytes[2..length.max(2)];
                match name {
                    [] => String::new(),
                    [0, name @ ..] => format!(", sun_path=@{}", quoted(name)),
                    name => {
                        let end = name.iter().position(|&byte| byte == 0);
                        format!(", sun_path={}", quoted(&name[..end.unwrap_or(name.len())]))
                    }
                }
            }
            (libc::AF_INET, 16..) => {
                let host: [u8; 4] = bytes[4..8].try_into().ok()?;
                let host = std::net::Ipv4Addr::from(host);
                format!(", sin_port=htons({port}), sin_addr=inet_addr(\"{host}\")")
            }
            (libc::AF_INET6, 28..) => {
                let host: [u8; 16] = bytes[8..24].try_into().ok()?;
                let host = std::net::Ipv6Addr::from(host);
                format!(", sin6_port=htons({port}), inet_pton(AF_INET6, \"{host}\", &sin6_addr)")
            }
            _ => ", ...".to_owned(),
        };
        let family = names::flags("family", family.into());
        Some(format!("{{sa_family={family}{rest}}}"))
    }

    fn events(&mut self, at: u64, count: u64) -> Option<String> {
        /// `struct epoll_event` is packed.
        const SIZE: u64 = 12;
        let mut shown = Vec::new();
        for element in 0..count.min(MOST_ELEMENTS) {
            let at = at.checked_add(element * SIZE)?;
            let events = names::flags("events", self.word(at)?.into());
            let [data] = self.words(at + 4)?;
            shown.push(format!("{{events={events}, data={data:#x}}}"));
        }
        Some(format!("[{}]", shown.join(", ")))
    }

    fn interval(&mut self, at: u64, part: &str) -> Option<String> {
        let [interval, interval_part, value, value_part] = self.words(at)?;
        Some(format!(
            "{{it_interval={}, it_value={}}}",
            time([interval, interval_part], part),
            time([value, value_part], part)
        ))
    }

    fn stat(&mut self, at: u64) -> Option<String> {
        let words: [u64; 7] = self.words(at)?;
        let mode = words[3] & 0xffff_ffff;
        let kind = names::flags("type", mode & 0xf000);
        let device = words[5];
        let what = if [0x2000, 0x6000].contains(&(mode & 0xf000)) {
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            format!("st_rdev=makedev({major:#x}, {minor:#x})")
        } else {
            format!("st_size={}", words[6])
        };
        Some(format!(
            "{{st_mode={kind}|{}, {what}, ...}}",
            octal(mode & 0xfff)
        ))
    }

    /// `struct utsname`.
    fn names(&mut self, at: u64) -> Option<String> {
        let system = self.path(at)?;
        let node = self.path(at.checked_add(65)?)?;
        Some(format!("{{sysname={system}, nodename={node}, ...}}"))
    }
}

/// What of an argument counts that is flags of this set: most are an `int`.
fn width(set: &str) -> u64 {
    match set {
        "clone" | "map" | "prot" => u64::MAX,
        _ => u32::MAX.into(),
    }
}

fn action([handler, flags, restorer, mask]: [u64; 4]) -> String {
    let handler = match handler {
        0 => "SIG_DFL".to_owned(),
        1 => "SIG_IGN".to_owned(),
        _ => format!("{handler:#x}"),
    };
    let restorer = if flags & 0x400_0000 == 0 {
        String::new()
    } else {
        format!(", sa_restorer={restorer:#x}")
    };
    format!(
        "{{sa_handler={handler}, sa_mask={}, sa_flags={}{restorer}}}",
        names::signals(mask),
        names::flags("sa", flags)
    )
}

fn time([seconds, part]: [u64; 2], name: &str) -> String {
    format!("{{tv_sec={}, {name}={}}}", seconds as i64, part as i64)
}

fn limits(limits: [u64; 2]) -> String {
    let [current, most] = limits.map(|limit| match limit {
        u64::MAX => "RLIM64_INFINITY".to_owned(),
        // As `strace` has it.
        limit if limit > 1024 && limit % 1024 == 0 => format!("{}*1024", limit / 1024),
        limit => limit.to_string(),
    });
    format!("{{rlim_cur={current}, rlim_max={most}}}")
}

pub(super) fn address(value: u64) -> String {
    match value {
        0 => "NULL".to_owned(),
        _ => format!("{value:#x}"),
    }
}

fn octal(value: u64) -> String {
    match value {
        0 => "000".to_owned(),
        _ => format!("0{value:o}"),
    }
}

/// `bytes` between quotation marks, on one line.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x0b => text.push_str("\\v"),
            0x0c => text.push_str("\\f"),
            b' '..=b'~' => text.push(byte.into()),
            _ if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                let _ = write!(text, "\\{byte:03o}");
            }
            _ => {
                let _ = write!(text, "\\{byte:o}");
            }
        }
    }
    text.push('"');
    text
}

/// What a call has returned, of a kind of [`Shape::result`].
pub(super) fn result(value: i64, kind: &str) -> String {
    const INTERRUPTED: u64 = 512;
    /// What the kernel returns to itself when a call may be made again after a signal.
    const RESTARTS: [&str; 5] = [
        "ERESTARTSYS (To be restarted if SA_RESTART is set)",
        "ERESTARTNOINTR (To be restarted)",
        "ERESTARTNOHAND (To be restarted if no handler)",
        "",
        "ERESTART_RESTARTBLOCK (Interrupted by signal)",
    ];
    if !(-4095..0).contains(&value) {
        return match kind {
            "x" if value == 0 => "0".to_owned(),
            "x" => format!("{value:#x}"),
            "o" => octal(value as u64),
            _ => value.to_string(),
        };
    }
    let number = value.unsigned_abs();
    if let Some(restart) = RESTARTS.get((number.wrapping_sub(INTERRUPTED)) as usize) {
        return format!("? {restart}");
    }
    let name = names::error(number).map_or_else(|| number.to_string(), str::to_owned);
    let words = std::io::Error::from_raw_os_error(number as i32).to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    format!("-1 {name} ({words})")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory from address 4096 on.
    struct Memory(Vec<u8>);

    impl Peek for Memory {
        fn peek(&mut self, address: u64, into: &mut [u8]) -> usize {
            let Some(start) = address.checked_sub(4096) else {
                return 0;
            };
            let rest = self.0.get(start as usize..).unwrap_or_default();
            let length = rest.len().min(into.len());
            into[..length].copy_from_slice(&rest[..length]);
            length
        }
    }

    fn shown(word: &str, memory: &[u8], arguments: [u64; 6], result: Option<i64>) -> String {
        let mut memory = Memory(memory.to_vec());
        let mut said = Said {
            name: "some call",
            arguments: &arguments,
            result,
            memory: &mut memory,
        };
        said.argument(word, 1)
    }

    #[test]
    fn strings_are_quoted_and_stay_on_their_line() {
        assert_eq!(quoted(b"a\"b\\\n\x1b[1m\0"), r#""a\"b\\\n\33[1m\0""#);
        assert_eq!(quoted(b"\x0012\xff"), r#""\00012\377""#);
        let path = |memory: &[u8]| shown("s", memory, [0, 4096, 0, 0, 0, 0], None);
        assert_eq!(path(b"/etc/passwd\0"), "\"/etc/passwd\"");
        assert_eq!(path(b"/etc/pass"), "0x1000", "it does not end");
        let long = [vec![b'x'; 3 * 4096], vec![0]].concat();
        assert_eq!(path(&long).len(), 4096 + 5);
    }

    #[test]
    fn what_is_written_is_shown_once_it_is() {
        let arguments = [0, 4096, 40, 0, 0, 0];
        let memory = [b'y'; 64];
        assert_eq!(shown("B", &memory, arguments, None), "0x1000");
        assert_eq!(shown("B", &memory, arguments, Some(-9)), "0x1000");
        assert_eq!(shown("B", &memory, arguments, Some(3)), "\"yyy\"");
        let all = format!("\"{}\"...", "y".repeat(32));
        assert_eq!(shown("B", &memory, arguments, Some(40)), all);
        assert_eq!(shown("b:2", &memory, arguments, None), all);
        assert_eq!(shown("b:2", &memory, [0; 6], None), "NULL");
        assert_eq!(shown("b:2", &memory, [0, 8, 1, 0, 0, 0], None), "0x8");
    }

    #[test]
    fn structures_are_taken_apart() {
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let of = |word, memory: Vec<u8>| shown(word, &memory, [0, 4096, 1, 0, 0, 0], Some(1));
        assert_eq!(of("time", words(&[1, 5])), "{tv_sec=1, tv_nsec=5}");
        assert_eq!(of("PAIR", words(&[4 << 32 | 3])), "[3, 4]");
        assert_eq!(of("set", words(&[1 << 9])), "[USR1]");
        assert_eq!(
            of("act", words(&[0x40_0000, 0x400_0004, 0x50_0000, 0])),
            "{sa_handler=0x400000, sa_mask=[], sa_flags=SA_SIGINFO|SA_RESTORER, sa_restorer=0x500000}"
        );
        assert_eq!(
            of("STAT", words(&[0, 0, 0, 0o100_644, 0, 0, 7])),
            "{st_mode=S_IFREG|0644, st_size=7, ...}"
        );
        let mut vector: Vec<u8> = words(&[4096 + 16, 2]);
        vector.extend_from_slice(b"ab");
        assert_eq!(of("v:2", vector), "[{iov_base=\"ab\", iov_len=2}]");
        let mut address = vec![2, 0, 0, 80, 127, 0, 0, 1];
        address.resize(16, 0);
        let said = shown("sa:2", &address, [0, 4096, 16, 0, 0, 0], None);
        let expected = "{sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr(\"127.0.0.1\")}";
        assert_eq!(said, expected);
    }

    #[test]
    fn results_are_numbers_addresses_or_errors() {
        assert_eq!(result(3, ""), "3");
        assert_eq!(result(0x1000, "x"), "0x1000");
        assert_eq!(result(-2, ""), "-1 ENOENT (No such file or directory)");
        assert_eq!(result(-4096, ""), "-4096");
        assert_eq!(
            result(-512, ""),
            "? ERESTARTSYS (To be restarted if SA_RESTART is set)"
        );
    }
}
