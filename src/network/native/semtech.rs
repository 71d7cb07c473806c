//! The UDP protocol of the Semtech packet forwarder, version 2: datagrams to values and back, for both ends.
//!
//! Every input is possible: a datagram is read as far as it makes sense, bad entries are counted and the good ones
//! beside them kept. Nothing is authenticated; whom to believe is decided elsewhere. PROTOCOL.TXT of
//! `Lora-net/packet_forwarder`.

use serde_json::{Map, Value, json};

pub use super::packets::{RxPacket, TxPacket};
use super::packets::{rx_packet, rxpk, tx_packet, txpk};
use super::{refusal_of_word, refusal_word};
use crate::lorawan::identifiers::GatewayEui;
use crate::record::Refusal;

/// Most `rxpk` entries read of one datagram; the rest counts as bad.
pub const MAX_RXPK: usize = 64;

/// Most bytes of one datagram.
pub const MAX_DATAGRAM: usize = 65_535;

/// Why a datagram was not read at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SemtechError {
    /// Shorter than its kind needs.
    #[error("datagram of {length} bytes is too short")]
    TooShort {
        /// Its length.
        length: usize,
    },
    /// Longer than any datagram.
    #[error("datagram of {length} bytes is too long")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// Not version 2 of the protocol.
    #[error("unknown protocol version {version}")]
    UnknownVersion {
        /// First byte.
        version: u8,
    },
    /// No datagram this end receives.
    #[error("unknown datagram identifier {identifier}")]
    UnknownIdentifier {
        /// Fourth byte.
        identifier: u8,
    },
    /// The JSON is not what the protocol says.
    #[error("malformed JSON")]
    MalformedJson,
}

/// A datagram from a gateway to the server.
#[derive(Clone, Debug, PartialEq)]
pub enum UpDatagram {
    /// Frames received, and possibly statistics.
    PushData {
        /// Echoed in the answer.
        token: u16,
        /// Sender.
        gateway: GatewayEui,
        /// The good entries.
        received: Received,
    },
    /// Keeps the way to the gateway open.
    PullData {
        /// Echoed in the answer.
        token: u16,
        /// Sender.
        gateway: GatewayEui,
    },
    /// The fate of a `PULL_RESP`.
    TxAck {
        /// Token of the `PULL_RESP`.
        token: u16,
        /// Sender.
        gateway: GatewayEui,
        /// Queued, or why not.
        result: Result<(), Refusal>,
    },
}

/// What a `PUSH_DATA` carried.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Received {
    /// Frames with a good CRC.
    pub frames: Vec<RxPacket>,
    /// Entries whose CRC was bad or missing.
    pub without_crc: usize,
    /// Entries that make no sense, or were too many.
    pub bad: usize,
    /// A `stat` object came along.
    pub stat: bool,
}

/// A datagram from the server to a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownDatagram {
    /// Answer to `PUSH_DATA`.
    PushAck {
        /// Token of the `PUSH_DATA`.
        token: u16,
    },
    /// Answer to `PULL_DATA`.
    PullAck {
        /// Token of the `PULL_DATA`.
        token: u16,
    },
    /// A frame to send.
    PullResp {
        /// Echoed in the `TX_ACK`.
        token: u16,
        /// The frame.
        packet: TxPacket,
    },
}

impl UpDatagram {
    /// Reads a datagram a server received.
    ///
    /// # Errors
    /// Any [`SemtechError`].
    pub fn decode(datagram: &[u8]) -> Result<Self, SemtechError> {
        let (token, identifier, rest) = header(datagram)?;
        if !matches!(identifier, PUSH_DATA | PULL_DATA | TX_ACK) {
            return Err(SemtechError::UnknownIdentifier { identifier });
        }
        let (eui, body) = rest
            .split_first_chunk::<8>()
            .ok_or(SemtechError::TooShort {
                length: datagram.len(),
            })?;
        let gateway = GatewayEui(u64::from_be_bytes(*eui));
        Ok(match identifier {
            PUSH_DATA => Self::PushData {
                token,
                gateway,
                received: received(body)?,
            },
            PULL_DATA => Self::PullData { token, gateway },
            _ => Self::TxAck {
                token,
                gateway,
                result: tx_ack_result(body)?,
            },
        })
    }

    /// The datagram as a gateway sends it. Entries left out by the decoder are not sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::PushData {
                token,
                gateway,
                received,
            } => {
                let mut body = Map::new();
                if !received.frames.is_empty() {
                    let entries = received.frames.iter().map(rxpk).collect();
                    body.insert("rxpk".to_owned(), Value::Array(entries));
                }
                if received.stat {
                    body.insert("stat".to_owned(), json!({ "rxnb": received.frames.len() }));
                }
                let mut bytes = from_gateway(PUSH_DATA, *token, *gateway);
                bytes.extend(Value::Object(body).to_string().into_bytes());
                bytes
            }
            Self::PullData { token, gateway } => from_gateway(PULL_DATA, *token, *gateway),
            Self::TxAck {
                token,
                gateway,
                result,
            } => {
                let mut bytes = from_gateway(TX_ACK, *token, *gateway);
                if let Err(refusal) = result {
                    let body = json!({ "txpk_ack": { "error": refusal_word(*refusal) } });
                    bytes.extend(body.to_string().into_bytes());
                }
                bytes
            }
        }
    }
}

/// The gateway a datagram says it comes from, even if the rest of it cannot be read.
pub fn claimed_gateway(datagram: &[u8]) -> Option<GatewayEui> {
    let (_, identifier, rest) = header(datagram).ok()?;
    let (eui, _) = rest.split_first_chunk::<8>()?;
    matches!(identifier, PUSH_DATA | PULL_DATA | TX_ACK)
        .then(|| GatewayEui(u64::from_be_bytes(*eui)))
}

impl DownDatagram {
    /// Reads a datagram a gateway received.
    ///
    /// # Errors
    /// Any [`SemtechError`]; a `txpk` that cannot be understood is [`SemtechError::MalformedJson`].
    pub fn decode(datagram: &[u8]) -> Result<Self, SemtechError> {
        let (token, identifier, body) = header(datagram)?;
        match identifier {
            PUSH_ACK => Ok(Self::PushAck { token }),
            PULL_ACK => Ok(Self::PullAck { token }),
            PULL_RESP => {
                let packet = object(body)
                    .and_then(|body| tx_packet(body.get("txpk")?))
                    .ok_or(SemtechError::MalformedJson)?;
                Ok(Self::PullResp { token, packet })
            }
            _ => Err(SemtechError::UnknownIdentifier { identifier }),
        }
    }

    /// The datagram as the server sends it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::PushAck { token } => head(PUSH_ACK, *token),
            Self::PullAck { token } => head(PULL_ACK, *token),
            Self::PullResp { token, packet } => {
                let mut bytes = head(PULL_RESP, *token);
                bytes.extend(json!({ "txpk": txpk(packet) }).to_string().into_bytes());
                bytes
            }
        }
    }
}

const VERSION: u8 = 2;
const PUSH_DATA: u8 = 0;
const PUSH_ACK: u8 = 1;
const PULL_DATA: u8 = 2;
const PULL_RESP: u8 = 3;
const PULL_ACK: u8 = 4;
const TX_ACK: u8 = 5;

fn header(datagram: &[u8]) -> Result<(u16, u8, &[u8]), SemtechError> {
    let length = datagram.len();
    if length > MAX_DATAGRAM {
        return Err(SemtechError::TooLong { length });
    }
    let (&[version, a, b, identifier], rest) = datagram
        .split_first_chunk()
        .ok_or(SemtechError::TooShort { length })?;
    if version != VERSION {
        return Err(SemtechError::UnknownVersion { version });
    }
    Ok((u16::from_be_bytes([a, b]), identifier, rest))
}

fn head(identifier: u8, token: u16) -> Vec<u8> {
    let [a, b] = token.to_be_bytes();
    vec![VERSION, a, b, identifier]
}

fn from_gateway(identifier: u8, token: u16, gateway: GatewayEui) -> Vec<u8> {
    let mut bytes = head(identifier, token);
    bytes.extend(gateway.0.to_be_bytes());
    bytes
}

/// Some gateways end their text with a zero byte.
fn object(body: &[u8]) -> Option<Map<String, Value>> {
    let end = body
        .iter()
        .rposition(|&byte| byte != 0 && !byte.is_ascii_whitespace())?;
    match serde_json::from_slice(&body[..=end]) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

fn received(body: &[u8]) -> Result<Received, SemtechError> {
    let body = object(body).ok_or(SemtechError::MalformedJson)?;
    let mut received = Received {
        stat: body.get("stat").is_some_and(Value::is_object),
        ..Received::default()
    };
    let entries = match body.get("rxpk") {
        None => return Ok(received),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(SemtechError::MalformedJson),
    };
    received.bad = entries.len().saturating_sub(MAX_RXPK);
    for entry in entries.iter().take(MAX_RXPK) {
        let crc = entry.get("stat").map_or(Some(1), Value::as_i64);
        match (crc, rx_packet(entry)) {
            (Some(1), Some(frame)) => received.frames.push(frame),
            (Some(-1 | 0), _) => received.without_crc += 1,
            _ => received.bad += 1,
        }
    }
    Ok(received)
}

fn tx_ack_result(body: &[u8]) -> Result<Result<(), Refusal>, SemtechError> {
    if body.iter().all(|&b| b == 0 || b.is_ascii_whitespace()) {
        return Ok(Ok(()));
    }
    let body = object(body).ok_or(SemtechError::MalformedJson)?;
    // A `warn` says that the frame was queued with other parameters, such as less power.
    Ok(
        match body.get("txpk_ack").and_then(|ack| ack.get("error")) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(word)) if word.is_empty() || word == "NONE" => Ok(()),
            Some(Value::String(word)) => Err(refusal_of_word(word)),
            Some(_) => Err(Refusal::Other),
        },
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lorawan::airtime::DataRate;
    use crate::network::native::When;

    const GATEWAY: GatewayEui = GatewayEui(0xaa55_5a00_0000_0101);

    fn push(json: &str) -> Vec<u8> {
        let mut bytes = vec![2, 0x12, 0x34, 0];
        bytes.extend(GATEWAY.0.to_be_bytes());
        bytes.extend(json.as_bytes());
        bytes
    }

    fn frames(json: &str) -> Received {
        match UpDatagram::decode(&push(json)) {
            Ok(UpDatagram::PushData {
                token: 0x1234,
                gateway: GATEWAY,
                received,
            }) => received,
            other => panic!("{other:?}"),
        }
    }

    const LORA: &str = r#"{"tmst":3512348611,"time":"2013-03-31T16:21:17.528002Z","chan":2,"rfch":0,"freq":866.349812,"stat":1,"modu":"LORA","datr":"SF7BW125","codr":"4/6","rssi":-35,"lsnr":5.1,"size":4,"data":"AQIDBA=="}"#;
    const FSK: &str = r#"{"tmst":3512348514,"chan":9,"rfch":1,"freq":869.1,"stat":1,"modu":"FSK","datr":50000,"rssi":-75.4,"size":3,"data":"AQID"}"#;

    #[test]
    fn frames_of_a_real_forwarder_are_read() {
        let received = frames(&format!(r#"{{"rxpk":[{LORA},{FSK}],"stat":{{"rxnb":2}}}}"#));
        assert_eq!(
            received,
            Received {
                frames: vec![
                    RxPacket {
                        counter_us: 3_512_348_611,
                        frequency_hz: 866_349_812,
                        data_rate: "SF7BW125".parse().unwrap(),
                        rssi_dbm: -35,
                        snr_db: 5.1,
                        gps: None,
                        phy_payload: vec![1, 2, 3, 4],
                    },
                    RxPacket {
                        counter_us: 3_512_348_514,
                        frequency_hz: 869_100_000,
                        data_rate: DataRate::Fsk50,
                        rssi_dbm: -75,
                        snr_db: 0.0,
                        gps: None,
                        phy_payload: vec![1, 2, 3],
                    },
                ],
                stat: true,
                ..Received::default()
            }
        );
    }

    #[test]
    fn bad_entries_are_counted_and_good_ones_kept() {
        let bad_crc = LORA.replace(r#""stat":1"#, r#""stat":-1"#);
        let no_crc = LORA.replace(r#""stat":1"#, r#""stat":0"#);
        let bad = [
            LORA.replace("AQIDBA==", "A?IDBA=="),
            LORA.replace(r#""size":4"#, r#""size":5"#),
            LORA.replace("SF7BW125", "SF99BW125"),
            LORA.replace("866.349812", "1e300"),
            LORA.replace("3512348611", "-1"),
            LORA.replace("-35", "null"),
            LORA.replace("\"LORA\"", "7"),
            "7".to_owned(),
            "{}".to_owned(),
        ];
        let all = format!(
            r#"{{"rxpk":[{LORA},{bad_crc},{no_crc},{},{FSK}]}}"#,
            bad.join(",")
        );
        let received = frames(&all);
        assert_eq!(received.frames.len(), 2);
        assert_eq!((received.without_crc, received.bad), (2, bad.len()));
        let unpadded = LORA.replace("AQIDBA==", "AQIDBA");
        assert_eq!(
            frames(&format!(r#"{{"rxpk":[{unpadded}]}}"#)).frames.len(),
            1
        );
    }

    #[test]
    fn a_flood_of_entries_is_cut() {
        let many = vec![FSK; 100].join(",");
        let received = frames(&format!(r#"{{"rxpk":[{many}]}}"#));
        assert_eq!((received.frames.len(), received.bad), (MAX_RXPK, 36));
    }

    #[test]
    fn a_downlink_has_the_fields_a_forwarder_wants() {
        let packet = TxPacket {
            when: When::Counter(4_000_000_000),
            frequency_hz: 869_525_000,
            data_rate: "SF12BW125".parse().unwrap(),
            power_dbm: 27,
            phy_payload: vec![0x60, 1, 2],
        };
        let bytes = DownDatagram::PullResp {
            token: 0xbeef,
            packet,
        }
        .encode();
        assert_eq!(bytes[..4], [2, 0xbe, 0xef, 3]);
        let json: Value = serde_json::from_slice(&bytes[4..]).unwrap();
        assert_eq!(
            json,
            json!({"txpk": {
                "tmst": 4_000_000_000u32, "freq": 869.525, "rfch": 0, "powe": 27, "modu": "LORA", "datr": "SF12BW125",
                "codr": "4/5", "ipol": true, "ncrc": true, "size": 3, "data": "YAEC"
            }})
        );
    }

    #[test]
    fn what_one_end_sends_the_other_reads() {
        let packet = TxPacket {
            when: When::Immediately,
            frequency_hz: 923_300_000,
            data_rate: "SF8BW500".parse().unwrap(),
            power_dbm: -3,
            phy_payload: vec![7; 255],
        };
        let fsk = TxPacket {
            when: When::Counter(0),
            data_rate: DataRate::Fsk50,
            ..packet.clone()
        };
        for sent in [
            DownDatagram::PushAck { token: 1 },
            DownDatagram::PullAck { token: 0xffff },
            DownDatagram::PullResp { token: 0, packet },
            DownDatagram::PullResp {
                token: 9,
                packet: fsk,
            },
        ] {
            assert_eq!(DownDatagram::decode(&sent.encode()), Ok(sent));
        }
        let gateway = GATEWAY;
        let received = frames(&format!(r#"{{"rxpk":[{LORA},{FSK}],"stat":{{}}}}"#));
        for sent in [
            UpDatagram::PushData {
                token: 5,
                gateway,
                received,
            },
            UpDatagram::PullData { token: 6, gateway },
            UpDatagram::TxAck {
                token: 7,
                gateway,
                result: Ok(()),
            },
            UpDatagram::TxAck {
                token: 7,
                gateway,
                result: Err(Refusal::CollisionPacket),
            },
        ] {
            assert_eq!(UpDatagram::decode(&sent.encode()), Ok(sent));
        }
    }

    #[test]
    fn a_tx_ack_tells_errors_from_warnings() {
        let result = |json: &str| {
            let mut bytes = push(json);
            bytes[3] = 5;
            match UpDatagram::decode(&bytes) {
                Ok(UpDatagram::TxAck { result, .. }) => result,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(result(""), Ok(()));
        assert_eq!(result("\0"), Ok(()));
        assert_eq!(result(r#"{"txpk_ack":{"error":"NONE"}}"#), Ok(()));
        assert_eq!(
            result(r#"{"txpk_ack":{"warn":"TX_POWER","value":20}}"#),
            Ok(())
        );
        assert_eq!(
            result(r#"{"txpk_ack":{"error":"TOO_LATE"}}"#),
            Err(Refusal::TooLate)
        );
        assert_eq!(
            result(r#"{"txpk_ack":{"error":"MELTED"}}"#),
            Err(Refusal::Other)
        );
        assert_eq!(result(r#"{"txpk_ack":{"error":4}}"#), Err(Refusal::Other));
    }

    #[test]
    fn other_datagrams_are_refused() {
        use SemtechError as E;
        for (bytes, error) in [
            (vec![], E::TooShort { length: 0 }),
            (vec![2, 0, 0], E::TooShort { length: 3 }),
            (vec![2, 0, 0, 2, 1, 2], E::TooShort { length: 6 }),
            (vec![1, 0, 0, 0], E::UnknownVersion { version: 1 }),
            (vec![2, 0, 0, 3], E::UnknownIdentifier { identifier: 3 }),
            (vec![2; 70_000], E::TooLong { length: 70_000 }),
            (push("{"), E::MalformedJson),
            (push(""), E::MalformedJson),
            (push("[]"), E::MalformedJson),
            (push(r#"{"rxpk":7}"#), E::MalformedJson),
            (push(&"[".repeat(50_000)), E::MalformedJson),
        ] {
            assert_eq!(UpDatagram::decode(&bytes), Err(error));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(identifier in 0u8..7, body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = vec![2, 0, 0, identifier];
            bytes.extend(body);
            let _ = UpDatagram::decode(&bytes);
            let _ = DownDatagram::decode(&bytes);
        }

        #[test]
        fn a_damaged_text_is_read_or_refused(at in 12usize..200, byte: u8) {
            let mut bytes = push(&format!(r#"{{"rxpk":[{LORA}]}}"#));
            bytes[at] = byte;
            if let Ok(UpDatagram::PushData { received, .. }) = UpDatagram::decode(&bytes) {
                prop_assert!(received.frames.len() + received.bad + received.without_crc <= 1);
            }
        }

        #[test]
        fn every_frequency_survives(frequency_hz in 1_000_000u32..3_000_000_000) {
            let packet = TxPacket {
                when: When::Immediately,
                frequency_hz,
                data_rate: DataRate::Fsk50,
                power_dbm: 0,
                phy_payload: vec![1],
            };
            let sent = DownDatagram::PullResp { token: 0, packet };
            prop_assert_eq!(DownDatagram::decode(&sent.encode()), Ok(sent));
        }
    }
}
