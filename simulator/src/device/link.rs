//! The link layer of a device: session, joining, frame counters, channels with their duty cycle, and when to send next.
//!
//! Uplinks are sent once. Class A windows and class C listening are in `radio`, MAC commands in `mac`.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::frame::{
    DataFields, DataFrame, Direction, FCtrl, FrameError, full_f_cnt,
};
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::lorawan::join::{CfList, EncryptedJoinAccept, JoinRequest, session_keys};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::Timestamp;

use crate::random::Random;

use super::config::{Activation, DeviceConfig};
use super::mac::{Parameters, rx1_delay};
use super::radio::{Listening, Radio, Window};

/// First wait after a join without an answer; doubled each time.
const JOIN_BACK_OFF: Duration = Duration::from_secs(6);
/// Longest such wait.
const JOIN_BACK_OFF_MAX: Duration = Duration::from_secs(3600);
/// Uplinks without a downlink after which a device with ADR asks for a sign of life (LoRaWAN 1.0.4 §4.3.1.1).
const ADR_ACK_LIMIT: u32 = 64;

/// A session with its counters.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) dev_addr: DevAddr,
    pub(super) nwk_s_key: Key128,
    pub(super) app_s_key: Key128,
    /// Counter of the next uplink.
    pub(super) f_cnt_up: u32,
    /// Counter of the last downlink accepted.
    pub(super) f_cnt_down: Option<u32>,
}

/// Why a unicast downlink was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    Replayed,
    WrongMic,
}

/// Joining: nonces are kept in flash.
#[derive(Clone, Debug)]
struct Joining {
    next_dev_nonce: u16,
    last_join_nonce: Option<u32>,
    /// `DevNonce` of the request that waits for its answer.
    pending: Option<u16>,
    attempts: u32,
    next_at: Timestamp,
}

/// The link layer.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) radio: Radio,
    pub(super) parameters: Parameters,
    pub(super) session: Option<Session>,
    joining: Joining,
    /// When each sub-band may be used again.
    bands_free_at: BTreeMap<u8, Timestamp>,
    frequencies_hz: Vec<u32>,
    /// The next downlink is to be acknowledged.
    pub(super) ack_due: bool,
    uplinks_since_downlink: u32,
}

/// Where and how the next uplink goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) frequency_hz: u32,
    pub(super) dr: u8,
    pub(super) data_rate: DataRate,
}

impl Link {
    pub(super) fn new(config: &DeviceConfig, start: Timestamp) -> Self {
        let (session, next_dev_nonce) = match &config.activation {
            Activation::Otaa {
                first_dev_nonce, ..
            } => (None, *first_dev_nonce),
            Activation::Abp {
                dev_addr,
                nwk_s_key,
                app_s_key,
            } => (Some(Session::new(*dev_addr, nwk_s_key, app_s_key)), 0),
        };
        Self {
            radio: Radio::default(),
            parameters: Parameters::new(config.region, config.uplinks.data_rate),
            session,
            joining: Joining {
                next_dev_nonce,
                last_join_nonce: None,
                pending: None,
                attempts: 0,
                next_at: start,
            },
            bands_free_at: BTreeMap::new(),
            frequencies_hz: config.uplinks.frequencies_hz.clone(),
            ack_due: false,
            uplinks_since_downlink: 0,
        }
    }

    /// Gives the session up; the next join is due at `at`.
    pub(super) fn leave(&mut self, config: &DeviceConfig, at: Timestamp) {
        self.session = None;
        self.parameters = Parameters::new(config.region, config.uplinks.data_rate);
        self.frequencies_hz
            .clone_from(&config.uplinks.frequencies_hz);
        self.joining.pending = None;
        self.joining.attempts = 0;
        self.joining.next_at = at;
    }

    /// RAM is lost: radio and acknowledgements.
    pub(super) fn reboot(&mut self) {
        self.radio = Radio::default();
        self.ack_due = false;
        self.uplinks_since_downlink = 0;
    }

    pub(super) fn next_join_at(&self) -> Timestamp {
        self.joining.next_at
    }

    /// When an uplink that is wanted at `wanted` can really leave.
    pub(super) fn sendable_at(&self, config: &DeviceConfig, wanted: Timestamp) -> Timestamp {
        let ready = self.radio.ready_at().map_or(wanted, |at| at.max(wanted));
        if !config.uplinks.keeps_duty_cycle {
            return ready;
        }
        let free = self
            .frequencies_hz
            .iter()
            .map(|&frequency_hz| self.free_at(config.region, frequency_hz))
            .min();
        free.flatten().map_or(ready, |at| at.max(ready))
    }

    /// Draws a channel that may be used now; `None` if the device has none at its data rate.
    pub(super) fn draw_channel(
        &self,
        config: &DeviceConfig,
        now: Timestamp,
        random: &mut Random,
    ) -> Option<Channel> {
        let dr = self.parameters.uplink_dr;
        let data_rate = config.region.data_rate(dr, Direction::Uplink)?;
        let free: Vec<u32> = self
            .frequencies_hz
            .iter()
            .copied()
            .filter(|&frequency_hz| {
                let free_at = self.free_at(config.region, frequency_hz);
                !config.uplinks.keeps_duty_cycle || free_at.is_none_or(|at| at <= now)
            })
            .collect();
        let frequency_hz = *free.get(random.index(free.len()))?;
        Some(Channel {
            frequency_hz,
            dr,
            data_rate,
        })
    }

    /// A data uplink of the session; counts it. `None` without a session or if it cannot be built.
    pub(super) fn build(&mut self, uplink: UplinkParts<'_>) -> Option<Vec<u8>> {
        let session = self.session.as_mut()?;
        let fields = DataFields {
            direction: Direction::Uplink,
            confirmed: uplink.confirmed,
            dev_addr: session.dev_addr,
            f_ctrl: FCtrl {
                adr: uplink.adr,
                adr_ack_req: uplink.adr && self.uplinks_since_downlink >= ADR_ACK_LIMIT,
                ack: self.ack_due,
                f_pending_or_class_b: false,
            },
            f_cnt: session.f_cnt_up,
            f_opts: uplink.f_opts,
            f_port: uplink.f_port,
            payload: uplink.payload,
        };
        let phy_payload = fields.build(&session.nwk_s_key, &session.app_s_key).ok()?;
        session.f_cnt_up = session.f_cnt_up.checked_add(1)?;
        self.ack_due = false;
        self.uplinks_since_downlink = self.uplinks_since_downlink.saturating_add(1);
        Some(phy_payload)
    }

    /// A join-request with a fresh `DevNonce`, and the time of the next should it fail. `None` for a device that cannot
    /// join.
    pub(super) fn build_join(
        &mut self,
        config: &DeviceConfig,
        now: Timestamp,
        random: &mut Random,
    ) -> Option<Vec<u8>> {
        let Activation::Otaa {
            join_eui, app_key, ..
        } = &config.activation
        else {
            return None;
        };
        let joining = &mut self.joining;
        let dev_nonce = joining.next_dev_nonce;
        joining.next_dev_nonce = dev_nonce.wrapping_add(1);
        joining.pending = Some(dev_nonce);
        let back_off = JOIN_BACK_OFF
            .saturating_mul(1 << joining.attempts.min(16))
            .min(JOIN_BACK_OFF_MAX);
        joining.attempts += 1;
        joining.next_at = now + random.around(back_off, 20);
        let request = JoinRequest::new(*join_eui, config.dev_eui, dev_nonce, app_key);
        Some(request.phy_payload().to_vec())
    }

    /// Notes that a frame leaves, and opens its windows.
    pub(super) fn sent(
        &mut self,
        config: &DeviceConfig,
        channel: Channel,
        start: Timestamp,
        air_time: Duration,
        is_join: bool,
    ) {
        let end = start + air_time;
        let (delay1, delay2) = if is_join {
            let (delay1, delay2) = config.region.join_accept_delays_us();
            (us(delay1), us(delay2))
        } else {
            let delay1 = self.parameters.rx1_delay;
            (delay1, delay1 + Duration::from_secs(1))
        };
        let windows = self.windows(config.region, channel, end + delay1, end + delay2);
        self.radio.sent(start, end, windows);
        if let Some(band) = config
            .region
            .sub_band(channel.frequency_hz, channel.data_rate.bandwidth_hz())
        {
            let permille = u32::from(band.duty_cycle_permille.max(1));
            let free_at = start + air_time * 1000 / permille;
            self.bands_free_at.insert(band.id, free_at);
        }
    }

    /// Takes a join-accept for the request that is pending. `Ok(false)` if it is a replay or none is pending.
    pub(super) fn accept(
        &mut self,
        config: &DeviceConfig,
        accept: &EncryptedJoinAccept,
    ) -> Result<bool, FrameError> {
        let Activation::Otaa { app_key, .. } = &config.activation else {
            return Ok(false);
        };
        let Some(dev_nonce) = self.joining.pending else {
            return Ok(false);
        };
        let accept = accept.open(app_key)?;
        if self.joining.last_join_nonce == Some(accept.join_nonce) {
            return Ok(false);
        }
        let (nwk_s_key, app_s_key) = session_keys(app_key, &accept, dev_nonce);
        self.session = Some(Session::new(accept.dev_addr, &nwk_s_key, &app_s_key));
        self.joining.last_join_nonce = Some(accept.join_nonce);
        self.joining.pending = None;
        self.joining.attempts = 0;
        let parameters = &mut self.parameters;
        parameters.rx1_delay = rx1_delay(accept.rx_delay);
        parameters.rx1_dr_offset = accept.dl_settings.rx1_dr_offset;
        parameters.rx2_dr = accept.dl_settings.rx2_data_rate;
        if let Some(CfList::Frequencies(frequencies_hz)) = accept.cf_list {
            self.add_channels(config.region, frequencies_hz);
        }
        self.radio.answered();
        Ok(true)
    }

    /// Checks counter and MIC of a downlink to the session and opens it.
    pub(super) fn open(&mut self, frame: &DataFrame) -> Result<Vec<u8>, Rejection> {
        let session = self.session.as_mut().ok_or(Rejection::WrongMic)?;
        let old = session.f_cnt_down;
        let f_cnt = full_f_cnt(old, frame.f_cnt, 0xffff).ok_or(Rejection::Replayed)?;
        match frame.open(&session.nwk_s_key, &session.app_s_key, f_cnt) {
            Ok(payload) => {
                session.f_cnt_down = Some(f_cnt);
                self.uplinks_since_downlink = 0;
                self.ack_due |= frame.confirmed;
                Ok(payload)
            }
            Err(_) => {
                let before = old.map(|last| (last & 0xffff_0000) | u32::from(frame.f_cnt));
                let replayed = before.is_some_and(|before| {
                    old.is_some_and(|last| before <= last)
                        && frame.verify_mic(&session.nwk_s_key, before)
                });
                Err(if replayed {
                    Rejection::Replayed
                } else {
                    Rejection::WrongMic
                })
            }
        }
    }

    fn windows(
        &self,
        region: Region,
        channel: Channel,
        rx1_opens: Timestamp,
        rx2_opens: Timestamp,
    ) -> Vec<Window> {
        let parameters = &self.parameters;
        let rx1 = region.rx1(
            channel.frequency_hz,
            channel.dr,
            parameters.rx1_dr_offset,
            false,
        );
        let candidates = [
            rx1.map(|(frequency_hz, dr)| (rx1_opens, frequency_hz, dr)),
            Some((rx2_opens, parameters.rx2_hz, parameters.rx2_dr)),
        ];
        candidates
            .into_iter()
            .flatten()
            .filter_map(|(opens, frequency_hz, dr)| {
                let data_rate = region.data_rate(dr, Direction::Downlink)?;
                Some(Window {
                    opens,
                    tuned: Listening {
                        frequency_hz,
                        data_rate,
                    },
                })
            })
            .collect()
    }

    fn free_at(&self, region: Region, frequency_hz: u32) -> Option<Timestamp> {
        let band = region.sub_band(frequency_hz, 0)?;
        self.bands_free_at.get(&band.id).copied()
    }

    fn add_channels(&mut self, region: Region, frequencies_hz: [u32; 5]) {
        for frequency_hz in frequencies_hz {
            let known = self.frequencies_hz.contains(&frequency_hz);
            if !known && region.sub_band(frequency_hz, 0).is_some() {
                self.frequencies_hz.push(frequency_hz);
            }
        }
    }
}

/// What goes into a data uplink.
#[derive(Clone, Copy, Debug)]
pub(super) struct UplinkParts<'a> {
    pub(super) confirmed: bool,
    pub(super) adr: bool,
    pub(super) f_opts: &'a [u8],
    pub(super) f_port: Option<u8>,
    pub(super) payload: &'a [u8],
}

impl Session {
    fn new(dev_addr: DevAddr, nwk_s_key: &Key128, app_s_key: &Key128) -> Self {
        Self {
            dev_addr,
            nwk_s_key: nwk_s_key.clone(),
            app_s_key: app_s_key.clone(),
            f_cnt_up: 0,
            f_cnt_down: None,
        }
    }
}

fn us(micros: u32) -> Duration {
    Duration::from_micros(micros.into())
}
