//! Damage that the service finds, by itself or asked to, and that pushes mend.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use pool_core::digest::ObjectId;
use pool_tests::wait;
use serde_json::{Value, json};

use super::common::{Service, content, push_library};

/// Turns a bit in all that segments have at a page of `bytes`.
fn flip(service: &Service, bytes: &[u8]) {
    let mut found = 0;
    for segment in fs::read_dir(service.store.join("segments")).unwrap() {
        let path = segment.unwrap().path();
        let pages = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for (nth, page) in pages.chunks(4096).enumerate() {
            if page == &bytes[..4096] {
                file.write_all_at(&[page[9] ^ 1], nth as u64 * 4096 + 9)
                    .unwrap();
                found += 1;
            }
        }
    }
    assert!(found > 0, "it is stored");
}

fn metric(service: &Service, name: &str) -> u64 {
    let metrics = String::from_utf8(service.get("/metrics").expect(200).bytes).unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    value.trim().parse().unwrap()
}

fn scrub(service: &Service) -> Value {
    service.post("/v1/scrub", &json!({})).expect(200).json()
}

#[test]
fn what_a_scrub_finds_is_mended_by_the_next_push() {
    let service = Service::start(&[]);
    let (a, b) = (content(1, 100), content(2, 100));
    service.put("/v1/libs/a/1", &a).expect(201);
    service.put("/v1/libs/b/1", &b).expect(201);
    let clean = scrub(&service);
    assert_eq!(
        (&clean["complete"], &clean["damaged_objects"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(clean["pages"], 200);
    for content in [&a, &b] {
        flip(&service, &content[50 * 4096..]);
    }
    // What the pool has is not read again.
    service.put("/v1/libs/a/1", &a).expect(200);
    let found = scrub(&service);
    let damaged: Vec<String> = serde_json::from_value(found["damaged_objects"].clone()).unwrap();
    let mut expected = [&a, &b].map(|bytes| ObjectId::of(bytes).to_string());
    expected.sort();
    assert_eq!(damaged, expected);
    assert!(
        service.log().contains("needed_by=\"lib/a@1\""),
        "{}",
        service.log()
    );
    assert_eq!(service.get("/v1/stats").json()["damaged_pages"], 2);
    assert_eq!(metric(&service, "pool_store_damaged_pages"), 2);
    assert_eq!(metric(&service, "pool_scrub_damaged_objects"), 2);

    service.put("/v1/libs/a/1", &a).expect(200);
    assert_eq!(push_library(&service.client(), "b@1", &b), 1);
    for (path, bytes) in [("/v1/libs/a/1/content", &a), ("/v1/libs/b/1/content", &b)] {
        assert!(service.get(path).expect(200).bytes == *bytes, "{path}");
    }
    assert_eq!(scrub(&service)["damaged_objects"], json!([]));
    let stats = service.get("/v1/stats").json();
    assert_eq!(stats["damaged_pages"], 0);
    assert!(stats["scrubbed_at"].is_u64());
    assert_eq!(metric(&service, "pool_scrubs_total"), 3);
    assert!(metric(&service, "pool_scrub_read_bytes_total") > 3 * 200 * 4096);
    assert!(metric(&service, "pool_scrub_completed_timestamp_seconds") > 1_600_000_000);
    let report = service.post("/v1/fsck", &json!({"content": true}));
    assert_eq!(report.json()["findings"], json!([]));
    service.post("/v1/gc", &json!({})).expect(200);
}

/// The bytes of an answer, which may have no end.
fn raw(service: &Service, path: &str) -> Vec<u8> {
    let mut stream = service.connect();
    let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn content_that_the_disk_has_changed_is_not_served_to_its_end_and_is_mended() {
    let service = Service::start(&[]);
    // More than is read at a time.
    let a = content(1, 600);
    service.put("/v1/libs/a/1", &a).expect(201);
    for page in [3, 590] {
        flip(&service, &a[page * 4096..]);
        for path in [
            "/v1/libs/a/1/content".to_owned(),
            format!("/v1/objects/{}", ObjectId::of(&a)),
        ] {
            let answer = raw(&service, &path);
            let body = answer
                .windows(4)
                .position(|end| end == b"\r\n\r\n")
                .unwrap()
                + 4;
            // Once it is noted it is not even begun with.
            let is_begun = answer.starts_with(b"HTTP/1.1 200");
            assert!(is_begun || answer.starts_with(b"HTTP/1.1 500"));
            assert!(answer.len() - body < a.len(), "{path}: it was served whole");
        }
        wait::until("it is noted", || {
            service.get("/v1/stats").json()["damaged_pages"] == 1
        });
        // What is known to be wrong is no part of an answer.
        let part = format!("bytes={}-{}", page * 4096, page * 4096 + 99);
        let part = [("range", part.as_str())];
        let refused = service.ask("GET", "/v1/libs/a/1/content", &part, b"");
        refused.expect(500);
        // The rest is.
        let part = [("range", "bytes=409600-409699")];
        let rest = service.ask("GET", "/v1/libs/a/1/content", &part, b"");
        assert!(rest.expect(206).bytes == a[409_600..409_700]);
        service.put("/v1/libs/a/1", &a).expect(200);
        assert!(service.get("/v1/libs/a/1/content").expect(200).bytes == a);
    }
    // A small one is not even begun with, and no part of it.
    let b = content(2, 10);
    service.put("/v1/libs/b/1", &b).expect(201);
    flip(&service, &b[3 * 4096..]);
    let range = [("range", "bytes=0-9")];
    for headers in [&[][..], &range] {
        let refused = service.ask("GET", "/v1/libs/b/1/content", headers, b"");
        let detail = refused.expect(500).json()["detail"].to_string();
        assert!(detail.contains("fsck --content"), "{detail}");
    }
    // A part of a large one cannot be told to be right.
    let part = service.ask(
        "GET",
        "/v1/libs/a/1/content",
        &[("range", "bytes=4096-8191")],
        b"",
    );
    assert!(part.expect(206).bytes == a[4096..8192]);
}

#[test]
fn what_was_in_a_file_that_is_lost_is_pushed_to_another_one() {
    let mut service = Service::start(&[]);
    // A large one in windows, and a small one in single pages.
    let libraries = [("a", content(1, 600)), ("b", content(2, 10))];
    for (name, bytes) in &libraries {
        let path = format!("/v1/libs/{name}/1");
        service.put(&path, bytes).expect(201);
        service.put(&format!("{path}/pin"), b"").expect(200);
    }
    for segment in fs::read_dir(service.store.join("segments")).unwrap() {
        fs::remove_file(segment.unwrap().path()).unwrap();
    }
    let damaged = |service: &Service| service.get("/v1/stats").json()["damaged_pages"].clone();
    let (small, large) = ("/v1/libs/b/1/content", "/v1/libs/a/1/content");
    service.get(small).expect(500);
    wait::until("the small one is noted", || damaged(&service) == 10);
    raw(&service, large);
    wait::until("the large one is noted", || damaged(&service) == 610);
    for (name, bytes) in &libraries {
        let path = format!("/v1/libs/{name}/1");
        service.put(&path, bytes).expect(200);
        let content = service.get(&format!("{path}/content")).expect(200);
        assert!(content.bytes == *bytes, "{name}");
    }
    assert_eq!(damaged(&service), 0);
    let collect = service.post("/v1/gc", &json!({"grace_seconds": 0}));
    collect.expect(200);
    // It is not in a file that only the service has open.
    service.signal("TERM");
    service.child.wait().unwrap();
    let again = Service::start_on(&service.store, &[]);
    for (name, bytes) in &libraries {
        let content = again.get(&format!("/v1/libs/{name}/1/content")).expect(200);
        assert!(content.bytes == *bytes, "{name}");
    }
}

#[test]
fn the_service_scrubs_by_itself_and_goes_on_where_it_was_stopped() {
    let flags = ["--segment-bytes", "2097152", "--scrub-interval", "1000000"];
    let mut first = Service::start(&flags);
    let a = content(1, 3 * 512);
    service_put(&first, &a);
    // The first one is due an interval after the service came, restarts or not.
    let kept = || -> Value {
        let json = fs::read(first.store.join("scrub")).unwrap();
        serde_json::from_slice(&json).unwrap()
    };
    wait::until("it is noted when the first one is due", || {
        first.store.join("scrub").exists()
    });
    let noted = kept();
    assert!(noted["since"].as_u64().unwrap() > 1_600_000_000);
    assert_eq!(noted["pass"], json!(null));
    flip(&first, &a[2 * 512 * 4096..]);
    first.signal("TERM");
    first.child.wait().unwrap();
    assert_eq!(kept(), noted);

    // One that has read the first segment was interrupted.
    let mut state = noted;
    let found = json!({"segments": 1, "pages": 512, "doubtful_pages": 0, "damaged_objects": []});
    state["pass"] = json!({"begun_at": 1_700_000_000, "after": 0, "found": found});
    fs::write(first.store.join("scrub"), state.to_string()).unwrap();
    let second = Service::start_on(&first.store, &[&flags[..], &["--scrub-rate", "0"]].concat());
    wait::until("it goes on", || metric(&second, "pool_scrubs_total") == 1);
    // Two segments, and three for the object that is asked.
    assert_eq!(
        metric(&second, "pool_scrub_read_bytes_total"),
        5 * 512 * 4096
    );
    assert_eq!(metric(&second, "pool_scrub_damaged_objects"), 1);
    let log = second.log();
    assert!(
        log.contains("an object is damaged") && log.contains("lib/a@1"),
        "{log}"
    );
    assert_eq!(kept()["last"]["segments"], 3);
    drop(second);

    let again = ["--segment-bytes", "2097152", "--scrub-interval", "1"];
    let third = Service::start_on(&first.store, &again);
    service_put(&third, &a);
    wait::until("the next one", || {
        metric(&third, "pool_scrub_damaged_objects") == 0
    });
}

fn service_put(service: &Service, bytes: &[u8]) {
    let answer = service.put("/v1/libs/a/1", bytes);
    assert!(matches!(answer.status, 200 | 201), "{}", answer.status);
}

#[test]
fn a_scrub_takes_over_from_one_that_runs_and_none_keeps_the_service_from_ending() {
    let mut service = Service::start(&["--scrub-interval", "1", "--scrub-rate", "1"]);
    service_put(&service, &content(1, 600));
    // The first step takes it weeks.
    wait::until("it scrubs", || {
        metric(&service, "pool_scrub_read_bytes_total") > 0
    });
    service.post("/v1/scrub", &json!({"rate": 0})).expect(400);
    // A client that leaves; for all that the service knows it may have said all that it has to say, and wait.
    let leave = || {
        let before = metric(&service, "pool_scrub_read_bytes_total");
        let mut stream = service.connect();
        let body = r#"{"rate": 1}"#;
        let head = "POST /v1/scrub HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
        let length = body.len();
        let ask = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(ask.as_bytes()).unwrap();
        drop(stream);
        wait::until("it has taken over", || {
            metric(&service, "pool_scrub_read_bytes_total") > before
        });
    };
    leave();
    leave();
    let scrubbed = service.post("/v1/scrub", &json!({})).expect(200);
    assert_eq!(scrubbed.json()["complete"], true);
    assert_eq!(metric(&service, "pool_scrubs_total"), 1);
    leave();
    // However slow it is, it is in nobody's way.
    service.post("/v1/fsck", &json!({})).expect(200);
    service.put("/v1/libs/b/1", &content(2, 10)).expect(201);
    service
        .post("/v1/gc", &json!({"grace_seconds": 0}))
        .expect(200);
    service.signal("TERM");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    let log = service.log();
    assert!(log.contains("stopped") && !log.contains("cutting"), "{log}");
}

#[test]
fn a_damaged_journal_and_a_damaged_index_are_told() {
    let service = Service::start(&[]);
    service_put(&service, &content(1, 100));
    let middle = |path: &Path| fs::metadata(path).unwrap().len() / 2;
    // Twice is nothing, at the same place: a file may become longer meanwhile.
    let turn = |path: &Path, place: u64| {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 4], place).unwrap();
    };
    let one = |directory: &str, end: &str| {
        let files = fs::read_dir(service.store.join(directory)).unwrap();
        let mut paths = files.map(|file| file.unwrap().path());
        paths
            .find(|path| path.to_str().unwrap().contains(end))
            .unwrap()
    };
    let checkpoint = one("journal", ".checkpoint");
    let place = middle(&checkpoint);
    turn(&checkpoint, place);
    let sound = service.post("/v1/fsck", &json!({})).expect(200).json();
    assert_eq!(sound["findings"][0]["problem"], "journal", "{sound}");
    let found = scrub(&service);
    let file = &found["damaged_files"][0];
    assert_eq!(
        (&file["part"], &file["mended"], &found["damaged_objects"]),
        (&json!("checkpoint"), &json!(false), &json!([])),
        "{found}"
    );
    assert_eq!(
        file["file"],
        format!(
            "journal/{}",
            checkpoint.file_name().unwrap().to_str().unwrap()
        )
    );
    assert_eq!(metric(&service, "pool_scrub_damaged_files"), 1);
    turn(&checkpoint, place);
    assert_eq!(scrub(&service)["damaged_files"], json!([]));
    assert_eq!(metric(&service, "pool_scrub_damaged_files"), 0);

    let manifest = one("index", "MANIFEST-");
    let place = middle(&manifest);
    turn(&manifest, place);
    let found = scrub(&service);
    let file = &found["damaged_files"][0];
    assert_eq!(
        (&file["part"], &file["mended"]),
        (&json!("index"), &json!(false)),
        "{found}"
    );
    assert!(
        file["advice"].as_str().unwrap().contains("pool repair"),
        "{found}"
    );
    assert_eq!(metric(&service, "pool_scrub_damaged_files"), 1);
    // What such an index does not refer to is no garbage.
    let refused = service.post("/v1/gc", &json!({})).expect(409).json();
    assert_eq!(refused["error"], "index-distrusted", "{refused}");
    turn(&manifest, place);
    assert_eq!(scrub(&service)["damaged_files"], json!([]));
    assert_eq!(metric(&service, "pool_scrub_damaged_files"), 0);
    let report = service.post("/v1/fsck", &json!({"content": true}));
    assert_eq!(report.json()["findings"], json!([]));
}
