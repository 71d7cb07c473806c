//! Running tasks held, let go on, thinned out and cancelled, in virtual time: devices keep what they hold, and every
//! one of them ends.

use std::time::Duration;

use fuota_simulator::check::CheckOptions;
use fuota_simulator::fleet::FleetOptions;
use fuota_simulator::scene::Scene;
use lorawan_fuota::record::{CleanupState, DeviceState, Task, TaskState};
use lorawan_fuota::runtime::Command;

/// A fleet of ten, distributing slowly enough to be interrupted.
fn scene(seed: u64) -> (Scene, Task) {
    let options = CheckOptions {
        fleet: FleetOptions {
            seed,
            devices: 10,
            gateways: 1,
            uplink_interval: Duration::from_secs(20),
            ..FleetOptions::default()
        },
        image_bytes: 40_000,
        ..CheckOptions::default()
    };
    let mut scene = Scene::new(&options);
    let task = scene.draft();
    scene.start(&task).unwrap();
    (scene, task)
}

fn state(scene: &Scene, task: &Task) -> TaskState {
    scene.world.task(&task.id).unwrap().state
}

fn uncoded_sent(scene: &Scene, task: &Task) -> u16 {
    let sessions = scene.world.sessions(&task.id);
    sessions.iter().map(|s| s.uncoded_sent).sum()
}

/// Runs until so many uncoded fragments were released.
fn distribute(scene: &mut Scene, task: &Task, fragments: u16) {
    let id = task.id.clone();
    let reached = scene.world.run_until(Duration::from_secs(3600), |world| {
        let sessions = world.sessions(&id);
        sessions.iter().map(|s| s.uncoded_sent).sum::<u16>() >= fragments
    });
    assert!(reached);
}

fn assert_all_running(scene: &mut Scene, task: &Task) {
    assert!(scene.finish(&task.id));
    let outcome = scene.outcome(task);
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert_eq!(outcome.task.state, TaskState::Completed);
    for device in &outcome.devices {
        assert_eq!(device.state, DeviceState::Running, "{device:#?}");
    }
}

#[test]
fn a_held_task_sends_nothing_and_goes_on_where_it_was() {
    let (mut scene, task) = scene(1);
    distribute(&mut scene, &task, 60);
    scene
        .world
        .command(&Command::PauseTask(task.id.clone()))
        .unwrap();
    assert_eq!(state(&scene, &task), TaskState::Paused);
    // What was handed over before may still leave.
    scene.world.run_until(Duration::from_secs(2), |_| false);
    let (sent, downlinks) = (uncoded_sent(&scene, &task), fragments(&scene));
    scene.world.run_until(Duration::from_secs(20), |_| false);
    assert_eq!(
        (uncoded_sent(&scene, &task), fragments(&scene)),
        (sent, downlinks)
    );
    scene
        .world
        .command(&Command::ResumeTask(task.id.clone()))
        .unwrap();
    assert_eq!(state(&scene, &task), TaskState::Distributing);
    assert_all_running(&mut scene, &task);
}

fn fragments(scene: &Scene) -> usize {
    scene.world.checkers(|c| c.fragments().len())
}

#[test]
fn a_window_that_passed_while_held_is_announced_again_and_nothing_is_sent_twice() {
    for seed in 1..6 {
        let (mut scene, task) = scene(seed);
        distribute(&mut scene, &task, 100);
        let before = scene.world.task(&task.id).unwrap().deadline.unwrap();
        let window = scene.world.sessions(&task.id)[0].window;
        scene
            .world
            .command(&Command::PauseTask(task.id.clone()))
            .unwrap();
        let held = Duration::from_secs(6 * 3600);
        scene.world.run_until(held, |_| false);
        assert!(scene.world.now() > window.end());
        let count: Vec<u16> = scene
            .world
            .task_devices(&task.id)
            .iter()
            .map(|d| d.session_cnt)
            .collect();
        scene
            .world
            .command(&Command::ResumeTask(task.id.clone()))
            .unwrap();
        let moved = scene
            .world
            .task(&task.id)
            .unwrap()
            .deadline
            .unwrap()
            .since(before);
        assert!(
            moved >= held && moved < held + Duration::from_secs(60),
            "{moved:?}"
        );
        assert_all_running(&mut scene, &task);
        let sessions = scene.world.sessions(&task.id);
        assert_eq!(sessions.len(), 1, "nobody needed another session");
        assert!(sessions[0].window.number > window.number);
        // Another FragSessionSetupReq would have had another count, and erased what devices held.
        let after: Vec<u16> = scene
            .world
            .task_devices(&task.id)
            .iter()
            .map(|d| d.session_cnt)
            .collect();
        assert_eq!(count, after);
        let n = scene
            .world
            .checkers(|c| c.fragments().iter().map(|f| f.n).collect::<Vec<_>>());
        // The order of coded ones is chosen, and none goes out twice.
        let distinct: std::collections::BTreeSet<u16> = n.iter().copied().collect();
        assert_eq!(distinct.len(), n.len(), "a fragment was sent twice");
    }
}

#[test]
fn a_task_held_before_its_window_opens_sets_up_and_sends_afterwards() {
    for hours in [0, 1, 30] {
        let (mut scene, task) = scene(7);
        scene.world.run_until(Duration::from_secs(15), |_| false);
        scene
            .world
            .command(&Command::PauseTask(task.id.clone()))
            .unwrap();
        scene
            .world
            .run_until(Duration::from_secs(hours * 3600 + 5), |_| false);
        assert_eq!(fragments(&scene), 0);
        scene
            .world
            .command(&Command::ResumeTask(task.id.clone()))
            .unwrap();
        assert_all_running(&mut scene, &task);
    }
}

#[test]
fn a_task_held_at_its_end_completes_afterwards() {
    let (mut scene, task) = scene(8);
    let id = task.id.clone();
    scene.world.run_until(Duration::from_secs(3600), |world| {
        world
            .task_devices(&id)
            .iter()
            .any(|d| d.state == DeviceState::Rebooting)
    });
    scene
        .world
        .command(&Command::PauseTask(task.id.clone()))
        .unwrap();
    scene
        .world
        .run_until(Duration::from_secs(48 * 3600), |_| false);
    assert_eq!(state(&scene, &task), TaskState::Paused);
    scene
        .world
        .command(&Command::ResumeTask(task.id.clone()))
        .unwrap();
    assert_all_running(&mut scene, &task);
}

#[test]
fn devices_taken_out_end_and_are_cleaned_and_the_others_go_on() {
    let (mut scene, task) = scene(9);
    distribute(&mut scene, &task, 50);
    let out: Vec<_> = scene.fleet.devices[..3].iter().map(|d| d.dev_eui).collect();
    scene
        .world
        .command(&Command::RemoveTaskDevices(task.id.clone(), out.clone()))
        .unwrap();
    assert!(scene.finish(&task.id));
    for device in scene.world.task_devices(&task.id) {
        if out.contains(&device.dev_eui) {
            assert_eq!(device.state, DeviceState::Removed);
            assert_eq!(device.frag_cleanup, CleanupState::Confirmed, "{device:#?}");
            assert_eq!(device.group_cleanup, CleanupState::Confirmed);
            let groups = scene.world.lab(|lab| {
                lab.device(device.dev_eui)
                    .unwrap()
                    .mc_groups()
                    .iter()
                    .flatten()
                    .count()
            });
            assert_eq!(groups, 0);
        } else {
            assert_eq!(device.state, DeviceState::Running, "{device:#?}");
        }
    }
}

#[test]
fn a_held_task_can_be_cancelled_and_cleans_up() {
    let (mut scene, task) = scene(10);
    distribute(&mut scene, &task, 50);
    scene
        .world
        .command(&Command::PauseTask(task.id.clone()))
        .unwrap();
    scene.world.run_until(Duration::from_secs(600), |_| false);
    scene
        .world
        .command(&Command::CancelTask(task.id.clone()))
        .unwrap();
    assert!(scene.finish(&task.id));
    assert_eq!(state(&scene, &task), TaskState::Cancelled);
    for device in scene.world.task_devices(&task.id) {
        assert_eq!(device.state, DeviceState::Cancelled);
        // One that was never set up has nothing to be deleted.
        assert!(
            matches!(
                device.group_cleanup,
                CleanupState::Confirmed | CleanupState::NotNeeded
            ),
            "{device:#?}"
        );
    }
}
