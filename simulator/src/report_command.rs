//! `fuota-sim report`: arguments, the run, the page written.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::report::{page, record};
use crate::scenario::Scenario;

/// Arguments of `fuota-sim report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The scenario.
    file: PathBuf,
    /// The page (HTML); the scenario's name with `.html` when not given.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Another seed than the file's.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs and writes; the exit status is that of `fuota-sim run`.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the result of the command"
)]
pub fn run(args: &ReportArgs) -> ExitCode {
    let scenario = match Scenario::read_file(&args.file) {
        Ok(scenario) => scenario,
        Err(errors) => {
            for error in errors {
                eprintln!("{error}");
            }
            return ExitCode::from(2);
        }
    };
    let output = args.output.clone().unwrap_or_else(|| {
        let name = args.file.file_stem().unwrap_or_default();
        PathBuf::from(name).with_extension("html")
    });
    let (running, outcome, recording) = record(&scenario, args.seed.unwrap_or(scenario.seed));
    if let Err(error) = std::fs::write(&output, page(&running, &outcome, &recording)) {
        eprintln!("report: {}: {error}", output.display());
        return ExitCode::from(2);
    }
    println!("{}", output.display());
    if outcome.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
