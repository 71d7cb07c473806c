//! `fuota-sim compare`: arguments, the table printed, the drawing written.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::compare::{CompareSize, compare_all, head, lines};
use crate::compare_drawing::draw;

/// Arguments of `fuota-sim compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Runs of each fleet and setting.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Uncoded fragments.
    #[arg(long, default_value_t = 500)]
    nb_frag: u32,
    /// Devices.
    #[arg(long, default_value_t = 200)]
    devices: u32,
    /// Write the drawing (SVG) to this file.
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// Measures, prints and draws; fails when our own runs broke a property.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the result of the command"
)]
pub fn run(args: &CompareArgs) -> ExitCode {
    let size = CompareSize {
        nb_frag: args.nb_frag,
        devices: args.devices,
        seeds: args.seeds,
    };
    print!("{}", head());
    let mut all = Vec::new();
    for comparison in compare_all(size) {
        print!("{}", lines(&comparison));
        all.push(comparison);
    }
    let mut sound = true;
    for violation in all.iter().flat_map(|comparison| &comparison.violations) {
        println!("broken: {violation}");
        sound = false;
    }
    if let Some(path) = &args.svg
        && let Err(error) = std::fs::write(path, draw(&all))
    {
        eprintln!("compare: {}: {error}", path.display());
        sound = false;
    }
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
