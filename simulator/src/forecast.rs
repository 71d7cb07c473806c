//! Forecast and outcome of tasks in random worlds without faults: how often the end and the frames lie in the range
//! that the plan stated.
//!
//! Each world first runs a task that ends when devices report that they hold the image, so that their loss is known as
//! it is in a fleet that was updated before. Then the update itself is planned, from the records alone, started and
//! followed to the last verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::GatewayEui;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::{
    DeviceState, FleetDevice, Image, RebootMode, Snapshot, SuccessCriterion, Task, TaskId,
};
use lorawan_fuota::task::{self, Plan, PlanError, PlanRequest, Span};
use lorawan_fuota::time::Timestamp;

use crate::check::CheckOptions;
use crate::device::StackProfile;
use crate::fleet::{FleetOptions, Stacks};
use crate::random::Random;
use crate::scene::Scene;
use crate::world::{Faults, World};

/// Losses of the worlds, in percent: seeds take them in turn.
pub const LOSSES: [u32; 5] = [0, 1, 5, 10, 20];
/// Share of runs that are to lie within the range.
pub const PROMISED: f64 = 0.9;

/// What was forecast for one world, and what came.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The world.
    pub seed: u64,
    /// Frames lost, percent.
    pub loss_percent: u32,
    /// When the task began.
    pub begun: Timestamp,
    /// The range of its end.
    pub end: Span,
    /// When the last device had its verdict; `None` if the task did not end.
    pub ended: Option<Timestamp>,
    /// Frames of the sessions: low, expected, high.
    pub frames: (u64, u64, u64),
    /// Frames that were sent.
    pub sent: u64,
    /// Devices, and those of them that were updated.
    pub devices: (usize, usize),
    /// What else there is to know, for people.
    pub details: String,
}

impl Comparison {
    /// The end lies in its range.
    pub fn end_is_inside(&self) -> bool {
        self.ended
            .is_some_and(|at| (self.end.low..=self.end.high).contains(&at))
    }

    /// The frames lie in their range.
    pub fn frames_are_inside(&self) -> bool {
        (self.frames.0..=self.frames.2).contains(&self.sent)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = |at: Timestamp| at.since(self.begun).as_secs_f64() / 60.0;
        let ended = self.ended.map_or(f64::NAN, minutes);
        write!(
            f,
            "seed {}: loss {} %, end after {ended:.1} min of {:.1} ({:.1} to {:.1}){}, frames {} of {} ({} to {}){}, {} of {} updated; {}",
            self.seed,
            self.loss_percent,
            minutes(self.end.expected),
            minutes(self.end.low),
            minutes(self.end.high),
            if self.end_is_inside() { "" } else { " OUTSIDE" },
            self.sent,
            self.frames.1,
            self.frames.0,
            self.frames.2,
            if self.frames_are_inside() {
                ""
            } else {
                " OUTSIDE"
            },
            self.devices.1,
            self.devices.0,
            self.details
        )
    }
}

/// The world of a seed.
pub fn options(seed: u64) -> CheckOptions {
    let mut random = Random::of(seed, 0xf0ca);
    let at = usize::try_from(seed % 5).unwrap_or(0);
    let minutes = [1, 2, 5, 10, 15, 30];
    let us915 = random.chance(0.4);
    let fleet = FleetOptions {
        seed,
        devices: 1 + u32::try_from(random.below(30)).unwrap_or(0),
        gateways: 1 + u32::try_from(random.below(3)).unwrap_or(0),
        loss: f64::from(LOSSES[at]) / 100.0,
        region: if us915 { Region::Us915 } else { Region::Eu868 },
        // The planner chooses.
        data_rate: 0,
        uplink_interval: Duration::from_secs(60 * minutes[random.index(minutes.len())]),
        stacks: match random.index(3) {
            0 => Stacks::One(StackProfile::SpecV1),
            1 => Stacks::One(StackProfile::SpecV2),
            _ => Stacks::Mix,
        },
    };
    CheckOptions {
        image_bytes: 3000 + usize::try_from(random.below(60_000)).unwrap_or(0),
        faults: Faults::default(),
        ..CheckOptions::plain(fleet)
    }
}

/// Plans and runs the task of a world.
///
/// # Panics
/// The world cannot be set up at all; that is a defect of the simulator.
pub fn compare(seed: u64) -> Comparison {
    let options = options(seed);
    let mut scene = Scene::new(&options);
    // Every device has joined and was heard.
    let settles = options.fleet.uplink_interval * 3;
    scene.world.run_until(settles, |_| false);
    let measured = measure(&mut scene);
    let mut draft = scene.draft();
    draft.options.data_rate = None;
    let begun = scene.world.now();
    let image = scene.image().clone();
    let plan = forecast(&scene.world, &draft, &image, begun).expect("a sound world can be planned");
    scene
        .start(&draft)
        .expect("what can be planned can be started");
    let ended = scene.finish(&draft.id);
    let devices = scene.world.task_devices(&draft.id);
    let verdicts = devices.iter().map(|d| d.entered.get(&d.state).copied());
    let last = verdicts.max().flatten().filter(|_| ended);
    let updated = devices.iter().filter(|d| d.state == DeviceState::Running);
    let counters = scene.world.task(&draft.id).map(|t| t.counters);
    let counters = counters.unwrap_or_default();
    let sum = |which: fn(&task::Forecast) -> u32| -> u64 {
        let sessions = plan.sessions.iter();
        let all = sessions.map(|s| {
            u64::from(which(&s.frames)) * u64::try_from(s.gateways.len().max(1)).unwrap_or(1)
        });
        all.sum()
    };
    Comparison {
        seed,
        loss_percent: LOSSES[usize::try_from(seed % 5).unwrap_or(0)],
        begun,
        end: plan.finish,
        ended: last,
        frames: (sum(|f| f.low), sum(|f| f.expected), sum(|f| f.high)),
        sent: counters.uncoded_frames + counters.coded_frames,
        devices: (devices.len(), updated.count()),
        details: details(&options, &plan, &scene, &draft.id, begun, measured),
    }
}

/// A task that shows how much each device loses.
fn measure(scene: &mut Scene) -> bool {
    let mut task = scene.draft();
    task.id = TaskId("measure".to_owned());
    task.success = SuccessCriterion::ReportedReceived;
    task.reboot = RebootMode::None;
    task.options.data_rate = None;
    scene.start(&task).expect("the first task can be started");
    scene.finish(&task.id)
}

/// The forecast of a draft, from the records of a world.
fn forecast(world: &World, task: &Task, image: &Image, now: Timestamp) -> Result<Plan, PlanError> {
    let records = world.records();
    let fleet = fleet(&records);
    let gateways: Vec<_> = records
        .gateways
        .iter()
        .map(|g| g.settings.clone())
        .collect();
    let heard: BTreeMap<GatewayEui, Timestamp> = records
        .gateways
        .iter()
        .filter_map(|g| Some((g.settings.eui, g.status.last_seen?)))
        .collect();
    task::plan(&PlanRequest {
        now,
        task,
        images: &[image],
        deltas: &[],
        devices: fleet.iter().collect(),
        groups: &[],
        gateways: &gateways,
        ledgers: &records.ledgers,
        heard: &heard,
        clocks: &[],
    })
}

fn fleet(records: &Snapshot) -> Vec<FleetDevice> {
    let known = records.devices.iter().filter_map(|device| {
        let profile = records
            .profiles
            .iter()
            .find(|p| p.id == device.settings.profile)?;
        let keys = records
            .keys
            .iter()
            .find(|k| k.dev_eui == device.settings.dev_eui)?;
        Some(FleetDevice {
            settings: device.settings.clone(),
            status: device.status.clone(),
            keys: keys.clone(),
            profile: profile.clone().into(),
        })
    });
    known.collect()
}

fn details(
    options: &CheckOptions,
    plan: &Plan,
    scene: &Scene,
    id: &TaskId,
    begun: Timestamp,
    measured: bool,
) -> String {
    let minutes = |at: Timestamp| at.since(begun).as_secs_f64() / 60.0;
    let devices = scene.world.task_devices(id);
    let of = |state: DeviceState| {
        let entered = devices.iter().filter_map(|d| d.entered.get(&state));
        entered.max().copied().map_or(f64::NAN, minutes)
    };
    let sessions: Vec<String> = plan
        .sessions
        .iter()
        .map(|s| {
            format!(
                "{} devices DR{} {}x{} opens {:.1} last {:.1} ({:.1} to {:.1}) loss {} ready {}",
                s.devices.len(),
                s.data_rate,
                s.block.nb_frag,
                s.block.frag_size,
                minutes(s.window.start),
                minutes(s.outlook.last_fragment.expected),
                minutes(s.outlook.last_fragment.low),
                minutes(s.outlook.last_fragment.high),
                s.outlook.loss_permille,
                s.outlook.ready_permille,
            )
        })
        .collect();
    let ran = scene.world.sessions(id);
    format!(
        "{} every {} min, {} gateways{}; [{}]; {} sessions, ready {:.1}, received {:.1}, running {:.1}, windows {}",
        options.fleet.region,
        options.fleet.uplink_interval.as_secs() / 60,
        options.fleet.gateways,
        if measured { "" } else { ", loss not measured" },
        sessions.join("; "),
        ran.len(),
        of(DeviceState::Ready),
        of(DeviceState::ReportedReceived),
        of(DeviceState::Running),
        ran.iter()
            .map(|s| u32::from(s.window.number) + 1)
            .sum::<u32>(),
    )
}

/// How often forecasts held, by loss: a table in Markdown.
pub fn table(runs: &[Comparison]) -> String {
    let mut text = String::from(
        "| loss | worlds | end in range | earlier | later | frames in range | width of the range | error of the middle |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for loss in LOSSES.map(Some).into_iter().chain([None]) {
        let of: Vec<&Comparison> = runs
            .iter()
            .filter(|run| loss.is_none_or(|loss| run.loss_percent == loss))
            .collect();
        let share = |held: &dyn Fn(&Comparison) -> bool| {
            let count = of.iter().filter(|run| held(run)).count();
            100.0 * ratio(count, of.len())
        };
        let mean = |value: &dyn Fn(&Comparison) -> f64| {
            let sum: f64 = of.iter().map(|run| value(run)).sum();
            100.0 * sum / f64::from(u32::try_from(of.len().max(1)).unwrap_or(1))
        };
        let length = |run: &Comparison, at: Timestamp| at.since(run.begun).as_secs_f64();
        let name = loss.map_or_else(|| "all".to_owned(), |loss| format!("{loss} %"));
        text.push_str(&format!(
            "| {name} | {} | {:.0} % | {:.0} % | {:.0} % | {:.0} % | {:.0} % | {:.0} % |\n",
            of.len(),
            share(&Comparison::end_is_inside),
            share(&|run| run.ended.is_some_and(|at| at < run.end.low)),
            share(&|run| run.ended.is_none_or(|at| at > run.end.high)),
            share(&Comparison::frames_are_inside),
            mean(&|run| {
                (length(run, run.end.high) - length(run, run.end.low))
                    / length(run, run.end.expected).max(1.0)
            }),
            mean(&|run| {
                let ended = run.ended.unwrap_or(run.end.high);
                (length(run, ended) / length(run, run.end.expected).max(1.0) - 1.0).abs()
            }),
        ));
    }
    text
}

fn ratio(count: usize, of: usize) -> f64 {
    let float = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    float(count) / float(of.max(1))
}
