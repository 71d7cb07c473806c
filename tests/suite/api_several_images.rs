//! Tasks of several images over the API: what may be ordered, what the forecast says, and what is shown of each image.

use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::proto::v1;
use lorawan_fuota::record::{
    Change, CleanupState, DeviceState, ImageAhead, ImageCourse, ImageDone, Task, TaskDevice,
};
use lorawan_fuota::store::Store;
use lorawan_fuota::time::Timestamp;
use tonic::{Code, Status};

use crate::api_support::{NOW, Server, bad_fields, mask, profile, reason};
use crate::store_records;

/// A server with three devices of two components, and images for them: two of `main`, one of `radio`.
async fn server() -> (Server, Vec<String>) {
    let server = Server::start().await;
    server.fill(3).await;
    let component = |name: &str, number: u32, offset: Option<u32>| v1::Component {
        name: name.to_owned(),
        number,
        version_field: offset.map(|offset| v1::UplinkField {
            f_port: 10,
            offset_bytes: offset,
            length_bytes: 4,
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = v1::UpdateDeviceProfileRequest {
        device_profile: Some(v1::DeviceProfile {
            name: "deviceProfiles/meter".to_owned(),
            components: vec![component("main", 0, None), component("radio", 1, Some(4))],
            decoder_limits: Some(v1::DecoderLimits {
                max_frag_sessions: 2,
                ..Default::default()
            }),
            ..profile()
        }),
        update_mask: mask(&["components", "decoder_limits"]),
        ..Default::default()
    };
    server
        .profiles()
        .update_device_profile(request)
        .await
        .unwrap();
    let mut images = Vec::new();
    for (component, version) in [("main", 2), ("main", 3), ("radio", 2)] {
        let metadata = v1::ImageMetadata {
            component: component.to_owned(),
            target_version: Some(version),
            ..Default::default()
        };
        let seed = u8::try_from(images.len()).unwrap();
        let bytes = vec![seed; 3000 + 500 * images.len()];
        images.push(server.upload(metadata, &bytes).await.unwrap().name);
    }
    (server, images)
}

async fn create(
    server: &Server,
    images: &[&String],
    install: v1::InstallMode,
) -> Result<v1::FuotaTask, Status> {
    let request = v1::CreateTaskRequest {
        task: Some(v1::FuotaTask {
            images: images.iter().map(|image| (*image).clone()).collect(),
            install_mode: install.into(),
            ..Default::default()
        }),
        task_id: "t".to_owned(),
        devices: (1..=3).map(|n| format!("devices/{n:016x}")).collect(),
        ..Default::default()
    };
    Ok(server.tasks().create_task(request).await?.into_inner())
}

async fn plan(server: &Server) -> v1::Plan {
    let request = v1::PlanTaskRequest {
        name: "tasks/t".to_owned(),
    };
    let plan = server.tasks().plan_task(request).await;
    plan.unwrap().into_inner()
}

#[tokio::test]
async fn up_to_four_different_images_may_be_named() {
    let (server, images) = server().await;
    let [first, ..] = images.as_slice() else {
        panic!("there are images");
    };
    let together = v1::InstallMode::Together;
    let five: Vec<String> = (0..5).map(|n| format!("images/{n:064x}")).collect();
    for bad in [
        five.iter().collect::<Vec<_>>(),
        vec![first, first],
        vec![first, &"x".to_owned()],
        vec![],
    ] {
        let refused = create(&server, &bad, together).await;
        assert_eq!(bad_fields(refused), ["task.images"], "{bad:?}");
    }
    let missing = create(&server, &[first, &five[0]], together).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    let made = create(&server, &[first, &images[2]], v1::InstallMode::Unspecified)
        .await
        .unwrap();
    assert_eq!(made.images, [first.clone(), images[2].clone()]);
    assert_eq!(made.install_mode(), together);
    let request = v1::UpdateTaskRequest {
        task: Some(v1::FuotaTask {
            name: made.name.clone(),
            images: vec![images[1].clone(), first.clone()],
            install_mode: v1::InstallMode::InTurn.into(),
            ..Default::default()
        }),
        update_mask: mask(&["images", "install_mode"]),
        ..Default::default()
    };
    let updated = server
        .tasks()
        .update_task(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(updated.install_mode(), v1::InstallMode::InTurn);
    assert_ne!(updated.etag, made.etag);
    // An image is kept as long as a task names it, first or not.
    let delete = v1::DeleteImageRequest {
        name: first.clone(),
        ..Default::default()
    };
    let refused = server.images().delete_image(delete).await;
    reason(refused, Code::FailedPrecondition);
}

#[tokio::test]
async fn the_plan_has_a_session_for_each_image_and_each_device_once() {
    let (server, images) = server().await;
    let two = [&images[0], &images[2]];
    create(&server, &two, v1::InstallMode::Together)
        .await
        .unwrap();
    let plan = plan(&server).await;
    assert!(plan.startable, "{:?}", plan.problems);
    assert_eq!(plan.device_count, 3);
    let sessions: Vec<(&String, u32)> = plan
        .sessions
        .iter()
        .map(|session| (&session.image, session.device_count))
        .collect();
    assert_eq!(sessions, [(two[0], 3), (two[1], 3)]);
    let opens = |n: usize| plan.sessions[n].window_start.unwrap().seconds;
    assert!(opens(0) < opens(1));
    let ends = plan.expected_end_time.unwrap().seconds;
    assert!(opens(1) < ends);
}

#[tokio::test]
async fn two_of_one_component_have_to_come_in_turn() {
    let (server, images) = server().await;
    let steps = [&images[0], &images[1]];
    create(&server, &steps, v1::InstallMode::Together)
        .await
        .unwrap();
    let refused = plan(&server).await;
    let blocking: Vec<_> = refused.problems.iter().filter(|p| p.blocking).collect();
    assert_eq!(blocking.len(), 1);
    assert_eq!(blocking[0].field, "images");
    assert_eq!(blocking[0].reason(), v1::PlanProblemReason::ImageNotAllowed);
    let request = v1::UpdateTaskRequest {
        task: Some(v1::FuotaTask {
            name: "tasks/t".to_owned(),
            install_mode: v1::InstallMode::InTurn.into(),
            ..Default::default()
        }),
        update_mask: mask(&["install_mode"]),
        ..Default::default()
    };
    server.tasks().update_task(request).await.unwrap();
    let plan = plan(&server).await;
    assert!(plan.startable, "{:?}", plan.problems);
    assert_eq!(plan.sessions.len(), 2);
}

#[tokio::test]
async fn a_device_shows_how_far_it_is_with_each() {
    let (server, images) = server().await;
    let two = [&images[0], &images[2]];
    create(&server, &two, v1::InstallMode::Together)
        .await
        .unwrap();
    let request = v1::StartTaskRequest {
        name: "tasks/t".to_owned(),
        ..Default::default()
    };
    server.tasks().start_task(request).await.unwrap();
    let course = |done: Vec<ImageDone>, ahead: Vec<ImageAhead>| {
        Some(Box::new(ImageCourse {
            ahead,
            done,
            frag_sessions: [(0, CleanupState::Pending)].into(),
            ..ImageCourse::default()
        }))
    };
    let change = |_: &mut Task, devices: &mut [TaskDevice]| {
        for device in devices {
            let behind = device.dev_eui == DevEui(1);
            device.state = DeviceState::Receiving;
            device.session = Some(u16::from(!behind));
            device.version_before = Some(1);
            let done = ImageDone {
                image: 0,
                session: 0,
                version_before: Some(1),
                at: Timestamp::from_unix_seconds(NOW + 7),
            };
            let ahead = ImageAhead {
                image: 1,
                session: 1,
                version_before: None,
            };
            device.images = match behind {
                true => course(vec![], vec![ahead]),
                false => course(vec![done], vec![]),
            };
        }
    };
    server.change_task("t", change).await;
    for number in [0, 1] {
        let mut session = store_records::distribution("t", number);
        session.image = u8::try_from(number).unwrap();
        let change = Change::PutDistributionSession(session);
        server.store.commit(&[change]).await.unwrap();
    }
    let device = async |n: u64| {
        let request = v1::GetTaskDeviceRequest {
            name: format!("tasks/t/devices/{n:016x}"),
        };
        let device = server.tasks().get_task_device(request).await;
        device.unwrap().into_inner()
    };
    use v1::TaskDeviceImageState::{Done, InProgress, Waiting};
    let states = |device: &v1::TaskDevice| -> Vec<_> {
        let images = device.images.iter();
        images.map(|i| (i.image.clone(), i.state())).collect()
    };
    let behind = device(1).await;
    assert_eq!(
        states(&behind),
        [(two[0].clone(), InProgress), (two[1].clone(), Waiting)]
    );
    let ahead = device(2).await;
    assert_eq!(
        states(&ahead),
        [(two[0].clone(), Done), (two[1].clone(), InProgress)]
    );
    assert_eq!(ahead.images[0].done_time.unwrap().seconds, NOW + 7);
    assert_eq!(ahead.images[0].session, "tasks/t/sessions/1");
    assert_eq!(ahead.cleanup_state(), v1::CleanupState::Pending);
    let request = v1::ListDistributionSessionsRequest {
        parent: "tasks/t".to_owned(),
        ..Default::default()
    };
    let listed = server.tasks().list_distribution_sessions(request).await;
    let sessions = listed.unwrap().into_inner().sessions;
    let counts: Vec<_> = sessions
        .iter()
        .map(|s| (s.image.clone(), s.received_count, s.device_count))
        .collect();
    assert_eq!(counts, [(two[0].clone(), 2, 3), (two[1].clone(), 0, 2)]);
}
