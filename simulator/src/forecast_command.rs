//! `fuota-sim forecast`: arguments, and the table printed.

use std::process::ExitCode;

use clap::Args;

use crate::forecast::{Comparison, PROMISED, compare, table};

/// Arguments of `fuota-sim forecast`.
#[derive(Debug, Args)]
pub struct ForecastArgs {
    /// Worlds to compare.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print every world.
    #[arg(long)]
    each: bool,
}

/// Compares and prints; fails when fewer than nine ends in ten lie in their ranges.
#[expect(clippy::print_stdout, reason = "the result of the command")]
pub fn run(args: &ForecastArgs) -> ExitCode {
    let mut runs = Vec::new();
    for seed in args.from..args.from.saturating_add(args.seeds) {
        let run = compare(seed);
        if args.each {
            println!("{run}");
        }
        runs.push(run);
    }
    print!("{}", table(&runs));
    if holds(&runs, Comparison::end_is_inside) && holds(&runs, Comparison::frames_are_inside) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether as many runs as promised pass.
fn holds(runs: &[Comparison], passes: impl Fn(&Comparison) -> bool) -> bool {
    let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let passed = runs.iter().filter(|run| passes(run)).count();
    count(passed) >= PROMISED * count(runs.len())
}
