//! The forecast: what a task will cost and whether it can work, before a frame is sent.
//!
//! It groups devices into distribution sessions, chooses data rate, block and window, estimates frames, air time and
//! finish, and names every reason why the task or a device cannot be served. It changes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::erasure::{BlockLayout, BlockSize};
use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::lorawan::region::Region;
use crate::lorawan::{PackageVersion, fragmentation, multicast_setup};
use crate::record::{
    BlockParameters, DeviceClass, DeviceReason, FleetDevice, FragAlgo, GatewaySettings, Image,
    MulticastGroup, RebootMode, SessionWindow, SuccessCriterion, Task, VersionSource,
};
use crate::time::Timestamp;

use super::calendar;
use super::sizing;
use super::waves::waves;

/// What a forecast is made from.
#[derive(Clone, Debug)]
pub struct PlanRequest<'a> {
    /// The moment of asking.
    pub now: Timestamp,
    /// The order.
    pub task: &'a Task,
    /// Its image.
    pub image: &'a Image,
    /// Its devices, those of its groups included.
    pub devices: Vec<&'a FleetDevice>,
    /// The groups it names.
    pub groups: &'a [MulticastGroup],
    /// All gateways of the network.
    pub gateways: &'a [GatewaySettings],
}

/// A forecast that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Sessions side by side, by number.
    pub sessions: Vec<PlannedSession>,
    /// Devices that will not be served, with the reason.
    pub skipped: Vec<SkippedDevice>,
    /// When set-up begins.
    pub prepare_at: Timestamp,
    /// When the last device is expected to have its verdict.
    pub finish_at: Timestamp,
    /// When the task gives up.
    pub deadline: Timestamp,
}

/// One distribution session of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedSession {
    /// Number within the task.
    pub number: u16,
    /// Number of its wave, from 0.
    pub wave: u16,
    /// Regional parameters.
    pub region: Region,
    /// Class of the window.
    pub class: DeviceClass,
    /// Data rate index.
    pub data_rate: u8,
    /// Frequency.
    pub frequency_hz: u32,
    /// Who is served.
    pub devices: Vec<DevEui>,
    /// Gateways expected to send each frame; empty while no device of the session was ever heard.
    pub gateways: Vec<GatewayEui>,
    /// Version of TS005 the devices speak.
    pub multicast_version: PackageVersion,
    /// FPort of TS004 on the devices.
    pub frag_port: u8,
    /// The fragmentation session.
    pub block: BlockParameters,
    /// The window.
    pub window: SessionWindow,
    /// Multicast frames until all devices are complete, per gateway.
    pub frames: Forecast,
    /// Air time of those frames, per gateway.
    pub airtime: Duration,
    /// From the start of set-up until all devices are ready.
    pub setup: Duration,
    /// From the start of the window until the last fragment.
    pub distribution: Duration,
}

/// An expected figure and the range nine runs in ten fall into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Low end.
    pub low: u32,
    /// Mean.
    pub expected: u32,
    /// High end.
    pub high: u32,
}

/// A device a plan leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedDevice {
    /// Which.
    pub dev_eui: DevEui,
    /// Why.
    pub reason: DeviceReason,
    /// Words for people.
    pub evidence: String,
}

/// Why a task cannot be carried out. The caller's fault: it names the field to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No device is left to serve.
    #[error("no device can be served")]
    NoDevices(Vec<SkippedDevice>),
    /// A field of the task stands in the way.
    #[error("{field}: {message}")]
    Field {
        /// Name of the field in the API.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

/// Devices that can share frames: same region, packages, code and fragment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SessionKey {
    region: Region,
    multicast_version: PackageVersion,
    fragmentation_version: PackageVersion,
    frag_port: u8,
    data_rate: u8,
    frequency_hz: u32,
    frag_size: u8,
    /// Another code comes first: who refuses it goes on in a later session.
    frag_algo: Reverse<FragAlgo>,
}

/// Makes the forecast.
pub fn plan(request: &PlanRequest<'_>) -> Result<Plan, PlanError> {
    check_order(request)?;
    let mut skipped = Vec::new();
    let mut placed: BTreeMap<DevEui, (SessionKey, &FleetDevice)> = BTreeMap::new();
    for device in &request.devices {
        match place(request, device)? {
            Ok(key) => {
                placed.insert(device.settings.dev_eui, (key, device));
            }
            Err(skip) => skipped.push(skip),
        }
    }
    let prepare_at = request
        .task
        .prepare_after
        .map_or(request.now, |after| after.max(request.now));
    let served: Vec<DevEui> = placed.keys().copied().collect();
    let mut planned = Vec::new();
    let (mut begins, mut window_start) = (prepare_at, request.task.window_start);
    let mut finish_at = prepare_at;
    for wave in waves(&request.task.waves, &served) {
        let before = planned.len();
        let number = next_wave(&planned);
        let members = wave.iter().filter_map(|dev_eui| placed.get(dev_eui));
        let mut sessions: BTreeMap<SessionKey, Vec<&FleetDevice>> = BTreeMap::new();
        for (key, device) in members {
            sessions.entry(*key).or_default().push(device);
        }
        let start = Start {
            wave: number,
            prepare_at: begins,
            setup: setup_time(sessions.values().flatten().copied()),
            window: window_start.take(),
        };
        for (key, devices) in sessions {
            planned.extend(session(request, key, &devices, &start, &mut skipped)?);
        }
        let calendar = &request.task.rules.calendar;
        let ends = planned[before..].iter().map(|s| {
            let sent = calendar::after_open(calendar, s.window.start, s.distribution);
            sent.unwrap_or(s.window.start + s.distribution)
        });
        if let Some(last_window) = ends.max() {
            finish_at = last_window + completion_time(request);
            begins = finish_at + request.task.waves.pause_between;
        }
    }
    // Sessions left without devices were dropped: numbers stay dense.
    for (number, session) in (0u16..).zip(&mut planned) {
        session.number = number;
    }
    if planned.is_empty() {
        return Err(PlanError::NoDevices(skipped));
    }
    if let RebootMode::AtTime { at } = request.task.reboot {
        finish_at = finish_at.max(at + completion_time(request));
    }
    let deadline = match request.task.deadline {
        Some(deadline) => deadline,
        None => {
            let more = slack(request) * u32::from(next_wave(&planned)) + again(&planned);
            let more = more + retries(request, &planned);
            let calendar = &request.task.rules.calendar;
            calendar::after_open(calendar, finish_at, more).unwrap_or(finish_at + more)
        }
    };
    if finish_at > deadline {
        let message = format!("expected finish {finish_at} is later");
        return Err(PlanError::Field {
            field: "deadline",
            message,
        });
    }
    Ok(Plan {
        sessions: planned,
        skipped,
        prepare_at,
        finish_at,
        deadline,
    })
}

impl Plan {
    /// Devices served with another code than the one that was asked for, since their profiles do not claim it.
    pub fn devices_without(&self, asked: FragAlgo) -> usize {
        let others = self.sessions.iter().filter(|s| s.block.frag_algo != asked);
        others.map(|s| s.devices.len()).sum()
    }
}

impl PlannedSession {
    /// Not every device can be expected to be set up when the window opens, if set-up begins at `prepare_at`. Windows
    /// of later waves wait for it.
    pub fn opens_early(&self, prepare_at: Timestamp) -> bool {
        self.wave == 0 && self.window.start < prepare_at + self.setup
    }

    /// Its number of fragments is one the code hardly works for. The planner avoids these; a size that was asked for
    /// is kept.
    pub fn has_weak_size(&self) -> bool {
        self.block.frag_algo == FragAlgo::Ts004
            && BlockSize::of(self.block.nb_frag) == BlockSize::Weak
    }
}

/// The gateways that together hear all `devices`, as few as a greedy choice finds; ties go to the stronger signal.
pub fn covering_gateways<'a>(
    devices: impl Iterator<Item = &'a FleetDevice>,
    usable: &BTreeSet<GatewayEui>,
) -> Vec<GatewayEui> {
    let mut open: Vec<BTreeMap<GatewayEui, f32>> = devices
        .map(|d| {
            d.status
                .links
                .iter()
                .filter(|(eui, _)| usable.contains(*eui))
                .map(|(e, l)| (*e, l.snr_db))
                .collect()
        })
        .filter(|links: &BTreeMap<_, _>| !links.is_empty())
        .collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let mut score: BTreeMap<GatewayEui, (usize, f32)> = BTreeMap::new();
        for (eui, snr) in open.iter().flatten() {
            let entry = score.entry(*eui).or_insert((0, f32::INFINITY));
            *entry = (entry.0 + 1, entry.1.min(*snr));
        }
        let best = score
            .into_iter()
            .max_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let Some((eui, _)) = best else { break };
        open.retain(|links| !links.contains_key(&eui));
        chosen.push(eui);
    }
    chosen
}

fn check_order(request: &PlanRequest<'_>) -> Result<(), PlanError> {
    let task = request.task;
    let fail = |field, message: &str| {
        Err(PlanError::Field {
            field,
            message: message.to_owned(),
        })
    };
    if request.image.size_bytes == 0 {
        return fail("images", "the image is empty");
    }
    if task.options.frag_size == Some(0) {
        return fail("frag_size", "must be at least 1");
    }
    if task.window_start.is_some_and(|start| start <= request.now) {
        return fail("window_start", "lies in the past");
    }
    if task
        .deadline
        .is_some_and(|deadline| deadline <= request.now)
    {
        return fail("deadline", "lies in the past");
    }
    if let (Some(start), Some(after)) = (task.window_start, task.prepare_after)
        && start <= after
    {
        return fail("window_start", "must be later than prepare_after");
    }
    Ok(())
}

/// When a wave begins, as far as its sessions need to know.
struct Start {
    wave: u16,
    prepare_at: Timestamp,
    setup: Duration,
    /// When its window is to open, if the operator said so.
    window: Option<Timestamp>,
}

/// The number after the last wave that has sessions.
fn next_wave(planned: &[PlannedSession]) -> u16 {
    planned.last().map_or(0, |last| last.wave + 1)
}

/// The session a device belongs to, or why it is left out. `Err` on the outside: the order itself is impossible.
fn place(
    request: &PlanRequest<'_>,
    device: &FleetDevice,
) -> Result<Result<SessionKey, SkippedDevice>, PlanError> {
    let (task, profile) = (request.task, &device.profile);
    let skip = |reason, evidence: String| {
        Ok(Err(SkippedDevice {
            dev_eui: device.settings.dev_eui,
            reason,
            evidence,
        }))
    };
    let missing = |what: &str| {
        skip(
            DeviceReason::PackageNotSupported,
            format!("the profile has no {what} package"),
        )
    };
    if !request.image.model.is_empty() && request.image.model != device.settings.model {
        let evidence = format!(
            "image is for model {}, device is {}",
            request.image.model, device.settings.model
        );
        return skip(DeviceReason::ImageRejected, evidence);
    }
    if device.status.version(&request.image.component) == Some(request.image.target_version) {
        return skip(
            DeviceReason::AlreadyCurrent,
            format!("runs {:#010x} already", request.image.target_version),
        );
    }
    let Some(multicast) = profile.packages.multicast_setup else {
        return missing("multicast set-up");
    };
    let Some(frag_package) = profile.packages.fragmentation else {
        return missing("fragmentation");
    };
    let differs = |id: u8, version: PackageVersion| {
        let said = device.status.capabilities.get(&id).map(|c| c.version);
        said.filter(|said| *said != version.number())
    };
    let said = differs(multicast_setup::PACKAGE_IDENTIFIER, multicast.version)
        .or_else(|| differs(fragmentation::PACKAGE_IDENTIFIER, frag_package.version));
    if let Some(said) = said {
        let evidence =
            format!("the device answered package version {said}, the profile says otherwise");
        return skip(DeviceReason::VersionMismatch, evidence);
    }
    if !profile.supports_class_c {
        return skip(
            DeviceReason::PackageNotSupported,
            "the profile has no class C".to_owned(),
        );
    }
    let needs_version = task.success == SuccessCriterion::Running;
    if needs_version
        && profile.packages.firmware_management.is_none()
        && profile.version_source == VersionSource::FirmwareManagement
    {
        return missing("firmware management");
    }
    let group = request
        .groups
        .iter()
        .find(|g| g.devices.contains(&device.settings.dev_eui));
    let data_rate = task
        .options
        .data_rate
        .or_else(|| group.and_then(|g| g.data_rate))
        .unwrap_or_else(|| profile.region.rx2().1);
    let frequency_hz = task
        .options
        .frequency_hz
        .or_else(|| group.and_then(|g| g.frequency_hz))
        .unwrap_or_else(|| profile.region.default_multicast_hz());
    let Some(largest) = sizing::largest_fragment(profile.region, data_rate) else {
        let message = format!("{data_rate} carries no fragment in {}", profile.region);
        return Err(PlanError::Field {
            field: "data_rate",
            message,
        });
    };
    let frag_size = match task.options.frag_size {
        Some(size) if size > largest => {
            let message =
                format!("{size} is more than the {largest} bytes data rate {data_rate} carries");
            return Err(PlanError::Field {
                field: "frag_size",
                message,
            });
        }
        Some(size) => size,
        None => largest,
    };
    Ok(Ok(SessionKey {
        region: profile.region,
        multicast_version: multicast.version,
        fragmentation_version: frag_package.version,
        frag_port: frag_package.f_port,
        data_rate,
        frequency_hz,
        frag_size: frag_size.min(profile.limits.max_frag_size),
        frag_algo: Reverse(if profile.decodes(task.options.frag_algo) {
            task.options.frag_algo
        } else {
            FragAlgo::Ts004
        }),
    }))
}

fn session(
    request: &PlanRequest<'_>,
    key: SessionKey,
    devices: &[&FleetDevice],
    begin: &Start,
    skipped: &mut Vec<SkippedDevice>,
) -> Result<Option<PlannedSession>, PlanError> {
    let task = request.task;
    let length = usize::try_from(request.image.size_bytes).unwrap_or(usize::MAX);
    // A size that was asked for is kept, good or bad; the forecast says if it is bad.
    let asked = request.task.options.frag_size == Some(key.frag_size);
    let layout = if asked {
        BlockLayout::new(length, key.frag_size)
    } else {
        sizing::layout(length, key.frag_size)
    };
    let layout = layout.map_err(|error| PlanError::Field {
        field: "frag_size",
        message: error.to_string(),
    })?;
    let (served, left_out): (Vec<&FleetDevice>, Vec<&FleetDevice>) = devices
        .iter()
        .partition(|d| d.profile.limits.max_nb_frag >= layout.nb_frag);
    skipped.extend(left_out.iter().map(|d| SkippedDevice {
        dev_eui: d.settings.dev_eui,
        reason: DeviceReason::DecoderLimit,
        evidence: format!(
            "{} fragments, the decoder holds {}",
            layout.nb_frag, d.profile.limits.max_nb_frag
        ),
    }));
    if served.is_empty() {
        return Ok(None);
    }
    let airtime = sizing::frame_airtime(
        key.region,
        key.data_rate,
        usize::from(layout.frag_size) + usize::from(sizing::DATA_FRAGMENT_OVERHEAD),
    )
    .unwrap_or_default();
    let answer = answer_airtime(key.region);
    let block_ack_delay = task
        .options
        .block_ack_delay
        .unwrap_or_else(|| sizing::block_ack_delay(served.len(), answer))
        .min(7);
    let loss = served
        .iter()
        .filter_map(|d| d.status.loss_permille)
        .max()
        .unwrap_or(sizing::UNKNOWN_LOSS_PERMILLE);
    let Reverse(frag_algo) = key.frag_algo;
    let (low, expected, high) =
        sizing::frames_until_all(frag_algo, layout.nb_frag, loss, served.len());
    let bandwidth_hz = key
        .region
        .data_rate(key.data_rate, Direction::Downlink)
        .map_or(0, |rate| rate.bandwidth_hz());
    let interval = frame_interval(key.region, key.frequency_hz, bandwidth_hz, airtime);
    let poll = Duration::from_secs(16 << block_ack_delay) + sizing::ANSWER_SLACK;
    let distribution = sizing::WINDOW_GUARD + interval * expected + poll * 3;
    // Twice the high figure and twice the rounds: a loss nobody foresaw must not end the window.
    let window = sizing::WINDOW_GUARD + interval * (high * 2) + poll * 8;
    let earliest = begin.prepare_at + begin.setup;
    let start = begin.window.unwrap_or(earliest).ceil_gps_second();
    let window = SessionWindow {
        number: 0,
        start,
        time_out: sizing::time_out(window),
        closes_at: None,
    };
    let window = allowed(request, window, begin.window.is_some())?;
    let usable = request.gateways.iter().map(|g| g.eui).collect();
    let target = request.image.target_version.to_le_bytes();
    Ok(Some(PlannedSession {
        number: 0,
        wave: begin.wave,
        region: key.region,
        class: DeviceClass::C,
        data_rate: key.data_rate,
        frequency_hz: key.frequency_hz,
        devices: served.iter().map(|d| d.settings.dev_eui).collect(),
        gateways: covering_gateways(served.iter().copied(), &usable),
        multicast_version: key.multicast_version,
        frag_port: key.frag_port,
        block: BlockParameters {
            version: key.fragmentation_version,
            frag_algo,
            frag_index: 0,
            nb_frag: layout.nb_frag,
            frag_size: layout.frag_size,
            padding: layout.padding,
            descriptor: task.options.descriptor.unwrap_or(target),
            block_ack_delay,
        },
        window,
        frames: Forecast {
            low,
            expected,
            high,
        },
        airtime: airtime * expected,
        setup: begin.setup,
        distribution,
    }))
}

/// The window as the calendar of the task allows it; one the operator chose is not moved.
fn allowed(
    request: &PlanRequest<'_>,
    window: SessionWindow,
    chosen: bool,
) -> Result<SessionWindow, PlanError> {
    let fitted = calendar::fit(&request.task.rules.calendar, window);
    let (field, message) = match fitted {
        Some(fitted) if chosen && fitted.start != window.start => (
            "window_start",
            format!("outside the calendar, which opens at {}", fitted.start),
        ),
        Some(fitted) => return Ok(fitted),
        None => ("calendar", "allows no window".to_owned()),
    };
    Err(PlanError::Field { field, message })
}

/// From one frame to the next: its air time and the gateway's gap, or what the duty cycle of the sub-band asks for.
fn frame_interval(
    region: Region,
    frequency_hz: u32,
    bandwidth_hz: u32,
    airtime: Duration,
) -> Duration {
    let permille = region
        .sub_band(frequency_hz, bandwidth_hz)
        .map_or(1000, |band| u32::from(band.duty_cycle_permille.max(1)));
    (airtime + sizing::FRAME_GAP).max(airtime * 1000 / permille)
}

/// Air time of a status answer at the middle of the uplink data rates, where ADR leaves most devices.
fn answer_airtime(region: Region) -> Duration {
    let rate = region.data_rate(3, Direction::Uplink);
    rate.map_or(Duration::from_millis(500), |rate| {
        Duration::from_micros(u64::from(
            rate.time_on_air_us(ANSWER_LENGTH, Direction::Uplink),
        ))
    })
}

/// PHYPayload of an uplink with one `FragSessionStatusAns`.
const ANSWER_LENGTH: u8 = 18;

/// From the start of set-up until all devices are ready: a first uplink, the exchanges, and one lost exchange.
fn setup_time<'a>(devices: impl Iterator<Item = &'a FleetDevice>) -> Duration {
    const EXCHANGE: Duration = Duration::from_secs(6);
    let mut longest = Duration::ZERO;
    let mut count = 0u32;
    for device in devices {
        count += 1;
        let known = |id| device.status.capabilities.contains_key(&id);
        let probe = u32::from(!known(fragmentation::PACKAGE_IDENTIFIER));
        let version = u32::from(device.status.versions.is_empty());
        let exchanges = 2 + probe + version;
        longest = longest.max(device.profile.uplink_interval * 3 + EXCHANGE * exchanges);
    }
    // One gateway hands over a few set-up frames a second.
    longest + Duration::from_millis(500) * count
}

/// From the expected finish to the deadline where none is given: 24 uplink intervals, at least two hours. A device that
/// loses half of all frames needs most of them to be checked, rebooted and checked again.
fn slack(request: &PlanRequest<'_>) -> Duration {
    let intervals = request.devices.iter().map(|d| d.profile.uplink_interval);
    (intervals.max().unwrap_or_default() * 24).max(Duration::from_secs(7200))
}

/// What a second session takes for devices that refuse the code of the first.
fn again(sessions: &[PlannedSession]) -> Duration {
    let refusable = sessions
        .iter()
        .filter(|s| s.block.frag_algo != FragAlgo::Ts004);
    refusable.map(|s| s.distribution).max().unwrap_or_default()
}

/// What trying failed devices again takes.
fn retries(request: &PlanRequest<'_>, sessions: &[PlannedSession]) -> Duration {
    let policy = &request.task.rules.retry;
    let once = sessions.iter().map(|s| s.setup + s.distribution).max();
    let once = once.unwrap_or_default() + completion_time(request) + policy.pause;
    once * u32::from(policy.max_retries)
}

/// From the last fragment to the last verdict.
fn completion_time(request: &PlanRequest<'_>) -> Duration {
    let interval = request
        .devices
        .iter()
        .map(|d| d.profile.uplink_interval)
        .max()
        .unwrap_or_default();
    match request.task.success {
        SuccessCriterion::ReportedReceived => interval,
        SuccessCriterion::Verified => interval * 2,
        SuccessCriterion::Running => interval * 4 + Duration::from_secs(60),
    }
}
