//! Windows: who takes part when one opens, who comes later, and what follows when it closes. `follow_ups` makes the
//! sessions for those who cannot take part.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    DeviceClass, DeviceReason, DeviceState, Fleet, FleetDevice, NetworkRequest, PollKind,
    SessionPhase, SessionWindow, SetupStage, TaskReason, fragments_sent,
};
use crate::task::clock::clock_words;
use crate::task::{plan, sizing};
use crate::time::Timestamp;

use super::conversation::silence;
use super::distribution::WINDOW_TAIL;
use super::{Campaign, Surroundings};

/// Windows a session may open after the first.
pub(super) const MAX_WINDOWS: u8 = 16;
/// Of the fragments a late device can still hear it is expected to lose one in so many.
const LOST_LATER: u16 = 4;
/// How long a session stays open for devices that say that they are done and may not be.
const CHECKS_TAKE: Duration = Duration::from_secs(1800);
/// What must be left of a window for a device to be let in.
const LATE_TAIL: Duration = Duration::from_secs(15);
/// Between two looks at a clock that is off.
const CLOCK_CHECKS: Duration = Duration::from_secs(10);
/// A window that nobody is ready for doubles the time to the next one, so often at most.
const LONGEST_LEAD: u8 = 3;
/// Of a device that no window is left for: intervals without an uplink after which it is silent rather than late.
const UNHEARD: u32 = 10;

impl Campaign {
    /// The window opens: who is ready takes part; who is not comes later, or gets another session.
    pub(super) fn open_window(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        let (window, continues) = (session.record.window, session.record.uncoded_sent > 0);
        if now + WINDOW_TAIL >= window.end() {
            // It passed while the task was held, or the server was away.
            return self.next_window(now, number, around);
        }
        if self.clock_holds_back(now, number, around) {
            return;
        }
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
            self.see_to_late(now, number, &ready, around);
        }
        if let Some(session) = self.sessions.get_mut(number) {
            session.empty_windows = match ready.is_empty() {
                true => session.empty_windows.saturating_add(1),
                false => 0,
            };
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
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        let gateways = plan::covering_gateways(
            ready.iter().filter_map(|d| fleet.get(*d)),
            around.gateways_for(window.class),
            session.record.region,
            session.record.data_rate,
        );
        let loss = self.expected_loss(&ready, fleet);
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        if !gateways.is_empty() {
            session.record.gateways = gateways;
        }
        let served = ready.iter().filter_map(|d| fleet.get(*d));
        session.record.turns = plan::turns(served, &session.record.gateways);
        session.record.phase = SessionPhase::Sending;
        session.not_before = now;
        if !continues {
            session.record.round = 1;
            let block = session.record.block;
            session.aim(sizing::first_coded(block.frag_algo, block.nb_frag, loss));
        }
        self.changed.sessions.insert(session.record.id.number);
        self.request_group(number);
    }

    /// A server whose clock is off opens no window; it looks again from time to time until the window has passed.
    fn clock_holds_back(
        &mut self,
        now: Timestamp,
        number: usize,
        around: &Surroundings<'_>,
    ) -> bool {
        let disagrees = Some(TaskReason::ClockDisagrees);
        let Some(off_us) = around.clock_off_us else {
            if self.task.reason == disagrees {
                self.task.reason = None;
                self.task.reason_text.clear();
                self.changed.task = true;
            }
            return false;
        };
        if let Some(session) = self.sessions.get_mut(number) {
            session.held_back_until = Some(now + CLOCK_CHECKS);
        }
        if self.task.reason != disagrees {
            self.task.reason = disagrees;
            self.task.reason_text = clock_words(off_us);
            self.changed.task = true;
        }
        true
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

    /// Devices that are not ready when fragments begin: those never heard have ended, those whose decoder cannot do
    /// without what they miss get a session of their own. The others come while fragments flow, which costs as many
    /// coded fragments as they missed, and never more than another session.
    fn see_to_late(
        &mut self,
        now: Timestamp,
        number: usize,
        ready: &[DevEui],
        around: &Surroundings<'_>,
    ) {
        let absent = self.members(number).map(|d| d.dev_eui);
        let absent: Vec<DevEui> = absent.filter(|d| ready.binary_search(d).is_err()).collect();
        let (mut late, mut silent) = (Vec::new(), Vec::new());
        for dev_eui in absent {
            let known = around.fleet.get(dev_eui);
            if !self.heard_since_start(dev_eui, around) && self.was_given_time(now, dev_eui, around)
            {
                silent.push(dev_eui);
            } else if !known.is_some_and(|d| self.admits(now, number, d)) {
                late.push(dev_eui);
            }
        }
        for dev_eui in silent {
            let evidence = "no uplink since the task began".to_owned();
            let reason = Some(DeviceReason::NoAnswer);
            self.conclude(now, dev_eui, DeviceState::Silent, reason, evidence);
        }
        if !ready.is_empty() {
            self.move_late(now, number, late, around);
        }
    }

    /// Whether a device that is set up while fragments flow can still put the block together: its decoder holds as
    /// many lost fragments as were sent before and will be lost, and the budget has twice as many coded ones left.
    pub(super) fn admits(&self, now: Timestamp, number: usize, device: &FleetDevice) -> bool {
        let Some(session) = self.sessions.get(number) else {
            return false;
        };
        let record = &session.record;
        let nb_frag = record.block.nb_frag;
        let missed = record.uncoded_sent;
        let lost = missed.saturating_add((nb_frag - missed.min(nb_frag)) / LOST_LATER);
        let budget = sizing::coded_budget(nb_frag, self.task.options.max_redundancy_percent);
        session.is_open_to_late()
            && now + LATE_TAIL < record.window.end()
            && device
                .profile
                .limits
                .max_lost
                .is_none_or(|most| lost <= most)
            && budget.saturating_sub(record.coded_sent) >= missed.saturating_mul(2)
    }

    /// Late devices whose windows are open by now take part from here on, if enough is still to come for them.
    pub(super) fn let_in(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        let Some(session) = self.sessions.get_mut(number).filter(|s| s.is_running()) else {
            return;
        };
        if session.coming.is_empty() || !session.is_open_to_late() {
            return;
        }
        let missed = fragments_sent(&session.record);
        let devices = &self.devices;
        let opens = |dev_eui: &DevEui| devices.get(dev_eui).and_then(|d| d.setup.late_start);
        let (open, coming): (BTreeSet<DevEui>, _) = std::mem::take(&mut session.coming)
            .into_iter()
            .partition(|dev_eui| opens(dev_eui).is_none_or(|at| at <= now));
        session.coming = coming;
        for dev_eui in &open {
            let Some(record) = self.devices.get_mut(dev_eui) else {
                continue;
            };
            if record.state == DeviceState::Ready {
                record.setup.missed_before = missed;
                let evidence = format!("takes part from fragment {} on", missed + 1);
                self.conclude(now, *dev_eui, DeviceState::Receiving, None, evidence);
            }
        }
        self.cover(number, &open, around);
    }

    /// Adds gateways to a running session for devices that none of its gateways hears.
    fn cover(&mut self, number: usize, devices: &BTreeSet<DevEui>, around: &Surroundings<'_>) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        let chosen = &session.record.gateways;
        let known = devices.iter().filter_map(|d| around.fleet.get(*d));
        let out_of_reach = known.filter(|d| {
            !d.status
                .links
                .keys()
                .any(|gateway| chosen.contains(gateway))
        });
        let usable = around.gateways_for(session.record.class);
        let more = plan::covering_gateways(
            out_of_reach,
            usable,
            session.record.region,
            session.record.data_rate,
        );
        if !more.is_empty() {
            // Who hears the new ones beside the others is not looked into: they take turns of their own.
            session.record.gateways.extend(more);
            self.changed.sessions.insert(session.record.id.number);
            self.request_group(number);
        }
    }

    /// Once a session is of no use to those who are not set up, they get another one; and so does who loses it later.
    pub(super) fn see_to_too_late(
        &mut self,
        now: Timestamp,
        number: usize,
        around: &Surroundings<'_>,
    ) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        let by_group = session.is_running()
            || session.record.phase == SessionPhase::Individual
                && session.record.class != DeviceClass::A;
        if !by_group || session.is_open_to_late() || session.late_seen_to {
            return;
        }
        session.late_seen_to = true;
        let members = self.members(number);
        let late = members
            .filter(|d| d.state < DeviceState::Receiving)
            .map(|d| d.dev_eui)
            .collect();
        self.move_late(now, number, late, around);
    }

    /// Everybody who took part is through: who never came gets another session. A session whose devices' word is not
    /// enough stays open until their image checks are in: who has no image after all needs more fragments.
    pub(super) fn finish_session(
        &mut self,
        now: Timestamp,
        number: usize,
        around: &Surroundings<'_>,
    ) {
        if self.has_unconfirmed(number, around) && self.waits_for_checks(now, number) {
            return;
        }
        let late = self.members(number).map(|d| d.dev_eui).collect();
        self.move_late(now, number, late, around);
        self.close_session(number);
    }

    /// Holds a session open for a while, at most to the end of its window; false when that time is over.
    fn waits_for_checks(&mut self, now: Timestamp, number: usize) -> bool {
        let Some(session) = self.sessions.get_mut(number) else {
            return false;
        };
        let until = match session.record.phase {
            SessionPhase::Polling {
                kind: PollKind::Individual,
                until,
            } => return now < until,
            _ => (now + CHECKS_TAKE).min(session.record.window.end()),
        };
        session.record.phase = SessionPhase::Polling {
            kind: PollKind::Individual,
            until,
        };
        self.changed.sessions.insert(session.record.id.number);
        now < until
    }

    /// The task has run for several of the device's intervals.
    fn was_given_time(&self, now: Timestamp, dev_eui: DevEui, around: &Surroundings<'_>) -> bool {
        let patience = around.fleet.get(dev_eui).map(silence).unwrap_or_default();
        let since = self.task.started_at.max(self.task.resumed_at);
        since.is_none_or(|since| now >= since + patience)
    }

    /// No window is left for a device: it is silent if it was not heard for long, and has failed otherwise.
    pub(super) fn end_without_window(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        evidence: String,
        around: &Surroundings<'_>,
    ) {
        let device = around.fleet.get(dev_eui);
        let seen = device.and_then(|d| d.status.last_seen);
        let patience = device.map_or(Duration::ZERO, |d| d.profile.uplink_interval * UNHEARD);
        let (state, reason, evidence) = match seen {
            Some(seen) if now < seen + patience => {
                (DeviceState::Failed, DeviceReason::WindowClosed, evidence)
            }
            seen => {
                let seen = seen.unwrap_or_default();
                let evidence = format!("{evidence}, and not heard since {seen}");
                (DeviceState::Silent, DeviceReason::NoAnswer, evidence)
            }
        };
        self.conclude(now, dev_eui, state, Some(reason), evidence);
    }

    /// The window is over, or passed without anybody: another one is announced, and what devices hold is kept.
    pub(super) fn next_window(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        self.serve_stragglers_alone(now, number, around);
        let members: Vec<DevEui> = self.members(number).map(|d| d.dev_eui).collect();
        if members.is_empty() {
            return self.close_session(number);
        }
        let Some(class) = self.sessions.get(number).map(|s| s.record.class) else {
            return;
        };
        let expected = self.setup_ends(now, &members, class, around);
        // Devices that were not ready for one window after another need more time than they are said to.
        let empty = self.sessions.get(number).map_or(0, |s| s.empty_windows);
        let lead = expected.since(now) * (1 << empty.min(LONGEST_LEAD));
        let start = sizing::window_opens(class, now + lead);
        let (beyond, most) = (self.is_beyond(start), self.most_windows());
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        let window = SessionWindow {
            start,
            ..session.record.window
        };
        if beyond || window.number >= most {
            for dev_eui in members {
                let evidence = "the window closed and no later one fits".to_owned();
                self.end_without_window(now, dev_eui, evidence, around);
            }
            return self.close_session(number);
        }
        let window = self.allowed_or_asked(window);
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        session.record.phase = SessionPhase::Preparing;
        session.record.window = SessionWindow {
            number: window.number.saturating_add(1),
            ..window
        };
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

    /// No fragment will be sent to this session's group any more, and none at all unless devices are sent to alone.
    pub(super) fn close_session(&mut self, number: usize) {
        let phase = self.phase_without_group(number);
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        let before = session.record.phase;
        if before == SessionPhase::Closed || before == phase {
            return;
        }
        session.record.phase = phase;
        session.waiting = None;
        let id = session.record.id.clone();
        self.changed.sessions.insert(id.number);
        let class = session.record.class;
        // Devices that are sent to alone may come back to the group, which must not forget its counter till then.
        self.requests.push(match phase {
            SessionPhase::Individual => NetworkRequest::KeepGroup(id, None),
            _ => self.group_rests(id, class),
        });
    }
}
