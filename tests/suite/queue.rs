//! Tasks that wait for devices of other tasks, in virtual time.

use std::time::Duration;

use fuota_simulator::check::CheckOptions;
use fuota_simulator::fleet::FleetOptions;
use fuota_simulator::scene::Scene;
use fuota_simulator::world::Faults;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::record::{
    DeviceReason, DeviceState, RebootMode, SuccessCriterion, Task, TaskId, TaskReason, TaskState,
    WavePolicy,
};
use lorawan_fuota::runtime::{Command, CommandError};

fn scene(seed: u64, faults: Faults) -> Scene {
    Scene::new(&CheckOptions {
        fleet: FleetOptions {
            seed,
            devices: 8,
            gateways: 1,
            uplink_interval: Duration::from_secs(20),
            ..FleetOptions::default()
        },
        image_bytes: 8000,
        faults,
        ..CheckOptions::default()
    })
}

/// A task that brings devices the image and does not let them run it, so that another one has something to do.
fn first(scene: &Scene) -> Task {
    let mut task = scene.draft();
    task.success = SuccessCriterion::Verified;
    task.reboot = RebootMode::None;
    task
}

fn another(scene: &Scene, id: &str, seed: u8) -> Task {
    let mut task = scene.draft();
    task.id = TaskId(id.to_owned());
    task.seed = Some(Key128::from_bytes([seed; 16]));
    task
}

fn devices(scene: &Scene, which: std::ops::Range<usize>) -> Vec<DevEui> {
    let fleet = &scene.fleet.devices;
    which.map(|at| fleet[at].dev_eui).collect()
}

#[test]
fn a_queued_task_begins_by_itself_in_its_turn_whatever_the_server_lives_through() {
    for seed in 1..5 {
        let mut scene = scene(
            seed,
            Faults {
                crash_before_commit: 0.01,
                crash_after_commit: 0.01,
                commit_fails_late: 0.01,
                restart_after: Duration::from_secs(2),
                ..Faults::default()
            },
        );
        let running = first(&scene);
        // Whether a start was committed is not known after a crash: a conflict says that it was.
        let _ = scene.start(&running);
        let mut second = first(&scene);
        second.id = TaskId("second".to_owned());
        second.seed = Some(Key128::from_bytes([1; 16]));
        let third = another(&scene, "third", 2);
        let _ = scene.queue_for(&second, devices(&scene, 0..5));
        let _ = scene.queue_for(&third, devices(&scene, 3..8));
        for waiting in [&second, &third] {
            let task = scene.world.task(&waiting.id).unwrap();
            assert_eq!(task.state, TaskState::Scheduled);
            assert_eq!(task.reason, Some(TaskReason::WaitsForDevices));
        }
        for task in [&running, &second, &third] {
            assert!(scene.finish(&task.id), "{:?}", task.id);
        }
        let [a, b, c] = [&running, &second, &third].map(|t| scene.world.task(&t.id).unwrap());
        assert!(a.started_at < b.started_at && b.started_at < c.started_at);
        for (task, count) in [(&second, 5), (&third, 5)] {
            let ended = scene.world.task_devices(&task.id);
            assert_eq!(ended.len(), count);
        }
        let outcome = scene.outcome(&third);
        assert!(outcome.crashes > 0);
        assert_eq!(outcome.task.state, TaskState::Completed);
        for device in &outcome.devices {
            assert_eq!(device.state, DeviceState::Running, "{device:#?}");
        }
    }
}

#[test]
fn without_asking_for_the_queue_the_second_task_is_refused() {
    let mut scene = scene(1, Faults::default());
    let running = first(&scene);
    scene.start(&running).unwrap();
    let second = another(&scene, "second", 1);
    let refused = scene.start_for(&second, devices(&scene, 0..2));
    assert!(matches!(refused, Err(CommandError::Conflict(_))));
    scene.queue_for(&second, devices(&scene, 0..2)).unwrap();
    // Who waits is not overtaken by who does not.
    scene
        .world
        .command(&Command::RemoveTaskDevices(
            running.id.clone(),
            devices(&scene, 7..8),
        ))
        .unwrap();
    let third = another(&scene, "third", 2);
    let refused = scene.start_for(&third, devices(&scene, 1..2));
    assert!(matches!(refused, Err(CommandError::Conflict(_))));
}

#[test]
fn a_waiting_task_can_be_held_thinned_out_and_cancelled() {
    let mut scene = scene(2, Faults::default());
    let running = first(&scene);
    scene.start(&running).unwrap();
    let second = another(&scene, "second", 1);
    scene.queue_for(&second, devices(&scene, 0..4)).unwrap();
    let third = another(&scene, "third", 2);
    scene.queue_for(&third, devices(&scene, 4..8)).unwrap();
    let out = devices(&scene, 0..1);
    for command in [
        Command::PauseTask(second.id.clone()),
        Command::RemoveTaskDevices(second.id.clone(), out.clone()),
        Command::CancelTask(third.id.clone()),
    ] {
        scene.world.command(&command).unwrap();
    }
    let cancelled = scene.world.task(&third.id).unwrap();
    assert_eq!(cancelled.state, TaskState::Cancelled);
    let ended = scene.world.task_devices(&third.id);
    assert!(ended.iter().all(|d| d.state == DeviceState::Cancelled));
    assert!(scene.finish(&running.id));
    scene.world.run_until(Duration::from_secs(600), |_| false);
    // Held, it does not begin although its devices are free.
    let held = scene.world.task(&second.id).unwrap();
    assert_eq!(held.state, TaskState::Paused);
    scene
        .world
        .command(&Command::ResumeTask(second.id.clone()))
        .unwrap();
    assert!(scene.finish(&second.id));
    for device in scene.world.task_devices(&second.id) {
        let expected = if device.dev_eui == out[0] {
            DeviceState::Removed
        } else {
            DeviceState::Running
        };
        assert_eq!(device.state, expected, "{device:#?}");
    }
}

#[test]
fn a_task_with_nothing_left_to_do_or_no_time_left_ends() {
    let mut scene = scene(3, Faults::default());
    let running = scene.draft();
    scene.start(&running).unwrap();
    let second = another(&scene, "second", 1);
    scene.queue_for(&second, devices(&scene, 0..4)).unwrap();
    let mut third = another(&scene, "third", 2);
    third.deadline = Some(scene.world.now() + Duration::from_secs(2000));
    third.prepare_after = Some(scene.world.now() + Duration::from_secs(1));
    scene.queue_for(&third, devices(&scene, 4..8)).unwrap();
    scene
        .world
        .command(&Command::PauseTask(running.id.clone()))
        .unwrap();
    assert!(scene.finish(&third.id));
    let late = scene.world.task(&third.id).unwrap();
    assert_eq!(late.state, TaskState::Failed);
    assert_eq!(late.reason, Some(TaskReason::DeadlinePassed));
    scene
        .world
        .command(&Command::ResumeTask(running.id.clone()))
        .unwrap();
    assert!(scene.finish(&running.id));
    assert!(scene.finish(&second.id));
    let done = scene.world.task(&second.id).unwrap();
    assert_eq!(
        (done.state, done.reason),
        (TaskState::Completed, Some(TaskReason::NoDevices))
    );
    for device in scene.world.task_devices(&second.id) {
        assert_eq!(device.state, DeviceState::Skipped);
        assert_eq!(device.reason, Some(DeviceReason::AlreadyCurrent));
    }
}

#[test]
fn a_device_that_is_done_and_clean_is_free_although_its_task_runs_on() {
    let mut scene = scene(4, Faults::default());
    let mut running = first(&scene);
    running.waves = WavePolicy {
        canary: devices(&scene, 0..3),
        pause_between: Duration::from_secs(6 * 3600),
        ..WavePolicy::default()
    };
    scene.start(&running).unwrap();
    let second = another(&scene, "second", 1);
    scene.queue_for(&second, devices(&scene, 0..3)).unwrap();
    assert!(scene.finish(&second.id));
    let still = scene.world.task(&running.id).unwrap();
    assert!(!still.state.is_terminal(), "{still:#?}");
    for device in scene.world.task_devices(&second.id) {
        assert_eq!(device.state, DeviceState::Running, "{device:#?}");
    }
    assert!(scene.finish(&running.id));
    let outcome = scene.outcome(&running);
    assert!(
        outcome
            .devices
            .iter()
            .all(|d| d.state == DeviceState::Verified)
    );
}
