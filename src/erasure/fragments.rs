//! Fragments of one block as 64-bit words, laid out so that sums of many of them run at memory speed.
//!
//! Each fragment is cut into column strips of at most 16 words; a strip of all fragments lies together. A sum then
//! keeps one strip in registers while it walks the selected fragments. Safe code only: the compiler vectorises it.

/// Words that hold the largest fragment (255 bytes), rounded up to whole strips.
pub(super) const MAX_WORDS: usize = 32;

/// Words in a full strip: what fits the vector registers of a plain x86-64 target.
const STRIP_WORDS: usize = 16;

/// One fragment as words, zero beyond its size.
pub(super) type Words = [u64; MAX_WORDS];

/// `count` fragments of `frag_size` bytes, all zero at first.
#[derive(Debug, Clone)]
pub(super) struct Fragments {
    frag_size: usize,
    strips: Vec<Strip>,
}

#[derive(Debug, Clone)]
struct Strip {
    /// Words per fragment in this strip: even, 2..=16.
    width: usize,
    words: Vec<u64>,
}

impl Fragments {
    pub(super) fn new(count: u16, frag_size: u8) -> Self {
        let frag_size = usize::from(frag_size);
        // Whole pairs of words: a vector register holds two.
        let mut left = frag_size.div_ceil(16) * 2;
        let mut strips = Vec::new();
        while left > 0 {
            let width = left.min(STRIP_WORDS);
            strips.push(Strip {
                width,
                words: vec![0; usize::from(count) * width],
            });
            left -= width;
        }
        Self { frag_size, strips }
    }

    pub(super) fn frag_size(&self) -> usize {
        self.frag_size
    }

    /// Stores `bytes` (at most `frag_size` of them, the rest stays zero) as fragment `index`, counted from 0.
    pub(super) fn write(&mut self, index: usize, bytes: &[u8]) {
        self.write_words(index, &to_words(bytes));
    }

    pub(super) fn write_words(&mut self, index: usize, fragment: &Words) {
        let mut first = 0;
        for strip in &mut self.strips {
            if let Some(target) = strip.words.chunks_exact_mut(strip.width).nth(index) {
                target.copy_from_slice(&fragment[first..first + strip.width]);
            }
            first += strip.width;
        }
    }

    /// Fragment `index`, counted from 0; zeros if there is none.
    pub(super) fn read(&self, index: usize) -> Words {
        let mut fragment = [0; MAX_WORDS];
        let mut first = 0;
        for strip in &self.strips {
            if let Some(source) = strip.words.chunks_exact(strip.width).nth(index) {
                fragment[first..first + strip.width].copy_from_slice(source);
            }
            first += strip.width;
        }
        fragment
    }

    /// Adds (XOR) every fragment whose bit in `selection` is set to `sum`.
    pub(super) fn add_selected(&self, selection: &[u64], sum: &mut Words) {
        let mut first = 0;
        for strip in &self.strips {
            let part = &mut sum[first..];
            match strip.width {
                2 => strip.add_selected::<2>(selection, part),
                4 => strip.add_selected::<4>(selection, part),
                6 => strip.add_selected::<6>(selection, part),
                8 => strip.add_selected::<8>(selection, part),
                10 => strip.add_selected::<10>(selection, part),
                12 => strip.add_selected::<12>(selection, part),
                14 => strip.add_selected::<14>(selection, part),
                _ => strip.add_selected::<STRIP_WORDS>(selection, part),
            }
            first += strip.width;
        }
    }
}

impl Strip {
    /// `WIDTH` equals `self.width`; as a constant it lets the sum live in registers.
    fn add_selected<const WIDTH: usize>(&self, selection: &[u64], sum: &mut [u64]) {
        let Some(sum) = sum.first_chunk_mut::<WIDTH>() else {
            return;
        };
        let (fragments, _) = self.words.as_chunks::<WIDTH>();
        let mut local = *sum;
        for (&word, fragments) in selection.iter().zip(fragments.chunks(64)) {
            let mut bits = word;
            while bits != 0 {
                if let Some(fragment) = fragments.get(bits.trailing_zeros() as usize) {
                    for (left, right) in local.iter_mut().zip(fragment) {
                        *left ^= right;
                    }
                }
                bits &= bits - 1;
            }
        }
        *sum = local;
    }
}

/// The bytes as little-endian words; bytes beyond 256 are left out.
pub(super) fn to_words(bytes: &[u8]) -> Words {
    let mut words = [0; MAX_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(padded);
    }
    words
}

/// The inverse of [`to_words`], for as many bytes as `bytes` holds.
pub(super) fn to_bytes(words: &Words, bytes: &mut [u8]) {
    for (word, bytes) in words.iter().zip(bytes.chunks_mut(8)) {
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_equal_byte_by_byte_sums_at_every_size() {
        for frag_size in 1..=u8::MAX {
            let mut fragments = Fragments::new(70, frag_size);
            let size = usize::from(frag_size);
            let content = |index: usize| {
                (0..size)
                    .map(|byte| (index * 31 + byte * 7).to_le_bytes()[0])
                    .collect::<Vec<_>>()
            };
            (0..70).for_each(|index| fragments.write(index, &content(index)));
            let selection = [0x8000_0000_1234_5671, 0b10_0001];
            let mut expected = vec![0; size];
            for index in (0..70).filter(|index| selection[index / 64] >> (index % 64) & 1 == 1) {
                expected
                    .iter_mut()
                    .zip(content(index))
                    .for_each(|(left, right)| *left ^= right);
            }
            let mut sum = [0; MAX_WORDS];
            fragments.add_selected(&selection, &mut sum);
            let mut bytes = vec![0; size];
            to_bytes(&sum, &mut bytes);
            assert_eq!(bytes, expected, "frag_size {frag_size}");
            assert!(sum[size.div_ceil(8)..].iter().all(|&word| word == 0));
        }
    }

    #[test]
    fn selection_beyond_the_block_adds_nothing() {
        let mut fragments = Fragments::new(3, 8);
        fragments.write(2, &[9; 8]);
        fragments.write(3, &[1; 8]);
        let mut sum = [0; MAX_WORDS];
        fragments.add_selected(&[u64::MAX; 4], &mut sum);
        assert_eq!(sum, fragments.read(2));
        assert_eq!(fragments.read(3), [0; MAX_WORDS]);
    }
}
