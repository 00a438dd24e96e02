//! A process that may open few files.

use std::path::Path;
use std::process::Command;

use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};
use pool_gc::collect;
use pool_store::Store;
use pool_store::placement::Placement;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::collecting::{NOW, assert_sound};
use super::common::{announcement, assert_stored, content, library_ref, negotiate, push_library};
use super::skipped;

const FEW_DESCRIPTORS: &str = "POOL_FEW_DESCRIPTORS";

/// The process with few descriptors; run by [`few_descriptors_are_enough`].
#[test]
#[ignore = "a part of another test"]
fn frugal() {
    let Some(directory) = std::env::var_os(FEW_DESCRIPTORS) else {
        return;
    };
    let limit = Rlimit {
        current: Some(128),
        maximum: Some(128),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let options = pool_store::StoreOptions {
        create: true,
        segment_bytes: WINDOW_SIZE,
        ..pool_store::StoreOptions::default()
    };
    let store = Store::open(Path::new(&directory), options).unwrap();
    let mut mix = Vec::new();
    for nth in 0..150u64 {
        let bytes = content(nth, 512);
        push_library(&store, &format!("l{nth}@1"), &bytes, Placement::Sparse).unwrap();
        mix.extend_from_slice(&bytes[..PAGE_SIZE as usize]);
    }
    assert!(store.segments().unwrap().len() >= 150);
    // A page of each segment, read to check the claim that the client makes.
    let manifest = announcement("mix@1", &mix, Placement::Sparse);
    negotiate(&store, manifest, &mix).unwrap();
    assert_stored(&store, &mix);
    store.pin_library(&library_ref("mix@1"), true).unwrap();
    let report = collect(&store, &NOW).unwrap();
    assert!(report.segments_evacuated.len() >= 150, "{report:#?}");
    assert_eq!(skipped(&report), []);
    assert_stored(&store, &mix);
    assert_sound(&store);
}

#[test]
fn few_descriptors_are_enough() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "descriptors::frugal",
            "--ignored",
            "--test-threads=1",
        ])
        .env(FEW_DESCRIPTORS, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // Nothing run is a success, too.
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
