//! Who may hear a frame that begins: the devices worth asking, found by time and frequency instead of by asking all.
//!
//! PURE. What is kept here is never less than the truth and may be more: whether a device really hears a frame, it says
//! itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lorawan_fuota::time::Timestamp;

use crate::device::{Attention, WINDOW_TOLERANCE};

/// How long a window of class A is kept after it opened: frames that begin now began no earlier.
const WINDOW_KEPT: Duration = Duration::from_secs(10);

/// Where the devices of a lab may be listening. Devices are numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ears {
    /// Windows of class A by when they open.
    windows: BTreeSet<(Timestamp, u32)>,
    /// Who may listen on a frequency outside of windows.
    continuous: BTreeMap<u32, Tuned>,
    /// Who may listen anywhere.
    anywhere: BTreeSet<u32>,
    /// What each device is filed under.
    filed: Vec<Attention>,
}

#[derive(Clone, Debug)]
struct Tuned {
    /// None of them listens before.
    from: Timestamp,
    devices: BTreeSet<u32>,
}

impl Ears {
    /// A device sent, and will listen in windows that open then.
    pub(crate) fn open_windows(&mut self, device: u32, opens: impl Iterator<Item = Timestamp>) {
        self.windows.extend(opens.map(|at| (at, device)));
    }

    /// Where a device may listen outside of windows from now on.
    pub(crate) fn attend(&mut self, device: u32, attention: Attention) {
        let at = index(device);
        if self.filed.len() <= at {
            self.filed.resize(at + 1, Attention::default());
        }
        let before = std::mem::replace(&mut self.filed[at], attention);
        if before == attention {
            return;
        }
        if before.anywhere {
            self.anywhere.remove(&device);
        }
        for (frequency_hz, _) in before.tuned.into_iter().flatten() {
            if let Some(tuned) = self.continuous.get_mut(&frequency_hz) {
                tuned.devices.remove(&device);
                if tuned.devices.is_empty() {
                    self.continuous.remove(&frequency_hz);
                }
            }
        }
        if attention.anywhere {
            self.anywhere.insert(device);
        }
        for (frequency_hz, from) in attention.tuned.into_iter().flatten() {
            let tuned = self.continuous.entry(frequency_hz).or_insert(Tuned {
                from,
                devices: BTreeSet::new(),
            });
            tuned.from = tuned.from.min(from);
            tuned.devices.insert(device);
        }
    }

    /// Who may hear a frame, each once, rising. `reached` are the numbers of the devices in reach, if that is known, and
    /// which device has which number.
    pub(crate) fn may_hear(
        &mut self,
        frequency_hz: u32,
        start: Timestamp,
        end: Timestamp,
        reached: Option<(&[u32], &[u32])>,
    ) -> Vec<u32> {
        while let Some(&(opens, device)) = self.windows.first()
            && opens + WINDOW_KEPT < start
        {
            self.windows.remove(&(opens, device));
        }
        let opens = (start - WINDOW_TOLERANCE, 0)..=(start + WINDOW_TOLERANCE, u32::MAX);
        let mut found: Vec<u32> = self.windows.range(opens).map(|(_, device)| *device).collect();
        found.extend(&self.anywhere);
        let tuned = self.continuous.get(&frequency_hz);
        if let Some(tuned) = tuned.filter(|tuned| tuned.from <= end) {
            match reached {
                Some((reached, devices)) => {
                    let reached = reached.iter().filter_map(|n| devices.get(index(*n)));
                    found.extend(reached.filter(|device| {
                        let filed = self.filed.get(index(**device));
                        filed.is_some_and(|filed| filed.is_tuned_to(frequency_hz))
                    }));
                }
                None => found.extend(&tuned.devices),
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
