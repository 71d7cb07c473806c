//! What the operator does to a running task: hold it, let it go on, take devices out, cancel it; and the deadline.
//!
//! Holding sends nothing and deletes nothing: devices keep what they received. A window that passes meanwhile is
//! announced anew afterwards, by session requests alone; another `FragSessionSetupReq` would erase what devices hold
//! (TS004-2.0.0 §3.2).

use crate::lorawan::identifiers::DevEui;
use crate::record::{DeviceReason, DeviceState, Held, TaskReason, TaskState};
use crate::time::Timestamp;

use super::{Campaign, Surroundings};

impl Campaign {
    /// Nothing is sent until [`Self::resume`]. What is on its way already may still be on air.
    pub(super) fn pause(&mut self, now: Timestamp) {
        if self.task.state != TaskState::Cancelling {
            self.task.reason_text.clear();
            self.hold(now, TaskState::Paused, TaskReason::Requested);
        }
    }

    /// Waits for the operator in `state`.
    pub(super) fn hold(&mut self, now: Timestamp, state: TaskState, reason: TaskReason) {
        if self.task.is_held() {
            // Held already; the state says what for.
            return;
        }
        self.task.held = Some(Held {
            from: self.task.state,
            since: now,
        });
        self.task.reason = Some(reason);
        self.enter(state);
    }

    /// Goes on from where the task was held, and with the next wave if one waits. The deadline moves by as long as
    /// that took.
    pub(super) fn resume(&mut self, now: Timestamp) {
        let is_held = self.task.is_held();
        let Some(held) = self.task.held.take_if(|_| is_held) else {
            return;
        };
        let lost = now.since(held.since);
        for moment in [&mut self.task.deadline, &mut self.task.expected_end] {
            *moment = moment.map(|at| at + lost);
        }
        self.task.resumed_at = Some(now);
        self.task.reason = None;
        self.task.reason_text.clear();
        self.accept_failures();
        self.enter(held.from);
        self.due
            .extend(self.devices.keys().map(|dev_eui| (now, *dev_eui)));
    }

    /// Takes devices out: they end, and what the task put on them is deleted. A device that is rebooting reboots all
    /// the same; it is not asked for its version any more.
    pub(super) fn remove(&mut self, now: Timestamp, devices: &[DevEui]) {
        for dev_eui in devices {
            let evidence = "taken out of the task".to_owned();
            self.conclude(now, *dev_eui, DeviceState::Removed, None, evidence);
        }
    }

    /// Stops sending and cleans up; a device that is rebooting is followed to its verdict.
    pub(super) fn cancel(&mut self, now: Timestamp) {
        if self.task.state != TaskState::Cancelling {
            self.abort(now, TaskReason::Requested);
        }
    }

    /// Stops sending, and ends the task when the devices are cleaned.
    pub(super) fn abort(&mut self, now: Timestamp, reason: TaskReason) {
        self.task.held = None;
        self.task.reason = Some(reason);
        self.enter(TaskState::Cancelling);
        for number in 0..self.sessions.len() {
            self.close_session(number);
        }
        // A device that is rebooting cannot be called back: it is followed to its verdict.
        let stopped: Vec<DevEui> = self
            .open
            .iter()
            .copied()
            .filter(|d| self.devices[d].state != DeviceState::Rebooting)
            .collect();
        let evidence = match reason {
            TaskReason::Requested => "the task was cancelled",
            _ => "the task was given up",
        };
        for dev_eui in stopped {
            let state = DeviceState::Cancelled;
            self.conclude(now, dev_eui, state, None, evidence.to_owned());
        }
    }

    /// The deadline has come: what is open ends.
    pub(super) fn give_up_all(&mut self, now: Timestamp, around: &Surroundings<'_>) {
        self.task.reason = Some(TaskReason::DeadlinePassed);
        self.changed.task = true;
        for number in 0..self.sessions.len() {
            self.close_session(number);
        }
        for dev_eui in self.open.clone() {
            let heard = self.heard_since_start(dev_eui, around);
            let device = &self.devices[&dev_eui];
            let waits_for_answer = device.state >= DeviceState::ReportedReceived;
            let evidence = format!(
                "still {:?} at the deadline, {} attempts",
                device.state, device.attempts
            );
            if heard && !waits_for_answer {
                self.end_without_window(now, dev_eui, evidence, around);
            } else {
                self.conclude(
                    now,
                    dev_eui,
                    DeviceState::Silent,
                    Some(DeviceReason::NoAnswer),
                    evidence,
                );
            }
        }
    }
}
