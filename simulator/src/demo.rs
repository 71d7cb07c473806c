//! README's first command: a server, gateways and end-devices, and a signed image that all of them run at the end.
//!
//! Nothing here is special: the server is the `fuota` binary as a child process, the operator speaks gRPC, the gateways
//! speak UDP. Kill the server as often as you like; the demo starts it again and the task goes on.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lorawan_fuota::proto::v1::{
    FuotaTask, RebootMode, SuccessCriterion, TaskDevice, TaskState, Verdict,
};
use lorawan_fuota::time::Timestamp;
use serde_json::json;
use tokio::sync::watch;

use crate::bound;
use crate::channel::{Channel, ChannelConfig, Link};
use crate::device::{EndDevice, StackProfile};
use crate::fleet::{Fleet, FleetOptions, NEW_VERSION, OLD_VERSION, Stacks};
use crate::gateway::{Gateway, GatewayConfig};
use crate::lab::Lab;
use crate::operator::{Operator, Progress};
use crate::realtime::{LabView, RealTime, WallClock};
use crate::server::Server;

/// What the demo can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// End-devices.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub devices: u32,
    /// Gateways; every device hears all of them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub gateways: u32,
    /// Frames lost, in percent, in each direction.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=60))]
    pub loss: u32,
    /// Where all randomness of the radio comes from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The stack of the devices, or "mix" for all known ones in turn.
    #[arg(long, default_value = "spec-v2", value_parser = Stacks::from_name)]
    pub stack: Stacks,
    /// Print a summary as one JSON object on the last line.
    #[arg(long)]
    pub json: bool,
    /// The `fuota` binary; built when not given.
    #[arg(long, value_name = "FILE")]
    pub fuota: Option<PathBuf>,
    /// Keep the server's database and log here instead of a directory that is removed.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Bytes of real machine code in the image.
const BODY: usize = 20_000;
/// From the start of the task to its distribution window: a few exchanges with each device.
const SETUP: Duration = Duration::from_secs(25);
/// All devices are to have joined by then.
const JOINED_WITHIN: Duration = Duration::from_secs(120);
/// The task gives up after.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// What the demo showed.
struct Shown {
    fleet: Fleet,
    image_bytes: usize,
    progress: Progress,
    nb_frag: u32,
    gateways_used: u32,
    restarts: u32,
    took: Duration,
    view: LabView,
}

/// Runs the demo. Succeeds only if every device runs the new version.
pub fn run(args: &DemoArgs) -> ExitCode {
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(show(args)));
    match result {
        Ok(shown) => report(args, &shown),
        Err(error) => {
            say(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn show(args: &DemoArgs) -> Result<Shown> {
    let binary = match &args.fuota {
        Some(binary) => binary.clone(),
        None => build_fuota().await?,
    };
    let scratch = tempfile::tempdir()?;
    let data = args
        .data
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    let fleet = Fleet::new(FleetOptions {
        seed: args.seed,
        devices: args.devices,
        gateways: args.gateways,
        loss: f64::from(args.loss) / 100.0,
        stacks: args.stack,
        ..FleetOptions::default()
    });
    let mut server = Server::start(&binary, &data).await?;
    let ports = server.ports().clone();
    say(&format!(
        "server    pid {}, gRPC {}, UDP {}, log {}",
        ports.pid,
        ports.grpc,
        ports.udp,
        server.log().display()
    ));
    let clock = WallClock::start();
    let operator = Operator::new(&ports.grpc, &format!("demo-{}", clock.now().as_micros()))?;
    let image = fleet.image(&machine_code(&binary, BODY)?)?;
    let (watched, task) = enter(&operator, &fleet, &image).await?;
    let mut lab = RealTime::open(lab(&fleet, clock.now()), clock, ports.udp.parse()?).await?;
    let view = lab.observe();
    let began = clock.now();
    let radio = lab.run_until(std::future::pending::<()>());
    let mut restarts = 0;
    let scenario = async {
        joined(&fleet, view.clone()).await?;
        say(&format!(
            "joined    {} end-devices over {} gateways",
            fleet.devices.len(),
            fleet.gateways.len()
        ));
        let started = operator
            .run_task("demo", &task_record(&task, clock.now()), watched)
            .await?;
        say(&format!(
            "task      {} started; try: fuota --server http://{} task watch {}",
            started.name, ports.grpc, started.name
        ));
        follow(&operator, &started.name, clock, began).await
    };
    let progress = tokio::select! {
        progress = scenario => progress?,
        () = radio => bail!("the radio ended"),
        error = keep_alive(&mut server, &mut restarts) => return Err(error),
    };
    let sessions = operator.sessions(&progress.task.name).await?;
    let used: std::collections::BTreeSet<_> = sessions
        .iter()
        .flat_map(|s| &s.gateways)
        .map(|g| g.gateway.clone())
        .collect();
    let shown = Shown {
        image_bytes: image.len(),
        nb_frag: sessions.first().map_or(0, |s| s.nb_frag),
        gateways_used: u32::try_from(used.len().max(1)).unwrap_or(1),
        restarts,
        took: clock.now().since(began),
        view: view.borrow().clone(),
        fleet,
        progress,
    };
    server.stop().await?;
    Ok(shown)
}

fn profile_id(stack: StackProfile) -> String {
    format!("demo-{}", stack.name())
}

/// Enters fleet and image; returns the devices' names and the task to run.
async fn enter(
    operator: &Operator,
    fleet: &Fleet,
    image: &[u8],
) -> Result<(Vec<String>, FuotaTask)> {
    operator.create_gateways(&fleet.gateway_records()).await?;
    let mut records = Vec::new();
    for stack in fleet.distinct_stacks() {
        let profile = operator
            .create_profile(&profile_id(stack), &fleet.profile_record(stack))
            .await?;
        records.extend(fleet.device_records(stack, &profile));
    }
    let devices = operator.create_devices(records).await?;
    operator
        .trust("README demo", crate::fleet::MODEL, fleet.public_key_pem())
        .await?;
    let uploaded = operator.upload(&fleet.image_metadata(), image).await?;
    say(&format!(
        "image     {} bytes, signed, version {} -> {}",
        image.len(),
        OLD_VERSION,
        NEW_VERSION
    ));
    let task = FuotaTask {
        display_name: "README demo".to_owned(),
        images: vec![uploaded.name],
        success_criterion: SuccessCriterion::Running.into(),
        reboot_mode: RebootMode::WhenReady.into(),
        data_rate: Some(fleet.options.data_rate.into()),
        max_redundancy_percent: Some(200),
        ..FuotaTask::default()
    };
    Ok((devices, task))
}

fn task_record(task: &FuotaTask, now: Timestamp) -> FuotaTask {
    let at = |after| {
        let micros = (now + after).as_micros();
        let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0);
        Some(prost_types::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            nanos,
        })
    };
    FuotaTask {
        window_start: at(SETUP),
        deadline: at(DEADLINE),
        ..task.clone()
    }
}

pub(crate) fn lab(fleet: &Fleet, start: Timestamp) -> Lab {
    let (seed, loss) = (fleet.options.seed, fleet.options.loss);
    let devices = fleet
        .devices
        .iter()
        .cloned()
        .map(|config| EndDevice::new(config, seed, start));
    let gateways = fleet
        .gateways
        .iter()
        .map(|eui| Gateway::new(GatewayConfig::new(*eui, fleet.options.region)));
    let channel = ChannelConfig {
        uplink_loss: loss,
        downlink_loss: loss,
        // The stated loss is all there is, so that it can be held against the bound.
        collisions: false,
    };
    let mut channel = Channel::new(channel, seed);
    // All devices are near all gateways, so that one gateway serves them.
    for gateway in &fleet.gateways {
        for device in &fleet.devices {
            let near = Link {
                rssi_dbm: -75,
                snr_db: 10.0,
                uplink_loss: loss,
                downlink_loss: loss,
            };
            channel.set_link(*gateway, device.dev_eui, Some(near));
        }
    }
    Lab::new(devices.collect(), gateways.collect(), channel)
}

async fn joined(fleet: &Fleet, mut view: watch::Receiver<LabView>) -> Result<()> {
    let all = fleet.devices.len();
    let joined = view.wait_for(|v| v.devices.iter().filter(|d| d.is_activated).count() == all);
    tokio::time::timeout(JOINED_WITHIN, joined)
        .await
        .context("not all devices have joined")??;
    Ok(())
}

/// Starts the server again whenever it dies; returns when that fails.
async fn keep_alive(server: &mut Server, restarts: &mut u32) -> anyhow::Error {
    loop {
        if let Err(error) = server.restart_when_dead().await {
            return error;
        }
        *restarts += 1;
        say(&format!(
            "server    died, started again: pid {}",
            server.ports().pid
        ));
    }
}

/// Follows the task with a live line on a terminal, and a line per change of state elsewhere.
async fn follow(
    operator: &Operator,
    name: &str,
    clock: WallClock,
    began: Timestamp,
) -> Result<Progress> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(1)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(
        ProgressStyle::with_template("{msg:<14} [{bar:40}] {prefix}")?.progress_chars("=> "),
    );
    let mut state = TaskState::Unspecified;
    let progress = operator
        .watch(name, |progress| {
            let task = &progress.task;
            if task.state() != state {
                state = task.state();
                let at = clock.now().since(began).as_secs_f64();
                let name = state.as_str_name().trim_start_matches("TASK_STATE_");
                bar.suspend(|| say(&format!("{at:6.1} s  task {name}")));
            }
            let counts = task.device_counts.unwrap_or_default();
            let frames = task.frame_counts.unwrap_or_default();
            bar.set_length(counts.total.max(1).into());
            bar.set_position(counts.ended.into());
            bar.set_message(format!("{} of {} ended", counts.ended, counts.total));
            bar.set_prefix(format!(
                "fragments {}+{}  ready {}  receiving {}  received {}  rebooting {}  running {}",
                frames.uncoded_fragments_sent,
                frames.coded_fragments_sent,
                counts.ready,
                counts.receiving,
                counts.reported_received + counts.verified,
                counts.rebooting,
                counts.running,
            ));
        })
        .await?;
    bar.finish_and_clear();
    Ok(progress)
}

fn report(args: &DemoArgs, shown: &Shown) -> ExitCode {
    let counts = shown.progress.task.frame_counts.unwrap_or_default();
    let frames_sent = counts.uncoded_fragments_sent + counts.coded_fragments_sent;
    let loss = shown.fleet.options.loss;
    let devices = u32::try_from(shown.fleet.devices.len()).unwrap_or(u32::MAX);
    let bound =
        bound::expected_frames(shown.nb_frag, loss, devices) * f64::from(shown.gateways_used);
    // The verdict of the server, held against what the simulated devices really run.
    let really = shown
        .view
        .devices
        .iter()
        .filter(|d| d.running_version == NEW_VERSION.to_ts006())
        .count();
    let updated = shown
        .progress
        .devices
        .values()
        .filter(|d| d.verdict() == Verdict::Succeeded)
        .count();
    say(&verdicts(shown));
    let seconds = shown.took.as_secs_f64();
    say(&format!(
        "{updated} of {devices} end-devices run version {NEW_VERSION} ({really} by their own word)\n\
         {} bytes in {} fragments; {frames_sent} multicast fragments sent, the least possible is {bound:.1} ({:.2}x)\n\
         {:.1} s of air time in all, {} status polls, {} unicast frames, {} gateway(s) used\n\
         {} radio rules broken, {} frame counters used twice\n\
         {seconds:.1} s from the start of the radio to the last verdict, server restarted {} times",
        shown.image_bytes,
        shown.nb_frag,
        f64::from(u32::try_from(frames_sent).unwrap_or(u32::MAX)) / bound,
        Duration::from_micros(shown.progress.task.airtime_us).as_secs_f64(),
        counts.status_polls_sent,
        counts.unicast_frames_sent,
        shown.gateways_used,
        shown.view.breaches,
        shown.view.counters_reused,
        shown.restarts,
    ));
    let clean = shown.view.breaches == 0 && shown.view.counters_reused == 0;
    let all = updated == shown.fleet.devices.len() && really == updated && clean;
    if args.json {
        print_line(&json!({
            "devices": devices,
            "updated": updated.min(really),
            "frames_sent": frames_sent,
            "frames_bound": (bound * 10.0).round() / 10.0,
            "airtime_seconds": Duration::from_micros(shown.progress.task.airtime_us).as_secs_f64(),
            "server_restarts": shown.restarts,
            "seconds": (seconds * 10.0).round() / 10.0,
        }));
    }
    if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn verdicts(shown: &Shown) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "end-device",
        "state",
        "reason",
        "fragments",
        "attempts",
        "evidence",
    ]);
    for device in shown.progress.devices.values() {
        table.add_row(verdict(device));
    }
    table.to_string()
}

fn verdict(device: &TaskDevice) -> [String; 6] {
    let short = |name: &str, prefix| name.trim_start_matches(prefix).to_owned();
    [
        device.device.trim_start_matches("devices/").to_owned(),
        short(device.state().as_str_name(), "TASK_DEVICE_STATE_"),
        short(device.reason().as_str_name(), "DEVICE_REASON_").replace("UNSPECIFIED", ""),
        device
            .fragments_received
            .map_or_else(String::new, |n| format!("{n} of {}", device.nb_frag)),
        device.attempts.to_string(),
        device.evidence.clone(),
    ]
}

/// The first bytes of a program: a real file, and a different one for every build.
pub(crate) fn machine_code(program: &Path, bytes: usize) -> Result<Vec<u8>> {
    let mut code = std::fs::read(program).with_context(|| format!("{}", program.display()))?;
    code.truncate(bytes);
    Ok(code)
}

/// Builds the server in the profile this program was built in, and says where it is.
async fn build_fuota() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folder = here.parent().context("this program has no folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = tokio::process::Command::new(cargo);
    build.args([
        "build",
        "--quiet",
        "--package",
        "lorawan-fuota",
        "--bin",
        "fuota",
    ]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if !build.status().await.context("cargo")?.success() {
        bail!("the server cannot be built");
    }
    Ok(folder.join("fuota"))
}

#[expect(
    clippy::print_stderr,
    reason = "what people read goes there, so that programs can read the other"
)]
fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "the summary for programs")]
fn print_line(value: &serde_json::Value) {
    println!("{value}");
}
