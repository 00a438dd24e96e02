//! What RocksDB is told: families, sizes, how a log is recovered, who opens what.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    DataBlockIndexType, LogLevel, Options,
};

use super::failed;
use crate::error::Result;

pub(super) const META: &str = "meta";
pub(super) const PAGES: &str = "pages";
pub(super) const WINDOWS: &str = "windows";
pub(super) const OBJECTS: &str = "objects";
pub(super) const LIBRARIES: &str = "libraries";
pub(super) const TAGS: &str = "tags";
pub(super) const MANIFESTS: &str = "manifests";
pub(super) const REFERENCES: &str = "references";
pub(super) const SEGMENTS: &str = "segments";
pub(super) const REGISTRY: &str = "registry";
pub(super) const TOKENS: &str = "tokens";
pub(super) const FAMILIES: [&str; 11] = [
    META, PAGES, WINDOWS, OBJECTS, LIBRARIES, TAGS, MANIFESTS, REFERENCES, SEGMENTS, REGISTRY,
    TOKENS,
];

/// What the log holds at most.
pub(super) const LOG: u64 = 64 << 20;

/// What RocksDB tells of its own work, at most, and as much of what it told before.
const TOLD: usize = 4 << 20;

/// What a family keeps in memory before it is written to a table. RocksDB sets this much aside for
/// the log beforehand, and after a write that found the disk full it waits for this much room.
pub(super) const ROOM: u64 = 16 << 20;

/// Blocks of tables that are kept in memory, of all families together, at most. The kernel has the files in memory as well, and a
/// look-up that finds its block there costs little more: with four times as much for 4 million pages it was no faster.
const CACHE: usize = 64 << 20;

/// What the filter of a family's memory takes of it: some 16 bits a page.
const FILTERED: f64 = 0.02;

pub(super) fn families() -> Vec<ColumnFamilyDescriptor> {
    // Looked up without a lock, and with fewer places in memory touched than an LRU list has. Blocks may be of any size.
    let cache = Cache::new_hyper_clock_cache(CACHE, 0);
    let describe = |name: &str| {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&cache);
        let mut options = family_options();
        if matches!(name, PAGES | WINDOWS) {
            // Digests do not compress, and most look-ups of an upload are for pages not there.
            blocks.set_bloom_filter(10.0, false);
            options.set_memtable_prefix_bloom_ratio(FILTERED);
            options.set_memtable_whole_key_filtering(true);
            options.set_compression_type(DBCompressionType::None);
            // One key after another is asked for, none near the last: in a block it is found by its hash, with few
            // others decoded on the way, for 2 bytes a page.
            blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            blocks.set_block_restart_interval(4);
        } else {
            options.set_compression_type(DBCompressionType::Lz4);
        }
        options.set_block_based_table_factory(&blocks);
        ColumnFamilyDescriptor::new(name, options)
    };
    std::iter::once(ColumnFamilyDescriptor::new("default", family_options()))
        .chain(FAMILIES.map(describe))
        .collect()
}

pub(super) fn family_options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(ROOM as usize);
    options
}

pub(super) fn options() -> Options {
    let mut options = Options::default();
    // Whatever a power cut leaves of an unfinished record is accepted, and nothing after it. That
    // no commit is lost by this is checked against the mark.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_log_file_size(TOLD);
    options.set_keep_log_file_num(2);
    options
}

pub(super) fn primary_options() -> Options {
    let mut options = options();
    // Bounds what a restart replays, and a new follower reads.
    options.set_max_total_wal_size(LOG);
    // All families are written out at once, so that a list of tables that lost its end is behind in
    // all of them, and the count of commits with it.
    options.set_atomic_flush(true);
    options
}

/// What a follower's index has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Followed {
    /// All of it.
    Whole,
    /// Not where single pages and windows are. Of these there are more than of everything else together, and uploads and collections change very
    /// many: a reader who does not ask for them neither waits for that nor has it in memory.
    WithoutPages,
}

impl Followed {
    pub(super) fn has(self, family: &str) -> bool {
        self == Self::Whole || !matches!(family, PAGES | WINDOWS)
    }
}

pub(super) fn secondary(path: &Path, scratch: &Path, followed: Followed) -> Result<DB> {
    let mut options = options();
    // A reader must hold every table open: the primary deletes compacted ones.
    options.set_max_open_files(-1);
    // RocksDB starts so many threads for each family at each catch-up.
    options.set_max_file_opening_threads(1);
    // Each catch-up would be told, in a place that may be memory.
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(1);
    let mut opened = families();
    opened.retain(|family| followed.has(family.name()));
    DB::open_cf_descriptors_as_secondary(&options, path, scratch, opened)
        .map_err(|source| failed("opening", source))
}
