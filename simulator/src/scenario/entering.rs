//! What an operator enters of a scenario: gateways, profiles, devices, the image and the task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::firmware::{McubootBuilder, sha256};
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::lorawan::{
    PackageVersion, clock_sync, firmware_management, fragmentation, multicast_setup,
};
use lorawan_fuota::record::{
    AfterReboot, Blackout, Calendar, DecoderLimits, DeviceProfile, FCntReset, GatewaySettings,
    Image, ImageContainer, ImageFacts, Package, Packages, RebootMode, Release, ReleaseState,
    Sha256, Task, TaskCounters, TaskId, TaskRules, TaskState, TenantId, VersionSource, WavePolicy,
};
use lorawan_fuota::runtime::NewDevice;
use lorawan_fuota::time::Timestamp;

use crate::check::{VERSION_FIELD, new_device};
use crate::device::{FragmentationLimits, SessionAfterReboot};
use crate::random::Random;

use super::building::{PlacedDevice, Site};
use super::{Group, GroupClass, ImageContent, RebootPlan, Scenario};

/// The task of a scenario.
const TASK: &str = "scenario";

impl Site {
    /// The profiles of all groups as an operator enters them.
    pub fn profiles(&self, scenario: &Scenario) -> Vec<DeviceProfile> {
        let groups = scenario.groups.iter();
        groups
            .map(|group| profile(group, scenario.region))
            .collect()
    }

    /// The gateways as an operator enters them.
    pub fn gateway_settings(&self, scenario: &Scenario, now: Timestamp) -> Vec<GatewaySettings> {
        let plans = scenario.gateways.iter().zip(&self.gateways);
        let settings = plans.map(|(plan, placed)| GatewaySettings {
            eui: placed.eui,
            display_name: plan.name.clone(),
            region: scenario.region,
            position: None,
            antenna_gain_dbi: f32::from(plan.antenna_gain_db),
            cable_loss_db: 0.0,
            max_eirp_dbm: None,
            gps: plan.gps,
            beaconing: plan.beacons,
            lead_time: Duration::from_millis(300),
            air_share_permille: plan.air_share_permille,
            created_at: now,
            tags: BTreeMap::new(),
            updated_at: now,
        });
        settings.collect()
    }

    /// The devices as an operator enters them.
    pub fn new_devices(&self, scenario: &Scenario, now: Timestamp) -> Vec<NewDevice> {
        let devices = self.devices.iter().zip(&self.configs);
        let new = devices.map(|(placed, config)| {
            let group = &scenario.groups[placed.group];
            new_device(config, group.name.clone(), now)
        });
        new.collect()
    }

    /// The devices of the task.
    pub fn devices_of_task(&self, scenario: &Scenario) -> Vec<DevEui> {
        let in_task = |device: &&PlacedDevice| scenario.groups[device.group].in_task;
        let devices = self.devices.iter().filter(in_task);
        devices.map(|device| device.dev_eui).collect()
    }

    /// The image.
    ///
    /// # Panics
    /// The body does not fit the format: it is shorter than any image a file may ask for.
    pub fn image(&self, scenario: &Scenario, now: Timestamp) -> (Image, Arc<[u8]>) {
        let plan = &scenario.image;
        let build = |body: Vec<u8>| {
            let builder = McubootBuilder::new(body, plan.version);
            let builder = if plan.signed {
                builder.sign_ed25519(&self.signing_seed)
            } else {
                builder
            };
            builder.build().expect("a body of at most 2 MB")
        };
        let data = match &plan.content {
            ImageContent::Random(bytes) => build(self.random_bytes(*bytes)),
            ImageContent::Whole(bytes) => {
                let frame = build(vec![0]).len() - 1;
                let frame = u32::try_from(frame).unwrap_or(0);
                build(self.random_bytes(bytes.saturating_sub(frame)))
            }
            ImageContent::Body(body) => build(body.clone()),
            ImageContent::Finished(image) => image.clone(),
        };
        let image = Image {
            tenant: TenantId::default(),
            sha256: Sha256(sha256(&data)),
            size_bytes: u32::try_from(data.len()).unwrap_or(u32::MAX),
            container: ImageContainer::Mcuboot,
            file_name: String::new(),
            model: String::new(),
            component: "main".to_owned(),
            target_version: plan.version.to_ts006(),
            version_text: plan.version.to_string(),
            annotations: BTreeMap::new(),
            created_at: now,
            facts: ImageFacts::default(),
            release: Release {
                state: ReleaseState::Active,
                ..Release::default()
            },
        };
        (image, data.into())
    }

    fn random_bytes(&self, count: u32) -> Vec<u8> {
        let mut random = Random::of(self.seed, 0x1aa6e);
        (0..count)
            .map(|_| random.next_u64().to_le_bytes()[0])
            .collect()
    }

    /// The draft of the task; `now` is its start.
    pub fn task(&self, scenario: &Scenario, image: &Image, now: Timestamp) -> Task {
        let plan = &scenario.task;
        let canary = self
            .devices
            .iter()
            .filter(|d| plan.canary.contains(&d.group));
        let blackouts = plan.blackouts.iter().map(|(from, to)| Blackout {
            from: now + *from,
            to: now + *to,
        });
        Task {
            tenant: TenantId::default(),
            id: TaskId(TASK.to_owned()),
            display_name: scenario.name.clone(),
            images: vec![image.sha256],
            groups: vec![],
            success: plan.success,
            reboot: match plan.reboot {
                RebootPlan::None => RebootMode::None,
                RebootPlan::Countdown(after) => RebootMode::Countdown { after },
                RebootPlan::At(after) => RebootMode::AtTime {
                    at: (now + after).ceil_gps_second(),
                },
            },
            prepare_after: plan.prepare_after.map(|after| now + after),
            window_start: plan.window_after.map(|after| now + after),
            deadline: plan.deadline.map(|after| now + after),
            options: plan.options.clone(),
            state: TaskState::Draft,
            reason: None,
            reason_text: String::new(),
            sequence: 0,
            counters: TaskCounters::default(),
            created_at: now,
            started_at: None,
            ended_at: None,
            seed: Some(Key128::from_bytes(Random::of(self.seed, 0x5eed).key())),
            tags: BTreeMap::new(),
            updated_at: now,
            expected_end: None,
            retry_of: None,
            waves: WavePolicy {
                canary: canary.map(|device| device.dev_eui).collect(),
                cumulative_percent: plan.cumulative_percent.clone(),
                approval: plan.approval,
                pause_between: plan.pause_between,
            },
            thresholds: plan.thresholds,
            failures_accepted: Default::default(),
            held: None,
            resumed_at: None,
            waiting: None,
            deltas: vec![],
            rules: Box::new(TaskRules {
                retry: plan.retry.clone(),
                calendar: Calendar {
                    utc_offset_minutes: plan.utc_offset_minutes,
                    weekly: plan.weekly.clone(),
                    blackouts: blackouts.collect(),
                },
                tags_on_success: BTreeMap::new(),
            }),
        }
    }
}

/// The profile of a group as an operator enters it.
fn profile(group: &Group, region: Region) -> DeviceProfile {
    let package = |version: Option<PackageVersion>, f_port| {
        version.map(|version| Package { version, f_port })
    };
    let packages = group.stack.packages;
    let managed = packages.firmware_management.then_some(PackageVersion::V1);
    let all = FragmentationLimits::default();
    let told = if group.limits_known {
        group.limits
    } else {
        all
    };
    DeviceProfile {
        tenant: TenantId::default(),
        id: group.name.clone(),
        display_name: String::new(),
        lorawan_version: group.lorawan_version,
        region,
        supports_class_b: group.class == GroupClass::B,
        supports_class_c: true,
        always_class_c: group.class == GroupClass::C,
        packages: Packages {
            clock_sync: package(packages.clock_sync, clock_sync::DEFAULT_F_PORT),
            multicast_setup: package(packages.multicast_setup, multicast_setup::DEFAULT_F_PORT),
            fragmentation: package(packages.fragmentation, fragmentation::DEFAULT_F_PORT),
            firmware_management: package(managed, firmware_management::DEFAULT_F_PORT),
        },
        limits: DecoderLimits {
            max_nb_frag: told.nb_frag_max,
            max_frag_size: told.frag_size_max,
            max_lost: (told.lost_max < all.lost_max).then_some(told.lost_max),
            max_groups: told.mc_group_count,
            max_frag_sessions: told.frag_index_count,
            reed_solomon: told.reed_solomon,
            keeps_blocks: false,
        },
        status_interpretation: group.stack.status_interpretation,
        uplink_interval: group.uplink_interval,
        after_reboot: AfterReboot {
            rejoins: group.session_after_reboot == SessionAfterReboot::Rejoin,
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
    }
}
