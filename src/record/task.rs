//! A FUOTA task: the durable order to bring an image to a set of end-devices, and the life cycle of that order.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    DeviceClass, FragAlgo, InstallMode, MulticastGroup, MulticastGroupId, Sha256, TaskRules,
    TenantId, Thresholds, WavePolicy,
};
use crate::lorawan::class_b::PingSlotPeriodicity;
use crate::lorawan::keys::Key128;
use crate::time::Timestamp;

/// Identifier of a task: 1 to 64 characters of `[a-z0-9-]`, unique in the network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub String);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The order and how far it got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Owner.
    pub tenant: TenantId,
    /// Identifier.
    pub id: TaskId,
    /// Free text for people.
    pub display_name: String,
    /// What to distribute, in this order: 1 to [`MAX_IMAGES`](super::MAX_IMAGES).
    pub images: Vec<Sha256>,
    /// Groups whose members are taken in at the start.
    pub groups: Vec<MulticastGroupId>,
    /// When a device counts as done.
    pub success: SuccessCriterion,
    /// How the device is brought to run the image.
    pub reboot: RebootMode,
    /// Set-up does not begin before.
    pub prepare_after: Option<Timestamp>,
    /// Start of the first distribution window; `None` = as soon as set-up can be done.
    pub window_start: Option<Timestamp>,
    /// Nothing but cleanup happens after; `None` = a default from the plan.
    pub deadline: Option<Timestamp>,
    /// Radio and budget choices.
    pub options: TaskOptions,
    /// Where the task is.
    pub state: TaskState,
    /// Why it ended or waits, if there is something to say.
    pub reason: Option<TaskReason>,
    /// Words to the reason, for people.
    pub reason_text: String,
    /// Counts up with every change of the task or one of its devices; clients resume a watch from it.
    pub sequence: u64,
    /// Sums over the task.
    pub counters: TaskCounters,
    /// The ended task whose devices this one tries again.
    #[serde(default)]
    pub retry_of: Option<TaskId>,
    /// In which waves the devices are served.
    #[serde(default)]
    pub waves: WavePolicy,
    /// How much may go wrong.
    #[serde(default)]
    pub thresholds: Thresholds,
    /// What had gone wrong when the operator last let the task go on.
    #[serde(default)]
    pub failures_accepted: FailuresAccepted,
    /// Where the task was held and since when; `None` unless it is [`TaskState::Paused`] or
    /// [`TaskState::AwaitingApproval`].
    #[serde(default)]
    pub held: Option<Held>,
    /// When it was last let go on.
    #[serde(default)]
    pub resumed_at: Option<Timestamp>,
    /// When the plan expects the last device to end; made at the start.
    #[serde(default)]
    pub expected_end: Option<Timestamp>,
    /// Free key-value pairs.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// When the task was created.
    pub created_at: Timestamp,
    /// When the operator last changed it or its devices.
    #[serde(default)]
    pub updated_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it reached a terminal state.
    pub ended_at: Option<Timestamp>,
    /// Secret from which the task's multicast keys and addresses are diversified; made at the start.
    #[serde(with = "crate::lorawan::keys::serde_hex_option")]
    pub seed: Option<Key128>,
    /// Its place among the tasks that wait for their devices; `None` once a campaign executes it.
    #[serde(default)]
    pub waiting: Option<Box<Waiting>>,
    /// Retries, calendar and tags.
    #[serde(default)]
    pub rules: Box<TaskRules>,
    /// Patches to its images that devices get whose version they fit; chosen at the start.
    #[serde(default)]
    pub deltas: Vec<Sha256>,
    /// How several images come to run.
    #[serde(default)]
    pub install: InstallMode,
}

/// A task that was started while other tasks held its devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Tasks that want the same devices begin in this order.
    pub place: u64,
    /// The groups it names, as they were then: who is in them was fixed with the start.
    pub groups: Vec<MulticastGroup>,
}

impl Task {
    /// Nothing is sent until the operator says so.
    pub fn is_held(&self) -> bool {
        matches!(self.state, TaskState::Paused | TaskState::AwaitingApproval)
    }
}

/// Life cycle of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskState {
    /// Being edited.
    Draft,
    /// Started; waits for `prepare_after`, or for its devices.
    Scheduled,
    /// Devices are being set up.
    Preparing,
    /// Fragments are being sent.
    Distributing,
    /// Verification, reboot, version check and cleanup.
    Completing,
    /// A wave is over, and the operator has to let the next one begin.
    AwaitingApproval,
    /// Held by the operator, or because too much went wrong: nothing is sent.
    Paused,
    /// Ended; every device has a verdict.
    Completed,
    /// Being cancelled: devices are cleaned up.
    Cancelling,
    /// Ended by the operator.
    Cancelled,
    /// Ended because the plan became impossible.
    Failed,
}

impl TaskState {
    /// The task never changes again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }

    /// A campaign executes the task.
    pub fn is_active(self) -> bool {
        !self.is_terminal() && self != Self::Draft
    }
}

/// A task that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The state it goes back to.
    pub from: TaskState,
    /// When it was held.
    pub since: Timestamp,
}

/// Verdicts the operator knew of when a task was let go on: only what comes after them counts against thresholds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailuresAccepted {
    /// Devices that had ended.
    pub ended: u32,
    /// Of them those that failed.
    pub failed: u32,
    /// The last wave that was over; the next one may begin.
    pub wave: Option<u16>,
}

/// Why a task ended or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskReason {
    /// The operator asked for it.
    #[serde(alias = "Cancelled")]
    Requested,
    /// Too many devices failed.
    ThresholdCrossed,
    /// The deadline passed.
    DeadlinePassed,
    /// No device was left to serve.
    NoDevices,
    /// The plan cannot be carried out any more.
    PlanImpossible,
    /// Other tasks hold some of its devices.
    WaitsForDevices,
    /// Every gateway that hears its devices is offline.
    GatewaysOffline,
    /// The server's clock disagrees with the GPS time of its gateways: no window opens.
    ClockDisagrees,
}

/// What a device must show to count as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SuccessCriterion {
    /// Its status answers say that the image is complete.
    ReportedReceived,
    /// The device checked the image (data-block MIC or TS006).
    Verified,
    /// The device reported the target version after its reboot.
    Running,
}

/// How a device is brought to run the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebootMode {
    /// The device does so on its own.
    None,
    /// TS006 `DevRebootCountdownReq`.
    Countdown {
        /// From the device's answer to its reboot.
        after: Duration,
    },
    /// All at one moment: TS006 `DevRebootTimeReq`. Who is ready later reboots at once.
    AtTime {
        /// The moment, a whole second of GPS time.
        at: Timestamp,
    },
}

/// Choices of the operator; `None` leaves them to the planner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskOptions {
    /// Data rate index of the window.
    pub data_rate: Option<u8>,
    /// Frequency of the window.
    pub frequency_hz: Option<u32>,
    /// Fragment size, bytes.
    pub frag_size: Option<u8>,
    /// Most coded fragments, as a share of `NbFrag` in percent.
    pub max_redundancy_percent: u16,
    /// The code for devices that claim it; the others get TS004's.
    #[serde(default)]
    pub frag_algo: FragAlgo,
    /// Opaque bytes of `FragSessionSetupReq`; `None` = the target version, least significant byte first.
    pub descriptor: Option<[u8; 4]>,
    /// `BlockAckDelay`, 0..=7: answers spread over 2^(n+4) seconds.
    pub block_ack_delay: Option<u8>,
    /// Times a command is sent to one device before it is given up.
    pub max_attempts: u8,
    /// How long cleanup may take after the last verdict.
    pub cleanup_within: Duration,
    /// Class of the sessions; `None` = that of the device's group, else C.
    #[serde(default)]
    pub class: Option<DeviceClass>,
    /// Class B: how often the groups listen.
    #[serde(default)]
    pub ping_slots: Option<PingSlotPeriodicity>,
    /// Leave the multicast groups on devices that succeed, for a later task of the same devices.
    #[serde(default)]
    pub keep_groups: bool,
    /// Serve devices that report a higher version than the image has.
    #[serde(default)]
    pub allow_downgrade: bool,
    /// Leave out devices the image does not fit; else one of them keeps the task from starting.
    #[serde(default)]
    pub skip_unfit: bool,
    /// Send every device the whole image, even where a patch would do.
    #[serde(default)]
    pub no_deltas: bool,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            data_rate: None,
            frequency_hz: None,
            frag_size: None,
            max_redundancy_percent: 200,
            frag_algo: FragAlgo::Ts004,
            descriptor: None,
            block_ack_delay: None,
            max_attempts: 16,
            cleanup_within: Duration::from_secs(3600),
            class: None,
            ping_slots: None,
            keep_groups: false,
            allow_downgrade: false,
            skip_unfit: false,
            no_deltas: false,
        }
    }
}

/// Sums over a task. Frames are counted once per gateway that sent them, or may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounters {
    /// Multicast `DataFragment` frames on air, uncoded.
    pub uncoded_frames: u64,
    /// Multicast `DataFragment` frames on air, coded.
    pub coded_frames: u64,
    /// Multicast `FragSessionStatusReq` frames on air.
    pub poll_frames: u64,
    /// Unicast frames of the task on air.
    pub unicast_frames: u64,
    /// Frames a gateway or the network refused.
    pub refused_frames: u64,
    /// Time on air of all of them, microseconds.
    pub airtime_us: u64,
    /// Time on air of the multicast part, microseconds.
    pub multicast_airtime_us: u64,
    /// Uplinks from the task's devices that could not be read.
    pub undecodable_uplinks: u64,
}

/// Device counts of a task by state, for lists.
pub type StateCounts = BTreeMap<super::DeviceState, u32>;
