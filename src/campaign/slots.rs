//! Which `McGroupID` and which `FragIndex` a session takes on its devices.
//!
//! Both are numbers a device has few of (TS005-2.0.0 §4.1, TS004-2.0.0 §3.2), and earlier tasks may have left something
//! under them. A session uses one of each for all its devices: the lowest that is free on all of them, else the one on
//! which the fewest devices lose a leftover; a new set-up replaces what is there. A device that is moved to a later
//! session keeps its numbers: what the first one put there is replaced, and one deletion is enough in the end.

use crate::lorawan::identifiers::DevEui;
use crate::record::{DistributionSession, Fleet, InstallMode, Task};
use crate::task::sizing::frag_sessions_at_once;

/// Numbers the protocols have room for.
const SLOTS: u8 = 4;

/// What a session is called on its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) mc_group_id: u8,
    pub(super) frag_index: u8,
}

impl Slots {
    /// The numbers of a session of these devices.
    pub(super) fn choose(devices: &[DevEui], fleet: &Fleet) -> Self {
        let known = || devices.iter().filter_map(|dev_eui| fleet.get(*dev_eui));
        let groups = known().map(|d| d.profile.limits.max_groups).min();
        let sessions = known().map(|d| frag_sessions_at_once(&d.profile)).min();
        Self {
            mc_group_id: fewest(groups, |slot| {
                known()
                    .filter(|d| d.status.mc_slots[usize::from(slot)].is_some())
                    .count()
            }),
            frag_index: fewest(sessions, |slot| {
                known()
                    .filter(|d| d.status.frag_slots[usize::from(slot)].is_some())
                    .count()
            }),
        }
    }

    /// The numbers of a session of a task with several images: those that wait for one reboot have a `FragIndex` each,
    /// which is their place in the task. Where devices have not as many, they keep finished blocks: the plan saw to it.
    pub(super) fn for_image(
        self,
        task: &Task,
        image: u8,
        devices: &[DevEui],
        fleet: &Fleet,
    ) -> Self {
        let known = devices.iter().filter_map(|dev_eui| fleet.get(*dev_eui));
        let at_once = known.map(|d| frag_sessions_at_once(&d.profile));
        let at_once = at_once.min().unwrap_or(1);
        let together = task.images.len() > 1 && task.install == InstallMode::Together;
        if together && usize::from(at_once) >= task.images.len() {
            return Self {
                frag_index: image,
                ..self
            };
        }
        self
    }

    /// The numbers a session has.
    pub(super) fn of(session: &DistributionSession) -> Self {
        Self {
            mc_group_id: session.mc_group_id,
            frag_index: session.block.frag_index,
        }
    }
}

/// The lowest number below `limit` that is taken on the fewest devices.
fn fewest(limit: Option<u8>, taken: impl Fn(u8) -> usize) -> u8 {
    let limit = limit.unwrap_or(1).clamp(1, SLOTS);
    (0..limit).min_by_key(|slot| taken(*slot)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_taken() {
        assert_eq!(fewest(Some(4), |_| 0), 0);
        assert_eq!(fewest(Some(4), |slot| usize::from(slot < 2)), 2);
    }

    #[test]
    fn without_a_free_one_the_fewest_leftovers_are_replaced() {
        let taken = [5, 2, 2, 1];
        assert_eq!(fewest(Some(4), |slot| taken[usize::from(slot)]), 3);
        assert_eq!(fewest(Some(3), |slot| taken[usize::from(slot)]), 1);
    }

    #[test]
    fn limits_hold_whatever_the_profile_says() {
        assert_eq!(fewest(Some(1), |slot| usize::from(slot == 0)), 0);
        assert_eq!(fewest(Some(0), |_| 1), 0);
        assert_eq!(fewest(Some(200), |slot| usize::from(slot < 3)), 3);
        assert_eq!(fewest(None, |_| 0), 0);
    }
}
