//! The tables of an object, entry by entry (System V ABI, chapter 4): nothing is checked but that they are whole.
//!
//! Read here rather than by goblin, which takes several times as long for a member of an archive, and a C library has
//! two thousand.

use goblin::elf::section_header::SectionHeader;

use super::Relocation;

/// Bytes of a section header, of a symbol, and of a relocation with addend.
const HEADER: usize = 64;
const SYMBOL: usize = 24;
const RELOCATION: usize = 24;

/// An entry of a symbol table.
pub(super) struct SymbolEntry {
    /// Offset of the name in the table's string table.
    pub(super) name: usize,
    /// `STB_*`.
    pub(super) binding: u8,
    /// `STT_*`.
    pub(super) kind: u8,
    /// `STV_*`.
    pub(super) visibility: u8,
    /// `st_shndx`.
    pub(super) section: u16,
    pub(super) value: u64,
    pub(super) size: u64,
}

/// The `count` section headers at `start`; none if they are not all there.
pub(super) fn section_headers(
    bytes: &[u8],
    start: usize,
    count: usize,
) -> Option<Vec<SectionHeader>> {
    let end = start.checked_add(count.checked_mul(HEADER)?)?;
    let headers = bytes.get(start..end)?.as_chunks::<HEADER>().0.iter();
    let header = |entry: &[u8; HEADER]| SectionHeader {
        sh_name: word(entry, 0) as usize,
        sh_type: word(entry, 4),
        sh_flags: xword(entry, 8),
        sh_addr: xword(entry, 16),
        sh_offset: xword(entry, 24),
        sh_size: xword(entry, 32),
        sh_link: word(entry, 40),
        sh_info: word(entry, 44),
        sh_addralign: xword(entry, 48),
        sh_entsize: xword(entry, 56),
    };
    Some(headers.map(header).collect())
}

/// The entries of a symbol table.
pub(super) fn symbols(table: &[u8]) -> impl Iterator<Item = SymbolEntry> {
    let entries = table.as_chunks::<SYMBOL>().0.iter();
    entries.map(|entry| SymbolEntry {
        name: word(entry, 0) as usize,
        binding: entry[4] >> 4,
        kind: entry[4] & 0xf,
        visibility: entry[5] & 7,
        section: u16::from_le_bytes([entry[6], entry[7]]),
        value: xword(entry, 8),
        size: xword(entry, 16),
    })
}

/// The entries of a table of relocations. The symbols need not exist.
pub(super) fn relocations(table: &[u8]) -> impl ExactSizeIterator<Item = Relocation> {
    let entries = table.as_chunks::<RELOCATION>().0.iter();
    entries.map(|entry| Relocation {
        offset: xword(entry, 0),
        kind: word(entry, 8),
        symbol: word(entry, 12) as usize,
        addend: xword(entry, 16) as i64,
    })
}

/// The 32 bits at `at`.
fn word<const SIZE: usize>(entry: &[u8; SIZE], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&entry[at..at + 4]);
    u32::from_le_bytes(field)
}

/// The 64 bits at `at`.
fn xword<const SIZE: usize>(entry: &[u8; SIZE], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&entry[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_format_has_them() {
        let mut header = [0u8; HEADER];
        for (at, byte) in header.iter_mut().enumerate() {
            *byte = at as u8;
        }
        let headers = [[0; HEADER], header].concat();
        let read = section_headers(&headers, HEADER, 1).unwrap();
        let read = &read[0];
        assert_eq!((read.sh_name, read.sh_type), (0x0302_0100, 0x0706_0504));
        assert_eq!(read.sh_flags, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(read.sh_addr, 0x1716_1514_1312_1110);
        assert_eq!(read.sh_offset, 0x1f1e_1d1c_1b1a_1918);
        assert_eq!(read.sh_size, 0x2726_2524_2322_2120);
        assert_eq!((read.sh_link, read.sh_info), (0x2b2a_2928, 0x2f2e_2d2c));
        assert_eq!(read.sh_addralign, 0x3736_3534_3332_3130);
        assert_eq!(read.sh_entsize, 0x3f3e_3d3c_3b3a_3938);

        let symbol = symbols(&header).next().unwrap();
        assert_eq!((symbol.name, symbol.section), (0x0302_0100, 0x0706));
        assert_eq!((symbol.binding, symbol.kind, symbol.visibility), (0, 4, 5));
        assert_eq!(symbol.value, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(symbol.size, 0x1716_1514_1312_1110);

        let relocation = relocations(&header).next().unwrap();
        assert_eq!(relocation.offset, 0x0706_0504_0302_0100);
        assert_eq!(
            (relocation.kind, relocation.symbol),
            (0x0b0a_0908, 0x0f0e_0d0c)
        );
        assert_eq!(relocation.addend, 0x1716_1514_1312_1110);
    }

    #[test]
    fn what_is_not_whole_is_no_entry() {
        let bytes = [0; 2 * HEADER];
        assert_eq!(section_headers(&bytes, 0, 2).unwrap().len(), 2);
        for (start, count) in [(1, 2), (0, 3), (usize::MAX, 1), (0, usize::MAX)] {
            assert!(
                section_headers(&bytes, start, count).is_none(),
                "{start} {count}"
            );
        }
        assert_eq!(symbols(&bytes[..2 * SYMBOL + 23]).count(), 2);
        assert_eq!(relocations(&bytes[..2 * RELOCATION + 23]).len(), 2);
    }
}
