//! TS006 firmware management, version 1.0.0: versions, reboot, and the image a device holds.
//!
//! There is one version; the version argument is there so that all packages are called alike. Does not decide when to
//! reboot.

use super::package::{
    CID_PACKAGE_VERSION, PackageVersionAns, bit, decode_commands, set_flags, take,
};
use super::{DecodeError, Decoded, PackageVersion};

/// `PackageIdentifier` of TS006.
pub const PACKAGE_IDENTIFIER: u8 = 4;
/// Recommended FPort (TS006-1.0.0 §2); a device profile may name another.
pub const DEFAULT_F_PORT: u8 = 203;
/// `reboot_time` that reboots at once. A device that does so does not answer.
pub const REBOOT_TIME_NOW: u32 = 0;
/// `reboot_time` that cancels a programmed reboot; also the answer to it.
pub const REBOOT_TIME_CANCEL: u32 = u32::MAX;
/// `countdown` that reboots at once. A device that does so does not answer.
pub const COUNTDOWN_NOW: u32 = 0;
/// `countdown` that cancels a programmed reboot; also the answer to it.
pub const COUNTDOWN_CANCEL: u32 = 0xff_ffff;

const CID_DEV_VERSION: u8 = 0x01;
const CID_DEV_REBOOT_TIME: u8 = 0x02;
const CID_DEV_REBOOT_COUNTDOWN: u8 = 0x03;
const CID_DEV_UPGRADE_IMAGE: u8 = 0x04;
const CID_DEV_DELETE_IMAGE: u8 = 0x05;

/// Server to device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownlinkCommand {
    /// Asks for the package's version (TS006-1.0.0 §3.1).
    PackageVersionReq,
    /// Asks for the firmware and hardware version (TS006-1.0.0 §3.2).
    DevVersionReq,
    /// Programs a reboot at a time.
    DevRebootTimeReq(DevRebootTimeReq),
    /// Programs a reboot after a delay.
    DevRebootCountdownReq(DevRebootCountdownReq),
    /// Asks for the image the device holds (TS006-1.0.0 §3.5).
    DevUpgradeImageReq,
    /// Deletes an image the device holds.
    DevDeleteImageReq(DevDeleteImageReq),
}

/// Device to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkCommand {
    /// The package's version.
    PackageVersionAns(PackageVersionAns),
    /// Firmware and hardware version.
    DevVersionAns(DevVersionAns),
    /// Whether a reboot at a time is programmed.
    DevRebootTimeAns(DevRebootTimeAns),
    /// Whether a reboot after a delay is programmed.
    DevRebootCountdownAns(DevRebootCountdownAns),
    /// The image the device holds.
    DevUpgradeImageAns(DevUpgradeImageAns),
    /// Whether an image was deleted.
    DevDeleteImageAns(DevDeleteImageAns),
}

/// TS006-1.0.0 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevVersionAns {
    /// Version of the firmware that runs; its meaning is the manufacturer's.
    pub fw_version: u32,
    /// Version of the hardware; its meaning is the manufacturer's.
    pub hw_version: u32,
}

/// TS006-1.0.0 §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevRebootTimeReq {
    /// GPS seconds modulo 2^32, [`REBOOT_TIME_NOW`] or [`REBOOT_TIME_CANCEL`].
    pub reboot_time: u32,
}

/// TS006-1.0.0 §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevRebootTimeAns {
    /// Seconds from the answer to the reboot, unlike the request. 0: refused, past or no clock. [`REBOOT_TIME_CANCEL`]:
    /// cancelled.
    pub reboot_time: u32,
}

impl DevRebootTimeAns {
    /// Whether the device did what was asked, be it programming or cancelling.
    pub fn is_accepted(&self) -> bool {
        self.reboot_time != 0
    }
}

/// TS006-1.0.0 §3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevRebootCountdownReq {
    /// Seconds, 24 bits; [`COUNTDOWN_NOW`] or [`COUNTDOWN_CANCEL`]. Only the low 24 bits are sent.
    pub countdown: u32,
}

/// TS006-1.0.0 §3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevRebootCountdownAns {
    /// Seconds from the answer to the reboot, 24 bits. 0: refused. [`COUNTDOWN_CANCEL`]: cancelled.
    pub countdown: u32,
}

impl DevRebootCountdownAns {
    /// Whether the device did what was asked, be it programming or cancelling.
    pub fn is_accepted(&self) -> bool {
        self.countdown != 0
    }
}

/// TS006-1.0.0 §3.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevUpgradeImageAns {
    /// What the device holds.
    pub up_image_status: UpImageStatus,
}

/// What image a device holds (TS006-1.0.0 §3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpImageStatus {
    /// 0: none.
    NoImage,
    /// 1: corrupt, or its signature is wrong.
    Corrupt,
    /// 2: for other hardware.
    WrongHardware,
    /// 3: good; installed at the next reboot.
    Valid {
        /// Version of the image; its meaning is the manufacturer's.
        next_firmware_version: u32,
    },
}

/// TS006-1.0.0 §3.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevDeleteImageReq {
    /// Version of the image to delete.
    pub firmware_to_delete_version: u32,
}

/// TS006-1.0.0 §3.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevDeleteImageAns {
    /// The device holds an image of another version.
    pub error_invalid_version: bool,
    /// The device holds no valid image.
    pub error_no_valid_image: bool,
}

impl DevDeleteImageAns {
    /// Whether the image was deleted.
    pub fn is_accepted(&self) -> bool {
        self.errors().next().is_none()
    }

    /// Spec words for the error bits that are set.
    pub fn errors(&self) -> impl Iterator<Item = &'static str> {
        set_flags([
            (self.error_invalid_version, "ErrorInvalidVersion"),
            (self.error_no_valid_image, "ErrorNoValidImage"),
        ])
    }
}

impl DownlinkCommand {
    /// Appends the command. Bits that a field has no room for are not sent.
    pub fn encode(&self, _version: PackageVersion, out: &mut Vec<u8>) {
        match self {
            Self::PackageVersionReq => out.push(CID_PACKAGE_VERSION),
            Self::DevVersionReq => out.push(CID_DEV_VERSION),
            Self::DevRebootTimeReq(request) => {
                out.push(CID_DEV_REBOOT_TIME);
                out.extend(request.reboot_time.to_le_bytes());
            }
            Self::DevRebootCountdownReq(request) => {
                out.push(CID_DEV_REBOOT_COUNTDOWN);
                out.extend(countdown_bytes(request.countdown));
            }
            Self::DevUpgradeImageReq => out.push(CID_DEV_UPGRADE_IMAGE),
            Self::DevDeleteImageReq(request) => {
                out.push(CID_DEV_DELETE_IMAGE);
                out.extend(request.firmware_to_delete_version.to_le_bytes());
            }
        }
    }
}

impl UplinkCommand {
    /// Appends the command. Bits that a field has no room for are not sent.
    pub fn encode(&self, _version: PackageVersion, out: &mut Vec<u8>) {
        match self {
            Self::PackageVersionAns(answer) => answer.encode(out),
            Self::DevVersionAns(answer) => {
                out.push(CID_DEV_VERSION);
                out.extend(answer.fw_version.to_le_bytes());
                out.extend(answer.hw_version.to_le_bytes());
            }
            Self::DevRebootTimeAns(answer) => {
                out.push(CID_DEV_REBOOT_TIME);
                out.extend(answer.reboot_time.to_le_bytes());
            }
            Self::DevRebootCountdownAns(answer) => {
                out.push(CID_DEV_REBOOT_COUNTDOWN);
                out.extend(countdown_bytes(answer.countdown));
            }
            Self::DevUpgradeImageAns(answer) => {
                out.push(CID_DEV_UPGRADE_IMAGE);
                match answer.up_image_status {
                    UpImageStatus::NoImage => out.push(0),
                    UpImageStatus::Corrupt => out.push(1),
                    UpImageStatus::WrongHardware => out.push(2),
                    UpImageStatus::Valid {
                        next_firmware_version,
                    } => {
                        out.push(3);
                        out.extend(next_firmware_version.to_le_bytes());
                    }
                }
            }
            Self::DevDeleteImageAns(answer) => {
                let status = u8::from(answer.error_invalid_version) << 1
                    | u8::from(answer.error_no_valid_image);
                out.extend([CID_DEV_DELETE_IMAGE, status]);
            }
        }
    }
}

/// Reads what a server sent.
pub fn decode_downlink(_version: PackageVersion, bytes: &[u8]) -> Decoded<DownlinkCommand> {
    decode_commands(bytes, read_downlink)
}

/// Reads the command `cid` of such a frame; `rest` is what is behind the identifier.
pub(super) fn read_downlink(cid: u8, rest: &mut &[u8]) -> Result<DownlinkCommand, DecodeError> {
    match cid {
        CID_PACKAGE_VERSION => Ok(DownlinkCommand::PackageVersionReq),
        CID_DEV_VERSION => Ok(DownlinkCommand::DevVersionReq),
        CID_DEV_REBOOT_TIME => {
            let reboot_time = u32::from_le_bytes(take(rest, "DevRebootTimeReq")?);
            Ok(DownlinkCommand::DevRebootTimeReq(DevRebootTimeReq {
                reboot_time,
            }))
        }
        CID_DEV_REBOOT_COUNTDOWN => {
            let [a, b, c] = take(rest, "DevRebootCountdownReq")?;
            let countdown = u32::from_le_bytes([a, b, c, 0]);
            Ok(DownlinkCommand::DevRebootCountdownReq(
                DevRebootCountdownReq { countdown },
            ))
        }
        CID_DEV_UPGRADE_IMAGE => Ok(DownlinkCommand::DevUpgradeImageReq),
        CID_DEV_DELETE_IMAGE => {
            let firmware_to_delete_version = u32::from_le_bytes(take(rest, "DevDeleteImageReq")?);
            Ok(DownlinkCommand::DevDeleteImageReq(DevDeleteImageReq {
                firmware_to_delete_version,
            }))
        }
        cid => Err(unknown_command(cid)),
    }
}

/// Reads what a device sent.
pub fn decode_uplink(_version: PackageVersion, bytes: &[u8]) -> Decoded<UplinkCommand> {
    decode_commands(bytes, read_uplink)
}

/// Reads the command `cid` of such a frame; `rest` is what is behind the identifier.
pub(super) fn read_uplink(cid: u8, rest: &mut &[u8]) -> Result<UplinkCommand, DecodeError> {
    match cid {
        CID_PACKAGE_VERSION => {
            PackageVersionAns::decode(rest).map(UplinkCommand::PackageVersionAns)
        }
        CID_DEV_VERSION => {
            let [f0, f1, f2, f3, h0, h1, h2, h3] = take(rest, "DevVersionAns")?;
            Ok(UplinkCommand::DevVersionAns(DevVersionAns {
                fw_version: u32::from_le_bytes([f0, f1, f2, f3]),
                hw_version: u32::from_le_bytes([h0, h1, h2, h3]),
            }))
        }
        CID_DEV_REBOOT_TIME => {
            let reboot_time = u32::from_le_bytes(take(rest, "DevRebootTimeAns")?);
            Ok(UplinkCommand::DevRebootTimeAns(DevRebootTimeAns {
                reboot_time,
            }))
        }
        CID_DEV_REBOOT_COUNTDOWN => {
            let [a, b, c] = take(rest, "DevRebootCountdownAns")?;
            let countdown = u32::from_le_bytes([a, b, c, 0]);
            Ok(UplinkCommand::DevRebootCountdownAns(
                DevRebootCountdownAns { countdown },
            ))
        }
        CID_DEV_UPGRADE_IMAGE => {
            DevUpgradeImageAns::decode(rest).map(UplinkCommand::DevUpgradeImageAns)
        }
        CID_DEV_DELETE_IMAGE => {
            let [status] = take(rest, "DevDeleteImageAns")?;
            Ok(UplinkCommand::DevDeleteImageAns(DevDeleteImageAns {
                error_invalid_version: bit(status, 1),
                error_no_valid_image: bit(status, 0),
            }))
        }
        cid => Err(unknown_command(cid)),
    }
}

impl DevUpgradeImageAns {
    fn decode(rest: &mut &[u8]) -> Result<Self, DecodeError> {
        let command = "DevUpgradeImageAns";
        let status = rest.first().map_or(0, |status| status & 3);
        let up_image_status = if status == 3 {
            let [_, a, b, c, d] = take(rest, command)?;
            UpImageStatus::Valid {
                next_firmware_version: u32::from_le_bytes([a, b, c, d]),
            }
        } else {
            let [_] = take(rest, command)?;
            match status {
                0 => UpImageStatus::NoImage,
                1 => UpImageStatus::Corrupt,
                _ => UpImageStatus::WrongHardware,
            }
        };
        Ok(Self { up_image_status })
    }
}

fn countdown_bytes(countdown: u32) -> [u8; 3] {
    let [a, b, c, _] = countdown.to_le_bytes();
    [a, b, c]
}

fn unknown_command(cid: u8) -> DecodeError {
    DecodeError::UnknownCommand {
        package: "firmware management",
        cid,
    }
}
