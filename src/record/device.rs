//! An end-device: what the operator set, the secrets, and what the radio side has learnt about it across tasks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MulticastGroupId, ProfileId, SessionId, TaskId, TenantId};
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::lorawan::keys::{self, Key128, KeyDerivation};
use crate::time::Timestamp;

/// An end-device as the API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Written by the operator.
    pub settings: DeviceSettings,
    /// Written by the radio side.
    pub status: DeviceStatus,
}

/// What the operator says of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceSettings {
    /// Owner.
    pub tenant: TenantId,
    /// Identifier, unique in the network.
    pub dev_eui: DevEui,
    /// Device type.
    pub profile: ProfileId,
    /// Free text for people.
    pub display_name: String,
    /// Hardware model, matched against an image's model.
    pub model: String,
    /// Free key-value pairs.
    pub tags: BTreeMap<String, String>,
    /// When the device was created.
    pub created_at: Timestamp,
    /// When the operator last changed it.
    #[serde(default)]
    pub updated_at: Timestamp,
}

/// The secrets of a device; sealed at rest, never printed, never returned by the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceKeys {
    /// Whose.
    pub dev_eui: DevEui,
    /// Source of the multicast and data-block keys.
    pub multicast: MulticastKeys,
}

/// Root of a device's multicast keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MulticastKeys {
    /// `GenAppKey` of LoRaWAN 1.0.x, or the AppKey in its place.
    Root {
        /// The key.
        #[serde(with = "crate::lorawan::keys::serde_hex")]
        key: Key128,
        /// Which constant the derivation uses.
        derivation: KeyDerivation,
    },
    /// Keys derived elsewhere, by an operator who does not hand out root keys.
    Derived {
        /// TS005 `McRootKey`.
        #[serde(with = "crate::lorawan::keys::serde_hex")]
        mc_root_key: Key128,
        /// TS004-2.0.0 `DataBlockIntKey`.
        #[serde(with = "crate::lorawan::keys::serde_hex")]
        data_block_int_key: Key128,
    },
}

impl MulticastKeys {
    /// `McKEKey`, under which an `McKey` travels to this device (TS005-2.0.0 §4.1).
    pub fn mc_ke_key(&self) -> Key128 {
        keys::mc_ke_key(&match self {
            Self::Root { key, derivation } => keys::mc_root_key(*derivation, key),
            Self::Derived { mc_root_key, .. } => mc_root_key.clone(),
        })
    }

    /// `DataBlockIntKey` for the TS004-2.0.0 data-block MIC.
    pub fn data_block_int_key(&self) -> Key128 {
        match self {
            Self::Root { key, .. } => keys::data_block_int_key(key),
            Self::Derived {
                data_block_int_key, ..
            } => data_block_int_key.clone(),
        }
    }
}

/// What is known of a device across tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Last uplink accepted.
    pub last_seen: Option<Timestamp>,
    /// Best recent signal at each gateway that heard the device.
    pub links: BTreeMap<GatewayEui, Link>,
    /// Version running per component; the component of single-image devices is `main`.
    pub versions: BTreeMap<String, ComponentVersion>,
    /// Package versions the device reported itself, by package identifier.
    pub capabilities: BTreeMap<u8, Capability>,
    /// Next `SessionCnt` to use per `FragIndex`; never goes back (TS004-2.0.0 §3.2).
    pub next_session_cnt: [u16; 4],
    /// What is believed to be installed per `McGroupID`.
    pub mc_slots: [Option<McSlot>; 4],
    /// What is believed to be installed per `FragIndex`.
    pub frag_slots: [Option<FragSlot>; 4],
    /// Smoothed share of frames this device loses, in permille, from earlier status answers.
    pub loss_permille: Option<u16>,
    /// A task asked for a reboot and no frame under the new counters was seen yet.
    pub reboot_expected: bool,
    /// Highest security counter of the images each component is known to have run: boot loaders refuse lower ones.
    #[serde(default)]
    pub security_counters: BTreeMap<String, u32>,
    /// The last versions that ended or began to run, oldest first.
    #[serde(default)]
    pub version_history: Vec<VersionChange>,
}

/// Version changes remembered per device.
const MAX_HISTORY: usize = 16;

/// A component was seen to run another version than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionChange {
    /// Which part.
    pub component: String,
    /// The version it runs since then.
    pub version: u32,
    /// When it was reported first.
    pub since: Timestamp,
    /// How it became known.
    pub evidence: VersionEvidence,
}

/// Signal of a device at one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Received signal strength, dBm.
    pub rssi_dbm: i16,
    /// Signal-to-noise ratio, dB.
    pub snr_db: f32,
    /// When.
    pub at: Timestamp,
}

/// A version a device said it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentVersion {
    /// The number, as TS006 `FWversion` carries it.
    pub version: u32,
    /// When it was reported last.
    pub at: Timestamp,
    /// When this version was reported first.
    pub since: Timestamp,
    /// How it became known.
    #[serde(default)]
    pub evidence: VersionEvidence,
}

/// How a version became known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionEvidence {
    /// TS006 `DevVersionAns`.
    #[default]
    FirmwareManagement,
    /// A field of an application uplink.
    UplinkField,
    /// The operator wrote it.
    User,
}

/// A package version as the device itself answered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// `PackageVersion` of the answer.
    pub version: u8,
    /// When.
    pub at: Timestamp,
}

/// A multicast group on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct McSlot {
    /// The session whose group it is.
    pub session: SessionId,
    /// The API group the device was taken in through, if any.
    pub group: Option<MulticastGroupId>,
    /// The device confirmed the set-up.
    pub confirmed: bool,
    /// Its task is over: to be deleted at the next contact.
    pub leftover: bool,
    /// Its task has left it there for a later one.
    #[serde(default)]
    pub kept: bool,
}

/// A fragmentation session on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FragSlot {
    /// The task it belongs to.
    pub task: TaskId,
    /// The device confirmed the set-up.
    pub confirmed: bool,
    /// Its task is over: to be deleted at the next contact.
    pub leftover: bool,
}

impl DeviceStatus {
    /// The version of `component`, if it was ever reported.
    pub fn version(&self, component: &str) -> Option<u32> {
        self.versions.get(component).map(|v| v.version)
    }

    /// What the operator says of the versions, whole: what is not named is forgotten, what is not new keeps its
    /// evidence.
    pub fn set_versions(&mut self, versions: &BTreeMap<String, u32>, now: Timestamp) {
        self.versions
            .retain(|component, known| versions.get(component) == Some(&known.version));
        for (component, version) in versions {
            if !self.versions.contains_key(component) {
                self.note_version(component, *version, VersionEvidence::User, now);
            }
        }
    }

    /// Notes that `component` runs `version` at `now`; keeps `since` while the version stays.
    pub fn note_version(
        &mut self,
        component: &str,
        version: u32,
        evidence: VersionEvidence,
        now: Timestamp,
    ) {
        let since = match self.versions.get(component) {
            Some(known) if known.version == version => known.since,
            _ => {
                if self.version_history.len() >= MAX_HISTORY {
                    self.version_history.remove(0);
                }
                self.version_history.push(VersionChange {
                    component: component.to_owned(),
                    version,
                    since: now,
                    evidence,
                });
                now
            }
        };
        self.versions.insert(
            component.to_owned(),
            ComponentVersion {
                version,
                at: now,
                since,
                evidence,
            },
        );
    }
}
