//! Rollouts over the API: who is taken when, what stops them, and what is left after an interruption.

use std::sync::atomic::Ordering;

use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::proto::v1;
use lorawan_fuota::record::{
    Change, DeviceState, Rollout, TaskId, TaskState, TenantId, VersionEvidence,
};
use lorawan_fuota::store::{Catalog, Store};
use lorawan_fuota::time::Timestamp;
use tonic::{Code, Status};

use crate::api_support::{NOW, Server, bad_fields, mask, reason};

const DAY: i64 = 86_400;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn moment(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn name(n: u64) -> String {
    format!("devices/{n:016x}")
}

/// A server with so many devices that run version 1, and an active image of version 2.
async fn fleet(devices: u64) -> (Server, v1::Image) {
    let server = Server::start().await;
    server.fill(devices).await;
    for n in 1..=devices {
        report(&server, n, 1).await;
    }
    let image = release(&server, 2).await;
    (server, image)
}

async fn release(server: &Server, version: u8) -> v1::Image {
    let metadata = v1::ImageMetadata {
        target_version: Some(version.into()),
        ..Default::default()
    };
    server.upload(metadata, &[version; 500]).await.unwrap()
}

/// A device says what it runs.
async fn report(server: &Server, n: u64, version: u32) {
    let device = server.store.device(&TenantId::default(), DevEui(n)).await;
    let mut status = device.unwrap().unwrap().status;
    let now = Timestamp::from_unix_seconds(server.now.load(Ordering::SeqCst));
    status.note_version("main", version, VersionEvidence::FirmwareManagement, now);
    let change = Change::PutDeviceStatus(DevEui(n), status.into());
    server.store.commit(&[change]).await.unwrap();
}

async fn create(server: &Server, rollout: v1::Rollout) -> Result<v1::Rollout, Status> {
    let request = v1::CreateRolloutRequest {
        rollout: Some(rollout),
        rollout_id: "r".to_owned(),
        enable: true,
        request_id: String::new(),
    };
    Ok(server
        .rollouts()
        .create_rollout(request)
        .await?
        .into_inner())
}

async fn get(server: &Server) -> v1::Rollout {
    let request = v1::GetRolloutRequest {
        name: "rollouts/r".to_owned(),
    };
    let got = server.rollouts().get_rollout(request).await.unwrap();
    got.into_inner()
}

/// Lets time pass, and has the server look at its rollouts.
async fn look(server: &Server, seconds: i64) -> v1::Rollout {
    server.now.fetch_add(seconds, Ordering::SeqCst);
    server.api.look_after_rollouts().await.unwrap();
    get(server).await
}

async fn enable(server: &Server) -> v1::Rollout {
    let request = v1::EnableRolloutRequest {
        name: "rollouts/r".to_owned(),
        request_id: String::new(),
    };
    let enabled = server.rollouts().enable_rollout(request).await.unwrap();
    enabled.into_inner()
}

async fn push(server: &Server, devices: &[u64]) -> Result<v1::PushRolloutResponse, Status> {
    let request = v1::PushRolloutRequest {
        name: "rollouts/r".to_owned(),
        devices: devices.iter().map(|n| name(*n)).collect(),
        request_id: String::new(),
    };
    Ok(server.rollouts().push_rollout(request).await?.into_inner())
}

/// The devices of a task.
async fn members(server: &Server, task: &str) -> Vec<String> {
    let request = v1::ListTaskDevicesRequest {
        parent: task.to_owned(),
        ..Default::default()
    };
    let listed = server.tasks().list_task_devices(request).await.unwrap();
    let devices = listed.into_inner().task_devices;
    devices.into_iter().map(|device| device.device).collect()
}

async fn tasks(server: &Server) -> Vec<v1::FuotaTask> {
    let request = v1::ListTasksRequest::default();
    server
        .tasks()
        .list_tasks(request)
        .await
        .unwrap()
        .into_inner()
        .tasks
}

/// Ends a task as the machines would; devices that end in RUNNING report `version`.
async fn end(server: &Server, id: &str, version: u32, fate: impl Fn(u64) -> DeviceState) {
    let now = Timestamp::from_unix_seconds(server.now.load(Ordering::SeqCst));
    server
        .change_task(id, |task, devices| {
            task.state = TaskState::Completed;
            task.ended_at = Some(now);
            for device in devices {
                device.state = fate(device.dev_eui.0);
            }
        })
        .await;
    for device in members(server, &format!("tasks/{id}")).await {
        let n = u64::from_str_radix(device.strip_prefix("devices/").unwrap(), 16).unwrap();
        if fate(n) == DeviceState::Running {
            report(server, n, version).await;
        }
    }
}

fn running(_: u64) -> DeviceState {
    DeviceState::Running
}

fn failed(_: u64) -> DeviceState {
    DeviceState::Failed
}

fn counts(rollout: &v1::Rollout) -> v1::RolloutDeviceCounts {
    rollout.device_counts.unwrap()
}

#[tokio::test]
async fn an_older_device_is_taken_by_itself_and_current_ones_are_not() {
    let (server, image) = fleet(3).await;
    report(&server, 2, 2).await;
    report(&server, 3, 2).await;
    let task = v1::FuotaTask {
        frag_size: 60,
        tags: [("site".to_owned(), "north".to_owned())].into(),
        ..Default::default()
    };
    let wanted = v1::Rollout {
        display_name: "main release".to_owned(),
        task: Some(task),
        ..Default::default()
    };
    let made = create(&server, wanted).await.unwrap();
    assert_eq!(made.name, "rollouts/r");
    assert_eq!(
        (made.state(), made.enabled),
        (v1::RolloutState::Running, true)
    );
    assert_eq!(made.current_image, image.name);
    let made_task = &tasks(&server).await[0];
    assert_eq!(made_task.name, "tasks/r-1");
    assert_eq!(made_task.state(), v1::TaskState::Scheduled);
    assert_eq!(
        (made_task.frag_size, made_task.skip_unfit_devices),
        (60, true)
    );
    assert_eq!(
        (&made_task.tags["rollout"], &made_task.tags["site"]),
        (&"r".to_owned(), &"north".to_owned())
    );
    assert_eq!(made_task.display_name, "main release");
    assert_eq!(members(&server, "tasks/r-1").await, [name(1)]);
    let seen = look(&server, 60).await;
    assert_eq!((counts(&seen).in_task, counts(&seen).up_to_date), (1, 2));
    end(&server, "r-1", 2, running).await;
    let seen = look(&server, 60).await;
    assert_eq!(seen.state(), v1::RolloutState::UpToDate);
    assert_eq!(seen.tasks[0].succeeded_count, 1);
    // Another one reports an old version, and a new release comes.
    report(&server, 3, 1).await;
    let seen = look(&server, 60).await;
    assert_eq!(seen.state(), v1::RolloutState::Running);
    assert_eq!(members(&server, "tasks/r-2").await, [name(3)]);
    let newer = release(&server, 3).await;
    end(&server, "r-2", 2, running).await;
    let seen = look(&server, 60).await;
    assert_eq!(seen.current_image, newer.name);
    assert_eq!(members(&server, "tasks/r-3").await.len(), 3);
    assert_eq!(tasks(&server).await.len(), 3);
}

#[tokio::test]
async fn the_image_is_tried_on_test_devices_first() {
    let (server, image) = fleet(4).await;
    let validation = v1::RolloutValidation {
        test_devices: vec![name(1), name(2)],
        required_percent: 50,
    };
    let wanted = v1::Rollout {
        validation: Some(validation),
        ..Default::default()
    };
    let made = create(&server, wanted).await.unwrap();
    assert_eq!(made.state(), v1::RolloutState::Validating);
    assert_eq!(made.tasks[0].purpose(), v1::RolloutPurpose::Validation);
    assert_eq!(members(&server, "tasks/r-1").await, [name(1), name(2)]);
    assert_eq!(look(&server, 3 * DAY).await.tasks.len(), 1);
    end(&server, "r-1", 2, |n| {
        if n == 1 { running(n) } else { failed(n) }
    })
    .await;
    let seen = look(&server, 60).await;
    assert_eq!(seen.state(), v1::RolloutState::Running);
    assert_eq!(seen.validated_image, image.name);
    // The one that has failed gets its second chance a day later.
    assert_eq!(members(&server, "tasks/r-2").await, [name(3), name(4)]);
}

#[tokio::test]
async fn a_validation_that_fails_stops_until_a_user_or_another_image_comes() {
    let (server, _) = fleet(3).await;
    let validation = v1::RolloutValidation {
        test_devices: vec![name(1)],
        required_percent: 0,
    };
    let wanted = v1::Rollout {
        validation: Some(validation),
        ..Default::default()
    };
    create(&server, wanted).await.unwrap();
    end(&server, "r-1", 2, |_| DeviceState::RolledBack).await;
    for _ in 0..3 {
        let seen = look(&server, 10 * DAY).await;
        assert_eq!(seen.state(), v1::RolloutState::ValidationFailed);
        assert!(
            seen.state_message.contains("0 of 1"),
            "{}",
            seen.state_message
        );
    }
    assert_eq!(tasks(&server).await.len(), 1);
    assert_eq!(enable(&server).await.state(), v1::RolloutState::Validating);
    end(&server, "r-2", 2, |_| DeviceState::RolledBack).await;
    assert_eq!(
        look(&server, 60).await.state(),
        v1::RolloutState::ValidationFailed
    );
    release(&server, 3).await;
    assert_eq!(
        look(&server, 60).await.state(),
        v1::RolloutState::Validating
    );
    end(&server, "r-3", 3, running).await;
    assert_eq!(look(&server, 60).await.state(), v1::RolloutState::Running);
    assert_eq!(members(&server, "tasks/r-4").await, [name(2), name(3)]);
}

#[tokio::test]
async fn starts_keep_their_time() {
    let (server, _) = fleet(2).await;
    let schedule = v1::RolloutSchedule {
        not_before: moment(NOW + 7200),
        repeat_interval: seconds(DAY),
        start_within: seconds(600),
        ..Default::default()
    };
    let wanted = v1::Rollout {
        schedule: Some(schedule),
        ..Default::default()
    };
    let made = create(&server, wanted).await.unwrap();
    assert_eq!(made.state(), v1::RolloutState::Waiting);
    assert_eq!(made.next_start_time, moment(NOW + 7200));
    assert_eq!(look(&server, 7199).await.tasks, []);
    report(&server, 2, 2).await;
    let next = server.api.look_after_rollouts().await.unwrap();
    assert_eq!(next, Some(Timestamp::from_unix_seconds(NOW + 7200)));
    assert_eq!(look(&server, 1).await.tasks.len(), 1);
    assert_eq!(members(&server, "tasks/r-1").await, [name(1)]);
    // Who falls behind afterwards waits for the next night, whether or not the first task has ended.
    report(&server, 2, 1).await;
    let seen = look(&server, 60).await;
    assert_eq!(seen.next_start_time, moment(NOW + 7200 + DAY));
    assert_eq!(look(&server, DAY - 61).await.tasks.len(), 1);
    assert_eq!(look(&server, 1).await.tasks.len(), 2);
    assert_eq!(members(&server, "tasks/r-2").await, [name(2)]);
}

#[tokio::test]
async fn a_start_gathers_devices_and_does_not_gather_for_ever() {
    let (server, _) = fleet(3).await;
    report(&server, 3, 2).await;
    let schedule = v1::RolloutSchedule {
        min_devices: 3,
        max_wait: seconds(DAY),
        ..Default::default()
    };
    let wanted = v1::Rollout {
        schedule: Some(schedule),
        ..Default::default()
    };
    let made = create(&server, wanted).await.unwrap();
    assert_eq!(made.state(), v1::RolloutState::Waiting);
    assert_eq!(
        (counts(&made).behind, made.next_start_time),
        (2, moment(NOW + DAY))
    );
    assert_eq!(look(&server, DAY - 1).await.tasks, []);
    assert_eq!(look(&server, 1).await.tasks.len(), 1);
    assert_eq!(members(&server, "tasks/r-1").await.len(), 2);
}

#[tokio::test]
async fn a_bad_device_is_left_out_until_it_is_pushed() {
    let (server, image) = fleet(2).await;
    let wanted = v1::Rollout {
        retry_after: seconds(3600),
        ..Default::default()
    };
    create(&server, wanted).await.unwrap();
    end(&server, "r-1", 2, |n| {
        if n == 1 { failed(n) } else { running(n) }
    })
    .await;
    assert_eq!(look(&server, 3599).await.state(), v1::RolloutState::Waiting);
    assert_eq!(look(&server, 1).await.tasks.len(), 2);
    assert_eq!(members(&server, "tasks/r-2").await, [name(1)]);
    end(&server, "r-2", 2, failed).await;
    let seen = look(&server, 30 * DAY).await;
    assert_eq!(seen.state(), v1::RolloutState::UpToDate);
    assert_eq!((counts(&seen).failed, seen.tasks.len()), (1, 2));
    assert!(
        seen.state_message.contains("left out after failures: 1"),
        "{}",
        seen.state_message
    );
    let pushed = push(&server, &[1, 2]).await.unwrap();
    assert_eq!(pushed.task, "tasks/r-3");
    let seen = pushed.rollout.unwrap();
    assert_eq!(seen.tasks[2].purpose(), v1::RolloutPurpose::Push);
    assert_eq!(
        (seen.tasks[2].started, &seen.tasks[2].image),
        (true, &image.name)
    );
    assert_eq!(members(&server, "tasks/r-3").await, [name(1)]);
    end(&server, "r-3", 2, running).await;
    look(&server, 60).await;
    let nothing = push(&server, &[1, 2]).await;
    assert_eq!(reason(nothing, Code::FailedPrecondition), "NOTHING_TO_PUSH");
    let unknown = push(&server, &[9]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(bad_fields(push(&server, &[]).await), ["devices"]);
    assert_eq!(tasks(&server).await.len(), 3);
}

#[tokio::test]
async fn disabled_it_starts_nothing_and_withdrawn_it_stops_what_runs() {
    let (server, _) = fleet(2).await;
    report(&server, 2, 2).await;
    create(&server, v1::Rollout::default()).await.unwrap();
    let request = v1::DisableRolloutRequest {
        name: "rollouts/r".to_owned(),
        request_id: String::new(),
    };
    let disabled = server
        .rollouts()
        .disable_rollout(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (disabled.state(), disabled.enabled),
        (v1::RolloutState::Disabled, false)
    );
    report(&server, 2, 1).await;
    assert_eq!(look(&server, DAY).await.tasks.len(), 1);
    assert_eq!(tasks(&server).await[0].state(), v1::TaskState::Scheduled);
    let withdraw = v1::WithdrawRolloutRequest {
        name: "rollouts/r".to_owned(),
        request_id: "once".to_owned(),
    };
    let answer = server
        .rollouts()
        .withdraw_rollout(withdraw.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.cancelled_tasks, ["tasks/r-1"]);
    assert_eq!(
        answer.rollout.as_ref().unwrap().state(),
        v1::RolloutState::Withdrawn
    );
    assert_eq!(tasks(&server).await[0].state(), v1::TaskState::Cancelling);
    let again = server
        .rollouts()
        .withdraw_rollout(withdraw)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, answer);
    assert_eq!(look(&server, DAY).await.tasks.len(), 1);
    let refused = push(&server, &[1]).await;
    assert_eq!(
        reason(refused, Code::FailedPrecondition),
        "ROLLOUT_WITHDRAWN"
    );
    // Enabled again it goes on, with the device that is free.
    assert_eq!(enable(&server).await.state(), v1::RolloutState::Running);
    end(&server, "r-1", 2, |_| DeviceState::Cancelled).await;
    let seen = look(&server, 60).await;
    assert_eq!(seen.tasks.len(), 2);
    assert_eq!(members(&server, "tasks/r-2").await, [name(2)]);
}

/// Takes the start of a task back, as if the server had ended right before it.
async fn forget_start(server: &Server, id: &str) {
    let mut rollout = record(server).await;
    for entry in &mut rollout.tasks {
        entry.started &= entry.task.0 != id;
    }
    let task = server
        .store
        .task(&TenantId::default(), &TaskId(id.to_owned()))
        .await;
    let mut task = task.unwrap().unwrap();
    task.state = TaskState::Draft;
    task.started_at = None;
    let changes = [
        Change::PutTask(task.into()),
        Change::PutRollout(Box::new(rollout)),
    ];
    server.store.commit(&changes).await.unwrap();
}

async fn record(server: &Server) -> Rollout {
    server
        .store
        .rollouts(&TenantId::default())
        .await
        .unwrap()
        .remove(0)
}

#[tokio::test]
async fn what_was_interrupted_before_its_start_is_started_and_not_made_again() {
    let (server, _) = fleet(3).await;
    report(&server, 3, 2).await;
    create(&server, v1::Rollout::default()).await.unwrap();
    forget_start(&server, "r-1").await;
    // Meanwhile one has got the image in another way, and another has fallen behind.
    report(&server, 1, 2).await;
    report(&server, 3, 1).await;
    let seen = look(&server, 1).await;
    assert_eq!((seen.tasks.len(), seen.tasks[0].started), (1, true));
    let all = tasks(&server).await;
    assert_eq!((all.len(), all[0].state()), (1, v1::TaskState::Scheduled));
    assert_eq!(members(&server, "tasks/r-1").await, [name(2), name(3)]);
    // A push is gone on with as it is; a draft somebody has deleted is not missed.
    end(&server, "r-1", 2, running).await;
    report(&server, 1, 1).await;
    look(&server, 60).await;
    end(&server, "r-2", 2, running).await;
    look(&server, 60).await;
    report(&server, 1, 1).await;
    push(&server, &[1]).await.unwrap();
    forget_start(&server, "r-3").await;
    let seen = look(&server, 1).await;
    assert!(seen.tasks[2].started, "{seen:?}");
    assert_eq!(members(&server, "tasks/r-3").await, [name(1)]);
    forget_start(&server, "r-3").await;
    let delete = v1::DeleteTaskRequest {
        name: "tasks/r-3".to_owned(),
        request_id: String::new(),
    };
    server.tasks().delete_task(delete).await.unwrap();
    let seen = look(&server, 1).await;
    assert_eq!(
        seen.tasks
            .iter()
            .filter(|task| task.end_time.is_none())
            .count(),
        1
    );
}

#[tokio::test]
async fn a_refused_start_blocks_with_its_reason_and_goes_on_when_that_is_gone() {
    let (server, _) = fleet(1).await;
    let policy = |allow_unsigned| v1::SetImagePolicyRequest {
        image_policy: Some(v1::ImagePolicy {
            name: "imagePolicies/others".to_owned(),
            allow_unsigned,
            ..Default::default()
        }),
        request_id: String::new(),
    };
    server
        .trust()
        .set_image_policy(policy(false))
        .await
        .unwrap();
    let made = create(&server, v1::Rollout::default()).await.unwrap();
    assert_eq!(made.state(), v1::RolloutState::Blocked);
    assert!(
        made.state_message.contains("demands a signature"),
        "{}",
        made.state_message
    );
    assert_eq!(made.next_start_time, moment(NOW + 60));
    // By hand it is refused just so, and leaves nothing.
    let refused = push(&server, &[1]).await;
    assert_eq!(reason(refused, Code::FailedPrecondition), "PLAN_BLOCKED");
    let mut pauses = vec![];
    for _ in 0..10 {
        let wait =
            get(&server).await.next_start_time.unwrap().seconds - server.now.load(Ordering::SeqCst);
        pauses.push(wait);
        let seen = look(&server, wait).await;
        assert_eq!(seen.state(), v1::RolloutState::Blocked);
        assert_eq!((seen.tasks.len(), seen.tasks[0].started), (1, false));
    }
    assert_eq!(pauses, [60, 120, 240, 480, 900, 900, 900, 900, 900, 900]);
    let all = tasks(&server).await;
    assert_eq!((all.len(), all[0].create_time), (1, moment(NOW)));
    server.trust().set_image_policy(policy(true)).await.unwrap();
    let seen = look(&server, 900).await;
    assert_eq!(seen.state(), v1::RolloutState::Running);
    assert_eq!((seen.tasks.len(), seen.tasks[0].started), (1, true));
}

#[tokio::test]
async fn what_it_names_may_go_and_blocks_it_then() {
    let (server, image) = fleet(1).await;
    let wanted = v1::Rollout {
        image: image.name.clone(),
        schedule: Some(v1::RolloutSchedule {
            not_before: moment(NOW + 60),
            ..Default::default()
        }),
        ..Default::default()
    };
    create(&server, wanted).await.unwrap();
    release(&server, 3).await;
    let withdraw = v1::WithdrawImageRequest {
        name: image.name.clone(),
        ..Default::default()
    };
    server.images().withdraw_image(withdraw).await.unwrap();
    let seen = look(&server, 60).await;
    assert_eq!(seen.state(), v1::RolloutState::Blocked);
    assert!(
        seen.state_message.contains("is withdrawn"),
        "{}",
        seen.state_message
    );
    // Without a fixed image the highest one is next.
    let update = v1::UpdateRolloutRequest {
        rollout: Some(v1::Rollout {
            name: "rollouts/r".to_owned(),
            etag: seen.etag.clone(),
            ..Default::default()
        }),
        update_mask: mask(&["image"]),
        request_id: String::new(),
    };
    let updated = server
        .rollouts()
        .update_rollout(update.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(updated.state(), v1::RolloutState::Running);
    let stale = server.rollouts().update_rollout(update).await;
    assert_eq!(reason(stale, Code::Aborted), "ETAG_DIFFERS");
}

#[tokio::test]
async fn it_is_deleted_when_its_tasks_have_ended_and_its_name_is_free_again() {
    let (server, _) = fleet(1).await;
    create(&server, v1::Rollout::default()).await.unwrap();
    let twice = create(&server, v1::Rollout::default()).await.unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);
    let delete = || v1::DeleteRolloutRequest {
        name: "rollouts/r".to_owned(),
        request_id: String::new(),
    };
    let active = server.rollouts().delete_rollout(delete()).await;
    assert_eq!(reason(active, Code::FailedPrecondition), "ROLLOUT_ACTIVE");
    end(&server, "r-1", 2, failed).await;
    server.rollouts().delete_rollout(delete()).await.unwrap();
    let gone = server
        .rollouts()
        .delete_rollout(delete())
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    // Its tasks stay, and the next rollout of that name counts on.
    let made = create(&server, v1::Rollout::default()).await.unwrap();
    assert_eq!(made.tasks[0].task, "tasks/r-2");
    assert_eq!(tasks(&server).await.len(), 2);
}

#[tokio::test]
async fn what_is_wrong_is_named_field_by_field() {
    let (server, _) = fleet(1).await;
    let wanted = v1::Rollout {
        image: "x".to_owned(),
        max_failures: 101,
        retry_after: seconds(1),
        selector: Some(v1::RolloutSelector {
            component: "a b".to_owned(),
            multicast_group: "g".to_owned(),
            ..Default::default()
        }),
        schedule: Some(v1::RolloutSchedule {
            repeat_interval: seconds(1),
            max_wait: seconds(-1),
            ..Default::default()
        }),
        validation: Some(v1::RolloutValidation {
            test_devices: vec!["1".to_owned()],
            required_percent: 101,
        }),
        task: Some(v1::FuotaTask {
            images: vec!["y".to_owned()],
            deadline: moment(NOW + 1),
            frag_size: 300,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut bad = bad_fields(create(&server, wanted).await);
    bad.sort();
    let expected = [
        "rollout.image",
        "rollout.max_failures",
        "rollout.retry_after",
        "rollout.schedule.max_wait",
        "rollout.schedule.repeat_interval",
        "rollout.selector.component",
        "rollout.selector.multicast_group",
        "rollout.task.deadline",
        "rollout.task.frag_size",
        "rollout.task.images",
        "rollout.validation.required_percent",
        "rollout.validation.test_devices[0]",
    ];
    assert_eq!(bad, expected);
    let wanted = v1::Rollout {
        selector: Some(v1::RolloutSelector {
            device_profile: "deviceProfiles/none".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let missing = create(&server, wanted).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test]
async fn it_reads_back_as_it_was_written_and_is_listed() {
    let (server, _) = fleet(1).await;
    let group = v1::CreateMulticastGroupRequest {
        multicast_group: Some(v1::MulticastGroup {
            region: v1::Region::Eu868.into(),
            device_class: v1::DeviceClass::C.into(),
            ..Default::default()
        }),
        multicast_group_id: "north".to_owned(),
        request_id: String::new(),
    };
    server.groups().create_multicast_group(group).await.unwrap();
    let wanted = v1::Rollout {
        display_name: "x".to_owned(),
        selector: Some(v1::RolloutSelector {
            model: "m".to_owned(),
            component: "radio".to_owned(),
            device_profile: "deviceProfiles/meter".to_owned(),
            multicast_group: "multicastGroups/north".to_owned(),
            tags: [("a".to_owned(), "b".to_owned())].into(),
            from_versions: vec![1, 7],
            include_unknown_versions: true,
        }),
        schedule: Some(v1::RolloutSchedule {
            not_before: moment(NOW),
            repeat_interval: seconds(DAY),
            start_within: seconds(60),
            min_devices: 2,
            max_wait: seconds(9),
        }),
        validation: Some(v1::RolloutValidation {
            test_devices: vec![name(1)],
            required_percent: 70,
        }),
        max_failures: 5,
        retry_after: seconds(120),
        ..Default::default()
    };
    let made = create(&server, wanted.clone()).await.unwrap();
    assert_eq!(made.selector, wanted.selector);
    assert_eq!(made.schedule, wanted.schedule);
    assert_eq!(made.validation, wanted.validation);
    assert_eq!((made.max_failures, made.retry_after), (5, seconds(120)));
    // Nothing is released for that model and component.
    assert_eq!(made.state(), v1::RolloutState::Waiting);
    // As a whole it may be written back.
    let update = v1::UpdateRolloutRequest {
        rollout: Some(made.clone()),
        update_mask: mask(&["*"]),
        request_id: String::new(),
    };
    let same = server
        .rollouts()
        .update_rollout(update)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((same.task, same.selector), (made.task, made.selector));
    let list = |filter: &str| v1::ListRolloutsRequest {
        filter: filter.to_owned(),
        ..Default::default()
    };
    for (filter, count) in [
        ("", 1),
        ("state = WAITING AND model = m", 1),
        ("state = BLOCKED", 0),
    ] {
        let listed = server.rollouts().list_rollouts(list(filter)).await.unwrap();
        assert_eq!(listed.into_inner().total_size, count, "{filter}");
    }
    let bad = server.rollouts().list_rollouts(list("state = NEVER")).await;
    assert_eq!(bad_fields(bad), ["filter"]);
}

#[tokio::test]
async fn two_rollouts_do_not_want_the_same_device() {
    let (server, _) = fleet(1).await;
    report(&server, 1, 2).await;
    for id in ["a", "b"] {
        let request = v1::CreateRolloutRequest {
            rollout: Some(v1::Rollout::default()),
            rollout_id: id.to_owned(),
            enable: true,
            request_id: String::new(),
        };
        server.rollouts().create_rollout(request).await.unwrap();
    }
    report(&server, 1, 1).await;
    server.api.look_after_rollouts().await.unwrap();
    server.api.look_after_rollouts().await.unwrap();
    let all = tasks(&server).await;
    let names: Vec<&str> = all.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["tasks/a-1"]);
}

#[tokio::test]
async fn the_driver_looks_by_itself_until_it_is_stopped() {
    let (server, _) = fleet(1).await;
    let schedule = v1::RolloutSchedule {
        not_before: moment(NOW + 1),
        ..Default::default()
    };
    let wanted = v1::Rollout {
        schedule: Some(schedule),
        ..Default::default()
    };
    create(&server, wanted).await.unwrap();
    server.now.fetch_add(1, Ordering::SeqCst);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let api = server.api.clone();
    let driver = tokio::spawn(async move {
        api.drive_rollouts(async move {
            let _ = stopped.await;
        })
        .await;
    });
    while get(&server).await.tasks.is_empty() {
        tokio::task::yield_now().await;
    }
    stop.send(()).unwrap();
    driver.await.unwrap();
}
