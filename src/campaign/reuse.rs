//! When a session may go on with a group that an earlier one left on its devices, and when such a group is given up.
//!
//! The devices of the session must be those that were ever given its key, all of them and no others: a key that
//! somebody else has would let him read and forge fragments. The group must be confirmed on all of them under one
//! number, and its counter must have room for all that the session may send.

use std::collections::{BTreeMap, BTreeSet};

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    DeviceClass, Fleet, FleetDevice, KeptGroup, McGroup, McSlot, SessionId, Task, TaskId,
};
use crate::task::{Plan, PlannedSession, sizing};

use super::rounds::MAX_GROUP_FRAMES;

/// Status questions and repeated frames a session has, and more than that.
const POLLS: u32 = 1000;

/// The groups that sessions of a plan go on with, by the number of the session.
pub fn groups_to_reuse(
    plan: &Plan,
    task: &Task,
    fleet: &Fleet,
    groups: &[McGroup],
) -> BTreeMap<u16, McGroup> {
    let mut kept: BTreeMap<&SessionId, &McGroup> = groups
        .iter()
        .filter(|group| group.kept.is_some())
        .map(|group| (&group.session, group))
        .collect();
    if kept.is_empty() {
        return BTreeMap::new();
    }
    let mut reused = BTreeMap::new();
    // Sessions of later images come to devices that hold the group of the first by then.
    for session in plan.sessions.iter().filter(|session| session.image == 0) {
        let found = reusable(session, fleet, &kept).filter(|group| has_room(group, session, task));
        if let Some(group) = found {
            kept.remove(&group.session);
            reused.insert(session.number, group.clone());
        }
    }
    reused
}

/// The group that all devices of a session hold, and nobody else was ever given.
fn reusable<'g>(
    session: &PlannedSession,
    fleet: &Fleet,
    kept: &BTreeMap<&SessionId, &'g McGroup>,
) -> Option<&'g McGroup> {
    if session.class == DeviceClass::A {
        return None;
    }
    let first = fleet.get(*session.devices.first()?)?;
    first.status.mc_slots.iter().flatten().find_map(|slot| {
        let group = *kept.get(&slot.session)?;
        let known = group.kept?;
        let all_hold = session
            .devices
            .iter()
            .all(|d| holds(fleet.get(*d), group, known));
        let holders: BTreeSet<DevEui> = session.devices.iter().copied().collect();
        let nobody_else = u32::try_from(holders.len()) == Ok(known.holders);
        (all_hold && nobody_else && group.region == session.region).then_some(group)
    })
}

fn holds(device: Option<&FleetDevice>, group: &McGroup, kept: KeptGroup) -> bool {
    let slot = device.and_then(|d| {
        d.status
            .mc_slots
            .get(usize::from(kept.mc_group_id))?
            .as_ref()
    });
    slot.is_some_and(|slot| slot.session == group.session && is_kept(slot))
}

fn is_kept(slot: &McSlot) -> bool {
    slot.kept && slot.confirmed && !slot.leftover
}

/// Devices see 16 bits of the counter: all that the session may send must fit below.
fn has_room(group: &McGroup, session: &PlannedSession, task: &Task) -> bool {
    let nb_frag = session.block.nb_frag;
    let coded = sizing::coded_budget(nb_frag, task.options.max_redundancy_percent);
    let frames = u32::from(nb_frag) + u32::from(coded) + POLLS;
    group
        .next_mc_f_cnt
        .checked_add(frames)
        .is_some_and(|end| end < MAX_GROUP_FRAMES)
}

/// Gives up groups that no session can go on with any more, since somebody who was given the key does not hold the
/// group now. On the other devices they become leftovers. Groups of tasks that are `active` are theirs to judge.
/// Returns those the network has to forget.
pub fn give_up_groups(
    fleet: &mut Fleet,
    groups: &[McGroup],
    active: &BTreeSet<TaskId>,
) -> Vec<SessionId> {
    let mut holders: BTreeMap<SessionId, Vec<DevEui>> = BTreeMap::new();
    for device in fleet.iter() {
        let slots = device.status.mc_slots.iter().flatten();
        for slot in slots.filter(|slot| slot.kept && !active.contains(&slot.session.task)) {
            let holders = holders.entry(slot.session.clone()).or_default();
            holders.push(device.settings.dev_eui);
        }
    }
    let mut forgotten = Vec::new();
    for group in groups {
        let Some(kept) = group.kept.filter(|_| !active.contains(&group.session.task)) else {
            continue;
        };
        let held_by = holders.get(&group.session).map_or(0, Vec::len);
        if u32::try_from(held_by) == Ok(kept.holders) {
            holders.remove(&group.session);
        } else {
            forgotten.push(group.session.clone());
        }
    }
    // What is left has no group on the network's side any more.
    for (session, devices) in holders {
        for dev_eui in devices {
            let slots = fleet.status_mut(dev_eui).map(|s| &mut s.mc_slots);
            let slots = slots.into_iter().flatten().flatten();
            for slot in slots.filter(|slot| slot.kept && slot.session == session) {
                (slot.kept, slot.leftover) = (false, true);
            }
        }
    }
    forgotten
}
