//! The command line, run as people run it, against a real service.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod addresses;
mod common;
mod handing_over;
mod https;
mod leases;
mod linking;
mod same_as_ld;
mod streams;
mod unikraft;
mod verbs;
