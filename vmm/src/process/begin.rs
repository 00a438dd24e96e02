//! What a guest that is a process was started with, as the small world tells it.

use rustix::time::Timespec;

use crate::linux::start::Stack;
use crate::world::Layout;
use crate::world::small::{self, Place};

/// What the small world is made of.
#[derive(Debug)]
pub(super) struct Begin {
    /// Where the guest's arguments, its environment and its auxiliary vector lie.
    pub(super) texts: [std::ops::Range<u64>; 3],
    pub(super) at: Timespec,
    pub(super) boot: Option<[u8; 16]>,
    /// How many processors it is told of.
    pub(super) processors: u16,
    /// Its own file system, if it has one.
    pub(super) layout: Option<Layout>,
    /// The program's name.
    pub(super) name: Vec<u8>,
    /// Where its image, its heap and its stack lie.
    pub(super) image: Vec<(u64, u64)>,
    pub(super) heap: u64,
    pub(super) stack: std::ops::Range<u64>,
}

impl Begin {
    pub(super) fn new(guest: &super::Guest<'_>, stack: &Stack, layout: Option<Layout>) -> Self {
        let plan = guest.plan;
        let name = guest.start.arguments.first();
        Self {
            texts: [
                stack.arguments.clone(),
                stack.environment.clone(),
                stack.auxiliary.clone(),
            ],
            at: rustix::time::clock_gettime(rustix::time::ClockId::Boottime),
            boot: None,
            processors: guest.processors,
            layout,
            name: small::program(name.map_or(&[][..], Vec::as_slice)),
            image: plan
                .mappings
                .iter()
                .map(|m| (m.address.0, m.end()))
                .collect(),
            heap: plan.rooms.heap.0,
            stack: plan.rooms.stack_low.0..plan.rooms.stack_high.0,
        }
    }

    /// It has a file system of its own.
    pub(super) fn has_world(&self) -> bool {
        self.layout.is_some()
    }

    pub(super) fn place_at(&self, device: u64, inode: u64) -> Option<Place> {
        self.layout.as_ref()?.places.at(device, inode)
    }
}
