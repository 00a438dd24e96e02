//! Where HTTP has rules of its own (RFC 9110): conditions, ranges, codings, queries, paths.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::common::{Answer, Service, busybox, content};

fn etag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

#[test]
fn a_part_of_a_file_and_a_coded_one_are_refused() {
    let service = Service::start(&[]);
    let body = content(1, 10);
    let path = "/v1/libs/demo/1.0";
    let partial = [("content-range", "bytes 4096-40959/40960")];
    let says = service.ask("PUT", path, &partial, &body).expect(400).json();
    assert_eq!(says["error"], "partial");
    for coding in ["gzip", "br", "identity, zstd"] {
        let headers = [
            ("content-encoding", coding),
            ("content-type", "application/json"),
        ];
        for (method, path) in [("PUT", path), ("POST", "/v1/gc"), ("POST", "/v1/uploads")] {
            let refused = service.ask(method, path, &headers, &body).expect(415);
            assert_eq!(
                refused.headers["accept-encoding"], "identity",
                "{method} {path}"
            );
        }
    }
    service.get(path).expect(404);
    let plain = [("content-encoding", "identity")];
    service.ask("PUT", path, &plain, &body).expect(201);
}

/// The status of the answer to a request that no HTTP library would send.
fn status_of(service: &Service, request: &str) -> u16 {
    let address = service.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(pool_tests::wait::PATIENCE))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    let answer = str::from_utf8(&answer).unwrap();
    answer.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_body_in_another_transfer_coding_is_not_stored() {
    let service = Service::start(&[]);
    let put = |coding: &str| {
        let request = format!(
            "PUT /v1/libs/demo/1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {coding}\r\n\
             \r\n5\r\nhello\r\n0\r\n\r\n"
        );
        status_of(&service, &request)
    };
    for coding in [
        "gzip, chunked",
        "x-gzip,chunked",
        "deflate\r\nTransfer-Encoding: chunked",
        "chunked, chunked",
        "chunked\r\nTransfer-Encoding: chunked",
    ] {
        assert_eq!(put(coding), 501, "{coding}");
    }
    service.get("/v1/libs/demo/1").expect(404);
    assert_eq!(put("Chunked"), 201);
}

#[test]
fn a_request_names_one_host() {
    let service = Service::start(&[]);
    let get = |rest: &str| status_of(&service, &format!("GET {rest}\r\n\r\n"));
    assert_eq!(get("/v1/libs HTTP/1.1\r\nHost: localhost"), 200);
    assert_eq!(get("/v1/libs HTTP/1.0"), 200);
    assert_eq!(get("/v1/libs HTTP/1.1"), 400);
    let two = "/v1/libs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example";
    assert_eq!(get(two), 400);
    for odd in [
        "local host",
        "user@localhost",
        "localhost/",
        "localhost:x",
        "\u{e9}",
    ] {
        let request = format!("/v1/version HTTP/1.1\r\nHost: {odd}");
        assert_eq!(get(&request), 400, "{odd}");
    }
    // The host of the target goes before the header.
    let target = |name: &str| format!("http://{name}/v1/libs HTTP/1.1\r\nHost: localhost");
    assert_eq!(get(&target("localhost")), 200);
    assert_eq!(get(&target("evil.example")), 403);
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
fn a_form_is_no_file() {
    let service = Service::start(&[]);
    let path = "/v1/libs/demo/1";
    for kind in [
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
    ] {
        let refused = service.ask("PUT", path, &[("content-type", kind)], b"content");
        assert_eq!(refused.expect(415).json()["error"], "form", "{kind}");
    }
    service.get(path).expect(404);
    for kind in ["application/octet-stream", "application/x-elf"] {
        let status = service
            .ask("PUT", path, &[("content-type", kind)], b"content")
            .status;
        assert!(status == 201 || status == 200, "{kind}: {status}");
    }
}

#[test]
fn bodies_unread_and_cut_off_do_no_harm() {
    let service = Service::start(&[]);
    let address = service.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(pool_tests::wait::PATIENCE))
        .unwrap();
    // A refusal before the body was read, then a request behind that body.
    let body = "x".repeat(100_000);
    let refused = format!(
        "PUT /v1/libs/.a/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{body}"
    );
    let next = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(refused.as_bytes()).unwrap();
    stream.write_all(next.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let statuses: Vec<_> = answers.matches("HTTP/1.1 ").collect();
    assert_eq!(statuses.len(), 2, "{answers}");
    assert!(answers.starts_with("HTTP/1.1 400 ") && answers.contains("HTTP/1.1 200 "));

    // A body cut off leaves nothing.
    for cut in [
        "Content-Length: 50\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwor",
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("PUT /v1/libs/cut/1 HTTP/1.1\r\nHost: localhost\r\n{cut}");
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    service.get("/v1/libs/cut/1").expect(404);
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
        let get = |_| service.get(path).expect(200);
        let answers: Vec<_> = (0..3000).map(get).collect();
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
fn parts_of_pages_are_served_as_those_of_objects_are() {
    let service = Service::start(&[]);
    let body = content(1, 2);
    service.put("/v1/libs/z/1", &body).expect(201);
    let page = pool_core::digest::PageId::of(&body[..4096]);
    let path = format!("/v1/objects/{page}");
    let part = service.ask("GET", &path, &[("range", "bytes=4000-9999")], b"");
    let part = part.expect(206);
    assert_eq!(part.headers["content-range"], "bytes 4000-4095/4096");
    assert_eq!(part.bytes, &body[4000..4096]);
    let past = service.ask("GET", &path, &[("range", "bytes=4096-")], b"");
    past.expect(416);
    let twice = [("range", "bytes=0-9"), ("range", "bytes=20-29")];
    assert_eq!(
        service
            .ask("GET", &path, &twice, b"")
            .expect(200)
            .bytes
            .len(),
        4096
    );
    // A condition that cannot be read does not hold.
    for path in [path.as_str(), "/v1/libs/z/1/content"] {
        let headers = [("range", "bytes=0-9"), ("if-range", "\u{e9}")];
        service.ask("GET", path, &headers, b"").expect(200);
    }
}

#[test]
fn reads_follow_their_conditions() {
    let service = Service::start(&[]);
    service.put("/v1/images/app/v1", &busybox()).expect(201);
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
    // What is not there is not there, whatever is expected of it.
    let nothing = service.ask("GET", "/v1/images/app/v9", &[("if-match", "*")], b"");
    nothing.expect(404);
}

/// All that comes on a connection in answer to `requests`, the last of which closes it.
fn exchange(service: &Service, requests: &[String]) -> String {
    let address = service.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(pool_tests::wait::PATIENCE))
        .unwrap();
    stream.write_all(requests.concat().as_bytes()).unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    String::from_utf8_lossy(&answers).into_owned()
}

/// HTTP libraries read no body behind the answer to a HEAD, so what comes is looked at: the head of
/// the answer to a GET, byte for byte but for the time, and then the next answer.
#[test]
fn a_head_is_a_get_without_the_body() {
    let service = Service::start(&[]);
    service.put("/v1/images/app/v1", &busybox()).expect(201);
    service.put("/v1/libs/z/1", &content(1, 3)).expect(201);
    let document = service.get("/v1/openapi.json").expect(200).json();
    let digest = service.get("/v1/libs/z/1").json()["object"].clone();
    let request = |method: &str, path: &str, more: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
    };
    let head_of = |answer: &str| {
        let head = answer.split_once("\r\n\r\n").unwrap().0;
        let lines = head.lines().filter(|line| !line.starts_with("date: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let last = request("GET", "/nowhere", "Connection: close\r\n");
    let mut seen = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        if operations.get("get").is_none() || path == "/metrics" {
            // Metrics count what is asked here.
            continue;
        }
        let name = if path.contains("/images/") {
            ["app", "v1"]
        } else {
            ["z", "1"]
        };
        let path = path
            .replace("{library}", "z@1")
            .replace("{image}", "app:v1")
            .replace("{digest}", digest.as_str().unwrap())
            .replace("{name}", name[0])
            .replace("{tag}", name[1])
            .replace("{version}", name[1]);
        for more in [
            "",
            "If-None-Match: *\r\n",
            "If-Match: \"x\"\r\n",
            "If-Match: x\r\n",
        ] {
            let close = format!("{more}Connection: close\r\n");
            let got = exchange(&service, &[request("GET", &path, &close)]);
            let mut expected = head_of(&got);
            expected.retain(|line| line != "connection: close");
            let both = exchange(&service, &[request("HEAD", &path, more), last.clone()]);
            assert_eq!(head_of(&both), expected, "{path}");
            let (_, rest) = both.split_once("\r\n\r\n").unwrap();
            assert!(rest.starts_with("HTTP/1.1 404 "), "{path}: {rest}");
            seen.insert(expected[0].clone());
        }
    }
    let seen: Vec<_> = seen.iter().map(|line| &line[9..12]).collect();
    assert_eq!(seen, ["200", "304", "400", "404", "412"]);
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

#[test]
fn queries_and_paths_are_answered_or_refused() {
    let service = Service::start(&[]);
    service
        .put("/v1/libs/libstdc%2B%2B/1~rc1", &content(1, 1))
        .expect(201);
    service
        .put("/v1/libs/libstdc/1", &content(2, 1))
        .expect(201);
    for query in [
        "prefix=libstdc++",
        "prefix=libstdc%2B%2b",
        "prefix=libstdc%2B+@1~",
    ] {
        let list = service.get(&format!("/v1/libs?{query}")).expect(200).json();
        assert_eq!(list.as_array().unwrap().len(), 1, "{query}");
        assert_eq!(list[0]["name"], "libstdc++");
    }
    for query in [
        "prefix=",
        "prefix=%",
        "prefix=%2",
        "prefix=%zz",
        "prefix=%ff",
        "prefix=%00",
        "prefix=a&prefix=b",
        "prefix=a&",
        "=a",
        "sort=name",
        "prefix=a&limit=3",
    ] {
        let refused = service.get(&format!("/v1/libs?{query}")).expect(400);
        assert_eq!(refused.headers["content-type"], "application/problem+json");
    }
    service.get("/v1/version?verbose=1").expect(400);
    let head = service.ask("HEAD", "/v1/version?verbose=1", &[], b"");
    assert_eq!(head.status, 400);
    service.post("/v1/gc?dry_run=true", &json!({})).expect(400);
    for path in [
        "a%2Fb/1", "a%00/1", "%ff/1", "a%zz/1", "./1", "%2e%2e/1", "a/%20",
    ] {
        let status = service.get(&format!("/v1/libs/{path}")).status;
        assert!(status == 400 || status == 404, "{path}: {status}");
    }
    service.get("/v1/nothing").expect(404);
    let refused = service.ask("PATCH", "/v1/libs/a/1", &[], b"x").expect(405);
    let allowed = refused.headers["allow"].to_str().unwrap();
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        assert!(allowed.contains(method), "{allowed}");
    }
}
