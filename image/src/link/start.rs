//! What kind of file one is, by its first bytes.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_DYN};

/// By so many bytes.
const BYTES: u64 = 256;
/// Where `e_type` and `e_machine` lie in an ELF header.
const KIND: usize = 16;
const MACHINE: usize = 18;

/// The first bytes of a file.
#[derive(Debug)]
pub(super) struct Start(Vec<u8>);

impl Start {
    /// None are those of a file that cannot be read: whoever reads it all says what is wrong with it.
    pub(super) fn of(path: &Path) -> Self {
        let mut bytes = Vec::new();
        let _ = File::open(path).and_then(|file| file.take(BYTES).read_to_end(&mut bytes));
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn is_shared_library(&self) -> bool {
        self.is_for_this_machine() && self.field(KIND) == Some(ET_DYN)
    }

    /// An ELF file that is no 64-bit one for x86-64.
    pub(super) fn is_for_another_machine(&self) -> bool {
        self.0.starts_with(ELFMAG) && !self.is_for_this_machine()
    }

    fn is_for_this_machine(&self) -> bool {
        let class = self.0.get(EI_CLASS).zip(self.0.get(EI_DATA));
        self.0.starts_with(ELFMAG)
            && class == Some((&ELFCLASS64, &ELFDATA2LSB))
            && self.field(MACHINE) == Some(EM_X86_64)
    }

    fn field(&self, at: usize) -> Option<u16> {
        let bytes = self.0.get(at..at + 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}
