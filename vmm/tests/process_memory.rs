//! How much memory a guest of the process platform can have, measured by guests that take all they can get.

#![allow(clippy::unwrap_used)]

mod operator;
mod support;
mod world;

use std::fs;
use std::io::Read as _;
use std::process::{Command, Output, Stdio};

use operator::{Operator, PROCESS, libc_number};
use pool_tests::memory_group::MemoryGroup;
use pool_tests::requirements::needs;
use world::{Running, World, text};

const TAKE: &str = include_str!("programs/take.c");
const LENGTHS: &str = include_str!("programs/lengths.c");
const NAMES: &str = include_str!("programs/names.c");
const PROTECT: &str = include_str!("programs/protect.c");
const RESERVE: &str = include_str!("programs/reserve.c");
const SHORTER: &str = include_str!("programs/shorter.c");
const TABLES: &str = include_str!("programs/tables.c");

#[test]
fn limits_that_are_lower_stay() {
    let mut operator = Operator::new();
    operator.build("take", "gcc", &[], TAKE);
    let vmm = operator.vmm("take", &PROCESS, &["private"]);
    let found = Command::new("sh")
        .args(["-c", "ulimit -d 32768; exec \"$@\"", "sh"])
        .arg(vmm.get_program())
        .args(vmm.get_args())
        .output()
        .unwrap();
    let taken: i64 = text(&found.stdout)
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{}", text(&found.stderr)));
    assert!((4..=32).contains(&taken), "{taken} MiB");
}

#[test]
fn memory_is_limited_however_it_is_taken() {
    const MEMORY: i64 = 64;
    const STACK: i64 = 8;
    let mut operator = Operator::new();
    operator.build("take", "gcc", &[], TAKE);
    let ways = [
        "private",
        "shared",
        "growing",
        "shared-none",
        "promised",
        "heap",
        "moved",
        "zeros",
        "zeros-none",
        "given-up",
        "given-up-whole",
        "given-up-heap",
        "given-up-heap-refused",
        "given-up-heap-shrunk",
    ];
    let ways = ways.map(|how| vec![how]).into_iter();
    // What the kernel says of a process says less once the first thread has left.
    let left =
        ["private", "given-up", "given-up-whole", "given-up-heap"].map(|how| vec![how, "leave"]);
    for how in ways.chain(left) {
        let found = operator.run("take", &[&PROCESS[..], &["--memory", "64M"]].concat(), &how);
        let how = how.join(" ");
        let said = text(&found.stdout);
        let taken: i64 = said
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{how}: {said} {} {}", found.status, text(&found.stderr)));
        // Written and given up does not count at once, but no more is given up than was granted.
        let most = if how.starts_with("given-up") { 2 } else { 1 } * (MEMORY + STACK);
        assert!(taken <= most, "{how}: {taken} MiB");
        assert!(taken >= MEMORY - 8, "{how}: {taken} MiB were granted");
        let peak = operator.peak() >> 10;
        assert!(peak <= most + 8, "{how}: {peak} MiB resident");
    }
}

#[test]
fn memory_may_be_sparse_and_reserved_and_what_is_only_read_is_bounded() {
    let mut operator = Operator::new();
    operator.build("sparse", "gcc", &[], RESERVE);
    let found = operator.run(
        "sparse",
        &[&PROCESS[..], &["--memory", "64M"]].concat(),
        &[],
    );
    assert_eq!(
        text(&found.stdout),
        "8 GiB to read\nmore by other calls: 0\n"
    );
}

/// As natively: it has more than it was granted then.
#[test]
fn who_has_taken_too_much_may_have_less() {
    let mut operator = Operator::new();
    operator.build("shorter", "gcc", &["-w"], SHORTER);
    let options = [&PROCESS[..], &["--memory", "16M"]].concat();
    let found = operator.run("shorter", &options, &[]);
    assert_eq!(
        text(&found.stdout),
        "more: ENOMEM\nshorter: done\nshorter and movable: done\nas it is: done\nlonger: ENOMEM\nelsewhere: ENOMEM\nheap: done\ngone: done\n",
        "{}",
        text(&found.stderr)
    );
}

/// Whatever a guest says of a length, it is whole pages that it has then.
#[test]
fn what_is_only_read_counts_by_whole_pages() {
    if !needs(&["root"]) {
        return;
    }
    let mut world = World::new();
    world.build("lengths", "gcc", &[], LENGTHS);
    let options = [&PROCESS[..], &["--memory", "1M"]].concat();
    let found = world.granted("lengths", &options, &["/data/file"]).output();
    let found = found.unwrap();
    assert_eq!(
        text(&found.stdout),
        "twice: 0 0 0\n1 bytes each: 1\n2049 bytes each: 1\n4097 bytes each: 0\n",
        "{}",
        text(&found.stderr)
    );
}

/// What the kernel tells of a guest's areas is as long as the guest likes: some 40 MiB here.
#[test]
fn what_is_told_of_areas_is_not_kept() {
    const TIMES: &str = "400";
    const MOST: u64 = 16 << 10;
    if !needs(&["root"]) {
        return;
    }
    let mut world = World::new();
    world.build("names", "gcc", &[], NAMES);
    let options = [&PROCESS[..], &["--memory", "4M"]].concat();
    let mut command = world.granted("names", &options, &["/data", TIMES]);
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    running.guest_in_call(libc_number("pause"));
    let mut said = [0; 64];
    let mut output = running.0.stdout.take().unwrap();
    let length = output.read(&mut said).unwrap();
    assert_eq!(text(&said[..length]), format!("{TIMES} mapped, then 0\n"));
    let status = fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().strip_suffix(" kB").unwrap();
    assert!(peak.parse::<u64>().unwrap() <= MOST, "{peak} KiB");
}

#[test]
fn page_tables_are_limited() {
    const MEMORY: u64 = 64;
    const STACK: u64 = 8;
    let mut operator = Operator::new();
    operator.build("tables", "gcc", &[], TABLES);
    for how in ["read", "hint", "write", "move", "spread", "grow", "leave"] {
        let options = [&PROCESS[..], &["--memory", "64M"]].concat();
        let mut running = Running(operator.vmm("tables", &options, &[how]).spawn().unwrap());
        let guest = running.guest_in_call(libc_number("pause"));
        let status = fs::read_to_string(format!("/proc/{guest}/status")).unwrap();
        let tables = status
            .lines()
            .find_map(|l| l.strip_prefix("VmPTE:"))
            .unwrap();
        let kib: u64 = tables.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        assert!(
            kib <= (MEMORY + STACK + 1) << 10,
            "{how}: {kib} KiB of tables"
        );
        assert!(kib >= 16 << 10, "{how}: refused at {kib} KiB of tables");
    }
}

/// Runs `image` with 64 MiB in `group`.
fn run_in(group: &MemoryGroup, operator: &Operator, image: &str, arguments: &[&str]) -> Output {
    let options = [&PROCESS[..], &["--memory", "64M"]].concat();
    let vmm = operator.vmm(image, &options, arguments);
    Command::new("sh")
        .args(["-c", "echo $$ > \"$1\"; shift; exec \"$@\"", "sh"])
        .arg(group.procs())
        .arg(vmm.get_program())
        .args(vmm.get_args())
        .output()
        .unwrap()
}

/// Where the kernel bounds what the guest can have, its calls about memory do not stop.
#[test]
fn a_control_group_that_bounds_memory_is_relied_on() {
    if !needs(&["root", "memory group"]) {
        return;
    }
    let mut operator = Operator::new();
    operator.build("protect", "gcc", &[], PROTECT);
    operator.build("take", "gcc", &[], TAKE);
    let group = MemoryGroup::create("poolvmm-memory").unwrap();
    let asked = |mebibytes: u64| {
        group.bound(mebibytes << 20).unwrap();
        let found = run_in(&group, &operator, "protect", &["100"]);
        assert_eq!(text(&found.stdout), "100\n", "{}", text(&found.stderr));
        operator.reported()["stops"]["asked"].as_u64().unwrap()
    };
    // Twice 64 MiB and a stack, what counting may let it have, is 144.
    let (counted, kept) = (asked(1024), asked(128));
    assert!(counted >= kept + 200, "{counted} stops, and {kept}");
    assert!(kept < 100, "{kept} stops");

    // What a call may take is refused as ever, since the kernel counts that; the rest is the group's.
    for how in ["private", "shared", "heap", "moved"] {
        let found = run_in(&group, &operator, "take", &[how]);
        let taken: i64 = text(&found.stdout).trim().parse().unwrap();
        assert!((56..=72).contains(&taken), "{how}: {taken} MiB");
    }
    let found = run_in(&group, &operator, "take", &["given-up"]);
    assert_eq!(found.status.code(), Some(137), "{}", text(&found.stderr));
    // Pages of its image are charged to whoever had them read.
    let image = 1 << 10;
    let peak = operator.peak();
    assert!(peak <= (128 << 10) + image, "{peak} KiB");
}
