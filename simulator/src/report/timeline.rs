//! The timeline: set-up, windows, fragments and polls of each session, faults, and how far devices are.
//!
//! PURE.

use std::time::Duration;

use lorawan_fuota::record::{DeviceState, DistributionSession, TaskDevice, WindowNumber};
use lorawan_fuota::time::Timestamp;

use crate::svg::{Anchor, Svg};

use super::Picture;
use super::chart::{LEFT, LOOKS, RIGHT, TimeAxis, WIDTH, look, real, state_at};

const LANE: f64 = 34.0;
const GAP: f64 = 8.0;
const CURVES: f64 = 220.0;
/// Room for the words of a fault.
const FAULT_WORDS: f64 = 170.0;
/// Columns of the curves.
const COLUMNS: usize = 400;

/// Sessions over time: window, density of fragments, polls; and what went wrong when.
pub(super) fn timeline(picture: &Picture<'_>) -> String {
    let axis = picture.axis;
    let mut svg = Svg::default();
    let lanes = picture.sessions.len().max(1);
    let base = 24.0 + real(lanes) * (LANE + GAP);
    axis.draw(&mut svg, 16.0, base);
    for (at, session) in picture.sessions.iter().enumerate() {
        let top = 24.0 + real(at) * (LANE + GAP);
        lane(&mut svg, picture, session, top);
    }
    for (at, what) in &picture.faults {
        let x = axis.x(*at);
        svg.line((x, 12.0), (x, base), "fault");
        // Words that would be cut at the right edge stand left of their line.
        let room = WIDTH - x;
        let (x, anchor) = match room < FAULT_WORDS {
            true => (x - 3.0, Anchor::End),
            false => (x + 3.0, Anchor::Start),
        };
        svg.text((x, 12.0), anchor, "note", what);
    }
    svg.element(WIDTH, base + 24.0, "sessions over time")
}

fn lane(svg: &mut Svg, picture: &Picture<'_>, session: &DistributionSession, top: f64) {
    let axis = picture.axis;
    svg.rect((LEFT, top), (WIDTH - LEFT - RIGHT, LANE), "lane", "");
    let number = session.id.number;
    let name = format!("session {number}");
    svg.text((8.0, top + 15.0), Anchor::Start, "", &name);
    let what = format!(
        "wave {}, class {:?}, DR{}",
        session.wave + 1,
        session.class,
        session.data_rate
    );
    svg.text((8.0, top + 29.0), Anchor::Start, "note", &what);
    let mut windows = picture.recording.windows.clone();
    windows.insert((number, session.window.number), session.window);
    for (of, window) in windows.range((number, 0)..=(number, WindowNumber::MAX)) {
        let (opens, ends) = (axis.x(window.start), axis.x(window.end()));
        let tip = format!("window {} of {name}", of.1);
        svg.rect((opens, top), (ends - opens, LANE), "window", &tip);
    }
    let of_session: Vec<_> = picture
        .fragments
        .iter()
        .filter(|fragment| fragment.session == session.id)
        .collect();
    let width = (WIDTH - LEFT - RIGHT) / real(COLUMNS);
    let mut columns = vec![(0_u32, 0_u32); COLUMNS];
    for fragment in &of_session {
        if let Some((uncoded, coded)) = columns.get_mut(column(axis, fragment.at)) {
            if fragment.n <= session.block.nb_frag {
                *uncoded += 1;
            } else {
                *coded += 1;
            }
        }
    }
    let most = columns.iter().map(|(a, b)| a + b).max().unwrap_or(0).max(1);
    for (at, (uncoded, coded)) in columns.iter().enumerate() {
        let x = LEFT + real(at) * width;
        let height = |count: u32| f64::from(count) / f64::from(most) * (LANE - 4.0);
        let (low, high) = (height(*uncoded), height(*coded));
        if low > 0.0 {
            svg.rect((x, top + LANE - low), (width, low), "frame", "");
        }
        if high > 0.0 {
            svg.rect((x, top + LANE - low - high), (width, high), "coded", "");
        }
    }
    for round in &session.rounds {
        let x = axis.x(round.at);
        svg.line((x, top), (x, top + LANE), "poll");
    }
}

fn column(axis: TimeAxis, at: Timestamp) -> usize {
    let all = axis.to.since(axis.from).as_micros().max(1);
    let columns = u128::try_from(COLUMNS).unwrap_or(1);
    let index = at.since(axis.from).as_micros() * columns / all;
    usize::try_from(index)
        .unwrap_or(usize::MAX)
        .min(COLUMNS - 1)
}

/// Shares of the devices by state, stacked, and the mean share of the image they hold.
pub(super) fn progress(picture: &Picture<'_>) -> String {
    let axis = picture.axis;
    let mut svg = Svg::default();
    let base = 10.0 + CURVES;
    let width = (WIDTH - LEFT - RIGHT) / real(COLUMNS);
    let all = real(picture.devices.len().max(1));
    for at in 0..COLUMNS {
        let moment = axis.moment((real(at) + 0.5) / real(COLUMNS));
        let mut y = base;
        // What devices have reached stands below what they have still to do.
        for state in stacking() {
            let count = count_of(picture.devices, state, moment);
            let height = real(count) / all * CURVES;
            if height > 0.0 {
                y -= height;
                let x = LEFT + real(at) * width;
                svg.rect((x, y), (width + 0.3, height), look(state).0, "");
            }
        }
    }
    let points: Vec<(f64, f64)> = picture
        .recording
        .samples
        .iter()
        .map(|sample| {
            let sum: u32 = sample.held.values().map(|held| u32::from(*held)).sum();
            let mean = f64::from(sum) / real(sample.held.len().max(1)) / 100.0;
            (axis.x(sample.at), base - mean * CURVES)
        })
        .collect();
    svg.path(&points, "curve");
    for (share, text) in [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")] {
        let y = base - share * CURVES;
        svg.line((LEFT - 4.0, y), (LEFT, y), "axis");
        svg.text((LEFT - 8.0, y + 4.0), Anchor::End, "note", text);
    }
    axis.draw(&mut svg, base, base);
    svg.element(WIDTH, base + 24.0, "share of devices by state over time")
}

/// From the bottom up: successes, then who is on the way, then who failed.
fn stacking() -> impl Iterator<Item = DeviceState> {
    LOOKS[..8].iter().rev().chain(&LOOKS[8..]).copied()
}

fn count_of(devices: &[TaskDevice], wanted: DeviceState, at: Timestamp) -> usize {
    let class = look(wanted).0;
    let states = devices.iter().map(|device| look(state_at(device, at)).0);
    states.filter(|is| *is == class).count()
}

/// Devices by time: a row each, coloured by its state, and while it receives by how much it holds.
pub(super) fn heat(picture: &Picture<'_>) -> String {
    const MOST_ROWS: usize = 160;
    const CELLS: usize = 220;
    let axis = picture.axis;
    let rows = rows(picture, MOST_ROWS);
    let height = (520.0 / real(rows.len().max(1))).clamp(3.0, 16.0);
    let base = 10.0 + height * real(rows.len());
    let width = (WIDTH - LEFT - RIGHT) / real(CELLS);
    let mut svg = Svg::default();
    for (at, device) in rows.iter().enumerate() {
        let y = 10.0 + real(at) * height;
        if height >= 9.0 {
            let name = device.dev_eui.to_string();
            svg.text((LEFT - 8.0, y + height - 2.0), Anchor::End, "note", &name);
        }
        // Cells alike are one.
        let mut run: Option<(usize, String)> = None;
        for cell in 0..=CELLS {
            let looks = (cell < CELLS).then(|| {
                let moment = axis.moment((real(cell) + 0.5) / real(CELLS));
                colour(picture, device, moment)
            });
            match (&run, looks) {
                (Some((_, same)), Some(now)) if *same == now => {}
                (last, now) => {
                    if let Some((from, fill)) = last {
                        let x = LEFT + real(*from) * width;
                        let length = real(cell - from) * width + 0.2;
                        svg.cell((x, y), (length, (height - 0.6).max(1.0)), fill);
                    }
                    run = now.map(|now| (cell, now));
                }
            }
        }
    }
    axis.draw(&mut svg, base, base);
    svg.element(WIDTH, base + 24.0, "devices over time")
}

/// The devices shown: those that failed, then the others at even distances.
fn rows<'a>(picture: &Picture<'a>, most: usize) -> Vec<&'a TaskDevice> {
    let failed = |d: &&TaskDevice| d.state.is_failure();
    let mut shown: Vec<&TaskDevice> = picture.devices.iter().filter(failed).take(most).collect();
    let others: Vec<&TaskDevice> = picture.devices.iter().filter(|d| !failed(d)).collect();
    let room = most.saturating_sub(shown.len()).min(others.len());
    shown.extend((0..room).map(|at| others[at * others.len() / room.max(1)]));
    shown
}

fn colour(picture: &Picture<'_>, device: &TaskDevice, at: Timestamp) -> String {
    let state = state_at(device, at);
    let class = look(state).0;
    if state != DeviceState::Receiving {
        return format!("var(--{class})");
    }
    let held = picture.recording.at(at + Duration::from_millis(1));
    let held = held.and_then(|sample| sample.held.get(&device.dev_eui));
    // Steps of ten make runs of equal cells.
    let tens = u32::from(held.copied().unwrap_or(0)) / 10;
    let light = 84 - tens * 4;
    format!("hsl(210 55% {light}%)")
}
