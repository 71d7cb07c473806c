//! Firmware images: which container they come in, which version they carry, whether they are whole and signed.
//!
//! Looks at bytes only; storing images and deciding whom to trust is done elsewhere.

mod builder;
pub mod delta;
mod error;
mod image;
mod inspect;
mod keys;
mod mcuboot;
mod padding;
mod pem;
mod private_key;
mod signature;
mod sniff;
mod tlv;
mod verify;

pub use builder::{BuildError, McubootBuilder, ed25519_public_key};
pub use error::ImageError;
pub use image::{Container, ImageVersion, ParseVersionError, sha256};
pub use inspect::{
    DependencyInspection, Inspection, McubootInspection, SignatureCheck, TlvInspection,
};
pub use keys::{KeyError, KeyKind, PublicKey};
pub use mcuboot::{Dependency, McubootImage, Tlv, image_flags};
pub use padding::Padding;
pub use private_key::{Entropy, PrivateKey, RsaPadding};
pub use signature::verify_detached;
pub use sniff::md5_hex;
pub use tlv::TlvKind;
