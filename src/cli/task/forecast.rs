//! The forecast of a task, as JSON and for people.

use prost_types::Timestamp;
use serde_json::{Value, json};

use super::airtimes_json;
use crate::cli::image::short;
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
        "gateway_air": plan.gateway_air.iter().map(air_json).collect::<Vec<_>>(),
        "end": span_json(plan.end.as_ref()),
        "deadline": time_json(plan.deadline.as_ref()),
        "success_percent": plan.success_percent,
        "expected_start_time": time_json(plan.expected_start_time.as_ref()),
        "expected_end_time": time_json(plan.expected_end_time.as_ref()),
    })
}

/// Low, expected and high moment.
fn span_json(span: Option<&v1::TimeForecast>) -> Value {
    let span = span.copied().unwrap_or_default();
    json!({
        "low": time_json(span.low.as_ref()),
        "expected": time_json(span.expected.as_ref()),
        "high": time_json(span.high.as_ref()),
    })
}

fn air_json(air: &v1::GatewayAir) -> Value {
    json!({
        "gateway": air.gateway,
        "from_hz": air.from_hz,
        "to_hz": air.to_hz,
        "duty_cycle_percent": air.duty_cycle_percent,
        "air_share_percent": air.air_share_percent,
        "multicast_airtime_us": air.multicast_airtime_us,
        "unicast_airtime_us": air.unicast_airtime_us,
        "spent_airtime_us": air.spent_airtime_us,
        "allowed_airtime_us": air.allowed_airtime_us,
    })
}

fn session_json(session: &v1::PlannedSession) -> Value {
    json!({
        "wave": session.wave,
        "image": session.image,
        "delta": session.delta,
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
        "window_end": time_json(session.window_end.as_ref()),
        "expected_end_time": time_json(session.expected_end_time.as_ref()),
        "last_fragment": span_json(session.last_fragment.as_ref()),
        "ready_percent": session.ready_percent,
        "in_window_percent": session.in_window_percent,
        "success_percent": session.success_percent,
        "device_energy_joules": session.device_energy_joules,
        "worst_device_energy_joules": session.worst_device_energy_joules,
    })
}

/// A forecast for people: the sum first, then sessions, gateways, problems and skipped devices.
pub(super) fn plan_text(plan: &v1::Plan) -> String {
    let now = now();
    let mut parts = vec![summary(plan, &now)];
    if !plan.sessions.is_empty() {
        parts.push(sessions(&plan.sessions));
        parts.push(chances(&plan.sessions));
    }
    if !plan.gateway_air.is_empty() {
        parts.push(air(&plan.gateway_air));
    } else if !plan.gateways.is_empty() {
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
        ("nine of ten", span_text(plan.end.as_ref())),
        ("deadline", time_text(plan.deadline.as_ref(), now)),
        ("success", success_text(plan)),
    ])
}

/// `2026-11-21T01:00:00Z to 2026-11-21T02:00:00Z`.
fn span_text(span: Option<&v1::TimeForecast>) -> String {
    span.map_or_else(String::new, |span| {
        format!("{} to {}", seconds(span.low), seconds(span.high))
    })
}

/// A moment in whole seconds.
fn seconds(time: Option<Timestamp>) -> String {
    time.map_or_else(String::new, |time| {
        Timestamp { nanos: 0, ..time }.to_string()
    })
}

fn success_text(plan: &v1::Plan) -> String {
    if plan.sessions.is_empty() {
        return String::new();
    }
    format!(
        "{:.1} % of the devices by the deadline",
        plan.success_percent
    )
}

/// What depends on luck, session by session, in the order of the table of sessions.
fn chances(sessions: &[v1::PlannedSession]) -> String {
    let header = [
        "DEVICES",
        "DR",
        "READY",
        "IN WINDOW",
        "BY DEADLINE",
        "ENERGY",
        "AT MOST",
        "LAST FRAGMENT, NINE OF TEN",
        "WINDOW ENDS",
    ];
    let rows = sessions.iter().map(|session| {
        vec![
            session.device_count.to_string(),
            session.data_rate.to_string(),
            format!("{:.1} %", session.ready_percent),
            format!("{:.1} %", session.in_window_percent),
            format!("{:.1} %", session.success_percent),
            format!("{:.1} J", session.device_energy_joules),
            format!("{:.1} J", session.worst_device_energy_joules),
            span_text(session.last_fragment.as_ref()),
            seconds(session.window_end),
        ]
    });
    table(&header, rows)
}

/// Air by gateway and sub-band.
fn air(gateways: &[v1::GatewayAir]) -> String {
    let header = [
        "GATEWAY",
        "SUB-BAND",
        "DUTY CYCLE",
        "SHARE",
        "SESSIONS",
        "UNICAST",
        "SPENT",
        "ALLOWED",
    ];
    let mhz = |hz: u32| f64::from(hz) / 1e6;
    let rows = gateways.iter().map(|it| {
        vec![
            id(&it.gateway).into(),
            format!("{:.2} to {:.2} MHz", mhz(it.from_hz), mhz(it.to_hz)),
            format!("{} %", it.duty_cycle_percent),
            format!("{} %", it.air_share_percent),
            airtime_text(it.multicast_airtime_us),
            airtime_text(it.unicast_airtime_us),
            airtime_text(it.spent_airtime_us),
            airtime_text(it.allowed_airtime_us),
        ]
    });
    table(&header, rows)
}

/// What a session sends: the image, or the delta to it.
fn sent_text(session: &v1::PlannedSession) -> String {
    match session.delta.as_str() {
        "" => short(&session.image).to_owned(),
        delta => format!("{} as delta {}", short(&session.image), short(delta)),
    }
}

fn sessions(sessions: &[v1::PlannedSession]) -> String {
    let header = [
        "WAVE",
        "IMAGE",
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
    let rows = sessions.iter().map(|session| {
        vec![
            session.wave.to_string(),
            sent_text(session),
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
            seconds(session.window_start),
            seconds(session.expected_end_time),
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

    #[test]
    fn a_forecast_shows_ranges_air_energy_and_chances() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let plan = v1::Plan {
            task: "tasks/a".into(),
            startable: true,
            end: Some(v1::TimeForecast {
                low: at(1_795_222_800),
                expected: at(1_795_224_000),
                high: at(1_795_226_400),
            }),
            success_percent: 99.5,
            sessions: vec![v1::PlannedSession {
                device_count: 7,
                data_rate: 5,
                ready_percent: 98.0,
                in_window_percent: 100.0,
                success_percent: 99.5,
                device_energy_joules: 29.04,
                worst_device_energy_joules: 35.8,
                ..Default::default()
            }],
            gateway_air: vec![v1::GatewayAir {
                gateway: "gateways/0016c001f0000001".into(),
                from_hz: 869_400_000,
                to_hz: 869_650_000,
                duty_cycle_percent: 10.0,
                air_share_percent: 50.0,
                multicast_airtime_us: 165_000_000,
                unicast_airtime_us: 2_000_000,
                spent_airtime_us: 1_000_000,
                allowed_airtime_us: 360_000_000,
            }],
            ..Default::default()
        };
        let text = plan_text(&plan);
        for word in [
            "2026-11-21T01:00:00Z to 2026-11-21T02:00:00Z",
            "99.5 % of the devices by the deadline",
            "29.0 J",
            "35.8 J",
            "869.40 to 869.65 MHz",
            "10 %",
            "50 %",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let json = plan_json(&plan);
        assert_eq!(json["gateway_air"][0]["spent_airtime_us"], 1_000_000);
        assert_eq!(json["end"]["low"], "2026-11-21T01:00:00Z");
        assert_eq!(json["sessions"][0]["worst_device_energy_joules"], 35.8);
        assert_eq!(json["success_percent"], 99.5);
    }
}
