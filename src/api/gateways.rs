//! Gateway service, and gateways: proto <-> record.

use std::time::Duration;

use tonic::{Request, Response, Status};

use crate::lorawan::identifiers::GatewayEui;
use crate::proto::v1;
use crate::record::{Gateway, GatewaySettings, GatewayStatus, Position, SessionPhase};
use crate::runtime::Command;
use crate::store::{Catalog, Page, TaskFilter};
use crate::time::Timestamp;

use super::errors::ApiError;
use super::fields::{Fields, show_length, show_moment};
use super::filter::{Kind, tag_value};
use super::idempotency::first_or_return;
use super::mask::Mask;
use super::page::PageRequest;
use super::{Api, answer, carry_out, names, regions};

/// A gateway that sent nothing for longer is offline.
const SILENCE: Duration = Duration::from_secs(60);

const FILTER: [(&str, Kind); 5] = [
    ("region", Kind::Word(regions::is_word)),
    ("state", Kind::Word(is_state_word)),
    ("has_gps", Kind::Flag),
    ("beaconing", Kind::Flag),
    ("tags", Kind::Map),
];

const WRITABLE: [&str; 10] = [
    "display_name",
    "position",
    "antenna_gain_dbi",
    "cable_loss_db",
    "max_eirp_dbm",
    "has_gps",
    "beaconing",
    "lead_time",
    "air_share_percent",
    "tags",
];

#[tonic::async_trait]
impl<S: Catalog> v1::gateway_service_server::GatewayService for Api<S> {
    async fn create_gateway(
        &self,
        request: Request<v1::CreateGatewayRequest>,
    ) -> Result<Response<v1::Gateway>, Status> {
        let api = self.clone();
        carry_out(async move { api.create_gateway_now(request.into_inner()).await }).await
    }

    async fn get_gateway(
        &self,
        request: Request<v1::GetGatewayRequest>,
    ) -> Result<Response<v1::Gateway>, Status> {
        let found = self.find_gateway("name", &request.get_ref().name).await;
        answer(found.map(|gateway| self.show_gateway(&gateway)))
    }

    async fn list_gateways(
        &self,
        request: Request<v1::ListGatewaysRequest>,
    ) -> Result<Response<v1::ListGatewaysResponse>, Status> {
        answer(self.page_of_gateways(request.get_ref()).await)
    }

    async fn update_gateway(
        &self,
        request: Request<v1::UpdateGatewayRequest>,
    ) -> Result<Response<v1::Gateway>, Status> {
        let api = self.clone();
        carry_out(async move { api.update_gateway_now(request.into_inner()).await }).await
    }

    async fn delete_gateway(
        &self,
        request: Request<v1::DeleteGatewayRequest>,
    ) -> Result<Response<()>, Status> {
        let api = self.clone();
        carry_out(async move { api.delete_gateway_now(request.into_inner()).await }).await
    }
}

impl<S: Catalog> Api<S> {
    async fn create_gateway_now(
        self,
        request: v1::CreateGatewayRequest,
    ) -> Result<v1::Gateway, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("CreateGateway", &request, &[]).await?);
        let Some(given) = request.gateway else {
            return Err(ApiError::field("gateway", "missing"));
        };
        let settings =
            self.read_gateway(Fields::of("gateway"), &given, (self.now(), self.now()))?;
        if self.store().gateway(settings.eui).await?.is_some() {
            return Err(ApiError::AlreadyExists {
                resource: names::name("gateways", settings.eui),
                reason: "ALREADY_EXISTS",
            });
        }
        let shown = self.show_gateway(&Gateway {
            settings: settings.clone(),
            status: GatewayStatus::default(),
        });
        let with = ticket.answered(&shown);
        self.command("CONFLICT", Command::PutGateway(settings), with)
            .await?;
        Ok(shown)
    }

    async fn find_gateway(&self, field: &str, name: &str) -> Result<Gateway, ApiError> {
        let eui = names::required(field, "gateways/{eui}", name, names::gateway)?;
        let gateway = self.store().gateway(eui).await?;
        gateway.ok_or_else(|| ApiError::NotFound(names::name("gateways", eui)))
    }

    async fn page_of_gateways(
        &self,
        request: &v1::ListGatewaysRequest,
    ) -> Result<v1::ListGatewaysResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListGateways", &request.filter],
        );
        let filter = fields.filter(&request.filter, &FILTER);
        fields.finish()?;
        let keep = |gateway: &Gateway| {
            filter.holds(|field| match field {
                "region" => Some(regions::word(gateway.settings.region)),
                "state" => Some(regions::word_of(
                    self.gateway_state(&gateway.status).as_str_name(),
                    "GATEWAY_STATE_",
                )),
                "has_gps" => Some(gateway.settings.gps.to_string()),
                "beaconing" => Some(gateway.settings.beaconing.to_string()),
                _ => tag_value(&gateway.settings.tags, field),
            })
        };
        let store = self.store();
        let fetch = |page: Page| async move { store.gateways(&page).await };
        let key = |gateway: &Gateway| gateway.settings.eui.to_string();
        let listed = page.walk(key, keep, fetch).await?;
        Ok(v1::ListGatewaysResponse {
            gateways: listed.items.iter().map(|g| self.show_gateway(g)).collect(),
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    async fn update_gateway_now(
        self,
        request: v1::UpdateGatewayRequest,
    ) -> Result<v1::Gateway, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("UpdateGateway", &request, &[]).await?);
        let mut fields = Fields::of("gateway");
        let mask = Mask::read(&mut fields, request.update_mask.as_ref(), &WRITABLE);
        let Some(given) = request.gateway else {
            return Err(ApiError::field("gateway", "missing"));
        };
        let known = self.find_gateway("gateway.name", &given.name).await?;
        let merged = merge(self.show_gateway(&known), given, &mask);
        let settings =
            self.read_gateway(fields, &merged, (known.settings.created_at, self.now()))?;
        let shown = self.show_gateway(&Gateway {
            settings: settings.clone(),
            status: known.status,
        });
        let with = ticket.answered(&shown);
        self.command("CONFLICT", Command::PutGateway(settings), with)
            .await?;
        Ok(shown)
    }

    async fn delete_gateway_now(self, request: v1::DeleteGatewayRequest) -> Result<(), ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("DeleteGateway", &request, &[]).await?);
        let gateway = self.find_gateway("name", &request.name).await?;
        self.check_gateway_unused(gateway.settings.eui).await?;
        let command = Command::DeleteGateway(gateway.settings.eui);
        self.command("GATEWAY_IN_USE", command, ticket.answered(&()))
            .await
    }

    async fn check_gateway_unused(&self, eui: GatewayEui) -> Result<(), ApiError> {
        let tasks = self.all_tasks(&TaskFilter::default()).await?;
        for task in tasks.iter().filter(|task| task.state.is_active()) {
            for session in self.store().distribution_sessions(&task.id).await? {
                let open = session.phase != SessionPhase::Closed;
                if open && session.gateways.contains(&eui) {
                    let message = format!("{} uses it", names::name("tasks", &task.id));
                    return Err(ApiError::refused("GATEWAY_IN_USE", message));
                }
            }
        }
        Ok(())
    }

    /// The settings of a gateway, or all that is wrong with them.
    fn read_gateway(
        &self,
        mut fields: Fields,
        given: &v1::Gateway,
        (created_at, updated_at): (Timestamp, Timestamp),
    ) -> Result<GatewaySettings, ApiError> {
        let eui = names::gateway_eui(&given.eui);
        if eui.is_none() {
            fields.bad("eui", "not 16 hex digits");
        }
        let region = fields.known("region", regions::read(given.region));
        fields.text("display_name", &given.display_name, 255);
        let position = given.position.as_ref().map(|at| {
            fields.real("position.latitude_deg", at.latitude_deg, -90.0..=90.0);
            fields.real("position.longitude_deg", at.longitude_deg, -180.0..=180.0);
            Position {
                latitude: at.latitude_deg,
                longitude: at.longitude_deg,
                altitude_m: fields.real("position.altitude_m", at.altitude_m, -500.0..=20_000.0),
            }
        });
        let antenna_gain_dbi =
            fields.real("antenna_gain_dbi", given.antenna_gain_dbi, -20.0..=30.0);
        let cable_loss_db = fields.real("cable_loss_db", given.cable_loss_db, 0.0..=30.0);
        let max_eirp_dbm = given
            .max_eirp_dbm
            .map(|eirp| fields.real("max_eirp_dbm", eirp, -20.0..=36.0));
        if given.beaconing && !given.has_gps {
            fields.bad("beaconing", "needs has_gps");
        }
        let lead_time = fields
            .length(
                "lead_time",
                given.lead_time.as_ref(),
                Duration::from_millis(50)..=Duration::from_secs(5),
            )
            .unwrap_or(Duration::from_millis(300));
        let share = fields.number_or(
            "air_share_percent",
            given.air_share_percent,
            1..=100u16,
            self.settings().air_share_percent,
        );
        fields.marks("tags", &given.tags, 255);
        let ((eui, region), share) = fields.finish_with(eui.zip(region).zip(share))?;
        Ok(GatewaySettings {
            eui,
            display_name: given.display_name.clone(),
            region,
            position,
            antenna_gain_dbi,
            cable_loss_db,
            max_eirp_dbm,
            gps: given.has_gps,
            beaconing: given.beaconing,
            lead_time,
            air_share_permille: share * 10,
            tags: given.tags.clone(),
            created_at,
            updated_at,
        })
    }

    /// Online: heard within the last minute, and by this server.
    pub(super) fn gateway_state(&self, status: &GatewayStatus) -> v1::GatewayState {
        let online = status
            .last_seen
            .is_some_and(|at| at >= self.core.started_at && self.now().since(at) <= SILENCE);
        if online {
            v1::GatewayState::Online
        } else {
            v1::GatewayState::Offline
        }
    }

    fn show_gateway(&self, gateway: &Gateway) -> v1::Gateway {
        let settings = &gateway.settings;
        v1::Gateway {
            name: names::name("gateways", settings.eui),
            eui: settings.eui.to_string(),
            display_name: settings.display_name.clone(),
            region: regions::show(settings.region).into(),
            position: settings.position.map(|at| v1::Position {
                latitude_deg: at.latitude,
                longitude_deg: at.longitude,
                altitude_m: decimal(at.altitude_m),
            }),
            antenna_gain_dbi: decimal(settings.antenna_gain_dbi),
            cable_loss_db: decimal(settings.cable_loss_db),
            max_eirp_dbm: settings.max_eirp_dbm.map(decimal),
            has_gps: settings.gps,
            beaconing: settings.beaconing,
            lead_time: Some(show_length(settings.lead_time)),
            air_share_percent: u32::from(settings.air_share_permille) / 10,
            tags: settings.tags.clone(),
            state: self.gateway_state(&gateway.status).into(),
            last_seen_time: gateway.status.last_seen.map(show_moment),
            counters: Some(show_counters(&gateway.status)),
            create_time: Some(show_moment(settings.created_at)),
            update_time: Some(show_moment(settings.updated_at)),
            clock_ahead: gateway.status.clock.map(|c| show_signed(c.ahead_us)),
        }
    }
}

/// Seconds and nanoseconds have the same sign.
fn show_signed(micros: i64) -> prost_types::Duration {
    let nanos = i32::try_from(micros % 1_000_000 * 1_000).unwrap_or_default();
    prost_types::Duration {
        seconds: micros / 1_000_000,
        nanos,
    }
}

fn merge(mut into: v1::Gateway, new: v1::Gateway, mask: &Mask) -> v1::Gateway {
    macro_rules! take {
        ($($field:ident),*) => {$( mask.take(stringify!($field), &mut into.$field, new.$field); )*};
    }
    take!(
        display_name,
        position,
        antenna_gain_dbi,
        cable_loss_db,
        max_eirp_dbm,
        has_gps,
        beaconing,
        lead_time,
        air_share_percent,
        tags
    );
    into
}

/// The shortest decimal that is this number, not its binary expansion: 2.15, not 2.1500000953674316.
pub(super) fn decimal(value: f32) -> f64 {
    value
        .to_string()
        .parse()
        .unwrap_or_else(|_| f64::from(value))
}

fn show_counters(status: &GatewayStatus) -> v1::GatewayCounters {
    let counters = &status.counters;
    let mut refused = v1::GatewayRefusals::default();
    for (word, count) in &counters.refused {
        let field = match word.as_str() {
            "TOO_LATE" => &mut refused.too_late,
            "TOO_EARLY" => &mut refused.too_early,
            "COLLISION_PACKET" => &mut refused.collision_packet,
            "COLLISION_BEACON" => &mut refused.collision_beacon,
            "TX_FREQ" => &mut refused.tx_freq,
            "TX_POWER" => &mut refused.tx_power,
            "GPS_UNLOCKED" => &mut refused.gps_unlocked,
            _ => &mut refused.other,
        };
        *field = field.saturating_add(*count);
    }
    v1::GatewayCounters {
        uplinks_received: counters.received,
        datagrams_malformed: counters.malformed,
        frames_queued: counters.queued,
        frames_sent: counters.sent,
        frames_unknown: counters.unknown,
        frames_refused: Some(refused),
        airtime_us: counters.airtime_us,
    }
}

fn is_state_word(word: &str) -> bool {
    v1::GatewayState::from_str_name(&format!("GATEWAY_STATE_{word}")).is_some()
}
