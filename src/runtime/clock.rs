//! The clock of production: the wall clock at the start, moved on by the monotonic clock.
//!
//! A step of the wall clock while the server runs (NTP, an operator) does not move it: time never goes back, and
//! windows that were announced stay where they are. After a restart the wall clock is read anew.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clocks"
)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::time::Timestamp;

use super::drive::Clock;

/// Server time, anchored once.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    anchor: Instant,
    at_anchor: Timestamp,
}

impl SystemClock {
    /// Reads the wall clock.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self {
            anchor: Instant::now(),
            at_anchor: Timestamp::default() + since_epoch,
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.at_anchor + self.anchor.elapsed()
    }

    async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep(at.since(self.now())).await;
    }
}
