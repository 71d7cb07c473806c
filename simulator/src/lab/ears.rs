//! Who may hear a frame that begins: the devices worth asking, found by time and frequency instead of by asking all.
//!
//! PURE. What is kept here is never less than the truth and may be more: whether a device really hears a frame, it says
//! itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::time::Timestamp;

use crate::device::{Attention, WINDOW_TOLERANCE};

/// How long a window of class A is kept after it opened: frames that begin now began no earlier.
const WINDOW_KEPT: Duration = Duration::from_secs(10);

/// Where the devices of a lab may be listening. Devices are numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Ears {
    /// Windows of class A by when they open.
    windows: BTreeSet<(Timestamp, u32)>,
    /// Who may listen on a frequency outside of windows.
    continuous: BTreeMap<u32, Tuned>,
    /// Of them, those that may be told of frames later.
    deferring: BTreeMap<u32, Tuned>,
    /// Who may listen anywhere.
    anywhere: BTreeSet<u32>,
    /// Who of them belongs to a group.
    members: BTreeMap<DevAddr, BTreeSet<u32>>,
    /// What each device is filed under.
    filed: Vec<Filed>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Filed {
    attention: Attention,
    can_wait: bool,
}

impl Filed {
    /// The groups whose frames it is told of later.
    fn groups(&self) -> impl Iterator<Item = DevAddr> + use<> {
        let groups = self.attention.groups.into_iter().flatten();
        groups.take(if self.can_wait { usize::MAX } else { 0 })
    }
}

/// Whom to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Everybody.
    All,
    /// Those that cannot be told later, and whoever listens in a window.
    Prompt,
}

#[derive(Clone, Debug)]
struct Tuned {
    /// None of them listens before.
    from: Timestamp,
    devices: BTreeSet<u32>,
}

impl Ears {
    /// A device sent, and will listen in windows that open then.
    pub(super) fn open_windows(&mut self, device: u32, opens: impl Iterator<Item = Timestamp>) {
        self.windows.extend(opens.map(|at| (at, device)));
    }

    /// Where a device may listen outside of windows from now on. True if it is told of frames there later, which it can
    /// be if it says so and listens to a group.
    pub(super) fn attend(&mut self, device: u32, attention: Attention, can_wait: bool) -> bool {
        let at = index(device);
        if self.filed.len() <= at {
            self.filed.resize(at + 1, Filed::default());
        }
        let has_group = attention.groups.iter().any(Option::is_some);
        let filed = Filed {
            attention,
            can_wait: can_wait && has_group && !attention.anywhere,
        };
        let before = std::mem::replace(&mut self.filed[at], filed);
        if before == filed {
            return filed.can_wait;
        }
        if before.attention.anywhere {
            self.anywhere.remove(&device);
        }
        for group in before.groups() {
            if let Some(members) = self.members.get_mut(&group) {
                members.remove(&device);
            }
        }
        for group in filed.groups() {
            self.members.entry(group).or_default().insert(device);
        }
        for (frequency_hz, _) in before.attention.tuned.into_iter().flatten() {
            let tuned = self.tuned(before.can_wait);
            if let Some(known) = tuned.get_mut(&frequency_hz) {
                known.devices.remove(&device);
                if known.devices.is_empty() {
                    tuned.remove(&frequency_hz);
                }
            }
        }
        if attention.anywhere {
            self.anywhere.insert(device);
        }
        for (frequency_hz, from) in attention.tuned.into_iter().flatten() {
            let tuned = self.tuned(filed.can_wait).entry(frequency_hz);
            let tuned = tuned.or_insert(Tuned {
                from,
                devices: BTreeSet::new(),
            });
            tuned.from = tuned.from.min(from);
            tuned.devices.insert(device);
        }
        filed.can_wait
    }

    fn tuned(&mut self, can_wait: bool) -> &mut BTreeMap<u32, Tuned> {
        if can_wait {
            &mut self.deferring
        } else {
            &mut self.continuous
        }
    }

    /// One of the devices that are told later of the frames of a group.
    pub(super) fn member(&self, group: DevAddr) -> Option<u32> {
        self.members.get(&group)?.first().copied()
    }

    /// Whether somebody may listen to a frame who is told of it later.
    pub(super) fn anyone_deferring(&self, frequency_hz: u32, end: Timestamp) -> bool {
        let tuned = self.deferring.get(&frequency_hz);
        tuned.is_some_and(|tuned| tuned.from <= end)
    }

    /// Who may hear a frame, each once, rising. `reached` are the numbers of the devices in reach, if that is known,
    /// and which device has which number.
    pub(super) fn may_hear(
        &mut self,
        who: Who,
        frequency_hz: u32,
        (start, end): (Timestamp, Timestamp),
        reached: Option<(&[u32], &[u32])>,
    ) -> Vec<u32> {
        while let Some(&(opens, device)) = self.windows.first()
            && opens + WINDOW_KEPT < start
        {
            self.windows.remove(&(opens, device));
        }
        let opens = (start - WINDOW_TOLERANCE, 0)..=(start + WINDOW_TOLERANCE, u32::MAX);
        let mut found: Vec<u32> = self
            .windows
            .range(opens)
            .map(|(_, device)| *device)
            .collect();
        found.extend(&self.anywhere);
        let deferring = self.deferring.get(&frequency_hz);
        let deferring = deferring.filter(|_| who == Who::All);
        for (can_wait, tuned) in [
            (false, self.continuous.get(&frequency_hz)),
            (true, deferring),
        ] {
            let Some(tuned) = tuned.filter(|tuned| tuned.from <= end) else {
                continue;
            };
            let Some((reached, devices)) = reached.filter(|(r, _)| r.len() < tuned.devices.len())
            else {
                found.extend(&tuned.devices);
                continue;
            };
            let reached = reached.iter().filter_map(|n| devices.get(index(*n)));
            found.extend(reached.filter(|device| {
                let filed = self.filed.get(index(**device));
                filed.is_some_and(|filed| {
                    filed.can_wait == can_wait && filed.attention.is_tuned_to(frequency_hz)
                })
            }));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
