//! Repeatable randomness: a small generator that is a pure function of its seed. Not for keys.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): one 64-bit state, so a simulated device costs eight bytes for it.

use std::time::Duration;

/// A seeded generator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed; any seed is as good as any other.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator for one actor of a run: independent of others of the same seed, and of how often they are asked.
    pub fn of(seed: u64, actor: u64) -> Self {
        let mut mixed = Self(seed);
        let base = mixed.next_u64();
        Self(base ^ mix(actor.wrapping_add(GOLDEN)))
    }

    /// 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// 16 random bytes, for a key of a simulated device.
    pub fn key(&mut self) -> [u8; 16] {
        let mut key = [0; 16];
        for half in key.chunks_exact_mut(8) {
            half.copy_from_slice(&self.next_u64().to_le_bytes());
        }
        key
    }

    /// A number from 0 to `bound - 1`; 0 for a bound of 0 or 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: no bias worth the name for bounds far below 2^64.
        let product = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(u64::MAX)
    }

    /// An index below `length`; 0 for an empty list.
    pub fn index(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length).unwrap_or(u64::MAX);
        usize::try_from(self.below(bound)).unwrap_or(0)
    }

    /// True with this probability, 0 to 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        // 53 bits, as many as the fraction of a double holds.
        let bits = u32::try_from(self.next_u64() >> 32).unwrap_or(u32::MAX);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0) < probability
    }

    /// A time from zero to `limit`.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.below(micros.saturating_add(1)))
    }

    /// A time until something happens that happens once in `mean`, as likely at any moment (exponential).
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        let bits = u32::try_from(self.next_u64() >> 32).unwrap_or(u32::MAX);
        let uniform = (f64::from(bits) + 1.0) / (f64::from(u32::MAX) + 1.0);
        mean.mul_f64(-uniform.ln())
    }

    /// `base`, give or take `percent` of it.
    pub fn around(&mut self, base: Duration, percent: u32) -> Duration {
        let spread = base * percent.min(100) / 100;
        (base - spread).saturating_add(self.up_to(spread * 2))
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence() {
        // First outputs of the reference implementation for seed 1234567.
        let mut random = Random::new(1_234_567);
        let drawn = [(); 3].map(|()| random.next_u64());
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn draws_keep_their_bounds_and_their_odds() {
        let mut random = Random::of(1, 2);
        let hits = (0..10_000).filter(|_| random.chance(0.2)).count();
        assert!((1_800..2_200).contains(&hits), "{hits}");
        assert!((0..10_000).all(|_| random.below(7) < 7));
        assert!((0..7).all(|wanted| (0..1000).any(|_| random.below(7) == wanted)));
        let base = Duration::from_secs(10);
        assert!((0..1000).all(|_| {
            let drawn = random.around(base, 10);
            drawn >= base * 9 / 10 && drawn <= base * 11 / 10
        }));
        assert!(!random.chance(0.0));
        assert!(random.chance(1.0));
    }

    #[test]
    fn actors_draw_apart() {
        assert_ne!(Random::of(1, 2), Random::of(1, 3));
        assert_ne!(Random::of(1, 2), Random::of(2, 2));
        assert_eq!(Random::of(1, 2), Random::of(1, 2));
    }
}
