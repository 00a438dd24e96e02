//! The pool daemon, as a library: `main` parses its arguments and waits for signals, and what is
//! between, from settings to a running service, is here for tests and other programs.

mod collecting;
pub mod config;
mod descriptors;
pub mod leave;
mod listen;
mod maintenance;
pub mod notify;
mod paced;
mod scrubbing;
mod serve;
mod shutdown;
pub mod wiring;

pub use config::{Arguments, Settings};
pub use wiring::{Daemon, StartError};
