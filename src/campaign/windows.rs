//! Windows: who takes part when one opens, who comes later, and what follows when it closes.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lorawan::PackageVersion;
use crate::lorawan::class_b::PingSlotPeriodicity;
use crate::lorawan::identifiers::DevEui;
use crate::lorawan::region::Region;
use crate::record::{
    BlockParameters, DeviceClass, DeviceReason, DeviceState, DistributionSession, Fleet,
    FleetDevice, FragAlgo, GroupUse, NetworkRequest, PollKind, SessionId, SessionPhase,
    SessionWindow, SetupStage, TaskDevice, TaskReason, fragments_sent,
};
use crate::task::clock::clock_words;
use crate::task::waits::{Waits, all_within};
use crate::task::{plan, sizing};
use crate::time::Timestamp;

use super::conversation::silence;
use super::distribution::WINDOW_TAIL;
use super::members::{Part, merged};
use super::slots::Slots;
use super::{Campaign, Surroundings};

/// Windows a session may open after the first, and sessions a task may make beside those of its plan.
pub(super) const MAX_WINDOWS: u8 = 16;
const MAX_SESSIONS: usize = 32;
/// Of the fragments a late device can still hear it is expected to lose one in so many.
const LOST_LATER: u16 = 4;
/// Before a device that was being set up is set up for another session: answers do not say which one they are about.
const ANSWERS_SETTLE: Duration = Duration::from_secs(10);
/// How long a session stays open for devices that say that they are done and may not be.
const CHECKS_TAKE: Duration = Duration::from_secs(1800);
/// What must be left of a window for a device to be let in.
const LATE_TAIL: Duration = Duration::from_secs(15);
/// Between two looks at a clock that is off.
const CLOCK_CHECKS: Duration = Duration::from_secs(10);
/// Uplinks that late devices are given to be set up.
const CHANCES: u32 = 3;
/// So many devices are many: it is likely that one of them needs more.
const MANY_LATE: u32 = 8;
/// Commands of a set-up, where nothing is known of the device.
const SETUP_COMMANDS: u32 = 3;
/// More of the commands are not taken to get lost, lest nobody is waited for for ever.
const MOST_MISSED: f64 = 0.5;
/// A window that nobody is ready for doubles the time to the next one, so often at most.
const LONGEST_LEAD: u8 = 3;
/// Of a device that no window is left for: intervals without an uplink after which it is silent rather than late.
const UNHEARD: u32 = 10;

/// The session that devices are given instead of theirs.
pub(super) struct Next {
    pub(super) frag_algo: FragAlgo,
    /// When its window opens, if it has to be made.
    pub(super) start: Timestamp,
    /// Words for the devices' records.
    pub(super) why: &'static str,
    /// How they end if there is no time for another one.
    pub(super) reason: DeviceReason,
}

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

    /// Gives late devices a session of their own, if there is still time for one.
    fn move_late(
        &mut self,
        now: Timestamp,
        number: usize,
        late: Vec<DevEui>,
        around: &Surroundings<'_>,
    ) {
        let Some(session) = self.sessions.get(number).filter(|_| !late.is_empty()) else {
            return;
        };
        let next = Next {
            frag_algo: session.record.block.frag_algo,
            start: self.setup_ends(now, &late, session.record.class, around),
            why: "not set up before its window",
            reason: DeviceReason::WindowClosed,
        };
        self.move_on(now, number, late, next, around);
    }

    /// Gives a device that refused the code of its session one with TS004's, together with all others that will.
    pub(super) fn fall_back(
        &mut self,
        now: Timestamp,
        number: usize,
        dev_eui: DevEui,
        around: &Surroundings<'_>,
    ) {
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        let set_up = self.setup_ends(now, &[dev_eui], session.record.class, around);
        let next = Next {
            frag_algo: FragAlgo::Ts004,
            start: set_up.max(session.record.window.start),
            why: "it refuses the FragAlgo of its session",
            reason: DeviceReason::FragAlgoUnsupported,
        };
        self.move_on(now, number, vec![dev_eui], next, around);
    }

    pub(super) fn move_on(
        &mut self,
        now: Timestamp,
        number: usize,
        late: Vec<DevEui>,
        next: Next,
        around: &Surroundings<'_>,
    ) {
        if self.is_beyond(next.start) || !self.has_session_left() {
            for dev_eui in late {
                let evidence = format!("{}, and no later one fits", next.why);
                if next.reason == DeviceReason::WindowClosed {
                    self.end_without_window(now, dev_eui, evidence, around);
                } else {
                    let state = DeviceState::Failed;
                    self.conclude(now, dev_eui, state, Some(next.reason), evidence);
                }
            }
            return;
        }
        self.follow_up(now, number, &late, next);
    }

    /// The task has run for several of the device's intervals.
    fn was_given_time(&self, now: Timestamp, dev_eui: DevEui, around: &Surroundings<'_>) -> bool {
        let patience = around.fleet.get(dev_eui).map(silence).unwrap_or_default();
        let since = self.task.started_at.max(self.task.resumed_at);
        since.is_none_or(|since| now >= since + patience)
    }

    /// Another session for devices that could not take part in `number`: one that is still being prepared, or a fresh
    /// one.
    fn follow_up(&mut self, now: Timestamp, number: usize, devices: &[DevEui], wanted: Next) {
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        let kind = kind(&session.record, wanted.frag_algo);
        let prepared = self.sessions.iter().skip(number + 1).find(|s| {
            let first = s.record.phase == SessionPhase::Preparing && s.record.uncoded_sent == 0;
            // The key of an earlier session is for those who were given it then.
            let fresh = s.record.group_use.reused.is_none();
            first
                && fresh
                && s.record.gateways == session.record.gateways
                && s.record.delta == session.record.delta
                && s.record.image == session.record.image
                && Slots::of(&s.record) == Slots::of(&session.record)
                && self::kind(&s.record, s.record.block.frag_algo) == kind
        });
        let next = match prepared {
            Some(prepared) => prepared.record.id.number,
            None => self.add_follow_up(number, &wanted, false),
        };
        for dev_eui in devices {
            let asked = self.devices.get(dev_eui).is_some_and(|d| d.tries > 0);
            let why = format!("{}; waits for the next one", wanted.why);
            self.spoil_group_of(*dev_eui);
            self.reset_setup(now, *dev_eui, &why);
            if let Some(device) = self.devices.get_mut(dev_eui) {
                device.session = Some(next);
                device.reason = None;
                device.setup.settles_at = asked.then_some(now + ANSWERS_SETTLE);
                self.due.insert((now + ANSWERS_SETTLE, *dev_eui));
            }
        }
    }

    /// Another session may be made.
    pub(super) fn has_session_left(&self) -> bool {
        let made = self.sessions.iter().filter(|s| s.record.follows.is_some());
        made.count() < MAX_SESSIONS
    }

    /// Begins a session that was planned and waited, with its window at `start` or when it is allowed.
    pub(super) fn begin_session(&mut self, now: Timestamp, number: usize, start: Timestamp) {
        let Some(session) = self.sessions.get(number).map(|s| &s.record) else {
            return;
        };
        let (window, class) = (session.window, session.class);
        let window = self.allowed_or_asked(SessionWindow { start, ..window });
        let members: Vec<DevEui> = self.members(number).map(|d| d.dev_eui).collect();
        let record = &mut self.sessions[number].record;
        record.phase = first_phase(class);
        record.window = window;
        self.changed.sessions.insert(record.id.number);
        self.request_group(number);
        self.due
            .extend(members.into_iter().map(|dev_eui| (now, dev_eui)));
    }

    /// Adds a session like another one; a `whole` one carries the image where that one had a patch.
    pub(super) fn add_follow_up(&mut self, number: usize, wanted: &Next, whole: bool) -> u16 {
        let next = u16::try_from(self.sessions.len()).unwrap_or(u16::MAX);
        let mut record = self.sessions[number].record.clone();
        record.id = SessionId {
            task: self.task.id.clone(),
            number: next,
        };
        record.phase = first_phase(record.class);
        record.window = self.allowed_or_asked(SessionWindow {
            number: 0,
            start: wanted.start,
            ..record.window
        });
        record.block.frag_algo = wanted.frag_algo;
        (record.uncoded_sent, record.coded_sent, record.coded_target) = (0, 0, 0);
        record.resend = None;
        (record.round, record.roll_calls) = (0, 0);
        record.rounds.clear();
        record.airtime_us.clear();
        record.group_use = GroupUse::default();
        record.follows = Some(self.sessions[number].record.id.number);
        if whole {
            self.carry_the_whole(&mut record);
        }
        self.add_session(record);
        self.changed.sessions.insert(next);
        self.request_group(usize::from(next));
        next
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

    /// When devices can be expected to have confirmed another window: after three chances to speak, or, of many, as
    /// many as it likely takes until the last one has. Each session more would cost all others its air and their time.
    pub(super) fn setup_ends(
        &self,
        now: Timestamp,
        devices: &[DevEui],
        class: DeviceClass,
        around: &Surroundings<'_>,
    ) -> Timestamp {
        let interval = devices
            .iter()
            .filter_map(|d| Some(around.fleet.get(*d)?.profile.uplink_interval))
            .max();
        let interval = interval.unwrap_or_default();
        let after = |time| sizing::window_opens(class, now + time + Duration::from_secs(15));
        let soon = after(interval * CHANCES);
        let for_all = soon.max(after(self.last_of_many(devices.len(), interval)));
        // Where there is no time for that, most are better than none.
        if self.is_beyond(for_all) {
            soon
        } else {
            for_all
        }
    }

    /// How long it likely takes until the last of many devices is set up, by what got lost in this task so far.
    fn last_of_many(&self, devices: usize, interval: Duration) -> Duration {
        let many = u32::try_from(devices).unwrap_or(u32::MAX);
        if many < MANY_LATE {
            return Duration::ZERO;
        }
        let (sends, answers) = self
            .devices
            .values()
            .fold((0.0, 0.0), |(sends, answers), d| {
                (
                    sends + f64::from(d.attempts),
                    answers + f64::from(d.commands_answered),
                )
            });
        let wait = Waits {
            interval,
            commands: SETUP_COMMANDS,
            miss: (1.0 - answers / f64::max(sends, 1.0)).clamp(0.0, MOST_MISSED),
            unknown: 1,
            least: Duration::ZERO,
        };
        all_within(&[wait], 0.5f64.powf(1.0 / f64::from(many)))
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

    /// Devices of a session's group that are without the image; those that are sent to alone are not among them.
    pub(super) fn members(&self, number: usize) -> impl Iterator<Item = &TaskDevice> {
        let filed = merged(
            self.members.filed(number, Part::Waiting),
            self.members.filed(number, Part::Receiving),
        );
        self.parts(number, filed, |part| {
            matches!(part, Part::Waiting | Part::Receiving)
        })
    }

    pub(super) fn nobody_left(&self, number: usize) -> bool {
        self.members(number).next().is_none()
    }

    /// Devices of a session that take part in it.
    pub(super) fn receiving(&self, number: usize) -> impl Iterator<Item = DevEui> {
        self.of_part(number, Part::Receiving).map(|d| d.dev_eui)
    }

    /// Devices without a verdict that are this to a session.
    pub(super) fn of_part(&self, number: usize, part: Part) -> impl Iterator<Item = &TaskDevice> {
        let filed = self.members.filed(number, part);
        self.parts(number, filed, move |found| found == part)
    }

    /// Those of the devices filed, and of those this step has changed, that are what is asked for.
    fn parts(
        &self,
        number: usize,
        filed: impl Iterator<Item = DevEui>,
        wanted: impl Fn(Part) -> bool,
    ) -> impl Iterator<Item = &TaskDevice> {
        merged(filed, self.changed.devices.iter().copied())
            .filter(|dev_eui| self.open.contains(dev_eui))
            .filter_map(|dev_eui| self.devices.get(&dev_eui))
            .filter(move |device| {
                let place = Part::of(device);
                place.is_some_and(|(session, part)| usize::from(session) == number && wanted(part))
            })
    }
}

/// Where a session begins: a class A one has no window to wait for.
pub(super) fn first_phase(class: DeviceClass) -> SessionPhase {
    match class {
        DeviceClass::A => SessionPhase::Individual,
        DeviceClass::B | DeviceClass::C => SessionPhase::Preparing,
    }
}

/// What devices must have in common to share a session, and the block they share; how long answers are spread does not
/// matter. `frag_algo` stands for the block's own. On another data rate, or with the other version's code, they could
/// not follow.
fn kind(
    session: &DistributionSession,
    frag_algo: FragAlgo,
) -> (
    Region,
    DeviceClass,
    Option<PingSlotPeriodicity>,
    u8,
    u32,
    PackageVersion,
    u8,
    BlockParameters,
) {
    let block = BlockParameters {
        frag_algo,
        block_ack_delay: 0,
        ..session.block
    };
    (
        session.region,
        session.class,
        session.ping_slots,
        session.data_rate,
        session.frequency_hz,
        session.multicast_version,
        session.frag_port,
        block,
    )
}
