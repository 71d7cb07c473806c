//! During the window: uncoded fragments, then as many coded ones as the round wants.
//!
//! At most one frame of a session waits for its report, so that the next fragment is chosen knowing whether the last
//! one left: a fragment no gateway sent goes out again before any later one does (devices drop late uncoded fragments,
//! and a coded one that nobody could hear is not taken from what the operator allows). The network decides when a frame
//! is on air; a slow report is the back pressure that paces the session. How long a round is and who is asked after it:
//! `rounds`; when a window opens and closes and for whom: `windows`.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lorawan::fragmentation::{self, DataFragment};
use crate::lorawan::identifiers::DevEui;
use crate::record::{
    DistributionSession, PollKind, Refusal, SessionPhase, Target, TaskDevice, TxOutcome, TxReport,
    UnicastFragments, fragments_sent,
};
use crate::task::sizing;
use crate::time::Timestamp;

use super::coder::Coder;
use super::{Campaign, InFlight, Surroundings, Timer, Timing};

/// Before a frame the network refused is tried again, and while no gateway is there.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// The duty cycle is spent for longer than the window lasts: only a frame that is given up elsewhere changes that.
const NO_AIR_PAUSE: Duration = Duration::from_secs(30);
/// What must be left of a window for another frame and its poll.
pub(super) const WINDOW_TAIL: Duration = Duration::from_secs(2);

/// A session at work.
pub(super) struct SessionRun {
    pub(super) record: DistributionSession,
    coder: Option<Coder>,
    /// The frame whose report is awaited.
    pub(super) waiting: Option<u32>,
    /// Nothing is released before.
    pub(super) not_before: Timestamp,
    /// End on air of the last frame, as far as reported.
    pub(super) air_end: Timestamp,
    /// Devices asked in the current poll that have not answered; unknown after a restart.
    pub(super) unanswered: Option<BTreeSet<DevEui>>,
    /// A device answered the current poll.
    pub(super) heard_any: bool,
    /// Devices set up while fragments flow, until their own windows open.
    pub(super) coming: BTreeSet<DevEui>,
    /// Who comes too late for this session has been given another one.
    pub(super) late_seen_to: bool,
    /// Until then a device that just said what it needs is busy with its receive windows.
    pub(super) quiet_until: Timestamp,
    /// What the counter of the group has come to, at least: polls before a restart are not counted.
    pub(super) frames: u32,
    /// Windows in a row in which nobody was ready.
    pub(super) empty_windows: u8,
    /// The server's clock is off: its window does not open before that is looked at again.
    pub(super) held_back_until: Option<Timestamp>,
}

impl SessionRun {
    pub(super) fn new(record: DistributionSession, coder: Option<Coder>) -> Self {
        let reused = record.group_use.reused.as_ref();
        let frames = reused.map_or(0, |reused| reused.first_mc_f_cnt);
        let frames = frames + u32::from(fragments_sent(&record));
        Self {
            record,
            coder,
            waiting: None,
            not_before: Timestamp::default(),
            air_end: Timestamp::default(),
            unanswered: None,
            heard_any: false,
            coming: BTreeSet::new(),
            late_seen_to: false,
            quiet_until: Timestamp::default(),
            frames,
            empty_windows: 0,
            held_back_until: None,
        }
    }

    /// The device's last status answer covers everything sent so far.
    pub(super) fn is_fresh(&self, device: &TaskDevice) -> bool {
        let alone = device.unicast.map(UnicastFragments::sent);
        let sent = alone.unwrap_or_else(|| fragments_sent(&self.record));
        device
            .fragments
            .is_some_and(|report| report.fragments_sent == sent)
    }

    /// Fragments flow, or devices are being asked what they got.
    pub(super) fn is_running(&self) -> bool {
        matches!(
            self.record.phase,
            SessionPhase::Sending | SessionPhase::Polling { .. }
        )
    }

    /// Enough uncoded fragments are still to come for a device that holds nothing yet. From coded ones alone it may
    /// never put the block together: where each row has an even number of bits, all sums of rows have.
    pub(super) fn is_open_to_late(&self) -> bool {
        let nb_frag = self.record.block.nb_frag;
        let to_come = nb_frag.saturating_sub(self.record.uncoded_sent);
        self.record.phase != SessionPhase::Closed && to_come >= (nb_frag / 10).max(8)
    }

    /// When fragments may flow: the window is open, and nothing holds it back.
    fn opens_at(&self) -> Timestamp {
        let opens = self.record.window.start + sizing::WINDOW_GUARD;
        self.held_back_until.map_or(opens, |until| opens.max(until))
    }

    fn all_answered(&self) -> bool {
        self.unanswered.as_ref().is_some_and(BTreeSet::is_empty)
    }

    pub(super) fn wake(&self) -> Option<(Timestamp, Timer)> {
        match self.record.phase {
            SessionPhase::Preparing => Some((self.opens_at(), Timer::WindowOpens)),
            SessionPhase::Sending if self.waiting.is_none() => {
                Some((self.not_before, Timer::FragmentDue))
            }
            SessionPhase::Polling { until, .. } if self.waiting.is_none() => {
                Some((until, Timer::AnswersOver))
            }
            SessionPhase::Planned
            | SessionPhase::Sending
            | SessionPhase::Polling { .. }
            | SessionPhase::Closed
            | SessionPhase::Individual => None,
        }
    }

    /// The fragment `n` as it goes on air.
    pub(super) fn fragment(&self, n: u16) -> Option<Vec<u8>> {
        let mut fragment = vec![0; usize::from(self.record.block.frag_size)];
        self.coder.as_ref()?.fragment(n, &mut fragment)?;
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

    /// Rows of the coded fragments sent so far, to the group or to a device `alone`, in that order; none of a code
    /// without rows.
    pub(super) fn rows_sent(&self, alone: Option<UnicastFragments>) -> &[u16] {
        let rows = self.coder.as_ref().map_or(&[][..], Coder::rows);
        let sent = alone.map_or(self.record.coded_sent, |alone| alone.coded_sent);
        let sent = usize::from(sent);
        rows.get(..sent).unwrap_or(rows)
    }

    /// `N` of the k-th coded fragment, k from 0.
    pub(super) fn coded_n(&self, k: u16) -> Option<u16> {
        self.coder.as_ref()?.coded_n(k)
    }

    /// The round ends when so many coded fragments, or a few more, are sent: it helps every block of the code alike.
    pub(super) fn aim(&mut self, coded: u16) {
        let turn = sizing::turn(self.record.block.frag_algo, self.record.block.nb_frag);
        self.record.coded_target = coded.checked_next_multiple_of(turn).unwrap_or(coded);
    }
}

/// What became of a frame of a group.
#[derive(Clone, Copy)]
enum Fate {
    /// On air until then, if that is known.
    OnAir(Option<Timestamp>),
    /// Not on air; worth another try after so long.
    Refused(Duration),
}

impl Fate {
    fn of(report: &TxReport, air_end: Option<Timestamp>) -> Self {
        if report.on_air() {
            return Self::OnAir(air_end);
        }
        let no_air = |outcome: TxOutcome| outcome == TxOutcome::Refused(Refusal::NoAirTime);
        let spent = report.outcomes.iter().any(|o| no_air(o.outcome));
        Self::Refused(if spent { NO_AIR_PAUSE } else { REFUSED_PAUSE })
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
        self.let_in(now, number, around);
        self.see_to_too_late(now, number, around);
        // Each turn changes the phase or stops; a session passes few phases at one moment.
        for _ in 0..8 {
            let Some(session) = self.sessions.get(number) else {
                return;
            };
            let before = session.record.phase;
            match before {
                SessionPhase::Preparing if now >= session.opens_at() => {
                    self.open_window(now, number, around);
                }
                SessionPhase::Preparing if self.nobody_left(number) => self.close_session(number),
                SessionPhase::Sending => self.release(now, number, around),
                SessionPhase::Polling { kind, until } => {
                    let over = now >= until || (session.all_answered() && kind != PollKind::Gaps);
                    if session.waiting.is_none()
                        && (over || self.receiving(number).next().is_none())
                    {
                        self.evaluate(now, number, kind, around);
                    } else if session.waiting.is_none()
                        && session.heard_any
                        && kind == PollKind::Individual
                    {
                        self.evaluate_individual(now, number, around);
                    }
                }
                SessionPhase::Individual => self.advance_alone(now, number, around),
                SessionPhase::Planned | SessionPhase::Preparing | SessionPhase::Closed => {}
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
        self.note_airtime(&what, report);
        let counters = &mut self.task.counters;
        match what {
            InFlight::Command {
                dev_eui,
                said_at,
                in_window,
            } => {
                counters.unicast_frames += frames;
                if report.on_air() {
                    self.said(dev_eui, said_at, air_end.unwrap_or(now), in_window);
                } else {
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
                let fate = Fate::of(report, air_end);
                self.fragment_reported(now, usize::from(session), n, fate);
            }
            InFlight::Alone { dev_eui, session } => {
                counters.unicast_frames += frames;
                self.alone_reported(now, dev_eui, session, report);
            }
            InFlight::Poll { session } => {
                counters.multicast_airtime_us += airtime_us;
                counters.poll_frames += frames;
                self.poll_reported(now, usize::from(session), Fate::of(report, air_end));
            }
        }
    }

    /// Air time of a session's frames by gateway.
    fn note_airtime(&mut self, what: &InFlight, report: &TxReport) {
        let (InFlight::Fragment { session, .. } | InFlight::Poll { session }) = what else {
            return;
        };
        let Some(run) = self.sessions.get_mut(usize::from(*session)) else {
            return;
        };
        for outcome in &report.outcomes {
            if let (
                Some(gateway),
                TxOutcome::Queued { airtime, .. } | TxOutcome::Sent { airtime, .. },
            ) = (outcome.gateway, outcome.outcome)
            {
                run.record.note_airtime(gateway, airtime);
                self.changed.sessions.insert(*session);
            }
        }
    }

    fn fragment_reported(&mut self, now: Timestamp, number: usize, n: u16, fate: Fate) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        session.waiting = None;
        match fate {
            Fate::OnAir(end) => {
                session.air_end = session.air_end.max(end.unwrap_or(now));
                return;
            }
            Fate::Refused(pause) => {
                session.not_before = now + pause;
                session.record.resend = Some(n);
            }
        }
        self.changed.sessions.insert(session.record.id.number);
    }

    fn poll_reported(&mut self, now: Timestamp, number: usize, fate: Fate) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        session.waiting = None;
        let SessionPhase::Polling { kind, .. } = session.record.phase else {
            return;
        };
        session.record.phase = match fate {
            Fate::OnAir(end) => {
                let block = session.record.block;
                let spread = fragmentation::block_ack_delay_max(block.block_ack_delay);
                SessionPhase::Polling {
                    kind,
                    until: end.unwrap_or(now) + spread + sizing::ANSWER_SLACK,
                }
            }
            Fate::Refused(pause) => {
                session.not_before = now + pause;
                SessionPhase::Sending
            }
        };
        self.changed.sessions.insert(session.record.id.number);
    }

    /// Releases the next frame of a session, if its turn has come.
    fn release(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        if self.receiving(number).next().is_none() {
            return self.finish_session(now, number, around);
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
        let next = match record.resend {
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
            more: false,
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
        if session.record.resend.take().is_none() {
            if n <= nb_frag {
                session.record.uncoded_sent = n;
            } else {
                session.record.coded_sent += 1;
            }
        }
        self.changed.sessions.insert(id.number);
    }
}
