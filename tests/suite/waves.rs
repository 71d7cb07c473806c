//! Waves, approval and thresholds in virtual time.

use std::time::Duration;

use fuota_simulator::check::CheckOptions;
use fuota_simulator::fleet::FleetOptions;
use fuota_simulator::scene::Scene;
use lorawan_fuota::record::{
    Approval, CleanupState, DeviceState, Task, TaskReason, TaskState, ThresholdAction, Thresholds,
    WavePolicy,
};
use lorawan_fuota::runtime::Command;

fn scene(seed: u64, change: impl FnOnce(&mut Task, &Scene)) -> (Scene, Task) {
    scene_with(seed, |_| {}, change)
}

/// A fleet of ten. `spoil` changes devices before they are switched on.
fn scene_with(
    seed: u64,
    spoil: impl FnMut(&mut fuota_simulator::device::DeviceConfig),
    change: impl FnOnce(&mut Task, &Scene),
) -> (Scene, Task) {
    let options = CheckOptions {
        fleet: FleetOptions {
            seed,
            devices: 10,
            gateways: 1,
            loss: 0.05,
            uplink_interval: Duration::from_secs(20),
            ..FleetOptions::default()
        },
        image_bytes: 8000,
        ..CheckOptions::default()
    };
    let mut scene = Scene::with(&options, spoil);
    let mut task = scene.draft();
    change(&mut task, &scene);
    scene.start(&task).unwrap();
    (scene, task)
}

fn run_until_held(scene: &mut Scene, task: &Task) -> Task {
    let id = task.id.clone();
    let held = scene.world.run_until(Duration::from_secs(86_400), |world| {
        let task = world.task(&id).unwrap();
        task.is_held() || task.state.is_terminal()
    });
    assert!(held);
    scene.world.task(&task.id).unwrap()
}

fn running(scene: &Scene, task: &Task) -> usize {
    let devices = scene.world.task_devices(&task.id);
    devices
        .iter()
        .filter(|d| d.state == DeviceState::Running)
        .count()
}

#[test]
fn waves_follow_each_other_and_update_all() {
    for seed in 1..4 {
        let (mut scene, task) = scene(seed, |task, scene| {
            task.waves = WavePolicy {
                canary: vec![scene.fleet.devices[4].dev_eui],
                cumulative_percent: vec![50],
                pause_between: Duration::from_secs(600),
                ..WavePolicy::default()
            };
        });
        assert!(scene.finish(&task.id));
        let outcome = scene.outcome(&task);
        assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
        assert_eq!(outcome.task.state, TaskState::Completed);
        assert_eq!(running(&scene, &task), 10);
        let waves = scene.world.waves(&task.id);
        let sizes: Vec<usize> = waves.iter().map(|wave| wave.devices.len()).collect();
        assert_eq!(sizes, [1, 4, 5]);
        for pair in waves.windows(2) {
            let pause = pair[1].started_at.unwrap().since(pair[0].ended_at.unwrap());
            assert!(pause >= Duration::from_secs(600), "{pause:?}");
        }
        // Nobody of a later wave was spoken to before it began.
        for wave in &waves {
            for dev_eui in &wave.devices {
                let devices = scene.world.task_devices(&task.id);
                let device = devices.iter().find(|d| d.dev_eui == *dev_eui).unwrap();
                assert!(device.entered[&DeviceState::Preparing] >= wave.started_at.unwrap());
            }
        }
    }
}

#[test]
fn a_wave_waits_for_its_approval_and_the_deadline_with_it() {
    let (mut scene, task) = scene(5, |task, _| {
        task.waves = WavePolicy {
            cumulative_percent: vec![20],
            approval: Approval::AfterFirst,
            ..WavePolicy::default()
        };
    });
    let held = run_until_held(&mut scene, &task);
    assert_eq!(held.state, TaskState::AwaitingApproval);
    assert_eq!(running(&scene, &task), 2);
    scene
        .world
        .run_until(Duration::from_secs(3 * 86_400), |_| false);
    assert_eq!(running(&scene, &task), 2);
    scene
        .world
        .command(&Command::ResumeTask(task.id.clone()))
        .unwrap();
    assert!(scene.finish(&task.id));
    assert_eq!(running(&scene, &task), 10);
    assert_eq!(
        scene.world.task(&task.id).unwrap().state,
        TaskState::Completed
    );
}

#[test]
fn holding_a_wave_does_not_approve_it() {
    let (mut scene, task) = scene(5, |task, _| {
        task.waves = WavePolicy {
            cumulative_percent: vec![20],
            approval: Approval::AfterFirst,
            ..WavePolicy::default()
        };
    });
    scene.world.run_until(Duration::from_secs(20), |_| false);
    for command in [
        Command::PauseTask(task.id.clone()),
        Command::ResumeTask(task.id.clone()),
    ] {
        scene.world.command(&command).unwrap();
    }
    let held = run_until_held(&mut scene, &task);
    assert_eq!(held.state, TaskState::AwaitingApproval);
    assert_eq!(running(&scene, &task), 2);
}

/// Devices whose image check rejects what they receive.
fn rejects(
    numbers: std::ops::Range<u64>,
) -> impl FnMut(&mut fuota_simulator::device::DeviceConfig) {
    move |device| {
        if numbers.contains(&(device.dev_eui.0 & 0xff)) {
            let other = lorawan_fuota::firmware::ed25519_public_key(&[7; 32]);
            device.firmware.check = fuota_simulator::device::ImageCheck::Ed25519(other);
        }
    }
}

#[test]
fn a_canary_that_fails_holds_the_task_before_the_others_are_touched() {
    let (mut scene, task) = scene_with(6, rejects(3..4), |task, scene| {
        task.waves.canary = vec![scene.fleet.devices[2].dev_eui];
        task.thresholds.min_succeeded_percent = Some(100);
    });
    let held = run_until_held(&mut scene, &task);
    assert_eq!(held.state, TaskState::Paused);
    assert_eq!(held.reason, Some(TaskReason::ThresholdCrossed));
    assert_eq!(held.reason_text, "0 of 1 devices of wave 1 succeeded");
    let devices = scene.world.task_devices(&task.id);
    let touched = devices.iter().filter(|d| d.state != DeviceState::Pending);
    assert_eq!(touched.count(), 1);
    // The operator knows better.
    scene
        .world
        .command(&Command::ResumeTask(task.id.clone()))
        .unwrap();
    assert!(scene.finish(&task.id));
    assert_eq!(running(&scene, &task), 9);
}

#[test]
fn too_many_failures_give_the_task_up_and_clean_its_devices() {
    let (mut scene, task) = scene_with(7, rejects(1..6), |task, _| {
        task.thresholds = Thresholds {
            max_failed_count: Some(1),
            action: ThresholdAction::Abort,
            ..Thresholds::default()
        };
    });
    assert!(scene.finish(&task.id));
    let ended = scene.world.task(&task.id).unwrap();
    assert_eq!(ended.state, TaskState::Failed);
    assert_eq!(ended.reason, Some(TaskReason::ThresholdCrossed));
    for device in scene.world.task_devices(&task.id) {
        assert_ne!(device.frag_cleanup, CleanupState::Pending, "{device:#?}");
        assert!(device.state.is_failure() || device.state == DeviceState::Running);
    }
}

#[test]
fn failures_that_were_accepted_do_not_count_again() {
    let (mut scene, task) = scene_with(8, rejects(1..4), |task, _| {
        task.thresholds = Thresholds {
            max_failed_percent: Some(10),
            min_ended: 1,
            ..Thresholds::default()
        };
    });
    let mut resumed = 0;
    while !run_until_held(&mut scene, &task).state.is_terminal() {
        resumed += 1;
        assert!(resumed <= 3, "each failure holds the task at most once");
        scene
            .world
            .command(&Command::ResumeTask(task.id.clone()))
            .unwrap();
    }
    assert!(resumed >= 1);
    assert_eq!(running(&scene, &task), 7);
}

#[test]
fn waves_survive_crashes() {
    for seed in 20..30 {
        let options = CheckOptions {
            fleet: FleetOptions {
                seed,
                devices: 6,
                gateways: 1,
                loss: 0.1,
                uplink_interval: Duration::from_secs(20),
                ..FleetOptions::default()
            },
            faults: fuota_simulator::world::Faults {
                crash_after_commit: 0.01,
                crash_before_commit: 0.01,
                commit_fails_late: 0.01,
                restart_after: Duration::from_secs(5),
                ..Default::default()
            },
            ..CheckOptions::default()
        };
        let mut scene = Scene::new(&options);
        let mut task = scene.draft();
        task.waves.cumulative_percent = vec![20, 60];
        // A commit of unknown fate may have started it already.
        let _ = scene.start(&task);
        assert!(scene.finish(&task.id), "seed {seed}");
        assert_eq!(running(&scene, &task), 6, "seed {seed}");
        let waves = scene.world.waves(&task.id);
        assert!(
            waves.iter().all(|wave| wave.ended_at.is_some()),
            "{waves:#?}"
        );
    }
}
