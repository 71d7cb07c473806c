//! How a device is on the network: its join state (OTAA) and its session (joined or imported). LoRaWAN 1.0.x only.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::lorawan::identifiers::{DevAddr, DevEui, JoinEui};
use crate::lorawan::keys::Key128;
use crate::time::Timestamp;

/// Activation of one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// Whose.
    pub dev_eui: DevEui,
    /// Present for OTAA devices.
    pub join: Option<JoinState>,
    /// Present once joined, or for imported ABP sessions.
    pub session: Option<Session>,
}

/// What the join server side remembers of an OTAA device. Sealed at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinState {
    /// JoinEUI (AppEUI in LoRaWAN 1.0.x).
    pub join_eui: JoinEui,
    /// Root key of the join.
    #[serde(with = "crate::lorawan::keys::serde_hex")]
    pub app_key: Key128,
    /// Next `JoinNonce` (24 bits); never used twice.
    pub next_join_nonce: u32,
    /// Every DevNonce accepted so far; a repeat is a replay.
    pub dev_nonces: BTreeSet<u16>,
    /// The one accepted last.
    #[serde(default)]
    pub last_dev_nonce: Option<u16>,
}

/// A LoRaWAN 1.0.x session. Sealed at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Device address; may collide with another device's, the MIC decides.
    pub dev_addr: DevAddr,
    /// Network session key.
    #[serde(with = "crate::lorawan::keys::serde_hex")]
    pub nwk_s_key: Key128,
    /// Application session key.
    #[serde(with = "crate::lorawan::keys::serde_hex")]
    pub app_s_key: Key128,
    /// Last uplink counter accepted; `None` before the first uplink.
    pub f_cnt_up: Option<u32>,
    /// Next downlink counter; committed before a frame leaves, never goes back under these keys.
    pub next_f_cnt_down: u32,
    /// Seconds from the end of an uplink to RX1, 1..=15.
    pub rx1_delay_s: u8,
    /// RX1DROffset, 0..=7.
    pub rx1_dr_offset: u8,
    /// RX2 data rate index.
    pub rx2_dr: u8,
    /// RX2 frequency.
    pub rx2_frequency_hz: u32,
    /// When the device joined or the session was imported.
    pub activated_at: Timestamp,
    /// Imported by the operator rather than made by a join.
    pub imported: bool,
}
