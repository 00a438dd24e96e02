//! `pool`: everything that people do with a pool, one verb a file.

mod ending;
mod file;
mod meter;
mod output;
mod referent;
mod scratch;
mod server;
mod verbs;

use std::ffi::OsString;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use pool_api::client::ClientError;

/// Work with a pool of unikernel pages.
#[derive(Debug, Parser)]
#[command(
    name = "pool",
    version,
    after_help = "A REFERENT is lib/NAME@VERSION, image/NAME:TAG, a digest, or a path under the \
                  pool's mount point.\n\n\
                  Examples:\n  \
                  pool push image app.elf --name app --tag v1\n  \
                  pool ls\n  \
                  pool cat lib/zlib@1.3 > zlib.pages\n  \
                  pool rm image/app:v1 && pool gc --grace 0\n\n\
                  Exit codes: 0 done, 1 failed (for fsck and scrub: damage found), 2 wrong use, \
                  3 push --only-new of what is in the pool already."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb can be told.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The service: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`. It is asked directly, by no
    /// proxy that the environment may name
    #[arg(
        long,
        global = true,
        env = "POOL_SERVER",
        value_name = "URL",
        default_value = server::DEFAULT
    )]
    pub(crate) server: String,
    /// Token to show the service. Others on this machine see a command line: better let `POOL_TOKEN` have it
    #[arg(
        long,
        global = true,
        env = "POOL_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// Trust an https:// service whose authority's certificate is in this file (PEM), and no other
    /// [default: SSL_CERT_FILE, or the authorities that Mozilla trusts]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Give up when the service says nothing for so long; 0 is never, but for a host that is gone
    /// [default: 600, never for gc, fsck and scrub]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The command line names the service, not the environment or nobody.
    #[arg(skip)]
    pub(crate) server_is_said: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Link(verbs::link::Link),
    Describe(verbs::describe::Describe),
    Minify(verbs::minify::Minify),
    Extract(verbs::extract::Extract),
    Inspect(verbs::inspect::Inspect),
    Push(verbs::push::Push),
    Ls(verbs::ls::Ls),
    Cat(verbs::cat::Cat),
    Tag(verbs::tag::Tag),
    Pin(verbs::pin::Pin),
    Unpin(verbs::pin::Unpin),
    Rm(verbs::rm::Rm),
    Gc(verbs::gc::Gc),
    Stats(verbs::stats::Stats),
    Why(verbs::why::Why),
    Fsck(verbs::fsck::Fsck),
    Scrub(verbs::scrub::Scrub),
    Leases(verbs::leases::Leases),
    Init(verbs::init::Init),
    Backup(verbs::backup::Backup),
    Restore(verbs::restore::Restore),
    Repair(verbs::repair::Repair),
    Token(verbs::token::Token),
    #[command(hide = true)]
    Man(verbs::man::Man),
}

impl Verb {
    fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Link(verb) => verb.run(global),
            Self::Describe(verb) => verb.run(global),
            Self::Minify(verb) => verb.run(global),
            Self::Extract(verb) => verb.run(global),
            Self::Inspect(verb) => verb.run(global),
            Self::Push(verb) => verb.run(global),
            Self::Ls(verb) => verb.run(global),
            Self::Cat(verb) => verb.run(global),
            Self::Tag(verb) => verb.run(global),
            Self::Pin(verb) => verb.run(global),
            Self::Unpin(verb) => verb.run(global),
            Self::Rm(verb) => verb.run(global),
            Self::Gc(verb) => verb.run(global),
            Self::Stats(verb) => verb.run(global),
            Self::Why(verb) => verb.run(global),
            Self::Fsck(verb) => verb.run(global),
            Self::Scrub(verb) => verb.run(global),
            Self::Leases(verb) => verb.run(global),
            Self::Init(verb) => verb.run(global),
            Self::Backup(verb) => verb.run(global),
            Self::Restore(verb) => verb.run(global),
            Self::Repair(verb) => verb.run(global),
            Self::Token(verb) => verb.run(global),
            Self::Man(verb) => verb.run(),
        }
    }
}

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if called_as_linker(&arguments) {
        arguments.splice(..1, ["pool".into(), "link".into()]);
    }
    match Cli::of(arguments).run() {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever does not hear it sees the exit code.
            let says = output::harmless(&output::causes(&error));
            let _ = writeln!(std::io::stderr(), "pool: {says}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<WrongUse>() || matches!(error.downcast_ref(), Some(ClientError::NoContent(_))) {
        2
    } else if error.is::<verbs::push::IsThere>() {
        3
    } else {
        1
    }
}

/// What was asked for makes no sense, whatever the pool has: an error as those of the command line are.
#[derive(Debug)]
pub(crate) struct WrongUse(pub(crate) String);

impl fmt::Display for WrongUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUse {}

impl Cli {
    /// Reads a command line; ends the program where that cannot be done.
    fn of(arguments: Vec<OsString>) -> Self {
        let matches = Self::command().get_matches_from(arguments);
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        cli.global.server_is_said =
            matches.value_source("server") == Some(ValueSource::CommandLine);
        if !cli.global.server_is_said && cli.global.server.is_empty() {
            // A variable that is empty is as good as none.
            server::DEFAULT.clone_into(&mut cli.global.server);
        }
        cli
    }

    fn run(self) -> anyhow::Result<ExitCode> {
        self.verb.run(&self.global)
    }
}

/// Names under which compilers look for a linker (`-fuse-ld=NAME`).
const LINKERS: [&str; 6] = ["ld", "ld.pool", "ld.bfd", "ld.gold", "ld.lld", "ld.mold"];

/// Compilers call their linker by its name: `ld`, `ld.pool`, or `TARGET-ld`.
fn called_as_linker(arguments: &[OsString]) -> bool {
    let name = arguments
        .first()
        .and_then(|name| Path::new(name).file_name())
        .and_then(|name| name.to_str());
    name.is_some_and(|name| {
        LINKERS.iter().any(|linker| {
            let target = name.strip_suffix(linker);
            target.is_some_and(|target| target.is_empty() || target.ends_with('-'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_linkers_name_makes_a_linker() {
        for (name, is_linker) in [
            ("ld", true),
            ("/usr/lib/pool/ld", true),
            ("ld.pool", true),
            ("x86_64-linux-gnu-ld", true),
            ("x86_64-linux-gnu-ld.bfd", true),
            ("/x/ld.lld", true),
            ("ld.so", false),
            ("pool", false),
            ("/opt/ld/pool", false),
            ("build", false),
        ] {
            assert_eq!(called_as_linker(&[name.into()]), is_linker, "{name}");
        }
        assert!(!called_as_linker(&[]));
    }
}
