//! What end-to-end tests, the demo and the benchmarks stand on: a pool of their own (a real
//! poolsvc, a real mount), real guest programs linked against real libraries, and runs of them.

use std::path::PathBuf;

pub mod content;
pub mod disk;
pub mod guests;
pub mod host;
pub mod keeper;
pub mod memory_group;
pub mod power;
pub mod recorded;
pub mod recording;
pub mod requirements;
pub mod run;
pub mod wait;
pub mod workshop;

/// The checkout's top directory: where `POOL_SOURCES` says (make sets it), else where this crate was
/// compiled. Clones that share a target directory may run what another clone compiled.
pub fn source_directory() -> PathBuf {
    let compiled = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    std::env::var_os("POOL_SOURCES").map_or_else(|| compiled.into(), PathBuf::from)
}
