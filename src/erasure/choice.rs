//! Which block sizes and which rows of the matrix are worth using.

use super::CodeVersion;

/// How well the code works for a block of `nb_frag` fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSize {
    /// Nothing to say against it.
    Good,
    /// Below 20 fragments.
    Small,
    /// Weak.
    Weak,
}

/// Weak.
pub fn is_weak_nb_frag(nb_frag: u16) -> bool {
    nb_frag.is_multiple_of(64) && !nb_frag.is_power_of_two() && nb_frag > 0
}

/// Rows.
pub fn chosen_rows(_version: CodeVersion, _nb_frag: u16, count: usize) -> Vec<u16> {
    (1..).take(count).collect()
}
