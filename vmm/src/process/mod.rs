//! The process platform: the same plan, carried out in a plain Linux process.
//!
//! ```text
//! poolvmm (parent)                         child
//! holds the leases            fork  --->   maps the plan at the image's own addresses,
//! a second thread traces      <---  ready  and confines itself
//! limits its memory           go    --->   unmaps this program, jumps to the entry point
//! answers, names the fault    <---  ends
//! ```
//!
//! The guest's calls go to the host kernel through a filter that lets the calls of
//! [`crate::linux::table`] pass; the few that it cannot decide are the tracer's. Granted directories are
//! the only files of a mount namespace of its own. All threads of the guest are traced; signals to poolvmm
//! are for the guest, and its first thread passes them on. Of this program nothing is left in the guest's
//! process: no memory, no register, no descriptor, nothing that the kernel was told. The guest dies with
//! its tracer, which also learns where a fault was.

mod areas;
mod attributes;
mod begin;
mod calls;
mod change;
mod child;
mod counts;
mod early;
mod events;
mod follow;
mod group;
mod leave;
mod limits;
mod listener;
mod looked;
mod memory;
mod pool_pages;
mod printer;
mod ptrace;
mod scheduling;
mod sent;
mod signals;
mod small;
mod sockets;
mod stack;
mod system;
mod taken;
mod threads;
mod trace;
mod watch;

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};

use thiserror::Error;

use self::begin::Begin;
use self::calls::Calls;
use self::child::Child;
use self::limits::Limits;
use self::ptrace::Tracee;
use self::trace::{End, Tracer};
use self::watch::Watch;
use crate::fault::Outcome;
use crate::linux::start::{Start, StartError};
use crate::memory::{Backing, MemoryCounts};
use crate::network;
use crate::plan::{Content, Plan};
use crate::pool::Segments;
use crate::sandbox::{self, SandboxError};
use crate::stamp::Stamp;
use crate::standard;
use crate::unserved::Unserved;
use crate::usage::HostUsage;
use crate::vdso::{Moved, Vdso};
use crate::world::Grant;
use crate::world::Layout;
use crate::world::small::Places;

/// Why a guest cannot be run as a process.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// The arguments do not fit.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No process, or no pipe to it.
    #[error("starting the guest's process: {0}")]
    Fork(#[from] io::Error),
    /// The child could not prepare itself.
    #[error("preparing the guest's process: {0}")]
    Child(String),
    /// The monitor cannot trace it.
    #[error(
        "tracing the guest's process, some of whose calls the monitor answers: {0}; allow ptrace, which \
         strace or gdb on poolvmm, kernel.yama.ptrace_scope=3 and some containers' seccomp profiles \
         prevent, or use --platform kvm"
    )]
    Trace(io::Error),
    /// `/proc` has other numbers for processes.
    #[error(
        "/proc is not that of poolvmm's PID namespace, so that it would look at another process than the guest's: mount \
         one there (mount -t proc proc /proc), or use --platform kvm"
    )]
    Numbers,
    /// This process, which traces it, cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Its memory cannot be limited.
    #[error("limiting the memory of the guest's process: {0}")]
    Limit(rustix::io::Errno),
    /// Something of the VMM stays mapped in it.
    #[error(
        "the guest's process could not let go of the VMM's memory, so the guest was not run: does the \
         kernel seal system mappings? Use --platform kvm"
    )]
    Leave,
}

/// How a guest process ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// When its pages were mapped.
    pub mapped: Stamp,
    /// When it jumped to its entry point.
    pub first_instruction: Stamp,
    /// What it cost the host.
    pub usage: HostUsage,
    /// What was mapped.
    pub counts: MemoryCounts,
    /// How often its threads stopped.
    pub stops: StopCounts,
    /// What it asked for in vain.
    pub unserved: Unserved,
}

/// Stops of a guest's threads, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StopCounts {
    /// Calls that the monitor was asked about.
    pub asked: u64,
    /// Ends of calls that the monitor waited for; with `--trace` beginnings, too.
    pub calls: u64,
    /// Signals.
    pub signals: u64,
    /// Threads started.
    pub threads: u64,
}

/// First byte that the child sends: it is ready, or why not follows.
const READY: u8 = b'R';
const FAILED: u8 = b'E';

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// What lies where.
    pub plan: &'a Plan,
    /// Where it comes from.
    pub segments: &'a Segments,
    /// How pages get in.
    pub backing: Backing,
    /// Arguments and environment.
    pub start: &'a Start,
    /// How many processors it is told of.
    pub processors: u16,
    /// Directories that it may use.
    pub grants: &'a [Grant],
    /// It may use the host's network.
    pub network: bool,
    /// Of it, which addresses.
    pub limits: &'a network::Limits,
}

impl Guest<'_> {
    /// It has a file system of its own.
    fn has_world(&self) -> bool {
        !self.grants.is_empty() || self.network
    }
}

/// Runs `guest` as a child process, to its end, and prints its calls and signals to `trace`.
pub fn run(guest: &Guest<'_>, trace: Option<File>) -> Result<Ended, ProcessError> {
    let plan = guest.plan;
    if !has_own_numbers() {
        return Err(ProcessError::Numbers);
    }
    let vdso = Vdso::find().map(|vdso| Moved::new(&vdso, plan.rooms));
    let clock = vdso.as_ref().map(|moved| moved.to[1].start);
    let stack = guest
        .start
        .build(plan, host_writes_thread_pointer(), clock)?;
    let (news, to_parent) = io::pipe()?;
    let (go, mut to_child) = io::pipe()?;
    let secrets = Secrets::new()?;
    let limits = Limits::new(plan);
    let counted = !limits.are_kept(group::bound());
    let child = match system::fork()? {
        system::Fork::Child => {
            drop((news, to_child));
            let child = Child {
                guest,
                stack: &stack,
                vdso: vdso.as_ref(),
                secrets,
                counted,
            };
            child.become_guest(go, to_parent)
        }
        system::Fork::Parent(child) => child,
    };
    drop((go, to_parent));
    let mut news = News(news);
    let mapped = match news.ready() {
        Ok(mapped) => mapped,
        Err(error) => {
            let end = early::ended(child).ok_or(error)?;
            return how(end, guest, Stamp::now(), None);
        }
    };
    let listener = news.listener()?;
    let layout = if guest.has_world() {
        Some(Layout {
            granted: crate::world::named(guest.grants),
            places: news.places()?,
        })
    } else {
        None
    };
    let watch = Watch::new(child)?;
    // The thread that is started now has what this one has.
    sandbox::give_up_privileges()?;
    let begin = Begin::new(guest, &stack, layout);
    let start = || -> Result<Tracer<'_>, ProcessError> {
        Tracee(child).seize().map_err(ProcessError::Trace)?;
        limits.apply(child).map_err(ProcessError::Limit)?;
        let network = guest.limits.clone();
        let mut calls = Calls::new(child, (limits, counted), plan, begin, network)
            .map_err(ProcessError::Trace)?;
        if let Some(number) = listener {
            calls = calls
                .with_listener(number, secrets.waiting)
                .map_err(ProcessError::Trace)?;
        }
        let mut tracer = Tracer::new(child, plan, secrets.leaving, calls, &watch)
            .map_err(ProcessError::Trace)?;
        if let Some(out) = trace {
            tracer.print(out).map_err(ProcessError::Trace)?;
        }
        standard::leave()?;
        crate::linux::unbound_files().map_err(io::Error::from)?;
        sandbox::enter_tracer(child, watch.guest(), guest.limits)?;
        to_child.write_all(&[READY])?;
        Ok(tracer)
    };
    let trace_guest = || -> Result<End, ProcessError> {
        let _ends = watch.of_tracer();
        match start() {
            Ok(tracer) => tracer.wait().map_err(ProcessError::Trace),
            Err(error) => early::ended_or_killed(child).ok_or(error),
        }
    };
    let end = watch::beside(&watch, trace_guest)??;
    how(end, guest, mapped, news.stamp().ok())
}

/// What a run has come to that has come to its `end`: its pages were mapped then, and it jumped to its entry point `first`, if it did.
fn how(
    end: End,
    guest: &Guest<'_>,
    mapped: Stamp,
    first: Option<Stamp>,
) -> Result<Ended, ProcessError> {
    match end {
        End::Leaving => Err(ProcessError::Leave),
        End::Guest(outcome, usage, noted) => Ok(Ended {
            outcome,
            stops: noted.stops,
            unserved: noted.unserved,
            mapped,
            first_instruction: first.unwrap_or(mapped),
            usage,
            counts: count(guest.plan, guest.backing),
        }),
    }
}

/// Whether `/proc` knows processes by the numbers that this one knows them by. Otherwise what is opened of the guest there
/// would be somebody else's.
fn has_own_numbers() -> bool {
    let own = rustix::process::getpid().as_raw_nonzero();
    let found = std::fs::read_link("/proc/self");
    found.is_ok_and(|found| found.as_os_str() == own.to_string().as_str())
}

/// Numbers that no guest knows.
#[derive(Clone, Copy, Debug)]
struct Secrets {
    /// What R15 holds where the process cannot let go of this program.
    leaving: u64,
    /// What a thread says that comes to the listener.
    waiting: [u32; 2],
}

impl Secrets {
    fn new() -> io::Result<Self> {
        let mut words = [[0; 4]; 4];
        let bytes = words.as_flattened_mut();
        rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty())?;
        let [low, high, first, second] = words.map(u32::from_le_bytes);
        Ok(Self {
            leaving: u64::from(high) << 32 | u64::from(low),
            waiting: [first, second],
        })
    }
}

/// What the child has to say before it is the guest.
struct News(PipeReader);

impl News {
    /// Waits until the child is ready; the moment when its pages were mapped.
    fn ready(&mut self) -> Result<Stamp, ProcessError> {
        let mut kind = [0];
        if self.0.read(&mut kind)? == 1 && kind[0] == READY {
            return Ok(self.stamp()?);
        }
        let mut why = String::new();
        self.0.read_to_string(&mut why)?;
        if why.is_empty() {
            why.push_str("it ended without a word; is it out of memory?");
        }
        Err(ProcessError::Child(why))
    }

    /// Where places are in the guest's file system.
    fn places(&mut self) -> io::Result<Places> {
        let mut bytes = vec![0; Places::length()];
        self.0.read_exact(&mut bytes)?;
        Ok(Places::from_bytes(&bytes))
    }

    /// At which of its descriptors the guest's process listens for who comes.
    fn listener(&mut self) -> io::Result<Option<i32>> {
        let mut bytes = [0; 4];
        self.0.read_exact(&mut bytes)?;
        let number = i32::from_le_bytes(bytes);
        Ok((number >= 0).then_some(number))
    }

    fn stamp(&mut self) -> io::Result<Stamp> {
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes)?;
        Ok(Stamp(u64::from_le_bytes(bytes)))
    }
}

/// The host kernel lets programs write FS base themselves (`HWCAP2_FSGSBASE`).
fn host_writes_thread_pointer() -> bool {
    rustix::param::linux_hwcap().1 & 2 != 0
}

fn count(plan: &Plan, backing: Backing) -> MemoryCounts {
    let mut counts = MemoryCounts::default();
    for mapping in &plan.mappings {
        counts.add(mapping);
        if backing == Backing::Pool && mapping.content != Content::Zero {
            counts.host_mappings += 1;
        }
    }
    counts
}
