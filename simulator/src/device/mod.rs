//! A simulated end-device, written from the specifications: LoRaWAN 1.0.x class A and C, TS003 to TS006, image check
//! and reboot into the new version.
//!
//! PURE: time and randomness come in, frames go out. The world asks [`EndDevice::hears`] when a frame begins, and hands
//! it over with [`EndDevice::receive`] when it ends. Class B is simulated for multicast sessions, LoRaWAN 1.1 is not.

mod attention;
mod boot;
mod class_b;
mod clock;
mod clock_sync;
mod config;
mod decoding;
#[cfg(test)]
mod dialogues;
mod environment;
mod firmware;
mod fragmentation;
mod link;
mod log;
mod mac;
mod meter;
mod multicast;
mod outbox;
mod radio;
mod reading;
mod reboot;
mod receiving;
mod sending;
mod shared_frame;
mod stack;
mod stack_profiles;
mod status;

use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::firmware_management::UpImageStatus;
use lorawan_fuota::lorawan::frame::{Direction, Frame};
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui};
use lorawan_fuota::lorawan::multicast_setup::MC_GROUP_COUNT;
use lorawan_fuota::time::Timestamp;

use crate::beacon::read_time;
use crate::random::Random;

pub use attention::Attention;
pub use class_b::PingSlots;
pub use clock::DeviceClock;
pub use config::{
    Activation, Class, ClockConfig, DeviceConfig, FirmwareConfig, FragmentationLimits, ImageCheck,
    Packages, PartFirmware, Payloads, RebootConfig, SessionAfterReboot, Uplinks,
};
pub use fragmentation::DecoderProgress;
pub use log::{EventLog, FrameCounts};
pub use meter::RadioTime;
pub use multicast::{McGroup, McSession};
pub use radio::{Listening, WINDOW_TOLERANCE};
pub use shared_frame::SharedFrame;
pub use stack::{
    AbsentStatus, AnswerQuirks, AnswerRoom, BadParameters, BeforeData, ClassB, ClockQuirks,
    Decoders, GroupStatus, LateStart, Missing, MulticastQuirks, Overflow, Received, SessionQuirks,
    StackQuirks, StatusQuirks, Unreadable,
};
pub use stack_profiles::StackProfile;

use boot::Cause;
use class_b::BeaconLock;
use clock_sync::ClockSync;
use environment::{Answers, Environment};
use firmware::FirmwareManagement;
use fragmentation::Fragmentation;
use link::Link;
use mac::Mac;
use meter::{Continuous, Meter};
use multicast::MulticastSetup;
use outbox::Outbox;

/// What a device does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceOutput {
    /// It sends, from the moment of the call on.
    Transmit(Uplink),
}

/// A frame a device sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Centre, in Hz.
    pub frequency_hz: u32,
    /// Modulation.
    pub data_rate: DataRate,
    /// The frame.
    pub phy_payload: Vec<u8>,
    /// How long it is on air.
    pub airtime: Duration,
}

/// A simulated end-device.
#[derive(Clone, Debug)]
pub struct EndDevice {
    config: DeviceConfig,
    random: Random,
    log: EventLog,
    counts: FrameCounts,
    meter: Meter,
    clock: DeviceClock,
    link: Link,
    mac: Mac,
    outbox: Outbox,
    clock_sync: ClockSync,
    multicast: MulticastSetup,
    fragmentation: Fragmentation,
    firmware: FirmwareManagement,
    beacons: BeaconLock,
    /// The next application uplink.
    application_at: Timestamp,
    /// An uplink without payload is wanted then, to acknowledge or to fetch what is pending.
    empty_at: Option<Timestamp>,
    /// It reboots until then.
    down_until: Option<Timestamp>,
}

/// Getters.
impl EndDevice {
    /// What it is like.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// Who it is.
    pub fn dev_eui(&self) -> DevEui {
        self.config.dev_eui
    }

    /// Version of the firmware that runs, as TS006 reports it.
    pub fn running_version(&self) -> u32 {
        self.firmware.flash().running_version()
    }

    /// Version of a part that runs, 0 the main firmware; `None` if it has no such part.
    pub fn running_version_of(&self, part: u8) -> Option<u32> {
        self.firmware.flash().running_version_of(part)
    }

    /// The last data block it put together and took for an image, and what its check said. The status turns to
    /// `NoImage` once installed; the bytes stay.
    pub fn image_received(&self) -> Option<(&[u8], UpImageStatus)> {
        self.firmware.image()
    }

    /// How far the session of an index is; `None` if there is none.
    pub fn decoder_progress(&self, frag_index: u8) -> Option<DecoderProgress> {
        self.fragmentation.progress(frag_index)
    }

    /// When it last held a whole data block for the first time.
    pub fn block_completed_at(&self) -> Option<Timestamp> {
        self.fragmentation.completed_at()
    }

    /// Its multicast groups by `McGroupID`.
    pub fn mc_groups(&self) -> &[Option<McGroup>; MC_GROUP_COUNT] {
        self.multicast.groups()
    }

    /// Whether it has a session.
    pub fn is_activated(&self) -> bool {
        self.link.session.is_some()
    }

    /// Its clock.
    pub fn clock(&self) -> &DeviceClock {
        &self.clock
    }

    /// What it sent and heard.
    pub fn counts(&self) -> &FrameCounts {
        &self.counts
    }

    /// How long its radio was on until `now`.
    pub fn radio_time(&self, now: Timestamp) -> RadioTime {
        let mut meter = self.meter;
        meter.listened(now, self.listened_until(now));
        meter.sum()
    }

    /// Its last events.
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// What it listens to at a moment; `None` if nothing.
    pub fn listening(&self, at: Timestamp) -> Option<Listening> {
        if self.is_off(at) {
            return None;
        }
        self.link.radio.listening(at, self.continuous(at))
    }

    /// Whether a frame on these parameters reaches it: the receiver is open when it begins and stays with it.
    pub fn hears(
        &self,
        frequency_hz: u32,
        data_rate: DataRate,
        start: Timestamp,
        end: Timestamp,
    ) -> bool {
        let tuned = Listening {
            frequency_hz,
            data_rate,
        };
        !self.is_off(start)
            && !self.is_off(end)
            && self
                .link
                .radio
                .hears(tuned, start, end, self.continuous(start))
    }

    /// When it next does something by itself; `None` if never.
    pub fn next_event(&self) -> Option<Timestamp> {
        let next = match self.down_until {
            Some(until) => until,
            None => {
                let sends_at = self.link.sendable_at(&self.config, self.uplink_wanted_at());
                self.firmware
                    .reboot_at()
                    .map_or(sends_at, |reboot| reboot.min(sends_at))
            }
        };
        self.config
            .silent_from
            .is_none_or(|silent| next < silent)
            .then_some(next)
    }

    fn is_off(&self, at: Timestamp) -> bool {
        let silent = self.config.silent_from.is_some_and(|silent| at >= silent);
        silent || self.down_until.is_some()
    }

    /// What it listens to outside of class A windows: the multicast session that is on, else RX2 in class C.
    fn continuous(&self, at: Timestamp) -> Option<Listening> {
        if self.config.class_b && self.multicast.wants_beacons(&self.clock, at) {
            let beacon = class_b::beacon_at(self.config.region, at);
            if beacon.is_some() {
                return beacon;
            }
        }
        let session = self.multicast.listening(&self.clock, &self.beacons, at);
        session.or_else(|| {
            if self.config.class != Class::C || self.link.session.is_none() {
                return None;
            }
            let parameters = &self.link.parameters;
            Some(Listening {
                frequency_hz: parameters.rx2_hz,
                data_rate: parameters.rx2_data_rate(self.config.region)?,
            })
        })
    }

    /// What listened since the meter was read last, other than windows of class A.
    fn listened_until(&self, now: Timestamp) -> Continuous {
        let (from, until) = self.meter.span(now);
        if self.is_off(from) {
            return Continuous::default();
        }
        let always = self.config.class == Class::C && self.link.session.is_some();
        if always {
            return Continuous {
                on: until.since(from),
                ..Continuous::default()
            };
        }
        self.multicast.listened(&self.clock, from, until)
    }

    /// Something is about to change: what listened until now is put down.
    fn read_meter(&mut self, now: Timestamp) {
        let listened = self.listened_until(now);
        self.meter.listened(now, listened);
    }

    fn uplink_wanted_at(&self) -> Timestamp {
        if self.link.session.is_none() {
            return self.link.next_join_at();
        }
        let wanted = [self.outbox.next_due(), self.empty_at];
        wanted
            .into_iter()
            .flatten()
            .fold(self.application_at, Timestamp::min)
    }
}

/// Inputs.
impl EndDevice {
    /// A device that is switched on at `start`. Everything it does follows from its configuration, the seed and what it
    /// hears.
    pub fn new(config: DeviceConfig, seed: u64, start: Timestamp) -> Self {
        let mut random = Random::of(seed, config.dev_eui.0);
        let clock = DeviceClock::start(start, &config.clock);
        let first = start + random.up_to(config.uplinks.start_spread);
        let mut device = Self {
            link: Link::new(&config, first),
            firmware: FirmwareManagement::new(&config.firmware),
            clock,
            random,
            log: EventLog::new(config.log_capacity),
            counts: FrameCounts::default(),
            meter: Meter::start(start),
            mac: Mac::default(),
            outbox: Outbox::default(),
            clock_sync: ClockSync::default(),
            multicast: MulticastSetup::default(),
            fragmentation: Fragmentation::default(),
            beacons: BeaconLock::default(),
            application_at: first,
            empty_at: None,
            down_until: None,
            config,
        };
        device.want_time(start);
        device
    }

    /// Does what is due by `now`.
    pub fn advance(&mut self, now: Timestamp) -> Vec<DeviceOutput> {
        let silent = self.config.silent_from.is_some_and(|silent| now >= silent);
        if silent {
            return Vec::new();
        }
        match self.down_until {
            Some(until) if now < until => return Vec::new(),
            Some(_) => self.boot(now),
            None => {}
        }
        self.read_meter(now);
        if self.firmware.reboot_at().is_some_and(|at| at <= now) {
            self.go_down(now, Cause::Order);
            return Vec::new();
        }
        let due = self.link.sendable_at(&self.config, self.uplink_wanted_at());
        if due > now {
            return Vec::new();
        }
        self.transmit(now)
            .map(DeviceOutput::Transmit)
            .into_iter()
            .collect()
    }

    /// A frame begins that it [`EndDevice::hears`] and that lasts until `end`: in a window of class A it waits for it,
    /// which is true if it does.
    pub fn start_receiving(
        &mut self,
        frequency_hz: u32,
        data_rate: DataRate,
        start: Timestamp,
        end: Timestamp,
    ) -> bool {
        let tuned = Listening {
            frequency_hz,
            data_rate,
        };
        let unused = self.link.radio.unused_windows(start, tuned);
        if self
            .continuous(start)
            .is_none_or(|_| self.multicast.is_class_b(&self.clock, start))
        {
            self.meter.heard(end.since(start), unused.into_iter());
        }
        self.link.radio.lock(start, tuned, end)
    }

    /// A frame was received whole; `now` is its end.
    pub fn receive(&mut self, now: Timestamp, phy_payload: &[u8]) {
        self.receive_shared(now, &mut SharedFrame::new(phy_payload));
    }

    /// As [`EndDevice::receive`], of a frame that others hear as well.
    pub fn receive_shared(&mut self, now: Timestamp, shared: &mut SharedFrame) {
        if self.is_off(now) {
            return;
        }
        self.read_meter(now);
        let SharedFrame { frame, opened, .. } = shared;
        match frame {
            Ok(Frame::JoinAccept(accept)) => match self.link.accept(&self.config, accept) {
                Ok(true) => self.joined(now),
                Ok(false) => self.counts.not_allowed += 1,
                Err(_) => self.counts.wrong_mic += 1,
            },
            Ok(Frame::Data(frame)) if frame.direction == Direction::Downlink => {
                self.receive_data(now, frame, opened);
            }
            Ok(Frame::Data(_) | Frame::JoinRequest(_)) | Err(_) => self.counts.malformed += 1,
        }
    }

    /// Whether a data frame to this address is for it, or for one of its groups.
    pub fn is_known_as(&self, dev_addr: DevAddr) -> bool {
        let session = self.link.session.as_ref();
        let groups = self.multicast.groups().iter().flatten();
        session.is_some_and(|session| session.dev_addr == dev_addr)
            || groups.into_iter().any(|group| group.mc_addr == dev_addr)
    }

    /// As [`EndDevice::receive`], of a data frame to an address that is none of its own.
    pub fn overhear(&mut self, now: Timestamp) {
        if !self.is_off(now) {
            self.read_meter(now);
            self.counts.not_for_us += 1;
        }
    }

    /// A beacon was received whole; `now` is its end, `start` its first moment.
    pub fn receive_beacon(&mut self, now: Timestamp, start: Timestamp, payload: &[u8]) {
        if self.is_off(now) {
            return;
        }
        if read_time(self.config.region, payload, start.to_gps()).is_some() {
            self.beacons.heard(start);
            self.counts.beacons += 1;
        }
    }

    /// Reboots at once, as after a power failure. A good image is installed, unless there are further parts.
    pub fn reset(&mut self, now: Timestamp) {
        self.read_meter(now);
        self.go_down(now, Cause::PowerFailure);
    }

    /// From `at` on it neither sends nor hears; `None` brings it back.
    pub fn set_silent_from(&mut self, at: Option<Timestamp>) {
        self.config.silent_from = at;
    }

    /// Moves its clock, as a bad crystal or a wrong source of time does.
    pub fn step_clock(&mut self, now: Timestamp, by_us: i64) {
        self.read_meter(now);
        self.clock.step(now, by_us);
        self.log
            .note(now, format_args!("clock stepped by {by_us} us"));
    }

    /// Its clock runs fast by so many microseconds per second from now on.
    pub fn set_drift(&mut self, now: Timestamp, drift_ppm: i32) {
        self.read_meter(now);
        self.clock.run_at(now, drift_ppm);
    }

    /// From now on it sends application uplinks so often; the next one comes after that time.
    pub fn set_uplink_interval(&mut self, now: Timestamp, interval: Duration) {
        self.config.uplinks.interval = interval;
        self.application_at = now + interval;
    }

    /// It takes up to so long to answer, where the package sets no delay.
    pub fn set_answer_delay_max(&mut self, delay: Duration) {
        self.config.answer_delay_max = delay;
    }
}

/// The parts that handle commands.
struct PackagesOf<'a> {
    mac: &'a mut Mac,
    parameters: &'a mut mac::Parameters,
    clock_sync: &'a mut ClockSync,
    multicast: &'a mut MulticastSetup,
    fragmentation: &'a mut Fragmentation,
    firmware: &'a mut FirmwareManagement,
}

impl EndDevice {
    /// The packages, and beside them what they work with.
    fn split(&mut self, now: Timestamp) -> (Environment<'_>, PackagesOf<'_>) {
        let environment = Environment {
            now,
            config: &self.config,
            clock: &mut self.clock,
            random: &mut self.random,
            log: &mut self.log,
            outbox: &mut self.outbox,
            answers: Answers::default(),
        };
        let packages = PackagesOf {
            mac: &mut self.mac,
            parameters: &mut self.link.parameters,
            clock_sync: &mut self.clock_sync,
            multicast: &mut self.multicast,
            fragmentation: &mut self.fragmentation,
            firmware: &mut self.firmware,
        };
        (environment, packages)
    }
}
