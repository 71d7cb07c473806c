//! Which session a device belongs to for an image of the task, or why it is left out.

use std::cmp::Reverse;

use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::region::Region;
use crate::lorawan::{PackageVersion, fragmentation, multicast_setup};
use crate::record::{
    DeviceClass, DeviceProfile, DeviceReason, FleetDevice, FragAlgo, GatewaySettings, InstallMode,
    Sha256, SuccessCriterion, VersionSource,
};

use super::needs::{self, Need};
use super::plan::{PlanError, PlanRequest, SkippedDevice};
use super::{air, gate, link, sizing};

/// Devices that can share frames: same region, packages, code and fragment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey {
    /// Place of the image among those of the task.
    pub(super) image: u8,
    pub(super) region: Region,
    pub(super) class: DeviceClass,
    pub(super) multicast_version: PackageVersion,
    pub(super) fragmentation_version: PackageVersion,
    pub(super) frag_port: u8,
    pub(super) data_rate: u8,
    /// Somebody asked for that data rate; else the planner chooses.
    pub(super) rate_asked: bool,
    pub(super) frequency_hz: u32,
    pub(super) frag_size: u8,
    /// Most the decoder takes.
    pub(super) max_frag_size: u8,
    /// Another code comes first: who refuses it goes on in a later session.
    pub(super) frag_algo: Reverse<FragAlgo>,
    /// Images that wait for one reboot have a `FragIndex` each; these devices have not as many.
    pub(super) one_index: bool,
    /// The patch these devices are sent in place of the image.
    pub(super) delta: Option<Sha256>,
    pub(super) descriptor: [u8; 4],
}

/// The sessions a device belongs to, one for each image it needs, or why it is left out. `Err` on the outside: the
/// order itself is impossible.
pub(super) fn places(
    request: &PlanRequest<'_>,
    device: &FleetDevice,
) -> Result<Result<Vec<SessionKey>, SkippedDevice>, PlanError> {
    let needs = match needs::of(request, device) {
        Ok(needs) => needs,
        Err(skip) => return Ok(Err(skip)),
    };
    let mut keys = Vec::with_capacity(needs.len());
    for need in &needs {
        match place(request, need, device)? {
            Ok(key) => keys.push(key),
            Err(skip) => return Ok(Err(skip)),
        }
    }
    Ok(Ok(keys))
}

fn place(
    request: &PlanRequest<'_>,
    need: &Need<'_>,
    device: &FleetDevice,
) -> Result<Result<SessionKey, SkippedDevice>, PlanError> {
    let (task, profile) = (request.task, &device.profile);
    let skip = |reason, evidence: String| {
        Ok(Err(SkippedDevice {
            dev_eui: device.settings.dev_eui,
            reason,
            evidence,
            unfit: None,
        }))
    };
    let missing = |what: &str| {
        skip(
            DeviceReason::PackageNotSupported,
            format!("the profile has no {what} package"),
        )
    };
    if let Some(unfit) = gate::unfit(request, need, device) {
        return Ok(Err(SkippedDevice {
            dev_eui: device.settings.dev_eui,
            reason: unfit.reason,
            evidence: unfit.evidence,
            unfit: Some(unfit.field),
        }));
    }
    let heard_by = &device.status.links;
    let known = |eui: &GatewayEui| request.gateways.iter().any(|g| g.eui == *eui);
    if !heard_by.is_empty() && !heard_by.keys().any(known) {
        return skip(
            DeviceReason::NoGateway,
            "only gateways have heard it that the network no longer has".to_owned(),
        );
    }
    let Some(multicast) = profile.packages.multicast_setup else {
        return missing("multicast set-up");
    };
    let Some(frag_package) = profile.packages.fragmentation else {
        return missing("fragmentation");
    };
    let differs = |id: u8, version: PackageVersion| {
        let said = device.status.capabilities.get(&id).map(|c| c.version);
        said.filter(|said| *said != version.number())
    };
    let said = differs(multicast_setup::PACKAGE_IDENTIFIER, multicast.version)
        .or_else(|| differs(fragmentation::PACKAGE_IDENTIFIER, frag_package.version));
    if let Some(said) = said {
        let evidence =
            format!("the device answered package version {said}, the profile says otherwise");
        return skip(DeviceReason::VersionMismatch, evidence);
    }
    let needs_version = task.success == SuccessCriterion::Running;
    if needs_version
        && profile.packages.firmware_management.is_none()
        && profile.version_source == VersionSource::FirmwareManagement
        && !profile.has_own_field(&need.image.component)
    {
        return missing("firmware management");
    }
    let group = request
        .groups
        .iter()
        .find(|g| g.devices.contains(&device.settings.dev_eui));
    let asked = task.options.class.or_else(|| group.map(|g| g.class));
    let class = asked.unwrap_or_else(|| default_class(request, profile));
    let has_class = match class {
        DeviceClass::A => true,
        DeviceClass::B => profile.supports_class_b && profile.region.class_b().is_some(),
        DeviceClass::C => profile.supports_class_c,
    };
    if !has_class {
        return skip(
            DeviceReason::PackageNotSupported,
            format!("the profile has no class {class:?}"),
        );
    }
    let asked_rate = task
        .options
        .data_rate
        .or_else(|| group.and_then(|g| g.data_rate));
    // A device that is answered its uplinks can always be answered in RX2.
    let asked_rate =
        asked_rate.or_else(|| (class == DeviceClass::A).then(|| profile.region.rx2().1));
    let frequency_hz = task
        .options
        .frequency_hz
        .or_else(|| group.and_then(|g| g.frequency_hz))
        .unwrap_or_else(|| profile.region.default_multicast_hz());
    // Left to the planner, it is chosen once all devices are known; here any rate shows that there is one.
    let some_rate = || {
        let rates = |size| link::candidate_rates(profile.region, frequency_hz, size);
        let carry = rates(task.options.frag_size).first().copied();
        carry.or_else(|| rates(None).last().copied())
    };
    let data_rate = asked_rate
        .or_else(some_rate)
        .unwrap_or_else(|| profile.region.rx2().1);
    let Some(largest) = sizing::largest_fragment(profile.region, data_rate) else {
        let message = format!("{data_rate} carries no fragment in {}", profile.region);
        return Err(PlanError::Field {
            field: "data_rate",
            message,
        });
    };
    if air::band_of(profile.region, frequency_hz, data_rate).is_none() {
        let message = format!(
            "{frequency_hz} Hz at data rate {data_rate} lies in no sub-band of {}",
            profile.region
        );
        return Err(PlanError::Field {
            field: "frequency_hz",
            message,
        });
    }
    let frag_size = match task.options.frag_size {
        Some(size) if size > largest => {
            let message =
                format!("{size} is more than the {largest} bytes data rate {data_rate} carries");
            return Err(PlanError::Field {
                field: "frag_size",
                message,
            });
        }
        Some(size) => size,
        None => largest,
    };
    let delta = gate::delta(request, need, device).map(|delta| delta.sha256);
    Ok(Ok(SessionKey {
        image: need.number,
        one_index: request.task.install == InstallMode::Together
            && usize::from(sizing::frag_sessions_at_once(profile)) < request.images.len(),
        delta,
        descriptor: task.options.descriptor.unwrap_or_else(|| {
            let part = profile.component(&need.image.component);
            let number = part.map_or(0, |part| part.number);
            let target = need.image.target_version;
            profile.descriptor.bytes(number, delta.is_some(), target)
        }),
        region: profile.region,
        class,
        multicast_version: multicast.version,
        fragmentation_version: frag_package.version,
        frag_port: frag_package.f_port,
        data_rate,
        rate_asked: asked_rate.is_some(),
        frequency_hz,
        frag_size: frag_size.min(profile.limits.max_frag_size),
        max_frag_size: profile.limits.max_frag_size,
        frag_algo: Reverse(if profile.decodes(task.options.frag_algo) {
            task.options.frag_algo
        } else {
            FragAlgo::Ts004
        }),
    }))
}

/// The class of a device's sessions where nobody says: the fastest it has that the gateways serve. Class A is slow, and
/// every device has it.
fn default_class(request: &PlanRequest<'_>, profile: &DeviceProfile) -> DeviceClass {
    if profile.supports_class_c {
        return DeviceClass::C;
    }
    let beacons = request.gateways.iter().any(GatewaySettings::sends_class_b);
    if profile.supports_class_b && beacons && profile.region.class_b().is_some() {
        DeviceClass::B
    } else {
        DeviceClass::A
    }
}
