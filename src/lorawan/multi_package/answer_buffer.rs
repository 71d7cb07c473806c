//! A device's answers put together again from the parts it sends when they do not fit one frame.
//!
//! The parts do not say how long the whole is: it is complete when everything that was asked is answered, which the
//! caller knows. TS007-1.0.0 §4.3, §4.4.

use super::{MultiPackBufferFrag, MultiPackBufferReq};

/// Longest answers a device may buffer.
const MAX_BUFFER: usize = 128;

/// The answers to one set of commands, as far as they arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerBuffer {
    token: u8,
    bytes: [Option<u8>; MAX_BUFFER],
}

impl AnswerBuffer {
    /// Nothing yet of the answers to the commands with this token (0..=3).
    pub fn new(token: u8) -> Self {
        Self {
            token,
            bytes: [None; MAX_BUFFER],
        }
    }

    /// Takes a part in and says whether it belongs here: it has the token, ends within the buffer and contradicts
    /// nothing that is here. A part that does not belong changes nothing.
    pub fn take(&mut self, part: &MultiPackBufferFrag) -> bool {
        let from = usize::from(part.base_byte);
        let Some(place) = self.bytes.get_mut(from..from + part.bytes.len()) else {
            return false;
        };
        let agrees = |(known, byte): (&Option<u8>, &u8)| known.is_none_or(|known| known == *byte);
        if part.token != self.token || !place.iter().zip(&part.bytes).all(agrees) {
            return false;
        }
        for (known, byte) in place.iter_mut().zip(&part.bytes) {
            *known = Some(*byte);
        }
        true
    }

    /// What arrived without a gap, from the beginning.
    pub fn contiguous(&self) -> Vec<u8> {
        self.bytes.iter().map_while(|byte| *byte).collect()
    }

    /// Asks for what is missing: the first gap, or, if there is none, all behind what arrived. `None` when the largest
    /// buffer is full.
    pub fn missing(&self) -> Option<MultiPackBufferReq> {
        let start = self.bytes.iter().position(Option::is_none)?;
        let gap = self.bytes[start..].iter().position(Option::is_some);
        let stop = gap.map_or(MAX_BUFFER, |gap| start + gap) - 1;
        Some(MultiPackBufferReq {
            start_byte: u8::try_from(start).ok()?,
            stop_byte: u8::try_from(stop).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(base_byte: u8, bytes: &[u8]) -> MultiPackBufferFrag {
        MultiPackBufferFrag {
            base_byte,
            bytes: bytes.to_vec(),
            token: 3,
        }
    }

    fn missing(buffer: &AnswerBuffer) -> Option<(u8, u8)> {
        let request = buffer.missing();
        request.map(|request| (request.start_byte, request.stop_byte))
    }

    #[test]
    fn parts_in_any_order_become_the_whole() {
        let whole: Vec<u8> = (0..20).collect();
        let mut buffer = AnswerBuffer::new(3);
        assert_eq!(
            (buffer.contiguous().len(), missing(&buffer)),
            (0, Some((0, 127)))
        );
        assert!(buffer.take(&part(16, &whole[16..])));
        assert_eq!(
            (buffer.contiguous().len(), missing(&buffer)),
            (0, Some((0, 15)))
        );
        assert!(buffer.take(&part(0, &whole[..8])));
        assert_eq!(
            (buffer.contiguous().len(), missing(&buffer)),
            (8, Some((8, 15)))
        );
        // A part again, longer than before.
        assert!(buffer.take(&part(4, &whole[4..17])));
        assert_eq!(
            (buffer.contiguous(), missing(&buffer)),
            (whole, Some((20, 127)))
        );
    }

    #[test]
    fn parts_of_other_answers_are_left_out() {
        let mut buffer = AnswerBuffer::new(3);
        assert!(buffer.take(&part(0, &[1, 2, 3])));
        let mut other = part(3, &[4]);
        other.token = 2;
        for foreign in [other, part(2, &[9, 4]), part(127, &[1, 2])] {
            assert!(!buffer.take(&foreign));
        }
        assert_eq!(buffer.contiguous(), [1, 2, 3]);
    }

    #[test]
    fn the_largest_buffer_is_filled_and_no_more() {
        let mut buffer = AnswerBuffer::new(3);
        assert!(buffer.take(&part(0, &[7; 127])));
        assert_eq!(missing(&buffer), Some((127, 127)));
        assert!(buffer.take(&part(127, &[7])));
        assert_eq!((buffer.contiguous().len(), missing(&buffer)), (128, None));
    }
}
