//! Putting things into a real service: whole, by negotiation, and what must not be let in.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use pool_api::announce;
use pool_api::client::PushOptions;
use pool_core::digest::{ObjectId, PageId};
use serde_json::{Value, json};

use super::common::{Service, announcement, busybox, content, push_library, record};

#[test]
fn curl_pushes_an_image_and_gets_it_back() {
    let service = Service::start(&[]);
    let url = format!("{}/v1/images/busybox/v1", service.url);
    let output = curl().args(["-T", "/bin/busybox", &url]).output();
    let answer = String::from_utf8(output.unwrap().stdout).unwrap();
    let (body, status) = answer.split_at(answer.len() - 3);
    assert_eq!(status, "201", "{answer}");
    let summary: Value = serde_json::from_str(body).unwrap();
    let elf = busybox();
    assert_eq!(summary["target"], "image/busybox:v1");
    assert_eq!(summary["received_bytes"], elf.len());
    assert_eq!(summary["object"], ObjectId::of(&elf).to_string());

    let image = service.get("/v1/images/busybox/v1").expect(200).json();
    let fetched = service.get("/v1/images/busybox/v1/elf").expect(200);
    assert_eq!(fetched.bytes, elf);
    let description = service.get("/v1/images/busybox/v1/desc").expect(200);
    assert_eq!(
        ObjectId::of(&description.bytes).to_string(),
        image["manifest"]
    );
    let data = service.get("/v1/images/busybox/v1/data").expect(200);
    assert_eq!(ObjectId::of(&data.bytes).to_string(), image["data"]);
    // Chunked, without a length, is the same.
    assert_eq!(put_in_chunks(&url, &elf), "200");
}

#[test]
fn negotiation_sends_only_what_is_missing() {
    let service = Service::start(&[]);
    let client = service.client();
    let first = content(1, 600);
    assert_eq!(push_library(&client, "z@1", &first), 600);
    assert_eq!(push_library(&client, "z@1", &first), 0);
    let mut second = first.clone();
    second[5 * 4096..6 * 4096].fill(7);
    second.extend(b"tail");
    assert_eq!(push_library(&client, "z@2", &second), 2);
    let fetched = service.get("/v1/libs/z/2/content").expect(200);
    assert_eq!(fetched.bytes, second);
    assert_eq!(service.get("/v1/stats").json()["uploads"], 0);

    // A curl push of what was negotiated stores nothing new, and the other way round.
    let elf = busybox();
    let described = pool_image::describe::describe(&elf).unwrap();
    let announced = announce::image(&described, "bb:v1".parse().unwrap());
    let report = client.push(&announced, PushOptions::default(), &|_, _| ());
    assert!(report.unwrap().summary.new_pages > 0);
    let again = service.put("/v1/images/bb/v2", &elf).expect(201).json();
    assert_eq!(again["new_pages"], 0);
    let announced = announce::image(&described, "bb:v3".parse().unwrap());
    let report = client.push(&announced, PushOptions::default(), &|_, _| ());
    let report = report.unwrap();
    assert_eq!((report.sent_pages, report.summary.new_pages), (0, 0));
    assert!(report.sent_bytes * 20 < report.file_bytes);
}

#[test]
fn pages_of_another_object_are_not_listed_again() {
    let service = Service::start(&[]);
    let (z, new) = (content(1, 600), content(2, 1));
    push_library(&service.client(), "z@1", &z);
    let (y, z_id) = ([&z[10 * 4096..60 * 4096], &new].concat(), ObjectId::of(&z));
    let digest = PageId::of(&new);
    let announced = |copies: Value| {
        json!({
            "target": {"kind": "library", "name": "y", "version": "1", "object": ObjectId::of(&y)},
            "objects": [{
                "id": ObjectId::of(&y), "length": y.len(), "placement": {"kind": "sparse"},
                "pages": STANDARD.encode(digest.0), "copies": copies,
            }],
        })
    };
    let copy = |at: u64, object: ObjectId, first: u64, count: u64| json!({"at": at, "object": object, "first": first, "count": count});
    let begin = |copies: Value| service.post("/v1/uploads", &announced(copies));

    let unknown = ObjectId::of(b"unknown");
    let refused = begin(json!([copy(0, unknown, 10, 50)])).expect(409).json();
    assert_eq!(refused["error"], "unknown-objects");
    assert_eq!(refused["unknown"], json!([unknown]));
    for (copies, status) in [
        (json!([copy(0, z_id, 551, 50)]), 422),
        (json!([copy(0, z_id, u64::MAX, 50)]), 422),
        (json!([copy(0, z_id, 10, 49)]), 422),
        (json!([copy(0, z_id, 10, 1 << 60)]), 422),
        (json!([copy(0, ObjectId::of(&y), 10, 50)]), 422),
        (json!([copy(30, z_id, 10, 20), copy(0, z_id, 10, 30)]), 422),
        (
            json!([{"at": 0, "object": z_id, "first": 10, "count": 50, "to": 1}]),
            400,
        ),
        (json!(null), 400),
    ] {
        begin(copies.clone()).expect(status);
    }
    // Of other pages than those of the object nothing is made.
    let other = begin(json!([copy(0, z_id, 11, 50)])).expect(201);
    let upload = other.location();
    service
        .put(&format!("{upload}/pages"), &record(&new))
        .expect(200);
    let refused = service.post(&format!("{upload}/commit"), &json!({}));
    assert_eq!(refused.expect(422).json()["error"], "object-mismatch");

    let begun = begin(json!([copy(0, z_id, 10, 50)])).expect(201);
    assert_eq!(begun.json()["missing_pages"], 1);
    let upload = begun.location();
    service
        .put(&format!("{upload}/pages"), &record(&new))
        .expect(200);
    service
        .post(&format!("{upload}/commit"), &json!({}))
        .expect(201);
    assert_eq!(service.get("/v1/libs/y/1/content").expect(200).bytes, y);
}

#[test]
fn what_a_target_refers_to_and_the_pool_has_is_not_announced() {
    let service = Service::start(&[]);
    let z = content(1, 3);
    let known = json!({
        "target": {"kind": "library", "name": "y", "version": "1", "object": ObjectId::of(&z)},
        "objects": [],
    });
    let refused = service.post("/v1/uploads", &known).expect(409).json();
    assert_eq!(refused["unknown"], json!([ObjectId::of(&z)]));
    push_library(&service.client(), "z@1", &z);
    let begun = service.post("/v1/uploads", &known).expect(201);
    let commit = format!("{}/commit", begun.location());
    let summary = service.post(&commit, &json!({})).expect(201).json();
    assert_eq!(
        (&summary["pages"], &summary["known_pages"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(service.get("/v1/libs/y/1/content").expect(200).bytes, z);
}

#[test]
fn pushes_at_the_same_time_store_each_page_once() {
    let service = Service::start(&[]);
    let shared = content(9, 300);
    std::thread::scope(|scope| {
        for n in 0..6u64 {
            let (service, shared) = (&service, &shared);
            scope.spawn(move || {
                let mut own = shared.clone();
                own.extend(content(100 + n, 20));
                push_library(&service.client(), &format!("l{n}@1"), &own);
            });
        }
    });
    let stats = service.get("/v1/stats").json();
    assert_eq!(stats["libraries"], 6);
    assert_eq!(stats["stored_pages"], 300 + 6 * 20);
    assert!(
        service.post("/v1/fsck", &json!({"content": true})).json()["findings"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_commit_needs_all_pages_and_the_right_ones() {
    let service = Service::start(&[]);
    let content = content(3, 3);
    let begin = || {
        let started = service.post("/v1/uploads", &announcement("a", &content));
        let started = started.expect(201);
        assert_eq!(started.json()["missing_pages"], 3);
        started.location().to_owned()
    };
    let upload = begin();
    let pages = format!("{upload}/pages");
    let commit = format!("{upload}/commit");
    service.put(&pages, &record(&content[..4096])).expect(200);
    let refused = service.post(&commit, &json!({})).expect(409).json();
    assert_eq!(refused["error"], "missing-pages");
    let missing = STANDARD
        .decode(refused["missing"].as_str().unwrap())
        .unwrap();
    assert_eq!(missing.len(), 2 * 32);

    let mut wrong = record(&content[4096..8192]);
    wrong[40] ^= 1;
    let refused = service.put(&pages, &wrong).expect(422).json();
    assert_eq!(refused["error"], "page-mismatch");
    let refused = service.put(&pages, &record(b"never announced")).expect(422);
    assert_eq!(refused.json()["error"], "unexpected-page");
    service.put(&pages, &wrong[..100]).expect(422);
    service.get("/v1/libs/a/1").expect(404);

    let rest: Vec<u8> = content[4096..].chunks(4096).flat_map(record).collect();
    let accepted = service.put(&pages, &rest).expect(200).json();
    assert_eq!(accepted["pages"], 2);
    let made = service.post(&commit, &json!({})).expect(201);
    let summary = made.json();
    assert_eq!(made.location(), "/v1/libs/a/1");
    assert_eq!(
        (&summary["new_pages"], &summary["target"]),
        (&json!(3), &json!("lib/a@1"))
    );
    service.post(&commit, &json!({})).expect(404);

    let started = service.post("/v1/uploads", &announcement("b", &content));
    let started = started.expect(201);
    let upload = started.location();
    service.delete(upload).expect(204);
    service.delete(upload).expect(404);
    service.put(&format!("{upload}/pages"), &rest).expect(404);
    service.get("/v1/libs/b/1").expect(404);
}

#[test]
fn a_commit_leaves_no_upload_when_its_client_has_gone() {
    let service = Service::start(&[]);
    let content = content(8, 200);
    let started = service.post("/v1/uploads", &announcement("a", &content));
    let started = started.expect(201);
    let upload = started.location();
    let records: Vec<u8> = content.chunks(4096).flat_map(record).collect();
    service
        .put(&format!("{upload}/pages"), &records)
        .expect(200);
    let commit = format!("POST {upload}/commit HTTP/1.1\r\nHost: localhost\r\n\r\n");
    pool_tests::wait::until("it is committed", || {
        service.connect().write_all(commit.as_bytes()).unwrap();
        service.get("/v1/libs/a/1").status == 200
    });
    pool_tests::wait::until("its upload is forgotten", || {
        service.get("/v1/stats").json()["uploads"] == 0
    });
    let metrics = String::from_utf8(service.get("/metrics").expect(200).bytes).unwrap();
    assert!(!metrics.contains("pool_commits_total 0"), "{metrics}");
}

/// curl without a proxy; it prints the body, then the status.
fn curl() -> Command {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--noproxy", "*", "-w", "%{http_code}"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// The status of a file that curl sends in chunks, without saying how long it is.
fn put_in_chunks(url: &str, file: &[u8]) -> String {
    let mut chunked = curl()
        .args(["-o", "/dev/null", "-T", "-", url])
        .spawn()
        .unwrap();
    // The service may stop listening before the end.
    let _ = chunked.stdin.take().unwrap().write_all(file);
    let output = chunked.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

type Spoil = fn(&mut Value);

#[test]
fn announcements_that_contradict_themselves_are_refused() {
    let service = Service::start(&[]);
    let content = content(4, 3);
    let good = announcement("a", &content);
    let cases: [(u16, Spoil); 10] = [
        (422, |a| a["objects"][0]["length"] = json!(1 << 20)),
        (422, |a| a["objects"][0]["length"] = json!(u64::MAX)),
        (422, |a| a["objects"][0]["placement"]["phase"] = json!(512)),
        (400, |a| a["objects"][0]["pages"] = json!("AAAA")),
        (400, |a| a["objects"][0]["id"] = json!("xyz")),
        (400, |a| a["target"]["name"] = json!("../a")),
        (400, |a| a["target"]["version"] = json!("x".repeat(300))),
        (400, |a| a["target"]["kind"] = json!("directory")),
        (400, |a| a["objects"] = json!(7)),
        (400, |a| *a = json!([])),
    ];
    for (status, spoil) in cases {
        let mut bad = good.clone();
        spoil(&mut bad);
        service.post("/v1/uploads", &bad).expect(status);
    }
    let kind = [("content-type", "application/json")];
    service.ask("POST", "/v1/uploads", &kind, b"{").expect(400);
    service.ask("POST", "/v1/uploads", &[], b"{}").expect(415);

    // Pages that do not make up the object they are said to.
    let mut lie = good.clone();
    lie["objects"][0]["id"] = json!(ObjectId::of(b"another"));
    lie["target"]["object"] = lie["objects"][0]["id"].clone();
    let records: Vec<u8> = content.chunks(4096).flat_map(record).collect();
    let commit = |announcement: &Value| {
        let started = service.post("/v1/uploads", announcement).expect(201);
        let upload = started.location();
        let pages = format!("{upload}/pages");
        service.put(&pages, &records).expect(200);
        service.post(&format!("{upload}/commit"), &json!({}))
    };
    let refused = commit(&lie).expect(422);
    assert_eq!(refused.json()["error"], "object-mismatch");
    // A target whose object nobody announced.
    let mut nobody = good.clone();
    nobody["target"]["object"] = json!(ObjectId::of(b"nobody"));
    service.post("/v1/uploads", &nobody).expect(409);
    assert_eq!(service.get("/v1/libs").json(), json!([]));
    assert_eq!(service.get("/v1/stats").json()["stored_pages"], 0);
}

#[test]
fn names_that_could_do_harm_are_refused() {
    let service = Service::start(&[]);
    let long = "a".repeat(300);
    for bad in [
        "..%2fx", "%2e%2e", "a%2fb", "a%00b", ".hidden", "-x", "a%20b", "%ff", &long,
    ] {
        for path in [format!("/v1/libs/{bad}/1"), format!("/v1/images/app/{bad}")] {
            service.get(&path).expect(400);
            service.put(&path, b"content").expect(400);
            service.delete(&path).expect(400);
        }
    }
    for bad in ["xyz", &"A".repeat(64), &"0".repeat(63)] {
        service.get(&format!("/v1/objects/{bad}")).expect(400);
        service.get(&format!("/v1/why/{bad}")).expect(400);
    }
    service.get("/v1/why/lib/zlib").expect(400);
    service.get("/v1/why/file/a@1").expect(404);
    service.get("/v1/why/lib/a:1").expect(400);
    service.get("/v1/libs/../../etc").expect(404);
    service.get("/etc/passwd").expect(404);
    service.ask("PUT", "/v1/stats", &[], b"").expect(405);
    let mut raw = curl();
    raw.args(["-o", "/dev/null", "--path-as-is"])
        .arg(format!("{}/v1/images/../v1", service.url));
    assert_eq!(raw.output().unwrap().stdout, b"400");
}

#[test]
fn what_is_no_executable_is_refused_with_its_reason() {
    let service = Service::start(&[]);
    let elf = busybox();
    let mut wrong_machine = elf.clone();
    wrong_machine[18] = 183;
    let mut narrow = elf.clone();
    narrow[4] = 1;
    let dynamic = std::fs::read("/proc/self/exe").unwrap();
    for (what, file) in [
        ("empty", &b""[..]),
        ("text", b"#!/bin/sh\n"),
        ("truncated", &elf[..5000]),
        ("32-bit", &narrow),
        ("another machine", &wrong_machine),
        ("dynamic", &dynamic),
    ] {
        let refused = service.put("/v1/images/x/v1", file);
        assert_eq!(refused.status, 422, "{what}");
        assert_eq!(refused.json()["error"], "not-an-image", "{what}");
    }
    service.put("/v1/libs/x/1", b"").expect(422);
    assert_eq!(service.get("/v1/images").json(), json!([]));
    assert_eq!(service.get("/v1/stats").json()["objects"], 0);
}

#[test]
fn bodies_past_the_limit_are_refused_early_and_late() {
    let service = Service::start(&["--body-limit", "1000000"]);
    let elf = busybox();
    assert!(elf.len() > 1_000_000);
    service.put("/v1/images/x/v1", &elf).expect(413);
    // Chunked, the length shows only on the way.
    let url = format!("{}/v1/images/x/v1", service.url);
    assert_eq!(put_in_chunks(&url, &elf), "413");
    let kind = [("content-type", "application/json")];
    let long = vec![b' '; 2 << 20];
    service.ask("POST", "/v1/gc", &kind, &long).expect(413);
    // Negotiation is the way for what is too long, and its requests stay below the limit.
    let described = pool_image::describe::describe(&elf).unwrap();
    let announced = announce::image(&described, "x:v1".parse().unwrap());
    let options = PushOptions {
        connections: 2,
        pages_per_request: 100,
        ..PushOptions::default()
    };
    service
        .client()
        .push(&announced, options, &|_, _| ())
        .unwrap();
    assert_eq!(service.get("/v1/images/x/v1/elf").expect(200).bytes, elf);
}

#[test]
fn uploads_are_bounded_and_forgotten() {
    let service = Service::start(&["--max-uploads", "2"]);
    let announced = announcement("a", &content(5, 1));
    let first = service.post("/v1/uploads", &announced).expect(201);
    service.post("/v1/uploads", &announced).expect(201);
    let refused = service.post("/v1/uploads", &announced).expect(503);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(service.get("/v1/stats").json()["uploads"], 2);
    // The client waits until another has ended.
    let push = || {
        let body = content(5, 1);
        let announced = announce::library(&body, "b@1".parse().unwrap());
        let client = service.client();
        client.push(&announced, PushOptions::default(), &|_, _| ())
    };
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| push().unwrap());
        let asked = "route=\"/v1/uploads\",status=\"503\"} ";
        pool_tests::wait::until("it has been refused", || {
            let metrics = service.get("/metrics").expect(200).bytes;
            let metrics = String::from_utf8(metrics).unwrap();
            let count = metrics.split(asked).nth(1).unwrap();
            count.lines().next().unwrap().parse::<u64>().unwrap() > 2
        });
        service.delete(first.location()).expect(204);
        assert!(pushing.join().unwrap().summary.created);
    });

    let service = Service::start(&["--max-uploads", "1", "--upload-idle", "1"]);
    service.post("/v1/uploads", &announced).expect(201);
    pool_tests::wait::until("the idle upload makes room for another", || {
        service.post("/v1/uploads", &announced).status == 201
    });
}
