//! Confinement: what a process gives up before the guest's first instruction.
//!
//! Under KVM the VMM confines itself: a guest that took it over would find a process without
//! capabilities that can reach the granted directories, its own memory and its own vCPU, and no
//! other system call. Under the process platform the guest's process is confined the same way, with
//! the guest's calls as the list. Everything is for good, and anything that the kernel lacks is
//! an error: a guest is never run less confined than this says.
//!
//! In order: no new privileges, resource limits, capabilities, Landlock (files), seccomp (calls).

mod bpf;
mod filter;
mod seccomp;

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use thiserror::Error;

pub use self::filter::FilterError;
use crate::world::{Rights, World};

/// Landlock as of Linux 5.19: files, and moving them between directories.
const LANDLOCK: ABI = ABI::V2;
/// Descriptors that a guest may have, and the monitor beside it.
const MOST_DESCRIPTORS: u64 = 16384;

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
    files_granted: bool,
    network: bool,
}

impl Confinement {
    /// Prepares to be confined to `world`, or to no file at all. This process is in it.
    pub fn prepare(world: Option<&World>, network: bool) -> Result<Self, SandboxError> {
        let mut files = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(LANDLOCK))?
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
                        | AccessFs::RemoveFile
                        | AccessFs::RemoveDir
                        | AccessFs::Refer;
                }
            }
            files = files.add_rule(PathBeneath::new(directory, access))?;
        }
        Ok(Self {
            files,
            files_granted: world.is_some(),
            network,
        })
    }

    /// Confines this process to what running a virtual machine takes.
    pub fn enter_monitor(self) -> Result<(), SandboxError> {
        give_up_privileges(self.files)?;
        Ok(filter::monitor(self.files_granted, self.network)?)
    }

    /// Confines this process to what a guest may do.
    pub fn enter_guest(self) -> Result<(), SandboxError> {
        give_up_privileges(self.files)?;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        Ok(filter::guest(
            self.files_granted,
            self.network,
            own.cast_unsigned(),
        )?)
    }
}

fn give_up_privileges(files: RulesetCreated) -> Result<(), SandboxError> {
    let failed = |what| move |error| SandboxError::Privilege(what, error);
    rustix::thread::set_no_new_privs(true).map_err(failed("new privileges"))?;
    limit(Resource::Core, 0).map_err(failed("core dumps"))?;
    limit(Resource::Nofile, MOST_DESCRIPTORS).map_err(failed("descriptors"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(failed("capabilities"))?;
    files.restrict_self()?;
    Ok(())
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
