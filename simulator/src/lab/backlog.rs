//! Frames that devices are told of later: those of a group, for devices that only count fragments.
//!
//! What a fragment does to such a device nobody can see until the device acts, hears something else, or completes its
//! block. So a frame is written down once, and each device works off what it has missed when one of these comes: the
//! same frames with the same losses in the same order as if it had been told at once, but many at a time, which is what
//! makes 100 000 of them possible.

use std::collections::BTreeMap;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::identifiers::DevAddr;
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
    /// Of each of them what tells whether a device hears it: all that most devices need to know of most frames.
    heads: Vec<Head>,
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
    on_air: OnAir,
    shared: SharedFrame,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    start: Timestamp,
    end: Timestamp,
    frequency_hz: u32,
    data_rate: DataRate,
    first: u64,
    /// Whom a data frame is for.
    dev_addr: Option<DevAddr>,
}

impl Head {
    fn is_heard_by(&self, device: &EndDevice) -> bool {
        device.hears(self.frequency_hz, self.data_rate, self.start, self.end)
    }
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
        let lately = self.heads.iter().enumerate().rev().take(ON_AIR_MAX);
        let known = lately
            .into_iter()
            .find(|(_, head)| head.first == first)
            .map(|(at, _)| at);
        let at = known.unwrap_or_else(|| {
            let shared = SharedFrame::new(&on_air.phy_payload);
            self.heads.push(Head {
                start: on_air.start,
                end: on_air.end,
                frequency_hz: on_air.frequency_hz,
                data_rate: on_air.data_rate,
                first,
                dev_addr: shared.dev_addr(),
            });
            self.frames.push(Deferred {
                on_air: on_air.clone(),
                shared,
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
            let head = self.heads[index(at)];
            let noted = place.noted(at);
            if !noted.unwrap_or_else(|| listens(device, &head, *locked)) {
                continue;
            }
            let frame = &mut self.frames[index(at)];
            *locked = Some((head.end, head.first));
            // Who was asked just now need not be asked again before something happened to it.
            let mut stays = noted.is_none().then_some(true);
            for (_, gateway) in copies {
                let stayed = stays.unwrap_or_else(|| head.is_heard_by(device));
                let arrives = channel.downlink_arrives_at(head.end, *gateway, number)
                    && channel.carries_at(*gateway, number, &frame.on_air);
                if !(stayed && arrives) {
                    lost += 1;
                } else if head.dev_addr.is_some_and(|to| !device.is_known_as(to)) {
                    device.overhear(head.end);
                } else {
                    device.receive_shared(head.end, &mut frame.shared);
                    stays = None;
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
            let head = self.heads[index(at)];
            let listens = reaches && listens(device, &head, *locked);
            if listens {
                *locked = Some((head.end, head.first));
            }
            if reaches || !place.defers {
                place.during.push((at, listens));
            }
        }
        lost
    }

    /// The first frame that is not over.
    fn first_on_air(&mut self, now: Timestamp) -> u32 {
        let over = |head: &Head| head.end <= now;
        while self.heads.get(index(self.over)).is_some_and(over) {
            self.over += 1;
        }
        self.over
    }
}

impl Place {
    /// What was noted of a frame while it was on air: whether the device was listening to it.
    fn noted(&self, at: u32) -> Option<bool> {
        let noted = self.during.iter().find(|(known, _)| *known == at);
        noted.map(|(_, listens)| *listens)
    }
}

/// Whether a device, as it is now, listens to a frame that began.
fn listens(device: &EndDevice, head: &Head, locked: Option<(Timestamp, u64)>) -> bool {
    let busy = locked.is_some_and(|(until, other)| head.start < until && other != head.first);
    !busy && head.is_heard_by(device)
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
