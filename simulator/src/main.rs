//! The `fuota-sim` binary: the demo, a lab for any server, and random worlds to check ours in.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fuota_simulator::calibration;
use fuota_simulator::check;
use fuota_simulator::compare_command::{self, CompareArgs};
use fuota_simulator::demo::{self, DemoArgs};
use fuota_simulator::energy::PowerProfile;
use fuota_simulator::fleet::Stacks;
use fuota_simulator::forecast_command::{self, ForecastArgs};
use fuota_simulator::image_set::ImageSet;
use fuota_simulator::lab_command::{self, LabArgs};
use fuota_simulator::minimise::{Simpler, log, minimise};
use fuota_simulator::redundancy_command::{self, RedundancyArgs};
use fuota_simulator::report_command::{self, ReportArgs};
use fuota_simulator::run_command::{self, RunArgs};
use fuota_simulator::scale_command::{self, ScaleArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Run scenario files in virtual time and judge them by their expectations.
    Run(RunArgs),
    /// Run one task in many random worlds, in virtual time, and check what must hold.
    Check(CheckArgs),
    /// Run a scenario and draw what came of it: one HTML page.
    Report(ReportArgs),
    /// Measure what a distribution costs beside the least it could cost; prints a table in Markdown.
    Redundancy(RedundancyArgs),
    /// Compare the simulator with a published experiment on hardware: energy and time; prints a table in Markdown.
    Calibrate,
    /// Put our distribution beside the rules of other systems, on the same losses; prints a table, draws it.
    Compare(CompareArgs),
    /// Compare forecasts with what comes, in many random worlds; prints a table in Markdown.
    Forecast(ForecastArgs),
    /// Run one task for a large network in virtual time, and print what it cost to simulate.
    Scale(ScaleArgs),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Worlds of this scenario file, instead of random ones; only --seeds, --from and --first go with it.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Worlds to try.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Switch these faults off.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// So many devices, whatever the seed says.
    #[arg(long)]
    devices: Option<u32>,
    /// So many gateways.
    #[arg(long)]
    gateways: Option<u32>,
    /// So many bytes of firmware.
    #[arg(long)]
    image_bytes: Option<usize>,
    /// The stack of all devices, or "mix" for all known ones in turn; drawn for each world when not given.
    #[arg(long, value_parser = Stacks::from_name)]
    stack: Option<Stacks>,
    /// Frames lost, in percent, in each direction; drawn for each world when not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=60))]
    loss: Option<u32>,
    /// What the tasks bring: one, together-1 to together-3 (the main firmware and so many parts), or in-turn; drawn for
    /// each world when not given.
    #[arg(long, value_parser = ImageSet::from_name)]
    images: Option<ImageSet>,
    /// Print failures as they are, without looking for smaller worlds that fail alike.
    #[arg(long)]
    quick: bool,
    /// Stop at the first failure.
    #[arg(long)]
    first: bool,
}

fn main() -> ExitCode {
    match Simulator::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Lab(args) => run_lab(&args),
        Command::Run(args) => run_command::run(&args),
        Command::Check(args) => match &args.scenario {
            Some(file) => run_command::check(file, args.from, args.seeds, args.first),
            None => check_worlds(&args),
        },
        Command::Report(args) => report_command::run(&args),
        Command::Redundancy(args) => redundancy_command::run(&args),
        Command::Forecast(args) => forecast_command::run(&args),
        Command::Calibrate => calibrate(),
        Command::Compare(args) => compare_command::run(&args),
        Command::Scale(args) => scale_command::run(&args),
    }
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn calibrate() -> ExitCode {
    print!("{}", calibration::table(&PowerProfile::STM32WL55));
    ExitCode::SUCCESS
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

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the result of the command"
)]
fn check_worlds(args: &CheckArgs) -> ExitCode {
    let simpler = Simpler {
        without: args.without.clone(),
        devices: args.devices,
        gateways: args.gateways,
        image_bytes: args.image_bytes,
        stacks: args.stack,
        loss_percent: args.loss,
        images: args.images,
    };
    let (mut failed, mut tried) = (0u64, 0u64);
    for seed in args.from..args.from.saturating_add(args.seeds) {
        let options = match simpler.options(seed) {
            Ok(options) => options,
            Err(error) => {
                eprintln!("check: {error}");
                return ExitCode::FAILURE;
            }
        };
        tried += 1;
        let outcome = check::run(&options);
        let Some(first) = outcome.violations.first() else {
            continue;
        };
        failed += 1;
        println!("seed {seed} fails; again with: {}", simpler.command(seed));
        for violation in &outcome.violations {
            println!("  {violation}");
        }
        if !args.quick {
            let smallest = minimise(seed, &simpler, first.checker);
            println!("the same in small: {}", smallest.simpler.command(seed));
            for violation in &smallest.outcome.violations {
                println!("  {violation}");
            }
            for line in log(&smallest.outcome) {
                println!("    {line}");
            }
        }
        if args.first {
            break;
        }
    }
    println!("{tried} worlds, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
