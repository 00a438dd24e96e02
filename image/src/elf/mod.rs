//! Reading static x86-64 executables: Linux programs, and kernels of the same form.
//!
//! Accepted are `ET_EXEC` and static position-independent (`ET_DYN` without `PT_INTERP` and
//! `DT_NEEDED`) files, stripped or not, whoever linked them. What Linux would refuse to execute is
//! refused here with a reason, and so is what Linux would execute but nobody means: a file cut
//! short in its section headers, segments that repeat the file. A kernel may stand behind 32-bit headers (`within`). What Linux does not look at is not
//! looked at: the OS ABI, versions and flags, section headers of another size, the order of segments
//! that share no page. Format: System V gABI, chapters 4
//! and 5, and its x86-64 supplement; loading rules: `fs/binfmt_elf.c` of Linux.

mod error;
mod kernel;
mod sections;
mod within;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{self, Header};
use goblin::elf::program_header::{self as ph, ProgramHeader};
use pool_core::GuestAddress;
use pool_core::address::{Protection, USER_ADDRESS_END};
use pool_core::description::{Abi, ProgramHeaders};
use pool_core::page::{PAGE_SIZE, checked_round_up, round_down};

pub use error::ElfError;
use within::Before;

/// Lowest address that Linux maps for a process by default (`vm.mmap_min_addr`).
pub const LOWEST_ADDRESS: u64 = 0x1_0000;
/// Most program headers that Linux reads (64 KiB of them, `load_elf_phdrs`).
pub const MAX_PROGRAM_HEADERS: u16 = 1170;
/// Where position-independent executables are loaded: 64 GiB.
///
/// Above everything linked at registered or conventional addresses (the low 4 GiB) and far below
/// where Linux places `mmap` regions and stacks (the top of the 47 bits), so a plain process can
/// map it too. Aligned to far more than 2 MiB, so any `p_align` and every large page is honoured.
/// One fixed address for all is what makes their relocated pages comparable.
pub const INDEPENDENT_BASE: u64 = 0x10_0000_0000;

const CTX: Ctx = Ctx {
    container: Container::Big,
    le: Endian::Little,
};
const HEADER_SIZE: u64 = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
/// How many times over the segments may load the file's bytes.
const MAX_REPEATS: u64 = 2;

/// How an executable was linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutableKind {
    /// `ET_EXEC`: at the addresses that it names.
    Fixed,
    /// Static `ET_DYN`: loaded at [`INDEPENDENT_BASE`], relocates itself.
    StaticPie,
}

/// A `PT_LOAD`, checked: it lies in the file, in user addresses, and above its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte in memory, load bias included.
    pub address: u64,
    /// Bytes in memory, not zero.
    pub memory_size: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes from the file, at most `memory_size`.
    pub file_size: u64,
    /// Access that it asks for.
    pub protection: Protection,
}

impl Segment {
    /// First address past the segment.
    pub fn end(&self) -> u64 {
        self.address + self.memory_size
    }

    /// First address past its bytes from the file.
    pub fn file_end(&self) -> u64 {
        self.address + self.file_size
    }

    /// True when file pages can be mapped as memory pages.
    pub fn is_page_congruent(&self) -> bool {
        self.address % PAGE_SIZE == self.offset % PAGE_SIZE
    }
}

/// A checked executable.
#[derive(Clone, Debug)]
pub struct Executable<'a> {
    /// The whole file.
    pub file: &'a [u8],
    /// How it was linked.
    pub kind: ExecutableKind,
    /// What it expects of whoever runs it.
    pub abi: Abi,
    /// Added to every address of the file.
    pub load_bias: u64,
    /// First instruction, load bias included.
    pub entry: GuestAddress,
    /// Segments in address order; at least one.
    pub segments: Vec<Segment>,
    /// Where the program headers lie in memory, if they do.
    pub program_headers: Option<ProgramHeaders>,
    /// It asks for a stack that it may execute.
    pub executable_stack: bool,
    /// True without a symbol table.
    pub stripped: bool,
    /// Bytes of the layout section, if there is one.
    pub layout_section: Option<&'a [u8]>,
    /// Bytes of the section with pages as they are in other images, if there is one.
    pub elsewhere_section: Option<&'a [u8]>,
    /// Bytes of the section with the record of addresses, if there is one.
    pub slide_section: Option<&'a [u8]>,
}

impl<'a> Executable<'a> {
    /// Reads and checks `file`.
    pub fn read(file: &'a [u8]) -> Result<Self, ElfError> {
        refuse_other_formats(file)?;
        let before = Before::read(file)?;
        let executable = before.map_or(file, |before| before.executable());
        let of_whole = |error| match before {
            Some(before) => before.of_whole(error),
            None => error,
        };
        let mut header = read_header(executable).map_err(of_whole)?;
        let mut headers = read_program_headers(executable, &header).map_err(of_whole)?;
        refuse_dynamic(executable, &headers).map_err(of_whole)?;
        let kind = if header.e_type == header::ET_EXEC {
            ExecutableKind::Fixed
        } else if header.e_entry == 0 {
            return Err(ElfError::SharedLibrary);
        } else {
            ExecutableKind::StaticPie
        };
        let load_bias = match kind {
            ExecutableKind::Fixed => 0,
            ExecutableKind::StaticPie => INDEPENDENT_BASE,
        };
        let sections = sections::read(executable, &header).map_err(of_whole)?;
        if let Some(before) = before {
            before.shift(&mut header, &mut headers)?;
        }
        let abi = kernel::abi(file, &headers, sections.boot_information);
        let segments = read_segments(file, &headers, load_bias).map_err(|error| match abi {
            Abi::Linux => error,
            kernel => ElfError::Kernel(kernel, Box::new(error)),
        })?;
        let program_headers = locate_program_headers(&header, &headers, &segments, load_bias);
        Ok(Self {
            file,
            kind,
            abi,
            load_bias,
            entry: GuestAddress(header.e_entry.wrapping_add(load_bias)),
            segments,
            program_headers,
            executable_stack: asks_for_executable_stack(&headers),
            stripped: sections.stripped,
            layout_section: sections.layout,
            elsewhere_section: sections.elsewhere,
            slide_section: sections.slide,
        })
    }
}

/// What is no ELF file, or is one in another byte order.
fn refuse_other_formats(file: &[u8]) -> Result<(), ElfError> {
    if !file.starts_with(header::ELFMAG) {
        return Err(ElfError::NotElf);
    }
    let is_narrow = file.get(header::EI_CLASS) == Some(&header::ELFCLASS32);
    let is_big_endian = file.get(header::EI_DATA) == Some(&header::ELFDATA2MSB);
    if is_big_endian && !is_narrow {
        return Err(ElfError::BigEndian);
    }
    Ok(())
}

fn read_header(file: &[u8]) -> Result<Header, ElfError> {
    refuse_other_formats(file)?;
    // The class and byte order come first: they decide how long the header is and how to read it.
    if file.get(header::EI_CLASS) == Some(&header::ELFCLASS32) {
        return Err(ElfError::Kernel32);
    }
    let mut bytes = check_within(file, "the ELF header's bytes", 0, HEADER_SIZE)?.to_vec();
    // Linux goes by the machine alone, so that a file that names neither class nor byte order runs.
    bytes[header::EI_CLASS] = header::ELFCLASS64;
    bytes[header::EI_DATA] = header::ELFDATA2LSB;
    let header = goblin::elf::Elf::parse_header(&bytes).map_err(|_| ElfError::NotElf)?;
    if header.e_machine != header::EM_X86_64 {
        return Err(ElfError::Machine(header.e_machine));
    }
    match header.e_type {
        header::ET_EXEC | header::ET_DYN => Ok(header),
        header::ET_REL => Err(ElfError::Relocatable),
        header::ET_CORE => Err(ElfError::Core),
        other => Err(ElfError::Type(other)),
    }
}

/// Checks that `size` bytes from `offset` lie in the file and gives them.
fn check_within<'a>(
    file: &'a [u8],
    what: &'static str,
    offset: u64,
    size: u64,
) -> Result<&'a [u8], ElfError> {
    let end = offset.saturating_add(size);
    file.get(offset as usize..end as usize)
        .ok_or(ElfError::Truncated {
            what,
            end,
            length: file.len() as u64,
        })
}

fn read_program_headers(file: &[u8], header: &Header) -> Result<Vec<ProgramHeader>, ElfError> {
    if header.e_phnum == 0 {
        return Err(ElfError::NothingToLoad);
    }
    if header.e_phentsize != PROGRAM_HEADER_SIZE {
        return Err(ElfError::HeaderSize(header.e_phentsize));
    }
    if header.e_phnum > MAX_PROGRAM_HEADERS {
        return Err(ElfError::TooManyHeaders(header.e_phnum));
    }
    let what = "the program headers";
    let size = program_headers_size(header);
    let bytes = check_within(file, what, header.e_phoff, size)?;
    ProgramHeader::parse(bytes, 0, header.e_phnum as usize, CTX).map_err(|_| ElfError::Truncated {
        what,
        end: header.e_phoff.saturating_add(size),
        length: file.len() as u64,
    })
}

fn program_headers_size(header: &Header) -> u64 {
    header.e_phnum as u64 * PROGRAM_HEADER_SIZE as u64
}

fn refuse_dynamic(file: &[u8], headers: &[ProgramHeader]) -> Result<(), ElfError> {
    for header in headers {
        let bytes = |what| check_within(file, what, header.p_offset, header.p_filesz);
        match header.p_type {
            ph::PT_INTERP => {
                let path = bytes("the interpreter's name's bytes")?;
                let path = path.split(|b| *b == 0).next().unwrap_or_default();
                let path = String::from_utf8_lossy(&path[..path.len().min(256)]).into_owned();
                return Err(ElfError::Interpreter(path));
            }
            ph::PT_DYNAMIC => {
                let tag = |entry: &[u8]| entry.first_chunk().map(|tag| u64::from_le_bytes(*tag));
                // Linux does not read it; what is not there asks for nothing.
                let needed = bytes("the dynamic section's entries")
                    .unwrap_or_default()
                    .chunks_exact(16)
                    .map_while(tag)
                    .take_while(|tag| *tag != goblin::elf::dynamic::DT_NULL)
                    .any(|tag| tag == goblin::elf::dynamic::DT_NEEDED);
                if needed {
                    return Err(ElfError::NeedsLibraries);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// As Linux does on x86-64: the last `PT_GNU_STACK` decides, and without one the stack holds data.
fn asks_for_executable_stack(headers: &[ProgramHeader]) -> bool {
    let mut stacks = headers.iter().rev();
    stacks
        .find(|header| header.p_type == ph::PT_GNU_STACK)
        .is_some_and(ProgramHeader::is_executable)
}

fn read_segments(
    file: &[u8],
    headers: &[ProgramHeader],
    load_bias: u64,
) -> Result<Vec<Segment>, ElfError> {
    let mut segments: Vec<(usize, Segment)> = Vec::new();
    let mut loaded = 0u64;
    for (at, header) in headers.iter().enumerate() {
        // Linkers leave empty segments behind; Linux maps nothing for them.
        if header.p_type != ph::PT_LOAD || (header.p_memsz == 0 && header.p_filesz == 0) {
            continue;
        }
        let segment = read_segment(file, at, header, load_bias)?;
        loaded = loaded.saturating_add(segment.file_size);
        segments.push((at, segment));
    }
    segments.sort_by_key(|(_, segment)| segment.address);
    for pair in segments.windows(2) {
        let [(first, low), (second, high)] = [pair[0], pair[1]];
        if high.address < low.end() {
            return Err(ElfError::Overlap(second, GuestAddress(high.address)));
        }
        // Of a page that two share, Linux keeps what it maps last.
        if second < first && round_down(high.address, PAGE_SIZE) < low.end() {
            return Err(ElfError::Unsorted(first, GuestAddress(low.address)));
        }
    }
    let length = file.len() as u64;
    if segments.is_empty() {
        return Err(ElfError::NothingToLoad);
    }
    if loaded > length.saturating_mul(MAX_REPEATS) {
        return Err(ElfError::Repeats { loaded, length });
    }
    Ok(segments.into_iter().map(|(_, segment)| segment).collect())
}

fn read_segment(
    file: &[u8],
    at: usize,
    header: &ProgramHeader,
    load_bias: u64,
) -> Result<Segment, ElfError> {
    if header.p_filesz > header.p_memsz {
        return Err(ElfError::FileSize(at, header.p_filesz, header.p_memsz));
    }
    if header.p_filesz > 0 {
        check_within(file, "a segment's bytes", header.p_offset, header.p_filesz)?;
    }
    let address = header
        .p_vaddr
        .checked_add(load_bias)
        .ok_or(ElfError::PastUserAddresses(at))?;
    address
        .checked_add(header.p_memsz)
        .and_then(|end| checked_round_up(end, PAGE_SIZE))
        .filter(|end| *end <= USER_ADDRESS_END)
        .ok_or(ElfError::PastUserAddresses(at))?;
    if address < LOWEST_ADDRESS {
        return Err(ElfError::TooLow(at, GuestAddress(address)));
    }
    let allowed = |flag| header.p_flags & flag != 0;
    Ok(Segment {
        address,
        memory_size: header.p_memsz,
        offset: header.p_offset,
        file_size: header.p_filesz,
        protection: Protection {
            read: allowed(ph::PF_R),
            write: allowed(ph::PF_W),
            execute: allowed(ph::PF_X),
        },
    })
}

/// Where `AT_PHDR` points. Linux takes the segment that loads the headers' bytes; when none does,
/// `PT_PHDR` may still name a copy.
fn locate_program_headers(
    header: &Header,
    headers: &[ProgramHeader],
    segments: &[Segment],
    load_bias: u64,
) -> Option<ProgramHeaders> {
    let size = program_headers_size(header);
    let loaded = segments.iter().find_map(|segment| {
        let skip = header.e_phoff.checked_sub(segment.offset)?;
        (skip.checked_add(size)? <= segment.file_size).then(|| segment.address + skip)
    });
    let named = || {
        let named = headers.iter().find(|h| h.p_type == ph::PT_PHDR)?;
        let address = named.p_vaddr.checked_add(load_bias)?;
        let end = address.checked_add(size)?;
        segments
            .iter()
            .any(|s| s.address <= address && end <= s.end())
            .then_some(address)
    };
    loaded.or_else(named).map(|address| ProgramHeaders {
        address: GuestAddress(address),
        count: header.e_phnum,
    })
}
