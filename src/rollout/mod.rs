//! When a rollout starts which task: what each device of it runs, what came of its tasks, and whether it is time.
//!
//! PURE. [`decide`] is a function of the record and of what was seen in the store, called again and again. What it
//! wants is written down with the record before it is done, so that whoever is interrupted between the two is told
//! the same again. Whether a task can be started at all is the plan's business; a start that was refused comes back
//! through [`refused`], one that was made through [`started`].

mod schedule;
mod settle;
mod standing;
mod validation;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    DeviceTries, Image, RefusedStart, ReleaseState, Rollout, RolloutOrder, RolloutPurpose,
    RolloutState, RolloutStatus, RolloutSwitch, RolloutTask, Sha256, Task, TaskDevice, TaskId,
    TaskState,
};
use crate::time::Timestamp;

use self::standing::Standings;
use self::validation::Validation;

/// First and longest pause before a start that was refused is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// What a decision is made from, beside the record.
#[derive(Clone, Copy, Debug)]
pub struct Survey<'a> {
    /// The present moment.
    pub now: Timestamp,
    /// All images.
    pub images: &'a [Image],
    /// All devices, each once.
    pub devices: &'a [DeviceFacts],
    /// Members of the group that the selector names; `None`: it names none, or one that is not there.
    pub members: Option<&'a BTreeSet<DevEui>>,
    /// Devices that an active task holds, of this rollout or not.
    pub held: &'a BTreeSet<DevEui>,
    /// The tasks of the rollout that have not ended as far as its record knows. One that is missing was deleted.
    pub tasks: &'a BTreeMap<TaskId, TaskSeen>,
}

/// What a rollout has to know of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Which.
    pub dev_eui: DevEui,
    /// Hardware model.
    pub model: String,
    /// Profile.
    pub profile: String,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// By component, what was reported last and when.
    pub versions: BTreeMap<String, (u32, Timestamp)>,
}

/// A task of a rollout as it is in the store.
#[derive(Clone, Debug)]
pub struct TaskSeen {
    /// The task.
    pub task: Task,
    /// Its devices, if it is a draft or has ended; else none are needed.
    pub devices: Vec<TaskDevice>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The record; to be written before a task is started, in one commit with its draft.
    pub rollout: Rollout,
    /// Start this task; it is in the record, not yet started.
    pub start: Option<Start>,
    /// Drafts nobody needs any more.
    pub drop: Vec<TaskId>,
    /// Tasks to cancel.
    pub cancel: Vec<TaskId>,
}

/// A task to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its identifier; there may be a draft of it, left from a try before.
    pub task: TaskId,
    /// Its image.
    pub image: Sha256,
    /// What for.
    pub purpose: RolloutPurpose,
    /// Its devices, at least one.
    pub devices: BTreeSet<DevEui>,
}

/// What a rollout is to do now.
pub fn decide(rollout: Rollout, survey: &Survey<'_>) -> Decision {
    let mut rollout = rollout;
    let judged = settle::take_in(&mut rollout, survey);
    let target = target(&rollout.order, survey.images);
    let image = target.as_ref().copied().ok().flatten();
    if let Some(image) = image {
        turn_to(&mut rollout, image.sha256);
    }
    let standings = image.map(|image| Standings::of(&rollout, image, survey));
    rollout.status = RolloutStatus {
        counts: standings.as_ref().map(|s| s.counts).unwrap_or_default(),
        image: image.map(|image| image.sha256),
        ..RolloutStatus::default()
    };
    let mut turn = Turn {
        survey,
        wish: None,
        rollout,
    };
    turn.choose(&target, standings.as_ref(), &judged);
    turn.finish()
}

/// The task was started. To be written in the commit that starts it.
pub fn started(rollout: &mut Rollout, task: &TaskId) {
    let mut state = RolloutState::Running;
    for entry in rollout.tasks.iter_mut().filter(|t| t.task == *task) {
        entry.started = true;
        if entry.purpose == RolloutPurpose::Validation {
            state = RolloutState::Validating;
        }
    }
    rollout.refused = None;
    if rollout.switch == RolloutSwitch::Enabled {
        rollout.status.state = state;
        rollout.status.message = format!("task {task} was started");
        rollout.status.next_start = None;
    }
}

/// The start was refused: it is tried again after a pause, which grows.
pub fn refused(rollout: &mut Rollout, now: Timestamp, why: String) {
    let times = rollout.refused.as_ref().map_or(0, |before| before.times);
    let pause = FIRST_PAUSE * 2u32.saturating_pow(times.min(8));
    let retry_at = now + pause.min(LONGEST_PAUSE);
    rollout.status.state = RolloutState::Blocked;
    rollout.status.message.clone_from(&why);
    rollout.status.next_start = Some(retry_at);
    rollout.refused = Some(RefusedStart {
        why,
        times: times.saturating_add(1),
        retry_at,
    });
}

/// A task is asked for by hand: puts it into the record. What was held against its devices is forgotten.
pub fn push(rollout: &mut Rollout, now: Timestamp, image: Sha256, devices: &[DevEui]) -> TaskId {
    turn_to(rollout, image);
    for dev_eui in devices {
        rollout.tries.remove(dev_eui);
    }
    rollout.not_validated = None;
    enter(rollout, now, image, RolloutPurpose::Push)
}

/// The image devices are kept on; `None`: there is none yet. The error says why the one that is named cannot be it.
pub fn target<'a>(order: &RolloutOrder, images: &'a [Image]) -> Result<Option<&'a Image>, String> {
    if let Some(sha256) = order.image {
        let named = images.iter().find(|image| image.sha256 == sha256);
        return match named.map(|image| image.release.state) {
            None => Err(format!("image {sha256} does not exist any more")),
            Some(ReleaseState::Withdrawn) => Err(format!("image {sha256} is withdrawn")),
            Some(ReleaseState::Draft | ReleaseState::Active) => Ok(named),
        };
    }
    let selector = &order.selector;
    let fitting = images.iter().filter(|image| {
        image.release.state == ReleaseState::Active
            && image.facts.delta.is_none()
            && image.model == selector.model
            && image.component == selector.component
    });
    Ok(fitting.max_by_key(|image| (image.target_version, image.created_at, image.sha256)))
}

/// Another image is brought to devices than before: what came of that one says nothing of this one.
fn turn_to(rollout: &mut Rollout, image: Sha256) {
    if rollout.tries_of != Some(image) {
        rollout.tries_of = Some(image);
        rollout.tries.clear();
    }
}

/// Puts a new task into the record.
fn enter(rollout: &mut Rollout, now: Timestamp, image: Sha256, purpose: RolloutPurpose) -> TaskId {
    let task = TaskId(format!("{}-{}", rollout.id, rollout.next_number));
    rollout.next_number = rollout.next_number.saturating_add(1);
    rollout.tasks.push(RolloutTask {
        task: task.clone(),
        image,
        purpose,
        created_at: now,
        started: false,
        ended: None,
    });
    task
}

/// A task a rollout would start: its image, what for, its devices.
type Wish = (Sha256, RolloutPurpose, BTreeSet<DevEui>);

/// One decision on its way.
struct Turn<'a> {
    survey: &'a Survey<'a>,
    wish: Option<Wish>,
    rollout: Rollout,
}

impl Turn<'_> {
    fn show(&mut self, state: RolloutState, message: impl Into<String>) {
        self.rollout.status.state = state;
        self.rollout.status.message = message.into();
    }

    fn choose(
        &mut self,
        target: &Result<Option<&Image>, String>,
        standings: Option<&Standings>,
        judged: &BTreeSet<Sha256>,
    ) {
        let image = match (self.rollout.switch, target) {
            (RolloutSwitch::Withdrawn, _) => {
                return self.show(RolloutState::Withdrawn, "");
            }
            (RolloutSwitch::Disabled, _) => {
                return self.show(RolloutState::Disabled, "");
            }
            (RolloutSwitch::Enabled, Err(why)) => {
                return self.show(RolloutState::Blocked, why);
            }
            (RolloutSwitch::Enabled, Ok(None)) => {
                return self.show(RolloutState::Waiting, "no image is active for its devices");
            }
            (RolloutSwitch::Enabled, Ok(Some(image))) => *image,
        };
        let group = &self.rollout.order.selector.group;
        if let (Some(group), None) = (group, self.survey.members) {
            let why = format!("multicast group {group} does not exist any more");
            return self.show(RolloutState::Blocked, why);
        }
        match validation::look(&self.rollout, image, self.survey, judged) {
            Validation::Passed => self.rollout.validated = Some(image.sha256),
            Validation::NotNeeded => {}
            Validation::Failed(message) => {
                self.rollout.not_validated = Some(image.sha256);
                return self.show(RolloutState::ValidationFailed, message);
            }
            Validation::Impossible(message) => return self.show(RolloutState::Blocked, message),
            Validation::Waits(message) => return self.show(RolloutState::Validating, message),
            Validation::Try(devices) => return self.try_out(image, devices),
        }
        if let Some(standings) = standings {
            self.go_wide(image, standings);
        }
    }

    /// The image is tried on test devices, as soon as rollouts start at all.
    fn try_out(&mut self, image: &Image, devices: BTreeSet<DevEui>) {
        let not_before = self.rollout.order.schedule.not_before;
        if let Some(at) = not_before.filter(|at| *at > self.survey.now) {
            self.rollout.status.next_start = Some(at);
            return self.show(RolloutState::Waiting, "for its first start");
        }
        let message = format!("test devices to be served: {}", devices.len());
        self.show(RolloutState::Validating, message);
        self.wish = Some((image.sha256, RolloutPurpose::Validation, devices));
    }

    /// All that are behind, if it is time.
    fn go_wide(&mut self, image: &Image, standings: &Standings) {
        let now = self.survey.now;
        let schedule = &self.rollout.order.schedule;
        let waiting = standings.ready.len();
        if waiting == 0 {
            self.rollout.gathering_since = None;
            return self.show_idle(standings);
        }
        let since = *self.rollout.gathering_since.get_or_insert(now);
        // What was refused in its time is tried again until it succeeds.
        let is_retry = self
            .draft()
            .is_some_and(|draft| draft.purpose == RolloutPurpose::Wide);
        let time = schedule::next(
            schedule,
            self.rollout.created_at,
            self.rollout.last_start,
            now,
        );
        let gathered = schedule::gathered(schedule, waiting, since, now);
        if !is_retry && self.is_distributing() && schedule.repeat_interval.is_none() {
            let message = format!("devices that wait for the end of the task: {waiting}");
            return self.show(RolloutState::Running, message);
        }
        if !is_retry && time > now {
            self.rollout.status.next_start = Some(time);
            return self.show_waiting(format!("devices that wait for the next start: {waiting}"));
        }
        if let (false, Err(until)) = (is_retry, gathered) {
            self.rollout.status.next_start = until;
            let least = schedule.min_devices;
            return self.show_waiting(format!("devices gathered: {waiting} of at least {least}"));
        }
        self.show(
            RolloutState::Running,
            format!("devices to be served: {waiting}"),
        );
        let devices = standings.ready.clone();
        self.wish = Some((image.sha256, RolloutPurpose::Wide, devices));
    }

    /// Tasks under way are shown before what is waited for.
    fn show_waiting(&mut self, message: String) {
        let state = match self.under_way() {
            0 => RolloutState::Waiting,
            _ => RolloutState::Running,
        };
        self.show(state, message);
    }

    /// No device is ready to be served.
    fn show_idle(&mut self, standings: &Standings) {
        let counts = standings.counts;
        if let Some(at) = standings.next_try {
            self.rollout.status.next_start = Some(at);
            self.show_waiting("for another try of devices that failed".to_owned());
        } else if counts.in_task > 0 || self.under_way() > 0 {
            self.show_waiting(format!("devices in tasks: {}", counts.in_task));
        } else {
            let message = match counts.failed {
                0 => String::new(),
                failed => format!("devices left out after failures: {failed}"),
            };
            self.show(RolloutState::UpToDate, message);
        }
    }

    /// A task for all runs or waits.
    fn is_distributing(&self) -> bool {
        let mut going = self.going();
        going.any(|task| task.purpose == RolloutPurpose::Wide)
    }

    fn under_way(&self) -> usize {
        self.going().count()
    }

    fn going(&self) -> impl Iterator<Item = &RolloutTask> {
        let tasks = self.rollout.tasks.iter();
        tasks.filter(|task| task.started && task.ended.is_none())
    }

    /// The task that was made and not started, unless it was asked for by hand.
    fn draft(&self) -> Option<&RolloutTask> {
        let left = |task: &&RolloutTask| !task.started && task.ended.is_none();
        let mut drafts = self.rollout.tasks.iter().filter(left);
        drafts.find(|task| task.purpose != RolloutPurpose::Push)
    }

    fn finish(mut self) -> Decision {
        let mut decision = Decision {
            start: None,
            drop: Vec::new(),
            cancel: self.to_cancel(),
            rollout: self.rollout.clone(),
        };
        if let Some(push) = self.pushed() {
            decision.start = Some(push);
            return decision;
        }
        match self.wish.take() {
            None => self.drop_drafts(&mut decision.drop),
            Some(wish) => decision.start = self.start(wish),
        }
        decision.rollout = self.rollout;
        decision
    }

    /// The start that is wished for, under the number of the one that was refused; not before it may be tried again.
    fn start(&mut self, (image, purpose, devices): Wish) -> Option<Start> {
        let now = self.survey.now;
        let draft = self.draft().cloned();
        let refused = self.rollout.refused.clone();
        if let Some(refused) = refused.filter(|r| draft.is_some() && r.retry_at > now) {
            self.rollout.status.next_start = Some(refused.retry_at);
            self.show(RolloutState::Blocked, refused.why);
            return None;
        }
        if purpose == RolloutPurpose::Wide {
            self.rollout.last_start = Some(now);
        }
        self.rollout.gathering_since = None;
        let task = match draft {
            None => enter(&mut self.rollout, now, image, purpose),
            Some(draft) => {
                for entry in self.rollout.tasks.iter_mut() {
                    if entry.task == draft.task {
                        (entry.image, entry.purpose) = (image, purpose);
                    }
                }
                draft.task
            }
        };
        Some(Start {
            task,
            image,
            purpose,
            devices,
        })
    }

    /// A push that was interrupted before its start.
    fn pushed(&self) -> Option<Start> {
        if self.rollout.switch == RolloutSwitch::Withdrawn {
            return None;
        }
        let left = |task: &&RolloutTask| !task.started && task.purpose == RolloutPurpose::Push;
        let entry = self.rollout.tasks.iter().find(left)?;
        let seen = self.survey.tasks.get(&entry.task)?;
        let devices: BTreeSet<DevEui> = seen.devices.iter().map(|d| d.dev_eui).collect();
        (!devices.is_empty()).then(|| Start {
            task: entry.task.clone(),
            image: entry.image,
            purpose: RolloutPurpose::Push,
            devices,
        })
    }

    /// Nothing is to be started: drafts are in nobody's interest, but for those of a push.
    fn drop_drafts(&mut self, dropped: &mut Vec<TaskId>) {
        let withdrawn = self.rollout.switch == RolloutSwitch::Withdrawn;
        self.rollout.refused = None;
        self.rollout.tasks.retain(|entry| {
            let kept = entry.started || (entry.purpose == RolloutPurpose::Push && !withdrawn);
            if !kept {
                dropped.push(entry.task.clone());
            }
            kept
        });
    }

    /// What is under way for a rollout that was taken back.
    fn to_cancel(&self) -> Vec<TaskId> {
        if self.rollout.switch != RolloutSwitch::Withdrawn {
            return Vec::new();
        }
        let tasks = self.going().filter(|entry| {
            let seen = self.survey.tasks.get(&entry.task);
            let state = seen.map(|seen| seen.task.state);
            state.is_some_and(|state| state.is_active() && state != TaskState::Cancelling)
        });
        tasks.map(|entry| entry.task.clone()).collect()
    }
}

/// What came of bringing the image to a device.
fn tries(rollout: &Rollout, image: &Image, dev_eui: DevEui) -> Option<DeviceTries> {
    let of_image = rollout.tries_of == Some(image.sha256);
    of_image.then(|| rollout.tries.get(&dev_eui).copied())?
}

#[cfg(test)]
mod tests;
