//! What is in the daemon's way: no room for its log, few descriptors, a socket that somebody has.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use pool_tests::disk::SmallDisk;
use pool_tests::wait;
use poolsvc::{Daemon, Settings};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::{Value, json};

use super::common::{Service, announcement, ask, command, content, record};

#[test]
fn it_serves_when_nothing_can_be_logged() {
    let directory = tempfile::tempdir().unwrap();
    let mut to_full_disk = command(&directory.path().join("full"));
    to_full_disk.stderr(File::options().write(true).open("/dev/full").unwrap());
    let mut to_nobody = command(&directory.path().join("nobody"));
    let (reader, writer) = std::io::pipe().unwrap();
    to_nobody.stderr(writer);
    drop(reader);
    for (command, store) in [(to_full_disk, "full"), (to_nobody, "nobody")] {
        let mut service = Service::run(command, &directory.path().join(store));
        service.put("/v1/libs/a/1", &content(1, 3)).expect(201);
        service.get("/v1/libs/a/1").expect(200);
        service.signal("TERM");
        assert_eq!(service.child.wait().unwrap().code(), Some(0), "{store}");
    }
    // What ends it cannot be told, and is seen all the same.
    let mut wrong = command(std::path::Path::new("/dev/null"));
    wrong.stderr(File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(wrong.status().unwrap().code(), Some(1));
}

/// Sockets that a process has open.
fn sockets(process: u32) -> usize {
    let files = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let is_socket = |file: &fs::DirEntry| {
        fs::read_link(file.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
    };
    files.filter_map(Result::ok).filter(is_socket).count()
}

#[test]
fn connections_leave_files_to_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let mut few = command(&store);
    few.stderr(Stdio::null());
    let limit = Rlimit {
        current: Some(200),
        maximum: Some(256),
    };
    // SAFETY: setrlimit(2) may be called between fork and exec.
    unsafe {
        few.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?));
    }
    let service = Service::run(few, &store);
    let mut mine = service.connect();
    // It is one of those that are served, and stays so.
    let head = b"PUT /v1/libs/a/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4096\r\n";
    mine.write_all(head).unwrap();
    // More than are served and fewer than wait in the kernel's queue.
    let _idle: Vec<_> = (0..150).map(|_| service.connect()).collect();
    let process = service.child.id();
    wait::until("as many are served as may be", || sockets(process) >= 64);
    let rest = [b"\r\n", &content(1, 1)[..]].concat();
    mine.write_all(&rest).unwrap();
    let mut status = [0; 12];
    mine.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 201");
    assert!(sockets(process) < 80, "{}", sockets(process));
}

#[test]
fn a_service_with_a_full_queue_keeps_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.sock");
    let address = SocketAddrUnix::new(&path).unwrap();
    let socket = || {
        let kind = (
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK,
        );
        rustix::net::socket_with(kind.0, kind.1, kind.2, None).unwrap()
    };
    let busy = socket();
    rustix::net::bind(&busy, &address).unwrap();
    rustix::net::listen(&busy, 0).unwrap();
    let mut waiting = Vec::new();
    let full = loop {
        waiting.push(socket());
        if let Err(error) = rustix::net::connect(waiting.last().unwrap(), &address) {
            break error;
        }
    };
    assert_eq!(full, Errno::AGAIN);
    let before = fs::metadata(&path).unwrap().ino();
    let mut second = command(&directory.path().join("store"));
    second.arg("--socket").arg(&path);
    let mut second = second
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = String::new();
    let mut output = BufReader::new(second.stdout.take().unwrap());
    output.read_line(&mut says).unwrap();
    let _ = second.kill();
    let output = second.wait_with_output().unwrap();
    assert_eq!(says, "", "it serves");
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(says.contains("another process listens"), "{says}");
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
}

#[test]
fn a_time_beyond_all_others_is_never() {
    let never = u64::MAX.to_string();
    let mut flags = Vec::new();
    for flag in [
        "--collect-interval",
        "--upload-idle",
        "--grace",
        "--speed-time",
        "--speed-limit",
    ] {
        flags.extend([flag, &never]);
    }
    let mut service = Service::start(&flags);
    service.put("/v1/libs/a/1", &content(1, 3)).expect(201);
    service.post("/v1/gc", &json!({})).expect(200);
    service.get("/v1/libs/a/1").expect(200);
    service.signal("TERM");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    let log = service.log();
    assert!(
        !log.contains("panicked") && !log.contains("ended badly"),
        "{log}"
    );
}

#[test]
fn what_is_announced_at_once_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = Settings::for_store(directory.path().join("store"));
    settings.limits.json_at_once = 1 << 20;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let daemon = runtime.block_on(Daemon::start(settings)).unwrap();
    let begin = || {
        let mut stream = TcpStream::connect(daemon.address()).unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        let head = "POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
                    Content-Type: application/json\r\nContent-Length: 700000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut told = [0; 25];
        stream.read_exact(&mut told).unwrap();
        stream.write_all(&vec![b' '; 699_999]).unwrap();
        stream
    };
    let status = |stream: &mut TcpStream| {
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        String::from_utf8(status.to_vec()).unwrap()
    };
    // One more byte makes each whole. There is room for one of them: the other is refused before.
    let (mut one, mut other) = (begin(), begin());
    let (sender, refused) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for stream in [&one, &other] {
            let (mut stream, sender) = (stream.try_clone().unwrap(), sender.clone());
            scope.spawn(move || sender.send(status(&mut stream)));
        }
        assert_eq!(refused.recv().unwrap(), "HTTP/1.1 503");
        // The one that was not refused is no JSON.
        let _ = (one.write_all(b" "), other.write_all(b" "));
        assert_eq!(refused.recv().unwrap(), "HTTP/1.1 400");
    });
    // There is room again.
    let mut next = begin();
    next.write_all(b" ").unwrap();
    assert_eq!(status(&mut next), "HTTP/1.1 400");
    runtime.block_on(daemon.stop());
}

#[test]
fn a_file_on_its_way_takes_no_more_of_the_disk_than_one_that_is_stored() {
    let Some(disk) = SmallDisk::new(128).unwrap() else {
        return;
    };
    let in_files = ["--upload-memory", "0"];
    let service = Service::start_on(&disk.path().join("store"), &in_files);
    let ballast = disk.leave(24 << 20).unwrap();
    let refused = service.put("/v1/libs/large/1", &content(1, 4000));
    let said = refused.expect(507).json()["detail"].to_string();
    let expected =
        "keeping 16 MiB free for the index and collections beside an upload's temporary file";
    assert!(said.contains(expected), "{said}");
    fs::remove_file(ballast).unwrap();
    service
        .put("/v1/libs/large/1", &content(1, 4000))
        .expect(201);
}

#[test]
fn a_file_that_the_pool_has_needs_no_room_on_the_disk_if_it_has_some_in_memory() {
    let Some(disk) = SmallDisk::new(128).unwrap() else {
        return;
    };
    let memory = (32 << 20).to_string();
    let service = Service::start_on(&disk.path().join("store"), &["--upload-memory", &memory]);
    let (small, large) = (content(1, 1500), content(2, 2500));
    service.put("/v1/libs/small/1", &small).expect(201);
    service.put("/v1/libs/large/1", &large).expect(201);
    disk.leave(6 << 20).unwrap();
    service.put("/v1/libs/again/1", &small).expect(201);
    // Another file, of windows that the pool has, and one with something that it has not.
    let known = &small[..1024 * 4096];
    service.put("/v1/libs/part/1", known).expect(201);
    let refused = service.put("/v1/libs/other/1", &[known, &[7; 100]].concat());
    let said = refused.expect(507).json()["detail"].to_string();
    assert!(said.contains("collections beside the segments"), "{said}");
    // A quarter is what one has.
    let refused = service.put("/v1/libs/again/2", &large);
    let said = refused.expect(507).json()["detail"].to_string();
    assert!(said.contains("an upload's temporary file"), "{said}");
    let stored = service.get("/v1/libs/part/1/content").expect(200);
    assert!(stored.bytes == known);
}

#[test]
fn memory_of_uploads_under_way_is_bounded_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = Settings::for_store(directory.path().join("store"));
    let most = 400 * 4096;
    settings.upload_memory = most;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let daemon = runtime.block_on(Daemon::start(settings)).unwrap();
    let url = format!("http://{}", daemon.address());
    let json = [("content-type", "application/json")];
    let taken = || -> u64 {
        let metrics = ask(&url, "GET", "/metrics", &[], b"").expect(200).bytes;
        let metrics = String::from_utf8(metrics).unwrap();
        let name = "pool_upload_memory_bytes ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse().unwrap()
    };
    assert_eq!(taken(), 0);
    // They send nearly all, and say no more: some of one request, some of many.
    let uploads: Vec<_> = (0..8u64)
        .map(|nth| {
            let content = content(nth, 150);
            let announced = announcement(&format!("l{nth}"), &content).to_string();
            let begun = ask(&url, "POST", "/v1/uploads", &json, announced.as_bytes());
            let upload = begun.expect(201).location().to_owned();
            let records: Vec<_> = content.chunks(4096).skip(1).map(record).collect();
            let at_a_time = if nth % 2 == 0 { 5 } else { 200 };
            for records in records.chunks(at_a_time) {
                let pages = format!("{upload}/pages");
                ask(&url, "PUT", &pages, &[], &records.concat()).expect(200);
                assert!(taken() <= most);
            }
            (upload, content)
        })
        .collect();
    // Those whose requests have room in a quarter take that.
    assert_eq!(taken(), most);
    // All that came is there, in memory or not.
    for (upload, content) in &uploads[..4] {
        let pages = format!("{upload}/pages");
        ask(&url, "PUT", &pages, &[], &record(&content[..4096])).expect(200);
        ask(&url, "POST", &format!("{upload}/commit"), &[], b"").expect(201);
    }
    for (nth, (_, content)) in uploads[..4].iter().enumerate() {
        let stored = ask(&url, "GET", &format!("/v1/libs/l{nth}/1/content"), &[], b"");
        assert_eq!(&stored.expect(200).bytes, content);
    }
    for (upload, _) in &uploads[4..] {
        ask(&url, "DELETE", upload, &[], b"").expect(204);
    }
    // Nobody waits for what they held to be let go.
    wait::until("there is room again", || taken() == 0);
    runtime.block_on(daemon.stop());
}

#[test]
fn what_uploads_under_way_announce_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = Settings::for_store(directory.path().join("store"));
    settings.limits.json_at_once = 100_000;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let daemon = runtime.block_on(Daemon::start(settings)).unwrap();
    let url = format!("http://{}", daemon.address());
    let json = [("content-type", "application/json")];
    let post =
        |path: &str, body: &Value| ask(&url, "POST", path, &json, body.to_string().as_bytes());
    // Each page takes 43 bytes.
    let large = announcement("a", &content(1, 1500));
    let first = post("/v1/uploads", &large).expect(201);
    let refused = post("/v1/uploads", &large).expect(503);
    assert_eq!(refused.json()["error"], "busy");
    assert_eq!(refused.headers["retry-after"], "1");
    // There is room for small ones, and for what is no announcement.
    post("/v1/uploads", &announcement("b", &content(2, 1))).expect(201);
    let other = json!({"name": "a", "tag": "x".repeat(60_000)});
    post("/v1/images/a/1/tag", &other).expect(400);
    ask(&url, "DELETE", first.location(), &[], b"").expect(204);
    // Nobody waits for what it held to be let go.
    wait::until("there is room again", || {
        post("/v1/uploads", &large).status == 201
    });
    runtime.block_on(daemon.stop());
}
