//! Images of the MCUboot boot loader: header, trailing TLV areas, and what may follow them.
//!
//! All numbers are little-endian. Layout: header (`hdr_size` bytes, 32 of them defined), body (`img_size`), protected
//! TLVs if the header announces any, TLVs, padding of the slot. Digest and signature, which `verify` checks, cover
//! everything before the unprotected TLVs. Does not decrypt or decompress. Source: MCUboot design document, "Image
//! format"; the numbers are those that its tool, imgtool 2.5.0, writes.

use std::ops::Range;

use super::error::ImageError;
use super::image::ImageVersion;
use super::padding::Padding;
use super::tlv::TlvKind;

pub(super) const IMAGE_MAGIC: u32 = 0x96f3_b83d;
pub(super) const TLV_MAGIC: u16 = 0x6907;
pub(super) const PROTECTED_TLV_MAGIC: u16 = 0x6908;

/// Bytes of the header that carry fields; `hdr_size` may be larger.
pub(super) const HEADER_FIELDS: usize = 32;

/// Bits of [`McubootImage::flags`] with a meaning here.
pub mod image_flags {
    /// Runs at any address.
    pub const PIC: u32 = 0x01;
    /// Body encrypted with AES-128.
    pub const ENCRYPTED_AES128: u32 = 0x04;
    /// Body encrypted with AES-256.
    pub const ENCRYPTED_AES256: u32 = 0x08;
    /// Not to be booted by itself.
    pub const NON_BOOTABLE: u32 = 0x10;
    /// To be copied to `load_addr` and run from RAM.
    pub const RAM_LOAD: u32 = 0x20;
    /// Built for the flash address in `load_addr`.
    pub const ROM_FIXED: u32 = 0x100;
    /// Body compressed with LZMA1.
    pub const COMPRESSED_LZMA1: u32 = 0x200;
    /// Body compressed with LZMA2.
    pub const COMPRESSED_LZMA2: u32 = 0x400;
    /// Body filtered for Arm Thumb code before it was compressed.
    pub const COMPRESSED_ARM_THUMB: u32 = 0x800;

    /// Bits and their names.
    const NAMES: [(u32, &str); 9] = [
        (PIC, "PIC"),
        (ENCRYPTED_AES128, "ENCRYPTED_AES128"),
        (ENCRYPTED_AES256, "ENCRYPTED_AES256"),
        (NON_BOOTABLE, "NON_BOOTABLE"),
        (RAM_LOAD, "RAM_LOAD"),
        (ROM_FIXED, "ROM_FIXED"),
        (COMPRESSED_LZMA1, "COMPRESSED_LZMA1"),
        (COMPRESSED_LZMA2, "COMPRESSED_LZMA2"),
        (COMPRESSED_ARM_THUMB, "COMPRESSED_ARM_THUMB"),
    ];

    /// The names of the bits that are set, as MCUboot has them; a bit without a name as a number.
    pub fn names(flags: u32) -> Vec<String> {
        (0..u32::BITS)
            .map(|bit| 1_u32 << bit)
            .filter(|bit| flags & bit != 0)
            .map(|bit| match NAMES.iter().find(|(known, _)| *known == bit) {
                Some((_, name)) => (*name).to_owned(),
                None => format!("{bit:#x}"),
            })
            .collect()
    }
}

/// A checked description of an MCUboot image; the bytes stay with the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct McubootImage {
    /// Address to load the image to; 0 where it runs in place.
    pub load_addr: u32,
    /// Bytes before the body, 32..=65535.
    pub hdr_size: u16,
    /// Bytes of the body.
    pub img_size: u32,
    /// See [`image_flags`].
    pub flags: u32,
    /// Version in the header.
    pub version: ImageVersion,
    /// All TLVs in order, protected ones first.
    pub tlvs: Vec<Tlv>,
    /// Bytes of header, body and protected TLVs: what digest and signature cover.
    pub(super) signed_len: usize,
    len: usize,
    /// What follows the image.
    pub padding: Padding,
}

/// Another image that has to be there, at this version or later, for the image to be booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    /// Number of the image in the boot loader, from 0.
    pub image_id: u8,
    /// The oldest version that will do.
    pub min_version: ImageVersion,
}

/// One entry of a TLV area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tlv {
    /// What the value is.
    pub kind: TlvKind,
    /// Whether digest and signature cover it.
    pub protected: bool,
    /// Where the value lies in the image.
    pub range: Range<usize>,
}

impl McubootImage {
    /// Reads the structure of an image and checks that every size is kept. Checks neither digest nor signature.
    /// Padding after the image is allowed (see [`McubootImage::len`] and [`Padding`]), other bytes are not: they would
    /// be sent without anybody vouching for them.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        match u32_at(bytes, 0) {
            Ok(IMAGE_MAGIC) => {}
            Ok(magic) if magic == IMAGE_MAGIC.swap_bytes() => return Err(ImageError::BigEndian),
            _ => return Err(ImageError::Magic),
        }
        let header = bytes
            .first_chunk::<HEADER_FIELDS>()
            .ok_or(ImageError::Truncated)?;
        let (hdr_size, img_size) = (u16_at(header, 8)?, u32_at(header, 12)?);
        if usize::from(hdr_size) < HEADER_FIELDS {
            return Err(ImageError::HeaderSize(hdr_size));
        }
        let body_end = usize::try_from(img_size)
            .ok()
            .and_then(|size| size.checked_add(usize::from(hdr_size)))
            .filter(|&end| end <= bytes.len())
            .ok_or(ImageError::Truncated)?;
        let mut image = Self {
            load_addr: u32_at(header, 4)?,
            hdr_size,
            img_size,
            flags: u32_at(header, 16)?,
            version: version_at(header, 20)?,
            tlvs: Vec::new(),
            signed_len: body_end,
            len: body_end,
            padding: Padding::None,
        };
        let protected_size = u16_at(header, 10)?;
        if protected_size != 0 {
            image.signed_len = image.parse_area(bytes, body_end, PROTECTED_TLV_MAGIC)?;
            if image.signed_len - body_end != usize::from(protected_size) {
                return Err(ImageError::TlvSize);
            }
        }
        image.len = image.parse_area(bytes, image.signed_len, TLV_MAGIC)?;
        let rest = bytes.get(image.len..).unwrap_or_default();
        image.padding = Padding::recognise(rest).ok_or(ImageError::TrailingBytes(image.len))?;
        Ok(image)
    }

    /// Bytes of the image from header to last TLV.
    #[expect(clippy::len_without_is_empty, reason = "an image always has a header")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the body lies.
    pub fn body(&self) -> Range<usize> {
        let start = usize::from(self.hdr_size);
        start
            ..self
                .signed_len
                .min(start.saturating_add(usize::try_from(self.img_size).unwrap_or(usize::MAX)))
    }

    /// The value of the first TLV of `kind` in `bytes`, the image this was parsed from.
    pub fn value<'a>(&self, bytes: &'a [u8], kind: TlvKind) -> Option<&'a [u8]> {
        let tlv = self.tlvs.iter().find(|tlv| tlv.kind == kind)?;
        bytes.get(tlv.range.clone())
    }

    /// The images this one needs. `bytes` is the image this was parsed from.
    pub fn dependencies(&self, bytes: &[u8]) -> Result<Vec<Dependency>, ImageError> {
        let read = |value: &[u8]| {
            Ok(Dependency {
                image_id: *value.first().ok_or(ImageError::Truncated)?,
                min_version: version_at(value, 4)?,
            })
        };
        self.protected(TlvKind::Dependency)
            .map(|tlv| {
                sized(bytes, tlv, 12)
                    .and_then(read)
                    .map_err(|_| ImageError::TlvValue(tlv.kind))
            })
            .collect()
    }

    /// The security counter: the boot loader refuses images whose counter is below that of the one it runs.
    /// `bytes` is the image this was parsed from.
    pub fn security_counter(&self, bytes: &[u8]) -> Result<Option<u32>, ImageError> {
        let mut found = self.protected(TlvKind::SecurityCounter);
        let Some(tlv) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() {
            return Err(ImageError::Repeated(tlv.kind));
        }
        sized(bytes, tlv, 4)
            .and_then(|value| u32_at(value, 0))
            .map(Some)
            .map_err(|_| ImageError::TlvValue(tlv.kind))
    }

    /// Whether the body is encrypted: then neither digest nor signature can be checked here.
    pub fn is_encrypted(&self) -> bool {
        self.flags & (image_flags::ENCRYPTED_AES128 | image_flags::ENCRYPTED_AES256) != 0
    }

    fn protected(&self, kind: TlvKind) -> impl Iterator<Item = &Tlv> {
        self.tlvs
            .iter()
            .filter(move |tlv| tlv.protected && tlv.kind == kind)
    }

    /// Reads the TLV area at `start`; returns where it ends. Entries fill it exactly.
    fn parse_area(&mut self, bytes: &[u8], start: usize, magic: u16) -> Result<usize, ImageError> {
        let found = u16_at(bytes, start)?;
        if found != magic {
            return Err(ImageError::TlvMagic(found));
        }
        let size = usize::from(u16_at(bytes, start + 2)?);
        let end = start + size;
        let area = bytes.get(..end).ok_or(ImageError::Truncated)?;
        let mut at = start + 4;
        while at < end {
            let kind = u16_at(area, at).map_err(|_| ImageError::TlvSize)?;
            let len = u16_at(area, at + 2).map_err(|_| ImageError::TlvSize)?;
            let range = at + 4..at + 4 + usize::from(len);
            at = range.end;
            self.tlvs.push(Tlv {
                kind: TlvKind::from(kind),
                protected: magic == PROTECTED_TLV_MAGIC,
                range,
            });
        }
        if at == end {
            Ok(end)
        } else {
            Err(ImageError::TlvSize)
        }
    }
}

/// The value of a TLV that has to have so many bytes.
fn sized<'a>(bytes: &'a [u8], tlv: &Tlv, len: usize) -> Result<&'a [u8], ImageError> {
    let value = bytes.get(tlv.range.clone()).ok_or(ImageError::Truncated)?;
    if value.len() == len {
        Ok(value)
    } else {
        Err(ImageError::TlvValue(tlv.kind))
    }
}

/// The eight bytes of a version.
fn version_at(bytes: &[u8], at: usize) -> Result<ImageVersion, ImageError> {
    let byte = |at: usize| bytes.get(at).copied().ok_or(ImageError::Truncated);
    Ok(ImageVersion {
        major: byte(at)?,
        minor: byte(at + 1)?,
        revision: u16_at(bytes, at + 2)?,
        build: u32_at(bytes, at + 4)?,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ImageError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found
        .map(|&bytes| u16::from_le_bytes(bytes))
        .ok_or(ImageError::Truncated)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ImageError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found
        .map(|&bytes| u32::from_le_bytes(bytes))
        .ok_or(ImageError::Truncated)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    use super::super::builder::McubootBuilder;
    use super::*;

    const SEED: [u8; 32] = [7; 32];
    const VERSION: ImageVersion = ImageVersion {
        major: 1,
        minor: 2,
        revision: 3,
        build: 4,
    };

    fn public_key(seed: &[u8; 32]) -> [u8; 32] {
        SigningKey::from_bytes(seed).verifying_key().to_bytes()
    }

    fn check(bytes: &[u8]) -> Result<(), ImageError> {
        McubootImage::parse(bytes)?.verify_ed25519(bytes, &public_key(&SEED))
    }

    fn builder() -> McubootBuilder {
        McubootBuilder::new(b"body of the image".to_vec(), VERSION)
    }

    #[test]
    fn built_image_parses_and_verifies() {
        let bytes = builder()
            .header_size(0x200)
            .load_addr(0x2000_0000)
            .sign_ed25519(&SEED)
            .build()
            .unwrap();
        let image = McubootImage::parse(&bytes).unwrap();
        assert_eq!(
            (image.version, image.load_addr, image.hdr_size),
            (VERSION, 0x2000_0000, 0x200)
        );
        assert_eq!(image.flags, image_flags::RAM_LOAD);
        assert_eq!(&bytes[image.body()], b"body of the image");
        assert_eq!(image.len(), bytes.len());
        let kinds: Vec<TlvKind> = image.tlvs.iter().map(|tlv| tlv.kind).collect();
        assert_eq!(kinds, [TlvKind::Sha256, TlvKind::KeyHash, TlvKind::Ed25519]);
        assert_eq!(image.verify_sha256(&bytes), Ok(()));
        assert_eq!(image.verify_ed25519(&bytes, &public_key(&SEED)), Ok(()));
        assert_eq!(
            image.verify_ed25519(&bytes, &public_key(&[8; 32])),
            Err(ImageError::OtherKey)
        );
    }

    #[test]
    fn every_bit_flip_is_refused() {
        let plain = builder()
            .header_size(0x20)
            .sign_ed25519(&SEED)
            .build()
            .unwrap();
        let protected = builder()
            .protected_tlv(TlvKind::SecurityCounter, &[1, 0, 0, 0])
            .sign_ed25519(&SEED)
            .build();
        for image in [plain, protected.unwrap()] {
            assert_eq!(check(&image), Ok(()));
            for bit in 0..image.len() * 8 {
                let mut flipped = image.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&flipped).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn every_truncation_is_refused_and_padding_is_not() {
        let mut bytes = builder().sign_ed25519(&SEED).build().unwrap();
        for len in 4..bytes.len() {
            assert!(
                matches!(
                    McubootImage::parse(&bytes[..len]),
                    Err(ImageError::Truncated)
                ),
                "{len}"
            );
        }
        let len = bytes.len();
        bytes.extend([0xff; 100]);
        assert_eq!(check(&bytes), Ok(()));
        assert_eq!(McubootImage::parse(&bytes).unwrap().len(), len);
    }

    #[test]
    fn protected_tlvs_are_listed_and_covered() {
        let bytes = builder()
            .protected_tlv(TlvKind::Other(0xa0), b"note")
            .sign_ed25519(&SEED)
            .build()
            .unwrap();
        let image = McubootImage::parse(&bytes).unwrap();
        assert_eq!(
            image.value(&bytes, TlvKind::Other(0xa0)),
            Some(&b"note"[..])
        );
        assert!(image.tlvs[0].protected && !image.tlvs[1].protected);
    }

    #[test]
    fn unsigned_and_encrypted_images_do_not_pass() {
        let mut bytes = builder().build().unwrap();
        assert_eq!(
            McubootImage::parse(&bytes).unwrap().verify_sha256(&bytes),
            Ok(())
        );
        assert_eq!(check(&bytes), Err(ImageError::Unsigned));
        bytes[16] |= 0x04;
        assert_eq!(check(&bytes), Err(ImageError::Encrypted));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            header_fields in prop::collection::vec(any::<u8>(), 0..28),
            rest in prop::collection::vec(any::<u8>(), 0..200),
            small_sizes in any::<bool>(),
        ) {
            let mut bytes = IMAGE_MAGIC.to_le_bytes().to_vec();
            bytes.extend(header_fields);
            if small_sizes && bytes.len() > 16 {
                (bytes[8], bytes[9], bytes[13], bytes[14], bytes[15]) = (32, 0, 0, 0, 0);
            }
            bytes.extend(rest);
            if let Ok(image) = McubootImage::parse(&bytes) {
                prop_assert!(image.len() <= bytes.len());
                prop_assert!(image.tlvs.iter().all(|tlv| tlv.range.end <= image.len()));
                prop_assert!(image.verify_ed25519(&bytes, &public_key(&SEED)).is_err());
                let _ = image.verify_sha256(&[]);
            }
        }

        #[test]
        fn any_tlv_area_is_survived(area in prop::collection::vec(any::<u8>(), 0..100), magic in any::<bool>()) {
            let mut bytes = builder().build().unwrap();
            let tlvs = McubootImage::parse(&bytes).unwrap().body().end;
            bytes.truncate(tlvs);
            if magic {
                bytes.extend(TLV_MAGIC.to_le_bytes());
                bytes.extend(u16::try_from(area.len() + 4).unwrap().to_le_bytes());
            }
            bytes.extend(area);
            prop_assert!(check(&bytes).is_err());
        }
    }
}
