//! How the records of a task are made from its plan.

use std::collections::{BTreeMap, BTreeSet};

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    BlockParameters, DeviceState, DistributionSession, Fleet, GroupUse, ImageAhead, ImageCourse,
    SessionId, SessionPhase, Sha256, TaskDevice, TaskSnapshot, TaskState, Wave,
};
use crate::task::{Plan, PlannedSession};
use crate::time::Timestamp;

use super::follow_ups::first_phase;
use super::slots::Slots;
use super::{AddressSpace, Campaign, Order};

impl Campaign {
    /// Begins a task by its plan. The first step writes everything.
    pub fn start(
        now: Timestamp,
        owner: u32,
        network: AddressSpace,
        order: Order,
        plan: &Plan,
        fleet: &Fleet,
    ) -> Self {
        let Order {
            mut task,
            images,
            mut deltas,
            groups,
        } = order;
        let used: BTreeSet<Sha256> = plan.sessions.iter().filter_map(|s| s.delta).collect();
        deltas.retain(|(delta, _)| used.contains(&delta.sha256));
        task.deltas = used.into_iter().collect();
        task.state = TaskState::Scheduled;
        task.started_at = Some(now);
        task.prepare_after = Some(plan.prepare_at);
        task.deadline = Some(plan.deadline);
        task.expected_end = Some(plan.finish_at);
        let several = images.len() > 1;
        let mut devices: BTreeMap<DevEui, TaskDevice> = BTreeMap::new();
        for planned in &plan.sessions {
            let image = images.get(usize::from(planned.image));
            let component = image.map_or("", |(image, _)| image.component.as_str());
            for dev_eui in &planned.devices {
                let known = fleet.get(*dev_eui);
                let version_before = known.and_then(|d| d.status.version(component));
                if let Some(device) = devices.get_mut(dev_eui) {
                    let course = device.images.get_or_insert_default();
                    course.ahead.push(ImageAhead {
                        image: planned.image,
                        session: planned.number,
                        version_before,
                    });
                    continue;
                }
                let mut device = TaskDevice::new(task.id.clone(), *dev_eui, now);
                device.group = groups.get(dev_eui).cloned();
                device.session = Some(planned.number);
                device.version_before = version_before;
                let packages = known.map(|d| &d.profile.packages);
                device.images = several.then(|| {
                    Box::new(ImageCourse {
                        managed: packages.is_some_and(|p| p.firmware_management.is_some()),
                        ..ImageCourse::default()
                    })
                });
                device.entered.insert(DeviceState::Pending, now);
                devices.insert(*dev_eui, device);
            }
        }
        for skipped in &plan.skipped {
            let mut device = TaskDevice::new(task.id.clone(), skipped.dev_eui, now);
            device.group = groups.get(&skipped.dev_eui).cloned();
            device.state = DeviceState::Skipped;
            device.reason = Some(skipped.reason);
            device.evidence = skipped.evidence.clone();
            device.entered.insert(DeviceState::Skipped, now);
            devices.insert(skipped.dev_eui, device);
        }
        let last = plan.sessions.iter().map(|s| s.wave).max().unwrap_or(0);
        let waves = (0..=last)
            .map(|number| Wave {
                task: task.id.clone(),
                number,
                devices: plan.wave(number),
                started_at: (number == 0).then_some(now),
                ended_at: None,
            })
            .collect();
        // What one image puts on a device the next replaces, or it is deleted by the numbers of the last.
        let shared = several.then(|| {
            let all: Vec<DevEui> = devices.keys().copied().collect();
            Slots::choose(&all, fleet)
        });
        let slots = |s: &PlannedSession| match shared {
            None => Slots::choose(&s.devices, fleet),
            Some(slots) => slots.for_image(&task, s.image, &s.devices, fleet),
        };
        let first = plan.sessions.iter().filter(|s| s.wave == 0);
        let first = first.map(|s| s.image).min();
        let sessions = plan
            .sessions
            .iter()
            .map(|s| (s, slots(s)))
            .map(|(s, slots)| DistributionSession {
                id: SessionId {
                    task: task.id.clone(),
                    number: s.number,
                },
                wave: s.wave,
                phase: if s.wave == 0 && Some(s.image) == first {
                    first_phase(s.class)
                } else {
                    SessionPhase::Planned
                },
                region: s.region,
                class: s.class,
                data_rate: s.data_rate,
                frequency_hz: s.frequency_hz,
                gateways: s.gateways.clone(),
                mc_group_id: slots.mc_group_id,
                multicast_version: s.multicast_version,
                frag_port: s.frag_port,
                block: BlockParameters {
                    frag_index: slots.frag_index,
                    ..s.block
                },
                window: s.window,
                uncoded_sent: 0,
                coded_sent: 0,
                coded_target: 0,
                resend: None,
                round: 0,
                roll_calls: 0,
                rounds: Vec::new(),
                airtime_us: BTreeMap::new(),
                ping_slots: s.ping_slots,
                turns: BTreeMap::new(),
                group_use: GroupUse::default(),
                delta: s.delta,
                image: s.image,
                follows: None,
            })
            .collect();
        let snapshot = TaskSnapshot {
            task,
            images,
            deltas,
            devices: devices.into_values().collect(),
            waves,
            sessions,
        };
        let mut campaign = Self::restore(owner, network, snapshot);
        campaign.changed.task = true;
        campaign.changed.waves = true;
        campaign.changed.devices = campaign.devices.keys().copied().collect();
        campaign.changed.sessions = campaign
            .sessions
            .iter()
            .map(|s| s.record.id.number)
            .collect();
        campaign
    }
}
