//! ELF images: linked at registered addresses, described, taken apart and put together again.
//!
//! Reading executables is pure: bytes in, values out. Only the linker opens files, since finding
//! them is part of its job.

pub mod describe;
pub mod elf;
pub mod extract;
pub mod inspect;
pub mod layout;
pub mod link;
pub mod minify;
