//! The conversation with one device: one command outstanding at a time, repeats counted per opportunity.
//!
//! A command leaves as the answer to an uplink, or at any time to a device that listens continuously. A command the
//! network refused was never on air and does not count. After
//! [`MAX_ATTEMPTS`](crate::record::TaskOptions::max_attempts) sends without an answer the device is given up for that
//! command, with its history as evidence.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    CleanupState, DeviceClass, DeviceReason, DeviceState, FleetDevice, FragSlot, McSlot, PollKind,
    SessionPhase, Target, TaskDevice, UplinkRef,
};
use crate::task::sizing;
use crate::time::Timestamp;

use super::commands::Command;
use super::completion::cleanup_command;
use super::reboot::APPLICATION_TAKES;
use super::setup::LATE_LEAD;
use super::{Campaign, InFlight, Surroundings, Timing};

/// What one device was asked last.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// The command that is outstanding.
    pub(super) asked: Option<Command>,
    /// Not asked again before: the answer may still be on its way.
    pub(super) patience: Timestamp,
    /// When the last command was on air, once that is known.
    pub(super) on_air: Option<Timestamp>,
    /// From handing the last command over to its being on air.
    pub(super) delay: Duration,
    /// The device asked for a `FragDataBlockReceivedAns` for this `FragIndex`.
    pub(super) acknowledge: Option<u8>,
    /// Errors the device answered to the same command.
    pub(super) errors: u8,
    /// Times the device's clock was off.
    pub(super) clock_errors: u8,
    /// Commands sent at once, none of them answering an uplink, since the device was heard.
    pub(super) at_once: u8,
    /// Fragments that had been sent when the device said that it has no image.
    pub(super) no_image_after: Option<u16>,
}

/// After a command was on air, how long its answer may take before it is asked again at the device's next uplink. Most
/// devices answer at once; the few that take up to three seconds see a command twice, if their uplinks come that fast.
const PATIENCE: Duration = Duration::from_millis(900);
/// Least and most a device waits before RX1, and when RX2 is closed after that if nothing comes (LoRaWAN 1.0.4 §3.3).
const RX1_DELAY: Duration = Duration::from_secs(1);
const RX1_DELAY_MAX: Duration = Duration::from_secs(15);
const RX2_CLOSED: Duration = Duration::from_millis(1100);
/// Until it is known when a command is on air: RX1 after the longest common delay.
const AIR_PATIENCE: Duration = Duration::from_secs(6);
/// Before a device that listens continuously is asked again.
const LISTENER_PATIENCE: Duration = Duration::from_secs(10);
/// After so many commands at once without an uplink a device that should listen always does not: it is deaf, or listens
/// to a group it was in before. From then on its uplinks are answered.
const AT_ONCE_UNHEARD: u8 = 4;
/// Before a downlink the network refused is tried again to a device that listens continuously.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(3);
/// More answers than these to one poll are not disturbed by downlinks that can wait.
const MANY_ANSWERS: usize = 24;
/// A unicast downlink that did not leave by then is stale.
pub(super) const UNICAST_LIFETIME: Duration = Duration::from_secs(20);

impl Campaign {
    /// Says the next thing to a device, if there is one: in the receive windows of `answers`, or at once.
    pub(super) fn speak(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        answers: Option<UplinkRef>,
        around: &mut Surroundings<'_>,
    ) {
        // Giving up one command may make another one due; the chain is as long as a device's way through the task.
        for _ in 0..8 {
            self.keep_groups(around);
            let Some(device) = around.fleet.get(dev_eui) else {
                return;
            };
            let Some(command) = self.next_command(now, device) else {
                return;
            };
            if command == Command::Fragment {
                return self.send_alone(now, dev_eui, answers);
            }
            let talk = self.talks.entry(dev_eui).or_default();
            if talk.asked == Some(command) && now < talk.patience {
                return;
            }
            if command.can_wait() && self.many_answers_awaited(dev_eui) {
                return;
            }
            let talk = self.talks.entry(dev_eui).or_default();
            let Some(record) = self.devices.get_mut(&dev_eui) else {
                return;
            };
            if talk.asked != Some(command) {
                *talk = Talk {
                    asked: Some(command),
                    acknowledge: talk.acknowledge,
                    clock_errors: talk.clock_errors,
                    no_image_after: talk.no_image_after,
                    delay: talk.delay,
                    ..Talk::default()
                };
                record.tries = 0;
            }
            if record.tries < self.task.options.max_attempts.max(1) {
                return self.say(now, dev_eui, command, answers, around);
            }
            self.give_up(now, dev_eui, command, around);
        }
    }

    /// The device's session waits for the answers of many. A gateway that sends is deaf: whatever can wait would cost
    /// some of them.
    fn many_answers_awaited(&self, dev_eui: DevEui) -> bool {
        let session = self.devices.get(&dev_eui).and_then(|d| self.session_of(d));
        session.is_some_and(|session| {
            let asks_all = matches!(
                session.record.phase,
                SessionPhase::Polling {
                    kind: PollKind::Gaps | PollKind::RollCall,
                    ..
                }
            );
            let awaited = session.unanswered.as_ref().map_or(0, BTreeSet::len);
            asks_all && awaited > MANY_ANSWERS
        })
    }

    /// Sees to the devices whose time has come: speaks to those that listen continuously, and stops waiting for those
    /// that have to be heard to go on and were not.
    pub(super) fn see_to_due(&mut self, now: Timestamp, around: &mut Surroundings<'_>) {
        while let Some((at, dev_eui)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, dev_eui));
            let Some(device) = around.fleet.get(dev_eui).filter(|_| self.concerns(dev_eui)) else {
                continue;
            };
            let listens = device.profile.always_class_c;
            self.check_silence(now, dev_eui, device);
            let at_once = self.talks.get(&dev_eui).map_or(0, |talk| talk.at_once);
            if !listens || at_once >= AT_ONCE_UNHEARD {
                continue;
            }
            match self.tuned_away_until(now, dev_eui) {
                Some(until) => {
                    self.due.insert((until, dev_eui));
                }
                None => self.speak(now, dev_eui, None, around),
            }
        }
    }

    /// A device has one receiver: in the window of a session on other parameters than RX2 it hears its group, and of
    /// unicast only what answers an uplink (TS005-2.0.0 §3.5).
    fn tuned_away_until(&self, now: Timestamp, dev_eui: DevEui) -> Option<Timestamp> {
        let device = self.devices.get(&dev_eui)?;
        let session = &self.session_of(device)?.record;
        let window = session.window;
        let confirmed = device.setup.window == Some(window.number)
            && device.group_cleanup != CleanupState::Confirmed;
        let on = window.class == DeviceClass::C
            && confirmed
            && (window.start..window.end()).contains(&now);
        let elsewhere = (session.frequency_hz, session.data_rate) != session.region.rx2();
        (on && elsewhere).then(|| window.end())
    }

    /// A device that has the image and is not heard for several of its intervals is not waited for until the deadline.
    fn check_silence(&mut self, now: Timestamp, dev_eui: DevEui, device: &FleetDevice) {
        let Some(record) = self
            .devices
            .get(&dev_eui)
            .filter(|_| self.open.contains(&dev_eui))
        else {
            return;
        };
        let waits = record.unicast.is_some()
            || matches!(
                record.state,
                DeviceState::ReportedReceived | DeviceState::Verified | DeviceState::Rebooting
            );
        let entered = record
            .entered
            .get(&record.state)
            .copied()
            .max(record.reboot_at);
        let entered = entered.max(self.task.resumed_at);
        let Some(since) = entered.max(device.status.last_seen).filter(|_| waits) else {
            return;
        };
        let patience = silence(device);
        if now < since + patience {
            self.due.insert((since + patience, dev_eui));
            return;
        }
        let evidence = format!("{:?}, and not heard since {since}", record.state);
        self.conclude(
            now,
            dev_eui,
            DeviceState::Silent,
            Some(DeviceReason::NoAnswer),
            evidence,
        );
    }

    fn say(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        command: Command,
        answers: Option<UplinkRef>,
        around: &mut Surroundings<'_>,
    ) {
        self.prepare(now, command, dev_eui, around);
        let Some(device) = around.fleet.get(dev_eui) else {
            return;
        };
        let Some((f_port, payload)) = self.words(command, device) else {
            return;
        };
        let spread = Duration::from_secs(self.answer_delay_s(command, dev_eui));
        let timing = Timing {
            answers,
            earliest: now,
            deadline: now + UNICAST_LIFETIME,
            more: false,
        };
        self.send(
            InFlight::Command {
                dev_eui,
                said_at: now,
                in_window: answers.is_some(),
            },
            Target::Device(dev_eui),
            f_port,
            payload,
            timing,
        );
        if let Some(talk) = self.talks.get_mut(&dev_eui) {
            talk.patience =
                now + if answers.is_some() {
                    AIR_PATIENCE
                } else {
                    LISTENER_PATIENCE
                } + spread;
            if answers.is_none() {
                talk.at_once = talk.at_once.saturating_add(1);
            }
            if command == Command::Acknowledge {
                talk.acknowledge = None;
                talk.asked = None;
            }
            if device.profile.always_class_c {
                self.due.insert((talk.patience, dev_eui));
            }
        }
        if let Some(record) = self.devices.get_mut(&dev_eui) {
            record.tries = record.tries.saturating_add(1);
            record.attempts = record.attempts.saturating_add(1);
            if record.state == DeviceState::Pending {
                record.state = DeviceState::Preparing;
                record.entered.entry(DeviceState::Preparing).or_insert(now);
            }
            self.changed.devices.insert(dev_eui);
        }
        if command == Command::ApplicationReboot {
            // Nothing answers it: the version tells whether it came through.
            if let Some(record) = self.devices.get_mut(&dev_eui) {
                record.reboots_unanswered = record.reboots_unanswered.saturating_add(1);
            }
            let evidence = format!("{} was sent", command.name());
            self.rebooting(now, dev_eui, APPLICATION_TAKES, evidence, around);
        }
    }

    /// A command was on air until `air_end`: its answer follows soon, or not.
    pub(super) fn said(
        &mut self,
        dev_eui: DevEui,
        said_at: Timestamp,
        air_end: Timestamp,
        in_window: bool,
    ) {
        let spread = |command| Duration::from_secs(self.answer_delay_s(command, dev_eui));
        let asked = self.talks.get(&dev_eui).and_then(|talk| talk.asked);
        let answer_within = PATIENCE + asked.map_or(Duration::ZERO, spread);
        if let Some(talk) = self.talks.get_mut(&dev_eui) {
            talk.delay = air_end.since(said_at);
            talk.on_air = Some(air_end);
            // A device that listens continuously is asked again by itself, and so not this soon.
            if in_window && talk.asked.is_some() {
                talk.patience = air_end + answer_within;
            }
        }
    }

    /// How long after an uplink the device listens for answers instead of to its group: RX1 is where its last command
    /// went, RX2 opens a second later.
    pub(super) fn windows_last(&self, dev_eui: DevEui) -> Duration {
        let talk = self.talks.get(&dev_eui);
        let rx1 = talk
            .map_or(RX1_DELAY, |talk| talk.delay)
            .clamp(RX1_DELAY, RX1_DELAY_MAX);
        rx1 + RX2_CLOSED
    }

    /// The network refused a command: it was never on air and does not count.
    pub(super) fn unsaid(&mut self, now: Timestamp, dev_eui: DevEui) {
        if let Some(record) = self.devices.get_mut(&dev_eui) {
            record.tries = record.tries.saturating_sub(1);
            record.attempts = record.attempts.saturating_sub(1);
            self.changed.devices.insert(dev_eui);
        }
        if let Some(talk) = self.talks.get_mut(&dev_eui) {
            talk.patience = now;
            self.due.insert((now + REFUSED_PAUSE, dev_eui));
        }
    }

    /// The answer to the outstanding command came: the next one may follow at once.
    pub(super) fn answered(&mut self, now: Timestamp, dev_eui: DevEui) {
        let Some(record) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        if let Some(talk) = self.talks.get_mut(&dev_eui) {
            let asked = talk.asked.take().is_some();
            record.commands_answered += u32::from(asked);
            talk.errors = 0;
        }
        record.tries = 0;
        self.due.insert((now, dev_eui));
    }

    /// What to ask a device now, from where it is. A function of the records alone, so that a restart asks the same.
    fn next_command(&self, now: Timestamp, device: &FleetDevice) -> Option<Command> {
        let dev_eui = device.settings.dev_eui;
        let record = self.devices.get(&dev_eui)?;
        if self
            .talks
            .get(&dev_eui)
            .is_some_and(|talk| talk.acknowledge.is_some())
        {
            return Some(Command::Acknowledge);
        }
        if !self.open.contains(&dev_eui) {
            return cleanup_command(record);
        }
        match record.state {
            DeviceState::Pending | DeviceState::Preparing | DeviceState::Ready => {
                self.setup_command(now, record, device)
            }
            DeviceState::Receiving => self.receiving_command(record, device),
            DeviceState::ReportedReceived | DeviceState::Verified | DeviceState::Rebooting => {
                self.completion_command(now, record, device)
            }
            _ => None,
        }
    }

    /// What a device is asked that is to tell how far it is.
    pub(super) fn status_command(
        &self,
        record: &TaskDevice,
        device: &FleetDevice,
    ) -> Option<Command> {
        // The image check is answered at once and says more; a status answer may take its BlockAckDelay.
        let sent = Some(self.sent_to(record));
        let talk = self.talks.get(&record.dev_eui);
        let unchecked = talk.and_then(|t| t.no_image_after) != sent;
        let managed = device.profile.packages.firmware_management.is_some();
        Some(if managed && unchecked {
            Command::CheckImage
        } else {
            Command::Status
        })
    }

    fn receiving_command(&self, record: &TaskDevice, device: &FleetDevice) -> Option<Command> {
        if record.unicast.is_some() {
            return self.alone_command(record, device);
        }
        let session = self.session_of(record)?;
        match session.record.phase {
            SessionPhase::Closed => None,
            _ if record.setup.window != Some(session.record.window.number) => {
                // Its clock was off: asked for the window alone it would say so again and again.
                let resyncs = record.setup.resync && device.profile.packages.clock_sync.is_some();
                Some(if resyncs {
                    Command::Resync
                } else {
                    Command::Window
                })
            }
            SessionPhase::Polling {
                kind: PollKind::Individual,
                ..
            } if !session.is_fresh(record) => self.status_command(record, device),
            _ => None,
        }
    }

    /// Seconds by which the answer may be delayed on purpose.
    fn answer_delay_s(&self, command: Command, dev_eui: DevEui) -> u64 {
        let session = self.devices.get(&dev_eui).and_then(|d| self.session_of(d));
        match (command, session) {
            (Command::Status, Some(session)) => 16 << session.record.block.block_ack_delay,
            _ => 0,
        }
    }

    /// Before a command that installs something leaves: from now on it may be on the device.
    fn prepare(
        &mut self,
        now: Timestamp,
        command: Command,
        dev_eui: DevEui,
        around: &mut Surroundings<'_>,
    ) {
        let delay = self
            .talks
            .get(&dev_eui)
            .map_or(Duration::ZERO, |talk| talk.delay);
        let Some(record) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        let Some(session) = record
            .session
            .and_then(|n| self.sessions.get_mut(usize::from(n)))
        else {
            return;
        };
        let Some(status) = around.fleet.status_mut(dev_eui) else {
            return;
        };
        if matches!(command, Command::GroupAndWindow | Command::Window) {
            let class = session.record.class;
            record.setup.late_start = session
                .is_running()
                .then(|| sizing::window_opens(class, now + delay + LATE_LEAD));
        }
        match command {
            Command::GroupAndWindow => {
                record.group_cleanup = CleanupState::Pending;
                if let Some(slot) = status
                    .mc_slots
                    .get_mut(usize::from(session.record.mc_group_id))
                {
                    let given_before = slot
                        .as_ref()
                        .is_some_and(|s| s.session == session.record.id && !s.kept && !s.leftover);
                    if self.task.options.keep_groups && !given_before {
                        let given = &mut session.record.group_use.given;
                        *given = given.saturating_add(1);
                        self.changed.sessions.insert(session.record.id.number);
                    }
                    *slot = Some(McSlot {
                        session: session.record.id.clone(),
                        group: record.group.clone(),
                        confirmed: false,
                        leftover: false,
                        kept: false,
                    });
                }
            }
            Command::FragSession => {
                let index = usize::from(session.record.block.frag_index);
                // The count is kept for repeats of one set-up; a new set-up gets the next one (TS004-2.0.0 §3.2).
                record.frag_cleanup = CleanupState::Pending;
                if let Some(course) = &mut record.images {
                    course
                        .frag_sessions
                        .remove(&session.record.block.frag_index);
                }
                if !record.setup.counted {
                    record.setup.counted = true;
                    if let Some(next) = status.next_session_cnt.get_mut(index) {
                        record.session_cnt = *next;
                        *next = next.saturating_add(1);
                    }
                }
                if let Some(slot) = status.frag_slots.get_mut(index) {
                    *slot = Some(FragSlot {
                        task: self.task.id.clone(),
                        confirmed: false,
                        leftover: false,
                    });
                }
            }
            _ => {}
        }
    }

    fn give_up(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        command: Command,
        around: &mut Surroundings<'_>,
    ) {
        let evidence = format!(
            "no answer to {} after {} sends",
            command.name(),
            self.task.options.max_attempts
        );
        let noted = self.devices.get(&dev_eui).and_then(|d| d.reason);
        match command {
            Command::DeleteImage | Command::DeleteFragSession | Command::DeleteGroup => {
                self.leave(dev_eui, command, around)
            }
            // The device may have rebooted without a word; its version will tell.
            Command::Reboot | Command::RebootAt => {
                let after = self.reboots_in(now, command);
                if let Some(record) = self.devices.get_mut(&dev_eui) {
                    record.reboots_unanswered = record.reboots_unanswered.saturating_add(1);
                }
                self.rebooting(now, dev_eui, after, evidence, around);
            }
            Command::Acknowledge => self.answered(now, dev_eui),
            Command::Resync => {
                self.conclude(
                    now,
                    dev_eui,
                    DeviceState::Failed,
                    Some(DeviceReason::ClockNotSynced),
                    evidence,
                );
            }
            // It answered each time, and had no image each time.
            Command::CheckImage if noted == Some(DeviceReason::ImageRejected) => {
                let evidence =
                    "DevUpgradeImageAns: no image, however often it was asked".to_owned();
                self.conclude(now, dev_eui, DeviceState::Failed, noted, evidence);
            }
            _ => self.conclude(
                now,
                dev_eui,
                DeviceState::Silent,
                Some(DeviceReason::NoAnswer),
                evidence,
            ),
        }
    }
}

/// How long a device may be silent before it is taken to be gone: ten of its intervals, and no less than joining again
/// with back-off takes under loss.
pub(super) fn silence(device: &FleetDevice) -> Duration {
    (device.profile.uplink_interval * 10).max(Duration::from_secs(1800))
}
