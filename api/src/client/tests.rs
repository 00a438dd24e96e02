//! The client, and services that do not do as it would have them.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use super::asking::Octets;
use super::*;
use crate::announce::{self, Announcement};

/// A place to be asked at, and a client that asks there.
fn service() -> (TcpListener, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = Client::new(url.parse().unwrap(), None);
    (listener, client)
}

/// An announcement of little.
fn announced() -> Announcement<'static> {
    announce::library(b"content", "a@1".parse().unwrap())
}

/// Takes an announcement in.
fn hear(stream: &mut impl Read) {
    let mut request = Vec::new();
    // As JSON ends, and as no head does.
    while !request.ends_with(b"}") {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "it ended early");
        request.extend_from_slice(&piece[..length]);
    }
}

/// Answers; further headers follow the status.
fn say(stream: &mut impl Write, status: &str, body: &str) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).unwrap();
}

/// Answers a request, most of which is still to come, and hears no more of it.
fn refuse(mut stream: impl Read + Write) {
    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
    let body = r#"{"error": "forbidden", "detail": "not you"}"#;
    say(&mut stream, "403 Forbidden\r\nConnection: close", body);
}

/// Sends much to a service that refuses it.
fn is_refused(address: &str, accept_and_refuse: impl FnOnce() + Send) {
    let client = Client::new(address.parse().unwrap(), None);
    let body = vec![0; 64 << 20];
    thread::scope(|scope| {
        scope.spawn(accept_and_refuse);
        let sent = client.ask(Method::PUT, "/v1/libs/a/1", Octets(&body));
        let sent = sent.map(drop);
        assert!(
            matches!(&sent, Err(ClientError::Refused { status: 403, .. })),
            "{sent:?}"
        );
    });
}

#[test]
fn a_refusal_is_heard_by_who_is_still_sending() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", tcp.local_addr().unwrap());
    is_refused(&url, || refuse(tcp.accept().unwrap().0));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display());
    is_refused(&address, || refuse(unix.accept().unwrap().0));
}

#[test]
fn who_says_nothing_is_not_asked_again() {
    let (listener, client) = service();
    let silent = listener.try_clone().unwrap();
    let silent = thread::spawn(move || {
        let (mut stream, _) = silent.accept().unwrap();
        hear(&mut stream);
        let begun = r#"{"id": "x", "epoch": 0, "missing": "", "missing_pages": 0,
                        "idle_seconds": 600}"#;
        say(&mut stream, "201 Created", begun);
        // The commit; then the client goes, however.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let client = client.with_patience(Duration::from_secs(1));
    let pushed = client.push(&announced(), PushOptions::default(), &|_, _| ());
    assert!(
        matches!(&pushed, Err(ClientError::Silent { seconds: 1, .. })),
        "{pushed:?}"
    );
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it was asked again");
    silent.join().unwrap();
}

#[test]
fn nobody_is_waited_for_until_tomorrow() {
    let (listener, client) = service();
    let busy = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        hear(&mut stream);
        let status = "503 Service Unavailable\r\nRetry-After: 86400";
        say(
            &mut stream,
            status,
            r#"{"error": "busy", "detail": "tomorrow"}"#,
        );
    });
    let refused = client.push(&announced(), PushOptions::default(), &|_, _| ());
    assert!(
        matches!(&refused, Err(ClientError::Refused { status: 503, .. })),
        "{refused:?}"
    );
    busy.join().unwrap();
}

#[test]
fn that_a_push_waits_is_told_once() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    fn waiting(why: &str, patience: Option<Duration>) {
        TOLD.lock().unwrap().push(format!("{why} {patience:?}"));
    }
    let (listener, client) = service();
    let busy = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for _ in 0..3 {
            hear(&mut stream);
            let status = "503 Service Unavailable\r\nRetry-After: 0";
            say(
                &mut stream,
                status,
                r#"{"error": "busy", "detail": "full"}"#,
            );
        }
        hear(&mut stream);
        say(
            &mut stream,
            "403 Forbidden",
            r#"{"error": "no", "detail": "no"}"#,
        );
    });
    let options = PushOptions {
        waiting,
        ..PushOptions::default()
    };
    let since = Instant::now();
    let refused = client.push(&announced(), options, &|_, _| ());
    assert!(
        matches!(&refused, Err(ClientError::Refused { status: 403, .. })),
        "{refused:?}"
    );
    // Nobody is asked without a pause.
    assert!(since.elapsed() >= 3 * push::LEAST_PAUSE);
    assert_eq!(*TOLD.lock().unwrap(), ["full Some(600s)"]);
    busy.join().unwrap();
}
