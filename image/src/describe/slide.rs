//! Whether an image can start elsewhere, as its linker has left it.

use pool_core::ObjectId;
use pool_core::description::{Description, Slide};
use pool_core::slide::{SlideError, SlideRecord};

use super::{Content, ImageObject, ObjectRole};
use crate::elf::Executable;

/// What the sections say, and the record as an object. `fixed` is why the layout has none. A record without a layout is
/// nobody's.
pub(super) fn of<'a>(
    executable: &Executable<'a>,
    fixed: Option<String>,
) -> (Option<Slide>, Option<ImageObject<'a>>) {
    if let Some(why) = fixed {
        return (Some(Slide::Fixed { why }), None);
    }
    let section = executable.slide_section;
    let Some(bytes) = section.filter(|_| executable.layout_section.is_some()) else {
        return (None, None);
    };
    let object = ImageObject {
        id: ObjectId::of(bytes),
        role: ObjectRole::Record,
        phase: 0,
        content: Content::borrowed(bytes),
    };
    let slide = Slide::Record {
        object: object.id,
        length: bytes.len() as u64,
    };
    (Some(slide), Some(object))
}

/// Checks the record against the image, if that has one.
pub(super) fn check(description: &Description, section: Option<&[u8]>) -> Result<(), SlideError> {
    match (&description.slide, section) {
        (Some(Slide::Record { .. }), Some(bytes)) => SlideRecord::parse(bytes)?.check(description),
        _ => Ok(()),
    }
}
