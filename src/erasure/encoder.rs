//! The sender's side of the TS004 code: any fragment of a block, on demand, in any order.
//!
//! Holds no progress. Source: TS004-2.0.0 §3.6 (DataFragment) and the appendix on the fragmentation code.

use std::sync::Arc;

use super::fragments::{Fragments, MAX_WORDS, to_bytes};
use super::{CodeVersion, MAX_N, Matrix, ParameterError};

/// How a data block is cut: `nb_frag * frag_size - padding` is its length (TS004-2.0.0 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    /// Uncoded fragments, 1..=16383.
    pub nb_frag: u16,
    /// Bytes per fragment, 1..=255.
    pub frag_size: u8,
    /// Bytes of padding (zeros) in the last fragment, less than `frag_size`.
    pub padding: u8,
}

impl BlockLayout {
    /// Cuts `length` bytes into as few fragments of `frag_size` bytes as hold them.
    pub fn new(length: usize, frag_size: u8) -> Result<Self, ParameterError> {
        if frag_size == 0 {
            return Err(ParameterError::FragSize);
        }
        if length == 0 {
            return Err(ParameterError::Length);
        }
        let size = usize::from(frag_size);
        let count = length.div_ceil(size);
        let nb_frag = u16::try_from(count).ok().filter(|&count| count <= MAX_N);
        let Some(nb_frag) = nb_frag else {
            return Err(ParameterError::NbFrag(count));
        };
        // 0..frag_size: what the last fragment lacks.
        let used = length - (count - 1) * size;
        let padding = u8::try_from(size - used).map_err(|_| ParameterError::FragSize)?;
        Ok(Self {
            nb_frag,
            frag_size,
            padding,
        })
    }

    /// A layout read from elsewhere (a FragSessionSetupReq), checked.
    pub fn from_parts(nb_frag: u16, frag_size: u8, padding: u8) -> Result<Self, ParameterError> {
        if nb_frag == 0 || nb_frag > MAX_N {
            return Err(ParameterError::NbFrag(usize::from(nb_frag)));
        }
        if frag_size == 0 {
            return Err(ParameterError::FragSize);
        }
        if padding >= frag_size {
            return Err(ParameterError::Padding { padding, frag_size });
        }
        Ok(Self {
            nb_frag,
            frag_size,
            padding,
        })
    }

    /// Length of the data block without padding, bytes.
    pub fn length(&self) -> usize {
        usize::from(self.nb_frag) * usize::from(self.frag_size) - usize::from(self.padding)
    }
}

/// A data block ready to be sent: uncoded fragments as they are, coded ones computed when asked for.
#[derive(Debug, Clone)]
pub struct Encoder {
    layout: BlockLayout,
    fragments: Fragments,
    matrix: Arc<Matrix>,
}

impl Encoder {
    /// An encoder with its own row cache. Copies `data`.
    pub fn new(version: CodeVersion, data: &[u8], frag_size: u8) -> Result<Self, ParameterError> {
        let layout = BlockLayout::new(data.len(), frag_size)?;
        let matrix = Arc::new(Matrix::new(version, layout.nb_frag)?);
        Ok(Self::from_layout(layout, matrix, data))
    }

    /// An encoder that shares `matrix`; its `nb_frag` must be what `data` and `frag_size` ask for.
    pub fn with_matrix(
        matrix: Arc<Matrix>,
        data: &[u8],
        frag_size: u8,
    ) -> Result<Self, ParameterError> {
        let layout = BlockLayout::new(data.len(), frag_size)?;
        if layout.nb_frag != matrix.nb_frag() {
            return Err(ParameterError::NbFrag(usize::from(layout.nb_frag)));
        }
        Ok(Self::from_layout(layout, matrix, data))
    }

    /// The cut of the block.
    pub fn layout(&self) -> BlockLayout {
        self.layout
    }

    /// Uncoded fragments, 1..=16383.
    pub fn nb_frag(&self) -> u16 {
        self.layout.nb_frag
    }

    /// Bytes per fragment, 1..=255.
    pub fn frag_size(&self) -> u8 {
        self.layout.frag_size
    }

    /// Zero bytes at the end of the last uncoded fragment.
    pub fn padding(&self) -> u8 {
        self.layout.padding
    }

    /// The row cache, for decoders or further encoders of the same `nb_frag`.
    pub fn matrix(&self) -> &Arc<Matrix> {
        &self.matrix
    }

    /// Writes the fragment with counter `n` (as in DataFragment: 1..=`nb_frag` uncoded, up to 16383 coded) into
    /// `fragment`, which must hold exactly `frag_size` bytes. Allocates only when the row is new to the cache.
    pub fn fragment(&self, n: u16, fragment: &mut [u8]) -> Result<(), ParameterError> {
        let expected = self.fragments.frag_size();
        if fragment.len() != expected {
            return Err(ParameterError::Buffer {
                expected,
                actual: fragment.len(),
            });
        }
        let outside = ParameterError::N { n, last: MAX_N };
        let index = n.checked_sub(1).ok_or(outside)?;
        if index < self.layout.nb_frag {
            to_bytes(&self.fragments.read(usize::from(index)), fragment);
            return Ok(());
        }
        let row = self.matrix.row(n - self.layout.nb_frag).ok_or(outside)?;
        let mut sum = [0; MAX_WORDS];
        self.fragments.add_selected(row, &mut sum);
        to_bytes(&sum, fragment);
        Ok(())
    }

    fn from_layout(layout: BlockLayout, matrix: Arc<Matrix>, data: &[u8]) -> Self {
        let mut fragments = Fragments::new(layout.nb_frag, layout.frag_size);
        for (index, bytes) in data.chunks(usize::from(layout.frag_size)).enumerate() {
            fragments.write(index, bytes);
        }
        Self {
            layout,
            fragments,
            matrix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_counts_fragments_and_padding() {
        let layout = |length, frag_size| BlockLayout::new(length, frag_size);
        assert_eq!(
            layout(1, 255),
            Ok(BlockLayout {
                nb_frag: 1,
                frag_size: 255,
                padding: 254
            })
        );
        assert_eq!(
            layout(100, 50),
            Ok(BlockLayout {
                nb_frag: 2,
                frag_size: 50,
                padding: 0
            })
        );
        assert_eq!(
            layout(101, 50),
            Ok(BlockLayout {
                nb_frag: 3,
                frag_size: 50,
                padding: 49
            })
        );
        assert_eq!(
            layout(16_383, 1),
            Ok(BlockLayout {
                nb_frag: 16_383,
                frag_size: 1,
                padding: 0
            })
        );
        assert_eq!(layout(16_384, 1), Err(ParameterError::NbFrag(16_384)));
        assert_eq!(
            layout(usize::MAX, 1),
            Err(ParameterError::NbFrag(usize::MAX))
        );
        assert_eq!(layout(0, 1), Err(ParameterError::Length));
        assert_eq!(layout(1, 0), Err(ParameterError::FragSize));
        for length in 1..600 {
            let layout = BlockLayout::new(length, 37).unwrap();
            assert_eq!(layout.length(), length);
            assert_eq!(
                BlockLayout::from_parts(layout.nb_frag, 37, layout.padding),
                Ok(layout)
            );
        }
        assert_eq!(
            BlockLayout::from_parts(2, 5, 5),
            Err(ParameterError::Padding {
                padding: 5,
                frag_size: 5
            })
        );
    }

    #[test]
    fn uncoded_fragments_are_the_data_with_zero_padding() {
        let data: Vec<u8> = (1..=23).collect();
        let encoder = Encoder::new(CodeVersion::V1, &data, 10).unwrap();
        assert_eq!((encoder.nb_frag(), encoder.padding()), (3, 7));
        let mut fragment = [0xff; 10];
        encoder.fragment(1, &mut fragment).unwrap();
        assert_eq!(fragment, data[..10]);
        encoder.fragment(3, &mut fragment).unwrap();
        assert_eq!(fragment, [21, 22, 23, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn counters_and_buffers_are_checked() {
        let encoder = Encoder::new(CodeVersion::V2, &[7; 40], 4).unwrap();
        let mut fragment = [0; 4];
        assert_eq!(
            encoder.fragment(0, &mut fragment),
            Err(ParameterError::N { n: 0, last: MAX_N })
        );
        assert!(encoder.fragment(MAX_N, &mut fragment).is_ok());
        assert_eq!(
            encoder.fragment(16_384, &mut fragment),
            Err(ParameterError::N {
                n: 16_384,
                last: MAX_N
            })
        );
        assert_eq!(
            encoder.fragment(1, &mut [0; 5]),
            Err(ParameterError::Buffer {
                expected: 4,
                actual: 5
            })
        );
        let other = Arc::new(Matrix::new(CodeVersion::V2, 11).unwrap());
        assert_eq!(
            Encoder::with_matrix(other, &[7; 40], 4).err(),
            Some(ParameterError::NbFrag(10))
        );
    }
}
