//! Tasks over gRPC: drafts, starts, cancels, lists. Forecasts are in `api_plans`, watches in `api_watches`.

use lorawan_fuota::proto::v1;
use lorawan_fuota::record::{DeviceReason, DeviceState, TaskState};
use lorawan_fuota::time::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::api_support::{NOW, Server, bad_fields, device, mask, reason};

/// A server with devices, an image and nothing else.
pub(crate) async fn server(devices: u64) -> (Server, v1::FuotaTask) {
    let server = Server::start().await;
    server.fill(devices).await;
    let metadata = v1::ImageMetadata {
        target_version: Some(2),
        ..Default::default()
    };
    let image = server.upload(metadata, &[7; 5000]).await.unwrap();
    let task = v1::FuotaTask {
        images: vec![image.name],
        ..Default::default()
    };
    (server, task)
}

pub(crate) fn names(devices: impl IntoIterator<Item = u64>) -> Vec<String> {
    devices
        .into_iter()
        .map(|n| format!("devices/{n:016x}"))
        .collect()
}

pub(crate) async fn create(
    server: &Server,
    id: &str,
    task: &v1::FuotaTask,
    devices: Vec<String>,
) -> Result<v1::FuotaTask, Status> {
    let request = v1::CreateTaskRequest {
        task: Some(task.clone()),
        task_id: id.to_owned(),
        devices,
        ..Default::default()
    };
    Ok(server.tasks().create_task(request).await?.into_inner())
}

pub(crate) async fn get(server: &Server, name: &str) -> Result<v1::FuotaTask, Status> {
    let request = v1::GetTaskRequest {
        name: name.to_owned(),
    };
    Ok(server.tasks().get_task(request).await?.into_inner())
}

pub(crate) async fn start(
    server: &Server,
    name: &str,
    etag: &str,
) -> Result<v1::FuotaTask, Status> {
    let request = v1::StartTaskRequest {
        name: name.to_owned(),
        etag: etag.to_owned(),
        request_id: String::new(),
        queue: false,
    };
    Ok(server.tasks().start_task(request).await?.into_inner())
}

pub(crate) async fn cancel(server: &Server, name: &str) -> Result<v1::FuotaTask, Status> {
    let request = v1::CancelTaskRequest {
        name: name.to_owned(),
        request_id: String::new(),
    };
    Ok(server.tasks().cancel_task(request).await?.into_inner())
}

pub(crate) fn moment(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: NOW + seconds,
        nanos: 0,
    })
}

#[tokio::test]
async fn a_draft_shows_its_defaults() {
    let (server, task) = server(3).await;
    let created = create(&server, "", &task, names(1..=2)).await.unwrap();
    assert_eq!(created.state(), v1::TaskState::Draft);
    assert_eq!(created.success_criterion(), v1::SuccessCriterion::Running);
    assert_eq!(created.reboot_mode(), v1::RebootMode::WhenReady);
    assert_eq!(created.max_redundancy_percent, Some(100));
    assert!(created.frag_descriptor.is_empty());
    assert_eq!(created.frag_algo(), v1::FragAlgo::Ts004);
    let counts = created.device_counts.unwrap();
    assert_eq!((counts.total, counts.pending, counts.ended), (2, 2, 0));
    assert_eq!(get(&server, &created.name).await.unwrap(), created);
    assert_eq!(
        reason(get(&server, "tasks/none").await, Code::NotFound),
        "NOT_FOUND"
    );
    assert_eq!(bad_fields(get(&server, "tasks/A").await), ["name"]);
}

#[tokio::test]
async fn what_a_task_names_has_to_exist() {
    let (server, task) = server(1).await;
    let code = |result: Result<v1::FuotaTask, Status>| result.unwrap_err().code();
    assert_eq!(
        code(create(&server, "a", &task, names([9])).await),
        Code::NotFound
    );
    let no_image = v1::FuotaTask {
        images: vec![format!("images/{}", "0".repeat(64))],
        ..Default::default()
    };
    assert_eq!(
        code(create(&server, "a", &no_image, vec![]).await),
        Code::NotFound
    );
    let request = v1::CreateTaskRequest {
        task: Some(task.clone()),
        multicast_groups: vec!["multicastGroups/none".to_owned()],
        ..Default::default()
    };
    let no_group = server.tasks().create_task(request).await;
    assert_eq!(no_group.unwrap_err().code(), Code::NotFound);
    create(&server, "a", &task, vec![]).await.unwrap();
    assert_eq!(
        code(create(&server, "a", &task, vec![]).await),
        Code::AlreadyExists
    );
}

#[tokio::test]
async fn a_bad_task_is_refused_field_by_field() {
    let (server, task) = server(0).await;
    let bad = v1::FuotaTask {
        display_name: "x".repeat(256),
        images: vec![task.images[0].clone(), task.images[0].clone()],
        success_criterion: 9,
        reboot_mode: 9,
        prepare_after: moment(20),
        window_start: moment(10),
        deadline: moment(5),
        cleanup_deadline: moment(4),
        max_redundancy_percent: Some(1001),
        device_class: 77,
        ping_slot_periodicity: Some(8),
        data_rate: Some(16),
        frequency_hz: 868_100_050,
        frag_size: 240,
        frag_descriptor: vec![1].into(),
        frag_algo: 9,
        tags: [(String::new(), "b".to_owned())].into(),
        ..Default::default()
    };
    let request = v1::CreateTaskRequest {
        task: Some(bad),
        task_id: "-".to_owned(),
        devices: vec!["x".to_owned()],
        multicast_groups: vec!["y".to_owned()],
        request_id: String::new(),
    };
    let mut fields = bad_fields(server.tasks().create_task(request).await);
    fields.sort();
    assert_eq!(
        fields,
        [
            "devices[0]",
            "multicast_groups[0]",
            "task.cleanup_deadline",
            "task.data_rate",
            "task.deadline",
            "task.device_class",
            "task.display_name",
            "task.frag_algo",
            "task.frag_descriptor",
            "task.frag_size",
            "task.frequency_hz",
            "task.images",
            "task.max_redundancy_percent",
            "task.ping_slot_periodicity",
            "task.reboot_mode",
            "task.success_criterion",
            "task.tags",
            "task.window_start",
            "task_id",
        ]
    );
    let time = v1::FuotaTask {
        deadline: Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: -1,
        }),
        ..task
    };
    assert_eq!(
        bad_fields(create(&server, "a", &time, vec![]).await),
        ["task.deadline"]
    );
}

#[tokio::test]
async fn a_draft_is_updated_by_mask_and_etag() {
    let (server, task) = server(1).await;
    let created = create(&server, "a", &task, names([1])).await.unwrap();
    let update = |change: v1::FuotaTask, paths: &[&str]| {
        let request = v1::UpdateTaskRequest {
            task: Some(v1::FuotaTask {
                name: "tasks/a".to_owned(),
                ..change
            }),
            update_mask: mask(paths),
            request_id: String::new(),
        };
        let mut tasks = server.tasks();
        async move { Ok::<_, Status>(tasks.update_task(request).await?.into_inner()) }
    };
    let times = v1::FuotaTask {
        deadline: moment(86_400),
        cleanup_deadline: moment(90_000),
        display_name: "ignored".to_owned(),
        etag: created.etag.clone(),
        ..Default::default()
    };
    let updated = update(times.clone(), &["deadline", "cleanup_deadline"])
        .await
        .unwrap();
    assert_eq!(
        (updated.deadline, updated.cleanup_deadline),
        (moment(86_400), moment(90_000))
    );
    assert_eq!(updated.display_name, "");
    assert_ne!(updated.etag, created.etag);
    assert!(updated.sequence > created.sequence);
    let old = update(times, &["deadline"]).await;
    assert_eq!(reason(old, Code::Aborted), "ETAG_DIFFERS");
    let later = v1::FuotaTask {
        deadline: moment(100_000),
        ..Default::default()
    };
    let moved = update(later, &["deadline"]).await.unwrap();
    assert_eq!(
        moved.cleanup_deadline,
        moment(103_600),
        "it keeps its distance"
    );
    assert_eq!(
        bad_fields(update(v1::FuotaTask::default(), &["images"]).await),
        ["task.images"]
    );
    assert_eq!(
        bad_fields(update(v1::FuotaTask::default(), &["state"]).await),
        ["update_mask"]
    );
    let read_back = update(get(&server, "tasks/a").await.unwrap(), &["*"])
        .await
        .unwrap();
    assert_eq!(read_back.cleanup_deadline, moved.cleanup_deadline);

    start(&server, "tasks/a", "").await.unwrap();
    let late = update(
        v1::FuotaTask {
            frag_size: 50,
            ..Default::default()
        },
        &["frag_size"],
    );
    assert_eq!(
        reason(late.await, Code::FailedPrecondition),
        "TASK_NOT_DRAFT"
    );
}

#[tokio::test]
async fn members_of_a_draft_come_and_go() {
    let (server, task) = server(4).await;
    create(&server, "a", &task, names([1])).await.unwrap();
    let add = |devices: Vec<String>, groups: &[&str], request_id: &str| {
        let request = v1::AddTaskDevicesRequest {
            name: "tasks/a".to_owned(),
            devices,
            multicast_groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            request_id: request_id.to_owned(),
        };
        let mut tasks = server.tasks();
        async move { Ok::<_, Status>(tasks.add_task_devices(request).await?.into_inner()) }
    };
    assert_eq!(bad_fields(add(vec![], &[], "").await), ["devices"]);
    let answer = add(names([1, 2, 3, 9]), &["multicastGroups/none"], "r")
        .await
        .unwrap();
    assert_eq!(answer.task.clone().unwrap().device_counts.unwrap().total, 3);
    assert_eq!(answer.errors.len(), 1);
    assert_eq!(answer.errors[0].device, "devices/0000000000000009");
    assert_eq!(answer.unknown_multicast_groups, ["multicastGroups/none"]);
    assert_eq!(
        add(names([1, 2, 3, 9]), &["multicastGroups/none"], "r")
            .await
            .unwrap(),
        answer
    );
    let reused = add(names([4]), &[], "r").await;
    assert_eq!(
        reason(reused, Code::FailedPrecondition),
        "REQUEST_ID_REUSED"
    );

    let request = v1::RemoveTaskDevicesRequest {
        name: "tasks/a".to_owned(),
        devices: names([2, 9]),
        ..Default::default()
    };
    let removed = server
        .tasks()
        .remove_task_devices(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        removed.task.clone().unwrap().device_counts.unwrap().total,
        2
    );
    assert_eq!(
        get(&server, "tasks/a").await.unwrap(),
        removed.task.unwrap()
    );
    let request = v1::ListTaskDevicesRequest {
        parent: "tasks/a".to_owned(),
        ..Default::default()
    };
    let list = server
        .tasks()
        .list_task_devices(request)
        .await
        .unwrap()
        .into_inner();
    let found: Vec<String> = list.task_devices.into_iter().map(|d| d.device).collect();
    assert_eq!(found, names([1, 3]));

    let delete = v1::DeleteDeviceRequest {
        name: "devices/0000000000000001".to_owned(),
        request_id: String::new(),
    };
    let held = server.devices().delete_device(delete).await;
    assert_eq!(reason(held, Code::FailedPrecondition), "DEVICE_IN_USE");
    let delete = v1::DeleteImageRequest {
        name: task.images[0].clone(),
        request_id: String::new(),
    };
    let used = server.images().delete_image(delete).await;
    assert_eq!(reason(used, Code::FailedPrecondition), "IMAGE_IN_USE");
}

#[tokio::test]
async fn a_start_fixes_devices_and_names_what_stands_in_its_way() {
    let (server, task) = server(3).await;
    let request = v1::CreateMulticastGroupRequest {
        multicast_group: Some(v1::MulticastGroup {
            region: v1::Region::Eu868.into(),
            device_class: v1::DeviceClass::C.into(),
            ..Default::default()
        }),
        multicast_group_id: "g".to_owned(),
        request_id: String::new(),
    };
    server
        .groups()
        .create_multicast_group(request)
        .await
        .unwrap();
    let request = v1::AddMulticastGroupDevicesRequest {
        name: "multicastGroups/g".to_owned(),
        devices: names([2]),
        request_id: String::new(),
    };
    server
        .groups()
        .add_multicast_group_devices(request)
        .await
        .unwrap();
    let request = v1::CreateTaskRequest {
        task: Some(task.clone()),
        task_id: "a".to_owned(),
        devices: names([1]),
        multicast_groups: vec!["multicastGroups/g".to_owned()],
        request_id: String::new(),
    };
    let draft = server
        .tasks()
        .create_task(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(draft.multicast_groups, ["multicastGroups/g"]);

    assert_eq!(
        reason(start(&server, "tasks/a", "old").await, Code::Aborted),
        "ETAG_DIFFERS"
    );
    let request = v1::StartTaskRequest {
        name: "tasks/a".to_owned(),
        etag: draft.etag,
        request_id: "s".to_owned(),
        queue: false,
    };
    let started = server
        .tasks()
        .start_task(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(started.state(), v1::TaskState::Scheduled);
    assert_eq!(started.device_counts.unwrap().total, 2);
    server
        .change_task("a", |task, _| task.state = TaskState::Preparing)
        .await;
    let again = server
        .tasks()
        .start_task(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, started, "the first answer again");
    assert_eq!(
        reason(
            start(&server, "tasks/a", "").await,
            Code::FailedPrecondition
        ),
        "TASK_NOT_DRAFT"
    );
    let request = v1::DeleteMulticastGroupRequest {
        name: "multicastGroups/g".to_owned(),
        request_id: String::new(),
    };
    let used = server.groups().delete_multicast_group(request).await;
    assert_eq!(reason(used, Code::FailedPrecondition), "GROUP_IN_USE");

    create(&server, "b", &task, names([1, 2, 3])).await.unwrap();
    let status = start(&server, "tasks/b", "").await.unwrap_err();
    let violations = status
        .get_details_precondition_failure()
        .unwrap()
        .violations;
    let subjects: Vec<(&str, &str)> = violations
        .iter()
        .map(|v| (v.subject.as_str(), v.description.as_str()))
        .collect();
    assert_eq!(
        subjects,
        [
            ("devices/0000000000000001", "in tasks/a"),
            ("devices/0000000000000002", "in tasks/a")
        ]
    );
    assert_eq!(
        reason(Err::<(), _>(status), Code::FailedPrecondition),
        "PLAN_BLOCKED"
    );
    let request = v1::StartTaskRequest {
        name: "tasks/b".to_owned(),
        queue: true,
        ..Default::default()
    };
    let queued = server.tasks().start_task(request).await.unwrap();
    assert_eq!(queued.into_inner().state(), v1::TaskState::Scheduled);

    create(&server, "none", &task, vec![]).await.unwrap();
    let status = start(&server, "tasks/none", "").await.unwrap_err();
    let violations = status
        .get_details_precondition_failure()
        .unwrap()
        .violations;
    assert_eq!(violations[0].r#type, "NO_DEVICES");
    assert_eq!(
        reason(Err::<(), _>(status), Code::FailedPrecondition),
        "PLAN_BLOCKED"
    );

    let device = v1::EndDevice {
        name: "devices/0000000000000001".to_owned(),
        ..device(1)
    };
    let request = v1::UpdateDeviceRequest {
        device: Some(device),
        update_mask: mask(&["root_keys"]),
        request_id: String::new(),
    };
    let held = server.devices().update_device(request).await;
    assert_eq!(reason(held, Code::FailedPrecondition), "DEVICE_IN_USE");
}

#[tokio::test]
async fn a_long_list_of_conflicts_still_fits_a_status() {
    let (server, task) = server(500).await;
    create(&server, "a", &task, names(1..=500)).await.unwrap();
    start(&server, "tasks/a", "").await.unwrap();
    create(&server, "b", &task, names(1..=500)).await.unwrap();
    let status = start(&server, "tasks/b", "").await.unwrap_err();
    assert!(status.details().len() < 6000, "{}", status.details().len());
    assert!(
        status.message().contains("more not listed"),
        "{}",
        status.message()
    );
    assert!(
        status
            .get_details_precondition_failure()
            .unwrap()
            .violations
            .len()
            > 10
    );
}

#[tokio::test]
async fn a_task_is_cancelled_from_where_it_is() {
    let (server, task) = server(2).await;
    create(&server, "draft", &task, names([1])).await.unwrap();
    let cancelled = cancel(&server, "tasks/draft").await.unwrap();
    assert_eq!(cancelled.state(), v1::TaskState::Cancelled);
    assert_eq!(cancelled.state_reason(), v1::TaskReason::Requested);
    assert_eq!(cancelled.device_counts.unwrap().cancelled, 1);
    assert!(cancelled.end_time.is_some());
    assert_eq!(cancel(&server, "tasks/draft").await.unwrap(), cancelled);

    create(&server, "a", &task, names([1])).await.unwrap();
    start(&server, "tasks/a", "").await.unwrap();
    let delete = |name: &str| {
        let request = v1::DeleteTaskRequest {
            name: name.to_owned(),
            request_id: String::new(),
        };
        let mut tasks = server.tasks();
        async move { tasks.delete_task(request).await }
    };
    assert_eq!(
        reason(delete("tasks/a").await, Code::FailedPrecondition),
        "TASK_ACTIVE"
    );
    assert_eq!(
        cancel(&server, "tasks/a").await.unwrap().state(),
        v1::TaskState::Cancelling
    );
    assert_eq!(
        cancel(&server, "tasks/a").await.unwrap().state(),
        v1::TaskState::Cancelling
    );
    server
        .change_task("a", |task, _| task.state = TaskState::Completed)
        .await;
    assert_eq!(
        reason(cancel(&server, "tasks/a").await, Code::FailedPrecondition),
        "TASK_ENDED"
    );
    delete("tasks/a").await.unwrap();
    assert_eq!(reason(delete("tasks/a").await, Code::NotFound), "NOT_FOUND");
}

#[tokio::test]
async fn tasks_and_their_devices_are_listed_and_filtered() {
    let (server, task) = server(3).await;
    create(&server, "a", &task, names([1, 2, 3])).await.unwrap();
    create(&server, "b", &task, names([1])).await.unwrap();
    start(&server, "tasks/a", "").await.unwrap();
    server
        .change_task("a", |task, devices| {
            task.state = TaskState::Completing;
            devices[0].state = DeviceState::Running;
            devices[1].state = DeviceState::Failed;
            devices[1].reason = Some(DeviceReason::MicError);
            devices[1]
                .entered
                .insert(DeviceState::Failed, Timestamp::from_unix_seconds(NOW));
        })
        .await;
    let tasks = |filter: String| {
        let request = v1::ListTasksRequest {
            filter,
            ..Default::default()
        };
        let mut tasks = server.tasks();
        async move {
            let list = tasks.list_tasks(request).await?.into_inner();
            Ok::<Vec<String>, Status>(list.tasks.into_iter().map(|task| task.name).collect())
        }
    };
    for (filter, expected) in [
        (String::new(), vec!["tasks/a", "tasks/b"]),
        ("state = DRAFT".to_owned(), vec!["tasks/b"]),
        ("state = PAUSED".to_owned(), vec![]),
        (
            "device = devices/0000000000000002".to_owned(),
            vec!["tasks/a"],
        ),
        (
            format!("image = {} AND state = COMPLETING", task.images[0]),
            vec!["tasks/a"],
        ),
        ("multicast_group = multicastGroups/g".to_owned(), vec![]),
    ] {
        assert_eq!(tasks(filter.clone()).await.unwrap(), expected, "{filter}");
    }
    for bad in ["state = NONE", "device = x", "image = x", "name = x"] {
        assert_eq!(bad_fields(tasks(bad.to_owned()).await), ["filter"], "{bad}");
    }

    let devices = |filter: &str| {
        let request = v1::ListTaskDevicesRequest {
            parent: "tasks/a".to_owned(),
            filter: filter.to_owned(),
            ..Default::default()
        };
        let mut tasks = server.tasks();
        async move {
            tasks
                .list_task_devices(request)
                .await
                .unwrap()
                .into_inner()
                .task_devices
        }
    };
    let failed = devices("state = FAILED AND reason = MIC_ERROR").await;
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].name, "tasks/a/devices/0000000000000002");
    assert_eq!(failed[0].verdict(), v1::Verdict::NotSucceeded);
    assert_eq!(failed[0].wave, "tasks/a/waves/1");
    assert_eq!(
        failed[0].state_entries[0].state(),
        v1::TaskDeviceState::Failed
    );
    assert_eq!(devices("verdict = SUCCEEDED").await.len(), 1);
    assert_eq!(
        devices("wave = tasks/a/waves/1 AND cleanup_state = NOT_NEEDED")
            .await
            .len(),
        3
    );
    let request = v1::GetTaskDeviceRequest {
        name: failed[0].name.clone(),
    };
    let got = server
        .tasks()
        .get_task_device(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got, failed[0]);
    let counts = get(&server, "tasks/a")
        .await
        .unwrap()
        .device_counts
        .unwrap();
    assert_eq!((counts.total, counts.ended, counts.succeeded), (3, 2, 1));

    let request = v1::ListWavesRequest {
        parent: "tasks/a".to_owned(),
        ..Default::default()
    };
    let waves = server
        .tasks()
        .list_waves(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(waves.total_size, 1);
    let request = v1::GetWaveRequest {
        name: "tasks/a/waves/1".to_owned(),
    };
    assert_eq!(
        server.tasks().get_wave(request).await.unwrap().into_inner(),
        waves.waves[0]
    );
    let request = v1::GetDistributionSessionRequest {
        name: "tasks/a/sessions/1".to_owned(),
    };
    let none = server.tasks().get_distribution_session(request).await;
    assert_eq!(reason(none, Code::NotFound), "NOT_FOUND");
}
