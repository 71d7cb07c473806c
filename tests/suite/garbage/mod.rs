//! A fleet is updated while a fifth of its uplinks is garbage and nonsense rains on the gateways' port.
//!
//! A real server process, simulated gateways and end-devices over UDP. Between them stands a bad link ([`link`]): it
//! spoils uplinks on their way, and with every datagram it passes on it sends malformed ones of its own ([`noise`]).
//! Everything but the wall clock follows from a seed.

mod link;
mod noise;

use std::time::Duration;

use fuota_simulator::channel::{Channel, ChannelConfig};
use fuota_simulator::device::{EndDevice, StackProfile};
use fuota_simulator::fleet::{Fleet, FleetOptions, NEW_VERSION};
use fuota_simulator::gateway::{Gateway, GatewayConfig};
use fuota_simulator::lab::Lab;
use fuota_simulator::operator::{Operator, Progress};
use fuota_simulator::random::Random;
use fuota_simulator::realtime::{LabView, RealTime, WallClock};
use fuota_simulator::server::Server;
use lorawan_fuota::proto::v1;
use lorawan_fuota::proto::v1::network_service_client::NetworkServiceClient;
use lorawan_fuota::time::Timestamp;
use tokio::sync::watch;

use self::link::{BadLink, Spoilt};

const SEED: u64 = 4;
const DEVICES: u32 = 4;
const GATEWAYS: u32 = 2;
/// From the start of the task to its window: a few exchanges with each device, some of them in vain.
const SETUP: Duration = Duration::from_secs(24);
/// From the start of the task to its end at the latest.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// The test has failed when it takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_updated_through_garbage() {
    let scratch = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(FleetOptions {
        seed: SEED,
        devices: DEVICES,
        gateways: GATEWAYS,
        loss: 0.0,
        uplink_interval: Duration::from_millis(1500),
        ..FleetOptions::default()
    });
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_fuota"));
    let server = Server::start(binary, scratch.path()).await.unwrap();
    let ports = server.ports().clone();
    let operator = Operator::new(&ports.grpc, "garbage").unwrap();
    let (devices, task) = enter(&operator, &fleet).await;

    let link = BadLink::open(&fleet, SEED, ports.udp.parse().unwrap()).await;
    let clock = WallClock::start();
    let lab = lab(&fleet, clock.now());
    let mut radio = RealTime::open(lab, clock, link.address()).await.unwrap();
    let view = radio.observe();
    let seen = std::sync::Mutex::new(Progress::default());
    let update = async {
        joined(view).await;
        let task = v1::FuotaTask {
            window_start: moment(clock.now() + SETUP),
            deadline: moment(clock.now() + DEADLINE),
            ..task
        };
        let started = operator.run_task("noisy", &task, devices).await.unwrap();
        let note = |progress: &Progress| seen.lock().unwrap().clone_from(progress);
        operator.watch(&started.name, note).await.unwrap()
    };
    let limited = tokio::time::timeout(PATIENCE, update);
    let Ok(progress) = radio.run_until(limited).await else {
        let log = std::fs::read_to_string(server.log()).unwrap();
        panic!(
            "stuck: {:#?}\n{:#?}\n{log}",
            seen.lock().unwrap(),
            radio.view()
        );
    };
    let spoilt = link.close();
    let network = NetworkServiceClient::connect(format!("http://{}", ports.grpc))
        .await
        .unwrap()
        .get_network(v1::GetNetworkRequest {})
        .await
        .unwrap()
        .into_inner();
    let log = std::fs::read_to_string(server.log()).unwrap();

    check_update(&progress, &radio.view(), &log);
    check_counters(&network.counters.unwrap(), &spoilt);
    check_log(&log);
    server.stop().await.unwrap();
}

fn check_update(progress: &Progress, view: &LabView, log: &str) {
    assert_eq!(progress.task.state(), v1::TaskState::Completed, "{log}");
    assert_eq!(progress.devices.len(), 4);
    for device in progress.devices.values() {
        assert_eq!(
            device.verdict(),
            v1::Verdict::Succeeded,
            "{device:#?}\n{log}"
        );
    }
    for device in &view.devices {
        assert_eq!(device.running_version, NEW_VERSION.to_ts006(), "{log}");
    }
    assert_eq!((view.breaches, view.counters_reused), (0, 0));
    assert_eq!(view.bad_datagrams, 0, "what the server says makes sense");
}

/// What was sent was counted. Half is enough: a loaded machine may lose datagrams on the way.
fn check_counters(counters: &v1::NetworkCounters, spoilt: &Spoilt) {
    let told = format!("{spoilt:?}\n{counters:#?}");
    let share = spoilt.uplinks * 100 / spoilt.passed.max(1);
    assert!((12..=28).contains(&share), "{share} %\n{told}");
    assert!(spoilt.commands_cut > 0, "{told}");
    for (counted, sent) in [
        (counters.datagrams_malformed, spoilt.noise.malformed),
        (counters.datagrams_refused, spoilt.noise.of_strangers),
        (counters.uplinks_without_crc, spoilt.noise.without_crc),
    ] {
        assert!(sent > 100, "{told}");
        assert!(counted > sent / 2 && counted <= sent, "{told}");
    }
    // Copies of both gateways are one frame.
    let damaged = counters.uplinks_malformed
        + counters.uplinks_unknown_device
        + counters.uplinks_mic_failed
        + counters.uplinks_replayed;
    assert!(damaged >= spoilt.frames_damaged / 4, "{told}");
    assert!(counters.commands_malformed > 0, "{told}");
    assert!(
        counters.uplinks_accepted > 0 && counters.joins_accepted >= 4,
        "{told}"
    );
}

fn check_log(log: &str) {
    let lines = log.lines().count();
    assert!(lines < 60, "{lines} lines\n{log}");
    for word in ["ERROR", "panicked"] {
        assert!(!log.contains(word), "{log}");
    }
}

/// Enters fleet and image; returns the devices' names and the task to run.
async fn enter(operator: &Operator, fleet: &Fleet) -> (Vec<String>, v1::FuotaTask) {
    operator
        .create_gateways(&fleet.gateway_records())
        .await
        .unwrap();
    let profile = operator
        .create_profile("noisy", &fleet.profile_record(StackProfile::SpecV2))
        .await
        .unwrap();
    let devices = operator
        .create_devices(fleet.device_records(StackProfile::SpecV2, &profile))
        .await
        .unwrap();
    let mut random = Random::of(SEED, 1);
    let body: Vec<u8> = (0..250).flat_map(|_| random.key()).collect();
    let image = fleet.image(&body).unwrap();
    let key = fleet.public_key_pem();
    operator.trust("garbage", "", key).await.unwrap();
    let uploaded = operator
        .upload(&fleet.image_metadata(), &image)
        .await
        .unwrap();
    let task = v1::FuotaTask {
        images: vec![uploaded.name],
        success_criterion: v1::SuccessCriterion::Running.into(),
        reboot_mode: v1::RebootMode::WhenReady.into(),
        data_rate: Some(fleet.options.data_rate.into()),
        max_redundancy_percent: Some(200),
        ..v1::FuotaTask::default()
    };
    (devices, task)
}

fn lab(fleet: &Fleet, start: Timestamp) -> Lab {
    let devices = fleet.devices.iter().cloned();
    let devices = devices.map(|config| EndDevice::new(config, SEED, start));
    let gateways = fleet.gateways.iter();
    let gateways = gateways.map(|eui| Gateway::new(GatewayConfig::new(*eui, fleet.options.region)));
    let channel = ChannelConfig {
        uplink_loss: 0.0,
        downlink_loss: 0.0,
        collisions: false,
    };
    Lab::new(
        devices.collect(),
        gateways.collect(),
        Channel::new(channel, SEED),
    )
}

async fn joined(mut view: watch::Receiver<LabView>) {
    let all = |view: &LabView| {
        !view.devices.is_empty() && view.devices.iter().all(|device| device.is_activated)
    };
    view.wait_for(all).await.unwrap();
}

fn moment(at: Timestamp) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: at.as_unix_seconds(),
        nanos: 0,
    })
}
