//! What a device has to say: commands and application data waiting for an uplink.
//!
//! Commands of one port ride in one frame as far as it holds them; a command is never cut in two.

use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::clock_sync::{self, AppTimeReq};
use lorawan_fuota::lorawan::multicast_setup::{self, McSessionAns, TIME_TO_START_UNKNOWN};
use lorawan_fuota::time::Timestamp;

use super::clock::DeviceClock;

/// One thing to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Not before.
    pub(super) due: Timestamp,
    pub(super) f_port: u8,
    pub(super) content: Content,
    pub(super) tag: Tag,
}

/// What is said; parts that depend on the moment of sending are filled in then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Bytes(Vec<u8>),
    /// `AppTimeReq` with the time at sending.
    AppTimeReq {
        ans_required: bool,
        token_req: u8,
    },
    /// An accepting session answer with the time left at sending; `starts_at_us` is GPS time by the device's clock.
    SessionAns {
        answer: McSessionAns,
        starts_at_us: i64,
    },
}

/// What a newer entry replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Nothing: it is queued beside others.
    Plain,
    Application,
    AppTimeReq,
    FragStatus(u8),
    BlockReceived(u8),
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    entries: Vec<Entry>,
}

impl Outbox {
    pub(super) fn push(&mut self, entry: Entry) {
        if entry.tag != Tag::Plain {
            self.withdraw(entry.tag);
        }
        self.entries.push(entry);
    }

    pub(super) fn withdraw(&mut self, tag: Tag) {
        self.entries.retain(|entry| entry.tag != tag);
    }

    /// Writes `bytes` over the front of the status answer that waits; it keeps its length.
    pub(super) fn overwrite_status(&mut self, bytes: &[u8]) {
        let waiting = self
            .entries
            .iter_mut()
            .filter(|entry| matches!(entry.tag, Tag::FragStatus(_)));
        for entry in waiting {
            if let Content::Bytes(old) = &mut entry.content {
                for (old, new) in old.iter_mut().zip(bytes) {
                    *old = *new;
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// The tags of what waits.
    pub(super) fn pending(&self) -> Vec<Tag> {
        self.entries.iter().map(|entry| entry.tag).collect()
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.entries.iter().map(|entry| entry.due).min()
    }

    /// Size of the oldest due entry, 0 without one. An entry that no frame of `size_max` bytes holds is dropped, else
    /// it would block the queue.
    pub(super) fn needs(&mut self, now: Timestamp, size_max: usize) -> usize {
        self.entries
            .retain(|entry| entry.content.size() <= size_max);
        self.first_due(now).map_or(0, |entry| entry.content.size())
    }

    /// Takes what fits one frame of `size` bytes: the oldest due entry and others of its port.
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        size: usize,
        clock: &DeviceClock,
    ) -> Option<(u8, Vec<u8>)> {
        let first = self.first_due(now)?;
        if first.content.size() > size {
            return None;
        }
        let (f_port, alone) = (first.f_port, first.tag == Tag::Application);
        let mut payload = Vec::new();
        let mut kept = Vec::new();
        for entry in std::mem::take(&mut self.entries) {
            let rides = entry.due <= now
                && entry.f_port == f_port
                && (entry.tag == Tag::Application) == alone
                && payload.len() + entry.content.size() <= size;
            if rides {
                entry.content.render(now, clock, &mut payload);
            } else {
                kept.push(entry);
            }
        }
        self.entries = kept;
        Some((f_port, payload))
    }

    /// All entries due by then, in the order they are due.
    #[cfg(test)]
    pub(super) fn take_due(&mut self, by: Timestamp) -> Vec<Entry> {
        let (mut due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry| entry.due <= by);
        self.entries = later;
        due.sort_by_key(|entry| entry.due);
        due
    }

    fn first_due(&self, now: Timestamp) -> Option<&Entry> {
        self.entries
            .iter()
            .filter(|entry| entry.due <= now)
            .min_by_key(|entry| entry.due)
    }
}

impl Content {
    fn size(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::AppTimeReq { .. } => 6,
            Self::SessionAns { .. } => 5,
        }
    }

    pub(super) fn render(&self, now: Timestamp, clock: &DeviceClock, out: &mut Vec<u8>) {
        // Neither layout depends on the version.
        let version = PackageVersion::V2;
        match *self {
            Self::Bytes(ref bytes) => out.extend(bytes),
            Self::AppTimeReq {
                ans_required,
                token_req,
            } => clock_sync::UplinkCommand::AppTimeReq(AppTimeReq {
                device_time: clock.gps_seconds(now),
                ans_required,
                token_req,
            })
            .encode(version, out),
            Self::SessionAns {
                mut answer,
                starts_at_us,
            } => {
                answer.time_to_start = Some(time_to_start(now, clock, starts_at_us));
                multicast_setup::UplinkCommand::McClassCSessionAns(answer).encode(version, out);
            }
        }
    }
}

/// Seconds to a start by the device's clock, as `TimeToStart` has it.
pub(super) fn time_to_start(now: Timestamp, clock: &DeviceClock, starts_at_us: i64) -> u32 {
    let ahead = starts_at_us.saturating_sub(clock.gps_us(now)).max(0) / 1_000_000;
    let ahead = u32::try_from(ahead).unwrap_or(TIME_TO_START_UNKNOWN);
    let known = clock.is_set() && ahead < TIME_TO_START_UNKNOWN;
    if known { ahead } else { TIME_TO_START_UNKNOWN }
}
