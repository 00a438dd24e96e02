//! Process platform (being written).
use thiserror::Error;
use crate::report::*; use crate::fault::Outcome; use crate::memory::*; use crate::linux::{Grant, start::Start};
/// e
#[derive(Debug, Error)]
#[error("not yet")]
pub struct ProcessError;
/// e
#[derive(Debug)]
pub struct Ended { #[allow(missing_docs)] pub outcome: Outcome, #[allow(missing_docs)] pub mapped: Stamp, #[allow(missing_docs)] pub first_instruction: Stamp, #[allow(missing_docs)] pub usage: HostUsage, #[allow(missing_docs)] pub counts: MemoryCounts }
/// r
pub fn run(_: &crate::plan::Plan, _: &crate::pool::Segments, _: Backing, _: &Start, _: &[Grant], _: &crate::sandbox::Confinement) -> Result<Ended, ProcessError> { Err(ProcessError) }
