//! The small world: what programs find of their machine and of themselves, with a file system of their own and
//! without, on both platforms.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;

use pool_tests::requirements::needs;
use world::{World, text};

const SMALL: &str = include_str!("programs/small.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];

fn world() -> World {
    let mut world = World::new();
    let path = world.build("musl", "musl-gcc", &["-pthread", "-w"], SMALL);
    world.pool.add(&path, "small", support::Placement::Dense);
    world
}

/// Where a guest has a file system of its own, and where not.
fn grants(world: &World) -> [Vec<String>; 2] {
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    [vec![], vec!["--dir".to_owned(), grant]]
}

#[test]
fn programs_find_what_they_look_for() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = world();
    for grant in grants(&world) {
        for platform in PLATFORMS {
            let mut options = vec!["--platform", platform, "--env", "A=b"];
            options.extend(grant.iter().map(String::as_str));
            let found = world.run("small", &options, &["all"]);
            assert_eq!(
                text(&found.stdout),
                "out\n0 wrong\n",
                "{options:?} {}",
                text(&found.stderr)
            );
        }
    }
}

/// A guest's own directories come first.
#[test]
fn what_was_granted_comes_first() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = world();
    let own = world.directory.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("mine"), "").unwrap();
    let grant = format!("{}:/proc/sys", own.display());
    for platform in PLATFORMS {
        let options = ["--platform", platform, "--dir", &grant];
        let paths = [
            "/proc/sys/mine",
            "/proc/sys/kernel/ostype",
            "/proc/self/status",
        ];
        let found = world.run("small", &options, &[&["list"], &paths[..]].concat());
        let expected = "/proc/sys/mine: there\n/proc/sys/kernel/ostype: No such file or directory\n\
                        /proc/self/status: there\n";
        assert_eq!(text(&found.stdout), expected, "{platform}");
    }
}

/// Nothing of the host: its name, its processors, its files behind the guest's memory.
#[test]
fn nothing_of_the_host_is_in_it() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut world = world();
    let source = r"
        #include <fcntl.h>
        #include <unistd.h>
        int main(int c, char **v) {
            static char text[4096];
            for (int i = 1; i < c; i++) {
                int fd = open(v[i], O_RDONLY);
                long n;
                while ((n = read(fd, text, sizeof text)) > 0) write(1, text, n);
                close(fd);
            }
            return 0;
        }";
    world.build("cat", "musl-gcc", &[], source);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let directory = world.directory.path().to_str().unwrap().to_owned();
    let pool = world.pool.root.to_str().unwrap().to_owned();
    for grant in grants(&world) {
        for platform in PLATFORMS {
            let mut options = vec!["--platform", platform];
            options.extend(grant.iter().map(String::as_str));
            let files = [
                "/proc/self/maps",
                "/proc/self/status",
                "/proc/self/stat",
                "/proc/version",
                "/proc/self/mountinfo",
                "/proc/mounts",
                "/proc/self/environ",
                "/proc/self/cmdline",
                "/proc/sys/kernel/hostname",
                "/proc/sys/kernel/osrelease",
                "/etc/hostname",
            ];
            let found = world.run("cat", &options, &files);
            let said = text(&found.stdout);
            assert!(
                said.contains("/cat\n") && said.contains("[stack]\n"),
                "{said}"
            );
            let secrets = [host.trim(), release.trim(), &directory, &pool, "segments"];
            // One of a few letters is in other words.
            for secret in secrets.into_iter().filter(|secret| secret.len() > 4) {
                assert!(!said.contains(secret), "{options:?} {secret}: {said}");
            }
        }
    }
}
