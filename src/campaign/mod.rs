//! How a task is done: the sans-I/O machine of one task.
//!
//! [`Campaign::step`] takes the time, what happened, and what surrounds the task; it returns what to remember and what
//! to send. It reads no clock, draws no random number and cannot fail: a bad uplink is an input to count, a device that
//! cannot be served ends in a state with a reason. Everything it needs to go on after a crash is in the records it
//! returns ([`Campaign::restore`]); what it keeps beside them (who was asked last, which frame is on its way) may be
//! lost.
//!
//! One file per part: [`setup`](self) before the window, `distribution` during it, `completion` after it,
//! `unicast` for fragments to one device alone, `conversation` for the one outstanding command per device, `status` for
//! what a status answer means, `control` for what the operator does to a running task.

mod answers;
mod beginning;
mod calendar;
mod coder;
mod commands;
mod completion;
mod control;
mod conversation;
mod distribution;
mod follow_ups;
mod images;
mod kept;
mod keys;
mod members;
mod reboot;
mod retries;
mod reuse;
mod rounds;
mod setup;
mod slots;
mod status;
mod unicast;
mod versions;
mod waiting;
mod waves;
mod whole;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::record::{
    Change, DeviceClass, DeviceReason, DeviceState, DistributionSession, Downlink, DownlinkId,
    Fleet, MulticastGroupId, NetworkRequest, SessionPhase, Sha256, StoredImage, SuccessCriterion,
    Target, Task, TaskDevice, TaskReason, TaskSnapshot, TaskState, TxReport, Uplink, UplinkRef,
    Wave,
};
use crate::task::sizing;
use crate::time::Timestamp;

use coder::Coder;
use conversation::Talk;
use distribution::SessionRun;
use kept::EarlierKey;
use members::{Members, Part};
use waves::Tally;

pub use reuse::{give_up_groups, groups_to_reuse};
pub use waiting::WaitingTask;

/// The machine of one task.
pub struct Campaign {
    owner: u32,
    network: AddressSpace,
    task: Task,
    /// The images, in order; never empty.
    images: Vec<StoredImage>,
    /// Patches that some sessions distribute in place of their image.
    deltas: BTreeMap<Sha256, StoredImage>,
    devices: BTreeMap<DevEui, TaskDevice>,
    waves: Vec<Wave>,
    tally: Tally,
    /// Devices of the current wave without a verdict.
    open_in_wave: usize,
    sessions: Vec<SessionRun>,
    /// The devices of each session, as of the end of the last step.
    members: Members,
    /// The last time a device entered a state, as of the end of the last step.
    last_entered: Option<Timestamp>,
    /// Devices without a verdict.
    open: BTreeSet<DevEui>,
    /// Devices with something left to delete.
    uncleaned: BTreeSet<DevEui>,
    /// Devices that have succeeded since the last step, to be marked.
    succeeded: Vec<DevEui>,
    /// Devices that have failed and wait to be tried again.
    retrying: BTreeSet<DevEui>,
    /// Devices of the current wave that wait for their next image to begin.
    held_back: BTreeSet<DevEui>,
    /// When the last of them came to wait; and whether one has since that was looked at.
    last_held: Option<Timestamp>,
    newly_held: bool,
    /// How long they wait for others; zero until it is known.
    image_patience: Duration,
    /// Devices the task was done with lately.
    released: Vec<DevEui>,
    /// When to look after a device without having heard it.
    due: BTreeSet<(Timestamp, DevEui)>,
    talks: BTreeMap<DevEui, Talk>,
    in_flight: BTreeMap<u32, InFlight>,
    /// Fragments to one device whose fate is not known yet.
    alone_in_flight: BTreeMap<DevEui, u32>,
    /// Bytes a downlink to a device may have, by its last uplink in this run.
    rooms: BTreeMap<DevEui, u8>,
    next_number: u32,
    changed: Changed,
    requests: Vec<NetworkRequest>,
    /// Devices that have succeeded, and may keep their group.
    keeping: Vec<DevEui>,
    /// Keys that sessions took over from earlier ones; the others are made from the task's seed.
    earlier_keys: BTreeMap<u16, EarlierKey>,
}

/// The part of the address space the network's multicast groups are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// Leading bits, left-aligned in the 32-bit address.
    pub prefix: u32,
    /// How many of them the network owns, 1..=31.
    pub prefix_bits: u8,
}

/// What surrounds a task: the fleet, and the gateways that can be sent to.
pub struct Surroundings<'a> {
    /// All devices; statuses are changed in place.
    pub fleet: &'a mut Fleet,
    /// Gateways heard of lately.
    pub gateways: &'a BTreeSet<GatewayEui>,
    /// Those of them that serve class B.
    pub class_b_gateways: &'a BTreeSet<GatewayEui>,
    /// How far the server's clock is ahead of its gateways' GPS time, microseconds, if that is too far for windows.
    pub clock_off_us: Option<i64>,
}

impl Surroundings<'_> {
    /// Gateways that can send in the windows of a class.
    fn gateways_for(&self, class: DeviceClass) -> &BTreeSet<GatewayEui> {
        match class {
            DeviceClass::B => self.class_b_gateways,
            DeviceClass::A | DeviceClass::C => self.gateways,
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// One of the task's devices was heard.
    Uplink {
        /// What it sent.
        uplink: &'a Uplink,
        /// Its receive windows may carry a downlink of the task.
        window_free: bool,
    },
    /// One of the task's devices joined.
    Joined(DevEui),
    /// The fate of a downlink of this campaign.
    Report(&'a TxReport),
    /// The operator changes what the task is called.
    Describe {
        /// Name for people.
        display_name: &'a str,
        /// Tags, whole.
        tags: &'a BTreeMap<String, String>,
    },
    /// The operator holds the task: nothing more is sent, nothing is deleted.
    Pause,
    /// The operator lets a held task go on.
    Resume,
    /// The operator takes devices out of the task.
    Remove(&'a [DevEui]),
    /// The operator cancels the task.
    Cancel,
}

/// What a step decided.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// To be committed before anything of `requests` leaves.
    pub changes: Vec<Change>,
    /// For the network.
    pub requests: Vec<NetworkRequest>,
}

/// Why a campaign wants to be stepped at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Set-up may begin.
    PrepareAfter,
    /// The next wave begins.
    NextWave,
    /// Failed devices are tried again.
    Retry,
    /// The next image begins without the last devices.
    NextImage,
    /// A distribution window opens.
    WindowOpens,
    /// The next fragment or poll may be handed over.
    FragmentDue,
    /// No more answers to a poll are expected.
    AnswersOver,
    /// A device can be spoken to, or has been silent for too long.
    DeviceDue,
    /// The task gives up.
    Deadline,
    /// Cleanup gives up.
    CleanupOver,
}

#[derive(Default)]
struct Changed {
    task: bool,
    devices: BTreeSet<DevEui>,
    sessions: BTreeSet<u16>,
    waves: bool,
}

/// A downlink whose fate is not known yet.
enum InFlight {
    /// To one device.
    Command {
        dev_eui: DevEui,
        said_at: Timestamp,
        /// Answered an uplink, so that the device was listening just then.
        in_window: bool,
    },
    /// A fragment of a session.
    Fragment { session: u16, n: u16 },
    /// A status question to a session's group.
    Poll { session: u16 },
    /// A fragment to one device.
    Alone { dev_eui: DevEui, session: u16 },
}

/// A task to be begun.
#[derive(Clone, Debug)]
pub struct Order {
    /// The task; its `seed` must be set.
    pub task: Task,
    /// Its images, in order.
    pub images: Vec<StoredImage>,
    /// Patches to them that devices may be sent in their place.
    pub deltas: Vec<StoredImage>,
    /// The groups that brought devices into it; a device added by itself is not here.
    pub groups: BTreeMap<DevEui, MulticastGroupId>,
}

impl Campaign {
    /// Takes a task up again from its records. Frames of unknown fate count as sent.
    pub fn restore(owner: u32, network: AddressSpace, snapshot: TaskSnapshot) -> Self {
        let TaskSnapshot {
            task,
            images,
            deltas,
            devices,
            waves,
            sessions,
        } = snapshot;
        let devices: BTreeMap<_, _> = devices.into_iter().map(|d| (d.dev_eui, d)).collect();
        let task_success = task.success;
        let mut campaign = Self {
            owner,
            network,
            open: devices
                .values()
                .filter(|d| !d.has_verdict(task.success))
                .map(|d| d.dev_eui)
                .collect(),
            uncleaned: devices
                .values()
                .filter(|d| d.is_uncleaned())
                .map(|d| d.dev_eui)
                .collect(),
            succeeded: Vec::new(),
            retrying: devices
                .values()
                .filter(|d| d.retry_at.is_some())
                .map(|d| d.dev_eui)
                .collect(),
            held_back: BTreeSet::new(),
            last_held: None,
            newly_held: false,
            image_patience: Duration::ZERO,
            released: Vec::new(),
            due: BTreeSet::new(),
            task,
            images,
            deltas: deltas.into_iter().map(|it| (it.0.sha256, it)).collect(),
            tally: tally(task_success, &devices),
            open_in_wave: 0,
            devices,
            waves,
            sessions: Vec::new(),
            members: Members::default(),
            last_entered: None,
            talks: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            alone_in_flight: BTreeMap::new(),
            rooms: BTreeMap::new(),
            next_number: 0,
            changed: Changed::default(),
            keeping: Vec::new(),
            earlier_keys: BTreeMap::new(),
            requests: Vec::new(),
        };
        for record in sessions {
            campaign.add_session(record);
        }
        campaign.count_open_in_wave();
        let all: Vec<DevEui> = campaign.devices.keys().copied().collect();
        for dev_eui in all {
            campaign.file(dev_eui);
            campaign.note_held_back(dev_eui);
        }
        campaign.due = campaign
            .devices
            .keys()
            .map(|dev_eui| (Timestamp::default(), *dev_eui))
            .collect();
        campaign
    }

    /// The task as it stands.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Whether the device is part of the task and not yet done with it.
    pub fn concerns(&self, dev_eui: DevEui) -> bool {
        self.open.contains(&dev_eui) || self.uncleaned.contains(&dev_eui)
    }

    /// All devices of the task, whatever became of them.
    pub fn devices(&self) -> impl Iterator<Item = DevEui> {
        self.devices.keys().copied()
    }

    /// Devices that the task was done with since the last call: another one may have them.
    pub fn take_released(&mut self) -> Vec<DevEui> {
        std::mem::take(&mut self.released)
    }

    /// The task has ended and the campaign can be dropped after its last changes are committed.
    pub fn is_over(&self) -> bool {
        self.task.state.is_terminal()
    }

    /// Takes in what happened by `now` and decides.
    pub fn step(
        &mut self,
        now: Timestamp,
        inputs: &[Input<'_>],
        around: &mut Surroundings<'_>,
    ) -> Step {
        if self.is_over() {
            return Step::default();
        }
        for input in inputs {
            match input {
                Input::Uplink {
                    uplink,
                    window_free,
                } => {
                    self.hear(now, uplink, around);
                    if *window_free && !self.task.is_held() {
                        self.speak(now, uplink.dev_eui, Some(uplink.reference()), around);
                    }
                }
                Input::Joined(dev_eui) => self.joined(now, *dev_eui, around),
                Input::Report(report) => self.reported(now, report),
                Input::Describe { display_name, tags } => {
                    (*display_name).clone_into(&mut self.task.display_name);
                    self.task.tags.clone_from(tags);
                    self.task.updated_at = now;
                    self.changed.task = true;
                }
                Input::Pause => self.pause(now),
                Input::Resume => self.resume(now),
                Input::Remove(devices) => self.remove(now, devices),
                Input::Cancel => self.cancel(now),
            }
        }
        if !self.task.is_held() && self.task.state != TaskState::Cancelling {
            self.check_thresholds(now);
        }
        self.advance(now, around);
        self.mark_succeeded(now, around);
        self.take_step(now)
    }

    /// Puts the task's tags on devices that have succeeded.
    fn mark_succeeded(&mut self, now: Timestamp, around: &mut Surroundings<'_>) {
        for dev_eui in std::mem::take(&mut self.succeeded) {
            let tags = &self.task.rules.tags_on_success;
            around.fleet.add_tags(dev_eui, tags, now);
        }
    }

    /// When the campaign wants to be stepped without input, and why.
    pub fn wake(&self) -> Option<(Timestamp, Timer)> {
        if self.is_over() || self.task.is_held() {
            return None;
        }
        if self.task.state == TaskState::Scheduled {
            return Some((
                self.task.prepare_after.unwrap_or_default(),
                Timer::PrepareAfter,
            ));
        }
        let sessions = self.sessions.iter().filter_map(SessionRun::wake);
        let devices = self.due.first().map(|(at, _)| (*at, Timer::DeviceDue));
        let next_wave = self.next_wave_at().map(|at| (at, Timer::NextWave));
        let end = if self.open.is_empty() {
            Some((self.cleanup_ends(), Timer::CleanupOver))
        } else {
            self.task.deadline.map(|at| (at, Timer::Deadline))
        };
        let retry = self.retries_at().map(|at| (at, Timer::Retry));
        let image = self.next_image_at().map(|at| (at, Timer::NextImage));
        let waits = next_wave.into_iter().chain(retry).chain(image).chain(end);
        sessions.chain(devices).chain(waits).min()
    }

    /// Everything that happens because time passed or because the last inputs made it possible.
    fn advance(&mut self, now: Timestamp, around: &mut Surroundings<'_>) {
        if self.task.is_held() {
            return;
        }
        if self.task.state == TaskState::Scheduled {
            if self.task.prepare_after.is_some_and(|after| now < after) {
                return;
            }
            self.enter(TaskState::Preparing);
            for number in 0..self.sessions.len() {
                if !self.waits_for_wave(number) {
                    self.request_group(number);
                }
            }
        }
        if self.task.deadline.is_some_and(|deadline| now >= deadline) && !self.open.is_empty() {
            self.give_up_all(now, around);
        }
        for number in 0..self.sessions.len() {
            self.advance_session(now, number, around);
        }
        self.see_to_retries(now, around);
        self.see_to_images(now, around);
        self.see_to_due(now, around);
        self.settle(now, around);
    }

    /// Moves the task on when all its sessions, devices or cleanups are through.
    fn settle(&mut self, now: Timestamp, around: &mut Surroundings<'_>) {
        self.keep_groups(around);
        let distributing = self
            .sessions
            .iter()
            .any(|s| !matches!(s.record.phase, SessionPhase::Closed | SessionPhase::Planned));
        let begun = self
            .sessions
            .iter()
            .any(|s| s.record.round > 0 && s.record.phase != SessionPhase::Closed);
        let state = match self.task.state {
            TaskState::Preparing | TaskState::Distributing | TaskState::Completing
                if !distributing =>
            {
                TaskState::Completing
            }
            TaskState::Preparing | TaskState::Completing if begun => TaskState::Distributing,
            other => other,
        };
        self.enter(state);
        if self.see_to_waves(now, around) || !self.open.is_empty() {
            return;
        }
        for number in 0..self.sessions.len() {
            self.close_session(number);
        }
        if now >= self.cleanup_ends() {
            for dev_eui in std::mem::take(&mut self.uncleaned) {
                self.leave_rest(dev_eui, around);
            }
        }
        if !self.uncleaned.is_empty() {
            return;
        }
        self.hand_on_groups(around);
        self.task.ended_at = Some(now);
        if self.task.state == TaskState::Cancelling {
            let failed = self.task.reason == Some(TaskReason::ThresholdCrossed);
            self.enter(if failed {
                TaskState::Failed
            } else {
                TaskState::Cancelled
            });
        } else {
            if self
                .devices
                .values()
                .all(|d| d.state == DeviceState::Skipped)
            {
                self.task.reason = Some(TaskReason::NoDevices);
            }
            self.enter(TaskState::Completed);
        }
    }

    fn enter(&mut self, state: TaskState) {
        if self.task.state != state {
            self.task.state = state;
            self.changed.task = true;
        }
    }

    fn heard_since_start(&self, dev_eui: DevEui, around: &Surroundings<'_>) -> bool {
        let seen = around.fleet.get(dev_eui).and_then(|d| d.status.last_seen);
        seen.is_some_and(|seen| Some(seen) >= self.task.started_at)
    }

    /// Moves a device to a state, ended or not; an end is final.
    fn conclude(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        state: DeviceState,
        reason: Option<DeviceReason>,
        evidence: String,
    ) {
        if !self.open.contains(&dev_eui) {
            return;
        }
        if self.has_had_image(dev_eui, state) {
            return self.await_next_image(now, dev_eui, &evidence);
        }
        if self.gets_the_whole(dev_eui, state, reason) {
            return self.await_whole(now, dev_eui, reason, &evidence);
        }
        if let Some(at) = self.retry_of(now, dev_eui, state, reason) {
            return self.await_retry(dev_eui, at, reason, &evidence);
        }
        let evidence = self.naming_the_image(dev_eui, state, evidence);
        let Some(device) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        if device.retry_at.take().is_some() {
            self.retrying.remove(&dev_eui);
        }
        let before = std::mem::replace(&mut device.state, state);
        if state > DeviceState::Ready {
            // Its image was passed over: it waits for none.
            self.held_back.remove(&dev_eui);
        }
        device.reason = reason;
        device.evidence = evidence;
        device.tries = 0;
        device.entered.entry(state).or_insert(now);
        self.talks.remove(&dev_eui);
        self.changed.devices.insert(dev_eui);
        self.due.insert((now, dev_eui));
        if device.has_verdict(self.task.success) {
            self.tally.count(device.state);
            if !device.state.is_failure() {
                self.succeeded.push(dev_eui);
            }
            let wave = device
                .session
                .and_then(|n| self.sessions.get(usize::from(n)))
                .and_then(|session| self.waves.get(usize::from(session.record.wave)));
            if wave.is_some_and(|wave| wave.started_at.is_some() && wave.ended_at.is_none()) {
                self.open_in_wave = self.open_in_wave.saturating_sub(1);
            }
            self.open.remove(&dev_eui);
            self.discard_images(dev_eui, before);
            let device = self.devices.get(&dev_eui);
            if device.is_some_and(TaskDevice::is_uncleaned) {
                self.uncleaned.insert(dev_eui);
            } else {
                self.released.push(dev_eui);
            }
            self.see_to_group_of(dev_eui);
        }
    }

    /// When cleanup is given up: some time after the last verdict.
    fn cleanup_ends(&self) -> Timestamp {
        let changed = self.changed.devices.iter();
        let entered = changed
            .filter_map(|d| self.devices.get(d))
            .flat_map(|d| d.entered.values());
        let last = entered.max().copied().max(self.last_entered);
        last.max(self.task.resumed_at).unwrap_or_default() + self.task.options.cleanup_within
    }

    /// Notes what a device that changed is to its session now.
    fn file(&mut self, dev_eui: DevEui) {
        let Some(device) = self.devices.get(&dev_eui) else {
            return;
        };
        let last = device.entered.values().max().copied();
        self.last_entered = self.last_entered.max(last);
        let place = Part::of(device).filter(|_| self.open.contains(&dev_eui));
        self.members.file(dev_eui, place);
    }

    fn add_session(&mut self, record: DistributionSession) {
        // Plan and records come from the same layout function, so that the parameters are good; a session that cannot
        // be encoded would be a corrupt record, and is closed without a frame.
        let budget = sizing::coded_budget(
            record.block.nb_frag,
            self.task.options.max_redundancy_percent,
        );
        let coder = Coder::new(&record.block, self.data_of(&record), budget);
        let mut session = SessionRun::new(record, coder);
        let number = session.record.id.number;
        let ready = self.devices.values().filter(|d| {
            d.state == DeviceState::Ready && d.session == Some(number) && session.is_running()
        });
        session.coming = ready.map(|d| d.dev_eui).collect();
        self.sessions.push(session);
    }

    fn send(
        &mut self,
        what: InFlight,
        target: Target,
        f_port: u8,
        payload: Vec<u8>,
        timing: Timing,
    ) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        self.in_flight.insert(number, what);
        self.requests.push(NetworkRequest::Send(Downlink {
            id: DownlinkId {
                owner: self.owner,
                number,
            },
            target,
            f_port,
            payload,
            answers: timing.answers,
            earliest: timing.earliest,
            deadline: timing.deadline,
            more: timing.more,
        }));
        number
    }

    /// Turns what changed into writes; every changed record gets its own sequence number.
    fn take_step(&mut self, now: Timestamp) -> Step {
        let changed = std::mem::take(&mut self.changed);
        let mut changes = Vec::new();
        for number in changed.sessions {
            if let Some(session) = self.sessions.get(usize::from(number)) {
                changes.push(Change::PutDistributionSession(session.record.clone()));
            }
        }
        if changed.waves {
            changes.extend(self.waves.iter().cloned().map(Change::PutWave));
        }
        let task_changed = changed.task || !changed.devices.is_empty();
        for dev_eui in changed.devices {
            self.file(dev_eui);
            if let Some(device) = self.devices.get_mut(&dev_eui) {
                self.task.sequence += 1;
                device.sequence = self.task.sequence;
                device.changed_at = now;
                changes.push(Change::PutTaskDevice(device.clone().into()));
            }
        }
        // The task goes last: whoever sees its sequence finds every device up to it.
        if task_changed {
            self.task.sequence += 1;
            changes.push(Change::PutTask(self.task.clone().into()));
        }
        Step {
            changes,
            requests: std::mem::take(&mut self.requests),
        }
    }
}

/// When a downlink may leave.
struct Timing {
    answers: Option<UplinkRef>,
    earliest: Timestamp,
    deadline: Timestamp,
    /// More waits for the device.
    more: bool,
}

/// The devices that have a verdict, counted.
fn tally(success: SuccessCriterion, devices: &BTreeMap<DevEui, TaskDevice>) -> Tally {
    let mut tally = Tally::default();
    let ended = devices.values().filter(|d| d.has_verdict(success));
    ended.for_each(|d| tally.count(d.state));
    tally
}
