//! Names and who refers to whom.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::slice;

use common::{
    assert_stored, content, image_ref, library_ref, open, push_image, push_library, reservation,
};
use pool_core::ObjectId;
use pool_core::registry::{Known, MAX_PLACES, Places, ReserveError};
use pool_store::manifest::TokenScope;
use pool_store::placement::Placement;
use pool_store::{Store, StoreError};
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

fn unused(store: &Store, library: &str) -> bool {
    let record = store.library(&library_ref(library)).unwrap().unwrap();
    record.unused_since.is_some()
}

#[test]
fn a_library_is_unused_from_when_its_last_image_goes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (first, second) = (content(1, 4), content(2, 4));
    push_library(&store, "l@1", &first, Placement::Sparse).unwrap();
    assert!(unused(&store, "l@1"));
    push_image(&store, "a:1", &content(3, 1), &[("l@1", &first)]).unwrap();
    push_image(&store, "b:1", &content(4, 1), &[("l@1", &first)]).unwrap();
    assert!(!unused(&store, "l@1"));
    let users = store.library_users(&library_ref("l@1")).unwrap();
    assert_eq!(users, [image_ref("a:1"), image_ref("b:1")]);

    store.delete_image(&image_ref("a:1")).unwrap();
    assert!(!unused(&store, "l@1"));
    // A push under the same tag lets go of what the tag pointed at.
    push_image(&store, "b:1", &content(5, 1), &[("l@2", &second)]).unwrap();
    assert!(unused(&store, "l@1") && !unused(&store, "l@2"));
    // A push of another image with the same library keeps it used throughout.
    push_image(&store, "b:1", &content(6, 1), &[("l@2", &second)]).unwrap();
    assert!(!unused(&store, "l@2"));
    assert_eq!(store.stats().unwrap().images, 1);
}

#[test]
fn an_image_lives_as_long_as_one_of_its_tags() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (file, library) = (content(1, 4), content(2, 4));
    push_image(&store, "a:1", &file, &[("l@1", &library)]).unwrap();
    let [one, two, latest] = ["a:1", "a:2", "b:latest"].map(image_ref);
    store.tag_image(&one, &two).unwrap();
    store.tag_image(&two, &latest).unwrap();
    store.tag_image(&one, &one).unwrap();
    assert_eq!(store.snapshot().tags_of_name("a").unwrap().len(), 2);
    store.delete_image(&one).unwrap();
    store.delete_image(&two).unwrap();
    assert!(!unused(&store, "l@1"));
    let (_, manifest) = store.image(&latest).unwrap().unwrap();
    let map = store.snapshot().image_map(&manifest).unwrap();
    assert_eq!(map.objects.len(), 2);
    // Moving the last tag elsewhere is a deletion too.
    push_image(&store, "c:1", &content(3, 1), &[]).unwrap();
    store.tag_image(&image_ref("c:1"), &latest).unwrap();
    assert!(unused(&store, "l@1"));
    assert_eq!(store.stats().unwrap().images, 1);
    assert_stored(&store, &file);
    for gone in [&one, &two] {
        assert!(matches!(
            store.delete_image(gone),
            Err(StoreError::NotFound(_))
        ));
        let tagged = store.tag_image(gone, &latest);
        assert!(matches!(tagged, Err(StoreError::NotFound(_))));
    }
}

/// Keys that `work` goes through in what the index has in memory.
fn keys_passed(work: impl FnOnce()) -> u64 {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut counted = PerfContext::default();
    counted.reset();
    work();
    let passed = counted.metric(PerfMetric::NextOnMemtableCount);
    set_perf_stats(PerfStatsLevel::Disable);
    passed
}

#[test]
fn a_name_goes_without_a_look_at_all_that_are_like_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let library = content(1, 1);
    let tag = |nth: u64| image_ref(&format!("a:{nth}"));
    for nth in 0..40 {
        let used = [("l@1", library.as_slice())];
        push_image(&store, &tag(nth).to_string(), &content(2 + nth, 1), &used).unwrap();
        store.tag_image(&tag(0), &tag(100 + nth)).unwrap();
    }
    let delete = |nth| keys_passed(|| store.delete_image(&tag(nth)).unwrap());
    assert!(keys_passed(|| assert_eq!(store.tags().unwrap().len(), 80)) >= 79);
    // One of many tags of an image, and one of many images that use a library.
    for nth in [120, 20] {
        let passed = delete(nth);
        assert!(passed < 10, "{nth}: {passed}");
    }
    assert!(!unused(&store, "l@1"));
}

#[test]
fn a_library_in_use_or_pinned_is_not_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let library = content(2, 4);
    push_image(&store, "a:1", &content(1, 1), &[("l@1", &library)]).unwrap();
    let name = library_ref("l@1");
    let in_use = || matches!(store.delete_library(&name), Err(StoreError::InUse { .. }));
    assert!(in_use());
    store.pin_library(&name, true).unwrap();
    store.delete_image(&image_ref("a:1")).unwrap();
    assert!(in_use());
    store.pin_library(&name, false).unwrap();
    store.delete_library(&name).unwrap();
    assert!(matches!(
        store.delete_library(&name),
        Err(StoreError::NotFound(_))
    ));
    let pinned = store.pin_library(&name, true);
    assert!(matches!(pinned, Err(StoreError::NotFound(_))));
    assert_eq!(store.snapshot().library_versions("l").unwrap(), []);
}

#[test]
fn listings_by_name_take_that_name_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for name in ["z@1", "z@2", "zlib@1", "z+@1"] {
        let bytes = name.as_bytes();
        push_library(&store, name, bytes, Placement::Sparse).unwrap();
    }
    let versions = store.snapshot().library_versions("z").unwrap();
    let names: Vec<_> = versions.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["z@1", "z@2"]);
    assert_eq!(store.libraries().unwrap().len(), 4);
}

#[test]
fn reservations_and_tokens_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let reserve = |store: &Store, name: &str, identity: &[u8]| {
        let request = reservation(name, identity);
        let reserved = store.reserve_addresses(&[request]).unwrap();
        reserved.map(|(mut list, is_new)| (list.remove(0), is_new))
    };
    let (first, is_new) = reserve(&store, "a@1", b"1").unwrap();
    assert!(is_new);
    let (second, _) = reserve(&store, "b@1", b"2").unwrap();
    assert_ne!(first.shared.start, second.shared.start);
    let secret = ObjectId::of(b"secret");
    store.add_token("ci", secret, TokenScope::Write).unwrap();
    store.add_token("old", secret, TokenScope::Read).unwrap();
    store.delete_token("old").unwrap();
    drop(store);

    let store = open(directory.path());
    assert_eq!(reserve(&store, "a@1", b"1"), Ok((first.clone(), false)));
    let conflict = reserve(&store, "a@1", b"other");
    assert!(matches!(conflict, Err(ReserveError::Conflict { .. })));
    let third = reserve(&store, "c@1", b"3").unwrap();
    let all = [first, second, third.0];
    assert_eq!(store.reservations().unwrap(), all);
    let tokens = store.tokens().unwrap();
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        (tokens[0].name.as_str(), tokens[0].scope),
        ("ci", TokenScope::Write)
    );
    assert!(matches!(
        store.delete_token("old"),
        Err(StoreError::NotFound(_))
    ));
}

#[test]
fn an_answer_about_places_has_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let versions = |texts: &[&str]| -> Vec<_> { texts.iter().map(|t| library_ref(t)).collect() };
    let mut large = reservation("large@1", b"1");
    large.places = Places::new(vec![7; MAX_PLACES]);
    // The same members under another name have a record of their own.
    let mut small = reservation("small@1", b"1");
    small.places = Places::new(vec![8]);
    store.reserve_addresses(&[large, small]).unwrap().unwrap();
    let asked = versions(&[
        "small@1", "small@2", "large@2", "large@2", "large@2", "new@1",
    ]);
    let known = store.known_places(&asked).unwrap();
    assert!(matches!(known[..2], [Known::Alone, Known::Earlier { .. }]));
    assert_eq!(known[1].places().unwrap().bytes(), [8]);
    // One more would be above 8 MiB.
    assert_eq!(known.len(), 3);
    let rest = store.known_places(&asked[3..]).unwrap();
    assert_eq!(rest.len(), 3);
    assert_eq!(rest[2], Known::Nothing);
    let many = vec![library_ref("new@1"); 1001];
    assert_eq!(store.known_places(&many).unwrap().len(), 1000);
    assert!(store.known_places(&[]).unwrap().is_empty());
}

/// Waits until the clock shows another second than `since`, in seconds since 1970.
fn wait_for_a_second_after(since: u64) {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    while now().unwrap().as_secs() <= since {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn interest_in_an_unused_library_begins_its_grace_again() {
    type Interest = fn(&Store, &[u8]);
    let pushed_again: Interest = |store, bytes| {
        push_library(store, "l@1", bytes, Placement::Sparse).unwrap();
    };
    let negotiated_again: Interest = |store, bytes| {
        let manifest = common::announcement("l@1", bytes, Placement::Sparse);
        common::negotiate(store, manifest, bytes).unwrap();
    };
    let unpinned: Interest = |store, _| {
        store.pin_library(&library_ref("l@1"), true).unwrap();
        store.pin_library(&library_ref("l@1"), false).unwrap();
    };
    let linked_against: Interest = |store, _| {
        let request = reservation("l@1", b"members");
        for _ in 0..2 {
            store
                .reserve_addresses(slice::from_ref(&request))
                .unwrap()
                .unwrap();
        }
    };
    let used_for_a_while: Interest = |store, bytes| {
        push_image(store, "a:1", &content(3, 1), &[("l@1", bytes)]).unwrap();
        store
            .tag_image(&image_ref("a:1"), &image_ref("b:1"))
            .unwrap();
        store.delete_image(&image_ref("a:1")).unwrap();
        assert!(!unused(store, "l@1"));
        push_image(store, "b:1", &content(4, 1), &[]).unwrap();
    };
    let all = [
        pushed_again,
        negotiated_again,
        unpinned,
        linked_against,
        used_for_a_while,
    ];
    let directories = all.map(|_| tempfile::tempdir().unwrap());
    let stores = directories
        .each_ref()
        .map(|directory| open(directory.path()));
    let bytes = content(1, 4);
    let since = |store: &Store| {
        let record = store.library(&library_ref("l@1")).unwrap().unwrap();
        record.unused_since.unwrap()
    };
    for store in &stores {
        push_library(store, "l@1", &bytes, Placement::Sparse).unwrap();
    }
    let before = stores.each_ref().map(since);
    wait_for_a_second_after(before.into_iter().max().unwrap());
    for (nth, (store, interest)) in stores.iter().zip(all).enumerate() {
        interest(store, &bytes);
        assert!(since(store) > before[nth], "interest number {nth}");
    }
}
