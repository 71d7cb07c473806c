//! Forecasts over the API: what a task will cost, and why one cannot work.

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::proto::v1;
use lorawan_fuota::record::{AirLedger, Change, DeviceStatus, GatewayStatus, Link};
use lorawan_fuota::store::Store;
use lorawan_fuota::time::Timestamp;
use tonic::{Code, Status};

use crate::api_support::{NOW, Server, device, mask, profile, reason};
use crate::api_tasks::{create, moment, names, server, start};

#[tokio::test]
async fn only_devices_that_claim_the_code_are_planned_with_it() {
    let (server, task) = server(2).await;
    let claims = v1::DeviceProfile {
        decoder_limits: Some(v1::DecoderLimits {
            reed_solomon: true,
            ..Default::default()
        }),
        ..profile()
    };
    let request = v1::CreateDeviceProfileRequest {
        device_profile: Some(claims),
        device_profile_id: "claims".to_owned(),
        request_id: String::new(),
    };
    server
        .profiles()
        .create_device_profile(request)
        .await
        .unwrap();
    let request = v1::CreateDeviceRequest {
        device: Some(v1::EndDevice {
            device_profile: "deviceProfiles/claims".to_owned(),
            ..device(3)
        }),
        request_id: String::new(),
    };
    server.devices().create_device(request).await.unwrap();
    create(&server, "a", &task, names([1, 2, 3])).await.unwrap();
    let plan = || {
        let request = v1::PlanTaskRequest {
            name: "tasks/a".to_owned(),
        };
        let mut tasks = server.tasks();
        async move { tasks.plan_task(request).await.unwrap().into_inner() }
    };
    let codes = |plan: &v1::Plan| -> Vec<_> {
        let sessions = plan.sessions.iter();
        sessions.map(|s| (s.frag_algo(), s.device_count)).collect()
    };
    let warned = |plan: &v1::Plan| {
        let reason = v1::PlanProblemReason::FragAlgoNotClaimed;
        plan.problems
            .iter()
            .any(|p| p.reason() == reason && !p.blocking)
    };
    let unasked = plan().await;
    assert_eq!(codes(&unasked), [(v1::FragAlgo::Ts004, 3)]);
    assert!(!warned(&unasked));

    let request = v1::UpdateTaskRequest {
        task: Some(v1::FuotaTask {
            name: "tasks/a".to_owned(),
            frag_algo: v1::FragAlgo::ReedSolomon.into(),
            keep_groups: true,
            ..Default::default()
        }),
        update_mask: mask(&["frag_algo", "keep_groups"]),
        request_id: String::new(),
    };
    let updated = server.tasks().update_task(request).await.unwrap();
    assert_eq!(updated.get_ref().frag_algo(), v1::FragAlgo::ReedSolomon);
    assert!(updated.into_inner().keep_groups);
    let asked = plan().await;
    assert_eq!(
        codes(&asked),
        [(v1::FragAlgo::ReedSolomon, 1), (v1::FragAlgo::Ts004, 2)]
    );
    assert!(asked.startable && warned(&asked), "{:?}", asked.problems);
}

#[tokio::test]
async fn a_plan_says_what_a_task_will_cost_or_why_it_cannot_work() {
    let (server, task) = server(2).await;
    create(&server, "a", &task, names([1, 2])).await.unwrap();
    create(&server, "empty", &task, vec![]).await.unwrap();
    let plan = |name: &str| {
        let request = v1::PlanTaskRequest {
            name: name.to_owned(),
        };
        let mut tasks = server.tasks();
        async move { Ok::<_, Status>(tasks.plan_task(request).await?.into_inner()) }
    };
    let good = plan("tasks/a").await.unwrap();
    assert!(good.startable, "{:?}", good.problems);
    assert_eq!((good.device_count, good.sessions.len()), (2, 1));
    let session = &good.sessions[0];
    let bytes = session.nb_frag * session.frag_size - session.padding_bytes;
    assert_eq!(bytes, 5000);
    let frames = good.frames.unwrap();
    assert!(u64::from(session.nb_frag) <= frames.low && frames.low <= frames.high);
    assert!(
        good.problems
            .iter()
            .all(|p| p.reason() == v1::PlanProblemReason::NoGateway)
    );

    let none = plan("tasks/empty").await.unwrap();
    assert!(!none.startable);
    assert_eq!(none.problems[0].reason(), v1::PlanProblemReason::NoDevices);

    let late = v1::FuotaTask {
        deadline: moment(-5),
        ..task.clone()
    };
    create(&server, "late", &late, names([1])).await.unwrap();
    let late = plan("tasks/late").await.unwrap();
    assert_eq!(
        late.problems[0].reason(),
        v1::PlanProblemReason::TimeInvalid
    );
    assert_eq!(late.problems[0].field, "deadline");

    // 192 fragments of 26 bytes: 64 divides 192, which is no power of two.
    let metadata = v1::ImageMetadata {
        target_version: Some(2),
        ..Default::default()
    };
    let image = server.upload(metadata, &[7; 192 * 26]).await.unwrap();
    let hurried = v1::FuotaTask {
        images: vec![image.name],
        window_start: moment(20),
        frag_size: 26,
        ..task.clone()
    };
    create(&server, "hurried", &hurried, names([1]))
        .await
        .unwrap();
    let hurried = plan("tasks/hurried").await.unwrap();
    assert!(hurried.startable, "{:?}", hurried.problems);
    let found: Vec<_> = hurried.problems.iter().map(|p| p.reason()).collect();
    for reason in [
        v1::PlanProblemReason::SetupTooShort,
        v1::PlanProblemReason::WeakBlockSize,
    ] {
        assert!(found.contains(&reason), "{found:?}");
    }

    start(&server, "tasks/a", "").await.unwrap();
    assert_eq!(
        reason(plan("tasks/a").await, Code::FailedPrecondition),
        "TASK_NOT_DRAFT"
    );
    create(&server, "b", &task, names([1])).await.unwrap();
    let held = plan("tasks/b").await.unwrap();
    assert!(!held.startable);
    assert_eq!(
        held.problems[0].reason(),
        v1::PlanProblemReason::DevicesInUse
    );
}

/// A gateway heard just now that hears devices 1 and up, so many, and spent some air.
async fn on_air(server: &Server, devices: u64, spent_seconds: u64) {
    let eui = GatewayEui(1);
    let at = Timestamp::from_unix_seconds(NOW);
    let seen = |last_seen| {
        Change::PutGatewayStatus(
            eui,
            GatewayStatus {
                last_seen: Some(last_seen),
                ..GatewayStatus::default()
            },
        )
    };
    let link = Link {
        rssi_dbm: -100,
        snr_db: 8.0,
        at,
    };
    let heard = DeviceStatus {
        last_seen: Some(at),
        links: [(eui, link)].into(),
        ..DeviceStatus::default()
    };
    let mut changes = vec![
        seen(at),
        Change::PutAirLedger(AirLedger {
            gateway: eui,
            sub_band: 4,
            minutes: [(NOW / 60 - 1, spent_seconds * 1_000_000)].into(),
        }),
    ];
    changes.extend((1..=devices).map(|n| Change::PutDeviceStatus(DevEui(n), heard.clone().into())));
    server.store.commit(&changes).await.unwrap();
}

#[tokio::test]
async fn a_plan_shows_ranges_air_energy_and_chances() {
    let (server, task) = server(3).await;
    create(&server, "a", &task, names(1..=3)).await.unwrap();
    let plan = || async {
        let request = v1::PlanTaskRequest {
            name: "tasks/a".to_owned(),
        };
        let answer = server.tasks().plan_task(request).await;
        answer.unwrap().into_inner()
    };
    on_air(&server, 2, 60).await;
    let shown = plan().await;
    assert!(shown.startable, "{:?}", shown.problems);
    let reasons: Vec<_> = shown.problems.iter().map(|p| p.reason()).collect();
    assert!(reasons.contains(&v1::PlanProblemReason::DevicesUnheard));
    // Two devices go at the fastest rate they can follow, the one nobody heard at the slowest.
    let mut sessions: Vec<_> = shown
        .sessions
        .iter()
        .map(|s| (s.data_rate, s.device_count))
        .collect();
    sessions.sort_unstable();
    assert_eq!(sessions, [(0, 1), (5, 2)]);
    let at = |time: Option<prost_types::Timestamp>| time.unwrap().seconds;
    let end = shown.end.unwrap();
    assert!(at(end.low) <= at(end.expected) && at(end.expected) <= at(end.high));
    assert_eq!(end.expected, shown.expected_end_time);
    assert!(at(shown.deadline) > at(end.high));
    assert!(shown.success_percent > 90.0);
    let fast = shown.sessions.iter().find(|s| s.data_rate == 5).unwrap();
    let last = fast.last_fragment.unwrap();
    assert!(at(fast.window_start) < at(last.low) && at(last.high) <= at(fast.window_end));
    assert!(fast.device_energy_joules > 0.0);
    assert!(fast.worst_device_energy_joules >= fast.device_energy_joules);
    assert!(fast.ready_percent > 50.0 && fast.in_window_percent > 90.0);
    // RX2's sub-band carries the sessions, RX1's what is said to each device.
    let air = |from_hz| {
        shown
            .gateway_air
            .iter()
            .find(|a| a.from_hz == from_hz)
            .unwrap()
    };
    let (multicast, unicast) = (air(869_400_000), air(868_000_000));
    assert_eq!(multicast.spent_airtime_us, 60_000_000);
    assert!((multicast.duty_cycle_percent - 10.0).abs() < 1e-9);
    assert!(multicast.multicast_airtime_us > 0 && multicast.unicast_airtime_us == 0);
    assert!(unicast.unicast_airtime_us > 0 && unicast.multicast_airtime_us == 0);
    assert!(multicast.allowed_airtime_us > multicast.multicast_airtime_us);
}

#[tokio::test]
async fn a_plan_that_cannot_work_is_refused_with_reason_and_field() {
    let (server, task) = server(2).await;
    on_air(&server, 2, 359).await;
    let slow = v1::FuotaTask {
        data_rate: Some(0),
        // The last hour's air is spent: it takes an hour more than half of one.
        deadline: moment(1800),
        ..task.clone()
    };
    let hurried = v1::FuotaTask {
        window_start: moment(2),
        ..task.clone()
    };
    let budget = v1::FuotaTask {
        max_redundancy_percent: Some(0),
        ..task.clone()
    };
    let lossy = DeviceStatus {
        loss_permille: Some(700),
        ..DeviceStatus::default()
    };
    for (id, task, field, reason) in [
        ("slow", slow, "deadline", v1::PlanProblemReason::DutyCycle),
        (
            "hurried",
            hurried,
            "window_start",
            v1::PlanProblemReason::SetupTooShort,
        ),
        (
            "budget",
            budget,
            "max_redundancy_percent",
            v1::PlanProblemReason::Redundancy,
        ),
    ] {
        if id == "budget" {
            let changes = [1, 2].map(|n| Change::PutDeviceStatus(DevEui(n), lossy.clone().into()));
            server.store.commit(&changes).await.unwrap();
        }
        create(&server, id, &task, names([1, 2])).await.unwrap();
        let request = v1::PlanTaskRequest {
            name: format!("tasks/{id}"),
        };
        let plan = server
            .tasks()
            .plan_task(request)
            .await
            .unwrap()
            .into_inner();
        assert!(!plan.startable, "{id}");
        let first = &plan.problems[0];
        assert_eq!(
            (first.field.as_str(), first.reason()),
            (field, reason),
            "{id}"
        );
        assert!(first.blocking && !first.message.is_empty());
    }
}

#[tokio::test]
async fn gateways_that_are_offline_keep_a_task_from_starting() {
    let (server, task) = server(2).await;
    on_air(&server, 2, 0).await;
    create(&server, "a", &task, names([1, 2])).await.unwrap();
    let status = GatewayStatus {
        last_seen: Some(Timestamp::from_unix_seconds(NOW - 3600)),
        ..GatewayStatus::default()
    };
    let change = Change::PutGatewayStatus(GatewayEui(1), status);
    server.store.commit(&[change]).await.unwrap();
    let request = v1::PlanTaskRequest {
        name: "tasks/a".to_owned(),
    };
    let plan = server
        .tasks()
        .plan_task(request)
        .await
        .unwrap()
        .into_inner();
    let reasons: Vec<_> = plan
        .problems
        .iter()
        .map(|p| (p.reason(), p.blocking))
        .collect();
    assert!(!plan.startable);
    assert_eq!(reasons, [(v1::PlanProblemReason::GatewayOffline, true)]);
}
