//! Dialogues with real stacks, replayed against their profiles byte for byte: requests in on a port, answers out.
//!
//! `tests/vectors/device_behaviour.json` holds what LoRaMac-node and LoRa Basics Modem said; its `legend` explains the
//! scripts. Every dialogue is replayed, or stands in [`NOT_EXPRESSED`] with the reason. What Zephyr says was read in
//! its source, and is written down here in the same form.

use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::lorawan::{clock_sync, fragmentation, multicast_setup};
use lorawan_fuota::time::Timestamp;
use serde_json::Value;

use super::outbox::Entry;
use super::*;

const FILE: &str = include_str!("../../../tests/vectors/device_behaviour.json");
/// Dialogues of the file that no profile can express: implementation, name, reason.
const NOT_EXPRESSED: [(&str, &str, &str); 0] = [];
/// Dialogues with a build of another size than the published one, and its `NbFrag`.
const LARGER_BUILDS: [(&str, u16); 1] = [(
    "398 lost: MissingFrag truncated to 8 bits (398 mod 256 = 142)",
    600,
)];

const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
/// Longer than any answer waits, shorter than the time between requests for the time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(600);
/// The key the stacks had.
const GEN_APP_KEY: [u8; 16] = [
    0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c,
];

/// A device whose packages are spoken to without a network.
struct Replay {
    device: EndDevice,
    now: Timestamp,
    /// Random draws of the stack were fixed to this share of their range.
    drawn: Option<f64>,
    /// What it said, and what became of it.
    said: Vec<String>,
    /// How long the answers waited, in the same order.
    waits: Vec<Duration>,
}

impl Replay {
    fn new(stack: StackProfile, limits: FragmentationLimits, uptime: Duration) -> Self {
        let activation = Activation::Abp {
            dev_addr: DevAddr(0x0101_0101),
            nwk_s_key: Key128::from_bytes([1; 16]),
            app_s_key: Key128::from_bytes([2; 16]),
        };
        let key = Key128::from_bytes(GEN_APP_KEY);
        let mut config = DeviceConfig::new(DevEui(1), Region::Eu868, activation, key);
        config.set_stack(stack);
        config.limits = limits;
        config.answer_delay_max = Duration::ZERO;
        let start =
            Timestamp::from_micros(START.as_micros() - i64::try_from(uptime.as_micros()).unwrap());
        let mut device = EndDevice::new(config, 1, start);
        device.outbox.clear();
        Self {
            device,
            now: START,
            drawn: None,
            said: Vec::new(),
            waits: Vec::new(),
        }
    }

    /// Hands a payload to the package of a port.
    fn receive(&mut self, f_port: u8, mc_group_id: Option<u8>, payload: &[u8]) {
        let before = (self.device.clock.gps_us(self.now), self.mic_error());
        let configured = self.device.config.packages;
        let by_multicast = self.device.config.stack.multicast.commands_by_multicast;
        let (mut environment, packages) = self.device.split(self.now);
        match f_port {
            fragmentation::DEFAULT_F_PORT => {
                let version = configured.fragmentation.unwrap();
                packages
                    .fragmentation
                    .handle(version, payload, mc_group_id, &mut environment);
            }
            multicast_setup::DEFAULT_F_PORT if mc_group_id.is_none() || by_multicast => {
                let version = configured.multicast_setup.unwrap();
                packages
                    .multicast
                    .handle(version, payload, &mut environment);
            }
            clock_sync::DEFAULT_F_PORT => {
                let version = configured.clock_sync.unwrap();
                packages
                    .clock_sync
                    .handle(version, payload, &mut environment);
            }
            _ => {}
        }
        let now_shown = self.device.clock.gps_us(self.now);
        if now_shown != before.0 {
            self.said.push(format!("CLOCK {}", now_shown / 1_000_000));
        }
        let wrong = self.mic_error() && !before.1;
        if self.device.fragmentation.take_completed().is_some() || wrong {
            self.said.push("DONE".to_owned());
        }
    }

    fn mic_error(&self) -> bool {
        let progress = self.device.decoder_progress(0);
        progress.is_some_and(|progress| progress.mic_error)
    }

    fn ask_for_time(&mut self, ans_required: bool) {
        let (mut environment, packages) = self.device.split(self.now);
        packages
            .clock_sync
            .ask(&mut environment, Duration::ZERO, ans_required);
        self.transmit(ANSWERED_WITHIN);
    }

    /// Lets everything leave that is due within a time. Time stands still: it did for the stacks too.
    fn transmit(&mut self, within: Duration) {
        let pending = self.device.outbox.pending();
        let due = self.device.outbox.take_due(self.now + within);
        for frame in due.chunk_by(|a: &Entry, b: &Entry| (a.f_port, a.due) == (b.f_port, b.due)) {
            let mut payload = Vec::new();
            for entry in frame {
                entry
                    .content
                    .render(entry.due, &self.device.clock, &mut payload);
            }
            let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
            self.said.push(format!("TX {} {hex}", frame[0].f_port));
            self.waits.push(frame[0].due.since(self.now));
        }
        self.device.arrange_repeats(self.now, &pending);
    }

    /// The timer set last expires: a status answer leaves, or a session begins or ends.
    fn expire(&mut self) {
        let said = self.said.len();
        self.transmit(ANSWERED_WITHIN);
        let session = self.device.multicast.groups()[0]
            .as_ref()
            .and_then(|group| group.session);
        let (Some(session), true) = (session, self.said.len() == said) else {
            return;
        };
        let before = self.device.clock.gps_us(self.now) < session.starts_at_us;
        let next = if before {
            session.starts_at_us
        } else {
            session.ends_at_us
        };
        self.now = self.device.clock.when(next);
        let listens =
            self.device
                .multicast
                .listening(&self.device.clock, &self.device.beacons, self.now);
        let class = if listens.is_some() {
            "CLASS C"
        } else {
            "CLASS A"
        };
        self.said.push(class.to_owned());
    }

    /// One line of a script of either kind.
    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["rx", "frag", window, hex] => self.receive(201, group_of(window), &bytes(hex)),
            ["rx", "mc", window, hex] => self.receive(200, group_of(window), &bytes(hex)),
            ["rx", "alc", window, hex] => self.receive(202, group_of(window), &bytes(hex)),
            ["rx", port, multicast, hex] => {
                let group = (multicast == "1").then_some(0);
                self.receive(port.parse().unwrap(), group, &bytes(hex));
                self.transmit(Duration::ZERO);
            }
            ["launch", _] => self.transmit(ANSWERED_WITHIN),
            ["process"] => self.transmit(Duration::ZERO),
            ["fire"] => self.expire(),
            ["timereq"] => self.ask_for_time(false),
            ["alcreq", required] => self.ask_for_time(required == "1"),
            ["gps", seconds] => {
                let seconds: i64 = seconds.parse().unwrap();
                self.device.clock.set(self.now, seconds * 1_000_000);
            }
            // The stack was told that frequency or data rate are not the region's.
            ["freqok" | "drok", "0"] => self.device.config.region = Region::Us915,
            ["freqok" | "drok", "1"] => self.device.config.region = Region::Eu868,
            ["rnd", part, whole] => {
                let (part, whole): (f64, f64) = (part.parse().unwrap(), whole.parse().unwrap());
                self.drawn = Some(part / whole);
            }
            ["update", _] | ["alcen"] | ["now", _] | ["appkey", _, _] => {}
            _ => panic!("unknown line in a script: {line}"),
        }
    }
}

fn group_of(window: &str) -> Option<u8> {
    let window: u8 = window.parse().unwrap();
    window.checked_sub(4)
}

fn bytes(hex: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(pair).collect()
}

/// What a line of recorded output says about the wire, the image, the clock or the class; `None` for what goes on
/// inside the stack only: timers, calls of its secure element and radio.
fn recorded(line: &str) -> Option<(String, Option<Duration>)> {
    let words: Vec<&str> = line.split(' ').collect();
    let port = |word: &str| word.strip_prefix("port=").unwrap().to_owned();
    Some(match words[..] {
        ["TX", at, hex] => (format!("TX {} {hex}", port(at)), None),
        ["TX", at, delay, hex] => {
            let delay = delay.strip_prefix("delay_ms=").unwrap().parse().unwrap();
            let delay = Duration::from_millis(delay);
            (format!("TX {} {hex}", port(at)), Some(delay))
        }
        ["DONE", ..] | ["EVENT", "11", _] => ("DONE".to_owned(), None),
        ["SYSTIME", _, gps] => (format!("CLOCK {}", gps.strip_prefix("gps=").unwrap()), None),
        ["EVENT", "6", _] => ("CLOCK".to_owned(), None),
        ["CLASS", _] => (line.to_owned(), None),
        ["TIMER", _] | ["MC_FCNT", ..] | ["MC_ADDR", ..] | ["MC_KEYS", ..] => return None,
        _ => panic!("unknown line of output: {line}"),
    })
}

fn lines<'a>(dialogue: &'a Value, field: &str) -> Vec<&'a str> {
    let lines = dialogue[field].as_array().unwrap();
    lines.iter().map(|line| line.as_str().unwrap()).collect()
}

fn stack_of(implementation: &str) -> StackProfile {
    match implementation {
        name if name.starts_with("LoRaMac-node") => StackProfile::LoramacNode,
        name if name.starts_with("SWL2001") && name.contains("v1.0.0") => {
            StackProfile::BasicsModemV1
        }
        name if name.starts_with("SWL2001") && name.contains("v2.0.0") => {
            StackProfile::BasicsModemV2
        }
        name => panic!("no profile for {name}"),
    }
}

/// Replays a dialogue; the difference if there is one.
fn replay(dialogue: &Value) -> Result<(), String> {
    let name = dialogue["name"].as_str().unwrap();
    let stack = stack_of(dialogue["implementation"].as_str().unwrap());
    let mut limits = stack.published_limits();
    if let Some((_, nb_frag)) = LARGER_BUILDS.iter().find(|(of, _)| *of == name) {
        limits.nb_frag_max = *nb_frag;
        limits.lost_max = *nb_frag;
    }
    let script = lines(dialogue, "script");
    let uptime = script.iter().find_map(|line| line.strip_prefix("now "));
    let uptime = Duration::from_secs(uptime.map_or(0, |seconds| seconds.parse().unwrap()));
    let mut replay = Replay::new(stack, limits, uptime);
    for line in script {
        replay.step(line);
    }
    let output = lines(dialogue, "output");
    let recorded: Vec<_> = output.into_iter().filter_map(recorded).collect();
    let mut said = replay.said.clone();
    for (said, (recorded, _)) in said.iter_mut().zip(&recorded) {
        // Some stacks report that the clock was set, but not to what.
        if recorded == "CLOCK" && said.starts_with("CLOCK ") {
            "CLOCK".clone_into(said);
        }
    }
    let wanted: Vec<String> = recorded.iter().map(|(what, _)| what.clone()).collect();
    if said != wanted {
        return Err(format!(
            "{stack:?}, {name}:\n  recorded {wanted:?}\n  replayed {said:?}"
        ));
    }
    let delays = recorded.iter().filter_map(|(_, delay)| *delay);
    for (delay, wait) in delays.zip(&replay.waits) {
        let longest = replay.drawn.filter(|share| *share > 0.0);
        let Some(longest) = longest.map(|share| delay.div_f64(share)) else {
            continue;
        };
        // The stack's own delays are drawn too.
        if *wait > longest + Duration::from_secs(3) {
            return Err(format!(
                "{stack:?}, {name}: waited {wait:?}, at most {longest:?}"
            ));
        }
    }
    Ok(())
}

#[test]
fn every_recorded_dialogue_is_replayed_or_listed() {
    let file: Value = serde_json::from_str(FILE).unwrap();
    let dialogues = file["dialogues"].as_array().unwrap();
    assert!(dialogues.len() >= 48, "{} dialogues", dialogues.len());
    let mut listed: Vec<_> = NOT_EXPRESSED
        .iter()
        .map(|(of, name, _)| (*of, *name))
        .collect();
    let mut differences = Vec::new();
    for dialogue in dialogues {
        let id = |field: &str| dialogue[field].as_str().unwrap();
        let key = (id("implementation"), id("name"));
        if let Some(at) = listed.iter().position(|entry| *entry == key) {
            listed.remove(at);
        } else if let Err(difference) = replay(dialogue) {
            differences.push(difference);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(listed.is_empty(), "listed, and not in the file: {listed:?}");
}

#[test]
fn a_replay_that_differs_is_noticed() {
    let file: Value = serde_json::from_str(FILE).unwrap();
    for dialogue in file["dialogues"].as_array().unwrap() {
        let mut changed = dialogue.clone();
        let output = changed["output"].as_array_mut().unwrap();
        let sent = output
            .iter_mut()
            .rfind(|line| line.as_str().unwrap().starts_with("TX "));
        let Some(sent) = sent else { continue };
        let mut text = sent.as_str().unwrap().to_owned();
        let last = if text.ends_with('0') { "1" } else { "0" };
        text.replace_range(text.len() - 1.., last);
        *sent = Value::String(text);
        assert!(replay(&changed).is_err(), "{}", changed["name"]);
    }
}

fn says(stack: StackProfile, script: &[&str]) -> Vec<String> {
    let mut replay = Replay::new(stack, stack.published_limits(), Duration::ZERO);
    for line in script {
        replay.step(line);
    }
    replay.said
}

/// `FragSessionSetupReq`, version 1: index 0, group 0, four fragments of one byte.
const SETUP: &str = "rx frag 1 0201040001000000000000";
const STATUS: &str = "rx frag 1 0101";
const GROUP: &str = "rx mc 1 0200040302012b7e151628aed2a6abf7158809cf4f3c00000000ffffffff";
const SESSION: &str = "rx mc 1 0400644e72530828768405";

#[test]
fn zephyr_counts_whatever_it_hears_and_closes_what_is_complete() {
    let said = says(
        StackProfile::Zephyr,
        &[
            SETUP,
            "launch frag",
            STATUS,
            "launch frag",
            "rx frag 4 08010011",
            "rx frag 4 08020022",
            STATUS,
            "launch frag",
            // Through a group that is not in the mask, and one twice: nothing is missing any more, they say.
            "rx frag 5 08030033",
            "rx frag 5 08030033",
            STATUS,
            "launch frag",
            // Participants = 0.
            "rx frag 1 0100",
            "launch frag",
            "rx frag 4 08040044",
            "rx frag 4 08050000",
            STATUS,
            "launch frag",
            "rx frag 1 0300",
            "launch frag",
        ],
    );
    let expected = [
        "TX 201 0200",
        "TX 201 0100000400",
        "TX 201 0102000200",
        "TX 201 0104000000",
        "DONE",
        "TX 201 0106000000",
        "TX 201 0304",
    ];
    assert_eq!(said, expected);
}

#[test]
fn zephyr_has_one_session_and_little_room_and_loses_answers() {
    let said = says(
        StackProfile::Zephyr,
        &[
            SETUP,
            "launch frag",
            // Index 1 while index 0 lasts; again index 0.
            "rx frag 1 0211040001000000000000",
            "launch frag",
            SETUP,
            "launch frag",
            // Carried out, not answered: an unknown command behind. Five times the version: three fit.
            "rx frag 1 0300ff",
            "launch frag",
            "rx frag 1 0000000000",
            "launch frag",
            // A set-up of version 2: its tail is read as commands.
            "rx frag 1 020104000100000000000030003c6eae40",
            "launch frag",
            // Commands by multicast.
            "rx frag 4 00",
            "launch frag",
        ],
    );
    let expected = [
        "TX 201 0200",
        "TX 201 0244",
        "TX 201 0200",
        "TX 201 000301000301000301000301",
        "TX 201 000301",
    ];
    assert_eq!(said, expected);
}

#[test]
fn zephyr_refuses_sessions_in_its_own_words() {
    let said = says(
        StackProfile::Zephyr,
        &[
            GROUP,
            "launch mc",
            SESSION,
            "launch mc",
            "gps 1400000000",
            SESSION,
            "launch mc",
            // Late; unknown group; bad data rate.
            "rx mc 1 0400004d72530828768405",
            "launch mc",
            "rx mc 1 0401644e72530828768405",
            "launch mc",
            "rx mc 1 0400644e72530828768409",
            "launch mc",
            // Not implemented: the answers before are lost.
            "rx mc 1 00010f",
            "launch mc",
            "rx mc 1 000500004f72534828768403",
            "launch mc",
        ],
    );
    let expected = [
        "TX 200 0200",
        "TX 200 0400ffffff",
        "TX 200 0400640000",
        "TX 200 0420",
        "TX 200 0411",
        "TX 200 04",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_session_without_time_starts_with_the_time_or_never() {
    for (stack, starts) in [
        (StackProfile::BasicsModemV2, true),
        (StackProfile::Zephyr, false),
    ] {
        let mut replay = Replay::new(stack, stack.published_limits(), Duration::ZERO);
        for line in [GROUP, SESSION, "gps 1400000120"] {
            replay.step(line);
        }
        let device = &replay.device;
        let listens = device
            .multicast
            .listening(&device.clock, &device.beacons, replay.now);
        assert_eq!(listens.is_some(), starts, "{stack:?}");
    }
}

#[test]
fn loramac_node_keeps_counter_and_memory_error_until_it_reboots() {
    let script = [
        "rx 201 0 0201080001000000000000",
        "rx 201 1 08010011",
        "rx 201 1 08080088",
        "rx 201 1 08090000",
        "rx 201 0 0201080001000000000000",
        "rx 201 0 0101",
        "fire",
    ];
    let stack = StackProfile::LoramacNode;
    let mut replay = Replay::new(stack, stack.published_limits(), Duration::ZERO);
    script.iter().for_each(|line| replay.step(line));
    let expected = ["TX 201 0200", "DONE", "TX 201 0200", "TX 201 0109000001"];
    assert_eq!(replay.said, expected);
    replay.device.reset(replay.now);
    replay.device.boot(replay.now);
    replay.device.outbox.clear();
    replay.said.clear();
    script[4..].iter().for_each(|line| replay.step(line));
    assert_eq!(replay.said, ["TX 201 0200", "TX 201 0100000000"]);
}

#[test]
fn by_the_book_a_session_that_is_not_there_has_a_short_answer() {
    let (v1, v2) = (
        says(StackProfile::SpecV1, &[STATUS, "launch frag"]),
        says(StackProfile::SpecV2, &[STATUS, "launch frag"]),
    );
    assert_eq!(v1, ["TX 201 0100000000"]);
    assert_eq!(v2, ["TX 201 0104"]);
    // A late start has no word of its own in version 1.
    let late = [
        GROUP,
        "launch mc",
        "gps 1400000000",
        "rx mc 1 0400004d72530828768405",
        "launch mc",
    ];
    assert_eq!(
        says(StackProfile::SpecV1, &late)[1..],
        ["TX 200 0400000000"]
    );
    assert_eq!(says(StackProfile::SpecV2, &late)[1..], ["TX 200 0420"]);
}

#[test]
fn by_the_book_missing_fragments_saturate() {
    let setup = "rx frag 1 0201580201000000000000";
    let said = says(
        StackProfile::SpecV1,
        &[setup, "launch frag", STATUS, "launch frag"],
    );
    assert_eq!(said, ["TX 201 0200", "TX 201 010000ff00"]);
}
