//! Delta images: how a device makes its next image from the one it runs, in far fewer bytes than the image has.
//!
//! The patch is a sequential patch of detools, which a device applies with a small window of memory; `container` wraps
//! it for the air. [`make`] applies what it has made before it gives it away. `docs/delta.md` has the format, the
//! figures and what a boot loader does. Base and target are images as they are stored: a delta for other bytes that
//! mean the same is refused.

mod container;
mod crle;
mod heatshrink;
mod matching;
mod sequential;
mod suffix_array;

pub use container::{DeltaHeader, FORMAT, HEADER_LEN, IMAGE_LEN_MAX, KIND_SEQUENTIAL, MAGIC};
pub use heatshrink::Heatshrink;
pub use sequential::{Compression, compression};

use super::image::sha256;
use super::mcuboot::McubootImage;
use matching::{Candidates, Costs};

/// What is wrong with a delta, or with the images it is to be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// The bytes do not open with the magic.
    #[error("delta magic is absent")]
    Magic,
    /// Made in another version of the format.
    #[error("delta format {0} is not known")]
    Format(u8),
    /// The patch is of another kind.
    #[error("delta kind {0} is not known")]
    Kind(u8),
    /// The header states another length for itself.
    #[error("delta header has another length")]
    HeaderLength,
    /// The target has no bytes.
    #[error("delta target is empty")]
    Empty,
    /// An image or the patch has more bytes than allowed.
    #[error("image is longer than {IMAGE_LEN_MAX} bytes")]
    TooLong,
    /// Bytes are missing at the end.
    #[error("delta is truncated")]
    Truncated,
    /// There are bytes after the end.
    #[error("delta has bytes after its end")]
    Trailing,
    /// The image at hand is not the one the delta is for.
    #[error("base is another image than the delta is for")]
    OtherBase,
    /// A patch of detools, but not a sequential one.
    #[error("patch type {0} is not sequential")]
    PatchType(u8),
    /// A compression that needs more memory than a device has, or none at all.
    #[error("patch compression {0} is not known")]
    Compression(u8),
    /// Window and lookahead of heatshrink are out of range or do not go together.
    #[error("heatshrink window and lookahead do not go together")]
    Window,
    /// A segment of another kind in run-length encoding.
    #[error("patch segment kind {0} is not known")]
    Segment(u8),
    /// The patch relies on knowledge about the machine's code, which C decoders do not have.
    #[error("patch has a data format")]
    DataFormat,
    /// A size is negative or too large.
    #[error("size in the patch is out of range")]
    Size,
    /// The patch makes more bytes than the target has, or states another length.
    #[error("patch and target length contradict each other")]
    TargetLength,
    /// The patch reads before or behind the base.
    #[error("patch reads outside the base")]
    OutsideBase,
    /// The patch makes another image than the delta says.
    #[error("result is another image than the delta is for")]
    OtherTarget,
    /// What was made does not give the target back; a defect of this crate.
    #[error("delta does not give its target back")]
    Unverified,
}

/// How a delta is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaOptions {
    /// The version of the target as TS006 reports it.
    pub target_version: u32,
    /// What the device's decoder is built for; `None` where it knows heatshrink not at all.
    pub heatshrink: Option<Heatshrink>,
    /// Whether the device's decoder knows run-length encoding, which is smaller where little has changed.
    pub crle: bool,
}

impl Default for DeltaOptions {
    /// Whatever the C decoder of detools takes as it comes.
    fn default() -> Self {
        Self {
            target_version: 0,
            heatshrink: Some(Heatshrink::DEFAULT),
            crle: true,
        }
    }
}

/// Makes the smallest delta found that the options allow.
///
/// Takes up to 100 bytes of memory per byte of the images, and for 4 MiB of the worst that was tried half a minute.
///
/// # Errors
/// Images that are empty (target) or longer than [`IMAGE_LEN_MAX`].
pub fn make(base: &[u8], target: &[u8], options: &DeltaOptions) -> Result<Vec<u8>, DeltaError> {
    let header = DeltaHeader::of(base, target, options.target_version, &[])?;
    let patch = smallest_patch(base, target, header.target_len, options)?;
    let header = DeltaHeader {
        patch_len: u32::try_from(patch.len()).map_err(|_| DeltaError::TooLong)?,
        ..header
    };
    let delta = [&header.to_bytes()[..], &patch].concat();
    match apply(base, &delta) {
        Ok(made) if made == target => Ok(delta),
        _ => Err(DeltaError::Unverified),
    }
}

/// Makes the target of `delta` from `base`.
///
/// # Errors
/// Everything that is wrong with `delta`; [`DeltaError::OtherBase`] before anything of the patch is read.
pub fn apply(base: &[u8], delta: &[u8]) -> Result<Vec<u8>, DeltaError> {
    let header = DeltaHeader::parse(delta)?;
    header.check_base(base)?;
    let target = sequential::apply(base, &delta[HEADER_LEN..], header.target_len)?;
    if sha256(&target) == header.target_sha256 {
        Ok(target)
    } else {
        Err(DeltaError::OtherTarget)
    }
}

/// The patch in a delta: what the decoder of detools reads.
///
/// # Errors
/// Everything that is wrong with the header.
pub fn patch(delta: &[u8]) -> Result<&[u8], DeltaError> {
    DeltaHeader::parse(delta).map(|_| &delta[HEADER_LEN..])
}

/// What of an image file is an image on a device, base or target of a delta: of an MCUboot image everything from header
/// to last TLV, without the padding of its slot; of anything else all bytes.
pub fn image_as_stored(bytes: &[u8]) -> &[u8] {
    let image = McubootImage::parse(bytes).ok();
    image
        .and_then(|image| bytes.get(..image.len()))
        .unwrap_or(bytes)
}

fn smallest_patch(
    base: &[u8],
    target: &[u8],
    target_len: u32,
    options: &DeltaOptions,
) -> Result<Vec<u8>, DeltaError> {
    let mut tries = Vec::new();
    if let Some(settings) = options.heatshrink {
        let compression = Compression::Heatshrink(settings);
        tries.extend(Costs::HEATSHRINK.map(|costs| (costs, compression)));
    }
    if options.crle {
        tries.push((Costs::CRLE, Compression::Crle));
    }
    if tries.is_empty() {
        tries.push((Costs::CRLE, Compression::None));
    }
    let candidates = Candidates::find(base, target);
    let mut best: Option<Vec<u8>> = None;
    for (costs, compression) in tries {
        let steps = candidates.best_path(&costs);
        let rounds = sequential::rounds(base, target, &steps).ok_or(DeltaError::Unverified)?;
        let patch = sequential::write(target_len, &rounds, compression);
        if best.as_ref().is_none_or(|best| patch.len() < best.len()) {
            best = Some(patch);
        }
    }
    best.ok_or(DeltaError::Unverified)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: &[u8] = include_bytes!("../../../tests/vectors/delta_base.bin");
    const TARGET: &[u8] = include_bytes!("../../../tests/vectors/delta_target.bin");
    /// Patches from [`BASE`] to [`TARGET`] that detools made.
    const FOREIGN: [&[u8]; 4] = [
        include_bytes!("../../../tests/vectors/delta_none.patch"),
        include_bytes!("../../../tests/vectors/delta_crle.patch"),
        include_bytes!("../../../tests/vectors/delta_heatshrink.patch"),
        include_bytes!("../../../tests/vectors/delta_heatshrink_10_5.patch"),
    ];

    fn options(number: u8) -> DeltaOptions {
        let settings = Heatshrink::new(8 + number % 4, 4 + number % 3);
        DeltaOptions {
            target_version: number.into(),
            heatshrink: settings.filter(|_| number & 1 == 0),
            crle: number & 2 == 0,
        }
    }

    fn wrapped(base: &[u8], target: &[u8], patch: &[u8]) -> Vec<u8> {
        let header = DeltaHeader::of(base, target, 0, patch).unwrap();
        [&header.to_bytes()[..], patch].concat()
    }

    #[test]
    fn patches_of_detools_are_applied() {
        for patch in FOREIGN {
            assert!(apply(BASE, &wrapped(BASE, TARGET, patch)).as_deref() == Ok(TARGET));
        }
    }

    #[test]
    fn patches_are_no_longer_than_those_of_detools() {
        let ours = |heatshrink, crle| {
            let options = DeltaOptions {
                heatshrink,
                crle,
                ..DeltaOptions::default()
            };
            make(BASE, TARGET, &options).unwrap().len() - HEADER_LEN
        };
        assert!(ours(None, true) <= FOREIGN[1].len());
        assert!(ours(Some(Heatshrink::DEFAULT), false) <= FOREIGN[2].len());
        assert!(ours(Heatshrink::new(10, 5), false) <= FOREIGN[3].len());
    }

    #[test]
    fn the_base_is_checked_before_the_patch_is_read() {
        let mut delta = make(BASE, TARGET, &DeltaOptions::default()).unwrap();
        delta[HEADER_LEN] = 0xff;
        assert_eq!(apply(TARGET, &delta), Err(DeltaError::OtherBase));
        assert_eq!(apply(&BASE[1..], &delta), Err(DeltaError::OtherBase));
        assert_eq!(apply(BASE, &delta), Err(DeltaError::PatchType(15)));
    }

    #[test]
    fn every_flipped_bit_is_refused_or_changes_nothing() {
        let (base, target) = (&BASE[..1500], &TARGET[..1400]);
        for number in 0..4 {
            let delta = make(base, target, &options(number)).unwrap();
            let mut harmless = 0;
            for bit in 0..delta.len() * 8 {
                let mut flipped = delta.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                match apply(base, &flipped) {
                    Ok(made) => {
                        assert!(made == target, "bit {bit}");
                        harmless += 1;
                    }
                    Err(error) => assert_ne!(error, DeltaError::Unverified),
                }
            }
            // The version, and repetitions that can be found in two places.
            assert!((32..delta.len()).contains(&harmless), "{harmless}");
        }
    }

    #[test]
    fn every_missing_end_is_refused() {
        let delta = make(BASE, TARGET, &DeltaOptions::default()).unwrap();
        for len in (0..delta.len()).step_by(7) {
            assert!(apply(BASE, &delta[..len]).is_err());
        }
        let patch = patch(&delta).unwrap();
        for len in 0..patch.len() {
            let cut = sequential::apply(BASE, &patch[..len], 8192);
            assert_eq!(cut, Err(DeltaError::Truncated), "{len}");
        }
        let longer = [patch, &[0]].concat();
        assert_eq!(
            sequential::apply(BASE, &longer, 8192),
            Err(DeltaError::Trailing)
        );
    }

    #[test]
    fn a_small_change_in_a_large_image_is_a_small_delta() {
        let base: Vec<u8> = TARGET
            .iter()
            .cycle()
            .copied()
            .take(IMAGE_LEN_MAX as usize)
            .collect();
        let mut target = base.clone();
        target[3_000_000] ^= 1;
        let delta = make(&base, &target, &DeltaOptions::default()).unwrap();
        assert!(delta.len() < HEADER_LEN + 40, "{}", delta.len());
        let longer = [&base[..], &[0]].concat();
        assert_eq!(
            make(&longer, &target, &DeltaOptions::default()),
            Err(DeltaError::TooLong)
        );
        assert_eq!(
            make(&base, b"", &DeltaOptions::default()),
            Err(DeltaError::Empty)
        );
    }

    #[test]
    fn a_target_may_begin_in_the_middle_of_its_base() {
        let target = &BASE[4000..5000];
        let delta = make(BASE, target, &DeltaOptions::default()).unwrap();
        assert!(apply(BASE, &delta).as_deref() == Ok(target));
        assert!(delta.len() < HEADER_LEN + 40, "{}", delta.len());
    }

    #[test]
    fn slot_padding_is_no_part_of_an_image() {
        let image = include_bytes!("../../../tests/vectors/imgtool_ed25519.bin");
        let padded = [&image[..], &[0xff; 300]].concat();
        assert!(image_as_stored(&padded) == image);
        assert_eq!(image_as_stored(b"raw"), b"raw");
    }

    proptest! {
        #[test]
        fn any_pair_comes_back(
            base in prop::collection::vec(0..6u8, 0..800),
            cuts in prop::collection::vec((0..800usize, 0..200usize), 0..6),
            fresh in prop::collection::vec(any::<u8>(), 0..60),
            number in 0..4u8,
        ) {
            let mut target = fresh;
            for (start, len) in cuts {
                let start = start.min(base.len());
                target.extend(&base[start..(start + len).min(base.len())]);
            }
            let delta = make(&base, &target, &options(number));
            if target.is_empty() {
                prop_assert_eq!(delta, Err(DeltaError::Empty));
            } else {
                prop_assert_eq!(apply(&base, &delta.unwrap()), Ok(target));
            }
        }

        #[test]
        fn any_bytes_are_refused_or_applied(patch in prop::collection::vec(any::<u8>(), 0..200), kind in 0..5u8) {
            let patch = [&[kind, 0x14, 0x44][..usize::from(kind / 4) + 2], &patch].concat();
            let _ = apply(b"base", &wrapped(b"base", &[0; 20], &patch));
            let _ = apply(b"base", &patch);
        }
    }
}
