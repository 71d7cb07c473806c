//! What follows an image in the slot of a flash: nothing, erased bytes, or the trailer of the boot loader.
//!
//! Neither digest nor signature cover it, so nothing but these is let through. Source: MCUboot design document, "Image
//! trailer"; what imgtool 2.5.0 writes with `--pad`.

use serde::Serialize;

/// Magic of the trailer where writes to the flash are aligned to at most 8 bytes.
const MAGIC: [u8; 16] = [
    0x77, 0xc2, 0x95, 0xf3, 0x60, 0xd2, 0xef, 0x7f, 0x35, 0x52, 0x50, 0x0f, 0x2c, 0xb6, 0x79, 0x80,
];
/// The end of the magic where writes are aligned to more: the alignment stands before it in two bytes.
const MAGIC_ALIGNED: [u8; 14] = [
    0x2d, 0xe1, 0x5d, 0x29, 0x41, 0x0b, 0x8d, 0x77, 0x67, 0x9c, 0x11, 0x0f, 0x1f, 0x8a,
];
/// Sectors that the trailer has room to keep the state of, when nobody says otherwise.
const SECTORS: usize = 128;

/// What follows an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Nothing.
    None,
    /// Bytes 0xff, bytes 0x00, or the first and then the second.
    Fill,
    /// Fill up to the end of the slot and there the magic by which the boot loader takes the image as a new one.
    Trailer,
    /// The same, marked as confirmed: the boot loader keeps the image without waiting for it to say that it works.
    ConfirmedTrailer,
}

impl Padding {
    /// Whatever `rest`, the bytes after an image, is; nothing if it is none of these.
    pub(super) fn recognise(rest: &[u8]) -> Option<Self> {
        if rest.is_empty() {
            return Some(Self::None);
        }
        if is_fill(rest) {
            return Some(Self::Fill);
        }
        let (before, magic) = rest.split_last_chunk::<16>()?;
        let align = match magic {
            &MAGIC => 8,
            [align @ (16 | 32), 0, end @ ..] if *end == MAGIC_ALIGNED => usize::from(*align),
            _ => return None,
        };
        // The flag lies one alignment before the magic, which itself takes up whole alignments.
        let distance = MAGIC.len().next_multiple_of(align) - MAGIC.len() + align;
        let uniform =
            |bytes: &[u8]| bytes.iter().all(|&it| it == 0xff) || bytes.iter().all(|&it| it == 0);
        if uniform(before) {
            return Some(Self::Trailer);
        }
        let at = before.len().checked_sub(distance)?;
        let (fill, flag) = before.split_at_checked(at)?;
        let erased = *fill.first().or_else(|| flag.get(1))?;
        let confirmed = flag.first() == Some(&1)
            && (erased == 0xff || erased == 0)
            && fill.iter().chain(flag.get(1..)?).all(|&it| it == erased);
        confirmed.then_some(Self::ConfirmedTrailer)
    }

    /// Fills `image` with 0xff up to the end of its slot, in which it fits with its trailer, and puts the magic there.
    pub(super) fn append(image: &mut Vec<u8>, slot_size: usize) {
        image.resize(slot_size.saturating_sub(MAGIC.len()).max(image.len()), 0xff);
        image.extend(MAGIC);
    }
}

/// Bytes at the end of a slot that the boot loader needs while it swaps images; `align` is the largest write of the
/// flash, 1 to 8 bytes.
pub(super) fn trailer_size(align: u8) -> usize {
    const ALIGN: usize = 8;
    SECTORS * 3 * usize::from(align) + 4 * ALIGN + MAGIC.len()
}

fn is_fill(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .skip_while(|&&byte| byte == 0xff)
        .all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erased_bytes_and_trailers_are_told_from_data() {
        let confirmed = |distance: usize, magic: &[u8]| {
            let mut bytes = vec![0xff; 100];
            bytes[100 - distance] = 1;
            [&bytes, magic].concat()
        };
        let aligned = |align: u8| [&[align, 0][..], &MAGIC_ALIGNED].concat();
        for (rest, padding) in [
            (vec![], Some(Padding::None)),
            (vec![0xff; 9], Some(Padding::Fill)),
            (vec![0xff, 0xff, 0, 0], Some(Padding::Fill)),
            (vec![0, 0xff], None),
            (vec![0xff, 0xfe], None),
            (MAGIC.to_vec(), Some(Padding::Trailer)),
            ([&[0; 50][..], &MAGIC].concat(), Some(Padding::Trailer)),
            ([&[0xff, 0, 0][..], &MAGIC].concat(), None),
            (confirmed(8, &MAGIC), Some(Padding::ConfirmedTrailer)),
            (confirmed(16, &aligned(16)), Some(Padding::ConfirmedTrailer)),
            (confirmed(48, &aligned(32)), Some(Padding::ConfirmedTrailer)),
            (confirmed(9, &MAGIC), None),
            (confirmed(8, &aligned(16)), None),
            (confirmed(8, &aligned(7)), None),
            ([&MAGIC[..], &[0xff]].concat(), None),
        ] {
            assert_eq!(Padding::recognise(&rest), padding, "{rest:02x?}");
        }
    }
}
