//! Names of things, and the one way to write an address of a thing.
//!
//! Every verb and every route takes any of: `lib/NAME@VERSION`, `image/NAME:TAG`, a digest, or
//! a path under the mount point. A name is a path component of `/pool`, so what could climb out
//! of a directory, hide, or not be typed is refused here, once. All else is a name, also what is
//! a word elsewhere: `images`, `libs`, `map`, `latest`, `1.0`, the digits of a digest.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::digest::ObjectId;
use crate::extent::SegmentId;
use crate::text::serde_as_text;

/// Longest name, version or tag, in bytes.
pub const MAX_NAME: usize = 128;
/// What a name may have besides ASCII letters and digits, though not as its first character.
const PUNCTUATION: &[u8] = b"._+~-";
/// The rule of [`Name`] as a regular expression (ECMA-262), for those who describe it.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}$";

/// Why a string is not a name or not an address of a thing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Not a name.
    #[error(
        "{0:?} is not a name: use 1 to {MAX_NAME} letters (a to z, A to Z), digits, '.', '_', '+', \
         '~' or '-', the first a letter or digit"
    )]
    Name(String),
    /// Not an address of a thing.
    #[error(
        "{0:?} names nothing: write lib/NAME@VERSION, image/NAME:TAG, a 64-digit digest, or a \
         path under the pool's mount point"
    )]
    Referent(String),
}

/// A library's name, its version, an image's name or its tag: 1 to 128 of `A-Za-z0-9._+~-`,
/// beginning with a letter or digit. Capital and small letters are different letters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// What a library is called that nobody gave a name.
    pub fn library() -> Self {
        Self("library".to_owned())
    }

    /// Checks `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let starts_well = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        let all_allowed = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || PUNCTUATION.contains(&b));
        if starts_well && all_allowed && text.len() <= MAX_NAME {
            Ok(Self(text))
        } else {
            Err(NameError::Name(shorten(&text)))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// A library version: `NAME@VERSION`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LibraryRef {
    /// The library.
    pub name: Name,
    /// Its version.
    pub version: Name,
}

/// A tagged image: `NAME:TAG`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    /// The image.
    pub name: Name,
    /// Its tag.
    pub tag: Name,
}

fn parse_pair(text: &str, separator: char) -> Result<(Name, Name), NameError> {
    let (name, rest) = text
        .split_once(separator)
        .ok_or_else(|| NameError::Referent(shorten(text)))?;
    Ok((Name::new(name)?, Name::new(rest)?))
}

impl FromStr for LibraryRef {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_pair(text, '@').map(|(name, version)| Self { name, version })
    }
}

impl FromStr for ImageRef {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_pair(text, ':').map(|(name, tag)| Self { name, tag })
    }
}

impl fmt::Display for LibraryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

serde_as_text!(Name, LibraryRef, ImageRef);

/// What has a name of its own and can be pushed and removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Named {
    /// A library version.
    Library(LibraryRef),
    /// A tagged image.
    Image(ImageRef),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(library) => write!(f, "lib/{library}"),
            Self::Image(image) => write!(f, "image/{image}"),
        }
    }
}

/// Anything that a person can point at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Referent {
    /// `lib/NAME@VERSION`.
    Library(LibraryRef),
    /// `image/NAME:TAG`.
    Image(ImageRef),
    /// A digest: of an object or of a page.
    Digest(ObjectId),
    /// `segments/ID` under the mount point.
    Segment(SegmentId),
}

impl fmt::Display for Referent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(library) => write!(f, "lib/{library}"),
            Self::Image(image) => write!(f, "image/{image}"),
            Self::Digest(digest) => write!(f, "{digest}"),
            Self::Segment(segment) => write!(f, "segments/{segment}"),
        }
    }
}

impl FromStr for Referent {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("lib/") {
            return rest.parse().map(Self::Library);
        }
        if let Some(rest) = text.strip_prefix("image/") {
            return rest.parse().map(Self::Image);
        }
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        parse_path(text).ok_or_else(|| NameError::Referent(shorten(text)))
    }
}

impl Referent {
    /// What a path stands for that is relative to the mount point, as in `libs/zlib/1.3` or
    /// `images/hello/v1/desc`: a file of a thing is the thing.
    pub fn below_mount(path: &str) -> Option<Self> {
        below_mount(&components(path), |_, _| true)
    }
}

fn components(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// A path under the mount point, wherever that is. Any component may be the folder where things
/// are, since images may be called `images`: it is the first after which the rest fits. Who can
/// look where the mount point is uses [`Referent::below_mount`].
fn parse_path(text: &str) -> Option<Referent> {
    if !text.starts_with('/') {
        return None;
    }
    let parts = components(text);
    (0..parts.len()).find_map(|at| below_mount(&parts[at..], is_file_of))
}

/// Whether a thing in `folder` is known to have a file `name`.
fn is_file_of(folder: &str, name: &str) -> bool {
    match folder {
        "libs" => matches!(name, "content" | "manifest.json"),
        "images" => matches!(
            name,
            "image.elf" | "desc" | "data" | "manifest.json" | "map"
        ),
        _ => false,
    }
}

fn below_mount(parts: &[&str], is_file_of: fn(&str, &str) -> bool) -> Option<Referent> {
    let (folder, names) = match parts {
        [folder, names @ .., file] if names.len() == 2 && is_file_of(folder, file) => {
            (*folder, names)
        }
        [folder, names @ ..] => (*folder, names),
        [] => return None,
    };
    match (folder, names) {
        ("libs", [name, version]) => Some(Referent::Library(LibraryRef {
            name: Name::new(*name).ok()?,
            version: Name::new(*version).ok()?,
        })),
        ("images", [name, tag]) => Some(Referent::Image(ImageRef {
            name: Name::new(*name).ok()?,
            tag: Name::new(*tag).ok()?,
        })),
        ("objects", [digest]) => digest.parse().ok().map(Referent::Digest),
        ("segments", [segment]) => segment.parse().ok().map(Referent::Segment),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_do_harm_are_refused() {
        let long = "a".repeat(300);
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "a\0b",
            ".hidden",
            "-flag",
            "a b",
            "é",
            "a@1",
            long.as_str(),
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        let digest = "ab".repeat(32);
        let longest = "x".repeat(MAX_NAME);
        for good in [
            "zlib",
            "1.3.1",
            "libstdc++-6",
            "g++",
            "1.2~rc1",
            "v1_2",
            "0",
            "images",
            "segments",
            "map",
            "a..b",
            "A",
            digest.as_str(),
            longest.as_str(),
        ] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["~home", "+x", "_x", "a%2Fb", "a:b", "a\n", "a\\b"] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn referents_round_trip() {
        let digest = "ab".repeat(32);
        for text in [
            "lib/zlib@1.3",
            "image/hello:v1",
            "segments/0000002a",
            digest.as_str(),
        ] {
            let path = if text.starts_with("segments") {
                format!("/pool/{text}")
            } else {
                text.into()
            };
            assert_eq!(path.parse::<Referent>().unwrap().to_string(), text);
        }
        for (path, text) in [
            ("/pool/libs/zlib/1.3/content", "lib/zlib@1.3"),
            ("/pool/libs/zlib/1.3", "lib/zlib@1.3"),
            ("/mnt/images/images/hello/v1/desc", "image/hello:v1"),
            ("/mnt/libs/pool/images/hello/v1", "image/hello:v1"),
            ("/pool//images/images/v1/", "image/images:v1"),
            ("/pool/images/images/v1/image.elf", "image/images:v1"),
            ("/pool/images/libs/1.0/map", "image/libs:1.0"),
            ("/pool/images/map/desc/desc", "image/map:desc"),
            ("/pool/libs/images/libs/content", "lib/images@libs"),
            ("/pool/libs/objects/content", "lib/objects@content"),
            (
                &format!("/pool/images/objects/{digest}"),
                &format!("image/objects:{digest}"),
            ),
            (&format!("/pool/objects/{digest}"), &digest),
        ] {
            assert_eq!(path.parse::<Referent>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "lib/zlib",
            "image/a",
            "image/../x:1",
            "/pool/libs/zlib",
            "/pool/x/y",
            "/pool/images/hello/v1/../v2",
            "/pool/images/hello/v1/no-such-file",
            "zlib",
        ] {
            assert!(bad.parse::<Referent>().is_err(), "{bad}");
        }
        for (path, text) in [
            ("images/images/v1/desc", "image/images:v1"),
            ("images/images/desc", "image/images:desc"),
            ("images/a/b/some-new-file", "image/a:b"),
            ("segments/0000002a", "segments/0000002a"),
        ] {
            assert_eq!(Referent::below_mount(path).unwrap().to_string(), text);
        }
        for bad in ["", "images", "images/a", ".pool/version", "x/images/a/b"] {
            assert_eq!(Referent::below_mount(bad), None, "{bad}");
        }
    }
}
