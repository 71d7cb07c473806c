//! Frames that devices are told of later: those of a group, for devices that only count fragments.
//!
//! What a fragment does to such a device nobody can see until the device acts, hears something else, or completes its
//! block. So a frame is written down once, and each device works off what it has missed when one of these comes: the
//! same frames with the same losses in the same order as if it had been told at once, but many at a time, which is what
//! makes 100 000 of them possible.

use std::collections::BTreeMap;

use lorawan_fuota::time::Timestamp;

use crate::channel::Channel;
use crate::device::{EndDevice, SharedFrame};
use crate::gateway::OnAir;

/// Among so many frames that came last is every one that is on air.
const ON_AIR_MAX: usize = 256;

/// The frames, and who has to look at them when.
#[derive(Clone, Debug, Default)]
pub(super) struct Backlog {
    frames: Vec<Deferred>,
    /// Which of them a gateway sent, by its number; rising.
    by_gateway: Vec<Vec<u32>>,
    /// How many of them are over, before the first that is not.
    over: u32,
    /// Devices that have to look once a frame is over.
    due: BTreeMap<u32, Vec<u32>>,
}

/// A frame, by as many gateways as sent it at one instant.
#[derive(Clone, Debug)]
struct Deferred {
    /// The number of its first flight.
    first: u64,
    on_air: OnAir,
    shared: SharedFrame,
}

/// How far a device is.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// It is told later.
    pub(super) defers: bool,
    /// The first frame it was not told of.
    next: u32,
    /// Frames it did something during, and whether it was listening to them before that.
    during: Vec<(u32, bool)>,
    /// The frame after which it has to look.
    pub(super) due: Option<u32>,
}

impl Backlog {
    /// A gateway began to send a frame, which devices are told of later. Returns its place.
    pub(super) fn add(&mut self, gateway: u32, first: u64, on_air: &OnAir) -> u32 {
        let lately = self.frames.iter().enumerate().rev().take(ON_AIR_MAX);
        let known = lately
            .into_iter()
            .find(|(_, frame)| frame.first == first)
            .map(|(at, _)| at);
        let at = known.unwrap_or_else(|| {
            self.frames.push(Deferred {
                first,
                on_air: on_air.clone(),
                shared: SharedFrame::new(&on_air.phy_payload),
            });
            self.frames.len() - 1
        });
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        let gateway = index(gateway);
        if self.by_gateway.len() <= gateway {
            self.by_gateway.resize_with(gateway + 1, Vec::new);
        }
        self.by_gateway[gateway].push(at);
        at
    }

    /// A frame is over: who has to look now.
    pub(super) fn landed(&mut self, at: u32) -> Vec<u32> {
        let later = self.due.split_off(&at.saturating_add(1));
        let due = std::mem::replace(&mut self.due, later);
        due.into_values().flatten().collect()
    }

    /// A device that is told later has to look after so many frames more.
    pub(super) fn wait(&mut self, device: u32, place: &mut Place, frames_to_go: Option<u16>) {
        let Some(frames) = frames_to_go.filter(|_| place.defers) else {
            return;
        };
        let due = place.next.saturating_add(u32::from(frames.max(1)) - 1);
        let before = place.due.filter(|known| *known >= place.next);
        if before.is_none_or(|known| due < known) {
            place.due = Some(due);
            self.due.entry(due).or_default().push(device);
        }
    }

    /// A device is told in another way whether it hears the frame at `at`.
    pub(super) fn leave_out(&self, place: &mut Place, at: u32) {
        if place.defers && at >= place.next {
            place.during.retain(|(known, _)| *known != at);
            place.during.push((at, false));
        }
    }

    /// Tells a device of all frames that are over by `now`, and notes which of the others it is listening to. Returns
    /// how many it lost.
    pub(super) fn catch_up(
        &mut self,
        now: Timestamp,
        (device, place, number): (&mut EndDevice, &mut Place, u32),
        locked: &mut Option<(Timestamp, u64)>,
        channel: &mut Channel,
    ) -> u64 {
        let end = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        if place.next >= end {
            return 0;
        }
        let mut lost = 0;
        let mut to_tell = Vec::new();
        if place.defers {
            let reach = channel.reaches(number);
            let all = || (0..).take(self.by_gateway.len()).collect();
            for gateway in reach.unwrap_or_else(all) {
                if channel.link_at(gateway, number).is_none() {
                    continue;
                }
                let frames = self.by_gateway.get(index(gateway));
                let frames = frames.map_or(&[][..], Vec::as_slice);
                let from = frames.partition_point(|at| *at < place.next);
                to_tell.extend(frames[from..].iter().map(|at| (*at, gateway)));
            }
            to_tell.sort_unstable();
        }
        let mut told = to_tell.chunk_by(|(a, _), (b, _)| a == b).peekable();
        let first_on_air = self.first_on_air(now).max(place.next);
        while let Some(copies) = told.next_if(|copies| copies[0].0 < first_on_air) {
            let at = copies[0].0;
            let frame = &mut self.frames[index(at)];
            if !was_listening(device, place, at, frame, *locked) {
                continue;
            }
            let air = &frame.on_air;
            *locked = Some((air.end, frame.first));
            for (_, gateway) in copies {
                let stayed = device.hears(air.frequency_hz, air.data_rate, air.start, air.end);
                let arrives = channel.downlink_arrives_at(air.end, *gateway, number)
                    && channel.carries_at(*gateway, number, air);
                if stayed && arrives {
                    device.receive_shared(air.end, &mut frame.shared);
                } else {
                    lost += 1;
                }
            }
        }
        place.next = first_on_air;
        place.during.retain(|(at, _)| *at >= first_on_air);
        for at in first_on_air..end {
            if place.during.iter().any(|(known, _)| *known == at) {
                continue;
            }
            let reaches = told.next_if(|copies| copies[0].0 == at).is_some();
            let frame = &self.frames[index(at)];
            let listens = reaches && was_listening(device, place, at, frame, *locked);
            if listens {
                *locked = Some((frame.on_air.end, frame.first));
            }
            if reaches || !place.defers {
                place.during.push((at, listens));
            }
        }
        lost
    }

    /// The first frame that is not over.
    fn first_on_air(&mut self, now: Timestamp) -> u32 {
        let over = |frame: &Deferred| frame.on_air.end <= now;
        while self.frames.get(index(self.over)).is_some_and(over) {
            self.over += 1;
        }
        self.over
    }
}

/// Whether a device listens to a frame that began: as it was noted, or as the device is now.
fn was_listening(
    device: &EndDevice,
    place: &Place,
    at: u32,
    frame: &Deferred,
    locked: Option<(Timestamp, u64)>,
) -> bool {
    let noted = place.during.iter().find(|(known, _)| *known == at);
    if let Some((_, listens)) = noted {
        return *listens;
    }
    let air = &frame.on_air;
    let busy = locked.is_some_and(|(until, other)| air.start < until && other != frame.first);
    !busy && device.hears(air.frequency_hz, air.data_rate, air.start, air.end)
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
