//! How the daemon starts, stops, and survives being killed.

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use pool_api::announce;
use pool_api::client::{Client, PushOptions};
use pool_tests::power::RecordedDisk;
use pool_tests::wait;
use serde_json::json;

use super::common::{Service, announcement, command, content, record, refused};

#[test]
fn it_stops_cleanly_when_told_to() {
    let mut service = Service::start(&[]);
    service.put("/v1/libs/a/1", &content(1, 10)).expect(201);
    // An idle connection must not hold it up.
    let _idle = service.connect();
    service.signal("TERM");
    let status = service.child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!service.log().contains("cutting requests off"));
    let again = Service::start_on(&service.store, &[]);
    assert_eq!(
        again.get("/v1/libs/a/1/content").expect(200).bytes,
        content(1, 10)
    );
}

/// Begins to send a file whose rest is to come, and waits until the service has the beginning.
fn begin_upload(service: &Service, body: &[u8]) -> TcpStream {
    let mut stream = service.connect();
    let head = "PUT /v1/libs/a/1 HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue";
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    // It says so once it reads the body.
    let mut told = [0; 25];
    stream.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&body[..body.len() / 2]).unwrap();
    stream
}

/// Waits until the service takes no more connections.
fn wait_for_the_end(service: &Service) {
    let address = service.url.trim_start_matches("http://");
    wait::until("it listens no more", || {
        TcpStream::connect(address).is_err()
    });
}

#[test]
fn what_is_under_way_is_done_before_it_stops() {
    let mut service = Service::start(&[]);
    let body = content(1, 100);
    let mut stream = begin_upload(&service, &body);
    service.signal("TERM");
    wait_for_the_end(&service);
    stream.write_all(&body[body.len() / 2..]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    let again = Service::start_on(&service.store, &[]);
    assert_eq!(again.get("/v1/libs/a/1/content").expect(200).bytes, body);
}

#[test]
fn told_twice_it_waits_for_nobody() {
    let mut service = Service::start(&[]);
    let mut stream = begin_upload(&service, &content(1, 100));
    service.signal("TERM");
    wait_for_the_end(&service);
    service.signal("INT");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    let mut answer = Vec::new();
    // It may be a reset.
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(String::from_utf8_lossy(&answer), "");
    assert!(
        service.log().contains("told to stop again"),
        "{}",
        service.log()
    );
    let again = Service::start_on(&service.store, &[]);
    again.get("/v1/libs/a/1").expect(404);
}

/// True when a process has ended, or would have but for what the kernel does for its threads (proc_pid_stat(5)).
fn has_left(service: &Service) -> bool {
    let stat = format!("/proc/{}/stat", service.child.id());
    let stat = std::fs::read_to_string(stat).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('Z')
}

#[test]
fn a_disk_that_hangs_does_not_keep_it() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = directory.path().join("journal");
    let Some(disk) = RecordedDisk::new(128, "ext4", nothing).unwrap() else {
        return;
    };
    // Its log is on another disk.
    let store = disk.path().join("store");
    let mut command = command(&store);
    let log = directory.path().join("store");
    let messages = std::fs::File::create(log.with_extension("log")).unwrap();
    command.args(["--segment-bytes", "4194304", "--scrub-interval", "0"]);
    command.stderr(messages);
    let mut service = Service::run(command, &log);
    // More than is looked at before an answer begins.
    service.put("/v1/libs/a/1", &content(1, 600)).expect(201);
    for segment in std::fs::read_dir(store.join("segments")).unwrap() {
        // Whoever reads it now has to wait for the disk.
        let segment = std::fs::File::open(segment.unwrap().path()).unwrap();
        segment.sync_all().unwrap();
        rustix::fs::fadvise(&segment, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    let held = disk.hold();
    let mut stream = service.connect();
    let ask = "GET /v1/libs/a/1/content HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    // The answer begins when the content is being read.
    let mut status = [0; 12];
    let answered = stream.read_exact(&mut status);
    service.signal("TERM");
    wait_for_the_end(&service);
    let waits = service.child.try_wait().unwrap().is_none();
    service.signal("TERM");
    // Nothing of its own keeps it. The kernel may, until a thread that writes to the disk has done so.
    wait::until("it leaves", || has_left(&service));
    drop(held);
    let ended = service.child.wait().unwrap();
    answered.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    assert!(waits, "nothing kept it: {}", service.log());
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn killed_in_an_upload_it_comes_back_without_a_trace_of_it() {
    let mut service = Service::start(&[]);
    let kept = content(2, 100);
    service.put("/v1/libs/kept/1", &kept).expect(201);
    let lost = content(3, 400);
    let started = service
        .post("/v1/uploads", &announcement("lost", &lost))
        .expect(201)
        .json();
    let path = format!("/v1/uploads/{}/pages", started["id"].as_str().unwrap());
    let records: Vec<u8> = lost.chunks(4096).take(300).flat_map(record).collect();
    service.put(&path, &records).expect(200);
    service.signal("KILL");
    service.child.wait().unwrap();

    let again = Service::start_on(&service.store, &[]);
    again.get("/v1/libs/lost/1").expect(404);
    again.put(&path, &records).expect(404);
    assert_eq!(again.get("/v1/libs/kept/1/content").expect(200).bytes, kept);
    assert_eq!(again.get("/v1/stats").json()["stored_pages"], 100);
    let report = again
        .post("/v1/fsck", &json!({"content": true}))
        .expect(200)
        .json();
    assert_eq!(report["findings"], json!([]));
    let staging = std::fs::read_dir(again.store.join("staging")).unwrap();
    assert_eq!(staging.count(), 0);
    let announced = announce::library(&lost, "lost@1".parse().unwrap());
    again
        .client()
        .push(&announced, PushOptions::default(), &|_, _| ())
        .unwrap();
    assert_eq!(again.get("/v1/libs/lost/1/content").expect(200).bytes, lost);
}

#[test]
fn the_unix_socket_serves_its_own_user_without_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.sock");
    // One that a killed service left behind is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let mut service = Service::start(&["--socket", path.to_str().unwrap()]);
    let address = format!("unix:{}", path.display());
    let client = Client::new(address.parse().unwrap(), None);
    let content = content(4, 3000);
    let announced = announce::library(&content, "big@1".parse().unwrap());
    let report = client.push(&announced, PushOptions::default(), &|_, _| ());
    assert_eq!(report.unwrap().sent_pages, 3000);
    let scope = pool_store::manifest::TokenScope::Admin;
    let token = client.add_token("ops".parse().unwrap(), scope).unwrap();
    service.get("/v1/libs").expect(401);
    assert_eq!(client.libraries("").unwrap().len(), 1);
    let object = client.library(&"big@1".parse().unwrap()).unwrap().object;
    assert_eq!(client.object(object).unwrap().unwrap(), content);

    // Another user may connect, and is asked for a token.
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let asked = |header: &str| {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
            curl.args(["-H", header, "http://localhost/v1/libs", "--unix-socket"]);
            let output = curl.arg(&path).uid(65534).gid(65534).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(asked("X-None: none"), "401");
        assert_eq!(
            asked(&format!("Authorization: Bearer {}", token.secret)),
            "200"
        );
    }

    let mut second = command(&directory.path().join("other"));
    second.arg("--socket").arg(&path);
    let (status, says) = refused(second);
    assert_eq!(status.code(), Some(1));
    assert!(says.contains("another process listens"), "{says}");
    service.signal("TERM");
    service.child.wait().unwrap();
    assert!(!path.exists());
}

#[test]
fn what_it_cannot_serve_it_refuses_with_advice() {
    let service = Service::start(&[]);
    let (status, says) = refused(command(&service.store));
    assert_eq!(status.code(), Some(1));
    assert!(says.contains("in use by another process"), "{says}");

    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("notes.txt"), "mine").unwrap();
    let (status, says) = refused(command(&other));
    assert_eq!(status.code(), Some(1));
    assert!(says.contains("is not a pool store"), "{says}");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);

    // It may be a mount point whose filesystem is missing.
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (status, says) = refused(command(&empty));
    assert_eq!(status.code(), Some(1));
    assert!(
        says.contains("empty") && says.contains("pool init"),
        "{says}"
    );
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
    let mut create = Command::new(env!("CARGO_BIN_EXE_poolsvc"));
    create.arg("--store").arg(&empty);
    create.args(["--create", "--listen", "0.0.0.0:0"]);
    let (_, says) = refused(create);
    assert!(says.contains("without a token"), "{says}");
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
    let mut create = command(&empty);
    create.arg("--create").stderr(Stdio::null());
    Service::run(create, &empty).get("/v1/libs").expect(200);
    assert!(empty.join("superblock").exists());

    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let (status, says) = refused(command(&file));
    assert_eq!(status.code(), Some(1));
    assert!(says.contains(file.to_str().unwrap()), "{says}");

    let address = service.url.trim_start_matches("http://");
    // No store is made for whom it does not serve.
    let new = directory.path().join("new");
    let mut taken = Command::new(env!("CARGO_BIN_EXE_poolsvc"));
    taken.arg("--store").arg(&new).args(["--listen", address]);
    let (status, says) = refused(taken);
    assert_eq!(status.code(), Some(1));
    assert!(says.contains("--listen"), "{says}");

    let mut open = Command::new(env!("CARGO_BIN_EXE_poolsvc"));
    open.arg("--store")
        .arg(&new)
        .args(["--listen", "0.0.0.0:0"]);
    let (status, says) = refused(open);
    assert_eq!(status.code(), Some(1));
    assert!(
        says.contains("without a token") && says.contains("pool token add"),
        "{says}"
    );

    // A socket may be in the store that is made.
    let socket = new.join("socket");
    let mut inside = command(&new);
    inside.arg("--socket").arg(&socket).stderr(Stdio::null());
    let inside = Service::run(inside, &new);
    inside.get("/v1/libs").expect(200);
    assert!(socket.exists());
    drop(inside);
    std::fs::remove_dir_all(&new).unwrap();

    let mut long = command(&new);
    long.arg("--socket")
        .arg(directory.path().join("x".repeat(120)));
    let (status, says) = refused(long);
    assert_eq!(status.code(), Some(1));
    assert!(says.contains("fewer than 108 bytes"), "{says}");
    assert!(!new.exists());

    for (flags, word) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--grace", "1"], "--store"),
        (&["--store", "new", "--max-uploads", "0"], "max-uploads"),
    ] {
        let mut wrong = Command::new(env!("CARGO_BIN_EXE_poolsvc"));
        let (status, says) = refused({
            wrong.args(flags).current_dir(directory.path());
            wrong
        });
        assert_eq!(status.code(), Some(2), "{flags:?}");
        assert!(says.contains(word), "{says}");
    }
}

#[test]
fn a_store_of_a_newer_format_is_left_alone() {
    let mut service = Service::start(&[]);
    service.signal("TERM");
    service.child.wait().unwrap();
    let path = service.store.join("superblock");
    let mut superblock = std::fs::read(&path).unwrap();
    superblock[8] = 2;
    // The checksum covers all before it.
    let end = superblock.len() - 32;
    let checksum = pool_core::ObjectId::of(&superblock[..end]);
    superblock[end..].copy_from_slice(checksum.as_bytes());
    std::fs::write(&path, &superblock).unwrap();
    let (status, says) = refused(command(&service.store));
    assert_eq!(status.code(), Some(1));
    assert!(says.contains("newer release"), "{says}");
    assert_eq!(std::fs::read(&path).unwrap(), superblock);
}

#[test]
fn with_a_token_in_its_configuration_it_may_be_reached_by_others() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("poolsvc.toml");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "a secret of many characters\n").unwrap();
    let text = format!(
        "[[token]]\nname = 'ops'\nscope = 'admin'\nsecret-file = '{}'\n",
        secret.display()
    );
    std::fs::write(&config, text).unwrap();
    let store = directory.path().join("store");
    let mut command = Command::new(env!("CARGO_BIN_EXE_poolsvc"));
    command
        .args(["--listen", "0.0.0.0:0", "--config"])
        .arg(&config);
    command.arg("--store").arg(&store).stderr(Stdio::null());
    let service = Service::run(command, &store);
    service.get("/v1/libs").expect(401);
    let client = Client::new(
        service.url.parse().unwrap(),
        Some("a secret of many characters"),
    );
    assert!(client.libraries("").unwrap().is_empty());
    let refused = client.delete_token("ops").unwrap_err().to_string();
    assert!(refused.contains("configuration file"), "{refused}");
}

#[test]
fn no_two_tokens_have_one_name() {
    let mut service = Service::start(&[]);
    let scope = pool_store::manifest::TokenScope::Admin;
    let name = "ops".parse().unwrap();
    service.client().add_token(name, scope).unwrap();
    service.signal("TERM");
    service.child.wait().unwrap();
    let config = service.store.with_extension("toml");
    let digest = "0".repeat(64);
    let text = format!("[[token]]\nname = 'ops'\nscope = 'read'\ndigest = '{digest}'\n");
    std::fs::write(&config, text).unwrap();
    let mut twice = command(&service.store);
    twice.arg("--config").arg(&config);
    let (status, says) = refused(twice);
    assert_eq!(status.code(), Some(1));
    assert!(says.contains("ops as well: rename"), "{says}");
}

#[test]
fn a_service_manager_hears_when_it_is_ready_and_when_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let store = directory.path().join("store");
    let mut command = command(&store);
    command.env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
    let mut service = Service::run(command, &store);
    let heard = || {
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(heard(), "READY=1");
    service.get("/healthz").expect(200);
    service.signal("TERM");
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

#[test]
fn it_collects_by_itself_when_told_to() {
    let service = Service::start(&["--collect-interval", "1", "--grace", "0"]);
    service.put("/v1/libs/a/1", &content(9, 30)).expect(201);
    wait::until("all is collected", || {
        service.get("/v1/stats").json()["stored_pages"] == 0
    });
    service.get("/v1/libs/a/1").expect(404);
}
