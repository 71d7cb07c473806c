//! Which bytes a session distributes, and the whole image for devices that had no use for a patch.
//!
//! A device whose flash does not hold what its version promised refuses the patch. That is no failure of the device:
//! it is set aside as one that is tried again, without counting as such, and its next session carries the image.

use crate::lorawan::identifiers::DevEui;
use crate::record::{DeviceReason, DeviceState, DistributionSession, TaskState};
use crate::task::sizing;
use crate::time::Timestamp;

use super::Campaign;

impl Campaign {
    /// The bytes a session distributes. A patch that is not among the records, which refuse to lose it, would be an
    /// empty block, which no coder takes.
    pub(super) fn data_of(&self, session: &DistributionSession) -> &[u8] {
        match session.delta {
            None => self
                .images
                .get(usize::from(session.image))
                .map_or(&[], |(_, data)| data),
            Some(sha256) => self.deltas.get(&sha256).map_or(&[], |(_, data)| data),
        }
    }

    /// A device that fails now was sent a patch, and the whole image may still be of use to it.
    pub(super) fn gets_the_whole(
        &self,
        dev_eui: DevEui,
        state: DeviceState,
        reason: Option<DeviceReason>,
    ) -> bool {
        let refused = matches!(
            reason,
            Some(DeviceReason::ImageRejected | DeviceReason::MicError)
        );
        let patched = self
            .devices
            .get(&dev_eui)
            .filter(|device| !device.whole)
            .and_then(|device| self.session_of(device))
            .is_some_and(|session| session.record.delta.is_some());
        state == DeviceState::Failed
            && refused
            && patched
            && self.task.state != TaskState::Cancelling
    }

    /// Puts the device aside until a session with the whole image is made.
    pub(super) fn await_whole(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        reason: Option<DeviceReason>,
        evidence: &str,
    ) {
        if let Some(device) = self.devices.get_mut(&dev_eui) {
            device.whole = true;
        }
        let evidence = format!("{evidence}; had no use for the patch, gets the whole image");
        self.put_aside(dev_eui, now, reason, evidence);
    }

    /// Makes the record of a session one of the whole image.
    pub(super) fn carry_the_whole(&self, record: &mut DistributionSession) {
        record.delta = None;
        if let Ok(layout) = sizing::layout(self.data_of(record).len(), record.block.frag_size) {
            record.block.nb_frag = layout.nb_frag;
            record.block.frag_size = layout.frag_size;
            record.block.padding = layout.padding;
        }
    }
}
