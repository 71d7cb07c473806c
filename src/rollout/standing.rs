//! Where each device of a rollout stands with its image.

use std::collections::BTreeSet;

use crate::lorawan::identifiers::DevEui;
use crate::record::{Image, Rollout, RolloutCounts, RolloutSelector};
use crate::time::Timestamp;

use super::{DeviceFacts, Survey, tries};

/// All devices of a rollout, sorted.
#[derive(Debug, Default)]
pub(super) struct Standings {
    pub(super) counts: RolloutCounts,
    /// Those that may be served now.
    pub(super) ready: BTreeSet<DevEui>,
    /// When the next one may be tried again.
    pub(super) next_try: Option<Timestamp>,
}

/// One device.
enum Standing {
    UpToDate,
    Behind,
    Unknown,
    LeftAlone,
    /// It runs a version the rollout is not for.
    NotMeant,
}

impl Standings {
    pub(super) fn of(rollout: &Rollout, image: &Image, survey: &Survey<'_>) -> Self {
        let mut standings = Self::default();
        let selector = &rollout.order.selector;
        let devices = survey.devices.iter();
        for device in devices.filter(|device| names(selector, device, survey.members)) {
            let held = survey.held.contains(&device.dev_eui);
            standings.count(rollout, image, device, held, survey.now);
        }
        standings
    }

    fn count(
        &mut self,
        rollout: &Rollout,
        image: &Image,
        device: &DeviceFacts,
        held: bool,
        now: Timestamp,
    ) {
        let counts = &mut self.counts;
        let (field, served) = match standing(rollout, image, device) {
            Standing::NotMeant => return,
            Standing::UpToDate => (&mut counts.up_to_date, false),
            Standing::LeftAlone => (&mut counts.left_alone, false),
            Standing::Unknown => (&mut counts.unknown, rollout.order.selector.include_unknown),
            Standing::Behind => (&mut counts.behind, true),
        };
        if !served {
            *field += 1;
            return;
        }
        let tries = tries(rollout, image, device.dev_eui);
        if held {
            counts.in_task += 1;
        } else if tries.is_some_and(|tries| tries.count >= rollout.order.max_failures) {
            counts.failed += 1;
        } else {
            *field += 1;
            let again = tries.map(|tries| tries.at + rollout.order.retry_after);
            match again.filter(|at| *at > now) {
                None => {
                    self.ready.insert(device.dev_eui);
                }
                Some(at) => {
                    self.next_try = Some(self.next_try.map_or(at, |first| first.min(at)));
                }
            }
        }
    }
}

/// Whether the selector names a device, versions aside.
fn names(
    selector: &RolloutSelector,
    device: &DeviceFacts,
    members: Option<&BTreeSet<DevEui>>,
) -> bool {
    let of = |wanted: &Option<String>| wanted.as_ref().is_none_or(|id| *id == device.profile);
    (selector.model.is_empty() || selector.model == device.model)
        && of(&selector.profile)
        && selector
            .tags
            .iter()
            .all(|(key, value)| device.tags.get(key) == Some(value))
        && (selector.group.is_none()
            || members.is_some_and(|members| members.contains(&device.dev_eui)))
}

fn standing(rollout: &Rollout, image: &Image, device: &DeviceFacts) -> Standing {
    let selector = &rollout.order.selector;
    let sources = &image.facts.source_versions;
    if is_up_to_date(rollout, image, device) {
        return Standing::UpToDate;
    }
    let released = image.release.allows(device.dev_eui);
    match running(device, image) {
        None if released && sources.is_empty() => Standing::Unknown,
        None => Standing::LeftAlone,
        Some((version, _)) => {
            let from = &selector.from_versions;
            if !from.is_empty() && !from.contains(&version) {
                Standing::NotMeant
            } else if !released || !(sources.is_empty() || sources.contains(&version)) {
                Standing::LeftAlone
            } else {
                Standing::Behind
            }
        }
    }
}

/// It runs the target, or what is as good; or it has taken it, and has had no time yet to say so.
fn is_up_to_date(rollout: &Rollout, image: &Image, device: &DeviceFacts) -> bool {
    let target = image.target_version;
    let running = running(device, image);
    let reported = running.is_some_and(|(version, _)| match version {
        version if version > target => !rollout.order.template.options.allow_downgrade,
        version => version == target,
    });
    reported || has_taken(rollout, image, device)
}

/// It succeeded with the image in a task, and has reported no other version since it should run it.
pub(super) fn has_taken(rollout: &Rollout, image: &Image, device: &DeviceFacts) -> bool {
    let taken = tries(rollout, image, device.dev_eui).filter(|tries| tries.succeeded);
    taken.is_some_and(|taken| {
        let since = taken.at + rollout.order.retry_after;
        running(device, image).is_none_or(|(version, reported_at)| {
            version == image.target_version || reported_at < since
        })
    })
}

/// The version of the image's component, and when it was reported.
pub(super) fn running(device: &DeviceFacts, image: &Image) -> Option<(u32, Timestamp)> {
    device.versions.get(&image.component).copied()
}
