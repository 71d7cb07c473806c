//! A multicast group as the API has it: a named set of devices and how they are reached. Addresses and keys are not
//! here: the server makes fresh ones for every distribution session (`McGroup`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{MulticastGroupId, TenantId};
use crate::lorawan::identifiers::DevEui;
use crate::lorawan::region::Region;
use crate::time::Timestamp;

/// A named set of devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MulticastGroup {
    /// Owner.
    pub tenant: TenantId,
    /// Identifier, unique in the tenant.
    pub id: MulticastGroupId,
    /// Free text for people.
    pub display_name: String,
    /// Region every member must share.
    pub region: Region,
    /// Class of the distribution window.
    pub class: DeviceClass,
    /// Data rate index of the window; `None` leaves it to the planner.
    pub data_rate: Option<u8>,
    /// Frequency of the window; `None` = the region's default.
    pub frequency_hz: Option<u32>,
    /// Members.
    pub devices: BTreeSet<DevEui>,
    /// Free key-value pairs.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// When the group was created.
    pub created_at: Timestamp,
    /// When the operator last changed it or its members.
    #[serde(default)]
    pub updated_at: Timestamp,
}

/// Class of a distribution window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeviceClass {
    /// Downlinks answer uplinks.
    A,
    /// Ping slots, timed by beacons.
    B,
    /// Continuous reception.
    #[default]
    C,
}
