//! What is done to tasks as a whole: started, held, let go on, taken up again, cancelled. The writer decides; here a
//! call is checked, made once, and answered.

use crate::lorawan::identifiers::DevEui;
use crate::lorawan::keys::Key128;
use crate::proto::v1;
use crate::record::{
    Change, DeviceState, Image, StateCounts, StoredImage, Task, TaskId, TaskReason, TaskState,
};
use crate::runtime::{Command, CommandError};
use crate::store::Catalog;

use super::drafts::added;
use super::errors::ApiError;
use super::fields::Fields;
use super::idempotency::{Call, Ticket};
use super::task_records;
use super::tasks::{check_etag, state_word};
use super::{Api, plan};

impl<S: Catalog> Api<S> {
    pub(super) async fn start(
        self,
        request: v1::StartTaskRequest,
    ) -> Result<v1::FuotaTask, ApiError> {
        let _desk = self.desk().await;
        let ticket = match self.once("StartTask", &request, &[]).await? {
            Call::Again(Some(answer)) => return Ok(answer),
            Call::Again(None) => return self.shown_task("name", &request.name).await,
            Call::First(ticket) => ticket,
        };
        let task = self.draft(&request.name).await?;
        check_etag(&request.etag, &task)?;
        self.start_draft(task, request.queue, ticket.carried_out())
            .await?;
        self.answer_with_task(&request.name, ticket).await
    }

    /// Plans a draft and hands it to the writer, with the desk held; `with` is committed with the start. `queue`: it
    /// waits while other tasks hold its devices.
    pub(super) async fn start_draft(
        &self,
        mut task: Task,
        queue: bool,
        with: Vec<Change>,
    ) -> Result<(), ApiError> {
        task.seed = Some(Key128::from_bytes(self.random()));
        let order = self.order(task).await?;
        if !order.held.is_empty() && !queue {
            return Err(ApiError::Refused {
                reason: "PLAN_BLOCKED",
                message: format!("{} devices are in other active tasks", order.held.len()),
                blockers: plan::held_blockers(&order.held),
            });
        }
        let fleet = self.fleet(&order.devices).await?;
        if let Some(error) = self.distrust_of(&order, &fleet).await? {
            return Err(ApiError::Command("PLAN_BLOCKED", CommandError::Plan(error)));
        }
        let task = Box::new(order.task);
        let images = self.with_bytes(order.images).await?;
        let deltas = self.with_bytes(order.deltas).await?;
        let (devices, groups) = (order.devices.into_iter().collect(), order.groups);
        let command = if queue {
            Command::QueueTask {
                task,
                images,
                deltas,
                devices,
                groups,
            }
        } else {
            Command::StartTask {
                task,
                images,
                deltas,
                devices,
                groups,
            }
        };
        self.command("TASK_NOT_DRAFT", command, with).await
    }

    async fn with_bytes(&self, images: Vec<Image>) -> Result<Vec<StoredImage>, ApiError> {
        let mut stored = Vec::with_capacity(images.len());
        for image in images {
            let bytes = self.bytes_of(image.sha256).await?;
            stored.push((image, bytes));
        }
        Ok(stored)
    }

    pub(super) async fn cancel(
        self,
        request: v1::CancelTaskRequest,
    ) -> Result<v1::FuotaTask, ApiError> {
        let _desk = self.desk().await;
        let ticket = match self.once("CancelTask", &request, &[]).await? {
            Call::Again(Some(answer)) => return Ok(answer),
            Call::Again(None) => return self.shown_task("name", &request.name).await,
            Call::First(ticket) => ticket,
        };
        let task = self.find_task("name", &request.name).await?;
        match task.state {
            TaskState::Draft => self.cancel_draft(task, ticket).await,
            TaskState::Cancelling | TaskState::Cancelled => {
                self.answer_with_task(&request.name, ticket).await
            }
            TaskState::Completed | TaskState::Failed => {
                let message = format!("it is in {}", state_word(task.state));
                Err(ApiError::refused("TASK_ENDED", message))
            }
            TaskState::Scheduled
            | TaskState::Preparing
            | TaskState::Distributing
            | TaskState::Completing
            | TaskState::AwaitingApproval
            | TaskState::Paused => {
                let command = Command::CancelTask(task.id);
                self.command("TASK_ENDED", command, ticket.carried_out())
                    .await?;
                self.answer_with_task(&request.name, ticket).await
            }
        }
    }

    pub(super) async fn cancel_draft(
        &self,
        mut task: Task,
        ticket: Ticket,
    ) -> Result<v1::FuotaTask, ApiError> {
        let now = self.now();
        let mut changes = Vec::new();
        for mut device in self.devices_of_task(&task.id).await? {
            task.sequence += 1;
            device.state = DeviceState::Cancelled;
            device.entered.insert(DeviceState::Cancelled, now);
            device.sequence = task.sequence;
            device.changed_at = now;
            changes.push(Change::PutTaskDevice(device.into()));
        }
        let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        let counts = if count == 0 {
            StateCounts::new()
        } else {
            StateCounts::from([(DeviceState::Cancelled, count)])
        };
        task.state = TaskState::Cancelled;
        task.reason = Some(TaskReason::Requested);
        task.ended_at = Some(now);
        task.updated_at = now;
        task.sequence += 1;
        self.keep_draft(task, counts, changes, ticket).await
    }

    pub(super) async fn pause(
        self,
        request: v1::PauseTaskRequest,
    ) -> Result<v1::FuotaTask, ApiError> {
        let _desk = self.desk().await;
        let ticket = match self.once("PauseTask", &request, &[]).await? {
            Call::Again(Some(answer)) => return Ok(answer),
            Call::Again(None) => return self.shown_task("name", &request.name).await,
            Call::First(ticket) => ticket,
        };
        let task = self.find_task("name", &request.name).await?;
        check_going(&task)?;
        if task.state != TaskState::Paused {
            let command = Command::PauseTask(task.id);
            self.command("TASK_ENDED", command, ticket.carried_out())
                .await?;
        }
        self.answer_with_task(&request.name, ticket).await
    }

    pub(super) async fn resume(
        self,
        request: v1::ResumeTaskRequest,
    ) -> Result<v1::FuotaTask, ApiError> {
        let _desk = self.desk().await;
        let ticket = match self.once("ResumeTask", &request, &[]).await? {
            Call::Again(Some(answer)) => return Ok(answer),
            Call::Again(None) => return self.shown_task("name", &request.name).await,
            Call::First(ticket) => ticket,
        };
        let task = self.find_task("name", &request.name).await?;
        check_going(&task)?;
        if task.is_held() {
            let command = Command::ResumeTask(task.id);
            self.command("TASK_ENDED", command, ticket.carried_out())
                .await?;
        }
        self.answer_with_task(&request.name, ticket).await
    }

    pub(super) async fn retry(
        self,
        request: v1::RetryTaskRequest,
    ) -> Result<v1::FuotaTask, ApiError> {
        let _desk = self.desk().await;
        let ticket = match self.once("RetryTask", &request, &[]).await? {
            Call::Again(Some(answer)) => return Ok(answer),
            Call::Again(None) => return self.shown_task("name", &request.name).await,
            Call::First(ticket) => ticket,
        };
        let mut fields = Fields::default();
        let id = fields.new_id("task_id", &request.task_id);
        fields.finish()?;
        let before = self.find_task("name", &request.name).await?;
        if !before.state.is_terminal() {
            let message = format!("it is in {}", state_word(before.state));
            return Err(ApiError::refused("TASK_ACTIVE", message));
        }
        let id = TaskId(id.unwrap_or_else(|| self.made_id()));
        self.check_new(&id).await?;
        self.check_image(&before).await?;
        let ended = self.devices_of_task(&before.id).await?;
        let again: Vec<DevEui> = ended
            .into_iter()
            .filter(|device| is_tried_again(device.state))
            .map(|device| device.dev_eui)
            .collect();
        if again.is_empty() {
            let message = "no device failed, was silent, rolled back or was cancelled".to_owned();
            return Err(ApiError::refused("NOTHING_TO_RETRY", message));
        }
        let mut task = Task {
            display_name: before.display_name,
            images: before.images,
            install: before.install,
            success: before.success,
            reboot: before.reboot,
            options: before.options,
            waves: before.waves,
            thresholds: before.thresholds,
            tags: before.tags,
            retry_of: Some(before.id),
            ..task_records::blank(id, self.now())
        };
        let count = u32::try_from(again.len()).unwrap_or(u32::MAX);
        let mut changes = Vec::new();
        for dev_eui in again {
            changes.push(added(&mut task, dev_eui, self.now()));
        }
        let counts = StateCounts::from([(DeviceState::Pending, count)]);
        self.keep_draft(task, counts, changes, ticket).await
    }
}

/// States of devices that another task may bring further. Who was skipped or taken out is not tried again.
fn is_tried_again(state: DeviceState) -> bool {
    matches!(
        state,
        DeviceState::Failed
            | DeviceState::Silent
            | DeviceState::RolledBack
            | DeviceState::Cancelled
    )
}

/// A campaign runs the task, or holds it.
pub(super) fn check_going(task: &Task) -> Result<(), ApiError> {
    let message = format!("it is in {}", state_word(task.state));
    if task.state == TaskState::Draft {
        Err(ApiError::refused("TASK_NOT_STARTED", message))
    } else if task.state.is_terminal() || task.state == TaskState::Cancelling {
        Err(ApiError::refused("TASK_ENDED", message))
    } else {
        Ok(())
    }
}
