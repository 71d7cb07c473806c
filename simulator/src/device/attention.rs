//! Where a device may be listening outside of its class A windows: a hint for who looks for listeners of a frame.

use std::time::Duration;

use lorawan_fuota::lorawan::fragmentation::{self, DataFragment};
use lorawan_fuota::lorawan::frame::Frame;
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::time::Timestamp;

use super::{Class, EndDevice, Payloads, SharedFrame};

/// How much earlier than it says a device may begin: clocks are read in whole steps.
const EARLY: Duration = Duration::from_secs(2);

/// At most this: a device may be listening to less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attention {
    /// Frequencies in Hz, each with the moment it begins at the earliest.
    pub tuned: [Option<(u32, Timestamp)>; 2],
    /// Any frequency at any time.
    pub anywhere: bool,
    /// The groups of its multicast sessions.
    pub groups: [Option<DevAddr>; 2],
}

impl Attention {
    /// Whether this frequency is among those it names.
    pub fn is_tuned_to(&self, frequency_hz: u32) -> bool {
        let mut tuned = self.tuned.iter().flatten();
        tuned.any(|(hz, _)| *hz == frequency_hz)
    }

    fn add_group(&mut self, mc_addr: DevAddr) {
        let free = |place: &&mut Option<DevAddr>| place.is_none_or(|known| known == mc_addr);
        match self.groups.iter_mut().find(free) {
            Some(place) => *place = Some(mc_addr),
            None => self.anywhere = true,
        }
    }

    fn add(&mut self, frequency_hz: u32, from: Timestamp) {
        for place in &mut self.tuned {
            match place {
                Some((hz, earliest)) if *hz == frequency_hz => {
                    *earliest = from.min(*earliest);
                    return;
                }
                Some(_) => {}
                None => {
                    *place = Some((frequency_hz, from));
                    return;
                }
            }
        }
        self.anywhere = true;
    }
}

impl EndDevice {
    /// Where it may listen outside of class A windows until its state changes.
    pub fn attention(&self) -> Attention {
        let mut attention = Attention::default();
        if self.config.class == Class::C && self.link.session.is_some() {
            let always = Timestamp::from_micros(i64::MIN);
            attention.add(self.link.parameters.rx2_hz, always);
        }
        let groups = self.multicast.groups().iter().flatten();
        for (mc_addr, session) in groups.filter_map(|g| Some((g.mc_addr, g.session?))) {
            if !self.clock.is_set() {
                continue;
            }
            // Beacons and ping slots are everywhere.
            if self.config.class_b || session.ping_slots.is_some() {
                attention.anywhere = true;
            }
            let from = self.clock.when(session.starts_at_us) - EARLY;
            attention.add(session.tuned.frequency_hz, from);
            attention.add_group(mc_addr);
        }
        attention
    }

    /// It may be told of fragments later, as long as that is before [`EndDevice::frames_to_go`] frames: it keeps no
    /// payloads.
    pub fn can_wait(&self) -> bool {
        self.config.payloads != Payloads::Kept && !self.config.class_b
    }

    /// Frames of its groups that have to come before a fragment can change what it does; `None`: as many as there are.
    pub fn frames_to_go(&self) -> Option<u16> {
        let at_once = self.config.stack.sessions.memory_error_completes;
        let missing = self.fragmentation.least_missing()?;
        Some(if at_once { 1 } else { missing.max(1) })
    }

    /// Whether a frame of one of its groups is a fragment; `None` if it is of none of them.
    pub fn is_fragment(&self, shared: &mut SharedFrame) -> Option<bool> {
        let SharedFrame { frame, opened, .. } = shared;
        let Ok(Frame::Data(frame)) = frame else {
            return None;
        };
        let payload = self.multicast.peek(frame, opened)?;
        let is_package = frame.f_port == Some(fragmentation::DEFAULT_F_PORT);
        Some(is_package && DataFragment::decode(&payload).is_ok())
    }

    /// When the class A windows of its last uplink open.
    pub fn windows_open(&self) -> impl Iterator<Item = Timestamp> {
        self.link.radio.windows_open()
    }
}
