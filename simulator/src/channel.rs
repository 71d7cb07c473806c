//! The air between devices and gateways: who is in reach, how strong, and which frames are lost.
//!
//! PURE. Each link has its own generator, so what happens on one does not depend on how often others were asked.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::time::Timestamp;

use crate::gateway::OnAir;
use crate::propagation::LinkBudget;
use crate::random::Random;

/// A gateway hears the stronger of two frames on one channel if it is stronger by so many dB.
const CAPTURE_DB: i16 = 6;

/// How the air is unless a link is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChannelConfig {
    /// Probability that an uplink is lost, for each frame and gateway.
    pub uplink_loss: f64,
    /// Probability that a downlink is lost, for each frame and device.
    pub downlink_loss: f64,
    /// Uplinks on the same channel and data rate at the same time destroy each other.
    pub collisions: bool,
}

/// Loss that comes in bursts: a link is good, then bad, then good again, in both directions alike (Gilbert 1960,
/// Elliott 1963).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bursts {
    /// How long a link is good, in the mean.
    pub every: Duration,
    /// How long it is bad, in the mean.
    pub lasts: Duration,
    /// Probability that a frame is lost while it is bad; whoever survives that is subject to the steady loss.
    pub loss: f64,
}

/// The air between one device and one gateway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Signal strength at the gateway, in dBm.
    pub rssi_dbm: i16,
    /// Signal-to-noise ratio at the gateway, in dB.
    pub snr_db: f32,
    /// Probability that an uplink is lost.
    pub uplink_loss: f64,
    /// Probability that a downlink is lost.
    pub downlink_loss: f64,
}

/// The air.
#[derive(Clone, Debug)]
pub struct Channel {
    config: ChannelConfig,
    seed: u64,
    /// Only links that were set exist.
    closed: bool,
    gateways: Numbers<GatewayEui>,
    devices: Numbers<DevEui>,
    /// By device: its links, by gateway.
    links: Vec<Vec<(u32, State)>>,
    /// By gateway: the devices it was given a link to, in a channel that is closed; rising.
    reached: Vec<Vec<u32>>,
    bursts: Option<Bursts>,
    /// Links whose loss depends on the data rate and power of each frame too.
    budgets: BTreeMap<(u32, u32), LinkBudget>,
}

/// Members by running number, so that a large fleet needs no search for each frame.
#[derive(Clone, Debug)]
struct Numbers<E> {
    by_eui: BTreeMap<E, u32>,
    euis: Vec<E>,
}

impl<E> Default for Numbers<E> {
    fn default() -> Self {
        Self {
            by_eui: BTreeMap::new(),
            euis: Vec::new(),
        }
    }
}

impl<E: Ord + Copy> Numbers<E> {
    fn of(&mut self, eui: E) -> u32 {
        let next = u32::try_from(self.euis.len()).unwrap_or(u32::MAX);
        let euis = &mut self.euis;
        *self.by_eui.entry(eui).or_insert_with(|| {
            euis.push(eui);
            next
        })
    }
}

#[derive(Clone, Debug)]
struct State {
    /// `None`: out of reach.
    link: Option<Link>,
    random: Random,
    /// Made when bursts are first asked for.
    burst: Option<Box<Burst>>,
}

/// Which state a link is in, and until when.
#[derive(Clone, Debug)]
struct Burst {
    /// Its own, so that a burst changes nothing but what it destroys.
    random: Random,
    bad: bool,
    until: Option<Timestamp>,
}

impl Channel {
    /// Air in which every device reaches every gateway, with a signal drawn for each link.
    pub fn new(config: ChannelConfig, seed: u64) -> Self {
        Self {
            config,
            seed,
            closed: false,
            gateways: Numbers::default(),
            devices: Numbers::default(),
            links: Vec::new(),
            reached: Vec::new(),
            bursts: None,
            budgets: BTreeMap::new(),
        }
    }

    /// Frames of a link are lost as its budget says too, beside its steady loss.
    pub fn set_budget(&mut self, gateway: GatewayEui, device: DevEui, budget: LinkBudget) {
        let numbers = (self.gateway_number(gateway), self.device_number(device));
        self.budgets.insert(numbers, budget);
    }

    /// Whether a receiver at the other end notices this frame at all.
    pub(crate) fn is_audible_at(&self, gateway: u32, device: u32, frame: &OnAir) -> bool {
        let budget = self.budgets.get(&(gateway, device));
        budget.is_none_or(|budget| budget.is_audible(frame.power_dbm, frame.data_rate))
    }

    /// Draws whether the budget of a link carries this frame; each one where there is no budget.
    pub(crate) fn carries_at(&mut self, gateway: u32, device: u32, frame: &OnAir) -> bool {
        let Some(budget) = self.budgets.get(&(gateway, device)) else {
            return true;
        };
        let loss = budget.frame_loss(frame.power_dbm, frame.data_rate);
        !self.state(gateway, device).random.chance(loss)
    }

    /// Air in which nobody reaches anybody but by links that are set: what a large fleet needs, for it costs memory and
    /// time by what is in reach.
    pub fn closed(config: ChannelConfig, seed: u64) -> Self {
        Self {
            closed: true,
            ..Self::new(config, seed)
        }
    }

    /// From now on loss comes in bursts as well, or no longer.
    pub fn set_bursts(&mut self, bursts: Option<Bursts>) {
        self.bursts = bursts;
    }

    /// Changes a link; `None` is out of reach.
    pub fn set_link(&mut self, gateway: GatewayEui, device: DevEui, link: Option<Link>) {
        let (gateway, device) = (self.gateway_number(gateway), self.device_number(device));
        self.state(gateway, device).link = link;
        let reached = &mut self.reached[index(gateway)];
        if let Err(at) = reached.binary_search(&device)
            && self.closed
        {
            reached.insert(at, device);
        }
    }

    /// Opens a link with a signal drawn for it, and the loss of the whole channel.
    pub fn open_link(&mut self, gateway: GatewayEui, device: DevEui) {
        let (number, at) = (self.gateway_number(gateway), self.device_number(device));
        let link = self
            .state(number, at)
            .link
            .or_else(|| Some(self.draw(number, at).0));
        self.set_link(gateway, device, link);
    }

    /// Whether uplinks at the same time destroy each other from now on.
    pub fn set_collisions(&mut self, collisions: bool) {
        self.config.collisions = collisions;
    }

    /// Changes what is lost on all links.
    pub fn set_loss(&mut self, uplink_loss: f64, downlink_loss: f64) {
        self.config.uplink_loss = uplink_loss;
        self.config.downlink_loss = downlink_loss;
        let states = self.links.iter_mut().flatten();
        for link in states.filter_map(|(_, state)| state.link.as_mut()) {
            link.uplink_loss = uplink_loss;
            link.downlink_loss = downlink_loss;
        }
    }

    /// The air between the two; `None` if they do not reach each other.
    pub fn link(&mut self, gateway: GatewayEui, device: DevEui) -> Option<Link> {
        let (gateway, device) = (self.gateway_number(gateway), self.device_number(device));
        self.link_at(gateway, device)
    }

    /// Draws the fate of an uplink that ends at `at`: the link if it arrives.
    pub fn uplink_arrives(
        &mut self,
        at: Timestamp,
        gateway: GatewayEui,
        device: DevEui,
    ) -> Option<Link> {
        let (gateway, device) = (self.gateway_number(gateway), self.device_number(device));
        self.uplink_arrives_at(at, gateway, device)
    }

    /// Draws the fate of a downlink that ends at `at`.
    pub fn downlink_arrives(&mut self, at: Timestamp, gateway: GatewayEui, device: DevEui) -> bool {
        let (gateway, device) = (self.gateway_number(gateway), self.device_number(device));
        self.downlink_arrives_at(at, gateway, device)
    }

    /// Whether a frame is destroyed at a gateway by another one there.
    pub fn collides(&self, frame: (&OnAir, Link), other: (&OnAir, Link)) -> bool {
        let overlap = frame.0.start < other.0.end && other.0.start < frame.0.end;
        let same =
            frame.0.frequency_hz == other.0.frequency_hz && frame.0.data_rate == other.0.data_rate;
        let stronger = frame.1.rssi_dbm >= other.1.rssi_dbm.saturating_add(CAPTURE_DB);
        self.config.collisions && overlap && same && !stronger
    }
}

/// By running numbers, for who asks often.
impl Channel {
    pub(crate) fn gateway_number(&mut self, gateway: GatewayEui) -> u32 {
        let number = self.gateways.of(gateway);
        self.reached.resize_with(self.gateways.euis.len(), Vec::new);
        number
    }

    pub(crate) fn device_number(&mut self, device: DevEui) -> u32 {
        let number = self.devices.of(device);
        self.links.resize_with(self.devices.euis.len(), Vec::new);
        number
    }

    /// The devices a gateway was given links to; `None` where all are in reach unless told otherwise.
    pub(crate) fn reached(&self, gateway: u32) -> Option<&[u32]> {
        self.closed.then(|| self.reached[index(gateway)].as_slice())
    }

    /// The gateways a device was given links to; `None` as for [`Channel::reached`].
    pub(crate) fn reaches(&self, device: u32) -> Option<Vec<u32>> {
        let links = self.links[index(device)].iter();
        self.closed
            .then(|| links.map(|(gateway, _)| *gateway).collect())
    }

    pub(crate) fn link_at(&mut self, gateway: u32, device: u32) -> Option<Link> {
        self.known(gateway, device)?.link
    }

    pub(crate) fn uplink_arrives_at(
        &mut self,
        at: Timestamp,
        gateway: u32,
        device: u32,
    ) -> Option<Link> {
        let destroyed = self.burst_destroys(at, gateway, device);
        let state = self.known(gateway, device)?;
        let link = state.link?;
        (!state.random.chance(link.uplink_loss) && !destroyed).then_some(link)
    }

    pub(crate) fn downlink_arrives_at(&mut self, at: Timestamp, gateway: u32, device: u32) -> bool {
        let destroyed = self.burst_destroys(at, gateway, device);
        let Some(state) = self.known(gateway, device) else {
            return false;
        };
        let Some(link) = state.link else {
            return false;
        };
        !state.random.chance(link.downlink_loss) && !destroyed
    }

    /// Whether a frame over a link falls to a burst.
    fn burst_destroys(&mut self, at: Timestamp, gateway: u32, device: u32) -> bool {
        let Some(bursts) = self.bursts else {
            return false;
        };
        let (eui, dev_eui) = self.euis(gateway, device);
        let seed = self.seed;
        let Some(state) = self.known(gateway, device).filter(|s| s.link.is_some()) else {
            return false;
        };
        let burst = state.burst.get_or_insert_with(|| {
            Box::new(Burst {
                random: Random::of(seed ^ eui.0.rotate_left(16), dev_eui.0),
                bad: false,
                until: None,
            })
        });
        burst.destroys(at, bursts)
    }

    /// The state of a link; `None` if it does not exist in a channel that is closed.
    fn known(&mut self, gateway: u32, device: u32) -> Option<&mut State> {
        let at = self.place(gateway, device);
        match at {
            Ok(at) => Some(&mut self.links[index(device)][at].1),
            Err(_) if self.closed => None,
            Err(_) => Some(self.state(gateway, device)),
        }
    }

    fn place(&self, gateway: u32, device: u32) -> Result<usize, usize> {
        self.links[index(device)].binary_search_by_key(&gateway, |(gateway, _)| *gateway)
    }

    fn state(&mut self, gateway: u32, device: u32) -> &mut State {
        let at = self.place(gateway, device).unwrap_or_else(|at| {
            let (link, random) = self.draw(gateway, device);
            let state = State {
                link: (!self.closed).then_some(link),
                random,
                burst: None,
            };
            self.links[index(device)].insert(at, (gateway, state));
            at
        });
        &mut self.links[index(device)][at].1
    }

    /// A link as it is unless told otherwise, and what its losses are drawn from.
    fn draw(&self, gateway: u32, device: u32) -> (Link, Random) {
        let (gateway, device) = self.euis(gateway, device);
        let mut random = Random::of(self.seed ^ gateway.0.rotate_left(32), device.0);
        // Between 70 and 110 dBm below a milliwatt; the noise lies at -117.
        let rssi_dbm = -70 - i16::try_from(random.below(41)).unwrap_or(0);
        let snr_db = f32::from(rssi_dbm + 117).min(10.0);
        let link = Link {
            rssi_dbm,
            snr_db,
            uplink_loss: self.config.uplink_loss,
            downlink_loss: self.config.downlink_loss,
        };
        (link, random)
    }

    fn euis(&self, gateway: u32, device: u32) -> (GatewayEui, DevEui) {
        let gateway = self.gateways.euis[index(gateway)];
        (gateway, self.devices.euis[index(device)])
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Burst {
    /// Whether a frame that ends at `at` falls to a burst.
    fn destroys(&mut self, at: Timestamp, bursts: Bursts) -> bool {
        let mut until = match self.until {
            Some(until) => until,
            None => at + self.random.exponential(bursts.every),
        };
        while until <= at {
            self.bad = !self.bad;
            let mean = if self.bad { bursts.lasts } else { bursts.every };
            until += self.random.exponential(mean).max(Duration::from_millis(1));
        }
        self.until = Some(until);
        self.bad && self.random.chance(bursts.loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_destroy_their_share_and_in_a_row() {
        let config = ChannelConfig {
            uplink_loss: 0.0,
            downlink_loss: 0.0,
            collisions: false,
        };
        let mut channel = Channel::new(config, 1);
        channel.set_bursts(Some(Bursts {
            every: Duration::from_secs(90),
            lasts: Duration::from_secs(10),
            loss: 1.0,
        }));
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        let arrives: Vec<bool> = (0..100_000)
            .map(|s| {
                let at = start + Duration::from_secs(s);
                channel.downlink_arrives(at, GatewayEui(1), DevEui(1))
            })
            .collect();
        let lost = arrives.iter().filter(|arrives| !**arrives).count();
        assert!((8_000..12_000).contains(&lost), "{lost}");
        let begun = arrives.windows(2).filter(|w| w[0] && !w[1]).count();
        assert!((700..1_200).contains(&begun), "{begun}");
    }
}
