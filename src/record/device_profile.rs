//! What all devices of one type have in common: region, classes, packages, limits and quirks. Written by the operator
//! only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FragAlgo, ProfileId, TenantId};
use crate::lorawan::PackageVersion;
use crate::lorawan::region::Region;
use crate::time::Timestamp;

/// A device type. Every end-device names one; a profile that devices use cannot be deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceProfile {
    /// Owner.
    pub tenant: TenantId,
    /// Identifier, unique in the tenant.
    pub id: ProfileId,
    /// Free text for people, at most 256 characters.
    pub display_name: String,
    /// Link-layer version; it decides which root key multicast keys derive from.
    pub lorawan_version: LorawanVersion,
    /// Regional parameters the devices use.
    pub region: Region,
    /// The devices can run class B sessions.
    pub supports_class_b: bool,
    /// The devices can run class C sessions.
    pub supports_class_c: bool,
    /// The devices listen continuously outside sessions too, so that a downlink need not wait for an uplink.
    pub always_class_c: bool,
    /// Application-layer packages and where they listen.
    pub packages: Packages,
    /// What the fragmentation decoder can hold.
    pub limits: DecoderLimits,
    /// Whose meaning `FragSessionStatusAns` has.
    pub status_interpretation: StatusInterpretation,
    /// Longest usual time between two uplinks of a device.
    pub uplink_interval: Duration,
    /// What a reboot does to the link.
    pub after_reboot: AfterReboot,
    /// Where the running firmware version is read from. It speaks of the component a task updates, outside tasks of
    /// [`DeviceProfile::first_component`]; never of one with a field of its own.
    pub version_source: VersionSource,
    /// When the profile was created.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When the operator last changed it.
    #[serde(default)]
    pub updated_at: Timestamp,
    /// Makes devices without TS006 reboot into an image they hold.
    #[serde(default)]
    pub application_reboot: Option<ApplicationReboot>,
    /// The parts of a device that can be updated; empty = one, `main`, of any size.
    #[serde(default)]
    pub components: Vec<Component>,
    /// What `Descriptor` of `FragSessionSetupReq` says to the devices.
    #[serde(default)]
    pub descriptor: DescriptorRule,
}

/// A part of a device that can be updated by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Name, as images carry it: 1 to 63 characters of `[A-Za-z0-9_-]`.
    pub name: String,
    /// Number, as the descriptor carries it.
    pub number: u8,
    /// Bytes of the slot an image must fit into; `None` = unknown.
    pub max_image_bytes: Option<u32>,
    /// The devices apply patches in the container of `firmware::delta` to it.
    pub applies_deltas: bool,
    /// Where an application uplink tells the version of this part; `None` = nothing but the profile's
    /// [`DeviceProfile::version_source`] may tell it.
    #[serde(default)]
    pub version_field: Option<UplinkField>,
}

/// How the four bytes of `Descriptor` are made (TS004-2.0.0 §3.2 leaves them to the vendor).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DescriptorRule {
    /// The target version, least significant byte first.
    #[default]
    Version,
    /// Number of the component, kind of content (0 image, 1 patch), and two bytes of 0.
    Component,
    /// Always these bytes.
    Fixed([u8; 4]),
}

impl DescriptorRule {
    /// The bytes in wire order.
    pub fn bytes(self, component: u8, is_delta: bool, target_version: u32) -> [u8; 4] {
        match self {
            Self::Version => target_version.to_le_bytes(),
            Self::Component => [component, u8::from(is_delta), 0, 0],
            Self::Fixed(bytes) => bytes,
        }
    }
}

/// A downlink that the application of a device understands as the order to reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationReboot {
    /// FPort, 1..=223.
    pub f_port: u8,
    /// FRMPayload, 1 to 51 bytes.
    pub payload: Vec<u8>,
}

/// LoRaWAN link-layer version of the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LorawanVersion {
    /// LoRaWAN 1.0.0.
    V1_0_0,
    /// LoRaWAN 1.0.1.
    V1_0_1,
    /// LoRaWAN 1.0.2.
    V1_0_2,
    /// LoRaWAN 1.0.3.
    V1_0_3,
    /// LoRaWAN 1.0.4.
    V1_0_4,
    /// LoRaWAN 1.1: `McRootKey` derives from the AppKey. Served behind foreign network servers only.
    V1_1,
}

/// The four packages of a FUOTA-capable device; `None` where the device has not got one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// TS003, usually port 202.
    pub clock_sync: Option<Package>,
    /// TS005, usually port 200.
    pub multicast_setup: Option<Package>,
    /// TS004, usually port 201.
    pub fragmentation: Option<Package>,
    /// TS006, usually port 203; version 1 only.
    pub firmware_management: Option<Package>,
}

impl Packages {
    /// The ports they listen on.
    pub fn ports(&self) -> impl Iterator<Item = u8> {
        let packages = [
            self.clock_sync,
            self.multicast_setup,
            self.fragmentation,
            self.firmware_management,
        ];
        packages.into_iter().flatten().map(|package| package.f_port)
    }
}

/// Version and port of one package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Version of the package's specification.
    pub version: PackageVersion,
    /// FPort it listens on, 1..=223.
    pub f_port: u8,
}

/// Limits of a device's TS004 decoder; the protocol has no way to ask for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecoderLimits {
    /// Largest `NbFrag`, 1..=16383.
    pub max_nb_frag: u16,
    /// Largest `FragSize`, 1..=239 bytes.
    pub max_frag_size: u8,
    /// Most uncoded fragments that may be lost before the decoder gives up; `None` when only `NbFrag` limits it.
    pub max_lost: Option<u16>,
    /// Multicast groups the device can hold, 1..=4.
    pub max_groups: u8,
    /// Fragmentation sessions the device can hold at once, 1..=4.
    pub max_frag_sessions: u8,
    /// The devices decode the Reed-Solomon code too ([`FragAlgo::ReedSolomon`]).
    #[serde(default)]
    pub reed_solomon: bool,
    /// A finished data block stays with the device when its session is replaced or deleted (the application has copied
    /// it to its slot), so that several images of one task may follow each other on one `FragIndex`. Without it they
    /// need as many sessions at once.
    #[serde(default)]
    pub keeps_blocks: bool,
}

/// Whose meaning the numbers in `FragSessionStatusAns` have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusInterpretation {
    /// By the book (TS004-1.0.0 or TS004-2.0.0, by package version).
    Spec,
    /// LoRaMac-node: `MissingFrag` keeps the number originally lost.
    LoramacNode,
    /// LoRa Basics Modem (SWL2001): as LoRaMac-node while decoding, and 1 after a loss-free transfer.
    LoraBasicsModem,
    /// Zephyr: `MissingFrag` is `max(0, NbFrag - received)`.
    Zephyr,
}

/// What may follow a reboot into the new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterReboot {
    /// The device joins again (OTAA).
    pub rejoins: bool,
    /// Whether an ABP device's uplink counter may start again at zero.
    pub f_cnt_reset: FCntReset,
    /// The device forgets its multicast groups and fragmentation sessions.
    pub loses_groups: bool,
}

/// Rule for an uplink counter that restarts at zero without a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FCntReset {
    /// Frames below the last counter are dropped as replays.
    Refuse,
    /// Accepted once after a reboot that a task asked for.
    AllowAfterReboot,
}

/// Where the version a device runs is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionSource {
    /// TS006 `DevVersionAns`.
    FirmwareManagement,
    /// A field of an application uplink.
    UplinkField(UplinkField),
}

/// Position of a version number in an application uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkField {
    /// FPort of the uplink, 1..=223.
    pub f_port: u8,
    /// First byte of the field.
    pub offset: u8,
    /// Bytes, 1..=4.
    pub length: u8,
    /// Most significant byte first.
    pub big_endian: bool,
}

/// The only part of devices whose profile lists none.
const ONLY_COMPONENT: &str = "main";

impl DeviceProfile {
    /// The part of that name; `None` if the devices have no such part.
    pub fn component(&self, name: &str) -> Option<Component> {
        if self.components.is_empty() && name == ONLY_COMPONENT {
            return Some(Component {
                name: name.to_owned(),
                number: 0,
                max_image_bytes: None,
                applies_deltas: false,
                version_field: None,
            });
        }
        self.components.iter().find(|c| c.name == name).cloned()
    }

    /// Application uplinks tell the version of that part in a field of its own.
    pub fn has_own_field(&self, component: &str) -> bool {
        let mut own = self.own_fields();
        own.any(|(name, _)| name == component)
    }

    /// The part that [`DeviceProfile::version_source`] speaks of outside tasks: the first one without a field of its
    /// own, `main` if there is none.
    pub fn first_component(&self) -> &str {
        let mut components = self.components.iter();
        let without = components.find(|c| c.version_field.is_none());
        without.map_or(ONLY_COMPONENT, |c| &c.name)
    }

    /// All versions an application uplink tells: `None` by [`DeviceProfile::version_source`], `Some` by the own field
    /// of the part of that name, in the order of the profile.
    pub fn versions_in(&self, f_port: u8, payload: &[u8]) -> Vec<(Option<&str>, u32)> {
        let of_profile = match self.version_source {
            VersionSource::FirmwareManagement => None,
            VersionSource::UplinkField(field) => Some((None, field)),
        };
        let own = self.own_fields().map(|(name, field)| (Some(name), field));
        let fields = of_profile.into_iter().chain(own);
        fields
            .filter_map(|(of, field)| Some((of, field.read(f_port, payload)?)))
            .collect()
    }

    fn own_fields(&self) -> impl Iterator<Item = (&str, UplinkField)> {
        let components = self.components.iter();
        components.filter_map(|c| Some((c.name.as_str(), c.version_field?)))
    }

    /// The devices may be sent this code. Only status answers by the book tell how far a Reed-Solomon block is.
    pub fn decodes(&self, frag_algo: FragAlgo) -> bool {
        match frag_algo {
            FragAlgo::Ts004 => true,
            FragAlgo::ReedSolomon => {
                self.limits.reed_solomon && self.status_interpretation == StatusInterpretation::Spec
            }
        }
    }
}

impl UplinkField {
    /// The version in `payload`, or `None` when the port differs or the payload is too short.
    pub fn read(&self, f_port: u8, payload: &[u8]) -> Option<u32> {
        let start = usize::from(self.offset);
        let bytes = payload.get(start..start + usize::from(self.length.min(4)))?;
        if f_port != self.f_port || bytes.is_empty() {
            return None;
        }
        let fold = |value: u32, byte: &u8| (value << 8) | u32::from(*byte);
        Some(if self.big_endian {
            bytes.iter().fold(0, fold)
        } else {
            bytes.iter().rev().fold(0, fold)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(f_port: u8, offset: u8, length: u8) -> UplinkField {
        UplinkField {
            f_port,
            offset,
            length,
            big_endian: true,
        }
    }

    fn component(name: &str, version_field: Option<UplinkField>) -> Component {
        Component {
            name: name.to_owned(),
            number: 0,
            max_image_bytes: None,
            applies_deltas: false,
            version_field,
        }
    }

    fn profile(version_source: VersionSource, components: Vec<Component>) -> DeviceProfile {
        DeviceProfile {
            tenant: TenantId::default(),
            id: "meter".to_owned(),
            display_name: String::new(),
            lorawan_version: LorawanVersion::V1_0_4,
            region: Region::Eu868,
            supports_class_b: false,
            supports_class_c: true,
            always_class_c: false,
            packages: Packages {
                clock_sync: None,
                multicast_setup: None,
                fragmentation: None,
                firmware_management: None,
            },
            limits: DecoderLimits {
                max_nb_frag: 16_383,
                max_frag_size: 239,
                max_lost: None,
                max_groups: 1,
                max_frag_sessions: 1,
                reed_solomon: false,
                keeps_blocks: false,
            },
            status_interpretation: StatusInterpretation::Spec,
            uplink_interval: Duration::from_secs(3600),
            after_reboot: AfterReboot {
                rejoins: false,
                f_cnt_reset: FCntReset::Refuse,
                loses_groups: false,
            },
            version_source,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
            application_reboot: None,
            components,
            descriptor: DescriptorRule::Version,
        }
    }

    #[test]
    fn an_uplink_tells_the_version_of_the_profile_and_of_each_own_field() {
        let components = vec![
            component("radio", Some(field(10, 4, 2))),
            component("main", None),
            component("node", Some(field(11, 0, 1))),
        ];
        let source = VersionSource::UplinkField(field(10, 0, 4));
        let profile = profile(source, components);
        let payload = [0, 1, 2, 3, 4, 5];
        assert_eq!(
            profile.versions_in(10, &payload),
            [(None, 0x0001_0203), (Some("radio"), 0x0405)]
        );
        assert_eq!(
            profile.versions_in(10, &payload[..5]),
            [(None, 0x0001_0203)]
        );
        assert_eq!(profile.versions_in(11, &payload), [(Some("node"), 0)]);
        assert_eq!(profile.versions_in(12, &payload), []);
    }

    #[test]
    fn versions_of_ts006_are_in_no_application_uplink() {
        let components = vec![component("radio", Some(field(10, 0, 1)))];
        let profile = profile(VersionSource::FirmwareManagement, components);
        assert_eq!(profile.versions_in(10, &[7]), [(Some("radio"), 7)]);
    }

    #[test]
    fn the_source_of_the_profile_speaks_of_the_first_component_without_a_field() {
        let own = Some(field(10, 0, 1));
        let first = |components: &[(&str, Option<UplinkField>)]| {
            let components = components.iter().map(|(name, own)| component(name, *own));
            profile(VersionSource::FirmwareManagement, components.collect())
                .first_component()
                .to_owned()
        };
        assert_eq!(first(&[]), "main");
        assert_eq!(first(&[("app", None), ("main", None)]), "app");
        assert_eq!(first(&[("app", own), ("radio", None)]), "radio");
        assert_eq!(first(&[("app", own)]), "main");
    }

    #[test]
    fn components_have_a_field_of_their_own_or_not() {
        let components = vec![
            component("app", None),
            component("radio", Some(field(10, 0, 1))),
        ];
        let profile = profile(VersionSource::FirmwareManagement, components);
        assert!(profile.has_own_field("radio"));
        for without in ["app", "main", ""] {
            assert!(!profile.has_own_field(without), "{without}");
        }
    }
}
