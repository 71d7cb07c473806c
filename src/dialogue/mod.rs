//! What is answered outside any task: time requests (TS003), late or stray answers, and leftovers of ended tasks.
//!
//! PURE. Devices that a campaign is busy with are served here only for time; everything else they say is the
//! campaign's.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lorawan::identifiers::DevEui;
use crate::lorawan::{
    PackageVersion, clock_sync, firmware_management, fragmentation, multicast_setup,
};
use crate::record::{Downlink, DownlinkId, Fleet, FleetDevice, Target, Uplink, VersionEvidence};
use crate::time::Timestamp;

/// Times leftovers of one device are asked to be deleted in one run of the server. A device that does not answer has
/// other things to do; it is asked again after a restart or when a task sets it up anew.
const CLEANUP_TRIES: u8 = 8;
/// A downlink that did not leave with its uplink's receive windows is stale.
const LIFETIME: Duration = Duration::from_secs(20);

/// Answers devices outside tasks.
#[derive(Debug, Default)]
pub struct Dialogue {
    next_number: u32,
    cleanup_tries: BTreeMap<DevEui, u8>,
}

impl Dialogue {
    /// The owner number its downlinks carry.
    pub const OWNER: u32 = 0;

    /// Takes in an uplink; `in_task` when a campaign is busy with the device. At most one downlink, for the uplink's
    /// receive windows.
    pub fn hear(
        &mut self,
        now: Timestamp,
        uplink: &Uplink,
        in_task: bool,
        fleet: &mut Fleet,
    ) -> Option<Downlink> {
        let device = fleet.get(uplink.dev_eui)?;
        let answer = time_answer(uplink, device);
        if answer.is_none() && in_task {
            return None;
        }
        let (f_port, payload) = match answer {
            Some(answer) => answer,
            None => self.outside_task(now, uplink, fleet)?,
        };
        let id = DownlinkId {
            owner: Self::OWNER,
            number: self.next_number,
        };
        self.next_number = self.next_number.wrapping_add(1);
        Some(Downlink {
            more: false,
            id,
            target: Target::Device(uplink.dev_eui),
            f_port,
            payload,
            answers: Some(uplink.reference()),
            earliest: now,
            deadline: now + LIFETIME,
        })
    }

    fn outside_task(
        &mut self,
        now: Timestamp,
        uplink: &Uplink,
        fleet: &mut Fleet,
    ) -> Option<(u8, Vec<u8>)> {
        let acknowledge = take_in(now, uplink, fleet);
        if acknowledge.is_some() {
            return acknowledge;
        }
        let device = fleet.get(uplink.dev_eui)?;
        let cleanup = cleanup(device)?;
        let tries = self.cleanup_tries.entry(uplink.dev_eui).or_default();
        *tries = tries.saturating_add(1);
        (*tries <= CLEANUP_TRIES).then_some(cleanup)
    }
}

/// `AppTimeAns` for an `AppTimeReq` (TS003-2.0.0 §3.2): the correction at gateway reception, where the device wants one
/// or its clock is off.
fn time_answer(uplink: &Uplink, device: &FleetDevice) -> Option<(u8, Vec<u8>)> {
    use clock_sync::{AppTimeAns, DownlinkCommand, UplinkCommand};
    // DeviceTimeAns comes first and sets the clock; a correction of the clock before that would then put it wrong, on
    // stacks that add corrections to whatever their clock says. Who still wants one asks again.
    if uplink.asked_time {
        return None;
    }
    let package = device
        .profile
        .packages
        .clock_sync
        .filter(|p| Some(p.f_port) == uplink.f_port)?;
    // Several requests in one frame carry the same token; the last has the latest time.
    let request = clock_sync::decode_uplink(package.version, &uplink.payload)
        .commands
        .into_iter()
        .rev()
        .find_map(|command| {
            if let UplinkCommand::AppTimeReq(request) = command {
                Some(request)
            } else {
                None
            }
        })?;
    let gps = uplink.received_at.to_gps().seconds();
    let time_correction = clock_sync::time_correction(gps, request.device_time, package.version);
    if time_correction == 0 && !request.ans_required {
        return None;
    }
    let mut payload = Vec::new();
    DownlinkCommand::AppTimeAns(AppTimeAns {
        time_correction,
        token_ans: request.token_req,
    })
    .encode(package.version, &mut payload);
    Some((package.f_port, payload))
}

/// Notes what a device says outside tasks; returns the acknowledgement a `FragDataBlockReceivedReq` asks for.
fn take_in(now: Timestamp, uplink: &Uplink, fleet: &mut Fleet) -> Option<(u8, Vec<u8>)> {
    let profile = std::sync::Arc::clone(&fleet.get(uplink.dev_eui)?.profile);
    let f_port = uplink.f_port?;
    let (packages, payload) = (&profile.packages, &uplink.payload);
    // Where all parts have fields of their own, the source of the profile speaks of none.
    let first = profile.first_component();
    let first = Some(first).filter(|first| {
        let component = profile.component(first);
        component.is_some_and(|it| it.version_field.is_none())
    });
    for (component, version) in profile.versions_in(f_port, payload) {
        if let Some(component) = component.or(first) {
            let status = fleet.status_mut(uplink.dev_eui)?;
            status.note_version(component, version, VersionEvidence::UplinkField, now);
        }
    }
    if packages
        .firmware_management
        .is_some_and(|p| p.f_port == f_port)
    {
        for command in firmware_management::decode_uplink(PackageVersion::V1, payload).commands {
            if let firmware_management::UplinkCommand::DevVersionAns(answer) = command
                && let Some(component) = first
            {
                fleet.status_mut(uplink.dev_eui)?.note_version(
                    component,
                    answer.fw_version,
                    VersionEvidence::FirmwareManagement,
                    now,
                );
            }
        }
    }
    if let Some(package) = packages.multicast_setup.filter(|p| p.f_port == f_port) {
        for command in multicast_setup::decode_uplink(package.version, payload).commands {
            if let multicast_setup::UplinkCommand::McGroupDeleteAns(answer) = command {
                clear(
                    fleet
                        .status_mut(uplink.dev_eui)?
                        .mc_slots
                        .get_mut(usize::from(answer.mc_group_id)),
                    |s| s.leftover,
                );
            }
        }
    }
    let package = packages.fragmentation.filter(|p| p.f_port == f_port)?;
    let mut acknowledge = None;
    for command in fragmentation::decode_uplink(package.version, payload).commands {
        match command {
            fragmentation::UplinkCommand::FragSessionDeleteAns(answer) => {
                clear(
                    fleet
                        .status_mut(uplink.dev_eui)?
                        .frag_slots
                        .get_mut(usize::from(answer.frag_index)),
                    |s| s.leftover,
                );
            }
            fragmentation::UplinkCommand::FragDataBlockReceivedReq(request) => {
                let answer = fragmentation::FragDataBlockReceivedAns {
                    frag_index: request.frag_index,
                };
                let mut payload = Vec::new();
                fragmentation::DownlinkCommand::FragDataBlockReceivedAns(answer)
                    .encode(package.version, &mut payload);
                acknowledge = Some((package.f_port, payload));
            }
            _ => {}
        }
    }
    acknowledge
}

/// The next thing an ended task left on the device to be deleted.
fn cleanup(device: &FleetDevice) -> Option<(u8, Vec<u8>)> {
    let (packages, status) = (&device.profile.packages, &device.status);
    let mut payload = Vec::new();
    let left = |index: Option<usize>| index.and_then(|index| u8::try_from(index).ok());
    if let (Some(package), Some(frag_index)) = (
        packages.fragmentation,
        left(
            status
                .frag_slots
                .iter()
                .position(|s| s.as_ref().is_some_and(|s| s.leftover)),
        ),
    ) {
        let request = fragmentation::FragSessionDeleteReq { frag_index };
        fragmentation::DownlinkCommand::FragSessionDeleteReq(request)
            .encode(package.version, &mut payload);
        return Some((package.f_port, payload));
    }
    let mc_group_id = left(
        status
            .mc_slots
            .iter()
            .position(|s| s.as_ref().is_some_and(|s| s.leftover)),
    )?;
    let package = packages.multicast_setup?;
    let request = multicast_setup::McGroupDeleteReq { mc_group_id };
    multicast_setup::DownlinkCommand::McGroupDeleteReq(request)
        .encode(package.version, &mut payload);
    Some((package.f_port, payload))
}

fn clear<T>(slot: Option<&mut Option<T>>, leftover: impl Fn(&T) -> bool) {
    if let Some(slot) = slot
        && slot.as_ref().is_some_and(leftover)
    {
        *slot = None;
    }
}
