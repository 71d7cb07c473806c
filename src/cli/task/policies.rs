//! Waves and thresholds of a task on the command line. Each is replaced whole: flags of one kind are given together.

use clap::Args;
use prost_types::Duration;
use serde_json::{Value, json};

use crate::cli::moment::{duration_json, duration_parser};
use crate::cli::names::{enum_parser, eui_resource, word_json};
use crate::cli::settings::Mask;
use crate::proto::v1;

const WAVES: &str = "Waves (replaced as a whole)";
const LIMITS: &str = "Thresholds (replaced as a whole)";

/// Waves and thresholds.
#[derive(Args)]
pub(super) struct PolicyArgs {
    /// A device of the first wave; may be repeated
    #[arg(long = "canary", value_name = "DEV_EUI", help_heading = WAVES)]
    canary: Vec<String>,

    /// Share of all devices served after each wave in percent, such as 10,50; the rest is one more wave
    #[arg(long = "wave-percent", value_name = "PERCENT", value_delimiter = ',', help_heading = WAVES)]
    percent: Vec<u32>,

    /// After which waves `fuota task resume` has to let the next begin [default: NONE]
    #[arg(long = "wave-approval", value_parser = enum_parser::<v1::WaveApproval>(), help_heading = WAVES)]
    approval: Option<v1::WaveApproval>,

    /// From the end of a wave to the beginning of the next, such as 6h [default: 0s]
    #[arg(long = "wave-pause", value_name = "DURATION", value_parser = duration_parser(), help_heading = WAVES)]
    pause: Option<Duration>,

    /// Most devices that may fail, in percent of those that have ended
    #[arg(long, value_name = "PERCENT", help_heading = LIMITS)]
    max_failed_percent: Option<u32>,

    /// Devices that must have ended before that share counts
    #[arg(long, value_name = "COUNT", help_heading = LIMITS)]
    min_ended: Option<u32>,

    /// Most devices that may fail
    #[arg(long = "max-failed", value_name = "COUNT", help_heading = LIMITS)]
    max_failed_count: Option<u32>,

    /// Least share of a wave that must succeed before the next begins, in percent
    #[arg(long, value_name = "PERCENT", help_heading = LIMITS)]
    min_succeeded_percent: Option<u32>,

    /// What happens when a limit is passed [default: PAUSE]
    #[arg(long = "on-threshold", value_parser = enum_parser::<v1::ThresholdAction>(), help_heading = LIMITS)]
    action: Option<v1::ThresholdAction>,
}

impl PolicyArgs {
    /// Writes what was given into a task.
    pub(super) fn apply(self, task: &mut v1::FuotaTask, mask: &mut Mask) {
        let waves = v1::WavePolicy {
            canary_devices: self
                .canary
                .iter()
                .map(|device| eui_resource("devices", device))
                .collect(),
            cumulative_percent: self.percent,
            approval: self.approval.unwrap_or_default().into(),
            pause_between: self.pause,
        };
        if waves != v1::WavePolicy::default() {
            mask.put("waves", &mut task.waves, Some(Some(waves)));
        }
        let thresholds = v1::Thresholds {
            max_failed_percent: self.max_failed_percent,
            min_ended: self.min_ended.unwrap_or_default(),
            max_failed_count: self.max_failed_count,
            min_succeeded_percent: self.min_succeeded_percent,
            action: self.action.unwrap_or_default().into(),
        };
        if thresholds != v1::Thresholds::default() {
            mask.put("thresholds", &mut task.thresholds, Some(Some(thresholds)));
        }
    }
}

/// Waves as JSON, null for one wave.
pub(super) fn waves_json(waves: Option<&v1::WavePolicy>) -> Value {
    waves.map_or(Value::Null, |waves| {
        json!({
            "canary_devices": waves.canary_devices,
            "cumulative_percent": waves.cumulative_percent,
            "approval": word_json::<v1::WaveApproval>(waves.approval),
            "pause_between": duration_json(waves.pause_between.as_ref()),
        })
    })
}

/// Thresholds as JSON, null for none.
pub(super) fn thresholds_json(limits: Option<&v1::Thresholds>) -> Value {
    limits.map_or(Value::Null, |limits| {
        json!({
            "max_failed_percent": limits.max_failed_percent,
            "min_ended": limits.min_ended,
            "max_failed_count": limits.max_failed_count,
            "min_succeeded_percent": limits.min_succeeded_percent,
            "action": word_json::<v1::ThresholdAction>(limits.action),
        })
    })
}
