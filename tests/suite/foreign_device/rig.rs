//! A foreign device stack on a radio of ours, in the air of the native server: what the device sends is heard by the
//! server's gateway, what the gateway is told to send reaches the device if it listens there and then.

use std::time::Duration;

use lorawan_device::default_crypto::DefaultFactory;
use lorawan_device::nb_device::radio::{Event as RadioEvent, PhyRxTx, Response as RadioResponse};
use lorawan_device::nb_device::radio::{RfConfig, RxQuality, TxConfig};
use lorawan_device::nb_device::{Device, Event, Response};
use lorawan_device::region::{Configuration, DR, Region as TheirRegion};
use lorawan_device::{AppEui, AppKey, AppSKey, DevAddr, DevEui, JoinMode, NewSKey, Timings};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::network::native::semtech::{
    DownDatagram, Received, RxPacket, TxPacket, UpDatagram,
};
use lorawan_fuota::network::native::{GatewayCommand, GatewayMessage, ReceivedFrame, When};
use lorawan_fuota::record::{NetworkRequest, Session};
use lorawan_fuota::time::Timestamp;

use crate::native_net::{APP_KEY, DEVICE, JOIN_EUI, Net, Step, counter, eui, session};

/// The window is tried at its exact start only: a frame a millisecond beside it is not received.
const WINDOW_MS: u32 = 0;
/// How long the server waits for copies before it takes an uplink in.
const DEDUPLICATION: Duration = Duration::from_millis(200);

/// A radio that keeps what it is told and hands out what the test puts in.
#[derive(Debug, Default)]
pub(super) struct Radio {
    now_ms: u32,
    sent: Option<(TxConfig, Vec<u8>)>,
    listening: Option<RfConfig>,
    received: Vec<u8>,
}

impl PhyRxTx for Radio {
    type PhyEvent = Vec<u8>;
    type PhyError = &'static str;
    type PhyResponse = ();

    const MAX_RADIO_POWER: u8 = 26;

    fn get_mut_radio(&mut self) -> &mut Self {
        self
    }

    fn get_received_packet(&mut self) -> &mut [u8] {
        &mut self.received
    }

    fn handle_event(
        &mut self,
        event: RadioEvent<'_, Self>,
    ) -> Result<RadioResponse<Self>, Self::PhyError> {
        match event {
            RadioEvent::TxRequest(config, bytes) => {
                self.sent = Some((config, bytes.to_vec()));
                Ok(RadioResponse::TxDone(self.now_ms))
            }
            RadioEvent::RxRequest(config) => {
                self.listening = Some(config);
                Ok(RadioResponse::Rxing)
            }
            RadioEvent::CancelRx => {
                self.listening = None;
                Ok(RadioResponse::Idle)
            }
            RadioEvent::Phy(bytes) => {
                self.received = bytes;
                Ok(RadioResponse::RxDone(RxQuality::new(-90, 5)))
            }
        }
    }
}

impl Timings for Radio {
    fn get_rx_window_offset_ms(&self) -> i32 {
        0
    }

    fn get_rx_window_duration_ms(&self) -> u32 {
        WINDOW_MS
    }
}

/// The device's generator: a fixed sequence (Weyl's, mixed), so that every run is the same.
#[derive(Debug)]
pub(super) struct Rng(u64);

impl rand_core::RngCore for Rng {
    fn next_u32(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next_u64().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 29)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for byte in dest {
            [*byte, ..] = self.next_u32().to_be_bytes();
        }
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

/// What the device sent and when its radio was done, in server time.
#[derive(Clone, Debug)]
pub(super) struct Uttered {
    pub(super) bytes: Vec<u8>,
    pub(super) frequency_hz: u32,
    pub(super) data_rate: String,
    pub(super) ended_at: Timestamp,
    /// When the device wants to be woken for RX1.
    rx1_ms: u32,
}

impl Uttered {
    /// When RX2 of a data uplink opens.
    pub(super) fn rx2_ms(&self) -> u32 {
        self.rx1_ms + 1000
    }
}

/// A frame on its way to the device.
#[derive(Clone, Debug)]
pub(super) struct Airborne {
    pub(super) start_ms: u32,
    pub(super) frequency_hz: u32,
    pub(super) data_rate: String,
    pub(super) bytes: Vec<u8>,
}

/// What the device made of the frames of its windows.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The stack's last word.
    pub(super) response: Response,
    /// 1 or 2: the window in which a frame was taken.
    pub(super) window: Option<u8>,
    /// Frames that were received and not taken.
    pub(super) refused: usize,
    /// Port and payload handed to the application.
    pub(super) downlink: Option<(u8, Vec<u8>)>,
}

/// A server, its gateway 1, and the foreign device.
pub(super) struct Rig {
    pub(super) net: Net,
    pub(super) device: Device<Radio, DefaultFactory, Rng, 256>,
}

impl Rig {
    /// A device of the region that has neither session nor keys yet.
    pub(super) fn new(net: Net, region: Region) -> Self {
        let theirs = match region {
            Region::Us915 => TheirRegion::US915,
            _ => TheirRegion::EU868,
        };
        let mut device = Device::new(Configuration::new(theirs), Radio::default(), Rng(1));
        // The fastest at which the answer in RX1 has its own data rate in both directions.
        device.set_datarate(match region {
            Region::Us915 => DR::_3,
            _ => DR::_5,
        });
        Self { net, device }
    }

    /// A device with a session from production (ABP), known to the server.
    pub(super) fn personalised(region: Region) -> (Self, Session) {
        let mut net = Net::new(1);
        net.add(DEVICE, region);
        // The stack takes counter 0 again and again, so the first frame that comes down has 1.
        let mut session = session(1, region);
        (session.f_cnt_up, session.next_f_cnt_down) = (None, 1);
        net.import(DEVICE, session.clone());
        let mut rig = Self::new(net, region);
        let activated = rig.device.join(JoinMode::ABP {
            newskey: NewSKey::from(*session.nwk_s_key.as_bytes()),
            appskey: AppSKey::from(*session.app_s_key.as_bytes()),
            devaddr: DevAddr::new(session.dev_addr.0.to_le_bytes()).unwrap(),
        });
        assert!(matches!(activated, Ok(Response::JoinSuccess)));
        (rig, session)
    }

    /// The device asks to join.
    pub(super) fn ask_to_join(&mut self) -> Uttered {
        let credentials = JoinMode::OTAA {
            deveui: DevEui::from(DEVICE.0.to_le_bytes()),
            appeui: AppEui::from(JOIN_EUI.0.to_le_bytes()),
            appkey: AppKey::from(APP_KEY),
        };
        self.set_clock();
        let response = self.device.join(credentials).unwrap();
        self.uttered(&response)
    }

    /// The device sends an application's payload.
    pub(super) fn say(&mut self, f_port: u8, payload: &[u8], confirmed: bool) -> Uttered {
        self.set_clock();
        let response = self.device.send(payload, f_port, confirmed).unwrap();
        self.uttered(&response)
    }

    /// The gateway hears the device; `after` its end the server works, with these requests.
    pub(super) fn serve_after(
        &mut self,
        uttered: &Uttered,
        after: Duration,
        requests: Vec<NetworkRequest>,
    ) -> Step {
        let heard = self.heard(uttered);
        let mut all = self.net.step(vec![heard], vec![]);
        self.net.now = uttered.ended_at + after;
        all.add(self.net.step(vec![], requests));
        all
    }

    /// The gateway hears the device and the server works as soon as it may.
    pub(super) fn serve(&mut self, uttered: &Uttered, requests: Vec<NetworkRequest>) -> Step {
        self.serve_after(uttered, DEDUPLICATION, requests)
    }

    /// The device's receive windows pass with these frames in the air; half a minute goes by.
    pub(super) fn listen(&mut self, uttered: &Uttered, air: &[Airborne]) -> Outcome {
        let mut outcome = Outcome {
            response: Response::NoUpdate,
            window: None,
            refused: 0,
            downlink: None,
        };
        let mut open_ms = uttered.rx1_ms;
        for window in 1..=2 {
            assert!(matches!(
                self.device.handle_event(Event::TimeoutFired),
                Ok(Response::TimeoutRequest(at)) if at == open_ms + WINDOW_MS
            ));
            let listening = self.device.get_radio().listening.unwrap();
            let heard = air.iter().filter(|frame| {
                (frame.start_ms, frame.frequency_hz) == (open_ms, listening.frequency)
                    && frame.data_rate == data_rate(&listening)
            });
            for frame in heard {
                let event = RadioEvent::Phy(frame.bytes.clone());
                match self.device.handle_event(Event::RadioEvent(event)).unwrap() {
                    Response::NoUpdate => outcome.refused += 1,
                    response => {
                        (outcome.response, outcome.window) = (response, Some(window));
                        break;
                    }
                }
            }
            if outcome.window.is_some() {
                break;
            }
            match self.device.handle_event(Event::TimeoutFired).unwrap() {
                Response::TimeoutRequest(at) => open_ms = at,
                response => outcome.response = response,
            }
        }
        outcome.downlink = self
            .device
            .take_downlink()
            .map(|downlink| (downlink.fport, downlink.data.to_vec()));
        self.net.now = uttered.ended_at + Duration::from_secs(30);
        self.net.keep_alive();
        outcome
    }

    /// What of this step goes on air, as the gateway reads it from the `PULL_RESP`.
    pub(super) fn air(&self, uttered: &Uttered, step: &Step) -> Vec<Airborne> {
        let commands = step.commands.iter();
        commands.map(|command| airborne(uttered, command)).collect()
    }

    fn set_clock(&mut self) {
        let now_ms = milliseconds(self.net.now);
        self.device.get_radio().now_ms = now_ms;
    }

    fn uttered(&mut self, response: &Response) -> Uttered {
        let &Response::TimeoutRequest(rx1_ms) = response else {
            panic!("{response:?}")
        };
        let (config, bytes) = self.device.get_radio().sent.take().unwrap();
        Uttered {
            bytes,
            frequency_hz: config.rf.frequency,
            data_rate: data_rate(&config.rf),
            ended_at: self.net.now,
            rx1_ms,
        }
    }

    /// The uplink as the gateway writes it into a `PUSH_DATA` and the server reads it.
    fn heard(&self, uttered: &Uttered) -> GatewayMessage {
        let gateway = eui(1);
        let packet = RxPacket {
            counter_us: counter(1, uttered.ended_at),
            frequency_hz: uttered.frequency_hz,
            data_rate: uttered.data_rate.parse().unwrap(),
            rssi_dbm: -90,
            snr_db: 5.0,
            gps: None,
            phy_payload: uttered.bytes.clone(),
        };
        let datagram = UpDatagram::PushData {
            token: 1,
            gateway,
            received: Received {
                frames: vec![packet],
                ..Default::default()
            },
        };
        let Ok(UpDatagram::PushData { received, .. }) = UpDatagram::decode(&datagram.encode())
        else {
            panic!("no PUSH_DATA")
        };
        let packet = received.frames.into_iter().next().unwrap();
        GatewayMessage::Received(ReceivedFrame {
            gateway,
            at: uttered.ended_at,
            counter_us: packet.counter_us,
            frequency_hz: packet.frequency_hz,
            data_rate: packet.data_rate,
            rssi_dbm: packet.rssi_dbm,
            snr_db: packet.snr_db,
            gps: packet.gps,
            phy_payload: packet.phy_payload,
        })
    }
}

fn airborne(uttered: &Uttered, command: &GatewayCommand) -> Airborne {
    let packet = TxPacket {
        when: command.when,
        frequency_hz: command.frequency_hz,
        data_rate: command.data_rate,
        power_dbm: command.power_dbm,
        phy_payload: command.phy_payload.clone(),
    };
    let datagram = DownDatagram::PullResp { token: 1, packet }.encode();
    let Ok(DownDatagram::PullResp { packet, .. }) = DownDatagram::decode(&datagram) else {
        panic!("no PULL_RESP")
    };
    let When::Counter(start) = packet.when else {
        panic!("not timed")
    };
    let delay_us = start.wrapping_sub(counter(1, uttered.ended_at));
    assert_eq!(delay_us % 1000, 0);
    Airborne {
        start_ms: milliseconds(uttered.ended_at).wrapping_add(delay_us / 1000),
        frequency_hz: packet.frequency_hz,
        data_rate: packet.data_rate.to_string(),
        bytes: packet.phy_payload,
    }
}

/// The device's clock: milliseconds of server time, as many as it counts.
fn milliseconds(at: Timestamp) -> u32 {
    u32::try_from((at.as_micros() / 1000).rem_euclid(1 << 31)).unwrap()
}

fn data_rate(config: &RfConfig) -> String {
    format!("SF{}BW{}", config.bb.sf.factor(), config.bb.bw.hz() / 1000)
}
