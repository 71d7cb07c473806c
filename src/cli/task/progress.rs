//! The live view of a task: one bar for fragments, one for devices, and the time left.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use prost_types::Timestamp;

use super::document::{state_text, states_text};
use crate::cli::moment::seconds_text;
use crate::cli::names::id;
use crate::cli::output::printable;
use crate::proto::v1;

/// Fragments sent and expected, over all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragments {
    /// Sent so far.
    pub(super) sent: u64,
    /// Sent so far, and what is still to come as far as it is known now.
    pub(super) expected: u64,
}

/// Reckons the fragments of a task. What is to come is the rest of the uncoded fragments, then what the device
/// farthest behind was found to need in the last status round.
pub(super) fn fragments(sessions: &[v1::DistributionSession]) -> Fragments {
    let mut sum = Fragments::default();
    for session in sessions {
        let sent =
            u64::from(session.uncoded_fragments_sent) + u64::from(session.coded_fragments_sent);
        let uncoded_left = session
            .nb_frag
            .saturating_sub(session.uncoded_fragments_sent);
        let coded_left = session.rounds.last().map_or(0, |round| {
            round
                .fragments_missing_max
                .saturating_sub(round.coded_fragments_sent)
        });
        let left = match session.state() {
            v1::DistributionSessionState::Ended => 0,
            v1::DistributionSessionState::Coded => coded_left,
            _ => uncoded_left,
        };
        sum.sent += sent;
        sum.expected += sent + u64::from(left);
    }
    sum
}

/// Seconds until the plan expects the last device to end, as a text; empty where there is no forecast.
pub(super) fn time_left(task: &v1::FuotaTask, now: &Timestamp) -> String {
    task.expected_end_time.map_or_else(String::new, |end| {
        match u64::try_from(end.seconds.saturating_sub(now.seconds)) {
            Ok(seconds @ 1..) => format!("about {} left", seconds_text(seconds)),
            _ => "due".into(),
        }
    })
}

/// The bars on the terminal.
pub(super) struct Bars {
    all: MultiProgress,
    title: ProgressBar,
    fragments: ProgressBar,
    devices: ProgressBar,
}

impl Bars {
    /// Puts the bars on the terminal.
    pub(super) fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let add = |template: &str| {
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            all.add(ProgressBar::new(0).with_style(style))
        };
        let title = add("{spinner} {msg}");
        title.enable_steady_tick(Duration::from_millis(200));
        Self {
            title,
            fragments: add("  fragments [{bar:40}] {pos}/{len}  {msg}"),
            devices: add("  devices   [{bar:40}] {pos}/{len}  {msg}"),
            all,
        }
    }

    /// Shows how the task stands.
    pub(super) fn show(&self, task: &v1::FuotaTask, fragments: Fragments, now: &Timestamp) {
        let counts = task.device_counts.unwrap_or_default();
        let title = format!("{}  {}", id(&task.name), state_text(task));
        self.title.set_message(printable(&title).replace('\n', " "));
        self.fragments.set_length(fragments.expected);
        self.fragments.set_position(fragments.sent);
        self.fragments.set_message(time_left(task, now));
        self.devices.set_length(counts.total.into());
        self.devices.set_position(counts.ended.into());
        self.devices.set_message(states_text(&counts));
    }

    /// Says that the server is away.
    pub(super) fn show_away(&self) {
        self.title
            .set_message("the server does not answer; trying again");
    }

    /// Takes the bars off the terminal.
    pub(super) fn finish(&self) {
        for bar in [&self.title, &self.fragments, &self.devices] {
            bar.finish_and_clear();
        }
        // The terminal may be gone; there is nothing to clear then.
        let _ = self.all.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_to_come_follow_the_state_of_each_session() {
        let session = |state: v1::DistributionSessionState, uncoded, coded, missing| {
            v1::DistributionSession {
                state: state.into(),
                nb_frag: 100,
                uncoded_fragments_sent: uncoded,
                coded_fragments_sent: coded,
                rounds: vec![v1::StatusRound {
                    fragments_missing_max: missing,
                    coded_fragments_sent: 2,
                    ..Default::default()
                }],
                ..Default::default()
            }
        };
        use v1::DistributionSessionState as State;
        let sum = |sessions: &[_]| {
            let fragments = fragments(sessions);
            (fragments.sent, fragments.expected)
        };
        assert_eq!(sum(&[session(State::Preparing, 0, 0, 0)]), (0, 100));
        assert_eq!(sum(&[session(State::Uncoded, 40, 0, 0)]), (40, 100));
        assert_eq!(sum(&[session(State::Coded, 100, 5, 12)]), (105, 115));
        assert_eq!(sum(&[session(State::Ended, 90, 5, 12)]), (95, 95));
        assert_eq!(
            sum(&[
                session(State::Ended, 100, 5, 12),
                session(State::Uncoded, 1, 0, 0)
            ]),
            (106, 205)
        );
    }

    #[test]
    fn time_left_is_the_forecast() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let task = |end: Option<&str>| v1::FuotaTask {
            expected_end_time: end.map(|end| end.parse().unwrap()),
            ..Default::default()
        };
        assert_eq!(
            time_left(&task(Some("2026-03-01T12:02:05Z")), &now),
            "about 2m05s left"
        );
        assert_eq!(time_left(&task(Some("2026-03-01T11:00:00Z")), &now), "due");
        assert_eq!(time_left(&task(None), &now), "");
    }
}
