//! The relation between a gateway's microsecond counter and server time, learnt from the frames it forwards.
//!
//! A message arrives some delay after its counter value; the smallest delay seen is taken for none. So that the
//! relation follows the gateway's crystal, the smallest delay is forgotten at 50 ppm. Not a synchronisation: the
//! one-way delay of the best message stays in it.

use std::time::Duration;

use crate::time::Timestamp;

/// A message later than this says the counter was set anew.
const JUMP_US: i64 = 3_000_000;
/// The counter turns round every 71.6 minutes: beyond half of that a difference is ambiguous.
const AMBIGUOUS: Duration = Duration::from_secs(30 * 60);
/// How long the relation holds without a frame: at 50 ppm it is 30 ms off by then.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// Largest drift followed: one microsecond in so many (50 ppm).
const DRIFT_DIVISOR: i64 = 20_000;

/// Counter against server time, of one gateway.
#[derive(Clone, Debug, Default)]
pub(super) struct CounterClock {
    anchor: Option<Anchor>,
}

#[derive(Clone, Copy, Debug)]
struct Anchor {
    counter: u32,
    at: Timestamp,
    last_sample: Timestamp,
    /// False right after a jump: one late message looks like a restart, two that agree are one.
    trusted: bool,
}

impl Anchor {
    fn time_of(&self, counter: u32) -> Timestamp {
        let ahead = i64::from(counter.wrapping_sub(self.counter).cast_signed());
        Timestamp::from_micros(self.at.as_micros().saturating_add(ahead))
    }
}

impl CounterClock {
    /// Takes in that a frame ended at `counter` and its message arrived at `at`.
    pub(super) fn observe(&mut self, counter: u32, at: Timestamp) {
        let fresh = |trusted| Anchor {
            counter,
            at,
            last_sample: at,
            trusted,
        };
        let usable = self
            .anchor
            .as_mut()
            .filter(|anchor| at.since(anchor.at) < AMBIGUOUS);
        let Some(anchor) = usable else {
            self.anchor = Some(fresh(true));
            return;
        };
        let delay = at.micros_since(anchor.time_of(counter));
        if delay.abs() > JUMP_US {
            *anchor = fresh(false);
        } else if delay <= at.micros_since(anchor.at).max(0) / DRIFT_DIVISOR {
            *anchor = fresh(true);
        } else {
            anchor.trusted = true;
            anchor.last_sample = at;
        }
    }

    /// Forgets the relation: the gateway has shown that it does not hold.
    pub(super) fn invalidate(&mut self) {
        self.anchor = None;
    }

    /// Server time of a counter value of a message that arrived at `at`; never later than that.
    pub(super) fn time_of(&self, counter: u32, at: Timestamp) -> Timestamp {
        match &self.anchor {
            Some(anchor) if anchor.trusted => anchor.time_of(counter).min(at),
            _ => at,
        }
    }

    /// The counter at a moment near `now`; `None` when the relation is unknown or old.
    pub(super) fn counter_at(&self, moment: Timestamp, now: Timestamp) -> Option<u32> {
        let anchor = self
            .anchor
            .filter(|anchor| anchor.trusted && now.since(anchor.last_sample) <= FRESH)?;
        let ahead = moment.micros_since(anchor.at).rem_euclid(1 << 32);
        Some(anchor.counter.wrapping_add(u32::try_from(ahead).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + us)
    }

    #[test]
    fn the_smallest_delay_wins() {
        let mut clock = CounterClock::default();
        clock.observe(1_000, at(50_000));
        clock.observe(1_001_000, at(1_010_000));
        clock.observe(2_001_000, at(2_090_000));
        // The second message was 40 ms faster than the first, the third 80 ms slower than the second.
        assert_eq!(
            clock.counter_at(at(3_010_000), at(3_000_000)),
            Some(3_001_000)
        );
        assert_eq!(clock.time_of(2_001_000, at(2_090_000)), at(2_010_000));
    }

    #[test]
    fn the_counter_wraps() {
        let mut clock = CounterClock::default();
        clock.observe(u32::MAX - 99, at(0));
        assert_eq!(clock.counter_at(at(1_000), at(0)), Some(900));
        clock.observe(900, at(1_500));
        assert_eq!(clock.time_of(900, at(1_500)), at(1_000));
    }

    #[test]
    fn a_restart_is_believed_when_two_messages_agree() {
        let mut clock = CounterClock::default();
        clock.observe(900_000_000, at(0));
        clock.observe(5_000_000, at(10_000_000));
        assert_eq!(clock.counter_at(at(11_000_000), at(10_000_000)), None);
        clock.observe(6_000_000, at(11_000_000));
        assert_eq!(
            clock.counter_at(at(12_000_000), at(11_000_000)),
            Some(7_000_000)
        );
    }

    #[test]
    fn the_relation_gets_old_and_can_be_forgotten() {
        let mut clock = CounterClock::default();
        clock.observe(0, at(0));
        let later = at(0) + FRESH;
        assert!(clock.counter_at(later, later).is_some());
        assert_eq!(
            clock.counter_at(later, later + Duration::from_secs(1)),
            None
        );
        clock.invalidate();
        assert_eq!(clock.counter_at(at(1), at(1)), None);
        assert_eq!(clock.time_of(77, at(1)), at(1));
    }

    #[test]
    fn a_slow_crystal_is_followed() {
        let mut clock = CounterClock::default();
        // 20 ppm slow: in 1000 s the counter falls 20 ms behind.
        for second in 0..=1000u32 {
            clock.observe(second * 999_980, at(i64::from(second) * 1_000_000));
        }
        let counter = clock
            .counter_at(at(1_000_000_000), at(1_000_000_000))
            .unwrap();
        assert!(counter.abs_diff(999_980_000) < 100, "{counter}");
    }
}
