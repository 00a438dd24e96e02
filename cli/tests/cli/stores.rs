//! Making and checking stores.

use std::io::Write as _;

use crate::common::{BUSYBOX, Pool};

#[test]
fn a_store_is_made_where_nothing_is() {
    let mut pool = Pool::start();
    pool.end();
    std::fs::create_dir(pool.path("new")).unwrap();
    for (directory, bytes) in [("new", 4 << 20), ("absent/below", 64 << 20)] {
        let size = format!("{bytes}");
        let made = pool.json(&["init", "--store", directory, "--segment-bytes", &size]);
        assert_eq!(made["store"].as_str().unwrap().len(), 32);
        pool.text(&["fsck", "--store", directory]);
        let says = pool.refused(1, &["init", "--store", directory]);
        assert!(says.contains("a store already"), "{says}");
    }
    std::fs::create_dir(pool.path("full")).unwrap();
    std::fs::write(pool.path("full/notes"), "mine").unwrap();
    let says = pool.refused(1, &["init", "--store", "full"]);
    assert!(says.contains("not empty"), "{says}");
    assert_eq!(std::fs::read_dir(pool.path("full")).unwrap().count(), 1);
}

#[test]
fn damage_is_found_with_and_without_a_service() {
    let mut pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    let report = pool.json(&["fsck", "--content"]);
    assert_eq!(report["findings"], serde_json::json!([]));
    // Beside the service, too.
    pool.text(&["fsck", "--store", "store", "--content"]);
    pool.end();
    pool.text(&["fsck", "--store", "store", "--content"]);
    let segments = pool.path("store/segments");
    let segment = std::fs::read_dir(segments)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(&segment)
        .unwrap();
    file.write_all(b"spoilt").unwrap();
    drop(file);
    let output = pool.run(&["fsck", "--store", "store", "--content"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("damage: "));
}
