//! What goes wrong in a scenario: at set times (`[[fault]]`), and by chance all along (`[faults]`).

use std::time::Duration;

use crate::world::{Faults, Outages};

use super::groups::{Group, gateway};
use super::kinds::{share, signed_time_us, text, time, word, yes};
use super::radio::Radio;
use super::reading::{Fields, File};
use super::site::GatewayPlan;

/// Something that happens at a set time.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedFault {
    /// From the start of the task.
    pub at: Duration,
    /// What.
    pub what: FaultKind,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// Gateways (indices; all if `None`) lose their line, or their power with all they were to send.
    GatewayDown {
        /// Which.
        gateway: Option<usize>,
        /// Whether the power is gone, or the line alone.
        power: bool,
        /// Until they are back; for good if `None`.
        lasts: Option<Duration>,
    },
    /// They are back. Comes of the fault above, never from a file.
    GatewayUp {
        /// Which.
        gateway: Option<usize>,
    },
    /// The server dies and is back after a while.
    ServerCrash {
        /// How long it is away.
        lasts: Duration,
    },
    /// Devices reboot and lose what they hold in memory.
    Reboot(Devices),
    /// Devices are gone for good.
    Vanish(Devices),
    /// Devices' clocks are moved.
    ClockStep {
        /// Whose.
        who: Devices,
        /// By so many microseconds.
        by_us: i64,
    },
    /// Interference: so many more frames are lost.
    Interference {
        /// Uplinks at this gateway (all if `None`), unless it is about devices.
        gateway: Option<usize>,
        /// Downlinks at the devices of this group.
        group: Option<usize>,
        /// Share lost.
        share: f64,
        /// Until it is over; for good if `None`.
        lasts: Option<Duration>,
    },
}

/// Some devices: of one group or of all, all of them or a share, the first ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Devices {
    /// Index of the group; all if `None`.
    pub group: Option<usize>,
    /// Share of its devices.
    pub share: f64,
}

#[derive(Clone, Copy)]
enum Word {
    GatewayOutage,
    PowerCut,
    ServerCrash,
    Reboot,
    Vanish,
    ClockStep,
    Interference,
}

/// Reads what happens at set times, in order of time.
pub(super) fn read_timed(
    file: &File<'_>,
    root: &mut Fields<'_>,
    gateways: &[GatewayPlan],
    groups: &[Group],
) -> Vec<TimedFault> {
    let words = [
        ("gateway-outage", Word::GatewayOutage),
        ("power-cut", Word::PowerCut),
        ("server-crash", Word::ServerCrash),
        ("reboot", Word::Reboot),
        ("vanish", Word::Vanish),
        ("clock-step", Word::ClockStep),
        ("interference", Word::Interference),
    ];
    let mut timed = Vec::new();
    for mut table in root.tables("fault") {
        let at = table.needed("at", time);
        let kind = table.needed("kind", word(&words));
        let what = kind.and_then(|kind| {
            let mut reader = Reader {
                file,
                table: &mut table,
                gateways,
                groups,
            };
            reader.kind(kind)
        });
        if kind.is_some() {
            table.finish();
        }
        timed.extend(at.zip(what).map(|(at, what)| TimedFault { at, what }));
    }
    timed.sort_by_key(|fault| fault.at);
    timed
}

struct Reader<'r, 'a> {
    file: &'r File<'a>,
    table: &'r mut Fields<'a>,
    gateways: &'r [GatewayPlan],
    groups: &'r [Group],
}

impl Reader<'_, '_> {
    fn kind(&mut self, word: Word) -> Option<FaultKind> {
        Some(match word {
            Word::GatewayOutage | Word::PowerCut => FaultKind::GatewayDown {
                gateway: self.gateway()?,
                power: matches!(word, Word::PowerCut),
                lasts: self.table.get("lasts", time),
            },
            Word::ServerCrash => FaultKind::ServerCrash {
                lasts: self.table.or("lasts", time, Duration::from_secs(10)),
            },
            Word::Reboot => FaultKind::Reboot(self.some()?),
            Word::Vanish => FaultKind::Vanish(self.some()?),
            Word::ClockStep => FaultKind::ClockStep {
                who: self.some()?,
                by_us: self.table.needed("by", signed_time_us)?,
            },
            Word::Interference => {
                if self.table.has("gateway") && self.table.has("group") {
                    self.table
                        .wrong("group", "`gateway` is given too: one of them");
                }
                FaultKind::Interference {
                    gateway: self.gateway()?,
                    group: self.group()?,
                    share: self.table.or("share", share, 1.0),
                    lasts: self.table.get("lasts", time),
                }
            }
        })
    }

    /// The gateway named; all if none is. `None` if there is no such gateway.
    fn gateway(&mut self) -> Option<Option<usize>> {
        let Some(name) = self.table.at("gateway", text) else {
            return (!self.table.has("gateway")).then_some(None);
        };
        let found = gateway(
            self.file,
            "fault.gateway",
            &name.value,
            &name.span,
            self.gateways,
        );
        found.map(Some)
    }

    fn group(&mut self) -> Option<Option<usize>> {
        let Some(name) = self.table.at("group", text) else {
            return (!self.table.has("group")).then_some(None);
        };
        let found = group(
            self.file,
            "fault.group",
            &name.value,
            &name.span,
            self.groups,
        );
        found.map(Some)
    }

    fn some(&mut self) -> Option<Devices> {
        Some(Devices {
            group: self.group()?,
            share: self.table.or("share", share, 1.0),
        })
    }
}

/// The index of a group of this name; it is said if there is none.
pub(super) fn group(
    file: &File<'_>,
    field: &str,
    name: &str,
    span: &super::reading::Span,
    groups: &[Group],
) -> Option<usize> {
    let found = groups.iter().position(|group| group.name == name);
    if found.is_none() {
        let all: Vec<&str> = groups.iter().map(|g| g.name.as_str()).collect();
        let message = format!("there is no group {name:?}; there are {}", all.join(", "));
        file.wrong(span, field, message);
    }
    found
}

/// Reads what goes wrong by chance.
pub(super) fn read_chances(root: &mut Fields<'_>, radio: &Radio) -> Faults {
    let mut table = root.table("faults");
    let faults = Faults {
        commit_fails: table.or("commit_fails", share, 0.0),
        commit_fails_late: table.or("commit_fails_late", share, 0.0),
        crash_before_commit: table.or("crash_before_commit", share, 0.0),
        crash_after_commit: table.or("crash_after_commit", share, 0.0),
        ack_lost: table.or("acks_lost", share, 0.0),
        restart_after: table.or("restart_after", time, Duration::from_secs(10)),
        away: table.or("server_away", time, Duration::ZERO),
        bursts: radio.bursts,
        outages: outages(&mut table),
        refused: table.or("refused", share, 0.0),
        repeated: table.or("repeated", share, 0.0),
        held_up: table.or("held_up", share, 0.0),
        held_up_for: table.or("held_up_for", time, Duration::from_secs(1)),
        drift_ppm: 0,
        device_steps: table.or("clock_steps", share, 0.0),
        device_step: table.or("clock_step", time, Duration::from_secs(2)),
        server_step: table.or("server_clock_step", time, Duration::ZERO),
        resets: table.or("reboots", share, 0.0),
        vanish: table.or("vanish", share, 0.0),
        slow_answers: table.or("slow_answers", time, Duration::ZERO),
    };
    table.finish();
    faults
}

fn outages(outer: &mut Fields<'_>) -> Option<Outages> {
    let mut table = outer.table("outages");
    let outages = table.is_present().then(|| {
        let every = table.needed("every", time);
        let lasts = table.needed("lasts", time);
        let all = table.or("all", yes, false);
        let power = table.or("power", yes, false);
        Some(Outages {
            every: every?,
            lasts: lasts?,
            all,
            power,
        })
    });
    table.finish();
    outages.flatten()
}
