//! Where things are below a service's address, for the client and for `Location`.

use std::fmt::Write as _;

use pool_core::name::{ImageRef, LibraryRef, Named};

pub(crate) fn library(library: &LibraryRef) -> String {
    let (name, version) = (library.name.as_str(), library.version.as_str());
    format!("/v1/libs/{}/{}", encode(name), encode(version))
}

pub(crate) fn image(image: &ImageRef) -> String {
    let (name, tag) = (image.name.as_str(), image.tag.as_str());
    format!("/v1/images/{}/{}", encode(name), encode(tag))
}

pub(crate) fn named(name: &Named) -> String {
    match name {
        Named::Library(name) => library(name),
        Named::Image(name) => image(name),
    }
}

pub(crate) fn reservation(library: &LibraryRef) -> String {
    let (name, version) = (library.name.as_str(), library.version.as_str());
    format!("/v1/registry/{}/{}", encode(name), encode(version))
}

pub(crate) fn token(name: &str) -> String {
    format!("/v1/tokens/{}", encode(name))
}

pub(crate) fn upload(id: &str) -> String {
    format!("/v1/uploads/{}", encode(id))
}

/// Percent-encodes all but unreserved characters (RFC 3986, 2.3).
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_may_hold_survives_a_path() {
        assert_eq!(encode("libstdc++-6_1.0"), "libstdc%2B%2B-6_1.0");
        assert_eq!(encode("a/b?c&d é"), "a%2Fb%3Fc%26d%20%C3%A9");
    }
}
