//! The forecast: what a task will cost and whether it can work, before a frame is sent.
//!
//! It groups devices into distribution sessions, chooses data rate, block and window, estimates frames, air time and
//! finish, and names every reason why the task or a device cannot be served. It changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::erasure::BlockSize;
use crate::lorawan::PackageVersion;
use crate::lorawan::class_b::PingSlotPeriodicity;
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::lorawan::region::Region;
use crate::record::{
    AirLedger, BlockParameters, ClockReading, DeviceClass, DeviceReason, FleetDevice, FragAlgo,
    GatewaySettings, Image, InstallMode, MulticastGroup, RebootMode, SessionWindow, Sha256,
    SuccessCriterion, Task,
};
use crate::time::Timestamp;

use super::air::GatewayAir;
use super::calendar;
use super::course::{Course, with_rates};
use super::outlook::{self, SessionOutlook, Span};
use super::place::{self, SessionKey};
use super::plan_session::{Start, session};
use super::unicast::{self, Unicast};
use super::waits::all_within;
use super::waves::waves;
use super::{checks, gate, needs, sizing};

pub use super::link::{covering_gateways, turns};

/// What a forecast is made from.
#[derive(Clone, Debug)]
pub struct PlanRequest<'a> {
    /// The moment of asking.
    pub now: Timestamp,
    /// The order.
    pub task: &'a Task,
    /// Its images, in order.
    pub images: &'a [&'a Image],
    /// Patches to them that devices may be sent in their place.
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
    /// The patch it distributes; `None`: its image itself.
    pub delta: Option<Sha256>,
    /// Its image: the place among those of the task, from 0.
    pub image: u8,
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

/// Makes the forecast.
pub fn plan(request: &PlanRequest<'_>) -> Result<Plan, PlanError> {
    check_order(request)?;
    request
        .images
        .iter()
        .try_for_each(|image| gate::image(image))?;
    needs::check(request.task, request.images)?;
    let mut skipped = Vec::new();
    let mut placed = Placed::new();
    for device in &request.devices {
        match place::places(request, device)? {
            Ok(keys) => {
                placed.insert(device.settings.dev_eui, (keys, device));
            }
            Err(skip) => skipped.push(skip),
        }
    }
    let prepare_at = request
        .task
        .prepare_after
        .map_or(request.now, |after| after.max(request.now));
    let (mut course, planned) = lay_out(request, &mut placed, prepare_at, &mut skipped)?;
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
    let deadline = request
        .task
        .deadline
        .unwrap_or_else(|| default_deadline(request, &planned, finish));
    checks::deadline(&planned, finish, deadline)?;
    let members: BTreeSet<DevEui> = planned.iter().flat_map(|s| &s.devices).copied().collect();
    let known: Vec<&FleetDevice> = members
        .iter()
        .filter_map(|d| placed.get(d).map(|(_, device)| *device))
        .collect();
    let offline = checks::gateways(request, &known, &course.usable)?;
    checks::clock(request, &planned)?;
    Ok(Plan {
        air: course.air(&planned),
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

/// The devices served, with the sessions they belong to.
type Placed<'a> = BTreeMap<DevEui, (Vec<SessionKey>, &'a FleetDevice)>;

/// Lays the sessions out in time, wave after wave and in each of them image after image. Devices for which that shows
/// that they cannot be served join those skipped: for one image as for all, so that it is done anew without them.
fn lay_out<'a>(
    request: &'a PlanRequest<'a>,
    placed: &mut Placed<'a>,
    prepare_at: Timestamp,
    skipped: &mut Vec<SkippedDevice>,
) -> Result<(Course<'a>, Vec<PlannedSession>), PlanError> {
    loop {
        let mut left_out = Vec::new();
        let laid_out = lay_out_once(request, placed, prepare_at, &mut left_out)?;
        let before = placed.len();
        for skip in left_out {
            if placed.remove(&skip.dev_eui).is_some() {
                skipped.push(skip);
            }
        }
        // Each time there are fewer devices.
        if request.images.len() < 2 || placed.len() == before {
            return Ok(laid_out);
        }
    }
}

fn lay_out_once<'a>(
    request: &'a PlanRequest<'a>,
    placed: &Placed<'a>,
    prepare_at: Timestamp,
    skipped: &mut Vec<SkippedDevice>,
) -> Result<(Course<'a>, Vec<PlannedSession>), PlanError> {
    let served: Vec<DevEui> = placed.keys().copied().collect();
    let mut planned = Vec::new();
    let mut course = Course::new(request, prepare_at);
    for wave in waves(&request.task.waves, &served) {
        let number = next_wave(&planned);
        for (image, _) in (0u8..).zip(request.images) {
            let members: Vec<(SessionKey, &FleetDevice)> = wave
                .iter()
                .filter_map(|dev_eui| {
                    let (keys, device) = placed.get(dev_eui)?;
                    let key = keys.iter().find(|key| key.image == image)?;
                    Some((*key, *device))
                })
                .collect();
            if members.is_empty() {
                continue;
            }
            let sessions = with_rates(request, &course.usable, members);
            let devices = || sessions.values().flatten().copied();
            let success = request.success_of(image);
            let unicast = Unicast::of(devices(), &course.usable, success);
            let budget = unicast.setup_time(request.ledgers, request.now);
            let start = Start {
                wave: number,
                prepare_at: course.begins,
                setup: setup_time(devices()).max(budget),
                window: course.window_start.take(),
                success,
            };
            let mut side_by_side = Vec::new();
            for (key, devices) in sessions {
                let made = session(request, key, &devices, &start, &course.usable, skipped)?;
                side_by_side.extend(made);
            }
            course.run(&mut side_by_side, &start)?;
            course.keep_to_calendar(&side_by_side);
            planned.extend(side_by_side);
        }
        course.end_wave();
    }
    // Sessions left without devices were dropped: numbers stay dense.
    for (number, session) in (0u16..).zip(&mut planned) {
        session.number = number;
    }
    Ok((course, planned))
}

/// When a task gives up whose order does not say. Nineteen runs in twenty end before the high end; the slack is for the
/// twentieth and for faults.
fn default_deadline(
    request: &PlanRequest<'_>,
    planned: &[PlannedSession],
    finish: Span,
) -> Timestamp {
    let rounds: BTreeSet<(u16, u8)> = planned.iter().map(|s| (s.wave, s.image)).collect();
    let rounds = u32::try_from(rounds.len()).unwrap_or(u32::MAX);
    let slack = slack(request) * rounds + again(planned);
    let slack = slack + checks::longest_paced(planned) + retries(request, planned);
    let (end, calendar) = (
        finish.expected.max(finish.high),
        &request.task.rules.calendar,
    );
    calendar::after_open(calendar, end, slack).unwrap_or(end + slack)
}

/// Nobody can be served: because the image is too large, or for many reasons.
fn nothing_left(request: &PlanRequest<'_>, skipped: Vec<SkippedDevice>) -> PlanError {
    let too_large = !skipped.is_empty() && skipped.iter().all(|s| s.evidence.ends_with(UNNUMBERED));
    if !too_large {
        return PlanError::NoDevices(skipped);
    }
    let sizes = request.images.iter().map(|image| image.size_bytes);
    PlanError::Refused {
        refusal: PlanRefusal::ImageTooLarge,
        field: match request.task.options.frag_size {
            Some(_) => "frag_size",
            None => "images",
        },
        message: format!(
            "{} bytes are more than {} fragments{UNNUMBERED}",
            sizes.max().unwrap_or_default(),
            sizing::MAX_N
        ),
    }
}

/// How the evidence of devices ends whose data rate would need too many fragments.
pub(super) const UNNUMBERED: &str = ", and TS004 can number no more";

impl PlanRequest<'_> {
    /// Bytes of a patch of the task, or of the image at this place.
    pub(super) fn size_of(&self, image: u8, delta: Option<Sha256>) -> u32 {
        let patch = self.deltas.iter().find(|d| Some(d.sha256) == delta);
        let image = self.images.get(usize::from(image));
        patch.or(image).map_or(0, |it| it.size_bytes)
    }

    /// What devices come to with an image: those that wait for one reboot with the others are only checked.
    pub(super) fn success_of(&self, image: u8) -> SuccessCriterion {
        let last = usize::from(image) + 1 >= self.images.len();
        let waits = !last && self.task.install == InstallMode::Together;
        match self.task.success {
            SuccessCriterion::Running if waits => SuccessCriterion::Verified,
            success => success,
        }
    }
}

impl Plan {
    /// The devices of a wave.
    pub fn wave(&self, number: u16) -> Vec<DevEui> {
        let of_wave = self.sessions.iter().filter(|s| s.wave == number);
        let devices: BTreeSet<DevEui> = of_wave.flat_map(|s| s.devices.iter().copied()).collect();
        devices.into_iter().collect()
    }

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
    if request.images.is_empty() {
        return fail("images", "missing");
    }
    if request.images.iter().any(|image| image.size_bytes == 0) {
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

/// The number after the last wave that has sessions.
fn next_wave(planned: &[PlannedSession]) -> u16 {
    planned.last().map_or(0, |last| last.wave + 1)
}

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

/// What trying failed devices again takes: at worst with all images.
fn retries(request: &PlanRequest<'_>, sessions: &[PlannedSession]) -> Duration {
    let policy = &request.task.rules.retry;
    let mut longest: BTreeMap<u8, Duration> = BTreeMap::new();
    for session in sessions {
        let takes = longest.entry(session.image).or_default();
        *takes = (session.setup + session.distribution).max(*takes);
    }
    let once: Duration = longest.values().sum();
    let once = once + completion_time(request) + policy.pause;
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
