//! The campaign against devices that exist at the application layer only: no frames, no gateways, no clock.
//!
//! The network here delivers payloads with a chosen loss and reports every downlink at once. It shows what the campaign
//! decides; what the radio makes of it is the simulation's business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::campaign::AddressSpace;
use lorawan_fuota::erasure::{CodeVersion, Decoder, Rules, reed_solomon};
use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::lorawan::keys::{Key128, KeyDerivation, data_block_int_key, data_block_mic};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::lorawan::{PackageVersion, firmware_management, fragmentation, multicast_setup};
use lorawan_fuota::network::{Network, NetworkCommand, NetworkCounters, NetworkEvent, Sending};
use lorawan_fuota::record::*;
use lorawan_fuota::runtime::{Command, Engine, NewDevice};
use lorawan_fuota::time::Timestamp;

const GATEWAY: GatewayEui = GatewayEui(1);
const TARGET: u32 = 0x0200_0000;

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn start() -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000)
}

/// A network that delivers application payloads to [`Device`]s.
struct Air {
    devices: BTreeMap<DevEui, Device>,
    reports: Vec<TxReport>,
    refuse: BTreeSet<u32>,
    fragments: Vec<u16>,
    polls: usize,
    groups: BTreeSet<SessionId>,
    random: u64,
}

impl Air {
    fn random(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.random >> 33).unwrap()) / f64::from(1u32 << 31)
    }
}

impl Network for Air {
    type Inbound = ();
    type Outbound = ();

    fn listen(&mut self, now: Timestamp, _: Vec<()>) -> Vec<NetworkEvent> {
        let mut events = vec![NetworkEvent::GatewaySeen(GATEWAY)];
        events.extend(self.reports.drain(..).map(NetworkEvent::Report));
        for device in self.devices.values_mut() {
            events.extend(
                device
                    .due(now)
                    .into_iter()
                    .map(|u| NetworkEvent::Heard(Heard::Uplink(u))),
            );
        }
        events
    }

    fn apply(&mut self, _: &NetworkCommand) {}

    fn counts(&self) -> NetworkCounters {
        NetworkCounters::default()
    }

    fn send(&mut self, now: Timestamp, requests: Vec<NetworkRequest>) -> Sending<()> {
        for request in requests {
            match request {
                NetworkRequest::PutGroup(group) => {
                    self.groups.insert(group.session);
                }
                NetworkRequest::RemoveGroup(session) | NetworkRequest::KeepGroup(session, _) => {
                    self.groups.remove(&session);
                }
                NetworkRequest::Send(downlink) => self.carry(now, downlink),
            }
        }
        Sending {
            changes: vec![],
            outbound: vec![],
        }
    }

    fn wake(&self) -> Option<Timestamp> {
        let reports = self.reports.first().map(|_| Timestamp::default());
        self.devices
            .values()
            .filter_map(Device::wake)
            .chain(reports)
            .min()
    }
}

impl Air {
    fn carry(&mut self, now: Timestamp, downlink: Downlink) {
        let airtime = Duration::from_millis(100);
        let refused = self.refuse.contains(&downlink.id.number);
        let outcome = if refused {
            TxOutcome::Refused(Refusal::QueueFull)
        } else {
            TxOutcome::Queued {
                on_air_at: now.max(downlink.earliest),
                airtime,
            }
        };
        let outcomes = vec![GatewayOutcome {
            gateway: Some(GATEWAY),
            outcome,
        }];
        self.reports.push(TxReport {
            id: downlink.id,
            outcomes,
        });
        if refused {
            return;
        }
        let targets: Vec<DevEui> = match &downlink.target {
            Target::Device(dev_eui) => vec![*dev_eui],
            Target::Group(_) => self.devices.keys().copied().collect(),
        };
        if matches!(downlink.target, Target::Group(_)) {
            match fragmentation::DataFragment::decode(&downlink.payload) {
                Ok(fragment) => self.fragments.push(fragment.n),
                Err(_) => self.polls += 1,
            }
        }
        for dev_eui in targets {
            let lost = self.random() < self.devices[&dev_eui].loss;
            if !lost {
                let multicast = matches!(downlink.target, Target::Group(_));
                self.devices.get_mut(&dev_eui).unwrap().receive(
                    now + airtime,
                    downlink.f_port,
                    &downlink.payload,
                    multicast,
                );
            }
        }
    }
}

/// An end-device without a radio.
struct Device {
    dev_eui: DevEui,
    loss: f64,
    version: PackageVersion,
    interval: Duration,
    next_uplink: Timestamp,
    outbox: Vec<(Timestamp, u8, Vec<u8>)>,
    f_cnt: u32,
    gen_app_key: Key128,
    clock_error_s: i64,
    silent: bool,
    firmware: u32,
    group: bool,
    window: Option<(i64, i64)>,
    frag: Option<(Decoding, fragmentation::FragSessionSetupReq)>,
    /// It refuses every `FragAlgo` but 0, and says so again after this time.
    refuses: Option<Duration>,
    image: Option<Vec<u8>>,
    reboot_at: Option<Timestamp>,
    bad_image: bool,
    status_index: u32,
}

impl Device {
    fn new(id: u64, version: PackageVersion, loss: f64) -> Self {
        Self {
            dev_eui: DevEui(id),
            loss,
            version,
            interval: second(60),
            next_uplink: start() + second(id % 60),
            outbox: vec![],
            f_cnt: 0,
            gen_app_key: Key128::from_bytes([7; 16]),
            clock_error_s: 0,
            silent: false,
            firmware: 0x0100_0000,
            group: false,
            window: None,
            frag: None,
            refuses: None,
            image: None,
            reboot_at: None,
            bad_image: false,
            status_index: 0,
        }
    }

    fn wake(&self) -> Option<Timestamp> {
        let outbox = self.outbox.iter().map(|(at, ..)| *at);
        (!self.silent)
            .then(|| outbox.chain([self.next_uplink]).min())
            .flatten()
    }

    fn due(&mut self, now: Timestamp) -> Vec<Uplink> {
        if self.silent {
            return vec![];
        }
        if self.reboot_at.is_some_and(|at| now >= at) {
            self.reboot_at = None;
            if self.image.take().is_some() {
                self.firmware = TARGET;
            }
            (self.group, self.window, self.frag) = (false, None, None);
        }
        if now >= self.next_uplink {
            self.next_uplink = now + self.interval;
            self.outbox.push((now, 1, vec![0]));
        }
        let (due, later) = self.outbox.drain(..).partition(|(at, ..)| *at <= now);
        self.outbox = later;
        let due: Vec<(Timestamp, u8, Vec<u8>)> = due;
        due.into_iter()
            .map(|(at, f_port, payload)| {
                self.f_cnt += 1;
                Uplink {
                    dev_eui: self.dev_eui,
                    f_cnt: self.f_cnt,
                    f_port: Some(f_port),
                    payload,
                    received_at: at,
                    data_rate: 0,
                    frequency_hz: 868_100_000,
                    confirmed: false,
                    class_b: false,
                    asked_time: false,
                    receptions: vec![Reception {
                        gateway: GATEWAY,
                        rssi_dbm: -80,
                        snr_db: 5.0,
                    }],
                }
            })
            .collect()
    }

    fn receive(&mut self, now: Timestamp, f_port: u8, payload: &[u8], multicast: bool) {
        let gps = now.to_gps().seconds() + self.clock_error_s;
        if multicast
            && !self
                .window
                .is_some_and(|(from, to)| (from..to).contains(&gps))
        {
            return;
        }
        match f_port {
            200 => self.multicast_setup(now, gps, payload),
            201 => self.fragmentation(now, payload),
            203 => self.firmware_management(now, payload),
            _ => {}
        }
    }

    fn answer(&mut self, at: Timestamp, f_port: u8, payload: Vec<u8>) {
        if !payload.is_empty() {
            self.outbox.push((at, f_port, payload));
        }
    }

    fn multicast_setup(&mut self, now: Timestamp, gps: i64, payload: &[u8]) {
        use multicast_setup::*;
        let mut out = vec![];
        for command in decode_downlink(self.version, payload).commands {
            let answer = match command {
                DownlinkCommand::PackageVersionReq => {
                    UplinkCommand::PackageVersionAns(version_answer(2, self.version))
                }
                DownlinkCommand::McGroupSetupReq(r) => {
                    self.group = true;
                    UplinkCommand::McGroupSetupAns(McGroupSetupAns {
                        mc_group_id: r.mc_group_id,
                        id_error: false,
                    })
                }
                DownlinkCommand::McClassCSessionReq(r) => {
                    let from = i64::from(r.session_time);
                    self.window = Some((from, from + (1 << r.session_time_out)));
                    UplinkCommand::McClassCSessionAns(McSessionAns {
                        mc_group_id: r.mc_group_id,
                        mc_group_undefined: !self.group,
                        freq_error: false,
                        dr_error: false,
                        start_missed: false,
                        reserved_error: false,
                        time_to_start: self.group.then(|| u32::try_from(from - gps).unwrap_or(0)),
                    })
                }
                DownlinkCommand::McGroupDeleteReq(r) => {
                    let mc_group_undefined = !std::mem::take(&mut self.group);
                    UplinkCommand::McGroupDeleteAns(McGroupDeleteAns {
                        mc_group_id: r.mc_group_id,
                        mc_group_undefined,
                    })
                }
                _ => continue,
            };
            answer.encode(self.version, &mut out);
        }
        self.answer(now + second(1), 200, out);
    }

    fn fragmentation(&mut self, now: Timestamp, payload: &[u8]) {
        use fragmentation::*;
        if let Ok(fragment) = DataFragment::decode(payload) {
            if let Some((decoder, setup)) = &mut self.frag {
                decoder.push(fragment.n, fragment.fragment);
                if decoder.is_complete() && self.image.is_none() {
                    self.image = decoder.clone().into_data(setup.padding);
                }
            }
            return;
        }
        let mut out = vec![];
        let mut delay = second(1);
        for command in decode_downlink(self.version, payload).commands {
            let answer = match command {
                DownlinkCommand::PackageVersionReq => {
                    UplinkCommand::PackageVersionAns(version_answer(3, self.version))
                }
                DownlinkCommand::FragSessionSetupReq(r) => {
                    let again = self.refuses.filter(|_| r.frag_algo != 0);
                    if again.is_none() {
                        self.frag = Some((Decoding::new(self.version, &r), r));
                        self.image = None;
                    }
                    let answer = UplinkCommand::FragSessionSetupAns(FragSessionSetupAns {
                        frag_index: r.frag_index,
                        session_cnt_replay: false,
                        wrong_descriptor: false,
                        frag_index_unsupported: false,
                        not_enough_memory: false,
                        frag_algo_unsupported: again.is_some(),
                    });
                    if let Some(after) = again {
                        let mut twice = vec![];
                        answer.encode(self.version, &mut twice);
                        self.answer(now + after, 201, twice);
                    }
                    answer
                }
                DownlinkCommand::FragSessionStatusReq(r) => {
                    let Some((decoder, setup)) = &self.frag else {
                        continue;
                    };
                    let missing = decoder.missing();
                    if !r.participants && missing == 0 {
                        continue;
                    }
                    self.status_index += 1;
                    delay = Duration::from_millis(
                        300 * (self.dev_eui.0 % 50 + u64::from(self.status_index)),
                    );
                    let missing_v2 = if missing == 0 {
                        0
                    } else {
                        decoder.missing_uncoded()
                    };
                    let mic = self.image.as_ref().map(|image| {
                        let key = data_block_int_key(&self.gen_app_key);
                        data_block_mic(
                            &key,
                            setup.session_cnt,
                            setup.frag_index,
                            setup.descriptor,
                            image,
                        )
                    });
                    UplinkCommand::FragSessionStatusAns(FragSessionStatusAns {
                        frag_index: Some(r.frag_index),
                        nb_frag_received: decoder.received(),
                        missing_frag: u8::try_from(if self.version == PackageVersion::V1 {
                            missing
                        } else {
                            missing_v2
                        })
                        .unwrap_or(255),
                        memory_error: false,
                        mic_error: self.version == PackageVersion::V2
                            && mic.is_some_and(|mic| mic != setup.mic),
                        session_absent: false,
                    })
                }
                DownlinkCommand::FragSessionDeleteReq(r) => {
                    let session_absent = self.frag.take().is_none();
                    UplinkCommand::FragSessionDeleteAns(FragSessionDeleteAns {
                        frag_index: r.frag_index,
                        session_absent,
                    })
                }
                DownlinkCommand::FragDataBlockReceivedAns(_) => continue,
            };
            answer.encode(self.version, &mut out);
        }
        self.answer(now + delay, 201, out);
    }

    fn firmware_management(&mut self, now: Timestamp, payload: &[u8]) {
        use firmware_management::*;
        let mut out = vec![];
        for command in decode_downlink(PackageVersion::V1, payload).commands {
            let answer = match command {
                DownlinkCommand::PackageVersionReq => {
                    UplinkCommand::PackageVersionAns(version_answer(4, PackageVersion::V1))
                }
                DownlinkCommand::DevVersionReq => UplinkCommand::DevVersionAns(DevVersionAns {
                    fw_version: self.firmware,
                    hw_version: 1,
                }),
                DownlinkCommand::DevUpgradeImageReq => {
                    UplinkCommand::DevUpgradeImageAns(DevUpgradeImageAns {
                        up_image_status: match &self.image {
                            _ if self.bad_image => UpImageStatus::Corrupt,
                            Some(_) => UpImageStatus::Valid {
                                next_firmware_version: TARGET,
                            },
                            None => UpImageStatus::NoImage,
                        },
                    })
                }
                DownlinkCommand::DevRebootCountdownReq(r) => {
                    self.reboot_at = Some(now + second(u64::from(r.countdown)));
                    UplinkCommand::DevRebootCountdownAns(DevRebootCountdownAns {
                        countdown: r.countdown,
                    })
                }
                _ => continue,
            };
            answer.encode(PackageVersion::V1, &mut out);
        }
        self.answer(now + second(1), 203, out);
    }
}

/// A decoder by `FragAlgo`.
#[derive(Clone)]
enum Decoding {
    Ts004(Decoder),
    ReedSolomon(reed_solomon::Decoder),
}

impl Decoding {
    fn new(version: PackageVersion, setup: &fragmentation::FragSessionSetupReq) -> Self {
        let (nb_frag, size) = (setup.nb_frag, setup.frag_size);
        if setup.frag_algo == reed_solomon::FRAG_ALGO {
            let code = Arc::new(reed_solomon::Code::new(nb_frag).unwrap());
            return Self::ReedSolomon(reed_solomon::Decoder::new(code, size).unwrap());
        }
        assert_eq!(setup.frag_algo, 0);
        let code = match version {
            PackageVersion::V1 => CodeVersion::V1,
            PackageVersion::V2 => CodeVersion::V2,
        };
        Self::Ts004(Decoder::new(code, nb_frag, size, Rules::Device, nb_frag).unwrap())
    }

    fn push(&mut self, n: u16, fragment: &[u8]) {
        match self {
            Self::Ts004(decoder) => decoder.push(n, fragment),
            Self::ReedSolomon(decoder) => decoder.push(n, fragment),
        };
    }

    fn is_complete(&self) -> bool {
        self.missing() == 0
    }

    fn missing(&self) -> u16 {
        match self {
            Self::Ts004(decoder) => decoder.rank_deficit(),
            Self::ReedSolomon(decoder) => decoder.missing(),
        }
    }

    fn missing_uncoded(&self) -> u16 {
        match self {
            Self::Ts004(decoder) => decoder.missing_uncoded(),
            Self::ReedSolomon(decoder) => decoder.missing_uncoded(),
        }
    }

    fn received(&self) -> u16 {
        match self {
            Self::Ts004(decoder) => decoder.received(),
            Self::ReedSolomon(decoder) => decoder.received(),
        }
    }

    fn into_data(self, padding: u8) -> Option<Vec<u8>> {
        match self {
            Self::Ts004(decoder) => decoder.into_data(padding).ok(),
            Self::ReedSolomon(decoder) => decoder.into_data(padding).ok(),
        }
    }
}

fn version_answer(
    package_identifier: u8,
    version: PackageVersion,
) -> lorawan_fuota::lorawan::PackageVersionAns {
    lorawan_fuota::lorawan::PackageVersionAns {
        package_identifier,
        package_version: version.number(),
    }
}

/// An engine on [`Air`], and all it ever committed.
struct Bench {
    engine: Engine<Air>,
    now: Timestamp,
    tasks: BTreeMap<TaskId, Task>,
    devices: BTreeMap<DevEui, TaskDevice>,
    sessions: BTreeMap<SessionId, DistributionSession>,
    statuses: BTreeMap<DevEui, DeviceStatus>,
    steps: u64,
    /// Added to tasks one by one; empty = all.
    devices_by_themselves: Vec<DevEui>,
    /// Added to tasks.
    groups: Vec<MulticastGroup>,
    /// Asked for by tasks.
    frag_algo: FragAlgo,
}

impl Bench {
    fn new(devices: Vec<Device>, version: PackageVersion) -> Self {
        let air = Air {
            reports: vec![],
            refuse: BTreeSet::new(),
            fragments: vec![],
            polls: 0,
            groups: BTreeSet::new(),
            random: 42,
            devices: devices.into_iter().map(|d| (d.dev_eui, d)).collect(),
        };
        let ids: Vec<(DevEui, Duration)> = air
            .devices
            .values()
            .map(|d| (d.dev_eui, d.interval))
            .collect();
        let engine = Engine::restore(
            air,
            AddressSpace {
                prefix: 0,
                prefix_bits: 7,
            },
            Snapshot::default(),
        );
        let mut bench = Self {
            engine,
            now: start(),
            tasks: BTreeMap::new(),
            devices: BTreeMap::new(),
            sessions: BTreeMap::new(),
            statuses: BTreeMap::new(),
            steps: 0,
            devices_by_themselves: vec![],
            groups: vec![],
            frag_algo: FragAlgo::Ts004,
        };
        let gateway = GatewaySettings {
            eui: GATEWAY,
            display_name: String::new(),
            region: Region::Eu868,
            position: None,
            antenna_gain_dbi: 0.0,
            cable_loss_db: 0.0,
            max_eirp_dbm: None,
            gps: false,
            beaconing: false,
            lead_time: Duration::from_millis(300),
            air_share_permille: 1000,
            created_at: start(),
            tags: BTreeMap::new(),
            updated_at: start(),
        };
        let devices = ids
            .iter()
            .map(|(dev_eui, _)| new_device(*dev_eui))
            .collect();
        bench.step(vec![
            Command::PutGateway(gateway),
            Command::PutDeviceProfile(profile(
                version,
                ids.first().map_or_else(|| second(60), |(_, i)| *i),
            )),
            Command::PutDevices(devices),
        ]);
        bench
    }

    fn start_task(&mut self, image_bytes: usize, success: SuccessCriterion) -> TaskId {
        self.try_start_task(image_bytes, success)
            .pop()
            .unwrap()
            .unwrap();
        TaskId("t".to_owned())
    }

    fn try_start_task(
        &mut self,
        image_bytes: usize,
        success: SuccessCriterion,
    ) -> Vec<Result<(), lorawan_fuota::runtime::CommandError>> {
        let data: Arc<[u8]> = (0..image_bytes)
            .map(|i| u8::try_from(i * 7 % 251).unwrap())
            .collect();
        let image = Image {
            tenant: TenantId::default(),
            sha256: Sha256([1; 32]),
            size_bytes: u32::try_from(image_bytes).unwrap(),
            container: ImageContainer::Raw,
            file_name: String::new(),
            model: String::new(),
            component: "main".to_owned(),
            target_version: TARGET,
            version_text: "2.0.0".to_owned(),
            annotations: BTreeMap::new(),
            created_at: start(),
            facts: ImageFacts::default(),
            release: Release {
                state: ReleaseState::Active,
                ..Release::default()
            },
        };
        let task = Task {
            tenant: TenantId::default(),
            id: TaskId("t".to_owned()),
            display_name: String::new(),
            images: vec![image.sha256],
            groups: vec![],
            success,
            reboot: RebootMode::Countdown { after: second(10) },
            prepare_after: None,
            window_start: None,
            deadline: None,
            options: TaskOptions {
                data_rate: Some(5),
                frag_algo: self.frag_algo,
                skip_unfit: true,
                ..TaskOptions::default()
            },
            state: TaskState::Draft,
            reason: None,
            reason_text: String::new(),
            sequence: 0,
            counters: TaskCounters::default(),
            created_at: self.now,
            started_at: None,
            ended_at: None,
            seed: Some(Key128::from_bytes([9; 16])),
            tags: BTreeMap::new(),
            updated_at: self.now,
            expected_end: None,
            retry_of: None,
            waves: Default::default(),
            thresholds: Default::default(),
            failures_accepted: Default::default(),
            held: None,
            resumed_at: None,
            waiting: None,
            deltas: vec![],
            rules: Default::default(),
        };
        let mut devices = self.devices_by_themselves.clone();
        if devices.is_empty() {
            devices = self.engine.network().devices.keys().copied().collect();
        }
        self.step(vec![Command::StartTask {
            task: Box::new(task),
            image: (image, data),
            deltas: vec![],
            devices,
            groups: self.groups.clone(),
        }])
    }

    fn step(
        &mut self,
        commands: Vec<Command>,
    ) -> Vec<Result<(), lorawan_fuota::runtime::CommandError>> {
        let step = self.engine.step(self.now, vec![], commands);
        for change in step.changes {
            match change {
                Change::PutTask(task) => {
                    let before = self
                        .tasks
                        .insert(task.id.clone(), task.as_ref().clone())
                        .map_or(0, |t| t.sequence);
                    assert!(task.sequence > before, "a task's sequence counts up");
                }
                Change::PutTaskDevice(device) => {
                    self.devices
                        .insert(device.dev_eui, Arc::unwrap_or_clone(device));
                }
                Change::PutDistributionSession(session) => {
                    self.sessions.insert(session.id.clone(), session);
                }
                Change::PutDeviceStatus(dev_eui, status) => {
                    self.statuses.insert(dev_eui, Arc::unwrap_or_clone(status));
                }
                _ => {}
            }
        }
        self.steps += 1;
        step.replies
    }

    /// Runs until the task has ended, or panics with its state after a week.
    fn run(&mut self, task: &TaskId) -> Task {
        while !self.tasks[task].state.is_terminal() {
            let wake = self.engine.wake().unwrap();
            assert!(
                wake.since(start()) < second(7 * 86_400),
                "the task is stuck: {:#?} {:#?}",
                self.tasks[task],
                self.devices
            );
            self.now = self.now.max(wake);
            self.step(vec![]);
            assert!(
                self.steps < 200_000,
                "the machine spins at {}: {:?}",
                self.now,
                self.sessions
            );
        }
        self.tasks[task].clone()
    }

    fn states(&self) -> BTreeMap<DeviceState, usize> {
        let mut states = BTreeMap::new();
        for device in self.devices.values() {
            *states.entry(device.state).or_default() += 1;
        }
        states
    }
}

fn profile(version: PackageVersion, uplink_interval: Duration) -> DeviceProfile {
    let package = |f_port, version| Some(Package { version, f_port });
    DeviceProfile {
        tenant: TenantId::default(),
        id: "p".to_owned(),
        display_name: String::new(),
        lorawan_version: LorawanVersion::V1_0_4,
        region: Region::Eu868,
        supports_class_b: false,
        supports_class_c: true,
        always_class_c: false,
        packages: Packages {
            clock_sync: None,
            multicast_setup: package(200, version),
            fragmentation: package(201, version),
            firmware_management: package(203, PackageVersion::V1),
        },
        limits: DecoderLimits {
            max_nb_frag: 5000,
            max_frag_size: 230,
            max_lost: None,
            max_groups: 4,
            max_frag_sessions: 1,
            reed_solomon: false,
            keeps_blocks: false,
        },
        status_interpretation: StatusInterpretation::Spec,
        uplink_interval,
        after_reboot: AfterReboot {
            rejoins: false,
            f_cnt_reset: FCntReset::Refuse,
            loses_groups: true,
        },
        version_source: VersionSource::FirmwareManagement,
        created_at: start(),
        updated_at: start(),
        application_reboot: None,
        components: vec![],
        descriptor: Default::default(),
    }
}

fn new_device(dev_eui: DevEui) -> NewDevice {
    NewDevice {
        settings: DeviceSettings {
            tenant: TenantId::default(),
            dev_eui,
            profile: "p".to_owned(),
            display_name: String::new(),
            model: String::new(),
            tags: BTreeMap::new(),
            created_at: start(),
            updated_at: start(),
        },
        keys: Some(DeviceKeys {
            dev_eui,
            multicast: MulticastKeys::Root {
                key: Key128::from_bytes([7; 16]),
                derivation: KeyDerivation::GenAppKey,
            },
        }),
        join: None,
        session: None,
        versions: None,
    }
}

fn fleet(count: u64, version: PackageVersion, loss: f64) -> Vec<Device> {
    (1..=count)
        .map(|id| Device::new(id, version, loss))
        .collect()
}

/// A task that asks for the Reed-Solomon code, of devices that claim it.
fn reed_solomon(devices: Vec<Device>, version: PackageVersion) -> Bench {
    let mut bench = Bench::new(devices, version);
    let mut claims = profile(version, second(60));
    claims.limits.reed_solomon = true;
    bench.step(vec![Command::PutDeviceProfile(claims)]);
    bench.frag_algo = FragAlgo::ReedSolomon;
    bench
}

#[test]
fn all_blocks_of_reed_solomon_are_helped_alike_though_frames_are_refused() {
    for version in [PackageVersion::V1, PackageVersion::V2] {
        let mut bench = reed_solomon(fleet(5, version, 0.2), version);
        bench.engine.network_mut().refuse = (40..2000).step_by(7).collect();
        let id = bench.start_task(60_000, SuccessCriterion::Running);
        bench.run(&id);
        assert_eq!(bench.states(), BTreeMap::from([(DeviceState::Running, 5)]));
        let session = bench.sessions.values().next().unwrap();
        let block = session.block;
        assert_eq!(block.frag_algo, FragAlgo::ReedSolomon);
        assert_eq!(block.nb_frag.div_ceil(128), 3, "three blocks");
        let on_air = &bench.engine.network().fragments;
        let coded: Vec<u16> = on_air
            .iter()
            .copied()
            .filter(|n| *n > block.nb_frag)
            .collect();
        let in_order = (block.nb_frag + 1..).take(coded.len());
        assert!(coded.iter().copied().eq(in_order), "{coded:?}");
        assert_eq!(coded.len() % 3, 0, "whole turns: {coded:?}");
    }
}

#[test]
fn a_refusal_of_the_code_that_comes_twice_does_not_count_against_the_other_one() {
    let mut devices = fleet(3, PackageVersion::V2, 0.0);
    for device in &mut devices {
        device.refuses = Some(second(20));
    }
    let mut bench = reed_solomon(devices, PackageVersion::V2);
    let id = bench.start_task(4096, SuccessCriterion::Running);
    let task = bench.run(&id);
    assert_eq!(
        bench.states(),
        BTreeMap::from([(DeviceState::Running, 3)]),
        "{:#?}",
        bench.devices
    );
    let codes: Vec<FragAlgo> = bench.sessions.values().map(|s| s.block.frag_algo).collect();
    assert_eq!(codes, [FragAlgo::ReedSolomon, FragAlgo::Ts004]);
    assert_eq!(
        task.counters.uncoded_frames, 18,
        "the first one sent nothing"
    );
}

#[test]
fn who_refuses_the_code_joins_those_who_do_not_claim_it() {
    let mut devices = fleet(4, PackageVersion::V2, 0.0);
    for device in &mut devices {
        device.refuses = Some(second(2));
    }
    let mut bench = reed_solomon(devices, PackageVersion::V2);
    let plain = DeviceProfile {
        id: "plain".to_owned(),
        ..profile(PackageVersion::V2, second(60))
    };
    let mut unclaimed = [new_device(DevEui(1)), new_device(DevEui(3))];
    for device in &mut unclaimed {
        device.settings.profile = plain.id.clone();
    }
    let replies = bench.step(vec![
        Command::PutDeviceProfile(plain),
        Command::PutDevices(unclaimed.to_vec()),
    ]);
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    let id = bench.start_task(4096, SuccessCriterion::Running);
    let task = bench.run(&id);
    assert_eq!(bench.states(), BTreeMap::from([(DeviceState::Running, 4)]));
    let codes: Vec<FragAlgo> = bench.sessions.values().map(|s| s.block.frag_algo).collect();
    assert_eq!(codes, [FragAlgo::ReedSolomon, FragAlgo::Ts004]);
    assert_eq!(task.counters.uncoded_frames, 18, "all by one session");
}

#[test]
fn without_loss_everybody_runs_the_image_and_no_coded_fragment_is_wasted() {
    for version in [PackageVersion::V1, PackageVersion::V2] {
        let mut bench = Bench::new(fleet(3, version, 0.0), version);
        for dev_eui in 1..=3 {
            // A loss-free history is what makes coded fragments superfluous.
            bench
                .engine
                .fleet_mut()
                .status_mut(DevEui(dev_eui))
                .unwrap()
                .loss_permille = Some(0);
        }
        let id = bench.start_task(4096, SuccessCriterion::Running);
        let task = bench.run(&id);
        assert_eq!(task.state, TaskState::Completed);
        assert_eq!(
            bench.states(),
            BTreeMap::from([(DeviceState::Running, 3)]),
            "{:#?}",
            bench.devices
        );
        assert_eq!(task.counters.uncoded_frames, 18, "{version:?}");
        assert_eq!(task.counters.coded_frames, 0);
        assert!(
            bench.engine.network().groups.is_empty(),
            "the group is gone"
        );
        for device in bench.devices.values() {
            assert_eq!(device.frag_cleanup, CleanupState::Confirmed);
            assert_eq!(device.group_cleanup, CleanupState::Confirmed);
        }
    }
}

#[test]
fn loss_is_made_good_in_rounds() {
    for version in [PackageVersion::V1, PackageVersion::V2] {
        let mut devices = fleet(20, version, 0.1);
        devices[0].loss = 0.3;
        let mut bench = Bench::new(devices, version);
        let id = bench.start_task(20_000, SuccessCriterion::Running);
        let task = bench.run(&id);
        assert_eq!(
            bench.states(),
            BTreeMap::from([(DeviceState::Running, 20)]),
            "{:#?}",
            bench.devices
        );
        let session = bench.sessions.values().next().unwrap();
        assert!(session.round >= 2 && session.round <= 8, "{session:?}");
        // M = 87; one device at 30 % needs about 126 frames, and the bound for the fleet is close to that.
        assert!(
            task.counters.uncoded_frames + task.counters.coded_frames < 165,
            "{:?}",
            task.counters
        );
        // N never repeats, and uncoded fragments come in order.
        let sent = &bench.engine.network().fragments;
        assert_eq!(sent.iter().collect::<BTreeSet<_>>().len(), sent.len());
        assert!(sent[..87].windows(2).all(|pair| pair[0] < pair[1]));
    }
}

#[test]
fn a_silent_device_does_not_hold_the_others() {
    let mut devices = fleet(4, PackageVersion::V1, 0.0);
    devices[2].silent = true;
    let mut bench = Bench::new(devices, PackageVersion::V1);
    let id = bench.start_task(4096, SuccessCriterion::Running);
    let task = bench.run(&id);
    assert_eq!(task.state, TaskState::Completed);
    let expected = BTreeMap::from([(DeviceState::Running, 3), (DeviceState::Silent, 1)]);
    assert_eq!(bench.states(), expected);
    assert_eq!(
        bench.devices[&DevEui(3)].reason,
        Some(DeviceReason::NoAnswer)
    );
}

#[test]
fn a_wrong_clock_ends_with_its_reason() {
    let mut devices = fleet(2, PackageVersion::V2, 0.0);
    devices[1].clock_error_s = -120;
    let mut bench = Bench::new(devices, PackageVersion::V2);
    let id = bench.start_task(4096, SuccessCriterion::Running);
    bench.run(&id);
    assert_eq!(bench.devices[&DevEui(1)].state, DeviceState::Running);
    let wrong = &bench.devices[&DevEui(2)];
    assert!(wrong.state.is_failure(), "{wrong:?}");
}

#[test]
fn a_rejected_image_is_not_rebooted_into() {
    let mut devices = fleet(2, PackageVersion::V1, 0.0);
    devices[0].bad_image = true;
    let mut bench = Bench::new(devices, PackageVersion::V1);
    let id = bench.start_task(4096, SuccessCriterion::Running);
    bench.run(&id);
    assert_eq!(bench.devices[&DevEui(1)].state, DeviceState::Failed);
    assert_eq!(
        bench.devices[&DevEui(1)].reason,
        Some(DeviceReason::ImageRejected)
    );
    assert_eq!(bench.devices[&DevEui(2)].state, DeviceState::Running);
}

#[test]
fn other_package_version_than_the_profile_is_refused_before_set_up() {
    let mut devices = fleet(2, PackageVersion::V1, 0.0);
    devices[1].version = PackageVersion::V2;
    let mut bench = Bench::new(devices, PackageVersion::V1);
    let id = bench.start_task(4096, SuccessCriterion::Running);
    bench.run(&id);
    let other = &bench.devices[&DevEui(2)];
    assert_eq!(
        (other.state, other.reason),
        (DeviceState::Failed, Some(DeviceReason::VersionMismatch))
    );
    assert!(bench.engine.network().devices[&DevEui(2)].frag.is_none());
    assert_eq!(bench.devices[&DevEui(1)].state, DeviceState::Running);
}

#[test]
fn a_second_task_on_the_same_devices_is_refused() {
    let mut bench = Bench::new(fleet(2, PackageVersion::V1, 0.0), PackageVersion::V1);
    bench.start_task(4096, SuccessCriterion::Running);
    let replies = bench.try_start_task(4096, SuccessCriterion::Running);
    assert!(
        matches!(&replies[0], Err(lorawan_fuota::runtime::CommandError::Conflict(text)) if text.contains("task t"))
    );
}

#[test]
fn refused_fragments_are_replaced_in_order() {
    let mut bench = Bench::new(fleet(3, PackageVersion::V1, 0.0), PackageVersion::V1);
    // Some of everything that is sent, set-up commands included.
    bench.engine.network_mut().refuse = (0..200).filter(|n| n % 7 == 3).collect();
    let id = bench.start_task(20_000, SuccessCriterion::Running);
    let task = bench.run(&id);
    assert_eq!(
        bench.states(),
        BTreeMap::from([(DeviceState::Running, 3)]),
        "{:#?}",
        bench.devices
    );
    assert!(task.counters.refused_frames > 0);
    assert_eq!(
        task.counters.uncoded_frames, 87,
        "every uncoded fragment was on air once"
    );
    let sent = &bench.engine.network().fragments;
    assert!(
        sent.windows(2)
            .all(|pair| pair[0] < pair[1] || pair[0] > 87),
        "{sent:?}"
    );
}

#[test]
fn cancel_stops_and_cleans() {
    let mut bench = Bench::new(fleet(3, PackageVersion::V1, 0.0), PackageVersion::V1);
    let id = bench.start_task(20_000, SuccessCriterion::Running);
    while bench.tasks[&id].state != TaskState::Distributing {
        bench.now = bench.now.max(bench.engine.wake().unwrap());
        bench.step(vec![]);
    }
    let replies = bench.step(vec![Command::CancelTask(id.clone())]);
    assert_eq!(replies, [Ok(())]);
    assert_eq!(bench.tasks[&id].state, TaskState::Cancelling);
    let sent = bench.engine.network().fragments.len();
    let task = bench.run(&id);
    assert_eq!(task.state, TaskState::Cancelled);
    assert_eq!(
        bench.engine.network().fragments.len(),
        sent,
        "nothing is sent after the cancel"
    );
    for device in bench.engine.network().devices.values() {
        assert!(!device.group && device.frag.is_none());
    }
}

#[test]
fn received_is_enough_where_the_criterion_says_so() {
    let mut bench = Bench::new(fleet(2, PackageVersion::V1, 0.05), PackageVersion::V1);
    let id = bench.start_task(4096, SuccessCriterion::ReportedReceived);
    bench.run(&id);
    assert_eq!(
        bench.states(),
        BTreeMap::from([(DeviceState::ReportedReceived, 2)])
    );
    assert!(
        bench
            .engine
            .network()
            .devices
            .values()
            .all(|d| d.firmware != TARGET)
    );
}

#[test]
fn a_task_leaves_the_history_of_its_session() {
    let mut bench = Bench::new(fleet(4, PackageVersion::V2, 0.2), PackageVersion::V2);
    let task = bench.start_task(10_000, SuccessCriterion::Running);
    let begun = bench.tasks[&task].clone();
    assert!(
        begun
            .expected_end
            .is_some_and(|at| at > begun.started_at.unwrap())
    );
    let ended = bench.run(&task);
    let session = bench.sessions.values().next().unwrap();
    assert!(!session.rounds.is_empty());
    for (number, round) in (1..).zip(&session.rounds) {
        assert_eq!(round.number, number);
        assert!(round.coded_sent <= session.coded_sent);
    }
    // Every device showed at least once what it holds, and at first something was missing.
    let answers: u32 = session.rounds.iter().map(|round| round.answers).sum();
    assert!(answers >= 4, "{:?}", session.rounds);
    assert!(session.rounds.iter().any(|round| round.deficit_max > 0));
    let polls = session.rounds.windows(2);
    assert!(polls.into_iter().all(|pair| pair[0].at <= pair[1].at));
    let airtime: u64 = bench
        .sessions
        .values()
        .flat_map(|session| session.airtime_us.values())
        .sum();
    assert_eq!(airtime, ended.counters.multicast_airtime_us);
    for device in bench.devices.values() {
        let latest = device.entered.values().max().unwrap();
        assert!(device.changed_at >= *latest, "{device:?}");
    }
}

#[test]
fn a_device_knows_the_group_that_brought_it() {
    let mut bench = Bench::new(fleet(2, PackageVersion::V2, 0.0), PackageVersion::V2);
    bench.devices_by_themselves = vec![DevEui(1)];
    bench.groups = vec![MulticastGroup {
        tenant: TenantId::default(),
        id: "hall".to_owned(),
        display_name: String::new(),
        region: Region::Eu868,
        class: DeviceClass::C,
        data_rate: None,
        frequency_hz: None,
        devices: [DevEui(1), DevEui(2)].into(),
        tags: BTreeMap::new(),
        created_at: start(),
        updated_at: start(),
    }];
    let task = bench.start_task(4096, SuccessCriterion::Running);
    let mut slots = BTreeMap::new();
    while !bench.tasks[&task].state.is_terminal() {
        bench.now = bench.now.max(bench.engine.wake().unwrap());
        bench.step(vec![]);
        for (dev_eui, status) in &bench.statuses {
            if let Some(slot) = &status.mc_slots[0] {
                slots.insert(*dev_eui, slot.group.clone());
            }
        }
    }
    let hall = Some("hall".to_owned());
    assert_eq!(bench.devices[&DevEui(1)].group, None);
    assert_eq!(bench.devices[&DevEui(2)].group, hall);
    assert_eq!(
        slots,
        BTreeMap::from([(DevEui(1), None), (DevEui(2), hall)])
    );
}

#[test]
fn a_running_task_may_be_renamed() {
    let mut bench = Bench::new(fleet(1, PackageVersion::V2, 0.0), PackageVersion::V2);
    let task = bench.start_task(4096, SuccessCriterion::Running);
    bench.now += second(5);
    let tags = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
    let describe = |task: &str| Command::DescribeTask {
        task: TaskId(task.to_owned()),
        display_name: "spring".to_owned(),
        tags: tags.clone(),
    };
    assert!(bench.step(vec![describe("none")])[0].is_err());
    bench.step(vec![describe("t")]).pop().unwrap().unwrap();
    let renamed = &bench.tasks[&task];
    assert_eq!(
        (renamed.display_name.as_str(), &renamed.tags),
        ("spring", &tags)
    );
    assert_eq!(renamed.updated_at, bench.now);
    assert_eq!(bench.run(&task).display_name, "spring");
}
