//! Calls on files, names, sockets and what waits: what they return is what the host's kernel returns
//! to the same program run natively.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use pool_tests::requirements::needs;
use world::{World, text};

const TOLD: &str = include_str!("programs/told.h");
const FILES: &str = include_str!("programs/files.c");
const WAITS: &str = include_str!("programs/waits.c");
const NETWORK: &str = include_str!("programs/network.c");
const OWN: &str = include_str!("programs/own.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];

fn whole(source: &str) -> String {
    source.replace("#include \"told.h\"", TOLD)
}

/// Without capabilities, as guests run.
fn native(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.arg(program).args(arguments).stdin(Stdio::null());
    command.output().unwrap()
}

/// The lines of both, side by side, that differ.
fn differences(found: &Output, native: &Output) -> Vec<String> {
    let (found_text, native_text) = (text(&found.stdout), text(&native.stdout));
    let mut lines: Vec<String> = found_text
        .lines()
        .zip(native_text.lines())
        .filter(|(guest, host)| guest != host)
        .map(|(guest, host)| format!("guest: {guest}\n host: {host}"))
        .collect();
    if found_text.lines().count() != native_text.lines().count() {
        lines.push(format!("guest ended with {:?}", found_text.lines().last()));
    }
    lines
}

fn compare(name: &str, compilers: &[&str], source: &str, options: &[&str]) {
    let mut world = World::new();
    for compiler in compilers {
        let image = format!("{name}-{compiler}");
        let program = world.build(&image, compiler, &["-w"], &whole(source));
        for platform in PLATFORMS {
            let directory = |kind: &str| {
                let path = world
                    .directory
                    .path()
                    .join(format!("{image}-{platform}-{kind}"));
                fs::create_dir(&path).unwrap();
                path
            };
            let host = directory("host");
            let native = native(&program, &[host.to_str().unwrap()]);
            let grant = format!("{}:/data", directory("guest").display());
            let options = [&["--platform", platform, "--dir", &grant][..], options].concat();
            let mut command = world.vmm(&image, &options, &["/data"]);
            let found = command.stdin(Stdio::null()).output().unwrap();
            let differ = differences(&found, &native);
            let said = text(&found.stderr);
            assert!(
                differ.is_empty(),
                "{image} {platform}: {said}\n{}",
                differ.join("\n")
            );
            assert_eq!(
                found.status.code(),
                native.status.code(),
                "{image} {platform}: {said}"
            );
        }
    }
}

#[test]
fn files_and_names_are_the_kernels() {
    if needs(&["kvm", "root"]) {
        compare("files", &["gcc"], FILES, &[]);
    }
}

#[test]
fn what_waits_waits_as_long_and_no_longer() {
    if needs(&["kvm", "root"]) {
        compare("waits", &["gcc", "musl-gcc"], WAITS, &[]);
    }
}

#[test]
fn sockets_are_the_kernels() {
    if needs(&["kvm", "root"]) {
        compare("network", &["gcc", "musl-gcc"], NETWORK, &["--net", "host"]);
    }
}

#[test]
fn the_monitors_descriptors_are_closed_to_a_guest() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut world = World::new();
    world.build("own", "musl-gcc", &["-w"], &whole(OWN));
    let data = world.directory.path().join("data");
    fs::create_dir(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    // Their descriptors are closed again before the guest runs: the VMM's others lie behind a gap.
    let many: Vec<String> = (0..110)
        .flat_map(|at| ["--dir".to_owned(), format!("{}:/data/{at}", data.display())])
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let report = world.directory.path().join("report.json");
    for options in [
        &[][..],
        &["--dir", &grant],
        &many,
        &["--net", "host", "--env", "NETWORK=1"],
    ] {
        let options = [options, &["--report", report.to_str().unwrap()]].concat();
        let found = world.run("own", &options, &[]);
        assert_eq!(
            text(&found.stdout),
            "done\n",
            "{options:?} {}",
            text(&found.stderr)
        );
        assert_eq!(found.status.code(), Some(3), "{options:?}");
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(report["status"], 3, "the report is still the monitor's");
    }
}

#[test]
fn a_directory_is_no_standard_file() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world.build("empty", "musl-gcc", &[], "int main(void) { return 0; }");
    for platform in PLATFORMS {
        let mut command = world.vmm("empty", &["--platform", platform], &[]);
        let directory = fs::File::open(world.directory.path()).unwrap();
        let found = command.stdin(directory).output().unwrap();
        assert_eq!(found.status.code(), Some(1), "{platform}");
        assert!(
            text(&found.stderr).contains("no directories"),
            "{}",
            text(&found.stderr)
        );
    }
}
