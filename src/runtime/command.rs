//! How the edges reach the one writer: a [`Command`] goes in, is applied and committed, and is answered; [`Notice`]s
//! say what changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::network::{NetworkCounters, TransportCounters};
use crate::record::{
    Change, DeviceKeys, DeviceProfile, DeviceSettings, GatewaySettings, JoinState, MulticastGroup,
    ProfileId, Session, StoredImage, Task, TaskId, TenantId, Uplink,
};
use crate::task::PlanError;

/// A change of what the machines hold. Everything else (images, groups, drafts) goes straight to the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Creates or replaces a device profile.
    PutDeviceProfile(DeviceProfile),
    /// Deletes a profile no device uses.
    DeleteDeviceProfile(TenantId, ProfileId),
    /// Creates or changes devices. All or none.
    PutDevices(Vec<NewDevice>),
    /// Deletes a device; refused while an active task holds it.
    DeleteDevice(DevEui),
    /// Creates or replaces a gateway.
    PutGateway(GatewaySettings),
    /// Deletes a gateway.
    DeleteGateway(GatewayEui),
    /// Starts a draft: plans it once more, fixes its devices and hands it to a campaign.
    StartTask {
        /// The draft with its `seed` set.
        task: Box<Task>,
        /// Its images, in order.
        images: Vec<StoredImage>,
        /// Patches to them that devices may be sent in their place.
        deltas: Vec<StoredImage>,
        /// Its devices; members of its groups are added.
        devices: Vec<DevEui>,
        /// The groups it names.
        groups: Vec<MulticastGroup>,
    },
    /// Starts a draft as [`Command::StartTask`] does, or has it wait while other tasks hold some of its devices.
    QueueTask {
        /// The draft with its `seed` set.
        task: Box<Task>,
        /// Its images, in order.
        images: Vec<StoredImage>,
        /// Patches to them that devices may be sent in their place.
        deltas: Vec<StoredImage>,
        /// Its devices; members of its groups are added.
        devices: Vec<DevEui>,
        /// The groups it names.
        groups: Vec<MulticastGroup>,
    },
    /// Changes what an active task is called; nothing of what it does.
    DescribeTask {
        /// Which task.
        task: TaskId,
        /// Its new name for people.
        display_name: String,
        /// Its new tags, whole.
        tags: BTreeMap<String, String>,
    },
    /// Holds an active task.
    PauseTask(TaskId),
    /// Lets a held task go on.
    ResumeTask(TaskId),
    /// Takes devices out of an active task; those that are not in it are passed over.
    RemoveTaskDevices(TaskId, Vec<DevEui>),
    /// Cancels an active task.
    CancelTask(TaskId),
}

/// A device to create or change. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDevice {
    /// Settings, always whole.
    pub settings: DeviceSettings,
    /// Secrets; needed for a new device.
    pub keys: Option<DeviceKeys>,
    /// Join state (OTAA).
    pub join: Option<JoinState>,
    /// An imported session (ABP).
    pub session: Option<Session>,
    /// Versions by component, as the operator knows them.
    pub versions: Option<BTreeMap<String, u32>>,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// What it names does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// Something else stands in the way; the text says what.
    #[error("{0}")]
    Conflict(String),
    /// The task cannot be carried out.
    #[error("plan: {0}")]
    Plan(PlanError),
    /// The store did not take it, or the server is stopping; it may be asked again with the same `request_id`.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// Something changed that a client may be waiting for. Notices may be missed; the store has the truth.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A task or one of its devices changed.
    Task {
        /// Which task.
        task: TaskId,
        /// Its sequence number now.
        sequence: u64,
    },
    /// An application uplink no package of ours answers.
    Uplink(Arc<Uplink>),
}

/// A command with what has to be committed along with it, and the way back.
#[derive(Debug)]
pub struct CommandRequest {
    /// What to do.
    pub command: Command,
    /// Written in the same commit, if the command is carried out.
    pub with: Vec<Change>,
    /// The answer, after the commit.
    pub reply: oneshot::Sender<Result<(), CommandError>>,
}

/// What the writer counted since it began, over all restorations of its machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// What the network counted.
    pub network: NetworkCounters,
    /// What the transport counted.
    pub transport: TransportCounters,
    /// Accepted frames on the port of a package that could not be read to the end.
    pub commands_malformed: u64,
}

/// The edges' end of the line to the one writer.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<CommandRequest>,
    notices: broadcast::Sender<Notice>,
    counters: watch::Receiver<Counters>,
}

/// The writer's ends of the line.
#[derive(Debug)]
pub struct Edges {
    /// Commands come in here; when all senders are gone the loop ends.
    pub commands: mpsc::Receiver<CommandRequest>,
    /// Notices go out here.
    pub notices: broadcast::Sender<Notice>,
    /// Counters go out here.
    pub counters: watch::Sender<Counters>,
}

/// Commands that may wait before callers have to.
const COMMANDS: usize = 256;
/// Notices a slow reader may fall behind before it has to look at the store.
const NOTICES: usize = 1024;

impl Handle {
    /// A handle, and the writer's ends of it.
    pub fn new() -> (Self, Edges) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (notices, _) = broadcast::channel(NOTICES);
        let (publish, counters) = watch::channel(Counters::default());
        let handle = Self {
            commands,
            notices: notices.clone(),
            counters,
        };
        let edges = Edges {
            commands: receiver,
            notices,
            counters: publish,
        };
        (handle, edges)
    }

    /// Has a command carried out; `with` is committed together with it, or not at all.
    pub async fn command(&self, command: Command, with: Vec<Change>) -> Result<(), CommandError> {
        let stopping = || CommandError::Unavailable("the server is stopping".to_owned());
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(CommandRequest {
                command,
                with,
                reply,
            })
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// The bare line, for callers that do not wait in a future.
    pub fn sender(&self) -> mpsc::Sender<CommandRequest> {
        self.commands.clone()
    }

    /// What the writer has counted.
    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }

    /// Notices from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }
}
