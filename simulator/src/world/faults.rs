//! What can go wrong in a world: one struct, drawn rarely, each part of which can be switched off by its name.

use std::time::Duration;

use crate::channel::Bursts;
use crate::random::Random;

/// What can go wrong in a world, apart from the steady loss of its fleet. The default is a world without faults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Probability that a commit fails without having written.
    pub commit_fails: f64,
    /// Probability that a commit fails although it has written.
    pub commit_fails_late: f64,
    /// Probability that the server dies before a commit.
    pub crash_before_commit: f64,
    /// Probability that the server dies after a commit, before anything of its step has left.
    pub crash_after_commit: f64,
    /// Probability that a gateway's `TX_ACK` is lost on its way.
    pub ack_lost: f64,
    /// How long a server that died is away.
    pub restart_after: Duration,
    /// Once in mid-task the server is away for so long, a window and more; zero: never.
    pub away: Duration,
    /// Loss in bursts, on top of the steady one: each link has a good and a bad state (Gilbert and Elliott).
    pub bursts: Option<Bursts>,
    /// Gateways that fall silent.
    pub outages: Option<Outages>,
    /// Probability that a gateway refuses a frame (`TOO_LATE` or `COLLISION_PACKET`).
    pub refused: f64,
    /// Probability that a frame from a gateway reaches the server twice.
    pub repeated: f64,
    /// Probability that a frame from a gateway is held up on its way, so that later ones overtake it.
    pub held_up: f64,
    /// How long at most.
    pub held_up_for: Duration,
    /// Devices' clocks run fast or slow by up to so many microseconds per second.
    pub drift_ppm: i32,
    /// Probability that the clock of a device is stepped, once, in mid-task.
    pub device_steps: f64,
    /// By how much at most, either way.
    pub device_step: Duration,
    /// The server's clock is stepped by up to so much: forward now and then, either way at a restart.
    pub server_step: Duration,
    /// Probability that a device reboots in mid-task and loses its memory: session, groups, fragments, time.
    pub resets: f64,
    /// Probability that a device vanishes in mid-task, for good.
    pub vanish: f64,
    /// Devices answer commands up to so much late.
    pub slow_answers: Duration,
}

/// How gateways fall silent: they hear nothing, and answer nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outages {
    /// Between two outages of a gateway, in the mean.
    pub every: Duration,
    /// How long one lasts, in the mean.
    pub lasts: Duration,
    /// All gateways fall silent together.
    pub all: bool,
    /// A gateway loses power: what it was to send is gone, and its counter starts anew. Otherwise only its line is cut,
    /// and it sends what it holds.
    pub power: bool,
}

/// A part of [`Faults`] by its name.
type Part = (&'static str, fn(&mut Faults));

/// The parts that can be switched off, by name.
const PARTS: [Part; 14] = [
    ("commits", |f| {
        f.commit_fails = 0.0;
        f.commit_fails_late = 0.0;
    }),
    ("crashes", |f| {
        f.crash_before_commit = 0.0;
        f.crash_after_commit = 0.0;
    }),
    ("away", |f| f.away = Duration::ZERO),
    ("acks", |f| f.ack_lost = 0.0),
    ("bursts", |f| f.bursts = None),
    ("outages", |f| f.outages = None),
    ("refusals", |f| f.refused = 0.0),
    ("repeats", |f| f.repeated = 0.0),
    ("delays", |f| f.held_up = 0.0),
    ("drift", |f| f.drift_ppm = 0),
    ("steps", |f| {
        f.device_steps = 0.0;
        f.server_step = Duration::ZERO;
    }),
    ("resets", |f| f.resets = 0.0),
    ("vanish", |f| f.vanish = 0.0),
    ("slow", |f| f.slow_answers = Duration::ZERO),
];

impl Faults {
    /// Adds the faults of a seed to those of the server's own: each kind in one world of six, as it comes in the field.
    pub fn strike(&mut self, seed: u64) {
        let mut random = Random::of(seed, 0xfa02);
        let rare = |random: &mut Random| random.chance(1.0 / 6.0);
        let seconds = |random: &mut Random, from: u64, to: u64| {
            Duration::from_secs(from + random.below(to - from + 1))
        };
        if rare(&mut random) {
            self.bursts = Some(Bursts {
                every: seconds(&mut random, 20, 120),
                lasts: seconds(&mut random, 1, 8),
                loss: 0.9,
            });
        }
        if rare(&mut random) {
            self.outages = Some(Outages {
                every: seconds(&mut random, 120, 900),
                lasts: seconds(&mut random, 5, 90),
                all: random.chance(0.5),
                power: random.chance(0.5),
            });
        }
        if rare(&mut random) {
            self.refused = 0.02 + 0.01 * f64::from(u32::try_from(random.below(14)).unwrap_or(0));
        }
        if rare(&mut random) {
            self.repeated = 0.3;
        }
        if rare(&mut random) {
            self.held_up = 0.1;
            self.held_up_for = Duration::from_millis(100 + random.below(3000));
        }
        if rare(&mut random) {
            self.drift_ppm = i32::try_from(20 + random.below(180)).unwrap_or(0);
        }
        if rare(&mut random) {
            self.device_steps = 0.5;
            self.device_step = seconds(&mut random, 1, 5);
        }
        if rare(&mut random) {
            self.server_step = Duration::from_millis(100 + random.below(1400));
        }
        if rare(&mut random) {
            self.resets = 0.4;
        }
        if rare(&mut random) {
            self.vanish = 0.3;
        }
        if rare(&mut random) {
            self.slow_answers = seconds(&mut random, 2, 12);
        }
        if rare(&mut random) {
            self.away = seconds(&mut random, 60, 600);
        }
    }

    /// The server may take a gateway's counter for another than it is, and so send earlier or later than it thinks.
    pub fn misleads_about_gateways(&self) -> bool {
        self.held_up > 0.0
            || !self.server_step.is_zero()
            || self.outages.is_some_and(|outages| outages.power)
    }

    /// Names of the parts that can be switched off.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PARTS.iter().map(|(name, _)| *name)
    }

    /// Switches a part off; false if there is none of this name.
    pub fn without(&mut self, name: &str) -> bool {
        let part = PARTS.iter().find(|(known, _)| *known == name);
        if let Some((_, switch_off)) = part {
            switch_off(self);
        }
        part.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_all_its_parts_nothing_is_left() {
        for seed in 0..200 {
            let mut faults = Faults {
                commit_fails: 0.1,
                crash_after_commit: 0.1,
                ack_lost: 0.1,
                ..Faults::default()
            };
            faults.strike(seed);
            assert!(Faults::names().all(|name| faults.without(name)));
            // What is left says how strong a fault would be that does not strike.
            faults.held_up_for = Duration::ZERO;
            faults.device_step = Duration::ZERO;
            assert_eq!(faults, Faults::default());
        }
        assert!(!Faults::default().without("nothing of the kind"));
    }

    #[test]
    fn each_part_strikes_in_some_world() {
        for name in Faults::names().filter(|n| !["commits", "crashes", "acks"].contains(n)) {
            let strikes = |seed| {
                let mut faults = Faults::default();
                faults.strike(seed);
                let mut without = faults;
                without.without(name);
                faults != without
            };
            let hits = (0..600).filter(|seed| strikes(*seed)).count();
            assert!((50..250).contains(&hits), "{name}: {hits}");
        }
    }
}
