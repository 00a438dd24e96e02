//! A pool store as a read-only filesystem.
//!
//! ```text
//! /pool
//! |- libs/NAME/VERSION/{content, manifest.json}
//! |- images/NAME/TAG/{image.elf, desc, data, manifest.json, map}
//! |- objects/DIGEST
//! |- segments/ID               the backing files themselves, by FUSE passthrough
//! `- .pool/{stats.json, version, extents/DIGEST}
//! ```
//!
//! A request's way through the modules: [`fs`] takes it from the kernel; [`inodes`] says which
//! [`tree::Place`] is meant; [`contents`] asks the store what is there; [`handles`] keeps what was
//! opened, which is a lease on everything the file leads to; [`passthrough`] hands segments to the
//! kernel. [`mod@mount`] puts it all at a mount point, with what [`options`] made of mount(8)'s
//! options; the store's follower keeps its notes in a [`scratch`] directory.
//!
//! Two rules make caching simple:
//!
//! - **An inode is one content for ever.** Its number is derived from its path *and* the digest of
//!   what it holds, or for a segment, which has more with every commit, the file that it is. So a tag
//!   that is pointed elsewhere gets new inodes, and pages that the kernel has cached for one never go
//!   stale; of a segment that this program reads, which the kernel may have cached before it was filled,
//!   they are let go when there was a commit. The kernel believes a name for half a second, and opens what it
//!   remembers. Where the name leads elsewhere by then, it is told `ESTALE` and looks the name up again; what it comes back
//!   with it may open (`refused`, `recent`), whatever the name leads to then. So an opening that begins after a
//!   commit never gets what was there before.
//! - **An open descriptor is a lease.** What it shows, and the segments that lie under it, are
//!   held against collection from `open` to the last `close`. When this process dies the kernel
//!   releases all of its leases.

mod ahead;
pub mod contents;
pub mod fs;
pub mod handles;
pub mod inodes;
pub mod mount;
pub mod options;
pub mod passthrough;
mod recent;
mod refused;
pub mod scratch;
pub mod tree;
