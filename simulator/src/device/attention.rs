//! Where a device may be listening outside of its class A windows: a hint for who looks for listeners of a frame.

use std::time::Duration;

use lorawan_fuota::time::Timestamp;

use super::{Class, EndDevice};

/// How much earlier than it says a device may begin: clocks are read in whole steps.
const EARLY: Duration = Duration::from_secs(2);

/// At most this: a device may be listening to less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attention {
    /// Frequencies in Hz, each with the moment it begins at the earliest.
    pub tuned: [Option<(u32, Timestamp)>; 2],
    /// Any frequency at any time.
    pub anywhere: bool,
}

impl Attention {
    /// Whether this frequency is among those it names.
    pub fn is_tuned_to(&self, frequency_hz: u32) -> bool {
        let mut tuned = self.tuned.iter().flatten();
        tuned.any(|(hz, _)| *hz == frequency_hz)
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
        *self = Self {
            anywhere: true,
            ..Self::default()
        };
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
        for session in groups.filter_map(|group| group.session) {
            if !self.clock.is_set() {
                continue;
            }
            // Beacons and ping slots are everywhere.
            if self.config.class_b || session.ping_slots.is_some() {
                attention.anywhere = true;
            }
            let from = self.clock.when(session.starts_at_us) - EARLY;
            attention.add(session.tuned.frequency_hz, from);
        }
        attention
    }

    /// When the class A windows of its last uplink open.
    pub fn windows_open(&self) -> impl Iterator<Item = Timestamp> {
        self.link.radio.windows_open()
    }
}
