//! Held, retried and thinned out tasks, waves and thresholds over gRPC; a stand-in for the writer carries calls out.

use lorawan_fuota::proto::v1;
use lorawan_fuota::record::{DeviceState, TaskState};
use prost_types::Duration;
use tonic::{Code, Status};

use crate::api_support::{Server, bad_fields, mask, reason};

/// A server with four devices and a draft for them under `tasks/a`.
async fn server() -> Server {
    let server = Server::start().await;
    server.fill(4).await;
    let metadata = v1::ImageMetadata {
        target_version: Some(2),
        ..Default::default()
    };
    let image = server.upload(metadata, &[7; 5000]).await.unwrap();
    let task = v1::FuotaTask {
        images: vec![image.name],
        display_name: "march".to_owned(),
        thresholds: Some(v1::Thresholds {
            max_failed_count: Some(9),
            action: v1::ThresholdAction::Pause.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = v1::CreateTaskRequest {
        task: Some(task),
        task_id: "a".to_owned(),
        devices: (1..=4).map(|n| format!("devices/{n:016x}")).collect(),
        ..Default::default()
    };
    server.tasks().create_task(request).await.unwrap();
    server
}

async fn start(server: &Server) {
    let request = v1::StartTaskRequest {
        name: "tasks/a".to_owned(),
        ..Default::default()
    };
    server.tasks().start_task(request).await.unwrap();
}

async fn pause(server: &Server) -> Result<v1::FuotaTask, Status> {
    let request = v1::PauseTaskRequest {
        name: "tasks/a".to_owned(),
        ..Default::default()
    };
    Ok(server.tasks().pause_task(request).await?.into_inner())
}

async fn resume(server: &Server) -> Result<v1::FuotaTask, Status> {
    let request = v1::ResumeTaskRequest {
        name: "tasks/a".to_owned(),
        ..Default::default()
    };
    Ok(server.tasks().resume_task(request).await?.into_inner())
}

async fn retry(server: &Server, id: &str) -> Result<v1::FuotaTask, Status> {
    let request = v1::RetryTaskRequest {
        name: "tasks/a".to_owned(),
        task_id: id.to_owned(),
        ..Default::default()
    };
    Ok(server.tasks().retry_task(request).await?.into_inner())
}

async fn update(
    server: &Server,
    task: v1::FuotaTask,
    paths: &[&str],
) -> Result<v1::FuotaTask, Status> {
    let request = v1::UpdateTaskRequest {
        task: Some(v1::FuotaTask {
            name: "tasks/a".to_owned(),
            ..task
        }),
        update_mask: mask(paths),
        ..Default::default()
    };
    Ok(server.tasks().update_task(request).await?.into_inner())
}

#[tokio::test]
async fn only_a_task_that_goes_on_can_be_held() {
    let server = server().await;
    let code = Code::FailedPrecondition;
    assert_eq!(reason(pause(&server).await, code), "TASK_NOT_STARTED");
    assert_eq!(reason(resume(&server).await, code), "TASK_NOT_STARTED");
    start(&server).await;
    assert_eq!(
        resume(&server).await.unwrap().state(),
        v1::TaskState::Scheduled
    );
    assert_eq!(pause(&server).await.unwrap().state(), v1::TaskState::Paused);
    assert_eq!(pause(&server).await.unwrap().state(), v1::TaskState::Paused);
    let going = resume(&server).await.unwrap();
    assert_eq!(going.state(), v1::TaskState::Preparing);
    server
        .change_task("a", |task, _| task.state = TaskState::AwaitingApproval)
        .await;
    let approved = resume(&server).await.unwrap();
    assert_eq!(approved.state(), v1::TaskState::Preparing);
    for state in [TaskState::Cancelling, TaskState::Completed] {
        server.change_task("a", |task, _| task.state = state).await;
        assert_eq!(reason(pause(&server).await, code), "TASK_ENDED");
        assert_eq!(reason(resume(&server).await, code), "TASK_ENDED");
    }
}

#[tokio::test]
async fn a_retry_is_a_draft_for_those_who_were_not_brought_to_the_end() {
    let server = server().await;
    let code = Code::FailedPrecondition;
    assert_eq!(reason(retry(&server, "b").await, code), "TASK_ACTIVE");
    start(&server).await;
    server
        .change_task("a", |task, devices| {
            task.state = TaskState::Completed;
            for (device, state) in devices.iter_mut().zip([
                DeviceState::Running,
                DeviceState::Failed,
                DeviceState::Silent,
                DeviceState::Skipped,
            ]) {
                device.state = state;
            }
        })
        .await;
    let again = retry(&server, "b").await.unwrap();
    assert_eq!(again.state(), v1::TaskState::Draft);
    assert_eq!(again.retry_of, "tasks/a");
    assert_eq!(again.display_name, "march");
    assert_eq!(again.thresholds.unwrap().max_failed_count, Some(9));
    assert_eq!(again.device_counts.unwrap().total, 2);
    let request = v1::ListTaskDevicesRequest {
        parent: "tasks/b".to_owned(),
        ..Default::default()
    };
    let listed = server.tasks().list_task_devices(request).await.unwrap();
    let devices: Vec<String> = listed
        .into_inner()
        .task_devices
        .into_iter()
        .map(|device| device.device)
        .collect();
    assert_eq!(
        devices,
        ["devices/0000000000000002", "devices/0000000000000003"]
    );
    let taken = retry(&server, "b").await;
    assert_eq!(reason(taken, Code::AlreadyExists), "ALREADY_EXISTS");
    server
        .change_task("a", |_, devices| {
            for device in devices.iter_mut() {
                device.state = DeviceState::Running;
            }
        })
        .await;
    assert_eq!(reason(retry(&server, "c").await, code), "NOTHING_TO_RETRY");
}

#[tokio::test]
async fn devices_leave_a_running_task_and_groups_do_not() {
    let server = server().await;
    start(&server).await;
    let remove = |devices: &[&str], groups: &[&str]| {
        let request = v1::RemoveTaskDevicesRequest {
            name: "tasks/a".to_owned(),
            devices: devices.iter().map(|name| (*name).to_owned()).collect(),
            multicast_groups: groups.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let mut tasks = server.tasks();
        async move { tasks.remove_task_devices(request).await }
    };
    let code = Code::FailedPrecondition;
    let group = remove(&[], &["multicastGroups/north"]).await;
    assert_eq!(reason(group, code), "TASK_NOT_DRAFT");
    let left = remove(&["devices/0000000000000002"], &[]).await.unwrap();
    let counts = left.into_inner().task.unwrap().device_counts.unwrap();
    assert_eq!((counts.total, counts.removed), (3, 1));
    server
        .change_task("a", |task, _| task.state = TaskState::Cancelled)
        .await;
    let ended = remove(&["devices/0000000000000001"], &[]).await;
    assert_eq!(reason(ended, code), "TASK_ENDED");
}

#[tokio::test]
async fn waves_and_thresholds_are_kept_as_they_were_written() {
    let server = server().await;
    let waves = v1::WavePolicy {
        canary_devices: vec!["devices/0000000000000003".to_owned()],
        cumulative_percent: vec![10, 50],
        approval: v1::WaveApproval::AfterFirst.into(),
        pause_between: Some(Duration {
            seconds: 3600,
            nanos: 0,
        }),
    };
    let thresholds = v1::Thresholds {
        max_failed_percent: Some(5),
        min_ended: 20,
        max_failed_count: Some(0),
        min_succeeded_percent: Some(95),
        action: v1::ThresholdAction::Abort.into(),
    };
    let given = v1::FuotaTask {
        waves: Some(waves.clone()),
        thresholds: Some(thresholds),
        ..Default::default()
    };
    let shown = update(&server, given, &["waves", "thresholds"])
        .await
        .unwrap();
    assert_eq!(shown.waves, Some(waves));
    assert_eq!(shown.thresholds, Some(thresholds));
    let cleared = update(&server, v1::FuotaTask::default(), &["waves"])
        .await
        .unwrap();
    assert_eq!(cleared.waves, None);
    assert_eq!(cleared.thresholds, Some(thresholds));
}

#[tokio::test]
async fn bad_waves_and_thresholds_name_their_fields() {
    let server = server().await;
    let given = v1::FuotaTask {
        waves: Some(v1::WavePolicy {
            canary_devices: vec!["nobody".to_owned()],
            cumulative_percent: vec![10, 10, 101],
            approval: 77,
            pause_between: Some(Duration {
                seconds: -1,
                nanos: 0,
            }),
        }),
        thresholds: Some(v1::Thresholds {
            max_failed_percent: Some(101),
            action: 9,
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(
        bad_fields(update(&server, given, &["waves", "thresholds"]).await),
        [
            "task.waves.canary_devices[0]",
            "task.waves.cumulative_percent[1]",
            "task.waves.cumulative_percent[2]",
            "task.waves.approval",
            "task.waves.pause_between",
            "task.thresholds.max_failed_percent",
            "task.thresholds.action",
        ]
    );
}
