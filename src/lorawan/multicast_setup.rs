//! TS005 remote multicast setup, versions 1.0.0 and 2.0.0: commands, session lengths and the frequency field.
//!
//! Version 2 adds `StartMissed` and reserved error bits to the session answers; everything else is the same. Does not
//! derive keys and does not plan sessions.

use std::time::Duration;

use super::identifiers::DevAddr;
use super::package::{
    CID_PACKAGE_VERSION, PackageVersionAns, bit, decode_commands, set_flags, take, take_slice,
};
use super::{DecodeError, Decoded, PackageVersion};

/// `PackageIdentifier` of TS005.
pub const PACKAGE_IDENTIFIER: u8 = 2;
/// Recommended FPort (TS005-2.0.0 §2); a device profile may name another.
pub const DEFAULT_F_PORT: u8 = 200;
/// Multicast groups a device can have: `McGroupID` is 0..=3.
pub const MC_GROUP_COUNT: usize = 4;
/// `TimeToStart` of a device whose clock is not set, or of a session more than 194 days ahead.
pub const TIME_TO_START_UNKNOWN: u32 = 0xff_ffff;

const CID_MC_GROUP_STATUS: u8 = 0x01;
const CID_MC_GROUP_SETUP: u8 = 0x02;
const CID_MC_GROUP_DELETE: u8 = 0x03;
const CID_MC_CLASS_C_SESSION: u8 = 0x04;
const CID_MC_CLASS_B_SESSION: u8 = 0x05;
/// From here on the frequency field counts steps of 200 Hz: 2.4 GHz.
const DL_FREQ_200_HZ_FROM: u32 = 12_000_000;
/// Frequency field below 100 MHz, reserved: every device refuses it.
const DL_FREQ_REFUSED: u32 = 1;

/// Server to device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownlinkCommand {
    /// Asks for the package's version (TS005-2.0.0 §3.1).
    PackageVersionReq,
    /// Asks which groups are defined.
    McGroupStatusReq(McGroupStatusReq),
    /// Defines a group.
    McGroupSetupReq(McGroupSetupReq),
    /// Deletes a group.
    McGroupDeleteReq(McGroupDeleteReq),
    /// Announces a class C session.
    McClassCSessionReq(McClassCSessionReq),
    /// Announces a class B session.
    McClassBSessionReq(McClassBSessionReq),
}

/// Device to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkCommand {
    /// The package's version.
    PackageVersionAns(PackageVersionAns),
    /// Which groups are defined.
    McGroupStatusAns(McGroupStatusAns),
    /// Whether a group was defined.
    McGroupSetupAns(McGroupSetupAns),
    /// Whether a group was deleted.
    McGroupDeleteAns(McGroupDeleteAns),
    /// Whether a class C session will start.
    McClassCSessionAns(McSessionAns),
    /// Whether a class B session will start.
    McClassBSessionAns(McSessionAns),
    /// A `McClassCSessionAns` that ends after its identifier. Zephyr sends it when it refuses a data rate or frequency,
    /// so it is a refusal that does not name its group. Only at the end of a frame.
    McClassCSessionAnsWithoutStatus,
    /// A `McClassBSessionAns` that ends after its identifier. Only at the end of a frame.
    McClassBSessionAnsWithoutStatus,
}

/// TS005-2.0.0 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McGroupStatusReq {
    /// 0..=15; bit g asks for group g.
    pub req_group_mask: u8,
}

/// TS005-2.0.0 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McGroupStatusAns {
    /// 0..=7 on the wire, 0..=4 in sense: groups the device has, asked for or not.
    pub nb_total_groups: u8,
    /// Address of each group reported, by `McGroupID`. A group that was asked for and is missing is not defined, or did
    /// not fit into the answer: compare with `nb_total_groups` and ask again.
    pub mc_addr: [Option<DevAddr>; MC_GROUP_COUNT],
}

impl McGroupStatusAns {
    /// Bit g is set when group g is reported.
    pub fn ans_group_mask(&self) -> u8 {
        (0..).zip(&self.mc_addr).fold(0, |mask, (id, mc_addr)| {
            mask | u8::from(mc_addr.is_some()) << id
        })
    }
}

/// TS005-2.0.0 §3.3.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct McGroupSetupReq {
    /// 0..=3.
    pub mc_group_id: u8,
    /// Address of the group. Some stacks cannot derive keys for 0.
    pub mc_addr: DevAddr,
    /// `McKey` under the device's `McKEKey`, in the order of an AES block.
    pub mc_key_encrypted: [u8; 16],
    /// Next frame counter the server will use.
    pub min_mc_f_cnt: u32,
    /// Frame counter from which on the device refuses frames.
    pub max_mc_f_cnt: u32,
}

/// Leaves the key out.
impl std::fmt::Debug for McGroupSetupReq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McGroupSetupReq")
            .field("mc_group_id", &self.mc_group_id)
            .field("mc_addr", &self.mc_addr)
            .field("min_mc_f_cnt", &self.min_mc_f_cnt)
            .field("max_mc_f_cnt", &self.max_mc_f_cnt)
            .finish_non_exhaustive()
    }
}

/// TS005-2.0.0 §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McGroupSetupAns {
    /// 0..=3.
    pub mc_group_id: u8,
    /// The device cannot define this group. LoRaMac-node also answers so while its radio is busy.
    pub id_error: bool,
}

impl McGroupSetupAns {
    /// Whether the group is defined.
    pub fn is_accepted(&self) -> bool {
        !self.id_error
    }
}

/// TS005-2.0.0 §3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McGroupDeleteReq {
    /// 0..=3.
    pub mc_group_id: u8,
}

/// TS005-2.0.0 §3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McGroupDeleteAns {
    /// 0..=3.
    pub mc_group_id: u8,
    /// There was no such group.
    pub mc_group_undefined: bool,
}

impl McGroupDeleteAns {
    /// Whether a group was deleted.
    pub fn is_accepted(&self) -> bool {
        !self.mc_group_undefined
    }
}

/// TS005-2.0.0 §3.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McClassCSessionReq {
    /// 0..=3.
    pub mc_group_id: u8,
    /// Start, GPS seconds modulo 2^32; at most 2^24 - 1 s ahead.
    pub session_time: u32,
    /// 0..=15; see [`class_c_session_length_max`].
    pub session_time_out: u8,
    /// Frequency in Hz; must pass [`dl_freq_to_wire`].
    pub dl_freq_hz: u32,
    /// 0..=15; data rate index of the region.
    pub dr: u8,
}

/// TS005-2.0.0 §3.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McClassBSessionReq {
    /// 0..=3.
    pub mc_group_id: u8,
    /// Start, GPS seconds modulo 2^32, a multiple of 128; at most 2^24 - 1 s ahead.
    pub session_time: u32,
    /// 0..=7; the device opens `2^(7 - periodicity)` ping slots in a beacon period.
    pub periodicity: u8,
    /// 0..=15; see [`class_b_session_length_max`]. Its unit is not that of class C.
    pub session_time_out: u8,
    /// Frequency in Hz; must pass [`dl_freq_to_wire`]. 0 hops as the beacon does, in regions where that hops.
    pub dl_freq_hz: u32,
    /// 0..=15; data rate index of the region.
    pub dr: u8,
}

/// `McClassCSessionAns` and `McClassBSessionAns`: they have one layout (TS005-2.0.0 §3.5, §3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McSessionAns {
    /// 0..=3.
    pub mc_group_id: u8,
    /// The device does not have the group. LoRaMac-node also says so when the start is past.
    pub mc_group_undefined: bool,
    /// The device cannot use the frequency.
    pub freq_error: bool,
    /// The device cannot use the data rate.
    pub dr_error: bool,
    /// The start is past. Only version 2 defines it, but stacks send it in version 1 too.
    pub start_missed: bool,
    /// A bit is set that version 2 reserves for errors to come. `false` in version 1.
    pub reserved_error: bool,
    /// Seconds from this answer to the start, or [`TIME_TO_START_UNKNOWN`]. `Some` exactly when there is no error;
    /// encoding takes a missing one for unknown and ignores one next to an error.
    pub time_to_start: Option<u32>,
}

/// Answer to `McClassCSessionReq`.
pub type McClassCSessionAns = McSessionAns;
/// Answer to `McClassBSessionReq`.
pub type McClassBSessionAns = McSessionAns;

impl McSessionAns {
    /// Whether the session will start. A device without time accepts too, with [`TIME_TO_START_UNKNOWN`].
    pub fn is_accepted(&self) -> bool {
        self.errors().next().is_none()
    }

    /// Spec words for the error bits that are set.
    pub fn errors(&self) -> impl Iterator<Item = &'static str> {
        set_flags([
            (self.mc_group_undefined, "McGroupUndefined"),
            (self.freq_error, "FreqError"),
            (self.dr_error, "DRError"),
            (self.start_missed, "StartMissed"),
            (self.reserved_error, "reserved error"),
        ])
    }
}

impl DownlinkCommand {
    /// Appends the command; both versions have the same layouts. Bits that a field has no room for are not sent. A
    /// frequency the wire cannot carry is sent as a reserved value that every device refuses.
    pub fn encode(&self, _version: PackageVersion, out: &mut Vec<u8>) {
        match self {
            Self::PackageVersionReq => out.push(CID_PACKAGE_VERSION),
            Self::McGroupStatusReq(request) => {
                out.extend([CID_MC_GROUP_STATUS, request.req_group_mask & 0x0f])
            }
            Self::McGroupSetupReq(request) => {
                out.extend([CID_MC_GROUP_SETUP, request.mc_group_id & 3]);
                out.extend(request.mc_addr.0.to_le_bytes());
                out.extend(request.mc_key_encrypted);
                out.extend(request.min_mc_f_cnt.to_le_bytes());
                out.extend(request.max_mc_f_cnt.to_le_bytes());
            }
            Self::McGroupDeleteReq(request) => {
                out.extend([CID_MC_GROUP_DELETE, request.mc_group_id & 3])
            }
            Self::McClassCSessionReq(request) => {
                out.extend([CID_MC_CLASS_C_SESSION, request.mc_group_id & 3]);
                out.extend(request.session_time.to_le_bytes());
                out.push(request.session_time_out & 0x0f);
                out.extend(dl_freq_bytes(request.dl_freq_hz));
                out.push(request.dr & 0x0f);
            }
            Self::McClassBSessionReq(request) => {
                out.extend([CID_MC_CLASS_B_SESSION, request.mc_group_id & 3]);
                out.extend(request.session_time.to_le_bytes());
                out.push((request.periodicity & 7) << 4 | request.session_time_out & 0x0f);
                out.extend(dl_freq_bytes(request.dl_freq_hz));
                out.push(request.dr & 0x0f);
            }
        }
    }
}

impl UplinkCommand {
    /// Appends the command. Bits that a field has no room for are not sent. `StartMissed` is sent in version 1 too, as
    /// real devices do; reserved errors are sent in version 2 only.
    pub fn encode(&self, version: PackageVersion, out: &mut Vec<u8>) {
        match self {
            Self::PackageVersionAns(answer) => answer.encode(out),
            Self::McGroupStatusAns(answer) => answer.encode(out),
            Self::McGroupSetupAns(answer) => {
                out.extend([
                    CID_MC_GROUP_SETUP,
                    u8::from(answer.id_error) << 2 | answer.mc_group_id & 3,
                ]);
            }
            Self::McGroupDeleteAns(answer) => {
                let byte = u8::from(answer.mc_group_undefined) << 2 | answer.mc_group_id & 3;
                out.extend([CID_MC_GROUP_DELETE, byte]);
            }
            Self::McClassCSessionAns(answer) => {
                out.push(CID_MC_CLASS_C_SESSION);
                answer.encode(version, out);
            }
            Self::McClassBSessionAns(answer) => {
                out.push(CID_MC_CLASS_B_SESSION);
                answer.encode(version, out);
            }
            Self::McClassCSessionAnsWithoutStatus => out.push(CID_MC_CLASS_C_SESSION),
            Self::McClassBSessionAnsWithoutStatus => out.push(CID_MC_CLASS_B_SESSION),
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
        CID_MC_GROUP_STATUS => {
            let [mask] = take(rest, "McGroupStatusReq")?;
            Ok(DownlinkCommand::McGroupStatusReq(McGroupStatusReq {
                req_group_mask: mask & 0x0f,
            }))
        }
        CID_MC_GROUP_SETUP => McGroupSetupReq::decode(rest).map(DownlinkCommand::McGroupSetupReq),
        CID_MC_GROUP_DELETE => {
            let [id] = take(rest, "McGroupDeleteReq")?;
            Ok(DownlinkCommand::McGroupDeleteReq(McGroupDeleteReq {
                mc_group_id: id & 3,
            }))
        }
        CID_MC_CLASS_C_SESSION => {
            let session = SessionFields::decode(rest, "McClassCSessionReq")?;
            Ok(DownlinkCommand::McClassCSessionReq(McClassCSessionReq {
                mc_group_id: session.mc_group_id,
                session_time: session.session_time,
                session_time_out: session.time_out & 0x0f,
                dl_freq_hz: session.dl_freq_hz,
                dr: session.dr,
            }))
        }
        CID_MC_CLASS_B_SESSION => {
            let session = SessionFields::decode(rest, "McClassBSessionReq")?;
            Ok(DownlinkCommand::McClassBSessionReq(McClassBSessionReq {
                mc_group_id: session.mc_group_id,
                session_time: session.session_time,
                periodicity: session.time_out >> 4 & 7,
                session_time_out: session.time_out & 0x0f,
                dl_freq_hz: session.dl_freq_hz,
                dr: session.dr,
            }))
        }
        cid => Err(unknown_command(cid)),
    }
}

/// Reads what a device sent.
///
/// A session answer with any error bit is its status byte alone, otherwise `TimeToStart` follows; `StartMissed` is an
/// error in version 1 too.
pub fn decode_uplink(version: PackageVersion, bytes: &[u8]) -> Decoded<UplinkCommand> {
    decode_commands(bytes, |cid, rest| read_uplink(version, cid, rest))
}

/// Reads the command `cid` of such a frame; `rest` is what is behind the identifier.
pub(super) fn read_uplink(
    version: PackageVersion,
    cid: u8,
    rest: &mut &[u8],
) -> Result<UplinkCommand, DecodeError> {
    match cid {
        CID_PACKAGE_VERSION => {
            PackageVersionAns::decode(rest).map(UplinkCommand::PackageVersionAns)
        }
        CID_MC_GROUP_STATUS => McGroupStatusAns::decode(rest).map(UplinkCommand::McGroupStatusAns),
        CID_MC_GROUP_SETUP => {
            let [byte] = take(rest, "McGroupSetupAns")?;
            let answer = McGroupSetupAns {
                mc_group_id: byte & 3,
                id_error: bit(byte, 2),
            };
            Ok(UplinkCommand::McGroupSetupAns(answer))
        }
        CID_MC_GROUP_DELETE => {
            let [byte] = take(rest, "McGroupDeleteAns")?;
            let answer = McGroupDeleteAns {
                mc_group_id: byte & 3,
                mc_group_undefined: bit(byte, 2),
            };
            Ok(UplinkCommand::McGroupDeleteAns(answer))
        }
        CID_MC_CLASS_C_SESSION if rest.is_empty() => {
            Ok(UplinkCommand::McClassCSessionAnsWithoutStatus)
        }
        CID_MC_CLASS_B_SESSION if rest.is_empty() => {
            Ok(UplinkCommand::McClassBSessionAnsWithoutStatus)
        }
        CID_MC_CLASS_C_SESSION => McSessionAns::decode(version, rest, "McClassCSessionAns")
            .map(UplinkCommand::McClassCSessionAns),
        CID_MC_CLASS_B_SESSION => McSessionAns::decode(version, rest, "McClassBSessionAns")
            .map(UplinkCommand::McClassBSessionAns),
        cid => Err(unknown_command(cid)),
    }
}

/// How long a class C session lasts at most: `2^session_time_out` seconds, 1 s to about 9 h (TS005-2.0.0 §3.5). Only
/// the low four bits count.
pub fn class_c_session_length_max(session_time_out: u8) -> Duration {
    Duration::from_secs(1 << (session_time_out & 0x0f))
}

/// How long a class B session lasts at most: `128 * 2^session_time_out` seconds, 128 s to about 48 days (TS005-2.0.0
/// §3.6). Only the low four bits count.
pub fn class_b_session_length_max(session_time_out: u8) -> Duration {
    Duration::from_secs(128 << (session_time_out & 0x0f))
}

/// A frequency in Hz as the 24-bit `DLFreq` field: steps of 100 Hz, or of 200 Hz from 2.4 GHz on.
///
/// `None` when the field cannot carry it: not a whole number of steps, from 1.2 GHz to below 2.4 GHz, or above 3.3 GHz.
pub fn dl_freq_to_wire(hz: u32) -> Option<u32> {
    let wide = hz / 200;
    if wide >= DL_FREQ_200_HZ_FROM {
        return (hz.is_multiple_of(200) && wide <= 0xff_ffff).then_some(wide);
    }
    let narrow = hz / 100;
    (hz.is_multiple_of(100) && narrow < DL_FREQ_200_HZ_FROM).then_some(narrow)
}

/// The frequency in Hz of a `DLFreq` field. Only the low 24 bits count.
pub fn dl_freq_from_wire(raw: u32) -> u32 {
    let raw = raw & 0xff_ffff;
    raw * if raw >= DL_FREQ_200_HZ_FROM { 200 } else { 100 }
}

impl McGroupStatusAns {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend([
            CID_MC_GROUP_STATUS,
            (self.nb_total_groups & 7) << 4 | self.ans_group_mask(),
        ]);
        for (id, mc_addr) in (0_u8..).zip(&self.mc_addr) {
            if let Some(mc_addr) = mc_addr {
                out.push(id);
                out.extend(mc_addr.0.to_le_bytes());
            }
        }
    }

    fn decode(rest: &mut &[u8]) -> Result<Self, DecodeError> {
        let command = "McGroupStatusAns";
        let record_count = rest
            .first()
            .map_or(0, |status| (status & 0x0f).count_ones());
        let size = (0..record_count).fold(1, |size, _| size + 5);
        let mut payload = take_slice(rest, command, size)?;
        let [status] = take(&mut payload, command)?;
        let mut answer = Self {
            nb_total_groups: status >> 4 & 7,
            mc_addr: [None; MC_GROUP_COUNT],
        };
        for _ in 0..record_count {
            let [id, a, b, c, d] = take(&mut payload, command)?;
            let Some(slot) = answer.mc_addr.get_mut(usize::from(id)) else {
                return Err(DecodeError::InvalidField {
                    command,
                    field: "McGroupID",
                    value: u32::from(id),
                });
            };
            *slot = Some(DevAddr(u32::from_le_bytes([a, b, c, d])));
        }
        Ok(answer)
    }
}

impl McGroupSetupReq {
    fn decode(rest: &mut &[u8]) -> Result<Self, DecodeError> {
        let command = "McGroupSetupReq";
        let mut payload = take_slice(rest, command, 29)?;
        let [mc_group_id] = take(&mut payload, command)?;
        Ok(Self {
            mc_group_id: mc_group_id & 3,
            mc_addr: DevAddr(u32::from_le_bytes(take(&mut payload, command)?)),
            mc_key_encrypted: take(&mut payload, command)?,
            min_mc_f_cnt: u32::from_le_bytes(take(&mut payload, command)?),
            max_mc_f_cnt: u32::from_le_bytes(take(&mut payload, command)?),
        })
    }
}

impl McSessionAns {
    fn encode(&self, version: PackageVersion, out: &mut Vec<u8>) {
        let reserved_error = version == PackageVersion::V2 && self.reserved_error;
        let errors = u8::from(reserved_error) << 6
            | u8::from(self.start_missed) << 5
            | u8::from(self.mc_group_undefined) << 4
            | u8::from(self.freq_error) << 3
            | u8::from(self.dr_error) << 2;
        out.push(errors | self.mc_group_id & 3);
        if errors == 0 {
            out.extend(low_three_bytes(
                self.time_to_start.unwrap_or(TIME_TO_START_UNKNOWN),
            ));
        }
    }

    fn decode(
        version: PackageVersion,
        rest: &mut &[u8],
        command: &'static str,
    ) -> Result<Self, DecodeError> {
        let error_bits = match version {
            PackageVersion::V1 => 0x3c,
            PackageVersion::V2 => 0xfc,
        };
        let refused = rest.first().is_some_and(|status| status & error_bits != 0);
        let (status, time_to_start) = if refused {
            let [status] = take(rest, command)?;
            (status, None)
        } else {
            let [status, a, b, c] = take(rest, command)?;
            (status, Some(u32::from_le_bytes([a, b, c, 0])))
        };
        Ok(Self {
            mc_group_id: status & 3,
            mc_group_undefined: bit(status, 4),
            freq_error: bit(status, 3),
            dr_error: bit(status, 2),
            start_missed: bit(status, 5),
            reserved_error: status & error_bits & 0xc0 != 0,
            time_to_start,
        })
    }
}

/// What the two session requests have in common.
struct SessionFields {
    mc_group_id: u8,
    session_time: u32,
    /// The whole byte: class B has the periodicity in it.
    time_out: u8,
    dl_freq_hz: u32,
    dr: u8,
}

impl SessionFields {
    fn decode(rest: &mut &[u8], command: &'static str) -> Result<Self, DecodeError> {
        let [id, t0, t1, t2, t3, time_out, f0, f1, f2, dr] = take(rest, command)?;
        Ok(Self {
            mc_group_id: id & 3,
            session_time: u32::from_le_bytes([t0, t1, t2, t3]),
            time_out,
            dl_freq_hz: dl_freq_from_wire(u32::from_le_bytes([f0, f1, f2, 0])),
            dr: dr & 0x0f,
        })
    }
}

fn dl_freq_bytes(hz: u32) -> [u8; 3] {
    low_three_bytes(dl_freq_to_wire(hz).unwrap_or(DL_FREQ_REFUSED))
}

fn low_three_bytes(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}

fn unknown_command(cid: u8) -> DecodeError {
    DecodeError::UnknownCommand {
        package: "remote multicast setup",
        cid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_have_different_units() {
        assert_eq!(class_c_session_length_max(0), Duration::from_secs(1));
        assert_eq!(class_c_session_length_max(15), Duration::from_secs(32_768));
        assert_eq!(class_b_session_length_max(0), Duration::from_secs(128));
        assert_eq!(
            class_b_session_length_max(15),
            Duration::from_secs(4_194_304)
        );
    }

    #[test]
    fn frequency_has_two_steps() {
        assert_eq!(dl_freq_to_wire(868_100_000), Some(8_681_000));
        assert_eq!(dl_freq_to_wire(2_425_000_000), Some(12_125_000));
        assert_eq!(dl_freq_from_wire(12_125_000), 2_425_000_000);
        assert_eq!(dl_freq_to_wire(0), Some(0));
        for hz in [
            868_100_050,
            1_200_000_000,
            2_399_999_800,
            2_425_000_100,
            3_355_443_200,
        ] {
            assert_eq!(dl_freq_to_wire(hz), None, "{hz}");
        }
    }

    #[test]
    fn impossible_frequency_is_sent_as_one_that_devices_refuse() {
        let request = McClassBSessionReq {
            mc_group_id: 0,
            session_time: 0,
            periodicity: 0,
            session_time_out: 0,
            dl_freq_hz: 1_500_000_000,
            dr: 0,
        };
        let mut out = Vec::new();
        DownlinkCommand::McClassBSessionReq(request).encode(PackageVersion::V2, &mut out);
        assert_eq!(out[7..10], [1, 0, 0]);
    }

    #[test]
    fn group_status_with_an_impossible_group_is_an_error() {
        let decoded = decode_uplink(PackageVersion::V1, &[1, 0x11, 4, 1, 2, 3, 4]);
        let error = DecodeError::InvalidField {
            command: "McGroupStatusAns",
            field: "McGroupID",
            value: 4,
        };
        assert_eq!(
            decoded,
            Decoded {
                commands: Vec::new(),
                rest: Some(error)
            }
        );
    }

    #[test]
    fn debug_output_has_no_key() {
        let request = McGroupSetupReq {
            mc_group_id: 0,
            mc_addr: DevAddr(1),
            mc_key_encrypted: [0xab; 16],
            min_mc_f_cnt: 0,
            max_mc_f_cnt: 9,
        };
        let text = format!("{request:?}");
        assert!(
            text.contains("max_mc_f_cnt: 9") && !text.contains("171"),
            "{text}"
        );
    }
}
