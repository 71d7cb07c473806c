//! What lies in flash: the parts of the firmware that run, the image that waits for each, and the boot loader that
//! checks images and installs them at a reboot. The commands that speak of it are TS006's, in `firmware`.

use std::fmt;
use std::sync::Arc;

use lorawan_fuota::firmware::delta::{self, DeltaError, DeltaHeader};
use lorawan_fuota::firmware::{Container, ImageError, McubootImage};
use lorawan_fuota::lorawan::firmware_management::{DevDeleteImageAns, UpImageStatus};

use super::config::{FirmwareConfig, ImageCheck, Payloads};
use super::decoding::{Block, Completed};
use super::environment::Environment;

/// Number of the main firmware, which every device has.
const MAIN: u8 = 0;

/// Why a device goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was told to, or chose to.
    Order,
    /// Its power failed.
    PowerFailure,
}

/// The parts of a device's firmware.
#[derive(Clone, Debug)]
pub(super) struct Flash {
    main: Slot,
    parts: Vec<Slot>,
    /// The part the last image was for; `None`: one the device does not have.
    latest: Option<u8>,
}

/// One part: what runs, and the image that waits.
#[derive(Clone, Debug)]
struct Slot {
    number: u8,
    running_version: u32,
    image: UpImageStatus,
    /// The image received last; stays when installed.
    bytes: Option<Vec<u8>>,
    /// The image that runs, where patches are applied to it.
    base: Option<Arc<[u8]>>,
}

/// Why an image is not taken.
#[derive(Debug)]
enum Refusal {
    Delta(DeltaError),
    Image(ImageError),
    NotSeen,
}

impl Flash {
    pub(super) fn new(config: &FirmwareConfig) -> Self {
        let parts = config.parts.iter();
        Self {
            main: Slot::new(MAIN, config.version, config.base_image.clone()),
            parts: parts
                .map(|part| Slot::new(part.number, part.version, None))
                .collect(),
            latest: Some(MAIN),
        }
    }

    /// Version of the main firmware.
    pub(super) fn running_version(&self) -> u32 {
        self.main.running_version
    }

    /// Version of any part.
    pub(super) fn running_version_of(&self, part: u8) -> Option<u32> {
        self.slot(part).map(|slot| slot.running_version)
    }

    /// Versions of the further parts, in the order they were given.
    pub(super) fn part_versions(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().map(|slot| slot.running_version)
    }

    /// What the check said of the image that came last.
    pub(super) fn status(&self) -> UpImageStatus {
        let slot = self.latest.and_then(|part| self.slot(part));
        slot.map_or(UpImageStatus::Corrupt, |slot| slot.image)
    }

    /// The image that came last, if it was kept.
    pub(super) fn latest_image(&self) -> Option<&[u8]> {
        self.slot(self.latest?)?.bytes.as_deref()
    }

    /// Takes a data block as the next image of its part and checks it; whether it is good.
    pub(super) fn store(
        &mut self,
        completed: Completed,
        environment: &mut Environment<'_>,
    ) -> bool {
        let device = environment.config;
        let has_parts = !device.firmware.parts.is_empty();
        let [named, ..] = completed.descriptor;
        let number = if has_parts { named } else { MAIN };
        self.latest = self.slot(number).map(|slot| slot.number);
        let Some(slot) = self.slots_mut().find(|slot| slot.number == number) else {
            environment.note(format_args!("image refused: there is no part {number}"));
            return false;
        };
        slot.bytes = None;
        let checked = match (completed.block, device.payloads) {
            (Block::Bytes(bytes), _) => slot.receive(bytes, &device.firmware),
            // It is told of the main version alone.
            (Block::Counted(_), Payloads::Counted { version }) if !has_parts => Ok(version),
            (Block::Counted(_), _) => Err(Refusal::NotSeen),
        };
        let part = Name(number);
        match checked {
            Ok(version) => {
                slot.image = UpImageStatus::Valid {
                    next_firmware_version: version,
                };
                environment.note(format_args!(
                    "{part}image of version {version:#010x} is good"
                ));
                true
            }
            Err(refusal) => {
                slot.image = UpImageStatus::Corrupt;
                environment.note(format_args!("{part}{refusal}"));
                false
            }
        }
    }

    /// The device goes down: good images are installed and no longer reported. With further parts only upon an order,
    /// and all of them or none.
    pub(super) fn install(&mut self, cause: Cause, environment: &mut Environment<'_>) {
        let config = &environment.config.firmware;
        if !config.parts.is_empty() {
            if cause == Cause::PowerFailure {
                return;
            }
            if self
                .slots()
                .any(|slot| slot.image == UpImageStatus::Corrupt)
            {
                environment.note("an image that waits is corrupt: none is installed");
                return;
            }
        }
        for slot in self.slots_mut() {
            slot.install(config.rolls_back || config.leaves_out == Some(slot.number));
        }
    }

    /// Deletes the good images of this version.
    pub(super) fn delete(&mut self, version: u32) -> DevDeleteImageAns {
        let (mut waiting, mut deleted) = (0, 0);
        for slot in self.slots_mut() {
            let Some(next) = slot.next_version() else {
                continue;
            };
            waiting += 1;
            if next == version {
                deleted += 1;
                slot.image = UpImageStatus::NoImage;
                slot.bytes = None;
            }
        }
        DevDeleteImageAns {
            error_invalid_version: waiting > 0 && deleted == 0,
            error_no_valid_image: waiting == 0,
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.main).chain(&self.parts)
    }

    fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        std::iter::once(&mut self.main).chain(&mut self.parts)
    }

    fn slot(&self, number: u8) -> Option<&Slot> {
        self.slots().find(|slot| slot.number == number)
    }
}

impl Slot {
    fn new(number: u8, running_version: u32, base: Option<Arc<[u8]>>) -> Self {
        Self {
            number,
            running_version,
            image: UpImageStatus::NoImage,
            bytes: None,
            base,
        }
    }

    /// The version that waits.
    fn next_version(&self) -> Option<u32> {
        match self.image {
            UpImageStatus::Valid {
                next_firmware_version,
            } => Some(next_firmware_version),
            _ => None,
        }
    }

    /// Keeps an image; its version if it is good.
    fn receive(&mut self, bytes: Vec<u8>, config: &FirmwareConfig) -> Result<u32, Refusal> {
        let bytes = self.unpack(bytes).map_err(Refusal::Delta)?;
        let part = config.parts.iter().find(|part| part.number == self.number);
        let checked = match part {
            Some(part) if self.number != MAIN => check(&bytes, part.check, part.raw_image_version),
            _ => check(&bytes, config.check, config.raw_image_version),
        };
        self.bytes = Some(bytes);
        checked.map_err(Refusal::Image)
    }

    /// The image a delta makes of the one that runs; anything else is an image already.
    fn unpack(&self, bytes: Vec<u8>) -> Result<Vec<u8>, DeltaError> {
        match &self.base {
            Some(base) if DeltaHeader::parse(&bytes) != Err(DeltaError::Magic) => {
                delta::apply(base, &bytes)
            }
            _ => Ok(bytes),
        }
    }

    /// A good image runs from now on, unless that fails; it no longer waits.
    fn install(&mut self, fails: bool) {
        let Some(version) = self.next_version() else {
            return;
        };
        self.image = UpImageStatus::NoImage;
        if !fails {
            self.running_version = version;
            if let (Some(base), Some(image)) = (&mut self.base, &self.bytes) {
                *base = image.as_slice().into();
            }
        }
    }
}

/// What the boot loader would say: the version of a good image.
fn check(
    bytes: &[u8],
    check: ImageCheck,
    raw_image_version: Option<u32>,
) -> Result<u32, ImageError> {
    if let (ImageCheck::None, Some(version), Ok(Container::Raw)) =
        (check, raw_image_version, Container::recognise(bytes))
    {
        return Ok(version);
    }
    let image = McubootImage::parse(bytes)?;
    match check {
        ImageCheck::None => {}
        ImageCheck::Sha256 => image.verify_sha256(bytes)?,
        ImageCheck::Ed25519(public_key) => image.verify_ed25519(bytes, &public_key)?,
    }
    Ok(image.version.to_ts006())
}

/// A part at the head of a note; the main firmware goes without.
struct Name(u8);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            MAIN => Ok(()),
            number => write!(f, "part {number}: "),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delta(error) => write!(f, "delta refused: {error}"),
            Self::Image(error) => write!(f, "image refused: {error}"),
            Self::NotSeen => write!(f, "image refused: nobody kept its bytes"),
        }
    }
}
