//! What the mounted tree shows.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use common::{Pool, cannot_mount, content, names};
use pool_core::description::Description;
use pool_core::digest::ObjectId;
use pool_core::image_map::ImageMap;
use pool_tests::wait;

const TAGS: usize = 2000;
const LIBRARY_BYTES: usize = (5 << 20) + 4321;

#[test]
fn every_file_reads_back_byte_for_byte() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let library = content(1, LIBRARY_BYTES);
    let library_id = pool.add_library("zlib@1.3", &library);
    let image = pool.add_image("hello:v1", 7, Some(("zlib@1.3", &library)));
    let _mount = pool.mount();

    assert_eq!(
        names(&pool.mount_point()),
        [".pool", "images", "libs", "objects", "segments"]
    );
    assert_eq!(
        names(&pool.path("libs/zlib/1.3")),
        ["content", "manifest.json"]
    );
    assert_eq!(
        names(&pool.path("images/hello/v1")),
        ["data", "desc", "image.elf", "manifest.json", "map"]
    );
    let read = |path: &str| fs::read(pool.path(path)).unwrap();
    assert!(read("libs/zlib/1.3/content") == library);
    assert!(read(&format!("objects/{library_id}")) == library);
    assert_eq!(read("images/hello/v1/image.elf"), image.elf);
    assert_eq!(read("images/hello/v1/data"), image.data);
    assert_eq!(read("images/hello/v1/desc"), image.description.to_json());
    let description = Description::from_json(&read("images/hello/v1/desc")).unwrap();
    assert_eq!(description, image.description);

    let map = ImageMap::from_json(&read("images/hello/v1/map")).unwrap();
    assert_eq!(map.description, image.description);
    for (id, extents) in &map.objects {
        let object = read(&format!("objects/{id}"));
        assert_eq!(object.len() as u64, extents.length);
        for extent in extents.extents() {
            let segment = File::open(pool.path(&format!("segments/{}", extent.segment))).unwrap();
            let mut page = vec![0; 4096 * extent.count as usize];
            segment
                .read_exact_at(&mut page, extent.slot.byte_offset())
                .unwrap();
            let start = extent.file_page as usize * 4096;
            let end = object.len().min(start + page.len());
            assert!(object[start..end] == page[..end - start]);
        }
    }
    for (segment, _) in pool.store().segments().unwrap() {
        let through = read(&format!("segments/{segment}"));
        let backing = fs::read(pool.store_path().join(format!("segments/{segment}.seg"))).unwrap();
        assert!(through == backing);
    }

    // Odd offsets and lengths.
    let file = File::open(pool.path("libs/zlib/1.3/content")).unwrap();
    for (offset, length) in [(0, 1), (4095, 2), (LIBRARY_BYTES - 3, 3), (2 << 20, 70_001)] {
        let mut part = vec![0; length];
        file.read_exact_at(&mut part, offset as u64).unwrap();
        assert!(
            part == library[offset..offset + length],
            "{offset}+{length}"
        );
    }
    assert_eq!(file.read_at(&mut [0; 8], LIBRARY_BYTES as u64).unwrap(), 0);

    let json = |path: &str| serde_json::from_slice::<serde_json::Value>(&read(path)).unwrap();
    assert_eq!(json(".pool/stats.json")["libraries"], 1);
    assert_eq!(json(".pool/version")["passthrough"], true);
    assert_eq!(json(".pool/version")["format"], 1);
    assert_eq!(
        json("libs/zlib/1.3/manifest.json")["object"],
        library_id.to_string()
    );
    let manifest = json("images/hello/v1/manifest.json");
    assert_eq!(manifest["libraries"][0]["library"], "zlib@1.3");
}

#[test]
fn attributes_are_right() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let library = content(1, LIBRARY_BYTES);
    pool.add_library("zlib@1.3", &library);
    pool.add_library("zlib@1.4", b"another");
    pool.add_image("hello:v1", 7, None);
    let _mount = pool.mount();

    for (path, links) in [
        ("", 7),
        ("libs", 1),
        ("libs/zlib", 1),
        ("libs/zlib/1.3", 2),
        (".pool", 3),
        (".pool/extents", 2),
    ] {
        let metadata = fs::metadata(pool.path(path)).unwrap();
        assert_eq!(
            (metadata.nlink(), metadata.mode()),
            (links, 0o040_555),
            "{path}"
        );
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
    }
    let created = pool
        .store()
        .library(&"zlib@1.3".parse().unwrap())
        .unwrap()
        .unwrap();
    let metadata = fs::metadata(pool.path("libs/zlib/1.3/content")).unwrap();
    assert_eq!((metadata.nlink(), metadata.mode()), (1, 0o100_444));
    assert_eq!(metadata.len(), LIBRARY_BYTES as u64);
    assert_eq!(metadata.mtime() as u64, created.created_at);
    assert_eq!(metadata.blocks(), (LIBRARY_BYTES as u64).div_ceil(4096) * 8);
    for file in ["image.elf", "desc", "data", "manifest.json", "map"] {
        let path = pool.path(&format!("images/hello/v1/{file}"));
        let length = fs::metadata(&path).unwrap().len();
        assert_eq!(length, fs::read(&path).unwrap().len() as u64, "{file}");
    }
    // The number in the listing is the number of the file, before and after it is looked up.
    for directory in [
        "",
        "libs",
        "libs/zlib/1.3",
        "images/hello/v1",
        "objects",
        "segments",
        ".pool",
        ".pool/extents",
    ] {
        for entry in fs::read_dir(pool.path(directory))
            .unwrap()
            .map(Result::unwrap)
        {
            let inode = std::os::unix::fs::DirEntryExt::ino(&entry);
            assert_eq!(inode, entry.metadata().unwrap().ino(), "{:?}", entry.path());
        }
    }
    let before = fs::metadata(pool.path("libs/zlib/1.3/content"))
        .unwrap()
        .ino();
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert_eq!(
        fs::metadata(pool.path("libs/zlib/1.3/content"))
            .unwrap()
            .ino(),
        before
    );

    let disk = rustix::fs::statvfs(pool.mount_point()).unwrap();
    assert!(disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    assert!(disk.f_blocks > 0 && disk.f_namemax == 255);
}

#[test]
fn names_that_are_words_of_the_tree_are_names() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let digest = ObjectId::of(b"x").to_string();
    let words = [
        "libs",
        "images",
        "objects",
        "segments",
        "pool",
        "extents",
        "content",
        "map",
        "desc",
        "data",
        "image.elf",
        "manifest.json",
        "stats.json",
        "version",
        "1.0",
        "0000002a",
        &digest,
    ];
    for (nth, word) in words.iter().enumerate() {
        pool.add_library(&format!("{word}@{word}"), &content(nth as u64, 5000));
        pool.add_image(&format!("{word}:{word}"), 100 + nth as u64, None);
    }
    let _mount = pool.mount();
    let mut sorted = words.map(str::to_owned);
    sorted.sort();
    assert_eq!(names(&pool.path("libs")), sorted);
    assert_eq!(names(&pool.path("images")), sorted);
    for (nth, word) in words.iter().enumerate() {
        assert_eq!(names(&pool.path(&format!("libs/{word}"))), [*word]);
        assert_eq!(names(&pool.path(&format!("images/{word}"))), [*word]);
        let library = fs::read(pool.path(&format!("libs/{word}/{word}/content"))).unwrap();
        assert!(library == content(nth as u64, 5000), "{word}");
        let map = fs::read(pool.path(&format!("images/{word}/{word}/map"))).unwrap();
        assert!(ImageMap::from_json(&map).is_ok(), "{word}");
    }
}

#[test]
fn uploads_appear_and_deletions_disappear_without_a_remount() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let _mount = pool.mount();
    assert!(names(&pool.path("libs")).is_empty());
    assert!(fs::metadata(pool.path("libs/a/1/content")).is_err());
    pool.add_library("a@1", b"first");
    // At once: absence is never cached, and listings are made new.
    assert_eq!(fs::read(pool.path("libs/a/1/content")).unwrap(), b"first");
    assert_eq!(names(&pool.path("libs")), ["a"]);

    pool.add_image("i:t", 1, None);
    let path = pool.path("images/i/t/image.elf");
    let old = fs::read(&path).unwrap();
    let open = File::open(&path).unwrap();
    let inode = open.metadata().unwrap().ino();
    let retagged = pool.add_image("i:t", 2, None);
    // At once too: opening checks the name.
    assert_eq!(fs::read(&path).unwrap(), retagged.elf);
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
    let mut still = vec![0; old.len()];
    open.read_exact_at(&mut still, 0).unwrap();
    assert_eq!(still, old);
    assert_eq!(open.metadata().unwrap().ino(), inode);

    pool.store().delete_image(&"i:t".parse().unwrap()).unwrap();
    assert!(File::open(&path).is_err());
    assert!(names(&pool.path("images")).is_empty());
    wait::until("the name is gone", || fs::metadata(&path).is_err());
    assert_eq!(open.metadata().unwrap().len(), old.len() as u64);
    pool.store()
        .delete_library(&"a@1".parse().unwrap())
        .unwrap();
    wait::until("the name is gone", || {
        fs::metadata(pool.path("libs/a")).is_err()
    });
}

#[test]
fn big_directories_are_listed_whole_while_uploads_go_on() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_image("big:t0000", 1, None);
    let from = "big:t0000".parse().unwrap();
    for nth in 1..TAGS {
        let to = format!("big:t{nth:04}").parse().unwrap();
        pool.store().tag_image(&from, &to).unwrap();
    }
    let _mount = pool.mount();
    let mut listed = Vec::new();
    for (nth, entry) in fs::read_dir(pool.path("images/big")).unwrap().enumerate() {
        listed.push(entry.unwrap().file_name().into_string().unwrap());
        // In front of, and behind, where the listing has got to.
        if nth % 100 == 0 {
            for place in ["a", "z"] {
                let to = format!("big:{place}{nth}").parse().unwrap();
                pool.store().tag_image(&from, &to).unwrap();
            }
        }
    }
    let expected: Vec<_> = (0..TAGS).map(|nth| format!("t{nth:04}")).collect();
    assert_eq!(listed, expected);
    assert_eq!(names(&pool.path("images/big")).len(), TAGS + 40);
}

#[test]
fn segments_are_mapped_with_huge_pages() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let library = content(3, 8 << 20);
    let id = pool.add_library("big@1", &library);
    let _mount = pool.mount();
    let record = pool.store().object(id).unwrap().unwrap();
    let extent = record.map.extents()[0];
    assert!(extent.dense && extent.count == 2048);
    let file = File::open(pool.path(&format!("segments/{}", extent.segment))).unwrap();
    let map = mapping::Mapping::new(&file, extent.slot.byte_offset(), 8 << 20);
    assert!(map.bytes() == library);
    let huge = map.smaps("FilePmdMapped:");
    assert!(
        huge > 0,
        "no part of the segment is mapped by 2 MiB entries"
    );
    // The mapping outlives the descriptor.
    drop(file);
    assert!(map.bytes() == library);
    assert_eq!(ObjectId::of(map.bytes()), id);
}

#[test]
fn files_that_change_can_be_mapped_as_they_are_when_opened() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let id = pool.add_library("a@1", &content(1, 3 << 20));
    let _mount = pool.mount();
    let mapped = |path: &str| {
        let file = File::open(pool.path(path)).unwrap();
        let length = file.metadata().unwrap().len() as usize;
        let map = mapping::Mapping::new(&file, 0, length);
        assert_eq!(map.bytes(), fs::read(pool.path(path)).unwrap(), "{path}");
        map.bytes().to_vec()
    };
    let stats = mapped(".pool/stats.json");
    mapped(&format!(".pool/extents/{id}"));
    for nth in 2..5 {
        pool.add_library(&format!("a@{nth}"), &content(nth, 1 << 20));
        // The length too is that of now.
        assert_ne!(mapped(".pool/stats.json"), stats);
    }
}

#[test]
fn who_maps_a_file_that_changes_sees_what_was_there_when_it_was_opened() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_library("a@1", b"one");
    let _mount = pool.mount();
    let open = || {
        let file = File::open(pool.path(".pool/stats.json")).unwrap();
        let length = file.metadata().unwrap().len() as usize;
        (mapping::Mapping::new(&file, 0, length), file)
    };
    let first = open();
    pool.add_library("a@2", b"two");
    let second = open();
    for (nth, (map, file)) in [first, second].into_iter().enumerate() {
        let libraries = |bytes: &[u8]| {
            let stats: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            stats["libraries"].as_u64().unwrap() as usize
        };
        assert_eq!(libraries(map.bytes()), nth + 1);
        let length = file.metadata().unwrap().len() as usize;
        let mut read = vec![0; length];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(libraries(&read), nth + 1);
    }
}

#[allow(unsafe_code)]
mod mapping {
    use super::{AsRawFd, File, fs};

    /// A read-only shared mapping, at an address that is a multiple of 2 MiB.
    pub(super) struct Mapping {
        reserved: *mut libc::c_void,
        start: *mut u8,
        length: usize,
    }

    const WINDOW: usize = 2 << 20;

    impl Mapping {
        pub(super) fn new(file: &File, offset: u64, length: usize) -> Self {
            // SAFETY: reserves fresh addresses, then maps the file over an aligned part of them.
            unsafe {
                let reserved = libc::mmap(
                    std::ptr::null_mut(),
                    length + WINDOW,
                    libc::PROT_NONE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                assert_ne!(reserved, libc::MAP_FAILED);
                let aligned = (reserved as usize).next_multiple_of(WINDOW);
                let start = libc::mmap(
                    aligned as *mut libc::c_void,
                    length,
                    libc::PROT_READ,
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    file.as_raw_fd(),
                    offset as libc::off_t,
                );
                assert_ne!(start, libc::MAP_FAILED);
                Self {
                    reserved,
                    start: start.cast(),
                    length,
                }
            }
        }

        pub(super) fn bytes(&self) -> &[u8] {
            // SAFETY: mapped readable for as long as `self` lives; nobody writes the file.
            unsafe { std::slice::from_raw_parts(self.start, self.length) }
        }

        /// KiB of a line of /proc/self/smaps.
        pub(super) fn smaps(&self, field: &str) -> u64 {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            let start = format!("{:x}-", self.start as usize);
            let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
            let line = lines.find(|line| line.starts_with(field)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the whole reservation is this value's.
            unsafe { libc::munmap(self.reserved, self.length + WINDOW) };
        }
    }
}

#[test]
fn what_is_known_to_be_damaged_is_an_error_until_it_is_mended() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let bytes = content(1, 300 * 4096);
    let id = pool.add_library("a@1", &bytes);
    let whole = content(2, 40 * 4096);
    pool.add_library("b@1", &whole);
    let _mount = pool.mount();
    let record = pool.store().object(id).unwrap().unwrap();
    let extent = record.map.slice(77, 1).next().unwrap();
    let segment = format!("segments/{}.seg", extent.segment);
    let segment = File::options()
        .write(true)
        .open(pool.store_path().join(segment))
        .unwrap();
    segment
        .write_all_at(b"spoilt", extent.slot.byte_offset())
        .unwrap();
    assert_eq!(pool.store().note_damaged(&[id]).unwrap(), 1);
    let path = pool.path("libs/a/1/content");
    let read = |page: u64| {
        let mut part = vec![0; 4096];
        let read = File::open(&path)
            .unwrap()
            .read_exact_at(&mut part, page * 4096);
        read.map(|()| part)
    };
    // Whoever opens it sees what was committed before.
    assert_eq!(read(77).unwrap_err().raw_os_error(), Some(libc::EIO));
    for page in [0, 76, 78, 299] {
        let expected = &bytes[page * 4096..][..4096];
        assert!(read(page as u64).unwrap() == expected, "{page}");
    }
    assert!(fs::read(pool.path("libs/b/1/content")).unwrap() == whole);
    pool.add_library("a@1", &bytes);
    assert_eq!(pool.store().damaged_slots(), 0);
    assert!(fs::read(&path).unwrap() == bytes);
}
