//! Records in memory, for the simulator and for tests: the same semantics as any other store, and no durability.
//!
//! It waits for nothing, so it can be polled without any runtime. A clone shares the records; "reopening" is cloning.

mod state;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use state::MemoryState;

use super::{
    Catalog, DeviceFilter, Page, Result, Store, TaskDeviceFilter, TaskFilter, after_sequence,
};
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::record::{
    Activation, AirLedger, Change, Device, DeviceKeys, DeviceProfile, DeviceSettings,
    DistributionSession, Gateway, Image, ImagePolicy, MulticastGroup, RequestRecord, Rollout,
    SessionId, Sha256, Snapshot, StateCounts, Task, TaskDevice, TaskId, TaskSnapshot, TenantId,
    TrustedKey, Wave,
};

/// A store in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<MemoryState>>);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A commit that was cut short by a panic leaves its undo behind, which the next one settles or rolls back with its
    /// own.
    fn state(&self) -> MutexGuard<'_, MemoryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The page of `records` (in key order) that `page` asks for.
fn paged<T>(
    records: impl Iterator<Item = T>,
    page: &Page,
    key: impl Fn(&T) -> String,
) -> impl Iterator<Item = T> {
    let after = page.after.clone();
    records
        .filter(move |record| after.as_ref().is_none_or(|after| key(record) > *after))
        .take(usize::try_from(page.size).unwrap_or(usize::MAX))
}

impl Store for MemoryStore {
    async fn commit(&self, changes: &[Change]) -> Result<()> {
        self.state().commit(changes)
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        self.state().snapshot()
    }
}

impl Catalog for MemoryStore {
    async fn device_profile(&self, tenant: &TenantId, id: &str) -> Result<Option<DeviceProfile>> {
        let key = (tenant.clone(), id.to_owned());
        Ok(self.state().profiles.get(&key).cloned())
    }

    async fn device_profiles(&self, tenant: &TenantId, page: &Page) -> Result<Vec<DeviceProfile>> {
        let state = self.state();
        let owned = state.profiles.values().filter(|p| p.tenant == *tenant);
        Ok(paged(owned, page, |p| p.id.clone()).cloned().collect())
    }

    async fn count_devices_of_profile(&self, tenant: &TenantId, id: &str) -> Result<u64> {
        let count = self.state().devices_of_profile(tenant, id);
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }

    async fn device(&self, tenant: &TenantId, dev_eui: DevEui) -> Result<Option<Device>> {
        let state = self.state();
        let settings = state.devices.get(&dev_eui).filter(|s| s.tenant == *tenant);
        Ok(settings.map(|settings| state.device(settings)))
    }

    async fn device_exists(&self, dev_eui: DevEui) -> Result<bool> {
        Ok(self.state().devices.contains(&dev_eui))
    }

    async fn devices(
        &self,
        tenant: &TenantId,
        filter: &DeviceFilter,
        page: &Page,
    ) -> Result<Vec<Device>> {
        let state = self.state();
        let matches = |s: &&DeviceSettings| {
            s.tenant == *tenant
                && filter.profile.as_ref().is_none_or(|p| *p == s.profile)
                && filter.model.as_ref().is_none_or(|m| *m == s.model)
                && filter.tags.iter().all(|(k, v)| s.tags.get(k) == Some(v))
        };
        let owned = state.devices.values().filter(matches);
        Ok(paged(owned, page, |s| s.dev_eui.to_string())
            .map(|settings| state.device(settings))
            .collect())
    }

    async fn device_keys(&self, dev_eui: DevEui) -> Result<Option<DeviceKeys>> {
        Ok(self.state().keys.get(&dev_eui).cloned())
    }

    async fn activation(&self, dev_eui: DevEui) -> Result<Activation> {
        let state = self.state();
        Ok(Activation {
            dev_eui,
            join: state.joins.get(&dev_eui).cloned(),
            session: state.sessions.get(&dev_eui).cloned(),
        })
    }

    async fn gateway(&self, eui: GatewayEui) -> Result<Option<Gateway>> {
        let state = self.state();
        Ok(state.gateways.get(&eui).map(|s| state.gateway(s)))
    }

    async fn gateways(&self, page: &Page) -> Result<Vec<Gateway>> {
        let state = self.state();
        Ok(paged(state.gateways.values(), page, |s| s.eui.to_string())
            .map(|settings| state.gateway(settings))
            .collect())
    }

    async fn air_ledgers(&self) -> Result<Vec<AirLedger>> {
        Ok(self.state().ledgers.values().cloned().collect())
    }

    async fn multicast_group(&self, tenant: &TenantId, id: &str) -> Result<Option<MulticastGroup>> {
        let key = (tenant.clone(), id.to_owned());
        Ok(self.state().groups.get(&key).cloned())
    }

    async fn multicast_groups(
        &self,
        tenant: &TenantId,
        page: &Page,
    ) -> Result<Vec<MulticastGroup>> {
        let state = self.state();
        let owned = state.groups.values().filter(|g| g.tenant == *tenant);
        Ok(paged(owned, page, |g| g.id.clone()).cloned().collect())
    }

    async fn image(&self, tenant: &TenantId, sha256: Sha256) -> Result<Option<Image>> {
        let state = self.state();
        let stored = state.images.get(&(tenant.clone(), sha256));
        Ok(stored.map(|(image, _)| image.clone()))
    }

    async fn images(&self, tenant: &TenantId, page: &Page) -> Result<Vec<Image>> {
        let state = self.state();
        let images = state.images.values().map(|(image, _)| image);
        let owned = images.filter(|image| image.tenant == *tenant);
        Ok(paged(owned, page, |i| i.sha256.to_string())
            .cloned()
            .collect())
    }

    async fn image_bytes(&self, tenant: &TenantId, sha256: Sha256) -> Result<Option<Arc<[u8]>>> {
        let state = self.state();
        let stored = state.images.get(&(tenant.clone(), sha256));
        Ok(stored.map(|(_, bytes)| Arc::clone(bytes)))
    }

    async fn trusted_keys(&self, tenant: &TenantId) -> Result<Vec<TrustedKey>> {
        let state = self.state();
        let owned = state.trusted_keys.values().filter(|k| k.tenant == *tenant);
        Ok(owned.cloned().collect())
    }

    async fn image_policies(&self, tenant: &TenantId) -> Result<Vec<ImagePolicy>> {
        let state = self.state();
        let owned = state
            .image_policies
            .values()
            .filter(|p| p.tenant == *tenant);
        Ok(owned.cloned().collect())
    }

    async fn rollouts(&self, tenant: &TenantId) -> Result<Vec<Rollout>> {
        let state = self.state();
        let owned = state.rollouts.values().filter(|r| r.tenant == *tenant);
        Ok(owned.cloned().collect())
    }

    async fn task(&self, tenant: &TenantId, id: &TaskId) -> Result<Option<Task>> {
        let state = self.state();
        let owned = state.tasks.get(id).filter(|t| t.tenant == *tenant);
        Ok(owned.map(|task| Task::clone(task)))
    }

    async fn tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        page: &Page,
    ) -> Result<Vec<Task>> {
        let state = self.state();
        let holds = |task: &TaskId, eui: DevEui| state.task_devices.contains(&(task.clone(), eui));
        let matches = |t: &&Arc<Task>| {
            t.tenant == *tenant
                && filter.state.is_none_or(|s| s == t.state)
                && filter
                    .image
                    .is_none_or(|i| t.images.contains(&i) || t.deltas.contains(&i))
                && filter.device.is_none_or(|eui| holds(&t.id, eui))
        };
        let owned = state.tasks.values().filter(matches);
        let paged = paged(owned, page, |t| t.id.0.clone());
        Ok(paged.map(|task| Task::clone(task)).collect())
    }

    async fn task_counts(&self, id: &TaskId) -> Result<StateCounts> {
        let state = self.state();
        let mut counts = StateCounts::new();
        for device in state.task_devices_of(id) {
            *counts.entry(device.state).or_default() += 1;
        }
        Ok(counts)
    }

    async fn task_devices(
        &self,
        id: &TaskId,
        filter: &TaskDeviceFilter,
        page: &Page,
    ) -> Result<Vec<TaskDevice>> {
        let state = self.state();
        let matching = state.task_devices_of(id).filter(|d| {
            filter.state.is_none_or(|s| s == d.state)
                && filter.reason.is_none_or(|r| Some(r) == d.reason)
        });
        let Some(after) = after_sequence(filter, page)? else {
            return Ok(paged(matching, page, |d| d.dev_eui.to_string())
                .cloned()
                .collect());
        };
        let mut changed: Vec<_> = matching.filter(|d| d.sequence > after).collect();
        changed.sort_by_key(|device| (device.sequence, device.dev_eui));
        changed.truncate(usize::try_from(page.size).unwrap_or(usize::MAX));
        Ok(changed.into_iter().cloned().collect())
    }

    async fn task_device(&self, id: &TaskId, dev_eui: DevEui) -> Result<Option<TaskDevice>> {
        let key = (id.clone(), dev_eui);
        let state = self.state();
        let device = state.task_devices.get(&key);
        Ok(device.map(|device| TaskDevice::clone(device)))
    }

    async fn active_tasks_of(&self, devices: &[DevEui]) -> Result<Vec<(DevEui, TaskId)>> {
        let state = self.state();
        let active = state.tasks.values().filter(|task| task.state.is_active());
        let mut held: Vec<_> = active
            .flat_map(|task| devices.iter().map(move |eui| (*eui, task)))
            .filter(|(eui, task)| {
                let device = state.task_devices.get(&(task.id.clone(), *eui));
                device.is_some_and(|device| device.is_held(task.success))
            })
            .map(|(eui, task)| (eui, task.id.clone()))
            .collect();
        held.sort();
        held.dedup();
        Ok(held)
    }

    async fn waves(&self, id: &TaskId) -> Result<Vec<Wave>> {
        Ok(self.state().waves_of(id).cloned().collect())
    }

    async fn distribution_sessions(&self, id: &TaskId) -> Result<Vec<DistributionSession>> {
        Ok(self.state().distributions_of(id).cloned().collect())
    }

    async fn distribution_session(&self, id: &SessionId) -> Result<Option<DistributionSession>> {
        Ok(self.state().distributions.get(id).cloned())
    }

    async fn task_snapshot(&self, tenant: &TenantId, id: &TaskId) -> Result<Option<TaskSnapshot>> {
        let state = self.state();
        let task = state.tasks.get(id).filter(|task| task.tenant == *tenant);
        task.map(|task| state.task_snapshot(task)).transpose()
    }

    async fn request(&self, tenant: &TenantId, request_id: &str) -> Result<Option<RequestRecord>> {
        let key = (tenant.clone(), request_id.to_owned());
        Ok(self.state().requests.get(&key).cloned())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn it_needs_no_runtime() {
        let store = MemoryStore::new();
        let mut snapshot = pin!(store.snapshot());
        let polled = snapshot
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Ready(Ok(Snapshot::default())));
    }
}
