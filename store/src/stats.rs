//! Counts for people: how much is kept, and how much keeping it once saves.

use pool_core::page::PageCount;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::{SegmentKind, SegmentRecord, SegmentState};
use crate::index::records::{self, Records};
use crate::snapshot::Snapshot;

/// The state of a store in numbers. All but pages and windows is counted from the index at each call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStats {
    /// Tags.
    pub tags: u64,
    /// Image manifests.
    pub images: u64,
    /// Library versions.
    pub libraries: u64,
    /// Library versions that no image uses.
    pub unused_libraries: u64,
    /// Objects.
    pub objects: u64,
    /// Bytes of all objects, as if each were kept whole.
    pub object_bytes: u64,
    /// Pages that objects refer to, zero pages left out.
    pub referenced_pages: PageCount,
    /// Distinct pages in the index.
    pub stored_pages: PageCount,
    /// 2 MiB windows stored densely.
    pub dense_windows: u64,
    /// Segments that can be mapped.
    pub segments: u64,
    /// Segments that wait for their last lease to end.
    pub retired_segments: u64,
    /// Slots handed out in dense segments: each window counts 512.
    pub dense_slots: PageCount,
    /// Slots handed out in sparse segments.
    pub sparse_slots: PageCount,
    /// Bytes of disk that segments take up.
    pub disk_bytes: u64,
    /// Collections begun since the store was made.
    pub epoch: u64,
    /// What cannot be read and so is in no number, in words: of each kind of records the first.
    #[serde(default)]
    pub not_counted: Vec<String>,
}

impl Snapshot<'_> {
    /// Counts everything that can be read.
    ///
    /// # Errors
    ///
    /// When not even the index's own counters can be.
    pub fn stats(&self) -> Result<StoreStats> {
        let mut stats = StoreStats {
            epoch: self.epoch()?,
            ..StoreStats::default()
        };
        let mut unread = Vec::new();
        self.count(&records::TAGS, &mut unread, |_| {
            stats.tags += 1;
            Ok(())
        });
        self.count(&records::LIBRARIES, &mut unread, |(library, _)| {
            stats.libraries += 1;
            stats.unused_libraries += u64::from(!self.is_used(&library, None)?);
            Ok(())
        });
        self.count(&records::MANIFESTS, &mut unread, |_| {
            stats.images += 1;
            Ok(())
        });
        self.count(&records::OBJECTS, &mut unread, |(_, record)| {
            stats.objects += 1;
            stats.object_bytes += record.map.length;
            let extents = record.map.extents().iter();
            let pages = extents.map(|extent| u64::from(extent.count)).sum();
            stats.referenced_pages += PageCount(pages);
            Ok(())
        });
        // There may be a hundred million.
        if let Some(totals) = self.totals()? {
            stats.stored_pages = PageCount(totals.pages);
            stats.dense_windows = totals.windows;
        } else if !self.follows_pages() {
            unread.push(
                "pages and windows: no commit of this release has said how many there are; pool stats counts them"
                    .into(),
            );
        } else {
            self.count(&records::PAGES, &mut unread, |_| {
                stats.stored_pages += PageCount(1);
                Ok(())
            });
            self.count(&records::WINDOWS, &mut unread, |_| {
                stats.dense_windows += 1;
                Ok(())
            });
        }
        for (id, record) in noted(self.segments_one_by_one(), &mut unread).unwrap_or_default() {
            stats.disk_bytes += self.view().segment_disk_usage(id).unwrap_or(0);
            if let Some(record) = noted(record, &mut unread) {
                stats.add_segment(record);
            }
        }
        stats.not_counted = unread;
        Ok(stats)
    }

    /// Shows `visit` all records of a kind that can be read, and notes the first that cannot.
    fn count<T>(
        &self,
        kind: &Records<T>,
        unread: &mut Vec<String>,
        mut visit: impl FnMut(T) -> Result<()>,
    ) {
        let mut first = Ok(());
        let scanned = self.each(kind, |record| {
            let visited = record.and_then(&mut visit);
            if first.is_ok() {
                first = visited;
            }
            Ok(())
        });
        noted(first.and(scanned), unread);
    }
}

/// What could be read; otherwise it is noted why not.
fn noted<T>(read: Result<T>, unread: &mut Vec<String>) -> Option<T> {
    read.map_err(|error| unread.push(error.to_string())).ok()
}

impl StoreStats {
    fn add_segment(&mut self, record: SegmentRecord) {
        if record.state == SegmentState::Retired {
            self.retired_segments += 1;
            return;
        }
        if record.used == 0 {
            // Made for a commit that did not come about; the next one takes it.
            return;
        }
        self.segments += 1;
        let slots = PageCount(u64::from(record.used));
        match record.kind {
            SegmentKind::Dense => self.dense_slots += slots,
            SegmentKind::Sparse => self.sparse_slots += slots,
        }
    }
}
