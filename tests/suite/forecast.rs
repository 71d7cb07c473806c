//! Forecast and outcome of whole tasks in simulated worlds: nine runs in ten end within the range the plan stated, and
//! send as many frames. `fuota-sim forecast` prints the table of `docs/plan.md`.

use fuota_simulator::forecast::{Comparison, PROMISED, compare, table};

/// Worlds compared, a fifth of them at each loss; two tests share them.
const WORLDS: u64 = 100;

fn holds(from: u64) {
    let runs: Vec<Comparison> = (from..from + WORLDS).map(compare).collect();
    let share = |held: fn(&Comparison) -> bool| {
        let count = runs.iter().filter(|run| held(run)).count();
        f64::from(u32::try_from(count).unwrap()) / f64::from(u32::try_from(runs.len()).unwrap())
    };
    let outside: Vec<String> = runs
        .iter()
        .filter(|run| !run.end_is_inside() || !run.frames_are_inside())
        .map(ToString::to_string)
        .collect();
    let shares = (
        share(Comparison::end_is_inside),
        share(Comparison::frames_are_inside),
    );
    assert!(
        shares.0 >= PROMISED && shares.1 >= PROMISED,
        "{shares:?}\n{}{outside:#?}",
        table(&runs)
    );
    // A range that says anything holds everything.
    let width = |run: &Comparison| {
        let length = run.end.high.since(run.end.low).as_secs_f64();
        length / run.end.expected.since(run.begun).as_secs_f64()
    };
    let mean: f64 = runs.iter().map(width).sum::<f64>() / f64::from(u32::try_from(WORLDS).unwrap());
    assert!(mean < 0.9, "the ranges are {mean} wide in the mean");
}

#[test]
fn nine_forecasts_in_ten_hold_in_worlds_from_0() {
    holds(0);
}

#[test]
fn nine_forecasts_in_ten_hold_in_worlds_from_100() {
    holds(WORLDS);
}
