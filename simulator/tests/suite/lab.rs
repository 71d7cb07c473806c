//! Devices, gateways and the air together.

use fuota_simulator::channel::{Channel, ChannelConfig};
use fuota_simulator::device::{Activation, Class, DeviceConfig, EndDevice};
use fuota_simulator::gateway::{Gateway, GatewayConfig, Received, TxRequest, TxWhen};
use fuota_simulator::lab::Lab;
use lorawan_fuota::lorawan::frame::{DataFields, DataFrame, Direction, FCtrl};
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, GatewayEui};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;

use crate::bench::{GEN_APP_KEY, SECOND, START};

fn device(number: u32) -> EndDevice {
    EndDevice::new(config(number), 42, START)
}

fn config(number: u32) -> DeviceConfig {
    let activation = Activation::Abp {
        dev_addr: DevAddr(number),
        nwk_s_key: Key128::from_bytes([1; 16]),
        app_s_key: Key128::from_bytes([2; 16]),
    };
    let eui = DevEui(number.into());
    DeviceConfig::new(eui, Region::Us915, activation, GEN_APP_KEY)
}

fn lab(devices: u32, loss: f64, collisions: bool, seed: u64) -> Lab {
    lab_of((1..=devices).map(device).collect(), loss, collisions, seed)
}

fn lab_of(devices: Vec<EndDevice>, loss: f64, collisions: bool, seed: u64) -> Lab {
    let gateways =
        (1..=3).map(|eui| Gateway::new(GatewayConfig::new(GatewayEui(eui), Region::Us915)));
    let channel = ChannelConfig {
        uplink_loss: loss,
        downlink_loss: loss,
        collisions,
    };
    Lab::new(devices, gateways.collect(), Channel::new(channel, seed))
}

/// Runs to the minute, event by event, as a world does.
fn run(lab: &mut Lab, minutes: u32) -> Vec<(GatewayEui, Received)> {
    let end = START + SECOND * 60 * minutes;
    let mut received = Vec::new();
    while let Some(next) = lab.next_event().filter(|&next| next <= end) {
        received.extend(lab.advance(next));
    }
    received
}

#[test]
fn every_gateway_hears_every_uplink_unless_lost() {
    let mut good = lab(20, 0.0, false, 1);
    let received = run(&mut good, 10).len();
    let uplinks = good.counts().uplinks;
    // Ten reports and, since nobody tells them, about nine requests for the time each.
    assert!((340..420).contains(&uplinks), "{uplinks}");
    // The last ones may still be on air.
    assert!(
        received.is_multiple_of(3) && uplinks - received as u64 / 3 <= 2,
        "{received} of {uplinks}"
    );
    let mut lossy = lab(20, 0.3, false, 1);
    let share = run(&mut lossy, 10).len() as f64 / (lossy.counts().uplinks * 3) as f64;
    assert!((0.62..0.78).contains(&share), "{share}");
}

#[test]
fn the_same_seed_gives_the_same_run_however_it_is_stepped() {
    let mut stepped = lab(20, 0.2, true, 5);
    let by_event = run(&mut stepped, 10);
    let mut jumped = lab(20, 0.2, true, 5);
    let at_once = jumped.advance(START + SECOND * 600);
    assert_eq!(by_event, at_once);
    assert_ne!(by_event, run(&mut lab(20, 0.2, true, 6), 10));
}

#[test]
fn uplinks_of_a_crowd_collide() {
    let mut crowd = lab(2000, 0.0, true, 1);
    run(&mut crowd, 2);
    assert!(crowd.counts().uplink_collisions > 100);
}

#[test]
fn an_answer_in_rx1_reaches_its_device_and_no_other() {
    let mut lab = lab(2, 0.0, false, 1);
    let (gateway, heard) = loop {
        let next = lab.next_event().unwrap();
        if let Some(received) = lab.advance(next).pop() {
            break received;
        }
    };
    let frame = DataFrame::parse(&heard.phy_payload).unwrap();
    let dr = Region::Us915
        .data_rate_index(heard.data_rate, Direction::Uplink)
        .unwrap();
    let (hz, dr) = Region::Us915.rx1(heard.frequency_hz, dr, 0, false).unwrap();
    let phy_payload = DataFields {
        direction: Direction::Downlink,
        confirmed: false,
        dev_addr: frame.dev_addr,
        f_ctrl: FCtrl::default(),
        f_cnt: 0,
        f_opts: &[],
        f_port: Some(201),
        payload: &[0x00],
    }
    .build(&Key128::from_bytes([1; 16]), &Key128::from_bytes([2; 16]))
    .unwrap();
    let request = TxRequest {
        when: TxWhen::Counter(heard.counter_us.wrapping_add(1_000_000)),
        frequency_hz: hz,
        data_rate: Region::Us915.data_rate(dr, Direction::Downlink).unwrap(),
        power_dbm: 20,
        phy_payload,
    };
    assert_eq!(lab.request(heard.at, gateway, request), Ok(()));
    lab.advance(heard.at + SECOND * 2);
    let unicast: Vec<u64> = lab
        .devices()
        .filter(|device| device.counts().unicast == 1)
        .map(|device| device.dev_eui().0)
        .collect();
    assert_eq!(unicast, [u64::from(frame.dev_addr.0)]);
    assert_eq!(lab.gateways()[0].breaches(), []);
}

#[test]
fn downlinks_are_lost_for_each_device_apart() {
    let devices = (1..=50).map(|number| {
        let mut config = config(number);
        config.class = Class::C;
        config.uplinks.start_spread = SECOND * 3600;
        EndDevice::new(config, 42, START)
    });
    let mut lab = lab_of(devices.collect(), 0.3, false, 1);
    lab.advance(START);
    let (hz, dr) = Region::Us915.rx2();
    for n in 1..=20 {
        let request = TxRequest {
            when: TxWhen::Counter(lab.gateways()[0].counter(START + SECOND * n)),
            frequency_hz: hz,
            data_rate: Region::Us915.data_rate(dr, Direction::Downlink).unwrap(),
            power_dbm: 20,
            // For nobody, so that all who hear it count it.
            phy_payload: vec![0x60, 1, 0, 0, 0xff, 0, 0, 0, 1, 2, 3, 4],
        };
        assert_eq!(lab.request(START, GatewayEui(1), request), Ok(()));
    }
    lab.advance(START + SECOND * 30);
    let heard: Vec<u64> = lab
        .devices()
        .map(|device| device.counts().not_for_us)
        .collect();
    let sum: u64 = heard.iter().sum();
    assert!((630..770).contains(&sum), "{sum} of 1000");
    assert_eq!(lab.counts().downlinks_lost + sum, 1000);
    assert!(heard.iter().min() < heard.iter().max());
}
