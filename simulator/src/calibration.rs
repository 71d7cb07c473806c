//! The simulator against a published experiment: one STM32WL55 that fetches 2 kB by class C multicast in EU868, once
//! for each data rate, with its energy and the time it listened (`klementc/fuotaa-reprod`, raw logs).
//!
//! The experiment as its logs have it: the device joins and sends 18 bytes every 30 s; its eleventh uplink is answered
//! with the set-up; five minutes later it listens until it has every fragment. The gateway leaves the same pause
//! between fragments. Here the production server does the same in virtual time, held to that pace by the share of its
//! air.

use std::fmt::Write as _;
use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::{DeviceState, RebootMode, SuccessCriterion};

use crate::check::CheckOptions;
use crate::device::{EndDevice, RadioTime, StackProfile};
use crate::energy::PowerProfile;
use crate::fleet::{Fleet, FleetOptions, Stacks};
use crate::scene::Scene;
use crate::world::World;

/// One data rate of the experiment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// Data rate index, of uplinks too.
    pub data_rate: u8,
    /// Bytes of a fragment.
    pub frag_size: u8,
    /// Fragments.
    pub nb_frag: u16,
    /// Between two fragments in the mean, milliseconds.
    pub interval_ms: u64,
    /// How long the device listened in class C until it had everything: the shortest and the longest of five runs,
    /// seconds. They differ by how late the first fragment came.
    pub listened_s: (f64, f64),
    /// What it spent, joules, the mean of five runs.
    pub joules: f64,
    /// What the authors' ns-3 model spent.
    pub ns3_joules: f64,
}

/// The experiment.
pub const PUBLISHED: [Published; 6] = [
    published(0, (39, 52), 20_704, (1060.0, 1060.0), (33.29, 30.65)),
    published(1, (39, 52), 11_080, (569.0, 569.0), (20.76, 19.43)),
    published(2, (39, 52), 6_500, (322.0, 353.0), (14.59, 12.54)),
    published(3, (110, 19), 7_310, (132.0, 172.0), (9.98, 8.99)),
    published(4, (219, 10), 7_470, (70.0, 96.0), (8.53, 7.82)),
    published(5, (230, 9), 4_640, (40.0, 78.0), (7.57, 7.25)),
];

const fn published(
    data_rate: u8,
    (frag_size, nb_frag): (u8, u16),
    interval_ms: u64,
    listened_s: (f64, f64),
    (joules, ns3_joules): (f64, f64),
) -> Published {
    Published {
        data_rate,
        frag_size,
        nb_frag,
        interval_ms,
        listened_s,
        joules,
        ns3_joules,
    }
}

/// What came of it here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Simulated {
    /// From the join to the last fragment.
    pub total: Duration,
    /// From the opening of the window to the last fragment.
    pub listened: Duration,
    /// The device's radio in all.
    pub radio: RadioTime,
    /// Uplinks, the join not among them.
    pub uplinks: u64,
}

const UPLINK_INTERVAL: Duration = Duration::from_secs(30);
/// Uplinks before the one that is answered with the set-up.
const UPLINKS_BEFORE: u32 = 10;
/// From the start of set-up to the window.
const WINDOW_AFTER: Duration = Duration::from_secs(330);
const OBJECT_BYTES: usize = 2000;
/// `DataFragment` in a frame: 13 bytes of MAC, 3 of the command.
const OVERHEAD: u8 = 16;
const DAY: Duration = Duration::from_secs(86_400);

/// Runs one data rate.
///
/// # Panics
/// The world cannot be set up, or the device does not get its fragments; that is a defect of the simulator.
pub fn simulate(experiment: &Published) -> Simulated {
    let rate = Region::Eu868.data_rate(experiment.data_rate, Direction::Downlink);
    let airtime = rate.map_or(0, |rate| frame_us(rate, experiment.frag_size));
    let share = airtime / experiment.interval_ms.max(1);
    let mut options = CheckOptions {
        fleet: FleetOptions {
            devices: 1,
            gateways: 1,
            loss: 0.0,
            region: Region::Eu868,
            data_rate: experiment.data_rate,
            uplink_interval: UPLINK_INTERVAL,
            stacks: Stacks::One(StackProfile::SpecV1),
            ..FleetOptions::default()
        },
        air_share_permille: u16::try_from(share).unwrap_or(1000),
        window_after: Some(WINDOW_AFTER),
        ..CheckOptions::default()
    };
    let frame = Fleet::new(options.fleet).image(&[]);
    options.image_bytes = OBJECT_BYTES.saturating_sub(frame.map_or(0, |empty| empty.len()));
    let mut scene = Scene::with(&options, |device| {
        device.uplinks.data_rate = experiment.data_rate;
        device.uplinks.adr = false;
    });
    let device = |scene: &Scene| scene.world.lab(|lab| lab.devices().next().cloned());
    let joined = |world: &World| world.lab(|l| l.devices().all(EndDevice::is_activated));
    assert!(scene.world.run_until(DAY, joined), "the device joins");
    let begins = scene.world.now();
    let before = device(&scene).map(|d| (d.radio_time(begins), d.counts().sent));
    scene
        .world
        .run_until(UPLINK_INTERVAL * UPLINKS_BEFORE, |_| false);
    let mut task = scene.draft();
    task.options.frag_size = Some(experiment.frag_size);
    task.success = SuccessCriterion::ReportedReceived;
    task.reboot = RebootMode::None;
    scene.start(&task).expect("the task fits its device");
    // It says nothing while it listens.
    let ready = |world: &World| {
        let devices = world.task_devices(&task.id);
        devices.iter().all(|d| d.state >= DeviceState::Ready)
    };
    assert!(scene.world.run_until(DAY, ready), "the device is set up");
    let now = scene.world.now();
    let dev_eui = scene.fleet.devices[0].dev_eui;
    scene.world.lab_mut(|lab| {
        lab.change_device(dev_eui, |device| device.set_uplink_interval(now, DAY));
    });
    let complete =
        |world: &World| world.lab(|lab| lab.devices().all(|d| d.block_completed_at().is_some()));
    assert!(
        scene.world.run_until(DAY, complete),
        "the block is complete"
    );
    let ends = scene.world.now();
    let window = scene.world.sessions(&task.id);
    let opened = window.iter().map(|s| s.window.start).min().unwrap_or(ends);
    let (radio_before, sent_before) = before.unwrap_or_default();
    let (radio, sent) = device(&scene)
        .map(|d| (d.radio_time(ends), d.counts().sent))
        .unwrap_or_default();
    Simulated {
        total: ends.since(begins),
        listened: ends.since(opened),
        radio: RadioTime {
            sending: radio.sending.saturating_sub(radio_before.sending),
            receiving: radio.receiving.saturating_sub(radio_before.receiving),
        },
        uplinks: sent - sent_before,
    }
}

fn frame_us(rate: DataRate, frag_size: u8) -> u64 {
    rate.time_on_air_us(frag_size.saturating_add(OVERHEAD), Direction::Downlink)
        .into()
}

/// The table, in Markdown.
pub fn table(power: &PowerProfile) -> String {
    let mut out = String::from(
        "| data rate | fragments | listened s, hardware | simulated | outside | energy J, hardware | ns-3 | simulated | deviation |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for experiment in &PUBLISHED {
        let simulated = simulate(experiment);
        let joules = power.joules(simulated.total, simulated.radio);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| DR{} | {} x {} B | {} | {:.0} | {:.1} % | {:.2} | {:.2} | {:.2} | {:+.1} % |",
            experiment.data_rate,
            experiment.nb_frag,
            experiment.frag_size,
            range(experiment.listened_s),
            simulated.listened.as_secs_f64(),
            outside(simulated.listened, experiment.listened_s) * 100.0,
            experiment.joules,
            experiment.ns3_joules,
            joules,
            (joules / experiment.joules - 1.0) * 100.0,
        );
    }
    out
}

fn range((low, high): (f64, f64)) -> String {
    if low < high {
        format!("{low:.0} to {high:.0}")
    } else {
        format!("{low:.0}")
    }
}

/// How far a time is outside of a range, as a share of its nearer end.
fn outside(time: Duration, (low, high): (f64, f64)) -> f64 {
    let seconds = time.as_secs_f64();
    (low / seconds - 1.0).max(seconds / high - 1.0).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulator_spends_what_hardware_spends() {
        for experiment in &PUBLISHED {
            let simulated = simulate(experiment);
            let joules = PowerProfile::STM32WL55.joules(simulated.total, simulated.radio);
            let deviation = joules / experiment.joules - 1.0;
            assert!(
                deviation.abs() < 0.05,
                "{experiment:?} {simulated:?} {joules}"
            );
            let outside = outside(simulated.listened, experiment.listened_s);
            assert!(outside < 0.02, "{experiment:?} {simulated:?}");
            assert_eq!(simulated.uplinks, 15, "{experiment:?}");
        }
    }
}
