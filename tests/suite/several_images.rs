//! Tasks of several images from the plan to devices that install them, in virtual time, under faults: all at one
//! reboot or none, or one after the other.

use std::collections::BTreeSet;
use std::time::Duration;

use fuota_simulator::check::{CheckOptions, Outcome};
use fuota_simulator::device::{ImageCheck, PartFirmware, StackProfile};
use fuota_simulator::fleet::{FleetOptions, NEW_VERSION, OLD_VERSION, Stacks};
use fuota_simulator::image_set::ImageSet;
use fuota_simulator::scene::Scene;
use fuota_simulator::world::Faults;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::record::{
    CleanupState, DeviceClass, DeviceReason, DeviceState, DistributionSession, RetryPolicy,
    SessionPhase, SuccessCriterion, Task, TaskDevice, TaskState,
};
use lorawan_fuota::runtime::{Command, CommandError};
use lorawan_fuota::task::PlanError;
use lorawan_fuota::time::Timestamp;

const DEVICES: u32 = 12;

fn options(seed: u64, images: ImageSet) -> CheckOptions {
    CheckOptions {
        image_bytes: 8000,
        images,
        ..CheckOptions::plain(FleetOptions {
            seed,
            devices: DEVICES,
            loss: 0.1,
            uplink_interval: Duration::from_secs(60),
            ..FleetOptions::default()
        })
    }
}

fn run(scene: &mut Scene, change: impl FnOnce(&mut Task)) -> (Outcome, Vec<DistributionSession>) {
    let mut task = scene.draft();
    change(&mut task);
    scene.start(&task).unwrap();
    assert!(scene.finish(&task.id));
    let sessions = scene.world.sessions(&task.id);
    (scene.outcome(&task), sessions)
}

fn all_run(outcome: &Outcome) {
    assert_eq!(outcome.violations, []);
    assert_eq!(outcome.task.state, TaskState::Completed);
    for device in &outcome.devices {
        assert_eq!(device.state, DeviceState::Running, "{}", device.evidence);
    }
}

fn cleaned(device: &TaskDevice) -> bool {
    let course = device.images.as_ref().unwrap();
    let mut sessions = course.frag_sessions.values();
    device.frag_cleanup == CleanupState::Confirmed
        && sessions.all(|state| *state == CleanupState::Confirmed)
}

#[test]
fn several_images_go_one_after_the_other_and_run_after_one_reboot() {
    let mut scene = Scene::new(&options(1, ImageSet::Together(3)));
    let (outcome, sessions) = run(&mut scene, |_| {});
    all_run(&outcome);
    let planned = sessions.iter().filter(|s| s.follows.is_none());
    let numbers: Vec<(u8, u8)> = planned.map(|s| (s.image, s.block.frag_index)).collect();
    assert_eq!(numbers, [(0, 0), (1, 1), (2, 2), (3, 3)]);
    // All frames of one image come before any of the next.
    let starts: Vec<_> = sessions.iter().map(|s| s.window.start).collect();
    assert!(starts.is_sorted(), "{starts:?}");
    for device in &outcome.devices {
        let course = device.images.as_ref().unwrap();
        let done: Vec<u8> = course.done.iter().map(|done| done.image).collect();
        assert_eq!(done, [0, 1, 2]);
        assert!(cleaned(device), "{course:?}");
    }
    scene.world.lab(|lab| {
        for device in lab.devices() {
            let reboots = device
                .log()
                .iter()
                .filter(|(_, what)| what.starts_with("reboots"));
            assert_eq!(reboots.count(), 1, "{}", device.dev_eui());
        }
    });
}

#[test]
fn the_air_is_that_of_the_images_one_by_one() {
    let (several, sessions) = run(&mut Scene::new(&options(2, ImageSet::Together(2))), |_| {});
    all_run(&several);
    let uncoded: u64 = sessions.iter().map(|s| u64::from(s.block.nb_frag)).sum();
    assert_eq!(several.task.counters.uncoded_frames, uncoded);
}

#[test]
fn stacks_with_one_decoder_get_all_images_on_one_index() {
    for (seed, stack) in [
        (3, StackProfile::LoramacNode),
        (4, StackProfile::BasicsModemV2),
        (5, StackProfile::Zephyr),
    ] {
        let mut options = options(seed, ImageSet::Together(2));
        options.fleet.stacks = Stacks::One(stack);
        if !stack.packages().firmware_management {
            continue;
        }
        let (outcome, sessions) = run(&mut Scene::new(&options), |_| {});
        all_run(&outcome);
        let indexes: BTreeSet<u8> = sessions.iter().map(|s| s.block.frag_index).collect();
        assert_eq!(indexes, [0].into(), "{stack:?}");
    }
}

#[test]
fn devices_that_cannot_hold_them_keep_the_task_from_starting() {
    let mut scene = Scene::new(&options(6, ImageSet::Together(2)));
    scene.change_profiles(|profile| profile.limits.max_frag_sessions = 2);
    let mut task = scene.draft();
    task.options.skip_unfit = false;
    let refused = scene.start(&task);
    let Err(CommandError::Plan(PlanError::Unfit(devices))) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(devices.len(), 12);
    assert_eq!(devices[0].unfit, Some("images"));
    assert_eq!(devices[0].reason, DeviceReason::DecoderLimit);
    // Devices that copy finished blocks to their slots may have all on one index.
    scene.change_profiles(|profile| {
        profile.limits.max_frag_sessions = 2;
        profile.limits.keeps_blocks = true;
    });
    let (outcome, sessions) = run(&mut scene, |_| {});
    all_run(&outcome);
    assert!(sessions.iter().all(|s| s.block.frag_index == 0));
}

#[test]
fn what_nothing_tells_apart_is_not_promised() {
    let mut scene = Scene::new(&options(7, ImageSet::Together(1)));
    scene.change_profiles(|profile| {
        for component in &mut profile.components {
            component.version_field = None;
        }
    });
    let mut task = scene.draft();
    task.options.skip_unfit = false;
    let refused = scene.start(&task);
    let Err(CommandError::Plan(PlanError::Unfit(devices))) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(devices[0].unfit, Some("component"));
    assert!(
        devices[0].evidence.contains("main and radio"),
        "{}",
        devices[0].evidence
    );
    // That they hold both images they can show.
    task.success = SuccessCriterion::Verified;
    scene.start(&task).unwrap();
    assert!(scene.finish(&task.id));
    let states: BTreeSet<DeviceState> = scene
        .world
        .task_devices(&task.id)
        .iter()
        .map(|device| device.state)
        .collect();
    assert_eq!(states, [DeviceState::Verified].into());
}

#[test]
fn who_runs_an_image_already_gets_the_others_only() {
    let mut scene = Scene::with(&options(8, ImageSet::Together(1)), |device| {
        if device.dev_eui.0.is_multiple_of(2) {
            device.firmware.version = NEW_VERSION.to_ts006();
        }
    });
    let (outcome, _) = run(&mut scene, |_| {});
    all_run(&outcome);
    for device in &outcome.devices {
        let course = device.images.as_ref().unwrap();
        let main = course.has_done(0);
        assert_eq!(main, !device.dev_eui.0.is_multiple_of(2), "{course:?}");
    }
}

#[test]
fn an_image_that_fails_leaves_all_as_they_were() {
    // Two devices trust another key for the radio part: its image is corrupt to them, and the main one is good.
    let bad = |dev_eui: DevEui| dev_eui.0.is_multiple_of(5);
    let mut scene = Scene::with(&options(9, ImageSet::Together(2)), |device| {
        let part = |number: u8, check: ImageCheck| PartFirmware {
            number,
            version: OLD_VERSION.to_ts006(),
            check,
            raw_image_version: None,
        };
        if bad(device.dev_eui) {
            let check = device.firmware.check;
            device.firmware.parts = vec![part(1, ImageCheck::Ed25519([7; 32])), part(2, check)];
        }
    });
    let (outcome, _) = run(&mut scene, |_| {});
    assert_eq!(outcome.task.state, TaskState::Completed);
    for device in &outcome.devices {
        if !bad(device.dev_eui) {
            assert_eq!(device.state, DeviceState::Running, "{}", device.evidence);
            continue;
        }
        assert_eq!(device.state, DeviceState::Failed);
        assert_eq!(device.reason, Some(DeviceReason::ImageRejected));
        assert!(
            device.evidence.starts_with("image 2 of 3 (radio)"),
            "{}",
            device.evidence
        );
        let course = device.images.as_ref().unwrap();
        let discarded: Vec<_> = course.discard.iter().collect();
        assert_eq!(
            discarded,
            [(&NEW_VERSION.to_ts006(), &CleanupState::Confirmed)]
        );
        assert!(cleaned(device));
        scene.world.lab(|lab| {
            let real = lab.device(device.dev_eui).unwrap();
            assert_eq!(real.running_version(), OLD_VERSION.to_ts006());
            assert_eq!(real.running_version_of(1), Some(OLD_VERSION.to_ts006()));
        });
    }
}

#[test]
fn a_boot_loader_that_installs_a_part_is_found_out() {
    let mut scene = Scene::with(&options(10, ImageSet::Together(1)), |device| {
        device.firmware.leaves_out = device.dev_eui.0.is_multiple_of(3).then_some(1);
    });
    let (outcome, _) = run(&mut scene, |_| {});
    let mut found = 0;
    for device in &outcome.devices {
        if device.dev_eui.0.is_multiple_of(3) {
            found += 1;
            assert_eq!(
                device.reason,
                Some(DeviceReason::WrongVersion),
                "{}",
                device.evidence
            );
            assert!(
                device.evidence.contains("installed in part"),
                "{}",
                device.evidence
            );
        } else {
            assert_eq!(device.state, DeviceState::Running, "{}", device.evidence);
        }
    }
    assert_eq!(found, 4);
}

#[test]
fn who_rolled_back_is_tried_again_with_all_images() {
    let mut scene = Scene::with(&options(11, ImageSet::Together(1)), |device| {
        device.firmware.rolls_back = device.dev_eui.0.is_multiple_of(4);
    });
    let (outcome, sessions) = run(&mut scene, |task| {
        task.rules.retry = RetryPolicy {
            max_retries: 1,
            reasons: [DeviceReason::WrongVersion].into(),
            ..RetryPolicy::default()
        };
    });
    let again: Vec<u8> = sessions
        .iter()
        .filter(|session| session.follows.is_some())
        .map(|session| session.image)
        .collect();
    assert!(again.contains(&0) && again.contains(&1), "{again:?}");
    for device in &outcome.devices {
        let rolls_back = device.dev_eui.0.is_multiple_of(4);
        let state = match rolls_back {
            true => DeviceState::RolledBack,
            false => DeviceState::Running,
        };
        assert_eq!(device.state, state, "{}", device.evidence);
        assert_eq!(device.retries, u8::from(rolls_back));
    }
}

#[test]
fn in_turn_each_runs_before_the_next_is_sent() {
    let mut scene = Scene::new(&options(12, ImageSet::InTurn));
    let (outcome, sessions) = run(&mut scene, |_| {});
    all_run(&outcome);
    let first = sessions
        .iter()
        .filter(|s| s.image == 0 && s.follows.is_none());
    assert_eq!(first.count(), 1);
    for device in &outcome.devices {
        let course = device.images.as_ref().unwrap();
        let step = course.done.first().unwrap();
        assert_eq!(
            (step.image, step.version_before),
            (0, Some(OLD_VERSION.to_ts006()))
        );
        let between = scene.images()[0].0.target_version;
        assert_eq!(device.version_before, Some(between));
    }
}

#[test]
fn in_turn_asks_for_an_order_that_can_be() {
    let mut scene = Scene::new(&options(13, ImageSet::InTurn));
    let mut task = scene.draft();
    task.success = SuccessCriterion::Verified;
    let refused = scene.start(&task);
    assert!(
        matches!(
            refused,
            Err(CommandError::Plan(PlanError::Field {
                field: "success_criterion",
                ..
            }))
        ),
        "{refused:?}"
    );
    let mut task = scene.draft();
    task.install = Default::default();
    let refused = scene.start(&task);
    let Err(CommandError::Plan(PlanError::Field { field, message })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(field, "images");
    assert!(message.contains("in turn"), "{message}");
}

#[test]
fn a_cancelled_task_takes_back_what_waits() {
    let mut scene = Scene::new(&options(14, ImageSet::Together(2)));
    let task = scene.draft();
    scene.start(&task).unwrap();
    let id = task.id.clone();
    scene.world.run_until(Duration::from_secs(86_400), |world| {
        let sessions = world.sessions(&id);
        sessions
            .iter()
            .any(|s| s.image == 1 && s.phase == SessionPhase::Sending && s.uncoded_sent > 5)
    });
    scene
        .world
        .command(&Command::CancelTask(id.clone()))
        .unwrap();
    assert!(scene.finish(&id));
    let outcome = scene.outcome(&task);
    assert_eq!(outcome.task.state, TaskState::Cancelled);
    for device in &outcome.devices {
        let course = device.images.as_ref().unwrap();
        assert!(course.has_done(0), "{course:?}");
        let discarded: Vec<_> = course.discard.values().collect();
        assert_eq!(discarded, [&CleanupState::Confirmed]);
    }
    scene.world.lab(|lab| {
        for device in lab.devices() {
            assert_eq!(device.image_received(), None);
            assert_eq!(device.running_version(), OLD_VERSION.to_ts006());
        }
    });
}

#[test]
fn who_is_gone_keeps_nobody_from_the_next_image() {
    for class in [DeviceClass::A, DeviceClass::C] {
        let mut options = options(15, ImageSet::Together(1));
        (options.class, options.image_bytes) = (class, 1500);
        let mut scene = Scene::with(&options, |device| {
            // It is set up, and never heard again.
            if device.dev_eui.0 & 0xff == 1 {
                let settled = Timestamp::from_unix_seconds(1_800_000_240);
                device.silent_from = Some(settled);
            }
        });
        let (outcome, _) = run(&mut scene, |_| {});
        let task = &outcome.task;
        let (mut gone, mut last) = (None, None);
        for device in &outcome.devices {
            match device.entered.get(&DeviceState::Running) {
                Some(at) => last = last.max(Some(*at)),
                None => gone = Some(device),
            }
        }
        let gone = gone.expect("one is gone");
        assert_eq!(gone.state, DeviceState::Silent, "{}", gone.evidence);
        let silent = gone.entered[&DeviceState::Silent];
        assert!(last < Some(silent), "{class:?}: {last:?}, {silent:?}");
        assert_eq!(task.state, TaskState::Completed);
    }
}

#[test]
fn crashes_and_broken_commits_lose_no_image() {
    let mut crashes = 0;
    for seed in 20..32 {
        let images = match seed % 3 {
            0 => ImageSet::InTurn,
            1 => ImageSet::Together(1),
            _ => ImageSet::Together(3),
        };
        let options = CheckOptions {
            faults: Faults {
                crash_before_commit: 0.01,
                crash_after_commit: 0.01,
                commit_fails_late: 0.01,
                ..Faults::default()
            },
            ..options(seed, images)
        };
        let (outcome, _) = run(&mut Scene::new(&options), |_| {});
        assert_eq!(outcome.violations, [], "seed {seed}");
        for device in &outcome.devices {
            assert_eq!(
                device.state,
                DeviceState::Running,
                "{seed}: {}",
                device.evidence
            );
        }
        crashes += outcome.crashes;
    }
    assert!(crashes > 0, "nothing struck");
}

#[test]
fn worlds_where_everything_goes_wrong_update_all_or_say_why() {
    let mut worlds = 0;
    for seed in 7000..7090 {
        let mut options = CheckOptions::of_seed(seed);
        let slow = options.class == DeviceClass::A || options.spends_duty_cycle();
        if slow {
            continue;
        }
        options.bring(match seed % 4 {
            0 => ImageSet::InTurn,
            parts => ImageSet::Together(u8::try_from(parts).unwrap()),
        });
        options.image_bytes = options.image_bytes.min(4000);
        let outcome = fuota_simulator::check::run(&options);
        assert_eq!(outcome.violations, [], "seed {seed}: {options:?}");
        worlds += 1;
    }
    assert!(worlds > 60, "{worlds}");
}
