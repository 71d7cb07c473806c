//! Retries, calendar, the moment of the reboot and tags on success over the API.

use lorawan_fuota::proto::v1;
use prost_types::Timestamp;
use tonic::Status;

use crate::api_support::{Server, bad_fields, mask, profile};

const DAY: i64 = 86_400;
/// A moment to come.
const LATER: i64 = 2_000_000_000;

fn moment(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn ruled() -> v1::FuotaTask {
    v1::FuotaTask {
        images: vec![],
        reboot_mode: v1::RebootMode::AtTime.into(),
        reboot_time: moment(LATER),
        retry: Some(v1::RetryPolicy {
            max_retries: 3,
            pause: Some(prost_types::Duration {
                seconds: 3600,
                nanos: 0,
            }),
            reasons: vec![v1::DeviceReason::NoAnswer.into()],
        }),
        calendar: Some(v1::Calendar {
            weekly_windows: vec![v1::WeeklyWindow {
                days: vec![v1::Weekday::Monday.into(), v1::Weekday::Sunday.into()],
                from_minute: 22 * 60,
                to_minute: 6 * 60,
            }],
            utc_offset_minutes: -90,
            blackouts: vec![v1::Blackout {
                from_time: moment(LATER),
                to_time: moment(LATER + DAY),
            }],
        }),
        tags_on_success: [("firmware".to_owned(), "2".to_owned())].into(),
        ..Default::default()
    }
}

async fn create(server: &Server, id: &str, task: v1::FuotaTask) -> Result<v1::FuotaTask, Status> {
    let request = v1::CreateTaskRequest {
        task: Some(task),
        task_id: id.to_owned(),
        ..Default::default()
    };
    Ok(server.tasks().create_task(request).await?.into_inner())
}

async fn server() -> (Server, v1::FuotaTask) {
    let server = Server::start().await;
    server.fill(1).await;
    let metadata = v1::ImageMetadata {
        target_version: Some(2),
        ..Default::default()
    };
    let image = server.upload(metadata, &[7; 5000]).await.unwrap();
    let task = v1::FuotaTask {
        images: vec![image.name],
        ..ruled()
    };
    (server, task)
}

#[tokio::test]
async fn rules_are_shown_as_they_were_written() {
    let (server, task) = server().await;
    let made = create(&server, "a", task.clone()).await.unwrap();
    assert_eq!(made.retry, task.retry);
    assert_eq!(made.calendar, task.calendar);
    assert_eq!(made.tags_on_success, task.tags_on_success);
    assert_eq!(made.reboot_time, task.reboot_time);
    assert_eq!(made.reboot_mode, task.reboot_mode);
    let request = v1::UpdateTaskRequest {
        task: Some(v1::FuotaTask {
            name: made.name.clone(),
            ..Default::default()
        }),
        update_mask: mask(&["retry", "calendar", "reboot_mode"]),
        ..Default::default()
    };
    let cleared = server.tasks().update_task(request).await.unwrap();
    let cleared = cleared.into_inner();
    assert_eq!((cleared.retry, cleared.calendar.clone()), (None, None));
    assert_eq!(cleared.reboot_time, None);
    assert_eq!(cleared.tags_on_success, task.tags_on_success);
    assert_ne!(cleared.etag, made.etag);
}

#[tokio::test]
async fn every_rule_that_is_wrong_is_named() {
    let (server, mut task) = server().await;
    task.reboot_time = None;
    let retry = task.retry.get_or_insert_default();
    retry.max_retries = 11;
    retry.reasons = vec![v1::DeviceReason::AlreadyUpToDate.into()];
    let calendar = task.calendar.get_or_insert_default();
    calendar.utc_offset_minutes = 841;
    calendar.weekly_windows[0].days = vec![8];
    calendar.weekly_windows[0].from_minute = 1440;
    calendar.blackouts[0].to_time = calendar.blackouts[0].from_time;
    let bad = bad_fields(create(&server, "a", task).await);
    for field in [
        "task.reboot_time",
        "task.retry.max_retries",
        "task.retry.reasons[0]",
        "task.calendar.utc_offset_minutes",
        "task.calendar.weekly_windows[0].days",
        "task.calendar.weekly_windows[0].from_minute",
        "task.calendar.blackouts[0]",
    ] {
        assert!(bad.iter().any(|known| known == field), "{field}: {bad:?}");
    }
}

#[tokio::test]
async fn profiles_name_the_reboot_downlink_of_the_application() {
    let (server, _) = server().await;
    let create = async |id: &str, f_port, payload: &'static [u8]| {
        let request = v1::CreateDeviceProfileRequest {
            device_profile: Some(v1::DeviceProfile {
                application_reboot: Some(v1::ApplicationReboot {
                    f_port,
                    payload: payload.into(),
                }),
                ..profile()
            }),
            device_profile_id: id.to_owned(),
            ..Default::default()
        };
        let made = server.profiles().create_device_profile(request).await?;
        Ok::<_, Status>(made.into_inner())
    };
    let made = create("good", 10, &[0xff, 1]).await.unwrap();
    let downlink = made.application_reboot.unwrap();
    assert_eq!((downlink.f_port, downlink.payload.len()), (10, 2));
    let bad = bad_fields(create("port", 201, &[1]).await);
    assert_eq!(bad, ["device_profile.application_reboot.f_port"]);
    let bad = bad_fields(create("empty", 10, &[]).await);
    assert_eq!(bad, ["device_profile.application_reboot.payload"]);
}
