//! Instants: [`Timestamp`] on the Unix scale (which every record and machine uses) and [`GpsTime`] on the GPS scale
//! (which the air interface uses), and the leap seconds between them.
//!
//! Nothing here reads a clock: time is always an argument. The leap table ends with the step of 2017-01-01, the last
//! one announced; an instant after that counts as 18 s apart.
//!
//! Source: TS003-2.0.0 and TS005-2.0.0 (times on the wire are GPS seconds modulo 2^32); IERS Bulletin C (leap seconds).

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

const MICROS_PER_SECOND: i64 = 1_000_000;

/// The GPS epoch, 1980-01-06T00:00:00Z, in Unix seconds.
const GPS_EPOCH_UNIX_SECONDS: i64 = 315_964_800;

/// Unix seconds of the midnights from which GPS is one second further ahead of UTC.
const LEAP_STEPS_UNIX_SECONDS: [i64; 18] = [
    362_793_600,   // 1981-07-01
    394_329_600,   // 1982-07-01
    425_865_600,   // 1983-07-01
    489_024_000,   // 1985-07-01
    567_993_600,   // 1988-01-01
    631_152_000,   // 1990-01-01
    662_688_000,   // 1991-01-01
    709_948_800,   // 1992-07-01
    741_484_800,   // 1993-07-01
    773_020_800,   // 1994-07-01
    820_454_400,   // 1996-01-01
    867_715_200,   // 1997-07-01
    915_148_800,   // 1999-01-01
    1_136_073_600, // 2006-01-01
    1_230_768_000, // 2009-01-01
    1_341_100_800, // 2012-07-01
    1_435_708_800, // 2015-07-01
    1_483_228_800, // 2017-01-01
];

/// An instant in microseconds since the Unix epoch, without leap seconds (POSIX time). Arithmetic saturates at the ends
/// of the range, some 292 000 years away. Serialized as that integer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// From microseconds since the Unix epoch; negative before it.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch; negative before it.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// From whole seconds since the Unix epoch; saturates.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_unix_seconds(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND)
    }

    /// The time passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        if self.0 <= earlier.0 {
            Duration::ZERO
        } else {
            Duration::from_micros(self.0.abs_diff(earlier.0))
        }
    }

    /// Signed microseconds from `other` to `self`: positive if `self` is later; saturates.
    pub const fn micros_since(self, other: Self) -> i64 {
        self.0.saturating_sub(other.0)
    }

    /// The same instant on the GPS scale; negative before 1980-01-06. A leap second takes effect at 00:00:00 UTC of the
    /// day after it.
    pub fn to_gps(self) -> GpsTime {
        let leap_seconds = (0..)
            .zip(LEAP_STEPS_UNIX_SECONDS)
            .take_while(|(_, step)| Self::from_unix_seconds(*step) <= self)
            .map(|(index, _)| index + 1)
            .last()
            .unwrap_or(0);
        GpsTime(self.0.saturating_add(gps_minus_unix_micros(leap_seconds)))
    }

    /// The first instant not before `self` that is a whole GPS second. The scales differ by whole seconds, so it is a
    /// whole Unix second too. At the very end of the range, the end of the range.
    pub const fn ceil_gps_second(self) -> Self {
        match self.0.rem_euclid(MICROS_PER_SECOND) {
            0 => self,
            past => Self(self.0.saturating_add(MICROS_PER_SECOND - past)),
        }
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Drops what is below a microsecond.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    /// Drops what is below a microsecond.
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }
}

/// RFC 3339 in UTC with milliseconds, rounded down: `2024-05-17T16:53:02.000Z`. Outside the years 0 to 9999, which RFC
/// 3339 does not cover, the year is written with its sign.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.as_unix_seconds();
        let millisecond = self.0.rem_euclid(MICROS_PER_SECOND) / 1000;
        let (year, month, day) = civil_date(seconds.div_euclid(86_400));
        let second_of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (
            second_of_day / 3600,
            second_of_day / 60 % 60,
            second_of_day % 60,
        );
        if (0..=9999).contains(&year) {
            write!(formatter, "{year:04}")?;
        } else {
            write!(formatter, "{year:+05}")?;
        }
        write!(
            formatter,
            "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z"
        )
    }
}

/// An instant in microseconds since the GPS epoch, 1980-01-06T00:00:00Z, leap seconds included. Serialized as that
/// integer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct GpsTime(i64);

impl GpsTime {
    /// From microseconds since the GPS epoch; negative before it.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the GPS epoch; negative before it.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// From whole seconds since the GPS epoch; saturates.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// Whole seconds since the GPS epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND)
    }

    /// The whole seconds as they go on the wire: modulo 2^32.
    pub const fn wire_seconds(self) -> u32 {
        let [a, b, c, d, ..] = self.seconds().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// The instant that `wire` seconds modulo 2^32 mean, told by somebody whose idea of the time is near `near`: of all
    /// candidates the one nearest to the whole second of `near`, the earlier one of two equally near.
    pub fn from_wire_seconds(wire: u32, near: Self) -> Self {
        let distance = wire.wrapping_sub(near.wire_seconds()).cast_signed();
        Self::from_seconds(near.seconds().saturating_add(i64::from(distance)))
    }

    /// The same instant on the Unix scale. Unix time has no name for the inside of a leap second (23:59:60), which
    /// becomes the midnight that ends it, so order is kept.
    pub fn to_unix(self) -> Timestamp {
        for (leap_seconds, step) in (0..).zip(LEAP_STEPS_UNIX_SECONDS) {
            let step = Timestamp::from_unix_seconds(step);
            let unix = self.0.saturating_sub(gps_minus_unix_micros(leap_seconds));
            if unix < step.0 {
                return Timestamp(unix);
            }
            if unix < step.0 + MICROS_PER_SECOND {
                return step;
            }
        }
        Timestamp(self.0.saturating_sub(gps_minus_unix_micros(18)))
    }
}

/// What to add to Unix microseconds to get GPS microseconds when so many leap seconds have passed since the GPS epoch.
const fn gps_minus_unix_micros(leap_seconds: i64) -> i64 {
    (leap_seconds - GPS_EPOCH_UNIX_SECONDS) * MICROS_PER_SECOND
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Year, month (1 to 12) and day (1 to 31) of the proleptic Gregorian calendar, from days since 1970-01-01.
fn civil_date(days_since_epoch: i64) -> (i64, i64, i64) {
    // Years are counted from 1 March, so that a leap day is the last day of its year, in cycles of 400 years that all
    // have the same number of days. 0000-03-01 lies 719 468 days before the Unix epoch.
    const DAYS_PER_CYCLE: i64 = 146_097;
    let days = days_since_epoch + 719_468;
    let cycle = days.div_euclid(DAYS_PER_CYCLE);
    let day_of_cycle = days.rem_euclid(DAYS_PER_CYCLE);
    // Taking out the leap days that lie before the day leaves years of 365 days.
    let leap_days = day_of_cycle / 1460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
    let year_of_cycle = (day_of_cycle - leap_days) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // From March on, five months have 153 days, again and again.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) = match month_from_march {
        0..=9 => (month_from_march + 3, 0),
        _ => (month_from_march - 9, 1),
    };
    (400 * cycle + year_of_cycle + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fraction_of_a_second_before_a_leap_step_still_counts_as_before() {
        let step = Timestamp::from_unix_seconds(1_483_228_800);
        let before = step - Duration::from_micros(1);
        assert_eq!(before.to_gps().as_micros(), 1_167_264_016_999_999);
        assert_eq!(step.to_gps().as_micros(), 1_167_264_018_000_000);
    }

    #[test]
    fn the_inside_of_a_leap_second_becomes_the_midnight_after_it() {
        let step = Timestamp::from_unix_seconds(1_483_228_800);
        for micros in [1_167_264_017_000_000, 1_167_264_017_500_000] {
            assert_eq!(GpsTime::from_micros(micros).to_unix(), step);
        }
        assert_eq!(
            GpsTime::from_micros(1_167_264_016_999_999).to_unix(),
            step - Duration::from_micros(1)
        );
        assert_eq!(GpsTime::from_seconds(1_167_264_018).to_unix(), step);
        assert_eq!(
            GpsTime::from_micros(1_167_264_018_000_001).to_unix(),
            step + Duration::from_micros(1)
        );
    }

    #[test]
    fn wire_seconds_resolve_across_the_wrap() {
        let wrap = GpsTime::from_seconds(1 << 32);
        let before = GpsTime::from_seconds((1 << 32) - 10);
        let after = GpsTime::from_seconds((1 << 32) + 10);
        assert_eq!(before.wire_seconds(), u32::MAX - 9);
        assert_eq!(after.wire_seconds(), 10);
        assert_eq!(GpsTime::from_wire_seconds(10, before), after);
        assert_eq!(GpsTime::from_wire_seconds(u32::MAX - 9, after), before);
        assert_eq!(GpsTime::from_wire_seconds(0, wrap), wrap);
        // A device that has just started counts from zero; near zero that is before the epoch, not 136 years later.
        assert_eq!(
            GpsTime::from_wire_seconds(u32::MAX, GpsTime::default()).seconds(),
            -1
        );
    }

    #[test]
    fn ceil_gps_second_rounds_up_and_keeps_whole_seconds() {
        let whole = Timestamp::from_unix_seconds(1_715_964_782);
        assert_eq!(whole.ceil_gps_second(), whole);
        let just_after = whole + Duration::from_micros(1);
        assert_eq!(
            just_after.ceil_gps_second().as_unix_seconds(),
            1_715_964_783
        );
        assert_eq!(
            just_after.ceil_gps_second().to_gps(),
            GpsTime::from_seconds(1_400_000_001)
        );
        assert_eq!(
            Timestamp::from_micros(-1).ceil_gps_second(),
            Timestamp::EPOCH
        );
    }

    #[test]
    fn arithmetic_saturates_and_since_is_never_negative() {
        let (early, late) = (
            Timestamp::from_unix_seconds(10),
            Timestamp::from_unix_seconds(12),
        );
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.micros_since(late), -2_000_000);
        let (first, last) = (
            Timestamp::from_micros(i64::MIN),
            Timestamp::from_micros(i64::MAX),
        );
        assert_eq!(last + Duration::MAX, last);
        assert_eq!(first - Duration::MAX, first);
        assert_eq!(last.since(first), Duration::from_micros(u64::MAX));
        let mut moving = early;
        moving += Duration::from_secs(2);
        assert_eq!(moving, late);
    }

    #[test]
    fn display_is_rfc_3339() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000_000, "2000-03-01T00:00:00.000Z"),
            (4_107_542_399_123_456, "2100-02-28T23:59:59.123Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000Z"),
            (1_735_689_599_999_999, "2024-12-31T23:59:59.999Z"),
            (-62_167_219_200_000_000, "0000-01-01T00:00:00.000Z"),
            (-62_167_219_200_000_001, "-0001-12-31T23:59:59.999Z"),
            (253_402_300_800_000_000, "+10000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::from_micros(micros).to_string(), text);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut date = civil_date(-800_000);
        for day_number in -799_999..800_000 {
            let next = civil_date(day_number);
            let (year, month, day) = date;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let days_in_month = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, last) if last == days_in_month => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
            assert_eq!(next, expected);
            date = next;
        }
    }

    proptest! {
        #[test]
        fn gps_round_trips(micros in -10_000_000_000_000_000i64..10_000_000_000_000_000) {
            let time = Timestamp::from_micros(micros);
            prop_assert_eq!(time.to_gps().to_unix(), time);
        }

        #[test]
        fn gps_keeps_order(a in any::<i64>(), b in any::<i64>()) {
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(Timestamp::from_micros(a).to_gps() <= Timestamp::from_micros(b).to_gps());
            prop_assert!(GpsTime::from_micros(a).to_unix() <= GpsTime::from_micros(b).to_unix());
        }

        #[test]
        fn nothing_panics(micros in any::<i64>(), wire in any::<u32>()) {
            let time = Timestamp::from_micros(micros);
            let _ = (time.to_string(), time.ceil_gps_second(), time.to_gps());
            let near = GpsTime::from_micros(micros / 3);
            let resolved = GpsTime::from_wire_seconds(wire, near);
            prop_assert_eq!(resolved.wire_seconds(), wire);
            prop_assert!(resolved.seconds().abs_diff(near.seconds()) <= 1 << 31);
        }
    }
}
