//! What is kept of a record beside what it is for: times, tags, evidence, history.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::proto::v1;
use lorawan_fuota::record::*;
use lorawan_fuota::store::{Catalog, Store};
use lorawan_fuota::time::Timestamp;
use tonic::Code;

use crate::api_support::{NOW, Server, bad_fields, device, gateway, mask, profile, reason};
use crate::store_records;

fn tags(site: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("site".to_owned(), site.to_owned())])
}

fn seconds(at: Option<prost_types::Timestamp>) -> i64 {
    at.unwrap().seconds - NOW
}

/// Creation and last change, seconds after the beginning.
macro_rules! times {
    ($shown:expr) => {
        (seconds($shown.create_time), seconds($shown.update_time))
    };
}

#[tokio::test]
async fn every_change_by_a_user_is_dated() {
    let server = Server::start().await;
    server.fill(1).await;
    let group = server
        .groups()
        .create_multicast_group(v1::CreateMulticastGroupRequest {
            multicast_group: Some(v1::MulticastGroup {
                region: v1::Region::Eu868.into(),
                device_class: v1::DeviceClass::C.into(),
                tags: tags("north"),
                ..Default::default()
            }),
            multicast_group_id: "hall".to_owned(),
            request_id: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((times!(group), &group.tags), ((0, 0), &tags("north")));
    server.now.fetch_add(5, Ordering::SeqCst);

    let update = v1::UpdateDeviceProfileRequest {
        device_profile: Some(v1::DeviceProfile {
            name: "deviceProfiles/meter".to_owned(),
            display_name: "Meter".to_owned(),
            ..profile()
        }),
        update_mask: mask(&["display_name"]),
        request_id: String::new(),
    };
    let shown = server
        .profiles()
        .update_device_profile(update)
        .await
        .unwrap();
    assert_eq!(times!(shown.get_ref()), (0, 5));

    let update = v1::UpdateGatewayRequest {
        gateway: Some(v1::Gateway {
            name: "gateways/0000000000000001".to_owned(),
            tags: tags("roof"),
            ..gateway(1)
        }),
        update_mask: mask(&["tags"]),
        request_id: String::new(),
    };
    let shown = server.gateways().update_gateway(update).await.unwrap();
    assert_eq!(times!(shown.get_ref()), (0, 5));
    assert_eq!(shown.get_ref().tags, tags("roof"));
    let listed = |filter: &str| {
        let request = v1::ListGatewaysRequest {
            filter: filter.to_owned(),
            ..Default::default()
        };
        let mut gateways = server.gateways();
        async move {
            gateways
                .list_gateways(request)
                .await
                .unwrap()
                .into_inner()
                .total_size
        }
    };
    assert_eq!(listed("tags.site = roof").await, 1);
    assert_eq!(listed("tags.site = cellar").await, 0);

    let add = v1::AddMulticastGroupDevicesRequest {
        name: group.name.clone(),
        devices: vec!["devices/0000000000000001".to_owned()],
        request_id: String::new(),
    };
    let answer = server
        .groups()
        .add_multicast_group_devices(add)
        .await
        .unwrap();
    let shown = answer.into_inner().multicast_group.unwrap();
    assert_eq!((times!(shown), &shown.tags), ((0, 5), &tags("north")));
    let request = v1::ListMulticastGroupsRequest {
        filter: "tags.site = north".to_owned(),
        ..Default::default()
    };
    let found = server
        .groups()
        .list_multicast_groups(request)
        .await
        .unwrap();
    assert_eq!(found.into_inner().total_size, 1);

    let update = v1::UpdateDeviceRequest {
        device: Some(v1::EndDevice {
            name: "devices/0000000000000001".to_owned(),
            model: "m2".to_owned(),
            ..device(1)
        }),
        update_mask: mask(&["model"]),
        request_id: String::new(),
    };
    let shown = server.devices().update_device(update).await.unwrap();
    assert_eq!(times!(shown.get_ref()), (0, 5));
}

async fn put_versions(
    server: &Server,
    versions: &[(&str, u32)],
) -> Result<v1::EndDevice, tonic::Status> {
    let version = |version| v1::ComponentVersion {
        version,
        ..Default::default()
    };
    let request = v1::UpdateDeviceRequest {
        device: Some(v1::EndDevice {
            name: "devices/0000000000000001".to_owned(),
            versions: versions
                .iter()
                .map(|(component, number)| ((*component).to_owned(), version(*number)))
                .collect(),
            ..Default::default()
        }),
        update_mask: mask(&["versions"]),
        request_id: String::new(),
    };
    Ok(server.devices().update_device(request).await?.into_inner())
}

#[tokio::test]
async fn a_version_shows_how_it_became_known() {
    let server = Server::start().await;
    server.fill(1).await;
    let mut status = DeviceStatus::default();
    let at = Timestamp::from_unix_seconds(NOW - 9);
    status.note_version("main", 7, VersionEvidence::FirmwareManagement, at);
    status.note_version("radio", 1, VersionEvidence::UplinkField, at);
    server
        .store
        .commit(&[Change::PutDeviceStatus(DevEui(1), status.into())])
        .await
        .unwrap();
    let shown = put_versions(&server, &[("main", 7), ("boot", 3)])
        .await
        .unwrap();
    let request = v1::GetDeviceRequest {
        name: shown.name.clone(),
    };
    let got = server
        .devices()
        .get_device(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got.versions, shown.versions);
    let told: Vec<_> = shown
        .versions
        .iter()
        .map(|(component, v)| {
            (
                component.as_str(),
                v.version,
                v.evidence(),
                seconds(v.report_time),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("boot", 3, v1::VersionEvidence::User, 0),
            ("main", 7, v1::VersionEvidence::FirmwareManagement, -9),
        ],
        "what is not named is forgotten, what is not new keeps its evidence"
    );
    let bad = put_versions(&server, &[("a b", 1)]).await;
    assert_eq!(bad_fields(bad), ["device.versions"]);

    let new = v1::EndDevice {
        versions: got.versions,
        ..device(2)
    };
    let request = v1::CreateDeviceRequest {
        device: Some(new),
        request_id: String::new(),
    };
    let made = server
        .devices()
        .create_device(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(made.versions["main"].evidence(), v1::VersionEvidence::User);
}

#[tokio::test]
async fn writing_a_join_state_again_forgets_no_nonce() {
    let server = Server::start().await;
    server.fill(1).await;
    let mut join = server
        .store
        .activation(DevEui(1))
        .await
        .unwrap()
        .join
        .unwrap();
    join.dev_nonces.extend([7, 9]);
    (join.last_dev_nonce, join.next_join_nonce) = (Some(9), 3);
    server
        .store
        .commit(&[Change::PutJoinState(DevEui(1), join)])
        .await
        .unwrap();
    let otaa = v1::OtaaActivation {
        join_eui: "00000000000000ff".to_owned(),
        app_key: vec![0xA7; 16].into(),
        used_dev_nonces: vec![1],
        ..Default::default()
    };
    let request = v1::UpdateDeviceRequest {
        device: Some(v1::EndDevice {
            name: "devices/0000000000000001".to_owned(),
            activation: Some(v1::end_device::Activation::Otaa(otaa)),
            ..Default::default()
        }),
        update_mask: mask(&["otaa"]),
        request_id: String::new(),
    };
    let shown = server
        .devices()
        .update_device(request)
        .await
        .unwrap()
        .into_inner();
    let Some(v1::end_device::Activation::Otaa(otaa)) = shown.activation else {
        panic!("{shown:?}")
    };
    assert_eq!(
        (
            otaa.last_dev_nonce,
            otaa.used_dev_nonce_count,
            otaa.next_join_nonce
        ),
        (Some(9), 3, 3)
    );
}

/// A started task of three devices, of which the store holds a session.
async fn started(server: &Server) -> String {
    server.fill(3).await;
    let metadata = v1::ImageMetadata {
        target_version: Some(2),
        ..Default::default()
    };
    let image = server.upload(metadata, &[7; 5000]).await.unwrap();
    let request = v1::CreateTaskRequest {
        task: Some(v1::FuotaTask {
            images: vec![image.name],
            tags: tags("north"),
            ..Default::default()
        }),
        task_id: "t".to_owned(),
        devices: (1..=3).map(|n| format!("devices/{n:016x}")).collect(),
        ..Default::default()
    };
    let made = server
        .tasks()
        .create_task(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((times!(made), &made.tags), ((0, 0), &tags("north")));
    let request = v1::StartTaskRequest {
        name: made.name.clone(),
        ..Default::default()
    };
    server.tasks().start_task(request).await.unwrap();
    made.name
}

#[tokio::test]
async fn a_running_task_can_be_renamed_and_tagged_and_nothing_else() {
    let server = Server::start().await;
    let name = started(&server).await;
    server.now.fetch_add(5, Ordering::SeqCst);
    let update = |task: v1::FuotaTask, paths: &[&str]| {
        let request = v1::UpdateTaskRequest {
            task: Some(v1::FuotaTask {
                name: name.clone(),
                ..task
            }),
            update_mask: mask(paths),
            request_id: String::new(),
        };
        let mut tasks = server.tasks();
        async move { Ok::<_, tonic::Status>(tasks.update_task(request).await?.into_inner()) }
    };
    let described = v1::FuotaTask {
        display_name: "spring".to_owned(),
        tags: tags("south"),
        frag_size: 20,
        ..Default::default()
    };
    let shown = update(described.clone(), &["display_name", "tags"])
        .await
        .unwrap();
    assert_eq!(
        (shown.display_name.as_str(), &shown.tags),
        ("spring", &tags("south"))
    );
    assert_eq!(times!(shown), (0, 5));
    assert_eq!(shown.state(), v1::TaskState::Scheduled);
    let refused = update(described, &["tags", "frag_size"]).await;
    assert_eq!(reason(refused, Code::FailedPrecondition), "TASK_NOT_DRAFT");
    for (filter, count) in [("tags.site = south", 1), ("tags.site = north", 0)] {
        let request = v1::ListTasksRequest {
            filter: filter.to_owned(),
            ..Default::default()
        };
        let listed = server
            .tasks()
            .list_tasks(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(listed.total_size, count, "{filter}");
    }
}

#[tokio::test]
async fn a_session_shows_its_rounds_its_air_and_why_it_is_over() {
    let server = Server::start().await;
    let name = started(&server).await;
    let session = |phase| {
        let mut session = store_records::distribution("t", 0);
        let round = |number, at, coded_sent| StatusRound {
            number,
            at: Timestamp::from_unix_seconds(NOW + at),
            coded_sent,
            answers: 3,
            deficit_max: 4,
        };
        (session.phase, session.coded_sent) = (phase, 12);
        session.rounds = vec![round(1, 10, 0), round(2, 20, 5)];
        let [first, second] = [1, 2].map(lorawan_fuota::lorawan::identifiers::GatewayEui);
        session.gateways = vec![first];
        session.airtime_us = BTreeMap::from([(second, 77)]);
        session
    };
    let shown = async |phase, state, why: Option<DeviceReason>| {
        let change = |task: &mut Task, devices: &mut [TaskDevice]| {
            task.expected_end = Some(Timestamp::from_unix_seconds(NOW + 99));
            for device in devices {
                (device.session, device.changed_at) = (Some(0), task.created_at);
                device.group = Some("hall".to_owned());
                device.state = Running;
                if device.dev_eui == DevEui(2) {
                    (device.state, device.reason) = (state, why);
                }
            }
        };
        server.change_task("t", change).await;
        let change = Change::PutDistributionSession(session(phase));
        server.store.commit(&[change]).await.unwrap();
        let request = v1::GetDistributionSessionRequest {
            name: format!("{name}/sessions/1"),
        };
        let session = server.tasks().get_distribution_session(request).await;
        session.unwrap().into_inner()
    };
    use DeviceState::{Cancelled, Failed, Receiving, Running};
    use v1::DistributionSessionReason as Reason;
    let open = SessionPhase::Sending;
    for (phase, state, why, expected) in [
        (open, Receiving, None, Reason::Unspecified),
        (SessionPhase::Closed, Running, None, Reason::AllDone),
        (
            SessionPhase::Closed,
            Failed,
            Some(DeviceReason::MicError),
            Reason::AllDone,
        ),
        (
            SessionPhase::Closed,
            Failed,
            Some(DeviceReason::BudgetSpent),
            Reason::BudgetSpent,
        ),
        (
            SessionPhase::Closed,
            Failed,
            Some(DeviceReason::WindowClosed),
            Reason::WindowClosed,
        ),
        (SessionPhase::Closed, Cancelled, None, Reason::TaskEnded),
    ] {
        let session = shown(phase, state, why).await;
        assert_eq!(session.state_reason(), expected, "{phase:?} {why:?}");
    }
    let session = shown(open, Receiving, None).await;
    assert_eq!((session.device_count, session.received_count), (3, 2));
    let rounds: Vec<_> = session
        .rounds
        .iter()
        .map(|r| {
            (
                r.round,
                seconds(r.poll_time),
                r.answers_received,
                r.coded_fragments_sent,
            )
        })
        .collect();
    assert_eq!(rounds, [(1, 10, 3, 5), (2, 20, 3, 7)]);
    assert_eq!(session.rounds[0].fragments_missing_max, 4);
    let air: Vec<_> = session
        .gateways
        .iter()
        .map(|g| (g.gateway.as_str(), g.airtime_us))
        .collect();
    assert_eq!(
        air,
        [
            ("gateways/0000000000000001", 0),
            ("gateways/0000000000000002", 77)
        ]
    );

    let request = v1::GetTaskDeviceRequest {
        name: format!("{name}/devices/0000000000000002"),
    };
    let shown = server
        .tasks()
        .get_task_device(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown.multicast_group, "multicastGroups/hall");
    assert_eq!(seconds(shown.update_time), 0);
    let request = v1::GetTaskRequest { name: name.clone() };
    let task = server
        .tasks()
        .get_task(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(seconds(task.expected_end_time), 99);
    let end = |task: &mut Task, _: &mut [TaskDevice]| task.state = TaskState::Completed;
    server.change_task("t", end).await;
    let task = server.tasks().get_task(request).await.unwrap().into_inner();
    assert_eq!(task.expected_end_time, None);
}

fn json(record: impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(record).unwrap()
}

#[test]
fn records_written_before_these_fields_are_still_read() {
    let tenant = TenantId::default();
    let without = |record: serde_json::Value, fields: &[&str]| {
        let mut record = record;
        for field in fields {
            assert!(
                record.as_object_mut().unwrap().remove(*field).is_some(),
                "{field}"
            );
        }
        record
    };
    let read: DeviceProfile = serde_json::from_value(without(
        json(store_records::profile(&tenant, "p")),
        &["created_at", "updated_at"],
    ))
    .unwrap();
    assert_eq!(read.created_at, Timestamp::default());
    let read: GatewaySettings = serde_json::from_value(without(
        json(store_records::gateway(1)),
        &["tags", "updated_at"],
    ))
    .unwrap();
    assert!(read.tags.is_empty());
    let read: DistributionSession = serde_json::from_value(without(
        json(store_records::distribution("t", 0)),
        &["rounds", "airtime_us"],
    ))
    .unwrap();
    assert!(read.rounds.is_empty() && read.airtime_us.is_empty());
    let read: GatewayCounters = serde_json::from_value(without(
        json(store_records::gateway_status().counters),
        &["malformed", "airtime_us"],
    ))
    .unwrap();
    assert_eq!((read.malformed, read.unknown), (0, 6));
}
