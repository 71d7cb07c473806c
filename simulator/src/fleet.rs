//! A fleet: many end-devices alike, with identities and keys of their own.
//!
//! PURE. Keys are drawn from the seed: they are good for simulations only.

use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, JoinEui};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::Timestamp;

use crate::device::{Activation, DeviceConfig, EndDevice};
use crate::random::Random;

/// What the devices of a fleet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// How many.
    pub count: u32,
    /// The first `DevEUI`; the others follow it.
    pub first_dev_eui: DevEui,
    /// Whose regional parameters they keep.
    pub region: Region,
    /// How they come to a session.
    pub activation: FleetActivation,
    /// From which their keys are drawn.
    pub seed: u64,
}

/// How the devices of a fleet come to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetActivation {
    /// They join.
    Otaa {
        /// The join server they ask for.
        join_eui: JoinEui,
    },
    /// They were given sessions.
    Abp {
        /// The first address; the others follow it.
        first_dev_addr: DevAddr,
    },
}

impl Fleet {
    /// What each device is like, in order of `DevEUI`. To be changed before [`start`] where they shall differ.
    pub fn configs(&self) -> Vec<DeviceConfig> {
        (0..self.count).map(|number| self.config(number)).collect()
    }

    fn config(&self, number: u32) -> DeviceConfig {
        let dev_eui = DevEui(self.first_dev_eui.0.wrapping_add(number.into()));
        let mut random = Random::of(self.seed, dev_eui.0);
        let gen_app_key = draw_key(&mut random);
        let activation = match self.activation {
            FleetActivation::Otaa { join_eui } => Activation::Otaa {
                join_eui,
                app_key: draw_key(&mut random),
                first_dev_nonce: 0,
            },
            FleetActivation::Abp { first_dev_addr } => Activation::Abp {
                dev_addr: DevAddr(first_dev_addr.0.wrapping_add(number)),
                nwk_s_key: draw_key(&mut random),
                app_s_key: draw_key(&mut random),
            },
        };
        DeviceConfig::new(dev_eui, self.region, activation, gen_app_key)
    }
}

/// Switches devices on.
pub fn start(configs: Vec<DeviceConfig>, seed: u64, at: Timestamp) -> Vec<EndDevice> {
    configs
        .into_iter()
        .map(|config| EndDevice::new(config, seed, at))
        .collect()
}

fn draw_key(random: &mut Random) -> Key128 {
    let [high, low] = [(); 2].map(|()| u128::from(random.next_u64()));
    Key128::from_bytes((high << 64 | low).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_differ_and_can_be_made_again() {
        let fleet = Fleet {
            count: 100,
            first_dev_eui: DevEui(0x70b3_d57e_d000_0000),
            region: Region::Eu868,
            activation: FleetActivation::Otaa {
                join_eui: JoinEui(1),
            },
            seed: 5,
        };
        let keys = |fleet: Fleet| {
            let mut keys = Vec::new();
            for config in fleet.configs() {
                let Activation::Otaa { app_key, .. } = &config.activation else {
                    panic!("all join");
                };
                keys.extend([app_key.to_hex(), config.gen_app_key.to_hex()]);
            }
            keys
        };
        let mut all = keys(fleet);
        assert_eq!(all, keys(fleet));
        assert_ne!(all, keys(Fleet { seed: 6, ..fleet }));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 200);
    }
}
