//! Where HTTP has rules of its own (RFC 9110): ranges, codings, hosts, methods, queries, paths.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use serde_json::json;

use super::common::{Service, busybox, content};

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
    let mut stream = service.connect();
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
    // Nor is it the service's to answer for what is asked in another way.
    for scheme in ["https", "ftp"] {
        let target = format!("{scheme}://localhost/v1/libs HTTP/1.1\r\nHost: localhost");
        assert_eq!(get(&target), 400, "{scheme}");
    }
}

#[test]
fn who_has_said_all_is_answered() {
    let service = Service::start(&[]);
    let body = content(3, 2000);
    let head = format!(
        "PUT /v1/libs/demo/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let check = "POST /v1/fsck HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: 16\r\n\r\n{\"content\":true}";
    let get = "GET /v1/libs/demo/1/content HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let put = [head.as_bytes(), &body].concat();
    for (request, status) in [
        (&put[..], 201),
        (check.as_bytes(), 200),
        (get.as_bytes(), 200),
    ] {
        let mut stream = service.connect();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let first = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(first.as_bytes()), "{answer:.200?}");
    }
}

#[test]
fn heads_have_a_limit() {
    let service = Service::start(&[]);
    let with = |bytes: usize, end: &str| {
        let padding = "x".repeat(bytes);
        let request = format!("GET /v1/libs HTTP/1.1\r\nHost: localhost\r\nX-Long: {padding}{end}");
        status_of(&service, &request)
    };
    assert_eq!(with(30_000, "\r\n\r\n"), 200);
    // It is met by what is still under way, which would be kept until it ends.
    assert_eq!(with(66_000, ""), 431);
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
    // A refusal before the body was read, then a request behind that body.
    let body = "x".repeat(100_000);
    let refused = format!(
        "PUT /v1/libs/.a/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{body}"
    );
    let next = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answers = service.told(&(refused + next));
    let statuses: Vec<_> = answers.matches("HTTP/1.1 ").collect();
    assert_eq!(statuses.len(), 2, "{answers}");
    assert!(answers.starts_with("HTTP/1.1 400 ") && answers.contains("HTTP/1.1 200 "));

    // A body cut off leaves nothing.
    for cut in [
        "Content-Length: 50\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwor",
    ] {
        let mut stream = service.connect();
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

/// All that comes on a connection in answer to `requests`, the last of which closes it.
fn exchange(service: &Service, requests: &[String]) -> String {
    let mut stream = service.connect();
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
    for method in ["FROBNICATE", "get"] {
        for path in ["/v1/libs", "/v1/nothing"] {
            let unknown = service.told(&format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            ));
            assert!(unknown.starts_with("HTTP/1.1 501 "), "{unknown}");
            assert!(unknown.contains("\"no-method\""), "{unknown}");
        }
    }
}
