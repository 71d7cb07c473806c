//! From a scenario to gateways, devices and the links between them.

use lorawan_fuota::firmware::ed25519_public_key;
use lorawan_fuota::lorawan::airtime::{Bandwidth, DataRate, SpreadingFactor};
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui, JoinEui};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::time::Timestamp;

use crate::channel::{Channel, ChannelConfig, Link};
use crate::device::{Activation, Class, DeviceConfig, EndDevice, ImageCheck};
use crate::gateway::{Gateway, GatewayConfig};
use crate::lab::Lab;
use crate::propagation::{LinkBudget, uniform};
use crate::random::Random;

use super::{Devices, Group, GroupClass, ImageCheckKind, ImageContent, Placement, Reach, Scenario};

/// Conducted power of the simulated devices, in dBm.
const DEVICE_POWER_DBM: i8 = 14;
/// The most a gateway sends with, in dBm.
const GATEWAY_POWER_DBM: i8 = 27;
/// How far above the floor an uplink is to be before a device takes a faster data rate, in dB: as in ADR.
const RATE_MARGIN_DB: f64 = 10.0;
const SLOWEST: DataRate = DataRate::lora(SpreadingFactor::Sf12, Bandwidth::Khz125);
const NARROW: DataRate = DataRate::lora(SpreadingFactor::Sf7, Bandwidth::Khz125);
const JOIN_EUI: JoinEui = JoinEui(0x70b3_d57e_d000_0001);

/// A gateway of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedGateway {
    /// Who it is.
    pub eui: GatewayEui,
    /// Its name in the file.
    pub name: String,
    /// Metres east and north.
    pub position: [f64; 2],
}

/// A device of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedDevice {
    /// Who it is.
    pub dev_eui: DevEui,
    /// Index of its group.
    pub group: usize,
    /// Metres east and north; `None` where the quality of its links is fixed.
    pub position: Option<[f64; 2]>,
}

/// Gateways and devices of a scenario in one run. The same for the same seed.
#[derive(Clone, Debug)]
pub struct Site {
    /// The gateways, in the order of the file.
    pub gateways: Vec<PlacedGateway>,
    /// The devices, group by group.
    pub devices: Vec<PlacedDevice>,
    /// What each device is like, in the same order.
    pub configs: Vec<DeviceConfig>,
    /// Interference that is on: share of uplinks lost at each gateway.
    at_gateways: Vec<f64>,
    /// Share of downlinks lost at the devices of each group.
    at_groups: Vec<f64>,
    pub(crate) signing_seed: [u8; 32],
    pub(super) seed: u64,
}

impl Site {
    /// Places everything.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut random = Random::of(seed, 0x5ce7e);
        let mut signing_seed = [0; 32];
        for part in signing_seed.chunks_exact_mut(8) {
            part.copy_from_slice(&random.next_u64().to_le_bytes());
        }
        let gateways = scenario.gateways.iter().zip(1_u64..);
        let gateways = gateways.map(|(plan, number)| PlacedGateway {
            eui: GatewayEui(0x0016_c001_f000_0000 + number),
            name: plan.name.clone(),
            position: plan.position,
        });
        let mut site = Self {
            gateways: gateways.collect(),
            devices: Vec::new(),
            configs: Vec::new(),
            at_gateways: scenario.gateways.iter().map(|g| g.interference).collect(),
            at_groups: scenario.groups.iter().map(|g| g.interference).collect(),
            signing_seed,
            seed,
        };
        for (group, plan) in scenario.groups.iter().enumerate() {
            for number in 0..plan.count {
                site.add_device(scenario, group, plan, number, &mut random);
            }
        }
        site
    }

    fn add_device(
        &mut self,
        scenario: &Scenario,
        group: usize,
        plan: &Group,
        number: u32,
        random: &mut Random,
    ) {
        let at = u64::try_from(self.devices.len()).unwrap_or(u64::MAX);
        let placed = PlacedDevice {
            dev_eui: DevEui(0x70b3_d57e_d005_0001 + at),
            group,
            position: place(scenario, &plan.placement, random),
        };
        let mut config = self.config(scenario, plan, number, placed.dev_eui, random);
        let rate = plan.uplink_data_rate.or_else(|| {
            let position = placed.position?;
            Some(self.uplink_rate(scenario, &placed, plan, position, config.uplinks.data_rate))
        });
        config.uplinks.data_rate = rate.unwrap_or(config.uplinks.data_rate);
        self.devices.push(placed);
        self.configs.push(config);
    }

    fn config(
        &self,
        scenario: &Scenario,
        plan: &Group,
        number: u32,
        dev_eui: DevEui,
        random: &mut Random,
    ) -> DeviceConfig {
        let activation = Activation::Otaa {
            join_eui: JOIN_EUI,
            app_key: Key128::from_bytes(random.key()),
            first_dev_nonce: 0,
        };
        let gen_app_key = Key128::from_bytes(random.key());
        let mut config = DeviceConfig::new(dev_eui, scenario.region, activation, gen_app_key);
        config.set_stack(plan.stack.based_on);
        config.packages = plan.stack.packages;
        config.stack = plan.stack.quirks;
        config.clock.device_time_req = plan.stack.time_from_mac;
        config.firmware.installs_by_itself = !config.packages.firmware_management;
        config.class = match plan.class {
            GroupClass::A | GroupClass::B => Class::AWithMulticastC,
            GroupClass::C => Class::C,
        };
        config.class_b = plan.class == GroupClass::B;
        config.limits = plan.limits;
        config.uplinks.interval = plan.uplink_interval;
        config.uplinks.start_spread = scenario.join_spread;
        config.uplinks.confirmed = plan.confirmed;
        config.uplinks.keeps_duty_cycle = plan.keeps_duty_cycle;
        config.answer_delay_max = plan.answers_within;
        let most = u64::from(plan.drift_ppm.unsigned_abs());
        let drift = i32::try_from(random.below(2 * most + 1)).unwrap_or(0);
        config.clock.drift_ppm = drift - plan.drift_ppm.abs();
        config.clock.offset_us = plan.clock_offset_us;
        config.firmware.version = plan.version.to_ts006();
        config.firmware.check = self.image_check(scenario, plan);
        // The last ones of a group: the first ones are canaries more often than not.
        config.firmware.rolls_back =
            f64::from(plan.count - number) <= plan.rolls_back * f64::from(plan.count);
        config.reboot.duration = plan.reboot_duration;
        config.reboot.session = plan.session_after_reboot;
        config
    }

    fn image_check(&self, scenario: &Scenario, plan: &Group) -> ImageCheck {
        let finished = matches!(scenario.image.content, ImageContent::Finished(_));
        let by_image = if scenario.image.signed && !finished {
            ImageCheckKind::Signature
        } else {
            ImageCheckKind::Digest
        };
        match plan.image_check.unwrap_or(by_image) {
            ImageCheckKind::None => ImageCheck::None,
            ImageCheckKind::Digest => ImageCheck::Sha256,
            ImageCheckKind::Signature => {
                ImageCheck::Ed25519(ed25519_public_key(&self.signing_seed))
            }
        }
    }

    /// The fastest data rate that reaches a gateway with a margin; else the slowest there is.
    fn uplink_rate(
        &self,
        scenario: &Scenario,
        device: &PlacedDevice,
        plan: &Group,
        position: [f64; 2],
        fastest: u8,
    ) -> u8 {
        let budgets = (0..self.gateways.len())
            .map(|gateway| self.budget(scenario, gateway, device.dev_eui, plan, position));
        let loss = budgets
            .map(|budget| budget.loss_db)
            .fold(f64::INFINITY, f64::min);
        let best = LinkBudget {
            loss_db: loss,
            noise_figure_db: scenario.radio.noise_figure_db,
            fading_db: scenario.radio.fading_db,
        };
        let rate_of = |dr: &u8| scenario.region.data_rate(*dr, Direction::Uplink);
        let reaches = |dr: &u8| {
            rate_of(dr).is_some_and(|rate| best.margin_db(DEVICE_POWER_DBM, rate) >= RATE_MARGIN_DB)
        };
        let slowest = || (0..=fastest).find(|dr| rate_of(dr).is_some());
        let chosen = (0..=fastest).rev().find(reaches).or_else(slowest);
        chosen.unwrap_or(fastest)
    }

    /// The budget of the link between a device at a position and a gateway.
    fn budget(
        &self,
        scenario: &Scenario,
        gateway: usize,
        dev_eui: DevEui,
        plan: &Group,
        position: [f64; 2],
    ) -> LinkBudget {
        let to = &scenario.gateways[gateway];
        let ground = (position[0] - to.position[0]).hypot(position[1] - to.position[1]);
        let distance = ground.hypot(to.height_m);
        let eui = self.gateways[gateway].eui;
        let mut random = Random::of(self.seed ^ eui.0.rotate_left(24), dev_eui.0);
        let path_db = scenario.radio.path_loss.drawn_db(distance, &mut random);
        LinkBudget {
            loss_db: path_db + plan.indoor_loss_db - f64::from(to.antenna_gain_db),
            noise_figure_db: scenario.radio.noise_figure_db,
            fading_db: scenario.radio.fading_db,
        }
    }

    /// The lab of it all, switched on at `start`.
    pub fn lab(&self, scenario: &Scenario, start: Timestamp) -> Lab {
        let devices = self.configs.iter().cloned();
        let devices = devices.map(|config| EndDevice::new(config, self.seed, start));
        let gateways = scenario.gateways.iter().zip(&self.gateways);
        let gateways = gateways.map(|(plan, placed)| {
            let mut gateway = Gateway::new(GatewayConfig {
                antenna_gain_db: plan.antenna_gain_db,
                gps: plan.gps,
                beaconing: plan.beacons,
                ..GatewayConfig::new(placed.eui, scenario.region)
            });
            gateway.start_beacons(start);
            gateway
        });
        let config = ChannelConfig {
            uplink_loss: scenario.radio.loss,
            downlink_loss: scenario.radio.loss,
            collisions: scenario.radio.collisions,
        };
        let channel = Channel::new(config, self.seed);
        let mut lab = Lab::new(devices.collect(), gateways.collect(), channel);
        self.set_links(scenario, lab.channel_mut());
        lab
    }

    fn set_links(&self, scenario: &Scenario, channel: &mut Channel) {
        for (at, device) in self.devices.iter().enumerate() {
            let plan = &scenario.groups[device.group];
            for (number, gateway) in self.gateways.iter().enumerate() {
                let (uplink_loss, downlink_loss) = self.losses(scenario, device, number);
                let losses = |link: Link| Link {
                    uplink_loss,
                    downlink_loss,
                    ..link
                };
                let link = match (&plan.placement, device.position) {
                    (Placement::Link(fixed), _) => {
                        let reached = match &fixed.reach {
                            Reach::All => true,
                            Reach::Named(named) => named.contains(&number),
                            Reach::Some(count) => {
                                let all = self.gateways.len();
                                (number + all - at % all) % all < *count
                            }
                        };
                        let drawn = reached.then(|| channel.link(gateway.eui, device.dev_eui));
                        drawn.flatten().map(|drawn| {
                            let rssi_dbm = fixed.rssi_dbm.unwrap_or(drawn.rssi_dbm);
                            let snr_db = fixed
                                .snr_db
                                .unwrap_or_else(|| f32::from(rssi_dbm + 117).min(10.0));
                            losses(Link {
                                rssi_dbm,
                                snr_db,
                                ..drawn
                            })
                        })
                    }
                    (_, Some(position)) => {
                        let dev_eui = device.dev_eui;
                        let budget = self.budget(scenario, number, dev_eui, plan, position);
                        if budget.is_audible(GATEWAY_POWER_DBM, SLOWEST) {
                            channel.set_budget(gateway.eui, dev_eui, budget);
                            let drawn = channel.link(gateway.eui, dev_eui);
                            drawn.map(|drawn| losses(signal(&budget, drawn)))
                        } else {
                            None
                        }
                    }
                    (_, None) => None,
                };
                channel.set_link(gateway.eui, device.dev_eui, link);
            }
        }
    }

    /// Sets what interference takes on all links, after it began or ended.
    pub(crate) fn interfere(&self, scenario: &Scenario, channel: &mut Channel) {
        for device in &self.devices {
            for (number, gateway) in self.gateways.iter().enumerate() {
                let (uplink_loss, downlink_loss) = self.losses(scenario, device, number);
                if let Some(link) = channel.link(gateway.eui, device.dev_eui) {
                    let link = Link {
                        uplink_loss,
                        downlink_loss,
                        ..link
                    };
                    channel.set_link(gateway.eui, device.dev_eui, Some(link));
                }
            }
        }
    }

    /// What is lost on a link beside what its budget says, up and down.
    fn losses(&self, scenario: &Scenario, device: &PlacedDevice, gateway: usize) -> (f64, f64) {
        let fixed = match &scenario.groups[device.group].placement {
            Placement::Link(fixed) => (fixed.uplink_loss, fixed.downlink_loss),
            _ => (0.0, 0.0),
        };
        let all = |losses: [f64; 3]| 1.0 - losses.iter().map(|loss| 1.0 - loss).product::<f64>();
        let steady = scenario.radio.loss;
        (
            all([steady, fixed.0, self.at_gateways[gateway]]),
            all([steady, fixed.1, self.at_groups[device.group]]),
        )
    }

    /// Some of the devices: the first ones of a group, or of all.
    pub(crate) fn some(&self, who: Devices) -> Vec<DevEui> {
        let of_group = |group| who.group.is_none_or(|wanted| wanted == group);
        let devices = self.devices.iter().filter(|device| of_group(device.group));
        let all: Vec<DevEui> = devices.map(|device| device.dev_eui).collect();
        let count = f64::from(u32::try_from(all.len()).unwrap_or(u32::MAX));
        let wanted = |number: u32| f64::from(number) < who.share * count - 1e-9;
        let chosen = all
            .into_iter()
            .zip(0..)
            .filter(|(_, number)| wanted(*number));
        chosen.map(|(device, _)| device).collect()
    }

    /// Interference begins or, with a share of zero, ends: at a gateway (all if `None`), or at the devices of a group.
    pub(crate) fn set_interference(
        &mut self,
        scenario: &Scenario,
        gateway: Option<usize>,
        group: Option<usize>,
        share: f64,
    ) {
        if let Some(group) = group {
            self.at_groups[group] = share.max(scenario.groups[group].interference);
            return;
        }
        for (number, plan) in scenario.gateways.iter().enumerate() {
            if gateway.is_none_or(|wanted| wanted == number) {
                self.at_gateways[number] = share.max(plan.interference);
            }
        }
    }

    /// Gives everybody EUIs of their own, so that a server may have met others of this scenario before.
    pub(crate) fn renumber(&mut self, run: u64) {
        let run = (run & 0x0fff_ffff) << 12;
        for (gateway, number) in self.gateways.iter_mut().zip(1..) {
            gateway.eui = GatewayEui(0x0016_c000_0000_0000 + run + number);
        }
        let devices = self.devices.iter_mut().zip(&mut self.configs);
        for ((placed, config), number) in devices.zip(1..) {
            placed.dev_eui = DevEui(0x70b3_d500_0000_0000 + run + number);
            config.dev_eui = placed.dev_eui;
        }
    }
}

/// Where a device is.
fn place(scenario: &Scenario, placement: &Placement, random: &mut Random) -> Option<[f64; 2]> {
    match placement {
        Placement::Link(_) => None,
        Placement::At(position) => Some(*position),
        Placement::Area([west, south, east, north]) => Some([
            west + (east - west) * uniform(random),
            south + (north - south) * uniform(random),
        ]),
        Placement::Around(gateway, inner, outer) => {
            let [x, y] = scenario.gateways[*gateway].position;
            // The root makes the density the same at all radii.
            let square = inner * inner + (outer * outer - inner * inner) * uniform(random);
            let (radius, angle) = (square.sqrt(), std::f64::consts::TAU * uniform(random));
            Some([x + radius * angle.cos(), y + radius * angle.sin()])
        }
    }
}

/// What a gateway reports of a link with a budget.
fn signal(budget: &LinkBudget, link: Link) -> Link {
    let rssi = budget.rssi_dbm(DEVICE_POWER_DBM).round().clamp(-150.0, 0.0);
    let snr = budget.snr_reported_db(DEVICE_POWER_DBM, NARROW);
    let rounded = (snr * 4.0).round() / 4.0;
    Link {
        // Through text: no cast that could cut something off.
        rssi_dbm: format!("{rssi:.0}").parse().unwrap_or(link.rssi_dbm),
        snr_db: format!("{rounded:.2}").parse().unwrap_or(link.snr_db),
        ..link
    }
}
