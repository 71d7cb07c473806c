//! Conditional run-length encoding, the compression of detools for patches that are nearly all zeros.
//!
//! Segments: 0, a length and so many bytes; or 1, a length and the byte to repeat. Lengths: 7 bits a byte, least
//! significant first, bit 7 where more follow. Source: patches made by detools.

use super::DeltaError;

const SCATTERED: u8 = 0;
const REPEATED: u8 = 1;
/// Shorter runs cost more than they save where they interrupt scattered bytes.
const RUN_MIN: usize = 6;

/// Appends the segments for `bytes`.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let mut scattered = 0;
    let mut place = 0;
    while place < bytes.len() {
        let run = bytes[place..]
            .iter()
            .take_while(|byte| **byte == bytes[place])
            .count();
        if run >= RUN_MIN {
            put_scattered(&bytes[scattered..place], out);
            out.push(REPEATED);
            put_length(run, out);
            out.push(bytes[place]);
            scattered = place + run;
        }
        place += run;
    }
    put_scattered(&bytes[scattered..], out);
}

fn put_scattered(bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push(SCATTERED);
        put_length(bytes.len(), out);
        out.extend_from_slice(bytes);
    }
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    let mut rest = length;
    loop {
        let [.., low] = rest.to_be_bytes();
        rest >>= 7;
        if rest == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

/// Reads segments byte by byte.
#[derive(Debug, Clone)]
pub(super) struct Decoder<'a> {
    input: &'a [u8],
    left: u32,
    repeated: Option<u8>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            left: 0,
            repeated: None,
        }
    }

    /// The next byte; an error at the end of the input and for a segment that cannot be.
    pub(super) fn next_byte(&mut self) -> Result<u8, DeltaError> {
        while self.left == 0 {
            let kind = self.take()?;
            self.left = self.length()?;
            self.repeated = match kind {
                SCATTERED => None,
                REPEATED => Some(self.take()?),
                _ => return Err(DeltaError::Segment(kind)),
            };
        }
        self.left -= 1;
        self.repeated.map_or_else(|| self.take(), Ok)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.left == 0 && self.input.is_empty()
    }

    fn take(&mut self) -> Result<u8, DeltaError> {
        let (first, rest) = self.input.split_first().ok_or(DeltaError::Truncated)?;
        self.input = rest;
        Ok(*first)
    }

    fn length(&mut self) -> Result<u32, DeltaError> {
        let mut value = 0;
        for bits in (0..28).step_by(7) {
            let byte = self.take()?;
            value |= u32::from(byte & 0x7f) << bits;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DeltaError::Size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_and_scattered_bytes_take_turns() {
        let bytes = [&[0; 200][..], b"abc", &[7; 6], b"z"].concat();
        let mut out = Vec::new();
        encode(&bytes, &mut out);
        let expected = [
            &[1, 0xc8, 0x01, 0, 0, 3][..],
            b"abc",
            &[1, 6, 7, 0, 1],
            b"z",
        ]
        .concat();
        assert_eq!(out, expected);
    }

    #[test]
    fn segments_of_another_kind_are_refused() {
        assert_eq!(
            Decoder::new(&[2, 1, 1]).next_byte(),
            Err(DeltaError::Segment(2))
        );
        assert_eq!(
            Decoder::new(&[0, 0xff, 0xff, 0xff, 0xff]).next_byte(),
            Err(DeltaError::Size)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in prop::collection::vec(0..2u8, 0..400)) {
            let mut out = Vec::new();
            encode(&bytes, &mut out);
            let mut decoder = Decoder::new(&out);
            let back: Vec<u8> = bytes.iter().map_while(|_| decoder.next_byte().ok()).collect();
            prop_assert!(decoder.is_at_end());
            prop_assert_eq!(back, bytes);
        }
    }
}
