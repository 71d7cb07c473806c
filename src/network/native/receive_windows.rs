//! The receive windows a class A device opens after an uplink: where they are, and which gateway can meet which.
//!
//! Their time is the gateway's own: its counter at the end of the uplink plus the delay. Server time is used only to
//! know whether there is time left, and against the schedule.

use super::When;
use super::air::{Air, Emission};
use super::schedule::Clearance;
use crate::lorawan::airtime::DataRate;
use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::region::Region;
use crate::record::{Refusal, Session};
use crate::time::Timestamp;
use std::time::Duration;

/// RX2 opens so long after RX1.
const RX2_AFTER_RX1_US: u32 = 1_000_000;

/// An uplink, as its receive windows see it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HeardUplink {
    pub(super) received_at: Timestamp,
    pub(super) frequency_hz: u32,
    pub(super) data_rate: u8,
    /// Who heard it and its counter at the end of the frame, best signal first.
    pub(super) gateways: Vec<(GatewayEui, u32)>,
}

/// The windows of the last data uplink of a device.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) f_cnt: u32,
    pub(super) uplink: HeardUplink,
    /// The uplink was confirmed.
    pub(super) ack: bool,
    /// MAC commands for the device.
    pub(super) answers: Vec<u8>,
    /// A frame fills it already.
    pub(super) used: bool,
}

/// One window: when, where and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) delay_us: u32,
    pub(super) frequency_hz: u32,
    pub(super) data_rate: DataRate,
    /// Longest `FRMPayload` and `FOpts` together.
    pub(super) max_payload: u8,
}

/// RX1 and RX2 of a data uplink, those of them that exist.
pub(super) fn data_openings(
    region: Region,
    session: &Session,
    uplink: &HeardUplink,
) -> Vec<Opening> {
    let delay_us = u32::from(session.rx1_delay_s.clamp(1, 15)) * 1_000_000;
    let rx1 = region.rx1(
        uplink.frequency_hz,
        uplink.data_rate,
        session.rx1_dr_offset,
        false,
    );
    openings(
        region,
        rx1,
        (session.rx2_frequency_hz, session.rx2_dr),
        (delay_us, delay_us + RX2_AFTER_RX1_US),
    )
}

/// RX1 and RX2 of a join-request.
pub(super) fn join_openings(region: Region, uplink: &HeardUplink) -> Vec<Opening> {
    openings(
        region,
        region.rx1(uplink.frequency_hz, uplink.data_rate, 0, false),
        region.rx2(),
        region.join_accept_delays_us(),
    )
}

fn openings(
    region: Region,
    rx1: Option<(u32, u8)>,
    rx2: (u32, u8),
    (delay_1, delay_2): (u32, u32),
) -> Vec<Opening> {
    let windows = [rx1.map(|rx1| (rx1, delay_1)), Some((rx2, delay_2))];
    let opening = |((frequency_hz, dr), delay_us): ((u32, u8), u32)| {
        Some(Opening {
            delay_us,
            frequency_hz,
            data_rate: region.data_rate(dr, Direction::Downlink)?,
            max_payload: region.max_payload(dr, Direction::Downlink, false)?,
        })
    };
    windows.into_iter().flatten().filter_map(opening).collect()
}

/// A gateway and a window that can carry a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) gateway: GatewayEui,
    pub(super) emission: Emission,
    pub(super) start: Timestamp,
    pub(super) when: When,
}

/// Chooses window and gateway for a frame of `phy_length` bytes that starts between `earliest` and `deadline`: RX1
/// before RX2, the best signal before others, and starts free of other gateways' frames before all else.
pub(super) fn place(
    air: &Air,
    now: Timestamp,
    region: Region,
    uplink: &HeardUplink,
    openings: &[Opening],
    phy_length: u8,
    (earliest, deadline): (Timestamp, Timestamp),
) -> Result<Placement, Refusal> {
    let mut refusal = Refusal::NoGateway;
    for clearance in [Clearance::Spectrum, Clearance::OwnGateway] {
        for opening in openings {
            let start = uplink.received_at + Duration::from_micros(u64::from(opening.delay_us));
            // A window before `earliest` opens before the frame may be on air: the frame comes too late for it.
            if !(earliest..=deadline).contains(&start) {
                refusal = graver(refusal, Refusal::TooLate);
                continue;
            }
            let emission = Emission {
                region,
                frequency_hz: opening.frequency_hz,
                data_rate: opening.data_rate,
                phy_length,
            };
            for &(gateway, counter) in &uplink.gateways {
                match air.check_window(now, gateway, &emission, start, clearance) {
                    Ok(()) => {
                        return Ok(Placement {
                            gateway,
                            emission,
                            start,
                            when: When::Counter(counter.wrapping_add(opening.delay_us)),
                        });
                    }
                    Err(other) => refusal = graver(refusal, other),
                }
            }
        }
    }
    Err(refusal)
}

/// Of two reasons the one that says more of why the frame could not be sent.
fn graver(one: Refusal, other: Refusal) -> Refusal {
    let weight = |refusal| match refusal {
        Refusal::NoAirTime => 4,
        Refusal::CollisionPacket => 3,
        Refusal::TxFreq => 2,
        Refusal::TooLate => 1,
        _ => 0,
    };
    if weight(other) > weight(one) {
        other
    } else {
        one
    }
}
