//! Digest and signature of an MCUboot image.
//!
//! As strict as the boot loader and in one respect more: the TLVs that no digest covers hold nothing but one digest,
//! one name of a key and one signature, so no byte of an accepted image can be changed without being noticed.

use sha2::{Digest, Sha384, Sha512};

use super::error::ImageError;
use super::image::sha256;
use super::keys::{KeyKind, PublicKey};
use super::mcuboot::{McubootImage, Tlv};
use super::signature::is_signed;
use super::tlv::TlvKind;

/// Bytes that early versions of MCUboot wanted an ECDSA signature to have; zeros fill it up.
const PADDED_ECDSA: usize = 72;

/// The TLVs after those that are covered, each of its kind at most once.
#[derive(Default)]
struct Closing<'a> {
    digest: Option<(TlvKind, &'a [u8])>,
    key: Option<(TlvKind, &'a [u8])>,
    signature: Option<(TlvKind, &'a [u8])>,
    /// The signature is over the image.
    pure: bool,
}

impl McubootImage {
    /// Checks that `bytes`, the image this was parsed from, has the digest it states, of whichever hash.
    pub fn verify_digest(&self, bytes: &[u8]) -> Result<(), ImageError> {
        self.checked(bytes).map(|_| ())
    }

    /// Checks that `bytes`, the image this was parsed from, has the SHA-256 digest it states.
    pub fn verify_sha256(&self, bytes: &[u8]) -> Result<(), ImageError> {
        match self.checked(bytes)?.0.digest {
            Some((TlvKind::Sha256, _)) => Ok(()),
            _ => Err(ImageError::Absent(TlvKind::Sha256)),
        }
    }

    /// Checks digest and signature of `bytes`, the image this was parsed from; returns the id of the key that signed
    /// it. Dependencies and security counter are well-formed afterwards.
    ///
    /// Signatures are those that imgtool makes: RSA-2048 and RSA-3072 PSS and ECDSA P-256 over an image with a SHA-256
    /// digest; Ed25519 over the digest (SHA-256 or SHA-512), or over the image ("pure").
    ///
    /// # Errors
    /// Digest, signature or structure are not right; none of `keys` is the one the image names; there is no signature,
    /// or there are no keys.
    pub fn verify(&self, bytes: &[u8], keys: &[PublicKey]) -> Result<[u8; 32], ImageError> {
        let (closing, digest) = self.checked(bytes)?;
        self.dependencies(bytes)?;
        self.security_counter(bytes)?;
        let (kind, signature) = closing.signature.ok_or(ImageError::Unsigned)?;
        if keys.is_empty() {
            return Err(ImageError::NoKey);
        }
        let named = closing.key.ok_or(ImageError::Absent(TlvKind::KeyHash))?;
        let hash = closing.digest.map_or(TlvKind::Sha256, |(kind, _)| kind);
        // P-384 has the same TLV; its digest tells it.
        if kind == TlvKind::Ecdsa && hash == TlvKind::Sha384 {
            return Err(ImageError::SignatureKind(kind));
        }
        let key = keys
            .iter()
            .find(|key| is_named(key, named, hash))
            .ok_or(ImageError::OtherKey)?;
        let covered = bytes.get(..self.signed_len).ok_or(ImageError::Truncated)?;
        let message = match (kind, key.kind(), hash, closing.pure) {
            (TlvKind::Rsa2048, KeyKind::Rsa2048, TlvKind::Sha256, false)
            | (TlvKind::Rsa3072, KeyKind::Rsa3072, TlvKind::Sha256, false)
            | (TlvKind::Ecdsa, KeyKind::EcdsaP256, TlvKind::Sha256, false)
            | (TlvKind::Ed25519, KeyKind::Ed25519, TlvKind::Sha256 | TlvKind::Sha512, true) => {
                covered
            }
            (TlvKind::Ed25519, KeyKind::Ed25519, TlvKind::Sha256 | TlvKind::Sha512, false) => {
                &digest
            }
            _ => return Err(ImageError::SignatureKind(kind)),
        };
        let signature = match kind {
            TlvKind::Ecdsa => without_zeros(signature),
            _ => signature,
        };
        if is_signed(key, message, signature) {
            Ok(key.key_id())
        } else {
            Err(ImageError::Signature)
        }
    }

    /// [`McubootImage::verify`] with one Ed25519 key of 32 raw bytes.
    pub fn verify_ed25519(&self, bytes: &[u8], public_key: &[u8; 32]) -> Result<(), ImageError> {
        let key = PublicKey::from_ed25519(public_key).map_err(|_| ImageError::Signature)?;
        self.verify(bytes, &[key]).map(|_| ())
    }

    /// The kind of the signature and whether it is over the image instead of its digest; nothing if there is none.
    pub fn signature_kind(&self) -> Option<(TlvKind, bool)> {
        let mut open = self.tlvs.iter().filter(|tlv| !tlv.protected);
        let kind = open.clone().find(|tlv| is_signature(tlv.kind))?.kind;
        Some((kind, open.any(|tlv| tlv.kind == TlvKind::SigPure)))
    }

    /// The TLVs that are not covered, and the digest of `bytes` once it is the stated one.
    fn checked<'a>(&self, bytes: &'a [u8]) -> Result<(Closing<'a>, Vec<u8>), ImageError> {
        if self.is_encrypted() {
            return Err(ImageError::Encrypted);
        }
        let closing = self.closing(bytes)?;
        let (kind, stated) = closing.digest.ok_or(ImageError::Absent(TlvKind::Sha256))?;
        let covered = bytes.get(..self.signed_len).ok_or(ImageError::Truncated)?;
        let digest = digest(kind, covered);
        if digest == stated {
            Ok((closing, digest))
        } else {
            Err(ImageError::Digest)
        }
    }

    fn closing<'a>(&self, bytes: &'a [u8]) -> Result<Closing<'a>, ImageError> {
        let mut closing = Closing::default();
        for Tlv { kind, range, .. } in self.tlvs.iter().filter(|tlv| !tlv.protected) {
            let value = bytes.get(range.clone()).ok_or(ImageError::Truncated)?;
            let place = match kind {
                TlvKind::Sha256 | TlvKind::Sha384 | TlvKind::Sha512 => &mut closing.digest,
                // After the signature the boot loader no longer looks for it.
                TlvKind::KeyHash | TlvKind::PubKey if closing.signature.is_none() => {
                    &mut closing.key
                }
                kind if is_signature(*kind) => &mut closing.signature,
                TlvKind::SigPure if value != [1] => return Err(ImageError::TlvValue(*kind)),
                TlvKind::SigPure if closing.pure => return Err(ImageError::Repeated(*kind)),
                TlvKind::SigPure => {
                    closing.pure = true;
                    continue;
                }
                _ => return Err(ImageError::Uncovered(*kind)),
            };
            if place.replace((*kind, value)).is_some() {
                return Err(ImageError::Repeated(*kind));
            }
        }
        Ok(closing)
    }
}

fn is_signature(kind: TlvKind) -> bool {
    matches!(
        kind,
        TlvKind::Rsa2048 | TlvKind::Rsa3072 | TlvKind::Ecdsa | TlvKind::Ed25519
    )
}

/// Whether a KEYHASH or PUBKEY means `key`. The hash is the one of the image digest.
fn is_named(key: &PublicKey, (kind, value): (TlvKind, &[u8]), hash: TlvKind) -> bool {
    let der = key.to_boot_der();
    match kind {
        TlvKind::PubKey => value == der,
        _ => value == digest(hash, &der),
    }
}

fn digest(hash: TlvKind, bytes: &[u8]) -> Vec<u8> {
    match hash {
        TlvKind::Sha384 => Sha384::digest(bytes).to_vec(),
        TlvKind::Sha512 => Sha512::digest(bytes).to_vec(),
        _ => sha256(bytes).to_vec(),
    }
}

/// An ECDSA signature without the zeros that fill it up, if that is what they do; DER states its own length.
fn without_zeros(signature: &[u8]) -> &[u8] {
    let len = signature.get(1).map_or(0, |&len| usize::from(len) + 2);
    match signature.split_at_checked(len) {
        Some((der, zeros))
            if signature.len() == PADDED_ECDSA && zeros.iter().all(|&byte| byte == 0) =>
        {
            der
        }
        _ => signature,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! vector {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/vectors/images/", $name))
        };
    }

    /// Images of imgtool, each with the public key that belongs to it.
    const SIGNED: [(&str, &[u8], &[u8]); 8] = [
        (
            "ed25519",
            vector!("ed25519.bin"),
            vector!("ed25519.pub.pem"),
        ),
        (
            "pure",
            vector!("ed25519-pure.bin"),
            vector!("ed25519.pub.pem"),
        ),
        (
            "sha512",
            vector!("ed25519-sha512.bin"),
            vector!("ed25519.pub.pem"),
        ),
        (
            "confirmed",
            vector!("ed25519-confirmed.bin"),
            vector!("ed25519.pub.pem"),
        ),
        (
            "p256",
            vector!("ecdsa-p256.bin"),
            vector!("ecdsa-p256.pub.pem"),
        ),
        (
            "full key",
            vector!("ecdsa-p256-full-key.bin"),
            vector!("ecdsa-p256.pub.pem"),
        ),
        (
            "rsa-2048",
            vector!("rsa-2048.bin"),
            vector!("rsa-2048.pub.pem"),
        ),
        (
            "rsa-3072",
            vector!("rsa-3072.bin"),
            vector!("rsa-3072.pub.pem"),
        ),
    ];

    fn key(pem: &[u8]) -> PublicKey {
        PublicKey::from_pem(std::str::from_utf8(pem).unwrap()).unwrap()
    }

    fn keys() -> Vec<PublicKey> {
        SIGNED.iter().map(|(_, _, pem)| key(pem)).collect()
    }

    fn check(bytes: &[u8], keys: &[PublicKey]) -> Result<[u8; 32], ImageError> {
        McubootImage::parse(bytes)?.verify(bytes, keys)
    }

    #[test]
    fn images_of_imgtool_verify_with_their_key_and_no_other() {
        for (name, image, pem) in SIGNED {
            let own = key(pem);
            assert_eq!(check(image, &keys()), Ok(own.key_id()), "{name}");
            let others: Vec<PublicKey> = keys().into_iter().filter(|key| *key != own).collect();
            assert_eq!(check(image, &others), Err(ImageError::OtherKey), "{name}");
            assert_eq!(check(image, &[]), Err(ImageError::NoKey), "{name}");
        }
    }

    /// Every bit, but of RSA signatures every seventh: that meets each position in a byte, and takes seconds.
    #[test]
    fn no_bit_of_an_image_may_change() {
        for (name, image, pem) in SIGNED {
            let keys = [key(pem)];
            let parsed = McubootImage::parse(image).unwrap();
            let long = parsed.tlvs.iter().find(|tlv| tlv.range.len() >= 256);
            let rsa = long.map_or(0..0, |tlv| tlv.range.clone());
            for bit in (0..image.len() * 8).filter(|bit| !rsa.contains(&(bit / 8)) || bit % 7 == 0)
            {
                let mut flipped = image.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&flipped, &keys).is_err(), "{name}: bit {bit}");
            }
        }
    }

    #[test]
    fn dependencies_and_counter_are_read() {
        let bytes = vector!("ecdsa-p256.bin");
        let image = McubootImage::parse(bytes).unwrap();
        let needed = image.dependencies(bytes).unwrap();
        assert_eq!((needed.len(), needed[0].image_id), (1, 1));
        assert_eq!(needed[0].min_version.to_string(), "1.2.0");
        assert_eq!(image.security_counter(bytes), Ok(Some(0x0102_0003)));
        assert_eq!(image.signature_kind(), Some((TlvKind::Ecdsa, false)));
    }

    #[test]
    fn what_cannot_be_trusted_says_why() {
        let unsigned = vector!("unsigned-sha384.bin");
        let image = McubootImage::parse(unsigned).unwrap();
        assert_eq!(image.verify_digest(unsigned), Ok(()));
        assert_eq!(check(unsigned, &keys()), Err(ImageError::Unsigned));
        for (image, error) in [
            (
                &vector!("ecdsa-p384.bin")[..],
                ImageError::SignatureKind(TlvKind::Ecdsa),
            ),
            (vector!("ed25519-encrypted.bin"), ImageError::Encrypted),
            (vector!("ed25519-big-endian.bin"), ImageError::BigEndian),
        ] {
            assert_eq!(check(image, &keys()), Err(error));
        }
    }

    /// The image of imgtool with another closing area.
    fn with_closing(tlvs: &[(TlvKind, &[u8])]) -> Vec<u8> {
        let bytes = vector!("ed25519.bin");
        let image = McubootImage::parse(bytes).unwrap();
        let mut area = Vec::new();
        for (kind, value) in tlvs {
            area.extend(u16::from(*kind).to_le_bytes());
            area.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
            area.extend(*value);
        }
        let mut image = bytes[..image.signed_len].to_vec();
        image.extend([0x07, 0x69]);
        image.extend(u16::try_from(area.len() + 4).unwrap().to_le_bytes());
        image.extend(area);
        image
    }

    #[test]
    fn nothing_stands_outside_the_digest_but_what_is_checked() {
        let bytes = vector!("ed25519.bin");
        let image = McubootImage::parse(bytes).unwrap();
        let value = |kind| (kind, image.value(bytes, kind).unwrap());
        let digest = value(TlvKind::Sha256);
        let name = value(TlvKind::KeyHash);
        let signature = value(TlvKind::Ed25519);
        let other = (TlvKind::KeyHash, &[0; 32][..]);
        let vendor = (TlvKind::Other(0xa0), &[1][..]);
        let enc = (TlvKind::EncX25519, &[1][..]);
        let pure = (TlvKind::SigPure, &[0][..]);
        for (tlvs, error) in [
            (&[digest, name][..], ImageError::Unsigned),
            (&[name, signature], ImageError::Absent(TlvKind::Sha256)),
            (&[digest, signature], ImageError::Absent(TlvKind::KeyHash)),
            (&[digest, other, signature], ImageError::OtherKey),
            (
                &[digest, signature, name],
                ImageError::Uncovered(TlvKind::KeyHash),
            ),
            (
                &[digest, digest, name, signature],
                ImageError::Repeated(TlvKind::Sha256),
            ),
            (
                &[digest, other, name, signature],
                ImageError::Repeated(TlvKind::KeyHash),
            ),
            (
                &[digest, name, signature, signature],
                ImageError::Repeated(TlvKind::Ed25519),
            ),
            (
                &[digest, name, signature, vendor],
                ImageError::Uncovered(TlvKind::Other(0xa0)),
            ),
            (
                &[digest, name, signature, enc],
                ImageError::Uncovered(TlvKind::EncX25519),
            ),
            (
                &[digest, name, pure, signature],
                ImageError::TlvValue(TlvKind::SigPure),
            ),
            (
                &[digest, name, (TlvKind::SigPure, &[1]), signature],
                ImageError::Signature,
            ),
            (
                &[digest, name, (TlvKind::Ecdsa, signature.1)],
                ImageError::SignatureKind(TlvKind::Ecdsa),
            ),
            (
                &[digest, name, (TlvKind::Ed25519, &signature.1[1..])],
                ImageError::Signature,
            ),
        ] {
            assert_eq!(check(&with_closing(tlvs), &keys()), Err(error));
        }
        assert!(check(&with_closing(&[name, digest, signature]), &keys()).is_ok());
        let long = [&bytes[..], b"not covered"].concat();
        assert_eq!(
            check(&long, &keys()),
            Err(ImageError::TrailingBytes(bytes.len()))
        );
    }
}
