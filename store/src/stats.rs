//! Counts for people: how much is kept, and how much keeping it once saves.

use pool_core::page::PageCount;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::{SegmentKind, SegmentState};
use crate::snapshot::Snapshot;

/// The state of a store in numbers. Counted from the index at each call.
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
}

impl Snapshot<'_> {
    /// Counts everything.
    pub fn stats(&self) -> Result<StoreStats> {
        let mut stats = StoreStats {
            epoch: self.epoch()?,
            ..StoreStats::default()
        };
        stats.tags = self.tags()?.len() as u64;
        for (library, _) in self.libraries()? {
            stats.libraries += 1;
            stats.unused_libraries += u64::from(!self.is_used(&library, None)?);
        }
        self.for_each_manifest(|_, _| {
            stats.images += 1;
            Ok(())
        })?;
        self.for_each_object(|_, record| {
            stats.objects += 1;
            stats.object_bytes += record.map.length;
            let pages = record
                .map
                .extents()
                .iter()
                .map(|extent| u64::from(extent.count))
                .sum();
            stats.referenced_pages += PageCount(pages);
            Ok(())
        })?;
        self.for_each_page(|_, _| {
            stats.stored_pages += PageCount(1);
            Ok(())
        })?;
        self.for_each_window(|_, _| {
            stats.dense_windows += 1;
            Ok(())
        })?;
        for (id, record) in self.segments()? {
            stats.disk_bytes += self.view().segment_disk_usage(id).unwrap_or(0);
            if record.state == SegmentState::Retired {
                stats.retired_segments += 1;
                continue;
            }
            if record.used == 0 {
                // Made for a commit that did not come about; the next one takes it.
                continue;
            }
            stats.segments += 1;
            let slots = PageCount(u64::from(record.used));
            match record.kind {
                SegmentKind::Dense => stats.dense_slots += slots,
                SegmentKind::Sparse => stats.sparse_slots += slots,
            }
        }
        Ok(stats)
    }
}
