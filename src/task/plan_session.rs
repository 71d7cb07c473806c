//! One distribution session of a plan: block, gateways, pace and window.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::erasure::{BlockLayout, ParameterError};
use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::region::Region;
use crate::record::{
    BlockParameters, DeviceClass, DeviceReason, FleetDevice, SessionWindow, SuccessCriterion,
};
use crate::time::Timestamp;

use super::outlook::{self, SessionOutlook};
use super::place::SessionKey;
use super::plan::{Forecast, PlanError, PlanRequest, PlannedSession, SkippedDevice, UNNUMBERED};
use super::{air, calendar, checks, link, sizing};

/// When a wave begins, as far as its sessions need to know.
pub(super) struct Start {
    pub(super) wave: u16,
    pub(super) prepare_at: Timestamp,
    pub(super) setup: Duration,
    /// When its window is to open, if the operator said so.
    pub(super) window: Option<Timestamp>,
    /// What devices come to before the next image is sent, or the wave is over.
    pub(super) success: SuccessCriterion,
}

/// The session of these devices; `None` if it has none left.
pub(super) fn session(
    request: &PlanRequest<'_>,
    key: SessionKey,
    devices: &[&FleetDevice],
    begin: &Start,
    usable: &BTreeSet<GatewayEui>,
    skipped: &mut Vec<SkippedDevice>,
) -> Result<Option<PlannedSession>, PlanError> {
    let task = request.task;
    let length = request.size_of(key.image, key.delta);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    // A size that was asked for is kept, good or bad; the forecast says if it is bad.
    let asked = request.task.options.frag_size == Some(key.frag_size);
    let layout = if asked {
        BlockLayout::new(length, key.frag_size)
    } else {
        sizing::layout(length, key.frag_size)
    };
    let layout = match layout {
        Ok(layout) => layout,
        Err(ParameterError::NbFrag(count)) => {
            skipped.extend(devices.iter().map(|d| SkippedDevice {
                dev_eui: d.settings.dev_eui,
                reason: DeviceReason::DecoderLimit,
                evidence: format!(
                    "{count} fragments of {} bytes at data rate {}{UNNUMBERED}",
                    key.frag_size, key.data_rate
                ),
                unfit: Some("size_bytes"),
            }));
            return Ok(None);
        }
        Err(error) => {
            return Err(PlanError::Field {
                field: "frag_size",
                message: error.to_string(),
            });
        }
    };
    let (served, left_out): (Vec<&FleetDevice>, Vec<&FleetDevice>) = devices
        .iter()
        .partition(|d| d.profile.limits.max_nb_frag >= layout.nb_frag);
    skipped.extend(left_out.iter().map(|d| SkippedDevice {
        dev_eui: d.settings.dev_eui,
        reason: DeviceReason::DecoderLimit,
        evidence: format!(
            "{} fragments, the decoder holds {}",
            layout.nb_frag, d.profile.limits.max_nb_frag
        ),
        unfit: Some("size_bytes"),
    }));
    if served.is_empty() {
        return Ok(None);
    }
    let airtime = sizing::frame_airtime(
        key.region,
        key.data_rate,
        usize::from(layout.frag_size) + usize::from(sizing::DATA_FRAGMENT_OVERHEAD),
    )
    .unwrap_or_default();
    let answer = answer_airtime(key.region);
    let block_ack_delay = task
        .options
        .block_ack_delay
        .unwrap_or_else(|| sizing::block_ack_delay(served.len(), answer))
        .min(7);
    let Reverse(frag_algo) = key.frag_algo;
    let usable = usable_gateways(request, key.class, usable)?;
    let gateways =
        link::covering_gateways(served.iter().copied(), &usable, key.region, key.data_rate);
    let (low, expected, high) = outlook::fragments(&served, frag_algo, layout.nb_frag);
    checks::redundancy(request, &served, frag_algo, layout.nb_frag)?;
    let bandwidth_hz = key
        .region
        .data_rate(key.data_rate, Direction::Downlink)
        .map_or(0, |rate| rate.bandwidth_hz());
    let senders = u32::try_from(gateways.len().max(1)).unwrap_or(1);
    let interval = frame_interval(key.region, key.frequency_hz, bandwidth_hz, airtime);
    // Gateways send one after the other, in class B all at once, and each keeps the share of its air that is allowed.
    let share = gateways.iter().map(|g| air::share_of(request.gateways, *g));
    let share = u32::from(share.min().unwrap_or(1000));
    let turns = match key.class {
        DeviceClass::B => 1,
        DeviceClass::A | DeviceClass::C => senders,
    };
    let interval = interval
        .max((airtime + sizing::FRAME_GAP) * turns)
        .max(airtime * 1000 / share);
    let ping_slots = (key.class == DeviceClass::B).then(|| {
        let asked = task.options.ping_slots;
        asked.unwrap_or_else(|| sizing::ping_periodicity(airtime, interval))
    });
    let spacing = match (key.class, ping_slots) {
        (DeviceClass::A, _) => sizing::CLASS_A_SPACING,
        (_, Some(slots)) => sizing::ping_interval(slots, airtime, Duration::ZERO),
        _ => Duration::ZERO,
    };
    let interval = interval.max(spacing);
    let poll = Duration::from_secs(16 << block_ack_delay) + sizing::ANSWER_SLACK;
    let distribution = sizing::WINDOW_GUARD + interval * expected + poll * 3;
    // Twice the high figure and twice the rounds: a loss nobody foresaw must not end the window.
    let window = sizing::WINDOW_GUARD + interval * (high * 2) + poll * 8;
    let earliest = begin.prepare_at + begin.setup;
    let start = match begin.window {
        Some(start) => sizing::window_at(key.class, start),
        None => sizing::window_opens(key.class, earliest),
    };
    let window = SessionWindow {
        number: 0,
        start,
        time_out: sizing::time_out(key.class, window),
        class: key.class,
        closes_at: None,
    };
    let window = allowed(request, window, begin.window.is_some())?;
    Ok(Some(PlannedSession {
        number: 0,
        wave: begin.wave,
        region: key.region,
        class: key.class,
        ping_slots,
        data_rate: key.data_rate,
        frequency_hz: key.frequency_hz,
        devices: served.iter().map(|d| d.settings.dev_eui).collect(),
        gateways,
        multicast_version: key.multicast_version,
        frag_port: key.frag_port,
        block: BlockParameters {
            version: key.fragmentation_version,
            frag_algo,
            frag_index: 0,
            nb_frag: layout.nb_frag,
            frag_size: layout.frag_size,
            padding: layout.padding,
            descriptor: key.descriptor,
            block_ack_delay,
        },
        window,
        frames: Forecast {
            low,
            expected,
            high,
        },
        airtime: airtime * expected,
        setup: begin.setup,
        spacing,
        distribution,
        outlook: SessionOutlook::default(),
        delta: key.delta,
        image: key.image,
    }))
}

/// Gateways that can send in the windows of a class: class B needs GPS time and beacons.
fn usable_gateways(
    request: &PlanRequest<'_>,
    class: DeviceClass,
    online: &BTreeSet<GatewayEui>,
) -> Result<BTreeSet<GatewayEui>, PlanError> {
    if class != DeviceClass::B {
        return Ok(online.clone());
    }
    let usable: BTreeSet<GatewayEui> = request
        .gateways
        .iter()
        .filter(|g| g.sends_class_b() && online.contains(&g.eui))
        .map(|g| g.eui)
        .collect();
    if usable.is_empty() {
        return Err(PlanError::Field {
            field: "device_class",
            message: "no gateway that is online has GPS time and sends beacons".to_owned(),
        });
    }
    Ok(usable)
}

/// The window as the calendar of the task allows it; one the operator chose is not moved.
fn allowed(
    request: &PlanRequest<'_>,
    window: SessionWindow,
    chosen: bool,
) -> Result<SessionWindow, PlanError> {
    let fitted = calendar::fit(&request.task.rules.calendar, window);
    let (field, message) = match fitted {
        Some(fitted) if chosen && fitted.start != window.start => (
            "window_start",
            format!("outside the calendar, which opens at {}", fitted.start),
        ),
        Some(fitted) => {
            let start = sizing::window_at(fitted.class, fitted.start);
            return Ok(SessionWindow { start, ..fitted });
        }
        None => ("calendar", "allows no window".to_owned()),
    };
    Err(PlanError::Field { field, message })
}

/// From one frame to the next: its air time and the gateway's gap, or what the duty cycle of the sub-band asks for.
fn frame_interval(
    region: Region,
    frequency_hz: u32,
    bandwidth_hz: u32,
    airtime: Duration,
) -> Duration {
    let permille = region
        .sub_band(frequency_hz, bandwidth_hz)
        .map_or(1000, |band| u32::from(band.duty_cycle_permille.max(1)));
    (airtime + sizing::FRAME_GAP).max(airtime * 1000 / permille)
}

/// Air time of a status answer at the middle of the uplink data rates, where ADR leaves most devices.
fn answer_airtime(region: Region) -> Duration {
    let rate = region.data_rate(3, Direction::Uplink);
    rate.map_or(Duration::from_millis(500), |rate| {
        Duration::from_micros(u64::from(
            rate.time_on_air_us(ANSWER_LENGTH, Direction::Uplink),
        ))
    })
}

/// PHYPayload of an uplink with one `FragSessionStatusAns`.
const ANSWER_LENGTH: u8 = 18;
