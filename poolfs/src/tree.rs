//! The tree's shape: which names can be where. Pure; whether something is there the store says.

use std::borrow::Cow;

use pool_core::digest::ObjectId;
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef, Name};

/// A place in the tree, whether or not something is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The mount point.
    Root,
    /// `libs`.
    Libraries,
    /// `libs/NAME`.
    LibraryName(Name),
    /// `libs/NAME/VERSION`.
    Library(LibraryRef),
    /// A file of a library version.
    LibraryFile(LibraryRef, LibraryFile),
    /// `images`.
    Images,
    /// `images/NAME`.
    ImageName(Name),
    /// `images/NAME/TAG`.
    Image(ImageRef),
    /// A file of an image.
    ImageFile(ImageRef, ImageFile),
    /// `objects`.
    Objects,
    /// `objects/DIGEST`.
    Object(ObjectId),
    /// `segments`.
    Segments,
    /// `segments/ID`.
    Segment(SegmentId),
    /// `.pool`.
    Service,
    /// A file of `.pool`.
    ServiceFile(ServiceFile),
    /// `.pool/extents`.
    AllExtents,
    /// `.pool/extents/DIGEST`: where an object's pages are, as JSON.
    Extents(ObjectId),
}

/// Files of a library version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LibraryFile {
    /// Its text and read-only data.
    Content,
    /// Its record, as JSON.
    Manifest,
}

/// Files of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageFile {
    /// The file as uploaded.
    Elf,
    /// The canonical description.
    Description,
    /// Initial contents of the writable ranges; absent when there are none.
    Data,
    /// Its record, as JSON.
    Manifest,
    /// Description and extents: what a VMM maps from.
    Map,
}

/// Files of `.pool`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceFile {
    /// The store in numbers.
    Stats,
    /// Which store, which program, which way of serving segments.
    Version,
}

impl LibraryFile {
    /// All files, in the order they are listed.
    pub const ALL: [Self; 2] = [Self::Content, Self::Manifest];

    fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Manifest => "manifest.json",
        }
    }
}

impl ImageFile {
    /// All files, in the order they are listed.
    pub const ALL: [Self; 5] = [
        Self::Elf,
        Self::Description,
        Self::Data,
        Self::Manifest,
        Self::Map,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Elf => "image.elf",
            Self::Description => "desc",
            Self::Data => "data",
            Self::Manifest => "manifest.json",
            Self::Map => "map",
        }
    }
}

impl ServiceFile {
    /// All files, in the order they are listed.
    pub const ALL: [Self; 2] = [Self::Stats, Self::Version];

    fn name(self) -> &'static str {
        match self {
            Self::Stats => "stats.json",
            Self::Version => "version",
        }
    }
}

/// The root's directories, in the order they are listed.
pub const ROOT_DIRECTORIES: [Place; 5] = [
    Place::Libraries,
    Place::Images,
    Place::Objects,
    Place::Segments,
    Place::Service,
];

impl Place {
    /// What `name` means in this directory; `None` when nothing can have that name here.
    pub fn child(&self, name: &str) -> Option<Self> {
        let as_name = || Name::new(name).ok();
        match self {
            Self::Root => ROOT_DIRECTORIES
                .into_iter()
                .find(|place| place.name() == name),
            Self::Libraries => as_name().map(Self::LibraryName),
            Self::LibraryName(library) => as_name().map(|version| {
                let name = library.clone();
                Self::Library(LibraryRef { name, version })
            }),
            Self::Library(library) => LibraryFile::ALL
                .into_iter()
                .find(|file| file.name() == name)
                .map(|file| Self::LibraryFile(library.clone(), file)),
            Self::Images => as_name().map(Self::ImageName),
            Self::ImageName(image) => as_name().map(|tag| {
                let name = image.clone();
                Self::Image(ImageRef { name, tag })
            }),
            Self::Image(image) => ImageFile::ALL
                .into_iter()
                .find(|file| file.name() == name)
                .map(|file| Self::ImageFile(image.clone(), file)),
            Self::Objects => name.parse().ok().map(Self::Object),
            Self::Segments => name.parse().ok().map(Self::Segment),
            Self::Service if name == Self::AllExtents.name() => Some(Self::AllExtents),
            Self::Service => ServiceFile::ALL
                .into_iter()
                .find(|file| file.name() == name)
                .map(Self::ServiceFile),
            Self::AllExtents => name.parse().ok().map(Self::Extents),
            Self::LibraryFile(..)
            | Self::ImageFile(..)
            | Self::Object(_)
            | Self::Segment(_)
            | Self::ServiceFile(_)
            | Self::Extents(_) => None,
        }
    }

    /// The place's name in its parent; empty for the root.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Root => "".into(),
            Self::Libraries => "libs".into(),
            Self::Images => "images".into(),
            Self::Objects => "objects".into(),
            Self::Segments => "segments".into(),
            Self::Service => ".pool".into(),
            Self::LibraryName(name) | Self::ImageName(name) => name.as_str().into(),
            Self::Library(library) => library.version.as_str().into(),
            Self::Image(image) => image.tag.as_str().into(),
            Self::LibraryFile(_, file) => file.name().into(),
            Self::ImageFile(_, file) => file.name().into(),
            Self::ServiceFile(file) => file.name().into(),
            Self::AllExtents => "extents".into(),
            Self::Object(id) | Self::Extents(id) => id.to_string().into(),
            Self::Segment(id) => id.to_string().into(),
        }
    }

    /// The directory that the place is in; the root's is the root.
    #[must_use]
    pub fn parent(&self) -> Self {
        match self {
            Self::Root
            | Self::Libraries
            | Self::Images
            | Self::Objects
            | Self::Segments
            | Self::Service => Self::Root,
            Self::LibraryName(_) => Self::Libraries,
            Self::Library(library) => Self::LibraryName(library.name.clone()),
            Self::LibraryFile(library, _) => Self::Library(library.clone()),
            Self::ImageName(_) => Self::Images,
            Self::Image(image) => Self::ImageName(image.name.clone()),
            Self::ImageFile(image, _) => Self::Image(image.clone()),
            Self::Object(_) => Self::Objects,
            Self::Segment(_) => Self::Segments,
            Self::ServiceFile(_) | Self::AllExtents => Self::Service,
            Self::Extents(_) => Self::AllExtents,
        }
    }

    /// True for `directory` itself and for all below it.
    pub fn is_in(&self, directory: &Self) -> bool {
        self == directory || (*self != Self::Root && self.parent().is_in(directory))
    }

    /// True for directories.
    pub fn is_directory(&self) -> bool {
        match self {
            Self::Root
            | Self::Libraries
            | Self::LibraryName(_)
            | Self::Library(_)
            | Self::Images
            | Self::ImageName(_)
            | Self::Image(_)
            | Self::Objects
            | Self::Segments
            | Self::Service
            | Self::AllExtents => true,
            Self::LibraryFile(..)
            | Self::ImageFile(..)
            | Self::Object(_)
            | Self::Segment(_)
            | Self::ServiceFile(_)
            | Self::Extents(_) => false,
        }
    }

    /// The path below the mount point, without a leading slash; empty for the root.
    pub fn path(&self) -> String {
        match self {
            Self::Root => String::new(),
            other => match other.parent() {
                Self::Root => other.name().into_owned(),
                parent => format!("{}/{}", parent.path(), other.name()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(path: &str) -> Option<Place> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(Place::Root, |place, name| place.child(name))
    }

    #[test]
    fn every_place_is_found_by_its_path() {
        let digest = "ab".repeat(32);
        let object = format!("objects/{digest}");
        let extents = format!(".pool/extents/{digest}");
        let paths = [
            "",
            "libs",
            "libs/zlib",
            "libs/zlib/1.3",
            "libs/zlib/1.3/content",
            "libs/zlib/1.3/manifest.json",
            "images",
            "images/hello",
            "images/hello/v1",
            "images/hello/v1/image.elf",
            "images/hello/v1/desc",
            "images/hello/v1/data",
            "images/hello/v1/manifest.json",
            "images/hello/v1/map",
            "objects",
            &object,
            "segments",
            "segments/0000002a",
            ".pool",
            ".pool/stats.json",
            ".pool/version",
            ".pool/extents",
            &extents,
        ];
        for path in paths {
            let place = resolve(path).unwrap();
            assert_eq!(place.path(), path);
            let leaf = path.rsplit('/').next().unwrap();
            assert_eq!(place.name(), leaf);
            if place != Place::Root {
                assert_eq!(place.parent().child(leaf), Some(place.clone()));
                assert!(!place.parent().is_in(&place));
            }
            for other in paths {
                let is_in =
                    path == other || other.is_empty() || path.starts_with(&format!("{other}/"));
                assert_eq!(
                    place.is_in(&resolve(other).unwrap()),
                    is_in,
                    "{path} {other}"
                );
            }
        }
    }

    #[test]
    fn other_names_mean_nothing() {
        let upper = format!("objects/{}", "AB".repeat(32));
        for path in [
            "lost+found",
            ".hidden",
            "libs/.git",
            "libs/-x",
            "libs/a b",
            "libs/zlib/1.3/other",
            "libs/zlib/1.3/content/x",
            "images/hello/v1/map.json",
            "objects/abcd",
            &upper,
            "segments/2a",
            "segments/0000002A",
            ".pool/x",
            ".pool/extents/abcd",
        ] {
            assert_eq!(resolve(path), None, "{path}");
        }
    }

    #[test]
    fn only_directories_have_children() {
        for (path, directory) in [
            ("libs/zlib/1.3", true),
            ("libs/zlib/1.3/content", false),
            (".pool", true),
            (".pool/version", false),
            (".pool/extents", true),
        ] {
            assert_eq!(resolve(path).unwrap().is_directory(), directory);
        }
    }
}
