//! Why a plan that is well-formed cannot work: the deadline, the duty cycle, the redundancy allowed, gateways.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lorawan::identifiers::GatewayEui;
use crate::record::{DeviceClass, FleetDevice, FragAlgo};
use crate::time::Timestamp;

use super::air::{self, Sending};
use super::clock;
use super::outlook::{self, Span};
use super::plan::{PlanError, PlanRefusal, PlanRequest, PlannedSession};
use super::sizing;

/// With less than this share of devices to be expected, redundancy is refused.
const HOPELESS: f64 = 0.05;

/// The last verdict is not to be expected before the deadline: because of the duty cycle, or anyway.
pub(super) fn deadline(
    sessions: &[PlannedSession],
    finish: Span,
    deadline: Timestamp,
) -> Result<(), PlanError> {
    if finish.expected <= deadline {
        return Ok(());
    }
    let late = finish.expected.since(deadline);
    let stretched = sessions.iter().map(|session| {
        let payload =
            usize::from(session.block.frag_size) + usize::from(sizing::DATA_FRAGMENT_OVERHEAD);
        let one = sizing::frame_airtime(session.region, session.data_rate, payload);
        let free = Sending {
            spacing: session.spacing,
            copies: 1,
            at_once: session.class == DeviceClass::B,
            start: session.window.start,
            frames: session.frames.expected,
            airtime: one.unwrap_or_default(),
            frequency_hz: session.frequency_hz,
            permille: 1000,
            senders: Vec::new(),
        };
        let unlimited = air::ends(&[free], &mut []).first().copied().flatten();
        let unlimited = unlimited.map_or(session.distribution, |end| {
            end.since(session.window.start) * senders(session)
        });
        (session, session.distribution.saturating_sub(unlimited))
    });
    let worst = stretched.max_by_key(|(_, by)| *by);
    let expected = finish.expected;
    match worst.filter(|(session, by)| *by >= late && is_limited(session)) {
        Some((session, by)) => Err(PlanError::Refused {
            refusal: PlanRefusal::DutyCycle,
            field: "deadline",
            message: format!(
                "expected finish {expected} is later: {} s on air take {} s more under the duty cycle at data rate {}",
                session.airtime.as_secs(),
                by.as_secs(),
                session.data_rate
            ),
        }),
        None => Err(PlanError::Field {
            field: "deadline",
            message: format!("expected finish {expected} is later"),
        }),
    }
}

/// What the longest session takes at the pace of the duty cycle, with nothing saved up: so much more a device may need
/// that missed its session while the hour is spent.
pub(super) fn longest_paced(sessions: &[PlannedSession]) -> Duration {
    let paced = sessions.iter().map(|session| {
        let band = air::band_of(session.region, session.frequency_hz, session.data_rate);
        let permille = band.map_or(1000, |band| u32::from(band.duty_cycle_permille.max(1)));
        session.airtime * 1000 / permille
    });
    paced.max().unwrap_or_default()
}

fn senders(session: &PlannedSession) -> u32 {
    u32::try_from(session.gateways.len().max(1)).unwrap_or(u32::MAX)
}

fn is_limited(session: &PlannedSession) -> bool {
    let band = air::band_of(session.region, session.frequency_hz, session.data_rate);
    band.is_some_and(|band| band.duty_cycle_permille < 1000)
}

/// The coded fragments that are allowed bring hardly any device to the end.
pub(super) fn redundancy(
    request: &PlanRequest<'_>,
    devices: &[&FleetDevice],
    frag_algo: FragAlgo,
    nb_frag: u16,
) -> Result<(), PlanError> {
    let percent = request.task.options.max_redundancy_percent;
    let budget = sizing::coded_budget(nb_frag, percent);
    let most = u32::from(nb_frag) + u32::from(budget);
    let share = outlook::share_complete(devices, frag_algo, nb_frag, most);
    if share >= HOPELESS {
        return Ok(());
    }
    let (_, expected, _) = outlook::fragments(devices, frag_algo, nb_frag);
    Err(PlanError::Refused {
        refusal: PlanRefusal::Redundancy,
        field: "max_redundancy_percent",
        message: format!("{expected} fragments are expected to be needed, {most} are allowed"),
    })
}

/// Windows open when the server says, so that its clock has to be right.
pub(super) fn clock(
    request: &PlanRequest<'_>,
    sessions: &[PlannedSession],
) -> Result<(), PlanError> {
    if sessions.iter().all(|s| s.class == DeviceClass::A) {
        return Ok(());
    }
    let off = clock::clock_off_us(request.now, request.clocks.iter().copied());
    off.map_or(Ok(()), |ahead_us| {
        Err(PlanError::Refused {
            refusal: PlanRefusal::ClockDisagrees,
            field: "",
            message: clock::clock_words(ahead_us),
        })
    })
}

/// Devices that only gateways hear that are offline. If there are no others, and the task is to begin now, it cannot.
pub(super) fn gateways(
    request: &PlanRequest<'_>,
    devices: &[&FleetDevice],
    usable: &BTreeSet<GatewayEui>,
) -> Result<usize, PlanError> {
    let heard = devices.iter().filter(|d| !d.status.links.is_empty());
    let (reached, offline): (Vec<&FleetDevice>, Vec<&FleetDevice>) =
        heard.partition(|d| d.status.links.keys().any(|eui| usable.contains(eui)));
    let waits = request
        .task
        .prepare_after
        .is_some_and(|at| at > request.now);
    if offline.is_empty() || !reached.is_empty() || offline.len() < devices.len() || waits {
        return Ok(offline.len());
    }
    Err(PlanError::Refused {
        refusal: PlanRefusal::GatewaysOffline,
        field: "",
        message: format!(
            "all gateways that hear the {} devices are offline",
            offline.len()
        ),
    })
}
