//! A program in one layout: which of its pages are of libraries, and where the pool keeps them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pool_core::description::{Range, RangeKind};
use pool_core::image_map::ImageMap;
use pool_core::page::is_zero;
use pool_core::registry::SHARED_START;
use pool_core::{PAGE_SIZE, PageId};
use pool_image::describe::describe;
use pool_image::layout::LayoutKind;
use pool_tests::host::Host;

use crate::measure::cached::Slots;

/// A page that is stored.
struct Page {
    address: u64,
    content: PageId,
    is_librarys: bool,
}

/// A linked program.
pub(super) struct Image {
    pub(super) path: PathBuf,
    pages: Vec<Page>,
}

impl Image {
    /// Reads what `apps/build --layouts` has left in `linked`.
    pub(super) fn read(linked: &Path, name: &str, kind: LayoutKind) -> Result<Self> {
        let path = linked.join(format!("{name}.{}", kind.name()));
        let file = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let image = describe(&file).with_context(|| format!("describing {}", path.display()))?;
        let map = |kind: LayoutKind| -> Result<String> {
            let path = linked.join(format!("{name}.{}.map", kind.name()));
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let of_libraries = if kind.has_libraries() {
            HashSet::new()
        } else {
            pages_of(&map(kind)?, &libraries(&map(LayoutKind::Pool)?))
        };
        let mut pages = Vec::new();
        for range in &image.description.ranges {
            let Some(source) = range.source else { continue };
            let object = image.object(&source.object);
            let object = object.context("a range of no object")?;
            let skipped = (source.offset / PAGE_SIZE) as usize;
            let addresses = (range.address.0..range.end().0).step_by(PAGE_SIZE as usize);
            for (address, page) in addresses.zip(object.content.pages().skip(skipped)) {
                if !is_zero(page) {
                    let is_apart = kind.has_libraries() && address >= SHARED_START.0;
                    pages.push(Page {
                        address,
                        content: PageId::of(page),
                        is_librarys: range.kind == RangeKind::Shared
                            && (is_apart || of_libraries.contains(&address)),
                    });
                }
            }
        }
        Ok(Self { path, pages })
    }

    /// Contents of libraries' code and constants.
    pub(super) fn libraries(&self) -> impl Iterator<Item = PageId> + '_ {
        let of_libraries = self.pages.iter().filter(|page| page.is_librarys);
        of_libraries.map(|page| page.content)
    }

    /// Contents of all pages that are stored.
    pub(super) fn all(&self) -> impl Iterator<Item = PageId> + '_ {
        self.pages.iter().map(|page| page.content)
    }

    /// Where the pool of `host` keeps libraries' pages, and all.
    pub(super) fn slots(&self, host: &Host, name: &str) -> Result<(Slots, Slots)> {
        let path = host.mount_point().join("images").join(name).join("v1/map");
        let map = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let map = ImageMap::from_json(&map)?;
        let (mut libraries, mut all) = (Slots::new(), Slots::new());
        let of_libraries = self.pages.iter().filter(|page| page.is_librarys);
        let of_libraries: HashSet<u64> = of_libraries.map(|page| page.address).collect();
        for range in &map.description.ranges {
            for (address, slot) in slots_of(&map, range) {
                all.insert(slot);
                if of_libraries.contains(&address) {
                    libraries.insert(slot);
                }
            }
        }
        Ok((libraries, all))
    }
}

/// Addresses of a range's pages that are stored, each with where.
fn slots_of<'m>(
    map: &'m ImageMap,
    range: &'m Range,
) -> impl Iterator<Item = (u64, <Slots as IntoIterator>::Item)> + 'm {
    let source = range.source.into_iter();
    source.flat_map(move |source| {
        let first = source.offset / PAGE_SIZE;
        let extents = map.objects.get(&source.object).into_iter();
        let extents = extents.flat_map(move |all| all.slice(first, range.length / PAGE_SIZE));
        extents.flat_map(move |extent| {
            (0..u64::from(extent.count)).map(move |nth| {
                let page = extent.file_page + nth - first;
                let slot = (extent.segment, u64::from(extent.slot.0) + nth);
                (range.address.0 + page * PAGE_SIZE, slot)
            })
        })
    })
}

/// The archives that are libraries by a link map: each part but the application's begins with its name and its archive.
fn libraries(map: &str) -> HashSet<&str> {
    let parts = map.lines().filter(|line| !line.starts_with(' '));
    let of_libraries = parts.filter(|line| !line.starts_with("the application"));
    of_libraries
        .filter_map(|line| Some(line.split_once(" (")?.1.rsplit_once(')')?.0))
        .collect()
}

/// Addresses of pages on which something of `archives` lies, by a link map: address, bytes, section, and member.
fn pages_of(map: &str, archives: &HashSet<&str>) -> HashSet<u64> {
    let mut pages = HashSet::new();
    for line in map.lines().filter(|line| line.starts_with("  0x")) {
        let mut words = line.split_whitespace();
        let number = |word: Option<&str>| {
            let digits = word?.strip_prefix("0x")?;
            u64::from_str_radix(digits, 16).ok()
        };
        let (Some(start), Some(size)) = (number(words.next()), number(words.next())) else {
            continue;
        };
        let member = words.nth(1).unwrap_or_default();
        let archive = member.split_once('(').map_or("", |(archive, _)| archive);
        if archives.contains(archive) {
            let first = start - start % PAGE_SIZE;
            pages.extend((first..start + size).step_by(PAGE_SIZE as usize));
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "the application ()\n  0x00400000   0x10 .text  main.o\n\
                        c (/l/libc.a), with what it has of c@1 where it was\n  0x10000000   0x10 .text  /l/libc.a(puts.o)\n";
    const DEFAULT: &str = "the application ()\n  0x00400ff0   0x20 .text                    /l/libc.a(puts.o)\n  \
                           0x00402000   0x20 .text   own.a(x.o)\n  0x00403000   0x1 .text   main.o\n";

    #[test]
    fn a_map_says_which_pages_are_of_libraries() {
        let archives = libraries(POOL);
        assert_eq!(archives, HashSet::from(["/l/libc.a"]));
        assert_eq!(
            pages_of(DEFAULT, &archives),
            HashSet::from([0x40_0000, 0x40_1000])
        );
    }
}
