//! Describing an executable: what lies where in its memory, and the objects that hold the bytes.
//!
//! The seeds' "file description generator". An executable that `pool link` wrote carries its
//! layout (see [`crate::layout`]); any other static executable is its own library.
//!
//! # Objects
//!
//! Objects are *views of memory*: whole pages as a guest sees them, not sections of a file.
//!
//! - each library version: the pages of its shared addresses, identical in every image. Pages that
//!   an image has of its own there, since the program replaces what they refer to, are its code, one after
//!   another;
//! - code: the image's other read-only pages. Parts in one 2 MiB window make one object, the gaps
//!   between them filled with zeros, so that such a window can be mapped whole, text and rodata
//!   together; parts in separate windows are separate objects;
//! - the record of what holds addresses, by which the image slides, where its linker has left one;
//! - data: the first contents of all writable pages, one after another in address order. Their
//!   pages are mapped one by one and copied when written, so nothing is gained by keeping their
//!   distances, and one object is the one `data` file that people expect of an image;
//! - the file itself. Its pages are those of the objects above wherever the linker kept offsets
//!   and addresses congruent, so storing it costs little.

mod content;
mod libraries;
mod load;
mod objects;
mod slide;

use pool_core::description::{
    DESCRIPTION_FORMAT, Description, DescriptionError, FileIdentity, Layout,
};
use pool_core::name::LibraryRef;
use pool_core::slide::SlideError;
use pool_core::{GuestAddress, ObjectId, PageCount};
use serde::Serialize;
use thiserror::Error;

use crate::elf::{ElfError, Executable, ExecutableKind};
use crate::layout::{LayoutKind, Reason};

pub use content::{Content, Piece};
pub use libraries::LayoutError;
use libraries::Told;

/// Why an executable cannot be described.
#[derive(Debug, Error)]
pub enum DescribeError {
    /// It is not a static x86-64 Linux executable.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Its layout section contradicts its segments.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its record of addresses contradicts its segments.
    #[error(
        "the .pool.slide section cannot be used: {0}; link again with `pool link`, and do not change the file afterwards"
    )]
    Slide(#[from] SlideError),
    /// Its first instruction cannot be executed.
    #[error("the entry point {0} lies in no executable segment: link it as an executable")]
    Entry(GuestAddress),
    /// The result breaks a rule of descriptions, such as the number of ranges.
    #[error("the executable's address map cannot be described: {0}")]
    Description(#[from] DescriptionError),
}

/// What an object is to its image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectRole {
    /// The shared pages of a library version.
    Library(LibraryRef),
    /// Read-only pages of the image's own.
    Code,
    /// First contents of writable pages.
    Data,
    /// What holds addresses ([`pool_core::slide`]).
    Record,
    /// The executable file.
    File,
}

/// An object that an image is made of.
#[derive(Clone, Debug)]
pub struct ImageObject<'a> {
    /// Digest of the content.
    pub id: ObjectId,
    /// What it is to the image.
    pub role: ObjectRole,
    /// Position in its 2 MiB window (0 to 511) at which its first page is mapped.
    pub phase: u64,
    /// Its bytes: whole pages, but for [`ObjectRole::File`] and [`ObjectRole::Record`].
    pub content: Content<'a>,
}

/// Pages of a library that an image has of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnPages {
    /// The library.
    pub library: LibraryRef,
    /// How many.
    pub pages: PageCount,
    /// What the program means otherwise there, as its linker has told.
    pub because: Vec<Reason>,
}

/// A library version that has what it has of an earlier one where that has it, so that most pages of the two are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptPlaces {
    /// The library.
    pub library: LibraryRef,
    /// The earlier version.
    pub of: LibraryRef,
}

/// Whole pages of the file that are pages of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSpan {
    pub(crate) file_offset: u64,
    pub(crate) length: u64,
    /// Index in the image's objects.
    pub(crate) object: usize,
    pub(crate) object_offset: u64,
}

/// A described executable.
#[derive(Clone, Debug)]
pub struct DescribedImage<'a> {
    /// What lies where. Always passes [`Description::validate`].
    pub description: Description,
    /// Objects that ranges refer to, then the file. Two may have the same content.
    pub objects: Vec<ImageObject<'a>>,
    /// How the file was linked.
    pub kind: ExecutableKind,
    /// How `pool link` laid it out, if it did.
    pub linked_as: Option<LayoutKind>,
    /// True without a symbol table.
    pub stripped: bool,
    /// Pages of libraries that the image has of its own.
    pub own: Vec<OwnPages>,
    /// Libraries that keep places of an earlier version, as their linker has told.
    pub keeping: Vec<KeptPlaces>,
    file: &'a [u8],
    spans: Vec<FileSpan>,
}

impl<'a> DescribedImage<'a> {
    /// The executable file described.
    pub fn file(&self) -> &'a [u8] {
        self.file
    }

    /// The object with this digest.
    pub fn object(&self, id: &ObjectId) -> Option<&ImageObject<'a>> {
        self.objects.iter().find(|object| object.id == *id)
    }

    /// Which pages of the file are pages of which object, sorted by file offset; a page of the
    /// file that is mapped twice is in two spans.
    pub(crate) fn spans(&self) -> &[FileSpan] {
        &self.spans
    }
}

/// Describes a static executable.
pub fn describe(file: &[u8]) -> Result<DescribedImage<'_>, DescribeError> {
    let executable = Executable::read(file)?;
    let Told {
        kind: linked_as,
        claims,
        keeping,
        fixed,
    } = match executable.layout_section {
        Some(section) => {
            libraries::read(section, executable.elsewhere_section.unwrap_or_default())?
        }
        None => Told::default(),
    };
    let runs = libraries::cut(load::load(&executable), &claims);
    libraries::check_shared(&claims, &runs)?;
    let own = claims.iter().filter(|claim| !claim.own.is_empty());
    let own = own.map(|claim| OwnPages {
        library: claim.library.clone(),
        pages: PageCount(claim.own.len() as u64),
        because: claim.because.clone(),
    });
    let own = own.collect();
    let mut gathered = objects::gather(runs, &claims);
    let image = FileIdentity {
        digest: ObjectId::of(file),
        length: file.len() as u64,
    };
    gathered
        .objects
        .push(objects::file_object(file, image.digest));
    let (slide, record) = slide::of(&executable, fixed);
    gathered.objects.extend(record);
    let description = Description {
        format: DESCRIPTION_FORMAT,
        image,
        abi: executable.abi,
        layout: match linked_as {
            Some(LayoutKind::Pool) => Layout::Registered,
            // Nothing of it is promised to be as in other images.
            Some(_) | None => Layout::Own,
        },
        load_bias: executable.load_bias,
        entry: executable.entry,
        program_headers: executable.program_headers,
        executable_stack: executable.executable_stack,
        slide,
        libraries: gathered.libraries,
        ranges: gathered.ranges,
    };
    description.validate().map_err(|error| match error {
        DescriptionError::Entry(entry) => DescribeError::Entry(entry),
        other => DescribeError::Description(other),
    })?;
    slide::check(&description, executable.slide_section)?;
    Ok(DescribedImage {
        description,
        objects: gathered.objects,
        kind: executable.kind,
        linked_as,
        stripped: executable.stripped,
        own,
        keeping,
        file,
        spans: gathered.spans,
    })
}
