//! FUSE passthrough: the kernel serves a segment's reads and mappings from its backing file,
//! with that file's own page cache and its 2 MiB folios. Linux 6.9 and later, `CAP_SYS_ADMIN`.
//!
//! Whether it works is found out once, before anything is opened, because the kernel refuses to
//! mix both ways on one inode. All who have an inode open at the same time must use one backing
//! id; the last to close it ends it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use fuser::{BackingId, INodeNo, InitFlags, KernelConfig, ReplyOpen};

/// How deep file systems may be stacked: one that is itself stacked (an overlay) may be below.
const STACK_DEPTH: u32 = 2;

/// Asks for passthrough in the INIT exchange; says whether the kernel has it at all.
pub fn request(config: &mut KernelConfig) -> bool {
    config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        && config.set_max_stack_depth(STACK_DEPTH).is_ok()
}

/// Tries passthrough of `file` on an initialised connection. The backing id that this makes
/// lives as long as the connection.
pub fn probe(connection: impl AsFd, file: &File) -> io::Result<()> {
    BackingId::create_raw(connection, file).map(|_| ())
}

/// Why passthrough does not work, for a person.
pub fn explain(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => "mount as root (CAP_SYS_ADMIN) to have it",
        Some(libc::ELOOP) => "the store lies on too many stacked file systems; move it to a disk",
        _ => "it needs Linux 6.9 or later and a store on a disk file system",
    };
    format!("{error}; {hint}")
}

/// Whether segments are served by the kernel: decided once a mount, before the first open.
#[derive(Clone, Debug, Default)]
pub struct Decision(Arc<OnceLock<bool>>);

impl Decision {
    /// Decides; later calls change nothing.
    pub fn decide(&self, works: bool) {
        // Whoever came first has decided.
        let _ = self.0.set(works);
    }

    /// What was decided, if anything was.
    pub fn made(&self) -> Option<bool> {
        self.0.get().copied()
    }

    /// True when it was decided that passthrough works.
    pub fn works(&self) -> bool {
        self.made().unwrap_or(false)
    }
}

/// The backing ids in use.
#[derive(Debug, Default)]
pub struct BackingIds {
    by_inode: Mutex<HashMap<INodeNo, Weak<BackingId>>>,
}

impl BackingIds {
    /// The backing id of an inode, whose file this is; made if nobody has it open.
    pub fn get(
        &self,
        inode: INodeNo,
        file: &File,
        reply: &ReplyOpen,
    ) -> io::Result<Arc<BackingId>> {
        let mut ids = self.by_inode.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = ids.get(&inode).and_then(Weak::upgrade) {
            return Ok(id);
        }
        ids.retain(|_, id| id.strong_count() > 0);
        let id = Arc::new(reply.open_backing(file)?);
        ids.insert(inode, Arc::downgrade(&id));
        Ok(id)
    }
}
