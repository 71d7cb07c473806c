//! `fuota-sim redundancy`: arguments, and the table printed.

use std::process::ExitCode;

use clap::Args;
use lorawan_fuota::lorawan::PackageVersion;

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
    /// Version of the devices' packages, 1 or 2.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    packages: u8,
}

/// Measures and prints; fails when a property of the product was broken on the way.
#[expect(clippy::print_stdout, reason = "the result of the command")]
pub fn run(args: &RedundancyArgs) -> ExitCode {
    let size = Size {
        nb_frag: args.nb_frag,
        devices: args.devices,
        packages: if args.packages == 2 {
            PackageVersion::V2
        } else {
            PackageVersion::V1
        },
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
