//! Durable records: the port. [`Store`] is what the one writer needs (commit and restore), [`Catalog`] adds the reads
//! of the API.
//!
//! A commit is all or nothing. Any error of a commit means *unknown*: the caller drops its machines, restores them from
//! [`Store::snapshot`] and goes on. Adapters hold no logic beyond mapping records to rows; secrets are sealed in the
//! adapter.
//!
//! What every store refuses (the whole commit with it): a record whose parent does not exist yet
//! ([`StoreError::NotFound`]: status, keys, join state or session without device settings, a device without its
//! profile, gateway status without settings, a task without its image or one of its deltas, what is said of an
//! image that is not there, anything of a task without the task); deleting a
//! profile or an image that is in use, and taking over another tenant's device or task ([`StoreError::Conflict`]).
//! Deleting what is not there does nothing. A number that is not finite is refused as [`StoreError::Corrupt`].

mod memory;
mod refusal;
mod seal;
mod sqlite;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

pub use memory::MemoryStore;
pub use seal::{Entropy, MasterKey};
pub use sqlite::{OpenError, SqliteStore};

use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::record::{
    Activation, AirLedger, Change, Device, DeviceKeys, DeviceProfile, DeviceReason, DeviceState,
    DistributionSession, Gateway, Image, ImagePolicy, MulticastGroup, RequestRecord, Rollout,
    SessionId, Sha256, Snapshot, StateCounts, Task, TaskDevice, TaskId, TaskSnapshot, TaskState,
    TenantId, TrustedKey, Wave,
};

/// Why a store operation did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The record does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// Another record stands in the way (duplicate key, or still in use).
    #[error("conflict: {0}")]
    Conflict(String),
    /// Another server took over; nothing may be sent any more.
    #[error("fenced: another server holds the network")]
    Fenced,
    /// The store does not answer; whether a commit happened is unknown.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// A record cannot be read back.
    #[error("corrupt record: {0}")]
    Corrupt(String),
}

/// A [`RequestRecord`] that is older than this when another one is put is dropped.
pub const REQUEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What the one writer needs.
pub trait Store {
    /// Writes all changes in order, or none. On `Ok` they survive a crash of the process and of the machine.
    fn commit(&self, changes: &[Change]) -> impl Future<Output = Result<()>> + Send;

    /// Everything the machines of the network are restored from: all devices and gateways, and the active tasks.
    fn snapshot(&self) -> impl Future<Output = Result<Snapshot>>;
}

/// A page of a list: at most `size` records with a key greater than `after`, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Most records, 1..=1000.
    pub size: u32,
    /// Key of the last record of the page before; `None` for the first page.
    pub after: Option<String>,
}

/// Which end-devices to list; all given terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    /// Device profile.
    pub profile: Option<String>,
    /// Hardware model.
    pub model: Option<String>,
    /// Tags with their values.
    pub tags: BTreeMap<String, String>,
}

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// State.
    pub state: Option<TaskState>,
    /// Tasks that use this image.
    pub image: Option<Sha256>,
    /// Tasks this device is part of.
    pub device: Option<DevEui>,
}

impl TaskFilter {
    /// Tasks that distribute an image, or a patch that is one.
    pub fn of_image(sha256: Sha256) -> Self {
        Self {
            image: Some(sha256),
            ..Self::default()
        }
    }
}

/// Which devices of a task to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskDeviceFilter {
    /// State.
    pub state: Option<DeviceState>,
    /// Reason.
    pub reason: Option<DeviceReason>,
    /// Only devices changed after this sequence number of the task, in sequence order. The page's `after` is then the
    /// sequence number of the last device of the page before; devices of one task never share a number above 0.
    pub after_sequence: Option<u64>,
}

/// The number after which a list in sequence order goes on; `None` when the list is in key order.
fn after_sequence(filter: &TaskDeviceFilter, page: &Page) -> Result<Option<u64>> {
    let (Some(filter), Some(page)) = (filter.after_sequence, &page.after) else {
        return Ok(filter.after_sequence);
    };
    match page.parse::<u64>() {
        Ok(page) => Ok(Some(filter.max(page))),
        Err(_) => Err(StoreError::NotFound(format!("page after {page}"))),
    }
}

/// The reads of the API. Absent records are `Ok(None)`; lists come in key order.
pub trait Catalog: Store + Send + Sync + 'static {
    /// One device profile.
    fn device_profile(
        &self,
        tenant: &TenantId,
        id: &str,
    ) -> impl Future<Output = Result<Option<DeviceProfile>>> + Send;
    /// Device profiles by id.
    fn device_profiles(
        &self,
        tenant: &TenantId,
        page: &Page,
    ) -> impl Future<Output = Result<Vec<DeviceProfile>>> + Send;
    /// Devices that use a profile.
    fn count_devices_of_profile(
        &self,
        tenant: &TenantId,
        id: &str,
    ) -> impl Future<Output = Result<u64>> + Send;

    /// One end-device; of another tenant: `None`.
    fn device(
        &self,
        tenant: &TenantId,
        dev_eui: DevEui,
    ) -> impl Future<Output = Result<Option<Device>>> + Send;
    /// Whether any tenant has this end-device.
    fn device_exists(&self, dev_eui: DevEui) -> impl Future<Output = Result<bool>> + Send;
    /// End-devices by DevEUI.
    fn devices(
        &self,
        tenant: &TenantId,
        filter: &DeviceFilter,
        page: &Page,
    ) -> impl Future<Output = Result<Vec<Device>>> + Send;
    /// The secrets of one device. They are for the runtime and the planner, not for answers.
    fn device_keys(
        &self,
        dev_eui: DevEui,
    ) -> impl Future<Output = Result<Option<DeviceKeys>>> + Send;
    /// Activation of one device. Secrets are in it: it is for the runtime, not for answers.
    fn activation(&self, dev_eui: DevEui) -> impl Future<Output = Result<Activation>> + Send;

    /// One gateway.
    fn gateway(&self, eui: GatewayEui) -> impl Future<Output = Result<Option<Gateway>>> + Send;
    /// Gateways by EUI.
    fn gateways(&self, page: &Page) -> impl Future<Output = Result<Vec<Gateway>>> + Send;

    /// What each gateway sent in the last hour, by gateway and sub-band.
    fn air_ledgers(&self) -> impl Future<Output = Result<Vec<AirLedger>>> + Send;

    /// One multicast group.
    fn multicast_group(
        &self,
        tenant: &TenantId,
        id: &str,
    ) -> impl Future<Output = Result<Option<MulticastGroup>>> + Send;
    /// Multicast groups by id.
    fn multicast_groups(
        &self,
        tenant: &TenantId,
        page: &Page,
    ) -> impl Future<Output = Result<Vec<MulticastGroup>>> + Send;

    /// Metadata of one image.
    fn image(
        &self,
        tenant: &TenantId,
        sha256: Sha256,
    ) -> impl Future<Output = Result<Option<Image>>> + Send;
    /// Images by SHA-256.
    fn images(
        &self,
        tenant: &TenantId,
        page: &Page,
    ) -> impl Future<Output = Result<Vec<Image>>> + Send;
    /// The bytes of one image.
    fn image_bytes(
        &self,
        tenant: &TenantId,
        sha256: Sha256,
    ) -> impl Future<Output = Result<Option<std::sync::Arc<[u8]>>>> + Send;

    /// All trusted keys by identity, retired ones too; there are few.
    fn trusted_keys(
        &self,
        tenant: &TenantId,
    ) -> impl Future<Output = Result<Vec<TrustedKey>>> + Send;
    /// All image policies by model; there are few.
    fn image_policies(
        &self,
        tenant: &TenantId,
    ) -> impl Future<Output = Result<Vec<ImagePolicy>>> + Send;

    /// All rollouts by id; there are few.
    fn rollouts(&self, tenant: &TenantId) -> impl Future<Output = Result<Vec<Rollout>>> + Send;

    /// One task.
    fn task(
        &self,
        tenant: &TenantId,
        id: &TaskId,
    ) -> impl Future<Output = Result<Option<Task>>> + Send;
    /// Tasks by id.
    fn tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        page: &Page,
    ) -> impl Future<Output = Result<Vec<Task>>> + Send;
    /// Device counts of a task by state.
    fn task_counts(&self, id: &TaskId) -> impl Future<Output = Result<StateCounts>> + Send;
    /// Devices of a task, by DevEUI, or by sequence where the filter says so.
    fn task_devices(
        &self,
        id: &TaskId,
        filter: &TaskDeviceFilter,
        page: &Page,
    ) -> impl Future<Output = Result<Vec<TaskDevice>>> + Send;
    /// One device of a task.
    fn task_device(
        &self,
        id: &TaskId,
        dev_eui: DevEui,
    ) -> impl Future<Output = Result<Option<TaskDevice>>> + Send;
    /// Active tasks (neither draft nor ended) that hold any of these devices, with the device. A device that has its
    /// verdict and is cleaned is held no more.
    fn active_tasks_of(
        &self,
        devices: &[DevEui],
    ) -> impl Future<Output = Result<Vec<(DevEui, TaskId)>>> + Send;
    /// Waves of a task.
    fn waves(&self, id: &TaskId) -> impl Future<Output = Result<Vec<Wave>>> + Send;
    /// Distribution sessions of a task.
    fn distribution_sessions(
        &self,
        id: &TaskId,
    ) -> impl Future<Output = Result<Vec<DistributionSession>>> + Send;
    /// One distribution session.
    fn distribution_session(
        &self,
        id: &SessionId,
    ) -> impl Future<Output = Result<Option<DistributionSession>>> + Send;
    /// A task with all that belongs to it, its image included.
    fn task_snapshot(
        &self,
        tenant: &TenantId,
        id: &TaskId,
    ) -> impl Future<Output = Result<Option<TaskSnapshot>>> + Send;

    /// The recorded outcome of an earlier call with this `request_id`.
    fn request(
        &self,
        tenant: &TenantId,
        request_id: &str,
    ) -> impl Future<Output = Result<Option<RequestRecord>>> + Send;
}
