//! Update masks: which fields of a resource an update call changes.

use super::fields::Fields;

/// The fields to change, all of them writable.
#[derive(Debug)]
pub(super) struct Mask {
    all: bool,
    paths: Vec<String>,
}

impl Mask {
    /// Reads a mask; bad paths are noted in `fields`.
    pub(super) fn read(
        fields: &mut Fields,
        mask: Option<&prost_types::FieldMask>,
        writable: &[&str],
    ) -> Self {
        let paths = mask.map(|mask| mask.paths.clone()).unwrap_or_default();
        if paths.is_empty() {
            fields.bad_in_request("update_mask", "missing");
        }
        let all = paths.iter().any(|path| path == "*");
        if all && paths.len() > 1 {
            fields.bad_in_request("update_mask", "'*' stands alone");
        }
        for path in paths.iter().filter(|path| *path != "*") {
            if !writable.contains(&path.as_str()) {
                let shown: String = path.chars().take(64).collect();
                fields.bad_in_request(
                    "update_mask",
                    format!("'{shown}' is no field that may be written"),
                );
            }
        }
        Self { all, paths }
    }

    /// Whether `path` is to be changed.
    pub(super) fn has(&self, path: &str) -> bool {
        self.all || self.paths.iter().any(|named| named == path)
    }

    /// Whether `path` itself is named, not only by `*`.
    pub(super) fn names(&self, path: &str) -> bool {
        self.paths.iter().any(|named| named == path)
    }

    /// Takes `new` into `field` if `path` is to be changed.
    pub(super) fn take<T>(&self, path: &str, field: &mut T, new: T) {
        if self.has(path) {
            *field = new;
        }
    }
}
