//! Unicast downlinks: into the receive windows of an uplink, or at once to a class C device; and the frames of the
//! network's own that answer an uplink nobody else answers.

use super::Native;
use super::air::{Emission, Transmission};
use super::receive_windows::{Opening, Placement, Window, data_openings, place};
use crate::lorawan::airtime::MAC_OVERHEAD;
use crate::lorawan::frame::{DataFields, Direction, FCtrl};
use crate::lorawan::identifiers::DevEui;
use crate::lorawan::multi_package;
use crate::record::{Downlink, Refusal, Session, UplinkRef};
use crate::time::Timestamp;

/// Latest moment there is, for frames without a deadline of their own.
const ANY_TIME: (Timestamp, Timestamp) = (
    Timestamp::from_micros(i64::MIN),
    Timestamp::from_micros(i64::MAX),
);

impl Native {
    /// Sends an application downlink to a device, or reports why not.
    pub(super) fn send_unicast(&mut self, now: Timestamp, dev_eui: DevEui, downlink: &Downlink) {
        let result = match downlink.answers {
            _ if !is_application_port(downlink.f_port) => Err(Refusal::Other),
            Some(uplink) => self.send_answer(now, dev_eui, uplink, downlink),
            None => self.send_at_once(now, dev_eui, downlink),
        };
        if let Err(refusal) = result {
            self.air.refuse(downlink.id, refusal);
        }
    }

    /// Answers the uplinks of this step that want an answer and got none from the application.
    pub(super) fn answer_uplinks(&mut self, now: Timestamp) {
        for dev_eui in std::mem::take(&mut self.unanswered) {
            let open = self
                .devices
                .get(dev_eui)
                .and_then(|device| device.window.as_ref())
                .is_some_and(|window| !window.used);
            if open && self.fill_window(now, dev_eui, None, ANY_TIME).is_err() {
                self.counters.answers_dropped += 1;
            }
        }
    }

    fn send_answer(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        uplink: UplinkRef,
        downlink: &Downlink,
    ) -> Result<(), Refusal> {
        let device = self.devices.get(dev_eui).ok_or(Refusal::NoSession)?;
        if device.session.is_none() {
            return Err(Refusal::NoSession);
        }
        let window = device
            .window
            .as_ref()
            .filter(|window| uplink.dev_eui == dev_eui && window.f_cnt == uplink.f_cnt)
            .ok_or(Refusal::TooLate)?;
        if window.used {
            return Err(Refusal::WindowTaken);
        }
        let between = (downlink.earliest, downlink.deadline);
        self.fill_window(now, dev_eui, Some(downlink), between)
    }

    /// Puts one frame into the open window of a device: an application's, or an empty one.
    fn fill_window(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        downlink: Option<&Downlink>,
        (earliest, deadline): (Timestamp, Timestamp),
    ) -> Result<(), Refusal> {
        let device = self.devices.get(dev_eui).ok_or(Refusal::NoSession)?;
        let session = usable(device.session.as_ref())?;
        let window = device.window.as_ref().ok_or(Refusal::TooLate)?;
        let payload = downlink.map_or(&[][..], |downlink| &downlink.payload);
        let openings = data_openings(device.link.region, session, &window.uplink);
        let (f_opts, openings) =
            fitting(window, payload.len(), &openings).ok_or(Refusal::TooLong)?;
        let fields = DataFields {
            f_ctrl: FCtrl {
                ack: window.ack,
                f_pending_or_class_b: downlink.is_some_and(|downlink| downlink.more),
                ..FCtrl::default()
            },
            f_opts,
            f_port: downlink.map(|downlink| downlink.f_port),
            ..fields(session, payload)
        };
        let placement = place(
            &self.air,
            now,
            device.link.region,
            &window.uplink,
            &openings,
            u8::try_from(fields.phy_length()).map_err(|_| Refusal::TooLong)?,
            (earliest.max(device.silent_until), deadline),
        )?;
        let phy_payload = build(&fields, session)?;
        self.send_placed(now, dev_eui, downlink, placement, phy_payload);
        if let Some(window) = self
            .devices
            .get_mut(dev_eui)
            .and_then(|device| device.window.as_mut())
        {
            window.used = true;
        }
        Ok(())
    }

    fn send_placed(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        downlink: Option<&Downlink>,
        placement: Placement,
        phy_payload: Vec<u8>,
    ) {
        self.use_counter(dev_eui, placement.start, &placement.emission);
        let report = downlink.map(|downlink| self.air.open_report(downlink.id, 1));
        let transmission = Transmission {
            start: placement.start,
            when: placement.when,
            hand_over_at: now,
            mapped: false,
            phy_payload,
            report,
        };
        self.air
            .transmit(now, placement.gateway, &placement.emission, transmission);
    }

    /// To a device that always listens on RX2: as soon as a gateway that hears it is free.
    fn send_at_once(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        downlink: &Downlink,
    ) -> Result<(), Refusal> {
        let device = self.devices.get(dev_eui).ok_or(Refusal::NoSession)?;
        let session = usable(device.session.as_ref())?;
        if !device.link.always_class_c || downlink.deadline < now {
            return Err(Refusal::TooLate);
        }
        let region = device.link.region;
        let rx2 = session.rx2_dr;
        let data_rate = region
            .data_rate(rx2, Direction::Downlink)
            .ok_or(Refusal::Other)?;
        let limit = region.max_payload(rx2, Direction::Downlink, false);
        if downlink.payload.len() > usize::from(limit.unwrap_or(0)) {
            return Err(Refusal::TooLong);
        }
        let fields = DataFields {
            f_port: Some(downlink.f_port),
            ..fields(session, &downlink.payload)
        };
        let emission = Emission {
            region,
            frequency_hz: session.rx2_frequency_hz,
            data_rate,
            phy_length: u8::try_from(fields.phy_length()).map_err(|_| Refusal::TooLong)?,
        };
        let from = downlink.earliest.max(device.silent_until);
        let mut refusal = Refusal::NoGateway;
        let mut chosen = None;
        for reception in &device.heard_by {
            let eui = reception.gateway;
            // What need not be an answer can wait for the operator's share of the air.
            match self.air.earliest(now, eui, &emission, from, now, true) {
                Ok(start) if start.at <= downlink.deadline => {
                    chosen = Some((eui, start));
                    break;
                }
                Ok(start) if start.scheduled > downlink.deadline => refusal = Refusal::TooLate,
                Ok(_) => refusal = Refusal::NoAirTime,
                Err(Refusal::NoGateway) => {}
                Err(other) => refusal = other,
            }
        }
        let (gateway, start) = chosen.ok_or(refusal)?;
        let phy_payload = build(&fields, session)?;
        let when = self.air.when(now, gateway, &start);
        self.use_counter(dev_eui, start.at, &emission);
        let report = Some(self.air.open_report(downlink.id, 1));
        let transmission = Transmission {
            start: start.at,
            when,
            hand_over_at: start.hand_over_at,
            mapped: start.timed,
            phy_payload,
            report,
        };
        self.air.transmit(now, gateway, &emission, transmission);
        Ok(())
    }

    /// Moves the downlink counter on; its write is part of this step's changes. Until the frame is over no other
    /// starts, so that the counters reach the device in order.
    fn use_counter(&mut self, dev_eui: DevEui, start: Timestamp, emission: &Emission) {
        if let Some(session) = self.devices.session_mut(dev_eui) {
            session.next_f_cnt_down = session.next_f_cnt_down.saturating_add(1);
        }
        if let Some(device) = self.devices.get_mut(dev_eui) {
            device.silent_until = start + emission.airtime();
        }
    }
}

/// The MAC answers that go along, and the windows the frame fits in: with the answers where possible, else without.
fn fitting<'w>(
    window: &'w Window,
    payload: usize,
    openings: &[Opening],
) -> Option<(&'w [u8], Vec<Opening>)> {
    [&window.answers[..], &[]].into_iter().find_map(|f_opts| {
        let length = payload + f_opts.len();
        let fits = |opening: &&Opening| length <= usize::from(opening.max_payload);
        let openings: Vec<Opening> = openings.iter().filter(fits).copied().collect();
        (!openings.is_empty()).then_some((f_opts, openings))
    })
}

/// Whether an application may send on this port: its own ones, and the fixed one of multi-package access.
fn is_application_port(f_port: u8) -> bool {
    matches!(f_port, 1..=223 | multi_package::DEFAULT_F_PORT)
}

/// A session whose downlink counter is not used up.
fn usable(session: Option<&Session>) -> Result<&Session, Refusal> {
    session
        .filter(|session| session.next_f_cnt_down < u32::MAX)
        .ok_or(Refusal::NoSession)
}

fn fields<'a>(session: &Session, payload: &'a [u8]) -> DataFields<'a> {
    DataFields {
        direction: Direction::Downlink,
        confirmed: false,
        dev_addr: session.dev_addr,
        f_ctrl: FCtrl::default(),
        f_cnt: session.next_f_cnt_down,
        f_opts: &[],
        f_port: None,
        payload,
    }
}

fn build(fields: &DataFields<'_>, session: &Session) -> Result<Vec<u8>, Refusal> {
    fields
        .build(&session.nwk_s_key, &session.app_s_key)
        .map_err(|_| Refusal::TooLong)
}

/// Length on air of a data frame with an `FPort` and no `FOpts`; `None` if it is more than a radio can carry.
pub(super) fn data_frame_length(payload: usize) -> Option<u8> {
    u8::try_from(payload + usize::from(MAC_OVERHEAD)).ok()
}
