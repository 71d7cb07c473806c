//! What a `FragSessionStatusAns` means, by the stack that sent it (TS004-1.0.0 §3.3, TS004-2.0.0 §3.3).
//!
//! The two numbers of the answer are not what the specification says on every stack. Everything the campaign decides
//! about progress goes through [`interpret`]; nothing else looks at the raw numbers.

use crate::lorawan::PackageVersion;
use crate::record::{FragmentReport, StatusInterpretation};

/// The numbers of an answer and what had been sent when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    /// Version of the package that answered.
    pub(crate) version: PackageVersion,
    /// `NbFragReceived`.
    pub(crate) received: u16,
    /// `MissingFrag`, 255 = 255 or more.
    pub(crate) missing: u8,
    /// `NbFrag` of the session.
    pub(crate) nb_frag: u16,
    /// Rows of the coded fragments sent before the question, in that order: their N less `NbFrag`.
    pub(crate) rows: &'a [u16],
    /// Nothing was sent between question and answer.
    pub(crate) settled: bool,
    /// The answer before.
    pub(crate) previous: Option<FragmentReport>,
}

/// What an answer says about the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It holds the whole block.
    Complete,
    /// It still needs about this many independent fragments, at least 1.
    Needs(u16),
}

/// Dense random rows need about 1.6 receptions more than unknowns; a decoder that already holds `NbFrag` fragments and
/// is not done is short of one or two.
const USUAL_EXTRA: u16 = 2;
/// Receptions beyond `NbFrag` after which a stack that cannot say so is taken to be done. Dense rows leave one device
/// in 60 000 undone; version 1 has sparse ones, and a fragment may be in none of the first 15.
const AMPLE_EXTRA: u16 = 16;
/// Fragments sent since without a trace in an answer that would show them: the device is done, or lost them all.
const SILENT_FRAGMENTS: u16 = 5;

/// Turns the numbers of an answer into progress, as the stack that sent it means them.
pub(crate) fn interpret(stack: StatusInterpretation, answer: Answer<'_>) -> Progress {
    let Answer {
        version,
        received,
        missing,
        nb_frag,
        ..
    } = answer;
    let by_count = nb_frag.saturating_sub(received);
    let missing_wide = u16::from(missing);
    match stack {
        // A device that received nothing or lost its session reports 0 missing: the count has to agree.
        StatusInterpretation::Spec if missing == 0 && by_count == 0 => Progress::Complete,
        StatusInterpretation::Spec if missing == 0 => Progress::Needs(by_count),
        StatusInterpretation::Spec => match version {
            // v1: the independent fragments still needed; 255 saturates, then the count says more.
            PackageVersion::V1 if missing == u8::MAX => Progress::Needs(missing_wide.max(by_count)),
            PackageVersion::V1 => Progress::Needs(missing_wide),
            // v2: the uncoded fragments not yet there; all of them until the block is decoded.
            PackageVersion::V2 => Progress::Needs(
                (by_count + USUAL_EXTRA)
                    .min(missing_wide.max(by_count))
                    .max(1),
            ),
        },
        StatusInterpretation::LoraBasicsModem => answer.by_basics_modem(),
        StatusInterpretation::LoramacNode => answer.by_loramac_node(),
        // Zephyr: `max(0, NbFrag - received)`, which is 0 before the block can be decoded.
        StatusInterpretation::Zephyr => match received.checked_sub(nb_frag) {
            None => Progress::Needs(by_count + USUAL_EXTRA),
            Some(extra) if extra >= AMPLE_EXTRA => Progress::Complete,
            // The less likely it is that a few more will do, the more are sent at once.
            Some(extra) => Progress::Needs((USUAL_EXTRA + extra / 2).min(AMPLE_EXTRA - extra)),
        },
    }
}

/// How many fragments of those sent a device has received, as far as an answer tells.
pub(crate) fn heard(stack: StatusInterpretation, answer: Answer<'_>) -> Option<u16> {
    let Answer {
        received, nb_frag, ..
    } = answer;
    match stack {
        StatusInterpretation::Spec | StatusInterpretation::Zephyr => Some(received),
        // Independent fragments are all it counts, so that later in the session the difference is not loss.
        StatusInterpretation::LoraBasicsModem => {
            let early = answer.rows.len() <= usize::from(nb_frag / 4);
            early.then(|| nb_frag.saturating_sub(answer.needed_by_basics_modem()))
        }
        StatusInterpretation::LoramacNode => {
            let uncoded = received.min(nb_frag).saturating_sub(answer.missing.into());
            Some(uncoded + answer.kept(answer.coded_heard_of().unwrap_or(0)))
        }
    }
}

/// Whether "not enough matrix memory" is about this session. LoRaMac-node's decoder never takes it back until a reboot,
/// and Zephyr uses that decoder: where the operator has told how many fragments it can lose, fewer cannot be the cause.
pub(crate) fn believes_memory_error(
    stack: StatusInterpretation,
    max_lost: Option<u16>,
    answer: Answer<'_>,
) -> bool {
    let sent = answer.nb_frag.saturating_add(answer.coded_sent());
    match (stack, max_lost) {
        (StatusInterpretation::LoramacNode, Some(max_lost)) => {
            u16::from(answer.missing) > max_lost || answer.nb_frag > 255
        }
        (StatusInterpretation::Zephyr, Some(max_lost)) => {
            sent.saturating_sub(answer.received) > max_lost
        }
        _ => true,
    }
}

impl Answer<'_> {
    /// `NbFragReceived` is the last counter less the fragments lost, `MissingFrag` the independent ones still needed.
    /// After a pass without loss they stay at (NbFrag, 1), which others only pass through.
    fn by_basics_modem(&self) -> Progress {
        let stays = self.previous.is_some_and(|before| {
            let coded_then = before.fragments_sent.saturating_sub(self.nb_frag);
            (before.received, before.missing) == (self.received, self.missing)
                && self.coded_sent().saturating_sub(coded_then) >= SILENT_FRAGMENTS
        });
        // With one fragment really missing, the row heard last is the number lost; the rows sent last tell if it can
        // be.
        let recent = self.rows.iter().rev().take(usize::from(SILENT_FRAGMENTS));
        let passes_through = recent.clone().any(|row| *row <= self.coded_sent() + 1);
        let known = self.rows.len() >= 3 && !passes_through;
        match self.needed_by_basics_modem() {
            0 => Progress::Complete,
            1 if self.received == self.nb_frag && self.settled && (stays || known) => {
                Progress::Complete
            }
            // Enough to see whether it stays.
            1 if self.received == self.nb_frag => Progress::Needs(SILENT_FRAGMENTS),
            needed => Progress::Needs(needed),
        }
    }

    /// `MissingFrag` counts modulo 256. Before anything came, version 2 says (0, 0).
    fn needed_by_basics_modem(&self) -> u16 {
        if self.nb_frag <= 256 && self.received > 0 {
            return self.missing.into();
        }
        // In a large block rows go out in their order, so that no more can be solved than the last counter is beyond
        // `NbFrag`: the other number is a lower bound.
        let by_count = self.nb_frag.saturating_sub(self.received);
        let turns = by_count.saturating_sub(self.missing.into()).div_ceil(256);
        let needed = u16::from(self.missing).saturating_add(turns.saturating_mul(256));
        needed.min(self.nb_frag)
    }

    /// `NbFragReceived` is the counter heard last and stops when the block is complete; `MissingFrag` keeps the number
    /// lost. So a device is done when it has not moved for some fragments, and may have been done by then.
    fn by_loramac_node(&self) -> Progress {
        let lost = u16::from(self.missing);
        let to_come = self.nb_frag.saturating_sub(self.received);
        if to_come > 0 {
            return Progress::Needs(lost.saturating_add(to_come).min(self.nb_frag));
        }
        let Some(heard_of) = self.coded_heard_of() else {
            // A counter that was never sent is left over from another session: it has heard nothing.
            return Progress::Needs(self.nb_frag);
        };
        if lost == 0 {
            return Progress::Complete;
        }
        let still = self.coded_sent() - heard_of;
        if self.settled && heard_of >= lost && still >= SILENT_FRAGMENTS {
            return Progress::Complete;
        }
        let solved = self.kept(self.coded_sent());
        let needed = (lost + USUAL_EXTRA).saturating_sub(solved);
        Progress::Needs(needed.max(SILENT_FRAGMENTS))
    }

    /// LoRaMac-node: how many coded fragments had been sent when the one was that it heard last; `None` if that counter
    /// was not sent.
    fn coded_heard_of(&self) -> Option<u16> {
        let row = self.received.checked_sub(self.nb_frag)?;
        if row == 0 {
            return Some(0);
        }
        let place = self.rows.iter().position(|sent| *sent == row)?;
        u16::try_from(place + 1).ok()
    }

    /// How many of so many coded fragments came through, if they were lost at the rate of the uncoded ones.
    fn kept(&self, coded: u16) -> u16 {
        let lost = u16::from(self.missing);
        let held = u32::from(self.nb_frag.saturating_sub(lost));
        let kept = held * u32::from(coded) / u32::from(self.nb_frag.max(1));
        u16::try_from(kept).unwrap_or(coded)
    }

    fn coded_sent(&self) -> u16 {
        u16::try_from(self.rows.len()).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows as they are for large blocks.
    const ROWS: [u16; 40] = {
        let mut rows = [1; 40];
        let mut at = 1;
        while at < 40 {
            rows[at] = rows[at - 1] + 1;
            at += 1;
        }
        rows
    };

    fn answer(received: u16, missing: u8, coded_sent: usize) -> Answer<'static> {
        Answer {
            version: PackageVersion::V1,
            received,
            missing,
            nb_frag: 100,
            rows: &ROWS[..coded_sent],
            settled: true,
            previous: None,
        }
    }

    fn after(before: Answer<'_>, answer: Answer<'static>) -> Answer<'static> {
        let previous = FragmentReport {
            received: before.received,
            missing: before.missing,
            deficit: 1,
            fragments_sent: before.nb_frag + before.coded_sent(),
            at: crate::time::Timestamp::default(),
        };
        Answer {
            previous: Some(previous),
            ..answer
        }
    }

    #[test]
    fn by_the_book_v1_takes_the_missing_count() {
        let spec = StatusInterpretation::Spec;
        assert_eq!(interpret(spec, answer(100, 0, 0)), Progress::Complete);
        assert_eq!(interpret(spec, answer(110, 0, 20)), Progress::Complete);
        assert_eq!(interpret(spec, answer(90, 10, 0)), Progress::Needs(10));
        assert_eq!(interpret(spec, answer(104, 3, 20)), Progress::Needs(3));
    }

    #[test]
    fn zero_missing_with_too_few_received_is_not_complete() {
        for stack in [
            StatusInterpretation::Spec,
            StatusInterpretation::LoraBasicsModem,
            StatusInterpretation::LoramacNode,
        ] {
            let nothing = interpret(stack, answer(0, 0, 0));
            assert_eq!(nothing, Progress::Needs(100), "{stack:?}");
        }
    }

    #[test]
    fn a_saturated_count_is_read_with_the_number_received() {
        let wide = Answer {
            received: 600,
            missing: 255,
            nb_frag: 1000,
            ..answer(0, 0, 0)
        };
        assert_eq!(
            interpret(StatusInterpretation::Spec, wide),
            Progress::Needs(400)
        );
    }

    #[test]
    fn by_the_book_v2_counts_all_receptions() {
        let v2 = |received, missing| Answer {
            version: PackageVersion::V2,
            ..answer(received, missing, 10)
        };
        let spec = StatusInterpretation::Spec;
        assert_eq!(interpret(spec, v2(101, 0)), Progress::Complete);
        assert_eq!(interpret(spec, v2(95, 12)), Progress::Needs(7));
        // It holds as many as it needs and cannot decode yet.
        assert_eq!(interpret(spec, v2(101, 12)), Progress::Needs(2));
        assert_eq!(interpret(spec, v2(99, 1)), Progress::Needs(1));
    }

    #[test]
    fn basics_modem_stays_at_one_missing_after_a_pass_without_loss() {
        let lbm = StatusInterpretation::LoraBasicsModem;
        // Four lost, the fourth coded fragment heard last, one still missing: the same numbers.
        let (first, then) = (answer(100, 1, 4), answer(100, 1, 9));
        assert_eq!(interpret(lbm, first), Progress::Needs(5));
        assert_eq!(interpret(lbm, then), Progress::Needs(5));
        assert_eq!(interpret(lbm, after(first, then)), Progress::Complete);
        assert_eq!(
            interpret(lbm, after(first, answer(100, 1, 7))),
            Progress::Needs(5)
        );
        // Nobody loses as many as these rows would say.
        let far = Answer {
            rows: &[60, 31, 77],
            ..first
        };
        assert_eq!(interpret(lbm, far), Progress::Complete);
        assert_eq!(interpret(lbm, answer(100, 0, 9)), Progress::Complete);
        // Seven lost, solved by row 4.
        assert_eq!(interpret(lbm, answer(97, 0, 9)), Progress::Complete);
    }

    #[test]
    fn basics_modem_counts_what_is_missing_modulo_256() {
        let lbm = StatusInterpretation::LoraBasicsModem;
        assert_eq!(interpret(lbm, answer(85, 20, 5)), Progress::Needs(20));
        let wide = |received, missing| Answer {
            nb_frag: 1000,
            ..answer(received, missing, 0)
        };
        // 300 lost: 44 modulo 256.
        assert_eq!(interpret(lbm, wide(700, 44)), Progress::Needs(300));
        assert_eq!(interpret(lbm, wide(0, 0)), Progress::Needs(1000));
        assert_eq!(interpret(lbm, wide(744, 0)), Progress::Needs(256));
    }

    #[test]
    fn loramac_node_is_done_when_its_counter_stops() {
        let lmn = StatusInterpretation::LoramacNode;
        assert_eq!(interpret(lmn, answer(100, 0, 0)), Progress::Complete);
        // The tail of the uncoded fragments is lost and not yet known to be.
        assert_eq!(interpret(lmn, answer(97, 5, 0)), Progress::Needs(8));
        // It follows what is sent: not done, or just now.
        assert_eq!(interpret(lmn, answer(105, 5, 5)), Progress::Needs(5));
        assert_eq!(interpret(lmn, answer(113, 5, 13)), Progress::Needs(5));
        assert_eq!(interpret(lmn, answer(108, 5, 13)), Progress::Complete);
        // What was sent since it was asked says nothing.
        let asked_before = Answer {
            settled: false,
            ..answer(108, 5, 13)
        };
        assert_eq!(interpret(lmn, asked_before), Progress::Needs(5));
        // It stopped too early for that: it is deaf.
        assert_eq!(interpret(lmn, answer(103, 5, 13)), Progress::Needs(5));
        // The counter of another session.
        assert_eq!(interpret(lmn, answer(140, 0, 13)), Progress::Needs(100));
    }

    #[test]
    fn zephyr_is_done_when_it_has_ample() {
        let zephyr = StatusInterpretation::Zephyr;
        assert_eq!(interpret(zephyr, answer(95, 5, 0)), Progress::Needs(7));
        assert_eq!(interpret(zephyr, answer(100, 0, 9)), Progress::Needs(2));
        assert_eq!(interpret(zephyr, answer(108, 0, 18)), Progress::Needs(6));
        assert_eq!(interpret(zephyr, answer(116, 0, 30)), Progress::Complete);
    }

    #[test]
    fn a_memory_error_of_an_earlier_session_is_not_believed() {
        let (lmn, spec) = (
            StatusInterpretation::LoramacNode,
            StatusInterpretation::Spec,
        );
        let few = answer(100, 3, 0);
        assert!(!believes_memory_error(lmn, Some(5), few));
        assert!(believes_memory_error(lmn, Some(2), few));
        assert!(believes_memory_error(lmn, None, few));
        assert!(believes_memory_error(spec, Some(5), few));
        let zephyr = StatusInterpretation::Zephyr;
        assert!(!believes_memory_error(zephyr, Some(5), answer(97, 3, 0)));
        assert!(believes_memory_error(zephyr, Some(5), answer(90, 10, 0)));
    }
}
