//! What another server does under twenty-one faults was measured; here ours goes through the same, in virtual time.
//!
//! The set-up is that of the measurement: an image of 4096 bytes, EU868 at DR5, class C, TS004 version 1, three devices
//! in reach of one gateway, an uplink every 30 s, no loss, unless a scenario says otherwise. Each test asserts the
//! outcome ours must have, in numbers.

mod air;
mod answers;
mod orders;
mod restarts;

use std::time::Duration;

use fuota_simulator::channel::Link;
use fuota_simulator::check::{CheckOptions, Outcome};
use fuota_simulator::checkers::{FragmentOnAir, Violation};
use fuota_simulator::device::StackProfile;
use fuota_simulator::fleet::{Fleet, FleetOptions, Stacks};
use fuota_simulator::scene::Scene;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::{DeviceState, SessionPhase, Task, TaskDevice, TaskId};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Long enough for all that is waited for in a test.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The set-up of the measurement.
pub(crate) fn peer() -> CheckOptions {
    peer_with(|_| {})
}

/// The set-up of the measurement with another fleet.
pub(crate) fn peer_with(change: impl FnOnce(&mut FleetOptions)) -> CheckOptions {
    let mut fleet = FleetOptions {
        seed: 1,
        devices: 3,
        gateways: 1,
        loss: 0.0,
        region: Region::Eu868,
        data_rate: 5,
        uplink_interval: SECOND * 30,
        stacks: Stacks::One(StackProfile::SpecV1),
    };
    change(&mut fleet);
    let container = Fleet::new(fleet).image(&[0; 1000]).unwrap().len() - 1000;
    CheckOptions {
        image_bytes: 4096 - container,
        ..CheckOptions::plain(fleet)
    }
}

/// A scenario under way.
pub(crate) struct Play {
    pub(crate) scene: Scene,
    pub(crate) task: Task,
}

impl Play {
    /// The set-up with the task started.
    pub(crate) fn start(options: &CheckOptions) -> Self {
        Self::of(Scene::new(options))
    }

    pub(crate) fn of(mut scene: Scene) -> Self {
        let task = scene.draft();
        scene.start(&task).unwrap();
        Self { scene, task }
    }

    pub(crate) fn id(&self) -> &TaskId {
        &self.task.id
    }

    /// Runs to the end of the task.
    pub(crate) fn end(mut self) -> (Self, Outcome) {
        assert!(self.scene.finish(&self.task.id), "the task has not ended");
        let outcome = self.scene.outcome(&self.task);
        (self, outcome)
    }

    /// Runs until so many uncoded fragments of the first session are committed.
    pub(crate) fn until_sent(&mut self, uncoded: u16) {
        let id = self.task.id.clone();
        let reached = self.scene.world.run_until(HOUR, |w| {
            w.sessions(&id).iter().any(|s| s.uncoded_sent >= uncoded)
        });
        assert!(reached);
    }

    /// Runs until the first session asks for status.
    pub(crate) fn until_polling(&mut self) {
        let id = self.task.id.clone();
        let polls = |p: SessionPhase| matches!(p, SessionPhase::Polling { .. });
        let reached = self
            .scene
            .world
            .run_until(HOUR, |w| w.sessions(&id).iter().any(|s| polls(s.phase)));
        assert!(reached);
    }

    pub(crate) fn dev_eui(&self, number: usize) -> DevEui {
        self.scene.fleet.devices[number].dev_eui
    }

    pub(crate) fn device(&self, number: usize) -> TaskDevice {
        let devices = self.scene.world.task_devices(&self.task.id);
        let wanted = self.dev_eui(number);
        devices.into_iter().find(|d| d.dev_eui == wanted).unwrap()
    }

    /// From now on so much of what a device sends and should receive is lost.
    pub(crate) fn set_loss(&self, number: usize, uplink_loss: f64, downlink_loss: f64) {
        let device = self.dev_eui(number);
        let gateways = self.scene.fleet.gateways.clone();
        self.scene.world.lab_mut(|lab| {
            for gateway in gateways {
                let link = lab.channel_mut().link(gateway, device);
                let link = link.map(|link| Link {
                    uplink_loss,
                    downlink_loss,
                    ..link
                });
                lab.channel_mut().set_link(gateway, device, link);
            }
        });
    }

    /// The fragments that were on air, in order.
    pub(crate) fn fragments(&self) -> Vec<FragmentOnAir> {
        self.scene.world.checkers(|c| c.fragments().to_vec())
    }

    /// Downlinks that gateways refused.
    pub(crate) fn refused(&self) -> u64 {
        self.scene
            .world
            .lab(|lab| lab.gateways().iter().map(|g| g.counts().refused).sum())
    }

    /// Time on air of all gateways, microseconds.
    pub(crate) fn air_us(&self) -> u64 {
        self.scene
            .world
            .lab(|lab| lab.gateways().iter().map(|g| g.counts().air_us).sum())
    }
}

/// Uncoded fragments that were on air more than once.
pub(crate) fn sent_twice(fragments: &[FragmentOnAir], nb_frag: u16) -> Vec<u16> {
    let times = |n: u16| fragments.iter().filter(|f| f.n == n).count();
    (1..=nb_frag).filter(|n| times(*n) > 1).collect()
}

/// Counters of frames on air rise.
pub(crate) fn counters_rise(fragments: &[FragmentOnAir]) -> bool {
    fragments.windows(2).all(|w| w[0].f_cnt < w[1].f_cnt)
}

/// Every device runs the target version, and no property was broken.
pub(crate) fn all_updated(outcome: &Outcome) {
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    for device in &outcome.devices {
        let told = (device.state, device.reason, &device.evidence);
        assert_eq!(device.state, DeviceState::Running, "{told:?}");
    }
}

/// As [`all_updated`], but for one device.
pub(crate) fn others_updated(outcome: &Outcome, but: DevEui) {
    let about_others: Vec<&Violation> = outcome
        .violations
        .iter()
        .filter(|v| v.device != Some(but))
        .collect();
    assert!(about_others.is_empty(), "{about_others:#?}");
    for device in outcome.devices.iter().filter(|d| d.dev_eui != but) {
        assert_eq!(device.state, DeviceState::Running, "{}", device.evidence);
    }
}
