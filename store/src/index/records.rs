//! Kinds of records, and how each is read, for whoever reads all of them.

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::registry::Reservation;
use serde::de::DeserializeOwned;

use super::options;
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, Reference, reference_key};
use crate::manifest::{ImageManifest, LibraryRecord, TagRecord, TokenRecord};

/// A kind of records; see [`Reader::each`](crate::Reader::each).
#[derive(Debug)]
pub struct Records<T> {
    pub(super) family: &'static str,
    pub(super) read: fn(&[u8], &[u8]) -> Result<T>,
}

/// Where pages are kept.
pub const PAGES: Records<(PageId, Location)> = Records {
    family: options::PAGES,
    read: |key, value| {
        let id = digest_key(options::PAGES, key)?;
        Ok((PageId(id), Location::decode(value)?))
    },
};

/// Where densely stored windows begin.
pub const WINDOWS: Records<(WindowId, Location)> = Records {
    family: options::WINDOWS,
    read: |key, value| {
        let id = digest_key(options::WINDOWS, key)?;
        Ok((WindowId(id), Location::decode(value)?))
    },
};

/// Objects.
pub const OBJECTS: Records<(ObjectId, ObjectRecord)> = Records {
    family: options::OBJECTS,
    read: |key, value| {
        let id = ObjectId(digest_key(options::OBJECTS, key)?);
        Ok((id, ObjectRecord::decode(id, value)?))
    },
};

/// Library versions in order of name.
pub const LIBRARIES: Records<(LibraryRef, LibraryRecord)> = Records {
    family: options::LIBRARIES,
    read: |key, value| named(options::LIBRARIES, key, value),
};

/// Tags in order of name.
pub const TAGS: Records<(ImageRef, TagRecord)> = Records {
    family: options::TAGS,
    read: |key, value| named(options::TAGS, key, value),
};

/// Image manifests.
pub const MANIFESTS: Records<(ObjectId, ImageManifest)> = Records {
    family: options::MANIFESTS,
    read: |key, value| {
        let id = digest_key(options::MANIFESTS, key)?;
        Ok((ObjectId(id), from_json(options::MANIFESTS, value)?))
    },
};

/// Who refers to what.
pub const REFERENCES: Records<Reference> = Records {
    family: options::REFERENCES,
    read: |key, _| reference_key::parse(key).ok_or_else(|| impossible(options::REFERENCES, key)),
};

/// Address reservations, oldest first.
pub const RESERVATIONS: Records<Reservation> = Records {
    family: options::REGISTRY,
    read: |_, value| from_json(options::REGISTRY, value),
};

/// Tokens.
pub const TOKENS: Records<TokenRecord> = Records {
    family: options::TOKENS,
    read: |_, value| from_json(options::TOKENS, value),
};

fn named<K: std::str::FromStr, V: DeserializeOwned>(
    family: &'static str,
    key: &[u8],
    value: &[u8],
) -> Result<(K, V)> {
    let name = std::str::from_utf8(key).ok();
    let name = name.and_then(|text| text.parse().ok());
    let name = name.ok_or_else(|| impossible(family, key))?;
    Ok((name, from_json(family, value)?))
}

fn impossible(family: &str, key: &[u8]) -> StoreError {
    let text = String::from_utf8_lossy(key);
    StoreError::Corrupt(format!("{family} has the impossible key {text:?}"))
}

pub(super) fn digest_key(family: &str, key: &[u8]) -> Result<[u8; 32]> {
    key.try_into()
        .map_err(|_| StoreError::Corrupt(format!("{family} has a key of {} bytes", key.len())))
}

pub(super) fn from_json<T: DeserializeOwned>(family: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Corrupt(format!("a record of {family}: {error}")))
}
