//! What `pool` reads from and writes to: full disks, closed ends, links, odd names, services that
//! say nothing.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use pool_tests::wait;

use super::common::{BUSYBOX, Pool, busybox, pool as run_pool};

fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn output_that_is_lost_is_a_failure() {
    let pool = Pool::start();
    fs::write(pool.path("content"), "no line of its own").unwrap();
    pool.text(&["push", "lib", "content", "--name", "z", "--version", "1"]);
    for verb in [
        &["cat", "lib/z@1"][..],
        &["ls"],
        &["describe", BUSYBOX],
        &["inspect", BUSYBOX],
        &["minify", BUSYBOX, "-o", "-"],
        &["link", "--version"],
        &["stats", "--json"],
    ] {
        let output = pool.command(verb).stdout(full_disk()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{verb:?}");
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(says.contains("No space left"), "{verb:?}: {says}");
    }
    // Without anybody to tell it to, a failure is one all the same.
    let mut failing = pool.command(&["cat", "lib/none@1"]);
    let status = failing.stderr(full_disk()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn an_output_is_written_where_a_link_leads() {
    let pool = Pool::start();
    let expected = pool.bytes(&["describe", BUSYBOX]);
    // As /dev/stdout is one.
    let link = pool.path("stdout");
    symlink("/proc/self/fd/1", &link).unwrap();
    let file = File::create(pool.path("redirected")).unwrap();
    let mut describe = pool.command(&["describe", BUSYBOX, "-o", "stdout"]);
    assert!(describe.stdout(file).status().unwrap().success());
    assert!(link.is_symlink());
    assert_eq!(fs::read(pool.path("redirected")).unwrap(), expected);
    symlink("absent", pool.path("dangling")).unwrap();
    pool.text(&["describe", BUSYBOX, "-o", "dangling"]);
    assert!(pool.path("dangling").is_symlink());
    assert_eq!(fs::read(pool.path("absent")).unwrap(), expected);
}

#[test]
fn files_may_have_any_name() {
    let pool = Pool::start();
    let expected = pool.text(&["inspect", BUSYBOX]);
    for name in [&b"\xff.elf"[..], b"-x", b"lib", b"a b\n"] {
        let name = OsStr::from_bytes(name);
        fs::write(pool.directory.path().join(name), busybox()).unwrap();
        for verb in [
            &["inspect", "--"][..],
            &["describe", "--"],
            &["extract", "-d", "parts", "--"],
            &["minify", "-o", "small", "--"],
            &["push", "image", "--name", "a", "--tag", "b", "--"],
        ] {
            let output = pool.command(verb).arg(name).output().unwrap();
            let says = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{verb:?} {name:?}: {says}");
            if verb[0] == "inspect" {
                assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
            }
        }
    }
}

#[test]
fn content_that_the_disk_has_changed_is_no_content() {
    let pool = Pool::start();
    fs::write(pool.path("content"), vec![7; 10_000]).unwrap();
    let pushed = pool.json(&["push", "lib", "content", "--name", "z", "--version", "1"]);
    let digest = pushed["object"].as_str().unwrap().to_owned();
    for segment in fs::read_dir(pool.path("store/segments")).unwrap() {
        let segment = File::options().write(true).open(segment.unwrap().path());
        segment.unwrap().write_all_at(b"x", 5000).unwrap();
    }
    for name in ["lib/z@1", &digest] {
        let says = pool.refused(1, &["cat", name]);
        assert!(says.contains("fsck --content"), "{name}: {says}");
    }
}

#[test]
fn the_exit_status_tells_of_damage_though_nobody_reads_the_rest() {
    let mut pool = Pool::start();
    fs::write(pool.path("content"), vec![7; 10_000]).unwrap();
    pool.text(&["push", "lib", "content", "--name", "z", "--version", "1"]);
    pool.end();
    pool.text(&["backup", "whole", "--store", "store"]);
    let spoil = |folder: &str| {
        for file in fs::read_dir(pool.path(folder)).unwrap() {
            let file = File::options().write(true).open(file.unwrap().path());
            file.unwrap().write_all_at(b"x", 5000).unwrap();
        }
    };
    spoil("store/segments");
    spoil("whole/segments");
    let unread = |verb: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = pool.command(verb).stdout(writer).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        assert_eq!(says, "", "{verb:?}");
        output.status.code()
    };
    for verb in [
        &["fsck", "--store", "store", "--content"][..],
        &["scrub", "--store", "store"],
        &["backup", "backup", "--store", "store"],
        &["restore", "whole", "--store", "copy"],
    ] {
        assert_eq!(unread(verb), Some(1), "{verb:?}");
    }
    assert_eq!(unread(&["fsck", "--store", "store"]), Some(0));
    fs::remove_dir_all(pool.path("store/index")).unwrap();
    let repair = ["repair", "--store", "store", "--dry-run"];
    assert_eq!(unread(&repair), Some(1));
}

#[test]
fn what_is_removed_is_told_whatever_follows() {
    let pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    let says = pool.refused(1, &["rm", "image/bb:v1", "image/bb:v2", "image/bb:v3"]);
    assert!(says.contains("removed image/bb:v1, and then"), "{says}");
    assert!(says.contains("no image/bb:v2"), "{says}");
}

#[test]
fn a_service_that_says_nothing_is_given_up() {
    let pool = Pool::start();
    fs::write(pool.path("large"), vec![1; 64 << 20]).unwrap();
    // The kernel takes the connection, and nobody ever reads.
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = pool.path("silent.sock");
    let _unix = UnixListener::bind(&path).unwrap();
    for server in [
        format!("http://{}", tcp.local_addr().unwrap()),
        format!("unix:{}", path.display()),
    ] {
        for verb in [
            &["ls"][..],
            &["gc"],
            &["push", "lib", "large", "--name", "z", "--version", "1"],
        ] {
            let said = ["--timeout", "1", "--server", &server];
            let mut command = run_pool(&[&said[..], verb].concat());
            let output = command.current_dir(pool.directory.path()).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{verb:?}");
            let says = String::from_utf8(output.stderr).unwrap();
            assert!(says.contains("silent for 1 seconds"), "{verb:?}: {says}");
            assert!(says.contains(&server), "{verb:?}: {says}");
        }
    }
}

/// A service that says `answer`, then nothing until its client goes, and its address.
fn service_that_says(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(answer.as_bytes()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    url
}

#[test]
fn a_service_that_falls_silent_is_given_up() {
    // A media type is the same in whatever letters (RFC 9110, 8.3.1).
    let half = service_that_says(
        "HTTP/1.1 200 OK\r\nContent-Type: Application/Octet-Stream; a=b\r\nContent-Length: 10\r\n\r\nhalf",
    );
    let output = run_pool(&["--timeout", "1", "--server", &half, "cat", "lib/z@1"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8(output.stderr).unwrap();
    assert!(says.contains("silent for 1 seconds"), "{says}");
}

/// Reads the head of a request.
fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn an_interrupted_push_gives_its_upload_up() {
    let pool = Pool::start();
    fs::write(pool.path("content"), "some content").unwrap();
    for number in [2, 15] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let push = ["push", "lib", "content", "--name", "z", "--version", "1"];
        let mut push = pool.command(&[&["--server", &url][..], &push].concat());
        let mut push = push.stderr(Stdio::piped()).spawn().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut begin = head(&mut stream);
        let length = begin.split_off(begin.to_lowercase().find("content-length: ").unwrap() + 16);
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        stream.read_exact(&mut vec![0; length]).unwrap();
        // Nothing is missing.
        let body =
            r#"{"id": "up", "epoch": 0, "missing": "", "missing_pages": 0, "idle_seconds": 600}"#;
        let length = body.len();
        let answer = format!("HTTP/1.1 201 Created\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).unwrap();
        assert!(head(&mut stream).starts_with("POST /v1/uploads/up/commit "));
        // The answer does not come.
        let mut kill = Command::new("kill");
        kill.args([format!("-{number}"), push.id().to_string()]);
        assert!(kill.status().unwrap().success());
        let (mut other, _) = listener.accept().unwrap();
        assert!(head(&mut other).starts_with("DELETE /v1/uploads/up "));
        other.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        // It ends by the signal, so that what runs it knows.
        assert_eq!(push.wait().unwrap().signal(), Some(number));
        let mut says = String::new();
        push.stderr
            .take()
            .unwrap()
            .read_to_string(&mut says)
            .unwrap();
        assert_eq!(says, "");
    }
}

#[test]
fn what_another_server_says_is_not_taken_for_the_pools() {
    for (answer, says) in [
        (
            "200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\nlog in",
            ["text/html", "204"],
        ),
        (
            "200 OK\r\nContent-Length: 0\r\n\r\n",
            ["sends nothing", "204"],
        ),
        (
            "200 OK\r\nContent-Type: application/octet-stream\r\nContent-Encoding: gzip\r\n\
             Content-Length: 6\r\n\r\nsmall!",
            ["answers in gzip", "answers in gzip"],
        ),
        (
            "302 Found\r\nLocation: https://login.example\r\nContent-Length: 0\r\n\r\n",
            ["https://login.example", "https://login.example"],
        ),
    ] {
        let answer: &str = format!("HTTP/1.1 {answer}").leak();
        for (verb, word) in ["cat", "rm"].into_iter().zip(says) {
            let url = service_that_says(answer);
            let output = run_pool(&["--server", &url, verb, "lib/z@1"]).output();
            let output = output.unwrap();
            assert_eq!(output.status.code(), Some(1), "{verb} {answer}");
            assert_eq!(output.stdout, b"", "{verb} {answer}");
            let says = String::from_utf8(output.stderr).unwrap();
            assert!(says.contains("does not answer as a pool service"), "{says}");
            assert!(says.contains(word), "{verb} {answer}: {says}");
        }
    }
}

#[test]
fn what_a_service_says_is_nothing_that_a_terminal_obeys() {
    let body = r#"{"error": "x", "detail": "\u001b[2Jgone\u009b"}"#;
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let output = run_pool(&["--server", &service_that_says(answer.leak()), "ls"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8(output.stderr).unwrap();
    assert!(says.contains("gone"), "{says}");
    assert!(!says.contains(['\u{1b}', '\u{9b}']), "{says:?}");
    let body = r#"[{"name": "\u001b[2Jgone\u009b", "scope": "read"}]"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let url = service_that_says(answer.leak());
    let output = run_pool(&["--server", &url, "token", "ls"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0));
    let says = String::from_utf8(output.stdout).unwrap();
    assert!(says.contains("gone"), "{says}");
    assert!(!says.contains(['\u{1b}', '\u{9b}']), "{says:?}");
}

#[test]
fn a_token_whose_secret_nobody_saw_is_none() {
    let pool = Pool::start();
    let add = |name, secret: &str, stdout: Stdio| {
        let mut command = pool.command(&["token", "add", name, "--scope", "admin"]);
        let output = command.env("POOL_TOKEN", secret).stdout(stdout).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let says = String::from_utf8(output.stderr).unwrap();
        assert!(says.contains("removed again"), "{says}");
    };
    let nobody = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    // The first closes the service to its own maker.
    add("ops", "", full_disk().into());
    add("ops", "", nobody().into());
    assert_eq!(pool.json(&["token", "ls"]), serde_json::json!([]));
    let secret = pool.text(&["token", "add", "boss", "--scope", "admin"]);
    add("ops", &secret, nobody().into());
    let list = pool
        .command(&["token", "ls"])
        .env("POOL_TOKEN", &secret)
        .output();
    let list = String::from_utf8(list.unwrap().stdout).unwrap();
    assert!(list.contains("boss") && !list.contains("ops"), "{list}");
}

#[test]
fn a_push_that_waits_says_why() {
    let pool = Pool::start_with(|settings| settings.limits.uploads = 1);
    let ask = |method: &str, path: &str, json: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--noproxy", "*", "-X", method, "--data", json]);
        curl.args(["-H", "Content-Type: application/json"]);
        let output = curl.arg(format!("{}{path}", pool.url)).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{says}");
        output.stdout
    };
    let target = serde_json::json!({
        "kind": "library", "name": "a", "version": "1", "object": "0".repeat(64),
    });
    // One page of zeros.
    let object = serde_json::json!({
        "id": "0".repeat(64), "length": 4096, "placement": {"kind": "sparse"},
        "pages": format!("{}=", "A".repeat(43)),
    });
    let announcement = serde_json::json!({"target": target, "objects": [object]});
    let begun = ask("POST", "/v1/uploads", &announcement.to_string());
    let begun: serde_json::Value = serde_json::from_slice(&begun).unwrap();
    fs::write(pool.path("content"), "some content").unwrap();
    let push = ["push", "lib", "content", "--name", "z", "--version", "1"];
    let mut push = pool.command(&[&["--timeout", "60"][..], &push].concat());
    let mut push = push
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = BufReader::new(push.stderr.take().unwrap());
    let mut line = String::new();
    says.read_line(&mut line).unwrap();
    assert!(line.contains("1 uploads are under way"), "{line}");
    assert!(line.contains("at most 60 seconds"), "{line}");
    let id = begun["id"].as_str().unwrap();
    ask("DELETE", &format!("/v1/uploads/{id}"), "");
    assert!(push.wait().unwrap().success());
    let mut more = String::new();
    says.read_to_string(&mut more).unwrap();
    assert_eq!(more, "");
}

#[test]
fn a_backup_that_is_told_to_end_leaves_no_notes() {
    let pool = Pool::start();
    fs::write(pool.path("content"), vec![7; 20_000]).unwrap();
    pool.text(&["push", "lib", "content", "--name", "a", "--version", "1"]);
    let notes = pool.path("notes");
    fs::create_dir(&notes).unwrap();
    let mut backup = pool.command(&["backup", "backup", "--store", "store", "--rate", "1"]);
    let mut backup = backup.env("TMPDIR", &notes).spawn().unwrap();
    let under_way =
        || fs::read_dir(pool.path("backup/segments")).is_ok_and(|mut made| made.next().is_some());
    wait::until("it copies", under_way);
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 1);
    let mut kill = Command::new("kill");
    kill.args(["-INT".to_owned(), backup.id().to_string()]);
    assert!(kill.status().unwrap().success());
    assert_eq!(backup.wait().unwrap().signal(), Some(2));
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
}
