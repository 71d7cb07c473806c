//! `fuota network` and `fuota uplinks`.

use clap::Args;
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use super::moment::{now, time_json, time_text};
use super::names::{eui_resource, hex, id};
use super::output::{Failure, fields};
use super::{Context, Outcome};
use crate::proto::v1;

/// Arguments of `fuota uplinks`.
///
/// Uplinks are not stored: what comes while the command listens is shown, until it is stopped.
#[derive(Args)]
pub struct UplinksArgs {
    /// Only uplinks of this device, by its DevEUI; may be repeated
    #[arg(long = "device", value_name = "DEV_EUI")]
    devices: Vec<String>,

    /// Only uplinks on this FPort; may be repeated
    #[arg(long = "port", value_name = "F_PORT")]
    ports: Vec<u32>,

    /// Stop after so many uplinks
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Follows the uplinks.
pub(super) async fn uplinks(args: UplinksArgs, context: &mut Context) -> Result<Outcome, Failure> {
    let request = v1::StreamUplinksRequest {
        devices: args
            .devices
            .iter()
            .map(|text| eui_resource("devices", text))
            .collect(),
        f_ports: args.ports,
    };
    let mut stream = context
        .connection
        .network()
        .stream_uplinks(request)
        .await?
        .into_inner();
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        let Some(answer) = stream.message().await? else {
            break;
        };
        if answer.lost_count > 0 {
            let text = format!("{} uplinks lost: read faster", answer.lost_count);
            context.output.note(&text);
        }
        let Some(uplink) = &answer.uplink else {
            continue;
        };
        shown += 1;
        if context.output.is_json() {
            context
                .output
                .json_line(&uplink_json(uplink, answer.lost_count))?;
        } else {
            context.output.text(&uplink_text(uplink))?;
        }
    }
    Ok(Outcome::Done)
}

fn uplink_json(uplink: &v1::ApplicationUplink, lost_count: u64) -> Value {
    json!({
        "device": uplink.device,
        "f_port": uplink.f_port,
        "payload_hex": hex(&uplink.payload),
        "f_cnt_up": uplink.f_cnt_up,
        "confirmed": uplink.confirmed,
        "data_rate": uplink.data_rate,
        "frequency_hz": uplink.frequency_hz,
        "receive_time": time_json(uplink.receive_time.as_ref()),
        "links": uplink.links.iter().map(link_json).collect::<Vec<_>>(),
        "lost_count": lost_count,
    })
}

fn uplink_text(uplink: &v1::ApplicationUplink) -> String {
    let time = uplink
        .receive_time
        .map(|time| Timestamp { nanos: 0, ..time }.to_string())
        .unwrap_or_default();
    let signal = uplink.links.first().map_or_else(String::new, |link| {
        format!(
            "  {} dBm {} dB via {}",
            link.rssi_dbm,
            link.snr_db,
            id(&link.gateway)
        )
    });
    format!(
        "{time}  {}  port {:<3}  DR{:<2}  {}{signal}",
        id(&uplink.device),
        uplink.f_port,
        uplink.data_rate,
        hex(&uplink.payload),
    )
}

/// A link as JSON.
pub(super) fn link_json(link: &v1::GatewayLink) -> Value {
    json!({
        "gateway": link.gateway,
        "rssi_dbm": link.rssi_dbm,
        "snr_db": link.snr_db,
        "receive_time": time_json(link.receive_time.as_ref()),
    })
}

/// Shows the network server.
pub(super) async fn show(context: &mut Context) -> Result<Outcome, Failure> {
    let request = v1::GetNetworkRequest {};
    let network = context
        .connection
        .network()
        .get_network(request)
        .await?
        .into_inner();
    context
        .output
        .show(|| network_json(&network), || network_text(&network))?;
    Ok(Outcome::Done)
}

fn counters(network: &v1::Network) -> [(&'static str, u64); 15] {
    let counters = network.counters.unwrap_or_default();
    [
        ("uplinks_received", counters.uplinks_received),
        ("uplinks_duplicate", counters.uplinks_duplicate),
        ("uplinks_malformed", counters.uplinks_malformed),
        ("uplinks_unknown_device", counters.uplinks_unknown_device),
        ("uplinks_mic_failed", counters.uplinks_mic_failed),
        ("uplinks_replayed", counters.uplinks_replayed),
        ("uplinks_accepted", counters.uplinks_accepted),
        ("uplinks_dropped", counters.uplinks_dropped),
        ("uplinks_without_crc", counters.uplinks_without_crc),
        ("commands_malformed", counters.commands_malformed),
        ("joins_accepted", counters.joins_accepted),
        ("datagrams_refused", counters.datagrams_refused),
        ("datagrams_malformed", counters.datagrams_malformed),
        ("downlinks_handed_over", counters.downlinks_handed_over),
        ("downlinks_dropped", counters.downlinks_dropped),
    ]
}

fn network_json(network: &v1::Network) -> Value {
    let counters: Map<_, _> = counters(network)
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
    json!({
        "name": network.name,
        "server_version": network.server_version,
        "net_id": network.net_id,
        "server_time": time_json(network.server_time.as_ref()),
        "start_time": time_json(network.start_time.as_ref()),
        "gateways_online": network.gateways_online,
        "counters": counters,
    })
}

fn network_text(network: &v1::Network) -> String {
    let now = now();
    let mut rows = vec![
        ("server version", network.server_version.clone()),
        ("NetID", network.net_id.clone()),
        ("server time", time_text(network.server_time.as_ref(), &now)),
        ("started", time_text(network.start_time.as_ref(), &now)),
        ("gateways online", network.gateways_online.to_string()),
    ];
    let counters = counters(network);
    let names: Vec<_> = counters
        .iter()
        .map(|(name, _)| name.replace('_', " "))
        .collect();
    for (name, (_, count)) in names.iter().zip(counters) {
        rows.push((name, count.to_string()));
    }
    fields(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uplink_is_one_line() {
        let uplink = v1::ApplicationUplink {
            device: "devices/70b3d57ed0000001".into(),
            f_port: 10,
            payload: prost::bytes::Bytes::from_static(&[0, 0xAB]),
            data_rate: 5,
            receive_time: Some("2026-03-01T12:00:00.25Z".parse().unwrap()),
            links: vec![v1::GatewayLink {
                gateway: "gateways/a1".into(),
                rssi_dbm: -101.0,
                snr_db: 7.5,
                receive_time: None,
            }],
            ..Default::default()
        };
        assert_eq!(
            uplink_text(&uplink),
            "2026-03-01T12:00:00Z  70b3d57ed0000001  port 10   DR5   00ab  -101 dBm 7.5 dB via a1"
        );
        let json = uplink_json(&uplink, 0);
        assert_eq!(json["payload_hex"], "00ab");
        assert_eq!(json["receive_time"], "2026-03-01T12:00:00.250Z");
    }
}
