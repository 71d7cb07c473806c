//! Groups that a task leaves on its devices for a later one, and those it takes over from an earlier one.
//!
//! A group is left only where each device that was ever given its key holds it to the end: who fails, leaves or is
//! moved to another session spoils it for all, and then it is deleted as ever. `reuse` says when the next task may have
//! it.

use std::collections::BTreeMap;

use crate::lorawan::identifiers::{DevEui, McAddr};
use crate::lorawan::keys::Key128;
use crate::record::{
    CleanupState, DeviceClass, DeviceState, Fleet, GroupUse, KeptGroup, McGroup, McSlot,
    NetworkRequest, ReusedGroup, SessionId, TaskState,
};

use super::{Campaign, Surroundings};

/// Address and key of a group that was made for an earlier session.
#[derive(Clone, Debug)]
pub(super) struct EarlierKey {
    pub(super) mc_addr: McAddr,
    pub(super) mc_key: Key128,
}

impl Campaign {
    /// Has sessions of a task that just begins go on with groups their devices hold, by the number of the session. Part
    /// of the first step: the groups change hands in the commit that begins the task.
    pub fn take_over(&mut self, fleet: &mut Fleet, groups: BTreeMap<u16, McGroup>) {
        for (number, group) in groups {
            let Some(session) = self.sessions.get_mut(usize::from(number)) else {
                continue;
            };
            let Some(kept) = group.kept else {
                continue;
            };
            session.frames = group.next_mc_f_cnt;
            let record = &mut session.record;
            record.mc_group_id = kept.mc_group_id;
            record.group_use = GroupUse {
                given: kept.holders,
                spoiled: false,
                reused: Some(ReusedGroup {
                    from: group.session.clone(),
                    first_mc_f_cnt: group.next_mc_f_cnt,
                }),
            };
            let id = record.id.clone();
            let key = EarlierKey {
                mc_addr: group.mc_addr,
                mc_key: group.mc_key,
            };
            self.earlier_keys.insert(number, key);
            let members = self.devices.values_mut();
            for device in members.filter(|d| d.session == Some(number)) {
                device.setup.group = true;
                device.group_cleanup = CleanupState::Pending;
                let slots = fleet
                    .status_mut(device.dev_eui)
                    .map(|status| &mut status.mc_slots);
                if let Some(slot) =
                    slots.and_then(|slots| slots.get_mut(usize::from(kept.mc_group_id)))
                {
                    *slot = Some(McSlot {
                        session: id.clone(),
                        group: device.group.clone(),
                        confirmed: true,
                        leftover: false,
                        kept: false,
                    });
                }
            }
            self.request_group(usize::from(number));
            self.requests
                .push(NetworkRequest::RemoveGroup(group.session));
        }
    }

    /// After a restart: the keys of groups that were taken over, from the groups on the air.
    pub fn recall_keys(&mut self, groups: &[McGroup]) {
        for session in &self.sessions {
            let record = &session.record;
            let known = groups.iter().find(|group| group.session == record.id);
            if let Some(group) = known.filter(|_| record.group_use.reused.is_some()) {
                let key = EarlierKey {
                    mc_addr: group.mc_addr,
                    mc_key: group.mc_key.clone(),
                };
                self.earlier_keys.insert(record.id.number, key);
            }
        }
    }

    /// A device has its verdict: with a good one its group may stay, with any other the group is spoiled.
    pub(super) fn see_to_group_of(&mut self, dev_eui: DevEui) {
        let Some(device) = self.devices.get(&dev_eui) else {
            return;
        };
        if !self.task.options.keep_groups || device.group_cleanup != CleanupState::Pending {
            return;
        }
        if device.state.is_failure() || self.task.state == TaskState::Cancelling {
            self.spoil_group_of(dev_eui);
        } else {
            self.keeping.push(dev_eui);
        }
    }

    /// A device that may hold the group of its session will not hold it to the end.
    pub(super) fn spoil_group_of(&mut self, dev_eui: DevEui) {
        let device = self.devices.get(&dev_eui);
        let device = device.filter(|d| d.group_cleanup != CleanupState::NotNeeded);
        let Some(number) = device.and_then(|d| d.session) else {
            return;
        };
        let session = self.sessions.get_mut(usize::from(number));
        if let Some(session) = session.filter(|s| !s.record.group_use.spoiled) {
            session.record.group_use.spoiled = true;
            self.changed.sessions.insert(number);
        }
    }

    /// Leaves the group on devices that have succeeded.
    pub(super) fn keep_groups(&mut self, around: &mut Surroundings<'_>) {
        for dev_eui in std::mem::take(&mut self.keeping) {
            if !self.may_keep(dev_eui, around.fleet) {
                self.spoil_group_of(dev_eui);
                continue;
            }
            let Some(record) = self.devices.get_mut(&dev_eui) else {
                continue;
            };
            record.group_cleanup = CleanupState::Kept;
            self.changed.devices.insert(dev_eui);
            if !record.is_uncleaned() && self.uncleaned.remove(&dev_eui) {
                self.released.push(dev_eui);
            }
            if let Some(slot) = self.slot_of(dev_eui, around.fleet) {
                slot.kept = true;
            }
        }
    }

    fn may_keep(&self, dev_eui: DevEui, fleet: &Fleet) -> bool {
        let (Some(record), Some(device)) = (self.devices.get(&dev_eui), fleet.get(dev_eui)) else {
            return false;
        };
        let Some(session) = self.session_of(record) else {
            return false;
        };
        let rebooted = record.state == DeviceState::Running || record.reboot_at.is_some();
        let lost = device.profile.after_reboot.loses_groups && rebooted;
        let slot = usize::from(session.record.mc_group_id);
        let slot = device.status.mc_slots.get(slot).and_then(Option::as_ref);
        record.group_cleanup == CleanupState::Pending
            && record.setup.group
            && !lost
            && !session.record.group_use.spoiled
            && slot.is_some_and(|slot| {
                slot.session == session.record.id && slot.confirmed && !slot.leftover
            })
    }

    /// What is recorded of the group on a device of the task, as long as no other has taken its place.
    fn slot_of<'f>(&self, dev_eui: DevEui, fleet: &'f mut Fleet) -> Option<&'f mut McSlot> {
        let session = &self.session_of(self.devices.get(&dev_eui)?)?.record;
        let slots = &mut fleet.status_mut(dev_eui)?.mc_slots;
        let slot = slots.get_mut(usize::from(session.mc_group_id))?.as_mut()?;
        (slot.session == session.id).then_some(slot)
    }

    /// What becomes of the group of a session that sends nothing to it any more.
    pub(super) fn group_rests(&self, id: SessionId, class: DeviceClass) -> NetworkRequest {
        let spoiled = self
            .sessions
            .get(usize::from(id.number))
            .is_none_or(|session| session.record.group_use.spoiled);
        let keeps = self.task.options.keep_groups
            && class != DeviceClass::A
            && !spoiled
            && self.task.state != TaskState::Cancelling;
        if keeps {
            NetworkRequest::KeepGroup(id, None)
        } else {
            NetworkRequest::RemoveGroup(id)
        }
    }

    /// At the end of the task: groups that all who were given them still hold are there for a later one, the others are
    /// leftovers.
    pub(super) fn hand_on_groups(&mut self, around: &mut Surroundings<'_>) {
        if !self.task.options.keep_groups {
            return;
        }
        let mut holders: BTreeMap<u16, Vec<DevEui>> = BTreeMap::new();
        for device in self.devices.values() {
            if let Some(number) = device
                .session
                .filter(|_| device.group_cleanup == CleanupState::Kept)
            {
                holders.entry(number).or_default().push(device.dev_eui);
            }
        }
        for number in 0..self.sessions.len() {
            let record = &self.sessions[number].record;
            if record.class == DeviceClass::A {
                continue;
            }
            let (id, given) = (record.id.clone(), record.group_use.given);
            let mc_group_id = record.mc_group_id;
            let mut holders = holders.remove(&id.number).unwrap_or_default();
            holders.retain(|dev_eui| self.slot_of(*dev_eui, around.fleet).is_some());
            if given > 0 && u32::try_from(holders.len()) == Ok(given) {
                let kept = KeptGroup {
                    mc_group_id,
                    holders: given,
                };
                self.requests
                    .push(NetworkRequest::KeepGroup(id, Some(kept)));
                continue;
            }
            self.requests.push(NetworkRequest::RemoveGroup(id));
            for dev_eui in holders {
                if let Some(slot) = self.slot_of(dev_eui, around.fleet) {
                    (slot.kept, slot.leftover) = (false, true);
                }
                if let Some(record) = self.devices.get_mut(&dev_eui) {
                    record.group_cleanup = CleanupState::Left;
                    self.changed.devices.insert(dev_eui);
                }
            }
        }
    }
}
