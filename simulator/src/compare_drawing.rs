//! The comparison with other systems as a drawing: a panel for each fleet and setting, a bar for each system as long as
//! its distribution takes, coloured by the share of devices it updates.
//!
//! PURE.

use crate::compare::{BOUND, Comparison, OURS, SETTINGS, Standing};
use crate::redundancy::ROWS;
use crate::svg::{Anchor, Svg};

const PANEL: (f64, f64) = (346.0, 222.0);
const MARGIN: (f64, f64) = (140.0, 96.0);
const BAR: f64 = 17.0;
const STEP: f64 = 25.0;
/// What is left of a panel's width for its longest bar.
const LONGEST: f64 = 104.0;

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1b2733}\
.title{font-size:20px;font-weight:600}.note{fill:#5b6b7a}.head{font-weight:600;font-size:14px}\
.own{font-weight:700}.frame{fill:#f5f7f9}.all{fill:#2a9d6f}.most{fill:#e0a526}.few{fill:#d1495b}\
.least{fill:#b9c4ce}.law{fill:none;stroke:#d1495b;stroke-width:2;stroke-dasharray:4 3}\
.bg{fill:#fff}";

/// The drawing as an SVG file.
pub fn draw(comparisons: &[Comparison]) -> String {
    let (columns, rows) = (as_f64(ROWS.len()), as_f64(SETTINGS.len()));
    let width = MARGIN.0 + columns * PANEL.0 + 16.0;
    let height = MARGIN.1 + rows * PANEL.1 + 16.0;
    let mut svg = Svg::default();
    svg.rect((0.0, 0.0), (width, height), "bg", "");
    svg.text(
        (20.0, 32.0),
        Anchor::Start,
        "title",
        "How long a distribution takes, and whom it updates",
    );
    legend(&mut svg);
    for (column, row) in ROWS.iter().enumerate() {
        let x = MARGIN.0 + as_f64(column) * PANEL.0;
        let name = format!("lost: {}", row.name);
        svg.text((x + 6.0, MARGIN.1 - 8.0), Anchor::Start, "head", &name);
    }
    for (at, setting) in SETTINGS.iter().enumerate() {
        let y = MARGIN.1 + as_f64(at) * PANEL.1;
        svg.text((20.0, y + 24.0), Anchor::Start, "head", setting.name);
        for (column, row) in ROWS.iter().enumerate() {
            let x = MARGIN.0 + as_f64(column) * PANEL.0;
            let of_panel = |c: &&Comparison| c.setting == setting.name && c.fleet == row.name;
            if let Some(comparison) = comparisons.iter().find(of_panel) {
                panel(&mut svg, (x, y), comparison);
            }
        }
    }
    svg.document(width, height, "comparison of distribution policies", STYLE)
}

fn legend(svg: &mut Svg) {
    let entries = [
        ("all", "every device updated"),
        ("most", "at least half"),
        ("few", "fewer"),
        ("least", "least possible"),
        ("law", "duty cycle broken"),
    ];
    let mut x = 20.0;
    for (class, text) in entries {
        svg.rect((x, 46.0), (14.0, 14.0), class, "");
        svg.text((x + 20.0, 58.0), Anchor::Start, "note", text);
        x += 36.0 + as_f64(text.len()) * 6.6;
    }
}

fn panel(svg: &mut Svg, (x, y): (f64, f64), comparison: &Comparison) {
    svg.rect((x, y), (PANEL.0 - 10.0, PANEL.1 - 12.0), "frame", "");
    let minutes = |s: &Standing| s.duration.as_secs_f64() / 60.0;
    let longest = comparison.standings.iter().map(minutes).fold(0.1, f64::max);
    for (at, standing) in comparison.standings.iter().enumerate() {
        let top = y + 10.0 + as_f64(at) * STEP;
        let length = (minutes(standing) / longest * LONGEST).max(1.5);
        let class = match standing {
            s if s.system == BOUND => "least",
            s if s.updated > 0.9999 => "all",
            s if s.updated >= 0.5 => "most",
            _ => "few",
        };
        let tip = format!(
            "{}: {:.0} frames, {:.1} min, {:.2} % updated",
            standing.system,
            standing.frames,
            minutes(standing),
            standing.updated * 100.0
        );
        let left = x + 8.0;
        svg.rect((left, top), (length, BAR), class, &tip);
        if standing.breaks_the_law() {
            svg.rect((left, top), (length, BAR), "law", "");
        }
        let percent = match standing.updated {
            _ if standing.system == BOUND => String::new(),
            updated if updated > 0.9999 => ", 100 %".to_owned(),
            updated => format!(", {:.0} %", (updated * 100.0).floor()),
        };
        let text = format!("{} {:.0} min{percent}", standing.system, minutes(standing));
        let class = if standing.system == OURS { "own" } else { "" };
        svg.text(
            (left + length + 6.0, top + 13.0),
            Anchor::Start,
            class,
            &text,
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few panels and characters")]
fn as_f64(n: usize) -> f64 {
    n as f64
}
