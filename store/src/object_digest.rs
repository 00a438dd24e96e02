//! The digest of a whole object, by a thread for each processor.
//!
//! BLAKE3 is a tree (section 2.1 of its paper): subtrees can be hashed by themselves, in any order, and their chaining
//! values are put together as parents are.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use pool_core::digest::ObjectId;

use crate::parallel;

/// Bytes of a subtree that is hashed by itself, a power of two: enough for the widest registers, and few enough to be divided
/// among processors.
const PIECE: usize = 1 << 20;

/// Digest of an object's content.
pub(crate) fn object_id(content: &[u8]) -> ObjectId {
    digest(content, parallel::threads_for(content.len()))
}

fn digest(content: &[u8], threads: usize) -> ObjectId {
    if threads == 1 || content.len() <= PIECE {
        return ObjectId::of(content);
    }
    let offsets = (0..).step_by(PIECE);
    let pieces: Vec<(u64, &[u8])> = offsets.zip(content.chunks(PIECE)).collect();
    let nodes = parallel::in_parts(&pieces, threads, |pieces| {
        let nodes = pieces.iter().map(|(offset, bytes)| subtree(*offset, bytes));
        nodes.collect()
    });
    let (left, right) = halves(&nodes);
    ObjectId::from(merge_subtrees_root(
        &merged(left),
        &merged(right),
        Mode::Hash,
    ))
}

/// The chaining value of a piece.
fn subtree(offset: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    hasher.finalize_non_root()
}

/// The chaining value of consecutive pieces.
fn merged(nodes: &[ChainingValue]) -> ChainingValue {
    if let [node] = nodes {
        return *node;
    }
    let (left, right) = halves(nodes);
    merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
}

/// The left subtree has as many chunks as it can, a power of two, that leave something for the right one. Of pieces that
/// are such a power themselves the same holds of their number. There are two at least.
fn halves(nodes: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    nodes.split_at(nodes.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_blake3() {
        let mut content = vec![0; 9 * PIECE + 5000];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        let around = |at: usize| [at - 1, at, at + 1];
        let whole = (1..=9).flat_map(|pieces| around(pieces * PIECE));
        let lengths = [0, 1, 1024, 4096].into_iter().chain(whole);
        for length in lengths.chain([PIECE + 1024, 3 * PIECE - 1024, content.len()]) {
            let content = &content[..length];
            for threads in [1, 2, 3] {
                let found = digest(content, threads);
                assert_eq!(found, ObjectId::of(content), "{length} bytes");
            }
        }
    }
}
