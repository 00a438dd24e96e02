//! Messages of sockets as programs lay them out: `struct msghdr`, and the control messages that go along.

use std::ops::Range;

use rustix::io::Errno;

/// Longest address of a socket (`struct sockaddr_storage`).
pub(crate) const MOST_NAME: u64 = 128;
/// Most bytes of control messages, as `net.core.optmem_max` has it.
pub(crate) const MOST_CONTROL: u64 = 20 << 10;
/// Messages that one `sendmmsg` or `recvmmsg` moves, as under Linux.
pub(crate) const MOST_MESSAGES: u64 = 1024;
/// Pieces that a message may lie in (`UIO_MAXIOV`).
pub(crate) const MOST_VECTORS: u64 = 1024;
/// Bytes of a `struct mmsghdr`.
pub(crate) const MANY_HEADER: u64 = 64;
/// Where in it stands how many bytes were moved.
pub(crate) const MANY_LENGTH: u64 = 56;

/// `struct msghdr`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) name: u64,
    pub(crate) name_length: u32,
    pub(crate) vectors: u64,
    pub(crate) count: u64,
    pub(crate) control: u64,
    pub(crate) control_length: u64,
}

impl Header {
    pub(crate) const BYTES: usize = 56;
    pub(super) const NAME_LENGTH: u64 = 8;
    pub(super) const CONTROL_LENGTH: u64 = 40;
    pub(super) const FLAGS: u64 = 48;

    /// Linux cuts a name that is too long here, and here alone.
    pub(crate) fn of(bytes: &[u8; Self::BYTES]) -> Result<Self, Errno> {
        let word = |at: u64| {
            let at = at as usize;
            bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
        };
        let name = word(0);
        let name_length = match word(Self::NAME_LENGTH) as u32 {
            _ if name == 0 => 0,
            length if length.cast_signed() < 0 => return Err(Errno::INVAL),
            length => length.min(MOST_NAME as u32),
        };
        Ok(Self {
            name,
            name_length,
            vectors: word(16),
            count: word(24),
            control: word(32),
            control_length: word(Self::CONTROL_LENGTH),
        })
    }
}

/// Bytes of a `struct cmsghdr`, to which its messages are aligned by 8.
const CONTROL_HEADER: usize = 16;

/// Each control message: level, kind, and where its data is, which may reach beyond what there is.
pub(crate) fn control_messages(control: &[u8]) -> Vec<(i32, i32, Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(header) = control.get(at..at + CONTROL_HEADER) {
        let word = |at: usize| {
            i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = header[..8].try_into().map_or(0, u64::from_le_bytes);
        let Some(bytes) = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(CONTROL_HEADER))
        else {
            break;
        };
        let start = at + CONTROL_HEADER;
        let end = start.saturating_add(bytes).min(control.len());
        found.push((word(8), word(12), start..end));
        match bytes
            .checked_next_multiple_of(8)
            .and_then(|bytes| start.checked_add(bytes))
        {
            Some(next) if next <= control.len() => at = next,
            _ => break,
        }
    }
    found
}

/// The descriptors that control messages pass on.
pub(super) fn passed(control: &[u8]) -> Vec<i32> {
    let rights = control_messages(control)
        .into_iter()
        .filter(|message| (message.0, message.1) == (libc::SOL_SOCKET, libc::SCM_RIGHTS));
    rights
        .flat_map(|(.., data)| control[data].chunks_exact(4))
        .map(|number| i32::from_le_bytes([number[0], number[1], number[2], number[3]]))
        .collect()
}

/// Replaces the numbers of processes in control messages that say who sends.
pub(super) fn credentials(control: &mut [u8], number: impl Fn(i32) -> i32) {
    for (level, kind, data) in control_messages(control) {
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS)
            && let Some(process) = control[data].first_chunk_mut::<4>()
        {
            *process = number(i32::from_le_bytes(*process)).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(level: i32, kind: i32, data: &[i32]) -> Vec<u8> {
        let mut bytes = (16 + data.len() as u64 * 4).to_le_bytes().to_vec();
        bytes.extend(level.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(data.iter().flat_map(|n| n.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn passed_descriptors_are_found() {
        let rights = control(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[3, 7, 41]);
        let other = control(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[1, 2, 3]);
        assert_eq!(passed(&rights), [3, 7, 41]);
        assert_eq!(
            passed(&[other.clone(), rights.clone()].concat()),
            [3, 7, 41]
        );
        assert_eq!(passed(&rights[..rights.len() - 6]), [3, 7]);
        let mut lying = rights;
        lying[..8].fill(0xff);
        assert_eq!(passed(&lying), [3, 7, 41, 0], "its padding too");
        lying[..8].fill(0);
        assert!(passed(&lying).is_empty());
        assert!(passed(&other).is_empty() && passed(&[1; 15]).is_empty());
    }

    #[test]
    fn who_sends_is_told_by_another_number() {
        let rights = control(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[1, 2, 3]);
        let sender = |number| control(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[number, 2, 3]);
        let mut both = [rights.clone(), sender(4711)].concat();
        credentials(&mut both, |number| number - 4710);
        assert_eq!(both, [rights, sender(1)].concat());
    }
}
