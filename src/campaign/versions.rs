//! What versions a device says it runs: whether it is done, has rolled back, or has to be asked to reboot again.
//!
//! TS006 knows one version a device, `FWversion`; which component it is of is a matter of the device profile, and so is
//! where an application uplink tells those of others.

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    DeviceProfile, DeviceReason, DeviceState, FleetDevice, Image, InstallMode, TaskDevice,
    VersionEvidence, VersionSource,
};
use crate::time::Timestamp;

use super::completion::BOOT_TIME;
use super::reboot::before_reboot;
use super::{Campaign, Surroundings};

impl Campaign {
    /// The component that the profile's own version source speaks of: that of the task's images which has no field of
    /// its own; `None` if it would be one that has.
    pub(super) fn told_component<'a>(
        &'a self,
        record: Option<&TaskDevice>,
        profile: &'a DeviceProfile,
    ) -> Option<&'a str> {
        let first = profile.first_component();
        let all = self.images.iter().map(|(image, _)| image);
        let of_task = record
            .map(|record| self.image_of(record))
            .into_iter()
            .chain(all);
        let mut told = of_task
            .map(|image| image.component.as_str())
            .filter(|component| !profile.has_own_field(component));
        match told.next() {
            Some(one) if one != first && !told.any(|other| other == first) => Some(one),
            _ => Some(first).filter(|first| !profile.has_own_field(first)),
        }
    }

    /// The component a `DevVersionReq` to the device asks about, if that is one its images of the task are for.
    pub(super) fn asked_component<'a>(
        &'a self,
        record: &TaskDevice,
        profile: &'a DeviceProfile,
    ) -> Option<&'a str> {
        let asks = profile.packages.firmware_management.is_some()
            && profile.version_source == VersionSource::FirmwareManagement;
        let told = self.told_component(Some(record), profile)?;
        let ahead = record.images.iter().flat_map(|course| &course.ahead);
        let mut wanted = ahead
            .map(|ahead| self.image_at(ahead.image))
            .chain(self.at_stake(record));
        (asks && wanted.any(|image| image.component == told)).then_some(told)
    }

    /// A device that has the image is to be asked for its version: it may have rebooted, and has not said since that it
    /// runs what it got.
    pub(super) fn asks_version(
        &self,
        now: Timestamp,
        record: &TaskDevice,
        device: &FleetDevice,
    ) -> bool {
        let Some(component) = self.asked_component(record, &device.profile) else {
            return false;
        };
        let rebooted = record.reboot_at.map(|at| at + BOOT_TIME);
        let said = device.status.versions.get(component);
        let told = said.zip(rebooted).is_some_and(|(said, rebooted)| {
            let runs = |image: &Image| {
                image.component == component && image.target_version == said.version
            };
            said.at >= rebooted && self.at_stake(record).any(runs)
        });
        rebooted.is_none_or(|at| now >= at) && !told
    }

    /// A device said which versions it runs, by component, by whatever way.
    pub(super) fn versions_reported(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        (versions, evidence): (&[(String, u32)], VersionEvidence),
        around: &mut Surroundings<'_>,
    ) {
        if versions.is_empty() {
            return;
        }
        self.note_versions(now, dev_eui, (versions, evidence), around);
        if !self.open.contains(&dev_eui) {
            return;
        }
        self.note_before(dev_eui, versions);
        let (Some(record), Some(device)) = (self.devices.get(&dev_eui), around.fleet.get(dev_eui))
        else {
            return;
        };
        let runs =
            |image: &Image| device.status.version(&image.component) == Some(image.target_version);
        let said = |image: &Image| versions.iter().find(|(name, _)| *name == image.component);
        let about_it = self.at_stake(record).any(|image| said(image).is_some());
        let current = self.image_of(record);
        if about_it && self.at_stake(record).all(runs) {
            return self.runs_all(now, dev_eui);
        }
        let has_current =
            said(current).is_some_and(|(_, version)| *version == current.target_version);
        if has_current && record.state <= DeviceState::Ready {
            // Of several, only the one it is at.
            let evidence = reports(versions);
            return self.pass_over_image(now, dev_eui, evidence);
        }
        let wrong = |image: &&Image| {
            said(image).is_some_and(|(_, version)| *version != image.target_version)
        };
        let Some((component, target)) = self
            .at_stake(record)
            .find(wrong)
            .map(|image| (image.component.clone(), image.target_version))
        else {
            return;
        };
        // An old version counts once the device had time to reboot.
        let rebooted = record.reboot_at.is_some_and(|at| now >= at + BOOT_TIME);
        if record.state != DeviceState::Rebooting || !rebooted {
            return;
        }
        // What can be asked is asked before it is said what the device has come to.
        let asked = self.asked_component(record, &device.profile);
        let unknown = |component: &str| {
            let told = device.status.versions.get(component);
            told.is_none_or(|told| record.reboot_at.is_some_and(|at| told.at < at + BOOT_TIME))
        };
        if asked.is_some_and(unknown) {
            return;
        }
        let in_part = self.at_stake(record).any(runs);
        if record.reboots_unanswered > 0 && !in_part {
            return self.reboot_again(now, dev_eui, versions, around);
        }
        let before = self.version_before(record, &component);
        let version = versions.iter().find(|(name, _)| *name == component);
        let same = version.is_none_or(|(_, version)| before.is_none_or(|b| b == *version));
        let text = format!("{} after the reboot, not {target:#010x}", reports(versions));
        let (state, text) = match (in_part, same) {
            (true, _) => (DeviceState::Failed, format!("{text}: installed in part")),
            (false, true) => (DeviceState::RolledBack, text),
            (false, false) => (DeviceState::Failed, text),
        };
        self.conclude(now, dev_eui, state, Some(DeviceReason::WrongVersion), text);
    }

    /// Writes down with the device what it said.
    fn note_versions(
        &self,
        now: Timestamp,
        dev_eui: DevEui,
        (versions, evidence): (&[(String, u32)], VersionEvidence),
        around: &mut Surroundings<'_>,
    ) {
        // An application uplink may tell the old version while the device is about to reboot.
        let reboot_at = self.devices.get(&dev_eui).and_then(|d| d.reboot_at);
        let over = reboot_at.is_some_and(|at| now >= at + BOOT_TIME);
        let Some(status) = around.fleet.status_mut(dev_eui) else {
            return;
        };
        for (component, version) in versions {
            status.note_version(component, *version, evidence, now);
            let runs =
                |image: &&Image| image.component == *component && image.target_version == *version;
            let images = || self.images.iter().map(|(image, _)| image);
            if over || images().any(|image| runs(&image)) {
                status.reboot_expected = false;
            }
            let counters = images().filter(runs).map(|i| i.facts.security_counter);
            if let Some(counter) = counters.flatten().max() {
                let seen = status.security_counters.entry(component.clone());
                let seen = seen.or_default();
                *seen = counter.max(*seen);
            }
        }
    }

    /// What the device runs before it gets its images; one it has already is not to come any more.
    fn note_before(&mut self, dev_eui: DevEui, versions: &[(String, u32)]) {
        let images = &self.images;
        let said = |image: u8| {
            let (image, _) = images.get(usize::from(image))?;
            let said = versions.iter().find(|(name, _)| *name == image.component)?;
            Some((said.1, said.1 == image.target_version))
        };
        let together = self.task.install == InstallMode::Together;
        let Some(record) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        let mut changed = false;
        if let Some(course) = &mut record.images {
            let before = course.ahead.clone();
            for ahead in &mut course.ahead {
                ahead.version_before = said(ahead.image).map(|(v, _)| v).or(ahead.version_before);
            }
            let has = |image| said(image).is_some_and(|(_, has)| has);
            course.ahead.retain(|ahead| !(together && has(ahead.image)));
            changed = course.ahead != before;
        }
        let session = record
            .session
            .and_then(|n| self.sessions.get(usize::from(n)));
        let at = session.map_or(0, |session| session.record.image);
        if let Some((version, false)) = said(at)
            && record.state <= DeviceState::Ready
        {
            changed |= record.version_before != Some(version);
            record.version_before = Some(version);
        }
        if changed {
            self.changed.devices.insert(dev_eui);
        }
    }

    fn version_before(&self, record: &TaskDevice, component: &str) -> Option<u32> {
        let done = record.images.iter().flat_map(|course| &course.done);
        let mut done = done.filter(|done| self.image_at(done.image).component == component);
        let current = self.image_of(record).component == component;
        if current {
            record.version_before
        } else {
            done.next()?.version_before
        }
    }

    /// The device runs every image that counts.
    fn runs_all(&mut self, now: Timestamp, dev_eui: DevEui) {
        let Some(record) = self.devices.get(&dev_eui) else {
            return;
        };
        // A device that installs by itself may be done before its answers to the set-up have come through, and may
        // have joined again before it tells.
        let has_some = record.images.as_ref().is_some_and(|c| !c.done.is_empty());
        let updated = record.version_before.is_some()
            || has_some
            || record.entered.contains_key(&DeviceState::Receiving);
        let early = record.state <= DeviceState::Preparing && !updated;
        let all = self.at_stake(record);
        let all: Vec<(String, u32)> = all
            .map(|image| (image.component.clone(), image.target_version))
            .collect();
        let evidence = reports(&all);
        if early {
            self.pass_over_image(now, dev_eui, evidence);
        } else {
            self.conclude(now, dev_eui, DeviceState::Running, None, evidence);
        }
    }

    /// The old version runs and nothing shows that the device rebooted: the request may never have reached it.
    fn reboot_again(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        versions: &[(String, u32)],
        around: &Surroundings<'_>,
    ) {
        let device = around.fleet.get(dev_eui);
        let most = device.map_or(0, |device| self.most_reboots(device));
        let Some(record) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        let evidence = format!(
            "{}; reboot requests given up without an answer: {}",
            reports(versions),
            record.reboots_unanswered
        );
        if record.reboots_unanswered < most {
            record.reboot_at = None;
            let state = before_reboot(record);
            self.conclude(now, dev_eui, state, None, evidence);
        } else {
            let reason = Some(DeviceReason::NoAnswer);
            self.conclude(now, dev_eui, DeviceState::Failed, reason, evidence);
        }
    }
}

/// What a device said, for people.
fn reports(versions: &[(String, u32)]) -> String {
    let words = versions
        .iter()
        .map(|(component, version)| match component.as_str() {
            "main" => format!("version {version:#010x}"),
            other => format!("{other} {version:#010x}"),
        });
    format!("reports {}", words.collect::<Vec<_>>().join(", "))
}
