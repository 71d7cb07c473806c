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
    AfterReboot, DecoderLimits, DeviceClass, DeviceKeys, DeviceProfile, DeviceSettings, FCntReset,
    FragAlgo, GatewaySettings, Image, ImageContainer, ImageFacts, JoinState, LorawanVersion,
    MulticastKeys, Package, Packages, RebootMode, Release, ReleaseState, Sha256,
    StatusInterpretation, SuccessCriterion, Task, TaskCounters, TaskDevice, TaskId, TaskOptions,
    TaskState, TenantId, UplinkField, VersionSource,
};
use lorawan_fuota::runtime::{Command, NewDevice};
use lorawan_fuota::time::Timestamp;

use crate::channel::{Channel, ChannelConfig};
use crate::checkers::{Event, Violation};
use crate::device::{Activation, DeviceConfig, EndDevice, StackProfile};
use crate::fleet::{Fleet, FleetOptions, NEW_VERSION, Stacks};
use crate::gateway::{Gateway, GatewayConfig};
use crate::image_set::ImageSet;
use crate::lab::Lab;
use crate::random::Random;
use crate::scene;
use crate::world::{Faults, World};

/// What a world is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CheckOptions {
    /// The fleet.
    pub fleet: FleetOptions,
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
    /// Share of each gateway's air the server may use.
    pub air_share_permille: u16,
    /// Class of the sessions. For class B the gateways send beacons, and the devices listen for them.
    pub class: DeviceClass,
    /// The gateways have GPS time, and send at one instant.
    pub gps: bool,
    /// An earlier task has brought the same devices the image, and left its groups on them if it could. Faults strike
    /// after it.
    pub kept_groups: bool,
    /// Each device is in reach of one to so many gateways that are neighbours, drawn for it, and of no other.
    /// `None`: of all.
    pub reach: Option<u32>,
    /// What the task brings.
    pub images: ImageSet,
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
    /// What happened, where that was asked for.
    pub events: Vec<Event>,
}

const TASK: &str = "check";
/// Where the simulated devices tell their version.
pub(crate) const VERSION_FIELD: UplinkField = UplinkField {
    f_port: 2,
    offset: 0,
    length: 4,
    big_endian: true,
};

impl Default for CheckOptions {
    /// A quiet world: the default fleet with a small image, and nothing goes wrong but what the air loses.
    fn default() -> Self {
        Self {
            fleet: FleetOptions::default(),
            image_bytes: 4096,
            spread: false,
            window_after: None,
            reed_solomon: ReedSolomon::No,
            faults: Faults::default(),
            air_share_permille: 1000,
            class: DeviceClass::C,
            gps: false,
            kept_groups: false,
            reach: None,
            images: ImageSet::One,
        }
    }
}

impl CheckOptions {
    /// A world of this fleet without any fault.
    pub fn plain(fleet: FleetOptions) -> Self {
        Self {
            fleet,
            ..Self::default()
        }
    }

    /// The world of a seed.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::of(seed, 0xc4ec);
        let us915 = random.chance(0.4);
        let stacks = stacks(&mut random);
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
            stacks,
        };
        let faults = Faults {
            commit_fails: rare(&mut random, 0.02),
            commit_fails_late: rare(&mut random, 0.02),
            crash_before_commit: rare(&mut random, 0.02),
            crash_after_commit: rare(&mut random, 0.02),
            ack_lost: rare(&mut random, 0.2),
            restart_after: Duration::from_secs(1 + random.below(20)),
            ..Faults::default()
        };
        let image_bytes = 500 + usize::try_from(random.below(8000)).unwrap_or(0);
        Self {
            fleet,
            image_bytes,
            // Less than setting up takes, so that many are late.
            window_after: random
                .chance(0.3)
                .then(|| Duration::from_secs(30 + random.below(120))),
            spread: random.chance(0.3),
            reed_solomon: ReedSolomon::No,
            faults,
            air_share_permille: 1000,
            class: DeviceClass::C,
            gps: false,
            kept_groups: false,
            reach: None,
            images: ImageSet::One,
        }
        .with_troubles()
    }
}

impl CheckOptions {
    /// The fleet is so slow that the image takes more air than its sub-band allows within an hour.
    pub fn spends_duty_cycle(&self) -> bool {
        self.fleet.region == Region::Eu868 && self.fleet.data_rate == 0 && self.image_bytes > 6000
    }

    /// Adds the rarer faults, drawn apart so that they change nothing else of the seed's world.
    fn with_troubles(mut self) -> Self {
        self.faults.strike(self.fleet.seed);
        let mut random = Random::of(self.fleet.seed, 0xa1e5);
        if random.chance(0.15) {
            self.air_share_permille = u16::try_from(100 + random.below(500)).unwrap_or(1000);
        }
        // So slow that the duty cycle of the sub-band is spent before the image is through.
        if random.chance(0.03) && self.fleet.region == Region::Eu868 {
            self.fleet.data_rate = 0;
            self.image_bytes = 6500;
            self.air_share_permille = 1000;
        }
        self.gps = random.chance(0.15);
        if random.chance(0.08) && self.fleet.stacks.run_class_b() {
            (self.class, self.gps) = (DeviceClass::B, true);
        } else if random.chance(0.06) {
            // One fragment in each answer: that takes a day in large images.
            self.class = DeviceClass::A;
            self.image_bytes = self.image_bytes.min(2_000);
        }
        // Devices without TS006 would run the image of the earlier task.
        let managed = self.fleet.stacks.have_firmware_management();
        self.kept_groups = random.chance(0.12) && managed && self.class != DeviceClass::A;
        self.with_images()
    }

    /// Has the task bring these images. Devices without TS006 install by themselves, and so none of several together;
    /// groups that an earlier task has left are tried with one image alone.
    pub fn bring(&mut self, images: ImageSet) {
        let together = matches!(images, ImageSet::Together(_));
        self.images = match together && !self.fleet.stacks.have_firmware_management() {
            true => ImageSet::InTurn,
            false => images,
        };
        self.kept_groups &= self.images == ImageSet::One;
    }

    /// Several images, in one world of ten. Where a device spends days on one, one is enough.
    fn with_images(mut self) -> Self {
        let mut random = Random::of(self.fleet.seed, 0x13a6e5);
        let quick = self.class != DeviceClass::A && !self.spends_duty_cycle() && !self.kept_groups;
        if random.chance(0.9) || !quick {
            return self;
        }
        self.bring(match random.index(4) {
            0 => ImageSet::InTurn,
            parts => ImageSet::Together(u8::try_from(parts).unwrap_or(1)),
        });
        self
    }
}

/// Each stack as often as the other, and as often a mix; devices by the book twice as often.
fn stacks(random: &mut Random) -> Stacks {
    let all = StackProfile::ALL;
    match random.index(all.len() + 3) {
        number if number < all.len() => Stacks::One(all[number]),
        number if number == all.len() => Stacks::Mix,
        number => Stacks::One(if number.is_multiple_of(2) {
            StackProfile::SpecV1
        } else {
            StackProfile::SpecV2
        }),
    }
}

/// Runs one world to the end of its task.
///
/// # Panics
/// The world cannot be set up at all; that is a defect of the simulator.
pub fn run(options: &CheckOptions) -> Outcome {
    scene::run(options, false)
}

/// As [`run`], keeping what happened.
///
/// # Panics
/// As [`run`].
pub fn run_logged(options: &CheckOptions) -> Outcome {
    scene::run(options, true)
}

/// What the devices remember of their fragmentation sessions.
pub(crate) fn codes(lab: &Lab) -> BTreeMap<DevEui, Vec<String>> {
    let of = |device: &EndDevice| {
        let said = device.log().iter();
        let codes = said.filter_map(|(_, text)| Some(text.split_once("FragAlgo ")?.1.to_owned()));
        (device.dev_eui(), codes.collect())
    };
    lab.devices().map(of).collect()
}

pub(crate) fn lab(options: &CheckOptions, fleet: &Fleet, start: Timestamp) -> Lab {
    let seed = options.fleet.seed;
    let devices = fleet.devices.iter().cloned().map(|mut config| {
        config.limits.reed_solomon = options.reed_solomon.is_known_by(config.dev_eui);
        config.class_b = options.class == DeviceClass::B;
        options.images.change_device(&mut config);
        EndDevice::new(config, seed, start)
    });
    let gateways = fleet.gateways.iter().map(|eui| {
        let mut gateway = Gateway::new(GatewayConfig {
            gps: options.gps,
            beaconing: options.class == DeviceClass::B,
            ..GatewayConfig::new(*eui, options.fleet.region)
        });
        gateway.start_beacons(start);
        gateway
    });
    let channel = ChannelConfig {
        uplink_loss: options.fleet.loss,
        downlink_loss: options.fleet.loss,
        collisions: true,
    };
    let channel = match options.reach {
        Some(most) => near(Channel::closed(channel, seed), fleet, most),
        None => Channel::new(channel, seed),
    };
    let mut lab = Lab::new(devices.collect(), gateways.collect(), channel);
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

/// Links to one to `most` gateways for each device: half of them reach one, the others as likely any number more.
fn near(mut channel: Channel, fleet: &Fleet, most: u32) -> Channel {
    let mut random = Random::of(fleet.options.seed, 0x4ea4);
    let count = fleet.gateways.len();
    for device in &fleet.devices {
        let home = random.index(count);
        let more = if random.chance(0.5) {
            0
        } else {
            usize::try_from(random.below(u64::from(most))).unwrap_or(0)
        };
        for n in 0..(1 + more).min(count) {
            channel.open_link(fleet.gateways[(home + n) % count], device.dev_eui);
        }
    }
    channel
}

pub(crate) fn enter(world: &mut World, options: &CheckOptions, fleet: &Fleet, start: Timestamp) {
    let claims: &[bool] = match options.reed_solomon {
        ReedSolomon::No => &[false],
        _ => &[false, true],
    };
    let mut commands = Vec::new();
    for stack in fleet.distinct_stacks() {
        let profiles = claims.iter().map(|claim| profile(options, stack, *claim));
        commands.extend(profiles.map(Command::PutDeviceProfile));
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
            gps: options.gps,
            beaconing: options.class == DeviceClass::B,
            lead_time: Duration::from_millis(300),
            air_share_permille: options.air_share_permille,
            created_at: start,
            tags: BTreeMap::new(),
            updated_at: start,
        })
    }));
    commands.push(Command::PutDevices(
        fleet
            .devices
            .iter()
            .zip(&fleet.stacks)
            .map(|(device, stack)| {
                let claims = options.reed_solomon.is_claimed_by(device.dev_eui);
                new_device(device, profile_id(*stack, claims), start)
            })
            .collect(),
    ));
    for command in commands {
        world
            .command(&command)
            .expect("the world takes its own fleet");
    }
}

/// What an operator would enter for a stack, and for one whose devices claim the Reed-Solomon code.
pub(crate) fn profile(
    options: &CheckOptions,
    stack: StackProfile,
    reed_solomon: bool,
) -> DeviceProfile {
    let package = |version: Option<PackageVersion>, f_port| {
        version.map(|version| Package { version, f_port })
    };
    let packages = stack.packages();
    let managed = packages.firmware_management.then_some(PackageVersion::V1);
    let mut profile = DeviceProfile {
        tenant: TenantId::default(),
        id: profile_id(stack, reed_solomon),
        display_name: String::new(),
        lorawan_version: LorawanVersion::V1_0_4,
        region: options.fleet.region,
        supports_class_b: options.class == DeviceClass::B,
        supports_class_c: true,
        always_class_c: false,
        packages: Packages {
            clock_sync: package(packages.clock_sync, clock_sync::DEFAULT_F_PORT),
            multicast_setup: package(packages.multicast_setup, multicast_setup::DEFAULT_F_PORT),
            fragmentation: package(packages.fragmentation, fragmentation::DEFAULT_F_PORT),
            firmware_management: package(managed, firmware_management::DEFAULT_F_PORT),
        },
        limits: DecoderLimits {
            max_nb_frag: 16_383,
            max_frag_size: 242,
            max_lost: None,
            max_groups: 4,
            max_frag_sessions: 4,
            reed_solomon,
            keeps_blocks: false,
        },
        status_interpretation: match stack {
            StackProfile::SpecV1 | StackProfile::SpecV2 => StatusInterpretation::Spec,
            StackProfile::LoramacNode => StatusInterpretation::LoramacNode,
            StackProfile::BasicsModemV1 | StackProfile::BasicsModemV2 => {
                StatusInterpretation::LoraBasicsModem
            }
            StackProfile::Zephyr => StatusInterpretation::Zephyr,
        },
        uplink_interval: options.fleet.uplink_interval,
        after_reboot: AfterReboot {
            rejoins: true,
            f_cnt_reset: FCntReset::Refuse,
            loses_groups: true,
        },
        version_source: if managed.is_some() {
            VersionSource::FirmwareManagement
        } else {
            VersionSource::UplinkField(VERSION_FIELD)
        },
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
        application_reboot: None,
        components: Vec::new(),
        descriptor: Default::default(),
    };
    options.images.change_profile(&mut profile);
    profile
}

pub(crate) fn profile_id(stack: StackProfile, reed_solomon: bool) -> String {
    let suffix = if reed_solomon { "-reed-solomon" } else { "" };
    format!("{}{suffix}", stack.name())
}

pub(crate) fn new_device(device: &DeviceConfig, profile: String, start: Timestamp) -> NewDevice {
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
            profile,
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

pub(crate) fn image(options: &CheckOptions, fleet: &Fleet, start: Timestamp) -> (Image, Arc<[u8]>) {
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
        facts: ImageFacts::default(),
        release: Release {
            state: ReleaseState::Active,
            ..Release::default()
        },
    };
    (image, data.into())
}

pub(crate) fn task(options: &CheckOptions, image: &Image, start: Timestamp) -> Task {
    Task {
        tenant: TenantId::default(),
        id: TaskId(TASK.to_owned()),
        display_name: String::new(),
        images: vec![image.sha256],
        install: options.images.install(),
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
            class: Some(options.class),
            skip_unfit: true,
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
        retry_of: None,
        waves: Default::default(),
        thresholds: Default::default(),
        failures_accepted: Default::default(),
        held: None,
        resumed_at: None,
        waiting: None,
        deltas: vec![],
        rules: Default::default(),
    }
}
