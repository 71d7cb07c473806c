//! The key of a multicast group is held by its session's devices alone, also when a session goes on with the key of an
//! earlier one.

use std::collections::BTreeMap;

use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::record::{Change, SessionId};

use crate::lab::Lab;

use super::records::Records;
use super::{Broken, Checker};

/// Whose each group was last.
#[derive(Default)]
pub struct Keys {
    sessions: BTreeMap<DevAddr, SessionId>,
}

impl Keys {
    /// Takes in a commit that `records` know of already. The checker of [`Checker::Keys`].
    pub(super) fn commit(
        &mut self,
        changes: &[Change],
        records: &Records,
        lab: &Lab,
    ) -> Vec<Broken> {
        let mut broken = Vec::new();
        for change in changes {
            let Change::PutMcGroup(group) = change else {
                continue;
            };
            let session = &group.session;
            let before = self.sessions.insert(group.mc_addr, session.clone());
            let Some(before) = before.filter(|before| before != session) else {
                continue;
            };
            let ended = |task: &SessionId| {
                let task = records.tasks.get(&task.task);
                task.is_none_or(|task| task.state.is_terminal())
            };
            if !ended(&before) {
                let what = format!("{session:?} took the key of {before:?}, which goes on");
                broken.push((Checker::Keys, None, what));
            }
            for device in lab.devices() {
                let mut held = device.mc_groups().iter().flatten();
                let holds = held.any(|held| held.mc_addr == group.mc_addr);
                let key = (device.dev_eui(), session.task.clone());
                let member = records.devices.get(&key);
                if holds && member.and_then(|d| d.session) != Some(session.number) {
                    let what = format!("holds the key of {session:?} and is not in it");
                    broken.push((Checker::Keys, Some(device.dev_eui()), what));
                }
            }
        }
        broken
    }
}
