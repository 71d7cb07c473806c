//! Whether the server's clock can be trusted with windows: what gateways with GPS say of it, taken together.
//!
//! Windows open at moments the server names. A server whose clock is off would open them beside those of devices that
//! have their time from elsewhere, and class B slots could not be met at all.

use std::time::Duration;

use crate::record::ClockReading;
use crate::time::Timestamp;

/// The clock may be off by so much, the delay of messages included.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
/// A gateway that told no time for longer has no say.
const FRESH: Duration = Duration::from_secs(3600);

/// How far the server's clock is ahead of GPS time, microseconds, if that is more than [`CLOCK_TOLERANCE`] either way
/// by most gateways: the median of what they say. One gateway with a wrong time stops nobody, unless it is the only
/// one.
pub fn clock_off_us(
    now: Timestamp,
    readings: impl IntoIterator<Item = ClockReading>,
) -> Option<i64> {
    let mut ahead: Vec<i64> = readings
        .into_iter()
        .filter(|reading| now.since(reading.at) <= FRESH)
        .map(|reading| reading.ahead_us)
        .collect();
    ahead.sort_unstable_by_key(|us| us.unsigned_abs());
    // Of an even number the better half decides.
    let median = *ahead.get(ahead.len().checked_sub(1)? / 2)?;
    (u128::from(median.unsigned_abs()) > CLOCK_TOLERANCE.as_micros()).then_some(median)
}

/// In words, for refusals and evidence.
pub fn clock_words(ahead_us: i64) -> String {
    let seconds = Duration::from_micros(ahead_us.unsigned_abs()).as_secs_f64();
    let side = if ahead_us > 0 { "ahead of" } else { "behind" };
    format!("the server's clock is {seconds:.1} s {side} the GPS time of its gateways")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn off(seconds: &[i64]) -> Option<i64> {
        let reading = |s: &i64| ClockReading {
            ahead_us: s * 1_000_000,
            at: NOW,
        };
        clock_off_us(NOW, seconds.iter().map(reading)).map(|us| us / 1_000_000)
    }

    #[test]
    fn most_gateways_decide() {
        assert_eq!(off(&[]), None);
        assert_eq!(off(&[5]), None);
        assert_eq!(off(&[6]), Some(6));
        assert_eq!(off(&[-6]), Some(-6));
        assert_eq!(off(&[0, 90]), None);
        assert_eq!(off(&[0, -90, 90]), Some(-90));
        assert_eq!(off(&[0, 1, 90]), None);
    }

    #[test]
    fn old_readings_have_no_say() {
        let old = ClockReading {
            ahead_us: i64::MIN,
            at: NOW,
        };
        assert!(clock_off_us(NOW + FRESH, [old]).is_some());
        assert!(clock_off_us(NOW + FRESH + Duration::from_secs(1), [old]).is_none());
    }

    #[test]
    fn words_say_which_way() {
        assert_eq!(
            clock_words(-7_250_000),
            "the server's clock is 7.2 s behind the GPS time of its gateways"
        );
    }
}
