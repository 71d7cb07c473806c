//! A task that waits for devices other tasks hold: started, but not yet planned for good, and nothing is sent.
//!
//! It is a record like any other, so that it survives a restart; the operator can rename, hold, thin out and cancel it.
//! Who decides when its devices are free is the one who knows all tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    Change, DeviceState, Held, MulticastGroup, StoredImage, Task, TaskDevice, TaskReason,
    TaskSnapshot, TaskState, Waiting,
};
use crate::task::{PlanError, PlanRefusal, SkippedDevice};
use crate::time::Timestamp;

use super::{Input, Order};

/// Between two tries of a task that was refused for something that may pass.
const TRIES_AGAIN: Duration = Duration::from_secs(30);

/// A task in the queue.
#[derive(Debug)]
pub struct WaitingTask {
    task: Task,
    images: Vec<StoredImage>,
    deltas: Vec<StoredImage>,
    devices: BTreeMap<DevEui, TaskDevice>,
    changed: BTreeSet<DevEui>,
    /// It could have begun and was refused for now: not before then again.
    not_before: Option<Timestamp>,
}

impl WaitingTask {
    /// Takes a task in at the end of the queue. What it wants later is what it names now.
    pub fn enqueue(now: Timestamp, order: Order, devices: &[DevEui], waiting: Waiting) -> Self {
        let Order {
            mut task,
            images,
            deltas,
            groups,
        } = order;
        task.deltas = deltas.iter().map(|(delta, _)| delta.sha256).collect();
        task.state = TaskState::Scheduled;
        task.reason = Some(TaskReason::WaitsForDevices);
        task.reason_text = "other tasks hold some of its devices".to_owned();
        task.started_at = Some(now);
        task.waiting = Some(Box::new(waiting));
        let devices: BTreeMap<DevEui, TaskDevice> = devices
            .iter()
            .map(|dev_eui| {
                let mut device = TaskDevice::new(task.id.clone(), *dev_eui, now);
                device.group = groups.get(dev_eui).cloned();
                device.entered.insert(DeviceState::Pending, now);
                (*dev_eui, device)
            })
            .collect();
        Self {
            task,
            images,
            deltas,
            changed: devices.keys().copied().collect(),
            devices,
            not_before: None,
        }
    }

    /// Takes it up again from its records.
    pub fn restore(snapshot: TaskSnapshot) -> Self {
        let devices = snapshot.devices.into_iter();
        Self {
            task: snapshot.task,
            images: snapshot.images,
            deltas: snapshot.deltas,
            devices: devices.map(|d| (d.dev_eui, d)).collect(),
            changed: BTreeSet::new(),
            not_before: None,
        }
    }

    /// The task as it stands.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Its place in the queue.
    pub fn place(&self) -> u64 {
        self.task.waiting.as_ref().map_or(0, |w| w.place)
    }

    /// The devices it waits for.
    pub fn devices(&self) -> impl Iterator<Item = DevEui> {
        let wanted = self.devices.values();
        wanted.filter(|d| !d.state.is_failure()).map(|d| d.dev_eui)
    }

    /// It waits for this device.
    pub fn wants(&self, dev_eui: DevEui) -> bool {
        let device = self.devices.get(&dev_eui);
        device.is_some_and(|d| !d.state.is_failure())
    }

    /// When it gives up waiting.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.task.deadline.filter(|_| !self.task.is_held())
    }

    /// Before then it need not be tried again.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.not_before.filter(|_| !self.task.is_held())
    }

    /// Whether it may be tried; what it was refused for before is over then.
    pub fn comes_due(&mut self, now: Timestamp) -> bool {
        self.not_before.take_if(|at| *at <= now);
        self.not_before.is_none()
    }

    /// Its devices are free, and it is refused for something that may pass: it keeps its place.
    pub fn try_again_later(&mut self, now: Timestamp, why: &PlanError) {
        self.not_before = Some(now + TRIES_AGAIN);
        self.task.reason = Some(match why {
            PlanError::Refused {
                refusal: PlanRefusal::ClockDisagrees,
                ..
            } => TaskReason::ClockDisagrees,
            _ => TaskReason::GatewaysOffline,
        });
        self.task.reason_text = why.to_string();
    }

    /// It has ended without ever beginning.
    pub fn is_over(&self) -> bool {
        self.task.state.is_terminal()
    }

    /// What the operator does to it; what devices say is none of its business.
    pub fn take(&mut self, now: Timestamp, input: &Input<'_>) {
        match input {
            Input::Describe { display_name, tags } => {
                (*display_name).clone_into(&mut self.task.display_name);
                self.task.tags.clone_from(tags);
                self.task.updated_at = now;
            }
            Input::Pause if !self.task.is_held() => {
                self.task.held = Some(Held {
                    from: self.task.state,
                    since: now,
                });
                self.task.state = TaskState::Paused;
                self.task.reason = Some(TaskReason::Requested);
            }
            Input::Resume => {
                let Some(held) = self.task.held.take() else {
                    return;
                };
                let lost = now.since(held.since);
                self.task.deadline = self.task.deadline.map(|at| at + lost);
                self.task.resumed_at = Some(now);
                self.task.state = held.from;
                self.task.reason = Some(TaskReason::WaitsForDevices);
            }
            Input::Remove(devices) => {
                for dev_eui in *devices {
                    self.end(now, *dev_eui, DeviceState::Removed, "taken out of the task");
                }
                if self.devices().next().is_none() {
                    self.close(now, TaskState::Completed, TaskReason::NoDevices);
                }
            }
            Input::Cancel => {
                let reason = TaskReason::Requested;
                self.give_up(now, TaskState::Cancelled, reason, "the task was cancelled");
            }
            Input::Pause | Input::Uplink { .. } | Input::Joined(_) | Input::Report(_) => {}
        }
    }

    /// Ends it with all its devices.
    pub fn give_up(&mut self, now: Timestamp, state: TaskState, reason: TaskReason, why: &str) {
        for dev_eui in self.devices().collect::<Vec<_>>() {
            self.end(now, dev_eui, DeviceState::Cancelled, why);
        }
        self.close(now, state, reason);
        if state != TaskState::Cancelled {
            why.clone_into(&mut self.task.reason_text);
        }
    }

    /// It would have begun, and there is nothing to do: all its devices are left out.
    pub fn leave_out(&mut self, now: Timestamp, skipped: &[SkippedDevice]) {
        for left_out in skipped {
            let (dev_eui, state) = (left_out.dev_eui, DeviceState::Skipped);
            self.end(now, dev_eui, state, &left_out.evidence);
            if let Some(device) = self.devices.get_mut(&dev_eui) {
                device.reason = Some(left_out.reason);
            }
        }
        self.close(now, TaskState::Completed, TaskReason::NoDevices);
    }

    /// The order as it is to be planned now: a window whose moment has passed meanwhile opens as soon as it can.
    pub fn to_order(&self, now: Timestamp) -> (Order, Vec<DevEui>, Vec<MulticastGroup>) {
        let mut task = self.task.clone();
        let waiting = task.waiting.take();
        task.reason = None;
        task.reason_text.clear();
        task.window_start = task.window_start.filter(|start| *start > now);
        let group = |d: &TaskDevice| Some((d.dev_eui, d.group.clone()?));
        let order = Order {
            groups: self.devices.values().filter_map(group).collect(),
            images: self.images.clone(),
            deltas: self.deltas.clone(),
            task,
        };
        let groups = waiting.map_or_else(Vec::new, |waiting| waiting.groups);
        (order, self.devices().collect(), groups)
    }

    /// Everything that changed, as writes; every record gets its own sequence number, the task the last.
    pub fn take_changes(&mut self, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        for dev_eui in std::mem::take(&mut self.changed) {
            if let Some(device) = self.devices.get_mut(&dev_eui) {
                self.task.sequence += 1;
                device.sequence = self.task.sequence;
                device.changed_at = now;
                changes.push(Change::PutTaskDevice(device.clone().into()));
            }
        }
        self.task.sequence += 1;
        changes.push(Change::PutTask(self.task.clone().into()));
        changes
    }

    fn end(&mut self, now: Timestamp, dev_eui: DevEui, state: DeviceState, why: &str) {
        let device = self.devices.get_mut(&dev_eui);
        if let Some(device) = device.filter(|d| !d.state.is_failure()) {
            device.state = state;
            why.clone_into(&mut device.evidence);
            device.entered.entry(state).or_insert(now);
            self.changed.insert(dev_eui);
        }
    }

    fn close(&mut self, now: Timestamp, state: TaskState, reason: TaskReason) {
        self.task.held = None;
        self.task.waiting = None;
        self.task.state = state;
        self.task.reason = Some(reason);
        self.task.reason_text.clear();
        self.task.ended_at = Some(now);
    }
}
