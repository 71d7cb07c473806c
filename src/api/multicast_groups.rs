//! Multicast group service, and groups: proto <-> record.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use crate::proto::v1;
use crate::record::{Change, Device, DeviceClass, DeviceProfile, MulticastGroup};
use crate::store::{Catalog, Page, TaskFilter};
use crate::time::Timestamp;

use super::devices::MOST_DEVICES;
use super::errors::ApiError;
use super::fields::{Fields, show_moment, tenant};
use super::filter::{Kind, tag_value};
use super::idempotency::first_or_return;
use super::mask::Mask;
use super::page::{PageRequest, everything};
use super::{Api, answer, carry_out, names, regions};

const FILTER: [(&str, Kind); 3] = [
    ("region", Kind::Word(regions::is_word)),
    ("device_class", Kind::Word(is_class)),
    ("tags", Kind::Map),
];

const MEMBER_FILTER: [(&str, Kind); 1] = [("state", Kind::Word(is_member_state))];

const WRITABLE: [&str; 5] = [
    "display_name",
    "device_class",
    "data_rate",
    "frequency_hz",
    "tags",
];

#[tonic::async_trait]
impl<S: Catalog> v1::multicast_group_service_server::MulticastGroupService for Api<S> {
    async fn create_multicast_group(
        &self,
        request: Request<v1::CreateMulticastGroupRequest>,
    ) -> Result<Response<v1::MulticastGroup>, Status> {
        let api = self.clone();
        carry_out(async move { api.create_group(request.into_inner()).await }).await
    }

    async fn get_multicast_group(
        &self,
        request: Request<v1::GetMulticastGroupRequest>,
    ) -> Result<Response<v1::MulticastGroup>, Status> {
        answer(self.shown_group(&request.get_ref().name).await)
    }

    async fn list_multicast_groups(
        &self,
        request: Request<v1::ListMulticastGroupsRequest>,
    ) -> Result<Response<v1::ListMulticastGroupsResponse>, Status> {
        answer(self.page_of_groups(request.get_ref()).await)
    }

    async fn update_multicast_group(
        &self,
        request: Request<v1::UpdateMulticastGroupRequest>,
    ) -> Result<Response<v1::MulticastGroup>, Status> {
        let api = self.clone();
        carry_out(async move { api.update_group(request.into_inner()).await }).await
    }

    async fn delete_multicast_group(
        &self,
        request: Request<v1::DeleteMulticastGroupRequest>,
    ) -> Result<Response<()>, Status> {
        let api = self.clone();
        carry_out(async move { api.delete_group(request.into_inner()).await }).await
    }

    async fn add_multicast_group_devices(
        &self,
        request: Request<v1::AddMulticastGroupDevicesRequest>,
    ) -> Result<Response<v1::AddMulticastGroupDevicesResponse>, Status> {
        let api = self.clone();
        carry_out(async move { api.add_members(request.into_inner()).await }).await
    }

    async fn remove_multicast_group_devices(
        &self,
        request: Request<v1::RemoveMulticastGroupDevicesRequest>,
    ) -> Result<Response<v1::RemoveMulticastGroupDevicesResponse>, Status> {
        let api = self.clone();
        carry_out(async move { api.remove_members(request.into_inner()).await }).await
    }

    async fn list_multicast_group_members(
        &self,
        request: Request<v1::ListMulticastGroupMembersRequest>,
    ) -> Result<Response<v1::ListMulticastGroupMembersResponse>, Status> {
        answer(self.page_of_members(request.get_ref()).await)
    }
}

impl<S: Catalog> Api<S> {
    async fn create_group(
        self,
        request: v1::CreateMulticastGroupRequest,
    ) -> Result<v1::MulticastGroup, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("CreateMulticastGroup", &request, &[]).await?);
        let mut fields = Fields::of("multicast_group");
        let id = fields.new_id("multicast_group_id", &request.multicast_group_id);
        let Some(given) = request.multicast_group else {
            return Err(ApiError::field("multicast_group", "missing"));
        };
        let id = id.unwrap_or_else(|| self.made_id());
        let group = read(fields, &given, id, (self.now(), self.now()))?;
        if self
            .store()
            .multicast_group(&tenant(), &group.id)
            .await?
            .is_some()
        {
            return Err(ApiError::AlreadyExists {
                resource: names::name("multicastGroups", &group.id),
                reason: "ALREADY_EXISTS",
            });
        }
        let shown = show(&group, 0);
        let mut changes = vec![Change::PutMulticastGroup(group)];
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        Ok(shown)
    }

    async fn find_group(&self, field: &str, name: &str) -> Result<MulticastGroup, ApiError> {
        let id = names::required(field, "multicastGroups/{id}", name, |name| {
            names::id_of("multicastGroups", name).map(str::to_owned)
        })?;
        let group = self.store().multicast_group(&tenant(), &id).await?;
        group.ok_or_else(|| ApiError::NotFound(name.to_owned()))
    }

    async fn shown_group(&self, name: &str) -> Result<v1::MulticastGroup, ApiError> {
        let group = self.find_group("name", name).await?;
        self.show_group(&group).await
    }

    async fn show_group(&self, group: &MulticastGroup) -> Result<v1::MulticastGroup, ApiError> {
        let mut ready = 0;
        for dev_eui in &group.devices {
            if let Some(device) = self.store().device(&tenant(), *dev_eui).await? {
                ready += u32::from(member_state(group, &device) == v1::MemberState::Ready);
            }
        }
        Ok(show(group, ready))
    }

    /// All groups.
    pub(super) async fn all_groups(&self) -> Result<Vec<MulticastGroup>, ApiError> {
        let (store, tenant) = (self.store(), &tenant());
        let fetch = |page: Page| async move { store.multicast_groups(tenant, &page).await };
        everything(|group: &MulticastGroup| group.id.clone(), fetch).await
    }

    async fn page_of_groups(
        &self,
        request: &v1::ListMulticastGroupsRequest,
    ) -> Result<v1::ListMulticastGroupsResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListMulticastGroups", &request.filter],
        );
        let filter = fields.filter(&request.filter, &FILTER);
        fields.finish()?;
        let keep = |group: &MulticastGroup| {
            filter.holds(|field| match field {
                "region" => Some(regions::word(group.region)),
                "device_class" => Some(regions::word_of(
                    regions::show_class(group.class).as_str_name(),
                    "DEVICE_CLASS_",
                )),
                _ => tag_value(&group.tags, field),
            })
        };
        let (store, tenant) = (self.store(), &tenant());
        let fetch = |page: Page| async move { store.multicast_groups(tenant, &page).await };
        let listed = page
            .walk(|group: &MulticastGroup| group.id.clone(), keep, fetch)
            .await?;
        let mut multicast_groups = Vec::new();
        for group in &listed.items {
            multicast_groups.push(self.show_group(group).await?);
        }
        Ok(v1::ListMulticastGroupsResponse {
            multicast_groups,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    async fn update_group(
        self,
        request: v1::UpdateMulticastGroupRequest,
    ) -> Result<v1::MulticastGroup, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("UpdateMulticastGroup", &request, &[]).await?);
        let mut fields = Fields::of("multicast_group");
        let mask = Mask::read(&mut fields, request.update_mask.as_ref(), &WRITABLE);
        let Some(given) = request.multicast_group else {
            return Err(ApiError::field("multicast_group", "missing"));
        };
        let known = self.find_group("multicast_group.name", &given.name).await?;
        let present = self.show_group(&known).await?;
        let ready = present.ready_member_count;
        let merged = merge(present, given, &mask);
        let mut group = read(fields, &merged, known.id, (known.created_at, self.now()))?;
        group.devices = known.devices;
        let shown = show(&group, ready);
        let mut changes = vec![Change::PutMulticastGroup(group)];
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        Ok(shown)
    }

    async fn delete_group(self, request: v1::DeleteMulticastGroupRequest) -> Result<(), ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("DeleteMulticastGroup", &request, &[]).await?);
        let group = self.find_group("name", &request.name).await?;
        let tasks = self.all_tasks(&TaskFilter::default()).await?;
        let user = tasks
            .iter()
            .find(|task| !task.state.is_terminal() && task.groups.contains(&group.id));
        if let Some(task) = user {
            let message = format!("{} names it", names::name("tasks", &task.id));
            return Err(ApiError::refused("GROUP_IN_USE", message));
        }
        let mut changes = vec![Change::DeleteMulticastGroup(group.tenant, group.id)];
        changes.extend(ticket.answered(&()));
        self.commit(changes).await
    }

    async fn add_members(
        self,
        request: v1::AddMulticastGroupDevicesRequest,
    ) -> Result<v1::AddMulticastGroupDevicesResponse, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("AddMulticastGroupDevices", &request, &[]).await?);
        check_count(request.devices.len())?;
        let mut group = self.find_group("name", &request.name).await?;
        group.updated_at = self.now();
        let mut profiles = BTreeMap::new();
        let mut errors = Vec::new();
        for name in &request.devices {
            match self.check_member(&group, name, &mut profiles).await {
                Ok(device) => {
                    group.devices.insert(device.settings.dev_eui);
                }
                Err(error @ ApiError::Store(_)) => return Err(error),
                Err(error) => errors.push(v1::DeviceError {
                    device: name.clone(),
                    error: Some(error.into_item()),
                }),
            }
        }
        let answer = v1::AddMulticastGroupDevicesResponse {
            multicast_group: Some(self.show_group(&group).await?),
            errors,
        };
        let mut changes = vec![Change::PutMulticastGroup(group)];
        changes.extend(ticket.answered(&answer));
        self.commit(changes).await?;
        Ok(answer)
    }

    /// The device of that name, if it can be a member.
    async fn check_member(
        &self,
        group: &MulticastGroup,
        name: &str,
        profiles: &mut BTreeMap<String, DeviceProfile>,
    ) -> Result<Device, ApiError> {
        let device = self.find_device("device", name).await?;
        let id = &device.settings.profile;
        if !profiles.contains_key(id) {
            let profile = self.store().device_profile(&tenant(), id).await?;
            let missing = || ApiError::NotFound(names::name("deviceProfiles", id));
            profiles.insert(id.clone(), profile.ok_or_else(missing)?);
        }
        if let Some(profile) = profiles.get(id) {
            if profile.region != group.region {
                let message = format!("it is in {}, the group in {}", profile.region, group.region);
                return Err(ApiError::refused("REGION_MISMATCH", message));
            }
            if !profile.supports_class_c {
                let message = "its profile has no class C";
                return Err(ApiError::refused("CLASS_NOT_SUPPORTED", message));
            }
        }
        Ok(device)
    }

    async fn remove_members(
        self,
        request: v1::RemoveMulticastGroupDevicesRequest,
    ) -> Result<v1::RemoveMulticastGroupDevicesResponse, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(
            self.once("RemoveMulticastGroupDevices", &request, &[])
                .await?
        );
        check_count(request.devices.len())?;
        let mut fields = Fields::default();
        let mut leaving = Vec::new();
        for (at, name) in request.devices.iter().enumerate() {
            match names::device(name) {
                Some(dev_eui) => leaving.push(dev_eui),
                None => fields.bad(
                    &format!("devices[{at}]"),
                    "not of the form devices/{dev_eui}",
                ),
            }
        }
        fields.finish()?;
        let mut group = self.find_group("name", &request.name).await?;
        group.updated_at = self.now();
        for dev_eui in leaving {
            group.devices.remove(&dev_eui);
        }
        let answer = v1::RemoveMulticastGroupDevicesResponse {
            multicast_group: Some(self.show_group(&group).await?),
        };
        let mut changes = vec![Change::PutMulticastGroup(group)];
        changes.extend(ticket.answered(&answer));
        self.commit(changes).await?;
        Ok(answer)
    }

    async fn page_of_members(
        &self,
        request: &v1::ListMulticastGroupMembersRequest,
    ) -> Result<v1::ListMulticastGroupMembersResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &[
                "ListMulticastGroupMembers",
                &request.parent,
                &request.filter,
            ],
        );
        let filter = fields.filter(&request.filter, &MEMBER_FILTER);
        fields.finish()?;
        let group = self.find_group("parent", &request.parent).await?;
        let mut members = Vec::new();
        for dev_eui in &group.devices {
            let Some(device) = self.store().device(&tenant(), *dev_eui).await? else {
                continue;
            };
            let state = member_state(&group, &device);
            let word = || regions::word_of(state.as_str_name(), "MEMBER_STATE_");
            let holds = filter.holds(|_state| Some(word()));
            if holds {
                members.push(v1::MulticastGroupMember {
                    name: format!("multicastGroups/{}/members/{dev_eui}", group.id),
                    device: names::name("devices", dev_eui),
                    state: state.into(),
                });
            }
        }
        let listed = page.of(members, |member| member.device.clone());
        Ok(v1::ListMulticastGroupMembersResponse {
            members: listed.items,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }
}

fn check_count(devices: usize) -> Result<(), ApiError> {
    if (1..=MOST_DEVICES).contains(&devices) {
        Ok(())
    } else {
        let why = format!("{devices} devices, not 1..={MOST_DEVICES}");
        Err(ApiError::field("devices", why))
    }
}

/// How far a member is, by what is known to be on the device.
fn member_state(group: &MulticastGroup, device: &Device) -> v1::MemberState {
    let slots = device.status.mc_slots.iter().flatten();
    let slot = slots
        .filter(|slot| slot.group.as_ref() == Some(&group.id) && !slot.leftover)
        .max_by_key(|slot| slot.confirmed);
    match slot {
        Some(slot) if slot.confirmed => v1::MemberState::Ready,
        Some(_) => v1::MemberState::SettingUp,
        None => v1::MemberState::Pending,
    }
}

fn merge(mut into: v1::MulticastGroup, new: v1::MulticastGroup, mask: &Mask) -> v1::MulticastGroup {
    macro_rules! take {
        ($($field:ident),*) => {$( mask.take(stringify!($field), &mut into.$field, new.$field); )*};
    }
    take!(display_name, device_class, data_rate, frequency_hz, tags);
    into
}

/// The record of a group without members, or all that is wrong with it.
fn read(
    mut fields: Fields,
    given: &v1::MulticastGroup,
    id: String,
    (created_at, updated_at): (Timestamp, Timestamp),
) -> Result<MulticastGroup, ApiError> {
    fields.text("display_name", &given.display_name, 255);
    let region = fields.known("region", regions::read(given.region));
    let class = match v1::DeviceClass::try_from(given.device_class) {
        Ok(v1::DeviceClass::C) => DeviceClass::C,
        Ok(v1::DeviceClass::B) => DeviceClass::B,
        Ok(v1::DeviceClass::A) => {
            fields.bad("device_class", "groups are class B or C");
            DeviceClass::C
        }
        Ok(v1::DeviceClass::Unspecified) | Err(_) => {
            fields.bad(
                "device_class",
                "missing, or a value this server does not know",
            );
            DeviceClass::C
        }
    };
    let data_rate = given
        .data_rate
        .and_then(|rate| fields.number("data_rate", rate, 0..=15u8));
    if let (Some(region), Some(rate)) = (region, data_rate) {
        let direction = crate::lorawan::frame::Direction::Downlink;
        if region.data_rate(rate, direction).is_none() {
            fields.bad(
                "data_rate",
                format!("{region} has no downlink data rate {rate}"),
            );
        }
    }
    let frequency_hz = fields.frequency("frequency_hz", given.frequency_hz);
    fields.marks("tags", &given.tags, 255);
    let region = fields.finish_with(region)?;
    Ok(MulticastGroup {
        tenant: tenant(),
        id,
        display_name: given.display_name.clone(),
        region,
        class,
        data_rate,
        frequency_hz,
        devices: std::collections::BTreeSet::new(),
        tags: given.tags.clone(),
        created_at,
        updated_at,
    })
}

fn show(group: &MulticastGroup, ready: u32) -> v1::MulticastGroup {
    v1::MulticastGroup {
        name: names::name("multicastGroups", &group.id),
        display_name: group.display_name.clone(),
        region: regions::show(group.region).into(),
        device_class: regions::show_class(group.class).into(),
        data_rate: group.data_rate.map(u32::from),
        frequency_hz: group.frequency_hz.unwrap_or(0),
        tags: group.tags.clone(),
        member_count: u32::try_from(group.devices.len()).unwrap_or(u32::MAX),
        ready_member_count: ready,
        create_time: Some(show_moment(group.created_at)),
        update_time: Some(show_moment(group.updated_at)),
    }
}

fn is_class(word: &str) -> bool {
    v1::DeviceClass::from_str_name(&format!("DEVICE_CLASS_{word}")).is_some()
}

fn is_member_state(word: &str) -> bool {
    v1::MemberState::from_str_name(&format!("MEMBER_STATE_{word}")).is_some()
}
