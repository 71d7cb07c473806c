//! The sockets of simulated gateways: one UDP socket each, towards one server.
//!
//! Carries datagrams, nothing else: keeps the way open, and passes on what the server asks for. A server that is down
//! is no error: datagrams get lost, as on any network. Reads no clock.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::GatewayEui;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::gateway::{GatewayCounts, Received, TxError, TxRequest};
use crate::semtech::{self, DatagramError, FromServer};

/// Requests that wait for the lab; more are dropped, as a full socket buffer would.
const WAITING_MAX: usize = 1024;
/// Pause after an error of a socket.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// Longest datagram read.
const DATAGRAM_MAX: usize = 4096;

/// A frame the server wants sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// By which gateway.
    pub gateway: GatewayEui,
    /// Names the request in its acknowledgement.
    pub token: u16,
    /// The frame.
    pub request: TxRequest,
}

/// The gateways' way to their server.
#[derive(Debug)]
pub struct Uplinks {
    sockets: BTreeMap<GatewayEui, Arc<UdpSocket>>,
    server: SocketAddr,
    readers: Vec<JoinHandle<()>>,
    wanted: mpsc::Receiver<Result<Wanted, DatagramError>>,
    /// Token of the next datagram.
    token: u16,
}

impl Uplinks {
    /// Opens a socket for each gateway.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub async fn open(gateways: &[GatewayEui], server: SocketAddr) -> io::Result<Self> {
        let local: SocketAddr = if server.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let (sender, wanted) = mpsc::channel(WAITING_MAX);
        let mut sockets = BTreeMap::new();
        let mut readers = Vec::new();
        for &gateway in gateways {
            let socket = Arc::new(UdpSocket::bind(local).await?);
            let reader = read(gateway, Arc::clone(&socket), server, sender.clone());
            readers.push(tokio::spawn(reader));
            sockets.insert(gateway, socket);
        }
        Ok(Self {
            sockets,
            server,
            readers,
            wanted,
            token: 0,
        })
    }

    /// The next request of the server, or why a datagram of its was no request. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Wanted, DatagramError>> {
        self.wanted.recv().await
    }

    /// A request that already waits.
    pub fn try_next(&mut self) -> Option<Result<Wanted, DatagramError>> {
        self.wanted.try_recv().ok()
    }

    /// Tells the server that the gateways are there.
    pub async fn keep_open(&mut self) {
        for gateway in self.gateways() {
            let token = self.next_token();
            self.send(gateway, &semtech::pull_data(token, gateway))
                .await;
        }
    }

    /// Tells the server what a gateway received.
    pub async fn push(&mut self, gateway: GatewayEui, received: &Received) {
        let token = self.next_token();
        let datagram = semtech::push_received(token, gateway, received);
        self.send(gateway, &datagram).await;
    }

    /// Tells the server what a gateway did; `time` as in [`semtech::push_statistics`].
    pub async fn push_statistics(
        &mut self,
        gateway: GatewayEui,
        time: &str,
        counts: &GatewayCounts,
    ) {
        let token = self.next_token();
        let datagram = semtech::push_statistics(token, gateway, time, counts);
        self.send(gateway, &datagram).await;
    }

    /// Tells the server the fate of its request.
    pub async fn acknowledge(
        &mut self,
        gateway: GatewayEui,
        token: u16,
        result: Result<(), TxError>,
    ) {
        // A frame of impossible size is not answered (the forwarder drops it).
        if result != Err(TxError::Size) {
            let datagram = semtech::tx_ack(token, gateway, result);
            self.send(gateway, &datagram).await;
        }
    }

    fn gateways(&self) -> Vec<GatewayEui> {
        self.sockets.keys().copied().collect()
    }

    fn next_token(&mut self) -> u16 {
        self.token = self.token.wrapping_add(1);
        self.token
    }

    async fn send(&self, gateway: GatewayEui, datagram: &[u8]) {
        if let Some(socket) = self.sockets.get(&gateway) {
            // The server may be down, which it tells with an error here or there. It gets the next one.
            let _lost = socket.send_to(datagram, self.server).await;
        }
    }
}

impl Drop for Uplinks {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

/// Reads a socket until nobody listens any more.
async fn read(
    gateway: GatewayEui,
    socket: Arc<UdpSocket>,
    server: SocketAddr,
    wanted: mpsc::Sender<Result<Wanted, DatagramError>>,
) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // Word of an earlier datagram that found no server; a lasting error must not keep the processor busy.
            tokio::time::sleep(ERROR_PAUSE).await;
            continue;
        };
        if from.port() != server.port() {
            continue;
        }
        let message = match semtech::decode(&buffer[..length]) {
            Ok(FromServer::PullResp { token, request }) => Ok(Wanted {
                gateway,
                token,
                request,
            }),
            Ok(FromServer::PushAck { .. } | FromServer::PullAck { .. }) => continue,
            Err(error) => Err(error),
        };
        if matches!(
            wanted.try_send(message),
            Err(mpsc::error::TrySendError::Closed(_))
        ) {
            return;
        }
    }
}
