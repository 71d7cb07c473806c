//! Scenarios of a server that dies, and of a store that refuses.

use fuota_simulator::world::Faults;
use lorawan_fuota::record::DeviceState;

use super::{Play, SECOND, all_updated, counters_rise, peer, sent_twice};

#[test]
fn scenario_10_killed_between_fragments() {
    let mut play = Play::start(&peer());
    play.until_sent(6);
    play.scene.world.run_until(SECOND / 5, |_| false);
    play.scene.world.kill(SECOND * 20);
    let (play, outcome) = play.end();
    all_updated(&outcome);
    assert_eq!(outcome.crashes, 1);
    let fragments = play.fragments();
    assert!(counters_rise(&fragments), "{fragments:#?}");
    assert!(sent_twice(&fragments, 18).is_empty());
    // No burst of what is overdue: a fragment takes 390 ms.
    let shortest = fragments.windows(2).map(|w| w[1].at.since(w[0].at)).min();
    assert!(shortest.unwrap() > SECOND * 39 / 100, "{shortest:?}");
}

#[test]
fn scenario_11_killed_while_fragments_are_queued() {
    for uncoded in [1, 9, 18] {
        let mut play = Play::start(&peer());
        play.until_sent(uncoded);
        // At this moment the fragment was handed to the gateway, and nobody knows what became of it.
        play.scene.world.kill(SECOND);
        let (play, outcome) = play.end();
        all_updated(&outcome);
        let fragments = play.fragments();
        assert!(sent_twice(&fragments, 18).is_empty());
        assert!(counters_rise(&fragments), "{fragments:#?}");
        let sessions = play.scene.world.sessions(play.id());
        assert_eq!((sessions.len(), sessions[0].window.number), (1, 0));
    }
}

#[test]
fn scenario_12_killed_during_set_up() {
    for seconds in (10..120).step_by(10) {
        let mut play = Play::start(&peer());
        play.scene.world.run_until(SECOND * seconds, |_| false);
        play.scene.world.kill(SECOND * 20);
        let (_, outcome) = play.end();
        all_updated(&outcome);
        assert_eq!(outcome.crashes, 1);
    }
}

#[test]
fn scenario_20_the_store_refuses_writes() {
    let mut options = peer();
    options.faults = Faults {
        commit_fails: 0.1,
        commit_fails_late: 0.1,
        ..Faults::default()
    };
    for seed in 1..=10 {
        options.fleet.seed = seed;
        let scene = fuota_simulator::scene::Scene::new(&options);
        let mut play = Play {
            task: scene.draft(),
            scene,
        };
        // A commit of unknown fate may have started it already: then it is refused as running.
        let _ = play.scene.start(&play.task);
        let (_, outcome) = play.end();
        all_updated(&outcome);
        assert!(
            outcome
                .devices
                .iter()
                .all(|d| d.state == DeviceState::Running)
        );
    }
}
