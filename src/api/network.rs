//! Network service: what the network is, and its application uplinks as they come.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::lorawan::identifiers::DevEui;
use crate::proto::v1;
use crate::record::Uplink;
use crate::runtime::{Counters, Notice};
use crate::store::{Catalog, Page};

use super::errors::ApiError;
use super::fields::{Fields, show_moment, tenant};
use super::gateways::decimal;
use super::{Api, answer, names};

/// Uplinks kept for a client that reads slowly; then the oldest is lost.
const KEPT: usize = 1024;
/// Messages handed to the transport ahead.
const WAITING: usize = 16;
/// Most devices a client may name.
const MOST_DEVICES: usize = 1000;

#[tonic::async_trait]
impl<S: Catalog> v1::network_service_server::NetworkService for Api<S> {
    async fn get_network(
        &self,
        _request: Request<v1::GetNetworkRequest>,
    ) -> Result<Response<v1::Network>, Status> {
        answer(self.show_network().await)
    }

    type StreamUplinksStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamUplinksResponse, Status>> + Send>>;

    async fn stream_uplinks(
        &self,
        request: Request<v1::StreamUplinksRequest>,
    ) -> Result<Response<Self::StreamUplinksStream>, Status> {
        answer(self.stream(request.get_ref()).await)
    }
}

/// Which uplinks a client wants; empty = all.
struct Wanted {
    devices: BTreeSet<DevEui>,
    f_ports: BTreeSet<u8>,
}

impl<S: Catalog> Api<S> {
    async fn show_network(&self) -> Result<v1::Network, ApiError> {
        let (mut online, mut after) = (0u32, None);
        loop {
            let page = Page { size: 1000, after };
            let gateways = self.store().gateways(&page).await?;
            let heard = gateways
                .iter()
                .filter(|gateway| self.gateway_state(&gateway.status) == v1::GatewayState::Online);
            online = online.saturating_add(u32::try_from(heard.count()).unwrap_or(u32::MAX));
            if gateways.len() < 1000 {
                break;
            }
            after = gateways
                .last()
                .map(|gateway| gateway.settings.eui.to_string());
        }
        Ok(v1::Network {
            name: "network".to_owned(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            net_id: format!("{:06x}", self.settings().net_id & 0xff_ffff),
            server_time: Some(show_moment(self.now())),
            start_time: Some(show_moment(self.core.started_at)),
            gateways_online: online,
            counters: Some(self.show_network_counters()),
        })
    }

    fn show_network_counters(&self) -> v1::NetworkCounters {
        let Counters {
            network,
            transport,
            commands_malformed,
        } = self.core.handle.counters();
        v1::NetworkCounters {
            uplinks_received: network.uplinks_received,
            uplinks_duplicate: network.uplinks_duplicate,
            uplinks_malformed: network.uplinks_malformed,
            uplinks_unknown_device: network.uplinks_unknown_device,
            uplinks_mic_failed: network.uplinks_mic_failed,
            uplinks_replayed: network.uplinks_replayed,
            uplinks_accepted: network.uplinks_accepted,
            uplinks_dropped: network.uplinks_dropped,
            uplinks_without_crc: transport.without_crc,
            commands_malformed,
            joins_accepted: network.joins_accepted,
            datagrams_refused: transport.refused,
            datagrams_malformed: transport.malformed,
            downlinks_handed_over: network.downlinks_handed_over,
            downlinks_dropped: network.downlinks_dropped,
        }
    }

    async fn stream(
        &self,
        request: &v1::StreamUplinksRequest,
    ) -> Result<<Self as v1::network_service_server::NetworkService>::StreamUplinksStream, ApiError>
    {
        let notices = self.core.handle.subscribe();
        let mut fields = Fields::default();
        if request.devices.len() > MOST_DEVICES {
            fields.bad("devices", format!("more than {MOST_DEVICES}"));
        }
        let mut wanted = Wanted {
            devices: BTreeSet::new(),
            f_ports: BTreeSet::new(),
        };
        for (at, name) in request.devices.iter().enumerate().take(MOST_DEVICES) {
            match names::device(name) {
                Some(dev_eui) => {
                    wanted.devices.insert(dev_eui);
                }
                None => fields.bad(
                    &format!("devices[{at}]"),
                    "not of the form devices/{dev_eui}",
                ),
            }
        }
        for (at, f_port) in request.f_ports.iter().enumerate() {
            let f_port = fields.number(&format!("f_ports[{at}]"), *f_port, 1..=223u8);
            wanted.f_ports.extend(f_port);
        }
        fields.finish()?;
        for dev_eui in &wanted.devices {
            if self.store().device(&tenant(), *dev_eui).await?.is_none() {
                return Err(ApiError::NotFound(names::name("devices", dev_eui)));
            }
        }
        let (answers, stream) = mpsc::channel(WAITING);
        tokio::spawn(hand_on(wanted, notices, answers));
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

/// Hands uplinks on until the client is gone. Notices are always taken at once, so that a slow client loses its own
/// oldest uplinks and is told how many.
async fn hand_on(
    wanted: Wanted,
    mut notices: broadcast::Receiver<Notice>,
    answers: mpsc::Sender<Result<v1::StreamUplinksResponse, Status>>,
) {
    let mut waiting: VecDeque<Arc<Uplink>> = VecDeque::new();
    let mut lost = 0u64;
    loop {
        tokio::select! {
            biased;
            () = answers.closed() => return,
            notice = notices.recv() => match notice {
                Ok(Notice::Uplink(uplink)) if wanted.takes(&uplink) => {
                    if waiting.len() == KEPT {
                        waiting.pop_front();
                        lost += 1;
                    }
                    waiting.push_back(uplink);
                }
                Ok(Notice::Uplink(_) | Notice::Task { .. }) => {}
                // An upper bound: some of them may have been about something else.
                Err(broadcast::error::RecvError::Lagged(count)) => lost = lost.saturating_add(count),
                Err(broadcast::error::RecvError::Closed) => {
                    // If the client is gone there is nobody to tell.
                    let _ = answers.send(Err(ApiError::Stopped.into())).await;
                    return;
                }
            },
            room = answers.reserve(), if !waiting.is_empty() => {
                let (Ok(room), Some(uplink)) = (room, waiting.pop_front()) else { return };
                room.send(Ok(v1::StreamUplinksResponse {
                    uplink: Some(show_uplink(&uplink)),
                    lost_count: std::mem::take(&mut lost),
                }));
            }
        }
    }
}

impl Wanted {
    fn takes(&self, uplink: &Uplink) -> bool {
        let Some(f_port) = uplink.f_port.filter(|_| !uplink.payload.is_empty()) else {
            return false;
        };
        (self.devices.is_empty() || self.devices.contains(&uplink.dev_eui))
            && (self.f_ports.is_empty() || self.f_ports.contains(&f_port))
    }
}

fn show_uplink(uplink: &Uplink) -> v1::ApplicationUplink {
    v1::ApplicationUplink {
        device: names::name("devices", uplink.dev_eui),
        f_port: uplink.f_port.unwrap_or(0).into(),
        payload: uplink.payload.clone().into(),
        f_cnt_up: uplink.f_cnt,
        confirmed: uplink.confirmed,
        data_rate: uplink.data_rate.into(),
        frequency_hz: uplink.frequency_hz,
        receive_time: Some(show_moment(uplink.received_at)),
        links: uplink
            .receptions
            .iter()
            .map(|heard| v1::GatewayLink {
                gateway: names::name("gateways", heard.gateway),
                rssi_dbm: f64::from(heard.rssi_dbm),
                snr_db: decimal(heard.snr_db),
                receive_time: Some(show_moment(uplink.received_at)),
            })
            .collect(),
    }
}
