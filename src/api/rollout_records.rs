//! Rollouts: proto <-> record.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::firmware::sha256;
use crate::lorawan::identifiers::DevEui;
use crate::proto::v1;
use crate::record::{
    Rollout, RolloutCounts, RolloutOrder, RolloutPurpose, RolloutSchedule, RolloutSelector,
    RolloutState, RolloutStatus, RolloutSwitch, RolloutTask, RolloutValidation, StateCounts, Task,
    TaskId,
};
use crate::time::Timestamp;

use super::fields::{Fields, show_length, show_moment, tenant};
use super::mask::Mask;
use super::{names, task_records};

/// What may be written.
pub(super) const WRITABLE: [&str; 8] = [
    "display_name",
    "selector",
    "image",
    "task",
    "schedule",
    "validation",
    "max_failures",
    "retry_after",
];

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Characters of an identifier: `{id}-{number}` names its tasks.
const LONGEST_ID: usize = 50;
const MOST_FROM_VERSIONS: usize = 64;
const MOST_TEST_DEVICES: usize = 1000;
/// Tries per device and image, and the time between them, unless the rollout says.
const MAX_FAILURES: u32 = 2;
const RETRY_AFTER: Duration = DAY;

/// A rollout nobody has done anything with.
pub(super) fn blank(id: String, order: RolloutOrder, now: Timestamp) -> Rollout {
    Rollout {
        tenant: tenant(),
        id,
        order,
        switch: RolloutSwitch::Disabled,
        next_number: 1,
        tasks: Vec::new(),
        last_start: None,
        gathering_since: None,
        tries_of: None,
        tries: Default::default(),
        validated: None,
        not_validated: None,
        refused: None,
        status: RolloutStatus::default(),
        created_at: now,
        updated_at: now,
    }
}

/// The identifier of a new rollout; `None` = the server makes one.
pub(super) fn read_id(fields: &mut Fields, id: &str) -> Option<String> {
    let read = fields.new_id("rollout_id", id);
    if id.len() > LONGEST_ID {
        fields.bad_in_request("rollout_id", format!("longer than {LONGEST_ID} characters"));
    }
    read
}

/// What the operator says; what is wrong is noted.
pub(super) fn read(fields: &mut Fields, given: &v1::Rollout, now: Timestamp) -> RolloutOrder {
    fields.text("display_name", &given.display_name, 255);
    let image = match given.image.as_str() {
        "" => None,
        name => {
            let image = names::image(name);
            if image.is_none() {
                fields.bad("image", "not of the form images/{sha256}");
            }
            image
        }
    };
    let retry_after = given.retry_after.as_ref();
    let retry_after = fields.length("retry_after", retry_after, MINUTE..=365 * DAY);
    RolloutOrder {
        display_name: given.display_name.clone(),
        selector: read_selector(fields, given.selector.as_ref()),
        image,
        template: Box::new(read_template(fields, given.task.as_ref(), now)),
        schedule: read_schedule(fields, given.schedule.as_ref()),
        validation: read_validation(fields, given.validation.as_ref()),
        max_failures: fields
            .number_or("max_failures", given.max_failures, 1..=100, MAX_FAILURES)
            .unwrap_or(MAX_FAILURES),
        retry_after: retry_after.unwrap_or(RETRY_AFTER),
    }
}

fn read_selector(fields: &mut Fields, given: Option<&v1::RolloutSelector>) -> RolloutSelector {
    let given = given.cloned().unwrap_or_default();
    fields.text("selector.model", &given.model, 63);
    if !given.component.is_empty() && !names::is_mark_key(&given.component) {
        fields.bad(
            "selector.component",
            "not 1 to 63 characters of [A-Za-z0-9_-]",
        );
    }
    fields.marks("selector.tags", &given.tags, 255);
    if given.from_versions.len() > MOST_FROM_VERSIONS {
        fields.bad(
            "selector.from_versions",
            format!("more than {MOST_FROM_VERSIONS}"),
        );
    }
    let mut id_in = |field: &str, collection: &str, name: &str| {
        let id = (!name.is_empty()).then(|| fields.name(field, collection, name));
        id.flatten().map(str::to_owned)
    };
    RolloutSelector {
        profile: id_in(
            "selector.device_profile",
            "deviceProfiles",
            &given.device_profile,
        ),
        group: id_in(
            "selector.multicast_group",
            "multicastGroups",
            &given.multicast_group,
        ),
        model: given.model,
        component: match given.component {
            component if component.is_empty() => "main".to_owned(),
            component => component,
        },
        tags: given.tags,
        from_versions: given.from_versions.into_iter().collect(),
        include_unknown: given.include_unknown_versions,
    }
}

/// A task without image, devices and times.
fn read_template(fields: &mut Fields, given: Option<&v1::FuotaTask>, now: Timestamp) -> Task {
    let mut given = given.cloned().unwrap_or_default();
    let mut task = task_records::blank(TaskId(String::new()), now);
    fields.within("task", |fields| {
        let mut never = |field: &str, is_given: bool| {
            if is_given {
                fields.bad(field, "has no place in a rollout, whose tasks come again");
            }
        };
        never("images", !given.images.is_empty());
        never(
            "install_mode",
            given.install_mode() == v1::InstallMode::InTurn,
        );
        never("prepare_after", given.prepare_after.is_some());
        never("window_start", given.window_start.is_some());
        never("deadline", given.deadline.is_some());
        never("cleanup_deadline", given.cleanup_deadline.is_some());
        never("reboot_time", given.reboot_time.is_some());
        never("reboot_mode", given.reboot_mode() == v1::RebootMode::AtTime);
        // A task has an image; that of the rollout takes this one's place.
        given.images = vec![names::name("images", "0".repeat(64))];
        task_records::write(fields, &given, &mut task);
    });
    task.images.clear();
    task.options.skip_unfit = true;
    task
}

fn read_schedule(fields: &mut Fields, given: Option<&v1::RolloutSchedule>) -> RolloutSchedule {
    let given = given.copied().unwrap_or_default();
    let repeat_interval = given.repeat_interval.as_ref();
    let repeat_interval = fields.length(
        "schedule.repeat_interval",
        repeat_interval,
        5 * MINUTE..=366 * DAY,
    );
    let longest = repeat_interval.unwrap_or(366 * DAY);
    let start_within = given.start_within.as_ref();
    let start_within = fields.length("schedule.start_within", start_within, MINUTE..=longest);
    if start_within.is_some() && given.repeat_interval.is_none() {
        fields.bad("schedule.start_within", "needs repeat_interval");
    }
    let max_wait = given.max_wait.as_ref();
    RolloutSchedule {
        not_before: fields.moment("schedule.not_before", given.not_before.as_ref()),
        repeat_interval,
        start_within,
        min_devices: fields
            .number_or("schedule.min_devices", given.min_devices, 1..=10_000, 1)
            .unwrap_or(1),
        max_wait: fields.length("schedule.max_wait", max_wait, Duration::ZERO..=366 * DAY),
    }
}

fn read_validation(
    fields: &mut Fields,
    given: Option<&v1::RolloutValidation>,
) -> RolloutValidation {
    let given = given.cloned().unwrap_or_default();
    let field = "validation.test_devices";
    if given.test_devices.len() > MOST_TEST_DEVICES {
        fields.bad(field, format!("more than {MOST_TEST_DEVICES}"));
    }
    let percent = given.required_percent;
    RolloutValidation {
        test_devices: read_devices(fields, field, &given.test_devices),
        required_percent: fields
            .number_or("validation.required_percent", percent, 1..=100, 100)
            .unwrap_or(100),
    }
}

/// Devices by name.
pub(super) fn read_devices(fields: &mut Fields, field: &str, given: &[String]) -> BTreeSet<DevEui> {
    let mut devices = BTreeSet::new();
    for (at, name) in given.iter().enumerate() {
        match names::device(name) {
            Some(dev_eui) => {
                devices.insert(dev_eui);
            }
            None => fields.bad(
                &format!("{field}[{at}]"),
                "not of the form devices/{dev_eui}",
            ),
        }
    }
    devices
}

/// The message of a rollout with the masked fields of another.
pub(super) fn merge(mut into: v1::Rollout, new: v1::Rollout, mask: &Mask) -> v1::Rollout {
    macro_rules! take {
        ($($field:ident),*) => {$( mask.take(stringify!($field), &mut into.$field, new.$field); )*};
    }
    take!(
        display_name,
        selector,
        image,
        task,
        schedule,
        validation,
        max_failures,
        retry_after
    );
    into
}

/// A rollout as the API shows it.
pub(super) fn show(rollout: &Rollout) -> v1::Rollout {
    let (order, status) = (&rollout.order, &rollout.status);
    let image_name = |sha256| names::name("images", sha256);
    v1::Rollout {
        name: names::name("rollouts", &rollout.id),
        display_name: order.display_name.clone(),
        selector: Some(show_selector(&order.selector)),
        image: order.image.map(image_name).unwrap_or_default(),
        task: Some(show_template(&order.template)),
        schedule: Some(show_schedule(&order.schedule)),
        validation: Some(v1::RolloutValidation {
            test_devices: order
                .validation
                .test_devices
                .iter()
                .map(|dev_eui| names::name("devices", dev_eui))
                .collect(),
            required_percent: order.validation.required_percent.into(),
        }),
        max_failures: order.max_failures,
        retry_after: Some(show_length(order.retry_after)),
        enabled: rollout.switch == RolloutSwitch::Enabled,
        state: show_state(status.state).into(),
        state_message: status.message.clone(),
        device_counts: Some(show_counts(&status.counts)),
        current_image: status.image.map(image_name).unwrap_or_default(),
        validated_image: rollout.validated.map(image_name).unwrap_or_default(),
        next_start_time: status.next_start.map(show_moment),
        tasks: rollout.tasks.iter().map(show_task).collect(),
        create_time: Some(show_moment(rollout.created_at)),
        update_time: Some(show_moment(rollout.updated_at)),
        etag: etag(rollout),
    }
}

fn show_selector(selector: &RolloutSelector) -> v1::RolloutSelector {
    let name_in = |collection: &str, id: &Option<String>| {
        let name = id.as_ref().map(|id| names::name(collection, id));
        name.unwrap_or_default()
    };
    v1::RolloutSelector {
        model: selector.model.clone(),
        component: selector.component.clone(),
        device_profile: name_in("deviceProfiles", &selector.profile),
        multicast_group: name_in("multicastGroups", &selector.group),
        tags: selector.tags.clone(),
        from_versions: selector.from_versions.iter().copied().collect(),
        include_unknown_versions: selector.include_unknown,
    }
}

/// What of a task is written in a rollout.
fn show_template(template: &Task) -> v1::FuotaTask {
    v1::FuotaTask {
        name: String::new(),
        state: v1::TaskState::Unspecified.into(),
        device_counts: None,
        frame_counts: None,
        sequence: 0,
        create_time: None,
        update_time: None,
        etag: String::new(),
        ..task_records::show_task(template, &StateCounts::new())
    }
}

fn show_schedule(schedule: &RolloutSchedule) -> v1::RolloutSchedule {
    v1::RolloutSchedule {
        not_before: schedule.not_before.map(show_moment),
        repeat_interval: schedule.repeat_interval.map(show_length),
        start_within: schedule.start_within.map(show_length),
        min_devices: schedule.min_devices,
        max_wait: schedule.max_wait.map(show_length),
    }
}

fn show_counts(counts: &RolloutCounts) -> v1::RolloutDeviceCounts {
    v1::RolloutDeviceCounts {
        selected: counts.selected(),
        up_to_date: counts.up_to_date,
        behind: counts.behind,
        in_task: counts.in_task,
        failed: counts.failed,
        unknown: counts.unknown,
        left_alone: counts.left_alone,
    }
}

fn show_task(task: &RolloutTask) -> v1::RolloutTask {
    v1::RolloutTask {
        task: names::name("tasks", &task.task),
        purpose: match task.purpose {
            RolloutPurpose::Validation => v1::RolloutPurpose::Validation,
            RolloutPurpose::Wide => v1::RolloutPurpose::Wide,
            RolloutPurpose::Push => v1::RolloutPurpose::Push,
        }
        .into(),
        image: names::name("images", task.image),
        create_time: Some(show_moment(task.created_at)),
        started: task.started,
        end_time: task.ended.map(|end| show_moment(end.at)),
        succeeded_count: task.ended.map_or(0, |end| end.succeeded),
        failed_count: task.ended.map_or(0, |end| end.failed),
    }
}

pub(super) fn show_state(state: RolloutState) -> v1::RolloutState {
    match state {
        RolloutState::Disabled => v1::RolloutState::Disabled,
        RolloutState::Waiting => v1::RolloutState::Waiting,
        RolloutState::Validating => v1::RolloutState::Validating,
        RolloutState::Running => v1::RolloutState::Running,
        RolloutState::ValidationFailed => v1::RolloutState::ValidationFailed,
        RolloutState::Blocked => v1::RolloutState::Blocked,
        RolloutState::UpToDate => v1::RolloutState::UpToDate,
        RolloutState::Withdrawn => v1::RolloutState::Withdrawn,
    }
}

/// Changes with every change by a user.
pub(super) fn etag(rollout: &Rollout) -> String {
    let written = (&rollout.order, rollout.switch, rollout.updated_at);
    // Plain data without maps keyed by anything but text: it always encodes.
    let encoded = serde_json::to_vec(&written).unwrap_or_default();
    let digest = sha256(&encoded);
    URL_SAFE_NO_PAD.encode(digest.first_chunk::<12>().copied().unwrap_or_default())
}
