//! The map: gateways and devices where they are, coloured by verdict.
//!
//! PURE. Devices whose links are fixed have no place; they stand in rows below.

use crate::scenario::{Outcome, PlacedGateway, Site};
use crate::svg::{Anchor, Svg};

use super::Picture;
use super::chart::{look, real};

const WIDTH: f64 = 760.0;
const MARGIN: f64 = 34.0;
/// Between two gateways in one place.
const SIDE_BY_SIDE: f64 = 60.0;
/// Most of a map's height.
const MOST_HEIGHT: f64 = 620.0;

/// The map.
pub(super) fn map(picture: &Picture<'_>, site: &Site, outcome: &Outcome) -> String {
    let mut svg = Svg::default();
    let placed: Vec<[f64; 2]> = site.gateways.iter().map(|g| g.position).collect();
    let all = placed.iter().copied();
    let all = all.chain(site.devices.iter().filter_map(|device| device.position));
    let area = Area::of(all);
    let scale = area.scale();
    let at = |[x, y]: [f64; 2]| {
        let x = MARGIN + (x - area.low[0]) * scale;
        // North is up.
        let y = MARGIN + (area.high[1] - y) * scale;
        (x, y)
    };
    let mut height = MARGIN * 2.0 + (area.high[1] - area.low[1]) * scale;
    let radius = (60.0 / real(site.devices.len().max(1)).sqrt()).clamp(1.6, 6.0);
    let mut unplaced = Vec::new();
    for device in &site.devices {
        let (class, words) = looks(picture, device.dev_eui);
        let group = outcome
            .groups
            .get(device.group)
            .map_or("", |g| g.name.as_str());
        let tip = format!("{} ({group}): {words}", device.dev_eui);
        match device.position {
            Some(position) => svg.circle(at(position), radius, class, &tip),
            None => unplaced.push((class, tip)),
        }
    }
    for (number, gateway) in site.gateways.iter().enumerate() {
        let (x, y) = at(gateway.position);
        // Gateways without places of their own, whose links are fixed, stand side by side.
        let here = |other: &&PlacedGateway| other.position == gateway.position;
        let x = x + SIDE_BY_SIDE * real(site.gateways[..number].iter().filter(here).count());
        svg.triangle((x, y), 9.0, "gateway", &gateway.name);
        if site.gateways.len() <= 12 {
            svg.text((x, y + 20.0), Anchor::Middle, "note", &gateway.name);
        }
    }
    scale_bar(&mut svg, scale, height);
    if !unplaced.is_empty() {
        height += 14.0;
        svg.text(
            (MARGIN, height),
            Anchor::Start,
            "note",
            "devices without a place, their links are fixed:",
        );
        height += 14.0;
        let columns = 50;
        for (number, (class, tip)) in unplaced.iter().enumerate().take(1000) {
            let x = MARGIN + 6.0 + real(number % columns) * 13.6;
            let y = height + real(number / columns) * 13.6;
            svg.circle((x, y), 5.0, class, tip);
        }
        height += real(unplaced.len().min(1000).div_ceil(columns)) * 13.6 + 8.0;
    }
    let drawn = svg.element(WIDTH, height, "gateways and devices");
    format!("<div style=\"max-width:820px\">{drawn}</div>")
}

fn looks(
    picture: &Picture<'_>,
    dev_eui: lorawan_fuota::lorawan::identifiers::DevEui,
) -> (&'static str, &'static str) {
    let found = picture
        .devices
        .binary_search_by_key(&dev_eui, |d| d.dev_eui);
    match found.ok().and_then(|at| picture.devices.get(at)) {
        Some(device) => look(device.state),
        None => ("other", "not in the task"),
    }
}

/// The part of the world that is shown.
struct Area {
    low: [f64; 2],
    high: [f64; 2],
}

impl Area {
    fn of(points: impl Iterator<Item = [f64; 2]>) -> Self {
        let mut area = Self {
            low: [f64::INFINITY; 2],
            high: [f64::NEG_INFINITY; 2],
        };
        for point in points.filter(|p| p.iter().all(|c| c.is_finite())) {
            for ((low, high), at) in area.low.iter_mut().zip(&mut area.high).zip(point) {
                *low = low.min(at);
                *high = high.max(at);
            }
        }
        if area.low[0] > area.high[0] {
            area = Self {
                low: [0.0; 2],
                high: [0.0; 2],
            };
        }
        area
    }

    /// Units of the picture for a metre.
    fn scale(&self) -> f64 {
        let wide = (WIDTH - 2.0 * MARGIN) / (self.high[0] - self.low[0]).max(1.0);
        let high = (MOST_HEIGHT - 2.0 * MARGIN) / (self.high[1] - self.low[1]).max(1.0);
        wide.min(high)
    }
}

/// A bar of a round length, where there is more than one place.
fn scale_bar(svg: &mut Svg, scale: f64, height: f64) {
    if scale >= 100.0 {
        return;
    }
    let lengths = [
        10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0,
    ];
    let fits = |metres: &&f64| **metres * scale <= 160.0;
    let Some(metres) = lengths.iter().rev().find(fits) else {
        return;
    };
    let y = height - 10.0;
    svg.line((MARGIN, y), (MARGIN + metres * scale, y), "curve");
    let text = if *metres >= 1_000.0 {
        format!("{} km", metres / 1_000.0)
    } else {
        format!("{metres} m")
    };
    svg.text(
        (MARGIN + metres * scale + 6.0, y + 4.0),
        Anchor::Start,
        "note",
        &text,
    );
}
