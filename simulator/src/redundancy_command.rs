//! `fuota-sim redundancy`: arguments, and the table printed.

use std::process::ExitCode;

use clap::Args;

use crate::fleet::Stacks;
use crate::redundancy::{ROWS, Size, head, lines, measure_many};

/// Arguments of `fuota-sim redundancy`.
#[derive(Debug, Args)]
pub struct RedundancyArgs {
    /// Runs per row.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Uncoded fragments.
    #[arg(long, default_value_t = 500)]
    nb_frag: u32,
    /// Devices.
    #[arg(long, default_value_t = 1000)]
    devices: u32,
    /// Stack of the devices, or `mix`; see docs/stack-profiles.md.
    #[arg(long, default_value = "spec-v1", value_parser = Stacks::from_name)]
    stack: Stacks,
}

/// Measures and prints; fails when a property of the product was broken on the way.
#[expect(clippy::print_stdout, reason = "the result of the command")]
pub fn run(args: &RedundancyArgs) -> ExitCode {
    let size = Size {
        nb_frag: args.nb_frag,
        devices: args.devices,
        stacks: args.stack,
    };
    print!("{}", head());
    let mut sound = true;
    for row in &ROWS {
        let runs = measure_many(row, size, 1..args.seeds.saturating_add(1));
        print!("{}", lines(row, size, &runs));
        for violation in runs.iter().flat_map(|run| &run.violations) {
            println!("broken: {violation}");
            sound = false;
        }
    }
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
