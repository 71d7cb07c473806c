//! The air-time ledger: what each gateway spent in each sub-band over the last hour, and when there is room again.
//!
//! A frame is charged to the minute it ends in, and a minute counts until all of it is more than an hour old; so every
//! sliding hour holds at most what the ledger says. Future frames count for every earlier one too.

use std::collections::{BTreeMap, BTreeSet};

use crate::lorawan::identifiers::GatewayEui;
use crate::record::{AirLedger, Change};
use crate::time::Timestamp;

const MINUTE_US: i64 = 60_000_000;
/// An hour, and what the server's clock may be set forward by meanwhile.
const HOUR_US: i64 = 3_610_000_000;

/// Which ledger: a sub-band of a gateway.
pub(super) type LedgerKey = (GatewayEui, u8);

/// What was charged for one frame, to be given back if it certainly did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charge {
    key: LedgerKey,
    minute: i64,
    airtime_us: u64,
}

/// The ledgers of all gateways, and which of them changed since the last commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledgers {
    ledgers: BTreeMap<LedgerKey, AirLedger>,
    changed: BTreeSet<LedgerKey>,
}

impl Ledgers {
    pub(super) fn restore(ledgers: &[AirLedger]) -> Self {
        let keyed = ledgers
            .iter()
            .map(|ledger| ((ledger.gateway, ledger.sub_band), ledger.clone()));
        Self {
            ledgers: keyed.collect(),
            changed: BTreeSet::new(),
        }
    }

    /// The first end, not before `end`, of a frame of `airtime_us` that keeps the hour within `permille`; `None` if the
    /// frame alone is more than an hour allows.
    pub(super) fn earliest_end(
        &self,
        key: LedgerKey,
        permille: u16,
        airtime_us: u64,
        end: Timestamp,
    ) -> Option<Timestamp> {
        // An hour has 3 600 000 000 µs, a permille of which is 3 600 000.
        let limit_us = u64::from(permille) * 3_600_000;
        if airtime_us > limit_us {
            return None;
        }
        let Some(ledger) = self.ledgers.get(&key) else {
            return Some(end);
        };
        let counted = |minute: i64, at: i64| at < expiry_us(minute);
        let mut at = end.as_micros();
        let mut spent: u64 = ledger
            .minutes
            .iter()
            .filter(|&(&minute, _)| counted(minute, at))
            .fold(0, |sum, (_, us)| sum.saturating_add(*us));
        for (&minute, us) in &ledger.minutes {
            if spent.saturating_add(airtime_us) <= limit_us {
                break;
            }
            if counted(minute, at) {
                at = expiry_us(minute);
                spent = spent.saturating_sub(*us);
            }
        }
        Some(Timestamp::from_micros(at))
    }

    /// Charges a frame that ends at `end`, and forgets what no sliding hour after `now` can hold.
    pub(super) fn charge(
        &mut self,
        key: LedgerKey,
        airtime_us: u64,
        end: Timestamp,
        now: Timestamp,
    ) -> Charge {
        let minute = end.as_micros().div_euclid(MINUTE_US);
        let ledger = self.ledgers.entry(key).or_insert_with(|| AirLedger {
            gateway: key.0,
            sub_band: key.1,
            minutes: BTreeMap::new(),
        });
        ledger
            .minutes
            .retain(|&minute, us| *us > 0 && now.as_micros() < expiry_us(minute));
        let bucket = ledger.minutes.entry(minute).or_default();
        *bucket = bucket.saturating_add(airtime_us);
        self.changed.insert(key);
        Charge {
            key,
            minute,
            airtime_us,
        }
    }

    /// Gives back what a frame was charged that did not leave.
    pub(super) fn credit(&mut self, charge: Charge) {
        let bucket = self
            .ledgers
            .get_mut(&charge.key)
            .and_then(|ledger| ledger.minutes.get_mut(&charge.minute));
        if let Some(bucket) = bucket {
            *bucket = bucket.saturating_sub(charge.airtime_us);
            self.changed.insert(charge.key);
        }
    }

    /// All of them, as they stand.
    pub(super) fn all(&self) -> Vec<AirLedger> {
        self.ledgers.values().cloned().collect()
    }

    pub(super) fn take_changes(&mut self, changes: &mut Vec<Change>) {
        for key in std::mem::take(&mut self.changed) {
            changes.extend(self.ledgers.get(&key).cloned().map(Change::PutAirLedger));
        }
    }
}

/// The first microsecond from which a minute counts no more.
fn expiry_us(minute: i64) -> i64 {
    minute
        .saturating_add(1)
        .saturating_mul(MINUTE_US)
        .saturating_add(HOUR_US)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: LedgerKey = (GatewayEui(1), 4);

    fn at(us: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 / MINUTE_US * MINUTE_US + us)
    }

    #[test]
    fn an_exhausted_band_recovers_after_an_hour() {
        let mut ledgers = Ledgers::default();
        // One percent of an hour is 36 s.
        for second in 0..36 {
            let end = at(second * 1_000_000 + 1_000_000);
            assert_eq!(ledgers.earliest_end(KEY, 10, 1_000_000, end), Some(end));
            ledgers.charge(KEY, 1_000_000, end, end);
        }
        let next = at(40_000_000);
        let free = ledgers.earliest_end(KEY, 10, 1_000_000, next).unwrap();
        assert_eq!(free, at(MINUTE_US + HOUR_US));
        // Another band of the same gateway is not touched, nor the same band of another gateway.
        assert_eq!(
            ledgers.earliest_end((KEY.0, 5), 10, 1_000_000, next),
            Some(next)
        );
        assert_eq!(
            ledgers.earliest_end((GatewayEui(2), 4), 10, 1, next),
            Some(next)
        );
    }

    #[test]
    fn a_refused_frame_is_given_back() {
        let mut ledgers = Ledgers::default();
        let charge = ledgers.charge(KEY, 36_000_000, at(0), at(0));
        assert_ne!(ledgers.earliest_end(KEY, 10, 1, at(1)), Some(at(1)));
        ledgers.credit(charge);
        assert_eq!(
            ledgers.earliest_end(KEY, 10, 36_000_000, at(1)),
            Some(at(1))
        );
    }

    #[test]
    fn a_frame_longer_than_the_whole_allowance_never_fits() {
        assert_eq!(
            Ledgers::default().earliest_end(KEY, 1, 3_600_001, at(0)),
            None
        );
    }

    #[test]
    fn what_is_restored_counts() {
        let mut ledgers = Ledgers::default();
        ledgers.charge(KEY, 36_000_000, at(0), at(0));
        let mut changes = Vec::new();
        ledgers.take_changes(&mut changes);
        let [Change::PutAirLedger(ledger)] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        let restored = Ledgers::restore(std::slice::from_ref(ledger));
        assert_eq!(
            restored.earliest_end(KEY, 10, 1, at(1)),
            Some(at(MINUTE_US + HOUR_US))
        );
    }

    proptest! {
        #[test]
        fn no_sliding_hour_holds_more_than_allowed(
            frames in proptest::collection::vec((0i64..600_000_000, 1u64..20_000_000), 1..200)
        ) {
            let mut ledgers = Ledgers::default();
            let mut sent: Vec<(i64, i64)> = Vec::new();
            let mut now = at(0);
            for (pause, airtime_us) in frames {
                now = Timestamp::from_micros(now.as_micros() + pause);
                let airtime = i64::try_from(airtime_us).unwrap();
                let wanted = Timestamp::from_micros(now.as_micros() + airtime);
                let end = ledgers.earliest_end(KEY, 10, airtime_us, wanted).unwrap();
                ledgers.charge(KEY, airtime_us, end, now);
                sent.push((end.as_micros() - airtime, end.as_micros()));
            }
            for &(_, hour_end) in &sent {
                let hour_start = hour_end - HOUR_US;
                let on_air: i64 = sent
                    .iter()
                    .map(|&(start, end)| (end.min(hour_end) - start.max(hour_start)).max(0))
                    .sum();
                prop_assert!(on_air <= 36_000_000, "{on_air}");
            }
        }
    }
}
