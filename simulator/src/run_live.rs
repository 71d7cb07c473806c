//! `fuota-sim run --real-time`: the gateways and devices of a scenario speak to a server over UDP, in real time.
//!
//! With the address of our server's API the fleet is entered there, the task is started and followed. Without it the
//! server may be any: the fleet is printed as one JSON object, for whoever enters it, and what the devices say of
//! themselves is judged.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::proto::v1;
use lorawan_fuota::time::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::device::{Activation, DeviceConfig};
use crate::fleet::MODEL;
use crate::live_records;
use crate::operator::{Operator, Progress};
use crate::realtime::{LabView, RealTime, WallClock};
use crate::scenario::{
    DeviceOutcome, FaultKind, Frames, GroupOutcome, Outcome, Scenario, SessionOutcome, Site,
    TaskOutcome,
};

/// Which server a scenario is run against.
#[derive(Clone, Debug, clap::Args)]
pub struct LiveArgs {
    /// Run in real time against a server, instead of in virtual time against our own code.
    #[arg(long, requires = "server")]
    pub real_time: bool,
    /// Where the server listens for gateways (Semtech UDP).
    #[arg(long, value_name = "ADDR", requires = "real_time")]
    pub server: Option<SocketAddr>,
    /// The API of our server, `http://127.0.0.1:50051`: the fleet is entered there and the task started. Without it,
    /// what the devices say of themselves is judged.
    #[arg(long, value_name = "URL", requires = "real_time")]
    pub api: Option<String>,
    /// Bearer token of the API. Better given in FUOTA_TOKEN: arguments can be seen by every user of the machine.
    #[arg(
        long,
        value_name = "TOKEN",
        requires = "api",
        env = "FUOTA_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
}

/// Bytes of `FragSessionSetupReq`'s `DataFragment` header and of the frame around it.
const FRAGMENT_FRAME: u8 = 16;
/// What cannot be judged without the records of our server.
const SERVER_ONLY: [&str; 5] = [
    "task",
    "frames_max",
    "airtime_max",
    "windows_max",
    "longest_frame_max",
];

/// Runs a scenario in real time.
///
/// # Errors
/// A socket cannot be opened, the server refuses something, or devices do not join in time.
pub(crate) fn run(scenario: &Scenario, seed: u64, args: &LiveArgs) -> Result<Outcome> {
    let server = args
        .server
        .context("--server: where the server listens for gateways")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(live(scenario, seed, server, args))
}

async fn live(
    scenario: &Scenario,
    seed: u64,
    server: SocketAddr,
    args: &LiveArgs,
) -> Result<Outcome> {
    let clock = WallClock::start();
    let mut site = Site::new(scenario, seed);
    if args.api.is_some() {
        let seconds = clock.now().as_unix_seconds();
        site.renumber(seconds.unsigned_abs());
    }
    let mut lab = site.lab(scenario, clock.now());
    lab.channel_mut().set_bursts(scenario.radio.bursts);
    let mut radio = RealTime::open(lab, clock, server).await?;
    let view = radio.observe();
    // A server keeps what an earlier run entered: names of this one are its own.
    let run = format!("run-{}", clock.now().as_micros());
    let operator = match &args.api {
        Some(url) => Some(Operator::with_token(url, &run, args.token.as_deref())?),
        None => None,
    };
    let (begun, start) = watch::channel(None);
    let work = async {
        match &operator {
            Some(operator) => {
                let order = Order {
                    operator,
                    run: &run,
                    clock,
                    begun: &begun,
                };
                order
                    .carry_out(scenario, &site, view.clone())
                    .await
                    .map(Some)
            }
            None => {
                print_line(&description(scenario, &site, clock.now())?);
                joined(scenario, &site, view.clone()).await?;
                begun.send_replace(Some(clock.now()));
                updated(scenario, &site, view.clone()).await;
                Ok(None)
            }
        }
    };
    let mut site_now = site.clone();
    let told = follow(&mut radio, scenario, &mut site_now, clock, start, work).await?;
    let last = radio.view();
    let begun = begun.borrow().unwrap_or_else(|| clock.now());
    let took = clock.now().since(begun);
    Ok(outcome(scenario, &site, seed, told, &last, took))
}

/// Runs the radio until the work is done, and has the scenario's faults strike meanwhile.
async fn follow<T>(
    radio: &mut RealTime,
    scenario: &Scenario,
    site: &mut Site,
    clock: WallClock,
    mut start: watch::Receiver<Option<Timestamp>>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = pin!(work);
    let begun = async {
        let begun = start.wait_for(Option::is_some).await;
        begun
            .ok()
            .and_then(|begun| *begun)
            .unwrap_or_else(|| clock.now())
    };
    let mut begun = pin!(begun);
    let first = async {
        tokio::select! {
            biased;
            done = &mut work => Err(done),
            at = &mut begun => Ok(at),
        }
    };
    let begun = match radio.run_until(first).await {
        Ok(begun) => begun,
        Err(done) => return done,
    };
    let mut ahead: BTreeMap<(Timestamp, usize), FaultKind> = BTreeMap::new();
    for fault in &scenario.timed {
        ahead.insert((begun + fault.at, ahead.len()), fault.what.clone());
    }
    loop {
        let next = ahead.first_key_value().map(|((at, _), _)| *at);
        let wait = next.map_or(Duration::from_secs(3600), |at| at.since(clock.now()));
        let stop = async {
            tokio::select! {
                biased;
                done = &mut work => Some(done),
                () = tokio::time::sleep(wait) => None,
            }
        };
        if let Some(done) = radio.run_until(stop).await {
            return done;
        }
        let now = clock.now();
        while let Some(entry) = ahead.first_entry().filter(|entry| entry.key().0 <= now) {
            let over = strike(radio, scenario, site, &entry.remove(), now);
            if let Some((lasts, over)) = over {
                ahead.insert((now + lasts, ahead.len() + scenario.timed.len()), over);
            }
        }
    }
}

/// Has a fault strike; returns what ends it, and after how long.
fn strike(
    radio: &mut RealTime,
    scenario: &Scenario,
    site: &mut Site,
    what: &FaultKind,
    now: Timestamp,
) -> Option<(Duration, FaultKind)> {
    let lab = radio.lab_mut();
    match *what {
        FaultKind::GatewayDown {
            gateway,
            power,
            lasts,
        } => {
            let eui = gateway.map(|gateway| site.gateways[gateway].eui);
            lab.set_down(now, eui, true, power);
            lasts.map(|lasts| (lasts, FaultKind::GatewayUp { gateway }))
        }
        FaultKind::GatewayUp { gateway } => {
            let eui = gateway.map(|gateway| site.gateways[gateway].eui);
            lab.set_down(now, eui, false, false);
            None
        }
        FaultKind::ServerCrash { .. } => {
            say("server-crash: the server is somebody else's, it goes on");
            None
        }
        FaultKind::Reboot(who) => {
            for device in site.some(who) {
                lab.change_device(device, |device| device.reset(now));
            }
            None
        }
        FaultKind::Vanish(who) => {
            for device in site.some(who) {
                lab.change_device(device, |device| device.set_silent_from(Some(now)));
            }
            None
        }
        FaultKind::ClockStep { who, by_us } => {
            for device in site.some(who) {
                lab.change_device(device, |device| device.step_clock(now, by_us));
            }
            None
        }
        FaultKind::Interference {
            gateway,
            group,
            share,
            lasts,
        } => {
            site.set_interference(scenario, gateway, group, share);
            site.interfere(scenario, lab.channel_mut());
            let over = FaultKind::Interference {
                gateway,
                group,
                share: 0.0,
                lasts: None,
            };
            lasts.map(|lasts| (lasts, over))
        }
    }
}

/// What an operator does with a scenario.
struct Order<'a> {
    operator: &'a Operator,
    run: &'a str,
    clock: WallClock,
    begun: &'a watch::Sender<Option<Timestamp>>,
}

/// What our server told of the task.
struct Told {
    progress: Progress,
    sessions: Vec<v1::DistributionSession>,
}

impl Order<'_> {
    /// Enters everything, starts the task and follows it to its end, or to where it is held.
    async fn carry_out(
        &self,
        scenario: &Scenario,
        site: &Site,
        view: watch::Receiver<LabView>,
    ) -> Result<Told> {
        let now = self.clock.now();
        let gateways = site.gateway_settings(scenario, now);
        let gateways: Vec<_> = gateways.iter().map(live_records::gateway).collect();
        self.operator.create_gateways(&gateways).await?;
        let mut records = Vec::new();
        for (number, profile) in site.profiles(scenario).iter().enumerate() {
            let id = format!("{}-{}", self.run, profile.id);
            let record = live_records::profile(profile);
            let name = self.operator.create_profile(&id, &record).await?;
            let of_group = site
                .devices
                .iter()
                .zip(&site.configs)
                .filter(|(d, _)| d.group == number);
            records.extend(of_group.map(|(_, config)| live_records::device(config, &name)));
        }
        let names = self.operator.create_devices(records).await?;
        let (image, data) = site.image(scenario, now);
        let metadata = v1::ImageMetadata {
            file_name: "scenario.signed.bin".to_owned(),
            model: MODEL.to_owned(),
            target_version: Some(image.target_version),
            version: image.version_text.clone(),
            activate: true,
            ..v1::ImageMetadata::default()
        };
        let key = crate::fleet::public_key_pem(&site.signing_seed);
        self.operator.trust("scenario", MODEL, key).await?;
        let uploaded = self.operator.upload(&metadata, &data).await?;
        joined(scenario, site, view).await?;
        let begun = self.clock.now();
        let order = site.task(scenario, &image, begun);
        let by_eui = |eui: &str| {
            let named = names.iter().find(|name| name.ends_with(eui));
            named.cloned().unwrap_or_default()
        };
        let record = live_records::task(&order, uploaded.name, by_eui);
        let wanted = site.devices_of_task(scenario);
        let wanted = wanted
            .iter()
            .map(|dev_eui| by_eui(&dev_eui.to_string()))
            .collect();
        let started = self.operator.run_task(self.run, &record, wanted).await?;
        say(&format!("task {} started", started.name));
        self.begun.send_replace(Some(begun));
        let (held, mut is_held) = watch::channel(Progress::default());
        let watched = self.operator.watch(&started.name, |progress| {
            held.send_replace(progress.clone());
        });
        let progress = tokio::select! {
            biased;
            progress = watched => progress?,
            Ok(progress) = is_held.wait_for(is_on_hold) => progress.clone(),
            () = tokio::time::sleep(scenario.longest) => bail!("the task has not ended in time"),
        };
        let sessions = self.operator.sessions(&started.name).await?;
        Ok(Told { progress, sessions })
    }
}

fn is_on_hold(progress: &Progress) -> bool {
    matches!(
        progress.task.state(),
        v1::TaskState::Paused | v1::TaskState::AwaitingApproval
    )
}

/// Waits until all devices have joined.
async fn joined(
    scenario: &Scenario,
    site: &Site,
    mut view: watch::Receiver<LabView>,
) -> Result<()> {
    let all = site.devices.len();
    let active = |view: &LabView| {
        view.devices
            .iter()
            .filter(|device| device.is_activated)
            .count()
    };
    let joined = view.wait_for(|view| view.devices.len() == all && active(view) == all);
    match tokio::time::timeout(scenario.joined_within, joined).await {
        Ok(joined) => {
            joined?;
            say(&format!("{all} devices have joined"));
        }
        // As in virtual time: the task starts with those that have.
        Err(_) => say("not all devices have joined in time"),
    }
    Ok(())
}

/// Waits until all devices of the task run the image, by their own word, or time is up.
async fn updated(scenario: &Scenario, site: &Site, mut view: watch::Receiver<LabView>) {
    let target = scenario.image.version.to_ts006();
    let wanted = site.devices_of_task(scenario);
    let limit = scenario.expect.finished_within.unwrap_or(scenario.longest);
    let done = view.wait_for(|view| {
        let runs = view
            .devices
            .iter()
            .filter(|device| device.running_version == target);
        let runs: std::collections::BTreeSet<DevEui> = runs.map(|device| device.dev_eui).collect();
        wanted.iter().all(|device| runs.contains(device))
    });
    // Time that is up is for the verdict to say.
    let _ = tokio::time::timeout(limit, done).await;
}

fn outcome(
    scenario: &Scenario,
    site: &Site,
    seed: u64,
    told: Option<Told>,
    view: &LabView,
    took: Duration,
) -> Outcome {
    let target = scenario.image.version.to_ts006();
    let runs: BTreeMap<DevEui, u32> = view
        .devices
        .iter()
        .map(|device| (device.dev_eui, device.running_version))
        .collect();
    let devices = site
        .devices
        .iter()
        .filter(|device| scenario.groups[device.group].in_task);
    let devices = devices.map(|placed| {
        let running_version = runs.get(&placed.dev_eui).copied().unwrap_or(0);
        let dev_eui = placed.dev_eui.to_string();
        let record = told.as_ref().and_then(|told| {
            let mut devices = told.progress.devices.values();
            devices.find(|device| device.device.ends_with(&dev_eui))
        });
        let runs = running_version == target;
        DeviceOutcome {
            state: match record {
                Some(record) => word(record.state().as_str_name(), "TASK_DEVICE_STATE_"),
                None if runs => "running".to_owned(),
                None => "unknown".to_owned(),
            },
            reason: record
                .filter(|record| record.reason() != v1::DeviceReason::Unspecified)
                .map(|record| word(record.reason().as_str_name(), "DEVICE_REASON_")),
            evidence: record.map_or_else(String::new, |record| record.evidence.clone()),
            updated: record.map_or(runs, |record| {
                let early =
                    scenario.task.success != lorawan_fuota::record::SuccessCriterion::Running;
                record.verdict() == v1::Verdict::Succeeded && (runs || early)
            }),
            group: scenario.groups[placed.group].name.clone(),
            dev_eui,
            running_version,
            retries: 0,
        }
    });
    let devices: Vec<DeviceOutcome> = devices.collect();
    let groups = scenario
        .groups
        .iter()
        .filter(|group| group.in_task)
        .map(|group| {
            let of_group = devices.iter().filter(|device| device.group == group.name);
            GroupOutcome::of(&group.name, of_group)
        });
    let mut violations = Vec::new();
    if view.breaches > 0 {
        violations.push(format!(
            "{} rules of the region broken by gateways",
            view.breaches
        ));
    }
    if view.counters_reused > 0 {
        violations.push(format!(
            "{} frame counters used twice",
            view.counters_reused
        ));
    }
    let all = devices.iter().all(|device| device.updated);
    let task = told.as_ref().map(|told| &told.progress.task);
    let counts = task.and_then(|task| task.frame_counts).unwrap_or_default();
    let ended = match task {
        Some(task) => task.state() == v1::TaskState::Completed,
        None => all,
    };
    let sessions = told
        .as_ref()
        .map(|told| told.sessions.iter().zip(0..).map(session).collect());
    let mut outcome = Outcome {
        scenario: scenario.name.clone(),
        seed,
        passed: false,
        task: TaskOutcome {
            state: task.map_or_else(
                || "not known".to_owned(),
                |task| word(task.state().as_str_name(), "TASK_STATE_"),
            ),
            reason: task
                .filter(|task| task.state_reason() != v1::TaskReason::Unspecified)
                .map(|task| word(task.state_reason().as_str_name(), "TASK_REASON_")),
            text: task.map_or_else(String::new, |task| task.state_message.clone()),
        },
        duration_s: ended.then_some(took.as_secs_f64()),
        frames: Frames {
            uncoded: counts.uncoded_fragments_sent,
            coded: counts.coded_fragments_sent,
            polls: counts.status_polls_sent,
            unicast: counts.unicast_frames_sent,
            refused: view.frames_refused,
        },
        airtime_s: Duration::from_micros(task.map_or(0, |task| task.airtime_us)).as_secs_f64(),
        server_crashes: 0,
        sessions: sessions.unwrap_or_default(),
        groups: groups.collect(),
        devices,
        violations,
        expectations: Vec::new(),
    };
    let mut judged = scenario.expect.judge(&outcome);
    judged.retain(|judged| {
        let by_state = judged.name.ends_with(": ends");
        // The API does not tell how many windows a session had.
        let known = told.is_some() && judged.name != "windows_max";
        known || !(by_state || SERVER_ONLY.contains(&judged.name.as_str()))
    });
    outcome.passed = judged.iter().all(|judged| judged.held);
    outcome.expectations = judged;
    outcome
}

fn session((session, number): (&v1::DistributionSession, u16)) -> SessionOutcome {
    let narrow = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
    let name = session
        .region()
        .as_str_name()
        .trim_start_matches("REGION_")
        .replace('_', "-");
    let region = name.parse::<lorawan_fuota::lorawan::region::Region>().ok();
    let rate = region.and_then(|r| r.data_rate(narrow(session.data_rate), Direction::Downlink));
    let length = narrow(session.frag_size).saturating_add(FRAGMENT_FRAME);
    SessionOutcome {
        number,
        wave: session
            .wave
            .rsplit('/')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0),
        class: word(session.device_class().as_str_name(), "DEVICE_CLASS_").to_uppercase(),
        data_rate: narrow(session.data_rate),
        nb_frag: u16::try_from(session.nb_frag).unwrap_or(u16::MAX),
        frag_size: narrow(session.frag_size),
        gateways: session.gateways.len(),
        windows: 1,
        rounds: u16::try_from(session.rounds.len()).unwrap_or(u16::MAX),
        frame_us: rate
            .map_or(0, |r| r.time_on_air_us(length, Direction::Downlink))
            .into(),
    }
}

/// `TASK_STATE_AWAITING_APPROVAL` is `awaiting-approval`.
fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix)
        .to_lowercase()
        .replace('_', "-")
}

/// What another server has to be told; the image is written to a file.
fn description(scenario: &Scenario, site: &Site, now: Timestamp) -> Result<Value> {
    let (image, data) = site.image(scenario, now);
    let path = tempfile::Builder::new()
        .suffix(".signed.bin")
        .tempfile()?
        .into_temp_path()
        .keep()?;
    std::fs::write(&path, &data)?;
    let device = |(placed, config): (&crate::scenario::PlacedDevice, &DeviceConfig)| {
        let (join_eui, app_key) = match &config.activation {
            Activation::Otaa {
                join_eui, app_key, ..
            } => (join_eui.to_string(), app_key.to_hex()),
            Activation::Abp { .. } => (String::new(), String::new()),
        };
        let group = &scenario.groups[placed.group];
        json!({
            "dev_eui": config.dev_eui.to_string(),
            "join_eui": join_eui,
            "app_key": app_key,
            "gen_app_key": config.gen_app_key.to_hex(),
            "group": group.name,
            "stack": group.stack_name,
            "in_task": group.in_task,
        })
    };
    let devices = site.devices.iter().zip(&site.configs).map(device);
    let gateways = site.gateways.iter().map(|gateway| {
        json!({ "eui": gateway.eui.to_string(), "name": gateway.name, "position": gateway.position })
    });
    Ok(json!({
        "scenario": scenario.name,
        "region": scenario.region.name(),
        "gateways": gateways.collect::<Vec<_>>(),
        "devices": devices.collect::<Vec<_>>(),
        "image_path": path,
        "target_version": image.target_version,
    }))
}

#[expect(
    clippy::print_stderr,
    reason = "what people read; the outcome goes to standard output"
)]
fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "the description is for programs")]
fn print_line(value: &Value) {
    use std::io::Write;
    println!("{value}");
    // Nobody reading is no reason to stop the radio.
    let _ = std::io::stdout().flush();
}
