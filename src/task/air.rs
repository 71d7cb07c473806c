//! What the duty cycle allows: when frames can leave that several sessions send through the same gateways, and what a
//! gateway has left for the hours to come.
//!
//! The rule is the one the air-time ledger keeps: a frame counts in the minute it ends in until all of that minute is
//! more than an hour old, and no hour holds more than the sub-band's share of it. So a gateway that was idle sends at
//! full speed until its allowance is spent, and at the pace of the duty cycle after that. Frames on one frequency never
//! overlap, whatever gateway sends them, and a gateway keeps the share of its air that its operator allows.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::region::{Region, SubBand};
use crate::record::{AirLedger, GatewaySettings};
use crate::time::Timestamp;

use super::sizing;

const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 3_600_000_000;
/// Air of an hour per permille.
const HOUR_PERMILLE_US: u64 = 3_600_000;
/// Frames after which a forecast looks no further ahead.
const MOST_STEPS: usize = 2_000_000;

/// Air time of a gateway in one sub-band over the last hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    minutes: VecDeque<(i64, u64)>,
    sum_us: u64,
}

impl Spent {
    /// As the ledger has it.
    pub fn of(ledger: &AirLedger) -> Self {
        let mut spent = Self::default();
        for (minute, us) in ledger.minutes.iter().filter(|(_, us)| **us > 0) {
            spent.minutes.push_back((*minute, *us));
            spent.sum_us = spent.sum_us.saturating_add(*us);
        }
        spent
    }

    /// What counts at a moment, microseconds.
    pub fn at(&self, at: Timestamp) -> u64 {
        let counted = self.minutes.iter();
        let counted = counted.filter(|(minute, _)| at.as_micros() < expiry_us(*minute));
        counted.map(|(_, us)| us).sum()
    }

    /// The first end, not before `end`, of a frame that keeps the hour; `None` if it alone is more than that. Time
    /// never goes back between two calls.
    fn earliest_end(&mut self, end: i64, airtime_us: u64, permille: u16) -> Option<i64> {
        let limit = u64::from(permille) * HOUR_PERMILLE_US;
        if airtime_us > limit {
            return None;
        }
        let mut at = end;
        while let Some((minute, us)) = self.minutes.front().copied() {
            let expiry = expiry_us(minute);
            if at < expiry {
                if self.sum_us.saturating_add(airtime_us) <= limit {
                    break;
                }
                at = expiry;
            }
            self.sum_us = self.sum_us.saturating_sub(us);
            self.minutes.pop_front();
        }
        Some(at)
    }

    /// Charges a frame.
    fn charge(&mut self, end: i64, airtime_us: u64) {
        let minute = end.div_euclid(MINUTE_US);
        self.sum_us = self.sum_us.saturating_add(airtime_us);
        match self.minutes.back_mut() {
            Some((last, us)) if *last >= minute => *us = us.saturating_add(airtime_us),
            _ => self.minutes.push_back((minute, airtime_us)),
        }
    }

    /// Charges air that is spent evenly from one moment to another, such as that of a set-up.
    pub fn charge_evenly(&mut self, from: Timestamp, to: Timestamp, airtime: Duration) {
        let (first, last) = (minute_of(from), minute_of(to).max(minute_of(from)));
        let count = u64::try_from(last - first + 1).unwrap_or(1);
        let each = micros(airtime).div_ceil(count);
        let mut minutes: BTreeMap<i64, u64> = self.minutes.iter().copied().collect();
        for minute in (first..=last).take(2 * 24 * 60) {
            *minutes.entry(minute).or_default() += each;
        }
        self.minutes = minutes.into_iter().collect();
        self.sum_us = self.minutes.iter().map(|(_, us)| us).sum();
    }
}

/// A session as far as the air is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Sending {
    /// The first frame leaves then.
    pub start: Timestamp,
    /// Frames; each gateway sends all of them.
    pub frames: u32,
    /// Air time of one.
    pub airtime: Duration,
    /// Frequency.
    pub frequency_hz: u32,
    /// Share of time in its sub-band, permille.
    pub permille: u16,
    /// Where in `gateways` and ledgers its gateways are.
    pub senders: Vec<usize>,
}

/// One gateway while a forecast runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sender {
    /// What it spent in the sub-band.
    pub spent: Spent,
    /// Share of its air it may use, permille.
    pub share_permille: u16,
    /// When it is free again, and when its share allows another frame.
    free: i64,
    paced: i64,
}

impl Sender {
    /// A gateway that sends nothing now.
    pub fn new(spent: Spent, share_permille: u16) -> Self {
        Self {
            spent,
            share_permille: share_permille.clamp(1, 1000),
            free: i64::MIN,
            paced: i64::MIN,
        }
    }
}

/// When the last frame of each session ends. `None`: its frames are longer than an hour allows, or the air is so
/// short that no end is in sight. The senders are those of all sessions, and remember what was sent.
pub fn ends(sessions: &[Sending], senders: &mut [Sender]) -> Vec<Option<Timestamp>> {
    let gap = micros_i64(sizing::FRAME_GAP);
    let mut spectrum: BTreeMap<u32, i64> = BTreeMap::new();
    let mut next: Vec<Option<i64>> = sessions.iter().map(|s| Some(s.start.as_micros())).collect();
    let mut left: Vec<u32> = sessions.iter().map(|s| s.frames).collect();
    let mut last: Vec<Option<Timestamp>> = sessions.iter().map(|s| Some(s.start)).collect();
    for _ in 0..MOST_STEPS {
        // The session whose turn it is: the one that waited longest.
        let turn = (0..sessions.len())
            .filter(|at| left[*at] > 0)
            .filter_map(|at| Some((next[at]?, at)))
            .min();
        let Some((from, at)) = turn else {
            return last;
        };
        let session = &sessions[at];
        let airtime_us = micros_i64(session.airtime);
        let cost = micros(session.airtime);
        let mut end_of_frame = Some(from);
        for sender in &session.senders {
            let Some((sender, start)) = senders.get_mut(*sender).zip(end_of_frame) else {
                break;
            };
            let on_air = spectrum.entry(session.frequency_hz).or_insert(i64::MIN);
            let start = start.max(*on_air).max(sender.free).max(sender.paced);
            let Some(end) = sender
                .spent
                .earliest_end(start + airtime_us, cost, session.permille)
            else {
                end_of_frame = None;
                break;
            };
            sender.spent.charge(end, cost);
            sender.free = end + gap;
            sender.paced = end - airtime_us + airtime_us * 1000 / i64::from(sender.share_permille);
            *on_air = end + gap;
            end_of_frame = Some(end);
        }
        if session.senders.is_empty() {
            end_of_frame = Some(from + airtime_us + gap);
        }
        left[at] -= 1;
        next[at] = end_of_frame;
        last[at] = end_of_frame.map(Timestamp::from_micros);
    }
    for (at, end) in last.iter_mut().enumerate() {
        if left[at] > 0 {
            *end = None;
        }
    }
    last
}

/// A gateway's air in one sub-band, for people: what a plan uses of it.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayAir {
    /// The gateway.
    pub gateway: GatewayEui,
    /// The sub-band.
    pub sub_band: SubBand,
    /// Share of the sub-band's allowance the operator leaves to the server, permille of time.
    pub share_permille: u16,
    /// Frames of sessions, expected.
    pub multicast: Duration,
    /// Set-up, checks and clean-up by unicast, expected.
    pub unicast: Duration,
    /// Spent in the hour before the moment of asking.
    pub spent: Duration,
    /// What the duty cycle allows between the beginning of set-up and the expected end.
    pub allowed: Duration,
}

impl GatewayAir {
    /// Share of what the duty cycle allows that the plan takes, permille; more than 1000 does not fit.
    pub fn load_permille(&self) -> u32 {
        let used = micros(self.multicast + self.unicast);
        let allowed = micros(self.allowed).max(1);
        u32::try_from(used.saturating_mul(1000) / allowed).unwrap_or(u32::MAX)
    }
}

/// What a sub-band allows a gateway that had spent `spent`, in a time of this length: each hour its share, the first
/// hour less what was spent before.
pub fn allowance(
    permille: u16,
    share_permille: u16,
    spent: Duration,
    length: Duration,
) -> Duration {
    let permille = u32::from(permille.min(share_permille).max(1));
    let hour = Duration::from_micros(HOUR_PERMILLE_US) * permille;
    // The hour's allowance may be spent at once, and comes back evenly.
    let allowed = hour + length * permille / 1000;
    allowed.saturating_sub(spent).min(length)
}

/// How long it takes until so much air could be spent.
pub fn time_for(airtime: Duration, permille: u16, spent: Duration) -> Duration {
    let hour = Duration::from_micros(HOUR_PERMILLE_US) * u32::from(permille.max(1));
    let beyond = (airtime + spent).saturating_sub(hour);
    airtime.max(beyond * 1000 / u32::from(permille.max(1)))
}

/// The sub-band of a frame, and what share of time may be used there.
pub fn band_of(region: Region, frequency_hz: u32, data_rate: u8) -> Option<SubBand> {
    let rate = region.data_rate(data_rate, Direction::Downlink)?;
    region.sub_band(frequency_hz, rate.bandwidth_hz())
}

/// What a gateway spent in a sub-band.
pub fn spent_of(ledgers: &[AirLedger], gateway: GatewayEui, band: &SubBand) -> Spent {
    let ledger = ledgers
        .iter()
        .find(|l| l.gateway == gateway && l.sub_band == band.id);
    ledger.map(Spent::of).unwrap_or_default()
}

/// The share of its air an operator leaves to the server, permille.
pub fn share_of(gateways: &[GatewaySettings], gateway: GatewayEui) -> u16 {
    let settings = gateways.iter().find(|g| g.eui == gateway);
    settings.map_or(1000, |g| g.air_share_permille.clamp(1, 1000))
}

fn expiry_us(minute: i64) -> i64 {
    minute
        .saturating_add(1)
        .saturating_mul(MINUTE_US)
        .saturating_add(HOUR_US)
}

fn minute_of(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(MINUTE_US)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn micros_i64(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn sending(frames: u32, permille: u16, senders: Vec<usize>) -> Sending {
        Sending {
            start: START,
            frames,
            airtime: Duration::from_millis(1000),
            frequency_hz: 869_525_000,
            permille,
            senders,
        }
    }

    fn idle(count: usize) -> Vec<Sender> {
        vec![Sender::new(Spent::default(), 1000); count]
    }

    fn seconds(end: Option<Timestamp>) -> u64 {
        end.unwrap().since(START).as_secs()
    }

    #[test]
    fn an_idle_gateway_sends_at_full_speed_until_its_hour_is_spent() {
        // 10 % of an hour is 360 s.
        let within = ends(&[sending(360, 100, vec![0])], &mut idle(1));
        assert_eq!(seconds(within[0]), 375);
        let beyond = ends(&[sending(361, 100, vec![0])], &mut idle(1));
        assert!(seconds(beyond[0]) >= 3600, "{beyond:?}");
        let unlimited = ends(&[sending(361, 1000, vec![0])], &mut idle(1));
        assert_eq!(seconds(unlimited[0]), 376);
    }

    #[test]
    fn what_was_spent_counts() {
        let mut ledger = AirLedger {
            gateway: GatewayEui(1),
            sub_band: 4,
            minutes: BTreeMap::new(),
        };
        ledger.minutes.insert(minute_of(START) - 10, 300_000_000);
        let mut senders = [Sender::new(Spent::of(&ledger), 1000)];
        // 60 s are left; after 50 minutes all of it.
        let end = seconds(ends(&[sending(100, 100, vec![0])], &mut senders)[0]);
        assert!((49 * 60..53 * 60).contains(&end), "{end}");
        assert_eq!(Spent::of(&ledger).at(START), 300_000_000);
        let later = START + Duration::from_secs(7200);
        assert_eq!(Spent::of(&ledger).at(later), 0);
    }

    #[test]
    fn gateways_of_a_session_take_turns_and_so_do_sessions() {
        let two = ends(&[sending(100, 1000, vec![0, 1])], &mut idle(2));
        assert_eq!(seconds(two[0]), 208);
        let side_by_side = [sending(100, 1000, vec![0]), sending(100, 1000, vec![1])];
        let both = ends(&side_by_side, &mut idle(2));
        assert!(
            seconds(both[0]) >= 207 && seconds(both[1]) >= 207,
            "{both:?}"
        );
    }

    #[test]
    fn a_share_of_the_air_stretches_it() {
        let mut senders = [Sender::new(Spent::default(), 250)];
        let end = seconds(ends(&[sending(100, 1000, vec![0])], &mut senders)[0]);
        assert_eq!(end, 397);
    }

    #[test]
    fn a_frame_longer_than_an_hour_allows_never_ends() {
        let mut long = sending(1, 1, vec![0]);
        long.airtime = Duration::from_secs(4);
        assert_eq!(ends(&[long], &mut idle(1)), [None]);
    }

    #[test]
    fn allowances_and_times_fit_together() {
        let hour = Duration::from_secs(3600);
        let none = Duration::ZERO;
        assert_eq!(allowance(100, 1000, none, hour).as_secs(), 720);
        assert_eq!(allowance(100, 1000, hour / 10, hour).as_secs(), 360);
        assert_eq!(allowance(1000, 1000, none, hour), hour);
        assert_eq!(allowance(1000, 300, none, hour).as_secs(), 2160);
        assert_eq!(time_for(Duration::from_secs(10), 10, none).as_secs(), 10);
        assert_eq!(time_for(Duration::from_secs(72), 10, none).as_secs(), 3600);
    }
}
