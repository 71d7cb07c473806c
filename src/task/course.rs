//! The course of a plan, wave after wave: at which data rates its devices are served, when each wave's frames leave
//! under the duty cycle, and what that takes of each gateway's air.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::record::{DeviceClass, FleetDevice, RebootMode, SuccessCriterion};
use crate::time::Timestamp;

use super::air::{self, GatewayAir, Sender, Sending};
use super::calendar;
use super::link::{self, covering_gateways};
use super::outlook::{self, Prospect, Span};
use super::place::SessionKey;
use super::plan::{Forecast, PlanError, PlanRefusal, PlanRequest, PlannedSession};
use super::plan_session::Start;
use super::rates::{self, RateCost};
use super::sizing;
use super::unicast::{self, Unicast};

/// A gateway not heard for so long is offline: gateways say something every few seconds, and half a minute may pass
/// until it is written down.
const OFFLINE_AFTER: Duration = Duration::from_secs(120);
/// From handing the first frame over to its being on air, where a gateway does not say otherwise.
const LEAD: Duration = Duration::from_millis(300);
/// The quickest exchange with a device.
const QUICKEST: Duration = Duration::from_secs(2);
/// Stands for a rate at which the image has too many fragments: any other is cheaper.
const IMPOSSIBLE: RateCost = RateCost {
    air_s: 1e9,
    time_s: 1e9,
};

/// Where a plan stands after some waves.
pub(super) struct Course<'a> {
    request: &'a PlanRequest<'a>,
    by_eui: BTreeMap<DevEui, &'a FleetDevice>,
    prepare_at: Timestamp,
    /// Gateways that are online, or were never heard.
    pub(super) usable: BTreeSet<GatewayEui>,
    /// When the next wave begins.
    pub(super) begins: Timestamp,
    /// When the first window is to open, if the operator said so; taken by the first wave.
    pub(super) window_start: Option<Timestamp>,
    /// When the last wave so far ends.
    pub(super) finish: Span,
    keys: Vec<(Option<GatewayEui>, u8)>,
    senders: Vec<Sender>,
}

impl<'a> Course<'a> {
    pub(super) fn new(request: &'a PlanRequest<'a>, prepare_at: Timestamp) -> Self {
        let offline = |eui: &GatewayEui| {
            let last = request.heard.get(eui);
            last.is_some_and(|last| *last + OFFLINE_AFTER < request.now)
        };
        let all = request.gateways.iter().map(|g| g.eui);
        let devices = request.devices.iter();
        Self {
            request,
            by_eui: devices.map(|d| (d.settings.dev_eui, *d)).collect(),
            prepare_at,
            usable: all.filter(|eui| !offline(eui)).collect(),
            begins: prepare_at,
            window_start: request.task.window_start,
            finish: Span {
                low: prepare_at,
                expected: prepare_at,
                high: prepare_at,
            },
            keys: Vec::new(),
            senders: Vec::new(),
        }
    }

    /// A wave is over: the next one begins after the pause between them.
    pub(super) fn end_wave(&mut self) {
        self.begins += self.request.task.waves.pause_between;
    }

    /// Runs the sessions of a wave for one image side by side, and writes down what is to be expected of each.
    pub(super) fn run(
        &mut self,
        sessions: &mut [PlannedSession],
        start: &Start,
    ) -> Result<(), PlanError> {
        if sessions.is_empty() {
            return Ok(());
        }
        for session in sessions.iter() {
            self.check_window(session, start)?;
        }
        let prospects: Vec<Prospect<'a>> = sessions
            .iter()
            .map(|session| self.prospect(session, start))
            .collect();
        let frames: Vec<(u32, u32, u32)> = sessions
            .iter()
            .map(|s| (s.frames.low, s.frames.expected, s.frames.high))
            .collect();
        let deadline = self.request.task.deadline;
        let run = outlook::of_wave(&prospects, &frames, &mut self.senders, deadline);
        let Some((outlooks, verdicts)) = run else {
            return Err(PlanError::Refused {
                refusal: PlanRefusal::DutyCycle,
                field: "data_rate",
                message: "the sub-band allows too little air for frames of that length".to_owned(),
            });
        };
        for (session, outlook) in sessions.iter_mut().zip(outlooks) {
            let last = outlook.last_fragment.expected;
            session.distribution = last.since(session.window.start);
            let one = session.airtime / session.frames.expected.max(1);
            let (low, expected, high) = outlook.fragments;
            session.frames = Forecast {
                low,
                expected,
                high,
            };
            session.airtime = one * expected * self.copies(session);
            session.outlook = outlook;
        }
        let before = self.finish;
        let early = before.expected.since(before.low);
        let late = before.high.since(before.expected);
        let reaction = verdicts.low.as_micros() - i64::try_from(early.as_micros()).unwrap_or(0);
        self.finish = Span {
            low: Timestamp::from_micros(reaction),
            expected: verdicts.expected,
            high: verdicts.high + late,
        };
        self.begins = self.finish.expected;
        Ok(())
    }

    /// What the calendar of the task keeps closed while a wave is sent comes on top.
    pub(super) fn keep_to_calendar(&mut self, sessions: &[PlannedSession]) {
        let calendar = &self.request.task.rules.calendar;
        let closed = sessions.iter().filter_map(|session| {
            let free = session.window.start + session.distribution;
            let sent = calendar::after_open(calendar, session.window.start, session.distribution)?;
            Some(sent.since(free))
        });
        let closed = closed.max().unwrap_or_default();
        self.finish.expected += closed;
        self.finish.high += closed;
        self.finish.low += closed;
        self.begins += closed;
    }

    /// All devices reboot at one moment, and tell their version `after` that.
    pub(super) fn reboots_at(&mut self, at: Timestamp, after: Duration) {
        self.finish.low = self.finish.low.max(at);
        self.finish.expected = self.finish.expected.max(at + after);
        self.finish.high = self.finish.high.max(at + after * 2);
    }

    /// A window that opens before any device could be ready is of no use to anybody.
    fn check_window(&self, session: &PlannedSession, start: &Start) -> Result<(), PlanError> {
        let members = session.devices.iter().filter_map(|d| self.by_eui.get(d));
        let commands = members.map(|d| unicast::setup_commands(d)).min();
        let quickest = QUICKEST * commands.unwrap_or_default();
        let opens = session.window.start;
        if start.window.is_none() || opens >= start.prepare_at + quickest {
            return Ok(());
        }
        let seconds = quickest.as_secs();
        Err(PlanError::Refused {
            refusal: PlanRefusal::SetupTooShort,
            field: "window_start",
            message: format!("a device needs {seconds} s at least to be set up; none could be"),
        })
    }

    fn prospect(&mut self, session: &PlannedSession, start: &Start) -> Prospect<'a> {
        let task = self.request.task;
        let devices: Vec<&'a FleetDevice> = session
            .devices
            .iter()
            .filter_map(|d| self.by_eui.get(d).copied())
            .collect();
        let payload = session
            .block
            .frag_size
            .saturating_add(sizing::DATA_FRAGMENT_OVERHEAD);
        let airtime =
            sizing::frame_airtime(session.region, session.data_rate, usize::from(payload));
        let answer = session
            .region
            .data_rate(3, Direction::Uplink)
            .map(|rate| Duration::from_micros(rate.time_on_air_us(30, Direction::Uplink).into()));
        let reboot_after = match (start.success, task.reboot) {
            (SuccessCriterion::Running, RebootMode::Countdown { after }) => after,
            _ => Duration::ZERO,
        };
        let sending = Sending {
            start: session.window.start + sizing::WINDOW_GUARD + LEAD,
            frames: session.frames.expected,
            airtime: airtime.unwrap_or_default(),
            frequency_hz: session.frequency_hz,
            permille: self.permille(session),
            spacing: session.spacing,
            copies: self.copies(session),
            at_once: session.class == DeviceClass::B,
            senders: self.senders_of(session),
        };
        Prospect {
            commands: devices.iter().map(|d| unicast::setup_commands(d)).collect(),
            devices,
            frag_algo: session.block.frag_algo,
            nb_frag: session.block.nb_frag,
            budget: sizing::coded_budget(
                session.block.nb_frag,
                task.options.max_redundancy_percent,
            ),
            block_ack_delay: session.block.block_ack_delay,
            success: start.success,
            reboot_after,
            prepare_at: start.prepare_at,
            window_start: session.window.start,
            window_end: session.window.end(),
            sending,
            answer: answer.unwrap_or_default(),
            class: session.class,
            ping_slots: session.ping_slots,
        }
    }

    /// Devices of class A are sent to one by one, each by the gateway that hears it best.
    fn copies(&self, session: &PlannedSession) -> u32 {
        let count = |n: usize| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        match session.class {
            DeviceClass::A => count(session.devices.len()).div_ceil(count(session.gateways.len())),
            DeviceClass::B | DeviceClass::C => 1,
        }
    }

    fn permille(&self, session: &PlannedSession) -> u16 {
        let band = air::band_of(session.region, session.frequency_hz, session.data_rate);
        band.map_or(1000, |band| band.duty_cycle_permille)
    }

    /// The senders of a session, with what their ledgers say; one that stands for all where none is known.
    fn senders_of(&mut self, session: &PlannedSession) -> Vec<usize> {
        let Some(band) = air::band_of(session.region, session.frequency_hz, session.data_rate)
        else {
            return Vec::new();
        };
        let mut gateways: Vec<Option<GatewayEui>> =
            session.gateways.iter().copied().map(Some).collect();
        if gateways.is_empty() {
            gateways.push(None);
        }
        let mut found = Vec::new();
        for gateway in gateways {
            let key = (gateway, band.id);
            let known = self.keys.iter().position(|k| *k == key);
            found.push(known.unwrap_or_else(|| {
                let ledgers = self.request.ledgers;
                let spent = gateway.map(|g| air::spent_of(ledgers, g, &band));
                let share = gateway.map_or(1000, |g| air::share_of(self.request.gateways, g));
                self.keys.push(key);
                self.senders
                    .push(Sender::new(spent.unwrap_or_default(), share));
                self.senders.len() - 1
            }));
        }
        found
    }

    /// What the plan takes of each gateway's air, multicast and unicast.
    pub(super) fn air(&self, sessions: &[PlannedSession]) -> Vec<GatewayAir> {
        let request = self.request;
        let length = self.finish.expected.since(self.prepare_at);
        let share = |gateway| air::share_of(request.gateways, gateway);
        let mut unicast = Unicast::default();
        for session in sessions {
            let devices = session.devices.iter().filter_map(|d| self.by_eui.get(d));
            let success = request.success_of(session.image);
            unicast.add(devices.copied(), &self.usable, success);
        }
        let mut rows: BTreeMap<(GatewayEui, u8), GatewayAir> = BTreeMap::new();
        for row in unicast.air(request.ledgers, request.now, length, share) {
            rows.insert((row.gateway, row.sub_band.id), row);
        }
        for session in sessions {
            let band = air::band_of(session.region, session.frequency_hz, session.data_rate);
            let Some(band) = band else { continue };
            for gateway in &session.gateways {
                let row = rows.entry((*gateway, band.id)).or_insert_with(|| {
                    let spent = air::spent_of(request.ledgers, *gateway, &band).at(request.now);
                    let spent = Duration::from_micros(spent);
                    let permille = band.duty_cycle_permille;
                    GatewayAir {
                        gateway: *gateway,
                        sub_band: band,
                        share_permille: share(*gateway),
                        multicast: Duration::ZERO,
                        unicast: Duration::ZERO,
                        spent,
                        allowed: air::allowance(permille, share(*gateway), spent, length),
                    }
                });
                row.multicast += session.airtime;
            }
        }
        rows.into_values().collect()
    }
}

/// Puts the devices of a wave into sessions: at the data rate asked for, or else at the one the cost function finds.
pub(super) fn with_rates<'a>(
    request: &PlanRequest<'_>,
    usable: &BTreeSet<GatewayEui>,
    members: Vec<(SessionKey, &'a FleetDevice)>,
) -> BTreeMap<SessionKey, Vec<&'a FleetDevice>> {
    let mut alike: BTreeMap<SessionKey, Vec<&'a FleetDevice>> = BTreeMap::new();
    for (key, device) in members {
        alike.entry(key).or_default().push(device);
    }
    let mut sessions: BTreeMap<SessionKey, Vec<&'a FleetDevice>> = BTreeMap::new();
    for (key, devices) in alike {
        let asked_size = request.task.options.frag_size;
        let rates = link::candidate_rates(key.region, key.frequency_hz, asked_size);
        if key.rate_asked || rates.is_empty() {
            let key = settled(key);
            sessions.entry(key).or_default().extend(devices);
            continue;
        }
        // Devices nobody has heard may not be there at all: they slow nobody down.
        let (devices, unheard): (Vec<&FleetDevice>, Vec<&FleetDevice>) = devices
            .into_iter()
            .partition(|d| !d.status.links.is_empty());
        if let Some(slowest) = rates.first().filter(|_| !unheard.is_empty()) {
            let key = at_rate(key, *slowest, request);
            sessions.entry(key).or_default().extend(unheard);
        }
        let keys: Vec<SessionKey> = rates.iter().map(|dr| at_rate(key, *dr, request)).collect();
        let costs: Vec<RateCost> = keys
            .iter()
            .map(|key| cost(request, key, &devices))
            .collect();
        let fastest: Vec<usize> = devices
            .iter()
            .map(|device| link::fastest_rate(device, key.region, &rates, usable))
            .collect();
        let gateways = |rate: usize, members: &[usize]| {
            let served = members.iter().filter_map(|at| devices.get(*at).copied());
            covering_gateways(served, usable, key.region, rates[rate]).len()
        };
        let chosen = rates::choose(&fastest, &costs, gateways);
        for (device, rate) in devices.iter().zip(chosen) {
            if let Some(key) = keys.get(rate) {
                sessions.entry(*key).or_default().push(device);
            }
        }
    }
    sessions
}

/// The key at another data rate, with the largest fragment that goes there.
fn at_rate(key: SessionKey, data_rate: u8, request: &PlanRequest<'_>) -> SessionKey {
    let largest = sizing::largest_fragment(key.region, data_rate).unwrap_or(key.frag_size);
    let frag_size = match request.task.options.frag_size {
        Some(_) => key.frag_size,
        None => largest.min(key.max_frag_size),
    };
    settled(SessionKey {
        data_rate,
        frag_size,
        ..key
    })
}

/// The key without what the choice of a rate needs: devices that differ in nothing else share frames.
fn settled(key: SessionKey) -> SessionKey {
    SessionKey {
        rate_asked: true,
        max_frag_size: key.frag_size,
        ..key
    }
}

fn cost(request: &PlanRequest<'_>, key: &SessionKey, devices: &[&FleetDevice]) -> RateCost {
    let length = usize::try_from(request.size_of(key.image, key.delta)).unwrap_or(usize::MAX);
    let Ok(layout) = sizing::layout(length, key.frag_size) else {
        return IMPOSSIBLE;
    };
    let payload = usize::from(layout.frag_size) + usize::from(sizing::DATA_FRAGMENT_OVERHEAD);
    let Some(airtime) = sizing::frame_airtime(key.region, key.data_rate, payload) else {
        return IMPOSSIBLE;
    };
    let Reverse(frag_algo) = key.frag_algo;
    let (_, frames, _) = outlook::fragments(devices, frag_algo, layout.nb_frag);
    let band = air::band_of(key.region, key.frequency_hz, key.data_rate);
    let permille = band.map_or(1000, |band| band.duty_cycle_permille);
    let air_time = airtime * frames;
    RateCost {
        air_s: air_time.as_secs_f64(),
        time_s: air::time_for(air_time, permille, Duration::ZERO).as_secs_f64(),
    }
}
