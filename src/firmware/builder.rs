//! Builds and signs MCUboot images, for those who have no tool of their own, for demonstrations and tests.
//!
//! The bytes are those that imgtool 2.5.0 makes of the same inputs, up to signatures that are different each time.
//! Does not encrypt or compress.

use zeroize::Zeroizing;

use super::image::{ImageVersion, sha256};
use super::mcuboot::{
    Dependency, HEADER_FIELDS, IMAGE_MAGIC, PROTECTED_TLV_MAGIC, TLV_MAGIC, image_flags,
};
use super::padding::{Padding, trailer_size};
use super::private_key::{Entropy, PrivateKey};
use super::tlv::TlvKind;

/// Why there is no image.
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
    /// The room that the body is said to keep for the header holds something.
    #[error("body does not open with {0} zero bytes for the header")]
    NoRoom(u16),
    /// The image and the trailer that the boot loader writes behind it do not fit the slot.
    #[error(
        "image of {image} bytes and boot trailer of {trailer} bytes do not fit a slot of {slot} bytes"
    )]
    SlotSize {
        /// Bytes of the image.
        image: usize,
        /// Bytes of the trailer.
        trailer: usize,
        /// Bytes of the slot.
        slot: usize,
    },
    /// The key cannot sign.
    #[error("key does not sign")]
    Signature,
}

/// The public key of an Ed25519 signing key that is given by its 32-byte seed.
pub fn ed25519_public_key(seed: &[u8; 32]) -> [u8; 32] {
    ed25519_dalek::SigningKey::from_bytes(seed)
        .verifying_key()
        .to_bytes()
}

/// Puts an image together: header, body, protected TLVs, then digest and, if signed, KEYHASH and signature.
///
/// ```
/// use lorawan_fuota::firmware::{ImageVersion, McubootBuilder, McubootImage, PrivateKey};
/// let version = ImageVersion { major: 1, ..ImageVersion::default() };
/// let key = PrivateKey::from_ed25519_seed(&[1; 32]);
/// let bytes = McubootBuilder::new(vec![0; 1000], version).build_signed(&key, &mut |_| {})?;
/// let image = McubootImage::parse(&bytes)?;
/// assert_eq!(image.verify(&bytes, &[key.public()]), Ok(key.public().key_id()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct McubootBuilder {
    body: Vec<u8>,
    version: ImageVersion,
    header_size: u16,
    header_in_body: bool,
    load_addr: u32,
    protected: Vec<(TlvKind, Vec<u8>)>,
    seed: Option<Zeroizing<[u8; 32]>>,
    slot: Option<Slot>,
}

/// Where the image is to fit.
#[derive(Clone, Copy)]
struct Slot {
    size: usize,
    align: u8,
    pad: bool,
}

impl McubootBuilder {
    /// An unsigned image of `body` with a header of 32 bytes.
    pub fn new(body: Vec<u8>, version: ImageVersion) -> Self {
        Self {
            body,
            version,
            header_size: 0x20,
            header_in_body: false,
            load_addr: 0,
            protected: Vec::new(),
            seed: None,
            slot: None,
        }
    }

    /// Bytes before the body, at least 32; 0x200 is usual where a vector table follows. The rest is filled with 0xff.
    pub fn header_size(mut self, header_size: u16) -> Self {
        self.header_size = header_size;
        self
    }

    /// The body already opens with as many zero bytes as the header has, which the header takes the place of: so
    /// linkers for MCUboot leave it.
    pub fn header_in_body(mut self) -> Self {
        self.header_in_body = true;
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

    /// Adds the security counter. imgtool writes it before dependencies.
    pub fn security_counter(self, counter: u32) -> Self {
        self.protected_tlv(TlvKind::SecurityCounter, &counter.to_le_bytes())
    }

    /// Adds an image that this one needs.
    pub fn dependency(self, dependency: Dependency) -> Self {
        let mut value = vec![dependency.image_id, 0, 0, 0];
        value.extend(version_bytes(dependency.min_version));
        self.protected_tlv(TlvKind::Dependency, &value)
    }

    /// The image has to fit a slot of `size` bytes together with the trailer of a boot loader that swaps images.
    /// `align`: the largest write of the flash, 1 to 8 bytes.
    pub fn slot_size(mut self, size: usize, align: u8) -> Self {
        self.slot = Some(Slot {
            size,
            align,
            pad: false,
        });
        self
    }

    /// Fills the slot up to its end and puts the magic there by which the boot loader takes the image as a new one. For
    /// programming a flash; over the air it would only take time. Needs [`McubootBuilder::slot_size`].
    pub fn pad(mut self) -> Self {
        if let Some(slot) = &mut self.slot {
            slot.pad = true;
        }
        self
    }

    /// Signs with the Ed25519 key made from `seed` (the 32 secret bytes of RFC 8032).
    pub fn sign_ed25519(mut self, seed: &[u8; 32]) -> Self {
        self.seed = Some(Zeroizing::new(*seed));
        self
    }

    /// The whole image, signed if [`McubootBuilder::sign_ed25519`] was asked for.
    pub fn build(self) -> Result<Vec<u8>, BuildError> {
        let key = self.seed.as_deref().map(PrivateKey::from_ed25519_seed);
        self.finish(key.as_ref(), &mut |_| {})
    }

    /// The whole image, signed with `key`. `entropy` is for RSA; the others are deterministic.
    pub fn build_signed(
        self,
        key: &PrivateKey,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, BuildError> {
        self.finish(Some(key), entropy)
    }

    fn finish(
        mut self,
        key: Option<&PrivateKey>,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, BuildError> {
        let size = usize::from(self.header_size);
        if size < HEADER_FIELDS {
            return Err(BuildError::HeaderSize(self.header_size));
        }
        // The bytes of the header that no field has: erased flash, or what the linker left.
        let mut rest = 0xff;
        if self.header_in_body {
            let room = self.body.get(..size);
            if !room.is_some_and(|room| room.iter().all(|&byte| byte == 0)) {
                return Err(BuildError::NoRoom(self.header_size));
            }
            self.body.drain(..size);
            rest = 0;
        }
        let protected = match self.protected.as_slice() {
            [] => Vec::new(),
            tlvs => tlv_area(PROTECTED_TLV_MAGIC, tlvs)?,
        };
        let mut image = self.header(protected.len())?;
        image.resize(size, rest);
        image.extend_from_slice(&self.body);
        image.extend_from_slice(&protected);
        let digest = sha256(&image);
        let mut tlvs = vec![(TlvKind::Sha256, digest.to_vec())];
        if let Some(key) = key {
            tlvs.push((TlvKind::KeyHash, key.public().key_id().to_vec()));
            let (kind, signature) = key
                .sign_image(&image, &digest, entropy)
                .map_err(|_| BuildError::Signature)?;
            tlvs.push((kind, signature));
        }
        image.extend(tlv_area(TLV_MAGIC, &tlvs)?);
        self.fit(&mut image)?;
        Ok(image)
    }

    /// Checks that the image fits its slot, and fills it if that is wanted.
    fn fit(&self, image: &mut Vec<u8>) -> Result<(), BuildError> {
        let Some(slot) = self.slot else {
            return Ok(());
        };
        let trailer = trailer_size(slot.align);
        if slot.size.saturating_sub(trailer) < image.len() {
            return Err(BuildError::SlotSize {
                image: image.len(),
                trailer,
                slot: slot.size,
            });
        }
        if slot.pad {
            Padding::append(image, slot.size);
        }
        Ok(())
    }

    fn header(&self, protected_size: usize) -> Result<Vec<u8>, BuildError> {
        let img_size = u32::try_from(self.body.len()).map_err(|_| BuildError::Body)?;
        let protected_size = u16::try_from(protected_size).map_err(|_| BuildError::TlvSize)?;
        let flags = if self.load_addr == 0 {
            0
        } else {
            image_flags::RAM_LOAD
        };
        let mut header = Vec::with_capacity(usize::from(self.header_size) + self.body.len() + 1024);
        header.extend(IMAGE_MAGIC.to_le_bytes());
        header.extend(self.load_addr.to_le_bytes());
        header.extend(self.header_size.to_le_bytes());
        header.extend(protected_size.to_le_bytes());
        header.extend(img_size.to_le_bytes());
        header.extend(flags.to_le_bytes());
        header.extend(version_bytes(self.version));
        header.extend([0; 4]);
        Ok(header)
    }
}

/// A version as headers and dependencies have it.
fn version_bytes(version: ImageVersion) -> [u8; 8] {
    let mut bytes = [version.major, version.minor, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&version.revision.to_le_bytes());
    bytes[4..].copy_from_slice(&version.build.to_le_bytes());
    bytes
}

/// A TLV area: magic, its own size, then type, size and value of each entry.
fn tlv_area(magic: u16, tlvs: &[(TlvKind, Vec<u8>)]) -> Result<Vec<u8>, BuildError> {
    let mut entries = Vec::new();
    for (kind, value) in tlvs {
        entries.extend(u16::from(*kind).to_le_bytes());
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

    /// imgtool's image and private key of each kind; `tests/vectors/README.md` says how they were made.
    const PAIRS: [(&[u8], &str); 4] = [
        (
            include_bytes!("../../tests/vectors/images/ed25519.bin"),
            include_str!("../../tests/vectors/images/ed25519.key.pem"),
        ),
        (
            include_bytes!("../../tests/vectors/images/ecdsa-p256.bin"),
            include_str!("../../tests/vectors/images/ecdsa-p256.key.pem"),
        ),
        (
            include_bytes!("../../tests/vectors/images/rsa-2048.bin"),
            include_str!("../../tests/vectors/images/rsa-2048.key.pem"),
        ),
        (
            include_bytes!("../../tests/vectors/images/rsa-3072.bin"),
            include_str!("../../tests/vectors/images/rsa-3072.key.pem"),
        ),
    ];

    /// The inputs of those images.
    fn paired(body: Vec<u8>) -> McubootBuilder {
        let version = "1.2.3+4".parse::<ImageVersion>().unwrap();
        McubootBuilder::new(body, version)
            .security_counter(version.to_ts006())
            .dependency(Dependency {
                image_id: 1,
                min_version: "1.2.0".parse().unwrap(),
            })
    }

    #[test]
    fn every_kind_of_key_signs_and_all_but_the_signature_is_as_imgtool_makes_it() {
        for (theirs, pem) in PAIRS {
            let key = PrivateKey::from_pem(pem).unwrap();
            let body: Vec<u8> = (0..64).collect();
            let ours = paired(body)
                .build_signed(&key, &mut |bytes| bytes.fill(3))
                .unwrap();
            let image = McubootImage::parse(&ours).unwrap();
            assert_eq!(
                image.verify(&ours, &[key.public()]),
                Ok(key.public().key_id())
            );
            let (kind, _) = image.signature_kind().unwrap();
            let at = |bytes: &[u8]| {
                let image = McubootImage::parse(bytes).unwrap();
                image
                    .tlvs
                    .iter()
                    .find(|tlv| tlv.kind == kind)
                    .unwrap()
                    .range
                    .start
            };
            let (signature, covered) = (at(&ours), image.signed_len);
            assert_eq!(signature, at(theirs));
            // The closing area states its size, and an ECDSA signature has 70 to 72 bytes.
            assert_eq!(ours[..covered + 2], theirs[..covered + 2]);
            assert_eq!(
                ours[covered + 4..signature - 2],
                theirs[covered + 4..signature - 2]
            );
        }
        let key = PrivateKey::from_pem(PAIRS[0].1).unwrap();
        let ours = paired((0..64).collect())
            .build_signed(&key, &mut |_| {})
            .unwrap();
        assert_eq!(ours, PAIRS[0].0);
    }

    #[test]
    fn a_header_takes_the_place_the_linker_left() {
        let builder = |body: &[u8]| McubootBuilder::new(body.to_vec(), ImageVersion::default());
        let body = [&[0; 0x40][..], b"code"].concat();
        let image = builder(&body)
            .header_size(0x40)
            .header_in_body()
            .build()
            .unwrap();
        let parsed = McubootImage::parse(&image).unwrap();
        assert_eq!(&image[parsed.body()], b"code");
        assert!(image[0x20..0x40].iter().all(|&byte| byte == 0));
        for body in [&b"code"[..], &[&[0; 0x3f][..], b"code"].concat()] {
            let refused = builder(body).header_size(0x40).header_in_body().build();
            assert_eq!(refused, Err(BuildError::NoRoom(0x40)));
        }
    }

    #[test]
    fn a_slot_has_room_for_the_trailer_too() {
        let builder = || McubootBuilder::new(vec![1; 100], ImageVersion::default());
        let len = builder().build().unwrap().len();
        assert_eq!(
            builder().slot_size(len + 1584, 4).build().unwrap().len(),
            len
        );
        assert_eq!(
            builder().slot_size(len + 1583, 4).pad().build(),
            Err(BuildError::SlotSize {
                image: len,
                trailer: 1584,
                slot: len + 1583
            })
        );
        let padded = builder().slot_size(8192, 4).pad().build().unwrap();
        assert_eq!(padded.len(), 8192);
        assert_eq!(
            McubootImage::parse(&padded).unwrap().padding,
            Padding::Trailer
        );
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
