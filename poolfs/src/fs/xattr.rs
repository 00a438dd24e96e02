//! Extended attributes (xattr(7)): what an object's file says of itself.

use std::ffi::OsStr;

use fuser::{Errno, ReplyXattr};

use super::FsResult;
use crate::contents::{Content, Found, extents_json};

/// Extended attribute with the extents of an object's file, as JSON. A value that is too large for
/// an attribute is in `.pool/extents/DIGEST`, as all are.
pub const EXTENTS_ATTRIBUTE: &str = "user.pool.extents";
/// Extended attribute with the digest of an object's file.
pub const DIGEST_ATTRIBUTE: &str = "user.pool.digest";
/// Longest value that the kernel delivers (`XATTR_SIZE_MAX` in include/uapi/linux/limits.h).
const MOST_BYTES: usize = 65_536;

/// The names of a file's attributes, each with a NUL at its end. One whose value never fits is not listed: who copies a file asks for
/// all that are, and fails with one of them.
pub(super) fn names(found: &Found) -> Vec<u8> {
    let Content::Object(_, map) = &found.content else {
        return vec![];
    };
    let mut names = vec![DIGEST_ATTRIBUTE];
    if extents_json(map).len() <= MOST_BYTES {
        names.push(EXTENTS_ATTRIBUTE);
    }
    let with_end = |name: &str| [name.as_bytes(), b"\0"].concat();
    names.into_iter().flat_map(with_end).collect()
}

/// The value of a file's attribute.
pub(super) fn value(found: &Found, name: &OsStr) -> FsResult<Vec<u8>> {
    let name = name.to_str().unwrap_or_default();
    match (name, &found.content) {
        (DIGEST_ATTRIBUTE, Content::Object(id, _)) => Ok(id.to_string().into_bytes()),
        (EXTENTS_ATTRIBUTE, Content::Object(_, map)) => Ok(extents_json(map)),
        // Namespaces in which a file could have such an attribute. In others it can not.
        _ if ["user.", "trusted.", "security."]
            .iter()
            .any(|namespace| name.starts_with(namespace)) =>
        {
            Err(Errno::NO_XATTR)
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Answers an attribute call: with the length when that is asked for, with the value if it fits.
/// What never fits is `E2BIG` whatever the size of the buffer, so that nobody asks again with a
/// larger one (getxattr(2)).
pub(super) fn answer(value: FsResult<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value.and_then(|value| fit(value, size)) {
        Err(errno) => reply.error(errno),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) => reply.data(&value),
    }
}

fn fit(value: Vec<u8>, size: u32) -> FsResult<Vec<u8>> {
    match value.len() {
        length if length > MOST_BYTES => Err(Errno::E2BIG),
        length if size != 0 && length > size as usize => Err(Errno::ERANGE),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_delivered_up_to_what_the_kernel_takes() {
        let fits = |length, size| {
            fit(vec![0; length], size)
                .map(|value| value.len())
                .map_err(Errno::code)
        };
        assert_eq!(fits(64, 0), Ok(64));
        assert_eq!(fits(64, 64), Ok(64));
        assert_eq!(fits(64, 63), Err(libc::ERANGE));
        assert_eq!(fits(0, 1), Ok(0));
        assert_eq!(fits(65_536, 0), Ok(65_536));
        assert_eq!(fits(65_536, 65_536), Ok(65_536));
        for size in [0, 1, 65_536, u32::MAX] {
            assert_eq!(fits(65_537, size), Err(libc::E2BIG), "{size}");
        }
    }
}
