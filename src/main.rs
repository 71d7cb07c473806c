//! The `fuota` binary: the server, and the command line that talks to it.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lorawan_fuota::runtime::config::ServeArgs;

/// Firmware updates over the air for LoRaWAN fleets.
#[derive(Debug, Parser)]
#[command(version)]
struct Fuota {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(ServeArgs),
}

fn main() -> ExitCode {
    match Fuota::parse().command {
        Command::Serve(args) => serve::run(&args),
    }
}
