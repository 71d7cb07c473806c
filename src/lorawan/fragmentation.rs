//! TS004 fragmented data block transport, versions 1.0.0 and 2.0.0: commands, fragments and the acknowledgement delay.
//!
//! The layouts of `FragSessionSetupReq`, `FragSessionSetupAns` and `FragSessionStatusAns` differ between the versions
//! and do not say which one they are: the caller must know the device's. Does not code fragments (see `erasure`), does
//! not compute the version 2 MIC, and does not judge what a device's counters mean.

use std::cell::LazyCell;
use std::time::Duration;

use super::package::{
    CID_PACKAGE_VERSION, PackageVersionAns, bit, decode_commands, set_flags, take, take_slice,
};
use super::{DecodeError, Decoded, PackageVersion};

/// `PackageIdentifier` of TS004.
pub const PACKAGE_IDENTIFIER: u8 = 3;
/// Recommended FPort (TS004-2.0.0 §2); a device profile may name another.
pub const DEFAULT_F_PORT: u8 = 201;
/// Largest fragment number: `n` has 14 bits. Bounds `nb_frag` plus redundancy.
pub const N_MAX: u16 = 0x3fff;
/// Bytes a `DataFragment` has in front of its fragment.
pub const DATA_FRAGMENT_OVERHEAD: u8 = 3;

const CID_FRAG_SESSION_STATUS: u8 = 0x01;
const CID_FRAG_SESSION_SETUP: u8 = 0x02;
const CID_FRAG_SESSION_DELETE: u8 = 0x03;
const CID_FRAG_DATA_BLOCK_RECEIVED: u8 = 0x04;
const CID_DATA_FRAGMENT: u8 = 0x08;
/// Bit of the version 2 `FragSessionStatusAns` status for "session does not exist".
const STATUS_SESSION_ABSENT: u8 = 2;

/// Server to device. A [`DataFragment`] is alone in its frame and is read by its own decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownlinkCommand {
    /// Asks for the package's version (TS004-2.0.0 §3.1).
    PackageVersionReq,
    /// Asks how far a session is.
    FragSessionStatusReq(FragSessionStatusReq),
    /// Creates a session.
    FragSessionSetupReq(FragSessionSetupReq),
    /// Deletes a session.
    FragSessionDeleteReq(FragSessionDeleteReq),
    /// Confirms `FragDataBlockReceivedReq`. Version 2 only.
    FragDataBlockReceivedAns(FragDataBlockReceivedAns),
}

/// Device to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkCommand {
    /// The package's version.
    PackageVersionAns(PackageVersionAns),
    /// How far a session is.
    FragSessionStatusAns(FragSessionStatusAns),
    /// Whether a session was created.
    FragSessionSetupAns(FragSessionSetupAns),
    /// Whether a session was deleted.
    FragSessionDeleteAns(FragSessionDeleteAns),
    /// The data block is complete. Version 2 only.
    FragDataBlockReceivedReq(FragDataBlockReceivedReq),
}

/// TS004-2.0.0 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragSessionStatusReq {
    /// 0..=3.
    pub frag_index: u8,
    /// All devices answer; otherwise only those that still miss fragments.
    pub participants: bool,
}

/// TS004-1.0.0 §3.2, TS004-2.0.0 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragSessionStatusAns {
    /// 0..=3. `None` only in version 2 when `session_absent`: that answer ends before the index. Encoded as 0
    /// elsewhere.
    pub frag_index: Option<u8>,
    /// Fragments received, 0..=16383; in version 2 coded and repeated ones count too. 0 when the answer has no index.
    pub nb_frag_received: u16,
    /// Fragments still needed; real devices truncate or saturate it. 0 when the answer has no index.
    pub missing_frag: u8,
    /// Too many fragments lost for the device's memory (version 1: "not enough matrix memory").
    pub memory_error: bool,
    /// The data block is complete but its MIC is wrong. Version 2 only; `false` in version 1.
    pub mic_error: bool,
    /// The session does not exist. Version 2 only; `false` in version 1.
    pub session_absent: bool,
}

impl FragSessionStatusAns {
    /// The version 2 answer that has nothing but "session does not exist".
    pub const SESSION_ABSENT: Self = Self {
        frag_index: None,
        nb_frag_received: 0,
        missing_frag: 0,
        memory_error: false,
        mic_error: false,
        session_absent: true,
    };

    /// Spec words for the error bits that are set.
    pub fn errors(&self) -> impl Iterator<Item = &'static str> {
        set_flags([
            (self.memory_error, "MemoryError"),
            (self.mic_error, "MICError"),
            (self.session_absent, "session does not exist"),
        ])
    }
}

/// TS004-1.0.0 §3.3, TS004-2.0.0 §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragSessionSetupReq {
    /// 0..=3.
    pub frag_index: u8,
    /// 0..=15; bit g lets the multicast group g feed the session. Unicast always may.
    pub mc_group_bit_mask: u8,
    /// Uncoded fragments of the data block.
    pub nb_frag: u16,
    /// Bytes of a fragment.
    pub frag_size: u8,
    /// The device reports the complete data block by itself. Version 2 only.
    pub ack_reception: bool,
    /// 0..=7; 0 is the only code defined. Version 1 calls it the fragmentation matrix.
    pub frag_algo: u8,
    /// 0..=7; see [`block_ack_delay_max`].
    pub block_ack_delay: u8,
    /// Bytes at the end of the last uncoded fragment that are not data.
    pub padding: u8,
    /// Free for the application, wire order.
    pub descriptor: [u8; 4],
    /// Grows with every session of this device and index. Version 2 only; 0 in version 1.
    pub session_cnt: u16,
    /// Authenticates the data block. Version 2 only; zeros in version 1.
    pub mic: [u8; 4],
}

impl FragSessionSetupReq {
    /// Bytes of the data block without padding; `None` when there is more padding than data.
    pub fn data_block_size(&self) -> Option<u32> {
        (u32::from(self.nb_frag) * u32::from(self.frag_size)).checked_sub(u32::from(self.padding))
    }
}

/// TS004-1.0.0 §3.3, TS004-2.0.0 §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragSessionSetupAns {
    /// 0..=3.
    pub frag_index: u8,
    /// The device has already seen this `session_cnt` or a later one. Version 2 only; `false` in version 1.
    pub session_cnt_replay: bool,
    /// The device does not want this descriptor.
    pub wrong_descriptor: bool,
    /// The device has no session of this index.
    pub frag_index_unsupported: bool,
    /// The data block is too large for the device.
    pub not_enough_memory: bool,
    /// The device does not know the code (version 1: "encoding unsupported").
    pub frag_algo_unsupported: bool,
}

impl FragSessionSetupAns {
    /// Whether the session was created.
    pub fn is_accepted(&self) -> bool {
        self.errors().next().is_none()
    }

    /// Spec words for the error bits that are set.
    pub fn errors(&self) -> impl Iterator<Item = &'static str> {
        set_flags([
            (self.session_cnt_replay, "SessionCnt replay"),
            (self.wrong_descriptor, "wrong descriptor"),
            (self.frag_index_unsupported, "FragIndex unsupported"),
            (self.not_enough_memory, "not enough memory"),
            (self.frag_algo_unsupported, "FragAlgo unsupported"),
        ])
    }
}

/// TS004-2.0.0 §3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragSessionDeleteReq {
    /// 0..=3.
    pub frag_index: u8,
}

/// TS004-2.0.0 §3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragSessionDeleteAns {
    /// 0..=3.
    pub frag_index: u8,
    /// There was no such session.
    pub session_absent: bool,
}

impl FragSessionDeleteAns {
    /// Whether a session was deleted.
    pub fn is_accepted(&self) -> bool {
        !self.session_absent
    }
}

/// TS004-2.0.0 §3.6. The request is the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragDataBlockReceivedReq {
    /// 0..=3.
    pub frag_index: u8,
    /// The data block is complete but its MIC is wrong.
    pub mic_error: bool,
}

/// TS004-2.0.0 §3.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragDataBlockReceivedAns {
    /// 0..=3; index of the request.
    pub frag_index: u8,
}

/// One fragment, alone in its frame, unicast or multicast (TS004-2.0.0 §3.5). Same layout in both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFragment<'a> {
    /// 0..=3.
    pub frag_index: u8,
    /// 1..=[`N_MAX`]: up to `nb_frag` an uncoded fragment, above it coded fragment `n - nb_frag`. Devices index arrays
    /// with `n - 1`, so 0 is never sent and never accepted.
    pub n: u16,
    /// `frag_size` bytes, also for the last uncoded fragment.
    pub fragment: &'a [u8],
}

impl<'a> DataFragment<'a> {
    /// Appends the frame's payload. Bits that a field has no room for are not sent.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(CID_DATA_FRAGMENT);
        out.extend(index_and(self.frag_index, self.n));
        out.extend(self.fragment);
    }

    /// Reads a frame's payload.
    ///
    /// # Errors
    /// Not a data fragment, shorter than its head, or fragment number 0.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let command = "DataFragment";
        let (&cid, mut rest) = bytes.split_first().ok_or(DecodeError::Truncated {
            command,
            need: 2,
            have: 0,
        })?;
        if cid != CID_DATA_FRAGMENT {
            return Err(unknown_command(cid));
        }
        let (frag_index, n) = split_index(take(&mut rest, command)?);
        if n == 0 {
            return Err(DecodeError::InvalidField {
                command,
                field: "n",
                value: 0,
            });
        }
        Ok(Self {
            frag_index,
            n,
            fragment: rest,
        })
    }
}

impl DownlinkCommand {
    /// Appends the command. Bits that a field has no room for, and fields the version does not have, are not sent.
    /// `FragDataBlockReceivedAns` has the same bytes in both versions, though only version 2 defines it.
    pub fn encode(&self, version: PackageVersion, out: &mut Vec<u8>) {
        match self {
            Self::PackageVersionReq => out.push(CID_PACKAGE_VERSION),
            Self::FragSessionStatusReq(request) => {
                let byte = (request.frag_index & 3) << 1 | u8::from(request.participants);
                out.extend([CID_FRAG_SESSION_STATUS, byte]);
            }
            Self::FragSessionSetupReq(request) => request.encode(version, out),
            Self::FragSessionDeleteReq(request) => {
                out.extend([CID_FRAG_SESSION_DELETE, request.frag_index & 3])
            }
            Self::FragDataBlockReceivedAns(answer) => {
                out.extend([CID_FRAG_DATA_BLOCK_RECEIVED, answer.frag_index & 3]);
            }
        }
    }
}

impl UplinkCommand {
    /// Appends the command. Bits that a field has no room for, and fields the version does not have, are not sent.
    /// `FragDataBlockReceivedReq` has the same bytes in both versions, though only version 2 defines it.
    pub fn encode(&self, version: PackageVersion, out: &mut Vec<u8>) {
        match self {
            Self::PackageVersionAns(answer) => answer.encode(out),
            Self::FragSessionStatusAns(answer) => answer.encode(version, out),
            Self::FragSessionSetupAns(answer) => answer.encode(version, out),
            Self::FragSessionDeleteAns(answer) => {
                let byte = u8::from(answer.session_absent) << 2 | answer.frag_index & 3;
                out.extend([CID_FRAG_SESSION_DELETE, byte]);
            }
            Self::FragDataBlockReceivedReq(request) => {
                let byte = u8::from(request.mic_error) << 2 | request.frag_index & 3;
                out.extend([CID_FRAG_DATA_BLOCK_RECEIVED, byte]);
            }
        }
    }
}

/// Reads what a server sent, except data fragments: their identifier is an unknown command here.
pub fn decode_downlink(version: PackageVersion, bytes: &[u8]) -> Decoded<DownlinkCommand> {
    decode_commands(bytes, |cid, rest| read_downlink(version, cid, rest))
}

/// Reads the command `cid` of such a frame; `rest` is what is behind the identifier.
pub(super) fn read_downlink(
    version: PackageVersion,
    cid: u8,
    rest: &mut &[u8],
) -> Result<DownlinkCommand, DecodeError> {
    match cid {
        CID_PACKAGE_VERSION => Ok(DownlinkCommand::PackageVersionReq),
        CID_FRAG_SESSION_STATUS => {
            let [byte] = take(rest, "FragSessionStatusReq")?;
            let request = FragSessionStatusReq {
                frag_index: byte >> 1 & 3,
                participants: bit(byte, 0),
            };
            Ok(DownlinkCommand::FragSessionStatusReq(request))
        }
        CID_FRAG_SESSION_SETUP => {
            FragSessionSetupReq::decode(version, rest).map(DownlinkCommand::FragSessionSetupReq)
        }
        CID_FRAG_SESSION_DELETE => {
            let [byte] = take(rest, "FragSessionDeleteReq")?;
            Ok(DownlinkCommand::FragSessionDeleteReq(
                FragSessionDeleteReq {
                    frag_index: byte & 3,
                },
            ))
        }
        CID_FRAG_DATA_BLOCK_RECEIVED if version == PackageVersion::V2 => {
            let [byte] = take(rest, "FragDataBlockReceivedAns")?;
            Ok(DownlinkCommand::FragDataBlockReceivedAns(
                FragDataBlockReceivedAns {
                    frag_index: byte & 3,
                },
            ))
        }
        cid => Err(unknown_command(cid)),
    }
}

/// Reads what a device sent.
///
/// A version 2 status answer for a session that does not exist ends after its status byte, but the SWL2001 stack sends
/// all four bytes. With fewer than three bytes behind the status it is the short form. Otherwise it is the long form,
/// unless only the short form lets everything behind it be read.
pub fn decode_uplink(version: PackageVersion, bytes: &[u8]) -> Decoded<UplinkCommand> {
    let readable = LazyCell::new(|| readable_from(bytes));
    let is_readable = |at: usize| readable.get(at).copied().unwrap_or(false);
    let prefers_short = |rest: &[u8]| {
        let status_at = bytes.len() - rest.len();
        !is_readable(status_at + 4) && is_readable(status_at + 1)
    };
    decode_commands(bytes, |cid, rest| {
        read_uplink(version, cid, rest, prefers_short)
    })
}

/// Reads the command `cid` of such a frame; `rest` is what is behind the identifier. `prefers_short` says of the bytes
/// from the status of an absent session on, at least four, whether the status is alone.
pub(super) fn read_uplink(
    version: PackageVersion,
    cid: u8,
    rest: &mut &[u8],
    prefers_short: impl FnOnce(&[u8]) -> bool,
) -> Result<UplinkCommand, DecodeError> {
    match cid {
        CID_PACKAGE_VERSION => {
            PackageVersionAns::decode(rest).map(UplinkCommand::PackageVersionAns)
        }
        CID_FRAG_SESSION_STATUS => {
            let from_status = *rest;
            let prefers_short = || prefers_short(from_status);
            FragSessionStatusAns::decode(version, rest, prefers_short)
                .map(UplinkCommand::FragSessionStatusAns)
        }
        CID_FRAG_SESSION_SETUP => {
            FragSessionSetupAns::decode(version, rest).map(UplinkCommand::FragSessionSetupAns)
        }
        CID_FRAG_SESSION_DELETE => {
            let [byte] = take(rest, "FragSessionDeleteAns")?;
            let answer = FragSessionDeleteAns {
                frag_index: byte & 3,
                session_absent: bit(byte, 2),
            };
            Ok(UplinkCommand::FragSessionDeleteAns(answer))
        }
        CID_FRAG_DATA_BLOCK_RECEIVED if version == PackageVersion::V2 => {
            let [byte] = take(rest, "FragDataBlockReceivedReq")?;
            let request = FragDataBlockReceivedReq {
                frag_index: byte & 3,
                mic_error: bit(byte, 2),
            };
            Ok(UplinkCommand::FragDataBlockReceivedReq(request))
        }
        cid => Err(unknown_command(cid)),
    }
}

/// Longest time a device waits before it sends a `FragSessionStatusAns` or `FragDataBlockReceivedReq`: it draws a delay
/// between 0 and `2^(block_ack_delay + 4)` seconds (TS004-2.0.0 §3.3). Only the low three bits count.
pub fn block_ack_delay_max(block_ack_delay: u8) -> Duration {
    Duration::from_secs(16 << (block_ack_delay & 7))
}

impl FragSessionSetupReq {
    fn encode(&self, version: PackageVersion, out: &mut Vec<u8>) {
        let control = (self.frag_algo & 7) << 3 | self.block_ack_delay & 7;
        let [nb_frag_low, nb_frag_high] = self.nb_frag.to_le_bytes();
        out.extend([
            CID_FRAG_SESSION_SETUP,
            (self.frag_index & 3) << 4 | self.mc_group_bit_mask & 0x0f,
            nb_frag_low,
            nb_frag_high,
            self.frag_size,
        ]);
        match version {
            PackageVersion::V1 => out.extend([control, self.padding]),
            PackageVersion::V2 => {
                out.extend([u8::from(self.ack_reception) << 6 | control, self.padding])
            }
        }
        out.extend(self.descriptor);
        if version == PackageVersion::V2 {
            out.extend(self.session_cnt.to_le_bytes());
            out.extend(self.mic);
        }
    }

    fn decode(version: PackageVersion, rest: &mut &[u8]) -> Result<Self, DecodeError> {
        let command = "FragSessionSetupReq";
        // Read whole, so that an error tells the size of the whole command.
        let (head, tail): ([u8; 10], [u8; 6]) = match version {
            PackageVersion::V1 => (take(rest, command)?, [0; 6]),
            PackageVersion::V2 => {
                let mut payload = take_slice(rest, command, 16)?;
                (take(&mut payload, command)?, take(&mut payload, command)?)
            }
        };
        let [
            session,
            nb_frag_low,
            nb_frag_high,
            frag_size,
            control,
            padding,
            d0,
            d1,
            d2,
            d3,
        ] = head;
        let [session_cnt_low, session_cnt_high, m0, m1, m2, m3] = tail;
        Ok(Self {
            frag_index: session >> 4 & 3,
            mc_group_bit_mask: session & 0x0f,
            nb_frag: u16::from_le_bytes([nb_frag_low, nb_frag_high]),
            frag_size,
            ack_reception: version == PackageVersion::V2 && bit(control, 6),
            frag_algo: control >> 3 & 7,
            block_ack_delay: control & 7,
            padding,
            descriptor: [d0, d1, d2, d3],
            session_cnt: u16::from_le_bytes([session_cnt_low, session_cnt_high]),
            mic: [m0, m1, m2, m3],
        })
    }
}

impl FragSessionSetupAns {
    fn encode(&self, version: PackageVersion, out: &mut Vec<u8>) {
        let replay = version == PackageVersion::V2 && self.session_cnt_replay;
        out.extend([
            CID_FRAG_SESSION_SETUP,
            (self.frag_index & 3) << 6
                | u8::from(replay) << 4
                | u8::from(self.wrong_descriptor) << 3
                | u8::from(self.frag_index_unsupported) << 2
                | u8::from(self.not_enough_memory) << 1
                | u8::from(self.frag_algo_unsupported),
        ]);
    }

    fn decode(version: PackageVersion, rest: &mut &[u8]) -> Result<Self, DecodeError> {
        let [byte] = take(rest, "FragSessionSetupAns")?;
        Ok(Self {
            frag_index: byte >> 6,
            session_cnt_replay: version == PackageVersion::V2 && bit(byte, 4),
            wrong_descriptor: bit(byte, 3),
            frag_index_unsupported: bit(byte, 2),
            not_enough_memory: bit(byte, 1),
            frag_algo_unsupported: bit(byte, 0),
        })
    }
}

impl FragSessionStatusAns {
    fn encode(&self, version: PackageVersion, out: &mut Vec<u8>) {
        out.push(CID_FRAG_SESSION_STATUS);
        let received_and_index = index_and(self.frag_index.unwrap_or(0), self.nb_frag_received);
        match version {
            PackageVersion::V1 => {
                out.extend(received_and_index);
                out.extend([self.missing_frag, u8::from(self.memory_error)]);
            }
            PackageVersion::V2 => {
                out.push(
                    u8::from(self.session_absent) << STATUS_SESSION_ABSENT
                        | u8::from(self.mic_error) << 1
                        | u8::from(self.memory_error),
                );
                if self.frag_index.is_some() || !self.session_absent {
                    out.extend(received_and_index);
                    out.push(self.missing_frag);
                }
            }
        }
    }

    fn decode(
        version: PackageVersion,
        rest: &mut &[u8],
        prefers_short: impl FnOnce() -> bool,
    ) -> Result<Self, DecodeError> {
        let command = "FragSessionStatusAns";
        if version == PackageVersion::V1 {
            let [low, high, missing_frag, status] = take(rest, command)?;
            let (frag_index, nb_frag_received) = split_index([low, high]);
            return Ok(Self {
                frag_index: Some(frag_index),
                nb_frag_received,
                missing_frag,
                memory_error: bit(status, 0),
                mic_error: false,
                session_absent: false,
            });
        }
        let absent = rest
            .first()
            .is_some_and(|&status| bit(status, STATUS_SESSION_ABSENT));
        if absent && (rest.len() < 4 || prefers_short()) {
            let [status] = take(rest, command)?;
            return Ok(Self {
                memory_error: bit(status, 0),
                mic_error: bit(status, 1),
                ..Self::SESSION_ABSENT
            });
        }
        let [status, low, high, missing_frag] = take(rest, command)?;
        let (frag_index, nb_frag_received) = split_index([low, high]);
        Ok(Self {
            frag_index: Some(frag_index),
            nb_frag_received,
            missing_frag,
            memory_error: bit(status, 0),
            mic_error: bit(status, 1),
            session_absent: bit(status, STATUS_SESSION_ABSENT),
        })
    }
}

/// For each position (and the end) whether the version 2 commands from there on can be read to the end, with either
/// form of each absent status. Filled from the end, so that the work is linear.
fn readable_from(bytes: &[u8]) -> Vec<bool> {
    let mut readable = vec![false; bytes.len() + 1];
    readable[bytes.len()] = true;
    for at in (0..bytes.len()).rev() {
        let ends_well = |payload_size: usize| {
            readable
                .get(at + 1 + payload_size)
                .copied()
                .unwrap_or(false)
        };
        readable[at] = match bytes[at] {
            CID_PACKAGE_VERSION => ends_well(2),
            CID_FRAG_SESSION_STATUS => {
                let absent = bytes
                    .get(at + 1)
                    .is_some_and(|&status| bit(status, STATUS_SESSION_ABSENT));
                ends_well(4) || absent && ends_well(1)
            }
            CID_FRAG_SESSION_SETUP | CID_FRAG_SESSION_DELETE | CID_FRAG_DATA_BLOCK_RECEIVED => {
                ends_well(1)
            }
            _ => false,
        };
    }
    readable
}

/// `FragIndex` in the two high bits of a little-endian word, `value` in the others.
fn index_and(frag_index: u8, value: u16) -> [u8; 2] {
    (u16::from(frag_index & 3) << 14 | value & N_MAX).to_le_bytes()
}

fn split_index(bytes: [u8; 2]) -> (u8, u16) {
    let [_, high] = bytes;
    (high >> 6, u16::from_le_bytes(bytes) & N_MAX)
}

fn unknown_command(cid: u8) -> DecodeError {
    DecodeError::UnknownCommand {
        package: "fragmented data block transport",
        cid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_from_16_s_to_2048_s() {
        let seconds: Vec<u64> = (0..8)
            .map(|code| block_ack_delay_max(code).as_secs())
            .collect();
        assert_eq!(seconds, [16, 32, 64, 128, 256, 512, 1024, 2048]);
        assert_eq!(block_ack_delay_max(8), block_ack_delay_max(0));
    }

    #[test]
    fn fragment_number_0_is_refused() {
        let error = DecodeError::InvalidField {
            command: "DataFragment",
            field: "n",
            value: 0,
        };
        assert_eq!(DataFragment::decode(&[0x08, 0x00, 0x40, 0xaa]), Err(error));
    }

    #[test]
    fn data_fragment_needs_its_head() {
        let truncated = |have| {
            Err(DecodeError::Truncated {
                command: "DataFragment",
                need: 2,
                have,
            })
        };
        assert_eq!(DataFragment::decode(&[]), truncated(0));
        assert_eq!(DataFragment::decode(&[0x08, 0x01]), truncated(1));
        assert!(DataFragment::decode(&[0x01, 0x01, 0x00]).is_err());
    }

    #[test]
    fn errors_of_a_setup_answer_have_names() {
        let answer = FragSessionSetupAns {
            frag_index: 0,
            session_cnt_replay: true,
            wrong_descriptor: false,
            frag_index_unsupported: false,
            not_enough_memory: true,
            frag_algo_unsupported: false,
        };
        assert!(!answer.is_accepted());
        assert!(
            answer
                .errors()
                .eq(["SessionCnt replay", "not enough memory"])
        );
    }

    #[test]
    fn size_of_the_data_block_leaves_padding_out() {
        let bytes = [2, 0x35, 0xe8, 0x02, 50, 5, 8, 1, 2, 3, 4];
        let decoded = decode_downlink(PackageVersion::V1, &bytes);
        let [DownlinkCommand::FragSessionSetupReq(request)] = decoded.commands[..] else {
            panic!("{decoded:?}");
        };
        assert_eq!(request.data_block_size(), Some(744 * 50 - 8));
        assert_eq!(
            FragSessionSetupReq {
                nb_frag: 0,
                ..request
            }
            .data_block_size(),
            None
        );
    }
}
