//! The devices of a network in memory, with their profiles, and which of them changed since the last commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Change, Device, DeviceKeys, DeviceProfile, DeviceSettings, DeviceStatus, ProfileId, TenantId,
};
use crate::lorawan::identifiers::DevEui;
use crate::time::Timestamp;

/// One device with all a campaign needs to know of it.
#[derive(Clone, Debug)]
pub struct FleetDevice {
    /// Written by the operator.
    pub settings: DeviceSettings,
    /// Written by the radio side, through [`Fleet::status_mut`].
    pub status: DeviceStatus,
    /// Its secrets.
    pub keys: DeviceKeys,
    /// Its type.
    pub profile: Arc<DeviceProfile>,
}

/// All devices of a network.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    profiles: BTreeMap<(TenantId, ProfileId), Arc<DeviceProfile>>,
    devices: BTreeMap<DevEui, FleetDevice>,
    changed: BTreeSet<DevEui>,
    /// Devices whose settings changed since the last commit.
    settings_changed: BTreeSet<DevEui>,
}

impl Fleet {
    /// The device, if it exists.
    pub fn get(&self, dev_eui: DevEui) -> Option<&FleetDevice> {
        self.devices.get(&dev_eui)
    }

    /// All devices, by DevEUI.
    pub fn iter(&self) -> impl Iterator<Item = &FleetDevice> {
        self.devices.values()
    }

    /// A profile.
    pub fn profile(&self, tenant: &TenantId, id: &str) -> Option<Arc<DeviceProfile>> {
        self.profiles.get(&(tenant.clone(), id.to_owned())).cloned()
    }

    /// The status of a device, to be changed: it will be part of the next [`Fleet::take_changes`].
    pub fn status_mut(&mut self, dev_eui: DevEui) -> Option<&mut DeviceStatus> {
        let device = self.devices.get_mut(&dev_eui)?;
        self.changed.insert(dev_eui);
        Some(&mut device.status)
    }

    /// Devices whose status changed since the last [`Fleet::take_changes`].
    pub fn changed(&self) -> impl Iterator<Item = &FleetDevice> {
        self.changed
            .iter()
            .filter_map(|dev_eui| self.devices.get(dev_eui))
    }

    /// Puts tags on a device on the operator's behalf: settings that change are as good as written by him.
    pub fn add_tags(&mut self, dev_eui: DevEui, tags: &BTreeMap<String, String>, now: Timestamp) {
        let Some(device) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        let before = device.settings.tags.clone();
        device.settings.tags.extend(tags.clone());
        if device.settings.tags != before {
            device.settings.updated_at = now;
            self.settings_changed.insert(dev_eui);
        }
    }

    /// The status and settings writes since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let settings: Vec<Change> = std::mem::take(&mut self.settings_changed)
            .into_iter()
            .filter_map(|dev_eui| self.devices.get(&dev_eui))
            .map(|device| Change::PutDeviceSettings(device.settings.clone()))
            .collect();
        let statuses = std::mem::take(&mut self.changed)
            .into_iter()
            .filter_map(|dev_eui| {
                Some(Change::PutDeviceStatus(
                    dev_eui,
                    self.devices.get(&dev_eui)?.status.clone().into(),
                ))
            });
        settings.into_iter().chain(statuses).collect()
    }

    /// Adds or replaces a profile; devices of that type follow it from now on.
    pub fn put_profile(&mut self, profile: DeviceProfile) {
        let profile = Arc::new(profile);
        for device in self.devices.values_mut() {
            if device.settings.profile == profile.id && device.settings.tenant == profile.tenant {
                device.profile = Arc::clone(&profile);
            }
        }
        self.profiles
            .insert((profile.tenant.clone(), profile.id.clone()), profile);
    }

    /// Forgets a profile that no device uses.
    pub fn remove_profile(&mut self, tenant: &TenantId, id: &str) {
        self.profiles.remove(&(tenant.clone(), id.to_owned()));
    }

    /// Adds a device, or changes its settings and, where given, its keys. `false` when its profile is unknown, or when
    /// a new device comes without keys; nothing is changed then.
    pub fn put_device(&mut self, settings: DeviceSettings, keys: Option<DeviceKeys>) -> bool {
        let Some(profile) = self.profile(&settings.tenant, &settings.profile) else {
            return false;
        };
        match (self.devices.get_mut(&settings.dev_eui), keys) {
            (Some(device), keys) => {
                device.profile = profile;
                device.settings = settings;
                if let Some(keys) = keys {
                    device.keys = keys;
                }
            }
            (None, Some(keys)) => {
                let device = FleetDevice {
                    status: DeviceStatus::default(),
                    keys,
                    profile,
                    settings,
                };
                self.devices.insert(device.settings.dev_eui, device);
            }
            (None, None) => return false,
        }
        true
    }

    /// Puts back a device as it was stored.
    pub fn restore_device(&mut self, device: Device, keys: DeviceKeys) -> bool {
        let (dev_eui, status) = (device.settings.dev_eui, device.status);
        let known = self.put_device(device.settings, Some(keys));
        if let Some(device) = self.devices.get_mut(&dev_eui) {
            device.status = status;
        }
        known
    }

    /// Forgets a device.
    pub fn remove_device(&mut self, dev_eui: DevEui) {
        self.devices.remove(&dev_eui);
        self.changed.remove(&dev_eui);
        self.settings_changed.remove(&dev_eui);
    }
}
