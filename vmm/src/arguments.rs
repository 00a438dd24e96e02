//! The command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use lexopt::{Arg, Parser};
use pool_core::PAGE_SIZE;
use poolvmm::memory::Backing;
use poolvmm::network::{Limits, Place};
use poolvmm::options::{Aslr, Options, Output, Platform};
use poolvmm::plan::MAX_MEMORY;
use poolvmm::stamp::Stamp;
use thiserror::Error;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
poolvmm runs an image of the pool in a virtual machine or in a confined process.

usage: poolvmm run IMAGE [OPTIONS] [-- ARGUMENTS]

IMAGE is image/NAME:TAG, NAME:TAG, or the path of the image's directory in the pool. The guest finds
NAME in argv[0]. It sees no file and no network unless it is granted some.

options:
  --pool DIR               where the pool is mounted [/pool]
  --backing pool|copy      share the pool's pages, or load a private copy [pool]
  --platform kvm|process   virtual machine, or plain process [kvm]
  --aslr off|image|library start where the image was linked, or elsewhere at each run: as a whole, or each
                           library by itself. Code stays shared, and pages that hold addresses become the
                           guest's own [off]
  --memory SIZE            most memory that the guest may touch, with K, M or G [64M]
  --cpus N                 processors: so many threads of the guest run at a time. As a process it is
                           told so, and the host's scheduler runs them [1]
  --dir HOST:GUEST[:ro]    let the guest use directory HOST as GUEST, without devices and what is
                           mounted below; may be repeated
  --net none|host          network of the guest: none, or the host's own [none]
  --bind ADDRESS:PORT      of the host's network, sockets of the guest may be given such addresses
                           alone; may be repeated [all]
  --connect ADDRESS:PORT   it may connect and send to such addresses alone; may be repeated [all].
                           ADDRESS is an IPv4 address or [IPv6], a network with /BITS, or *;
                           PORT a number, FIRST-LAST or *; `none` for ADDRESS:PORT is no address
  --env KEY=VALUE          environment of the guest; may be repeated
  --report FILE            write times, counts and costs as JSON
  --trace[=FILE]           print every system call and signal, as strace does: on standard error, or to
                           FILE, which the guest cannot write to
  -h, --help               print this
  -V, --version            print the version

signals to poolvmm are for the guest.

exit status: the guest's own; 128 and the signal number if it was stopped (139: a fault of memory
access, as a shell shows it). If the guest could not be run: 1, and 2 for wrong use.
";

/// What was asked for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Run an image.
    Run(Box<Run>),
}

/// `poolvmm run`.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) options: Options,
    pub(crate) report: Option<PathBuf>,
}

/// Why the command line is wrong.
#[derive(Debug, Error)]
pub(crate) enum UsageError {
    #[error(transparent)]
    Form(#[from] lexopt::Error),
    #[error("expected the command `run`, found {0:?}")]
    Command(OsString),
    #[error("nothing to do: give the command `run` and an image")]
    NoCommand,
    #[error("no image given: poolvmm run IMAGE")]
    NoImage,
    #[error("{option} cannot be {value:?}: expected {expected}")]
    Value {
        option: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("{0} limits the host's network, which the guest has with --net host alone")]
    NoNetwork(&'static str),
}

impl Command {
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, UsageError> {
        let mut parser = Parser::from_args(arguments);
        match parser.next()? {
            Some(Arg::Short('h') | Arg::Long("help")) => Ok(Self::Help),
            Some(Arg::Short('V') | Arg::Long("version")) => Ok(Self::Version),
            Some(Arg::Value(command)) if command == "run" => parse_run(&mut parser),
            Some(Arg::Value(command)) => Err(UsageError::Command(command)),
            Some(other) => Err(other.unexpected().into()),
            None => Err(UsageError::NoCommand),
        }
    }
}

fn parse_run(parser: &mut Parser) -> Result<Command, UsageError> {
    let mut image = None;
    let mut report = None;
    let mut options = Options {
        image: String::new(),
        pool: PathBuf::from("/pool"),
        backing: Backing::Pool,
        platform: Platform::Kvm,
        aslr: Aslr::Off,
        memory: 64 << 20,
        processors: 1,
        directories: Vec::new(),
        network: false,
        limits: Limits::default(),
        environment: Vec::new(),
        arguments: Vec::new(),
        trace: None,
        count_faults: false,
        start: None,
    };
    loop {
        if image.is_some()
            && let Some(rest) = rest_after_dashes(parser)
        {
            options.arguments = rest;
            break;
        }
        let Some(argument) = parser.next()? else {
            break;
        };
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Long("pool") => options.pool = parser.value()?.into(),
            Arg::Long("backing") => options.backing = backing(&text(parser)?)?,
            Arg::Long("platform") => options.platform = platform(&text(parser)?)?,
            Arg::Long("aslr") => options.aslr = aslr(&text(parser)?)?,
            Arg::Long("memory") => options.memory = memory(&text(parser)?)?,
            Arg::Long("cpus") => options.processors = processors(&text(parser)?)?,
            Arg::Long("dir") => options.directories.push(text(parser)?),
            Arg::Long("net") => options.network = network(&text(parser)?)?,
            Arg::Long("bind") => add_place("--bind", &text(parser)?, &mut options.limits.bind)?,
            Arg::Long("connect") => {
                add_place("--connect", &text(parser)?, &mut options.limits.connect)?;
            }
            Arg::Long("env") => options.environment.push(variable(parser.value()?)?),
            Arg::Long("report") => {
                report = Some(parser.value()?.into());
                options.count_faults = true;
            }
            Arg::Long("trace") => {
                let file = parser.optional_value();
                let output = |file: OsString| Output::File(file.into());
                options.trace = Some(file.map_or(Output::StandardError, output));
            }
            // For benchmarks: the monotonic clock, in nanoseconds, just before exec.
            Arg::Long("start-stamp") => options.start = Some(stamp(&text(parser)?)?),
            Arg::Value(value) if image.is_none() => image = Some(value),
            other => return Err(other.unexpected().into()),
        }
    }
    if !options.network && options.limits.any() {
        let option = options.limits.bind.as_ref();
        return Err(UsageError::NoNetwork(
            option.map_or("--connect", |_| "--bind"),
        ));
    }
    options.image = image
        .ok_or(UsageError::NoImage)?
        .to_string_lossy()
        .into_owned();
    Ok(Command::Run(Box::new(Run { options, report })))
}

/// Everything after `--`, if that comes next.
fn rest_after_dashes(parser: &mut Parser) -> Option<Vec<Vec<u8>>> {
    let raw = parser.try_raw_args()?;
    if raw.peek()? != "--" {
        return None;
    }
    Some(raw.skip(1).map(OsString::into_vec).collect())
}

fn text(parser: &mut Parser) -> Result<String, UsageError> {
    Ok(parser
        .value()?
        .into_string()
        .map_err(lexopt::Error::NonUnicodeValue)?)
}

fn wrong<T>(option: &'static str, value: &str, expected: &'static str) -> Result<T, UsageError> {
    Err(UsageError::Value {
        option,
        value: value.to_owned(),
        expected,
    })
}

fn backing(value: &str) -> Result<Backing, UsageError> {
    match value {
        "pool" => Ok(Backing::Pool),
        "copy" => Ok(Backing::Copy),
        _ => wrong("--backing", value, "pool or copy"),
    }
}

fn platform(value: &str) -> Result<Platform, UsageError> {
    match value {
        "kvm" => Ok(Platform::Kvm),
        "process" => Ok(Platform::Process),
        _ => wrong("--platform", value, "kvm or process"),
    }
}

fn aslr(value: &str) -> Result<Aslr, UsageError> {
    match value {
        "off" => Ok(Aslr::Off),
        "image" => Ok(Aslr::Image),
        "library" => Ok(Aslr::Library),
        _ => wrong("--aslr", value, "off, image or library"),
    }
}

/// True for the host's.
fn network(value: &str) -> Result<bool, UsageError> {
    match value {
        "none" => Ok(false),
        "host" => Ok(true),
        _ => wrong("--net", value, "none or host"),
    }
}

/// Adds a place to the list of `option`, or none: then the list is there all the same.
fn add_place(
    option: &'static str,
    value: &str,
    places: &mut Option<Vec<Place>>,
) -> Result<(), UsageError> {
    let places = places.get_or_insert_default();
    if value == "none" {
        return Ok(());
    }
    match value.parse() {
        Ok(place) => places.push(place),
        Err(_) => {
            return wrong(
                option,
                value,
                "ADDRESS:PORT, as in 127.0.0.1:80, 10.0.0.0/8:*, [::1]:8000-8999 or *:53, or none",
            );
        }
    }
    Ok(())
}

/// A size in bytes, or with K, M or G; whole pages.
fn memory(value: &str) -> Result<u64, UsageError> {
    const EXPECTED: &str = "a size such as 512K, 64M or 2G, at least 64K and at most 16G";
    let (digits, unit) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&value[..value.len() - 1], 1 << 30),
        _ => (value, 1),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = digits.parse::<u64>().ok().filter(|_| plain);
    let bytes = bytes
        .and_then(|count| count.checked_mul(unit))
        .and_then(|bytes| bytes.checked_next_multiple_of(PAGE_SIZE));
    match bytes {
        Some(bytes) if (64 << 10..=MAX_MEMORY).contains(&bytes) => Ok(bytes),
        _ => wrong("--memory", value, EXPECTED),
    }
}

fn processors(value: &str) -> Result<u16, UsageError> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(count) if plain && (1..=poolvmm::kvm::MOST_PROCESSORS).contains(&count) => Ok(count),
        _ => wrong("--cpus", value, "a number between 1 and 64"),
    }
}

fn variable(value: OsString) -> Result<Vec<u8>, UsageError> {
    let bytes = value.into_vec();
    match bytes.iter().position(|&byte| byte == b'=') {
        Some(1..) => Ok(bytes),
        _ => wrong("--env", &String::from_utf8_lossy(&bytes), "KEY=VALUE"),
    }
}

fn stamp(value: &str) -> Result<Stamp, UsageError> {
    match value.parse() {
        Ok(nanoseconds) => Ok(Stamp(nanoseconds)),
        Err(_) => wrong("--start-stamp", value, "nanoseconds of the monotonic clock"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, UsageError> {
        Command::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_full_line_is_read() {
        let line = "run hello:v1 --pool /p --backing copy --platform process --aslr image --memory 2M --env A=b \
                    --dir /h:/g:ro --net host --bind *:80 --connect none --report r.json -- --not-mine x";
        let Ok(Command::Run(run)) = parse(line) else {
            panic!("{line}")
        };
        assert_eq!(run.options.image, "hello:v1");
        assert_eq!(run.options.pool, PathBuf::from("/p"));
        assert!(run.options.network);
        assert_eq!(run.options.limits.bind, Some(vec!["*:80".parse().unwrap()]));
        assert_eq!(run.options.limits.connect, Some(vec![]));
        assert_eq!(run.options.aslr, Aslr::Image);
        assert_eq!(run.options.memory, 2 << 20);
        assert_eq!(run.options.backing, Backing::Copy);
        assert_eq!(run.options.platform, Platform::Process);
        assert_eq!(
            run.options.arguments,
            [b"--not-mine".to_vec(), b"x".to_vec()]
        );
        assert_eq!(run.options.environment, [b"A=b".to_vec()]);
        assert_eq!(run.report, Some(PathBuf::from("r.json")));
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "",
            "start x",
            "run",
            "run a b",
            "run a --backing tape",
            "run a --platform xen",
            "run a --aslr on",
            "run a --memory 1",
            "run a --memory +5M",
            "run a --memory 99999999999G",
            "run a --cpus 0",
            "run a --cpus 65",
            "run a --cpus +2",
            "run a --net guest",
            "run a --bind *:80",
            "run a --net none --connect none",
            "run a --net host --bind localhost:80",
            "run a --env X",
            "run a --bogus",
            "run a --memory",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_machine_has_one_processor_unless_told() {
        for (line, count) in [("run a", 1), ("run a --cpus 4", 4)] {
            let Ok(Command::Run(run)) = parse(line) else {
                panic!("{line}")
            };
            assert_eq!(run.options.processors, count);
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("65536", 64 << 10), ("512K", 512 << 10), ("1G", 1 << 30)] {
            assert_eq!(memory(text).unwrap(), bytes, "{text}");
        }
    }
}
