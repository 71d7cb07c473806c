//! Keys, the data block MIC, time and ping slots against what public LoRaWAN stacks compute
//! (`tests/vectors/README.md`).

#![expect(
    clippy::unwrap_used,
    reason = "a vector file that cannot be read fails the test"
)]

use std::str::FromStr;

use lorawan_fuota::lorawan::class_b::{
    PingSlotPeriodicity, next_ping_slot, ping_offset, ping_slot_start,
};
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::lorawan::keys::{self, Key128, KeyDerivation};
use lorawan_fuota::time::{GpsTime, Timestamp};
use serde_json::Value;

#[test]
fn multicast_keys() {
    let file = parse(include_str!("../vectors/keys.json"));
    for vector in list(&file, "keys") {
        let derivation = match text(vector, "lorawan") {
            "1.0.x (root = GenAppKey)" => KeyDerivation::GenAppKey,
            "1.1 (root = AppKey)" => KeyDerivation::AppKey,
            other => panic!("unknown derivation {other}"),
        };
        let root_key: Key128 = read(vector, "root_key");
        let mc_key: Key128 = read(vector, "mc_key");
        let mc_addr = read(vector, "mc_addr_be");

        let mc_root_key = keys::mc_root_key(derivation, &root_key);
        assert_eq!(mc_root_key.to_hex(), text(vector, "mc_root_key"));
        let mc_ke_key = keys::mc_ke_key(&mc_root_key);
        assert_eq!(mc_ke_key.to_hex(), text(vector, "mc_ke_key"));
        let mc_key_encrypted = keys::encrypt_mc_key(&mc_ke_key, &mc_key);
        assert_eq!(hex(&mc_key_encrypted), text(vector, "mc_key_encrypted"));
        assert_eq!(keys::decrypt_mc_key(&mc_ke_key, mc_key_encrypted), mc_key);
        assert_eq!(
            keys::mc_app_s_key(&mc_key, mc_addr).to_hex(),
            text(vector, "mc_app_s_key")
        );
        assert_eq!(
            keys::mc_nwk_s_key(&mc_key, mc_addr).to_hex(),
            text(vector, "mc_nwk_s_key")
        );
        assert_eq!(
            keys::data_block_int_key(&root_key).to_hex(),
            text(vector, "data_block_int_key")
        );
    }
}

#[test]
fn data_block_mic() {
    let file = parse(include_str!("../vectors/frag_v2_mic.json"));
    for vector in list(&file, "vectors") {
        let key = keys::data_block_int_key(&read(vector, "root_key"));
        assert_eq!(key.to_hex(), text(vector, "data_block_int_key"));
        let descriptor: DevAddr = read(vector, "descriptor_wire_hex");
        let data: Vec<u8> = (0..integer(vector, "data_len"))
            .map(|index| (index * 2_654_435_761).to_le_bytes())
            .map(|product| u32::from_le_bytes([product[0], product[1], product[2], product[3]]))
            .map(|product| (product >> 13).to_le_bytes()[0])
            .collect();
        let mic = keys::data_block_mic(
            &key,
            integer(vector, "session_cnt").try_into().unwrap(),
            integer(vector, "frag_index").try_into().unwrap(),
            descriptor.0.to_be_bytes(),
            &data,
        );
        assert_eq!(hex(&mic), text(vector, "mic_wire_hex"));
    }
}

/// The join of lora-rs `lorawan` 0.9.0, tests `test_derive_newskey` and `test_derive_appskey`: a join-accept as it is
/// on the air under AppKey 00112233..ff, and DevNonce 2d10 as it is on the air.
#[test]
fn session_keys_of_a_join() {
    let app_key = key("00112233445566778899aabbccddeeff");
    let encrypted = *key("493eeb51fba2116f810edb3742975142").as_bytes();
    let [j0, j1, j2, n0, n1, n2, ..] = keys::aes128_encrypt(&app_key, encrypted);
    let join_nonce = u32::from_le_bytes([j0, j1, j2, 0]);
    let net_id = u32::from_le_bytes([n0, n1, n2, 0]);
    assert_eq!(
        keys::nwk_s_key(&app_key, join_nonce, net_id, 0x102d).to_hex(),
        "7bb25f89e0d1371e1fbf4d997e1468a3"
    );
    assert_eq!(
        keys::app_s_key(&app_key, join_nonce, net_id, 0x102d).to_hex(),
        "148820dfb1e0c9d6289cde16c1af249f"
    );
    assert_eq!(
        keys::app_s_key(&app_key, join_nonce | 0xff00_0000, net_id, 0x102d).to_hex(),
        "148820dfb1e0c9d6289cde16c1af249f"
    );
}

/// RFC 4493 §4, examples 1 to 4, cut into parts in two ways.
#[test]
fn cmac() {
    let key = key("2b7e151628aed2a6abf7158809cf4f3c");
    let message: Vec<u8> = [
        "6bc1bee22e409f96e93d7e117393172a",
        "ae2d8a571e03ac9c9eb76fac45af8e51",
        "30c81c46a35ce411e5fbc1191a0a52ef",
        "f69f2445df4f9b17ad2b417be66c3710",
    ]
    .iter()
    .flat_map(|block| *block.parse::<Key128>().unwrap().as_bytes())
    .collect();
    for (length, expected) in [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ] {
        let (head, tail) = message[..length].split_at(length / 3);
        assert_eq!(
            hex(&keys::aes128_cmac(&key, &[&message[..length]])),
            expected
        );
        assert_eq!(hex(&keys::aes128_cmac(&key, &[head, &[], tail])), expected);
    }
}

#[test]
fn keys_do_not_show_themselves() {
    #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
    struct Holder {
        #[serde(with = "keys::serde_hex")]
        one: Key128,
        #[serde(with = "keys::serde_hex_option", default)]
        other: Option<Key128>,
    }
    let holder = Holder {
        one: key("000102030405060708090a0b0c0d0e0f"),
        other: Some(key("ffeeddccbbaa99887766554433221100")),
    };
    assert_eq!(
        format!("{holder:?}"),
        "Holder { one: Key128(..), other: Some(Key128(..)) }"
    );
    let json = serde_json::to_string(&holder).unwrap();
    assert_eq!(
        json,
        r#"{"one":"000102030405060708090a0b0c0d0e0f","other":"ffeeddccbbaa99887766554433221100"}"#
    );
    assert_eq!(serde_json::from_str::<Holder>(&json).unwrap(), holder);
    for without in [
        r#"{"one":"000102030405060708090A0B0C0D0E0F","other":null}"#,
        r#"{"one":"000102030405060708090a0b0c0d0e0f"}"#,
    ] {
        let read: Holder = serde_json::from_str(without).unwrap();
        assert_eq!(read.one, holder.one);
        assert_ne!(read, holder);
        assert_eq!(read.other, None);
    }
    let short = r#"{"one":"5ec2e7"}"#;
    let error = serde_json::from_str::<Holder>(short).unwrap_err();
    assert!(!error.to_string().contains("5ec2e7"));
    assert_ne!(
        key("000102030405060708090a0b0c0d0e0f"),
        key("000102030405060708090a0b0c0d0e0e")
    );
}

#[test]
fn gps_time() {
    let file = parse(include_str!("../vectors/gps_time.json"));
    for vector in list(&file, "vectors") {
        let unix = Timestamp::from_unix_seconds(signed(vector, "unix"));
        let gps = GpsTime::from_seconds(signed(vector, "gps_seconds"));
        assert_eq!(unix.to_gps(), gps);
        assert_eq!(gps.to_unix(), unix);
        assert_eq!(gps.seconds(), signed(vector, "gps_seconds"));
        assert_eq!(
            u64::from(gps.wire_seconds()),
            integer(vector, "gps_mod_2_32")
        );
        let printed = unix.to_string().replace(".000Z", "Z");
        assert_eq!(printed, text(vector, "utc"));
    }
    // Every step of the table, told by its date: two seconds on the GPS scale for one second of Unix time.
    let steps: Vec<&str> = list(&file, "leap_steps_utc")
        .iter()
        .map(|step| step.as_str().unwrap())
        .collect();
    let found: Vec<String> = (1980 * 12..2050 * 12)
        .flat_map(|month: i64| {
            let days = days_before(month / 12, month % 12);
            let midnight = Timestamp::from_unix_seconds(days * 86_400);
            let before = Timestamp::from_unix_seconds(days * 86_400 - 1);
            let passed = midnight.to_gps().seconds() - before.to_gps().seconds();
            (passed == 2).then(|| midnight.to_string()[..10].to_owned())
        })
        .collect();
    assert_eq!(found, steps);
}

#[test]
fn ping_slots() {
    let file = parse(include_str!("../vectors/classb_ping.json"));
    for vector in list(&file, "vectors") {
        let beacon = GpsTime::from_seconds(signed(vector, "beacon_time"));
        let address: DevAddr = read(vector, "dev_addr_be");
        let number = u8::try_from(integer(vector, "periodicity")).unwrap();
        let periodicity = PingSlotPeriodicity::try_from(number).unwrap();
        let offset = ping_offset(beacon, address, periodicity);
        assert_eq!(u64::from(periodicity.ping_nb()), integer(vector, "ping_nb"));
        assert_eq!(
            u64::from(periodicity.ping_period()),
            integer(vector, "ping_period")
        );
        assert_eq!(u64::from(offset), integer(vector, "ping_offset"));
        let first_slot = ping_slot_start(beacon, offset);
        assert_eq!(
            first_slot.as_micros() - beacon.as_micros(),
            1000 * signed(vector, "first_slot_ms")
        );
        assert_eq!(next_ping_slot(beacon, address, periodicity), first_slot);
    }
}

#[test]
fn next_ping_slots() {
    let file = parse(include_str!("../vectors/classb_ping.json"));
    for vector in list(&file, "next_slot_after") {
        let periodicity = (0..8)
            .map(|number| PingSlotPeriodicity::try_from(number).unwrap())
            .find(|periodicity| u64::from(periodicity.ping_nb()) == integer(vector, "ping_nb"))
            .unwrap();
        let after = GpsTime::from_micros(1000 * signed(vector, "after_gps_ms"));
        let next = next_ping_slot(after, read(vector, "dev_addr_be"), periodicity);
        assert_eq!(next.as_micros(), 1000 * signed(vector, "next_slot_gps_ms"));
    }
}

fn parse(file: &str) -> Value {
    serde_json::from_str(file).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let list = value[name].as_array().unwrap();
    assert!(!list.is_empty());
    list
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn integer(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap()
}

fn signed(value: &Value, name: &str) -> i64 {
    value[name].as_i64().unwrap()
}

fn read<T: FromStr<Err: std::fmt::Debug>>(value: &Value, name: &str) -> T {
    text(value, name).parse().unwrap()
}

fn key(text: &str) -> Key128 {
    text.parse().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Days from 1970-01-01 to the first day of a month (0 to 11) of a year from 1970 on, counted the slow way.
fn days_before(year: i64, month: i64) -> i64 {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let years: i64 = (1970..year).map(|year| 365 + i64::from(leap(year))).sum();
    let february = 28 + i64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = usize::try_from(month).unwrap();
    years + months[..length].iter().sum::<i64>()
}
