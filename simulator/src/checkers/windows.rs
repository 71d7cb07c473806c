//! Multicast frames stay within the windows their devices were told of, and in class B within their ping slots.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::class_b::{
    BEACON_GUARD, PingSlotPeriodicity, ceil_beacon_start, next_ping_slot,
};
use lorawan_fuota::lorawan::frame::DataFrame;
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::record::{Change, DistributionSession, SessionId, SessionPhase, SessionWindow};
use lorawan_fuota::time::Timestamp;

use crate::gateway::OnAir;

use super::{Broken, Checker};

/// Clocks of devices are right to fractions of a second, and a frame may start or end this much outside.
const TOLERANCE: Duration = Duration::from_millis(500);

/// All windows that were committed, and whose they are.
#[derive(Default)]
pub struct Windows {
    groups: BTreeMap<DevAddr, SessionId>,
    slots: BTreeMap<DevAddr, PingSlotPeriodicity>,
    windows: BTreeMap<SessionId, Vec<(Timestamp, Timestamp)>>,
    /// What the server's clock may be off.
    clock_off: Duration,
    /// How long after a window a frame may leave that was queued by a counter which began anew.
    late: Duration,
    /// The window each session that is being prepared waits for.
    waiting: BTreeMap<SessionId, SessionWindow>,
    /// When the server was started last.
    started: Timestamp,
}

/// How long after the start of a window, and its guard, a session may begin at the latest.
const PROMPT: Duration = Duration::from_secs(5);

impl Windows {
    pub(super) fn tolerate(&mut self, off: Duration) {
        self.clock_off = self.clock_off.max(off);
    }

    /// Gateways lose power, for so short a time that the server cannot notice: what it hands over then leaves up to a
    /// queue's length later.
    pub(super) fn tolerate_late(&mut self) {
        self.late = Duration::from_secs(520);
    }

    pub(super) fn restarted(&mut self, at: Timestamp) {
        self.started = at;
    }

    pub(super) fn commit(&mut self, at: Timestamp, changes: &[Change]) -> Vec<Broken> {
        let mut broken = Vec::new();
        // Windows that passed while a task was held are late for a reason.
        let tasks = changes.iter().filter_map(|change| match change {
            Change::PutTask(task) => task.resumed_at,
            _ => None,
        });
        self.started = tasks.fold(self.started, Timestamp::max);
        for change in changes {
            match change {
                Change::PutDistributionSession(session) => {
                    let window = (session.window.start, session.window.end());
                    let windows = self.windows.entry(session.id.clone()).or_default();
                    if !windows.contains(&window) {
                        windows.push(window);
                    }
                    broken.extend(self.prompt(at, session));
                }
                Change::PutMcGroup(group) => {
                    self.groups.insert(group.mc_addr, group.session.clone());
                    self.slots.remove(&group.mc_addr);
                    let slots = group.ping_slots.map(|slots| (group.mc_addr, slots));
                    self.slots.extend(slots);
                }
                _ => {}
            }
        }
        broken
    }

    /// The part of [`Checker::Windows`] about timers: a window opens when it is time, not when something else happens.
    fn prompt(&mut self, at: Timestamp, session: &DistributionSession) -> Option<Broken> {
        let preparing = session.phase == SessionPhase::Preparing;
        let before = if preparing {
            self.waiting.insert(session.id.clone(), session.window)
        } else {
            self.waiting.remove(&session.id)
        };
        let before = before.filter(|before| {
            let same = preparing && *before == session.window;
            !same && session.phase != SessionPhase::Closed && self.started < before.start
        })?;
        let late = at.since(before.start);
        (late > PROMPT + self.clock_off).then(|| {
            let number = session.id.number;
            let what = format!(
                "window {} of session {number} opens {late:?} late",
                before.number
            );
            (Checker::Windows, None, what)
        })
    }

    /// Whose frame it is, if it is one of a group.
    pub(super) fn session(&self, frame: &DataFrame) -> Option<&SessionId> {
        self.groups.get(&frame.dev_addr)
    }

    /// The checker of [`Checker::Windows`].
    pub(super) fn on_air(&self, sent: &OnAir, frame: &DataFrame) -> Option<Broken> {
        let session = self.session(frame)?;
        let tolerance = TOLERANCE + self.clock_off;
        let inside = self.windows.get(session).is_some_and(|windows| {
            windows.iter().any(|(from, to)| {
                let latest = *to + tolerance + self.late;
                sent.start + tolerance >= *from && sent.end <= latest
            })
        });
        let what = || {
            format!(
                "a frame of session {} outside of its windows",
                session.number
            )
        };
        if !inside {
            return Some((Checker::Windows, None, what()));
        }
        self.out_of_slot(sent, frame).then(|| {
            let what = format!(
                "a frame of session {} out of its ping slots",
                session.number
            );
            (Checker::Windows, None, what)
        })
    }

    /// A class B frame that does not start in a slot of its group, or runs into the guard of a beacon.
    fn out_of_slot(&self, sent: &OnAir, frame: &DataFrame) -> bool {
        let Some(periodicity) = self.slots.get(&frame.dev_addr) else {
            return false;
        };
        let before = sent.start - Duration::from_millis(1);
        let slot = next_ping_slot(before.to_gps(), frame.dev_addr, *periodicity).to_unix();
        let beacon = ceil_beacon_start(sent.start.to_gps()).to_unix();
        slot.since(sent.start).max(sent.start.since(slot)) > Duration::from_millis(1)
            || sent.end + BEACON_GUARD > beacon
    }
}
