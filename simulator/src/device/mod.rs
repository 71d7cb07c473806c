//! A simulated end-device, written from the specifications: LoRaWAN 1.0.x class A and C, TS003 to TS006, image check and
//! reboot into the new version.
//!
//! PURE: time and randomness come in, frames go out. The world asks [`EndDevice::hears`] when a frame begins, and hands it
//! over with [`EndDevice::receive`] when it ends. Class B and LoRaWAN 1.1 are not simulated.

mod clock;
mod clock_sync;
mod config;
mod environment;
mod firmware;
mod fragmentation;
mod link;
mod log;
mod mac;
mod multicast;
mod outbox;
mod radio;

use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::firmware_management::{self, UpImageStatus};
use lorawan_fuota::lorawan::frame::{DataFrame, Direction, Frame};
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::lorawan::multicast_setup::{self, MC_GROUP_COUNT};
use lorawan_fuota::lorawan::{clock_sync as ts003, fragmentation as ts004};
use lorawan_fuota::time::Timestamp;

use crate::random::Random;

pub use clock::DeviceClock;
pub use config::{
    Activation, Class, ClockConfig, DeviceConfig, FirmwareConfig, FragmentationLimits, ImageCheck,
    Packages, RebootConfig, SessionAfterReboot, StatusStyle, Uplinks,
};
pub use fragmentation::DecoderProgress;
pub use log::{EventLog, FrameCounts};
pub use multicast::{McGroup, McSession};
pub use radio::{Listening, WINDOW_TOLERANCE};

use clock_sync::ClockSync;
use environment::Environment;
use firmware::FirmwareManagement;
use fragmentation::Fragmentation;
use link::{Channel, Link, Rejection, UplinkParts};
use mac::Mac;
use multicast::{McRejection, MulticastSetup};
use outbox::{Content, Entry, Outbox, Tag};

/// Bytes of answers LoRa Basics Modem collects for one downlink.
const LORA_BASICS_MODEM_ANSWER_ROOM: usize = 15;

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
    clock: DeviceClock,
    link: Link,
    mac: Mac,
    outbox: Outbox,
    clock_sync: ClockSync,
    multicast: MulticastSetup,
    fragmentation: Fragmentation,
    firmware: FirmwareManagement,
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
        self.firmware.running_version()
    }

    /// The last data block it put together and took for an image, and what its check said. The status turns to `NoImage`
    /// once installed; the bytes stay.
    pub fn image_received(&self) -> Option<(&[u8], UpImageStatus)> {
        self.firmware.image()
    }

    /// How far the session of an index is; `None` if there is none.
    pub fn decoder_progress(&self, frag_index: u8) -> Option<DecoderProgress> {
        self.fragmentation.progress(frag_index)
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
        let session = self.multicast.listening(&self.clock, at);
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
    /// A device that is switched on at `start`. Everything it does follows from its configuration, the seed and what it hears.
    pub fn new(config: DeviceConfig, seed: u64, start: Timestamp) -> Self {
        let mut random = Random::of(seed, config.dev_eui.0);
        let clock = DeviceClock::start(start, &config.clock);
        let first = start + random.up_to(config.uplinks.start_spread);
        let mut device = Self {
            link: Link::new(&config, first),
            firmware: FirmwareManagement::new(&config.firmware),
            clock,
            random,
            log: EventLog::default(),
            counts: FrameCounts::default(),
            mac: Mac::default(),
            outbox: Outbox::default(),
            clock_sync: ClockSync::default(),
            multicast: MulticastSetup::default(),
            fragmentation: Fragmentation::default(),
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
        if self.firmware.reboot_at().is_some_and(|at| at <= now) {
            self.go_down(now);
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

    /// A frame begins that it [`EndDevice::hears`] and that lasts until `end`: in a window of class A it waits for it.
    pub fn start_receiving(
        &mut self,
        frequency_hz: u32,
        data_rate: DataRate,
        start: Timestamp,
        end: Timestamp,
    ) {
        let tuned = Listening {
            frequency_hz,
            data_rate,
        };
        self.link.radio.lock(start, tuned, end);
    }

    /// A frame was received whole; `now` is its end.
    pub fn receive(&mut self, now: Timestamp, phy_payload: &[u8]) {
        if self.is_off(now) {
            return;
        }
        match Frame::parse(phy_payload) {
            Ok(Frame::JoinAccept(accept)) => match self.link.accept(&self.config, &accept) {
                Ok(true) => self.joined(now),
                Ok(false) => self.counts.not_allowed += 1,
                Err(_) => self.counts.wrong_mic += 1,
            },
            Ok(Frame::Data(frame)) if frame.direction == Direction::Downlink => {
                self.receive_data(now, &frame);
            }
            Ok(Frame::Data(_) | Frame::JoinRequest(_)) | Err(_) => self.counts.malformed += 1,
        }
    }

    /// Reboots at once, as after a power failure. A good image is installed.
    pub fn reset(&mut self, now: Timestamp) {
        self.go_down(now);
    }

    /// From `at` on it neither sends nor hears; `None` brings it back.
    pub fn set_silent_from(&mut self, at: Option<Timestamp>) {
        self.config.silent_from = at;
    }
}

/// Sending.
impl EndDevice {
    fn transmit(&mut self, now: Timestamp) -> Option<Uplink> {
        let channel = self.link.draw_channel(&self.config, now, &mut self.random);
        let is_join = self.link.session.is_none();
        let phy_payload = match channel {
            Some(channel) if is_join => self.build_join(now).map(|bytes| (channel, bytes)),
            Some(channel) => self.build_data(now, channel).map(|bytes| (channel, bytes)),
            None => None,
        };
        let Some((channel, phy_payload)) = phy_payload else {
            // Nothing can be sent this way: wait for the next occasion, lest this one comes again at once.
            self.log.note(now, "nothing can be sent");
            self.outbox.clear();
            self.empty_at = None;
            self.application_at = now + self.config.uplinks.interval.max(Duration::from_secs(1));
            let next_join = now + self.config.uplinks.interval.max(Duration::from_secs(1));
            if is_join {
                self.link.leave(&self.config, next_join);
            }
            return None;
        };
        let airtime = air_time(channel.data_rate, phy_payload.len());
        self.link.sent(&self.config, channel, now, airtime, is_join);
        self.counts.sent += 1;
        Some(Uplink {
            frequency_hz: channel.frequency_hz,
            data_rate: channel.data_rate,
            phy_payload,
            airtime,
        })
    }

    fn build_join(&mut self, now: Timestamp) -> Option<Vec<u8>> {
        let bytes = self.link.build_join(&self.config, now, &mut self.random)?;
        self.log.note(now, "join-request");
        Some(bytes)
    }

    fn build_data(&mut self, now: Timestamp, channel: Channel) -> Option<Vec<u8>> {
        self.queue_application(now);
        self.empty_at = None;
        let region = self.config.region;
        let room = region.max_payload(channel.dr, Direction::Uplink, false)?;
        let every = self.config.uplinks.link_check_every;
        if every != 0 && (self.counts.sent + 1).is_multiple_of(every.into()) {
            self.mac.want_link_check();
        }
        let room = usize::from(room);
        let needed = self.outbox.needs(now, room);
        let f_opts = self.mac.take_f_opts(room - needed);
        let size = room - f_opts.len();
        let pending = self.outbox.pending();
        let taken = self.outbox.take(now, size, &self.clock);
        self.arrange_repeats(now, &pending);
        let (f_port, payload) = match &taken {
            Some((f_port, payload)) => (Some(*f_port), payload.as_slice()),
            None => (None, &[][..]),
        };
        let application = f_port == Some(self.config.uplinks.application_f_port);
        let phy_payload = self.link.build(UplinkParts {
            confirmed: application && self.config.uplinks.confirmed,
            adr: self.config.uplinks.adr,
            f_opts: &f_opts,
            f_port,
            payload,
        })?;
        let end = now + air_time(channel.data_rate, phy_payload.len());
        self.mac.sent_until(end);
        if self.mac.has_answers() {
            self.empty_at = Some(now);
        }
        Some(phy_payload)
    }

    fn queue_application(&mut self, now: Timestamp) {
        if self.application_at > now {
            return;
        }
        let mut payload = self.running_version().to_be_bytes().to_vec();
        let [count, ..] = self.counts.sent.to_le_bytes();
        payload.push(count);
        self.outbox.push(Entry {
            due: now,
            f_port: self.config.uplinks.application_f_port,
            content: Content::Bytes(payload),
            tag: Tag::Application,
        });
        let interval = self.config.uplinks.interval.max(Duration::from_millis(100));
        self.application_at = now + self.random.around(interval, 5);
    }

    /// What was pending and has left may have to be said again.
    fn arrange_repeats(&mut self, now: Timestamp, pending: &[Tag]) {
        let left = self.outbox.pending();
        for tag in pending.iter().filter(|tag| !left.contains(tag)) {
            let (mut environment, packages) = self.split(now);
            match tag {
                Tag::AppTimeReq => packages.clock_sync.asked(&mut environment),
                Tag::BlockReceived(frag_index) => packages
                    .fragmentation
                    .announced(*frag_index, &mut environment),
                Tag::Plain | Tag::Application | Tag::FragStatus(_) => {}
            }
        }
    }
}

/// Receiving.
impl EndDevice {
    fn joined(&mut self, now: Timestamp) {
        self.counts.joins += 1;
        if let Some(session) = &self.link.session {
            self.log
                .note(now, format_args!("joined as {}", session.dev_addr));
        }
        self.application_at = now + self.random.up_to(self.config.uplinks.start_spread);
    }

    fn receive_data(&mut self, now: Timestamp, frame: &DataFrame) {
        let unicast = self
            .link
            .session
            .as_ref()
            .is_some_and(|session| session.dev_addr == frame.dev_addr);
        if !unicast {
            self.receive_multicast(now, frame);
            return;
        }
        match self.link.open(frame) {
            Ok(payload) => {
                self.counts.unicast += 1;
                self.link.radio.answered();
                self.handle_unicast(now, frame, &payload);
            }
            Err(Rejection::Replayed) => self.counts.replayed += 1,
            Err(Rejection::WrongMic) => self.counts.wrong_mic += 1,
        }
    }

    fn handle_unicast(&mut self, now: Timestamp, frame: &DataFrame, payload: &[u8]) {
        let (mut environment, packages) = self.split(now);
        packages
            .mac
            .handle(&frame.f_opts, packages.parameters, &mut environment);
        let configured = environment.config.packages;
        match frame.f_port {
            Some(0) => packages
                .mac
                .handle(payload, packages.parameters, &mut environment),
            Some(ts003::DEFAULT_F_PORT) => {
                if let Some(version) = configured.clock_sync {
                    packages
                        .clock_sync
                        .handle(version, payload, &mut environment);
                }
            }
            Some(multicast_setup::DEFAULT_F_PORT) => {
                if let Some(version) = configured.multicast_setup {
                    packages
                        .multicast
                        .handle(version, payload, &mut environment);
                }
            }
            Some(ts004::DEFAULT_F_PORT) => {
                if let Some(version) = configured.fragmentation {
                    packages.fragmentation.handle(
                        version,
                        payload,
                        Fragmentation::UNICAST,
                        &mut environment,
                    );
                }
            }
            Some(firmware_management::DEFAULT_F_PORT) if configured.firmware_management => {
                packages.firmware.handle(payload, &mut environment);
            }
            Some(_) | None => {}
        }
        let wants_uplink = frame.confirmed || frame.f_ctrl.f_pending_or_class_b;
        if wants_uplink || self.mac.has_answers() {
            let delay = self.random.up_to(self.config.answer_delay_max);
            self.empty_at = Some(now + delay);
        }
        self.store_image(now);
    }

    fn receive_multicast(&mut self, now: Timestamp, frame: &DataFrame) {
        // LoRaWAN 1.0.4 §4.3: multicast is never confirmed and carries no MAC commands.
        let plain = !frame.confirmed && !frame.f_ctrl.ack && frame.f_opts.is_empty();
        match self.multicast.open(frame, &self.clock, now) {
            Ok(_) if !plain => self.counts.not_allowed += 1,
            Ok((mc_group_id, payload)) => {
                self.counts.multicast += 1;
                self.handle_multicast(now, frame.f_port, mc_group_id, &payload);
            }
            Err(McRejection::NotForUs) => self.counts.not_for_us += 1,
            Err(McRejection::NoSession) => self.counts.no_session += 1,
            Err(McRejection::CounterOutOfRange) => self.counts.counter_out_of_range += 1,
            Err(McRejection::Replayed) => self.counts.replayed += 1,
            Err(McRejection::WrongMic) => self.counts.wrong_mic += 1,
        }
    }

    fn handle_multicast(
        &mut self,
        now: Timestamp,
        f_port: Option<u8>,
        mc_group_id: u8,
        payload: &[u8],
    ) {
        let version = self.config.packages.fragmentation;
        let allowed = match (f_port, version) {
            (Some(ts004::DEFAULT_F_PORT), Some(version)) => {
                let (mut environment, packages) = self.split(now);
                packages
                    .fragmentation
                    .handle(version, payload, Some(mc_group_id), &mut environment)
            }
            _ => false,
        };
        if !allowed {
            self.counts.not_allowed += 1;
        }
        self.store_image(now);
    }

    fn store_image(&mut self, now: Timestamp) {
        if let Some(data) = self.fragmentation.take_completed() {
            let (mut environment, packages) = self.split(now);
            packages.firmware.store(data, &mut environment);
        }
    }
}

/// Rebooting.
impl EndDevice {
    fn go_down(&mut self, now: Timestamp) {
        self.log.note(now, "reboots");
        let config = &self.config;
        self.firmware.install(config.firmware.rolls_back);
        self.down_until = Some(now + config.reboot.duration);
        self.link.reboot();
        self.mac = Mac::default();
        self.outbox.clear();
        self.empty_at = None;
        self.clock_sync = ClockSync::default();
        self.fragmentation
            .reboot(config.status_style == StatusStyle::LoraBasicsModem);
        if config.reboot.loses_groups {
            self.multicast.clear();
        }
        if config.reboot.loses_clock {
            self.clock.unset(now);
        }
    }

    fn boot(&mut self, now: Timestamp) {
        self.down_until = None;
        let running = self.running_version();
        self.log
            .note(now, format_args!("boots version {running:#010x}"));
        let first = now + self.random.up_to(self.config.uplinks.start_spread);
        self.application_at = first;
        let joins = matches!(self.config.activation, Activation::Otaa { .. });
        match self.config.reboot.session {
            SessionAfterReboot::Rejoin if joins => self.link.leave(&self.config, first),
            SessionAfterReboot::Rejoin | SessionAfterReboot::Keep => {}
            SessionAfterReboot::ResetCounters => {
                if let Some(session) = &mut self.link.session {
                    session.f_cnt_up = 0;
                    session.f_cnt_down = None;
                }
            }
        }
        self.want_time(now);
    }

    /// Asks for the time unless it has it: by MAC command with the first uplink, by TS003 if that does not help.
    fn want_time(&mut self, now: Timestamp) {
        if self.clock.is_set() {
            return;
        }
        let by_mac = self.config.clock.device_time_req;
        if by_mac {
            self.mac.want_time();
        }
        if self.config.packages.clock_sync.is_some() {
            let patience = if by_mac { 2 } else { 0 };
            let spread = self.config.uplinks.start_spread;
            // Devices switched on together must not ask together.
            let delay = self.config.uplinks.interval * patience + self.random.up_to(spread);
            let (mut environment, packages) = self.split(now);
            packages.clock_sync.ask(&mut environment, delay, true);
        }
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
        let small_buffer = self.config.status_style == StatusStyle::LoraBasicsModem;
        let environment = Environment {
            now,
            config: &self.config,
            clock: &mut self.clock,
            random: &mut self.random,
            log: &mut self.log,
            outbox: &mut self.outbox,
            answers_due: None,
            answer_room: small_buffer.then_some(LORA_BASICS_MODEM_ANSWER_ROOM),
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

fn air_time(data_rate: DataRate, phy_length: usize) -> Duration {
    let length = u8::try_from(phy_length).unwrap_or(u8::MAX);
    Duration::from_micros(data_rate.time_on_air_us(length, Direction::Uplink).into())
}
