//! A fleet to try a server with: the same devices and gateways as the simulator runs them and as an operator enters
//! them.
//!
//! Everything follows from a seed: EUIs, keys, link quality, the signing key of the image.

use std::time::Duration;

use lorawan_fuota::firmware::{ImageVersion, McubootBuilder, PrivateKey};
use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui, JoinEui};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::proto::v1;

use crate::device::{Activation, Class, DeviceConfig, ImageCheck, StackProfile};
use crate::random::Random;

/// What a fleet is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FleetOptions {
    /// Everything else follows from it.
    pub seed: u64,
    /// How many end-devices.
    pub devices: u32,
    /// How many gateways; all devices hear all of them.
    pub gateways: u32,
    /// Share of frames lost, per frame and direction, 0..1.
    pub loss: f64,
    /// Regional parameters.
    pub region: Region,
    /// Data rate of the distribution window.
    pub data_rate: u8,
    /// Time between two application uplinks of a device.
    pub uplink_interval: Duration,
    /// The stacks the devices have.
    pub stacks: Stacks,
}

/// The stacks of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacks {
    /// All devices have this one.
    One(StackProfile),
    /// All known stacks in turn, device by device.
    Mix,
}

impl Stacks {
    /// The name of the mix; a stack has its own.
    pub const MIX: &str = "mix";

    /// The stacks of a name; the error lists all names.
    ///
    /// # Errors
    /// There is no such stack.
    pub fn from_name(name: &str) -> Result<Self, String> {
        if name == Self::MIX {
            return Ok(Self::Mix);
        }
        StackProfile::from_name(name).map(Self::One).ok_or_else(|| {
            let names: Vec<_> = StackProfile::ALL.map(StackProfile::name).into();
            format!("none of {}, {}", names.join(", "), Self::MIX)
        })
    }

    /// What [`Stacks::from_name`] reads.
    pub const fn name(self) -> &'static str {
        match self {
            Self::One(stack) => stack.name(),
            Self::Mix => Self::MIX,
        }
    }

    /// All of them run class B sessions on devices that have class B.
    pub(crate) fn run_class_b(self) -> bool {
        match self {
            Self::One(stack) => stack.quirks().multicast.class_b.is_honest(),
            Self::Mix => false,
        }
    }

    /// All of them have TS006: devices run an image when they are told to.
    pub(crate) fn have_firmware_management(self) -> bool {
        match self {
            Self::One(stack) => stack.packages().firmware_management,
            Self::Mix => false,
        }
    }

    /// The stack of the device with this number.
    fn of_device(self, number: usize) -> StackProfile {
        match self {
            Self::One(stack) => stack,
            Self::Mix => StackProfile::ALL[number % StackProfile::ALL.len()],
        }
    }
}

impl Default for FleetOptions {
    /// Twenty devices and three gateways in US915, with the fastest common downlink data rate.
    fn default() -> Self {
        Self {
            seed: 1,
            devices: 20,
            gateways: 3,
            loss: 0.1,
            region: Region::Us915,
            data_rate: 13,
            uplink_interval: Duration::from_secs(3),
            stacks: Stacks::One(StackProfile::SpecV2),
        }
    }
}

/// A fleet and the image it is to run.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// As asked for.
    pub options: FleetOptions,
    /// Its gateways.
    pub gateways: Vec<GatewayEui>,
    /// Its end-devices.
    pub devices: Vec<DeviceConfig>,
    /// The stack of each, in the same order.
    pub stacks: Vec<StackProfile>,
    signing_seed: [u8; 32],
}

/// Version the devices run at first.
pub const OLD_VERSION: ImageVersion = ImageVersion {
    major: 1,
    minor: 0,
    revision: 0,
    build: 0,
};
/// Version of the image.
pub const NEW_VERSION: ImageVersion = ImageVersion {
    major: 2,
    minor: 0,
    revision: 1,
    build: 0,
};

const JOIN_EUI: JoinEui = JoinEui(0x70b3_d57e_d000_0001);
/// What an operator calls the devices' type.
pub const MODEL: &str = "simulated";

impl Fleet {
    /// The fleet of a seed.
    pub fn new(options: FleetOptions) -> Self {
        let mut random = Random::of(options.seed, 0xf1ee7);
        let mut signing_seed = [0; 32];
        for part in signing_seed.chunks_exact_mut(8) {
            part.copy_from_slice(&random.next_u64().to_le_bytes());
        }
        let check = ImageCheck::Ed25519(lorawan_fuota::firmware::ed25519_public_key(&signing_seed));
        let gateways = (1..=u64::from(options.gateways))
            .map(|n| GatewayEui(0x0016_c001_f000_0000 + n))
            .collect();
        let stacks: Vec<StackProfile> = (0..options.devices)
            .map(|n| options.stacks.of_device(usize::try_from(n).unwrap_or(0)))
            .collect();
        let devices = (1..=u64::from(options.devices))
            .zip(&stacks)
            .map(|(n, stack)| {
                let activation = Activation::Otaa {
                    join_eui: JOIN_EUI,
                    app_key: Key128::from_bytes(random.key()),
                    first_dev_nonce: 0,
                };
                let dev_eui = DevEui(0x70b3_d57e_d005_0000 + n);
                let mut device = DeviceConfig::new(
                    dev_eui,
                    options.region,
                    activation,
                    Key128::from_bytes(random.key()),
                );
                device.class = Class::AWithMulticastC;
                device.set_stack(*stack);
                device.uplinks.interval = options.uplink_interval;
                device.uplinks.start_spread = options.uplink_interval;
                device.uplinks.keeps_duty_cycle = false;
                device.firmware.version = OLD_VERSION.to_ts006();
                device.firmware.check = check;
                device.reboot.duration = Duration::from_secs(2);
                device
            })
            .collect();
        Self {
            options,
            gateways,
            devices,
            stacks,
            signing_seed,
        }
    }

    /// A signed MCUboot image of the new version around `body`.
    ///
    /// # Errors
    /// The body does not fit the format.
    pub fn image(&self, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.image_of(NEW_VERSION, body)
    }

    /// A signed MCUboot image of a version.
    ///
    /// # Errors
    /// As [`Fleet::image`].
    pub fn image_of(&self, version: ImageVersion, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        Ok(McubootBuilder::new(body.to_vec(), version)
            .sign_ed25519(&self.signing_seed)
            .build()?)
    }

    /// The gateways as an operator enters them.
    pub fn gateway_records(&self) -> Vec<v1::Gateway> {
        let record = |(n, eui): (usize, &GatewayEui)| v1::Gateway {
            eui: eui.to_string(),
            display_name: format!("simulated gateway {}", n + 1),
            region: region_number(self.options.region),
            ..v1::Gateway::default()
        };
        self.gateways.iter().enumerate().map(record).collect()
    }

    /// The different stacks among its devices, in order of their names' first use.
    pub fn distinct_stacks(&self) -> Vec<StackProfile> {
        let mut distinct = Vec::new();
        for stack in &self.stacks {
            if !distinct.contains(stack) {
                distinct.push(*stack);
            }
        }
        distinct
    }

    /// The device profile of a stack as an operator enters it.
    pub fn profile_record(&self, stack: StackProfile) -> v1::DeviceProfile {
        let packages = stack.packages();
        let package = |version: Option<PackageVersion>, f_port| {
            let version = u32::from(version?.number());
            Some(v1::Package { version, f_port })
        };
        let managed = packages.firmware_management.then_some(PackageVersion::V1);
        let source = if packages.firmware_management {
            v1::version_source::Source::FirmwareManagement(())
        } else {
            v1::version_source::Source::UplinkField(v1::UplinkField {
                f_port: 2,
                offset_bytes: 0,
                length_bytes: 4,
                byte_order: v1::ByteOrder::BigEndian.into(),
            })
        };
        v1::DeviceProfile {
            display_name: format!("simulated end-device, {}", stack.name()),
            lorawan_version: v1::LorawanVersion::LorawanVersion104.into(),
            region: region_number(self.options.region),
            supports_class_c: true,
            clock_sync: package(packages.clock_sync, 202),
            multicast_setup: package(packages.multicast_setup, 200),
            fragmentation: package(packages.fragmentation, 201),
            firmware_management: package(managed, 203),
            decoder_limits: Some(v1::DecoderLimits {
                max_nb_frag: 16_383,
                max_frag_size: 239,
                ..v1::DecoderLimits::default()
            }),
            status_interpretation: match stack {
                StackProfile::SpecV1 | StackProfile::SpecV2 => v1::StatusInterpretation::Spec,
                StackProfile::LoramacNode => v1::StatusInterpretation::LoramacNode,
                StackProfile::BasicsModemV1 | StackProfile::BasicsModemV2 => {
                    v1::StatusInterpretation::Lbm
                }
                StackProfile::Zephyr => v1::StatusInterpretation::Zephyr,
            }
            .into(),
            uplink_interval: duration(self.options.uplink_interval),
            multicast_root_key: v1::MulticastRootKey::GenAppKey.into(),
            after_reboot: Some(v1::AfterReboot {
                rejoins: true,
                loses_multicast_groups: true,
                ..v1::AfterReboot::default()
            }),
            version_source: Some(v1::VersionSource {
                source: Some(source),
            }),
            ..v1::DeviceProfile::default()
        }
    }

    /// The end-devices of a stack as an operator enters them.
    pub fn device_records(&self, stack: StackProfile, profile: &str) -> Vec<v1::EndDevice> {
        let record = |device: &DeviceConfig| v1::EndDevice {
            dev_eui: device.dev_eui.to_string(),
            device_profile: profile.to_owned(),
            model: MODEL.to_owned(),
            keys: Some(v1::end_device::Keys::RootKeys(v1::RootKeys {
                source: Some(v1::root_keys::Source::GenAppKey(bytes(&device.gen_app_key))),
            })),
            activation: activation_record(&device.activation),
            ..v1::EndDevice::default()
        };
        let devices = self.devices.iter().zip(&self.stacks);
        devices
            .filter(|(_, has)| **has == stack)
            .map(|(device, _)| record(device))
            .collect()
    }

    /// The key a server has to trust to take the image, in PEM.
    pub fn public_key_pem(&self) -> String {
        public_key_pem(&self.signing_seed)
    }

    /// What an operator says of the image.
    pub fn image_metadata(&self) -> v1::ImageMetadata {
        v1::ImageMetadata {
            activate: true,
            file_name: "firmware.signed.bin".to_owned(),
            model: MODEL.to_owned(),
            target_version: Some(NEW_VERSION.to_ts006()),
            version: NEW_VERSION.to_string(),
            ..v1::ImageMetadata::default()
        }
    }
}

/// The public half of a signing key that is given by its 32-byte seed, in PEM.
pub fn public_key_pem(signing_seed: &[u8; 32]) -> String {
    PrivateKey::from_ed25519_seed(signing_seed)
        .public()
        .to_pem()
}

/// A duration as the API has it.
pub fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

pub(crate) fn activation_record(activation: &Activation) -> Option<v1::end_device::Activation> {
    match activation {
        Activation::Otaa {
            join_eui, app_key, ..
        } => Some(v1::end_device::Activation::Otaa(v1::OtaaActivation {
            join_eui: join_eui.to_string(),
            app_key: bytes(app_key),
            ..v1::OtaaActivation::default()
        })),
        Activation::Abp { .. } => None,
    }
}

fn region_number(region: Region) -> i32 {
    let name = format!("REGION_{}", region.name().replace('-', "_"));
    v1::Region::from_str_name(&name).unwrap_or_default().into()
}

fn bytes(key: &Key128) -> prost::bytes::Bytes {
    key.as_bytes().to_vec().into()
}
