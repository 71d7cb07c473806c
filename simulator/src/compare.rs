//! Our distribution beside the rules of other systems, on the same fleets and the same losses: frames, air time,
//! duration, share of devices updated, energy, and what breaks the law.
//!
//! Ours is the production code in virtual time. The others are models of two rules: how many coded fragments are sent,
//! fixed before the start, and how far apart frames are. A device that completes with the n-th fragment of our run
//! completes with the n-th of theirs, if they send that many. Their devices listen to the last frame, since nobody
//! tells them to stop; ours until the server knows that they are complete.

use std::fmt::Write as _;
use std::time::Duration;

use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::region::Region;

use crate::bound::expected_frames_mixed;
use crate::device::{RadioTime, StackProfile};
use crate::energy::PowerProfile;
use crate::fleet::Stacks;
use crate::redundancy::{
    Answers, Frames, Measured, ROWS, Row, Size, mean, measure_many, parts, whole,
};

/// The radio settings compared: without a duty cycle, with one at a fast rate, and at a slow one.
pub const SETTINGS: [Setting; 3] = [
    Setting {
        name: "US915 DR13",
        frames: frames(Region::Us915, 13, 239),
    },
    Setting {
        name: "EU868 DR5",
        frames: frames(Region::Eu868, 5, 239),
    },
    Setting {
        name: "EU868 DR0",
        frames: frames(Region::Eu868, 0, 48),
    },
];

/// What the frames are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name in the table.
    pub name: &'static str,
    /// Region, rate, fragment size.
    pub frames: Frames,
}

const fn frames(region: Region, data_rate: u8, frag_size: u8) -> Frames {
    Frames {
        region,
        data_rate,
        frag_size,
    }
}

/// The rules of a system that decides before the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Name in the table.
    pub name: &'static str,
    /// Coded fragments.
    pub coded: Coded,
    /// Between the starts of two frames.
    pub pace: Pace,
}

/// How many coded fragments are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coded {
    /// So many.
    Count(u32),
    /// Share of the uncoded ones.
    Percent(u32),
}

/// How far apart frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Always so far.
    Fixed(Duration),
    /// The least whole number of seconds that keeps the duty cycle.
    LegalSeconds,
    /// As close as the gateway and the duty cycle let them be.
    Legal,
}

/// The systems compared with. ChirpStack adds its class C margin of 5 s to each frame, whatever its air time, and its
/// documented example has one coded fragment; AWS IoT Core takes intervals of whole seconds and up to 100 % of coded
/// fragments. Neither documents a share to choose.
pub const RULES: [Rules; 6] = [
    rules(
        "ChirpStack defaults",
        Coded::Count(1),
        Pace::Fixed(Duration::from_secs(5)),
    ),
    rules("AWS, 10 %", Coded::Percent(10), Pace::LegalSeconds),
    rules("AWS, 50 %", Coded::Percent(50), Pace::LegalSeconds),
    rules("fixed 10 %", Coded::Percent(10), Pace::Legal),
    rules("fixed 30 %", Coded::Percent(30), Pace::Legal),
    rules("fixed 50 %", Coded::Percent(50), Pace::Legal),
];

const fn rules(name: &'static str, coded: Coded, pace: Pace) -> Rules {
    Rules { name, coded, pace }
}

/// Size of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompareSize {
    /// Uncoded fragments.
    pub nb_frag: u32,
    /// Devices.
    pub devices: u32,
    /// Runs of each fleet and setting.
    pub seeds: u64,
}

/// What a system came to; means over runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Whose.
    pub system: &'static str,
    /// Frames on air for the group.
    pub frames: f64,
    /// Their time on air.
    pub airtime: Duration,
    /// From the first frame to the last.
    pub duration: Duration,
    /// Share of devices with the whole image, 0..=1.
    pub updated: f64,
    /// Radio energy of a device while it listened, joules; `None` for a bound.
    pub joules: Option<f64>,
    /// Air time in the worst hour as a multiple of what the duty cycle allows; 0 where there is none.
    pub of_duty_cycle: f64,
}

impl Standing {
    /// More is sent in an hour than the law allows.
    pub fn breaks_the_law(&self) -> bool {
        self.of_duty_cycle > 1.001
    }
}

/// One fleet under one setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The setting.
    pub setting: &'static str,
    /// The fleet.
    pub fleet: &'static str,
    /// Ours first, then the bound, then the others.
    pub standings: Vec<Standing>,
    /// Properties our runs broke.
    pub violations: Vec<String>,
}

/// The name of our own line.
pub const OURS: &str = "lorawan-fuota";
/// The name of the bound's line.
pub const BOUND: &str = "least possible";
const HOUR: Duration = Duration::from_secs(3600);
/// A forwarder leaves so much between two frames.
const FRAME_GAP: Duration = Duration::from_micros(42_500);
/// `DataFragment` in a frame: 13 bytes of MAC, 3 of the command.
const OVERHEAD: u8 = 16;

/// Compares one fleet under one setting.
///
/// # Panics
/// A world cannot be set up; that is a defect of the simulator.
pub fn compare(setting: &Setting, row: &Row, size: CompareSize) -> Comparison {
    let measured_with = Size {
        nb_frag: size.nb_frag,
        devices: size.devices,
        stacks: Stacks::One(StackProfile::SpecV1),
        answers: Answers::default(),
        frames: setting.frames,
    };
    let runs = measure_many(row, measured_with, 1..size.seeds.saturating_add(1));
    let air = Air::of(setting.frames);
    let bound = expected_frames_mixed(size.nb_frag, &parts(row, size.devices));
    let mut standings = vec![ours(&runs, air), least(bound, air)];
    standings.extend(RULES.iter().map(|rules| theirs(rules, size, &runs, air)));
    Comparison {
        setting: setting.name,
        fleet: row.name,
        standings,
        violations: runs.into_iter().flat_map(|run| run.violations).collect(),
    }
}

/// All settings and fleets.
pub fn compare_all(size: CompareSize) -> impl Iterator<Item = Comparison> {
    let pairs = SETTINGS
        .iter()
        .flat_map(|setting| ROWS.iter().map(move |row| (setting, row)));
    pairs.map(move |(setting, row)| compare(setting, row, size))
}

/// The table's head, in Markdown.
pub fn head() -> String {
    "| setting | fleet, loss | system | frames | on air s | duration min | updated | energy J | duty cycle |\n\
     |---|---|---|---:|---:|---:|---:|---:|---|\n"
        .to_owned()
}

/// The lines of one comparison, in Markdown.
pub fn lines(comparison: &Comparison) -> String {
    let mut out = String::new();
    for standing in &comparison.standings {
        let law = if standing.breaks_the_law() {
            format!("**broken, {:.0} %**", standing.of_duty_cycle * 100.0)
        } else if standing.of_duty_cycle > 0.0 {
            "kept".to_owned()
        } else {
            "none".to_owned()
        };
        let joules = standing
            .joules
            .map_or_else(String::new, |j| format!("{j:.1}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.0} | {:.0} | {:.1} | {:.2} % | {joules} | {law} |",
            comparison.setting,
            comparison.fleet,
            standing.system,
            standing.frames,
            standing.airtime.as_secs_f64(),
            standing.duration.as_secs_f64() / 60.0,
            standing.updated * 100.0,
        );
    }
    out
}

/// A frame of a setting on air.
#[derive(Clone, Copy, Debug)]
struct Air {
    airtime: Duration,
    /// Share of an hour that may be sent, 0..=1.
    share: f64,
}

impl Air {
    fn of(frames: Frames) -> Self {
        let (region, index) = (frames.region, frames.data_rate);
        let rate = region.data_rate(index, Direction::Downlink);
        let length = frames.frag_size.saturating_add(OVERHEAD);
        let us = rate.map_or(0, |rate| rate.time_on_air_us(length, Direction::Downlink));
        let width = rate.map_or(125_000, |rate| rate.bandwidth_hz());
        let band = region.sub_band(region.rx2().0, width);
        let permille = band.map_or(1000, |band| band.duty_cycle_permille);
        Self {
            airtime: Duration::from_micros(us.into()),
            share: f64::from(permille) / 1000.0,
        }
    }

    fn has_duty_cycle(self) -> bool {
        self.share < 1.0
    }

    /// Between two frames at the pace of the law.
    fn legal_interval(self) -> Duration {
        (self.airtime + FRAME_GAP).max(self.airtime.div_f64(self.share))
    }

    /// How long so many frames take if the hour's share may be spent at once, and its pace is kept after that.
    fn soonest(self, frames: f64) -> Duration {
        let at_once = (self.share * HOUR.as_secs_f64() / self.airtime.as_secs_f64()).floor();
        let gap = (self.airtime + FRAME_GAP).as_secs_f64();
        let hours = if self.has_duty_cycle() {
            (frames / at_once.max(1.0)).ceil() - 1.0
        } else {
            0.0
        };
        let rest = frames - hours * at_once;
        let rest = if self.has_duty_cycle() { rest } else { frames };
        Duration::from_secs_f64((hours * HOUR.as_secs_f64() + rest * gap).max(0.0))
    }

    /// Air time of the worst hour, as a multiple of what is allowed.
    fn of_duty_cycle(self, frames: f64, interval: Duration) -> f64 {
        if !self.has_duty_cycle() {
            return 0.0;
        }
        let in_an_hour = frames.min(HOUR.as_secs_f64() / interval.as_secs_f64());
        in_an_hour * self.airtime.as_secs_f64() / (self.share * HOUR.as_secs_f64())
    }
}

fn ours(runs: &[Measured], air: Air) -> Standing {
    let seconds = |of: &dyn Fn(&Measured) -> Duration| {
        Duration::from_secs_f64(mean(runs, &|run| of(run).as_secs_f64()))
    };
    let listening = seconds(&|run| run.listening);
    Standing {
        system: OURS,
        frames: mean(runs, &|run| whole(run.frames)),
        airtime: seconds(&|run| run.airtime),
        duration: seconds(&|run| run.elapsed),
        updated: mean(runs, &|run| whole(run.updated) / whole(run.devices.max(1))),
        joules: Some(listening_joules(listening)),
        // A checker of each world looks at every hour; what it finds fails the run.
        of_duty_cycle: if air.has_duty_cycle() { 1.0 } else { 0.0 },
    }
}

fn least(frames: f64, air: Air) -> Standing {
    Standing {
        system: BOUND,
        frames,
        airtime: air.airtime.mul_f64(frames),
        duration: air.soonest(frames),
        updated: 1.0,
        joules: None,
        of_duty_cycle: if air.has_duty_cycle() { 1.0 } else { 0.0 },
    }
}

fn theirs(rules: &Rules, size: CompareSize, runs: &[Measured], air: Air) -> Standing {
    let coded = match rules.coded {
        Coded::Count(count) => count,
        Coded::Percent(percent) => size.nb_frag * percent / 100,
    };
    let sent = u64::from(size.nb_frag + coded);
    let frames = whole(sent);
    let interval = match rules.pace {
        Pace::Fixed(interval) => interval,
        Pace::Legal => air.legal_interval(),
        Pace::LegalSeconds => Duration::from_secs_f64(air.legal_interval().as_secs_f64().ceil()),
    };
    let duration = interval.mul_f64(frames - 1.0) + air.airtime;
    let updated = mean(runs, &|run| {
        let done = run.completions.partition_point(|n| *n <= sent);
        whole(u64::try_from(done).unwrap_or(u64::MAX)) / whole(run.devices.max(1))
    });
    Standing {
        system: rules.name,
        frames,
        airtime: air.airtime.mul_f64(frames),
        duration,
        updated,
        joules: Some(listening_joules(duration)),
        of_duty_cycle: air.of_duty_cycle(frames, interval),
    }
}

fn listening_joules(listening: Duration) -> f64 {
    let radio = RadioTime {
        sending: Duration::ZERO,
        receiving: listening,
    };
    PowerProfile::RADIO.joules(listening, radio)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: CompareSize = CompareSize {
        nb_frag: 60,
        devices: 12,
        seeds: 1,
    };

    fn standing<'a>(comparison: &'a Comparison, system: &str) -> &'a Standing {
        let mut all = comparison.standings.iter();
        all.find(|s| s.system == system).unwrap()
    }

    #[test]
    fn a_fixed_share_fails_where_rounds_do_not() {
        let compared = compare(&SETTINGS[0], &ROWS[2], SIZE);
        assert_eq!(compared.violations, Vec::<String>::new());
        let ours = standing(&compared, OURS);
        assert!((ours.updated - 1.0).abs() < 1e-9, "{ours:?}");
        assert!(standing(&compared, "ChirpStack defaults").updated < 0.01);
        assert!(standing(&compared, "fixed 10 %").updated < 0.5);
        // 5 s for each frame, whatever it takes on air.
        let slow = standing(&compared, "ChirpStack defaults");
        assert!(
            slow.duration > Duration::from_secs(300) && slow.duration < Duration::from_secs(301)
        );
        assert!(lines(&compared).lines().count() == compared.standings.len());
    }

    #[test]
    fn a_pace_that_does_not_know_the_data_rate_breaks_the_law() {
        let slow = Air::of(SETTINGS[2].frames);
        // 2.79 s every 5 s are 56 % of an hour; 10 % are allowed.
        let of_duty_cycle = slow.of_duty_cycle(1000.0, Duration::from_secs(5));
        assert!((5.5..5.7).contains(&of_duty_cycle), "{of_duty_cycle}");
        assert!(slow.of_duty_cycle(1000.0, slow.legal_interval()) <= 1.000_001);
        // Few enough frames are no matter.
        assert!(slow.of_duty_cycle(100.0, Duration::from_secs(1)) < 1.0);
        let free = Air::of(SETTINGS[0].frames);
        assert!(free.of_duty_cycle(1e6, Duration::from_secs(1)) <= 0.0);
    }

    #[test]
    fn the_soonest_end_spends_the_hour_at_once() {
        let slow = Air::of(SETTINGS[2].frames);
        // 128 frames are an hour's share: 6 minutes of air.
        let within = slow.soonest(128.0);
        assert!((355.0..365.0).contains(&within.as_secs_f64()), "{within:?}");
        let beyond = slow.soonest(150.0);
        assert!(
            (3600.0..3700.0).contains(&beyond.as_secs_f64()),
            "{beyond:?}"
        );
    }
}
