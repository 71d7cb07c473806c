//! The forecast of a task, as JSON and for people.

use prost_types::Timestamp;
use serde_json::{Value, json};

use super::airtimes_json;
use crate::cli::moment::{airtime_text, duration_json, duration_text, now, time_json, time_text};
use crate::cli::names::{id, word, word_json};
use crate::cli::output::{fields, table};
use crate::proto::v1;

fn frames_json(frames: Option<&v1::FrameForecast>) -> Value {
    let frames = frames.copied().unwrap_or_default();
    json!({"low": frames.low, "expected": frames.expected, "high": frames.high})
}

/// `1240 (1210 to 1290)`.
fn frames_text(frames: Option<&v1::FrameForecast>) -> String {
    let frames = frames.copied().unwrap_or_default();
    format!("{} ({} to {})", frames.expected, frames.low, frames.high)
}

/// A forecast as JSON.
pub(super) fn plan_json(plan: &v1::Plan) -> Value {
    json!({
        "task": plan.task,
        "startable": plan.startable,
        "sessions": plan.sessions.iter().map(session_json).collect::<Vec<_>>(),
        "device_count": plan.device_count,
        "skipped_devices": plan.skipped_devices.iter().map(|skipped| json!({
            "device": skipped.device,
            "reason": word_json::<v1::DeviceReason>(skipped.reason),
            "message": skipped.message,
        })).collect::<Vec<_>>(),
        "skipped_device_count": plan.skipped_device_count,
        "problems": plan.problems.iter().map(|problem| json!({
            "field": problem.field,
            "reason": word_json::<v1::PlanProblemReason>(problem.reason),
            "message": problem.message,
            "blocking": problem.blocking,
        })).collect::<Vec<_>>(),
        "setup_duration": duration_json(plan.setup_duration.as_ref()),
        "frames": frames_json(plan.frames.as_ref()),
        "gateways": airtimes_json(&plan.gateways),
        "expected_start_time": time_json(plan.expected_start_time.as_ref()),
        "expected_end_time": time_json(plan.expected_end_time.as_ref()),
    })
}

fn session_json(session: &v1::PlannedSession) -> Value {
    json!({
        "wave": session.wave,
        "device_count": session.device_count,
        "region": word_json::<v1::Region>(session.region),
        "device_class": word_json::<v1::DeviceClass>(session.device_class),
        "data_rate": session.data_rate,
        "frequency_hz": session.frequency_hz,
        "fragmentation_version": session.fragmentation_version,
        "frag_algo": word_json::<v1::FragAlgo>(session.frag_algo),
        "frag_size": session.frag_size,
        "nb_frag": session.nb_frag,
        "padding_bytes": session.padding_bytes,
        "fragments": frames_json(session.fragments.as_ref()),
        "expected_loss_percent": session.expected_loss_percent,
        "gateways": airtimes_json(&session.gateways),
        "window_start": time_json(session.window_start.as_ref()),
        "expected_end_time": time_json(session.expected_end_time.as_ref()),
    })
}

/// A forecast for people: the sum first, then sessions, gateways, problems and skipped devices.
pub(super) fn plan_text(plan: &v1::Plan) -> String {
    let now = now();
    let mut parts = vec![summary(plan, &now)];
    if !plan.sessions.is_empty() {
        parts.push(sessions(&plan.sessions));
    }
    if !plan.gateways.is_empty() {
        let rows = plan
            .gateways
            .iter()
            .map(|it| vec![id(&it.gateway).into(), airtime_text(it.airtime_us)]);
        parts.push(table(&["GATEWAY", "AIR TIME"], rows));
    }
    if !plan.problems.is_empty() {
        let rows = plan.problems.iter().map(|problem| {
            vec![
                word::<v1::PlanProblemReason>(problem.reason),
                if problem.blocking {
                    "yes".into()
                } else {
                    "no".into()
                },
                problem.field.clone(),
                problem.message.clone(),
            ]
        });
        parts.push(table(&["PROBLEM", "BLOCKS", "FIELD", "WHAT"], rows));
    }
    if !plan.skipped_devices.is_empty() {
        let rows = plan.skipped_devices.iter().map(|skipped| {
            vec![
                id(&skipped.device).into(),
                word::<v1::DeviceReason>(skipped.reason),
                skipped.message.clone(),
            ]
        });
        parts.push(table(&["SKIPPED", "REASON", "WHY"], rows));
    }
    parts.join("\n\n")
}

fn summary(plan: &v1::Plan, now: &Timestamp) -> String {
    let skipped = if plan.skipped_device_count > 0 {
        format!(", {} skipped", plan.skipped_device_count)
    } else {
        String::new()
    };
    fields(&[
        ("task", plan.task.clone()),
        (
            "can be started",
            if plan.startable {
                "yes".into()
            } else {
                "no".into()
            },
        ),
        ("devices", format!("{}{skipped}", plan.device_count)),
        ("frames", frames_text(plan.frames.as_ref())),
        ("set-up takes", duration_text(plan.setup_duration.as_ref())),
        ("begins", time_text(plan.expected_start_time.as_ref(), now)),
        ("ends", time_text(plan.expected_end_time.as_ref(), now)),
    ])
}

fn sessions(sessions: &[v1::PlannedSession]) -> String {
    let header = [
        "WAVE",
        "DEVICES",
        "REGION",
        "CLASS",
        "DR",
        "FREQUENCY",
        "TS004",
        "CODE",
        "UNCODED",
        "SIZE",
        "FRAGMENTS",
        "LOSS",
        "OPENS",
        "LAST FRAGMENT",
    ];
    let time = |time: Option<Timestamp>| {
        time.map_or_else(String::new, |time| {
            Timestamp { nanos: 0, ..time }.to_string()
        })
    };
    let rows = sessions.iter().map(|session| {
        vec![
            session.wave.to_string(),
            session.device_count.to_string(),
            word::<v1::Region>(session.region),
            word::<v1::DeviceClass>(session.device_class),
            session.data_rate.to_string(),
            session.frequency_hz.to_string(),
            format!("v{}", session.fragmentation_version),
            word::<v1::FragAlgo>(session.frag_algo),
            session.nb_frag.to_string(),
            session.frag_size.to_string(),
            frames_text(session.fragments.as_ref()),
            format!("{:.1} %", session.expected_loss_percent),
            time(session.window_start),
            time(session.expected_end_time),
        ]
    });
    table(&header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_plan_says_why() {
        let plan = v1::Plan {
            task: "tasks/a".into(),
            device_count: 18,
            skipped_device_count: 2,
            frames: Some(v1::FrameForecast {
                low: 240,
                expected: 270,
                high: 300,
            }),
            problems: vec![v1::PlanProblem {
                field: "deadline".into(),
                reason: v1::PlanProblemReason::DeadlineTooShort.into(),
                message: "needs 3 h, has 2 h".into(),
                blocking: true,
            }],
            ..Default::default()
        };
        assert_eq!(
            plan_text(&plan),
            "task:            tasks/a\ncan be started:  no\ndevices:         18, 2 skipped\n\
             frames:          270 (240 to 300)\n\n\
             PROBLEM             BLOCKS  FIELD     WHAT\n\
             DEADLINE_TOO_SHORT  yes     deadline  needs 3 h, has 2 h"
        );
        assert_eq!(plan_json(&plan)["problems"][0]["blocking"], true);
        assert_eq!(plan_json(&plan)["frames"]["high"], 300);
    }
}
