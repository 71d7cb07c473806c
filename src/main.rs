//! The `fuota` binary: reads the command line and hands over.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lorawan_fuota::cli;
use lorawan_fuota::runtime::config::ServeArgs;

/// Firmware updates over the air for LoRaWAN fleets.
///
/// `serve` runs the server; the other commands talk to one over gRPC.
///
/// Exit status: 0 done; 1 done, but the answer is no (a task ended with failures, a plan is blocked, some items
/// were refused); 2 wrong usage; 3 the server refused; 4 the server cannot be reached.
#[derive(Parser)]
#[command(
    name = "fuota",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    max_term_width = 100,
    after_help = "A first update:
  fuota gateway create 0016c001ff10a235 --region EU868
  fuota profile create --id sensor-2 --region EU868 --lorawan-version 1.0.4 --class-c \\
      --clock-sync 2 --multicast-setup 2 --fragmentation 2 --firmware-management 1
  fuota device batch devices.csv --profile sensor-2
  fuota keys import release.pub.pem
  fuota image upload app.signed.bin --activate
  fuota task create --id march --image 3f1a09 --devices-from devices.txt
  fuota task plan march
  fuota task start march --watch"
)]
struct Fuota {
    #[command(flatten)]
    options: cli::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of them, and clap flattens no boxes"
)]
enum Command {
    /// Run the server.
    Serve(Box<ServeArgs>),
    #[command(flatten)]
    Client(cli::Command),
}

fn main() -> ExitCode {
    let Fuota { options, command } = Fuota::parse();
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Client(command) => client(cli::Cli { options, command }),
    }
}

/// Runs a command of the client to its end.
fn client(cli: cli::Cli) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(cli::run(cli)),
        Err(_) => ExitCode::FAILURE,
    }
}
