//! Properties of any input: nothing panics, and whatever is accepted can be loaded as its segments
//! say and put together again.

// Parts of tests may unwrap as tests may.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use common::handmade::{FIXED, Header, INDEPENDENT, X, elf, load, registered};
use common::memory::{assert_same, described, interpreted};
use common::programs::programs;
use pool_core::ObjectId;
use pool_core::description::Description;
use pool_image::describe::{ObjectRole, describe};
use pool_image::extract::extract;
use pool_image::inspect::inspect;
use pool_image::minify::{Minified, MinifyError, minify, restore};
use proptest::collection::vec;
use proptest::prelude::*;

/// All that can be done with a file; checks what must hold of an accepted one.
fn use_up(file: &[u8]) -> bool {
    let Ok(image) = describe(file) else {
        return false;
    };
    let json = image.description.to_json();
    assert_eq!(Description::from_json(&json).unwrap(), image.description);
    let report = inspect(&image);
    assert!(!report.to_string().is_empty());
    assert!(extract(&image).iter().all(|f| !f.name.contains('/')));
    let pool = pool_of(file);
    let minified = minify(&image);
    assert_eq!(minified.len() as u64, report.minified_length);
    assert!(restore(&minified, |id| pool.get(id)).unwrap() == file);
    true
}

/// The objects that stay in the pool when an image is minified.
fn pool_of(file: &[u8]) -> BTreeMap<ObjectId, Vec<u8>> {
    let image = describe(file).unwrap();
    image
        .objects
        .iter()
        .filter(|object| matches!(object.role, ObjectRole::Code | ObjectRole::Library(_)))
        .map(|object| (object.id, object.content.bytes().into_owned()))
        .collect()
}

/// A real program and a hand-made one with a layout.
static VALID: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut programs = programs().all;
    programs.retain(|program| program.name.starts_with("musl"));
    let mut files: Vec<_> = programs.into_iter().map(|program| program.bytes).collect();
    files.push(registered());
    files
});

/// Positions that matter: mostly in the headers, some anywhere.
fn position() -> impl Strategy<Value = prop::sample::Index> {
    any::<prop::sample::Index>()
}

/// A number near those that decide things.
fn number() -> impl Strategy<Value = u64> {
    let borders = prop::sample::select(vec![
        0,
        1,
        56,
        0x1000,
        0x1_0000,
        0x40_0000,
        0x1000_0000,
        1 << 32,
        1 << 47,
        1 << 63,
        u64::MAX,
    ]);
    (borders, -4097i64..4097).prop_map(|(near, by)| near.wrapping_add_signed(by))
}

/// Flags, offset, gap before, bytes in the file, further bytes in memory. Small gaps and sizes of
/// zero make segments share pages.
fn segment() -> impl Strategy<Value = (u32, u64, u64, u64, u64)> {
    let gap = prop_oneof![0u64..0x400, 0u64..0x3000];
    let size = prop_oneof![1 => Just(0u64), 3 => 0u64..0x4000];
    let more = prop_oneof![Just(0u64), 0u64..0x3000];
    (0u32..8, 0u64..0x5000, gap, size, more)
}

/// Segments one behind the other in memory, each with bytes that the file has.
fn place(congruent: bool, parts: &[(u32, u64, u64, u64, u64)], length: u64) -> Vec<Header> {
    let mut address = 0x40_0000;
    // A file that is loaded more than twice over is refused.
    let mut left = 2 * length;
    let mut headers = Vec::new();
    for &(flags, offset, gap, file_size, more) in parts {
        let offset = offset.min(length);
        let file_size = file_size.min(length - offset).min(left);
        left -= file_size;
        address += gap;
        if congruent && file_size > 0 {
            address += offset.wrapping_sub(address) % 4096;
        }
        headers.push(load(flags, offset, address, file_size, file_size + more));
        address += file_size + more;
    }
    headers
}

/// Makes the first page of a segment executable, whichever of those that share it comes last, and
/// answers with an address in it.
fn make_executable(headers: &mut [Header], at: usize) -> u64 {
    let chosen = headers[at];
    if chosen.memory_size == 0 {
        // The address of an empty segment may be the next one's; only memory can be executed.
        let rest = headers[at + 1..].iter().position(|h| h.memory_size > 0);
        if let Some(next) = rest {
            return make_executable(headers, at + 1 + next);
        }
        headers[at].memory_size = 1;
    }
    let entry = chosen.address;
    for header in &mut headers[at..] {
        if header.address / 4096 == entry / 4096 {
            header.flags |= X;
        }
    }
    entry
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_changed_anywhere_never_panic(
        file in 0usize..4,
        in_headers in vec((0usize..0x200, any::<u8>()), 0..4),
        anywhere in vec((position(), any::<u8>()), 0..4),
    ) {
        let mut bytes = VALID[file].clone();
        for (at, byte) in in_headers {
            bytes[at] = byte;
        }
        let length = bytes.len();
        for (at, byte) in anywhere {
            bytes[at.index(length)] = byte;
        }
        use_up(&bytes);
    }

    #[test]
    fn header_fields_of_any_size_never_panic(
        file in 0usize..4,
        words in vec((4usize..70, number()), 1..3),
        section_words in vec((0usize..24, number()), 0..3),
    ) {
        let mut bytes = VALID[file].clone();
        let table = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
        for (word, value) in words {
            bytes[8 * word..8 * word + 8].copy_from_slice(&value.to_le_bytes());
        }
        for (word, value) in section_words {
            let at = table + 8 * word;
            if let Some(field) = bytes.get_mut(at..at + 8) {
                field.copy_from_slice(&value.to_le_bytes());
            }
        }
        use_up(&bytes);
    }

    #[test]
    fn layouts_changed_anywhere_never_panic(changes in vec((0x9000usize..0x9200, any::<u8>()), 1..3)) {
        let mut bytes = registered();
        let length = bytes.len();
        for (at, byte) in changes {
            bytes[at.min(length - 1)] = byte;
        }
        use_up(&bytes);
    }

    #[test]
    fn any_segments_load_as_they_say(
        independent in any::<bool>(),
        congruent in any::<bool>(),
        parts in vec(segment(), 1..6),
        entry in any::<prop::sample::Index>(),
        length in 0x400usize..0x6000,
    ) {
        let mut headers = place(congruent, &parts, length as u64);
        let entry = make_executable(&mut headers, entry.index(parts.len()));
        let kind = if independent { INDEPENDENT } else { FIXED };
        let file = elf(kind, entry, &headers, length);
        let image = describe(&file).unwrap();
        assert_same("loaded", &described(&image), &interpreted(&file));
        prop_assert!(use_up(&file));
    }

    #[test]
    fn damaged_minified_images_never_give_another_file(
        file in 0usize..4,
        changes in vec((any::<bool>(), position(), any::<u8>()), 1..4),
        cut in prop::option::of(position()),
    ) {
        let original = &VALID[file];
        let pool = pool_of(original);
        let mut minified = minify(&describe(original).unwrap());
        let length = minified.len();
        for (in_header, at, byte) in changes {
            minified[at.index(if in_header { 200 } else { length })] = byte;
        }
        if let Some(cut) = cut {
            minified.truncate(cut.index(length));
        }
        if let Ok(restored) = restore(&minified, |id| pool.get(id)) {
            prop_assert!(restored == *original);
        }
    }
}

#[test]
fn the_files_that_are_changed_are_accepted_before() {
    assert!(VALID.iter().all(|file| use_up(file)));
    assert_eq!(VALID.len(), 4);
}

#[test]
fn restoring_names_what_is_wrong() {
    let original = registered();
    let image = describe(&original).unwrap();
    let minified = minify(&image);
    let pool = pool_of(&original);
    let first = Minified::read(&minified).unwrap().holes()[0];
    assert_eq!(
        restore(&minified, |_| None::<Vec<u8>>),
        Err(MinifyError::MissingObject(first.object))
    );
    let short = restore(&minified, |id| pool.get(id).map(|c| &c[1..]));
    assert!(matches!(short, Err(MinifyError::ShortObject { .. })));
    let wrong = restore(&minified, |id| {
        pool.get(id).map(|c| {
            let mut content = c.clone();
            content[0] ^= u8::from(*id == first.object);
            content
        })
    });
    assert_eq!(wrong, Err(MinifyError::WrongObject(first.object)));
    let mut damaged = minified.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = restore(&damaged, |id| pool.get(id));
    assert!(matches!(damaged, Err(MinifyError::Digest { .. })));
    assert_eq!(
        restore(b"\x7fELF", |_| None::<Vec<u8>>),
        Err(MinifyError::NotMinified)
    );
    let mut newer = minified.clone();
    newer[8] = 2;
    assert_eq!(
        restore(&newer, |_| None::<Vec<u8>>),
        Err(MinifyError::Version(2))
    );
    let mut shorter = minified;
    shorter.pop();
    assert!(matches!(
        restore(&shorter, |id| pool.get(id)),
        Err(MinifyError::Length { .. })
    ));
}
