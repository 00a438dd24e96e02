//! Bytes to store that are the same in every run.

/// Bytes of a page.
const PAGE: usize = 4096;

/// `pages` pages that differ from each other and from those of every other seed.
pub fn content(seed: u64, pages: usize) -> Vec<u8> {
    let mut bytes = vec![0; pages * PAGE];
    let mut stream = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    stream.fill(&mut bytes);
    bytes
}
