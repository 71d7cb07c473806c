//! Fragments to one device alone: class A sessions, and stragglers a group does not wait for. In virtual time.

use std::time::Duration;

use fuota_simulator::channel::Link;
use fuota_simulator::check::{self, CheckOptions};
use fuota_simulator::device::StackProfile;
use fuota_simulator::fleet::{FleetOptions, Stacks};
use fuota_simulator::scene::Scene;
use fuota_simulator::world::World;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::{
    CleanupState, DeviceClass, DeviceState, SessionPhase, Task, TaskState,
};

fn class_a(stack: StackProfile, loss: f64) -> CheckOptions {
    CheckOptions {
        class: DeviceClass::A,
        image_bytes: 1_500,
        ..CheckOptions::plain(FleetOptions {
            devices: 3,
            gateways: 2,
            loss,
            region: Region::Eu868,
            data_rate: 3,
            uplink_interval: Duration::from_secs(120),
            stacks: Stacks::One(stack),
            ..FleetOptions::default()
        })
    }
}

#[test]
fn class_a_devices_are_updated_one_by_one() {
    for stack in StackProfile::ALL {
        let outcome = check::run(&class_a(stack, 0.1));
        assert_eq!(outcome.violations, [], "{stack:?}");
        assert_eq!(outcome.task.state, TaskState::Completed, "{stack:?}");
        for device in &outcome.devices {
            assert_eq!(
                device.state,
                DeviceState::Running,
                "{stack:?}: {}",
                device.evidence
            );
            assert_eq!(
                device.group_cleanup,
                CleanupState::NotNeeded,
                "no group was set up"
            );
        }
        let counters = &outcome.task.counters;
        assert_eq!(
            counters.uncoded_frames + counters.coded_frames,
            0,
            "{stack:?}"
        );
    }
}

#[test]
fn a_class_a_session_sends_hardly_more_than_the_fragments() {
    let mut scene = Scene::new(&class_a(StackProfile::SpecV2, 0.0));
    let draft = scene.draft();
    scene.start(&draft).unwrap();
    assert!(scene.finish(&draft.id));
    let nb_frag = scene.world.sessions(&draft.id)[0].block.nb_frag;
    for device in scene.world.task_devices(&draft.id) {
        let alone = device.unicast.expect("it was sent to alone");
        assert_eq!((alone.uncoded_sent, alone.coded_sent), (nb_frag, 0));
    }
    let commands = 3 * 10;
    let most = 3 * u64::from(nb_frag) + commands;
    let sent = scene.world.task(&draft.id).unwrap().counters.unicast_frames;
    assert!(sent <= most, "{sent} frames, {most} allowed");
}

/// Four gateways with a device each, one of which is set up and then loses half of all downlinks.
fn straggler() -> (Scene, Task) {
    let options = CheckOptions {
        spread: true,
        image_bytes: 6_000,
        ..CheckOptions::plain(FleetOptions {
            devices: 4,
            gateways: 4,
            loss: 0.0,
            uplink_interval: Duration::from_secs(30),
            ..FleetOptions::default()
        })
    };
    let mut scene = Scene::new(&options);
    let draft = scene.draft();
    scene.start(&draft).unwrap();
    let ready = |world: &World| {
        let devices = world.task_devices(&draft.id);
        devices.len() == 4 && devices.iter().all(|d| d.state == DeviceState::Ready)
    };
    assert!(scene.world.run_until(Duration::from_secs(600), ready));
    let (gateway, device) = (scene.fleet.gateways[0], scene.fleet.devices[0].dev_eui);
    let lossy = Link {
        rssi_dbm: -110,
        snr_db: 0.0,
        uplink_loss: 0.0,
        downlink_loss: 0.5,
    };
    scene
        .world
        .lab_mut(|lab| lab.channel_mut().set_link(gateway, device, Some(lossy)));
    (scene, draft)
}

#[test]
fn only_gateways_of_those_who_need_it_send_a_round() {
    let (mut scene, draft) = straggler();
    assert!(scene.finish(&draft.id));
    let devices = scene.world.task_devices(&draft.id);
    assert!(devices.iter().all(|d| d.state == DeviceState::Running));
    let session = &scene.world.sessions(&draft.id)[0];
    assert!(session.round > 1, "{session:#?} {:#?}", devices[0]);
    let own = session.airtime_us[&scene.fleet.gateways[0]];
    for other in &scene.fleet.gateways[1..] {
        // The straggler's rounds are about as long as the first pass; the others had no part in them.
        let others = session.airtime_us[other];
        assert!(others * 3 < own * 2, "{others} {own}");
    }
    assert_eq!(session.phase, SessionPhase::Closed);
}
