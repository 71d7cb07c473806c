//! Gateways of a scenario: one by one (`[[gateway]]`), or a whole layout (`[gateways]`).

use std::f64::consts::TAU;

use super::kinds::{identifier, number, numbers, share, whole, word, yes};
use super::reading::{Fields, File};

/// A gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayPlan {
    /// Its name in the file.
    pub name: String,
    /// Where it stands, in metres east and north of the scenario's origin.
    pub position: [f64; 2],
    /// Its antenna above the ground, in metres.
    pub height_m: f64,
    /// What antenna and cable add, in dB.
    pub antenna_gain_db: i8,
    /// It has GPS time.
    pub gps: bool,
    /// It sends class B beacons.
    pub beacons: bool,
    /// Share of uplinks that interference destroys at this gateway, 0 to 1.
    pub interference: f64,
    /// Share of its air the server may use, permille.
    pub air_share_permille: u16,
}

#[derive(Clone, Copy)]
enum Layout {
    Grid,
    Ring,
}

/// Reads all gateways; one in the middle if the file names none.
pub(super) fn read(file: &File<'_>, root: &mut Fields<'_>) -> Vec<GatewayPlan> {
    let mut gateways = Vec::new();
    for mut table in root.tables("gateway") {
        let name = table.at("name", identifier);
        let position = table.or("position", numbers("two numbers, [east, north]"), [0.0; 2]);
        let fallback = format!("gateway-{}", gateways.len() + 1);
        let plan = plan(
            &mut table,
            name.as_ref().map_or(fallback, |name| name.value.clone()),
            position,
        );
        if let Some(name) = name
            && gateways
                .iter()
                .any(|other: &GatewayPlan| other.name == name.value)
        {
            file.wrong(
                &name.span,
                "gateway.name",
                format!("there are two gateways {:?}", name.value),
            );
        }
        table.finish();
        gateways.push(plan);
    }
    let mut table = root.table("gateways");
    let layout = table.or(
        "layout",
        word(&[("grid", Layout::Grid), ("ring", Layout::Ring)]),
        Layout::Grid,
    );
    let count = table.at("count", whole(1..=1000_u16));
    let spacing = table.or("spacing", number(1.0..=100_000.0), 2000.0);
    let radius = table.at("radius", number(1.0..=100_000.0));
    let center = table.or("center", numbers("two numbers, [east, north]"), [0.0; 2]);
    let pattern = plan(&mut table, String::new(), [0.0; 2]);
    if table.is_present() && count.is_none() && !table.has("count") {
        table.wrong("count", "`count` is missing: how many gateways");
    }
    match layout {
        Layout::Grid if radius.is_some() => {
            table.wrong("radius", "a grid has no radius; give `spacing`")
        }
        Layout::Ring if table.has("spacing") => {
            table.wrong("spacing", "a ring has no spacing; give `radius`")
        }
        _ => {}
    }
    table.finish();
    let count = count.map_or(0, |count| count.value);
    let radius = radius.map_or(2000.0, |radius| radius.value);
    for number in 0..count {
        let [x, y] = match layout {
            Layout::Grid => on_grid(number, count, spacing),
            Layout::Ring => {
                let angle = TAU * f64::from(number) / f64::from(count.max(1));
                [radius * angle.cos(), radius * angle.sin()]
            }
        };
        let name = format!("gateway-{}", gateways.len() + 1);
        if gateways
            .iter()
            .any(|other: &GatewayPlan| other.name == name)
        {
            root.wrong(
                "gateways",
                format!("a gateway of the layout would be {name:?}, which there is already"),
            );
        }
        gateways.push(GatewayPlan {
            name,
            position: [center[0] + x, center[1] + y],
            ..pattern.clone()
        });
    }
    if gateways.is_empty() {
        let mut none = Fields::nothing(file, "gateway");
        gateways.push(plan(&mut none, "gateway-1".to_owned(), [0.0; 2]));
    }
    gateways
}

/// What one gateway and a layout have in common.
fn plan(table: &mut Fields<'_>, name: String, position: [f64; 2]) -> GatewayPlan {
    let beacons = table.or("beacons", yes, false);
    let gps = table.get("gps", yes);
    if beacons && gps == Some(false) {
        table.wrong(
            "gps",
            "a gateway that sends beacons has GPS; leave it out, or say true",
        );
    }
    let share_of_air = table.or("air_share", share, 1.0);
    GatewayPlan {
        name,
        position,
        height_m: table.or("height", number(0.0..=1000.0), 25.0),
        antenna_gain_db: table.or("antenna_gain", whole(-20..=20_i8), 0),
        gps: gps.unwrap_or(beacons),
        beacons,
        interference: table.or("interference", share, 0.0),
        air_share_permille: permille(share_of_air),
    }
}

/// A share in permille, at least one.
fn permille(share: f64) -> u16 {
    (1..=1000_u16)
        .find(|permille| f64::from(*permille) >= share * 1000.0 - 0.5)
        .unwrap_or(1000)
}

/// The place of a gateway in a grid around the origin, as square as it can be.
fn on_grid(number: u16, count: u16, spacing: f64) -> [f64; 2] {
    let columns = (1..=count)
        .find(|side| u32::from(*side) * u32::from(*side) >= u32::from(count))
        .unwrap_or(1);
    let rows = count.div_ceil(columns);
    let (column, row) = (number % columns, number / columns);
    let centred = |at: u16, of: u16| (f64::from(at) - f64::from(of - 1) / 2.0) * spacing;
    [centred(column, columns), centred(row, rows)]
}
