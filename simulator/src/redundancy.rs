//! What a distribution costs beside the least it could cost: the production code in virtual time, against a sender that
//! knows at every moment who still needs something, and against redundancy fixed before the start.
//!
//! One world per row and seed: one gateway, the whole fleet in one group, loss on the way to the devices, no answer
//! lost and none in collision. All policies are measured on the same run, so on the same losses: the perfect sender
//! stops with the frame that completes the last device, a fixed one after its share of coded fragments. `frames`
//! counts everything on air for the group: uncoded and coded fragments, polls, repair sessions.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::{DeviceState, TaskDevice, TaskId};
use lorawan_fuota::time::Timestamp;

use crate::bound::expected_frames_mixed;
use crate::channel::Link;
use crate::check::CheckOptions;
use crate::device::{EndDevice, StackProfile};
use crate::fleet::{Fleet, FleetOptions, Stacks};
use crate::lab::Lab;
use crate::scene::Scene;
use crate::world::World;

/// A fleet to measure with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Name in the table.
    pub name: &'static str,
    /// Share of the fleet, and the share of frames it loses.
    pub parts: &'static [(f64, f64)],
}

/// The fleets of the table.
pub const ROWS: [Row; 4] = [
    Row {
        name: "1 %",
        parts: &[(1.0, 0.01)],
    },
    Row {
        name: "10 %",
        parts: &[(1.0, 0.1)],
    },
    Row {
        name: "30 %",
        parts: &[(1.0, 0.3)],
    },
    Row {
        name: "90 % at 1 %, 9 % at 10 %, 1 % at 50 %",
        parts: &[(0.9, 0.01), (0.09, 0.1), (0.01, 0.5)],
    },
];

/// Size of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Uncoded fragments.
    pub nb_frag: u32,
    /// Devices.
    pub devices: u32,
    /// The devices' stacks.
    pub stacks: Stacks,
    /// What becomes of the devices' answers.
    pub answers: Answers,
    /// What the frames are like.
    pub frames: Frames,
}

/// What the frames of a distribution are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Regional parameters.
    pub region: Region,
    /// Data rate index.
    pub data_rate: u8,
    /// Bytes of a fragment.
    pub frag_size: u8,
}

impl Default for Frames {
    /// The count of frames does not depend on their size, the time to simulate does.
    fn default() -> Self {
        Self {
            region: Region::Us915,
            data_rate: 13,
            frag_size: 40,
        }
    }
}

/// What becomes of answers on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Share of all uplinks lost, percent.
    pub lost_percent: u8,
    /// Uplinks on one channel and data rate at one time destroy each other.
    pub collide: bool,
}

impl Answers {
    /// In words.
    pub fn name(self) -> String {
        let collide = if self.collide { ", collide" } else { "" };
        match self.lost_percent {
            0 if self.collide => "collide".to_owned(),
            0 => "all come".to_owned(),
            percent => format!("{percent} % lost{collide}"),
        }
    }
}

/// One run of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Frames on air for the group.
    pub frames: u64,
    /// Of them polls.
    pub polls: u64,
    /// Frames a sender that knows everything would have sent on the same losses.
    pub perfect: u64,
    /// Devices that run the new version.
    pub updated: u64,
    /// Devices of the fleet.
    pub devices: u64,
    /// Number of the fragment that completed each device, rising; only of those completed.
    pub completions: Vec<u64>,
    /// Rounds of coded fragments, the first pass among them.
    pub rounds: u64,
    /// Status answers that came.
    pub answers: u64,
    /// Time on air of the frames for the group.
    pub airtime: Duration,
    /// From the start of the window to the last fragment.
    pub elapsed: Duration,
    /// Mean over the devices: from the start of the window until it is known that they have everything.
    pub listening: Duration,
    /// Properties broken, in words.
    pub violations: Vec<String>,
}

/// From the start of the task to its window: time enough to set up everybody.
const SETUP: Duration = Duration::from_secs(36 * 3600);
/// Between two uplinks of a device: during its receive windows it is deaf for its group.
const UPLINK_INTERVAL: Duration = Duration::from_secs(3600);
/// Every run ends within a week of virtual time.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// Shares of coded fragments of the senders that decide before the start.
const FIXED_PERCENT: [u64; 4] = [5, 10, 30, 50];

/// Runs a row once.
///
/// # Panics
/// The world cannot be set up at all; that is a defect of the simulator.
pub fn measure(row: &Row, size: Size, seed: u64) -> Measured {
    let mut options = CheckOptions {
        fleet: FleetOptions {
            seed,
            devices: size.devices,
            gateways: 1,
            loss: 0.0,
            region: size.frames.region,
            data_rate: size.frames.data_rate,
            uplink_interval: UPLINK_INTERVAL,
            stacks: size.stacks,
        },
        window_after: Some(SETUP),
        ..CheckOptions::default()
    };
    let frame = Fleet::new(options.fleet).image(&[]);
    let length = usize::from(size.frames.frag_size) * usize::try_from(size.nb_frag).unwrap_or(0);
    options.image_bytes = length.saturating_sub(frame.map_or(0, |empty| empty.len()));
    let mut scene = Scene::new(&options);
    let parts = parts(row, size.devices);
    scene
        .world
        .lab_mut(|lab| set_losses(lab, &scene.fleet, &parts, size.answers));
    // Everybody joins before the task is ordered.
    scene.world.run_until(UPLINK_INTERVAL * 2, |_| false);
    let mut task = scene.draft();
    task.options.frag_size = Some(size.frames.frag_size);
    scene.start(&task).expect("the task fits its fleet");
    let id = &task.id;
    let ended = scene.world.run_until(LONGEST, |w| w.is_over(id));
    let mut violations: Vec<String> = scene
        .world
        .violations()
        .into_iter()
        .map(|v| v.what)
        .collect();
    if !ended {
        violations.push("the task has not ended within a week".to_owned());
    }
    evaluate(&scene.world, id, violations)
}

fn evaluate(world: &World, id: &TaskId, violations: Vec<String>) -> Measured {
    let frames: Vec<Timestamp> =
        world.checkers(|c| c.fragments().iter().map(|fragment| fragment.at).collect());
    let sessions = world.sessions(id);
    let devices = world.task_devices(id);
    let counters = world.task(id).map(|t| t.counters).unwrap_or_default();
    let window = sessions.iter().map(|s| s.window.start).min();
    let window = window.unwrap_or_default();
    let mut completions: Vec<u64> = world.lab(|lab| {
        let done = lab.devices().filter_map(EndDevice::block_completed_at);
        done.map(|at| count(frames.partition_point(|start| *start < at)))
            .collect()
    });
    completions.sort_unstable();
    use DeviceState::{Rebooting, ReportedReceived, Running, Verified};
    let known = |d: &TaskDevice| {
        // Where answers are not enough, the device's own check or its new version is what tells.
        let first = [ReportedReceived, Verified, Rebooting, Running]
            .iter()
            .find_map(|state| d.entered.get(state));
        first.map_or(Duration::ZERO, |at| at.since(window))
    };
    let listening: Duration = devices.iter().map(known).sum();
    let running = devices.iter().filter(|d| d.state == Running);
    Measured {
        frames: count(frames.len()) + counters.poll_frames,
        polls: counters.poll_frames,
        perfect: completions.last().copied().unwrap_or(0),
        updated: count(running.count()),
        devices: count(devices.len()),
        completions,
        rounds: sessions.iter().map(|s| u64::from(s.round)).sum(),
        answers: sessions
            .iter()
            .flat_map(|s| &s.rounds)
            .map(|r| u64::from(r.answers))
            .sum(),
        airtime: Duration::from_micros(counters.multicast_airtime_us),
        elapsed: frames
            .last()
            .map_or(Duration::ZERO, |last| last.since(window)),
        listening: listening / u32::try_from(devices.len().max(1)).unwrap_or(1),
        violations,
    }
}

/// Runs a row for many seeds, on all processors.
pub fn measure_many(row: &Row, size: Size, seeds: Range<u64>) -> Vec<Measured> {
    let next = Mutex::new(seeds);
    let done = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(seed) = seed else { return };
                    let measured = measure(row, size, seed);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((seed, measured));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(seed, _)| *seed);
    done.into_iter().map(|(_, measured)| measured).collect()
}

/// The table's head, in Markdown.
pub fn head() -> String {
    "| loss | policy | frames | to perfect | to bound | updated | rounds | polls | answers | time s | listening s |\n\
     |---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned()
}

/// A row's lines of the table: ours, the perfect sender, the computed bound, and the fixed policies; means over runs.
pub fn lines(row: &Row, size: Size, runs: &[Measured]) -> String {
    let mean = |of: &dyn Fn(&Measured) -> f64| mean(runs, of);
    let bound = expected_frames_mixed(size.nb_frag, &parts(row, size.devices));
    let frames = mean(&|m| whole(m.frames));
    let perfect = mean(&|m| whole(m.perfect));
    let updated = mean(&|m| whole(m.updated) / whole(m.devices.max(1)));
    let mut out = String::new();
    let name = row.name;
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "| {name} | **status rounds** | **{frames:.1}** | **{:+.2} %** | {:+.2} % | {:.2} % | {:.1} | {:.1} | {:.0} | \
         {:.0} | {:.0} |",
        (frames / perfect - 1.0) * 100.0,
        (frames / bound - 1.0) * 100.0,
        updated * 100.0,
        mean(&|m| whole(m.rounds)),
        mean(&|m| whole(m.polls)),
        mean(&|m| whole(m.answers)),
        mean(&|m| m.elapsed.as_secs_f64()),
        mean(&|m| m.listening.as_secs_f64()),
    );
    let _ = writeln!(
        out,
        "| {name} | perfect feedback, same losses | {perfect:.1} | | {:+.2} % | 100 % | | | | | |",
        (perfect / bound - 1.0) * 100.0
    );
    let _ = writeln!(
        out,
        "| {name} | computed bound | {bound:.1} | | | 100 % | | | | | |"
    );
    for percent in FIXED_PERCENT {
        let sent = u64::from(size.nb_frag) * (100 + percent) / 100;
        let done = mean(&|m| {
            whole(count(m.completions.partition_point(|n| *n <= sent))) / whole(m.devices.max(1))
        });
        let _ = writeln!(
            out,
            "| {name} | fixed {percent} % | {sent} | {:+.1} % | | {:.2} % | | | | | |",
            (whole(sent) / perfect - 1.0) * 100.0,
            done * 100.0
        );
    }
    out
}

/// What the second table compares: every stack where all answers come, and answers lost or in collision.
pub fn conditions() -> Vec<(Stacks, Answers)> {
    let lost = |lost_percent, collide| Answers {
        lost_percent,
        collide,
    };
    let stacks = StackProfile::ALL.map(Stacks::One).into_iter();
    let by_the_book = Stacks::One(StackProfile::SpecV1);
    let answers = [
        lost(0, true),
        lost(10, false),
        lost(10, true),
        lost(30, true),
    ];
    stacks
        .chain([Stacks::Mix])
        .map(|stacks| (stacks, Answers::default()))
        .chain(answers.map(|answers| (by_the_book, answers)))
        .collect()
}

/// The second table's head, in Markdown.
pub fn conditions_head() -> String {
    "| stack | answers | frames | to perfect | updated | rounds | polls | answers heard | time s | listening s |\n\
     |---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned()
}

/// A line of the second table: means over runs.
pub fn conditions_line(size: Size, runs: &[Measured]) -> String {
    let mean = |of: &dyn Fn(&Measured) -> f64| mean(runs, of);
    let frames = mean(&|m| whole(m.frames));
    let perfect = mean(&|m| whole(m.perfect));
    format!(
        "| {} | {} | {frames:.1} | {:+.2} % | {:.2} % | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} |\n",
        size.stacks.name(),
        size.answers.name(),
        (frames / perfect - 1.0) * 100.0,
        mean(&|m| whole(m.updated) / whole(m.devices.max(1))) * 100.0,
        mean(&|m| whole(m.rounds)),
        mean(&|m| whole(m.polls)),
        mean(&|m| whole(m.answers)),
        mean(&|m| m.elapsed.as_secs_f64()),
        mean(&|m| m.listening.as_secs_f64()),
    )
}

pub(crate) fn mean(runs: &[Measured], of: &dyn Fn(&Measured) -> f64) -> f64 {
    let count = u32::try_from(runs.len().max(1)).unwrap_or(1);
    runs.iter().map(of).sum::<f64>() / f64::from(count)
}

fn set_losses(lab: &mut Lab, fleet: &Fleet, parts: &[(f64, u32)], answers: Answers) {
    let channel = lab.channel_mut();
    channel.set_collisions(answers.collide);
    let mut devices = fleet.devices.iter();
    for (loss, count) in parts {
        for device in devices.by_ref().take(usize::try_from(*count).unwrap_or(0)) {
            for gateway in &fleet.gateways {
                let link = channel.link(*gateway, device.dev_eui).map(|link| Link {
                    downlink_loss: *loss,
                    uplink_loss: f64::from(answers.lost_percent) / 100.0,
                    ..link
                });
                channel.set_link(*gateway, device.dev_eui, link);
            }
        }
    }
}

/// The parts of a fleet in devices; the first takes what rounding leaves.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a number of devices"
)]
pub(crate) fn parts(row: &Row, devices: u32) -> Vec<(f64, u32)> {
    let mut parts: Vec<(f64, u32)> = row
        .parts
        .iter()
        .map(|(share, loss)| (*loss, (share * f64::from(devices)).round() as u32))
        .collect();
    let placed: u32 = parts.iter().skip(1).map(|(_, n)| n).sum();
    if let Some((_, first)) = parts.first_mut() {
        *first = devices.saturating_sub(placed);
    }
    parts
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts of frames and devices")]
pub(crate) fn whole(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_divided_without_rest() {
        let mixed = parts(&ROWS[3], 1000);
        assert_eq!(mixed, vec![(0.01, 900), (0.1, 90), (0.5, 10)]);
        assert_eq!(parts(&ROWS[3], 7).iter().map(|(_, n)| n).sum::<u32>(), 7);
    }

    #[test]
    fn small_fleets_are_close_to_the_perfect_sender() {
        let size = Size {
            nb_frag: 100,
            devices: 40,
            stacks: Stacks::One(StackProfile::SpecV1),
            answers: Answers::default(),
            frames: Frames::default(),
        };
        for row in &ROWS[..2] {
            let measured = measure(row, size, 1);
            assert_eq!(measured.violations, Vec::<String>::new());
            assert_eq!(measured.updated, 40, "{measured:?}");
            assert!(measured.perfect >= 100);
            assert!(measured.frames >= measured.perfect, "{measured:?}");
            assert!(measured.frames <= measured.perfect + 12, "{measured:?}");
        }
    }
}
