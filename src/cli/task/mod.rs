//! `fuota task`: arguments and calls. How tasks are printed is in `document`, forecasts in `forecast`, following a
//! task in `watch` and `progress`, its settings in `settings`, `policies` and `rules`.

mod document;
mod forecast;
mod policies;
mod progress;
mod rules;
mod settings;
mod watch;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

pub(super) use self::document::template_json;
use self::document::{device_json, session_json, task_json, task_text, wave_json};
pub(super) use self::settings::TaskSettings;
use self::watch::WatchArgs;
use super::connection::{ListArgs, Listing, pages};
use super::group::{device_error_json, device_errors_text};
use super::image;
use super::names::{enum_parser, resource};
use super::output::{Failure, counted};
use super::settings::{ClearArgs, Mask, TargetArgs};
use super::{Context, Outcome};
use crate::proto::v1;

/// What to do with FUOTA tasks.
#[derive(Subcommand)]
pub enum TaskCommand {
    /// Create a task as a draft; nothing is sent before it is started
    #[command(after_help = "Examples:
  fuota task create --id march --image 3f1a09 --group north --window-start 2026-03-01T02:00:00Z
  fuota task plan march
  fuota task start march --watch

  fuota task create --image 3f1a09 --device 70b3d57ed0000001 --start --watch")]
    Create(Box<CreateArgs>),
    /// Show one task
    Get {
        /// The task
        task: String,
    },
    /// List tasks
    ///
    /// Filter fields: state, state_reason, image, device, multicast_group, tags.KEY.
    List(ListArgs),
    /// Change a draft; after the start only name and tags
    Update(Box<UpdateArgs>),
    /// Delete a draft, or a task that has ended, with all its records
    Delete {
        /// The task
        task: String,
    },
    /// Add devices and groups to a draft; good ones are added even if others are not
    Add {
        /// The task
        task: String,
        #[command(flatten)]
        targets: TargetArgs,
    },
    /// Take devices and groups out of a draft, or devices out of a running task
    Remove {
        /// The task
        task: String,
        #[command(flatten)]
        targets: TargetArgs,
    },
    /// Forecast a draft: sessions, frames, air time, finish, problems
    ///
    /// Changes nothing and sends nothing. Exit status 1 if the task cannot be started like this.
    Plan {
        /// The task
        task: String,
    },
    /// Start a task
    Start {
        /// The task
        task: String,
        /// Have it wait until other tasks let go of its devices, instead of refusing it
        #[arg(long)]
        queue: bool,
        /// Follow it to its end; see `fuota task watch`
        #[arg(long)]
        watch: bool,
    },
    /// Hold a task: nothing more is sent, devices keep what they have
    Pause {
        /// The task
        task: String,
    },
    /// Let a held task go on where it was held
    Resume {
        /// The task
        task: String,
        /// Follow it to its end; see `fuota task watch`
        #[arg(long)]
        watch: bool,
    },
    /// Create a draft for the devices that an ended task did not bring to the end
    Retry {
        /// The task that has ended
        task: String,
        /// The last part of the new task's name; default: made by the server
        #[arg(long, default_value = "", hide_default_value = true)]
        id: String,
    },
    /// Cancel a task: sending stops, devices are cleaned
    Cancel {
        /// The task
        task: String,
        /// Follow it to its end; see `fuota task watch`
        #[arg(long)]
        watch: bool,
    },
    /// Follow a task to its end
    ///
    /// A live view on a terminal, else a line for each change; at the end a table of the devices with their
    /// verdicts. Goes on by itself when the server is restarted. Stopping the command does not stop the task.
    ///
    /// Exit status 0 only if every device succeeded, 1 if the task ended otherwise.
    Watch {
        /// The task
        task: String,
        #[command(flatten)]
        args: WatchArgs,
    },
    /// List the devices of a task with state, reason and verdict
    ///
    /// Filter fields: state, reason, verdict, cleanup_state, wave, session; for example
    /// --filter 'state = FAILED AND reason = MIC_ERROR'.
    Devices {
        /// The task
        task: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// List the waves of a task
    Waves {
        /// The task
        task: String,
    },
    /// List the distribution sessions of a task
    Sessions {
        /// The task
        task: String,
    },
}

/// Arguments of `fuota task create`.
#[derive(Args)]
pub struct CreateArgs {
    /// The last part of its name: a-z, 0-9 and hyphens; default: made by the server
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    /// An image to bring to the devices: SHA-256 or its beginning; up to four, in the order they are sent
    #[arg(long = "image", required = true)]
    images: Vec<String>,
    /// Whether several images wait for one reboot (TOGETHER) or each runs before the next is sent (IN_TURN)
    /// [default: TOGETHER]
    #[arg(long, value_parser = enum_parser::<v1::InstallMode>())]
    install: Option<v1::InstallMode>,
    #[command(flatten)]
    targets: TargetArgs,
    #[command(flatten)]
    settings: TaskSettings,
    /// Start it at once
    #[arg(long)]
    start: bool,
    /// Have it wait until other tasks let go of its devices, instead of refusing it
    #[arg(long, requires = "start")]
    queue: bool,
    /// Follow it to its end; see `fuota task watch`
    #[arg(long, requires = "start")]
    watch: bool,
}

/// Arguments of `fuota task update`.
#[derive(Args)]
pub struct UpdateArgs {
    /// The task
    task: String,
    /// An image to bring to the devices: SHA-256 or its beginning; up to four, in place of all before
    #[arg(long = "image")]
    images: Vec<String>,
    /// Whether several images wait for one reboot (TOGETHER) or each runs before the next is sent (IN_TURN)
    #[arg(long, value_parser = enum_parser::<v1::InstallMode>())]
    install: Option<v1::InstallMode>,
    #[command(flatten)]
    settings: TaskSettings,
    #[command(flatten)]
    clear: ClearArgs,
}

/// `tasks/{id}`.
fn full(task: &str) -> String {
    resource("tasks", task)
}

/// Carries out one of the commands.
pub(super) async fn run(command: TaskCommand, context: &mut Context) -> Result<Outcome, Failure> {
    let mut client = context.connection.tasks();
    let request_id = context.connection.request_id();
    let task = match command {
        TaskCommand::Create(args) => return create(*args, context).await,
        TaskCommand::Update(args) => update(*args, context).await?,
        TaskCommand::Start { task, queue, watch } => {
            let request = v1::StartTaskRequest {
                name: full(&task),
                etag: String::new(),
                request_id,
                queue,
            };
            let task = client.start_task(request).await?.into_inner();
            return show_or_watch(&task, watch, context).await;
        }
        TaskCommand::Pause { task } => {
            let request = v1::PauseTaskRequest {
                name: full(&task),
                request_id,
            };
            client.pause_task(request).await?.into_inner()
        }
        TaskCommand::Resume { task, watch } => {
            let request = v1::ResumeTaskRequest {
                name: full(&task),
                request_id,
            };
            let task = client.resume_task(request).await?.into_inner();
            return show_or_watch(&task, watch, context).await;
        }
        TaskCommand::Retry { task, id } => {
            let request = v1::RetryTaskRequest {
                name: full(&task),
                task_id: id,
                request_id,
            };
            client.retry_task(request).await?.into_inner()
        }
        TaskCommand::Cancel { task, watch } => {
            let request = v1::CancelTaskRequest {
                name: full(&task),
                request_id,
            };
            let task = client.cancel_task(request).await?.into_inner();
            return show_or_watch(&task, watch, context).await;
        }
        TaskCommand::Get { task } => client
            .get_task(v1::GetTaskRequest { name: full(&task) })
            .await?
            .into_inner(),
        TaskCommand::Delete { task } => {
            let name = full(&task);
            let request = v1::DeleteTaskRequest {
                name: name.clone(),
                request_id,
            };
            client.delete_task(request).await?;
            context
                .output
                .show(|| json!({}), || format!("{name} deleted"))?;
            return Ok(Outcome::Done);
        }
        TaskCommand::Add { task, targets } => return add(&task, &targets, context).await,
        TaskCommand::Remove { task, targets } => {
            let (devices, multicast_groups) = targets.names()?;
            let request = v1::RemoveTaskDevicesRequest {
                name: full(&task),
                devices,
                multicast_groups,
                request_id,
            };
            let answer = client.remove_task_devices(request).await?.into_inner();
            answer.task.unwrap_or_default()
        }
        TaskCommand::Plan { task } => {
            let request = v1::PlanTaskRequest { name: full(&task) };
            let plan = client.plan_task(request).await?.into_inner();
            context
                .output
                .show(|| forecast::plan_json(&plan), || forecast::plan_text(&plan))?;
            return Ok(Outcome::from_success(plan.startable));
        }
        TaskCommand::Watch { task, args } => {
            return watch::watch(&full(&task), &args, context).await;
        }
        TaskCommand::List(_)
        | TaskCommand::Devices { .. }
        | TaskCommand::Waves { .. }
        | TaskCommand::Sessions { .. } => {
            list(command, context).await?;
            return Ok(Outcome::Done);
        }
    };
    context
        .output
        .show(|| task_json(&task), || task_text(&task))?;
    Ok(Outcome::Done)
}

async fn create(args: CreateArgs, context: &mut Context) -> Result<Outcome, Failure> {
    let (devices, multicast_groups) = args.targets.names()?;
    let mut task = v1::FuotaTask::default();
    args.settings.apply(&mut task, &mut Mask::default())?;
    task.images = find_images(&args.images, context).await?;
    task.install_mode = args.install.unwrap_or_default().into();
    let mut client = context.connection.tasks();
    let request = v1::CreateTaskRequest {
        task: Some(task),
        task_id: args.id,
        devices,
        multicast_groups,
        request_id: context.connection.request_id(),
    };
    let mut task = client.create_task(request).await?.into_inner();
    if args.start {
        let request = v1::StartTaskRequest {
            name: task.name.clone(),
            etag: task.etag.clone(),
            request_id: context.connection.request_id_for("start"),
            queue: args.queue,
        };
        match client.start_task(request).await {
            Ok(started) => task = started.into_inner(),
            Err(status) => {
                context
                    .output
                    .note(&format!("{} was created and is still a draft", task.name));
                return Err(status.into());
            }
        }
    }
    show_or_watch(&task, args.watch, context).await
}

async fn find_images(given: &[String], context: &Context) -> Result<Vec<String>, Failure> {
    let mut images = Vec::with_capacity(given.len());
    for image in given {
        images.push(image::find(image, context).await?);
    }
    Ok(images)
}

async fn show_or_watch(
    task: &v1::FuotaTask,
    follow: bool,
    context: &mut Context,
) -> Result<Outcome, Failure> {
    if follow {
        return watch::watch(&task.name, &WatchArgs::default(), context).await;
    }
    context
        .output
        .show(|| task_json(task), || task_text(task))?;
    Ok(Outcome::Done)
}

async fn update(args: UpdateArgs, context: &Context) -> Result<v1::FuotaTask, Failure> {
    let name = full(&args.task);
    let mut client = context.connection.tasks();
    let present = client
        .get_task(v1::GetTaskRequest { name: name.clone() })
        .await?
        .into_inner();
    let mut task = v1::FuotaTask {
        name,
        tags: args.clear.keep("tags", present.tags),
        etag: present.etag,
        ..Default::default()
    };
    let mut mask = Mask::default();
    if !args.images.is_empty() {
        let images = find_images(&args.images, context).await?;
        mask.put("images", &mut task.images, Some(images));
    }
    let install = args.install.map(i32::from);
    mask.put("install_mode", &mut task.install_mode, install);
    args.settings.apply(&mut task, &mut mask)?;
    args.clear.apply(&mut mask);
    let request = v1::UpdateTaskRequest {
        task: Some(task),
        update_mask: Some(mask.finish()?),
        request_id: context.connection.request_id(),
    };
    Ok(client.update_task(request).await?.into_inner())
}

async fn add(task: &str, targets: &TargetArgs, context: &mut Context) -> Result<Outcome, Failure> {
    let (devices, multicast_groups) = targets.names()?;
    let request = v1::AddTaskDevicesRequest {
        name: full(task),
        devices,
        multicast_groups,
        request_id: context.connection.request_id(),
    };
    let answer = context
        .connection
        .tasks()
        .add_task_devices(request)
        .await?
        .into_inner();
    let task = answer.task.unwrap_or_default();
    let (errors, unknown) = (answer.errors, answer.unknown_multicast_groups);
    context.output.show(
        || {
            json!({
                "task": task_json(&task),
                "errors": errors.iter().map(device_error_json).collect::<Vec<_>>(),
                "unknown_multicast_groups": unknown,
            })
        },
        || {
            let counts = task.device_counts.unwrap_or_default();
            let mut text = format!(
                "{} has {} and {}\n",
                task.name,
                counted(counts.total.into(), "device"),
                counted(
                    u64::try_from(task.multicast_groups.len()).unwrap_or(0),
                    "group"
                ),
            );
            for group in &unknown {
                text.push_str(&format!("no such group: {group}\n"));
            }
            text + &device_errors_text(&errors)
        },
    )?;
    Ok(Outcome::from_success(
        errors.is_empty() && unknown.is_empty(),
    ))
}

async fn list(command: TaskCommand, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connection.tasks();
    match command {
        TaskCommand::List(args) => {
            let listing = pages(args.limit, async |page_size, page_token| {
                let request = v1::ListTasksRequest {
                    page_size,
                    page_token,
                    filter: args.filter.clone(),
                };
                let answer = client.list_tasks(request).await?.into_inner();
                Ok((answer.tasks, answer.next_page_token, answer.total_size))
            })
            .await?;
            context.show_list("tasks", "task", &listing, task_json, document::task_table)
        }
        TaskCommand::Devices { task, list } => {
            let parent = full(&task);
            let listing = devices(&parent, &list.filter, list.limit, context).await?;
            context.show_list(
                "task_devices",
                "device",
                &listing,
                device_json,
                document::device_table,
            )
        }
        TaskCommand::Waves { task } => {
            let parent = full(&task);
            let listing = pages(0, async |page_size, page_token| {
                let request = v1::ListWavesRequest {
                    parent: parent.clone(),
                    page_size,
                    page_token,
                };
                let answer = client.list_waves(request).await?.into_inner();
                Ok((answer.waves, answer.next_page_token, answer.total_size))
            })
            .await?;
            context.show_list("waves", "wave", &listing, wave_json, document::wave_table)
        }
        TaskCommand::Sessions { task } => {
            let listing = sessions(&full(&task), context).await?;
            context.show_list(
                "sessions",
                "session",
                &listing,
                session_json,
                document::session_table,
            )
        }
        _ => Ok(()),
    }
}

/// The devices of a task.
async fn devices(
    parent: &str,
    filter: &str,
    limit: usize,
    context: &Context,
) -> Result<Listing<v1::TaskDevice>, tonic::Status> {
    let mut client = context.connection.tasks();
    pages(limit, async |page_size, page_token| {
        let request = v1::ListTaskDevicesRequest {
            parent: parent.to_owned(),
            page_size,
            page_token,
            filter: filter.to_owned(),
        };
        let answer = client.list_task_devices(request).await?.into_inner();
        Ok((
            answer.task_devices,
            answer.next_page_token,
            answer.total_size,
        ))
    })
    .await
}

/// The distribution sessions of a task.
async fn sessions(
    parent: &str,
    context: &Context,
) -> Result<Listing<v1::DistributionSession>, tonic::Status> {
    let mut client = context.connection.tasks();
    pages(0, async |page_size, page_token| {
        let request = v1::ListDistributionSessionsRequest {
            parent: parent.to_owned(),
            page_size,
            page_token,
        };
        let answer = client
            .list_distribution_sessions(request)
            .await?
            .into_inner();
        Ok((answer.sessions, answer.next_page_token, answer.total_size))
    })
    .await
}

/// Air time per gateway as JSON.
fn airtimes_json(gateways: &[v1::GatewayAirtime]) -> Value {
    gateways
        .iter()
        .map(|it| json!({"gateway": it.gateway, "airtime_us": it.airtime_us}))
        .collect()
}
