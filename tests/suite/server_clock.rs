//! A server whose clock disagrees with the GPS time of its gateways opens no window, says so, and goes on when it is
//! right.

use std::time::Duration;

use fuota_simulator::check::CheckOptions;
use fuota_simulator::fleet::FleetOptions;
use fuota_simulator::scene::Scene;
use lorawan_fuota::record::{
    DeviceState, RebootMode, SessionPhase, SuccessCriterion, Task, TaskId, TaskReason, TaskState,
};
use lorawan_fuota::runtime::CommandError;
use lorawan_fuota::task::{PlanError, PlanRefusal};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND_US: i64 = 1_000_000;

fn scene(seed: u64) -> Scene {
    Scene::new(&CheckOptions {
        fleet: FleetOptions {
            seed,
            devices: 4,
            gateways: 2,
            uplink_interval: Duration::from_secs(20),
            ..FleetOptions::default()
        },
        image_bytes: 4000,
        gps: true,
        window_after: Some(Duration::from_secs(600)),
        ..CheckOptions::default()
    })
}

fn reason(scene: &Scene, id: &TaskId) -> Option<TaskReason> {
    scene.world.task(id).and_then(|task| task.reason)
}

/// Lets gateways tell their time for a while.
fn listen(scene: &mut Scene) {
    scene.world.run_until(Duration::from_secs(120), |_| false);
}

fn assert_updated(scene: &mut Scene, draft: &Task) {
    assert!(scene.finish(&draft.id));
    assert_eq!(
        scene.world.task(&draft.id).unwrap().state,
        TaskState::Completed
    );
    for device in scene.world.task_devices(&draft.id) {
        assert_eq!(device.state, DeviceState::Running, "{device:#?}");
    }
}

#[test]
fn no_task_begins_by_a_wrong_clock() {
    let mut scene = scene(1);
    scene.world.set_server_clock(9 * SECOND_US);
    listen(&mut scene);
    let draft = scene.draft();
    let Err(CommandError::Plan(PlanError::Refused {
        refusal, message, ..
    })) = scene.start(&draft)
    else {
        panic!("started");
    };
    assert_eq!(refusal, PlanRefusal::ClockDisagrees);
    // Messages take a while to arrive, which cannot be told from a clock that is ahead.
    assert!(
        message.contains("9.") && message.contains("ahead of the GPS time"),
        "{message}"
    );
}

#[test]
fn a_clock_a_little_off_is_none_of_our_business() {
    let mut scene = scene(2);
    scene.world.set_server_clock(2 * SECOND_US);
    listen(&mut scene);
    let draft = scene.draft();
    scene.start(&draft).unwrap();
    assert_updated(&mut scene, &draft);
}

#[test]
fn a_window_waits_for_the_right_time() {
    let mut scene = scene(3);
    listen(&mut scene);
    let draft = scene.draft();
    scene.start(&draft).unwrap();
    scene.world.run_until(Duration::from_secs(300), |_| false);
    let fragments = |scene: &Scene| scene.world.task(&draft.id).unwrap().counters.uncoded_frames;
    scene.world.set_server_clock(30 * SECOND_US);
    let held = |id: &TaskId| {
        let id = id.clone();
        move |world: &fuota_simulator::world::World| {
            world.task(&id).unwrap().reason == Some(TaskReason::ClockDisagrees)
        }
    };
    assert!(scene.world.run_until(HOUR, held(&draft.id)));
    scene.world.run_until(Duration::from_secs(60), |_| false);
    assert_eq!(fragments(&scene), 0);
    assert_eq!(reason(&scene, &draft.id), Some(TaskReason::ClockDisagrees));
    let waiting = scene.world.sessions(&draft.id);
    assert!(waiting.iter().all(|s| s.phase == SessionPhase::Preparing));
    // The operator mends the clock and starts the server again.
    scene.world.kill(Duration::from_secs(5));
    scene.world.set_server_clock(0);
    assert_updated(&mut scene, &draft);
    assert_eq!(reason(&scene, &draft.id), None);
}

#[test]
fn a_task_in_the_queue_keeps_its_place() {
    let mut scene = scene(4);
    listen(&mut scene);
    let mut first = scene.draft();
    first.success = SuccessCriterion::Verified;
    first.reboot = RebootMode::None;
    scene.start(&first).unwrap();
    let mut second = scene.draft();
    second.id = TaskId("second".to_owned());
    second.seed = Some(lorawan_fuota::lorawan::keys::Key128::from_bytes([7; 16]));
    let everybody = scene.fleet.devices.iter().map(|d| d.dev_eui).collect();
    scene.queue_for(&second, everybody).unwrap();
    // The first is past its window.
    scene.world.run_until(HOUR, |world| {
        let sessions = world.sessions(&first.id);
        sessions
            .iter()
            .any(|s| s.phase != SessionPhase::Preparing && s.uncoded_sent > 0)
    });
    scene.world.set_server_clock(40 * SECOND_US);
    assert!(scene.finish(&first.id));
    let id = second.id.clone();
    assert!(scene.world.run_until(HOUR, |world| {
        world.task(&id).unwrap().reason == Some(TaskReason::ClockDisagrees)
    }));
    assert_eq!(scene.world.task(&id).unwrap().state, TaskState::Scheduled);
    scene.world.kill(Duration::from_secs(5));
    scene.world.set_server_clock(0);
    assert_updated(&mut scene, &second);
}
