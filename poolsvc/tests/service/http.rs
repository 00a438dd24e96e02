//! Every route of a real service, and everything that must not be let through.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use pool_api::announce;
use pool_api::client::{Client, PushOptions};
use pool_core::digest::{ObjectId, PageId};
use pool_store::placement::Placement;
use pool_store::upload::{UploadObject, padded, page_ids};
use serde_json::{Value, json};

use super::common::{Service, busybox, content};

fn push_library(client: &Client, reference: &str, content: &[u8]) -> u64 {
    let announced = announce::library(content, reference.parse().unwrap());
    let options = PushOptions {
        connections: 3,
        pages_per_request: 50,
    };
    let report = client.push(&announced, options, &|_, _| ()).unwrap();
    report.sent_pages
}

/// The announcement of a library, as JSON.
fn announcement(name: &str, content: &[u8]) -> Value {
    let object = UploadObject::of(content, Placement::Windows { phase: 0 });
    let digests: Vec<u8> = object
        .pages
        .iter()
        .flat_map(|page| page.map_or([0; 32], |id| id.0))
        .collect();
    json!({
        "target": {"kind": "library", "name": name, "version": "1", "object": object.id},
        "objects": [{
            "id": object.id,
            "length": object.length,
            "placement": {"kind": "windows", "phase": 0},
            "pages": STANDARD.encode(digests),
        }],
    })
}

fn record(page: &[u8]) -> Vec<u8> {
    let mut record = PageId::of(&padded(page)).0.to_vec();
    record.extend(padded(page));
    record
}

#[test]
fn curl_pushes_an_image_and_gets_it_back() {
    let service = Service::start(&[]);
    let url = format!("{}/v1/images/busybox/v1", service.url);
    let output = Command::new("curl")
        .args([
            "-sS",
            "--noproxy",
            "*",
            "-w",
            "%{http_code}",
            "-T",
            "/bin/busybox",
            &url,
        ])
        .output()
        .unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
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
    let mut chunked = Command::new("curl")
        .args([
            "-sS",
            "--noproxy",
            "*",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-T",
            "-",
        ])
        .arg(&url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    chunked.stdin.take().unwrap().write_all(&elf).unwrap();
    assert_eq!(chunked.wait_with_output().unwrap().stdout, b"201");
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
        let started = service
            .post("/v1/uploads", &announcement("a", &content))
            .expect(201)
            .json();
        assert_eq!(started["missing_pages"], 3);
        format!("/v1/uploads/{}", started["id"].as_str().unwrap())
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
    service.put(&pages, &wrong[..100]).expect(400);
    service.get("/v1/libs/a/1").expect(404);

    let rest: Vec<u8> = content[4096..].chunks(4096).flat_map(record).collect();
    let accepted = service.put(&pages, &rest).expect(200).json();
    assert_eq!(accepted["pages"], 2);
    let summary = service.post(&commit, &json!({})).expect(201).json();
    assert_eq!(
        (&summary["new_pages"], &summary["target"]),
        (&json!(3), &json!("lib/a@1"))
    );
    service.post(&commit, &json!({})).expect(404);

    let upload = {
        let started = service.post("/v1/uploads", &announcement("b", &content));
        format!(
            "/v1/uploads/{}",
            started.expect(201).json()["id"].as_str().unwrap()
        )
    };
    service.delete(&upload).expect(204);
    service.delete(&upload).expect(404);
    service.put(&format!("{upload}/pages"), &rest).expect(404);
    service.get("/v1/libs/b/1").expect(404);
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
    let started = service.post("/v1/uploads", &lie).expect(201).json();
    let upload = format!("/v1/uploads/{}", started["id"].as_str().unwrap());
    let records: Vec<u8> = content.chunks(4096).flat_map(record).collect();
    service
        .put(&format!("{upload}/pages"), &records)
        .expect(200);
    let refused = service.post(&format!("{upload}/commit"), &json!({}));
    assert_eq!(refused.expect(422).json()["error"], "object-mismatch");
    // A target whose object nobody announced.
    let mut nobody = good.clone();
    nobody["target"]["object"] = json!(ObjectId::of(b"nobody"));
    let started = service.post("/v1/uploads", &nobody).expect(201).json();
    let upload = format!("/v1/uploads/{}", started["id"].as_str().unwrap());
    service
        .put(&format!("{upload}/pages"), &records)
        .expect(200);
    service
        .post(&format!("{upload}/commit"), &json!({}))
        .expect(422);
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
    service.get("/v1/why/file/a@1").expect(400);
    service.get("/v1/libs/../../etc").expect(404);
    service.get("/etc/passwd").expect(404);
    service.ask("PUT", "/v1/stats", &[], b"").expect(405);
    let raw = Command::new("curl")
        .args([
            "-sS",
            "--noproxy",
            "*",
            "--path-as-is",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ])
        .arg(format!("{}/v1/images/../v1", service.url))
        .output();
    assert_eq!(raw.unwrap().stdout, b"400");
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
    let mut chunked = Command::new("curl")
        .args([
            "-sS",
            "--noproxy",
            "*",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-T",
            "-",
            &url,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The service may stop listening before the end.
    let _ = chunked.stdin.take().unwrap().write_all(&elf);
    assert_eq!(chunked.wait_with_output().unwrap().stdout, b"413");
    let kind = [("content-type", "application/json")];
    let long = vec![b' '; 2 << 20];
    service.ask("POST", "/v1/gc", &kind, &long).expect(413);
    // Negotiation is the way for what is too long, and its requests stay below the limit.
    let described = pool_image::describe::describe(&elf).unwrap();
    let announced = announce::image(&described, "x:v1".parse().unwrap());
    let options = PushOptions {
        connections: 2,
        pages_per_request: 100,
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
    service.post("/v1/uploads", &announced).expect(201);
    service.post("/v1/uploads", &announced).expect(201);
    let refused = service.post("/v1/uploads", &announced).expect(503);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(service.get("/v1/stats").json()["uploads"], 2);

    let service = Service::start(&["--max-uploads", "1", "--upload-idle", "1"]);
    service.post("/v1/uploads", &announced).expect(201);
    pool_tests::wait::until("the idle upload makes room for another", || {
        service.post("/v1/uploads", &announced).status == 201
    });
}

#[test]
fn libraries_live_are_pinned_and_go() {
    let service = Service::start(&[]);
    let bytes = content(6, 40);
    service.put("/v1/libs/zlib/1.3", &bytes).expect(201);
    service.put("/v1/libs/zlib/1.3", &bytes).expect(201);
    let other = service.put("/v1/libs/zlib/1.3", &content(7, 40));
    assert_eq!(other.expect(409).json()["error"], "version-conflict");
    service.put("/v1/libs/lua/5.4", &content(8, 1)).expect(201);
    let names = |path| -> Vec<Value> {
        let list = service.get(path).expect(200).json();
        list.as_array()
            .unwrap()
            .iter()
            .map(|l| l["name"].clone())
            .collect()
    };
    assert_eq!(names("/v1/libs"), ["lua", "zlib"]);
    assert_eq!(names("/v1/libs?prefix=zlib@1"), ["zlib"]);
    let library = service.get("/v1/libs/zlib/1.3").expect(200).json();
    assert_eq!(library["length"], bytes.len());
    assert!(library["unused_since"].is_u64());
    assert_eq!(
        service.get("/v1/libs/zlib/1.3/users").expect(200).json(),
        json!([])
    );

    let path = "/v1/libs/zlib/1.3/content";
    let part = |range| service.ask("GET", path, &[("range", range)], b"");
    assert_eq!(
        part("bytes=4090-4100").expect(206).bytes,
        bytes[4090..=4100]
    );
    assert_eq!(part("bytes=-5").expect(206).bytes, bytes[bytes.len() - 5..]);
    part("bytes=999999999-").expect(416);
    let whole = service.get(path).expect(200);
    let tag = whole.headers["etag"].to_str().unwrap();
    service
        .ask("GET", path, &[("if-none-match", tag)], b"")
        .expect(304);
    let head = service.ask("HEAD", path, &[], b"");
    assert_eq!(
        head.headers["content-length"],
        bytes.len().to_string().as_str()
    );
    let object = library["object"].as_str().unwrap();
    assert_eq!(
        service
            .get(&format!("/v1/objects/{object}"))
            .expect(200)
            .bytes,
        bytes
    );
    let page = page_ids(&bytes)[3].unwrap();
    let page_bytes = service
        .get(&format!("/v1/objects/{page}"))
        .expect(200)
        .bytes;
    assert_eq!(page_bytes, bytes[3 * 4096..4 * 4096]);
    service
        .get(&format!("/v1/objects/{}", "0".repeat(64)))
        .expect(404);

    for path in [
        "/v1/why/lib/zlib@1.3",
        &format!("/v1/why/{object}"),
        &format!("/v1/why/{page}"),
    ] {
        let why = service.get(path).expect(200).json();
        assert_eq!(
            why["objects"][object]["libraries"],
            json!(["zlib@1.3"]),
            "{path}"
        );
    }
    service.get("/v1/why/00000000").expect(200);
    service.get("/v1/why/00ffffff").expect(404);
    service.get("/v1/why/lib/none@1").expect(404);

    service.put("/v1/libs/zlib/1.3/pin", b"").expect(200);
    service.delete("/v1/libs/zlib/1.3").expect(409);
    let dry = service.post("/v1/gc", &json!({"dry_run": true, "grace_seconds": 0}));
    assert_eq!(dry.expect(200).json()["libraries"], json!(["lua@5.4"]));
    let collected = service
        .post("/v1/gc", &json!({"grace_seconds": 0}))
        .expect(200)
        .json();
    assert_eq!(collected["libraries"], json!(["lua@5.4"]));
    service.delete("/v1/libs/zlib/1.3/pin").expect(200);
    service.delete("/v1/libs/zlib/1.3").expect(204);
    service.delete("/v1/libs/zlib/1.3").expect(404);
    let collected = service
        .post("/v1/gc", &json!({"grace_seconds": 0}))
        .expect(200)
        .json();
    assert!(
        collected["freed_bytes"].as_u64().unwrap() > 0,
        "{collected}"
    );
    assert_eq!(service.get("/v1/stats").json()["stored_pages"], 0);
    service.post("/v1/gc", &json!({"grace": 0})).expect(400);
}

#[test]
fn tags_are_given_moved_and_removed() {
    let service = Service::start(&[]);
    service.put("/v1/images/app/v1", &busybox()).expect(201);
    let tag = |to| service.post("/v1/images/app/v1/tag", &json!({"name": "app", "tag": to}));
    let image = tag("stable").expect(200).json();
    assert_eq!(image["tag"], "stable");
    tag("../x").expect(400);
    service
        .post("/v1/images/app/none/tag", &json!({"name": "a", "tag": "b"}))
        .expect(404);
    service.delete("/v1/images/app/v1").expect(204);
    service.delete("/v1/images/app/v1").expect(404);
    service.get("/v1/images/app/v1/elf").expect(404);
    assert_eq!(
        service.get("/v1/images/app/stable/elf").expect(200).bytes,
        busybox()
    );
    assert_eq!(
        service
            .get("/v1/images?prefix=app:s")
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(service.get("/v1/images?prefix=b").json(), json!([]));
}

#[test]
fn addresses_are_reserved_for_good() {
    let service = Service::start(&[]);
    let request = json!({
        "library": "zlib@1.3", "identity": ObjectId::of(b"z"), "shared_pages": 20,
        "private_pages": 2, "tls_size": 0, "tls_alignment": 1, "dependencies": [],
    });
    let first = service.post("/v1/registry", &request).expect(200).json();
    assert_eq!(
        service.post("/v1/registry", &request).expect(200).json(),
        first
    );
    assert_eq!(
        service.get("/v1/registry").expect(200).json(),
        json!([first])
    );
    let mut other = request.clone();
    other["identity"] = json!(ObjectId::of(b"other"));
    let refused = service.post("/v1/registry", &other).expect(409).json();
    assert!(refused["what"].as_str().unwrap().contains("zlib@1.3"));
    let mut huge = request.clone();
    huge["library"] = json!("huge@1");
    huge["shared_pages"] = json!(u64::MAX);
    service.post("/v1/registry", &huge).expect(409);
    let mut odd = request.clone();
    odd["library"] = json!("odd@1");
    odd["tls_size"] = json!(8);
    odd["tls_alignment"] = json!(3);
    service.post("/v1/registry", &odd).expect(422);
    service
        .post("/v1/registry", &json!({"library": "x"}))
        .expect(400);
}

#[test]
fn tokens_open_what_their_scope_says() {
    let service = Service::start(&[]);
    let add = |name: &str, scope: &str, secret: Option<&str>| {
        let bearer = format!("Bearer {}", secret.unwrap_or("none"));
        let headers = [
            ("content-type", "application/json"),
            ("authorization", &bearer),
        ];
        let body = json!({"name": name, "scope": scope}).to_string();
        service.ask("POST", "/v1/tokens", &headers, body.as_bytes())
    };
    // The first must be able to manage the others.
    add("ci", "write", None).expect(409);
    let made = add("ops", "admin", None).expect(201).json();
    let admin = made["secret"].as_str().unwrap().to_owned();
    service.get("/v1/libs").expect(401);
    service.get("/v1/version").expect(200);
    service.get("/healthz").expect(200);
    add("ci", "write", None).expect(401);
    let made = add("ci", "write", Some(&admin)).expect(201).json();
    let write = made["secret"].as_str().unwrap().to_owned();
    let made = add("eye", "read", Some(&admin)).expect(201).json();
    let read = made["secret"].as_str().unwrap().to_owned();
    add("eye", "read", Some(&admin)).expect(409);

    let ask = |secret: &str, method: &str, path: &str| {
        let bearer = format!("Bearer {secret}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        service.ask(method, path, &headers, b"{}")
    };
    ask(&read, "GET", "/v1/libs").expect(200);
    ask(&read, "GET", "/metrics").expect(200);
    ask(&read, "PUT", "/v1/libs/a/1").expect(403);
    ask(&read, "GET", "/v1/tokens").expect(403);
    ask(&write, "PUT", "/v1/libs/a/1").expect(201);
    ask(&write, "POST", "/v1/gc").expect(403);
    ask(&admin, "POST", "/v1/gc").expect(200);
    let list = ask(&admin, "GET", "/v1/tokens").expect(200);
    assert_eq!(list.json().as_array().unwrap().len(), 3);
    for secret in [&admin, &write, &read] {
        let digest = ObjectId::of(secret.as_bytes()).to_string();
        let text = String::from_utf8_lossy(&list.bytes);
        assert!(!text.contains(secret.as_str()) && !text.contains(&digest));
    }
    ask(&admin, "DELETE", "/v1/tokens/ops").expect(409);
    ask(&admin, "DELETE", "/v1/tokens/eye").expect(204);
    ask(&admin, "DELETE", "/v1/tokens/eye").expect(404);
    ask(&read, "GET", "/v1/libs").expect(401);
    let wrong = Client::new(service.url.parse().unwrap(), Some("wrong")).stats();
    assert!(wrong.unwrap_err().to_string().contains("POOL_TOKEN"));
    let right = Client::new(service.url.parse().unwrap(), Some(&admin));
    right.delete_token("ci").unwrap();
    right.delete_token("ops").unwrap();
    service.get("/v1/libs").expect(200);
}

#[test]
fn web_pages_cannot_use_a_service_without_tokens() {
    let service = Service::start(&[]);
    let with = |name, value| service.ask("GET", "/v1/libs", &[(name, value)], b"");
    with("host", "evil.example").expect(403);
    with("origin", "http://evil.example").expect(403);
    with("host", "localhost").expect(200);
}

#[test]
fn the_document_lists_every_route_and_is_sound() {
    let service = Service::start(&[]);
    let document = service.get("/v1/openapi.json").expect(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut listed = BTreeSet::new();
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            listed.insert(format!("{} {path}", method.to_uppercase()));
            let id = operation["operationId"].as_str().unwrap_or_default();
            operations.insert(format!("{method} {path} {id}"));
            assert!(
                !operation["responses"].as_object().unwrap().is_empty(),
                "{path}"
            );
            let variables = path.matches('{').count();
            let parameters = operation["parameters"]
                .as_array()
                .map_or(0, |all| all.iter().filter(|p| p["in"] == "path").count());
            assert_eq!(variables, parameters, "{method} {path}");
        }
    }
    let expected: BTreeSet<String> = [
        "DELETE /v1/images/{name}/{tag}",
        "DELETE /v1/libs/{name}/{version}",
        "DELETE /v1/libs/{name}/{version}/pin",
        "DELETE /v1/tokens/{name}",
        "DELETE /v1/uploads/{id}",
        "GET /healthz",
        "GET /metrics",
        "GET /v1/images",
        "GET /v1/images/{name}/{tag}",
        "GET /v1/images/{name}/{tag}/data",
        "GET /v1/images/{name}/{tag}/desc",
        "GET /v1/images/{name}/{tag}/elf",
        "GET /v1/libs",
        "GET /v1/libs/{name}/{version}",
        "GET /v1/libs/{name}/{version}/content",
        "GET /v1/libs/{name}/{version}/users",
        "GET /v1/objects/{digest}",
        "GET /v1/openapi.json",
        "GET /v1/registry",
        "GET /v1/stats",
        "GET /v1/tokens",
        "GET /v1/version",
        "GET /v1/why/{digest}",
        "GET /v1/why/{kind}/{name}",
        "POST /v1/fsck",
        "POST /v1/gc",
        "POST /v1/images/{name}/{tag}/tag",
        "POST /v1/registry",
        "POST /v1/tokens",
        "POST /v1/uploads",
        "POST /v1/uploads/{id}/commit",
        "PUT /v1/images/{name}/{tag}",
        "PUT /v1/libs/{name}/{version}",
        "PUT /v1/libs/{name}/{version}/pin",
        "PUT /v1/uploads/{id}/pages",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect();
    assert_eq!(listed, expected);
    // What is listed is served: no route answers as an unknown one does.
    for route in &listed {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace("{kind}", "lib").replace(['{', '}'], "");
        let answer = service.ask(method, &path, &[], b"");
        let unknown = answer.status >= 400
            && answer.bytes.first() == Some(&b'{')
            && answer.json()["error"] == "no-route";
        assert!(!unknown && answer.status != 405, "{route}: {answer:?}");
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    assert_eq!(operations.len(), listed.len());
}

#[test]
fn metrics_count_what_happened() {
    let service = Service::start(&[]);
    push_library(&service.client(), "z@1", &content(11, 10));
    service.get("/v1/libs/none/1").expect(404);
    service.post("/v1/gc", &json!({})).expect(200);
    let answer = service.get("/metrics").expect(200);
    let text = String::from_utf8(answer.bytes).unwrap();
    for line in [
        "pool_commits_total 1",
        "pool_new_pages_total 10",
        "pool_received_bytes_total 41280",
        "pool_collections_total 1",
        "pool_store_stored_pages 10",
        "route=\"/v1/libs/{name}/{version}\",status=\"404\"} 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
