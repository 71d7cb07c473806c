//! Waves and thresholds of a task between the API and the records.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::proto::v1;
use crate::record::{Approval, ThresholdAction, Thresholds, WavePolicy};

use super::fields::{Fields, show_length};
use super::names;

/// Most canaries and most shares.
const MOST_CANARIES: usize = 1000;
const MOST_SHARES: usize = 50;
/// Longest pause between two waves.
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn read_waves(fields: &mut Fields, given: Option<&v1::WavePolicy>) -> WavePolicy {
    let Some(given) = given else {
        return WavePolicy::default();
    };
    if given.canary_devices.len() > MOST_CANARIES {
        fields.bad("waves.canary_devices", format!("more than {MOST_CANARIES}"));
    }
    let mut canary = BTreeSet::new();
    for (at, name) in given.canary_devices.iter().enumerate().take(MOST_CANARIES) {
        match names::device(name) {
            Some(dev_eui) => {
                canary.insert(dev_eui);
            }
            None => fields.bad(
                &format!("waves.canary_devices[{at}]"),
                "not of the form devices/{dev_eui}",
            ),
        }
    }
    if given.cumulative_percent.len() > MOST_SHARES {
        fields.bad(
            "waves.cumulative_percent",
            format!("more than {MOST_SHARES}"),
        );
    }
    let mut cumulative_percent: Vec<u8> = Vec::new();
    for (at, percent) in given
        .cumulative_percent
        .iter()
        .enumerate()
        .take(MOST_SHARES)
    {
        let field = format!("waves.cumulative_percent[{at}]");
        let Some(percent) = fields.number(&field, *percent, 1..=100) else {
            continue;
        };
        if cumulative_percent
            .last()
            .is_some_and(|last| *last >= percent)
        {
            fields.bad(&field, "not more than the one before");
        }
        cumulative_percent.push(percent);
    }
    let approval = match v1::WaveApproval::try_from(given.approval) {
        Ok(v1::WaveApproval::Unspecified | v1::WaveApproval::None) => Approval::None,
        Ok(v1::WaveApproval::AfterFirst) => Approval::AfterFirst,
        Ok(v1::WaveApproval::AfterEach) => Approval::AfterEach,
        Err(_) => {
            fields.bad("waves.approval", "a value this server does not know");
            Approval::None
        }
    };
    let pause_between = fields.length(
        "waves.pause_between",
        given.pause_between.as_ref(),
        Duration::ZERO..=LONGEST_PAUSE,
    );
    WavePolicy {
        canary: canary.into_iter().collect(),
        cumulative_percent,
        approval,
        pause_between: pause_between.unwrap_or_default(),
    }
}

pub(super) fn show_waves(policy: &WavePolicy) -> Option<v1::WavePolicy> {
    (*policy != WavePolicy::default()).then(|| v1::WavePolicy {
        canary_devices: policy
            .canary
            .iter()
            .map(|dev_eui| names::name("devices", dev_eui))
            .collect(),
        cumulative_percent: policy
            .cumulative_percent
            .iter()
            .map(|percent| u32::from(*percent))
            .collect(),
        approval: match policy.approval {
            Approval::None => v1::WaveApproval::None,
            Approval::AfterFirst => v1::WaveApproval::AfterFirst,
            Approval::AfterEach => v1::WaveApproval::AfterEach,
        }
        .into(),
        pause_between: Some(show_length(policy.pause_between)),
    })
}

pub(super) fn read_thresholds(fields: &mut Fields, given: Option<&v1::Thresholds>) -> Thresholds {
    let Some(given) = given else {
        return Thresholds::default();
    };
    let mut percent = |field: &str, value: Option<u32>| {
        value.and_then(|value| fields.number::<u8>(field, value, 0..=100))
    };
    let max_failed_percent = percent("thresholds.max_failed_percent", given.max_failed_percent);
    let min_succeeded_percent = percent(
        "thresholds.min_succeeded_percent",
        given.min_succeeded_percent,
    );
    let action = match v1::ThresholdAction::try_from(given.action) {
        Ok(v1::ThresholdAction::Unspecified | v1::ThresholdAction::Pause) => ThresholdAction::Pause,
        Ok(v1::ThresholdAction::Abort) => ThresholdAction::Abort,
        Err(_) => {
            fields.bad("thresholds.action", "a value this server does not know");
            ThresholdAction::Pause
        }
    };
    Thresholds {
        max_failed_percent,
        min_ended: given.min_ended,
        max_failed_count: given.max_failed_count,
        min_succeeded_percent,
        action,
    }
}

pub(super) fn show_thresholds(limits: &Thresholds) -> Option<v1::Thresholds> {
    (*limits != Thresholds::default()).then(|| v1::Thresholds {
        max_failed_percent: limits.max_failed_percent.map(u32::from),
        min_ended: limits.min_ended,
        max_failed_count: limits.max_failed_count,
        min_succeeded_percent: limits.min_succeeded_percent.map(u32::from),
        action: match limits.action {
            ThresholdAction::Pause => v1::ThresholdAction::Pause,
            ThresholdAction::Abort => v1::ThresholdAction::Abort,
        }
        .into(),
    })
}
