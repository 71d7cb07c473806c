//! A Reed-Solomon code beside TS004's, for end-devices that are built to decode it.
//!
//! It is our own: TS004-2.0.0 §3.2 defines `FragAlgo` 0 and reserves the rest, so a device must have been told of it.
//! [`FRAG_ALGO`] is 7, the number farthest from those a later version of TS004 would assign first. Messages, counters
//! and padding stay those of TS004; only the content of coded fragments differs. Knows neither frames nor sessions.
//!
//! # The code, for authors of devices
//!
//! - The `NbFrag` uncoded fragments are dealt to `B = ceil(NbFrag / 128)` blocks in turn: the one with `N = i + 1` is
//!   data shard `i / B` of block `i mod B`. A block of `k` data shards has `p = 255 - k` parity shards, at least 127.
//! - Coded fragment `c`, on the wire `N = NbFrag + c` with c from 1, belongs to block `(c - 1) mod B` and is its parity
//!   shard `((c - 1) / B) mod p`. So any run of coded fragments serves all blocks alike, and after the last parity
//!   shard they begin again.
//! - Bytes are elements of GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11D). Let `V` have 255 rows and `k`
//!   columns, `V[r][c] = r^c` with `0^0 = 1`, and let `T` be its first `k` rows. Row `k + j` of `V * T^-1` holds the
//!   coefficients of the data shards in parity shard `j`. Most libraries of Reed-Solomon erasure codes use this matrix.
//! - Any `k` different shards of a block give its data. The session is complete when every block is.
//! - Fragments may come in any order, uncoded ones after coded ones too.
//!
//! `NbFragReceived` and `MissingFrag` keep their meaning of TS004. Both say less than they do there: a device that
//! holds `NbFrag` fragments may have too many of one block and too few of another. They bound from below what it needs,
//! and the sender has to go on in turn until the device says that nothing is missing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use reed_solomon_erasure::galois_8::{self, ReedSolomon};

use super::{BlockLayout, Ignored, Incomplete, MAX_N, ParameterError, Progress};

/// `FragAlgo` of this code in `FragSessionSetupReq`; reserved in TS004-2.0.0 §3.2.
pub const FRAG_ALGO: u8 = 7;
/// Most data shards of a block: leaves as many parity shards, so that half of all fragments may be lost.
pub const MAX_DATA_SHARDS: u16 = 128;
/// Data and parity shards of every block: the non-zero elements of the field.
pub const SHARDS: u16 = 255;

/// Blocks that `nb_frag` uncoded fragments are dealt to, at least 1: so many coded fragments are one turn.
pub fn blocks(nb_frag: u16) -> u16 {
    nb_frag.div_ceil(MAX_DATA_SHARDS).max(1)
}

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Block, from 0.
    pub block: u16,
    /// Shard within the block, 0..=254: first the data shards, then the parity shards.
    pub index: u16,
}

/// The blocks of a session and their matrices; encoders and decoders of the same `nb_frag` share it.
///
/// At most two matrices, since blocks differ by at most one data shard, of at most 64 KiB each.
#[derive(Debug)]
pub struct Code {
    nb_frag: u16,
    blocks: u16,
    /// By number of data shards.
    matrices: BTreeMap<u16, BlockMatrix>,
}

impl Code {
    /// The code for `nb_frag` uncoded fragments, 1..=16383.
    pub fn new(nb_frag: u16) -> Result<Self, ParameterError> {
        let outside = ParameterError::NbFrag(usize::from(nb_frag));
        if nb_frag == 0 || nb_frag > MAX_N {
            return Err(outside);
        }
        let blocks = blocks(nb_frag);
        let mut matrices = BTreeMap::new();
        // The smallest and the largest block; often they are alike.
        for data in [nb_frag / blocks, nb_frag.div_ceil(blocks)] {
            if let Entry::Vacant(entry) = matrices.entry(data) {
                entry.insert(BlockMatrix::new(data).ok_or(outside)?);
            }
        }
        Ok(Self {
            nb_frag,
            blocks,
            matrices,
        })
    }

    /// Uncoded fragments, 1..=16383.
    pub fn nb_frag(&self) -> u16 {
        self.nb_frag
    }

    /// Blocks, 1..=128.
    pub fn blocks(&self) -> u16 {
        self.blocks
    }

    /// Data shards of a block, 1..=128; 0 for a block that does not exist.
    pub fn data_shards(&self, block: u16) -> u16 {
        if block >= self.blocks {
            return 0;
        }
        (self.nb_frag - block).div_ceil(self.blocks)
    }

    /// The place of the fragment with counter `n` (as in DataFragment). `None` for 0 and above 16383.
    pub fn shard(&self, n: u16) -> Option<Shard> {
        let index = n.checked_sub(1).filter(|_| n <= MAX_N)?;
        let Some(coded) = index.checked_sub(self.nb_frag) else {
            return Some(Shard {
                block: index % self.blocks,
                index: index / self.blocks,
            });
        };
        let block = coded % self.blocks;
        let data = self.data_shards(block);
        Some(Shard {
            block,
            index: data + coded / self.blocks % (SHARDS - data),
        })
    }

    fn matrix(&self, block: u16) -> Option<&BlockMatrix> {
        self.matrices.get(&self.data_shards(block))
    }
}

/// The code of one block.
#[derive(Debug)]
struct BlockMatrix {
    codec: ReedSolomon,
    /// Row `j`: the coefficients of parity shard `j`.
    parity_rows: Vec<Vec<u8>>,
}

impl BlockMatrix {
    fn new(data: u16) -> Option<Self> {
        let (data, parity) = (usize::from(data), usize::from(SHARDS.checked_sub(data)?));
        let codec = ReedSolomon::new(data, parity).ok()?;
        // Encoding unit vectors yields the matrix itself, which the crate keeps to itself.
        let units: Vec<Vec<u8>> = (0..data)
            .map(|one| (0..data).map(|i| u8::from(i == one)).collect())
            .collect();
        let mut parity_rows = vec![vec![0; data]; parity];
        codec.encode_sep(&units, &mut parity_rows).ok()?;
        Some(Self { codec, parity_rows })
    }
}

/// A data block ready to be sent: uncoded fragments as they are, coded ones computed when asked for.
#[derive(Debug, Clone)]
pub struct Encoder {
    layout: BlockLayout,
    code: Arc<Code>,
    /// The data block with its padding.
    data: Vec<u8>,
}

impl Encoder {
    /// Copies `data`, at least one byte; `frag_size` is 1..=255 bytes.
    pub fn new(data: &[u8], frag_size: u8) -> Result<Self, ParameterError> {
        let layout = BlockLayout::new(data.len(), frag_size)?;
        let code = Arc::new(Code::new(layout.nb_frag)?);
        let mut data = data.to_vec();
        data.resize(usize::from(layout.nb_frag) * usize::from(frag_size), 0);
        Ok(Self { layout, code, data })
    }

    /// The cut of the block.
    pub fn layout(&self) -> BlockLayout {
        self.layout
    }

    /// The code, for decoders of the same `nb_frag`.
    pub fn code(&self) -> &Arc<Code> {
        &self.code
    }

    /// Writes the fragment with counter `n` (as in DataFragment: 1..=`nb_frag` uncoded, up to 16383 coded) into
    /// `fragment`, which must hold exactly `frag_size` bytes. Does not allocate.
    pub fn fragment(&self, n: u16, fragment: &mut [u8]) -> Result<(), ParameterError> {
        let size = usize::from(self.layout.frag_size);
        if fragment.len() != size {
            return Err(ParameterError::Buffer {
                expected: size,
                actual: fragment.len(),
            });
        }
        let outside = ParameterError::N { n, last: MAX_N };
        let shard = self.code.shard(n).ok_or(outside)?;
        let matrix = self.code.matrix(shard.block).ok_or(outside)?;
        let mut uncoded = self
            .data
            .chunks_exact(size)
            .skip(usize::from(shard.block))
            .step_by(usize::from(self.code.blocks));
        let Some(parity) = shard.index.checked_sub(self.code.data_shards(shard.block)) else {
            let bytes = uncoded.nth(usize::from(shard.index)).ok_or(outside)?;
            fragment.copy_from_slice(bytes);
            return Ok(());
        };
        let row = matrix.parity_rows.get(usize::from(parity)).ok_or(outside)?;
        fragment.fill(0);
        for (coefficient, bytes) in row.iter().zip(uncoded) {
            galois_8::mul_slice_xor(*coefficient, bytes, fragment);
        }
        Ok(())
    }
}

/// Puts a data block together from fragments in any order. Holds no more than the data block and one block's shards.
#[derive(Debug, Clone)]
pub struct Decoder {
    code: Arc<Code>,
    frag_size: u8,
    blocks: Vec<BlockShards>,
    received: u16,
    /// Uncoded fragments received as such.
    uncoded: u16,
}

/// What is there of one block: at most as many shards as it has data.
#[derive(Debug, Clone, Default)]
struct BlockShards {
    /// By index; once the block is solved, its data shards.
    shards: BTreeMap<u16, Vec<u8>>,
    solved: bool,
}

impl Decoder {
    /// A decoder over `code`; `frag_size` is 1..=255 bytes.
    pub fn new(code: Arc<Code>, frag_size: u8) -> Result<Self, ParameterError> {
        BlockLayout::from_parts(code.nb_frag, frag_size, 0)?;
        let blocks = vec![BlockShards::default(); usize::from(code.blocks)];
        Ok(Self {
            code,
            frag_size,
            blocks,
            received: 0,
            uncoded: 0,
        })
    }

    /// Takes in the fragment with counter `n` (as in DataFragment) and exactly `frag_size` bytes. Of
    /// [`Progress::Incomplete`], `missing` is [`Decoder::missing`].
    pub fn push(&mut self, n: u16, fragment: &[u8]) -> Progress {
        if fragment.len() != usize::from(self.frag_size) {
            return Progress::Ignored(Ignored::Size);
        }
        let place = self.code.shard(n).and_then(|shard| {
            let block = self.blocks.get_mut(usize::from(shard.block))?;
            Some((shard, block, self.code.matrix(shard.block)?))
        });
        let Some((shard, block, matrix)) = place else {
            return Progress::Ignored(Ignored::Counter);
        };
        let is_coded = n > self.code.nb_frag;
        if block.solved || block.shards.contains_key(&shard.index) {
            let complete = self.is_complete();
            self.received = self.received.saturating_add(u16::from(!complete));
            return Progress::Ignored(match (complete, is_coded) {
                (true, _) => Ignored::AlreadyComplete,
                (false, true) => Ignored::Dependent,
                (false, false) => Ignored::Repeated,
            });
        }
        self.received = self.received.saturating_add(1);
        self.uncoded += u16::from(!is_coded);
        block.shards.insert(shard.index, fragment.to_vec());
        block.solve(self.code.data_shards(shard.block), matrix);
        match self.missing() {
            0 => Progress::Complete,
            missing => Progress::Incomplete { missing },
        }
    }

    /// Whether every fragment is known.
    pub fn is_complete(&self) -> bool {
        self.blocks.iter().all(|block| block.solved)
    }

    /// Fragments still needed if each falls into a block that lacks one, so the fewest; 0 when complete.
    pub fn missing(&self) -> u16 {
        self.lacking().sum()
    }

    /// Coded fragments, sent in turn and all received, after which the block is complete for certain.
    pub fn missing_in_turn(&self) -> u16 {
        self.lacking()
            .max()
            .unwrap_or(0)
            .saturating_mul(self.code.blocks)
    }

    /// Fragments with a valid counter seen until completion, useless ones included.
    pub fn received(&self) -> u16 {
        self.received
    }

    /// Uncoded fragments not received as such, whether solved since or not.
    pub fn missing_uncoded(&self) -> u16 {
        self.code.nb_frag - self.uncoded
    }

    /// The data block without its last `padding` bytes.
    pub fn into_data(self, padding: u8) -> Result<Vec<u8>, Incomplete> {
        if !self.is_complete() {
            return Err(Incomplete {
                missing: self.missing(),
            });
        }
        let mut data =
            Vec::with_capacity(usize::from(self.code.nb_frag) * usize::from(self.frag_size));
        for n in 1..=self.code.nb_frag {
            let bytes = self.code.shard(n).and_then(|shard| {
                let block = self.blocks.get(usize::from(shard.block))?;
                block.shards.get(&shard.index)
            });
            data.extend_from_slice(bytes.map_or(&[], Vec::as_slice));
        }
        data.truncate(data.len().saturating_sub(usize::from(padding)));
        Ok(data)
    }

    /// Shards that each block lacks.
    fn lacking(&self) -> impl Iterator<Item = u16> {
        (0..self.code.blocks)
            .zip(&self.blocks)
            .map(|(number, block)| {
                let held = u16::try_from(block.shards.len()).unwrap_or(u16::MAX);
                self.code.data_shards(number).saturating_sub(held)
            })
    }
}

impl BlockShards {
    /// Turns `data` shards of any kind into the data shards, once so many are there.
    fn solve(&mut self, data: u16, matrix: &BlockMatrix) {
        if self.shards.len() < usize::from(data) {
            return;
        }
        self.solved = true;
        if self.shards.keys().all(|index| *index < data) {
            return;
        }
        let mut shards: Vec<Option<Vec<u8>>> =
            (0..SHARDS).map(|i| self.shards.remove(&i)).collect();
        matrix
            .codec
            .reconstruct_data(&mut shards)
            .expect("as many shards of one size as the block has data");
        let solved = (0..data).zip(shards);
        self.shards = solved
            .filter_map(|(index, shard)| Some((index, shard?)))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
            .collect()
    }

    fn fragment(encoder: &Encoder, n: u16) -> Vec<u8> {
        let mut fragment = vec![0; usize::from(encoder.layout().frag_size)];
        encoder.fragment(n, &mut fragment).unwrap();
        fragment
    }

    /// x^8 + x^4 + x^3 + x^2 + 1, bit by bit.
    fn times(mut a: u8, mut b: u8) -> u8 {
        let mut product = 0;
        while b != 0 {
            product ^= a * (b & 1);
            a = (a << 1) ^ (0x1d * (a >> 7));
            b >>= 1;
        }
        product
    }

    /// `r^0, r^1, ...`
    fn powers(r: u8, count: u16) -> Vec<u8> {
        let next = |power: &u8| Some(times(*power, r));
        std::iter::successors(Some(1), next)
            .take(usize::from(count))
            .collect()
    }

    /// The matrix of the description: coefficients times the first `k` rows of `V` are the other rows of `V`.
    #[test]
    fn parity_is_that_of_the_description() {
        for nb_frag in [1, 2, 7, 128] {
            let code = Code::new(nb_frag).unwrap();
            let rows = &code.matrix(0).unwrap().parity_rows;
            assert_eq!(rows.len(), usize::from(SHARDS - nb_frag));
            for (r, row) in (nb_frag..).zip(rows) {
                let mut product = vec![0; usize::from(nb_frag)];
                for (top, coefficient) in (0..).zip(row) {
                    for (sum, power) in product.iter_mut().zip(powers(top, nb_frag)) {
                        *sum ^= times(*coefficient, power);
                    }
                }
                let r = u8::try_from(r).unwrap();
                assert_eq!(product, powers(r, nb_frag), "nb_frag {nb_frag} row {r}");
            }
        }
    }

    #[test]
    fn coded_fragments_are_sums_over_their_block() {
        let encoder = Encoder::new(&data(300 * 5), 5).unwrap();
        let code = encoder.code();
        assert_eq!(code.blocks(), 3);
        for coded in [1, 2, 3, 4, 155 * 3, 155 * 3 + 2] {
            let shard = code.shard(300 + coded).unwrap();
            let block = (coded - 1) % 3;
            let parity = (coded - 1) / 3 % 155;
            assert_eq!((shard.block, shard.index), (block, 100 + parity));
            let row = &code.matrix(block).unwrap().parity_rows[usize::from(parity)];
            let mut sum = vec![0; 5];
            for (i, coefficient) in (0..).zip(row) {
                for (sum, byte) in sum.iter_mut().zip(fragment(&encoder, 3 * i + block + 1)) {
                    *sum ^= times(*coefficient, byte);
                }
            }
            assert_eq!(fragment(&encoder, 300 + coded), sum, "coded {coded}");
        }
    }

    #[test]
    fn every_shard_of_every_block_occurs_once_before_they_repeat() {
        for nb_frag in [1, 2, 127, 128, 129, 255, 256, 257, 1000, 5000] {
            let code = Code::new(nb_frag).unwrap();
            let mut places: Vec<(u16, u16)> = (1..=MAX_N.min(nb_frag + 127 * code.blocks()))
                .map(|n| code.shard(n).unwrap())
                .map(|shard| (shard.block, shard.index))
                .collect();
            let count = places.len();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), count, "nb_frag {nb_frag}");
            assert!(
                places
                    .iter()
                    .all(|(block, index)| *block < code.blocks() && *index < SHARDS)
            );
            let data: u16 = (0..code.blocks()).map(|b| code.data_shards(b)).sum();
            assert_eq!(data, nb_frag);
            assert!(
                (0..code.blocks()).all(|b| (1..=MAX_DATA_SHARDS).contains(&code.data_shards(b)))
            );
        }
    }

    #[test]
    fn bounds_are_named() {
        assert_eq!(Code::new(0).unwrap_err(), ParameterError::NbFrag(0));
        assert_eq!(
            Code::new(16_384).unwrap_err(),
            ParameterError::NbFrag(16_384)
        );
        assert_eq!(Encoder::new(&[], 5).unwrap_err(), ParameterError::Length);
        assert_eq!(Encoder::new(&[1], 0).unwrap_err(), ParameterError::FragSize);
        let encoder = Encoder::new(&[1, 2, 3], 2).unwrap();
        let n = |n| ParameterError::N { n, last: MAX_N };
        assert_eq!(encoder.fragment(0, &mut [0; 2]), Err(n(0)));
        assert_eq!(encoder.fragment(16_384, &mut [0; 2]), Err(n(16_384)));
        assert!(encoder.fragment(1, &mut [0; 3]).is_err());
        let code = Arc::clone(encoder.code());
        assert!(Decoder::new(code, 0).is_err());
        assert_eq!(encoder.code().data_shards(1), 0);
        assert_eq!(Code::new(MAX_N).unwrap().blocks(), 128);
    }

    #[test]
    fn useless_fragments_change_nothing() {
        let data = data(11);
        let encoder = Encoder::new(&data, 4).unwrap();
        let mut decoder = Decoder::new(Arc::clone(encoder.code()), 4).unwrap();
        let mut push = |n: u16| decoder.push(n, &fragment(&encoder, n));
        assert_eq!(push(5), Progress::Incomplete { missing: 2 });
        assert_eq!(push(5), Progress::Ignored(Ignored::Dependent));
        assert_eq!(push(2), Progress::Incomplete { missing: 1 });
        assert_eq!(push(2), Progress::Ignored(Ignored::Repeated));
        assert_eq!(push(9), Progress::Complete);
        assert_eq!(push(1), Progress::Ignored(Ignored::AlreadyComplete));
        assert_eq!(push(10), Progress::Ignored(Ignored::AlreadyComplete));
        assert_eq!((decoder.received(), decoder.missing_uncoded()), (5, 2));
        assert_eq!(
            decoder.push(0, &[0; 4]),
            Progress::Ignored(Ignored::Counter)
        );
        assert_eq!(decoder.push(1, &[0; 3]), Progress::Ignored(Ignored::Size));
        assert_eq!(decoder.into_data(1).unwrap(), data);
    }

    #[test]
    fn nothing_is_given_out_before_every_block_is_whole() {
        let encoder = Encoder::new(&data(129 * 2), 2).unwrap();
        let mut decoder = Decoder::new(Arc::clone(encoder.code()), 2).unwrap();
        // All of block 0 (65 shards), 62 of the other block's 64, and more of block 0 than of use.
        for n in (1..=125).chain([127, 129, 130, 132]) {
            decoder.push(n, &fragment(&encoder, n));
        }
        assert_eq!(decoder.received(), 129);
        assert_eq!((decoder.missing(), decoder.missing_in_turn()), (2, 4));
        assert_eq!(decoder.clone().into_data(0), Err(Incomplete { missing: 2 }));
        for n in [131, 133] {
            decoder.push(n, &fragment(&encoder, n));
        }
        assert!(decoder.is_complete());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Any k shards of each block, in any order, give the same bytes, and fewer give none.
        #[test]
        fn any_shards_that_suffice_decode(
            length in 1_usize..1200,
            frag_size in 1_u8..8,
            order in proptest::collection::vec(any::<u32>(), 4000),
        ) {
            let data = data(length);
            let encoder = Encoder::new(&data, frag_size).unwrap();
            let code = encoder.code();
            let last = code.nb_frag() + 127 * code.blocks();
            let mut sent: Vec<u16> = (1..=last.min(4000)).collect();
            sent.sort_by_key(|n| order[usize::from(*n - 1)]);
            let mut decoder = Decoder::new(Arc::clone(code), frag_size).unwrap();
            let mut held = vec![0; usize::from(code.blocks())];
            for n in sent {
                let shard = code.shard(n).unwrap();
                held[usize::from(shard.block)] += 1;
                let whole = (0..).zip(&held).all(|(block, held)| *held >= code.data_shards(block));
                let progress = decoder.push(n, &fragment(&encoder, n));
                prop_assert_eq!(decoder.is_complete(), whole);
                if whole {
                    prop_assert_eq!(progress, Progress::Complete);
                    break;
                }
            }
            prop_assert_eq!(decoder.into_data(encoder.layout().padding).unwrap(), data);
        }

        /// Whatever comes, nothing panics, and what comes out has the right length.
        #[test]
        fn garbage_does_no_harm(
            nb_frag in 1_u16..300,
            frag_size in 1_u8..4,
            fragments in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..5)), 0..800),
            padding in any::<u8>(),
        ) {
            let code = Arc::new(Code::new(nb_frag).unwrap());
            let mut decoder = Decoder::new(code, frag_size).unwrap();
            for (n, bytes) in fragments {
                decoder.push(n % 700, &bytes);
                decoder.push(n, &bytes);
            }
            let whole = usize::from(nb_frag) * usize::from(frag_size);
            if let Ok(data) = decoder.into_data(padding) {
                prop_assert_eq!(data.len(), whole.saturating_sub(usize::from(padding)));
            }
        }
    }
}
