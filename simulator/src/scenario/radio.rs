//! The air of a scenario (`[radio]`): path loss, fading, steady loss, bursts, collisions.

use crate::channel::Bursts;
use crate::propagation::PathLoss;

use super::kinds::{number, share, time, yes};
use super::reading::Fields;

/// The air between all devices and gateways.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Radio {
    /// How signals weaken with distance, for devices with positions.
    pub path_loss: PathLoss,
    /// Sigma of fading from frame to frame, in dB, for devices with positions.
    pub fading_db: f64,
    /// Noise figure of all receivers, in dB.
    pub noise_figure_db: f64,
    /// Share of frames lost on every link in either direction, beside everything else.
    pub loss: f64,
    /// Loss in bursts, from the start of the task on.
    pub bursts: Option<Bursts>,
    /// Uplinks at the same time on one channel and data rate destroy each other, unless one is 6 dB stronger.
    pub collisions: bool,
}

pub(super) fn read(root: &mut Fields<'_>) -> Radio {
    let mut table = root.table("radio");
    let measured = PathLoss::default();
    let path_loss = PathLoss {
        reference_db: table.or("reference_loss", number(0.0..=250.0), measured.reference_db),
        reference_m: table.or(
            "reference_distance",
            number(1.0..=100_000.0),
            measured.reference_m,
        ),
        exponent: table.or("path_loss_exponent", number(1.5..=8.0), measured.exponent),
        shadowing_db: table.or("shadowing", number(0.0..=30.0), measured.shadowing_db),
    };
    let fading_db = table.or("fading", number(0.0..=20.0), 2.0);
    let noise_figure_db = table.or("noise_figure", number(0.0..=30.0), 6.0);
    let loss = table.or("loss", share, 0.0);
    let collisions = table.or("collisions", yes, true);
    let mut inner = table.table("bursts");
    let bursts = inner.is_present().then(|| {
        let every = inner.needed("every", time);
        let lasts = inner.needed("lasts", time);
        let loss = inner.or("loss", share, 0.9);
        Some(Bursts {
            every: every?,
            lasts: lasts?,
            loss,
        })
    });
    inner.finish();
    table.finish();
    Radio {
        path_loss,
        fading_db,
        noise_figure_db,
        loss,
        bursts: bursts.flatten(),
        collisions,
    }
}
