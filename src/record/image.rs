//! An image: the bytes to distribute, immutable and named by their SHA-256.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::TenantId;
use crate::firmware::ImageVersion;
use crate::lorawan::identifiers::DevEui;
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

/// An image and its bytes.
pub type StoredImage = (Image, Arc<[u8]>);

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
    /// What was read from the bytes, and what the uploader says of them.
    #[serde(default)]
    pub facts: ImageFacts,
    /// To whom it may go; the one part that changes.
    #[serde(default)]
    pub release: Release,
}

/// What an image is, beyond what it is called. Fixed at upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Version the container states.
    pub version: Option<ImageVersion>,
    /// Who signed it; `None`: nobody whose key is known.
    pub signature: Option<ImageSignature>,
    /// MCUboot security counter: boot loaders refuse a lower one than they have seen.
    pub security_counter: Option<u32>,
    /// Versions a device must run for this image to be of use to it; empty = any.
    pub source_versions: BTreeSet<u32>,
    /// MD5 of the bytes, lower-case hex: for devices that report nothing better.
    pub md5: String,
    /// It is a patch, and to what.
    pub delta: Option<Delta>,
}

/// A signature that was checked at the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSignature {
    /// SHA-256 of the public key, as MCUboot names it.
    pub key: Sha256,
    /// It came beside the image, not within it.
    pub detached: bool,
}

/// What a delta image turns into what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The image a device must hold.
    pub base: Sha256,
    /// The version that image reports.
    pub base_version: u32,
    /// The image that comes out.
    pub target: Sha256,
    /// Its length, bytes.
    pub target_size_bytes: u32,
}

/// How far an image is let out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Where it is.
    pub state: ReleaseState,
    /// While it is a draft, the only devices it may go to; afterwards so if `restricted`.
    pub allowed_devices: BTreeSet<DevEui>,
    /// The list binds an active image, too.
    pub restricted: bool,
    /// What is new in it, for people.
    pub notes: String,
    /// When state or list changed last.
    pub changed_at: Timestamp,
}

impl Release {
    /// The image may go to this device.
    pub fn allows(&self, dev_eui: DevEui) -> bool {
        let listed = self.allowed_devices.contains(&dev_eui);
        match self.state {
            ReleaseState::Draft => listed,
            ReleaseState::Active => listed || !self.restricted,
            ReleaseState::Withdrawn => false,
        }
    }
}

/// Life cycle of an image: forward only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReleaseState {
    /// For the devices it is tried on.
    #[default]
    Draft,
    /// For all it fits.
    Active,
    /// For none.
    Withdrawn,
}

/// Container format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageContainer {
    /// No known container.
    Raw,
    /// MCUboot.
    Mcuboot,
    /// A patch in the container of `firmware::delta`.
    Delta,
}
