//! ELF images: linked at registered addresses, described, taken apart and put together again.

pub mod layout;
pub mod link;
