//! A claim about one object, and the comparison with its pages.

use pool_core::digest::ObjectId;
use pool_core::page::{self, PAGE_SIZE};

use super::Given;
use crate::error::{Result, StoreError};
use crate::upload::UploadObject;

/// What an upload claims of an object, compared with its pages.
pub(crate) enum Claim<'a> {
    /// That they have its digest.
    Digest {
        object: ObjectId,
        hasher: Box<blake3::Hasher>,
        /// Bytes of the object not hashed yet.
        remaining: u64,
        /// Whoever maps the last page sees what it has past the object's end.
        ends_in_zeros: bool,
    },
    /// That they are bytes which are at hand, and filled up with zeros.
    Bytes {
        object: ObjectId,
        bytes: &'a [u8],
        are_the_same: bool,
    },
}

impl<'a> Claim<'a> {
    pub(super) fn about(object: &UploadObject, given: Given<'a>) -> Self {
        match given.bytes_at_hand(object.id, 0) {
            Some(bytes) => Self::Bytes {
                object: object.id,
                bytes,
                are_the_same: true,
            },
            None => Self::Digest {
                object: object.id,
                hasher: Box::default(),
                remaining: object.length,
                ends_in_zeros: true,
            },
        }
    }

    /// Takes whole pages, the next ones of the object. What is at hand need not be shown to itself.
    pub(crate) fn update(&mut self, first_page: u64, pages: &[u8]) {
        match self {
            Self::Digest {
                hasher,
                remaining,
                ends_in_zeros,
                ..
            } => {
                let length = (pages.len() as u64).min(*remaining);
                let (bytes, past_end) = pages.split_at(length as usize);
                hasher.update(bytes);
                *remaining -= length;
                *ends_in_zeros &= page::is_zero(past_end);
            }
            Self::Bytes {
                bytes,
                are_the_same,
                ..
            } => {
                let rest = bytes.get((first_page * PAGE_SIZE) as usize..);
                let rest = rest.unwrap_or_default();
                let (found, past_end) = pages.split_at(pages.len().min(rest.len()));
                *are_the_same &= rest.starts_with(found) && page::is_zero(past_end);
            }
        }
    }

    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Digest {
                object: expected,
                hasher,
                ends_in_zeros,
                ..
            } => {
                let found = ObjectId::from(hasher.finalize());
                if found != expected {
                    return Err(StoreError::ObjectMismatch { expected, found });
                }
                if !ends_in_zeros {
                    return Err(StoreError::BadUpload(format!(
                        "the last page of object {expected} has bytes past the object's end: fill it up \
                         with zeros"
                    )));
                }
                Ok(())
            }
            Self::Bytes { are_the_same, .. } if are_the_same => Ok(()),
            Self::Bytes { object, .. } => Err(StoreError::Damaged(object)),
        }
    }
}
