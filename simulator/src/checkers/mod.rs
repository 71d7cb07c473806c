//! What must hold in every run: one checker for each property of the product, fed with what was committed and with what
//! was on air, and with nothing the server says of itself beyond its records.
//!
//! Checkers look at a run while it lasts (`commit`, `on_air`) and once at its end (`verdicts`).

mod air;
mod counters;
mod errors;
mod keys;
mod records;
mod verdicts;
mod windows;

use std::fmt;
use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::frame::{DataFrame, Direction};
use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::record::Change;
use lorawan_fuota::time::Timestamp;

use crate::device::EndDevice;
use crate::gateway::OnAir;
use crate::lab::Lab;

pub use air::AirShare;
pub use counters::{Counters, FragmentOnAir};
pub use errors::watch_errors;
pub use keys::Keys;
pub use records::{KnownOfDevice, Records};
pub use verdicts::{Expected, verdicts};
pub use windows::Windows;

/// The properties that are checked, each by a checker of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checker {
    /// No frame counter is used for two frames under one key, none goes back, and none leaves before it is committed.
    Counters,
    /// No multicast frame outside of a committed window of its session.
    Windows,
    /// Fragments leave in order, and none before its session's progress is committed.
    Fragments,
    /// Sub-bands, duty cycles over a sliding hour, power and dwell time, of what was really on air.
    DutyCycle,
    /// Each gateway keeps to the operator's share of its air.
    AirShare,
    /// Every task and every device ends, with a reason if not with success, and what has ended stays as it is.
    Terminal,
    /// A device that counts as running the target version does run it.
    Running,
    /// What was acknowledged is not lost, and committed records do not go back.
    Acknowledged,
    /// What counts as deleted is gone from the device; what is not is recorded as left behind.
    Cleanup,
    /// The clocks of devices are right wherever the server set them.
    Clock,
    /// Every device that can be updated is updated; the others end with the reason that fits.
    Updated,
    /// No error is logged, the store takes every commit, gateways find nothing wrong with a frame, the loop goes on.
    Errors,
    /// A session that goes on with a group of an earlier one has exactly the devices that hold its key.
    Keys,
}

impl fmt::Display for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A property of the product that a run has broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Timestamp,
    /// Which property.
    pub checker: Checker,
    /// At which device, if it is about one.
    pub device: Option<DevEui>,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  ", self.at, self.checker)?;
        if let Some(device) = self.device {
            write!(f, "device {device}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// Something that happened, for the log of a run that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// To which device, if to one.
    pub device: Option<DevEui>,
    /// It is about a frame on air, of which there are many.
    pub frame: bool,
    /// What.
    pub what: String,
}

/// A frame a gateway sent, as far as the air is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentFrame {
    /// Its first moment.
    pub at: Timestamp,
    /// How long it was on air.
    pub airtime: Duration,
    /// Who sent it.
    pub gateway: GatewayEui,
    /// Centre, in Hz.
    pub frequency_hz: u32,
    /// Modulation.
    pub data_rate: DataRate,
}

/// All checkers that look on while a run lasts.
#[derive(Default)]
pub struct Checkers {
    /// What was committed last.
    pub records: Records,
    counters: Counters,
    keys: Keys,
    windows: Windows,
    share: AirShare,
    violations: Vec<Violation>,
    /// `None` where nobody wants to know.
    events: Option<Vec<Event>>,
    /// `None` where nobody wants to know.
    frames: Option<Vec<SentFrame>>,
}

/// One broken property: which, at which device, how.
type Broken = (Checker, Option<DevEui>, String);

impl Checkers {
    /// Takes in a commit; `lab` tells what is true.
    pub fn commit(&mut self, at: Timestamp, changes: &[Change], lab: &Lab) {
        let running = |dev_eui| lab.device(dev_eui).map(EndDevice::running_version);
        self.commit_records(at, changes, &running);
        let broken = self.keys.commit(changes, &self.records, lab);
        self.break_all(at, broken);
    }

    /// As [`Checkers::commit`], of changes without groups and away from the lab: `running` is what devices really run,
    /// of those that the changes say are done.
    pub(crate) fn commit_apart(
        &mut self,
        at: Timestamp,
        changes: &[Change],
        running: &[(DevEui, u32)],
    ) {
        let real = |dev_eui| {
            let known = running.iter().find(|(known, _)| *known == dev_eui);
            known.map(|(_, version)| *version)
        };
        self.commit_records(at, changes, &real);
    }

    fn commit_records(
        &mut self,
        at: Timestamp,
        changes: &[Change],
        running: &dyn Fn(DevEui) -> Option<u32>,
    ) {
        self.counters.commit(changes);
        let late = self.windows.commit(at, changes);
        self.break_all(at, late);
        let broken = self.records.commit(changes, running, &mut |device, what| {
            if let Some(events) = &mut self.events {
                events.push(Event {
                    at,
                    device,
                    frame: false,
                    what,
                });
            }
        });
        self.break_all(at, broken);
    }

    /// Takes in a frame that a gateway began to send.
    pub fn on_air(&mut self, gateway: GatewayEui, frame: &OnAir) {
        let data = DataFrame::parse(&frame.phy_payload).ok();
        let data = data.filter(|data| data.direction == Direction::Downlink);
        let records = &self.records;
        let mut broken = self.counters.on_air(gateway, frame, data.as_ref(), records);
        let group = data.as_ref().and_then(|data| self.windows.session(data));
        let multicast = group.is_some();
        let outside = data
            .as_ref()
            .and_then(|data| self.windows.on_air(frame, data));
        broken.extend(outside);
        broken.extend(self.share.on_air(gateway, frame, multicast));
        if let Some(frames) = &mut self.frames {
            frames.push(SentFrame {
                at: frame.start,
                airtime: frame.end.since(frame.start),
                gateway,
                frequency_hz: frame.frequency_hz,
                data_rate: frame.data_rate,
            });
        }
        if let Some(events) = &mut self.events {
            let air_ms = frame.end.since(frame.start).as_millis();
            let sent = self.counters.last();
            events.push(Event {
                at: frame.start,
                device: None,
                frame: true,
                what: format!("gateway {gateway} sends {sent}, {air_ms} ms"),
            });
        }
        self.break_all(frame.start, broken);
    }

    /// The server starts (again): whatever it keeps in memory alone is gone.
    pub fn restarted(&mut self, at: Timestamp) {
        self.windows.restarted(at);
        self.share.restarted();
    }

    /// The server's clock may be off by this from now on.
    pub fn tolerate_clock(&mut self, off: Duration) {
        self.windows.tolerate(off);
    }

    /// Frames may leave after their windows: gateways lose power and the server cannot notice.
    pub fn tolerate_late(&mut self) {
        self.windows.tolerate_late();
    }

    /// Frames may leave in another order than they were given to gateways: the server was misled about the counter of
    /// a gateway, by messages held up, a clock that was set or a counter that started anew.
    pub fn tolerate_order(&mut self) {
        self.counters.tolerate_order();
    }

    /// What gateways may use of their air, permille.
    pub fn allow_share(&mut self, permille: u16) {
        self.share.allow(permille);
    }

    /// A property is broken.
    pub fn broken(
        &mut self,
        at: Timestamp,
        checker: Checker,
        device: Option<DevEui>,
        what: String,
    ) {
        self.violations.push(Violation {
            at,
            checker,
            device,
            what,
        });
    }

    /// Properties broken so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Fragments that were on air, in order.
    pub fn fragments(&self) -> &[FragmentOnAir] {
        self.counters.fragments()
    }

    /// When frames of groups began that were no fragments: questions for status.
    pub fn polls(&self) -> &[Timestamp] {
        self.counters.polls()
    }

    /// From now on events are kept.
    pub fn keep_events(&mut self) {
        self.events.get_or_insert_default();
    }

    /// From now on frames are kept, with what they took of the air.
    pub fn keep_frames(&mut self) {
        self.frames.get_or_insert_default();
    }

    /// The frames kept, in the order they began.
    pub fn frames(&self) -> &[SentFrame] {
        self.frames.as_deref().unwrap_or_default()
    }

    /// Something happened.
    pub fn note(&mut self, at: Timestamp, device: Option<DevEui>, what: impl FnOnce() -> String) {
        if let Some(events) = &mut self.events {
            events.push(Event {
                at,
                device,
                frame: false,
                what: what(),
            });
        }
    }

    /// The events kept.
    pub fn events(&self) -> &[Event] {
        self.events.as_deref().unwrap_or_default()
    }

    fn break_all(&mut self, at: Timestamp, broken: Vec<Broken>) {
        for (checker, device, what) in broken {
            self.broken(at, checker, device, what);
        }
    }
}
