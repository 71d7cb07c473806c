//! After the fragments: image check, reboot, version check, cleanup (TS006, TS004 §3.5, TS005 §4.4).

use std::time::Duration;

use crate::lorawan::firmware_management::UpImageStatus;
use crate::lorawan::fragmentation::FragDataBlockReceivedReq;
use crate::lorawan::identifiers::DevEui;
use crate::record::{
    CleanupState, DeviceReason, DeviceState, FleetDevice, SessionPhase, StatusInterpretation,
    SuccessCriterion, TaskDevice,
};
use crate::time::Timestamp;

use super::commands::Command;
use super::members::Part;
use super::unicast::Needy;
use super::{Campaign, Surroundings};

/// After the moment of the reboot before the device is asked for its version.
pub(super) const BOOT_TIME: Duration = Duration::from_secs(5);

impl Campaign {
    /// What a device that has the image has to be asked next.
    pub(super) fn completion_command(
        &self,
        now: Timestamp,
        record: &TaskDevice,
        device: &FleetDevice,
    ) -> Option<Command> {
        let managed = device.profile.packages.firmware_management.is_some();
        let asks_version = self.task.success == SuccessCriterion::Running
            && self.asks_version(now, record, device);
        match record.state {
            DeviceState::ReportedReceived | DeviceState::Verified
                if asks_version && self.rebooted_by_itself(now, record, device) =>
            {
                Some(Command::Version)
            }
            DeviceState::ReportedReceived if managed => Some(Command::CheckImage),
            DeviceState::ReportedReceived | DeviceState::Verified
                if self.reboot_command(now, device).is_some() =>
            {
                self.reboot_command(now, device)
            }
            // Without a reboot request the device does it on its own; its version tells when.
            DeviceState::Verified | DeviceState::Rebooting if asks_version => {
                Some(Command::Version)
            }
            _ => None,
        }
    }

    /// It joined again although nobody asked it to reboot, and has not said since which version it runs: a good image
    /// may be installed and gone.
    fn rebooted_by_itself(
        &self,
        now: Timestamp,
        record: &TaskDevice,
        device: &FleetDevice,
    ) -> bool {
        let asked = self.asked_component(record, &device.profile);
        let said = asked.and_then(|component| device.status.versions.get(component));
        record
            .reboot_at
            .is_some_and(|at| now >= at + BOOT_TIME && said.is_none_or(|version| version.at < at))
    }

    /// `FragDataBlockReceivedReq`: the device says itself that it is done, and whether the MIC is right.
    pub(super) fn data_block_received(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        request: &FragDataBlockReceivedReq,
    ) {
        let Some(record) = self.devices.get(&dev_eui) else {
            return;
        };
        let index = request.frag_index;
        let ours = self
            .session_of(record)
            .is_some_and(|s| s.record.block.frag_index == index);
        let course = record.images.as_ref();
        let earlier = course.is_some_and(|course| course.frag_sessions.contains_key(&index));
        let known = if record.state < DeviceState::Receiving {
            earlier
        } else {
            ours || earlier
        };
        if !known {
            return;
        }
        let waiting = ours
            && (DeviceState::Receiving..=DeviceState::ReportedReceived).contains(&record.state);
        self.judge_data_block(now, dev_eui, request, waiting);
        self.talks.entry(dev_eui).or_default().acknowledge = Some(index);
        self.due.insert((now, dev_eui));
    }

    fn judge_data_block(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        request: &FragDataBlockReceivedReq,
        waiting: bool,
    ) {
        if waiting && request.mic_error {
            let evidence = "FragDataBlockReceivedReq with MICError".to_owned();
            self.conclude(
                now,
                dev_eui,
                DeviceState::Failed,
                Some(DeviceReason::MicError),
                evidence,
            );
        } else if waiting {
            let evidence = "FragDataBlockReceivedReq without MICError".to_owned();
            self.conclude(now, dev_eui, DeviceState::Verified, None, evidence);
        }
    }

    /// `DevUpgradeImageAns`.
    pub(super) fn image_checked(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        status: UpImageStatus,
        around: &Surroundings<'_>,
    ) {
        let Some(record) = self.devices.get(&dev_eui) else {
            return;
        };
        let receiving = record.state == DeviceState::Receiving;
        if !receiving && record.state != DeviceState::ReportedReceived {
            return;
        }
        let status = self.of_this_image(record, status);
        if receiving && status == UpImageStatus::NoImage {
            let sent = Some(self.sent_to(record));
            self.answered(now, dev_eui);
            self.talks.entry(dev_eui).or_default().no_image_after = sent;
            return;
        }
        let target = self.image_of(record).target_version;
        let reject = |evidence: &str| {
            (
                DeviceState::Failed,
                Some(DeviceReason::ImageRejected),
                evidence.to_owned(),
            )
        };
        let (state, reason, evidence) = match status {
            UpImageStatus::Valid {
                next_firmware_version,
            } if next_firmware_version == target => (
                DeviceState::Verified,
                None,
                format!("DevUpgradeImageAns: valid, version {target:#010x}"),
            ),
            UpImageStatus::Valid {
                next_firmware_version,
            } => reject(&format!(
                "the device reads version {next_firmware_version:#010x}, the task is for {target:#010x}"
            )),
            UpImageStatus::Corrupt => reject("DevUpgradeImageAns: corrupt or bad signature"),
            UpImageStatus::WrongHardware => reject("DevUpgradeImageAns: wrong hardware"),
            UpImageStatus::NoImage if self.is_doubted(dev_eui, around) => {
                return self.receives_again(now, dev_eui);
            }
            // The device has not looked at the image yet: it is asked again, as often as any command.
            UpImageStatus::NoImage => {
                self.note(
                    dev_eui,
                    DeviceReason::ImageRejected,
                    "DevUpgradeImageAns: no image".to_owned(),
                );
                return;
            }
        };
        self.conclude(now, dev_eui, state, reason, evidence);
    }

    /// What the answer says of the image the device is at. While that is on its way, the device may still speak of the
    /// one it got before; TS006 names no image, and versions may be alike.
    fn of_this_image(&self, record: &TaskDevice, status: UpImageStatus) -> UpImageStatus {
        let UpImageStatus::Valid {
            next_firmware_version,
        } = status
        else {
            return status;
        };
        let target = self.image_of(record).target_version;
        let done = record.images.iter().flat_map(|course| &course.done);
        let mut done = done.map(|done| self.image_at(done.image).target_version);
        let of_another = done.any(|version| version == next_firmware_version);
        let settled = record.state == DeviceState::ReportedReceived;
        if of_another && !(settled && next_firmware_version == target) {
            return UpImageStatus::NoImage;
        }
        status
    }

    /// Whether a device that reported all fragments and has no image was misread: its stack is known for status answers
    /// that look complete, it was asked twice, and its session can still send.
    fn is_doubted(&self, dev_eui: DevEui, around: &Surroundings<'_>) -> bool {
        self.devices.get(&dev_eui).is_some_and(|record| {
            record.tries >= 2
                && may_look_complete(around, dev_eui)
                && self
                    .session_of(record)
                    .is_some_and(|s| s.is_running() || s.record.phase == SessionPhase::Individual)
        })
    }

    /// Back among those that receive: it needs at least one fragment more.
    fn receives_again(&mut self, now: Timestamp, dev_eui: DevEui) {
        let Some(record) = self.devices.get(&dev_eui) else {
            return;
        };
        let (sent, alone) = (self.sent_to(record), record.unicast.is_some());
        let Some(number) = record.session.map(usize::from) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        session.heard_any = true;
        let evidence = "DevUpgradeImageAns: no image, although the status looked complete";
        self.conclude(
            now,
            dev_eui,
            DeviceState::Receiving,
            None,
            evidence.to_owned(),
        );
        self.talks.entry(dev_eui).or_default().no_image_after = Some(sent);
        if let Some(report) = self
            .devices
            .get_mut(&dev_eui)
            .and_then(|d| d.fragments.as_mut())
        {
            (report.deficit, report.fragments_sent, report.at) = (1, sent, now);
            let report = *report;
            if alone {
                self.next_round_alone(
                    now,
                    Needy {
                        dev_eui,
                        report,
                        loss: 0.0,
                    },
                );
            }
        }
    }

    /// Devices of a session whose word that they have everything is not enough, and whose image check is awaited.
    pub(super) fn has_unconfirmed(&self, number: usize, around: &Surroundings<'_>) -> bool {
        self.of_part(number, Part::Reported)
            .any(|d| may_look_complete(around, d.dev_eui))
    }

    /// `DevRebootCountdownAns` or `DevRebootTimeAns`: seconds until the reboot, 0 for an error.
    pub(super) fn reboot_answered(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        countdown: u32,
        around: &mut Surroundings<'_>,
    ) {
        let asked = self
            .devices
            .get(&dev_eui)
            .is_some_and(|d| d.state == DeviceState::Verified);
        if asked && countdown > 0 {
            if let Some(record) = self.devices.get_mut(&dev_eui) {
                record.reboots_unanswered = 0;
            }
            let evidence = format!("reboots in {countdown} s");
            self.rebooting(
                now,
                dev_eui,
                Duration::from_secs(u64::from(countdown)),
                evidence,
                around,
            );
        }
    }

    /// The device reboots, or is taken to.
    pub(super) fn rebooting(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        after: Duration,
        evidence: String,
        around: &mut Surroundings<'_>,
    ) {
        self.conclude(now, dev_eui, DeviceState::Rebooting, None, evidence);
        let at = now + after;
        if let Some(record) = self.devices.get_mut(&dev_eui) {
            record.reboot_at = Some(at);
        }
        if let Some(status) = around.fleet.status_mut(dev_eui) {
            status.reboot_expected = true;
        }
        self.due.insert((at + BOOT_TIME, dev_eui));
    }

    /// `FragSessionDeleteAns`; "does not exist" is as good.
    pub(super) fn frag_session_deleted(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        frag_index: u8,
        around: &mut Surroundings<'_>,
    ) {
        let ours = |s: &super::SessionRun| s.record.block.frag_index == frag_index;
        let ours = self.cleans(dev_eui, ours);
        if !self.uncleaned.contains(&dev_eui) {
            return;
        }
        let Some(record) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        let own = Some(&mut record.frag_cleanup).filter(|_| ours);
        let course = record.images.as_mut();
        let earlier = course.and_then(|course| course.frag_sessions.get_mut(&frag_index));
        let mut pending = false;
        for state in own.into_iter().chain(earlier) {
            if *state == CleanupState::Pending {
                *state = CleanupState::Confirmed;
                pending = true;
            }
        }
        if pending {
            if let Some(slot) = around
                .fleet
                .status_mut(dev_eui)
                .and_then(|s| s.frag_slots.get_mut(usize::from(frag_index)))
            {
                *slot = None;
            }
            self.cleaned(now, dev_eui);
        }
    }

    /// `McGroupDeleteAns`; "undefined" is as good.
    pub(super) fn group_deleted(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        mc_group_id: u8,
        around: &mut Surroundings<'_>,
    ) {
        let ours = |s: &super::SessionRun| s.record.mc_group_id == mc_group_id;
        if !self.cleans(dev_eui, ours) {
            return;
        }
        if let Some(record) = self
            .devices
            .get_mut(&dev_eui)
            .filter(|d| d.group_cleanup == CleanupState::Pending)
        {
            record.group_cleanup = CleanupState::Confirmed;
            if let Some(slot) = around
                .fleet
                .status_mut(dev_eui)
                .and_then(|s| s.mc_slots.get_mut(usize::from(mc_group_id)))
            {
                *slot = None;
            }
            self.cleaned(now, dev_eui);
        }
    }

    /// `DevDeleteImageAns`: gone, or it was not there; TS006 does not say which one it is about.
    pub(super) fn image_deleted(&mut self, now: Timestamp, dev_eui: DevEui) {
        let asked = self.talks.get(&dev_eui).and_then(|talk| talk.asked);
        let record = self.devices.get_mut(&dev_eui);
        let course = record.and_then(|record| record.images.as_mut());
        let Some(course) = course.filter(|_| asked == Some(Command::DeleteImage)) else {
            return;
        };
        let mut discard = course.discard.values_mut();
        if let Some(state) = discard.find(|state| **state == CleanupState::Pending) {
            *state = CleanupState::Confirmed;
            self.cleaned(now, dev_eui);
        }
    }

    /// Gives up deleting one thing: it stays recorded with the device.
    pub(super) fn leave(
        &mut self,
        dev_eui: DevEui,
        command: Command,
        around: &mut Surroundings<'_>,
    ) {
        let Some(record) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        let Some(session) = record
            .session
            .and_then(|n| self.sessions.get(usize::from(n)))
        else {
            return;
        };
        let Some(status) = around.fleet.status_mut(dev_eui) else {
            return;
        };
        let own_index = session.record.block.frag_index;
        if command == Command::DeleteImage {
            let discard = record
                .images
                .iter_mut()
                .flat_map(|c| c.discard.values_mut());
            leave_first(discard);
        } else if command == Command::DeleteFragSession {
            let index = frag_index_to_delete(record, own_index).unwrap_or(own_index);
            if record.frag_cleanup == CleanupState::Pending {
                record.frag_cleanup = CleanupState::Left;
            } else {
                let earlier = record
                    .images
                    .iter_mut()
                    .flat_map(|c| c.frag_sessions.values_mut());
                leave_first(earlier);
            }
            if let Some(Some(slot)) = status.frag_slots.get_mut(usize::from(index)) {
                slot.leftover = true;
            }
        } else {
            record.group_cleanup = CleanupState::Left;
            if let Some(Some(slot)) = status
                .mc_slots
                .get_mut(usize::from(session.record.mc_group_id))
            {
                slot.leftover = true;
            }
        }
        record.tries = 0;
        if !record.is_uncleaned() {
            self.uncleaned.remove(&dev_eui);
            self.released.push(dev_eui);
        }
        self.changed.devices.insert(dev_eui);
    }

    /// Gives up deleting all that is left on a device.
    pub(super) fn leave_rest(&mut self, dev_eui: DevEui, around: &mut Surroundings<'_>) {
        // Each leaves one thing, and there are few.
        while let Some(command) = self.devices.get(&dev_eui).and_then(cleanup_command) {
            self.leave(dev_eui, command, around);
        }
    }

    fn cleans(&self, dev_eui: DevEui, fits: impl Fn(&super::SessionRun) -> bool) -> bool {
        self.uncleaned.contains(&dev_eui)
            && self
                .devices
                .get(&dev_eui)
                .and_then(|d| self.session_of(d))
                .is_some_and(fits)
    }

    fn cleaned(&mut self, now: Timestamp, dev_eui: DevEui) {
        self.answered(now, dev_eui);
        self.changed.devices.insert(dev_eui);
        if self
            .devices
            .get(&dev_eui)
            .is_some_and(|d| !d.is_uncleaned())
        {
            self.uncleaned.remove(&dev_eui);
            self.released.push(dev_eui);
        }
    }
}

/// What is to be deleted next from a device that is done.
pub(super) fn cleanup_command(record: &TaskDevice) -> Option<Command> {
    let pending = |state: &CleanupState| *state == CleanupState::Pending;
    let course = record.images.as_ref();
    // First what a reboot would install.
    if course.is_some_and(|course| course.discard.values().any(pending)) {
        Some(Command::DeleteImage)
    } else if pending(&record.frag_cleanup)
        || course.is_some_and(|course| course.frag_sessions.values().any(pending))
    {
        Some(Command::DeleteFragSession)
    } else {
        pending(&record.group_cleanup).then_some(Command::DeleteGroup)
    }
}

/// The `FragIndex` to delete next: the one of its session, then those of earlier images.
pub(super) fn frag_index_to_delete(record: &TaskDevice, own: u8) -> Option<u8> {
    if record.frag_cleanup == CleanupState::Pending {
        return Some(own);
    }
    let mut earlier = record
        .images
        .iter()
        .flat_map(|course| &course.frag_sessions);
    let pending = earlier.find(|(_, state)| **state == CleanupState::Pending);
    pending.map(|(index, _)| *index)
}

fn leave_first<'a>(mut states: impl Iterator<Item = &'a mut CleanupState>) {
    if let Some(state) = states.find(|state| **state == CleanupState::Pending) {
        *state = CleanupState::Left;
    }
}

/// The device's status answers may look complete before it is; TS006 tells.
fn may_look_complete(around: &Surroundings<'_>, dev_eui: DevEui) -> bool {
    around.fleet.get(dev_eui).is_some_and(|device| {
        let profile = &device.profile;
        profile.status_interpretation != StatusInterpretation::Spec
            && profile.packages.firmware_management.is_some()
    })
}
