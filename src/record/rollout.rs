//! A rollout: the standing order to keep a set of devices on a release, and how far it got.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MulticastGroupId, ProfileId, Sha256, Task, TaskId, TenantId};
use crate::lorawan::identifiers::DevEui;
use crate::time::Timestamp;

/// Identifier of a rollout: 1 to 50 characters of `[a-z0-9-]`, unique in its tenant.
pub type RolloutId = String;

/// The order, and what has come of it. What users write and what the driver learns are one record: both are written
/// under the same lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Owner.
    pub tenant: TenantId,
    /// Identifier.
    pub id: RolloutId,
    /// What users write.
    pub order: RolloutOrder,
    /// Whether it starts tasks by itself.
    pub switch: RolloutSwitch,
    /// Number of the next task.
    pub next_number: u32,
    /// Its tasks, oldest first: all that have not ended, and the last ones that have.
    pub tasks: Vec<RolloutTask>,
    /// When the last wide task was made.
    pub last_start: Option<Timestamp>,
    /// Since when devices wait for a start.
    pub gathering_since: Option<Timestamp>,
    /// The image that `tries` are of.
    pub tries_of: Option<Sha256>,
    /// What came of bringing that image to devices.
    pub tries: BTreeMap<DevEui, DeviceTries>,
    /// The image that passed validation last.
    pub validated: Option<Sha256>,
    /// The image whose validation failed.
    pub not_validated: Option<Sha256>,
    /// The next task cannot be started.
    pub refused: Option<RefusedStart>,
    /// What the driver saw last.
    pub status: RolloutStatus,
    /// When it was created.
    pub created_at: Timestamp,
    /// When a user changed it last.
    pub updated_at: Timestamp,
}

/// What users write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutOrder {
    /// Free text for people.
    pub display_name: String,
    /// For which devices.
    pub selector: RolloutSelector,
    /// The image; `None` = the highest active one that is made for model and component.
    pub image: Option<Sha256>,
    /// What its tasks are like. It has no image, no devices and no times.
    pub template: Box<Task>,
    /// When tasks start.
    pub schedule: RolloutSchedule,
    /// What comes before the first start with an image.
    pub validation: RolloutValidation,
    /// Tries per device and image, 1..=100.
    pub max_failures: u32,
    /// From the end of a try to the next one of the same device.
    pub retry_after: Duration,
}

/// Which devices; all terms hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSelector {
    /// Hardware model; empty = any.
    pub model: String,
    /// Component whose version counts.
    pub component: String,
    /// Profile.
    pub profile: Option<ProfileId>,
    /// Members of this group.
    pub group: Option<MulticastGroupId>,
    /// Tags with their values.
    pub tags: BTreeMap<String, String>,
    /// Only devices that run one of these, or the target; empty = any older one.
    pub from_versions: BTreeSet<u32>,
    /// Also devices whose version nobody has reported.
    pub include_unknown: bool,
}

/// When tasks start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSchedule {
    /// No start before.
    pub not_before: Option<Timestamp>,
    /// From one moment of start to the next; `None` = as soon as a device is behind.
    pub repeat_interval: Option<Duration>,
    /// How long after such a moment a start may take place; `None` = an hour, at most the interval.
    pub start_within: Option<Duration>,
    /// No start with fewer devices.
    pub min_devices: u32,
    /// With fewer all the same, once devices have waited so long.
    pub max_wait: Option<Duration>,
}

/// How an image shows that it is good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutValidation {
    /// Devices it is tried on first; none = no validation.
    pub test_devices: BTreeSet<DevEui>,
    /// Share of them that must take it, 1..=100.
    pub required_percent: u8,
}

/// Whether a rollout acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutSwitch {
    /// It starts nothing by itself.
    #[default]
    Disabled,
    /// It starts tasks.
    Enabled,
    /// Taken back: its tasks are cancelled.
    Withdrawn,
}

/// A task of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutTask {
    /// The task.
    pub task: TaskId,
    /// Its image.
    pub image: Sha256,
    /// What it is for.
    pub purpose: RolloutPurpose,
    /// When it was made.
    pub created_at: Timestamp,
    /// It is no draft any more.
    pub started: bool,
    /// Its end was taken in.
    pub ended: Option<RolloutTaskEnd>,
}

/// What came of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutTaskEnd {
    /// When.
    pub at: Timestamp,
    /// Devices that met the criterion.
    pub succeeded: u32,
    /// Devices that did not.
    pub failed: u32,
}

/// What a task of a rollout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RolloutPurpose {
    /// To try the image on the test devices.
    Validation,
    /// To bring it to all that are behind.
    Wide,
    /// Asked for by hand.
    Push,
}

/// What came of bringing one image to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTries {
    /// Tries that ended with a verdict of the device.
    pub count: u32,
    /// The last one succeeded.
    pub succeeded: bool,
    /// When the last one ended, with a verdict or without.
    pub at: Timestamp,
}

/// A start that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStart {
    /// Why, for people.
    pub why: String,
    /// How often in a row.
    pub times: u32,
    /// When it is tried again.
    pub retry_at: Timestamp,
}

/// What the driver saw last, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Where it is.
    pub state: RolloutState,
    /// Words to the state.
    pub message: String,
    /// Its devices.
    pub counts: RolloutCounts,
    /// The image devices are kept on.
    pub image: Option<Sha256>,
    /// When it looks next whether to start.
    pub next_start: Option<Timestamp>,
}

/// Where a rollout is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RolloutState {
    /// Starts nothing by itself.
    #[default]
    Disabled,
    /// For the time, for devices or for an image.
    Waiting,
    /// The test devices come first.
    Validating,
    /// A task of it is under way.
    Running,
    /// Too few test devices took the image.
    ValidationFailed,
    /// The next task cannot be started.
    Blocked,
    /// No device is behind.
    UpToDate,
    /// Taken back.
    Withdrawn,
}

/// Devices of a rollout; each counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutCounts {
    /// Run the target or higher, or have taken it and not yet reported.
    pub up_to_date: u32,
    /// Run an older version, and are free.
    pub behind: u32,
    /// Behind, and held by a task.
    pub in_task: u32,
    /// Behind, and left out after too many tries.
    pub failed: u32,
    /// Nobody has reported their version.
    pub unknown: u32,
    /// Behind, and not to be served with this image.
    pub left_alone: u32,
}

impl RolloutCounts {
    /// All devices of the selector.
    pub fn selected(&self) -> u32 {
        [
            self.behind,
            self.in_task,
            self.failed,
            self.unknown,
            self.left_alone,
        ]
        .into_iter()
        .fold(self.up_to_date, u32::saturating_add)
    }
}
