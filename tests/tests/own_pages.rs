//! A program that replaces what a library refers to has pages of its own among the library's: it runs as it
//! does natively, on both platforms, and all other pages stay those of every image.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pool_core::image_map::ImageMap;
use pool_tests::host::Host;
use pool_tests::requirements::needs;
use pool_tests::run::{Backing, run};
use pool_tests::workshop::{Workshop, succeeds};

const LIBRARY: [(&str, &str); 4] = [
    ("number", "int number = 5;"),
    (
        "middle",
        "extern int number; int middle(void) { return number; }",
    ),
    (
        "top",
        "extern int number; int middle(void); int top(void) { return middle() * 10 + number; }",
    ),
    ("unused", "const char table[30000] = {1, 2, 3};"),
];
const MAIN: &str =
    "#include <stdio.h>\nint top(void); int main(void) { printf(\"%d\\n\", top()); return 0; }\n";
/// Each with what its own definitions are.
const PROGRAMS: [(&str, &str); 3] = [
    ("plain", ""),
    ("number", "int number = 77;"),
    ("both", "int number = 7; int middle(void) { return 100; }"),
];

#[test]
fn programs_that_replace_parts_of_a_library_share_the_rest() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let host = Host::start(&directory.path().join("host"), &[])?;
    let workshop = Workshop::new(&host, &directory.path().join("work"))?;
    let compile =
        |name: &str, text: &str| workshop.compile("gcc", &["-O1"], &format!("{name}.c"), text);
    for (name, text) in LIBRARY {
        compile(name, text)?;
    }
    let members = LIBRARY.map(|(name, _)| format!("{name}.o"));
    workshop.archive("libtop.a", &members.each_ref().map(String::as_str))?;
    let mut seen = Vec::new();
    for (name, definitions) in PROGRAMS {
        compile("main", &format!("{MAIN}{definitions}"))?;
        let arguments = ["main.o", "-L.", "-ltop", "-Wl,--pool-libraries=all"];
        workshop.push("gcc", name, &arguments)?;
        let file = workshop.path(name);
        let native = succeeds(&mut Command::new(&file))?;
        for platform in ["kvm", "process"] {
            let found = run(&host, &format!("image/{name}:v1"), Backing::Pool, platform)?;
            ensure!(found.output == native, "{name}, {platform}: {found:?}");
        }
        let image = host.mount_point().join("images").join(name).join("v1");
        ensure!(fs::read(image.join("image.elf"))? == fs::read(file)?);
        let map = ImageMap::from_json(&fs::read(image.join("map"))?)?;
        let used = map.description.libraries.iter();
        let used = used
            .clone()
            .find(|used| used.library.name.as_str() == "top")
            .context("the library is not used")?;
        seen.push((used.object, used.address));
    }
    ensure!(
        seen.iter().all(|library| *library == seen[0]),
        "the library is another in some image: {seen:?}"
    );
    Ok(())
}
