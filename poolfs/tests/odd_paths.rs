//! Stores and mount points whose paths have bytes that mean something to mount(8), to a shell, to
//! /etc/fstab or to a list of mount options. None of them may become an option, and the source
//! must show the path as it is.
//!
//! Every mount here lives in a mount namespace of its own, because programs that read
//! /proc/self/mountinfo as text would stumble over some of them.

// Paths are shown with their odd bytes escaped.
#![allow(clippy::unwrap_used, clippy::unnecessary_debug_formatting)]

mod common;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{POOLFS, Pool, apart, cannot_mount, run, text};
use pool_tests::wait;

const NAMES: [&[u8]; 12] = [
    b"plain",
    b"a,rw",
    b"a,fsname=x,subtype=y",
    b"a\\,rw",
    b"a\\",
    b"a\\054rw",
    b" a  b\tc ",
    b"a\nb",
    b"a'b\"c`d$e",
    b"a#b",
    b"a\xffb\xfe",
    b"-o rw",
];

/// What the script saw of a mount.
#[derive(Debug)]
struct Seen {
    point: PathBuf,
    options: String,
    kind: OsString,
    source: PathBuf,
    /// Options of the filesystem itself.
    own_options: String,
}

/// Reads lines of mountinfo (proc_pid_mountinfo(5)).
fn seen(output: &[u8]) -> Vec<Seen> {
    let unescape = |field: &[u8]| {
        let mut parts = field.split(|byte| *byte == b'\\');
        let mut bytes = parts.next().unwrap().to_vec();
        for part in parts {
            let code = std::str::from_utf8(&part[..3]).unwrap();
            bytes.push(u8::from_str_radix(code, 8).unwrap());
            bytes.extend(&part[3..]);
        }
        OsString::from_vec(bytes)
    };
    let lines = output.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
            let dash = fields.iter().position(|field| *field == b"-").unwrap();
            Seen {
                point: unescape(fields[4]).into(),
                options: text(fields[5]),
                kind: unescape(fields[dash + 1]),
                source: unescape(fields[dash + 2]).into(),
                own_options: text(fields[dash + 3]),
            }
        })
        .collect()
}

/// A store, and a place with room for what a test mounts: every user may pass through it. What is
/// in its `bin` is among mount(8)'s programs.
struct Scene {
    pool: Pool,
    place: tempfile::TempDir,
}

impl Scene {
    /// None where nothing can be mounted.
    fn new() -> Option<Self> {
        if cannot_mount() {
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::create_dir(place.path().join("bin")).unwrap();
        symlink(POOLFS, place.path().join("bin/poolfs")).unwrap();
        let pool = Pool::with_one_library();
        Some(Self { pool, place })
    }

    fn path(&self, name: &[u8]) -> PathBuf {
        self.place.path().join(OsStr::from_bytes(name))
    }

    /// Calls `check` with the store and a mount point of each of `names`.
    fn under_names(&self, names: &[&[u8]], check: impl Fn(&Path, &Path)) {
        for name in names {
            let store = self.path(name);
            let point = self.path(&[b"mnt ", *name].concat());
            fs::rename(self.pool.store_path(), &store).unwrap();
            fs::create_dir(&point).unwrap();
            check(&store, &point);
            fs::rename(&store, self.pool.store_path()).unwrap();
        }
    }
}

/// Runs `mounts`, shell commands that mount `$store` at `$point`, in a mount namespace of their own,
/// and says what is mounted after them. The mount is taken away by unmounting, which ends the
/// daemon.
fn mount_by(mounts: &str, place: &Path, store: &Path, point: &Path) -> Vec<Seen> {
    let script = format!(
        "exec 3>&1 >&2\n\
         mount --bind \"$1/bin\" /usr/local/sbin\n\
         place=$1 store=$2 point=$3\n\
         {mounts}\n\
         grep -a ' - fuse.poolfs ' /proc/self/mountinfo >&3\n\
         test \"$(cat \"$point/libs/a/1/content\")\" = one || echo does not read back >&2\n\
         umount \"$point\""
    );
    let output = run(apart(&script).args([place, store, point]));
    let messages = text(&output.stderr);
    assert!(output.status.success(), "{store:?}: {messages}");
    assert!(!messages.contains("does not read back"), "{store:?}");
    seen(&output.stdout)
}

fn assert_mounted(seen: &[Seen], store: &Path, point: &Path, own_options: &str) {
    // What others had mounted is in the namespace too.
    let here: Vec<_> = seen.iter().filter(|mount| mount.point == point).collect();
    let [mount] = here[..] else {
        panic!("{store:?}: {seen:?}");
    };
    assert_eq!(mount.source, store);
    assert_eq!(mount.kind, OsStr::new("fuse.poolfs"));
    assert_eq!(mount.options, "ro,nosuid,nodev,relatime", "{store:?}");
    assert_eq!(mount.own_options, own_options, "{store:?}");
}

const OF_ROOT: &str = "ro,user_id=0,group_id=0,allow_other";

#[test]
fn root_mounts_any_path_and_no_part_of_it_is_an_option() {
    let Some(scene) = Scene::new() else { return };
    let ways = [
        r#"poolfs -- "$store" "$point""#,
        r#"mount -t fuse.poolfs "$store" "$point" -o ro,nofail,_netdev"#,
        r#"mount -t fuse "poolfs#$store" "$point" -o ro"#,
    ];
    scene.under_names(&NAMES, |store, point| {
        for way in ways {
            let seen = mount_by(way, scene.place.path(), store, point);
            assert_mounted(&seen, store, point, OF_ROOT);
        }
    });
}

#[test]
fn a_user_mounts_any_path_and_no_part_of_it_is_an_option() {
    let Some(scene) = Scene::new() else { return };
    // A program and a device for everybody, as on other machines, and root reads back as that user.
    fs::copy(POOLFS, scene.path(b"poolfs")).unwrap();
    let way = r#"mknod "$place/fuse" c 10 229; chmod 666 "$place/fuse"
        mount --bind "$place/fuse" /dev/fuse
        as_user() { setpriv --reuid 65534 --regid 65534 --clear-groups -- "$@"; }
        cat() { as_user /bin/cat "$@"; }
        as_user env TMPDIR="$place/tmp" "$place/poolfs" -- "$store" "$point"
        rm "$place/fuse""#;
    let give = |path: &Path| {
        let given = run(Command::new("chown").args(["-R", "65534:65534"]).arg(path));
        assert!(given.status.success());
    };
    let scratch = scene.path(b"tmp");
    fs::create_dir(&scratch).unwrap();
    give(&scratch);
    scene.under_names(&NAMES, |store, point| {
        give(store);
        give(point);
        let seen = mount_by(way, scene.place.path(), store, point);
        assert_mounted(&seen, store, point, "ro,user_id=65534,group_id=65534");
    });
    wait::until("every scratch directory is gone", || {
        fs::read_dir(&scratch).unwrap().next().is_none()
    });
}

#[test]
fn fstab_names_any_path_with_its_own_escapes() {
    let Some(scene) = Scene::new() else { return };
    let escape = |path: &Path| {
        let path = path.to_str().unwrap().replace('\\', "\\134");
        path.replace(' ', "\\040").replace(',', "\\054")
    };
    scene.under_names(&[b"a, b\\rw"], |store, point| {
        let fstab = format!(
            "{} {} fuse.poolfs ro,nofail,_netdev,x-systemd.automount 0 0\n",
            escape(store),
            escape(point)
        );
        fs::write(scene.path(b"fstab"), fstab).unwrap();
        // The second call finds it mounted already, by its source and mount point.
        let way = r#"mount -a -T "$place/fstab"; mount -a -T "$place/fstab""#;
        let seen = mount_by(way, scene.place.path(), store, point);
        assert_mounted(&seen, store, point, OF_ROOT);
    });
}

#[test]
fn fstab_may_name_the_program_with_the_store_if_the_source_says_so_too() {
    let Some(scene) = Scene::new() else { return };
    let (store, point) = (scene.pool.store_path(), scene.pool.mount_point());
    let source = format!("poolfs#{}", store.display());
    let fstab = format!("{source} {} fuse ro,fsname={source} 0 0\n", point.display());
    fs::write(scene.path(b"fstab"), fstab).unwrap();
    let way = r#"mount -a -T "$place/fstab"; mount -a -T "$place/fstab""#;
    let seen = mount_by(way, scene.place.path(), &store, &point);
    assert_mounted(&seen, Path::new(&source), &point, OF_ROOT);
}

#[test]
fn a_relative_path_is_shown_absolute() {
    let Some(scene) = Scene::new() else { return };
    let (store, point) = (scene.pool.store_path(), scene.pool.mount_point());
    for way in [
        r#"cd "$store"; poolfs . "$point""#,
        r#"cd "$store/segments"; poolfs ../../store "$point""#,
        r#"poolfs "$store/../store" "$point""#,
        r#"cd "$point/.."; poolfs store mnt"#,
        r#"cd "$point/.."; mount -t fuse.poolfs ./store ./mnt -o ro"#,
    ] {
        let seen = mount_by(way, scene.place.path(), &store, &point);
        assert_mounted(&seen, &store, &point, OF_ROOT);
    }
}

#[test]
fn options_with_escapes_reach_what_they_name() {
    let Some(scene) = Scene::new() else { return };
    let (store, point) = (scene.pool.store_path(), scene.pool.mount_point());
    fs::create_dir(scene.path(b"s,rw")).unwrap();
    let way = r#"poolfs "$store" "$point" -o "scratch=$place/s\\,rw,fsname=x\\,rw\\\\y"
        ls "$place/s,rw" | grep -q poolfs-scratch-"#;
    let seen = mount_by(way, scene.place.path(), &store, &point);
    assert_mounted(&seen, Path::new("x,rw\\y"), &point, OF_ROOT);
}
