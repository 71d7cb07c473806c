//! The gateway's side of the UDP protocol of the Semtech packet forwarder, version 2: datagrams made and read.
//!
//! Written from PROTOCOL.TXT of `Lora-net/packet_forwarder`, apart from the server's codec, so that each tests the
//! other. PURE.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::identifiers::GatewayEui;
use lorawan_fuota::time::GpsTime;

use crate::gateway::{GatewayCounts, Received, TxError, TxRequest, TxWhen};

const PROTOCOL_VERSION: u8 = 2;
const PUSH_DATA: u8 = 0;
const PUSH_ACK: u8 = 1;
const PULL_DATA: u8 = 2;
const PULL_RESP: u8 = 3;
const PULL_ACK: u8 = 4;
const TX_ACK: u8 = 5;

/// A datagram from the server.
#[derive(Clone, Debug, PartialEq)]
pub enum FromServer {
    /// A `PUSH_DATA` arrived.
    PushAck {
        /// Its token.
        token: u16,
    },
    /// A `PULL_DATA` arrived.
    PullAck {
        /// Its token.
        token: u16,
    },
    /// A frame to be sent.
    PullResp {
        /// Echoed in the `TX_ACK`.
        token: u16,
        /// The frame.
        request: TxRequest,
    },
}

/// Why a datagram from the server was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than its header.
    #[error("datagram is too short")]
    TooShort,
    /// Another version of the protocol.
    #[error("unknown protocol version {0}")]
    Version(u8),
    /// Not for gateways.
    #[error("unexpected datagram identifier {0}")]
    Identifier(u8),
    /// The JSON is not what the protocol says; names the field.
    #[error("bad {0} in txpk")]
    Field(&'static str),
}

/// `PUSH_DATA` with one frame.
pub fn push_received(token: u16, gateway: GatewayEui, received: &Received) -> Vec<u8> {
    let mut packet = json!({
        "tmst": received.counter_us,
        "freq": f64::from(received.frequency_hz) / 1e6,
        "chan": 0,
        "rfch": 0,
        "stat": 1,
        "rssi": received.rssi_dbm,
        "size": received.phy_payload.len(),
        "data": STANDARD.encode(&received.phy_payload),
    });
    match received.data_rate {
        DataRate::Lora { .. } => {
            packet["modu"] = json!("LORA");
            packet["datr"] = json!(received.data_rate.to_string());
            packet["codr"] = json!("4/5");
            packet["lsnr"] = json!(received.snr_db);
        }
        DataRate::Fsk50 => {
            packet["modu"] = json!("FSK");
            packet["datr"] = json!(50_000);
        }
    }
    if let Some(gps) = received.gps {
        packet["tmms"] = json!(gps.as_micros().div_euclid(1_000));
    }
    with_json(PUSH_DATA, token, gateway, &json!({ "rxpk": [packet] }))
}

/// `PUSH_DATA` with statistics; `time` in the form the forwarder uses, `2026-11-21 04:16:00 UTC`.
pub fn push_statistics(
    token: u16,
    gateway: GatewayEui,
    time: &str,
    counts: &GatewayCounts,
) -> Vec<u8> {
    let statistics = json!({
        "time": time,
        "rxnb": counts.received,
        "rxok": counts.received,
        "rxfw": counts.received,
        "ackr": 100.0,
        "dwnb": counts.queued + counts.refused,
        "txnb": counts.sent,
    });
    with_json(PUSH_DATA, token, gateway, &json!({ "stat": statistics }))
}

/// `PULL_DATA`.
pub fn pull_data(token: u16, gateway: GatewayEui) -> Vec<u8> {
    header(PULL_DATA, token, gateway)
}

/// `TX_ACK`.
pub fn tx_ack(token: u16, gateway: GatewayEui, result: Result<(), TxError>) -> Vec<u8> {
    let word = result.map_or_else(error_word, |()| "NONE");
    with_json(
        TX_ACK,
        token,
        gateway,
        &json!({ "txpk_ack": { "error": word } }),
    )
}

/// Reads a datagram from the server.
///
/// # Errors
/// [`DatagramError`]
pub fn decode(datagram: &[u8]) -> Result<FromServer, DatagramError> {
    let (&[version, high, low, identifier], rest) = datagram
        .split_first_chunk()
        .ok_or(DatagramError::TooShort)?;
    if version != PROTOCOL_VERSION {
        return Err(DatagramError::Version(version));
    }
    let token = u16::from_be_bytes([high, low]);
    match identifier {
        PUSH_ACK => Ok(FromServer::PushAck { token }),
        PULL_ACK => Ok(FromServer::PullAck { token }),
        PULL_RESP => Ok(FromServer::PullResp {
            token,
            request: read_txpk(rest)?,
        }),
        other => Err(DatagramError::Identifier(other)),
    }
}

fn read_txpk(bytes: &[u8]) -> Result<TxRequest, DatagramError> {
    let json: Value = serde_json::from_slice(bytes).map_err(|_| DatagramError::Field("json"))?;
    let txpk = json.get("txpk").ok_or(DatagramError::Field("txpk"))?;
    let immediately = txpk.get("imme").and_then(Value::as_bool).unwrap_or(false);
    let when = if immediately {
        TxWhen::Immediately
    } else {
        let counter = txpk.get("tmst").and_then(Value::as_u64);
        let counter = counter.and_then(|counter| u32::try_from(counter).ok());
        let gps_ms = txpk.get("tmms").and_then(Value::as_i64);
        let gps = gps_ms.and_then(|ms| ms.checked_mul(1_000));
        match (counter, gps.map(GpsTime::from_micros)) {
            (Some(counter), _) => TxWhen::Counter(counter),
            (None, Some(at)) => TxWhen::Gps(at),
            (None, None) => return Err(DatagramError::Field("tmst")),
        }
    };
    // A device hears a downlink only if it is inverted, and without a CRC.
    let lora = txpk.get("modu").and_then(Value::as_str) == Some("LORA");
    if lora && txpk.get("ipol").and_then(Value::as_bool) != Some(true) {
        return Err(DatagramError::Field("ipol"));
    }
    let data = txpk
        .get("data")
        .and_then(Value::as_str)
        .ok_or(DatagramError::Field("data"))?;
    let phy_payload = STANDARD
        .decode(data)
        .map_err(|_| DatagramError::Field("data"))?;
    let size = txpk.get("size").and_then(Value::as_u64);
    if size != u64::try_from(phy_payload.len()).ok() {
        return Err(DatagramError::Field("size"));
    }
    Ok(TxRequest {
        when,
        frequency_hz: read_frequency(txpk)?,
        data_rate: read_data_rate(txpk, lora)?,
        power_dbm: txpk
            .get("powe")
            .and_then(Value::as_i64)
            .and_then(|power| i8::try_from(power).ok())
            .ok_or(DatagramError::Field("powe"))?,
        phy_payload,
    })
}

fn read_frequency(txpk: &Value) -> Result<u32, DatagramError> {
    let mhz = txpk
        .get("freq")
        .and_then(Value::as_f64)
        .ok_or(DatagramError::Field("freq"))?;
    let hz = (mhz * 1e6).round();
    if !(0.0..=f64::from(u32::MAX)).contains(&hz) {
        return Err(DatagramError::Field("freq"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked"
    )]
    let hz = hz as u32;
    Ok(hz)
}

fn read_data_rate(txpk: &Value, lora: bool) -> Result<DataRate, DatagramError> {
    let datr = txpk.get("datr").ok_or(DatagramError::Field("datr"))?;
    if !lora {
        let fsk = datr.as_u64() == Some(50_000);
        return fsk
            .then_some(DataRate::Fsk50)
            .ok_or(DatagramError::Field("datr"));
    }
    datr.as_str()
        .and_then(|text| text.parse().ok())
        .ok_or(DatagramError::Field("datr"))
}

fn error_word(error: TxError) -> &'static str {
    match error {
        TxError::TooLate => "TOO_LATE",
        TxError::TooEarly => "TOO_EARLY",
        // The forwarder has no word of its own for a full queue, nor for what cannot happen to a real one.
        TxError::CollisionPacket | TxError::QueueFull | TxError::UnknownGateway | TxError::Size => {
            "COLLISION_PACKET"
        }
        TxError::CollisionBeacon => "COLLISION_BEACON",
        TxError::GpsUnlocked => "GPS_UNLOCKED",
        TxError::TxFreq => "TX_FREQ",
        TxError::TxPower => "TX_POWER",
    }
}

fn header(identifier: u8, token: u16, gateway: GatewayEui) -> Vec<u8> {
    let [high, low] = token.to_be_bytes();
    let mut datagram = vec![PROTOCOL_VERSION, high, low, identifier];
    datagram.extend(gateway.0.to_be_bytes());
    datagram
}

fn with_json(identifier: u8, token: u16, gateway: GatewayEui, json: &Value) -> Vec<u8> {
    let mut datagram = header(identifier, token, gateway);
    datagram.extend(json.to_string().into_bytes());
    datagram
}

#[cfg(test)]
mod tests {
    use lorawan_fuota::lorawan::airtime::{Bandwidth, SpreadingFactor};
    use lorawan_fuota::time::Timestamp;
    use proptest::prelude::*;

    use super::*;

    const GATEWAY: GatewayEui = GatewayEui(0x0102_0304_0506_0708);

    #[test]
    fn a_request_as_servers_write_it() {
        let mut datagram = vec![2, 0xab, 0xcd, 3];
        datagram.extend(
            br#"{"txpk":{"imme":false,"tmst":3512348611,"freq":869.525,"rfch":0,"powe":14,"modu":"LORA","datr":"SF9BW125","codr":"4/5","ipol":true,"ncrc":true,"size":3,"data":"AQID"}}"#,
        );
        let expected = FromServer::PullResp {
            token: 0xabcd,
            request: TxRequest {
                when: TxWhen::Counter(3_512_348_611),
                frequency_hz: 869_525_000,
                data_rate: DataRate::lora(SpreadingFactor::Sf9, Bandwidth::Khz125),
                power_dbm: 14,
                phy_payload: vec![1, 2, 3],
            },
        };
        assert_eq!(decode(&datagram), Ok(expected));
    }

    #[test]
    fn what_gateways_say() {
        let received = Received {
            counter_us: 42,
            at: Timestamp::from_unix_seconds(0),
            frequency_hz: 868_100_000,
            data_rate: DataRate::lora(SpreadingFactor::Sf7, Bandwidth::Khz125),
            rssi_dbm: -91,
            snr_db: 7.5,
            gps: Some(GpsTime::from_micros(1_468_000_000_123_456)),
            phy_payload: vec![1, 2, 3],
        };
        let datagram = push_received(0x1234, GATEWAY, &received);
        assert_eq!(datagram[..12], [2, 0x12, 0x34, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let json: Value = serde_json::from_slice(&datagram[12..]).unwrap();
        assert_eq!(
            json,
            json!({"rxpk": [{"tmst": 42, "freq": 868.1, "chan": 0, "rfch": 0, "stat": 1, "modu": "LORA",
                "datr": "SF7BW125", "codr": "4/5", "rssi": -91, "lsnr": 7.5, "size": 3, "data": "AQID", "tmms": 1_468_000_000_123_i64}]})
        );
        let ack = tx_ack(7, GATEWAY, Err(TxError::TooLate));
        assert_eq!(ack[3], 5);
        assert_eq!(&ack[12..], br#"{"txpk_ack":{"error":"TOO_LATE"}}"#);
        assert_eq!(pull_data(1, GATEWAY).len(), 12);
    }

    proptest! {
        #[test]
        fn any_bytes_as_a_datagram(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,100}") {
            let _ = decode(&bytes);
            let mut datagram = vec![2, 0, 0, 3];
            datagram.extend(text.into_bytes());
            prop_assert!(decode(&datagram).is_err());
        }
    }
}
