//! What is said over HTTP: the JSON bodies of requests and answers.
//!
//! Digests are 64 lower-case hexadecimal digits, times are seconds since 1970-01-01 UTC, lengths
//! are bytes unless their name says pages.

use std::num::NonZeroU64;

use pool_core::description::Description;
use pool_core::digest::ObjectId;
use pool_core::name::{ImageRef, LibraryRef, Name};
use pool_gc::{Cause, Collected};
use pool_store::manifest::{Timestamp, TokenScope};
use pool_store::placement::Placement;
use pool_store::quota::QuotaUse;
use pool_store::stats::StoreStats;
use pool_store::upload::{CommitSummary, Target};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schemas;
use crate::wire::PageList;

/// An announcement: what is to be stored, and under which name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// What the upload becomes.
    pub target: UploadTarget,
    /// The objects it consists of: such as the target refers to. One that the pool has may be left out.
    pub objects: Vec<AnnouncedObject>,
}

/// What an upload becomes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum UploadTarget {
    /// An image under a tag.
    Image {
        /// The image's name.
        #[schema(schema_with = schemas::name)]
        name: Name,
        /// Its tag.
        #[schema(schema_with = schemas::name)]
        tag: Name,
        /// What lies where in its memory, as `pool describe` writes it.
        #[schema(value_type = schemas::Description)]
        description: Box<Description>,
        /// The object with the first contents of its writable pages.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(schema_with = schemas::digest)]
        data: Option<ObjectId>,
    },
    /// A library version.
    Library {
        /// The library's name.
        #[schema(schema_with = schemas::name)]
        name: Name,
        /// Its version.
        #[schema(schema_with = schemas::name)]
        version: Name,
        /// Its content.
        #[schema(schema_with = schemas::digest)]
        object: ObjectId,
    },
}

/// An object as an upload announces it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnouncedObject {
    /// Digest of the content.
    #[schema(schema_with = schemas::digest)]
    pub id: ObjectId,
    /// Bytes.
    pub length: u64,
    /// How it wants to lie.
    #[schema(schema_with = schemas::placement)]
    pub placement: Placement,
    /// Base64 of the digests of its pages one after another, 32 bytes each, but for those that `copies` has: the last
    /// page is padded with zeros, a page of zeros is written as 32 zero bytes.
    #[schema(schema_with = schemas::pages)]
    pub pages: PageList,
    /// Pages that are those of other objects, in ascending order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopiedPages>,
}

/// Pages of an object that are those of another one: of one that the pool has, or one that is announced with it and has
/// no copies itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CopiedPages {
    /// Number of the first in the object.
    pub at: u64,
    /// The other object.
    #[schema(schema_with = schemas::digest)]
    pub object: ObjectId,
    /// Number of the first in that one.
    pub first: u64,
    /// How many.
    #[schema(minimum = 1)]
    pub count: u64,
}

impl From<&Target> for UploadTarget {
    fn from(target: &Target) -> Self {
        match target {
            Target::Image {
                image,
                description,
                data,
            } => Self::Image {
                name: image.name.clone(),
                tag: image.tag.clone(),
                description: description.clone(),
                data: *data,
            },
            Target::Library { library, object } => Self::Library {
                name: library.name.clone(),
                version: library.version.clone(),
                object: *object,
            },
        }
    }
}

impl From<UploadTarget> for Target {
    fn from(target: UploadTarget) -> Self {
        match target {
            UploadTarget::Image {
                name,
                tag,
                description,
                data,
            } => Self::Image {
                image: ImageRef { name, tag },
                description,
                data,
            },
            UploadTarget::Library {
                name,
                version,
                object,
            } => Self::Library {
                library: LibraryRef { name, version },
                object,
            },
        }
    }
}

/// An upload was begun.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadStarted {
    /// Names the upload in the requests that follow.
    pub id: String,
    /// Collections begun so far. A commit looks every page up again, so a collection in the
    /// meantime costs at most another round.
    pub epoch: u64,
    /// Base64 of the digests of the pages to send, 32 bytes each.
    #[schema(schema_with = schemas::pages)]
    pub missing: PageList,
    /// How many those are.
    pub missing_pages: u64,
    /// The upload is forgotten after this many seconds without a request.
    pub idle_seconds: u64,
}

/// Pages were taken in.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct PagesAccepted {
    /// Pages in this request.
    pub pages: u64,
}

/// What an upload did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PushSummary {
    /// The name is new; otherwise it was there, and an image's tag points here now.
    pub created: bool,
    /// `image/NAME:TAG` or `lib/NAME@VERSION`.
    pub target: String,
    /// Digest of the file, or of the library's content.
    #[schema(schema_with = schemas::digest)]
    pub object: ObjectId,
    /// Pages of all objects of the upload.
    pub pages: u64,
    /// Of these, pages of objects that the pool had whole.
    pub known_pages: u64,
    /// Of the others, pages of zeros, which are never stored.
    pub zero_pages: u64,
    /// Distinct pages among those left.
    pub distinct_pages: u64,
    /// Distinct pages that the pool did not have.
    pub new_pages: u64,
    /// Pages written to segments: new ones, and repeated ones of dense windows.
    pub written_pages: u64,
    /// Windows written densely.
    pub new_windows: u64,
    /// Dense windows that were there already.
    pub shared_windows: u64,
    /// Bytes of pages, or of the whole file, that the service received.
    pub received_bytes: u64,
}

impl PushSummary {
    /// A commit's summary, with what it was a commit of.
    pub fn new(target: &Target, summary: CommitSummary, received_bytes: u64) -> Self {
        let object = match target {
            Target::Image { description, .. } => description.image.digest,
            Target::Library { object, .. } => *object,
        };
        Self {
            created: summary.created,
            target: target.name().to_string(),
            object,
            pages: summary.pages.0,
            known_pages: summary.known_pages.0,
            zero_pages: summary.zero_pages.0,
            distinct_pages: summary.distinct_pages.0,
            new_pages: summary.new_pages.0,
            written_pages: summary.written_pages.0,
            new_windows: summary.new_windows,
            shared_windows: summary.shared_windows,
            received_bytes,
        }
    }
}

/// A library version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Library {
    /// The library.
    #[schema(schema_with = schemas::name)]
    pub name: Name,
    /// Its version.
    #[schema(schema_with = schemas::name)]
    pub version: Name,
    /// Its content.
    #[schema(schema_with = schemas::digest)]
    pub object: ObjectId,
    /// Bytes of content.
    pub length: u64,
    /// When it was first committed.
    pub created_at: Timestamp,
    /// Kept whether used or not.
    pub pinned: bool,
    /// Since when no image has used it; absent while one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Timestamp>,
    /// Tags of images that use it.
    #[schema(schema_with = schemas::images)]
    pub users: Vec<ImageRef>,
}

impl Library {
    /// Its name and version.
    pub fn reference(&self) -> LibraryRef {
        LibraryRef {
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }
}

/// A tagged image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// The image.
    #[schema(schema_with = schemas::name)]
    pub name: Name,
    /// Its tag.
    #[schema(schema_with = schemas::name)]
    pub tag: Name,
    /// Digest of its description, which names the image whatever its tags.
    #[schema(schema_with = schemas::digest)]
    pub manifest: ObjectId,
    /// The file as uploaded.
    #[schema(schema_with = schemas::digest)]
    pub file: ObjectId,
    /// Bytes of that file.
    pub length: u64,
    /// The object with the first contents of its writable pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::digest)]
    pub data: Option<ObjectId>,
    /// Library versions that it was linked against.
    #[schema(schema_with = schemas::libraries)]
    pub libraries: Vec<LibraryRef>,
    /// When it was first committed.
    pub created_at: Timestamp,
    /// When the tag was last pointed.
    pub tagged_at: Timestamp,
}

impl Image {
    /// Its name and tag.
    pub fn reference(&self) -> ImageRef {
        ImageRef {
            name: self.name.clone(),
            tag: self.tag.clone(),
        }
    }
}

/// Gives an image a further tag.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagRequest {
    /// The image that is to have the tag.
    #[schema(schema_with = schemas::name)]
    pub name: Name,
    /// The tag.
    #[schema(schema_with = schemas::name)]
    pub tag: Name,
}

/// Statistics of the store and of what the pool saves.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// The store, counted from its index.
    #[serde(flatten)]
    #[schema(value_type = schemas::StoreStats)]
    pub store: StoreStats,
    /// A 2 MiB window of an object is stored densely from this many pages on.
    pub dense_from_pages: u32,
    /// Uploads under way.
    pub uploads: u64,
    /// Pages that are known to be damaged, and wait for a push of what has them.
    #[serde(default)]
    pub damaged_pages: u64,
    /// When all of the store was last found to be what it says, or was not; seconds since 1970.
    #[serde(default)]
    pub scrubbed_at: Option<Timestamp>,
    /// Quotas, in the order in which they are configured.
    #[serde(default)]
    #[schema(value_type = Vec<schemas::QuotaUse>)]
    pub quotas: Vec<QuotaUse>,
}

/// How to collect.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CollectRequest {
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Keep library versions for this long after their last user has gone; the service has a
    /// default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u64>,
}

/// The collection that is running.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Running {
    /// When it was begun, in seconds since 1970.
    pub begun_at: Timestamp,
    /// Why.
    #[schema(value_type = schemas::Cause)]
    pub cause: Cause,
}

/// What is being collected, and was.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Collections {
    /// None is begun, and the one that is running does not go on.
    pub paused: bool,
    /// The one that is running.
    pub running: Option<Running>,
    /// The last ones, the newest first; 64 at most.
    #[schema(value_type = Vec<schemas::Collected>)]
    pub last: Vec<Collected>,
}

/// How to scrub.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScrubRequest {
    /// Bytes a second that are read at most; as many as the disk gives if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub rate: Option<NonZeroU64>,
}

/// How thoroughly to check.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FsckRequest {
    /// Read and hash every page, too.
    pub content: bool,
}

/// A token to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What people will call it.
    #[schema(schema_with = schemas::name)]
    pub name: Name,
    /// What it is to allow.
    #[schema(schema_with = schemas::scope)]
    pub scope: TokenScope,
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// What people call it.
    pub name: String,
    /// What it allows.
    #[schema(schema_with = schemas::scope)]
    pub scope: TokenScope,
    /// When it was made; absent for tokens of the configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
}

/// A new token, with its secret: shown once, not kept.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// What people call it.
    pub name: String,
    /// What it allows.
    #[schema(schema_with = schemas::scope)]
    pub scope: TokenScope,
    /// Goes into `Authorization: Bearer SECRET` or `POOL_TOKEN`.
    pub secret: String,
}

/// What the service is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The program: `poolsvc`.
    pub name: String,
    /// Its release.
    pub version: String,
    /// Version of the store's format.
    pub store_format: u32,
    /// Names the store, in hexadecimal.
    pub store: String,
}

/// Whether the service can do its work.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `true` in an answer.
    pub live: bool,
    /// The store can be read, and the service is not shutting down.
    pub ready: bool,
}
