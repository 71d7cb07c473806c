//! The records of a [`super::MemoryStore`] and the one function that changes them.

use std::sync::Arc;

use super::table::Table;
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::record::{
    AirLedger, Change, Device, DeviceKeys, DeviceProfile, DeviceSettings, DeviceStatus,
    DistributionSession, Gateway, GatewaySettings, GatewayStatus, Image, ImagePolicy, JoinState,
    McGroup, MulticastGroup, MulticastGroupId, ProfileId, RequestRecord, Rollout, RolloutId,
    Session, SessionId, Sha256, Snapshot, Task, TaskDevice, TaskId, TaskSnapshot, TenantId,
    TrustedKey, Wave,
};
use crate::store::refusal::{broken_reference, check_numbers, foreign_owner, without_image};
use crate::store::{REQUEST_LIFETIME, Result};

/// Metadata and bytes.
type StoredImage = (Image, Arc<[u8]>);

/// Every record, by its key.
#[derive(Debug, Default)]
pub(super) struct MemoryState {
    pub(super) profiles: Table<(TenantId, ProfileId), DeviceProfile>,
    pub(super) devices: Table<DevEui, DeviceSettings>,
    pub(super) statuses: Table<DevEui, Arc<DeviceStatus>>,
    pub(super) keys: Table<DevEui, DeviceKeys>,
    pub(super) joins: Table<DevEui, JoinState>,
    pub(super) sessions: Table<DevEui, Session>,
    pub(super) gateways: Table<GatewayEui, GatewaySettings>,
    pub(super) gateway_statuses: Table<GatewayEui, GatewayStatus>,
    pub(super) ledgers: Table<(GatewayEui, u8), AirLedger>,
    pub(super) groups: Table<(TenantId, MulticastGroupId), MulticastGroup>,
    pub(super) images: Table<(TenantId, Sha256), StoredImage>,
    pub(super) tasks: Table<TaskId, Arc<Task>>,
    pub(super) task_devices: Table<(TaskId, DevEui), Arc<TaskDevice>>,
    pub(super) waves: Table<(TaskId, u16), Wave>,
    pub(super) distributions: Table<SessionId, DistributionSession>,
    pub(super) mc_groups: Table<SessionId, McGroup>,
    pub(super) requests: Table<(TenantId, String), RequestRecord>,
    pub(super) trusted_keys: Table<(TenantId, Sha256), TrustedKey>,
    pub(super) image_policies: Table<(TenantId, String), ImagePolicy>,
    pub(super) rollouts: Table<(TenantId, RolloutId), Rollout>,
}

/// Makes one change, or leaves `state` as it was and says why the change is impossible.
fn apply(state: &mut MemoryState, change: &Change) -> Result<()> {
    check_numbers(change)?;
    let possible = |possible: bool| match possible {
        true => Ok(()),
        false => Err(broken_reference(change)),
    };
    match change {
        Change::PutDeviceProfile(record) => state
            .profiles
            .put((record.tenant.clone(), record.id.clone()), record.clone()),
        Change::DeleteDeviceProfile(tenant, id) => {
            possible(state.devices_of_profile(tenant, id) == 0)?;
            state.profiles.remove(&(tenant.clone(), id.clone()));
        }
        Change::PutMulticastGroup(record) => state
            .groups
            .put((record.tenant.clone(), record.id.clone()), record.clone()),
        Change::DeleteMulticastGroup(tenant, id) => {
            state.groups.remove(&(tenant.clone(), id.clone()));
        }
        Change::PutImage(image, bytes) => state.images.put(
            (image.tenant.clone(), image.sha256),
            (image.clone(), Arc::clone(bytes)),
        ),
        Change::PutImageRecord(image) => {
            let key = (image.tenant.clone(), image.sha256);
            let bytes = state.images.get(&key).map(|(_, bytes)| Arc::clone(bytes));
            let bytes = bytes.ok_or_else(|| broken_reference(change))?;
            state.images.put(key, (image.clone(), bytes));
        }
        Change::PutTrustedKey(record) => state
            .trusted_keys
            .put((record.tenant.clone(), record.id), record.clone()),
        Change::PutImagePolicy(record) => state.image_policies.put(
            (record.tenant.clone(), record.model.clone()),
            record.clone(),
        ),
        Change::DeleteImagePolicy(tenant, model) => {
            state
                .image_policies
                .remove(&(tenant.clone(), model.clone()));
        }
        Change::PutRollout(record) => state.rollouts.put(
            (record.tenant.clone(), record.id.clone()),
            Rollout::clone(record),
        ),
        Change::DeleteRollout(tenant, id) => {
            state.rollouts.remove(&(tenant.clone(), id.clone()));
        }
        Change::DeleteImage(tenant, sha256) => {
            let images = |task: &Task| task.images.contains(sha256) || task.deltas.contains(sha256);
            let names = |task: &Arc<Task>| task.tenant == *tenant && images(task);
            possible(!state.tasks.values().any(names))?;
            state.images.remove(&(tenant.clone(), *sha256));
        }
        Change::PutRequest(record) => state.put_request(record),
        Change::PutGatewaySettings(record) => state.gateways.put(record.eui, record.clone()),
        Change::PutGatewayStatus(eui, record) => {
            possible(state.gateways.contains(eui))?;
            state.gateway_statuses.put(*eui, record.clone());
        }
        Change::DeleteGateway(eui) => {
            state.gateways.remove(eui);
            state.gateway_statuses.remove(eui);
        }
        Change::PutAirLedger(record) => state
            .ledgers
            .put((record.gateway, record.sub_band), record.clone()),
        _ => return apply_to_device(state, change),
    }
    Ok(())
}

fn apply_to_device(state: &mut MemoryState, change: &Change) -> Result<()> {
    let known = |devices: &Table<DevEui, DeviceSettings>, eui: &DevEui| {
        devices
            .contains(eui)
            .then_some(())
            .ok_or_else(|| broken_reference(change))
    };
    match change {
        Change::PutDeviceSettings(record) => {
            let owner = state.devices.get(&record.dev_eui).map(|old| &old.tenant);
            if owner.is_some_and(|owner| *owner != record.tenant) {
                return Err(foreign_owner("end-device", &record.dev_eui));
            }
            let profile = (record.tenant.clone(), record.profile.clone());
            if !state.profiles.contains(&profile) {
                return Err(broken_reference(change));
            }
            state.devices.put(record.dev_eui, record.clone());
        }
        Change::PutDeviceStatus(eui, record) => {
            known(&state.devices, eui)?;
            state.statuses.put(*eui, Arc::clone(record));
        }
        Change::PutDeviceKeys(record) => {
            known(&state.devices, &record.dev_eui)?;
            state.keys.put(record.dev_eui, record.clone());
        }
        Change::PutJoinState(eui, record) => {
            known(&state.devices, eui)?;
            state.joins.put(*eui, record.clone());
        }
        Change::DeleteJoinState(eui) => state.joins.remove(eui),
        Change::PutSession(eui, record) => {
            known(&state.devices, eui)?;
            state.sessions.put(*eui, record.clone());
        }
        Change::DeleteSession(eui) => state.sessions.remove(eui),
        Change::DeleteDevice(eui) => {
            state.devices.remove(eui);
            state.statuses.remove(eui);
            state.keys.remove(eui);
            state.joins.remove(eui);
            state.sessions.remove(eui);
        }
        _ => return apply_to_task(state, change),
    }
    Ok(())
}

fn apply_to_task(state: &mut MemoryState, change: &Change) -> Result<()> {
    let known = |tasks: &Table<TaskId, Arc<Task>>, id: &TaskId| {
        tasks
            .contains(id)
            .then_some(())
            .ok_or_else(|| broken_reference(change))
    };
    match change {
        Change::PutTask(record) => {
            let owner = state.tasks.get(&record.id).map(|old| &old.tenant);
            if owner.is_some_and(|owner| *owner != record.tenant) {
                return Err(foreign_owner("task", &record.id));
            }
            let stored = |sha: &Sha256| state.images.contains(&(record.tenant.clone(), *sha));
            if !record.images.iter().chain(&record.deltas).all(stored) {
                return Err(broken_reference(change));
            }
            state.tasks.put(record.id.clone(), Arc::clone(record));
        }
        Change::DeleteTask(id) => state.delete_task(id),
        Change::PutTaskDevice(record) => {
            known(&state.tasks, &record.task)?;
            let key = (record.task.clone(), record.dev_eui);
            state.task_devices.put(key, Arc::clone(record));
        }
        Change::DeleteTaskDevice(id, eui) => state.task_devices.remove(&(id.clone(), *eui)),
        Change::PutWave(record) => {
            known(&state.tasks, &record.task)?;
            let key = (record.task.clone(), record.number);
            state.waves.put(key, record.clone());
        }
        Change::PutDistributionSession(record) => {
            known(&state.tasks, &record.id.task)?;
            state.distributions.put(record.id.clone(), record.clone());
        }
        Change::PutMcGroup(record) => {
            known(&state.tasks, &record.session.task)?;
            state.mc_groups.put(record.session.clone(), record.clone());
        }
        Change::DeleteMcGroup(session) => state.mc_groups.remove(session),
        // The callers above handle every other kind.
        other => return Err(broken_reference(other)),
    }
    Ok(())
}

/// Calls a method of every table.
macro_rules! every_table {
    ($state:expr, $method:ident) => {{
        $state.profiles.$method();
        $state.devices.$method();
        $state.statuses.$method();
        $state.keys.$method();
        $state.joins.$method();
        $state.sessions.$method();
        $state.gateways.$method();
        $state.gateway_statuses.$method();
        $state.ledgers.$method();
        $state.groups.$method();
        $state.images.$method();
        $state.tasks.$method();
        $state.task_devices.$method();
        $state.waves.$method();
        $state.distributions.$method();
        $state.mc_groups.$method();
        $state.requests.$method();
        $state.trusted_keys.$method();
        $state.image_policies.$method();
        $state.rollouts.$method();
    }};
}

impl MemoryState {
    /// Makes all changes in order, or none.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<()> {
        let outcome = changes.iter().try_for_each(|change| apply(self, change));
        match outcome {
            Ok(()) => every_table!(self, settle),
            Err(_) => every_table!(self, roll_back),
        }
        outcome
    }

    pub(super) fn devices_of_profile(&self, tenant: &TenantId, id: &str) -> usize {
        self.devices
            .values()
            .filter(|device| device.tenant == *tenant && device.profile == id)
            .count()
    }

    pub(super) fn device(&self, settings: &DeviceSettings) -> Device {
        Device {
            settings: settings.clone(),
            status: self
                .statuses
                .get(&settings.dev_eui)
                .map(|status| DeviceStatus::clone(status))
                .unwrap_or_default(),
        }
    }

    pub(super) fn gateway(&self, settings: &GatewaySettings) -> Gateway {
        Gateway {
            settings: settings.clone(),
            status: self
                .gateway_statuses
                .get(&settings.eui)
                .cloned()
                .unwrap_or_default(),
        }
    }

    pub(super) fn task_devices_of<'a>(
        &'a self,
        id: &'a TaskId,
    ) -> impl Iterator<Item = &'a TaskDevice> {
        self.task_devices
            .run((id.clone(), DevEui(0)).., move |(task, _)| task == id)
            .map(|(_, device)| device.as_ref())
    }

    pub(super) fn waves_of<'a>(&'a self, id: &'a TaskId) -> impl Iterator<Item = &'a Wave> {
        self.waves
            .run((id.clone(), 0).., move |(task, _)| task == id)
            .map(|(_, wave)| wave)
    }

    pub(super) fn distributions_of<'a>(
        &'a self,
        id: &'a TaskId,
    ) -> impl Iterator<Item = &'a DistributionSession> {
        self.distributions
            .run(first_session(id).., move |session| session.task == *id)
            .map(|(_, session)| session)
    }

    pub(super) fn task_snapshot(&self, task: &Task) -> Result<TaskSnapshot> {
        let find = |sha256: &Sha256| {
            let stored = self.images.get(&(task.tenant.clone(), *sha256));
            stored.cloned().ok_or_else(|| without_image(&task.id))
        };
        if task.images.is_empty() {
            return Err(without_image(&task.id));
        }
        Ok(TaskSnapshot {
            images: task.images.iter().map(find).collect::<Result<_>>()?,
            deltas: task.deltas.iter().map(find).collect::<Result<_>>()?,
            devices: self.task_devices_of(&task.id).cloned().collect(),
            waves: self.waves_of(&task.id).cloned().collect(),
            sessions: self.distributions_of(&task.id).cloned().collect(),
            task: task.clone(),
        })
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        let pair = |(eui, join): (&DevEui, &JoinState)| (*eui, join.clone());
        Ok(Snapshot {
            profiles: self.profiles.values().cloned().collect(),
            devices: self.devices.values().map(|s| self.device(s)).collect(),
            keys: self.keys.values().cloned().collect(),
            joins: self.joins.iter().map(pair).collect(),
            sessions: self
                .sessions
                .iter()
                .map(|(eui, s)| (*eui, s.clone()))
                .collect(),
            gateways: self.gateways.values().map(|s| self.gateway(s)).collect(),
            ledgers: self.ledgers.values().cloned().collect(),
            mc_groups: self.mc_groups.values().cloned().collect(),
            tasks: self
                .tasks
                .values()
                .filter(|task| task.state.is_active())
                .map(|task| self.task_snapshot(task))
                .collect::<Result<_>>()?,
        })
    }

    fn delete_task(&mut self, id: &TaskId) {
        let devices = self
            .task_devices_of(id)
            .map(|d| (id.clone(), d.dev_eui))
            .collect();
        let waves = self
            .waves_of(id)
            .map(|wave| (id.clone(), wave.number))
            .collect();
        let sessions = self.distributions_of(id).map(|s| s.id.clone()).collect();
        let groups = self
            .mc_groups
            .run(first_session(id).., |session| session.task == *id)
            .map(|(session, _)| session.clone())
            .collect();
        self.task_devices.remove_all(devices);
        self.waves.remove_all(waves);
        self.distributions.remove_all(sessions);
        self.mc_groups.remove_all(groups);
        self.tasks.remove(id);
    }

    fn put_request(&mut self, record: &RequestRecord) {
        let expired = |old: &RequestRecord| record.at.since(old.at) > REQUEST_LIFETIME;
        let keys = self
            .requests
            .iter()
            .filter(|(_, old)| expired(old))
            .map(|(key, _)| key.clone())
            .collect();
        self.requests.remove_all(keys);
        let key = (record.tenant.clone(), record.request_id.clone());
        self.requests.put(key, record.clone());
    }
}

fn first_session(task: &TaskId) -> SessionId {
    SessionId {
        task: task.clone(),
        number: 0,
    }
}
