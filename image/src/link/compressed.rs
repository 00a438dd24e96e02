//! Compressed debugging sections (`-gz`). Those of objects are expanded before the object is read: relocations are
//! for the bytes that such a section stands for.
//!
//! Sources: System V ABI, "Section Compression" (`SHF_COMPRESSED`); binutils, `bfd/compress.c`, for `.zdebug_*` of
//! older tools, whose contents begin with `ZLIB` and the size.

use goblin::elf::compression_header::{ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD};
use goblin::elf::section_header::{SHF_ALLOC, SHF_COMPRESSED};
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use ruzstd::encoding::CompressionLevel;

use super::args::Compression;
use super::error::LinkError;
use super::object;

/// Bytes of a section header, and where in it its fields are.
const HEADER_SIZE: usize = 64;
const FLAGS: usize = 8;
const OFFSET: usize = 24;
const SIZE: usize = 32;
const ALIGNMENT: usize = 48;
/// Bytes before a compressed section's contents.
const PREFIX: usize = 24;
const OLD_PREFIX: usize = 12;
/// Alignment of a compressed section.
pub(super) const ALIGNMENT_COMPRESSED: u64 = 8;
/// Larger ones are refused wherever they are.
const MAX_SIZE: u64 = 1 << 31;

/// The object in `bytes` with all its sections as they are uncompressed, if any of them is not.
/// What is no object of sections is left to whoever reads it.
pub(super) fn expand(name: &str, bytes: &[u8]) -> Result<Option<Vec<u8>>, LinkError> {
    let Some(headers) = headers(bytes) else {
        return Ok(None);
    };
    let mut expanded: Option<Vec<u8>> = None;
    for header in headers.places() {
        let Some(section) = Compressed::of(bytes, &headers, header) else {
            continue;
        };
        let contents = section.expand().map_err(|problem| {
            LinkError::input(
                name,
                format!(
                    "damaged object file: compressed section {}: {problem}; compile it again",
                    section.name
                ),
            )
        })?;
        let file = expanded.get_or_insert_with(|| bytes.to_vec());
        file.resize(file.len().next_multiple_of(16), 0);
        let offset = file.len() as u64;
        let size = contents.len() as u64;
        file.extend(contents);
        let mut set = |field: usize, value: u64| {
            file[header + field..header + field + 8].copy_from_slice(&value.to_le_bytes());
        };
        set(FLAGS, section.flags & !u64::from(SHF_COMPRESSED));
        set(OFFSET, offset);
        set(SIZE, size);
        set(ALIGNMENT, section.alignment);
        if let Some(at) = section.renamed {
            // `.zdebug_info` becomes `..debug_info`, the name begins at the second point.
            file[at + 1] = b'.';
            let name = number(bytes, header, 4).unwrap_or(0) as u32 + 1;
            file[header..header + 4].copy_from_slice(&name.to_le_bytes());
        }
    }
    Ok(expanded)
}

/// Where section headers and their names are.
struct Headers {
    start: usize,
    count: usize,
    names: usize,
}

impl Headers {
    fn places(&self) -> impl Iterator<Item = usize> {
        let start = self.start;
        (0..self.count).map(move |index| start + index * HEADER_SIZE)
    }

    /// Where the section's name is, and the name.
    fn name<'b>(&self, bytes: &'b [u8], header: usize) -> Option<(usize, &'b str)> {
        let at = self.names.checked_add(number(bytes, header, 4)? as usize)?;
        let rest = bytes.get(at..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        Some((at, std::str::from_utf8(&rest[..end]).ok()?))
    }
}

fn headers(bytes: &[u8]) -> Option<Headers> {
    if object::is_foreign(bytes) {
        return None;
    }
    let start = usize::try_from(number(bytes, 40, 8)?).ok()?;
    let count = match number(bytes, 60, 2)? {
        // There are more than the field can say.
        0 => number(bytes, start.checked_add(SIZE)?, 8)?,
        count => count,
    };
    let count = usize::try_from(count).ok()?;
    bytes.get(start..start.checked_add(count.checked_mul(HEADER_SIZE)?)?)?;
    let names = match number(bytes, 62, 2)? {
        0xffff => number(bytes, start + 40, 4)?,
        index => index,
    };
    let names = start.checked_add(usize::try_from(names).ok()?.checked_mul(HEADER_SIZE)?)?;
    let names = usize::try_from(number(bytes, names.checked_add(OFFSET)?, 8)?).ok()?;
    Some(Headers {
        start,
        count,
        names,
    })
}

/// The little-endian number of `size` bytes at `at`.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    let mut whole = [0; 8];
    whole.get_mut(..size)?.copy_from_slice(field);
    Some(u64::from_le_bytes(whole))
}

struct Compressed<'b> {
    name: &'b str,
    flags: u64,
    kind: u32,
    /// Bytes and alignment that it stands for.
    size: u64,
    alignment: u64,
    bytes: &'b [u8],
    /// Where its name is, if that tells of the compression.
    renamed: Option<usize>,
}

impl<'b> Compressed<'b> {
    fn of(bytes: &'b [u8], headers: &Headers, header: usize) -> Option<Self> {
        let flags = number(bytes, header + FLAGS, 8)?;
        if flags & u64::from(SHF_ALLOC) != 0 {
            return None;
        }
        let (at, name) = headers.name(bytes, header)?;
        let start = usize::try_from(number(bytes, header + OFFSET, 8)?).ok()?;
        let size = usize::try_from(number(bytes, header + SIZE, 8)?).ok()?;
        let contents = bytes.get(start..start.checked_add(size)?)?;
        if flags & u64::from(SHF_COMPRESSED) != 0 {
            return Some(Self {
                name,
                flags,
                kind: number(contents, 0, 4)? as u32,
                size: number(contents, 8, 8)?,
                alignment: number(contents, 16, 8)?,
                bytes: contents.get(PREFIX..)?,
                renamed: None,
            });
        }
        if !name.starts_with(".zdebug") || !contents.starts_with(b"ZLIB") {
            return None;
        }
        let size = contents.get(4..OLD_PREFIX)?;
        Some(Self {
            name,
            flags,
            kind: ELFCOMPRESS_ZLIB,
            size: u64::from_be_bytes(size.try_into().ok()?),
            alignment: number(bytes, header + ALIGNMENT, 8)?,
            bytes: contents.get(OLD_PREFIX..)?,
            renamed: Some(at),
        })
    }

    fn expand(&self) -> Result<Vec<u8>, String> {
        if self.size > MAX_SIZE {
            return Err(format!("would have {} bytes", self.size));
        }
        let size = self.size as usize;
        let contents = match self.kind {
            ELFCOMPRESS_ZLIB => decompress_to_vec_zlib_with_limit(self.bytes, size)
                .map_err(|error| error.to_string())?,
            ELFCOMPRESS_ZSTD => from_zstd(self.bytes, size)?,
            other => return Err(format!("of the unknown kind {other}")),
        };
        if contents.len() != size {
            return Err(format!("has {} bytes instead of {size}", contents.len()));
        }
        Ok(contents)
    }
}

/// `contents` compressed, if that is shorter.
pub(super) fn of(kind: Compression, contents: &[u8], alignment: u64) -> Option<Vec<u8>> {
    // As fast as it goes, as other linkers do.
    const LEVEL: u8 = 1;
    let (kind, stored) = match kind {
        Compression::Zlib => (ELFCOMPRESS_ZLIB, compress_to_vec_zlib(contents, LEVEL)),
        Compression::Zstd => {
            let level = CompressionLevel::Fastest;
            let stored = ruzstd::encoding::compress_to_vec(contents, level);
            (ELFCOMPRESS_ZSTD, stored)
        }
    };
    let mut bytes = Vec::with_capacity(PREFIX + stored.len());
    bytes.extend(u64::from(kind).to_le_bytes());
    bytes.extend((contents.len() as u64).to_le_bytes());
    bytes.extend(alignment.to_le_bytes());
    bytes.extend(stored);
    (bytes.len() < contents.len()).then_some(bytes)
}

fn from_zstd(mut bytes: &[u8], size: usize) -> Result<Vec<u8>, String> {
    use std::io::Read as _;

    let mut contents = Vec::new();
    // There may be several frames.
    while !bytes.is_empty() && contents.len() <= size {
        let frame =
            ruzstd::decoding::StreamingDecoder::new(&mut bytes).map_err(|e| e.to_string())?;
        let most = (size - contents.len()) as u64 + 1;
        frame
            .take(most)
            .read_to_end(&mut contents)
            .map_err(|e| e.to_string())?;
    }
    Ok(contents)
}
