//! The sequential patch of detools: a header, then compressed rounds of changed base bytes, new bytes and a step in the
//! base, read from beginning to end.
//!
//! Header: one byte, patch type (0) in bits 6..4 and compression in bits 3..0; size of the target. Then, compressed:
//! a size (0: no data format), and per round size and bytes of the diff, size and bytes of the extra, and the
//! adjustment of the base position, until the target is whole. Sizes: 6 bits and a sign (bit 6) in the first byte,
//! 7 bits in each that follows, least significant first, bit 7 where more follow. Source: the documentation of detools,
//! "Sequential", the patches it makes and what its decoders accept.

use super::DeltaError;
use super::crle;
use super::heatshrink::{self, Heatshrink};
use super::matching::Step;

const SEQUENTIAL: u8 = 0;
const NONE: u8 = 0;
const CRLE: u8 = 2;
const HEATSHRINK: u8 = 4;

/// How the rounds are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Runs of one byte; no memory to speak of. Best where little has changed.
    Crle,
    /// With a small window.
    Heatshrink(Heatshrink),
}

/// The rounds of a patch before compression. `None` where a step leads out of the base or the target.
pub(super) fn rounds(base: &[u8], target: &[u8], steps: &[Step]) -> Option<Vec<u8>> {
    let mut bytes = vec![0];
    let (mut position, mut done) = (0usize, 0usize);
    for (index, step) in steps.iter().enumerate() {
        position = position.checked_add_signed(isize::try_from(step.adjustment).ok()?)?;
        let old = base.get(position..position.checked_add(step.diff)?)?;
        let new = target.get(done..done.checked_add(step.diff)?)?;
        put_size(&mut bytes, i64::try_from(step.diff).ok()?);
        bytes.extend(new.iter().zip(old).map(|(new, old)| new.wrapping_sub(*old)));
        position += step.diff;
        done += step.diff;
        let extra = target.get(done..done.checked_add(step.extra)?)?;
        put_size(&mut bytes, i64::try_from(step.extra).ok()?);
        bytes.extend_from_slice(extra);
        done += step.extra;
        put_size(
            &mut bytes,
            steps.get(index + 1).map_or(0, |next| next.adjustment),
        );
    }
    (done == target.len()).then_some(bytes)
}

/// A patch with these rounds.
pub(super) fn write(target_len: u32, rounds: &[u8], compression: Compression) -> Vec<u8> {
    let mut patch = Vec::new();
    let number = match compression {
        Compression::None => NONE,
        Compression::Crle => CRLE,
        Compression::Heatshrink(_) => HEATSHRINK,
    };
    patch.push(SEQUENTIAL << 4 | number);
    put_size(&mut patch, target_len.into());
    match compression {
        Compression::None => patch.extend_from_slice(rounds),
        Compression::Crle => crle::encode(rounds, &mut patch),
        Compression::Heatshrink(settings) => {
            patch.push(settings.to_byte());
            patch.extend(settings.encode(rounds));
        }
    }
    patch
}

/// Which compression a patch uses, and so how much memory it takes.
pub fn compression(patch: &[u8]) -> Result<Compression, DeltaError> {
    let mut patch = patch;
    header(&mut patch).map(|(_, compression)| compression)
}

/// Makes the target, `target_len` bytes as announced elsewhere, from `base`. Beyond its result it uses only what a
/// device has: the window of the compression and a few numbers.
pub(super) fn apply(base: &[u8], patch: &[u8], target_len: u32) -> Result<Vec<u8>, DeltaError> {
    let mut rest = patch;
    let (len, compression) = header(&mut rest)?;
    if len != i64::from(target_len) {
        return Err(DeltaError::TargetLength);
    }
    let mut input = match compression {
        Compression::None => Input::Plain(rest),
        Compression::Crle => Input::Crle(crle::Decoder::new(rest)),
        Compression::Heatshrink(settings) => {
            Input::Heatshrink(heatshrink::Decoder::new(settings, rest))
        }
    };
    if input.size()? != 0 {
        return Err(DeltaError::DataFormat);
    }
    let len = usize::try_from(target_len).map_err(|_| DeltaError::TooLong)?;
    // Grows with what is really read, not with what is announced.
    let mut target = Vec::new();
    let mut position: i64 = 0;
    while target.len() < len {
        for _ in 0..input.length(len - target.len())? {
            let old = usize::try_from(position)
                .ok()
                .and_then(|position| base.get(position));
            let old = old.ok_or(DeltaError::OutsideBase)?;
            target.push(old.wrapping_add(input.byte()?));
            position += 1;
        }
        for _ in 0..input.length(len - target.len())? {
            target.push(input.byte()?);
        }
        position = position
            .checked_add(input.size()?)
            .ok_or(DeltaError::OutsideBase)?;
    }
    if input.is_at_end() {
        Ok(target)
    } else {
        Err(DeltaError::Trailing)
    }
}

fn header(patch: &mut &[u8]) -> Result<(i64, Compression), DeltaError> {
    let first = next(patch)?;
    if first >> 4 != SEQUENTIAL {
        return Err(DeltaError::PatchType(first >> 4));
    }
    let len = size_with(|| next(patch))?;
    let compression = match first & 0x0f {
        NONE => Compression::None,
        CRLE => Compression::Crle,
        HEATSHRINK => {
            let byte = next(patch)?;
            Compression::Heatshrink(Heatshrink::from_byte(byte).ok_or(DeltaError::Window)?)
        }
        other => return Err(DeltaError::Compression(other)),
    };
    Ok((len, compression))
}

fn next(bytes: &mut &[u8]) -> Result<u8, DeltaError> {
    let (first, rest) = bytes.split_first().ok_or(DeltaError::Truncated)?;
    *bytes = rest;
    Ok(*first)
}

/// Where the rounds are read from.
enum Input<'a> {
    Plain(&'a [u8]),
    Crle(crle::Decoder<'a>),
    Heatshrink(heatshrink::Decoder<'a>),
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, DeltaError> {
        match self {
            Self::Plain(bytes) => next(bytes),
            Self::Crle(decoder) => decoder.next_byte(),
            Self::Heatshrink(decoder) => decoder.next_byte().ok_or(DeltaError::Truncated),
        }
    }

    fn size(&mut self) -> Result<i64, DeltaError> {
        size_with(|| self.byte())
    }

    /// A size that counts bytes of the target, of which `left` are open.
    fn length(&mut self, left: usize) -> Result<usize, DeltaError> {
        let size = usize::try_from(self.size()?).map_err(|_| DeltaError::Size)?;
        if size > left {
            Err(DeltaError::TargetLength)
        } else {
            Ok(size)
        }
    }

    fn is_at_end(&self) -> bool {
        match self {
            Self::Plain(bytes) => bytes.is_empty(),
            Self::Crle(decoder) => decoder.is_at_end(),
            Self::Heatshrink(decoder) => decoder.is_at_end(),
        }
    }
}

fn size_with(mut byte: impl FnMut() -> Result<u8, DeltaError>) -> Result<i64, DeltaError> {
    let mut last = byte()?;
    let negative = last & 0x40 != 0;
    let mut value = i64::from(last & 0x3f);
    let mut bits = 6;
    while last & 0x80 != 0 {
        last = byte()?;
        // Five bytes carry more than any size an image may have; C decoders hold them in 32 bits.
        if bits > 27 || (bits == 27 && last & 0x70 != 0) {
            return Err(DeltaError::Size);
        }
        value |= i64::from(last & 0x7f) << bits;
        bits += 7;
    }
    Ok(if negative { -value } else { value })
}

/// Appends a size.
fn put_size(bytes: &mut Vec<u8>, size: i64) {
    let mut rest = size.unsigned_abs();
    let sign = if size < 0 { 0x40 } else { 0 };
    let mut low = sign | low_bits(rest, 0x3f);
    rest >>= 6;
    while rest > 0 {
        bytes.push(low | 0x80);
        low = low_bits(rest, 0x7f);
        rest >>= 7;
    }
    bytes.push(low);
}

fn low_bits(value: u64, mask: u8) -> u8 {
    let [.., low] = value.to_be_bytes();
    low & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_they_are_written() {
        for (size, expected) in [
            (0, &[0x00][..]),
            (63, &[0x3f]),
            (64, &[0x80, 0x01]),
            (-1, &[0x41]),
            (-64, &[0xc0, 0x01]),
            (4_194_304, &[0x80, 0x80, 0x80, 0x04]),
        ] {
            let mut bytes = Vec::new();
            put_size(&mut bytes, size);
            assert_eq!(bytes, expected);
            let mut rest = &bytes[..];
            assert_eq!(size_with(|| next(&mut rest)), Ok(size));
        }
    }

    #[test]
    fn oversized_sizes_are_refused() {
        let mut rest = &[0xff, 0xff, 0xff, 0xff, 0x1f][..];
        assert_eq!(size_with(|| next(&mut rest)), Err(DeltaError::Size));
        let mut rest = &[0x80; 20][..];
        assert_eq!(size_with(|| next(&mut rest)), Err(DeltaError::Size));
    }

    /// What detools 0.53.0 makes of a base of the letters and digits twice and a target of them once and QQQQ.
    #[test]
    fn a_patch_is_written_like_that_of_detools() {
        let once = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let base = [&once[..], once].concat();
        let target = [&once[..], b"QQQQ"].concat();
        let steps = [Step {
            adjustment: 0,
            diff: 36,
            extra: 4,
        }];
        let rounds = rounds(&base, &target, &steps).unwrap();
        let patch = write(40, &rounds, Compression::None);
        let expected = [
            &[0x00, 0x28, 0x00, 0x24][..],
            &[0; 36],
            &[0x04],
            b"QQQQ",
            &[0x00],
        ]
        .concat();
        assert_eq!(patch, expected);
        assert_eq!(apply(&base, &patch, 40), Ok(target));
    }
}
