//! The decoder of a fragmentation session, by its `FragAlgo`: the code of TS004 (0), and, on devices built for it, the
//! Reed-Solomon code that `docs/coding.md` describes (7).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lorawan_fuota::erasure::{
    BlockLayout, CodeVersion, Decoder, Ignored, Matrix, ParameterError, Progress, RankDecoder,
    Rules, reed_solomon,
};
use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::fragmentation::FragSessionSetupReq;

use super::config::{FragmentationLimits, Payloads};

/// A block that is being put together.
#[derive(Clone, Debug)]
pub(super) enum Decoding {
    Ts004(Decoder),
    ReedSolomon(reed_solomon::Decoder),
    /// The code of TS004 without its payloads, which have so many bytes each.
    Counted(RankDecoder, u8),
}

/// A block that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// Nobody kept them; there are so many.
    Counted(usize),
}

/// A block that is whole, and what its session said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Completed {
    pub(super) descriptor: [u8; 4],
    pub(super) block: Block,
}

impl Block {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Counted(length) => *length,
        }
    }
}

/// The rows of a code, which do not depend on who asks: one cache for all devices that use them at a time.
type Matrices = BTreeMap<(bool, u16), Weak<Matrix>>;
static MATRICES: Mutex<Matrices> = Mutex::new(BTreeMap::new());

fn matrix(version: CodeVersion, nb_frag: u16) -> Result<Arc<Matrix>, ParameterError> {
    let mut known = MATRICES.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (version == CodeVersion::V2, nb_frag);
    if let Some(matrix) = known.get(&key).and_then(Weak::upgrade) {
        return Ok(matrix);
    }
    let matrix = Arc::new(Matrix::new(version, nb_frag)?);
    known.retain(|_, matrix| matrix.strong_count() > 0);
    known.insert(key, Arc::downgrade(&matrix));
    Ok(matrix)
}

/// Whether a device with these limits knows the code.
pub(super) fn knows(limits: &FragmentationLimits, frag_algo: u8) -> bool {
    frag_algo == 0 || (frag_algo == reed_solomon::FRAG_ALGO && limits.reed_solomon)
}

impl Decoding {
    pub(super) fn new(
        version: PackageVersion,
        setup: &FragSessionSetupReq,
        limits: &FragmentationLimits,
        payloads: Payloads,
    ) -> Result<Self, ParameterError> {
        if setup.frag_algo == reed_solomon::FRAG_ALGO {
            let code = Arc::new(reed_solomon::Code::new(setup.nb_frag)?);
            return reed_solomon::Decoder::new(code, setup.frag_size).map(Self::ReedSolomon);
        }
        let code = match version {
            PackageVersion::V1 => CodeVersion::V1,
            PackageVersion::V2 => CodeVersion::V2,
        };
        let (nb_frag, frag_size) = (setup.nb_frag, setup.frag_size);
        let (rules, most) = (Rules::Device, limits.lost_max);
        let matrix = matrix(code, nb_frag)?;
        if payloads == Payloads::Kept {
            return Decoder::with_matrix(matrix, frag_size, rules, most).map(Self::Ts004);
        }
        BlockLayout::from_parts(nb_frag, frag_size, 0)?;
        Ok(Self::Counted(
            RankDecoder::new(matrix, rules, most),
            frag_size,
        ))
    }

    pub(super) fn push(&mut self, n: u16, fragment: &[u8]) -> Progress {
        match self {
            Self::Ts004(decoder) => decoder.push(n, fragment),
            Self::ReedSolomon(decoder) => decoder.push(n, fragment),
            Self::Counted(_, frag_size) if fragment.len() != usize::from(*frag_size) => {
                Progress::Ignored(Ignored::Size)
            }
            Self::Counted(decoder, _) => decoder.push(n),
        }
    }

    /// Fragments of any kind so far.
    pub(super) fn received(&self) -> u16 {
        match self {
            Self::Ts004(decoder) => decoder.received(),
            Self::ReedSolomon(decoder) => decoder.received(),
            Self::Counted(decoder, _) => decoder.received(),
        }
    }

    /// Independent fragments still needed.
    pub(super) fn missing(&self) -> u16 {
        match self {
            Self::Ts004(decoder) => decoder.rank_deficit(),
            Self::ReedSolomon(decoder) => decoder.missing(),
            Self::Counted(decoder, _) => decoder.rank_deficit(),
        }
    }

    /// Uncoded fragments that did not come.
    pub(super) fn missing_uncoded(&self) -> u16 {
        match self {
            Self::Ts004(decoder) => decoder.missing_uncoded(),
            Self::ReedSolomon(decoder) => decoder.missing_uncoded(),
            Self::Counted(decoder, _) => decoder.missing_uncoded(),
        }
    }

    /// The data block without its padding, if it is whole.
    pub(super) fn into_block(self, setup: &FragSessionSetupReq) -> Option<Block> {
        let padding = setup.padding;
        match self {
            Self::Ts004(decoder) => decoder.into_data(padding).ok().map(Block::Bytes),
            Self::ReedSolomon(decoder) => decoder.into_data(padding).ok().map(Block::Bytes),
            Self::Counted(decoder, frag_size) => {
                let length = usize::from(setup.nb_frag) * usize::from(frag_size);
                let length = length.saturating_sub(usize::from(padding));
                decoder.is_complete().then_some(Block::Counted(length))
            }
        }
    }
}
