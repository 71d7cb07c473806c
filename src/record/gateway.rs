//! A gateway of the network: what the operator set, what was seen of it, and its air-time ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::region::Region;
use crate::time::Timestamp;

/// A gateway as the API shows it. Gateways belong to the network, which tenants share.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Written by the operator.
    pub settings: GatewaySettings,
    /// Written by the radio side.
    pub status: GatewayStatus,
}

/// What the operator says of a gateway. Being listed at all is the permission to talk to the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewaySettings {
    /// Identifier.
    pub eui: GatewayEui,
    /// Free text for people.
    pub display_name: String,
    /// Regional parameters it works by; never changes.
    pub region: Region,
    /// Where it stands, if known.
    pub position: Option<Position>,
    /// Antenna gain, dBi; added to the conducted power to give EIRP.
    pub antenna_gain_dbi: f32,
    /// Cable loss, dB; taken off.
    pub cable_loss_db: f32,
    /// Highest EIRP allowed here, dBm; the regional limit when absent.
    pub max_eirp_dbm: Option<f32>,
    /// The gateway has GPS time.
    pub gps: bool,
    /// The gateway sends class B beacons.
    pub beaconing: bool,
    /// How far ahead of its time on air a timed frame is handed over.
    pub lead_time: Duration,
    /// Largest share of its air the server may use, in permille of time; 1000 = as the regulation allows.
    pub air_share_permille: u16,
    /// Free key-value pairs.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// When the gateway was created.
    pub created_at: Timestamp,
    /// When the operator last changed it.
    #[serde(default)]
    pub updated_at: Timestamp,
}

impl GatewaySettings {
    /// It can serve class B sessions: it sends beacons, and frames at GPS times.
    pub fn sends_class_b(&self) -> bool {
        self.gps && self.beaconing
    }
}

/// A place on earth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Degrees, -90..=90.
    pub latitude: f64,
    /// Degrees, -180..=180.
    pub longitude: f64,
    /// Metres above sea level.
    pub altitude_m: f32,
}

/// What was seen of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Last message of any kind.
    pub last_seen: Option<Timestamp>,
    /// Frames handed over and what became of them.
    pub counters: GatewayCounters,
    /// What its GPS time says of the server's clock; absent without GPS, and until it was heard a few times.
    #[serde(default)]
    pub clock: Option<ClockReading>,
}

/// The server's clock against GPS time, as one gateway saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReading {
    /// Server time less the GPS time of the gateway, microseconds; the delay of messages is in it.
    pub ahead_us: i64,
    /// When the gateway was last heard with its time, server time.
    pub at: Timestamp,
}

/// Frame counts of one gateway since it was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayCounters {
    /// Uplink frames received with a good CRC.
    pub received: u64,
    /// Downlinks handed over.
    pub handed_over: u64,
    /// Downlinks the gateway took into its queue (`TX_ACK` without error).
    pub queued: u64,
    /// Downlinks the gateway reported as really on air; the Semtech protocol never does.
    pub sent: u64,
    /// Downlinks refused, by the gateway's own word (`TOO_LATE`, `COLLISION_PACKET`, ...).
    pub refused: BTreeMap<String, u64>,
    /// Downlinks nothing was heard of.
    pub unknown: u64,
    /// Datagrams in its name that could not be read.
    pub malformed: u64,
    /// Time on air of the downlinks it queued, sent or was not heard of, microseconds.
    pub airtime_us: u64,
}

impl GatewayCounters {
    /// Adds the air time of a downlink that was on air, or may have been.
    pub fn charge(&mut self, airtime: Duration) {
        let us = u64::try_from(airtime.as_micros()).unwrap_or(u64::MAX);
        self.airtime_us = self.airtime_us.saturating_add(us);
    }
}

/// Air time a gateway spent in one sub-band, kept in one-minute buckets over the last hour and a bit.
///
/// A bucket counts until all of it is more than an hour old, so the sum never understates the sliding hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AirLedger {
    /// Which gateway.
    pub gateway: GatewayEui,
    /// Index of the sub-band in its region's table.
    pub sub_band: u8,
    /// Microseconds on air by minute since the Unix epoch.
    pub minutes: BTreeMap<i64, u64>,
}
