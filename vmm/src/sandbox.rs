//! Confinement (being written).
use thiserror::Error;
/// Why.
#[derive(Debug, Error)]
pub enum SandboxError {}
/// Confinement.
#[derive(Debug)]
pub struct Confinement;
impl Confinement {
    /// p
    pub fn prepare(_: &[crate::linux::Grant]) -> Result<Self, SandboxError> { Ok(Self) }
    /// e
    pub fn enter_monitor(&self) -> Result<(), SandboxError> { Ok(()) }
}
