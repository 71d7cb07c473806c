//! Task service: drafts are written here; what is started is the writer's.

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::proto::v1;
use crate::record::{Task, TaskDevice, TaskId, TaskState};
use crate::store::{Catalog, Page, TaskDeviceFilter, TaskFilter};

use super::errors::ApiError;
use super::fields::{Fields, tenant};
use super::filter::{Kind, tag_value};
use super::idempotency::Ticket;
use super::page::{PageRequest, everything};
use super::task_records::{self, show_task};
use super::{Api, answer, carry_out, names, regions};

const FILTER: [(&str, Kind); 6] = [
    ("state", Kind::Word(is_state)),
    ("state_reason", Kind::Word(is_reason)),
    ("image", Kind::Text),
    ("device", Kind::Text),
    ("multicast_group", Kind::Text),
    ("tags", Kind::Map),
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

    async fn pause_task(
        &self,
        request: Request<v1::PauseTaskRequest>,
    ) -> Result<Response<v1::FuotaTask>, Status> {
        let api = self.clone();
        carry_out(async move { api.pause(request.into_inner()).await }).await
    }

    async fn resume_task(
        &self,
        request: Request<v1::ResumeTaskRequest>,
    ) -> Result<Response<v1::FuotaTask>, Status> {
        let api = self.clone();
        carry_out(async move { api.resume(request.into_inner()).await }).await
    }

    async fn retry_task(
        &self,
        request: Request<v1::RetryTaskRequest>,
    ) -> Result<Response<v1::FuotaTask>, Status> {
        let api = self.clone();
        carry_out(async move { api.retry(request.into_inner()).await }).await
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
    /// The task that `field` of a request names.
    pub(super) async fn find_task(&self, field: &str, name: &str) -> Result<Task, ApiError> {
        let id = names::required(field, "tasks/{id}", name, names::task)?;
        self.task(&id).await
    }

    pub(super) async fn task(&self, id: &TaskId) -> Result<Task, ApiError> {
        let task = self.store().task(&tenant(), id).await?;
        task.ok_or_else(|| ApiError::NotFound(names::name("tasks", id)))
    }

    pub(super) async fn draft(&self, name: &str) -> Result<Task, ApiError> {
        let task = self.find_task("name", name).await?;
        check_draft(&task)?;
        Ok(task)
    }

    pub(super) async fn shown_task(
        &self,
        field: &str,
        name: &str,
    ) -> Result<v1::FuotaTask, ApiError> {
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
        let (store, tenant) = (self.store(), &tenant());
        let fetch = |page: Page| async move { store.tasks(tenant, filter, &page).await };
        everything(|task: &Task| task.id.0.clone(), fetch).await
    }

    /// All devices of a task.
    pub(super) async fn devices_of_task(&self, id: &TaskId) -> Result<Vec<TaskDevice>, ApiError> {
        let (store, filter) = (self.store(), &TaskDeviceFilter::default());
        let fetch = |page: Page| async move { store.task_devices(id, filter, &page).await };
        everything(|device: &TaskDevice| device.dev_eui.to_string(), fetch).await
    }

    pub(super) async fn page_of_tasks(
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
                _ => tag_value(&task.tags, field),
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
    pub(super) async fn plan_draft(&self, name: &str) -> Result<v1::Plan, ApiError> {
        let task = self.draft(name).await?;
        let order = self.order(task).await?;
        self.forecast(&order).await
    }

    /// The task as it stands, written down as the answer of the call.
    pub(super) async fn answer_with_task(
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

pub(super) fn check_draft(task: &Task) -> Result<(), ApiError> {
    if task.state == TaskState::Draft {
        Ok(())
    } else {
        Err(not_draft(task))
    }
}

pub(super) fn not_draft(task: &Task) -> ApiError {
    let message = format!("it is in {}", state_word(task.state));
    ApiError::refused("TASK_NOT_DRAFT", message)
}

pub(super) fn check_etag(given: &str, task: &Task) -> Result<(), ApiError> {
    if given.is_empty() || given == task_records::etag(task) {
        Ok(())
    } else {
        Err(ApiError::EtagDiffers(names::name("tasks", &task.id)))
    }
}

pub(super) fn state_word(state: TaskState) -> String {
    regions::word_of(task_records::show_state(state).as_str_name(), "TASK_STATE_")
}

fn is_state(word: &str) -> bool {
    v1::TaskState::from_str_name(&format!("TASK_STATE_{word}")).is_some()
}

fn is_reason(word: &str) -> bool {
    v1::TaskReason::from_str_name(&format!("TASK_REASON_{word}")).is_some()
}
