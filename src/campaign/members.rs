//! Which devices each session has, found without looking at all devices of the task.
//!
//! The index is brought up to date when a step ends, from the devices it changed. Until then those are looked at one by
//! one: whoever reads gets the devices filed and the changed ones, and asks each record what it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::lorawan::identifiers::DevEui;
use crate::record::{DeviceState, TaskDevice};

use super::Campaign;

/// The devices of all sessions, by what they are to them.
#[derive(Debug, Default)]
pub(super) struct Members {
    filed: BTreeMap<DevEui, (u16, Part)>,
    waiting: BTreeSet<(u16, DevEui)>,
    receiving: BTreeSet<(u16, DevEui)>,
    alone: BTreeSet<(u16, DevEui)>,
    reported: BTreeSet<(u16, DevEui)>,
}

/// What a device is to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// In its group, and does not receive.
    Waiting,
    /// In its group, and receives.
    Receiving,
    /// Sent to alone.
    Alone,
    /// It says that it has everything.
    Reported,
}

impl Part {
    /// What a device without a verdict is to its session; nothing if it has none, or waits for another try.
    pub(super) fn of(device: &TaskDevice) -> Option<(u16, Self)> {
        let session = device.session?;
        let part = match device.state {
            DeviceState::Receiving if device.unicast.is_some() => Self::Alone,
            DeviceState::ReportedReceived => Self::Reported,
            _ if device.retry_at.is_some() || device.unicast.is_some() => return None,
            DeviceState::Receiving => Self::Receiving,
            state if state < DeviceState::Receiving => Self::Waiting,
            _ => return None,
        };
        Some((session, part))
    }
}

impl Members {
    /// Files a device anew: `None` if it is nothing to any session.
    pub(super) fn file(&mut self, dev_eui: DevEui, place: Option<(u16, Part)>) {
        let before = match place {
            Some(place) => self.filed.insert(dev_eui, place),
            None => self.filed.remove(&dev_eui),
        };
        if before == place {
            return;
        }
        if let Some((session, part)) = before {
            self.of_part(part).remove(&(session, dev_eui));
        }
        if let Some((session, part)) = place {
            self.of_part(part).insert((session, dev_eui));
        }
    }

    /// Devices filed under a session as what `part` says, by DevEUI.
    pub(super) fn filed(&self, session: usize, part: Part) -> impl Iterator<Item = DevEui> {
        let devices = match part {
            Part::Waiting => &self.waiting,
            Part::Receiving => &self.receiving,
            Part::Alone => &self.alone,
            Part::Reported => &self.reported,
        };
        let session = u16::try_from(session).unwrap_or(u16::MAX);
        let all = (session, DevEui(0))..=(session, DevEui(u64::MAX));
        devices.range(all).map(|(_, dev_eui)| *dev_eui)
    }

    fn of_part(&mut self, part: Part) -> &mut BTreeSet<(u16, DevEui)> {
        match part {
            Part::Waiting => &mut self.waiting,
            Part::Receiving => &mut self.receiving,
            Part::Alone => &mut self.alone,
            Part::Reported => &mut self.reported,
        }
    }
}

impl Campaign {
    /// Devices of a session's group that are without the image; those that are sent to alone are not among them.
    pub(super) fn members(&self, number: usize) -> impl Iterator<Item = &TaskDevice> {
        let filed = merged(
            self.members.filed(number, Part::Waiting),
            self.members.filed(number, Part::Receiving),
        );
        self.parts(number, filed, |part| {
            matches!(part, Part::Waiting | Part::Receiving)
        })
    }

    pub(super) fn nobody_left(&self, number: usize) -> bool {
        self.members(number).next().is_none()
    }

    /// Devices of a session that take part in it.
    pub(super) fn receiving(&self, number: usize) -> impl Iterator<Item = DevEui> {
        self.of_part(number, Part::Receiving).map(|d| d.dev_eui)
    }

    /// Devices without a verdict that are this to a session.
    pub(super) fn of_part(&self, number: usize, part: Part) -> impl Iterator<Item = &TaskDevice> {
        let filed = self.members.filed(number, part);
        self.parts(number, filed, move |found| found == part)
    }

    /// Those of the devices filed, and of those this step has changed, that are what is asked for.
    fn parts(
        &self,
        number: usize,
        filed: impl Iterator<Item = DevEui>,
        wanted: impl Fn(Part) -> bool,
    ) -> impl Iterator<Item = &TaskDevice> {
        merged(filed, self.changed.devices.iter().copied())
            .filter(|dev_eui| self.open.contains(dev_eui))
            .filter_map(|dev_eui| self.devices.get(&dev_eui))
            .filter(move |device| {
                let place = Part::of(device);
                place.is_some_and(|(session, part)| usize::from(session) == number && wanted(part))
            })
    }
}

/// Two rising sequences as one, without what is in both twice.
fn merged(
    one: impl Iterator<Item = DevEui>,
    other: impl Iterator<Item = DevEui>,
) -> impl Iterator<Item = DevEui> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek().copied(), other.peek().copied()) {
        (Some(a), Some(b)) if a == b => {
            other.next();
            one.next()
        }
        (Some(a), Some(b)) if b < a => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_filed_once() {
        let mut members = Members::default();
        let of = |members: &Members, session, part| -> Vec<u64> {
            members.filed(session, part).map(|d| d.0).collect()
        };
        for dev_eui in [3, 1, 2] {
            members.file(DevEui(dev_eui), Some((0, Part::Waiting)));
        }
        members.file(DevEui(2), Some((1, Part::Receiving)));
        members.file(DevEui(3), None);
        assert_eq!(of(&members, 0, Part::Waiting), [1]);
        assert_eq!(of(&members, 0, Part::Receiving), [0; 0]);
        assert_eq!(of(&members, 1, Part::Receiving), [2]);
        members.file(DevEui(1), None);
        members.file(DevEui(2), None);
        assert!(members.filed.is_empty() && members.receiving.is_empty());
    }

    #[test]
    fn merging_keeps_order_and_drops_doubles() {
        let devices = |of: &[u64]| of.iter().map(|n| DevEui(*n)).collect::<Vec<_>>();
        let both = merged(
            devices(&[1, 3, 4]).into_iter(),
            devices(&[2, 3, 5, 6]).into_iter(),
        );
        assert_eq!(both.collect::<Vec<_>>(), devices(&[1, 2, 3, 4, 5, 6]));
        let none = merged(std::iter::empty(), std::iter::empty());
        assert_eq!(none.count(), 0);
    }
}
