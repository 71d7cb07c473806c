//! `FragSessionStatusAns` on the device: the counts of a session, as its stack means them (TS004 §3.2).

use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::fragmentation::{FragSessionStatusAns, UplinkCommand};

use super::stack::{AbsentStatus, BeforeData, Missing, Overflow, Received, StatusQuirks};

/// What a session knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) nb_frag: u16,
    /// Fragments of any kind until completion.
    pub(super) received: u16,
    /// Fragments for whatever session since set-up.
    pub(super) heard: u16,
    /// The counter of the last fragment until completion, whatever became of it.
    pub(super) last_n: u16,
    /// The highest counter.
    pub(super) highest_n: u16,
    /// Uncoded fragments that never came.
    pub(super) missing_uncoded: u16,
    /// Independent fragments still needed.
    pub(super) missing_independent: u16,
    /// A fragment came since set-up.
    pub(super) started: bool,
    /// The data block is complete.
    pub(super) complete: bool,
    pub(super) memory_error: bool,
    /// The data block is complete and its MIC is wrong.
    pub(super) mic_error: bool,
}

impl Counts {
    /// Uncoded fragments known to be lost: those before the last that came.
    fn lost(&self) -> u16 {
        let to_come = self.nb_frag.saturating_sub(self.highest_n);
        self.missing_uncoded.saturating_sub(to_come)
    }

    fn nb_frag_received(&self, quirks: &StatusQuirks) -> u16 {
        match quirks.received {
            Received::Fragments => self.received,
            Received::FragmentsForAnySession => self.heard,
            Received::LastCounter => self.last_n,
            Received::LastCounterLessLost => self.last_n.saturating_sub(self.lost()),
        }
    }

    /// The full count, before it is squeezed into a byte.
    fn missing(&self, quirks: &StatusQuirks) -> u16 {
        match quirks.missing {
            Missing::Independent => self.missing_independent,
            Missing::Uncoded if self.complete => 0,
            Missing::Uncoded => self.missing_uncoded,
            Missing::LostSoFar => self.lost(),
            Missing::IndependentOrOne if self.complete && self.missing_uncoded == 0 => 1,
            Missing::IndependentOrOne => self.missing_independent,
            Missing::LessReceived => self.nb_frag.saturating_sub(self.heard),
        }
    }

    /// The answer of a version; `None` if the device stays silent because it has nothing to report and `participants`
    /// asks those only that have. `exists` says whether the session of `frag_index` does.
    pub(super) fn answer(
        &self,
        version: PackageVersion,
        quirks: &StatusQuirks,
        (frag_index, participants): (u8, bool),
        exists: bool,
    ) -> Option<Vec<u8>> {
        let counts = if exists || quirks.absent == AbsentStatus::DecoderCounts {
            *self
        } else {
            Self::default()
        };
        let missing = counts.missing(quirks);
        let missing_frag = match quirks.overflow {
            Overflow::Saturates => u8::try_from(missing).unwrap_or(u8::MAX),
            Overflow::Wraps => missing.to_le_bytes()[0],
        };
        if !participants && missing_frag == 0 {
            return None;
        }
        let mut bytes = Vec::new();
        if !exists && quirks.absent == AbsentStatus::OneByte {
            UplinkCommand::FragSessionStatusAns(FragSessionStatusAns::SESSION_ABSENT)
                .encode(version, &mut bytes);
            return Some(bytes);
        }
        let good = counts.complete && !counts.mic_error;
        let blank = !counts.started && quirks.before_data == BeforeData::Zeros;
        let answer = FragSessionStatusAns {
            frag_index: Some(frag_index),
            nb_frag_received: if blank {
                0
            } else {
                counts.nb_frag_received(quirks)
            },
            missing_frag: if blank { 0 } else { missing_frag },
            memory_error: counts.memory_error,
            mic_error: if quirks.mic_error_without_block {
                missing_frag == 0 && !good
            } else {
                counts.mic_error
            },
            session_absent: !exists,
        };
        UplinkCommand::FragSessionStatusAns(answer).encode(version, &mut bytes);
        if version == PackageVersion::V2 && !exists {
            // Four bytes where the specification has one.
            bytes.truncate(2);
            let [low, high] = (answer.nb_frag_received & 0x3fff).to_le_bytes();
            bytes.extend([low, high | frag_index << 6, answer.missing_frag]);
        }
        Some(bytes)
    }
}
