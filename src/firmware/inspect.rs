//! An image described for people and programs: everything that can be said about its bytes, and whether they hold.
//!
//! Never fails: what is wrong is part of the description. Numbers are in bytes, digests in hexadecimal digits.

use serde::Serialize;

use super::error::ImageError;
use super::image::Container;
use super::keys::{PublicKey, hex};
use super::mcuboot::{McubootImage, Tlv, image_flags};
use super::padding::Padding;
use super::signature::verify_detached;
use super::sniff;
use super::tlv::TlvKind;

/// A described image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// `mcuboot` or `raw`.
    pub container: &'static str,
    /// Bytes of the file.
    pub size: usize,
    /// SHA-256 of the file: the name of the image.
    pub sha256: String,
    /// MD5 of the file, for devices that ask for it. It proves nothing.
    pub md5: String,
    /// What a raw image seems to be.
    pub content: Option<&'static str>,
    /// What is wrong with its structure or digest: no device would take it.
    pub error: Option<String>,
    /// What somebody should look at before sending it.
    pub warnings: Vec<String>,
    /// What the MCUboot container says.
    pub mcuboot: Option<McubootInspection>,
    /// Whether the embedded signature is that of a given key.
    pub embedded_signature: SignatureCheck,
    /// Whether the signature that lies beside the file is that of a given key.
    pub detached_signature: SignatureCheck,
}

/// What came of checking a signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum SignatureCheck {
    /// There was nothing to check, or no key to check it with.
    NotChecked,
    /// The key with this id made it over these bytes.
    Verified {
        /// SHA-256 that names the key, see [`PublicKey::key_id`].
        key_id: String,
    },
    /// It does not hold.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What an MCUboot image says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct McubootInspection {
    /// `major.minor.revision+build`.
    pub version: String,
    /// The number that stands for it in TS006.
    pub ts006_version: u32,
    /// Bytes before the body.
    pub header_size: u16,
    /// Bytes of the body.
    pub body_size: u32,
    /// Bytes from header to last TLV.
    pub image_size: usize,
    /// Bytes after it.
    pub padding_size: usize,
    /// What these are.
    pub padding: Padding,
    /// Address in RAM or flash; 0 where it does not matter.
    pub load_addr: u32,
    /// Bits of the header.
    pub flags: u32,
    /// Their names.
    pub flag_names: Vec<String>,
    /// Hash of the image digest: `SHA256`, `SHA384`, `SHA512`.
    pub digest_type: Option<&'static str>,
    /// The digest is that of the bytes; nothing where it cannot be checked.
    pub digest_ok: Option<bool>,
    /// MCUboot's name of the signature.
    pub signature_type: Option<&'static str>,
    /// The signature is over the image, not its digest.
    pub signature_pure: bool,
    /// The digest by which the image names its key.
    pub key_hash: Option<String>,
    /// Images that have to be there.
    pub dependencies: Vec<DependencyInspection>,
    /// Security counter.
    pub security_counter: Option<u32>,
    /// All TLVs in order.
    pub tlvs: Vec<TlvInspection>,
}

/// An image that has to be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DependencyInspection {
    /// Its number in the boot loader.
    pub image_id: u8,
    /// The oldest version that will do.
    pub min_version: String,
}

/// One TLV.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlvInspection {
    /// Its number.
    pub kind: u16,
    /// MCUboot's name.
    pub name: &'static str,
    /// What it is there for.
    pub meaning: &'static str,
    /// Digest and signature cover it.
    pub protected: bool,
    /// Bytes of its value.
    pub size: usize,
    /// The value, hexadecimal.
    pub value: String,
}

impl Inspection {
    /// Describes `bytes`. With `keys`, checks the embedded signature and, if given, the detached one.
    pub fn of(bytes: &[u8], keys: &[PublicKey], detached: Option<&[u8]>) -> Self {
        let (sha256, md5) = sniff::digests(bytes);
        let mut it = Self {
            container: "raw",
            size: bytes.len(),
            sha256,
            md5,
            content: None,
            error: None,
            warnings: Vec::new(),
            mcuboot: None,
            embedded_signature: SignatureCheck::NotChecked,
            detached_signature: SignatureCheck::NotChecked,
        };
        match Container::recognise(bytes) {
            Ok(Container::Raw) => it.describe_raw(bytes, keys, detached),
            Ok(Container::Mcuboot(image)) => it.describe_mcuboot(bytes, &image, keys),
            Err(error) => {
                it.container = "mcuboot";
                it.error = Some(error.to_string());
                it.embedded_signature = SignatureCheck::of(keys, || Err(error));
            }
        }
        if let Some(signature) = detached {
            it.detached_signature =
                SignatureCheck::of(keys, || verify_detached(bytes, signature, keys));
        }
        it
    }

    /// Nothing speaks against it: structure and digest hold, and so does the signature where there are keys. A detached
    /// signature that holds stands in for an embedded one.
    pub fn is_good(&self) -> bool {
        let refused = |check: &SignatureCheck| matches!(check, SignatureCheck::Refused { .. });
        let signature = match self.detached_signature {
            SignatureCheck::NotChecked => &self.embedded_signature,
            _ => &self.detached_signature,
        };
        self.error.is_none() && !refused(signature)
    }

    fn describe_raw(&mut self, bytes: &[u8], keys: &[PublicKey], detached: Option<&[u8]>) {
        let content = sniff::content(bytes);
        self.content = content.map(|content| content.name);
        if let Some(content) = content.filter(|content| content.odd) {
            self.warnings.push(format!(
                "this looks like {}: probably not what a device wants to receive",
                content.name
            ));
        }
        if detached.is_none() {
            self.embedded_signature = SignatureCheck::of(keys, || Err(ImageError::Unsigned));
        }
    }

    fn describe_mcuboot(&mut self, bytes: &[u8], image: &McubootImage, keys: &[PublicKey]) {
        self.container = "mcuboot";
        let digest = image.verify_digest(bytes);
        if let Err(error) = digest {
            match error {
                ImageError::Encrypted => self
                    .warnings
                    .push("image is encrypted: digest and signature cannot be checked".into()),
                _ => self.error = Some(error.to_string()),
            }
        }
        let dependencies = image.dependencies(bytes);
        let counter = image.security_counter(bytes);
        for error in [dependencies.as_ref().err(), counter.as_ref().err()] {
            self.error = self.error.take().or_else(|| error.map(ToString::to_string));
        }
        self.embedded_signature = SignatureCheck::of(keys, || image.verify(bytes, keys));
        let signature = image.signature_kind();
        if signature.is_none() {
            self.warnings.push("image is not signed".into());
        }
        if image.padding != Padding::None {
            self.warnings.push(format!(
                "{} of padding follow the image: they cost air time and nothing covers them",
                counted(bytes.len().saturating_sub(image.len()))
            ));
        }
        let compressed = image_flags::COMPRESSED_LZMA1 | image_flags::COMPRESSED_LZMA2;
        if image.flags & compressed != 0 {
            self.warnings
                .push("body is compressed: what it decompresses to is not checked here".into());
        }
        let open = |kinds: &[TlvKind]| {
            let mut tlvs = image.tlvs.iter().filter(|tlv| !tlv.protected);
            tlvs.find(|tlv| kinds.contains(&tlv.kind))
        };
        let digest_tlv = open(&[TlvKind::Sha256, TlvKind::Sha384, TlvKind::Sha512]);
        let key_hash = open(&[TlvKind::KeyHash]).and_then(|tlv| bytes.get(tlv.range.clone()));
        self.mcuboot = Some(McubootInspection {
            version: image.version.to_string(),
            ts006_version: image.version.to_ts006(),
            header_size: image.hdr_size,
            body_size: image.img_size,
            image_size: image.len(),
            padding_size: bytes.len().saturating_sub(image.len()),
            padding: image.padding,
            load_addr: image.load_addr,
            flags: image.flags,
            flag_names: image_flags::names(image.flags),
            digest_type: digest_tlv.map(|tlv| tlv.kind.name()),
            digest_ok: match digest {
                Ok(()) => Some(true),
                Err(ImageError::Digest) => Some(false),
                Err(_) => None,
            },
            signature_type: signature.map(|(kind, _)| kind.name()),
            signature_pure: signature.is_some_and(|(_, pure)| pure),
            key_hash: key_hash.map(hex),
            dependencies: dependencies
                .unwrap_or_default()
                .iter()
                .map(|it| DependencyInspection {
                    image_id: it.image_id,
                    min_version: it.min_version.to_string(),
                })
                .collect(),
            security_counter: counter.unwrap_or_default(),
            tlvs: image.tlvs.iter().map(|tlv| tlv_of(bytes, tlv)).collect(),
        });
    }
}

impl SignatureCheck {
    fn of(keys: &[PublicKey], verify: impl FnOnce() -> Result<[u8; 32], ImageError>) -> Self {
        if keys.is_empty() {
            return Self::NotChecked;
        }
        match verify() {
            Ok(key_id) => Self::Verified {
                key_id: hex(&key_id),
            },
            Err(error) => Self::Refused {
                reason: error.to_string(),
            },
        }
    }
}

fn tlv_of(bytes: &[u8], tlv: &Tlv) -> TlvInspection {
    TlvInspection {
        kind: tlv.kind.into(),
        name: tlv.kind.name(),
        meaning: tlv.kind.meaning(),
        protected: tlv.protected,
        size: tlv.range.len(),
        value: hex(bytes.get(tlv.range.clone()).unwrap_or_default()),
    }
}

fn counted(bytes: usize) -> String {
    format!("{bytes} byte{}", if bytes == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &[u8] = include_bytes!("../../tests/vectors/images/ecdsa-p256.bin");
    const KEY: &str = include_str!("../../tests/vectors/images/ecdsa-p256.pub.pem");
    const OTHER: &str = include_str!("../../tests/vectors/images/ed25519.pub.pem");
    const PADDED: &[u8] = include_bytes!("../../tests/vectors/images/ed25519-confirmed.bin");
    const ENCRYPTED: &[u8] = include_bytes!("../../tests/vectors/images/ed25519-encrypted.bin");

    fn keys(pem: &str) -> Vec<PublicKey> {
        vec![PublicKey::from_pem(pem).unwrap()]
    }

    #[test]
    fn an_image_is_described_whole() {
        let it = Inspection::of(IMAGE, &keys(KEY), None);
        assert!(it.is_good() && it.warnings.is_empty());
        let json = serde_json::to_value(&it).unwrap();
        assert_eq!(json["embedded_signature"]["outcome"], "verified");
        let image = &json["mcuboot"];
        assert_eq!(image["version"], "1.2.3+4");
        assert_eq!(image["security_counter"], 0x0102_0003);
        assert_eq!(image["dependencies"][0]["min_version"], "1.2.0");
        assert_eq!(image["digest_ok"], true);
        assert_eq!(image["signature_type"], "ECDSASIG");
        assert_eq!(image["key_hash"], json["embedded_signature"]["key_id"]);
        let names: Vec<&str> = it
            .mcuboot
            .iter()
            .flat_map(|it| &it.tlvs)
            .map(|tlv| tlv.name)
            .collect();
        assert_eq!(
            names,
            ["SEC_CNT", "DEPENDENCY", "SHA256", "KEYHASH", "ECDSASIG"]
        );
    }

    #[test]
    fn what_does_not_hold_is_not_good() {
        let mut damaged = IMAGE.to_vec();
        damaged[40] ^= 1;
        let it = Inspection::of(&damaged, &[], None);
        assert_eq!(it.error.as_deref(), Some("image digest does not match"));
        assert_eq!(it.mcuboot.as_ref().and_then(|it| it.digest_ok), Some(false));
        assert!(!it.is_good());
        assert!(!Inspection::of(IMAGE, &keys(OTHER), None).is_good());
        assert!(!Inspection::of(&IMAGE[..200], &[], None).is_good());
        assert!(!Inspection::of(b"raw", &keys(KEY), None).is_good());
        assert!(Inspection::of(b"raw", &[], None).is_good());
    }

    #[test]
    fn what_deserves_a_look_is_said() {
        let it = Inspection::of(PADDED, &keys(OTHER), None);
        assert!(it.is_good());
        assert!(it.warnings[0].ends_with("they cost air time and nothing covers them"));
        let it = Inspection::of(ENCRYPTED, &[], None);
        assert!(it.is_good() && it.warnings[0].starts_with("image is encrypted"));
        assert!(!Inspection::of(ENCRYPTED, &keys(OTHER), None).is_good());
        let it = Inspection::of(b"\x7fELF\x01", &[], None);
        assert_eq!(it.content, Some("ELF"));
        assert!(it.warnings[0].starts_with("this looks like ELF"));
    }

    #[test]
    fn a_detached_signature_stands_in_for_an_embedded_one() {
        let key = super::super::PrivateKey::from_ed25519_seed(&[5; 32]);
        let signature = key
            .sign_detached(IMAGE, Default::default(), &mut |_| {})
            .unwrap();
        let keys = [key.public()];
        assert!(Inspection::of(IMAGE, &keys, Some(&signature)).is_good());
        assert!(!Inspection::of(IMAGE, &keys, Some(&signature[1..])).is_good());
        assert!(!Inspection::of(IMAGE, &keys, None).is_good());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(
            tail in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            at in 0..276_usize,
        ) {
            let bytes = [&IMAGE[..at], &tail].concat();
            let it = Inspection::of(&bytes, &keys(KEY), Some(&tail));
            proptest::prop_assert!(!it.is_good() || bytes == IMAGE);
        }
    }
}
