//! The command line, run as people run it, against a real service.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use poolsvc::{Daemon, Settings};
use serde_json::Value;
use tempfile::TempDir;

/// A service in this process, and a folder to work in.
struct Pool {
    directory: TempDir,
    url: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings::for_store(directory.path().join("store"));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (started, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let daemon = Daemon::start(settings).await.unwrap();
                started.send(daemon.address()).unwrap();
                // Either way the service ends.
                let _ = stopped.await;
                daemon.stop().await;
            });
        });
        Self {
            url: format!("http://{}", address.recv().unwrap()),
            directory,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = pool(arguments);
        command
            .env("POOL_SERVER", &self.url)
            .current_dir(self.directory.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a run that must succeed.
    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.bytes(arguments)).unwrap()
    }

    #[track_caller]
    fn bytes(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(arguments);
        let says = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {says}");
        output.stdout
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        serde_json::from_slice(&self.bytes(&all)).unwrap()
    }

    /// Standard error of a run that must fail with `code`.
    #[track_caller]
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end();
    }
}

fn pool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pool"));
    command
        .args(arguments)
        .env_remove("POOL_SERVER")
        .env_remove("POOL_TOKEN")
        .env_remove("POOL_REGISTRY")
        .stdin(Stdio::null());
    command
}

const BUSYBOX: &str = "/bin/busybox";

fn busybox() -> Vec<u8> {
    std::fs::read(BUSYBOX).expect("busybox-static is installed")
}

#[test]
fn an_image_is_pushed_listed_fetched_tagged_and_removed() {
    let pool = Pool::start();
    let pushed = pool.json(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    assert_eq!(pushed["target"], "image/bb:v1");
    assert_eq!(pushed["file_bytes"], busybox().len());
    assert_eq!(pushed["sent_pages"], pushed["new_pages"]);
    let text = pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v2"]);
    assert!(text.contains(" 0 new"), "{text}");

    let list = pool.json(&["ls", "images"]);
    assert_eq!(list["images"].as_array().unwrap().len(), 2);
    assert!(list.get("libraries").is_none());
    let text = pool.text(&["ls", "image/bb:v2"]);
    assert!(
        text.contains("image/bb:v2") && !text.contains("image/bb:v1"),
        "{text}"
    );
    let file = list["images"][0]["file"].as_str().unwrap();
    for referent in ["image/bb:v1", file, "/pool/images/bb/v1/image.elf"] {
        assert_eq!(pool.bytes(&["cat", referent]), busybox(), "{referent}");
    }
    assert!(pool.text(&["why", file]).contains("image/bb:v2"));
    assert_eq!(
        pool.json(&["inspect", "image/bb:v1"]),
        pool.json(&["inspect", BUSYBOX])
    );
    pool.text(&["tag", "image/bb:v1", "image/bb:stable"]);
    pool.text(&["rm", "image/bb:v1", "image/bb:v2"]);
    assert_eq!(pool.bytes(&["cat", "image/bb:stable"]), busybox());
    pool.text(&["rm", "image/bb:stable"]);
    let dry = pool.json(&["gc", "--dry-run", "--grace", "0"]);
    let done = pool.json(&["gc", "--grace", "0"]);
    assert_eq!(dry["pages"], done["pages"]);
    assert!(done["freed_bytes"].as_u64().unwrap() > 1 << 20, "{done}");
    assert_eq!(pool.json(&["stats"])["stored_pages"], 0);
}

#[test]
fn a_push_tells_code_from_symbols() {
    let pool = Pool::start();
    let push = |tag, more: &[&str]| {
        let words = ["push", "image", BUSYBOX, "--name", "bb", "--tag", tag];
        pool.run(&[&words[..], more].concat())
    };
    let report = |output: Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let first = report(push("v1", &["--json"]));
    let count = |report: &Value, name: &str| report[name].as_u64().unwrap();
    let sent = count(&first, "sent_memory_pages") + count(&first, "sent_symbol_pages");
    assert_eq!(sent, count(&first, "sent_pages"));
    assert!(count(&first, "sent_memory_pages") > 100 && count(&first, "sent_symbol_pages") > 0);
    assert_eq!(first["created"], true);
    let again = report(push("v2", &["--json"]));
    assert_eq!(count(&again, "sent_pages"), 0);
    assert_eq!(count(&again, "unsent_pages"), sent);
    let text = String::from_utf8(push("v2", &[]).stdout).unwrap();
    assert!(
        text.contains("0 B code and data, 0 B symbols and headers"),
        "{text}"
    );
    let refused = push("v2", &["--only-new"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("image/bb:v2"));
    assert!(push("v3", &["--only-new"]).status.success());
}

#[test]
fn names_that_are_words_elsewhere_are_reached_by_every_verb() {
    let pool = Pool::start();
    let (digits, longest) = ("0123456789abcdef".repeat(4), "n".repeat(128));
    for (name, version) in [
        ("images", "libs"),
        ("libs", "1.0"),
        ("map", "desc"),
        ("content", "map"),
        ("objects", "latest"),
        ("segments", "0000002a"),
        ("lib", "image"),
        ("image", "lib"),
        ("g++", "1.2~rc1"),
        ("a_b-c.d", "v+1"),
        (&digits, &digits),
        (&longest, &longest),
    ] {
        let (image, library) = (
            format!("image/{name}:{version}"),
            format!("lib/{name}@{version}"),
        );
        std::fs::write(pool.path("content"), format!("content of {library}")).unwrap();
        pool.text(&[
            "push",
            "lib",
            "content",
            "--name",
            name,
            "--version",
            version,
        ]);
        pool.text(&["push", "image", BUSYBOX, "--name", name, "--tag", version]);
        let content = std::fs::read(pool.path("content")).unwrap();
        for library in [
            library.clone(),
            format!("/pool/libs/{name}/{version}"),
            format!("/pool/libs/{name}/{version}/content"),
        ] {
            assert_eq!(pool.bytes(&["cat", &library]), content, "{library}");
            let listed = pool.json(&["ls", &library]);
            assert_eq!(listed["libraries"][0]["name"], name, "{library}");
            pool.text(&["why", &library]);
            pool.text(&["pin", &library]);
            pool.text(&["unpin", &library]);
        }
        for image in [
            image.clone(),
            format!("/pool/images/{name}/{version}"),
            format!("/pool/images/{name}/{version}/image.elf"),
        ] {
            assert_eq!(pool.bytes(&["cat", &image]), busybox(), "{image}");
            let listed = pool.json(&["ls", &image]);
            assert_eq!(listed["images"][0]["name"], name, "{image}");
            pool.text(&["why", &image]);
            pool.text(&["inspect", &image]);
            pool.text(&["tag", &image, "image/other:tag"]);
        }
        pool.text(&["rm", &image, &library]);
        pool.refused(1, &["cat", &image]);
        pool.refused(1, &["cat", &library]);
    }
}

#[test]
fn a_library_is_pushed_pinned_and_kept() {
    let pool = Pool::start();
    let content: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(pool.path("z"), &content).unwrap();
    let push = |version| pool.text(&["push", "lib", "z", "--name", "zlib", "--version", version]);
    push("1.3");
    push("1.4");
    pool.text(&["pin", "lib/zlib@1.3"]);
    assert!(pool.text(&["ls"]).contains("pinned"));
    let says = pool.refused(1, &["rm", "lib/zlib@1.3"]);
    assert!(says.contains("unpin"), "{says}");
    let done = pool.json(&["gc", "--grace", "0"]);
    assert_eq!(done["libraries"], serde_json::json!(["zlib@1.4"]));
    assert_eq!(pool.bytes(&["cat", "/pool/libs/zlib/1.3/content"]), content);
    pool.text(&["unpin", "lib/zlib@1.3"]);
    assert_eq!(pool.json(&["ls", "lib/z"])["libraries"][0]["pinned"], false);
    pool.text(&["rm", "lib/zlib@1.3"]);
    std::fs::write(pool.path("other"), b"other content").unwrap();
    push("2");
    let says = pool.refused(
        1,
        &["push", "lib", "other", "--name", "zlib", "--version", "2"],
    );
    assert!(says.contains("a version never changes"), "{says}");
}

#[test]
fn an_executable_is_taken_apart_and_put_together_again() {
    let pool = Pool::start();
    pool.bytes(&["describe", BUSYBOX, "-o", "bb.desc"]);
    let description = std::fs::read(pool.path("bb.desc")).unwrap();
    let described = pool_core::description::Description::from_json(&description).unwrap();
    assert_eq!(described.image.digest, pool_core::ObjectId::of(&busybox()));
    assert_eq!(pool.bytes(&["describe", BUSYBOX]), description);

    let sizes = pool.json(&["minify", BUSYBOX, "-o", "bb.min"]);
    assert!(
        sizes["minified_bytes"].as_u64().unwrap() * 2 < sizes["original_bytes"].as_u64().unwrap()
    );
    let parts = pool.json(&["extract", BUSYBOX, "-d", "parts"]);
    assert!(
        parts
            .as_array()
            .unwrap()
            .iter()
            .any(|part| part["name"] == "data")
    );
    pool.text(&[
        "minify",
        "--restore",
        "bb.min",
        "--parts",
        "parts",
        "-o",
        "busybox",
    ]);
    assert_eq!(std::fs::read(pool.path("busybox")).unwrap(), busybox());
    let run = Command::new(pool.path("busybox"))
        .args(["echo", "alive"])
        .output();
    assert_eq!(run.unwrap().stdout, b"alive\n");

    let says = pool.refused(1, &["minify", "--restore", "bb.min", "-o", "from-pool"]);
    assert!(says.contains("not in the pool"), "{says}");
    assert!(!pool.path("from-pool").exists());
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    pool.text(&["minify", "--restore", "bb.min", "-o", "from-pool"]);
    assert_eq!(std::fs::read(pool.path("from-pool")).unwrap(), busybox());
    let says = pool.refused(1, &["minify", "--restore", BUSYBOX, "-o", "x"]);
    assert!(says.contains("not a minified image"), "{says}");
}

#[test]
fn wrong_use_is_told_from_failure() {
    let mut pool = Pool::start();
    for wrong in [
        &["no-such-verb"][..],
        &[],
        &["cat"],
        &["cat", "zlib"],
        &["cat", "image/../x:1"],
        &["push", "image", BUSYBOX, "--name", "a/b", "--tag", "v1"],
        &["push", "lib", BUSYBOX, "--name", "..", "--version", "v1"],
        &["gc", "--grace", "soon"],
    ] {
        pool.refused(2, wrong);
    }
    std::fs::write(pool.path("text"), "#!/bin/sh\n").unwrap();
    std::fs::write(pool.path("empty"), "").unwrap();
    for (failing, word) in [
        (&["cat", "image/none:v1"][..], "there is no"),
        (
            &["push", "image", "text", "--name", "a", "--tag", "b"],
            "describing text",
        ),
        (
            &["push", "lib", "empty", "--name", "a", "--version", "b"],
            "empty",
        ),
        (
            &["push", "image", "absent", "--name", "a", "--tag", "b"],
            "absent",
        ),
        (&["describe", "/bin/sh"], "static"),
        (&["tag", "lib/a@1", "image/a:1"], "image/NAME:TAG"),
        (&["pin", "image/a:1"], "lib/NAME@VERSION"),
        (&["--server", "ftp://x", "ls"], "http://HOST:PORT"),
        (&["fsck", "--store", "text"], "not a pool store"),
    ] {
        let says = pool.refused(1, failing);
        assert!(says.contains(word), "{failing:?}: {says}");
        assert!(says.starts_with("pool: "), "{says}");
    }
    pool.end();
    let says = pool.refused(1, &["ls"]);
    assert!(says.contains("check that poolsvc runs"), "{says}");
    assert_eq!(says.matches("refused").count(), 1, "{says}");
}

#[test]
fn tokens_are_made_shown_and_used() {
    let pool = Pool::start();
    let secret = pool.text(&["token", "add", "ops", "--scope", "admin"]);
    let secret = secret.trim();
    let says = pool.refused(1, &["ls"]);
    assert!(says.contains("POOL_TOKEN"), "{says}");
    let with = |arguments: &[&str]| {
        let output = pool.command(arguments).env("POOL_TOKEN", secret).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let list = with(&["token", "ls"]);
    assert!(list.contains("ops") && list.contains("admin") && !list.contains(secret));
    with(&["token", "rm", "ops"]);
    pool.text(&["ls"]);
}

#[test]
fn a_store_is_made_where_nothing_is() {
    let mut pool = Pool::start();
    pool.end();
    std::fs::create_dir(pool.path("new")).unwrap();
    for (directory, bytes) in [("new", 4 << 20), ("absent/below", 64 << 20)] {
        let size = format!("{bytes}");
        let made = pool.json(&["init", "--store", directory, "--segment-bytes", &size]);
        assert_eq!(made["store"].as_str().unwrap().len(), 32);
        pool.text(&["fsck", "--store", directory]);
        let says = pool.refused(1, &["init", "--store", directory]);
        assert!(says.contains("a store already"), "{says}");
    }
    std::fs::create_dir(pool.path("full")).unwrap();
    std::fs::write(pool.path("full/notes"), "mine").unwrap();
    let says = pool.refused(1, &["init", "--store", "full"]);
    assert!(says.contains("not empty"), "{says}");
    assert_eq!(std::fs::read_dir(pool.path("full")).unwrap().count(), 1);
}

#[test]
fn damage_is_found_with_and_without_a_service() {
    let mut pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    let report = pool.json(&["fsck", "--content"]);
    assert_eq!(report["findings"], serde_json::json!([]));
    // Beside the service, too.
    pool.text(&["fsck", "--store", "store", "--content"]);
    pool.end();
    pool.text(&["fsck", "--store", "store", "--content"]);
    let segments = pool.path("store/segments");
    let segment = std::fs::read_dir(segments)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(&segment)
        .unwrap();
    file.write_all(b"spoilt").unwrap();
    drop(file);
    let output = pool.run(&["fsck", "--store", "store", "--content"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("damage: "));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    let mut child = pool
        .command(&["cat", "image/bb:v1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn each_verb_has_help_and_a_manual_page() {
    let pool = Pool::start();
    let help = pool.text(&["--help"]);
    pool.text(&["man", "man"]);
    let verbs = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty());
    let mut count = 0;
    for verb in verbs.filter_map(|line| line.split_whitespace().next()) {
        if verb == "help" {
            continue;
        }
        count += 1;
        let page = pool.path("man").join(format!("pool-{verb}.1"));
        let page = std::fs::read_to_string(page).expect(verb);
        assert!(
            page.contains(&format!(".SH SYNOPSIS\n.nf\n\\&pool {verb} ")),
            "{page}"
        );
        assert!(!page.contains(".SH EXTRA"), "{page}");
        assert!(
            pool.text(&[verb, "--help"]).contains("Usage: pool"),
            "{verb}"
        );
    }
    assert_eq!(count, 18);
}

/// A service that the command line names is asked, whatever the environment says.
#[test]
fn a_link_asks_the_service_that_is_said() {
    let pool = Pool::start();
    std::fs::write(pool.path("a.c"), "void _start(void) { for (;;); }\n").unwrap();
    let compiled = Command::new("cc")
        .current_dir(pool.directory.path())
        .args(["-c", "a.c", "-o", "a.o"])
        .status();
    assert!(compiled.unwrap().success());
    let archived = Command::new("ar")
        .current_dir(pool.directory.path())
        .args(["rcs", "liba.a", "a.o"])
        .status();
    assert!(archived.unwrap().success());
    let nobody = "http://127.0.0.1:1";
    let link = |server: &str, environment: &str, registry: &str| {
        let arguments = [
            "--server", server, "link", "-o", "a", "liba.a", "-u", "_start",
        ];
        let mut command = self::pool(&arguments);
        command
            .current_dir(pool.directory.path())
            .env("POOL_SERVER", environment)
            .env("POOL_REGISTRY", registry);
        command.output().unwrap()
    };
    let linked = link(&pool.url, nobody, "book.json");
    let says = String::from_utf8_lossy(&linked.stderr);
    assert!(linked.status.success(), "{says}");
    assert!(!pool.path("book.json").exists());
    let refused = link(nobody, &pool.url, "book.json");
    let says = String::from_utf8_lossy(&refused.stderr);
    assert!(says.contains(nobody), "{says}");
}

/// Compiles with the system's compiler and `pool` as its linker.
fn compile(pool: &Pool, source: &str, output: &str, registry: Option<&str>) -> Output {
    let bin = pool.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let ld = bin.join("ld");
    if !ld.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pool"), &ld).unwrap();
    }
    std::fs::write(pool.path("main.c"), source).unwrap();
    let mut command = Command::new("cc");
    command
        .current_dir(pool.directory.path())
        .args(["-static", "-O1", "-B"])
        .arg(Path::new("bin/"))
        .args(["main.c", "-o", output])
        .env("POOL_SERVER", &pool.url)
        .env_remove("POOL_TOKEN")
        .env_remove("POOL_REGISTRY");
    if let Some(registry) = registry {
        command.env("POOL_REGISTRY", registry);
    }
    command.output().unwrap()
}

#[test]
fn a_compiler_links_with_the_registry_of_the_service() {
    let mut pool = Pool::start();
    let source = "#include <stdio.h>\nint main(void) { puts(\"linked\"); return 0; }\n";
    let linked = compile(&pool, source, "app", None);
    let says = String::from_utf8_lossy(&linked.stderr);
    assert!(linked.status.success(), "{says}");
    let run = Command::new(pool.path("app")).output().unwrap();
    assert_eq!(run.stdout, b"linked\n");
    let report = pool.json(&["inspect", "app"]);
    assert_eq!(report["layout"], "registered");
    pool.text(&["push", "image", "app", "--name", "app", "--tag", "v1"]);
    let listed = pool.json(&["ls"]);
    let libraries = listed["libraries"].as_array().unwrap();
    assert!(!libraries.is_empty());
    assert_eq!(libraries[0]["users"], serde_json::json!(["app:v1"]));
    let name = format!(
        "lib/{}@{}",
        libraries[0]["name"].as_str().unwrap(),
        libraries[0]["version"].as_str().unwrap()
    );
    let says = pool.refused(1, &["rm", &name]);
    assert!(says.contains("image/app:v1 uses it"), "{says}");
    assert_eq!(
        pool.bytes(&["cat", "image/app:v1"]),
        std::fs::read(pool.path("app")).unwrap()
    );

    // The same program against another book has its own addresses, and asks nobody.
    pool.end();
    let refused = compile(&pool, source, "lost", None);
    assert!(!refused.status.success());
    let says = String::from_utf8_lossy(&refused.stderr);
    assert!(says.contains("reserving addresses"), "{says}");
    assert!(!pool.path("lost").exists());
    let offline = compile(&pool, source, "offline", Some("book.json"));
    assert!(
        offline.status.success(),
        "{}",
        String::from_utf8_lossy(&offline.stderr)
    );
    assert!(pool.path("book.json").exists());
    let run = Command::new(pool.path("offline")).output().unwrap();
    assert_eq!(run.stdout, b"linked\n");
}

#[test]
fn progress_is_not_printed_into_files() {
    let pool = Pool::start();
    let mut child = pool
        .command(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    assert_eq!(errors.lines().count(), 0);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_path_may_begin_where_one_is() {
    let pool = Pool::start();
    std::fs::create_dir_all(pool.path("mnt/.pool")).unwrap();
    std::fs::write(pool.path("mnt/.pool/version"), "1\n").unwrap();
    std::fs::write(pool.path("content"), "some content").unwrap();
    let push = ["push", "lib", "content", "--name", "images", "--version"];
    pool.text(&[&push[..], &["libs"]].concat());
    for path in ["mnt/libs/images/libs", "./mnt/libs/images/libs/content"] {
        assert_eq!(pool.text(&["cat", path]), "some content", "{path}");
    }
    for path in ["libs/images/libs", "mnt/../libs/images/libs", "mnt"] {
        let says = pool.refused(2, &["cat", path]);
        assert!(says.contains("names nothing"), "{path}: {says}");
    }
}
