//! What became of a run: of the task, of each group and device, what it cost, and which expectations held.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::Serialize;

use super::expectations::Judged;

/// What became of a scenario. Its JSON form is what `fuota-sim run --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The scenario's name.
    pub scenario: String,
    /// The seed of this run.
    pub seed: u64,
    /// Every expectation held.
    pub passed: bool,
    /// The task.
    pub task: TaskOutcome,
    /// From the start of the task to its end, in seconds; `None` if it has not ended.
    pub duration_s: Option<f64>,
    /// Frames of the task, each once for each gateway that sent it.
    pub frames: Frames,
    /// Time on air of these frames, in seconds.
    pub airtime_s: f64,
    /// Times the server died.
    pub server_crashes: u32,
    /// Distribution sessions.
    pub sessions: Vec<SessionOutcome>,
    /// Groups, in the order of the file.
    pub groups: Vec<GroupOutcome>,
    /// Devices of the task, in the order of their groups.
    pub devices: Vec<DeviceOutcome>,
    /// Properties of the product that were broken.
    pub violations: Vec<String>,
    /// Expectations and what came.
    pub expectations: Vec<Judged>,
}

/// Where the task ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TaskOutcome {
    /// Its state: `completed`.
    pub state: String,
    /// Why, if it says so.
    pub reason: Option<String>,
    /// Words to the reason; why the start was refused.
    pub text: String,
}

/// Frames by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Frames {
    /// Uncoded fragments by multicast.
    pub uncoded: u64,
    /// Coded fragments by multicast.
    pub coded: u64,
    /// Questions for status by multicast.
    pub polls: u64,
    /// All frames to single devices.
    pub unicast: u64,
    /// Frames that a gateway or the network refused.
    pub refused: u64,
}

/// A distribution session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionOutcome {
    /// Its number.
    pub number: u16,
    /// Its wave.
    pub wave: u16,
    /// `A`, `B` or `C`.
    pub class: String,
    /// Data rate index of its window.
    pub data_rate: u8,
    /// Fragments of the image.
    pub nb_frag: u16,
    /// Bytes of each.
    pub frag_size: u8,
    /// Gateways that sent.
    pub gateways: usize,
    /// Windows announced.
    pub windows: u32,
    /// Rounds of fragments.
    pub rounds: u16,
    /// Time on air of one fragment, in microseconds.
    pub frame_us: u64,
}

/// What became of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupOutcome {
    /// Its name.
    pub name: String,
    /// Its devices in the task.
    pub devices: u32,
    /// Of them those that are updated: the verdict says so, and the device really is.
    pub updated: u32,
    /// Where its devices ended, the most frequent first.
    pub ends: Vec<End>,
}

/// Devices of a group that ended alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// Their state: `running`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// How many.
    pub devices: u32,
}

/// What became of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceOutcome {
    /// Its EUI.
    pub dev_eui: String,
    /// Its group.
    pub group: String,
    /// Its state at the end: `running`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// What led to it.
    pub evidence: String,
    /// The version the simulated device really runs, as TS006 reports it.
    pub running_version: u32,
    /// It is updated.
    pub updated: bool,
    /// Times it was tried again.
    pub retries: u8,
}

impl Outcome {
    /// All groups as one.
    pub fn total(&self) -> GroupOutcome {
        GroupOutcome {
            name: "all".to_owned(),
            devices: self.groups.iter().map(|group| group.devices).sum(),
            updated: self.groups.iter().map(|group| group.updated).sum(),
            ends: Vec::new(),
        }
    }

    /// Where the task ended, for people.
    pub fn task_in_words(&self) -> String {
        let mut words = self.task.state.clone();
        if let Some(reason) = &self.task.reason {
            words += &format!(" ({reason})");
        }
        if !self.task.text.is_empty() {
            words += &format!(": {}", self.task.text);
        }
        words
    }
}

impl GroupOutcome {
    /// Adds up what became of the devices of a group.
    pub(crate) fn of<'a>(name: &str, devices: impl Iterator<Item = &'a DeviceOutcome>) -> Self {
        let mut group = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        let mut ends = BTreeMap::<(String, Option<String>), u32>::new();
        for device in devices {
            group.devices += 1;
            group.updated += u32::from(device.updated);
            *ends
                .entry((device.state.clone(), device.reason.clone()))
                .or_default() += 1;
        }
        let ends = ends.into_iter().map(|((state, reason), devices)| End {
            state,
            reason,
            devices,
        });
        group.ends = ends.collect();
        group.ends.sort_by_key(|end| std::cmp::Reverse(end.devices));
        group
    }

    /// Where its devices ended: `48 running, 2 failed (no-answer)`.
    pub fn ends_in_words(&self) -> String {
        let words = self.ends.iter().map(|end| match &end.reason {
            Some(reason) => format!("{} {} ({reason})", end.devices, end.state),
            None => format!("{} {}", end.devices, end.state),
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

/// A name of the code as files have it: `NoAnswer` is `no-answer`.
pub(super) fn kebab(name: impl Debug) -> String {
    let mut words = String::new();
    for letter in format!("{name:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push('-');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::expectations::reasons;
    use super::*;

    #[test]
    fn words_of_the_code_are_those_of_the_files() {
        for (word, reason) in reasons() {
            assert_eq!(kebab(reason), word);
        }
    }
}
