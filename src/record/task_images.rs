//! Several images in one task: how they come to run, and how far a device is with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CleanupState;
use crate::time::Timestamp;

/// Images a task may have: as many as TS004 has `FragIndex`es.
pub const MAX_IMAGES: usize = 4;

/// How several images of a task come to run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum InstallMode {
    /// A device holds all of them before it is asked to reboot, once: all or none.
    #[default]
    Together,
    /// Each runs before the next is sent: an update in steps.
    InTurn,
}

/// How far a device is with the images of a task that has several. The image it is at is that of its session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCourse {
    /// Images to come, in order.
    pub ahead: Vec<ImageAhead>,
    /// Images it has had, in order: they wait for the reboot, or run.
    pub done: Vec<ImageDone>,
    /// Fragmentation sessions on the device beside the one of its session, by `FragIndex`.
    pub frag_sessions: BTreeMap<u8, CleanupState>,
    /// Since when it waits for its present image, or waited.
    #[serde(default)]
    pub waits_since: Option<Timestamp>,
    /// It has TS006: it tells what it thinks of an image.
    pub managed: bool,
    /// Good images that wait on the device and must not be installed any more, by their versions.
    pub discard: BTreeMap<u32, CleanupState>,
}

/// An image a device has yet to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageAhead {
    /// Its place among the images of the task, from 0.
    pub image: u8,
    /// The distribution session that was planned for it.
    pub session: u16,
    /// The version its component runs, as far as it is known.
    pub version_before: Option<u32>,
}

/// An image a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDone {
    /// Its place among the images of the task, from 0.
    pub image: u8,
    /// The distribution session it came by.
    pub session: u16,
    /// The version its component ran before.
    pub version_before: Option<u32>,
    /// When the device was through with it.
    pub at: Timestamp,
}

impl ImageCourse {
    /// Something is to be deleted from the device.
    pub fn is_uncleaned(&self) -> bool {
        let mut rests = self.frag_sessions.values().chain(self.discard.values());
        rests.any(|state| *state == CleanupState::Pending)
    }

    /// The device has had this image.
    pub fn has_done(&self, image: u8) -> bool {
        self.done.iter().any(|done| done.image == image)
    }
}
