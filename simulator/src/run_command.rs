//! `fuota-sim run` and `fuota-sim check --scenario`: scenario files in virtual time, with a verdict for people,
//! programs and CI.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::run_live::{self, LiveArgs};
use crate::scenario::{Outcome, Running, Scenario, junit, summary};

/// Exit status where a file or a server cannot be used.
const BAD_FILE: u8 = 2;

/// What `run` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Scenario files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The seed, instead of the one in the file.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Run each scenario with so many seeds, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Print the outcomes as JSON: one object for one run, else a list.
    #[arg(long)]
    pub json: bool,
    /// Write a JUnit report: a test suite for each run, a test case for each expectation.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Print nothing of runs that pass.
    #[arg(long)]
    pub quiet: bool,
    /// Only read the files, and say what is wrong with them.
    #[arg(long)]
    pub dry_run: bool,
    /// Print what happened, in virtual time: to one device (its EUI, or the end of it), or "all".
    #[arg(long, value_name = "DEVICE", conflicts_with = "real_time")]
    pub log: Option<String>,
    /// Against a server in real time.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// Runs scenarios. Status 0: every expectation of every run held; 1: one did not; 2: a file is wrong.
pub fn run(args: &RunArgs) -> ExitCode {
    let Some(scenarios) = read_all(&args.files) else {
        return ExitCode::from(BAD_FILE);
    };
    if args.dry_run {
        return ExitCode::SUCCESS;
    }
    let mut outcomes = Vec::new();
    for scenario in &scenarios {
        let first = args.seed.unwrap_or(scenario.seed);
        for seed in first..first.saturating_add(args.seeds) {
            let outcome = if args.live.real_time {
                match run_live::run(scenario, seed, &args.live) {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        say(&format!("{}: {error:#}", scenario.name));
                        return ExitCode::from(BAD_FILE);
                    }
                }
            } else {
                let mut running = Running::new(scenario, seed);
                if args.log.is_some() {
                    running.keep_events();
                }
                let outcome = running.run();
                if let Some(whose) = &args.log {
                    print_events(&running, whose);
                }
                outcome
            };
            let silent = args.json || (args.quiet && outcome.passed);
            if !silent {
                print(&summary(&outcome));
            }
            outcomes.push(outcome);
        }
    }
    finish(args, &outcomes)
}

/// Runs one scenario with many seeds, and prints those that fail. Status as of [`run`].
pub fn check(file: &Path, from: u64, seeds: u64, first_only: bool) -> ExitCode {
    let Some(scenarios) = read_all(&[file.to_owned()]) else {
        return ExitCode::from(BAD_FILE);
    };
    let (mut failed, mut tried) = (0_u64, 0_u64);
    for scenario in &scenarios {
        for seed in from..from.saturating_add(seeds) {
            let outcome = scenario.run(seed);
            tried += 1;
            if outcome.passed {
                continue;
            }
            failed += 1;
            print(&format!(
                "seed {seed} fails; again with: fuota-sim run {} --seed {seed}\n",
                file.display()
            ));
            for judged in outcome.expectations.iter().filter(|judged| !judged.held) {
                let line = format!(
                    "  {}: {}, was {}\n",
                    judged.name, judged.expected, judged.was
                );
                print(&line);
            }
            if first_only {
                break;
            }
        }
    }
    print(&format!("{tried} runs, {failed} failed\n"));
    ExitCode::from(u8::from(failed > 0))
}

fn finish(args: &RunArgs, outcomes: &[Outcome]) -> ExitCode {
    let passed = outcomes.iter().filter(|outcome| outcome.passed).count();
    if args.json {
        let json = match outcomes {
            [only] => serde_json::to_string(only),
            all => serde_json::to_string(all),
        };
        print(&(json.unwrap_or_default() + "\n"));
    } else if outcomes.len() > 1 {
        print(&format!("{passed} of {} runs passed\n", outcomes.len()));
    }
    if let Some(path) = &args.junit
        && let Err(error) = std::fs::write(path, junit(outcomes))
    {
        say(&format!("{}: {error}", path.display()));
        return ExitCode::from(BAD_FILE);
    }
    ExitCode::from(u8::from(passed < outcomes.len()))
}

/// All scenarios; says what is wrong with each file that is.
pub(crate) fn read_all(files: &[PathBuf]) -> Option<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for file in files {
        match Scenario::read_file(file) {
            Ok(scenario) => scenarios.push(scenario),
            Err(errors) => {
                for error in &errors {
                    say(&error.to_string());
                }
                say(&format!("{}: {} error(s)", file.display(), errors.len()));
            }
        }
    }
    (scenarios.len() == files.len()).then_some(scenarios)
}

/// Prints what happened to devices whose EUI ends so; to all, and to none in particular, for "all".
fn print_events(running: &Running, whose: &str) {
    for event in running.events() {
        let of_device = event.device.map(|device| device.to_string());
        let wanted = match &of_device {
            _ if whose == "all" => true,
            Some(device) => device.ends_with(whose),
            None => !event.frame,
        };
        if wanted {
            let device = of_device.map_or_else(String::new, |device| format!("device {device}: "));
            print(&format!("{}  {device}{}\n", event.at, event.what));
        }
    }
}

#[expect(clippy::print_stdout, reason = "the verdict is the output")]
fn print(text: &str) {
    use std::io::Write;
    print!("{text}");
    // Nobody reading is no reason to stop.
    let _ = std::io::stdout().flush();
}

#[expect(clippy::print_stderr, reason = "why there is no run")]
fn say(text: &str) {
    eprintln!("{text}");
}
