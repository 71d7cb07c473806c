//! `fuota rollout`: standing orders that keep devices on a release. How they are printed is in `document`.

mod document;

use clap::{Args, Subcommand};
use prost_types::Duration;
use serde_json::json;

use self::document::{rollout_json, rollout_text, table_text};
use super::connection::{ListArgs, pages};
use super::image;
use super::image::parse_number;
use super::moment::{When, duration_parser, now, when_parser};
use super::names::{eui_resource, parse_pair, resource};
use super::output::Failure;
use super::settings::{ClearArgs, DevicesArgs, Mask};
use super::task::TaskSettings;
use super::{Context, Outcome};
use crate::proto::v1;

/// What to do with rollouts.
#[derive(Subcommand)]
pub enum RolloutCommand {
    /// Create a rollout; it starts nothing before it is enabled
    #[command(after_help = "Examples:
  fuota rollout create --id meters --model meter-3 --enable

  fuota rollout create --id north --model meter-3 --match-tag site=north --test-device 70b3d57ed0000001 \\
    --not-before 2026-03-01T02:00:00Z --every 1d --enable")]
    Create(Box<CreateArgs>),
    /// Show one rollout
    Get {
        /// The rollout
        rollout: String,
    },
    /// List rollouts
    ///
    /// Filter fields: state, model, current_image.
    List(ListArgs),
    /// Change a rollout; tasks that have begun go on as they are
    Update(Box<UpdateArgs>),
    /// Delete a rollout none of whose tasks is under way
    Delete {
        /// The rollout
        rollout: String,
    },
    /// Let a rollout start tasks; one whose validation failed tries again
    Enable {
        /// The rollout
        rollout: String,
    },
    /// Keep a rollout from starting further tasks
    Disable {
        /// The rollout
        rollout: String,
    },
    /// Disable a rollout and cancel its tasks
    Withdraw {
        /// The rollout
        rollout: String,
    },
    /// Bring the image to devices now, whatever the schedule and earlier failures say
    Push {
        /// The rollout
        rollout: String,
        #[command(flatten)]
        devices: DevicesArgs,
    },
}

/// Arguments of `fuota rollout create`.
#[derive(Args)]
pub struct CreateArgs {
    /// The last part of its name: a-z, 0-9 and hyphens; default: made by the server
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    #[command(flatten)]
    settings: RolloutSettings,
    /// Let it start tasks at once
    #[arg(long)]
    enable: bool,
}

/// Arguments of `fuota rollout update`.
#[derive(Args)]
pub struct UpdateArgs {
    /// The rollout
    rollout: String,
    #[command(flatten)]
    settings: RolloutSettings,
    #[command(flatten)]
    clear: ClearArgs,
}

const SELECTOR: &str = "Which devices";
const SCHEDULE: &str = "When tasks start (times RFC 3339, or +30m from now)";
const VALIDATION: &str = "Validation";

/// Settings of a rollout; those of its tasks are those of `fuota task create`.
#[derive(Args)]
struct RolloutSettings {
    /// The image to keep devices on: SHA-256 or its beginning [default: the highest active one]
    #[arg(long)]
    image: Option<String>,

    /// How often an image is brought to a device that does not take it [default: 2]
    #[arg(long, value_name = "COUNT")]
    max_failures: Option<u32>,

    /// From one try of a device to the next, such as 12h [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = duration_parser())]
    retry_after: Option<Duration>,

    #[command(flatten)]
    selector: SelectorArgs,

    #[command(flatten)]
    schedule: ScheduleArgs,

    #[command(flatten)]
    validation: ValidationArgs,

    #[command(flatten)]
    task: TaskSettings,
}

/// Which devices.
#[derive(Args)]
struct SelectorArgs {
    /// Of this model [default: any]
    #[arg(long, help_heading = SELECTOR)]
    model: Option<String>,

    /// The component whose version counts [default: main]
    #[arg(long, help_heading = SELECTOR)]
    component: Option<String>,

    /// Of this profile
    #[arg(long, help_heading = SELECTOR)]
    profile: Option<String>,

    /// Members of this multicast group
    #[arg(long, help_heading = SELECTOR)]
    group: Option<String>,

    /// With this tag, KEY=VALUE; may be repeated; replaces those before
    #[arg(long = "match-tag", value_name = "KEY=VALUE", value_parser = parse_pair, help_heading = SELECTOR)]
    match_tags: Vec<(String, String)>,

    /// That run this version; may be repeated; replaces those before [default: any older one]
    #[arg(long = "from-version", value_name = "NUMBER", value_parser = parse_number, help_heading = SELECTOR)]
    from_versions: Vec<u32>,

    /// Also those whose version nobody has reported
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = SELECTOR)]
    unknown_versions: Option<bool>,
}

/// When tasks start.
#[derive(Args)]
struct ScheduleArgs {
    /// No start before; starts that repeat count from it
    #[arg(long, value_name = "TIME", value_parser = when_parser(), help_heading = SCHEDULE)]
    not_before: Option<When>,

    /// From one start to the next, such as 1d [default: as soon as a device is behind]
    #[arg(long, value_name = "DURATION", value_parser = duration_parser(), help_heading = SCHEDULE)]
    every: Option<Duration>,

    /// How late a start may be [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration_parser(), help_heading = SCHEDULE)]
    start_within: Option<Duration>,

    /// No start with fewer devices [default: 1]
    #[arg(long, value_name = "COUNT", help_heading = SCHEDULE)]
    min_devices: Option<u32>,

    /// With fewer all the same once they have waited so long [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration_parser(), help_heading = SCHEDULE)]
    max_wait: Option<Duration>,
}

/// What comes first.
#[derive(Args)]
struct ValidationArgs {
    /// A device every image is tried on first, DevEUI; may be repeated; replaces those before
    #[arg(long = "test-device", value_name = "DEV_EUI", help_heading = VALIDATION)]
    test_devices: Vec<String>,

    /// Share of them that must take it, in percent [default: 100]
    #[arg(long, value_name = "PERCENT", help_heading = VALIDATION)]
    required_percent: Option<u32>,
}

impl RolloutSettings {
    /// Writes what was given into a rollout.
    async fn apply(
        self,
        rollout: &mut v1::Rollout,
        mask: &mut Mask,
        context: &Context,
    ) -> Result<(), Failure> {
        if let Some(image) = &self.image {
            let image = image::find(image, context).await?;
            mask.put("image", &mut rollout.image, Some(image));
        }
        mask.put("max_failures", &mut rollout.max_failures, self.max_failures);
        mask.put("retry_after", &mut rollout.retry_after, self.retry_after);
        let mut selected = Mask::default();
        let selector = rollout.selector.get_or_insert_default();
        self.selector.apply(selector, &mut selected);
        let mut scheduled = Mask::default();
        let schedule = rollout.schedule.get_or_insert_default();
        self.schedule.apply(schedule, &mut scheduled);
        let mut validated = Mask::default();
        let validation = rollout.validation.get_or_insert_default();
        self.validation.apply(validation, &mut validated);
        let mut written = Mask::default();
        let task = rollout.task.get_or_insert_default();
        self.task.apply(task, &mut written)?;
        // The name is that of the rollout, whose tasks are called after it.
        let names = written.forget("display_name");
        let name = names.then(|| std::mem::take(&mut task.display_name));
        mask.put("display_name", &mut rollout.display_name, name);
        let parts = [
            ("selector", selected),
            ("schedule", scheduled),
            ("validation", validated),
            ("task", written),
        ];
        for (path, part) in parts {
            if !part.is_empty() {
                mask.touch(path);
            }
        }
        Ok(())
    }
}

impl SelectorArgs {
    fn apply(self, selector: &mut v1::RolloutSelector, mask: &mut Mask) {
        let profile = self.profile.map(|id| resource("deviceProfiles", &id));
        let group = self.group.map(|id| resource("multicastGroups", &id));
        let tags = (!self.match_tags.is_empty()).then(|| self.match_tags.into_iter().collect());
        let from = (!self.from_versions.is_empty()).then_some(self.from_versions);
        mask.put::<_, String>("model", &mut selector.model, self.model);
        mask.put::<_, String>("component", &mut selector.component, self.component);
        mask.put::<_, String>("device_profile", &mut selector.device_profile, profile);
        mask.put::<_, String>("multicast_group", &mut selector.multicast_group, group);
        mask.put::<_, std::collections::BTreeMap<_, _>>("tags", &mut selector.tags, tags);
        mask.put::<_, Vec<u32>>("from_versions", &mut selector.from_versions, from);
        mask.put::<_, bool>(
            "include_unknown_versions",
            &mut selector.include_unknown_versions,
            self.unknown_versions,
        );
    }
}

impl ScheduleArgs {
    fn apply(self, schedule: &mut v1::RolloutSchedule, mask: &mut Mask) {
        let not_before = self.not_before.map(|when| when.resolve(&now()));
        mask.put("not_before", &mut schedule.not_before, not_before);
        mask.put("repeat_interval", &mut schedule.repeat_interval, self.every);
        mask.put(
            "start_within",
            &mut schedule.start_within,
            self.start_within,
        );
        mask.put("min_devices", &mut schedule.min_devices, self.min_devices);
        mask.put("max_wait", &mut schedule.max_wait, self.max_wait);
    }
}

impl ValidationArgs {
    fn apply(self, validation: &mut v1::RolloutValidation, mask: &mut Mask) {
        let devices: Vec<String> = self
            .test_devices
            .iter()
            .map(|eui| eui_resource("devices", eui))
            .collect();
        let devices = (!devices.is_empty()).then_some(devices);
        mask.put::<_, Vec<String>>("test_devices", &mut validation.test_devices, devices);
        mask.put(
            "required_percent",
            &mut validation.required_percent,
            self.required_percent,
        );
    }
}

/// `rollouts/{id}`.
fn full(rollout: &str) -> String {
    resource("rollouts", rollout)
}

/// Carries out one of the commands.
pub(super) async fn run(
    command: RolloutCommand,
    context: &mut Context,
) -> Result<Outcome, Failure> {
    let mut client = context.connection.rollouts();
    let request_id = context.connection.request_id();
    let rollout = match command {
        RolloutCommand::Create(args) => create(*args, context).await?,
        RolloutCommand::Update(args) => update(*args, context).await?,
        RolloutCommand::Get { rollout } => {
            let name = full(&rollout);
            let request = v1::GetRolloutRequest { name };
            client.get_rollout(request).await?.into_inner()
        }
        RolloutCommand::Enable { rollout } => {
            let name = full(&rollout);
            let request = v1::EnableRolloutRequest { name, request_id };
            client.enable_rollout(request).await?.into_inner()
        }
        RolloutCommand::Disable { rollout } => {
            let name = full(&rollout);
            let request = v1::DisableRolloutRequest { name, request_id };
            client.disable_rollout(request).await?.into_inner()
        }
        RolloutCommand::List(args) => {
            list(args, context).await?;
            return Ok(Outcome::Done);
        }
        RolloutCommand::Delete { rollout } => {
            let name = full(&rollout);
            let request = v1::DeleteRolloutRequest {
                name: name.clone(),
                request_id,
            };
            client.delete_rollout(request).await?;
            context
                .output
                .show(|| json!({}), || format!("{name} deleted"))?;
            return Ok(Outcome::Done);
        }
        RolloutCommand::Withdraw { rollout } => {
            withdraw(full(&rollout), context).await?;
            return Ok(Outcome::Done);
        }
        RolloutCommand::Push { rollout, devices } => {
            push(full(&rollout), &devices, context).await?;
            return Ok(Outcome::Done);
        }
    };
    context
        .output
        .show(|| rollout_json(&rollout), || rollout_text(&rollout))?;
    Ok(Outcome::Done)
}

async fn create(args: CreateArgs, context: &Context) -> Result<v1::Rollout, Failure> {
    let mut rollout = v1::Rollout::default();
    args.settings
        .apply(&mut rollout, &mut Mask::default(), context)
        .await?;
    let request = v1::CreateRolloutRequest {
        rollout: Some(rollout),
        rollout_id: args.id,
        enable: args.enable,
        request_id: context.connection.request_id(),
    };
    let mut client = context.connection.rollouts();
    Ok(client.create_rollout(request).await?.into_inner())
}

/// Parts of a rollout are written as a whole: what was not given keeps its present value.
async fn update(args: UpdateArgs, context: &Context) -> Result<v1::Rollout, Failure> {
    let mut client = context.connection.rollouts();
    let request = v1::GetRolloutRequest {
        name: full(&args.rollout),
    };
    let present = client.get_rollout(request).await?.into_inner();
    let clear = &args.clear;
    let mut rollout = v1::Rollout {
        name: present.name,
        etag: present.etag,
        selector: clear.keep("selector", present.selector),
        task: clear.keep("task", present.task),
        schedule: clear.keep("schedule", present.schedule),
        validation: clear.keep("validation", present.validation),
        ..v1::Rollout::default()
    };
    let mut mask = Mask::default();
    args.settings
        .apply(&mut rollout, &mut mask, context)
        .await?;
    clear.apply(&mut mask);
    let request = v1::UpdateRolloutRequest {
        rollout: Some(rollout),
        update_mask: Some(mask.finish()?),
        request_id: context.connection.request_id(),
    };
    Ok(client.update_rollout(request).await?.into_inner())
}

async fn list(args: ListArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connection.rollouts();
    let listing = pages(args.limit, async |page_size, page_token| {
        let request = v1::ListRolloutsRequest {
            page_size,
            page_token,
            filter: args.filter.clone(),
        };
        let page = client.list_rollouts(request).await?.into_inner();
        Ok((page.rollouts, page.next_page_token, page.total_size))
    })
    .await?;
    context.show_list("rollouts", "rollout", &listing, rollout_json, table_text)
}

async fn withdraw(name: String, context: &mut Context) -> Result<(), Failure> {
    let request = v1::WithdrawRolloutRequest {
        name,
        request_id: context.connection.request_id(),
    };
    let mut client = context.connection.rollouts();
    let answer = client.withdraw_rollout(request).await?.into_inner();
    let rollout = answer.rollout.unwrap_or_default();
    let tasks = answer.cancelled_tasks;
    context.output.show(
        || json!({"rollout": rollout_json(&rollout), "cancelled_tasks": &tasks}),
        || {
            let mut text = format!("{} withdrawn", rollout.name);
            for task in &tasks {
                text.push_str(&format!("\n{task} is being cancelled"));
            }
            text
        },
    )?;
    Ok(())
}

async fn push(name: String, devices: &DevicesArgs, context: &mut Context) -> Result<(), Failure> {
    let request = v1::PushRolloutRequest {
        name,
        devices: devices.names()?,
        request_id: context.connection.request_id(),
    };
    let mut client = context.connection.rollouts();
    let answer = client.push_rollout(request).await?.into_inner();
    let rollout = answer.rollout.unwrap_or_default();
    let task = answer.task;
    context.output.show(
        || json!({"rollout": rollout_json(&rollout), "task": &task}),
        || {
            format!(
                "{task} was started; follow it with: fuota task watch {}",
                super::names::id(&task)
            )
        },
    )?;
    Ok(())
}
