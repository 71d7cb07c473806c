//! Tasks, their devices, waves and sessions, as JSON and as tables.

use super::policies::{thresholds_json, waves_json};
use super::rules::{calendar_json, calendar_text, retry_json, retry_text};
use serde_json::{Map, Value, json};

use super::airtimes_json;
use crate::cli::image::short;
use crate::cli::moment::{airtime_text, distance_text, now, time_json, time_text};
use crate::cli::names::{hex, id, pairs_text, word, word_json};
use crate::cli::output::{fields, nonzero, table};
use crate::proto::v1;

/// The task never changes again, but for name and tags.
pub(super) fn has_ended(task: &v1::FuotaTask) -> bool {
    matches!(
        task.state(),
        v1::TaskState::Completed | v1::TaskState::Cancelled | v1::TaskState::Failed
    )
}

/// Every device succeeded, and there were some.
pub(super) fn has_succeeded(task: &v1::FuotaTask) -> bool {
    let counts = task.device_counts.unwrap_or_default();
    task.state() == v1::TaskState::Completed && counts.total > 0 && counts.succeeded == counts.total
}

/// The counts by state, in the order of the way through a task.
pub(super) fn state_counts(counts: &v1::TaskDeviceCounts) -> [(&'static str, u32); 14] {
    [
        ("pending", counts.pending),
        ("preparing", counts.preparing),
        ("ready", counts.ready),
        ("receiving", counts.receiving),
        ("reported_received", counts.reported_received),
        ("verified", counts.verified),
        ("rebooting", counts.rebooting),
        ("running", counts.running),
        ("skipped", counts.skipped),
        ("failed", counts.failed),
        ("silent", counts.silent),
        ("rolled_back", counts.rolled_back),
        ("removed", counts.removed),
        ("cancelled", counts.cancelled),
    ]
}

/// The states that devices are in: `3 receiving, 17 running`.
pub(super) fn states_text(counts: &v1::TaskDeviceCounts) -> String {
    let states: Vec<_> = state_counts(counts)
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", state.replace('_', " ")))
        .collect();
    states.join(", ")
}

fn counts_json(counts: Option<&v1::TaskDeviceCounts>) -> Value {
    let counts = counts.copied().unwrap_or_default();
    let mut object = Map::new();
    object.insert("total".into(), counts.total.into());
    object.insert("ended".into(), counts.ended.into());
    object.insert("succeeded".into(), counts.succeeded.into());
    for (state, count) in state_counts(&counts) {
        object.insert(state.into(), count.into());
    }
    object.into()
}

/// A task as JSON.
pub(super) fn task_json(task: &v1::FuotaTask) -> Value {
    let mut object = Map::new();
    for part in [orders_json(task), state_json(task), rules_json(task)] {
        if let Value::Object(part) = part {
            object.extend(part);
        }
    }
    object.into()
}

/// What of a task is written in a rollout, as JSON.
pub(in crate::cli) fn template_json(task: &v1::FuotaTask) -> Value {
    const ELSEWHERE: [&str; 9] = [
        "name",
        "images",
        "install_mode",
        "prepare_after",
        "window_start",
        "deadline",
        "cleanup_deadline",
        "deltas",
        "multicast_groups",
    ];
    let mut object = Map::new();
    for part in [orders_json(task), rules_json(task)] {
        if let Value::Object(part) = part {
            object.extend(part);
        }
    }
    object.retain(|key, _| !ELSEWHERE.contains(&key.as_str()) && key != "reboot_time");
    object.into()
}

/// What it is to do.
fn orders_json(task: &v1::FuotaTask) -> Value {
    json!({
        "name": task.name,
        "display_name": task.display_name,
        "images": task.images,
        "install_mode": word_json::<v1::InstallMode>(task.install_mode),
        "success_criterion": word_json::<v1::SuccessCriterion>(task.success_criterion),
        "reboot_mode": word_json::<v1::RebootMode>(task.reboot_mode),
        "prepare_after": time_json(task.prepare_after.as_ref()),
        "window_start": time_json(task.window_start.as_ref()),
        "deadline": time_json(task.deadline.as_ref()),
        "cleanup_deadline": time_json(task.cleanup_deadline.as_ref()),
        "max_redundancy_percent": task.max_redundancy_percent,
        "device_class": word_json::<v1::DeviceClass>(task.device_class),
        "data_rate": task.data_rate,
        "frequency_hz": task.frequency_hz,
        "frag_size": task.frag_size,
        "frag_descriptor_hex": hex(&task.frag_descriptor),
        "frag_algo": word_json::<v1::FragAlgo>(task.frag_algo),
        "keep_groups": task.keep_groups,
        "allow_downgrade": task.allow_downgrade,
        "skip_unfit_devices": task.skip_unfit_devices,
        "whole_images_only": task.whole_images_only,
        "deltas": task.deltas,
        "tags": task.tags,
        "multicast_groups": task.multicast_groups,
    })
}

/// How far it is.
fn state_json(task: &v1::FuotaTask) -> Value {
    let frames = task.frame_counts.unwrap_or_default();
    json!({
        "state": word_json::<v1::TaskState>(task.state),
        "state_reason": word_json::<v1::TaskReason>(task.state_reason),
        "state_message": task.state_message,
        "device_counts": counts_json(task.device_counts.as_ref()),
        "frame_counts": {
            "uncoded_fragments_sent": frames.uncoded_fragments_sent,
            "coded_fragments_sent": frames.coded_fragments_sent,
            "status_polls_sent": frames.status_polls_sent,
            "unicast_frames_sent": frames.unicast_frames_sent,
        },
        "airtime_us": task.airtime_us,
        "expected_end_time": time_json(task.expected_end_time.as_ref()),
        "sequence": task.sequence,
        "create_time": time_json(task.create_time.as_ref()),
        "update_time": time_json(task.update_time.as_ref()),
        "start_time": time_json(task.start_time.as_ref()),
        "end_time": time_json(task.end_time.as_ref()),
        "etag": task.etag,
        "retry_of": task.retry_of,
    })
}

/// How it is done.
fn rules_json(task: &v1::FuotaTask) -> Value {
    json!({
        "waves": waves_json(task.waves.as_ref()),
        "thresholds": thresholds_json(task.thresholds.as_ref()),
        "retry": retry_json(task.retry.as_ref()),
        "calendar": calendar_json(task.calendar.as_ref()),
        "tags_on_success": task.tags_on_success,
        "reboot_time": time_json(task.reboot_time.as_ref()),
    })
}

/// State, reason and message of a task: `FAILED (PLAN_IMPOSSIBLE): the gateway is gone`.
pub(super) fn state_text(task: &v1::FuotaTask) -> String {
    let mut text = word::<v1::TaskState>(task.state);
    let reason = word::<v1::TaskReason>(task.state_reason);
    if !reason.is_empty() {
        text.push_str(&format!(" ({reason})"));
    }
    if !task.state_message.is_empty() {
        text.push_str(&format!(": {}", task.state_message));
    }
    text
}

fn number(number: Option<u32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// A task for people.
pub(super) fn task_text(task: &v1::FuotaTask) -> String {
    let now = now();
    let time = |time: &Option<prost_types::Timestamp>| time_text(time.as_ref(), &now);
    let counts = task.device_counts.unwrap_or_default();
    let frames = task.frame_counts.unwrap_or_default();
    let images: Vec<_> = task.images.iter().map(|image| id(image)).collect();
    let groups: Vec<_> = task
        .multicast_groups
        .iter()
        .map(|group| id(group))
        .collect();
    fields(&[
        ("name", task.name.clone()),
        ("display name", task.display_name.clone()),
        ("state", state_text(task)),
        ("images", images.join(" ")),
        (
            "install",
            match task.images.len() {
                0 | 1 => String::new(),
                _ => word::<v1::InstallMode>(task.install_mode),
            },
        ),
        (
            "criterion",
            word::<v1::SuccessCriterion>(task.success_criterion),
        ),
        ("reboot", word::<v1::RebootMode>(task.reboot_mode)),
        ("reboot time", time(&task.reboot_time)),
        ("prepare after", time(&task.prepare_after)),
        ("window start", time(&task.window_start)),
        ("deadline", time(&task.deadline)),
        ("clean-up deadline", time(&task.cleanup_deadline)),
        (
            "most redundancy in percent",
            number(task.max_redundancy_percent),
        ),
        ("class", word::<v1::DeviceClass>(task.device_class)),
        ("data rate", number(task.data_rate)),
        ("frequency in Hz", nonzero(task.frequency_hz)),
        ("fragment size", nonzero(task.frag_size)),
        ("descriptor", hex(&task.frag_descriptor)),
        ("code", word::<v1::FragAlgo>(task.frag_algo)),
        (
            "groups kept",
            if task.keep_groups { "yes" } else { "" }.to_owned(),
        ),
        ("retries", retry_text(task.retry.as_ref())),
        ("calendar", calendar_text(task.calendar.as_ref())),
        ("tags on success", pairs_text(&task.tags_on_success)),
        ("tags", pairs_text(&task.tags)),
        ("groups", groups.join(" ")),
        (
            "devices",
            format!(
                "{} ended of {}, {} succeeded",
                counts.ended, counts.total, counts.succeeded
            ),
        ),
        ("in states", states_text(&counts)),
        (
            "fragments sent",
            format!(
                "{} uncoded, {} coded",
                frames.uncoded_fragments_sent, frames.coded_fragments_sent
            ),
        ),
        ("status polls sent", nonzero(frames.status_polls_sent)),
        ("unicast frames sent", nonzero(frames.unicast_frames_sent)),
        ("air time", airtime_text(task.airtime_us)),
        ("created", time(&task.create_time)),
        ("started", time(&task.start_time)),
        ("expected end", time(&task.expected_end_time)),
        ("ended", time(&task.end_time)),
    ])
}

/// Tasks as a table.
pub(super) fn task_table(tasks: &[v1::FuotaTask]) -> String {
    let now = now();
    let header = [
        "TASK",
        "NAME",
        "STATE",
        "REASON",
        "ENDED",
        "SUCCEEDED",
        "IMAGE",
        "CREATED",
        "EXPECTED END",
    ];
    table(
        &header,
        tasks.iter().map(|task| {
            let counts = task.device_counts.unwrap_or_default();
            vec![
                id(&task.name).into(),
                task.display_name.clone(),
                word::<v1::TaskState>(task.state),
                word::<v1::TaskReason>(task.state_reason),
                format!("{}/{}", counts.ended, counts.total),
                counts.succeeded.to_string(),
                task.images
                    .first()
                    .map_or_else(String::new, |image| short(image).into()),
                distance_text(task.create_time.as_ref(), &now),
                distance_text(task.expected_end_time.as_ref(), &now),
            ]
        }),
    )
}

/// A device of a task as JSON.
pub(super) fn device_json(device: &v1::TaskDevice) -> Value {
    json!({
        "name": device.name,
        "device": device.device,
        "multicast_group": device.multicast_group,
        "state": word_json::<v1::TaskDeviceState>(device.state),
        "reason": word_json::<v1::DeviceReason>(device.reason),
        "evidence": device.evidence,
        "verdict": word_json::<v1::Verdict>(device.verdict),
        "fragments_received": device.fragments_received,
        "fragments_missing": device.fragments_missing,
        "nb_frag": device.nb_frag,
        "attempts": device.attempts,
        "wave": device.wave,
        "session": device.session,
        "cleanup_state": word_json::<v1::CleanupState>(device.cleanup_state),
        "version_before": device.version_before,
        "version_reported": device.version_reported,
        "state_entries": device.state_entries.iter().map(|entry| json!({
            "state": word_json::<v1::TaskDeviceState>(entry.state),
            "enter_time": time_json(entry.enter_time.as_ref()),
        })).collect::<Vec<_>>(),
        "sequence": device.sequence,
        "update_time": time_json(device.update_time.as_ref()),
        "images": device.images.iter().map(|image| json!({
            "image": image.image,
            "state": word_json::<v1::TaskDeviceImageState>(image.state),
            "session": image.session,
            "version_before": image.version_before,
            "done_time": time_json(image.done_time.as_ref()),
        })).collect::<Vec<_>>(),
    })
}

/// Devices of a task as a table.
pub(super) fn device_table(devices: &[v1::TaskDevice]) -> String {
    let version = |version: Option<u32>| {
        version.map_or_else(|| "?".to_owned(), |version| format!("{version:#010x}"))
    };
    let header = [
        "DEVICE",
        "VERDICT",
        "STATE",
        "REASON",
        "FRAGMENTS",
        "VERSION",
        "CLEAN-UP",
        "EVIDENCE",
    ];
    table(
        &header,
        devices.iter().map(|device| {
            vec![
                id(&device.device).into(),
                word::<v1::Verdict>(device.verdict),
                word::<v1::TaskDeviceState>(device.state),
                word::<v1::DeviceReason>(device.reason),
                fragments_text(device) + &image_text(device),
                match (device.version_before, device.version_reported) {
                    (None, None) => String::new(),
                    (before, after) => format!("{} -> {}", version(before), version(after)),
                },
                word::<v1::CleanupState>(device.cleanup_state),
                device.evidence.clone(),
            ]
        }),
    )
}

/// ` of image 2/3`, where there are several.
fn image_text(device: &v1::TaskDevice) -> String {
    let done = |image: &&v1::TaskDeviceImage| image.state() == v1::TaskDeviceImageState::Done;
    let (of, done) = (
        device.images.len(),
        device.images.iter().filter(done).count(),
    );
    match of {
        0 => String::new(),
        _ => format!(" of image {}/{of}", done + 1),
    }
}

/// `212/240, 28 missing`.
fn fragments_text(device: &v1::TaskDevice) -> String {
    let missing = device
        .fragments_missing
        .filter(|missing| *missing > 0)
        .map_or_else(String::new, |missing| format!(", {missing} missing"));
    match (device.fragments_received, device.nb_frag) {
        (None, 0) => String::new(),
        (None, nb_frag) => format!("-/{nb_frag}{missing}"),
        (Some(received), nb_frag) => format!("{received}/{nb_frag}{missing}"),
    }
}

/// A wave as JSON.
pub(super) fn wave_json(wave: &v1::Wave) -> Value {
    json!({
        "name": wave.name,
        "state": word_json::<v1::WaveState>(wave.state),
        "device_counts": counts_json(wave.device_counts.as_ref()),
        "sessions": wave.sessions,
        "start_time": time_json(wave.start_time.as_ref()),
        "end_time": time_json(wave.end_time.as_ref()),
    })
}

/// Waves as a table.
pub(super) fn wave_table(waves: &[v1::Wave]) -> String {
    let now = now();
    table(
        &[
            "WAVE",
            "STATE",
            "ENDED",
            "SUCCEEDED",
            "IN STATES",
            "SESSIONS",
            "BEGAN",
            "OVER",
        ],
        waves.iter().map(|wave| {
            let counts = wave.device_counts.unwrap_or_default();
            vec![
                id(&wave.name).into(),
                word::<v1::WaveState>(wave.state),
                format!("{}/{}", counts.ended, counts.total),
                counts.succeeded.to_string(),
                states_text(&counts),
                wave.sessions.len().to_string(),
                distance_text(wave.start_time.as_ref(), &now),
                distance_text(wave.end_time.as_ref(), &now),
            ]
        }),
    )
}

/// A distribution session as JSON.
pub(super) fn session_json(session: &v1::DistributionSession) -> Value {
    json!({
        "name": session.name,
        "wave": session.wave,
        "state": word_json::<v1::DistributionSessionState>(session.state),
        "state_reason": word_json::<v1::DistributionSessionReason>(session.state_reason),
        "region": word_json::<v1::Region>(session.region),
        "device_class": word_json::<v1::DeviceClass>(session.device_class),
        "data_rate": session.data_rate,
        "frequency_hz": session.frequency_hz,
        "fragmentation_version": session.fragmentation_version,
        "frag_algo": word_json::<v1::FragAlgo>(session.frag_algo),
        "frag_index": session.frag_index,
        "nb_frag": session.nb_frag,
        "frag_size": session.frag_size,
        "padding_bytes": session.padding_bytes,
        "window_start": time_json(session.window_start.as_ref()),
        "window_end": time_json(session.window_end.as_ref()),
        "device_count": session.device_count,
        "received_count": session.received_count,
        "uncoded_fragments_sent": session.uncoded_fragments_sent,
        "coded_fragments_sent": session.coded_fragments_sent,
        "rounds": session.rounds.iter().map(|round| json!({
            "round": round.round,
            "poll_time": time_json(round.poll_time.as_ref()),
            "answers_received": round.answers_received,
            "fragments_missing_max": round.fragments_missing_max,
            "coded_fragments_sent": round.coded_fragments_sent,
        })).collect::<Vec<_>>(),
        "gateways": airtimes_json(&session.gateways),
        "image": session.image,
    })
}

/// Distribution sessions as a table.
pub(super) fn session_table(sessions: &[v1::DistributionSession]) -> String {
    let now = now();
    let header = [
        "SESSION",
        "WAVE",
        "IMAGE",
        "STATE",
        "REASON",
        "CLASS",
        "DR",
        "FREQUENCY",
        "CODE",
        "NB_FRAG",
        "SIZE",
        "UNCODED",
        "CODED",
        "ROUNDS",
        "RECEIVED",
        "GATEWAYS",
        "OPENS",
        "CLOSES",
    ];
    table(
        &header,
        sessions.iter().map(|session| {
            vec![
                id(&session.name).into(),
                id(&session.wave).into(),
                short(&session.image).into(),
                word::<v1::DistributionSessionState>(session.state),
                word::<v1::DistributionSessionReason>(session.state_reason),
                word::<v1::DeviceClass>(session.device_class),
                session.data_rate.to_string(),
                nonzero(session.frequency_hz),
                word::<v1::FragAlgo>(session.frag_algo),
                session.nb_frag.to_string(),
                session.frag_size.to_string(),
                session.uncoded_fragments_sent.to_string(),
                session.coded_fragments_sent.to_string(),
                session.rounds.len().to_string(),
                format!("{}/{}", session.received_count, session.device_count),
                session.gateways.len().to_string(),
                distance_text(session.window_start.as_ref(), &now),
                distance_text(session.window_end.as_ref(), &now),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(state: v1::TaskState, total: u32, succeeded: u32) -> v1::FuotaTask {
        v1::FuotaTask {
            state: state.into(),
            device_counts: Some(v1::TaskDeviceCounts {
                total,
                succeeded,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn success_is_every_device_of_a_completed_task() {
        assert!(has_succeeded(&task(v1::TaskState::Completed, 3, 3)));
        assert!(!has_succeeded(&task(v1::TaskState::Completed, 3, 2)));
        assert!(!has_succeeded(&task(v1::TaskState::Completed, 0, 0)));
        assert!(!has_succeeded(&task(v1::TaskState::Cancelled, 3, 3)));
        assert!(!has_ended(&task(v1::TaskState::Cancelling, 3, 3)));
    }

    #[test]
    fn devices_are_a_table_with_their_verdicts() {
        let device = v1::TaskDevice {
            device: "devices/70b3d57ed0000001".into(),
            state: v1::TaskDeviceState::Failed.into(),
            reason: v1::DeviceReason::BudgetSpent.into(),
            verdict: v1::Verdict::NotSucceeded.into(),
            fragments_received: Some(212),
            fragments_missing: Some(28),
            nb_frag: 240,
            version_before: Some(1),
            ..Default::default()
        };
        let text = device_table(std::slice::from_ref(&device));
        let words: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "70b3d57ed0000001 NOT_SUCCEEDED FAILED BUDGET_SPENT 212/240, 28 missing 0x00000001 -> ?"
        );
        let json = device_json(&device);
        assert_eq!(json["reason"], "BUDGET_SPENT");
        assert_eq!(json["version_reported"], Value::Null);
        assert_eq!(json["cleanup_state"], Value::Null);
    }

    #[test]
    fn counts_are_told_in_order() {
        let counts = v1::TaskDeviceCounts {
            running: 17,
            receiving: 3,
            rolled_back: 1,
            ..Default::default()
        };
        assert_eq!(
            states_text(&counts),
            "3 receiving, 17 running, 1 rolled back"
        );
        assert_eq!(counts_json(Some(&counts))["rolled_back"], 1);
    }
}
