//! What is written down while a scenario runs, for pictures of it afterwards.
//!
//! Frames on air come from the checkers, verdicts from the records; this adds what neither keeps: how much each device
//! held, and when. Samples are taken at even distances that double as often as it takes to keep their number bounded,
//! so that a run of minutes and one of days make pictures of the same detail.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::record::{SessionWindow, TaskId, WindowNumber};
use lorawan_fuota::time::Timestamp;

use crate::device::EndDevice;
use crate::world::World;

/// Most samples kept.
const MOST_SAMPLES: usize = 480;
/// The first distance between two.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// Devices whose holdings are sampled.
const MOST_DEVICES: usize = 2_000;

/// What was seen of a run.
#[derive(Clone, Debug)]
pub struct Recording {
    task: TaskId,
    interval: Duration,
    next: Timestamp,
    /// The samples, in order of time.
    pub samples: Vec<Sample>,
    /// The windows each session was seen with, by its number and theirs: the records keep the last one alone.
    pub windows: BTreeMap<(u16, WindowNumber), SessionWindow>,
}

/// One moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// Share of the image each device held, percent, by EUI.
    pub held: BTreeMap<DevEui, u8>,
    /// Gateways that were cut off.
    pub down: Vec<GatewayEui>,
}

impl Recording {
    /// Begins to record a task.
    pub fn new(task: TaskId, from: Timestamp) -> Self {
        Self {
            task,
            interval: FIRST_INTERVAL,
            next: from,
            samples: Vec::new(),
            windows: BTreeMap::new(),
        }
    }

    /// Looks at the world, if it is time.
    pub fn look(&mut self, world: &World) {
        let now = world.now();
        if now < self.next {
            return;
        }
        let sessions = world.sessions(&self.task);
        for session in &sessions {
            let window = session.window;
            self.windows
                .insert((session.id.number, window.number), window);
        }
        let mut indices: Vec<u8> = sessions.iter().map(|s| s.block.frag_index).collect();
        indices.sort_unstable();
        indices.dedup();
        let sample = world.lab(|lab| Sample {
            at: now,
            held: lab
                .devices()
                .take(MOST_DEVICES)
                .map(|device| (device.dev_eui(), held(device, &indices)))
                .collect(),
            down: lab
                .gateways()
                .iter()
                .filter(|gateway| gateway.is_down())
                .map(crate::gateway::Gateway::eui)
                .collect(),
        });
        self.samples.push(sample);
        if self.samples.len() >= MOST_SAMPLES {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.interval *= 2;
        }
        self.next = now + self.interval;
    }

    /// The last sample at a moment or before.
    pub fn at(&self, moment: Timestamp) -> Option<&Sample> {
        let behind = self.samples.partition_point(|sample| sample.at <= moment);
        self.samples.get(behind.checked_sub(1)?)
    }
}

/// Share of the image a device holds, percent.
fn held(device: &EndDevice, indices: &[u8]) -> u8 {
    if device.block_completed_at().is_some() {
        return 100;
    }
    let shares = indices.iter().filter_map(|index| {
        let progress = device.decoder_progress(*index)?;
        let nb_frag = u32::from(progress.nb_frag.max(1));
        let got = nb_frag.saturating_sub(progress.missing.into());
        u8::try_from(got * 100 / nb_frag).ok()
    });
    shares.max().unwrap_or(0)
}
