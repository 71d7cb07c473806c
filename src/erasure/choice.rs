//! Which block sizes and which rows of the matrix are worth using.
//!
//! An end-device decodes from any rows, so the sender is free to skip some; what it must avoid are rows and block
//! sizes that leave two lost fragments indistinguishable. Advice only: encoder and decoders take every size.

use super::{CodeVersion, MAX_N, Matrix};

/// How well the code works for a block of `nb_frag` fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockSize {
    /// About 1.6 coded fragments more than were lost are needed on average.
    Good,
    /// Fewer than 20 fragments: the code has too few distinct rows to be dependable (TS004-2.0.0, appendix, advises
    /// against it). [`chosen_rows`] helps.
    Small,
    /// See [`is_weak_nb_frag`]: some devices fail whatever the redundancy.
    Weak,
}

impl BlockSize {
    /// The verdict on `nb_frag`.
    pub fn of(nb_frag: u16) -> Self {
        match nb_frag {
            _ if is_weak_nb_frag(nb_frag) => Self::Weak,
            0..20 => Self::Small,
            _ => Self::Good,
        }
    }
}

/// Whether some pair of fragments shares its matrix column for hundreds of rows, so that a device which lost both
/// cannot finish: multiples of 64 that are not powers of two.
///
/// There the index is `x mod nb_frag` and 64 divides `nb_frag`, so its low six bits are those of the shift register,
/// which hold both feedback taps (bits 0 and 5): an index then fixes the next one up to a constant, and certain pairs
/// of indices are always drawn together. Powers of two escape, since their modulus is `nb_frag + 1`. At 10 % loss
/// about one device in a hundred is hit; one fragment more or another `frag_size` avoids it.
pub fn is_weak_nb_frag(nb_frag: u16) -> bool {
    nb_frag != 0 && nb_frag.is_multiple_of(64) && !nb_frag.is_power_of_two()
}

/// Largest `nb_frag` for which [`chosen_rows`] chooses; beyond it consecutive rows are as good.
const LARGEST_CHOICE: u16 = 256;

/// Rows looked at per row wanted: bounds the work and how far counters run ahead.
const CANDIDATES: u16 = 512;

/// The rows to send, in order: the k-th coded fragment is row `chosen[k]`, `N = nb_frag + chosen[k]` on the wire.
///
/// For up to 256 fragments a greedy choice that lets every fragment, and every pair of fragments, be told apart as
/// early as possible; beyond, rows 1, 2, 3 and so on. No row occurs twice, a shorter list is the head of a longer
/// one, and every counter is at most 16383, so fewer than `count` rows come back when the counters run out.
/// Decoders accept gaps in N: it only drives the row generator.
pub fn chosen_rows(version: CodeVersion, nb_frag: u16, count: u16) -> Vec<u16> {
    let Ok(matrix) = Matrix::new(version, nb_frag) else {
        return Vec::new();
    };
    let count = count.min(matrix.last_row());
    if nb_frag > LARGEST_CHOICE {
        return (1..=count).collect();
    }
    let mut choice = Choice::new(&matrix);
    let mut chosen: Vec<u16> = (0..count).map_while(|_| choice.next()).collect();
    // The candidates are used up: go on behind them.
    let rest = count - u16::try_from(chosen.len()).unwrap_or(count);
    chosen.extend((CANDIDATES + 1..=MAX_N - nb_frag).take(usize::from(rest)));
    chosen
}

/// The greedy choice. It works in passes: within one, each row is the one that tells apart the most pairs of columns
/// that no row of the pass has told apart yet; a column of zeros stands for "not lost", so that covering a fragment
/// is one case of it. When all columns differ, the next pass begins.
struct Choice<'a> {
    matrix: &'a Matrix,
    /// Rows not chosen yet, rising.
    candidates: Vec<u16>,
    /// Columns equal so far in this pass, grouped; columns already unlike all others are left out.
    groups: Vec<Vec<u16>>,
}

impl<'a> Choice<'a> {
    fn new(matrix: &'a Matrix) -> Self {
        let candidates = (1..=matrix.last_row().min(CANDIDATES)).collect();
        Self {
            matrix,
            candidates,
            groups: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<u16> {
        if self.groups.is_empty() {
            // Column `nb_frag` is the column of zeros.
            self.groups.push((0..=self.matrix.nb_frag()).collect());
        }
        let mut best = None;
        for (position, &n) in self.candidates.iter().enumerate() {
            let separated = self.separated(self.matrix.row(n)?);
            // Among equals the first: counters stay low.
            if best.is_none_or(|(_, most)| separated > most) {
                best = Some((position, separated));
            }
        }
        let (position, separated) = best?;
        let n = self.candidates.remove(position);
        let row = self.matrix.row(n)?;
        if separated == 0 {
            // No candidate tells the rest apart: begin anew rather than wait for what cannot come.
            self.groups.clear();
            return Some(n);
        }
        for group in std::mem::take(&mut self.groups) {
            let (ones, zeros): (Vec<u16>, Vec<u16>) =
                group.into_iter().partition(|&column| bit(row, column) == 1);
            self.groups
                .extend([ones, zeros].into_iter().filter(|part| part.len() > 1));
        }
        Some(n)
    }

    /// Pairs of columns that `row` tells apart.
    fn separated(&self, row: &[u64]) -> usize {
        let pairs = |group: &Vec<u16>| {
            let ones: usize = group.iter().map(|&column| bit(row, column)).sum();
            ones * (group.len() - ones)
        };
        self.groups.iter().map(pairs).sum()
    }
}

fn bit(row: &[u64], column: u16) -> usize {
    row.get(usize::from(column / 64))
        .map_or(0, |word| usize::from((word >> (column % 64)) & 1 == 1))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{RankDecoder, Rules};
    use super::*;

    const VERSIONS: [CodeVersion; 2] = [CodeVersion::V1, CodeVersion::V2];

    /// Mean of (coded fragments received - uncoded lost) over devices that lose each frame with chance `loss` / 1000.
    fn mean_extra(version: CodeVersion, nb_frag: u16, rows: &[u16], loss: u64) -> f64 {
        let matrix = Arc::new(Matrix::new(version, nb_frag).unwrap());
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut lost = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) % 1000 < loss
        };
        let devices = 400;
        let mut extra = 0.0;
        for _ in 0..devices {
            let mut decoder = RankDecoder::new(Arc::clone(&matrix), Rules::Device, nb_frag);
            for n in (1..=nb_frag).filter(|_| !lost()).collect::<Vec<_>>() {
                decoder.push(n);
            }
            extra -= f64::from(decoder.missing_uncoded());
            for &row in rows {
                if decoder.is_complete() {
                    break;
                }
                if !lost() {
                    decoder.push(nb_frag + row);
                    extra += 1.0;
                }
            }
            assert!(decoder.is_complete(), "{version:?} {nb_frag}");
        }
        extra / f64::from(devices)
    }

    #[test]
    fn chosen_rows_are_distinct_and_within_the_counter() {
        for version in VERSIONS {
            for nb_frag in [
                0, 1, 2, 3, 20, 50, 255, 256, 257, 5000, 16_000, 16_382, 16_383,
            ] {
                for count in [0, 1, 30, 600, u16::MAX] {
                    let rows = chosen_rows(version, nb_frag, count);
                    let available = if nb_frag == 0 { 0 } else { MAX_N - nb_frag };
                    assert_eq!(rows.len(), usize::from(count.min(available)));
                    assert!(rows.iter().all(|&n| (1..=available).contains(&n)));
                    let mut sorted = rows.clone();
                    sorted.sort_unstable();
                    sorted.dedup();
                    assert_eq!(sorted.len(), rows.len(), "nb_frag {nb_frag} count {count}");
                    assert_eq!(rows, chosen_rows(version, nb_frag, u16::MAX)[..rows.len()]);
                }
            }
        }
    }

    #[test]
    fn choice_saves_fragments_in_small_blocks() {
        for (version, nb_frag, most) in [
            (CodeVersion::V1, 20, 1.2),
            (CodeVersion::V1, 42, 1.7),
            (CodeVersion::V1, 50, 1.7),
            (CodeVersion::V2, 20, 1.2),
            (CodeVersion::V2, 50, 1.7),
        ] {
            let consecutive: Vec<u16> = (1..=120).collect();
            let before = mean_extra(version, nb_frag, &consecutive, 100);
            let after = mean_extra(version, nb_frag, &chosen_rows(version, nb_frag, 120), 100);
            assert!(
                after < before,
                "{version:?} {nb_frag}: {after} is not below {before}"
            );
            assert!(after < most, "{version:?} {nb_frag}: {after}");
        }
    }

    #[test]
    fn early_rows_cover_every_fragment_and_pair() {
        for version in VERSIONS {
            for nb_frag in 2..=64 {
                let matrix = Matrix::new(version, nb_frag).unwrap();
                let rows = chosen_rows(version, nb_frag, 16);
                let column = |index: u16| {
                    rows.iter()
                        .map(|&n| bit(matrix.row(n).unwrap(), index))
                        .collect::<Vec<_>>()
                };
                let mut columns: Vec<_> = (0..=nb_frag).map(column).collect();
                columns.sort_unstable();
                columns.dedup();
                assert_eq!(
                    columns.len(),
                    usize::from(nb_frag) + 1,
                    "{version:?} {nb_frag}"
                );
            }
        }
    }

    #[test]
    fn weak_and_small_sizes_are_told_apart() {
        assert_eq!(BlockSize::of(19), BlockSize::Small);
        assert_eq!(BlockSize::of(20), BlockSize::Good);
        for weak in [192, 320, 384, 768, 832, 1536, 5952] {
            assert_eq!(BlockSize::of(weak), BlockSize::Weak);
        }
        for good in [64, 128, 191, 193, 256, 1024, 4096, 8192] {
            assert_eq!(BlockSize::of(good), BlockSize::Good);
        }
    }
}
