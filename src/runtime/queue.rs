//! The queue: tasks that wait until others let go of their devices, and begin by themselves then, in their order.
//!
//! A task waits for the devices of running tasks and for those that a task before it in the queue wants; tasks that
//! want different devices do not wait for each other. It is planned anew when it begins.

use std::collections::BTreeSet;

use crate::campaign::{Input, WaitingTask};
use crate::lorawan::identifiers::DevEui;
use crate::record::{TaskId, TaskReason, TaskSnapshot, TaskState};
use crate::time::Timestamp;

/// Waiting tasks by place.
#[derive(Debug, Default)]
pub(super) struct Queue {
    tasks: Vec<WaitingTask>,
    /// Devices were let go, or the queue changed: somebody may begin.
    stirred: bool,
}

impl Queue {
    /// Puts back a task as it was committed.
    pub(super) fn restore(&mut self, snapshot: TaskSnapshot) {
        self.add(WaitingTask::restore(snapshot));
    }

    /// Takes a task in.
    pub(super) fn add(&mut self, task: WaitingTask) {
        self.tasks.push(task);
        self.tasks.sort_by_key(WaitingTask::place);
        self.stirred = true;
    }

    /// The place of the next one.
    pub(super) fn next_place(&self) -> u64 {
        self.tasks.last().map_or(0, |last| last.place() + 1)
    }

    /// Somebody may be able to begin.
    pub(super) fn stir(&mut self) {
        self.stirred |= !self.tasks.is_empty();
    }

    /// When the queue wants to be looked after.
    pub(super) fn wake(&self) -> Option<Timestamp> {
        if self.stirred {
            return Some(Timestamp::default());
        }
        let times = |task: &WaitingTask| task.deadline().into_iter().chain(task.not_before());
        self.tasks.iter().flat_map(times).min()
    }

    /// The waiting task that wants a device.
    pub(super) fn wants(&self, dev_eui: DevEui) -> Option<&TaskId> {
        let wanting = self.tasks.iter().find(|task| task.wants(dev_eui));
        wanting.map(|task| &task.task().id)
    }

    /// What the operator does to a waiting task; `None` if there is none of that name.
    pub(super) fn tell(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        input: &Input<'_>,
    ) -> Option<&mut WaitingTask> {
        let task = self.tasks.iter_mut().find(|t| t.task().id == *id)?;
        task.take(now, input);
        self.stirred = true;
        Some(task)
    }

    /// Takes out the next task that has ended, or whose devices are free. A task whose deadline has passed ends.
    pub(super) fn next(
        &mut self,
        now: Timestamp,
        is_busy: impl Fn(DevEui) -> bool,
    ) -> Option<WaitingTask> {
        if self.wake().is_none_or(|at| at > now) {
            return None;
        }
        let mut reserved: BTreeSet<DevEui> = BTreeSet::new();
        for at in 0..self.tasks.len() {
            let task = &mut self.tasks[at];
            if task.deadline().is_some_and(|deadline| now >= deadline) {
                let why = "its devices were not free before the deadline";
                task.give_up(now, TaskState::Failed, TaskReason::DeadlinePassed, why);
            }
            let waits = |dev_eui| is_busy(dev_eui) || reserved.contains(&dev_eui);
            let due = task.comes_due(now);
            let ready = due && !task.task().is_held() && !task.devices().any(waits);
            if task.is_over() || ready {
                return Some(self.tasks.remove(at));
            }
            reserved.extend(task.devices());
        }
        self.stirred = false;
        None
    }
}
