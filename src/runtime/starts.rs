//! How tasks begin: planned once more with what the engine knows, handed to a campaign, or kept waiting for devices.

use std::collections::{BTreeMap, BTreeSet};

use crate::campaign::{Campaign, Order, WaitingTask};
use crate::lorawan::identifiers::DevEui;
use crate::network::Network;
use crate::record::{
    GatewaySettings, Image, MulticastGroup, MulticastGroupId, StoredImage, Task, TaskId, Waiting,
};
use crate::task::{Plan, PlanError, PlanRequest, plan};
use crate::time::Timestamp;

use super::command::CommandError;
use super::engine::{Engine, Turn};

impl<N: Network> Engine<N> {
    /// Begins a task now; its devices are free.
    pub(super) fn begin(
        &mut self,
        now: Timestamp,
        order: Order,
        devices: &[DevEui],
        groups: &[MulticastGroup],
        turn: &mut Turn,
    ) -> Result<(), CommandError> {
        let plan = self.plan(now, &order, devices, groups)?;
        let groups = self.groups_to_reuse(&plan, &order.task, turn);
        let owner = self.new_owner();
        let mut campaign = Campaign::start(now, owner, self.addresses, order, &plan, &self.fleet);
        campaign.take_over(&mut self.fleet, groups);
        self.add_campaign(owner, campaign);
        self.step_campaign(now, owner, &[], turn);
        Ok(())
    }

    /// Begins a task, or has it wait while others hold its devices. One that could never begin is refused at once.
    pub(super) fn begin_or_wait(
        &mut self,
        now: Timestamp,
        order: Order,
        devices: &[DevEui],
        groups: Vec<MulticastGroup>,
        turn: &mut Turn,
    ) -> Result<(), CommandError> {
        if devices.iter().all(|d| self.refuse_busy(*d).is_ok()) {
            return self.begin(now, order, devices, &groups, turn);
        }
        match self.plan(now, &order, devices, &groups) {
            // Once the task before is done there may be something to do.
            Ok(_) | Err(CommandError::Plan(PlanError::NoDevices(_))) => {}
            Err(error) => return Err(error),
        }
        let place = self.queue.next_place();
        let waiting = Waiting { place, groups };
        let mut waiting = WaitingTask::enqueue(now, order, devices, waiting);
        self.note_waiting(now, &mut waiting, turn);
        self.queue.add(waiting);
        Ok(())
    }

    pub(super) fn plan(
        &self,
        now: Timestamp,
        order: &Order,
        devices: &[DevEui],
        groups: &[MulticastGroup],
    ) -> Result<Plan, CommandError> {
        let mut members = Vec::new();
        for dev_eui in devices {
            let device = self.fleet.get(*dev_eui);
            let device = device.filter(|d| d.settings.tenant == order.task.tenant);
            let missing = || CommandError::NotFound(format!("device {dev_eui}"));
            members.push(device.ok_or_else(missing)?);
        }
        let gateways: Vec<GatewaySettings> =
            self.gateways.values().map(|g| g.settings.clone()).collect();
        let heard = self.gateways.iter();
        let heard = heard
            .filter_map(|(eui, gateway)| Some((*eui, gateway.seen?)))
            .collect();
        let images: Vec<&Image> = order.images.iter().map(|(image, _)| image).collect();
        let deltas: Vec<&Image> = order.deltas.iter().map(|(delta, _)| delta).collect();
        let request = PlanRequest {
            deltas: &deltas,
            ledgers: &self.network.air_ledgers(),
            heard: &heard,
            clocks: &self.network.clock_readings(),
            now,
            task: &order.task,
            images: &images,
            devices: members,
            groups,
            gateways: &gateways,
        };
        plan(&request).map_err(CommandError::Plan)
    }

    pub(super) fn refuse_busy(&self, dev_eui: DevEui) -> Result<(), CommandError> {
        let task: Option<&TaskId> = self
            .busy
            .get(&dev_eui)
            .and_then(|owner| self.campaigns.get(owner))
            .map(|c| &c.task().id);
        let task = task.or_else(|| self.queue.wants(dev_eui));
        match task {
            Some(task) => Err(CommandError::Conflict(format!(
                "device {dev_eui} is in the active task {task}"
            ))),
            None => Ok(()),
        }
    }
}

/// What a start asks for, and whom for: the devices it names, and the members of its groups.
pub(super) fn order(
    task: Task,
    (images, deltas): (Vec<StoredImage>, Vec<StoredImage>),
    mut devices: Vec<DevEui>,
    groups: &[MulticastGroup],
) -> (Order, Vec<DevEui>) {
    let named: BTreeSet<DevEui> = devices.iter().copied().collect();
    let mut brought: BTreeMap<DevEui, MulticastGroupId> = BTreeMap::new();
    for group in groups {
        for dev_eui in group.devices.iter().filter(|d| !named.contains(d)) {
            brought.entry(*dev_eui).or_insert_with(|| group.id.clone());
        }
    }
    devices.extend(brought.keys());
    devices.sort_unstable();
    devices.dedup();
    let order = Order {
        task,
        images,
        deltas,
        groups: brought,
    };
    (order, devices)
}
