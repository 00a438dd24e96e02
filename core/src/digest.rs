//! BLAKE3 digests, with one type for each thing they name.
//!
//! A page's digest and an object's digest are both BLAKE3-256 of the content, but asking the
//! page index for an object is a mistake that the compiler should find.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::text::serde_as_text;

/// Bytes in a digest.
pub const DIGEST_SIZE: usize = 32;

/// Why a string is not a digest.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a digest: expected 64 lower-case hexadecimal digits, got {0:?}")]
pub struct ParseDigestError(pub String);

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; DIGEST_SIZE]);

        impl $name {
            /// The digest of `bytes` (BLAKE3-256, unkeyed).
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// The digest as raw bytes.
            pub fn as_bytes(&self) -> &[u8; DIGEST_SIZE] {
                &self.0
            }

            /// The digest in a slice of exactly [`DIGEST_SIZE`] bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                Self(*hash.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_hex(text).map(Self)
            }
        }

        serde_as_text!($name);
    };
}

digest_type! {
    /// Names a 4 KiB page by its content, a partial tail page padded with zeros.
    PageId
}
digest_type! {
    /// Names an object (a library's content, an image file, a description) by its content,
    /// unpadded.
    ObjectId
}
digest_type! {
    /// Names the content of a whole 2 MiB window: the digest of its 512 pages.
    WindowId
}

/// Only the canonical lower-case form is taken, so that a digest has one spelling.
fn parse_hex(text: &str) -> Result<[u8; DIGEST_SIZE], ParseDigestError> {
    let canonical = text.len() == 2 * DIGEST_SIZE
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match (canonical, blake3::Hash::from_hex(text)) {
        (true, Ok(hash)) => Ok(*hash.as_bytes()),
        _ => Err(ParseDigestError(text.chars().take(80).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_is_canonical() {
        let id = PageId::of(b"pool");
        let text = id.to_string();
        assert_eq!(text.parse::<PageId>(), Ok(id));
        let long = format!("{text}0");
        for bad in [
            "",
            "00",
            &text[1..],
            &text.to_uppercase(),
            &long,
            &"é".repeat(32),
        ] {
            assert!(bad.parse::<PageId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn json_form_is_the_hex_string() {
        let id = ObjectId::of(b"x");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<ObjectId>(&json).unwrap(), id);
    }
}
