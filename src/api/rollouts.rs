//! Rollout service: standing orders as users write them. What they come to is in `rollout_driver`.

use std::collections::BTreeSet;

use tonic::{Request, Response, Status};

use crate::lorawan::identifiers::DevEui;
use crate::proto::v1;
use crate::record::{Change, Rollout, RolloutOrder, RolloutPurpose, RolloutSwitch, Sha256, TaskId};
use crate::rollout::{self, Start};
use crate::store::Catalog;

use super::devices::MOST_DEVICES;
use super::errors::ApiError;
use super::fields::{Fields, tenant};
use super::filter::Kind;
use super::idempotency::{Ticket, first_or_return};
use super::mask::Mask;
use super::page::PageRequest;
use super::rollout_driver::is_unknown;
use super::rollout_records::{self, show};
use super::{Api, answer, carry_out, names, regions};

const FILTER: [(&str, Kind); 3] = [
    ("state", Kind::Word(is_state)),
    ("model", Kind::Text),
    ("current_image", Kind::Text),
];

#[tonic::async_trait]
impl<S: Catalog> v1::rollout_service_server::RolloutService for Api<S> {
    async fn create_rollout(
        &self,
        request: Request<v1::CreateRolloutRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        let api = self.clone();
        carry_out(async move { api.new_rollout(request.into_inner()).await }).await
    }

    async fn get_rollout(
        &self,
        request: Request<v1::GetRolloutRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        answer(self.shown_rollout("name", &request.get_ref().name).await)
    }

    async fn list_rollouts(
        &self,
        request: Request<v1::ListRolloutsRequest>,
    ) -> Result<Response<v1::ListRolloutsResponse>, Status> {
        answer(self.page_of_rollouts(request.get_ref()).await)
    }

    async fn update_rollout(
        &self,
        request: Request<v1::UpdateRolloutRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        let api = self.clone();
        carry_out(async move { api.change_rollout(request.into_inner()).await }).await
    }

    async fn delete_rollout(
        &self,
        request: Request<v1::DeleteRolloutRequest>,
    ) -> Result<Response<()>, Status> {
        let api = self.clone();
        carry_out(async move { api.drop_rollout(request.into_inner()).await }).await
    }

    async fn enable_rollout(
        &self,
        request: Request<v1::EnableRolloutRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        let api = self.clone();
        carry_out(async move { api.enable(request.into_inner()).await }).await
    }

    async fn disable_rollout(
        &self,
        request: Request<v1::DisableRolloutRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        let api = self.clone();
        carry_out(async move { api.disable(request.into_inner()).await }).await
    }

    async fn withdraw_rollout(
        &self,
        request: Request<v1::WithdrawRolloutRequest>,
    ) -> Result<Response<v1::WithdrawRolloutResponse>, Status> {
        let api = self.clone();
        carry_out(async move { api.take_back(request.into_inner()).await }).await
    }

    async fn push_rollout(
        &self,
        request: Request<v1::PushRolloutRequest>,
    ) -> Result<Response<v1::PushRolloutResponse>, Status> {
        let api = self.clone();
        carry_out(async move { api.push(request.into_inner()).await }).await
    }
}

impl<S: Catalog> Api<S> {
    async fn new_rollout(self, request: v1::CreateRolloutRequest) -> Result<v1::Rollout, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("CreateRollout", &request, &[]).await?);
        let mut fields = Fields::of("rollout");
        let id = rollout_records::read_id(&mut fields, &request.rollout_id);
        let Some(given) = request.rollout else {
            return Err(ApiError::field("rollout", "missing"));
        };
        let order = rollout_records::read(&mut fields, &given, self.now());
        fields.finish()?;
        self.check_named(&order).await?;
        let id = id.unwrap_or_else(|| self.made_id());
        if self.rollout(&id).await?.is_some() {
            return Err(ApiError::AlreadyExists {
                resource: names::name("rollouts", &id),
                reason: "ALREADY_EXISTS",
            });
        }
        let mut rollout = rollout_records::blank(id, order, self.now());
        if request.enable {
            rollout.switch = RolloutSwitch::Enabled;
        }
        self.keep_rollout(rollout, ticket).await
    }

    /// What an order names exists.
    async fn check_named(&self, order: &RolloutOrder) -> Result<(), ApiError> {
        if let Some(sha256) = order.image {
            self.image(sha256).await?;
        }
        if let Some(profile) = &order.selector.profile {
            let name = names::name("deviceProfiles", profile);
            self.find_profile("rollout.selector.device_profile", &name)
                .await?;
        }
        if let Some(group) = &order.selector.group
            && self
                .store()
                .multicast_group(&tenant(), group)
                .await?
                .is_none()
        {
            return Err(ApiError::NotFound(names::name("multicastGroups", group)));
        }
        for dev_eui in &order.validation.test_devices {
            self.known_device(&names::name("devices", dev_eui)).await?;
        }
        Ok(())
    }

    /// Commits what a user has changed, acts on it, and answers with what has come of it.
    async fn keep_rollout(
        &self,
        rollout: Rollout,
        ticket: Ticket,
    ) -> Result<v1::Rollout, ApiError> {
        let answered = ticket.clone().answered(&show(&rollout));
        self.keep(&rollout, answered).await?;
        let (rollout, _) = self.look_at_once(&rollout).await;
        let shown = show(&rollout);
        let changes = ticket.answered(&shown);
        if !changes.is_empty() {
            self.commit(changes).await?;
        }
        Ok(shown)
    }

    async fn keep(&self, rollout: &Rollout, answered: Vec<Change>) -> Result<(), ApiError> {
        let mut changes = vec![Change::PutRollout(Box::new(rollout.clone()))];
        changes.extend(answered);
        self.commit(changes).await?;
        self.draft_changed();
        Ok(())
    }

    async fn change_rollout(
        self,
        request: v1::UpdateRolloutRequest,
    ) -> Result<v1::Rollout, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("UpdateRollout", &request, &[]).await?);
        let mut fields = Fields::of("rollout");
        let writable = &rollout_records::WRITABLE;
        let mask = Mask::read(&mut fields, request.update_mask.as_ref(), writable);
        let Some(given) = request.rollout else {
            return Err(ApiError::field("rollout", "missing"));
        };
        let mut rollout = self.find_rollout("rollout.name", &given.name).await?;
        if !given.etag.is_empty() && given.etag != rollout_records::etag(&rollout) {
            return Err(ApiError::EtagDiffers(given.name));
        }
        let merged = rollout_records::merge(show(&rollout), given, &mask);
        rollout.order = rollout_records::read(&mut fields, &merged, self.now());
        fields.finish()?;
        self.check_named(&rollout.order).await?;
        rollout.updated_at = self.now();
        retry_at_once(&mut rollout, self.now());
        self.keep_rollout(rollout, ticket).await
    }

    async fn drop_rollout(self, request: v1::DeleteRolloutRequest) -> Result<(), ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("DeleteRollout", &request, &[]).await?);
        let rollout = self.find_rollout("name", &request.name).await?;
        let mut changes = Vec::new();
        for (task, seen) in self.tasks_of_rollout(&rollout).await? {
            if seen.task.state.is_active() {
                let message = format!("{} is under way", names::name("tasks", task));
                return Err(ApiError::refused("ROLLOUT_ACTIVE", message));
            }
            if !seen.task.state.is_terminal() {
                changes.push(Change::DeleteTask(task));
            }
        }
        changes.push(Change::DeleteRollout(rollout.tenant, rollout.id));
        changes.extend(ticket.answered(&()));
        self.commit(changes).await?;
        self.draft_changed();
        Ok(())
    }

    async fn enable(self, request: v1::EnableRolloutRequest) -> Result<v1::Rollout, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("EnableRollout", &request, &[]).await?);
        let mut rollout = self.find_rollout("name", &request.name).await?;
        rollout.switch = RolloutSwitch::Enabled;
        rollout.not_validated = None;
        rollout.updated_at = self.now();
        retry_at_once(&mut rollout, self.now());
        self.keep_rollout(rollout, ticket).await
    }

    async fn disable(self, request: v1::DisableRolloutRequest) -> Result<v1::Rollout, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("DisableRollout", &request, &[]).await?);
        let mut rollout = self.find_rollout("name", &request.name).await?;
        rollout.switch = RolloutSwitch::Disabled;
        rollout.updated_at = self.now();
        self.keep_rollout(rollout, ticket).await
    }

    /// Should it be cut short, the next look cancels what is left.
    async fn take_back(
        self,
        request: v1::WithdrawRolloutRequest,
    ) -> Result<v1::WithdrawRolloutResponse, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("WithdrawRollout", &request, &[]).await?);
        let mut rollout = self.find_rollout("name", &request.name).await?;
        rollout.switch = RolloutSwitch::Withdrawn;
        rollout.updated_at = self.now();
        let answer = |rollout: &Rollout, cancelled: &[TaskId]| v1::WithdrawRolloutResponse {
            rollout: Some(show(rollout)),
            cancelled_tasks: cancelled
                .iter()
                .map(|task| names::name("tasks", task))
                .collect(),
        };
        let answered = ticket.clone().answered(&answer(&rollout, &[]));
        self.keep(&rollout, answered).await?;
        let (rollout, cancelled) = self.look_at_once(&rollout).await;
        let answer = answer(&rollout, &cancelled);
        let changes = ticket.answered(&answer);
        if !changes.is_empty() {
            self.commit(changes).await?;
        }
        Ok(answer)
    }

    async fn push(
        self,
        request: v1::PushRolloutRequest,
    ) -> Result<v1::PushRolloutResponse, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("PushRollout", &request, &[]).await?);
        let mut fields = Fields::default();
        let devices = rollout_records::read_devices(&mut fields, "devices", &request.devices);
        if !(1..=MOST_DEVICES).contains(&request.devices.len()) {
            let count = request.devices.len();
            fields.bad(
                "devices",
                format!("{count} devices, not 1..={MOST_DEVICES}"),
            );
        }
        fields.finish()?;
        let rollout = self.find_rollout("name", &request.name).await?;
        if rollout.switch == RolloutSwitch::Withdrawn {
            let message = format!("{} is withdrawn", request.name);
            return Err(ApiError::refused("ROLLOUT_WITHDRAWN", message));
        }
        let (image, behind) = self.to_push(&rollout, devices).await?;
        self.start_push(rollout, image, behind, ticket).await
    }

    /// The image of a rollout, and those of the devices that do not run it.
    async fn to_push(
        &self,
        rollout: &Rollout,
        mut devices: BTreeSet<DevEui>,
    ) -> Result<(Sha256, BTreeSet<DevEui>), ApiError> {
        let images = self.all_images().await?;
        let target = rollout::target(&rollout.order, &images);
        let image = target.map_err(|why| ApiError::refused("NO_IMAGE", why))?;
        let Some(image) = image else {
            return Err(ApiError::refused("NO_IMAGE", "no image is active for it"));
        };
        for dev_eui in devices.clone() {
            let device = self.store().device(&tenant(), dev_eui).await?;
            let missing = || ApiError::NotFound(names::name("devices", dev_eui));
            let running = device.ok_or_else(missing)?.status.version(&image.component);
            if running == Some(image.target_version) {
                devices.remove(&dev_eui);
            }
        }
        if devices.is_empty() {
            let message = "all of the devices run the image";
            return Err(ApiError::refused("NOTHING_TO_PUSH", message));
        }
        Ok((image.sha256, devices))
    }

    /// Makes the task of a push and starts it; one that is refused leaves nothing behind.
    async fn start_push(
        &self,
        before: Rollout,
        image: Sha256,
        devices: BTreeSet<DevEui>,
        ticket: Ticket,
    ) -> Result<v1::PushRolloutResponse, ApiError> {
        let mut rollout = before.clone();
        self.skip_taken_numbers(&mut rollout).await?;
        let named: Vec<DevEui> = devices.iter().copied().collect();
        let task = rollout::push(&mut rollout, self.now(), image, &named);
        let start = Start {
            task: task.clone(),
            image,
            purpose: RolloutPurpose::Push,
            devices,
        };
        self.write_draft(&rollout, &start, None, Vec::new()).await?;
        rollout::started(&mut rollout, &task);
        let answer = v1::PushRolloutResponse {
            rollout: Some(show(&rollout)),
            task: names::name("tasks", &task),
        };
        match self.begin(&rollout, &task, ticket.answered(&answer)).await {
            Ok(()) => Ok(answer),
            // It may have begun all the same: the next look sees.
            Err(error) if is_unknown(&error) => Err(error),
            Err(error) => {
                let undo = vec![
                    Change::DeleteTask(task),
                    Change::PutRollout(Box::new(before)),
                ];
                self.commit(undo).await?;
                self.draft_changed();
                Err(error)
            }
        }
    }

    pub(super) async fn rollout(&self, id: &str) -> Result<Option<Rollout>, ApiError> {
        let all = self.store().rollouts(&tenant()).await?;
        Ok(all.into_iter().find(|rollout| rollout.id == id))
    }

    async fn find_rollout(&self, field: &str, name: &str) -> Result<Rollout, ApiError> {
        let id = names::required(field, "rollouts/{id}", name, |name| {
            names::id_of("rollouts", name).map(str::to_owned)
        })?;
        let found = self.rollout(&id).await?;
        found.ok_or_else(|| ApiError::NotFound(name.to_owned()))
    }

    async fn shown_rollout(&self, field: &str, name: &str) -> Result<v1::Rollout, ApiError> {
        Ok(show(&self.find_rollout(field, name).await?))
    }

    async fn page_of_rollouts(
        &self,
        request: &v1::ListRolloutsRequest,
    ) -> Result<v1::ListRolloutsResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListRollouts", &request.filter],
        );
        let filter = fields.filter(&request.filter, &FILTER);
        fields.finish()?;
        let mut all: Vec<v1::Rollout> = Vec::new();
        for rollout in self.store().rollouts(&tenant()).await? {
            let shown = show(&rollout);
            let holds = filter.holds(|field| match field {
                "state" => Some(regions::word_of(
                    shown.state().as_str_name(),
                    "ROLLOUT_STATE_",
                )),
                "model" => Some(rollout.order.selector.model.clone()),
                _ => Some(shown.current_image.clone()),
            });
            if holds {
                all.push(shown);
            }
        }
        let listed = page.of(all, |rollout| rollout.name.clone());
        Ok(v1::ListRolloutsResponse {
            rollouts: listed.items,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }
}

/// A user has changed something: what was refused may be taken now.
fn retry_at_once(rollout: &mut Rollout, now: crate::time::Timestamp) {
    if let Some(refused) = &mut rollout.refused {
        refused.retry_at = now;
    }
}

fn is_state(word: &str) -> bool {
    v1::RolloutState::from_str_name(&format!("ROLLOUT_STATE_{word}")).is_some()
}
