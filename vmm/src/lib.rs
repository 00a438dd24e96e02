//! A virtual machine monitor that maps pool pages into guests.
//!
//! An image is a description (what lies at which guest address) and extents (where in the pool's
//! segments those bytes are). Starting a guest is following that map:
//!
//! 1. [`pool`]: open the image's map and its segments; the open descriptors are the leases;
//! 2. [`slide`], [`plan`]: decide where it starts and every mapping, pure and before anything is done;
//! 3. [`memory`]: reserve addresses, lay the segments in, write the guest's page tables;
//! 4. [`kvm`] or [`process`]: a virtual machine at CPL 3 whose kernel is [`linux`], or a plain
//!    process behind a filter with the same calls;
//! 5. [`sandbox`]: give up what running the guest does not need;
//! 6. run it to its end ([`fault`] names what went wrong), and say what it cost ([`report`]).
//!
//! # Where the next things go
//!
//! | thing | place |
//! |---|---|
//! | snapshots | `memory` (the private windows that changed), `kvm` (registers); restored as an image whose private ranges come from the pool |
//! | `pvh`, `lxboot` | beside `kvm::Machine`: a machine with devices, started at CPL 0 |
//! | many guests in one process | [`run::Guest`] is a value without globals; a thread each |
//! | ready-made VM shells | `kvm::shell` |
//! | a REST API | a binary over [`run`] |

pub mod descriptors;
mod extended;
pub mod fault;
mod job;
pub mod kvm;
pub mod linux;
pub mod memory;
pub mod network;
pub mod options;
pub mod plan;
pub mod pool;
pub mod process;
pub mod report;
pub mod run;
pub mod sandbox;
mod signals;
pub mod slide;
pub mod stamp;
mod standard;
mod terminal;
mod trace;
pub mod unserved;
pub mod usage;
pub mod vdso;
pub mod world;
