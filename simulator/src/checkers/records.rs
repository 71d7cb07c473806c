//! Committed records: what was acknowledged stays, what has ended stays ended, and nothing goes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui};
use lorawan_fuota::record::{
    Change, DeviceSettings, DeviceState, DeviceStatus, DistributionSession, SessionId, Task,
    TaskDevice, TaskId, Wave,
};

use super::{Broken, Checker};

/// What was committed last of each record.
#[derive(Default)]
pub struct Records {
    /// Transactions so far.
    pub commits: u64,
    /// Tasks.
    pub tasks: BTreeMap<TaskId, Arc<Task>>,
    /// Their devices.
    pub devices: BTreeMap<(DevEui, TaskId), Arc<TaskDevice>>,
    /// Their sessions.
    pub sessions: BTreeMap<SessionId, DistributionSession>,
    /// Their waves.
    pub waves: BTreeMap<(TaskId, u16), Wave>,
    /// What is known of devices outside of tasks, as far as it is checked.
    pub statuses: BTreeMap<DevEui, KnownOfDevice>,
    /// What is set of devices.
    pub settings: BTreeMap<DevEui, DeviceSettings>,
    /// Next counter of each multicast address.
    groups: BTreeMap<DevAddr, u32>,
    /// Address and next counter of each device.
    unicast: BTreeMap<DevEui, (DevAddr, u32)>,
    /// Next join nonce of each device.
    join_nonces: BTreeMap<DevEui, u32>,
}

/// Of a device's status what checkers look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownOfDevice {
    /// The next `SessionCnt` of each `FragIndex`.
    pub next_session_cnt: [u16; 4],
    /// A multicast group is recorded as left on it, or kept for a later task.
    pub group_left: bool,
    /// A fragmentation session is recorded as left on it.
    pub frag_session_left: bool,
}

impl KnownOfDevice {
    fn of(status: &DeviceStatus) -> Self {
        let counts = status.next_session_cnt.iter().copied();
        let mut next_session_cnt = [0; 4];
        for (known, count) in next_session_cnt.iter_mut().zip(counts) {
            *known = count;
        }
        Self {
            next_session_cnt,
            group_left: status
                .mc_slots
                .iter()
                .flatten()
                .any(|slot| slot.leftover || slot.kept),
            frag_session_left: status.frag_slots.iter().flatten().any(|slot| slot.leftover),
        }
    }
}

impl Records {
    /// Takes in a commit. `real` knows which version a device runs; `note` is told what changed that people want to
    /// know.
    pub(super) fn commit(
        &mut self,
        changes: &[Change],
        real: &dyn Fn(DevEui) -> Option<u32>,
        note: &mut impl FnMut(Option<DevEui>, String),
    ) -> Vec<Broken> {
        self.commits += 1;
        let mut broken = Vec::new();
        for change in changes {
            match change {
                Change::PutTask(task) => {
                    let before = self.tasks.insert(task.id.clone(), task.clone());
                    if before.as_ref().is_none_or(|b| b.state != task.state) {
                        note(None, format!("task {}: {:?}", task.id, task.state));
                    }
                    if let Some(before) = before {
                        broken.extend(task_went_back(&before, task));
                    }
                }
                Change::PutTaskDevice(device) => {
                    let key = (device.dev_eui, device.task.clone());
                    let before = self.devices.insert(key, device.clone());
                    if before.as_ref().is_none_or(|b| {
                        (b.state, b.session, &b.evidence)
                            != (device.state, device.session, &device.evidence)
                    }) {
                        let told = format!(
                            "{:?} in session {:?}, {:?}: {}",
                            device.state, device.session, device.reason, device.evidence
                        );
                        note(Some(device.dev_eui), told);
                    }
                    if let Some(before) = before {
                        broken.extend(device_went_back(&before, device));
                    }
                    broken.extend(running(device, real));
                }
                Change::PutDistributionSession(session) => {
                    let before = self.sessions.insert(session.id.clone(), session.clone());
                    let told = |s: &DistributionSession| (s.phase, s.round, s.window);
                    if before.as_ref().is_none_or(|b| told(b) != told(session)) {
                        note(None, session_in_words(session));
                    }
                    if let Some(before) = before {
                        broken.extend(session_went_back(&before, session));
                    }
                }
                Change::PutWave(wave) => {
                    let key = (wave.task.clone(), wave.number);
                    self.waves.insert(key, wave.clone());
                }
                _ => broken.extend(self.counters_went_back(change)),
            }
        }
        broken
    }

    fn counters_went_back(&mut self, change: &Change) -> Option<Broken> {
        match change {
            Change::PutMcGroup(group) => {
                let next = group.next_mc_f_cnt;
                let before = self.groups.insert(group.mc_addr, next);
                let back = before.filter(|before| *before > next)?;
                let what = format!("counter of {} went back: {back} to {next}", group.mc_addr);
                Some((Checker::Counters, None, what))
            }
            Change::PutSession(dev_eui, session) => {
                let now = (session.dev_addr, session.next_f_cnt_down);
                let (address, before) = self.unicast.insert(*dev_eui, now)?;
                (address == now.0 && before > now.1).then(|| {
                    let what = format!("counter of {address} went back: {before} to {}", now.1);
                    (Checker::Counters, Some(*dev_eui), what)
                })
            }
            Change::PutJoinState(dev_eui, join) => {
                let next = join.next_join_nonce;
                let before = self.join_nonces.insert(*dev_eui, next)?;
                (before > next).then(|| {
                    let what = format!("join nonce went back: {before} to {next}");
                    (Checker::Counters, Some(*dev_eui), what)
                })
            }
            Change::PutDeviceSettings(settings) => {
                self.settings.insert(settings.dev_eui, settings.clone());
                None
            }
            Change::PutDeviceStatus(dev_eui, status) => {
                let known = KnownOfDevice::of(status);
                let before = self.statuses.insert(*dev_eui, known)?;
                let counts = before.next_session_cnt.iter().zip(&known.next_session_cnt);
                let back = counts.into_iter().any(|(before, now)| now < before);
                back.then(|| {
                    let what = "a SessionCnt went back".to_owned();
                    (Checker::Acknowledged, Some(*dev_eui), what)
                })
            }
            _ => None,
        }
    }
}

/// The checkers of [`Checker::Terminal`] and [`Checker::Acknowledged`], for tasks.
fn task_went_back(before: &Task, now: &Task) -> Vec<Broken> {
    let mut broken = Vec::new();
    if before.state.is_terminal() && before.state != now.state {
        let what = format!("task {} left {:?}", now.id, before.state);
        broken.push((Checker::Terminal, None, what));
    }
    let sums = |t: &Task| {
        [
            t.counters.uncoded_frames,
            t.counters.coded_frames,
            t.counters.unicast_frames,
            t.counters.airtime_us,
        ]
    };
    let less = sums(before).iter().zip(sums(now)).any(|(b, n)| n < *b);
    if now.sequence < before.sequence || less {
        let what = format!("task {}: its sequence or a sum went back", now.id);
        broken.push((Checker::Acknowledged, None, what));
    }
    broken
}

/// The checkers of [`Checker::Terminal`] and [`Checker::Acknowledged`], for devices of tasks.
fn device_went_back(before: &TaskDevice, now: &TaskDevice) -> Vec<Broken> {
    let (dev_eui, from, to) = (now.dev_eui, before.state, now.state);
    let mut broken = Vec::new();
    let ended = from.is_failure() || from == DeviceState::Running;
    if ended && from != to {
        let what = format!("left {from:?} for {to:?}");
        broken.push((Checker::Terminal, Some(dev_eui), what));
    }
    // What is set up may be lost, by a reboot or by coming too late. An image that a device holds may not; only the
    // word of a stack that is known to lie is taken back, and a reboot that nothing showed to have happened. Who is
    // tried again had failed in between, and begins anew; so does who had no use for a patch.
    // With several images, a device begins anew with each.
    let ahead = |d: &TaskDevice| d.images.as_ref().map(|course| course.ahead.len());
    let anew =
        now.retries > before.retries || (now.whole && !before.whole) || ahead(now) < ahead(before);
    let set_up_again = to == DeviceState::Preparing && (from <= DeviceState::Receiving || anew);
    let taken_back = matches!(
        (from, to),
        (DeviceState::ReportedReceived, DeviceState::Receiving)
            | (DeviceState::Rebooting, DeviceState::Verified)
    );
    if to < from && !ended && !set_up_again && !taken_back {
        let what = format!("went back from {from:?} to {to:?}");
        broken.push((Checker::Acknowledged, Some(dev_eui), what));
    }
    if now.sequence <= before.sequence && now != before {
        let what = format!("changed under sequence {}", now.sequence);
        broken.push((Checker::Acknowledged, Some(dev_eui), what));
    }
    broken
}

/// The checker of [`Checker::Acknowledged`], for sessions.
fn session_went_back(before: &DistributionSession, now: &DistributionSession) -> Option<Broken> {
    let progress = |s: &DistributionSession| {
        [
            s.uncoded_sent,
            s.coded_sent,
            s.coded_target,
            s.round,
            u16::from(s.window.number),
        ]
    };
    let back = progress(before)
        .iter()
        .zip(progress(now))
        .any(|(b, n)| n < *b);
    let moved = before.block != now.block;
    (back || moved).then(|| {
        let what = format!("progress of session {} went back", now.id.number);
        (Checker::Acknowledged, None, what)
    })
}

/// The checker of [`Checker::Running`]: the version that is claimed is the one that runs.
fn running(device: &TaskDevice, real: &dyn Fn(DevEui) -> Option<u32>) -> Option<Broken> {
    if device.state != DeviceState::Running {
        return None;
    }
    let really = real(device.dev_eui);
    let claimed = &device.evidence;
    let fits = really.is_some_and(|version| claimed.contains(&format!("{version:#010x}")));
    (!fits).then(|| {
        let what = format!("is RUNNING ({claimed}), but runs {really:?}");
        (Checker::Running, Some(device.dev_eui), what)
    })
}

fn session_in_words(session: &DistributionSession) -> String {
    format!(
        "session {}: {:?}, window {} from {}, round {}, {} of {} fragments and {} coded ones",
        session.id.number,
        session.phase,
        session.window.number,
        session.window.start,
        session.round,
        session.uncoded_sent,
        session.block.nb_frag,
        session.coded_sent
    )
}
