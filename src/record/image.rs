//! An image: the bytes to distribute, immutable and named by their SHA-256.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::TenantId;
use crate::time::Timestamp;

/// SHA-256 of an image's bytes; its identity. Printed as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Sha256 {
    type Err = InvalidSha256;

    fn from_str(text: &str) -> Result<Self, InvalidSha256> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(InvalidSha256);
        }
        let mut out = [0u8; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| InvalidSha256)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidSha256)?;
        }
        Ok(Self(out))
    }
}

/// The text is not 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 64 hex digits")]
pub struct InvalidSha256;

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Metadata of an image; its bytes are read apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Owner.
    pub tenant: TenantId,
    /// Identity.
    pub sha256: Sha256,
    /// Length, 1..=4194304 bytes.
    pub size_bytes: u32,
    /// Recognised by content.
    pub container: ImageContainer,
    /// Name of the uploaded file, for people.
    pub file_name: String,
    /// Hardware model the image is for; empty = any.
    pub model: String,
    /// Component it updates, `main` unless said.
    pub component: String,
    /// Version a device reports once it runs the image, as TS006 `FWversion`.
    pub target_version: u32,
    /// The version as people write it.
    pub version_text: String,
    /// Free key-value pairs.
    pub annotations: BTreeMap<String, String>,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

/// Container format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageContainer {
    /// No known container.
    Raw,
    /// MCUboot.
    Mcuboot,
}
