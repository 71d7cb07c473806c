//! The deterministic sum of network, fleet, dialogue and campaigns: one step in, changes and transmissions out.
//!
//! No clock, no socket, no store: the production loop and the simulator's virtual-time world drive this same code.
//! Recovery has one path: drop the engine, [`Engine::restore`] it from a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::campaign::{AddressSpace, Campaign, Input, Step, Surroundings, WaitingTask};
use crate::dialogue::Dialogue;
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::lorawan::{clock_sync, firmware_management, fragmentation, multicast_setup};
use crate::network::{DeviceLink, Network, NetworkCommand, NetworkEvent};
use crate::record::{
    Change, DeviceProfile, FCntReset, Fleet, FleetDevice, GatewaySettings, Heard, Link,
    NetworkRequest, Package, Snapshot, TaskId, TaskReason, TaskState, TxReport, Uplink,
};
use crate::task::PlanError;
use crate::task::clock::clock_off_us;
use crate::time::Timestamp;

use super::command::{Command, CommandError, NewDevice, Notice};
use super::kept::holds_kept;
use super::queue::Queue;
use super::starts::order;

/// A gateway not heard for longer is not counted on.
const GATEWAY_LIVENESS: Duration = Duration::from_secs(60);
/// Gateways remembered per device.
const MAX_LINKS: usize = 8;

/// Everything that decides, for one network.
pub struct Engine<N: Network> {
    pub(super) network: N,
    pub(super) addresses: AddressSpace,
    pub(super) fleet: Fleet,
    pub(super) gateways: BTreeMap<GatewayEui, KnownGateway>,
    alive: Alive,
    dialogue: Dialogue,
    pub(super) campaigns: BTreeMap<u32, Campaign>,
    pub(super) busy: BTreeMap<DevEui, u32>,
    pub(super) queue: Queue,
    next_owner: u32,
    commands_malformed: u64,
    /// Somebody may have lost a group that is kept for a later task.
    pub(super) kept_unsure: bool,
}

pub(super) struct KnownGateway {
    pub(super) settings: GatewaySettings,
    pub(super) seen: Option<Timestamp>,
}

/// The gateways heard of lately, so that they are not looked for at each uplink.
#[derive(Default)]
struct Alive {
    all: BTreeSet<GatewayEui>,
    class_b: BTreeSet<GatewayEui>,
    /// It is so until then at least; `None` if it has to be looked at again.
    until: Option<Timestamp>,
}

/// What one step decided.
pub struct EngineStep<Out> {
    /// To be committed before anything of `outbound` leaves.
    pub changes: Vec<Change>,
    /// For the transport.
    pub outbound: Vec<Out>,
    /// One answer per command, in their order.
    pub replies: Vec<Result<(), CommandError>>,
    /// For clients that wait, after the commit.
    pub notices: Vec<Notice>,
}

impl<N: Network> Engine<N> {
    /// Puts everything back as it was committed. `network` was restored from the same snapshot.
    pub fn restore(network: N, addresses: AddressSpace, snapshot: Snapshot) -> Self {
        let mut engine = Self {
            network,
            addresses,
            fleet: Fleet::default(),
            gateways: BTreeMap::new(),
            alive: Alive::default(),
            dialogue: Dialogue::default(),
            campaigns: BTreeMap::new(),
            busy: BTreeMap::new(),
            queue: Queue::default(),
            next_owner: Dialogue::OWNER + 1,
            commands_malformed: 0,
            kept_unsure: true,
        };
        for profile in snapshot.profiles {
            engine.fleet.put_profile(profile);
        }
        let mut keys: BTreeMap<_, _> = snapshot.keys.into_iter().map(|k| (k.dev_eui, k)).collect();
        for device in snapshot.devices {
            if let Some(keys) = keys.remove(&device.settings.dev_eui) {
                engine.fleet.restore_device(device, keys);
            }
        }
        for device in engine.fleet.iter() {
            let link = device_link(device);
            engine.network.apply(&NetworkCommand::PutDevice {
                dev_eui: device.settings.dev_eui,
                link,
            });
        }
        for gateway in snapshot.gateways {
            let seen = gateway.status.last_seen;
            engine.gateways.insert(
                gateway.settings.eui,
                KnownGateway {
                    settings: gateway.settings,
                    seen,
                },
            );
        }
        for task in snapshot.tasks {
            if task.task.waiting.is_some() {
                engine.queue.restore(task);
                continue;
            }
            let owner = engine.new_owner();
            let mut campaign = Campaign::restore(owner, addresses, task);
            campaign.recall_keys(&snapshot.mc_groups);
            engine.add_campaign(owner, campaign);
        }
        engine
    }

    /// Takes in what was received, what clients ask and what became due by `now`.
    pub fn step(
        &mut self,
        now: Timestamp,
        inbound: Vec<N::Inbound>,
        commands: Vec<Command>,
    ) -> EngineStep<N::Outbound> {
        let mut turn = Turn::default();
        let replies = commands
            .into_iter()
            .map(|command| self.carry_out(now, command, &mut turn))
            .collect();
        for event in self.network.listen(now, inbound) {
            match event {
                NetworkEvent::Heard(Heard::Uplink(uplink)) => self.heard(now, uplink, &mut turn),
                NetworkEvent::Heard(Heard::Joined { dev_eui, .. }) => {
                    self.rebooted(dev_eui);
                    if let Some(owner) = self.busy.get(&dev_eui).copied() {
                        self.step_campaign(now, owner, &[Input::Joined(dev_eui)], &mut turn);
                    }
                }
                NetworkEvent::CounterRestarted(dev_eui) => self.rebooted(dev_eui),
                NetworkEvent::Report(report) => self.reported(now, &report, &mut turn),
                NetworkEvent::GatewaySeen(eui) => {
                    if let Some(gateway) = self.gateways.get_mut(&eui) {
                        gateway.seen = Some(now);
                    }
                    if !self.alive.all.contains(&eui) {
                        self.alive.until = None;
                    }
                }
            }
        }
        // Campaigns whose time has come; the others were stepped with their inputs.
        let due: Vec<u32> = self
            .campaigns
            .iter()
            .filter(|(_, c)| c.wake().is_some_and(|(at, _)| at <= now))
            .map(|(owner, _)| *owner)
            .collect();
        for owner in due {
            self.step_campaign(now, owner, &[], &mut turn);
        }
        self.see_to_queue(now, &mut turn);
        self.see_to_kept(&mut turn);
        self.announce_restarts();
        let sending = self.network.send(now, std::mem::take(&mut turn.requests));
        // What commands create comes before what was heard of it: stores want parents first.
        let mut changes = turn.changes;
        changes.extend(self.fleet.take_changes());
        changes.extend(sending.changes);
        EngineStep {
            changes,
            outbound: sending.outbound,
            replies,
            notices: turn.notices,
        }
    }

    /// The next moment something becomes due without input.
    pub fn wake(&self) -> Option<Timestamp> {
        let campaigns = self
            .campaigns
            .values()
            .filter_map(|c| c.wake().map(|(at, _)| at));
        let others = [self.network.wake(), self.queue.wake()];
        campaigns.chain(others.into_iter().flatten()).min()
    }

    /// The gateways of the network.
    pub fn gateways(&self) -> BTreeSet<GatewayEui> {
        self.gateways.keys().copied().collect()
    }

    /// The network, for its counters.
    pub fn network(&self) -> &N {
        &self.network
    }

    /// Accepted frames on the port of a package that could not be read to the end, since the engine was restored.
    pub fn commands_malformed(&self) -> u64 {
        self.commands_malformed
    }

    /// The network, to be changed from outside by tests.
    pub fn network_mut(&mut self) -> &mut N {
        &mut self.network
    }

    /// The fleet, to be changed from outside by tests.
    pub fn fleet_mut(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn heard(&mut self, now: Timestamp, uplink: Uplink, turn: &mut Turn) {
        let Some(status) = self.fleet.status_mut(uplink.dev_eui) else {
            return;
        };
        status.last_seen = Some(uplink.received_at);
        for reception in &uplink.receptions {
            let link = Link {
                rssi_dbm: reception.rssi_dbm,
                snr_db: reception.snr_db,
                at: uplink.received_at,
            };
            status.links.insert(reception.gateway, link);
        }
        while status.links.len() > MAX_LINKS {
            let oldest = status
                .links
                .iter()
                .min_by_key(|(_, link)| link.at)
                .map(|(eui, _)| *eui);
            let Some(oldest) = oldest else { break };
            status.links.remove(&oldest);
        }
        if self.is_unreadable(&uplink) {
            self.commands_malformed += 1;
        }
        let owner = self.busy.get(&uplink.dev_eui).copied();
        let answer = self
            .dialogue
            .hear(now, &uplink, owner.is_some(), &mut self.fleet);
        let window_free = answer.is_none();
        turn.requests.extend(answer.map(NetworkRequest::Send));
        if let Some(owner) = owner {
            self.step_campaign(
                now,
                owner,
                &[Input::Uplink {
                    uplink: &uplink,
                    window_free,
                }],
                turn,
            );
        }
        if self.is_application(&uplink) {
            turn.notices.push(Notice::Uplink(Arc::new(uplink)));
        }
    }

    /// It is on the port of a package, and its commands cannot be read to the end.
    fn is_unreadable(&self, uplink: &Uplink) -> bool {
        let (Some(f_port), Some(device)) = (uplink.f_port, self.fleet.get(uplink.dev_eui)) else {
            return false;
        };
        let (packages, payload) = (&device.profile.packages, &uplink.payload);
        let version = |package: Option<Package>| {
            package
                .filter(|package| package.f_port == f_port)
                .map(|package| package.version)
        };
        let rest = if let Some(version) = version(packages.clock_sync) {
            clock_sync::decode_uplink(version, payload).rest
        } else if let Some(version) = version(packages.multicast_setup) {
            multicast_setup::decode_uplink(version, payload).rest
        } else if let Some(version) = version(packages.fragmentation) {
            fragmentation::decode_uplink(version, payload).rest
        } else if let Some(version) = version(packages.firmware_management) {
            firmware_management::decode_uplink(version, payload).rest
        } else {
            None
        };
        rest.is_some()
    }

    /// Nothing of ours listens on the port.
    fn is_application(&self, uplink: &Uplink) -> bool {
        let (Some(f_port), Some(device)) = (uplink.f_port, self.fleet.get(uplink.dev_eui)) else {
            return false;
        };
        let packages = &device.profile.packages;
        let ours = [
            packages.clock_sync,
            packages.multicast_setup,
            packages.fragmentation,
            packages.firmware_management,
        ];
        f_port != 0
            && !ours
                .iter()
                .flatten()
                .any(|package| package.f_port == f_port)
    }

    fn reported(&mut self, now: Timestamp, report: &TxReport, turn: &mut Turn) {
        if report.id.owner != Dialogue::OWNER {
            self.step_campaign(now, report.id.owner, &[Input::Report(report)], turn);
        }
    }

    pub(super) fn step_campaign(
        &mut self,
        now: Timestamp,
        owner: u32,
        inputs: &[Input<'_>],
        turn: &mut Turn,
    ) {
        self.see_who_lives(now);
        let Some(campaign) = self.campaigns.get_mut(&owner) else {
            return;
        };
        // No window opens before the campaign wants to be stepped: gateways need not be asked at each uplink.
        let early = campaign.wake().is_some_and(|(at, _)| at > now);
        let off = if early {
            None
        } else {
            clock_off_us(now, self.network.clock_readings())
        };
        let mut around = Surroundings {
            fleet: &mut self.fleet,
            gateways: &self.alive.all,
            class_b_gateways: &self.alive.class_b,
            clock_off_us: off,
        };
        let Step { changes, requests } = campaign.step(now, inputs, &mut around);
        if !changes.is_empty() {
            let (task, sequence) = (campaign.task().id.clone(), campaign.task().sequence);
            turn.notices.push(Notice::Task { task, sequence });
        }
        turn.changes.extend(changes);
        turn.requests.extend(requests);
        self.release_devices(owner);
    }

    /// Looks again which gateways are alive, if that may have changed.
    fn see_who_lives(&mut self, now: Timestamp) {
        if self.alive.until.is_some_and(|until| now <= until) {
            return;
        }
        let mut alive = Alive {
            until: Some(now + GATEWAY_LIVENESS),
            ..Alive::default()
        };
        for gateway in self.gateways.values() {
            let Some(ends) = gateway.seen.map(|seen| seen + GATEWAY_LIVENESS) else {
                continue;
            };
            if now > ends {
                continue;
            }
            alive.until = alive.until.min(Some(ends));
            alive.all.insert(gateway.settings.eui);
            if gateway.settings.sends_class_b() {
                alive.class_b.insert(gateway.settings.eui);
            }
        }
        self.alive = alive;
    }

    /// Lets go of devices a campaign is done with, and of the campaign when it is over.
    fn release_devices(&mut self, owner: u32) {
        let Some(campaign) = self.campaigns.get_mut(&owner) else {
            return;
        };
        let mut released = campaign.take_released();
        if campaign.is_over() {
            released.extend(campaign.devices());
            self.kept_unsure = true;
            self.campaigns.remove(&owner);
        }
        for dev_eui in released {
            if self.busy.get(&dev_eui) == Some(&owner) {
                self.busy.remove(&dev_eui);
                self.queue.stir();
            }
        }
    }

    /// Begins waiting tasks whose devices are free, in the order of the queue; planned anew, each as any other start.
    fn see_to_queue(&mut self, now: Timestamp, turn: &mut Turn) {
        while let Some(mut waiting) = {
            let busy = &self.busy;
            self.queue.next(now, |d| busy.contains_key(&d))
        } {
            if !waiting.is_over() {
                let (order, devices, groups) = waiting.to_order(now);
                let Err(error) = self.begin(now, order, &devices, &groups, turn) else {
                    continue;
                };
                match error {
                    CommandError::Plan(PlanError::NoDevices(skipped)) => {
                        waiting.leave_out(now, &skipped);
                    }
                    CommandError::Plan(error) if error.may_pass() => {
                        waiting.try_again_later(now, &error);
                        self.note_waiting(now, &mut waiting, turn);
                        self.queue.add(waiting);
                        continue;
                    }
                    error => {
                        let (state, reason) = (TaskState::Failed, TaskReason::PlanImpossible);
                        waiting.give_up(now, state, reason, &error.to_string());
                    }
                }
            }
            self.note_waiting(now, &mut waiting, turn);
        }
    }

    /// Writes down a waiting task.
    pub(super) fn note_waiting(&self, now: Timestamp, waiting: &mut WaitingTask, turn: &mut Turn) {
        turn.changes.extend(waiting.take_changes(now));
        let (task, sequence) = (waiting.task().id.clone(), waiting.task().sequence);
        turn.notices.push(Notice::Task { task, sequence });
    }

    pub(super) fn new_owner(&mut self) -> u32 {
        let owner = self.next_owner;
        self.next_owner = self.next_owner.wrapping_add(1).max(Dialogue::OWNER + 1);
        owner
    }

    pub(super) fn add_campaign(&mut self, owner: u32, campaign: Campaign) {
        let devices: Vec<DevEui> = campaign
            .devices()
            .filter(|d| campaign.concerns(*d))
            .collect();
        for dev_eui in devices {
            self.busy.insert(dev_eui, owner);
        }
        self.campaigns.insert(owner, campaign);
    }

    fn carry_out(
        &mut self,
        now: Timestamp,
        command: Command,
        turn: &mut Turn,
    ) -> Result<(), CommandError> {
        match command {
            Command::PutDeviceProfile(profile) => {
                self.fleet.put_profile(profile.clone());
                self.announce_links(&profile);
                turn.changes.push(Change::PutDeviceProfile(profile));
                Ok(())
            }
            Command::DeleteDeviceProfile(tenant, id) => {
                let used =
                    |d: &FleetDevice| d.settings.tenant == tenant && d.settings.profile == id;
                if self.fleet.iter().any(used) {
                    return Err(CommandError::Conflict("devices use the profile".to_owned()));
                }
                self.fleet.remove_profile(&tenant, &id);
                turn.changes.push(Change::DeleteDeviceProfile(tenant, id));
                Ok(())
            }
            Command::PutDevices(devices) => self.put_devices(now, devices, turn),
            Command::DeleteDevice(dev_eui) => {
                if self.fleet.get(dev_eui).is_none() {
                    return Err(CommandError::NotFound(format!("device {dev_eui}")));
                }
                self.refuse_busy(dev_eui)?;
                self.kept_unsure |= self.fleet.get(dev_eui).is_some_and(holds_kept);
                self.fleet.remove_device(dev_eui);
                self.network.apply(&NetworkCommand::DeleteDevice(dev_eui));
                turn.changes.push(Change::DeleteDevice(dev_eui));
                Ok(())
            }
            Command::PutGateway(settings) => {
                self.alive.until = None;
                let seen = self.gateways.get(&settings.eui).and_then(|g| g.seen);
                self.gateways.insert(
                    settings.eui,
                    KnownGateway {
                        settings: settings.clone(),
                        seen,
                    },
                );
                self.network
                    .apply(&NetworkCommand::PutGateway(settings.clone()));
                turn.changes.push(Change::PutGatewaySettings(settings));
                Ok(())
            }
            Command::DeleteGateway(eui) => {
                self.alive.until = None;
                if self.gateways.remove(&eui).is_none() {
                    return Err(CommandError::NotFound(format!("gateway {eui}")));
                }
                self.network.apply(&NetworkCommand::DeleteGateway(eui));
                turn.changes.push(Change::DeleteGateway(eui));
                Ok(())
            }
            Command::StartTask {
                task,
                images,
                deltas,
                devices,
                groups,
            } => {
                let (order, devices) = order(*task, (images, deltas), devices, &groups);
                for dev_eui in &devices {
                    self.refuse_busy(*dev_eui)?;
                }
                self.begin(now, order, &devices, &groups, turn)
            }
            Command::QueueTask {
                task,
                images,
                deltas,
                devices,
                groups,
            } => {
                let (order, devices) = order(*task, (images, deltas), devices, &groups);
                self.begin_or_wait(now, order, &devices, groups, turn)
            }
            Command::DescribeTask {
                task,
                display_name,
                tags,
            } => {
                let input = Input::Describe {
                    display_name: &display_name,
                    tags: &tags,
                };
                self.tell_campaign(now, &task, &input, turn)
            }
            Command::PauseTask(id) => self.tell_campaign(now, &id, &Input::Pause, turn),
            Command::ResumeTask(id) => self.tell_campaign(now, &id, &Input::Resume, turn),
            Command::RemoveTaskDevices(id, devices) => {
                self.tell_campaign(now, &id, &Input::Remove(&devices), turn)
            }
            Command::CancelTask(id) => self.tell_campaign(now, &id, &Input::Cancel, turn),
        }
    }

    fn tell_campaign(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        input: &Input<'_>,
        turn: &mut Turn,
    ) -> Result<(), CommandError> {
        let owner = self
            .campaigns
            .iter()
            .find(|(_, c)| c.task().id == *id)
            .map(|(owner, _)| *owner);
        if owner.is_none()
            && let Some(waiting) = self.queue.tell(now, id, input)
        {
            turn.changes.extend(waiting.take_changes(now));
            let (task, sequence) = (waiting.task().id.clone(), waiting.task().sequence);
            turn.notices.push(Notice::Task { task, sequence });
            return Ok(());
        }
        let owner = owner.ok_or_else(|| CommandError::NotFound(format!("active task {id}")))?;
        self.step_campaign(now, owner, std::slice::from_ref(input), turn);
        Ok(())
    }

    fn put_devices(
        &mut self,
        now: Timestamp,
        devices: Vec<NewDevice>,
        turn: &mut Turn,
    ) -> Result<(), CommandError> {
        for device in &devices {
            let settings = &device.settings;
            if self
                .fleet
                .profile(&settings.tenant, &settings.profile)
                .is_none()
            {
                return Err(CommandError::NotFound(format!(
                    "device profile {}",
                    settings.profile
                )));
            }
            match self.fleet.get(settings.dev_eui) {
                Some(known) if known.settings.tenant != settings.tenant => {
                    return Err(CommandError::Conflict(format!(
                        "device {} exists",
                        settings.dev_eui
                    )));
                }
                Some(known) if known.settings.profile != settings.profile => {
                    self.refuse_busy(settings.dev_eui)?
                }
                None if device.keys.is_none() => {
                    return Err(CommandError::NotFound(format!(
                        "device {}",
                        settings.dev_eui
                    )));
                }
                _ => {}
            }
        }
        for NewDevice {
            settings,
            keys,
            join,
            session,
            versions,
        } in devices
        {
            let dev_eui = settings.dev_eui;
            self.forget_kept_of_another(dev_eui, keys.as_ref());
            self.fleet.put_device(settings.clone(), keys.clone());
            if let Some((versions, status)) = versions.zip(self.fleet.status_mut(dev_eui)) {
                status.set_versions(&versions, now);
            }
            if let Some(device) = self.fleet.get(dev_eui) {
                let link = device_link(device);
                self.network
                    .apply(&NetworkCommand::PutDevice { dev_eui, link });
            }
            turn.changes.push(Change::PutDeviceSettings(settings));
            turn.changes.extend(keys.map(Change::PutDeviceKeys));
            if let Some(join) = join {
                self.network
                    .apply(&NetworkCommand::PutJoinState(dev_eui, join.clone()));
                turn.changes.push(Change::PutJoinState(dev_eui, join));
            }
            if let Some(session) = session {
                self.network
                    .apply(&NetworkCommand::PutSession(dev_eui, session.clone()));
                turn.changes.push(Change::PutSession(dev_eui, session));
            }
        }
        Ok(())
    }

    /// The reboot that was expected of the device has happened.
    fn rebooted(&mut self, dev_eui: DevEui) {
        let expected = |d: &FleetDevice| d.status.reboot_expected;
        if self.fleet.get(dev_eui).is_some_and(expected)
            && let Some(status) = self.fleet.status_mut(dev_eui)
        {
            status.reboot_expected = false;
        }
    }

    /// Tells the network which of the devices that changed may count from the start again.
    fn announce_restarts(&mut self) {
        let may_restart =
            |d: &&FleetDevice| d.profile.after_reboot.f_cnt_reset == FCntReset::AllowAfterReboot;
        for device in self.fleet.changed().filter(may_restart) {
            let (dev_eui, link) = (device.settings.dev_eui, device_link(device));
            self.network
                .apply(&NetworkCommand::PutDevice { dev_eui, link });
        }
    }

    fn announce_links(&mut self, profile: &DeviceProfile) {
        for device in self.fleet.iter() {
            if device.settings.tenant == profile.tenant && device.settings.profile == profile.id {
                let (dev_eui, link) = (device.settings.dev_eui, device_link(device));
                self.network
                    .apply(&NetworkCommand::PutDevice { dev_eui, link });
            }
        }
    }
}

/// What piles up during a step.
#[derive(Default)]
pub(super) struct Turn {
    changes: Vec<Change>,
    pub(super) requests: Vec<NetworkRequest>,
    notices: Vec<Notice>,
}

fn device_link(device: &FleetDevice) -> DeviceLink {
    DeviceLink {
        region: device.profile.region,
        always_class_c: device.profile.always_class_c,
        f_cnt_reset_allowed: device.profile.after_reboot.f_cnt_reset == FCntReset::AllowAfterReboot
            && device.status.reboot_expected,
    }
}
