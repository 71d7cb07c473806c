//! Task service: drafts are written here; what is started is the writer's.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::lorawan::identifiers::DevEui;
use crate::lorawan::keys::Key128;
use crate::proto::v1;
use crate::record::{
    Change, DeviceState, StateCounts, Task, TaskDevice, TaskId, TaskReason, TaskState,
};
use crate::runtime::Command;
use crate::store::{Catalog, Page, TaskDeviceFilter, TaskFilter};

use super::devices::MOST_DEVICES;
use super::errors::{ApiError, check_size};
use super::fields::{Fields, tenant};
use super::filter::Kind;
use super::idempotency::{Call, Ticket, first_or_return};
use super::mask::Mask;
use super::page::PageRequest;
use super::task_records::{self, TaskContext, show_task};
use super::{Api, answer, carry_out, names, plan, regions};

/// Most groups one call takes.
const MOST_GROUPS: usize = 100;

const FILTER: [(&str, Kind); 6] = [
    ("state", Kind::Word(is_state)),
    ("state_reason", Kind::Word(is_reason)),
    ("image", Kind::Text),
    ("device", Kind::Text),
    ("multicast_group", Kind::Text),
    ("tags", Kind::Map),
];

const DEVICE_FILTER: [(&str, Kind); 6] = [
    ("state", Kind::Word(is_device_state)),
    ("reason", Kind::Word(is_device_reason)),
    ("verdict", Kind::Word(is_verdict)),
    ("cleanup_state", Kind::Word(is_cleanup)),
    ("wave", Kind::Text),
    ("session", Kind::Text),
];

#[tonic::async_trait]
impl<S: Catalog> v1::task_service_server::TaskService for Api<S> {
    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::FuotaTask>, Status> {
        let api = self.clone();
        carry_out(async move { api.create_draft(request.into_inner()).await }).await
    }

    async fn get_task(
        &self,
        request: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::FuotaTask>, Status> {
        answer(self.shown_task("name", &request.get_ref().name).await)
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        answer(self.page_of_tasks(request.get_ref()).await)
    }

    async fn update_task(
        &self,
        request: Request<v1::UpdateTaskRequest>,
    ) -> Result<Response<v1::FuotaTask>, Status> {
        let api = self.clone();
        carry_out(async move { api.update_draft(request.into_inner()).await }).await
    }

    async fn delete_task(
        &self,
        request: Request<v1::DeleteTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let api = self.clone();
        carry_out(async move { api.drop_task(request.into_inner()).await }).await
    }

    async fn add_task_devices(
        &self,
        request: Request<v1::AddTaskDevicesRequest>,
    ) -> Result<Response<v1::AddTaskDevicesResponse>, Status> {
        let api = self.clone();
        carry_out(async move { api.add_to_draft(request.into_inner()).await }).await
    }

    async fn remove_task_devices(
        &self,
        request: Request<v1::RemoveTaskDevicesRequest>,
    ) -> Result<Response<v1::RemoveTaskDevicesResponse>, Status> {
        let api = self.clone();
        carry_out(async move { api.remove_from_draft(request.into_inner()).await }).await
    }

    async fn get_task_device(
        &self,
        request: Request<v1::GetTaskDeviceRequest>,
    ) -> Result<Response<v1::TaskDevice>, Status> {
        answer(self.one_task_device(&request.get_ref().name).await)
    }

    async fn list_task_devices(
        &self,
        request: Request<v1::ListTaskDevicesRequest>,
    ) -> Result<Response<v1::ListTaskDevicesResponse>, Status> {
        answer(self.page_of_task_devices(request.get_ref()).await)
    }

    async fn get_wave(
        &self,
        request: Request<v1::GetWaveRequest>,
    ) -> Result<Response<v1::Wave>, Status> {
        answer(self.one_wave(&request.get_ref().name).await)
    }

    async fn list_waves(
        &self,
        request: Request<v1::ListWavesRequest>,
    ) -> Result<Response<v1::ListWavesResponse>, Status> {
        answer(self.page_of_waves(request.get_ref()).await)
    }

    async fn get_distribution_session(
        &self,
        request: Request<v1::GetDistributionSessionRequest>,
    ) -> Result<Response<v1::DistributionSession>, Status> {
        answer(self.one_session(&request.get_ref().name).await)
    }

    async fn list_distribution_sessions(
        &self,
        request: Request<v1::ListDistributionSessionsRequest>,
    ) -> Result<Response<v1::ListDistributionSessionsResponse>, Status> {
        answer(self.page_of_sessions(request.get_ref()).await)
    }

    async fn plan_task(
        &self,
        request: Request<v1::PlanTaskRequest>,
    ) -> Result<Response<v1::Plan>, Status> {
        answer(self.plan_draft(&request.get_ref().name).await)
    }

    async fn start_task(
        &self,
        request: Request<v1::StartTaskRequest>,
    ) -> Result<Response<v1::FuotaTask>, Status> {
        let api = self.clone();
        carry_out(async move { api.start(request.into_inner()).await }).await
    }

    async fn cancel_task(
        &self,
        request: Request<v1::CancelTaskRequest>,
    ) -> Result<Response<v1::FuotaTask>, Status> {
        let api = self.clone();
        carry_out(async move { api.cancel(request.into_inner()).await }).await
    }

    type WatchTaskStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchTaskResponse, Status>> + Send>>;

    async fn watch_task(
        &self,
        request: Request<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        answer(self.watch(request.get_ref()).await)
    }
}

impl<S: Catalog> Api<S> {
    async fn create_draft(self, request: v1::CreateTaskRequest) -> Result<v1::FuotaTask, ApiError> {
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
        if self.store().task(&tenant(), &task.id).await?.is_some() {
            return Err(ApiError::AlreadyExists {
                resource: names::name("tasks", &task.id),
                reason: "ALREADY_EXISTS",
            });
        }
        task.groups = groups;
        let mut changes = Vec::new();
        let count = u32::try_from(devices.len()).unwrap_or(u32::MAX);
        for dev_eui in devices {
            changes.push(added(&mut task, dev_eui));
        }
        let counts = if count == 0 {
            StateCounts::new()
        } else {
            StateCounts::from([(DeviceState::Pending, count)])
        };
        self.keep_draft(task, counts, changes, ticket).await
    }

    /// Commits a draft with what belongs to it.
    async fn keep_draft(
        &self,
        task: Task,
        counts: StateCounts,
        devices: Vec<Change>,
        ticket: Ticket,
    ) -> Result<v1::FuotaTask, ApiError> {
        let shown = show_task(&task, &counts);
        let mut changes = vec![Change::PutTask(task)];
        changes.extend(devices);
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        self.draft_changed();
        Ok(shown)
    }

    async fn check_image(&self, task: &Task) -> Result<(), ApiError> {
        for sha256 in &task.images {
            if self.store().image(&tenant(), *sha256).await?.is_none() {
                return Err(ApiError::NotFound(names::name("images", sha256)));
            }
        }
        Ok(())
    }

    /// The task that `field` of a request names.
    pub(super) async fn find_task(&self, field: &str, name: &str) -> Result<Task, ApiError> {
        let id = names::required(field, "tasks/{id}", name, names::task)?;
        self.task(&id).await
    }

    async fn task(&self, id: &TaskId) -> Result<Task, ApiError> {
        let task = self.store().task(&tenant(), id).await?;
        task.ok_or_else(|| ApiError::NotFound(names::name("tasks", id)))
    }

    async fn draft(&self, name: &str) -> Result<Task, ApiError> {
        let task = self.find_task("name", name).await?;
        check_draft(&task)?;
        Ok(task)
    }

    async fn shown_task(&self, field: &str, name: &str) -> Result<v1::FuotaTask, ApiError> {
        let task = self.find_task(field, name).await?;
        self.show(&task).await
    }

    /// A task as the API shows it, counts included.
    pub(super) async fn show(&self, task: &Task) -> Result<v1::FuotaTask, ApiError> {
        let counts = self.store().task_counts(&task.id).await?;
        Ok(show_task(task, &counts))
    }

    /// All tasks that a filter of the store lets through.
    pub(super) async fn all_tasks(&self, filter: &TaskFilter) -> Result<Vec<Task>, ApiError> {
        let mut all: Vec<Task> = Vec::new();
        loop {
            let page = Page {
                size: 1000,
                after: all.last().map(|task| task.id.0.clone()),
            };
            let batch = self.store().tasks(&tenant(), filter, &page).await?;
            let last = batch.len() < 1000;
            all.extend(batch);
            if last {
                return Ok(all);
            }
        }
    }

    /// All devices of a task.
    pub(super) async fn devices_of_task(&self, id: &TaskId) -> Result<Vec<TaskDevice>, ApiError> {
        let mut all: Vec<TaskDevice> = Vec::new();
        loop {
            let page = Page {
                size: 1000,
                after: all.last().map(|device| device.dev_eui.to_string()),
            };
            let filter = TaskDeviceFilter::default();
            let batch = self.store().task_devices(id, &filter, &page).await?;
            let last = batch.len() < 1000;
            all.extend(batch);
            if last {
                return Ok(all);
            }
        }
    }

    async fn page_of_tasks(
        &self,
        request: &v1::ListTasksRequest,
    ) -> Result<v1::ListTasksResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListTasks", &request.filter],
        );
        let filter = fields.filter(&request.filter, &FILTER);
        let image = filter.value("image").map(names::image);
        let device = filter.value("device").map(names::device);
        if image == Some(None) {
            fields.bad_in_request("filter", "field 'image' is not of the form images/{sha256}");
        }
        if device == Some(None) {
            fields.bad_in_request(
                "filter",
                "field 'device' is not of the form devices/{dev_eui}",
            );
        }
        fields.finish()?;
        let in_store = TaskFilter {
            state: None,
            image: image.flatten(),
            device: device.flatten(),
        };
        let keep = |task: &Task| {
            filter.holds(|field| match field {
                "state" => Some(state_word(task.state)),
                "state_reason" => Some(regions::word_of(
                    task_records::show_reason(task.reason).as_str_name(),
                    "TASK_REASON_",
                )),
                // The store looked at these.
                "image" | "device" => filter.value(field).map(str::to_owned),
                "multicast_group" => {
                    let wanted = filter.value(field)?;
                    let id = names::id_of("multicastGroups", wanted)?;
                    task.groups
                        .iter()
                        .any(|group| group == id)
                        .then(|| wanted.to_owned())
                }
                _ => None,
            })
        };
        let (store, tenant, in_store) = (self.store(), &tenant(), &in_store);
        let fetch = |page: Page| async move { store.tasks(tenant, in_store, &page).await };
        let listed = page
            .walk(|task: &Task| task.id.0.clone(), keep, fetch)
            .await?;
        let mut tasks = Vec::new();
        for task in &listed.items {
            tasks.push(self.show(task).await?);
        }
        Ok(v1::ListTasksResponse {
            tasks,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    async fn update_draft(self, request: v1::UpdateTaskRequest) -> Result<v1::FuotaTask, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("UpdateTask", &request, &[]).await?);
        let mut fields = Fields::of("task");
        let mask = Mask::read(
            &mut fields,
            request.update_mask.as_ref(),
            &task_records::WRITABLE,
        );
        let Some(given) = request.task else {
            return Err(ApiError::field("task", "missing"));
        };
        let mut task = self.find_task("task.name", &given.name).await?;
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
            if renamed != task || mask.beyond(&["display_name", "tags", "*"]) && task != before {
                return Err(not_draft(&before));
            }
            if before.state.is_active() {
                return Err(ApiError::refused(
                    "TASK_ACTIVE",
                    "changing the name of a running task is not supported yet",
                ));
            }
        } else if task.images != before.images {
            self.check_image(&task).await?;
        }
        task.sequence += 1;
        self.keep_draft(task, counts, Vec::new(), ticket).await
    }

    async fn drop_task(self, request: v1::DeleteTaskRequest) -> Result<(), ApiError> {
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

    async fn add_to_draft(
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
                        changes.push(added(&mut task, dev_eui));
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

    async fn remove_from_draft(
        self,
        request: v1::RemoveTaskDevicesRequest,
    ) -> Result<v1::RemoveTaskDevicesResponse, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("RemoveTaskDevices", &request, &[]).await?);
        check_lists(&request.devices, &request.multicast_groups)?;
        let mut fields = Fields::default();
        let devices = read_devices(&mut fields, &request.devices);
        let groups = read_groups(&mut fields, &request.multicast_groups);
        fields.finish()?;
        let mut task = self.draft(&request.name).await?;
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

    /// Commits changed members of a draft, if anything changed since sequence `before`.
    async fn keep_members(
        &self,
        task: Task,
        before: u64,
        mut changes: Vec<Change>,
        answered: Vec<Change>,
    ) -> Result<(), ApiError> {
        if task.sequence != before {
            changes.push(Change::PutTask(task));
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

    /// What the messages of a task's devices need to say.
    pub(super) async fn context(&self, task: Task) -> Result<TaskContext, ApiError> {
        let waves = self.store().waves(&task.id).await?;
        let sessions = self.store().distribution_sessions(&task.id).await?;
        Ok(TaskContext {
            task,
            waves,
            sessions,
        })
    }

    /// A device of a task, with the version it reported since the start.
    pub(super) async fn show_task_device(
        &self,
        context: &TaskContext,
        component: &str,
        device: &TaskDevice,
    ) -> Result<v1::TaskDevice, ApiError> {
        let mut version = None;
        if let Some(started) = context.task.started_at {
            let known = self.store().device(&tenant(), device.dev_eui).await?;
            let reported = known.and_then(|known| known.status.versions.get(component).copied());
            version = reported
                .filter(|reported| reported.at >= started)
                .map(|reported| reported.version);
        }
        Ok(context.show(device, version))
    }

    /// The component a task updates.
    pub(super) async fn component(&self, task: &Task) -> Result<String, ApiError> {
        let Some(sha256) = task.images.first() else {
            return Ok(String::new());
        };
        let image = self.store().image(&tenant(), *sha256).await?;
        Ok(image.map(|image| image.component).unwrap_or_default())
    }

    async fn one_task_device(&self, name: &str) -> Result<v1::TaskDevice, ApiError> {
        let form = "tasks/{id}/devices/{dev_eui}";
        let (id, dev_eui) = names::required("name", form, name, |name| {
            let (id, device) = names::part_of_task("devices", name)?;
            Some((id, names::dev_eui(device)?))
        })?;
        let task = self.task(&id).await?;
        let device = self.store().task_device(&id, dev_eui).await?;
        let device = device.ok_or_else(|| ApiError::NotFound(name.to_owned()))?;
        let component = self.component(&task).await?;
        let context = self.context(task).await?;
        self.show_task_device(&context, &component, &device).await
    }

    async fn page_of_task_devices(
        &self,
        request: &v1::ListTaskDevicesRequest,
    ) -> Result<v1::ListTaskDevicesResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListTaskDevices", &request.parent, &request.filter],
        );
        let filter = fields.filter(&request.filter, &DEVICE_FILTER);
        fields.finish()?;
        let task = self.find_task("parent", &request.parent).await?;
        let component = self.component(&task).await?;
        let context = self.context(task).await?;
        let keep = |device: &TaskDevice| {
            let shown = context.show(device, None);
            filter.holds(|field| {
                Some(match field {
                    "state" => regions::word_of(shown.state().as_str_name(), "TASK_DEVICE_STATE_"),
                    "reason" => regions::word_of(shown.reason().as_str_name(), "DEVICE_REASON_"),
                    "verdict" => regions::word_of(shown.verdict().as_str_name(), "VERDICT_"),
                    "cleanup_state" => {
                        regions::word_of(shown.cleanup_state().as_str_name(), "CLEANUP_STATE_")
                    }
                    "wave" => shown.wave.clone(),
                    _ => shown.session.clone(),
                })
            })
        };
        let (store, id, all) = (self.store(), &context.task.id, &TaskDeviceFilter::default());
        let fetch = |page: Page| async move { store.task_devices(id, all, &page).await };
        let key = |device: &TaskDevice| device.dev_eui.to_string();
        let listed = page.walk(key, keep, fetch).await?;
        let mut task_devices = Vec::new();
        for device in &listed.items {
            task_devices.push(self.show_task_device(&context, &component, device).await?);
        }
        Ok(v1::ListTaskDevicesResponse {
            task_devices,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    async fn shown_waves(&self, task: Task) -> Result<Vec<v1::Wave>, ApiError> {
        let devices = self.devices_of_task(&task.id).await?;
        let states: BTreeMap<DevEui, DeviceState> = devices
            .iter()
            .map(|device| (device.dev_eui, device.state))
            .collect();
        let context = self.context(task).await?;
        let waves = context.waves.iter().map(|wave| {
            let mut counts = StateCounts::new();
            for state in wave
                .devices
                .iter()
                .filter_map(|dev_eui| states.get(dev_eui))
            {
                *counts.entry(*state).or_default() += 1;
            }
            context.show_wave(wave, &counts)
        });
        Ok(waves.collect())
    }

    async fn one_wave(&self, name: &str) -> Result<v1::Wave, ApiError> {
        let form = "tasks/{id}/waves/{n}";
        let (id, _) = names::required("name", form, name, |name| names::numbered("waves", name))?;
        let waves = self.shown_waves(self.task(&id).await?).await?;
        let wave = waves.into_iter().find(|wave| wave.name == name);
        wave.ok_or_else(|| ApiError::NotFound(name.to_owned()))
    }

    async fn page_of_waves(
        &self,
        request: &v1::ListWavesRequest,
    ) -> Result<v1::ListWavesResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListWaves", &request.parent],
        );
        fields.finish()?;
        let task = self.find_task("parent", &request.parent).await?;
        let waves = self.shown_waves(task).await?;
        let listed = page.of(waves, |wave| number_key(&wave.name));
        Ok(v1::ListWavesResponse {
            waves: listed.items,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    async fn shown_sessions(&self, task: &Task) -> Result<Vec<v1::DistributionSession>, ApiError> {
        let mut counts: BTreeMap<u16, (u32, u32)> = BTreeMap::new();
        for device in self.devices_of_task(&task.id).await? {
            let Some(number) = device.session else {
                continue;
            };
            let entry = counts.entry(number).or_default();
            entry.0 += 1;
            entry.1 += u32::from(task_records::has_image(device.state));
        }
        let sessions = self.store().distribution_sessions(&task.id).await?;
        let shown = sessions.iter().map(|session| {
            let counts = counts.get(&session.id.number).copied().unwrap_or_default();
            task_records::show_session(session, counts)
        });
        Ok(shown.collect())
    }

    async fn one_session(&self, name: &str) -> Result<v1::DistributionSession, ApiError> {
        let form = "tasks/{id}/sessions/{n}";
        let (id, _) =
            names::required("name", form, name, |name| names::numbered("sessions", name))?;
        let sessions = self.shown_sessions(&self.task(&id).await?).await?;
        let session = sessions.into_iter().find(|session| session.name == name);
        session.ok_or_else(|| ApiError::NotFound(name.to_owned()))
    }

    async fn page_of_sessions(
        &self,
        request: &v1::ListDistributionSessionsRequest,
    ) -> Result<v1::ListDistributionSessionsResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListDistributionSessions", &request.parent],
        );
        fields.finish()?;
        let task = self.find_task("parent", &request.parent).await?;
        let sessions = self.shown_sessions(&task).await?;
        let listed = page.of(sessions, |session| number_key(&session.name));
        Ok(v1::ListDistributionSessionsResponse {
            sessions: listed.items,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    async fn plan_draft(&self, name: &str) -> Result<v1::Plan, ApiError> {
        let task = self.draft(name).await?;
        let order = self.order(task).await?;
        self.forecast(&order).await
    }

    async fn start(self, request: v1::StartTaskRequest) -> Result<v1::FuotaTask, ApiError> {
        let _desk = self.desk().await;
        let ticket = match self.once("StartTask", &request, &[]).await? {
            Call::Again(Some(answer)) => return Ok(answer),
            Call::Again(None) => return self.shown_task("name", &request.name).await,
            Call::First(ticket) => ticket,
        };
        let mut task = self.draft(&request.name).await?;
        check_etag(&request.etag, &task)?;
        task.seed = Some(Key128::from_bytes(self.random()));
        let order = self.order(task).await?;
        if !order.held.is_empty() {
            return Err(ApiError::Refused {
                reason: "PLAN_BLOCKED",
                message: format!("{} devices are in other active tasks", order.held.len()),
                blockers: plan::held_blockers(&order.held),
            });
        }
        let sha256 = order.image.sha256;
        let bytes = self.store().image_bytes(&tenant(), sha256).await?;
        let bytes = bytes.ok_or_else(|| ApiError::NotFound(names::name("images", sha256)))?;
        let command = Command::StartTask {
            task: Box::new(order.task),
            image: (order.image, bytes),
            devices: order.devices.into_iter().collect(),
            groups: order.groups,
        };
        self.command("TASK_NOT_DRAFT", command, ticket.carried_out())
            .await?;
        self.answer_with_task(&request.name, ticket).await
    }

    async fn cancel(self, request: v1::CancelTaskRequest) -> Result<v1::FuotaTask, ApiError> {
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
            | TaskState::Completing => {
                let command = Command::CancelTask(task.id);
                self.command("TASK_ENDED", command, ticket.carried_out())
                    .await?;
                self.answer_with_task(&request.name, ticket).await
            }
        }
    }

    async fn cancel_draft(
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
            changes.push(Change::PutTaskDevice(device));
        }
        let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        let counts = if count == 0 {
            StateCounts::new()
        } else {
            StateCounts::from([(DeviceState::Cancelled, count)])
        };
        task.state = TaskState::Cancelled;
        task.reason = Some(TaskReason::Cancelled);
        task.ended_at = Some(now);
        task.sequence += 1;
        self.keep_draft(task, counts, changes, ticket).await
    }

    /// The task as it stands, written down as the answer of the call.
    async fn answer_with_task(
        &self,
        name: &str,
        ticket: Ticket,
    ) -> Result<v1::FuotaTask, ApiError> {
        let shown = self.shown_task("name", name).await?;
        let changes = ticket.answered(&shown);
        if !changes.is_empty() {
            self.commit(changes).await?;
        }
        Ok(shown)
    }
}

/// Takes a device into a draft.
fn added(task: &mut Task, dev_eui: DevEui) -> Change {
    task.sequence += 1;
    let mut device = TaskDevice::new(task.id.clone(), dev_eui);
    device.sequence = task.sequence;
    Change::PutTaskDevice(device)
}

fn check_draft(task: &Task) -> Result<(), ApiError> {
    if task.state == TaskState::Draft {
        Ok(())
    } else {
        Err(not_draft(task))
    }
}

fn not_draft(task: &Task) -> ApiError {
    let message = format!("it is in {}", state_word(task.state));
    ApiError::refused("TASK_NOT_DRAFT", message)
}

fn check_etag(given: &str, task: &Task) -> Result<(), ApiError> {
    if given.is_empty() || given == task_records::etag(task) {
        Ok(())
    } else {
        Err(ApiError::EtagDiffers(names::name("tasks", &task.id)))
    }
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

/// The number at the end of a name, so that keys sort as the numbers do.
fn number_key(name: &str) -> String {
    let number = name.rsplit('/').next().unwrap_or_default();
    format!("{number:0>8}")
}

fn state_word(state: TaskState) -> String {
    regions::word_of(task_records::show_state(state).as_str_name(), "TASK_STATE_")
}

fn is_state(word: &str) -> bool {
    v1::TaskState::from_str_name(&format!("TASK_STATE_{word}")).is_some()
}

fn is_reason(word: &str) -> bool {
    v1::TaskReason::from_str_name(&format!("TASK_REASON_{word}")).is_some()
}

fn is_device_state(word: &str) -> bool {
    v1::TaskDeviceState::from_str_name(&format!("TASK_DEVICE_STATE_{word}")).is_some()
}

pub(super) fn is_device_reason(word: &str) -> bool {
    v1::DeviceReason::from_str_name(&format!("DEVICE_REASON_{word}")).is_some()
}

fn is_verdict(word: &str) -> bool {
    v1::Verdict::from_str_name(&format!("VERDICT_{word}")).is_some()
}

fn is_cleanup(word: &str) -> bool {
    v1::CleanupState::from_str_name(&format!("CLEANUP_STATE_{word}")).is_some()
}
