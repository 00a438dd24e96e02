//! Digests of many pages at once.
//!
//! BLAKE3 is fast because it hashes many 1 KiB chunks side by side, one in each lane of a vector
//! register. A page has only four chunks, so pages hashed one by one leave most lanes of a wide
//! register empty. Here the lanes are filled with the same chunk of several pages: about the
//! speed of hashing one long input. The tree is that of the BLAKE3 paper, section 2.1: four
//! chunks, two parents, a root.
//!
//! The `blake3` crate offers its lanes through `platform`, which it does not promise to keep; the
//! lock file pins it, and the tests here compare every result with `blake3::hash`.

use blake3::IncrementCounter;
use blake3::platform::Platform;
use pool_core::digest::{DIGEST_SIZE, PageId};
use pool_core::page::PAGE_SIZE;

/// A page's bytes.
pub(crate) type Page = [u8; PAGE_SIZE as usize];

/// Pages hashed side by side: the lanes of AVX-512.
const LANES: usize = 16;
const CHUNK: usize = 1024;
const BLOCK: usize = 64;
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
/// The initial value of SHA-256 and BLAKE3: fractional parts of the square roots of 2 to 19.
const KEY: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Appends the digest of each page to `out`.
pub(crate) fn digest_pages(pages: &[&Page], out: &mut Vec<PageId>) {
    let platform = Platform::detect();
    for group in pages.chunks(LANES) {
        digest_group(platform, group, out);
    }
}

fn digest_group(platform: Platform, pages: &[&Page], out: &mut Vec<PageId>) {
    let count = pages.len();
    // Two parents a page, each of two chunk digests.
    let mut nodes = [[[0u8; BLOCK]; 2]; LANES];
    let mut digests = [0u8; LANES * DIGEST_SIZE];
    for nth in 0..4 {
        let mut chunks: [&[u8; CHUNK]; LANES] = [&[0; CHUNK]; LANES];
        for (chunk, page) in chunks.iter_mut().zip(pages) {
            *chunk = page[nth * CHUNK..][..CHUNK]
                .try_into()
                .expect("a page has four chunks");
        }
        platform.hash_many(
            &chunks[..count],
            &KEY,
            nth as u64,
            IncrementCounter::No,
            0,
            CHUNK_START,
            CHUNK_END,
            &mut digests,
        );
        for (node, digest) in nodes.iter_mut().zip(digests.chunks(DIGEST_SIZE)) {
            node[nth / 2][nth % 2 * DIGEST_SIZE..][..DIGEST_SIZE].copy_from_slice(digest);
        }
    }
    let mut roots = [[0u8; BLOCK]; LANES];
    for nth in 0..2 {
        let parents = nodes.each_ref().map(|node| &node[nth]);
        hash_nodes(platform, &parents[..count], PARENT, &mut digests);
        for (root, digest) in roots.iter_mut().zip(digests.chunks(DIGEST_SIZE)) {
            root[nth * DIGEST_SIZE..][..DIGEST_SIZE].copy_from_slice(digest);
        }
    }
    hash_nodes(
        platform,
        &roots.each_ref()[..count],
        PARENT | ROOT,
        &mut digests,
    );
    let found = digests.chunks(DIGEST_SIZE).take(count);
    out.extend(found.filter_map(PageId::from_slice));
}

fn hash_nodes(platform: Platform, nodes: &[&[u8; BLOCK]], flags: u8, out: &mut [u8]) {
    platform.hash_many(nodes, &KEY, 0, IncrementCounter::No, flags, 0, 0, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_blake3() {
        let pages: Vec<Page> = (0..100u32)
            .map(|seed| {
                let mut page = [0; PAGE_SIZE as usize];
                blake3::Hasher::new()
                    .update(&seed.to_le_bytes())
                    .finalize_xof()
                    .fill(&mut page);
                page
            })
            .collect();
        for count in [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 100] {
            let pages: Vec<_> = pages[..count].iter().collect();
            let mut found = Vec::new();
            digest_pages(&pages, &mut found);
            let expected: Vec<_> = pages.iter().map(|page| PageId::of(*page)).collect();
            assert_eq!(found, expected, "{count} pages");
        }
    }
}
