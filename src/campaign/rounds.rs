//! Status rounds: who is asked after a round of fragments, and how long the next one is.
//!
//! Cost function of a round: every coded fragment costs its air, every poll costs the wait for its answers, which is
//! worth [`POLL_COST`] fragments; the length with the least expected cost is sent. TS004-2.0.0 §3.3.

use std::collections::BTreeSet;

use crate::lorawan::PackageVersion;
use crate::lorawan::fragmentation::{self, FragSessionStatusAns, FragSessionStatusReq};
use crate::lorawan::identifiers::DevEui;
use crate::record::{
    BlockParameters, DeviceReason, DeviceState, DistributionSession, FragAlgo, FragmentReport,
    PollKind, SessionPhase, StatusInterpretation, Target, fragments_sent,
};
use crate::task::sizing::{self, Need};
use crate::time::Timestamp;

use super::conversation::silence;
use super::distribution::WINDOW_TAIL;
use super::status::{self, Answer, Progress};
use super::unicast::Needy;
use super::{Campaign, InFlight, Surroundings, Timing};

/// Standard deviations of luck a round of the Reed-Solomon code allows for.
const TURN_DEVIATIONS: f64 = 0.7;
/// What a poll is worth in frames. More makes few large rounds with frames nobody needs, less many small ones.
pub(super) const POLL_COST: f64 = 8.0;
/// Roll calls by multicast before devices are asked one by one.
const ROLL_CALLS: u8 = 2;
/// Frames one group may send: the counter must not reach 16 bits.
pub(super) const MAX_GROUP_FRAMES: u32 = 65_000;
/// Up to so many devices all are asked at once: a poll of those with gaps would save few answers and leave the silent
/// ones unknown, which costs another poll.
const ROLL_CALL_GROUP: usize = 50;
/// Up to so many devices are asked one by one after a repair round.
const STRAGGLERS: usize = 24;
/// Only of so many sessions in a row a device may miss all that matters and get another one.
const OTHER_SESSIONS: usize = 3;

impl Campaign {
    /// Who is asked after a round: large groups for their gaps, small ones all at once, and a few stragglers whose
    /// uplinks come sooner than answers to a poll would, one by one.
    pub(super) fn next_poll(&self, number: usize, around: &Surroundings<'_>) -> PollKind {
        let devices: Vec<DevEui> = self.receiving(number).collect();
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
    pub(super) fn poll(
        &mut self,
        now: Timestamp,
        number: usize,
        kind: PollKind,
        around: &Surroundings<'_>,
    ) {
        let unanswered: BTreeSet<DevEui> = self.receiving(number).collect();
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
        session.record.note_poll(now);
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
            more: false,
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
    pub(super) fn evaluate(
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
        let devices: Vec<DevEui> = self.receiving(number).collect();
        if devices.is_empty() {
            return self.finish_session(now, number, around);
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
        for dev_eui in self.receiving(number).collect::<Vec<_>>() {
            let Some(device) = around.fleet.get(dev_eui) else {
                continue;
            };
            let seen = device.status.last_seen.max(self.task.resumed_at);
            let seen = seen.unwrap_or_default();
            if now >= seen + silence(device) {
                let evidence = format!("receiving, and not heard since {seen}");
                let reason = Some(DeviceReason::NoAnswer);
                self.conclude(now, dev_eui, DeviceState::Silent, reason, evidence);
            }
        }
    }

    /// While devices are asked one by one: a new need opens another round at once.
    pub(super) fn evaluate_individual(
        &mut self,
        now: Timestamp,
        number: usize,
        around: &Surroundings<'_>,
    ) {
        let devices: Vec<DevEui> = self.receiving(number).collect();
        if let Some(session) = self.sessions.get_mut(number) {
            session.heard_any = false;
        }
        if devices.is_empty() {
            self.finish_session(now, number, around);
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
        let needs = self.needs(number, devices, around);
        let Some(session) = self.sessions.get(number) else {
            return false;
        };
        if needs.is_empty() {
            return false;
        }
        let record = &session.record;
        let budget = sizing::coded_budget(
            record.block.nb_frag,
            self.task.options.max_redundancy_percent,
        );
        let left = budget.saturating_sub(record.coded_sent);
        if left == 0 || session.frames >= MAX_GROUP_FRAMES {
            // What late devices cost is not taken from what the operator allows for each.
            let number_in_record = session.record.id.number;
            let shared_with_late = self
                .devices
                .values()
                .any(|d| d.session == Some(number_in_record) && d.setup.missed_before > 0);
            for Needy { dev_eui, .. } in needs {
                if shared_with_late {
                    self.reset_setup(now, dev_eui, "the session was spent on late devices");
                    continue;
                }
                if self.is_beyond_repair(number_in_record, dev_eui) {
                    self.reset_setup(now, dev_eui, "coded fragments alone do not complete it");
                    continue;
                }
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
        let block = record.block;
        let needs = self.part_from_stragglers(now, number, needs, around);
        if needs.is_empty() {
            let all_gone = self.receiving(number).next().is_none();
            if all_gone {
                self.finish_session(now, number, around);
            }
            return all_gone;
        }
        let size = round_size(&block, &needs).clamp(1, left);
        let Some(session) = self.sessions.get_mut(number) else {
            return false;
        };
        session.aim(session.record.coded_sent.saturating_add(size));
        session.record.round = session.record.round.saturating_add(1);
        session.record.roll_calls = 0;
        session.record.phase = SessionPhase::Sending;
        session.not_before = session.not_before.max(session.quiet_until);
        let window_over = now + WINDOW_TAIL >= session.record.window.end();
        self.changed.sessions.insert(session.record.id.number);
        if window_over {
            self.next_window(now, number, around);
        }
        true
    }

    /// Devices known to need something after what was sent so far.
    pub(super) fn needs(
        &self,
        number: usize,
        devices: &[DevEui],
        around: &Surroundings<'_>,
    ) -> Vec<Needy> {
        let Some(session) = self.sessions.get(number) else {
            return Vec::new();
        };
        let sent = fragments_sent(&session.record);
        let need = |dev_eui: &DevEui| {
            let device = self.devices.get(dev_eui).filter(|d| session.is_fresh(d))?;
            let report = device.fragments.filter(|report| report.deficit > 0)?;
            let known = around.fleet.get(*dev_eui)?;
            let counts = known.profile.status_interpretation == StatusInterpretation::Spec;
            let loss = match known.status.loss_permille {
                // `NbFragReceived` is no count of fragments on some stacks.
                Some(permille) if !counts => f64::from(permille) / 1000.0,
                _ => {
                    let heard_of = sent.saturating_sub(device.setup.missed_before);
                    loss(report.received, heard_of)
                }
            };
            Some(Needy {
                dev_eui: *dev_eui,
                report,
                loss,
            })
        };
        devices.iter().filter_map(need).collect()
    }

    /// The device heard nothing at all, or as many fragments as the block has and is not complete: it missed the first
    /// pass, and coded fragments alone may never do (where all rows have an even number of bits, so have all sums). It
    /// is worth another session, but not one after the other.
    fn is_beyond_repair(&self, session: u16, dev_eui: DevEui) -> bool {
        let report = self.devices.get(&dev_eui).and_then(|d| d.fragments);
        let run = self.sessions.get(usize::from(session));
        let Some((report, run)) = report.zip(run) else {
            return false;
        };
        let heard = report.received;
        self.follows(&run.record) < OTHER_SESSIONS
            && (heard == 0 || heard >= run.record.block.nb_frag)
    }

    /// How many sessions came one after the other before this one.
    fn follows(&self, session: &DistributionSession) -> usize {
        let before = |s: &DistributionSession| {
            let number = s.follows.map(usize::from);
            self.sessions.get(number?).map(|s| &s.record)
        };
        // Each follows one with a lower number.
        std::iter::successors(before(session), |s| before(s)).count()
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
        let sent = self.sent_to(record);
        // While fragments flow, an answer is about an earlier moment: it is no sign of what is needed after the round.
        let settled = record.unicast.is_some()
            || matches!(session.record.phase, SessionPhase::Polling { .. });
        let numbers = Answer {
            version,
            frag_algo: block.frag_algo,
            received: answer.nb_frag_received,
            missing: answer.missing_frag,
            nb_frag: block.nb_frag,
            rows: session.rows_sent(record.unicast),
            settled,
            previous: record.fragments,
        };
        let progress = status::interpret(stack, numbers);
        let heard = status::heard(stack, numbers);
        let max_lost = device.profile.limits.max_lost;
        let memory_error =
            answer.memory_error && status::believes_memory_error(stack, max_lost, numbers);
        let heard_of = sent.saturating_sub(record.setup.missed_before);
        let windows_over = now + self.windows_last(dev_eui);
        self.answered(now, dev_eui);
        if answer.session_absent {
            return self.session_lost(now, dev_eui);
        }
        if memory_error {
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
        if let (Some(status), Some(heard)) = (around.fleet.status_mut(dev_eui), heard) {
            status.loss_permille = Some(blend(status.loss_permille, loss(heard, heard_of)));
        }
        let alone = self
            .devices
            .get(&dev_eui)
            .is_some_and(|d| d.unicast.is_some());
        if let Some(session) = self.sessions.get_mut(number).filter(|_| settled && !alone) {
            if let Some(unanswered) = &mut session.unanswered {
                unanswered.remove(&dev_eui);
            }
            session.heard_any = true;
            session.quiet_until = session.quiet_until.max(windows_over);
            session.record.note_answer(deficit);
            self.changed.sessions.insert(session.record.id.number);
        }
        if progress != Progress::Complete {
            if alone {
                self.next_round_alone(
                    now,
                    Needy {
                        dev_eui,
                        report,
                        loss: loss(report.received, heard_of),
                    },
                );
            }
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
    pub(super) fn session_lost(&mut self, now: Timestamp, dev_eui: DevEui) {
        self.reset_setup(
            now,
            dev_eui,
            "the fragmentation session does not exist on the device",
        );
    }
}

fn record_coded(campaign: &Campaign, number: usize) -> u16 {
    campaign
        .sessions
        .get(number)
        .map_or(0, |session| session.record.coded_sent)
}

/// Coded fragments of the next round, for devices that reported this and lose so much.
pub(super) fn round_size(block: &BlockParameters, needs: &[Needy]) -> u16 {
    match block.frag_algo {
        FragAlgo::Ts004 => {
            let needs = needs
                .iter()
                .map(|needy| Need::of(needy.report.deficit, needy.loss));
            sizing::round_size(&needs.collect::<Vec<_>>(), POLL_COST)
        }
        FragAlgo::ReedSolomon => {
            let needs = needs
                .iter()
                .map(|needy| repair_in_turns(block, &needy.report, needy.loss));
            needs.max().unwrap_or(0)
        }
    }
}

/// Coded fragments of the Reed-Solomon code that will probably do for a device that reported this.
fn repair_in_turns(block: &BlockParameters, report: &FragmentReport, loss: f64) -> u16 {
    let blocks = sizing::turn(block.frag_algo, block.nb_frag);
    let (lacking, lost) = match block.version {
        // What all blocks lack together.
        PackageVersion::V1 => (i32::from(report.deficit), report.deficit),
        // Uncoded fragments lost; what came instead fell into all blocks alike, used or not.
        PackageVersion::V2 => (
            i32::from(block.nb_frag) - i32::from(report.received),
            report.missing.into(),
        ),
    };
    sizing::repair_frames_in_turns(blocks, lacking, lost, loss, TURN_DEVIATIONS)
}

/// Share of the fragments sent that a device did not count, 0..=0.9; half a frame of doubt on either side.
fn loss(received: u16, sent: u16) -> f64 {
    let sent = f64::from(sent.max(received));
    let lost = sent - f64::from(received);
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
