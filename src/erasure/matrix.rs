//! Rows of the TS004 parity matrix as packed bits, and a cache of them that encoders and decoders share.
//!
//! Bit `i % 64` of word `i / 64` tells whether uncoded fragment `i + 1` is part of the row.
//! Source: TS004-1.0.0 and TS004-2.0.0, appendix on the fragmentation code (`prbs23`, `matrix_line`).

use std::sync::OnceLock;

use super::{CodeVersion, MAX_N, ParameterError};

/// Words of 64 bits that hold one row for `nb_frag` fragments.
pub fn row_words(nb_frag: u16) -> usize {
    usize::from(nb_frag).div_ceil(64)
}

/// Writes row `n` of the matrix (coded fragment `n`, counted from 1, is `N = nb_frag + n` on the wire) into `row`,
/// which must hold exactly [`row_words`] words.
///
/// `nb_frag` and `n` are each 1..=16383; the limit `nb_frag + n <= 16383` of the wire is not asked for here.
pub fn matrix_row(
    version: CodeVersion,
    nb_frag: u16,
    n: u16,
    row: &mut [u64],
) -> Result<(), ParameterError> {
    let generator = Generator::new(version, nb_frag)?;
    if n == 0 || n > MAX_N {
        return Err(ParameterError::N { n, last: MAX_N });
    }
    if row.len() != row_words(nb_frag) {
        return Err(ParameterError::Buffer {
            expected: row_words(nb_frag),
            actual: row.len(),
        });
    }
    generator.fill(n, row);
    Ok(())
}

/// The parity matrix for one `nb_frag`: rows are made when first asked for and then kept.
///
/// Rows depend on nothing but version, `nb_frag` and `n`, so one `Arc<Matrix>` serves every encoder and decoder of a
/// session. At most `(16383 - nb_frag) * nb_frag / 8` bytes, 8.4 MB for the worst `nb_frag`, 8191.
#[derive(Debug)]
pub struct Matrix {
    generator: Generator,
    words: usize,
    /// Rows in groups of `GROUP`, so that the table of empty slots stays small.
    groups: Box<[OnceLock<Box<[u64]>>]>,
}

/// Rows made together: large enough to make the slot table small, small enough that one row is not waited for.
const GROUP: u16 = 16;

impl Matrix {
    /// An empty cache. `nb_frag` is 1..=16383.
    pub fn new(version: CodeVersion, nb_frag: u16) -> Result<Self, ParameterError> {
        let generator = Generator::new(version, nb_frag)?;
        let groups = usize::from((MAX_N - nb_frag).div_ceil(GROUP));
        Ok(Self {
            generator,
            words: row_words(nb_frag),
            groups: (0..groups).map(|_| OnceLock::new()).collect(),
        })
    }

    /// The version of the code.
    pub fn version(&self) -> CodeVersion {
        self.generator.version
    }

    /// Uncoded fragments, the length of a row in bits.
    pub fn nb_frag(&self) -> u16 {
        self.generator.nb_frag
    }

    /// The last row whose coded fragment still has a counter: `16383 - nb_frag`.
    pub fn last_row(&self) -> u16 {
        MAX_N - self.generator.nb_frag
    }

    /// Row `n`, counted from 1. `None` for 0 and beyond [`Matrix::last_row`].
    pub fn row(&self, n: u16) -> Option<&[u64]> {
        if n > self.last_row() {
            return None;
        }
        let index = n.checked_sub(1)?;
        let group = self.group(index / GROUP)?;
        let first = usize::from(index % GROUP) * self.words;
        group.get(first..first + self.words)
    }

    /// Makes rows 1..=`count` now (rounded up to whole groups, cut at [`Matrix::last_row`]).
    pub fn pregenerate(&self, count: u16) {
        for group in 0..count.min(self.last_row()).div_ceil(GROUP) {
            self.group(group);
        }
    }

    fn group(&self, group: u16) -> Option<&[u64]> {
        let slot = self.groups.get(usize::from(group))?;
        Some(slot.get_or_init(|| {
            let first = group * GROUP + 1;
            let last = (first + GROUP - 1).min(self.last_row());
            let mut rows = vec![0; usize::from(last - first + 1) * self.words].into_boxed_slice();
            for (n, row) in (first..=last).zip(rows.chunks_exact_mut(self.words)) {
                self.generator.fill(n, row);
            }
            rows
        }))
    }
}

/// States of the shift register that fit one 64-bit window beside the current one (see [`window`]).
const LEAP: u32 = 41;
const STATE_BITS: u32 = 23;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;

/// The row generator with its modulus prepared.
#[derive(Debug, Clone, Copy)]
struct Generator {
    version: CodeVersion,
    nb_frag: u16,
    /// `nb_frag`, plus one where it is a power of two.
    modulus: u32,
    /// `floor(2^40 / modulus) + 1`: with values below 2^24 and a modulus of 2..=16384, the product's upper bits are
    /// exactly the quotient, so a remainder costs two multiplications instead of a division.
    reciprocal: u64,
}

impl Generator {
    fn new(version: CodeVersion, nb_frag: u16) -> Result<Self, ParameterError> {
        if nb_frag == 0 || nb_frag > MAX_N {
            return Err(ParameterError::NbFrag(usize::from(nb_frag)));
        }
        let modulus = u32::from(nb_frag) + u32::from(nb_frag.is_power_of_two());
        // A modulus of 1 never occurs: 1 is a power of two.
        let reciprocal = (1_u64 << 40) / u64::from(modulus) + 1;
        Ok(Self {
            version,
            nb_frag,
            modulus,
            reciprocal,
        })
    }

    /// Terminates: below 2^23 the register runs through all 2^23 - 1 states, so it meets every index.
    fn fill(&self, n: u16, row: &mut [u64]) {
        row.fill(0);
        let wanted = u32::from(self.nb_frag / 2);
        let mut x = 1 + 1001 * u32::from(n);
        let mut count = 0;
        // Seeds of rows beyond 8380 have 24 bits; the specified sum then differs from a shift register.
        while x >> STATE_BITS != 0 && count < wanted {
            x = prbs23(x);
            count += self.set(x, row);
        }
        while count < wanted {
            let window = window(x);
            // No more states than indices still wanted, so none is taken too many.
            let steps = LEAP.min(wanted - count);
            for step in 1..=steps {
                count += self.set(((window >> step) & STATE_MASK) as u32, row);
            }
            x = ((window >> steps) & STATE_MASK) as u32;
        }
    }

    /// Sets the bit that state `x` points to; returns by how much that counts towards the row's weight.
    #[inline(always)]
    fn set(&self, x: u32, row: &mut [u64]) -> u32 {
        let quotient = ((u64::from(x) * self.reciprocal) >> 40) as u32;
        let index = x - quotient * self.modulus;
        let Some(word) = row
            .get_mut((index >> 6) as usize)
            .filter(|_| index < u32::from(self.nb_frag))
        else {
            return 0;
        };
        let was_set = (*word >> (index & 63)) & 1;
        *word |= 1 << (index & 63);
        match self.version {
            CodeVersion::V1 => 1,
            CodeVersion::V2 => u32::from(was_set == 0),
        }
    }
}

/// One step of the generator's shift register, as the specification writes it (an integer sum).
fn prbs23(x: u32) -> u32 {
    (x >> 1) + (((x ^ (x >> 5)) & 1) << 22)
}

/// The register's bit sequence from state `x` (below 2^23) on: bits `t..t + 23` are the state after `t` steps, for `t`
/// up to [`LEAP`].
///
/// The two taps lie at bits 0 and 5, so 18 feedback bits follow from 23 known ones at once; doing it three times
/// fills the word, and the states in it no longer wait for each other.
fn window(x: u32) -> u64 {
    let x = u64::from(x);
    let known = x | (((x ^ (x >> 5)) & ((1 << 18) - 1)) << STATE_BITS);
    let known = x | (((known ^ (known >> 5)) & ((1 << 36) - 1)) << STATE_BITS);
    x | ((known ^ (known >> 5)) << STATE_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The appendix read literally: one step, one division, one list of bits.
    fn reference(version: CodeVersion, nb_frag: u16, n: u16) -> Vec<u64> {
        let modulus = u32::from(nb_frag) + u32::from(nb_frag.is_power_of_two());
        let mut row = vec![0; row_words(nb_frag)];
        let mut x = 1 + 1001 * u32::from(n);
        let mut count = 0;
        while count < nb_frag / 2 {
            let mut index = u32::MAX;
            while index >= u32::from(nb_frag) {
                x = prbs23(x);
                index = x % modulus;
            }
            let bit = 1_u64 << (index % 64);
            let word = &mut row[(index / 64) as usize];
            if version == CodeVersion::V1 || *word & bit == 0 {
                count += 1;
            }
            *word |= bit;
        }
        row
    }

    #[test]
    fn rows_equal_the_literal_generator() {
        for version in [CodeVersion::V1, CodeVersion::V2] {
            for nb_frag in (1..70).chain([
                127, 128, 129, 255, 256, 500, 1000, 4096, 5000, 8191, 8192, 16_383,
            ]) {
                for n in [
                    1, 2, 3, 100, 4190, 8379, 8380, 8381, 8382, 12_000, 16_382, 16_383,
                ] {
                    let mut row = vec![u64::MAX; row_words(nb_frag)];
                    matrix_row(version, nb_frag, n, &mut row).unwrap();
                    assert_eq!(
                        row,
                        reference(version, nb_frag, n),
                        "{version:?} nb_frag {nb_frag} n {n}"
                    );
                }
            }
        }
    }

    /// Every row is complete after one period at the latest.
    #[test]
    fn register_runs_through_all_states() {
        let mut x = 1;
        let mut steps = 0;
        loop {
            x = prbs23(x);
            steps += 1;
            if x == 1 {
                break;
            }
        }
        assert_eq!(steps, (1 << STATE_BITS) - 1);
    }

    #[test]
    fn cache_holds_the_same_rows() {
        let matrix = Matrix::new(CodeVersion::V2, 300).unwrap();
        matrix.pregenerate(40);
        for n in [1, 15, 16, 17, 40, 41, 9000, matrix.last_row()] {
            assert_eq!(matrix.row(n).unwrap(), reference(CodeVersion::V2, 300, n));
        }
        assert_eq!(matrix.row(0), None);
        assert_eq!(matrix.row(matrix.last_row() + 1), None);
    }

    #[test]
    fn largest_nb_frag_has_no_rows() {
        let matrix = Matrix::new(CodeVersion::V1, MAX_N).unwrap();
        assert_eq!(matrix.row(1), None);
        matrix.pregenerate(u16::MAX);
    }

    #[test]
    fn bad_parameters_are_named() {
        let mut row = [0; 2];
        assert_eq!(
            matrix_row(CodeVersion::V1, 0, 1, &mut row),
            Err(ParameterError::NbFrag(0))
        );
        assert_eq!(
            matrix_row(CodeVersion::V1, 16_384, 1, &mut row),
            Err(ParameterError::NbFrag(16_384))
        );
        assert_eq!(
            matrix_row(CodeVersion::V1, 100, 0, &mut row),
            Err(ParameterError::N { n: 0, last: MAX_N })
        );
        assert_eq!(
            matrix_row(CodeVersion::V1, 200, 1, &mut row),
            Err(ParameterError::Buffer {
                expected: 4,
                actual: 2
            })
        );
    }
}
