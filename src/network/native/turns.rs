//! Which gateways of a group send a frame together, and when.
//!
//! Gateways that one device hears must not send over each other, except the same frame at the same GPS instant, which
//! receivers take for one. Gateways that no device of the group hears both of may send at the same time. All others
//! take turns. A class B frame starts in a ping slot of its group, at all gateways alike (LoRaWAN 1.0.4 §12).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::air::{Air, Emission, Start};
use crate::lorawan::class_b::{self, PingSlotPeriodicity};
use crate::lorawan::identifiers::{DevAddr, GatewayEui};
use crate::record::{DeviceClass, McGroup, Refusal};
use crate::time::{GpsTime, Timestamp};

/// Gateways that send one frame together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) gateways: Vec<GatewayEui>,
    /// At a GPS instant rather than by their counters.
    pub(super) by_gps: bool,
}

/// What gateways can be told of when to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    /// A GPS instant.
    pub(super) gps: BTreeSet<GatewayEui>,
    /// A value of their counter; the others send at once.
    pub(super) counter: BTreeSet<GatewayEui>,
}

/// The gateways of a group in the order they send a frame.
pub(super) fn turns(group: &McGroup, able: &Abilities) -> VecDeque<Turn> {
    let all = || group.gateways.iter().copied();
    if group.class == DeviceClass::B {
        return VecDeque::from([Turn {
            gateways: all().collect(),
            by_gps: true,
        }]);
    }
    let (timed, others): (Vec<GatewayEui>, Vec<GatewayEui>) =
        all().partition(|g| able.gps.contains(g));
    let mut turns = VecDeque::new();
    let others = if timed.len() > 1 {
        turns.push_back(Turn {
            gateways: timed,
            by_gps: true,
        });
        others
    } else {
        all().collect()
    };
    let mut numbered: BTreeMap<u8, Vec<GatewayEui>> = BTreeMap::new();
    let mut alone = Vec::new();
    for gateway in others {
        let number = group.turns.get(&gateway);
        match number.filter(|_| able.counter.contains(&gateway)) {
            Some(number) => numbered.entry(*number).or_default().push(gateway),
            None => alone.push(vec![gateway]),
        }
    }
    turns.extend(numbered.into_values().chain(alone).map(|gateways| Turn {
        gateways,
        by_gps: false,
    }));
    turns
}

/// A frame to be started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) emission: &'a Emission,
    /// Not before.
    pub(super) from: Timestamp,
    /// Pointless after.
    pub(super) deadline: Timestamp,
    /// When it could first have been handed over.
    pub(super) asked_at: Timestamp,
    /// Class B: when the group listens.
    pub(super) slots: Option<(DevAddr, PingSlotPeriodicity)>,
}

/// The first moment at which all gateways of a turn can start a frame. Gateways that cannot at all are returned with
/// the reason, and are not waited for; so is every gateway when the deadline comes first.
pub(super) fn common_start(
    now: Timestamp,
    air: &Air,
    turn: &Turn,
    wanted: &Wanted<'_>,
) -> Result<Start, Vec<(GatewayEui, Refusal)>> {
    let mut at = wanted.from.max(now);
    let mut scheduled = at;
    // Each round passes a slot, a reservation or a minute of a ledger for good.
    loop {
        at = aligned(at, turn, wanted);
        if at > wanted.deadline {
            let refusal = if scheduled > wanted.deadline {
                Refusal::TooLate
            } else {
                Refusal::NoAirTime
            };
            let all = turn.gateways.iter();
            return Err(all.map(|gateway| (*gateway, refusal)).collect());
        }
        let starts = turn.gateways.iter().map(|gateway| {
            let start = if turn.by_gps {
                air.earliest_by_gps(now, *gateway, wanted.emission, at, wanted.asked_at)
            } else {
                air.earliest(now, *gateway, wanted.emission, at, wanted.asked_at, true)
            };
            start.map_err(|refusal| (*gateway, refusal))
        });
        let (good, bad): (Vec<_>, Vec<_>) = starts.partition(Result::is_ok);
        let bad: Vec<(GatewayEui, Refusal)> = bad.into_iter().filter_map(Result::err).collect();
        if !bad.is_empty() {
            return Err(bad);
        }
        let starts: Vec<Start> = good.into_iter().filter_map(Result::ok).collect();
        let latest = starts.iter().map(|start| start.at).max().unwrap_or(at);
        scheduled = starts
            .iter()
            .map(|s| s.scheduled)
            .fold(scheduled, Timestamp::max);
        let alone = starts.len() <= 1 && !turn.by_gps && latest <= wanted.deadline;
        if latest == at || alone {
            let hand_over_at = starts.iter().map(|s| s.hand_over_at).min();
            return Ok(Start {
                at: latest,
                scheduled,
                hand_over_at: hand_over_at.unwrap_or(latest),
                timed: starts.iter().all(|start| start.timed),
            });
        }
        at = latest;
    }
}

/// The first moment, not before `at`, that may be named to a gateway: of a ping slot in class B, a whole millisecond of
/// GPS time, or any.
fn aligned(at: Timestamp, turn: &Turn, wanted: &Wanted<'_>) -> Timestamp {
    if let Some((address, periodicity)) = wanted.slots {
        return slot(at, wanted.emission.airtime(), address, periodicity);
    }
    if turn.by_gps {
        let micros = at.to_gps().as_micros();
        let past = micros.rem_euclid(1_000);
        let up = if past == 0 { 0 } else { 1_000 - past };
        return GpsTime::from_micros(micros.saturating_add(up)).to_unix();
    }
    at
}

/// The first ping slot, not before `at`, in which a frame ends before the guard of the next beacon.
fn slot(
    at: Timestamp,
    airtime: Duration,
    address: DevAddr,
    periodicity: PingSlotPeriodicity,
) -> Timestamp {
    let mut after = GpsTime::from_micros(at.to_gps().as_micros().saturating_sub(1));
    // The slots left in this beacon period may all be too late; the first of the next one is not.
    for _ in 0..=class_b::PING_SLOTS_PER_BEACON {
        let slot = class_b::next_ping_slot(after, address, periodicity);
        let guard = (class_b::beacon_start(slot).to_unix() + class_b::BEACON_PERIOD)
            - class_b::BEACON_GUARD;
        let start = slot.to_unix();
        if start + airtime <= guard {
            return start;
        }
        after = slot;
    }
    after.to_unix()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(class: DeviceClass, gateways: u64) -> McGroup {
        McGroup {
            session: crate::record::SessionId {
                task: crate::record::TaskId("task".to_owned()),
                number: 0,
            },
            mc_addr: DevAddr(0x0100_0001),
            mc_key: crate::lorawan::keys::Key128::from_bytes([7; 16]),
            next_mc_f_cnt: 0,
            region: crate::lorawan::region::Region::Eu868,
            class,
            frequency_hz: 869_525_000,
            data_rate: 3,
            gateways: (1..=gateways).map(GatewayEui).collect(),
            ping_slots: None,
            turns: BTreeMap::new(),
            kept: None,
        }
    }

    fn shape(turns: &VecDeque<Turn>) -> Vec<(Vec<u64>, bool)> {
        let euis = |turn: &Turn| turn.gateways.iter().map(|g| g.0).collect();
        turns.iter().map(|turn| (euis(turn), turn.by_gps)).collect()
    }

    #[test]
    fn gateways_take_turns_unless_they_cannot_meet() {
        let mut group = group(DeviceClass::C, 4);
        let nobody = Abilities::default();
        let timed = Abilities {
            counter: group.gateways.iter().copied().collect(),
            ..Abilities::default()
        };
        assert_eq!(turns(&group, &nobody).len(), 4);
        group.turns = [(1, 0), (2, 1), (3, 0)]
            .map(|(eui, turn)| (GatewayEui(eui), turn))
            .into();
        assert_eq!(
            shape(&turns(&group, &timed)),
            [(vec![1, 3], false), (vec![2], false), (vec![4], false)]
        );
        assert_eq!(
            turns(&group, &nobody).len(),
            4,
            "who sends at once sends alone"
        );
    }

    #[test]
    fn gateways_with_gps_send_at_one_instant() {
        let group = group(DeviceClass::C, 4);
        let with_gps = |gateways: &[u64]| Abilities {
            gps: gateways.iter().copied().map(GatewayEui).collect(),
            ..Abilities::default()
        };
        let gps = with_gps(&[2, 4]);
        assert_eq!(
            shape(&turns(&group, &gps)),
            [(vec![2, 4], true), (vec![1], false), (vec![3], false)]
        );
        let one = with_gps(&[2]);
        assert!(turns(&group, &one).iter().all(|turn| !turn.by_gps));
    }

    #[test]
    fn class_b_is_one_turn() {
        let group = group(DeviceClass::B, 3);
        assert_eq!(
            shape(&turns(&group, &Abilities::default())),
            [(vec![1, 2, 3], true)]
        );
    }

    #[test]
    fn a_slot_leaves_room_before_the_guard() {
        let beacon = class_b::beacon_start(GpsTime::from_seconds(1_400_000_000));
        let periodicity = PingSlotPeriodicity::default();
        let last = GpsTime::from_micros(beacon.as_micros() + 122_000_000).to_unix();
        let long = Duration::from_secs(4);
        let start = slot(last, long, DevAddr(0x0100_0001), periodicity);
        let next = beacon.to_unix() + class_b::BEACON_PERIOD;
        assert!(start > next + class_b::BEACON_RESERVED - Duration::from_millis(1));
        let short = slot(
            last,
            Duration::from_millis(50),
            DevAddr(0x0100_0001),
            periodicity,
        );
        assert!(short < next);
        assert_eq!(short.to_gps().as_micros() % 1_000, 0);
    }
}
