//! Joining, windows, counters, MAC commands, clock.

use std::time::Duration;

use fuota_simulator::device::Class;
use lorawan_fuota::lorawan::clock_sync;
use lorawan_fuota::lorawan::frame::{Direction, Frame};
use lorawan_fuota::lorawan::mac_commands::UplinkMacCommand;
use lorawan_fuota::lorawan::region::Region;

use crate::bench::{Bench, SECOND, START, abp, otaa};

const MS: Duration = Duration::from_millis(1);
const VERSION_REQ: &[u8] = &[0x00];

#[test]
fn a_device_joins_asks_for_the_time_and_reports_at_its_interval() {
    let mut bench = Bench::new(otaa(), 1);
    let first = bench.next_uplink();
    assert_eq!(bench.joins, 1);
    assert!(first.mac.contains(&UplinkMacCommand::DeviceTimeReq));
    assert!(bench.device.clock().is_set());
    assert!(bench.device.clock().error_us(bench.now).abs() < 10_000);
    let second = bench.next_uplink();
    assert!(!second.mac.contains(&UplinkMacCommand::DeviceTimeReq));
    let apart = second.end.since(first.end);
    assert!(apart > SECOND * 50 && apart < SECOND * 70, "{apart:?}");
    assert_eq!((first.f_cnt, second.f_cnt), (0, 1));
    assert_eq!(second.payload[..4], [0, 0, 0, 0], "running version");
}

#[test]
fn joins_without_an_answer_back_off_with_fresh_nonces() {
    let mut config = otaa();
    config.uplinks.keeps_duty_cycle = false;
    let mut device = fuota_simulator::device::EndDevice::new(config, 3, START);
    let mut sent = Vec::new();
    while sent.len() < 6 {
        let now = device.next_event().unwrap();
        for fuota_simulator::device::DeviceOutput::Transmit(uplink) in device.advance(now) {
            match Frame::parse(&uplink.phy_payload) {
                Ok(Frame::JoinRequest(request)) => sent.push((now, request.dev_nonce)),
                other => panic!("{other:?}"),
            }
        }
    }
    let nonces: Vec<u16> = sent.iter().map(|&(_, nonce)| nonce).collect();
    assert_eq!(nonces, [0, 1, 2, 3, 4, 5]);
    let waits: Vec<Duration> = sent
        .windows(2)
        .map(|pair| pair[1].0.since(pair[0].0))
        .collect();
    assert!(waits.windows(2).all(|pair| pair[1] > pair[0]), "{waits:?}");
}

#[test]
fn a_downlink_30_ms_late_misses_the_window() {
    let mut bench = Bench::new(abp(), 1);
    bench.next_uplink();
    let late = bench.next_uplink();
    assert!(!bench.rx1(&late, 201, VERSION_REQ, MS * 30));
    assert_eq!(bench.device.counts().unicast, 1, "the time only");
    let good = bench.next_uplink();
    assert!(bench.rx1(&good, 201, VERSION_REQ, MS * 10));
    assert_eq!(bench.next_on(201).payload, [0x00, 3, 2]);
}

#[test]
fn rx2_works_and_waits_for_long_frames() {
    let mut bench = Bench::new(abp(), 1);
    bench.next_uplink();
    let uplink = bench.next_uplink();
    let (rx2_hz, rx2_dr) = Region::Eu868.rx2();
    let data_rate = Region::Eu868
        .data_rate(rx2_dr, Direction::Downlink)
        .unwrap();
    let frame = bench.downlink(Some(200), VERSION_REQ, &[], false);
    assert!(bench.on_air(rx2_hz, data_rate, uplink.end + SECOND * 2, &frame));
    assert_eq!(bench.next_on(200).payload, [0x00, 2, 2]);
}

#[test]
fn class_c_hears_at_any_time_and_class_a_does_not() {
    for (class, hears) in [(Class::C, true), (Class::AWithMulticastC, false)] {
        let mut config = abp();
        config.class = class;
        let mut bench = Bench::new(config, 1);
        let uplink = bench.next_uplink();
        let (rx2_hz, rx2_dr) = Region::Eu868.rx2();
        let data_rate = Region::Eu868
            .data_rate(rx2_dr, Direction::Downlink)
            .unwrap();
        let frame = bench.downlink(Some(200), VERSION_REQ, &[], false);
        let start = uplink.end + SECOND * 10;
        assert_eq!(bench.on_air(rx2_hz, data_rate, start, &frame), hears);
    }
}

#[test]
fn replays_and_forgeries_are_dropped() {
    let mut bench = Bench::new(abp(), 1);
    bench.next_uplink();
    let uplink = bench.next_uplink();
    let frame = bench.downlink(Some(201), VERSION_REQ, &[], false);
    assert!(bench.send_in_rx1(&uplink, &frame, Duration::ZERO));
    let uplink = bench.next_on(201);
    assert!(bench.send_in_rx1(&uplink, &frame, Duration::ZERO));
    assert_eq!(bench.device.counts().replayed, 1);
    let uplink = bench.next_uplink();
    let mut forged = bench.downlink(Some(201), VERSION_REQ, &[], false);
    *forged.last_mut().unwrap() ^= 1;
    assert!(bench.send_in_rx1(&uplink, &forged, Duration::ZERO));
    assert_eq!(bench.device.counts().wrong_mic, 1);
    // Neither closed the windows nor was answered.
    assert_ne!(bench.next_uplink().f_port, Some(201));
}

#[test]
fn confirmed_downlinks_are_acknowledged_soon() {
    let mut bench = Bench::new(abp(), 1);
    bench.next_uplink();
    let uplink = bench.next_uplink();
    let frame = bench.downlink(Some(99), &[1, 2], &[], true);
    assert!(bench.send_in_rx1(&uplink, &frame, Duration::ZERO));
    let answer = bench.next_uplink();
    assert!(answer.ack);
    assert_eq!(answer.f_port, None);
    assert!(answer.end.since(uplink.end) < SECOND * 20);
    assert!(!bench.next_uplink().ack);
}

#[test]
fn mac_commands_are_answered() {
    let mut bench = Bench::new(abp(), 1);
    bench.next_uplink();
    let uplink = bench.next_uplink();
    // LinkADRReq to DR3, DevStatusReq, RXTimingSetupReq 2 s.
    let f_opts = [0x03, 0x31, 0x07, 0x00, 0x01, 0x06, 0x08, 0x02];
    let frame = bench.downlink(None, &[], &f_opts, false);
    assert!(bench.send_in_rx1(&uplink, &frame, Duration::ZERO));
    let answer = bench.next_uplink();
    assert_eq!(
        answer.mac,
        [
            UplinkMacCommand::LinkAdrAns {
                channel_mask_ack: true,
                data_rate_ack: true,
                power_ack: true
            },
            UplinkMacCommand::DevStatusAns {
                battery: 0,
                snr_margin: 10
            },
            UplinkMacCommand::RxTimingSetupAns,
        ]
    );
    let dr3 = Region::Eu868.data_rate(3, Direction::Uplink).unwrap();
    assert_eq!(answer.data_rate, dr3);
    assert!(!bench.rx1(&answer, 201, VERSION_REQ, Duration::ZERO));
    let next = bench.next_uplink();
    assert!(bench.rx1(&next, 201, VERSION_REQ, SECOND));
}

#[test]
fn the_duty_cycle_is_kept() {
    let mut config = abp();
    config.uplinks.interval = Duration::from_millis(500);
    config.uplinks.data_rate = 0;
    let mut bench = Bench::new(config, 1);
    let mut end = bench.next_uplink().end;
    for _ in 0..20 {
        let next = bench.next_uplink().end;
        // 18 bytes at SF12 last 1.3 s or more; one hundred times that is 1 %.
        assert!(next.since(end) > SECOND * 130, "{:?}", next.since(end));
        end = next;
    }
}

#[test]
fn the_clock_is_set_by_ts003_where_the_network_does_not() {
    let mut config = abp();
    config.clock.device_time_req = false;
    let mut bench = Bench::new(config, 1);
    let request = bench.next_on(clock_sync::DEFAULT_F_PORT);
    let decoded =
        clock_sync::decode_uplink(lorawan_fuota::lorawan::PackageVersion::V2, &request.payload);
    let [clock_sync::UplinkCommand::AppTimeReq(asked)] = decoded.commands[..] else {
        panic!("{decoded:?}");
    };
    assert!(asked.ans_required);
    let gps = request.end.to_gps().wire_seconds();
    let correction = gps.wrapping_sub(asked.device_time).cast_signed();
    let mut answer = vec![0x01];
    answer.extend(correction.to_le_bytes());
    // First for another request, then for this one.
    for token in [asked.token_req + 1, asked.token_req] {
        assert!(!bench.device.clock().is_set());
        let mut answer = answer.clone();
        answer.push(token);
        bench.tell(clock_sync::DEFAULT_F_PORT, &answer);
    }
    assert!(bench.device.clock().is_set());
    assert!(bench.device.clock().error_us(bench.now).abs() < 2_000_000);
}

#[test]
fn a_silent_device_is_gone() {
    let mut config = abp();
    config.class = Class::C;
    config.silent_from = Some(START + SECOND * 90);
    let mut bench = Bench::new(config, 1);
    let limit = START + SECOND * 7200;
    while bench.next_uplink_before(limit).is_some() {}
    assert!(bench.now < START + SECOND * 95);
    assert_eq!(bench.device.next_event(), None);
    assert_eq!(bench.device.listening(START + SECOND * 100), None);
}
