//! Scenarios of answers: devices that do not answer, answers that are lost, gateways that do not acknowledge.

use fuota_simulator::device::Packages;
use fuota_simulator::scene::Scene;
use fuota_simulator::world::Faults;
use lorawan_fuota::record::{DeviceReason, DeviceState};

use super::{HOUR, Play, SECOND, all_updated, others_updated, peer};

#[test]
fn scenario_04_one_device_never_answers() {
    let mut number = 0;
    let scene = Scene::with(&peer(), |device| {
        // It talks, but knows none of the packages its profile says it has.
        if number == 1 {
            device.packages = Packages {
                clock_sync: None,
                multicast_setup: None,
                fragmentation: None,
                firmware_management: false,
            };
        }
        number += 1;
    });
    let (play, outcome) = Play::of(scene).end();
    others_updated(&outcome, play.dev_eui(1));
    let mute = play.device(1);
    assert_eq!(mute.state, DeviceState::Silent);
    assert_eq!(mute.reason, Some(DeviceReason::NoAnswer));
    // So many in a row for one command; more where it was moved to another session meanwhile.
    let most = u32::from(outcome.task.options.max_attempts);
    assert!(
        (most..=3 * most).contains(&mute.attempts),
        "{}",
        mute.attempts
    );
    let history = format!("after {most} sends");
    assert!(mute.evidence.contains(&history), "{}", mute.evidence);
    // Nobody waited for it: without it the task takes as long.
    let last = |number| play.device(number).entered[&DeviceState::Running];
    let begun = outcome.task.started_at.unwrap();
    assert!(last(0).since(begun) < SECOND * 240);
    assert!(last(2).since(begun) < SECOND * 240);
}

#[test]
fn scenario_05_one_session_answer_is_lost() {
    let mut play = Play::start(&peer());
    let dev_eui = play.dev_eui(0);
    let asked = |play: &Play| {
        play.scene.world.lab(|lab| {
            let device = lab.device(dev_eui).unwrap();
            device.mc_groups()[0]
                .as_ref()
                .is_some_and(|g| g.session.is_some())
        })
    };
    let reached = play.scene.world.run_until(HOUR, |w| {
        w.lab(|lab| {
            let device = lab.device(dev_eui).unwrap();
            device.mc_groups()[0]
                .as_ref()
                .is_some_and(|g| g.session.is_some())
        })
    });
    assert!(reached && asked(&play));
    play.set_loss(0, 1.0, 0.0);
    // The answer, and no more than that.
    play.scene.world.run_until(SECOND * 5, |_| false);
    assert!(!play.device(0).setup.group);
    play.set_loss(0, 0.0, 0.0);
    let (play, outcome) = play.end();
    all_updated(&outcome);
    assert!(play.device(0).attempts > play.device(1).attempts);
}

#[test]
fn scenario_06_one_status_answer_is_lost() {
    let mut play = Play::start(&peer());
    play.until_polling();
    play.set_loss(0, 1.0, 0.0);
    let id = play.id().clone();
    // Until the poll is over.
    let begun = play.scene.world.now();
    play.scene.world.run_until(HOUR, |w| {
        w.now().since(begun) > SECOND * 21 || w.sessions(&id)[0].rounds.len() > 1
    });
    assert_eq!(play.device(0).state, DeviceState::Receiving);
    play.set_loss(0, 0.0, 0.0);
    let (_, outcome) = play.end();
    all_updated(&outcome);
}

#[test]
fn scenario_14_a_gateway_never_acknowledges() {
    let mut options = peer();
    options.faults = Faults {
        ack_lost: 1.0,
        ..Faults::default()
    };
    // What is on air all the same reaches the devices.
    let (play, outcome) = Play::start(&options).end();
    all_updated(&outcome);
    assert!(outcome.devices.iter().all(|d| d.attempts <= 20));

    // What one device is sent never reaches it: a bounded number of attempts, and the others go on.
    let deaf = Play::start(&options);
    deaf.set_loss(0, 0.0, 1.0);
    let (deaf, outcome) = deaf.end();
    others_updated(&outcome, deaf.dev_eui(0));
    let device = deaf.device(0);
    assert_eq!(device.state, DeviceState::Silent);
    assert_eq!(device.reason, Some(DeviceReason::NoAnswer));
    let most = u32::from(outcome.task.options.max_attempts);
    assert!(device.attempts <= 3 * most, "{}", device.attempts);
    assert!(deaf.air_us() < play.air_us() + 20_000_000);
}

#[test]
fn scenario_18_status_is_asked_after_the_last_fragment() {
    let (play, outcome) = Play::start(&peer()).end();
    all_updated(&outcome);
    let (fragments, polls) = (
        play.fragments(),
        play.scene.world.checkers(|c| c.polls().to_vec()),
    );
    // The first question comes when all uncoded fragments have left, and none while one is on air.
    assert!(polls[0] >= fragments[17].end && fragments[17].n == 18);
    let during = |at| fragments.iter().any(|f| f.at <= at && at < f.end);
    assert!(!polls.iter().any(|at| during(*at)));
    // Nobody is deleted from its group before its answer.
    for device in &outcome.devices {
        assert!(device.entered.contains_key(&DeviceState::ReportedReceived));
    }
}
