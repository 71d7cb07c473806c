//! Watches what one transmitter does against the rules of its region: bands, duty cycle, power, dwell time.
//!
//! PURE, and apart from any ledger of the server: it sees only frames that were on air. Duty cycles are counted over a
//! sliding hour (ETSI EN 300 220-1 §5.4), to the microsecond.

use std::collections::VecDeque;
use std::time::Duration;

use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::region::{Region, SubBand};
use lorawan_fuota::time::Timestamp;

use crate::gateway::OnAir;

/// Over what duty cycles are counted.
const DUTY_CYCLE_WINDOW: Duration = Duration::from_secs(3600);

/// A rule of the region that a transmission broke.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breach {
    /// When.
    pub at: Timestamp,
    /// Where, in Hz.
    pub frequency_hz: u32,
    /// What.
    pub rule: Rule,
}

/// Rules that are watched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Outside all sub-bands.
    OutOfBand,
    /// More than the sub-band's share within an hour.
    DutyCycle {
        /// Time on air within the hour that ends with the frame.
        used: Duration,
        /// What is allowed.
        allowed: Duration,
    },
    /// Radiated power above the sub-band's limit.
    Power {
        /// Radiated, in dBm EIRP.
        eirp_dbm: f32,
        /// Allowed, in dBm EIRP.
        limit_dbm: f32,
    },
    /// Longer than a frame may be.
    DwellTime,
}

/// The watch over one transmitter.
#[derive(Clone, Debug)]
pub struct RuleWatch {
    region: Region,
    antenna_gain_db: i8,
    bands: Vec<BandWatch>,
    breaches: Vec<Breach>,
}

#[derive(Clone, Debug)]
struct BandWatch {
    band: SubBand,
    /// Frames that ended within the last hour.
    frames: VecDeque<(Timestamp, Timestamp)>,
    used: Duration,
}

impl RuleWatch {
    /// A watch that has seen nothing. `antenna_gain_db` is what antenna and cable add to the conducted power.
    pub fn new(region: Region, antenna_gain_db: i8) -> Self {
        let bands = region.sub_bands().iter().map(|&band| BandWatch {
            band,
            frames: VecDeque::new(),
            used: Duration::ZERO,
        });
        Self {
            region,
            antenna_gain_db,
            bands: bands.collect(),
            breaches: Vec::new(),
        }
    }

    /// Rules that were broken, in order.
    pub fn breaches(&self) -> &[Breach] {
        &self.breaches
    }

    /// Counts a frame. Frames come in order of their start and do not overlap.
    pub fn count(&mut self, frame: &OnAir) {
        let width = frame.data_rate.bandwidth_hz();
        let eirp_dbm = f32::from(frame.power_dbm) + f32::from(self.antenna_gain_db);
        let band = self
            .bands
            .iter_mut()
            .find(|watch| watch.band.holds(frame.frequency_hz, width));
        let mut rules = Vec::new();
        match band {
            None => rules.push(Rule::OutOfBand),
            Some(watch) => {
                let limit_dbm = watch.band.max_eirp_dbm;
                if eirp_dbm > limit_dbm {
                    rules.push(Rule::Power {
                        eirp_dbm,
                        limit_dbm,
                    });
                }
                rules.extend(watch.count(frame));
            }
        }
        let dwell_limit = self.region.dwell_limit_us(Direction::Downlink, false);
        let air_time = frame.end.since(frame.start);
        if dwell_limit.is_some_and(|limit| air_time > Duration::from_micros(limit.into())) {
            rules.push(Rule::DwellTime);
        }
        self.breaches.extend(rules.into_iter().map(|rule| Breach {
            at: frame.start,
            frequency_hz: frame.frequency_hz,
            rule,
        }));
    }
}

impl BandWatch {
    /// Counts a frame; the breach, if the hour that ends with it holds too much.
    fn count(&mut self, frame: &OnAir) -> Option<Rule> {
        let permille = u32::from(self.band.duty_cycle_permille);
        if permille >= 1000 {
            return None;
        }
        self.frames.push_back((frame.start, frame.end));
        self.used += frame.end.since(frame.start);
        let from = frame.end - DUTY_CYCLE_WINDOW;
        while let Some(&(start, end)) = self.frames.front()
            && end <= from
        {
            self.used = self.used.saturating_sub(end.since(start));
            self.frames.pop_front();
        }
        // Of the oldest frame only the part within the hour counts.
        let outside = self
            .frames
            .front()
            .map_or(Duration::ZERO, |&(start, _)| from.since(start));
        let used = self.used.saturating_sub(outside);
        let allowed = DUTY_CYCLE_WINDOW * permille / 1000;
        (used > allowed).then_some(Rule::DutyCycle { used, allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn frame(start: Timestamp, air_time: Duration, frequency_hz: u32, power_dbm: i8) -> OnAir {
        OnAir {
            start,
            end: start + air_time,
            frequency_hz,
            data_rate: Region::Eu868.data_rate(5, Direction::Downlink).unwrap(),
            phy_payload: vec![0],
            power_dbm,
            beacon: false,
        }
    }

    #[test]
    fn the_last_microsecond_breaks_the_duty_cycle() {
        let rx2 = |at, air_time| frame(at, air_time, 869_525_000, 27);
        for (last, breaches) in [(0, 0), (1, 1)] {
            let mut watch = RuleWatch::new(Region::Eu868, 0);
            for n in 0..36 {
                watch.count(&rx2(START + SECOND * 20 * n, SECOND * 10));
            }
            assert_eq!(watch.breaches().len(), 0, "360 s are allowed");
            // The first frame leaves the hour as fast as this one fills it.
            let one_more = SECOND * 5 + Duration::from_micros(last);
            watch.count(&rx2(START + SECOND * 3600, one_more));
            assert_eq!(watch.breaches().len(), 0);
            // Half of it had left when this one begins, and it leaves while it lasts.
            let end = START + SECOND * 3610;
            let fits = SECOND * 5 - Duration::from_micros(last);
            watch.count(&rx2(end - fits, fits + Duration::from_micros(last)));
            assert_eq!(watch.breaches().len(), breaches);
        }
    }

    #[test]
    fn an_hour_later_all_is_forgotten() {
        let mut watch = RuleWatch::new(Region::Eu868, 0);
        watch.count(&frame(START, SECOND * 37, 868_100_000, 14));
        assert!(matches!(
            watch.breaches(),
            [Breach {
                rule: Rule::DutyCycle { .. },
                ..
            }]
        ));
        watch.count(&frame(START + SECOND * 3637, SECOND * 36, 868_100_000, 14));
        assert_eq!(watch.breaches().len(), 1);
    }

    #[test]
    fn power_counts_the_antenna() {
        let rules = |antenna_gain_db, frequency_hz, power_dbm| {
            let mut watch = RuleWatch::new(Region::Eu868, antenna_gain_db);
            watch.count(&frame(START, SECOND, frequency_hz, power_dbm));
            let rules: Vec<Rule> = watch.breaches().iter().map(|breach| breach.rule).collect();
            rules
        };
        assert_eq!(rules(0, 869_525_000, 29), []);
        assert_eq!(rules(0, 868_100_000, 16), []);
        assert!(matches!(
            rules(0, 868_100_000, 17)[..],
            [Rule::Power { .. }]
        ));
        assert!(matches!(
            rules(3, 868_100_000, 14)[..],
            [Rule::Power { .. }]
        ));
        assert_eq!(rules(0, 868_650_000, 14), [Rule::OutOfBand]);
    }
}
