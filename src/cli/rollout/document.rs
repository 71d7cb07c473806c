//! Rollouts as JSON and as tables.

use serde_json::{Value, json};

use crate::cli::image::short;
use crate::cli::moment::{distance_text, duration_json, duration_text, now, time_json, time_text};
use crate::cli::names::{id, pairs_text, word, word_json};
use crate::cli::output::{fields, table};
use crate::cli::task::template_json;
use crate::proto::v1;

/// A rollout as JSON.
pub(super) fn rollout_json(rollout: &v1::Rollout) -> Value {
    let selector = rollout.selector.clone().unwrap_or_default();
    let schedule = rollout.schedule.unwrap_or_default();
    let validation = rollout.validation.clone().unwrap_or_default();
    let counts = rollout.device_counts.unwrap_or_default();
    json!({
        "name": rollout.name,
        "display_name": rollout.display_name,
        "selector": {
            "model": selector.model,
            "component": selector.component,
            "device_profile": selector.device_profile,
            "multicast_group": selector.multicast_group,
            "tags": selector.tags,
            "from_versions": selector.from_versions,
            "include_unknown_versions": selector.include_unknown_versions,
        },
        "image": rollout.image,
        "task": template_json(&rollout.task.clone().unwrap_or_default()),
        "schedule": {
            "not_before": time_json(schedule.not_before.as_ref()),
            "repeat_interval": duration_json(schedule.repeat_interval.as_ref()),
            "start_within": duration_json(schedule.start_within.as_ref()),
            "min_devices": schedule.min_devices,
            "max_wait": duration_json(schedule.max_wait.as_ref()),
        },
        "validation": {
            "test_devices": validation.test_devices,
            "required_percent": validation.required_percent,
        },
        "max_failures": rollout.max_failures,
        "retry_after": duration_json(rollout.retry_after.as_ref()),
        "enabled": rollout.enabled,
        "state": word_json::<v1::RolloutState>(rollout.state),
        "state_message": rollout.state_message,
        "device_counts": {
            "selected": counts.selected,
            "up_to_date": counts.up_to_date,
            "behind": counts.behind,
            "in_task": counts.in_task,
            "failed": counts.failed,
            "unknown": counts.unknown,
            "left_alone": counts.left_alone,
        },
        "current_image": rollout.current_image,
        "validated_image": rollout.validated_image,
        "next_start_time": time_json(rollout.next_start_time.as_ref()),
        "tasks": rollout.tasks.iter().map(task_json).collect::<Vec<_>>(),
        "create_time": time_json(rollout.create_time.as_ref()),
        "update_time": time_json(rollout.update_time.as_ref()),
        "etag": rollout.etag,
    })
}

fn task_json(task: &v1::RolloutTask) -> Value {
    json!({
        "task": task.task,
        "purpose": word_json::<v1::RolloutPurpose>(task.purpose),
        "image": task.image,
        "create_time": time_json(task.create_time.as_ref()),
        "started": task.started,
        "end_time": time_json(task.end_time.as_ref()),
        "succeeded_count": task.succeeded_count,
        "failed_count": task.failed_count,
    })
}

/// A rollout for people: its settings, where it is, and its tasks.
pub(super) fn rollout_text(rollout: &v1::Rollout) -> String {
    let now = now();
    let time = |time: &Option<prost_types::Timestamp>| time_text(time.as_ref(), &now);
    let selector = rollout.selector.clone().unwrap_or_default();
    let validation = rollout.validation.clone().unwrap_or_default();
    let tested: Vec<_> = validation
        .test_devices
        .iter()
        .map(|name| id(name))
        .collect();
    let image = match rollout.image.as_str() {
        "" => "the highest that is active".to_owned(),
        image => id(image).to_owned(),
    };
    let text = fields(&[
        ("name", rollout.name.clone()),
        ("display name", rollout.display_name.clone()),
        ("state", state_text(rollout)),
        ("devices", counts_text(rollout)),
        ("next start", time(&rollout.next_start_time)),
        ("keeps on", image),
        ("now", id(&rollout.current_image).to_owned()),
        ("validated", id(&rollout.validated_image).to_owned()),
        ("model", selector.model),
        ("component", selector.component),
        ("profile", id(&selector.device_profile).to_owned()),
        ("group", id(&selector.multicast_group).to_owned()),
        ("tags", pairs_text(&selector.tags)),
        ("from versions", versions_text(&selector.from_versions)),
        ("schedule", schedule_text(rollout)),
        ("test devices", tested.join(" ")),
        ("failures", failures_text(rollout)),
        ("created", time(&rollout.create_time)),
        ("updated", time(&rollout.update_time)),
    ]);
    if rollout.tasks.is_empty() {
        return text;
    }
    format!("{text}\n\n{}", tasks_text(&rollout.tasks))
}

fn tasks_text(tasks: &[v1::RolloutTask]) -> String {
    let now = now();
    let rows = tasks.iter().map(|task| {
        vec![
            id(&task.task).to_owned(),
            word::<v1::RolloutPurpose>(task.purpose),
            short(&task.image).to_owned(),
            distance_text(task.create_time.as_ref(), &now),
            match (task.started, task.end_time.as_ref()) {
                (false, _) => "not started".to_owned(),
                (true, None) => "under way".to_owned(),
                (true, end) => distance_text(end, &now),
            },
            task.succeeded_count.to_string(),
            task.failed_count.to_string(),
        ]
    });
    let header = [
        "TASK",
        "FOR",
        "IMAGE",
        "MADE",
        "ENDED",
        "SUCCEEDED",
        "FAILED",
    ];
    table(&header, rows)
}

/// Rollouts as a table.
pub(super) fn table_text(rollouts: &[v1::Rollout]) -> String {
    let now = now();
    let rows = rollouts.iter().map(|rollout| {
        let counts = rollout.device_counts.unwrap_or_default();
        let selector = rollout.selector.clone().unwrap_or_default();
        vec![
            id(&rollout.name).to_owned(),
            rollout.display_name.clone(),
            word::<v1::RolloutState>(rollout.state),
            selector.model,
            short(&rollout.current_image).to_owned(),
            format!("{}/{}", counts.up_to_date, counts.selected),
            counts.failed.to_string(),
            distance_text(rollout.next_start_time.as_ref(), &now),
        ]
    });
    let header = [
        "ROLLOUT",
        "NAME",
        "STATE",
        "MODEL",
        "IMAGE",
        "UP TO DATE",
        "FAILED",
        "NEXT START",
    ];
    table(&header, rows)
}

/// State and message: `BLOCKED: the image is withdrawn`.
fn state_text(rollout: &v1::Rollout) -> String {
    let state = word::<v1::RolloutState>(rollout.state);
    match rollout.state_message.as_str() {
        "" => state,
        message => format!("{state}: {message}"),
    }
}

/// `17 up to date of 20, 2 behind, 1 failed`.
fn counts_text(rollout: &v1::Rollout) -> String {
    let counts = rollout.device_counts.unwrap_or_default();
    let mut text = format!("{} up to date of {}", counts.up_to_date, counts.selected);
    let others = [
        (counts.behind, "behind"),
        (counts.in_task, "in a task"),
        (counts.failed, "failed"),
        (counts.unknown, "unknown"),
        (counts.left_alone, "left alone"),
    ];
    for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {count} {what}"));
    }
    text
}

fn versions_text(versions: &[u32]) -> String {
    let versions: Vec<_> = versions.iter().map(|v| format!("{v:#010x}")).collect();
    versions.join(" ")
}

/// `from 2026-03-01T02:00:00Z, every 1d, at least 5 devices or after 7d`.
fn schedule_text(rollout: &v1::Rollout) -> String {
    let schedule = rollout.schedule.unwrap_or_default();
    let mut parts = Vec::new();
    if let Some(time) = schedule.not_before {
        parts.push(format!("from {time}"));
    }
    match &schedule.repeat_interval {
        Some(_) => {
            let every = duration_text(schedule.repeat_interval.as_ref());
            parts.push(format!("every {every}"));
        }
        None => parts.push("as soon as a device is behind".to_owned()),
    }
    if schedule.min_devices > 1 {
        let mut part = format!("at least {} devices", schedule.min_devices);
        if schedule.max_wait.is_some() {
            let wait = duration_text(schedule.max_wait.as_ref());
            part.push_str(&format!(" or after {wait}"));
        }
        parts.push(part);
    }
    parts.join(", ")
}

/// `a device is left out after 2, and tried again after 1d`.
fn failures_text(rollout: &v1::Rollout) -> String {
    let pause = duration_text(rollout.retry_after.as_ref());
    let most = rollout.max_failures;
    format!("a device is tried again after {pause}, and left out after {most}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_says_what_it_waits_for() {
        let rollout = v1::Rollout {
            name: "rollouts/meters".into(),
            state: v1::RolloutState::Blocked.into(),
            state_message: "the image is withdrawn".into(),
            device_counts: Some(v1::RolloutDeviceCounts {
                selected: 20,
                up_to_date: 17,
                behind: 2,
                failed: 1,
                ..Default::default()
            }),
            schedule: Some(v1::RolloutSchedule {
                not_before: Some("2026-03-01T02:00:00Z".parse().unwrap()),
                repeat_interval: Some(prost_types::Duration {
                    seconds: 86_400,
                    nanos: 0,
                }),
                min_devices: 5,
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = rollout_text(&rollout);
        for part in [
            "BLOCKED: the image is withdrawn",
            "17 up to date of 20, 2 behind, 1 failed",
            "from 2026-03-01T02:00:00Z, every 1d, at least 5 devices",
            "the highest that is active",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(rollout_json(&rollout)["device_counts"]["selected"], 20);
    }
}
