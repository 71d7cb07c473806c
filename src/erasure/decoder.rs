//! The receiver's side of the TS004 code: a decoder with payloads, and one that only counts rank.
//!
//! Both take fragments one by one and never hold more than the block plus a square of bits over the lost fragments.
//! Neither checks the result: TS004 v1 has no MIC, and fragments of the wrong code version decode to garbage.

use std::sync::Arc;

use super::elimination::{Elimination, Step};
use super::fragments::{Fragments, to_bytes, to_words};
use super::{BlockLayout, CodeVersion, Ignored, Matrix, ParameterError, Progress, Rules};

/// The block is not complete, so there is no data to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{missing} independent fragments are still missing")]
pub struct Incomplete {
    /// Independent fragments still needed.
    pub missing: u16,
}

/// Puts a data block together from fragments.
#[derive(Debug, Clone)]
pub struct Decoder {
    elimination: Elimination,
    fragments: Fragments,
    frag_size: u8,
}

impl Decoder {
    /// A decoder with its own row cache. `nb_frag` is 1..=16383, `frag_size` 1..=255 bytes; `max_lost` bounds the
    /// memory for the elimination at `max_lost^2 / 8` bytes (a device's matrix memory, or `nb_frag` for no bound).
    pub fn new(
        version: CodeVersion,
        nb_frag: u16,
        frag_size: u8,
        rules: Rules,
        max_lost: u16,
    ) -> Result<Self, ParameterError> {
        Self::with_matrix(
            Arc::new(Matrix::new(version, nb_frag)?),
            frag_size,
            rules,
            max_lost,
        )
    }

    /// A decoder that shares `matrix`.
    pub fn with_matrix(
        matrix: Arc<Matrix>,
        frag_size: u8,
        rules: Rules,
        max_lost: u16,
    ) -> Result<Self, ParameterError> {
        BlockLayout::from_parts(matrix.nb_frag(), frag_size, 0)?;
        let fragments = Fragments::new(matrix.nb_frag(), frag_size);
        Ok(Self {
            elimination: Elimination::new(matrix, rules, max_lost),
            fragments,
            frag_size,
        })
    }

    /// Takes in the fragment with counter `n` (as in DataFragment) and exactly `frag_size` bytes.
    pub fn push(&mut self, n: u16, fragment: &[u8]) -> Progress {
        if fragment.len() != usize::from(self.frag_size) {
            return Progress::Ignored(Ignored::Size);
        }
        match self.elimination.accept(n) {
            Step::Skip(progress) => progress,
            Step::Store { index, progress } => {
                self.fragments.write(index, fragment);
                progress
            }
            Step::Reduce { index, progress } => {
                let mut sum = to_words(fragment);
                self.fragments
                    .add_selected(self.elimination.selection(), &mut sum);
                self.fragments.write_words(index, &sum);
                if progress == Progress::Complete {
                    self.back_substitute();
                }
                progress
            }
        }
    }

    /// Whether every fragment is known.
    pub fn is_complete(&self) -> bool {
        self.elimination.is_complete()
    }

    /// Independent fragments still needed; 0 when complete.
    pub fn rank_deficit(&self) -> u16 {
        self.elimination.rank_deficit()
    }

    /// Fragments with a valid counter seen until completion: uncoded, coded, repeated and dropped ones.
    pub fn received(&self) -> u16 {
        self.elimination.received()
    }

    /// Uncoded fragments not received in time, whether solved since or not.
    pub fn missing_uncoded(&self) -> u16 {
        self.elimination.missing_uncoded()
    }

    /// The data block without its last `padding` bytes.
    pub fn into_data(self, padding: u8) -> Result<Vec<u8>, Incomplete> {
        if !self.is_complete() {
            return Err(Incomplete {
                missing: self.rank_deficit(),
            });
        }
        let mut data =
            vec![0; usize::from(self.elimination.nb_frag()) * usize::from(self.frag_size)];
        for (index, bytes) in data
            .chunks_exact_mut(usize::from(self.frag_size))
            .enumerate()
        {
            to_bytes(&self.fragments.read(index), bytes);
        }
        data.truncate(data.len().saturating_sub(usize::from(padding)));
        Ok(data)
    }

    fn back_substitute(&mut self) {
        for place in (0..self.elimination.unknowns()).rev() {
            let index = self.elimination.back_substitute(place);
            let mut sum = self.fragments.read(index);
            self.fragments
                .add_selected(self.elimination.selection(), &mut sum);
            self.fragments.write_words(index, &sum);
        }
    }
}

/// A [`Decoder`] without payloads: the same answers to the same counters, at a fraction of the cost. For simulated
/// fleets and estimates.
#[derive(Debug, Clone)]
pub struct RankDecoder {
    elimination: Elimination,
}

impl RankDecoder {
    /// A decoder over `matrix`; `max_lost` as in [`Decoder::new`].
    pub fn new(matrix: Arc<Matrix>, rules: Rules, max_lost: u16) -> Self {
        Self {
            elimination: Elimination::new(matrix, rules, max_lost),
        }
    }

    /// Takes in the fragment with counter `n` (as in DataFragment).
    pub fn push(&mut self, n: u16) -> Progress {
        match self.elimination.accept(n) {
            Step::Skip(progress) | Step::Store { progress, .. } | Step::Reduce { progress, .. } => {
                progress
            }
        }
    }

    /// Whether every fragment is known.
    pub fn is_complete(&self) -> bool {
        self.elimination.is_complete()
    }

    /// Independent fragments still needed; 0 when complete.
    pub fn rank_deficit(&self) -> u16 {
        self.elimination.rank_deficit()
    }

    /// Fragments with a valid counter seen until completion: uncoded, coded, repeated and dropped ones.
    pub fn received(&self) -> u16 {
        self.elimination.received()
    }

    /// Uncoded fragments not received in time, whether solved since or not.
    pub fn missing_uncoded(&self) -> u16 {
        self.elimination.missing_uncoded()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Encoder;
    use super::*;

    /// 25 fragments of 4 bytes, 3 of them padding.
    fn data() -> Vec<u8> {
        (0..97_u8).map(|index| index.wrapping_mul(37)).collect()
    }

    struct Link {
        encoder: Encoder,
        decoder: Decoder,
        rank: RankDecoder,
    }

    impl Link {
        fn new(rules: Rules, max_lost: u16) -> Self {
            let encoder = Encoder::new(CodeVersion::V2, &data(), 4).unwrap();
            let decoder =
                Decoder::with_matrix(Arc::clone(encoder.matrix()), 4, rules, max_lost).unwrap();
            let rank = RankDecoder::new(Arc::clone(encoder.matrix()), rules, max_lost);
            Self {
                encoder,
                decoder,
                rank,
            }
        }

        fn send(&mut self, n: u16) -> Progress {
            let mut fragment = [0; 4];
            self.encoder.fragment(n, &mut fragment).unwrap();
            let progress = self.decoder.push(n, &fragment);
            assert_eq!(self.rank.push(n), progress);
            assert_eq!(self.rank.rank_deficit(), self.decoder.rank_deficit());
            progress
        }

        fn finish(mut self) {
            for n in 26.. {
                if self.send(n) == Progress::Complete {
                    break;
                }
            }
            assert_eq!(self.decoder.into_data(3).unwrap(), data());
        }
    }

    #[test]
    fn lossless_block_needs_no_coded_fragment() {
        let mut link = Link::new(Rules::Device, 0);
        for n in 1..25 {
            assert_eq!(link.send(n), Progress::Incomplete { missing: 25 - n });
        }
        assert_eq!(link.send(25), Progress::Complete);
        assert_eq!(link.send(26), Progress::Ignored(Ignored::AlreadyComplete));
        assert_eq!(link.decoder.received(), 25);
        assert_eq!(link.decoder.into_data(3).unwrap(), data());
    }

    #[test]
    fn devices_drop_late_uncoded_fragments() {
        let mut link = Link::new(Rules::Device, 25);
        for n in (1..=25).filter(|n| ![5, 9].contains(n)) {
            link.send(n);
        }
        assert_eq!(link.send(25), Progress::Ignored(Ignored::Repeated));
        assert_eq!(link.send(5), Progress::Ignored(Ignored::OutOfOrder));
        link.send(30);
        assert_eq!(link.send(9), Progress::Ignored(Ignored::AfterCoded));
        assert_eq!(link.send(25), Progress::Ignored(Ignored::AfterCoded));
        assert_eq!(link.decoder.missing_uncoded(), 2);
        link.finish();
    }

    #[test]
    fn lenient_decoder_uses_uncoded_fragments_at_any_time() {
        let mut link = Link::new(Rules::Lenient, 25);
        for n in [7, 3, 30, 31, 32] {
            assert!(matches!(link.send(n), Progress::Incomplete { .. }));
        }
        assert_eq!(link.send(7), Progress::Ignored(Ignored::Repeated));
        assert_eq!(link.decoder.rank_deficit(), 20);
        for n in (1..=25).rev() {
            link.send(n);
        }
        assert_eq!(link.decoder.rank_deficit(), 0);
        assert_eq!(link.decoder.into_data(3).unwrap(), data());
    }

    #[test]
    fn repeated_coded_fragment_is_dependent() {
        let mut link = Link::new(Rules::Device, 25);
        link.send(1);
        link.send(40);
        assert_eq!(link.send(40), Progress::Ignored(Ignored::Dependent));
        link.finish();
    }

    #[test]
    fn too_many_lost_is_final_for_devices_only() {
        let mut device = Link::new(Rules::Device, 3);
        let mut lenient = Link::new(Rules::Lenient, 3);
        for link in [&mut device, &mut lenient] {
            for n in 1..=21 {
                link.send(n);
            }
            assert_eq!(link.send(26), Progress::TooManyLost { lost: 4 });
        }
        assert_eq!(device.send(22), Progress::TooManyLost { lost: 4 });
        assert_eq!(lenient.send(22), Progress::Incomplete { missing: 3 });
        lenient.finish();
        assert_eq!(device.decoder.into_data(0), Err(Incomplete { missing: 4 }));
    }

    #[test]
    fn malformed_fragments_are_ignored_and_not_counted() {
        let mut decoder = Decoder::new(CodeVersion::V1, 10, 4, Rules::Device, 10).unwrap();
        assert_eq!(
            decoder.push(0, &[0; 4]),
            Progress::Ignored(Ignored::Counter)
        );
        assert_eq!(
            decoder.push(16_384, &[0; 4]),
            Progress::Ignored(Ignored::Counter)
        );
        assert_eq!(decoder.push(1, &[0; 3]), Progress::Ignored(Ignored::Size));
        assert_eq!(decoder.received(), 0);
        assert!(Decoder::new(CodeVersion::V1, 10, 0, Rules::Device, 10).is_err());
        assert!(Decoder::new(CodeVersion::V1, 0, 4, Rules::Device, 10).is_err());
    }
}
