//! `fuota group`: create, get, list, update, delete, add, remove, members.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::connection::{ListArgs, pages};
use super::moment::{distance_text, now, time_json, time_text};
use super::names::{enum_parser, id, pairs_text, resource, word, word_json};
use super::output::{Failure, code_name, counted, fields, nonzero, table};
use super::settings::{ClearArgs, DevicesArgs, Mask, TagArgs};
use super::{Context, Outcome};
use crate::proto::v1;

/// What to do with multicast groups.
#[derive(Subcommand)]
pub enum GroupCommand {
    /// Create a group; its address and key are made by the server
    #[command(
        after_help = "Example:\n  fuota group create --id north --region EU868 --class C --data-rate 5"
    )]
    Create {
        /// The last part of its name: a-z, 0-9 and hyphens; default: made by the server
        #[arg(long, default_value = "", hide_default_value = true)]
        id: String,
        /// Region of its members
        #[arg(long, value_parser = enum_parser::<v1::Region>())]
        region: v1::Region,
        #[command(flatten)]
        settings: GroupSettings,
    },
    /// Show one group
    Get {
        /// The group
        group: String,
    },
    /// List groups
    ///
    /// Filter fields: region, device_class, tags.KEY.
    List(ListArgs),
    /// Change settings; a started task keeps what it started with
    Update {
        /// The group
        group: String,
        #[command(flatten)]
        settings: GroupSettings,
        #[command(flatten)]
        clear: ClearArgs,
    },
    /// Delete a group; its devices stay
    Delete {
        /// The group
        group: String,
    },
    /// Add devices; good ones are added even if others are not
    Add {
        /// The group
        group: String,
        #[command(flatten)]
        devices: DevicesArgs,
    },
    /// Take devices out
    Remove {
        /// The group
        group: String,
        #[command(flatten)]
        devices: DevicesArgs,
    },
    /// List the members and how far each is
    ///
    /// Filter fields: state, reason.
    Members {
        /// The group
        group: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

/// Settings of a group.
#[derive(Args)]
pub struct GroupSettings {
    /// A name for people
    #[arg(long)]
    name: Option<String>,

    /// Class of its sessions: B or C [default: C]
    #[arg(long, value_parser = enum_parser::<v1::DeviceClass>(), hide_possible_values = true)]
    class: Option<v1::DeviceClass>,

    /// Data rate of its sessions, 0 to 15; default: the planner chooses
    #[arg(long, value_name = "DR")]
    data_rate: Option<u32>,

    /// Frequency of its sessions in Hz; default: the planner chooses
    #[arg(long, value_name = "HZ")]
    frequency: Option<u32>,

    #[command(flatten)]
    tags: TagArgs,
}

impl GroupSettings {
    fn apply(self, group: &mut v1::MulticastGroup, mask: &mut Mask) {
        mask.put("display_name", &mut group.display_name, self.name);
        mask.put("device_class", &mut group.device_class, self.class);
        mask.put("data_rate", &mut group.data_rate, self.data_rate);
        mask.put("frequency_hz", &mut group.frequency_hz, self.frequency);
        self.tags.apply(mask, &mut group.tags);
    }
}

/// Carries out one of the commands.
pub(super) async fn run(command: GroupCommand, context: &mut Context) -> Result<Outcome, Failure> {
    let mut client = context.connection.groups();
    let request_id = context.connection.request_id();
    let group = match command {
        GroupCommand::Create {
            id,
            region,
            settings,
        } => {
            let mut group = v1::MulticastGroup {
                region: region.into(),
                device_class: v1::DeviceClass::C.into(),
                ..Default::default()
            };
            settings.apply(&mut group, &mut Mask::default());
            let request = v1::CreateMulticastGroupRequest {
                multicast_group: Some(group),
                multicast_group_id: id,
                request_id,
            };
            client.create_multicast_group(request).await?.into_inner()
        }
        GroupCommand::Get { group } => {
            let request = v1::GetMulticastGroupRequest {
                name: full_name(&group),
            };
            client.get_multicast_group(request).await?.into_inner()
        }
        GroupCommand::Update {
            group,
            settings,
            clear,
        } => {
            let name = full_name(&group);
            let request = v1::GetMulticastGroupRequest { name: name.clone() };
            let present = client.get_multicast_group(request).await?.into_inner();
            let mut group = v1::MulticastGroup {
                name,
                tags: clear.keep("tags", present.tags),
                ..Default::default()
            };
            let mut mask = Mask::default();
            settings.apply(&mut group, &mut mask);
            clear.apply(&mut mask);
            let request = v1::UpdateMulticastGroupRequest {
                multicast_group: Some(group),
                update_mask: Some(mask.finish()?),
                request_id,
            };
            client.update_multicast_group(request).await?.into_inner()
        }
        GroupCommand::Delete { group } => {
            let name = full_name(&group);
            let request = v1::DeleteMulticastGroupRequest {
                name: name.clone(),
                request_id,
            };
            client.delete_multicast_group(request).await?;
            context
                .output
                .show(|| json!({}), || format!("{name} deleted"))?;
            return Ok(Outcome::Done);
        }
        command => return members_or_list(command, context).await,
    };
    context
        .output
        .show(|| group_json(&group), || group_text(&group))?;
    Ok(Outcome::Done)
}

/// `multicastGroups/{id}`.
fn full_name(group: &str) -> String {
    resource("multicastGroups", group)
}

/// The commands that change or list members, and the list of groups.
async fn members_or_list(command: GroupCommand, context: &mut Context) -> Result<Outcome, Failure> {
    let mut client = context.connection.groups();
    let request_id = context.connection.request_id();
    match command {
        GroupCommand::Add { group, devices } => {
            let request = v1::AddMulticastGroupDevicesRequest {
                name: full_name(&group),
                devices: devices.names()?,
                request_id,
            };
            let answer = client
                .add_multicast_group_devices(request)
                .await?
                .into_inner();
            show_change(
                &answer.multicast_group.unwrap_or_default(),
                &answer.errors,
                context,
            )
        }
        GroupCommand::Remove { group, devices } => {
            let request = v1::RemoveMulticastGroupDevicesRequest {
                name: full_name(&group),
                devices: devices.names()?,
                request_id,
            };
            let answer = client
                .remove_multicast_group_devices(request)
                .await?
                .into_inner();
            show_change(&answer.multicast_group.unwrap_or_default(), &[], context)
        }
        GroupCommand::List(args) => {
            list(args, context).await?;
            Ok(Outcome::Done)
        }
        GroupCommand::Members { group, list } => {
            members(full_name(&group), list, context).await?;
            Ok(Outcome::Done)
        }
        _ => Ok(Outcome::Done),
    }
}

fn show_change(
    group: &v1::MulticastGroup,
    errors: &[v1::DeviceError],
    context: &mut Context,
) -> Result<Outcome, Failure> {
    context.output.show(
        || {
            json!({
                "multicast_group": group_json(group),
                "errors": errors.iter().map(device_error_json).collect::<Vec<_>>(),
            })
        },
        || {
            let count = counted(group.member_count.into(), "member");
            format!("{} has {count}\n{}", group.name, device_errors_text(errors))
        },
    )?;
    Ok(Outcome::from_success(errors.is_empty()))
}

/// The devices that a call did not handle, as a table; empty if there are none.
pub(super) fn device_errors_text(errors: &[v1::DeviceError]) -> String {
    if errors.is_empty() {
        return String::new();
    }
    let rows = errors.iter().map(|error| {
        let item = error.error.clone().unwrap_or_default();
        vec![id(&error.device).into(), item_error_text(&item)]
    });
    table(&["NOT DONE", "WHY"], rows)
}

/// The error of one item on one line.
pub(super) fn item_error_text(error: &v1::ItemError) -> String {
    let mut text = format!("{}: {}", code_name(error.code.into()), error.message);
    for violation in &error.field_violations {
        text.push_str(&format!("; {}: {}", violation.field, violation.description));
    }
    if !error.reason.is_empty() {
        text.push_str(&format!(" ({})", error.reason));
    }
    text
}

/// The error of one item as JSON.
pub(super) fn item_error_json(error: &v1::ItemError) -> Value {
    json!({
        "code": code_name(error.code.into()),
        "reason": error.reason,
        "message": error.message,
        "field_violations": error.field_violations.iter().map(|violation| json!({
            "field": violation.field,
            "description": violation.description,
        })).collect::<Vec<_>>(),
    })
}

/// A device that a call did not handle, as JSON.
pub(super) fn device_error_json(error: &v1::DeviceError) -> Value {
    json!({
        "device": error.device,
        "error": error.error.as_ref().map(item_error_json),
    })
}

async fn list(args: ListArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connection.groups();
    let listing = pages(args.limit, async |page_size, page_token| {
        let request = v1::ListMulticastGroupsRequest {
            page_size,
            page_token,
            filter: args.filter.clone(),
        };
        let answer = client.list_multicast_groups(request).await?.into_inner();
        Ok((
            answer.multicast_groups,
            answer.next_page_token,
            answer.total_size,
        ))
    })
    .await?;
    context.show_list(
        "multicast_groups",
        "group",
        &listing,
        group_json,
        |groups| {
            let now = now();
            let header = [
                "GROUP",
                "NAME",
                "REGION",
                "CLASS",
                "DR",
                "FREQUENCY",
                "MEMBERS",
                "READY",
                "CREATED",
            ];
            table(
                &header,
                groups.iter().map(|group| {
                    vec![
                        id(&group.name).into(),
                        group.display_name.clone(),
                        word::<v1::Region>(group.region),
                        word::<v1::DeviceClass>(group.device_class),
                        group
                            .data_rate
                            .map(|rate| rate.to_string())
                            .unwrap_or_default(),
                        nonzero(group.frequency_hz),
                        group.member_count.to_string(),
                        group.ready_member_count.to_string(),
                        distance_text(group.create_time.as_ref(), &now),
                    ]
                }),
            )
        },
    )
}

async fn members(parent: String, args: ListArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connection.groups();
    let listing = pages(args.limit, async |page_size, page_token| {
        let request = v1::ListMulticastGroupMembersRequest {
            parent: parent.clone(),
            page_size,
            page_token,
            filter: args.filter.clone(),
        };
        let answer = client
            .list_multicast_group_members(request)
            .await?
            .into_inner();
        Ok((answer.members, answer.next_page_token, answer.total_size))
    })
    .await?;
    let json = |member: &v1::MulticastGroupMember| {
        json!({
            "name": member.name,
            "device": member.device,
            "state": word_json::<v1::MemberState>(member.state),
        })
    };
    context.show_list("members", "member", &listing, json, |members| {
        let rows = members.iter().map(|member| {
            vec![
                id(&member.device).into(),
                word::<v1::MemberState>(member.state),
            ]
        });
        table(&["DEVICE", "STATE"], rows)
    })
}

fn group_json(group: &v1::MulticastGroup) -> Value {
    json!({
        "name": group.name,
        "display_name": group.display_name,
        "region": word_json::<v1::Region>(group.region),
        "device_class": word_json::<v1::DeviceClass>(group.device_class),
        "data_rate": group.data_rate,
        "frequency_hz": group.frequency_hz,
        "tags": group.tags,
        "member_count": group.member_count,
        "ready_member_count": group.ready_member_count,
        "create_time": time_json(group.create_time.as_ref()),
        "update_time": time_json(group.update_time.as_ref()),
    })
}

fn group_text(group: &v1::MulticastGroup) -> String {
    let now = now();
    let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
    fields(&[
        ("name", group.name.clone()),
        ("display name", group.display_name.clone()),
        ("region", word::<v1::Region>(group.region)),
        ("class", word::<v1::DeviceClass>(group.device_class)),
        ("data rate", number(group.data_rate)),
        ("frequency in Hz", nonzero(group.frequency_hz)),
        ("tags", pairs_text(&group.tags)),
        (
            "members",
            format!(
                "{}, {} of them ready",
                group.member_count, group.ready_member_count
            ),
        ),
        ("created", time_text(group.create_time.as_ref(), &now)),
        ("updated", time_text(group.update_time.as_ref(), &now)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_error_is_one_line() {
        let error = v1::ItemError {
            code: 9,
            reason: "DEVICE_IN_USE".into(),
            message: "held by a task".into(),
            field_violations: vec![v1::FieldViolation {
                field: "device.model".into(),
                description: "too long".into(),
            }],
        };
        assert_eq!(
            item_error_text(&error),
            "FAILED_PRECONDITION: held by a task; device.model: too long (DEVICE_IN_USE)"
        );
        assert_eq!(item_error_json(&error)["code"], "FAILED_PRECONDITION");
    }
}
