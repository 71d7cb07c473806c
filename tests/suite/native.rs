//! The native network server from outside: hand-made messages of gateways in, commands and changes out.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::frame::{DataFrame, Frame};
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, JoinEui};
use lorawan_fuota::lorawan::join::{JoinAccept, JoinRequest, session_keys};
use lorawan_fuota::lorawan::keys::{Key128, mc_app_s_key, mc_nwk_s_key};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::network::native::{GatewayCommand, GatewayMessage, TransmissionId, When};
use lorawan_fuota::network::{Network, NetworkCommand, NetworkEvent};
use lorawan_fuota::record::{
    Change, Heard, JoinState, NetworkRequest, Refusal, Session, Target, TxOutcome,
};
use proptest::prelude::*;

use super::native_net::{
    APP_KEY, DEVICE, JOIN_EUI, MC_ADDR, MC_KEY, Net, Step, committed_session, counter, eui,
    mc_group, open_down, said, session, session_id,
};

#[test]
fn an_uplink_of_three_gateways_is_heard_once_best_signal_first() {
    let (mut net, session) = Net::with_device(3, Region::Eu868);
    let step = net.uplink_at(
        &said(&session, 10),
        &[(1, -3.0), (2, 9.0), (3, 2.5)],
        vec![],
    );
    let uplinks = step.uplinks();
    let [uplink] = uplinks.as_slice() else {
        panic!("{uplinks:?}")
    };
    assert_eq!(
        (uplink.dev_eui, uplink.f_cnt, uplink.f_port),
        (DEVICE, 10, Some(10))
    );
    assert_eq!(
        (uplink.payload.as_slice(), uplink.data_rate),
        (&b"up"[..], 5)
    );
    let order: Vec<u64> = uplink.receptions.iter().map(|r| r.gateway.0).collect();
    assert_eq!(order, [2, 3, 1]);
    assert_eq!(committed_session(&step).f_cnt_up, Some(10));
    assert!(step.commands.is_empty());
    // The same bytes from a slow gateway come too late.
    let late = net.heard(3, &said(&session, 10).bytes(), 868_100_000, "SF7BW125", 0.0);
    net.step(vec![late], vec![]);
    let step = net.run(Duration::from_secs(5));
    assert!(step.uplinks().is_empty());
    assert_eq!(net.native.counters().late_copies, 1);
}

#[test]
fn counters_of_the_past_and_wrong_keys_are_counted_and_dropped() {
    let (mut net, mut session) = Net::with_device(1, Region::Eu868);
    session.f_cnt_up = Some(69_990);
    net.import(DEVICE, session.clone());
    assert_eq!(net.uplink(&said(&session, 70_000)).uplinks().len(), 1);
    for f_cnt in [69_999, 100, 4_464] {
        assert!(net.uplink(&said(&session, f_cnt)).uplinks().is_empty());
    }
    let mut forged = said(&session, 70_001);
    forged.session.nwk_s_key = Key128::from_bytes([9; 16]);
    net.uplink(&forged);
    forged.session.dev_addr = DevAddr(77);
    net.uplink(&forged);
    let counters = *net.native.counters();
    assert_eq!(
        (
            counters.replayed,
            counters.wrong_mic,
            counters.unknown_address
        ),
        (3, 1, 1)
    );
    assert_eq!(net.uplink(&said(&session, 70_001)).uplinks().len(), 1);
}

#[test]
fn devices_that_share_an_address_are_told_apart_by_their_keys() {
    let (mut net, first) = Net::with_device(1, Region::Eu868);
    net.add(DevEui(2), Region::Eu868);
    let mut second = session(2, Region::Eu868);
    second.dev_addr = first.dev_addr;
    net.import(DevEui(2), second.clone());
    for (session, dev_eui) in [(&first, DEVICE), (&second, DevEui(2)), (&first, DEVICE)] {
        let f_cnt = if session == &second {
            20
        } else {
            net.native.counters().uplinks.try_into().unwrap()
        };
        let step = net.uplink(&said(session, f_cnt + 10));
        assert_eq!(step.uplinks()[0].dev_eui, dev_eui);
    }
}

#[test]
fn an_abp_counter_restarts_only_where_it_may_and_the_downlink_counter_goes_on() {
    let (mut net, mut session) = Net::with_device(1, Region::Eu868);
    session.f_cnt_up = Some(5000);
    net.import(DEVICE, session.clone());
    assert!(net.uplink(&said(&session, 3)).uplinks().is_empty());
    net.put_device(DEVICE, Region::Eu868, |link| {
        link.f_cnt_reset_allowed = true
    });
    assert!(net.uplink(&said(&session, 64)).uplinks().is_empty());
    net.now += Duration::from_secs(20);
    let mut again = said(&session, 3);
    again.confirmed = true;
    let step = net.uplink(&again);
    assert_eq!(step.uplinks()[0].f_cnt, 3);
    let stored = committed_session(&step);
    assert_eq!((stored.f_cnt_up, stored.next_f_cnt_down), (Some(3), 6));
    assert_eq!(net.native.counters().f_cnt_restarts, 1);
}

#[test]
fn an_answer_goes_into_rx1_by_the_gateways_counter() {
    let (mut net, session) = Net::with_device(2, Region::Eu868);
    let mut said = said(&session, 10);
    said.confirmed = true;
    let uplink_counter = counter(2, net.now);
    let answer = net.answer(10, 20);
    let step = net.uplink_at(&said, &[(1, -2.0), (2, 4.0)], vec![answer]);
    let [command] = step.commands.as_slice() else {
        panic!("{step:?}")
    };
    assert_eq!(command.gateway, eui(2));
    assert_eq!(
        command.when,
        When::Counter(uplink_counter.wrapping_add(1_000_000))
    );
    assert_eq!(
        (command.frequency_hz, command.data_rate.to_string()),
        (868_100_000, "SF7BW125".to_owned())
    );
    // 16.15 dBm EIRP with 3 dBi of antenna and 0.5 dB of cable: 13.65.
    assert_eq!(command.power_dbm, 13);
    let (frame, clear) = open_down(command, &session, 5);
    assert_eq!(
        (frame.f_ctrl.ack, frame.f_port, clear),
        (true, Some(200), vec![0xab; 20])
    );
    assert_eq!(committed_session(&step).next_f_cnt_down, 6);
    assert!(
        step.changes
            .iter()
            .any(|change| matches!(change, Change::PutAirLedger(l) if l.gateway == eui(2)))
    );
    // The fate comes with the TX_ACK.
    let command = command.clone();
    match net.ack(&command, Ok(())).outcome() {
        TxOutcome::Queued { on_air_at, airtime } => {
            assert_eq!(on_air_at, net.now + Duration::from_millis(800));
            assert_eq!(airtime.as_micros(), 71_936);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn us915_answers_have_their_own_channels_and_rates() {
    let (mut net, session) = Net::with_device(1, Region::Us915);
    let mut said = said(&session, 10);
    (said.frequency_hz, said.data_rate) = (902_300_000, "SF10BW125");
    let answer = net.answer(10, 100);
    let step = net.uplink_at(&said, &[(1, 0.0)], vec![answer]);
    let command = &step.commands[0];
    // DR0 up is DR10 down on channel 0; 28.15 dBm EIRP less 2.5 dB.
    assert_eq!(
        (command.frequency_hz, command.data_rate.to_string()),
        (923_300_000, "SF10BW500".to_owned())
    );
    assert_eq!(command.power_dbm, 25);
    // RX2 is DR8 with 53 bytes: a late answer that fits goes there, a longer one cannot.
    for (f_cnt, length, expected) in [(11, 53, Ok("SF12BW500")), (12, 54, Err(Refusal::TooLate))] {
        said.f_cnt = f_cnt;
        net.now += Duration::from_secs(10);
        net.uplink(&said);
        net.now += Duration::from_millis(1000);
        let answer = net.answer(f_cnt, length);
        let step = net.step(vec![], vec![answer]);
        match expected {
            Ok(rate) => {
                assert_eq!(step.commands[0].data_rate.to_string(), rate);
                assert_eq!(step.commands[0].frequency_hz, 923_300_000);
            }
            Err(refusal) => {
                assert!(step.commands.is_empty());
                assert_eq!(
                    net.run(Duration::ZERO).outcome(),
                    TxOutcome::Refused(refusal)
                );
            }
        }
    }
}

#[test]
fn one_window_carries_one_frame_and_none_too_long() {
    let (mut net, session) = Net::with_device(1, Region::Eu868);
    let mut slow = said(&session, 10);
    slow.data_rate = "SF12BW125";
    let requests = vec![
        net.answer(10, 52),
        net.answer(10, 51),
        net.answer(10, 1),
        net.answer(9, 1),
    ];
    let step = net.uplink_at(&slow, &[(1, 0.0)], requests);
    assert_eq!(step.commands.len(), 1);
    assert_eq!(step.commands[0].phy_payload.len(), 64);
    let refusals: Vec<TxOutcome> = net
        .run(Duration::ZERO)
        .reports()
        .iter()
        .map(|report| report.outcomes[0].outcome)
        .collect();
    let expected =
        [Refusal::TooLong, Refusal::WindowTaken, Refusal::TooLate].map(TxOutcome::Refused);
    assert_eq!(refusals, expected);
}

#[test]
fn questions_get_a_frame_of_their_own() {
    let (mut net, session) = Net::with_device(2, Region::Eu868);
    let mut asked = said(&session, 10);
    asked.f_opts = vec![0x02, 0x0d];
    let at = net.now;
    let step = net.uplink_at(&asked, &[(1, -7.5), (2, 2.0)], vec![]);
    let (frame, clear) = open_down(&step.commands[0], &session, 5);
    assert_eq!(
        (frame.f_port, clear.len(), frame.f_ctrl.ack),
        (None, 0, false)
    );
    let mut expected = vec![0x02, 9, 2, 0x0d];
    expected.extend(at.to_gps().wire_seconds().to_le_bytes());
    expected.push(0);
    assert_eq!(frame.f_opts, expected);
    // A request for any downlink gets an empty one.
    net.now += Duration::from_secs(5);
    let mut adr = said(&session, 11);
    adr.f_ctrl.adr_ack_req = true;
    let step = net.uplink(&adr);
    let (frame, _) = open_down(&step.commands[0], &session, 6);
    assert!(frame.f_opts.is_empty());
}

#[test]
fn a_repeated_confirmed_uplink_is_acknowledged_but_not_delivered_again() {
    let (mut net, session) = Net::with_device(1, Region::Eu868);
    let mut confirmed = said(&session, 10);
    confirmed.confirmed = true;
    let mut acks = 0;
    let mut delivered = 0;
    for _ in 0..20 {
        let step = net.uplink(&confirmed);
        delivered += step.uplinks().len();
        for command in &step.commands {
            let (frame, _) = open_down(command, &session, 5 + acks);
            assert!(frame.f_ctrl.ack);
            acks += 1;
        }
        net.now += Duration::from_secs(5);
    }
    assert_eq!((delivered, acks), (1, 9));
    // A plain uplink repeated (NbTrans) is not answered at all.
    let plain = said(&session, 11);
    assert_eq!(net.uplink(&plain).uplinks().len(), 1);
    net.now += Duration::from_secs(5);
    let step = net.uplink(&plain);
    assert!(step.uplinks().is_empty() && step.commands.is_empty());
}

#[test]
fn class_c_devices_are_sent_to_at_once_and_others_are_not() {
    let (mut net, session) = Net::with_device(2, Region::Eu868);
    net.uplink_at(&said(&session, 10), &[(1, 1.0), (2, 8.0)], vec![]);
    net.now += Duration::from_secs(30);
    net.keep_alive();
    let early = net.downlink(Target::Device(DEVICE), None, 10);
    let step = net.step(vec![], vec![NetworkRequest::Send(early)]);
    assert!(step.commands.is_empty());
    assert_eq!(
        net.run(Duration::ZERO).outcome(),
        TxOutcome::Refused(Refusal::TooLate)
    );
    net.put_device(DEVICE, Region::Eu868, |link| link.always_class_c = true);
    let downlinks = [0; 2].map(|_| net.downlink(Target::Device(DEVICE), None, 10));
    let mut step = net.step(vec![], downlinks.map(NetworkRequest::Send).to_vec());
    step.commands
        .extend(net.run(Duration::from_secs(5)).commands);
    let [first, second] = step.commands.as_slice() else {
        panic!("{step:?}")
    };
    assert_eq!((first.gateway, first.frequency_hz), (eui(2), 869_525_000));
    // 29.15 dBm EIRP less 2.5 dB.
    assert_eq!(
        (first.data_rate.to_string(), first.power_dbm),
        ("SF12BW125".to_owned(), 26)
    );
    open_down(first, &session, 5);
    open_down(second, &session, 6);
    let (When::Counter(a), When::Counter(b)) = (first.when, second.when) else {
        panic!("not timed")
    };
    // 23 bytes at SF12 and 125 kHz take 1.16 s.
    assert!(b.wrapping_sub(a) > 1_160_000, "{}", b.wrapping_sub(a));
}

#[test]
fn the_duty_cycle_is_kept_and_recovers_after_an_hour() {
    let (mut net, session) = Net::with_device(1, Region::Eu868);
    let mut slow = said(&session, 0);
    slow.data_rate = "SF12BW125";
    slow.session.f_cnt_up = None;
    let mut by_frequency: BTreeMap<u32, u32> = BTreeMap::new();
    let begin = net.now;
    let mut f_cnt = 10;
    // Six answers of 2.8 s a minute are more than 1 % of RX1's band, and in the end than 10 % of that of RX2.
    while net.now.since(begin) < Duration::from_secs(3500) {
        slow.f_cnt = f_cnt;
        let answer = net.answer(f_cnt, 51);
        let step = net.uplink_at(&slow, &[(1, 0.0)], vec![answer]);
        for command in &step.commands {
            *by_frequency.entry(command.frequency_hz).or_default() += 1;
        }
        f_cnt += 1;
        net.run(Duration::from_secs(6));
    }
    // 36 s and 360 s of 2 793 472 µs each.
    assert_eq!(
        by_frequency,
        BTreeMap::from([(868_100_000, 12), (869_525_000, 128)])
    );
    // Restarting does not refill it.
    net.stored.devices.clear();
    let before = net.ledgers.len();
    net.restart();
    net.add(DEVICE, Region::Eu868);
    net.import(
        DEVICE,
        Session {
            f_cnt_up: Some(f_cnt),
            next_f_cnt_down: 1000,
            ..session
        },
    );
    slow.f_cnt = f_cnt + 1;
    let answer = net.answer(f_cnt + 1, 51);
    assert!(
        net.uplink_at(&slow, &[(1, 0.0)], vec![answer])
            .commands
            .is_empty()
    );
    assert_eq!(
        net.run(Duration::ZERO).outcome(),
        TxOutcome::Refused(Refusal::NoAirTime)
    );
    assert_eq!(net.ledgers.len(), before);
    net.now = begin + Duration::from_secs(3700);
    net.keep_alive();
    slow.f_cnt = f_cnt + 2;
    let answer = net.answer(f_cnt + 2, 51);
    let step = net.uplink_at(&slow, &[(1, 0.0)], vec![answer]);
    assert_eq!(step.commands[0].frequency_hz, 868_100_000);
}

#[test]
fn a_refused_frame_is_given_back_and_a_lost_tx_ack_is_unknown() {
    let (mut net, session) = Net::with_device(1, Region::Eu868);
    let answer = net.answer(10, 20);
    let step = net.uplink_at(&said(&session, 10), &[(1, 0.0)], vec![answer]);
    let step = net.ack(&step.commands[0].clone(), Err(Refusal::QueueFull));
    assert_eq!(step.outcome(), TxOutcome::Refused(Refusal::QueueFull));
    assert_eq!(net.ledgers[&(eui(1), 2)].minutes.values().sum::<u64>(), 0);
    net.now += Duration::from_secs(5);
    let answer = net.answer(11, 20);
    let step = net.uplink_at(&said(&session, 11), &[(1, 0.0)], vec![answer]);
    let command = step.commands[0].clone();
    assert!(net.run(Duration::from_millis(1999)).reports().is_empty());
    assert_eq!(
        net.run(Duration::from_millis(1)).outcome(),
        TxOutcome::Unknown
    );
    assert_eq!(
        net.ledgers[&(eui(1), 2)].minutes.values().sum::<u64>(),
        71_936
    );
    net.ack(&command, Ok(()));
    assert_eq!(net.native.counters().stray_tx_acks, 1);
    let status = net.native.gateway_status(eui(1)).unwrap();
    assert_eq!(
        (status.counters.handed_over, status.counters.unknown),
        (2, 1)
    );
    assert_eq!(status.counters.refused["QUEUE_FULL"], 1);
}

#[test]
fn a_device_joins_and_a_replayed_request_does_not() {
    for (region, hz, rate, down, down_rate) in [
        (
            Region::Eu868,
            868_300_000,
            "SF9BW125",
            868_300_000,
            "SF9BW125",
        ),
        (
            Region::Us915,
            902_500_000,
            "SF10BW125",
            923_900_000,
            "SF10BW500",
        ),
    ] {
        let mut net = Net::new(2);
        net.add(DEVICE, region);
        let app_key = Key128::from_bytes(APP_KEY);
        let join = JoinState {
            join_eui: JOIN_EUI,
            app_key: app_key.clone(),
            next_join_nonce: 3,
            dev_nonces: [6].into(),
        };
        net.native
            .apply(&NetworkCommand::PutJoinState(DEVICE, join));
        let request = |net: &mut Net, nonce: u16, key: [u8; 16], join_eui: JoinEui| {
            let request = JoinRequest::new(join_eui, DEVICE, nonce, &Key128::from_bytes(key));
            let heard = [(1, 0.0), (2, 5.0)]
                .map(|(n, snr)| net.heard(n, request.phy_payload(), hz, rate, snr));
            net.step(heard.to_vec(), vec![]);
            net.run(Duration::from_millis(200))
        };
        let at = net.now;
        let step = request(&mut net, 7, APP_KEY, JOIN_EUI);
        assert!(step.events.contains(&NetworkEvent::Heard(Heard::Joined {
            dev_eui: DEVICE,
            at
        })));
        let [command] = step.commands.as_slice() else {
            panic!("{step:?}")
        };
        assert_eq!(command.gateway, eui(2));
        assert_eq!(
            command.when,
            When::Counter(counter(2, at).wrapping_add(5_000_000))
        );
        assert_eq!(
            (command.frequency_hz, command.data_rate.to_string()),
            (down, down_rate.to_owned())
        );
        let Ok(Frame::JoinAccept(accept)) = Frame::parse(&command.phy_payload) else {
            panic!("no accept")
        };
        let accept: JoinAccept = accept.open(&app_key).unwrap();
        assert_eq!((accept.join_nonce, accept.dev_addr.0 >> 25), (3, 0));
        let stored = committed_session(&step);
        let (nwk_s_key, app_s_key) = session_keys(&app_key, &accept, 7);
        assert_eq!(
            (&stored.nwk_s_key, &stored.app_s_key),
            (&nwk_s_key, &app_s_key)
        );
        assert!(step.changes.iter().any(|change| matches!(change,
            Change::PutJoinState(DEVICE, join) if join.next_join_nonce == 4 && join.dev_nonces.contains(&7))));
        // The session works, from counter 0 on.
        let mut first = said(stored, 0);
        (first.frequency_hz, first.data_rate) = (hz, rate);
        net.now += Duration::from_secs(10);
        assert_eq!(net.uplink(&first).uplinks().len(), 1);
        // A nonce of before, a wrong key, another JoinEUI: nothing.
        for (nonce, key, join_eui) in [
            (7, APP_KEY, JOIN_EUI),
            (6, APP_KEY, JOIN_EUI),
            (8, [1; 16], JOIN_EUI),
            (9, APP_KEY, JoinEui(1)),
        ] {
            net.now += Duration::from_secs(10);
            assert!(request(&mut net, nonce, key, join_eui).commands.is_empty());
        }
        let counters = net.native.counters();
        assert_eq!((counters.joins, counters.join_replayed), (1, 2));
        assert_eq!((counters.join_wrong_mic, counters.join_unknown), (1, 1));
    }
}

fn group_frames(step: &Step) -> Vec<(u64, u16)> {
    let frame = |command: &GatewayCommand| {
        let frame = DataFrame::parse(&command.phy_payload).unwrap();
        (command.gateway.0, frame.f_cnt)
    };
    step.commands.iter().map(frame).collect()
}

#[test]
fn a_group_sends_its_frames_back_to_back_by_the_counter_of_its_gateway() {
    let (mut net, session) = Net::with_device(1, Region::Us915);
    let mut up = said(&session, 10);
    (up.frequency_hz, up.data_rate) = (902_300_000, "SF10BW125");
    net.uplink(&up);
    net.now += Duration::from_secs(5);
    let mut requests = vec![NetworkRequest::PutGroup(mc_group(Region::Us915, 1))];
    requests.extend((0..5).map(|_| net.group_frame(100)));
    let begin = net.now;
    let mut step = net.step(vec![], requests);
    assert_eq!(group_frames(&step), [(1, 0)]);
    let later = net.run(Duration::from_secs(2));
    step.commands.extend(later.commands);
    assert_eq!(
        group_frames(&step),
        [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    );
    let starts: Vec<u32> = step
        .commands
        .iter()
        .map(|command| match command.when {
            When::Counter(at) => at.wrapping_sub(counter(1, begin)),
            When::Immediately => panic!("not timed"),
        })
        .collect();
    // 113 bytes at SF7 and 500 kHz take 47.4 ms, counted as 48, and 42.5 ms lie between.
    assert_eq!(starts, [300_000, 390_500, 481_000, 571_500, 662_000]);
    let (nwk, app) = (
        mc_nwk_s_key(&Key128::from_bytes(MC_KEY), MC_ADDR),
        mc_app_s_key(&Key128::from_bytes(MC_KEY), MC_ADDR),
    );
    for (f_cnt, command) in (0..).zip(&step.commands) {
        let frame = DataFrame::parse(&command.phy_payload).unwrap();
        assert_eq!((frame.dev_addr, frame.f_opts.len()), (MC_ADDR, 0));
        assert_eq!(frame.open(&nwk, &app, f_cnt).unwrap(), [0xab; 100]);
    }
    assert_eq!(net.stored.mc_groups[0].next_mc_f_cnt, 5);
}

#[test]
fn frames_of_two_gateways_are_staggered_and_counters_stay_in_order() {
    let mut net = Net::new(2);
    let mut requests = vec![NetworkRequest::PutGroup(mc_group(Region::Us915, 2))];
    requests.extend((0..3).map(|_| net.group_frame(200)));
    let mut on_air = Vec::new();
    let mut step = net.step(vec![], requests);
    let mut reports = 0;
    for _ in 0..200 {
        for command in &step.commands {
            // Nothing is known of the counters: sent at once, when it is time.
            assert_eq!(command.when, When::Immediately);
            let frame = DataFrame::parse(&command.phy_payload).unwrap();
            on_air.push((command.gateway.0, frame.f_cnt, net.now));
        }
        let commands = std::mem::take(&mut step.commands);
        for command in &commands {
            reports += net.ack(command, Ok(())).reports().len();
        }
        step = net.run(Duration::from_millis(10));
    }
    let order: Vec<_> = on_air
        .iter()
        .map(|&(gateway, f_cnt, _)| (gateway, f_cnt))
        .collect();
    assert_eq!(order, [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]);
    for pair in on_air.windows(2) {
        // 213 bytes at SF7 and 500 kHz take 83 ms.
        assert!(
            pair[1].2.since(pair[0].2) > Duration::from_millis(83),
            "{pair:?}"
        );
    }
    assert_eq!(reports, 3);
}

#[test]
fn a_group_counter_never_goes_back() {
    let mut net = Net::new(1);
    let frame = net.group_frame(10);
    let put = NetworkRequest::PutGroup(mc_group(Region::Eu868, 1));
    net.step(vec![], vec![put.clone(), frame]);
    assert_eq!(net.stored.mc_groups[0].next_mc_f_cnt, 1);
    net.run(Duration::from_secs(5));
    net.restart();
    // The campaign puts its group again after a restart, as it made it.
    let frame = net.group_frame(10);
    let step = net.step(vec![], vec![put.clone(), frame]);
    assert_eq!(group_frames(&step), [(1, 1)]);
    net.run(Duration::from_secs(5));
    let remove = NetworkRequest::RemoveGroup(session_id());
    let frame = net.group_frame(10);
    let step = net.step(vec![], vec![remove, put, frame]);
    assert_eq!(group_frames(&step), [(1, 2)]);
}

#[test]
fn a_group_frame_that_cannot_make_it_is_refused_with_its_reason() {
    let mut net = Net::new(2);
    let mut group = mc_group(Region::Eu868, 1);
    group.data_rate = 0;
    let slow = |net: &mut Net, deadline: Duration| {
        let mut downlink = net.downlink(Target::Group(session_id()), None, 51);
        downlink.deadline = net.now + deadline;
        NetworkRequest::Send(downlink)
    };
    let hurried = slow(&mut net, Duration::from_secs(3));
    let late = slow(&mut net, Duration::from_secs(1));
    let too_long = net.group_frame(52);
    net.step(
        vec![],
        vec![
            NetworkRequest::PutGroup(group.clone()),
            hurried,
            late,
            too_long,
        ],
    );
    let outcomes: Vec<TxOutcome> = net
        .run(Duration::ZERO)
        .reports()
        .iter()
        .map(|report| report.outcomes[0].outcome)
        .collect();
    assert_eq!(
        outcomes,
        [Refusal::TooLate, Refusal::TooLong].map(TxOutcome::Refused)
    );
    // 360 s of air are 128 frames; then nothing before the hour is over.
    for _ in 0..150 {
        net.keep_alive();
        let request = slow(&mut net, Duration::from_secs(10));
        net.step(vec![], vec![request]);
        let step = net.run(Duration::from_secs(4));
        if step
            .reports()
            .iter()
            .any(|r| r.outcomes[0].outcome == TxOutcome::Refused(Refusal::NoAirTime))
        {
            break;
        }
    }
    assert_eq!(net.stored.mc_groups[0].next_mc_f_cnt, 128);
    // A gateway that is not there, or no group at all.
    group.gateways = vec![eui(7), eui(2)];
    let request = slow(&mut net, Duration::from_secs(10));
    let step = net.step(vec![], vec![NetworkRequest::PutGroup(group), request]);
    assert_eq!(group_frames(&step), [(2, 128)]);
    let step = net.run(Duration::from_secs(3));
    let [report] = step.reports()[..] else {
        panic!("{step:?}")
    };
    assert_eq!(
        report.outcomes[0].outcome,
        TxOutcome::Refused(Refusal::NoGateway)
    );
    assert_eq!(
        (report.outcomes[1].outcome, report.transmissions()),
        (TxOutcome::Unknown, 1)
    );
}

#[test]
fn an_answer_finds_its_window_between_the_frames_of_a_busy_group() {
    let (mut net, session) = Net::with_device(1, Region::Eu868);
    net.uplink(&said(&session, 10));
    net.now += Duration::from_secs(5);
    let mut requests = vec![NetworkRequest::PutGroup(mc_group(Region::Eu868, 1))];
    requests.extend((0..20).map(|_| net.group_frame(100)));
    net.step(vec![], requests);
    net.run(Duration::from_secs(1));
    let answer = net.answer(11, 20);
    let step = net.uplink_at(&said(&session, 11), &[(1, 0.0)], vec![answer]);
    let answers: Vec<_> = step
        .commands
        .iter()
        .filter(|c| c.frequency_hz == 868_100_000)
        .collect();
    assert_eq!(answers.len(), 1, "{step:?}");
    let When::Counter(window) = answers[0].when else {
        panic!("not timed")
    };
    // No frame of the group runs into it: 190 ms each, 72 ms the answer.
    for command in net.run(Duration::from_secs(4)).commands {
        let When::Counter(start) = command.when else {
            panic!("not timed")
        };
        let apart = i64::from(start.wrapping_sub(window).cast_signed());
        assert!(
            apart <= -190_000 - 42_500 || apart >= 72_000 + 42_500,
            "{apart}"
        );
    }
}

#[test]
fn a_counter_proved_wrong_is_not_used_again() {
    let (mut net, session) = Net::with_device(1, Region::Us915);
    let mut up = said(&session, 10);
    (up.frequency_hz, up.data_rate) = (902_300_000, "SF10BW125");
    net.uplink(&up);
    let frame = net.group_frame(10);
    let step = net.step(
        vec![],
        vec![NetworkRequest::PutGroup(mc_group(Region::Us915, 1)), frame],
    );
    assert!(matches!(step.commands[0].when, When::Counter(_)));
    net.ack(&step.commands[0].clone(), Err(Refusal::TooEarly));
    let frame = net.group_frame(10);
    net.step(vec![], vec![frame]);
    let frame = net.group_frame(10);
    let step = net.step(vec![], vec![frame]);
    let step = if step.commands.is_empty() {
        net.run(Duration::from_secs(1))
    } else {
        step
    };
    assert!(
        step.commands
            .iter()
            .all(|command| command.when == When::Immediately)
    );
}

#[test]
fn statuses_are_not_written_with_every_uplink() {
    let (mut net, session) = Net::with_device(1, Region::Eu868);
    let mut writes = 0;
    for f_cnt in 10..110 {
        let step = net.uplink(&said(&session, f_cnt));
        writes += step
            .changes
            .iter()
            .filter(|c| matches!(c, Change::PutGatewayStatus(..)))
            .count();
        net.now += Duration::from_millis(800);
    }
    assert_eq!(writes, 3);
}

/// One input of the storm.
#[derive(Clone, Debug)]
enum Storm {
    Bytes(Vec<u8>),
    Uplink {
        ahead: u32,
        confirmed: bool,
        f_opts: Vec<u8>,
        flip: Option<u16>,
    },
    Join {
        nonce: u16,
    },
    Ack {
        id: u64,
        ok: bool,
    },
    Group {
        length: usize,
    },
    Answer {
        back: u32,
        length: usize,
    },
    Wait {
        ms: u64,
    },
    Restart,
}

fn storm() -> impl Strategy<Value = Storm> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        bytes.prop_map(Storm::Bytes),
        (
            0u32..4,
            any::<bool>(),
            proptest::collection::vec(any::<u8>(), 0..15),
            proptest::option::of(any::<u16>())
        )
            .prop_map(|(ahead, confirmed, f_opts, flip)| Storm::Uplink {
                ahead,
                confirmed,
                f_opts,
                flip
            }),
        (0u16..6).prop_map(|nonce| Storm::Join { nonce }),
        (0u64..40, any::<bool>()).prop_map(|(id, ok)| Storm::Ack { id, ok }),
        (0usize..260).prop_map(|length| Storm::Group { length }),
        (0u32..3, 0usize..260).prop_map(|(back, length)| Storm::Answer { back, length }),
        (0u64..3000).prop_map(|ms| Storm::Wait { ms }),
        Just(Storm::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_storm_makes_it_panic_or_use_a_counter_twice(storm in proptest::collection::vec(storm(), 1..120)) {
        let (mut net, session) = Net::with_device(2, Region::Eu868);
        let join = JoinState {
            join_eui: JOIN_EUI,
            app_key: Key128::from_bytes(APP_KEY),
            next_join_nonce: 0,
            dev_nonces: [].into(),
        };
        let joiner = DevEui(0x77);
        net.add(joiner, Region::Eu868);
        net.native.apply(&NetworkCommand::PutJoinState(joiner, join.clone()));
        let (mut stored_session, mut stored_join) = (session.clone(), join);
        let put = NetworkRequest::PutGroup(mc_group(Region::Eu868, 2));
        net.step(vec![], vec![put.clone()]);
        let mut f_cnt = 9;
        // By address and counter: the bytes that went out under them.
        let mut used: BTreeMap<(u32, u16), Vec<u8>> = BTreeMap::new();
        let mut accepts: Vec<Vec<u8>> = Vec::new();
        for input in storm {
            let mut inbound = Vec::new();
            let mut requests = Vec::new();
            match input {
                Storm::Bytes(bytes) => inbound.push(net.heard(1, &bytes, 868_100_000, "SF7BW125", 0.0)),
                Storm::Uplink { ahead, confirmed, f_opts, flip } => {
                    f_cnt += ahead;
                    let mut said = said(&session, f_cnt);
                    (said.confirmed, said.f_opts) = (confirmed, f_opts);
                    let mut bytes = said.bytes();
                    if let Some(bit) = flip {
                        let at = usize::from(bit) % (bytes.len() * 8);
                        bytes[at / 8] ^= 1 << (at % 8);
                    }
                    inbound.extend([1, 2].map(|n| net.heard(n, &bytes, 868_100_000, "SF7BW125", 0.0)));
                }
                Storm::Join { nonce } => {
                    let request = JoinRequest::new(JOIN_EUI, joiner, nonce, &Key128::from_bytes(APP_KEY));
                    inbound.push(net.heard(2, request.phy_payload(), 868_100_000, "SF12BW125", 0.0));
                }
                Storm::Ack { id, ok } => {
                    let result = if ok { Ok(()) } else { Err(Refusal::TooLate) };
                    inbound.extend([1, 2].map(|n| GatewayMessage::TxAck { gateway: eui(n), id: TransmissionId(id), result, at: net.now }));
                }
                Storm::Group { length } => requests.push(net.group_frame(length)),
                Storm::Answer { back, length } => requests.push(net.answer(f_cnt.saturating_sub(back), length)),
                Storm::Wait { ms } => net.now += Duration::from_millis(ms),
                Storm::Restart => {
                    net.restart();
                    for (dev_eui, region) in [(DEVICE, Region::Eu868), (joiner, Region::Eu868)] {
                        net.add(dev_eui, region);
                    }
                    net.import(DEVICE, stored_session.clone());
                    net.native.apply(&NetworkCommand::PutJoinState(joiner, stored_join.clone()));
                    requests.push(put.clone());
                }
            }
            let mut step = net.step(inbound, requests);
            let later = net.run(Duration::from_millis(250));
            step.changes.extend(later.changes);
            step.commands.extend(later.commands);
            net.keep_alive();
            for change in step.changes {
                match change {
                    Change::PutSession(DEVICE, session) => {
                        prop_assert!(session.next_f_cnt_down >= stored_session.next_f_cnt_down);
                        prop_assert!(session.f_cnt_up >= stored_session.f_cnt_up);
                        stored_session = session;
                    }
                    Change::PutJoinState(_, join) => stored_join = join,
                    _ => {}
                }
            }
            for command in step.commands {
                prop_assert!(command.phy_payload.len() <= 255);
                if let Ok(frame) = DataFrame::parse(&command.phy_payload) {
                    let key = (frame.dev_addr.0, frame.f_cnt);
                    let before = used.insert(key, command.phy_payload.clone());
                    // Two gateways send the same frame of a group; nothing else repeats.
                    prop_assert!(before.is_none_or(|bytes| bytes == command.phy_payload && frame.dev_addr == MC_ADDR));
                } else {
                    prop_assert!(!accepts.contains(&command.phy_payload));
                    accepts.push(command.phy_payload);
                }
            }
        }
    }
}

#[test]
fn an_imported_session_does_not_put_the_downlink_counter_back() {
    let (mut net, session) = Net::with_device(1, Region::Eu868);
    let mut confirmed = said(&session, 10);
    confirmed.confirmed = true;
    net.uplink(&confirmed);
    // The operator imports the session again as it was: under the same keys the counter goes on, and is written so.
    net.import(DEVICE, session.clone());
    let step = net.step(vec![], vec![]);
    assert_eq!(committed_session(&step).next_f_cnt_down, 6);
    // Under other keys it is the operator's.
    let mut other = session;
    other.nwk_s_key = Key128::from_bytes([0x33; 16]);
    other.app_s_key = Key128::from_bytes([0x44; 16]);
    net.import(DEVICE, other.clone());
    net.now += Duration::from_secs(5);
    let mut confirmed = said(&other, 10);
    confirmed.confirmed = true;
    let step = net.uplink(&confirmed);
    open_down(&step.commands[0], &other, 5);
}
