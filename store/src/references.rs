//! Names: tags, library versions, pins, who uses what, address reservations, tokens.
//!
//! Every change is one batch that is decided under the writer's lock, so that a name and the references to it
//! never disagree. What it is decided by is the index as it will be with the changes before it.

use pool_core::digest::ObjectId;
use pool_core::name::{ImageRef, LibraryRef, Named};
use pool_core::registry::{AddressBook, Reservation, ReservationRequest, ReserveError};

use crate::error::{Result, StoreError};
use crate::index::{Batch, Reader};
use crate::manifest::{
    ImageManifest, LibraryRecord, TagRecord, Timestamp, TokenRecord, TokenScope,
};
use crate::precondition::{Conditional, Precondition};
use crate::upload::Target;
use crate::{Store, now};

/// Adds the name of a commit's target to its batch. The caller holds the writer's lock.
pub(crate) fn name_target(
    index: &Reader<'_>,
    batch: &mut Batch<'_>,
    target: &Target,
) -> Result<()> {
    match target {
        Target::Library { library, object } => {
            let mut record = library_record(index, library, *object)?;
            begin_grace_again(&mut record);
            batch.put_library(library, &record);
        }
        Target::Image {
            image,
            description,
            data,
        } => {
            for used in &description.libraries {
                let mut record = library_record(index, &used.library, used.object)?;
                record.unused_since = None;
                batch.put_library(&used.library, &record);
            }
            let id = ObjectId::of(&description.to_json());
            let known = index.manifest(id)?;
            let created_at = known.map_or_else(now, |manifest| manifest.created_at);
            let manifest = ImageManifest {
                description: (**description).clone(),
                file: description.image.digest,
                data: *data,
                created_at,
            };
            batch.put_manifest(id, &manifest);
            let uses: Vec<_> = description
                .libraries
                .iter()
                .map(|used| &used.library)
                .collect();
            point_tag(index, batch, image, id, &uses)?;
        }
    }
    Ok(())
}

/// The record of a library version, new or known; another content is refused.
fn library_record(
    index: &Reader<'_>,
    library: &LibraryRef,
    object: ObjectId,
) -> Result<LibraryRecord> {
    match index.library(library)? {
        Some(known) if known.object == object => Ok(known),
        Some(known) => Err(StoreError::VersionConflict {
            library: library.to_string(),
            stored: known.object,
            pushed: object,
        }),
        None => {
            let created_at = now();
            Ok(LibraryRecord {
                object,
                created_at,
                pinned: false,
                unused_since: Some(created_at),
            })
        }
    }
}

/// Somebody has just shown interest in a library version: if no image uses it, the time that it
/// stays nevertheless begins now.
fn begin_grace_again(record: &mut LibraryRecord) {
    record.unused_since = record.unused_since.map(|_| now());
}

/// Points a tag at a manifest that uses the libraries `uses`, and lets go of the one it pointed
/// at.
fn point_tag(
    index: &Reader<'_>,
    batch: &mut Batch<'_>,
    image: &ImageRef,
    manifest: ObjectId,
    uses: &[&LibraryRef],
) -> Result<TagRecord> {
    let previous = index.tag(image)?.map(|tag| tag.manifest);
    let previous = previous.filter(|previous| *previous != manifest);
    let record = TagRecord {
        manifest,
        tagged_at: now(),
    };
    batch.put_tag(image, &record, previous);
    if let Some(previous) = previous {
        release_manifest(index, batch, previous, image, uses)?;
    }
    Ok(record)
}

/// Removes a manifest when `image` was its last tag, and notes since when the library versions
/// that only it used are unused. `successor_uses` are those that the tag's new manifest uses.
fn release_manifest(
    index: &Reader<'_>,
    batch: &mut Batch<'_>,
    id: ObjectId,
    image: &ImageRef,
    successor_uses: &[&LibraryRef],
) -> Result<()> {
    // However many there are: others wait meanwhile.
    if index.is_tagged(id, image)? {
        return Ok(());
    }
    let Some(manifest) = index.manifest(id)? else {
        return Ok(());
    };
    batch.delete_manifest(id, &manifest);
    for used in &manifest.description.libraries {
        if successor_uses.contains(&&used.library) || index.is_used(&used.library, Some(id))? {
            continue;
        }
        if let Some(mut record) = index.library(&used.library)? {
            record.unused_since = Some(now());
            batch.put_library(&used.library, &record);
        }
    }
    Ok(())
}

/// Why a library version must stay, or `None` when it may go.
pub(crate) fn library_keeper(
    index: &Reader<'_>,
    library: &LibraryRef,
    record: &LibraryRecord,
) -> Result<Option<String>> {
    if record.pinned {
        return Ok(Some("it is pinned; unpin it first".into()));
    }
    let users = index.library_users(library)?;
    let Some(first) = users.first() else {
        return Ok(None);
    };
    let more = users.len() - 1;
    let who = if more == 0 {
        format!("image/{first} uses it")
    } else {
        format!("image/{first} and {more} more use it")
    };
    Ok(Some(format!("{who}; remove those first")))
}

/// What giving a tag came to.
#[derive(Clone, Debug)]
pub struct Tagged {
    /// The tag's record.
    pub record: TagRecord,
    /// What it points at.
    pub manifest: ImageManifest,
    /// The tag is new; otherwise it pointed somewhere before.
    pub created: bool,
}

impl Store {
    /// Gives what `from` points at the further tag `to`.
    pub fn tag_image(&self, from: &ImageRef, to: &ImageRef) -> Result<Tagged> {
        self.when(&Precondition::default()).tag_image(from, to)
    }

    /// Removes a tag; its image goes with its last one.
    pub fn delete_image(&self, image: &ImageRef) -> Result<()> {
        self.when(&Precondition::default()).delete_image(image)
    }

    /// Removes a library version that nothing uses.
    pub fn delete_library(&self, library: &LibraryRef) -> Result<()> {
        self.when(&Precondition::default()).delete_library(library)
    }

    /// Keeps a library version whether used or not, or no longer.
    pub fn pin_library(&self, library: &LibraryRef, pinned: bool) -> Result<LibraryRecord> {
        self.when(&Precondition::default())
            .pin_library(library, pinned)
    }

    /// Reserves addresses for library versions, in their order, of all or of none; true when any are
    /// new. The inner error is the registry's refusal.
    pub fn reserve_addresses(
        &self,
        requests: &[ReservationRequest],
    ) -> Result<std::result::Result<(Vec<Reservation>, bool), ReserveError>> {
        self.change(|index, batch| {
            let mut book = AddressBook::new(index.reservations()?);
            let known = book.reservations().len();
            let reserved = match book.reserve_all(requests) {
                Ok(reserved) => reserved,
                Err(refused) => return Ok(Err(refused)),
            };
            let new = &book.reservations()[known..];
            for (at, reservation) in new.iter().enumerate() {
                batch.put_reservation((known + at) as u64, reservation);
                let library = &reservation.request.library;
                if let Some(places) = book.places(library) {
                    batch.put_places(library, places);
                }
            }
            // Whoever links against a version is about to push an image that uses it.
            for request in requests {
                if let Some(mut record) = index.library(&request.library)?
                    && record.unused_since.is_some_and(|since| since != now())
                {
                    begin_grace_again(&mut record);
                    batch.put_library(&request.library, &record);
                }
            }
            Ok(Ok((reserved, !new.is_empty())))
        })
    }

    /// Adds a token. `secret` is the digest of the secret, which the caller shows once.
    pub fn add_token(
        &self,
        name: &str,
        secret: ObjectId,
        scope: TokenScope,
    ) -> Result<TokenRecord> {
        let created_at: Timestamp = now();
        let record = TokenRecord {
            name: name.into(),
            secret,
            scope,
            created_at,
        };
        self.change(|_, batch| {
            batch.put_token(&record);
            Ok(())
        })?;
        Ok(record)
    }

    /// Removes a token.
    pub fn delete_token(&self, name: &str) -> Result<()> {
        self.change(|index, batch| {
            if !index.tokens()?.iter().any(|token| token.name == name) {
                return Err(StoreError::NotFound(format!("token {name}")));
            }
            batch.delete_token(name);
            Ok(())
        })
    }
}

/// What would be refused without a precondition is refused for its own reason (RFC 9110, 13.2.1).
impl Conditional<'_> {
    fn check(&self, index: &Reader<'_>, name: &Named) -> Result<()> {
        self.precondition.check(index, name)
    }

    /// [`Store::tag_image`], if the precondition holds of `to`.
    pub fn tag_image(&self, from: &ImageRef, to: &ImageRef) -> Result<Tagged> {
        self.store.change(|index, batch| {
            let (tag, manifest) = index.image(from)?.ok_or_else(|| no_image(from))?;
            self.check(index, &Named::Image(to.clone()))?;
            let libraries = &manifest.description.libraries;
            let uses: Vec<_> = libraries.iter().map(|used| &used.library).collect();
            let created = index.tag(to)?.is_none();
            let record = point_tag(index, batch, to, tag.manifest, &uses)?;
            Ok(Tagged {
                record,
                manifest,
                created,
            })
        })
    }

    /// [`Store::delete_image`], if the precondition holds of the tag.
    pub fn delete_image(&self, image: &ImageRef) -> Result<()> {
        self.store.change(|index, batch| {
            let (tag, _) = index.image(image)?.ok_or_else(|| no_image(image))?;
            self.check(index, &Named::Image(image.clone()))?;
            batch.delete_tag(image, tag.manifest);
            release_manifest(index, batch, tag.manifest, image, &[])
        })
    }

    /// [`Store::delete_library`], if the precondition holds of the library version.
    pub fn delete_library(&self, library: &LibraryRef) -> Result<()> {
        self.store.change(|index, batch| {
            let record = index.library(library)?.ok_or_else(|| no_library(library))?;
            if let Some(why) = library_keeper(index, library, &record)? {
                return Err(StoreError::InUse {
                    what: format!("lib/{library}"),
                    why,
                });
            }
            self.check(index, &Named::Library(library.clone()))?;
            batch.delete_library(library);
            Ok(())
        })
    }

    /// [`Store::pin_library`], if the precondition holds of the library version.
    pub fn pin_library(&self, library: &LibraryRef, pinned: bool) -> Result<LibraryRecord> {
        self.store.change(|index, batch| {
            let mut record = index.library(library)?.ok_or_else(|| no_library(library))?;
            self.check(index, &Named::Library(library.clone()))?;
            record.pinned = pinned;
            begin_grace_again(&mut record);
            batch.put_library(library, &record);
            Ok(record)
        })
    }
}

fn no_image(image: &ImageRef) -> StoreError {
    StoreError::NotFound(format!("image/{image}"))
}

fn no_library(library: &LibraryRef) -> StoreError {
    StoreError::NotFound(format!("lib/{library}"))
}
