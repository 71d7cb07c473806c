//! Which images of a task a device needs, and what it runs when each of them comes.

use crate::record::{
    DeviceReason, FleetDevice, Image, InstallMode, RebootMode, SuccessCriterion, Task,
};

use super::plan::{PlanError, PlanRequest, SkippedDevice};
use super::sizing;

/// An image a device needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need<'a> {
    /// Its place among the images of the task, from 0.
    pub(super) number: u8,
    pub(super) image: &'a Image,
    /// The version its component runs when it comes, as far as it is known.
    pub(super) running: Option<u32>,
}

/// What an order with several images asks for that cannot be.
pub(super) fn check(task: &Task, images: &[&Image]) -> Result<(), PlanError> {
    let fail = |field, message: String| Err(PlanError::Field { field, message });
    if images.len() < 2 {
        return Ok(());
    }
    for (at, image) in images.iter().enumerate() {
        let mut earlier = images[..at].iter();
        if earlier.clone().any(|other| other.sha256 == image.sha256) {
            return fail("images", format!("{} is named twice", image.sha256));
        }
        let component = &image.component;
        if task.install == InstallMode::Together
            && earlier.any(|other| other.component == *component)
        {
            let message = format!("two are for component {component}: install them in turn");
            return fail("images", message);
        }
    }
    if task.install == InstallMode::InTurn {
        if task.success != SuccessCriterion::Running {
            let message = "each image must run before the next is sent: the criterion is RUNNING";
            return fail("success_criterion", message.to_owned());
        }
        if matches!(task.reboot, RebootMode::AtTime { .. }) {
            let message = "devices reboot once for each image: one moment does not do";
            return fail("reboot_mode", message.to_owned());
        }
    }
    Ok(())
}

/// The images a device needs, in order; or why it gets none of them.
pub(super) fn of<'a>(
    request: &PlanRequest<'a>,
    device: &FleetDevice,
) -> Result<Vec<Need<'a>>, SkippedDevice> {
    let in_turn = request.task.install == InstallMode::InTurn;
    let mut needs: Vec<Need<'a>> = Vec::new();
    for (number, image) in (0u8..).zip(request.images.iter().copied()) {
        let reported = device.status.version(&image.component);
        let same = |need: &Need<'_>| need.image.component == image.component;
        if reported == Some(image.target_version) {
            // The steps before it are behind the device.
            needs.retain(|need| !(in_turn && same(need)));
            continue;
        }
        let before = needs.iter().rev().find(|need| same(need));
        let running = before.map(|need| need.image.target_version).or(reported);
        needs.push(Need {
            number,
            image,
            running,
        });
    }
    if needs.is_empty() {
        let versions = request
            .images
            .iter()
            .map(|i| format!("{:#010x}", i.target_version));
        let versions: Vec<String> = versions.collect();
        return Err(SkippedDevice {
            dev_eui: device.settings.dev_eui,
            reason: DeviceReason::AlreadyCurrent,
            evidence: format!("runs {} already", versions.join(", ")),
            unfit: None,
        });
    }
    match cannot_hold(request, device, &needs) {
        Some((field, reason, evidence)) => Err(SkippedDevice {
            dev_eui: device.settings.dev_eui,
            reason,
            evidence,
            unfit: Some(field),
        }),
        None => Ok(needs),
    }
}

/// Why a device cannot have several images installed together.
fn cannot_hold(
    request: &PlanRequest<'_>,
    device: &FleetDevice,
    needs: &[Need<'_>],
) -> Option<(&'static str, DeviceReason, String)> {
    let (task, profile) = (request.task, &device.profile);
    if request.images.len() < 2 || task.install == InstallMode::InTurn {
        return None;
    }
    let (images, holds) = (request.images.len(), sizing::frag_sessions_at_once(profile));
    if needs.len() > 1 && images > usize::from(holds) && !profile.limits.keeps_blocks {
        let evidence = format!(
            "{images} images at once are as many fragmentation sessions, the device holds {holds}"
        );
        return Some(("images", DeviceReason::DecoderLimit, evidence));
    }
    let untold = |need: &&Need<'_>| !profile.has_own_field(&need.image.component);
    let mut untold = needs
        .iter()
        .filter(untold)
        .map(|need| &need.image.component);
    let (first, second) = (untold.next(), untold.next());
    match (task.success, first, second) {
        (SuccessCriterion::Running, Some(first), Some(second)) => {
            let evidence = format!(
                "nothing tells apart which versions of {first} and {second} run: the profile names no field for them"
            );
            Some(("component", DeviceReason::PackageNotSupported, evidence))
        }
        _ => None,
    }
}
