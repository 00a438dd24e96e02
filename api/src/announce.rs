//! What a file becomes in the pool, ready to be announced or taken in.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use pool_core::digest::{ObjectId, PageId};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::page::PAGE_SIZE;
use pool_image::describe::{DescribedImage, ImageObject, ObjectRole};
use pool_store::placement::Placement;
use pool_store::upload::{Target, UploadObject, page_ids};

/// A file in the parts that the pool keeps, with the name it is to have.
#[derive(Debug)]
pub struct Announcement<'a> {
    /// What the upload becomes.
    pub target: Target,
    /// Its objects, each once.
    pub parts: Vec<Part<'a>>,
    /// Bytes of the file that was announced.
    pub file_bytes: u64,
}

/// An object, not yet cut into pages.
#[derive(Debug)]
pub struct Part<'a> {
    /// Digest of the bytes.
    pub id: ObjectId,
    /// How it wants to lie.
    pub placement: Placement,
    /// It is in a guest's memory: code or data. The whole file is not; what only it has are
    /// headers, symbols and debug information.
    pub in_memory: bool,
    /// It is a library's, so the pool may well have it.
    pub is_library: bool,
    /// Its content; borrowed from the file wherever file and memory agree.
    pub bytes: Cow<'a, [u8]>,
}

impl Part<'_> {
    /// The object, page by page.
    pub fn object(&self) -> UploadObject {
        UploadObject {
            id: self.id,
            length: self.bytes.len() as u64,
            placement: self.placement,
            pages: page_ids(&self.bytes),
        }
    }
}

/// Announces a described executable as `image`.
///
/// What is mapped shared lies in windows, so that a mapper can map a window at once; data, which
/// guests copy page by page, and the file, which is only read, lie wherever their pages are.
pub fn image<'a>(described: &'a DescribedImage<'_>, image: ImageRef) -> Announcement<'a> {
    let mut announced = HashSet::new();
    let parts = described
        .objects
        .iter()
        .filter(|object| announced.insert(object.id))
        .map(|object| Part {
            id: object.id,
            placement: placement(object),
            in_memory: !matches!(object.role, ObjectRole::File | ObjectRole::Record),
            is_library: matches!(object.role, ObjectRole::Library(_)),
            bytes: object.content.bytes(),
        })
        .collect();
    let data = |object: &&ImageObject<'_>| object.role == ObjectRole::Data;
    Announcement {
        target: Target::Image {
            image,
            description: Box::new(described.description.clone()),
            data: described.objects.iter().find(data).map(|object| object.id),
        },
        parts,
        file_bytes: described.description.image.length,
    }
}

/// Announces `content` as a library version. It lies as if its first page began a window, which
/// is where every registered address begins.
pub fn library(content: &[u8], library: LibraryRef) -> Announcement<'_> {
    let id = ObjectId::of(content);
    Announcement {
        target: Target::Library {
            library,
            object: id,
        },
        parts: vec![Part {
            id,
            placement: Placement::Windows { phase: 0 },
            in_memory: true,
            is_library: true,
            bytes: Cow::Borrowed(content),
        }],
        file_bytes: content.len() as u64,
    }
}

/// Where the bytes of each page are, given the objects of all parts in order. The last page of
/// an object may be shorter than a page.
pub(crate) fn page_sources<'a>(
    parts: &'a [Part<'_>],
    objects: &[UploadObject],
) -> HashMap<PageId, &'a [u8]> {
    let pages = objects.iter().map(|object| object.pages.len()).sum();
    let mut sources = HashMap::with_capacity(pages);
    for (part, object) in parts.iter().zip(objects) {
        let pages = part.bytes.chunks(PAGE_SIZE as usize);
        for (id, bytes) in object.pages.iter().zip(pages) {
            if let Some(id) = id {
                sources.insert(*id, bytes);
            }
        }
    }
    sources
}

fn placement(object: &ImageObject<'_>) -> Placement {
    match object.role {
        ObjectRole::Library(_) | ObjectRole::Code => Placement::Windows {
            phase: object.phase as u16,
        },
        ObjectRole::Data | ObjectRole::Record | ObjectRole::File => Placement::Sparse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_store::upload::padded;

    #[test]
    fn a_library_is_announced_page_by_page() {
        let mut content = vec![1; 4096];
        content.extend([0; 4096]);
        content.extend(b"tail");
        let announced = library(&content, "z@1".parse().unwrap());
        let object = announced.parts[0].object();
        assert_eq!(object, UploadObject::of(&content, object.placement));
        assert_eq!(object.pages.len(), 3);
        assert!(object.pages[1].is_none());
        let sources = page_sources(&announced.parts, &[object]);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[&PageId::of(&padded(b"tail"))], b"tail");
    }

    #[test]
    fn an_executable_is_announced_with_every_object_its_description_names() {
        let file = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        let described = pool_image::describe::describe(&file).unwrap();
        let announced = image(&described, "busybox:v1".parse().unwrap());
        let ids: HashSet<_> = announced.parts.iter().map(|part| part.id).collect();
        for needed in described.description.objects().keys() {
            assert!(ids.contains(needed));
        }
        assert!(ids.contains(&described.description.image.digest));
        for part in &announced.parts {
            assert_eq!(part.object(), UploadObject::of(&part.bytes, part.placement));
        }
    }
}
