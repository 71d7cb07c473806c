//! Plans of small networks: which data rate, which gateways, what it costs, and what is refused.

mod gate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::lorawan::PackageVersion;
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::lorawan::keys::Key128;
use crate::lorawan::region::Region;
use crate::record::*;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

/// A network and an order in it.
struct Network {
    task: Task,
    image: Image,
    deltas: Vec<Image>,
    devices: Vec<FleetDevice>,
    gateways: Vec<GatewaySettings>,
    ledgers: Vec<AirLedger>,
    heard: BTreeMap<GatewayEui, Timestamp>,
    clocks: Vec<ClockReading>,
}

impl Network {
    /// EU868, an image of so many bytes, gateways heard just now.
    fn new(image_bytes: u32, gateways: u64) -> Self {
        let gateways: Vec<GatewaySettings> = (1..=gateways).map(gateway).collect();
        Self {
            task: task(),
            image: image(image_bytes),
            deltas: Vec::new(),
            devices: Vec::new(),
            heard: gateways.iter().map(|g| (g.eui, NOW)).collect(),
            gateways,
            ledgers: Vec::new(),
            clocks: Vec::new(),
        }
    }

    /// Adds devices with this signal-to-noise ratio at these gateways.
    fn with(mut self, count: usize, links: &[(u64, f32)]) -> Self {
        for _ in 0..count {
            let number = u64::try_from(self.devices.len()).unwrap() + 1;
            self.devices.push(device(number, links));
        }
        self
    }

    fn plan(&self) -> Result<Plan, PlanError> {
        plan(&PlanRequest {
            now: NOW,
            task: &self.task,
            image: &self.image,
            deltas: &self.deltas.iter().collect::<Vec<_>>(),
            devices: self.devices.iter().collect(),
            groups: &[],
            gateways: &self.gateways,
            ledgers: &self.ledgers,
            heard: &self.heard,
            clocks: &self.clocks,
        })
    }

    /// Data rate and number of devices of each session.
    fn rates(&self) -> Vec<(u8, usize)> {
        let plan = self.plan().unwrap();
        let sessions = plan.sessions.iter();
        sessions.map(|s| (s.data_rate, s.devices.len())).collect()
    }

    fn refusal(&self) -> (PlanRefusal, &'static str) {
        match self.plan() {
            Err(PlanError::Refused { refusal, field, .. }) => (refusal, field),
            other => panic!("{other:?}"),
        }
    }
}

fn gateway(number: u64) -> GatewaySettings {
    GatewaySettings {
        eui: GatewayEui(number),
        display_name: String::new(),
        region: Region::Eu868,
        position: None,
        antenna_gain_dbi: 0.0,
        cable_loss_db: 0.0,
        max_eirp_dbm: None,
        gps: false,
        beaconing: false,
        lead_time: Duration::from_millis(300),
        air_share_permille: 1000,
        tags: BTreeMap::new(),
        created_at: NOW,
        updated_at: NOW,
    }
}

fn device(number: u64, links: &[(u64, f32)]) -> FleetDevice {
    let package = |f_port| {
        Some(Package {
            version: PackageVersion::V2,
            f_port,
        })
    };
    let profile = DeviceProfile {
        application_reboot: None,
        components: vec![],
        descriptor: Default::default(),
        tenant: TenantId::default(),
        id: "type".to_owned(),
        display_name: String::new(),
        lorawan_version: LorawanVersion::V1_0_4,
        region: Region::Eu868,
        supports_class_b: false,
        supports_class_c: true,
        always_class_c: false,
        packages: Packages {
            clock_sync: package(202),
            multicast_setup: package(200),
            fragmentation: package(201),
            firmware_management: Some(Package {
                version: PackageVersion::V1,
                f_port: 203,
            }),
        },
        limits: DecoderLimits {
            max_nb_frag: 16_383,
            max_frag_size: 239,
            max_lost: None,
            max_groups: 4,
            max_frag_sessions: 4,
            reed_solomon: false,
            keeps_blocks: false,
        },
        status_interpretation: StatusInterpretation::Spec,
        uplink_interval: Duration::from_secs(600),
        after_reboot: AfterReboot {
            rejoins: true,
            f_cnt_reset: FCntReset::Refuse,
            loses_groups: true,
        },
        version_source: VersionSource::FirmwareManagement,
        created_at: NOW,
        updated_at: NOW,
    };
    let link = |snr_db: f32| Link {
        rssi_dbm: -110,
        snr_db,
        at: NOW,
    };
    let links = links
        .iter()
        .map(|(gateway, snr)| (GatewayEui(*gateway), link(*snr)));
    FleetDevice {
        settings: DeviceSettings {
            tenant: TenantId::default(),
            dev_eui: DevEui(number),
            profile: "type".to_owned(),
            display_name: String::new(),
            model: String::new(),
            tags: BTreeMap::new(),
            created_at: NOW,
            updated_at: NOW,
        },
        status: DeviceStatus {
            links: links.collect(),
            ..DeviceStatus::default()
        },
        keys: DeviceKeys {
            dev_eui: DevEui(number),
            multicast: MulticastKeys::Derived {
                mc_root_key: Key128::from_bytes([1; 16]),
                data_block_int_key: Key128::from_bytes([2; 16]),
            },
        },
        profile: Arc::new(profile),
    }
}

fn image(size_bytes: u32) -> Image {
    Image {
        tenant: TenantId::default(),
        sha256: Sha256([0; 32]),
        size_bytes,
        container: ImageContainer::Mcuboot,
        file_name: String::new(),
        model: String::new(),
        component: "main".to_owned(),
        target_version: 2,
        version_text: String::new(),
        annotations: BTreeMap::new(),
        created_at: NOW,
        facts: ImageFacts::default(),
        release: Release {
            state: ReleaseState::Active,
            ..Release::default()
        },
    }
}

fn task() -> Task {
    Task {
        rules: Box::default(),
        waiting: None,
        deltas: vec![],
        tenant: TenantId::default(),
        id: TaskId("task".to_owned()),
        display_name: String::new(),
        images: vec![Sha256([0; 32])],
        groups: vec![],
        success: SuccessCriterion::Running,
        reboot: RebootMode::Countdown {
            after: Duration::from_secs(10),
        },
        prepare_after: None,
        window_start: None,
        deadline: None,
        options: TaskOptions {
            skip_unfit: true,
            ..TaskOptions::default()
        },
        state: TaskState::Draft,
        reason: None,
        reason_text: String::new(),
        sequence: 0,
        counters: TaskCounters::default(),
        retry_of: None,
        waves: WavePolicy::default(),
        thresholds: Thresholds::default(),
        failures_accepted: FailuresAccepted::default(),
        held: None,
        resumed_at: None,
        expected_end: None,
        tags: BTreeMap::new(),
        created_at: NOW,
        updated_at: NOW,
        started_at: None,
        ended_at: None,
        seed: None,
    }
}

/// A ledger that has spent so much in the minute before.
fn spent(gateway: u64, sub_band: u8, seconds: u64) -> AirLedger {
    let minute = NOW.as_micros() / 60_000_000 - 1;
    AirLedger {
        gateway: GatewayEui(gateway),
        sub_band,
        minutes: BTreeMap::from([(minute, seconds * 1_000_000)]),
    }
}

#[test]
fn the_data_rate_follows_the_links() {
    // SF7 needs -7.5 dB and the margin of 10; SF12 -20.
    assert_eq!(
        Network::new(50_000, 1).with(10, &[(1, 4.0)]).rates(),
        [(5, 10)]
    );
    assert_eq!(
        Network::new(50_000, 1).with(10, &[(1, 2.0)]).rates(),
        [(4, 10)]
    );
    assert_eq!(
        Network::new(50_000, 1).with(10, &[(1, -9.0)]).rates(),
        [(0, 10)]
    );
    // Nobody was heard: the slowest.
    let fresh = Network::new(5_000, 1).with(10, &[]);
    assert_eq!(fresh.rates(), [(0, 10)]);
    assert_eq!(fresh.plan().unwrap().unheard, 10);
    // They slow nobody down.
    let mut mixed = Network::new(1_000, 1)
        .with(2, &[(1, 9.0)])
        .with(1, &[])
        .rates();
    mixed.sort_unstable();
    assert_eq!(mixed, [(0, 1), (5, 2)]);
}

#[test]
fn a_rate_that_was_asked_for_is_kept() {
    let mut network = Network::new(50_000, 1).with(10, &[(1, 4.0)]);
    network.task.options.data_rate = Some(3);
    assert_eq!(network.rates(), [(3, 10)]);
}

#[test]
fn three_bad_devices_get_a_session_of_their_own() {
    let network = Network::new(50_000, 1)
        .with(1000, &[(1, 9.0)])
        .with(3, &[(1, -12.0)]);
    let mut rates = network.rates();
    rates.sort_unstable();
    assert_eq!(rates, [(0, 3), (5, 1000)]);
}

#[test]
fn a_few_devices_alike_are_not_split() {
    // Five can follow SF7 and five SF8: one pass at SF8 costs less air than two.
    let network = Network::new(100_000, 1)
        .with(5, &[(1, 4.0)])
        .with(5, &[(1, 1.0)]);
    assert_eq!(network.rates(), [(4, 10)]);
}

#[test]
fn decoders_that_differ_in_what_is_not_used_share_a_session() {
    let mut network = Network::new(50_000, 1).with(10, &[(1, 4.0)]);
    let mut profile = (*network.devices[0].profile).clone();
    profile.limits.max_frag_size = 242;
    for device in network.devices.iter_mut().take(3) {
        device.profile = Arc::new(profile.clone());
    }
    assert_eq!(network.rates(), [(5, 10)]);
    network.task.options.data_rate = Some(2);
    assert_eq!(network.rates(), [(2, 10)]);
}

#[test]
fn fragments_asked_for_rule_rates_out() {
    let mut network = Network::new(50_000, 1).with(10, &[(1, -4.0)]);
    assert_eq!(network.rates(), [(2, 10)]);
    network.task.options.frag_size = Some(100);
    // 100 bytes go at SF9 and faster only.
    assert_eq!(network.rates(), [(3, 10)]);
}

#[test]
fn a_gateway_serves_whom_it_reaches_at_that_rate() {
    // The second gateway hears the device, but not well enough for SF7.
    let mut network = Network::new(5_000, 2).with(5, &[(1, 9.0), (2, -6.0)]);
    network.devices.push(device(100, &[(2, 8.0)]));
    let plan = network.plan().unwrap();
    assert_eq!(plan.sessions[0].gateways, [GatewayEui(1), GatewayEui(2)]);
    // At SF12 it reaches all of them.
    network.task.options.data_rate = Some(0);
    let plan = network.plan().unwrap();
    assert_eq!(plan.sessions[0].gateways, [GatewayEui(2)]);
}

#[test]
fn the_best_gateway_serves_who_is_heard_by_none_well() {
    let mut network = Network::new(5_000, 2).with(3, &[(1, -12.0), (2, -3.0)]);
    network.task.options.data_rate = Some(5);
    let plan = network.plan().unwrap();
    assert_eq!(plan.sessions[0].gateways, [GatewayEui(2)]);
}

#[test]
fn a_clock_that_is_off_opens_no_windows() {
    let mut network = Network::new(5_000, 2).with(3, &[(1, 9.0)]);
    let reading = |seconds: i64| ClockReading {
        ahead_us: seconds * 1_000_000,
        at: NOW,
    };
    network.clocks = vec![reading(0), reading(4)];
    network.plan().unwrap();
    network.clocks = vec![reading(-7), reading(4), reading(-8)];
    assert_eq!(network.refusal(), (PlanRefusal::ClockDisagrees, ""));
    assert!(network.plan().unwrap_err().may_pass());
    // Class A has no windows.
    network.task.options.class = Some(DeviceClass::A);
    network.plan().unwrap();
}

#[test]
fn gateways_that_are_offline_are_not_used() {
    let mut network = Network::new(5_000, 2).with(3, &[(1, 9.0), (2, 8.0)]);
    network.heard.insert(GatewayEui(1), NOW + Duration::ZERO);
    network
        .heard
        .insert(GatewayEui(2), Timestamp::from_unix_seconds(1_799_990_000));
    let plan = network.plan().unwrap();
    assert_eq!(plan.sessions[0].gateways, [GatewayEui(1)]);
    assert_eq!(plan.offline, 0);
    network.devices.push(device(50, &[(2, 9.0)]));
    assert_eq!(network.plan().unwrap().offline, 1);
    // Nobody is left to send.
    network
        .heard
        .insert(GatewayEui(1), Timestamp::from_unix_seconds(1_799_990_000));
    assert_eq!(network.refusal(), (PlanRefusal::GatewaysOffline, ""));
    // Later it may be back.
    network.task.prepare_after = Some(NOW + HOUR);
    assert_eq!(network.plan().unwrap().offline, 4);
}

#[test]
fn a_device_that_only_removed_gateways_heard_is_skipped() {
    let network = Network::new(5_000, 1)
        .with(2, &[(1, 9.0)])
        .with(1, &[(77, 9.0)])
        .with(1, &[]);
    let plan = network.plan().unwrap();
    let skipped: Vec<_> = plan.skipped.iter().map(|s| (s.dev_eui, s.reason)).collect();
    assert_eq!(skipped, [(DevEui(3), DeviceReason::NoGateway)]);
    assert_eq!(plan.unheard, 1);
}

#[test]
fn what_was_spent_puts_the_end_off() {
    // 100 kB at SF7 are 165 s of the 360 s an hour has.
    let idle = Network::new(100_000, 1).with(5, &[(1, 9.0)]);
    let before = idle.plan().unwrap();
    let mut busy = Network::new(100_000, 1).with(5, &[(1, 9.0)]);
    busy.ledgers = vec![spent(1, 4, 350)];
    busy.task.prepare_after = None;
    let after = busy.plan().unwrap();
    let later = after.finish_at.since(before.finish_at);
    assert!(later > HOUR / 4, "{later:?}");
    assert!(after.deadline >= before.deadline + later / 2);
    let air = |plan: &Plan| {
        plan.air
            .iter()
            .find(|a| a.sub_band.id == 4)
            .cloned()
            .unwrap()
    };
    assert_eq!(air(&after).spent.as_secs(), 350);
    assert_eq!(air(&before).spent.as_secs(), 0);
    assert!((160..200).contains(&air(&before).multicast.as_secs()));
    assert!(air(&after).allowed < air(&before).allowed + HOUR / 10);
    // Set-up is counted where RX1 is.
    let rx1 = before.air.iter().find(|a| a.sub_band.id == 2).unwrap();
    assert!(rx1.unicast > Duration::ZERO && rx1.multicast.is_zero());
}

#[test]
fn a_small_share_of_the_air_stretches_a_session() {
    let mut network = Network::new(100_000, 1).with(5, &[(1, 9.0)]);
    let whole = network.plan().unwrap().sessions[0].distribution;
    network.gateways[0].air_share_permille = 50;
    let share = network.plan().unwrap().sessions[0].distribution;
    assert!(share > whole * 8, "{whole:?} {share:?}");
}

#[test]
fn a_large_set_up_waits_for_the_duty_cycle() {
    // At SF12 each device takes several seconds of air, and an hour has 36 and 360.
    let mut network = Network::new(5_000, 1).with(400, &[(1, -18.0)]);
    let many = network.plan().unwrap().sessions[0].setup;
    network.devices.truncate(4);
    let few = network.plan().unwrap().sessions[0].setup;
    assert!(many > HOUR * 3 && few < HOUR, "{many:?} {few:?}");
}

#[test]
fn refused_with_reasons_and_fields() {
    // 2 MB at SF12 are 43 000 fragments.
    let large = Network::new(2_000_000, 1).with(2, &[(1, -12.0)]);
    assert_eq!(large.refusal(), (PlanRefusal::ImageTooLarge, "images"));

    // Six hours do not carry 100 kB at SF12, which takes ten times that long because of the duty cycle.
    let mut slow = Network::new(100_000, 1).with(2, &[(1, -12.0)]);
    slow.task.deadline = Some(NOW + HOUR * 6);
    assert_eq!(slow.refusal(), (PlanRefusal::DutyCycle, "deadline"));
    slow.task.deadline = Some(NOW + HOUR * 48);
    assert!(slow.plan().is_ok());

    // Without duty cycle in the way it is the time alone.
    let mut late = Network::new(1_000, 1).with(2, &[(1, 9.0)]);
    late.task.deadline = Some(NOW + Duration::from_secs(600));
    assert!(matches!(
        late.plan(),
        Err(PlanError::Field {
            field: "deadline",
            ..
        })
    ));

    let mut hurried = Network::new(1_000, 1).with(2, &[(1, 9.0)]);
    hurried.task.window_start = Some(NOW + Duration::from_secs(2));
    assert_eq!(
        hurried.refusal(),
        (PlanRefusal::SetupTooShort, "window_start")
    );

    let mut lossy = Network::new(100_000, 1).with(2, &[(1, 9.0)]);
    for device in &mut lossy.devices {
        device.status.loss_permille = Some(400);
    }
    lossy.task.options.max_redundancy_percent = 10;
    let field = "max_redundancy_percent";
    assert_eq!(lossy.refusal(), (PlanRefusal::Redundancy, field));

    let mut elsewhere = Network::new(1_000, 1).with(2, &[(1, 9.0)]);
    elsewhere.task.options.frequency_hz = Some(868_650_000);
    assert!(matches!(
        elsewhere.plan(),
        Err(PlanError::Field {
            field: "frequency_hz",
            ..
        }) | Err(PlanError::Field {
            field: "data_rate",
            ..
        })
    ));
}

#[test]
fn slow_devices_with_too_many_fragments_do_not_stop_the_others() {
    let network = Network::new(2_000_000, 1)
        .with(5, &[(1, 9.0)])
        .with(1, &[(1, -12.0)]);
    let plan = network.plan().unwrap();
    assert_eq!(plan.sessions.len(), 1);
    assert_eq!(plan.skipped.len(), 1);
    assert_eq!(plan.skipped[0].reason, DeviceReason::DecoderLimit);
}

/// Published for frames at the pace of the duty cycle: class B takes a seventh to an eighth of the energy of class C.
#[test]
fn class_b_costs_devices_a_fraction_of_class_c() {
    let energy = |class| {
        let mut network = Network::new(400_000, 1);
        network.devices = vec![device(1, &[(1, 9.0)])];
        let profile = Arc::make_mut(&mut network.devices[0].profile);
        profile.supports_class_b = true;
        (network.gateways[0].gps, network.gateways[0].beaconing) = (true, true);
        network.task.options.class = Some(class);
        let session = network.plan().unwrap().sessions.remove(0);
        assert_eq!(session.class, class);
        session.outlook.energy_mj
    };
    let [b, c] = [DeviceClass::B, DeviceClass::C].map(energy);
    assert!(b * 4 < c, "{b} {c}");
}

#[test]
fn energy_is_what_the_published_figures_say() {
    // 100 kB in EU868 at SF7 at the pace of the duty cycle: 27.5 min of listening are 29 J; an idle gateway is faster.
    let plan = Network::new(100_000, 1)
        .with(5, &[(1, 9.0)])
        .plan()
        .unwrap();
    let session = &plan.sessions[0];
    let seconds = session.distribution.as_secs_f64();
    let joules = f64::from(session.outlook.energy_mj) / 1000.0;
    assert!(
        (joules / seconds - 0.0175).abs() < 0.003,
        "{joules} J in {seconds} s"
    );
    assert!(session.outlook.worst_energy_mj > session.outlook.energy_mj);
}

#[test]
fn chances_fall_with_time_and_budget() {
    let mut network = Network::new(20_000, 1).with(20, &[(1, 9.0)]);
    let chance = |network: &Network| {
        let plan = network.plan().unwrap();
        plan.sessions[0].outlook.by_deadline_permille
    };
    assert!(chance(&network) > 950);
    for device in &mut network.devices {
        device.status.loss_permille = Some(300);
    }
    network.task.options.max_redundancy_percent = 22;
    let short = chance(&network);
    assert!((50..950).contains(&short), "{short}");
}

#[test]
fn ranges_are_in_order_and_hold_the_middle() {
    for loss in [0, 10, 100, 300] {
        let mut network = Network::new(20_000, 2).with(30, &[(1, 9.0), (2, 4.0)]);
        for device in &mut network.devices {
            device.status.loss_permille = Some(loss);
        }
        let plan = network.plan().unwrap();
        let (end, session) = (plan.finish, &plan.sessions[0]);
        assert!(
            end.low <= end.expected && end.expected <= end.high,
            "{end:?}"
        );
        assert_eq!(plan.finish_at, end.expected);
        let frames = session.frames;
        assert!(frames.low <= frames.expected && frames.expected <= frames.high);
        assert!(frames.low >= u32::from(session.block.nb_frag));
        assert!(plan.deadline > end.high);
    }
}

#[test]
fn gateways_that_no_device_hears_both_of_share_a_turn() {
    let all = [1, 2, 3].map(GatewayEui);
    let turns_of = |heard: &[&[u64]]| {
        let devices: Vec<FleetDevice> = (1..)
            .zip(heard)
            .map(|(number, by)| {
                let links: Vec<(u64, f32)> = by.iter().map(|eui| (*eui, 5.0)).collect();
                device(number, &links)
            })
            .collect();
        let turns = link::turns(devices.iter(), &all);
        all.map(|eui| turns[&eui])
    };
    assert_eq!(turns_of(&[&[1, 2], &[2, 3]]), [0, 1, 0]);
    assert_eq!(turns_of(&[&[1], &[2], &[3]]), [0, 0, 0]);
    assert_eq!(turns_of(&[&[1, 2, 3]]), [0, 1, 2]);
}
