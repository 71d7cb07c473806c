//! Multicast groups that one task leaves on devices and the next one goes on with, in virtual time.

use std::time::Duration;

use fuota_simulator::check::CheckOptions;
use fuota_simulator::checkers::Checker;
use fuota_simulator::device::EndDevice;
use fuota_simulator::fleet::FleetOptions;
use fuota_simulator::scene::Scene;
use fuota_simulator::world::Faults;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::{
    Change, CleanupState, DeviceState, McGroup, RebootMode, SuccessCriterion, Task, TaskId,
    TaskState, WavePolicy,
};
use lorawan_fuota::runtime::{Command, NewDevice};

fn scene_with(seed: u64, faults: Faults) -> Scene {
    Scene::new(&CheckOptions {
        fleet: FleetOptions {
            seed,
            devices: 6,
            gateways: 1,
            uplink_interval: Duration::from_secs(20),
            loss: 0.0,
            ..FleetOptions::default()
        },
        image_bytes: 6000,
        faults,
        ..CheckOptions::default()
    })
}

fn scene(seed: u64) -> Scene {
    scene_with(seed, Faults::default())
}

/// A task that keeps its groups, and has devices check the image without running it.
fn keeping(scene: &Scene, id: &str, seed: u8) -> Task {
    let mut task = scene.draft();
    task.id = TaskId(id.to_owned());
    task.seed = Some(Key128::from_bytes([seed; 16]));
    task.success = SuccessCriterion::Verified;
    task.reboot = RebootMode::None;
    task.options.keep_groups = true;
    task
}

/// A task that has devices run the image, and deletes its groups.
fn updating(scene: &Scene, id: &str, seed: u8) -> Task {
    let mut task = scene.draft();
    task.id = TaskId(id.to_owned());
    task.seed = Some(Key128::from_bytes([seed; 16]));
    task
}

fn devices(scene: &Scene, which: std::ops::Range<usize>) -> Vec<DevEui> {
    let fleet = &scene.fleet.devices;
    which.map(|at| fleet[at].dev_eui).collect()
}

/// How often each device was told to set a group up. Uplinks collide now and then, and what was lost is repeated.
fn set_ups(scene: &Scene) -> Vec<usize> {
    scene.world.lab(|lab| {
        let count = |device: &EndDevice| {
            let log = device.log().iter();
            log.filter(|(_, what)| what.contains(" set up as ")).count()
        };
        lab.devices().map(count).collect()
    })
}

/// Which devices were told to since then.
fn set_up_since(scene: &Scene, before: &[usize]) -> Vec<usize> {
    let now = set_ups(scene);
    (0..now.len()).filter(|at| now[*at] > before[*at]).collect()
}

fn groups(scene: &Scene) -> Vec<McGroup> {
    scene.world.records().mc_groups
}

/// The one group that is kept.
fn kept(scene: &Scene) -> McGroup {
    let groups = groups(scene);
    assert_eq!(groups.len(), 1, "{groups:#?}");
    assert!(groups[0].kept.is_some());
    groups[0].clone()
}

/// Runs a task that leaves the group of its one session on all devices; `None` if one was late and got another.
fn leave(scene: &mut Scene, task: &Task) -> Option<McGroup> {
    scene.start(task).unwrap();
    assert!(scene.finish(&task.id));
    if scene.world.sessions(&task.id).len() > 1 {
        return None;
    }
    for device in scene.world.task_devices(&task.id) {
        assert_eq!(device.group_cleanup, CleanupState::Kept, "{device:#?}");
        assert_eq!(device.frag_cleanup, CleanupState::Confirmed);
    }
    let group = kept(scene);
    assert_eq!(group.kept.unwrap().holders, 6);
    Some(group)
}

/// A world in which a task has left its group on all devices.
fn left(seed: u64) -> (Scene, Task, McGroup) {
    let tries = (0..20).find_map(|number| {
        let mut scene = scene(100 * seed + number);
        let first = keeping(&scene, "first", 1);
        let group = leave(&mut scene, &first)?;
        Some((scene, first, group))
    });
    tries.unwrap()
}

fn assert_updated(scene: &mut Scene, task: &Task) {
    let outcome = scene.outcome(task);
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert_eq!(outcome.task.state, TaskState::Completed);
    for device in &outcome.devices {
        assert_eq!(device.state, DeviceState::Running, "{device:#?}");
    }
}

/// Nothing is left anywhere once devices have been heard again.
fn assert_clean(scene: &mut Scene) {
    scene.world.run_until(Duration::from_secs(1200), |_| false);
    assert!(groups(scene).is_empty(), "{:#?}", groups(scene));
    for device in scene.world.records().devices {
        assert!(device.status.mc_slots.iter().all(Option::is_none));
    }
    scene.world.lab(|lab| {
        for device in lab.devices() {
            assert!(device.mc_groups().iter().all(Option::is_none));
        }
    });
    assert!(scene.world.violations().is_empty());
}

#[test]
fn the_next_task_goes_on_with_the_group_and_its_counter() {
    for seed in 1..4 {
        let (mut scene, _, group) = left(seed);
        let before = set_ups(&scene);
        assert!(group.next_mc_f_cnt > 20);
        // What is kept outlives the server.
        scene.world.kill(Duration::from_secs(5));
        scene.world.run_until(Duration::from_secs(600), |_| false);
        assert_eq!(kept(&scene), group);

        let second = updating(&scene, "second", 2);
        scene.start(&second).unwrap();
        let taken = groups(&scene);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].session.task, second.id);
        assert_eq!(
            (taken[0].mc_addr, &taken[0].mc_key, taken[0].next_mc_f_cnt),
            (group.mc_addr, &group.mc_key, group.next_mc_f_cnt)
        );
        // The key is not made from the seed of this task: a restart finds it again.
        scene.world.kill(Duration::from_secs(5));
        assert!(scene.finish(&second.id));
        assert!(set_up_since(&scene, &before).is_empty());
        let session = &scene.world.sessions(&second.id)[0];
        let reused = session.group_use.reused.clone().unwrap();
        assert_eq!(reused.from, group.session);
        assert_eq!(reused.first_mc_f_cnt, group.next_mc_f_cnt);
        assert_updated(&mut scene, &second);
        assert_clean(&mut scene);
    }
}

#[test]
fn a_group_is_handed_on_as_often_as_tasks_keep_it() {
    let (mut scene, _, group) = left(4);
    let (key, mut counter) = (group.mc_key, group.next_mc_f_cnt);
    let before = set_ups(&scene);
    for number in 0..2 {
        let task = keeping(&scene, &format!("task-{number}"), number);
        let group = leave(&mut scene, &task).unwrap();
        assert_eq!(group.mc_key, key);
        assert!(group.next_mc_f_cnt > counter);
        counter = group.next_mc_f_cnt;
    }
    // One that waits in the queue behind a task that keeps the group has it at once when it ends.
    let third = keeping(&scene, "third", 8);
    let last = updating(&scene, "last", 9);
    scene.start(&third).unwrap();
    scene.queue_for(&last, devices(&scene, 0..6)).unwrap();
    assert!(scene.finish(&last.id));
    assert!(set_up_since(&scene, &before).is_empty());
    assert_updated(&mut scene, &last);
    assert_clean(&mut scene);
}

#[test]
fn a_device_that_lost_the_group_is_given_it_again_without_its_old_frames() {
    let (mut scene, _, group) = left(5);
    let before = set_ups(&scene);
    let now = scene.world.now();
    for dev_eui in devices(&scene, 0..2) {
        scene
            .world
            .lab_mut(|lab| lab.change_device(dev_eui, |device| device.reset(now)));
    }
    scene.world.run_until(Duration::from_secs(120), |_| false);
    let second = keeping(&scene, "second", 2);
    leave(&mut scene, &second).unwrap();
    assert_eq!(set_up_since(&scene, &before), [0, 1]);
    scene.world.lab(|lab| {
        for device in lab.devices() {
            let held = device.mc_groups()[0].as_ref().unwrap();
            let again = devices(&scene, 0..2).contains(&device.dev_eui());
            let least = if again { group.next_mc_f_cnt } else { 0 };
            assert_eq!((held.mc_addr, held.min_mc_f_cnt), (group.mc_addr, least));
        }
    });
    // It is as good a group as before.
    let before = set_ups(&scene);
    let third = updating(&scene, "third", 3);
    scene.start(&third).unwrap();
    assert!(scene.finish(&third.id));
    assert!(set_up_since(&scene, &before).is_empty());
    assert_updated(&mut scene, &third);
    assert_clean(&mut scene);
}

#[test]
fn other_devices_get_another_key() {
    for which in [0..5, 1..6] {
        let (mut scene, _, group) = left(6);
        let before = set_ups(&scene);
        let second = updating(&scene, "second", 2);
        let some: Vec<usize> = which.clone().collect();
        scene.start_for(&second, devices(&scene, which)).unwrap();
        let fresh = groups(&scene);
        let fresh = fresh.iter().find(|g| g.session.task == second.id).unwrap();
        assert_ne!(fresh.mc_key, group.mc_key);
        assert_eq!(fresh.next_mc_f_cnt, 0);
        assert!(scene.finish(&second.id));
        assert_eq!(set_up_since(&scene, &before), some);
        assert_updated(&mut scene, &second);
        // The first group is still on all of them, under a number of its own, if reboots have not taken it: it can be
        // had by a task of all.
        assert_eq!(kept(&scene).mc_key, group.mc_key);
    }
}

#[test]
fn who_is_taken_out_of_the_registry_takes_the_group_with_it() {
    let (mut scene, _, group) = left(7);
    let gone = devices(&scene, 0..1)[0];
    scene.world.command(&Command::DeleteDevice(gone)).unwrap();
    // Nobody can have it any more: it is forgotten, and deleted from the others.
    assert!(groups(&scene).is_empty());
    let second = updating(&scene, "second", 2);
    scene.start_for(&second, devices(&scene, 1..6)).unwrap();
    assert_ne!(groups(&scene)[0].mc_key, group.mc_key);
    assert!(scene.finish(&second.id));
    assert_updated(&mut scene, &second);
    scene.world.run_until(Duration::from_secs(600), |_| false);
    for device in scene.world.records().devices {
        assert!(device.status.mc_slots.iter().all(Option::is_none));
    }
}

#[test]
fn a_device_with_other_keys_is_another_device() {
    let (mut scene, ..) = left(8);
    let records = scene.world.records();
    let same = |changed: bool| {
        let mut keys = records.keys[0].clone();
        if changed {
            let key = Key128::from_bytes([7; 16]);
            keys.multicast = lorawan_fuota::record::MulticastKeys::Root {
                key,
                derivation: lorawan_fuota::lorawan::keys::KeyDerivation::GenAppKey,
            };
        }
        Command::PutDevices(vec![NewDevice {
            settings: records.devices[0].settings.clone(),
            keys: Some(keys),
            join: None,
            session: None,
            versions: None,
        }])
    };
    scene.world.command(&same(false)).unwrap();
    kept(&scene);
    scene.world.command(&same(true)).unwrap();
    assert!(groups(&scene).is_empty());
    assert_clean(&mut scene);
}

#[test]
fn one_device_that_leaves_the_task_spoils_the_group_for_all() {
    for late in [false, true] {
        let mut scene = scene(9);
        let mut first = keeping(&scene, "first", 1);
        if late {
            // One is told to go when the others have succeeded and were let go with their group.
            first.waves = WavePolicy {
                canary: devices(&scene, 0..3),
                pause_between: Duration::from_secs(1800),
                ..WavePolicy::default()
            };
        }
        scene.start(&first).unwrap();
        let id = first.id.clone();
        let out = devices(&scene, 4..6);
        assert!(scene.world.run_until(Duration::from_secs(7200), |world| {
            let devices = world.task_devices(&id);
            let mut leaving = devices.iter().filter(|d| out.contains(&d.dev_eui));
            leaving.all(|d| d.setup.group)
        }));
        scene
            .world
            .command(&Command::RemoveTaskDevices(first.id.clone(), out.clone()))
            .unwrap();
        assert!(scene.finish(&first.id));
        for device in scene.world.task_devices(&first.id) {
            let canary = devices(&scene, 0..3).contains(&device.dev_eui);
            if canary && late {
                assert_eq!(device.group_cleanup, CleanupState::Kept, "{device:#?}");
            } else {
                assert_ne!(device.group_cleanup, CleanupState::Kept, "{device:#?}");
                assert_ne!(device.group_cleanup, CleanupState::Pending);
            }
        }
        if late {
            assert_eq!(kept(&scene).kept.unwrap().holders, 3);
            let second = updating(&scene, "second", 2);
            scene.start_for(&second, devices(&scene, 0..3)).unwrap();
            assert_eq!(groups(&scene).len(), 1);
            assert!(scene.finish(&second.id));
            assert_updated(&mut scene, &second);
        }
        assert_clean(&mut scene);
    }
}

#[test]
fn a_counter_that_has_no_room_for_the_session_ends_the_group() {
    for (next_mc_f_cnt, reused) in [(63_500, true), (63_950, false)] {
        let (mut scene, _, group) = left(10);
        let before = set_ups(&scene);
        let worn = McGroup {
            next_mc_f_cnt,
            ..group
        };
        scene.world.commit(&[Change::PutMcGroup(worn)]);
        scene.world.kill(Duration::from_secs(1));
        scene.world.run_until(Duration::from_secs(120), |_| false);
        let second = updating(&scene, "second", 2);
        scene.start(&second).unwrap();
        assert!(scene.finish(&second.id));
        assert_eq!(set_up_since(&scene, &before).is_empty(), reused);
        assert_updated(&mut scene, &second);
    }
}

#[test]
fn a_group_that_reboots_take_is_not_kept() {
    let mut scene = scene(11);
    let mut task = updating(&scene, "first", 1);
    task.options.keep_groups = true;
    scene.start(&task).unwrap();
    assert!(scene.finish(&task.id));
    assert_updated(&mut scene, &task);
    for device in scene.world.task_devices(&task.id) {
        assert_eq!(device.group_cleanup, CleanupState::Confirmed, "{device:#?}");
    }
    assert_clean(&mut scene);
}

#[test]
fn a_cancelled_task_keeps_nothing() {
    let mut scene = scene(12);
    let task = keeping(&scene, "first", 1);
    scene.start(&task).unwrap();
    let id = task.id.clone();
    assert!(scene.world.run_until(Duration::from_secs(3600), |world| {
        let sessions = world.sessions(&id);
        sessions.iter().any(|s| s.uncoded_sent > 10)
    }));
    scene.world.command(&Command::CancelTask(id)).unwrap();
    assert!(scene.finish(&task.id));
    assert_clean(&mut scene);

    // And so does one that goes on with a group of another.
    let (mut scene, ..) = left(12);
    let second = keeping(&scene, "second", 3);
    scene.start(&second).unwrap();
    scene
        .world
        .command(&Command::CancelTask(second.id.clone()))
        .unwrap();
    assert!(scene.finish(&second.id));
    assert_clean(&mut scene);
}

#[test]
fn a_task_with_the_name_of_a_deleted_one_is_not_taken_for_it() {
    let (mut scene, first, group) = left(13);
    scene.world.commit(&[Change::DeleteTask(first.id)]);
    let again = updating(&scene, "first", 2);
    scene.start(&again).unwrap();
    assert_ne!(groups(&scene)[0].mc_key, group.mc_key);
    assert!(scene.finish(&again.id));
    for device in scene.world.task_devices(&again.id) {
        assert_eq!(device.state, DeviceState::Running, "{device:#?}");
    }
    // Checkers of progress take the new task for the old one.
    let violations = scene.world.violations();
    let keys = [Checker::Counters, Checker::Keys, Checker::Errors];
    assert!(
        !violations.iter().any(|v| keys.contains(&v.checker)),
        "{violations:#?}"
    );
    scene.world.run_until(Duration::from_secs(1200), |_| false);
    assert!(groups(&scene).is_empty());
}

#[test]
fn a_group_of_a_deleted_task_is_cleared_after_a_restart() {
    let (mut scene, first, _) = left(14);
    scene.world.commit(&[Change::DeleteTask(first.id)]);
    scene.world.kill(Duration::from_secs(5));
    assert_clean(&mut scene);
}

#[test]
fn in_class_b_as_well() {
    let options = CheckOptions {
        fleet: FleetOptions {
            seed: 15,
            devices: 3,
            gateways: 1,
            region: Region::Eu868,
            data_rate: 5,
            uplink_interval: Duration::from_secs(30),
            loss: 0.0,
            ..FleetOptions::default()
        },
        image_bytes: 3000,
        class: lorawan_fuota::record::DeviceClass::B,
        gps: true,
        ..CheckOptions::default()
    };
    let mut scene = Scene::new(&options);
    let first = keeping(&scene, "first", 1);
    scene.start(&first).unwrap();
    assert!(scene.finish(&first.id));
    assert_eq!(kept(&scene).kept.unwrap().holders, 3);
    let before = set_ups(&scene);
    let second = updating(&scene, "second", 2);
    scene.start(&second).unwrap();
    assert!(scene.finish(&second.id));
    assert!(set_up_since(&scene, &before).is_empty());
    assert_updated(&mut scene, &second);
    assert_clean(&mut scene);
}

#[test]
fn counters_never_go_back_whatever_the_server_lives_through() {
    let mut reused = 0;
    for seed in 1..9 {
        let mut scene = scene_with(
            seed,
            Faults {
                commit_fails: 0.01,
                commit_fails_late: 0.02,
                crash_before_commit: 0.01,
                crash_after_commit: 0.02,
                restart_after: Duration::from_secs(2),
                ..Faults::default()
            },
        );
        // Whether a start was committed is not known after a crash: the task says.
        for number in 0..3 {
            let task = keeping(&scene, &format!("task-{number}"), number);
            let _ = scene.start(&task);
            assert!(scene.finish(&task.id), "seed {seed}");
            let sessions = scene.world.sessions(&task.id);
            let from_before = sessions.iter().filter(|s| s.group_use.reused.is_some());
            reused += from_before.count();
        }
        let last = updating(&scene, "last", 9);
        let _ = scene.start(&last);
        assert!(scene.finish(&last.id));
        let outcome = scene.outcome(&last);
        assert!(outcome.crashes > 0);
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}: {:#?}",
            outcome.violations
        );
        for device in &outcome.devices {
            assert_eq!(
                device.state,
                DeviceState::Running,
                "seed {seed}: {device:#?}"
            );
        }
    }
    assert!(reused >= 8, "only {reused} sessions went on with a group");
}

#[test]
fn random_worlds_with_a_task_before_go_on_with_its_groups() {
    let worlds = (0..400).map(CheckOptions::of_seed);
    let worlds: Vec<CheckOptions> = worlds.filter(|world| world.kept_groups).collect();
    let went_on = |options: &&CheckOptions| {
        let mut scene = Scene::new(options);
        scene.leave_groups().unwrap();
        let draft = scene.draft();
        // Whether a start was committed is not known after a crash.
        let _ = scene.start(&draft);
        assert!(scene.finish(&draft.id));
        let sessions = scene.world.sessions(&draft.id);
        sessions.iter().any(|s| s.group_use.reused.is_some())
    };
    let reused = worlds.iter().filter(went_on).count();
    assert!(reused * 5 >= worlds.len(), "{reused} of {}", worlds.len());
}
