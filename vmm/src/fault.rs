//! How a guest ended, in words: which page of which library, and at which instruction.

use std::fmt;

use pool_core::GuestAddress;
use pool_core::address::Protection;
use pool_core::description::{Description, RangeKind};

use crate::memory::Access;

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By `exit` or `exit_group`.
    Exited(u8),
    /// By a signal that it sent itself or that a call raised.
    Signalled(i32),
    /// By a fault.
    Fault(Fault),
}

impl Outcome {
    /// The exit status that a shell would show: the guest's own, or 128 and the signal.
    pub fn status(&self) -> u8 {
        match self {
            Self::Exited(status) => *status,
            Self::Signalled(signal) => 128u8.wrapping_add(*signal as u8),
            Self::Fault(fault) => 128u8.wrapping_add(fault.cause.signal() as u8),
        }
    }
}

/// What stopped a guest, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub cause: Cause,
    /// The instruction that did it.
    pub instruction_pointer: u64,
    /// The stack pointer then.
    pub stack_pointer: u64,
}

/// What a guest may do where it tried something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Nothing: nothing is mapped there.
    Unmapped,
    /// This.
    Only(Protection),
    /// Not what it tried; the platform does not tell more.
    Less,
}

/// What stopped a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An access to memory that it may not make.
    Memory {
        /// Where to.
        address: u64,
        /// Load, store or fetch; `None` where the platform does not tell.
        access: Option<Access>,
        /// What it may do there.
        allowed: Allowed,
    },
    /// An access to a page of a mapped file that the file does not have.
    PastFile {
        /// Where to.
        address: u64,
    },
    /// An invalid instruction.
    UndefinedInstruction,
    /// A division by zero or an overflowing quotient, or an unmasked floating-point exception.
    Arithmetic,
    /// An instruction or an address that CPL 3 may not use.
    Protection,
    /// A breakpoint or a single step.
    Breakpoint,
    /// Any other processor exception, by vector.
    Exception(u8),
    /// The memory limit.
    OutOfMemory(String),
    /// A signal that no program is asked about, in words.
    Killed(i32, &'static str),
    /// The guest asked for something that is not served, and cannot go on without it.
    Unserved(String),
    /// The hypervisor stopped for a reason of its own.
    Machine(String),
}

impl Cause {
    /// The signal that Linux would send.
    pub fn signal(&self) -> i32 {
        match self {
            Self::Memory { .. } | Self::Protection => libc::SIGSEGV,
            Self::UndefinedInstruction => libc::SIGILL,
            Self::Arithmetic => libc::SIGFPE,
            Self::Breakpoint => libc::SIGTRAP,
            Self::PastFile { .. } | Self::Exception(_) => libc::SIGBUS,
            Self::OutOfMemory(_) => libc::SIGKILL,
            Self::Killed(signal, _) => *signal,
            Self::Unserved(_) => libc::SIGSYS,
            Self::Machine(_) => libc::SIGABRT,
        }
    }
}

/// Names for guest addresses.
#[derive(Clone, Debug)]
pub struct AddressNames {
    image: String,
    image_base: u64,
    areas: Vec<NamedArea>,
    stack: (u64, u64),
}

#[derive(Clone, Debug)]
struct NamedArea {
    start: u64,
    end: u64,
    kind: RangeKind,
    protection: Protection,
    /// The library and its first address; `None` for the image's own.
    library: Option<(String, u64)>,
}

impl AddressNames {
    /// Names for the addresses of `description`, of the image that people call `image`, whose
    /// stack is `stack` (lowest address, first past it).
    pub fn new(
        image: &str,
        description: &Description,
        stack: (GuestAddress, GuestAddress),
    ) -> Self {
        let base_of = |library: &pool_core::LibraryRef| {
            let first = description
                .ranges
                .iter()
                .find(|r| r.library.as_ref() == Some(library));
            first.map_or(0, |range| range.address.0)
        };
        let areas = description.ranges.iter().map(|range| NamedArea {
            start: range.address.0,
            end: range.end().0,
            kind: range.kind,
            protection: range.protection,
            library: range
                .library
                .as_ref()
                .map(|library| (library.to_string(), base_of(library))),
        });
        let own = description
            .ranges
            .iter()
            .find(|range| range.library.is_none());
        Self {
            image: image.to_owned(),
            image_base: own.map_or(0, |range| range.address.0),
            areas: areas.collect(),
            stack: (stack.0.0, stack.1.0),
        }
    }

    /// One line for people: what happened, to what, at which instruction.
    pub fn describe(&self, fault: &Fault) -> String {
        let at = format_args!(
            "instruction pointer {:#x}{}",
            fault.instruction_pointer,
            Owner(self.owner(fault.instruction_pointer))
        );
        match &fault.cause {
            Cause::Memory {
                address,
                access,
                allowed,
            } => {
                let place = self.place(*address, *access, *allowed, fault);
                format!(
                    "guest stopped: {} {address:#x} {place}, {at}",
                    verb(*access)
                )
            }
            Cause::PastFile { address } => format!(
                "guest stopped: access at {address:#x} past the end of the mapped file, {at}"
            ),
            Cause::UndefinedInstruction => format!("guest stopped: invalid instruction, {at}"),
            Cause::Arithmetic => {
                format!("guest stopped: division by zero or arithmetic exception, {at}")
            }
            Cause::Protection => format!(
                "guest stopped: an instruction or an address that programs may not use, {at}"
            ),
            Cause::Breakpoint => format!("guest stopped: breakpoint, {at}"),
            Cause::Exception(12) => {
                format!("guest stopped: an address that no stack can have, {at}")
            }
            Cause::Exception(vector) => {
                format!("guest stopped: processor exception {vector}, {at}")
            }
            Cause::OutOfMemory(detail) => format!("guest stopped: out of memory: {detail}"),
            Cause::Killed(_, detail) => format!("guest stopped: {detail}"),
            Cause::Unserved(detail) => format!("guest stopped: {detail}, {at}"),
            Cause::Machine(detail) => format!("guest stopped by the hypervisor: {detail}, {at}"),
        }
    }

    fn place(
        &self,
        address: u64,
        access: Option<Access>,
        allowed: Allowed,
        fault: &Fault,
    ) -> String {
        if let Some(area) = self.area(address) {
            let owner = self.owner_name(area, address);
            let what = match (area.kind, area.protection.execute) {
                (RangeKind::Shared, true) => "text, shared, read-only",
                (RangeKind::Shared, false) => "read-only data, shared",
                (RangeKind::Private, _) => "data",
                (RangeKind::Zero, _) => "bss",
            };
            return format!("= {owner} ({what})");
        }
        if let Allowed::Only(allowed) = allowed {
            return format!("(memory that the guest mapped as {allowed})");
        }
        let (low, high) = self.stack;
        if address < 0x1_0000 {
            "(null pointer)".to_owned()
        } else if (low..high).contains(&address) {
            "(stack)".to_owned()
        } else if address < low && low - address <= 2 << 20 && fault.stack_pointer < low + 0x1_0000
        {
            let size = (high - low) >> 20;
            format!("(stack overflow: the stack has {size} MiB)")
        } else if allowed == Allowed::Less {
            "(memory that does not allow it)".to_owned()
        } else if access == Some(Access::Execute) {
            "(jump to nowhere)".to_owned()
        } else {
            "(nothing is mapped there)".to_owned()
        }
    }

    fn area(&self, address: u64) -> Option<&NamedArea> {
        let holds = |area: &&NamedArea| (area.start..area.end).contains(&address);
        self.areas.iter().find(holds)
    }

    fn owner(&self, address: u64) -> Option<String> {
        self.area(address)
            .map(|area| self.owner_name(area, address))
    }

    fn owner_name(&self, area: &NamedArea, address: u64) -> String {
        match &area.library {
            Some((library, base)) => format!("{library}+{:#x}", address.wrapping_sub(*base)),
            None => format!(
                "image {}+{:#x}",
                self.image,
                address.wrapping_sub(self.image_base)
            ),
        }
    }
}

fn verb(access: Option<Access>) -> &'static str {
    match access {
        Some(Access::Read) => "read at",
        Some(Access::Write) => "write at",
        Some(Access::Execute) => "jump to",
        None => "access at",
    }
}

struct Owner(Option<String>);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(owner) => write!(f, " ({owner})"),
            None => Ok(()),
        }
    }
}
