//! The images a world's task brings: one, several for parts of the devices that are installed together, or two for the
//! same part, one after the other.

use std::sync::Arc;

use lorawan_fuota::firmware::{ImageVersion, sha256};
use lorawan_fuota::record::{
    Component, DescriptorRule, DeviceProfile, Image, InstallMode, Sha256, StatusInterpretation,
    StoredImage, UplinkField,
};

use crate::check::VERSION_FIELD;
use crate::device::{DeviceConfig, PartFirmware};
use crate::fleet::{Fleet, NEW_VERSION, OLD_VERSION};
use crate::random::Random;

/// What a task brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageSet {
    /// The main firmware.
    #[default]
    One,
    /// The main firmware and so many further parts, 1 to 3, all run after one reboot.
    Together(u8),
    /// A small firmware first, and when it runs the one after it.
    InTurn,
}

/// Names of the further parts, by their numbers from 1.
pub const PARTS: [&str; 3] = ["radio", "board", "modem"];
/// Version of the first of two firmwares.
const BETWEEN: ImageVersion = ImageVersion {
    major: 1,
    minor: 5,
    revision: 0,
    build: 0,
};

impl ImageSet {
    /// The set of that name: `one`, `together-2`, `in-turn`.
    ///
    /// # Errors
    /// There is none.
    pub fn from_name(name: &str) -> Result<Self, String> {
        let all = [Self::One, Self::InTurn]
            .into_iter()
            .chain((1..=3).map(Self::Together));
        let mut found = all.filter(|set| set.name() == name);
        found
            .next()
            .ok_or_else(|| "none of one, together-1, together-2, together-3, in-turn".to_owned())
    }

    /// What [`ImageSet::from_name`] reads.
    pub fn name(self) -> String {
        match self {
            Self::One => "one".to_owned(),
            Self::Together(parts) => format!("together-{parts}"),
            Self::InTurn => "in-turn".to_owned(),
        }
    }

    /// How the images come to run.
    pub fn install(self) -> InstallMode {
        match self {
            Self::One | Self::Together(_) => InstallMode::Together,
            Self::InTurn => InstallMode::InTurn,
        }
    }

    /// Number and new version of the further parts.
    pub fn parts(self) -> impl Iterator<Item = (u8, ImageVersion)> {
        let parts = match self {
            Self::Together(parts) => parts.min(3),
            Self::One | Self::InTurn => 0,
        };
        // The first has the version of the main firmware: TS006 does not tell their images apart.
        (1..=parts).map(|number| {
            let version = ImageVersion {
                revision: NEW_VERSION.revision + u16::from(number) - 1,
                ..NEW_VERSION
            };
            (number, version)
        })
    }

    /// Where the application's uplinks tell the version of a part.
    pub fn version_field(number: u8) -> UplinkField {
        UplinkField {
            offset: VERSION_FIELD.offset + VERSION_FIELD.length * number,
            ..VERSION_FIELD
        }
    }

    /// Gives a device the parts, if it has none.
    pub fn change_device(self, device: &mut DeviceConfig) {
        let firmware = &mut device.firmware;
        if !firmware.parts.is_empty() {
            return;
        }
        firmware.parts = self
            .parts()
            .map(|(number, _)| PartFirmware {
                number,
                version: OLD_VERSION.to_ts006(),
                check: firmware.check,
                raw_image_version: None,
            })
            .collect();
    }

    /// Names the parts in a profile: each tells its version in the application's uplinks, one after the other.
    pub fn change_profile(self, profile: &mut DeviceProfile) {
        let component = |number: u8, name: &str, version_field| Component {
            name: name.to_owned(),
            number,
            max_image_bytes: None,
            applies_deltas: false,
            version_field,
        };
        let parts: Vec<Component> = self
            .parts()
            .map(|(number, _)| {
                let field = Self::version_field(number);
                component(number, PARTS[usize::from(number) - 1], Some(field))
            })
            .collect();
        if parts.is_empty() {
            return;
        }
        profile.components = vec![component(0, "main", None)];
        profile.components.extend(parts);
        profile.descriptor = DescriptorRule::Component;
        // Stacks with one decoder hand a finished block over before the next is set up.
        profile.limits.keeps_blocks = profile.status_interpretation != StatusInterpretation::Spec;
    }

    /// All images of the task, in order, from the main one.
    pub fn images(self, main: StoredImage, fleet: &Fleet) -> Vec<StoredImage> {
        let length = main.1.len();
        let seed = fleet.options.seed;
        let made = |version: ImageVersion, component: &str, bytes: usize| {
            let mut random = Random::of(seed, 0x1a6e5 + u64::from(version.revision));
            let body: Vec<u8> = (0..bytes)
                .map(|_| random.next_u64().to_le_bytes()[0])
                .collect();
            let data: Arc<[u8]> = fleet.image_of(version, &body).unwrap_or_default().into();
            let image = Image {
                sha256: Sha256(sha256(&data)),
                size_bytes: u32::try_from(data.len()).unwrap_or(u32::MAX),
                component: component.to_owned(),
                target_version: version.to_ts006(),
                version_text: version.to_string(),
                ..main.0.clone()
            };
            (image, data)
        };
        match self {
            Self::One => vec![main],
            Self::Together(_) => {
                let others = self.parts().map(|(number, version)| {
                    let bytes = length / (2 * usize::from(number)) + 100;
                    made(version, PARTS[usize::from(number) - 1], bytes)
                });
                let others: Vec<StoredImage> = others.collect();
                [vec![main], others].concat()
            }
            Self::InTurn => vec![made(BETWEEN, "main", length / 3 + 100), main],
        }
    }
}
