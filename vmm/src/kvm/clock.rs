//! The host kernel's vdso in the guest: its pages are shown one by one, as the guest touches them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use pool_core::PAGE_SIZE;

use super::KvmError;
use super::vm::{VDSO_ADDRESS, Vm};
use crate::memory::{Access, GrowError, GuestMemory};
use crate::plan::Rooms;
use crate::vdso::{self, Vdso};

/// The vdso of a guest.
#[derive(Debug)]
pub(super) struct Clock {
    vdso: Vdso,
    /// Where the guest finds its code.
    address: u64,
    /// Where code and data lie in this process, once the guest has touched the place.
    pages: Option<Range<u64>>,
    /// Addresses in this process of the pages that the guest has, and processors that have met each.
    shown: BTreeMap<u64, BTreeSet<usize>>,
}

impl Clock {
    /// The vdso for a guest with these rooms, if this process has one.
    pub(super) fn new(rooms: Rooms) -> Option<Self> {
        Vdso::find().map(|vdso| Self {
            vdso,
            address: vdso::address(rooms),
            pages: None,
            shown: BTreeMap::new(),
        })
    }

    /// Guest address of its ELF header.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Shows the guest the page at `address`, if it is one of the vdso's that it may use so and `processor` has
    /// not met.
    pub(super) fn show(
        &mut self,
        processor: usize,
        vm: &Vm,
        memory: &mut GuestMemory,
        address: u64,
        access: Access,
    ) -> Result<bool, KvmError> {
        if !vdso::room(self.address).contains(&address) {
            return Ok(false);
        }
        let address = address & !(PAGE_SIZE - 1);
        let code = self.vdso.code();
        let host = address.wrapping_sub(self.address).wrapping_add(code.start);
        let executable = code.contains(&host);
        let vdso = self.vdso;
        let pages = self.pages.get_or_insert_with(|| vdso.all());
        if access == Access::Write
            || (access == Access::Execute && !executable)
            || !pages.contains(&host)
            || !vdso::is_readable(host)
        {
            return Ok(false);
        }
        if let Some(met) = self.shown.get_mut(&host) {
            return Ok(met.insert(processor));
        }
        if self.shown.is_empty() {
            vm.add_vdso(pages)?;
        }
        memory
            .map_host_page(address, VDSO_ADDRESS + (host - pages.start), executable)
            .map_err(|error| KvmError::Build(GrowError::from(error).into()))?;
        self.shown.insert(host, BTreeSet::from([processor]));
        Ok(true)
    }
}
