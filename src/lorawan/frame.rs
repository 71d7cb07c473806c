//! Data frames of LoRaWAN 1.0.x in both directions, and the sorting of any received `PHYPayload` by its message type.
//!
//! Built on the `lorawan` crate, behind a wrapper for these reasons: it panics on frames longer than its buffer, so
//! sizes are checked first; it takes a frame with an `FPort` and an empty `FRMPayload` for one without `FPort`, so the
//! header is read here; and `Debug` of its keys prints them, so they never leave this module. It cannot compute the MIC
//! of LoRaWAN 1.1, whose frames are not served.
//!
//! Joining is in `join`, what `FOpts` or port 0 carry in `mac_commands`. No frame counter is kept here.
//! LoRaWAN 1.0.4 §4.

use lorawan::creator::DataPayloadCreator;
use lorawan::default_crypto::DefaultFactory;
use lorawan::keys::{AES128, AppSKey, NewSKey};
use lorawan::maccommands::SerializableMacCommand;
use lorawan::parser::{DataHeader, EncryptedDataPayload};
use serde::{Deserialize, Serialize};

use super::identifiers::DevAddr;
use super::join::{EncryptedJoinAccept, JoinRequest};
use super::keys::Key128;

/// Longest `PHYPayload` the radio can carry, in bytes.
pub const MAX_PHY_LENGTH: usize = 255;

/// Longest `FOpts`, in bytes (LoRaWAN 1.0.4 §4.3.1.6).
pub const MAX_F_OPTS_LENGTH: usize = 15;

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// From an end-device to the network.
    Uplink,
    /// From the network to end-devices.
    Downlink,
}

/// Why bytes are no frame, or a frame cannot be built or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its message type needs.
    #[error("frame of {length} bytes is too short")]
    TooShort {
        /// Length of the `PHYPayload` in bytes.
        length: usize,
    },
    /// Longer than a radio can carry, or than its message type allows.
    #[error("frame of {length} bytes is too long")]
    TooLong {
        /// Length of the `PHYPayload` in bytes.
        length: usize,
    },
    /// The major version is not LoRaWAN R1.
    #[error("unknown major version {major}")]
    UnknownMajor {
        /// The two low bits of the MHDR.
        major: u8,
    },
    /// A rejoin-request or a proprietary frame.
    #[error("unsupported message type {m_type}")]
    UnsupportedMType {
        /// The three high bits of the MHDR.
        m_type: u8,
    },
    /// `FOpts` of more than 15 bytes.
    #[error("FOpts of {length} bytes are too long")]
    FOptsTooLong {
        /// Length of the `FOpts` in bytes.
        length: usize,
    },
    /// `FOpts` together with `FPort` 0, which LoRaWAN 1.0.4 §4.3.1.6 forbids.
    #[error("FOpts beside FPort 0")]
    FOptsBesidePort0,
    /// A `FRMPayload` without an `FPort`.
    #[error("payload without FPort")]
    PayloadWithoutFPort,
    /// The MIC does not fit the key.
    #[error("wrong MIC")]
    WrongMic,
    /// A field holds more than its wire format can.
    #[error("{field} does not fit its field")]
    OutOfRange {
        /// Name of the field in the specification.
        field: &'static str,
    },
}

/// A received frame, not yet authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A request to join.
    JoinRequest(JoinRequest),
    /// The encrypted answer to a request to join.
    JoinAccept(EncryptedJoinAccept),
    /// Data, confirmed or not, up or down.
    Data(DataFrame),
}

impl Frame {
    /// Sorts a `PHYPayload` by its message type. Checks form only: no MIC.
    ///
    /// # Errors
    /// Any of the variants of [`FrameError`] about form.
    pub fn parse(phy_payload: &[u8]) -> Result<Self, FrameError> {
        let length = phy_payload.len();
        let &mhdr = phy_payload.first().ok_or(FrameError::TooShort { length })?;
        if length > MAX_PHY_LENGTH {
            return Err(FrameError::TooLong { length });
        }
        if mhdr & 0x03 != 0 {
            return Err(FrameError::UnknownMajor { major: mhdr & 0x03 });
        }
        match mhdr >> 5 {
            0 => JoinRequest::parse(phy_payload).map(Self::JoinRequest),
            1 => EncryptedJoinAccept::parse(phy_payload).map(Self::JoinAccept),
            2..=5 => DataFrame::from_data(phy_payload).map(Self::Data),
            m_type => Err(FrameError::UnsupportedMType { m_type }),
        }
    }
}

/// The flags of `FCtrl`, those of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FCtrl {
    /// Adaptive data rate is on.
    pub adr: bool,
    /// The end-device asks for any downlink to keep its data rate. Uplinks only: ignored in a downlink.
    pub adr_ack_req: bool,
    /// Acknowledges the last confirmed frame of the other side.
    pub ack: bool,
    /// Bit 4. Downlink: `FPending`, more waits or, in class B, this address has priority. Uplink: the device is in
    /// class B.
    pub f_pending_or_class_b: bool,
}

impl FCtrl {
    fn from_byte(byte: u8, direction: Direction) -> Self {
        Self {
            adr: byte & 0x80 != 0,
            adr_ack_req: direction == Direction::Uplink && byte & 0x40 != 0,
            ack: byte & 0x20 != 0,
            f_pending_or_class_b: byte & 0x10 != 0,
        }
    }

    fn to_byte(self, direction: Direction) -> u8 {
        u8::from(self.adr) << 7
            | u8::from(self.adr_ack_req && direction == Direction::Uplink) << 6
            | u8::from(self.ack) << 5
            | u8::from(self.f_pending_or_class_b) << 4
    }
}

/// A received data frame: its header in the clear, its payload still encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFrame {
    /// Which way it went.
    pub direction: Direction,
    /// Whether the sender wants an acknowledgement.
    pub confirmed: bool,
    /// Address of the end-device or multicast group.
    pub dev_addr: DevAddr,
    /// The flags.
    pub f_ctrl: FCtrl,
    /// The low 16 bits of the frame counter.
    pub f_cnt: u16,
    /// MAC commands in the header, at most 15 bytes.
    pub f_opts: Vec<u8>,
    /// Port, if there is one: 0 for MAC commands, 1 to 223 for applications, 224 and up reserved.
    pub f_port: Option<u8>,
    payload_at: usize,
    phy_payload: Vec<u8>,
}

impl DataFrame {
    /// Reads a data frame of either direction. Checks form only: no MIC.
    ///
    /// # Errors
    /// [`FrameError::UnsupportedMType`] for a frame of another type, and those about form.
    pub fn parse(phy_payload: &[u8]) -> Result<Self, FrameError> {
        match Frame::parse(phy_payload)? {
            Frame::Data(frame) => Ok(frame),
            Frame::JoinRequest(_) => Err(FrameError::UnsupportedMType { m_type: 0 }),
            Frame::JoinAccept(_) => Err(FrameError::UnsupportedMType { m_type: 1 }),
        }
    }

    /// Reads a frame whose length limit, version and type were checked.
    fn from_data(phy_payload: &[u8]) -> Result<Self, FrameError> {
        let length = phy_payload.len();
        let too_short = FrameError::TooShort { length };
        let (&mhdr, body) = phy_payload.split_first().ok_or(too_short)?;
        let (body, _mic) = body.split_last_chunk::<4>().ok_or(too_short)?;
        let (&[a0, a1, a2, a3, ctrl, c0, c1], rest) =
            body.split_first_chunk::<7>().ok_or(too_short)?;
        let (f_opts, rest) = rest
            .split_at_checked(usize::from(ctrl & 0x0f))
            .ok_or(too_short)?;
        let f_port = rest.first().copied();
        if f_port == Some(0) && !f_opts.is_empty() {
            return Err(FrameError::FOptsBesidePort0);
        }
        let m_type = mhdr >> 5;
        let direction = if m_type & 1 == 0 {
            Direction::Uplink
        } else {
            Direction::Downlink
        };
        Ok(Self {
            direction,
            confirmed: m_type >= 4,
            dev_addr: DevAddr(u32::from_le_bytes([a0, a1, a2, a3])),
            f_ctrl: FCtrl::from_byte(ctrl, direction),
            f_cnt: u16::from_le_bytes([c0, c1]),
            f_opts: f_opts.to_vec(),
            f_port,
            payload_at: (HEADER_LENGTH + f_opts.len() + 1).min(length - MIC_LENGTH),
            phy_payload: phy_payload.to_vec(),
        })
    }

    /// The `FRMPayload` as it was on air.
    #[must_use]
    pub fn encrypted_payload(&self) -> &[u8] {
        &self.phy_payload[self.payload_at..self.phy_payload.len() - MIC_LENGTH]
    }

    /// The whole frame as it was on air.
    #[must_use]
    pub fn phy_payload(&self) -> &[u8] {
        &self.phy_payload
    }

    /// Whether the MIC fits this `NwkSKey` (or `McNwkSKey`) and full frame counter. False if the counter's low half is
    /// not the frame's.
    #[must_use]
    pub fn verify_mic(&self, nwk_s_key: &Key128, full_f_cnt: u32) -> bool {
        if full_f_cnt & 0xffff != u32::from(self.f_cnt) {
            return false;
        }
        EncryptedDataPayload::new(self.phy_payload.as_slice())
            .is_ok_and(|frame| frame.validate_mic(&aes128(nwk_s_key), full_f_cnt))
    }

    /// The `FRMPayload` in the clear. The key is `NwkSKey` for port 0, else `AppSKey` (or `McAppSKey`).
    ///
    /// It does not verify: a wrong key or counter gives wrong bytes.
    #[must_use]
    pub fn decrypt(&self, key: &Key128, full_f_cnt: u32) -> Vec<u8> {
        let key = aes128(key);
        let Ok(frame) = EncryptedDataPayload::new(self.phy_payload.clone()) else {
            return Vec::new();
        };
        // The crate picks one of the two keys by its own reading of the port; here the caller has picked.
        match frame.decrypt(Some(&key), Some(&key), full_f_cnt) {
            Ok(clear) => {
                let bytes = clear.as_data_bytes();
                bytes[self.payload_at..bytes.len() - MIC_LENGTH].to_vec()
            }
            Err(_) => Vec::new(),
        }
    }

    /// Verifies the MIC, then decrypts with `nwk_s_key` for port 0 and `app_s_key` for any other.
    ///
    /// # Errors
    /// [`FrameError::WrongMic`].
    pub fn open(
        &self,
        nwk_s_key: &Key128,
        app_s_key: &Key128,
        full_f_cnt: u32,
    ) -> Result<Vec<u8>, FrameError> {
        if !self.verify_mic(nwk_s_key, full_f_cnt) {
            return Err(FrameError::WrongMic);
        }
        let key = if self.f_port == Some(0) {
            nwk_s_key
        } else {
            app_s_key
        };
        Ok(self.decrypt(key, full_f_cnt))
    }
}

/// What a data frame to be sent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFields<'a> {
    /// Which way it goes.
    pub direction: Direction,
    /// Whether the receiver shall acknowledge it. Multicast frames are never confirmed.
    pub confirmed: bool,
    /// Address of the end-device or multicast group.
    pub dev_addr: DevAddr,
    /// The flags.
    pub f_ctrl: FCtrl,
    /// The full frame counter, of which the low half goes on air.
    pub f_cnt: u32,
    /// MAC commands for the header, at most 15 bytes, none with port 0.
    pub f_opts: &'a [u8],
    /// Port; a payload needs one.
    pub f_port: Option<u8>,
    /// The `FRMPayload` in the clear.
    pub payload: &'a [u8],
}

impl DataFields<'_> {
    /// Length of the `PHYPayload`, in bytes.
    #[must_use]
    pub fn phy_length(&self) -> usize {
        HEADER_LENGTH
            + self.f_opts.len()
            + usize::from(self.f_port.is_some())
            + self.payload.len()
            + MIC_LENGTH
    }

    /// The `PHYPayload`, encrypted with `app_s_key` (port 0: `nwk_s_key`) and signed with `nwk_s_key`.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], [`FrameError::FOptsTooLong`], [`FrameError::FOptsBesidePort0`],
    /// [`FrameError::PayloadWithoutFPort`].
    pub fn build(&self, nwk_s_key: &Key128, app_s_key: &Key128) -> Result<Vec<u8>, FrameError> {
        self.check()?;
        // One byte more than the longest frame, because the crate insists on 255 at least.
        let mut creator = DataPayloadCreator::with_options([0; MAX_PHY_LENGTH + 1], DefaultFactory)
            .map_err(|_| FrameError::TooLong {
                length: self.phy_length(),
            })?;
        creator
            .set_uplink(self.direction == Direction::Uplink)
            .set_confirmed(self.confirmed)
            .set_dev_addr(self.dev_addr.0.to_le_bytes())
            .set_fctrl(&lorawan::parser::FCtrl(
                self.f_ctrl.to_byte(self.direction),
                false,
            ))
            .set_fcnt(self.f_cnt);
        if let Some(f_port) = self.f_port {
            creator.set_f_port(f_port);
        }
        // The crate takes what port 0 carries as MAC commands, like FOpts.
        let on_port_0 = self.f_port == Some(0);
        let (commands, payload) = if on_port_0 {
            (self.payload, &[][..])
        } else {
            (self.f_opts, self.payload)
        };
        let commands = CommandBytes::split(commands);
        let commands = commands
            .as_ref()
            .map(|bytes| bytes as &dyn SerializableMacCommand);
        creator
            .build(
                payload,
                commands.as_slice(),
                &NewSKey::from(*nwk_s_key.as_bytes()),
                &AppSKey::from(*app_s_key.as_bytes()),
            )
            .map(<[u8]>::to_vec)
            .map_err(|_| FrameError::TooLong {
                length: self.phy_length(),
            })
    }

    fn check(&self) -> Result<(), FrameError> {
        if self.f_opts.len() > MAX_F_OPTS_LENGTH {
            return Err(FrameError::FOptsTooLong {
                length: self.f_opts.len(),
            });
        }
        if self.f_port == Some(0) && !self.f_opts.is_empty() {
            return Err(FrameError::FOptsBesidePort0);
        }
        if self.f_port.is_none() && !self.payload.is_empty() {
            return Err(FrameError::PayloadWithoutFPort);
        }
        if self.phy_length() > MAX_PHY_LENGTH {
            return Err(FrameError::TooLong {
                length: self.phy_length(),
            });
        }
        Ok(())
    }
}

/// The full frame counter a frame's 16 bits stand for, given the last one accepted.
///
/// It is the smallest counter above `last` with these low bits; `None` if that is more than `max_gap` ahead or past the
/// end of the 32 bits. A repeated counter is a full round ahead, thus refused by any gap below 65 536. With no frame
/// before (`last` is `None`), the counter is the wire value, if within `max_gap` of the first, 0.
#[must_use]
pub fn full_f_cnt(last: Option<u32>, wire: u16, max_gap: u32) -> Option<u32> {
    let Some(last) = last else {
        return Some(u32::from(wire)).filter(|&full| full <= max_gap);
    };
    let [low, high, _, _] = last.to_le_bytes();
    let ahead = match wire.wrapping_sub(u16::from_le_bytes([low, high])) {
        0 => 0x1_0000,
        ahead => u32::from(ahead),
    };
    if ahead > max_gap {
        return None;
    }
    last.checked_add(ahead)
}

/// MHDR 1 and FHDR 7 without `FOpts`.
const HEADER_LENGTH: usize = 8;
const MIC_LENGTH: usize = 4;

/// The crate's form of a key. Private, for its `Debug` prints the key.
fn aes128(key: &Key128) -> AES128 {
    AES128(*key.as_bytes())
}

/// Encoded MAC commands in the shape the crate accepts: it writes the first byte, then the rest.
struct CommandBytes<'a> {
    first: u8,
    rest: &'a [u8],
}

impl<'a> CommandBytes<'a> {
    fn split(bytes: &'a [u8]) -> Option<Self> {
        let (&first, rest) = bytes.split_first()?;
        Some(Self { first, rest })
    }
}

impl SerializableMacCommand for CommandBytes<'_> {
    fn payload_bytes(&self) -> &[u8] {
        self.rest
    }

    fn cid(&self) -> u8 {
        self.first
    }

    fn payload_len(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields<'a>(payload: &'a [u8]) -> DataFields<'a> {
        DataFields {
            direction: Direction::Downlink,
            confirmed: false,
            dev_addr: DevAddr(0x0102_0304),
            f_ctrl: FCtrl::default(),
            f_cnt: 0x0001_0002,
            f_opts: &[],
            f_port: Some(201),
            payload,
        }
    }

    fn keys() -> (Key128, Key128) {
        (Key128::from_bytes([2; 16]), Key128::from_bytes([1; 16]))
    }

    #[test]
    fn a_known_uplink_opens() {
        // Test vector of the lora-rs project.
        let bytes = [
            0x40, 0x04, 0x03, 0x02, 0x01, 0x80, 0x01, 0x00, 0x01, 0xa6, 0x94, 0x64, 0x26, 0x15,
            0xd6, 0xc3, 0xb5, 0x82,
        ];
        let (nwk_s_key, app_s_key) = keys();
        let frame = DataFrame::parse(&bytes).unwrap();
        assert_eq!(frame.dev_addr, DevAddr(0x0102_0304));
        assert_eq!(
            (frame.f_cnt, frame.f_port, frame.f_ctrl.adr),
            (1, Some(1), true)
        );
        assert_eq!(frame.open(&nwk_s_key, &app_s_key, 1).unwrap(), b"hello");
        assert_eq!(
            frame.open(&app_s_key, &app_s_key, 1),
            Err(FrameError::WrongMic)
        );
    }

    #[test]
    fn the_whole_counter_is_signed_and_its_low_half_must_match() {
        let (nwk_s_key, app_s_key) = keys();
        let frame = DataFrame::parse(&fields(b"x").build(&nwk_s_key, &app_s_key).unwrap()).unwrap();
        assert!(frame.verify_mic(&nwk_s_key, 0x0001_0002));
        assert!(!frame.verify_mic(&nwk_s_key, 2));
        assert!(!frame.verify_mic(&nwk_s_key, 0x0001_0003));
    }

    #[test]
    fn a_port_without_payload_stays_a_port() {
        let (nwk_s_key, app_s_key) = keys();
        let frame = DataFrame::parse(&fields(b"").build(&nwk_s_key, &app_s_key).unwrap()).unwrap();
        assert_eq!(frame.f_port, Some(201));
        assert_eq!(
            frame.open(&nwk_s_key, &app_s_key, 0x0001_0002).unwrap(),
            b""
        );
    }

    #[test]
    fn impossible_frames_are_refused() {
        let (nwk_s_key, app_s_key) = keys();
        let build = |fields: DataFields<'_>| fields.build(&nwk_s_key, &app_s_key);
        assert_eq!(build(fields(&[0; 242])).unwrap().len(), 255);
        assert_eq!(
            build(fields(&[0; 243])),
            Err(FrameError::TooLong { length: 256 })
        );
        assert_eq!(
            build(fields(&[0; 9000])),
            Err(FrameError::TooLong { length: 9013 })
        );
        assert_eq!(
            build(DataFields {
                f_port: None,
                ..fields(b"x")
            }),
            Err(FrameError::PayloadWithoutFPort)
        );
        assert_eq!(
            build(DataFields {
                f_opts: &[0; 16],
                ..fields(b"")
            }),
            Err(FrameError::FOptsTooLong { length: 16 })
        );
        let both = DataFields {
            f_opts: &[2],
            f_port: Some(0),
            ..fields(b"")
        };
        assert_eq!(build(both), Err(FrameError::FOptsBesidePort0));
    }

    #[test]
    fn bytes_that_are_no_frame_say_why() {
        assert_eq!(Frame::parse(&[]), Err(FrameError::TooShort { length: 0 }));
        assert_eq!(
            Frame::parse(&[0x40; 11]),
            Err(FrameError::TooShort { length: 11 })
        );
        assert_eq!(
            Frame::parse(&[0x40; 256]),
            Err(FrameError::TooLong { length: 256 })
        );
        assert_eq!(
            Frame::parse(&[0x41; 30]),
            Err(FrameError::UnknownMajor { major: 1 })
        );
        assert_eq!(
            Frame::parse(&[0xe0; 30]),
            Err(FrameError::UnsupportedMType { m_type: 7 })
        );
        // FOptsLen of 15 in a frame of 12 bytes.
        let mut short = [0; 12];
        (short[0], short[5]) = (0x40, 0x0f);
        assert_eq!(
            Frame::parse(&short),
            Err(FrameError::TooShort { length: 12 })
        );
    }

    #[test]
    fn counters_go_on_across_the_16_bit_border() {
        assert_eq!(full_f_cnt(None, 0, 16_384), Some(0));
        assert_eq!(full_f_cnt(None, 16_385, 16_384), None);
        assert_eq!(full_f_cnt(Some(7), 8, 16_384), Some(8));
        assert_eq!(full_f_cnt(Some(0xffff), 0, 16_384), Some(0x1_0000));
        assert_eq!(full_f_cnt(Some(0x2_fff0), 5, 16_384), Some(0x3_0005));
        assert_eq!(full_f_cnt(Some(8), 8, 16_384), None, "a repeat");
        assert_eq!(full_f_cnt(Some(8), 7, 16_384), None, "an old one");
        assert_eq!(full_f_cnt(Some(8), 7, 65_535), Some(0x1_0007));
        assert_eq!(
            full_f_cnt(Some(u32::MAX), 0, 16_384),
            None,
            "the counter has ended"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_err(
            m_type in 2u8..6, mut bytes in proptest::collection::vec(any::<u8>(), 0..300), f_cnt: u32
        ) {
            bytes.insert(0, m_type << 5);
            let (nwk_s_key, app_s_key) = keys();
            if let Ok(frame) = DataFrame::parse(&bytes) {
                prop_assert_eq!(frame.phy_payload(), &bytes);
                prop_assert_eq!(frame.decrypt(&app_s_key, f_cnt).len(), frame.encrypted_payload().len());
                let _ = frame.verify_mic(&nwk_s_key, f_cnt);
            }
        }

        #[test]
        fn what_is_built_is_read_back(
            uplink: bool, confirmed: bool, dev_addr: u32, flags in 0u8..16, f_cnt: u32, port in 1u8..,
            f_opts in proptest::collection::vec(any::<u8>(), 0..=15),
            payload in proptest::collection::vec(any::<u8>(), 0..=227),
        ) {
            let direction = if uplink { Direction::Uplink } else { Direction::Downlink };
            let f_ctrl = FCtrl::from_byte(flags << 4, direction);
            let sent = DataFields {
                direction, confirmed, dev_addr: DevAddr(dev_addr), f_ctrl, f_cnt,
                f_opts: &f_opts, f_port: Some(port), payload: &payload,
            };
            let (nwk_s_key, app_s_key) = keys();
            let bytes = sent.build(&nwk_s_key, &app_s_key).unwrap();
            prop_assert_eq!(bytes.len(), sent.phy_length());
            let frame = DataFrame::parse(&bytes).unwrap();
            prop_assert_eq!((frame.direction, frame.confirmed, frame.dev_addr), (direction, confirmed, DevAddr(dev_addr)));
            prop_assert_eq!((frame.f_ctrl, frame.f_port), (f_ctrl, Some(port)));
            prop_assert_eq!(&frame.f_opts, &f_opts);
            prop_assert_eq!(frame.open(&nwk_s_key, &app_s_key, f_cnt).unwrap(), payload);
        }

        #[test]
        fn the_full_counter_keeps_the_wire_bits_and_goes_forward(last: u32, wire: u16, max_gap in 0u32..70_000) {
            if let Some(full) = full_f_cnt(Some(last), wire, max_gap) {
                prop_assert_eq!(full & 0xffff, u32::from(wire));
                prop_assert!(full > last && full - last <= max_gap);
            }
        }
    }
}
