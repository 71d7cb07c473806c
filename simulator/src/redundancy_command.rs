//! `fuota-sim redundancy`: arguments, and the table printed.

use std::process::ExitCode;

use clap::Args;

use crate::fleet::Stacks;
use crate::redundancy::{
    Answers, Frames, Measured, ROWS, Row, Size, conditions, conditions_head, conditions_line, head,
    lines, measure_many,
};

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
    /// Uplinks lost, in percent.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=60))]
    answers_lost: u8,
    /// Uplinks on one channel at one time destroy each other.
    #[arg(long)]
    answers_collide: bool,
    /// Print the table of stacks and answers at 10 % loss instead.
    #[arg(long)]
    conditions: bool,
}

/// Measures and prints; fails when a property of the product was broken on the way.
#[expect(clippy::print_stdout, reason = "the result of the command")]
pub fn run(args: &RedundancyArgs) -> ExitCode {
    let size = Size {
        nb_frag: args.nb_frag,
        devices: args.devices,
        stacks: args.stack,
        answers: Answers {
            lost_percent: args.answers_lost,
            collide: args.answers_collide,
        },
        frames: Frames::default(),
    };
    let measure = |row: &Row, size| measure_many(row, size, 1..args.seeds.saturating_add(1));
    let mut sound = true;
    if args.conditions {
        print!("{}", conditions_head());
        for (stacks, answers) in conditions() {
            let size = Size {
                stacks,
                answers,
                ..size
            };
            let runs = measure(&ROWS[1], size);
            print!("{}", conditions_line(size, &runs));
            sound &= is_sound(&runs);
        }
    } else {
        print!("{}", head());
        for row in &ROWS {
            let runs = measure(row, size);
            print!("{}", lines(row, size, &runs));
            sound &= is_sound(&runs);
        }
    }
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn is_sound(runs: &[Measured]) -> bool {
    let mut broken = runs.iter().flat_map(|run| &run.violations).peekable();
    let sound = broken.peek().is_none();
    for violation in broken {
        println!("broken: {violation}");
    }
    sound
}
