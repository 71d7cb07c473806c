//! Retries, calendar, the moment of the reboot, reboots by the application and tags on success, in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use fuota_simulator::check::CheckOptions;
use fuota_simulator::device::StackProfile;
use fuota_simulator::fleet::{FleetOptions, Stacks};
use fuota_simulator::scene::Scene;
use fuota_simulator::world::Faults;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::record::{
    ApplicationReboot, Blackout, Calendar, DeviceReason, DeviceState, RebootMode, RetryPolicy,
    Task, TaskDevice, TaskReason, TaskState, ThresholdAction, Thresholds, WeeklyWindow,
};
use lorawan_fuota::time::Timestamp;

fn options(seed: u64) -> CheckOptions {
    CheckOptions {
        fleet: FleetOptions {
            seed,
            devices: 6,
            gateways: 1,
            loss: 0.05,
            uplink_interval: Duration::from_secs(20),
            ..FleetOptions::default()
        },
        image_bytes: 40_000,
        ..CheckOptions::default()
    }
}

fn scene(options: &CheckOptions, change: impl FnOnce(&mut Task, &Scene)) -> (Scene, Task) {
    let mut scene = Scene::new(options);
    let mut task = scene.draft();
    change(&mut task, &scene);
    // Whether a start was committed is not known after a crash.
    let started = scene.start(&task);
    assert!(started.is_ok() || options.faults != Faults::default());
    (scene, task)
}

fn all_running(scene: &mut Scene, task: &Task) -> Vec<TaskDevice> {
    assert!(scene.finish(&task.id));
    let outcome = scene.outcome(task);
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert_eq!(outcome.task.state, TaskState::Completed);
    for device in &outcome.devices {
        assert_eq!(device.state, DeviceState::Running, "{device:#?}");
    }
    outcome.devices
}

/// From now on the device is away, or back.
fn be_away(scene: &Scene, dev_eui: DevEui, away: bool) {
    let from = away.then(|| scene.world.now());
    scene
        .world
        .lab_mut(|lab| lab.change_device(dev_eui, |device| device.set_silent_from(from)));
}

fn until(scene: &mut Scene, task: &Task, reached: impl Fn(&[TaskDevice]) -> bool) {
    let id = task.id.clone();
    let day = Duration::from_secs(86_400);
    let found = scene
        .world
        .run_until(day, |w| reached(&w.task_devices(&id)));
    assert!(found, "{:#?}", scene.world.task_devices(&task.id));
}

#[test]
fn a_device_that_was_away_is_tried_again_before_the_task_ends() {
    for seed in 1..5 {
        let mut options = options(seed);
        options.faults.crash_after_commit = 0.005;
        options.faults.restart_after = Duration::from_secs(2);
        let (mut scene, task) = scene(&options, |task, _| {
            task.rules.retry = RetryPolicy {
                max_retries: 2,
                pause: Duration::from_secs(900),
                ..RetryPolicy::default()
            };
            task.thresholds = Thresholds {
                max_failed_count: Some(0),
                action: ThresholdAction::Abort,
                ..Thresholds::default()
            };
        });
        let away = scene.fleet.devices[2].dev_eui;
        until(&mut scene, &task, |devices| {
            let receives = |d: &TaskDevice| d.state == DeviceState::Receiving;
            devices.iter().any(|d| d.dev_eui == away && receives(d))
        });
        be_away(&scene, away, true);
        until(&mut scene, &task, |devices| {
            devices.iter().any(|d| d.retry_at.is_some())
        });
        let waits = scene.world.task_devices(&task.id);
        let waits = waits.iter().find(|d| d.retry_at.is_some()).unwrap();
        assert_eq!((waits.dev_eui, waits.retries), (away, 1));
        assert_eq!(waits.reason, Some(DeviceReason::NoAnswer));
        be_away(&scene, away, false);
        let devices = all_running(&mut scene, &task);
        let again = devices.iter().find(|d| d.dev_eui == away).unwrap();
        assert!(again.session > Some(0));
        assert!(again.retried_at.unwrap() >= waits.retry_at.unwrap());
        let others = devices.iter().filter(|d| d.dev_eui != away);
        assert!(others.into_iter().all(|d| d.retries == 0));
    }
}

#[test]
fn retries_are_bounded_and_only_for_the_reasons_named() {
    for (reasons, retries) in [
        (vec![], 2),
        (vec![DeviceReason::NoAnswer], 2),
        (vec![DeviceReason::MicError], 0),
    ] {
        let (mut scene, task) = scene(&options(3), |task, _| {
            task.rules.retry = RetryPolicy {
                max_retries: 2,
                pause: Duration::from_secs(60),
                reasons: reasons.iter().copied().collect(),
            };
        });
        let gone = scene.fleet.devices[0].dev_eui;
        until(&mut scene, &task, |devices| {
            devices.iter().all(|d| d.state == DeviceState::Receiving)
        });
        be_away(&scene, gone, true);
        assert!(scene.finish(&task.id));
        let ended = scene.world.task(&task.id).unwrap();
        assert_eq!(ended.state, TaskState::Completed);
        for device in scene.world.task_devices(&task.id) {
            if device.dev_eui == gone {
                assert_eq!(
                    (device.state, device.retries),
                    (DeviceState::Silent, retries)
                );
                assert_eq!(device.retry_at, None);
            } else {
                assert_eq!(device.state, DeviceState::Running, "{device:#?}");
            }
        }
    }
}

#[test]
fn a_task_is_cancelled_while_a_device_waits_to_be_tried_again() {
    let (mut scene, task) = scene(&options(4), |task, _| {
        task.rules.retry.max_retries = 1;
        task.rules.retry.pause = Duration::from_secs(3600);
    });
    let away = scene.fleet.devices[1].dev_eui;
    until(&mut scene, &task, |devices| {
        devices.iter().all(|d| d.state == DeviceState::Receiving)
    });
    be_away(&scene, away, true);
    until(&mut scene, &task, |devices| {
        devices.iter().any(|d| d.retry_at.is_some())
    });
    be_away(&scene, away, false);
    let cancel = lorawan_fuota::runtime::Command::CancelTask(task.id.clone());
    scene.world.command(&cancel).unwrap();
    assert!(scene.finish(&task.id));
    let ended = scene.world.task(&task.id).unwrap();
    assert_eq!(ended.reason, Some(TaskReason::Requested));
    let devices = scene.world.task_devices(&task.id);
    let device = devices.iter().find(|d| d.dev_eui == away).unwrap();
    assert_eq!(device.state, DeviceState::Cancelled);
    assert!(!device.is_uncleaned());
    assert!(scene.world.violations().is_empty());
}

#[test]
fn fragments_are_sent_in_the_windows_of_the_calendar_only() {
    for seed in 1..4 {
        // The world begins on a full hour: a minute of every half hour is allowed.
        let weekly: Vec<WeeklyWindow> = (0..48)
            .map(|half| WeeklyWindow {
                days: 0b111_1111,
                from_minute: half * 30 + 10,
                to_minute: half * 30 + 11,
            })
            .collect();
        let mut options = options(seed);
        options.image_bytes = 100_000;
        let (mut scene, task) = scene(&options, |task, scene| {
            let now = scene.world.now();
            task.rules.calendar = Calendar {
                weekly: weekly.clone(),
                blackouts: vec![Blackout {
                    from: now,
                    to: now + Duration::from_secs(3600),
                }],
                ..Calendar::default()
            };
        });
        let begun = scene.world.now();
        all_running(&mut scene, &task);
        let sessions = scene.world.sessions(&task.id);
        assert!(sessions.iter().any(|s| s.window.number > 0));
        let allowed = |at: Timestamp| {
            let minute = at.as_unix_seconds().rem_euclid(1800) / 60;
            minute == 10 && at >= begun + Duration::from_secs(3590)
        };
        scene.world.checkers(|c| {
            assert!(c.fragments().len() > 150);
            for fragment in c.fragments() {
                assert!(
                    allowed(fragment.at) && allowed(fragment.end),
                    "{fragment:?}"
                );
            }
        });
    }
}

#[test]
fn all_reboot_at_one_moment_and_get_their_tags() {
    let mut at = None;
    let (mut scene, task) = scene(&options(5), |task, scene| {
        let moment = (scene.world.now() + Duration::from_secs(7200)).ceil_gps_second();
        task.reboot = RebootMode::AtTime { at: moment };
        task.rules.tags_on_success = BTreeMap::from([("firmware".to_owned(), "2".to_owned())]);
        at = Some(moment);
    });
    let at = at.unwrap();
    let held = |d: &TaskDevice| d.state == DeviceState::Rebooting && d.reboot_at.is_some();
    until(&mut scene, &task, |devices| devices.iter().all(held));
    for device in scene.world.task_devices(&task.id) {
        let off = device.reboot_at.unwrap().micros_since(at).abs();
        assert!(off <= 2_000_000, "{device:#?}");
    }
    assert!(scene.world.now() < at);
    for device in all_running(&mut scene, &task) {
        assert!(device.entered[&DeviceState::Running] > at);
    }
    for device in &scene.fleet.devices {
        let tags = scene.world.settings(device.dev_eui).unwrap().tags;
        assert_eq!(tags["firmware"], "2");
    }
}

#[test]
fn who_is_ready_after_the_moment_reboots_at_once() {
    let (mut scene, task) = scene(&options(6), |task, scene| {
        let at = (scene.world.now() + Duration::from_secs(5)).ceil_gps_second();
        task.reboot = RebootMode::AtTime { at };
    });
    let begun = scene.world.now();
    all_running(&mut scene, &task);
    assert!(scene.world.now() < begun + Duration::from_secs(3600));
}

#[test]
fn the_application_of_devices_without_ts006_is_told_to_reboot_until_it_does() {
    for loss in [0.0, 0.3] {
        let mut options = options(7);
        options.fleet.stacks = Stacks::One(StackProfile::SpecV1);
        options.fleet.loss = loss;
        let (f_port, payload) = (42, vec![0xb0, 0x07]);
        let mut scene = Scene::with(&options, |device| {
            device.packages.firmware_management = false;
            device.firmware.installs_by_itself = false;
            device.firmware.reboots_on = Some((f_port, payload.clone()));
        });
        scene.change_profiles(|profile| {
            profile.packages.firmware_management = None;
            profile.version_source = Scene::version_in_uplinks();
            profile.application_reboot = Some(ApplicationReboot {
                f_port,
                payload: payload.clone(),
            });
        });
        let mut task = scene.draft();
        task.options.max_redundancy_percent = 400;
        scene.start(&task).unwrap();
        assert!(scene.finish(&task.id));
        for device in scene.world.task_devices(&task.id) {
            assert_eq!(device.state, DeviceState::Running, "{device:#?}");
            assert!(device.entered.contains_key(&DeviceState::Rebooting));
        }
        assert!(scene.world.violations().is_empty());
    }
}
