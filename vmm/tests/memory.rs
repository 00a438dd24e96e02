//! Guest memory as programs use it: areas and calls compared with Linux, and limits that hold.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use pool_tests::requirements::{needs, skip};
use serde_json::Value;
use support::{Placement, compile};
use world::{Running, WAYS, World, assert_same, has_processor_flag, kernel, seeds, text};

const KVM: [&str; 4] = WAYS[0];
const PROCESS: [&str; 4] = WAYS[2];
const MAPPING_FUZZ: &str = include_str!("programs/mapping_fuzz.c");
const MEMORY_CALLS: &str = include_str!("programs/memory_calls.c");
const TOUCHES: &str = include_str!("programs/touches.c");
const MEMORY_LIMIT: &str = include_str!("programs/memory_limit.c");
const SPARSE: &str = include_str!("programs/sparse.c");
const ARENAS: &str = include_str!("programs/arenas.c");
const PRESSED: &str = include_str!("programs/pressed.c");
const FULL: &str = include_str!("programs/full.c");
const GROWTH: &str = include_str!("programs/growth.c");

#[test]
fn mappings_are_what_linux_makes_of_them() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    for (name, compiler) in [("fuzz-glibc", "gcc"), ("fuzz-musl", "musl-gcc")] {
        let path = world.build(name, compiler, &[], MAPPING_FUZZ);
        for seed in 1..=seeds(6) {
            let arguments = [&seed.to_string(), "600"];
            let native = Command::new(&path).args(arguments).output().unwrap();
            assert!(native.status.success(), "{}", text(&native.stdout));
            for way in WAYS {
                let found = world.run(name, &way, &arguments);
                assert_same(&format!("{name} {way:?} {seed}"), &found, &native);
            }
            // Just enough: what was given and not touched must come back.
            let tight = [&KVM[..], &["--memory", "34M"]].concat();
            let found = world.run(name, &tight, &arguments);
            assert_same(&format!("{name} {tight:?} {seed}"), &found, &native);
        }
    }
}

/// Calls with arguments of every kind: results, and what memory holds and allows afterwards.
#[test]
fn calls_about_memory_return_what_linux_returns() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let path = world.build("memory-calls", "musl-gcc", &["-w"], MEMORY_CALLS);
    let content: Vec<u8> = (0..30 * 4096 - 100)
        .map(|at: usize| (at / 4096 * 7 + 1) as u8)
        .collect();
    // From Linux 6.17 on several mappings are moved by one call.
    let moves = u8::from(kernel() >= (6, 17)).to_string();
    // A guest's processor has no protection keys, by which the host's kernel may keep code from being read.
    let hides = u8::from(has_processor_flag("ospke")).to_string();
    let (file, shared) = (world.data().join("file"), world.data().join("shared"));
    for seed in 1..=seeds(6) {
        let seed = seed.to_string();
        fs::write(&file, &content).unwrap();
        fs::write(&shared, &content).unwrap();
        let paths = [&file, &shared].map(|path| path.to_str().unwrap());
        let arguments = [&seed, "500", paths[0], paths[1], &moves, &hides];
        let native = Command::new(&path).args(arguments).output().unwrap();
        assert!(native.status.success(), "{}", text(&native.stdout));
        let written = fs::read(&shared).unwrap();
        let arguments = [&seed, "500", "/data/file", "/data/shared", &moves, &hides];
        fs::write(&file, &content).unwrap();
        fs::write(&shared, &content).unwrap();
        let mut command = world.granted("memory-calls", &KVM, &arguments);
        let found = command.output().unwrap();
        let (found, native) = (text(&found.stdout), text(&native.stdout));
        let differing = found
            .lines()
            .zip(native.lines())
            .find(|(found, native)| found != native);
        assert_eq!(differing, None, "seed {seed}");
        assert_eq!(found.lines().count(), native.lines().count(), "seed {seed}");
        assert!(fs::read(&shared).unwrap() == written, "seed {seed}");
    }
}

/// A buffer larger than what there is: the call comes back short, and what it says is there.
#[test]
fn a_call_into_more_than_there_is_comes_back_short() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/mman.h>
        #include <unistd.h>
        int main(void) {
            int fd = open("/data/file", O_RDONLY);
            long *at = mmap(0, 24 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            long bytes = read(fd, at, 24 << 20), wrong = 0;
            for (long page = 0; page < bytes / 4096; page++) wrong += at[page * 512] != page + 1;
            munmap(at, 24 << 20);
            printf("%d %ld\n", bytes > 8 << 20 && bytes < 16 << 20, wrong);
            return 0;
        }"#;
    let world = World::of("short", "musl-gcc", &[], source);
    let pages = (1..=6144u64).flat_map(|page| [page.to_le_bytes().as_slice(), &[0; 4088]].concat());
    fs::write(world.data().join("file"), pages.collect::<Vec<u8>>()).unwrap();
    let options = [&KVM[..], &["--memory", "16M"]].concat();
    let found = world.granted("short", &options, &[]).output().unwrap();
    assert_eq!(text(&found.stdout), "1 0\n", "{}", text(&found.stderr));
}

/// As many areas have to go as in Linux 6.18, which the other platform has it from.
#[test]
fn at_the_limit_of_areas_calls_do_what_linux_does() {
    const LINUX: &str = "map: 1, ENOMEM\nmap within: 2, ENOMEM\nmap over: 1, ENOMEM\nmap beside: 1, ENOMEM\n\
        unmap within: 2, ENOMEM\nunmap the end: 0\nprotect within: 3, ENOMEM\nprotect the end: 2, ENOMEM\n\
        protect all: 0\nprotect over: 0\nprotect from within to within: 0\ngrow the heap: 1, ENOMEM\n\
        grow in place: 0\ngrow and move: 5, ENOMEM\ngrow some and move: 5, ENOMEM\nshrink: 0\n\
        shrink within: 2, ENOMEM\nmove: 7, ENOMEM\nmove within: 7, ENOMEM\nmove upon: 7, ENOMEM\n\
        move several: 7, ENOMEM\nshrink and move: 7, ENOMEM\nmove nothing: 7, EFAULT\n\
        map where something is: 1, EEXIST\nmove several onto one: 9, ENOMEM, changed\n";
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("full", "gcc", &["-w"], FULL);
    let found = world.run("full", &KVM, &[]);
    assert_eq!(text(&found.stdout), LINUX, "{}", text(&found.stderr));
}

#[test]
fn arenas_are_cut_out_of_reservations() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let path = world.build("arenas", "gcc", &[], ARENAS);
    let native = Command::new(&path).output().unwrap();
    for way in WAYS {
        assert_same(
            &format!("{way:?}"),
            &world.run("arenas", &way, &[]),
            &native,
        );
    }
}

#[test]
fn pages_far_apart_cost_what_they_are() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("sparse", "musl-gcc", &[], SPARSE);
    let file = world.directory.path().join("report.json");
    let options = [
        &KVM[..],
        &["--memory", "16M", "--report", file.to_str().unwrap()],
    ]
    .concat();
    // 4 MiB and 1 GiB apart: a table for each page, and a directory.
    for (step, count) in [("4194304", "3000"), ("1073741824", "3000")] {
        let found = world.run("sparse", &options, &[step, count]);
        assert_eq!(text(&found.stdout), "ok\n", "{}", text(&found.stderr));
        let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let ram = report["mapped"]["ram_bytes"].as_u64().unwrap();
        assert!(ram <= 32 << 20, "{ram} bytes of RAM for 300 pages");
    }
}

#[test]
fn no_way_to_more_memory_passes_the_limit() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("limit", "musl-gcc", &[], MEMORY_LIMIT);
    let file = world.directory.path().join("report.json");
    let run = |way: &str, mib: u64| {
        let memory = format!("{mib}M");
        let options = ["--memory", &memory, "--report", file.to_str().unwrap()];
        let found = world.run("limit", &[&KVM[..], &options].concat(), &[way]);
        let said = text(&found.stdout);
        let numbers: Vec<u64> = said.lines().filter_map(|line| line.parse().ok()).collect();
        let had = *numbers.last().unwrap_or_else(|| {
            panic!("{way}: {said} {}", text(&found.stderr));
        });
        let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let peak = report["host"]["peak_rss_kib"].as_u64().unwrap();
        (had, peak, found)
    };
    let (_, floor, _) = run("none", 16);
    for way in [
        "mmap",
        "mprotect",
        "hidden",
        "fixed",
        "beside-the-stack",
        "brk",
        "mremap",
        "overcommitted",
        "shared",
        "call",
        "scattered",
    ] {
        for mib in [16, 48] {
            let (had, peak, found) = run(way, mib);
            // The program itself and its stack take less than one MiB. Page tables are free up to 2 MiB, and
            // forgotten rather than charged when there is no room for them.
            let most = if way == "scattered" { 2 * mib } else { mib };
            let ended = text(&found.stderr);
            assert!(
                (mib - 2..=most).contains(&had),
                "{way}: {had} of {mib} MiB, {ended}"
            );
            if way == "call" {
                let said = text(&found.stdout);
                assert!(said.ends_with("Out of memory\n"), "{said}");
                assert!(found.status.success());
            } else {
                assert_eq!(found.status.code(), Some(137), "{way}: {ended}");
                assert!(ended.contains("raise --memory"), "{way}: {ended}");
            }
            // What the monitor keeps to know of scattered pages is small beside them.
            let most = floor + (mib + 2) * 1024 + mib * 128;
            assert!(peak <= most, "{way}: {peak} KiB for {mib} MiB");
        }
    }
}

/// Batches may not cost a guest memory that it could have used: what it did not touch comes back.
#[test]
fn what_was_given_and_not_touched_is_taken_back_at_the_limit() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("touches", "musl-gcc", &[], TOUCHES);
    let options = [&KVM[..], &["--memory", "8M"]].concat();
    // Each stands alone, so that a batch comes with it: 1 200 pages, 75 MiB of batches.
    let found = world.run("touches", &options, &["1200", "17"]);
    assert_eq!(text(&found.stdout), "ok\n", "{}", text(&found.stderr));
}

#[test]
fn nothing_that_a_guest_chooses_makes_the_monitor_grow() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("growth", "musl-gcc", &[], GROWTH);
    let file = world.directory.path().join("report.json");
    let options = [&KVM[..], &["--report", file.to_str().unwrap()]].concat();
    let found = world.run("growth", &options, &[]);
    assert_eq!(
        text(&found.stdout),
        "1 1\n0\n0\n1 1\n",
        "{}",
        text(&found.stderr)
    );
    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let unknown = report["unknown_calls"].as_object().unwrap();
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown["1024"], 100_000);
    let peak = report["host"]["peak_rss_kib"].as_u64().unwrap();
    assert!(peak < 16 << 10, "{peak} KiB");
}

#[test]
fn a_stack_is_executable_when_the_program_asks() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let nested = r#"
        #include <stdio.h>
        static __attribute__((noinline)) int apply(int (*f)(int), int x) { return f(x); }
        int main(int c, char **v) {
            int base = c + 40;
            int plus(int x) { return base + x; }
            printf("%d\n", apply(plus, 1));
            return 0;
        }"#;
    let path = world.build("nested", "gcc", &["-O0"], nested);
    let native = Command::new(&path).output().unwrap();
    assert_eq!(text(&native.stdout), "42\n");
    for way in WAYS {
        assert_same(
            &format!("{way:?}"),
            &world.run("nested", &way, &[]),
            &native,
        );
    }
    // And is not otherwise.
    let flags = ["-O0", "-Wl,-z,noexecstack"];
    world.build("nested-data", "gcc", &flags, nested);
    for way in WAYS {
        let found = world.run("nested-data", &way, &[]);
        assert_eq!(found.status.code(), Some(139), "{way:?}");
    }
}

/// The monitor's pages lie in the window of the stack's end, and its entries beside the stack's.
#[test]
fn unmapping_what_lies_beside_the_stack_leaves_the_monitor() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r"
        #include <string.h>
        #include <sys/mman.h>
        int main(void) {
            char here[200 << 10];
            unsigned long window = 2ul << 20, end = ((unsigned long)here | (window - 1)) + 1;
            unsigned long beyond = (1ul << 20) + (64ul << 10);
            munmap((void *)(end - beyond), beyond);
            mprotect((void *)(end - beyond), beyond, PROT_NONE);
            memset(here, 1, sizeof here);
            return here[sizeof here / 2] == 1 ? 5 : 1;
        }";
    let world = World::of("unmaps", "musl-gcc", &["-w"], source);
    let found = world.run("unmaps", &KVM, &[]);
    assert_eq!(found.status.code(), Some(5), "{}", text(&found.stderr));
}

/// What is taken back from one thread is not what another, on another processor, is about to write.
#[test]
fn what_is_taken_back_at_the_limit_was_touched_by_nobody() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("pressed", "musl-gcc", &["-O1", "-pthread"], PRESSED);
    for cpus in ["1", "3"] {
        for memory in ["3M", "4M"] {
            let options = ["--cpus", cpus, "--memory", memory];
            let found = world.run("pressed", &options, &["3"]);
            let said = text(&found.stderr);
            assert_eq!(text(&found.stdout), "0 wrong\n", "{options:?} {said}");
        }
    }
}

/// Pages of segments that lie around an image's own are others', and would be charged to the first guest that the
/// kernel reads them for.
#[test]
fn the_host_reads_what_is_mapped_and_nothing_around_it() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let path = compile(
        world.directory.path(),
        "few",
        "musl-gcc",
        &[],
        "int main(void) { return 0; }",
    );
    let map = world.pool.add(&path, "few", Placement::Sparse);
    let extents = map.objects.values().flat_map(pool_core::ExtentMap::extents);
    let pages: u64 = extents.map(|extent| u64::from(extent.count)).sum();
    let segment = world
        .pool
        .root
        .join(format!("segments/{}", pool_core::SegmentId(1)));
    let segment = OpenOptions::new()
        .read(true)
        .write(true)
        .open(segment)
        .unwrap();
    let end = segment.metadata().unwrap().len();
    segment.write_all_at(&vec![1; 8 << 20], end).unwrap();
    segment.sync_all().unwrap();
    for way in [KVM, PROCESS] {
        // SAFETY: the call takes numbers.
        unsafe { libc::posix_fadvise(segment.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if resident(&segment) != 0 {
            return skip("the file system of temporary files keeps them in memory");
        }
        let found = world.run("few", &way, &[]);
        assert!(found.status.success(), "{}", text(&found.stderr));
        let there = resident(&segment);
        assert!(
            there > 0 && there <= pages,
            "{way:?} {there} pages of {pages}"
        );
    }
}

/// How many pages of `file` are in the host's memory.
fn resident(file: &fs::File) -> u64 {
    let length = file.metadata().unwrap().len() as usize;
    let mut found = vec![0u8; length.div_ceil(4096)];
    // SAFETY: a new mapping, which only this function knows of; the kernel writes a byte a page of it.
    unsafe {
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        let at = libc::mmap(
            std::ptr::null_mut(),
            length,
            protection,
            flags,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(at, libc::MAP_FAILED);
        assert_eq!(libc::mincore(at, length, found.as_mut_ptr()), 0);
        libc::munmap(at, length);
    }
    found.iter().map(|byte| u64::from(byte & 1)).sum()
}

/// What the loader relocates each instance has for itself, whatever its guest does.
#[test]
fn the_loader_has_little_to_relocate() {
    const MOST: u64 = 56 << 10;
    if cfg!(debug_assertions) {
        return;
    }
    let program = fs::read(env!("CARGO_BIN_EXE_poolvmm")).unwrap();
    let elf = goblin::elf::Elf::parse(&program).unwrap();
    let is_relocated = |section: &&goblin::elf::SectionHeader| {
        elf.shdr_strtab.get_at(section.sh_name) == Some(".data.rel.ro")
    };
    let sizes = elf.section_headers.iter().filter(is_relocated);
    let size: u64 = sizes.map(|section| section.sh_size).sum();
    assert!(size > 0 && size <= MOST, "{size} bytes");
}

/// What preparing took is given back: nothing that is left over from it keeps a page.
#[test]
fn a_guest_at_rest_keeps_few_pages_of_the_monitors_heap() {
    const MOST: u64 = 32;
    if !needs(&["kvm"]) || cfg!(debug_assertions) {
        return;
    }
    let source = r#"
        #include <stdio.h>
        #include <unistd.h>
        int main(void) { puts("at rest"); fflush(stdout); for (;;) pause(); }"#;
    let world = World::of("rests", "musl-gcc", &[], source);
    let mut command = world.vmm("rests", &KVM, &[]);
    let mut guest = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(guest.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "at rest");
    let maps = fs::read_to_string(format!("/proc/{}/smaps", guest.0.id())).unwrap();
    let (_, heap) = maps.split_once("[heap]\n").unwrap();
    let held = heap.lines().find_map(|line| line.strip_prefix("Rss:"));
    let held: u64 = held
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(held <= MOST, "{held} KiB");
}
