//! A simulated gateway: the transmit queue of a Semtech packet forwarder, one radio, one microsecond counter.
//!
//! PURE. Follows the just-in-time queue of the forwarder for the SX1302: 32 entries, 42.5 ms between frames, frames
//! taken up to 512 s ahead. While it sends it hears nothing. The rules of the region are watched, not enforced: a real
//! gateway sends what it is told.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::class_b::{BEACON_GUARD, BEACON_RESERVED};
use lorawan_fuota::lorawan::frame::{Direction, MAX_PHY_LENGTH};
use lorawan_fuota::lorawan::identifiers::GatewayEui;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::{GpsTime, Timestamp};

use crate::beacon::Beacon;
use crate::rule_watch::{Breach, RuleWatch};

/// Time the radio needs to start.
const START_DELAY: Duration = Duration::from_micros(1_500);
/// Time between two frames beside the others.
const MARGIN: Duration = Duration::from_micros(1_000);
/// How much earlier than needed a frame is handed to the radio.
const JITTER: Duration = Duration::from_micros(40_000);
/// What lies before a frame.
const BEFORE: Duration = START_DELAY.saturating_add(JITTER);
/// How far ahead a frame may lie.
const ADVANCE_MAX: Duration = Duration::from_secs(512);
/// Conducted power of beacons, in dBm.
const BEACON_POWER_DBM: i8 = 14;
/// Frames kept to tell whether the gateway was deaf; the longest uplink lasts less than 3 s.
const SENT_KEPT: usize = 64;

/// What a gateway is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Who it is.
    pub eui: GatewayEui,
    /// Whose rules are watched.
    pub region: Region,
    /// Frequencies it can send on, in Hz.
    pub tx_hz: RangeInclusive<u32>,
    /// Conducted powers it can send with, in dBm.
    pub power_dbm: RangeInclusive<i8>,
    /// What antenna and cable add to the conducted power, in dB.
    pub antenna_gain_db: i8,
    /// Frames the queue holds.
    pub queue_length: usize,
    /// Its microsecond counter at the Unix epoch.
    pub counter_offset: u32,
    /// It has GPS time.
    pub gps: bool,
    /// It sends beacons; needs `gps`.
    pub beaconing: bool,
}

impl GatewayConfig {
    /// A gateway of the usual kind: 32 frames, -6 to 27 dBm, no antenna gain, all frequencies of the region.
    pub fn new(eui: GatewayEui, region: Region) -> Self {
        let bands = region.sub_bands();
        let from = bands.iter().map(|band| band.from_hz).min().unwrap_or(0);
        let to = bands
            .iter()
            .map(|band| band.to_hz)
            .max()
            .unwrap_or(u32::MAX);
        Self {
            eui,
            region,
            tx_hz: from..=to,
            power_dbm: -6..=27,
            antenna_gain_db: 0,
            queue_length: 32,
            counter_offset: 0,
            gps: false,
            beaconing: false,
        }
    }
}

/// When a frame is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxWhen {
    /// As soon as the queue allows.
    Immediately,
    /// When the gateway's counter shows this.
    Counter(u32),
    /// At this GPS time.
    Gps(GpsTime),
}

/// A frame to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxRequest {
    /// When.
    pub when: TxWhen,
    /// Centre, in Hz.
    pub frequency_hz: u32,
    /// Modulation.
    pub data_rate: DataRate,
    /// Conducted power, in dBm.
    pub power_dbm: i8,
    /// The frame.
    pub phy_payload: Vec<u8>,
}

/// Why a frame is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// Its time is past, or less than 42.5 ms ahead.
    #[error("too late")]
    TooLate,
    /// Its time is more than 512 s ahead.
    #[error("too early")]
    TooEarly,
    /// Another frame is in the way.
    #[error("collides with a queued frame")]
    CollisionPacket,
    /// A beacon is in the way.
    #[error("collides with a beacon")]
    CollisionBeacon,
    /// It has no GPS time.
    #[error("no GPS")]
    GpsUnlocked,
    /// The queue is full. The forwarder reports it as [`TxError::CollisionPacket`].
    #[error("queue full")]
    QueueFull,
    /// The radio cannot send on this frequency.
    #[error("frequency out of range")]
    TxFreq,
    /// The radio cannot send with this power.
    #[error("power out of range")]
    TxPower,
    /// There is no such gateway.
    #[error("unknown gateway")]
    UnknownGateway,
    /// The frame is empty or longer than 255 bytes. The forwarder does not answer such a request.
    #[error("frame size out of range")]
    Size,
}

/// A frame on air.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnAir {
    /// Its first moment.
    pub start: Timestamp,
    /// Its last.
    pub end: Timestamp,
    /// Centre, in Hz.
    pub frequency_hz: u32,
    /// Modulation.
    pub data_rate: DataRate,
    /// The frame.
    pub phy_payload: Vec<u8>,
    /// Conducted power, in dBm.
    pub power_dbm: i8,
    /// A class B beacon, which has no header of its own.
    pub beacon: bool,
}

impl OnAir {
    /// The same frame from another gateway at the same instant.
    pub fn is_same(&self, other: &Self) -> bool {
        self.start == other.start
            && self.frequency_hz == other.frequency_hz
            && self.data_rate == other.data_rate
            && self.phy_payload == other.phy_payload
    }
}

/// A frame as a gateway received it.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The gateway's counter at the end of the frame.
    pub counter_us: u32,
    /// The end of the frame.
    pub at: Timestamp,
    /// Centre, in Hz.
    pub frequency_hz: u32,
    /// Modulation.
    pub data_rate: DataRate,
    /// Signal strength, in dBm.
    pub rssi_dbm: i16,
    /// Signal-to-noise ratio, in dB.
    pub snr_db: f32,
    /// GPS time at the end of the frame, of a gateway that has it.
    pub gps: Option<GpsTime>,
    /// The frame.
    pub phy_payload: Vec<u8>,
}

/// What a gateway did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayCounts {
    /// Frames received.
    pub received: u64,
    /// Frames on air at it that it missed while sending.
    pub deaf: u64,
    /// Requests taken into the queue.
    pub queued: u64,
    /// Requests refused.
    pub refused: u64,
    /// Frames sent.
    pub sent: u64,
    /// Queued frames dropped because the radio was still sending when their time came.
    pub dropped: u64,
    /// Time on air, in microseconds.
    pub air_us: u64,
}

/// A simulated gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    config: GatewayConfig,
    /// In order of start.
    queue: Vec<Queued>,
    /// Starts and ends of the last frames.
    sent: VecDeque<(Timestamp, Timestamp)>,
    rules: RuleWatch,
    counts: GatewayCounts,
    /// Cut off from the server, or without power.
    down: bool,
    /// The beacon it sends next.
    beacon: Option<Beacon>,
}

#[derive(Clone, Debug)]
struct Queued {
    start: Timestamp,
    /// Air time rounded up to milliseconds, as the forwarder counts it.
    counted: Duration,
    request: TxRequest,
}

impl Gateway {
    /// A gateway with an empty queue.
    pub fn new(config: GatewayConfig) -> Self {
        let rules = RuleWatch::new(config.region, config.antenna_gain_db);
        Self {
            config,
            queue: Vec::new(),
            sent: VecDeque::new(),
            rules,
            counts: GatewayCounts::default(),
            down: false,
            beacon: None,
        }
    }

    /// What it is like.
    pub fn config(&self) -> &GatewayConfig {
        &self.config
    }

    /// Who it is.
    pub fn eui(&self) -> GatewayEui {
        self.config.eui
    }

    /// What it did.
    pub fn counts(&self) -> &GatewayCounts {
        &self.counts
    }

    /// Rules that were broken, in order.
    pub fn breaches(&self) -> &[Breach] {
        self.rules.breaches()
    }

    /// Whether it is cut off from the server: what it hears gets nowhere, and it is asked in vain.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Cuts it off, or connects it again. With its power it also loses its queue, and its counter starts anew.
    pub fn set_down(&mut self, now: Timestamp, down: bool, power: bool) {
        self.down = down;
        if power {
            self.queue.clear();
            self.config.counter_offset = self.config.counter_offset.wrapping_sub(self.counter(now));
        }
    }

    /// Its counter at a moment; wraps every 71.6 minutes.
    pub fn counter(&self, at: Timestamp) -> u32 {
        let [a, b, c, d, ..] = at.as_micros().to_le_bytes();
        u32::from_le_bytes([a, b, c, d]).wrapping_add(self.config.counter_offset)
    }

    /// Begins to send beacons, if it is a gateway that does.
    pub fn start_beacons(&mut self, now: Timestamp) {
        if self.config.gps && self.config.beaconing {
            self.beacon = Beacon::next(self.config.region, now);
        }
    }

    /// When it next sends.
    pub fn next_event(&self) -> Option<Timestamp> {
        let frame = self.queue.first().map(|queued| queued.start);
        let beacon = self.beacon.as_ref().map(|beacon| beacon.start);
        frame.into_iter().chain(beacon).min()
    }

    /// A frame that was on air at its antenna, strong enough to be heard: what it received, if it was not sending.
    pub fn uplink(&mut self, frame: &OnAir, rssi_dbm: i16, snr_db: f32) -> Option<Received> {
        let deaf = self
            .sent
            .iter()
            .any(|&(start, end)| start < frame.end && frame.start < end);
        if deaf {
            self.counts.deaf += 1;
            return None;
        }
        self.counts.received += 1;
        Some(Received {
            counter_us: self.counter(frame.end),
            at: frame.end,
            frequency_hz: frame.frequency_hz,
            data_rate: frame.data_rate,
            rssi_dbm,
            snr_db,
            gps: self.config.gps.then(|| frame.end.to_gps()),
            phy_payload: frame.phy_payload.clone(),
        })
    }

    /// Takes a frame into the queue.
    ///
    /// # Errors
    /// Why the forwarder refuses it.
    pub fn request(&mut self, now: Timestamp, request: TxRequest) -> Result<(), TxError> {
        let result = self.enqueue(now, request);
        match result {
            Ok(()) => self.counts.queued += 1,
            Err(_) => self.counts.refused += 1,
        }
        result
    }

    /// Sends what is due by `now`.
    pub fn advance(&mut self, now: Timestamp) -> Vec<OnAir> {
        let due = self.queue.partition_point(|queued| queued.start <= now);
        let due: Vec<Queued> = self.queue.drain(..due).collect();
        let mut frames: Vec<OnAir> = due
            .into_iter()
            .filter_map(|queued| self.send(queued))
            .collect();
        while let Some(beacon) = self.beacon.take_if(|beacon| beacon.start <= now) {
            self.beacon = Beacon::next(self.config.region, beacon.start + Duration::from_secs(1));
            frames.push(self.send_beacon(&beacon));
        }
        frames
    }

    fn send_beacon(&mut self, beacon: &Beacon) -> OnAir {
        let payload = beacon.payload(self.config.region);
        let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
        let air_us = beacon.data_rate.time_on_air_us(length, Direction::Downlink);
        self.put_on_air(OnAir {
            start: beacon.start,
            end: beacon.start + Duration::from_micros(air_us.into()),
            frequency_hz: beacon.frequency_hz,
            data_rate: beacon.data_rate,
            phy_payload: payload,
            power_dbm: BEACON_POWER_DBM,
            beacon: true,
        })
    }

    fn put_on_air(&mut self, frame: OnAir) -> OnAir {
        let air_us = frame.end.since(frame.start).as_micros();
        self.counts.sent += 1;
        self.counts.air_us += u64::try_from(air_us).unwrap_or(u64::MAX);
        if self.sent.len() == SENT_KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back((frame.start, frame.end));
        self.rules.count(&frame);
        frame
    }

    fn enqueue(&mut self, now: Timestamp, request: TxRequest) -> Result<(), TxError> {
        let length = request.phy_payload.len();
        let phy_length = u8::try_from(length).map_err(|_| TxError::Size)?;
        if length == 0 || length > MAX_PHY_LENGTH {
            return Err(TxError::Size);
        }
        if !self.config.tx_hz.contains(&request.frequency_hz) {
            return Err(TxError::TxFreq);
        }
        if !self.config.power_dbm.contains(&request.power_dbm) {
            return Err(TxError::TxPower);
        }
        if self.queue.len() >= self.config.queue_length {
            return Err(TxError::QueueFull);
        }
        let air_us = request
            .data_rate
            .time_on_air_us(phy_length, Direction::Downlink);
        let counted = Duration::from_millis(air_us.div_ceil(1000).into());
        let start = match request.when {
            TxWhen::Immediately => self.first_gap(now, counted),
            TxWhen::Counter(counter) => {
                self.slot(now, self.ahead(now, counter)?, counted, false)?
            }
            TxWhen::Gps(at) if self.config.gps => {
                let ahead_us = at.to_unix().micros_since(now);
                let ahead = u64::try_from(ahead_us).map_err(|_| TxError::TooLate)?;
                self.slot(now, Duration::from_micros(ahead), counted, true)?
            }
            TxWhen::Gps(_) => return Err(TxError::GpsUnlocked),
        };
        let at = self.queue.partition_point(|queued| queued.start <= start);
        self.queue.insert(
            at,
            Queued {
                start,
                counted,
                request,
            },
        );
        Ok(())
    }

    /// How far ahead a counter is.
    fn ahead(&self, now: Timestamp, counter: u32) -> Result<Duration, TxError> {
        let ahead_us = counter.wrapping_sub(self.counter(now)).cast_signed();
        let ahead = u64::try_from(ahead_us).map_err(|_| TxError::TooLate)?;
        Ok(Duration::from_micros(ahead))
    }

    /// The moment so far ahead, if a frame may start then. Frames of class B keep clear of the guard before a beacon
    /// too.
    fn slot(
        &self,
        now: Timestamp,
        ahead: Duration,
        counted: Duration,
        class_b: bool,
    ) -> Result<Timestamp, TxError> {
        if ahead <= BEFORE + MARGIN {
            return Err(TxError::TooLate);
        }
        if ahead > ADVANCE_MAX {
            return Err(TxError::TooEarly);
        }
        let start = now + ahead;
        let collides = self
            .queue
            .iter()
            .any(|queued| queued.collides(start, counted));
        let guard = if class_b {
            BEACON_GUARD
        } else {
            Duration::ZERO
        };
        if self.meets_beacon(start, start + counted + guard) {
            return Err(TxError::CollisionBeacon);
        }
        if collides {
            Err(TxError::CollisionPacket)
        } else {
            Ok(start)
        }
    }

    /// Whether one of its beacons, or the time reserved behind it, lies between two moments.
    fn meets_beacon(&self, from: Timestamp, to: Timestamp) -> bool {
        let beacons = self.config.gps && self.config.beaconing;
        let last = Beacon::last(self.config.region, to).filter(|_| beacons);
        last.is_some_and(|beacon| from < beacon.start + BEACON_RESERVED)
    }

    /// The first moment an immediate frame may start: now, or a wide gap behind a queued frame.
    fn first_gap(&self, now: Timestamp, counted: Duration) -> Timestamp {
        let behind = self
            .queue
            .iter()
            .map(|queued| queued.start + queued.counted + BEFORE + JITTER + MARGIN);
        let candidates = std::iter::once(now + BEFORE).chain(behind);
        let free = |start: Timestamp| {
            self.queue
                .iter()
                .all(|queued| !queued.collides(start, counted))
        };
        let fallback = now + BEFORE;
        candidates
            .filter(|&start| start >= fallback && free(start))
            .min()
            .unwrap_or(fallback)
    }

    fn send(&mut self, queued: Queued) -> Option<OnAir> {
        let busy = self.sent.back().is_some_and(|&(_, end)| end > queued.start);
        if busy {
            self.counts.dropped += 1;
            return None;
        }
        let request = queued.request;
        let length = u8::try_from(request.phy_payload.len()).unwrap_or(u8::MAX);
        let air_us = request
            .data_rate
            .time_on_air_us(length, Direction::Downlink);
        let air_time = Duration::from_micros(air_us.into());
        let frame = OnAir {
            start: queued.start,
            end: queued.start + air_time,
            frequency_hz: request.frequency_hz,
            data_rate: request.data_rate,
            phy_payload: request.phy_payload,
            power_dbm: request.power_dbm,
            beacon: false,
        };
        Some(self.put_on_air(frame))
    }
}

impl Queued {
    /// Whether a frame from `start` on comes too close.
    fn collides(&self, start: Timestamp, counted: Duration) -> bool {
        let gap = BEFORE + MARGIN;
        let after = start > self.start + self.counted + gap;
        let before = self.start > start + counted + gap;
        !after && !before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn gateway() -> Gateway {
        let mut config = GatewayConfig::new(GatewayEui(1), Region::Eu868);
        config.counter_offset = 0xffff_0000;
        Gateway::new(config)
    }

    fn frame(when: TxWhen) -> TxRequest {
        TxRequest {
            when,
            frequency_hz: 869_525_000,
            data_rate: Region::Eu868.data_rate(5, Direction::Downlink).unwrap(),
            power_dbm: 27,
            phy_payload: vec![0; 20],
        }
    }

    /// A frame that starts so many microseconds after `START`.
    fn at(gateway: &Gateway, micros: u32) -> TxRequest {
        let counter = gateway.counter(START).wrapping_add(micros);
        frame(TxWhen::Counter(counter))
    }

    fn ask(gateway: &mut Gateway, micros: u32) -> Result<(), TxError> {
        let request = at(gateway, micros);
        gateway.request(START, request)
    }

    /// 20 bytes at SF7 last 51.5 ms on the way down, counted as 52.
    fn counted_us() -> u32 {
        let data_rate = frame(TxWhen::Immediately).data_rate;
        data_rate
            .time_on_air_us(20, Direction::Downlink)
            .div_ceil(1000)
            * 1000
    }

    #[test]
    fn a_frame_must_come_in_time() {
        assert_eq!(ask(&mut gateway(), 42_500), Err(TxError::TooLate));
        assert_eq!(ask(&mut gateway(), 42_501), Ok(()));
        assert_eq!(
            ask(&mut gateway(), 0_u32.wrapping_sub(1)),
            Err(TxError::TooLate)
        );
        assert_eq!(ask(&mut gateway(), 512_000_000), Ok(()));
        assert_eq!(ask(&mut gateway(), 512_000_001), Err(TxError::TooEarly));
    }

    #[test]
    fn frames_keep_their_distance() {
        let mut gateway = gateway();
        let first = 1_000_000;
        let next = first + counted_us() + 42_500;
        assert_eq!(ask(&mut gateway, first), Ok(()));
        assert_eq!(ask(&mut gateway, first), Err(TxError::CollisionPacket));
        assert_eq!(ask(&mut gateway, next), Err(TxError::CollisionPacket));
        assert_eq!(ask(&mut gateway, next + 1), Ok(()));
        let before = first - counted_us() - 42_500;
        assert_eq!(ask(&mut gateway, before), Err(TxError::CollisionPacket));
        assert_eq!(ask(&mut gateway, before - 1), Ok(()));
    }

    #[test]
    fn immediate_frames_queue_behind_others() {
        let mut gateway = gateway();
        for _ in 0..3 {
            gateway.request(START, frame(TxWhen::Immediately)).unwrap();
        }
        let starts: Vec<i64> = gateway
            .advance(START + MS * 10_000)
            .iter()
            .map(|frame| frame.start.micros_since(START))
            .collect();
        let step = i64::from(counted_us()) + 82_500;
        assert_eq!(starts, [41_500, 41_500 + step, 41_500 + 2 * step]);
    }

    #[test]
    fn what_the_radio_cannot_do_is_refused() {
        let request = |change: fn(&mut TxRequest)| {
            let mut request = frame(TxWhen::Immediately);
            change(&mut request);
            gateway().request(START, request)
        };
        assert_eq!(
            request(|request| request.frequency_hz = 915_000_000),
            Err(TxError::TxFreq)
        );
        assert_eq!(
            request(|request| request.power_dbm = 28),
            Err(TxError::TxPower)
        );
        assert_eq!(
            request(|request| request.phy_payload.clear()),
            Err(TxError::Size)
        );
        assert_eq!(
            request(|request| request.phy_payload = vec![0; 256]),
            Err(TxError::Size)
        );
    }

    #[test]
    fn the_queue_holds_32() {
        let mut gateway = gateway();
        for n in 1..=32 {
            assert_eq!(ask(&mut gateway, n * 200_000), Ok(()));
        }
        assert_eq!(ask(&mut gateway, 33 * 200_000), Err(TxError::QueueFull));
        assert_eq!(gateway.advance(START + MS * 250).len(), 1);
        assert_eq!(ask(&mut gateway, 33 * 200_000), Ok(()));
    }

    #[test]
    fn a_frame_due_while_another_is_on_air_is_dropped() {
        let mut gateway = gateway();
        ask(&mut gateway, 100_000).unwrap();
        assert_eq!(gateway.advance(START + MS * 100).len(), 1);
        // The queue is empty, so nothing holds this one back.
        gateway
            .request(START + MS * 100, frame(TxWhen::Immediately))
            .unwrap();
        assert!(gateway.advance(START + MS * 200).is_empty());
        assert_eq!(gateway.counts().dropped, 1);
    }

    #[test]
    fn it_is_deaf_while_sending() {
        let mut gateway = gateway();
        ask(&mut gateway, 100_000).unwrap();
        let sent = gateway.advance(START + MS * 100).remove(0);
        let heard = |gateway: &mut Gateway, start: Timestamp| {
            let uplink = OnAir {
                start,
                end: start + MS * 10,
                ..sent.clone()
            };
            gateway.uplink(&uplink, -80, 5.0)
        };
        assert!(heard(&mut gateway, sent.end - MS).is_none());
        let received = heard(&mut gateway, sent.end).unwrap();
        assert_eq!(
            received.counter_us,
            gateway.counter(sent.end + MS * 10),
            "counter at the end of the frame"
        );
        assert_eq!((gateway.counts().deaf, gateway.counts().received), (1, 1));
    }
}
