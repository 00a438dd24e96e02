//! What a run cost, as JSON (`--report FILE`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::kvm::ExitCounts;
use crate::memory::{Backing, MemoryCounts};
use crate::options::Platform;
use crate::process::StopCounts;
use crate::slide::Moved;
use crate::stamp::Stamp;
use crate::unserved::Unserved;
use crate::usage::HostUsage;

/// Moments of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    /// Just before exec if the starter said when that was, else the start of `main`.
    pub start: Stamp,
    /// The start of `main`.
    pub main: Stamp,
    /// The map was read and checked.
    pub read: Stamp,
    /// The plan was made.
    pub planned: Stamp,
    /// Pages were laid in, and the machine was made.
    pub mapped: Stamp,
    /// This process was confined.
    pub confined: Stamp,
    /// The guest was entered for the first time.
    pub first_instruction: Stamp,
    /// The guest left for the first time.
    pub first_exit: Stamp,
    /// The guest ended.
    pub end: Stamp,
}

/// The same in microseconds since the start.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Microseconds {
    /// Start of `main`: loading this program, if the starter said when it called exec.
    pub main: f64,
    /// The map was read and checked.
    pub read: f64,
    /// The plan was made.
    pub planned: f64,
    /// Pages were laid in and the machine was made.
    pub mapped: f64,
    /// This process was confined.
    pub confined: f64,
    /// The guest was entered for the first time.
    pub first_instruction: f64,
    /// The guest left for the first time.
    pub first_exit: f64,
    /// The guest ended.
    pub end: f64,
}

impl From<Moments> for Microseconds {
    fn from(moments: Moments) -> Self {
        let us = |stamp: Stamp| stamp.since(moments.start);
        Self {
            main: us(moments.main),
            read: us(moments.read),
            planned: us(moments.planned),
            mapped: us(moments.mapped),
            confined: us(moments.confined),
            first_instruction: us(moments.first_instruction),
            first_exit: us(moments.first_exit),
            end: us(moments.end),
        }
    }
}

/// Everything that a run has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The image, `NAME:TAG`.
    pub image: String,
    /// How it was run.
    pub platform: Platform,
    /// How its pages got in.
    pub backing: Backing,
    /// By how much its parts were moved, if it started elsewhere than it was linked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slides: Vec<Moved>,
    /// The guest's exit status.
    pub status: u8,
    /// How it was stopped, if it did not end by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Monotonic clock at the first instruction, for whoever took the time before exec.
    pub first_instruction_ns: Stamp,
    /// When what happened, in microseconds.
    pub microseconds: Microseconds,
    /// Page faults of the guest that the kernel served without an exit (KVM only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_faults: Option<u64>,
    /// Guest exits (KVM only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exits: Option<ExitCounts>,
    /// System calls by name (KVM only: a process's calls are not seen).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<BTreeMap<&'static str, u64>>,
    /// Stops of the guest's threads (process only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops: Option<StopCounts>,
    /// What the guest asked for and is not served.
    #[serde(flatten)]
    pub unserved: Unserved,
    /// What was mapped.
    pub mapped: MemoryCounts,
    /// Bytes of its memory that the guest had taken by its end, page tables included (KVM only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_bytes: Option<u64>,
    /// Files of the pool held open: the map and the segments.
    pub leases: u64,
    /// The host's side.
    pub host: HostUsage,
}
