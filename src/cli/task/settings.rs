//! The settings of a task on the command line.

use clap::Args;

use super::policies::PolicyArgs;
use super::rules::RuleArgs;
use crate::cli::moment::{When, now, when_parser};
use crate::cli::names::{enum_parser, parse_hex};
use crate::cli::output::Failure;
use crate::cli::settings::{Mask, TagArgs};
use crate::proto::v1;

/// Settings of a task.
#[derive(Args)]
pub(in crate::cli) struct TaskSettings {
    /// A name for people
    #[arg(long)]
    name: Option<String>,

    /// What counts as success of a device [default: RUNNING]
    #[arg(long, value_parser = enum_parser::<v1::SuccessCriterion>())]
    criterion: Option<v1::SuccessCriterion>,

    /// When devices reboot [default: WHEN_READY if the criterion is RUNNING, else NONE]
    #[arg(long, value_parser = enum_parser::<v1::RebootMode>())]
    reboot: Option<v1::RebootMode>,

    /// When all devices reboot, for --reboot AT_TIME
    #[arg(long, value_name = "TIME", value_parser = when_parser(), help_heading = TIMES)]
    reboot_time: Option<When>,

    /// Set-up may begin [default: with the start]
    #[arg(long, value_name = "TIME", value_parser = when_parser(), help_heading = TIMES)]
    prepare_after: Option<When>,

    /// The first distribution window opens [default: as early as every device can be set up]
    #[arg(long, value_name = "TIME", value_parser = when_parser(), help_heading = TIMES)]
    window_start: Option<When>,

    /// What is open then ends [default: well after the expected end]
    #[arg(long, value_name = "TIME", value_parser = when_parser(), help_heading = TIMES)]
    deadline: Option<When>,

    /// Clean-up of devices ends [default: 24 hours after the deadline]
    #[arg(long, value_name = "TIME", value_parser = when_parser(), help_heading = TIMES)]
    cleanup_deadline: Option<When>,

    /// Most coded fragments in percent of the uncoded ones, 0 to 1000 [default: 100]
    #[arg(long, value_name = "PERCENT", help_heading = RADIO)]
    max_redundancy_percent: Option<u32>,

    /// Class of the sessions: A, B or C [default: that of the group, or the fastest the devices have]
    #[arg(long, value_parser = enum_parser::<v1::DeviceClass>(), hide_possible_values = true, help_heading = RADIO)]
    class: Option<v1::DeviceClass>,

    /// Class B: how often groups listen, 0 (about every second) to 7 (every 128 s) [default: as seldom as it can be]
    #[arg(long, value_name = "N", help_heading = RADIO)]
    ping_slot_periodicity: Option<u32>,

    /// Data rate of all sessions [default: that of the group, or the planner chooses]
    #[arg(long, value_name = "DR", help_heading = RADIO)]
    data_rate: Option<u32>,

    /// Frequency of all sessions in Hz [default: that of the group, or the planner chooses]
    #[arg(long, value_name = "HZ", help_heading = RADIO)]
    frequency: Option<u32>,

    /// FragSize in bytes, 1 to 239 [default: the planner chooses]
    #[arg(long, value_name = "BYTES", help_heading = RADIO)]
    frag_size: Option<u32>,

    /// Descriptor of FragSessionSetupReq, 4 bytes in hex as they go on air [default: by the profile]
    #[arg(long, value_name = "HEX", help_heading = RADIO)]
    frag_descriptor: Option<String>,

    /// The code for lost fragments, where the profiles of devices claim it [default: TS004]
    #[arg(long, value_parser = enum_parser::<v1::FragAlgo>(), help_heading = RADIO)]
    frag_algo: Option<v1::FragAlgo>,

    /// Leave multicast groups on devices that succeed, for the next task of the same devices
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    keep_groups: Option<bool>,

    #[command(flatten)]
    fit: FitArgs,

    #[command(flatten)]
    policies: PolicyArgs,

    #[command(flatten)]
    rules: RuleArgs,

    #[command(flatten)]
    tags: TagArgs,
}

/// Whom the image goes to.
#[derive(clap::Args)]
struct FitArgs {
    /// Serve devices that run a higher version than the image has
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = FIT)]
    allow_downgrade: Option<bool>,

    /// Leave out devices the image does not fit, instead of refusing to start
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = FIT)]
    skip_unfit: Option<bool>,

    /// Send the whole image also where a delta would do
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = FIT)]
    whole_images_only: Option<bool>,
}

impl FitArgs {
    fn apply(self, task: &mut v1::FuotaTask, mask: &mut Mask) {
        mask.put(
            "allow_downgrade",
            &mut task.allow_downgrade,
            self.allow_downgrade,
        );
        mask.put(
            "skip_unfit_devices",
            &mut task.skip_unfit_devices,
            self.skip_unfit,
        );
        mask.put(
            "whole_images_only",
            &mut task.whole_images_only,
            self.whole_images_only,
        );
    }
}

const FIT: &str = "Image and devices";
const TIMES: &str = "Times (RFC 3339, or +30m from now)";
const RADIO: &str = "Radio";

impl TaskSettings {
    /// Writes what was given into a task.
    ///
    /// # Errors
    /// The descriptor is not hex.
    pub(in crate::cli) fn apply(
        self,
        task: &mut v1::FuotaTask,
        mask: &mut Mask,
    ) -> Result<(), Failure> {
        let now = now();
        let at = |when: Option<When>| when.map(|when| when.resolve(&now));
        let descriptor = self.frag_descriptor.as_deref().map(parse_hex).transpose();
        let descriptor =
            descriptor.map_err(|problem| Failure::Usage(format!("--frag-descriptor {problem}")))?;
        mask.put("display_name", &mut task.display_name, self.name);
        mask.put(
            "success_criterion",
            &mut task.success_criterion,
            self.criterion,
        );
        mask.put("reboot_mode", &mut task.reboot_mode, self.reboot);
        mask.put("reboot_time", &mut task.reboot_time, at(self.reboot_time));
        mask.put(
            "prepare_after",
            &mut task.prepare_after,
            at(self.prepare_after),
        );
        mask.put(
            "window_start",
            &mut task.window_start,
            at(self.window_start),
        );
        mask.put("deadline", &mut task.deadline, at(self.deadline));
        mask.put(
            "cleanup_deadline",
            &mut task.cleanup_deadline,
            at(self.cleanup_deadline),
        );
        mask.put(
            "max_redundancy_percent",
            &mut task.max_redundancy_percent,
            self.max_redundancy_percent,
        );
        mask.put("device_class", &mut task.device_class, self.class);
        mask.put(
            "ping_slot_periodicity",
            &mut task.ping_slot_periodicity,
            self.ping_slot_periodicity,
        );
        mask.put("data_rate", &mut task.data_rate, self.data_rate);
        mask.put("frequency_hz", &mut task.frequency_hz, self.frequency);
        mask.put("frag_size", &mut task.frag_size, self.frag_size);
        mask.put("frag_descriptor", &mut task.frag_descriptor, descriptor);
        mask.put("keep_groups", &mut task.keep_groups, self.keep_groups);
        self.fit.apply(task, mask);
        self.policies.apply(task, mask);
        self.rules.apply(task, mask);
        mask.put("frag_algo", &mut task.frag_algo, self.frag_algo);
        self.tags.apply(mask, &mut task.tags);
        Ok(())
    }
}
