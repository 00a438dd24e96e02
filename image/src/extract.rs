//! Taking the parts of an image out as files of their own.
//!
//! The seeds' "libraries extractor": each library as a standalone binary file. Written to a
//! directory, they are what another machine needs beside the minified image and the description.

use std::collections::BTreeSet;

use crate::describe::{Content, DescribedImage, ImageObject, ObjectRole};

/// Hexadecimal digits of a digest in a file name or a table.
pub(crate) const SHORT_DIGEST: usize = 12;

/// A file to be written.
#[derive(Clone, Debug)]
pub struct ExtractedFile<'a> {
    /// Its name, one path component: `NAME@VERSION` for a library, `code-` and the first twelve
    /// digits of its digest for the image's own read-only pages, `data` for its writable ones,
    /// `record` for what holds addresses.
    pub name: String,
    /// The object.
    pub object: &'a ImageObject<'a>,
}

impl ExtractedFile<'_> {
    /// The file's bytes.
    pub fn content(&self) -> &Content<'_> {
        &self.object.content
    }
}

/// The files of an image: libraries, code, data. Parts with the same content make one file.
pub fn extract<'a>(image: &'a DescribedImage<'_>) -> Vec<ExtractedFile<'a>> {
    let mut names = BTreeSet::new();
    image
        .objects
        .iter()
        .filter_map(|object| {
            let name = file_name(object)?;
            names
                .insert(name.clone())
                .then_some(ExtractedFile { name, object })
        })
        .collect()
}

/// No two kinds of part can have the same name: only a library's has an `@`.
fn file_name(object: &ImageObject<'_>) -> Option<String> {
    match &object.role {
        ObjectRole::Library(library) => Some(library.to_string()),
        ObjectRole::Code => {
            let digest = object.id.to_string();
            Some(format!("code-{}", &digest[..SHORT_DIGEST]))
        }
        ObjectRole::Data => Some("data".to_owned()),
        ObjectRole::Record => Some("record".to_owned()),
        ObjectRole::File => None,
    }
}
