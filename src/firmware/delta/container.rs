//! What a delta is wrapped in for the air: which image it is for and which it makes.
//!
//! A fixed header of 88 bytes, all numbers little-endian, then the patch:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, the letters `FDLT` |
//! | 4 | 1 | version of this format: 1 |
//! | 5 | 1 | kind of patch: 1 = detools, sequential |
//! | 6 | 2 | bytes of this header: 88 |
//! | 8 | 4 | bytes of the base |
//! | 12 | 4 | bytes of the target |
//! | 16 | 4 | version of the target as TS006 reports it |
//! | 20 | 4 | bytes of the patch |
//! | 24 | 32 | SHA-256 of the base |
//! | 56 | 32 | SHA-256 of the target |
//!
//! Nothing here is signed: the digests guard against the wrong base and a bad transfer. Whom to trust is decided by the
//! boot loader, which checks the signature of the image that comes out.

use super::DeltaError;
use crate::firmware::image::sha256;

/// The first bytes of every delta.
pub const MAGIC: [u8; 4] = *b"FDLT";
/// The version of the format.
pub const FORMAT: u8 = 1;
/// The kind of patch: detools, sequential.
pub const KIND_SEQUENTIAL: u8 = 1;
/// Bytes before the patch.
pub const HEADER_LEN: usize = 88;

/// Bytes an image may have at most, base or target: what a decoder of ours takes.
pub const IMAGE_LEN_MAX: u32 = 4 * 1024 * 1024;

/// What stands before the patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHeader {
    /// Bytes of the base, at most [`IMAGE_LEN_MAX`].
    pub base_len: u32,
    /// Bytes of the target, at most [`IMAGE_LEN_MAX`].
    pub target_len: u32,
    /// The version of the target as TS006 reports it; said, not proven.
    pub target_version: u32,
    /// Bytes of the patch.
    pub patch_len: u32,
    /// SHA-256 of the base.
    pub base_sha256: [u8; 32],
    /// SHA-256 of the target.
    pub target_sha256: [u8; 32],
}

impl DeltaHeader {
    /// Reads the header of `delta` and checks that the patch is there, whole and with nothing after it.
    pub fn parse(delta: &[u8]) -> Result<Self, DeltaError> {
        let magic = delta.first_chunk::<4>().ok_or(DeltaError::Truncated)?;
        if *magic != MAGIC {
            return Err(DeltaError::Magic);
        }
        let header = delta
            .first_chunk::<HEADER_LEN>()
            .ok_or(DeltaError::Truncated)?;
        if header[4] != FORMAT {
            return Err(DeltaError::Format(header[4]));
        }
        if header[5] != KIND_SEQUENTIAL {
            return Err(DeltaError::Kind(header[5]));
        }
        if usize::from(u16::from_le_bytes(array(header, 6))) != HEADER_LEN {
            return Err(DeltaError::HeaderLength);
        }
        let word = |offset| u32::from_le_bytes(array(header, offset));
        let parsed = Self {
            base_len: word(8),
            target_len: word(12),
            target_version: word(16),
            patch_len: word(20),
            base_sha256: array(header, 24),
            target_sha256: array(header, 56),
        };
        if parsed.base_len > IMAGE_LEN_MAX || parsed.target_len > IMAGE_LEN_MAX {
            return Err(DeltaError::TooLong);
        }
        if parsed.target_len == 0 {
            return Err(DeltaError::Empty);
        }
        let patch_len = u64::try_from(delta.len() - HEADER_LEN).unwrap_or(u64::MAX);
        match patch_len.cmp(&parsed.patch_len.into()) {
            std::cmp::Ordering::Less => Err(DeltaError::Truncated),
            std::cmp::Ordering::Equal => Ok(parsed),
            std::cmp::Ordering::Greater => Err(DeltaError::Trailing),
        }
    }

    /// The header of a delta with a patch of so many bytes.
    pub(super) fn of(
        base: &[u8],
        target: &[u8],
        target_version: u32,
        patch: &[u8],
    ) -> Result<Self, DeltaError> {
        let target_len = image_len(target)?;
        if target_len == 0 {
            return Err(DeltaError::Empty);
        }
        Ok(Self {
            base_len: image_len(base)?,
            target_len,
            target_version,
            patch_len: u32::try_from(patch.len()).map_err(|_| DeltaError::TooLong)?,
            base_sha256: sha256(base),
            target_sha256: sha256(target),
        })
    }

    /// Checks that `base` is the image the patch is for.
    pub fn check_base(&self, base: &[u8]) -> Result<(), DeltaError> {
        if u32::try_from(base.len()) != Ok(self.base_len) || sha256(base) != self.base_sha256 {
            return Err(DeltaError::OtherBase);
        }
        Ok(())
    }

    /// The header as bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = &mut bytes[..];
        let fields: [&[u8]; 9] = [
            &MAGIC,
            &[FORMAT, KIND_SEQUENTIAL],
            &[88, 0],
            &self.base_len.to_le_bytes(),
            &self.target_len.to_le_bytes(),
            &self.target_version.to_le_bytes(),
            &self.patch_len.to_le_bytes(),
            &self.base_sha256,
            &self.target_sha256,
        ];
        for field in fields {
            let (place, behind) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = behind;
        }
        bytes
    }
}

/// Bytes of an image, if a delta can be about it.
pub(super) fn image_len(image: &[u8]) -> Result<u32, DeltaError> {
    let len = u32::try_from(image.len())
        .ok()
        .filter(|&len| len <= IMAGE_LEN_MAX);
    len.ok_or(DeltaError::TooLong)
}

fn array<const N: usize>(header: &[u8; HEADER_LEN], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[offset..offset + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_is_written() {
        let header = DeltaHeader::of(b"base", b"target", 0x0102_0003, &[9; 5]).unwrap();
        let bytes = header.to_bytes();
        assert_eq!(
            bytes[..24],
            *b"FDLT\x01\x01\x58\0\x04\0\0\0\x06\0\0\0\x03\0\x02\x01\x05\0\0\0"
        );
        assert_eq!(bytes[24..56], sha256(b"base"));
        assert_eq!(bytes[56..], sha256(b"target"));
        let delta = [&bytes[..], &[9; 5]].concat();
        assert_eq!(DeltaHeader::parse(&delta), Ok(header));
        assert_eq!(DeltaHeader::parse(&delta[..92]), Err(DeltaError::Truncated));
        assert_eq!(
            DeltaHeader::parse(&[&delta[..], b"x"].concat()),
            Err(DeltaError::Trailing)
        );
    }

    #[test]
    fn each_wrong_field_has_its_error() {
        let delta = DeltaHeader::of(b"base", b"target", 1, b"")
            .unwrap()
            .to_bytes();
        for (offset, byte, error) in [
            (0, b'f', DeltaError::Magic),
            (4, 2, DeltaError::Format(2)),
            (5, 0, DeltaError::Kind(0)),
            (6, 87, DeltaError::HeaderLength),
            (10, 0x41, DeltaError::TooLong),
            (15, 1, DeltaError::TooLong),
            (12, 0, DeltaError::Empty),
            (20, 1, DeltaError::Truncated),
        ] {
            let mut wrong = delta;
            wrong[offset] = byte;
            assert_eq!(DeltaHeader::parse(&wrong), Err(error));
        }
        for len in [0, 3, 4, 87] {
            assert_eq!(
                DeltaHeader::parse(&delta[..len]),
                Err(DeltaError::Truncated)
            );
        }
    }
}
