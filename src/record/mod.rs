//! The durable types every layer shares, and the [`Change`] that writes them.
//!
//! Records are plain data: they hold no behaviour beyond small derived facts, read no clock and know no store.
//! What an operator sets and what the radio side learns are separate records (`DeviceSettings` / `DeviceStatus`,
//! `GatewaySettings` / `GatewayStatus`), so that the two writers never overwrite each other.
//! The datums that cross between a campaign and a network ([`Downlink`], [`Uplink`], [`TxReport`]) live here too:
//! both sides may import `record`, neither may import the other.

mod activation;
mod change;
mod device;
mod device_profile;
mod fleet;
mod gateway;
mod image;
mod multicast_group;
mod radio;
mod rollout;
mod rules;
mod session;
mod task;
mod task_device;
mod task_images;
mod trust;
mod wave;

pub use activation::{Activation, JoinState, Session};
pub use change::{Change, RequestRecord, Snapshot, TaskSnapshot};
pub use device::{
    Capability, ComponentVersion, Device, DeviceKeys, DeviceSettings, DeviceStatus, FragSlot, Link,
    McSlot, MulticastKeys, VersionChange, VersionEvidence,
};
pub use device_profile::{
    AfterReboot, ApplicationReboot, Component, DecoderLimits, DescriptorRule, DeviceProfile,
    FCntReset, LorawanVersion, Package, Packages, StatusInterpretation, UplinkField, VersionSource,
};
pub use fleet::{Fleet, FleetDevice};
pub use gateway::{
    AirLedger, ClockReading, Gateway, GatewayCounters, GatewaySettings, GatewayStatus, Position,
};
pub use image::{
    Delta, Image, ImageContainer, ImageFacts, ImageSignature, Release, ReleaseState, Sha256,
    StoredImage,
};
pub use multicast_group::{DeviceClass, MulticastGroup};
pub use radio::{
    Downlink, DownlinkId, GatewayOutcome, Heard, KeptGroup, McGroup, NetworkRequest, Reception,
    Refusal, SessionId, Target, TxOutcome, TxReport, Uplink, UplinkRef,
};
pub use rollout::{
    DeviceTries, RefusedStart, Rollout, RolloutCounts, RolloutId, RolloutOrder, RolloutPurpose,
    RolloutSchedule, RolloutSelector, RolloutState, RolloutStatus, RolloutSwitch, RolloutTask,
    RolloutTaskEnd, RolloutValidation,
};
pub use rules::{Blackout, Calendar, RetryPolicy, TaskRules, WeeklyWindow};
pub use session::{
    BlockParameters, DistributionSession, FragAlgo, GroupUse, PollKind, ReusedGroup, SessionPhase,
    SessionWindow, StatusRound, WindowNumber, fragments_sent,
};
pub use task::{
    FailuresAccepted, Held, RebootMode, StateCounts, SuccessCriterion, Task, TaskCounters, TaskId,
    TaskOptions, TaskReason, TaskState, Waiting,
};
pub use task_device::{
    CleanupState, DeviceReason, DeviceState, FragmentReport, SetupStage, TaskDevice,
    UnicastFragments,
};
pub use task_images::{ImageAhead, ImageCourse, ImageDone, InstallMode, MAX_IMAGES};
pub use trust::{ImagePolicy, TrustedKey};
pub use wave::{Approval, ThresholdAction, Thresholds, Wave, WavePolicy};

/// Owner of a record. One tenant, `default`, exists until credentials decide the tenant of a call.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct TenantId(pub String);

impl Default for TenantId {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// Identifier of a device profile: 1 to 64 characters of `[a-z0-9-]`, unique in its tenant.
pub type ProfileId = String;

/// Identifier of a multicast group: 1 to 64 characters of `[a-z0-9-]`, unique in its tenant.
pub type MulticastGroupId = String;
