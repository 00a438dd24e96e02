//! What a file becomes in the pool, ready to be announced or taken in.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use pool_core::digest::{ObjectId, PageId};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::page;
use pool_image::describe::{Content, DescribedImage, ImageObject, ObjectRole};
use pool_store::ingest::{Target, UploadObject, padded, page_ids};
use pool_store::placement::Placement;

/// An announcement with the bytes it announces.
#[derive(Debug)]
pub struct Announcement<'a> {
    /// What the upload becomes.
    pub target: Target,
    /// Its objects, each once.
    pub objects: Vec<AnnouncedContent<'a>>,
    /// Bytes of the file that was announced.
    pub file_bytes: u64,
}

/// An object and its bytes.
#[derive(Debug)]
pub struct AnnouncedContent<'a> {
    /// The object as announced.
    pub object: UploadObject,
    content: Pages<'a>,
}

#[derive(Debug)]
enum Pages<'a> {
    Whole(&'a [u8]),
    Pieces(&'a Content<'a>),
}

impl AnnouncedContent<'_> {
    /// The pages of the object; the last may be shorter than a page.
    fn pages(&self) -> Box<dyn Iterator<Item = &[u8]> + '_> {
        match &self.content {
            Pages::Whole(bytes) => Box::new(bytes.chunks(page::PAGE_SIZE as usize)),
            Pages::Pieces(content) => Box::new(content.pages()),
        }
    }

    /// All bytes in one run.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.content {
            Pages::Whole(bytes) => Cow::Borrowed(bytes),
            Pages::Pieces(content) => content.bytes(),
        }
    }
}

/// Announces a described executable as `image`.
///
/// What is mapped shared lies in windows, so that a mapper can map a window at once; data, which
/// guests copy page by page, and the file, which is only read, lie wherever their pages are.
pub fn image<'a>(described: &'a DescribedImage<'_>, image: ImageRef) -> Announcement<'a> {
    let mut announced = HashSet::new();
    let objects = described
        .objects
        .iter()
        .filter(|object| announced.insert(object.id))
        .map(|object| AnnouncedContent {
            object: UploadObject {
                id: object.id,
                length: object.content.len(),
                placement: placement(object),
                pages: object.content.pages().map(page_id).collect(),
            },
            content: Pages::Pieces(&object.content),
        })
        .collect();
    let data = |object: &&ImageObject<'_>| object.role == ObjectRole::Data;
    Announcement {
        target: Target::Image {
            image,
            description: Box::new(described.description.clone()),
            data: described.objects.iter().find(data).map(|object| object.id),
        },
        objects,
        file_bytes: described.description.image.length,
    }
}

/// Announces `content` as a library version. It lies as if its first page began a window, which
/// is where every registered address begins.
pub fn library(content: &[u8], library: LibraryRef) -> Announcement<'_> {
    let object = UploadObject {
        id: ObjectId::of(content),
        length: content.len() as u64,
        placement: Placement::Windows { phase: 0 },
        pages: page_ids(content),
    };
    Announcement {
        target: Target::Library {
            library,
            object: object.id,
        },
        objects: vec![AnnouncedContent {
            object,
            content: Pages::Whole(content),
        }],
        file_bytes: content.len() as u64,
    }
}

impl Announcement<'_> {
    /// Where the bytes of each page are.
    pub fn page_sources(&self) -> HashMap<PageId, &[u8]> {
        let mut sources = HashMap::new();
        for announced in &self.objects {
            for (id, bytes) in announced.object.pages.iter().zip(announced.pages()) {
                if let Some(id) = id {
                    sources.insert(*id, bytes);
                }
            }
        }
        sources
    }
}

fn placement(object: &ImageObject<'_>) -> Placement {
    match object.role {
        ObjectRole::Library(_) | ObjectRole::Code => Placement::Windows {
            phase: object.phase as u16,
        },
        ObjectRole::Data | ObjectRole::File => Placement::Sparse,
    }
}

fn page_id(bytes: &[u8]) -> Option<PageId> {
    if page::is_zero(bytes) {
        None
    } else if bytes.len() as u64 == page::PAGE_SIZE {
        Some(PageId::of(bytes))
    } else {
        Some(PageId::of(&padded(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_announced_page_by_page() {
        let mut content = vec![1; 4096];
        content.extend([0; 4096]);
        content.extend(b"tail");
        let announced = library(&content, "z@1".parse().unwrap());
        let object = &announced.objects[0].object;
        assert_eq!(object, &UploadObject::of(&content, object.placement));
        assert_eq!(object.pages.len(), 3);
        assert!(object.pages[1].is_none());
        let sources = announced.page_sources();
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[&PageId::of(&padded(b"tail"))], b"tail");
    }

    #[test]
    fn an_executable_is_announced_with_every_object_its_description_names() {
        let file = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        let described = pool_image::describe::describe(&file).unwrap();
        let announced = image(&described, "busybox:v1".parse().unwrap());
        let ids: HashSet<_> = announced.objects.iter().map(|o| o.object.id).collect();
        for needed in described.description.objects().keys() {
            assert!(ids.contains(needed));
        }
        assert!(ids.contains(&described.description.image.digest));
        for announced in &announced.objects {
            let bytes = announced.bytes();
            let object = &announced.object;
            assert_eq!(object, &UploadObject::of(&bytes, object.placement));
        }
    }
}
