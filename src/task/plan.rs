//! The forecast: what a task will cost and whether it can work, before a frame is sent.
//!
//! It groups devices into distribution sessions, chooses data rate, block and window, estimates frames, air time and
//! finish, and names every reason why the task or a device cannot be served. It changes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::erasure::{BlockLayout, BlockSize, ParameterError};
use crate::lorawan::class_b::PingSlotPeriodicity;
use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::lorawan::region::Region;
use crate::lorawan::{PackageVersion, fragmentation, multicast_setup};
use crate::record::{
    AirLedger, BlockParameters, ClockReading, DeviceClass, DeviceProfile, DeviceReason,
    FleetDevice, FragAlgo, GatewaySettings, Image, MulticastGroup, RebootMode, SessionWindow,
    Sha256, SuccessCriterion, Task, VersionSource,
};
use crate::time::Timestamp;

use super::air::{self, GatewayAir};
use super::calendar;
use super::course::{Course, with_rates};
use super::outlook::{self, SessionOutlook, Span};
use super::unicast::{self, Unicast};
use super::waits::all_within;
use super::waves::waves;
use super::{checks, gate, link, sizing};

pub use super::link::{covering_gateways, turns};

/// What a forecast is made from.
#[derive(Clone, Debug)]
pub struct PlanRequest<'a> {
    /// The moment of asking.
    pub now: Timestamp,
    /// The order.
    pub task: &'a Task,
    /// Its image.
    pub image: &'a Image,
    /// Patches to it that devices may be sent in its place.
    pub deltas: &'a [&'a Image],
    /// Its devices, those of its groups included.
    pub devices: Vec<&'a FleetDevice>,
    /// The groups it names.
    pub groups: &'a [MulticastGroup],
    /// All gateways of the network.
    pub gateways: &'a [GatewaySettings],
    /// What they sent in the last hour.
    pub ledgers: &'a [AirLedger],
    /// When each gateway was heard last; those that never were are not in it.
    pub heard: &'a BTreeMap<GatewayEui, Timestamp>,
    /// What gateways with GPS say of the server's clock.
    pub clocks: &'a [ClockReading],
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
    /// The range in which the last verdict comes; `finish_at` is its middle.
    pub finish: Span,
    /// What the task takes of each gateway's air, by gateway and sub-band.
    pub air: Vec<GatewayAir>,
    /// Devices served that no gateway has ever heard.
    pub unheard: usize,
    /// Devices served that only gateways hear that are offline now.
    pub offline: usize,
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
    /// Class B: how often the group listens.
    pub ping_slots: Option<PingSlotPeriodicity>,
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
    /// From one frame to the next at least, beside what the air allows: ping slots, or uplinks to be answered.
    pub spacing: Duration,
    /// From the start of the window until the last fragment.
    pub distribution: Duration,
    /// What is to be expected of it.
    pub outlook: SessionOutlook,
    /// The patch it distributes; `None`: the image of the task.
    pub delta: Option<Sha256>,
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
    /// The image does not fit it: the field of the image that stands against it.
    pub unfit: Option<&'static str>,
}

/// Why a task cannot be carried out. The caller's fault: it names the field to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No device is left to serve.
    #[error("no device can be served")]
    NoDevices(Vec<SkippedDevice>),
    /// The image does not fit these devices.
    #[error("the image does not fit {} devices", .0.len())]
    Unfit(Vec<SkippedDevice>),
    /// A field of the task stands in the way.
    #[error("{field}: {message}")]
    Field {
        /// Name of the field in the API.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// It cannot work, whatever a single field says.
    #[error("{message}")]
    Refused {
        /// Why.
        refusal: PlanRefusal,
        /// The field of the API to change; empty if it is none.
        field: &'static str,
        /// The figures, for people.
        message: String,
    },
}

impl PlanError {
    /// It may pass without anything being changed in the order.
    pub fn may_pass(&self) -> bool {
        use PlanRefusal::{ClockDisagrees, GatewaysOffline};
        let passing = |refusal: &PlanRefusal| matches!(refusal, GatewaysOffline | ClockDisagrees);
        matches!(self, Self::Refused { refusal, .. } if passing(refusal))
    }
}

/// Why a plan is refused that is well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanRefusal {
    /// More fragments than TS004 can number.
    ImageTooLarge,
    /// No device can be set up before the window that was asked for.
    SetupTooShort,
    /// The duty cycle does not carry the frames before the deadline.
    DutyCycle,
    /// The coded fragments allowed are not enough for the loss that is expected.
    Redundancy,
    /// Every gateway that hears a device of the task is offline.
    GatewaysOffline,
    /// The server's clock is not what its gateways' GPS time says.
    ClockDisagrees,
    /// The image is not signed as the policy of a device model demands.
    NotTrusted,
}

/// Devices that can share frames: same region, packages, code and fragment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey {
    pub(super) region: Region,
    pub(super) class: DeviceClass,
    pub(super) multicast_version: PackageVersion,
    pub(super) fragmentation_version: PackageVersion,
    pub(super) frag_port: u8,
    pub(super) data_rate: u8,
    /// Somebody asked for that data rate; else the planner chooses.
    pub(super) rate_asked: bool,
    pub(super) frequency_hz: u32,
    pub(super) frag_size: u8,
    /// Most the decoder takes.
    pub(super) max_frag_size: u8,
    /// Another code comes first: who refuses it goes on in a later session.
    pub(super) frag_algo: Reverse<FragAlgo>,
    /// The patch these devices are sent in place of the image.
    pub(super) delta: Option<Sha256>,
    pub(super) descriptor: [u8; 4],
}

/// Makes the forecast.
pub fn plan(request: &PlanRequest<'_>) -> Result<Plan, PlanError> {
    check_order(request)?;
    gate::image(request)?;
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
    let mut course = Course::new(request, prepare_at);
    for wave in waves(&request.task.waves, &served) {
        let members: Vec<(SessionKey, &FleetDevice)> = wave
            .iter()
            .filter_map(|dev_eui| placed.get(dev_eui).copied())
            .collect();
        let sessions = with_rates(request, &course.usable, members);
        let devices = || sessions.values().flatten().copied();
        let unicast = Unicast::of(devices(), &course.usable, request.task.success);
        let budget = unicast.setup_time(request.ledgers, request.now);
        let start = Start {
            wave: next_wave(&planned),
            prepare_at: course.begins,
            setup: setup_time(devices()).max(budget),
            window: course.window_start.take(),
        };
        let mut of_wave = Vec::new();
        for (key, devices) in sessions {
            let made = session(request, key, &devices, &start, &course.usable, &mut skipped)?;
            of_wave.extend(made);
        }
        course.run(&mut of_wave, &start)?;
        course.keep_to_calendar(&of_wave);
        planned.extend(of_wave);
    }
    // Sessions left without devices were dropped: numbers stay dense.
    for (number, session) in (0u16..).zip(&mut planned) {
        session.number = number;
    }
    if planned.is_empty() && skipped.iter().all(|s| s.evidence.ends_with(UNNUMBERED)) {
        return Err(nothing_left(request, skipped));
    }
    gate::devices(request, &skipped)?;
    if planned.is_empty() {
        return Err(nothing_left(request, skipped));
    }
    if let RebootMode::AtTime { at } = request.task.reboot {
        course.reboots_at(at, completion_time(request));
    }
    let finish = course.finish;
    let slack = slack(request) * u32::from(next_wave(&planned)) + again(&planned);
    let slack = slack + checks::longest_paced(&planned) + retries(request, &planned);
    let deadline = match request.task.deadline {
        Some(deadline) => deadline,
        // Nineteen runs in twenty end before the high end; the slack is for the twentieth and for faults.
        None => {
            let (end, calendar) = (
                finish.expected.max(finish.high),
                &request.task.rules.calendar,
            );
            calendar::after_open(calendar, end, slack).unwrap_or(end + slack)
        }
    };
    checks::deadline(&planned, finish, deadline)?;
    let members = planned.iter().flat_map(|s| &s.devices);
    let known: Vec<&FleetDevice> = members
        .filter_map(|d| placed.get(d).map(|(_, device)| *device))
        .collect();
    let offline = checks::gateways(request, &known, &course.usable)?;
    checks::clock(request, &planned)?;
    Ok(Plan {
        air: course.air(&planned, &known),
        unheard: known.iter().filter(|d| d.status.links.is_empty()).count(),
        offline,
        sessions: planned,
        skipped,
        prepare_at,
        finish_at: finish.expected,
        deadline,
        finish,
    })
}

/// Nobody can be served: because the image is too large, or for many reasons.
fn nothing_left(request: &PlanRequest<'_>, skipped: Vec<SkippedDevice>) -> PlanError {
    let too_large = !skipped.is_empty() && skipped.iter().all(|s| s.evidence.ends_with(UNNUMBERED));
    if !too_large {
        return PlanError::NoDevices(skipped);
    }
    PlanError::Refused {
        refusal: PlanRefusal::ImageTooLarge,
        field: match request.task.options.frag_size {
            Some(_) => "frag_size",
            None => "images",
        },
        message: format!(
            "{} bytes are more than {} fragments{UNNUMBERED}",
            request.image.size_bytes,
            sizing::MAX_N
        ),
    }
}

/// How the evidence of devices ends whose data rate would need too many fragments.
const UNNUMBERED: &str = ", and TS004 can number no more";

impl PlanRequest<'_> {
    /// Bytes of a patch of the task, or of its image.
    pub(super) fn size_of(&self, delta: Option<Sha256>) -> u32 {
        let patch = self.deltas.iter().find(|d| Some(d.sha256) == delta);
        patch.map_or(self.image, |patch| patch).size_bytes
    }
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
pub(super) struct Start {
    pub(super) wave: u16,
    pub(super) prepare_at: Timestamp,
    pub(super) setup: Duration,
    /// When its window is to open, if the operator said so.
    pub(super) window: Option<Timestamp>,
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
            unfit: None,
        }))
    };
    let missing = |what: &str| {
        skip(
            DeviceReason::PackageNotSupported,
            format!("the profile has no {what} package"),
        )
    };
    if device.status.version(&request.image.component) == Some(request.image.target_version) {
        return skip(
            DeviceReason::AlreadyCurrent,
            format!("runs {:#010x} already", request.image.target_version),
        );
    }
    if let Some(unfit) = gate::unfit(request, device) {
        return Ok(Err(SkippedDevice {
            dev_eui: device.settings.dev_eui,
            reason: unfit.reason,
            evidence: unfit.evidence,
            unfit: Some(unfit.field),
        }));
    }
    let heard_by = &device.status.links;
    let known = |eui: &GatewayEui| request.gateways.iter().any(|g| g.eui == *eui);
    if !heard_by.is_empty() && !heard_by.keys().any(known) {
        return skip(
            DeviceReason::NoGateway,
            "only gateways have heard it that the network no longer has".to_owned(),
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
    let asked = task.options.class.or_else(|| group.map(|g| g.class));
    let class = asked.unwrap_or_else(|| default_class(request, profile));
    let has_class = match class {
        DeviceClass::A => true,
        DeviceClass::B => profile.supports_class_b && profile.region.class_b().is_some(),
        DeviceClass::C => profile.supports_class_c,
    };
    if !has_class {
        return skip(
            DeviceReason::PackageNotSupported,
            format!("the profile has no class {class:?}"),
        );
    }
    let asked_rate = task
        .options
        .data_rate
        .or_else(|| group.and_then(|g| g.data_rate));
    // A device that is answered its uplinks can always be answered in RX2.
    let asked_rate =
        asked_rate.or_else(|| (class == DeviceClass::A).then(|| profile.region.rx2().1));
    let frequency_hz = task
        .options
        .frequency_hz
        .or_else(|| group.and_then(|g| g.frequency_hz))
        .unwrap_or_else(|| profile.region.default_multicast_hz());
    // Left to the planner, it is chosen once all devices are known; here any rate shows that there is one.
    let some_rate = || {
        let rates = |size| link::candidate_rates(profile.region, frequency_hz, size);
        let carry = rates(task.options.frag_size).first().copied();
        carry.or_else(|| rates(None).last().copied())
    };
    let data_rate = asked_rate
        .or_else(some_rate)
        .unwrap_or_else(|| profile.region.rx2().1);
    let Some(largest) = sizing::largest_fragment(profile.region, data_rate) else {
        let message = format!("{data_rate} carries no fragment in {}", profile.region);
        return Err(PlanError::Field {
            field: "data_rate",
            message,
        });
    };
    if air::band_of(profile.region, frequency_hz, data_rate).is_none() {
        let message = format!(
            "{frequency_hz} Hz at data rate {data_rate} lies in no sub-band of {}",
            profile.region
        );
        return Err(PlanError::Field {
            field: "frequency_hz",
            message,
        });
    }
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
    let delta = gate::delta(request, device).map(|delta| delta.sha256);
    Ok(Ok(SessionKey {
        delta,
        descriptor: task.options.descriptor.unwrap_or_else(|| {
            let part = profile.component(&request.image.component);
            let number = part.map_or(0, |part| part.number);
            let target = request.image.target_version;
            profile.descriptor.bytes(number, delta.is_some(), target)
        }),
        region: profile.region,
        class,
        multicast_version: multicast.version,
        fragmentation_version: frag_package.version,
        frag_port: frag_package.f_port,
        data_rate,
        rate_asked: asked_rate.is_some(),
        frequency_hz,
        frag_size: frag_size.min(profile.limits.max_frag_size),
        max_frag_size: profile.limits.max_frag_size,
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
    usable: &BTreeSet<GatewayEui>,
    skipped: &mut Vec<SkippedDevice>,
) -> Result<Option<PlannedSession>, PlanError> {
    let task = request.task;
    let length = usize::try_from(request.size_of(key.delta)).unwrap_or(usize::MAX);
    // A size that was asked for is kept, good or bad; the forecast says if it is bad.
    let asked = request.task.options.frag_size == Some(key.frag_size);
    let layout = if asked {
        BlockLayout::new(length, key.frag_size)
    } else {
        sizing::layout(length, key.frag_size)
    };
    let layout = match layout {
        Ok(layout) => layout,
        Err(ParameterError::NbFrag(count)) => {
            skipped.extend(devices.iter().map(|d| SkippedDevice {
                dev_eui: d.settings.dev_eui,
                reason: DeviceReason::DecoderLimit,
                evidence: format!(
                    "{count} fragments of {} bytes at data rate {}{UNNUMBERED}",
                    key.frag_size, key.data_rate
                ),
                unfit: Some("size_bytes"),
            }));
            return Ok(None);
        }
        Err(error) => {
            return Err(PlanError::Field {
                field: "frag_size",
                message: error.to_string(),
            });
        }
    };
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
        unfit: Some("size_bytes"),
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
    let Reverse(frag_algo) = key.frag_algo;
    let usable = usable_gateways(request, key.class, usable)?;
    let gateways = covering_gateways(served.iter().copied(), &usable, key.region, key.data_rate);
    let (low, expected, high) = outlook::fragments(&served, frag_algo, layout.nb_frag);
    checks::redundancy(request, &served, frag_algo, layout.nb_frag)?;
    let bandwidth_hz = key
        .region
        .data_rate(key.data_rate, Direction::Downlink)
        .map_or(0, |rate| rate.bandwidth_hz());
    let senders = u32::try_from(gateways.len().max(1)).unwrap_or(1);
    let interval = frame_interval(key.region, key.frequency_hz, bandwidth_hz, airtime);
    // Gateways send one after the other, in class B all at once, and each keeps the share of its air that is allowed.
    let share = gateways.iter().map(|g| air::share_of(request.gateways, *g));
    let share = u32::from(share.min().unwrap_or(1000));
    let turns = match key.class {
        DeviceClass::B => 1,
        DeviceClass::A | DeviceClass::C => senders,
    };
    let interval = interval
        .max((airtime + sizing::FRAME_GAP) * turns)
        .max(airtime * 1000 / share);
    let ping_slots = (key.class == DeviceClass::B).then(|| {
        let asked = task.options.ping_slots;
        asked.unwrap_or_else(|| sizing::ping_periodicity(airtime, interval))
    });
    let spacing = match (key.class, ping_slots) {
        (DeviceClass::A, _) => sizing::CLASS_A_SPACING,
        (_, Some(slots)) => sizing::ping_interval(slots, airtime, Duration::ZERO),
        _ => Duration::ZERO,
    };
    let interval = interval.max(spacing);
    let poll = Duration::from_secs(16 << block_ack_delay) + sizing::ANSWER_SLACK;
    let distribution = sizing::WINDOW_GUARD + interval * expected + poll * 3;
    // Twice the high figure and twice the rounds: a loss nobody foresaw must not end the window.
    let window = sizing::WINDOW_GUARD + interval * (high * 2) + poll * 8;
    let earliest = begin.prepare_at + begin.setup;
    let start = match begin.window {
        Some(start) => sizing::window_at(key.class, start),
        None => sizing::window_opens(key.class, earliest),
    };
    let window = SessionWindow {
        number: 0,
        start,
        time_out: sizing::time_out(key.class, window),
        class: key.class,
        closes_at: None,
    };
    let window = allowed(request, window, begin.window.is_some())?;
    Ok(Some(PlannedSession {
        number: 0,
        wave: begin.wave,
        region: key.region,
        class: key.class,
        ping_slots,
        data_rate: key.data_rate,
        frequency_hz: key.frequency_hz,
        devices: served.iter().map(|d| d.settings.dev_eui).collect(),
        gateways,
        multicast_version: key.multicast_version,
        frag_port: key.frag_port,
        block: BlockParameters {
            version: key.fragmentation_version,
            frag_algo,
            frag_index: 0,
            nb_frag: layout.nb_frag,
            frag_size: layout.frag_size,
            padding: layout.padding,
            descriptor: key.descriptor,
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
        spacing,
        distribution,
        outlook: SessionOutlook::default(),
        delta: key.delta,
    }))
}

/// The class of a device's sessions where nobody says: the fastest it has that the gateways serve. Class A is slow, and
/// every device has it.
fn default_class(request: &PlanRequest<'_>, profile: &DeviceProfile) -> DeviceClass {
    if profile.supports_class_c {
        return DeviceClass::C;
    }
    let beacons = request.gateways.iter().any(GatewaySettings::sends_class_b);
    if profile.supports_class_b && beacons && profile.region.class_b().is_some() {
        DeviceClass::B
    } else {
        DeviceClass::A
    }
}

/// Gateways that can send in the windows of a class: class B needs GPS time and beacons.
fn usable_gateways(
    request: &PlanRequest<'_>,
    class: DeviceClass,
    online: &BTreeSet<GatewayEui>,
) -> Result<BTreeSet<GatewayEui>, PlanError> {
    if class != DeviceClass::B {
        return Ok(online.clone());
    }
    let usable: BTreeSet<GatewayEui> = request
        .gateways
        .iter()
        .filter(|g| g.sends_class_b() && online.contains(&g.eui))
        .map(|g| g.eui)
        .collect();
    if usable.is_empty() {
        return Err(PlanError::Field {
            field: "device_class",
            message: "no gateway that is online has GPS time and sends beacons".to_owned(),
        });
    }
    Ok(usable)
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
        Some(fitted) => {
            let start = sizing::window_at(fitted.class, fitted.start);
            return Ok(SessionWindow { start, ..fitted });
        }
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

/// From the start of set-up until all devices are ready: a first uplink, the exchanges, and one lost exchange; where
/// more is known to get lost, as long as it takes all of them in one run of two, up to six intervals.
fn setup_time<'a>(devices: impl Iterator<Item = &'a FleetDevice>) -> Duration {
    const EXCHANGE: Duration = Duration::from_secs(6);
    let devices: Vec<&FleetDevice> = devices.collect();
    let each = |intervals: u32| {
        let waits = devices.iter().map(|device| {
            let exchanges = EXCHANGE * unicast::setup_commands(device);
            device.profile.uplink_interval * intervals + exchanges
        });
        waits.max().unwrap_or_default()
    };
    let all = all_within(&outlook::setup_waits(&devices), 0.5);
    // One gateway hands over a few set-up frames a second.
    let count = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    all.clamp(each(3), each(6)) + Duration::from_millis(500) * count
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
