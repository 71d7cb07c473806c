//! A scenario's run as one HTML page: what came of it, over time, by gateway, by device and on a map.
//!
//! The page is self-contained: no script, no font, no picture from elsewhere. [`record`] runs a scenario with a
//! [`Recording`]; [`page`] draws.

mod air;
mod chart;
mod map;
mod recording;
mod style;
mod timeline;

use std::fmt::Write as _;

use lorawan_fuota::lorawan::identifiers::GatewayEui;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::{DistributionSession, TaskDevice};
use lorawan_fuota::time::Timestamp;

use crate::checkers::{FragmentOnAir, SentFrame};
use crate::energy::PowerProfile;
use crate::scenario::{FaultKind, Outcome, Running, Scenario, TimedFault};
use crate::svg::escape;

use chart::{TimeAxis, clock, legend, real};

pub use recording::{Recording, Sample};

/// Devices whose end is told one by one.
const MOST_FAILED: usize = 100;
/// Lines of a device's own log.
const LOG_LINES: usize = 12;

/// What the pictures are drawn from.
struct Picture<'a> {
    axis: TimeAxis,
    region: Region,
    sessions: &'a [DistributionSession],
    /// Devices of the task by EUI.
    devices: &'a [TaskDevice],
    fragments: &'a [FragmentOnAir],
    frames: &'a [SentFrame],
    gateways: Vec<(GatewayEui, String)>,
    faults: Vec<(Timestamp, String)>,
    recording: &'a Recording,
}

/// Runs a scenario and writes down what its page needs.
///
/// # Panics
/// As [`Running::new`].
pub fn record(scenario: &Scenario, seed: u64) -> (Running, Outcome, Recording) {
    let mut running = Running::new(scenario, seed);
    running
        .world
        .checkers_mut(crate::checkers::Checkers::keep_frames);
    running.begin();
    let mut recording = Recording::new(running.task.id.clone(), running.begun);
    running.follow_with(&mut |world| recording.look(world));
    let outcome = running.outcome();
    (running, outcome, recording)
}

/// The page of a run.
pub fn page(running: &Running, outcome: &Outcome, recording: &Recording) -> String {
    let id = &running.task.id;
    let sessions = running.world.sessions(id);
    let devices = running.world.task_devices(id);
    let task = running.world.task(id);
    let ended = task.and_then(|task| task.ended_at);
    let to = ended.unwrap_or_else(|| running.world.now());
    let fault = |fault: &TimedFault| (running.begun + fault.at, fault_words(running, fault));
    let drawn = running.world.checkers(|checkers| {
        let picture = Picture {
            axis: TimeAxis::new(running.begun, to),
            region: running.scenario.region,
            sessions: &sessions,
            devices: &devices,
            fragments: checkers.fragments(),
            frames: checkers.frames(),
            gateways: running
                .site
                .gateways
                .iter()
                .map(|gateway| (gateway.eui, gateway.name.clone()))
                .collect(),
            faults: running.scenario.timed.iter().map(fault).collect(),
            recording,
        };
        Drawn {
            timeline: timeline::timeline(&picture),
            progress: timeline::progress(&picture),
            heat: timeline::heat(&picture),
            air: air::gateways(&picture),
            map: map::map(&picture, &running.site, outcome),
        }
    });
    let mut out = head(running, outcome);
    tiles(&mut out, running, outcome, &devices);
    expectations(&mut out, outcome);
    groups(&mut out, outcome);
    let legend = legend();
    section(
        &mut out,
        "Sessions",
        "Windows (shaded), uncoded fragments (blue), coded ones (yellow), status rounds (red), by the time since the start.",
        &drawn.timeline,
    );
    section(
        &mut out,
        "Progress",
        "Share of the devices by state; the line is the share of the image they hold in the mean.",
        &format!("{}{legend}", drawn.progress),
    );
    section(
        &mut out,
        "Every device",
        "A row for each device, those that failed first; while it receives, darker is more.",
        &drawn.heat,
    );
    section(
        &mut out,
        "Air of the gateways",
        "Of the sub-band that came nearest to its limit, over time.",
        &drawn.air,
    );
    section(
        &mut out,
        "Map",
        "Gateways are triangles, devices are coloured by where they ended.",
        &format!("{}{legend}", drawn.map),
    );
    failed(&mut out, running, outcome);
    violations(&mut out, outcome);
    out += "</main></body></html>\n";
    out
}

struct Drawn {
    timeline: String,
    progress: String,
    heat: String,
    air: String,
    map: String,
}

fn head(running: &Running, outcome: &Outcome) -> String {
    let name = escape(&outcome.scenario);
    let about = escape(&running.scenario.about);
    let (class, word) = if outcome.passed {
        ("badge", "passed")
    } else {
        ("badge no", "failed")
    };
    let words = escape(&outcome.task_in_words());
    let style = style::STYLE;
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{name}</title><style>{style}</style></head><body><main>\
         <h1>{name} <span class=\"{class}\">{word}</span></h1>\
         <p>{about}</p><p>Task {words}; region {}, seed {}.</p>",
        running.scenario.region.name(),
        outcome.seed
    )
}

fn tiles(out: &mut String, running: &Running, outcome: &Outcome, devices: &[TaskDevice]) {
    let total = outcome.total();
    let frames = &outcome.frames;
    let now = running.world.now();
    let served: Vec<_> = devices.iter().map(|d| d.dev_eui).collect();
    let joules: Vec<f64> = running.world.lab(|lab| {
        let mine = lab
            .devices()
            .filter(|d| served.binary_search(&d.dev_eui()).is_ok());
        mine.map(|d| PowerProfile::RADIO.joules(now.since(running.begun), d.radio_time(now)))
            .collect()
    });
    let mean = joules.iter().sum::<f64>() / real(joules.len().max(1));
    let most = joules.iter().copied().fold(0.0, f64::max);
    let multicast = frames.uncoded + frames.coded + frames.polls;
    let duration = outcome
        .duration_s
        .map_or_else(|| "not ended".to_owned(), clock);
    let tiles = [
        (
            format!("{} of {}", total.updated, total.devices),
            "devices updated".to_owned(),
        ),
        (duration, "from start to end".to_owned()),
        (
            multicast.to_string(),
            format!(
                "multicast frames, {} coded, {} polls",
                frames.coded, frames.polls
            ),
        ),
        (
            frames.unicast.to_string(),
            "frames to single devices".to_owned(),
        ),
        (
            format!("{:.0} s", outcome.airtime_s),
            "on air, all gateways".to_owned(),
        ),
        (
            format!("{mean:.1} J"),
            format!("radio energy of a device, at most {most:.1} J"),
        ),
    ];
    *out += "<div class=\"tiles\">";
    for (figure, words) in tiles {
        let _ = write!(
            out,
            "<div class=\"tile\"><b>{}</b><span>{}</span></div>",
            escape(&figure),
            escape(&words)
        );
    }
    *out += "</div>";
}

fn expectations(out: &mut String, outcome: &Outcome) {
    let mut rows =
        String::from("<table><tr><th></th><th>expectation</th><th>expected</th><th>was</th></tr>");
    for judged in &outcome.expectations {
        let class = if judged.held { "yes" } else { "no" };
        let _ = write!(
            rows,
            "<tr><td class=\"{class}\"></td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&judged.name),
            escape(&judged.expected),
            escape(&judged.was)
        );
    }
    section(out, "Expectations", "", &(rows + "</table>"));
}

fn groups(out: &mut String, outcome: &Outcome) {
    let mut rows = String::from(
        "<table><tr><th>group</th><th>devices</th><th>updated</th><th>ended as</th></tr>",
    );
    for group in &outcome.groups {
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&group.name),
            group.devices,
            group.updated,
            escape(&group.ends_in_words())
        );
    }
    section(out, "Groups", "", &(rows + "</table>"));
}

fn failed(out: &mut String, running: &Running, outcome: &Outcome) {
    let failed: Vec<_> = outcome.devices.iter().filter(|d| !d.updated).collect();
    if failed.is_empty() {
        return section(out, "Devices that were not updated", "", "<p>None.</p>");
    }
    let mut rows = String::from(
        "<table><tr><th>device</th><th>group</th><th>ended as</th><th>evidence</th></tr>",
    );
    for device in failed.iter().take(MOST_FAILED) {
        let reason = device
            .reason
            .as_deref()
            .map_or(String::new(), |r| format!(" ({r})"));
        let log = own_log(running, &device.dev_eui);
        let log = if log.is_empty() {
            String::new()
        } else {
            format!(
                "<details><summary>what it says itself</summary><pre>{}</pre></details>",
                escape(&log)
            )
        };
        let _ = write!(
            rows,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}{}</td><td>{}{log}</td></tr>",
            escape(&device.dev_eui),
            escape(&device.group),
            escape(&device.state),
            escape(&reason),
            escape(&device.evidence)
        );
    }
    rows += "</table>";
    let more = failed.len().saturating_sub(MOST_FAILED);
    if more > 0 {
        let _ = write!(rows, "<p>And {more} more.</p>");
    }
    section(out, "Devices that were not updated", "", &rows);
}

/// The last lines of a device's log.
fn own_log(running: &Running, dev_eui: &str) -> String {
    let found = running
        .site
        .devices
        .iter()
        .find(|d| d.dev_eui.to_string() == dev_eui);
    let Some(placed) = found else {
        return String::new();
    };
    running.world.lab(|lab| {
        let Some(device) = lab.device(placed.dev_eui) else {
            return String::new();
        };
        let lines: Vec<String> = device
            .log()
            .iter()
            .map(|(at, text)| format!("{} {text}", clock(at.since(running.begun).as_secs_f64())))
            .collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    })
}

fn violations(out: &mut String, outcome: &Outcome) {
    if outcome.violations.is_empty() {
        return;
    }
    let lines: Vec<String> = outcome.violations.iter().map(|v| escape(v)).collect();
    let body = format!("<pre>{}</pre>", lines.join("\n"));
    section(out, "Properties of the product that were broken", "", &body);
}

fn section(out: &mut String, title: &str, words: &str, body: &str) {
    let words = if words.is_empty() {
        String::new()
    } else {
        format!("<p>{}</p>", escape(words))
    };
    let _ = write!(
        out,
        "<section><h2>{}</h2>{words}{body}</section>",
        escape(title)
    );
}

fn fault_words(running: &Running, fault: &TimedFault) -> String {
    let gateway = |index: Option<usize>| {
        let named = index.and_then(|at| running.site.gateways.get(at));
        named.map_or_else(|| "all gateways".to_owned(), |g| g.name.clone())
    };
    match &fault.what {
        FaultKind::GatewayDown {
            gateway: which,
            power: true,
            ..
        } => {
            format!("{}: power cut", gateway(*which))
        }
        FaultKind::GatewayDown { gateway: which, .. } => format!("{}: line cut", gateway(*which)),
        FaultKind::GatewayUp { gateway: which } => format!("{}: back", gateway(*which)),
        FaultKind::ServerCrash { .. } => "server dies".to_owned(),
        FaultKind::Reboot(_) => "devices reboot".to_owned(),
        FaultKind::Vanish(_) => "devices vanish".to_owned(),
        FaultKind::ClockStep { .. } => "clocks stepped".to_owned(),
        FaultKind::Interference { .. } => "interference".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
name = "Small <world>"
region = "EU868"
[[gateway]]
name = "roof"
[[group]]
name = "sensors"
count = 3
link = { loss = "10 %" }
[image]
size = "1 kB"
[task]
data_rate = 5
[expect]
updated = "all"
"#;

    #[test]
    fn a_page_holds_every_part_and_nothing_from_elsewhere() {
        let scenario = Scenario::read(SMALL, "small.toml").unwrap();
        let (running, outcome, recording) = record(&scenario, 1);
        assert!(outcome.passed, "{outcome:#?}");
        let page = page(&running, &outcome, &recording);
        for part in [
            "Expectations",
            "Sessions",
            "Progress",
            "Every device",
            "Air of the gateways",
            "Map",
        ] {
            assert!(page.contains(&format!("<h2>{part}</h2>")), "{part}");
        }
        assert!(page.contains("Small &lt;world&gt;") && !page.contains("Small <world>"));
        assert!(page.contains("<title>roof</title>"));
        assert!(page.contains("3 of 3"));
        // The one address is that of the SVG name space.
        let addresses = page.matches("http").count();
        assert_eq!(
            addresses,
            page.matches("http://www.w3.org/2000/svg").count()
        );
        assert!(!page.contains("<script"));
        let samples = &recording.samples;
        assert!(samples.len() > 10, "{}", samples.len());
        assert!(
            samples
                .last()
                .unwrap()
                .held
                .values()
                .all(|held| *held == 100)
        );
        assert!(
            samples
                .first()
                .unwrap()
                .held
                .values()
                .all(|held| *held == 0)
        );
    }
}
