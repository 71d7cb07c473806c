//! A link between gateways and server that spoils a fifth of the uplinks and adds noise.
//!
//! It knows the devices' root keys and listens to their joins, so that some spoilt frames carry a good MIC: cut-off
//! commands and senseless MAC commands, as a broken device would send them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fuota_simulator::device::Activation;
use fuota_simulator::fleet::Fleet;
use fuota_simulator::random::Random;
use lorawan_fuota::lorawan::frame::{DataFields, DataFrame, Frame};
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, GatewayEui};
use lorawan_fuota::lorawan::join::session_keys;
use lorawan_fuota::lorawan::keys::Key128;
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::noise;

/// Share of uplinks that are spoilt.
const SPOILT: f64 = 0.2;
/// Datagrams of noise for each that is passed on.
const NOISE: usize = 12;
const HEADER: usize = 12;
const PUSH_DATA: u8 = 0;
const PULL_RESP: u8 = 3;

/// What the link did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spoilt {
    /// Uplinks that came, each gateway's copy counted.
    pub(super) passed: u64,
    /// Those that were spoilt.
    pub(super) uplinks: u64,
    /// Among them: no frame of a device any more.
    pub(super) frames_damaged: u64,
    /// Among them: commands cut off, under a good MIC.
    pub(super) commands_cut: u64,
    /// What was sent beside.
    pub(super) noise: noise::Sent,
}

/// The link while it stands.
pub(super) struct BadLink {
    address: SocketAddr,
    ears: Arc<Mutex<Ears>>,
    carrier: JoinHandle<()>,
}

impl BadLink {
    /// Opens a link to the server; gateways send to [`BadLink::address`].
    pub(super) async fn open(fleet: &Fleet, seed: u64, server: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let ears = Arc::new(Mutex::new(Ears::of(fleet, seed)));
        let carrier = tokio::spawn(carry(Arc::new(front), server, Arc::clone(&ears)));
        Self {
            address,
            ears,
            carrier,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, and tells what it did.
    pub(super) fn close(self) -> Spoilt {
        self.carrier.abort();
        self.ears.lock().unwrap().spoilt
    }
}

/// Carries datagrams both ways, each gateway through a socket of its own.
async fn carry(front: Arc<UdpSocket>, server: SocketAddr, ears: Arc<Mutex<Ears>>) {
    let mut ways: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut back = tokio::task::JoinSet::new();
    let loud = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = vec![0; 65_535];
    while let Ok((length, from)) = front.recv_from(&mut buffer).await {
        let (datagram, noise) = ears.lock().unwrap().up(&buffer[..length]);
        let way = match ways.get(&from) {
            Some(way) => Arc::clone(way),
            None => {
                let way = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                let (front, ears) = (Arc::clone(&front), Arc::clone(&ears));
                back.spawn(carry_back(Arc::clone(&way), front, from, ears));
                ways.insert(from, Arc::clone(&way));
                way
            }
        };
        way.send_to(&datagram, server).await.unwrap();
        for datagram in noise {
            loud.send_to(&datagram, server).await.unwrap();
        }
    }
}

async fn carry_back(
    way: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    to: SocketAddr,
    ears: Arc<Mutex<Ears>>,
) {
    let mut buffer = vec![0; 65_535];
    while let Ok((length, _)) = way.recv_from(&mut buffer).await {
        ears.lock().unwrap().down(&buffer[..length]);
        front.send_to(&buffer[..length], to).await.unwrap();
    }
}

/// What the link overhears, and does with it.
struct Ears {
    seed: u64,
    noise: Random,
    gateway: GatewayEui,
    app_keys: BTreeMap<DevEui, Key128>,
    dev_nonces: BTreeMap<DevEui, u16>,
    /// NwkSKey and AppSKey.
    sessions: BTreeMap<DevAddr, (Key128, Key128)>,
    spoilt: Spoilt,
}

impl Ears {
    fn of(fleet: &Fleet, seed: u64) -> Self {
        let app_keys = fleet.devices.iter().filter_map(|device| {
            let Activation::Otaa { app_key, .. } = &device.activation else {
                return None;
            };
            Some((device.dev_eui, app_key.clone()))
        });
        Self {
            seed,
            noise: Random::of(seed, 2),
            gateway: fleet.gateways[0],
            app_keys: app_keys.collect(),
            dev_nonces: BTreeMap::new(),
            sessions: BTreeMap::new(),
            spoilt: Spoilt::default(),
        }
    }

    /// A datagram on its way to the server: as it leaves, and the noise beside it.
    fn up(&mut self, datagram: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (gateway, sent) = (self.gateway, &mut self.spoilt.noise);
        let noise = (0..NOISE).map(|_| noise::datagram(&mut self.noise, gateway, sent));
        let noise = noise.collect();
        (
            self.push(datagram).unwrap_or_else(|| datagram.to_vec()),
            noise,
        )
    }

    /// A spoilt `PUSH_DATA`; `None` to leave the datagram as it is.
    fn push(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        if datagram.get(3) != Some(&PUSH_DATA) {
            return None;
        }
        let mut body: Value = serde_json::from_slice(datagram.get(HEADER..)?).ok()?;
        let entry = body.get_mut("rxpk")?.get_mut(0)?;
        let frame = STANDARD.decode(entry["data"].as_str()?).ok()?;
        self.spoilt.passed += 1;
        // All copies of a frame share their fate, whatever gateway they come through.
        let mut random = Random::of(self.seed, fingerprint(&frame));
        if !random.chance(SPOILT) {
            self.overhear(&frame);
            return None;
        }
        self.spoilt.uplinks += 1;
        let spoilt = self.spoil(&frame, &mut random);
        entry["size"] = spoilt.len().into();
        entry["data"] = STANDARD.encode(&spoilt).into();
        let mut bytes = datagram[..HEADER].to_vec();
        bytes.extend(body.to_string().into_bytes());
        Some(bytes)
    }

    fn overhear(&mut self, frame: &[u8]) {
        if let Ok(Frame::JoinRequest(request)) = Frame::parse(frame) {
            self.dev_nonces.insert(request.dev_eui, request.dev_nonce);
        }
    }

    /// A datagram of the server: a join-accept tells the keys of the session that begins.
    fn down(&mut self, datagram: &[u8]) -> Option<()> {
        if datagram.get(3) != Some(&PULL_RESP) {
            return None;
        }
        let body: Value = serde_json::from_slice(datagram.get(4..)?).ok()?;
        let frame = STANDARD.decode(body["txpk"]["data"].as_str()?).ok()?;
        let Ok(Frame::JoinAccept(accept)) = Frame::parse(&frame) else {
            return None;
        };
        for (dev_eui, app_key) in &self.app_keys {
            if let (Ok(accept), Some(dev_nonce)) =
                (accept.open(app_key), self.dev_nonces.get(dev_eui))
            {
                let keys = session_keys(app_key, &accept, *dev_nonce);
                self.sessions.insert(accept.dev_addr, keys);
            }
        }
        Some(())
    }

    fn spoil(&mut self, frame: &[u8], random: &mut Random) -> Vec<u8> {
        let kind = random.below(6);
        if kind >= 3
            && let Some(forged) = self.forge(frame, random)
        {
            return forged;
        }
        self.spoilt.frames_damaged += 1;
        match kind {
            0 => {
                let length = 1 + random.index(255);
                (0..length).map(|_| byte(random)).collect()
            }
            1 => frame[..1 + random.index(frame.len() - 1)].to_vec(),
            _ => {
                let mut bytes = frame.to_vec();
                for _ in 0..=random.below(8) {
                    let at = random.index(bytes.len());
                    bytes[at] ^= 1 << random.below(8);
                }
                bytes
            }
        }
    }

    /// The frame with its commands cut off, or with senseless MAC commands, signed as by the device.
    fn forge(&mut self, frame: &[u8], random: &mut Random) -> Option<Vec<u8>> {
        let frame = DataFrame::parse(frame).ok()?;
        let (nwk_s_key, app_s_key) = self.sessions.get(&frame.dev_addr)?;
        let f_cnt = u32::from(frame.f_cnt);
        if !frame.verify_mic(nwk_s_key, f_cnt) {
            return None;
        }
        let mut payload = frame.decrypt(app_s_key, f_cnt);
        let mut f_opts = frame.f_opts.clone();
        if matches!(frame.f_port, Some(200..=203)) && payload.len() > 1 {
            payload.truncate(1 + random.index(payload.len() - 1));
            self.spoilt.commands_cut += 1;
        } else {
            f_opts = (0..random.index(16)).map(|_| byte(random)).collect();
        }
        DataFields {
            direction: frame.direction,
            confirmed: frame.confirmed,
            dev_addr: frame.dev_addr,
            f_ctrl: frame.f_ctrl,
            f_cnt,
            f_opts: &f_opts,
            f_port: frame.f_port,
            payload: &payload,
        }
        .build(nwk_s_key, app_s_key)
        .ok()
    }
}

fn byte(random: &mut Random) -> u8 {
    random.next_u64().to_le_bytes()[0]
}

/// FNV-1a.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
