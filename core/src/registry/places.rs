//! What a linker has on record of a library version: where in it everything is. What the bytes say is the linker's own matter.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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
