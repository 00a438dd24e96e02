//! Confinement: what a process gives up before the guest's first instruction.
//!
//! Under KVM the VMM confines itself: a guest that took it over would find a process without
//! capabilities that can reach the granted directories, its own memory and its own vCPU, and no
//! other system call. Under the process platform the guest's process is confined the same way, with
//! the guest's calls as the list, and so is the VMM that traces it, which keeps what it has open and opens
//! nothing more. Everything is for good, and anything that the kernel lacks is
//! an error: a guest is never run less confined than this says.
//!
//! In order: no new privileges, resource limits, capabilities, Landlock (files), seccomp (calls).

mod bpf;
mod filter;
mod own;
pub(crate) mod seccomp;
mod tracer;

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope,
};
use rustix::process::{Pid, Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use thiserror::Error;

use self::bpf::Verdict;
use self::filter::Limited;
pub(crate) use self::filter::{MARK, UNSHARE};
use self::own::Reach;
pub use self::seccomp::FilterError;
pub(crate) use self::tracer::THREAD;
use crate::network::Limits;
use crate::world::{Rights, World};

/// Landlock as of Linux 5.19: files, and moving them between directories.
const LANDLOCK: ABI = ABI::V2;
/// Linux 6.12: local sockets with abstract names, and signals, of processes outside.
const LANDLOCK_SCOPES: ABI = ABI::V6;

/// Why a process cannot be confined.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Landlock.
    #[error(
        "confining file access with Landlock: {0}; it needs Linux 5.19 with CONFIG_SECURITY_LANDLOCK \
         and `landlock` in the kernel's `lsm=` list"
    )]
    Landlock(#[from] landlock::RulesetError),
    /// The filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A limit or a privilege.
    #[error("giving up {0}: {1}")]
    Privilege(&'static str, rustix::io::Errno),
}

/// A confinement that is prepared, and entered once.
#[derive(Debug)]
pub struct Confinement {
    files: RulesetCreated,
    scoped: bool,
    files_granted: bool,
    network: bool,
    limited: Limited,
}

impl Confinement {
    /// Prepares to be confined to `world`, or to no file at all. This process is in it.
    pub fn prepare(
        world: Option<&World>,
        network: bool,
        limits: &Limits,
    ) -> Result<Self, SandboxError> {
        let handled = || {
            let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
            rules.handle_access(AccessFs::from_all(LANDLOCK))
        };
        // Where the kernel cannot do that, a guest that is a process has no local sockets.
        let scopes = Scope::from_all(LANDLOCK_SCOPES);
        let (rules, scoped) = match handled()?.scope(scopes) {
            Ok(rules) => (rules, true),
            Err(_) => (handled()?, false),
        };
        let mut files = rules
            .create()?
            .set_compatibility(CompatLevel::HardRequirement);
        for (directory, rights) in world.into_iter().flat_map(World::directories) {
            let mut access = AccessFs::from_read(LANDLOCK) & !AccessFs::Execute;
            match rights {
                Rights::Read => {}
                Rights::Write => access |= AccessFs::WriteFile,
                Rights::Change => {
                    access |= AccessFs::WriteFile
                        | AccessFs::MakeReg
                        | AccessFs::MakeDir
                        | AccessFs::MakeSym
                        | AccessFs::MakeSock
                        | AccessFs::MakeFifo
                        | AccessFs::RemoveFile
                        | AccessFs::RemoveDir
                        | AccessFs::Refer;
                }
            }
            files = files.add_rule(PathBeneath::new(directory, access))?;
        }
        Ok(Self {
            files,
            scoped,
            files_granted: world.is_some(),
            network,
            limited: Limited::by(limits),
        })
    }

    /// Confines this process to what running a virtual machine takes. `start` starts threads, which are
    /// confined like this one; it is the last that can.
    pub fn enter_monitor<T>(self, start: impl FnOnce() -> T) -> Result<T, SandboxError> {
        give_up_privileges()?;
        self.files.restrict_self()?;
        // All but the filter is had by threads that start now, and that reaches those that have.
        let started = start();
        own::confine(match (self.files_granted, self.network) {
            (_, true) => Reach::Network,
            (true, false) => Reach::Files,
            (false, false) => Reach::Nothing,
        })?;
        Ok(started)
    }

    /// Confines this process to what a guest may do, of which its tracer is asked about memory if that
    /// is `counted`. Where to listen for threads that make the call [`MARK`] and say
    /// `secret`, unless somebody listens at its filters already.
    pub(crate) fn enter_guest(
        self,
        secret: [u32; 2],
        counted: bool,
    ) -> Result<Option<OwnedFd>, SandboxError> {
        give_up_privileges()?;
        self.files.restrict_self()?;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        Ok(filter::guest(filter::Given {
            files: self.files_granted,
            network: self.network,
            limited: self.limited,
            scoped: self.scoped,
            own: own.cast_unsigned(),
            memory: if counted {
                Verdict::Trace
            } else {
                Verdict::Allow
            },
            secret,
        })?)
    }
}

/// Confines all threads of this process, which have given up their privileges, to what tracing `guest` takes, that `watched`
/// is a descriptor of. Its filter lets it open nothing, which is more
/// than Landlock would do; and Landlock has nobody trace a process that is not as confined as itself.
pub fn enter_tracer(guest: Pid, watched: i32, limits: &Limits) -> Result<(), SandboxError> {
    let guest = guest.as_raw_nonzero().get().cast_unsigned();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let process = tracer::Numbers {
        guest,
        watched: watched.cast_unsigned(),
        own: own.cast_unsigned(),
    };
    Ok(tracer::confine(process, Limited::by(limits))?)
}

/// Gives up what this thread may do beyond what everybody may, and what is a limit of this process.
pub(crate) fn give_up_privileges() -> Result<(), SandboxError> {
    let failed = |what| move |error| SandboxError::Privilege(what, error);
    rustix::thread::set_no_new_privs(true).map_err(failed("new privileges"))?;
    no_core().map_err(failed("core dumps"))?;
    limit(Resource::Nofile, crate::descriptors::MOST as u64).map_err(failed("descriptors"))?;
    // Who may not has none that would be worth more than what it was started with.
    match rustix::thread::set_thread_groups(&[]) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(failed("groups")(error)),
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(failed("capabilities"))
}

/// Has no core dumped, as far as this process may say so: no file is of one byte, and programs that get cores by a pipe
/// (`kernel.core_pattern`), whatever the limit, get none from who has that one (`fs/coredump.c`).
fn no_core() -> Result<(), rustix::io::Errno> {
    let found = rustix::process::getrlimit(Resource::Core);
    let most = found.maximum.map_or(1, |found| found.min(1));
    let both = |most| Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    // Who may not raise the one that there is.
    setrlimit(Resource::Core, both(1)).or_else(|_| setrlimit(Resource::Core, both(most)))
}

/// Lowers a limit; one that is lower already stays.
fn limit(resource: Resource, most: u64) -> Result<(), rustix::io::Errno> {
    let current = rustix::process::getrlimit(resource);
    let lower = |found: Option<u64>| Some(found.map_or(most, |found| found.min(most)));
    setrlimit(
        resource,
        Rlimit {
            current: lower(current.current),
            maximum: lower(current.maximum),
        },
    )
}
