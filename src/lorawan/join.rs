//! Joining: the join-request and join-accept of LoRaWAN 1.0.x, both sides, and the session keys that follow from them.
//!
//! Requests, and the opening of accepts, rest on the `lorawan` crate. Accepts are built here with `aes` and `cmac`,
//! because the crate (0.9) never encrypts nor signs the `CFList` it is given. Nonces are not remembered here.
//! LoRaWAN 1.0.4 §6.2.

use aes::Aes128;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use cmac::{Cmac, Mac};
use lorawan::creator::JoinRequestCreator;
use lorawan::keys::{AES128, AppKey};
use lorawan::parser::{AsPhyPayloadBytes, EncryptedJoinAcceptPayload, JoinRequestPayload};

use super::frame::FrameError;
use super::identifiers::{DevAddr, DevEui, JoinEui};
use super::keys::Key128;

/// Length of a join-request, in bytes.
pub const JOIN_REQUEST_LENGTH: usize = 23;

/// A join-request, not yet authenticated (LoRaWAN 1.0.4 §6.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinRequest {
    /// The join server the device asks for (`AppEUI` before 1.0.4).
    pub join_eui: JoinEui,
    /// The device that asks.
    pub dev_eui: DevEui,
    /// Never used twice by the device with this `JoinEUI`: a counter since 1.0.4, random before.
    pub dev_nonce: u16,
    phy_payload: [u8; JOIN_REQUEST_LENGTH],
}

impl JoinRequest {
    /// A request signed with the device's `AppKey`.
    #[must_use]
    pub fn new(join_eui: JoinEui, dev_eui: DevEui, dev_nonce: u16, app_key: &Key128) -> Self {
        let mut creator = JoinRequestCreator::new();
        creator
            .set_app_eui(join_eui.0.to_le_bytes())
            .set_dev_eui(dev_eui.0.to_le_bytes())
            // The crate stores the two bytes as they come, so they are given in wire order.
            .set_dev_nonce(dev_nonce.to_le_bytes());
        let mut phy_payload = [0; JOIN_REQUEST_LENGTH];
        phy_payload.copy_from_slice(creator.build(&AppKey::from(*app_key.as_bytes())));
        Self {
            join_eui,
            dev_eui,
            dev_nonce,
            phy_payload,
        }
    }

    /// Reads a request whose message type was checked.
    pub(super) fn parse(phy_payload: &[u8]) -> Result<Self, FrameError> {
        let phy_payload: [u8; JOIN_REQUEST_LENGTH] = phy_payload
            .try_into()
            .map_err(|_| wrong_length(phy_payload, JOIN_REQUEST_LENGTH))?;
        let mut fields = Fields(&phy_payload[1..]);
        Ok(Self {
            join_eui: JoinEui(u64::from_le_bytes(fields.take())),
            dev_eui: DevEui(u64::from_le_bytes(fields.take())),
            dev_nonce: u16::from_le_bytes(fields.take()),
            phy_payload,
        })
    }

    /// The frame as it goes on air.
    #[must_use]
    pub fn phy_payload(&self) -> &[u8; JOIN_REQUEST_LENGTH] {
        &self.phy_payload
    }

    /// Whether the MIC fits this `AppKey`.
    #[must_use]
    pub fn verify_mic(&self, app_key: &Key128) -> bool {
        JoinRequestPayload::new(self.phy_payload.as_slice())
            .is_ok_and(|request| request.validate_mic(&AES128(*app_key.as_bytes())))
    }
}

/// What a join-accept says (LoRaWAN 1.0.4 §6.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinAccept {
    /// Never used twice by the server with this device; 24 bits.
    pub join_nonce: u32,
    /// Identifier of the network; 24 bits.
    pub net_id: u32,
    /// The address the device gets.
    pub dev_addr: DevAddr,
    /// Downlink settings.
    pub dl_settings: DlSettings,
    /// Delay of RX1 in seconds, 0 to 15; 0 means 1.
    pub rx_delay: u8,
    /// Channels beside the default ones.
    pub cf_list: Option<CfList>,
}

/// Downlink settings of a join-accept. `OptNeg` is left 0, which makes it LoRaWAN 1.0.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DlSettings {
    /// Offset between the uplink data rate and that of RX1, 0 to 7.
    pub rx1_dr_offset: u8,
    /// Data rate of RX2, 0 to 15.
    pub rx2_data_rate: u8,
}

/// Channels a join-accept adds (RP002-1.0.4 §2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CfList {
    /// Type 0: up to five frequencies in Hz, multiples of 100; 0 is unused.
    Frequencies([u32; 5]),
    /// Type 1: masks of 16 channels each, channel 0 in the lowest bit of the first.
    ChannelMasks([u16; 6]),
}

impl JoinAccept {
    /// The `PHYPayload`, signed and encrypted with the device's `AppKey`.
    ///
    /// # Errors
    /// [`FrameError::OutOfRange`] if a value exceeds its field or a frequency is no multiple of 100 Hz.
    pub fn build(&self, app_key: &Key128) -> Result<Vec<u8>, FrameError> {
        let mut bytes = vec![JOIN_ACCEPT_MHDR];
        bytes.extend(u24("JoinNonce", self.join_nonce)?);
        bytes.extend(u24("NetID", self.net_id)?);
        bytes.extend(self.dev_addr.0.to_le_bytes());
        let DlSettings {
            rx1_dr_offset,
            rx2_data_rate,
        } = self.dl_settings;
        let offset = at_most("RX1DROffset", rx1_dr_offset, 7)?;
        bytes.push(offset << 4 | at_most("RX2DataRate", rx2_data_rate, 15)?);
        bytes.push(at_most("RxDelay", self.rx_delay, 15)?);
        if let Some(cf_list) = &self.cf_list {
            bytes.extend(cf_list.encode()?);
        }
        let mic = mic(app_key, &bytes);
        bytes.extend(mic);
        // Encrypted by deciphering, so that an end-device needs the cipher only.
        let cipher = cipher(app_key);
        let (blocks, _none) = bytes[1..].as_chunks_mut::<BLOCK>();
        for block in blocks {
            let mut clear = Array::from(*block);
            cipher.decrypt_block(&mut clear);
            *block = clear.into();
        }
        Ok(bytes)
    }
}

impl CfList {
    fn encode(&self) -> Result<[u8; BLOCK], FrameError> {
        let mut bytes = [0; BLOCK];
        match self {
            Self::Frequencies(frequencies) => {
                for (field, &hz) in bytes.chunks_exact_mut(3).zip(frequencies) {
                    if hz % 100 != 0 {
                        return Err(FrameError::OutOfRange { field: "CFList" });
                    }
                    field.copy_from_slice(&u24("CFList", hz / 100)?);
                }
            }
            Self::ChannelMasks(masks) => {
                for (field, mask) in bytes.chunks_exact_mut(2).zip(masks) {
                    field.copy_from_slice(&mask.to_le_bytes());
                }
                bytes[BLOCK - 1] = 1;
            }
        }
        Ok(bytes)
    }

    /// `None` for a type that is reserved.
    fn decode(bytes: &[u8; BLOCK]) -> Option<Self> {
        match bytes[BLOCK - 1] {
            0 => {
                let mut frequencies = [0; 5];
                for (hz, field) in frequencies.iter_mut().zip(bytes.as_chunks::<3>().0) {
                    *hz = from_u24(*field) * 100;
                }
                Some(Self::Frequencies(frequencies))
            }
            1 => {
                let mut masks = [0; 6];
                for (mask, field) in masks.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *mask = u16::from_le_bytes(*field);
                }
                Some(Self::ChannelMasks(masks))
            }
            _ => None,
        }
    }
}

/// A join-accept as it was on air.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedJoinAccept {
    phy_payload: Vec<u8>,
}

impl EncryptedJoinAccept {
    /// Takes an accept whose message type was checked.
    pub(super) fn parse(phy_payload: &[u8]) -> Result<Self, FrameError> {
        match phy_payload.len() {
            ACCEPT_LENGTH | ACCEPT_LENGTH_WITH_CF_LIST => Ok(Self {
                phy_payload: phy_payload.to_vec(),
            }),
            _ => Err(wrong_length(phy_payload, ACCEPT_LENGTH)),
        }
    }

    /// Decrypts and verifies with the device's `AppKey`. A `CFList` of a reserved type is left out, as a device would.
    ///
    /// # Errors
    /// [`FrameError::WrongMic`], also for the accept of LoRaWAN 1.1, which is signed otherwise.
    pub fn open(&self, app_key: &Key128) -> Result<JoinAccept, FrameError> {
        let key = AppKey::from(*app_key.as_bytes());
        let clear = EncryptedJoinAcceptPayload::new(self.phy_payload.clone())
            .map_err(|_| wrong_length(&self.phy_payload, ACCEPT_LENGTH))?
            .decrypt(&key);
        if !clear.validate_mic(&key) {
            return Err(FrameError::WrongMic);
        }
        let bytes = clear.as_bytes();
        let mut fields = Fields(&bytes[1..bytes.len() - MIC_LENGTH]);
        let join_nonce = from_u24(fields.take());
        let net_id = from_u24(fields.take());
        let dev_addr = DevAddr(u32::from_le_bytes(fields.take()));
        let [settings, rx_delay] = fields.take();
        let dl_settings = DlSettings {
            rx1_dr_offset: settings >> 4 & 0x07,
            rx2_data_rate: settings & 0x0f,
        };
        let cf_list = fields.0.first_chunk().and_then(CfList::decode);
        Ok(JoinAccept {
            join_nonce,
            net_id,
            dev_addr,
            dl_settings,
            rx_delay: rx_delay & 0x0f,
            cf_list,
        })
    }
}

/// The session keys of a LoRaWAN 1.0.x activation: `NwkSKey`, then `AppSKey` (LoRaWAN 1.0.4 §6.2.6.1).
#[must_use]
pub fn session_keys(app_key: &Key128, accept: &JoinAccept, dev_nonce: u16) -> (Key128, Key128) {
    let derive = |first: u8| {
        let mut block = [0; BLOCK];
        block[0] = first;
        block[1..4].copy_from_slice(&accept.join_nonce.to_le_bytes()[..3]);
        block[4..7].copy_from_slice(&accept.net_id.to_le_bytes()[..3]);
        block[7..9].copy_from_slice(&dev_nonce.to_le_bytes());
        let mut key = Array::from(block);
        cipher(app_key).encrypt_block(&mut key);
        Key128::from_bytes(key.into())
    };
    (derive(1), derive(2))
}

const JOIN_ACCEPT_MHDR: u8 = 0x20;
const MIC_LENGTH: usize = 4;
const BLOCK: usize = 16;
/// MHDR 1, JoinNonce 3, NetID 3, DevAddr 4, DLSettings 1, RxDelay 1, MIC 4.
const ACCEPT_LENGTH: usize = 17;
const ACCEPT_LENGTH_WITH_CF_LIST: usize = ACCEPT_LENGTH + BLOCK;

/// The error of a frame whose length is not that of its type, nor at least `min`.
fn wrong_length(phy_payload: &[u8], min: usize) -> FrameError {
    let length = phy_payload.len();
    if length < min {
        FrameError::TooShort { length }
    } else {
        FrameError::TooLong { length }
    }
}

fn cipher(key: &Key128) -> Aes128 {
    Aes128::new(&Array::from(*key.as_bytes()))
}

fn mic(key: &Key128, bytes: &[u8]) -> [u8; MIC_LENGTH] {
    let mut mac = <Cmac<Aes128> as KeyInit>::new(&Array::from(*key.as_bytes()));
    mac.update(bytes);
    let tag: [u8; BLOCK] = mac.finalize().into_bytes().into();
    let [a, b, c, d, ..] = tag;
    [a, b, c, d]
}

fn at_most(field: &'static str, value: u8, max: u8) -> Result<u8, FrameError> {
    if value <= max {
        Ok(value)
    } else {
        Err(FrameError::OutOfRange { field })
    }
}

fn u24(field: &'static str, value: u32) -> Result<[u8; 3], FrameError> {
    match value.to_le_bytes() {
        [a, b, c, 0] => Ok([a, b, c]),
        _ => Err(FrameError::OutOfRange { field }),
    }
}

fn from_u24([a, b, c]: [u8; 3]) -> u32 {
    u32::from_le_bytes([a, b, c, 0])
}

/// Reads fields off the front of bytes whose length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self
            .0
            .split_first_chunk()
            .expect("the length was checked for all fields");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::Frame;
    use super::*;

    fn open(bytes: &[u8], key: &Key128) -> Result<JoinAccept, FrameError> {
        match Frame::parse(bytes).unwrap() {
            Frame::JoinAccept(accept) => accept.open(key),
            other => panic!("not a join-accept: {other:?}"),
        }
    }

    fn accept(cf_list: Option<CfList>) -> JoinAccept {
        JoinAccept {
            join_nonce: 0x01_02_03,
            net_id: 0x13,
            dev_addr: DevAddr(0x2601_1bda),
            dl_settings: DlSettings {
                rx1_dr_offset: 3,
                rx2_data_rate: 5,
            },
            rx_delay: 5,
            cf_list,
        }
    }

    #[test]
    fn an_accept_opens_with_its_key_only() {
        let key = Key128::from_bytes([9; 16]);
        let channels = CfList::Frequencies([867_100_000, 867_300_000, 867_500_000, 867_700_000, 0]);
        let masks = CfList::ChannelMasks([0xff00, 0, 0, 0, 2, 0]);
        for (cf_list, length) in [(None, 17), (Some(channels), 33), (Some(masks), 33)] {
            let bytes = accept(cf_list).build(&key).unwrap();
            assert_eq!(bytes.len(), length);
            assert_eq!(open(&bytes, &key), Ok(accept(cf_list)));
            assert_eq!(
                open(&bytes, &Key128::from_bytes([8; 16])),
                Err(FrameError::WrongMic)
            );
        }
    }

    #[test]
    fn values_too_large_for_their_field_are_refused() {
        let key = Key128::from_bytes([9; 16]);
        let field = |accept: JoinAccept| match accept.build(&key) {
            Err(FrameError::OutOfRange { field }) => field,
            other => panic!("built {other:?}"),
        };
        assert_eq!(
            field(JoinAccept {
                join_nonce: 1 << 24,
                ..accept(None)
            }),
            "JoinNonce"
        );
        assert_eq!(
            field(JoinAccept {
                net_id: 1 << 24,
                ..accept(None)
            }),
            "NetID"
        );
        assert_eq!(
            field(JoinAccept {
                rx_delay: 16,
                ..accept(None)
            }),
            "RxDelay"
        );
        assert_eq!(
            field(accept(Some(CfList::Frequencies([868_100_050, 0, 0, 0, 0])))),
            "CFList"
        );
        assert_eq!(
            field(accept(Some(CfList::Frequencies([
                2_403_000_000,
                0,
                0,
                0,
                0
            ])))),
            "CFList"
        );
    }

    #[test]
    fn a_request_verifies_with_its_key_only() {
        let key = Key128::from_bytes([7; 16]);
        let sent = JoinRequest::new(
            JoinEui(0x0102_0304_0506_0708),
            DevEui(0x1112_1314_1516_1718),
            0x2122,
            &key,
        );
        let Ok(Frame::JoinRequest(read)) = Frame::parse(sent.phy_payload()) else {
            panic!("not a join-request")
        };
        assert_eq!(read, sent);
        assert!(read.verify_mic(&key));
        assert!(!read.verify_mic(&Key128::from_bytes([8; 16])));
        assert_eq!(
            Frame::parse(&sent.phy_payload()[..22]),
            Err(FrameError::TooShort { length: 22 })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_err(first in prop_oneof![Just(0u8), Just(0x20u8)], mut bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            bytes.insert(0, first);
            let key = Key128::from_bytes([7; 16]);
            match Frame::parse(&bytes) {
                Ok(Frame::JoinRequest(request)) => { let _ = request.verify_mic(&key); }
                Ok(Frame::JoinAccept(accept)) => prop_assert_eq!(accept.open(&key), Err(FrameError::WrongMic)),
                Ok(Frame::Data(_)) => prop_assert!(false, "the type says join"),
                Err(_) => {}
            }
        }
    }
}
