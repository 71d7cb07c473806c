//! [`Change`]: one durable write. Everything a step decides to remember is a list of these, committed together.
//! [`Snapshot`]: what the machines of a network are restored from.

use std::sync::Arc;

use super::{
    AirLedger, Device, DeviceKeys, DeviceProfile, DeviceSettings, DeviceStatus,
    DistributionSession, Gateway, GatewaySettings, GatewayStatus, Image, ImagePolicy, JoinState,
    McGroup, MulticastGroup, MulticastGroupId, ProfileId, Rollout, RolloutId, Session, SessionId,
    Sha256, StoredImage, Task, TaskDevice, TaskId, TenantId, TrustedKey, Wave,
};
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::time::Timestamp;

/// One durable write. `Put*` inserts or replaces the whole record. Records that are written at almost every uplink are
/// shared between all who keep them.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "each variant is its record's write; the records are documented"
)]
pub enum Change {
    PutDeviceProfile(DeviceProfile),
    DeleteDeviceProfile(TenantId, ProfileId),
    PutDeviceSettings(DeviceSettings),
    PutDeviceStatus(DevEui, Arc<DeviceStatus>),
    PutDeviceKeys(DeviceKeys),
    /// Removes the device with its keys, activation and status.
    DeleteDevice(DevEui),
    PutJoinState(DevEui, JoinState),
    DeleteJoinState(DevEui),
    PutSession(DevEui, Session),
    DeleteSession(DevEui),
    PutGatewaySettings(GatewaySettings),
    PutGatewayStatus(GatewayEui, GatewayStatus),
    /// Removes the gateway; its air ledgers stay, because the air it used stays used.
    DeleteGateway(GatewayEui),
    PutAirLedger(AirLedger),
    PutMulticastGroup(MulticastGroup),
    DeleteMulticastGroup(TenantId, MulticastGroupId),
    PutImage(Image, Arc<[u8]>),
    /// Changes what is said of an image that is there; its bytes stay.
    PutImageRecord(Image),
    DeleteImage(TenantId, Sha256),
    PutTask(Arc<Task>),
    /// Removes the task with its devices, waves, sessions and groups on air.
    DeleteTask(TaskId),
    PutTaskDevice(Arc<TaskDevice>),
    DeleteTaskDevice(TaskId, DevEui),
    PutWave(Wave),
    PutDistributionSession(DistributionSession),
    PutMcGroup(McGroup),
    DeleteMcGroup(SessionId),
    PutRequest(RequestRecord),
    PutTrustedKey(TrustedKey),
    PutImagePolicy(ImagePolicy),
    DeleteImagePolicy(TenantId, String),
    PutRollout(Box<Rollout>),
    DeleteRollout(TenantId, RolloutId),
}

/// The outcome of a mutating call that carried a `request_id`, so that a repeat gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Whose call.
    pub tenant: TenantId,
    /// The client's identifier, 1 to 64 characters.
    pub request_id: String,
    /// Full gRPC method name.
    pub method: String,
    /// SHA-256 of the encoded request without its `request_id`.
    pub fingerprint: Sha256,
    /// The encoded response.
    pub response: Vec<u8>,
    /// When it was answered; records older than a day may be dropped.
    pub at: Timestamp,
}

/// Everything the machines of a network are restored from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// All profiles.
    pub profiles: Vec<DeviceProfile>,
    /// All devices.
    pub devices: Vec<Device>,
    /// Their secrets.
    pub keys: Vec<DeviceKeys>,
    /// Join states of OTAA devices.
    pub joins: Vec<(DevEui, JoinState)>,
    /// Sessions.
    pub sessions: Vec<(DevEui, Session)>,
    /// All gateways.
    pub gateways: Vec<Gateway>,
    /// Their air-time ledgers.
    pub ledgers: Vec<AirLedger>,
    /// Groups on the air.
    pub mc_groups: Vec<McGroup>,
    /// Tasks a campaign executes.
    pub tasks: Vec<TaskSnapshot>,
}

/// An active task with all that belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSnapshot {
    /// The task.
    pub task: Task,
    /// Its images, in order.
    pub images: Vec<StoredImage>,
    /// Patches some of its devices are sent in place of an image.
    pub deltas: Vec<StoredImage>,
    /// Its devices.
    pub devices: Vec<TaskDevice>,
    /// Its waves.
    pub waves: Vec<Wave>,
    /// Its sessions.
    pub sessions: Vec<DistributionSession>,
}
