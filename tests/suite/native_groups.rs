//! Multicast groups of the native network server: order, timing, counters and refusals of their frames.

use std::time::Duration;

use lorawan_fuota::lorawan::class_b::{PingSlotPeriodicity, ceil_beacon_start, next_ping_slot};
use lorawan_fuota::lorawan::frame::DataFrame;
use lorawan_fuota::lorawan::keys::{Key128, mc_app_s_key, mc_nwk_s_key};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::network::native::{GatewayCommand, When};
use lorawan_fuota::network::{Network, NetworkCommand};
use lorawan_fuota::record::{
    DeviceClass, GatewaySettings, KeptGroup, McGroup, NetworkRequest, Refusal, SessionId, Target,
    TxOutcome,
};
use lorawan_fuota::time::GpsTime;

use super::native_net::{
    MC_ADDR, MC_KEY, Net, Step, counter, eui, gateway_settings, mc_group, said, session_id,
};

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
            When::Immediately | When::Gps(_) => panic!("not timed by the counter"),
        })
        .collect();
    // 113 bytes at SF7 and 500 kHz take 47.4 ms, counted as 48, and 43.5 ms lie between.
    assert_eq!(starts, [300_000, 391_500, 483_000, 574_500, 666_000]);
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
fn an_answer_promised_for_later_does_not_hold_a_group_up() {
    let (mut net, session) = Net::with_device(1, Region::Us915);
    let mut up = said(&session, 10);
    (up.frequency_hz, up.data_rate, up.confirmed) = (902_300_000, "SF10BW125", true);
    assert_eq!(net.uplink(&up).commands.len(), 1);
    let begin = net.now;
    let put = NetworkRequest::PutGroup(mc_group(Region::Us915, 1));
    let frame = net.group_frame(100);
    let mut step = net.step(vec![], vec![put, frame]);
    step.commands
        .extend(net.run(Duration::from_secs(3)).commands);
    let When::Counter(at) = step.commands[0].when else {
        panic!("not timed");
    };
    // The gateway's lead time, long before the acknowledgement in RX1.
    assert_eq!(at.wrapping_sub(counter(1, begin)), 300_000);
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
fn a_group_that_is_kept_sends_nothing_and_its_key_goes_on_with_its_counter() {
    let mut net = Net::new(1);
    let group = mc_group(Region::Eu868, 1);
    let mut requests = vec![NetworkRequest::PutGroup(group.clone())];
    requests.extend((0..3).map(|_| net.group_frame(200)));
    let step = net.step(vec![], requests);
    assert_eq!(group_frames(&step), [(1, 0)]);
    // Two wait for their turn, and are not sent.
    let kept = KeptGroup {
        mc_group_id: 2,
        holders: 5,
    };
    let keep = NetworkRequest::KeepGroup(session_id(), Some(kept));
    let late = net.group_frame(10);
    let step = net.step(vec![], vec![keep, late]);
    assert_eq!(group_frames(&step), []);
    let refused = net.run(Duration::from_secs(30));
    assert_eq!(group_frames(&refused), []);
    assert_eq!(net.stored.mc_groups[0].kept, Some(kept));
    net.restart();

    let next = SessionId {
        number: 1,
        ..session_id()
    };
    let put = NetworkRequest::PutGroup(McGroup {
        session: next.clone(),
        ..group
    });
    let frame = net.downlink(Target::Group(next.clone()), None, 10);
    let remove = NetworkRequest::RemoveGroup(session_id());
    let step = net.step(vec![], vec![put, remove, NetworkRequest::Send(frame)]);
    assert_eq!(group_frames(&step), [(1, 1)]);
    let stored = &net.stored.mc_groups;
    assert_eq!(stored.len(), 1);
    assert_eq!((&stored[0].session, stored[0].next_mc_f_cnt), (&next, 2));
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

/// A network whose gateways have GPS time and send beacons.
fn net_with_gps(gateways: u64) -> Net {
    let mut net = Net::new(gateways);
    for number in 1..=gateways {
        let settings = GatewaySettings {
            gps: true,
            beaconing: true,
            ..gateway_settings(number)
        };
        net.native.apply(&NetworkCommand::PutGateway(settings));
    }
    net
}

/// Frames of a group, as they were handed over: gateway, counter and GPS time.
fn timed_frames(net: &mut Net, first: Step, turns: u32) -> Vec<(u64, u16, GpsTime)> {
    let mut step = first;
    let mut frames = Vec::new();
    for _ in 0..turns {
        for command in std::mem::take(&mut step.commands) {
            let When::Gps(at) = command.when else {
                panic!("{:?}", command.when);
            };
            let frame = DataFrame::parse(&command.phy_payload).unwrap();
            frames.push((command.gateway.0, frame.f_cnt, at));
            net.ack(&command, Ok(()));
        }
        step = net.run(Duration::from_millis(100));
    }
    frames
}

#[test]
fn class_b_frames_start_in_ping_slots_at_all_gateways_alike() {
    let mut net = net_with_gps(2);
    let periodicity = PingSlotPeriodicity::try_from(1).unwrap();
    let group = McGroup {
        class: DeviceClass::B,
        ping_slots: Some(periodicity),
        ..mc_group(Region::Us915, 2)
    };
    let mut requests = vec![NetworkRequest::PutGroup(group)];
    requests.extend((0..80).map(|_| net.group_frame(100)));
    let first = net.step(vec![], requests);
    let frames = timed_frames(&mut net, first, 2_000);
    assert_eq!(frames.len(), 160);
    for (number, pair) in (0u16..).zip(frames.chunks(2)) {
        let [(one, f_cnt, at), (other, same_cnt, same_at)] = pair else {
            panic!("{pair:?}");
        };
        assert_eq!((*one, *other), (1, 2));
        assert_eq!((f_cnt, at), (same_cnt, same_at));
        assert_eq!(*f_cnt, number);
        let before = GpsTime::from_micros(at.as_micros() - 1);
        assert_eq!(*at, next_ping_slot(before, MC_ADDR, periodicity));
        let guard = ceil_beacon_start(*at).as_micros() - at.as_micros();
        assert!(guard > 3_000_000, "{guard} us before a beacon");
    }
    // 64 slots in 128 s: one every 2 s in the mean, and none is passed over.
    let took = frames[159].2.as_micros() - frames[0].2.as_micros();
    assert!((150_000_000..170_000_000).contains(&took), "{took}");
}

#[test]
fn class_c_frames_leave_gateways_with_gps_at_one_instant_and_beside_their_beacons() {
    let mut net = net_with_gps(3);
    let mut requests = vec![NetworkRequest::PutGroup(mc_group(Region::Us915, 3))];
    requests.extend((0..400).map(|_| net.group_frame(200)));
    let first = net.step(vec![], requests);
    let frames = timed_frames(&mut net, first, 1_400);
    assert_eq!(frames.len(), 1_200);
    for trio in frames.chunks(3) {
        assert!(
            trio.iter().all(|f| (f.1, f.2) == (trio[0].1, trio[0].2)),
            "{trio:?}"
        );
        assert_eq!(trio[0].2.as_micros() % 1_000, 0);
        let since_beacon = trio[0].2.as_micros().rem_euclid(128_000_000);
        assert!(since_beacon > 2_120_000, "{since_beacon} us after a beacon");
    }
}

#[test]
fn a_gateway_without_gps_serves_no_class_b() {
    let mut net = Net::new(1);
    let group = McGroup {
        class: DeviceClass::B,
        ping_slots: Some(PingSlotPeriodicity::default()),
        ..mc_group(Region::Us915, 1)
    };
    let frame = net.group_frame(100);
    let step = net.step(vec![], vec![NetworkRequest::PutGroup(group), frame]);
    assert_eq!(step.commands, []);
    let later = net.run(Duration::from_millis(100));
    assert_eq!(later.outcome(), TxOutcome::Refused(Refusal::GpsUnlocked));
}
