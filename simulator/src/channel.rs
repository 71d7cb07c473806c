//! The air between devices and gateways: who is in reach, how strong, and which frames are lost.
//!
//! PURE. Each link has its own generator, so what happens on one does not depend on how often others were asked.

use std::collections::BTreeMap;

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};

use crate::gateway::OnAir;
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
}

#[derive(Clone, Debug)]
struct State {
    /// `None`: out of reach.
    link: Option<Link>,
    random: Random,
}

impl Channel {
    /// Air in which every device reaches every gateway, with a signal drawn for each link.
    pub fn new(config: ChannelConfig, seed: u64) -> Self {
        Self {
            config,
            seed,
            links: BTreeMap::new(),
        }
    }

    /// Changes a link; `None` is out of reach.
    pub fn set_link(&mut self, gateway: GatewayEui, device: DevEui, link: Option<Link>) {
        self.state(gateway, device).link = link;
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

    /// Draws the fate of an uplink: the link if it arrives.
    pub fn uplink_arrives(&mut self, gateway: GatewayEui, device: DevEui) -> Option<Link> {
        let state = self.state(gateway, device);
        let link = state.link?;
        (!state.random.chance(link.uplink_loss)).then_some(link)
    }

    /// Draws the fate of a downlink.
    pub fn downlink_arrives(&mut self, gateway: GatewayEui, device: DevEui) -> bool {
        let state = self.state(gateway, device);
        match state.link {
            Some(link) => !state.random.chance(link.downlink_loss),
            None => false,
        }
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
                random,
            }
        })
    }
}
