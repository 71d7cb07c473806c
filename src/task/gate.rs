//! Whether an image fits a device: what keeps the wrong image off the air before a second of it is spent.
//!
//! Each rule names the field of the image that stands against the device, so that a refusal says what to change.
//! Signatures are not looked at here: they were checked when the image came, and whom to trust is a policy of the API.

use crate::record::{DeviceReason, FleetDevice, Image, ReleaseState};

use super::needs::Need;
use super::plan::{PlanError, PlanRequest, SkippedDevice};

/// Why an image does not fit a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    /// Field of the image in the API.
    pub(super) field: &'static str,
    pub(super) reason: DeviceReason,
    pub(super) evidence: String,
}

/// An image is for nobody: withdrawn, or a patch, which goes to devices in place of the image it makes.
pub(super) fn image(image: &Image) -> Result<(), PlanError> {
    let message = match &image.facts.delta {
        _ if image.release.state == ReleaseState::Withdrawn => "the image is withdrawn".to_owned(),
        Some(delta) => format!(
            "the image is a delta: name the one it makes, {}",
            delta.target
        ),
        None => return Ok(()),
    };
    Err(PlanError::Field {
        field: "images",
        message,
    })
}

/// The first rule that keeps the image of a task off a device; `None`: it fits.
pub(super) fn unfit(
    request: &PlanRequest<'_>,
    need: &Need<'_>,
    device: &FleetDevice,
) -> Option<Unfit> {
    let image = need.image;
    let (component, target) = (&image.component, image.target_version);
    let not = |field, reason, evidence: String| {
        Some(Unfit {
            field,
            reason,
            evidence,
        })
    };
    if !image.model.is_empty() && image.model != device.settings.model {
        let evidence = format!(
            "image is for model {}, device is {}",
            image.model,
            named(&device.settings.model)
        );
        return not("model", DeviceReason::WrongModel, evidence);
    }
    let Some(part) = device.profile.component(component) else {
        let evidence = format!("image is for component {component}, which its profile has not got");
        return not("component", DeviceReason::NoSuchComponent, evidence);
    };
    if !image.release.allows(device.settings.dev_eui) {
        let evidence = match image.release.state {
            ReleaseState::Draft => "image is a draft, and the device is not on its list",
            _ => "image is restricted to a list the device is not on",
        };
        let reason = DeviceReason::NotReleased;
        return not("allowed_devices", reason, evidence.to_owned());
    }
    let running = need.running;
    if let Some(evidence) = wrong_source(image, running) {
        return not("source_versions", DeviceReason::SourceVersion, evidence);
    }
    if let Some(version) = running.filter(|version| *version > target)
        && !request.task.options.allow_downgrade
    {
        let evidence = format!("device runs {version:#010x}, which is higher than {target:#010x}");
        return not("target_version", DeviceReason::Downgrade, evidence);
    }
    let seen = device.status.security_counters.get(component);
    let counter = image.facts.security_counter.unwrap_or(0);
    if let Some(seen) = seen.filter(|seen| **seen > counter) {
        let evidence = format!("device has run security counter {seen}, the image has {counter}");
        return not("security_counter", DeviceReason::SecurityCounter, evidence);
    }
    let most = part.max_image_bytes.unwrap_or(u32::MAX);
    if image.size_bytes > most {
        let evidence = format!(
            "image has {} bytes, the slot of {component} {most}",
            image.size_bytes
        );
        return not("size_bytes", DeviceReason::SlotTooSmall, evidence);
    }
    None
}

fn wrong_source(image: &Image, running: Option<u32>) -> Option<String> {
    let wanted = &image.facts.source_versions;
    if wanted.is_empty() || running.is_some_and(|version| wanted.contains(&version)) {
        return None;
    }
    let wanted: Vec<String> = wanted.iter().map(|v| format!("{v:#010x}")).collect();
    let has = running.map_or_else(|| "an unknown version".to_owned(), |v| format!("{v:#010x}"));
    Some(format!(
        "device runs {has}, the image is for {}",
        wanted.join(", ")
    ))
}

fn named(model: &str) -> &str {
    if model.is_empty() { "of none" } else { model }
}

/// Devices the image does not fit keep the whole task from starting, unless they are to be left out.
pub(super) fn devices(
    request: &PlanRequest<'_>,
    skipped: &[SkippedDevice],
) -> Result<(), PlanError> {
    if request.task.options.skip_unfit {
        return Ok(());
    }
    let unfit: Vec<SkippedDevice> = skipped
        .iter()
        .filter(|s| s.unfit.is_some())
        .cloned()
        .collect();
    if unfit.is_empty() {
        return Ok(());
    }
    Err(PlanError::Unfit(unfit))
}

/// The smallest patch that turns what a device runs into the image, if its boot loader applies patches.
pub(super) fn delta<'a>(
    request: &PlanRequest<'a>,
    need: &Need<'_>,
    device: &FleetDevice,
) -> Option<&'a Image> {
    let image = need.image;
    let part = device.profile.component(&image.component)?;
    let running = need.running?;
    let fits = |delta: &&Image| {
        delta.release.allows(device.settings.dev_eui)
            && delta
                .facts
                .delta
                .is_some_and(|patch| patch.target == image.sha256 && patch.base_version == running)
            && delta.size_bytes < image.size_bytes
    };
    let patches = request.deltas.iter().copied().filter(fits);
    patches
        .min_by_key(|delta| delta.size_bytes)
        .filter(|_| part.applies_deltas && !request.task.options.no_deltas)
}
