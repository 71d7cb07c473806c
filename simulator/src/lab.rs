//! A lab: end-devices, gateways and the air between them, stepped in virtual time.
//!
//! PURE. What happens is a function of the members, their seeds and the requests; how late it is asked for does not
//! matter, since every event is worked off at its own time. Devices do not hear each other, nor gateways.

mod backlog;
mod ears;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::time::Timestamp;

use crate::channel::{Channel, Link};
use crate::device::{DeviceOutput, EndDevice, SharedFrame};
use crate::gateway::{Gateway, OnAir, Received, TxError, TxRequest};

use backlog::{Backlog, Place};
use ears::{Ears, Who};

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
    gateway_by_eui: BTreeMap<GatewayEui, usize>,
    channel: Channel,
    /// The channel's numbers of the gateways, and back; and which device has a number of the channel's.
    gateway_numbers: Vec<u32>,
    gateway_of_number: Vec<usize>,
    device_of_number: Vec<u32>,
    ears: Ears,
    backlog: Backlog,
    /// What is on air, by a running number.
    flights: BTreeMap<u64, Flight>,
    flights_begun: u64,
    /// Uplinks that ended lately, in that order.
    landed: VecDeque<(usize, OnAir)>,
    /// The downlink that was received last: many devices hear the same one.
    shared: Option<SharedFrame>,
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
    /// Busy until then with a frame, by the number of its first flight.
    locked: Option<(Timestamp, u64)>,
    /// What the channel calls it.
    number: u32,
    /// It may be told of fragments later; and how far it is with them.
    can_wait: bool,
    place: Place,
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
        gateway: usize,
        frame: OnAir,
        /// The first flight of the same frame: from two gateways at one instant it is one frame to a receiver.
        first: u64,
        listeners: Vec<u32>,
        /// Its place among the frames that devices are told of later.
        deferred: Option<u32>,
    },
}

impl Lab {
    /// A lab of these members. Of devices with one EUI only the last can be asked for.
    pub fn new(devices: Vec<EndDevice>, gateways: Vec<Gateway>, mut channel: Channel) -> Self {
        let by_eui = (0..).zip(&devices);
        let by_eui = by_eui.map(|(at, device)| (device.dev_eui(), at)).collect();
        let mut device_of_number = Vec::new();
        let devices: Vec<Member> = (0..)
            .zip(devices)
            .map(|(at, device)| {
                let number = channel.device_number(device.dev_eui());
                place(&mut device_of_number, number, at);
                Member {
                    can_wait: device.can_wait(),
                    place: Place::default(),
                    device,
                    wake: None,
                    locked: None,
                    number,
                }
            })
            .collect();
        let gateway_by_eui = (0..).zip(&gateways).map(|(at, g)| (g.eui(), at)).collect();
        let gateway_numbers: Vec<u32> = gateways
            .iter()
            .map(|gateway| channel.gateway_number(gateway.eui()))
            .collect();
        let mut gateway_of_number = Vec::new();
        for (at, number) in (0..).zip(&gateway_numbers) {
            place(&mut gateway_of_number, *number, at);
        }
        let mut lab = Self {
            by_eui,
            gateway_by_eui,
            gateway_wakes: vec![None; gateways.len()],
            gateways,
            channel,
            gateway_numbers,
            gateway_of_number,
            device_of_number,
            ears: Ears::default(),
            backlog: Backlog::default(),
            flights: BTreeMap::new(),
            flights_begun: 0,
            landed: VecDeque::new(),
            shared: None,
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
            self.schedule.pop_first();
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
                        deferred,
                        ..
                    }) => {
                        self.land_downlink(gateway, &frame, &listeners);
                        self.tell_due(deferred);
                    }
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
        let known = self.gateway_by_eui.get(&gateway);
        let at = *known.ok_or(TxError::UnknownGateway)?;
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
        let known = self.gateway_by_eui.get(&gateway);
        known.is_some_and(|at| self.gateways[*at].is_down())
    }

    /// Downlinks that began since the last call, for who wants to check them; the first call begins to collect.
    pub fn take_downlinks(&mut self) -> Vec<(GatewayEui, OnAir)> {
        self.downlinks.replace(Vec::new()).unwrap_or_default()
    }

    /// Does something to a device from outside, like a reset.
    pub fn change_device(&mut self, dev_eui: DevEui, change: impl FnOnce(&mut EndDevice)) {
        if let Some(&at) = self.by_eui.get(&dev_eui) {
            self.catch_up(at);
            change(&mut self.devices[at].device);
            self.reschedule_device(at, None);
        }
    }

    /// Tells all devices of what they are told later, before they are looked at.
    pub fn settle(&mut self) {
        for at in 0..self.devices.len() {
            self.catch_up(at);
        }
    }

    /// Tells a device of the frames it has not been told of, before anything else happens to it.
    fn catch_up(&mut self, at: usize) {
        let member = &mut self.devices[at];
        if !member.can_wait {
            return;
        }
        let device = (&mut member.device, &mut member.place, member.number);
        let channel = &mut self.channel;
        let now = self.reached;
        self.counts.downlinks_lost +=
            self.backlog
                .catch_up(now, device, &mut member.locked, channel);
    }

    /// Tells those devices of a frame that is over for which it may be the last.
    fn tell_due(&mut self, deferred: Option<u32>) {
        let due = deferred.map(|at| self.backlog.landed(at));
        for at in due.into_iter().flatten().map(index) {
            self.devices[at].place.due = None;
            self.catch_up(at);
            self.reschedule_device(at, None);
        }
    }

    /// Whether devices can be told of a frame later that begins: if it is a fragment, or for none of their groups.
    fn can_be_deferred(&mut self, frame: &OnAir) -> bool {
        if frame.beacon || !self.ears.anyone_deferring(frame.frequency_hz, frame.end) {
            return false;
        }
        let mut shared = self.shared_frame(frame);
        let member = shared.dev_addr().and_then(|group| self.ears.member(group));
        let is_fragment = member.is_none_or(|at| {
            let device = &self.devices[index(at)].device;
            device.is_fragment(&mut shared) == Some(true)
        });
        self.shared = Some(shared);
        is_fragment
    }

    fn shared_frame(&mut self, frame: &OnAir) -> SharedFrame {
        let shared = self.shared.take();
        let shared = shared.filter(|shared| shared.is(&frame.phy_payload));
        shared.unwrap_or_else(|| SharedFrame::new(&frame.phy_payload))
    }

    fn advance_device(&mut self, at: usize, now: Timestamp) {
        self.catch_up(at);
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
            let windows = self.devices[at].device.windows_open();
            self.ears.open_windows(number(at), windows);
            self.take_off(frame.end, Flight::Uplink { device: at, frame });
        }
        self.reschedule_device(at, earliest);
    }

    fn advance_gateway(&mut self, at: usize, now: Timestamp) {
        self.gateway_wakes[at] = None;
        for frame in self.gateways[at].advance(now) {
            self.counts.downlinks += 1;
            if let Some(downlinks) = &mut self.downlinks {
                downlinks.push((self.gateways[at].eui(), frame.clone()));
            }
            let (mut overlaps, mut first) = (false, self.flights_begun);
            for flight in self.flights.values() {
                let Flight::Downlink {
                    gateway: other,
                    frame: on_air,
                    first: first_of_other,
                    ..
                } = flight
                else {
                    continue;
                };
                if on_air.is_same(&frame) {
                    first = *first_of_other;
                } else {
                    overlaps |= *other != at
                        && on_air.frequency_hz == frame.frequency_hz
                        && frame.start < on_air.end;
                }
            }
            self.counts.downlink_overlaps += u64::from(overlaps);
            let can_be_deferred = self.can_be_deferred(&frame);
            let who = if can_be_deferred {
                Who::Prompt
            } else {
                Who::All
            };
            let (asked, listeners) = self.listeners(at, &frame, first, who);
            let deferred = can_be_deferred.then(|| {
                let place = self.backlog.add(self.gateway_numbers[at], first, &frame);
                for device in asked {
                    let member = &mut self.devices[index(device)];
                    self.backlog.leave_out(&mut member.place, place);
                }
                place
            });
            self.take_off(
                frame.end,
                Flight::Downlink {
                    gateway: at,
                    frame,
                    first,
                    listeners,
                    deferred,
                },
            );
        }
        self.reschedule_gateway(at);
    }

    /// Which devices were asked whether they hear a frame that begins, and which lock on it. The same frame from two
    /// gateways at one instant is one frame to a receiver: either link may bring it.
    fn listeners(
        &mut self,
        gateway: usize,
        frame: &OnAir,
        first: u64,
        who: Who,
    ) -> (Vec<u32>, Vec<u32>) {
        let gateway = self.gateway_numbers[gateway];
        let reached = self.channel.reached(gateway);
        let reached = reached.map(|numbers| (numbers, self.device_of_number.as_slice()));
        let (hz, data_rate) = (frame.frequency_hz, frame.data_rate);
        let asked = self
            .ears
            .may_hear(who, hz, (frame.start, frame.end), reached);
        let mut listeners = Vec::new();
        let mut in_windows = Vec::new();
        for &at in &asked {
            self.catch_up(index(at));
            let member = &mut self.devices[index(at)];
            let locked = member
                .locked
                .is_some_and(|(until, other)| frame.start < until && other != first);
            if locked
                || !member.device.hears(hz, data_rate, frame.start, frame.end)
                || self.channel.link_at(gateway, member.number).is_none()
                || !self.channel.is_audible_at(gateway, member.number, frame)
            {
                continue;
            }
            member.locked = Some((frame.end, first));
            if member
                .device
                .start_receiving(hz, data_rate, frame.start, frame.end)
            {
                in_windows.push(index(at));
            }
            listeners.push(at);
        }
        for at in in_windows {
            self.reschedule_device(at, None);
        }
        (asked, listeners)
    }

    fn land_downlink(&mut self, gateway: usize, frame: &OnAir, listeners: &[u32]) {
        let gateway = self.gateway_numbers[gateway];
        let mut shared = self.shared_frame(frame);
        for &at in listeners {
            let at = index(at);
            self.catch_up(at);
            let member = &mut self.devices[at];
            member.locked = None;
            let stayed =
                member
                    .device
                    .hears(frame.frequency_hz, frame.data_rate, frame.start, frame.end);
            let number = member.number;
            let arrives = self.channel.downlink_arrives_at(frame.end, gateway, number)
                && self.channel.carries_at(gateway, number, frame);
            if stayed && arrives {
                if frame.beacon {
                    let payload = &frame.phy_payload;
                    member
                        .device
                        .receive_beacon(frame.end, frame.start, payload);
                } else {
                    member.device.receive_shared(frame.end, &mut shared);
                }
                self.reschedule_device(at, None);
            } else {
                self.counts.downlinks_lost += 1;
            }
        }
        self.shared = Some(shared);
    }

    fn land_uplink(
        &mut self,
        device: usize,
        frame: OnAir,
        received: &mut Vec<(GatewayEui, Received)>,
    ) {
        let number = self.devices[device].number;
        let in_reach: Vec<usize> = match self.channel.reaches(number) {
            Some(gateways) => gateways
                .iter()
                .filter_map(|gateway| self.gateway_of_number.get(index(*gateway)).copied())
                .collect(),
            None => (0..self.gateways.len()).collect(),
        };
        for at in in_reach {
            let gateway = self.gateway_numbers[at];
            let Some(link) = self.channel.uplink_arrives_at(frame.end, gateway, number) else {
                continue;
            };
            if !self.channel.carries_at(gateway, number, &frame) {
                continue;
            }
            if self.is_destroyed(gateway, &frame, link, device) {
                self.counts.uplink_collisions += 1;
                continue;
            }
            if let Some(heard) = self.gateways[at].uplink(&frame, link.rssi_dbm, link.snr_db) {
                received.push((self.gateways[at].eui(), heard));
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
    fn is_destroyed(&mut self, gateway: u32, frame: &OnAir, link: Link, device: usize) -> bool {
        let flying = self.flights.values().filter_map(|flight| match flight {
            Flight::Uplink { device, frame } => Some((*device, frame)),
            Flight::Downlink { .. } => None,
        });
        let landed = self.landed.iter().rev();
        let landed = landed.map(|(device, frame)| (*device, frame));
        let overlapping = landed.take_while(|(_, other)| frame.start < other.end);
        for (other, other_frame) in flying.chain(overlapping) {
            let apart = other_frame.end <= frame.start || frame.end <= other_frame.start;
            if other == device || apart {
                continue;
            }
            let other_number = self.devices[other].number;
            if let Some(other_link) = self.channel.link_at(gateway, other_number)
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
        let (attention, can_wait) = (member.device.attention(), member.can_wait);
        member.place.defers = self.ears.attend(number(at), attention, can_wait);
        if member.place.defers {
            let frames = member.device.frames_to_go();
            self.backlog.wait(number(at), &mut member.place, frames);
        }
        // What a device could have done earlier, had it known, it does now.
        let earliest = earliest.map_or(self.reached, |earliest| earliest.max(self.reached));
        let next = member.device.next_event();
        let wake = next.map(|next| next.max(earliest));
        let before = std::mem::replace(&mut member.wake, wake);
        if before == wake {
            return;
        }
        if let Some(before) = before {
            self.schedule.remove(&(before, Actor::Device(at)));
        }
        if let Some(wake) = wake {
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

/// Writes down which member has a number of the channel's.
fn place<T: Copy + Default>(members: &mut Vec<T>, number: u32, member: T) {
    let at = index(number);
    if members.len() <= at {
        members.resize(at + 1, T::default());
    }
    members[at] = member;
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
