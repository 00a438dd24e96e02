//! 64-bit kernels behind 32-bit headers.
//!
//! Loaders by the Multiboot specification, as QEMU's, take 32-bit executables. So Unikraft puts 32-bit headers of the same
//! segments before its 64-bit kernel, whose bytes stay as they were (`support/scripts/multiboot.py`):
//!
//! ```text
//! 32-bit ELF header | Multiboot header | 32-bit program headers | 64-bit executable | 32-bit section headers
//! ```
//!
//! Such a file is what the executable in it is, found further on in the file, provided that both say the same of memory.
//! Format: System V gABI, chapters 4 and 5.

use goblin::elf::header::{self, Header};
use goblin::elf::program_header::ProgramHeader;

use super::{ElfError, check_within, kernel};

/// Bytes of a 32-bit program header.
const PROGRAM_HEADER_SIZE: u64 = 32;
/// Bytes of a 32-bit section header.
const SECTION_HEADER_SIZE: u64 = 40;
const TYPE_AT: u64 = 16;
const MACHINE_AT: u64 = 18;
const VERSION_AT: u64 = 20;
const ENTRY_AT: u64 = 24;
const PROGRAM_HEADERS_AT: u64 = 28;
const SECTION_HEADERS_AT: u64 = 32;
const PROGRAM_HEADER_SIZE_AT: u64 = 42;
const PROGRAM_HEADER_COUNT_AT: u64 = 44;
const SECTION_HEADER_SIZE_AT: u64 = 46;
const SECTION_HEADER_COUNT_AT: u64 = 48;

/// The 32-bit headers before an executable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    file: &'a [u8],
    program_headers: u64,
    count: u64,
    entry: u64,
    /// `ET_*`.
    kind: u64,
}

impl<'a> Before<'a> {
    /// Those of `file`, if it is a 32-bit one with an executable behind them.
    pub(super) fn read(file: &'a [u8]) -> Result<Option<Self>, ElfError> {
        if file.get(header::EI_CLASS) != Some(&header::ELFCLASS32) {
            return Ok(None);
        }
        if !kernel::has_multiboot_header(file) {
            return Err(ElfError::Class32);
        }
        let number = |at, size| field(file, "the 32-bit ELF header's bytes", at, size);
        let before = Self {
            file,
            program_headers: number(PROGRAM_HEADERS_AT, 4)?,
            count: number(PROGRAM_HEADER_COUNT_AT, 2)?,
            entry: number(ENTRY_AT, 4)?,
            kind: number(TYPE_AT, 2)?,
        };
        let is_one = file.get(header::EI_DATA) == Some(&header::ELFDATA2LSB)
            && file.get(header::EI_VERSION) == Some(&header::EV_CURRENT)
            && number(VERSION_AT, 4)? == u64::from(header::EV_CURRENT)
            && number(MACHINE_AT, 2)? == u64::from(header::EM_386)
            && number(PROGRAM_HEADER_SIZE_AT, 2)? == PROGRAM_HEADER_SIZE
            && before.executable().starts_with(header::ELFMAG);
        if !is_one {
            return Err(ElfError::Kernel32);
        }
        if kernel::has_multiboot_addresses(file) {
            return Err(ElfError::KernelAddresses);
        }
        let count = number(SECTION_HEADER_COUNT_AT, 2)?;
        if count > 0 && number(SECTION_HEADER_SIZE_AT, 2)? != SECTION_HEADER_SIZE {
            return Err(ElfError::OtherKernel32);
        }
        let what = "the 32-bit section headers";
        let start = number(SECTION_HEADERS_AT, 4)?;
        check_within(file, what, start, SECTION_HEADER_SIZE * count)?;
        Ok(Some(before))
    }

    /// What is wrong with the executable, with places counted from the start of the whole file.
    pub(super) fn of_whole(&self, error: ElfError) -> ElfError {
        match error {
            ElfError::Truncated { what, end, .. } => ElfError::Truncated {
                what,
                end: end.saturating_add(self.length()),
                length: self.file.len() as u64,
            },
            other => other,
        }
    }

    /// How far into the file the executable begins.
    pub(super) fn length(&self) -> u64 {
        self.program_headers + PROGRAM_HEADER_SIZE * self.count
    }

    /// From there on.
    pub(super) fn executable(&self) -> &'a [u8] {
        self.file.get(self.length() as usize..).unwrap_or_default()
    }

    /// Has `header` and `headers`, which are those of the executable, count from the start of the whole file. The 32-bit ones must
    /// say the same.
    pub(super) fn shift(
        &self,
        header: &mut Header,
        headers: &mut [ProgramHeader],
    ) -> Result<(), ElfError> {
        let is_same = header.e_entry == self.entry
            && u64::from(header.e_type) == self.kind
            && u64::from(header.e_phnum) == self.count;
        if !is_same {
            return Err(ElfError::OtherKernel32);
        }
        let length = self.length();
        let what = "the 32-bit program headers";
        for (at, header) in (0u64..).zip(headers) {
            header.p_offset = header
                .p_offset
                .checked_add(length)
                .ok_or(ElfError::OtherKernel32)?;
            let start = self.program_headers + PROGRAM_HEADER_SIZE * at;
            let said = [
                u64::from(header.p_type),
                header.p_offset,
                header.p_vaddr,
                header.p_paddr,
                header.p_filesz,
                header.p_memsz,
                u64::from(header.p_flags),
            ];
            for (word, value) in (0u64..).zip(said) {
                if field(self.file, what, start + 4 * word, 4)? != value {
                    return Err(ElfError::OtherKernel32);
                }
            }
        }
        header.e_phoff = header.e_phoff.saturating_add(length);
        Ok(())
    }
}

/// A number of `size` bytes, at most 8.
fn field(file: &[u8], what: &'static str, at: u64, size: u64) -> Result<u64, ElfError> {
    let mut bytes = [0; 8];
    bytes[..size as usize].copy_from_slice(check_within(file, what, at, size)?);
    Ok(u64::from_le_bytes(bytes))
}
