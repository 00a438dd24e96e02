//! What the writer of the output and the symbol table both know of its sections.

/// A section of the output.
#[derive(Clone, Debug, Default)]
pub(super) struct OutputSection {
    pub(super) name: String,
    pub(super) kind: u32,
    pub(super) flags: u64,
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) alignment: u64,
    pub(super) link: u32,
    pub(super) info: u32,
    pub(super) entry_size: u64,
}
