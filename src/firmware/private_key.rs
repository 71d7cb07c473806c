//! Private keys: for the command line of whoever signs images, never for the server.
//!
//! Reads PKCS#8 (RFC 5958), SEC1 (RFC 5915) and PKCS#1 (RFC 8017 A.1.2), writes PKCS#8, generates, signs. Randomness is
//! passed in. Keys are wiped when dropped; nothing prints them. Encrypted keys are not opened.

use std::fmt;

use ed25519_dalek::Signer;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::der::asn1::{ContextSpecific, ObjectIdentifier, OctetStringRef};
use rsa::pkcs8::der::{Decode, Reader, SliceReader, TagNumber};
use rsa::pkcs8::{EncodePrivateKey, PrivateKeyInfo};
use rsa::rand_core::{CryptoRng, Error as EntropyError, RngCore};
use rsa::{Pkcs1v15Sign, Pss};
use zeroize::Zeroizing;

use super::image::sha256;
use super::keys::{
    Inner, KeyError, KeyKind, OID_EC, OID_ED25519, OID_P256, OID_RSA, PublicKey, require_p256,
    unsigned_bits,
};
use super::pem;
use super::tlv::TlvKind;

/// What comes before the 32 bytes of an Ed25519 seed in PKCS#8 (RFC 8410 §7).
const ED25519_PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// What comes before the 32 bytes of a scalar of P-256 in PKCS#8, with the public point behind it.
const P256_PKCS8_PREFIX: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
    0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02,
    0x01, 0x01, 0x04, 0x20,
];
/// What stands between that scalar and the 65 bytes of the point.
const P256_PKCS8_POINT: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];
/// Numbers drawn for a scalar of P-256 before giving up; one in 2^32 is out of range.
const P256_DRAWS: usize = 8;

/// Where random bytes come from: fills the slice with bytes that nobody can guess.
pub type Entropy<'a> = &'a mut dyn FnMut(&mut [u8]);

/// How RSA fills up the digest it signs. The other kinds of keys have one way only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RsaPadding {
    /// PKCS#1 v1.5, what `openssl dgst -sign` makes by default.
    #[default]
    Pkcs1v15,
    /// PSS with MGF1 over SHA-256 and a salt of 32 bytes.
    Pss,
}

/// A private key of one of the four kinds. Not printable and not comparable on purpose.
pub struct PrivateKey(Secret);

enum Secret {
    Ed25519(Box<ed25519_dalek::SigningKey>),
    EcdsaP256(Box<p256::ecdsa::SigningKey>),
    /// 2048 or 3072 bits.
    Rsa(Box<rsa::RsaPrivateKey>),
}

impl PrivateKey {
    /// Reads a PEM file: `PRIVATE KEY` (PKCS#8), `EC PRIVATE KEY` (SEC1) or `RSA PRIVATE KEY` (PKCS#1).
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let block = pem::decode(text)?;
        match block.label.as_str() {
            "PRIVATE KEY" => Self::from_pkcs8(&block.der),
            "EC PRIVATE KEY" => Self::from_sec1(&block.der, None),
            "RSA PRIVATE KEY" => Self::from_pkcs1(&block.der),
            label if label.ends_with("PUBLIC KEY") => Err(KeyError::PublicGiven),
            _ => Err(KeyError::Algorithm),
        }
    }

    /// The Ed25519 key of a seed (the 32 secret bytes of RFC 8032).
    pub fn from_ed25519_seed(seed: &[u8; 32]) -> Self {
        Self(Secret::Ed25519(Box::new(
            ed25519_dalek::SigningKey::from_bytes(seed),
        )))
    }

    /// A new key. RSA takes seconds.
    ///
    /// # Errors
    /// `entropy` gives nothing a key can be made of.
    pub fn generate(kind: KeyKind, entropy: Entropy<'_>) -> Result<Self, KeyError> {
        let bits = match kind {
            KeyKind::Ed25519 => {
                let mut seed = Zeroizing::new([0; 32]);
                entropy(seed.as_mut_slice());
                return Ok(Self::from_ed25519_seed(&seed));
            }
            KeyKind::EcdsaP256 => return Self::generate_p256(entropy),
            KeyKind::Rsa2048 => 2048,
            KeyKind::Rsa3072 => 3072,
        };
        let key = rsa::RsaPrivateKey::new(&mut Random(entropy), bits);
        key.map(|key| Self(Secret::Rsa(Box::new(key))))
            .map_err(|_| KeyError::Malformed)
    }

    /// PKCS#8 as PEM: `PRIVATE KEY`, not encrypted.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let der = match &self.0 {
            Secret::Ed25519(key) => {
                let seed = Zeroizing::new(key.to_bytes());
                Zeroizing::new([&ED25519_PKCS8_PREFIX[..], seed.as_slice()].concat())
            }
            Secret::EcdsaP256(key) => {
                let scalar = Zeroizing::new(<[u8; 32]>::from(key.to_bytes()));
                let point = key.verifying_key().to_sec1_point(false);
                let parts = [
                    &P256_PKCS8_PREFIX[..],
                    scalar.as_slice(),
                    &P256_PKCS8_POINT,
                    point.as_bytes(),
                ];
                Zeroizing::new(parts.concat())
            }
            Secret::Rsa(key) => key
                .to_pkcs8_der()
                .expect("a key of 3072 bits is far below the limits of DER")
                .to_bytes(),
        };
        pem::encode("PRIVATE KEY", &der)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(match &self.0 {
            Secret::Ed25519(key) => Inner::Ed25519(key.verifying_key()),
            Secret::EcdsaP256(key) => Inner::EcdsaP256(*key.verifying_key()),
            Secret::Rsa(key) => Inner::Rsa(Box::new(key.to_public_key())),
        })
    }

    /// A signature over `bytes` to lie beside them: Ed25519 64 bytes over the bytes themselves; ECDSA in DER, RSA as
    /// long as the modulus, both over the SHA-256 of the bytes. `entropy` is for RSA; the others are deterministic.
    pub fn sign_detached(
        &self,
        bytes: &[u8],
        padding: RsaPadding,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, KeyError> {
        match &self.0 {
            Secret::Ed25519(key) => Ok(key.sign(bytes).to_bytes().to_vec()),
            Secret::EcdsaP256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(bytes);
                Ok(signature.to_der().as_bytes().to_vec())
            }
            Secret::Rsa(key) => {
                let (mut random, digest) = (Random(entropy), sha256(bytes));
                let signature = match padding {
                    RsaPadding::Pss => {
                        key.sign_with_rng(&mut random, Pss::new::<rsa::sha2::Sha256>(), &digest)
                    }
                    RsaPadding::Pkcs1v15 => key.sign_with_rng(
                        &mut random,
                        Pkcs1v15Sign::new::<rsa::sha2::Sha256>(),
                        &digest,
                    ),
                };
                signature.map_err(|_| KeyError::Malformed)
            }
        }
    }

    /// A signature as MCUboot wants it, and the TLV it goes to: Ed25519 over the digest, the others over the image.
    pub(super) fn sign_image(
        &self,
        image: &[u8],
        digest: &[u8; 32],
        entropy: Entropy<'_>,
    ) -> Result<(TlvKind, Vec<u8>), KeyError> {
        let (kind, message) = match self.public().kind() {
            KeyKind::Ed25519 => (TlvKind::Ed25519, &digest[..]),
            KeyKind::EcdsaP256 => (TlvKind::Ecdsa, image),
            KeyKind::Rsa2048 => (TlvKind::Rsa2048, image),
            KeyKind::Rsa3072 => (TlvKind::Rsa3072, image),
        };
        Ok((kind, self.sign_detached(message, RsaPadding::Pss, entropy)?))
    }

    fn generate_p256(entropy: Entropy<'_>) -> Result<Self, KeyError> {
        let mut scalar = Zeroizing::new([0; 32]);
        for _ in 0..P256_DRAWS {
            entropy(scalar.as_mut_slice());
            if let Ok(key) = Self::from_scalar(scalar.as_slice()) {
                return Ok(key);
            }
        }
        Err(KeyError::Malformed)
    }

    fn from_scalar(scalar: &[u8]) -> Result<Self, KeyError> {
        let key = p256::ecdsa::SigningKey::from_slice(scalar).map_err(|_| KeyError::Malformed)?;
        Ok(Self(Secret::EcdsaP256(Box::new(key))))
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let info = PrivateKeyInfo::from_der(der).map_err(|_| KeyError::Malformed)?;
        let key = match info.algorithm.oid {
            OID_RSA => Self::from_pkcs1(info.private_key)?,
            OID_EC => {
                require_p256(&info.algorithm)?;
                Self::from_sec1(info.private_key, Some(OID_P256))?
            }
            OID_ED25519 => {
                let seed = OctetStringRef::from_der(info.private_key)
                    .ok()
                    .and_then(|seed| seed.as_bytes().try_into().ok())
                    .ok_or(KeyError::Malformed)?;
                Self::from_ed25519_seed(seed)
            }
            _ => return Err(KeyError::Algorithm),
        };
        match (info.public_key, &key.0) {
            (Some(public), Secret::Ed25519(pair)) if public != pair.verifying_key().as_bytes() => {
                Err(KeyError::Halves)
            }
            _ => Ok(key),
        }
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let parts = rsa::pkcs1::RsaPrivateKey::from_der(der).map_err(|_| KeyError::Malformed)?;
        let bits = unsigned_bits(parts.modulus.as_bytes());
        if bits != 2048 && bits != 3072 {
            return Err(KeyError::RsaSize(bits));
        }
        let key = rsa::RsaPrivateKey::from_pkcs1_der(der).map_err(|_| KeyError::Malformed)?;
        key.validate().map_err(|_| KeyError::Halves)?;
        Ok(Self(Secret::Rsa(Box::new(key))))
    }

    /// ECPrivateKey (RFC 5915 §3). The curve stands in it, or around it.
    fn from_sec1(der: &[u8], curve: Option<ObjectIdentifier>) -> Result<Self, KeyError> {
        let parts = SliceReader::new(der).and_then(|mut reader| {
            reader.sequence(|reader| {
                let version: u8 = reader.decode()?;
                let scalar: OctetStringRef<'_> = reader.decode()?;
                let curve = ContextSpecific::decode_explicit(reader, TagNumber::N0)?;
                let point = ContextSpecific::decode_explicit(reader, TagNumber::N1)?;
                Ok((version, scalar, curve, point))
            })
        });
        let (version, scalar, own, point) = parts.map_err(|_| KeyError::Malformed)?;
        let own = own.map(|field: ContextSpecific<ObjectIdentifier>| field.value);
        if version != 1 {
            return Err(KeyError::Malformed);
        }
        if own.or(curve) != Some(OID_P256) {
            return Err(KeyError::Curve);
        }
        let key = Self::from_scalar(scalar.as_bytes())?;
        let point: Option<ContextSpecific<rsa::pkcs8::der::asn1::BitStringRef<'_>>> = point;
        match (point, &key.0) {
            (Some(point), Secret::EcdsaP256(pair)) => {
                let stated = point.value.as_bytes().unwrap_or_default();
                let stated = p256::ecdsa::VerifyingKey::from_sec1_bytes(stated);
                if stated.is_ok_and(|stated| stated == *pair.verifying_key()) {
                    Ok(key)
                } else {
                    Err(KeyError::Halves)
                }
            }
            _ => Ok(key),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().kind())
    }
}

/// [`Entropy`] as the generator that the RSA library asks.
struct Random<'a>(Entropy<'a>);

impl RngCore for Random<'_> {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        (self.0)(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), EntropyError> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Random<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! vector {
        ($name:literal) => {
            include_str!(concat!("../../tests/vectors/images/", $name))
        };
    }

    const PAIRS: [(&str, &str); 4] = [
        (vector!("ed25519.key.pem"), vector!("ed25519.pub.pem")),
        (vector!("ecdsa-p256.key.pem"), vector!("ecdsa-p256.pub.pem")),
        (vector!("rsa-2048.key.pem"), vector!("rsa-2048.pub.pem")),
        (vector!("rsa-3072.key.pem"), vector!("rsa-3072.pub.pem")),
    ];

    /// Numbers that are far from secret, and the same at each run.
    fn numbers() -> impl FnMut(&mut [u8]) {
        let mut count = 0_u64;
        move |bytes| {
            for chunk in bytes.chunks_mut(32) {
                count += 1;
                chunk.copy_from_slice(&sha256(&count.to_le_bytes())[..chunk.len()]);
            }
        }
    }

    #[test]
    fn keys_of_imgtool_and_openssl_read_and_are_written_as_imgtool_does() {
        for (pem, public) in PAIRS {
            let key = PrivateKey::from_pem(pem).unwrap();
            assert_eq!(key.public().to_pem(), public);
            assert_eq!(key.to_pem().as_str(), pem);
        }
        for (pem, same) in [
            (
                vector!("rsa-2048.pkcs1.key.pem"),
                vector!("rsa-2048.key.pem"),
            ),
            (
                vector!("ecdsa-p256.sec1.key.pem"),
                vector!("ecdsa-p256.key.pem"),
            ),
        ] {
            assert_eq!(PrivateKey::from_pem(pem).unwrap().to_pem().as_str(), same);
        }
    }

    #[test]
    fn generated_keys_read_back() {
        for kind in [KeyKind::Ed25519, KeyKind::EcdsaP256, KeyKind::Rsa2048] {
            let key = PrivateKey::generate(kind, &mut numbers()).unwrap();
            let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(again.public(), key.public());
            assert_eq!(key.public().kind(), kind);
        }
        let nothing = PrivateKey::generate(KeyKind::EcdsaP256, &mut |bytes| bytes.fill(0));
        assert_eq!(nothing.err(), Some(KeyError::Malformed));
    }

    #[test]
    fn what_is_no_private_key_is_refused_with_its_reason() {
        for (pem, error) in [
            (vector!("rsa-2048.pub.pem"), KeyError::PublicGiven),
            (vector!("rsa-2048.pkcs1.pub.pem"), KeyError::PublicGiven),
            (vector!("refused-encrypted.key.pem"), KeyError::Encrypted),
            (vector!("refused-rsa-1024.key.pem"), KeyError::RsaSize(1024)),
            (vector!("refused-p384.key.pem"), KeyError::Curve),
        ] {
            assert_eq!(PrivateKey::from_pem(pem).err(), Some(error));
        }
        // The public half that stands behind the scalar is another one's.
        let block = pem::decode(vector!("ecdsa-p256.key.pem")).unwrap();
        let mut der = block.der.to_vec();
        der[36] ^= 1;
        let swapped = PrivateKey::from_pem(&pem::encode("PRIVATE KEY", &der));
        assert_eq!(swapped.err(), Some(KeyError::Halves));
        for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
            let garbage = PrivateKey::from_pem(&pem::encode(label, b"garbage"));
            assert_eq!(garbage.err(), Some(KeyError::Malformed));
        }
    }

    #[test]
    fn a_key_prints_its_kind_only() {
        let key = PrivateKey::from_ed25519_seed(&[1; 32]);
        assert_eq!(format!("{key:?}"), "PrivateKey(ed25519)");
    }
}
