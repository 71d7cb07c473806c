//! A network for the tests of the native server: gateways that say what the test says, a clock that stands still, and a
//! store of what was committed.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::frame::{DataFields, DataFrame, Direction, FCtrl};
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, GatewayEui, JoinEui};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::network::native::{
    GatewayCommand, GatewayMessage, Native, NativeConfig, ReceivedFrame,
};
use lorawan_fuota::network::{DeviceLink, Network, NetworkCommand, NetworkEvent};
use lorawan_fuota::record::{
    AirLedger, Change, DeviceClass, Downlink, DownlinkId, Gateway, GatewaySettings, GatewayStatus,
    Heard, McGroup, NetworkRequest, Refusal, Session, SessionId, Snapshot, Target, TaskId,
    TxOutcome, TxReport, Uplink, UplinkRef,
};
use lorawan_fuota::time::Timestamp;

pub(super) const APP_KEY: [u8; 16] = [0x11; 16];
pub(super) const MC_KEY: [u8; 16] = [0x22; 16];
pub(super) const JOIN_EUI: JoinEui = JoinEui(0x70b3_d57e_d000_0001);
pub(super) const DEVICE: DevEui = DevEui(0x0101);
pub(super) const MC_ADDR: DevAddr = DevAddr(0x01ff_0001);
const START_S: i64 = 1_700_000_040;

/// What one step did.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) events: Vec<NetworkEvent>,
    pub(super) changes: Vec<Change>,
    pub(super) commands: Vec<GatewayCommand>,
}

impl Step {
    pub(super) fn add(&mut self, later: Self) {
        self.events.extend(later.events);
        self.changes.extend(later.changes);
        self.commands.extend(later.commands);
    }

    pub(super) fn uplinks(&self) -> Vec<&Uplink> {
        self.events
            .iter()
            .filter_map(|event| match event {
                NetworkEvent::Heard(Heard::Uplink(uplink)) => Some(uplink),
                _ => None,
            })
            .collect()
    }

    pub(super) fn reports(&self) -> Vec<&TxReport> {
        self.events
            .iter()
            .filter_map(|event| match event {
                NetworkEvent::Report(report) => Some(report),
                _ => None,
            })
            .collect()
    }

    pub(super) fn outcome(&self) -> TxOutcome {
        match self.reports().as_slice() {
            [report] => report.outcomes[0].outcome,
            other => panic!("{other:?}"),
        }
    }
}

/// A network with gateways that say what the test says, and a store of what it committed.
pub(super) struct Net {
    pub(super) native: Native,
    pub(super) now: Timestamp,
    pub(super) stored: Snapshot,
    pub(super) ledgers: BTreeMap<(GatewayEui, u8), AirLedger>,
    next_id: u32,
}

pub(super) fn eui(n: u64) -> GatewayEui {
    GatewayEui(n)
}

pub(super) fn session_id() -> SessionId {
    SessionId {
        task: TaskId("t".to_owned()),
        number: 0,
    }
}

pub(super) fn gateway_settings(n: u64) -> GatewaySettings {
    GatewaySettings {
        region: Region::Eu868,
        eui: eui(n),
        display_name: String::new(),
        position: None,
        antenna_gain_dbi: 3.0,
        cable_loss_db: 0.5,
        max_eirp_dbm: None,
        gps: false,
        beaconing: false,
        lead_time: Duration::from_millis(300),
        air_share_permille: 1000,
        created_at: Timestamp::default(),
        tags: BTreeMap::new(),
        updated_at: Timestamp::default(),
    }
}

pub(super) fn session(n: u8, region: Region) -> Session {
    let (rx2_frequency_hz, rx2_dr) = region.rx2();
    Session {
        dev_addr: DevAddr(0x0100_0000 | u32::from(n)),
        nwk_s_key: Key128::from_bytes([n; 16]),
        app_s_key: Key128::from_bytes([n ^ 0x80; 16]),
        f_cnt_up: Some(9),
        next_f_cnt_down: 5,
        rx1_delay_s: 1,
        rx1_dr_offset: 0,
        rx2_dr,
        rx2_frequency_hz,
        activated_at: Timestamp::default(),
        imported: true,
    }
}

/// An uplink in the words of the test.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) session: Session,
    pub(super) f_cnt: u32,
    pub(super) confirmed: bool,
    pub(super) f_ctrl: FCtrl,
    pub(super) f_opts: Vec<u8>,
    pub(super) frequency_hz: u32,
    pub(super) data_rate: &'static str,
}

pub(super) fn said(session: &Session, f_cnt: u32) -> Said {
    Said {
        session: session.clone(),
        f_cnt,
        confirmed: false,
        f_ctrl: FCtrl::default(),
        f_opts: Vec::new(),
        frequency_hz: 868_100_000,
        data_rate: "SF7BW125",
    }
}

impl Said {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let fields = DataFields {
            direction: Direction::Uplink,
            confirmed: self.confirmed,
            dev_addr: self.session.dev_addr,
            f_ctrl: self.f_ctrl,
            f_cnt: self.f_cnt,
            f_opts: &self.f_opts,
            f_port: Some(10),
            payload: b"up",
        };
        fields
            .build(&self.session.nwk_s_key, &self.session.app_s_key)
            .unwrap()
    }
}

impl Net {
    pub(super) fn new(gateways: u64) -> Self {
        let snapshot = Snapshot {
            gateways: (1..=gateways)
                .map(|n| Gateway {
                    settings: gateway_settings(n),
                    status: GatewayStatus::default(),
                })
                .collect(),
            ..Snapshot::default()
        };
        let mut net = Self {
            native: Native::restore(NativeConfig::default(), &snapshot),
            now: Timestamp::from_unix_seconds(START_S),
            stored: snapshot,
            ledgers: BTreeMap::new(),
            next_id: 0,
        };
        net.keep_alive();
        net
    }

    /// With one device, its session imported.
    pub(super) fn with_device(gateways: u64, region: Region) -> (Self, Session) {
        let mut net = Self::new(gateways);
        net.add(DEVICE, region);
        let session = session(1, region);
        net.import(DEVICE, session.clone());
        (net, session)
    }

    pub(super) fn add(&mut self, dev_eui: DevEui, region: Region) {
        self.put_device(dev_eui, region, |_| {});
    }

    pub(super) fn put_device(
        &mut self,
        dev_eui: DevEui,
        region: Region,
        change: fn(&mut DeviceLink),
    ) {
        let mut link = DeviceLink {
            region,
            always_class_c: false,
            f_cnt_reset_allowed: false,
        };
        change(&mut link);
        self.native
            .apply(&NetworkCommand::PutDevice { dev_eui, link });
    }

    pub(super) fn import(&mut self, dev_eui: DevEui, session: Session) {
        self.native
            .apply(&NetworkCommand::PutSession(dev_eui, session));
    }

    pub(super) fn keep_alive(&mut self) {
        let at = self.now;
        let alive = self.stored.gateways.iter().map(|gateway| {
            let gateway = gateway.settings.eui;
            GatewayMessage::Alive { gateway, at }
        });
        let alive = alive.collect();
        self.step(alive, Vec::new());
    }

    /// A step at the time it is: inputs, requests, commit.
    pub(super) fn step(
        &mut self,
        inbound: Vec<GatewayMessage>,
        requests: Vec<NetworkRequest>,
    ) -> Step {
        let events = self.native.listen(self.now, inbound);
        let sending = self.native.send(self.now, requests);
        for change in &sending.changes {
            match change {
                Change::PutAirLedger(ledger) => {
                    let key = (ledger.gateway, ledger.sub_band);
                    self.ledgers.insert(key, ledger.clone());
                }
                Change::PutMcGroup(group) => self.stored.mc_groups = vec![group.clone()],
                _ => {}
            }
        }
        Step {
            events,
            changes: sending.changes,
            commands: sending.outbound,
        }
    }

    /// Lets time pass, stepping whenever something is due; returns all that happened. Nothing may be due twice at once.
    pub(super) fn run(&mut self, for_time: Duration) -> Step {
        let end = self.now + for_time;
        let mut all = Step::default();
        for _ in 0..100_000 {
            let Some(at) = self.native.wake().filter(|&at| at <= end) else {
                self.now = end;
                return all;
            };
            self.now = self.now.max(at);
            all.add(self.step(Vec::new(), Vec::new()));
        }
        panic!("something stays due");
    }

    /// What gateway `n` says when it hears these bytes now. Its counter runs with server time.
    pub(super) fn heard(
        &self,
        n: u64,
        bytes: &[u8],
        frequency_hz: u32,
        rate: &str,
        snr: f32,
    ) -> GatewayMessage {
        GatewayMessage::Received(ReceivedFrame {
            gateway: eui(n),
            at: self.now,
            counter_us: counter(n, self.now),
            frequency_hz,
            data_rate: rate.parse().unwrap(),
            rssi_dbm: -90,
            snr_db: snr,
            gps: None,
            phy_payload: bytes.to_vec(),
        })
    }

    pub(super) fn uplink(&mut self, said: &Said) -> Step {
        self.uplink_at(said, &[(1, 5.0)], Vec::new())
    }

    /// An uplink heard by gateways with their SNR; `requests` are made in the step that accepts it.
    pub(super) fn uplink_at(
        &mut self,
        said: &Said,
        by: &[(u64, f32)],
        requests: Vec<NetworkRequest>,
    ) -> Step {
        let bytes = said.bytes();
        let heard = by
            .iter()
            .map(|&(n, snr)| self.heard(n, &bytes, said.frequency_hz, said.data_rate, snr));
        let heard = heard.collect();
        let mut all = self.step(heard, Vec::new());
        self.now += NativeConfig::default().deduplication_window;
        all.add(self.step(Vec::new(), requests));
        all
    }

    pub(super) fn downlink(
        &mut self,
        target: Target,
        answers: Option<UplinkRef>,
        length: usize,
    ) -> Downlink {
        self.next_id += 1;
        Downlink {
            more: false,
            id: DownlinkId {
                owner: 1,
                number: self.next_id,
            },
            target,
            f_port: 200,
            payload: vec![0xab; length],
            answers,
            earliest: self.now,
            deadline: self.now + Duration::from_secs(3600),
        }
    }

    pub(super) fn answer(&mut self, f_cnt: u32, length: usize) -> NetworkRequest {
        let uplink = UplinkRef {
            dev_eui: DEVICE,
            f_cnt,
        };
        NetworkRequest::Send(self.downlink(Target::Device(DEVICE), Some(uplink), length))
    }

    pub(super) fn group_frame(&mut self, length: usize) -> NetworkRequest {
        NetworkRequest::Send(self.downlink(Target::Group(session_id()), None, length))
    }

    pub(super) fn ack(&mut self, command: &GatewayCommand, result: Result<(), Refusal>) -> Step {
        let ack = GatewayMessage::TxAck {
            gateway: command.gateway,
            id: command.id,
            result,
            at: self.now,
        };
        self.step(vec![ack], Vec::new())
    }

    /// A new server on what was committed.
    pub(super) fn restart(&mut self) {
        self.stored.ledgers = self.ledgers.values().cloned().collect();
        self.native = Native::restore(NativeConfig::default(), &self.stored);
        self.keep_alive();
    }
}

pub(super) fn counter(n: u64, at: Timestamp) -> u32 {
    let micros = at.as_micros().rem_euclid(1 << 32);
    u32::try_from(micros)
        .unwrap()
        .wrapping_add(u32::try_from(n).unwrap() * 1_000_000_007)
}

pub(super) fn mc_group(region: Region, gateways: u64) -> McGroup {
    McGroup {
        session: session_id(),
        mc_addr: MC_ADDR,
        mc_key: Key128::from_bytes(MC_KEY),
        next_mc_f_cnt: 0,
        region,
        class: DeviceClass::C,
        frequency_hz: region.default_multicast_hz(),
        data_rate: if region == Region::Us915 { 13 } else { 5 },
        gateways: (1..=gateways).map(eui).collect(),
        ping_slots: None,
        turns: BTreeMap::new(),
        kept: None,
    }
}

pub(super) fn open_down(
    command: &GatewayCommand,
    session: &Session,
    f_cnt: u32,
) -> (DataFrame, Vec<u8>) {
    let frame = DataFrame::parse(&command.phy_payload).unwrap();
    assert_eq!(
        (frame.direction, frame.confirmed),
        (Direction::Downlink, false)
    );
    let clear = frame.open(&session.nwk_s_key, &session.app_s_key, f_cnt);
    (frame, clear.unwrap())
}
pub(super) fn committed_session(step: &Step) -> &Session {
    step.changes
        .iter()
        .rev()
        .find_map(|change| match change {
            Change::PutSession(_, session) => Some(session),
            _ => None,
        })
        .unwrap()
}
