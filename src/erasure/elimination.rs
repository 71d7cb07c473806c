//! What both decoders share: which fragments count, and Gaussian elimination over the lost ones.
//!
//! Works on counters and matrix rows only; whoever holds payloads repeats on them what this says. Unknowns are the
//! uncoded fragments missing when the first coded one arrives; a row is kept in the place of its lowest unknown and
//! only reduced until that place is free, so the upper triangle is solved once, at the end.
//! Source: TS004-2.0.0, appendix on the fragmentation code.

use std::sync::Arc;

use super::{MAX_N, Matrix};

/// How strict a decoder is about the order of fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// As deployed end-device stacks behave: an uncoded fragment below the last counter seen is dropped, every uncoded
    /// one after the first coded one is dropped, and losing more than `max_lost` ends the session for good.
    Device,
    /// Whatever helps is used, in any order.
    Lenient,
}

/// What a fragment did to a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The fragment helped; more are needed.
    Incomplete {
        /// Independent fragments still needed: the rank deficit.
        missing: u16,
    },
    /// The fragment completed the block.
    Complete,
    /// The fragment changed nothing.
    Ignored(Ignored),
    /// More uncoded fragments are lost than the decoder has memory for. Final under [`Rules::Device`].
    TooManyLost {
        /// Uncoded fragments lost.
        lost: u16,
    },
}

/// Why a fragment changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// The counter is 0 or above 16383.
    Counter,
    /// The payload has not `frag_size` bytes.
    Size,
    /// This uncoded fragment is held already.
    Repeated,
    /// An uncoded fragment below the last counter seen ([`Rules::Device`]).
    OutOfOrder,
    /// An uncoded fragment after the first coded one ([`Rules::Device`]).
    AfterCoded,
    /// Everything in the fragment is known already: a repeated coded one, or bad luck.
    Dependent,
    /// The block is complete.
    AlreadyComplete,
}

/// What the owner of payloads has to do for a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Keep the payload as fragment `index`.
    Store { index: usize, progress: Progress },
    /// Add the fragments of [`Elimination::selection`] to the payload and keep it as fragment `index`.
    Reduce { index: usize, progress: Progress },
    /// Nothing.
    Skip(Progress),
}

#[derive(Debug, Clone)]
pub(super) struct Elimination {
    matrix: Arc<Matrix>,
    rules: Rules,
    max_lost: u16,
    phase: Phase,
    /// Every well-formed fragment until completion, whatever became of it.
    received: u16,
    /// Counter of the last uncoded fragment that was not dropped.
    last_uncoded: u16,
    /// Uncoded fragments held as such, as a bit set and counted.
    held: Vec<u64>,
    held_count: u16,
    /// Indices (from 0) of the unknowns, rising; frozen at the first coded fragment.
    lost: Vec<u16>,
    /// Square of `lost.len()` rows, `stride` words each; row `p` has its lowest bit at `p`.
    rows: Vec<u64>,
    stride: usize,
    /// Which rows are filled, as a bit set and counted.
    pivots: Vec<u64>,
    rank: u16,
    /// The row being reduced, over the unknowns.
    row: Vec<u64>,
    selection: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Uncoded,
    Coded,
    Complete,
    Aborted,
}

impl Elimination {
    pub(super) fn new(matrix: Arc<Matrix>, rules: Rules, max_lost: u16) -> Self {
        let words = super::row_words(matrix.nb_frag());
        Self {
            matrix,
            rules,
            max_lost,
            phase: Phase::Uncoded,
            received: 0,
            last_uncoded: 0,
            held: vec![0; words],
            held_count: 0,
            lost: Vec::new(),
            rows: Vec::new(),
            stride: 0,
            pivots: Vec::new(),
            rank: 0,
            row: Vec::new(),
            selection: vec![0; words],
        }
    }

    pub(super) fn nb_frag(&self) -> u16 {
        self.matrix.nb_frag()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.phase == Phase::Complete
    }

    pub(super) fn received(&self) -> u16 {
        self.received
    }

    pub(super) fn missing_uncoded(&self) -> u16 {
        self.nb_frag() - self.held_count
    }

    pub(super) fn rank_deficit(&self) -> u16 {
        match self.phase {
            Phase::Complete => 0,
            // Unknowns number the fragments not held when they were frozen, and rank never exceeds them.
            Phase::Uncoded | Phase::Coded | Phase::Aborted => self.missing_uncoded() - self.rank,
        }
    }

    /// The fragments to add for the last [`Step::Reduce`] or [`Elimination::back_substitute`], as a bit set.
    pub(super) fn selection(&self) -> &[u64] {
        &self.selection
    }

    /// Unknowns, for [`Elimination::back_substitute`].
    pub(super) fn unknowns(&self) -> usize {
        self.lost.len()
    }

    /// Takes in the counter of a fragment.
    pub(super) fn accept(&mut self, n: u16) -> Step {
        if n == 0 || n > MAX_N {
            return Step::Skip(Progress::Ignored(Ignored::Counter));
        }
        match self.phase {
            Phase::Complete => return Step::Skip(Progress::Ignored(Ignored::AlreadyComplete)),
            Phase::Aborted => {
                return Step::Skip(Progress::TooManyLost {
                    lost: self.missing_uncoded(),
                });
            }
            Phase::Uncoded | Phase::Coded => self.received = self.received.saturating_add(1),
        }
        if n <= self.nb_frag() {
            self.accept_uncoded(n)
        } else {
            self.accept_coded(n - self.nb_frag())
        }
    }

    /// Sets [`Elimination::selection`] to the other unknowns in row `place` and returns which fragment they solve.
    /// Only when complete, from the last place to the first.
    pub(super) fn back_substitute(&mut self, place: usize) -> usize {
        self.selection.fill(0);
        let row = self
            .rows
            .chunks_exact(self.stride.max(1))
            .nth(place)
            .unwrap_or_default();
        for (&word, lost) in row.iter().zip(self.lost.chunks(64)) {
            let mut bits = word;
            while bits != 0 {
                if let Some(&index) = lost.get(bits.trailing_zeros() as usize) {
                    set(&mut self.selection, index);
                }
                bits &= bits - 1;
            }
        }
        let Some(&index) = self.lost.get(place) else {
            return 0;
        };
        clear(&mut self.selection, index);
        usize::from(index)
    }

    fn accept_uncoded(&mut self, n: u16) -> Step {
        let index = n - 1;
        if self.rules == Rules::Device {
            if self.phase == Phase::Coded {
                return Step::Skip(Progress::Ignored(Ignored::AfterCoded));
            }
            if n < self.last_uncoded {
                return Step::Skip(Progress::Ignored(Ignored::OutOfOrder));
            }
        }
        self.last_uncoded = n;
        if is_set(&self.held, index) {
            return Step::Skip(Progress::Ignored(Ignored::Repeated));
        }
        if self.phase == Phase::Coded {
            let Ok(place) = self.lost.binary_search(&index) else {
                return Step::Skip(Progress::Ignored(Ignored::Repeated));
            };
            self.selection.fill(0);
            self.row.fill(0);
            self.row[place / 64] |= 1 << (place % 64);
            return self.reduce();
        }
        set(&mut self.held, index);
        self.held_count += 1;
        if self.held_count == self.nb_frag() {
            self.phase = Phase::Complete;
        }
        Step::Store {
            index: usize::from(index),
            progress: self.progress(),
        }
    }

    fn accept_coded(&mut self, n: u16) -> Step {
        if self.phase == Phase::Uncoded {
            let lost = self.missing_uncoded();
            if lost > self.max_lost {
                if self.rules == Rules::Device {
                    self.phase = Phase::Aborted;
                }
                return Step::Skip(Progress::TooManyLost { lost });
            }
            self.freeze();
        }
        let matrix = Arc::clone(&self.matrix);
        let Some(row) = matrix.row(n) else {
            return Step::Skip(Progress::Ignored(Ignored::Counter));
        };
        for ((selected, row), held) in self.selection.iter_mut().zip(row).zip(&self.held) {
            *selected = row & held;
        }
        for (packed, lost) in self.row.iter_mut().zip(self.lost.chunks(64)) {
            *packed = lost.iter().rev().fold(0, |packed, &index| {
                (packed << 1) | u64::from(is_set(row, index))
            });
        }
        self.reduce()
    }

    /// The first coded fragment has come: from here on the unknowns are fixed.
    fn freeze(&mut self) {
        self.phase = Phase::Coded;
        self.lost = (0..self.nb_frag())
            .filter(|&index| !is_set(&self.held, index))
            .collect();
        self.stride = self.lost.len().div_ceil(64);
        self.rows = vec![0; self.lost.len() * self.stride];
        self.pivots = vec![0; self.stride];
        self.row = vec![0; self.stride];
    }

    /// Reduces `self.row`; adds the unknowns whose rows it used to the selection.
    fn reduce(&mut self) -> Step {
        for word in 0..self.stride {
            while self.row[word] != 0 {
                let bit = self.row[word].trailing_zeros();
                let place = word * 64 + bit as usize;
                let kept = &mut self.rows[place * self.stride + word..(place + 1) * self.stride];
                let index = self.lost[place];
                if (self.pivots[word] >> bit) & 1 == 0 {
                    kept.copy_from_slice(&self.row[word..]);
                    self.pivots[word] |= 1 << bit;
                    self.rank += 1;
                    if usize::from(self.rank) == self.lost.len() {
                        self.phase = Phase::Complete;
                    }
                    return Step::Reduce {
                        index: usize::from(index),
                        progress: self.progress(),
                    };
                }
                for (left, right) in self.row[word..].iter_mut().zip(kept) {
                    *left ^= *right;
                }
                set(&mut self.selection, index);
            }
        }
        Step::Skip(Progress::Ignored(Ignored::Dependent))
    }

    fn progress(&self) -> Progress {
        match self.phase {
            Phase::Complete => Progress::Complete,
            Phase::Uncoded | Phase::Coded | Phase::Aborted => Progress::Incomplete {
                missing: self.rank_deficit(),
            },
        }
    }
}

fn is_set(bits: &[u64], index: u16) -> bool {
    bits.get(usize::from(index / 64))
        .is_some_and(|word| (word >> (index % 64)) & 1 == 1)
}

fn set(bits: &mut [u64], index: u16) {
    if let Some(word) = bits.get_mut(usize::from(index / 64)) {
        *word |= 1 << (index % 64);
    }
}

fn clear(bits: &mut [u64], index: u16) {
    if let Some(word) = bits.get_mut(usize::from(index / 64)) {
        *word &= !(1 << (index % 64));
    }
}
