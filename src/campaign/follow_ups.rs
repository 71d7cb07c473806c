//! The session that follows: for devices that come too late for theirs, refuse its code or are tried again; and when
//! the window of one can open.

use std::time::Duration;

use crate::lorawan::PackageVersion;
use crate::lorawan::class_b::PingSlotPeriodicity;
use crate::lorawan::identifiers::DevEui;
use crate::lorawan::region::Region;
use crate::record::{
    BlockParameters, DeviceClass, DeviceReason, DeviceState, DistributionSession, FragAlgo,
    GroupUse, SessionId, SessionPhase, SessionWindow,
};
use crate::task::sizing;
use crate::task::waits::{Waits, all_within};
use crate::time::Timestamp;

use super::slots::Slots;
use super::{Campaign, Surroundings};

/// Sessions a task may make beside those of its plan.
const MAX_SESSIONS: usize = 32;
/// Before a device that was being set up is set up for another session: answers do not say which one they are about.
const ANSWERS_SETTLE: Duration = Duration::from_secs(10);
/// Uplinks that late devices are given to be set up.
const CHANCES: u32 = 3;
/// So many devices are many: it is likely that one of them needs more.
const MANY_LATE: u32 = 8;
/// Commands of a set-up, where nothing is known of the device.
const SETUP_COMMANDS: u32 = 3;
/// More of the commands are not taken to get lost, lest nobody is waited for for ever.
const MOST_MISSED: f64 = 0.5;

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
    /// Gives late devices a session of their own, if there is still time for one.
    pub(super) fn move_late(
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

    /// Another session for devices that could not take part in `number`: one that is still being prepared, or a fresh
    /// one.
    pub(super) fn follow_up(
        &mut self,
        now: Timestamp,
        number: usize,
        devices: &[DevEui],
        wanted: Next,
    ) {
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
    pub(super) fn last_of_many(&self, devices: usize, interval: Duration) -> Duration {
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
