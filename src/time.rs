//! Points in time: server time (UTC) and GPS time. Nothing here reads a clock.
//!
//! The wire carries GPS seconds (TS003, TS005, TS006); records and machines use [`Timestamp`]. The two differ by the leap
//! seconds since 1980, which are a table here: none has been announced after 2017.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Microseconds per second.
const SECOND: i64 = 1_000_000;

/// A moment in server time: microseconds since 1970-01-01T00:00:00 UTC, leap seconds not counted.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// A moment in GPS time: microseconds since 1980-01-06T00:00:00 UTC, leap seconds counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpsTime(i64);

/// Unix time of the GPS epoch, seconds.
const GPS_EPOCH: i64 = 315_964_800;

/// Unix seconds at which a leap second had just been inserted; the n-th entry makes the difference n + 1 seconds.
const LEAP_SECONDS: [i64; 18] = [
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

impl Timestamp {
    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From seconds since the Unix epoch; saturates.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(SECOND))
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_unix_seconds(self) -> i64 {
        self.0.div_euclid(SECOND)
    }

    /// Time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.micros_since(earlier)).unwrap_or(0))
    }

    /// Microseconds from `other` to this moment, negative if it is later; saturates.
    pub const fn micros_since(self, other: Self) -> i64 {
        self.0.saturating_sub(other.0)
    }

    /// The same moment in GPS time. During an inserted leap second server time stands still or repeats; the GPS time of the
    /// second after it is returned then.
    pub fn to_gps(self) -> GpsTime {
        let leaps = LEAP_SECONDS
            .iter()
            .filter(|at| self.as_unix_seconds() >= **at)
            .count();
        let leaps = i64::try_from(leaps).unwrap_or(0);
        GpsTime(self.0.saturating_sub((GPS_EPOCH - leaps) * SECOND))
    }

    /// The first whole GPS second that is not before this moment.
    pub fn ceil_gps_second(self) -> Self {
        let gps = self.to_gps().0;
        GpsTime(
            gps.saturating_add(SECOND - 1)
                .div_euclid(SECOND)
                .saturating_mul(SECOND),
        )
        .to_unix()
    }
}

impl GpsTime {
    /// From seconds since the GPS epoch; saturates.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(SECOND))
    }

    /// The moment whose seconds are `wire` modulo 2^32 that is nearest to `near`.
    pub fn from_wire_seconds(wire: u32, near: Self) -> Self {
        const TURN: i64 = 1 << 32;
        let base = near.seconds().div_euclid(TURN) * TURN + i64::from(wire);
        let nearest = [base - TURN, base, base + TURN]
            .into_iter()
            .min_by_key(|seconds| seconds.saturating_sub(near.seconds()).saturating_abs());
        Self::from_seconds(nearest.unwrap_or(base))
    }

    /// Microseconds since the GPS epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the GPS epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(SECOND)
    }

    /// Seconds since the GPS epoch modulo 2^32, as the wire carries them.
    pub const fn wire_seconds(self) -> u32 {
        let low = self.seconds().rem_euclid(1 << 32).to_le_bytes();
        u32::from_le_bytes([low[0], low[1], low[2], low[3]])
    }

    /// The same moment in server time.
    pub fn to_unix(self) -> Timestamp {
        let without = self.0.saturating_add(GPS_EPOCH * SECOND);
        let mut leaps = 0;
        for at in LEAP_SECONDS {
            if without.saturating_sub((leaps + 1) * SECOND) >= at * SECOND {
                leaps += 1;
            }
        }
        Timestamp(without.saturating_sub(leaps * SECOND))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }
}

impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds: `2026-11-21T04:16:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.as_unix_seconds();
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil_date(days);
        let millis = self.0.rem_euclid(SECOND) / 1000;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Years are counted from March,
/// so that the leap day comes last; 719 468 days lie between 0000-03-01 and the Unix epoch.
fn civil_date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gps_time_follows_the_leap_table() {
        // 2017-01-01T00:00:00Z: 18 leap seconds.
        let at = Timestamp::from_unix_seconds(1_483_228_800);
        assert_eq!(at.to_gps().seconds(), 1_483_228_800 - 315_964_800 + 18);
        assert_eq!(
            (at - Duration::from_secs(1)).to_gps().seconds(),
            1_483_228_799 - 315_964_800 + 17
        );
        assert_eq!(at.to_gps().to_unix(), at);
    }

    #[test]
    fn gps_time_and_back_is_the_same_around_every_leap_second() {
        for leap in LEAP_SECONDS {
            for offset in [-2, -1, 0, 1, 2] {
                let at = Timestamp::from_unix_seconds(leap + offset);
                assert_eq!(at.to_gps().to_unix(), at, "{at}");
            }
        }
    }

    #[test]
    fn wire_seconds_resolve_to_the_nearest_turn() {
        let near = GpsTime::from_seconds((1 << 32) + 5);
        assert_eq!(
            GpsTime::from_wire_seconds(10, near).seconds(),
            (1 << 32) + 10
        );
        assert_eq!(
            GpsTime::from_wire_seconds(u32::MAX, near).seconds(),
            (1 << 32) - 1
        );
        assert_eq!(near.wire_seconds(), 5);
    }

    #[test]
    fn whole_gps_seconds_are_rounded_up() {
        let at = Timestamp::from_micros(1_700_000_000_000_001);
        assert_eq!(
            at.ceil_gps_second(),
            Timestamp::from_unix_seconds(1_700_000_001)
        );
        assert_eq!(at.ceil_gps_second().ceil_gps_second(), at.ceil_gps_second());
    }

    #[test]
    fn timestamps_print_as_rfc_3339() {
        assert_eq!(
            Timestamp::from_micros(0).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
        assert_eq!(
            Timestamp::from_micros(951_827_696_789_000).to_string(),
            "2000-02-29T12:34:56.789Z"
        );
        assert_eq!(
            Timestamp::from_micros(-1).to_string(),
            "1969-12-31T23:59:59.999Z"
        );
    }
}
