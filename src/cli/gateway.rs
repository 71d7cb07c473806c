//! `fuota gateway`: create, get, list, update, delete.

use clap::{ArgAction, Args, Subcommand};
use prost_types::Duration;
use serde_json::{Value, json};

use super::connection::{ListArgs, pages};
use super::moment::{
    airtime_text, distance_text, duration_json, duration_parser, duration_text, now, time_json,
    time_text,
};
use super::names::{enum_parser, eui, eui_resource, id, pairs_text, word, word_json};
use super::output::{Failure, fields, nonzero, table, yes};
use super::settings::{ClearArgs, Mask, TagArgs};
use super::{Context, Outcome};
use crate::proto::v1;

/// What to do with gateways.
#[derive(Subcommand)]
pub enum GatewayCommand {
    /// Put a gateway on the allow-list
    #[command(
        after_help = "Example:\n  fuota gateway create 0016c001ff10a235 --region EU868 --antenna-gain 3 --cable-loss 0.5"
    )]
    Create {
        /// EUI-64, 16 hex digits
        eui: String,
        /// Region it works in
        #[arg(long, value_parser = enum_parser::<v1::Region>())]
        region: v1::Region,
        #[command(flatten)]
        settings: GatewaySettings,
    },
    /// Show one gateway with its counters
    Get {
        /// EUI of the gateway
        gateway: String,
    },
    /// List gateways
    ///
    /// Filter fields: region, state, has_gps, beaconing, tags.KEY.
    List(ListArgs),
    /// Change settings; takes effect with the next frame
    Update {
        /// EUI of the gateway
        gateway: String,
        #[command(flatten)]
        settings: GatewaySettings,
        #[command(flatten)]
        clear: ClearArgs,
    },
    /// Take a gateway off the allow-list; its air-time ledger is kept
    Delete {
        /// EUI of the gateway
        gateway: String,
    },
}

/// Settings of a gateway.
#[derive(Args)]
pub struct GatewaySettings {
    /// A name for people
    #[arg(long)]
    name: Option<String>,

    /// Where it stands: LATITUDE,LONGITUDE or LATITUDE,LONGITUDE,ALTITUDE in degrees and metres
    #[arg(long, value_name = "LAT,LON[,ALT]", value_parser = parse_position, allow_hyphen_values = true)]
    position: Option<v1::Position>,

    /// Gain of its antenna in dBi
    #[arg(long, value_name = "DBI", allow_hyphen_values = true)]
    antenna_gain: Option<f64>,

    /// Loss of cable and filters in dB
    #[arg(long, value_name = "DB")]
    cable_loss: Option<f64>,

    /// Most radiated power in dBm, if lower than what the region allows
    #[arg(long, value_name = "DBM", allow_hyphen_values = true)]
    max_eirp: Option<f64>,

    /// It has GPS time (true or false)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    gps: Option<bool>,

    /// It sends class B beacons (true or false)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    beaconing: Option<bool>,

    /// How far ahead of their time frames are handed to it, 50ms to 5s
    #[arg(long, value_name = "DURATION", value_parser = duration_parser())]
    lead_time: Option<Duration>,

    /// Most of the legal air time the server may use, in percent
    #[arg(long, value_name = "PERCENT")]
    air_share: Option<u32>,

    #[command(flatten)]
    tags: TagArgs,
}

impl GatewaySettings {
    fn apply(self, gateway: &mut v1::Gateway, mask: &mut Mask) {
        mask.put("display_name", &mut gateway.display_name, self.name);
        mask.put("position", &mut gateway.position, self.position);
        mask.put(
            "antenna_gain_dbi",
            &mut gateway.antenna_gain_dbi,
            self.antenna_gain,
        );
        mask.put("cable_loss_db", &mut gateway.cable_loss_db, self.cable_loss);
        mask.put("max_eirp_dbm", &mut gateway.max_eirp_dbm, self.max_eirp);
        mask.put("has_gps", &mut gateway.has_gps, self.gps);
        mask.put("beaconing", &mut gateway.beaconing, self.beaconing);
        mask.put("lead_time", &mut gateway.lead_time, self.lead_time);
        mask.put(
            "air_share_percent",
            &mut gateway.air_share_percent,
            self.air_share,
        );
        self.tags.apply(mask, &mut gateway.tags);
    }
}

fn parse_position(text: &str) -> Result<v1::Position, String> {
    let numbers: Result<Vec<f64>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    match numbers.as_deref() {
        Ok([latitude_deg, longitude_deg, rest @ ..]) if rest.len() <= 1 => Ok(v1::Position {
            latitude_deg: *latitude_deg,
            longitude_deg: *longitude_deg,
            altitude_m: rest.first().copied().unwrap_or(0.0),
        }),
        _ => Err("expected LATITUDE,LONGITUDE like 48.137,11.575".into()),
    }
}

/// Carries out one of the commands.
pub(super) async fn run(
    command: GatewayCommand,
    context: &mut Context,
) -> Result<Outcome, Failure> {
    let mut client = context.connection.gateways();
    let request_id = context.connection.request_id();
    let gateway = match command {
        GatewayCommand::Create {
            eui: text,
            region,
            settings,
        } => {
            let mut gateway = v1::Gateway {
                eui: eui(&text),
                region: region.into(),
                ..Default::default()
            };
            settings.apply(&mut gateway, &mut Mask::default());
            let request = v1::CreateGatewayRequest {
                gateway: Some(gateway),
                request_id,
            };
            client.create_gateway(request).await?.into_inner()
        }
        GatewayCommand::Get { gateway } => {
            let name = eui_resource("gateways", &gateway);
            client
                .get_gateway(v1::GetGatewayRequest { name })
                .await?
                .into_inner()
        }
        GatewayCommand::List(args) => {
            list(args, context).await?;
            return Ok(Outcome::Done);
        }
        GatewayCommand::Update {
            gateway,
            settings,
            clear,
        } => {
            let name = eui_resource("gateways", &gateway);
            let request = v1::GetGatewayRequest { name: name.clone() };
            let present = client.get_gateway(request).await?.into_inner();
            let mut gateway = v1::Gateway {
                name,
                tags: clear.keep("tags", present.tags),
                ..Default::default()
            };
            let mut mask = Mask::default();
            settings.apply(&mut gateway, &mut mask);
            clear.apply(&mut mask);
            let request = v1::UpdateGatewayRequest {
                gateway: Some(gateway),
                update_mask: Some(mask.finish()?),
                request_id,
            };
            client.update_gateway(request).await?.into_inner()
        }
        GatewayCommand::Delete { gateway } => {
            let name = eui_resource("gateways", &gateway);
            let request = v1::DeleteGatewayRequest {
                name: name.clone(),
                request_id,
            };
            client.delete_gateway(request).await?;
            context
                .output
                .show(|| json!({}), || format!("{name} deleted"))?;
            return Ok(Outcome::Done);
        }
    };
    context
        .output
        .show(|| gateway_json(&gateway), || gateway_text(&gateway))?;
    Ok(Outcome::Done)
}

async fn list(args: ListArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connection.gateways();
    let listing = pages(args.limit, async |page_size, page_token| {
        let request = v1::ListGatewaysRequest {
            page_size,
            page_token,
            filter: args.filter.clone(),
        };
        let answer = client.list_gateways(request).await?.into_inner();
        Ok((answer.gateways, answer.next_page_token, answer.total_size))
    })
    .await?;
    context.show_list("gateways", "gateway", &listing, gateway_json, |gateways| {
        let now = now();
        let header = [
            "GATEWAY", "NAME", "REGION", "STATE", "SEEN", "UPLINKS", "QUEUED", "SENT", "REFUSED",
            "AIR TIME",
        ];
        table(
            &header,
            gateways.iter().map(|gateway| {
                let counters = gateway.counters.unwrap_or_default();
                vec![
                    id(&gateway.name).into(),
                    gateway.display_name.clone(),
                    word::<v1::Region>(gateway.region),
                    word::<v1::GatewayState>(gateway.state),
                    distance_text(gateway.last_seen_time.as_ref(), &now),
                    counters.uplinks_received.to_string(),
                    counters.frames_queued.to_string(),
                    counters.frames_sent.to_string(),
                    refused(&counters).to_string(),
                    airtime_text(counters.airtime_us),
                ]
            }),
        )
    })
}

fn refusals(counters: &v1::GatewayCounters) -> [(&'static str, u64); 8] {
    let refused = counters.frames_refused.unwrap_or_default();
    [
        ("too_late", refused.too_late),
        ("too_early", refused.too_early),
        ("collision_packet", refused.collision_packet),
        ("collision_beacon", refused.collision_beacon),
        ("tx_freq", refused.tx_freq),
        ("tx_power", refused.tx_power),
        ("gps_unlocked", refused.gps_unlocked),
        ("other", refused.other),
    ]
}

fn refused(counters: &v1::GatewayCounters) -> u64 {
    refusals(counters)
        .iter()
        .fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

fn gateway_json(gateway: &v1::Gateway) -> Value {
    let counters = gateway.counters.unwrap_or_default();
    let refusals: serde_json::Map<_, _> = refusals(&counters)
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
    json!({
        "name": gateway.name,
        "eui": gateway.eui,
        "display_name": gateway.display_name,
        "region": word_json::<v1::Region>(gateway.region),
        "position": gateway.position.map(|position| json!({
            "latitude_deg": position.latitude_deg,
            "longitude_deg": position.longitude_deg,
            "altitude_m": position.altitude_m,
        })),
        "antenna_gain_dbi": gateway.antenna_gain_dbi,
        "cable_loss_db": gateway.cable_loss_db,
        "max_eirp_dbm": gateway.max_eirp_dbm,
        "has_gps": gateway.has_gps,
        "beaconing": gateway.beaconing,
        "lead_time": duration_json(gateway.lead_time.as_ref()),
        "air_share_percent": gateway.air_share_percent,
        "tags": gateway.tags,
        "state": word_json::<v1::GatewayState>(gateway.state),
        "last_seen_time": time_json(gateway.last_seen_time.as_ref()),
        "clock_ahead": duration_json(gateway.clock_ahead.as_ref()),
        "counters": {
            "uplinks_received": counters.uplinks_received,
            "datagrams_malformed": counters.datagrams_malformed,
            "frames_queued": counters.frames_queued,
            "frames_sent": counters.frames_sent,
            "frames_unknown": counters.frames_unknown,
            "frames_refused": refusals,
            "airtime_us": counters.airtime_us,
        },
        "create_time": time_json(gateway.create_time.as_ref()),
        "update_time": time_json(gateway.update_time.as_ref()),
    })
}

fn gateway_text(gateway: &v1::Gateway) -> String {
    let now = now();
    let counters = gateway.counters.unwrap_or_default();
    let refusals: Vec<_> = refusals(&counters)
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    fields(&[
        ("name", gateway.name.clone()),
        ("display name", gateway.display_name.clone()),
        ("region", word::<v1::Region>(gateway.region)),
        ("state", word::<v1::GatewayState>(gateway.state)),
        (
            "last seen",
            time_text(gateway.last_seen_time.as_ref(), &now),
        ),
        (
            "position",
            gateway.position.map_or_else(String::new, |it| {
                format!(
                    "{}, {}, {} m",
                    it.latitude_deg, it.longitude_deg, it.altitude_m
                )
            }),
        ),
        ("antenna gain", format!("{} dBi", gateway.antenna_gain_dbi)),
        ("cable loss", format!("{} dB", gateway.cable_loss_db)),
        (
            "power limit",
            gateway
                .max_eirp_dbm
                .map_or_else(String::new, |dbm| format!("{dbm} dBm EIRP")),
        ),
        ("GPS", yes(gateway.has_gps)),
        ("beaconing", yes(gateway.beaconing)),
        ("lead time", duration_text(gateway.lead_time.as_ref())),
        ("clock ahead", duration_text(gateway.clock_ahead.as_ref())),
        ("air share percent", nonzero(gateway.air_share_percent)),
        ("tags", pairs_text(&gateway.tags)),
        ("uplinks received", counters.uplinks_received.to_string()),
        ("bad datagrams", nonzero(counters.datagrams_malformed)),
        ("frames queued", counters.frames_queued.to_string()),
        ("frames sent", nonzero(counters.frames_sent)),
        ("frames of unknown fate", nonzero(counters.frames_unknown)),
        ("frames refused", refusals.join(", ")),
        ("air time", airtime_text(counters.airtime_us)),
        ("created", time_text(gateway.create_time.as_ref(), &now)),
        ("updated", time_text(gateway.update_time.as_ref(), &now)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_have_two_or_three_numbers() {
        assert_eq!(parse_position("48.1, -11.5").unwrap().longitude_deg, -11.5);
        assert_eq!(parse_position("1,2,3").unwrap().altitude_m, 3.0);
        for wrong in ["", "1", "1,2,3,4", "a,b"] {
            assert!(parse_position(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn refusals_are_summed_and_named() {
        let gateway = v1::Gateway {
            name: "gateways/a".into(),
            counters: Some(v1::GatewayCounters {
                frames_refused: Some(v1::GatewayRefusals {
                    too_late: 2,
                    other: 1,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(refused(&gateway.counters.unwrap()), 3);
        assert!(gateway_text(&gateway).contains("too_late 2, other 1"));
        assert_eq!(
            gateway_json(&gateway)["counters"]["frames_refused"]["too_late"],
            2
        );
    }
}
