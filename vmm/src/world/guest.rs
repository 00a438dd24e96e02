//! What the small world asks of a guest, whichever platform it runs on.

use pool_core::address::Protection;
use rustix::time::Timespec;

/// An area of a guest's memory, as `/proc/self/maps` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) protection: Protection,
    pub(crate) shared: bool,
    pub(crate) offset: u64,
    pub(crate) name: String,
}

/// A part of what a guest was started with, in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    Arguments,
    Environment,
    Auxiliary,
}

/// What is to be known of a guest.
pub(crate) trait Guest {
    /// Bytes of memory that it may have, and that are left.
    fn memory(&self) -> u64;
    fn free(&mut self) -> u64;
    /// Bytes that it has.
    fn resident(&mut self) -> u64;
    /// Numbers of its process, which is that of its first thread, and of the thread that asks.
    fn process(&self) -> i32;
    fn caller(&self) -> i32;
    /// That of the process that started it; 0 for none.
    fn parent(&self) -> i32;
    /// Its threads, by number.
    fn threads(&self) -> Vec<i32>;
    /// The name of one of them.
    fn name(&mut self, thread: i32) -> Vec<u8>;
    /// The nice value of one of them.
    fn nice(&self, thread: i32) -> i32;
    fn text(&mut self, which: Text) -> Vec<u8>;
    fn areas(&mut self) -> Vec<Area>;
    /// How many processors it has.
    fn processors(&self) -> usize;
    /// Nanoseconds that it has run.
    fn processor_time(&mut self) -> u64;
    /// When it was started, by the same clock as [`Guest::uptime`].
    fn started(&self) -> Timespec;
    /// Soft and hard limit of this number.
    fn limit(&mut self, number: u64) -> [u64; 2];
    /// A number for the time of its machine.
    fn boot(&mut self) -> [u8; 16];

    /// How long its machine has been up.
    fn uptime(&self) -> Timespec {
        rustix::time::clock_gettime(rustix::time::ClockId::Boottime)
    }

    /// A number that nobody had before.
    fn random(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        // Without, it is one that somebody had.
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        bytes
    }
}
