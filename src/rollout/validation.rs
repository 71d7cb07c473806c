//! Whether an image has shown on the test devices that it is good.

use std::collections::{BTreeMap, BTreeSet};

use crate::lorawan::identifiers::DevEui;
use crate::record::{Image, Rollout, RolloutPurpose, Sha256};

use super::standing::{has_taken, running};
use super::{DeviceFacts, Survey};

/// Where the validation of an image is.
pub(super) enum Validation {
    /// There are no test devices.
    NotNeeded,
    Passed,
    Failed(String),
    /// It could not pass.
    Impossible(String),
    /// It is under way, or test devices are not free.
    Waits(String),
    /// It is to be tried on these.
    Try(BTreeSet<DevEui>),
}

/// Looks at the test devices; `judged` are images whose validation task has just ended.
pub(super) fn look(
    rollout: &Rollout,
    image: &Image,
    survey: &Survey<'_>,
    judged: &BTreeSet<Sha256>,
) -> Validation {
    let order = &rollout.order.validation;
    let tested = order.test_devices.len();
    if tested == 0 {
        return Validation::NotNeeded;
    }
    if rollout.validated == Some(image.sha256) {
        return Validation::Passed;
    }
    let known: BTreeMap<DevEui, &DeviceFacts> = survey
        .devices
        .iter()
        .filter(|device| order.test_devices.contains(&device.dev_eui))
        .map(|device| (device.dev_eui, device))
        .collect();
    let has_passed = |device: &DeviceFacts| {
        running(device, image).is_some_and(|(version, _)| version == image.target_version)
            || has_taken(rollout, image, device)
    };
    let passed = known.values().filter(|device| has_passed(device)).count();
    let needed = (tested * usize::from(order.required_percent))
        .div_ceil(100)
        .max(1);
    let is_under_way = rollout.tasks.iter().any(|task| {
        let of_image = task.purpose == RolloutPurpose::Validation && task.image == image.sha256;
        of_image && task.started && task.ended.is_none()
    });
    if is_under_way {
        return Validation::Waits(format!("{passed} of {tested} test devices run the image"));
    }
    if passed >= needed {
        return Validation::Passed;
    }
    if judged.contains(&image.sha256) || rollout.not_validated == Some(image.sha256) {
        let message = format!("{passed} of {tested} test devices took the image, {needed} must");
        return Validation::Failed(message);
    }
    if known.len() < needed {
        let message = format!(
            "{} of {tested} test devices exist, {needed} must",
            known.len()
        );
        return Validation::Impossible(message);
    }
    let to_try = known.iter().filter(|(_, device)| !has_passed(device));
    let to_try: BTreeSet<DevEui> = to_try.map(|(dev_eui, _)| *dev_eui).collect();
    let held = to_try.intersection(survey.held).count();
    if held > 0 {
        return Validation::Waits(format!("test devices in other tasks: {held}"));
    }
    Validation::Try(to_try)
}
