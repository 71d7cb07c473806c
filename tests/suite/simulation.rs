//! Whole tasks in virtual time: the production loop, engine, native network server and campaigns against simulated
//! gateways and devices, under loss, crashes between any two steps, and a store that fails before or after it wrote.
//!
//! Each seed is one world. A failure names the command that repeats it.

use fuota_simulator::check::{CheckOptions, run};

/// Worlds per test; they share the seeds among them so that the runner's threads share the work.
const SEEDS: u64 = 50;

fn worlds(from: u64) {
    for seed in from..from + SEEDS {
        let outcome = run(&CheckOptions::of_seed(seed));
        assert!(
            outcome.violations.is_empty(),
            "again with: fuota-sim check --from {seed} --seeds 1\n{:#?}",
            outcome.violations
        );
    }
}

#[test]
fn worlds_0() {
    worlds(0);
}

#[test]
fn worlds_50() {
    worlds(50);
}

#[test]
fn worlds_100() {
    worlds(100);
}

#[test]
fn a_seed_has_one_history() {
    for seed in [3, 5, 21] {
        let (first, again) = (
            run(&CheckOptions::of_seed(seed)),
            run(&CheckOptions::of_seed(seed)),
        );
        assert_eq!(first.task, again.task);
        assert_eq!(first.devices, again.devices);
        assert_eq!(
            (first.commits, first.crashes),
            (again.commits, again.crashes)
        );
    }
}

#[test]
fn faults_really_strike() {
    let crashes: u32 = (0..20)
        .map(|seed| run(&CheckOptions::of_seed(seed)).crashes)
        .sum();
    assert!(crashes > 20, "{crashes}");
}
