//! McGroupID and FragIndex across tasks, in virtual time: what one task left on devices is not in the way of the next.

use std::time::Duration;

use fuota_simulator::check::CheckOptions;
use fuota_simulator::fleet::FleetOptions;
use fuota_simulator::scene::Scene;
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::record::{CleanupState, DeviceState, Task, TaskId, TaskState};
use lorawan_fuota::runtime::Command;

/// A fleet of six whose first task was cancelled without time to clean up.
fn littered(seed: u64) -> (Scene, Task) {
    let options = CheckOptions {
        fleet: FleetOptions {
            seed,
            devices: 6,
            gateways: 1,
            uplink_interval: Duration::from_secs(20),
            ..FleetOptions::default()
        },
        image_bytes: 20_000,
        ..CheckOptions::default()
    };
    let mut scene = Scene::new(&options);
    let mut task = scene.draft();
    task.options.cleanup_within = Duration::ZERO;
    scene.start(&task).unwrap();
    let id = task.id.clone();
    assert!(scene.world.run_until(Duration::from_secs(3600), |world| {
        world.sessions(&id).iter().any(|s| s.uncoded_sent > 20)
    }));
    scene
        .world
        .command(&Command::CancelTask(task.id.clone()))
        .unwrap();
    assert!(scene.finish(&task.id));
    (scene, task)
}

#[test]
fn the_next_task_takes_numbers_that_are_free_on_all_devices() {
    for seed in 1..4 {
        let (mut scene, first) = littered(seed);
        let left = scene.world.task_devices(&first.id);
        assert!(left.iter().all(|d| d.group_cleanup == CleanupState::Left));
        let mut next = scene.draft();
        next.id = TaskId("next".to_owned());
        next.seed = Some(Key128::from_bytes([3; 16]));
        scene.start(&next).unwrap();
        assert!(scene.finish(&next.id));
        for session in scene.world.sessions(&next.id) {
            assert_eq!((session.mc_group_id, session.block.frag_index), (1, 1));
        }
        let outcome = scene.outcome(&next);
        assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
        assert_eq!(outcome.task.state, TaskState::Completed);
        for device in &outcome.devices {
            assert_eq!(device.state, DeviceState::Running, "{device:#?}");
        }
        // What the first one left is deleted when devices are heard again: nothing is on them in the end.
        scene.world.run_until(Duration::from_secs(3600), |_| false);
        scene.world.lab(|lab| {
            for device in lab.devices() {
                assert!(device.mc_groups().iter().all(Option::is_none));
                assert!((0..4).all(|index| device.decoder_progress(index).is_none()));
            }
        });
        assert!(scene.world.violations().is_empty());
    }
}
