//! Every way to ask for a change is refused with `EROFS`, by the mount and, when somebody has
//! remounted it writable, by the filesystem itself.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::process::Command;

use common::{Pool, cannot_mount, content, run};
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::{Errno, Result};

type Attempt = (&'static str, Box<dyn Fn() -> Result<()>>);

fn attempts(pool: &Pool) -> Vec<Attempt> {
    let file = pool.path("libs/a/1/content");
    let segment = std::fs::read_dir(pool.path("segments")).unwrap().next();
    let segment = segment.unwrap().unwrap().path();
    let directory = pool.path("libs/a/1");
    let new = pool.path("libs/a/1/new");
    let name = pool.path("images/new");
    let mut all: Vec<Attempt> = Vec::new();
    let mut add = |what, attempt: Box<dyn Fn() -> Result<()>>| all.push((what, attempt));
    macro_rules! attempt {
        ($what:literal, |$($variable:ident),*| $body:expr) => {{
            $(let $variable = $variable.clone();)*
            add($what, Box::new(move || $body.map(|_| ())));
        }};
    }
    let mode = Mode::from_raw_mode(0o644);
    let open = move |path: &std::path::Path, flags| rustix::fs::open(path, flags, mode);
    attempt!("open for writing", |file| open(&file, OFlags::WRONLY));
    attempt!("open for both", |file| open(&file, OFlags::RDWR));
    attempt!("open with O_TRUNC", |file| open(
        &file,
        OFlags::WRONLY | OFlags::TRUNC
    ));
    attempt!("open to append", |file| open(
        &file,
        OFlags::WRONLY | OFlags::APPEND
    ));
    attempt!("open a segment", |segment| open(&segment, OFlags::RDWR));
    attempt!("create", |new| open(&new, OFlags::WRONLY | OFlags::CREATE));
    attempt!("create exclusively", |name| open(
        &name,
        OFlags::RDWR | OFlags::CREATE | OFlags::EXCL
    ));
    attempt!("create without a name", |directory| open(
        &directory,
        OFlags::RDWR | OFlags::TMPFILE
    ));
    attempt!("unlink", |file| rustix::fs::unlink(&file));
    attempt!("unlink a segment", |segment| rustix::fs::unlink(&segment));
    attempt!("rmdir", |directory| rustix::fs::rmdir(&directory));
    attempt!("mkdir", |name| rustix::fs::mkdir(&name, mode));
    attempt!("mknod", |new| rustix::fs::mknodat(
        CWD,
        &new,
        FileType::Fifo,
        mode,
        0
    ));
    attempt!("symlink", |new| rustix::fs::symlink("x", &new));
    attempt!("link", |file, new| rustix::fs::link(&file, &new));
    attempt!("rename", |file, new| rustix::fs::rename(&file, &new));
    attempt!("exchange", |file, segment| rustix::fs::renameat_with(
        CWD,
        &file,
        CWD,
        &segment,
        RenameFlags::EXCHANGE
    ));
    attempt!("truncate", |file| std::ffi::CString::new(
        file.to_str().unwrap()
    )
    .map_err(|_| Errno::INVAL)
    .and_then(|path| syscalls::truncate(&path)));
    attempt!("chmod", |file| rustix::fs::chmod(&file, mode));
    attempt!("chown", |file| rustix::fs::chown(
        &file,
        Some(rustix::fs::Uid::from_raw(1)),
        None
    ));
    attempt!("utimens", |file| rustix::fs::utimensat(
        CWD,
        &file,
        &Timestamps {
            last_access: Timespec {
                tv_sec: 1,
                tv_nsec: 0
            },
            last_modification: Timespec {
                tv_sec: 1,
                tv_nsec: 0
            },
        },
        AtFlags::empty()
    ));
    attempt!("setxattr", |file| rustix::fs::setxattr(
        &file,
        "user.x",
        b"y",
        XattrFlags::empty()
    ));
    attempt!("removexattr", |file| rustix::fs::removexattr(
        &file,
        "user.pool.digest"
    ));
    attempt!("access", |file| rustix::fs::access(&file, Access::WRITE_OK));
    attempt!("access of a directory", |directory| rustix::fs::access(
        &directory,
        Access::WRITE_OK
    ));
    all
}

mod syscalls {
    use std::ffi::CStr;

    pub(super) fn truncate(path: &CStr) -> rustix::io::Result<()> {
        // SAFETY: a NUL-terminated path that outlives the call.
        if unsafe { libc::truncate(path.as_ptr(), 0) } == 0 {
            return Ok(());
        }
        let errno = std::io::Error::last_os_error().raw_os_error();
        Err(rustix::io::Errno::from_raw_os_error(errno.unwrap_or(0)))
    }
}

#[test]
fn every_attempt_to_change_something_is_refused() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_library("a@1", &content(1, 10_000));
    let _mount = pool.mount();
    for (what, attempt) in attempts(&pool) {
        assert_eq!(attempt(), Err(Errno::ROFS), "{what}");
    }
    // The kernel does not ask the mount for descriptors that were opened for reading.
    let file = File::open(pool.path("libs/a/1/content")).unwrap();
    let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    assert_eq!(
        rustix::fs::fallocate(&file, mode, 0, 4096),
        Err(Errno::BADF)
    );
    assert_eq!(
        rustix::fs::copy_file_range(&file, Some(&mut 0), &file, Some(&mut 8000), 100),
        Err(Errno::BADF)
    );
    assert_eq!(rustix::io::write(&file, b"x"), Err(Errno::BADF));
    assert_eq!(rustix::fs::ftruncate(&file, 0), Err(Errno::INVAL));

    let remount = run(Command::new("mount")
        .args(["-i", "-o", "remount,rw"])
        .arg(pool.mount_point()));
    assert!(remount.status.success());
    let disk = rustix::fs::statvfs(pool.mount_point()).unwrap();
    assert!(!disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    for (what, attempt) in attempts(&pool) {
        // The kernel itself answers that FUSE without TMPFILE support has none.
        let allowed = match what {
            "create without a name" => vec![Errno::ROFS, Errno::OPNOTSUPP],
            _ => vec![Errno::ROFS],
        };
        let errno = attempt().expect_err(what);
        assert!(allowed.contains(&errno), "{what}: {errno}");
    }
    let backing = pool.store().segments().unwrap();
    assert!(!backing.is_empty());
    assert_eq!(
        std::fs::read(pool.path("libs/a/1/content")).unwrap(),
        content(1, 10_000)
    );
}
