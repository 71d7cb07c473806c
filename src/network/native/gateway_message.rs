//! What gateways and the native network server say to each other, whatever the transport (Semtech UDP, MQTT,
//! simulation).

use crate::lorawan::airtime::DataRate;
use crate::lorawan::identifiers::GatewayEui;
use crate::record::Refusal;
use crate::time::{GpsTime, Timestamp};

/// Something a gateway said. Only gateways on the allow-list get this far.
#[derive(Clone, Debug, PartialEq)]
pub enum GatewayMessage {
    /// The gateway is there and can be sent to (`PULL_DATA`, `stat`).
    Alive {
        /// Which gateway.
        gateway: GatewayEui,
        /// When the message arrived, server time.
        at: Timestamp,
    },
    /// A frame was received.
    Received(ReceivedFrame),
    /// Something in its name that could not be read. No sign of life: it may come from anywhere.
    Malformed {
        /// Which gateway.
        gateway: GatewayEui,
        /// When the message arrived, server time.
        at: Timestamp,
    },
    /// Answer to a [`GatewayCommand`].
    TxAck {
        /// Which gateway.
        gateway: GatewayEui,
        /// The command it answers.
        id: TransmissionId,
        /// Queued, or why not.
        result: Result<(), Refusal>,
        /// When the message arrived, server time.
        at: Timestamp,
    },
}

/// A frame as one gateway received it, CRC good.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedFrame {
    /// Which gateway.
    pub gateway: GatewayEui,
    /// When the message arrived, server time.
    pub at: Timestamp,
    /// The gateway's microsecond counter at the end of the frame; wraps every 71.6 minutes.
    pub counter_us: u32,
    /// Frequency.
    pub frequency_hz: u32,
    /// Modulation and its parameters.
    pub data_rate: DataRate,
    /// Signal strength, dBm.
    pub rssi_dbm: i16,
    /// Signal-to-noise ratio, dB; 0 for FSK.
    pub snr_db: f32,
    /// The gateway's GPS time at the end of the frame, if it tells one.
    pub gps: Option<GpsTime>,
    /// PHYPayload, 1..=255 bytes.
    pub phy_payload: Vec<u8>,
}

/// Names one transmission of one gateway within a run of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransmissionId(pub u64);

/// Something a gateway is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayCommand {
    /// Which gateway.
    pub gateway: GatewayEui,
    /// Echoed in the answer.
    pub id: TransmissionId,
    /// When the frame starts.
    pub when: When,
    /// Frequency.
    pub frequency_hz: u32,
    /// Modulation and its parameters.
    pub data_rate: DataRate,
    /// Conducted power, dBm: EIRP less antenna gain plus cable loss.
    pub power_dbm: i8,
    /// PHYPayload, at most 255 bytes.
    pub phy_payload: Vec<u8>,
}

/// Start of a transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once.
    Immediately,
    /// When the gateway's microsecond counter reaches this value.
    Counter(u32),
    /// At this GPS time, a whole millisecond; for gateways with GPS.
    Gps(GpsTime),
}

/// The word for a refusal, as the Semtech protocol and the gateway statistics write it.
pub fn refusal_word(refusal: Refusal) -> &'static str {
    REFUSAL_WORDS
        .iter()
        .find(|(known, _)| *known == refusal)
        .map_or("OTHER", |(_, word)| word)
}

/// The refusal of a word; [`Refusal::Other`] for any unknown one.
pub fn refusal_of_word(word: &str) -> Refusal {
    REFUSAL_WORDS
        .iter()
        .find(|(_, known)| *known == word)
        .map_or(Refusal::Other, |(refusal, _)| *refusal)
}

/// The first eight are those of the protocol, the others our own.
const REFUSAL_WORDS: [(Refusal, &str); 13] = [
    (Refusal::TooLate, "TOO_LATE"),
    (Refusal::TooEarly, "TOO_EARLY"),
    (Refusal::CollisionPacket, "COLLISION_PACKET"),
    (Refusal::CollisionBeacon, "COLLISION_BEACON"),
    (Refusal::TxFreq, "TX_FREQ"),
    (Refusal::TxPower, "TX_POWER"),
    (Refusal::GpsUnlocked, "GPS_UNLOCKED"),
    (Refusal::QueueFull, "QUEUE_FULL"),
    (Refusal::NoGateway, "NO_GATEWAY"),
    (Refusal::WindowTaken, "WINDOW_TAKEN"),
    (Refusal::NoSession, "NO_SESSION"),
    (Refusal::TooLong, "TOO_LONG"),
    (Refusal::NoAirTime, "NO_AIR_TIME"),
];
