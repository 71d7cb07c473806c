//! Faults that strike by themselves at some moment: gateways fall silent, devices reboot, vanish, lose the right time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::time::Timestamp;

use crate::lab::Lab;
use crate::random::Random;

use super::faults::{Faults, Outages};

/// Faults of devices strike within this of the start of a task: while they are set up, receive or reboot.
const MID_TASK: Duration = Duration::from_secs(400);
/// Between two steps of the server's clock, in the mean.
const STEPS_EVERY: Duration = Duration::from_secs(300);

/// Something that strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// A gateway (all of them if `None`) falls silent; with `power` its queue is lost too.
    GatewayDown {
        /// Which.
        gateway: Option<GatewayEui>,
        /// Whether its power fails, or its line alone.
        power: bool,
    },
    /// It is back.
    GatewayUp {
        /// Which.
        gateway: Option<GatewayEui>,
    },
    /// A device reboots without having been asked to.
    Reset(DevEui),
    /// A device vanishes for good.
    Vanish(DevEui),
    /// The clock of a device is moved by so many microseconds.
    StepDevice(DevEui, i64),
    /// The server dies, and is back after so long.
    ServerAway(Duration),
    /// The server's clock is moved forward by up to what the faults say.
    StepServer,
}

/// What is to strike, and what has struck.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    ahead: BTreeMap<(Timestamp, u64), Strike>,
    scheduled: u64,
    pub(super) vanished: BTreeSet<DevEui>,
    pub(super) stepped: BTreeSet<DevEui>,
}

impl Trouble {
    /// Draws what is to strike from `now` on.
    pub(super) fn release(
        &mut self,
        now: Timestamp,
        faults: &Faults,
        lab: &Lab,
        random: &mut Random,
    ) {
        if let Some(outages) = faults.outages {
            let gateways: Vec<Option<GatewayEui>> = if outages.all {
                vec![None]
            } else {
                lab.gateways().iter().map(|g| Some(g.eui())).collect()
            };
            for gateway in gateways {
                let power = outages.power;
                let at = now + random.exponential(outages.every);
                self.schedule(at, Strike::GatewayDown { gateway, power });
            }
        }
        for device in lab.devices().map(crate::device::EndDevice::dev_eui) {
            if random.chance(faults.resets) {
                self.schedule(now + random.up_to(MID_TASK), Strike::Reset(device));
            }
            if random.chance(faults.vanish) {
                self.schedule(now + random.up_to(MID_TASK), Strike::Vanish(device));
            }
            if random.chance(faults.device_steps) {
                let most = i64::try_from(faults.device_step.as_micros()).unwrap_or(0);
                let by = i64::try_from(random.up_to(faults.device_step * 2).as_micros());
                let strike = Strike::StepDevice(device, by.unwrap_or(0) - most);
                self.schedule(now + random.up_to(MID_TASK), strike);
            }
        }
        if !faults.away.is_zero() {
            self.schedule(
                now + random.up_to(MID_TASK),
                Strike::ServerAway(faults.away),
            );
        }
        if !faults.server_step.is_zero() {
            self.schedule(now + random.exponential(STEPS_EVERY), Strike::StepServer);
        }
    }

    pub(super) fn schedule(&mut self, at: Timestamp, strike: Strike) {
        self.ahead.insert((at, self.scheduled), strike);
        self.scheduled += 1;
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.ahead.keys().next().map(|(at, _)| *at)
    }

    /// The next thing that strikes by `now`; what comes of it later is scheduled.
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        outages: Option<Outages>,
        random: &mut Random,
    ) -> Option<Strike> {
        let entry = self.ahead.first_entry().filter(|e| e.key().0 <= now)?;
        let strike = entry.remove();
        match strike {
            Strike::GatewayDown { gateway, .. } => {
                if let Some(outages) = outages {
                    let back = now + random.exponential(outages.lasts);
                    self.schedule(back, Strike::GatewayUp { gateway });
                }
            }
            Strike::GatewayUp { gateway } => {
                if let Some(Outages { every, power, .. }) = outages {
                    let again = now + random.exponential(every);
                    self.schedule(again, Strike::GatewayDown { gateway, power });
                }
            }
            Strike::StepServer => {
                self.schedule(now + random.exponential(STEPS_EVERY), Strike::StepServer);
            }
            Strike::Vanish(dev_eui) => {
                self.vanished.insert(dev_eui);
            }
            Strike::StepDevice(dev_eui, _) => {
                self.stepped.insert(dev_eui);
            }
            Strike::Reset(_) | Strike::ServerAway(_) => {}
        }
        Some(strike)
    }
}
