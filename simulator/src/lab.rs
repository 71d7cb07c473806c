//! A lab: end-devices, gateways and the air between them, stepped in virtual time.
//!
//! PURE. What happens is a function of the members, their seeds and the requests; how late it is asked for does not
//! matter, since every event is worked off at its own time. Devices do not hear each other, nor gateways.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::time::Timestamp;

use crate::channel::{Channel, Link};
use crate::device::{DeviceOutput, EndDevice};
use crate::gateway::{Gateway, OnAir, Received, TxError, TxRequest};

/// How long an uplink is kept for the sake of collisions: longer than any uplink lasts.
const UPLINK_KEPT: Duration = Duration::from_secs(4);
/// The least time until a device that did nothing is asked again.
const IDLE_STEP: Duration = Duration::from_millis(1);

/// What the whole lab did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabCounts {
    /// Uplinks sent.
    pub uplinks: u64,
    /// Uplinks destroyed at a gateway by another one; counted for each gateway.
    pub uplink_collisions: u64,
    /// Downlinks sent.
    pub downlinks: u64,
    /// Downlinks that began while another gateway was sending on the same frequency.
    pub downlink_overlaps: u64,
    /// Downlinks a device was listening for and lost; counted for each device.
    pub downlinks_lost: u64,
}

/// Devices, gateways and the air between them.
#[derive(Clone, Debug)]
pub struct Lab {
    devices: Vec<Member>,
    by_eui: BTreeMap<DevEui, usize>,
    gateways: Vec<Gateway>,
    channel: Channel,
    /// What is on air, by a running number.
    flights: BTreeMap<u64, Flight>,
    flights_begun: u64,
    /// Uplinks that ended lately.
    landed: VecDeque<(usize, OnAir)>,
    schedule: BTreeSet<(Timestamp, Actor)>,
    gateway_wakes: Vec<Option<Timestamp>>,
    /// The moment reached: nothing happens before it any more.
    reached: Timestamp,
    counts: LabCounts,
    /// Downlinks that began since they were last asked for; `None` where nobody asks.
    downlinks: Option<Vec<(GatewayEui, OnAir)>>,
}

#[derive(Clone, Debug)]
struct Member {
    device: EndDevice,
    wake: Option<Timestamp>,
    /// Busy with a frame until then.
    locked_until: Option<Timestamp>,
}

/// Who acts; at one moment frames end before anyone sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    Flight(u64),
    Gateway(usize),
    Device(usize),
}

#[derive(Clone, Debug)]
enum Flight {
    Uplink {
        device: usize,
        frame: OnAir,
    },
    Downlink {
        gateway: GatewayEui,
        frame: OnAir,
        listeners: Vec<usize>,
    },
}

impl Lab {
    /// A lab of these members. Of devices with one EUI only the last can be asked for.
    pub fn new(devices: Vec<EndDevice>, gateways: Vec<Gateway>, channel: Channel) -> Self {
        let by_eui = (0..).zip(&devices);
        let by_eui = by_eui.map(|(at, device)| (device.dev_eui(), at)).collect();
        let devices: Vec<Member> = devices
            .into_iter()
            .map(|device| Member {
                device,
                wake: None,
                locked_until: None,
            })
            .collect();
        let mut lab = Self {
            by_eui,
            gateway_wakes: vec![None; gateways.len()],
            gateways,
            channel,
            flights: BTreeMap::new(),
            flights_begun: 0,
            landed: VecDeque::new(),
            schedule: BTreeSet::new(),
            reached: Timestamp::from_micros(i64::MIN),
            counts: LabCounts::default(),
            downlinks: None,
            devices,
        };
        for at in 0..lab.devices.len() {
            lab.reschedule_device(at, None);
        }
        lab
    }

    /// The devices, in the order they were given.
    pub fn devices(&self) -> impl Iterator<Item = &EndDevice> {
        self.devices.iter().map(|member| &member.device)
    }

    /// A device by its EUI.
    pub fn device(&self, dev_eui: DevEui) -> Option<&EndDevice> {
        let member = self.devices.get(*self.by_eui.get(&dev_eui)?)?;
        Some(&member.device)
    }

    /// The gateways, in the order they were given.
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// The air, to change it.
    pub fn channel_mut(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// What happened so far.
    pub fn counts(&self) -> &LabCounts {
        &self.counts
    }

    /// When something happens next by itself.
    pub fn next_event(&self) -> Option<Timestamp> {
        self.schedule.first().map(|&(at, _)| at)
    }

    /// Works off what happens until `now`: what each gateway received, in order.
    pub fn advance(&mut self, now: Timestamp) -> Vec<(GatewayEui, Received)> {
        let mut received = Vec::new();
        while let Some(&(at, actor)) = self.schedule.first()
            && at <= now
        {
            self.schedule.remove(&(at, actor));
            self.reached = at;
            match actor {
                Actor::Flight(number) => match self.flights.remove(&number) {
                    Some(Flight::Uplink { device, frame }) => {
                        self.land_uplink(device, frame, &mut received);
                    }
                    Some(Flight::Downlink {
                        gateway,
                        frame,
                        listeners,
                    }) => self.land_downlink(gateway, &frame, &listeners),
                    None => {}
                },
                Actor::Gateway(gateway) => self.advance_gateway(gateway, at),
                Actor::Device(device) => self.advance_device(device, at),
            }
        }
        self.reached = self.reached.max(now);
        received
    }

    /// Asks a gateway to send. The lab must have been advanced to `now`.
    ///
    /// # Errors
    /// Why the gateway refuses; [`TxError::UnknownGateway`] if there is none of this EUI.
    pub fn request(
        &mut self,
        now: Timestamp,
        gateway: GatewayEui,
        request: TxRequest,
    ) -> Result<(), TxError> {
        let at = self
            .gateways
            .iter()
            .position(|candidate| candidate.eui() == gateway)
            .ok_or(TxError::UnknownGateway)?;
        let result = self.gateways[at].request(now, request);
        self.reschedule_gateway(at);
        result
    }

    /// A gateway (all if `None`) is cut off or comes back; without power it also loses what it was to send.
    pub fn set_down(
        &mut self,
        now: Timestamp,
        gateway: Option<GatewayEui>,
        down: bool,
        power: bool,
    ) {
        for at in 0..self.gateways.len() {
            if gateway.is_none_or(|eui| self.gateways[at].eui() == eui) {
                self.gateways[at].set_down(now, down, power);
                self.reschedule_gateway(at);
            }
        }
    }

    /// Whether there is such a gateway, and it is cut off.
    pub fn gateway_is_down(&self, gateway: GatewayEui) -> bool {
        let mut gateways = self.gateways.iter();
        gateways.any(|g| g.eui() == gateway && g.is_down())
    }

    /// Downlinks that began since the last call, for who wants to check them; the first call begins to collect.
    pub fn take_downlinks(&mut self) -> Vec<(GatewayEui, OnAir)> {
        self.downlinks.replace(Vec::new()).unwrap_or_default()
    }

    /// Does something to a device from outside, like a reset.
    pub fn change_device(&mut self, dev_eui: DevEui, change: impl FnOnce(&mut EndDevice)) {
        if let Some(&at) = self.by_eui.get(&dev_eui) {
            change(&mut self.devices[at].device);
            self.reschedule_device(at, None);
        }
    }

    fn advance_device(&mut self, at: usize, now: Timestamp) {
        self.devices[at].wake = None;
        let outputs = self.devices[at].device.advance(now);
        // A device that did nothing and wants the same moment again would stop the world.
        let earliest = outputs.is_empty().then_some(now + IDLE_STEP);
        for DeviceOutput::Transmit(uplink) in outputs {
            self.counts.uplinks += 1;
            let frame = OnAir {
                start: now,
                end: now + uplink.airtime,
                frequency_hz: uplink.frequency_hz,
                data_rate: uplink.data_rate,
                phy_payload: uplink.phy_payload,
                power_dbm: 14,
                beacon: false,
            };
            self.take_off(frame.end, Flight::Uplink { device: at, frame });
        }
        self.reschedule_device(at, earliest);
    }

    fn advance_gateway(&mut self, at: usize, now: Timestamp) {
        self.gateway_wakes[at] = None;
        let gateway = self.gateways[at].eui();
        for frame in self.gateways[at].advance(now) {
            self.counts.downlinks += 1;
            if let Some(downlinks) = &mut self.downlinks {
                downlinks.push((gateway, frame.clone()));
            }
            let overlaps = self.flights.values().any(|flight| match flight {
                Flight::Downlink {
                    gateway: other,
                    frame: on_air,
                    ..
                } => {
                    *other != gateway
                        && !on_air.is_same(&frame)
                        && on_air.frequency_hz == frame.frequency_hz
                        && frame.start < on_air.end
                }
                Flight::Uplink { .. } => false,
            });
            self.counts.downlink_overlaps += u64::from(overlaps);
            let listeners = self.listeners(gateway, &frame);
            self.take_off(
                frame.end,
                Flight::Downlink {
                    gateway,
                    frame,
                    listeners,
                },
            );
        }
        self.reschedule_gateway(at);
    }

    /// Which devices lock on a frame that begins.
    fn listeners(&mut self, gateway: GatewayEui, frame: &OnAir) -> Vec<usize> {
        let mut listeners = Vec::new();
        // The same frame from two gateways at one instant is one frame to a receiver: either link may bring it.
        let joint: BTreeSet<usize> = self
            .flights
            .values()
            .filter_map(|flight| match flight {
                Flight::Downlink {
                    frame: other,
                    listeners,
                    ..
                } if other.is_same(frame) => Some(listeners),
                Flight::Downlink { .. } | Flight::Uplink { .. } => None,
            })
            .flatten()
            .copied()
            .collect();
        for (at, member) in self.devices.iter_mut().enumerate() {
            let (hz, data_rate) = (frame.frequency_hz, frame.data_rate);
            let locked = member.locked_until.is_some_and(|until| frame.start < until)
                && !joint.contains(&at);
            if locked
                || !member.device.hears(hz, data_rate, frame.start, frame.end)
                || self
                    .channel
                    .link(gateway, member.device.dev_eui())
                    .is_none()
                || !self
                    .channel
                    .is_audible(gateway, member.device.dev_eui(), frame)
            {
                continue;
            }
            member.locked_until = Some(frame.end);
            member
                .device
                .start_receiving(hz, data_rate, frame.start, frame.end);
            listeners.push(at);
        }
        for &at in &listeners {
            self.reschedule_device(at, None);
        }
        listeners
    }

    fn land_downlink(&mut self, gateway: GatewayEui, frame: &OnAir, listeners: &[usize]) {
        for &at in listeners {
            let member = &mut self.devices[at];
            member.locked_until = None;
            let stayed =
                member
                    .device
                    .hears(frame.frequency_hz, frame.data_rate, frame.start, frame.end);
            let dev_eui = member.device.dev_eui();
            let arrives = self.channel.downlink_arrives(frame.end, gateway, dev_eui)
                && self.channel.carries(gateway, dev_eui, frame);
            if stayed && arrives {
                if frame.beacon {
                    let payload = &frame.phy_payload;
                    member
                        .device
                        .receive_beacon(frame.end, frame.start, payload);
                } else {
                    member.device.receive(frame.end, &frame.phy_payload);
                }
                self.reschedule_device(at, None);
            } else {
                self.counts.downlinks_lost += 1;
            }
        }
    }

    fn land_uplink(
        &mut self,
        device: usize,
        frame: OnAir,
        received: &mut Vec<(GatewayEui, Received)>,
    ) {
        let dev_eui = self.devices[device].device.dev_eui();
        for at in 0..self.gateways.len() {
            let gateway = self.gateways[at].eui();
            let Some(link) = self.channel.uplink_arrives(frame.end, gateway, dev_eui) else {
                continue;
            };
            if !self.channel.carries(gateway, dev_eui, &frame) {
                continue;
            }
            if self.is_destroyed(gateway, &frame, link, device) {
                self.counts.uplink_collisions += 1;
                continue;
            }
            if let Some(heard) = self.gateways[at].uplink(&frame, link.rssi_dbm, link.snr_db) {
                received.push((gateway, heard));
            }
        }
        let keep_from = frame.start - UPLINK_KEPT;
        while self
            .landed
            .front()
            .is_some_and(|(_, old)| old.end < keep_from)
        {
            self.landed.pop_front();
        }
        self.landed.push_back((device, frame));
    }

    /// Whether another uplink destroys this one at a gateway.
    fn is_destroyed(
        &mut self,
        gateway: GatewayEui,
        frame: &OnAir,
        link: Link,
        device: usize,
    ) -> bool {
        let flying = self.flights.values().filter_map(|flight| match flight {
            Flight::Uplink { device, frame } => Some((*device, frame)),
            Flight::Downlink { .. } => None,
        });
        let landed = self.landed.iter().map(|(device, frame)| (*device, frame));
        for (other, other_frame) in flying.chain(landed) {
            let apart = other_frame.end <= frame.start || frame.end <= other_frame.start;
            if other == device || apart {
                continue;
            }
            let other_eui = self.devices[other].device.dev_eui();
            if let Some(other_link) = self.channel.link(gateway, other_eui)
                && self
                    .channel
                    .collides((frame, link), (other_frame, other_link))
            {
                return true;
            }
        }
        false
    }

    fn take_off(&mut self, lands_at: Timestamp, flight: Flight) {
        let number = self.flights_begun;
        self.flights_begun += 1;
        self.flights.insert(number, flight);
        self.schedule.insert((lands_at, Actor::Flight(number)));
    }

    fn reschedule_device(&mut self, at: usize, earliest: Option<Timestamp>) {
        let member = &mut self.devices[at];
        if let Some(old) = member.wake.take() {
            self.schedule.remove(&(old, Actor::Device(at)));
        }
        // What a device could have done earlier, had it known, it does now.
        let earliest = earliest.map_or(self.reached, |earliest| earliest.max(self.reached));
        let next = member.device.next_event();
        member.wake = next.map(|next| next.max(earliest));
        if let Some(wake) = member.wake {
            self.schedule.insert((wake, Actor::Device(at)));
        }
    }

    fn reschedule_gateway(&mut self, at: usize) {
        if let Some(old) = self.gateway_wakes[at].take() {
            self.schedule.remove(&(old, Actor::Gateway(at)));
        }
        self.gateway_wakes[at] = self.gateways[at].next_event();
        if let Some(wake) = self.gateway_wakes[at] {
            self.schedule.insert((wake, Actor::Gateway(at)));
        }
    }
}
