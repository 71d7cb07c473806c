//! One end-device within one task: where it is, why, and on what evidence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ImageCourse, MulticastGroupId, SuccessCriterion, TaskId};
use crate::lorawan::identifiers::DevEui;
use crate::time::Timestamp;

/// A device of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskDevice {
    /// The task.
    pub task: TaskId,
    /// The device.
    pub dev_eui: DevEui,
    /// The group that brought it into the task; `None` if it was added by itself.
    #[serde(default)]
    pub group: Option<MulticastGroupId>,
    /// Where it is.
    pub state: DeviceState,
    /// Why it ended there, or what holds it up.
    pub reason: Option<DeviceReason>,
    /// What was seen that led to state and reason, for people.
    pub evidence: String,
    /// The distribution session it belongs to.
    pub session: Option<u16>,
    /// How far set-up got.
    pub setup: SetupStage,
    /// Sends of the command that is outstanding now.
    pub tries: u8,
    /// Sends of all commands.
    pub attempts: u32,
    /// Commands of them that were answered.
    pub commands_answered: u32,
    /// Last status answer.
    pub fragments: Option<FragmentReport>,
    /// `SessionCnt` of its fragmentation session.
    pub session_cnt: u16,
    /// Version it ran when the task began.
    pub version_before: Option<u32>,
    /// Fragmentation session left on the device.
    pub frag_cleanup: CleanupState,
    /// Multicast group left on the device.
    pub group_cleanup: CleanupState,
    /// When the device asked to reboot will do so.
    pub reboot_at: Option<Timestamp>,
    /// Reboot requests given up without an answer since the device last showed that it rebooted.
    #[serde(default)]
    pub reboots_unanswered: u8,
    /// When each state was entered first.
    pub entered: BTreeMap<DeviceState, Timestamp>,
    /// The task's sequence number at the last change.
    pub sequence: u64,
    /// When it last changed.
    #[serde(default)]
    pub changed_at: Timestamp,
    /// How far it is with fragments that are sent to it alone; `None` while it hears those of its group.
    #[serde(default)]
    pub unicast: Option<UnicastFragments>,
    /// Times it was tried again after it had failed.
    #[serde(default)]
    pub retries: u8,
    /// It has failed and is tried again, not before this time; until then it belongs to no session.
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
    /// When it was tried again last.
    #[serde(default)]
    pub retried_at: Option<Timestamp>,
    /// It had no use for the patch it was sent, and is to get the whole image.
    #[serde(default)]
    pub whole: bool,
    /// How far it is with several images; `None` where the task has one.
    #[serde(default)]
    pub images: Option<Box<ImageCourse>>,
}

impl TaskDevice {
    /// A device as it is taken into a task.
    pub fn new(task: TaskId, dev_eui: DevEui, now: Timestamp) -> Self {
        Self {
            task,
            dev_eui,
            group: None,
            state: DeviceState::Pending,
            reason: None,
            evidence: String::new(),
            session: None,
            setup: SetupStage::default(),
            tries: 0,
            attempts: 0,
            commands_answered: 0,
            fragments: None,
            session_cnt: 0,
            version_before: None,
            frag_cleanup: CleanupState::NotNeeded,
            group_cleanup: CleanupState::NotNeeded,
            reboot_at: None,
            reboots_unanswered: 0,
            entered: BTreeMap::new(),
            sequence: 0,
            changed_at: now,
            unicast: None,
            retries: 0,
            retry_at: None,
            retried_at: None,
            whole: false,
            images: None,
        }
    }

    /// It needs nothing more to meet the criterion, or ended without meeting it.
    pub fn has_verdict(&self, success: SuccessCriterion) -> bool {
        let reached = match success {
            SuccessCriterion::ReportedReceived => DeviceState::ReportedReceived,
            SuccessCriterion::Verified => DeviceState::Verified,
            SuccessCriterion::Running => DeviceState::Running,
        };
        self.state.is_failure() || self.state >= reached
    }

    /// Something of the task is to be deleted from it.
    pub fn is_uncleaned(&self) -> bool {
        let beside = self.images.as_ref().is_some_and(|c| c.is_uncleaned());
        beside
            || self.frag_cleanup == CleanupState::Pending
            || self.group_cleanup == CleanupState::Pending
    }

    /// The task, while it is active, still has something to do with it: no other task may have it.
    pub fn is_held(&self, success: SuccessCriterion) -> bool {
        !self.has_verdict(success) || self.is_uncleaned()
    }
}

/// State of a device within a task. The first eight are passed in this order; the others end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeviceState {
    /// Nothing was sent yet.
    Pending,
    /// Being set up.
    Preparing,
    /// Group, window and fragmentation session are confirmed.
    Ready,
    /// Fragments are being sent to it.
    Receiving,
    /// It says it holds the whole image.
    ReportedReceived,
    /// It checked the image.
    Verified,
    /// It was asked to reboot and agreed.
    Rebooting,
    /// It reported the target version after the reboot.
    Running,
    /// Not served: nothing to do, or not possible.
    Skipped,
    /// Ended without the image.
    Failed,
    /// Not heard when it should have been.
    Silent,
    /// Runs the old version after the reboot.
    RolledBack,
    /// Taken out by the operator.
    Removed,
    /// The task was cancelled first.
    Cancelled,
}

impl DeviceState {
    /// The device ended without success, whatever the criterion.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::Skipped
                | Self::Failed
                | Self::Silent
                | Self::RolledBack
                | Self::Removed
                | Self::Cancelled
        )
    }
}

/// Typed reason of a device's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeviceReason {
    /// TS004: wrong descriptor.
    WrongDescriptor,
    /// TS004: FragIndex unsupported.
    FragIndexUnsupported,
    /// TS004: not enough memory for the session.
    NotEnoughMemory,
    /// TS004: FragAlgo (encoding) unsupported.
    FragAlgoUnsupported,
    /// TS004 v2: SessionCnt replay.
    SessionCntReplay,
    /// TS004: not enough matrix memory, too many fragments lost.
    MemoryError,
    /// TS004 v2: the data-block MIC is wrong.
    MicError,
    /// TS004: the fragmentation session does not exist any more.
    SessionLost,
    /// TS005: the McGroupID is not supported.
    McGroupIdError,
    /// TS005: data rate not supported.
    DrError,
    /// TS005: frequency not supported.
    FreqError,
    /// TS005: the group is not defined.
    McGroupUndefined,
    /// TS005 v2: the session start is in the past.
    StartMissed,
    /// No answer to a command.
    NoAnswer,
    /// The device has not got a package the task needs.
    PackageNotSupported,
    /// The device has another package version than its profile says.
    VersionMismatch,
    /// The device's clock is wrong and could not be set.
    ClockNotSynced,
    /// No gateway reaches the device.
    NoGateway,
    /// The device rejected the image (corrupt, bad signature, wrong hardware).
    ImageRejected,
    /// The device runs another version than the target after the reboot.
    WrongVersion,
    /// The redundancy budget is spent.
    BudgetSpent,
    /// The window closed, or the deadline passed, first.
    WindowClosed,
    /// The device is in another active task.
    Conflict,
    /// The device runs the target version already.
    AlreadyCurrent,
    /// The decoder of the device cannot hold the image.
    DecoderLimit,
    /// The image is for another hardware model.
    WrongModel,
    /// The image is for a component the device has not got.
    NoSuchComponent,
    /// The image is not released for the device.
    NotReleased,
    /// The image is for devices that run another version.
    SourceVersion,
    /// The device runs a higher version.
    Downgrade,
    /// The image has a lower security counter than the device has seen.
    SecurityCounter,
    /// The image is larger than its slot.
    SlotTooSmall,
}

impl DeviceReason {
    /// What is behind it may be otherwise the next time: the air, the time of day, a device that was away.
    pub fn may_pass(self) -> bool {
        matches!(
            self,
            Self::NoAnswer
                | Self::SessionLost
                | Self::BudgetSpent
                | Self::WindowClosed
                | Self::ClockNotSynced
                | Self::MemoryError
                | Self::MicError
                | Self::McGroupUndefined
                | Self::StartMissed
                | Self::NoGateway
        )
    }
}

/// How far the set-up of a device got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupStage {
    /// `McGroupSetupAns` was good.
    pub group: bool,
    /// `McClassCSessionAns` was good for this window number.
    pub window: Option<super::WindowNumber>,
    /// `FragSessionSetupAns` was good.
    pub fragmentation: bool,
    /// The device's clock was off; a resync was asked for and not yet seen.
    pub resync: bool,
    /// Start of the device's own window, if it was set up when the session was sending already.
    #[serde(default)]
    pub late_start: Option<Timestamp>,
    /// Answers that come before are to what was asked for another session, and nothing is asked until then.
    #[serde(default)]
    pub settles_at: Option<Timestamp>,
    /// Fragments the session had sent before the device took part.
    #[serde(default)]
    pub missed_before: u16,
    /// `FragSessionSetupReq` was sent with a `SessionCnt` of its own, which its repeats keep.
    #[serde(default)]
    pub counted: bool,
}

/// Fragments sent to one device alone, and before that to its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnicastFragments {
    /// Uncoded ones: the last `N` of the first pass.
    pub uncoded_sent: u16,
    /// Coded ones.
    pub coded_sent: u16,
    /// Coded ones to have been sent when the device is asked for its status.
    pub coded_target: u16,
}

impl UnicastFragments {
    /// All of them.
    pub fn sent(self) -> u16 {
        self.uncoded_sent.saturating_add(self.coded_sent)
    }

    /// The next one: `N` of an uncoded one, or anything above `nb_frag` for a coded one; `None` at the end of a round.
    pub fn next(self, nb_frag: u16) -> Option<u16> {
        if self.uncoded_sent < nb_frag {
            return Some(self.uncoded_sent + 1);
        }
        let coded = self.coded_sent < self.coded_target;
        coded.then_some(nb_frag.saturating_add(1))
    }

    /// The fragment `n` was released.
    pub fn advance(&mut self, n: u16, nb_frag: u16) {
        if n <= nb_frag {
            self.uncoded_sent = n;
        } else {
            self.coded_sent = self.coded_sent.saturating_add(1);
        }
    }

    /// The last one did not leave.
    pub fn take_back(&mut self, nb_frag: u16) {
        if self.uncoded_sent < nb_frag || self.coded_sent == 0 {
            self.uncoded_sent = self.uncoded_sent.saturating_sub(1);
        } else {
            self.coded_sent -= 1;
        }
    }
}

/// A status answer and what had been sent by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FragmentReport {
    /// `NbFragReceived` as answered.
    pub received: u16,
    /// `MissingFrag` as answered; 255 means 255 or more.
    pub missing: u8,
    /// Estimated independent fragments the decoder still needs.
    pub deficit: u16,
    /// Fragments (uncoded and coded) on air when the question was.
    pub fragments_sent: u16,
    /// When the answer came.
    pub at: Timestamp,
}

/// What is known of something to be deleted from a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CleanupState {
    /// Nothing was installed.
    #[default]
    NotNeeded,
    /// To be deleted.
    Pending,
    /// The device confirmed that it is gone.
    Confirmed,
    /// Not confirmed in time; kept with the device and cleared at its next contact.
    Left,
    /// Left on the device on purpose, for a later task.
    Kept,
}
