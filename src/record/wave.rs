//! Waves: in which order the devices of a task are served, and what has to go well before more of them are.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::TaskId;
use crate::lorawan::identifiers::DevEui;
use crate::time::Timestamp;

/// A wave: the devices that are served together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// The task.
    pub task: TaskId,
    /// Number, from 0.
    pub number: u16,
    /// Its devices.
    pub devices: Vec<DevEui>,
    /// When it began; `None` while earlier waves run.
    pub started_at: Option<Timestamp>,
    /// When its last device had a verdict.
    pub ended_at: Option<Timestamp>,
}

/// In which waves a task serves its devices. The default is one wave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WavePolicy {
    /// Devices of the first wave, as far as they are in the task; none: the first wave is as the rest.
    pub canary: Vec<DevEui>,
    /// Share of all devices served once each wave is over, percent, rising; the rest is one more wave.
    pub cumulative_percent: Vec<u8>,
    /// Who lets the next wave begin.
    pub approval: Approval,
    /// From the end of a wave to the beginning of the next.
    pub pause_between: Duration,
}

/// Who lets the next wave begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Approval {
    /// Nobody has to.
    #[default]
    None,
    /// The operator, after the first wave.
    AfterFirst,
    /// The operator, after each wave.
    AfterEach,
}

/// How much may go wrong. The default is everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Share of the devices that have ended, percent: more may not have failed. `None`: no such limit.
    pub max_failed_percent: Option<u8>,
    /// Devices that must have ended before the share counts.
    pub min_ended: u32,
    /// So many may have failed. `None`: no such limit.
    pub max_failed_count: Option<u32>,
    /// Share of a wave's devices, percent: fewer may not have succeeded when it ends, or the next does not begin.
    pub min_succeeded_percent: Option<u8>,
    /// What happens when a limit is passed.
    pub action: ThresholdAction,
}

/// What happens when too much goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThresholdAction {
    /// The task is held; the operator lets it go on, or cancels it.
    #[default]
    Pause,
    /// The task fails: sending stops, devices are cleaned.
    Abort,
}
