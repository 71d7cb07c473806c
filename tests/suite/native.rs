//! The native network server from outside: hand-made messages of gateways in, commands and changes out.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::frame::Frame;
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, JoinEui};
use lorawan_fuota::lorawan::join::{JoinAccept, JoinRequest, session_keys};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::network::native::When;
use lorawan_fuota::network::{Network, NetworkCommand, NetworkEvent};
use lorawan_fuota::record::{
    Change, Heard, JoinState, NetworkRequest, Refusal, Session, Target, TxOutcome,
};

use super::native_net::{
    APP_KEY, DEVICE, JOIN_EUI, Net, committed_session, counter, eui, open_down, said, session,
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
    assert!(
        step.events
            .contains(&NetworkEvent::CounterRestarted(DEVICE))
    );
    // Once: the next restart needs another reboot.
    net.now += Duration::from_secs(20);
    assert_eq!(net.uplink(&said(&session, 30)).uplinks()[0].f_cnt, 30);
    net.now += Duration::from_secs(20);
    assert!(net.uplink(&said(&session, 2)).uplinks().is_empty());
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
    net.now += Duration::from_secs(20);
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
            last_dev_nonce: None,
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
