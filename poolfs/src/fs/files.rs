//! Opening files, which holds what they lead to, and reading them.

use std::sync::PoisonError;

use fuser::{Errno, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags, ReplyData, ReplyOpen};
use pool_core::digest::ObjectId;
use pool_core::extent::{ExtentMap, SegmentId};
use pool_store::{Compared, OpenSegments, StoreError};

use super::{PoolFs, failed, told};
use crate::contents::{Content, Found, segment_version};
use crate::handles::Handle;
use crate::tree::Place;

impl PoolFs {
    /// Opens a file for a thread. Where its name leads elsewhere by now, the thread is sent to look it up again; then it gets what
    /// it found there.
    pub(super) fn open_file(
        &self,
        thread: u32,
        inode: INodeNo,
        flags: OpenFlags,
        reply: ReplyOpen,
    ) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return reply.error(Errno::EROFS);
        }
        let node = match self.node(inode) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let is_open = || self.handles.of_inode(inode).is_some();
        let comes_again = self.refused.take(thread, &node.place, is_open);
        let seen = || comes_again.then(|| self.seen(inode)).flatten();
        let found = match self.contents.hold(&node, seen) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.refused.note(thread, &node.place);
                return reply.error(Errno::ESTALE);
            }
            Err(error) => return reply.error(failed("opening", &node.place, &error)),
        };
        let view = self.contents.view();
        let segments = match &found.value.content {
            Content::Segment { id, commits } => {
                let (id, commits) = (*id, *commits);
                return self.open_segment(inode, found.value, id, commits, reply);
            }
            Content::Object(_, map) => view.open_segments(map.extents().iter().copied()),
            Content::Directory | Content::Rendered(_) => Ok(OpenSegments::default()),
        };
        let segments = match segments {
            Ok(segments) => segments,
            Err(error) => return reply.error(failed("opening", &node.place, &error)),
        };
        let handle = Handle::File {
            found,
            segments,
            compared: Compared::default(),
        };
        let number = self.handles.insert(inode, handle);
        // The inode will never show anything else.
        reply.opened(number, FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn open_segment(
        &self,
        inode: INodeNo,
        found: Found,
        segment: SegmentId,
        commits: u64,
        reply: ReplyOpen,
    ) {
        let file = match self.contents.view().hold_segment(segment) {
            Ok(file) => file,
            Err(StoreError::NoSegment(_)) => return reply.error(Errno::ESTALE),
            Err(error) => {
                return reply.error(failed("opening", &Place::Segment(segment), &error));
            }
        };
        // Another one may have got its name since it was looked up.
        if file.value.identity().map(segment_version) != found.version {
            return reply.error(Errno::ESTALE);
        }
        let backing_file = file.value.file().filter(|_| self.passthrough.works());
        let backing = match backing_file {
            None => None,
            Some(backing_file) => match self.backing_ids.get(inode, backing_file, &reply) {
                Ok(id) => Some(id),
                Err(error) => {
                    tracing::error!(%segment, %error, "passing a segment through failed");
                    return reply.error(told(error.raw_os_error()));
                }
            },
        };
        let handle = Handle::Segment {
            found: Box::new(found),
            file,
            backing: backing.clone(),
        };
        let number = self.handles.insert(inode, handle);
        match backing {
            Some(id) => reply.opened_passthrough(number, FopenFlags::empty(), &id),
            None => reply.opened(number, self.cache_flags(inode, commits)),
        }
    }

    /// Whether the kernel may keep what it has cached of a segment that it reads through us: while there was no commit since.
    /// Slots are handed out, and on record as used, before they are filled.
    fn cache_flags(&self, inode: INodeNo, commits: u64) -> FopenFlags {
        let emptied = self.emptied.lock().unwrap_or_else(PoisonError::into_inner);
        if commits != 0 && emptied.get(&inode) == Some(&commits) {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
        }
    }

    /// Who reads a segment by us has opened it, and the kernel has emptied its cache for that: not before the opening was
    /// answered, when others may have been in between.
    fn note_emptied(&self, inode: INodeNo, found: &Found) {
        if let Content::Segment { commits, .. } = found.content {
            let mut emptied = self.emptied.lock().unwrap_or_else(PoisonError::into_inner);
            let last = emptied.entry(inode).or_default();
            *last = commits.max(*last);
        }
    }

    pub(super) fn read_file(
        &self,
        inode: INodeNo,
        number: FileHandle,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        let Some(handle) = self.handles.get(number) else {
            return reply.error(Errno::EBADF);
        };
        match &*handle {
            Handle::Directory(_) => reply.error(Errno::EISDIR),
            Handle::File {
                found,
                segments,
                compared,
            } => match &found.value.content {
                Content::Rendered(bytes) => {
                    let start = bytes
                        .len()
                        .min(usize::try_from(offset).unwrap_or(usize::MAX));
                    let end = start.saturating_add(size as usize).min(bytes.len());
                    reply.data(&bytes[start..end]);
                }
                Content::Object(id, map) => {
                    let failed = |error: StoreError| {
                        tracing::error!(%error, object = %id, "reading an object failed");
                        Errno::EIO
                    };
                    let whole = self.check_object(*id, map, compared, offset, size);
                    let view = self.contents.view();
                    let read = || view.read_through(segments, map, offset, size as usize);
                    let bytes = whole.and_then(|()| read());
                    match bytes.map_err(failed) {
                        Ok(bytes) => reply.data(&bytes),
                        Err(errno) => reply.error(errno),
                    }
                }
                Content::Directory | Content::Segment { .. } => reply.error(Errno::EBADF),
            },
            Handle::Segment { found, file, .. } => {
                self.note_emptied(inode, found);
                let left = found.size.saturating_sub(offset).min(u64::from(size));
                let mut buffer = vec![0; left as usize];
                match file.value.read_exact_at(&mut buffer, offset) {
                    Ok(()) => reply.data(&buffer),
                    Err(error) => {
                        tracing::error!(%error, "reading a segment failed");
                        reply.error(Errno::EIO);
                    }
                }
            }
        }
    }

    /// What is known to be damaged is not shown as if it were right. More may be noted than is damaged, so that the whole object is
    /// compared with its digest then, once for what is noted; nothing else tells of a part whether it is.
    fn check_object(
        &self,
        id: ObjectId,
        map: &ExtentMap,
        compared: &Compared,
        offset: u64,
        size: u32,
    ) -> Result<(), StoreError> {
        let view = self.contents.view();
        let end = offset.saturating_add(size.into());
        if view.is_damaged_in((id, map), offset, end, compared)? {
            return Err(StoreError::Damaged(id));
        }
        Ok(())
    }
}
