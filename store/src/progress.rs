//! How far a work on all of a store has come.

/// How far a work that goes through segments has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of segments done.
    pub done: u64,
    /// Bytes of segments to do.
    pub total: u64,
    /// Bytes read since the last report.
    pub read: u64,
}

impl Progress {
    /// Nothing is done of `total` bytes.
    pub(crate) fn begin(total: u64) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    /// `bytes` more are done, of which `read` were read.
    pub(crate) fn step(&mut self, bytes: u64, read: u64) -> Self {
        self.done += bytes;
        Self { read, ..*self }
    }
}
