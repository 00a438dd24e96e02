//! Extended attributes, and the same as files.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::{Pool, cannot_mount, content, names, run, text};
use pool_core::extent::Extent;
use pool_tests::wait;
use rustix::fs::{getxattr, getxattr_query, listxattr, listxattr_query};
use rustix::io::Errno;

const DIGEST: &str = "user.pool.digest";
const EXTENTS: &str = "user.pool.extents";
/// Longest value that the kernel delivers.
const MOST_BYTES: usize = 1 << 16;

fn attribute(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; MOST_BYTES];
    let length = getxattr(path, name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

fn parsed(json: &[u8]) -> Vec<Extent> {
    serde_json::from_slice(json).unwrap()
}

/// `count` pages that lie apart, because those between them are zeros.
fn scattered(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count * 2 * 4096];
    for nth in 0..count {
        bytes[nth * 2 * 4096..][..8].copy_from_slice(&(nth as u64 + 1).to_le_bytes());
    }
    bytes
}

#[test]
fn an_object_says_its_digest_and_its_extents() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let id = pool.add_library("zlib@1.3", &content(1, (5 << 20) + 4321));
    let image = pool.add_image("hello:v1", 7, None);
    let _mount = pool.mount();
    let path = pool.path("libs/zlib/1.3/content");
    assert_eq!(attribute(&path, DIGEST), Ok(id.to_string().into_bytes()));
    let extents = attribute(&path, EXTENTS).unwrap();
    let known = pool.store().object(id).unwrap().unwrap().map;
    assert_eq!(parsed(&extents), known.extents());
    assert!(known.extents().iter().any(|extent| extent.dense));
    let elf = attribute(&pool.path("images/hello/v1/image.elf"), DIGEST).unwrap();
    assert_eq!(text(&elf), image.description.image.digest.to_string());
    assert!(attribute(&pool.path("images/hello/v1/data"), EXTENTS).is_ok());
    assert_eq!(
        attribute(&pool.path(&format!("objects/{id}")), EXTENTS),
        Ok(extents)
    );

    let mut small = [0; 63];
    assert_eq!(getxattr(&path, DIGEST, &mut small), Err(Errno::RANGE));
    assert_eq!(getxattr_query(&path, DIGEST), Ok(64));
    let list = b"user.pool.digest\0user.pool.extents\0";
    assert_eq!(listxattr(&path, &mut small[..3]), Err(Errno::RANGE));
    assert_eq!(listxattr_query(&path), Ok(list.len()));
    let mut names = [0; 100];
    let length = listxattr(&path, &mut names).unwrap();
    assert_eq!(names[..length], list[..]);
    let dump = run(Command::new("getfattr")
        .args(["-d", "--absolute-names"])
        .arg(&path));
    let dump = text(&dump.stdout);
    assert!(dump.contains("user.pool.digest=") && dump.contains("user.pool.extents="));
}

#[test]
fn what_a_file_has_not_is_refused_as_elsewhere() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_library("a@1", b"one");
    pool.add_image("hello:v1", 7, None);
    let segment = pool.store().segments().unwrap()[0].0;
    let _mount = pool.mount();
    let object = pool.path("libs/a/1/content");
    let others = [
        String::new(),
        "images/hello/v1".into(),
        "images/hello/v1/desc".into(),
        "images/hello/v1/map".into(),
        ".pool/version".into(),
        ".pool/extents".into(),
        format!("segments/{segment}"),
    ];
    for path in others.iter().map(|path| pool.path(path)) {
        for name in [DIGEST, EXTENTS, "user.other", "security.x", "trusted.x"] {
            assert_eq!(
                attribute(&path, name),
                Err(Errno::NODATA),
                "{} {name}",
                path.display()
            );
        }
        assert_eq!(listxattr_query(&path), Ok(0), "{}", path.display());
    }
    for name in [
        "user.other",
        "user.pool",
        "user.pool.extents.x",
        "security.x",
        "trusted.x",
    ] {
        assert_eq!(attribute(&object, name), Err(Errno::NODATA), "{name}");
    }
    for name in ["other", "pool.extents", "system.x", "users.x"] {
        assert_eq!(attribute(&object, name), Err(Errno::OPNOTSUPP), "{name}");
    }
}

#[test]
fn extents_of_any_number_are_in_a_file() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let fits = pool.add_sparse("fits:v1", &scattered(2500));
    let large = pool.add_sparse("large:v1", &scattered(9000));
    let _mount = pool.mount();
    assert_eq!(
        names(&pool.path(".pool")),
        ["extents", "stats.json", "version"]
    );
    let objects = names(&pool.path("objects"));
    assert!(objects.contains(&large.to_string()));
    assert_eq!(names(&pool.path(".pool/extents")), objects);
    for (id, count) in [(fits, 2500), (large, 9000)] {
        let path = pool.path(&format!(".pool/extents/{id}"));
        let read = fs::read(&path).unwrap();
        let map = pool.store().object(id).unwrap().unwrap().map;
        assert_eq!(map.extents().len(), count);
        assert_eq!(parsed(&read), map.extents());
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), read.len() as u64);
        assert_eq!((metadata.nlink(), metadata.mode()), (1, 0o100_444));
        let object = pool.path(&format!("objects/{id}"));
        if id == fits {
            assert_eq!(attribute(&object, EXTENTS), Ok(read));
            continue;
        }
        assert!(read.len() > MOST_BYTES);
        // No buffer is large enough, and none is asked for.
        for size in [1, 4096, MOST_BYTES, MOST_BYTES + 1, 1 << 20] {
            let answer = getxattr(&object, EXTENTS, &mut vec![0; size]);
            assert_eq!(answer, Err(Errno::TOOBIG), "{size}");
        }
        assert_eq!(getxattr_query(&object, EXTENTS), Err(Errno::TOOBIG));
        assert_eq!(attribute(&object, DIGEST), Ok(id.to_string().into_bytes()));
        // Who copies a file asks for what is listed, and fails with one of it.
        let copied = pool.directory.path().join("copied");
        let copy = run(Command::new("cp")
            .arg("--preserve=xattr")
            .args([&object, &copied]));
        assert!(copy.status.success());
        let mut listed = [0; 100];
        let length = listxattr(&object, &mut listed).unwrap();
        assert_eq!(listed[..length], b"user.pool.digest\0"[..]);
    }
    assert!(fs::metadata(pool.path(&format!(".pool/extents/{}", "ab".repeat(32)))).is_err());

    // Open, it is a lease on the object like any other file.
    let leased = || pool.store().object_is_leased(large).unwrap();
    wait::until("nothing is open", || !leased());
    let open = File::open(pool.path(&format!(".pool/extents/{large}"))).unwrap();
    assert!(leased());
    drop(open);
    wait::until("the lease ends", || !leased());
}

#[test]
fn single_pages_take_little_room() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    // Every other page is known already: no two lie side by side.
    let pages = 4096;
    let first = content(1, pages * 4096);
    let mut second = content(2, pages * 4096);
    for nth in (0..pages).step_by(2) {
        second[nth * 4096..][..4096].copy_from_slice(&first[nth * 4096..][..4096]);
    }
    pool.add_sparse("one:v1", &first);
    let id = pool.add_sparse("two:v1", &second);
    let _mount = pool.mount();
    let extents = attribute(&pool.path("images/two/v1/image.elf"), EXTENTS).unwrap();
    let extents = parsed(&extents);
    assert_eq!(extents.len(), pages);
    assert_eq!(
        extents,
        pool.store().object(id).unwrap().unwrap().map.extents()
    );
}
