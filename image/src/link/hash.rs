//! Tables whose keys nobody chooses to do harm: who links a file runs it afterwards.

use rustc_hash::FxBuildHasher;

/// Quicker than the standard library's for names and small numbers, and in the same order in every run.
pub(super) type HashMap<K, V> = std::collections::HashMap<K, V, FxBuildHasher>;
/// See [`HashMap`].
pub(super) type HashSet<K> = std::collections::HashSet<K, FxBuildHasher>;

/// An empty table with room for `capacity` keys.
pub(super) fn map_with_capacity<K, V>(capacity: usize) -> HashMap<K, V> {
    HashMap::with_capacity_and_hasher(capacity, FxBuildHasher)
}
