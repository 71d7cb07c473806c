//! Device service: end-devices, their keys and activations. Keys go in and never come out.

use std::collections::{BTreeMap, BTreeSet};

use tonic::{Request, Response, Status};

use crate::lorawan::identifiers::DevEui;
use crate::proto::v1;
use crate::record::{Change, Device, DeviceProfile, DeviceStatus, TaskId};
use crate::runtime::{Command, NewDevice};
use crate::store::{Catalog, DeviceFilter, Page, TaskFilter};

use super::device_records::{
    Known, Secrets, read_activation, read_keys, read_settings, read_versions, show_device,
};
use super::errors::{ApiError, check_size};
use super::fields::{Fields, tenant};
use super::filter::Kind;
use super::idempotency::first_or_return;
use super::mask::Mask;
use super::page::PageRequest;
use super::{Api, answer, carry_out, names};

/// Most devices one call takes.
pub(super) const MOST_DEVICES: usize = 10_000;

const FILTER: [(&str, Kind); 5] = [
    ("device_profile", Kind::Text),
    ("model", Kind::Text),
    ("tags", Kind::Map),
    ("versions", Kind::Map),
    ("active_task", Kind::Text),
];

const WRITABLE: [&str; 9] = [
    "display_name",
    "device_profile",
    "model",
    "tags",
    "root_keys",
    "derived_keys",
    "otaa",
    "abp",
    "versions",
];

#[tonic::async_trait]
impl<S: Catalog> v1::device_service_server::DeviceService for Api<S> {
    async fn create_device(
        &self,
        request: Request<v1::CreateDeviceRequest>,
    ) -> Result<Response<v1::EndDevice>, Status> {
        let api = self.clone();
        carry_out(async move { api.create_one_device(request.into_inner()).await }).await
    }

    async fn batch_create_devices(
        &self,
        request: Request<v1::BatchCreateDevicesRequest>,
    ) -> Result<Response<v1::BatchCreateDevicesResponse>, Status> {
        let api = self.clone();
        carry_out(async move { api.create_devices(request.into_inner()).await }).await
    }

    async fn get_device(
        &self,
        request: Request<v1::GetDeviceRequest>,
    ) -> Result<Response<v1::EndDevice>, Status> {
        answer(self.get_one_device(&request.get_ref().name).await)
    }

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Result<Response<v1::ListDevicesResponse>, Status> {
        answer(self.page_of_devices(request.get_ref()).await)
    }

    async fn update_device(
        &self,
        request: Request<v1::UpdateDeviceRequest>,
    ) -> Result<Response<v1::EndDevice>, Status> {
        let api = self.clone();
        carry_out(async move { api.update_one_device(request.into_inner()).await }).await
    }

    async fn delete_device(
        &self,
        request: Request<v1::DeleteDeviceRequest>,
    ) -> Result<Response<()>, Status> {
        let api = self.clone();
        carry_out(async move { api.delete_one_device(request.into_inner()).await }).await
    }
}

impl<S: Catalog> Api<S> {
    async fn create_one_device(
        self,
        request: v1::CreateDeviceRequest,
    ) -> Result<v1::EndDevice, ApiError> {
        check_size(&request)?;
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("CreateDevice", &request, &[]).await?);
        let mut profiles = BTreeMap::new();
        let device = self.new_device(request.device, &mut profiles).await?;
        let shown = self.show_new(&device);
        let with = ticket.answered(&shown);
        self.command("CONFLICT", Command::PutDevices(vec![device]), with)
            .await?;
        Ok(shown)
    }

    async fn create_devices(
        self,
        request: v1::BatchCreateDevicesRequest,
    ) -> Result<v1::BatchCreateDevicesResponse, ApiError> {
        use v1::batch_create_devices_result::Result as Item;

        check_size(&request)?;
        if !(1..=MOST_DEVICES).contains(&request.requests.len()) {
            let why = format!("{} items, not 1..={MOST_DEVICES}", request.requests.len());
            return Err(ApiError::field("requests", why));
        }
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("BatchCreateDevices", &request, &[]).await?);
        let mut profiles = BTreeMap::new();
        let mut taken = BTreeSet::new();
        let (mut good, mut results) = (Vec::new(), Vec::new());
        for item in request.requests {
            let item = match self.new_device(item.device, &mut profiles).await {
                Ok(device) if !taken.insert(device.settings.dev_eui) => {
                    Item::Error(exists(device.settings.dev_eui).into_item())
                }
                Ok(device) => {
                    let shown = self.show_new(&device);
                    good.push(device);
                    Item::Device(shown)
                }
                Err(error @ (ApiError::Store(_) | ApiError::Stopped)) => return Err(error),
                Err(error) => Item::Error(error.into_item()),
            };
            results.push(v1::BatchCreateDevicesResult { result: Some(item) });
        }
        let answer = v1::BatchCreateDevicesResponse {
            results,
            created_count: i32::try_from(good.len()).unwrap_or(i32::MAX),
        };
        let with = ticket.answered(&answer);
        if good.is_empty() {
            if !with.is_empty() {
                self.commit(with).await?;
            }
        } else {
            self.command("CONFLICT", Command::PutDevices(good), with)
                .await?;
        }
        Ok(answer)
    }

    /// Checks a device that is to be created. `profiles` remembers those looked up before.
    async fn new_device(
        &self,
        given: Option<v1::EndDevice>,
        profiles: &mut BTreeMap<String, Option<DeviceProfile>>,
    ) -> Result<NewDevice, ApiError> {
        let Some(given) = given else {
            return Err(ApiError::field("device", "missing"));
        };
        let mut fields = Fields::of("device");
        let settings = read_settings(&mut fields, &given, (self.now(), self.now()));
        let versions = read_versions(&mut fields, &given.versions);
        if !profiles.contains_key(&given.device_profile) {
            let id = names::id_of("deviceProfiles", &given.device_profile).unwrap_or_default();
            let found = self.store().device_profile(&tenant(), id).await?;
            profiles.insert(given.device_profile.clone(), found);
        }
        let profile = profiles.get(&given.device_profile).and_then(Option::as_ref);
        let (mut keys, mut activation) = (None, Secrets::default());
        if let (Some(settings), Some(profile)) = (&settings, profile) {
            keys = read_keys(&mut fields, &given, settings.dev_eui, profile, None);
            if given.keys.is_none() {
                fields.bad(
                    "root_keys",
                    "missing; a device without keys is not supported yet",
                );
            }
            activation = read_activation(&mut fields, &given, profile, self.now());
        }
        let good = fields.good();
        let settings = fields.finish_with(settings)?;
        if profile.is_none() && good {
            return Err(ApiError::NotFound(given.device_profile));
        }
        if self.store().device_exists(settings.dev_eui).await? {
            return Err(exists(settings.dev_eui));
        }
        Ok(NewDevice {
            settings,
            keys,
            join: activation.join,
            session: activation.session,
            versions: (!versions.is_empty()).then_some(versions),
        })
    }

    /// A device as it will be once it is created.
    fn show_new(&self, device: &NewDevice) -> v1::EndDevice {
        let mut status = DeviceStatus::default();
        if let Some(versions) = &device.versions {
            status.set_versions(versions, self.now());
        }
        show_device(&Known {
            settings: &device.settings,
            status: &status,
            keys: device.keys.as_ref(),
            join: device.join.as_ref(),
            session: device.session.as_ref(),
            active_task: None,
        })
    }

    async fn get_one_device(&self, name: &str) -> Result<v1::EndDevice, ApiError> {
        let device = self.find_device("name", name).await?;
        let held = self
            .store()
            .active_tasks_of(&[device.settings.dev_eui])
            .await?;
        let task = held.into_iter().next().map(|(_, task)| task);
        self.show_known(&device, task.as_ref()).await
    }

    /// A device as the API shows it, with what else is stored of it.
    async fn show_known(
        &self,
        device: &Device,
        active_task: Option<&TaskId>,
    ) -> Result<v1::EndDevice, ApiError> {
        let dev_eui = device.settings.dev_eui;
        let activation = self.store().activation(dev_eui).await?;
        let keys = self.store().device_keys(dev_eui).await?;
        Ok(show_device(&Known {
            settings: &device.settings,
            status: &device.status,
            keys: keys.as_ref(),
            join: activation.join.as_ref(),
            session: activation.session.as_ref(),
            active_task,
        }))
    }

    /// The device that `field` of a request names.
    pub(super) async fn find_device(&self, field: &str, name: &str) -> Result<Device, ApiError> {
        let dev_eui = names::required(field, "devices/{dev_eui}", name, names::device)?;
        let device = self.store().device(&tenant(), dev_eui).await?;
        device.ok_or_else(|| ApiError::NotFound(names::name("devices", dev_eui)))
    }

    async fn page_of_devices(
        &self,
        request: &v1::ListDevicesRequest,
    ) -> Result<v1::ListDevicesResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListDevices", &request.filter],
        );
        let filter = fields.filter(&request.filter, &FILTER);
        fields.finish()?;
        let in_store = DeviceFilter {
            profile: filter.value("device_profile").map(|name| {
                names::id_of("deviceProfiles", name)
                    .unwrap_or_default()
                    .to_owned()
            }),
            model: filter.value("model").map(str::to_owned),
            tags: BTreeMap::new(),
        };
        let keep = |(device, task): &(Device, Option<TaskId>)| {
            filter.holds(|field| match field {
                "device_profile" => Some(names::name("deviceProfiles", &device.settings.profile)),
                "model" => Some(device.settings.model.clone()),
                "active_task" => task.as_ref().map(|task| names::name("tasks", task)),
                _ => match field.split_once('.')? {
                    ("tags", key) => device.settings.tags.get(key).cloned(),
                    (_, component) => device.status.version(component).map(|v| v.to_string()),
                },
            })
        };
        let (store, tenant, in_store) = (self.store(), &tenant(), &in_store);
        let fetch = |page: Page| async move {
            let devices = store.devices(tenant, in_store, &page).await?;
            let euis: Vec<DevEui> = devices.iter().map(|d| d.settings.dev_eui).collect();
            let held: BTreeMap<DevEui, TaskId> =
                store.active_tasks_of(&euis).await?.into_iter().collect();
            let with_task = devices.into_iter().map(|device| {
                let task = held.get(&device.settings.dev_eui).cloned();
                (device, task)
            });
            Ok(with_task.collect())
        };
        let key = |(device, _): &(Device, _)| device.settings.dev_eui.to_string();
        let listed = page.walk(key, keep, fetch).await?;
        let mut devices = Vec::new();
        for (device, task) in &listed.items {
            devices.push(self.show_known(device, task.as_ref()).await?);
        }
        Ok(v1::ListDevicesResponse {
            devices,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    async fn update_one_device(
        self,
        request: v1::UpdateDeviceRequest,
    ) -> Result<v1::EndDevice, ApiError> {
        check_size(&request)?;
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("UpdateDevice", &request, &[]).await?);
        let mut fields = Fields::of("device");
        let mask = Mask::read(&mut fields, request.update_mask.as_ref(), &WRITABLE);
        let Some(given) = request.device else {
            return Err(ApiError::field("device", "missing"));
        };
        let known = self.find_device("device.name", &given.name).await?;
        let dev_eui = known.settings.dev_eui;
        let task = self.store().active_tasks_of(&[dev_eui]).await?;
        let task = task.into_iter().next().map(|(_, task)| task);
        let present = self.show_known(&known, task.as_ref()).await?;
        let activation = self.store().activation(dev_eui).await?;

        let versions = mask
            .has("versions")
            .then(|| read_versions(&mut fields, &given.versions));
        let mut status = known.status.clone();
        if let Some(versions) = &versions {
            status.set_versions(versions, self.now());
        }
        let mut merged = present;
        mask.take(
            "display_name",
            &mut merged.display_name,
            given.display_name.clone(),
        );
        mask.take(
            "device_profile",
            &mut merged.device_profile,
            given.device_profile.clone(),
        );
        mask.take("model", &mut merged.model, given.model.clone());
        mask.take("tags", &mut merged.tags, given.tags.clone());
        let settings = read_settings(
            &mut fields,
            &merged,
            (known.settings.created_at, self.now()),
        );
        let profile = self
            .find_profile("device.device_profile", &merged.device_profile)
            .await?;
        let keys = if changes_keys(&mut fields, &mask, &given) {
            let app_key = activation.join.as_ref().map(|join| &join.app_key);
            read_keys(&mut fields, &given, dev_eui, &profile, app_key)
        } else {
            None
        };
        let secrets = if changes_activation(&mut fields, &mask, &given) {
            read_activation(&mut fields, &given, &profile, self.now())
        } else {
            Secrets::default()
        };
        let secrets = secrets.after(&mut fields, &activation)?;
        let settings = fields.finish_with(settings)?;

        let guarded = keys.is_some()
            || secrets.join.is_some()
            || secrets.session.is_some()
            || settings.profile != known.settings.profile;
        if let (Some(task), true) = (&task, guarded) {
            let message = format!("{} holds it", names::name("tasks", task));
            return Err(ApiError::refused("DEVICE_IN_USE", message));
        }
        let stored_keys = self.store().device_keys(dev_eui).await?;
        let shown = show_device(&Known {
            settings: &settings,
            status: &status,
            keys: keys.as_ref().or(stored_keys.as_ref()),
            join: secrets.join.as_ref().or(activation.join.as_ref()),
            session: secrets.session.as_ref().or(activation.session.as_ref()),
            active_task: task.as_ref(),
        });
        let with: Vec<Change> = ticket.answered(&shown);
        let device = NewDevice {
            settings,
            keys,
            join: secrets.join,
            session: secrets.session,
            versions,
        };
        self.command("DEVICE_IN_USE", Command::PutDevices(vec![device]), with)
            .await?;
        Ok(shown)
    }

    async fn delete_one_device(self, request: v1::DeleteDeviceRequest) -> Result<(), ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("DeleteDevice", &request, &[]).await?);
        let device = self.find_device("name", &request.name).await?;
        let dev_eui = device.settings.dev_eui;
        let filter = TaskFilter {
            device: Some(dev_eui),
            ..TaskFilter::default()
        };
        let holders = self.all_tasks(&filter).await?;
        if let Some(task) = holders.iter().find(|task| !task.state.is_terminal()) {
            let message = format!("{} holds it", names::name("tasks", &task.id));
            return Err(ApiError::refused("DEVICE_IN_USE", message));
        }
        let groups = self.all_groups().await?;
        if let Some(group) = groups.iter().find(|group| group.devices.contains(&dev_eui)) {
            let message = format!("{} holds it", names::name("multicastGroups", &group.id));
            return Err(ApiError::refused("DEVICE_IN_USE", message));
        }
        let command = Command::DeleteDevice(dev_eui);
        self.command("DEVICE_IN_USE", command, ticket.answered(&()))
            .await
    }
}

fn exists(dev_eui: DevEui) -> ApiError {
    ApiError::AlreadyExists {
        resource: names::name("devices", dev_eui),
        reason: "ALREADY_EXISTS",
    }
}

/// Whether the mask and the message bring new keys. With `*`, keys left empty, as reads show them, stay as they are.
fn changes_keys(fields: &mut Fields, mask: &Mask, given: &v1::EndDevice) -> bool {
    use v1::end_device::Keys;

    let (named, field, empty) = match &given.keys {
        Some(Keys::RootKeys(keys)) => {
            let empty = match &keys.source {
                None => true,
                Some(
                    v1::root_keys::Source::GenAppKey(key) | v1::root_keys::Source::AppKey(key),
                ) => key.is_empty(),
                Some(v1::root_keys::Source::SameAsAppKey(_)) => false,
            };
            (mask.names("root_keys"), "root_keys", empty)
        }
        Some(Keys::DerivedKeys(keys)) => (
            mask.names("derived_keys"),
            "derived_keys",
            keys.mc_root_key.is_empty() && keys.data_block_int_key.is_empty(),
        ),
        None => (false, "", true),
    };
    for other in ["root_keys", "derived_keys"] {
        if mask.names(other) && other != field {
            fields.bad(
                other,
                "named by the mask but missing; taking keys away is not supported yet",
            );
        }
    }
    named || (!empty && mask.has(field))
}

/// Whether the mask and the message bring a new activation. With `*`, one without keys, as reads show it, stays as
/// it is.
fn changes_activation(fields: &mut Fields, mask: &Mask, given: &v1::EndDevice) -> bool {
    use v1::end_device::Activation;

    let (field, empty) = match &given.activation {
        Some(Activation::Otaa(otaa)) => ("otaa", otaa.app_key.is_empty()),
        Some(Activation::Abp(abp)) => ("abp", abp.nwk_s_key.is_empty() && abp.app_s_key.is_empty()),
        None => ("", true),
    };
    for other in ["otaa", "abp"] {
        if mask.names(other) && other != field {
            fields.bad(
                other,
                "named by the mask but missing; taking an activation away is not supported yet",
            );
        }
    }
    mask.names(field) || (!empty && mask.has(field))
}
