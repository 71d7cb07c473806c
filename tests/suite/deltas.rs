//! Deltas from the plan to the device that applies them, in virtual time, under faults; and the whole image for those
//! whose flash holds something else.

use std::sync::Arc;
use std::time::Duration;

use fuota_simulator::check::{CheckOptions, Outcome};
use fuota_simulator::fleet::{Fleet, FleetOptions, OLD_VERSION};
use fuota_simulator::scene::Scene;
use fuota_simulator::world::Faults;
use lorawan_fuota::record::{Component, DeviceState, DistributionSession, Sha256, Task, TaskState};

const DEVICES: u32 = 12;

fn options(seed: u64) -> CheckOptions {
    CheckOptions {
        image_bytes: 20_000,
        ..CheckOptions::plain(FleetOptions {
            seed,
            devices: DEVICES,
            loss: 0.1,
            uplink_interval: Duration::from_secs(60),
            ..FleetOptions::default()
        })
    }
}

/// A signed image of the old version that has much in common with the new one.
fn base(fleet: &Fleet, new: &[u8]) -> Arc<[u8]> {
    let mut body = new[0x20..0x20 + 20_000].to_vec();
    body.iter_mut().step_by(997).for_each(|byte| *byte ^= 0x55);
    body.drain(5000..5100);
    fleet.image_of(OLD_VERSION, &body).unwrap().into()
}

/// A scene whose devices apply deltas; `other` of them have another base than they should.
fn scene(options: &CheckOptions, other: u32) -> Scene {
    let bytes = Scene::new(options).image_bytes();
    let base = base(&Fleet::new(options.fleet), &bytes);
    let mut count = 0;
    let mut scene = Scene::with(options, |device| {
        count += 1;
        device.firmware.base_image = Some(match count <= other {
            true => Arc::from(&b"patched by hand"[..]),
            false => Arc::clone(&base),
        });
    });
    scene.change_profiles(|profile| {
        profile.components = vec![Component {
            name: "main".to_owned(),
            number: 0,
            max_image_bytes: None,
            applies_deltas: true,
            version_field: None,
        }];
    });
    scene.tell_versions();
    scene.add_delta(&base);
    scene
}

fn run(scene: &mut Scene, change: impl FnOnce(&mut Task)) -> (Outcome, Vec<DistributionSession>) {
    let mut task = scene.draft();
    change(&mut task);
    scene.start(&task).unwrap();
    assert!(scene.finish(&task.id));
    let sessions = scene.world.sessions(&task.id);
    (scene.outcome(&task), sessions)
}

fn carried(sessions: &[DistributionSession]) -> Vec<Option<Sha256>> {
    sessions.iter().map(|session| session.delta).collect()
}

fn all_run(outcome: &Outcome) {
    assert_eq!(outcome.violations, []);
    assert_eq!(outcome.task.state, TaskState::Completed);
    for device in &outcome.devices {
        assert_eq!(device.state, DeviceState::Running, "{}", device.evidence);
    }
}

#[test]
fn devices_apply_the_delta_and_far_fewer_frames_are_sent() {
    let (outcome, sessions) = run(&mut scene(&options(1), 0), |_| {});
    all_run(&outcome);
    assert_eq!(sessions.len(), 1);
    assert_eq!(carried(&sessions), [outcome.task.deltas.first().copied()]);
    let whole = |task: &mut Task| task.options.no_deltas = true;
    let (full, sessions) = run(&mut scene(&options(1), 0), whole);
    all_run(&full);
    assert_eq!(carried(&sessions), [None]);
    assert_eq!(full.task.deltas, []);
    let frames = |outcome: &Outcome| outcome.task.counters.uncoded_frames;
    assert!(
        frames(&outcome) * 4 < frames(&full),
        "{} of {}",
        frames(&outcome),
        frames(&full)
    );
}

#[test]
fn who_cannot_use_the_delta_gets_the_whole_image() {
    let (outcome, sessions) = run(&mut scene(&options(2), 3), |_| {});
    all_run(&outcome);
    let delta = outcome.task.deltas.first().copied();
    assert_eq!(carried(&sessions), [delta, None]);
    let whole = outcome.devices.iter().filter(|device| device.whole).count();
    assert_eq!(whole, 3);
    assert!(outcome.devices.iter().all(|device| device.retries == 0));
}

#[test]
fn nobody_fits_the_delta_and_all_are_updated_all_the_same() {
    let (outcome, sessions) = run(&mut scene(&options(3), DEVICES), |_| {});
    all_run(&outcome);
    assert_eq!(carried(&sessions)[1..], [None]);
}

#[test]
fn crashes_and_broken_commits_lose_neither_patch_nor_image() {
    for seed in 10..20 {
        let options = CheckOptions {
            faults: Faults {
                crash_before_commit: 0.01,
                crash_after_commit: 0.01,
                commit_fails_late: 0.01,
                ..Faults::default()
            },
            ..options(seed)
        };
        let (outcome, sessions) = run(&mut scene(&options, 4), |_| {});
        assert_eq!(outcome.violations, [], "seed {seed}");
        let running =
            |device: &&lorawan_fuota::record::TaskDevice| device.state == DeviceState::Running;
        let count = outcome.devices.iter().filter(running).count();
        assert_eq!(u32::try_from(count), Ok(DEVICES), "seed {seed}");
        assert!(carried(&sessions).contains(&None), "seed {seed}");
        assert!(outcome.crashes > 0, "seed {seed}: nothing struck");
    }
}
