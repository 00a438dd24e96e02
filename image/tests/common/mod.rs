//! What the tests of this crate share: real programs, hand-made ELF files, and an interpretation
//! of segments that was written apart from the library's.

// Each test binary uses a part of it; a test may unwrap, and these are parts of tests.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod handmade;
pub mod memory;
pub mod programs;
