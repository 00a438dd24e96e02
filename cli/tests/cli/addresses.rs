//! Addresses of things: every verb takes every form, or says which one it wants.

use serde_json::Value;

use super::common::{BUSYBOX, Pool, busybox};

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

/// What a verb does with an address: its exit code and a word that it says.
type Outcome = (i32, &'static str);

/// Runs every verb that takes an address on every form of the address of a thing.
fn try_every_verb(pool: &Pool, forms: &[String], outcomes: &[(&[&str], Outcome)]) {
    for form in forms {
        for (verb, (code, word)) in outcomes {
            let words: Vec<_> = verb
                .iter()
                .map(|word| if *word == "IT" { form.as_str() } else { word })
                .collect();
            let output = pool.run(&words);
            let says = [output.stdout, output.stderr].concat();
            let says = String::from_utf8_lossy(&says);
            assert_eq!(output.status.code(), Some(*code), "{words:?}: {says}");
            assert!(says.contains(word), "{words:?}: {says}");
        }
    }
}

/// A pool with an image and a library, and a folder `mnt` that looks like its mount point.
fn furnished() -> Pool {
    let pool = Pool::start();
    std::fs::create_dir_all(pool.path("mnt/.pool")).unwrap();
    std::fs::write(pool.path("mnt/.pool/version"), "1\n").unwrap();
    std::fs::write(pool.path("content"), "the content").unwrap();
    let push = ["push", "lib", "content", "--name", "z", "--version"];
    pool.text(&[&push[..], &["1"]].concat());
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    pool
}

/// The forms of the path `below` the mount point: where it usually is, where it is, from here.
fn paths(pool: &Pool, below: &str) -> Vec<String> {
    let here = pool.path("mnt").join(below);
    let here = here.to_str().unwrap().to_owned();
    vec![format!("/pool/{below}"), here, format!("mnt/{below}")]
}

#[test]
fn a_library_has_many_addresses() {
    let pool = furnished();
    let mut forms = vec!["lib/z@1".to_owned()];
    forms.extend(paths(&pool, "libs/z/1"));
    forms.extend(paths(&pool, "libs/z/1/content"));
    try_every_verb(
        &pool,
        &forms,
        &[
            (&["cat", "IT"], (0, "the content")),
            (&["ls", "IT"], (0, "lib/z@1")),
            (&["why", "IT"], (0, "lib/z@1")),
            (&["pin", "IT"], (0, "is pinned")),
            (&["rm", "IT"], (1, "unpin it first")),
            (&["unpin", "IT"], (0, "is not pinned")),
            (&["tag", "IT", "image/a:b"], (2, "write image/NAME:TAG")),
            (&["inspect", "IT"], (1, "describing")),
            (&["describe", "IT"], (1, "describing")),
            (&["extract", "IT", "-d", "parts"], (1, "describing")),
            (&["minify", "IT", "-o", "small"], (1, "describing")),
            (&["rm", "IT"], (0, "removed lib/z@1")),
            (&["rm", "IT"], (1, "pool ls")),
            (&["pin", "IT"], (1, "pool ls")),
            (&["cat", "IT"], (1, "pool ls")),
            (&["why", "IT"], (1, "pool ls")),
            (
                &["push", "lib", "content", "--name", "z", "--version", "1"],
                (0, "lib/z@1"),
            ),
        ],
    );
}

#[test]
fn an_image_has_many_addresses() {
    let pool = furnished();
    let mut forms = vec!["image/bb:v1".to_owned()];
    forms.extend(paths(&pool, "images/bb/v1"));
    forms.extend(paths(&pool, "images/bb/v1/image.elf"));
    try_every_verb(
        &pool,
        &forms,
        &[
            (&["cat", "IT"], (0, "ELF")),
            (&["ls", "IT"], (0, "image/bb:v1")),
            (&["why", "IT"], (0, "image/bb:v1")),
            (&["pin", "IT"], (2, "write lib/NAME@VERSION")),
            (&["unpin", "IT"], (2, "write lib/NAME@VERSION")),
            (
                &["tag", "IT", "image/bb:v2"],
                (0, "image/bb:v2 is image/bb:v1"),
            ),
            (
                &["tag", "image/bb:v2", "IT"],
                (0, "image/bb:v1 is image/bb:v2"),
            ),
            (&["inspect", "IT"], (0, "entry")),
            (&["describe", "IT"], (0, "\"format\": 1")),
            (&["extract", "IT", "-d", "parts"], (0, "data")),
            (&["minify", "IT", "-o", "small"], (0, "minified")),
            (&["rm", "IT"], (0, "removed image/bb:v1")),
            (&["rm", "IT"], (1, "pool ls")),
            (&["tag", "IT", "image/bb:v3"], (1, "pool ls")),
            (
                &["tag", "image/bb:v2", "IT"],
                (0, "image/bb:v1 is image/bb:v2"),
            ),
        ],
    );
}

#[test]
fn content_has_many_addresses() {
    let pool = furnished();
    let listed = pool.json(&["ls", "lib/z@1"]);
    let library = listed["libraries"][0]["object"].as_str().unwrap();
    let listed = pool.json(&["ls", "image/bb:v1"]);
    let image = listed["images"][0]["file"].as_str().unwrap();
    for (digest, name, word) in [
        (library, "lib/z@1", "the content"),
        (image, "image/bb:v1", "ELF"),
    ] {
        let mut forms = vec![digest.to_owned()];
        forms.extend(paths(&pool, &format!("objects/{digest}")));
        try_every_verb(
            &pool,
            &forms,
            &[
                (&["cat", "IT"], (0, word)),
                (&["ls", "IT"], (0, name)),
                (&["why", "IT"], (0, name)),
                (&["pin", "IT"], (2, "write lib/NAME@VERSION")),
                (&["unpin", "IT"], (2, "write lib/NAME@VERSION")),
                (&["tag", "IT", "image/a:b"], (2, "write image/NAME:TAG")),
                (&["rm", "IT"], (2, "pool gc")),
            ],
        );
    }
    try_every_verb(
        &pool,
        &paths(&pool, "segments/00000000"),
        &[
            (&["cat", "IT"], (2, "pool why")),
            (&["ls", "IT"], (2, "pool why")),
            (&["why", "IT"], (0, "in segment")),
            (&["pin", "IT"], (2, "write lib/NAME@VERSION")),
            (&["tag", "IT", "image/a:b"], (2, "write image/NAME:TAG")),
            (&["rm", "IT"], (2, "pool gc")),
        ],
    );
}

#[test]
fn folders_are_listed_by_their_paths() {
    let pool = furnished();
    for version in ["1.3", "1.3.1"] {
        pool.text(&[
            "push",
            "lib",
            "content",
            "--name",
            "zlib",
            "--version",
            version,
        ]);
    }
    let names = |what: &str| -> Vec<String> {
        let listed = pool.json(&["ls", what]);
        let images = listed["images"].as_array().into_iter().flatten();
        let libraries = listed["libraries"].as_array().into_iter().flatten();
        let name = |of: &Value, part: &str| {
            format!(
                "{} {}",
                of["name"].as_str().unwrap(),
                of[part].as_str().unwrap()
            )
        };
        let images = images.map(|image| name(image, "tag"));
        images
            .chain(libraries.map(|library| name(library, "version")))
            .collect()
    };
    for (below, expected) in [
        ("libs", &["z 1", "zlib 1.3", "zlib 1.3.1"][..]),
        ("libs/zlib", &["zlib 1.3", "zlib 1.3.1"]),
        ("libs/z/", &["z 1"]),
        ("libs/zlib/1.3", &["zlib 1.3"]),
        ("images", &["bb v1"]),
        ("images/bb", &["bb v1"]),
        ("images/b", &[]),
    ] {
        for path in paths(&pool, below) {
            assert_eq!(names(&path), expected, "{path}");
        }
    }
    assert_eq!(names("mnt").len(), 4);
    assert_eq!(names("images/"), ["bb v1"]);
    assert_eq!(names("libs/").len(), 3);
    assert_eq!(names("lib/z"), ["z 1", "zlib 1.3", "zlib 1.3.1"]);
    assert_eq!(names("z"), ["z 1", "zlib 1.3", "zlib 1.3.1"]);
    for nothing in ["/pool/objects", "/etc/passwd", "mnt/objects", "libs/z"] {
        let says = pool.refused(2, &["ls", nothing]);
        assert!(says.contains("write image/NAME"), "{nothing}: {says}");
    }
}
