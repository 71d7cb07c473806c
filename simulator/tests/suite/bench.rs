//! A server made by hand: builds every frame itself, knows one device, and talks to it in its receive windows.

use std::time::Duration;

use fuota_simulator::device::{DeviceConfig, DeviceOutput, EndDevice, Uplink};
use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::frame::{DataFields, DataFrame, Direction, FCtrl, Frame};
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, JoinEui};
use lorawan_fuota::lorawan::join::{DlSettings, JoinAccept, session_keys};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::mac_commands::{DownlinkMacCommand, UplinkMacCommand};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::Timestamp;

use fuota_simulator::device::Activation;

pub(crate) const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
pub(crate) const GEN_APP_KEY: Key128 = Key128::from_bytes([3; 16]);
pub(crate) const MC_KEY: Key128 = Key128::from_bytes([7; 16]);
pub(crate) const MC_ADDR: DevAddr = DevAddr(0x01ff_0001);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
const APP_KEY: Key128 = Key128::from_bytes([9; 16]);
const NWK_S_KEY: Key128 = Key128::from_bytes([1; 16]);
const APP_S_KEY: Key128 = Key128::from_bytes([2; 16]);

/// A decrypted uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) f_cnt: u16,
    pub(crate) ack: bool,
    pub(crate) confirmed: bool,
    pub(crate) f_port: Option<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) mac: Vec<UplinkMacCommand>,
    pub(crate) frequency_hz: u32,
    pub(crate) data_rate: DataRate,
    pub(crate) end: Timestamp,
}

pub(crate) struct Bench {
    pub(crate) device: EndDevice,
    pub(crate) now: Timestamp,
    pub(crate) f_cnt_down: u32,
    dev_addr: DevAddr,
    nwk_s_key: Key128,
    app_s_key: Key128,
    pub(crate) joins: u32,
    pub(crate) heard: Vec<Heard>,
}

pub(crate) fn abp() -> DeviceConfig {
    let activation = Activation::Abp {
        dev_addr: DevAddr(0x2601_0001),
        nwk_s_key: NWK_S_KEY,
        app_s_key: APP_S_KEY,
    };
    DeviceConfig::new(DevEui(1), Region::Eu868, activation, GEN_APP_KEY)
}

pub(crate) fn otaa() -> DeviceConfig {
    let activation = Activation::Otaa {
        join_eui: JoinEui(5),
        app_key: APP_KEY,
        first_dev_nonce: 0,
    };
    DeviceConfig::new(DevEui(1), Region::Eu868, activation, GEN_APP_KEY)
}

impl Bench {
    pub(crate) fn new(config: DeviceConfig, seed: u64) -> Self {
        Self {
            device: EndDevice::new(config, seed, START),
            now: START,
            f_cnt_down: 0,
            dev_addr: DevAddr(0x2601_0001),
            nwk_s_key: NWK_S_KEY,
            app_s_key: APP_S_KEY,
            joins: 0,
            heard: Vec::new(),
        }
    }

    /// Runs until the device sends, answers joins and requests for the time, and returns the next data uplink before
    /// `limit`. Time stands at its end.
    pub(crate) fn next_uplink_before(&mut self, limit: Timestamp) -> Option<Heard> {
        loop {
            let next = self.device.next_event()?.max(self.now);
            if next >= limit {
                return None;
            }
            self.now = next;
            let Some(DeviceOutput::Transmit(uplink)) = self.device.advance(next).pop() else {
                // Nothing came of it: give the next event room, as a world does.
                self.now = next + Duration::from_millis(1);
                continue;
            };
            let end = next + uplink.airtime;
            self.now = end;
            match Frame::parse(&uplink.phy_payload).unwrap() {
                Frame::JoinRequest(request) => {
                    assert!(request.verify_mic(&APP_KEY));
                    self.answer_join(&uplink, request.dev_nonce);
                }
                Frame::Data(frame) => {
                    let heard = self.open(&uplink, &frame);
                    self.heard.push(heard.clone());
                    if heard.mac.contains(&UplinkMacCommand::DeviceTimeReq) {
                        self.answer_time(&heard);
                    }
                    return Some(heard);
                }
                Frame::JoinAccept(_) => panic!("a device sent a join-accept"),
            }
        }
    }

    pub(crate) fn next_uplink(&mut self) -> Heard {
        let limit = self.now + SECOND * 7200;
        self.next_uplink_before(limit).expect("the device sends")
    }

    /// The next uplink on a port.
    pub(crate) fn next_on(&mut self, f_port: u8) -> Heard {
        for _ in 0..100 {
            let heard = self.next_uplink();
            if heard.f_port == Some(f_port) {
                return heard;
            }
        }
        panic!("nothing on port {f_port}: {}", self.device.log());
    }

    /// Waits for an uplink and sends commands in its RX1; returns the answer on the same port.
    pub(crate) fn ask(&mut self, f_port: u8, payload: &[u8]) -> Vec<u8> {
        self.tell(f_port, payload);
        self.next_on(f_port).payload
    }

    /// Waits for an uplink and sends commands in its RX1.
    pub(crate) fn tell(&mut self, f_port: u8, payload: &[u8]) {
        let heard = self.next_uplink();
        assert!(self.rx1(&heard, f_port, payload, Duration::ZERO));
    }

    /// Sends in RX1 of an uplink, so much later; whether the device heard it.
    pub(crate) fn rx1(
        &mut self,
        uplink: &Heard,
        f_port: u8,
        payload: &[u8],
        late: Duration,
    ) -> bool {
        let frame = self.downlink(Some(f_port), payload, &[], false);
        self.send_in_rx1(uplink, &frame, late)
    }

    pub(crate) fn send_in_rx1(&mut self, uplink: &Heard, frame: &[u8], late: Duration) -> bool {
        let start = uplink.end + SECOND + late;
        self.on_air(uplink.frequency_hz, uplink.data_rate, start, frame)
    }

    /// A unicast downlink with the next counter.
    pub(crate) fn downlink(
        &mut self,
        f_port: Option<u8>,
        payload: &[u8],
        f_opts: &[u8],
        confirmed: bool,
    ) -> Vec<u8> {
        let f_cnt = self.f_cnt_down;
        self.f_cnt_down += 1;
        DataFields {
            direction: Direction::Downlink,
            confirmed,
            dev_addr: self.dev_addr,
            f_ctrl: FCtrl::default(),
            f_cnt,
            f_opts,
            f_port,
            payload,
        }
        .build(&self.nwk_s_key, &self.app_s_key)
        .unwrap()
    }

    /// Puts a frame on air; whether the device heard it. Time moves to its end, and to its start the device must not
    /// have had anything to do.
    pub(crate) fn on_air(
        &mut self,
        frequency_hz: u32,
        data_rate: DataRate,
        start: Timestamp,
        frame: &[u8],
    ) -> bool {
        let length = u8::try_from(frame.len()).unwrap();
        let air_us = data_rate.time_on_air_us(length, Direction::Downlink);
        let end = start + Duration::from_micros(air_us.into());
        self.now = self.now.max(end);
        if !self.device.hears(frequency_hz, data_rate, start, end) {
            return false;
        }
        self.device
            .start_receiving(frequency_hz, data_rate, start, end);
        self.device.receive(end, frame);
        true
    }

    fn open(&self, uplink: &Uplink, frame: &DataFrame) -> Heard {
        assert_eq!(frame.dev_addr, self.dev_addr);
        let payload = frame
            .open(&self.nwk_s_key, &self.app_s_key, frame.f_cnt.into())
            .unwrap();
        let mac = UplinkMacCommand::parse_all(&frame.f_opts);
        assert_eq!(mac.unread, 0);
        Heard {
            f_cnt: frame.f_cnt,
            ack: frame.f_ctrl.ack,
            confirmed: frame.confirmed,
            f_port: frame.f_port,
            payload,
            mac: mac.commands,
            frequency_hz: uplink.frequency_hz,
            data_rate: uplink.data_rate,
            end: self.now,
        }
    }

    fn answer_join(&mut self, uplink: &Uplink, dev_nonce: u16) {
        self.joins += 1;
        let accept = JoinAccept {
            join_nonce: self.joins,
            net_id: 0x13,
            dev_addr: DevAddr(0x2601_0100 + self.joins),
            dl_settings: DlSettings {
                rx1_dr_offset: 0,
                rx2_data_rate: 0,
            },
            rx_delay: 1,
            cf_list: None,
        };
        let frame = accept.build(&APP_KEY).unwrap();
        let start = self.now + SECOND * 5;
        assert!(self.on_air(uplink.frequency_hz, uplink.data_rate, start, &frame));
        let (nwk_s_key, app_s_key) = session_keys(&APP_KEY, &accept, dev_nonce);
        self.dev_addr = accept.dev_addr;
        self.nwk_s_key = nwk_s_key;
        self.app_s_key = app_s_key;
        self.f_cnt_down = 0;
    }

    fn answer_time(&mut self, heard: &Heard) {
        let gps = heard.end.to_gps();
        let mut f_opts = Vec::new();
        DownlinkMacCommand::DeviceTimeAns {
            gps_seconds: gps.wire_seconds(),
            fraction: u8::try_from(gps.as_micros().rem_euclid(1_000_000) * 256 / 1_000_000)
                .unwrap(),
        }
        .encode(&mut f_opts);
        let frame = self.downlink(None, &[], &f_opts, false);
        assert!(self.send_in_rx1(heard, &frame, Duration::ZERO));
    }
}

/// A multicast downlink of the group all tests use.
pub(crate) fn mc_downlink(f_cnt: u32, f_port: u8, payload: &[u8]) -> Vec<u8> {
    use lorawan_fuota::lorawan::keys::{mc_app_s_key, mc_nwk_s_key};
    DataFields {
        direction: Direction::Downlink,
        confirmed: false,
        dev_addr: MC_ADDR,
        f_ctrl: FCtrl::default(),
        f_cnt,
        f_opts: &[],
        f_port: Some(f_port),
        payload,
    }
    .build(
        &mc_nwk_s_key(&MC_KEY, MC_ADDR),
        &mc_app_s_key(&MC_KEY, MC_ADDR),
    )
    .unwrap()
}
