//! Fragments to one device alone: sessions of class A, and stragglers that a group no longer waits for.
//!
//! A fragment answers an uplink, or goes out at once to a device that listens continuously; one is on its way at a
//! time. The device keeps the session it has: fragments come by unicast whatever its `McGroupBitMask` says
//! (TS004-2.0.0 §3.2), and each device is counted by itself, so that no `N` reaches it twice. After a round it is asked
//! for its status as any other.
//!
//! Cost function of the cut-off: a frame of a round costs its air at every gateway of the group; a fragment to one
//! device costs [`UNICAST_COST`] frames at one gateway. Stragglers are served alone where that is less in sum, and
//! where their uplinks leave time for it. With one gateway a round is never dearer than what its worst device needs, so
//! that the group waits for all.

use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::DevEui;
use crate::record::{
    DeviceClass, DeviceReason, DeviceState, FleetDevice, FragmentReport, Refusal, SessionPhase,
    Target, TaskDevice, TxOutcome, TxReport, UnicastFragments, Uplink, UplinkRef, fragments_sent,
};
use crate::task::plan;
use crate::task::sizing::{self, Need};
use crate::time::Timestamp;

use super::commands::Command;
use super::conversation::{REFUSED_PAUSE, UNICAST_LIFETIME};
use super::members::Part;
use super::rounds::{POLL_COST, round_size};
use super::{Campaign, InFlight, Surroundings, Timing};

/// What a fragment to one device costs, in frames of a group at one gateway: its air, and the uplink it answers.
const UNICAST_COST: f64 = 1.5;
/// What a session request costs, in frames: it and what is lost of it.
const REQUEST_COST: f64 = 1.5;
/// Stragglers that are looked at one by one.
const MOST_STRAGGLERS: usize = 16;

/// A device that needs fragments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needy {
    pub(super) dev_eui: DevEui,
    pub(super) report: FragmentReport,
    /// Share of frames it loses.
    pub(super) loss: f64,
}

impl Needy {
    fn frames(&self) -> f64 {
        Need::of(self.report.deficit, self.loss).mean
    }
}

impl Campaign {
    /// Fragments that were sent for a device to hear, by multicast or to it alone.
    pub(super) fn sent_to(&self, device: &TaskDevice) -> u16 {
        match (device.unicast, self.session_of(device)) {
            (Some(alone), _) => alone.sent(),
            (None, Some(session)) => fragments_sent(&session.record),
            (None, None) => 0,
        }
    }

    /// Devices of a session that are sent to alone.
    pub(super) fn served_alone(&self, number: usize) -> impl Iterator<Item = &TaskDevice> {
        self.of_part(number, Part::Alone)
    }

    /// What a device that is sent to alone gets next.
    pub(super) fn alone_command(
        &self,
        record: &TaskDevice,
        device: &FleetDevice,
    ) -> Option<Command> {
        if self.alone_in_flight.contains_key(&record.dev_eui) {
            return None;
        }
        let session = self.session_of(record)?;
        match record.unicast?.next(session.record.block.nb_frag) {
            Some(_) => Some(Command::Fragment),
            None if session.is_fresh(record) => None,
            None => self.status_command(record, device),
        }
    }

    /// Notes how long a downlink may be in the windows of an uplink.
    pub(super) fn note_room(&mut self, uplink: &Uplink, around: &Surroundings<'_>) {
        let Some(device) = around.fleet.get(uplink.dev_eui) else {
            return;
        };
        let region = device.profile.region;
        let rx1 = region.rx1(uplink.frequency_hz, uplink.data_rate, 0, false);
        let rates = [rx1.map(|(_, rate)| rate), Some(region.rx2().1)];
        let room = rates
            .into_iter()
            .flatten()
            .filter_map(|rate| region.max_payload(rate, Direction::Downlink, false))
            .max();
        self.rooms.insert(uplink.dev_eui, room.unwrap_or(0));
    }

    /// Sends the next fragment to a device alone.
    pub(super) fn send_alone(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        answers: Option<UplinkRef>,
    ) {
        let Some(record) = self.devices.get(&dev_eui) else {
            return;
        };
        let Some((alone, session)) = record.unicast.zip(self.session_of(record)) else {
            return;
        };
        let nb_frag = session.record.block.nb_frag;
        let n = match alone.next(nb_frag) {
            Some(n) if n <= nb_frag => Some(n),
            Some(_) => session.coded_n(alone.coded_sent),
            None => None,
        };
        let Some((n, payload)) = n.and_then(|n| Some((n, session.fragment(n)?))) else {
            return;
        };
        let (number, port) = (session.record.id.number, session.record.frag_port);
        let timing = Timing {
            answers,
            earliest: now,
            deadline: now + UNICAST_LIFETIME,
            // A device of class A sends again soon, for the next fragment or the question how many it has.
            more: answers.is_some(),
        };
        let what = InFlight::Alone {
            dev_eui,
            session: number,
        };
        let sent = self.send(what, Target::Device(dev_eui), port, payload, timing);
        self.alone_in_flight.insert(dev_eui, sent);
        if let Some(alone) = self
            .devices
            .get_mut(&dev_eui)
            .and_then(|d| d.unicast.as_mut())
        {
            alone.advance(n, nb_frag);
        }
        self.changed.devices.insert(dev_eui);
        let round = self.sessions.get_mut(usize::from(number));
        if let Some(session) = round.filter(|session| session.record.round == 0) {
            session.record.round = 1;
            self.changed.sessions.insert(number);
        }
    }

    /// The fate of a fragment to a device alone. One that no gateway sent goes out again.
    pub(super) fn alone_reported(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        session: u16,
        report: &TxReport,
    ) {
        self.alone_in_flight.remove(&dev_eui);
        let nb_frag = self
            .sessions
            .get(usize::from(session))
            .map(|s| s.record.block.nb_frag);
        let Some((record, nb_frag)) = self.devices.get_mut(&dev_eui).zip(nb_frag) else {
            return;
        };
        let Some(alone) = record.unicast.as_mut() else {
            return;
        };
        if report.on_air() {
            self.due.insert((now, dev_eui));
            return;
        }
        alone.take_back(nb_frag);
        self.changed.devices.insert(dev_eui);
        let too_long = report
            .outcomes
            .iter()
            .any(|o| o.outcome == TxOutcome::Refused(Refusal::TooLong));
        let by_group = self
            .sessions
            .get(usize::from(session))
            .is_some_and(|s| s.record.class != DeviceClass::A);
        if too_long && by_group {
            // Its uplinks got so slow that the answers to them do not hold a fragment: back to the group.
            self.rooms.remove(&dev_eui);
            if let Some(record) = self.devices.get_mut(&dev_eui) {
                record.unicast = None;
            }
        }
        self.due.insert((now + REFUSED_PAUSE, dev_eui));
    }

    /// A device that is sent to alone has said what it lacks: another round for it, as far as the budget goes.
    pub(super) fn next_round_alone(&mut self, now: Timestamp, needy: Needy) {
        let dev_eui = needy.dev_eui;
        let Some(record) = self.devices.get(&dev_eui) else {
            return;
        };
        let Some((mut alone, session)) = record.unicast.zip(self.session_of(record)) else {
            return;
        };
        let block = session.record.block;
        let budget = sizing::coded_budget(block.nb_frag, self.task.options.max_redundancy_percent);
        let left = budget.saturating_sub(alone.coded_sent);
        if left == 0 {
            let evidence = format!(
                "still missing fragments after {} coded ones",
                alone.coded_sent
            );
            let reason = Some(DeviceReason::BudgetSpent);
            return self.conclude(now, dev_eui, DeviceState::Failed, reason, evidence);
        }
        let size = round_size(&block, &[needy]).clamp(1, left);
        alone.coded_target = alone.coded_sent.saturating_add(size);
        if let Some(record) = self.devices.get_mut(&dev_eui) {
            record.unicast = Some(alone);
        }
        self.changed.devices.insert(dev_eui);
        self.due.insert((now, dev_eui));
    }

    /// Before a round: the gateways that only devices without a need are reached by stop sending, and stragglers that
    /// are better served alone leave the group. Returns whose need the round is for.
    pub(super) fn part_from_stragglers(
        &mut self,
        now: Timestamp,
        number: usize,
        needs: Vec<Needy>,
        around: &Surroundings<'_>,
    ) -> Vec<Needy> {
        let gateways = self.narrow(number, around);
        let alone = self.cut_off(now, number, &needs, gateways, around);
        for needy in &alone {
            self.leave_to_itself(now, *needy);
        }
        if !alone.is_empty() {
            self.narrow(number, around);
        }
        let left = |needy: &Needy| alone.iter().all(|a| a.dev_eui != needy.dev_eui);
        needs.into_iter().filter(left).collect()
    }

    /// Leaves out the gateways of a session that none of the devices needs which still receive; returns how many are
    /// left.
    fn narrow(&mut self, number: usize, around: &Surroundings<'_>) -> usize {
        let receiving: Vec<DevEui> = self.receiving(number).collect();
        let Some(session) = self.sessions.get_mut(number) else {
            return 0;
        };
        let now_used = &session.record.gateways;
        let usable = around.gateways_for(session.record.class);
        let usable = now_used
            .iter()
            .filter(|g| usable.contains(g))
            .copied()
            .collect();
        let devices = receiving.iter().filter_map(|d| around.fleet.get(*d));
        let unheard = receiving.iter().any(|d| {
            let links = around.fleet.get(*d).map(|d| &d.status.links);
            links.is_none_or(|links| !links.keys().any(|g| now_used.contains(g)))
        });
        let (region, data_rate) = (session.record.region, session.record.data_rate);
        let enough = plan::covering_gateways(devices, &usable, region, data_rate);
        // Who is reached by none of them as far as is known may be reached by any.
        if unheard || enough.is_empty() || enough.len() >= now_used.len() {
            return now_used.len();
        }
        let left = enough.len();
        session.record.gateways = enough;
        self.changed.sessions.insert(session.record.id.number);
        self.request_group(number);
        left
    }

    /// A window is over: stragglers for whom another one would cost more than their fragments are served alone.
    pub(super) fn serve_stragglers_alone(
        &mut self,
        now: Timestamp,
        number: usize,
        around: &Surroundings<'_>,
    ) {
        let receiving: Vec<DevEui> = self.receiving(number).collect();
        let needs = self.needs(number, &receiving, around);
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        // Others need the window all the same.
        if needs.is_empty() || needs.len() < self.members(number).count() {
            return;
        }
        let frag_size = session.record.block.frag_size;
        let senders = session.record.gateways.len().max(1);
        let window = f64::from(round_size(&session.record.block, &needs))
            * f64::from(u32::try_from(senders).unwrap_or(u32::MAX))
            + f64::from(u32::try_from(needs.len()).unwrap_or(u32::MAX)) * REQUEST_COST
            + POLL_COST;
        let alone: f64 = needs.iter().map(|n| n.frames() * UNICAST_COST + 1.0).sum();
        let all_can = needs
            .iter()
            .all(|needy| self.can_be_alone(now, needy, frag_size, around));
        if all_can && alone < window {
            for needy in needs {
                self.leave_to_itself(now, needy);
            }
        }
    }

    /// Of devices that need fragments, those that are better served alone than by `gateways` gateways together.
    pub(super) fn cut_off(
        &self,
        now: Timestamp,
        number: usize,
        needs: &[Needy],
        gateways: usize,
        around: &Surroundings<'_>,
    ) -> Vec<Needy> {
        let Some(session) = self.sessions.get(number) else {
            return Vec::new();
        };
        let block = session.record.block;
        let mut needs = needs.to_vec();
        needs.sort_by(|a, b| b.frames().total_cmp(&a.frames()));
        let senders = f64::from(u32::try_from(gateways.max(1)).unwrap_or(u32::MAX));
        let by_group = |rest: &[Needy]| -> f64 {
            if rest.is_empty() {
                return 0.0;
            }
            f64::from(round_size(&block, rest)) * senders
        };
        let (mut best, mut least) = (0, by_group(&needs));
        let mut alone = 0.0;
        for (at, needy) in needs.iter().take(MOST_STRAGGLERS).enumerate() {
            if !self.can_be_alone(now, needy, block.frag_size, around) {
                break;
            }
            alone += needy.frames() * UNICAST_COST + 1.0;
            let cost = alone + by_group(&needs[at + 1..]);
            // Frames saved have to be worth what the devices' own uplinks take in time.
            if cost + POLL_COST < least {
                (best, least) = (at + 1, cost + POLL_COST);
            }
        }
        needs.truncate(best);
        needs
    }

    /// Whether the windows of a device's uplinks hold a fragment, and come often enough before the deadline.
    fn can_be_alone(
        &self,
        now: Timestamp,
        needy: &Needy,
        frag_size: u8,
        around: &Surroundings<'_>,
    ) -> bool {
        let Some(device) = around.fleet.get(needy.dev_eui) else {
            return false;
        };
        let room = self.rooms.get(&needy.dev_eui).copied().unwrap_or(0);
        let fits = room >= frag_size.saturating_add(sizing::DATA_FRAGMENT_OVERHEAD);
        // Its image check, reboot and version take a few uplinks as well.
        let uplinks = needy.frames() + 8.0;
        let takes = device.profile.uplink_interval.mul_f64(uplinks);
        fits && self
            .task
            .deadline
            .is_none_or(|deadline| now + takes < deadline)
    }

    /// From now on a device of a group is sent to alone; it keeps what it holds.
    pub(super) fn leave_to_itself(&mut self, now: Timestamp, needy: Needy) {
        let Some(record) = self.devices.get(&needy.dev_eui) else {
            return;
        };
        let Some(session) = self.session_of(record) else {
            return;
        };
        let sent = UnicastFragments {
            uncoded_sent: session.record.uncoded_sent,
            coded_sent: session.record.coded_sent,
            coded_target: session.record.coded_sent,
        };
        if let Some(record) = self.devices.get_mut(&needy.dev_eui) {
            record.unicast = Some(sent);
            record.evidence = "the last fragments come to it alone".to_owned();
        }
        self.next_round_alone(now, needy);
    }

    /// A device of a class A session is set up: its fragments begin.
    pub(super) fn begin_alone(&mut self, now: Timestamp, dev_eui: DevEui) {
        let begins =
            |d: &&mut TaskDevice| d.setup.fragmentation && d.state < DeviceState::Receiving;
        let Some(record) = self.devices.get_mut(&dev_eui).filter(begins) else {
            return;
        };
        record.unicast = Some(UnicastFragments::default());
        let evidence = "fragmentation session confirmed".to_owned();
        self.conclude(now, dev_eui, DeviceState::Receiving, None, evidence);
    }

    /// A session whose devices are all sent to alone: over when none is left. Devices that came back from it to the
    /// group are announced another window.
    pub(super) fn advance_alone(
        &mut self,
        now: Timestamp,
        number: usize,
        around: &Surroundings<'_>,
    ) {
        let by_group = self
            .sessions
            .get(number)
            .is_some_and(|s| s.record.class != DeviceClass::A);
        if by_group && self.receiving(number).next().is_some() {
            return self.next_window(now, number, around);
        }
        let busy = !self.nobody_left(number) || self.served_alone(number).next().is_some();
        if !busy && !self.has_unconfirmed(number, around) {
            self.close_session(number);
        }
    }

    /// Nothing is left for the group of a session to do, though some of its devices may be sent to alone.
    pub(super) fn phase_without_group(&self, number: usize) -> SessionPhase {
        if self.served_alone(number).next().is_some() {
            SessionPhase::Individual
        } else {
            SessionPhase::Closed
        }
    }
}
