//! Resource names: `tasks/{id}`, `devices/{dev_eui}`, `tasks/{id}/sessions/{n}` and so on.

use std::fmt::Display;

use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::record::{Sha256, TaskId};

use super::errors::ApiError;

/// Whether `id` may end a name: 1 to 63 characters of `[a-z0-9-]`, first and last no hyphen.
pub(super) fn is_id(id: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&id.len())
        && id.bytes().all(good)
        && !id.starts_with('-')
        && !id.ends_with('-')
}

/// Whether `key` may name a tag, an annotation or a component.
pub(super) fn is_mark_key(key: &str) -> bool {
    (1..=63).contains(&key.len())
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The part after `{collection}/`, if the rest is an identifier.
pub(super) fn id_of<'n>(collection: &str, name: &'n str) -> Option<&'n str> {
    let id = name.strip_prefix(collection)?.strip_prefix('/')?;
    is_id(id).then_some(id)
}

/// A DevEUI as the API writes it: 16 hex digits.
pub(super) fn dev_eui(text: &str) -> Option<DevEui> {
    hex16(text)?.parse().ok()
}

/// A gateway's EUI as the API writes it: 16 hex digits.
pub(super) fn gateway_eui(text: &str) -> Option<GatewayEui> {
    hex16(text)?.parse().ok()
}

fn hex16(text: &str) -> Option<&str> {
    (text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())).then_some(text)
}

/// The device `devices/{dev_eui}` names.
pub(super) fn device(name: &str) -> Option<DevEui> {
    dev_eui(name.strip_prefix("devices/")?)
}

/// The gateway `gateways/{eui}` names.
pub(super) fn gateway(name: &str) -> Option<GatewayEui> {
    gateway_eui(name.strip_prefix("gateways/")?)
}

/// The image `images/{sha256}` names.
pub(super) fn image(name: &str) -> Option<Sha256> {
    sha256(name.strip_prefix("images/")?)
}

/// A SHA-256 as the API writes it: 64 hex digits.
pub(super) fn sha256(text: &str) -> Option<Sha256> {
    let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| text.parse().ok()).flatten()
}

/// The task and the part of it that `tasks/{id}/{collection}/{rest}` names.
pub(super) fn part_of_task<'n>(collection: &str, name: &'n str) -> Option<(TaskId, &'n str)> {
    let (id, rest) = name.strip_prefix("tasks/")?.split_once('/')?;
    let rest = rest.strip_prefix(collection)?.strip_prefix('/')?;
    is_id(id).then(|| (TaskId(id.to_owned()), rest))
}

/// The number, counted from 0, of `tasks/{id}/{collection}/{n}`, whose `n` counts from 1.
pub(super) fn numbered(collection: &str, name: &str) -> Option<(TaskId, u16)> {
    let (task, number) = part_of_task(collection, name)?;
    let digits = !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
    let number: u32 = digits.then(|| number.parse().ok()).flatten()?;
    Some((task, u16::try_from(number.checked_sub(1)?).ok()?))
}

/// `{collection}/{id}`.
pub(super) fn name(collection: &str, id: impl Display) -> String {
    format!("{collection}/{id}")
}

/// What `read` makes of a name, or an error about the field it stood in.
pub(super) fn required<T>(
    field: &str,
    form: &str,
    name: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, ApiError> {
    read(name).ok_or_else(|| ApiError::field(field, format!("not of the form {form}")))
}

/// The task `tasks/{id}` names.
pub(super) fn task(name: &str) -> Option<TaskId> {
    id_of("tasks", name).map(|id| TaskId(id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_strictly() {
        assert_eq!(task("tasks/a-1"), Some(TaskId("a-1".to_owned())));
        for bad in [
            "tasks/",
            "tasks/-a",
            "tasks/a-",
            "tasks/A",
            "task/a",
            "tasks/a/b",
            "",
        ] {
            assert_eq!(task(bad), None, "{bad}");
        }
        assert_eq!(
            numbered("waves", "tasks/a/waves/1"),
            Some((TaskId("a".to_owned()), 0))
        );
        for bad in ["0", "01", "+1", "70000", "", "x"] {
            assert_eq!(
                numbered("waves", &format!("tasks/a/waves/{bad}")),
                None,
                "{bad}"
            );
        }
        assert_eq!(
            device("devices/70B3D57ED0000042").unwrap().0,
            0x70b3_d57e_d000_0042
        );
        assert_eq!(device("devices/70-B3-D5-7E-D0-00-00-42"), None);
    }
}
