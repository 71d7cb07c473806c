//! Settings on the command line: which fields a user gave, tags, lists of devices, small files.
//!
//! Create and update share their flags: create fills a new resource, update fills a resource and the
//! mask that names what was given.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use prost_types::FieldMask;

use super::names::{eui_resource, parse_pair, resource};
use super::output::Failure;

/// The fields that an update changes.
#[derive(Default)]
pub(super) struct Mask(Vec<String>);

impl Mask {
    /// Puts a value into its field, if one was given.
    pub(super) fn put<T, V: Into<T>>(&mut self, path: &str, target: &mut T, value: Option<V>) {
        if let Some(value) = value {
            *target = value.into();
            self.touch(path);
        }
    }

    /// Names a field as changed.
    pub(super) fn touch(&mut self, path: &str) {
        if !self.0.iter().any(|known| known == path) {
            self.0.push(path.to_owned());
        }
    }

    /// Takes a field off again; whether it was named.
    pub(super) fn forget(&mut self, path: &str) -> bool {
        let had = self.0.len();
        self.0.retain(|known| known != path);
        self.0.len() < had
    }

    /// Nothing was given.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mask for the request.
    ///
    /// # Errors
    /// Nothing was given to change.
    pub(super) fn finish(self) -> Result<FieldMask, Failure> {
        if self.0.is_empty() {
            return Err(Failure::Usage(
                "nothing to change: give at least one setting".into(),
            ));
        }
        Ok(FieldMask { paths: self.0 })
    }
}

/// Fields that an update sets back to their default.
#[derive(Args)]
pub struct ClearArgs {
    /// Set a field back to its default, such as data_rate; may be repeated
    #[arg(long = "clear", value_name = "FIELD")]
    clear: Vec<String>,
}

impl ClearArgs {
    /// Names the cleared fields as changed.
    pub(super) fn apply(&self, mask: &mut Mask) {
        for path in &self.clear {
            mask.touch(&path.replace('-', "_"));
        }
    }

    /// The present value of a field to start from, unless it is to be cleared.
    pub(super) fn keep<T: Default>(&self, path: &str, present: T) -> T {
        if self.clear.iter().any(|name| name.replace('-', "_") == path) {
            T::default()
        } else {
            present
        }
    }
}

/// Tags on a resource.
#[derive(Args)]
pub(super) struct TagArgs {
    /// Mark it with KEY=VALUE; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_pair)]
    tags: Vec<(String, String)>,

    /// Take a mark off again (update); may be repeated
    #[arg(long = "untag", value_name = "KEY")]
    untag: Vec<String>,
}

impl TagArgs {
    /// Changes the tags as asked.
    pub(super) fn apply(self, mask: &mut Mask, tags: &mut BTreeMap<String, String>) {
        if self.tags.is_empty() && self.untag.is_empty() {
            return;
        }
        mask.touch("tags");
        tags.extend(self.tags);
        for key in &self.untag {
            tags.remove(key);
        }
    }
}

/// Devices, one by one or from a list.
#[derive(Args)]
pub struct DevicesArgs {
    /// A device, by its DevEUI; may be repeated
    #[arg(long = "device", value_name = "DEV_EUI")]
    devices: Vec<String>,

    /// File with a DevEUI on each line, # begins a comment; - reads standard input
    #[arg(long, value_name = "FILE")]
    devices_from: Option<PathBuf>,
}

impl DevicesArgs {
    /// The names of the devices.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn names(&self) -> Result<Vec<String>, Failure> {
        let mut names: Vec<String> = self
            .devices
            .iter()
            .map(|device| eui_resource("devices", device))
            .collect();
        if let Some(path) = &self.devices_from {
            let text = read_text(path)?;
            names.extend(
                text.lines()
                    .map(|line| line.split('#').next().unwrap_or("").trim())
                    .filter(|line| !line.is_empty())
                    .map(|line| eui_resource("devices", line)),
            );
        }
        Ok(names)
    }
}

/// Devices and groups for a task.
#[derive(Args)]
pub struct TargetArgs {
    #[command(flatten)]
    devices: DevicesArgs,

    /// A multicast group; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
}

impl TargetArgs {
    /// The names of devices and groups.
    ///
    /// # Errors
    /// The file with devices cannot be read.
    pub(super) fn names(&self) -> Result<(Vec<String>, Vec<String>), Failure> {
        let groups = self
            .groups
            .iter()
            .map(|group| resource("multicastGroups", group));
        Ok((self.devices.names()?, groups.collect()))
    }
}

/// The bytes of a file, or of standard input for `-`.
///
/// # Errors
/// It cannot be read.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let result = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    result.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read_bytes(path)?)
        .map_err(|_| Failure::Usage(format!("{}: is not UTF-8 text", path.display())))
}

/// Writes a file that is not there yet.
///
/// # Errors
/// It is there, or cannot be written.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = std::fs::File::create_new(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_names_what_was_given_once() {
        let mut mask = Mask::default();
        let (mut name, mut rate) = (String::new(), None);
        mask.put("display_name", &mut name, Some("x"));
        mask.put("data_rate", &mut rate, None::<u32>);
        mask.touch("display_name");
        assert_eq!(mask.finish().unwrap().paths, ["display_name"]);
        assert_eq!((name.as_str(), rate), ("x", None));
        assert!(Mask::default().finish().is_err());
    }

    #[test]
    fn clearing_forgets_the_present_value() {
        let clear = ClearArgs {
            clear: vec!["data-rate".into()],
        };
        assert_eq!(clear.keep("data_rate", Some(5)), None);
        assert_eq!(clear.keep("tags", Some(5)), Some(5));
    }
}
