//! Heatshrink, a compression for decoders with little memory: a window of 16 bytes to 32 KiB and nothing else.
//!
//! A stream of bits, most significant first: 1 and 8 bits is a byte; 0, `window_bits` bits of distance less one and
//! `lookahead_bits` bits of length less one repeats what is that far behind. Zero bits fill the last byte. Format:
//! the project heatshrink (atomicobject), as its encoder's output shows it.

/// What the encoder may use of the decoder, and what both must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heatshrink {
    window_bits: u8,
    lookahead_bits: u8,
}

/// Bits of a byte that is not repeated.
const LITERAL_BITS: u32 = 9;
/// Places the encoder tries before it takes the longest match so far: bounds its time where all is alike.
const TRIES_MAX: usize = 512;

impl Heatshrink {
    /// What the C decoder of detools is built for unless told otherwise: 256 bytes of window, 128 of lookahead.
    pub const DEFAULT: Self = Self {
        window_bits: 8,
        lookahead_bits: 7,
    };

    /// Window of 2^`window_bits` bytes (4 to 15), repetitions of at most 2^`lookahead_bits` bytes (3 to
    /// `window_bits` - 1); nothing for other values.
    pub fn new(window_bits: u8, lookahead_bits: u8) -> Option<Self> {
        let fits = (4..=15).contains(&window_bits) && (3..window_bits).contains(&lookahead_bits);
        fits.then_some(Self {
            window_bits,
            lookahead_bits,
        })
    }

    /// Bytes of memory the decoder's window takes.
    pub fn window_bytes(self) -> usize {
        1 << self.window_bits
    }

    /// The byte by which a patch states both numbers.
    pub(super) fn to_byte(self) -> u8 {
        (self.window_bits - 4) << 4 | (self.lookahead_bits - 3)
    }

    /// The inverse of [`Heatshrink::to_byte`].
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::new((byte >> 4) + 4, (byte & 0x0f) + 3)
    }

    fn repeat_bits(self) -> u32 {
        1 + u32::from(self.window_bits) + u32::from(self.lookahead_bits)
    }

    /// Bits of a repetition of two bytes or more at each place; what is cheapest is known from the end backwards,
    /// because all repetitions cost the same and a rest never costs more than a longer one: the longest is the best.
    fn plan(self, bytes: &[u8]) -> Vec<Repeat> {
        let mut repeats = self.longest_repeats(bytes);
        let mut cost = vec![0u32; bytes.len() + 1];
        for place in (0..bytes.len()).rev() {
            let literal = cost[place + 1].saturating_add(LITERAL_BITS);
            let length = usize::from(repeats[place].length);
            let repeated = cost[place + length].saturating_add(self.repeat_bits());
            if length == 0 || literal <= repeated {
                repeats[place].length = 0;
                cost[place] = literal;
            } else {
                cost[place] = repeated;
            }
        }
        repeats
    }

    fn longest_repeats(self, bytes: &[u8]) -> Vec<Repeat> {
        let (window, longest) = (self.window_bytes(), 1usize << self.lookahead_bits);
        // Per byte pair the last place it was seen at, and per place the one before; 0 is none.
        let mut last = vec![0u32; 1 << 16];
        let mut previous = vec![0u32; bytes.len()];
        let mut repeats = vec![Repeat::default(); bytes.len()];
        for place in 0..bytes.len().saturating_sub(1) {
            let rest = &bytes[place..bytes.len().min(place + longest)];
            let pair = usize::from(u16::from_be_bytes([bytes[place], bytes[place + 1]]));
            let mut best = Repeat::default();
            let mut link = last[pair];
            for _ in 0..TRIES_MAX {
                let Some(earlier) = usize::try_from(link)
                    .ok()
                    .and_then(|link| link.checked_sub(1))
                else {
                    break;
                };
                if place - earlier > window {
                    break;
                }
                // Most places differ where a longer repetition would have to go on: they need no closer look.
                let length = usize::from(best.length);
                let same = if bytes.get(earlier + length) == rest.get(length) {
                    let pairs = bytes[earlier..].iter().zip(rest);
                    pairs.take_while(|(a, b)| a == b).count()
                } else {
                    0
                };
                if same > length {
                    best = Repeat {
                        distance: u16::try_from(place - earlier).unwrap_or(u16::MAX),
                        length: u16::try_from(same).unwrap_or(u16::MAX),
                    };
                }
                if same == rest.len() {
                    break;
                }
                link = previous[earlier];
            }
            repeats[place] = best;
            previous[place] = last[pair];
            last[pair] = u32::try_from(place + 1).unwrap_or(0);
        }
        repeats
    }

    /// The shortest stream for `bytes`.
    pub(super) fn encode(self, bytes: &[u8]) -> Vec<u8> {
        let repeats = self.plan(bytes);
        let mut bits = BitWriter::default();
        let mut place = 0;
        while place < bytes.len() {
            let Repeat { distance, length } = repeats[place];
            if length == 0 {
                bits.push(0x100 | u32::from(bytes[place]), LITERAL_BITS);
                place += 1;
            } else {
                let lookahead = u32::from(self.lookahead_bits);
                let both = u32::from(distance - 1) << lookahead | u32::from(length - 1);
                bits.push(both, self.repeat_bits());
                place += usize::from(length);
            }
        }
        bits.finish()
    }
}

/// What is the same as `distance` bytes before.
#[derive(Debug, Clone, Copy, Default)]
struct Repeat {
    distance: u16,
    length: u16,
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    /// Bits not written yet, right-aligned.
    open: u64,
    count: u32,
}

impl BitWriter {
    /// Appends the low `count` bits of `value`, at most 32.
    fn push(&mut self, value: u32, count: u32) {
        self.open = self.open << count | u64::from(value);
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let [.., byte] = (self.open >> self.count).to_be_bytes();
            self.bytes.push(byte);
        }
        self.open &= (1 << self.count) - 1;
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.push(0, 8 - self.count);
        }
        self.bytes
    }
}

/// Reads a stream byte by byte, with the memory a device has for it: the window and these fields.
#[derive(Debug, Clone)]
pub(super) struct Decoder<'a> {
    settings: Heatshrink,
    input: &'a [u8],
    /// Bit of `input` to read next, 7 down to 0 within the first byte.
    bit: u8,
    window: Vec<u8>,
    head: usize,
    /// Bytes still to repeat, and from how far behind.
    left: u32,
    distance: usize,
}

impl<'a> Decoder<'a> {
    /// Starts at the first bit of `input`.
    pub(super) fn new(settings: Heatshrink, input: &'a [u8]) -> Self {
        Self {
            settings,
            input,
            bit: 8,
            window: vec![0; settings.window_bytes()],
            head: 0,
            left: 0,
            distance: 0,
        }
    }

    /// The next byte; nothing at the end of the input. What lies before the stream reads as zeros.
    pub(super) fn next_byte(&mut self) -> Option<u8> {
        let mask = self.window.len() - 1;
        if self.left == 0 {
            if self.bits(1)? == 1 {
                let [.., byte] = self.bits(8)?.to_be_bytes();
                return Some(self.keep(byte));
            }
            let distance = self.bits(self.settings.window_bits)?;
            self.distance = usize::try_from(distance).ok()? + 1;
            self.left = self.bits(self.settings.lookahead_bits)? + 1;
        }
        self.left -= 1;
        let byte = self.window[self.head.wrapping_sub(self.distance) & mask];
        Some(self.keep(byte))
    }

    /// Whether nothing is left but the zero bits that fill the last byte.
    pub(super) fn is_at_end(&self) -> bool {
        let rest = match self.input {
            [] => 0,
            [last] => last & ((1u16 << self.bit) - 1).to_be_bytes()[1],
            _ => return false,
        };
        self.left == 0 && rest == 0 && (self.input.is_empty() || self.bit < 8)
    }

    fn keep(&mut self, byte: u8) -> u8 {
        self.window[self.head] = byte;
        self.head = (self.head + 1) & (self.window.len() - 1);
        byte
    }

    fn bits(&mut self, count: u8) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.input.first()?;
            self.bit -= 1;
            value = value << 1 | u32::from(byte >> self.bit & 1);
            if self.bit == 0 {
                self.bit = 8;
                self.input = &self.input[1..];
            }
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(settings: Heatshrink, stream: &[u8], len: usize) -> Vec<u8> {
        let mut decoder = Decoder::new(settings, stream);
        let bytes = (0..len).map_while(|_| decoder.next_byte()).collect();
        assert!(decoder.is_at_end());
        bytes
    }

    #[test]
    fn bits_are_where_the_format_has_them() {
        // 1 0x61, 0 distance 1 (8 bits 0), length 4 (7 bits 3), fill.
        let stream = Heatshrink::DEFAULT.encode(b"aaaaa");
        assert_eq!(stream, [0b1011_0000, 0b1000_0000, 0b0000_0001, 0b1000_0000]);
        assert_eq!(decode(Heatshrink::DEFAULT, &stream, 5), b"aaaaa");
        assert_eq!(Heatshrink::DEFAULT.to_byte(), 0x44);
    }

    #[test]
    fn settings_without_a_decoder_do_not_exist() {
        for (window, lookahead) in [(3, 3), (16, 4), (8, 8), (8, 2), (4, 4)] {
            assert_eq!(Heatshrink::new(window, lookahead), None);
        }
        for byte in 0..=255 {
            if let Some(settings) = Heatshrink::from_byte(byte) {
                assert_eq!(settings.to_byte(), byte);
            }
        }
    }

    #[test]
    fn the_whole_window_is_used() {
        let bytes = [&[1, 2, 3][..], &[9; 13], &[1, 2, 3]].concat();
        let settings = Heatshrink::new(4, 3).unwrap();
        let stream = settings.encode(&bytes);
        // 4 literals, 12 nines in 8 + 4, and 3 bytes from 16 behind: 36 + 3 * 8 bits.
        assert_eq!(stream.len(), (36usize + 24).div_ceil(8));
        assert_eq!(decode(settings, &stream, bytes.len()), bytes);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(
            bytes in prop::collection::vec(0..5u8, 0..600),
            window in 4..12u8,
            lookahead in 3..8u8,
        ) {
            let settings = Heatshrink::new(window, lookahead.min(window - 1)).unwrap();
            prop_assert_eq!(decode(settings, &settings.encode(&bytes), bytes.len()), bytes);
        }

        #[test]
        fn any_stream_is_read_to_its_end(stream in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut decoder = Decoder::new(Heatshrink::DEFAULT, &stream);
            let mut count = 0;
            while decoder.next_byte().is_some() {
                count += 1;
            }
            prop_assert!(count <= stream.len() * 64);
        }
    }
}
