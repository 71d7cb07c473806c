//! Builds MCUboot images, for demonstrations and tests. Real images come from the vendor's own tool chain.

use ed25519_dalek::{Signer, SigningKey};

use super::image::{ImageVersion, sha256};
use super::mcuboot::{HEADER_FIELDS, IMAGE_MAGIC, PROTECTED_TLV_MAGIC, TLV_MAGIC, image_flags};
use super::tlv::TlvKind;

/// A part of the image is too large or too small for its size field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The body has 2^32 bytes or more.
    #[error("body does not fit a 32-bit size")]
    Body,
    /// The header is below 32 bytes.
    #[error("header size {0} is below 32")]
    HeaderSize(u16),
    /// A TLV area has 2^16 bytes or more.
    #[error("tlv area does not fit a 16-bit size")]
    TlvSize,
}

/// The public key of a signing key that is given by its 32-byte seed.
pub fn ed25519_public_key(seed: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(seed).verifying_key().to_bytes()
}

/// Puts an image together: header, body, protected TLVs, then SHA256 and, if signed, KEYHASH and ED25519.
///
/// ```
/// use lorawan_fuota::firmware::{ImageVersion, McubootBuilder, McubootImage};
/// let version = ImageVersion { major: 1, ..ImageVersion::default() };
/// let bytes = McubootBuilder::new(vec![0; 1000], version).sign_ed25519(&[1; 32]).build()?;
/// assert_eq!(McubootImage::parse(&bytes).map(|image| image.version), Ok(version));
/// # Ok::<(), lorawan_fuota::firmware::BuildError>(())
/// ```
#[derive(Clone)]
pub struct McubootBuilder {
    body: Vec<u8>,
    version: ImageVersion,
    header_size: u16,
    load_addr: u32,
    protected: Vec<(TlvKind, Vec<u8>)>,
    key: Option<SigningKey>,
}

impl McubootBuilder {
    /// An unsigned image of `body` with a header of 32 bytes.
    pub fn new(body: Vec<u8>, version: ImageVersion) -> Self {
        Self {
            body,
            version,
            header_size: 0x20,
            load_addr: 0,
            protected: Vec::new(),
            key: None,
        }
    }

    /// Bytes before the body, at least 32; 0x200 is usual where a vector table follows. The rest is filled with 0xff.
    pub fn header_size(mut self, header_size: u16) -> Self {
        self.header_size = header_size;
        self
    }

    /// Address in RAM to load the image to; any but 0 sets the RAM_LOAD flag.
    pub fn load_addr(mut self, load_addr: u32) -> Self {
        self.load_addr = load_addr;
        self
    }

    /// Adds a TLV that digest and signature cover.
    pub fn protected_tlv(mut self, kind: TlvKind, value: &[u8]) -> Self {
        self.protected.push((kind, value.to_vec()));
        self
    }

    /// Signs with the Ed25519 key made from `seed` (the 32 secret bytes of RFC 8032).
    pub fn sign_ed25519(mut self, seed: &[u8; 32]) -> Self {
        self.key = Some(SigningKey::from_bytes(seed));
        self
    }

    /// The whole image.
    pub fn build(self) -> Result<Vec<u8>, BuildError> {
        if usize::from(self.header_size) < HEADER_FIELDS {
            return Err(BuildError::HeaderSize(self.header_size));
        }
        let protected = if self.protected.is_empty() {
            Vec::new()
        } else {
            tlv_area(
                PROTECTED_TLV_MAGIC,
                self.protected
                    .iter()
                    .map(|(kind, value)| (*kind, value.as_slice())),
            )?
        };
        let mut image = self.header(protected.len())?;
        image.extend_from_slice(&self.body);
        image.extend_from_slice(&protected);
        let digest = sha256(&image);
        let mut tlvs = vec![(TlvKind::Sha256, digest.to_vec())];
        if let Some(key) = &self.key {
            let spki = super::PrivateKey::from_ed25519_seed(&key.to_bytes())
                .public()
                .to_boot_der();
            tlvs.push((TlvKind::KeyHash, sha256(&spki).to_vec()));
            tlvs.push((TlvKind::Ed25519, key.sign(&digest).to_bytes().to_vec()));
        }
        image.extend(tlv_area(
            TLV_MAGIC,
            tlvs.iter().map(|(kind, value)| (*kind, value.as_slice())),
        )?);
        Ok(image)
    }

    fn header(&self, protected_size: usize) -> Result<Vec<u8>, BuildError> {
        let img_size = u32::try_from(self.body.len()).map_err(|_| BuildError::Body)?;
        let protected_size = u16::try_from(protected_size).map_err(|_| BuildError::TlvSize)?;
        let flags = if self.load_addr == 0 {
            0
        } else {
            image_flags::RAM_LOAD
        };
        let mut header = Vec::with_capacity(usize::from(self.header_size) + self.body.len() + 256);
        header.extend(IMAGE_MAGIC.to_le_bytes());
        header.extend(self.load_addr.to_le_bytes());
        header.extend(self.header_size.to_le_bytes());
        header.extend(protected_size.to_le_bytes());
        header.extend(img_size.to_le_bytes());
        header.extend(flags.to_le_bytes());
        header.extend([self.version.major, self.version.minor]);
        header.extend(self.version.revision.to_le_bytes());
        header.extend(self.version.build.to_le_bytes());
        header.extend([0; 4]);
        header.resize(usize::from(self.header_size), 0xff);
        Ok(header)
    }
}

/// A TLV area: magic, its own size, then type, size and value of each entry.
fn tlv_area<'a>(
    magic: u16,
    tlvs: impl Iterator<Item = (TlvKind, &'a [u8])>,
) -> Result<Vec<u8>, BuildError> {
    let mut entries = Vec::new();
    for (kind, value) in tlvs {
        entries.extend(u16::from(kind).to_le_bytes());
        entries.extend(
            u16::try_from(value.len())
                .map_err(|_| BuildError::TlvSize)?
                .to_le_bytes(),
        );
        entries.extend(value);
    }
    let size = u16::try_from(entries.len() + 4).map_err(|_| BuildError::TlvSize)?;
    let mut area = magic.to_le_bytes().to_vec();
    area.extend(size.to_le_bytes());
    area.extend(entries);
    Ok(area)
}

#[cfg(test)]
mod tests {
    use super::super::mcuboot::McubootImage;
    use super::*;

    /// What MCUboot's own tool made of the same inputs; `tests/vectors/README.md` says how.
    const IMGTOOL: &[u8] = include_bytes!("../../tests/vectors/imgtool_ed25519.bin");
    const IMGTOOL_PUBLIC_KEY: &[u8; 32] = include_bytes!("../../tests/vectors/imgtool_ed25519.pub");

    fn seed() -> [u8; 32] {
        std::array::from_fn(|index| u8::try_from(index).unwrap())
    }

    #[test]
    fn imgtool_image_verifies() {
        let image = McubootImage::parse(IMGTOOL).unwrap();
        assert_eq!(image.version.to_string(), "3.7.21+42");
        assert_eq!(
            image.value(IMGTOOL, TlvKind::SecurityCounter),
            Some(&[9, 0, 0, 0][..])
        );
        assert_eq!(image.verify_ed25519(IMGTOOL, IMGTOOL_PUBLIC_KEY), Ok(()));
    }

    #[test]
    fn same_inputs_give_the_bytes_of_imgtool() {
        let version = ImageVersion {
            major: 3,
            minor: 7,
            revision: 21,
            build: 42,
        };
        let body: Vec<u8> = (0..=u8::MAX).collect();
        let image = McubootBuilder::new(body, version)
            .header_size(0x40)
            .protected_tlv(TlvKind::SecurityCounter, &[9, 0, 0, 0])
            .sign_ed25519(&seed());
        assert_eq!(image.build().unwrap(), IMGTOOL);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let builder = || McubootBuilder::new(vec![1], ImageVersion::default());
        assert_eq!(
            builder().header_size(31).build(),
            Err(BuildError::HeaderSize(31))
        );
        let large = [0; 65_528];
        assert_eq!(
            builder().protected_tlv(TlvKind::Dependency, &large).build(),
            Err(BuildError::TlvSize)
        );
        assert!(
            builder()
                .protected_tlv(TlvKind::Dependency, &large[..65_527])
                .build()
                .is_ok()
        );
    }
}
