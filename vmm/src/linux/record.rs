//! Structures of the Linux ABI, written field by field in little-endian order.

/// Bytes of a structure in the making.
#[derive(Debug, Default)]
pub(super) struct Record(Vec<u8>);

impl Record {
    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// `text` in a field of `width` bytes, cut to leave a NUL.
    pub(super) fn text(mut self, text: &[u8], width: usize) -> Self {
        let kept = text.len().min(width - 1);
        self.0.extend_from_slice(&text[..kept]);
        self.zeros(width - kept)
    }

    pub(super) fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
