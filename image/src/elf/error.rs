//! Why a file is not an executable that the pool can run.

use pool_core::GuestAddress;
use pool_core::address::USER_ADDRESS_END;
use pool_core::description::Abi;
use thiserror::Error;

use super::{LOWEST_ADDRESS, MAX_PROGRAM_HEADERS};

/// Why a file is refused. Each message says what would be accepted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ElfError {
    /// No ELF magic.
    #[error(
        "this is not an ELF file: give a static x86-64 Linux executable, not a script, an archive \
         or a compressed file"
    )]
    NotElf,
    /// Something that a header promises lies past the end of the file.
    #[error(
        "the file is truncated: {what} end at byte {end}, the file has {length}; copy or link it \
         again"
    )]
    Truncated {
        /// What was looked for, in the plural.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// Length of the file.
        length: u64,
    },
    /// `ELFCLASS32`.
    #[error("this is a 32-bit executable: build it for x86-64 (without -m32 or -mx32)")]
    Class32,
    /// `ELFCLASS32` with a Multiboot header, and no 64-bit executable behind the 32-bit headers.
    #[error(
        "this is a 32-bit kernel image (Multiboot), which the pool does not take: give a static \
         x86-64 executable; `qemu-system-x86_64 -kernel FILE` boots this one"
    )]
    Kernel32,
    /// The 32-bit headers of a kernel image and the executable behind them say different things.
    #[error(
        "this is a kernel image (Multiboot) whose 32-bit headers say something else than the 64-bit executable behind them: \
         make them of it anew (Unikraft's multiboot.py)"
    )]
    OtherKernel32,
    /// The Multiboot header of a kernel image says where its loader puts what, which its 32-bit headers say as well.
    #[error(
        "this is a kernel image (Multiboot) whose Multiboot header has addresses of its own (flag 16), by which loaders go \
         and not by its 32-bit headers: make it anew without them (Unikraft's multiboot.py)"
    )]
    KernelAddresses,
    /// A kernel image that user addresses cannot hold.
    #[error(
        "this is a kernel image ({protocol}), and the pool cannot hold it as it is linked: {1}",
        protocol = .0.protocol()
    )]
    Kernel(Abi, Box<ElfError>),
    /// `ELFDATA2MSB`.
    #[error("this is a big-endian executable: build it for x86-64")]
    BigEndian,
    /// Another `e_machine`.
    #[error("this is an executable for ELF machine {0}: build it for x86-64 (machine 62)")]
    Machine(u16),
    /// `ET_REL`.
    #[error("this is a relocatable object: link it first, with `pool link` or `cc -static`")]
    Relocatable,
    /// `ET_CORE`.
    #[error("this is a core dump: give the executable that it came from")]
    Core,
    /// A shared library, or nothing that begins anywhere.
    #[error("this is a shared library, it has no entry point: give a static executable")]
    SharedLibrary,
    /// The entry point lies in a section without bytes (`objcopy --only-keep-debug`).
    #[error("this file holds debug information alone, its code was left out: give the executable")]
    DebugOnly,
    /// Another `e_type`.
    #[error(
        "ELF type {0} is neither an executable (2) nor position independent (3): give a static \
         executable"
    )]
    Type(u16),
    /// `PT_INTERP`.
    #[error(
        "this executable is dynamic, it asks for the interpreter {0:?}: link with -static or \
         -static-pie"
    )]
    Interpreter(String),
    /// `DT_NEEDED`.
    #[error("this executable is dynamic, it needs shared libraries: link with -static")]
    NeedsLibraries,
    /// A program header of an unknown size.
    #[error("program headers have {0} bytes each, 56 are expected: the file is damaged")]
    HeaderSize(u16),
    /// More program headers than Linux reads.
    #[error(
        "it has {0} program headers, Linux reads up to {MAX_PROGRAM_HEADERS}: link with fewer \
         segments"
    )]
    TooManyHeaders(u16),
    /// Nothing to load.
    #[error("it has no segment to load (PT_LOAD): link it as an executable")]
    NothingToLoad,
    /// `p_filesz > p_memsz`.
    #[error(
        "segment {0} has more bytes in the file ({1}) than in memory ({2}): the file is damaged"
    )]
    FileSize(usize, u64, u64),
    /// A sum of sizes that does not fit, or ends beyond what a process may use.
    #[error(
        "segment {0} reaches past the end of user addresses ({end:#x}): link it lower",
        end = USER_ADDRESS_END
    )]
    PastUserAddresses(usize),
    /// Below `mmap_min_addr`.
    #[error(
        "segment {0} begins at {1}, below the lowest address that Linux maps \
         ({LOWEST_ADDRESS:#x}): link it higher"
    )]
    TooLow(usize, GuestAddress),
    /// `PT_LOAD` out of order that share a page.
    #[error(
        "segment {0} at {1} lies below one that comes before it and shares a page with it: \
         PT_LOAD headers are sorted by address; link it again"
    )]
    Unsorted(usize, GuestAddress),
    /// Two `PT_LOAD` claim an address.
    #[error("segment {0} at {1} overlaps the one below it: link it again")]
    Overlap(usize, GuestAddress),
    /// The segments repeat the file's bytes many times over.
    #[error(
        "the segments load {loaded} bytes of a file of {length}: they repeat its bytes; link it \
         again with one segment for each part"
    )]
    Repeats {
        /// Sum of `p_filesz`.
        loaded: u64,
        /// Length of the file.
        length: u64,
    },
}
