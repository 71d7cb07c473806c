//! Images of the MCUboot boot loader: header, trailing TLV areas, digest and Ed25519 signature.
//!
//! All numbers are little-endian. Layout: header (`hdr_size` bytes, 32 of them defined), body (`img_size`), protected
//! TLVs if the header announces any, TLVs. Digest and signature cover everything before the unprotected TLVs.
//! Does not decrypt, decompress or check RSA and ECDSA signatures. Source: MCUboot design document, "Image format".

use std::ops::Range;

use ed25519_dalek::{Signature, VerifyingKey};

use super::image::{ImageVersion, sha256};

pub(super) const IMAGE_MAGIC: u32 = 0x96f3_b83d;
pub(super) const TLV_MAGIC: u16 = 0x6907;
pub(super) const PROTECTED_TLV_MAGIC: u16 = 0x6908;

/// Bytes of the header that carry fields; `hdr_size` may be larger.
pub(super) const HEADER_FIELDS: usize = 32;

/// What comes before an Ed25519 key in the SubjectPublicKeyInfo that KEYHASH is taken of (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Bits of [`McubootImage::flags`] with a meaning here.
pub mod image_flags {
    /// Body encrypted with AES-128.
    pub const ENCRYPTED_AES128: u32 = 0x04;
    /// Body encrypted with AES-256.
    pub const ENCRYPTED_AES256: u32 = 0x08;
    /// Not to be booted by itself.
    pub const NON_BOOTABLE: u32 = 0x10;
    /// To be copied to `load_addr` and run from RAM.
    pub const RAM_LOAD: u32 = 0x20;
}

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The bytes do not open with the MCUboot magic.
    #[error("image magic is absent")]
    Magic,
    /// The image ends before what its sizes announce.
    #[error("image is truncated")]
    Truncated,
    /// `hdr_size` is below 32.
    #[error("header size {0} is below 32")]
    HeaderSize(u16),
    /// A TLV area opens with another magic.
    #[error("tlv magic {0:#06x} is not the expected one")]
    TlvMagic(u16),
    /// The sizes of a TLV area, of its entries or of the header's field about it contradict each other.
    #[error("tlv area sizes contradict each other")]
    TlvSize,
    /// There is no such TLV.
    #[error("tlv {0:?} is absent")]
    Absent(TlvKind),
    /// The digest in the image is not that of its bytes.
    #[error("image digest does not match")]
    Digest,
    /// The image is signed with another key.
    #[error("image is signed with another key")]
    OtherKey,
    /// The signature is wrong, or the key is not a usable Ed25519 key.
    #[error("image signature does not match")]
    Signature,
    /// The digest is over the plain body, which is not there.
    #[error("image is encrypted")]
    Encrypted,
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
    signed_len: usize,
    len: usize,
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

/// What a TLV holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlvKind {
    /// SHA-256 of the public key (SubjectPublicKeyInfo).
    KeyHash,
    /// The public key itself.
    PubKey,
    /// SHA-256 of the image.
    Sha256,
    /// SHA-384 of the image.
    Sha384,
    /// SHA-512 of the image.
    Sha512,
    /// RSA-2048 signature.
    Rsa2048,
    /// ECDSA signature.
    Ecdsa,
    /// RSA-3072 signature.
    Rsa3072,
    /// Ed25519 signature.
    Ed25519,
    /// The signature is over the image, not its digest.
    SigPure,
    /// Versions of other images this one needs.
    Dependency,
    /// Security counter against downgrades.
    SecurityCounter,
    /// Measured boot record.
    BootRecord,
    /// Any other type.
    Other(u16),
}

impl McubootImage {
    /// Reads the structure of an image and checks that every size is kept. Checks neither digest nor signature.
    /// Bytes after the image (slot padding) are allowed; see [`McubootImage::len`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        if u32_at(bytes, 0) != Ok(IMAGE_MAGIC) {
            return Err(ImageError::Magic);
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
            version: ImageVersion {
                major: header[20],
                minor: header[21],
                revision: u16_at(header, 22)?,
                build: u32_at(header, 24)?,
            },
            tlvs: Vec::new(),
            signed_len: body_end,
            len: body_end,
        };
        let protected_size = u16_at(header, 10)?;
        if protected_size != 0 {
            image.signed_len = image.parse_area(bytes, body_end, PROTECTED_TLV_MAGIC)?;
            if image.signed_len - body_end != usize::from(protected_size) {
                return Err(ImageError::TlvSize);
            }
        }
        image.len = image.parse_area(bytes, image.signed_len, TLV_MAGIC)?;
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

    /// Whether the body is encrypted: then neither digest nor signature can be checked here.
    pub fn is_encrypted(&self) -> bool {
        self.flags & (image_flags::ENCRYPTED_AES128 | image_flags::ENCRYPTED_AES256) != 0
    }

    /// Checks that `bytes`, the image this was parsed from, has the SHA-256 digest it states.
    pub fn verify_sha256(&self, bytes: &[u8]) -> Result<(), ImageError> {
        self.digest(bytes).map(|_| ())
    }

    /// Checks digest and Ed25519 signature of `bytes`, the image this was parsed from, against a raw public key.
    ///
    /// As in the boot loader, a KEYHASH or PUBKEY before the signature must name the key; the signature is over the
    /// SHA-256 digest. The "pure" variant (signature over the image) is not supported and refused.
    pub fn verify_ed25519(&self, bytes: &[u8], public_key: &[u8; 32]) -> Result<(), ImageError> {
        let digest = self.digest(bytes)?;
        let spki = ed25519_spki(public_key);
        let key_hash = sha256(&spki);
        let key = VerifyingKey::from_bytes(public_key).map_err(|_| ImageError::Signature)?;
        let mut named = false;
        let mut outcome = Err(ImageError::Absent(TlvKind::Ed25519));
        for tlv in self.tlvs.iter().filter(|tlv| !tlv.protected) {
            let value = bytes.get(tlv.range.clone()).ok_or(ImageError::Truncated)?;
            match tlv.kind {
                TlvKind::KeyHash => named = value == key_hash,
                TlvKind::PubKey => named = value == spki,
                TlvKind::Ed25519 if named => {
                    let signature =
                        Signature::from_slice(value).map_err(|_| ImageError::Signature)?;
                    return key
                        .verify_strict(&digest, &signature)
                        .map_err(|_| ImageError::Signature);
                }
                TlvKind::Ed25519 => outcome = Err(ImageError::OtherKey),
                _ => {}
            }
        }
        outcome
    }

    /// The digest of `bytes`, once every SHA256 TLV (at least one) agrees with it.
    fn digest(&self, bytes: &[u8]) -> Result<[u8; 32], ImageError> {
        if self.is_encrypted() {
            return Err(ImageError::Encrypted);
        }
        let digest = sha256(bytes.get(..self.signed_len).ok_or(ImageError::Truncated)?);
        let mut found = false;
        for tlv in self
            .tlvs
            .iter()
            .filter(|tlv| tlv.kind == TlvKind::Sha256 && !tlv.protected)
        {
            if bytes.get(tlv.range.clone()) != Some(&digest) {
                return Err(ImageError::Digest);
            }
            found = true;
        }
        if found {
            Ok(digest)
        } else {
            Err(ImageError::Absent(TlvKind::Sha256))
        }
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

/// Number and name of every kind; the one place that knows them.
const TLV_KINDS: [(u16, TlvKind); 13] = [
    (0x01, TlvKind::KeyHash),
    (0x02, TlvKind::PubKey),
    (0x10, TlvKind::Sha256),
    (0x11, TlvKind::Sha384),
    (0x12, TlvKind::Sha512),
    (0x20, TlvKind::Rsa2048),
    (0x22, TlvKind::Ecdsa),
    (0x23, TlvKind::Rsa3072),
    (0x24, TlvKind::Ed25519),
    (0x25, TlvKind::SigPure),
    (0x40, TlvKind::Dependency),
    (0x50, TlvKind::SecurityCounter),
    (0x60, TlvKind::BootRecord),
];

impl From<u16> for TlvKind {
    fn from(number: u16) -> Self {
        let known = TLV_KINDS.iter().find(|(known, _)| *known == number);
        known.map_or(Self::Other(number), |(_, kind)| *kind)
    }
}

impl From<TlvKind> for u16 {
    fn from(kind: TlvKind) -> Self {
        if let TlvKind::Other(number) = kind {
            return number;
        }
        TLV_KINDS
            .iter()
            .find(|(_, known)| *known == kind)
            .map_or(0, |(number, _)| *number)
    }
}

/// The SubjectPublicKeyInfo of a raw Ed25519 key.
pub(super) fn ed25519_spki(public_key: &[u8; 32]) -> [u8; 44] {
    let mut spki = [0; 44];
    spki[..12].copy_from_slice(&ED25519_SPKI_PREFIX);
    spki[12..].copy_from_slice(public_key);
    spki
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
        assert_eq!(check(&bytes), Err(ImageError::Absent(TlvKind::Ed25519)));
        bytes[16] |= 0x04;
        assert_eq!(check(&bytes), Err(ImageError::Encrypted));
    }

    #[test]
    fn kinds_and_numbers_agree() {
        for number in 0..=u16::MAX {
            assert_eq!(u16::from(TlvKind::from(number)), number);
        }
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
