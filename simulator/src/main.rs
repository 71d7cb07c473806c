//! The `fuota-sim` binary: the demo, a lab for any server, and random worlds to check ours in.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fuota_simulator::check::{self, CheckOptions};
use fuota_simulator::demo::{self, DemoArgs};
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
    },
}

fn main() -> ExitCode {
    match Simulator::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Lab(args) => run_lab(&args),
        Command::Check { seeds, from } => check_worlds(from..from.saturating_add(seeds)),
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
fn check_worlds(seeds: std::ops::Range<u64>) -> ExitCode {
    let (mut failed, all) = (0u64, seeds.clone());
    for seed in seeds {
        let outcome = check::run(&CheckOptions::of_seed(seed));
        if outcome.violations.is_empty() {
            continue;
        }
        failed += 1;
        println!("seed {seed} fails; again with: fuota-sim check --from {seed} --seeds 1");
        for violation in outcome.violations {
            println!("  {violation}");
        }
    }
    println!("{} worlds, {failed} failed", all.end - all.start);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
