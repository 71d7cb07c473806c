//! The decoder of a fragmentation session, by its `FragAlgo`: the code of TS004 (0), and, on devices built for it, the
//! Reed-Solomon code that `docs/coding.md` describes (7).

use std::sync::Arc;

use lorawan_fuota::erasure::{CodeVersion, Decoder, ParameterError, Progress, Rules, reed_solomon};
use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::fragmentation::FragSessionSetupReq;

use super::config::FragmentationLimits;

/// A block that is being put together.
#[derive(Clone, Debug)]
pub(super) enum Decoding {
    Ts004(Decoder),
    ReedSolomon(reed_solomon::Decoder),
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
        Decoder::new(code, nb_frag, frag_size, Rules::Device, limits.lost_max).map(Self::Ts004)
    }

    pub(super) fn push(&mut self, n: u16, fragment: &[u8]) -> Progress {
        match self {
            Self::Ts004(decoder) => decoder.push(n, fragment),
            Self::ReedSolomon(decoder) => decoder.push(n, fragment),
        }
    }

    /// Fragments of any kind so far.
    pub(super) fn received(&self) -> u16 {
        match self {
            Self::Ts004(decoder) => decoder.received(),
            Self::ReedSolomon(decoder) => decoder.received(),
        }
    }

    /// Independent fragments still needed.
    pub(super) fn missing(&self) -> u16 {
        match self {
            Self::Ts004(decoder) => decoder.rank_deficit(),
            Self::ReedSolomon(decoder) => decoder.missing(),
        }
    }

    /// Uncoded fragments that did not come.
    pub(super) fn missing_uncoded(&self) -> u16 {
        match self {
            Self::Ts004(decoder) => decoder.missing_uncoded(),
            Self::ReedSolomon(decoder) => decoder.missing_uncoded(),
        }
    }

    /// The data block, if it is whole.
    pub(super) fn into_data(self, padding: u8) -> Option<Vec<u8>> {
        match self {
            Self::Ts004(decoder) => decoder.into_data(padding).ok(),
            Self::ReedSolomon(decoder) => decoder.into_data(padding).ok(),
        }
    }
}
