//! An initial file system for Linux: a cpio archive of the `newc` kind. (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.)

use std::fs;
use std::path::Path;

/// An archive that is being written.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Initramfs {
    /// Adds an empty directory; its parents must be there.
    pub(crate) fn directory(&mut self, name: &str) {
        self.entry(name, 0o40_755, &[]);
    }

    /// Adds a file that may be executed.
    pub(crate) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    /// Adds the directory at `path` with all that is in it.
    pub(crate) fn tree(&mut self, name: &str, path: &Path) {
        self.directory(name);
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{name}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                self.tree(&name, &entry.path());
            } else {
                self.file(&name, &fs::read(entry.path()).unwrap());
            }
        }
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inodes += 1;
        let (length, name_length) = (content.len() as u32, name.len() as u32 + 1);
        let fields = [
            self.inodes,
            mode,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        let aligned = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(aligned, 0);
    }
}
