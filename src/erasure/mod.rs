//! Forward error correction: the code of TS004 (`FragAlgo` 0) with its parity matrix, encoder and decoders, and
//! [`reed_solomon`], a code of our own beside it.
//!
//! Knows neither frames nor sessions: bytes and counters in, bytes and counters out. The two versions of the package
//! differ in one test of the row generator, and mixing them corrupts the image silently, so every type here carries
//! a [`CodeVersion`]. Source: TS004-1.0.0 and TS004-2.0.0, appendix on the fragmentation code.

mod choice;
mod decoder;
mod elimination;
mod encoder;
mod fragments;
mod matrix;
pub mod reed_solomon;

pub use choice::{BlockSize, chosen_rows, is_weak_nb_frag};
pub use decoder::{Decoder, Incomplete, RankDecoder};
pub use elimination::{Ignored, Progress, Rules};
pub use encoder::{BlockLayout, Encoder};
pub use matrix::{Matrix, matrix_row, row_words};

/// Largest fragment counter N: `Index&N` leaves it 14 bits (TS004-2.0.0 §3.6, DataFragment).
pub const MAX_N: u16 = 16_383;

/// Which row generator the end-device runs. They agree on the wire but not on the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CodeVersion {
    /// TS004-1.0.0: an index drawn twice counts twice, so rows hold about 0.39 `nb_frag` ones.
    V1,
    /// TS004-2.0.0: only new indices count, so rows hold exactly `nb_frag / 2` ones.
    V2,
}

/// A parameter outside what TS004 can carry; names the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// `nb_frag` must be 1..=16383.
    #[error("nb_frag {0} is outside 1..=16383")]
    NbFrag(usize),
    /// `frag_size` must be 1..=255 bytes.
    #[error("frag_size is zero")]
    FragSize,
    /// The data block is empty.
    #[error("data length is zero")]
    Length,
    /// `padding` must be smaller than `frag_size`.
    #[error("padding {padding} is not below frag_size {frag_size}")]
    Padding {
        /// The padding asked for, bytes.
        padding: u8,
        /// Bytes per fragment.
        frag_size: u8,
    },
    /// The counter of a fragment or row is zero or too large.
    #[error("n {n} is outside 1..={last}")]
    N {
        /// The counter asked for.
        n: u16,
        /// The largest one allowed here.
        last: u16,
    },
    /// A buffer has the wrong size.
    #[error("buffer holds {actual} items where {expected} are needed")]
    Buffer {
        /// Items (bytes or words) needed.
        expected: usize,
        /// Items given.
        actual: usize,
    },
}
