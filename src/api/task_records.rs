//! Tasks, their devices, waves and sessions: proto <-> record.
//!
//! Task and task devices share one sequence. In the records the task's number is that of the last change of
//! anything in
//! it, so task and device may have the same one. On the wire a device's is `2 n` and the task's `2 n + 1`: then every
//! record of a watch has its own number, and the task comes after the device that moved it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::firmware::sha256;
use crate::lorawan::class_b::PingSlotPeriodicity;
use crate::proto::v1;
use crate::record::{
    DeviceState, FragAlgo, InstallMode, MAX_IMAGES, RebootMode, Sha256, StateCounts,
    SuccessCriterion, Task, TaskCounters, TaskId, TaskOptions, TaskReason, TaskState,
};
use crate::time::Timestamp;

use super::fields::{Fields, show_moment, tenant};
use super::mask::Mask;
use super::names;
use super::{regions, task_policies, task_rules};

/// Between a device's answer to the reboot request and its reboot: time for the answer to be heard.
const REBOOT_AFTER: Duration = Duration::from_secs(5);
/// How long clean-up may go on after the deadline unless the task says.
const CLEANUP: Duration = Duration::from_secs(24 * 3600);
/// Most coded fragments, in percent of the uncoded ones, unless the task says.
const REDUNDANCY_PERCENT: u32 = 100;

/// What may be written in a draft.
pub(super) const WRITABLE: [&str; 28] = [
    "display_name",
    "images",
    "install_mode",
    "success_criterion",
    "reboot_mode",
    "prepare_after",
    "window_start",
    "deadline",
    "cleanup_deadline",
    "max_redundancy_percent",
    "device_class",
    "ping_slot_periodicity",
    "data_rate",
    "frequency_hz",
    "frag_size",
    "frag_descriptor",
    "frag_algo",
    "tags",
    "waves",
    "thresholds",
    "retry",
    "calendar",
    "tags_on_success",
    "reboot_time",
    "keep_groups",
    "allow_downgrade",
    "skip_unfit_devices",
    "whole_images_only",
];

/// A task nobody has written anything into yet.
pub(super) fn blank(id: TaskId, now: Timestamp) -> Task {
    Task {
        tenant: tenant(),
        id,
        display_name: String::new(),
        images: Vec::new(),
        install: InstallMode::default(),
        deltas: Vec::new(),
        groups: Vec::new(),
        success: SuccessCriterion::Running,
        reboot: RebootMode::None,
        prepare_after: None,
        window_start: None,
        deadline: None,
        options: TaskOptions {
            cleanup_within: CLEANUP,
            ..TaskOptions::default()
        },
        state: TaskState::Draft,
        reason: None,
        reason_text: String::new(),
        sequence: 1,
        counters: TaskCounters::default(),
        expected_end: None,
        retry_of: None,
        waves: Default::default(),
        thresholds: Default::default(),
        failures_accepted: Default::default(),
        held: None,
        resumed_at: None,
        waiting: None,
        rules: Default::default(),
        tags: BTreeMap::new(),
        created_at: now,
        updated_at: now,
        started_at: None,
        ended_at: None,
        seed: None,
    }
}

/// Writes what the operator says into a task; what is wrong is noted.
pub(super) fn write(fields: &mut Fields, given: &v1::FuotaTask, task: &mut Task) {
    fields.text("display_name", &given.display_name, 255);
    task.display_name.clone_from(&given.display_name);
    write_images(fields, given, task);
    write_ending(fields, given, task);
    write_times(fields, given, task);
    write_radio(fields, given, task);
    task.options.keep_groups = given.keep_groups;
    task.options.allow_downgrade = given.allow_downgrade;
    task.options.skip_unfit = given.skip_unfit_devices;
    task.options.no_deltas = given.whole_images_only;
    task.waves = task_policies::read_waves(fields, given.waves.as_ref());
    task.thresholds = task_policies::read_thresholds(fields, given.thresholds.as_ref());
    *task.rules = task_rules::read_rules(fields, given);
    fields.marks("tags", &given.tags, 255);
    task.tags.clone_from(&given.tags);
}

fn write_images(fields: &mut Fields, given: &v1::FuotaTask, task: &mut Task) {
    let images: Vec<Option<Sha256>> = given.images.iter().map(|name| names::image(name)).collect();
    task.install = match v1::InstallMode::try_from(given.install_mode) {
        Ok(v1::InstallMode::Unspecified | v1::InstallMode::Together) => InstallMode::Together,
        Ok(v1::InstallMode::InTurn) => InstallMode::InTurn,
        Err(_) => {
            fields.bad("install_mode", "unknown value");
            return;
        }
    };
    match images.len() {
        0 => fields.bad("images", "missing"),
        1..=MAX_IMAGES => {}
        _ => fields.bad("images", format!("more than {MAX_IMAGES}")),
    }
    let distinct: BTreeSet<&Option<Sha256>> = images.iter().collect();
    if images.contains(&None) {
        fields.bad("images", "not of the form images/{sha256}");
    } else if distinct.len() < images.len() {
        fields.bad("images", "one is named twice");
    }
    task.images = images.into_iter().flatten().collect();
}

fn write_ending(fields: &mut Fields, given: &v1::FuotaTask, task: &mut Task) {
    task.success = match v1::SuccessCriterion::try_from(given.success_criterion) {
        Ok(v1::SuccessCriterion::Unspecified | v1::SuccessCriterion::Running) => {
            SuccessCriterion::Running
        }
        Ok(v1::SuccessCriterion::Verified) => SuccessCriterion::Verified,
        Ok(v1::SuccessCriterion::ReportedReceived) => SuccessCriterion::ReportedReceived,
        Err(_) => {
            fields.bad("success_criterion", "a value this server does not know");
            task.success
        }
    };
    let when_ready = RebootMode::Countdown {
        after: REBOOT_AFTER,
    };
    task.reboot = match v1::RebootMode::try_from(given.reboot_mode) {
        Ok(v1::RebootMode::Unspecified) if task.success == SuccessCriterion::Running => when_ready,
        Ok(v1::RebootMode::Unspecified | v1::RebootMode::None) => RebootMode::None,
        Ok(v1::RebootMode::WhenReady) => when_ready,
        Ok(v1::RebootMode::AtTime) => {
            match fields.moment("reboot_time", given.reboot_time.as_ref()) {
                Some(at) => RebootMode::AtTime {
                    at: at.ceil_gps_second(),
                },
                None => {
                    fields.bad("reboot_time", "missing, and reboot_mode is AT_TIME");
                    task.reboot
                }
            }
        }
        Err(_) => {
            fields.bad("reboot_mode", "a value this server does not know");
            task.reboot
        }
    };
}

fn write_times(fields: &mut Fields, given: &v1::FuotaTask, task: &mut Task) {
    task.prepare_after = fields.moment("prepare_after", given.prepare_after.as_ref());
    task.window_start = fields.moment("window_start", given.window_start.as_ref());
    task.deadline = fields.moment("deadline", given.deadline.as_ref());
    let cleanup = fields.moment("cleanup_deadline", given.cleanup_deadline.as_ref());
    let start = task.window_start.or(task.prepare_after);
    if task
        .window_start
        .zip(task.prepare_after)
        .is_some_and(|(start, after)| start < after)
    {
        fields.bad("window_start", "before prepare_after");
    }
    if let RebootMode::AtTime { at } = task.reboot {
        let late = task.deadline.is_some_and(|deadline| at >= deadline);
        if late || task.window_start.is_some_and(|start| at <= start) {
            fields.bad("reboot_time", "not between window_start and deadline");
        }
    }
    if task
        .deadline
        .zip(start)
        .is_some_and(|(deadline, start)| deadline <= start)
    {
        fields.bad("deadline", "not after window_start and prepare_after");
    }
    match (cleanup, task.deadline) {
        (None, _) => {}
        (Some(_), None) => fields.bad("cleanup_deadline", "needs deadline"),
        (Some(cleanup), Some(deadline)) if cleanup < deadline => {
            fields.bad("cleanup_deadline", "before deadline");
        }
        (Some(cleanup), Some(deadline)) => task.options.cleanup_within = cleanup.since(deadline),
    }
}

fn write_radio(fields: &mut Fields, given: &v1::FuotaTask, task: &mut Task) {
    let percent = given.max_redundancy_percent.unwrap_or(REDUNDANCY_PERCENT);
    if let Some(percent) = fields.number("max_redundancy_percent", percent, 0..=1000) {
        task.options.max_redundancy_percent = percent;
    }
    match v1::DeviceClass::try_from(given.device_class) {
        Ok(class) => task.options.class = regions::read_class(class),
        Err(_) => fields.bad("device_class", "a value this server does not know"),
    }
    task.options.ping_slots = given.ping_slot_periodicity.and_then(|periodicity| {
        let number = fields.number("ping_slot_periodicity", periodicity, 0..=7u8)?;
        PingSlotPeriodicity::try_from(number).ok()
    });
    task.options.data_rate = given
        .data_rate
        .and_then(|rate| fields.number("data_rate", rate, 0..=15));
    task.options.frequency_hz = fields.frequency("frequency_hz", given.frequency_hz);
    task.options.frag_size = match given.frag_size {
        0 => None,
        size => fields.number("frag_size", size, 1..=239),
    };
    task.options.frag_algo = match v1::FragAlgo::try_from(given.frag_algo) {
        Ok(v1::FragAlgo::Unspecified | v1::FragAlgo::Ts004) => FragAlgo::Ts004,
        Ok(v1::FragAlgo::ReedSolomon) => FragAlgo::ReedSolomon,
        Err(_) => {
            fields.bad("frag_algo", "a value this server does not know");
            task.options.frag_algo
        }
    };
    task.options.descriptor = match given.frag_descriptor.as_ref() {
        [] => None,
        bytes => {
            let descriptor = <[u8; 4]>::try_from(bytes).ok();
            if descriptor.is_none() {
                fields.bad(
                    "frag_descriptor",
                    format!("{} bytes instead of 4", bytes.len()),
                );
            }
            descriptor
        }
    };
}

/// The message of a task with the masked fields of another.
pub(super) fn merge(mut into: v1::FuotaTask, new: v1::FuotaTask, mask: &Mask) -> v1::FuotaTask {
    macro_rules! take {
        ($($field:ident),*) => {$( mask.take(stringify!($field), &mut into.$field, new.$field); )*};
    }
    take!(
        display_name,
        images,
        install_mode,
        success_criterion,
        reboot_mode,
        prepare_after,
        window_start,
        max_redundancy_percent,
        device_class,
        ping_slot_periodicity,
        data_rate,
        frequency_hz,
        frag_size,
        frag_descriptor,
        frag_algo,
        tags,
        waves,
        thresholds,
        retry,
        calendar,
        tags_on_success,
        reboot_time,
        keep_groups,
        allow_downgrade,
        skip_unfit_devices,
        whole_images_only
    );
    if mask.has("cleanup_deadline") {
        into.cleanup_deadline = new.cleanup_deadline;
    } else if mask.has("deadline") {
        // It keeps its distance to the deadline.
        into.cleanup_deadline = None;
    }
    mask.take("deadline", &mut into.deadline, new.deadline);
    into
}

/// A task as the API shows it.
pub(super) fn show_task(task: &Task, counts: &StateCounts) -> v1::FuotaTask {
    let options = &task.options;
    v1::FuotaTask {
        name: names::name("tasks", &task.id),
        display_name: task.display_name.clone(),
        images: task
            .images
            .iter()
            .map(|image| names::name("images", image))
            .collect(),
        install_mode: match task.install {
            InstallMode::Together => v1::InstallMode::Together,
            InstallMode::InTurn => v1::InstallMode::InTurn,
        }
        .into(),
        success_criterion: match task.success {
            SuccessCriterion::Running => v1::SuccessCriterion::Running,
            SuccessCriterion::Verified => v1::SuccessCriterion::Verified,
            SuccessCriterion::ReportedReceived => v1::SuccessCriterion::ReportedReceived,
        }
        .into(),
        reboot_mode: match task.reboot {
            RebootMode::None => v1::RebootMode::None,
            RebootMode::Countdown { .. } => v1::RebootMode::WhenReady,
            RebootMode::AtTime { .. } => v1::RebootMode::AtTime,
        }
        .into(),
        reboot_time: match task.reboot {
            RebootMode::AtTime { at } => Some(show_moment(at)),
            _ => None,
        },
        keep_groups: options.keep_groups,
        allow_downgrade: options.allow_downgrade,
        skip_unfit_devices: options.skip_unfit,
        whole_images_only: options.no_deltas,
        deltas: task
            .deltas
            .iter()
            .map(|delta| names::name("images", delta))
            .collect(),
        retry: task_rules::show_retry(&task.rules.retry),
        calendar: task_rules::show_calendar(&task.rules.calendar),
        tags_on_success: task.rules.tags_on_success.clone(),
        prepare_after: task.prepare_after.map(show_moment),
        window_start: task.window_start.map(show_moment),
        deadline: task.deadline.map(show_moment),
        cleanup_deadline: task
            .deadline
            .map(|at| show_moment(at + options.cleanup_within)),
        max_redundancy_percent: Some(options.max_redundancy_percent.into()),
        device_class: options
            .class
            .map_or(v1::DeviceClass::Unspecified, regions::show_class)
            .into(),
        ping_slot_periodicity: options.ping_slots.map(|slots| slots.number().into()),
        data_rate: options.data_rate.map(u32::from),
        frequency_hz: options.frequency_hz.unwrap_or(0),
        frag_size: options.frag_size.unwrap_or(0).into(),
        frag_descriptor: options.descriptor.map_or_else(Vec::new, Vec::from).into(),
        frag_algo: show_frag_algo(options.frag_algo).into(),
        tags: task.tags.clone(),
        multicast_groups: task
            .groups
            .iter()
            .map(|group| names::name("multicastGroups", group))
            .collect(),
        state: show_state(task.state).into(),
        state_reason: show_reason(task.reason).into(),
        state_message: task.reason_text.clone(),
        device_counts: Some(show_counts(counts, task.success)),
        frame_counts: Some(v1::TaskFrameCounts {
            uncoded_fragments_sent: task.counters.uncoded_frames,
            coded_fragments_sent: task.counters.coded_frames,
            status_polls_sent: task.counters.poll_frames,
            unicast_frames_sent: task.counters.unicast_frames,
        }),
        airtime_us: task.counters.airtime_us,
        expected_end_time: task
            .expected_end
            .filter(|_| task.state.is_active())
            .map(show_moment),
        sequence: task_sequence(task.sequence),
        create_time: Some(show_moment(task.created_at)),
        update_time: Some(show_moment(task.updated_at)),
        start_time: task.started_at.map(show_moment),
        end_time: task.ended_at.map(show_moment),
        etag: etag(task),
        waves: task_policies::show_waves(&task.waves),
        thresholds: task_policies::show_thresholds(&task.thresholds),
        retry_of: task
            .retry_of
            .as_ref()
            .map(|id| names::name("tasks", id))
            .unwrap_or_default(),
    }
}

pub(super) fn show_frag_algo(frag_algo: FragAlgo) -> v1::FragAlgo {
    match frag_algo {
        FragAlgo::Ts004 => v1::FragAlgo::Ts004,
        FragAlgo::ReedSolomon => v1::FragAlgo::ReedSolomon,
    }
}

/// The number of a task's record on the wire.
pub(super) fn task_sequence(sequence: u64) -> i64 {
    device_sequence(sequence).saturating_add(1)
}

/// The number of a task device's record on the wire.
pub(super) fn device_sequence(sequence: u64) -> i64 {
    i64::try_from(sequence)
        .unwrap_or(i64::MAX)
        .saturating_mul(2)
}

/// The number in the records after which a device's record is news to a client that has handled `sequence`.
pub(super) fn handled(sequence: i64) -> u64 {
    u64::try_from(sequence / 2).unwrap_or(0)
}

/// Changes with every change by a user. In a draft only users change anything, so its sequence counts.
pub(super) fn etag(task: &Task) -> String {
    let draft = (task.state == TaskState::Draft).then_some(task.sequence);
    let written = (
        (
            &task.display_name,
            (&task.images, task.install),
            &task.groups,
            task.success,
            task.reboot,
        ),
        (
            task.prepare_after,
            task.window_start,
            task.deadline,
            &task.options,
            &task.tags,
        ),
        (&task.waves, &task.thresholds, &task.rules),
        draft,
    );
    // Plain data without maps keyed by anything but text: it always encodes.
    let encoded = serde_json::to_vec(&written).unwrap_or_default();
    let digest = sha256(&encoded);
    URL_SAFE_NO_PAD.encode(digest.first_chunk::<12>().copied().unwrap_or_default())
}

pub(super) fn show_state(state: TaskState) -> v1::TaskState {
    match state {
        TaskState::Draft => v1::TaskState::Draft,
        TaskState::Scheduled => v1::TaskState::Scheduled,
        TaskState::Preparing => v1::TaskState::Preparing,
        TaskState::Distributing => v1::TaskState::Distributing,
        TaskState::Completing => v1::TaskState::Completing,
        TaskState::AwaitingApproval => v1::TaskState::AwaitingApproval,
        TaskState::Paused => v1::TaskState::Paused,
        TaskState::Completed => v1::TaskState::Completed,
        TaskState::Cancelling => v1::TaskState::Cancelling,
        TaskState::Cancelled => v1::TaskState::Cancelled,
        TaskState::Failed => v1::TaskState::Failed,
    }
}

pub(super) fn show_reason(reason: Option<TaskReason>) -> v1::TaskReason {
    match reason {
        None => v1::TaskReason::Unspecified,
        Some(TaskReason::Requested) => v1::TaskReason::Requested,
        Some(TaskReason::ThresholdCrossed) => v1::TaskReason::ThresholdCrossed,
        Some(TaskReason::DeadlinePassed) => v1::TaskReason::DeadlinePassed,
        Some(TaskReason::NoDevices) => v1::TaskReason::NoDeviceLeft,
        Some(TaskReason::PlanImpossible) => v1::TaskReason::PlanImpossible,
        Some(TaskReason::WaitsForDevices) => v1::TaskReason::WaitsForDevices,
        Some(TaskReason::GatewaysOffline) => v1::TaskReason::GatewayOffline,
        Some(TaskReason::ClockDisagrees) => v1::TaskReason::ClockDisagrees,
    }
}

/// The verdict on a device in this state.
pub(super) fn verdict(state: DeviceState, success: SuccessCriterion) -> v1::Verdict {
    let enough = match success {
        SuccessCriterion::ReportedReceived => DeviceState::ReportedReceived,
        SuccessCriterion::Verified => DeviceState::Verified,
        SuccessCriterion::Running => DeviceState::Running,
    };
    if state.is_failure() {
        v1::Verdict::NotSucceeded
    } else if state >= enough {
        v1::Verdict::Succeeded
    } else {
        v1::Verdict::Unspecified
    }
}

pub(super) fn show_counts(counts: &StateCounts, success: SuccessCriterion) -> v1::TaskDeviceCounts {
    let mut shown = v1::TaskDeviceCounts::default();
    for (state, count) in counts {
        let field = match state {
            DeviceState::Pending => &mut shown.pending,
            DeviceState::Preparing => &mut shown.preparing,
            DeviceState::Ready => &mut shown.ready,
            DeviceState::Receiving => &mut shown.receiving,
            DeviceState::ReportedReceived => &mut shown.reported_received,
            DeviceState::Verified => &mut shown.verified,
            DeviceState::Rebooting => &mut shown.rebooting,
            DeviceState::Running => &mut shown.running,
            DeviceState::Skipped => &mut shown.skipped,
            DeviceState::Failed => &mut shown.failed,
            DeviceState::Silent => &mut shown.silent,
            DeviceState::RolledBack => &mut shown.rolled_back,
            DeviceState::Removed => &mut shown.removed,
            DeviceState::Cancelled => &mut shown.cancelled,
        };
        *field = *count;
        if *state == DeviceState::Removed {
            continue;
        }
        shown.total += count;
        match verdict(*state, success) {
            v1::Verdict::Unspecified => {}
            v1::Verdict::Succeeded => {
                shown.succeeded += count;
                shown.ended += count;
            }
            v1::Verdict::NotSucceeded => shown.ended += count,
        }
    }
    shown
}
