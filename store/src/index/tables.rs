//! What the records of pages take up on disk.

use super::options::PAGES;
use super::{Index, failed, family};
use crate::error::Result;

impl Index {
    /// Writes what is in memory out, and merges the tables of pages.
    pub(crate) fn compact_pages(&self) {
        let db = self.own_db();
        db.compact_range_cf(family(db, PAGES), None::<&[u8]>, None::<&[u8]>);
    }

    /// Bytes of the files of the tables of pages.
    pub(crate) fn page_table_bytes(&self) -> Result<u64> {
        let db = self.own_db();
        let bytes = db
            .property_int_value_cf(family(db, PAGES), "rocksdb.live-sst-files-size")
            .map_err(|source| failed("measuring", source))?;
        Ok(bytes.unwrap_or(0))
    }
}
