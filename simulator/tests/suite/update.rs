//! The whole update of one device, and what may go wrong in it.

use fuota_simulator::device::{
    Class, DeviceConfig, ImageCheck, Packages, SessionAfterReboot, StackProfile,
};
use fuota_simulator::random::Random;
use lorawan_fuota::erasure::{CodeVersion, Encoder};
use lorawan_fuota::firmware::{ImageVersion, McubootBuilder};
use lorawan_fuota::lorawan::PackageVersion::{self, V1, V2};
use lorawan_fuota::lorawan::firmware_management::UpImageStatus;
use lorawan_fuota::lorawan::fragmentation::{
    self, DataFragment, DownlinkCommand, FragSessionSetupReq, FragSessionStatusAns, UplinkCommand,
};
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::keys::{
    KeyDerivation, data_block_int_key, data_block_mic, encrypt_mc_key, mc_ke_key, mc_root_key,
};
use lorawan_fuota::lorawan::multicast_setup::{
    self, McClassCSessionReq, McGroupSetupReq, McSessionAns,
};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::Timestamp;

use crate::bench::{Bench, GEN_APP_KEY, MC_ADDR, MC_KEY, SECOND, abp, mc_downlink, otaa};

const FRAG_SIZE: u8 = 50;
const DESCRIPTOR: [u8; 4] = [1, 2, 3, 4];
const SESSION_HZ: u32 = 869_525_000;
const SESSION_DR: u8 = 5;
const SEED: [u8; 32] = [5; 32];
const NEW: ImageVersion = ImageVersion {
    major: 2,
    minor: 1,
    revision: 7,
    build: 0,
};

fn image() -> Vec<u8> {
    let body = (0..4000_u32)
        .flat_map(u32::to_le_bytes)
        .take(5000)
        .collect();
    McubootBuilder::new(body, NEW)
        .sign_ed25519(&SEED)
        .build()
        .unwrap()
}

fn configured(base: DeviceConfig, version: PackageVersion) -> DeviceConfig {
    let mut config = base;
    config.packages = Packages::all(version);
    config.firmware.check = ImageCheck::Ed25519(PUBLIC_KEY);
    config.firmware.version = ImageVersion::from_ts006(0x0101_0000).to_ts006();
    config
}

fn code(version: PackageVersion) -> CodeVersion {
    match version {
        V1 => CodeVersion::V1,
        V2 => CodeVersion::V2,
    }
}

/// What the server of one update keeps.
struct Update {
    bench: Bench,
    version: PackageVersion,
    encoder: Encoder,
    mc_f_cnt: u32,
    mask: u8,
    session_start: Timestamp,
}

impl Update {
    fn new(config: DeviceConfig, version: PackageVersion, data: &[u8], seed: u64) -> Self {
        let mut bench = Bench::new(config, seed);
        bench.next_uplink();
        Self {
            session_start: bench.now,
            bench,
            version,
            encoder: Encoder::new(code(version), data, FRAG_SIZE).unwrap(),
            mc_f_cnt: 0,
            mask: 1,
        }
    }

    /// Defines the group and announces a session of 256 s; the answers.
    fn ask_for_session(&mut self, start: Timestamp) -> Vec<u8> {
        let root = mc_root_key(KeyDerivation::GenAppKey, &GEN_APP_KEY);
        let group = McGroupSetupReq {
            mc_group_id: 0,
            mc_addr: MC_ADDR,
            mc_key_encrypted: encrypt_mc_key(&mc_ke_key(&root), &MC_KEY),
            min_mc_f_cnt: 0,
            max_mc_f_cnt: 10_000,
        };
        let session = McClassCSessionReq {
            mc_group_id: 0,
            session_time: start.to_gps().wire_seconds(),
            session_time_out: 8,
            dl_freq_hz: SESSION_HZ,
            dr: SESSION_DR,
        };
        let mut bytes = Vec::new();
        multicast_setup::DownlinkCommand::McGroupSetupReq(group).encode(self.version, &mut bytes);
        multicast_setup::DownlinkCommand::McClassCSessionReq(session)
            .encode(self.version, &mut bytes);
        self.bench.ask(multicast_setup::DEFAULT_F_PORT, &bytes)
    }

    fn set_up(&mut self, data: &[u8]) {
        self.session_start = Timestamp::from_unix_seconds(self.bench.now.as_unix_seconds() + 300);
        let answer = self.ask_for_session(self.session_start);
        let decoded = multicast_setup::decode_uplink(self.version, &answer);
        let [
            multicast_setup::UplinkCommand::McGroupSetupAns(group),
            multicast_setup::UplinkCommand::McClassCSessionAns(McSessionAns {
                time_to_start: Some(time_to_start),
                ..
            }),
        ] = decoded.commands[..]
        else {
            panic!("{decoded:?}");
        };
        assert!(group.is_accepted());
        let expected = self.session_start.since(self.bench.now).as_secs();
        // Some stacks count when they read the request, and answer up to three seconds later.
        let off = u64::from(time_to_start).abs_diff(expected);
        assert!(off <= 4, "{time_to_start} instead of {expected}");
        assert_eq!(self.set_up_fragmentation(data, 1), 0, "accepted");
    }

    /// The status byte of the answer.
    fn set_up_fragmentation(&mut self, data: &[u8], session_cnt: u16) -> u8 {
        let request = FragSessionSetupReq {
            frag_index: 0,
            mc_group_bit_mask: self.mask,
            nb_frag: self.encoder.nb_frag(),
            frag_size: FRAG_SIZE,
            ack_reception: false,
            frag_algo: 0,
            block_ack_delay: 1,
            padding: self.encoder.padding(),
            descriptor: DESCRIPTOR,
            session_cnt,
            mic: data_block_mic(
                &data_block_int_key(&GEN_APP_KEY),
                session_cnt,
                0,
                DESCRIPTOR,
                data,
            ),
        };
        let mut bytes = Vec::new();
        DownlinkCommand::FragSessionSetupReq(request).encode(self.version, &mut bytes);
        let answer = self.bench.ask(fragmentation::DEFAULT_F_PORT, &bytes);
        assert_eq!(answer[0], 0x02);
        answer[1]
    }

    /// Fragment `n`, in its frame.
    fn fragment(&self, n: u16) -> Vec<u8> {
        let mut fragment = vec![0; usize::from(FRAG_SIZE)];
        self.encoder.fragment(n, &mut fragment).unwrap();
        let mut bytes = Vec::new();
        DataFragment {
            frag_index: 0,
            n,
            fragment: &fragment,
        }
        .encode(&mut bytes);
        bytes
    }

    /// Sends fragments from `first` on, three a second, until `count` were sent; a share is lost. The device's uplinks
    /// are let pass, so that nothing else is.
    fn send(&mut self, first: u16, count: u16, loss: f64, random: &mut Random) {
        if let Some(uplink) = self.bench.heard.last() {
            self.bench.now = self.bench.now.max(uplink.end + SECOND * 3);
        }
        for n in first..first + count {
            let payload = self.fragment(n);
            let frame = mc_downlink(self.mc_f_cnt, fragmentation::DEFAULT_F_PORT, &payload);
            self.mc_f_cnt += 1;
            let mut at = self.bench.now.max(self.session_start + SECOND * 2);
            while let Some(uplink) = self.bench.next_uplink_before(at + SECOND / 4) {
                at = at.max(uplink.end + SECOND * 3);
            }
            if !random.chance(loss) {
                assert!(self.on_air(at, &frame));
            }
            self.bench.now = at + SECOND / 3;
        }
    }

    fn on_air(&mut self, at: Timestamp, frame: &[u8]) -> bool {
        let data_rate = Region::Eu868
            .data_rate(SESSION_DR, Direction::Downlink)
            .unwrap();
        self.bench.on_air(SESSION_HZ, data_rate, at, frame)
    }

    fn status(&mut self) -> FragSessionStatusAns {
        let answer = self.bench.ask(fragmentation::DEFAULT_F_PORT, &[0x01, 0x01]);
        let decoded = fragmentation::decode_uplink(self.version, &answer);
        match decoded.commands[..] {
            [UplinkCommand::FragSessionStatusAns(answer)] => answer,
            _ => panic!("{decoded:?}"),
        }
    }
}

fn whole_update(base: DeviceConfig, version: PackageVersion, seed: u64) -> Bench {
    let data = image();
    let mut update = Update::new(configured(base, version), version, &data, seed);
    update.set_up(&data);
    let nb_frag = update.encoder.nb_frag();
    let mut random = Random::new(seed);
    update.send(1, nb_frag, 0.2, &mut random);
    let status = update.status();
    assert!(status.missing_frag > 0 && status.nb_frag_received < nb_frag);
    update.send(nb_frag + 1, 60, 0.2, &mut random);
    let status = update.status();
    assert_eq!(
        (status.missing_frag, status.mic_error, status.memory_error),
        (0, false, false)
    );
    assert!(status.nb_frag_received >= nb_frag);
    let bench = &mut update.bench;
    let (received, _) = bench.device.image_received().unwrap();
    assert_eq!(received, data);
    // DevUpgradeImageReq: a valid image of the new version.
    let mut expected = vec![0x04, 0x03];
    expected.extend(NEW.to_ts006().to_le_bytes());
    assert_eq!(bench.ask(203, &[0x04]), expected);
    // DevRebootCountdownReq, 60 s.
    assert_eq!(bench.ask(203, &[0x03, 60, 0, 0]), [0x03, 60, 0, 0]);
    update.bench
}

#[test]
fn a_device_is_updated_v1_and_v2() {
    for (version, seed) in [(V1, 1), (V2, 2)] {
        let mut bench = whole_update(otaa(), version, seed);
        bench.now += SECOND * 70;
        // It joins again, without groups and session.
        bench.next_uplink();
        assert_eq!(bench.joins, 2, "{}", bench.device.log());
        let mut expected = vec![0x01];
        expected.extend(NEW.to_ts006().to_le_bytes());
        expected.extend(1_u32.to_le_bytes());
        assert_eq!(bench.ask(203, &[0x01]), expected, "DevVersionAns");
        assert_eq!(bench.device.running_version(), NEW.to_ts006());
        assert_eq!(bench.ask(203, &[0x04]), [0x04, 0x00], "no image left");
        assert!(bench.device.mc_groups().iter().all(Option::is_none));
        assert_eq!(bench.device.decoder_progress(0), None);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let bench = whole_update(otaa(), V2, seed);
        (bench.device.log().clone(), bench.heard)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_given_session_survives_the_reboot_or_starts_over() {
    for (session, continues) in [
        (SessionAfterReboot::Keep, true),
        (SessionAfterReboot::ResetCounters, false),
    ] {
        let mut config = abp();
        config.reboot.session = session;
        let mut bench = whole_update(config, V2, 3);
        let before = bench.heard.last().unwrap().f_cnt;
        bench.now += SECOND * 70;
        let after = bench.next_uplink().f_cnt;
        assert_eq!(after, if continues { before + 1 } else { 0 });
        assert_eq!(bench.device.running_version(), NEW.to_ts006());
    }
}

#[test]
fn an_image_signed_by_someone_else_is_refused() {
    let body = vec![7; 900];
    let data = McubootBuilder::new(body, NEW)
        .sign_ed25519(&[6; 32])
        .build()
        .unwrap();
    let mut update = Update::new(configured(abp(), V2), V2, &data, 4);
    update.set_up(&data);
    let nb_frag = update.encoder.nb_frag();
    update.send(1, nb_frag, 0.0, &mut Random::new(1));
    let (_, status) = update.bench.device.image_received().unwrap();
    assert_eq!(status, UpImageStatus::Corrupt);
    assert_eq!(update.bench.ask(203, &[0x04]), [0x04, 0x01]);
    // It reboots when told, into what it had.
    assert_eq!(update.bench.ask(203, &[0x03, 60, 0, 0]), [0x03, 60, 0, 0]);
    update.bench.now += SECOND * 70;
    update.bench.next_uplink();
    assert_eq!(update.bench.device.running_version(), 0x0101_0000);
}

#[test]
fn a_wrong_data_block_mic_is_told() {
    let data = image();
    let mut update = Update::new(configured(abp(), V2), V2, &data, 5);
    update.set_up(&data[1..]);
    let nb_frag = update.encoder.nb_frag();
    update.send(1, nb_frag, 0.0, &mut Random::new(1));
    let status = update.status();
    assert!(status.mic_error && status.missing_frag == 0);
    assert_eq!(update.bench.device.image_received(), None);
}

#[test]
fn session_counters_do_not_go_back_once_data_flows() {
    let data = image();
    let mut update = Update::new(configured(abp(), V2), V2, &data, 6);
    update.set_up(&data);
    assert_eq!(update.set_up_fragmentation(&data, 1), 0, "no data yet");
    update.send(1, 3, 0.0, &mut Random::new(1));
    assert_eq!(update.set_up_fragmentation(&data, 1), 0x10);
    assert_eq!(
        update.bench.device.decoder_progress(0).map(|p| p.received),
        Some(3),
        "the session goes on"
    );
    assert_eq!(update.set_up_fragmentation(&data, 2), 0);
}

#[test]
fn multicast_outside_its_rules_is_dropped() {
    let data = image();
    let mut update = Update::new(configured(abp(), V2), V2, &data, 8);
    update.set_up(&data);
    let frame = |f_cnt, payload: &[u8]| mc_downlink(f_cnt, fragmentation::DEFAULT_F_PORT, payload);
    let fragment = update.fragment(1);
    let before = update.session_start - SECOND * 30;
    while update.bench.next_uplink_before(before).is_some() {}
    assert!(!update.on_air(before, &frame(0, &fragment)), "not yet");
    let mut at = update.session_start + SECOND * 2;
    let mut send = |update: &mut Update, frame: &[u8]| {
        while update.bench.next_uplink_before(at).is_some() {}
        at = update.bench.now.max(at) + SECOND * 3;
        assert!(update.on_air(at, frame));
        *update.bench.device.counts()
    };
    assert_eq!(send(&mut update, &frame(5, &fragment)).multicast, 1);
    assert_eq!(send(&mut update, &frame(5, &fragment)).replayed, 1);
    assert_eq!(send(&mut update, &frame(4, &fragment)).replayed, 2);
    assert_eq!(
        send(&mut update, &frame(10_001, &fragment)).counter_out_of_range,
        1
    );
    let mut forged = frame(6, &fragment);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(send(&mut update, &forged).wrong_mic, 1);
    // A unicast command: FragSessionDeleteReq.
    assert_eq!(send(&mut update, &frame(7, &[0x03, 0x00])).not_allowed, 1);
    let progress = update.bench.device.decoder_progress(0).unwrap();
    assert_eq!(progress.received, 1);
    // The session ends after 256 s.
    let after = update.session_start + SECOND * 257;
    while update.bench.next_uplink_before(after).is_some() {}
    let after = update.bench.now.max(after) + SECOND * 5;
    assert!(!update.on_air(after, &frame(8, &update.fragment(2))));
}

#[test]
fn sessions_that_cannot_be_are_refused() {
    let mut bench = Bench::new(configured(abp(), V2), 9);
    bench.next_uplink();
    let request = |mc_group_id, ahead: i64, dl_freq_hz, dr, now: Timestamp| {
        let start = now.as_unix_seconds() + ahead;
        let session = McClassCSessionReq {
            mc_group_id,
            session_time: Timestamp::from_unix_seconds(start).to_gps().wire_seconds(),
            session_time_out: 8,
            dl_freq_hz,
            dr,
        };
        let mut bytes = Vec::new();
        multicast_setup::DownlinkCommand::McClassCSessionReq(session).encode(V2, &mut bytes);
        bytes
    };
    let undefined = request(2, 600, SESSION_HZ, 5, bench.now);
    assert_eq!(bench.ask(200, &undefined), [0x04, 0x12]);
    let mut setup = Vec::new();
    multicast_setup::DownlinkCommand::McGroupSetupReq(McGroupSetupReq {
        mc_group_id: 2,
        mc_addr: MC_ADDR,
        mc_key_encrypted: [0; 16],
        min_mc_f_cnt: 0,
        max_mc_f_cnt: 100,
    })
    .encode(V2, &mut setup);
    assert_eq!(bench.ask(200, &setup), [0x02, 0x02]);
    let missed = request(2, -600, SESSION_HZ, 5, bench.now);
    assert_eq!(bench.ask(200, &missed), [0x04, 0x22]);
    let frequency = request(2, 600, 915_000_000, 5, bench.now);
    assert_eq!(bench.ask(200, &frequency), [0x04, 0x0a]);
    let data_rate = request(2, 600, SESSION_HZ, 15, bench.now);
    assert_eq!(bench.ask(200, &data_rate), [0x04, 0x06]);
    // McGroupStatusReq for all, McGroupDeleteReq, and again.
    let mut expected = vec![0x01, 0x14, 0x02];
    expected.extend(MC_ADDR.to_le_bytes());
    assert_eq!(bench.ask(200, &[0x01, 0x0f]), expected);
    assert_eq!(bench.ask(200, &[0x03, 0x02]), [0x03, 0x02]);
    assert_eq!(bench.ask(200, &[0x03, 0x02]), [0x03, 0x06]);
}

#[test]
fn a_session_starts_by_the_devices_own_clock() {
    // Ten seconds behind, so it listens ten seconds late and stays as long.
    let data = image();
    let mut config = configured(abp(), V2);
    config.clock.offset_us = Some(-10_000_000);
    let mut update = Update::new(config, V2, &data, 13);
    let start = Timestamp::from_unix_seconds(update.bench.now.as_unix_seconds() + 300);
    let answers = update.ask_for_session(start);
    assert_eq!(answers[..4], [0x02, 0x00, 0x04, 0x00]);
    let left = start.since(update.bench.now).as_secs();
    let told = u64::from(answers[4]) + 256 * u64::from(answers[5]);
    assert!((left + 9..=left + 11).contains(&told), "{told} for {left}");
    let tuned = |update: &Update, second: i64| {
        let at = Timestamp::from_unix_seconds(start.as_unix_seconds() + second);
        let listening = update.bench.device.listening(at);
        listening.is_some_and(|listening| listening.frequency_hz == SESSION_HZ)
    };
    assert!(!tuned(&update, 9));
    assert!(tuned(&update, 11));
    assert!(tuned(&update, 256 + 9));
    assert!(!tuned(&update, 256 + 11));
}

#[test]
fn a_device_without_time_says_so_and_starts_once_it_has_it() {
    let data = image();
    let mut config = configured(abp(), V2);
    config.clock.device_time_req = false;
    let mut update = Update::new(config, V2, &data, 14);
    let start = Timestamp::from_unix_seconds(update.bench.now.as_unix_seconds() + 300);
    let answers = update.ask_for_session(start);
    assert_eq!(answers, [0x02, 0x00, 0x04, 0x00, 0xff, 0xff, 0xff]);
    let within = start + SECOND * 20;
    assert_eq!(update.bench.device.listening(within), None);
    let request = update.bench.next_on(202);
    let device_time = u32::from_le_bytes(request.payload[1..5].try_into().unwrap());
    let mut answer = vec![0x01];
    let gps = request.end.to_gps().wire_seconds();
    answer.extend((gps - device_time).to_le_bytes());
    answer.push(0);
    assert!(
        update
            .bench
            .rx1(&request, 202, &answer, std::time::Duration::ZERO)
    );
    let tuned = update.bench.device.listening(within).unwrap();
    assert_eq!(tuned.frequency_hz, SESSION_HZ);
}

#[test]
fn multicast_without_a_session_is_dropped_though_it_is_heard() {
    let data = image();
    let mut config = configured(abp(), V2);
    config.class = Class::C;
    let mut update = Update::new(config, V2, &data, 17);
    update.set_up(&data);
    let frame = mc_downlink(0, fragmentation::DEFAULT_F_PORT, &update.fragment(1));
    let (hz, dr) = Region::Eu868.rx2();
    let data_rate = Region::Eu868.data_rate(dr, Direction::Downlink).unwrap();
    let at = update.bench.now + SECOND * 3;
    assert!(update.bench.on_air(hz, data_rate, at, &frame));
    assert_eq!(update.bench.device.counts().no_session, 1);
    assert_eq!(update.bench.device.counts().multicast, 0);
}

#[test]
fn a_group_feeds_only_sessions_that_name_it() {
    let data = image();
    let mut update = Update::new(configured(abp(), V2), V2, &data, 15);
    update.mask = 0b0010;
    update.set_up(&data);
    update.send(1, 3, 0.0, &mut Random::new(1));
    let received = update
        .bench
        .device
        .decoder_progress(0)
        .map(|it| it.received);
    assert_eq!(received, Some(0));
    assert_eq!(update.bench.device.counts().not_allowed, 3);
}

#[test]
fn a_reboot_at_a_time_can_be_cancelled_and_firmware_may_roll_back() {
    let mut config = abp();
    config.firmware.rolls_back = true;
    let mut bench = whole_update(config, V2, 16);
    // DevRebootCountdownReq: cancel. DevRebootTimeReq in two minutes: the answer is what is left.
    assert_eq!(
        bench.ask(203, &[0x03, 0xff, 0xff, 0xff]),
        [0x03, 0xff, 0xff, 0xff]
    );
    let at = bench.now.to_gps().wire_seconds() + 180;
    let mut request = vec![0x02];
    request.extend(at.to_le_bytes());
    let answer = bench.ask(203, &request);
    assert!(
        (100..180).contains(&answer[1]) && answer[2..] == [0, 0, 0],
        "{answer:?}"
    );
    bench.now += SECOND * 200;
    bench.next_uplink();
    let log = bench.device.log().to_string();
    assert_eq!(log.matches("reboots").count(), 1, "{log}");
    assert_eq!(bench.device.running_version(), 0x0101_0000);
}

#[test]
fn lora_basics_modem_answers_in_its_own_way() {
    let data = image();
    let mut config = configured(abp(), V2);
    config.stack = StackProfile::BasicsModemV2.quirks();
    let mut update = Update::new(config, V2, &data, 10);
    assert_eq!(
        update.bench.ask(201, &[0x01, 0x03]),
        [0x01, 0x06, 0x00, 0x40, 0x00],
        "an absent session"
    );
    update.set_up(&data);
    let status = |update: &mut Update| {
        let answer = update.status();
        (answer.nb_frag_received, answer.missing_frag)
    };
    assert_eq!(status(&mut update), (0, 0), "looks complete");
    let nb_frag = update.encoder.nb_frag();
    update.send(1, nb_frag, 0.0, &mut Random::new(1));
    assert_eq!(
        status(&mut update),
        (nb_frag, 1),
        "complete, and says one is missing"
    );
}

#[test]
fn too_many_lost_fragments_end_a_session() {
    let data = image();
    let mut config = configured(abp(), V2);
    config.limits.lost_max = 5;
    let mut update = Update::new(config, V2, &data, 11);
    update.set_up(&data);
    let nb_frag = update.encoder.nb_frag();
    let mut random = Random::new(1);
    update.send(1, nb_frag, 0.3, &mut random);
    update.send(nb_frag + 1, 50, 0.0, &mut random);
    let status = update.status();
    assert!(status.memory_error && status.missing_frag > 5);
    assert_eq!(update.bench.device.image_received(), None);
}

#[test]
fn a_complete_block_is_announced_until_acknowledged() {
    let data = image();
    let mut update = Update::new(configured(abp(), V2), V2, &data, 12);
    let request = FragSessionSetupReq {
        frag_index: 1,
        mc_group_bit_mask: 0,
        nb_frag: 1,
        frag_size: 4,
        ack_reception: true,
        frag_algo: 0,
        block_ack_delay: 0,
        padding: 1,
        descriptor: DESCRIPTOR,
        session_cnt: 9,
        mic: data_block_mic(
            &data_block_int_key(&GEN_APP_KEY),
            9,
            1,
            DESCRIPTOR,
            &[1, 2, 3],
        ),
    };
    let mut bytes = Vec::new();
    DownlinkCommand::FragSessionSetupReq(request).encode(V2, &mut bytes);
    let bench = &mut update.bench;
    assert_eq!(bench.ask(201, &bytes), [0x02, 0x40]);
    bench.tell(201, &[0x08, 0x01, 0x40, 1, 2, 3, 0]);
    assert_eq!(bench.next_on(201).payload, [0x04, 0x01]);
    let again = bench.next_on(201);
    assert_eq!(again.payload, [0x04, 0x01]);
    assert!(bench.rx1(&again, 201, &[0x04, 0x01], std::time::Duration::ZERO));
    for _ in 0..5 {
        assert_ne!(bench.next_uplink().f_port, Some(201));
    }
}

/// Ed25519 public key of [`SEED`].
const PUBLIC_KEY: [u8; 32] = [
    0x6e, 0x7a, 0x1c, 0xdd, 0x29, 0xb0, 0xb7, 0x8f, 0xd1, 0x3a, 0xf4, 0xc5, 0x59, 0x8f, 0xef, 0xf4,
    0xef, 0x2a, 0x97, 0x16, 0x6e, 0x3c, 0xa6, 0xf2, 0xe4, 0xfb, 0xfc, 0xcd, 0x80, 0x50, 0x5b, 0xf1,
];
