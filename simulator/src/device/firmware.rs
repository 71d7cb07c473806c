//! TS006 on the device, and the boot loader behind it: the firmware that runs, the image that waits, the reboot that is
//! due.

use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::firmware::delta::{self, DeltaError, DeltaHeader};
use lorawan_fuota::firmware::{Container, ImageError, McubootImage};
use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::firmware_management::{
    COUNTDOWN_CANCEL, COUNTDOWN_NOW, DEFAULT_F_PORT, DevDeleteImageAns, DevDeleteImageReq,
    DevRebootCountdownAns, DevRebootCountdownReq, DevRebootTimeAns, DevRebootTimeReq,
    DevUpgradeImageAns, DevVersionAns, DownlinkCommand, PACKAGE_IDENTIFIER, REBOOT_TIME_CANCEL,
    REBOOT_TIME_NOW, UpImageStatus, UplinkCommand, decode_downlink,
};
use lorawan_fuota::time::Timestamp;

use super::clock::micros;
use super::config::{FirmwareConfig, ImageCheck, Payloads};
use super::environment::Environment;
use super::outbox::Content;
use super::reading::read_commands;

/// The package's memory, all of it in flash but the reboot.
#[derive(Clone, Debug)]
pub(super) struct FirmwareManagement {
    running_version: u32,
    image: UpImageStatus,
    bytes: Option<Vec<u8>>,
    base: Option<Arc<[u8]>>,
    reboot_at: Option<Timestamp>,
}

impl FirmwareManagement {
    pub(super) fn new(config: &FirmwareConfig) -> Self {
        Self {
            running_version: config.version,
            image: UpImageStatus::NoImage,
            bytes: None,
            base: config.base_image.clone(),
            reboot_at: None,
        }
    }

    pub(super) fn running_version(&self) -> u32 {
        self.running_version
    }

    /// The image received last and what the check said of it.
    pub(super) fn image(&self) -> Option<(&[u8], UpImageStatus)> {
        Some((self.bytes.as_deref()?, self.image))
    }

    pub(super) fn reboot_at(&self) -> Option<Timestamp> {
        self.reboot_at
    }

    /// Takes a reassembled data block as the next image and checks it.
    pub(super) fn store(&mut self, bytes: Vec<u8>, environment: &mut Environment<'_>) {
        let bytes = match self.unpack(bytes) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.image = UpImageStatus::Corrupt;
                self.bytes = None;
                environment.note(format_args!("delta refused: {error}"));
                return;
            }
        };
        let checked = check(&bytes, &environment.config.firmware);
        self.bytes = Some(bytes);
        match checked {
            Ok(version) => self.take(version, environment),
            Err(error) => {
                self.image = UpImageStatus::Corrupt;
                environment.note(format_args!("image refused: {error}"));
            }
        }
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

    /// Takes a data block whose bytes nobody kept for a good image of the version it was told of.
    pub(super) fn believe(&mut self, environment: &mut Environment<'_>) {
        self.bytes = None;
        match environment.config.payloads {
            Payloads::Counted { version } => self.take(version, environment),
            Payloads::Kept => self.image = UpImageStatus::Corrupt,
        }
    }

    /// A good image of this version waits.
    fn take(&mut self, version: u32, environment: &mut Environment<'_>) {
        self.image = UpImageStatus::Valid {
            next_firmware_version: version,
        };
        environment.note(format_args!("image of version {version:#010x} is good"));
        if environment.config.firmware.installs_by_itself {
            let delay = environment.answer_delay() + Duration::from_secs(1);
            self.reboot_at = Some(environment.now + delay);
        }
    }

    /// The device goes down: a good image is installed and no longer reported.
    pub(super) fn install(&mut self, rolls_back: bool) {
        self.reboot_at = None;
        if let UpImageStatus::Valid {
            next_firmware_version,
        } = self.image
        {
            if !rolls_back {
                self.running_version = next_firmware_version;
                if let (Some(base), Some(image)) = (&mut self.base, &self.bytes) {
                    *base = image.as_slice().into();
                }
            }
            self.image = UpImageStatus::NoImage;
        }
    }

    /// A downlink to the application, which may be the order to reboot.
    pub(super) fn hear_application(
        &mut self,
        f_port: u8,
        payload: &[u8],
        environment: &mut Environment<'_>,
    ) {
        let order = &environment.config.firmware.reboots_on;
        if order
            .as_ref()
            .is_some_and(|(port, bytes)| (*port, bytes.as_slice()) == (f_port, payload))
        {
            environment.note("the application orders a reboot");
            self.reboot_at = Some(environment.now + Duration::from_secs(1));
        }
    }

    pub(super) fn handle(&mut self, payload: &[u8], environment: &mut Environment<'_>) {
        let version = PackageVersion::V1;
        let read = read_commands(
            payload,
            environment.quirks().answers.unreadable,
            None,
            |bytes| decode_downlink(version, bytes),
            |command, out| command.encode(version, out),
        );
        for command in read.commands {
            if !environment.takes_another() {
                break;
            }
            let answer = match command {
                DownlinkCommand::PackageVersionReq => {
                    environment.answer_version(
                        DEFAULT_F_PORT,
                        PACKAGE_IDENTIFIER,
                        version.number(),
                    );
                    continue;
                }
                DownlinkCommand::DevVersionReq => UplinkCommand::DevVersionAns(DevVersionAns {
                    fw_version: self.running_version,
                    hw_version: environment.config.firmware.hw_version,
                }),
                DownlinkCommand::DevRebootTimeReq(request) => {
                    match self.reboot_at_time(request, environment) {
                        Some(answer) => UplinkCommand::DevRebootTimeAns(answer),
                        None => continue,
                    }
                }
                DownlinkCommand::DevRebootCountdownReq(request) => {
                    match self.reboot_after(request, environment) {
                        Some(answer) => UplinkCommand::DevRebootCountdownAns(answer),
                        None => continue,
                    }
                }
                DownlinkCommand::DevUpgradeImageReq => {
                    UplinkCommand::DevUpgradeImageAns(DevUpgradeImageAns {
                        up_image_status: self.image,
                    })
                }
                DownlinkCommand::DevDeleteImageReq(request) => {
                    UplinkCommand::DevDeleteImageAns(self.delete_image(request))
                }
            };
            let mut bytes = Vec::new();
            answer.encode(version, &mut bytes);
            // LoRa Basics Modem looks for the two bytes of the short form only.
            let size = match answer {
                UplinkCommand::DevUpgradeImageAns(_) => 2,
                _ => bytes.len(),
            };
            environment.answer_with(DEFAULT_F_PORT, Content::Bytes(bytes), size);
        }
        environment.note_unread(read.rest);
        if read.loses_answers {
            environment.lose_answers();
        }
        environment.send_answers((Duration::ZERO, Duration::ZERO));
    }

    /// No answer to "now": the device goes down instead.
    fn reboot_at_time(
        &mut self,
        request: DevRebootTimeReq,
        environment: &mut Environment<'_>,
    ) -> Option<DevRebootTimeAns> {
        let (now, clock) = (environment.now, &environment.clock);
        let ahead_us = clock
            .read_wire(request.reboot_time, now)
            .saturating_sub(clock.gps_us(now));
        let reboot_time = match request.reboot_time {
            REBOOT_TIME_NOW => {
                self.reboot_at = Some(now);
                return None;
            }
            REBOOT_TIME_CANCEL => {
                self.reboot_at = None;
                REBOOT_TIME_CANCEL
            }
            _ if !clock.is_set() || ahead_us <= 0 => 0,
            wire => {
                self.reboot_at = Some(clock.when(clock.read_wire(wire, now)));
                u32::try_from(ahead_us / 1_000_000).unwrap_or(u32::MAX - 1)
            }
        };
        environment.note(format_args!(
            "reboot at {}: {reboot_time} s",
            request.reboot_time
        ));
        Some(DevRebootTimeAns { reboot_time })
    }

    fn reboot_after(
        &mut self,
        request: DevRebootCountdownReq,
        environment: &mut Environment<'_>,
    ) -> Option<DevRebootCountdownAns> {
        match request.countdown {
            COUNTDOWN_NOW => {
                self.reboot_at = Some(environment.now);
                return None;
            }
            COUNTDOWN_CANCEL => self.reboot_at = None,
            seconds => {
                self.reboot_at = Some(environment.now + micros(i64::from(seconds) * 1_000_000));
            }
        }
        environment.note(format_args!("reboot in {} s", request.countdown));
        Some(DevRebootCountdownAns {
            countdown: request.countdown,
        })
    }

    fn delete_image(&mut self, request: DevDeleteImageReq) -> DevDeleteImageAns {
        let held = match self.image {
            UpImageStatus::Valid {
                next_firmware_version,
            } => Some(next_firmware_version),
            _ => None,
        };
        let matches = held == Some(request.firmware_to_delete_version);
        if matches {
            self.image = UpImageStatus::NoImage;
            self.bytes = None;
        }
        DevDeleteImageAns {
            error_invalid_version: held.is_some() && !matches,
            error_no_valid_image: held.is_none(),
        }
    }
}

/// What the boot loader would say: the version of a good image.
fn check(bytes: &[u8], config: &FirmwareConfig) -> Result<u32, ImageError> {
    if let (ImageCheck::None, Some(version), Ok(Container::Raw)) = (
        config.check,
        config.raw_image_version,
        Container::recognise(bytes),
    ) {
        return Ok(version);
    }
    let image = McubootImage::parse(bytes)?;
    match config.check {
        ImageCheck::None => {}
        ImageCheck::Sha256 => image.verify_sha256(bytes)?,
        ImageCheck::Ed25519(public_key) => image.verify_ed25519(bytes, &public_key)?,
    }
    Ok(image.version.to_ts006())
}
