//! ELF images: linked at registered addresses, described, taken apart and put together again.
//!
//! Everything here is pure: bytes in, values out. Where files and pools are is the caller's part.

pub mod describe;
pub mod elf;
pub mod extract;
pub mod inspect;
pub mod layout;
pub mod link;
pub mod minify;
