//! Scenarios: a fleet, its radio, what goes wrong, an image, a task and what is expected of them, in one TOML file.
//!
//! [`Scenario::read`] reads a file and says all that is wrong with it, each with line and column. [`Scenario::run`]
//! runs it in virtual time and judges it; [`Running`] is the same in steps, for who wants to look at the world before
//! and after. `docs/scenarios.md` is the manual of the format. Reading takes apart by subject: `site` (gateways),
//! `radio`, `stacks`, `groups` (devices), `trouble` (faults), `order` (image and task), `expectations`.

mod building;
mod entering;
mod expectations;
mod groups;
mod junit;
mod kinds;
#[cfg(test)]
mod manual;
mod order;
mod outcome;
mod radio;
mod reading;
mod running;
mod site;
mod stacks;
mod summary;
mod trouble;

use std::path::Path;
use std::time::Duration;

use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::DeviceClass;
use lorawan_fuota::time::Timestamp;
use toml::de::DeTable;

use crate::world::Faults;

pub use building::{PlacedDevice, PlacedGateway, Site};
pub use expectations::{Expectations, GroupExpectation, Judged};
pub use groups::{FixedLink, Group, GroupClass, ImageCheckKind, Placement, Reach};
pub use junit::junit;
pub use order::{ImageContent, ImagePlan, RebootPlan, TaskPlan};
pub use outcome::{DeviceOutcome, End, Frames, GroupOutcome, Outcome, SessionOutcome, TaskOutcome};
pub use radio::Radio;
pub use reading::ScenarioError;
pub use running::Running;
pub use site::GatewayPlan;
pub use stacks::Stack;
pub use summary::summary;
pub use trouble::{Devices, FaultKind, TimedFault};

use kinds::{moment, text, time, time_in, whole, word};
use reading::{Fields, File};

/// A scenario, as its file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// The seed of a run that is not told another.
    pub seed: u64,
    /// Regional parameters of everything.
    pub region: Region,
    /// When the world begins.
    pub start: Timestamp,
    /// Devices are switched on within so long.
    pub join_spread: Duration,
    /// The task starts when all devices have joined, and after so long in any case.
    pub joined_within: Duration,
    /// The run ends so long after the start of the task in any case.
    pub longest: Duration,
    /// The gateways.
    pub gateways: Vec<GatewayPlan>,
    /// The devices, by groups.
    pub groups: Vec<Group>,
    /// The air.
    pub radio: Radio,
    /// What goes wrong by chance.
    pub faults: Faults,
    /// What goes wrong at set times.
    pub timed: Vec<TimedFault>,
    /// The image.
    pub image: ImagePlan,
    /// The task.
    pub task: TaskPlan,
    /// What is expected.
    pub expect: Expectations,
}

/// When worlds begin: a Friday morning.
const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const DAY: Duration = Duration::from_secs(86_400);

impl Scenario {
    /// Reads a scenario. `file_name` is what errors call it; files it names are looked for beside it.
    ///
    /// # Errors
    /// All that is wrong with it, in the order of its lines.
    pub fn read(text: &str, file_name: &str) -> Result<Self, Vec<ScenarioError>> {
        let file = File::new(text, file_name);
        let scenario = Self::read_in(&file, text, file_name);
        match scenario {
            Some(scenario) if file.is_good() => Ok(scenario),
            _ => Err(file.into_errors()),
        }
    }

    /// Reads a scenario from a file.
    ///
    /// # Errors
    /// As [`Scenario::read`]; a file that cannot be read is one error without a line.
    pub fn read_file(path: &Path) -> Result<Self, Vec<ScenarioError>> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::read(&text, &name),
            Err(error) => {
                let file = File::new("", &name);
                file.wrong(&(0..0), "", error.to_string());
                Err(file.into_errors())
            }
        }
    }

    /// Runs it in virtual time, to its end.
    ///
    /// # Panics
    /// The server does not take the fleet: a defect of the simulator.
    pub fn run(&self, seed: u64) -> Outcome {
        Running::new(self, seed).run()
    }

    fn read_in(file: &File<'_>, text: &str, file_name: &str) -> Option<Self> {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            file.wrong(&span, "", format!("this is no TOML: {}", error.message()));
        }
        if !errors.is_empty() {
            return None;
        }
        let mut root = Fields::root(file, table.get_ref());
        let folder = Path::new(file_name)
            .parent()
            .unwrap_or_else(|| Path::new("."));
        let scenario = Self::read_tables(file, &mut root, folder);
        root.finish();
        scenario.check(file);
        Some(scenario)
    }

    fn read_tables<'a>(file: &'a File<'a>, root: &mut Fields<'a>, folder: &Path) -> Self {
        let regions = Region::ALL.map(|region| (region.name(), region));
        let minute = Duration::from_secs(60);
        let name = root.needed("name", text).unwrap_or_default();
        let about = root.or("about", text, String::new());
        let seed = root.or("seed", whole(0..=u64::MAX / 2), 1);
        let region = root.needed("region", word(&regions));
        let region = region.unwrap_or(Region::Eu868);
        let start = root.or("start", moment, START);
        let longest = root.get("longest", time_in(minute..=DAY * 60));
        let radio = radio::read(root);
        let gateways = site::read(file, root);
        let stacks = stacks::read(file, root);
        let named = groups::Named {
            region,
            gateways: &gateways,
            stacks: &stacks,
        };
        let groups = groups::read(file, root, &named);
        // One device every half second, so that joins do not destroy each other.
        let counts = groups.iter().map(|group| group.count);
        let count = counts.fold(0, u32::saturating_add);
        let spread = Duration::from_millis(500) * count;
        let spread = spread.clamp(Duration::from_secs(10), minute * 30);
        let join_spread = root.or("join_spread", time, spread);
        let joined_within = root.or("joined_within", time, join_spread * 2 + minute * 10);
        let faults = trouble::read_chances(root, &radio);
        let timed = trouble::read_timed(file, root, &gateways, &groups);
        let image = order::read_image(file, root, folder);
        let ordered = order::Named {
            region,
            groups: &groups,
        };
        let task = order::read_task(file, root, &ordered);
        let expect = expectations::read(file, root, &groups);
        let longest = longest.unwrap_or_else(|| {
            let cleaned = task.options.cleanup_within + minute * 60;
            DAY.max(task.deadline.map_or(DAY, |deadline| deadline + cleaned))
        });
        Self {
            name,
            about,
            seed,
            region,
            start,
            join_spread,
            joined_within,
            longest,
            gateways,
            groups,
            radio,
            faults,
            timed,
            image,
            task,
            expect,
        }
    }

    /// What no table can say by itself: what contradicts what is in another.
    fn check(&self, file: &File<'_>) {
        let wrong = |field: &str, message: String| file.wrong(&file.place(field), field, message);
        if self.task.options.class == Some(DeviceClass::B) {
            if !self.gateways.iter().any(|gateway| gateway.beacons) {
                let message =
                    "class B sessions need gateways that send beacons: write beacons = true";
                wrong("task.class", message.to_owned());
            }
            let heard = self
                .groups
                .iter()
                .any(|group| group.class == GroupClass::B && group.in_task);
            if !heard {
                let message = "no group takes part in class B sessions: write class = \"B\" there";
                wrong("task.class", message.to_owned());
            }
        }
        if self.region.class_b().is_none() && self.gateways.iter().any(|gateway| gateway.beacons) {
            let message = format!("{} has no class B beacons", self.region);
            wrong("gateway.beacons", message);
        }
        let signed = |group: &&Group| group.image_check == Some(ImageCheckKind::Signature);
        if let Some(group) = self.groups.iter().find(signed)
            && matches!(self.image.content, ImageContent::Finished(_))
        {
            let message = format!(
                "devices of group {:?} do not know the key of a finished image; they can check \"digest\"",
                group.name
            );
            wrong("group.image_check", message);
        }
        if !self.groups.is_empty() && !self.groups.iter().any(|group| group.in_task) {
            wrong("group.in_task", "no group is part of the task".to_owned());
        }
        if self
            .task
            .deadline
            .is_some_and(|deadline| deadline > self.longest)
        {
            wrong(
                "longest",
                "the run would end before the task's `deadline`".to_owned(),
            );
        }
    }
}
