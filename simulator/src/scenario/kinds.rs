//! The kinds of values in a scenario file: numbers with ranges, durations and sizes with units, shares, words.
//!
//! Each is a function that makes a reader of a value; its error says what is allowed.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use lorawan_fuota::time::Timestamp;
use toml::de::DeValue;

/// Text of any length.
pub(super) fn text(value: &DeValue<'_>) -> Result<String, String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| "text in quotes".to_owned())
}

/// A name that can be an identifier: 1 to 32 characters of `[a-z0-9-]`.
pub(super) fn identifier(value: &DeValue<'_>) -> Result<String, String> {
    let allowed = || "1 to 32 of the characters a to z, 0 to 9 and -, in quotes".to_owned();
    let name = text(value).map_err(|_| allowed())?;
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = (1..=32).contains(&name.len()) && name.chars().all(good);
    fits.then_some(name).ok_or_else(allowed)
}

/// Yes or no.
pub(super) fn yes(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "true or false".to_owned())
}

/// A whole number in a range.
pub(super) fn whole<N>(range: RangeInclusive<N>) -> impl Fn(&DeValue<'_>) -> Result<N, String>
where
    N: TryFrom<i64> + PartialOrd + Display,
{
    move |value| {
        let number = integer(value).and_then(|number| N::try_from(number).ok());
        number.filter(|n| range.contains(n)).ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            format!("a whole number from {from} to {to}")
        })
    }
}

/// A number in a range.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&DeValue<'_>) -> Result<f64, String> {
    move |value| {
        float(value).filter(|n| range.contains(n)).ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            format!("a number from {from} to {to}")
        })
    }
}

/// A share: a number from 0 to 1, or text such as "10 %".
pub(super) fn share(value: &DeValue<'_>) -> Result<f64, String> {
    let share = match value {
        DeValue::String(text) => {
            let number = text.trim().strip_suffix('%').map(str::trim);
            number
                .and_then(|n| n.parse::<f64>().ok())
                .map(|n| n / 100.0)
        }
        other => float(other),
    };
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "a share: a number from 0 to 1, or \"0 %\" to \"100 %\"".to_owned())
}

/// A share, or the word "all".
pub(super) fn share_or_all(value: &DeValue<'_>) -> Result<f64, String> {
    if value.as_str() == Some("all") {
        return Ok(1.0);
    }
    share(value).map_err(|allowed| format!("\"all\", or {allowed}"))
}

/// A length of time: text such as "90 s", "1 h 30 min", "3 days".
pub(super) fn time(value: &DeValue<'_>) -> Result<Duration, String> {
    let allowed =
        || "a time with its unit, such as \"500 ms\", \"90 s\", \"2 h\" or \"3 days\"".to_owned();
    let text = value.as_str().ok_or_else(allowed)?;
    duration(text).ok_or_else(allowed)
}

/// As [`time`], which may be before zero: "-3 s".
pub(super) fn signed_time_us(value: &DeValue<'_>) -> Result<i64, String> {
    let allowed = || "a time with its unit, such as \"2 s\" or \"-500 ms\"".to_owned();
    let text = value.as_str().ok_or_else(allowed)?;
    let (sign, rest) = match text.trim().strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let length = duration(rest).ok_or_else(allowed)?;
    let us = i64::try_from(length.as_micros()).map_err(|_| allowed())?;
    Ok(sign * us)
}

/// As [`time`], within limits.
pub(super) fn time_in(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, String> {
    move |value| {
        let (from, to) = (range.start(), range.end());
        let limits = format!("{} to {}", spoken(*from), spoken(*to));
        let length = time(value).map_err(|allowed| format!("{allowed}; {limits}"))?;
        let fits = range.contains(&length);
        fits.then_some(length)
            .ok_or_else(|| format!("a time from {limits}"))
    }
}

/// A number of bytes, or text such as "20 kB".
pub(super) fn bytes(range: RangeInclusive<u32>) -> impl Fn(&DeValue<'_>) -> Result<u32, String> {
    move |value| {
        let size = match value {
            DeValue::String(text) => size(text),
            other => integer(other).and_then(|n| u32::try_from(n).ok()),
        };
        size.filter(|size| range.contains(size)).ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            format!("{from} to {to} bytes, as a number or with a unit: \"20 kB\", \"20 KiB\"")
        })
    }
}

/// One of some words.
pub(super) fn word<T: Copy>(
    words: &[(&'static str, T)],
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            format!("one of {}", words.join(", "))
        })
    }
}

/// So many numbers.
pub(super) fn numbers<const N: usize>(
    what: &'static str,
) -> impl Fn(&DeValue<'_>) -> Result<[f64; N], String> {
    move |value| {
        let list = value.as_array().map(|array| {
            let numbers = array.iter().filter_map(|element| float(element.get_ref()));
            let numbers: Vec<f64> = numbers.filter(|n| n.abs() <= 1e7).collect();
            (numbers, array.len())
        });
        let fits = list.filter(|(_, length)| *length == N);
        fits.and_then(|(numbers, _)| <[f64; N]>::try_from(numbers).ok())
            .ok_or_else(|| format!("{what}, in metres"))
    }
}

/// A date and time with its offset.
pub(super) fn moment(value: &DeValue<'_>) -> Result<Timestamp, String> {
    let allowed =
        || "a date and time with its offset, without quotes: 2027-01-15T08:00:00Z".to_owned();
    let at = value.as_datetime().ok_or_else(allowed)?;
    let (Some(date), Some(time), Some(offset)) = (at.date, at.time, at.offset) else {
        return Err(allowed());
    };
    let offset_minutes = match offset {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_since_epoch(date.year.into(), date.month.into(), date.day.into());
    let second = i64::from(time.second.unwrap_or(0));
    let minutes = i64::from(time.hour) * 60 + i64::from(time.minute) - offset_minutes;
    if !(2020..2100).contains(&date.year) {
        return Err("a date from 2020 to 2099".to_owned());
    }
    Ok(Timestamp::from_unix_seconds(
        days * 86_400 + minutes * 60 + second,
    ))
}

/// Days from 1970-01-01 to a date (the civil calendar, years counted from March).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month < 3 {
        (year - 1, month + 12)
    } else {
        (year, month)
    };
    let of_year = (153 * (month - 3) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

/// A minute of the day: "22:30".
pub(super) fn minute(value: &DeValue<'_>) -> Result<u16, String> {
    let read = value.as_str().and_then(|text| {
        let (hour, minute) = text.split_once(':')?;
        let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
        let at = hour.checked_mul(60)?.checked_add(minute)?;
        (minute < 60 && at <= 1440).then_some(at)
    });
    read.ok_or_else(|| "a time of the day from \"00:00\" to \"24:00\"".to_owned())
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn float(value: &DeValue<'_>) -> Option<f64> {
    let read = match value {
        DeValue::Float(number) => number.as_str().parse().ok(),
        DeValue::Integer(number) => number.as_str().parse().ok(),
        _ => None,
    };
    read.filter(|n: &f64| n.is_finite())
}

/// Seconds in a unit.
fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "second" | "seconds" => 1.0,
        "min" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        "week" | "weeks" => 604_800.0,
        _ => return None,
    })
}

fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at_checked(digits)?;
        let after = after.trim_start();
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (name, after) = after.split_at_checked(letters)?;
        total += number.parse::<f64>().ok()? * unit(name)?;
        rest = after.trim_start();
    }
    // A year and more is a slip of the pen.
    let whole = (total * 1e6).round() / 1e6;
    (whole <= 366.0 * 86_400.0)
        .then(|| Duration::try_from_secs_f64(whole).ok())
        .flatten()
}

fn size(text: &str) -> Option<u32> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.trim() {
        "B" | "bytes" => 1.0,
        "kB" => 1e3,
        "KiB" => 1024.0,
        "MB" => 1e6,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    let whole = bytes.is_finite() && bytes.fract() == 0.0 && bytes <= f64::from(u32::MAX);
    // Through text: no cast that could cut something off.
    whole.then(|| format!("{bytes:.0}").parse().ok()).flatten()
}

/// A length of time as people write it: `1 h 30 min`.
pub(super) fn spoken(length: Duration) -> String {
    if length < Duration::from_secs(1) {
        return format!("{} ms", length.as_millis());
    }
    let seconds = length.as_secs();
    if seconds < 60 && length.subsec_millis() > 0 {
        return format!("{:.1} s", length.as_secs_f64());
    }
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|(n, _)| *n > 0);
    let shown: Vec<String> = shown.map(|(n, unit)| format!("{n} {unit}")).collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        let seconds = |text| duration(text).map(|d| d.as_secs_f64());
        assert_eq!(seconds("90 s"), Some(90.0));
        assert_eq!(seconds("1 h 30 min"), Some(5400.0));
        assert_eq!(seconds("1.5h"), Some(5400.0));
        assert_eq!(seconds("3 days"), Some(259_200.0));
        assert_eq!(seconds("250 ms"), Some(0.25));
        for wrong in ["", "90", "s", "5 parsecs", "1..5 s", "-3 s", "9999 days"] {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
        assert_eq!(spoken(Duration::from_secs(5400)), "1 h 30 min");
        assert_eq!(spoken(Duration::from_secs(86_400)), "1 d");
    }

    #[test]
    fn sizes_and_dates_are_read() {
        assert_eq!(size("20 kB"), Some(20_000));
        assert_eq!(size("1.5 KiB"), Some(1536));
        assert_eq!(size("1.5 B"), None);
        assert_eq!(size("7 apples"), None);
        assert_eq!(days_since_epoch(1970, 1, 1), 0);
        assert_eq!(days_since_epoch(2027, 1, 15) * 86_400, 1_799_971_200);
        assert_eq!(
            days_since_epoch(2024, 2, 29) + 1,
            days_since_epoch(2024, 3, 1)
        );
    }
}
