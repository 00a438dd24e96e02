//! Clients that send, or take what they are sent, as good as never.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pool_tests::wait;
use serde_json::json;

use super::common::{Service, announcement, content, record};

/// What the service lets nobody do: less than 1000 bytes in a second.
const SPEED: [&str; 4] = ["--speed-time", "1", "--speed-limit", "1000"];

/// The answer to a request whose body comes a byte at a time, for as long as anybody listens.
fn trickle(service: &Service, head: &str) -> String {
    let mut stream = service.connect();
    let head = format!("{head} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    let head = format!("{head}Content-Length: 1000000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut sending = stream.try_clone().unwrap();
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !answered.load(Ordering::Relaxed) && sending.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        // The connection may end by a reset, since the body was not read to its end.
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            answer.extend_from_slice(&piece[..length]);
            if answer.ends_with(b"}") {
                break;
            }
        }
        answered.store(true, Ordering::Relaxed);
        String::from_utf8(answer).unwrap()
    })
}

#[test]
fn a_body_that_trickles_is_given_up() {
    let service = Service::start(&SPEED);
    let announced = announcement("a", &content(1, 1));
    let upload = service.post("/v1/uploads", &announced).expect(201);
    let pages = format!("PUT {}/pages", upload.location());
    for head in [
        "PUT /v1/libs/a/1",
        "POST /v1/gc",
        "POST /v1/uploads",
        &pages,
    ] {
        let answer = trickle(&service, head);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{head}: {answer}");
        assert!(
            answer.contains("fewer than 1000 bytes in 1 seconds"),
            "{answer}"
        );
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    service.get("/v1/libs/a/1").expect(404);
    // The others are served as ever.
    service.put("/v1/libs/a/1", &content(1, 300)).expect(201);
}

/// Asks for a large content, and takes only the beginning of the answer. What the service keeps for
/// that must go: a collection frees all. The rest of the answer must not come.
fn stop_reading(service: &Service, mut stream: impl std::io::Read + std::io::Write) {
    let body = content(1, 16 << 10);
    service.put("/v1/libs/big/1", &body).expect(201);
    let ask = b"GET /v1/libs/big/1/content HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(ask).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    service.delete("/v1/libs/big/1").expect(204);
    wait::until("nothing holds the content any more", || {
        service
            .post("/v1/gc", &json!({"grace_seconds": 0}))
            .expect(200);
        service.get("/v1/stats").json()["disk_bytes"] == 0
    });
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(rest.len() < body.len());
}

#[test]
fn an_answer_that_nobody_takes_holds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.sock");
    let mut flags = SPEED.to_vec();
    flags.extend(["--socket", path.to_str().unwrap()]);
    let service = Service::start(&flags);
    stop_reading(&service, service.connect());
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    stop_reading(&service, stream);
}

/// Sends the first bytes of a body, waits until the service has put down what it can of them, sends the others, and answers with the status.
fn send_in_two(
    service: &Service,
    path: &str,
    parts: [&[u8]; 2],
    is_put_down: impl FnMut() -> bool,
) -> String {
    let mut stream = service.connect();
    let length = parts[0].len() + parts[1].len();
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(parts[0]).unwrap();
    wait::until("what came is put down", is_put_down);
    stream.write_all(parts[1]).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    String::from_utf8(status.to_vec()).unwrap()
}

#[test]
fn what_a_client_that_stalls_has_sent_waits_in_no_buffer() {
    let service = Service::start(&[]);
    let bytes = content(1, 300);
    let begun = service.post("/v1/uploads", &announcement("a", &bytes));
    let upload = begun.expect(201).location().to_owned();
    let records: Vec<u8> = bytes.chunks(4096).flat_map(record).collect();
    // A batch, some more pages, and the beginning of another one.
    let (first, rest) = records.split_at(280 * 4128 + 100);
    let pages = format!("{upload}/pages");
    let are_staged = |pages: usize| {
        let metrics = service.get("/metrics").expect(200).bytes;
        let metrics = String::from_utf8(metrics).unwrap();
        let staged = format!("pool_upload_memory_bytes {}\n", pages * 4096);
        metrics.contains(&staged)
    };
    let status = send_in_two(&service, &pages, [first, rest], || are_staged(280));
    assert_eq!(status, "HTTP/1.1 200");
    service
        .post(&format!("{upload}/commit"), &json!({}))
        .expect(201);
    assert!(service.get("/v1/libs/a/1/content").expect(200).bytes == bytes);

    let other = content(2, 300);
    let (first, rest) = other.split_at(100 * 4096 + 7);
    let library = "/v1/libs/b/1";
    let status = send_in_two(&service, library, [first, rest], || are_staged(101));
    assert_eq!(status, "HTTP/1.1 201");
    assert!(service.get("/v1/libs/b/1/content").expect(200).bytes == other);
}
