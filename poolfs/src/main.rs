//! `poolfs STORE MOUNTPOINT`: mounts a pool store, read-only.
//!
//! Also mount(8)'s helper: `mount -t fuse.poolfs STORE DIR` runs it through mount.fuse(8), which
//! finds `poolfs` in the shell's default path (/usr/local/bin, /usr/bin), or directly when
//! installed as /sbin/mount.fuse.poolfs.

mod daemon;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, ensure};
use clap::Parser;
use poolfs::mount::{Mounted, mount};
use poolfs::options::{OptionError, Options};
use poolfs::scratch::{self, Scratch};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use daemon::{EndSignals, Side};

/// What the program ends with.
#[derive(Clone, Copy, Debug)]
struct Codes {
    usage: u8,
    failure: u8,
}

const PROGRAM: Codes = Codes {
    usage: 2,
    failure: 1,
};
/// mount(8) hands its helper's on as its own (mount(8), "exit status").
const HELPER: Codes = Codes {
    usage: 1,
    failure: 32,
};

/// Mount a pool store as a read-only filesystem.
///
/// Unmount with `umount MOUNTPOINT` or `fusermount3 -u MOUNTPOINT`; SIGTERM does the same, and
/// leaves what is open in use until it is closed. A mount that another one covers, or that another
/// one is in, cannot be taken away: SIGTERM then ends the program with an error, once nothing is open
/// any more.
///
/// Exits with 2 for wrong use, with 32 for a remount, which is refused, and with 1 for all other
/// failures. As mount(8)'s helper (mount.fuse.poolfs) with 1 and 32, as mount(8) does.
#[derive(Debug, Parser)]
#[command(name = "poolfs", version)]
struct Arguments {
    /// The store's directory (poolsvc's --store).
    store: PathBuf,
    /// Where to mount it.
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,
    /// Mount options, separated by commas: allow_other, allow_root, default_permissions, noexec,
    /// nopassthrough, fsname=NAME, threads=N, log=FILE, scratch=DIR. The generic ones of mount(8)
    /// are taken too; rw becomes ro. A backslash before a comma or backslash makes it part of a
    /// value.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<OsString>,
    /// Stay in the foreground, and log to standard error.
    #[arg(short, long)]
    foreground: bool,
}

/// The same program as mount(8) calls its helpers (mount(8), "external helpers").
#[derive(Debug, Parser)]
#[command(name = "mount.fuse.poolfs", version)]
// The flags are those that mount(8) passes, one by one.
#[allow(clippy::struct_excessive_bools)]
struct HelperArguments {
    /// The store's directory.
    store: PathBuf,
    /// Where to mount it.
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,
    /// Mount options.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<OsString>,
    /// Do everything but mount.
    #[arg(short = 'f')]
    fake: bool,
    /// Ignore unknown options.
    #[arg(short = 's')]
    sloppy: bool,
    /// Taken and ignored.
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Taken and ignored.
    #[arg(short = 'v')]
    verbose: bool,
    /// The filesystem's type.
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// What to do.
#[derive(Debug)]
struct Job {
    store: PathBuf,
    mount_point: PathBuf,
    options: Options,
    foreground: bool,
}

fn main() -> ExitCode {
    let as_helper = is_helper();
    let codes = if as_helper { HELPER } else { PROGRAM };
    let job = match read_arguments(as_helper) {
        Ok(Some(job)) => job,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return misused(&error, codes),
    };
    let finish = |result| finish(result, codes);
    if job.foreground {
        return finish(run(&job, || Ok(())).map_err(|error| format!("{error:#}")));
    }
    match daemon::fork() {
        Err(error) => finish(Err(format!("starting the daemon: {error}"))),
        Ok(Side::Parent(waiter)) => finish(waiter.wait()),
        Ok(Side::Daemon(reporter)) => {
            let mut reporter = Some(reporter);
            let result = run(&job, || match reporter.take() {
                Some(reporter) => reporter.ready().context("leaving the terminal"),
                None => Ok(()),
            });
            if let (Err(error), Some(reporter)) = (&result, reporter) {
                reporter.failed(&format!("{error:#}"));
            }
            ExitCode::from(u8::from(result.is_err()))
        }
    }
}

fn misused(error: &anyhow::Error, codes: Codes) -> ExitCode {
    if let Some(error) = error.downcast_ref::<clap::Error>() {
        // Where nothing can be printed nobody reads.
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { codes.usage } else { 0 });
    }
    complain(&format!("{error:#}"));
    // mount(8) calls poolfs by its own name too, through mount.fuse(8).
    let remount = matches!(error.downcast_ref(), Some(OptionError::Remount));
    ExitCode::from(if remount { HELPER.failure } else { codes.usage })
}

fn finish(result: Result<(), String>, codes: Codes) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::from(codes.failure)
        }
    }
}

fn complain(message: &str) {
    // Whoever does not hear it sees the exit status, and a mount is no worse for it.
    let _ = writeln!(std::io::stderr(), "poolfs: {message}");
}

/// Whether mount(8) called.
fn is_helper() -> bool {
    let called = std::env::args_os().next().map(PathBuf::from);
    let name = called.as_deref().and_then(Path::file_name);
    name.is_some_and(|name| name.to_string_lossy().starts_with("mount."))
}

/// `None` when there is nothing left to do.
fn read_arguments(as_helper: bool) -> anyhow::Result<Option<Job>> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let (store, mount_point, options, foreground) = if as_helper {
        let arguments = HelperArguments::try_parse_from(arguments)?;
        let lists = arguments.options.iter().map(OsString::as_os_str);
        let options = if arguments.sloppy {
            Options::parse_sloppily(lists)?
        } else {
            Options::parse(lists)?
        };
        if arguments.fake {
            return Ok(None);
        }
        (arguments.store, arguments.mount_point, options, false)
    } else {
        let arguments = Arguments::try_parse_from(arguments)?;
        let options = Options::parse(arguments.options.iter().map(OsString::as_os_str))?;
        let Arguments {
            store,
            mount_point,
            foreground,
            ..
        } = arguments;
        (store, mount_point, options, foreground)
    };
    ensure!(
        mount_point.canonicalize().ok().as_deref() != Some(Path::new("/dev/fuse")),
        "{} is a connection to FUSE that is open already, as mount.fuse3 makes it for \
         drop_privileges: poolfs opens its own, so leave that option out",
        mount_point.display()
    );
    Ok(Some(Job {
        store,
        // As the caller sees it: /dev/fd/N is another file once descriptors are closed. What cannot
        // be found is explained where it is used.
        mount_point: mount_point.canonicalize().unwrap_or(mount_point),
        options,
        foreground,
    }))
}

/// Mounts, calls `ready`, and serves until the mount is gone.
fn run(job: &Job, ready: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    start_log(job)?;
    pool_store::descriptors::raise_limit();
    let signals = EndSignals::block().context("blocking signals")?;
    let store = true_path(&job.store)?;
    // Dropped last: the store's follower writes into it.
    let scratch = Scratch::new(&scratch::places(job.options.scratch.as_deref()))?;
    let notes = scratch.path().join("index");
    let Some(mounted) = mount(&store, &job.mount_point, &notes, &job.options)? else {
        return ready();
    };
    warn_of_slow_segments(&mounted);
    if job.options.asked_writable {
        complain("a pool is read-only: rw is turned to ro");
    }
    let unmounter = mounted.unmounter();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while signals.wait().is_ok() {
                unmounter.end();
            }
        })
        .context("waiting for signals")?;
    let told = ready();
    if told.is_err() {
        mounted.unmounter().unmount()?;
    }
    mounted.wait()?;
    told
}

/// The store's path for as long as the mount lasts, and as its source: a daemon leaves its
/// directory. An absolute path stays as it was given, links included, because mount(8) compares
/// the source with /etc/fstab.
fn true_path(store: &Path) -> anyhow::Result<PathBuf> {
    let stays = store.is_absolute() && !store.components().any(|part| part == Component::ParentDir);
    let store_path = if stays {
        std::path::absolute(store)
    } else {
        // What is not there is explained where it is opened.
        store.canonicalize().or_else(|_| std::path::absolute(store))
    };
    store_path.with_context(|| format!("finding {}", store.display()))
}

fn warn_of_slow_segments(mounted: &Mounted) {
    if let Err(why) = mounted.passthrough() {
        complain(&format!(
            "warning: segments are read through this program, which is slower and shares less \
             memory, because FUSE passthrough does not work: {why}"
        ));
        tracing::warn!(why, "FUSE passthrough does not work");
    }
}

fn start_log(job: &Job) -> anyhow::Result<()> {
    let writer = match &job.options.log {
        Some(path) => {
            let file = File::options()
                .append(true)
                .create(true)
                .open(path)
                .with_context(|| format!("opening the log {}", path.display()))?;
            BoxMakeWriter::new(std::sync::Mutex::new(file))
        }
        // Nobody reads it once the daemon has left its terminal.
        None => BoxMakeWriter::new(std::io::stderr),
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error")),
        )
        .with_ansi(false)
        .with_writer(writer)
        // It would be said on standard error, and where nothing can be written that ends a thread.
        .log_internal_errors(false)
        .init();
    Ok(())
}
