//! What a linker has on record of a library version: where in it everything is. What the bytes say is the linker's own matter.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::name::LibraryRef;

/// Most bytes of a record: a library of a hundred thousand functions has no more.
pub const MAX_PLACES: usize = 4 << 20;

/// A linker's record of where in a library version everything is; base64 in text.
#[derive(Clone, PartialEq, Eq)]
pub struct Places(Vec<u8>);

impl Places {
    /// None for more than [`MAX_PLACES`] bytes.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() <= MAX_PLACES).then_some(Self(bytes))
    }

    /// The record.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Places({} bytes)", self.0.len())
    }
}

impl Serialize for Places {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
        let most = || de::Error::custom(format!("a record has at most {MAX_PLACES} bytes"));
        Self::new(bytes).ok_or_else(most)
    }
}

/// What is on record that decides where in a library version everything is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Known {
    /// The version is registered, and keeps nobody's places.
    Alone,
    /// The version is registered; it keeps an earlier one's places, and its own are these.
    Keeping {
        /// The earlier one.
        version: LibraryRef,
        /// Where things are in the version itself.
        places: Places,
    },
    /// The version is new, and this is the latest one of its name.
    Earlier {
        /// The earlier one.
        version: LibraryRef,
        /// Where things are in that one.
        places: Places,
    },
    /// There is nothing that it could keep.
    Nothing,
}

impl Known {
    /// Bytes of the record that comes with it.
    pub fn record_length(&self) -> usize {
        match self {
            Self::Keeping { places, .. } | Self::Earlier { places, .. } => places.bytes().len(),
            Self::Alone | Self::Nothing => 0,
        }
    }
}
