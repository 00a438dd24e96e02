//! A segment of the pool holds pages of many images. What a guest sees of one.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use pool_tests::requirements::needs;
use support::Placement;
use world::{WAYS, World, text};

const GROW: &str = include_str!("programs/grow.c");
const COPIED: [&str; 4] = ["--platform", "process", "--backing", "copy"];
/// What another image has, behind the guest's pages in their segment.
const OTHERS: &[u8] = b"another-image's-secret-5Gq1";

/// A guest maps its own pages alone. Mappings of files can be made longer, and what would show then is another image's.
#[test]
fn nothing_of_another_image_is_had_by_longer_mappings() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let path = support::compile(world.directory.path(), "grow", "gcc", &["-w"], GROW);
    world.pool.add(&path, "dense", Placement::Dense);
    world.pool.add(&path, "sparse", Placement::Sparse);
    for segment in fs::read_dir(world.pool.root.join("segments")).unwrap() {
        let path = segment.unwrap().path();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let end = file.metadata().unwrap().len();
        for page in 0..16 {
            file.write_all_at(OTHERS, end + page * 4096).unwrap();
        }
        file.set_len(end + (2 << 20)).unwrap();
    }
    let backwards: Vec<u8> = OTHERS.iter().rev().copied().collect();
    let backwards = text(&backwards);
    for image in ["dense", "sparse"] {
        // What a process copied is its own.
        for way in WAYS.iter().filter(|way| **way != COPIED) {
            let found = world.run(image, way, &[&backwards]);
            let (said, errors) = (text(&found.stdout), text(&found.stderr));
            let what = format!("{image} {way:?}: {said}{errors}");
            assert_eq!(found.status.code(), Some(0), "{what}");
            let attempts = said.lines().filter(|line| line.ends_with(" hits"));
            assert_eq!(attempts.clone().count(), 18, "{what}");
            for attempt in attempts {
                assert!(attempt.ends_with(", 0 pages, 0 hits"), "{what}");
            }
            assert!(said.ends_with("own: own\ndata 3, text 3\n"), "{what}");
        }
    }
}
