//! The bytes of the journal's logs; FORMAT.md is the prose of this file.
//!
//! A log is a header and a frame for each commit. The digest at the end of a frame covers the digest before it, so that a
//! frame is right at one place alone: a flipped bit, a frame of another log and one that a stop left half written are all the same.
//!
//! Clients choose what some records have, byte by byte, and what a stop leaves of a frame is looked at for whole ones. So that nobody
//! can put one there, what a frame has is *masked*, as clients mask what they send in a WebSocket (RFC 6455, 10.3): each frame has a
//! mask that is chosen when it is written, and the bytes on the disk are nobody's choice. Logs of old releases are not.

use std::convert::Infallible;

use crate::format::Fields;

const MAGIC: &[u8; 8] = b"POOLJRNL";
/// The newest form of a log.
const VERSION: u32 = 2;
/// Bytes of a log's header.
pub(crate) const HEADER: usize = 128;
/// Bytes of a frame before its changes.
pub(crate) const HEAD: usize = 16;
pub(crate) const DIGEST: usize = 32;
/// Bytes of a mask.
pub(crate) const MASK: usize = 16;
/// Bytes of a change before its key.
const CHANGE: usize = 12;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// What everything up to some commit comes to.
pub(crate) type Digest = [u8; DIGEST];

/// The first bytes of a digest, by which copies of a store are told apart; zeros where it is not known.
pub(crate) fn shortened(digest: Option<Digest>) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&digest.unwrap_or_default()[..8]);
    short
}

/// What is repeated over the changes of a frame.
pub(crate) type Mask = [u8; MASK];

/// How the frames of a log have their changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Plain,
    /// Each under a mask of its own, which comes first.
    Masked,
}

impl Form {
    fn version(self) -> u32 {
        match self {
            Self::Plain => 1,
            Self::Masked => 2,
        }
    }

    fn of_version(version: u32) -> Option<Self> {
        [Self::Plain, Self::Masked]
            .into_iter()
            .find(|form| form.version() == version)
    }

    /// The form of a frame that was found whole in a log which does not tell any more.
    pub(crate) fn guess(body: &[u8]) -> Self {
        match each_change(body, |_| Ok::<_, Infallible>(())) {
            Ok(true) => Self::Plain,
            _ => Self::Masked,
        }
    }

    /// The changes of a frame with this body, which is overwritten. `None` of one that no frame has.
    pub(crate) fn changes(self, body: &mut [u8]) -> Option<&[u8]> {
        match self {
            Self::Plain => Some(body),
            Self::Masked => {
                let (mask, changes) = body.split_first_chunk_mut()?;
                put_mask(mask, changes);
                Some(changes)
            }
        }
    }
}

/// Masks bytes, or takes the mask from them.
fn put_mask(mask: &Mask, bytes: &mut [u8]) {
    for piece in bytes.chunks_mut(MASK) {
        for (byte, mask) in piece.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

/// How a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) form: Form,
    /// The store's identity.
    pub(crate) identity: [u8; 16],
    /// Number of the commit before its first.
    pub(crate) base: u64,
    /// Digest of that commit's frame; zeros where that is not known.
    pub(crate) previous: Digest,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.form.version().to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.identity);
        out.extend_from_slice(&self.base.to_le_bytes());
        out.resize(64, 0);
        out.extend_from_slice(&self.previous);
        let mut all = [0; HEADER];
        all[..HEADER - DIGEST].copy_from_slice(&out);
        all[HEADER - DIGEST..].copy_from_slice(blake3::hash(&out).as_bytes());
        all
    }

    /// Reads what [`Header::encode`] wrote; `Err` says in words what it is instead.
    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        let mut fields = Fields(bytes);
        let mut read = || {
            let magic = fields.take(8)?;
            let version = fields.u32()?;
            fields.take(4)?;
            let identity = fields.take(16)?.try_into().ok()?;
            let base = fields.u64()?;
            fields.take(24)?;
            let previous = fields.take(DIGEST)?.try_into().ok()?;
            let header = Self {
                form: Form::of_version(version).unwrap_or(Form::Plain),
                identity,
                base,
                previous,
            };
            Some((magic, version, header))
        };
        match read() {
            Some((magic, version, _)) if magic == MAGIC && version > VERSION => Err(format!(
                "has version {version}, and this program reads {VERSION} and before: use a newer release of it"
            )),
            Some((magic, _, header)) if magic == MAGIC && header.encode() == *bytes => Ok(header),
            _ => Err("has a damaged header".into()),
        }
    }
}

/// A digest that the first frame of a log follows: the header's own.
pub(crate) fn digest_of_header(header: &[u8; HEADER]) -> Digest {
    let mut digest = [0; DIGEST];
    digest.copy_from_slice(&header[HEADER - DIGEST..]);
    digest
}

/// A frame's first bytes: how many bytes its body has, and the commit's number.
pub(crate) fn head(length: u32, number: u64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[8..].copy_from_slice(&number.to_le_bytes());
    head
}

/// What [`head`] made, if these bytes are such a one.
pub(crate) fn parse_head(bytes: &[u8]) -> Option<(usize, u64)> {
    let mut fields = Fields(bytes);
    let (length, zero, number) = (fields.u32()?, fields.u32()?, fields.u64()?);
    (zero == 0).then_some((length as usize, number))
}

/// What a frame comes to after what was before it.
pub(crate) fn digest(previous: &Digest, head: &[u8], body: &[u8]) -> Digest {
    *hasher(previous, head).update(body).finalize().as_bytes()
}

/// The same, of a body that comes in pieces.
pub(crate) fn hasher(previous: &Digest, head: &[u8]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous).update(head);
    hasher
}

/// The bytes of a commit's frame, masked if there is a mask, and its digest. `None` when there are 4 GiB of changes.
pub(crate) fn encode(
    previous: &Digest,
    number: u64,
    changes: &[u8],
    mask: Option<&Mask>,
) -> Option<(Vec<u8>, Digest)> {
    let length = mask.map_or(0, |_| MASK) + changes.len();
    let head = head(u32::try_from(length).ok()?, number);
    let mut out = Vec::with_capacity(HEAD + length + DIGEST);
    out.extend_from_slice(&head);
    if let Some(mask) = mask {
        out.extend_from_slice(mask);
    }
    let begin = out.len();
    out.extend_from_slice(changes);
    if let Some(mask) = mask {
        put_mask(mask, &mut out[begin..]);
    }
    let digest = digest(previous, &head, &out[HEAD..]);
    out.extend_from_slice(&digest);
    Some((out, digest))
}

/// A change of the index: what is put under a key of a family, or `None` where the key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    /// Number of the family.
    pub(crate) family: u8,
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

impl Change<'_> {
    /// Adds the change to those of a commit.
    pub(crate) fn add_to(&self, changes: &mut Vec<u8>) {
        let value = self.value.unwrap_or_default();
        let kind = if self.value.is_some() { PUT } else { DELETE };
        changes.extend_from_slice(&[kind, self.family, 0, 0]);
        // Whoever makes a frame of them looks at the length of all.
        changes.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        changes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        changes.extend_from_slice(self.key);
        changes.extend_from_slice(value);
    }
}

/// Calls `visit` with each change of a commit in order. False when the bytes are not what [`Change::add_to`] made.
pub(crate) fn each_change<E>(
    changes: &[u8],
    mut visit: impl FnMut(Change<'_>) -> Result<(), E>,
) -> Result<bool, E> {
    let mut fields = Fields(changes);
    while !fields.0.is_empty() {
        let Some(change) = next_change(&mut fields) else {
            return Ok(false);
        };
        visit(change)?;
    }
    Ok(true)
}

fn next_change<'a>(fields: &mut Fields<'a>) -> Option<Change<'a>> {
    let head = fields.take(CHANGE)?;
    let length = |at: usize| {
        let bytes = head[at..at + 4].try_into();
        bytes.map_or(0, u32::from_le_bytes) as usize
    };
    let key = fields.take(length(4))?;
    let value = fields.take(length(8))?;
    let value = match head[0] {
        PUT => Some(value),
        DELETE if value.is_empty() => None,
        _ => return None,
    };
    Some(Change {
        family: head[1],
        key,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_OF: Header = Header {
        form: Form::Masked,
        identity: [7; 16],
        base: 0x0102,
        previous: [9; 32],
    };

    #[test]
    fn a_header_keeps_its_place_and_any_other_byte_is_refused() {
        let bytes = HEADER_OF.encode();
        assert_eq!(bytes[..16], *b"POOLJRNL\x02\0\0\0\0\0\0\0");
        assert_eq!(bytes[16..32], [7; 16]);
        assert_eq!(bytes[32..64], {
            let mut expected = [0; 32];
            expected[..2].copy_from_slice(&[2, 1]);
            expected
        });
        assert_eq!(bytes[64..96], [9; 32]);
        assert_eq!(bytes[96..], *blake3::hash(&bytes[..96]).as_bytes());
        assert_eq!(Header::decode(&bytes), Ok(HEADER_OF));
        for at in 0..bytes.len() {
            let mut spoilt = bytes;
            spoilt[at] ^= 0x10;
            assert!(Header::decode(&spoilt).is_err(), "byte {at}");
        }
        let plain = Header {
            form: Form::Plain,
            ..HEADER_OF
        };
        assert_eq!(plain.encode()[..12], *b"POOLJRNL\x01\0\0\0");
        assert_eq!(Header::decode(&plain.encode()), Ok(plain));
        let mut newer = bytes;
        newer[8] = 3;
        let said = Header::decode(&newer).unwrap_err();
        assert!(said.contains("newer release"), "{said}");
    }

    fn changes() -> Vec<u8> {
        let mut changes = Vec::new();
        let put = Change {
            family: 2,
            key: b"key",
            value: Some(b"value"),
        };
        put.add_to(&mut changes);
        let gone = Change {
            family: 11,
            key: b"k",
            value: None,
        };
        gone.add_to(&mut changes);
        let empty = Change {
            family: 3,
            key: b"",
            value: Some(b""),
        };
        empty.add_to(&mut changes);
        changes
    }

    #[test]
    fn changes_keep_their_places_and_are_read_back() {
        let bytes = changes();
        let expected = [
            &[1, 2, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0][..],
            b"keyvalue",
            &[2, 11, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            b"k",
            &[1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());
        let mut found = Vec::new();
        let all = each_change(&bytes, |change| {
            found.push((
                change.family,
                change.key.to_vec(),
                change.value.map(<[u8]>::to_vec),
            ));
            Ok::<_, ()>(())
        });
        assert_eq!(all, Ok(true));
        assert_eq!(
            found,
            [
                (2, b"key".to_vec(), Some(b"value".to_vec())),
                (11, b"k".to_vec(), None),
                (3, vec![], Some(vec![])),
            ]
        );
        // Whole changes are what they are; anything cut or of another kind is not.
        for end in (1..bytes.len()).filter(|end| ![20, 33].contains(end)) {
            assert_eq!(
                each_change(&bytes[..end], |_| Ok::<_, ()>(())),
                Ok(false),
                "{end}"
            );
        }
        assert_eq!(
            each_change(&[3; 12], |_| Ok::<_, ()>(())),
            Ok(false),
            "a kind that is none"
        );
        assert_eq!(each_change(&bytes, |_| Err(5)), Err(5));
    }

    #[test]
    fn a_frame_keeps_its_places_and_is_right_after_one_digest_alone() {
        let changes = changes();
        let (bytes, last) = encode(&[4; 32], 0x0304, &changes, None).unwrap();
        assert_eq!(
            bytes[..16],
            [
                changes.len() as u8,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                4,
                3,
                0,
                0,
                0,
                0,
                0,
                0
            ]
        );
        assert_eq!(bytes[16..bytes.len() - 32], changes);
        assert_eq!(bytes[bytes.len() - 32..], last);
        let all = [&[4; 32][..], &bytes[..bytes.len() - 32]].concat();
        assert_eq!(last, *blake3::hash(&all).as_bytes());
        assert_eq!(parse_head(&bytes), Some((changes.len(), 0x0304)));
        assert_ne!(encode(&[5; 32], 0x0304, &changes, None).unwrap().1, last);
        assert_eq!(
            parse_head(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            None
        );
    }

    #[test]
    fn a_masked_frame_has_its_mask_and_the_changes_under_it() {
        let changes = changes();
        let mask: Mask = std::array::from_fn(|nth| nth as u8 + 1);
        let (bytes, last) = encode(&[4; 32], 7, &changes, Some(&mask)).unwrap();
        assert_eq!(parse_head(&bytes), Some((MASK + changes.len(), 7)));
        let mut body = bytes[HEAD..bytes.len() - DIGEST].to_vec();
        assert_eq!(body[..MASK], mask);
        assert_eq!(body[MASK], changes[0] ^ 1);
        assert_eq!(body[MASK + 17], changes[17] ^ 2);
        assert_eq!(last, digest(&[4; 32], &bytes[..HEAD], &body));
        assert_eq!(Form::guess(&body), Form::Masked);
        assert_eq!(Form::guess(&changes), Form::Plain);
        assert_eq!(Form::Masked.changes(&mut body), Some(&changes[..]));
        assert_eq!(Form::Masked.changes(&mut [0; MASK - 1]), None);
        let mut plain = changes.clone();
        assert_eq!(Form::Plain.changes(&mut plain), Some(&changes[..]));
    }
}
