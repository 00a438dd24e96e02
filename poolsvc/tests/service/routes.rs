//! What a real service answers about what it has, and who it answers.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pool_api::client::{Client, ClientError};
use pool_core::digest::ObjectId;
use pool_core::registry::Known;
use pool_store::manifest::TokenScope;
use pool_store::upload::page_ids;
use pool_tests::disk::Immutable;
use serde_json::{Value, json};

use super::common::{Answer, Service, busybox, content, push_library};

#[test]
fn libraries_live_are_pinned_and_go() {
    let service = Service::start(&[]);
    let bytes = content(6, 40);
    service.put("/v1/libs/zlib/1.3", &bytes).expect(201);
    service.put("/v1/libs/zlib/1.3", &bytes).expect(200);
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
    let made = tag("stable").expect(201);
    let image = made.json();
    assert_eq!(image["tag"], "stable");
    assert_eq!(service.get(made.location()).expect(200).json(), image);
    tag("stable").expect(200);
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
    let made = service.post("/v1/registry", &request).expect(201);
    let first = made.json();
    assert_eq!(service.get(made.location()).expect(200).json(), first);
    service.get("/v1/registry/zlib/1.4").expect(404);
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
    assert!(refused["detail"].as_str().unwrap().contains("zlib@1.3"));
    let mut huge = request.clone();
    huge["library"] = json!("huge@1");
    huge["shared_pages"] = json!(u64::MAX);
    service.post("/v1/registry", &huge).expect(409);
    let mut odd = request.clone();
    odd["library"] = json!("odd@1");
    odd["tls_size"] = json!(8);
    odd["tls_alignment"] = json!(3);
    service.post("/v1/registry", &odd).expect(422);
    odd["tls_alignment"] = json!(8);
    odd["shared_alignment"] = json!(3);
    service.post("/v1/registry", &odd).expect(422);
    let mut second = request.clone();
    second["library"] = json!("musl@1");
    let all_of = |requests: &[&Value]| service.post("/v1/registry/batch", &json!(requests));
    all_of(&[&second, &other]).expect(409);
    all_of(&[&second, &odd]).expect(422);
    service.get("/v1/registry/musl/1").expect(404);
    let reserved = all_of(&[&second, &request]).expect(200).json();
    assert_eq!(reserved[1], first);
    let got = service.get("/v1/registry/musl/1").expect(200);
    assert_eq!(got.json(), reserved[0]);
    assert_eq!(all_of(&[]).expect(200).json(), json!([]));
    service
        .post("/v1/registry", &json!({"library": "x"}))
        .expect(400);
}

#[test]
fn places_are_reserved_with_records_and_asked_for_piece_by_piece() {
    let service = Service::start(&[]);
    let request = |library: &str, identity: &str| {
        json!({
            "library": library, "identity": ObjectId::of(identity.as_bytes()), "shared_pages": 20, "private_pages": 2,
        })
    };
    // The largest record there is, in base64.
    let record = STANDARD.encode(vec![7; 4 << 20]);
    let mut first = request("z@1", "1");
    first["places"] = json!(record);
    let made = service.post("/v1/registry", &first).expect(201).json();
    assert!(made.get("places").is_none() && made.get("follows").is_none());
    let asked = json!(["z@2", "z@2", "z@2", "y@1"]);
    let known = service
        .post("/v1/registry/known", &asked)
        .expect(200)
        .json();
    let states = known
        .as_array()
        .unwrap()
        .iter()
        .map(|known| &known["state"]);
    assert_eq!(states.collect::<Vec<_>>(), ["earlier", "earlier"]);
    assert_eq!(known[0]["places"], json!(record));
    let client = service.client();
    let all: Vec<_> = ["z@2", "z@2", "z@2", "y@1", "z@1"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let known = client.known_places(&all).unwrap();
    assert_eq!(known.len(), 5);
    assert!(matches!(known[4], Known::Alone));

    let mut second = request("z@2", "2");
    for (keeps, places) in [("z@1", None), ("z@2", Some("AAAA")), ("y@1", Some("AAAA"))] {
        second["keeps"] = json!(keeps);
        second["places"] = json!(places);
        if places.is_none() {
            second.as_object_mut().unwrap().remove("places");
        }
        let refused = service.post("/v1/registry", &second).expect(422).json();
        assert_eq!(refused["error"], "bad-reservation", "{keeps}");
    }
    second["keeps"] = json!("z@1");
    second["places"] = json!("AAAA");
    let made = service.post("/v1/registry", &second).expect(201).json();
    assert_eq!(made["follows"], json!(ObjectId::of(&[0; 3])));
    // The same members with other sizes.
    first["shared_pages"] = json!(21);
    let refused = service.post("/v1/registry", &first).expect(409).json();
    assert!(refused["detail"].as_str().unwrap().contains("other sizes"));
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
    let made = add("ops", "admin", None).expect(201);
    assert_eq!(made.location(), "/v1/tokens/ops");
    let made = made.json();
    let admin = made["secret"].as_str().unwrap().to_owned();
    let challenge = |answer: Answer| answer.expect(401).headers["www-authenticate"].clone();
    assert_eq!(challenge(service.get("/v1/libs")), "Bearer realm=\"pool\"");
    let unknown = challenge(add("ci", "write", Some("none")));
    assert_eq!(unknown, "Bearer realm=\"pool\", error=\"invalid_token\"");
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
    // It would change nothing, and is not to be had for another reason.
    ask(&read, "OPTIONS", "/v1/libs").expect(405);
    // What a token does not allow it says in words and to programs (RFC 6750, 3.1).
    for (secret, method, path, scope) in [
        (&read, "PUT", "/v1/libs/a/1", "write"),
        (&read, "GET", "/v1/tokens", "admin"),
        (&read, "OPTIONS", "/v1/tokens", "admin"),
        (&write, "POST", "/v1/gc", "admin"),
    ] {
        let refused = ask(secret, method, path).expect(403);
        let challenge =
            format!("Bearer realm=\"pool\", error=\"insufficient_scope\", scope=\"{scope}\"");
        assert_eq!(refused.headers["www-authenticate"], challenge.as_str());
        let hint = refused.json()["hint"].as_str().unwrap().to_owned();
        assert!(hint.ends_with(&format!("--scope {scope}")), "{hint}");
    }
    ask(&write, "PUT", "/v1/libs/a/1").expect(201);
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
fn a_token_whose_removal_is_not_acknowledged_opens_nothing() {
    let service = Service::start(&[]);
    let client = |secret: &str| Client::new(service.url.parse().unwrap(), Some(secret));
    let add = |client: &Client, name: &str| {
        let token = client.add_token(name.parse().unwrap(), TokenScope::Admin);
        token.unwrap().secret
    };
    let ops = client(&add(&service.client(), "ops"));
    let gone = client(&add(&ops, "gone"));
    gone.stats().unwrap();
    let Some(frozen) = Immutable::new(&service.store.join("generation")).unwrap() else {
        return;
    };
    let is_refused = |refused: Result<(), ClientError>, expected: u16| {
        assert!(
            matches!(&refused, Err(ClientError::Refused { status, .. }) if *status == expected),
            "{refused:?}"
        );
    };
    is_refused(ops.delete_token("gone"), 503);
    is_refused(gone.stats().map(drop), 401);
    drop(frozen);
    is_refused(ops.delete_token("gone"), 404);
    is_refused(gone.stats().map(drop), 401);
    assert_eq!(ops.tokens().unwrap().len(), 1);
}

/// Nobody is told its secret later, and a first token shuts out whoever has none.
#[test]
fn a_token_that_is_made_and_not_acknowledged_opens_what_it_should() {
    let service = Service::start(&[]);
    let Some(frozen) = Immutable::new(&service.store.join("generation")).unwrap() else {
        return;
    };
    let ops = "ops".parse().unwrap();
    let made = service.client().add_token(ops, TokenScope::Admin).unwrap();
    let client = Client::new(service.url.parse().unwrap(), Some(&made.secret));
    assert_eq!(client.tokens().unwrap().len(), 1);
    // Nothing more is made before that is acknowledged.
    let more = client.add_token("more".parse().unwrap(), TokenScope::Read);
    assert!(more.is_err(), "{more:?}");
    assert_eq!(client.tokens().unwrap().len(), 1);
    drop(frozen);
    client
        .add_token("more".parse().unwrap(), TokenScope::Read)
        .unwrap();
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
    // A body that nobody can read is refused of whatever request it comes with.
    let coded = service.told(
        "GET /v1/libs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
    );
    assert!(coded.starts_with("HTTP/1.1 501 "), "{coded}");
    assert!(document["paths"]["/v1/libs"]["get"]["responses"]["501"].is_object());
    let mut listed = BTreeSet::new();
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            listed.insert(format!("{} {path}", method.to_uppercase()));
            let id = operation["operationId"].as_str().unwrap_or_default();
            operations.insert(id.to_owned());
            assert!(
                !operation["responses"].as_object().unwrap().is_empty(),
                "{path}"
            );
            let made = &operation["responses"]["201"];
            assert!(
                made.is_null() || made["headers"]["Location"].is_object(),
                "{method} {path}"
            );
            let later = &operation["responses"]["503"]["headers"]["Retry-After"];
            assert!(later.is_object(), "{method} {path}");
            for status in ["304", "412"] {
                let comes = !operation["responses"][status].is_null();
                assert!(comes || method != "get", "{method} {path}: {status}");
            }
            let variables = path.matches('{').count();
            let parameters = operation["parameters"].as_array().map_or(0, |all| {
                let in_path = |p: &&Value| p["in"] == "path" && p["required"] == true;
                all.iter().filter(in_path).count()
            });
            assert_eq!(variables, parameters, "{method} {path}");
        }
    }
    let expected: BTreeSet<String> = [
        "DELETE /v1/gc/pause",
        "DELETE /v1/gc/running",
        "DELETE /v1/images/{name}/{tag}",
        "DELETE /v1/libs/{name}/{version}",
        "DELETE /v1/libs/{name}/{version}/pin",
        "DELETE /v1/tokens/{name}",
        "DELETE /v1/uploads/{id}",
        "GET /healthz",
        "GET /metrics",
        "GET /v1/gc",
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
        "GET /v1/registry/{name}/{version}",
        "GET /v1/stats",
        "GET /v1/tokens",
        "GET /v1/version",
        "GET /v1/why/{digest}",
        "GET /v1/why/image/{image}",
        "GET /v1/why/lib/{library}",
        "POST /v1/fsck",
        "POST /v1/gc",
        "POST /v1/images/{name}/{tag}/tag",
        "POST /v1/registry",
        "POST /v1/registry/batch",
        "POST /v1/registry/known",
        "POST /v1/scrub",
        "POST /v1/tokens",
        "POST /v1/uploads",
        "POST /v1/uploads/{id}/commit",
        "PUT /v1/gc/pause",
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
        let path = path.replace(['{', '}'], "");
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
        "pool_collection_hold_seconds_count 1",
        "pool_store_stored_pages 10",
        "route=\"/v1/libs/{name}/{version}\",status=\"404\"} 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
