//! The linker.
//!
//! Needs `musl-gcc`, `gcc` and `g++` (Debian: `musl-tools`, `g++`).

#![allow(clippy::unwrap_used)] // In tests and in what only they call.

mod bad_input;
mod beside;
mod identity;
mod layouts;
mod own;
mod programs;
mod slides;
mod support;
mod versions;
