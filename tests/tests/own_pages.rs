//! A program that replaces what a library refers to has pages of its own among the library's: it runs as it
//! does natively, on both platforms, and all other pages stay those of every image.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pool_core::image_map::ImageMap;
use pool_tests::host::Host;
use pool_tests::requirements::needs;
use pool_tests::run::{Backing, run};

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

fn succeeds(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {says}");
    Ok(output.stdout)
}

fn compile(directory: &Path, name: &str, text: &str) -> Result<()> {
    fs::write(directory.join(format!("{name}.c")), text)?;
    let mut compiler = Command::new("gcc");
    compiler.args(["-O1", "-c", &format!("{name}.c")]);
    succeeds(compiler.current_dir(directory)).map(drop)
}

#[test]
fn programs_that_replace_parts_of_a_library_share_the_rest() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let work = directory.path();
    let host = Host::start(&work.join("host"), &[])?;
    std::os::unix::fs::symlink(host.binary("pool"), work.join("ld"))?;
    for (name, text) in LIBRARY {
        compile(work, name, text)?;
    }
    let members = LIBRARY.map(|(name, _)| format!("{name}.o"));
    let mut archive = Command::new("ar");
    succeeds(
        archive
            .args(["rcs", "libtop.a"])
            .args(&members)
            .current_dir(work),
    )?;
    let mut seen = Vec::new();
    for (name, definitions) in PROGRAMS {
        compile(work, "main", &format!("{MAIN}{definitions}"))?;
        let mut link = Command::new("gcc");
        link.args([
            "-static",
            "-B./",
            "main.o",
            "-L.",
            "-ltop",
            "-Wl,--pool-libraries=all",
            "-o",
            name,
        ])
        .env("POOL_SERVER", host.server())
        .current_dir(work);
        succeeds(&mut link)?;
        let native = succeeds(&mut Command::new(work.join(name)))?;
        let file = work.join(name);
        let file = file.to_str().context("path")?;
        host.pool(&["push", "image", file, "--name", name, "--tag", "v1"])?;
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
