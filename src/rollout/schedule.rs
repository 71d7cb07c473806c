//! When a start may take place.

use std::time::Duration;

use crate::record::RolloutSchedule;
use crate::time::Timestamp;

/// How long after its moment a start may take place unless the schedule says.
const START_WITHIN: Duration = Duration::from_secs(3600);

/// The first moment from `now` on at which a start may take place; `now` itself if one may.
pub(super) fn next(
    schedule: &RolloutSchedule,
    created_at: Timestamp,
    last_start: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    let first = schedule.not_before.unwrap_or(created_at);
    let Some(interval) = schedule.repeat_interval else {
        return schedule.not_before.map_or(now, |first| first.max(now));
    };
    if now < first {
        return first;
    }
    let length = i64::try_from(interval.as_micros())
        .unwrap_or(i64::MAX)
        .max(1);
    let into = now.micros_since(first).rem_euclid(length);
    let begin = Timestamp::from_micros(now.as_micros().saturating_sub(into));
    let within = schedule.start_within.unwrap_or(START_WITHIN).min(interval);
    let open = now < begin + within;
    let unused = last_start.is_none_or(|last| last < begin);
    if open && unused {
        now
    } else {
        begin + interval
    }
}

/// Whether enough devices have gathered, or have waited long enough; the error says until when to wait at most.
pub(super) fn gathered(
    schedule: &RolloutSchedule,
    devices: usize,
    since: Timestamp,
    now: Timestamp,
) -> Result<(), Option<Timestamp>> {
    let least = usize::try_from(schedule.min_devices).unwrap_or(usize::MAX);
    let until = schedule.max_wait.map(|wait| since + wait);
    if devices >= least || until.is_some_and(|until| until <= now) {
        Ok(())
    } else {
        Err(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    #[test]
    fn a_start_comes_once_an_interval_and_only_at_its_beginning() {
        let hourly = RolloutSchedule {
            not_before: Some(at(1000)),
            repeat_interval: Some(Duration::from_secs(3600)),
            start_within: Some(Duration::from_secs(600)),
            ..RolloutSchedule::default()
        };
        let next = |last, now| next(&hourly, at(0), last, at(now));
        assert_eq!(next(None, 10), at(1000));
        assert_eq!(next(None, 1000), at(1000));
        assert_eq!(next(None, 1599), at(1599));
        assert_eq!(next(None, 1600), at(4600));
        assert_eq!(next(Some(at(1000)), 1001), at(4600));
        assert_eq!(next(Some(at(1000)), 4599), at(4600));
        assert_eq!(next(Some(at(1000)), 4600), at(4600));
    }

    #[test]
    fn without_an_interval_only_the_first_moment_counts() {
        let schedule = RolloutSchedule {
            not_before: Some(at(1000)),
            ..RolloutSchedule::default()
        };
        assert_eq!(next(&schedule, at(0), None, at(10)), at(1000));
        assert_eq!(next(&schedule, at(0), Some(at(1500)), at(2000)), at(2000));
        let always = RolloutSchedule::default();
        assert_eq!(next(&always, at(5000), None, at(10)), at(10));
    }

    #[test]
    fn devices_gather_until_they_are_enough_or_have_waited() {
        let mut schedule = RolloutSchedule {
            min_devices: 3,
            ..RolloutSchedule::default()
        };
        assert_eq!(gathered(&schedule, 2, at(0), at(9999)), Err(None));
        assert_eq!(gathered(&schedule, 3, at(0), at(0)), Ok(()));
        schedule.max_wait = Some(Duration::from_secs(60));
        assert_eq!(gathered(&schedule, 1, at(0), at(59)), Err(Some(at(60))));
        assert_eq!(gathered(&schedule, 1, at(0), at(60)), Ok(()));
    }
}
