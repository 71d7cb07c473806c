//! From a world that fails to the smallest that still does, the command that repeats it, and its log.
//!
//! Everything that can be simplified is tried one after the other: faults switched off, fewer devices, one gateway, a
//! smaller image. What still breaks the same property stays.

use std::fmt::Write;

use lorawan_fuota::lorawan::identifiers::DevEui;

use crate::check::{self, CheckOptions, Outcome};
use crate::checkers::{Checker, Event};
use crate::fleet::Stacks;
use crate::image_set::ImageSet;
use crate::world::Faults;

/// What a world is simplified by; the defaults change nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Simpler {
    /// Faults that are switched off, by name.
    pub without: Vec<String>,
    /// Fewer devices.
    pub devices: Option<u32>,
    /// Fewer gateways.
    pub gateways: Option<u32>,
    /// Bytes of firmware.
    pub image_bytes: Option<usize>,
    /// Other stacks than the seed says.
    pub stacks: Option<Stacks>,
    /// Another loss than the seed says, in percent.
    pub loss_percent: Option<u32>,
    /// Other images than the seed says.
    pub images: Option<ImageSet>,
}

/// Lines of a log that are shown.
const LOG_LINES: usize = 60;

impl Simpler {
    /// The simplified world of a seed.
    ///
    /// # Errors
    /// There is no fault of this name.
    pub fn options(&self, seed: u64) -> Result<CheckOptions, String> {
        let mut options = CheckOptions::of_seed(seed);
        if let Some(percent) = self.loss_percent {
            options.fleet.loss = f64::from(percent) / 100.0;
        }
        for name in &self.without {
            let known = match name.as_str() {
                "loss" => {
                    options.fleet.loss = 0.0;
                    true
                }
                "share" => {
                    options.air_share_permille = 1000;
                    true
                }
                "hurry" => {
                    options.window_after = None;
                    true
                }
                "spread" => {
                    options.spread = false;
                    true
                }
                "kept" => {
                    options.kept_groups = false;
                    true
                }
                "several" => {
                    options.images = ImageSet::One;
                    true
                }
                name => options.faults.without(name),
            };
            if !known {
                return Err(format!("there is no fault {name}"));
            }
        }
        let fleet = &mut options.fleet;
        fleet.stacks = self.stacks.unwrap_or(fleet.stacks);
        fleet.devices = self.devices.unwrap_or(fleet.devices);
        fleet.gateways = self.gateways.unwrap_or(fleet.gateways);
        options.image_bytes = self.image_bytes.unwrap_or(options.image_bytes);
        options.bring(self.images.unwrap_or(options.images));
        Ok(options)
    }

    /// The command that runs this world.
    pub fn command(&self, seed: u64) -> String {
        let mut command = format!("fuota-sim check --from {seed} --seeds 1");
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                // Writing to a string cannot go wrong.
                let _ = write!(command, " --{name} {value}");
            }
        };
        add("devices", self.devices.map(|n| n.to_string()));
        add("gateways", self.gateways.map(|n| n.to_string()));
        add("image-bytes", self.image_bytes.map(|n| n.to_string()));
        add("stack", self.stacks.map(|stacks| stacks.name().to_owned()));
        add("loss", self.loss_percent.map(|n| n.to_string()));
        add("images", self.images.map(|images| images.name()));
        let without = (!self.without.is_empty()).then(|| self.without.join(","));
        add("without", without);
        command
    }
}

/// A world that fails, as small as it was found.
#[derive(Clone, Debug)]
pub struct Smallest {
    /// How it is simplified.
    pub simpler: Simpler,
    /// What became of it.
    pub outcome: Outcome,
}

/// Simplifies a seed that breaks `checker`, beginning at `from`, as long as it still does.
pub fn minimise(seed: u64, from: &Simpler, checker: Checker) -> Smallest {
    let broken = |simpler: &Simpler| {
        let outcome = check::run(&simpler.options(seed).ok()?);
        let fails = outcome.violations.iter().any(|v| v.checker == checker);
        fails.then_some(())
    };
    let mut best = from.clone();
    let consider = |candidate: Simpler, best: &mut Simpler| {
        let fails = candidate != *best && broken(&candidate).is_some();
        if fails {
            *best = candidate;
        }
        fails
    };
    let others = ["loss", "share", "hurry", "spread", "kept", "several"];
    for name in Faults::names().chain(others) {
        let mut candidate = best.clone();
        candidate.without.push(name.to_owned());
        // What is not there needs not be switched off.
        let same = candidate.options(seed) == best.options(seed);
        if !same {
            consider(candidate, &mut best);
        }
    }
    let full = CheckOptions::of_seed(seed);
    let fewest = |n: u32| (1..n).collect::<Vec<_>>();
    for devices in fewest(best.devices.unwrap_or(full.fleet.devices)) {
        let devices = Some(devices);
        if consider(
            Simpler {
                devices,
                ..best.clone()
            },
            &mut best,
        ) {
            break;
        }
    }
    for gateways in fewest(best.gateways.unwrap_or(full.fleet.gateways)) {
        let gateways = Some(gateways);
        if consider(
            Simpler {
                gateways,
                ..best.clone()
            },
            &mut best,
        ) {
            break;
        }
    }
    let whole = best.image_bytes.unwrap_or(full.image_bytes);
    for bytes in [100, 300, 1000, 3000] {
        let image_bytes = Some(bytes).filter(|bytes| *bytes < whole);
        if image_bytes.is_some()
            && consider(
                Simpler {
                    image_bytes,
                    ..best.clone()
                },
                &mut best,
            )
        {
            break;
        }
    }
    let options = best.options(seed).unwrap_or(full);
    Smallest {
        outcome: check::run_logged(&options),
        simpler: best,
    }
}

/// The log of a run: what happened to the device that failed, and to all; its last lines up to the first violation.
pub fn log(outcome: &Outcome) -> Vec<String> {
    let Some(first) = outcome.violations.first() else {
        return Vec::new();
    };
    let about_frames = matches!(
        first.checker,
        Checker::Counters
            | Checker::Fragments
            | Checker::Windows
            | Checker::AirShare
            | Checker::DutyCycle
    );
    let concerns = |device: Option<DevEui>| device.is_none() || device == first.device;
    let shown: Vec<&Event> = outcome
        .events
        .iter()
        .filter(|event| concerns(event.device) && event.at <= first.at)
        .filter(|event| about_frames || !event.frame)
        .collect();
    let from = shown.len().saturating_sub(LOG_LINES);
    let mut lines: Vec<String> = shown[from..]
        .iter()
        .map(|event| {
            let device = event.device.map(|d| format!("device {d}: "));
            format!("{}  {}{}", event.at, device.unwrap_or_default(), event.what)
        })
        .collect();
    if from > 0 {
        lines.insert(0, format!("({from} earlier events)"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_says_what_was_simplified() {
        let simpler = Simpler {
            without: vec!["loss".to_owned(), "crashes".to_owned()],
            devices: Some(2),
            ..Simpler::default()
        };
        assert_eq!(
            simpler.command(7),
            "fuota-sim check --from 7 --seeds 1 --devices 2 --without loss,crashes"
        );
        let options = simpler.options(7).unwrap();
        assert_eq!((options.fleet.devices, options.fleet.loss), (2, 0.0));
        let nonsense = Simpler {
            without: vec!["gravity".to_owned()],
            ..Simpler::default()
        };
        assert!(nonsense.options(7).is_err());
    }
}
