//! What to run, and how.

use std::path::PathBuf;

use serde::Serialize;

use crate::memory::Backing;
use crate::network::Limits;
use crate::stamp::Stamp;

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// A virtual machine.
    Kvm,
    /// A plain process.
    Process,
}

/// What of an image starts elsewhere at each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aslr {
    /// Nothing: it starts where it was linked.
    Off,
    /// The image, as a whole.
    Image,
    /// The image, and each of its libraries by itself.
    Library,
}

impl Aslr {
    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Image => "image",
            Self::Library => "library",
        }
    }
}

/// Where a trace is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Where standard error leads, which the guest has too.
    StandardError,
    /// A new file.
    File(PathBuf),
}

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// `image/NAME:TAG`, `NAME:TAG`, or a path under the pool.
    pub image: String,
    /// Where the pool is mounted.
    pub pool: PathBuf,
    /// How pages get in.
    pub backing: Backing,
    /// What runs the guest.
    pub platform: Platform,
    /// What of the image starts elsewhere.
    pub aslr: Aslr,
    /// Bytes of private memory for the guest.
    pub memory: u64,
    /// Processors of the machine; as a process, that the guest is told of.
    pub processors: u16,
    /// `HOST:GUEST[:ro]` each.
    pub directories: Vec<String>,
    /// The guest may use the host's network.
    pub network: bool,
    /// Of it, which addresses.
    pub limits: Limits,
    /// `KEY=VALUE` each.
    pub environment: Vec<Vec<u8>>,
    /// What follows `argv[0]`.
    pub arguments: Vec<Vec<u8>>,
    /// Print every system call and signal there.
    pub trace: Option<Output>,
    /// Count the guest's page faults for the report (KVM only).
    pub count_faults: bool,
    /// Monotonic clock just before exec, if the starter took it.
    pub start: Option<Stamp>,
}
