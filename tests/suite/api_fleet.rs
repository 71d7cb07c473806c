//! Profiles, devices, gateways and groups over gRPC.

use lorawan_fuota::lorawan::keys::{Key128, KeyDerivation};
use lorawan_fuota::proto::v1;
use lorawan_fuota::record::{
    Change, DeviceStatus, GatewayStatus, McSlot, MulticastKeys, SessionId, TaskId, Uplink,
    VersionEvidence,
};
use lorawan_fuota::runtime::Notice;
use lorawan_fuota::store::{Catalog, Store};
use lorawan_fuota::time::Timestamp;
use std::sync::Arc;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::api_support::{NOW, Server, bad_fields, device, gateway, mask, profile, reason};

async fn create_profile(
    server: &Server,
    profile: v1::DeviceProfile,
) -> Result<v1::DeviceProfile, Status> {
    let request = v1::CreateDeviceProfileRequest {
        device_profile: Some(profile),
        device_profile_id: "other".to_owned(),
        request_id: String::new(),
    };
    Ok(server
        .profiles()
        .create_device_profile(request)
        .await?
        .into_inner())
}

async fn create_device(server: &Server, device: v1::EndDevice) -> Result<v1::EndDevice, Status> {
    let request = v1::CreateDeviceRequest {
        device: Some(device),
        request_id: String::new(),
    };
    Ok(server.devices().create_device(request).await?.into_inner())
}

async fn update_device(
    server: &Server,
    device: v1::EndDevice,
    paths: &[&str],
) -> Result<v1::EndDevice, Status> {
    let request = v1::UpdateDeviceRequest {
        device: Some(device),
        update_mask: mask(paths),
        request_id: String::new(),
    };
    Ok(server.devices().update_device(request).await?.into_inner())
}

async fn get_device(server: &Server, n: u64) -> Result<v1::EndDevice, Status> {
    let name = format!("devices/{n:016x}");
    Ok(server
        .devices()
        .get_device(v1::GetDeviceRequest { name })
        .await?
        .into_inner())
}

fn abp(f_cnt_down: u32) -> v1::EndDevice {
    v1::EndDevice {
        activation: Some(v1::end_device::Activation::Abp(v1::AbpActivation {
            dev_addr: "26011F00".to_owned(),
            nwk_s_key: vec![0xA8; 16].into(),
            app_s_key: vec![0xA9; 16].into(),
            f_cnt_up: 100,
            f_cnt_down,
            receive_parameters: None,
        })),
        ..device(1)
    }
}

fn component(name: &str, version_field: Option<v1::UplinkField>) -> v1::Component {
    v1::Component {
        name: name.to_owned(),
        number: u32::from(version_field.is_some()),
        version_field,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_profile_shows_its_defaults() {
    let server = Server::start().await;
    let given = v1::DeviceProfile {
        uplink_interval: None,
        ..profile()
    };
    let shown = create_profile(&server, given).await.unwrap();
    assert_eq!(shown.name, "deviceProfiles/other");
    assert_eq!(shown.fragmentation.unwrap().f_port, 201);
    assert_eq!(shown.multicast_setup.unwrap().f_port, 200);
    assert_eq!(shown.clock_sync.unwrap().f_port, 202);
    assert_eq!(shown.firmware_management.unwrap().f_port, 203);
    assert_eq!(shown.decoder_limits.unwrap().max_nb_frag, 16_383);
    assert_eq!(shown.uplink_interval.unwrap().seconds, 3600);
    assert_eq!(shown.multicast_root_key(), v1::MulticastRootKey::GenAppKey);
    let request = v1::GetDeviceProfileRequest {
        name: shown.name.clone(),
    };
    let got = server.profiles().get_device_profile(request).await.unwrap();
    assert_eq!(got.into_inner(), shown);
    let again = create_profile(&server, profile()).await;
    assert_eq!(reason(again, Code::AlreadyExists), "ALREADY_EXISTS");
}

#[tokio::test]
async fn a_bad_profile_is_refused_field_by_field() {
    let server = Server::start().await;
    let bad = v1::DeviceProfile {
        display_name: "x".repeat(256),
        lorawan_version: 0,
        region: 99,
        clock_sync: Some(v1::Package {
            version: 3,
            f_port: 0,
        }),
        fragmentation: Some(v1::Package {
            version: 1,
            f_port: 200,
        }),
        firmware_management: Some(v1::Package {
            version: 2,
            f_port: 224,
        }),
        decoder_limits: Some(v1::DecoderLimits {
            max_nb_frag: 16_384,
            max_frag_sessions: 5,
            ..Default::default()
        }),
        status_interpretation: 17,
        uplink_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 999_999_999,
        }),
        version_source: Some(v1::VersionSource {
            source: Some(v1::version_source::Source::UplinkField(v1::UplinkField {
                f_port: 200,
                offset_bytes: 242,
                length_bytes: 0,
                byte_order: 3,
            })),
        }),
        components: vec![
            component("main", None),
            component(
                "radio",
                Some(v1::UplinkField {
                    f_port: 200,
                    offset_bytes: 242,
                    length_bytes: 5,
                    byte_order: 3,
                }),
            ),
        ],
        ..profile()
    };
    let mut fields = bad_fields(create_profile(&server, bad).await);
    fields.sort();
    assert_eq!(
        fields,
        [
            "clock_sync.version",
            "components[1].version_field.byte_order",
            "components[1].version_field.f_port",
            "components[1].version_field.length_bytes",
            "components[1].version_field.offset_bytes",
            "decoder_limits.max_frag_sessions",
            "decoder_limits.max_nb_frag",
            "display_name",
            "firmware_management.f_port",
            "firmware_management.version",
            "fragmentation.f_port",
            "lorawan_version",
            "region",
            "status_interpretation",
            "uplink_interval",
            "version_source.uplink_field.byte_order",
            "version_source.uplink_field.f_port",
            "version_source.uplink_field.length_bytes",
            "version_source.uplink_field.offset_bytes",
        ]
        .map(|field| format!("device_profile.{field}"))
    );
}

#[tokio::test]
async fn a_profile_claims_reed_solomon_only_with_status_answers_by_the_book() {
    let server = Server::start().await;
    let claims = Some(v1::DecoderLimits {
        reed_solomon: true,
        ..Default::default()
    });
    let unclear = v1::DeviceProfile {
        decoder_limits: claims,
        status_interpretation: v1::StatusInterpretation::Zephyr.into(),
        ..profile()
    };
    assert_eq!(
        bad_fields(create_profile(&server, unclear).await),
        ["device_profile.decoder_limits.reed_solomon"]
    );
    let created = create_profile(&server, profile()).await.unwrap();
    assert!(!created.decoder_limits.unwrap().reed_solomon);
    let update = |change: v1::DeviceProfile, path: &str| {
        let request = v1::UpdateDeviceProfileRequest {
            device_profile: Some(v1::DeviceProfile {
                name: created.name.clone(),
                ..change
            }),
            update_mask: mask(&[path]),
            request_id: String::new(),
        };
        let mut profiles = server.profiles();
        async move { Ok::<_, Status>(profiles.update_device_profile(request).await?.into_inner()) }
    };
    let change = v1::DeviceProfile {
        decoder_limits: claims,
        status_interpretation: v1::StatusInterpretation::Lbm.into(),
        ..Default::default()
    };
    let claimed = update(change.clone(), "decoder_limits").await.unwrap();
    assert!(claimed.decoder_limits.unwrap().reed_solomon);
    assert_eq!(
        bad_fields(update(change, "status_interpretation").await),
        ["device_profile.decoder_limits.reed_solomon"]
    );
}

#[tokio::test]
async fn a_profile_says_where_versions_of_components_are_and_that_blocks_are_kept() {
    let server = Server::start().await;
    let radio = component(
        "radio",
        Some(v1::UplinkField {
            f_port: 10,
            offset_bytes: 241,
            length_bytes: 1,
            byte_order: v1::ByteOrder::BigEndian.into(),
        }),
    );
    let components = vec![component("main", None), radio];
    let given = v1::DeviceProfile {
        components: components.clone(),
        ..profile()
    };
    let created = create_profile(&server, given).await.unwrap();
    assert_eq!(created.components, components);
    assert!(!created.decoder_limits.unwrap().keeps_finished_blocks);
    let request = v1::UpdateDeviceProfileRequest {
        device_profile: Some(v1::DeviceProfile {
            name: created.name,
            decoder_limits: Some(v1::DecoderLimits {
                keeps_finished_blocks: true,
                ..Default::default()
            }),
            ..Default::default()
        }),
        update_mask: mask(&["decoder_limits"]),
        request_id: String::new(),
    };
    let changed = server.profiles().update_device_profile(request).await;
    let changed = changed.unwrap().into_inner();
    assert!(changed.decoder_limits.unwrap().keeps_finished_blocks);
    assert_eq!(changed.components, components);
    let got = server
        .profiles()
        .get_device_profile(v1::GetDeviceProfileRequest {
            name: changed.name.clone(),
        })
        .await;
    assert_eq!(got.unwrap().into_inner(), changed);
}

#[tokio::test]
async fn a_used_profile_keeps_its_region_and_stays() {
    let server = Server::start().await;
    server.fill(1).await;
    let update = |region: v1::Region, display_name: &str, paths: &[&str]| {
        let request = v1::UpdateDeviceProfileRequest {
            device_profile: Some(v1::DeviceProfile {
                name: "deviceProfiles/meter".to_owned(),
                display_name: display_name.to_owned(),
                region: region.into(),
                ..Default::default()
            }),
            update_mask: mask(paths),
            request_id: String::new(),
        };
        let mut profiles = server.profiles();
        async move { Ok::<_, Status>(profiles.update_device_profile(request).await?.into_inner()) }
    };
    let named = update(v1::Region::Us915, "Meter", &["display_name"])
        .await
        .unwrap();
    assert_eq!(
        (named.display_name.as_str(), named.region()),
        ("Meter", v1::Region::Eu868)
    );
    let moved = update(v1::Region::Us915, "", &["region"]).await;
    assert_eq!(reason(moved, Code::FailedPrecondition), "PROFILE_IN_USE");
    assert_eq!(
        bad_fields(update(v1::Region::Us915, "", &["name", "nothing"]).await).len(),
        2
    );
    let delete = || {
        let request = v1::DeleteDeviceProfileRequest {
            name: "deviceProfiles/meter".to_owned(),
            request_id: String::new(),
        };
        let mut profiles = server.profiles();
        async move { profiles.delete_device_profile(request).await }
    };
    assert_eq!(
        reason(delete().await, Code::FailedPrecondition),
        "PROFILE_IN_USE"
    );
    let request = v1::DeleteDeviceRequest {
        name: "devices/0000000000000001".to_owned(),
        request_id: String::new(),
    };
    server.devices().delete_device(request).await.unwrap();
    update(v1::Region::Us915, "", &["region"]).await.unwrap();
    delete().await.unwrap();
}

#[tokio::test]
async fn a_device_never_shows_its_keys() {
    let server = Server::start().await;
    server.fill(0).await;
    let created = create_device(&server, device(0xAB)).await.unwrap();
    assert_eq!(created.name, "devices/00000000000000ab");
    let got = get_device(&server, 0xAB).await.unwrap();
    assert_eq!(got, created);
    let Some(v1::end_device::Keys::RootKeys(keys)) = got.keys else {
        panic!("{:?}", got.keys);
    };
    assert_eq!(
        keys.source,
        Some(v1::root_keys::Source::GenAppKey(vec![].into()))
    );
    let Some(v1::end_device::Activation::Otaa(otaa)) = got.activation else {
        panic!("{:?}", got.activation);
    };
    assert_eq!((otaa.app_key.len(), otaa.next_join_nonce), (0, 1));
    assert_eq!(
        reason(
            create_device(&server, device(0xAB)).await,
            Code::AlreadyExists
        ),
        "ALREADY_EXISTS"
    );
    let stored = server
        .store
        .device_keys("00000000000000ab".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(
        stored.unwrap().multicast,
        MulticastKeys::Root {
            key: Key128::from_bytes([0xA7; 16]),
            derivation: KeyDerivation::GenAppKey,
        }
    );
}

#[tokio::test]
async fn the_root_key_may_be_the_app_key() {
    let server = Server::start().await;
    server.fill(0).await;
    let mut same = device(1);
    same.keys = Some(v1::end_device::Keys::RootKeys(v1::RootKeys {
        source: Some(v1::root_keys::Source::SameAsAppKey(true)),
    }));
    create_device(&server, same.clone()).await.unwrap();
    let stored = server
        .store
        .device_keys("0000000000000001".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(
        stored.unwrap().multicast,
        MulticastKeys::Root {
            key: Key128::from_bytes([0xA7; 16]),
            derivation: KeyDerivation::GenAppKey,
        }
    );
    same.activation = None;
    assert_eq!(
        bad_fields(create_device(&server, same).await),
        ["device.root_keys.same_as_app_key"]
    );
}

#[tokio::test]
async fn a_bad_device_is_refused_field_by_field() {
    let server = Server::start().await;
    server.fill(0).await;
    let bad = v1::EndDevice {
        model: "x".repeat(64),
        tags: [(String::new(), "v".to_owned())].into(),
        versions: [("a b".to_owned(), v1::ComponentVersion::default())].into(),
        keys: Some(v1::end_device::Keys::DerivedKeys(v1::DerivedKeys {
            mc_root_key: vec![1; 15].into(),
            data_block_int_key: vec![].into(),
        })),
        activation: Some(v1::end_device::Activation::Otaa(v1::OtaaActivation {
            join_eui: "zz".to_owned(),
            app_key: vec![1; 17].into(),
            used_dev_nonces: vec![65_536],
            next_join_nonce: 1 << 24,
            ..Default::default()
        })),
        ..device(1)
    };
    let status = create_device(&server, bad).await.unwrap_err();
    assert!(!format!("{status:?}").contains("1, 1, 1"), "{status:?}");
    let mut fields = bad_fields(Err::<(), _>(status));
    fields.sort();
    assert_eq!(
        fields,
        [
            "derived_keys.data_block_int_key",
            "derived_keys.mc_root_key",
            "model",
            "otaa.app_key",
            "otaa.join_eui",
            "otaa.next_join_nonce",
            "otaa.used_dev_nonces",
            "tags",
            "versions",
        ]
        .map(|field| format!("device.{field}"))
    );
    let no_profile = v1::EndDevice {
        device_profile: "deviceProfiles/none".to_owned(),
        ..device(1)
    };
    assert_eq!(
        reason(create_device(&server, no_profile).await, Code::NotFound),
        "NOT_FOUND"
    );
    let no_keys = v1::EndDevice {
        keys: None,
        ..device(1)
    };
    assert_eq!(
        bad_fields(create_device(&server, no_keys).await),
        ["device.root_keys"]
    );
}

#[tokio::test]
async fn a_batch_of_ten_thousand_has_a_result_for_each() {
    let server = Server::start().await;
    server.fill(1).await;
    let mut requests: Vec<v1::CreateDeviceRequest> = (1..=10_000)
        .map(|n| v1::CreateDeviceRequest {
            device: Some(device(n)),
            request_id: String::new(),
        })
        .collect();
    requests[5].device.as_mut().unwrap().dev_eui = "x".to_owned();
    requests[6] = requests[7].clone();
    let batch = |requests: Vec<v1::CreateDeviceRequest>, request_id: &str| {
        let request = v1::BatchCreateDevicesRequest {
            requests,
            request_id: request_id.to_owned(),
        };
        let mut devices = server.devices();
        async move { Ok::<_, Status>(devices.batch_create_devices(request).await?.into_inner()) }
    };
    let answer = batch(requests.clone(), "b").await.unwrap();
    assert_eq!(
        (answer.results.len(), answer.created_count),
        (10_000, 9_997)
    );
    let error = |n: usize| match &answer.results[n].result {
        Some(v1::batch_create_devices_result::Result::Error(error)) => error.clone(),
        other => panic!("{n}: {other:?}"),
    };
    assert_eq!(error(0).code, i32::from(Code::AlreadyExists));
    assert_eq!(error(5).code, i32::from(Code::InvalidArgument));
    assert_eq!(error(5).field_violations[0].field, "device.dev_eui");
    assert_eq!(error(7).reason, "ALREADY_EXISTS");
    assert_eq!(batch(requests.clone(), "b").await.unwrap(), answer);
    assert_eq!(bad_fields(batch(vec![], "").await), ["requests"]);
    requests.push(requests[0].clone());
    assert_eq!(bad_fields(batch(requests, "").await), ["requests"]);
    let large = v1::EndDevice {
        tags: [("k".to_owned(), "v".repeat(5 << 20))].into(),
        ..device(1)
    };
    let large = v1::CreateDeviceRequest {
        device: Some(large),
        request_id: String::new(),
    };
    assert_eq!(
        reason(batch(vec![large], "").await, Code::ResourceExhausted),
        "TOO_LARGE"
    );
}

#[tokio::test]
async fn an_imported_session_goes_on_where_it_was() {
    let server = Server::start().await;
    server.fill(0).await;
    let shown = create_device(&server, abp(7)).await.unwrap();
    let session = shown.session.unwrap();
    assert_eq!((session.f_cnt_up, session.f_cnt_down), (100, 7));
    assert_eq!(session.dev_addr, "26011f00");
    let receive = session.receive_parameters.unwrap();
    assert_eq!(receive.rx2_frequency_hz, 869_525_000);
    assert_eq!(receive.rx1_delay.unwrap().seconds, 1);
    let stored = server
        .store
        .activation("0000000000000001".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(stored.session.unwrap().f_cnt_up, Some(99));

    let named = |f_cnt_down| v1::EndDevice {
        name: "devices/0000000000000001".to_owned(),
        ..abp(f_cnt_down)
    };
    let back = update_device(&server, named(6), &["abp"]).await;
    assert_eq!(reason(back, Code::FailedPrecondition), "COUNTER_GOES_BACK");
    let on = update_device(&server, named(8), &["abp"]).await.unwrap();
    assert_eq!(on.session.unwrap().f_cnt_down, 8);
    let to_otaa = v1::EndDevice {
        name: "devices/0000000000000001".to_owned(),
        ..device(1)
    };
    assert_eq!(
        bad_fields(update_device(&server, to_otaa, &["otaa"]).await),
        ["device.otaa"]
    );
}

#[tokio::test]
async fn what_was_read_can_be_written_back() {
    let server = Server::start().await;
    server.fill(1).await;
    let mut read = get_device(&server, 1).await.unwrap();
    read.display_name = "Cellar".to_owned();
    read.tags.insert("site".to_owned(), "north".to_owned());
    let written = update_device(&server, read.clone(), &["*"]).await.unwrap();
    assert_eq!(written, read);
    assert_eq!(get_device(&server, 1).await.unwrap(), read);
    assert_eq!(
        bad_fields(update_device(&server, read.clone(), &[]).await),
        ["update_mask"]
    );
    let immutable = update_device(&server, read.clone(), &["dev_eui"]).await;
    assert_eq!(bad_fields(immutable), ["update_mask"]);
    let taken = update_device(
        &server,
        v1::EndDevice { keys: None, ..read },
        &["root_keys"],
    )
    .await;
    assert_eq!(bad_fields(taken), ["device.root_keys"]);
}

#[tokio::test]
async fn devices_are_filtered() {
    let server = Server::start().await;
    server.fill(3).await;
    let mut second = get_device(&server, 2).await.unwrap();
    second.model = "lamp".to_owned();
    second.tags.insert("site".to_owned(), "north".to_owned());
    update_device(&server, second, &["model", "tags"])
        .await
        .unwrap();
    let mut status = DeviceStatus::default();
    let now = Timestamp::from_unix_seconds(NOW);
    status.note_version("main", 7, VersionEvidence::FirmwareManagement, now);
    let third = "0000000000000003".parse().unwrap();
    server
        .store
        .commit(&[Change::PutDeviceStatus(third, status.into())])
        .await
        .unwrap();
    for (filter, expected) in [
        ("", vec!["1", "2", "3"]),
        ("model = lamp", vec!["2"]),
        ("tags.site = north", vec!["2"]),
        ("tags.site = south", vec![]),
        ("versions.main = 7", vec!["3"]),
        ("device_profile = deviceProfiles/meter", vec!["1", "2", "3"]),
        ("device_profile = deviceProfiles/other", vec![]),
        ("active_task = tasks/none", vec![]),
    ] {
        let request = v1::ListDevicesRequest {
            filter: filter.to_owned(),
            ..Default::default()
        };
        let list = server
            .devices()
            .list_devices(request)
            .await
            .unwrap()
            .into_inner();
        let found: Vec<&str> = list
            .devices
            .iter()
            .map(|d| d.name.trim_start_matches("devices/0"))
            .map(|n| n.trim_start_matches('0'))
            .collect();
        assert_eq!(found, expected, "{filter}");
    }
}

#[tokio::test]
async fn a_gateway_is_online_while_it_is_heard() {
    let server = Server::start().await;
    let given = v1::Gateway {
        antenna_gain_dbi: 2.15,
        max_eirp_dbm: Some(27.1),
        position: Some(v1::Position {
            latitude_deg: 52.52,
            longitude_deg: 13.4,
            altitude_m: 34.1,
        }),
        air_share_percent: 40,
        ..gateway(0xF)
    };
    let request = v1::CreateGatewayRequest {
        gateway: Some(given),
        request_id: "g".to_owned(),
    };
    let created = server
        .gateways()
        .create_gateway(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        server
            .gateways()
            .create_gateway(request)
            .await
            .unwrap()
            .into_inner(),
        created
    );
    assert_eq!(created.name, "gateways/000000000000000f");
    assert_eq!(
        (created.antenna_gain_dbi, created.max_eirp_dbm),
        (2.15, Some(27.1))
    );
    assert_eq!(created.position.unwrap().altitude_m, 34.1);
    assert_eq!(created.lead_time.unwrap().nanos, 300_000_000);
    assert_eq!(
        (created.air_share_percent, created.state()),
        (40, v1::GatewayState::Offline)
    );

    let list = |filter: &str| {
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
    let heard = |seconds: i64| {
        let status = GatewayStatus {
            last_seen: Some(Timestamp::from_unix_seconds(NOW + seconds)),
            ..GatewayStatus::default()
        };
        let change = Change::PutGatewayStatus("000000000000000f".parse().unwrap(), status);
        let store = server.store.clone();
        async move { store.commit(&[change]).await.unwrap() }
    };
    heard(-1).await;
    assert_eq!(
        list("state = ONLINE").await,
        0,
        "heard by an earlier server"
    );
    heard(0).await;
    assert_eq!(
        list("state = ONLINE AND region = EU868 AND has_gps = false").await,
        1
    );
    let network = server
        .network()
        .get_network(v1::GetNetworkRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(network.gateways_online, 1);
    server
        .now
        .fetch_add(61, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(list("state = OFFLINE").await, 1);

    let bad = v1::Gateway {
        eui: "1".to_owned(),
        region: 0,
        antenna_gain_dbi: f64::NAN,
        cable_loss_db: -1.0,
        max_eirp_dbm: Some(37.0),
        beaconing: true,
        lead_time: Some(prost_types::Duration {
            seconds: 0,
            nanos: -1,
        }),
        air_share_percent: 101,
        tags: [(String::new(), "b".to_owned())].into(),
        position: Some(v1::Position {
            latitude_deg: 91.0,
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = v1::CreateGatewayRequest {
        gateway: Some(bad),
        request_id: String::new(),
    };
    assert_eq!(
        bad_fields(server.gateways().create_gateway(request).await).len(),
        10
    );

    let request = v1::UpdateGatewayRequest {
        gateway: Some(v1::Gateway {
            has_gps: true,
            beaconing: true,
            ..created.clone()
        }),
        update_mask: mask(&["has_gps", "beaconing"]),
        request_id: String::new(),
    };
    let updated = server
        .gateways()
        .update_gateway(request)
        .await
        .unwrap()
        .into_inner();
    assert!(updated.has_gps && updated.beaconing && updated.air_share_percent == 40);
    let request = v1::DeleteGatewayRequest {
        name: created.name.clone(),
        request_id: String::new(),
    };
    server
        .gateways()
        .delete_gateway(request.clone())
        .await
        .unwrap();
    assert_eq!(
        reason(
            server.gateways().delete_gateway(request).await,
            Code::NotFound
        ),
        "NOT_FOUND"
    );
}

#[tokio::test]
async fn a_group_takes_devices_of_its_kind() {
    let server = Server::start().await;
    server.fill(3).await;
    let group = |region: v1::Region, id: &str| {
        let request = v1::CreateMulticastGroupRequest {
            multicast_group: Some(v1::MulticastGroup {
                region: region.into(),
                device_class: v1::DeviceClass::C.into(),
                ..Default::default()
            }),
            multicast_group_id: id.to_owned(),
            request_id: String::new(),
        };
        let mut groups = server.groups();
        async move { Ok::<_, Status>(groups.create_multicast_group(request).await?.into_inner()) }
    };
    let add = |name: &str, devices: &[&str]| {
        let request = v1::AddMulticastGroupDevicesRequest {
            name: name.to_owned(),
            devices: devices
                .iter()
                .map(|device| format!("devices/{device:0>16}"))
                .collect(),
            request_id: String::new(),
        };
        let mut groups = server.groups();
        async move {
            Ok::<_, Status>(
                groups
                    .add_multicast_group_devices(request)
                    .await?
                    .into_inner(),
            )
        }
    };
    let eu = group(v1::Region::Eu868, "eu").await.unwrap();
    assert_eq!(
        reason(group(v1::Region::Eu868, "eu").await, Code::AlreadyExists),
        "ALREADY_EXISTS"
    );
    group(v1::Region::Us915, "us").await.unwrap();
    let added = add("multicastGroups/eu", &["1", "2", "9", "x"])
        .await
        .unwrap();
    assert_eq!(added.multicast_group.unwrap().member_count, 2);
    let codes: Vec<i32> = added
        .errors
        .iter()
        .map(|e| e.error.as_ref().unwrap().code)
        .collect();
    assert_eq!(
        codes,
        [i32::from(Code::NotFound), i32::from(Code::InvalidArgument)]
    );
    let other_region = add("multicastGroups/us", &["1"]).await.unwrap();
    assert_eq!(
        other_region.errors[0].error.as_ref().unwrap().reason,
        "REGION_MISMATCH"
    );

    let slot = McSlot {
        session: SessionId {
            task: TaskId("t".to_owned()),
            number: 0,
        },
        group: Some("eu".to_owned()),
        confirmed: true,
        leftover: false,
        kept: false,
    };
    let status = DeviceStatus {
        mc_slots: [Some(slot), None, None, None],
        ..Default::default()
    };
    let change = Change::PutDeviceStatus("0000000000000001".parse().unwrap(), status.into());
    server.store.commit(&[change]).await.unwrap();
    let members = |filter: &str| {
        let request = v1::ListMulticastGroupMembersRequest {
            parent: "multicastGroups/eu".to_owned(),
            filter: filter.to_owned(),
            page_size: 1,
            ..Default::default()
        };
        let mut groups = server.groups();
        async move {
            groups
                .list_multicast_group_members(request)
                .await
                .unwrap()
                .into_inner()
        }
    };
    let all = members("").await;
    assert_eq!((all.total_size, all.members.len()), (2, 1));
    assert_eq!(all.members[0].state(), v1::MemberState::Ready);
    assert_ne!(all.next_page_token, "");
    let pending = members("state = PENDING").await;
    assert_eq!(pending.members[0].device, "devices/0000000000000002");

    let delete = v1::DeleteDeviceRequest {
        name: "devices/0000000000000001".to_owned(),
        request_id: String::new(),
    };
    let held = server.devices().delete_device(delete.clone()).await;
    assert_eq!(reason(held, Code::FailedPrecondition), "DEVICE_IN_USE");
    let remove = v1::RemoveMulticastGroupDevicesRequest {
        name: eu.name.clone(),
        devices: vec![delete.name.clone(), "devices/00000000000000ff".to_owned()],
        request_id: String::new(),
    };
    let removed = server
        .groups()
        .remove_multicast_group_devices(remove)
        .await
        .unwrap();
    assert_eq!(
        removed.into_inner().multicast_group.unwrap().member_count,
        1
    );
    server.devices().delete_device(delete).await.unwrap();

    let update = v1::UpdateMulticastGroupRequest {
        multicast_group: Some(v1::MulticastGroup {
            name: eu.name.clone(),
            data_rate: Some(5),
            device_class: v1::DeviceClass::B.into(),
            ..Default::default()
        }),
        update_mask: mask(&["data_rate"]),
        request_id: String::new(),
    };
    let updated = server
        .groups()
        .update_multicast_group(update.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((updated.data_rate, updated.member_count), (Some(5), 1));
    let mut class_a = v1::UpdateMulticastGroupRequest {
        update_mask: mask(&["*"]),
        ..update
    };
    if let Some(group) = &mut class_a.multicast_group {
        group.device_class = v1::DeviceClass::A.into();
    }
    let refused = bad_fields(server.groups().update_multicast_group(class_a).await);
    assert_eq!(refused, ["multicast_group.device_class"]);
    let request = v1::DeleteMulticastGroupRequest {
        name: eu.name,
        request_id: String::new(),
    };
    server
        .groups()
        .delete_multicast_group(request)
        .await
        .unwrap();
}

#[tokio::test]
async fn uplinks_are_streamed_to_those_who_asked_for_them() {
    let server = Server::start().await;
    server.fill(2).await;
    let request = v1::StreamUplinksRequest {
        devices: vec!["devices/0000000000000001".to_owned()],
        f_ports: vec![10],
    };
    let mut stream = server
        .network()
        .stream_uplinks(request)
        .await
        .unwrap()
        .into_inner();
    let send = |dev_eui: u64, f_port: Option<u8>, payload: &[u8]| {
        let uplink = Uplink {
            dev_eui: format!("{dev_eui:016x}").parse().unwrap(),
            f_cnt: 70_000,
            f_port,
            payload: payload.to_vec(),
            received_at: Timestamp::from_unix_seconds(NOW),
            data_rate: 5,
            frequency_hz: 868_100_000,
            confirmed: true,
            class_b: false,
            asked_time: false,
            receptions: vec![],
        };
        server
            .notices
            .send(Notice::Uplink(Arc::new(uplink)))
            .unwrap();
    };
    send(2, Some(10), b"other device");
    send(1, Some(11), b"other port");
    send(1, None, b"");
    send(1, Some(10), b"wanted");
    let got = stream.next().await.unwrap().unwrap();
    let uplink = got.uplink.unwrap();
    assert_eq!(
        (uplink.payload.as_ref(), uplink.f_cnt_up, got.lost_count),
        (&b"wanted"[..], 70_000, 0)
    );
    assert_eq!(uplink.device, "devices/0000000000000001");

    let bad = v1::StreamUplinksRequest {
        devices: vec!["x".to_owned()],
        f_ports: vec![0, 224],
    };
    let fields = bad_fields(server.network().stream_uplinks(bad).await.map(|_| ()));
    assert_eq!(fields, ["devices[0]", "f_ports[0]", "f_ports[1]"]);
    let none = v1::StreamUplinksRequest {
        devices: vec!["devices/00000000000000ff".to_owned()],
        f_ports: vec![],
    };
    assert_eq!(
        reason(
            server.network().stream_uplinks(none).await.map(|_| ()),
            Code::NotFound
        ),
        "NOT_FOUND"
    );
}
