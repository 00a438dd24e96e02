//! `pool` as the linker of a compiler.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use super::common::{Pool, pool as run_pool};

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

    // Of another program on the same libraries only what is its own is sent, and hardly a word about the rest.
    let other = compile(&pool, &source.replace("linked", "other"), "other", None);
    assert!(other.status.success());
    let pushed = pool.json(&["push", "image", "other", "--name", "other", "--tag", "v1"]);
    let number = |name: &str| pushed[name].as_u64().unwrap();
    assert!((1..=2).contains(&number("sent_pages")), "{pushed}");
    let announced = number("sent_bytes") - number("sent_pages") * 4128;
    assert!(announced < 16 << 10, "{pushed}");
    assert_eq!(
        pool.bytes(&["cat", "image/other:v1"]),
        std::fs::read(pool.path("other")).unwrap()
    );

    // The same program against another book has its own addresses, and asks nobody.
    pool.end();
    let refused = compile(&pool, source, "lost", None);
    assert!(!refused.status.success());
    let says = String::from_utf8_lossy(&refused.stderr);
    assert!(says.contains("no addresses for the libraries"), "{says}");
    assert!(says.contains("Connection refused"), "{says}");
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
            "--server",
            server,
            "link",
            "--pool-libraries=all",
            "-o",
            "a",
            "liba.a",
            "-u",
            "_start",
        ];
        let mut command = run_pool(&arguments);
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

/// A build server that has never seen the earlier version of a library links the later one as the one that has.
#[test]
fn build_servers_agree_on_what_a_version_keeps() {
    let pool = Pool::start();
    let folder = pool.directory.path();
    let build = |version: usize, grown: &str| {
        let mut text = format!(
            "int changed(int x) {{ {grown} }}\nvoid _start(void) {{ changed(1); for (;;); }}\n"
        );
        for n in 0..500 {
            let _ = writeln!(
                text,
                "int f{n}(int x) {{ return changed(x * {n} + {n}) - {n}; }}"
            );
        }
        let name = format!("v{version}");
        std::fs::create_dir(folder.join(&name)).unwrap();
        std::fs::write(folder.join(&name).join("k.c"), text).unwrap();
        for (program, arguments) in [
            (
                "cc",
                vec![
                    "-O1",
                    "-fno-inline",
                    "-ffunction-sections",
                    "-c",
                    "k.c",
                    "-o",
                    "k.o",
                ],
            ),
            ("ar", vec!["rcs", "libk.a", "k.o"]),
        ] {
            let mut command = Command::new(program);
            let done = command
                .current_dir(folder.join(&name))
                .args(arguments)
                .status();
            assert!(done.unwrap().success());
        }
        format!("{name}/libk.a")
    };
    let [one, two] = [
        build(1, "return x + 1;"),
        build(
            2,
            "int y = x; while (y > 9) { y = y / 3 + y % 7 * x; x ^= y << 3; } return x * y;",
        ),
    ];
    let link = |archive: &str, output: &str| {
        let arguments = [
            "--server",
            &pool.url,
            "link",
            "--pool-libraries=all",
            "-o",
            output,
            archive,
            "-u",
            "_start",
        ];
        let linked = run_pool(&arguments).current_dir(folder).output().unwrap();
        let says = String::from_utf8_lossy(&linked.stderr);
        assert!(linked.status.success(), "{says}");
        std::fs::read(folder.join(output)).unwrap()
    };
    link(&one, "first");
    let after = link(&two, "second");
    assert!(link(&two, "again") == after);
    // Where nothing is on record of the earlier one it is another.
    let alone = [
        "link",
        "--pool-libraries=all",
        "--pool-registry",
        "book.json",
        "-o",
        "alone",
        &two,
        "-u",
        "_start",
    ];
    let linked = run_pool(&alone).current_dir(folder).status();
    assert!(linked.unwrap().success());
    assert!(std::fs::read(folder.join("alone")).unwrap() != after);
}

/// Of a program that the compiler optimizes as a whole (`-flto`), libraries are the same as of any other: those that have
/// machine code, too. Members that have nothing else become the application's.
#[test]
fn compiled_intermediate_code_leaves_libraries_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.current_dir(&folder).args(arguments);
        let made = command.env("POOL_REGISTRY", "book.json").output().unwrap();
        let says = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{program} {arguments:?}: {says}");
        String::from_utf8(made.stdout).unwrap()
    };
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pool"), path("ld")).unwrap();
    for (name, text) in [
        (
            "main",
            "int puts(const char *), fat(int), slim(int); int main(void) { return puts(\"runs\") < 0 || fat(1) + slim(2) != 33; }",
        ),
        ("fat", "int fat(int n) { return n + 10; }"),
        ("slim", "int slim(int n) { return n + 20; }"),
    ] {
        std::fs::write(path(name).with_extension("c"), text).unwrap();
    }
    let made = |name: &str, options: &[&str]| {
        for (source, own) in [
            ("main", "-O2"),
            ("fat", "-ffat-lto-objects"),
            ("slim", "-O2"),
        ] {
            let source = format!("{source}.c");
            run("gcc", &[&["-O2", "-c", &source, own], options].concat());
        }
        let _ = std::fs::remove_file(path("libfat.a"));
        let _ = std::fs::remove_file(path("libslim.a"));
        run("gcc-ar", &["rcs", "libfat.a", "fat.o"]);
        run("gcc-ar", &["rcs", "libslim.a", "slim.o"]);
        let layout = format!("-Wl,--pool-layout-file={name}.json");
        let line = [
            "-O2",
            "-static",
            "-B.",
            "main.o",
            "libfat.a",
            "libslim.a",
            "-o",
            name,
            &layout,
            "-Wl,--pool-libraries=all",
        ];
        run("gcc", &[&line, options].concat());
        assert_eq!(run(path(name).to_str().unwrap(), &[]), "runs\n");
        let layout = std::fs::read(path(name).with_extension("json")).unwrap();
        let layout: serde_json::Value = serde_json::from_slice(&layout).unwrap();
        let libraries = layout["libraries"].as_array().unwrap().iter();
        libraries
            .map(|library| (library["library"].to_string(), library.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let plain = made("plain", &[]);
    let whole = made("whole", &["-flto"]);
    let of = |name: &str| {
        whole
            .iter()
            .filter(|(library, _)| library.contains(name))
            .count()
    };
    assert_eq!((of("fat"), of("slim")), (1, 0), "{whole:?}");
    for (library, placed) in whole.iter().filter(|(library, _)| !library.contains("fat")) {
        assert_eq!(plain.get(library), Some(placed));
    }
}
