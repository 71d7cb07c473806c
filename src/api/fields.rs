//! Checks of request fields. All bad fields of a request are collected, so that a caller learns of them at once.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::lorawan::keys::Key128;
use crate::record::TenantId;
use crate::time::Timestamp;

use super::errors::{ApiError, BadField};
use super::filter::{Filter, Kind};
use super::names;

/// Bad fields found so far, and the message that is being looked at.
#[derive(Debug, Default)]
pub(super) struct Fields {
    prefix: String,
    bad: Vec<BadField>,
}

impl Fields {
    /// Checks of the fields of `message` inside the request.
    pub(super) fn of(message: &str) -> Self {
        Self {
            prefix: format!("{message}."),
            bad: Vec::new(),
        }
    }

    /// Notes a bad field.
    pub(super) fn bad(&mut self, field: &str, why: impl Into<String>) {
        self.bad.push(BadField {
            field: format!("{}{field}", self.prefix),
            why: why.into(),
        });
    }

    /// Checks of the fields of a message within the one that is looked at.
    pub(super) fn within<T>(&mut self, message: &str, check: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.prefix.clone();
        self.prefix = format!("{outer}{message}.");
        let checked = check(self);
        self.prefix = outer;
        checked
    }

    /// Notes a bad field of the request itself.
    pub(super) fn bad_in_request(&mut self, field: &str, why: impl Into<String>) {
        self.bad.push(BadField {
            field: field.to_owned(),
            why: why.into(),
        });
    }

    /// Whether nothing was bad so far.
    pub(super) fn good(&self) -> bool {
        self.bad.is_empty()
    }

    /// An error that names every bad field, if there is one.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        if self.bad.is_empty() {
            Ok(())
        } else {
            Err(ApiError::Invalid(self.bad))
        }
    }

    /// `Some` if nothing was bad and `value` could be read.
    pub(super) fn finish_with<T>(self, value: Option<T>) -> Result<T, ApiError> {
        match value {
            Some(value) if self.bad.is_empty() => Ok(value),
            _ => Err(ApiError::Invalid(self.bad)),
        }
    }

    /// A text of at most `longest` characters without control characters.
    pub(super) fn text(&mut self, field: &str, value: &str, longest: usize) {
        if value.chars().count() > longest {
            self.bad(field, format!("longer than {longest} characters"));
        } else if value.chars().any(char::is_control) {
            self.bad(field, "has control characters");
        }
    }

    /// Marks: at most 64, keys of `[A-Za-z0-9_-]{1,63}`, values of at most `longest` characters.
    pub(super) fn marks(&mut self, field: &str, marks: &BTreeMap<String, String>, longest: usize) {
        if marks.len() > 64 {
            self.bad(field, "more than 64 keys");
        }
        for (key, value) in marks {
            if !names::is_mark_key(key) {
                self.bad(field, "a key is not 1 to 63 characters of [A-Za-z0-9_-]");
            }
            if value.chars().count() > longest {
                self.bad(
                    &format!("{field}.{key}"),
                    format!("longer than {longest} characters"),
                );
            }
        }
    }

    /// A number in its range, as the type of its record.
    pub(super) fn number<T>(
        &mut self,
        field: &str,
        value: u32,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: TryFrom<u32> + PartialOrd + Display,
    {
        match T::try_from(value) {
            Ok(value) if range.contains(&value) => Some(value),
            _ => {
                self.bad(
                    field,
                    format!("{value} is not in {}..={}", range.start(), range.end()),
                );
                None
            }
        }
    }

    /// As [`Fields::number`], with a default for zero.
    pub(super) fn number_or<T>(
        &mut self,
        field: &str,
        value: u32,
        range: RangeInclusive<T>,
        default: T,
    ) -> Option<T>
    where
        T: TryFrom<u32> + PartialOrd + Display,
    {
        if value == 0 {
            Some(default)
        } else {
            self.number(field, value, range)
        }
    }

    /// A real number in its range.
    pub(super) fn real(&mut self, field: &str, value: f64, range: RangeInclusive<f64>) -> f32 {
        if !range.contains(&value) {
            self.bad(
                field,
                format!("{value} is not in {}..={}", range.start(), range.end()),
            );
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "ranges are small; a setting needs no more precision"
        )]
        let value = value as f32;
        value
    }

    /// A frequency in Hz that the wire can carry: a multiple of 100 below 2^24 of them; zero = none given.
    pub(super) fn frequency(&mut self, field: &str, hz: u32) -> Option<u32> {
        if hz == 0 {
            return None;
        }
        if !hz.is_multiple_of(100) || hz / 100 >= 1 << 24 || hz < 100_000_000 {
            self.bad(
                field,
                format!("{hz} is no frequency in Hz that is a multiple of 100"),
            );
        }
        Some(hz)
    }

    /// Sixteen bytes.
    pub(super) fn key(&mut self, field: &str, bytes: &[u8]) -> Option<Key128> {
        match <[u8; 16]>::try_from(bytes) {
            Ok(bytes) => Some(Key128::from_bytes(bytes)),
            Err(_) => {
                self.bad(field, format!("{} bytes instead of 16", bytes.len()));
                None
            }
        }
    }

    /// A moment between 1980 and 2100.
    pub(super) fn moment(
        &mut self,
        field: &str,
        value: Option<&prost_types::Timestamp>,
    ) -> Option<Timestamp> {
        const FIRST: i64 = 315_964_800;
        const LAST: i64 = 4_102_444_800;
        let value = value?;
        if !(FIRST..LAST).contains(&value.seconds) || !(0..1_000_000_000).contains(&value.nanos) {
            self.bad(field, "not a valid time between 1980 and 2100");
            return None;
        }
        Some(Timestamp::from_micros(
            value.seconds * 1_000_000 + i64::from(value.nanos / 1000),
        ))
    }

    /// A length of time in its range.
    pub(super) fn length(
        &mut self,
        field: &str,
        value: Option<&prost_types::Duration>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = value?;
        let read = u64::try_from(value.seconds).ok().zip(
            u32::try_from(value.nanos)
                .ok()
                .filter(|nanos| *nanos < 1_000_000_000),
        );
        match read.map(|(seconds, nanos)| {
            Duration::from_secs(seconds).saturating_add(Duration::from_nanos(u64::from(nanos)))
        }) {
            Some(length) if range.contains(&length) => Some(length),
            _ => {
                self.bad(
                    field,
                    format!("not between {:?} and {:?}", range.start(), range.end()),
                );
                None
            }
        }
    }

    /// A value of an enum, in its record's type; `None` is noted as unknown.
    pub(super) fn known<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.bad(field, "missing, or a value this server does not know");
        }
        value
    }

    /// The filter of a list call.
    pub(super) fn filter(&mut self, text: &str, known: &[(&str, Kind)]) -> Filter {
        Filter::parse(text, known).unwrap_or_else(|why| {
            self.bad_in_request("filter", why);
            Filter::default()
        })
    }

    /// The last part of a resource name, checked to be `{collection}/{id}`.
    pub(super) fn name<'n>(
        &mut self,
        field: &str,
        collection: &str,
        name: &'n str,
    ) -> Option<&'n str> {
        let id = names::id_of(collection, name);
        if id.is_none() {
            self.bad(field, format!("not of the form {collection}/..."));
        }
        id
    }

    /// An identifier for a new resource; `None` = the server makes one.
    pub(super) fn new_id(&mut self, field: &str, id: &str) -> Option<String> {
        if id.is_empty() {
            return None;
        }
        if !names::is_id(id) {
            self.bad_in_request(
                field,
                "not 1 to 63 characters of [a-z0-9-], first and last no hyphen",
            );
        }
        Some(id.to_owned())
    }
}

/// The tenant of a call. There is one until credentials decide it.
pub(super) fn tenant() -> TenantId {
    TenantId::default()
}

/// A moment as the API shows it.
pub(super) fn show_moment(at: Timestamp) -> prost_types::Timestamp {
    let micros = at.as_micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0),
    }
}

/// A length of time as the API shows it.
pub(super) fn show_length(length: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or(0),
    }
}
