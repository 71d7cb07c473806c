//! Looks after rollouts: reads what `rollout::decide` wants to know, writes down what it wants, and does it.
//!
//! A task is made as a draft in one commit with the record that counts it, and started through the same path as
//! StartTask, in one commit with the record that says so. Whoever is interrupted in between finds the draft at the next
//! look and goes on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tracing::{info, warn};

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    Change, Image, Rollout, RolloutPurpose, RolloutSwitch, Task, TaskId, TaskState,
};
use crate::rollout::{self, Decision, DeviceFacts, Start, Survey, TaskSeen};
use crate::runtime::{Command, CommandError};
use crate::store::{Catalog, DeviceFilter, Page, StoreError};
use crate::time::Timestamp;

use super::Api;
use super::drafts::added;
use super::errors::ApiError;
use super::fields::tenant;

/// Rollouts are looked at once in this time at least: versions come in without a notice.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// And no more often than once in this: while a task runs, notices come in crowds.
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);
/// The tag by which tasks name their rollout.
const TAG: &str = "rollout";

/// What is there to be updated, and with what.
pub(super) struct Stock {
    devices: Vec<DeviceFacts>,
    held: BTreeSet<DevEui>,
    images: Vec<Image>,
}

impl<S: Catalog> Api<S> {
    /// Looks after rollouts until `stop` resolves. An error is one of the store: it is waited out.
    pub async fn drive_rollouts(&self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut notices = self.core.handle.subscribe();
        let mut drafts = self.core.drafts.subscribe();
        loop {
            let next = match self.look_after_rollouts().await {
                Ok(next) => next,
                Err(error) => {
                    warn!(%error, "rollouts were not looked at");
                    None
                }
            };
            // What was changed by this look is no news.
            drafts.mark_unchanged();
            let pause = next.map_or(LONGEST_PAUSE, |at| at.since(self.now()));
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = tokio::time::sleep(pause.min(LONGEST_PAUSE)) => {}
                changed = drafts.changed() => if changed.is_err() {
                    return;
                },
                notice = notices.recv() => if matches!(notice, Err(RecvError::Closed)) {
                    return;
                },
            }
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = tokio::time::sleep(SHORTEST_PAUSE) => {}
            }
            notices = notices.resubscribe();
        }
    }

    /// Looks at every rollout once; returns when the first one wants to be looked at again.
    ///
    /// # Errors
    /// The store does not answer. What was begun is gone on with at the next look, as after an error with one of them,
    /// which is logged.
    pub async fn look_after_rollouts(&self) -> Result<Option<Timestamp>, StoreError> {
        let busy = |rollout: &Rollout| {
            rollout.switch == RolloutSwitch::Enabled
                || rollout.tasks.iter().any(|task| task.ended.is_none())
        };
        let mut rollouts = self.store().rollouts(&tenant()).await?;
        rollouts.retain(busy);
        if rollouts.is_empty() {
            return Ok(None);
        }
        let mut stock = self.stock().await.map_err(of_store)?;
        let mut next: Option<Timestamp> = None;
        for rollout in rollouts {
            let _desk = self.desk().await;
            // A user may have been at it meanwhile.
            let Some(rollout) = self.rollout(&rollout.id).await.map_err(of_store)? else {
                continue;
            };
            let id = rollout.id.clone();
            match self.look_at(rollout, &mut stock).await {
                Ok((rollout, _)) => {
                    let wants = rollout.status.next_start.into_iter();
                    next = wants.chain(next).min();
                }
                // The others are not to suffer for it.
                Err(error) => warn!(
                    rollout = id,
                    error = error.into_words(),
                    "was not looked at"
                ),
            }
        }
        Ok(next)
    }

    /// Looks at a rollout a user has just changed, with the desk held: the record as it is then, and the tasks that are
    /// being cancelled. What the user wanted is written; what cannot be done about it now is left to the next look.
    pub(super) async fn look_at_once(&self, rollout: &Rollout) -> (Rollout, Vec<TaskId>) {
        let look = async {
            let mut stock = self.stock().await?;
            self.look_at(rollout.clone(), &mut stock).await
        };
        look.await.unwrap_or_else(|error: ApiError| {
            warn!(
                rollout = rollout.id,
                error = error.into_words(),
                "was not looked at"
            );
            (rollout.clone(), Vec::new())
        })
    }

    async fn look_at(
        &self,
        mut rollout: Rollout,
        stock: &mut Stock,
    ) -> Result<(Rollout, Vec<TaskId>), ApiError> {
        let before = rollout.clone();
        self.skip_taken_numbers(&mut rollout).await?;
        let tasks = self.tasks_of_rollout(&rollout).await?;
        let members = match &rollout.order.selector.group {
            Some(group) => self.store().multicast_group(&tenant(), group).await?,
            None => None,
        };
        let survey = Survey {
            now: self.now(),
            images: &stock.images,
            devices: &stock.devices,
            members: members.as_ref().map(|group| &group.devices),
            held: &stock.held,
            tasks: &tasks,
        };
        let Decision {
            rollout,
            start,
            drop,
            cancel,
        } = rollout::decide(rollout, &survey);
        let dropped: Vec<Change> = drop.into_iter().map(Change::DeleteTask).collect();
        match &start {
            Some(start) => {
                let left = tasks.get(&start.task);
                self.write_draft(&rollout, start, left, dropped).await?;
                // The next rollout is to leave them alone.
                stock.held.extend(&start.devices);
            }
            None if rollout != before || !dropped.is_empty() => {
                let mut changes = dropped;
                changes.push(Change::PutRollout(Box::new(rollout.clone())));
                self.commit(changes).await?;
                self.draft_changed();
            }
            None => {}
        }
        let mut cancelled = Vec::new();
        for task in cancel {
            let command = Command::CancelTask(task.clone());
            match self.command("TASK_ENDED", command, Vec::new()).await {
                Ok(()) => cancelled.push(task),
                Err(error) if is_unknown(&error) => return Err(error),
                // It ended by itself.
                Err(_) => {}
            }
        }
        let rollout = match start {
            Some(start) => self.try_to_start(rollout, &start).await?,
            None => rollout,
        };
        Ok((rollout, cancelled))
    }

    /// The record with the number of its next task past those that exist: another rollout may have had its name.
    pub(super) async fn skip_taken_numbers(&self, rollout: &mut Rollout) -> Result<(), ApiError> {
        loop {
            let id = TaskId(format!("{}-{}", rollout.id, rollout.next_number));
            if self.store().task(&tenant(), &id).await?.is_none() {
                return Ok(());
            }
            rollout.next_number = rollout.next_number.saturating_add(1);
        }
    }

    /// Its tasks that have not ended as far as it knows.
    pub(super) async fn tasks_of_rollout(
        &self,
        rollout: &Rollout,
    ) -> Result<BTreeMap<TaskId, TaskSeen>, ApiError> {
        let mut seen = BTreeMap::new();
        for entry in rollout.tasks.iter().filter(|task| task.ended.is_none()) {
            let Some(task) = self.store().task(&tenant(), &entry.task).await? else {
                continue;
            };
            let devices = match task.state.is_active() {
                true => Vec::new(),
                false => self.devices_of_task(&task.id).await?,
            };
            seen.insert(task.id.clone(), TaskSeen { task, devices });
        }
        Ok(seen)
    }

    /// Writes the record and the draft of a start. A draft that is `left` from a try before is brought up to date.
    pub(super) async fn write_draft(
        &self,
        rollout: &Rollout,
        start: &Start,
        left: Option<&TaskSeen>,
        mut changes: Vec<Change>,
    ) -> Result<(), ApiError> {
        let now = self.now();
        let mut task = draft(rollout, start, now);
        if let Some(left) = left {
            task.sequence = left.task.sequence + 1;
            task.created_at = left.task.created_at;
        }
        let had: BTreeSet<DevEui> = left
            .into_iter()
            .flat_map(|left| left.devices.iter().map(|device| device.dev_eui))
            .collect();
        let gone = had.difference(&start.devices);
        let gone = gone.map(|dev_eui| Change::DeleteTaskDevice(start.task.clone(), *dev_eui));
        let mut members: Vec<Change> = gone.collect();
        for dev_eui in start.devices.difference(&had) {
            members.push(added(&mut task, *dev_eui, now));
        }
        changes.push(Change::PutRollout(Box::new(rollout.clone())));
        changes.push(Change::PutTask(task.into()));
        changes.extend(members);
        self.commit(changes).await?;
        self.draft_changed();
        Ok(())
    }

    /// Starts the draft of a rollout; `begun` is its record as it is then.
    pub(super) async fn begin(
        &self,
        begun: &Rollout,
        task: &TaskId,
        mut with: Vec<Change>,
    ) -> Result<(), ApiError> {
        with.push(Change::PutRollout(Box::new(begun.clone())));
        let draft = self.task(task).await?;
        self.start_draft(draft, true, with).await?;
        info!(rollout = begun.id, %task, "rollout started a task");
        Ok(())
    }

    /// Starts the draft of a rollout, or notes why not.
    async fn try_to_start(&self, mut rollout: Rollout, start: &Start) -> Result<Rollout, ApiError> {
        let mut begun = rollout.clone();
        rollout::started(&mut begun, &start.task);
        let error = match self.begin(&begun, &start.task, Vec::new()).await {
            Ok(()) => return Ok(begun),
            Err(error) if is_unknown(&error) => return Err(error),
            Err(error) => error.into_words(),
        };
        let mut changes = Vec::new();
        if start.purpose == RolloutPurpose::Push {
            // It was interrupted, and who asked for it has got an error.
            rollout.tasks.retain(|entry| entry.task != start.task);
            changes.push(Change::DeleteTask(start.task.clone()));
        } else {
            rollout::refused(&mut rollout, self.now(), error);
        }
        changes.push(Change::PutRollout(Box::new(rollout.clone())));
        self.commit(changes).await?;
        self.draft_changed();
        Ok(rollout)
    }

    async fn stock(&self) -> Result<Stock, ApiError> {
        let mut devices: Vec<DeviceFacts> = Vec::new();
        let filter = DeviceFilter::default();
        loop {
            let page = Page {
                size: 1000,
                after: devices.last().map(|device| device.dev_eui.to_string()),
            };
            let batch = self.store().devices(&tenant(), &filter, &page).await?;
            let last = batch.len() < 1000;
            devices.extend(batch.into_iter().map(|device| {
                DeviceFacts {
                    dev_eui: device.settings.dev_eui,
                    model: device.settings.model,
                    profile: device.settings.profile,
                    tags: device.settings.tags,
                    versions: device
                        .status
                        .versions
                        .into_iter()
                        .map(|(component, seen)| (component, (seen.version, seen.at)))
                        .collect(),
                }
            }));
            if last {
                break;
            }
        }
        let all: Vec<DevEui> = devices.iter().map(|device| device.dev_eui).collect();
        let held = self.store().active_tasks_of(&all).await?;
        Ok(Stock {
            devices,
            held: held.into_iter().map(|(dev_eui, _)| dev_eui).collect(),
            images: self.all_images().await?,
        })
    }
}

/// Whether a command was carried out is not known.
pub(super) fn is_unknown(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::Store(_) | ApiError::Stopped | ApiError::Command(_, CommandError::Unavailable(_))
    )
}

/// The task that a rollout makes of its template.
fn draft(rollout: &Rollout, start: &Start, now: Timestamp) -> Task {
    let template = Task::clone(&rollout.order.template);
    let mut task = Task {
        id: start.task.clone(),
        images: vec![start.image],
        state: TaskState::Draft,
        sequence: 1,
        created_at: now,
        updated_at: now,
        ..template
    };
    task.tags.insert(TAG.to_owned(), rollout.id.clone());
    if task.display_name.is_empty() {
        task.display_name.clone_from(&rollout.order.display_name);
    }
    task
}

/// The store's part in an error; whatever else it was, it is tried again.
fn of_store(error: ApiError) -> StoreError {
    match error {
        ApiError::Store(error) => error,
        error => StoreError::Unavailable(error.into_words()),
    }
}
