//! The map of an image: its description and where every object it refers to is kept.
//!
//! The filesystem serves it as `/pool/images/NAME/TAG/map`, so that a VMM needs one open and one
//! read to know all that it will map, and the open descriptor is the lease on all of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::description::{Description, DescriptionError, Slide};
use crate::digest::ObjectId;
use crate::extent::{ExtentError, ExtentMap};
use crate::page::PageCount;

/// Version of the textual form. Version 1, which wrote all five numbers of every extent, is read
/// as well; a reader refuses any other.
pub const IMAGE_MAP_FORMAT: u32 = 2;
const OLDEST_FORMAT: u32 = 1;

/// Why a map cannot be used.
#[derive(Debug, Error)]
pub enum ImageMapError {
    /// Not JSON, or not of this shape.
    #[error("reading the image map: {0}")]
    Json(#[from] serde_json::Error),
    /// A newer form, or one that never was.
    #[error(
        "the image map has format {0}, this program reads formats {OLDEST_FORMAT} to \
         {IMAGE_MAP_FORMAT}: update it to the version of the mounted pool"
    )]
    Format(u32),
    /// The description is wrong.
    #[error("the image's description is wrong: {0}")]
    Description(#[from] DescriptionError),
    /// An object's extents are wrong.
    #[error("the extents of object {0} are wrong: {1}")]
    Extents(ObjectId, ExtentError),
    /// The description names an object that the map lacks.
    #[error("the description refers to object {0}, which the map does not place")]
    MissingObject(ObjectId),
    /// A range reaches past its object.
    #[error("range {0} reaches past the end of its object")]
    PastObject(usize),
    /// The record by which the image slides is not as long as it says.
    #[error("the record of addresses has {actual} bytes, the description says {length}")]
    Record {
        /// What the description says.
        length: u64,
        /// What there is.
        actual: u64,
    },
}

/// What every version of the form begins with.
#[derive(Debug, Deserialize)]
struct Format {
    format: u32,
}

/// An image's description and the placement of its objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageMap {
    /// [`IMAGE_MAP_FORMAT`].
    pub format: u32,
    /// What lies where in the guest.
    pub description: Description,
    /// Where each object that a range refers to is kept.
    pub objects: BTreeMap<ObjectId, ExtentMap>,
}

impl ImageMap {
    /// Reads a map and checks everything that a mapper relies on: the description, each extent
    /// map, and that every range lies within its object.
    pub fn from_json(json: &[u8]) -> Result<Self, ImageMapError> {
        let readable = |format| (OLDEST_FORMAT..=IMAGE_MAP_FORMAT).contains(&format);
        let mut map: Self = serde_json::from_slice(json).map_err(|error| {
            // A later form need not have this shape.
            match serde_json::from_slice(json) {
                Ok(Format { format }) if !readable(format) => ImageMapError::Format(format),
                _ => error.into(),
            }
        })?;
        if !readable(map.format) {
            return Err(ImageMapError::Format(map.format));
        }
        map.description.validate()?;
        for (id, extents) in &mut map.objects {
            let checked = std::mem::take(extents).validated();
            *extents = checked.map_err(|error| ImageMapError::Extents(*id, error))?;
        }
        for (at, range) in map.description.ranges.iter().enumerate() {
            let Some(source) = &range.source else {
                continue;
            };
            let object = map
                .objects
                .get(&source.object)
                .ok_or(ImageMapError::MissingObject(source.object))?;
            let end = source.offset.checked_add(range.length);
            if end.is_none_or(|end| PageCount::covering(end) > object.page_count()) {
                return Err(ImageMapError::PastObject(at));
            }
        }
        if let Some(Slide::Record { object, length }) = map.description.slide {
            let placed = map.objects.get(&object);
            let actual = placed.ok_or(ImageMapError::MissingObject(object))?.length;
            if actual != length {
                return Err(ImageMapError::Record { length, actual });
            }
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(map: &str) -> Result<ImageMap, ImageMapError> {
        ImageMap::from_json(map.as_bytes())
    }

    fn map(format: u32, extents: &str) -> String {
        let object = ObjectId::of(b"text");
        format!(
            r#"{{"format": {format}, "description": {{"format": 1,
                "image": {{"digest": "{object}", "length": 1}}, "abi": "linux", "layout": "own",
                "load_bias": 0, "entry": "0x400000", "program_headers": null, "libraries": [],
                "ranges": [{{"address": "0x400000", "length": 4096, "protection": "r-x",
                    "kind": "shared", "source": {{"object": "{object}", "offset": 0}},
                    "library": null}}]}},
                "objects": {{"{object}": {{"length": 4096, "extents": [{extents}]}}}}}}"#
        )
    }

    #[test]
    fn both_forms_are_read() {
        let old = read(&map(1, "[0,7,9,1,0]")).unwrap();
        let new = read(&map(2, "[0,7,9]")).unwrap();
        assert_eq!(old.objects, new.objects);
        assert_eq!(new.objects[&ObjectId::of(b"text")].extents().len(), 1);
    }

    #[test]
    fn later_forms_are_refused_by_name() {
        for later in [map(3, "[0,7,9]"), map(0, ""), r#"{"format": 3}"#.into()] {
            let error = read(&later).unwrap_err();
            assert!(matches!(error, ImageMapError::Format(_)), "{error}");
        }
        for wrong in [
            map(2, "[0,7]"),
            r#"{"format": 2}"#.into(),
            "{}".into(),
            String::new(),
        ] {
            let error = read(&wrong).unwrap_err();
            assert!(matches!(error, ImageMapError::Json(_)), "{error}");
        }
    }
}
