//! During the window: uncoded fragments, then coded ones, in rounds sized by what devices say they still need.
//!
//! At most one frame of a session waits for its report, so that the next fragment is chosen knowing whether the last
//! one left: an uncoded fragment no gateway sent is repeated before any later one goes out (devices drop late uncoded
//! fragments), a coded one is replaced by the next coded one. The network decides when a frame is on air; a slow report
//! is the back pressure that paces the session.
//!
//! Cost function of a round: every coded fragment costs its air, every poll costs the wait for its answers. A round
//! sends what the worst device needs in the mean plus [`ROUND_DEVIATIONS`] standard deviations.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::erasure::{Encoder, chosen_rows};
use crate::lorawan::PackageVersion;
use crate::lorawan::fragmentation::{
    self, DataFragment, FragSessionStatusAns, FragSessionStatusReq,
};
use crate::lorawan::identifiers::DevEui;
use crate::record::{
    DeviceReason, DeviceState, DistributionSession, Fleet, FragmentReport, NetworkRequest,
    PollKind, SessionId, SessionPhase, SessionWindow, SetupStage, Target, TaskDevice, TxOutcome,
    TxReport, fragments_sent,
};
use crate::task::{plan, sizing};
use crate::time::Timestamp;

use super::conversation::silence;
use super::status::{self, Answer, Progress};
use super::{Campaign, InFlight, Surroundings, Timer, Timing};

/// Standard deviations of luck a round allows for. More costs frames nobody needs, less costs another poll.
const ROUND_DEVIATIONS: f64 = 0.7;
/// Before a frame the network refused is tried again, and while no gateway is there.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// Roll calls by multicast before devices are asked one by one.
const ROLL_CALLS: u8 = 2;
/// Frames one group may send: the counter must not reach 16 bits.
const MAX_GROUP_FRAMES: u32 = 65_000;
/// Up to so many devices all are asked at once: a poll of those with gaps would save few answers and leave the silent
/// ones unknown, which costs another poll.
const ROLL_CALL_GROUP: usize = 50;
/// Up to so many devices are asked one by one after a repair round.
const STRAGGLERS: usize = 16;
/// Windows and sessions a task may open after the first.
const MAX_WINDOWS: u8 = 16;
const MAX_SESSIONS: usize = 32;
/// What must be left of a window for another frame and its poll.
const WINDOW_TAIL: Duration = Duration::from_secs(2);

/// A session at work.
pub(super) struct SessionRun {
    pub(super) record: DistributionSession,
    encoder: Option<Encoder>,
    /// Which coded fragment is the k-th to send.
    rows: Vec<u16>,
    /// The frame whose report is awaited.
    waiting: Option<u32>,
    /// Nothing is released before.
    not_before: Timestamp,
    /// An uncoded fragment to be sent once more.
    resend: Option<u16>,
    /// End on air of the last frame, as far as reported.
    air_end: Timestamp,
    /// Devices asked in the current poll that have not answered; unknown after a restart.
    unanswered: Option<BTreeSet<DevEui>>,
    /// A device answered the current poll.
    heard_any: bool,
    /// Frames of the group released in this run of the server.
    frames: u32,
}

impl SessionRun {
    /// `budget`: most coded fragments the session may send.
    pub(super) fn new(record: DistributionSession, encoder: Option<Encoder>, budget: u16) -> Self {
        let nb_frag = record.block.nb_frag;
        let rows = encoder.as_ref().map_or_else(Vec::new, |e| {
            chosen_rows(e.matrix().version(), nb_frag, budget)
        });
        Self {
            record,
            encoder,
            rows,
            waiting: None,
            not_before: Timestamp::default(),
            resend: None,
            air_end: Timestamp::default(),
            unanswered: None,
            heard_any: false,
            frames: 0,
        }
    }

    /// The device's last status answer covers everything sent so far.
    pub(super) fn is_fresh(&self, device: &TaskDevice) -> bool {
        device
            .fragments
            .is_some_and(|report| report.fragments_sent == fragments_sent(&self.record))
    }

    fn all_answered(&self) -> bool {
        self.unanswered.as_ref().is_some_and(BTreeSet::is_empty)
    }

    pub(super) fn wake(&self) -> Option<(Timestamp, Timer)> {
        match self.record.phase {
            SessionPhase::Preparing => Some((
                self.record.window.start + sizing::WINDOW_GUARD,
                Timer::WindowOpens,
            )),
            SessionPhase::Sending if self.waiting.is_none() => {
                Some((self.not_before, Timer::FragmentDue))
            }
            SessionPhase::Polling { until, .. } if self.waiting.is_none() => {
                Some((until, Timer::AnswersOver))
            }
            SessionPhase::Sending | SessionPhase::Polling { .. } | SessionPhase::Closed => None,
        }
    }

    /// The fragment `n` as it goes on air.
    fn fragment(&self, n: u16) -> Option<Vec<u8>> {
        let encoder = self.encoder.as_ref()?;
        let mut fragment = vec![0; usize::from(self.record.block.frag_size)];
        encoder.fragment(n, &mut fragment).ok()?;
        let mut payload =
            Vec::with_capacity(fragment.len() + usize::from(sizing::DATA_FRAGMENT_OVERHEAD));
        DataFragment {
            frag_index: self.record.block.frag_index,
            n,
            fragment: &fragment,
        }
        .encode(&mut payload);
        Some(payload)
    }

    /// `N` of the k-th coded fragment, k from 0.
    fn coded_n(&self, k: u16) -> Option<u16> {
        self.rows
            .get(usize::from(k))
            .map(|row| self.record.block.nb_frag + row)
    }
}

impl Campaign {
    /// The session a device belongs to.
    pub(super) fn session_of(&self, device: &TaskDevice) -> Option<&SessionRun> {
        self.sessions.get(usize::from(device.session?))
    }

    /// Moves one session on as far as it goes now.
    pub(super) fn advance_session(
        &mut self,
        now: Timestamp,
        number: usize,
        around: &Surroundings<'_>,
    ) {
        // Each turn changes the phase or stops; a session passes few phases at one moment.
        for _ in 0..8 {
            let Some(session) = self.sessions.get(number) else {
                return;
            };
            let before = session.record.phase;
            match before {
                SessionPhase::Preparing
                    if now >= session.record.window.start + sizing::WINDOW_GUARD =>
                {
                    self.open_window(now, number, around);
                }
                SessionPhase::Preparing if self.nobody_left(number) => self.close_session(number),
                SessionPhase::Sending => self.release(now, number, around),
                SessionPhase::Polling { kind, until } => {
                    let over = now >= until || (session.all_answered() && kind != PollKind::Gaps);
                    if session.waiting.is_none() && (over || self.nobody_left(number)) {
                        self.evaluate(now, number, kind, around);
                    } else if session.waiting.is_none()
                        && session.heard_any
                        && kind == PollKind::Individual
                    {
                        self.evaluate_individual(now, number, around);
                    }
                }
                SessionPhase::Preparing | SessionPhase::Closed => {}
            }
            let Some(session) = self.sessions.get(number) else {
                return;
            };
            if session.record.phase == before {
                return;
            }
        }
    }

    /// The fate of a downlink of this campaign.
    pub(super) fn reported(&mut self, now: Timestamp, report: &TxReport) {
        let Some(what) = self.in_flight.remove(&report.id.number) else {
            return;
        };
        let frames = u64::from(report.transmissions());
        let (mut airtime, mut air_end) = (Duration::ZERO, None);
        for outcome in &report.outcomes {
            match outcome.outcome {
                TxOutcome::Queued {
                    on_air_at,
                    airtime: a,
                }
                | TxOutcome::Sent {
                    on_air_at,
                    airtime: a,
                } => {
                    airtime += a;
                    air_end = air_end.max(Some(on_air_at + a));
                }
                TxOutcome::Refused(_) | TxOutcome::Unknown => {}
            }
        }
        let airtime_us = u64::try_from(airtime.as_micros()).unwrap_or(u64::MAX);
        let counters = &mut self.task.counters;
        self.changed.task = true;
        counters.airtime_us += airtime_us;
        if !report.on_air() {
            counters.refused_frames += 1;
        }
        match what {
            InFlight::Command(dev_eui) => {
                counters.unicast_frames += frames;
                if !report.on_air() {
                    self.unsaid(now, dev_eui);
                }
            }
            InFlight::Fragment { session, n } => {
                counters.multicast_airtime_us += airtime_us;
                if n <= self
                    .sessions
                    .get(usize::from(session))
                    .map_or(0, |s| s.record.block.nb_frag)
                {
                    counters.uncoded_frames += frames;
                } else {
                    counters.coded_frames += frames;
                }
                self.fragment_reported(now, usize::from(session), n, report.on_air(), air_end);
            }
            InFlight::Poll { session } => {
                counters.multicast_airtime_us += airtime_us;
                counters.poll_frames += frames;
                self.poll_reported(now, usize::from(session), report.on_air(), air_end);
            }
        }
    }

    fn fragment_reported(
        &mut self,
        now: Timestamp,
        number: usize,
        n: u16,
        on_air: bool,
        air_end: Option<Timestamp>,
    ) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        session.waiting = None;
        if on_air {
            session.air_end = session.air_end.max(air_end.unwrap_or(now));
            return;
        }
        session.not_before = now + REFUSED_PAUSE;
        if n <= session.record.block.nb_frag {
            session.resend = Some(n);
        } else {
            session.record.coded_target = session.record.coded_target.saturating_add(1);
            self.changed.sessions.insert(session.record.id.number);
        }
    }

    fn poll_reported(
        &mut self,
        now: Timestamp,
        number: usize,
        on_air: bool,
        air_end: Option<Timestamp>,
    ) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        session.waiting = None;
        let SessionPhase::Polling { kind, .. } = session.record.phase else {
            return;
        };
        session.record.phase = if on_air {
            let spread = fragmentation::block_ack_delay_max(session.record.block.block_ack_delay);
            SessionPhase::Polling {
                kind,
                until: air_end.unwrap_or(now) + spread + sizing::ANSWER_SLACK,
            }
        } else {
            session.not_before = now + REFUSED_PAUSE;
            SessionPhase::Sending
        };
        self.changed.sessions.insert(session.record.id.number);
    }

    /// Releases the next frame of a session, if its turn has come.
    fn release(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        if self.nobody_left(number) {
            return self.close_session(number);
        }
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        if session.waiting.is_some() || now < session.not_before {
            return;
        }
        let (record, nb_frag) = (&session.record, session.record.block.nb_frag);
        if now + WINDOW_TAIL >= record.window.end() {
            return self.next_window(now, number, around);
        }
        let next = match session.resend {
            Some(n) => Some(n),
            None if record.uncoded_sent < nb_frag => Some(record.uncoded_sent + 1),
            None if record.coded_sent < record.coded_target => session.coded_n(record.coded_sent),
            None => None,
        };
        let payload = next.and_then(|n| Some((n, session.fragment(n)?)));
        let Some((n, payload)) = payload else {
            let kind = self.next_poll(number, around);
            return self.poll(now, number, kind, around);
        };
        let timing = Timing {
            answers: None,
            earliest: record.window.start + sizing::WINDOW_GUARD,
            deadline: record.window.end(),
        };
        let (id, port) = (record.id.clone(), record.frag_port);
        let what = InFlight::Fragment {
            session: id.number,
            n,
        };
        let sent = self.send(what, Target::Group(id.clone()), port, payload, timing);
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        session.waiting = Some(sent);
        session.frames += 1;
        if session.resend.take().is_none() {
            if n <= nb_frag {
                session.record.uncoded_sent = n;
            } else {
                session.record.coded_sent += 1;
            }
        }
        self.changed.sessions.insert(id.number);
    }

    /// Who is asked after a round: large groups for their gaps, small ones all at once, and a few stragglers whose
    /// uplinks come sooner than answers to a poll would, one by one.
    fn next_poll(&self, number: usize, around: &Surroundings<'_>) -> PollKind {
        let devices = self.receiving(number);
        let Some(session) = self.sessions.get(number) else {
            return PollKind::Gaps;
        };
        let spread = fragmentation::block_ack_delay_max(session.record.block.block_ack_delay);
        let known = devices.iter().filter_map(|d| around.fleet.get(*d));
        let soon = known
            .map(|d| d.profile.uplink_interval)
            .max()
            .unwrap_or_default()
            < spread;
        match devices.len() {
            0..=STRAGGLERS if soon && session.record.round > 1 => PollKind::Individual,
            0..=ROLL_CALL_GROUP => PollKind::RollCall,
            _ => PollKind::Gaps,
        }
    }

    /// Asks for status: by multicast, or (individually) at each device's next uplink.
    fn poll(&mut self, now: Timestamp, number: usize, kind: PollKind, around: &Surroundings<'_>) {
        let unanswered: BTreeSet<DevEui> = self.receiving(number).into_iter().collect();
        let silence = unanswered
            .iter()
            .filter_map(|d| around.fleet.get(*d))
            .map(silence)
            .max();
        let silence = silence.unwrap_or(sizing::ANSWER_SLACK);
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        session.unanswered = Some(unanswered);
        session.heard_any = false;
        let record = &mut session.record;
        let spread = fragmentation::block_ack_delay_max(record.block.block_ack_delay);
        let (id, port, frag_index) = (record.id.clone(), record.frag_port, record.block.frag_index);
        self.changed.sessions.insert(id.number);
        if kind == PollKind::Individual {
            record.phase = SessionPhase::Polling {
                kind,
                until: now + silence,
            };
            self.due
                .extend(self.devices.keys().map(|dev_eui| (now, *dev_eui)));
            return;
        }
        record.phase = SessionPhase::Polling {
            kind,
            until: now + spread + sizing::ANSWER_SLACK,
        };
        let timing = Timing {
            answers: None,
            earliest: session.air_end,
            deadline: record.window.end(),
        };
        let mut payload = Vec::new();
        let request = FragSessionStatusReq {
            frag_index,
            participants: kind == PollKind::RollCall,
        };
        fragmentation::DownlinkCommand::FragSessionStatusReq(request)
            .encode(record.block.version, &mut payload);
        let sent = self.send(
            InFlight::Poll { session: id.number },
            Target::Group(id),
            port,
            payload,
            timing,
        );
        if let Some(session) = self.sessions.get_mut(number) {
            session.waiting = Some(sent);
            session.frames += 1;
        }
    }

    /// The answers to a poll are in: another round, a roll call, or the end.
    fn evaluate(
        &mut self,
        now: Timestamp,
        number: usize,
        kind: PollKind,
        around: &Surroundings<'_>,
    ) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        let heard_any = std::mem::take(&mut session.heard_any);
        let devices = self.receiving(number);
        if devices.is_empty() {
            return self.close_session(number);
        }
        if self.next_round(now, number, &devices, around) {
            return;
        }
        // Nobody who answered needs anything; the others are done, or were not heard.
        if kind == PollKind::Individual {
            self.end_silent(now, number, around);
        }
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        session.record.roll_calls = session.record.roll_calls.saturating_add(1);
        let spread = fragmentation::block_ack_delay_max(session.record.block.block_ack_delay);
        let in_window = now + spread < session.record.window.end();
        // A first roll call finds most; another pays where waiting for each device's uplink takes longer.
        let unsure = devices.iter().filter_map(|d| around.fleet.get(*d));
        let interval = unsure
            .map(|d| d.profile.uplink_interval)
            .max()
            .unwrap_or_default();
        let again = heard_any && session.record.roll_calls <= ROLL_CALLS && interval > spread;
        if in_window && (kind == PollKind::Gaps || (kind == PollKind::RollCall && again)) {
            self.poll(now, number, PollKind::RollCall, around);
        } else {
            self.poll(now, number, PollKind::Individual, around);
        }
    }

    /// Devices that were to be asked at their next uplink and had none for several of their intervals.
    fn end_silent(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        for dev_eui in self.receiving(number) {
            let Some(device) = around.fleet.get(dev_eui) else {
                continue;
            };
            let seen = device.status.last_seen.unwrap_or_default();
            if now >= seen + silence(device) {
                let evidence = format!("receiving, and not heard since {seen}");
                let reason = Some(DeviceReason::NoAnswer);
                self.conclude(now, dev_eui, DeviceState::Silent, reason, evidence);
            }
        }
    }

    /// While devices are asked one by one: a new need opens another round at once.
    fn evaluate_individual(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        let devices = self.receiving(number);
        if let Some(session) = self.sessions.get_mut(number) {
            session.heard_any = false;
        }
        if devices.is_empty() {
            self.close_session(number);
        } else {
            self.next_round(now, number, &devices, around);
        }
    }

    /// Begins a round for the devices known to need something; false when none does.
    fn next_round(
        &mut self,
        now: Timestamp,
        number: usize,
        devices: &[DevEui],
        around: &Surroundings<'_>,
    ) -> bool {
        let Some(session) = self.sessions.get(number) else {
            return false;
        };
        let sent = fragments_sent(&session.record);
        let needs: Vec<(DevEui, u16)> = devices
            .iter()
            .filter_map(|dev_eui| {
                let device = self.devices.get(dev_eui).filter(|d| session.is_fresh(d))?;
                let report = device.fragments.filter(|report| report.deficit > 0)?;
                Some((
                    *dev_eui,
                    sizing::repair_frames(report.deficit, loss(&report, sent), ROUND_DEVIATIONS),
                ))
            })
            .collect();
        let Some(size) = needs.iter().map(|(_, frames)| *frames).max() else {
            return false;
        };
        let record = &session.record;
        let budget = sizing::coded_budget(
            record.block.nb_frag,
            self.task.options.max_redundancy_percent,
        );
        let left = budget.saturating_sub(record.coded_sent);
        if left == 0 || session.frames >= MAX_GROUP_FRAMES {
            for (dev_eui, _) in needs {
                let evidence = format!(
                    "still missing fragments after {} coded ones",
                    record_coded(self, number)
                );
                self.conclude(
                    now,
                    dev_eui,
                    DeviceState::Failed,
                    Some(DeviceReason::BudgetSpent),
                    evidence,
                );
            }
            return false;
        }
        let size = size.clamp(1, left);
        let Some(session) = self.sessions.get_mut(number) else {
            return false;
        };
        session.record.coded_target = session.record.coded_sent.saturating_add(size);
        session.record.round = session.record.round.saturating_add(1);
        session.record.roll_calls = 0;
        session.record.phase = SessionPhase::Sending;
        let window_over = now + WINDOW_TAIL >= session.record.window.end();
        self.changed.sessions.insert(session.record.id.number);
        if window_over {
            self.next_window(now, number, around);
        }
        true
    }

    /// `FragSessionStatusAns`.
    pub(super) fn status_answered(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        version: PackageVersion,
        answer: &FragSessionStatusAns,
        around: &mut Surroundings<'_>,
    ) {
        let Some(device) = around.fleet.get(dev_eui) else {
            return;
        };
        let stack = device.profile.status_interpretation;
        let Some(record) = self.devices.get(&dev_eui) else {
            return;
        };
        let Some(session) = self.session_of(record) else {
            return;
        };
        let block = session.record.block;
        if record.state != DeviceState::Receiving
            || answer
                .frag_index
                .is_some_and(|index| index != block.frag_index)
        {
            return;
        }
        let number = usize::from(session.record.id.number);
        let (coded_sent, sent) = (session.record.coded_sent, fragments_sent(&session.record));
        // While fragments flow, an answer is about an earlier moment: it is no sign of what is needed after the round.
        let settled = matches!(session.record.phase, SessionPhase::Polling { .. });
        self.answered(now, dev_eui);
        if answer.session_absent {
            return self.session_lost(now, dev_eui);
        }
        if answer.memory_error {
            let evidence = format!(
                "memory error after {} of {} fragments",
                answer.nb_frag_received, block.nb_frag
            );
            return self.conclude(
                now,
                dev_eui,
                DeviceState::Failed,
                Some(DeviceReason::MemoryError),
                evidence,
            );
        }
        let progress = status::interpret(
            stack,
            Answer {
                version,
                received: answer.nb_frag_received,
                missing: answer.missing_frag,
                nb_frag: block.nb_frag,
                coded_sent,
            },
        );
        let deficit = match progress {
            Progress::Complete => 0,
            Progress::Needs(deficit) => deficit,
        };
        let report = FragmentReport {
            received: answer.nb_frag_received,
            missing: answer.missing_frag,
            deficit,
            fragments_sent: if settled {
                sent
            } else {
                sent.saturating_sub(1)
            },
            at: now,
        };
        if let Some(record) = self.devices.get_mut(&dev_eui) {
            record.fragments = Some(report);
            self.changed.devices.insert(dev_eui);
        }
        if let Some(status) = around.fleet.status_mut(dev_eui) {
            status.loss_permille = Some(blend(status.loss_permille, loss(&report, sent)));
        }
        if let Some(session) = self.sessions.get_mut(number).filter(|_| settled) {
            if let Some(unanswered) = &mut session.unanswered {
                unanswered.remove(&dev_eui);
            }
            session.heard_any = true;
        }
        if progress != Progress::Complete {
            return;
        }
        let evidence = format!(
            "status: {} received, {} missing of {}",
            report.received, report.missing, block.nb_frag
        );
        match (version, answer.mic_error) {
            (PackageVersion::V2, true) => {
                self.conclude(
                    now,
                    dev_eui,
                    DeviceState::Failed,
                    Some(DeviceReason::MicError),
                    evidence,
                );
            }
            // Version 2 checks the MIC before it says so; TS006 may still be asked what it thinks of the image.
            (PackageVersion::V2, false) => {
                self.conclude(now, dev_eui, DeviceState::ReportedReceived, None, evidence)
            }
            (PackageVersion::V1, _) => {
                self.conclude(now, dev_eui, DeviceState::ReportedReceived, None, evidence)
            }
        }
    }

    /// The device has no such session any more: it is set up again for a later session.
    fn session_lost(&mut self, now: Timestamp, dev_eui: DevEui) {
        self.reset_setup(
            now,
            dev_eui,
            "the fragmentation session does not exist on the device",
        );
        self.due.insert((now, dev_eui));
    }

    /// The window opens: who is ready takes part, who is not gets another session.
    fn open_window(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        let (window, continues) = (session.record.window, session.record.uncoded_sent > 0);
        let members: Vec<(DevEui, DeviceState, SetupStage)> = self
            .members(number)
            .map(|d| (d.dev_eui, d.state, d.setup))
            .collect();
        let ready: Vec<DevEui> = members
            .iter()
            .filter(|(_, state, setup)| {
                setup.window == Some(window.number)
                    && matches!(state, DeviceState::Ready | DeviceState::Receiving)
            })
            .map(|(dev_eui, ..)| *dev_eui)
            .collect();
        if !continues {
            self.move_late(now, number, &members, &ready, around);
        }
        if ready.is_empty() {
            if self.nobody_left(number) {
                self.close_session(number);
            } else {
                self.next_window(now, number, around);
            }
            return;
        }
        for dev_eui in &ready {
            if self
                .devices
                .get(dev_eui)
                .is_some_and(|d| d.state == DeviceState::Ready)
            {
                let evidence = format!("window {} open", window.number);
                self.conclude(now, *dev_eui, DeviceState::Receiving, None, evidence);
            }
        }
        let fleet = &around.fleet;
        let gateways =
            plan::covering_gateways(ready.iter().filter_map(|d| fleet.get(*d)), around.gateways);
        let loss = self.expected_loss(&ready, fleet);
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        if !gateways.is_empty() {
            session.record.gateways = gateways;
        }
        session.record.phase = SessionPhase::Sending;
        session.not_before = now;
        if !continues {
            session.record.round = 1;
            session.record.coded_target =
                sizing::first_coded(session.record.block.nb_frag, loss, ready.len());
        }
        self.changed.sessions.insert(session.record.id.number);
        self.request_group(number);
    }

    /// Loss the median device of a session is expected to have, permille: as it was in earlier tasks, else as the
    /// set-up just showed. A command and its answer are two frames, each lost alike.
    fn expected_loss(&self, ready: &[DevEui], fleet: &Fleet) -> u16 {
        let mut known: Vec<u16> = ready
            .iter()
            .filter_map(|d| fleet.get(*d)?.status.loss_permille)
            .collect();
        known.sort_unstable();
        if let Some(median) = known
            .get(known.len() / 2)
            .filter(|_| known.len() * 2 >= ready.len())
        {
            return *median;
        }
        let records = ready.iter().filter_map(|d| self.devices.get(d));
        let (sends, answers) = records.fold((0, 0), |(sends, answers), d| {
            (sends + d.attempts, answers + d.commands_answered)
        });
        let links = ready
            .iter()
            .filter_map(|d| Some(fleet.get(*d)?.status.links.len()));
        sizing::loss_of_exchanges(sends, answers, links.min().unwrap_or(0) > 1)
    }

    /// Devices that are not ready when fragments begin: those never heard have ended, the others get a session of their
    /// own.
    fn move_late(
        &mut self,
        now: Timestamp,
        number: usize,
        members: &[(DevEui, DeviceState, SetupStage)],
        ready: &[DevEui],
        around: &Surroundings<'_>,
    ) {
        let mut late = Vec::new();
        for (dev_eui, ..) in members
            .iter()
            .filter(|(dev_eui, ..)| !ready.contains(dev_eui))
        {
            if self.heard_since_start(*dev_eui, around)
                || !self.was_given_time(now, *dev_eui, around)
            {
                late.push(*dev_eui);
            } else {
                let evidence = "no uplink since the task began".to_owned();
                let reason = Some(DeviceReason::NoAnswer);
                self.conclude(now, *dev_eui, DeviceState::Silent, reason, evidence);
            }
        }
        if ready.is_empty() || late.is_empty() {
            return;
        }
        let start = self.setup_ends(now, &late, around);
        let beyond = self.task.deadline.is_some_and(|deadline| start >= deadline);
        if beyond || self.sessions.len() >= MAX_SESSIONS {
            for dev_eui in late {
                let evidence = "not set up before its window, and no later one fits".to_owned();
                self.conclude(
                    now,
                    dev_eui,
                    DeviceState::Failed,
                    Some(DeviceReason::WindowClosed),
                    evidence,
                );
            }
            return;
        }
        self.follow_up(now, number, &late, start);
    }

    /// The task has run for several of the device's intervals.
    fn was_given_time(&self, now: Timestamp, dev_eui: DevEui, around: &Surroundings<'_>) -> bool {
        let patience = around.fleet.get(dev_eui).map(silence).unwrap_or_default();
        self.task
            .started_at
            .is_none_or(|started| now >= started + patience)
    }

    /// A fresh session for devices that could not take part in `number`.
    fn follow_up(&mut self, now: Timestamp, number: usize, devices: &[DevEui], start: Timestamp) {
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        let next = u16::try_from(self.sessions.len()).unwrap_or(u16::MAX);
        let mut record = session.record.clone();
        record.id = SessionId {
            task: self.task.id.clone(),
            number: next,
        };
        record.phase = SessionPhase::Preparing;
        record.window = SessionWindow {
            number: 0,
            start,
            time_out: record.window.time_out,
        };
        (record.uncoded_sent, record.coded_sent, record.coded_target) = (0, 0, 0);
        (record.round, record.roll_calls) = (0, 0);
        self.add_session(record);
        self.changed.sessions.insert(next);
        self.request_group(usize::from(next));
        for dev_eui in devices {
            self.reset_setup(
                now,
                *dev_eui,
                "not set up before its window; waits for the next one",
            );
            if let Some(device) = self.devices.get_mut(dev_eui) {
                device.session = Some(next);
                device.reason = None;
            }
        }
    }

    /// The window is over, or passed without anybody: another one is announced, and what devices hold is kept.
    fn next_window(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        let members: Vec<DevEui> = self.members(number).map(|d| d.dev_eui).collect();
        let start = self.setup_ends(now, &members, around);
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        let beyond = self.task.deadline.is_some_and(|deadline| start >= deadline);
        if beyond || session.record.window.number >= MAX_WINDOWS {
            for dev_eui in members {
                let evidence = "the window closed and no later one fits".to_owned();
                self.conclude(
                    now,
                    dev_eui,
                    DeviceState::Failed,
                    Some(DeviceReason::WindowClosed),
                    evidence,
                );
            }
            return self.close_session(number);
        }
        session.record.phase = SessionPhase::Preparing;
        session.record.window.number += 1;
        session.record.window.start = start;
        session.resend = None;
        self.changed.sessions.insert(session.record.id.number);
        for dev_eui in members {
            self.due.insert((now, dev_eui));
            // A device that was ready for the old window is not ready for the new one.
            if self
                .devices
                .get(&dev_eui)
                .is_some_and(|d| d.state == DeviceState::Ready)
            {
                let evidence = "its window passed; waits for the next one".to_owned();
                self.conclude(now, dev_eui, DeviceState::Preparing, None, evidence);
            }
        }
    }

    /// When devices can be expected to have confirmed another window.
    fn setup_ends(
        &self,
        now: Timestamp,
        devices: &[DevEui],
        around: &Surroundings<'_>,
    ) -> Timestamp {
        let interval = devices
            .iter()
            .filter_map(|d| Some(around.fleet.get(*d)?.profile.uplink_interval))
            .max();
        (now + interval.unwrap_or_default() * 3 + Duration::from_secs(15)).ceil_gps_second()
    }

    /// No fragment will be sent in this session any more.
    pub(super) fn close_session(&mut self, number: usize) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        if session.record.phase != SessionPhase::Closed {
            session.record.phase = SessionPhase::Closed;
            session.waiting = None;
            let id = session.record.id.clone();
            self.changed.sessions.insert(id.number);
            self.requests.push(NetworkRequest::RemoveGroup(id));
        }
    }

    fn members(&self, number: usize) -> impl Iterator<Item = &TaskDevice> {
        self.open
            .iter()
            .filter_map(|dev_eui| self.devices.get(dev_eui))
            .filter(move |d| d.session.map(usize::from) == Some(number))
            .filter(|d| d.state < DeviceState::ReportedReceived)
    }

    fn nobody_left(&self, number: usize) -> bool {
        self.members(number).next().is_none()
    }

    fn receiving(&self, number: usize) -> Vec<DevEui> {
        self.members(number)
            .filter(|d| d.state == DeviceState::Receiving)
            .map(|d| d.dev_eui)
            .collect()
    }
}

fn record_coded(campaign: &Campaign, number: usize) -> u16 {
    campaign
        .sessions
        .get(number)
        .map_or(0, |session| session.record.coded_sent)
}

/// Share of the fragments sent that a device did not count, 0..=0.9; half a frame of doubt on either side.
fn loss(report: &FragmentReport, sent: u16) -> f64 {
    let sent = f64::from(sent.max(report.received));
    let lost = sent - f64::from(report.received);
    ((lost + 0.5) / (sent + 1.0)).clamp(0.0, 0.9)
}

/// The new estimate counts as much as all earlier ones.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 900"
)]
fn blend(before: Option<u16>, loss: f64) -> u16 {
    let new = (loss * 1000.0) as u16;
    before.map_or(new, |before| before.midpoint(new))
}
