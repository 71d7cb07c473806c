//! The `fuota-sim` binary: the demo, a lab for any server, and random worlds to check ours in.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fuota_simulator::check::{self, CheckOptions};
use fuota_simulator::demo::{self, DemoArgs};
use fuota_simulator::fleet::Stacks;
use fuota_simulator::lab_command::{self, LabArgs};

/// Simulated LoRaWAN gateways and end-devices for firmware updates over the air.
#[derive(Debug, Parser)]
#[command(version)]
struct Simulator {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a server, gateways and end-devices, and update them all.
    Demo(DemoArgs),
    /// Run gateways and end-devices for a server that runs elsewhere.
    Lab(LabArgs),
    /// Run one task in many random worlds, in virtual time, and check what must hold.
    Check {
        /// Worlds to try.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// The stack of all devices, or "mix" for all known ones in turn; drawn for each world when not given.
        #[arg(long, value_parser = Stacks::from_name)]
        stack: Option<Stacks>,
        /// Frames lost, in percent, in each direction; drawn for each world when not given.
        #[arg(long, value_parser = clap::value_parser!(u32).range(0..=60))]
        loss: Option<u32>,
    },
}

fn main() -> ExitCode {
    match Simulator::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Lab(args) => run_lab(&args),
        Command::Check {
            seeds,
            from,
            stack,
            loss,
        } => {
            let change = |options: &mut CheckOptions| {
                options.fleet.stacks = stack.unwrap_or(options.fleet.stacks);
                options.fleet.loss =
                    loss.map_or(options.fleet.loss, |loss| f64::from(loss) / 100.0);
            };
            let again = [
                stack.map(|stack| format!(" --stack {}", stack.name())),
                loss.map(|loss| format!(" --loss {loss}")),
            ];
            let again: String = again.into_iter().flatten().collect();
            check_worlds(from..from.saturating_add(seeds), change, &again)
        }
    }
}

#[expect(clippy::print_stderr, reason = "why there is no lab")]
fn run_lab(args: &LabArgs) -> ExitCode {
    match lab_command::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn check_worlds(
    seeds: std::ops::Range<u64>,
    change: impl Fn(&mut CheckOptions),
    again: &str,
) -> ExitCode {
    let (mut failed, all) = (0u64, seeds.clone());
    for seed in seeds {
        let mut options = CheckOptions::of_seed(seed);
        change(&mut options);
        let outcome = check::run(&options);
        if outcome.violations.is_empty() {
            continue;
        }
        failed += 1;
        println!("seed {seed} fails; again with: fuota-sim check --from {seed} --seeds 1{again}");
        for violation in outcome.violations {
            println!("  {}  {}", violation.at, violation.what);
        }
    }
    println!("{} worlds, {failed} failed", all.end - all.start);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
