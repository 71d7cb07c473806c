//! An image of any container: recognition, version, digest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::mcuboot::McubootImage;

/// How the bytes of an image are wrapped, told from the bytes themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    /// No container this crate knows: the bytes mean what the end-device takes them for.
    Raw,
    /// An image for the MCUboot boot loader.
    Mcuboot(McubootImage),
}

impl Container {
    /// Recognises the container of `bytes`. Bytes that open like a container but break its rules are an error, not
    /// [`Container::Raw`]: sending them would only find out on the devices.
    pub fn recognise(bytes: &[u8]) -> Result<Self, ImageError> {
        match McubootImage::parse(bytes) {
            Ok(image) => Ok(Self::Mcuboot(image)),
            Err(ImageError::Magic) => Ok(Self::Raw),
            Err(error) => Err(error),
        }
    }

    /// The version the container states, if it does.
    pub fn version(&self) -> Option<ImageVersion> {
        match self {
            Self::Raw => None,
            Self::Mcuboot(image) => Some(image.version),
        }
    }
}

/// Version of an image as MCUboot and semantic versioning write it: `major.minor.revision+build`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ImageVersion {
    /// 0..=255.
    pub major: u8,
    /// 0..=255.
    pub minor: u8,
    /// 0..=65535, the "patch" of semantic versioning.
    pub revision: u16,
    /// Build number.
    pub build: u32,
}

impl ImageVersion {
    /// The version as one number, the way it is expected in DevVersionAns (TS006-1.0.0, FWversion, 4 bytes).
    ///
    /// TS006 leaves the meaning of the number to the vendor. The rule here: major in bits 31..24, minor in 23..16,
    /// revision in 15..0; the build number is left out, so builds of one revision are not told apart. It orders
    /// like the version, and MCUboot's own tool derives its security counter the same way.
    pub fn to_ts006(self) -> u32 {
        (u32::from(self.major) << 24) | (u32::from(self.minor) << 16) | u32::from(self.revision)
    }

    /// The inverse of [`ImageVersion::to_ts006`], with build 0.
    pub fn from_ts006(number: u32) -> Self {
        let [major, minor, revision @ ..] = number.to_be_bytes();
        Self {
            major,
            minor,
            revision: u16::from_be_bytes(revision),
            build: 0,
        }
    }
}

impl fmt::Display for ImageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.revision)?;
        if self.build != 0 {
            write!(f, "+{}", self.build)?;
        }
        Ok(())
    }
}

/// Text that is not a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("version is not of the form major.minor.revision+build")]
pub struct ParseVersionError;

impl FromStr for ImageVersion {
    type Err = ParseVersionError;

    /// Reads `major[.minor[.revision]][+build]`; parts left out are 0.
    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let (numbers, build) = text.split_once('+').unwrap_or((text, "0"));
        let mut numbers = numbers.split('.');
        let version = Self {
            major: number(numbers.next().unwrap_or_default())?,
            minor: number(numbers.next().unwrap_or("0"))?,
            revision: number(numbers.next().unwrap_or("0"))?,
            build: number(build)?,
        };
        if numbers.next().is_some() {
            Err(ParseVersionError)
        } else {
            Ok(version)
        }
    }
}

/// SHA-256 of `bytes`: the name of an image.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Digits only: the standard parser would take a sign, too.
fn number<T: FromStr>(text: &str) -> Result<T, ParseVersionError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseVersionError);
    }
    text.parse().map_err(|_| ParseVersionError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_they_are_written() {
        for (text, major, minor, revision, build) in [
            ("1.2.3+4", 1, 2, 3, 4),
            ("255.255.65535+4294967295", 255, 255, 65_535, u32::MAX),
            ("0.0.0", 0, 0, 0, 0),
        ] {
            let version = ImageVersion {
                major,
                minor,
                revision,
                build,
            };
            assert_eq!(text.parse(), Ok(version));
            assert_eq!(version.to_string(), text);
        }
        assert_eq!("7".parse::<ImageVersion>().unwrap().to_string(), "7.0.0");
        assert_eq!(
            "7.1+9".parse::<ImageVersion>().unwrap().to_string(),
            "7.1.0+9"
        );
        for text in [
            "",
            ".",
            "1.",
            "1.2.3.4",
            "256",
            "1.256",
            "1.2.65536",
            "+1",
            "1+",
            "-1",
            "+1.0",
            "1.+2",
            "1.2 ",
            "v1",
        ] {
            assert_eq!(
                text.parse::<ImageVersion>(),
                Err(ParseVersionError),
                "{text:?}"
            );
        }
    }

    #[test]
    fn ts006_number_keeps_order_and_drops_the_build() {
        let version = ImageVersion {
            major: 1,
            minor: 2,
            revision: 0x0304,
            build: 5,
        };
        assert_eq!(version.to_ts006(), 0x0102_0304);
        assert_eq!(
            ImageVersion::from_ts006(0x0102_0304),
            ImageVersion {
                build: 0,
                ..version
            }
        );
        let later = ImageVersion {
            major: 1,
            minor: 3,
            revision: 0,
            build: 0,
        };
        assert!(version < later && version.to_ts006() < later.to_ts006());
    }

    #[test]
    fn unknown_bytes_are_raw() {
        assert_eq!(Container::recognise(&[]), Ok(Container::Raw));
        assert_eq!(Container::recognise(b"firmware"), Ok(Container::Raw));
        assert_eq!(Container::Raw.version(), None);
    }

    #[test]
    fn damaged_mcuboot_image_is_not_raw() {
        assert_eq!(
            Container::recognise(&[0x3d, 0xb8, 0xf3, 0x96, 0, 0]),
            Err(ImageError::Truncated)
        );
    }

    #[test]
    fn sha256_of_abc() {
        assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
