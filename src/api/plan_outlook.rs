//! The parts of a forecast that depend on luck and on air: ranges, chances, what is taken of the gateways' air, and
//! what should be known of them without keeping a task from starting.

use crate::proto::v1;
use crate::task::{self, Span};

use super::fields::show_moment;
use super::names;
use super::plan::micros;

/// A plan that takes more than this of what the air allows is told of.
const FULL_PERMILLE: u32 = 1000;

/// Adds ranges, air and chances to a plan.
pub(super) fn show(shown: &mut v1::Plan, plan: &task::Plan) {
    shown.end = Some(show_span(plan.finish));
    shown.deadline = Some(show_moment(plan.deadline));
    shown.gateway_air = plan.air.iter().map(show_air).collect();
    let counted = plan.sessions.iter().map(|session| {
        let devices = u32::try_from(session.devices.len()).unwrap_or(u32::MAX);
        let percent = f64::from(session.outlook.by_deadline_permille) / 10.0;
        (f64::from(devices), percent)
    });
    let (devices, sum) = counted.fold((0.0, 0.0), |(devices, sum), (n, percent)| {
        (devices + n, sum + n * percent)
    });
    shown.success_percent = if devices > 0.0 { sum / devices } else { 0.0 };
}

/// A range of moments.
pub(super) fn show_span(span: Span) -> v1::TimeForecast {
    v1::TimeForecast {
        low: Some(show_moment(span.low)),
        expected: Some(show_moment(span.expected)),
        high: Some(show_moment(span.high)),
    }
}

fn show_air(air: &task::air::GatewayAir) -> v1::GatewayAir {
    v1::GatewayAir {
        gateway: names::name("gateways", air.gateway),
        from_hz: air.sub_band.from_hz,
        to_hz: air.sub_band.to_hz,
        duty_cycle_percent: f64::from(air.sub_band.duty_cycle_permille) / 10.0,
        air_share_percent: f64::from(air.share_permille) / 10.0,
        multicast_airtime_us: micros(air.multicast),
        unicast_airtime_us: micros(air.unicast),
        spent_airtime_us: micros(air.spent),
        allowed_airtime_us: micros(air.allowed),
    }
}

/// What does not keep a task from starting, but should be known.
pub(super) fn warnings(plan: &task::Plan) -> Vec<v1::PlanProblem> {
    let heard = plan.sessions.iter().any(|s| !s.gateways.is_empty());
    let unheard = (plan.unheard > 0 && heard).then(|| {
        let message = format!(
            "no gateway has ever heard {} devices; they are planned at the slowest data rate",
            plan.unheard
        );
        (v1::PlanProblemReason::DevicesUnheard, message)
    });
    let offline = (plan.offline > 0).then(|| {
        let message = format!(
            "{} devices are heard only by gateways that are offline",
            plan.offline
        );
        (v1::PlanProblemReason::GatewayOffline, message)
    });
    let full = plan
        .air
        .iter()
        .filter(|air| air.load_permille() > FULL_PERMILLE)
        .map(|air| {
            let message = format!(
                "gateway {} has {} s of air from {} to {} Hz and is asked for {} s",
                air.gateway,
                air.allowed.as_secs(),
                air.sub_band.from_hz,
                air.sub_band.to_hz,
                (air.multicast + air.unicast).as_secs()
            );
            (v1::PlanProblemReason::AirShort, message)
        });
    let all = unheard.into_iter().chain(offline).chain(full);
    all.map(|(reason, message)| v1::PlanProblem {
        field: String::new(),
        reason: reason.into(),
        message,
        blocking: false,
    })
    .collect()
}
