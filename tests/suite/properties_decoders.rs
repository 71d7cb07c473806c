//! Properties of the decoders of frames, datagrams and images: what is encoded is decoded, and any bytes are read or
//! refused, with no more work than their length allows. Those of commands are beside.

use fuota_simulator::gateway::{Received as SimReceived, TxRequest, TxWhen};
use fuota_simulator::semtech as sim;
use lorawan_fuota::firmware::{
    ImageVersion, McubootBuilder, McubootImage, TlvKind, ed25519_public_key,
};
use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::frame::Frame;
use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui, JoinEui};
use lorawan_fuota::lorawan::join::JoinRequest;
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::network::native::semtech::{
    DownDatagram, MAX_RXPK, Received, RxPacket, TxPacket, UpDatagram,
};
use lorawan_fuota::network::native::{When, refusal_of_word};
use lorawan_fuota::record::Refusal;
use lorawan_fuota::time::GpsTime;
use lorawan_fuota::time::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::properties_commands::{bytes_often_below, config};

const RATES: [&str; 8] = [
    "SF7BW125",
    "SF8BW125",
    "SF9BW125",
    "SF10BW125",
    "SF11BW500",
    "SF12BW500",
    "SF7BW250",
    "50000",
];
/// Fields of `rxpk`, `txpk` and `txpk_ack`.
const FIELDS: [&str; 16] = [
    "tmst", "freq", "modu", "datr", "codr", "rssi", "lsnr", "size", "data", "stat", "imme", "powe",
    "ipol", "rsig", "rssic", "error",
];
/// What is in them, rightly or wrongly placed.
const WORDS: [&str; 10] = [
    "LORA", "FSK", "SF7BW125", "50000", "4/5", "AQID", "AQIDBA==", "AQ=", "NONE", "TOO_LATE",
];

fn data_rate() -> impl Strategy<Value = DataRate> {
    prop::sample::select(&RATES[..]).prop_map(|text| text.parse().unwrap())
}

fn phy_payload() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..=255)
}

fn frequency_hz() -> impl Strategy<Value = u32> {
    prop_oneof![
        1_000_000..4_000_000_000_u32,
        (0..2000_u32).prop_map(|step| 863_000_000 + step * 100)
    ]
}

fn rx_packet() -> impl Strategy<Value = RxPacket> {
    let signal = (-300_i16..=100, -1000_i16..1000);
    let air = (any::<u32>(), frequency_hz(), data_rate());
    let gps = proptest::option::of(
        (0..4_000_000_000_000_i64).prop_map(|ms| GpsTime::from_micros(ms * 1_000)),
    );
    (air, signal, gps, phy_payload()).prop_map(
        |((counter_us, frequency_hz, data_rate), (rssi_dbm, tenths), gps, phy_payload)| RxPacket {
            counter_us,
            frequency_hz,
            data_rate,
            rssi_dbm,
            snr_db: match data_rate {
                DataRate::Lora { .. } => f32::from(tenths) / 10.0,
                DataRate::Fsk50 => 0.0,
            },
            gps,
            phy_payload,
        },
    )
}

fn tx_packet() -> impl Strategy<Value = TxPacket> {
    let when = prop_oneof![
        1 => Just(When::Immediately),
        4 => any::<u32>().prop_map(When::Counter),
        2 => (0..4_000_000_000_000_i64).prop_map(|ms| When::Gps(GpsTime::from_micros(ms * 1_000))),
    ];
    (
        when,
        frequency_hz(),
        data_rate(),
        any::<i8>(),
        phy_payload(),
    )
        .prop_map(
            |(when, frequency_hz, data_rate, power_dbm, phy_payload)| TxPacket {
                when,
                frequency_hz,
                data_rate,
                power_dbm,
                phy_payload,
            },
        )
}

fn up_datagram() -> impl Strategy<Value = UpDatagram> {
    let received = (vec(rx_packet(), 0..5), any::<bool>()).prop_map(|(frames, stat)| Received {
        frames,
        stat,
        ..Received::default()
    });
    let refusal = prop_oneof![
        Just(Ok(())),
        prop::sample::select(vec!["TOO_LATE", "QUEUE_FULL", "GPS_UNLOCKED", "?"])
            .prop_map(|word| Err(refusal_of_word(word))),
    ];
    let head = (any::<u16>(), any::<u64>().prop_map(GatewayEui));
    (head, received, refusal, 0..3_u8).prop_map(|((token, gateway), received, result, kind)| {
        match kind {
            0 => UpDatagram::PushData {
                token,
                gateway,
                received,
            },
            1 => UpDatagram::PullData { token, gateway },
            _ => UpDatagram::TxAck {
                token,
                gateway,
                result,
            },
        }
    })
}

/// A value of JSON that may be where another is expected.
fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        (0..5_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (863.0..929.0).prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        4 => number,
        4 => prop::sample::select(&WORDS[..]).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            (prop::sample::select(&FIELDS[..]), inner)
                .prop_map(|(field, value)| json!({ field: value })),
        ]
    })
}

/// An entry that is right but for some of its fields.
fn entry() -> impl Strategy<Value = Value> {
    let changes = vec((prop::sample::select(&FIELDS[..]), value()), 0..4);
    changes.prop_map(|changes| {
        let mut entry = json!({"tmst": 1, "freq": 868.1, "modu": "LORA", "datr": "SF7BW125", "codr": "4/5", "rssi": -35,
            "lsnr": 5.1, "powe": 14, "ipol": true, "size": 3, "data": "AQID"});
        for (field, value) in changes {
            entry[field] = value;
        }
        entry
    })
}

/// A datagram whose text is JSON, more or less what the protocol says.
fn json_datagram() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let entries = prop_oneof![vec(entry(), 0..4), vec(value(), 0..4)];
    let body = (entries, entry(), prop::option::of(value()));
    (0..7_u8, body).prop_map(|(identifier, (entries, tx, other))| {
        let mut datagram = vec![2, 0, 0, identifier];
        // Up goes the gateway's EUI, down goes nothing, before the text.
        if matches!(identifier, 0 | 2 | 5) {
            datagram.extend([1; 8]);
        }
        let mut body = Map::new();
        let count = entries.len();
        body.insert("rxpk".to_owned(), entries.into());
        body.insert("txpk".to_owned(), tx.clone());
        body.insert("txpk_ack".to_owned(), other.clone().unwrap_or(tx));
        body.extend(other.map(|other| ("stat".to_owned(), other)));
        datagram.extend(Value::from(body).to_string().into_bytes());
        (datagram, count)
    })
}

/// Reads a datagram in all three ways; what is understood is bounded, and is understood again when written anew.
fn survive_datagram(datagram: &[u8]) -> Result<(), TestCaseError> {
    match UpDatagram::decode(datagram) {
        Ok(UpDatagram::PushData {
            token,
            gateway,
            mut received,
        }) => {
            prop_assert!(received.frames.len() <= MAX_RXPK);
            prop_assert!(received.frames.len() + received.bad <= datagram.len());
            (received.bad, received.without_crc) = (0, 0);
            let again = UpDatagram::PushData {
                token,
                gateway,
                received,
            };
            prop_assert_eq!(UpDatagram::decode(&again.encode()), Ok(again));
        }
        Ok(other) => prop_assert_eq!(UpDatagram::decode(&other.encode()), Ok(other)),
        Err(_) => {}
    }
    if let Ok(down) = DownDatagram::decode(datagram) {
        prop_assert_eq!(DownDatagram::decode(&down.encode()), Ok(down));
    }
    if let Ok(sim::FromServer::PullResp { request, .. }) = sim::decode(datagram) {
        prop_assert!(request.phy_payload.len() <= datagram.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_a_gateway_says_is_read_back(up in up_datagram()) {
        // The word of a refusal the protocol does not know is lost.
        let lossy = matches!(up, UpDatagram::TxAck { result: Err(Refusal::Other), .. });
        let decoded = UpDatagram::decode(&up.encode());
        prop_assert!(lossy || decoded == Ok(up));
    }

    #[test]
    fn what_the_server_says_is_read_back_by_both_codecs(token: u16, packet in tx_packet()) {
        let acks = [DownDatagram::PushAck { token }, DownDatagram::PullAck { token }];
        let sim_acks = [sim::FromServer::PushAck { token }, sim::FromServer::PullAck { token }];
        for (ack, sim_ack) in acks.into_iter().zip(sim_acks) {
            prop_assert_eq!(sim::decode(&ack.encode()), Ok(sim_ack));
            prop_assert_eq!(DownDatagram::decode(&ack.encode()), Ok(ack));
        }
        let request = TxRequest {
            when: match packet.when {
                When::Immediately => TxWhen::Immediately,
                When::Counter(counter) => TxWhen::Counter(counter),
                When::Gps(at) => TxWhen::Gps(at),
            },
            frequency_hz: packet.frequency_hz,
            data_rate: packet.data_rate,
            power_dbm: packet.power_dbm,
            phy_payload: packet.phy_payload.clone(),
        };
        let datagram = DownDatagram::PullResp { token, packet };
        prop_assert_eq!(sim::decode(&datagram.encode()), Ok(sim::FromServer::PullResp { token, request }));
        prop_assert_eq!(DownDatagram::decode(&datagram.encode()), Ok(datagram));
    }

    #[test]
    fn what_a_simulated_gateway_says_is_read_by_the_server(token: u16, eui: u64, packet in rx_packet()) {
        let gateway = GatewayEui(eui);
        let said = SimReceived {
            counter_us: packet.counter_us,
            at: Timestamp::default(),
            frequency_hz: packet.frequency_hz,
            data_rate: packet.data_rate,
            rssi_dbm: packet.rssi_dbm,
            snr_db: packet.snr_db,
            gps: packet.gps,
            phy_payload: packet.phy_payload.clone(),
        };
        let received = Received { frames: vec![packet], ..Received::default() };
        let expected = UpDatagram::PushData { token, gateway, received };
        prop_assert_eq!(UpDatagram::decode(&sim::push_received(token, gateway, &said)), Ok(expected));
    }

    #[test]
    fn any_bytes_as_a_datagram(
        head in prop_oneof![Just(vec![]), (0..7_u8).prop_map(|identifier| vec![2, 0, 0, identifier])],
        bytes in vec(any::<u8>(), 0..200),
    ) {
        survive_datagram(&[head, bytes].concat())?;
    }

    #[test]
    fn any_bytes_as_json_in_a_datagram((datagram, entries) in json_datagram()) {
        if let Ok(UpDatagram::PushData { received, .. }) = UpDatagram::decode(&datagram) {
            prop_assert_eq!(received.frames.len() + received.bad + received.without_crc, entries);
        }
        survive_datagram(&datagram)?;
    }

    #[test]
    fn any_bytes_as_a_frame(bytes in vec(any::<u8>(), 0..300), length in prop::sample::select(vec![12, 17, 23, 33, 300])) {
        let bytes = &bytes[..bytes.len().min(length)];
        let key = Key128::from_bytes([7; 16]);
        match Frame::parse(bytes) {
            Ok(Frame::JoinRequest(request)) => {
                prop_assert_eq!(&request.phy_payload()[..], bytes);
                let _ = request.verify_mic(&key);
            }
            Ok(Frame::JoinAccept(accept)) => prop_assert!(accept.open(&key).is_err()),
            Ok(Frame::Data(frame)) => {
                prop_assert_eq!(frame.phy_payload(), bytes);
                prop_assert!(frame.decrypt(&key, 0).len() + frame.f_opts.len() < bytes.len());
            }
            Err(_) => {}
        }
    }

    #[test]
    fn a_join_request_is_read_back(join_eui: u64, dev_eui: u64, dev_nonce: u16, key: [u8; 16]) {
        let key = Key128::from_bytes(key);
        let sent = JoinRequest::new(JoinEui(join_eui), DevEui(dev_eui), dev_nonce, &key);
        let Ok(Frame::JoinRequest(read)) = Frame::parse(sent.phy_payload()) else {
            return Err(TestCaseError::fail("no join-request"));
        };
        prop_assert!(read.verify_mic(&key));
        prop_assert_eq!((read.join_eui, read.dev_eui, read.dev_nonce), (JoinEui(join_eui), DevEui(dev_eui), dev_nonce));
    }

    #[test]
    fn a_built_image_is_read_back(
        body in vec(any::<u8>(), 0..300),
        version in any::<(u8, u8, u16, u32)>(),
        header_size in 32..600_u16,
        load_addr in prop::option::of(1..u32::MAX),
        tlvs in vec((0xa0..0xff_u16, vec(any::<u8>(), 0..40)), 0..4),
        seed in prop::option::of(any::<[u8; 32]>()),
        padding in 0..50_usize,
    ) {
        let (major, minor, revision, build) = version;
        let version = ImageVersion { major, minor, revision, build };
        let mut builder = McubootBuilder::new(body.clone(), version).header_size(header_size);
        if let Some(load_addr) = load_addr {
            builder = builder.load_addr(load_addr);
        }
        for (kind, content) in &tlvs {
            builder = builder.protected_tlv(TlvKind::Other(*kind), content);
        }
        if let Some(seed) = &seed {
            builder = builder.sign_ed25519(seed);
        }
        let mut bytes = builder.build().unwrap();
        let length = bytes.len();
        bytes.extend(vec![0xff; padding]);
        let image = McubootImage::parse(&bytes).unwrap();
        prop_assert_eq!((image.version, image.hdr_size, image.len()), (version, header_size, length));
        prop_assert_eq!(image.load_addr, load_addr.unwrap_or(0));
        prop_assert_eq!(&bytes[image.body()], &body[..]);
        let read: Vec<(u16, Vec<u8>)> = image
            .tlvs
            .iter()
            .filter(|tlv| tlv.protected)
            .map(|tlv| (tlv.kind.into(), bytes[tlv.range.clone()].to_vec()))
            .collect();
        prop_assert_eq!(read, tlvs);
        prop_assert_eq!(image.verify_sha256(&bytes), Ok(()));
        if let Some(seed) = &seed {
            prop_assert_eq!(image.verify_ed25519(&bytes, &ed25519_public_key(seed)), Ok(()));
        }
    }

    #[test]
    fn any_bytes_as_an_image(
        sizes in any::<(u8, u8, u8)>(),
        magics in any::<(bool, bool)>(),
        area in bytes_often_below(20),
        raw in vec(any::<u8>(), 0..60),
    ) {
        let _ = McubootImage::parse(&raw);
        // A header with small sizes, so that what follows it is looked at.
        let (hdr_size, protected_size, img_size) = sizes;
        let mut bytes = vec![0x3d, 0xb8, 0xf3, 0x96, 0, 0, 0, 0, hdr_size, 0, protected_size, 0, img_size % 32, 0, 0, 0];
        bytes.resize(usize::from(hdr_size) + usize::from(img_size % 32), 0);
        let area = &area[..area.len().min(240)];
        let (protected, plain) = magics;
        if protected {
            bytes.extend([0x08, 0x69, protected_size, 0]);
        }
        bytes.extend(&area[..area.len() / 2]);
        if plain {
            bytes.extend([0x07, 0x69, u8::try_from(area.len() - area.len() / 2 + 4).unwrap(), 0]);
        }
        bytes.extend(&area[area.len() / 2..]);
        if let Ok(image) = McubootImage::parse(&bytes) {
            prop_assert!(image.len() <= bytes.len() && image.tlvs.len() <= bytes.len() / 4);
            prop_assert!(image.tlvs.iter().all(|tlv| tlv.range.end <= image.len()));
            let _ = image.verify_sha256(&bytes);
        }
    }
}
