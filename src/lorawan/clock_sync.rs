//! TS003 clock synchronisation, versions 1.0.0 and 2.0.0: commands and the time correction.
//!
//! Both versions have the same layouts; version 2 renames `ForceDeviceResyncReq` to `ForceDeviceResyncCmd` and defines
//! what a correction beyond 32 bits is. Does not decide when to answer, and knows no clock.

use super::package::{CID_PACKAGE_VERSION, PackageVersionAns, bit, decode_commands, take};
use super::{DecodeError, Decoded, PackageVersion};

/// `PackageIdentifier` of TS003.
pub const PACKAGE_IDENTIFIER: u8 = 1;
/// Recommended FPort (TS003-2.0.0 §2); a device profile may name another.
pub const DEFAULT_F_PORT: u8 = 202;

const CID_APP_TIME: u8 = 0x01;
const CID_DEVICE_APP_TIME_PERIODICITY: u8 = 0x02;
const CID_FORCE_DEVICE_RESYNC: u8 = 0x03;

/// Server to device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownlinkCommand {
    /// Asks for the package's version (TS003-2.0.0 §3.1).
    PackageVersionReq,
    /// Corrects the device's clock.
    AppTimeAns(AppTimeAns),
    /// Sets how often the device asks for the time.
    DeviceAppTimePeriodicityReq(DeviceAppTimePeriodicityReq),
    /// Makes the device ask for the time at once. Version 1 calls it `ForceDeviceResyncReq`.
    ForceDeviceResyncCmd(ForceDeviceResyncCmd),
}

/// Device to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkCommand {
    /// The package's version.
    PackageVersionAns(PackageVersionAns),
    /// Tells the device's time and asks for a correction.
    AppTimeReq(AppTimeReq),
    /// Answers `DeviceAppTimePeriodicityReq`.
    DeviceAppTimePeriodicityAns(DeviceAppTimePeriodicityAns),
}

/// TS003-2.0.0 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppTimeReq {
    /// Device clock at transmission, GPS seconds modulo 2^32.
    pub device_time: u32,
    /// The device wants an answer even when its clock is right.
    pub ans_required: bool,
    /// 0..=15; counts accepted answers. The answer echoes it.
    pub token_req: u8,
}

/// TS003-2.0.0 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppTimeAns {
    /// Seconds to add to the device's clock; see [`time_correction`].
    pub time_correction: i32,
    /// 0..=15; `token_req` of the request answered.
    pub token_ans: u8,
}

/// TS003-2.0.0 §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAppTimePeriodicityReq {
    /// 0..=15; the device asks every `128 * 2^period` seconds, jittered.
    pub period: u8,
}

/// TS003-2.0.0 §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAppTimePeriodicityAns {
    /// The device keeps its own period.
    pub not_supported: bool,
    /// Device clock, GPS seconds modulo 2^32.
    pub time: u32,
}

impl DeviceAppTimePeriodicityAns {
    /// Whether the device took the period over.
    pub fn is_accepted(&self) -> bool {
        !self.not_supported
    }
}

/// TS003-2.0.0 §3.4; version 1 calls it `ForceDeviceResyncReq`. Answered by `AppTimeReq`, not by an answer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForceDeviceResyncCmd {
    /// 0..=7; how many `AppTimeReq` the device sends unless an answer stops it.
    pub nb_transmissions: u8,
}

impl DownlinkCommand {
    /// Appends the command. Bits that a field has no room for are not sent.
    pub fn encode(&self, _version: PackageVersion, out: &mut Vec<u8>) {
        match *self {
            Self::PackageVersionReq => out.push(CID_PACKAGE_VERSION),
            Self::AppTimeAns(AppTimeAns {
                time_correction,
                token_ans,
            }) => {
                out.push(CID_APP_TIME);
                out.extend(time_correction.to_le_bytes());
                out.push(token_ans & 0x0f);
            }
            Self::DeviceAppTimePeriodicityReq(request) => {
                out.extend([CID_DEVICE_APP_TIME_PERIODICITY, request.period & 0x0f]);
            }
            Self::ForceDeviceResyncCmd(command) => {
                out.extend([CID_FORCE_DEVICE_RESYNC, command.nb_transmissions & 0x07]);
            }
        }
    }
}

impl UplinkCommand {
    /// Appends the command. Bits that a field has no room for are not sent.
    pub fn encode(&self, _version: PackageVersion, out: &mut Vec<u8>) {
        match *self {
            Self::PackageVersionAns(answer) => answer.encode(out),
            Self::AppTimeReq(AppTimeReq {
                device_time,
                ans_required,
                token_req,
            }) => {
                out.push(CID_APP_TIME);
                out.extend(device_time.to_le_bytes());
                out.push(u8::from(ans_required) << 4 | token_req & 0x0f);
            }
            Self::DeviceAppTimePeriodicityAns(answer) => {
                out.extend([
                    CID_DEVICE_APP_TIME_PERIODICITY,
                    u8::from(answer.not_supported),
                ]);
                out.extend(answer.time.to_le_bytes());
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
        CID_APP_TIME => {
            let [a, b, c, d, param] = take(rest, "AppTimeAns")?;
            let time_correction = i32::from_le_bytes([a, b, c, d]);
            Ok(DownlinkCommand::AppTimeAns(AppTimeAns {
                time_correction,
                token_ans: param & 0x0f,
            }))
        }
        CID_DEVICE_APP_TIME_PERIODICITY => {
            let [period] = take(rest, "DeviceAppTimePeriodicityReq")?;
            let request = DeviceAppTimePeriodicityReq {
                period: period & 0x0f,
            };
            Ok(DownlinkCommand::DeviceAppTimePeriodicityReq(request))
        }
        CID_FORCE_DEVICE_RESYNC => {
            let [nb_transmissions] = take(rest, "ForceDeviceResyncCmd")?;
            let command = ForceDeviceResyncCmd {
                nb_transmissions: nb_transmissions & 0x07,
            };
            Ok(DownlinkCommand::ForceDeviceResyncCmd(command))
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
        CID_APP_TIME => {
            let [a, b, c, d, param] = take(rest, "AppTimeReq")?;
            Ok(UplinkCommand::AppTimeReq(AppTimeReq {
                device_time: u32::from_le_bytes([a, b, c, d]),
                ans_required: bit(param, 4),
                token_req: param & 0x0f,
            }))
        }
        CID_DEVICE_APP_TIME_PERIODICITY => {
            let [status, a, b, c, d] = take(rest, "DeviceAppTimePeriodicityAns")?;
            Ok(UplinkCommand::DeviceAppTimePeriodicityAns(
                DeviceAppTimePeriodicityAns {
                    not_supported: bit(status, 0),
                    time: u32::from_le_bytes([a, b, c, d]),
                },
            ))
        }
        cid => Err(unknown_command(cid)),
    }
}

/// The correction for a device whose clock showed `device_time` when the network received its request at `gps_seconds`
/// (seconds since 1980-01-06, not reduced).
///
/// Version 1 has no rule for a correction beyond 32 bits, and device clocks count modulo 2^32, so it wraps. Version 2
/// sends the nearest value that fits (`i32::MIN` or `i32::MAX`); the device applies it and asks again (TS003-2.0.0
/// §3.2).
pub fn time_correction(gps_seconds: i64, device_time: u32, version: PackageVersion) -> i32 {
    let difference = gps_seconds.rem_euclid(1 << 32) - i64::from(device_time);
    match version {
        PackageVersion::V1 => {
            let [a, b, c, d, ..] = difference.to_le_bytes();
            i32::from_le_bytes([a, b, c, d])
        }
        PackageVersion::V2 => {
            i32::try_from(difference).unwrap_or(if difference < 0 { i32::MIN } else { i32::MAX })
        }
    }
}

fn unknown_command(cid: u8) -> DecodeError {
    DecodeError::UnknownCommand {
        package: "clock synchronization",
        cid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PackageVersion::{V1, V2};

    #[test]
    fn correction_within_32_bits_is_the_difference() {
        for version in [V1, V2] {
            assert_eq!(time_correction(1_400_000_010, 1_400_000_000, version), 10);
            assert_eq!(time_correction(1_400_000_000, 1_400_000_007, version), -7);
            // A clock never set.
            assert_eq!(time_correction(1_470_000_000, 0, version), 1_470_000_000);
        }
    }

    #[test]
    fn correction_beyond_32_bits_wraps_in_version_1_and_saturates_in_version_2() {
        let (gps_seconds, device_time) = (1_470_000_000, 4_000_000_000);
        assert_eq!(time_correction(gps_seconds, device_time, V1), 1_764_967_296);
        assert_eq!(time_correction(gps_seconds, device_time, V2), i32::MIN);
        assert_eq!(time_correction(4_000_000_000, 0, V2), i32::MAX);
    }

    #[test]
    fn device_clocks_count_modulo_2_to_the_32() {
        for version in [V1, V2] {
            assert_eq!(time_correction((1 << 32) + 5, 5, version), 0);
        }
    }
}
