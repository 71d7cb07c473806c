//! One `rxpk` or `txpk` of the Semtech protocol: JSON to values and back, for both ends. Which datagram carries them is
//! `semtech`'s business.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Value, json};

use super::When;
use crate::lorawan::airtime::DataRate;
use crate::lorawan::frame::MAX_PHY_LENGTH;
use crate::time::GpsTime;

/// A frame a gateway received: one `rxpk`.
#[derive(Clone, Debug, PartialEq)]
pub struct RxPacket {
    /// `tmst`: the gateway's microsecond counter at the end of the frame.
    pub counter_us: u32,
    /// `freq`.
    pub frequency_hz: u32,
    /// `modu` and `datr`.
    pub data_rate: DataRate,
    /// `rssi`, dBm.
    pub rssi_dbm: i16,
    /// `lsnr`, dB; 0 for FSK.
    pub snr_db: f32,
    /// `tmms`: the gateway's GPS time of reception, if it has one; whole milliseconds.
    pub gps: Option<GpsTime>,
    /// `data`, 1..=255 bytes.
    pub phy_payload: Vec<u8>,
}

/// A frame a gateway is to send: one `txpk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxPacket {
    /// `imme`, `tmst` or `tmms`.
    pub when: When,
    /// `freq`.
    pub frequency_hz: u32,
    /// `modu` and `datr`.
    pub data_rate: DataRate,
    /// `powe`: conducted power, dBm.
    pub power_dbm: i8,
    /// `data`, 1..=255 bytes.
    pub phy_payload: Vec<u8>,
}

/// Some gateways leave the padding away.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads an `rxpk`; `None` if it makes no sense.
pub(super) fn rx_packet(entry: &Value) -> Option<RxPacket> {
    let data_rate = data_rate(entry)?;
    // Forwarders with several antennas put the signal into a list.
    let signal = |field: &str, own: &str| {
        let first = || entry.get("rsig")?.get(0)?.get(own).and_then(Value::as_f64);
        entry.get(field).and_then(Value::as_f64).or_else(first)
    };
    let rssi = rounded(signal("rssi", "rssic")?, -300.0, 100.0)?;
    Some(RxPacket {
        counter_us: u32::try_from(entry.get("tmst")?.as_u64()?).ok()?,
        frequency_hz: frequency_hz(entry)?,
        data_rate,
        rssi_dbm: i16::try_from(rssi).ok()?,
        snr_db: match data_rate {
            DataRate::Lora { .. } => decibels(signal("lsnr", "lsnr").unwrap_or(0.0)),
            DataRate::Fsk50 => 0.0,
        },
        gps: gps_time(entry),
        phy_payload: phy_payload(entry)?,
    })
}

/// Reads a `txpk`; `None` if it makes no sense.
pub(super) fn tx_packet(entry: &Value) -> Option<TxPacket> {
    let immediately = entry.get("imme").and_then(Value::as_bool) == Some(true);
    let counter = || u32::try_from(entry.get("tmst")?.as_u64()?).ok();
    Some(TxPacket {
        when: if immediately {
            When::Immediately
        } else {
            let by_counter = counter().map(When::Counter);
            by_counter.or_else(|| gps_time(entry).map(When::Gps))?
        },
        frequency_hz: frequency_hz(entry)?,
        data_rate: data_rate(entry)?,
        power_dbm: i8::try_from(entry.get("powe")?.as_i64()?).ok()?,
        phy_payload: phy_payload(entry)?,
    })
}

/// `tmms`: milliseconds since the GPS epoch.
fn gps_time(entry: &Value) -> Option<GpsTime> {
    let millis = entry.get("tmms")?.as_i64().filter(|millis| *millis >= 0)?;
    Some(GpsTime::from_micros(millis.checked_mul(1_000)?))
}

/// Writes an `rxpk`.
pub(super) fn rxpk(packet: &RxPacket) -> Value {
    let mut entry = json!({
        "tmst": packet.counter_us,
        "freq": f64::from(packet.frequency_hz) / 1e6,
        "chan": 0,
        "rfch": 0,
        "stat": 1,
        "rssi": packet.rssi_dbm,
    });
    if let (DataRate::Lora { .. }, Some(entry)) = (packet.data_rate, entry.as_object_mut()) {
        entry.insert("lsnr".to_owned(), json!(packet.snr_db));
    }
    if let (Some(at), Some(entry)) = (packet.gps, entry.as_object_mut()) {
        entry.insert("tmms".to_owned(), json!(at.as_micros().div_euclid(1_000)));
    }
    with_contents(entry, packet.data_rate, &packet.phy_payload)
}

/// Writes a `txpk`.
pub(super) fn txpk(packet: &TxPacket) -> Value {
    let mut entry = json!({
        "freq": f64::from(packet.frequency_hz) / 1e6,
        "rfch": 0,
        "powe": packet.power_dbm,
        "ipol": true,
    });
    if let Some(entry) = entry.as_object_mut() {
        match packet.when {
            When::Immediately => entry.insert("imme".to_owned(), json!(true)),
            When::Counter(counter) => entry.insert("tmst".to_owned(), json!(counter)),
            // Milliseconds since the GPS epoch.
            When::Gps(at) => {
                entry.insert("tmms".to_owned(), json!(at.as_micros().div_euclid(1_000)))
            }
        };
        match packet.data_rate {
            // LoRa downlinks have no payload CRC; FSK ones do (RP002-1.0.4 §4.1).
            DataRate::Lora { .. } => entry.insert("ncrc".to_owned(), json!(true)),
            DataRate::Fsk50 => entry.insert("fdev".to_owned(), json!(25_000)),
        };
    }
    with_contents(entry, packet.data_rate, &packet.phy_payload)
}

/// Adds what `rxpk` and `txpk` share.
fn with_contents(mut entry: Value, data_rate: DataRate, phy_payload: &[u8]) -> Value {
    if let Some(entry) = entry.as_object_mut() {
        match data_rate {
            DataRate::Lora { .. } => {
                entry.insert("modu".to_owned(), json!("LORA"));
                entry.insert("datr".to_owned(), json!(data_rate.to_string()));
                entry.insert("codr".to_owned(), json!("4/5"));
            }
            DataRate::Fsk50 => {
                entry.insert("modu".to_owned(), json!("FSK"));
                entry.insert("datr".to_owned(), json!(50_000));
            }
        }
        entry.insert("size".to_owned(), json!(phy_payload.len()));
        entry.insert("data".to_owned(), json!(BASE64.encode(phy_payload)));
    }
    entry
}

fn data_rate(entry: &Value) -> Option<DataRate> {
    match (entry.get("modu")?.as_str()?, entry.get("datr")?) {
        ("LORA", Value::String(text)) => text
            .parse()
            .ok()
            .filter(|data_rate| matches!(data_rate, DataRate::Lora { .. })),
        ("FSK", datr) if datr.as_f64() == Some(50_000.0) => Some(DataRate::Fsk50),
        _ => None,
    }
}

fn phy_payload(entry: &Value) -> Option<Vec<u8>> {
    let text = entry.get("data")?.as_str()?;
    // Four characters for three bytes: longer texts need not be decoded.
    if text.len() > (MAX_PHY_LENGTH / 3 + 1) * 4 {
        return None;
    }
    let bytes = BASE64.decode(text).ok()?;
    let size = match entry.get("size") {
        Some(size) => usize::try_from(size.as_u64()?).ok()?,
        None => bytes.len(),
    };
    (size == bytes.len() && (1..=MAX_PHY_LENGTH).contains(&size)).then_some(bytes)
}

fn frequency_hz(entry: &Value) -> Option<u32> {
    let hz = rounded(entry.get("freq")?.as_f64()? * 1e6, 1e6, 4e9)?;
    u32::try_from(hz).ok()
}

/// The nearest whole number, if within bounds.
fn rounded(value: f64, low: f64, high: f64) -> Option<i64> {
    if !(low..=high).contains(&value) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "within bounds, and rounded"
    )]
    Some(value.round() as i64)
}

fn decibels(value: f64) -> f32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a tenth of a decibel is kept"
    )]
    let narrow = value.clamp(-100.0, 100.0) as f32;
    narrow
}
