//! `pool leases`: who holds what.

use pool_store::StoreView;
use serde_json::json;

use super::common::{BUSYBOX, Pool};

#[test]
fn whoever_holds_something_is_named() {
    let mut pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    let free = pool.json(&["leases", "--store", "store"]);
    assert_eq!(free["holders"], json!([]));
    assert!(
        pool.text(&["leases", "--store", "store"])
            .contains("nothing is held")
    );

    let view = StoreView::follow(&pool.path("store"), &pool.path("scratch")).unwrap();
    let image = "bb:v1".parse().unwrap();
    let look = |snapshot: &pool_store::Snapshot<'_>| {
        let found = snapshot.image(&image)?;
        Ok(found.map(|(_, manifest)| (manifest.file, vec![manifest.file])))
    };
    let held = view.hold(look).unwrap().unwrap();
    let found = pool.json(&["leases", "--store", "store"]);
    let holders = found["holders"].as_array().unwrap();
    assert_eq!(holders.len(), 1, "{found}");
    assert_eq!(holders[0]["pid"], std::process::id());
    assert!(holders[0]["started_at"].as_u64().unwrap() > 1_600_000_000);
    let digest = held.value.to_string();
    let object = json!({"digest": digest, "names": ["image/bb:v1"]});
    assert_eq!(holders[0]["objects"], json!([object]));
    assert!(!holders[0]["segments"].as_array().unwrap().is_empty());
    assert_eq!(found["unseen"], json!({"objects": [], "segments": []}));
    let says = pool.text(&["leases", "--store", "store"]);
    assert!(
        says.contains("\n  image/bb:v1\n") && says.contains("  segments 0000"),
        "{says}"
    );

    // Without a service, too.
    pool.end();
    assert_eq!(
        pool.json(&["leases", "--store", "store"])["holders"],
        json!(holders)
    );
    drop(held);
    assert_eq!(
        pool.json(&["leases", "--store", "store"])["holders"],
        json!([])
    );
}
