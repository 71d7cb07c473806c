//! What a scenario expects of a run (`[expect]`), and whether it held.

use std::time::Duration;

use lorawan_fuota::record::{DeviceReason, DeviceState, TaskState};
use serde::Serialize;

use super::groups::Group;
use super::kinds::{share, share_or_all, spoken, text, time, whole, word};
use super::outcome::{GroupOutcome, Outcome, kebab};
use super::reading::{Fields, File};
use super::trouble::group;

/// What is expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectations {
    /// Where the task is at the end.
    pub task: TaskState,
    /// So large a share of all devices is updated, at least.
    pub updated: Option<f64>,
    /// Fragments sent by multicast, each once for each gateway that sent it, at most.
    pub frames_max: Option<u64>,
    /// Time on air of all gateways together, at most.
    pub airtime_max: Option<Duration>,
    /// From the start of the task to its end, at most.
    pub finished_within: Option<Duration>,
    /// Windows of the session with the most of them, at most.
    pub windows_max: Option<u32>,
    /// The longest fragment on air, at most.
    pub longest_frame_max: Option<Duration>,
    /// Properties broken, at most.
    pub violations_max: usize,
    /// What is expected of groups.
    pub groups: Vec<GroupExpectation>,
}

/// What is expected of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupExpectation {
    /// Its index.
    pub group: usize,
    /// So large a share is updated, at least.
    pub updated: Option<f64>,
    /// So large a share is updated, at most.
    pub updated_max: Option<f64>,
    /// Devices that end in this state...
    pub state: Option<DeviceState>,
    /// ... for this reason ...
    pub reason: Option<DeviceReason>,
    /// ... are so large a share, at least.
    pub at_least: f64,
}

/// An expectation and what came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// What it is about: `updated`, `group basement: updated`.
    pub name: String,
    /// What was expected.
    pub expected: String,
    /// What came.
    pub was: String,
    /// It held.
    pub held: bool,
}

/// All reasons by their words.
pub(super) fn reasons() -> Vec<(&'static str, DeviceReason)> {
    use DeviceReason as R;
    vec![
        ("wrong-descriptor", R::WrongDescriptor),
        ("frag-index-unsupported", R::FragIndexUnsupported),
        ("not-enough-memory", R::NotEnoughMemory),
        ("frag-algo-unsupported", R::FragAlgoUnsupported),
        ("session-cnt-replay", R::SessionCntReplay),
        ("memory-error", R::MemoryError),
        ("mic-error", R::MicError),
        ("session-lost", R::SessionLost),
        ("mc-group-id-error", R::McGroupIdError),
        ("dr-error", R::DrError),
        ("freq-error", R::FreqError),
        ("mc-group-undefined", R::McGroupUndefined),
        ("start-missed", R::StartMissed),
        ("no-answer", R::NoAnswer),
        ("package-not-supported", R::PackageNotSupported),
        ("version-mismatch", R::VersionMismatch),
        ("clock-not-synced", R::ClockNotSynced),
        ("no-gateway", R::NoGateway),
        ("image-rejected", R::ImageRejected),
        ("wrong-version", R::WrongVersion),
        ("budget-spent", R::BudgetSpent),
        ("window-closed", R::WindowClosed),
        ("conflict", R::Conflict),
        ("already-current", R::AlreadyCurrent),
        ("decoder-limit", R::DecoderLimit),
    ]
}

const STATES: [(&str, DeviceState); 14] = [
    ("pending", DeviceState::Pending),
    ("preparing", DeviceState::Preparing),
    ("ready", DeviceState::Ready),
    ("receiving", DeviceState::Receiving),
    ("reported-received", DeviceState::ReportedReceived),
    ("verified", DeviceState::Verified),
    ("rebooting", DeviceState::Rebooting),
    ("running", DeviceState::Running),
    ("skipped", DeviceState::Skipped),
    ("failed", DeviceState::Failed),
    ("silent", DeviceState::Silent),
    ("rolled-back", DeviceState::RolledBack),
    ("removed", DeviceState::Removed),
    ("cancelled", DeviceState::Cancelled),
];

const TASK_STATES: [(&str, TaskState); 6] = [
    ("completed", TaskState::Completed),
    ("paused", TaskState::Paused),
    ("awaiting-approval", TaskState::AwaitingApproval),
    ("failed", TaskState::Failed),
    ("cancelled", TaskState::Cancelled),
    ("draft", TaskState::Draft),
];

pub(super) fn read(file: &File<'_>, root: &mut Fields<'_>, groups: &[Group]) -> Expectations {
    let mut table = root.table("expect");
    let task = table.or("task", word(&TASK_STATES), TaskState::Completed);
    let updated = table.get("updated", share_or_all);
    let frames_max = table.get("frames_max", whole(0..=u64::MAX / 2));
    let airtime_max = table.get("airtime_max", time);
    let finished_within = table.get("finished_within", time);
    let windows_max = table.get("windows_max", whole(1..=255_u32));
    let longest_frame_max = table.get("longest_frame_max", time);
    let violations_max = table.or("violations_max", whole(0..=1_000_000_usize), 0);
    let mut expected = Vec::new();
    for mut of_group in table.tables("group") {
        expected.extend(read_group(file, &mut of_group, groups));
        of_group.finish();
    }
    table.finish();
    // Who says nothing at all of devices wants them all updated.
    let silent = expected.is_empty() && task == TaskState::Completed;
    Expectations {
        task,
        updated: updated.or_else(|| silent.then_some(1.0)),
        frames_max,
        airtime_max,
        finished_within,
        windows_max,
        longest_frame_max,
        violations_max,
        groups: expected,
    }
}

fn read_group(
    file: &File<'_>,
    table: &mut Fields<'_>,
    groups: &[Group],
) -> Option<GroupExpectation> {
    let name = table.needed("name", text);
    let name = table.at("name", text).filter(|_| name.is_some());
    let updated = table.get("updated", share_or_all);
    let updated_max = table.get("updated_max", share);
    let state = table.get("state", word(&STATES));
    let reason = table.get("reason", word(&reasons()));
    let at_least = table.get("at_least", share_or_all);
    let of_state = state.is_some() || reason.is_some();
    if at_least.is_some() && !of_state {
        table.wrong(
            "at_least",
            "is the share of devices in a state: write `state` or `reason` too",
        );
    }
    if updated
        .zip(updated_max)
        .is_some_and(|(least, most)| least > most)
    {
        table.wrong("updated_max", "is less than `updated`");
    }
    let says = of_state || updated.is_some() || updated_max.is_some();
    let read_wrong = ["updated", "updated_max", "state", "reason"]
        .iter()
        .any(|n| table.has(n));
    if !says && !read_wrong {
        table.wrong(
            "name",
            "nothing is expected of this group: write `updated`, `state` or `reason`",
        );
    }
    let name = name?;
    let group = group(file, "expect.group.name", &name.value, &name.span, groups)?;
    Some(GroupExpectation {
        group,
        updated,
        updated_max,
        state,
        reason,
        at_least: at_least.unwrap_or(1.0),
    })
}

impl Expectations {
    /// Holds a run against all of them.
    pub fn judge(&self, outcome: &Outcome) -> Vec<Judged> {
        let mut judged = vec![Judged {
            name: "task".to_owned(),
            expected: kebab(self.task),
            was: outcome.task_in_words(),
            held: outcome.task.state == kebab(self.task),
        }];
        let all = outcome.total();
        judged.extend(
            self.updated
                .map(|least| at_least("updated", least, all.updated, all.devices)),
        );
        let fragments = outcome.frames.uncoded + outcome.frames.coded;
        judged.extend(self.frames_max.map(|most| Judged {
            name: "frames_max".to_owned(),
            expected: format!("at most {most} fragments"),
            was: format!("{fragments} fragments"),
            held: fragments <= most,
        }));
        let airtime = Duration::from_secs_f64(outcome.airtime_s.max(0.0));
        judged.extend(
            self.airtime_max
                .map(|most| at_most("airtime_max", most, Some(airtime))),
        );
        let took = outcome
            .duration_s
            .map(|s| Duration::from_secs_f64(s.max(0.0)));
        judged.extend(
            self.finished_within
                .map(|most| at_most("finished_within", most, took)),
        );
        let windows = outcome.sessions.iter().map(|session| session.windows).max();
        let windows = windows.unwrap_or(0);
        judged.extend(self.windows_max.map(|most| Judged {
            name: "windows_max".to_owned(),
            expected: format!("at most {most}"),
            was: windows.to_string(),
            held: windows <= most,
        }));
        let frame = outcome
            .sessions
            .iter()
            .map(|session| session.frame_us)
            .max();
        let frame = Duration::from_micros(frame.unwrap_or(0));
        judged.extend(
            self.longest_frame_max
                .map(|most| at_most("longest_frame_max", most, Some(frame))),
        );
        let broken = outcome.violations.len();
        judged.push(Judged {
            name: "violations_max".to_owned(),
            expected: format!("at most {} properties broken", self.violations_max),
            was: match outcome.violations.first() {
                Some(first) => format!("{broken}, the first: {first}"),
                None => "0".to_owned(),
            },
            held: broken <= self.violations_max,
        });
        for expected in &self.groups {
            if let Some(group) = outcome.groups.get(expected.group) {
                judged.extend(expected.judge(group));
            }
        }
        judged
    }
}

impl GroupExpectation {
    fn judge(&self, group: &GroupOutcome) -> Vec<Judged> {
        let name = |what: &str| format!("group {}: {what}", group.name);
        let mut judged = Vec::new();
        judged.extend(
            self.updated
                .map(|least| at_least(&name("updated"), least, group.updated, group.devices)),
        );
        judged.extend(self.updated_max.map(|most| Judged {
            name: name("updated_max"),
            expected: format!("at most {}", percent(most)),
            was: of(group.updated, group.devices),
            held: f64::from(group.updated) <= most * f64::from(group.devices) + 1e-9,
        }));
        if self.state.is_some() || self.reason.is_some() {
            let state = self.state.map(kebab);
            let reason = self.reason.map(kebab);
            let ends = group.ends.iter().filter(|end| {
                state.as_ref().is_none_or(|state| end.state == *state)
                    && reason
                        .as_ref()
                        .is_none_or(|reason| end.reason.as_ref() == Some(reason))
            });
            let count = ends.map(|end| end.devices).sum();
            let words: Vec<String> = state.into_iter().chain(reason).collect();
            let found = at_least(&name("ends"), self.at_least, count, group.devices);
            judged.push(Judged {
                expected: format!("{} {}", found.expected, words.join(", ")),
                was: format!("{} ({})", found.was, group.ends_in_words()),
                ..found
            });
        }
        judged
    }
}

fn at_least(name: &str, share: f64, count: u32, of_all: u32) -> Judged {
    Judged {
        name: name.to_owned(),
        expected: if share >= 1.0 {
            "all".to_owned()
        } else {
            format!("at least {}", percent(share))
        },
        was: of(count, of_all),
        held: f64::from(count) >= share * f64::from(of_all) - 1e-9,
    }
}

fn at_most(name: &str, most: Duration, was: Option<Duration>) -> Judged {
    Judged {
        name: name.to_owned(),
        expected: format!("at most {}", spoken(most)),
        was: was.map_or_else(|| "it has not ended".to_owned(), spoken),
        held: was.is_some_and(|was| was <= most),
    }
}

fn percent(share: f64) -> String {
    let percent = (share * 1000.0).round() / 10.0;
    format!("{percent} %")
}

fn of(count: u32, all: u32) -> String {
    format!("{count} of {all}")
}
