//! What a `FragSessionStatusAns` means, by the stack that sent it (TS004-1.0.0 §3.3, TS004-2.0.0 §3.3).
//!
//! The two numbers of the answer are not what the specification says on every stack. Everything the campaign decides
//! about progress goes through [`interpret`]; nothing else looks at the raw numbers.

use crate::lorawan::PackageVersion;
use crate::record::{FragAlgo, StatusInterpretation};

/// The numbers of an answer and what had been sent when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Version of the package that answered.
    pub(crate) version: PackageVersion,
    /// Code of the session.
    pub(crate) frag_algo: FragAlgo,
    /// `NbFragReceived`.
    pub(crate) received: u16,
    /// `MissingFrag`, 255 = 255 or more.
    pub(crate) missing: u8,
    /// `NbFrag` of the session.
    pub(crate) nb_frag: u16,
    /// Coded fragments sent before the question.
    pub(crate) coded_sent: u16,
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
/// Receptions beyond `NbFrag` after which a stack that cannot say so is taken to be done: 99.6 % (dense rows).
const AMPLE_EXTRA: u16 = 8;

/// Turns the numbers of an answer into progress, as the stack that sent it means them.
pub(crate) fn interpret(stack: StatusInterpretation, answer: Answer) -> Progress {
    let Answer {
        version,
        frag_algo,
        received,
        missing,
        nb_frag,
        coded_sent,
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
            // Each fragment that a block of this code can use counts in full; blocks that have more than they need hide
            // what others lack.
            PackageVersion::V2 if frag_algo == FragAlgo::ReedSolomon => {
                Progress::Needs(by_count.max(1))
            }
            // v2: the uncoded fragments not yet there; all of them until the block is decoded.
            PackageVersion::V2 => Progress::Needs(
                (by_count + USUAL_EXTRA)
                    .min(missing_wide.max(by_count))
                    .max(1),
            ),
        },
        StatusInterpretation::LoraBasicsModem => {
            let done_after_losses = missing == 0 && by_count == 0;
            // 1 is reported after a loss-free pass; with one fragment really missing, coded ones move the count on.
            let done_without_loss = missing == 1 && received == nb_frag && coded_sent >= 3;
            if done_after_losses || done_without_loss {
                Progress::Complete
            } else {
                Progress::Needs(lost_at_first_less_coded(
                    missing_wide.max(by_count.min(255)),
                    nb_frag,
                    coded_sent,
                ))
            }
        }
        StatusInterpretation::LoramacNode => {
            let done_without_loss = missing == 0 && by_count == 0;
            let probably_done = received
                >= nb_frag
                    .saturating_add(missing_wide)
                    .saturating_add(AMPLE_EXTRA);
            if done_without_loss || probably_done {
                Progress::Complete
            } else {
                Progress::Needs(lost_at_first_less_coded(
                    missing_wide.max(1),
                    nb_frag,
                    coded_sent,
                ))
            }
        }
        // Zephyr: `max(0, NbFrag - received)`, which is 0 before the block can be decoded.
        StatusInterpretation::Zephyr
            if missing == 0 && received >= nb_frag.saturating_add(AMPLE_EXTRA) =>
        {
            Progress::Complete
        }
        StatusInterpretation::Zephyr => Progress::Needs((by_count + USUAL_EXTRA).max(1)),
    }
}

/// For stacks whose `MissingFrag` keeps the number lost in the uncoded pass: what the coded fragments sent since have
/// not yet made good, if they were lost at the same rate.
fn lost_at_first_less_coded(lost: u16, nb_frag: u16, coded_sent: u16) -> u16 {
    let kept =
        u32::from(nb_frag.saturating_sub(lost)) * u32::from(coded_sent) / u32::from(nb_frag.max(1));
    lost.saturating_sub(u16::try_from(kept).unwrap_or(u16::MAX))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(received: u16, missing: u8, coded_sent: u16) -> Answer {
        Answer {
            version: PackageVersion::V1,
            frag_algo: FragAlgo::Ts004,
            received,
            missing,
            nb_frag: 100,
            coded_sent,
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
        assert_eq!(
            interpret(StatusInterpretation::Spec, answer(0, 0, 0)),
            Progress::Needs(100)
        );
        assert_eq!(
            interpret(StatusInterpretation::LoraBasicsModem, answer(0, 0, 0)),
            Progress::Needs(100)
        );
    }

    #[test]
    fn a_saturated_count_is_read_with_the_number_received() {
        let wide = Answer {
            version: PackageVersion::V1,
            frag_algo: FragAlgo::Ts004,
            received: 600,
            missing: 255,
            nb_frag: 1000,
            coded_sent: 0,
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
            frag_algo: FragAlgo::Ts004,
            received,
            missing,
            nb_frag: 100,
            coded_sent: 10,
        };
        let spec = StatusInterpretation::Spec;
        assert_eq!(interpret(spec, v2(101, 0)), Progress::Complete);
        assert_eq!(interpret(spec, v2(95, 12)), Progress::Needs(7));
        // It holds as many as it needs and cannot decode yet.
        assert_eq!(interpret(spec, v2(101, 12)), Progress::Needs(2));
        assert_eq!(interpret(spec, v2(99, 1)), Progress::Needs(1));
    }

    #[test]
    fn reed_solomon_counts_are_the_least_that_is_needed() {
        let of = |version, received, missing| Answer {
            version,
            frag_algo: FragAlgo::ReedSolomon,
            received,
            missing,
            nb_frag: 300,
            coded_sent: 30,
        };
        let spec = |answer| interpret(StatusInterpretation::Spec, answer);
        let (v1, v2) = (PackageVersion::V1, PackageVersion::V2);
        assert_eq!(spec(of(v1, 310, 4)), Progress::Needs(4));
        assert_eq!(spec(of(v2, 290, 25)), Progress::Needs(10));
        // Enough in sum, but not in every block.
        assert_eq!(spec(of(v2, 310, 25)), Progress::Needs(1));
        assert_eq!(spec(of(v2, 310, 0)), Progress::Complete);
    }

    #[test]
    fn basics_modem_reports_one_missing_after_a_loss_free_pass() {
        let lbm = StatusInterpretation::LoraBasicsModem;
        assert_eq!(interpret(lbm, answer(100, 1, 4)), Progress::Complete);
        assert_eq!(interpret(lbm, answer(100, 1, 1)), Progress::Needs(1));
        assert_eq!(interpret(lbm, answer(100, 0, 9)), Progress::Complete);
        // 20 lost, 10 coded sent, a fifth of them lost too: about 12 still needed.
        assert_eq!(interpret(lbm, answer(85, 20, 10)), Progress::Needs(12));
    }

    #[test]
    fn loramac_node_never_clears_the_number_lost() {
        let lmn = StatusInterpretation::LoramacNode;
        assert_eq!(interpret(lmn, answer(100, 0, 0)), Progress::Complete);
        assert_eq!(interpret(lmn, answer(105, 5, 5)), Progress::Needs(1));
        assert_eq!(interpret(lmn, answer(113, 5, 13)), Progress::Complete);
    }
}
