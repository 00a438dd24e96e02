//! The main job, end to end, on real parts: a poolsvc, a mount, KVM.
//!
//! One pool serves all tests of this file in turn, since they follow one story; each step states
//! what must hold before the next.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pool_core::ExtentMap;
use pool_core::description::{Description, RangeKind};
use pool_core::image_map::ImageMap;
use pool_tests::guests::{self, Guests, PROGRAMS, Paused};
use pool_tests::host::Host;
use pool_tests::requirements::needs;
use pool_tests::run::{Backing, run};
use pool_tests::wait;

fn map_of(host: &Host, program: &str) -> Result<ImageMap> {
    let path = host
        .mount_point()
        .join("images")
        .join(program)
        .join("v1/map");
    let json = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(ImageMap::from_json(&json)?)
}

fn push_all(host: &Host, guests: &Guests) -> Result<()> {
    for program in PROGRAMS {
        let elf = guests.linked(program);
        let elf = elf.to_str().context("path")?;
        host.pool(&["push", "image", elf, "--name", program, "--tag", "v1"])?;
    }
    Ok(())
}

/// Every library version has one content and one address in all images, and its pages are there
/// once: all maps place it in the same slots.
fn libraries_are_shared(host: &Host) -> Result<()> {
    let mut seen = HashMap::new();
    let mut uses = HashMap::new();
    for program in PROGRAMS {
        let map = map_of(host, program)?;
        ensure!(
            !map.description.libraries.is_empty(),
            "{program} uses no library"
        );
        for used in &map.description.libraries {
            let here = (used.object, used.address, map.objects[&used.object].clone());
            let first = seen
                .entry(used.library.clone())
                .or_insert_with(|| here.clone());
            ensure!(*first == here, "{} differs in {program}", used.library);
            *uses
                .entry(used.library.name.as_str().to_owned())
                .or_insert(0) += 1;
        }
    }
    ensure!(
        uses.values().any(|count| *count == PROGRAMS.len()),
        "no library is in all: {uses:?}"
    );
    for library in ["zlib", "sqlite", "lua"] {
        ensure!(
            uses.contains_key(library),
            "no program uses {library}: {uses:?}"
        );
    }
    Ok(())
}

fn files_read_back(host: &Host, guests: &Guests) -> Result<()> {
    for program in PROGRAMS {
        let directory = host.mount_point().join("images").join(program).join("v1");
        let original = fs::read(guests.linked(program))?;
        ensure!(
            fs::read(directory.join("image.elf"))? == original,
            "{program}: image.elf differs"
        );
        let description = Description::from_json(&fs::read(directory.join("desc"))?)?;
        ensure!(
            description.image.length == original.len() as u64,
            "{program}: wrong length"
        );
    }
    let writing = fs::OpenOptions::new()
        .write(true)
        .open(host.mount_point().join("images/hello/v1/image.elf"));
    let errno = writing.err().and_then(|error| error.raw_os_error());
    ensure!(
        errno == Some(libc::EROFS),
        "opening for writing gave {errno:?}"
    );
    Ok(())
}

fn programs_run_as_natively(host: &Host, guests: &Guests) -> Result<()> {
    for program in PROGRAMS {
        let native = guests.run_natively(program)?;
        for platform in ["kvm", "process"] {
            for backing in Backing::ALL {
                let guest = run(host, &format!("image/{program}:v1"), backing, platform)?;
                ensure!(
                    guest.status.success() && guest.output == native,
                    "{program} on {platform}/{}: {}\n{}\n{}",
                    backing.name(),
                    guest.status,
                    String::from_utf8_lossy(&guest.output),
                    String::from_utf8_lossy(&guest.errors),
                );
            }
        }
    }
    Ok(())
}

/// Sums up what the segments hold, to see that guests changed nothing.
fn segments_digest(host: &Host) -> Result<HashMap<String, Vec<u8>>> {
    let mut digests = HashMap::new();
    for segment in host.segments()? {
        let output = Command::new("sha256sum").arg(&segment).output()?;
        digests.insert(segment.display().to_string(), output.stdout);
    }
    Ok(digests)
}

fn text_writes_are_stopped_and_named(host: &Host) -> Result<()> {
    let before = segments_digest(host)?;
    for platform in ["kvm", "process"] {
        let guest = run(host, "image/text-write:v1", Backing::Pool, platform)?;
        ensure!(
            guest.status.code() == Some(139),
            "{platform}: ended with {}",
            guest.status
        );
        let errors = String::from_utf8_lossy(&guest.errors);
        for needed in ["zlib@", "instruction pointer"] {
            ensure!(
                errors.contains(needed),
                "{platform}: {needed:?} is not in:\n{errors}"
            );
        }
    }
    ensure!(segments_digest(host)? == before, "a guest changed the pool");
    Ok(())
}

fn collection_leaves_a_running_guest_alone(host: &Host, guests: &Guests) -> Result<()> {
    let native = guests.run_natively("sqlite-workload")?;
    let running = Paused::start(host, "image/sqlite-workload:v1", "kvm")?;
    let in_process = Paused::start(host, "image/sqlite-workload:v1", "process")?;
    for program in PROGRAMS.iter().chain(&["text-write"]) {
        host.pool(&["rm", &format!("image/{program}:v1")])?;
    }
    let before = host.segment_disk_bytes()?;
    host.pool(&["gc", "--grace", "0"])?;
    // The kernel keeps names for a while.
    let deleted = host.mount_point().join("images/sqlite-workload/v1");
    wait::until("the deleted image is no longer listed", || {
        !deleted.exists()
    });
    ensure!(running.finish()? == native, "the guest's result is wrong");
    ensure!(
        in_process.finish()? == native,
        "the process's result is wrong"
    );
    // The kernel tells poolfs of a close some time after it, and the leases end then.
    let left = wait::until_some("a collection finds no lease of a guest that ended", || {
        let collected = host.pool(&["gc", "--grace", "0"]);
        let stats = collected.and_then(|_| host.pool(&["stats"]));
        match stats {
            Ok(stats) if stats["objects"] != 0 || stats["retired_segments"] != 0 => None,
            other => Some(other),
        }
    })?;
    ensure!(
        left["libraries"] == 0 && left["stored_pages"] == 0,
        "left over: {left}"
    );
    let after = host.segment_disk_bytes()?;
    ensure!(after < before / 4, "of {before} bytes {after} are left");
    Ok(())
}

#[test]
fn link_push_mount_run_collect() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let scratch = tempfile::Builder::new()
        .prefix("pool-main-job-")
        .tempdir_in("/var/tmp")?;
    let host = Host::start(&scratch.path().join("pool"), &[])?;
    let mut programs = PROGRAMS.to_vec();
    programs.push("text-write");
    let guests = guests::build(&host, &guest_directory()?, &programs)?;
    push_all(&host, &guests)?;
    let elf = guests.linked("text-write");
    let elf = elf.to_str().context("path")?;
    host.pool(&["push", "image", elf, "--name", "text-write", "--tag", "v1"])?;

    libraries_are_shared(&host)?;
    files_read_back(&host, &guests)?;
    programs_run_as_natively(&host, &guests)?;
    text_writes_are_stopped_and_named(&host)?;
    windows_are_mapped_whole(&host)?;
    collection_leaves_a_running_guest_alone(&host, &guests)
}

/// Compiled guests are kept beside the build's other results.
fn guest_directory() -> Result<std::path::PathBuf> {
    Ok(pool_tests::host::program_directory()?.join("guests"))
}

/// The big libraries lie in windows of their own, and the VMM maps those by 2 MiB entries.
fn windows_are_mapped_whole(host: &Host) -> Result<()> {
    let map = map_of(host, "sqlite-workload")?;
    let dense = map
        .description
        .ranges
        .iter()
        .filter(|range| range.kind == RangeKind::Shared)
        .filter_map(|range| range.source)
        .filter(|source| {
            map.objects[&source.object]
                .extents()
                .iter()
                .any(|e| e.dense)
        })
        .count();
    ensure!(
        dense >= 2,
        "only {dense} ranges lie in windows of their own"
    );
    // The padding of such a window reads as zeros through the mount.
    let extent = *map
        .objects
        .values()
        .flat_map(ExtentMap::extents)
        .find(|extent| extent.dense && extent.slot.page_in_window() == 0)
        .context("no dense window begins with its library")?;
    let path = host
        .mount_point()
        .join("segments")
        .join(extent.segment.to_string());
    let file = fs::File::open(Path::new(&path))?;
    let mut page = [1; 4096];
    file.read_exact_at(
        &mut page,
        extent.slot.byte_offset() + u64::from(extent.count) * 4096,
    )?;
    ensure!(
        page.iter().all(|byte| *byte == 0),
        "padding of a dense window is not zero"
    );
    Ok(())
}
