//! A small store, mounted for real.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use pool_core::address::{GuestAddress, Protection};
use pool_core::description::{
    Abi, DESCRIPTION_FORMAT, Description, FileIdentity, Layout, LibraryUse, Range, RangeKind,
    Source,
};
use pool_core::digest::ObjectId;
use pool_core::name::{ImageRef, LibraryRef};
use pool_store::placement::Placement;
use pool_store::upload::{Content, Target};
use pool_store::{Store, StoreOptions};
use pool_tests::keeper::Keeper;
use pool_tests::wait;
use tempfile::TempDir;

/// The program under test.
pub const POOLFS: &str = env!("CARGO_BIN_EXE_poolfs");
const PAGE: u64 = 4096;

/// True when nothing can be mounted here; says so.
pub fn cannot_mount() -> bool {
    !pool_tests::requirements::needs(&["root", "fuse"])
}

/// Bytes that repeat nowhere.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A store in a temporary directory, a mount point beside it, and the mount if there is one.
#[derive(Debug)]
pub struct Pool {
    pub directory: TempDir,
    pub store: Option<Store>,
}

/// What [`Pool::add_image`] stored.
#[derive(Debug)]
pub struct Image {
    pub elf: Vec<u8>,
    pub data: Vec<u8>,
    pub description: Description,
}

impl Pool {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        let store = Store::open(&directory.path().join("store"), options).unwrap();
        Self {
            directory,
            store: Some(store),
        }
    }

    /// A store with the library a@1, whose content is "one", and no writer.
    pub fn with_one_library() -> Self {
        let mut pool = Self::new();
        pool.add_library("a@1", b"one");
        pool.store = None;
        pool
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub fn store_path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.mount_point().join(below)
    }

    pub fn scratch(&self) -> PathBuf {
        let scratch = self.directory.path().join("scratch");
        fs::create_dir_all(&scratch).unwrap();
        scratch
    }

    pub fn add_library(&self, name: &str, bytes: &[u8]) -> ObjectId {
        let content = Content::of(bytes, Placement::Windows { phase: 0 });
        let id = content.id();
        let target = Target::Library {
            library: name.parse::<LibraryRef>().unwrap(),
            object: id,
        };
        self.store().ingest(target, &[content]).unwrap();
        id
    }

    /// An image that is one page of text, uploaded as a file of these bytes.
    pub fn add_sparse(&self, name: &str, bytes: &[u8]) -> ObjectId {
        let text = &bytes[..PAGE as usize];
        let range = Range {
            address: GuestAddress(0x40_0000),
            length: PAGE,
            protection: Protection::READ_EXECUTE,
            kind: RangeKind::Shared,
            source: Some(Source {
                object: ObjectId::of(text),
                offset: 0,
            }),
            library: None,
        };
        let description = Description {
            format: DESCRIPTION_FORMAT,
            image: FileIdentity {
                digest: ObjectId::of(bytes),
                length: bytes.len() as u64,
            },
            abi: Abi::Linux,
            layout: Layout::Own,
            load_bias: 0,
            entry: range.address,
            program_headers: None,
            executable_stack: false,
            slide: None,
            libraries: vec![],
            ranges: vec![range],
        };
        let target = Target::Image {
            image: name.parse::<ImageRef>().unwrap(),
            description: Box::new(description),
            data: None,
        };
        let contents = [
            Content::of(bytes, Placement::Sparse),
            Content::of(text, Placement::Windows { phase: 0 }),
        ];
        self.store().ingest(target, &contents).unwrap();
        ObjectId::of(bytes)
    }

    /// An image of its own text and data pages, and of a library at 1 GiB if one is given.
    pub fn add_image(&self, name: &str, seed: u64, library: Option<(&str, &[u8])>) -> Image {
        let text = content(seed, 5 * PAGE as usize);
        let data = content(seed + 1000, 2 * PAGE as usize);
        let mut elf = [&b"\x7fELF"[..], &text, &data].concat();
        elf.truncate(elf.len() - 100);
        let source = |bytes: &[u8]| Source {
            object: ObjectId::of(bytes),
            offset: 0,
        };
        let mut ranges = vec![
            Range {
                address: GuestAddress(0x40_0000),
                length: text.len() as u64,
                protection: Protection::READ_EXECUTE,
                kind: RangeKind::Shared,
                source: Some(source(&text)),
                library: None,
            },
            Range {
                address: GuestAddress(0x50_0000),
                length: data.len() as u64,
                protection: Protection::READ_WRITE,
                kind: RangeKind::Private,
                source: Some(source(&data)),
                library: None,
            },
        ];
        let mut libraries = vec![];
        if let Some((library, bytes)) = library {
            let address = GuestAddress(1 << 30);
            let library: LibraryRef = library.parse().unwrap();
            ranges.push(Range {
                address,
                length: (bytes.len() as u64).next_multiple_of(PAGE),
                protection: Protection::READ_EXECUTE,
                kind: RangeKind::Shared,
                source: Some(source(bytes)),
                library: Some(library.clone()),
            });
            libraries.push(LibraryUse {
                library,
                object: ObjectId::of(bytes),
                address,
            });
        }
        let description = Description {
            format: DESCRIPTION_FORMAT,
            image: FileIdentity {
                digest: ObjectId::of(&elf),
                length: elf.len() as u64,
            },
            abi: Abi::Linux,
            layout: Layout::Own,
            load_bias: 0,
            entry: GuestAddress(0x40_0010),
            program_headers: None,
            executable_stack: false,
            slide: None,
            libraries,
            ranges,
        };
        let target = Target::Image {
            image: name.parse::<ImageRef>().unwrap(),
            description: Box::new(description.clone()),
            data: Some(ObjectId::of(&data)),
        };
        let mut contents = vec![
            Content::of(&elf, Placement::Sparse),
            Content::of(&text, Placement::Windows { phase: 0 }),
            Content::of(&data, Placement::Sparse),
        ];
        if let Some((_, bytes)) = library {
            contents.push(Content::of(bytes, Placement::Windows { phase: 0 }));
        }
        self.store().ingest(target, &contents).unwrap();
        Image {
            elf,
            data,
            description,
        }
    }

    /// Unmounts the pool in the end, whatever happens.
    pub fn unmounted(&self) -> Keeper {
        Keeper::unmount(&self.mount_point()).unwrap()
    }

    /// Mounts through the daemon, as a person does.
    pub fn mount(&self) -> Keeper {
        self.mount_with("ro")
    }

    /// The same with options.
    pub fn mount_with(&self, options: &str) -> Keeper {
        let scratch = self.scratch();
        let mount = self.unmounted();
        let output = Command::new(POOLFS)
            .arg(self.store_path())
            .arg(self.mount_point())
            .args(["-o", &format!("{options},scratch={}", scratch.display())])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        mount
    }

    /// Mounts in the foreground, so that there is a process to kill.
    pub fn mount_foreground(&self) -> (Child, Keeper) {
        let mount = self.unmounted();
        let child = Command::new(POOLFS)
            .arg(self.store_path())
            .arg(self.mount_point())
            .args(["-f", "-o", &format!("scratch={}", self.scratch().display())])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        wait::until("it is mounted", || is_mounted(&self.mount_point()));
        (child, mount)
    }
}

/// A script of sh(1) in namespaces of its own, arguments of which are to be added. What it mounts is there alone. It ends when its daemons
/// have, too, and none of its processes outlives unshare(1), whatever ends that.
pub fn apart(script: &str) -> Command {
    // The namespace ends with its first process, and the others are killed.
    const FIRST: &str = "sh -ec \"$@\" && status=0 || status=$?; tries=0; \
                         until set -- /proc/[0-9]* && [ $# = 1 ]; do \
                           tries=$((tries + 1)); [ $tries -lt 12000 ] || { ps ax >&2; exit 9; }; sleep 0.01; \
                         done; exit $status";
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["--mount", "--propagation", "private"]);
    command.args(["sh", "-c", FIRST, "first", script, "sh"]);
    command
}

pub fn is_mounted(path: &Path) -> bool {
    // Not text: others may have mounted anything.
    let mounts = fs::read("/proc/self/mountinfo").unwrap();
    let path = path.to_str().unwrap().as_bytes();
    mounts
        .split(|byte| *byte == b'\n')
        .any(|line| line.split(|byte| *byte == b' ').nth(4) == Some(path))
}

pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    if !output.status.success() {
        eprintln!("{command:?}: {}", text(&output.stderr));
    }
    output
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
