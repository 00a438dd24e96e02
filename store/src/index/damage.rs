//! What the index remembers of damaged slots.

use super::{Batch, META, Reader};
use crate::damage::{DamagedSlots, Expected};
use crate::error::Result;
use crate::format::{Location, damaged};

impl Reader<'_> {
    /// Slots that were found damaged. A record that cannot be read is not worth more than the damage: the next scrub
    /// finds that again.
    pub(crate) fn damaged(&self) -> Result<DamagedSlots> {
        let mut found = DamagedSlots::default();
        self.scan(META, damaged::PREFIX, |key, value| {
            if let Some((at, expected)) = damaged::decode(key, value) {
                found.note(at, expected);
            } else {
                tracing::warn!(?key, "what is known of a damaged page cannot be read");
            }
            Ok(())
        })?;
        Ok(found)
    }
}

impl Batch<'_> {
    pub(crate) fn put_damaged(&mut self, at: Location, expected: Expected) {
        self.put_meta(damaged::key(at), damaged::encode(expected));
    }

    pub(crate) fn delete_damaged(&mut self, at: Location) {
        self.delete_meta(damaged::key(at));
    }
}
