//! What keeps a thing: the chain from a page or a segment up to names and leases.

use std::collections::{BTreeMap, BTreeSet};

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef};
use pool_store::format::Location;
use pool_store::{Snapshot, StoreView};
use serde::{Deserialize, Serialize};

use crate::{Result, during};

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thing {
    /// A page, by its digest.
    Page(PageId),
    /// An object.
    Object(ObjectId),
    /// A segment.
    Segment(SegmentId),
}

/// Who refers to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keepers {
    /// Tags of images that are or map the object.
    pub images: Vec<ImageRef>,
    /// Library versions whose content it is.
    pub libraries: Vec<LibraryRef>,
    /// Of these, the pinned ones.
    pub pinned: Vec<LibraryRef>,
    /// Somebody holds it open.
    pub leased: bool,
}

impl Keepers {
    /// True when nothing keeps the object: the next collection takes it.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.libraries.is_empty() && !self.leased
    }
}

/// Why a thing is in the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// What was asked about.
    pub thing: Thing,
    /// The pool has it.
    pub exists: bool,
    /// Of a page: the segment that holds it. Of a segment: itself.
    pub segment: Option<SegmentId>,
    /// Somebody holds that segment open.
    pub segment_leased: bool,
    /// The objects that need the thing, and who needs those.
    pub objects: BTreeMap<ObjectId, Keepers>,
}

/// Finds what keeps `thing`. Reads the whole index.
pub fn why(store: &StoreView, thing: Thing) -> Result<Why> {
    why_at(&store.snapshot(), thing)
}

/// The same in one state of the index, for who asks it more.
pub fn why_at(store: &Snapshot<'_>, thing: Thing) -> Result<Why> {
    let mut answer = Why {
        thing,
        exists: false,
        segment: None,
        segment_leased: false,
        objects: BTreeMap::new(),
    };
    match thing {
        Thing::Object(id) => {
            answer.exists = during("looking up the object", store.object(id))?.is_some();
            if answer.exists {
                answer.objects.insert(id, Keepers::default());
            }
        }
        Thing::Page(id) => {
            let at = during("looking up the page", store.page(&id))?;
            answer.exists = at.is_some();
            answer.segment = at.map(|at| at.segment);
            if let Some(at) = at {
                add_users(store, &mut answer, at.segment, Some(at))?;
            }
        }
        Thing::Segment(id) => {
            answer.exists = during("looking up the segment", store.segment(id))?.is_some();
            answer.segment = answer.exists.then_some(id);
            add_users(store, &mut answer, id, None)?;
        }
    }
    if let Some(segment) = answer.segment {
        answer.segment_leased =
            during("asking for leases", store.view().segment_is_leased(segment))?;
    }
    add_keepers(store, &mut answer)?;
    Ok(answer)
}

/// Adds the objects that refer to a segment, or to one slot of it.
fn add_users(
    store: &Snapshot<'_>,
    answer: &mut Why,
    segment: SegmentId,
    at: Option<Location>,
) -> Result<()> {
    let scan = store.for_each_object(|id, record| {
        let uses = record.map.extents().iter().any(|extent| {
            extent.segment == segment
                && at.is_none_or(|at| {
                    let slots = extent.slot.0..extent.slot.0 + extent.count;
                    slots.contains(&at.slot.0)
                })
        });
        if uses {
            answer.objects.insert(id, Keepers::default());
        }
        Ok(())
    });
    during("listing objects", scan)
}

fn add_keepers(store: &Snapshot<'_>, answer: &mut Why) -> Result<()> {
    let mut manifests: BTreeMap<ObjectId, BTreeSet<ObjectId>> = BTreeMap::new();
    let scan = store.for_each_manifest(|id, manifest| {
        for object in manifest.objects() {
            if answer.objects.contains_key(&object) {
                manifests.entry(id).or_default().insert(object);
            }
        }
        Ok(())
    });
    during("reading image manifests", scan)?;
    for (manifest, objects) in manifests {
        let tags = during("reading tags", store.tags_of_manifest(manifest))?;
        for object in objects {
            if let Some(keepers) = answer.objects.get_mut(&object) {
                keepers.images.extend(tags.iter().cloned());
            }
        }
    }
    for (library, record) in during("reading library versions", store.libraries())? {
        if let Some(keepers) = answer.objects.get_mut(&record.object) {
            if record.pinned {
                keepers.pinned.push(library.clone());
            }
            keepers.libraries.push(library);
        }
    }
    for (id, keepers) in &mut answer.objects {
        keepers.leased = during("asking for leases", store.view().object_is_leased(*id))?;
        keepers.images.sort();
    }
    Ok(())
}
