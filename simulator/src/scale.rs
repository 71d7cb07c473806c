//! One task for a whole network: the production code with as many devices as it is asked for, in virtual time.
//!
//! Devices count fragments instead of keeping their bytes, but for a sample that puts the block together and checks MIC
//! and signature. All checkers look on. Each device reaches one to three gateways that are neighbours, and each frame
//! is lost on each link by itself.

use std::time::{Duration, Instant};

use lorawan_fuota::lorawan::firmware_management::UpImageStatus;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::DeviceState;
use lorawan_fuota::time::Timestamp;

use crate::check::CheckOptions;
use crate::checkers::watch_errors;
use crate::device::{EndDevice, Payloads, StackProfile};
use crate::fleet::{Fleet, FleetOptions, NEW_VERSION, Stacks};
use crate::scene::Scene;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaleOptions {
    /// Devices.
    pub devices: u32,
    /// Gateways.
    pub gateways: u32,
    /// Uncoded fragments.
    pub nb_frag: u32,
    /// Share of frames lost on each link and in each direction, 0..1.
    pub loss: f64,
    /// Everything else follows from it.
    pub seed: u64,
    /// Between two uplinks of a device.
    pub uplink_interval: Duration,
    /// From the start of the task to its window, in intervals.
    pub setup_intervals: u32,
    /// One device of so many keeps payloads; of a small fleet more do.
    pub sample_every: u32,
    /// Store and checkers work on a thread of their own. The history is the same.
    pub aside: bool,
}

impl Default for ScaleOptions {
    /// The fleet of the promise: 100 000 devices behind 50 gateways, 500 fragments, a tenth of all frames lost.
    fn default() -> Self {
        Self {
            devices: 100_000,
            gateways: 50,
            nb_frag: 500,
            loss: 0.1,
            seed: 1,
            uplink_interval: Duration::from_secs(4 * 3600),
            setup_intervals: 6,
            sample_every: 1000,
            aside: true,
        }
    }
}

/// What came of it. All but the times of this machine follows from the options.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaled {
    /// Devices of the task.
    pub devices: u64,
    /// Of them those that run the new version.
    pub updated: u64,
    /// Devices that kept payloads.
    pub sample: u64,
    /// Of them those that put the block together and found MIC and signature good.
    pub sample_good: u64,
    /// Fragments of the group, each counted once, whatever number of gateways sent it.
    pub fragments: u64,
    /// Each session: its uncoded and coded fragments, and its rounds.
    pub sessions: Vec<(u16, u16, u16)>,
    /// Devices times fragments sent for them, session by session.
    pub device_fragments: u64,
    /// Downlinks that gateways sent.
    pub downlinks: u64,
    /// Uplinks that devices sent.
    pub uplinks: u64,
    /// Transactions committed.
    pub commits: u64,
    /// From the start of the task to its end, in virtual time.
    pub duration: Duration,
    /// A number that differs where two histories differ: of when each device ended and when it was complete.
    pub fingerprint: u64,
    /// Properties broken, in words.
    pub violations: Vec<String>,
    /// How long it took, the devices' start included, in real time.
    pub wall: Duration,
}

/// Devices join at random within this time of being switched on and of a reboot, and speak first within as much again;
/// or within their interval, if that is less.
const START_SPREAD: Duration = Duration::from_secs(3600);
/// Bytes per fragment: the count of frames does not depend on it.
const FRAG_SIZE: u8 = 40;
/// Every run ends within a week of virtual time.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// Gateways a device reaches at most.
const REACH: u32 = 3;
/// At least so many devices keep payloads.
const SAMPLE_LEAST: u32 = 10;

/// Runs the task to its end.
///
/// # Panics
/// The world cannot be set up at all; that is a defect of the simulator.
#[expect(
    clippy::disallowed_methods,
    reason = "how long it takes is what is measured"
)]
pub fn run(options: &ScaleOptions) -> Scaled {
    let began = Instant::now();
    let (mut scaled, errors) = watch_errors(|| run_watched(options, began));
    scaled.violations.extend(errors);
    scaled
}

fn run_watched(options: &ScaleOptions, began: Instant) -> Scaled {
    let mut scene = scene(options);
    if options.aside {
        scene.world.watch_aside();
    }
    // Everybody has joined and been heard before the task is ordered.
    let interval = options.uplink_interval;
    let spread = interval.min(START_SPREAD);
    let heard = spread * 2 + spread / 5;
    scene.world.run_until(heard, |_| false);
    let mut task = scene.draft();
    task.window_start = Some(scene.world.now() + interval * options.setup_intervals);
    task.options.frag_size = Some(FRAG_SIZE);
    let refused = scene.start(&task).err();
    let id = &task.id;
    let ended = refused.is_none() && scene.world.run_until(LONGEST, |w| w.is_over(id));
    let outcome = scene.outcome(&task);
    let mut violations: Vec<String> = outcome.violations.iter().map(ToString::to_string).collect();
    if !ended {
        violations.push(format!(
            "the task has not ended within a week; start refused: {refused:?}"
        ));
    }
    let running = outcome.devices.iter();
    let running = running.filter(|d| d.state == DeviceState::Running);
    let keeps = |device: &&EndDevice| device.config().payloads == Payloads::Kept;
    let good = |device: &&EndDevice| {
        let received = device.image_received();
        received.is_some_and(|(bytes, status)| {
            bytes.len() == scene.image_length() && status != UpImageStatus::Corrupt
        })
    };
    let (sample, sample_good, complete) = scene.world.lab(|lab| {
        let complete: Vec<Option<Timestamp>> =
            lab.devices().map(EndDevice::block_completed_at).collect();
        let sample: Vec<&EndDevice> = lab.devices().filter(keeps).collect();
        let all = count(sample.len());
        (
            all,
            count(sample.into_iter().filter(good).count()),
            complete,
        )
    });
    let mut fragments: Vec<(u16, u16)> = scene.world.checkers(|c| {
        let fragments = c.fragments().iter();
        fragments.map(|f| (f.session.number, f.f_cnt)).collect()
    });
    fragments.sort_unstable();
    fragments.dedup();
    let ends = outcome
        .devices
        .iter()
        .map(|d| (d.state, d.attempts, d.changed_at));
    let sessions = scene.world.sessions(id);
    let sent = |session: Option<u16>| {
        let session = sessions.get(usize::from(session?))?;
        Some(u64::from(session.uncoded_sent) + u64::from(session.coded_sent))
    };
    let device_fragments = outcome.devices.iter();
    let device_fragments = device_fragments.filter_map(|d| sent(d.session)).sum();
    let counts = scene.world.lab(|lab| *lab.counts());
    Scaled {
        devices: count(outcome.devices.len()),
        updated: count(running.count()),
        sample,
        sample_good,
        fragments: count(fragments.len()),
        device_fragments,
        sessions: sessions
            .iter()
            .map(|s| (s.uncoded_sent, s.coded_sent, s.round))
            .collect(),
        downlinks: counts.downlinks,
        uplinks: counts.uplinks,
        commits: outcome.commits,
        duration: outcome.duration,
        fingerprint: fingerprint(&format!("{:?} {complete:?}", ends.collect::<Vec<_>>())),
        violations,
        wall: began.elapsed(),
    }
}

fn scene(options: &ScaleOptions) -> Scene {
    let mut check = CheckOptions {
        fleet: FleetOptions {
            seed: options.seed,
            devices: options.devices,
            gateways: options.gateways,
            loss: options.loss,
            region: Region::Us915,
            data_rate: 13,
            uplink_interval: options.uplink_interval,
            stacks: Stacks::One(StackProfile::SpecV2),
        },
        gps: true,
        reach: Some(REACH),
        ..CheckOptions::default()
    };
    let frame = Fleet::new(FleetOptions {
        devices: 0,
        ..check.fleet
    })
    .image(&[]);
    let length = usize::from(FRAG_SIZE) * usize::try_from(options.nb_frag).unwrap_or(0);
    check.image_bytes = length.saturating_sub(frame.map_or(0, |empty| empty.len()));
    let every = options.sample_every;
    let every = every.min(options.devices / SAMPLE_LEAST).max(1);
    let mut number = 0;
    Scene::with(&check, |device| {
        if number % every != 0 {
            device.payloads = Payloads::Counted {
                version: NEW_VERSION.to_ts006(),
            };
        }
        device.log_capacity = 0;
        device.uplinks.start_spread = options.uplink_interval.min(START_SPREAD);
        number += 1;
    })
}

/// FNV-1a.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
