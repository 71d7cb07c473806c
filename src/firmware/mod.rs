//! Firmware images: which container they come in, which version they carry, whether they are whole and signed.
//!
//! Looks at bytes only; storing images and deciding whom to trust is done elsewhere.

mod builder;
pub mod delta;
mod image;
mod mcuboot;

pub use builder::{BuildError, McubootBuilder, ed25519_public_key};
pub use image::{Container, ImageVersion, ParseVersionError, sha256};
pub use mcuboot::{ImageError, McubootImage, Tlv, TlvKind, image_flags};
