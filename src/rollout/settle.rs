//! What came of the tasks of a rollout, taken into its record.

use std::collections::BTreeSet;

use crate::record::{
    DeviceReason, DeviceState, DeviceTries, Rollout, RolloutPurpose, RolloutTaskEnd, Sha256,
    SuccessCriterion, TaskDevice, TaskState,
};

use super::{Survey, TaskSeen};

/// Tasks that have ended and are remembered.
const REMEMBERED: usize = 10;

/// Takes in what has changed since the record was written; the images whose validation has ended.
pub(super) fn take_in(rollout: &mut Rollout, survey: &Survey<'_>) -> BTreeSet<Sha256> {
    let mut judged = BTreeSet::new();
    let mut tasks = std::mem::take(&mut rollout.tasks);
    tasks.retain(|entry| entry.ended.is_some() || survey.tasks.contains_key(&entry.task));
    for entry in tasks.iter_mut().filter(|entry| entry.ended.is_none()) {
        let Some(seen) = survey.tasks.get(&entry.task) else {
            continue;
        };
        entry.started = seen.task.state != TaskState::Draft;
        if !seen.task.state.is_terminal() {
            continue;
        }
        entry.ended = Some(note_end(rollout, entry.image, seen, survey));
        if entry.purpose == RolloutPurpose::Validation {
            judged.insert(entry.image);
        }
    }
    let ended = tasks.iter().filter(|entry| entry.ended.is_some()).count();
    let mut surplus = ended.saturating_sub(REMEMBERED);
    tasks.retain(|entry| {
        let goes = surplus > 0 && entry.ended.is_some();
        surplus -= usize::from(goes);
        !goes
    });
    if !tasks.iter().any(|entry| !entry.started) {
        rollout.refused = None;
    }
    rollout.tasks = tasks;
    judged
}

fn note_end(
    rollout: &mut Rollout,
    image: Sha256,
    seen: &TaskSeen,
    survey: &Survey<'_>,
) -> RolloutTaskEnd {
    let at = seen.task.ended_at.unwrap_or(survey.now);
    let counts_here = rollout.tries_of == Some(image);
    let mut end = RolloutTaskEnd {
        at,
        succeeded: 0,
        failed: 0,
    };
    for device in &seen.devices {
        let verdict = verdict(device, seen.task.success);
        end.succeeded += u32::from(verdict == Verdict::Succeeded);
        end.failed += u32::from(verdict == Verdict::Failed);
        if verdict == Verdict::None || !counts_here {
            continue;
        }
        let tries = rollout.tries.entry(device.dev_eui).or_default();
        *tries = DeviceTries {
            count: tries
                .count
                .saturating_add(u32::from(verdict != Verdict::Stopped)),
            succeeded: verdict == Verdict::Succeeded,
            at,
        };
    }
    end
}

/// What a task says of one of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Succeeded,
    Failed,
    /// Taken out before it could show: it is not the device's fault, and not to be tried again at once.
    Stopped,
    /// It had nothing to do with it.
    None,
}

fn verdict(device: &TaskDevice, success: SuccessCriterion) -> Verdict {
    match (device.state, device.reason) {
        (DeviceState::Skipped, Some(DeviceReason::AlreadyCurrent | DeviceReason::Conflict)) => {
            Verdict::None
        }
        (DeviceState::Cancelled | DeviceState::Removed, _) => Verdict::Stopped,
        (state, _) if state.is_failure() => Verdict::Failed,
        _ if device.has_verdict(success) => Verdict::Succeeded,
        _ => Verdict::Stopped,
    }
}
