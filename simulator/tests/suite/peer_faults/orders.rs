//! Scenarios of what an operator asks for: two tasks for the same devices, and tasks that cannot be.

use fuota_simulator::check::CheckOptions;
use fuota_simulator::scene::Scene;
use lorawan_fuota::record::{DeviceReason, Task, TaskId};
use lorawan_fuota::runtime::CommandError;
use lorawan_fuota::task::{PlanError, SkippedDevice};

use super::{Play, SECOND, all_updated, peer};

#[test]
fn scenario_19_two_tasks_on_the_same_devices() {
    let mut play = Play::start(&peer());
    play.scene.world.run_until(SECOND * 20, |_| false);
    let mut second = play.scene.draft();
    second.id = TaskId("second".to_owned());
    let refused = play.scene.start(&second).unwrap_err();
    let CommandError::Conflict(why) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("is in the active task check"), "{why}");
    // The first does not suffer. When it is over its devices are free, and have nothing left to be done.
    let (mut play, outcome) = play.end();
    all_updated(&outcome);
    match play.scene.start(&second).unwrap_err() {
        CommandError::Plan(PlanError::NoDevices(skipped)) => {
            let current = |d: &SkippedDevice| d.reason == DeviceReason::AlreadyCurrent;
            assert!(skipped.len() == 3 && skipped.iter().all(current));
        }
        other => panic!("{other:?}"),
    }
}

/// The field a start is refused for.
fn refused_for(options: &CheckOptions, change: impl FnOnce(&mut Scene) -> Task) -> &'static str {
    let mut scene = Scene::new(options);
    let task = change(&mut scene);
    match scene.start(&task) {
        Err(CommandError::Plan(
            PlanError::Field { field, .. } | PlanError::Refused { field, .. },
        )) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn scenario_21_tasks_that_cannot_be() {
    let with_size = |size: u8| {
        move |scene: &mut Scene| {
            let mut task = scene.draft();
            task.options.frag_size = Some(size);
            task
        }
    };
    assert_eq!(refused_for(&peer(), with_size(0)), "frag_size");
    assert_eq!(refused_for(&peer(), with_size(255)), "frag_size");
    // 16 384 fragments of one byte are one more than the counter holds.
    let mut large = peer();
    large.image_bytes += 16_384 - 4096;
    assert_eq!(refused_for(&large, with_size(1)), "frag_size");
    let empty = |scene: &mut Scene| {
        scene.change_image(|image| image.size_bytes = 0);
        scene.draft()
    };
    assert_eq!(refused_for(&peer(), empty), "images");
}
