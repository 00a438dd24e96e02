//! JSON bodies: each is of the shape that the document gives it, and nothing in it is overlooked.

use serde_json::{Value, json};

use super::common::{Service, busybox};

/// Every place of `value` where an object is, as a JSON pointer.
fn objects_in(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(at.to_owned());
            for (name, value) in fields {
                objects_in(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(list) => {
            for (position, value) in list.iter().enumerate() {
                objects_in(value, &format!("{at}/{position}"), found);
            }
        }
        _ => {}
    }
}

/// Requests of every route that takes JSON, with everything that can be in them.
fn requests() -> Vec<(&'static str, Value)> {
    let described = pool_image::describe::describe(&busybox())
        .unwrap()
        .description;
    let digest = described.image.digest;
    let mut description = serde_json::to_value(&described).unwrap();
    let library = json!({"library": "z@1", "object": digest, "address": "0x10000000"});
    description["libraries"] = json!([library]);
    description["executable_stack"] = json!(true);
    description["slide"] = json!({"kind": "record", "object": digest, "length": 1});
    let copy = json!({"at": 0, "object": digest, "first": 0, "count": 1});
    let object = |placement: Value| {
        json!({
            "id": digest, "length": 1, "pages": "", "placement": placement, "copies": [copy.clone()],
        })
    };
    let image = json!({
        "kind": "image", "name": "a", "tag": "b", "description": description, "data": digest,
    });
    let library = json!({"kind": "library", "name": "z", "version": "1", "object": digest});
    let (sparse, windows) = (
        json!({"kind": "sparse"}),
        json!({"kind": "windows", "phase": 0}),
    );
    let reservation = json!({
        "library": "z@1", "identity": digest, "shared_pages": 1, "private_pages": 1, "shared_alignment": 8192,
        "tls_size": 8, "tls_alignment": 8, "dependencies": ["y@1"],
        "keeps": "z@0", "places": "AAAA",
    });
    vec![
        (
            "/v1/uploads",
            json!({"target": image, "objects": [object(sparse)]}),
        ),
        (
            "/v1/uploads",
            json!({"target": library, "objects": [object(windows)]}),
        ),
        ("/v1/registry/batch", json!([reservation.clone()])),
        ("/v1/registry", reservation),
        ("/v1/registry/known", json!(["z@1"])),
        ("/v1/gc", json!({"dry_run": true, "grace_seconds": 0})),
        ("/v1/fsck", json!({"content": false})),
        ("/v1/scrub", json!({"rate": 1_000_000_000_000u64})),
        ("/v1/images/a/b/tag", json!({"name": "a", "tag": "c"})),
        ("/v1/tokens", json!({"name": "a", "scope": "read"})),
    ]
}

#[test]
fn nothing_of_a_json_body_is_overlooked() {
    let service = Service::start(&[]);
    for (path, request) in requests() {
        // Whatever becomes of it, its form is right.
        let answer = service.post(path, &request);
        if answer.status >= 400 {
            assert_ne!(answer.json()["error"], "bad-json", "{path}: {answer:?}");
        }
        let mut places = Vec::new();
        objects_in(&request, "", &mut places);
        for place in places {
            let mut misspelt = request.clone();
            misspelt.pointer_mut(&place).unwrap()["tls_sise"] = json!(0);
            let says = service.post(path, &misspelt).expect(400).json();
            let what = says["detail"].as_str().unwrap();
            assert!(what.contains("\"tls_sise\""), "{path}{place}: {what}");

            // serde would take it for a field that is left out.
            for name in request.pointer(&place).unwrap().as_object().unwrap().keys() {
                let mut empty = request.clone();
                empty.pointer_mut(&place).unwrap()[name] = Value::Null;
                let status = service.post(path, &empty).status;
                let may_be_null = ["data", "grace_seconds", "rate"].contains(&name.as_str());
                assert!(
                    status == 400 || may_be_null,
                    "{path}{place}/{name}: {status}"
                );
            }

            // serde would take the number of a kind for its name.
            let mut numbered = request.clone();
            if let Some(kind) = numbered.pointer_mut(&format!("{place}/kind")) {
                *kind = json!(0);
                let says = service.post(path, &numbered).expect(400).json();
                assert_eq!(says["error"], "bad-json", "{path}{place}");
            }

            // serde would take its fields one after another.
            let mut listed = request.clone();
            let object = listed.pointer_mut(&place).unwrap();
            let fields = object.as_object().unwrap();
            *object = fields.values().cloned().collect();
            let says = service.post(path, &listed).expect(400).json();
            let what = says["detail"].as_str().unwrap();
            assert!(
                what.contains("array where an object belongs"),
                "{path}{place}: {what}"
            );
        }
    }
    assert_eq!(service.get("/v1/tokens").json(), json!([]));
    let kind = [("content-type", "application/json")];
    for twice in [
        r#"{"dry_run": true, "dry_run": false}"#,
        // However numbers are written.
        r#"{"dry_run": true, "dry_run": false, "grace_seconds": 100.0}"#,
    ] {
        let refused = service.ask("POST", "/v1/gc", &kind, twice.as_bytes());
        assert_eq!(refused.expect(400).json()["error"], "bad-json", "{twice}");
    }
}

/// A value of few bytes takes many, before anybody sees that it does not belong there.
#[test]
fn what_takes_much_memory_is_refused_unread() {
    let service = Service::start(&[]);
    let kind = [("content-type", "application/json")];
    let objects = vec![r#"{"":0}"#; 100_000].join(",");
    for path in ["/v1/uploads", "/v1/gc"] {
        let body = format!("[{objects}]");
        assert!(body.len() < 1 << 20);
        let refused = service.ask("POST", path, &kind, body.as_bytes());
        assert_eq!(refused.expect(413).json()["error"], "too-large", "{path}");
    }
}
