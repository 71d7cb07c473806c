//! How a device that has the image is brought to run it: after a countdown, at one moment for all, or by a downlink of
//! its application.
//!
//! TS006-1.0.0 §3.3 and §3.4; without TS006 the device profile may name a downlink. That one has no answer: the device
//! is taken to reboot, and its version tells whether it did; if not, it is sent again.

use std::time::Duration;

use crate::lorawan::firmware_management::{
    DevRebootCountdownReq, DevRebootTimeReq, DownlinkCommand,
};
use crate::record::{DeviceState, FleetDevice, RebootMode, SuccessCriterion, TaskDevice};
use crate::time::Timestamp;

use super::Campaign;
use super::commands::Command;

/// What is asked later than this before the moment of all is not asked for it any more.
const LATEST: Duration = Duration::from_secs(30);
/// Countdown of a device that is ready too late for the moment of all: time for its answer to be heard.
const LATE_COUNTDOWN: Duration = Duration::from_secs(5);
/// From an application's downlink until the device is down.
pub(super) const APPLICATION_TAKES: Duration = Duration::from_secs(5);
/// Requests given up before a device that goes on running the old version is given up itself.
const MAX_UNANSWERED: u8 = 3;

impl Campaign {
    /// How a device that has the image is to be asked to reboot now, if it is.
    pub(super) fn reboot_command(&self, now: Timestamp, device: &FleetDevice) -> Option<Command> {
        if self.task.success != SuccessCriterion::Running {
            return None;
        }
        let managed = device.profile.packages.firmware_management.is_some();
        let early = match self.task.reboot {
            RebootMode::None => return None,
            RebootMode::Countdown { .. } => false,
            RebootMode::AtTime { at } => now + LATEST < at,
        };
        match (managed, early) {
            (true, true) => Some(Command::RebootAt),
            (true, false) => Some(Command::Reboot),
            (false, true) => None,
            (false, false) => {
                let by_application = device.profile.application_reboot.is_some();
                by_application.then_some(Command::ApplicationReboot)
            }
        }
    }

    /// The request of TS006.
    pub(super) fn reboot_words(&self, command: Command) -> Option<DownlinkCommand> {
        if let (Command::RebootAt, RebootMode::AtTime { at }) = (command, self.task.reboot) {
            let reboot_time = at.to_gps().wire_seconds();
            return Some(DownlinkCommand::DevRebootTimeReq(DevRebootTimeReq {
                reboot_time,
            }));
        }
        let after = match self.task.reboot {
            RebootMode::Countdown { after } => after,
            RebootMode::AtTime { .. } => LATE_COUNTDOWN,
            RebootMode::None => return None,
        };
        let countdown = u32::try_from(after.as_secs().clamp(1, 16_777_214)).ok()?;
        Some(DownlinkCommand::DevRebootCountdownReq(
            DevRebootCountdownReq { countdown },
        ))
    }

    /// When a device that did not answer a reboot request reboots, if it got it.
    pub(super) fn reboots_in(&self, now: Timestamp, command: Command) -> Duration {
        match (command, self.task.reboot) {
            (Command::RebootAt, RebootMode::AtTime { at }) => at.since(now),
            _ => Duration::ZERO,
        }
    }

    /// Requests in vain after which a device is given up.
    pub(super) fn most_reboots(&self, device: &FleetDevice) -> u8 {
        if device.profile.packages.firmware_management.is_some() {
            MAX_UNANSWERED
        } else {
            // Each is one frame without an answer.
            self.task.options.max_attempts.max(1)
        }
    }
}

/// The state a device goes back to if it did not reboot: what it showed before.
pub(super) fn before_reboot(device: &TaskDevice) -> DeviceState {
    if device.entered.contains_key(&DeviceState::Verified) {
        DeviceState::Verified
    } else {
        DeviceState::ReportedReceived
    }
}
