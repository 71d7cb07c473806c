//! An outcome as people read it.

use std::fmt::Write as _;
use std::time::Duration;

use super::Outcome;
use super::kinds::spoken;

/// Devices listed one by one at most, of those that are not updated.
const LISTED_MAX: usize = 20;

/// The outcome in words and tables.
pub fn summary(outcome: &Outcome) -> String {
    let mut text = format!("{} (seed {})\n", outcome.scenario, outcome.seed);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  task       {}", outcome.task_in_words());
    if let Some(seconds) = outcome.duration_s {
        let took = spoken(Duration::from_secs_f64(seconds.max(0.0)));
        let _ = writeln!(text, "  duration   {took}");
    }
    let frames = &outcome.frames;
    let _ = writeln!(
        text,
        "  frames     {} uncoded + {} coded fragments, {} polls, {} unicast, {} refused; {:.1} s on air",
        frames.uncoded,
        frames.coded,
        frames.polls,
        frames.unicast,
        frames.refused,
        outcome.airtime_s
    );
    for session in &outcome.sessions {
        let _ = writeln!(
            text,
            "  session {:<2} class {}, DR{}, {} x {} bytes ({} ms each), {} gateway(s), {} window(s), {} round(s)",
            session.number,
            session.class,
            session.data_rate,
            session.nb_frag,
            session.frag_size,
            session.frame_us / 1000,
            session.gateways,
            session.windows,
            session.rounds
        );
    }
    if outcome.server_crashes > 0 {
        let _ = writeln!(text, "  server     died {} time(s)", outcome.server_crashes);
    }
    let mut groups = table(["group", "devices", "updated", "ends"]);
    for group in &outcome.groups {
        groups.add_row([
            group.name.clone(),
            group.devices.to_string(),
            group.updated.to_string(),
            group.ends_in_words(),
        ]);
    }
    let _ = writeln!(text, "{groups}");
    let failed: Vec<_> = outcome
        .devices
        .iter()
        .filter(|device| !device.updated)
        .collect();
    if !failed.is_empty() {
        let mut devices = table(["not updated", "state", "reason", "evidence"]);
        for device in failed.iter().take(LISTED_MAX) {
            devices.add_row([
                device.dev_eui.as_str(),
                &device.state,
                device.reason.as_deref().unwrap_or_default(),
                &device.evidence,
            ]);
        }
        let _ = writeln!(text, "{devices}");
        if failed.len() > LISTED_MAX {
            let _ = writeln!(text, "  and {} more", failed.len() - LISTED_MAX);
        }
    }
    for violation in outcome.violations.iter().take(LISTED_MAX) {
        let _ = writeln!(text, "  broken     {violation}");
    }
    let mut expectations = table(["", "expectation", "expected", "was"]);
    for judged in &outcome.expectations {
        let sign = if judged.held { "ok" } else { "NOT" };
        expectations.add_row([sign, &judged.name, &judged.expected, &judged.was]);
    }
    let _ = writeln!(text, "{expectations}");
    let verdict = if outcome.passed { "passed" } else { "FAILED" };
    let _ = writeln!(text, "  {verdict}");
    text
}

fn table(header: [&str; 4]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    table
}
