//! Public keys that images are checked with: reading, writing, and how an image names them.
//!
//! Four kinds, those of the MCUboot boot loader that its tool signs with and small devices check in reasonable time.
//! Private keys are in `private_key`. Sources: RFC 5280 §4.1 (SubjectPublicKeyInfo), RFC 8017 A.1.1 (RSAPublicKey),
//! RFC 5480 (elliptic curves), RFC 8410 (Ed25519).

use std::fmt;

use rsa::pkcs1::{DecodeRsaPublicKey, EncodeRsaPublicKey};
use rsa::pkcs8::EncodePublicKey;
use rsa::pkcs8::der::Decode;
use rsa::pkcs8::der::asn1::ObjectIdentifier;
use rsa::pkcs8::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use rsa::traits::PublicKeyParts;
use serde::{Deserialize, Serialize};

use super::image::sha256;
use super::pem;

pub(super) const OID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
pub(super) const OID_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
pub(super) const OID_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
pub(super) const OID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// What comes before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// What comes before the 65 bytes of an uncompressed point of P-256 in its SubjectPublicKeyInfo (RFC 5480 §2).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Kind of a key pair, and with it of its signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeyKind {
    /// Ed25519 (RFC 8032).
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA on the curve P-256 with SHA-256 (FIPS 186-5).
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// RSA with a modulus of 2048 bits.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA with a modulus of 3072 bits.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
}

impl KeyKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ed25519, Self::EcdsaP256, Self::Rsa2048, Self::Rsa3072];

    /// The name on command lines and in records: `ed25519`, `ecdsa-p256`, `rsa-2048`, `rsa-3072`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
        }
    }

    /// The kind with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What the source code of MCUboot calls the array of such a key.
    const fn c_name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519_pub_key",
            Self::EcdsaP256 => "ecdsa_pub_key",
            Self::Rsa2048 | Self::Rsa3072 => "rsa_pub_key",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes are not the key that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no PEM block with a key.
    #[error("there is no key in PEM form")]
    NotPem,
    /// There are several keys, and nobody says which one is meant.
    #[error("there are several keys; give one")]
    Several,
    /// A certificate: its key is to be taken out first.
    #[error("this is a certificate; give the public key alone (openssl x509 -pubkey -noout)")]
    Certificate,
    /// The private key is locked with a passphrase.
    #[error("the private key is encrypted; take the passphrase off first (openssl pkey)")]
    Encrypted,
    /// A private key where a public one is wanted. It is to stay where it is.
    #[error("this is a private key; a public key is wanted here")]
    PrivateGiven,
    /// A public key where a private one is wanted.
    #[error("this is a public key; a private key is wanted here")]
    PublicGiven,
    /// An RSA modulus of so many bits.
    #[error("RSA key has {0} bits; 2048 and 3072 are supported")]
    RsaSize(usize),
    /// Another elliptic curve.
    #[error("the elliptic curve is not P-256, the one that is supported")]
    Curve,
    /// Another algorithm.
    #[error("key algorithm is none of Ed25519, ECDSA P-256, RSA-2048 and RSA-3072")]
    Algorithm,
    /// The bytes contradict the format they are in, or the numbers are no key.
    #[error("key is malformed")]
    Malformed,
    /// The private and the public half do not belong together.
    #[error("private and public half of the key do not belong together")]
    Halves,
}

/// A public key of one of the four kinds.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(pub(super) Inner);

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Inner {
    Ed25519(ed25519_dalek::VerifyingKey),
    EcdsaP256(p256::ecdsa::VerifyingKey),
    /// 2048 or 3072 bits.
    Rsa(Box<rsa::RsaPublicKey>),
}

impl PublicKey {
    /// Reads a PEM file: `PUBLIC KEY` (SubjectPublicKeyInfo) or `RSA PUBLIC KEY` (PKCS#1).
    ///
    /// ```
    /// use lorawan_fuota::firmware::{KeyError, PublicKey};
    /// assert_eq!(PublicKey::from_pem("no key").err(), Some(KeyError::NotPem));
    /// ```
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let block = pem::decode(text)?;
        match block.label.as_str() {
            "PUBLIC KEY" => Self::from_spki(&block.der),
            "RSA PUBLIC KEY" => Self::from_pkcs1(&block.der),
            label if label.ends_with("PRIVATE KEY") => Err(KeyError::PrivateGiven),
            _ => Err(KeyError::Algorithm),
        }
    }

    /// Reads DER: SubjectPublicKeyInfo, or RSAPublicKey of PKCS#1.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        match Self::from_spki(der) {
            Err(KeyError::Malformed) => Self::from_pkcs1(der),
            other => other,
        }
    }

    /// The Ed25519 key of 32 raw bytes (RFC 8032 §5.1.5).
    pub fn from_ed25519(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key =
            ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Malformed)?;
        // A key of small order would accept signatures that nobody made.
        if key.is_weak() {
            return Err(KeyError::Malformed);
        }
        Ok(Self(Inner::Ed25519(key)))
    }

    /// Which kind it is.
    pub fn kind(&self) -> KeyKind {
        match &self.0 {
            Inner::Ed25519(_) => KeyKind::Ed25519,
            Inner::EcdsaP256(_) => KeyKind::EcdsaP256,
            Inner::Rsa(key) if key.size() == 256 => KeyKind::Rsa2048,
            Inner::Rsa(_) => KeyKind::Rsa3072,
        }
    }

    /// SubjectPublicKeyInfo in DER; the point of a curve is not compressed.
    pub fn to_der(&self) -> Vec<u8> {
        match &self.0 {
            Inner::Ed25519(key) => [&ED25519_SPKI_PREFIX[..], key.as_bytes()].concat(),
            Inner::EcdsaP256(key) => {
                [&P256_SPKI_PREFIX[..], key.to_sec1_point(false).as_bytes()].concat()
            }
            Inner::Rsa(key) => key
                .to_public_key_der()
                .expect("a key of 3072 bits is far below the limits of DER")
                .into_vec(),
        }
    }

    /// SubjectPublicKeyInfo as PEM: `PUBLIC KEY`.
    pub fn to_pem(&self) -> String {
        pem::encode("PUBLIC KEY", &self.to_der()).to_string()
    }

    /// The bytes MCUboot keeps of a key, names it by and carries in a PUBKEY TLV: PKCS#1 for RSA, SubjectPublicKeyInfo
    /// for the others.
    pub fn to_boot_der(&self) -> Vec<u8> {
        match &self.0 {
            Inner::Rsa(key) => key
                .to_pkcs1_der()
                .expect("a key of 3072 bits is far below the limits of DER")
                .into_vec(),
            _ => self.to_der(),
        }
    }

    /// The name of the key: SHA-256 of [`PublicKey::to_boot_der`], the same that `imgtool` writes as KEYHASH beside a
    /// SHA-256 image digest.
    pub fn key_id(&self) -> [u8; 32] {
        sha256(&self.to_boot_der())
    }

    /// The key as C source for the boot loader: an array and its length. `name` is the name of the array; without one
    /// it is that of MCUboot's own `keys.c`. Characters that C does not take in a name become `_`.
    pub fn to_c_array(&self, name: Option<&str>) -> String {
        let name = c_identifier(name.unwrap_or_else(|| self.kind().c_name()));
        let bytes = self.to_boot_der();
        let mut text = format!(
            "/* {} public key, key id {} */\nconst unsigned char {name}[] = {{\n",
            self.kind(),
            hex(&self.key_id())
        );
        for line in bytes.chunks(8) {
            let numbers: Vec<String> = line.iter().map(|byte| format!("0x{byte:02x},")).collect();
            text.extend(["    ", &numbers.join(" "), "\n"]);
        }
        text.push_str(&format!(
            "}};\nconst unsigned int {name}_len = {};\n",
            bytes.len()
        ));
        text
    }

    pub(super) fn from_rsa(key: rsa::RsaPublicKey) -> Result<Self, KeyError> {
        match key.n().bits() {
            2048 | 3072 => Ok(Self(Inner::Rsa(Box::new(key)))),
            bits => Err(KeyError::RsaSize(bits)),
        }
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let parts = rsa::pkcs1::RsaPublicKey::from_der(der).map_err(|_| KeyError::Malformed)?;
        // Asked before the key is made: the library refuses large ones without saying why.
        let bits = unsigned_bits(parts.modulus.as_bytes());
        if bits != 2048 && bits != 3072 {
            return Err(KeyError::RsaSize(bits));
        }
        let key = rsa::RsaPublicKey::from_pkcs1_der(der).map_err(|_| KeyError::Malformed)?;
        Self::from_rsa(key)
    }

    fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| KeyError::Malformed)?;
        let bits = spki
            .subject_public_key
            .as_bytes()
            .ok_or(KeyError::Malformed)?;
        match spki.algorithm.oid {
            OID_RSA => Self::from_pkcs1(bits),
            OID_EC => {
                require_p256(&spki.algorithm)?;
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(bits);
                key.map(|key| Self(Inner::EcdsaP256(key)))
                    .map_err(|_| KeyError::Malformed)
            }
            OID_ED25519 => Self::from_ed25519(bits.try_into().map_err(|_| KeyError::Malformed)?),
            _ => Err(KeyError::Algorithm),
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.kind(), hex(&self.key_id()))
    }
}

/// The parameters of an elliptic curve key name P-256.
pub(super) fn require_p256(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<(), KeyError> {
    match algorithm.parameters_oid() {
        Ok(OID_P256) => Ok(()),
        _ => Err(KeyError::Curve),
    }
}

/// Bits of a number in big-endian bytes.
pub(super) fn unsigned_bits(bytes: &[u8]) -> usize {
    let first = bytes
        .iter()
        .position(|&byte| byte != 0)
        .unwrap_or(bytes.len());
    let rest = bytes.get(first..).unwrap_or_default();
    let unused = rest.first().map_or(0, |byte| byte.leading_zeros());
    rest.len()
        .saturating_mul(8)
        .saturating_sub(usize::try_from(unused).unwrap_or(0))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn c_identifier(name: &str) -> String {
    let mut text: String = name
        .chars()
        .map(|sign| {
            if sign.is_ascii_alphanumeric() {
                sign
            } else {
                '_'
            }
        })
        .collect();
    if text.starts_with(|sign: char| sign.is_ascii_digit()) || text.is_empty() {
        text.insert(0, '_');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! vector {
        ($name:literal) => {
            include_str!(concat!("../../tests/vectors/images/", $name))
        };
    }

    /// PEM as `imgtool getpub -e pem` wrote it, and what `imgtool getpubhash` prints.
    const KEYS: [(KeyKind, &str, &str); 4] = [
        (
            KeyKind::Ed25519,
            vector!("ed25519.pub.pem"),
            "00b074107c21b7da0d3c6cec7150dff8aaeea8e48568268baa9a0aa5063a7389",
        ),
        (
            KeyKind::EcdsaP256,
            vector!("ecdsa-p256.pub.pem"),
            "e8adf3c4631d6da1f43495fea57d52a79caf0493d59349b6541753fe7e4dc564",
        ),
        (
            KeyKind::Rsa2048,
            vector!("rsa-2048.pub.pem"),
            "9f2a4f99188d40133d6e28501d523ab3467f2f055ba8775d5ffd725153ee5427",
        ),
        (
            KeyKind::Rsa3072,
            vector!("rsa-3072.pub.pem"),
            "cecb81fc9c42abf320967ec4b2265e920332f6665de94f8ca494409db68c2fda",
        ),
    ];

    #[test]
    fn keys_read_as_they_are_written_and_are_named_as_imgtool_names_them() {
        for (kind, pem, id) in KEYS {
            let key = PublicKey::from_pem(pem).unwrap();
            assert_eq!((key.kind(), hex(&key.key_id()).as_str()), (kind, id));
            assert_eq!(key.to_pem(), pem);
            assert_eq!(PublicKey::from_der(&key.to_der()).as_ref(), Ok(&key));
            assert_eq!(PublicKey::from_der(&key.to_boot_der()).as_ref(), Ok(&key));
            assert_eq!(KeyKind::from_name(kind.name()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn other_forms_of_a_key_are_the_same_key() {
        for (same, pem) in [
            (
                vector!("rsa-2048.pkcs1.pub.pem"),
                vector!("rsa-2048.pub.pem"),
            ),
            (
                vector!("ecdsa-p256.compressed.pub.pem"),
                vector!("ecdsa-p256.pub.pem"),
            ),
        ] {
            assert_eq!(PublicKey::from_pem(same), PublicKey::from_pem(pem));
        }
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_its_reason() {
        for (pem, error) in [
            (vector!("ed25519.key.pem"), KeyError::PrivateGiven),
            (vector!("rsa-2048.pkcs1.key.pem"), KeyError::PrivateGiven),
            (vector!("refused-encrypted.key.pem"), KeyError::Encrypted),
            (vector!("refused-rsa-1024.pub.pem"), KeyError::RsaSize(1024)),
            (vector!("refused-rsa-8192.pub.pem"), KeyError::RsaSize(8192)),
            (vector!("refused-p384.pub.pem"), KeyError::Curve),
            (vector!("refused-x25519.pub.pem"), KeyError::Algorithm),
            ("ssh-ed25519 AAAA", KeyError::NotPem),
        ] {
            assert_eq!(PublicKey::from_pem(pem).err(), Some(error));
        }
        assert_eq!(PublicKey::from_ed25519(&[0; 32]), Err(KeyError::Malformed));
        for (_, pem, _) in KEYS {
            let der = PublicKey::from_pem(pem).unwrap().to_der();
            for len in 0..der.len() {
                assert!(PublicKey::from_der(&der[..len]).is_err());
            }
            assert!(PublicKey::from_der(&[&der[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn the_c_array_holds_what_the_boot_loader_compares() {
        let key = PublicKey::from_pem(vector!("ed25519.pub.pem")).unwrap();
        let text = key.to_c_array(None);
        assert!(text.contains("const unsigned char ed25519_pub_key[] = {\n    0x30, 0x2a, 0x30,"));
        assert!(text.ends_with("};\nconst unsigned int ed25519_pub_key_len = 44;\n"));
        assert_eq!(text.matches("0x").count(), 44);
        assert!(
            key.to_c_array(Some("2 keys; x"))
                .contains("unsigned char _2_keys__x[] = {")
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), text in ".*") {
            let _ = (PublicKey::from_der(&bytes), PublicKey::from_pem(&text));
            let _ = PublicKey::from_pem(&pem::encode("PUBLIC KEY", &bytes));
        }
    }
}
