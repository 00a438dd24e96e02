//! ELF files made field by field.

/// A program header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    pub file_size: u64,
    pub memory_size: u64,
}

pub const LOAD: u32 = 1;
pub const R: u32 = 4;
pub const W: u32 = 2;
pub const X: u32 = 1;
pub const FIXED: u16 = 2;
pub const INDEPENDENT: u16 = 3;

pub fn load(flags: u32, offset: u64, address: u64, file_size: u64, memory_size: u64) -> Header {
    Header {
        kind: LOAD,
        flags,
        offset,
        address,
        file_size,
        memory_size,
    }
}

/// An ELF file of `length` bytes that do not repeat by page, with `headers` behind the ELF header.
pub fn elf(kind: u16, entry: u64, headers: &[Header], length: usize) -> Vec<u8> {
    let mut file: Vec<u8> = (0..length)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 8)) as u8 | 1)
        .collect();
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0; 64]);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &kind.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &(headers.len() as u16).to_le_bytes());
    for (at, header) in headers.iter().enumerate() {
        let at = 64 + 56 * at;
        put(at, &header.kind.to_le_bytes());
        put(at + 4, &header.flags.to_le_bytes());
        let words = [
            header.offset,
            header.address,
            header.address,
            header.file_size,
            header.memory_size,
            4096,
        ];
        for (word, value) in words.into_iter().enumerate() {
            put(at + 8 + 8 * word, &value.to_le_bytes());
        }
    }
    file
}

/// Appends a `.pool.layout` section with `json`, and the section headers that name it.
pub fn with_layout(file: Vec<u8>, json: &str) -> Vec<u8> {
    with_section(file, ".pool.layout", json.as_bytes())
}

/// Appends a section that is not loaded, and the section headers that name it.
pub fn with_section(mut file: Vec<u8>, name: &str, content: &[u8]) -> Vec<u8> {
    let string_table = format!("\0{name}\0.shstrtab\0");
    let start = file.len() as u64;
    file.extend_from_slice(content);
    let names = file.len() as u64;
    file.extend_from_slice(string_table.as_bytes());
    let table = file.len() as u64;
    let sections: [(u32, u32, u64, u64); 3] = [
        (0, 0, 0, 0),
        (1, 1, start, content.len() as u64),
        (name.len() as u32 + 2, 3, names, string_table.len() as u64),
    ];
    for (name, kind, offset, size) in sections {
        file.extend_from_slice(&name.to_le_bytes());
        file.extend_from_slice(&kind.to_le_bytes());
        for value in [0, 0, offset, size, 0, 1, 0] {
            file.extend_from_slice(&u64::to_le_bytes(value));
        }
    }
    file[40..48].copy_from_slice(&table.to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[60..62].copy_from_slice(&3u16.to_le_bytes());
    file[62..64].copy_from_slice(&2u16.to_le_bytes());
    file
}

/// An image as `pool link` leaves it: the application's text and data, and two libraries at
/// registered addresses, the second with text and rodata apart.
pub fn registered() -> Vec<u8> {
    let file = elf(
        FIXED,
        0x40_1000,
        &[
            load(R, 0, 0x40_0000, 0x1000, 0x1000),
            load(R | X, 0x1000, 0x40_1000, 0x1000, 0x1000),
            load(R | W, 0x2000, 0x60_2000, 0x1800, 0x4000),
            load(R | X, 0x4000, 0x1000_0000, 0x2000, 0x2000),
            load(R | X, 0x6000, 0x1020_0000, 0x1000, 0x1000),
            load(R, 0x7000, 0x1020_1000, 0x1000, 0x1000),
            load(R | W, 0x8000, 0x6000_0000, 0x1000, 0x3000),
        ],
        0x9000,
    );
    with_layout(file, REGISTERED_LAYOUT)
}

pub const REGISTERED_LAYOUT: &str = r#"{"format":1,"libraries":[
{"library":"lua@5.4","shared":{"start":"0x10200000","pages":2},"private":{"start":"0x60000000","pages":1}},
{"library":"musl@1.2.3","shared":{"start":"0x10000000","pages":2},"private":{"start":"0x60001000","pages":2}}
]}"#;
