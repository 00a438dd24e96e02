//! `pool link`: a linker that puts each library at its registered address.
//!
//! A drop-in for `ld`: everything behind `link` is the linker's command line, and a program that
//! is called `ld` is `pool link`. Where addresses come from is decided by what is *said*, never by
//! what happens to be reachable, because a link must not come out differently when a service is
//! down:
//!
//! 1. `--pool-registry WHERE` on the command line, or `--server URL` before the verb, else
//! 2. the environment's `POOL_REGISTRY`, else
//! 3. the environment's `POOL_SERVER`, else
//! 4. the service at its usual address.
//!
//! `WHERE` is the address of a service, or a file.

mod system;
mod unikraft;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, CommandFactory as _};
use pool_api::client::Client;
use pool_core::name::LibraryRef;
use pool_core::registry::{Known, Reservation, ReservationRequest};
use pool_image::link::{
    FileRegistry, LinkError, LinkRequest, Question, Registry, RegistryError, expand, link,
    parse_args, refuse_shared_libraries,
};

use crate::{Cli, Global, file, server};

const REGISTRY: &str = "--pool-registry";
const LAYOUT: &str = "--pool-layout";
const LAYOUT_FILE: &str = "--pool-layout-file";
const LIBRARY: &str = "--pool-library";
const LIBRARIES: &str = "--pool-libraries";
const ONLY: &str = "--pool-only";
const ASLR: &str = "--pool-aslr";

/// The version of GNU ld whose options are known, for where there is none to ask.
const AS_GNU_LD: &str = "2.40";
/// What configure scripts look for in the help.
const TARGETS: &str = "ld: supported targets: elf64-x86-64\nld: supported emulations: elf_x86_64\n";

/// Link a static executable with each library at its registered address
///
/// Everything behind the verb is an ordinary linker command line; compilers call it as `ld`.
/// Addresses come from `--pool-registry WHERE`, else `--server` before the verb, else `POOL_REGISTRY`,
/// else `POOL_SERVER`, else the service at its usual address; WHERE is `http://HOST:PORT`, `https://HOST:PORT`, `unix:/PATH`
/// or a file. An unreachable service is an error, never replaced by something else.
/// `--pool-layout-file FILE` writes where the libraries lie, which the executable also holds.
/// `--pool-library FILE=NAME@VERSION` names the library that an archive is, or an object, as builds make one of each of their parts (`ld -r`). Archives where systems and toolchains keep
/// libraries are libraries, too, by their file name and a digest of their members as the version. Of any other archive, and
/// of what is built under `/usr/src` or in the folder of `/opt` that the link runs in (or of `/usr`, if systems have no such), the
/// members that are needed are part of the program; `--pool-libraries=all` makes libraries of all. `--pool-aslr=library` has the program reach libraries through a table, so that
/// each of them can start elsewhere (`poolvmm run --aslr library`); without it the image can as a whole.
///
/// `--pool-layout KIND` links the same program in another layout, to compare what they share: `default` lays it out as ld
/// does, with what it needs of archives between its objects and no library apart; `dce` is that without unneeded sections
/// (`--gc-sections`); `spacer` has each library whole on pages of its own at a fixed address, referred to directly, and
/// `pool`, as without the option, reaches it through slots. Images of the first three hold no library version of the pool: their pages are
/// shared where they happen to be equal.
///
/// A new version of a library keeps what the latest one of its name has where it was, as the registry has it on record:
/// functions and data that are the same, and calls of those that had to move. Most pages are then the same, if the library is made of
/// many small objects or compiled with `-ffunction-sections -fdata-sections`.
///
/// What is no static executable is handed to the system's own linker, with the same command line: shared libraries
/// (`-shared`), position-independent executables (`-pie`, with `-static` too), relocatable objects (`-r`), other
/// machines (`-m`) and formats (`--oformat`), and whatever is linked with a shared library, as `-lNAME` finds one
/// unless `-static` stands before it. `--pool-only` refuses these instead. That linker is the first `ld` that is
/// not pool itself in the compiler's folders (`COMPILER_PATH`), in `PATH` and in `/usr/bin`, or what
/// `POOL_SYSTEM_LINKER` names.
///
/// Options of GNU ld do what they do there, or are refused. `--gc-sections` leaves out what nothing needs of the
/// application; a library's pages stay whole, as other images have them. `--wrap` and `--defsym` hold for libraries too,
/// of which the image then has some pages of its own. Of linker scripts (`-T`) the tables are gathered
/// that they insert (`INSERT`), with the symbols at their borders and at those of the thread-local template; one that places all
/// sections itself is refused, and so is whatever else one says, with its line.
///
/// A Unikraft application for Linux (plat linuxu) is linked by `make UK_LDFLAGS=-BFOLDER`, FOLDER having `pool` under the name
/// `ld`: each of its libraries (`libNAME.o`) is a library of the pool. `pool link --unikraft BUILD_DIR` links a finished build
/// directory again: it runs the link that make has recorded there with `pool` for a linker, and behind it the steps that make
/// has recorded for the image (strip, boot information). Before that it puts each library together again, as make has recorded it, with
/// the sections of its parts kept apart, so that one that is configured otherwise keeps the places of most of them. Further options are the
/// linker's, as `--pool-registry` is.
///
/// Objects of intermediate code (`-flto`) are compiled by the compiler's own plugin, which it names (`-plugin`): those of the
/// command line, and members of archives that hold nothing else. What comes of them is the application's; a member that holds
/// machine code, too (`-ffat-lto-objects`), is linked as that and shared.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  ln -s \"$(command -v pool)\" bin/ld && cc -static -B bin/ app.c -lz\n  \
                  pool link --pool-registry addresses.json -static -o app crt1.o app.o -L. -lc\n  \
                  pool link --unikraft build/"
)]
pub(crate) struct Link {
    /// The linker's command line
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    arguments: Vec<OsString>,
}

impl Link {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        // Any `--help` on a linker's command line asks for it: configure scripts do.
        if self.arguments.iter().any(|argument| argument == "--help") {
            return help();
        }
        let given = self.arguments.iter();
        let given: Vec<String> = given
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let expanded = expand(&given)?;
        let mut arguments = expanded.clone();
        if let Some(folder) = take_option(&mut arguments, unikraft::OPTION)? {
            return unikraft::run(Path::new(&folder), &arguments, global);
        }
        let named = take_option(&mut arguments, REGISTRY)?;
        let layout = take_option(&mut arguments, LAYOUT_FILE)?;
        let count = arguments.len();
        arguments.retain(|argument| argument != ONLY);
        let only = arguments.len() < count;
        let request = match for_us(&arguments) {
            Err(reason @ LinkError::NotStatic { .. }) if !only => {
                return Err(system::run(
                    &for_system(&self.arguments, &expanded),
                    &reason,
                ));
            }
            request => request?,
        };
        if let Some(bad) = self.arguments.iter().find(|a| a.to_str().is_none()) {
            bail!("{} is not UTF-8: rename the file", bad.display());
        }
        if let Some(question) = request.question {
            let says = version(question);
            writeln!(io::stdout(), "{says}").context("printing the version")?;
            if request.inputs.is_empty() || question == Question::VersionAlone {
                return Ok(ExitCode::SUCCESS);
            }
        }
        let mut registry = open_registry(named, global)?;
        let linked = link(&request, registry.as_mut())
            .with_context(|| format!("linking {}", request.output.display()))?;
        // Nobody may be there to be told.
        for note in &linked.notes {
            let _ = writeln!(io::stderr(), "pool link: {note}");
        }
        for warning in &linked.warnings {
            let _ = writeln!(io::stderr(), "pool link: warning: {warning}");
        }
        file::write(&request.output, &linked.elf, file::EXECUTABLE)?;
        if let Some(trace) = &linked.trace {
            write!(io::stdout(), "{trace}").context("printing which files are linked")?;
        }
        if let Some(map) = linked.map.as_ref().filter(|_| request.prints_map) {
            write!(io::stdout(), "{map}").context("printing the map")?;
        }
        let texts = [
            (&request.map, &linked.map),
            (&request.dependency_file, &linked.dependencies),
        ];
        for text in texts {
            if let (Some(path), Some(text)) = text {
                file::write(path, text.as_bytes(), file::DATA)?;
            }
        }
        if let Some(path) = layout {
            let layout = serde_json::to_vec_pretty(&linked.layout)?;
            file::write(Path::new(&path), &layout, file::DATA)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn for_us(arguments: &[String]) -> Result<LinkRequest, LinkError> {
    let request = parse_args(arguments)?;
    if request.question != Some(Question::VersionAlone) {
        refuse_shared_libraries(&request)?;
    }
    Ok(request)
}

/// The command line for another linker: as given, but for our own options. Where these are in a response file, it
/// is what the files hold.
fn for_system(given: &[OsString], expanded: &[String]) -> Vec<OsString> {
    let own = |arguments: &[OsString]| arguments.len() - without_own(arguments).len();
    let expanded: Vec<OsString> = expanded.iter().map(OsString::from).collect();
    if own(given) == own(&expanded) {
        without_own(given)
    } else {
        without_own(&expanded)
    }
}

/// A command line without our own options and their values.
fn without_own(arguments: &[OsString]) -> Vec<OsString> {
    let mut rest = Vec::with_capacity(arguments.len());
    let mut all = arguments.iter();
    while let Some(argument) = all.next() {
        let text = argument.to_string_lossy();
        let (name, value) = match text.split_once('=') {
            Some((name, _)) => (name, true),
            None => (text.as_ref(), false),
        };
        match name {
            REGISTRY | LAYOUT | LAYOUT_FILE | LIBRARY | LIBRARIES | ASLR => {
                if !value {
                    all.next();
                }
            }
            ONLY => {}
            _ => rest.push(argument.clone()),
        }
    }
    rest
}

/// Our own help and then, since its options are taken too, that of the system's linker.
fn help() -> Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    let link = command.find_subcommand_mut("link");
    let own = link.context("finding the help")?.render_long_help();
    let theirs = match system::says(&["--help"]) {
        Some(theirs) => format!("The system's linker says:\n\n{theirs}"),
        None => TARGETS.to_owned(),
    };
    write!(io::stdout(), "{own}\n{theirs}").context("printing the help")?;
    Ok(ExitCode::SUCCESS)
}

/// Build systems learn from the words "GNU ld" and from the number behind them which options they may use. The
/// system's linker is there for what we hand it, so its number counts.
fn version(question: Question) -> String {
    let theirs = system::says(&["-V"]).unwrap_or_default();
    let (first, machines) = theirs.split_once('\n').unwrap_or((&theirs, ""));
    let number = first
        .strip_prefix("GNU ld ")
        .and_then(|rest| rest.split_whitespace().next_back())
        .filter(|number| number.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or(AS_GNU_LD);
    // The only number in the line.
    let own = format!("GNU ld (pool link) {number}");
    match (question, machines.trim_end()) {
        (Question::Machines, "") => format!("{own}\n  Supported emulations:\n   elf_x86_64"),
        (Question::Machines, machines) => format!("{own}\n{machines}"),
        (Question::Version, _) => own,
        (Question::VersionAlone, _) => {
            format!("{own}\npool {}", env!("CARGO_PKG_VERSION"))
        }
    }
}

/// Takes an option of our own and its value out of a linker's command line, the last one if it is
/// there more than once.
fn take_option(arguments: &mut Vec<String>, option: &str) -> Result<Option<String>> {
    let mut named = None;
    let mut rest = Vec::with_capacity(arguments.len());
    let mut all = std::mem::take(arguments).into_iter();
    while let Some(argument) = all.next() {
        match argument.strip_prefix(option) {
            Some("") => match all.next() {
                Some(value) => named = Some(value),
                None => bail!("{option} wants a value behind it"),
            },
            Some(value) if value.starts_with('=') => named = Some(value[1..].to_owned()),
            _ => rest.push(argument),
        }
    }
    *arguments = rest;
    Ok(named)
}

fn open_registry(named: Option<String>, global: &Global) -> Result<Box<dyn Registry>> {
    let place = named.or_else(|| {
        // `global.server` is then what the command line says.
        let in_environment = std::env::var("POOL_REGISTRY").ok();
        in_environment.filter(|place| !global.server_is_said && !place.is_empty())
    });
    if let Some(place) = &place {
        let is_service = ["http://", "https://", "unix:"]
            .iter()
            .any(|scheme| place.starts_with(scheme));
        if !is_service {
            return Ok(Box::new(FileRegistry::new(Path::new(place))));
        }
    }
    let server = place.as_deref().unwrap_or(&global.server);
    let client = server::connect(server, global)?;
    Ok(Box::new(ServiceRegistry(client)))
}

/// The registry that a pool service keeps.
struct ServiceRegistry(Client);

impl ServiceRegistry {
    fn failed(&self, doing: &str, error: pool_api::client::ClientError) -> RegistryError {
        // With what caused it, for which there is no other place.
        let error = anyhow::Error::from(error);
        RegistryError::Other(format!("{doing} at {}: {error:#}", self.0.server()))
    }
}

impl Registry for ServiceRegistry {
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError> {
        let reserved = self.0.reserve(requests);
        reserved.map_err(|error| self.failed("reserving them", error))
    }

    fn known(&mut self, libraries: &[LibraryRef]) -> Result<Vec<Known>, RegistryError> {
        let known = self.0.known_places(libraries);
        known.map_err(|error| self.failed("asking what is on record of them", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_taken_out_of_the_linkers_arguments() {
        for (given, registry, rest) in [
            ("-o a x.o", None, "-o a x.o"),
            (
                "-o a --pool-registry r.json x.o",
                Some("r.json"),
                "-o a x.o",
            ),
            ("--pool-registry=r.json x.o", Some("r.json"), "x.o"),
            ("--pool-registry=a --pool-registry b", Some("b"), ""),
            ("--pool-library x=y@1", None, "--pool-library x=y@1"),
        ] {
            let mut arguments: Vec<_> = given.split(' ').map(str::to_owned).collect();
            let named = take_option(&mut arguments, REGISTRY).unwrap();
            assert_eq!(named.as_deref(), registry, "{given}");
            assert_eq!(arguments.join(" "), rest, "{given}");
        }
        assert!(take_option(&mut vec!["--pool-registry".into()], REGISTRY).is_err());
    }

    #[test]
    fn another_linker_is_told_nothing_of_our_options() {
        let words = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        let given = words(
            "-shared --pool-library x.a=x@1 -o --pool-layout=dce --pool-layout-file=l a --pool-aslr library --pool-libraries=all --pool-only @r",
        );
        let expanded = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
        for (inside, expected) in [
            ("-O1 y.o", "-shared -o a @r"),
            ("-O1 --pool-registry=r y.o", "-shared -o a -O1 y.o"),
        ] {
            let expanded = expanded(&format!(
                "-shared --pool-library x.a=x@1 -o --pool-layout=dce --pool-layout-file=l a --pool-aslr library --pool-libraries=all --pool-only {inside}"
            ));
            assert_eq!(for_system(&given, &expanded), words(expected));
        }
    }
}
