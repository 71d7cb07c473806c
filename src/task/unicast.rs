//! Set-up, completion and clean-up by unicast: how many frames, through which gateway, how much air, and how long the
//! duty cycle makes a large set-up take.
//!
//! A command leaves in RX1 of an uplink, on its channel and data rate; where RX1's sub-band is used up, in RX2's. A
//! device is taken to be answered by the gateway that hears it best, at the uplink data rate ADR would leave it at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lorawan::airtime::MAC_OVERHEAD;
use crate::lorawan::fragmentation;
use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::region::{Region, SubBand};
use crate::record::{AirLedger, FleetDevice, SuccessCriterion, VersionSource};
use crate::time::Timestamp;

use super::air::{self, GatewayAir};
use super::link::{SAFETY_DB, margin_db};

/// `FRMPayload` of a command in the mean: `McGroupSetupReq` with `McClassCSessionReq` has 40 bytes,
/// `FragSessionSetupReq` 11 or 17, the others up to 6.
const COMMAND: u8 = 24;
/// Of the clean-up: `FragSessionDeleteReq`, `McGroupDeleteReq`.
const CLEANUP_COMMANDS: u32 = 2;

/// Commands until a device is set up: what is not known of it is asked first.
pub(super) fn setup_commands(device: &FleetDevice) -> u32 {
    let packages = &device.profile.packages;
    let probed = device
        .status
        .capabilities
        .contains_key(&fragmentation::PACKAGE_IDENTIFIER);
    let managed = packages.firmware_management.is_some()
        && device.profile.version_source == VersionSource::FirmwareManagement;
    let told = device.status.versions.is_empty();
    2 + u32::from(!probed) + u32::from(managed && told)
}

/// Commands from the last fragment to the verdict.
fn closing_commands(success: SuccessCriterion, device: &FleetDevice) -> u32 {
    let managed = device.profile.packages.firmware_management.is_some();
    match (success, managed) {
        (SuccessCriterion::ReportedReceived, _) | (_, false) => 0,
        (SuccessCriterion::Verified, true) => 1,
        (SuccessCriterion::Running, true) => 3,
    }
}

/// Unicast frames of a task at each gateway.
#[derive(Debug, Default)]
pub(super) struct Unicast {
    by_gateway: BTreeMap<(Region, GatewayEui), Load>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    setup: Duration,
    later: Duration,
}

impl Unicast {
    /// What `devices` need, each from the gateway of `usable` that hears it best.
    pub(super) fn of<'a>(
        devices: impl Iterator<Item = &'a FleetDevice>,
        usable: &BTreeSet<GatewayEui>,
        success: SuccessCriterion,
    ) -> Self {
        let mut all = Self::default();
        all.add(devices, usable, success);
        all
    }

    /// Adds what `devices` need for another image.
    pub(super) fn add<'a>(
        &mut self,
        devices: impl Iterator<Item = &'a FleetDevice>,
        usable: &BTreeSet<GatewayEui>,
        success: SuccessCriterion,
    ) {
        for device in devices {
            let links = device.status.links.iter();
            let best = links
                .filter(|(eui, _)| usable.contains(*eui))
                .max_by(|a, b| a.1.snr_db.total_cmp(&b.1.snr_db));
            let Some((gateway, _)) = best else {
                continue;
            };
            let region = device.profile.region;
            let permille = device.status.loss_permille.unwrap_or(20).min(900);
            // Each command is repeated until it got through and so did its answer.
            let arrives = 1.0 - f64::from(permille) / 1000.0;
            let airtime = command_airtime(device).div_f64((arrives * arrives).max(0.05));
            let load = self.by_gateway.entry((region, *gateway)).or_default();
            load.setup += airtime * setup_commands(device);
            load.later += airtime * (closing_commands(success, device) + CLEANUP_COMMANDS);
        }
    }

    /// How long the duty cycle makes the set-up take at the gateway that has most of it to do.
    pub(super) fn setup_time(&self, ledgers: &[AirLedger], now: Timestamp) -> Duration {
        let times = self.by_gateway.iter().map(|((region, gateway), load)| {
            let (mut permille, mut spent) = (0u16, Duration::ZERO);
            for band in answer_bands(*region) {
                permille = permille.saturating_add(band.duty_cycle_permille).min(1000);
                let us = air::spent_of(ledgers, *gateway, &band).at(now);
                spent += Duration::from_micros(us);
            }
            if permille == 0 {
                return Duration::ZERO;
            }
            air::time_for(load.setup, permille, spent)
        });
        times.max().unwrap_or_default()
    }

    /// Air of the unicast frames by gateway and sub-band, multicast left at zero. What RX1's band does not hold goes to
    /// RX2's.
    pub(super) fn air(
        &self,
        ledgers: &[AirLedger],
        now: Timestamp,
        length: Duration,
        share: impl Fn(GatewayEui) -> u16,
    ) -> Vec<GatewayAir> {
        let mut rows = Vec::new();
        for ((region, gateway), load) in &self.by_gateway {
            let mut open = load.setup + load.later;
            let bands = answer_bands(*region);
            for (at, band) in bands.iter().enumerate() {
                let spent = air::spent_of(ledgers, *gateway, band).at(now);
                let spent = Duration::from_micros(spent);
                let share_permille = share(*gateway);
                let allowed =
                    air::allowance(band.duty_cycle_permille, share_permille, spent, length);
                let last = at + 1 == bands.len();
                let unicast = if last { open } else { open.min(allowed) };
                open -= unicast;
                if unicast > Duration::ZERO {
                    rows.push(GatewayAir {
                        gateway: *gateway,
                        sub_band: *band,
                        share_permille,
                        multicast: Duration::ZERO,
                        unicast,
                        spent,
                        allowed,
                    });
                }
            }
        }
        rows
    }
}

/// The sub-bands of RX1 and RX2, each once.
fn answer_bands(region: Region) -> Vec<SubBand> {
    let uplink = region.uplink_channels().first().copied();
    let rx1 = uplink.and_then(|c| region.rx1(c.frequency_hz, c.min_dr, 0, false));
    let windows = [rx1, Some(region.rx2())];
    let mut bands: Vec<SubBand> = Vec::new();
    for (frequency_hz, data_rate) in windows.into_iter().flatten() {
        let band = air::band_of(region, frequency_hz, data_rate);
        let known = |band: &SubBand| bands.iter().any(|b| b.id == band.id);
        if let Some(band) = band.filter(|band| !known(band)) {
            bands.push(band);
        }
    }
    bands
}

/// Air time of a command to a device in RX1.
fn command_airtime(device: &FleetDevice) -> Duration {
    let region = device.profile.region;
    let Some(channel) = region.uplink_channels().first().copied() else {
        return Duration::ZERO;
    };
    let links = || device.status.links.values();
    let reaches = |dr: &u8| {
        let rate = region.data_rate(*dr, Direction::Uplink);
        rate.is_some_and(|rate| links().any(|link| margin_db(link, rate) >= SAFETY_DB))
    };
    let uplink_dr = (channel.min_dr..=channel.max_dr).rev().find(reaches);
    let rx1 = region.rx1(
        channel.frequency_hz,
        uplink_dr.unwrap_or(channel.min_dr),
        0,
        false,
    );
    let (_, dr) = rx1.unwrap_or_else(|| region.rx2());
    let rate = region.data_rate(dr, Direction::Downlink);
    rate.map_or(Duration::ZERO, |rate| {
        let us = rate.time_on_air_us(MAC_OVERHEAD + COMMAND, Direction::Downlink);
        Duration::from_micros(us.into())
    })
}
