//! The end of a run: what each device and task came to, against what is true and what could be expected.

use std::collections::BTreeSet;
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::record::{
    CleanupState, DeviceReason, DeviceState, DistributionSession, Task, TaskDevice,
};
use lorawan_fuota::time::Timestamp;

use crate::lab::Lab;

use super::records::Records;
use super::{Broken, Checker};

/// What a run may come to, by what it went through.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The version all devices are to run.
    pub target_version: u32,
    /// Number and version of further parts they are to run.
    pub parts: Vec<(u8, u32)>,
    /// So much is lost that a device may stay out of reach for a whole task; it has to end with its reason then.
    pub out_of_reach: bool,
    /// Loss came in bursts, gateways fell silent, or a device's clock was moved and it listens too late: frames of
    /// unknown fate count as sent, so that what the operator allows may be spent on nobody.
    pub budget_may_go: bool,
    /// Gateways fell silent: a device that joins again with growing pauses may miss all the moments they were there.
    pub may_be_unheard: bool,
    /// The duty cycle is spent before the image is through, so that repairs wait for the next hour and may find the
    /// deadline passed.
    pub time_may_run_out: bool,
    /// Devices that vanished.
    pub vanished: BTreeSet<DevEui>,
    /// How far the clock of a device may be off that the server has set.
    pub clock_off: Duration,
}

/// How far a clock that was set may be off: fractions of seconds are not corrected.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// All checkers that look at the end of a run.
pub fn verdicts(
    at: Timestamp,
    task: &Task,
    devices: &[TaskDevice],
    records: &Records,
    lab: &Lab,
    expected: &Expected,
) -> Vec<Broken> {
    let mut broken = terminal(task, devices);
    broken.extend(duty_cycle(lab));
    for device in devices {
        broken.extend(updated(device, expected));
        broken.extend(running(device, lab, expected));
        broken.extend(clock(at, device, lab, expected));
        let session = records
            .sessions
            .values()
            .find(|s| s.id.task == task.id && Some(s.id.number) == device.session);
        broken.extend(cleanup(device, session, records, lab));
    }
    broken
}

/// The checker of [`Checker::Terminal`].
fn terminal(task: &Task, devices: &[TaskDevice]) -> Vec<Broken> {
    let mut broken = Vec::new();
    if !task.state.is_terminal() {
        let what = format!("the task has not ended: {:?}", task.state);
        broken.push((Checker::Terminal, None, what));
    }
    for device in devices {
        let (state, dev_eui) = (device.state, Some(device.dev_eui));
        let ended = state.is_failure() || state == DeviceState::Running;
        if !ended {
            broken.push((Checker::Terminal, dev_eui, format!("ended {state:?}")));
        }
        let silent_about = device.reason.is_none() && state != DeviceState::Cancelled;
        if state.is_failure() && (silent_about || device.evidence.is_empty()) {
            let what = format!("{state:?} without reason or evidence");
            broken.push((Checker::Terminal, dev_eui, what));
        }
    }
    broken
}

/// The checker of [`Checker::Updated`].
fn updated(device: &TaskDevice, expected: &Expected) -> Option<Broken> {
    let (state, reason) = (device.state, device.reason);
    let vanished = expected.vanished.contains(&device.dev_eui);
    let fits = state == DeviceState::Running
        || (expected.out_of_reach && reason.is_some())
        || (expected.budget_may_go && reason == Some(DeviceReason::BudgetSpent))
        || (expected.time_may_run_out && reason == Some(DeviceReason::WindowClosed))
        || ((vanished || expected.may_be_unheard)
            && (state, reason) == (DeviceState::Silent, Some(DeviceReason::NoAnswer)));
    (!fits).then(|| {
        let what = format!("ended {state:?} ({reason:?}): {}", device.evidence);
        (Checker::Updated, Some(device.dev_eui), what)
    })
}

/// The checker of [`Checker::Running`].
fn running(device: &TaskDevice, lab: &Lab, expected: &Expected) -> Option<Broken> {
    let real = lab.device(device.dev_eui)?;
    let main = real.running_version();
    let mut parts = expected.parts.iter();
    let others: Vec<(u8, Option<u32>, bool)> = parts
        .by_ref()
        .map(|(part, version)| {
            let runs = real.running_version_of(*part);
            (*part, runs, runs == Some(*version))
        })
        .collect();
    let updated = [main == expected.target_version]
        .into_iter()
        .chain(others.iter().map(|(.., updated)| *updated));
    let (all, any) = updated.fold((true, false), |(all, any), u| (all && u, any || u));
    let what = match device.state {
        DeviceState::Running if !all => "is RUNNING",
        _ if any && !all && device.reason != Some(DeviceReason::WrongVersion) => {
            "was updated in part"
        }
        _ => return None,
    };
    let what = format!("{what} but runs {main:#010x} and {others:x?}");
    Some((Checker::Running, Some(device.dev_eui), what))
}

/// The checker of [`Checker::Clock`]: both the network and the server give the time; together they must not give it
/// twice.
fn clock(at: Timestamp, device: &TaskDevice, lab: &Lab, expected: &Expected) -> Option<Broken> {
    let clock = lab.device(device.dev_eui)?.clock();
    let off = Duration::from_micros(clock.error_us(at).unsigned_abs());
    (clock.is_set() && off > CLOCK_TOLERANCE + expected.clock_off).then(|| {
        let what = format!("its clock is off by {} s", off.as_secs_f64());
        (Checker::Clock, Some(device.dev_eui), what)
    })
}

/// The checker of [`Checker::Cleanup`].
fn cleanup(
    device: &TaskDevice,
    session: Option<&DistributionSession>,
    records: &Records,
    lab: &Lab,
) -> Vec<Broken> {
    let Some(real) = lab.device(device.dev_eui) else {
        return Vec::new();
    };
    let frag_index = session.map_or(0, |s| s.block.frag_index);
    let group = usize::from(session.map_or(0, |s| s.mc_group_id));
    let status = records.statuses.get(&device.dev_eui);
    let group_recorded = status.is_some_and(|known| known.group_left);
    let frag_recorded = status.is_some_and(|known| known.frag_session_left);
    let rests = [
        (
            "group",
            device.group_cleanup,
            match device.group_cleanup {
                // What an earlier task left under another number is not this task's.
                CleanupState::Confirmed => real.mc_groups().get(group).is_some_and(Option::is_some),
                _ => real.mc_groups().iter().any(Option::is_some),
            },
            group_recorded,
        ),
        (
            "fragmentation session",
            device.frag_cleanup,
            real.decoder_progress(frag_index).is_some(),
            frag_recorded,
        ),
    ];
    let course = device.images.iter();
    let earlier = course.clone().flat_map(|course| &course.frag_sessions);
    let earlier = earlier.map(|(index, state)| {
        let is_there = real.decoder_progress(*index).is_some();
        (
            "earlier fragmentation session",
            *state,
            is_there,
            frag_recorded,
        )
    });
    let discarded = course.flat_map(|course| course.discard.values());
    let discarded = discarded.map(|state| ("unwanted image", *state, false, true));
    let mut broken = Vec::new();
    for (what, state, is_there, is_recorded) in rests.into_iter().chain(earlier).chain(discarded) {
        let problem = match state {
            CleanupState::Confirmed if is_there => {
                "is still there, although its deletion is confirmed"
            }
            CleanupState::Pending => "was neither deleted nor recorded as left",
            CleanupState::Left | CleanupState::NotNeeded | CleanupState::Kept
                if is_there && !is_recorded =>
            {
                "is left on the device, and nothing says so"
            }
            _ => continue,
        };
        let told = format!("its {what} {problem}");
        broken.push((Checker::Cleanup, Some(device.dev_eui), told));
    }
    broken
}

/// The checker of [`Checker::DutyCycle`]: what each gateway sent, by its own watch.
fn duty_cycle(lab: &Lab) -> Vec<Broken> {
    let gateways = lab.gateways().iter();
    let breaches = gateways.flat_map(|gateway| {
        gateway.breaches().iter().map(|breach| {
            let what = format!(
                "gateway {}: {:?} at {}",
                gateway.eui(),
                breach.rule,
                breach.at
            );
            (Checker::DutyCycle, None, what)
        })
    });
    breaches.collect()
}
