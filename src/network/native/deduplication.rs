//! Copies of one transmission, heard by several gateways, become one frame.
//!
//! A frame waits a window from its first copy on. A copy after that is late and dropped; but the same bytes sent
//! *again* by the device (NbTrans, a confirmed uplink without answer) are a frame of their own, because their receive
//! windows are. The two are told apart by when they were received, not by when their messages arrived.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ReceivedFrame;
use crate::time::Timestamp;

/// Receptions this close belong to one transmission: a device sends the same frame again only after its receive
/// windows.
const SAME_TRANSMISSION: Duration = Duration::from_secs(1);
/// How long a frame is remembered for its late copies.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Most frames that wait, or are remembered, at a time.
const LIMIT: usize = 16_384;

/// One gateway's copy, with its place in server time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Copy {
    pub(super) frame: ReceivedFrame,
    /// End of reception, server time.
    pub(super) received_at: Timestamp,
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is the first of its frame, and waits.
    Waiting,
    /// It joined one that waits.
    Joined,
    /// Its frame was processed already.
    Late,
    /// Too many frames wait.
    Overflow,
}

/// Frames that wait for their copies, and those just processed.
#[derive(Clone, Debug)]
pub(super) struct Deduplication {
    window: Duration,
    waiting: BTreeMap<Vec<u8>, Vec<Copy>>,
    due: BTreeMap<(Timestamp, u64), Vec<u8>>,
    sequence: u64,
    processed: BTreeMap<Vec<u8>, Timestamp>,
    last_prune: Timestamp,
}

impl Deduplication {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            waiting: BTreeMap::new(),
            due: BTreeMap::new(),
            sequence: 0,
            processed: BTreeMap::new(),
            last_prune: Timestamp::default(),
        }
    }

    /// Takes a copy in.
    pub(super) fn take(&mut self, copy: Copy) -> Taken {
        let bytes = &copy.frame.phy_payload;
        if let Some(copies) = self.waiting.get_mut(bytes) {
            join(copies, copy);
            return Taken::Joined;
        }
        if let Some(at) = self.processed.get(bytes)
            && copy.received_at.micros_since(*at).unsigned_abs() < micros(SAME_TRANSMISSION)
        {
            return Taken::Late;
        }
        if self.waiting.len() >= LIMIT {
            return Taken::Overflow;
        }
        let due = copy.frame.at + self.window;
        let bytes = bytes.clone();
        self.due.insert((due, self.sequence), bytes.clone());
        self.sequence += 1;
        self.waiting.insert(bytes, vec![copy]);
        Taken::Waiting
    }

    /// The next frame whose window is over by `now`, with its copies, best signal first.
    pub(super) fn next_due(&mut self, now: Timestamp) -> Option<Vec<Copy>> {
        let entry = self
            .due
            .first_entry()
            .filter(|entry| entry.key().0 <= now)?;
        let bytes = entry.remove();
        let mut copies = self.waiting.remove(&bytes)?;
        copies.sort_by(|a, b| {
            let signal = |copy: &Copy| (copy.frame.snr_db, copy.frame.rssi_dbm);
            let ((snr_a, rssi_a), (snr_b, rssi_b)) = (signal(a), signal(b));
            snr_b
                .total_cmp(&snr_a)
                .then(rssi_b.cmp(&rssi_a))
                .then(a.frame.gateway.cmp(&b.frame.gateway))
        });
        if let Some(received_at) = copies.iter().map(|copy| copy.received_at).min() {
            self.remember(bytes, received_at, now);
        }
        Some(copies)
    }

    /// When the next frame is due.
    pub(super) fn wake(&self) -> Option<Timestamp> {
        self.due.keys().next().map(|key| key.0)
    }

    fn remember(&mut self, bytes: Vec<u8>, received_at: Timestamp, now: Timestamp) {
        if now.since(self.last_prune) >= REMEMBERED || self.processed.len() >= LIMIT {
            self.last_prune = now;
            self.processed.retain(|_, at| now.since(*at) < REMEMBERED);
        }
        if self.processed.len() < LIMIT {
            self.processed.insert(bytes, received_at);
        }
    }
}

/// Adds a copy; of one gateway the better one stays, for a strong frame is sometimes heard on a neighbour channel too.
fn join(copies: &mut Vec<Copy>, copy: Copy) {
    match copies
        .iter_mut()
        .find(|known| known.frame.gateway == copy.frame.gateway)
    {
        Some(known) if known.frame.snr_db < copy.frame.snr_db => *known = copy,
        Some(_) => {}
        None => copies.push(copy),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lorawan::airtime::DataRate;
    use crate::lorawan::identifiers::GatewayEui;

    fn copy(gateway: u64, snr_db: f32, received_ms: i64, arrived_ms: i64) -> Copy {
        let at = |ms| Timestamp::from_micros(1_700_000_000_000_000 + ms * 1000);
        Copy {
            frame: ReceivedFrame {
                gateway: GatewayEui(gateway),
                at: at(arrived_ms),
                counter_us: 0,
                frequency_hz: 868_100_000,
                data_rate: DataRate::Fsk50,
                rssi_dbm: -100,
                snr_db,
                gps: None,
                phy_payload: vec![1, 2, 3],
            },
            received_at: at(received_ms),
        }
    }

    fn now(ms: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + ms * 1000)
    }

    #[test]
    fn copies_inside_the_window_are_one_frame_best_signal_first() {
        let mut dedup = Deduplication::new(Duration::from_millis(200));
        dedup.take(copy(1, -3.0, 0, 10));
        dedup.take(copy(2, 7.5, 0, 40));
        dedup.take(copy(3, 2.0, 0, 199));
        dedup.take(copy(2, -11.0, 0, 41));
        assert_eq!(dedup.wake(), Some(now(210)));
        assert_eq!(dedup.next_due(now(209)), None);
        let gateways: Vec<u64> = dedup
            .next_due(now(210))
            .unwrap()
            .iter()
            .map(|copy| copy.frame.gateway.0)
            .collect();
        assert_eq!(gateways, [2, 3, 1]);
        assert_eq!(dedup.next_due(now(1000)), None);
    }

    #[test]
    fn a_late_copy_is_dropped_and_a_repetition_is_not() {
        let mut dedup = Deduplication::new(Duration::from_millis(200));
        assert_eq!(dedup.take(copy(1, 0.0, 0, 10)), Taken::Waiting);
        dedup.next_due(now(300)).unwrap();
        assert_eq!(dedup.take(copy(2, 0.0, 0, 800)), Taken::Late);
        assert_eq!(dedup.take(copy(1, 0.0, 2500, 2520)), Taken::Waiting);
        assert_eq!(dedup.next_due(now(2800)).unwrap().len(), 1);
        // The repetition has late copies of its own.
        assert_eq!(dedup.take(copy(2, 0.0, 2500, 2900)), Taken::Late);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut dedup = Deduplication::new(Duration::from_millis(200));
        let mut overflow = 0;
        for n in 0..20_000u32 {
            let mut one = copy(1, 0.0, 0, 0);
            one.frame.phy_payload = n.to_le_bytes().to_vec();
            overflow += usize::from(dedup.take(one) == Taken::Overflow);
        }
        assert_eq!(overflow, 20_000 - LIMIT);
        let mut processed = 0;
        while dedup.next_due(now(1000)).is_some() {
            processed += 1;
        }
        assert_eq!(processed, LIMIT);
    }
}
