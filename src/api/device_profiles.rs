//! Device profile service.

use tonic::{Request, Response, Status};

use crate::proto::v1;
use crate::record::DeviceProfile;
use crate::runtime::Command;
use crate::store::{Catalog, Page};

use super::device_profile_records::{is_version_word, merge, read, show, version_word};
use super::errors::ApiError;
use super::fields::{Fields, tenant};
use super::filter::Kind;
use super::idempotency::first_or_return;
use super::mask::Mask;
use super::page::PageRequest;
use super::{Api, answer, carry_out, names, regions};

/// What a profile may be filtered by.
const FILTER: [(&str, Kind); 2] = [
    ("region", Kind::Word(regions::is_word)),
    ("lorawan_version", Kind::Word(is_version_word)),
];

const WRITABLE: [&str; 18] = [
    "display_name",
    "lorawan_version",
    "region",
    "supports_class_b",
    "supports_class_c",
    "clock_sync",
    "multicast_setup",
    "fragmentation",
    "firmware_management",
    "decoder_limits",
    "status_interpretation",
    "uplink_interval",
    "multicast_root_key",
    "after_reboot",
    "version_source",
    "application_reboot",
    "components",
    "descriptor_rule",
];

#[tonic::async_trait]
impl<S: Catalog> v1::device_profile_service_server::DeviceProfileService for Api<S> {
    async fn create_device_profile(
        &self,
        request: Request<v1::CreateDeviceProfileRequest>,
    ) -> Result<Response<v1::DeviceProfile>, Status> {
        let api = self.clone();
        carry_out(async move { api.create_profile(request.into_inner()).await }).await
    }

    async fn get_device_profile(
        &self,
        request: Request<v1::GetDeviceProfileRequest>,
    ) -> Result<Response<v1::DeviceProfile>, Status> {
        answer(
            self.find_profile("name", &request.get_ref().name)
                .await
                .map(|profile| show(&profile)),
        )
    }

    async fn list_device_profiles(
        &self,
        request: Request<v1::ListDeviceProfilesRequest>,
    ) -> Result<Response<v1::ListDeviceProfilesResponse>, Status> {
        answer(self.page_of_profiles(request.get_ref()).await)
    }

    async fn update_device_profile(
        &self,
        request: Request<v1::UpdateDeviceProfileRequest>,
    ) -> Result<Response<v1::DeviceProfile>, Status> {
        let api = self.clone();
        carry_out(async move { api.update_profile(request.into_inner()).await }).await
    }

    async fn delete_device_profile(
        &self,
        request: Request<v1::DeleteDeviceProfileRequest>,
    ) -> Result<Response<()>, Status> {
        let api = self.clone();
        carry_out(async move { api.delete_profile(request.into_inner()).await }).await
    }
}

impl<S: Catalog> Api<S> {
    async fn create_profile(
        self,
        request: v1::CreateDeviceProfileRequest,
    ) -> Result<v1::DeviceProfile, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("CreateDeviceProfile", &request, &[]).await?);
        let mut fields = Fields::of("device_profile");
        let id = fields.new_id("device_profile_id", &request.device_profile_id);
        let Some(given) = request.device_profile else {
            return Err(ApiError::field("device_profile", "missing"));
        };
        let id = id.unwrap_or_else(|| self.made_id());
        let profile = read(fields, &given, &id, (self.now(), self.now()))?;
        if self.store().device_profile(&tenant(), &id).await?.is_some() {
            return Err(ApiError::AlreadyExists {
                resource: names::name("deviceProfiles", id),
                reason: "ALREADY_EXISTS",
            });
        }
        let shown = show(&profile);
        let with = ticket.answered(&shown);
        self.command("CONFLICT", Command::PutDeviceProfile(profile), with)
            .await?;
        Ok(shown)
    }

    /// The profile that `field` of a request names.
    pub(super) async fn find_profile(
        &self,
        field: &str,
        name: &str,
    ) -> Result<DeviceProfile, ApiError> {
        let id = names::required(field, "deviceProfiles/{id}", name, |name| {
            names::id_of("deviceProfiles", name).map(str::to_owned)
        })?;
        let profile = self.store().device_profile(&tenant(), &id).await?;
        profile.ok_or_else(|| ApiError::NotFound(name.to_owned()))
    }

    async fn page_of_profiles(
        &self,
        request: &v1::ListDeviceProfilesRequest,
    ) -> Result<v1::ListDeviceProfilesResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListDeviceProfiles", &request.filter],
        );
        let filter = fields.filter(&request.filter, &FILTER);
        fields.finish()?;
        let keep = |profile: &DeviceProfile| {
            filter.holds(|field| match field {
                "region" => Some(regions::word(profile.region)),
                _ => Some(version_word(profile.lorawan_version)),
            })
        };
        let (store, tenant) = (self.store(), &tenant());
        let fetch = |page: Page| async move { store.device_profiles(tenant, &page).await };
        let listed = page.walk(|profile| profile.id.clone(), keep, fetch).await?;
        Ok(v1::ListDeviceProfilesResponse {
            device_profiles: listed.items.iter().map(show).collect(),
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    async fn update_profile(
        self,
        request: v1::UpdateDeviceProfileRequest,
    ) -> Result<v1::DeviceProfile, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("UpdateDeviceProfile", &request, &[]).await?);
        let mut fields = Fields::of("device_profile");
        let mask = Mask::read(&mut fields, request.update_mask.as_ref(), &WRITABLE);
        let Some(given) = request.device_profile else {
            return Err(ApiError::field("device_profile", "missing"));
        };
        let known = self
            .find_profile("device_profile.name", &given.name)
            .await?;
        let merged = merge(show(&known), given, &mask);
        let mut profile = read(fields, &merged, &known.id, (known.created_at, self.now()))?;
        profile.always_class_c = known.always_class_c;
        if profile.region != known.region || profile.lorawan_version != known.lorawan_version {
            self.check_profile_unused(&known).await?;
        }
        let shown = show(&profile);
        let with = ticket.answered(&shown);
        self.command("PROFILE_IN_USE", Command::PutDeviceProfile(profile), with)
            .await?;
        Ok(shown)
    }

    async fn delete_profile(self, request: v1::DeleteDeviceProfileRequest) -> Result<(), ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("DeleteDeviceProfile", &request, &[]).await?);
        let profile = self.find_profile("name", &request.name).await?;
        self.check_profile_unused(&profile).await?;
        let command = Command::DeleteDeviceProfile(profile.tenant, profile.id);
        self.command("PROFILE_IN_USE", command, ticket.answered(&()))
            .await
    }

    async fn check_profile_unused(&self, profile: &DeviceProfile) -> Result<(), ApiError> {
        let users = self
            .store()
            .count_devices_of_profile(&tenant(), &profile.id)
            .await?;
        if users > 0 {
            let message = format!("{users} devices use it");
            return Err(ApiError::refused("PROFILE_IN_USE", message));
        }
        Ok(())
    }
}
