//! Applications of the form that Unikraft builds for Linux run on both platforms as they do natively, and share the
//! pages of the libraries that they have in common.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pool_core::image_map::ImageMap;
use pool_tests::host::Host;
use pool_tests::requirements::needs;
use pool_tests::run::{Backing, run};
use pool_tests::source_directory;
use pool_tests::workshop::{Workshop, succeeds};

/// Applications of the same libraries, each with what it mounts.
const PROGRAMS: [(&str, u32); 2] = [("five", 5), ("six", 6)];

#[test]
fn applications_share_the_objects_that_unikraft_makes_of_libraries() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let host = Host::start(&directory.path().join("host"), &[])?;
    let workshop = Workshop::new(&host, &directory.path().join("work"))?;
    for entry in fs::read_dir(source_directory().join("cli/tests/same_as_ld/unikraft"))? {
        let entry = entry?;
        let to = workshop.path(&entry.file_name().to_string_lossy());
        fs::copy(entry.path(), to)?;
    }
    let script = fs::read_to_string(workshop.path("build.sh"))?;
    let mut seen = Vec::new();
    for (name, mounted) in PROGRAMS {
        let changed = script.replace("-DMOUNTED=5", &format!("-DMOUNTED={mounted}"));
        ensure!(
            mounted == 5 || changed != script,
            "the script says something else"
        );
        let file = workshop.path("prog");
        let build = |linker: &str| -> Result<()> {
            let mut build = Command::new("bash");
            build
                .args(["-e", "-c", &changed])
                .env("B", linker)
                .env("POOL_SERVER", host.server())
                .env_remove("POOL_REGISTRY")
                .current_dir(workshop.path(""));
            succeeds(&mut build).map(drop)
        };
        build("")?;
        // It says by its status what it counted.
        let by_ld = Command::new(&file).output()?;
        build("-Bbin/")?;
        let native = Command::new(&file).output()?;
        ensure!(native == by_ld, "{name}: {native:?}, by ld {by_ld:?}");
        let path = file.to_str().context("the output path is not UTF-8")?;
        host.pool(&["push", "image", path, "--name", name, "--tag", "v1"])?;
        for platform in ["kvm", "process"] {
            let found = run(&host, &format!("image/{name}:v1"), Backing::Pool, platform)?;
            ensure!(
                found.output == native.stdout && found.status.code() == native.status.code(),
                "{name}, {platform}: {found:?}"
            );
        }
        let image = host.mount_point().join("images").join(name).join("v1");
        ensure!(fs::read(image.join("image.elf"))? == fs::read(file)?);
        let map = ImageMap::from_json(&fs::read(image.join("map"))?)?;
        let used = map.description.libraries.into_iter();
        seen.push(
            used.map(|used| (used.library, used.object, used.address))
                .collect::<Vec<_>>(),
        );
    }
    let names: Vec<&str> = seen[0].iter().map(|(of, ..)| of.name.as_str()).collect();
    ensure!(names == ["plat", "boot", "fs", "ram"], "{names:?}");
    ensure!(seen[0] == seen[1], "they differ: {seen:?}");
    Ok(())
}
