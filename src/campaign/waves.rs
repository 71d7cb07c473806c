//! Waves: the next one begins when the one before is over, well enough, and approved; and what happens when too much
//! goes wrong.

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    Approval, DeviceState, SessionPhase, TaskReason, TaskState, ThresholdAction, Wave,
};
use crate::time::Timestamp;

use super::{Campaign, Surroundings};

/// Devices with a verdict, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// All of them. Skipped, removed and cancelled ones say nothing and are not among them.
    pub(super) ended: u32,
    /// Those that failed, fell silent or rolled back.
    pub(super) failed: u32,
}

impl Tally {
    /// Counts a device that ended in `state`.
    pub(super) fn count(&mut self, state: DeviceState) {
        let failed = matches!(
            state,
            DeviceState::Failed | DeviceState::Silent | DeviceState::RolledBack
        );
        let says_nothing = matches!(
            state,
            DeviceState::Skipped | DeviceState::Removed | DeviceState::Cancelled
        );
        self.ended += u32::from(!says_nothing);
        self.failed += u32::from(failed);
    }
}

impl Campaign {
    /// Whether a device's wave has not begun.
    pub(super) fn waits_for_wave(&self, number: usize) -> bool {
        self.sessions
            .get(number)
            .is_some_and(|s| s.record.phase == SessionPhase::Planned)
    }

    /// When the next wave begins by itself; `None` if there is none, or somebody has to let it.
    pub(super) fn next_wave_at(&self) -> Option<Timestamp> {
        let ended_at = self.current_wave()?.ended_at?;
        self.waves
            .iter()
            .any(|wave| wave.started_at.is_none())
            .then(|| ended_at + self.task.waves.pause_between)
    }

    /// Ends the wave whose devices all have a verdict, and begins the next one when it is due. True while there is
    /// another wave to come.
    pub(super) fn see_to_waves(&mut self, now: Timestamp, around: &Surroundings<'_>) -> bool {
        let Some(number) = self.current_wave().map(|wave| usize::from(wave.number)) else {
            return false;
        };
        if self.open_in_wave > 0 {
            return number + 1 < self.waves.len();
        }
        if self.waves[number].ended_at.is_none() {
            self.waves[number].ended_at = Some(now);
            self.changed.waves = true;
            self.close_wave(number);
        }
        if self.task.state == TaskState::Cancelling || number + 1 >= self.waves.len() {
            return false;
        }
        if !self.may_go_on(now, number) {
            // It waits, or was given up.
            return self.task.state != TaskState::Cancelling;
        }
        if self.next_wave_at().is_some_and(|at| at <= now) {
            self.begin_wave(now, number + 1, around);
        }
        true
    }

    /// Asks whether too much went wrong, after devices have ended.
    pub(super) fn check_thresholds(&mut self, now: Timestamp) {
        let limits = self.task.thresholds;
        let accepted = self.task.failures_accepted;
        let ended = self.tally.ended.saturating_sub(accepted.ended);
        let failed = self.tally.failed.saturating_sub(accepted.failed);
        let by_share = limits.max_failed_percent.is_some_and(|percent| {
            ended >= limits.min_ended.max(1)
                && u64::from(failed) * 100 > u64::from(percent) * u64::from(ended)
        });
        let by_count = limits.max_failed_count.is_some_and(|most| failed > most);
        if by_share || by_count {
            self.too_much(now, format!("{failed} of {ended} devices failed"));
        }
    }

    /// The operator lets a task go on: what has gone wrong so far is accepted, and a wave that is over is approved. One
    /// that still runs is not: it was only held.
    pub(super) fn accept_failures(&mut self) {
        let over = self.current_wave().filter(|wave| wave.ended_at.is_some());
        let over = over.map(|wave| wave.number);
        let accepted = &mut self.task.failures_accepted;
        (accepted.ended, accepted.failed) = (self.tally.ended, self.tally.failed);
        accepted.wave = over.or(accepted.wave);
    }

    fn current_wave(&self) -> Option<&Wave> {
        self.waves
            .iter()
            .rev()
            .find(|wave| wave.started_at.is_some())
    }

    /// Whether a wave that is over went well enough and is approved.
    fn may_go_on(&mut self, now: Timestamp, number: usize) -> bool {
        let accepted = self.task.failures_accepted.wave;
        if accepted.is_some_and(|wave| usize::from(wave) >= number) {
            return true;
        }
        let devices = &self.waves[number].devices;
        let states = devices.iter().filter_map(|dev_eui| {
            let device = self.devices.get(dev_eui)?;
            Some(device.state)
        });
        let mut tally = Tally::default();
        states.for_each(|state| tally.count(state));
        let succeeded = tally.ended - tally.failed;
        let least = self.task.thresholds.min_succeeded_percent;
        if least.is_some_and(|percent| {
            u64::from(succeeded) * 100 < u64::from(percent) * u64::from(tally.ended)
        }) {
            let (ended, wave) = (tally.ended, number + 1);
            self.too_much(
                now,
                format!("{succeeded} of {ended} devices of wave {wave} succeeded"),
            );
            return false;
        }
        let asks = match self.task.waves.approval {
            Approval::None => false,
            Approval::AfterFirst => number == 0,
            Approval::AfterEach => true,
        };
        if asks {
            self.hold(now, TaskState::AwaitingApproval, TaskReason::Requested);
            return false;
        }
        true
    }

    /// Devices of the current wave without a verdict, counted anew.
    pub(super) fn count_open_in_wave(&mut self) {
        let devices = self.current_wave().map_or(&[][..], |wave| &wave.devices);
        let open = devices.iter().filter(|d| self.open.contains(d)).count();
        self.open_in_wave = open;
    }

    fn begin_wave(&mut self, now: Timestamp, number: usize, around: &Surroundings<'_>) {
        self.waves[number].started_at = Some(now);
        self.changed.waves = true;
        self.count_open_in_wave();
        let records = || self.sessions.iter().map(|s| &s.record);
        let planned: Vec<(u8, usize)> = records()
            .filter(|s| usize::from(s.wave) == number && s.phase == SessionPhase::Planned)
            .map(|s| (s.image, usize::from(s.id.number)))
            .collect();
        let first = planned.iter().map(|(image, _)| *image).min();
        for (image, session) in planned {
            let members: Vec<DevEui> = self.members(session).map(|d| d.dev_eui).collect();
            if Some(image) != first {
                members.into_iter().for_each(|d| self.note_held_back(d));
                continue;
            }
            let record = &self.sessions[session].record;
            let ready = self.setup_ends(now, &members, record.class, around);
            let start = record.window.start.max(ready);
            self.begin_session(now, session, start);
        }
        self.enter(TaskState::Preparing);
    }

    fn close_wave(&mut self, number: usize) {
        for session in 0..self.sessions.len() {
            if usize::from(self.sessions[session].record.wave) == number {
                self.close_session(session);
            }
        }
    }

    fn too_much(&mut self, now: Timestamp, text: String) {
        self.task.reason_text = text;
        match self.task.thresholds.action {
            ThresholdAction::Pause => {
                self.hold(now, TaskState::Paused, TaskReason::ThresholdCrossed)
            }
            ThresholdAction::Abort => self.abort(now, TaskReason::ThresholdCrossed),
        }
    }
}
