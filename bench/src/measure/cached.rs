//! What of a store's segments is in the page cache.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};
use memmap2::MmapOptions;
use pool_core::PAGE_SIZE;
use pool_core::extent::SegmentId;
use pool_tests::host::Host;
use rustix::fs::{Advice, fadvise};

/// Pages of segments, by their slots.
pub(crate) type Slots = HashSet<(SegmentId, u64)>;

/// Drops from the page cache what nobody maps.
pub(crate) fn drop_segments(host: &Host) -> Result<()> {
    for path in host.segments()? {
        let dropped = File::open(&path).and_then(|file| {
            // What is not written back yet cannot be dropped.
            file.sync_data()?;
            Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
        });
        dropped.with_context(|| format!("dropping {} from the page cache", path.display()))?;
    }
    Ok(())
}

/// The pages that are in memory.
pub(crate) fn resident(host: &Host) -> Result<Slots> {
    let mut slots = Slots::new();
    for path in host.segments()? {
        let name = path.file_stem().unwrap_or_default();
        let segment: SegmentId = name.to_string_lossy().parse()?;
        let bytes = in_memory(&path)
            .with_context(|| format!("asking which pages of {} are in memory", path.display()))?;
        let in_memory = (0..).zip(bytes).filter(|(_, byte)| byte & 1 != 0);
        slots.extend(in_memory.map(|(slot, _)| (segment, slot)));
    }
    Ok(slots)
}

/// A byte a page of a file: its lowest bit says whether that is in memory (mincore(2)).
fn in_memory(path: &PathBuf) -> Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: nothing is read through the mapping.
    let map = unsafe { MmapOptions::new().map(&file) }?;
    let mut bytes = vec![0; length.div_ceil(PAGE_SIZE) as usize];
    // SAFETY: the range is that of the mapping, and there is a byte for each of its pages.
    let status = unsafe {
        libc::mincore(
            map.as_ptr().cast_mut().cast(),
            map.len(),
            bytes.as_mut_ptr(),
        )
    };
    if status != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(bytes)
}
