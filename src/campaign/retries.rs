//! Failed devices that are tried again within the task.
//!
//! A failure the policy of the task covers is no verdict yet: the device waits until every other device of its wave has
//! one, and all who wait get one session more together. So thresholds count, and waves end, by final verdicts only. The
//! new session has the numbers of the old one on the devices, whose set-up it replaces.

use std::collections::BTreeMap;

use crate::lorawan::identifiers::DevEui;
use crate::record::{DeviceClass, DeviceReason, DeviceState, SetupStage, TaskState};
use crate::time::Timestamp;

use super::follow_ups::Next;
use super::{Campaign, Surroundings};

impl Campaign {
    /// When a device that fails now is tried again; `None`: it has failed for good.
    pub(super) fn retry_of(
        &self,
        now: Timestamp,
        dev_eui: DevEui,
        state: DeviceState,
        reason: Option<DeviceReason>,
    ) -> Option<Timestamp> {
        let policy = &self.task.rules.retry;
        let failed = matches!(
            state,
            DeviceState::Failed | DeviceState::Silent | DeviceState::RolledBack
        );
        let device = self.devices.get(&dev_eui)?;
        let at = now + policy.pause;
        let in_time = self.task.deadline.is_none_or(|deadline| at < deadline);
        let goes_on = self.task.state != TaskState::Cancelling && device.session.is_some();
        let may = failed && goes_on && in_time && device.retries < policy.max_retries;
        (may && policy.covers(reason)).then_some(at)
    }

    /// Puts a failed device aside until it is tried again.
    pub(super) fn await_retry(
        &mut self,
        dev_eui: DevEui,
        at: Timestamp,
        reason: Option<DeviceReason>,
        evidence: &str,
    ) {
        let Some(device) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        device.retries = device.retries.saturating_add(1);
        let evidence = format!("{evidence}; is tried again, {}. time", device.retries);
        self.start_over(dev_eui);
        self.put_aside(dev_eui, at, reason, evidence);
    }

    /// Takes a device out of its session until another one is made for it.
    pub(super) fn put_aside(
        &mut self,
        dev_eui: DevEui,
        at: Timestamp,
        reason: Option<DeviceReason>,
        evidence: String,
    ) {
        let Some(device) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        device.state = DeviceState::Preparing;
        device.reason = reason;
        device.retry_at = Some(at);
        device.evidence = evidence;
        device.setup = SetupStage::default();
        device.fragments = None;
        device.unicast = None;
        (device.tries, device.reboots_unanswered) = (0, 0);
        device.reboot_at = None;
        self.talks.remove(&dev_eui);
        self.held_back.remove(&dev_eui);
        self.changed.devices.insert(dev_eui);
        self.retrying.insert(dev_eui);
    }

    /// When those who wait are tried again; `None` while others of their wave have no verdict.
    pub(super) fn retries_at(&self) -> Option<Timestamp> {
        // Who waits for the next image waits for these, too.
        let waiting = self.retrying.len() + self.held_back.len();
        if self.retrying.is_empty() || self.open_in_wave > waiting {
            return None;
        }
        let devices = self.retrying.iter().filter_map(|d| self.devices.get(d));
        devices.filter_map(|d| d.retry_at).max()
    }

    /// Gives those who wait one session more, if there is time for it.
    pub(super) fn see_to_retries(&mut self, now: Timestamp, around: &Surroundings<'_>) {
        if self.retries_at().is_none_or(|at| now < at) {
            return;
        }
        let mut by_session: BTreeMap<(usize, bool), Vec<DevEui>> = BTreeMap::new();
        for dev_eui in std::mem::take(&mut self.retrying) {
            let device = self.devices.get(&dev_eui);
            let session = device.and_then(|d| d.session);
            let whole = device.is_some_and(|d| d.whole);
            let devices = by_session.entry((session.map_or(0, usize::from), whole));
            devices.or_default().push(dev_eui);
        }
        for ((number, whole), devices) in by_session {
            self.try_again(now, (number, whole), &devices, around);
        }
    }

    fn try_again(
        &mut self,
        now: Timestamp,
        (number, whole): (usize, bool),
        devices: &[DevEui],
        around: &Surroundings<'_>,
    ) {
        let session = self.sessions.get(number);
        let class = session.map_or(DeviceClass::C, |s| s.record.class);
        let start = self.setup_ends(now, devices, class, around);
        let frag_algo = session.map(|s| s.record.block.frag_algo);
        let Some(frag_algo) =
            frag_algo.filter(|_| !self.is_beyond(start) && self.has_session_left())
        else {
            for dev_eui in devices {
                if let Some(device) = self.devices.get_mut(dev_eui) {
                    device.retries = u8::MAX;
                }
                let evidence = "to be tried again, and no window fits".to_owned();
                self.end_without_window(now, *dev_eui, evidence, around);
            }
            return;
        };
        let wanted = Next {
            frag_algo,
            start,
            why: "tried again",
            reason: DeviceReason::WindowClosed,
        };
        let next = self.add_follow_up(number, &wanted, whole);
        for dev_eui in devices {
            self.spoil_group_of(*dev_eui);
            if let Some(device) = self.devices.get_mut(dev_eui) {
                device.session = Some(next);
                device.retry_at = None;
                device.retried_at = Some(now);
                self.changed.devices.insert(*dev_eui);
                self.due.insert((now, *dev_eui));
            }
        }
        self.enter(TaskState::Preparing);
    }
}
