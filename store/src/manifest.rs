//! Records of named things, kept in the index as JSON.

use std::fmt;
use std::str::FromStr;

use pool_core::description::Description;
use pool_core::digest::{ObjectId, ParseDigestError};
use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01 UTC.
pub type Timestamp = u64;

/// A tag: a name for a manifest that may point elsewhere tomorrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// The manifest: digest of the image's description.
    pub manifest: ObjectId,
    /// When the tag was last pointed.
    pub tagged_at: Timestamp,
}

/// An image as the pool keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// What lies where. Its canonical JSON is the `desc` file, whose digest names the manifest.
    pub description: Description,
    /// The file as uploaded; `description.image` has the same digest.
    pub file: ObjectId,
    /// The initial contents of the writable ranges, absent when there are none.
    pub data: Option<ObjectId>,
    /// When it was first committed.
    pub created_at: Timestamp,
}

impl ImageManifest {
    /// Every object that the image needs to exist.
    pub fn objects(&self) -> Vec<ObjectId> {
        let mut objects: Vec<_> = self.description.objects().into_keys().collect();
        objects.push(self.file);
        objects.extend(self.data);
        objects.sort_unstable();
        objects.dedup();
        objects
    }
}

/// A library version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryRecord {
    /// Its content.
    pub object: ObjectId,
    /// When it was first committed.
    pub created_at: Timestamp,
    /// Kept whether used or not.
    #[serde(default)]
    pub pinned: bool,
    /// Since when no image has used it; absent while one does.
    #[serde(default)]
    pub unused_since: Option<Timestamp>,
}

/// What a token lets its bearer do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenScope {
    /// List and fetch.
    Read,
    /// Also upload, tag, pin and delete.
    Write,
    /// Also collect and manage tokens.
    Admin,
}

/// A bearer token; the secret itself is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// What people call it.
    pub name: String,
    /// Digest of the secret.
    pub secret: ObjectId,
    /// What it allows.
    pub scope: TokenScope,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The state of a name: another one as soon as anything that is told about it is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision(pub(crate) ObjectId);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Revision {
    type Err = ParseDigestError;
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
