//! Files that verbs read and write.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Deref;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use memmap2::Mmap;
use pool_api::client::Client;

use crate::referent;

/// A file's bytes: mapped, so that a large one need not fit into memory, or read, if it is a pipe.
pub(crate) enum Bytes {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

/// Reads `path`; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<Bytes> {
    let context = || format!("reading {}", path.display());
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).with_context(context)?;
        return Ok(Bytes::Read(bytes));
    }
    let mut file = File::open(path).with_context(context)?;
    let metadata = file.metadata().with_context(context)?;
    if metadata.is_file() && metadata.len() > 0 {
        // SAFETY: the map is only read. Whoever shortens the file meanwhile ends this process by
        // SIGBUS, as with any program that maps its input; nothing is written by then.
        let map = unsafe { Mmap::map(&file) }.with_context(context)?;
        return Ok(Bytes::Mapped(map));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with_context(context)?;
    Ok(Bytes::Read(bytes))
}

/// Reads a file, or fetches what a referent names. What looks like a referent is one unless a
/// file of that name exists.
pub(crate) fn read_or_fetch(path: &Path, client: impl FnOnce() -> Result<Client>) -> Result<Bytes> {
    if path == Path::new("-") || path.exists() && !path.is_dir() {
        return read(path);
    }
    // What is no UTF-8 is no referent.
    match path.to_str().map(referent::parse) {
        Some(Ok(referent)) => {
            let mut bytes = Vec::new();
            client()?
                .content(&referent)?
                .read_to_end(&mut bytes)
                .with_context(|| format!("fetching {referent}"))?;
            Ok(Bytes::Read(bytes))
        }
        Some(Err(_)) | None => read(path),
    }
}

/// Writes `bytes` to `path`, whole or not at all if that is a file; `-` is standard output. `mode` is that of an
/// executable or of data, less the umask.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let context = || format!("writing {}", path.display());
    if path == Path::new("-") {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        return written.with_context(context);
    }
    // What is no file, as a device or a pipe, is written to, not replaced. So is what a symbolic link
    // leads to: `/dev/stdout` is one, wherever it leads.
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(mode);
        let written = options
            .open(path)
            .and_then(|mut file| file.write_all(bytes));
        return written.with_context(context);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(".pool-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(folder)
        .with_context(context)?;
    temporary.write_all(bytes).with_context(context)?;
    temporary
        .persist(path)
        .map_err(|error| error.error)
        .with_context(context)?;
    Ok(())
}

/// Mode of a file of data.
pub(crate) const DATA: u32 = 0o666;
/// Mode of an executable.
pub(crate) const EXECUTABLE: u32 = 0o777;
