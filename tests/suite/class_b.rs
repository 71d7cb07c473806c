//! Class B sessions in virtual time: gateways that send beacons, devices that find them, frames in ping slots.

use std::time::Duration;

use fuota_simulator::check::{self, CheckOptions};
use fuota_simulator::device::StackProfile;
use fuota_simulator::fleet::{FleetOptions, Stacks};
use fuota_simulator::scene::Scene;
use lorawan_fuota::lorawan::class_b::PingSlotPeriodicity;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::{DeviceClass, DeviceState, TaskState};

fn options(region: Region, data_rate: u8, loss: f64) -> CheckOptions {
    CheckOptions {
        class: DeviceClass::B,
        gps: true,
        ..CheckOptions::plain(FleetOptions {
            devices: 6,
            gateways: 2,
            loss,
            region,
            data_rate,
            uplink_interval: Duration::from_secs(60),
            ..FleetOptions::default()
        })
    }
}

#[test]
fn a_fleet_is_updated_in_ping_slots() {
    for (region, data_rate) in [
        (Region::Eu868, 5),
        (Region::Us915, 12),
        (Region::As923_1, 5),
    ] {
        let outcome = check::run(&options(region, data_rate, 0.1));
        assert_eq!(outcome.violations, [], "{region}");
        assert_eq!(outcome.task.state, TaskState::Completed, "{region}");
        let states: Vec<DeviceState> = outcome.devices.iter().map(|d| d.state).collect();
        assert_eq!(states, [DeviceState::Running; 6], "{region}");
        assert!(outcome.task.counters.coded_frames > 0, "{region}");
    }
}

#[test]
fn both_stacks_with_class_b_are_updated() {
    for stack in [
        StackProfile::SpecV1,
        StackProfile::BasicsModemV1,
        StackProfile::BasicsModemV2,
    ] {
        let mut options = options(Region::Eu868, 5, 0.05);
        options.fleet.stacks = Stacks::One(stack);
        let outcome = check::run(&options);
        assert_eq!(outcome.violations, [], "{stack:?}");
        let running = outcome
            .devices
            .iter()
            .filter(|d| d.state == DeviceState::Running);
        assert_eq!(running.count(), 6, "{stack:?}");
    }
}

#[test]
fn windows_begin_with_a_beacon_and_devices_sleep_in_between() {
    let mut scene = Scene::new(&options(Region::Eu868, 5, 0.0));
    let draft = scene.draft();
    scene.start(&draft).unwrap();
    assert!(scene.finish(&draft.id));
    let sessions = scene.world.sessions(&draft.id);
    for session in &sessions {
        assert_eq!(session.window.start.to_gps().seconds() % 128, 0);
        // A frame of 230 bytes may follow the other after 3.9 s in this sub-band: 32 slots a beacon period.
        assert_eq!(session.ping_slots.map(PingSlotPeriodicity::number), Some(2));
    }
    // Both gateways sent each frame at one instant: a device got it once, and from either.
    let overlaps = scene.world.lab(|lab| lab.counts().downlink_overlaps);
    assert_eq!(overlaps, 0);
}

#[test]
fn the_operator_sets_how_often_the_group_listens() {
    let mut scene = Scene::new(&options(Region::Eu868, 5, 0.0));
    let mut draft = scene.draft();
    draft.options.ping_slots = PingSlotPeriodicity::try_from(4).ok();
    scene.start(&draft).unwrap();
    assert!(scene.finish(&draft.id));
    let sessions = scene.world.sessions(&draft.id);
    assert!(
        sessions
            .iter()
            .all(|s| s.ping_slots.map(PingSlotPeriodicity::number) == Some(4))
    );
    let devices = scene.world.task_devices(&draft.id);
    assert!(devices.iter().all(|d| d.state == DeviceState::Running));
}

#[test]
fn without_a_gateway_that_sends_beacons_a_class_b_task_is_refused() {
    let mut options = options(Region::Eu868, 5, 0.0);
    options.gps = false;
    let mut scene = Scene::new(&options);
    let draft = scene.draft();
    let refused = format!("{:?}", scene.start(&draft).unwrap_err());
    assert!(refused.contains("device_class"), "{refused}");
}

#[test]
fn gateways_with_gps_send_class_c_frames_at_one_instant() {
    let together = CheckOptions {
        gps: true,
        ..CheckOptions::plain(FleetOptions {
            devices: 4,
            gateways: 3,
            loss: 0.0,
            ..FleetOptions::default()
        })
    };
    let outcome = check::run(&together);
    assert_eq!(outcome.violations, []);
    assert!(
        outcome
            .devices
            .iter()
            .all(|d| d.state == DeviceState::Running)
    );
}
