//! Datagrams that are none: made up from a seed, for the port where gateways are expected.

use fuota_simulator::random::Random;
use lorawan_fuota::lorawan::identifiers::GatewayEui;

/// What was sent, by what the server is to count it as.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Datagrams, or entries of good ones, that cannot be read.
    pub(super) malformed: u64,
    /// Good datagrams of gateways nobody knows.
    pub(super) of_strangers: u64,
    /// Frames with a bad CRC.
    pub(super) without_crc: u64,
}

const PUSH_DATA: u8 = 0;
const PULL_DATA: u8 = 2;
const TX_ACK: u8 = 5;

/// `rxpk` entries, and whole bodies, that make no sense. Numbers too large, of the wrong sign, of the wrong type.
const BAD_BODIES: [&str; 12] = [
    "",
    "{",
    "[]",
    "null",
    r#"{"rxpk":7}"#,
    r#"{"rxpk":{"data":"AQID"}}"#,
    r#"{"rxpk":[{"tmst":1e400}]}"#,
    "{\"rxpk\":[{\"data\":\"\\ud800\"}]}",
    r#"{"rxpk":[{"tmst":1,"freq":923.3,"datr":"SF7BW500"}"#,
    "\u{feff}{}",
    r#"{"rxpk":[],}"#,
    r#"{"stat":{"time":}}"#,
];

const BAD_ENTRIES: [&str; 10] = [
    "null",
    "[]",
    r#""rxpk""#,
    r#"{"tmst":18446744073709551616,"freq":923.3,"modu":"LORA","datr":"SF7BW500","rssi":-80,"lsnr":5,"size":3,"data":"AQID"}"#,
    r#"{"tmst":-1,"freq":923.3,"modu":"LORA","datr":"SF7BW500","rssi":-80,"lsnr":5,"size":3,"data":"AQID"}"#,
    r#"{"tmst":1,"freq":1e300,"modu":"LORA","datr":"SF7BW500","rssi":-80,"lsnr":5,"size":3,"data":"AQID"}"#,
    r#"{"tmst":1,"freq":923.3,"modu":"LORA","datr":"SF99BW7","rssi":-80,"lsnr":5,"size":3,"data":"AQID"}"#,
    r#"{"tmst":"1","freq":"923.3","modu":1,"datr":[],"rssi":{},"lsnr":null,"size":"3","data":3}"#,
    r#"{"tmst":1,"freq":923.3,"modu":"LORA","datr":"SF7BW500","rssi":-80,"lsnr":5,"size":4294967295,"data":"AQID"}"#,
    r#"{"tmst":1,"freq":923.3,"modu":"LORA","datr":"SF7BW500","rssi":-80,"lsnr":5,"size":3,"data":"%%%"}"#,
];

const BAD_CRC: &str = r#"{"rxpk":[{"tmst":1,"freq":923.3,"stat":-1,"modu":"LORA","datr":"SF7BW500","rssi":-120,"lsnr":-9,"size":3,"data":"AQID"}]}"#;

/// The next datagram; what it is to be counted as is noted in `sent`.
pub(super) fn datagram(random: &mut Random, gateway: GatewayEui, sent: &mut Sent) -> Vec<u8> {
    let kind = random.below(10);
    match kind {
        8 => sent.of_strangers += 1,
        9 => sent.without_crc += 1,
        _ => sent.malformed += 1,
    }
    let bad_body = |random: &mut Random| BAD_BODIES[random.index(BAD_BODIES.len())].as_bytes();
    match kind {
        0 => Vec::new(),
        // No datagram of a gateway is shorter than 12 bytes.
        1 => {
            let length = 1 + random.index(11);
            let mut bytes = header(random, PULL_DATA, gateway);
            bytes.truncate(length);
            bytes
        }
        2 => {
            let mut bytes = header(random, PUSH_DATA, gateway);
            bytes[0] = if random.chance(0.5) { 1 } else { 255 };
            bytes
        }
        3 => {
            let strange = [1, 3, 4, 6, 200, 255];
            let identifier = strange[random.index(strange.len())];
            header(random, identifier, gateway)
        }
        4 | 5 => {
            let mut bytes = header(random, PUSH_DATA, gateway);
            bytes.extend(bad_body(random));
            bytes
        }
        6 => {
            let mut bytes = header(random, PUSH_DATA, gateway);
            let entry = BAD_ENTRIES[random.index(BAD_ENTRIES.len())];
            bytes.extend(format!(r#"{{"rxpk":[{entry}]}}"#).into_bytes());
            bytes
        }
        7 => {
            // As deep, or as long, as a datagram can be.
            let mut bytes = header(random, PUSH_DATA, gateway);
            let byte = if random.chance(0.5) { b'[' } else { b'9' };
            bytes.extend(vec![byte; 20_000]);
            bytes
        }
        8 => {
            let stranger = GatewayEui(random.next_u64());
            let kinds = [PUSH_DATA, PULL_DATA, TX_ACK];
            let identifier = kinds[random.index(kinds.len())];
            let mut bytes = header(random, identifier, stranger);
            bytes.extend(b"{}");
            bytes
        }
        _ => {
            let mut bytes = header(random, PUSH_DATA, gateway);
            bytes.extend(BAD_CRC.as_bytes());
            bytes
        }
    }
}

fn header(random: &mut Random, identifier: u8, gateway: GatewayEui) -> Vec<u8> {
    let [high, low, ..] = random.next_u64().to_be_bytes();
    let mut bytes = vec![2, high, low, identifier];
    bytes.extend(gateway.0.to_be_bytes());
    bytes
}
