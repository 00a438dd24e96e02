//! Images and libraries, and the names by which verbs reach them.

use std::process::{Command, Output};

use serde_json::Value;

use crate::common::{BUSYBOX, Pool, busybox};

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
