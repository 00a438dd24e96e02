//! Real static executables, from the compilers of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const SOURCE: &str = r#"
#include <stdio.h>
#include <string.h>
static __thread int counter = 7;
static char zeros[100000];
static char initialised[5000] = "a";
static const char table[9000] = "constant";
int main(int argc, char **argv) {
    memset(zeros, argc, sizeof zeros);
    counter += initialised[0] + table[0] + zeros[5];
    printf("%s %d\n", argv[0], counter);
    return 0;
}
"#;

const RUST_SOURCE: &str = r#"
fn main() { println!("{:?}", std::env::args().collect::<Vec<_>>()); }
"#;

pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

pub struct Programs {
    pub all: Vec<Program>,
    /// Keeps the files until the test ends.
    directory: TempDir,
}

/// Name, compiler and arguments. The compilers are build dependencies of the project, so that one
/// of them missing is a failure.
const BUILDS: [(&str, &str, &[&str]); 9] = [
    ("glibc", "gcc", &["-static", "-O2"]),
    ("glibc-stripped", "gcc", &["-static", "-O2", "-s"]),
    ("glibc-debug", "gcc", &["-static", "-g"]),
    ("glibc-static-pie", "gcc", &["-static-pie", "-O2"]),
    ("glibc-static-pie-stripped", "gcc", &["-static-pie", "-s"]),
    ("musl-one-segment", "musl-gcc", &["-static", "-Wl,-N"]),
    (
        "glibc-shared-page",
        "gcc",
        &["-static", "-Wl,-z,noseparate-code"],
    ),
    ("musl", "musl-gcc", &["-static", "-O2"]),
    ("musl-stripped-debug", "musl-gcc", &["-static", "-g", "-s"]),
];

pub fn programs() -> Programs {
    let directory = TempDir::new().unwrap();
    let source = directory.path().join("program.c");
    fs::write(&source, SOURCE).unwrap();
    let mut all = vec![read("busybox", busybox())];
    for (name, compiler, arguments) in BUILDS {
        let path = directory.path().join(name);
        run(Command::new(compiler)
            .args(arguments)
            .arg("-o")
            .arg(&path)
            .arg(&source));
        all.push(read(name, path));
    }
    let source = directory.path().join("program.rs");
    fs::write(&source, RUST_SOURCE).unwrap();
    let path = directory.path().join("rust");
    run(Command::new("rustc")
        .args(["-C", "target-feature=+crt-static", "-o"])
        .arg(&path)
        .arg(&source));
    all.push(read("rust-static-pie", path));
    Programs { all, directory }
}

/// What to refuse.
pub struct Unwanted {
    pub dynamic: Vec<u8>,
    pub object: Vec<u8>,
    /// The debug information of a static executable.
    pub debug: Vec<u8>,
}

pub fn unwanted() -> Unwanted {
    let directory = TempDir::new().unwrap();
    let source = directory.path().join("program.c");
    fs::write(&source, SOURCE).unwrap();
    let build = |name: &str, arguments: &[&str]| {
        let path = directory.path().join(name);
        run(Command::new("gcc")
            .args(arguments)
            .arg("-o")
            .arg(&path)
            .arg(&source));
        fs::read(path).unwrap()
    };
    build("static", &["-static", "-g"]);
    let debug = directory.path().join("static.debug");
    run(Command::new("objcopy")
        .arg("--only-keep-debug")
        .arg(directory.path().join("static"))
        .arg(&debug));
    Unwanted {
        dynamic: build("dynamic", &[]),
        object: build("object.o", &["-c"]),
        debug: fs::read(debug).unwrap(),
    }
}

fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .expect("busybox-static is installed: apt install busybox-static")
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: install gcc and musl-tools"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn read(name: &'static str, path: impl AsRef<Path>) -> Program {
    Program {
        name,
        bytes: fs::read(&path).unwrap(),
        path: path.as_ref().to_path_buf(),
    }
}
