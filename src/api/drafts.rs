//! Drafts of tasks: written, changed, filled with devices and groups. Committed straight to the store.

use std::collections::BTreeSet;

use crate::lorawan::identifiers::DevEui;
use crate::proto::v1;
use crate::record::{Change, DeviceState, StateCounts, Task, TaskDevice, TaskId, TaskState};
use crate::runtime::Command;
use crate::store::Catalog;
use crate::time::Timestamp;

use super::devices::MOST_DEVICES;
use super::errors::{ApiError, check_size};
use super::fields::{Fields, tenant};
use super::idempotency::{Call, Ticket, first_or_return};
use super::mask::Mask;
use super::task_control::check_going;
use super::task_records::{self, show_task};
use super::tasks::{check_etag, not_draft, state_word};
use super::{Api, names};

/// Most groups one call takes.
const MOST_GROUPS: usize = 100;

impl<S: Catalog> Api<S> {
    pub(super) async fn create_draft(
        self,
        request: v1::CreateTaskRequest,
    ) -> Result<v1::FuotaTask, ApiError> {
        check_size(&request)?;
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("CreateTask", &request, &[]).await?);
        let mut fields = Fields::of("task");
        let id = fields.new_id("task_id", &request.task_id);
        let Some(given) = &request.task else {
            return Err(ApiError::field("task", "missing"));
        };
        let devices = read_devices(&mut fields, &request.devices);
        let groups = read_groups(&mut fields, &request.multicast_groups);
        let id = TaskId(id.unwrap_or_else(|| self.made_id()));
        let mut task = task_records::blank(id, self.now());
        task_records::write(&mut fields, given, &mut task);
        fields.finish()?;
        self.check_image(&task).await?;
        for dev_eui in &devices {
            if self.store().device(&tenant(), *dev_eui).await?.is_none() {
                return Err(ApiError::NotFound(names::name("devices", dev_eui)));
            }
        }
        for group in &groups {
            if self
                .store()
                .multicast_group(&tenant(), group)
                .await?
                .is_none()
            {
                return Err(ApiError::NotFound(names::name("multicastGroups", group)));
            }
        }
        self.check_new(&task.id).await?;
        task.groups = groups;
        let mut changes = Vec::new();
        let count = u32::try_from(devices.len()).unwrap_or(u32::MAX);
        for dev_eui in devices {
            changes.push(added(&mut task, dev_eui, self.now()));
        }
        let counts = if count == 0 {
            StateCounts::new()
        } else {
            StateCounts::from([(DeviceState::Pending, count)])
        };
        self.keep_draft(task, counts, changes, ticket).await
    }

    pub(super) async fn check_new(&self, id: &TaskId) -> Result<(), ApiError> {
        if self.store().task(&tenant(), id).await?.is_some() {
            return Err(ApiError::AlreadyExists {
                resource: names::name("tasks", id),
                reason: "ALREADY_EXISTS",
            });
        }
        Ok(())
    }

    /// Commits a draft with what belongs to it.
    pub(super) async fn keep_draft(
        &self,
        task: Task,
        counts: StateCounts,
        devices: Vec<Change>,
        ticket: Ticket,
    ) -> Result<v1::FuotaTask, ApiError> {
        let shown = show_task(&task, &counts);
        let mut changes = vec![Change::PutTask(task.into())];
        changes.extend(devices);
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        self.draft_changed();
        Ok(shown)
    }

    pub(super) async fn check_image(&self, task: &Task) -> Result<(), ApiError> {
        for sha256 in &task.images {
            if self.store().image(&tenant(), *sha256).await?.is_none() {
                return Err(ApiError::NotFound(names::name("images", sha256)));
            }
        }
        Ok(())
    }
    pub(super) async fn update_draft(
        self,
        request: v1::UpdateTaskRequest,
    ) -> Result<v1::FuotaTask, ApiError> {
        let _desk = self.desk().await;
        let ticket = match self.once("UpdateTask", &request, &[]).await? {
            Call::Again(Some(answer)) => return Ok(answer),
            Call::Again(None) => {
                let name = request.task.map(|task| task.name).unwrap_or_default();
                return self.shown_task("task.name", &name).await;
            }
            Call::First(ticket) => ticket,
        };
        let mut fields = Fields::of("task");
        let mask = Mask::read(
            &mut fields,
            request.update_mask.as_ref(),
            &task_records::WRITABLE,
        );
        let Some(given) = request.task else {
            return Err(ApiError::field("task", "missing"));
        };
        let given_name = given.name.clone();
        let mut task = self.find_task("task.name", &given_name).await?;
        check_etag(&given.etag, &task)?;
        let counts = self.store().task_counts(&task.id).await?;
        let present = show_task(&task, &counts);
        let merged = task_records::merge(present, given, &mask);
        let before = task.clone();
        task_records::write(&mut fields, &merged, &mut task);
        fields.finish()?;
        if before.state != TaskState::Draft {
            let mut renamed = before.clone();
            renamed.display_name.clone_from(&task.display_name);
            renamed.tags.clone_from(&task.tags);
            if renamed != task {
                return Err(not_draft(&before));
            }
            if before.state.is_active() {
                let command = Command::DescribeTask {
                    task: task.id,
                    display_name: task.display_name,
                    tags: task.tags,
                };
                self.command("TASK_ENDED", command, ticket.carried_out())
                    .await?;
                return self.answer_with_task(&given_name, ticket).await;
            }
        } else if task.images != before.images {
            self.check_image(&task).await?;
        }
        task.sequence += 1;
        task.updated_at = self.now();
        self.keep_draft(task, counts, Vec::new(), ticket).await
    }

    pub(super) async fn drop_task(self, request: v1::DeleteTaskRequest) -> Result<(), ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("DeleteTask", &request, &[]).await?);
        let task = self.find_task("name", &request.name).await?;
        if task.state.is_active() {
            let message = format!("it is in {}", state_word(task.state));
            return Err(ApiError::refused("TASK_ACTIVE", message));
        }
        let mut changes = vec![Change::DeleteTask(task.id)];
        changes.extend(ticket.answered(&()));
        self.commit(changes).await?;
        self.draft_changed();
        Ok(())
    }

    pub(super) async fn add_to_draft(
        self,
        request: v1::AddTaskDevicesRequest,
    ) -> Result<v1::AddTaskDevicesResponse, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("AddTaskDevices", &request, &[]).await?);
        check_lists(&request.devices, &request.multicast_groups)?;
        let mut task = self.draft(&request.name).await?;
        let before = task.sequence;
        let (mut changes, mut errors) = (Vec::new(), Vec::new());
        let present = self.devices_of_task(&task.id).await?;
        let mut present: BTreeSet<DevEui> = present.iter().map(|device| device.dev_eui).collect();
        let had = present.len();
        for name in &request.devices {
            match self.known_device(name).await {
                Ok(dev_eui) => {
                    if present.insert(dev_eui) {
                        changes.push(added(&mut task, dev_eui, self.now()));
                    }
                }
                Err(error @ ApiError::Store(_)) => return Err(error),
                Err(error) => errors.push(v1::DeviceError {
                    device: name.clone(),
                    error: Some(error.into_item()),
                }),
            }
        }
        let mut unknown_multicast_groups = Vec::new();
        for name in &request.multicast_groups {
            let id = names::id_of("multicastGroups", name).unwrap_or_default();
            if self.store().multicast_group(&tenant(), id).await?.is_none() {
                unknown_multicast_groups.push(name.clone());
            } else if !task.groups.iter().any(|group| group == id) {
                task.groups.push(id.to_owned());
                task.sequence += 1;
            }
        }
        let mut counts = self.store().task_counts(&task.id).await?;
        let new = u32::try_from(present.len() - had).unwrap_or(u32::MAX);
        if new > 0 {
            *counts.entry(DeviceState::Pending).or_default() += new;
        }
        let answer = v1::AddTaskDevicesResponse {
            task: Some(show_task(&task, &counts)),
            errors,
            unknown_multicast_groups,
        };
        self.keep_members(task, before, changes, ticket.answered(&answer))
            .await?;
        Ok(answer)
    }

    pub(super) async fn remove_from_draft(
        self,
        request: v1::RemoveTaskDevicesRequest,
    ) -> Result<v1::RemoveTaskDevicesResponse, ApiError> {
        let _desk = self.desk().await;
        let ticket = match self.once("RemoveTaskDevices", &request, &[]).await? {
            Call::Again(Some(answer)) => return Ok(answer),
            Call::Again(None) => {
                let task = Some(self.shown_task("name", &request.name).await?);
                return Ok(v1::RemoveTaskDevicesResponse { task });
            }
            Call::First(ticket) => ticket,
        };
        check_lists(&request.devices, &request.multicast_groups)?;
        let mut fields = Fields::default();
        let devices = read_devices(&mut fields, &request.devices);
        let groups = read_groups(&mut fields, &request.multicast_groups);
        fields.finish()?;
        let mut task = self.find_task("name", &request.name).await?;
        if task.state != TaskState::Draft {
            return self
                .remove_from_running(&task, &request.name, devices, &groups, ticket)
                .await;
        }
        let before = task.sequence;
        let mut changes = Vec::new();
        for dev_eui in devices {
            if self.store().task_device(&task.id, dev_eui).await?.is_some() {
                changes.push(Change::DeleteTaskDevice(task.id.clone(), dev_eui));
                task.sequence += 1;
            }
        }
        let mut counts = self.store().task_counts(&task.id).await?;
        let gone = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        if let Some(pending) = counts.get_mut(&DeviceState::Pending) {
            *pending = pending.saturating_sub(gone);
        }
        let had = task.groups.len();
        task.groups.retain(|group| !groups.contains(group));
        task.sequence += u64::from(task.groups.len() != had);
        let answer = v1::RemoveTaskDevicesResponse {
            task: Some(show_task(&task, &counts)),
        };
        self.keep_members(task, before, changes, ticket.answered(&answer))
            .await?;
        Ok(answer)
    }

    /// Takes devices out of a task that was started; the writer ends them.
    async fn remove_from_running(
        &self,
        task: &Task,
        name: &str,
        devices: BTreeSet<DevEui>,
        groups: &[String],
        ticket: Ticket,
    ) -> Result<v1::RemoveTaskDevicesResponse, ApiError> {
        if !groups.is_empty() {
            return Err(not_draft(task));
        }
        check_going(task)?;
        let devices = devices.into_iter().collect();
        let command = Command::RemoveTaskDevices(task.id.clone(), devices);
        self.command("TASK_ENDED", command, ticket.carried_out())
            .await?;
        let answer = v1::RemoveTaskDevicesResponse {
            task: Some(self.shown_task("name", name).await?),
        };
        let changes = ticket.answered(&answer);
        if !changes.is_empty() {
            self.commit(changes).await?;
        }
        Ok(answer)
    }

    /// Commits changed members of a draft, if anything changed since sequence `before`.
    pub(super) async fn keep_members(
        &self,
        mut task: Task,
        before: u64,
        mut changes: Vec<Change>,
        answered: Vec<Change>,
    ) -> Result<(), ApiError> {
        if task.sequence != before {
            task.updated_at = self.now();
            changes.push(Change::PutTask(task.into()));
        }
        changes.extend(answered);
        if !changes.is_empty() {
            self.commit(changes).await?;
            self.draft_changed();
        }
        Ok(())
    }

    /// The device of that name, if there is one.
    pub(super) async fn known_device(&self, name: &str) -> Result<DevEui, ApiError> {
        let device = self.find_device("device", name).await?;
        Ok(device.settings.dev_eui)
    }
}

/// Takes a device into a draft.
pub(super) fn added(task: &mut Task, dev_eui: DevEui, now: Timestamp) -> Change {
    task.sequence += 1;
    let mut device = TaskDevice::new(task.id.clone(), dev_eui, now);
    device.sequence = task.sequence;
    Change::PutTaskDevice(device.into())
}

fn check_lists(devices: &[String], groups: &[String]) -> Result<(), ApiError> {
    let mut fields = Fields::default();
    if devices.is_empty() && groups.is_empty() {
        fields.bad("devices", "neither a device nor a group is given");
    }
    check_count(&mut fields, devices.len(), groups.len());
    fields.finish()
}

fn check_count(fields: &mut Fields, devices: usize, groups: usize) {
    if devices > MOST_DEVICES {
        fields.bad_in_request("devices", format!("more than {MOST_DEVICES}"));
    }
    if groups > MOST_GROUPS {
        fields.bad_in_request("multicast_groups", format!("more than {MOST_GROUPS}"));
    }
}

fn read_devices(fields: &mut Fields, given: &[String]) -> BTreeSet<DevEui> {
    check_count(fields, given.len(), 0);
    let mut devices = BTreeSet::new();
    for (at, name) in given.iter().enumerate().take(MOST_DEVICES) {
        match names::device(name) {
            Some(dev_eui) => {
                devices.insert(dev_eui);
            }
            None => fields.bad_in_request(
                &format!("devices[{at}]"),
                "not of the form devices/{dev_eui}",
            ),
        }
    }
    devices
}

/// Identifiers of groups, each once, in the order given.
fn read_groups(fields: &mut Fields, given: &[String]) -> Vec<String> {
    check_count(fields, 0, given.len());
    let mut groups: Vec<String> = Vec::new();
    for (at, name) in given.iter().enumerate().take(MOST_GROUPS) {
        match names::id_of("multicastGroups", name) {
            Some(id) if groups.iter().any(|group| group == id) => {}
            Some(id) => groups.push(id.to_owned()),
            None => fields.bad_in_request(
                &format!("multicast_groups[{at}]"),
                "not of the form multicastGroups/{id}",
            ),
        }
    }
    groups
}
