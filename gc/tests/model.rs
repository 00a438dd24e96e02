//! Random sequences of everything, against a plain map.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{assert_stored, content, image_ref, library_ref, open, push_image, push_library};
use pool_gc::{CollectOptions, FsckLevel, collect, fsck};
use pool_store::StoreError;
use pool_store::placement::Placement;
use pool_store::repair::repair;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    PushLibrary(u8, u8),
    PushImage(u8, u8),
    Tag(u8, u8),
    DeleteImage(u8),
    DeleteLibrary(u8),
    Pin(u8, bool),
    Collect(bool),
    Reopen,
    /// The index, the journal or nothing is lost, and the store is repaired.
    Lose(u8),
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6u8, 0..4u8).prop_map(|(name, kind)| Step::PushLibrary(name, kind)),
        4 => (0..5u8, 0..6u8).prop_map(|(tag, library)| Step::PushImage(tag, library)),
        2 => (0..5u8, 0..5u8).prop_map(|(from, to)| Step::Tag(from, to)),
        3 => (0..5u8).prop_map(Step::DeleteImage),
        1 => (0..6u8).prop_map(Step::DeleteLibrary),
        1 => (0..6u8, any::<bool>()).prop_map(|(name, pinned)| Step::Pin(name, pinned)),
        2 => any::<bool>().prop_map(Step::Collect),
        1 => Just(Step::Reopen),
        1 => (0..3u8).prop_map(Step::Lose),
        1 => Just(Step::Checkpoint),
    ]
}

/// Content of a library: three pairs that share a window's worth of pages.
fn library(nth: u8) -> Vec<u8> {
    let mut bytes = content(u64::from(nth / 2), 40);
    bytes.extend(content(50 + u64::from(nth), 3));
    bytes.truncate(bytes.len() - usize::from(nth) * 100);
    bytes
}

fn file(nth: u8) -> Vec<u8> {
    content(90 + u64::from(nth), 4)
}

/// What the store must hold.
#[derive(Default)]
struct Model {
    /// Pinned or not, by number.
    libraries: BTreeMap<u8, bool>,
    /// The library that an image uses, by tag; its file has the same number.
    images: BTreeMap<u8, u8>,
}

impl Model {
    fn used(&self, library: u8) -> bool {
        self.images.values().any(|used| *used == library)
    }

    fn check(&self, store: &pool_store::Store) {
        let names = store.libraries().unwrap();
        assert_eq!(names.len(), self.libraries.len());
        for (nth, pinned) in &self.libraries {
            let name = library_ref(&format!("l{nth}@1"));
            let record = store.library(&name).unwrap().unwrap();
            assert_eq!(record.pinned, *pinned, "{name}");
            assert_eq!(record.unused_since.is_none(), self.used(*nth), "{name}");
            assert_stored(store, &library(*nth));
            let users = store.library_users(&name).unwrap();
            let expected: Vec<_> = self
                .images
                .iter()
                .filter(|(_, used)| *used == nth)
                .map(|(tag, _)| image_ref(&format!("i:{tag}")))
                .collect();
            assert_eq!(users, expected, "{name}");
        }
        assert_eq!(store.tags().unwrap().len(), self.images.len());
        for (tag, used) in &self.images {
            let image = image_ref(&format!("i:{tag}"));
            let (_, manifest) = store.image(&image).unwrap().unwrap();
            let name = library_ref(&format!("l{used}@1"));
            assert_eq!(manifest.description.libraries[0].library, name);
            assert_stored(store, &file(*used));
        }
        let report = fsck(store, FsckLevel::Content);
        assert!(report.findings.is_empty(), "{report:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_like_a_map(steps in prop::collection::vec(step(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = open(directory.path());
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::PushLibrary(nth, kind) => {
                    let placement = match kind {
                        0 => Placement::Sparse,
                        phase => Placement::Windows { phase: u16::from(phase) * 170 },
                    };
                    let name = format!("l{nth}@1");
                    push_library(&store, &name, &library(nth), placement).unwrap();
                    model.libraries.entry(nth).or_default();
                }
                Step::PushImage(tag, nth) => {
                    let name = format!("l{nth}@1");
                    let image = format!("i:{tag}");
                    push_image(&store, &image, &file(nth), &[(&name, &library(nth))]).unwrap();
                    model.images.insert(tag, nth);
                    model.libraries.entry(nth).or_default();
                }
                Step::Tag(from, to) => {
                    let [a, b] = [from, to].map(|tag| image_ref(&format!("i:{tag}")));
                    let done = store.tag_image(&a, &b);
                    match model.images.get(&from).copied() {
                        Some(used) => {
                            done.unwrap();
                            model.images.insert(to, used);
                        }
                        None => prop_assert!(matches!(done, Err(StoreError::NotFound(_)))),
                    }
                }
                Step::DeleteImage(tag) => {
                    let done = store.delete_image(&image_ref(&format!("i:{tag}")));
                    prop_assert_eq!(done.is_ok(), model.images.remove(&tag).is_some());
                }
                Step::DeleteLibrary(nth) => {
                    let done = store.delete_library(&library_ref(&format!("l{nth}@1")));
                    let free = model.libraries.get(&nth) == Some(&false) && !model.used(nth);
                    prop_assert_eq!(done.is_ok(), free);
                    if free {
                        model.libraries.remove(&nth);
                    }
                }
                Step::Pin(nth, pinned) => {
                    let done = store.pin_library(&library_ref(&format!("l{nth}@1")), pinned);
                    prop_assert_eq!(done.is_ok(), model.libraries.contains_key(&nth));
                    if let Some(known) = model.libraries.get_mut(&nth) {
                        *known = pinned;
                    }
                }
                Step::Collect(dry_run) => {
                    let options = CollectOptions {
                        grace: Duration::ZERO,
                        dry_run,
                        compact_below: 0.9,
                    };
                    collect(&store, &options).unwrap();
                    if !dry_run {
                        let images: Vec<_> = model.images.values().copied().collect();
                        model.libraries.retain(|nth, pinned| *pinned || images.contains(nth));
                    }
                }
                Step::Reopen => {
                    drop(store);
                    store = open(directory.path());
                }
                Step::Checkpoint => prop_assert!(store.checkpoint().unwrap()),
                Step::Lose(what) => {
                    drop(store);
                    let path = |name: &str| directory.path().join(name);
                    match what {
                        0 => std::fs::remove_dir_all(path("index")).unwrap(),
                        1 => std::fs::remove_dir_all(path("journal")).unwrap(),
                        _ => {}
                    }
                    let report = repair(directory.path(), false, &mut |_| ()).unwrap();
                    prop_assert_eq!(report.done, what < 2);
                    prop_assert!(report.damaged_objects.is_empty() && report.left.is_empty());
                    store = open(directory.path());
                }
            }
        }
        model.check(&store);
    }
}
