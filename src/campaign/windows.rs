//! Windows: who takes part when one opens, who comes later, and what follows when it closes.

use std::time::Duration;

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    DeviceReason, DeviceState, Fleet, NetworkRequest, SessionId, SessionPhase, SessionWindow,
    SetupStage, TaskDevice,
};
use crate::task::{plan, sizing};
use crate::time::Timestamp;

use super::conversation::silence;
use super::{Campaign, Surroundings};

/// Windows and sessions a task may open after the first.
const MAX_WINDOWS: u8 = 16;
const MAX_SESSIONS: usize = 32;

impl Campaign {
    /// The window opens: who is ready takes part, who is not gets another session.
    pub(super) fn open_window(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
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
        record.rounds.clear();
        record.airtime_us.clear();
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
    pub(super) fn next_window(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
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

    pub(super) fn members(&self, number: usize) -> impl Iterator<Item = &TaskDevice> {
        self.open
            .iter()
            .filter_map(|dev_eui| self.devices.get(dev_eui))
            .filter(move |d| d.session.map(usize::from) == Some(number))
            .filter(|d| d.state < DeviceState::ReportedReceived)
    }

    pub(super) fn nobody_left(&self, number: usize) -> bool {
        self.members(number).next().is_none()
    }

    pub(super) fn receiving(&self, number: usize) -> Vec<DevEui> {
        self.members(number)
            .filter(|d| d.state == DeviceState::Receiving)
            .map(|d| d.dev_eui)
            .collect()
    }
}
