//! Scenarios of the air: duty cycle, loss, several gateways, gateways that refuse or fall silent.

use fuota_simulator::channel::Bursts;
use fuota_simulator::world::{Faults, Strike};
use lorawan_fuota::erasure::{CodeVersion, chosen_rows, matrix_row};

use super::{HOUR, Play, SECOND, all_updated, counters_rise, peer, peer_with, sent_twice};

#[test]
fn scenario_01_nothing_goes_wrong() {
    let mut fewest = u64::MAX;
    for seed in 1..=5 {
        let (play, outcome) = Play::start(&peer_with(|fleet| fleet.seed = seed)).end();
        all_updated(&outcome);
        let counters = &outcome.task.counters;
        assert_eq!(counters.uncoded_frames, 18);
        // The other server sent six coded ones that nobody needed. Ours sends two before it asks, four if an uplink of
        // the set-up was lost (devices collide), since it cannot know yet that nothing is lost; and more only for a
        // device that said what it lacks: one that was sending itself.
        let rounds = &play.scene.world.sessions(play.id())[0].rounds;
        assert!(rounds[0].coded_sent <= 4, "{rounds:#?}");
        let needed: u64 = rounds
            .iter()
            .map(|round| u64::from(round.deficit_max))
            .sum();
        assert!(needed > 0 || counters.coded_frames <= 4, "{counters:?}");
        assert!(counters.coded_frames <= 4 + 3 * needed, "{counters:?}");
        fewest = fewest.min(counters.coded_frames);
        // It took 316.8 s and 33.1 s of air, with a fragment every 5 s.
        assert!(outcome.duration < SECOND * 240, "{:?}", outcome.duration);
        assert!(counters.airtime_us < 16_500_000, "{}", counters.airtime_us);
        let fragments = play.fragments();
        let first_pass = &fragments[..18];
        let steps = first_pass.windows(2).map(|w| w[1].at.since(w[0].at));
        assert!(steps.max().unwrap() < SECOND / 2, "{first_pass:#?}");
    }
    assert!(fewest <= 2, "{fewest}");
}

#[test]
fn scenario_02_slow_data_rates_keep_the_duty_cycle() {
    for data_rate in [3, 0] {
        let options = peer_with(|fleet| fleet.data_rate = data_rate);
        let (play, outcome) = Play::start(&options).end();
        // Among the properties is the duty cycle of each sub-band over every sliding hour, of what was on air.
        all_updated(&outcome);
        let hours = u64::from(u32::try_from(outcome.duration.as_secs().div_ceil(3600)).unwrap());
        let allowed_us = hours * 360_000_000;
        assert!(
            play.air_us() < allowed_us,
            "{data_rate}: {} us",
            play.air_us()
        );
        // It was enough air for a limit to bite: at DR0 the fragments alone are four minutes.
        if data_rate == 0 {
            assert!(play.air_us() > 200_000_000, "{} us", play.air_us());
        }
    }
}

#[test]
fn scenario_03_twenty_devices_at_once() {
    let options = peer_with(|fleet| fleet.devices = 20);
    let (play, outcome) = Play::start(&options).end();
    all_updated(&outcome);
    assert_eq!(outcome.devices.len(), 20);
    // Nothing is handed to a gateway that it cannot send in time.
    assert_eq!(play.refused(), 0);
}

#[test]
fn scenario_07_much_loss_at_one_device() {
    for seed in 1..=10 {
        let play = Play::start(&peer_with(|fleet| fleet.seed = seed));
        play.set_loss(1, 0.3, 0.3);
        let (play, outcome) = play.end();
        all_updated(&outcome);
        assert!(outcome.task.counters.coded_frames > 0);
        // New coded fragments, not the same ones again.
        let sent = play.fragments().into_iter().map(|f| (f.session, f.n));
        let mut sent: Vec<_> = sent.collect();
        sent.sort();
        assert!(sent.windows(2).all(|w| w[0] != w[1]), "{sent:#?}");
    }
}

#[test]
fn scenario_08_a_tenth_is_lost() {
    for seed in 1..=10 {
        let options = peer_with(|fleet| {
            fleet.seed = seed;
            fleet.loss = 0.1;
        });
        all_updated(&Play::start(&options).end().1);
    }
    // The first six coded rows together hold every fragment, those of the other server left out two of 18.
    let rows = chosen_rows(CodeVersion::V1, 18, 6);
    let mut covered = 0u64;
    for n in rows {
        let mut row = [0];
        matrix_row(CodeVersion::V1, 18, n, &mut row).unwrap();
        covered |= row[0];
    }
    assert_eq!(covered.count_ones(), 18);
}

#[test]
fn scenario_09_devices_talk_during_the_window() {
    for seed in 1..=5 {
        let options = peer_with(|fleet| {
            fleet.seed = seed;
            fleet.uplink_interval = SECOND * 20;
            fleet.devices = 8;
        });
        all_updated(&Play::start(&options).end().1);
    }
}

#[test]
fn scenario_13_a_gateway_is_away_for_forty_seconds() {
    for power in [false, true] {
        for gateways in [1, 2] {
            let mut play = Play::start(&peer_with(|fleet| fleet.gateways = gateways));
            play.until_sent(6);
            let gateway = Some(play.scene.fleet.gateways[0]);
            let now = play.scene.world.now();
            let world = &mut play.scene.world;
            world.strike_at(now, Strike::GatewayDown { gateway, power });
            world.strike_at(now + SECOND * 40, Strike::GatewayUp { gateway });
            let (play, outcome) = play.end();
            all_updated(&outcome);
            let fragments = play.fragments();
            assert!(counters_rise(&fragments), "{fragments:#?}");
            assert!(sent_twice(&fragments, 18).is_empty());
        }
    }
}

#[test]
fn scenario_15_a_gateway_refuses_multicast_frames() {
    let mut options = peer();
    options.faults = Faults {
        refused: 0.3,
        ..Faults::default()
    };
    let (play, outcome) = Play::start(&options).end();
    all_updated(&outcome);
    let counters = &outcome.task.counters;
    assert!(counters.refused_frames > 0);
    // What was refused goes out again before any later one does, so that nothing is missing.
    let fragments = play.fragments();
    let uncoded: Vec<u16> = fragments.iter().map(|f| f.n).filter(|n| *n <= 18).collect();
    assert_eq!(uncoded, (1..=18).collect::<Vec<u16>>());
    assert!(counters.coded_frames <= 5, "{}", counters.coded_frames);
}

#[test]
fn scenario_16_two_gateways_cover_the_devices() {
    let mut options = peer_with(|fleet| fleet.gateways = 2);
    options.spread = true;
    let (play, outcome) = Play::start(&options).end();
    all_updated(&outcome);
    // Both send every fragment, one after the other: half the pace, and the window holds it.
    assert_eq!(outcome.task.counters.uncoded_frames, 36);
    let sessions = play.scene.world.sessions(play.id());
    assert_eq!((sessions.len(), sessions[0].window.number), (1, 0));
    assert!(outcome.duration < SECOND * 240, "{:?}", outcome.duration);
}

#[test]
fn scenario_17_frames_are_handed_over_ahead_of_their_time() {
    // Class B is not served; what has its time are receive windows and the fragments of a class C session. No gateway
    // finds one too late, however many devices and fragments there are.
    let options = peer_with(|fleet| {
        fleet.devices = 12;
        fleet.gateways = 2;
    });
    let (play, outcome) = Play::start(&options).end();
    all_updated(&outcome);
    assert_eq!(play.refused(), 0);
    let dropped: u64 = play
        .scene
        .world
        .lab(|lab| lab.gateways().iter().map(|g| g.counts().dropped).sum());
    assert_eq!(dropped, 0);
}

#[test]
fn bursts_are_repaired_too() {
    let mut options = peer();
    options.faults.bursts = Some(Bursts {
        every: SECOND * 20,
        lasts: SECOND * 2,
        loss: 1.0,
    });
    let mut play = Play::start(&options);
    play.until_sent(18);
    assert!(play.scene.world.run_until(HOUR, |_| true));
    all_updated(&play.end().1);
}
