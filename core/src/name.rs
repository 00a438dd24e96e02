//! Names of things, and the one way to write an address of a thing.
//!
//! Every verb and every route takes any of: `lib/NAME@VERSION`, `image/NAME:TAG`, a digest, or
//! a path under the mount point. A name is a path component of `/pool`, so what could climb out
//! of a directory, hide, or not be typed is refused here, once.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::digest::ObjectId;
use crate::extent::SegmentId;
use crate::text::serde_as_text;

/// Longest name, version or tag, in bytes.
pub const MAX_NAME: usize = 128;

/// Why a string is not a name or not an address of a thing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Not a name.
    #[error(
        "{0:?} is not a name: use 1 to {MAX_NAME} letters, digits, '.', '_', '+' or '-', the \
         first a letter or digit"
    )]
    Name(String),
    /// Not an address of a thing.
    #[error(
        "{0:?} names nothing: write lib/NAME@VERSION, image/NAME:TAG, a 64-digit digest, or a \
         path under the pool's mount point"
    )]
    Referent(String),
}

/// A library's name, its version, an image's name or its tag: 1 to 128 of `A-Za-z0-9._+-`,
/// beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let starts_well = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        let all_allowed = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b));
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

/// A path under the mount point, wherever that is: only the last components count, so
/// `/pool/libs/zlib/1.3/content` and `/mnt/p/libs/zlib/1.3` are the same library.
fn parse_path(text: &str) -> Option<Referent> {
    if !text.starts_with('/') {
        return None;
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    let root = parts
        .iter()
        .rposition(|part| matches!(*part, "libs" | "images" | "objects" | "segments"))?;
    let rest = &parts[root + 1..];
    let pair = || {
        Some((
            Name::new(*rest.first()?).ok()?,
            Name::new(*rest.get(1)?).ok()?,
        ))
    };
    match (parts[root], rest.len()) {
        ("libs", 2 | 3) => {
            pair().map(|(name, version)| Referent::Library(LibraryRef { name, version }))
        }
        ("images", 2 | 3) => pair().map(|(name, tag)| Referent::Image(ImageRef { name, tag })),
        ("objects", 1) => rest[0].parse().ok().map(Referent::Digest),
        ("segments", 1) => rest[0].parse().ok().map(Referent::Segment),
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
        for good in ["zlib", "1.3.1", "libstdc++-6", "v1_2", "0"] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
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
            "zlib",
        ] {
            assert!(bad.parse::<Referent>().is_err(), "{bad}");
        }
    }
}
