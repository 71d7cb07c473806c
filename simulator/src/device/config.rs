//! What an end-device is like: identity, radio, packages, limits and habits. Data only.

use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::firmware::ImageVersion;
use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, JoinEui};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::Timestamp;

use super::log::EventLog;
use super::stack::StackQuirks;
use super::stack_profiles::StackProfile;

/// Everything that makes one end-device differ from another.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Who it is.
    pub dev_eui: DevEui,
    /// Whose regional parameters it keeps.
    pub region: Region,
    /// How it comes to a session.
    pub activation: Activation,
    /// Root of the multicast keys and of the data-block MIC (LoRaWAN 1.0.x).
    pub gen_app_key: Key128,
    /// Which class it is outside of multicast sessions.
    pub class: Class,
    /// It takes part in class B multicast sessions, if its stack does.
    pub class_b: bool,
    /// The packages it has.
    pub packages: Packages,
    /// What its fragmentation package can hold.
    pub limits: FragmentationLimits,
    /// How its packages behave where stacks differ.
    pub stack: StackQuirks,
    /// Its radio habits.
    pub uplinks: Uplinks,
    /// Its clock.
    pub clock: ClockConfig,
    /// Its firmware.
    pub firmware: FirmwareConfig,
    /// How it reboots.
    pub reboot: RebootConfig,
    /// Longest time between a command and its answer, where the package sets none; drawn evenly from zero.
    pub answer_delay_max: Duration,
    /// From then on it neither sends nor hears.
    pub silent_from: Option<Timestamp>,
    /// What it keeps of fragments.
    pub payloads: Payloads,
    /// Events its log keeps; 0: none, and no time is spent on their words.
    pub log_capacity: usize,
}

/// What a device keeps of the fragments it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payloads {
    /// All bytes: it puts the block together and checks it.
    #[default]
    Kept,
    /// Only which ones they were: it is complete with the same fragment as if it kept the bytes, and takes the block
    /// for a good image without having seen it. For the mass of a fleet, beside some devices that keep payloads.
    Counted {
        /// The version it takes the image for, as TS006 reports it.
        version: u32,
    },
}

/// How a device comes to a session.
#[derive(Clone, Debug)]
pub enum Activation {
    /// It joins.
    Otaa {
        /// The join server it asks for.
        join_eui: JoinEui,
        /// The root key of its sessions.
        app_key: Key128,
        /// The first `DevNonce` it uses; it counts up from there.
        first_dev_nonce: u16,
    },
    /// It was given a session.
    Abp {
        /// Its address.
        dev_addr: DevAddr,
        /// Signs frames.
        nwk_s_key: Key128,
        /// Encrypts payloads.
        app_s_key: Key128,
    },
}

/// Which class a device is outside of multicast sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It hears only what answers an uplink, and class C multicast while a session lasts.
    AWithMulticastC,
    /// It listens on RX2 whenever it does nothing else.
    C,
}

/// The packages a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packages {
    /// TS003.
    pub clock_sync: Option<PackageVersion>,
    /// TS005.
    pub multicast_setup: Option<PackageVersion>,
    /// TS004.
    pub fragmentation: Option<PackageVersion>,
    /// TS006 version 1.
    pub firmware_management: bool,
}

/// What the fragmentation package can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentationLimits {
    /// Most uncoded fragments.
    pub nb_frag_max: u16,
    /// Longest fragment, in bytes.
    pub frag_size_max: u8,
    /// Most lost fragments the decoder can solve.
    pub lost_max: u16,
    /// Sessions at a time, 1 to 4.
    pub frag_index_count: u8,
    /// Multicast groups, 0 to 4.
    pub mc_group_count: u8,
    /// The only `Descriptor` it takes, if it looks at it.
    pub descriptor: Option<[u8; 4]>,
    /// It decodes the Reed-Solomon code (`FragAlgo` 7) beside that of TS004.
    pub reed_solomon: bool,
}

/// A device's radio habits.
#[derive(Clone, Debug)]
pub struct Uplinks {
    /// Time between application uplinks, jittered by 5 %.
    pub interval: Duration,
    /// The first uplink or join comes at random within this time of the start and of each reboot.
    pub start_spread: Duration,
    /// Data rate index.
    pub data_rate: u8,
    /// Channels, in Hz; one is drawn for each uplink.
    pub frequencies_hz: Vec<u32>,
    /// Port of application uplinks: `running_version` (u32, big-endian), that of each further part as far as they
    /// fit, then one byte that counts uplinks.
    pub application_f_port: u8,
    /// Application uplinks ask for an acknowledgement. They are not repeated without one.
    pub confirmed: bool,
    /// It sets the ADR bit, and asks for a sign of life after 64 uplinks without a downlink.
    pub adr: bool,
    /// It keeps to the duty cycle of its sub-band.
    pub keeps_duty_cycle: bool,
    /// Every so many uplinks it asks whether it is heard; 0 is never.
    pub link_check_every: u32,
}

/// A device's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockConfig {
    /// `None`: the clock is not set and counts from zero. Else it is set, wrong by so many microseconds.
    pub offset_us: Option<i64>,
    /// How fast it runs: microseconds gained per second.
    pub drift_ppm: i32,
    /// It asks for the time by the MAC command until it has it.
    pub device_time_req: bool,
}

/// A device's firmware.
#[derive(Clone, Debug)]
pub struct FirmwareConfig {
    /// Version that runs at the start, as TS006 reports it.
    pub version: u32,
    /// Version of the hardware, as TS006 reports it.
    pub hw_version: u32,
    /// What an image must pass.
    pub check: ImageCheck,
    /// Version that an image without a container is taken for, if such are taken.
    pub raw_image_version: Option<u32>,
    /// It reboots by itself as soon as it has a good image. For devices without TS006; not with further parts.
    pub installs_by_itself: bool,
    /// A downlink of its application, port and payload, upon which it reboots. For devices without TS006.
    pub reboots_on: Option<(u8, Vec<u8>)>,
    /// The new firmware fails its self-test and the old one comes back.
    pub rolls_back: bool,
    /// The image that runs, as it lies in flash, for devices that apply deltas to it.
    pub base_image: Option<Arc<[u8]>>,
    /// Further parts beside the main firmware, which is part 0. A device that has some takes the part an image is for
    /// from the first byte of `Descriptor`. It installs only when told to reboot, and all images that wait or none.
    pub parts: Vec<PartFirmware>,
    /// The boot loader is broken: it drops the image of this part when it installs the others.
    pub leaves_out: Option<u8>,
}

/// A part of a device that is updated by itself: a radio core, a configuration of the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFirmware {
    /// Which one, 1 to 255; no two of a device are the same.
    pub number: u8,
    /// Version that runs at the start.
    pub version: u32,
    /// What an image must pass.
    pub check: ImageCheck,
    /// Version that an image without a container is taken for, if such are taken.
    pub raw_image_version: Option<u32>,
}

/// What a device checks of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageCheck {
    /// Nothing but its form.
    None,
    /// The SHA-256 digest of an MCUboot image.
    Sha256,
    /// The digest and the Ed25519 signature of an MCUboot image, with this public key.
    Ed25519([u8; 32]),
}

/// How a device reboots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebootConfig {
    /// How long it takes, installation included.
    pub duration: Duration,
    /// What becomes of its session.
    pub session: SessionAfterReboot,
    /// Its multicast groups are gone afterwards.
    pub loses_groups: bool,
    /// Its clock is not set afterwards.
    pub loses_clock: bool,
}

/// What becomes of a session over a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAfterReboot {
    /// A device that joins does it again; one with a given session keeps it with its counters.
    Rejoin,
    /// It goes on with session and counters.
    Keep,
    /// It goes on with the session but counts from zero, as devices without a store for it do.
    ResetCounters,
}

impl DeviceConfig {
    /// Gives it the packages of a stack and their behaviour. Without TS006 it installs a good image by itself. Its
    /// limits stay.
    pub fn set_stack(&mut self, stack: StackProfile) {
        self.packages = stack.packages();
        self.stack = stack.quirks();
        self.firmware.installs_by_itself = !self.packages.firmware_management;
        self.clock.device_time_req &= stack.takes_time_from_mac();
    }

    /// A device by the specifications, version 2 of everything, class C while a session lasts.
    pub fn new(
        dev_eui: DevEui,
        region: Region,
        activation: Activation,
        gen_app_key: Key128,
    ) -> Self {
        Self {
            dev_eui,
            region,
            activation,
            gen_app_key,
            class_b: false,
            class: Class::AWithMulticastC,
            packages: Packages::all(PackageVersion::V2),
            limits: FragmentationLimits::default(),
            stack: StackQuirks::spec(PackageVersion::V2),
            uplinks: Uplinks::new(region),
            clock: ClockConfig {
                offset_us: None,
                drift_ppm: 0,
                device_time_req: true,
            },
            firmware: FirmwareConfig::new(ImageVersion::default().to_ts006()),
            reboot: RebootConfig {
                duration: Duration::from_secs(5),
                session: SessionAfterReboot::Rejoin,
                loses_groups: true,
                loses_clock: true,
            },
            answer_delay_max: Duration::from_millis(500),
            silent_from: None,
            payloads: Payloads::Kept,
            log_capacity: EventLog::CAPACITY,
        }
    }
}

impl Packages {
    /// All packages, those with two versions in this one.
    pub const fn all(version: PackageVersion) -> Self {
        Self {
            clock_sync: Some(version),
            multicast_setup: Some(version),
            fragmentation: Some(version),
            firmware_management: true,
        }
    }
}

impl Default for FragmentationLimits {
    /// More than any image here needs.
    fn default() -> Self {
        Self {
            nb_frag_max: 16_383,
            frag_size_max: 242,
            lost_max: 2048,
            frag_index_count: 4,
            mc_group_count: 4,
            descriptor: None,
            reed_solomon: false,
        }
    }
}

impl Uplinks {
    /// An uplink each minute at the highest data rate of all default channels. In US915 and AU915 on the eight channels
    /// of the second block, as gateways with eight channels listen there.
    pub fn new(region: Region) -> Self {
        let channels = region.uplink_channels();
        let paired = matches!(region, Region::Us915 | Region::Au915);
        let chosen = if paired {
            channels.get(8..16).unwrap_or_default()
        } else {
            &channels
        };
        let data_rate = chosen
            .iter()
            .map(|channel| channel.max_dr)
            .min()
            .unwrap_or(0);
        let data_rate = (0..=data_rate)
            .rev()
            .find(|&dr| region.data_rate(dr, Direction::Uplink).is_some())
            .unwrap_or(0);
        Self {
            interval: Duration::from_secs(60),
            start_spread: Duration::from_secs(10),
            data_rate,
            frequencies_hz: chosen.iter().map(|channel| channel.frequency_hz).collect(),
            application_f_port: 2,
            confirmed: false,
            adr: false,
            keeps_duty_cycle: true,
            link_check_every: 16,
        }
    }
}

impl FirmwareConfig {
    /// Firmware of this version that takes any MCUboot image with a right digest.
    pub const fn new(version: u32) -> Self {
        Self {
            version,
            hw_version: 1,
            check: ImageCheck::Sha256,
            raw_image_version: None,
            installs_by_itself: false,
            reboots_on: None,
            rolls_back: false,
            base_image: None,
            parts: Vec::new(),
            leaves_out: None,
        }
    }
}
