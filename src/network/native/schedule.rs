//! What is on air when: one reservation per transmission, of all gateways.
//!
//! A gateway sends one frame at a time, with a gap; frames of different gateways never overlap on a frequency, where
//! the caller asks for it. Duty cycle and air share are not here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::TransmissionId;
use crate::lorawan::identifiers::GatewayEui;
use crate::time::Timestamp;

/// A stretch of air one gateway has promised to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    pub(super) gateway: GatewayEui,
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    pub(super) frequency_hz: u32,
    pub(super) bandwidth_hz: u32,
    /// Sent at once rather than by the counter: its start is known less well.
    pub(super) immediate: bool,
}

impl Reservation {
    fn stretch(&self) -> Stretch {
        Stretch {
            frequency_hz: self.frequency_hz,
            bandwidth_hz: self.bandwidth_hz,
            start: self.start,
            end: self.end,
            immediate: self.immediate,
        }
    }
}

impl Stretch {
    fn shares_spectrum(&self, other: &Self) -> bool {
        self.frequency_hz.abs_diff(other.frequency_hz)
            < self.bandwidth_hz.saturating_add(other.bandwidth_hz) / 2
    }
}

/// Pauses between frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gaps {
    pub(super) timed: Duration,
    pub(super) immediate: Duration,
}

/// All reservations that may still matter.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    gaps: Gaps,
    entries: BTreeMap<TransmissionId, Reservation>,
    by_gateway: BTreeMap<GatewayEui, BTreeSet<TransmissionId>>,
    /// What they occupy, and how many do: a frame that many gateways send together counts once.
    stretches: BTreeMap<Stretch, u32>,
    by_end: BTreeSet<(Timestamp, TransmissionId)>,
}

/// A part of the spectrum for a while, whoever sends there. The frequency comes first, to look for neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stretch {
    frequency_hz: u32,
    bandwidth_hz: u32,
    start: Timestamp,
    end: Timestamp,
    immediate: bool,
}

/// Widest bandwidth of a frame.
const BANDWIDTH_MAX_HZ: u32 = 1_625_000;

/// Which other transmissions a frame has to keep clear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clearance {
    /// Those of its own gateway.
    OwnGateway,
    /// Those of its own gateway, and those of others on its frequency.
    Spectrum,
}

impl Schedule {
    pub(super) fn new(gaps: Gaps) -> Self {
        Self {
            gaps,
            entries: BTreeMap::new(),
            by_gateway: BTreeMap::new(),
            stretches: BTreeMap::new(),
            by_end: BTreeSet::new(),
        }
    }

    /// Whether nothing stands in the way of `wanted`.
    pub(super) fn is_free(&self, wanted: &Reservation, clearance: Clearance) -> bool {
        self.blocker(wanted, clearance).is_none()
    }

    /// The first start, not before that of `wanted`, at which nothing stands in the way.
    pub(super) fn earliest(&self, wanted: &Reservation, clearance: Clearance) -> Timestamp {
        let mut wanted = *wanted;
        let airtime = wanted.end.since(wanted.start);
        // Each turn passes one reservation for good.
        while let Some(blocker) = self.blocker(&wanted, clearance) {
            wanted.start = blocker.end + self.gap(&blocker, &wanted.stretch());
            wanted.end = wanted.start + airtime;
        }
        wanted.start
    }

    pub(super) fn reserve(&mut self, id: TransmissionId, reservation: Reservation) {
        self.release(id);
        self.entries.insert(id, reservation);
        let own = self.by_gateway.entry(reservation.gateway).or_default();
        own.insert(id);
        *self.stretches.entry(reservation.stretch()).or_default() += 1;
        self.by_end.insert((reservation.end, id));
    }

    pub(super) fn release(&mut self, id: TransmissionId) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.by_end.remove(&(entry.end, id));
        if let Some(own) = self.by_gateway.get_mut(&entry.gateway) {
            own.remove(&id);
        }
        let stretch = entry.stretch();
        if let Some(count) = self.stretches.get_mut(&stretch) {
            *count -= 1;
            if *count == 0 {
                self.stretches.remove(&stretch);
            }
        }
    }

    /// Drops what is over.
    pub(super) fn prune(&mut self, now: Timestamp) {
        let longest_gap = self.gaps.immediate.max(self.gaps.timed);
        while let Some(&(end, id)) = self.by_end.first()
            && end + longest_gap <= now
        {
            self.release(id);
        }
    }

    /// Something that stands in the way.
    fn blocker(&self, wanted: &Reservation, clearance: Clearance) -> Option<Stretch> {
        let here = wanted.stretch();
        let blocks = |entry: &Stretch| {
            let gap = self.gap(entry, &here);
            here.start < entry.end + gap && entry.start < here.end + gap
        };
        let own = self.by_gateway.get(&wanted.gateway).into_iter().flatten();
        let own = own.filter_map(|id| self.entries.get(id));
        if let Some(found) = own.map(Reservation::stretch).find(blocks) {
            return Some(found);
        }
        if clearance == Clearance::OwnGateway {
            return None;
        }
        let reach = here.bandwidth_hz.saturating_add(BANDWIDTH_MAX_HZ) / 2;
        let lowest = Stretch {
            frequency_hz: here.frequency_hz.saturating_sub(reach),
            bandwidth_hz: 0,
            start: Timestamp::from_micros(i64::MIN),
            end: Timestamp::from_micros(i64::MIN),
            immediate: false,
        };
        let highest_hz = here.frequency_hz.saturating_add(reach);
        let near = self.stretches.range(lowest..).map(|(stretch, _)| *stretch);
        near.take_while(|stretch| stretch.frequency_hz <= highest_hz)
            .find(|stretch| stretch.shares_spectrum(&here) && blocks(stretch))
    }

    fn gap(&self, one: &Stretch, other: &Stretch) -> Duration {
        if one.immediate || other.immediate {
            self.gaps.immediate
        } else {
            self.gaps.timed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_micros(ms * 1000)
    }

    fn frame(gateway: u64, start_ms: i64, end_ms: i64, frequency_hz: u32) -> Reservation {
        Reservation {
            gateway: GatewayEui(gateway),
            start: at(start_ms),
            end: at(end_ms),
            frequency_hz,
            bandwidth_hz: 125_000,
            immediate: false,
        }
    }

    fn schedule() -> Schedule {
        Schedule::new(Gaps {
            timed: Duration::from_millis(40),
            immediate: Duration::from_millis(80),
        })
    }

    #[test]
    fn a_frame_takes_the_first_gap_it_fits_in() {
        let mut schedule = schedule();
        schedule.reserve(TransmissionId(1), frame(1, 1000, 1100, 868_100_000));
        schedule.reserve(TransmissionId(2), frame(1, 1300, 1400, 868_100_000));
        let wanted = |length: i64| frame(1, 980, 980 + length, 869_525_000);
        assert_eq!(
            schedule.earliest(&wanted(120), Clearance::OwnGateway),
            at(1140)
        );
        assert_eq!(
            schedule.earliest(&wanted(121), Clearance::OwnGateway),
            at(1440)
        );
        schedule.release(TransmissionId(2));
        assert_eq!(
            schedule.earliest(&wanted(121), Clearance::OwnGateway),
            at(1140)
        );
    }

    #[test]
    fn frames_of_other_gateways_count_on_their_frequency_only() {
        let mut schedule = schedule();
        schedule.reserve(TransmissionId(1), frame(1, 1000, 1100, 868_100_000));
        let same = frame(2, 1050, 1150, 868_100_000);
        assert!(schedule.is_free(&same, Clearance::OwnGateway));
        assert_eq!(schedule.earliest(&same, Clearance::Spectrum), at(1140));
        let beside = frame(2, 1050, 1150, 868_300_000);
        assert!(schedule.is_free(&beside, Clearance::Spectrum));
    }

    #[test]
    fn frames_sent_at_once_keep_more_distance() {
        let mut schedule = schedule();
        let mut first = frame(1, 1000, 1100, 868_100_000);
        first.immediate = true;
        schedule.reserve(TransmissionId(1), first);
        let wanted = frame(1, 1100, 1200, 868_100_000);
        assert_eq!(schedule.earliest(&wanted, Clearance::OwnGateway), at(1180));
    }

    #[test]
    fn what_is_over_is_dropped() {
        let mut schedule = schedule();
        schedule.reserve(TransmissionId(1), frame(1, 1000, 1100, 868_100_000));
        schedule.prune(at(1179));
        assert_eq!(schedule.entries.len(), 1);
        schedule.prune(at(1180));
        assert!(schedule.entries.is_empty() && schedule.stretches.is_empty());
    }

    #[test]
    fn a_frame_of_many_gateways_is_one_stretch_until_the_last_of_them_is_gone() {
        let mut schedule = schedule();
        for gateway in 1..=3 {
            let id = TransmissionId(gateway);
            schedule.reserve(id, frame(gateway, 1000, 1100, 868_100_000));
        }
        assert_eq!(schedule.stretches.len(), 1);
        let wanted = frame(9, 1050, 1150, 868_100_000);
        schedule.release(TransmissionId(1));
        schedule.release(TransmissionId(1));
        schedule.release(TransmissionId(2));
        assert!(!schedule.is_free(&wanted, Clearance::Spectrum));
        schedule.release(TransmissionId(3));
        assert!(schedule.is_free(&wanted, Clearance::Spectrum));
    }
}
