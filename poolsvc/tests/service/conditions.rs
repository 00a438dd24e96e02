//! Conditions of reads and changes (RFC 9110, 13).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::common::{Answer, Service, busybox, content};

fn etag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

#[test]
fn a_condition_that_nothing_looks_at_is_refused() {
    let service = Service::start(&[]);
    let json = ("content-type", "application/json");
    let condition = ("if-match", "\"x\"");
    let ask = |method, path, body: &[u8]| {
        let says = service.ask(method, path, &[json, condition], body);
        assert_eq!(says.expect(400).json()["error"], "bad-condition");
    };
    ask("POST", "/v1/tokens", br#"{"name":"a","scope":"admin"}"#);
    assert_eq!(service.get("/v1/tokens").expect(200).json(), json!([]));
    ask("DELETE", "/v1/tokens/a", b"");
    ask("POST", "/v1/gc", b"{}");
    ask("DELETE", "/v1/uploads/x", b"");
    // What is not there, and what cannot be done, is said first.
    let nowhere = service.ask("PUT", "/v1/nowhere", &[condition], b"");
    nowhere.expect(404);
    service
        .ask("PUT", "/v1/tokens", &[condition], b"")
        .expect(405);
}

#[test]
fn an_etag_is_that_of_its_body() {
    let service = Service::start(&[]);
    let path = "/v1/libs/z/1";
    service.put(path, &content(1, 1)).expect(201);
    let done = AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        scope.spawn(|| {
            let pin = format!("{path}/pin");
            while !done.load(Ordering::Relaxed) {
                service.put(&pin, b"").expect(200);
                service.delete(&pin).expect(200);
            }
        });
        let mut answers = Vec::new();
        let mut changes = 0;
        // As many as it takes, on a machine that is busy with other things.
        while answers.len() < 500 || changes < 20 {
            let answer = service.get(path).expect(200);
            changes += usize::from(
                answers
                    .last()
                    .is_some_and(|last: &Answer| last.bytes != answer.bytes),
            );
            answers.push(answer);
        }
        done.store(true, Ordering::Relaxed);
        answers
    });
    let mut tags = BTreeMap::new();
    for answer in &answers {
        let tag = tags.entry(&answer.bytes).or_insert_with(|| etag(answer));
        assert_eq!(*tag, etag(answer), "two tags of one state");
    }
    assert!(tags.len() > 1, "nothing changed meanwhile");
    let distinct: BTreeSet<_> = tags.values().collect();
    assert_eq!(distinct.len(), tags.len(), "one tag of two states");
}

#[test]
fn reads_follow_their_conditions() {
    let service = Service::start(&[]);
    service.put("/v1/images/app/v1", &busybox()).expect(201);
    let kept = [("if-none-match", "*"), ("range", "bytes=999999999-")];
    for conditions in [&kept[..1], &kept] {
        let answer = service.ask("GET", "/v1/images/app/v1/elf", conditions, b"");
        // What a 200 would say (RFC 9110, 15.4.5).
        let answer = answer.expect(304);
        assert_eq!(answer.headers["cache-control"], "private, no-cache");
    }
    for path in [
        "/v1/images/app/v1",
        "/v1/images/app/v1/elf",
        "/v1/images/app/v1/desc",
        "/v1/images",
        "/v1/version",
    ] {
        let whole = service.get(path).expect(200);
        let tag = etag(&whole);
        for method in ["GET", "HEAD"] {
            let ask = |name, value: &str| service.ask(method, path, &[(name, value)], b"");
            for matching in [
                tag.clone(),
                format!("W/{tag}"),
                format!("\"x\", {tag}"),
                "*".into(),
            ] {
                let answer = ask("if-none-match", &matching).expect(304);
                assert_eq!(etag(&answer), tag, "{path}");
                assert!(answer.bytes.is_empty());
                assert!(!answer.headers.contains_key("content-length"), "{path}");
                let cached = answer.headers.get("cache-control");
                assert_eq!(cached, whole.headers.get("cache-control"));
            }
            assert_eq!(ask("if-none-match", "\"x\", W/\"y\"").status, 200);
            assert_eq!(ask("if-match", &format!("\"x\",{tag}")).status, 200);
            assert_eq!(ask("if-match", "*").status, 200);
            assert_eq!(ask("if-match", &format!("W/{tag}")).status, 412);
            assert_eq!(ask("if-match", "\"x\"").status, 412);
            assert_eq!(ask("if-none-match", "unquoted").status, 400);
        }
    }
    let elf = "/v1/images/app/v1/elf";
    let tag = etag(&service.get(elf));
    let none = [("range", "bytes=0-9"), ("if-none-match", tag.as_str())];
    service.ask("GET", elf, &none, b"").expect(304);
    let weak = format!("W/{tag}");
    let other = [("range", "bytes=0-9"), ("if-range", weak.as_str())];
    service.ask("GET", elf, &other, b"").expect(200);
    let same = [("range", "bytes=0-9"), ("if-range", tag.as_str())];
    assert_eq!(
        service.ask("GET", elf, &same, b"").expect(206).bytes.len(),
        10
    );
    let past = service.ask("GET", elf, &[("range", "bytes=999999999-")], b"");
    let total = format!("bytes */{}", busybox().len());
    assert_eq!(past.expect(416).headers["content-range"], total.as_str());
    assert_eq!(
        service
            .ask("HEAD", elf, &[("range", "bytes=0-9")], b"")
            .status,
        200
    );
    service
        .ask("GET", elf, &[("range", "pages=0-9")], b"")
        .expect(200);
    // It has no tag, so it is none of those listed, and it is there.
    for (name, value, status) in [
        ("if-match", "\"x\"", 412),
        ("if-match", "*", 200),
        ("if-none-match", "\"x\"", 200),
        ("if-none-match", "*", 304),
    ] {
        let answer = service.ask("GET", "/metrics", &[(name, value)], b"");
        assert_eq!(answer.status, status, "{name}: {value}");
    }
    // What is not there is not there, whatever is expected of it.
    let nothing = service.ask("GET", "/v1/images/app/v9", &[("if-match", "*")], b"");
    nothing.expect(404);
}

#[test]
fn changes_follow_their_conditions() {
    let service = Service::start(&[]);
    let path = "/v1/images/app/v1";
    let ask = |method, path: &str, name, value: &str| {
        service.ask(method, path, &[(name, value)], &busybox())
    };
    let refused = ask("PUT", path, "if-match", "*").expect(412).json();
    assert_eq!(refused["error"], "precondition-failed");
    ask("PUT", path, "if-none-match", "*").expect(201);
    ask("PUT", path, "if-none-match", "*").expect(412);
    let old = etag(&service.get(path));
    ask("PUT", path, "if-none-match", &format!("W/{old}")).expect(412);
    ask("PUT", path, "if-match", &format!("W/{old}")).expect(412);
    ask("PUT", path, "if-match", &old).expect(200);

    let tag = |name, value: &str| {
        let headers = [(name, value), ("content-type", "application/json")];
        let body = json!({"name": "app", "tag": "stable"}).to_string();
        service.ask("POST", "/v1/images/app/v1/tag", &headers, body.as_bytes())
    };
    tag("if-match", "*").expect(412);
    tag("if-none-match", "*").expect(201);
    tag("if-none-match", "*").expect(412);

    let library = "/v1/libs/z/1";
    service.put(library, &content(1, 2)).expect(201);
    // What is announced is not even looked at when the name is not as expected.
    let target = json!({"kind": "library", "name": "z", "version": "1", "object": "0".repeat(64)});
    let announcement = json!({"target": target, "objects": []}).to_string();
    for (condition, status) in [("*", 412), ("\"x\"", 409)] {
        let headers = [
            ("if-none-match", condition),
            ("content-type", "application/json"),
        ];
        let begun = service.ask("POST", "/v1/uploads", &headers, announcement.as_bytes());
        assert_eq!(begun.status, status, "{condition}");
    }
    let before = etag(&service.get(library));
    let pin = format!("{library}/pin");
    ask("PUT", &pin, "if-match", &before).expect(200);
    // It is another state now: a second writer with the old one loses.
    ask("DELETE", &pin, "if-match", &before).expect(412);
    let pinned = etag(&service.get(library));
    ask("DELETE", library, "if-match", "\"x\"").expect(409);
    ask("DELETE", &pin, "if-match", &pinned).expect(200);
    ask("DELETE", library, "if-match", &pinned).expect(412);
    ask("DELETE", library, "if-match", "*").expect(204);
    ask("DELETE", library, "if-match", "*").expect(404);
    ask("DELETE", path, "if-none-match", "*").expect(412);
    ask("DELETE", path, "if-match", "*").expect(204);
}

/// Statuses of eight requests at the same time, sorted.
fn race(ask: impl Fn(u64) -> u16 + Sync) -> Vec<u16> {
    let start = Barrier::new(8);
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let one = |n| {
            let (start, ask) = (&start, &ask);
            scope.spawn(move || {
                start.wait();
                ask(n)
            })
        };
        let all: Vec<_> = (0..8).map(one).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    statuses
}

#[test]
fn of_those_who_push_at_once_one_wins() {
    let service = Service::start(&[]);
    let new = [("if-none-match", "*")];
    let won = race(|n| {
        service
            .ask("PUT", "/v1/libs/z/1", &new, &content(n, 3))
            .status
    });
    assert_eq!(won, [201, 412, 412, 412, 412, 412, 412, 412]);

    // Each reads, then writes what it made of that: nobody's work is lost unseen.
    let path = "/v1/libs/z/1/pin";
    let seen = etag(&service.get("/v1/libs/z/1"));
    let condition = [("if-match", seen.as_str())];
    let won = race(|_| service.ask("PUT", path, &condition, b"").status);
    assert_eq!(won, [200, 412, 412, 412, 412, 412, 412, 412]);
}
