//! Multicast groups between two tasks: taken over by the next one of the same devices, or given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::campaign;
use crate::lorawan::identifiers::DevEui;
use crate::network::Network;
use crate::record::{DeviceKeys, FleetDevice, McGroup, NetworkRequest, Task, TaskId};
use crate::task::Plan;

use super::engine::{Engine, Turn};

/// Whether a group is left on the device for a later task.
pub(super) fn holds_kept(device: &FleetDevice) -> bool {
    let mut slots = device.status.mc_slots.iter().flatten();
    slots.any(|slot| slot.kept)
}

impl<N: Network> Engine<N> {
    /// The groups that the sessions of a task which is about to begin go on with, by the number of the session.
    pub(super) fn groups_to_reuse(
        &mut self,
        plan: &Plan,
        task: &Task,
        turn: &mut Turn,
    ) -> BTreeMap<u16, McGroup> {
        let mut groups = self.groups_after(turn);
        // An ended task of the same name was deleted: its groups must not be taken for those of this one.
        let is_namesake = |group: &McGroup| group.kept.is_some() && group.session.task == task.id;
        if groups.iter().any(is_namesake) {
            groups.retain(|group| !is_namesake(group));
            self.give_up(&groups, turn);
            let namesakes = self.groups_after(turn).into_iter().filter(is_namesake);
            let requests = namesakes.map(|group| NetworkRequest::RemoveGroup(group.session));
            turn.requests.extend(requests);
        }
        campaign::groups_to_reuse(plan, task, &self.fleet, &groups)
    }

    /// Gives up groups that nobody can have any more, once something happened that may be the reason.
    pub(super) fn see_to_kept(&mut self, turn: &mut Turn) {
        if std::mem::take(&mut self.kept_unsure) {
            let groups = self.groups_after(turn);
            self.give_up(&groups, turn);
        }
    }

    /// A device that comes with other keys is another one: what the old one was given is still in it.
    pub(super) fn forget_kept_of_another(&mut self, dev_eui: DevEui, keys: Option<&DeviceKeys>) {
        let Some(device) = self.fleet.get(dev_eui).filter(|d| holds_kept(d)) else {
            return;
        };
        if keys.is_none_or(|keys| *keys == device.keys) {
            return;
        }
        let slots = self.fleet.status_mut(dev_eui).map(|s| &mut s.mc_slots);
        for slot in slots.into_iter().flatten().flatten().filter(|s| s.kept) {
            (slot.kept, slot.leftover) = (false, true);
        }
        self.kept_unsure = true;
    }

    fn give_up(&mut self, groups: &[McGroup], turn: &mut Turn) {
        let active: BTreeSet<TaskId> = self
            .campaigns
            .values()
            .map(|campaign| campaign.task().id.clone())
            .collect();
        let forgotten = campaign::give_up_groups(&mut self.fleet, groups, &active);
        let requests = forgotten.into_iter().map(NetworkRequest::RemoveGroup);
        turn.requests.extend(requests);
    }

    /// The groups of the network as they will be once this step's requests are carried out.
    fn groups_after(&self, turn: &Turn) -> Vec<McGroup> {
        let mut groups = self.network.groups();
        for request in &turn.requests {
            match request {
                NetworkRequest::KeepGroup(session, kept) => {
                    let known = groups.iter_mut().filter(|group| group.session == *session);
                    known.for_each(|group| group.kept = *kept);
                }
                NetworkRequest::RemoveGroup(session) => {
                    groups.retain(|group| group.session != *session);
                }
                NetworkRequest::PutGroup(put) => {
                    let known = groups.iter_mut().filter(|g| g.session == put.session);
                    known.for_each(|group| group.kept = None);
                }
                NetworkRequest::Send(_) => {}
            }
        }
        groups
    }
}
