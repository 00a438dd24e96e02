//! `poolfs STORE MOUNTPOINT`: mounts a pool store, read-only.
//!
//! Also mount(8)'s helper: `mount -t fuse.poolfs STORE DIR` runs it through mount.fuse(8), which
//! finds `poolfs` in the shell's default path (/usr/local/bin, /usr/bin), or directly when
//! installed as /sbin/mount.fuse.poolfs.

mod daemon;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::Context;
use clap::Parser;
use poolfs::mount::{Mounted, mount};
use poolfs::options::Options;
use poolfs::scratch::{self, Scratch};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use daemon::{EndSignals, Side};

/// Wrong use.
const EXIT_USAGE: u8 = 2;

/// Mount a pool store as a read-only filesystem.
///
/// Unmount with `umount MOUNTPOINT` or `fusermount3 -u MOUNTPOINT`; SIGTERM does the same, and
/// leaves what is open in use until it is closed.
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
    let job = match read_arguments() {
        Ok(Some(job)) => job,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
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

fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

fn complain(message: &str) {
    eprintln!("poolfs: {message}");
}

/// `None` when there is nothing left to do.
fn read_arguments() -> anyhow::Result<Option<Job>> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments.first().map(PathBuf::from).unwrap_or_default();
    let as_helper = called
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("mount."));
    let (store, mount_point, options, foreground) = if as_helper {
        let arguments = HelperArguments::parse_from(arguments);
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
        let arguments = Arguments::parse_from(arguments);
        let options = Options::parse(arguments.options.iter().map(OsString::as_os_str))?;
        let Arguments {
            store,
            mount_point,
            foreground,
            ..
        } = arguments;
        (store, mount_point, options, foreground)
    };
    Ok(Some(Job {
        store,
        mount_point,
        options,
        foreground,
    }))
}

/// Mounts, calls `ready`, and serves until the mount is gone.
fn run(job: &Job, ready: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    start_log(job)?;
    poolfs::descriptors::raise_limit();
    let signals = EndSignals::block().context("blocking signals")?;
    let store = true_path(&job.store)?;
    // Dropped last: the store's follower writes into it.
    let scratch = Scratch::new(&scratch::places(job.options.scratch.as_deref()))?;
    let notes = scratch.path().join("index");
    let mounted = mount(&store, &job.mount_point, &notes, &job.options)?;
    warn_of_slow_segments(&mounted);
    if job.options.asked_writable {
        complain("a pool is read-only: rw is turned to ro");
    }
    let unmounter = mounted.unmounter();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while signals.wait().is_ok() {
                if let Err(error) = unmounter.unmount() {
                    tracing::error!("{error}");
                }
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
        .init();
    Ok(())
}
