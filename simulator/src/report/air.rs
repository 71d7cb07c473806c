//! What each gateway had on air, against what it may: a small picture for each.
//!
//! PURE. Where the region sets a duty cycle, the air time of the sliding hour in the sub-band that is nearest to its
//! limit; elsewhere the share of air of each minute.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::identifiers::GatewayEui;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::Timestamp;

use crate::checkers::SentFrame;
use crate::svg::{Anchor, Svg, escape};

use super::Picture;
use super::chart::real;

const SIZE: (f64, f64) = (350.0, 120.0);
const POINTS: usize = 120;
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
/// Gateways shown: those nearest to their limits.
const MOST: usize = 12;

/// What one gateway had on air in one sub-band, or in all where there is no limit.
struct Load {
    name: String,
    band: String,
    /// Share of its limit at even distances of time; 1 is the limit.
    points: Vec<f64>,
    /// The limit, as words.
    limit: String,
    total: Duration,
}

/// The pictures, nearest to the limit first.
pub(super) fn gateways(picture: &Picture<'_>) -> String {
    let mut loads: Vec<Load> = picture
        .gateways
        .iter()
        .filter_map(|(eui, name)| load(picture, *eui, name))
        .collect();
    let peak = |load: &Load| load.points.iter().copied().fold(0.0, f64::max);
    loads.sort_by(|a, b| peak(b).total_cmp(&peak(a)));
    let mut out = String::from(
        "<div style=\"display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:14px\">",
    );
    for load in loads.iter().take(MOST) {
        out += "<div>";
        out += &draw(load);
        out += &format!(
            "<p><b>{}</b>, {}: {:.1} s on air, at most {:.1} % of {}</p></div>",
            escape(&load.name),
            escape(&load.band),
            load.total.as_secs_f64(),
            peak(load) * 100.0,
            load.limit,
        );
    }
    out += "</div>";
    if loads.len() > MOST {
        out += &format!(
            "<p>{} gateways with less are not shown.</p>",
            loads.len() - MOST
        );
    }
    out
}

fn load(picture: &Picture<'_>, eui: GatewayEui, name: &str) -> Option<Load> {
    let mut by_band: BTreeMap<(u32, u32), Vec<&SentFrame>> = BTreeMap::new();
    for frame in picture.frames.iter().filter(|frame| frame.gateway == eui) {
        let band = band(picture.region, frame);
        by_band.entry(band).or_default().push(frame);
    }
    let loads = by_band.into_iter().map(|((hz, permille), frames)| {
        let limited = permille < 1000;
        let span = if limited { HOUR } else { MINUTE };
        let allowed = span.mul_f64(f64::from(permille) / 1000.0);
        Load {
            name: name.to_owned(),
            band: if limited {
                format!("{:.1} MHz", f64::from(hz) / 1e6)
            } else {
                "no duty cycle".to_owned()
            },
            points: points(picture, &frames, span, allowed),
            limit: if limited {
                format!("the {:.1} % of an hour allowed", f64::from(permille) / 10.0)
            } else {
                "a minute".to_owned()
            },
            total: frames.iter().map(|f| f.airtime).sum(),
        }
    });
    let peak = |load: &Load| load.points.iter().copied().fold(0.0, f64::max);
    loads.max_by(|a, b| peak(a).total_cmp(&peak(b)))
}

/// First frequency and duty cycle of the sub-band of a frame; one for all where there is none.
fn band(region: Region, frame: &SentFrame) -> (u32, u32) {
    let band = region.sub_band(frame.frequency_hz, frame.data_rate.bandwidth_hz());
    band.filter(|band| band.duty_cycle_permille < 1000)
        .map_or((0, 1000), |band| {
            (band.from_hz, u32::from(band.duty_cycle_permille))
        })
}

fn points(
    picture: &Picture<'_>,
    frames: &[&SentFrame],
    span: Duration,
    allowed: Duration,
) -> Vec<f64> {
    let mut ends: Vec<(Timestamp, f64)> = Vec::new();
    let mut sum = 0.0;
    for frame in frames {
        sum += frame.airtime.as_secs_f64();
        ends.push((frame.at, sum));
    }
    let until = |at: Timestamp| {
        let behind = ends.partition_point(|(end, _)| *end <= at);
        behind.checked_sub(1).map_or(0.0, |last| ends[last].1)
    };
    (0..=POINTS)
        .map(|at| {
            let moment = picture.axis.moment(real(at) / real(POINTS));
            (until(moment) - until(moment - span)) / allowed.as_secs_f64()
        })
        .collect()
}

fn draw(load: &Load) -> String {
    let (width, height) = SIZE;
    let (left, top, base) = (8.0, 8.0, height - 6.0);
    let mut svg = Svg::default();
    svg.rect((left, top), (width - 16.0, base - top), "lane", "");
    let peak = load.points.iter().copied().fold(1.0, f64::max);
    let y = |share: f64| base - share / peak * (base - top - 10.0);
    let points: Vec<(f64, f64)> = load
        .points
        .iter()
        .enumerate()
        .map(|(at, share)| (left + real(at) / real(POINTS) * (width - 16.0), y(*share)))
        .collect();
    svg.line((left, y(1.0)), (width - 8.0, y(1.0)), "limit");
    svg.text((width - 12.0, y(1.0) - 3.0), Anchor::End, "note", "100 %");
    svg.path(&points, "spent");
    svg.element(width, height, "air time of a gateway")
}
