//! The command line: a client of the gRPC API, with tables for people and JSON for programs.
//!
//! It knows the API as it is generated, and of this crate nothing else but `firmware`: images are signed and keys are
//! made on the machine of whoever owns the keys. Each file holds one resource: its arguments, its calls, and how it is
//! printed. Secrets go in by file, standard input or environment, and never come out.
//!
//! Exit status: 0 done; 1 done, but the answer is no (a task ended with failures, a plan is blocked, some items
//! of a batch were refused); 2 wrong usage; 3 the server refused; 4 the server cannot be reached.

mod connection;
mod delta;
mod device;
mod gateway;
mod group;
mod image;
mod image_offline;
mod image_release;
mod keys;
mod moment;
mod names;
mod network;
mod output;
mod profile;
mod rollout;
mod settings;
mod task;
mod trust;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

pub use connection::Options;
use connection::{Connection, Listing};
use output::{Failure, Output, is_disconnected};

/// One run of the command line.
#[derive(clap::Args)]
pub struct Cli {
    /// Where the server is and how to print.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of the client.
#[derive(Subcommand)]
pub enum Command {
    /// Images: the bytes to distribute
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Image policies: what each device model demands of images
    #[command(subcommand)]
    Policy(trust::PolicyCommand),
    /// Keys: what images are signed with and checked by
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Device profiles: what all end-devices of one make have in common
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// End-devices
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Multicast groups: named sets of end-devices
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Gateways: the allow-list of the network
    #[command(subcommand)]
    Gateway(gateway::GatewayCommand),
    /// FUOTA tasks: forecast, start, watch, cancel
    #[command(subcommand)]
    Task(Box<task::TaskCommand>),
    /// Rollouts: standing orders that keep devices on a release
    #[command(subcommand)]
    Rollout(Box<rollout::RolloutCommand>),
    /// Follow the uplinks of applications as they come
    Uplinks(network::UplinksArgs),
    /// Show the built-in network server and its counters
    Network,
}

/// How a command that was carried out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// As wished.
    Done,
    /// The answer is no.
    Negative,
}

impl Outcome {
    /// Done if so, else negative.
    fn from_success(success: bool) -> Self {
        if success { Self::Done } else { Self::Negative }
    }
}

/// What a command works with.
struct Context {
    connection: Connection,
    output: Output,
}

impl Context {
    /// Shows a list: a document with the items under `key`, or a table and a word about what is not shown.
    fn show_list<T>(
        &mut self,
        key: &str,
        noun: &str,
        listing: &Listing<T>,
        json: impl Fn(&T) -> Value,
        table: impl FnOnce(&[T]) -> String,
    ) -> Result<(), Failure> {
        let items = &listing.items;
        let total =
            u64::try_from(items.len()).map_or(listing.total, |shown| shown.max(listing.total));
        self.output.show(
            || json!({key: items.iter().map(&json).collect::<Vec<_>>(), "total_size": total}),
            || {
                if items.is_empty() {
                    format!("no {noun}s")
                } else {
                    table(items)
                }
            },
        )?;
        if listing.is_cut() {
            let text = format!(
                "{} of {total} {noun}s shown: --limit 0 shows all",
                items.len()
            );
            self.output.note(&text);
        }
        Ok(())
    }
}

/// Carries out one command and prints what comes of it.
pub async fn run(cli: Cli) -> ExitCode {
    let mut output = Output::standard(cli.options.json);
    let result = match Connection::new(&cli.options) {
        Ok(connection) => {
            let mut context = Context { connection, output };
            let result = dispatch(cli.command, &mut context).await;
            output = context.output;
            result
        }
        Err(failure) => Err(failure),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::from(1),
        // Whoever read our output has seen enough, as `head` does.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            output.failure(&failure, &cli.options.server);
            ExitCode::from(exit_status(&failure))
        }
    }
}

async fn dispatch(command: Command, context: &mut Context) -> Result<Outcome, Failure> {
    match command {
        Command::Image(command) => image::run(command, context).await,
        Command::Policy(command) => trust::policy(command, context).await,
        Command::Keys(command) => keys::run(command, context).await,
        Command::Profile(command) => profile::run(command, context).await,
        Command::Device(command) => device::run(command, context).await,
        Command::Group(command) => group::run(command, context).await,
        Command::Gateway(command) => gateway::run(command, context).await,
        Command::Task(command) => task::run(*command, context).await,
        Command::Rollout(command) => rollout::run(*command, context).await,
        Command::Uplinks(args) => network::uplinks(args, context).await,
        Command::Network => network::show(context).await,
    }
}

fn exit_status(failure: &Failure) -> u8 {
    match failure {
        Failure::Usage(_) | Failure::Output(_) => 2,
        Failure::Refused(status) if is_disconnected(status) => 4,
        Failure::Refused(_) => 3,
    }
}
