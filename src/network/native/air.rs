//! Getting a frame on air: which start is free, legal and in the operator's share; the charge; the transmission until
//! its fate is known; the report.
//!
//! What the frame says, and which counter it carries, is decided by the callers. Everything here that a frame uses up
//! is part of the changes that are committed before it leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::gateways::GatewayState;
use super::ledger::{Charge, LedgerKey, Ledgers};
use super::schedule::{Clearance, Gaps, Reservation, Schedule};
use super::turns::Abilities;
use super::{GatewayCommand, TransmissionId, When, refusal_word};
use crate::lorawan::airtime::DataRate;
use crate::lorawan::class_b;
use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::region::{Region, SubBand};
use crate::record::{AirLedger, Change, DownlinkId, GatewayOutcome, Refusal, TxOutcome, TxReport};
use crate::time::Timestamp;

/// Beacons in any 61 minutes, which is what a ledger looks at.
const BEACONS_PER_HOUR: u64 = 29;

/// Time limits and pauses of transmissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AirConfig {
    pub(super) gaps: Gaps,
    /// Least time between handing a timed frame over and its start.
    pub(super) min_lead: Duration,
    /// How long after handing over a `TX_ACK` is waited for.
    pub(super) give_up: Duration,
    /// A gateway silent for longer is absent.
    pub(super) liveness: Duration,
}

/// The radio side of a frame to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Emission {
    pub(super) region: Region,
    pub(super) frequency_hz: u32,
    pub(super) data_rate: DataRate,
    /// Length of the `PHYPayload`.
    pub(super) phy_length: u8,
}

impl Emission {
    pub(super) fn airtime_us(&self) -> u32 {
        self.data_rate
            .time_on_air_us(self.phy_length, Direction::Downlink)
    }

    pub(super) fn airtime(&self) -> Duration {
        Duration::from_micros(u64::from(self.airtime_us()))
    }

    /// Air time as a forwarder counts it: in whole milliseconds.
    fn occupied(&self) -> Duration {
        Duration::from_millis(u64::from(self.airtime_us().div_ceil(1000)))
    }

    fn sub_band(&self) -> Option<SubBand> {
        self.region
            .sub_band(self.frequency_hz, self.data_rate.bandwidth_hz())
    }

    fn reservation(&self, gateway: GatewayEui, start: Timestamp, immediate: bool) -> Reservation {
        Reservation {
            gateway,
            start,
            end: start + self.occupied(),
            frequency_hz: self.frequency_hz,
            bandwidth_hz: self.data_rate.bandwidth_hz(),
            immediate,
        }
    }
}

/// A start found for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) at: Timestamp,
    /// Where the schedule alone would have allowed it.
    pub(super) scheduled: Timestamp,
    /// When to hand it over.
    pub(super) hand_over_at: Timestamp,
    pub(super) timed: bool,
}

/// Who is told of a frame's fate; made by [`Air::open_report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReportKey(u64);

/// A frame on its way.
#[derive(Clone, Debug)]
struct InFlight {
    gateway: GatewayEui,
    report: Option<ReportKey>,
    charge: Charge,
    on_air_at: Timestamp,
    airtime: Duration,
    give_up_at: Timestamp,
    /// Timed by the relation of counter and server time, which a refusal puts in doubt.
    mapped: bool,
}

#[derive(Clone, Debug)]
struct OpenReport {
    id: DownlinkId,
    outcomes: Vec<GatewayOutcome>,
    awaited: usize,
}

/// Gateways, what they send, and what that costs.
#[derive(Clone, Debug)]
pub(super) struct Air {
    pub(super) gateways: BTreeMap<GatewayEui, GatewayState>,
    config: AirConfig,
    ledgers: Ledgers,
    schedule: Schedule,
    next_id: u64,
    held: BTreeMap<(Timestamp, TransmissionId), GatewayCommand>,
    outbound: Vec<GatewayCommand>,
    in_flight: BTreeMap<TransmissionId, InFlight>,
    give_ups: BTreeSet<(Timestamp, TransmissionId)>,
    next_report: u64,
    reports: BTreeMap<ReportKey, OpenReport>,
    finished: Vec<TxReport>,
    handed_over: u64,
    dropped: u64,
    /// No status of a gateway is written before: they need not be looked at in each step.
    flush_at: Timestamp,
}

impl Air {
    pub(super) fn restore(
        config: AirConfig,
        gateways: BTreeMap<GatewayEui, GatewayState>,
        ledgers: &[AirLedger],
    ) -> Self {
        Self {
            gateways,
            config,
            ledgers: Ledgers::restore(ledgers),
            schedule: Schedule::new(config.gaps),
            next_id: 1,
            held: BTreeMap::new(),
            outbound: Vec::new(),
            in_flight: BTreeMap::new(),
            give_ups: BTreeSet::new(),
            next_report: 0,
            reports: BTreeMap::new(),
            finished: Vec::new(),
            handed_over: 0,
            dropped: 0,
            flush_at: Timestamp::default(),
        }
    }

    /// What each gateway can be told of when to send.
    pub(super) fn abilities(&self, now: Timestamp) -> Abilities {
        let euis = |can: &dyn Fn(&GatewayState) -> bool| {
            let able = self.gateways.values().filter(|gateway| can(gateway));
            able.map(|gateway| gateway.settings.eui).collect()
        };
        Abilities {
            gps: euis(&|gateway| gateway.settings.gps),
            counter: euis(&|gateway| gateway.clock.counter_at(now, now).is_some()),
        }
    }

    /// Whether a gateway can start this frame at exactly `start`, as a receive window demands.
    pub(super) fn check_window(
        &self,
        now: Timestamp,
        eui: GatewayEui,
        emission: &Emission,
        start: Timestamp,
        clearance: Clearance,
    ) -> Result<(), Refusal> {
        self.alive(now, eui)?;
        if start < now + self.config.min_lead {
            return Err(Refusal::TooLate);
        }
        if !self.has_air(eui, emission, start)? {
            return Err(Refusal::NoAirTime);
        }
        let wanted = emission.reservation(eui, start, false);
        if !self.schedule.is_free(&wanted, clearance) {
            return Err(Refusal::CollisionPacket);
        }
        if self.clear_of_beacon(eui, emission, start) != start {
            return Err(Refusal::CollisionBeacon);
        }
        Ok(())
    }

    /// The earliest start of a frame that has no window, not before `from`.
    ///
    /// `asked_at` is when the frame could first have been handed over: the gateway's lead time counts from there, so
    /// that a queue already running is not put back by it.
    pub(super) fn earliest(
        &self,
        now: Timestamp,
        eui: GatewayEui,
        emission: &Emission,
        from: Timestamp,
        asked_at: Timestamp,
        paced: bool,
    ) -> Result<Start, Refusal> {
        let gateway = self.alive(now, eui)?;
        let timed = gateway.clock.counter_at(now, now).is_some();
        let lead = gateway.settings.lead_time.max(self.config.min_lead);
        let from = if timed {
            from.max(asked_at + lead).max(now + self.config.min_lead)
        } else {
            from.max(now)
        };
        let wanted = |start| emission.reservation(eui, start, !timed);
        let scheduled = self.schedule.earliest(&wanted(from), Clearance::Spectrum);
        let mut at = scheduled;
        if paced {
            at = at.max(gateway.paced_until);
        }
        let at = self.settled_start(eui, emission, at, wanted)?;
        Ok(Start {
            at,
            scheduled,
            hand_over_at: if timed { at - lead } else { at },
            timed,
        })
    }

    /// The earliest start of a frame at a GPS time, not before `from`. The gateway times it by itself.
    pub(super) fn earliest_by_gps(
        &self,
        now: Timestamp,
        eui: GatewayEui,
        emission: &Emission,
        from: Timestamp,
        asked_at: Timestamp,
    ) -> Result<Start, Refusal> {
        let gateway = self.alive(now, eui)?;
        if !gateway.settings.gps {
            return Err(Refusal::GpsUnlocked);
        }
        let lead = gateway.settings.lead_time.max(self.config.min_lead);
        let from = from
            .max(asked_at + lead)
            .max(now + self.config.min_lead)
            .max(gateway.paced_until);
        let wanted = |start| emission.reservation(eui, start, false);
        let scheduled = self.schedule.earliest(&wanted(from), Clearance::Spectrum);
        let at = self.settled_start(eui, emission, from, wanted)?;
        Ok(Start {
            at,
            scheduled,
            hand_over_at: at - lead,
            timed: true,
        })
    }

    /// The first start, not before `at`, that is free, legal and not in the way of a beacon.
    fn settled_start(
        &self,
        eui: GatewayEui,
        emission: &Emission,
        mut at: Timestamp,
        wanted: impl Fn(Timestamp) -> Reservation,
    ) -> Result<Timestamp, Refusal> {
        // Each turn passes a reservation, a beacon or a minute of the ledger for good.
        loop {
            let free = self.schedule.earliest(&wanted(at), Clearance::Spectrum);
            let clear = self.clear_of_beacon(eui, emission, free);
            let legal = self.legal_start(eui, emission, clear)?;
            if legal == at {
                return Ok(at);
            }
            at = legal;
        }
    }

    /// The first start, not before `start`, of a frame that is not on air in the time a beacon of its gateway takes.
    fn clear_of_beacon(&self, eui: GatewayEui, emission: &Emission, start: Timestamp) -> Timestamp {
        if !self
            .gateways
            .get(&eui)
            .is_some_and(|g| g.settings.beaconing)
        {
            return start;
        }
        let gap = self.config.gaps.timed;
        let end = start + emission.occupied() + gap;
        let beacon = class_b::beacon_start(end.to_gps()).to_unix();
        let over = beacon + class_b::BEACON_RESERVED + gap;
        if beacon < end && start < over {
            over
        } else {
            start
        }
    }

    /// Beacons of an hour, which a gateway sends by itself, in a sub-band of its own, microseconds.
    fn beacons_us(&self, eui: GatewayEui, emission: &Emission, band: u8) -> u64 {
        let beaconing = self
            .gateways
            .get(&eui)
            .is_some_and(|g| g.settings.beaconing);
        let Some(class_b) = emission.region.class_b().filter(|_| beaconing) else {
            return 0;
        };
        let rate = emission
            .region
            .data_rate(class_b.beacon_dr, Direction::Downlink);
        let of_beacons = rate.and_then(|rate| {
            emission
                .region
                .sub_band(class_b.beacon_frequency_hz(0), rate.bandwidth_hz())
        });
        match (rate, of_beacons) {
            (Some(rate), Some(of_beacons)) if of_beacons.id == band => {
                let length = class_b.beacon_length;
                BEACONS_PER_HOUR * u64::from(rate.time_on_air_us(length, Direction::Downlink))
            }
            _ => 0,
        }
    }

    /// The counter value of a start found by [`Air::earliest`].
    pub(super) fn when(&self, now: Timestamp, eui: GatewayEui, start: &Start) -> When {
        self.gateways
            .get(&eui)
            .filter(|_| start.timed)
            .and_then(|gateway| gateway.clock.counter_at(start.at, now))
            .map_or(When::Immediately, When::Counter)
    }

    /// Charges, reserves and queues a frame whose start was found free. It is handed over at `hand_over_at`.
    pub(super) fn transmit(
        &mut self,
        now: Timestamp,
        eui: GatewayEui,
        emission: &Emission,
        transmission: Transmission,
    ) {
        let Some((gateway, band)) = self.gateways.get_mut(&eui).zip(emission.sub_band()) else {
            if let Some(report) = transmission.report {
                self.outcome(report, Some(eui), TxOutcome::Refused(Refusal::NoGateway));
            }
            return;
        };
        let start = transmission.start;
        let power_dbm = gateway.power_dbm(&band);
        gateway.pace(now, emission.airtime());
        let id = TransmissionId(self.next_id);
        self.next_id += 1;
        let immediate = transmission.when == When::Immediately;
        self.schedule
            .reserve(id, emission.reservation(eui, start, immediate));
        let airtime_us = u64::from(emission.airtime_us());
        let charge =
            self.ledgers
                .charge((eui, band.id), airtime_us, start + emission.airtime(), now);
        let hand_over_at = transmission.hand_over_at.max(now);
        let give_up_at = hand_over_at + self.config.give_up;
        self.give_ups.insert((give_up_at, id));
        self.in_flight.insert(
            id,
            InFlight {
                gateway: eui,
                report: transmission.report,
                charge,
                on_air_at: start,
                airtime: emission.airtime(),
                give_up_at,
                mapped: transmission.mapped,
            },
        );
        self.held.insert(
            (hand_over_at, id),
            GatewayCommand {
                gateway: eui,
                id,
                when: transmission.when,
                frequency_hz: emission.frequency_hz,
                data_rate: emission.data_rate,
                power_dbm,
                phy_payload: transmission.phy_payload,
            },
        );
    }

    /// A report on a downlink that `awaited` gateways will have an outcome for.
    pub(super) fn open_report(&mut self, id: DownlinkId, awaited: usize) -> ReportKey {
        let key = ReportKey(self.next_report);
        self.next_report += 1;
        self.reports.insert(
            key,
            OpenReport {
                id,
                outcomes: Vec::new(),
                awaited,
            },
        );
        key
    }

    /// A downlink refused before a gateway was chosen.
    pub(super) fn refuse(&mut self, id: DownlinkId, refusal: Refusal) {
        let key = self.open_report(id, 1);
        self.outcome(key, None, TxOutcome::Refused(refusal));
    }

    /// Notes the fate of a downlink at one gateway; the last one finishes the report.
    pub(super) fn outcome(
        &mut self,
        key: ReportKey,
        gateway: Option<GatewayEui>,
        outcome: TxOutcome,
    ) {
        let Some(report) = self.reports.get_mut(&key) else {
            return;
        };
        report.outcomes.push(GatewayOutcome { gateway, outcome });
        if report.outcomes.len() >= report.awaited
            && let Some(OpenReport { id, outcomes, .. }) = self.reports.remove(&key)
        {
            let refused = |o: &GatewayOutcome| matches!(o.outcome, TxOutcome::Refused(_));
            if outcomes.iter().all(refused) {
                self.dropped += 1;
            }
            self.finished.push(TxReport { id, outcomes });
        }
    }

    /// A gateway's answer. `false` if nothing waits for it.
    pub(super) fn tx_ack(
        &mut self,
        gateway: GatewayEui,
        id: TransmissionId,
        result: Result<(), Refusal>,
    ) -> bool {
        if self
            .in_flight
            .get(&id)
            .is_none_or(|flight| flight.gateway != gateway)
        {
            return false;
        }
        match result {
            Ok(()) => {
                let Some(flight) = self.settle(id) else {
                    return false;
                };
                if let Some(state) = self.gateways.get_mut(&gateway) {
                    let counters = &mut state.status_mut().counters;
                    counters.queued += 1;
                    counters.charge(flight.airtime);
                }
                self.finish(
                    &flight,
                    TxOutcome::Queued {
                        on_air_at: flight.on_air_at,
                        airtime: flight.airtime,
                    },
                );
            }
            Err(refusal) => self.refused(id, refusal),
        }
        true
    }

    /// Gives up what no answer came for by `now`.
    pub(super) fn give_up(&mut self, now: Timestamp) {
        while let Some(&(at, id)) = self.give_ups.first() {
            if at > now {
                break;
            }
            let Some(flight) = self.settle(id) else {
                self.give_ups.remove(&(at, id));
                continue;
            };
            if let Some(state) = self.gateways.get_mut(&flight.gateway) {
                let counters = &mut state.status_mut().counters;
                counters.unknown += 1;
                counters.charge(flight.airtime);
            }
            self.finish(&flight, TxOutcome::Unknown);
        }
        self.schedule.prune(now);
    }

    /// Takes what is to be handed over by `now`. Frames of a gateway that is gone are refused instead.
    pub(super) fn release(&mut self, now: Timestamp) -> Vec<GatewayCommand> {
        while let Some(entry) = self.held.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let command = entry.remove();
            match self.gateways.get_mut(&command.gateway) {
                Some(gateway) => {
                    gateway.status_mut().counters.handed_over += 1;
                    self.handed_over += 1;
                    self.outbound.push(command);
                }
                None => self.refused(command.id, Refusal::NoGateway),
            }
        }
        std::mem::take(&mut self.outbound)
    }

    /// Reports that became complete.
    pub(super) fn take_reports(&mut self) -> Vec<TxReport> {
        std::mem::take(&mut self.finished)
    }

    /// What each gateway sent in the last hour.
    pub(super) fn ledgers(&self) -> Vec<AirLedger> {
        self.ledgers.all()
    }

    /// Frames handed to gateways so far.
    pub(super) fn handed_over(&self) -> u64 {
        self.handed_over
    }

    /// Downlinks so far that no gateway sent.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn has_reports(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Ledgers and, where due, statuses.
    pub(super) fn take_changes(&mut self, now: Timestamp, changes: &mut Vec<Change>) {
        self.ledgers.take_changes(changes);
        if now < self.flush_at {
            return;
        }
        let gateways = self.gateways.values_mut();
        changes.extend(gateways.filter_map(|gateway| gateway.take_change(now)));
        let next = self.gateways.values().map(GatewayState::next_flush).min();
        self.flush_at = next.unwrap_or_default();
    }

    /// A gateway was entered or changed: its status may have to be written.
    pub(super) fn gateways_changed(&mut self) {
        self.flush_at = Timestamp::default();
    }

    /// When something is to be handed over or given up.
    pub(super) fn wake(&self) -> Option<Timestamp> {
        let held = self.held.keys().next().map(|key| key.0);
        let give_up = self.give_ups.first().map(|key| key.0);
        held.into_iter().chain(give_up).min()
    }

    fn alive(&self, now: Timestamp, eui: GatewayEui) -> Result<&GatewayState, Refusal> {
        self.gateways
            .get(&eui)
            .filter(|gateway| gateway.is_alive(now, self.config.liveness))
            .ok_or(Refusal::NoGateway)
    }

    fn has_air(
        &self,
        eui: GatewayEui,
        emission: &Emission,
        start: Timestamp,
    ) -> Result<bool, Refusal> {
        Ok(self.legal_start(eui, emission, start)? == start)
    }

    /// The first start, not before `start`, that duty cycle and dwell time allow.
    fn legal_start(
        &self,
        eui: GatewayEui,
        emission: &Emission,
        start: Timestamp,
    ) -> Result<Timestamp, Refusal> {
        let band = emission.sub_band().ok_or(Refusal::TxFreq)?;
        let dwell = emission.region.dwell_limit_us(Direction::Downlink, false);
        if dwell.is_some_and(|limit| emission.airtime_us() > limit) {
            return Err(Refusal::NoAirTime);
        }
        if band.duty_cycle_permille >= 1000 {
            return Ok(start);
        }
        let key: LedgerKey = (eui, band.id);
        let end = start + emission.airtime();
        self.ledgers
            .earliest_end(
                key,
                band.duty_cycle_permille,
                u64::from(emission.airtime_us()) + self.beacons_us(eui, emission, band.id),
                end,
            )
            .map(|end| end - emission.airtime())
            .ok_or(Refusal::NoAirTime)
    }

    fn settle(&mut self, id: TransmissionId) -> Option<InFlight> {
        let flight = self.in_flight.remove(&id)?;
        self.give_ups.remove(&(flight.give_up_at, id));
        Some(flight)
    }

    fn refused(&mut self, id: TransmissionId, refusal: Refusal) {
        let Some(flight) = self.settle(id) else {
            return;
        };
        self.ledgers.credit(flight.charge);
        self.schedule.release(id);
        if let Some(gateway) = self.gateways.get_mut(&flight.gateway) {
            if flight.mapped && matches!(refusal, Refusal::TooLate | Refusal::TooEarly) {
                gateway.clock.invalidate();
            }
            let word = refusal_word(refusal).to_owned();
            *gateway
                .status_mut()
                .counters
                .refused
                .entry(word)
                .or_default() += 1;
        }
        self.finish(&flight, TxOutcome::Refused(refusal));
    }

    fn finish(&mut self, flight: &InFlight, outcome: TxOutcome) {
        match flight.report {
            Some(report) => self.outcome(report, Some(flight.gateway), outcome),
            None if matches!(outcome, TxOutcome::Refused(_)) => self.dropped += 1,
            None => {}
        }
    }
}

/// A frame with its start, for [`Air::transmit`].
#[derive(Clone, Debug)]
pub(super) struct Transmission {
    pub(super) start: Timestamp,
    pub(super) when: When,
    /// When it is handed over; at once if that is past.
    pub(super) hand_over_at: Timestamp,
    /// `when` was computed from server time rather than from the uplink it answers.
    pub(super) mapped: bool,
    pub(super) phy_payload: Vec<u8>,
    pub(super) report: Option<ReportKey>,
}
