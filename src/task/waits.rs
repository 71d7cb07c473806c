//! How long conversations take with devices that speak only now and then, as distributions.
//!
//! A command leaves as the answer to an uplink, and its answer is an uplink that carries the next one. So a chain of
//! commands takes the wait for the first uplink, a few seconds for each command, and another uplink interval for each
//! command that is lost or whose answer is. Losses are taken as independent, uplinks as regular.

use std::time::Duration;

/// Intervals beyond which a wait is not looked at.
const HORIZON: u32 = 64;

/// The wait of one device for a chain of commands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waits {
    /// Time between two uplinks.
    pub interval: Duration,
    /// Commands of the chain.
    pub commands: u32,
    /// Probability that a command is not answered, 0..1.
    pub miss: f64,
    /// Uplinks in the chain that come at a moment unknown, 0 to 2: the first one, where none was just heard, and those
    /// after a reboot.
    pub unknown: u8,
    /// What passes whatever is lost.
    pub least: Duration,
}

impl Waits {
    /// Probability that it takes `time` at most.
    pub fn within(&self, time: Duration) -> f64 {
        let Some(over) = time.checked_sub(self.least) else {
            return 0.0;
        };
        let intervals = over.as_secs_f64() / self.interval.as_secs_f64().max(1e-3);
        let (mut whole, mut waited) = (0u32, 0.0);
        let mut misses = self.no_misses();
        while whole < HORIZON && f64::from(whole) + 1.0 <= intervals {
            waited += misses * self.come_within(intervals - f64::from(whole));
            whole += 1;
            misses = self.next(misses, whole);
        }
        (waited + misses * self.come_within(intervals - f64::from(whole))).min(1.0)
    }

    /// Probability that the uplinks that come at any moment of an interval take so many intervals at most together.
    fn come_within(&self, intervals: f64) -> f64 {
        let x = intervals.clamp(0.0, 2.0);
        match self.unknown {
            0 => 1.0,
            1 => x.min(1.0),
            _ if x < 1.0 => x * x / 2.0,
            _ => 1.0 - (2.0 - x) * (2.0 - x) / 2.0,
        }
    }

    /// Probability that no command is missed.
    fn no_misses(&self) -> f64 {
        let commands = i32::try_from(self.commands).unwrap_or(i32::MAX);
        (1.0 - self.miss.clamp(0.0, 0.95)).powi(commands)
    }

    /// From the probability of `misses - 1` misses to that of `misses`, before the last command is answered.
    fn next(&self, before: f64, misses: u32) -> f64 {
        let miss = self.miss.clamp(0.0, 0.95);
        before * miss * f64::from(self.commands + misses - 1) / f64::from(misses)
    }
}

/// The time within which all of `waits` are over with the probability `chance` (0..1).
pub fn all_within(waits: &[Waits], chance: f64) -> Duration {
    let most = waits.iter().map(|w| w.least + w.interval * HORIZON).max();
    let done = |time: Duration| -> f64 {
        let each = waits.iter().map(|w| w.within(time).max(f64::MIN_POSITIVE));
        each.map(f64::ln).sum()
    };
    let wanted = chance.clamp(1e-6, 1.0 - 1e-6).ln();
    let (mut low, mut high) = (Duration::ZERO, most.unwrap_or_default());
    for _ in 0..40 {
        let middle = (low + high) / 2;
        if done(middle) < wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn waits(commands: u32, miss: f64) -> Waits {
        Waits {
            interval: MINUTE,
            commands,
            miss,
            unknown: 1,
            least: Duration::from_secs(5),
        }
    }

    #[test]
    fn without_loss_it_is_the_wait_for_an_uplink() {
        let wait = waits(3, 0.0);
        assert!(wait.within(Duration::from_secs(4)) <= 0.0);
        assert!((wait.within(Duration::from_secs(35)) - 0.5).abs() < 1e-9);
        assert!((wait.within(Duration::from_secs(65)) - 1.0).abs() < 1e-9);
        // Of twenty devices the last one comes near the end of the interval.
        let all = all_within(&[wait; 20], 0.5);
        assert!((60..=65).contains(&all.as_secs()), "{all:?}");
    }

    #[test]
    fn every_command_missed_costs_an_interval() {
        // One command, half of them missed: one of two waits needs another interval, one of four a third.
        let wait = waits(1, 0.5);
        assert!((wait.within(Duration::from_secs(65)) - 0.5).abs() < 1e-9);
        assert!((wait.within(Duration::from_secs(125)) - 0.75).abs() < 1e-9);
        let two = waits(2, 0.5);
        assert!((two.within(Duration::from_secs(65)) - 0.25).abs() < 1e-9);
        assert!((two.within(Duration::from_secs(125)) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_chain_that_goes_on_needs_no_first_wait() {
        let wait = Waits {
            unknown: 0,
            ..waits(2, 0.1)
        };
        assert!((wait.within(Duration::from_secs(5)) - 0.81).abs() < 1e-9);
        assert_eq!(all_within(&[], 0.9), Duration::ZERO);
    }

    #[test]
    fn two_uplinks_at_unknown_moments_take_up_to_two_intervals() {
        let wait = Waits {
            unknown: 2,
            ..waits(1, 0.0)
        };
        let within = |seconds: u64| wait.within(Duration::from_secs(5 + seconds));
        assert!((within(60) - 0.5).abs() < 1e-9);
        assert!((within(30) - 0.125).abs() < 1e-9);
        assert!((within(120) - 1.0).abs() < 1e-9);
    }
}
