//! Collections as an operator sees them: what they did, having them wait, stopping them.

use pool_tests::disk::SmallDisk;
use pool_tests::wait;
use serde_json::{Value, json};

use super::common::{Service, content};

fn collections(service: &Service) -> Value {
    service.get("/v1/gc").expect(200).json()
}

#[test]
fn what_collections_did_is_remembered_and_they_wait_when_they_are_told_to() {
    let mut first = Service::start(&[]);
    let nothing = json!({"paused": false, "running": null, "last": []});
    assert_eq!(collections(&first), nothing);
    first.put("/v1/libs/a/1", &content(1, 300)).expect(201);
    let now = json!({"grace_seconds": 0});
    let report = first.post("/v1/gc", &now).expect(200).json();
    assert_eq!(report["stopped"], false);
    // One that only tells what it would do is none.
    first.post("/v1/gc", &json!({"dry_run": true})).expect(200);
    let told = collections(&first);
    let [last] = told["last"].as_array().unwrap().as_slice() else {
        panic!("{told}");
    };
    assert_eq!(
        (&last["cause"], &last["outcome"]),
        (&json!("asked"), &json!("done"))
    );
    assert_eq!(
        (&last["libraries"], &last["pages"]),
        (&json!(1), &json!(300))
    );
    assert_eq!(last["freed_bytes"], report["freed_bytes"]);

    let paused = first
        .ask("PUT", "/v1/gc/pause", &[], b"")
        .expect(200)
        .json();
    assert_eq!(
        (&paused["paused"], &paused["last"]),
        (&json!(true), &told["last"])
    );
    first.signal("TERM");
    first.child.wait().unwrap();

    // It is due all the time, and does not begin.
    let second = Service::start_on(&first.store, &["--collect-interval", "1"]);
    let refused = second.post("/v1/gc", &now).expect(409).json();
    assert_eq!(refused["error"], "collections-paused");
    assert_eq!(collections(&second), paused);
    wait::until("one is due", || {
        second
            .log()
            .contains("a collection is due, and they are paused")
    });
    second.ask("DELETE", "/v1/gc/pause", &[], b"").expect(200);
    wait::until("one has run by itself", || {
        collections(&second)["last"][0]["cause"] == "scheduled"
    });
    // None is running, or one that has nothing to do.
    second.ask("DELETE", "/v1/gc/running", &[], b"").expect(200);
}

#[test]
fn a_full_disk_is_collected_before_it_is_due() {
    let Some(disk) = SmallDisk::new(128).unwrap() else {
        return;
    };
    let store = disk.path().join("store");
    let service = Service::start_on(&store, &["--grace", "0", "--segment-bytes", "4194304"]);
    service
        .put("/v1/libs/unused/1", &content(1, 9000))
        .expect(201);
    assert_eq!(collections(&service)["last"], json!([]));
    let wanted = content(2, 9000);
    assert_eq!(service.put("/v1/libs/wanted/1", &wanted).status, 507);
    wait::until("there is room", || {
        service.put("/v1/libs/wanted/1", &wanted).status == 201
    });
    service.get("/v1/libs/unused/1").expect(404);
    // What it was is told once it has ended.
    wait::until("it has ended", || {
        collections(&service)["last"][0]["cause"] == "full-disk"
    });
}
