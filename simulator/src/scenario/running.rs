//! A scenario in virtual time, in steps: made, begun, followed to its end, judged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::lorawan::airtime::MAC_OVERHEAD;
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::record::{
    Change, DistributionSession, Image, SuccessCriterion, Task, TaskDevice, TaskState,
};
use lorawan_fuota::runtime::Command;
use lorawan_fuota::time::Timestamp;

use crate::checkers::{Checker, Event, Expected, Violation, watch_errors};
use crate::world::{Strike, World};

use super::building::Site;
use super::outcome::kebab;
use super::{
    DeviceOutcome, FaultKind, Frames, GroupOutcome, Outcome, Scenario, SessionOutcome, TaskOutcome,
};

/// Between the last join and the start of the task: each device is heard.
const HEARD: Duration = Duration::from_secs(30);
/// How often it is looked whether all have joined.
const LOOK: Duration = Duration::from_secs(5);
/// Identifier and header of a `DataFragment` (TS004-2.0.0 §3.4).
const FRAGMENT_OVERHEAD: u8 = 3;

/// A scenario that runs, with the world it runs in.
///
/// [`Running::run`] does everything; [`Running::begin`], [`Running::follow`] and [`Running::outcome`] are its steps,
/// for who wants to look at the world in between.
pub struct Running {
    /// The scenario.
    pub scenario: Scenario,
    /// The seed of this run.
    pub seed: u64,
    /// The world: gateways, devices, server, records and checkers.
    pub world: World,
    /// Where gateways and devices are, and what devices are like.
    pub site: Site,
    /// The image.
    pub image: Image,
    /// The task as it was ordered; [`World::task`] has it as it became.
    pub task: Task,
    /// When the task was started.
    pub begun: Timestamp,
    data: Arc<[u8]>,
    /// Interference that begins or ends.
    ahead: BTreeMap<(Timestamp, usize), Interference>,
    refused: Option<String>,
    errors: Vec<String>,
}

/// Interference that begins (a share) or ends (zero).
#[derive(Clone, Copy, Debug)]
struct Interference {
    gateway: Option<usize>,
    group: Option<usize>,
    share: f64,
}

impl Running {
    /// The world of a scenario, with everything entered; some devices have yet to join.
    ///
    /// # Panics
    /// The server does not take the fleet: a defect of the simulator.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let site = Site::new(scenario, seed);
        let start = scenario.start;
        let mut world = World::new(site.lab(scenario, start), start, seed, scenario.faults);
        world.checkers_mut(|checkers| {
            let shares = scenario.gateways.iter().map(|g| g.air_share_permille);
            checkers.allow_share(shares.max().unwrap_or(1000));
            let cuts_power =
                |kind: &FaultKind| matches!(kind, FaultKind::GatewayDown { power: true, .. });
            if scenario.timed.iter().any(|fault| cuts_power(&fault.what)) {
                checkers.tolerate_late();
                checkers.tolerate_order();
            }
        });
        let profiles = site.profiles(scenario).into_iter();
        let mut commands: Vec<Command> = profiles.map(Command::PutDeviceProfile).collect();
        let gateways = site.gateway_settings(scenario, start);
        commands.extend(gateways.into_iter().map(Command::PutGateway));
        commands.push(Command::PutDevices(site.new_devices(scenario, start)));
        for command in commands {
            world
                .command(&command)
                .expect("the world takes its own fleet");
        }
        let (image, data) = site.image(scenario, start);
        let task = site.task(scenario, &image, start);
        Self {
            scenario: scenario.clone(),
            seed,
            world,
            site,
            image,
            task,
            begun: start,
            data,
            ahead: BTreeMap::new(),
            refused: None,
            errors: Vec::new(),
        }
    }

    /// From now on what happens is kept, for [`Running::events`].
    pub fn keep_events(&mut self) {
        self.world.checkers_mut(|checkers| checkers.keep_events());
    }

    /// What happened, as the server and the devices tell it, in order of time; empty unless it was kept. Of each device
    /// the last 256 events are known.
    pub fn events(&self) -> Vec<Event> {
        let mut events = self.world.checkers(|checkers| checkers.events().to_vec());
        if events.is_empty() {
            return events;
        }
        self.world.lab(|lab| {
            for device in lab.devices() {
                let said = device.log().iter();
                events.extend(said.map(|(at, what)| Event {
                    at,
                    device: Some(device.dev_eui()),
                    frame: false,
                    what: format!("says: {what}"),
                }));
            }
        });
        events.sort_by_key(|event| event.at);
        events
    }

    /// Runs everything and judges it.
    pub fn run(&mut self) -> Outcome {
        self.begin();
        self.follow();
        self.outcome()
    }

    /// Waits for the devices to join, then starts the task; from now on faults strike. False if the start is refused.
    pub fn begin(&mut self) -> bool {
        let (started, errors) = watch_errors(|| {
            self.join();
            self.start()
        });
        self.errors.extend(errors);
        started
    }

    fn join(&mut self) {
        let limit = self.world.now() + self.scenario.joined_within;
        while self.world.now() < limit {
            let wait = LOOK.min(limit.since(self.world.now()));
            self.world.run_until(wait, |_| false);
            if self
                .world
                .lab(|lab| lab.devices().all(|device| device.is_activated()))
            {
                break;
            }
        }
        self.world.run_until(HEARD, |_| false);
    }

    fn start(&mut self) -> bool {
        self.begun = self.world.now();
        self.task = self.site.task(&self.scenario, &self.image, self.begun);
        self.world.commit(&[
            Change::PutImage(self.image.clone(), Arc::clone(&self.data)),
            Change::PutTask(self.task.clone().into()),
        ]);
        self.world.release_faults();
        self.schedule();
        let order = Command::StartTask {
            task: Box::new(self.task.clone()),
            images: vec![(self.image.clone(), Arc::clone(&self.data))],
            deltas: vec![],
            devices: self.site.devices_of_task(&self.scenario),
            groups: vec![],
        };
        let refused = self.world.command(&order).err();
        // A commit of unknown fate may have started it all the same.
        let begun = self.state().is_some_and(|state| state != TaskState::Draft);
        self.refused = refused.filter(|_| !begun).map(|error| error.to_string());
        self.refused.is_none()
    }

    /// Has everything strike at its time.
    fn schedule(&mut self) {
        for fault in self.scenario.timed.clone() {
            let at = self.begun + fault.at;
            match fault.what {
                FaultKind::GatewayDown {
                    gateway,
                    power,
                    lasts,
                } => {
                    let gateway = gateway.map(|gateway| self.site.gateways[gateway].eui);
                    self.world
                        .strike_at(at, Strike::GatewayDown { gateway, power });
                    if let Some(lasts) = lasts {
                        self.world
                            .strike_at(at + lasts, Strike::GatewayUp { gateway });
                    }
                }
                FaultKind::GatewayUp { gateway } => {
                    let gateway = gateway.map(|gateway| self.site.gateways[gateway].eui);
                    self.world.strike_at(at, Strike::GatewayUp { gateway });
                }
                FaultKind::ServerCrash { lasts } => {
                    self.world.strike_at(at, Strike::ServerAway(lasts));
                }
                FaultKind::Reboot(who) => {
                    for device in self.site.some(who) {
                        self.world.strike_at(at, Strike::Reset(device));
                    }
                }
                FaultKind::Vanish(who) => {
                    for device in self.site.some(who) {
                        self.world.strike_at(at, Strike::Vanish(device));
                    }
                }
                FaultKind::ClockStep { who, by_us } => {
                    for device in self.site.some(who) {
                        self.world.strike_at(at, Strike::StepDevice(device, by_us));
                    }
                }
                FaultKind::Interference {
                    gateway,
                    group,
                    share,
                    lasts,
                } => {
                    let begins = Interference {
                        gateway,
                        group,
                        share,
                    };
                    self.ahead.insert((at, self.ahead.len()), begins);
                    if let Some(lasts) = lasts {
                        let ends = Interference {
                            share: 0.0,
                            ..begins
                        };
                        self.ahead.insert((at + lasts, self.ahead.len()), ends);
                    }
                }
            }
        }
    }

    /// Runs until the task has ended, or is held and nobody will let it go on; false if it takes longer than the
    /// scenario allows.
    pub fn follow(&mut self) -> bool {
        self.follow_with(&mut |_| {})
    }

    /// As [`Running::follow`], and shows the world to `look` whenever something happened.
    pub fn follow_with(&mut self, look: &mut dyn FnMut(&World)) -> bool {
        if self.refused.is_some() {
            return true;
        }
        let (ended, errors) = watch_errors(|| self.follow_to_the_end(look));
        self.errors.extend(errors);
        ended
    }

    fn follow_to_the_end(&mut self, look: &mut dyn FnMut(&World)) -> bool {
        let end = self.begun + self.scenario.longest;
        loop {
            let next = self
                .ahead
                .keys()
                .next()
                .map_or(end, |(at, _)| (*at).min(end));
            let id = self.task.id.clone();
            let stops = |world: &World| {
                look(world);
                let state = world.checkers(|c| c.records.tasks.get(&id).map(|t| t.state));
                state.is_some_and(|state| state.is_terminal() || is_held(state))
            };
            let wait = next.since(self.world.now());
            if self.world.run_until(wait, stops) {
                if !self.state().is_some_and(is_held) {
                    return true;
                }
                let Some(after) = self.scenario.task.resumed_after else {
                    return true;
                };
                self.world.run_until(after, |_| false);
                if let Err(error) = self
                    .world
                    .command(&Command::ResumeTask(self.task.id.clone()))
                {
                    self.errors
                        .push(format!("the task cannot be resumed: {error}"));
                    return true;
                }
            }
            let now = self.world.now();
            if now >= end {
                return false;
            }
            while let Some(entry) = self.ahead.first_entry().filter(|e| e.key().0 <= now) {
                let interference = entry.remove();
                self.interfere(interference);
            }
        }
    }

    fn interfere(&mut self, interference: Interference) {
        let Interference {
            gateway,
            group,
            share,
        } = interference;
        let (site, scenario) = (&mut self.site, &self.scenario);
        site.set_interference(scenario, gateway, group, share);
        self.world
            .lab_mut(|lab| site.interfere(scenario, lab.channel_mut()));
    }

    /// Where the task is.
    pub fn state(&self) -> Option<TaskState> {
        let id = &self.task.id;
        self.world
            .checkers(|c| c.records.tasks.get(id).map(|task| task.state))
    }

    /// The group of each device.
    pub fn groups_by_device(&self) -> BTreeMap<DevEui, usize> {
        let devices = self.site.devices.iter();
        devices
            .map(|device| (device.dev_eui, device.group))
            .collect()
    }

    /// What became of the run, judged.
    pub fn outcome(&mut self) -> Outcome {
        let violations = self.violations();
        let id = self.task.id.clone();
        let task = self.world.task(&id).unwrap_or_else(|| self.task.clone());
        let counters = &task.counters;
        let devices = self.device_outcomes(&task);
        let groups = self
            .scenario
            .groups
            .iter()
            .filter(|group| group.in_task)
            .map(|group| {
                let of_group = devices.iter().filter(|device| device.group == group.name);
                GroupOutcome::of(&group.name, of_group)
            });
        let groups = groups.collect();
        let ended = task.ended_at.filter(|_| task.state.is_terminal());
        let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
        let mut outcome = Outcome {
            scenario: self.scenario.name.clone(),
            seed: self.seed,
            passed: false,
            task: TaskOutcome {
                state: kebab(task.state),
                reason: task.reason.map(kebab),
                text: self.refused.clone().unwrap_or(task.reason_text),
            },
            duration_s: ended.map(|ended| ended.since(self.begun).as_secs_f64()),
            frames: Frames {
                uncoded: counters.uncoded_frames,
                coded: counters.coded_frames,
                polls: counters.poll_frames,
                unicast: counters.unicast_frames,
                refused: counters.refused_frames,
            },
            airtime_s: seconds(counters.airtime_us),
            server_crashes: self.world.crashes(),
            sessions: self
                .world
                .sessions(&id)
                .iter()
                .map(session_outcome)
                .collect(),
            groups,
            devices,
            violations: violations.iter().map(ToString::to_string).collect(),
            expectations: Vec::new(),
        };
        outcome.expectations = self.scenario.expect.judge(&outcome);
        outcome.passed = outcome.expectations.iter().all(|judged| judged.held);
        outcome
    }

    /// Properties of the product that were broken. Which devices are to be updated is for the file to say.
    fn violations(&mut self) -> Vec<Violation> {
        let faults = self.scenario.faults;
        let took = self.world.now().since(self.begun);
        let drift = self
            .scenario
            .groups
            .iter()
            .map(|group| group.drift_ppm.unsigned_abs());
        let offset = self
            .scenario
            .groups
            .iter()
            .filter_map(|group| group.clock_offset_us);
        let offset = Duration::from_micros(offset.map(i64::unsigned_abs).max().unwrap_or(0));
        let steps = self
            .scenario
            .timed
            .iter()
            .filter_map(|fault| match fault.what {
                FaultKind::ClockStep { by_us, .. } => Some(by_us.unsigned_abs()),
                _ => None,
            });
        let steps = Duration::from_micros(steps.max().unwrap_or(0)) + faults.device_step;
        let stepped = self.world.any_clock_stepped();
        let expected = Expected {
            target_version: self.image.target_version,
            clock_off: took.mul_f64(f64::from(drift.max().unwrap_or(0)) / 1e6)
                + faults.server_step * 2
                + offset
                + if stepped { steps } else { Duration::ZERO },
            ..Expected::default()
        };
        if self.refused.is_none() {
            self.world.judge(&self.task.id, expected);
        }
        let held = self.state().is_some_and(is_held);
        let early = self.task.success != SuccessCriterion::Running;
        let mut violations = self.world.violations();
        violations.retain(|violation| match violation.checker {
            Checker::Updated => false,
            // A task that waits for its operator has not ended; nor has who succeeds before it runs the image.
            Checker::Terminal => !(held || (early && violation.device.is_some())),
            Checker::Cleanup => !held,
            _ => true,
        });
        let errors = self.errors.iter().map(|what| Violation {
            at: self.begun,
            checker: Checker::Errors,
            device: None,
            what: what.clone(),
        });
        violations.extend(errors);
        violations
    }

    fn device_outcomes(&self, task: &Task) -> Vec<DeviceOutcome> {
        let records = self.world.task_devices(&task.id);
        let records: BTreeMap<DevEui, &TaskDevice> = records
            .iter()
            .map(|device| (device.dev_eui, device))
            .collect();
        let target = self.image.target_version;
        self.world.lab(|lab| {
            let placed = self.site.devices.iter();
            let in_task = placed.filter(|d| self.scenario.groups[d.group].in_task);
            let outcomes = in_task.map(|placed| {
                let real = lab.device(placed.dev_eui);
                let running_version = real.map_or(0, |device| device.running_version());
                let group = self.scenario.groups[placed.group].name.clone();
                let dev_eui = placed.dev_eui.to_string();
                let Some(record) = records.get(&placed.dev_eui) else {
                    return DeviceOutcome {
                        dev_eui,
                        group,
                        state: "pending".to_owned(),
                        reason: None,
                        evidence: String::new(),
                        running_version,
                        updated: false,
                        retries: 0,
                    };
                };
                let good = record.has_verdict(task.success) && !record.state.is_failure();
                let really = task.success != SuccessCriterion::Running || running_version == target;
                DeviceOutcome {
                    dev_eui,
                    group,
                    state: kebab(record.state),
                    reason: record.reason.map(kebab),
                    evidence: record.evidence.clone(),
                    running_version,
                    updated: good && really,
                    retries: record.retries,
                }
            });
            outcomes.collect()
        })
    }
}

fn is_held(state: TaskState) -> bool {
    matches!(state, TaskState::Paused | TaskState::AwaitingApproval)
}

fn session_outcome(session: &DistributionSession) -> SessionOutcome {
    let rate = session
        .region
        .data_rate(session.data_rate, Direction::Downlink);
    let length = session
        .block
        .frag_size
        .saturating_add(MAC_OVERHEAD + FRAGMENT_OVERHEAD);
    let frame_us = rate.map_or(0, |rate| rate.time_on_air_us(length, Direction::Downlink));
    SessionOutcome {
        number: session.id.number,
        wave: session.wave,
        class: format!("{:?}", session.class),
        data_rate: session.data_rate,
        nb_frag: session.block.nb_frag,
        frag_size: session.block.frag_size,
        gateways: session.gateways.len(),
        windows: u32::from(session.window.number) + 1,
        rounds: session.round,
        frame_us: frame_us.into(),
    }
}
