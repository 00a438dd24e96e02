//! What each verb does, and what it refuses.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::common::{BUSYBOX, Pool, busybox};

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
    let told = pool.json(&["gc", "--history"]);
    assert_eq!(told["last"][0]["freed_bytes"], done["freed_bytes"]);
    assert_eq!(pool.json(&["gc", "--pause"])["paused"], true);
    assert_eq!(pool.json(&["gc", "--stop"])["running"], Value::Null);
    let waits = pool.text(&["gc", "--history"]);
    assert!(waits.starts_with("collections are paused"), "{waits}");
    assert_eq!(pool.json(&["gc", "--resume"])["paused"], false);
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
    assert_eq!(refused.status.code(), Some(3));
    let says = String::from_utf8_lossy(&refused.stderr);
    assert!(
        says.contains("image/bb:v2 is in the pool already"),
        "{says}"
    );
    assert!(push("v3", &["--only-new"]).status.success());
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
fn a_list_is_pushed_by_one_command() {
    let pool = Pool::start();
    let content = |seed: u8| vec![seed; 3 * 4096];
    let lines = (1..=20).map(|seed| {
        let file = format!("file {seed}");
        std::fs::write(pool.path(&file), content(seed)).unwrap();
        format!("lib/l{seed}@1 {file}\n")
    });
    let list = format!(
        "# all of it\nimage/box:v1 {BUSYBOX}\n{}",
        lines.collect::<String>()
    );
    std::fs::write(pool.path("list"), list).unwrap();
    let done = pool.json(&["push", "list", "list", "--jobs", "5"]);
    let names: Vec<_> = done
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names.len(), 21);
    assert_eq!([names[0], names[20]], ["image/box:v1", "lib/l20@1"]);
    assert_eq!(done[1]["pushed"]["created"], true);
    for seed in 1..=20 {
        let name = format!("lib/l{seed}@1");
        assert_eq!(pool.bytes(&["cat", &name]), content(seed));
    }
    assert_eq!(
        pool.bytes(&["cat", "image/box:v1"]),
        std::fs::read(BUSYBOX).unwrap()
    );
    let says = pool.text(&["push", "list", "list"]);
    assert!(says.contains("lib/l20@1"), "{says}");
    // What fails keeps the rest away, unless that is to go on.
    let list = "lib/new@1 file 1\nlib/absent@1 nothing\nlib/l1@1 file 2\nlib/last@1 file 3\n";
    std::fs::write(pool.path("list"), list).unwrap();
    let says = pool.refused(1, &["push", "list", "list", "--jobs", "1"]);
    assert!(says.contains("lib/absent@1: reading nothing"), "{says}");
    assert!(says.contains("2 more of the list were not begun"), "{says}");
    pool.text(&["cat", "lib/new@1"]);
    pool.refused(1, &["cat", "lib/last@1"]);
    let says = pool.refused(1, &["push", "list", "list", "-k"]);
    assert!(says.contains("2 of 4 were not pushed"), "{says}");
    pool.text(&["cat", "lib/last@1"]);
    let says = pool.refused(1, &["push", "list", "file 1"]);
    assert!(says.contains("reading file 1: line 1: "), "{says}");
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
        &["gc", "--history", "--dry-run"],
        &["gc", "--pause", "--resume"],
        &["tag", "lib/a@1", "image/a:1"],
        &["pin", "image/a:1"],
        &["rm", "image/a:1", "/pool/segments/00000001"],
        &["--server", "ftp://x", "ls"],
        &["--server", "", "ls"],
        &["--token", "two\nlines", "ls"],
        &[
            "push",
            "--connections",
            "0",
            "image",
            BUSYBOX,
            "--name",
            "a",
            "--tag",
            "b",
        ],
    ] {
        pool.refused(2, wrong);
    }
    for (wrong, word) in [
        (&["tag", "lib/a@1", "image/a:1"][..], "image/NAME:TAG"),
        (&["pin", "image/a:1"], "lib/NAME@VERSION"),
        (&["--server", "ftp://x", "ls"], "http://HOST:PORT"),
    ] {
        let says = pool.refused(2, wrong);
        assert!(says.contains(word) && says.starts_with("pool: "), "{says}");
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
        (&["fsck", "--store", "text"], "not a pool store"),
        (&["token", "rm", "none"], "pool token ls"),
    ] {
        let says = pool.refused(1, failing);
        assert!(says.contains(word), "{failing:?}: {says}");
        assert!(says.starts_with("pool: "), "{says}");
    }
    pool.end();
    let says = pool.refused(1, &["ls"]);
    assert!(says.contains("check that poolsvc runs"), "{says}");
    // A variable that is empty names nobody.
    let mut usual = pool.command(&["ls", "+"]);
    let output = usual.env("POOL_SERVER", "").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
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
    let padded = format!(" {secret}\n");
    let mut listing = pool.command(&["ls"]);
    assert!(
        listing
            .env("POOL_TOKEN", padded)
            .status()
            .unwrap()
            .success()
    );
    let says = pool.refused(2, &["--token", "two\nlines", "ls"]);
    assert!(says.contains("POOL_TOKEN"), "{says}");
    pool.refused(2, &["token", "rm", ""]);
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
    // JSON has no bytes that are not text; the store is made all the same.
    let odd = OsStr::from_bytes(b"odd\xff");
    let mut init = pool.command(&["init", "--json", "--store"]);
    let output = init.arg(odd).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["directory"], "odd\u{fffd}");
    std::fs::create_dir(pool.path("full")).unwrap();
    std::fs::write(pool.path("full/notes"), "mine").unwrap();
    let says = pool.refused(1, &["init", "--store", "full"]);
    assert!(says.contains("not empty"), "{says}");
    assert_eq!(std::fs::read_dir(pool.path("full")).unwrap().count(), 1);
}

#[test]
fn a_store_is_taken_along_and_made_again() {
    let mut pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    // Beside the service.
    let first = pool.json(&["backup", "backup", "--store", "store"]);
    assert_eq!(first["copied_segments"], first["segments"]);
    pool.text(&["tag", "image/bb:v1", "image/bb:v2"]);
    let second = pool.text(&[
        "backup",
        "backup",
        "--store",
        "store",
        "--rate",
        "1000000000",
    ]);
    assert!(second.contains("damaged objects  none"), "{second}");
    assert!(
        pool.text(&["restore", "backup", "--dry-run"])
            .contains("whole")
    );
    let made = pool.json(&["restore", "backup", "--store", "copy"]);
    assert_eq!((&made["made"], &made["images"]), (&true.into(), &2.into()));
    assert_eq!(made["fsck"]["findings"], serde_json::json!([]));
    pool.text(&["fsck", "--store", "copy", "--content"]);
    for (refused, code, words) in [
        (
            &["restore", "backup", "--store", "copy"][..],
            1,
            "a store already",
        ),
        (&["restore", "backup"], 2, "--store"),
        (
            &["restore", "backup", "--store", "x", "--dry-run"],
            2,
            "--dry-run",
        ),
        (&["backup", "new"], 2, "--store"),
        (
            &["backup", "new", "--store", "store", "--rate", "0"],
            2,
            "--rate",
        ),
        (&["backup", "backup", "--store", "copy"], 1, "another store"),
        (&["restore", "store", "--store", "x"], 1, "no catalogue"),
    ] {
        let says = pool.refused(code, refused);
        assert!(says.contains(words), "{refused:?}: {says}");
    }
    let copies = std::fs::read_dir(pool.path("backup/segments")).unwrap();
    for copy in copies.map(|copy| copy.unwrap().path()) {
        if copy.extension().is_some_and(|end| end == "seg") {
            std::fs::write(copy, "spoilt").unwrap();
        }
    }
    for options in [&["--dry-run"][..], &["--store", "none"]] {
        let output = pool.run(&[&["restore", "backup"], options].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let says = String::from_utf8_lossy(&output.stdout);
        assert!(says.contains("damaged objects   3"), "{says}");
    }
    assert!(!pool.path("none/superblock").exists());
    let verified = pool.json(&["backup", "backup", "--store", "store", "--verify"]);
    assert_eq!(verified["copied_segments"], verified["segments"]);
    assert!(
        pool.text(&["restore", "backup", "--dry-run"])
            .contains("whole")
    );
    pool.end();
}

#[test]
fn damage_is_found_with_and_without_a_service() {
    let mut pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    let report = pool.json(&["fsck", "--content"]);
    assert_eq!(report["findings"], serde_json::json!([]));
    // Beside the service, too.
    pool.text(&["fsck", "--store", "store", "--content"]);
    pool.text(&["scrub", "--store", "store"]);
    pool.end();
    pool.text(&["fsck", "--store", "store", "--content"]);
    let clean = pool.json(&["scrub", "--store", "store"]);
    assert_eq!(
        (&clean["why"], &clean["damaged_files"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
    let mark = pool.path("store/generation");
    let written = std::fs::read(&mark).unwrap();
    let journal = std::fs::read_dir(pool.path("store/journal")).unwrap();
    let mut journal = journal.map(|file| file.unwrap().path());
    let checkpoint = journal
        .find(|path| path.extension().unwrap() == "checkpoint")
        .unwrap();
    let whole = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, [&whole[..70], &whole[71..]].concat()).unwrap();
    for verb in ["fsck", "scrub"] {
        let output = pool.run(&[verb, "--store", "store"]);
        assert_eq!(output.status.code(), Some(1));
        let says = String::from_utf8_lossy(&output.stdout);
        let name = checkpoint.file_name().unwrap().to_str().unwrap();
        assert!(
            says.contains(name) && says.contains("pool repair --store store"),
            "{verb}: {says}"
        );
    }
    let repaired = pool.text(&["repair", "--store", "store"]);
    assert!(repaired.contains("lost/journal"), "{repaired}");
    pool.text(&["fsck", "--store", "store"]);
    pool.text(&["scrub", "--store", "store"]);
    // A power cut leaves a mark that is behind.
    std::fs::write(&mark, [0; 8]).unwrap();
    let late = pool.text(&["fsck", "--store", "store"]);
    assert!(late.contains("waste: generation says 0"), "{late}");
    std::fs::write(&mark, written).unwrap();
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
    for (verb, words) in [
        (&["fsck", "--store", "store", "--content"][..], "damage: "),
        (&["scrub", "--store", "store"], "is needed by image/bb:v1"),
    ] {
        let output = pool.run(verb);
        assert_eq!(output.status.code(), Some(1));
        let says = String::from_utf8_lossy(&output.stdout);
        assert!(says.contains(words), "{verb:?}: {says}");
    }
}

#[test]
fn a_lost_index_or_journal_is_made_anew() {
    let mut pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    let said = |output: &std::process::Output| {
        let stdout = String::from_utf8_lossy(&output.stdout);
        format!("{stdout}{}", String::from_utf8_lossy(&output.stderr))
    };
    let repair = ["repair", "--store", "store"];
    let busy = pool.run(&repair);
    assert_eq!(busy.status.code(), Some(1), "{busy:?}");
    assert!(
        said(&busy).contains("in use by another process"),
        "{busy:?}"
    );
    pool.end();
    let sound = pool.text(&repair);
    assert!(sound.contains("nothing to do"), "{sound}");
    for (part, remedy) in [("index", "index"), ("journal", "journal")] {
        std::fs::remove_dir_all(pool.path("store").join(part)).unwrap();
        let rehearsal = pool.run(&[&repair[..], &["--dry-run"]].concat());
        assert_eq!(rehearsal.status.code(), Some(1), "{rehearsal:?}");
        assert!(said(&rehearsal).contains("rehearsal"), "{rehearsal:?}");
        let done = pool.json(&repair);
        assert_eq!(done["remedy"], remedy, "{done}");
        assert_eq!(
            (&done["done"], &done["why"]),
            (&true.into(), &serde_json::json!([]))
        );
        pool.text(&["fsck", "--store", "store", "--content"]);
    }
    // What is damaged is named, with what needs it.
    std::fs::remove_dir_all(pool.path("store/index")).unwrap();
    let segments = std::fs::read_dir(pool.path("store/segments")).unwrap();
    for segment in segments {
        let segment = segment.unwrap().path();
        let file = std::fs::OpenOptions::new().write(true).open(segment);
        file.unwrap().write_all(b"spoilt").unwrap();
    }
    let output = pool.run(&repair);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said(&output).contains("is needed by image/bb:v1"),
        "{output:?}"
    );
    assert!(pool.text(&repair).contains("nothing to do"));
}

#[test]
fn what_a_service_finds_damaged_is_mended_by_a_push() {
    let pool = Pool::start();
    let push = ["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"];
    pool.text(&push);
    assert!(pool.text(&["stats"]).contains("last scrubbed      never"));
    assert_eq!(pool.json(&["scrub"])["complete"], true);
    let segment = std::fs::read_dir(pool.path("store/segments"))
        .unwrap()
        .next();
    let segment = segment.unwrap().unwrap().path();
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(&segment)
        .unwrap();
    file.write_all(b"spoilt").unwrap();
    let output = pool.run(&["scrub", "--rate", "1000000000"]);
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8_lossy(&output.stdout);
    assert!(
        says.contains("is needed by image/bb:v1") && says.contains("push again"),
        "{says}"
    );
    assert_eq!(pool.json(&["stats"])["damaged_pages"], 1);
    assert_eq!(pool.json(&push)["sent_pages"], 1);
    assert_eq!(
        pool.json(&["scrub"])["damaged_objects"],
        serde_json::json!([])
    );
    assert_eq!(
        pool.bytes(&["cat", "image/bb:v1"]),
        std::fs::read(BUSYBOX).unwrap()
    );
    pool.text(&["fsck", "--content"]);
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
        let version = env!("CARGO_PKG_VERSION");
        let title = format!(".TH pool\\-{verb} 1 \"\" \"poolfs {version}\" \"poolfs manual\"\n");
        assert!(page.starts_with(&title), "{page}");
        let (_, variables) = page.split_once(".SH ENVIRONMENT\n").expect(verb);
        for (variable, option) in [("SERVER", "server"), ("TOKEN", "token")] {
            let told = format!(".TP\n\\fBPOOL_{variable}\\fR\nWhat \\fB\\-\\-{option}\\fR");
            assert!(variables.contains(&told), "{page}");
        }
        assert!(
            pool.text(&[verb, "--help"]).contains("Usage: pool"),
            "{verb}"
        );
    }
    assert_eq!(count, 23);
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
