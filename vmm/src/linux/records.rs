//! What a call reads of the guest's memory when it begins: where its buffers lie, what it waits for, until when.
//!
//! The kernel copies such records once, and other threads may do with their memory what they like while the call waits. So a handler that is
//! asked again finds them as they were.

use super::Linux;
use crate::memory::BadAddress;

/// Bytes of records that tasks keep together while they wait, beside [`FEW`] each: their length is the guest's choice.
const MOST: usize = 16 << 20;
const FEW: usize = 512;

/// The records of one call: from where they were read, and what lay there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records(Vec<(u64, Box<[u8]>)>);

impl Records {
    /// As many bytes from `address` as `into` has, where they were read before.
    fn find(&self, address: u64, length: usize) -> Option<&[u8]> {
        let is_it = |(at, bytes): &&(u64, Box<[u8]>)| *at == address && bytes.len() == length;
        self.0.iter().find(is_it).map(|(_, bytes)| &bytes[..])
    }

    fn keep(&mut self, address: u64, bytes: &[u8]) {
        self.0.push((address, bytes.into()));
    }

    fn length(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// The call goes on to its next part, which has records of its own.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// How much all tasks that wait keep of them, in bytes.
#[derive(Debug, Default)]
pub(super) struct Kept(usize);

impl Kept {
    /// There is room for `records`.
    pub(super) fn has_room(&self, records: &Records) -> bool {
        let length = records.length();
        length <= FEW || self.0 + length <= MOST
    }

    /// A call that has read these waits.
    pub(super) fn add(&mut self, records: &Records) {
        self.0 += records.length();
    }

    /// It is asked again.
    pub(super) fn remove(&mut self, records: &Records) {
        self.0 -= records.length();
    }
}

impl Linux {
    /// Fills `into` from guest address `address`, as it was when the call that is being served read it first.
    pub(super) fn read_once(&mut self, address: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        if let Some(before) = self.progress.records.find(address, into.len()) {
            into.copy_from_slice(before);
            return Ok(());
        }
        self.memory.read(address, into)?;
        if !into.is_empty() {
            self.progress.records.keep(address, into);
        }
        Ok(())
    }

    /// So many words from there, likewise.
    pub(super) fn read_words_once<const N: usize>(
        &mut self,
        address: u64,
    ) -> Result<[u64; N], BadAddress> {
        let mut bytes = [[0; 8]; N];
        self.read_once(address, bytes.as_flattened_mut())?;
        Ok(bytes.map(u64::from_le_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lengths: &[usize]) -> Records {
        let mut records = Records::default();
        for (at, &length) in lengths.iter().enumerate() {
            records.keep(at as u64, &vec![at as u8; length]);
        }
        records
    }

    #[test]
    fn what_was_read_is_found_by_its_address_and_length() {
        let mut records = of(&[3, 8]);
        records.keep(1, &[7; 16]);
        assert_eq!(records.find(1, 8), Some(&[1; 8][..]));
        assert_eq!(records.find(1, 16), Some(&[7; 16][..]));
        assert_eq!((records.find(1, 4), records.find(2, 8)), (None, None));
        records.forget();
        assert_eq!(records.find(1, 8), None);
    }

    #[test]
    fn what_is_kept_is_bounded_beside_a_little_each() {
        let mut kept = Kept::default();
        let large = of(&[MOST / 2, MOST / 2]);
        assert!(kept.has_room(&large));
        kept.add(&large);
        let (few, more) = (of(&[FEW - 8, 8]), of(&[FEW, 1]));
        assert!(kept.has_room(&few) && !kept.has_room(&more));
        kept.add(&few);
        kept.remove(&large);
        assert!(kept.has_room(&more) && !kept.has_room(&large));
    }
}
