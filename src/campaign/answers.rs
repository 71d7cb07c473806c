//! What the task's devices say: each command of an uplink goes to the part of the campaign it answers.
//!
//! Commands before an unreadable one count; the unreadable rest is counted and nothing more. An answer is matched by
//! what it names (FragIndex, McGroupID), never by what was asked last.

use std::time::Duration;

use crate::lorawan::identifiers::DevEui;
use crate::lorawan::{
    PackageVersion, clock_sync, firmware_management, fragmentation, multicast_setup,
};
use crate::record::{DeviceState, Uplink, VersionEvidence};
use crate::time::Timestamp;

use super::commands::Command;
use super::completion::BOOT_TIME;
use super::{Campaign, Surroundings};

/// A device that joins so much before the moment of its reboot did not reboot for it.
const EARLY: Duration = Duration::from_secs(2);

impl Campaign {
    /// Takes in an uplink of one of the task's devices.
    pub(super) fn hear(&mut self, now: Timestamp, uplink: &Uplink, around: &mut Surroundings<'_>) {
        let dev_eui = uplink.dev_eui;
        let Some(device) = around.fleet.get(dev_eui) else {
            return;
        };
        if !self.devices.contains_key(&dev_eui) {
            return;
        }
        let profile = std::sync::Arc::clone(&device.profile);
        let packages = &profile.packages;
        self.note_room(uplink, around);
        if let Some(talk) = self.talks.get_mut(&dev_eui) {
            talk.at_once = 0;
        }
        let Some(f_port) = uplink.f_port else { return };
        let told_by_source = self.told_component(self.devices.get(&dev_eui), &profile);
        let told: Vec<(String, u32)> = profile
            .versions_in(f_port, &uplink.payload)
            .into_iter()
            .filter_map(|(own, version)| Some((own.or(told_by_source)?.to_owned(), version)))
            .collect();
        let told = (told.as_slice(), VersionEvidence::UplinkField);
        self.versions_reported(now, dev_eui, told, around);
        let unreadable =
            if let Some(package) = packages.multicast_setup.filter(|p| p.f_port == f_port) {
                let heard = multicast_setup::decode_uplink(package.version, &uplink.payload);
                for command in heard.commands {
                    self.hear_multicast(now, uplink, command, around);
                }
                heard.rest
            } else if let Some(package) = packages.fragmentation.filter(|p| p.f_port == f_port) {
                let heard = fragmentation::decode_uplink(package.version, &uplink.payload);
                for command in heard.commands {
                    self.hear_fragmentation(now, dev_eui, package.version, command, around);
                }
                heard.rest
            } else if packages
                .firmware_management
                .is_some_and(|p| p.f_port == f_port)
            {
                let heard = firmware_management::decode_uplink(PackageVersion::V1, &uplink.payload);
                for command in heard.commands {
                    self.hear_firmware(now, dev_eui, command, around);
                }
                heard.rest
            } else if let Some(package) = packages.clock_sync.filter(|p| p.f_port == f_port) {
                let heard = clock_sync::decode_uplink(package.version, &uplink.payload);
                if heard
                    .commands
                    .iter()
                    .any(|c| matches!(c, clock_sync::UplinkCommand::AppTimeReq(_)))
                {
                    self.clock_set(now, dev_eui);
                }
                heard.rest
            } else {
                None
            };
        if unreadable.is_some() {
            self.task.counters.undecodable_uplinks += 1;
            self.changed.task = true;
        }
    }

    fn hear_multicast(
        &mut self,
        now: Timestamp,
        uplink: &Uplink,
        command: multicast_setup::UplinkCommand,
        around: &mut Surroundings<'_>,
    ) {
        use multicast_setup::UplinkCommand;
        let dev_eui = uplink.dev_eui;
        match command {
            UplinkCommand::PackageVersionAns(answer) => {
                self.package_version(
                    now,
                    dev_eui,
                    answer.package_identifier,
                    answer.package_version,
                    around,
                );
            }
            UplinkCommand::McGroupSetupAns(answer) => {
                self.group_answered(now, dev_eui, answer, around)
            }
            UplinkCommand::McClassCSessionAns(answer)
            | UplinkCommand::McClassBSessionAns(answer) => {
                self.window_answered(now, uplink, &answer, around)
            }
            UplinkCommand::McGroupDeleteAns(answer) => {
                self.group_deleted(now, dev_eui, answer.mc_group_id, around)
            }
            // Group status is not asked for; a bare identifier is a refusal without words: the
            // command is repeated until its attempts are used up.
            _ => {}
        }
    }

    fn hear_fragmentation(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        version: PackageVersion,
        command: fragmentation::UplinkCommand,
        around: &mut Surroundings<'_>,
    ) {
        use fragmentation::UplinkCommand;
        match command {
            UplinkCommand::PackageVersionAns(answer) => {
                self.package_version(
                    now,
                    dev_eui,
                    answer.package_identifier,
                    answer.package_version,
                    around,
                );
            }
            UplinkCommand::FragSessionSetupAns(answer) => {
                self.frag_session_answered(now, dev_eui, &answer, around)
            }
            UplinkCommand::FragSessionStatusAns(answer) => {
                self.status_answered(now, dev_eui, version, &answer, around);
            }
            UplinkCommand::FragSessionDeleteAns(answer) => {
                self.frag_session_deleted(now, dev_eui, answer.frag_index, around);
            }
            UplinkCommand::FragDataBlockReceivedReq(request) => {
                self.data_block_received(now, dev_eui, &request);
            }
        }
    }

    fn hear_firmware(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        command: firmware_management::UplinkCommand,
        around: &mut Surroundings<'_>,
    ) {
        use firmware_management::UplinkCommand;
        match command {
            UplinkCommand::PackageVersionAns(answer) => {
                self.package_version(
                    now,
                    dev_eui,
                    answer.package_identifier,
                    answer.package_version,
                    around,
                );
            }
            UplinkCommand::DevVersionAns(answer) => {
                let Some(device) = around.fleet.get(dev_eui) else {
                    return;
                };
                let component = self.told_component(self.devices.get(&dev_eui), &device.profile);
                let told: Vec<(String, u32)> = component
                    .map(|component| (component.to_owned(), answer.fw_version))
                    .into_iter()
                    .collect();
                let told = (told.as_slice(), VersionEvidence::FirmwareManagement);
                self.versions_reported(now, dev_eui, told, around);
                self.answered(now, dev_eui);
            }
            UplinkCommand::DevUpgradeImageAns(answer) => {
                self.image_checked(now, dev_eui, answer.up_image_status, around);
            }
            UplinkCommand::DevRebootCountdownAns(answer) => {
                self.reboot_answered(now, dev_eui, answer.countdown, around);
            }
            UplinkCommand::DevRebootTimeAns(answer)
                if answer.reboot_time != firmware_management::REBOOT_TIME_CANCEL =>
            {
                // It says how long it is from its answer, which may have waited; the moment is known.
                let seconds = self.reboots_in(now, Command::RebootAt).as_secs();
                let seconds = u32::try_from(seconds).unwrap_or(u32::MAX).max(1);
                let accepted = answer.is_accepted();
                self.reboot_answered(now, dev_eui, if accepted { seconds } else { 0 }, around);
            }
            UplinkCommand::DevRebootTimeAns(_) => {}
            UplinkCommand::DevDeleteImageAns(_) => self.image_deleted(now, dev_eui),
        }
    }

    /// A device joined: what it held may be gone.
    pub(super) fn joined(&mut self, now: Timestamp, dev_eui: DevEui, around: &Surroundings<'_>) {
        let loses = around
            .fleet
            .get(dev_eui)
            .is_some_and(|d| d.profile.after_reboot.loses_groups);
        let Some(record) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        match record.state {
            DeviceState::Rebooting => {
                // It is back: its version can be asked for now. If it came before the moment it was asked for,
                // something else had it reboot, and the order may be lost with what it kept in RAM.
                let early = record.reboot_at.is_some_and(|at| now + EARLY < at);
                record.reboot_at = Some(record.reboot_at.map_or(now, |at| at.min(now)));
                record.reboots_unanswered = u8::from(early);
                self.changed.devices.insert(dev_eui);
                self.due.insert((now, dev_eui));
            }
            // It may have installed the image by itself.
            DeviceState::ReportedReceived | DeviceState::Verified => {
                record.reboot_at = Some(now);
                self.changed.devices.insert(dev_eui);
                self.due.insert((now + BOOT_TIME, dev_eui));
            }
            DeviceState::Preparing | DeviceState::Ready | DeviceState::Receiving
                if loses && record.retry_at.is_none() =>
            {
                self.reset_setup(
                    now,
                    dev_eui,
                    "joined again, its groups and sessions are gone",
                );
            }
            _ => {}
        }
    }
}
