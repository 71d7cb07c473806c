//! One gateway as the core knows it: settings, liveness, its counter, power, and the statistics it keeps.

use std::time::Duration;

use super::clock::CounterClock;
use super::gps::GpsClock;
use crate::lorawan::region::SubBand;
use crate::record::{Change, Gateway, GatewaySettings, GatewayStatus};
use crate::time::{GpsTime, Timestamp};

/// How often a status is written while it changes.
const FLUSH_INTERVAL: Duration = Duration::from_secs(30);
/// A gateway silent for longer may have restarted: forwarders ask for downlinks every ten seconds or sooner, and one
/// question may be lost.
const RESTARTS: Duration = Duration::from_secs(25);
/// How often a sign of life is passed on.
const SEEN_INTERVAL: Duration = Duration::from_secs(1);
/// Conducted power a gateway is asked for, dBm: 27 is the most the usual concentrators have in their tables, and
/// forwarders refuse what is not in them.
const POWERS: std::ops::RangeInclusive<i8> = -20..=27;

/// A gateway on the allow-list.
#[derive(Clone, Debug)]
pub(super) struct GatewayState {
    pub(super) settings: GatewaySettings,
    pub(super) status: GatewayStatus,
    pub(super) clock: CounterClock,
    gps: GpsClock,
    /// Before this moment the share of air the operator allows is used up.
    pub(super) paced_until: Timestamp,
    last_heard: Option<Timestamp>,
    last_reported: Option<Timestamp>,
    last_flushed: Option<Timestamp>,
    dirty: bool,
}

impl GatewayState {
    /// As stored. It counts as absent until it is heard.
    pub(super) fn restore(gateway: Gateway) -> Self {
        Self {
            last_flushed: gateway.status.last_seen,
            settings: gateway.settings,
            // The server's clock may have been set since.
            status: GatewayStatus {
                clock: None,
                ..gateway.status
            },
            clock: CounterClock::default(),
            gps: GpsClock::default(),
            paced_until: Timestamp::default(),
            last_heard: None,
            last_reported: None,
            dirty: false,
        }
    }

    /// Notes a message of any kind. `true` if the sign of life is worth passing on.
    pub(super) fn heard(&mut self, at: Timestamp) -> bool {
        // It may have been without power, and its counter begun anew.
        if self
            .last_heard
            .is_some_and(|last| at.since(last) > RESTARTS)
        {
            self.clock.invalidate();
        }
        self.last_heard = self.last_heard.max(Some(at));
        self.status.last_seen = self.status.last_seen.max(Some(at));
        self.dirty = true;
        let due = self
            .last_reported
            .is_none_or(|last| at.since(last) >= SEEN_INTERVAL);
        if due {
            self.last_reported = Some(at);
        }
        due
    }

    /// A frame ended at this GPS time by the gateway, and its message arrived at `at`.
    pub(super) fn tells_time(&mut self, gps: GpsTime, at: Timestamp) {
        if let Some(reading) = self.gps.observe(gps, at) {
            self.status_mut().clock = Some(reading);
        }
    }

    /// Heard within `liveness`.
    pub(super) fn is_alive(&self, now: Timestamp, liveness: Duration) -> bool {
        self.last_heard
            .is_some_and(|last| now.since(last) < liveness)
    }

    /// The status, to be changed and written with one of the next commits.
    pub(super) fn status_mut(&mut self) -> &mut GatewayStatus {
        self.dirty = true;
        &mut self.status
    }

    /// No write of the status is due before.
    pub(super) fn next_flush(&self) -> Timestamp {
        let flushed = self.last_flushed;
        flushed.map_or_else(Timestamp::default, |last| last + FLUSH_INTERVAL)
    }

    /// The write of the status, if it is time.
    pub(super) fn take_change(&mut self, now: Timestamp) -> Option<Change> {
        let due = self
            .last_flushed
            .is_none_or(|last| now.since(last) >= FLUSH_INTERVAL);
        if !self.dirty || !due {
            return None;
        }
        self.dirty = false;
        self.last_flushed = Some(now);
        Some(Change::PutGatewayStatus(
            self.settings.eui,
            self.status.clone(),
        ))
    }

    /// Conducted power that keeps the radiated power within the sub-band's limit and the operator's, whole dBm.
    pub(super) fn power_dbm(&self, sub_band: &SubBand) -> i8 {
        let eirp = self
            .settings
            .max_eirp_dbm
            .map_or(sub_band.max_eirp_dbm, |own| own.min(sub_band.max_eirp_dbm));
        let conducted = eirp - self.settings.antenna_gain_dbi + self.settings.cable_loss_db;
        POWERS
            .rev()
            .find(|&power| f32::from(power) <= conducted)
            .unwrap_or(*POWERS.start())
    }

    /// Uses up the operator's share of air: for a frame the gateway rests in proportion. Counted from `now`, when the
    /// frame is decided on: an answer for a window seconds ahead leaves the time until then to others.
    pub(super) fn pace(&mut self, now: Timestamp, airtime: Duration) {
        let share = u32::from(self.settings.air_share_permille.clamp(1, 1000));
        let rest = airtime.saturating_mul(1000) / share;
        self.paced_until = self.paced_until.max(now) + rest;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::lorawan::identifiers::GatewayEui;
    use crate::lorawan::region::Region;

    pub(in super::super) fn settings(eui: u64) -> GatewaySettings {
        GatewaySettings {
            eui: GatewayEui(eui),
            region: Region::Eu868,
            display_name: String::new(),
            position: None,
            antenna_gain_dbi: 0.0,
            cable_loss_db: 0.0,
            max_eirp_dbm: None,
            gps: false,
            beaconing: false,
            lead_time: Duration::from_millis(300),
            air_share_permille: 1000,
            created_at: Timestamp::default(),
            tags: std::collections::BTreeMap::new(),
            updated_at: Timestamp::default(),
        }
    }

    fn gateway(change: impl FnOnce(&mut GatewaySettings)) -> GatewayState {
        let mut settings = settings(1);
        change(&mut settings);
        GatewayState::restore(Gateway {
            settings,
            status: GatewayStatus::default(),
        })
    }

    #[test]
    fn antenna_and_cable_count_in_the_power() {
        let rx2 = Region::Eu868.sub_band(869_525_000, 125_000).unwrap();
        let rx1 = Region::Eu868.sub_band(868_100_000, 125_000).unwrap();
        let us = Region::Us915.sub_band(923_300_000, 500_000).unwrap();
        let plain = gateway(|_| {});
        assert_eq!(plain.power_dbm(&rx2), 27);
        assert_eq!(plain.power_dbm(&rx1), 16);
        assert_eq!(plain.power_dbm(&us), 27);
        let outdoor = gateway(|s| {
            s.antenna_gain_dbi = 5.0;
            s.cable_loss_db = 0.5;
        });
        // 16.15 - 5 + 0.5 = 11.65
        assert_eq!(outdoor.power_dbm(&rx1), 11);
        let limited = gateway(|s| s.max_eirp_dbm = Some(14.0));
        assert_eq!((limited.power_dbm(&rx2), limited.power_dbm(&rx1)), (14, 14));
        let above = gateway(|s| s.max_eirp_dbm = Some(27.0));
        assert_eq!((above.power_dbm(&rx2), above.power_dbm(&rx1)), (27, 16));
        let broken = gateway(|s| s.antenna_gain_dbi = f32::NAN);
        assert_eq!(broken.power_dbm(&rx1), -20);
    }

    #[test]
    fn a_status_is_written_every_half_minute_at_most() {
        let mut gateway = gateway(|_| {});
        let at = |seconds: i64| Timestamp::from_unix_seconds(1_700_000_000 + seconds);
        let mut writes = 0;
        for second in 0..=60 {
            gateway.heard(at(second));
            writes += usize::from(gateway.take_change(at(second)).is_some());
        }
        assert_eq!(writes, 3);
        assert!(gateway.take_change(at(200)).is_none());
    }

    #[test]
    fn a_share_of_air_spreads_the_frames() {
        let mut gateway = gateway(|s| s.air_share_permille = 250);
        let start = Timestamp::from_unix_seconds(100);
        gateway.pace(start, Duration::from_millis(500));
        assert_eq!(gateway.paced_until, start + Duration::from_secs(2));
    }
}
