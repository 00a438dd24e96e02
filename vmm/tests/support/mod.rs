//! A directory of the shape that a mounted pool has, made from static executables: enough for a
//! VMM, which only reads `images/NAME/TAG/map` and `segments/ID`.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use goblin::elf::{Elf, program_header};
use pool_core::address::Protection;
use pool_core::description::{
    Abi, DESCRIPTION_FORMAT, Description, FileIdentity, Layout, ProgramHeaders, Range, RangeKind,
    Source,
};
use pool_core::image_map::{IMAGE_MAP_FORMAT, ImageMap};
use pool_core::page::is_zero;
use pool_core::{
    Extent, ExtentMap, GuestAddress, ObjectId, PAGE_SIZE, PAGES_PER_WINDOW, SegmentId, Slot,
    WINDOW_SIZE,
};

const PAGE: usize = PAGE_SIZE as usize;

/// How objects are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Each window of addresses owns a window of the segment.
    Dense,
    /// Pages anywhere, here at odd places.
    Sparse,
}

/// A pool on disk.
#[derive(Debug)]
pub struct TestPool {
    pub root: PathBuf,
    next_segment: u32,
}

impl TestPool {
    /// An empty pool in `root`.
    pub fn new(root: &Path) -> Self {
        fs::create_dir_all(root.join("images")).unwrap();
        fs::create_dir_all(root.join("segments")).unwrap();
        Self {
            root: root.to_owned(),
            next_segment: 1,
        }
    }

    /// Adds the executable at `path` as image `name:v1`, a segment for it alone.
    pub fn add(&mut self, path: &Path, name: &str, placement: Placement) -> ImageMap {
        let map = self.map_of(path, placement);
        self.write_map(name, &map);
        map
    }

    /// Writes a map as `images/NAME/v1/map`.
    pub fn write_map(&self, name: &str, map: &ImageMap) {
        let directory = self.root.join("images").join(name).join("v1");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("map"), serde_json::to_vec(map).unwrap()).unwrap();
    }

    fn map_of(&mut self, path: &Path, placement: Placement) -> ImageMap {
        let file = fs::read(path).unwrap();
        let elf = Elf::parse(&file).unwrap();
        let bias = if elf.header.e_type == goblin::elf::header::ET_DYN {
            0x40_0000
        } else {
            0
        };
        let (pages, headers) = load(&elf, &file, bias);
        let mut shared = View::default();
        let mut private = View::default();
        let mut ranges: Vec<Range> = Vec::new();
        for (&address, page) in &pages {
            let view = match page.kind {
                RangeKind::Shared => Some(&mut shared),
                RangeKind::Private => Some(&mut private),
                RangeKind::Zero => None,
            };
            let offset = view.map(|view| view.push(address, &page.bytes));
            extend(&mut ranges, address, page, offset);
        }
        let mut objects = BTreeMap::new();
        let mut segment = SegmentWriter::create(&self.root, self.next_segment);
        self.next_segment += 1;
        for (view, kind) in [(shared, RangeKind::Shared), (private, RangeKind::Private)] {
            if view.bytes.is_empty() {
                continue;
            }
            let id = ObjectId::of(&view.bytes);
            let dense = placement == Placement::Dense && kind == RangeKind::Shared;
            let extents = segment.place(&view, dense);
            let length = view.bytes.len() as u64;
            objects.insert(id, ExtentMap::new(length, extents).unwrap());
            for range in ranges.iter_mut().filter(|range| range.kind == kind) {
                if let Some(source) = &mut range.source {
                    source.object = id;
                }
            }
        }
        segment.finish();
        ImageMap {
            format: IMAGE_MAP_FORMAT,
            description: Description {
                format: DESCRIPTION_FORMAT,
                image: FileIdentity {
                    digest: ObjectId::of(&file),
                    length: file.len() as u64,
                },
                abi: Abi::Linux,
                layout: Layout::Own,
                load_bias: bias,
                entry: GuestAddress(elf.header.e_entry + bias),
                program_headers: headers,
                executable_stack: executable_stack(&elf),
                slide: None,
                libraries: vec![],
                ranges,
            },
            objects,
        }
    }
}

fn executable_stack(elf: &Elf<'_>) -> bool {
    let mut headers = elf.program_headers.iter().rev();
    headers
        .find(|header| header.p_type == program_header::PT_GNU_STACK)
        .is_some_and(goblin::elf::ProgramHeader::is_executable)
}

struct Page {
    bytes: Vec<u8>,
    protection: Protection,
    kind: RangeKind,
}

fn load(elf: &Elf<'_>, file: &[u8], bias: u64) -> (BTreeMap<u64, Page>, Option<ProgramHeaders>) {
    let mut pages: BTreeMap<u64, Page> = BTreeMap::new();
    let mut headers = None;
    for segment in elf
        .program_headers
        .iter()
        .filter(|h| h.p_type == program_header::PT_LOAD)
    {
        let start = (segment.p_vaddr + bias) & !(PAGE_SIZE - 1);
        let end = segment.p_vaddr + bias + segment.p_memsz;
        let filled = segment.p_vaddr + bias + segment.p_filesz;
        let write = segment.is_write();
        let header_offset = elf.header.e_phoff;
        if (segment.p_offset..segment.p_offset + segment.p_filesz).contains(&header_offset) {
            headers = Some(ProgramHeaders {
                address: GuestAddress(segment.p_vaddr + bias + header_offset - segment.p_offset),
                count: elf.header.e_phnum,
            });
        }
        let mut at = start;
        while at < end {
            let kind = if at >= filled.next_multiple_of(PAGE_SIZE) {
                RangeKind::Zero
            } else if write {
                RangeKind::Private
            } else {
                RangeKind::Shared
            };
            let page = pages.entry(at).or_insert_with(|| Page {
                bytes: vec![0; PAGE],
                protection: Protection {
                    read: true,
                    write,
                    execute: false,
                },
                kind,
            });
            page.protection.execute |= segment.is_executable();
            let from = at.max(segment.p_vaddr + bias);
            let to = (at + PAGE_SIZE).min(filled);
            if from < to {
                let offset = (segment.p_offset + (from - bias) - segment.p_vaddr) as usize;
                page.bytes[(from - at) as usize..(to - at) as usize]
                    .copy_from_slice(&file[offset..offset + (to - from) as usize]);
            }
            at += PAGE_SIZE;
        }
    }
    (pages, headers)
}

fn extend(ranges: &mut Vec<Range>, address: u64, page: &Page, offset: Option<u64>) {
    if let Some(last) = ranges.last_mut() {
        let continues = last.end().0 == address
            && last.kind == page.kind
            && last.protection == page.protection
            && last.source.map(|source| source.offset + last.length) == offset;
        if continues {
            last.length += PAGE_SIZE;
            return;
        }
    }
    ranges.push(Range {
        address: GuestAddress(address),
        length: PAGE_SIZE,
        protection: page.protection,
        kind: page.kind,
        source: offset.map(|offset| Source {
            object: ObjectId([0; 32]),
            offset,
        }),
        library: None,
    });
}

/// The pages of one object, in order, each with the address it is mapped at.
#[derive(Default)]
struct View {
    bytes: Vec<u8>,
    addresses: Vec<u64>,
}

impl View {
    fn push(&mut self, address: u64, page: &[u8]) -> u64 {
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(page);
        self.addresses.push(address);
        offset
    }
}

/// Writes a segment in aligned 2 MiB chunks, so that the page cache holds 2 MiB folios.
struct SegmentWriter {
    file: File,
    id: SegmentId,
    windows: Vec<Vec<u8>>,
    next_sparse: u64,
}

impl SegmentWriter {
    fn create(root: &Path, id: u32) -> Self {
        let id = SegmentId(id);
        let path = root.join("segments").join(id.to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .unwrap();
        Self {
            file,
            id,
            windows: Vec::new(),
            next_sparse: 0,
        }
    }

    fn place(&mut self, view: &View, dense: bool) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut owned: BTreeMap<u64, u64> = BTreeMap::new();
        if !dense {
            self.next_sparse = self.windows.len() as u64 * PAGES_PER_WINDOW;
        }
        for (at, page) in view.bytes.chunks(PAGE).enumerate() {
            if is_zero(page) {
                continue;
            }
            let address = GuestAddress(view.addresses[at]);
            let slot = if dense {
                let next = self.windows.len() as u64;
                let window = *owned.entry(address.window().0).or_insert(next);
                window * PAGES_PER_WINDOW + address.page_in_window()
            } else {
                // A page left out now and then, so that runs break.
                self.next_sparse += if at % 7 == 3 { 2 } else { 1 };
                self.next_sparse
            };
            self.put(slot, page);
            extents.push(Extent {
                file_page: at as u64,
                segment: self.id,
                slot: Slot(slot as u32),
                count: 1,
                dense,
            });
        }
        extents
    }

    fn put(&mut self, slot: u64, page: &[u8]) {
        let (window, at) = (slot / PAGES_PER_WINDOW, slot % PAGES_PER_WINDOW);
        while self.windows.len() as u64 <= window {
            self.windows.push(vec![0; WINDOW_SIZE as usize]);
        }
        let at = at as usize * PAGE;
        self.windows[window as usize][at..at + PAGE].copy_from_slice(page);
    }

    fn finish(self) {
        for (at, window) in self.windows.iter().enumerate() {
            self.file
                .write_all_at(window, at as u64 * WINDOW_SIZE)
                .unwrap();
        }
        self.file.sync_data().unwrap();
    }
}

/// Compiles C `source` to a static executable with `compiler` and `flags`.
pub fn compile(
    directory: &Path,
    name: &str,
    compiler: &str,
    flags: &[&str],
    source: &str,
) -> PathBuf {
    let input = directory.join(format!("{name}.c"));
    fs::write(&input, source).unwrap();
    let output = directory.join(name);
    let done = Command::new(compiler)
        .arg("-O1")
        .args((!flags.contains(&"-static-pie")).then_some("-static"))
        .arg("-o")
        .arg(&output)
        .arg(&input)
        .args(flags)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    output
}
