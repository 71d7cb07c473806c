//! One task in a random world, checked: what `fuota-sim check` and the test suite run by the hundred.
//!
//! A seed decides everything: fleet, versions, loss, faults. A run passes when no property was broken, the task and
//! every device ended, and every device was updated, or had a reason where a fifth of all frames and more is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::firmware::sha256;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::lorawan::keys::{Key128, KeyDerivation};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::lorawan::{
    PackageVersion, clock_sync, firmware_management, fragmentation, multicast_setup,
};
use lorawan_fuota::record::{
    AfterReboot, Change, CleanupState, DecoderLimits, DeviceKeys, DeviceProfile, DeviceSettings,
    DeviceState, FCntReset, FragAlgo, GatewaySettings, Image, ImageContainer, JoinState,
    LorawanVersion, MulticastKeys, Package, Packages, RebootMode, Sha256, StatusInterpretation,
    SuccessCriterion, Task, TaskCounters, TaskDevice, TaskId, TaskOptions, TaskState, TenantId,
    VersionSource,
};
use lorawan_fuota::runtime::{Command, NewDevice};
use lorawan_fuota::time::Timestamp;

use crate::channel::{Channel, ChannelConfig};
use crate::device::{Activation, DeviceConfig, EndDevice, StatusStyle};
use crate::fleet::{Fleet, FleetOptions, NEW_VERSION};
use crate::gateway::{Gateway, GatewayConfig};
use crate::lab::Lab;
use crate::random::Random;
use crate::world::{Faults, Violation, World};

/// What a world is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CheckOptions {
    /// The fleet.
    pub fleet: FleetOptions,
    /// The devices answer as LoRa Basics Modem does.
    pub basics_modem: bool,
    /// Bytes of firmware in the image.
    pub image_bytes: usize,
    /// Each device is in reach of one gateway only; of all if not.
    pub spread: bool,
    /// From the start of the task to its window, however few are ready by then; the planner's choice if `None`.
    pub window_after: Option<Duration>,
    /// Whether the task asks for the Reed-Solomon code, and what the devices know of it.
    pub reed_solomon: ReedSolomon,
    /// What strikes once the task has begun.
    pub faults: Faults,
}

/// What a task asks for, and what devices claim and know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReedSolomon {
    /// Not asked for; no device knows it.
    #[default]
    No,
    /// Asked for; all devices claim and know it.
    Known,
    /// Asked for; all devices claim it, every other one does not know it.
    Refused,
    /// Asked for; every other device claims and knows it.
    Mixed,
}

impl ReedSolomon {
    fn is_claimed_by(self, dev_eui: DevEui) -> bool {
        match self {
            Self::No => false,
            Self::Known | Self::Refused => true,
            Self::Mixed => is_other(dev_eui),
        }
    }

    fn is_known_by(self, dev_eui: DevEui) -> bool {
        match self {
            Self::No => false,
            Self::Known => true,
            Self::Refused | Self::Mixed => is_other(dev_eui),
        }
    }
}

/// Every other device.
fn is_other(dev_eui: DevEui) -> bool {
    dev_eui.0.is_multiple_of(2)
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The task at its end, or where it stuck.
    pub task: Task,
    /// Its devices.
    pub devices: Vec<TaskDevice>,
    /// The `FragAlgo` each device was asked to decode, in order, and what it answered: `7: refused`.
    pub codes: BTreeMap<DevEui, Vec<String>>,
    /// Properties broken.
    pub violations: Vec<Violation>,
    /// Times the server died.
    pub crashes: u32,
    /// Transactions committed.
    pub commits: u64,
    /// From the start of the task to its end, in virtual time.
    pub duration: Duration,
}

const TASK: &str = "check";
const PROFILE: &str = "check";
/// Loss beyond which a device need not be updated, only told about.
const OUT_OF_REACH: f64 = 0.2;
/// How far a clock that was set may be off: fractions of seconds are not corrected.
const CLOCK_TOLERANCE_US: i64 = 2_000_000;
/// Every task ends within a day of virtual time, whatever strikes.
const LONGEST: Duration = Duration::from_secs(86_400);

impl CheckOptions {
    /// The world of a seed.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::of(seed, 0xc4ec);
        let us915 = random.chance(0.4);
        let v2 = random.chance(0.5);
        let rare = |random: &mut Random, most: f64| {
            if random.chance(0.5) {
                0.0
            } else {
                most * f64::from(u32::try_from(random.below(100)).unwrap_or(0)) / 100.0
            }
        };
        let fleet = FleetOptions {
            seed,
            devices: 1 + u32::try_from(random.below(8)).unwrap_or(0),
            gateways: 1 + u32::try_from(random.below(3)).unwrap_or(0),
            loss: rare(&mut random, 0.3),
            region: if us915 { Region::Us915 } else { Region::Eu868 },
            data_rate: if us915 { 13 } else { 5 },
            uplink_interval: Duration::from_secs(20 + random.below(100)),
            packages: if v2 {
                PackageVersion::V2
            } else {
                PackageVersion::V1
            },
        };
        let faults = Faults {
            commit_fails: rare(&mut random, 0.02),
            commit_fails_late: rare(&mut random, 0.02),
            crash_before_commit: rare(&mut random, 0.02),
            crash_after_commit: rare(&mut random, 0.02),
            ack_lost: rare(&mut random, 0.2),
            restart_after: Duration::from_secs(1 + random.below(20)),
        };
        let image_bytes = 500 + usize::try_from(random.below(8000)).unwrap_or(0);
        Self {
            fleet,
            basics_modem: random.chance(0.25),
            image_bytes,
            // Less than setting up takes, so that many are late.
            window_after: random
                .chance(0.3)
                .then(|| Duration::from_secs(30 + random.below(120))),
            spread: random.chance(0.3),
            reed_solomon: ReedSolomon::No,
            faults,
        }
    }
}

/// Runs one world to the end of its task.
///
/// # Panics
/// The world cannot be set up at all; that is a defect of the simulator.
pub fn run(options: &CheckOptions) -> Outcome {
    let start = Timestamp::from_unix_seconds(1_800_000_000);
    let fleet = Fleet::new(options.fleet);
    let mut world = World::new(
        lab(options, &fleet, start),
        start,
        options.fleet.seed,
        options.faults,
    );
    enter(&mut world, options, &fleet, start);
    world.run_until(Duration::from_secs(30), |_| false);
    let (image, data) = image(options, &fleet, start);
    let task = task(options, &image, world.now());
    world.commit(&[
        Change::PutImage(image.clone(), Arc::clone(&data)),
        Change::PutTask(task.clone()),
    ]);
    world.release_faults();
    let id = task.id.clone();
    let begun = world.now();
    let devices = fleet.devices.iter().map(|d| d.dev_eui).collect();
    let command = Command::StartTask {
        task: Box::new(task.clone()),
        image: (image, data),
        devices,
        groups: vec![],
    };
    // A commit of unknown fate may have started it already.
    let refused = world.command(&command).err();
    let ended = world.run_until(LONGEST, |w| {
        w.task(&id).is_some_and(|t| t.state.is_terminal())
    });
    let task = world.task(&id).unwrap_or(task);
    let devices = world.task_devices(&id);
    let mut violations = world.violations();
    let mut broken = |what: String| {
        violations.push(Violation {
            at: world.now(),
            what,
        })
    };
    if !ended {
        broken(format!(
            "the task has not ended within a day: {:?}, start refused: {refused:?}",
            task.state
        ));
    }
    for device in &devices {
        check_device(&world, options, device, &mut broken);
    }
    for (gateway, breaches) in world.lab(breaches) {
        broken(format!("gateway {gateway}: {breaches}"));
    }
    Outcome {
        duration: world.now().since(begun),
        crashes: world.crashes(),
        commits: world.commits(),
        codes: world.lab(codes),
        task,
        devices,
        violations,
    }
}

fn check_device(
    world: &World,
    options: &CheckOptions,
    device: &TaskDevice,
    broken: &mut impl FnMut(String),
) {
    let dev_eui = device.dev_eui;
    // Where so much is lost, a device may stay out of reach for a whole task; it has to end with its reason then.
    let out_of_reach = options.fleet.loss > OUT_OF_REACH && device.reason.is_some();
    if device.state != DeviceState::Running && !out_of_reach {
        broken(format!(
            "device {dev_eui} ended {:?} ({:?}): {}",
            device.state, device.reason, device.evidence
        ));
    }
    world.lab(|lab| {
        let Some(real) = lab.device(dev_eui) else {
            return;
        };
        if device.state == DeviceState::Running && real.running_version() != NEW_VERSION.to_ts006()
        {
            broken(format!(
                "device {dev_eui} is RUNNING but runs {:#010x}",
                real.running_version()
            ));
        }
        // Both the network and the server give the time; together they must not give it twice.
        let off_us = real.clock().gps_us(world.now()) - world.now().to_gps().as_micros();
        if real.clock().is_set() && off_us.abs() > CLOCK_TOLERANCE_US {
            broken(format!(
                "the clock of device {dev_eui} is off by {off_us} us"
            ));
        }
        let group = real.mc_groups().iter().flatten().count();
        if device.group_cleanup == CleanupState::Confirmed && group > 0 {
            broken(format!(
                "device {dev_eui} still has a group although its deletion is confirmed"
            ));
        }
    });
}

/// What the devices remember of their fragmentation sessions.
fn codes(lab: &Lab) -> BTreeMap<DevEui, Vec<String>> {
    let of = |device: &EndDevice| {
        let said = device.log().iter();
        let codes = said.filter_map(|(_, text)| Some(text.split_once("FragAlgo ")?.1.to_owned()));
        (device.dev_eui(), codes.collect())
    };
    lab.devices().map(of).collect()
}

fn breaches(lab: &Lab) -> Vec<(lorawan_fuota::lorawan::identifiers::GatewayEui, String)> {
    let broke = lab.gateways().iter().filter(|g| !g.breaches().is_empty());
    broke
        .map(|g| (g.eui(), format!("{:?}", g.breaches())))
        .collect()
}

fn lab(options: &CheckOptions, fleet: &Fleet, start: Timestamp) -> Lab {
    let seed = options.fleet.seed;
    let devices = fleet.devices.iter().cloned().map(|mut config| {
        if options.basics_modem {
            config.status_style = StatusStyle::LoraBasicsModem;
        }
        config.limits.reed_solomon = options.reed_solomon.is_known_by(config.dev_eui);
        EndDevice::new(config, seed, start)
    });
    let gateways = fleet
        .gateways
        .iter()
        .map(|eui| Gateway::new(GatewayConfig::new(*eui, options.fleet.region)));
    let channel = ChannelConfig {
        uplink_loss: options.fleet.loss,
        downlink_loss: options.fleet.loss,
        collisions: true,
    };
    let mut lab = Lab::new(
        devices.collect(),
        gateways.collect(),
        Channel::new(channel, seed),
    );
    if options.spread {
        for (at, device) in fleet.devices.iter().enumerate() {
            let own = at % fleet.gateways.len().max(1);
            for (_, gateway) in (0..).zip(&fleet.gateways).filter(|(at, _)| *at != own) {
                lab.channel_mut().set_link(*gateway, device.dev_eui, None);
            }
        }
    }
    lab
}

fn enter(world: &mut World, options: &CheckOptions, fleet: &Fleet, start: Timestamp) {
    let mut commands = vec![Command::PutDeviceProfile(profile(options, false))];
    if options.reed_solomon != ReedSolomon::No {
        commands.push(Command::PutDeviceProfile(profile(options, true)));
    }
    commands.extend(fleet.gateways.iter().map(|eui| {
        Command::PutGateway(GatewaySettings {
            eui: *eui,
            display_name: String::new(),
            region: options.fleet.region,
            position: None,
            antenna_gain_dbi: 0.0,
            cable_loss_db: 0.0,
            max_eirp_dbm: None,
            gps: false,
            beaconing: false,
            lead_time: Duration::from_millis(300),
            air_share_permille: 1000,
            created_at: start,
            tags: BTreeMap::new(),
            updated_at: start,
        })
    }));
    commands.push(Command::PutDevices(
        fleet
            .devices
            .iter()
            .map(|d| new_device(d, options.reed_solomon.is_claimed_by(d.dev_eui), start))
            .collect(),
    ));
    for command in commands {
        world
            .command(&command)
            .expect("the world takes its own fleet");
    }
}

fn profile(options: &CheckOptions, reed_solomon: bool) -> DeviceProfile {
    let package = |version, f_port| Some(Package { version, f_port });
    let version = options.fleet.packages;
    DeviceProfile {
        tenant: TenantId::default(),
        id: profile_id(reed_solomon),
        display_name: String::new(),
        lorawan_version: LorawanVersion::V1_0_4,
        region: options.fleet.region,
        supports_class_b: false,
        supports_class_c: true,
        always_class_c: false,
        packages: Packages {
            clock_sync: package(version, clock_sync::DEFAULT_F_PORT),
            multicast_setup: package(version, multicast_setup::DEFAULT_F_PORT),
            fragmentation: package(version, fragmentation::DEFAULT_F_PORT),
            firmware_management: package(PackageVersion::V1, firmware_management::DEFAULT_F_PORT),
        },
        limits: DecoderLimits {
            max_nb_frag: 16_383,
            max_frag_size: 242,
            max_lost: None,
            max_groups: 4,
            max_frag_sessions: 4,
            reed_solomon,
        },
        status_interpretation: if options.basics_modem {
            StatusInterpretation::LoraBasicsModem
        } else {
            StatusInterpretation::Spec
        },
        uplink_interval: options.fleet.uplink_interval,
        after_reboot: AfterReboot {
            rejoins: true,
            f_cnt_reset: FCntReset::Refuse,
            loses_groups: true,
        },
        version_source: VersionSource::FirmwareManagement,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    }
}

fn profile_id(reed_solomon: bool) -> String {
    let suffix = if reed_solomon { "-reed-solomon" } else { "" };
    format!("{PROFILE}{suffix}")
}

fn new_device(device: &DeviceConfig, reed_solomon: bool, start: Timestamp) -> NewDevice {
    let join = match &device.activation {
        Activation::Otaa {
            join_eui, app_key, ..
        } => Some(JoinState {
            join_eui: *join_eui,
            app_key: app_key.clone(),
            next_join_nonce: 1,
            dev_nonces: Default::default(),
            last_dev_nonce: None,
        }),
        Activation::Abp { .. } => None,
    };
    let multicast = MulticastKeys::Root {
        key: device.gen_app_key.clone(),
        derivation: KeyDerivation::GenAppKey,
    };
    NewDevice {
        settings: DeviceSettings {
            tenant: TenantId::default(),
            dev_eui: device.dev_eui,
            profile: profile_id(reed_solomon),
            display_name: String::new(),
            model: String::new(),
            tags: BTreeMap::new(),
            created_at: start,
            updated_at: start,
        },
        keys: Some(DeviceKeys {
            dev_eui: device.dev_eui,
            multicast,
        }),
        join,
        session: None,
        versions: None,
    }
}

fn image(options: &CheckOptions, fleet: &Fleet, start: Timestamp) -> (Image, Arc<[u8]>) {
    let mut random = Random::of(options.fleet.seed, 0x1aa6e);
    let body: Vec<u8> = (0..options.image_bytes)
        .map(|_| random.next_u64().to_le_bytes()[0])
        .collect();
    let data = fleet.image(&body).expect("the body is small");
    let image = Image {
        tenant: TenantId::default(),
        sha256: Sha256(sha256(&data)),
        size_bytes: u32::try_from(data.len()).unwrap_or(u32::MAX),
        container: ImageContainer::Mcuboot,
        file_name: String::new(),
        model: String::new(),
        component: "main".to_owned(),
        target_version: NEW_VERSION.to_ts006(),
        version_text: NEW_VERSION.to_string(),
        annotations: BTreeMap::new(),
        created_at: start,
    };
    (image, data.into())
}

fn task(options: &CheckOptions, image: &Image, start: Timestamp) -> Task {
    Task {
        tenant: TenantId::default(),
        id: TaskId(TASK.to_owned()),
        display_name: String::new(),
        images: vec![image.sha256],
        groups: vec![],
        success: SuccessCriterion::Running,
        reboot: RebootMode::Countdown {
            after: Duration::from_secs(10),
        },
        prepare_after: None,
        window_start: options.window_after.map(|after| start + after),
        deadline: None,
        options: TaskOptions {
            data_rate: Some(options.fleet.data_rate),
            frag_algo: match options.reed_solomon {
                ReedSolomon::No => FragAlgo::Ts004,
                _ => FragAlgo::ReedSolomon,
            },
            ..TaskOptions::default()
        },
        state: TaskState::Draft,
        reason: None,
        reason_text: String::new(),
        sequence: 0,
        counters: TaskCounters::default(),
        created_at: start,
        started_at: None,
        ended_at: None,
        seed: Some(Key128::from_bytes(
            Random::of(options.fleet.seed, 0x5eed).key(),
        )),
        tags: BTreeMap::new(),
        updated_at: start,
        expected_end: None,
    }
}
