//! PlanTask: the forecast, from the records it is made of to the message. A plan that cannot work is an answer too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::proto::v1;
use crate::record::{
    ClockReading, FleetDevice, Gateway, GatewaySettings, Image, MulticastGroup, ReleaseState,
    Sha256, Task, TaskId,
};
use crate::store::{Catalog, Page};
use crate::task::{self, PlanError, PlanRefusal, PlanRequest, PlannedSession, SkippedDevice};
use crate::time::Timestamp;

use super::errors::{ApiError, Blocker};
use super::fields::{show_length, show_moment, tenant};
use super::task_records::show_frag_algo;
use super::{Api, names, plan_outlook, regions, task_part_records};

/// Skipped devices an answer lists.
const MOST_SKIPPED: usize = 1000;

/// All a plan is made from.
pub(super) struct Order {
    pub(super) task: Task,
    /// In their order.
    pub(super) images: Vec<Image>,
    /// Patches to them that are let out.
    pub(super) deltas: Vec<Image>,
    pub(super) groups: Vec<MulticastGroup>,
    /// Devices named one by one, and the members of groups.
    pub(super) devices: BTreeSet<DevEui>,
    /// Those of them that other active tasks hold.
    pub(super) held: Vec<(DevEui, TaskId)>,
}

impl<S: Catalog> Api<S> {
    /// Reads what a draft names.
    pub(super) async fn order(&self, task: Task) -> Result<Order, ApiError> {
        let mut images = Vec::with_capacity(task.images.len());
        for sha256 in &task.images {
            let image = self.store().image(&tenant(), *sha256).await?;
            let missing = || ApiError::NotFound(names::name("images", sha256));
            images.push(image.ok_or_else(missing)?);
        }
        let mut groups = Vec::new();
        for id in &task.groups {
            let group = self.store().multicast_group(&tenant(), id).await?;
            let group =
                group.ok_or_else(|| ApiError::NotFound(names::name("multicastGroups", id)))?;
            groups.push(group);
        }
        let named = self.devices_of_task(&task.id).await?;
        let mut devices: BTreeSet<DevEui> = named.iter().map(|device| device.dev_eui).collect();
        devices.extend(groups.iter().flat_map(|group| &group.devices));
        let all: Vec<DevEui> = devices.iter().copied().collect();
        let mut held = self.store().active_tasks_of(&all).await?;
        held.retain(|(_, holder)| *holder != task.id);
        let deltas = self.deltas_to(&task.images).await?;
        Ok(Order {
            task,
            images,
            deltas,
            groups,
            devices,
            held,
        })
    }

    /// The patches to images that devices may be sent.
    async fn deltas_to(&self, targets: &[Sha256]) -> Result<Vec<Image>, ApiError> {
        let mut images = self.all_images().await?;
        images.retain(|delta| {
            let patch = delta.facts.delta;
            patch.is_some_and(|patch| targets.contains(&patch.target))
                && delta.release.state == ReleaseState::Active
        });
        Ok(images)
    }

    /// Why the policy of a device model keeps the images of an order off the air.
    pub(super) async fn distrust_of(
        &self,
        order: &Order,
        fleet: &[FleetDevice],
    ) -> Result<Option<PlanError>, ApiError> {
        let models = fleet.iter().map(|d| d.settings.model.clone()).collect();
        let images: Vec<&Image> = order.images.iter().collect();
        let why = self.distrust(&images, &models).await?;
        Ok(why.map(|message| PlanError::Refused {
            refusal: PlanRefusal::NotTrusted,
            field: "images",
            message,
        }))
    }

    /// The forecast of an order.
    pub(super) async fn forecast(&self, order: &Order) -> Result<v1::Plan, ApiError> {
        let fleet = self.fleet(&order.devices).await?;
        let distrust = self.distrust_of(order, &fleet).await?;
        let known = self.known_gateways().await?;
        let images: Vec<&Image> = order.images.iter().collect();
        let deltas: Vec<&Image> = order.deltas.iter().collect();
        let ledgers = self.store().air_ledgers().await?;
        let request = PlanRequest {
            ledgers: &ledgers,
            heard: &known.heard,
            clocks: &known.clocks,
            now: self.now(),
            task: &order.task,
            images: &images,
            deltas: &deltas,
            devices: fleet.iter().collect(),
            groups: &order.groups,
            gateways: &known.settings,
        };
        let made = distrust.map_or_else(|| task::plan(&request), Err);
        Ok(show_plan(order, made, request.now))
    }

    /// The devices of an order, as a plan wants them.
    pub(super) async fn fleet(
        &self,
        devices: &BTreeSet<DevEui>,
    ) -> Result<Vec<FleetDevice>, ApiError> {
        let mut profiles = BTreeMap::new();
        let mut fleet = Vec::new();
        for dev_eui in devices {
            let device = self.store().device(&tenant(), *dev_eui).await?;
            let keys = self.store().device_keys(*dev_eui).await?;
            let (Some(device), Some(keys)) = (device, keys) else {
                return Err(ApiError::NotFound(names::name("devices", dev_eui)));
            };
            let id = &device.settings.profile;
            let profile = match profiles.get(id) {
                Some(profile) => Arc::clone(profile),
                None => {
                    let profile = self.store().device_profile(&tenant(), id).await?;
                    let missing = || ApiError::NotFound(names::name("deviceProfiles", id));
                    let profile = Arc::new(profile.ok_or_else(missing)?);
                    profiles.insert(id.clone(), Arc::clone(&profile));
                    profile
                }
            };
            fleet.push(FleetDevice {
                settings: device.settings,
                status: device.status,
                keys,
                profile,
            });
        }
        Ok(fleet)
    }

    /// All gateways, and when each was heard last.
    async fn known_gateways(&self) -> Result<KnownGateways, ApiError> {
        let mut known = KnownGateways::default();
        loop {
            let page = Page {
                size: 1000,
                after: known.settings.last().map(|gateway| gateway.eui.to_string()),
            };
            let batch = self.store().gateways(&page).await?;
            let last = batch.len() < 1000;
            for Gateway { settings, status } in batch {
                // Readings of an earlier run say nothing of the clock of this one.
                let of_this_run = |reading: &ClockReading| reading.at >= self.core.started_at;
                known.clocks.extend(status.clock.filter(of_this_run));
                let seen = status.last_seen.map(|seen| (settings.eui, seen));
                known.heard.extend(seen);
                known.settings.push(settings);
            }
            if last {
                return Ok(known);
            }
        }
    }
}

/// What a forecast has to know of the gateways.
#[derive(Default)]
struct KnownGateways {
    settings: Vec<GatewaySettings>,
    heard: BTreeMap<GatewayEui, Timestamp>,
    clocks: Vec<ClockReading>,
}

fn show_plan(order: &Order, made: Result<task::Plan, PlanError>, now: Timestamp) -> v1::Plan {
    let mut shown = v1::Plan {
        task: names::name("tasks", &order.task.id),
        ..v1::Plan::default()
    };
    if !order.held.is_empty() {
        shown.problems.push(held_problem(&order.held));
    }
    let skipped = match made {
        Ok(plan) => {
            show_figures(&mut shown, &order.task, &plan);
            plan_outlook::show(&mut shown, &plan);
            if !plan.skipped.is_empty() {
                shown.problems.push(skipped_problem(plan.skipped.len()));
            }
            shown.problems.extend(plan_outlook::warnings(&plan));
            let not_claimed = plan.devices_without(order.task.options.frag_algo);
            if not_claimed > 0 {
                shown.problems.push(not_claimed_problem(not_claimed));
            }
            plan.skipped
        }
        Err(error) => {
            shown
                .problems
                .push(blocking_problem(&error, Some((&order.task, now))));
            match error {
                PlanError::NoDevices(skipped) | PlanError::Unfit(skipped) => skipped,
                PlanError::Field { .. } | PlanError::Refused { .. } => Vec::new(),
            }
        }
    };
    shown.skipped_device_count = u32::try_from(skipped.len()).unwrap_or(u32::MAX);
    shown.skipped_devices = show_skipped(skipped);
    shown.problems.sort_by_key(|problem| !problem.blocking);
    shown.startable = !shown.problems.iter().any(|problem| problem.blocking);
    shown
}

fn show_figures(shown: &mut v1::Plan, task: &Task, plan: &task::Plan) {
    let mut frames = v1::FrameForecast::default();
    let mut airtime: BTreeMap<GatewayEui, u64> = BTreeMap::new();
    for session in &plan.sessions {
        let senders = u64::try_from(session.gateways.len().max(1)).unwrap_or(1);
        frames.low += u64::from(session.frames.low) * senders;
        frames.expected += u64::from(session.frames.expected) * senders;
        frames.high += u64::from(session.frames.high) * senders;
        for gateway in &session.gateways {
            *airtime.entry(*gateway).or_default() += micros(session.airtime);
        }
        shown.sessions.push(show_session(task, session));
        shown.problems.extend(warnings(session, plan.prepare_at));
    }
    let devices = plan.sessions.iter().flat_map(|session| &session.devices);
    let devices: BTreeSet<&DevEui> = devices.collect();
    shown.device_count = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    shown.sessions.sort_by_key(|session| {
        session
            .window_start
            .as_ref()
            .map_or((0, 0), |start| (start.seconds, start.nanos))
    });
    let setup = plan.sessions.iter().map(|session| session.setup).max();
    shown.setup_duration = setup.map(show_length);
    shown.frames = Some(frames);
    shown.gateways = airtime
        .into_iter()
        .map(|(gateway, airtime_us)| v1::GatewayAirtime {
            gateway: names::name("gateways", gateway),
            airtime_us,
        })
        .collect();
    shown.expected_start_time = Some(show_moment(plan.prepare_at));
    shown.expected_end_time = Some(show_moment(plan.finish_at));
}

/// What does not keep a session from starting, but should be known.
fn warnings(
    session: &PlannedSession,
    prepare_at: Timestamp,
) -> impl Iterator<Item = v1::PlanProblem> {
    let no_gateway = session.gateways.is_empty().then(|| {
        let message =
            "no gateway has heard a device of a session yet; air time is reckoned for one";
        ("", v1::PlanProblemReason::NoGateway, message.to_owned())
    });
    let early = session.opens_early(prepare_at).then(|| {
        let seconds = session.setup.as_secs();
        let message = format!("setting up all devices takes about {seconds} s; some will be late");
        (
            "window_start",
            v1::PlanProblemReason::SetupTooShort,
            message,
        )
    });
    let weak = session.has_weak_size().then(|| {
        let message = format!(
            "{} fragments decode badly; another size avoids it",
            session.block.nb_frag
        );
        ("frag_size", v1::PlanProblemReason::WeakBlockSize, message)
    });
    [no_gateway, early, weak]
        .into_iter()
        .flatten()
        .map(|(field, reason, message)| v1::PlanProblem {
            field: field.to_owned(),
            reason: reason.into(),
            message,
            blocking: false,
        })
}

fn show_session(task: &Task, session: &PlannedSession) -> v1::PlannedSession {
    let outlook = &session.outlook;
    v1::PlannedSession {
        last_fragment: Some(plan_outlook::show_span(outlook.last_fragment)),
        ready_percent: f64::from(outlook.ready_permille) / 10.0,
        in_window_percent: f64::from(outlook.in_window_permille) / 10.0,
        success_percent: f64::from(outlook.by_deadline_permille) / 10.0,
        device_energy_joules: f64::from(outlook.energy_mj) / 1000.0,
        worst_device_energy_joules: f64::from(outlook.worst_energy_mj) / 1000.0,
        window_end: Some(show_moment(session.window.end())),
        wave: u32::from(session.wave) + 1,
        device_count: u32::try_from(session.devices.len()).unwrap_or(u32::MAX),
        region: regions::show(session.region).into(),
        device_class: regions::show_class(session.class).into(),
        data_rate: session.data_rate.into(),
        frequency_hz: session.frequency_hz,
        fragmentation_version: session.block.version.number().into(),
        frag_size: session.block.frag_size.into(),
        nb_frag: session.block.nb_frag.into(),
        padding_bytes: session.block.padding.into(),
        fragments: Some(v1::FrameForecast {
            low: session.frames.low.into(),
            expected: session.frames.expected.into(),
            high: session.frames.high.into(),
        }),
        expected_loss_percent: f64::from(outlook.loss_permille) / 10.0,
        gateways: session
            .gateways
            .iter()
            .map(|gateway| v1::GatewayAirtime {
                gateway: names::name("gateways", gateway),
                airtime_us: micros(session.airtime),
            })
            .collect(),
        window_start: Some(show_moment(session.window.start)),
        expected_end_time: Some(show_moment(session.window.start + session.distribution)),
        frag_algo: show_frag_algo(session.block.frag_algo).into(),
        ping_slot_periodicity: session.ping_slots.map(|slots| slots.number().into()),
        image: task_part_records::image_name(task, session.image),
        delta: session
            .delta
            .map_or(String::new(), |delta| names::name("images", delta)),
    }
}

fn show_skipped(mut skipped: Vec<SkippedDevice>) -> Vec<v1::SkippedDevice> {
    skipped.sort_by_key(|device| device.dev_eui);
    skipped
        .into_iter()
        .take(MOST_SKIPPED)
        .map(|device| v1::SkippedDevice {
            device: names::name("devices", device.dev_eui),
            reason: task_part_records::show_device_reason(device.reason).into(),
            message: device.evidence,
        })
        .collect()
}

fn skipped_problem(count: usize) -> v1::PlanProblem {
    v1::PlanProblem {
        field: String::new(),
        reason: v1::PlanProblemReason::DevicesSkipped.into(),
        message: format!("{count} devices would be skipped"),
        blocking: false,
    }
}

fn not_claimed_problem(count: usize) -> v1::PlanProblem {
    v1::PlanProblem {
        field: "frag_algo".to_owned(),
        reason: v1::PlanProblemReason::FragAlgoNotClaimed.into(),
        message: format!(
            "the profiles of {count} devices do not claim this code; they get TS004's"
        ),
        blocking: false,
    }
}

fn held_problem(held: &[(DevEui, TaskId)]) -> v1::PlanProblem {
    const NAMED: usize = 10;
    let mut message = format!("{} devices are in other active tasks: ", held.len());
    let named: Vec<String> = held
        .iter()
        .take(NAMED)
        .map(|(device, task)| format!("devices/{device} in tasks/{task}"))
        .collect();
    message.push_str(&named.join(", "));
    if held.len() > NAMED {
        message.push_str(", ...");
    }
    v1::PlanProblem {
        field: String::new(),
        reason: v1::PlanProblemReason::DevicesInUse.into(),
        message,
        blocking: true,
    }
}

/// What a start is refused with for devices that other tasks hold.
pub(super) fn held_blockers(held: &[(DevEui, TaskId)]) -> Vec<Blocker> {
    held.iter()
        .map(|(device, task)| Blocker {
            kind: "DEVICES_IN_USE".to_owned(),
            subject: names::name("devices", device),
            description: format!("in {}", names::name("tasks", task)),
        })
        .collect()
}

/// What a start is refused with for this plan.
pub(super) fn blocking_problems(error: &PlanError) -> Vec<Blocker> {
    let problem = blocking_problem(error, None);
    let mut blockers = vec![Blocker {
        kind: regions::word_of(problem.reason().as_str_name(), "PLAN_PROBLEM_REASON_"),
        subject: problem.field,
        description: problem.message,
    }];
    if let PlanError::NoDevices(skipped) | PlanError::Unfit(skipped) = error {
        blockers.extend(skipped.iter().map(|device| {
            let reason = task_part_records::show_device_reason(device.reason);
            Blocker {
                kind: regions::word_of(reason.as_str_name(), "DEVICE_REASON_"),
                subject: names::name("devices", device.dev_eui),
                description: device.evidence.clone(),
            }
        }));
    }
    blockers
}

/// Why a plan cannot work. With task and time at hand, a deadline that has passed is told from one that is too short.
fn blocking_problem(error: &PlanError, asked: Option<(&Task, Timestamp)>) -> v1::PlanProblem {
    let (field, reason, message) = match error {
        PlanError::NoDevices(_) => ("", v1::PlanProblemReason::NoDevices, error.to_string()),
        PlanError::Unfit(unfit) => {
            let first = unfit.first();
            (
                first.and_then(|first| first.unfit).unwrap_or_default(),
                v1::PlanProblemReason::UnfitDevices,
                match first {
                    Some(first) => format!("{error}; the first: {}", first.evidence),
                    None => error.to_string(),
                },
            )
        }
        PlanError::Field { field, message } => {
            let passed =
                |(task, now): (&Task, Timestamp)| task.deadline.is_some_and(|at| at <= now);
            let reason = match *field {
                "images" => v1::PlanProblemReason::ImageNotAllowed,
                "frag_size" => v1::PlanProblemReason::FragSizeInvalid,
                "data_rate" => v1::PlanProblemReason::DataRateInvalid,
                "frequency_hz" => v1::PlanProblemReason::FrequencyInvalid,
                "deadline" if !asked.is_some_and(passed) => v1::PlanProblemReason::DeadlineTooShort,
                "max_redundancy_percent" => v1::PlanProblemReason::Redundancy,
                "success_criterion" => v1::PlanProblemReason::CriterionUnreachable,
                _ => v1::PlanProblemReason::TimeInvalid,
            };
            (*field, reason, message.clone())
        }
        PlanError::Refused {
            refusal,
            field,
            message,
        } => {
            let reason = match refusal {
                PlanRefusal::ImageTooLarge => v1::PlanProblemReason::ImageTooLarge,
                PlanRefusal::SetupTooShort => v1::PlanProblemReason::SetupTooShort,
                PlanRefusal::DutyCycle => v1::PlanProblemReason::DutyCycle,
                PlanRefusal::Redundancy => v1::PlanProblemReason::Redundancy,
                PlanRefusal::GatewaysOffline => v1::PlanProblemReason::GatewayOffline,
                PlanRefusal::ClockDisagrees => v1::PlanProblemReason::ClockDisagrees,
                PlanRefusal::NotTrusted => v1::PlanProblemReason::ImageNotAllowed,
            };
            (*field, reason, message.clone())
        }
    };
    v1::PlanProblem {
        field: field.to_owned(),
        reason: reason.into(),
        message,
        blocking: true,
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
