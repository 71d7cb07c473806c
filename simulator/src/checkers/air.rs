//! The share of a gateway's air that the operator allows: what can wait has to, until the gateway has rested enough for
//! all it sent. An answer in a receive window cannot wait; it counts, and delays the others. Duty cycles are watched by each gateway (`rule_watch`) and
//! judged at the end (`verdicts`).

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::GatewayEui;
use lorawan_fuota::time::Timestamp;

use crate::gateway::OnAir;

use super::{Broken, Checker};

/// Air a gateway may be ahead of its share when a frame leaves that could wait: what was decided on before it, but is
/// on air later or not at all.
const AHEAD: Duration = Duration::from_secs(3);

/// How far each gateway is ahead of its share: a bucket that drains at the rate of the share.
#[derive(Default)]
pub struct AirShare {
    permille: Option<u16>,
    buckets: BTreeMap<GatewayEui, Bucket>,
}

#[derive(Default)]
struct Bucket {
    /// When it was looked at, and the air it held then, microseconds.
    at: Timestamp,
    ahead_us: f64,
}

impl AirShare {
    pub(super) fn allow(&mut self, permille: u16) {
        self.permille = Some(permille).filter(|permille| *permille < 1000);
    }

    /// The rest a gateway was to take is kept in memory alone.
    pub(super) fn restarted(&mut self) {
        self.buckets.clear();
    }

    /// The checker of [`Checker::AirShare`].
    pub(super) fn on_air(
        &mut self,
        gateway: GatewayEui,
        sent: &OnAir,
        can_wait: bool,
    ) -> Option<Broken> {
        let share = f64::from(self.permille?) / 1000.0;
        let bucket = self.buckets.entry(gateway).or_default();
        let drained = sent.start.since(bucket.at).as_secs_f64() * 1e6 * share;
        let air_us = sent.end.since(sent.start).as_secs_f64() * 1e6;
        let ahead_us = (bucket.ahead_us - drained).max(0.0);
        bucket.ahead_us = ahead_us + air_us;
        bucket.at = sent.start;
        let most_us = AHEAD.as_secs_f64() * 1e6;
        (can_wait && ahead_us > most_us).then(|| {
            let ahead_s = ahead_us / 1e6;
            let what =
                format!("gateway {gateway} is {ahead_s:.1} s of air ahead of its share of {share}");
            (Checker::AirShare, None, what)
        })
    }
}
