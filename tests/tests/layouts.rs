//! A program in every layout of `pool link --pool-layout`: each is pushed, reads back byte for byte, says how it is laid out, and
//! does the same natively and as a guest.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use pool_core::image_map::ImageMap;
use pool_tests::host::Host;
use pool_tests::requirements::needs;
use pool_tests::run::{Backing, bounded, command, run};
use pool_tests::workshop::Workshop;

const LIBRARY: &str = r#"
#include <stdexcept>
#include <string>
int twice(int n) {
    static thread_local int calls;
    if (n < 0) throw std::runtime_error("less than " + std::to_string(calls));
    calls++;
    return 2 * n;
}
"#;
const PROGRAM: &str = r#"
#include <cstdio>
#include <exception>
#include <thread>
int twice(int);
int main() {
    int sum = 0;
    std::thread([&] { for (int n = 0; n < 10; n++) sum += twice(n); }).join();
    try { twice(-1); } catch (const std::exception &e) { std::printf("%d, %s\n", sum, e.what()); }
    return 7;
}
"#;
const SAYS: &[u8] = b"90, less than 0\n";
const STATUS: Option<i32> = Some(7);
const LAYOUTS: [&str; 4] = ["default", "dce", "spacer", "pool"];

fn finished(command: &mut Command) -> Result<Output> {
    let output = command.output();
    output.with_context(|| format!("starting {command:?}"))
}

#[test]
fn images_of_every_layout_are_kept_and_run() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let host = Host::start(&directory.path().join("host"), &[])?;
    let workshop = Workshop::new(&host, &directory.path().join("work"))?;
    workshop.compile("g++", &["-O1"], "twice.cc", LIBRARY)?;
    workshop.compile("g++", &["-O1"], "main.cc", PROGRAM)?;
    workshop.archive("libtwice.a", &["twice.o"])?;
    for name in LAYOUTS {
        let layout = format!("-Wl,{name}");
        let asked = ["-Wl,--pool-libraries=all", "-Wl,--pool-layout", &layout];
        let arguments = [&["main.o", "-L.", "-ltwice"][..], &asked].concat();
        workshop.push("g++", name, &arguments)?;
        let file = workshop.path(name);
        let native = finished(&mut Command::new(&file))?;
        ensure!(native.stdout == SAYS, "{name}: {native:?}");
        ensure!(native.status.code() == STATUS, "{name}: {native:?}");
        let path = file.to_str().context("path")?;
        let told = host.pool(&["inspect", path])?;
        ensure!(told["linked_as"] == name, "{name}: {told}");
        let reference = format!("image/{name}:v1");
        for platform in ["kvm", "process"] {
            let found = run(&host, &reference, Backing::Pool, platform)?;
            let is_same = found.output == SAYS && found.status.code() == STATUS;
            ensure!(is_same, "{name}, {platform}: {found:?}");
        }
        let image = host.mount_point().join("images").join(name).join("v1");
        ensure!(fs::read(image.join("image.elf"))? == fs::read(&file)?);
        let map = ImageMap::from_json(&fs::read(image.join("map"))?)?;
        let libraries = map.description.libraries.len();
        ensure!((libraries > 0) == (name == "pool"), "{name}: {libraries}");
        // Elsewhere as a whole, and each library by itself where nothing refers to one directly; or it is said why not.
        for aslr in ["image", "library"] {
            let mut guest = command(&host, &reference, Backing::Pool, "process");
            guest.args(["--aslr", aslr]);
            let found = finished(&mut bounded(&guest))?;
            let is_same = found.stdout == SAYS && found.status.code() == STATUS;
            let says = String::from_utf8_lossy(&found.stderr);
            let can = told["slide"][if aslr == "image" {
                "image"
            } else {
                "libraries"
            }] == true;
            let why = told["slide"]["why_not"].as_str().unwrap_or_default();
            let is_told = !why.is_empty() && says.contains(why.split(':').next().unwrap_or(why));
            ensure!(
                is_same == can && (can || is_told),
                "{name}, --aslr {aslr}: {found:?}\n{told}"
            );
        }
    }
    Ok(())
}
