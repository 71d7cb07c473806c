//! The native server against a device that is not ours: the stack `lorawan-device` joins, sends and listens by its own
//! code: windows, channels, counters, keys of a join. Only the radio is ours. Deterministic.
//!
//! It reads data frames with the crate on which our own codec is built; `native_foreign` reads them with another. The
//! limits of the stack are kept: it knows 16 bits of a counter, takes counter 0 again and again, does not look at `ACK`
//! and has no multicast.

use std::time::Duration;

use lorawan_device::mac::Session as TheirSession;
use lorawan_device::nb_device::Response;
use lorawan_device::region::DR;
use lorawan_device::{AppSKey, DevAddr as TheirAddr, NewSKey};
use lorawan_fuota::lorawan::PackageVersion::V2;
use lorawan_fuota::lorawan::clock_sync::{self, AppTimeAns};
use lorawan_fuota::lorawan::firmware_management;
use lorawan_fuota::lorawan::fragmentation::{self, DataFragment, FragSessionSetupReq};
use lorawan_fuota::lorawan::frame::DataFrame;
use lorawan_fuota::lorawan::keys::{Key128, mc_app_s_key, mc_nwk_s_key};
use lorawan_fuota::lorawan::multi_package::{self, PackageVersions, Request, encode_requests};
use lorawan_fuota::lorawan::multicast_setup::{self, McClassCSessionReq, McGroupSetupReq};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::network::native::{Native, NativeConfig};
use lorawan_fuota::network::{Network, NetworkCommand, NetworkEvent};
use lorawan_fuota::record::{Heard, JoinState, NetworkRequest, Session, Target, UplinkRef};

use super::native_net::{
    APP_KEY, DEVICE, JOIN_EUI, MC_ADDR, MC_KEY, Net, Step, committed_session, mc_group,
};
use rig::{Airborne, Outcome, Rig, Uttered};

mod rig;

const REGIONS: [Region; 2] = [Region::Eu868, Region::Us915];
/// From here after an uplink, RX1 has opened already and only RX2 is left.
const RX2_ONLY: Duration = Duration::from_millis(1500);

/// Port and bytes of every request that starts a task, and of the packages beside it.
fn requests() -> Vec<(u8, Vec<u8>)> {
    let encoded = |f_port: u8, encode: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        (f_port, bytes)
    };
    let group = multicast_setup::DownlinkCommand::McGroupSetupReq(McGroupSetupReq {
        mc_group_id: 1,
        mc_addr: MC_ADDR,
        mc_key_encrypted: *b"sixteen bytes...",
        min_mc_f_cnt: 7,
        max_mc_f_cnt: 0x0001_0000,
    });
    let class_c = multicast_setup::DownlinkCommand::McClassCSessionReq(McClassCSessionReq {
        mc_group_id: 1,
        session_time: 0x5152_5354,
        session_time_out: 9,
        dl_freq_hz: 869_525_000,
        dr: 5,
    });
    let fragments = fragmentation::DownlinkCommand::FragSessionSetupReq(FragSessionSetupReq {
        frag_index: 2,
        mc_group_bit_mask: 0b0010,
        nb_frag: 1200,
        frag_size: 232,
        ack_reception: true,
        frag_algo: 0,
        block_ack_delay: 3,
        padding: 17,
        descriptor: [1, 2, 3, 4],
        session_cnt: 0x0506,
        mic: [7, 8, 9, 10],
    });
    let time = clock_sync::DownlinkCommand::AppTimeAns(AppTimeAns {
        time_correction: -3600,
        token_ans: 11,
    });
    vec![
        encoded(200, &|out| group.encode(V2, out)),
        encoded(200, &|out| class_c.encode(V2, out)),
        encoded(201, &|out| fragments.encode(V2, out)),
        encoded(201, &|out| {
            fragmentation::DownlinkCommand::PackageVersionReq.encode(V2, out);
        }),
        encoded(202, &|out| time.encode(V2, out)),
        encoded(203, &|out| {
            firmware_management::DownlinkCommand::DevVersionReq.encode(V2, out);
        }),
        encoded(225, &|out| {
            let versions = PackageVersions {
                clock_sync: V2,
                multicast_setup: V2,
                fragmentation: V2,
            };
            let packages = multi_package::DownlinkCommand::DevPackageReq;
            encode_requests(versions, &[Request::MultiPackage(packages)], 1, out);
        }),
    ]
}

impl Rig {
    /// A downlink that answers the uplink `f_cnt`, on air no sooner than `after` its end.
    fn answer(
        &mut self,
        f_cnt: u32,
        after: Duration,
        (f_port, payload): (u8, &[u8]),
    ) -> NetworkRequest {
        let uplink = UplinkRef {
            dev_eui: DEVICE,
            f_cnt,
        };
        let mut downlink = self.net.downlink(Target::Device(DEVICE), Some(uplink), 0);
        downlink.earliest = self.net.now + after;
        (downlink.f_port, downlink.payload) = (f_port, payload.to_vec());
        NetworkRequest::Send(downlink)
    }

    /// An uplink and its answer, heard by the device undisturbed.
    fn exchange(&mut self, after: Duration, request: (u8, &[u8])) -> (Step, Outcome) {
        let uttered = self.say(10, b"up", false);
        let f_cnt = u32::from(f_cnt_of(&uttered));
        let answer = self.answer(f_cnt, after, request);
        let step = self.serve(&uttered, vec![answer]);
        let air = self.air(&uttered, &step);
        assert_eq!(air.len(), 1);
        let outcome = self.listen(&uttered, &air);
        (step, outcome)
    }

    /// Lets the server know the device's root key.
    fn put_join_state(&mut self) {
        let join = JoinState {
            join_eui: JOIN_EUI,
            app_key: Key128::from_bytes(APP_KEY),
            next_join_nonce: 0x0001_0203,
            dev_nonces: [].into(),
            last_dev_nonce: None,
        };
        let command = NetworkCommand::PutJoinState(DEVICE, join);
        self.net.native.apply(&command);
    }

    /// The device asks and hears the answer; the server works `after` the end of the request.
    fn join(&mut self, after: Duration) -> (Step, Outcome) {
        let uttered = self.ask_to_join();
        let step = self.serve_after(&uttered, after, vec![]);
        let air = self.air(&uttered, &step);
        let outcome = self.listen(&uttered, &air);
        (step, outcome)
    }
}

/// The counter in clear in a data frame.
fn f_cnt_of(uttered: &Uttered) -> u16 {
    u16::from_le_bytes([uttered.bytes[6], uttered.bytes[7]])
}

fn joined(step: &Step) -> bool {
    let events = step.events.iter();
    let mut joins = events.filter_map(|event| match event {
        NetworkEvent::Heard(Heard::Joined { dev_eui, .. }) => Some(*dev_eui),
        _ => None,
    });
    joins.any(|dev_eui| dev_eui == DEVICE)
}

/// The device took the frame with this counter in this window and handed out port and payload.
fn assert_taken(outcome: &Outcome, window: u8, f_cnt: u32, request: (u8, &[u8])) {
    assert!(
        matches!(outcome.response, Response::DownlinkReceived(at) if at == f_cnt),
        "{outcome:?}"
    );
    assert_eq!((outcome.window, outcome.refused), (Some(window), 0));
    let downlink = outcome.downlink.as_ref();
    assert_eq!(
        downlink.map(|(port, bytes)| (*port, &bytes[..])),
        Some(request)
    );
}

#[test]
fn uplinks_of_a_personalised_device_arrive_as_they_were_sent() {
    for region in REGIONS {
        let (mut rig, _) = Rig::personalised(region);
        let payloads = [&[][..], &[0x00, 0x03, 0x02], &[0xa5; 200]];
        for (f_cnt, (f_port, payload)) in (0..).zip([200, 201, 1].into_iter().zip(payloads)) {
            let uttered = rig.say(f_port, payload, false);
            let step = rig.serve(&uttered, vec![]);
            let uplinks = step.uplinks();
            let [uplink] = uplinks.as_slice() else {
                panic!("{uplinks:?}")
            };
            assert_eq!(
                (uplink.dev_eui, uplink.f_cnt, uplink.f_port),
                (DEVICE, f_cnt, Some(f_port))
            );
            assert_eq!((&uplink.payload[..], uplink.confirmed), (payload, false));
            // Nobody has anything to say: the device listens to nothing, twice.
            assert!(step.commands.is_empty());
            let outcome = rig.listen(&uttered, &[]);
            assert!(matches!(outcome.response, Response::RxComplete));
        }
    }
}

#[test]
fn requests_reach_the_device_in_rx1_and_in_rx2() {
    for region in REGIONS {
        let (mut rig, _) = Rig::personalised(region);
        let mut next = 1;
        for (f_port, payload) in requests() {
            for (window, after) in [(1, Duration::ZERO), (2, RX2_ONLY)] {
                let request = (f_port, &payload[..]);
                let (step, outcome) = rig.exchange(after, request);
                assert_taken(&outcome, window, next, request);
                next += 1;
                assert_eq!(committed_session(&step).next_f_cnt_down, next);
                // Every downlink lets the device's counter go on, and the server follows.
                assert_eq!(rig.device.get_fcnt_up(), Some(next - 1));
                assert_eq!(committed_session(&step).f_cnt_up, Some(next - 2));
            }
        }
    }
}

#[test]
fn the_longest_downlink_of_every_data_rate_is_received() {
    let cases: [(Region, &[(DR, usize)]); 2] = [
        (
            Region::Eu868,
            &[
                (DR::_0, 51),
                (DR::_1, 51),
                (DR::_2, 51),
                (DR::_3, 115),
                (DR::_4, 242),
                (DR::_5, 242),
            ],
        ),
        (
            Region::Us915,
            &[(DR::_0, 242), (DR::_1, 242), (DR::_2, 242), (DR::_3, 242)],
        ),
    ];
    for (region, rates) in cases {
        let (mut rig, _) = Rig::personalised(region);
        for (f_cnt, &(data_rate, length)) in (1..).zip(rates) {
            rig.device.set_datarate(data_rate);
            let mut bytes = Vec::new();
            let fragment = DataFragment {
                frag_index: 0,
                n: 1,
                fragment: &vec![0x5a; length - 3],
            };
            fragment.encode(&mut bytes);
            assert_eq!(bytes.len(), length);
            let (_, outcome) = rig.exchange(Duration::ZERO, (201, &bytes));
            assert_taken(&outcome, 1, f_cnt, (201, &bytes));
        }
    }
}

#[test]
fn a_replay_and_a_wrong_mic_are_refused_and_the_next_frame_is_taken() {
    for region in REGIONS {
        let (mut rig, _) = Rig::personalised(region);
        let first = rig.say(10, b"up", false);
        let answer = rig.answer(0, Duration::ZERO, (200, b"first"));
        let step = rig.serve(&first, vec![answer]);
        let [good] = rig.air(&first, &step).try_into().unwrap();
        let outcome = rig.listen(&first, std::slice::from_ref(&good));
        assert_taken(&outcome, 1, 1, (200, b"first"));

        let second = rig.say(10, b"up", false);
        let answer = rig.answer(1, Duration::ZERO, (200, b"second"));
        let step = rig.serve(&second, vec![answer]);
        let [next] = rig.air(&second, &step).try_into().unwrap();
        let instead = |bytes: Vec<u8>| Airborne {
            bytes,
            ..next.clone()
        };
        let flipped = |position: usize| {
            let mut bytes = next.bytes.clone();
            bytes[position] ^= 1;
            instead(bytes)
        };
        // The frame of before; a wrong MIC; a changed payload; a counter put forward; then the true frame.
        let last = next.bytes.len() - 1;
        let mut air = vec![instead(good.bytes), flipped(last), flipped(9), flipped(6)];
        let outcome = rig.listen(&second, &air);
        assert_eq!((outcome.window, outcome.refused), (None, 4));
        assert!(matches!(outcome.response, Response::RxComplete));
        assert_eq!(outcome.downlink, None);

        let third = rig.say(10, b"up", false);
        let answer = rig.answer(2, Duration::ZERO, (200, b"third"));
        let step = rig.serve(&third, vec![answer]);
        air = rig.air(&third, &step);
        let mut replayed = next;
        replayed.start_ms = air[0].start_ms;
        replayed.frequency_hz = air[0].frequency_hz;
        // The second frame was lost: late, it is news to the device, and the third goes beside a taken window.
        let outcome = rig.listen(&third, &[replayed.clone()]);
        assert_taken(&outcome, 1, 2, (200, b"second"));
        // Once taken, it is not taken again.
        let fourth = rig.say(10, b"up", false);
        let answer = rig.answer(3, Duration::ZERO, (200, b"fourth"));
        let step = rig.serve(&fourth, vec![answer]);
        air = rig.air(&fourth, &step);
        replayed.start_ms = air[0].start_ms;
        replayed.frequency_hz = air[0].frequency_hz;
        air.insert(0, replayed);
        let outcome = rig.listen(&fourth, &air);
        assert!(matches!(outcome.response, Response::DownlinkReceived(4)));
        assert_eq!((outcome.window, outcome.refused), (Some(1), 1));
        assert_eq!(outcome.downlink, Some((200, b"fourth".to_vec())));
    }
}

#[test]
fn a_confirmed_uplink_is_acknowledged_with_and_without_an_answer() {
    for region in REGIONS {
        let (mut rig, session) = Rig::personalised(region);
        for (f_cnt, with_answer) in [(0, true), (1, false), (2, true)] {
            let uttered = rig.say(10, b"up", true);
            let answer = rig.answer(f_cnt, Duration::ZERO, (200, b"answer"));
            let requests = if with_answer { vec![answer] } else { vec![] };
            let step = rig.serve(&uttered, requests);
            assert!(step.uplinks()[0].confirmed);
            let air = rig.air(&uttered, &step);
            let frame = DataFrame::parse(&air[0].bytes).unwrap();
            assert!(frame.f_ctrl.ack);
            assert_eq!(frame.dev_addr, session.dev_addr);
            let outcome = rig.listen(&uttered, &air);
            assert!(matches!(outcome.response, Response::DownlinkReceived(at) if at == f_cnt + 1));
            let expected = with_answer.then(|| (200, b"answer".to_vec()));
            assert_eq!(outcome.downlink, expected);
        }
        // Out of reach, the device knows that nothing came.
        let uttered = rig.say(10, b"up", true);
        let outcome = rig.listen(&uttered, &[]);
        assert!(matches!(outcome.response, Response::NoAck));
        // The server never heard that one, and goes on with the next.
        let (step, outcome) = rig.exchange(Duration::ZERO, (200, b"back"));
        assert_taken(&outcome, 1, 4, (200, b"back"));
        assert_eq!(committed_session(&step).f_cnt_up, Some(4));
    }
}

#[test]
fn a_device_joins_in_either_window_and_talks() {
    // Whether the server works at once, or so late that only the second window of a join is left.
    let cases = [
        (1, Duration::from_millis(200)),
        (2, Duration::from_millis(5500)),
    ];
    for region in REGIONS {
        for (window, after) in cases {
            let mut net = Net::new(1);
            net.add(DEVICE, region);
            let mut rig = Rig::new(net, region);
            rig.put_join_state();
            if region == Region::Us915 {
                // The stack asks at its slowest and listens as if it had asked at its set data rate.
                rig.device.set_datarate(DR::_0);
            }
            let (step, outcome) = rig.join(after);
            assert!(joined(&step), "{step:?}");
            assert!(
                matches!(outcome.response, Response::JoinSuccess),
                "{outcome:?}"
            );
            assert_eq!(outcome.window, Some(window));
            let session = committed_session(&step).clone();
            let theirs = rig.device.get_session().unwrap();
            assert_eq!(theirs.newskey.as_ref(), session.nwk_s_key.as_bytes());
            assert_eq!(theirs.appskey.as_ref(), session.app_s_key.as_bytes());
            assert_eq!(theirs.devaddr.as_ref(), session.dev_addr.0.to_le_bytes());
            talk(&mut rig);
        }
    }
}

/// Five exchanges after a join: counters from 0 on, in both directions and both windows.
fn talk(rig: &mut Rig) {
    let (_, payload) = &requests()[0];
    for (f_cnt, after) in (0..).zip([Duration::ZERO, RX2_ONLY, Duration::ZERO, RX2_ONLY]) {
        let (step, outcome) = rig.exchange(after, (200, payload));
        assert_eq!(step.uplinks()[0].payload, b"up");
        let window = if after.is_zero() { 1 } else { 2 };
        assert_taken(&outcome, window, f_cnt, (200, payload));
        let session = committed_session(&step);
        assert_eq!(
            (session.f_cnt_up, session.next_f_cnt_down),
            (Some(f_cnt), f_cnt + 1)
        );
    }
}

#[test]
fn a_device_joins_again_with_new_keys_and_old_requests_are_not_answered() {
    for region in REGIONS {
        let mut net = Net::new(1);
        net.add(DEVICE, region);
        let mut rig = Rig::new(net, region);
        rig.put_join_state();
        if region == Region::Us915 {
            rig.device.set_datarate(DR::_0);
        }
        let mut sessions: Vec<Session> = Vec::new();
        for _ in 0..3 {
            let uttered = rig.ask_to_join();
            let step = rig.serve(&uttered, vec![]);
            let mut air = rig.air(&uttered, &step);
            // A join-accept that was changed on the way is none.
            let mut changed = air[0].clone();
            changed.bytes[12] ^= 0x40;
            air.insert(0, changed);
            let outcome = rig.listen(&uttered, &air);
            assert!(
                matches!(outcome.response, Response::JoinSuccess),
                "{outcome:?}"
            );
            assert_eq!(outcome.refused, 1);
            sessions.push(committed_session(&step).clone());
            // Somebody says the request again, later.
            let mut again = uttered.clone();
            again.ended_at = rig.net.now;
            let step = rig.serve(&again, vec![]);
            assert!(!joined(&step) && step.commands.is_empty());
            rig.net.now = again.ended_at + Duration::from_secs(30);
            rig.net.keep_alive();
            let (_, outcome) = rig.exchange(Duration::ZERO, (200, b"down"));
            assert_taken(&outcome, 1, 0, (200, b"down"));
        }
        assert_ne!(sessions[0].nwk_s_key, sessions[1].nwk_s_key);
        assert_ne!(sessions[1].app_s_key, sessions[2].app_s_key);
        assert_eq!(rig.net.native.counters().join_replayed, 3);
    }
}

#[test]
fn the_channels_of_a_join_accept_are_kept_to() {
    for sub_band in [1, 2, 8] {
        let mut net = Net::new(1);
        let config = NativeConfig {
            channel_sub_band: Some(sub_band),
            ..NativeConfig::default()
        };
        net.native = Native::restore(config, &net.stored);
        net.keep_alive();
        net.add(DEVICE, Region::Us915);
        let mut rig = Rig::new(net, Region::Us915);
        rig.put_join_state();
        rig.device.set_datarate(DR::_0);
        let (_, outcome) = rig.join(Duration::from_millis(200));
        assert!(
            matches!(outcome.response, Response::JoinSuccess),
            "{outcome:?}"
        );
        let first = 902_300_000 + 1_600_000 * (u32::from(sub_band) - 1);
        let mut used = std::collections::BTreeSet::new();
        for f_cnt in 0..40 {
            let uttered = rig.say(10, b"up", true);
            assert_eq!(u32::from(f_cnt_of(&uttered)), f_cnt);
            used.insert((uttered.frequency_hz - first) / 200_000);
            let step = rig.serve(&uttered, vec![]);
            let air = rig.air(&uttered, &step);
            let outcome = rig.listen(&uttered, &air);
            assert!(matches!(outcome.response, Response::DownlinkReceived(at) if at == f_cnt));
        }
        assert_eq!(used, (0..8).collect());
    }
}

/// The stack has no multicast; but a group is to a device as a session that only hears, and its keys derive alike.
#[test]
fn frames_of_a_group_are_taken_by_a_device_that_holds_its_session() {
    for region in REGIONS {
        let mut group = mc_group(region, 1);
        let (frequency_hz, data_rate) = region.rx2();
        (group.frequency_hz, group.data_rate, group.next_mc_f_cnt) = (frequency_hz, data_rate, 1);
        let mut rig = Rig::new(Net::new(1), region);
        let mc_key = Key128::from_bytes(MC_KEY);
        let nwk = NewSKey::from(*mc_nwk_s_key(&mc_key, MC_ADDR).as_bytes());
        let app = AppSKey::from(*mc_app_s_key(&mc_key, MC_ADDR).as_bytes());
        let address = TheirAddr::new(MC_ADDR.0.to_le_bytes()).unwrap();
        rig.device.set_session(TheirSession::new(nwk, app, address));
        let mut requests = vec![NetworkRequest::PutGroup(group)];
        requests.extend((0..3).map(|_| rig.net.group_frame(48)));
        let mut step = rig.net.step(vec![], requests);
        step.add(rig.net.run(Duration::from_secs(60)));
        assert_eq!(step.commands.len(), 3);
        for (mc_f_cnt, command) in (1..).zip(&step.commands) {
            // Class C listens all the time: the frame is put into the window that has its parameters.
            let uttered = rig.say(10, b"unheard", false);
            let mut frame = Airborne {
                start_ms: uttered.rx2_ms(),
                frequency_hz: command.frequency_hz,
                data_rate: command.data_rate.to_string(),
                bytes: command.phy_payload.clone(),
            };
            let outcome = rig.listen(&uttered, std::slice::from_ref(&frame));
            assert_taken(&outcome, 2, mc_f_cnt, (200, &[0xab; 48]));
            let uttered = rig.say(10, b"unheard", false);
            frame.start_ms = uttered.rx2_ms();
            let outcome = rig.listen(&uttered, &[frame]);
            assert_eq!((outcome.window, outcome.refused), (None, 1));
        }
    }
}
