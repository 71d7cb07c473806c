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
    links: BTreeMap<(GatewayEui, DevEui), State>,
    bursts: Option<Bursts>,
    /// Links whose loss depends on the data rate and power of each frame too.
    budgets: BTreeMap<(GatewayEui, DevEui), LinkBudget>,
}

#[derive(Clone, Debug)]
struct State {
    /// `None`: out of reach.
    link: Option<Link>,
    random: Random,
    burst: Burst,
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
            links: BTreeMap::new(),
            bursts: None,
            budgets: BTreeMap::new(),
        }
    }

    /// Frames of a link are lost as its budget says too, beside its steady loss.
    pub fn set_budget(&mut self, gateway: GatewayEui, device: DevEui, budget: LinkBudget) {
        self.budgets.insert((gateway, device), budget);
    }

    /// Whether a receiver at the other end notices this frame at all.
    pub fn is_audible(&self, gateway: GatewayEui, device: DevEui, frame: &OnAir) -> bool {
        let budget = self.budgets.get(&(gateway, device));
        budget.is_none_or(|budget| budget.is_audible(frame.power_dbm, frame.data_rate))
    }

    /// Draws whether the budget of a link carries this frame; each one where there is no budget.
    pub fn carries(&mut self, gateway: GatewayEui, device: DevEui, frame: &OnAir) -> bool {
        let Some(budget) = self.budgets.get(&(gateway, device)) else {
            return true;
        };
        let loss = budget.frame_loss(frame.power_dbm, frame.data_rate);
        !self.state(gateway, device).random.chance(loss)
    }

    /// From now on loss comes in bursts as well, or no longer.
    pub fn set_bursts(&mut self, bursts: Option<Bursts>) {
        self.bursts = bursts;
    }

    /// Changes a link; `None` is out of reach.
    pub fn set_link(&mut self, gateway: GatewayEui, device: DevEui, link: Option<Link>) {
        self.state(gateway, device).link = link;
    }

    /// Whether uplinks at the same time destroy each other from now on.
    pub fn set_collisions(&mut self, collisions: bool) {
        self.config.collisions = collisions;
    }

    /// Changes what is lost on all links.
    pub fn set_loss(&mut self, uplink_loss: f64, downlink_loss: f64) {
        self.config.uplink_loss = uplink_loss;
        self.config.downlink_loss = downlink_loss;
        for link in self
            .links
            .values_mut()
            .filter_map(|state| state.link.as_mut())
        {
            link.uplink_loss = uplink_loss;
            link.downlink_loss = downlink_loss;
        }
    }

    /// The air between the two; `None` if they do not reach each other.
    pub fn link(&mut self, gateway: GatewayEui, device: DevEui) -> Option<Link> {
        self.state(gateway, device).link
    }

    /// Draws the fate of an uplink that ends at `at`: the link if it arrives.
    pub fn uplink_arrives(
        &mut self,
        at: Timestamp,
        gateway: GatewayEui,
        device: DevEui,
    ) -> Option<Link> {
        let bursts = self.bursts;
        let state = self.state(gateway, device);
        let link = state.link?;
        let destroyed = state.burst.destroys(at, bursts);
        (!state.random.chance(link.uplink_loss) && !destroyed).then_some(link)
    }

    /// Draws the fate of a downlink that ends at `at`.
    pub fn downlink_arrives(&mut self, at: Timestamp, gateway: GatewayEui, device: DevEui) -> bool {
        let bursts = self.bursts;
        let state = self.state(gateway, device);
        let Some(link) = state.link else {
            return false;
        };
        let destroyed = state.burst.destroys(at, bursts);
        !state.random.chance(link.downlink_loss) && !destroyed
    }

    /// Whether a frame is destroyed at a gateway by another one there.
    pub fn collides(&self, frame: (&OnAir, Link), other: (&OnAir, Link)) -> bool {
        let overlap = frame.0.start < other.0.end && other.0.start < frame.0.end;
        let same =
            frame.0.frequency_hz == other.0.frequency_hz && frame.0.data_rate == other.0.data_rate;
        let stronger = frame.1.rssi_dbm >= other.1.rssi_dbm.saturating_add(CAPTURE_DB);
        self.config.collisions && overlap && same && !stronger
    }

    fn state(&mut self, gateway: GatewayEui, device: DevEui) -> &mut State {
        let config = self.config;
        let seed = self.seed;
        self.links.entry((gateway, device)).or_insert_with(|| {
            let mut random = Random::of(seed ^ gateway.0.rotate_left(32), device.0);
            // Between 70 and 110 dBm below a milliwatt; the noise lies at -117.
            let rssi_dbm = -70 - i16::try_from(random.below(41)).unwrap_or(0);
            let snr_db = f32::from(rssi_dbm + 117).min(10.0);
            State {
                link: Some(Link {
                    rssi_dbm,
                    snr_db,
                    uplink_loss: config.uplink_loss,
                    downlink_loss: config.downlink_loss,
                }),
                burst: Burst {
                    random: Random::of(seed ^ gateway.0.rotate_left(16), device.0),
                    bad: false,
                    until: None,
                },
                random,
            }
        })
    }
}

impl Burst {
    /// Whether a frame that ends at `at` falls to a burst.
    fn destroys(&mut self, at: Timestamp, bursts: Option<Bursts>) -> bool {
        let Some(bursts) = bursts else {
            return false;
        };
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
