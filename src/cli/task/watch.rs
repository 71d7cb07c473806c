//! `fuota task watch`: follows a task to its end, through restarts of the server.
//!
//! The last sequence seen is kept, so that a broken stream goes on where it broke. Whether the task is over
//! is read from the task itself, never concluded from the end of the stream.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use prost_types::Timestamp;
use serde_json::json;
use tonic::{Code, Status};

use super::document::{
    device_json, device_table, has_ended, has_succeeded, state_text, states_text, task_json,
};
use super::progress::{Bars, Fragments, fragments};
use crate::cli::moment::{airtime_text, duration_parser, now, seconds_text};
use crate::cli::names::{id, word, word_json};
use crate::cli::output::{Failure, is_disconnected};
use crate::cli::{Context, Outcome};
use crate::proto::v1;

/// Between two tries while the server is away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Between two looks at the sessions, for the bar of fragments.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How to follow a task.
#[derive(Args)]
pub struct WatchArgs {
    /// Show only what changed after this sequence
    #[arg(
        long,
        value_name = "SEQUENCE",
        default_value_t = 0,
        hide_default_value = true
    )]
    resume_after: i64,

    /// How long to try again while a server that answered before is away
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration_parser())]
    patience: prost_types::Duration,

    /// The server answered a moment ago, so it is worth waiting for.
    #[arg(skip)]
    reached: bool,
}

impl Default for WatchArgs {
    fn default() -> Self {
        Self {
            resume_after: 0,
            patience: prost_types::Duration {
                seconds: 120,
                nanos: 0,
            },
            reached: true,
        }
    }
}

/// How changes are shown.
enum View {
    Json,
    Lines,
    Live(Bars),
}

/// A task as it is being followed.
struct Follower<'a> {
    context: &'a mut Context,
    name: &'a str,
    view: View,
    sequence: i64,
    task: v1::FuotaTask,
    states: BTreeMap<String, i32>,
    fragments: Fragments,
    /// The server answered before: a wrong address is told at once, a restart is waited for.
    reached: bool,
    /// Something came since the server was last away.
    heard: bool,
}

/// Follows a task to its end and tells how it ended.
pub(super) async fn watch(
    name: &str,
    args: &WatchArgs,
    context: &mut Context,
) -> Result<Outcome, Failure> {
    let view = match (context.output.is_json(), context.output.is_live()) {
        (true, _) => View::Json,
        (false, true) => View::Live(Bars::new()),
        (false, false) => View::Lines,
    };
    let mut follower = Follower {
        context,
        name,
        view,
        sequence: args.resume_after,
        task: v1::FuotaTask::default(),
        states: BTreeMap::new(),
        fragments: Fragments::default(),
        reached: args.reached,
        heard: false,
    };
    let patience = Duration::try_from(args.patience).unwrap_or_default();
    let result = follower.follow(patience).await;
    if let View::Live(bars) = &follower.view {
        bars.finish();
    }
    let devices = result?;
    follower.conclude(&devices)
}

impl Follower<'_> {
    /// Follows until the task has ended; returns its devices.
    async fn follow(&mut self, patience: Duration) -> Result<Vec<v1::TaskDevice>, Failure> {
        let mut waited = Duration::ZERO;
        loop {
            let status = match self.listen().await {
                Ok(Some(devices)) => return Ok(devices),
                // The stream ended before the task did: the server is going down.
                Ok(None) => Status::unavailable("the stream ended before the task"),
                Err(Failure::Refused(status)) => *status,
                Err(failure) => return Err(failure),
            };
            if std::mem::take(&mut self.heard) {
                waited = Duration::ZERO;
            }
            // No connection at all is UNAVAILABLE, one that broke in the middle is not.
            self.reached |= is_disconnected(&status) && status.code() != Code::Unavailable;
            if status.code() == Code::OutOfRange && self.sequence > 0 && !self.states.is_empty() {
                // The server was set back: take everything as it stands.
                self.sequence = 0;
            } else if !is_disconnected(&status) || !self.reached || waited >= patience {
                return Err(status.into());
            }
            if waited.is_zero() {
                self.say_away();
            }
            waited += RETRY_PAUSE;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Listens until the stream ends; returns the devices if the task has ended too.
    async fn listen(&mut self) -> Result<Option<Vec<v1::TaskDevice>>, Failure> {
        let mut client = self.context.connection.tasks();
        let request = v1::WatchTaskRequest {
            name: self.name.to_owned(),
            resume_after_sequence: self.sequence,
        };
        let mut stream = client.watch_task(request).await?.into_inner();
        self.reached = true;
        let live = matches!(self.view, View::Live(_));
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = stream.message() => match message? {
                    Some(change) => self.take(change)?,
                    None => break,
                },
                _ = look.tick(), if live => self.look().await,
            }
        }
        let request = v1::GetTaskRequest {
            name: self.name.to_owned(),
        };
        self.task = client
            .get_task(request)
            .await
            .map_err(Failure::from)?
            .into_inner();
        if !has_ended(&self.task) {
            return Ok(None);
        }
        let devices = super::devices(self.name, "", 0, self.context).await?;
        Ok(Some(devices.items))
    }

    /// Takes one change in and shows it.
    fn take(&mut self, change: v1::WatchTaskResponse) -> Result<(), Failure> {
        use v1::watch_task_response::Record;

        self.heard = true;
        self.sequence = self.sequence.max(change.sequence);
        match change.record {
            None => {}
            Some(Record::Task(task)) => {
                if matches!(self.view, View::Json) {
                    let line = json!({"sequence": change.sequence, "task": task_json(&task)});
                    self.context.output.json_line(&line)?;
                }
                let before = std::mem::replace(&mut self.task, task);
                if matches!(self.view, View::Lines) && differs(&before, &self.task) {
                    let line = task_line(&self.task);
                    self.context.output.text(&line)?;
                }
            }
            Some(Record::TaskDevice(device)) => {
                if matches!(self.view, View::Json) {
                    let line =
                        json!({"sequence": change.sequence, "task_device": device_json(&device)});
                    self.context.output.json_line(&line)?;
                }
                let before = self.states.insert(device.device.clone(), device.state);
                if matches!(self.view, View::Lines) && before != Some(device.state) {
                    self.context.output.text(&device_line(&device))?;
                }
            }
        }
        self.show();
        Ok(())
    }

    /// Looks at the sessions for the bar of fragments. If the server does not answer the bar stays as it is.
    async fn look(&mut self) {
        if let Ok(sessions) = super::sessions(self.name, self.context).await {
            self.fragments = fragments(&sessions.items);
        }
        self.show();
    }

    fn show(&self) {
        if let View::Live(bars) = &self.view {
            bars.show(&self.task, self.fragments, &now());
        }
    }

    fn say_away(&mut self) {
        match &self.view {
            View::Live(bars) => bars.show_away(),
            View::Lines | View::Json => {
                self.context
                    .output
                    .note("the server does not answer; trying again");
            }
        }
    }

    /// Shows how the task ended.
    fn conclude(&mut self, devices: &[v1::TaskDevice]) -> Result<Outcome, Failure> {
        let task = &self.task;
        let counts = task.device_counts.unwrap_or_default();
        if matches!(self.view, View::Json) {
            self.context.output.json_line(&json!({"result": {
                "task": task.name,
                "state": word_json::<v1::TaskState>(task.state),
                "total": counts.total,
                "succeeded": counts.succeeded,
            }}))?;
        } else {
            if !devices.is_empty() {
                self.context
                    .output
                    .text(&format!("\n{}\n", device_table(devices)))?;
            }
            self.context.output.text(&summary(task))?;
        }
        Ok(Outcome::from_success(has_succeeded(task)))
    }
}

/// Something changed that a line is worth.
fn differs(before: &v1::FuotaTask, after: &v1::FuotaTask) -> bool {
    before.state != after.state
        || before.state_reason != after.state_reason
        || before.state_message != after.state_message
}

/// The time for the beginning of a line.
fn clock(time: Option<Timestamp>) -> String {
    let time = time.unwrap_or_else(now);
    Timestamp { nanos: 0, ..time }.to_string()
}

fn task_line(task: &v1::FuotaTask) -> String {
    let counts = task.device_counts.unwrap_or_default();
    format!(
        "{}  {} {}  {} of {} devices ended; {}",
        clock(None),
        task.name,
        state_text(task),
        counts.ended,
        counts.total,
        states_text(&counts)
    )
}

fn device_line(device: &v1::TaskDevice) -> String {
    let mut line = format!(
        "{}  {} {}",
        clock(device.update_time),
        id(&device.device),
        word::<v1::TaskDeviceState>(device.state)
    );
    for text in [
        word::<v1::DeviceReason>(device.reason),
        device.evidence.clone(),
    ] {
        if !text.is_empty() {
            line.push_str(&format!("  {text}"));
        }
    }
    line
}

/// The last line: how it ended and what it took.
fn summary(task: &v1::FuotaTask) -> String {
    let counts = task.device_counts.unwrap_or_default();
    let frames = task.frame_counts.unwrap_or_default();
    let took = match (task.start_time, task.end_time) {
        (Some(start), Some(end)) => {
            let seconds = end.seconds.saturating_sub(start.seconds);
            format!(", {}", seconds_text(u64::try_from(seconds).unwrap_or(0)))
        }
        _ => String::new(),
    };
    format!(
        "{} {}\n{} of {} devices succeeded; {} uncoded and {} coded fragments, {} on air{took}",
        task.name,
        state_text(task),
        counts.succeeded,
        counts.total,
        frames.uncoded_fragments_sent,
        frames.coded_fragments_sent,
        airtime_text(task.airtime_us),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_happened_and_why() {
        let device = v1::TaskDevice {
            device: "devices/70b3d57ed0000001".into(),
            state: v1::TaskDeviceState::Failed.into(),
            reason: v1::DeviceReason::WrongDescriptor.into(),
            evidence: "FragSessionSetupAns 02 08".into(),
            update_time: Some("2026-03-01T12:00:00.5Z".parse().unwrap()),
            ..Default::default()
        };
        assert_eq!(
            device_line(&device),
            "2026-03-01T12:00:00Z  70b3d57ed0000001 FAILED  WRONG_DESCRIPTOR  FragSessionSetupAns 02 08"
        );
    }

    #[test]
    fn the_summary_counts() {
        let task = v1::FuotaTask {
            name: "tasks/a".into(),
            state: v1::TaskState::Completed.into(),
            device_counts: Some(v1::TaskDeviceCounts {
                total: 20,
                succeeded: 19,
                ..Default::default()
            }),
            frame_counts: Some(v1::TaskFrameCounts {
                uncoded_fragments_sent: 240,
                coded_fragments_sent: 30,
                ..Default::default()
            }),
            airtime_us: 12_340_000,
            start_time: Some("2026-03-01T12:00:00Z".parse().unwrap()),
            end_time: Some("2026-03-01T12:01:30Z".parse().unwrap()),
            ..Default::default()
        };
        assert_eq!(
            summary(&task),
            "tasks/a COMPLETED\n19 of 20 devices succeeded; 240 uncoded and 30 coded fragments, 12.3s on air, 1m30s"
        );
    }
}
