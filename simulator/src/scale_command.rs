//! `fuota-sim scale`: arguments, and what a large network cost.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::scale::{ScaleOptions, Scaled, run as simulate};

/// Arguments of `fuota-sim scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Devices.
    #[arg(long, default_value_t = 100_000)]
    devices: u32,
    /// Gateways; each device reaches one to three of them.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    gateways: u32,
    /// Uncoded fragments.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=8000))]
    nb_frag: u32,
    /// Frames lost on each link, in percent, in each direction.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=60))]
    loss: u32,
    /// Everything else follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Minutes between two uplinks of a device.
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// Such intervals from the start of the task to its window.
    #[arg(long, default_value_t = 6)]
    setup_intervals: u32,
    /// One device of so many keeps payloads and checks the image; at least ten do.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    sample_every: u32,
    /// Do without the second thread, on which store and checkers work.
    #[arg(long)]
    one_thread: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs and prints; fails when a property of the product was broken, or a device was not updated.
#[expect(clippy::print_stdout, reason = "the result of the command")]
pub fn run(args: &ScaleArgs) -> ExitCode {
    let options = ScaleOptions {
        devices: args.devices,
        gateways: args.gateways,
        nb_frag: args.nb_frag,
        loss: f64::from(args.loss) / 100.0,
        seed: args.seed,
        uplink_interval: Duration::from_secs(60 * args.interval),
        setup_intervals: args.setup_intervals,
        sample_every: args.sample_every,
        aside: !args.one_thread,
    };
    let scaled = simulate(&options);
    let cost = Cost {
        processor: processor_time(),
        peak_kib: peak_memory_kib(),
    };
    if args.json {
        println!("{}", json(&options, &scaled, &cost));
    } else {
        print!("{}", text(&options, &scaled, &cost));
    }
    let good = scaled.violations.is_empty() && scaled.updated == scaled.devices;
    if good && scaled.sample_good == scaled.sample {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What this process took of its machine, if the system tells.
struct Cost {
    processor: Option<Duration>,
    peak_kib: Option<u64>,
}

fn text(options: &ScaleOptions, scaled: &Scaled, cost: &Cost) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        out.push_str(&format!("{name:<24}{value}\n"));
    };
    line("devices", scaled.devices.to_string());
    line("gateways", options.gateways.to_string());
    line("fragments on air", scaled.fragments.to_string());
    for (uncoded, coded, rounds) in &scaled.sessions {
        let session = format!("{uncoded} uncoded, {coded} coded fragments, {rounds} rounds");
        line("  in a session", session);
    }
    line("downlinks of gateways", scaled.downlinks.to_string());
    line("uplinks", scaled.uplinks.to_string());
    line("transactions", scaled.commits.to_string());
    line("updated", scaled.updated.to_string());
    line(
        "decoded in full",
        format!("{} of {}", scaled.sample_good, scaled.sample),
    );
    line("virtual time", hours(scaled.duration));
    line("wall time", format!("{:.1} s", scaled.wall.as_secs_f64()));
    if let Some(time) = cost.processor {
        line("processor time", format!("{:.1} s", time.as_secs_f64()));
    }
    if let Some(peak) = cost.peak_kib {
        let each = peak * 1024 / scaled.devices.max(1);
        line(
            "peak memory",
            format!("{} MiB, {each} bytes per device", peak / 1024),
        );
    }
    line(
        "per device-fragment",
        format!("{:.0} ns", per_device_fragment_ns(scaled)),
    );
    line("fingerprint", format!("{:016x}", scaled.fingerprint));
    line("violations", scaled.violations.len().to_string());
    for violation in scaled.violations.iter().take(20) {
        out.push_str(&format!("  {violation}\n"));
    }
    out
}

fn json(options: &ScaleOptions, scaled: &Scaled, cost: &Cost) -> serde_json::Value {
    serde_json::json!({
        "devices": scaled.devices,
        "gateways": options.gateways,
        "nb_frag": options.nb_frag,
        "loss": options.loss,
        "seed": options.seed,
        "fragments": scaled.fragments,
        "sessions": scaled.sessions,
        "device_fragments": scaled.device_fragments,
        "downlinks": scaled.downlinks,
        "uplinks": scaled.uplinks,
        "commits": scaled.commits,
        "updated": scaled.updated,
        "sample": scaled.sample,
        "sample_good": scaled.sample_good,
        "virtual_seconds": scaled.duration.as_secs_f64(),
        "wall_seconds": scaled.wall.as_secs_f64(),
        "processor_seconds": cost.processor.map(|time| time.as_secs_f64()),
        "peak_kib": cost.peak_kib,
        "ns_per_device_fragment": per_device_fragment_ns(scaled),
        "fingerprint": format!("{:016x}", scaled.fingerprint),
        "violations": scaled.violations,
    })
}

/// All the time there was, set-up and checks included, by devices and fragments sent for them.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of devices and fragments"
)]
fn per_device_fragment_ns(scaled: &Scaled) -> f64 {
    scaled.wall.as_secs_f64() * 1e9 / scaled.device_fragments.max(1) as f64
}

fn hours(duration: Duration) -> String {
    let minutes = duration.as_secs() / 60;
    format!("{} h {:02} min", minutes / 60, minutes % 60)
}

/// Time all threads of this process spent on processors, of the program and of the system for it.
fn processor_time() -> Option<Duration> {
    /// Linux tells programs of hundredths of seconds, whatever it counts in itself.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program comes before, in brackets; utime and stime are the twelfth and thirteenth field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(|n| n.parse::<u32>().ok()).sum::<Option<u32>>()?;
    Some(TICK * ticks)
}

/// The most memory this process ever held, if the system tells.
fn peak_memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}
