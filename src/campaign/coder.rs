//! What a session sends: its fragments by the code the devices were told of, and the order of the coded ones.

use crate::erasure::{CodeVersion, Encoder, chosen_rows, reed_solomon};
use crate::lorawan::PackageVersion;
use crate::record::{BlockParameters, FragAlgo};

/// The encoder of a session.
pub(super) enum Coder {
    /// TS004's code.
    Ts004 {
        encoder: Encoder,
        /// Which coded fragment is the k-th to send.
        rows: Vec<u16>,
    },
    /// Reed-Solomon over interleaved blocks: coded fragments go out in order, one block after the other.
    ReedSolomon {
        encoder: reed_solomon::Encoder,
        /// Most coded fragments.
        budget: u16,
    },
}

impl Coder {
    /// The coder of a block with these `data`, for at most `budget` coded fragments; `None` if the parameters cannot
    /// be.
    pub(super) fn new(block: &BlockParameters, data: &[u8], budget: u16) -> Option<Self> {
        match block.frag_algo {
            FragAlgo::Ts004 => {
                let version = match block.version {
                    PackageVersion::V1 => CodeVersion::V1,
                    PackageVersion::V2 => CodeVersion::V2,
                };
                let encoder = Encoder::new(version, data, block.frag_size).ok()?;
                let rows = chosen_rows(version, block.nb_frag, budget);
                Some(Self::Ts004 { encoder, rows })
            }
            FragAlgo::ReedSolomon => {
                let encoder = reed_solomon::Encoder::new(data, block.frag_size).ok()?;
                Some(Self::ReedSolomon { encoder, budget })
            }
        }
    }

    /// Writes the fragment with counter `n` into `fragment`, which has `frag_size` bytes; `None` if there is none.
    pub(super) fn fragment(&self, n: u16, fragment: &mut [u8]) -> Option<()> {
        match self {
            Self::Ts004 { encoder, .. } => encoder.fragment(n, fragment).ok(),
            Self::ReedSolomon { encoder, .. } => encoder.fragment(n, fragment).ok(),
        }
    }

    /// The rows of TS004's code in the order they are sent in.
    pub(super) fn rows(&self) -> &[u16] {
        match self {
            Self::Ts004 { rows, .. } => rows,
            Self::ReedSolomon { .. } => &[],
        }
    }

    /// `N` of the k-th coded fragment, k from 0.
    pub(super) fn coded_n(&self, k: u16) -> Option<u16> {
        match self {
            Self::Ts004 { encoder, rows } => {
                let row = rows.get(usize::from(k))?;
                Some(encoder.layout().nb_frag + row)
            }
            Self::ReedSolomon { encoder, budget } => {
                (k < *budget).then(|| encoder.layout().nb_frag + 1 + k)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(frag_algo: FragAlgo) -> BlockParameters {
        BlockParameters {
            version: PackageVersion::V2,
            frag_algo,
            frag_index: 0,
            nb_frag: 300,
            frag_size: 4,
            padding: 0,
            descriptor: [0; 4],
            block_ack_delay: 0,
        }
    }

    #[test]
    fn the_number_on_the_wire_is_that_of_the_code() {
        assert_eq!(FragAlgo::Ts004.number(), 0);
        assert_eq!(FragAlgo::ReedSolomon.number(), reed_solomon::FRAG_ALGO);
    }

    #[test]
    fn both_codes_send_their_own_fragments_within_the_budget() {
        let data: Vec<u8> = (0..1200u16).map(|i| i.to_le_bytes()[0]).collect();
        let mut coded = Vec::new();
        for frag_algo in [FragAlgo::Ts004, FragAlgo::ReedSolomon] {
            let coder = Coder::new(&block(frag_algo), &data, 7).unwrap();
            let mut fragment = [0; 4];
            coder.fragment(300, &mut fragment).unwrap();
            assert_eq!(fragment, data[1196..]);
            assert!((0..7).all(|k| coder.coded_n(k).is_some_and(|n| n > 300)));
            assert_eq!(coder.coded_n(7), None);
            coder.fragment(301, &mut fragment).unwrap();
            coded.push(fragment);
        }
        assert_ne!(coded[0], coded[1]);
    }

    #[test]
    fn blocks_are_helped_in_turn() {
        let data = vec![0; 1200];
        let coder = Coder::new(&block(FragAlgo::ReedSolomon), &data, 100).unwrap();
        let code = reed_solomon::Code::new(300).unwrap();
        for k in 0..100 {
            let shard = code.shard(coder.coded_n(k).unwrap()).unwrap();
            assert_eq!(shard.block, k % code.blocks());
        }
    }

    #[test]
    fn parameters_that_cannot_be_are_no_coder() {
        for frag_algo in [FragAlgo::Ts004, FragAlgo::ReedSolomon] {
            assert!(Coder::new(&block(frag_algo), &[], 7).is_none());
        }
    }
}
