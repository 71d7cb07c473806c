//! A world with its fleet entered in the server: where tasks are started and followed to their end.

use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::firmware::delta::{self, DeltaOptions};
use lorawan_fuota::firmware::sha256;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::record::{
    Change, Delta, DeviceProfile, Image, ImageContainer, ImageFacts, RebootMode, Sha256,
    StoredImage, SuccessCriterion, Task, TaskId, VersionSource,
};
use lorawan_fuota::runtime::{Command, CommandError, NewDevice};
use lorawan_fuota::time::Timestamp;

use crate::check::{self, CheckOptions, Outcome};
use crate::checkers::{Checker, Event, Expected, Violation, watch_errors};
use crate::device::DeviceConfig;
use crate::fleet::{Fleet, NEW_VERSION, OLD_VERSION};
use crate::random::Random;
use crate::world::World;

/// Loss beyond which a device need not be updated, only told about.
const OUT_OF_REACH: f64 = 0.2;
/// Every task ends within a day of virtual time, whatever strikes.
pub const LONGEST: Duration = Duration::from_secs(86_400);
/// Devices join and are heard before anything begins.
const SETTLES: Duration = Duration::from_secs(30);
const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A world, its fleet and its image.
pub struct Scene {
    /// The world.
    pub world: World,
    /// The devices and gateways in it.
    pub fleet: Fleet,
    options: CheckOptions,
    /// In the order of its tasks.
    images: Vec<StoredImage>,
    deltas: Vec<StoredImage>,
    begun: Timestamp,
}

impl Scene {
    /// The world of these options, with all devices entered, some of which have joined.
    ///
    /// # Panics
    /// The world cannot be set up at all; that is a defect of the simulator.
    pub fn new(options: &CheckOptions) -> Self {
        Self::with(options, |_| {})
    }

    /// As [`Scene::new`], with devices that differ from those of the fleet.
    ///
    /// # Panics
    /// As [`Scene::new`].
    pub fn with(options: &CheckOptions, change: impl FnMut(&mut DeviceConfig)) -> Self {
        let mut fleet = Fleet::new(options.fleet);
        fleet.devices.iter_mut().for_each(change);
        let lab = check::lab(options, &fleet, START);
        let mut world = World::new(lab, START, options.fleet.seed, options.faults);
        world.checkers_mut(|c| c.allow_share(options.air_share_permille));
        check::enter(&mut world, options, &fleet, START);
        world.run_until(SETTLES, |_| false);
        let image = check::image(options, &fleet, START);
        let begun = world.now();
        Self {
            world,
            images: options.images.images(image, &fleet),
            fleet,
            options: *options,
            deltas: Vec::new(),
            begun,
        }
    }

    /// Says something else of the image.
    pub fn change_image(&mut self, change: impl FnOnce(&mut Image)) {
        change(&mut self.images[0].0);
    }

    /// Makes the delta from `base`, which reports [`OLD_VERSION`], to the image of its tasks. Devices whose profile
    /// says that they apply deltas are sent it, if the server knows what they run.
    ///
    /// # Panics
    /// There can be none.
    pub fn add_delta(&mut self, base: &[u8]) {
        let (target, bytes) = &self.images[0];
        let options = DeltaOptions {
            target_version: target.target_version,
            ..DeltaOptions::default()
        };
        let delta = delta::make(base, bytes, &options).expect("two images have a delta");
        let image = Image {
            sha256: Sha256(sha256(&delta)),
            size_bytes: u32::try_from(delta.len()).unwrap_or(u32::MAX),
            container: ImageContainer::Delta,
            facts: ImageFacts {
                delta: Some(Delta {
                    base: Sha256(sha256(base)),
                    base_version: OLD_VERSION.to_ts006(),
                    target: target.sha256,
                    target_size_bytes: target.size_bytes,
                }),
                ..ImageFacts::default()
            },
            ..target.clone()
        };
        self.deltas.push((image, delta.into()));
    }

    /// Has the operator say that all devices run [`OLD_VERSION`].
    ///
    /// # Panics
    /// The server does not take it.
    pub fn tell_versions(&mut self) {
        let devices = self.fleet.devices.iter().zip(&self.fleet.stacks);
        let told = devices.map(|(device, stack)| NewDevice {
            keys: None,
            join: None,
            versions: Some([("main".to_owned(), OLD_VERSION.to_ts006())].into()),
            ..check::new_device(device, check::profile_id(*stack, false), START)
        });
        let command = Command::PutDevices(told.collect());
        self.world
            .command(&command)
            .expect("the world knows its own fleet");
    }

    /// All images of its tasks, in order.
    pub fn images(&self) -> &[StoredImage] {
        &self.images
    }

    /// The first image of its tasks.
    pub fn image(&self) -> &Image {
        &self.images[0].0
    }

    /// The bytes of that image.
    pub fn image_bytes(&self) -> Arc<[u8]> {
        Arc::clone(&self.images[0].1)
    }

    /// Bytes of that image.
    pub fn image_length(&self) -> usize {
        self.images[0].1.len()
    }

    /// Says something else of the devices' types, of those that claim no other code.
    ///
    /// # Panics
    /// The server does not take it.
    pub fn change_profiles(&mut self, change: impl Fn(&mut DeviceProfile)) {
        for stack in self.fleet.stacks.clone() {
            let mut profile = check::profile(&self.options, stack, false);
            change(&mut profile);
            self.world
                .command(&Command::PutDeviceProfile(profile))
                .expect("the world takes its own fleet");
        }
    }

    /// Where devices without TS006 tell their version.
    pub const fn version_in_uplinks() -> VersionSource {
        VersionSource::UplinkField(check::VERSION_FIELD)
    }

    /// The draft of a task for the image.
    pub fn draft(&self) -> Task {
        let images = self.images.iter().map(|(image, _)| image.sha256);
        Task {
            images: images.collect(),
            ..check::task(&self.options, &self.images[0].0, self.world.now())
        }
    }

    /// Starts a task for all devices; from now on the faults of the world strike.
    ///
    /// # Errors
    /// The start is refused.
    pub fn start(&mut self, task: &Task) -> Result<(), CommandError> {
        let devices = self.fleet.devices.iter().map(|d| d.dev_eui).collect();
        self.start_for(task, devices)
    }

    /// Starts a task for some devices.
    ///
    /// # Errors
    /// The start is refused.
    pub fn start_for(&mut self, task: &Task, devices: Vec<DevEui>) -> Result<(), CommandError> {
        self.enter(task);
        self.world.command(&Command::StartTask {
            task: Box::new(task.clone()),
            images: self.images.clone(),
            deltas: self.deltas.clone(),
            devices,
            groups: vec![],
        })
    }

    /// Starts a task for some devices, or has it wait for them.
    ///
    /// # Errors
    /// The start is refused.
    pub fn queue_for(&mut self, task: &Task, devices: Vec<DevEui>) -> Result<(), CommandError> {
        self.enter(task);
        self.world.command(&Command::QueueTask {
            task: Box::new(task.clone()),
            images: self.images.clone(),
            deltas: self.deltas.clone(),
            devices,
            groups: vec![],
        })
    }

    /// Writes down a draft and its images; from now on the faults of the world strike.
    fn enter(&mut self, task: &Task) {
        let all = self.images.iter().chain(&self.deltas);
        let mut changes: Vec<Change> = all
            .map(|(image, data)| Change::PutImage(image.clone(), Arc::clone(data)))
            .collect();
        changes.push(Change::PutTask(task.clone().into()));
        self.world.commit(&changes);
        self.world.release_faults();
        self.begun = self.world.now();
    }

    /// Runs a task that brings all devices the image and leaves its groups on them, before anything strikes.
    ///
    /// # Errors
    /// The start is refused.
    pub fn leave_groups(&mut self) -> Result<Task, CommandError> {
        let mut task = self.draft();
        task.id = TaskId("before".to_owned());
        task.seed = Some(Key128::from_bytes(
            Random::of(self.options.fleet.seed, 0xbef0).key(),
        ));
        task.success = SuccessCriterion::Verified;
        task.reboot = RebootMode::None;
        task.options.keep_groups = true;
        task.images.truncate(1);
        let (image, data) = self.images[0].clone();
        self.world.commit(&[
            Change::PutImage(image.clone(), Arc::clone(&data)),
            Change::PutTask(task.clone().into()),
        ]);
        self.world.command(&Command::StartTask {
            task: Box::new(task.clone()),
            images: vec![(image, data)],
            deltas: vec![],
            devices: self.fleet.devices.iter().map(|d| d.dev_eui).collect(),
            groups: vec![],
        })?;
        self.finish(&task.id);
        Ok(task)
    }

    /// The start was refused because its window lies in the past.
    fn is_window_over(&self, draft: &Task, refused: Option<&CommandError>) -> bool {
        let passed = draft.window_start.is_some_and(|at| at <= self.world.now());
        let unplanned = matches!(refused, Some(CommandError::Plan(_)));
        let begun = self
            .world
            .task(&draft.id)
            .is_some_and(|t| t.started_at.is_some());
        passed && unplanned && !begun
    }

    /// Runs until the task has ended.
    pub fn finish(&mut self, id: &TaskId) -> bool {
        self.world.run_until(LONGEST, |w| w.is_over(id))
    }

    /// What became of a task, judged.
    pub fn outcome(&mut self, draft: &Task) -> Outcome {
        let duration = self.world.now().since(self.begun);
        let faults = self.options.faults;
        let drift = duration.mul_f64(f64::from(faults.drift_ppm) / 1e6);
        let parts = self.options.images.parts();
        let expected = Expected {
            target_version: NEW_VERSION.to_ts006(),
            parts: parts.map(|(number, v)| (number, v.to_ts006())).collect(),
            out_of_reach: self.options.fleet.loss > OUT_OF_REACH,
            budget_may_go: faults.outages.is_some()
                || faults.bursts.is_some()
                || self.world.any_clock_stepped(),
            may_be_unheard: faults.outages.is_some(),
            time_may_run_out: self.options.spends_duty_cycle(),
            clock_off: drift
                + faults.server_step * 2
                + if self.world.any_clock_stepped() {
                    faults.device_step
                } else {
                    Duration::ZERO
                },
            ..Expected::default()
        };
        self.world.judge(&draft.id, expected);
        Outcome {
            task: self.world.task(&draft.id).unwrap_or_else(|| draft.clone()),
            devices: self.world.task_devices(&draft.id),
            violations: self.world.violations(),
            crashes: self.world.crashes(),
            commits: self.world.commits(),
            codes: self.world.lab(check::codes),
            duration,
            events: self.events(),
        }
    }

    /// What happened, as the server and the devices tell it.
    fn events(&self) -> Vec<Event> {
        let mut events = self.world.checkers(|c| c.events().to_vec());
        if events.is_empty() {
            return events;
        }
        self.world.lab(|lab| {
            for device in lab.devices() {
                events.extend(device.log().iter().map(|(at, what)| Event {
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
}

/// Runs one world to the end of its task; `log` keeps what happened.
pub(crate) fn run(options: &CheckOptions, log: bool) -> Outcome {
    let (mut outcome, errors) = watch_errors(|| {
        let mut scene = Scene::new(options);
        if log {
            scene.world.checkers_mut(|c| c.keep_events());
        }
        let before_ran = options.kept_groups;
        let before = before_ran.then(|| scene.leave_groups());
        let before = before.and_then(Result::err);
        let mut draft = scene.draft();
        // A commit of unknown fate may have started it already.
        let mut refused = scene.start(&draft).err();
        // Faults may have swallowed the start until the window asked for had passed: whoever starts asks for none then.
        if scene.is_window_over(&draft, refused.as_ref()) {
            draft.window_start = None;
            refused = scene.start(&draft).err();
        }
        if before_ran && matches!(refused, Some(CommandError::Plan(_))) {
            // A server that has just come back has not heard of its gateways for as long as the task before took.
            scene.world.run_until(SETTLES, |_| false);
            refused = scene.start(&draft).err();
        }
        let ended = scene.finish(&draft.id);
        let mut outcome = scene.outcome(&draft);
        if !ended {
            outcome.violations.push(Violation {
                at: scene.world.now(),
                checker: Checker::Terminal,
                device: None,
                what: format!(
                    "the task has not ended within a day; start refused: {refused:?}, {before:?}"
                ),
            });
        }
        outcome
    });
    for what in errors {
        outcome.violations.push(Violation {
            at: START,
            checker: Checker::Errors,
            device: None,
            what,
        });
    }
    outcome
}
