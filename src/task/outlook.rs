//! What is to be expected of the sessions of a wave: frames, set-up, the time of the last fragment and of the last
//! verdict as ranges that nine runs in ten fall into, energy of the devices, chance of success.
//!
//! Three things are random: which frames are lost (each device loses its share, independently), when devices speak
//! (`waits`), and how well the loss is known. `docs/plan.md` has the formulas, the assumptions and what was measured.

use std::time::Duration;

use crate::lorawan::class_b::{self, PingSlotPeriodicity};
use crate::lorawan::fragmentation;
use crate::record::{DeviceClass, FleetDevice, FragAlgo, SuccessCriterion};
use crate::time::Timestamp;

use super::air::{self, Sender, Sending};
use super::waits::{Waits, all_within};
use super::{sizing, unicast};

/// Lower and upper end of a range, so that one run in twenty lies below it and one above. The lower one is further out
/// than that: losses are estimated a little too high (`missed`).
const LOW: f64 = 0.025;
/// That of the completion alone: image checks are asked for while others still answer polls.
const EARLIEST: f64 = 0.005;
const HIGH: f64 = 0.96;
/// Command, its airtime, the answer: one exchange with a device whose receive windows are open.
const EXCHANGE: Duration = Duration::from_secs(3);
/// A device boots, and joins again where it has to.
const BOOT: Duration = Duration::from_secs(12);
/// Frames an estimate of loss rests on, as a rule.
const ESTIMATED_FROM: f64 = 100.0;
/// A loss nobody has measured may be that far off, 0..1.
const UNKNOWN_DOUBT: f64 = 0.03;
/// The loss of a fleet changes by that much from task to task, 0..1, and by that share of itself.
const DRIFT: f64 = 0.01;
const DRIFT_SHARE: f64 = 0.15;
/// Loss that sessions show and commands do not have, 0..1.
const COUNTED_TOO_MUCH: f64 = 0.03;
/// Uplinks that are lost to each other where nothing else is, 0..1.
const COLLISIONS: f64 = 0.02;
/// Windows and sessions a forecast looks ahead.
const MOST_SESSIONS: u32 = 8;
/// Power of a device that listens: 5.3 mA at 3.3 V, as common transceivers take.
const LISTENING_MW: f64 = 17.5;
/// Power of a device that sends with 14 dBm: 25.5 mA at 3.3 V.
const SENDING_MW: f64 = 84.0;

/// Three moments: nine runs in ten lie between low and high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// One run in twenty is earlier.
    pub low: Timestamp,
    /// The middle.
    pub expected: Timestamp,
    /// One run in twenty is later.
    pub high: Timestamp,
}

impl Span {
    /// The later one, end by end.
    pub fn later(self, other: Self) -> Self {
        Self {
            low: self.low.max(other.low),
            expected: self.expected.max(other.expected),
            high: self.high.max(other.high),
        }
    }
}

/// What is expected of one session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionOutlook {
    /// Fragments of all the sessions it takes until late devices are served too: low, expected, high.
    pub fragments: (u32, u32, u32),
    /// Loss reckoned with, permille: the mean of its devices.
    pub loss_permille: u16,
    /// The last fragment.
    pub last_fragment: Span,
    /// Devices expected to be set up when the window opens, permille of all.
    pub ready_permille: u16,
    /// Devices expected to be complete when the window ends, permille of all.
    pub in_window_permille: u16,
    /// Devices expected to be updated by the deadline, permille of all; luck with frames, redundancy and time counted.
    pub by_deadline_permille: u16,
    /// Energy a device spends, millijoules: listening until the last fragment, and its answers.
    pub energy_mj: u32,
    /// The same if it listens to the whole window.
    pub worst_energy_mj: u32,
}

/// What the outlook of a session is made from.
pub(super) struct Prospect<'a> {
    pub(super) devices: Vec<&'a FleetDevice>,
    pub(super) frag_algo: FragAlgo,
    pub(super) nb_frag: u16,
    /// Coded fragments at most.
    pub(super) budget: u16,
    pub(super) block_ack_delay: u8,
    pub(super) success: SuccessCriterion,
    /// From a device's answer to its reboot; zero where it is not asked to.
    pub(super) reboot_after: Duration,
    pub(super) prepare_at: Timestamp,
    pub(super) window_start: Timestamp,
    pub(super) window_end: Timestamp,
    /// Commands of the set-up of each device, in the order of `devices`.
    pub(super) commands: Vec<u32>,
    pub(super) sending: Sending,
    /// Air time of one answer.
    pub(super) answer: Duration,
    pub(super) class: DeviceClass,
    pub(super) ping_slots: Option<PingSlotPeriodicity>,
}

/// Fragments until all devices of a session are complete: low, expected, high. Each device needs a random number, taken
/// as normal; all have to be through. Devices whose losses differ by no more than chance are taken to be alike.
pub(super) fn fragments(
    devices: &[&FleetDevice],
    frag_algo: FragAlgo,
    nb_frag: u16,
) -> (u32, u32, u32) {
    let losses = Losses::of(devices);
    let at = |chance: f64, doubt: f64| {
        let losses: Vec<f64> = losses
            .each
            .iter()
            .map(|p| (p + doubt).clamp(0.0, 0.9))
            .collect();
        sizing::frames_until(frag_algo, nb_frag, &losses, chance)
    };
    let doubt = losses.doubt;
    (at(LOW, -doubt), at(0.5, 0.0), at(HIGH, doubt))
}

/// Share of the devices that are complete after so many fragments, in the mean.
pub(super) fn share_complete(
    devices: &[&FleetDevice],
    frag_algo: FragAlgo,
    nb_frag: u16,
    frames: u32,
) -> f64 {
    let losses = Losses::of(devices);
    let each = losses.each.iter();
    mean(each.map(|loss| sizing::complete_within(frag_algo, nb_frag, *loss, frames)))
}

/// The losses of devices as far as they are known.
struct Losses {
    each: Vec<f64>,
    mean: f64,
    /// How far all of them together may be off, standard deviation.
    doubt: f64,
}

impl Losses {
    fn of(devices: &[&FleetDevice]) -> Self {
        let known: Vec<f64> = devices
            .iter()
            .filter_map(|d| Some(f64::from(d.status.loss_permille?) / 1000.0))
            .collect();
        let usual = f64::from(sizing::UNKNOWN_LOSS_PERMILLE) / 1000.0;
        let count = count(known.len());
        if known.is_empty() {
            return Self {
                each: vec![usual; devices.len()],
                mean: usual,
                doubt: UNKNOWN_DOUBT,
            };
        }
        let mean = known.iter().sum::<f64>() / count;
        let spread = known.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / count;
        let noise = (mean * (1.0 - mean) / ESTIMATED_FROM).max(1e-6);
        // What the estimates differ by beyond chance is what the devices differ by.
        let real = if spread > 0.0 {
            (1.0 - noise / spread).max(0.0)
        } else {
            0.0
        };
        let each = devices.iter().map(|device| {
            let permille = device.status.loss_permille;
            permille.map_or(mean, |p| mean + real * (f64::from(p) / 1000.0 - mean))
        });
        Self {
            each: each.collect(),
            mean,
            doubt: (noise / count + DRIFT.powi(2) + (DRIFT_SHARE * mean).powi(2)).sqrt(),
        }
    }
}

/// How the sessions of one wave go: an outlook for each, and when the last verdict of the wave is in.
pub(super) fn of_wave(
    prospects: &[Prospect<'_>],
    frames: &[(u32, u32, u32)],
    senders: &mut [Sender],
    deadline: Option<Timestamp>,
) -> Option<(Vec<SessionOutlook>, Span)> {
    let ends_at = |which: fn(&(u32, u32, u32)) -> u32, senders: &mut [Sender]| {
        let sendings: Vec<Sending> = prospects
            .iter()
            .zip(frames)
            .map(|(prospect, frames)| Sending {
                frames: which(frames),
                ..prospect.sending.clone()
            })
            .collect();
        let ends = air::ends(&sendings, senders);
        ends.into_iter().collect::<Option<Vec<Timestamp>>>()
    };
    let low = ends_at(|f| f.0, &mut senders.to_vec())?;
    let high = ends_at(|f| f.2, &mut senders.to_vec())?;
    let expected = ends_at(|f| f.1, senders)?;
    let mut outlooks = Vec::new();
    let mut verdicts: Option<Span> = None;
    for (at, prospect) in prospects.iter().enumerate() {
        let air = Span {
            low: low[at],
            expected: expected[at],
            high: high[at],
        };
        let journey = Journey::of(prospect, frames[at], air);
        let verdict = journey.verdict();
        verdicts = Some(verdicts.map_or(verdict, |before| before.later(verdict)));
        outlooks.push(journey.outlook(deadline));
    }
    Some((outlooks, verdicts?))
}

/// One session from its set-up to the last verdict.
struct Journey<'a, 'd> {
    prospect: &'a Prospect<'d>,
    frames: (u32, u32, u32),
    /// End of the last frame, polls not counted.
    air: Span,
    losses: Losses,
    setup: Vec<Waits>,
    again: Vec<Waits>,
    completion: Vec<Waits>,
    interval: Duration,
}

impl<'a, 'd> Journey<'a, 'd> {
    fn of(prospect: &'a Prospect<'d>, frames: (u32, u32, u32), air: Span) -> Self {
        let losses = Losses::of(&prospect.devices);
        let waits = |at: usize, commands: u32, least: Duration| {
            let device = prospect.devices[at];
            Waits {
                interval: device.profile.uplink_interval,
                commands,
                miss: missed(losses.each[at], device.status.links.len()),
                unknown: 1,
                least,
            }
        };
        let all = 0..prospect.devices.len();
        // Announced once more, a session takes two commands.
        let again = all.clone().map(|at| waits(at, 2, EXCHANGE * 2)).collect();
        let setup = setup_waits(&prospect.devices);
        let completion = all
            .map(|at| {
                let rejoins = prospect.devices[at].profile.after_reboot.rejoins;
                let (commands, unknown) = completion_commands(prospect.success, rejoins);
                let reboots = prospect.success == SuccessCriterion::Running;
                let least = EXCHANGE * commands
                    + if reboots {
                        prospect.reboot_after + BOOT
                    } else {
                        Duration::ZERO
                    };
                Waits {
                    unknown,
                    ..waits(at, commands, least)
                }
            })
            .collect();
        let intervals = prospect.devices.iter().map(|d| d.profile.uplink_interval);
        Self {
            prospect,
            frames,
            air,
            interval: intervals.max().unwrap_or_default(),
            losses,
            setup,
            again,
            completion,
        }
    }

    /// From the first frame until hardly any uncoded fragment is left to come: so long newcomers are taken in.
    fn open_for(&self) -> Duration {
        let sent = self.air.expected.since(self.prospect.sending.start);
        let share = f64::from(self.prospect.nb_frag) / f64::from(self.frames.1.max(1));
        sent.mul_f64(share.min(1.0) * 0.9)
    }

    /// From the opening of one session to that of the next one for devices that came too late for it.
    fn step(&self) -> Duration {
        self.open_for() + self.interval * 3 + Duration::from_secs(15)
    }

    /// Sessions until every device was set up in time for one, with this chance.
    fn sessions(&self, chance: f64) -> u32 {
        let first = self.prospect.window_start.since(self.prospect.prepare_at) + self.open_for();
        let missed = |waits: &Waits, time| 1.0 - waits.within(time);
        let late: Vec<(f64, f64)> = self
            .setup
            .iter()
            .zip(&self.again)
            .map(|(setup, again)| (missed(setup, first), missed(again, self.step())))
            .collect();
        let all_in = |sessions: u32| -> f64 {
            let power = i32::try_from(sessions - 1).unwrap_or(i32::MAX);
            let each = late
                .iter()
                .map(|(first, later)| 1.0 - first * later.powi(power));
            each.product()
        };
        let enough = (1..MOST_SESSIONS).find(|sessions| all_in(*sessions) >= chance);
        enough.unwrap_or(MOST_SESSIONS)
    }

    /// Share of the uncoded fragments that pass before the last newcomer of the first session is ready.
    fn passed(&self, chance: f64) -> f64 {
        let prepared = self.prospect.window_start.since(self.prospect.prepare_at);
        let last = all_within(&self.setup, chance).saturating_sub(prepared);
        let share = last.as_secs_f64() / self.open_for().as_secs_f64().max(0.001);
        if share > 1.0 { 0.0 } else { share * 0.9 }
    }

    /// How much later than planned the session that serves the last device begins.
    fn late(&self, chance: f64) -> Duration {
        self.step() * (self.sessions(chance) - 1)
    }

    /// Fragments of all sessions: those of the first, what newcomers missed of it, and a pass for each later one.
    fn fragments(&self) -> (u32, u32, u32) {
        let nb_frag = f64::from(self.prospect.nb_frag);
        let received = 1.0 - self.losses.mean.clamp(0.0, 0.9);
        let pass = whole(nb_frag / received + sizing::MEAN_EXTRA);
        let with = |frames: u32, chance: f64| {
            let missed = whole(nb_frag * self.passed(chance) / received);
            frames + missed + pass * (self.sessions(chance) - 1)
        };
        let (low, expected, high) = self.frames;
        (with(low, LOW), with(expected, 0.5), with(high, HIGH))
    }

    /// Polls until everybody is known to be complete, and windows that pass in between.
    fn polls(&self, chance: f64, sent: Duration) -> Duration {
        let devices = self.prospect.devices.len();
        let delay = self.prospect.block_ack_delay;
        let spread = fragmentation::block_ack_delay_max(delay);
        let full = spread + sizing::ANSWER_SLACK;
        let p = self.losses.mean;
        // All answers of a poll arrive, or the whole time is waited for them.
        let answers = (1.0 - p) * (1.0 - p.powi(links(&self.prospect.devices)));
        let n = count(devices);
        let all_answer = answers.powf(n);
        let quick = spread.mul_f64(n / (n + 1.0)) + Duration::from_secs(2);
        let lost = f64::from(self.prospect.nb_frag) * p;
        let polls = match chance {
            c if lost < 0.5 && c < HIGH => 1,
            c if c < 0.3 => 1,
            c if c < HIGH => 2,
            _ if lost < 0.5 => 2,
            _ => 4,
        };
        let one = if all_answer > 1.0 - chance {
            quick
        } else {
            full
        };
        // Who answers none of three roll calls is asked at the next uplink; where that comes sooner, after one.
        let roll_calls = if self.interval < spread { 1 } else { 3 };
        let none_left = (1.0 - (1.0 - answers).powi(roll_calls)).powf(n);
        let ask = if none_left > chance {
            Duration::ZERO
        } else {
            self.interval.mul_f64(n / (n + 1.0))
        };
        let window = self.prospect.window_end.since(self.prospect.window_start);
        let windows = whole(sent.as_secs_f64() / window.as_secs_f64().max(1.0)).saturating_sub(1);
        one * polls + ask + (self.interval * 3 + Duration::from_secs(15)) * windows
    }

    fn last_fragment(&self) -> Span {
        let start = self.prospect.sending.start;
        let end = |chance: f64, air: Timestamp| {
            let sent = air.since(start);
            let polls = self.polls(chance, sent);
            air + self.late(chance) + polls
        };
        Span {
            low: end(LOW, self.air.low),
            expected: end(0.5, self.air.expected),
            high: end(HIGH, self.air.high),
        }
    }

    fn verdict(&self) -> Span {
        let last = self.last_fragment();
        Span {
            low: last.low + all_within(&self.completion, EARLIEST),
            expected: last.expected + all_within(&self.completion, 0.5),
            high: last.high + all_within(&self.completion, HIGH),
        }
    }

    fn outlook(&self, deadline: Option<Timestamp>) -> SessionOutlook {
        let prospect = self.prospect;
        let last_fragment = self.last_fragment();
        let prepared = prospect.window_start.since(prospect.prepare_at);
        let ready = mean(self.setup.iter().map(|w| w.within(prepared)));
        let most = u32::from(prospect.nb_frag) + u32::from(prospect.budget);
        let met = |frames: u32| {
            let each = self.losses.each.iter();
            each.map(move |loss| {
                sizing::complete_within(prospect.frag_algo, prospect.nb_frag, *loss, frames)
            })
        };
        let fits = self.fitting(prospect.window_end).min(most);
        let in_window = mean(met(fits));
        let left = deadline.map(|deadline| deadline.since(last_fragment.expected));
        let waits = self.completion.iter().map(|w| match left {
            Some(left) => w.within(left),
            None => 1.0,
        });
        let by_deadline = mean(met(most).zip(waits).map(|(a, b)| a * b));
        // Who needs another session listens to that one instead.
        let sent = self.air.expected.since(prospect.sending.start);
        let listens = self.air.expected.since(prospect.window_start) + self.polls(0.5, sent);
        let longest = prospect.window_end.since(prospect.window_start);
        let commands: u32 = prospect.commands.iter().copied().max().unwrap_or(2);
        let sends = prospect.answer * (commands + 5);
        let (share, sends_alone) = match (prospect.class, prospect.ping_slots) {
            (DeviceClass::C, _) => (1.0, 0),
            (DeviceClass::B, slots) => (share_of_slots(slots.unwrap_or_default()), 0),
            // An uplink for each fragment, and nothing is listened to in between.
            (DeviceClass::A, _) => (0.0, self.frames.1),
        };
        let received = match prospect.class {
            DeviceClass::C => Duration::ZERO,
            DeviceClass::A | DeviceClass::B => prospect.sending.airtime * self.frames.1,
        };
        let sends = sends + prospect.answer / 2 * sends_alone;
        let energy = |open: Duration| {
            let listening = open.mul_f64(share) + received;
            let mj = listening.as_secs_f64() * LISTENING_MW + sends.as_secs_f64() * SENDING_MW;
            whole(mj)
        };
        SessionOutlook {
            fragments: self.fragments(),
            loss_permille: permille(self.losses.mean),
            last_fragment,
            ready_permille: permille(ready),
            in_window_permille: permille(in_window),
            by_deadline_permille: permille(by_deadline),
            energy_mj: energy(listens),
            worst_energy_mj: energy(longest.max(listens)),
        }
    }

    /// Frames that can be sent before `end`, if the pace stays that of the expected ones.
    fn fitting(&self, end: Timestamp) -> u32 {
        let took = self.air.expected.since(self.prospect.sending.start);
        let per_frame = took.as_secs_f64() / f64::from(self.frames.1.max(1));
        let polls = self.polls(0.5, took);
        let time = end.since(self.prospect.sending.start).saturating_sub(polls);
        whole(time.as_secs_f64() / per_frame.max(1e-3))
    }
}

/// Share of the time a device listens in the ping slots of its group, frames not counted.
fn share_of_slots(slots: PingSlotPeriodicity) -> f64 {
    let open = class_b::PING_SLOT_LENGTH * u32::from(slots.ping_nb());
    open.as_secs_f64() / class_b::BEACON_PERIOD.as_secs_f64()
}

/// The waits of devices for their set-up.
pub(super) fn setup_waits(devices: &[&FleetDevice]) -> Vec<Waits> {
    let losses = Losses::of(devices);
    let waits = devices.iter().zip(losses.each).map(|(device, loss)| {
        let commands = unicast::setup_commands(device);
        Waits {
            interval: device.profile.uplink_interval,
            commands,
            miss: missed(loss, device.status.links.len()),
            unknown: 1,
            least: EXCHANGE * commands,
        }
    });
    waits.collect()
}

/// Exchanges from the status answer to the verdict that wait for an uplink when they fail, and the uplinks that come at
/// moments unknown: after a reboot a device joins again where it has to, and speaks after that. Image check and reboot
/// are asked for while the device answers polls, which gives them more chances than one; they count as one.
fn completion_commands(success: SuccessCriterion, rejoins: bool) -> (u32, u8) {
    match success {
        SuccessCriterion::ReportedReceived => (0, 0),
        SuccessCriterion::Verified => (1, 0),
        SuccessCriterion::Running if rejoins => (2, 2),
        SuccessCriterion::Running => (2, 1),
    }
}

/// Probability that a command to a device is not answered: the command or the answer is lost. Downlinks come from one
/// gateway, uplinks are heard by several. A session shows more loss than there is: devices are deaf while they speak,
/// and count no more fragments once they are complete.
fn missed(loss: f64, gateways: usize) -> f64 {
    let loss = (loss - COUNTED_TOO_MUCH).max(0.0);
    let uplink = loss.powi(i32::try_from(gateways.clamp(1, 8)).unwrap_or(1));
    1.0 - (1.0 - loss) * (1.0 - uplink).min(1.0 - COLLISIONS)
}

fn links(devices: &[&FleetDevice]) -> i32 {
    let least = devices.iter().map(|d| d.status.links.len()).min();
    i32::try_from(least.unwrap_or(1).clamp(1, 8)).unwrap_or(1)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    if n > 0.0 { sum / n } else { 0.0 }
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range just before"
)]
fn whole(value: f64) -> u32 {
    value.ceil().clamp(0.0, 4e9) as u32
}

fn permille(share: f64) -> u16 {
    let permille = whole((share.clamp(0.0, 1.0) * 1000.0).round());
    u16::try_from(permille).unwrap_or(1000)
}
