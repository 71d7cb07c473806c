//! SHELL: gateways that speak the Semtech protocol over one UDP socket. Nothing is decided here, except whom to
//! believe: gateways on the allow-list, at the address their last `PULL_DATA` came from.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{ToSocketAddrs, UdpSocket};

use super::semtech::{DownDatagram, MAX_DATAGRAM, Received, TxPacket, UpDatagram, claimed_gateway};
use super::{GatewayCommand, GatewayMessage, ReceivedFrame, TransmissionId};
use crate::lorawan::identifiers::GatewayEui;
use crate::network::{Transport, TransportCounters};
use crate::record::Refusal;
use crate::time::Timestamp;

/// Most datagrams taken in at once.
const MAX_BATCH: usize = 256;
/// Most unknown gateways that are logged, each once. Who makes names up does not fill the log.
const MAX_UNKNOWN: usize = 32;
/// Pause after an error of the socket, which would otherwise repeat at once.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What was dropped on the way in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// Datagrams that make no sense.
    pub malformed: u64,
    /// Datagrams of gateways not on the allow-list.
    pub not_allow_listed: u64,
    /// Frames with a bad CRC, or none.
    pub without_crc: u64,
    /// `rxpk` entries that make no sense.
    pub bad_entries: u64,
    /// `TX_ACK` for no transmission of ours.
    pub stray_tx_acks: u64,
    /// Errors of the socket.
    pub socket_errors: u64,
}

/// Gateways behind one UDP socket.
#[derive(Debug)]
pub struct UdpGateways<C> {
    socket: UdpSocket,
    clock: C,
    allowed: BTreeSet<GatewayEui>,
    addresses: BTreeMap<GatewayEui, SocketAddr>,
    tokens: BTreeMap<u16, (GatewayEui, TransmissionId)>,
    next_token: u16,
    ready: Vec<GatewayMessage>,
    unknown: BTreeSet<GatewayEui>,
    counters: UdpCounters,
    buffer: Box<[u8]>,
}

impl<C: Fn() -> Timestamp> UdpGateways<C> {
    /// Listens on `address`; `clock` stamps what arrives. No gateway is allowed yet.
    ///
    /// # Errors
    /// Those of binding a socket.
    pub async fn bind(address: impl ToSocketAddrs, clock: C) -> io::Result<Self> {
        Ok(Self::on(UdpSocket::bind(address).await?, clock))
    }

    /// As [`UdpGateways::bind`], on a socket that was bound elsewhere.
    ///
    /// # Errors
    /// Those of handing the socket to the runtime.
    pub fn from_std(socket: std::net::UdpSocket, clock: C) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::on(UdpSocket::from_std(socket)?, clock))
    }

    fn on(socket: UdpSocket, clock: C) -> Self {
        let [low, high, ..] = clock().as_micros().to_le_bytes();
        Self {
            socket,
            clock,
            allowed: BTreeSet::new(),
            addresses: BTreeMap::new(),
            tokens: BTreeMap::new(),
            // Not zero, so that an answer meant for the server's last run is hardly taken for one of this.
            next_token: u16::from_le_bytes([low, high]),
            ready: Vec::new(),
            unknown: BTreeSet::new(),
            counters: UdpCounters::default(),
            buffer: vec![0; MAX_DATAGRAM].into_boxed_slice(),
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Replaces the allow-list.
    pub fn set_allowed(&mut self, allowed: BTreeSet<GatewayEui>) {
        self.addresses
            .retain(|gateway, _| allowed.contains(gateway));
        self.unknown.retain(|gateway| !allowed.contains(gateway));
        self.allowed = allowed;
    }

    /// What was dropped.
    pub fn counters(&self) -> &UdpCounters {
        &self.counters
    }

    /// Takes what waits in the socket. `false` after an error.
    fn drain(&mut self) -> bool {
        for _ in 0..MAX_BATCH {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((length, from)) => {
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    match UpDatagram::decode(bytes) {
                        Ok(datagram) => self.take(datagram, from),
                        Err(_) => {
                            let claimed = claimed_gateway(bytes);
                            self.take_malformed(claimed);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.counters.socket_errors += 1;
                    tracing::warn!(%error, "receiving from gateways");
                    return false;
                }
            }
        }
        true
    }

    fn take_malformed(&mut self, claimed: Option<GatewayEui>) {
        self.counters.malformed += 1;
        if let Some(gateway) = claimed.filter(|gateway| self.allowed.contains(gateway)) {
            let at = (self.clock)();
            self.ready.push(GatewayMessage::Malformed { gateway, at });
        }
    }

    fn take(&mut self, datagram: UpDatagram, from: SocketAddr) {
        let at = (self.clock)();
        let (UpDatagram::PushData { gateway, .. }
        | UpDatagram::PullData { gateway, .. }
        | UpDatagram::TxAck { gateway, .. }) = datagram;
        if !self.allowed.contains(&gateway) {
            self.counters.not_allow_listed += 1;
            if self.unknown.len() < MAX_UNKNOWN && self.unknown.insert(gateway) {
                tracing::warn!(%gateway, %from, "unknown gateway");
                if self.unknown.len() == MAX_UNKNOWN {
                    tracing::warn!("many unknown gateways, further ones are only counted");
                }
            }
            return;
        }
        match datagram {
            UpDatagram::PushData {
                token, received, ..
            } => {
                self.acknowledge(&DownDatagram::PushAck { token }, from);
                self.push(gateway, at, received);
            }
            UpDatagram::PullData { token, .. } => {
                self.acknowledge(&DownDatagram::PullAck { token }, from);
                self.addresses.insert(gateway, from);
                self.ready.push(GatewayMessage::Alive { gateway, at });
            }
            UpDatagram::TxAck { token, result, .. } => match self.tokens.get(&token) {
                Some(&(asked, id)) if asked == gateway => {
                    self.tokens.remove(&token);
                    self.ready.push(GatewayMessage::TxAck {
                        gateway,
                        id,
                        result,
                        at,
                    });
                }
                _ => self.counters.stray_tx_acks += 1,
            },
        }
    }

    fn push(&mut self, gateway: GatewayEui, at: Timestamp, received: Received) {
        self.counters.without_crc += u64::try_from(received.without_crc).unwrap_or(u64::MAX);
        self.counters.bad_entries += u64::try_from(received.bad).unwrap_or(u64::MAX);
        if received.stat {
            self.ready.push(GatewayMessage::Alive { gateway, at });
        }
        let frames = received.frames.into_iter().map(|packet| {
            GatewayMessage::Received(ReceivedFrame {
                gateway,
                at,
                counter_us: packet.counter_us,
                frequency_hz: packet.frequency_hz,
                data_rate: packet.data_rate,
                rssi_dbm: packet.rssi_dbm,
                snr_db: packet.snr_db,
                gps: packet.gps,
                phy_payload: packet.phy_payload,
            })
        });
        self.ready.extend(frames);
    }

    /// Sent if the socket takes it at once: a gateway that misses it asks again.
    fn acknowledge(&mut self, answer: &DownDatagram, to: SocketAddr) {
        if self.socket.try_send_to(&answer.encode(), to).is_err() {
            self.counters.socket_errors += 1;
        }
    }

    async fn hand_over(&mut self, command: GatewayCommand) -> bool {
        let Some(&address) = self.addresses.get(&command.gateway) else {
            return false;
        };
        let token = self.next_token;
        self.next_token = token.wrapping_add(1);
        let datagram = DownDatagram::PullResp {
            token,
            packet: TxPacket {
                when: command.when,
                frequency_hz: command.frequency_hz,
                data_rate: command.data_rate,
                power_dbm: command.power_dbm,
                phy_payload: command.phy_payload,
            },
        };
        self.tokens.insert(token, (command.gateway, command.id));
        match self.socket.send_to(&datagram.encode(), address).await {
            Ok(_) => true,
            Err(error) => {
                self.tokens.remove(&token);
                self.counters.socket_errors += 1;
                tracing::warn!(%error, gateway = %command.gateway, "sending to a gateway");
                false
            }
        }
    }
}

impl<C: Fn() -> Timestamp> Transport for UdpGateways<C> {
    type Inbound = GatewayMessage;
    type Outbound = GatewayCommand;

    /// Between taking a datagram and returning it there is no await: dropping the future loses nothing.
    async fn receive(&mut self) -> Vec<GatewayMessage> {
        while self.ready.is_empty() {
            let readable = self.socket.readable().await;
            if !(readable.is_ok() && self.drain()) {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        self.drain();
        std::mem::take(&mut self.ready)
    }

    fn allow(&mut self, gateways: BTreeSet<GatewayEui>) {
        self.set_allowed(gateways);
    }

    fn counts(&self) -> TransportCounters {
        TransportCounters {
            refused: self.counters.not_allow_listed,
            malformed: self.counters.malformed + self.counters.bad_entries,
            without_crc: self.counters.without_crc,
        }
    }

    async fn transmit(&mut self, outbound: Vec<GatewayCommand>) {
        for command in outbound {
            let (gateway, id) = (command.gateway, command.id);
            if !self.hand_over(command).await {
                self.ready.push(GatewayMessage::TxAck {
                    gateway,
                    id,
                    result: Err(Refusal::NoGateway),
                    at: (self.clock)(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::When;
    use super::*;
    use crate::lorawan::airtime::DataRate;

    const GATEWAY: GatewayEui = GatewayEui(0x0102_0304_0506_0708);
    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    async fn pair() -> (UdpGateways<impl Fn() -> Timestamp>, UdpSocket) {
        let mut server = UdpGateways::bind("127.0.0.1:0", || NOW).await.unwrap();
        server.set_allowed(BTreeSet::from([GATEWAY]));
        let gateway = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        gateway.connect(server.local_addr().unwrap()).await.unwrap();
        (server, gateway)
    }

    async fn answer(gateway: &UdpSocket) -> DownDatagram {
        let mut buffer = [0; 2000];
        let length = gateway.recv(&mut buffer).await.unwrap();
        DownDatagram::decode(&buffer[..length]).unwrap()
    }

    fn command(id: u64) -> GatewayCommand {
        GatewayCommand {
            gateway: GATEWAY,
            id: TransmissionId(id),
            when: When::Immediately,
            frequency_hz: 869_525_000,
            data_rate: DataRate::Fsk50,
            power_dbm: 14,
            phy_payload: vec![1, 2, 3],
        }
    }

    #[tokio::test]
    async fn a_gateway_is_heard_and_sent_to() {
        let (mut server, gateway) = pair().await;
        let pull = UpDatagram::PullData {
            token: 7,
            gateway: GATEWAY,
        };
        gateway.send(&pull.encode()).await.unwrap();
        let alive = GatewayMessage::Alive {
            gateway: GATEWAY,
            at: NOW,
        };
        assert_eq!(server.receive().await, [alive]);
        assert_eq!(answer(&gateway).await, DownDatagram::PullAck { token: 7 });

        server.transmit(vec![command(41)]).await;
        let DownDatagram::PullResp { token, packet } = answer(&gateway).await else {
            panic!("no frame")
        };
        assert_eq!(packet.phy_payload, [1, 2, 3]);
        let result = Err(Refusal::TooLate);
        let ack = UpDatagram::TxAck {
            token,
            gateway: GATEWAY,
            result,
        };
        gateway.send(&ack.encode()).await.unwrap();
        let expected = GatewayMessage::TxAck {
            gateway: GATEWAY,
            id: TransmissionId(41),
            result,
            at: NOW,
        };
        assert_eq!(server.receive().await, [expected]);
        // The same answer again belongs to nothing.
        gateway.send(&ack.encode()).await.unwrap();
        gateway.send(&pull.encode()).await.unwrap();
        assert_eq!(server.receive().await.len(), 1);
        assert_eq!(server.counters().stray_tx_acks, 1);
    }

    #[tokio::test]
    async fn a_gateway_without_address_cannot_be_sent_to() {
        let (mut server, _gateway) = pair().await;
        server.transmit(vec![command(1)]).await;
        let refused = GatewayMessage::TxAck {
            gateway: GATEWAY,
            id: TransmissionId(1),
            result: Err(Refusal::NoGateway),
            at: NOW,
        };
        assert_eq!(server.receive().await, [refused]);
    }

    #[tokio::test]
    async fn strangers_and_garbage_are_counted_and_all_that_waits_comes_at_once() {
        let (mut server, gateway) = pair().await;
        let stranger = UpDatagram::PullData {
            token: 1,
            gateway: GatewayEui(9),
        };
        gateway.send(&stranger.encode()).await.unwrap();
        gateway.send(&[2, 0, 0, 0, 1]).await.unwrap();
        let stat = Received {
            stat: true,
            ..Received::default()
        };
        let push = UpDatagram::PushData {
            token: 2,
            gateway: GATEWAY,
            received: stat,
        };
        gateway.send(&push.encode()).await.unwrap();
        gateway.send(&push.encode()).await.unwrap();
        let mut messages = 0;
        while messages < 2 {
            messages += server.receive().await.len();
        }
        assert_eq!(messages, 2);
        let counters = *server.counters();
        assert_eq!((counters.not_allow_listed, counters.malformed), (1, 1));
        // The stranger got no answer: the first one is for the known gateway.
        assert_eq!(answer(&gateway).await, DownDatagram::PushAck { token: 2 });
    }
}
