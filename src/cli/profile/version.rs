//! Where the version of a device or of one of its parts is read from, on the command line.

use serde_json::{Value, json};

use crate::cli::names::word_json;
use crate::proto::v1;
use crate::proto::v1::version_source::Source;

/// How a field of an application uplink is written.
pub(super) const FIELD: &str = "F_PORT:OFFSET:LENGTH[:big]";

pub(super) fn parse_version_source(text: &str) -> Result<v1::VersionSource, String> {
    let source = if text.eq_ignore_ascii_case("ts006") {
        Source::FirmwareManagement(())
    } else {
        let field = parse_uplink_field(text);
        Source::UplinkField(field.ok_or_else(|| format!("expected ts006 or {FIELD}"))?)
    };
    Ok(v1::VersionSource {
        source: Some(source),
    })
}

/// Reads what [`FIELD`] says.
pub(super) fn parse_uplink_field(text: &str) -> Option<v1::UplinkField> {
    let parts: Vec<&str> = text.split(':').collect();
    let (numbers, byte_order) = match parts.as_slice() {
        [numbers @ .., "big"] => (numbers, v1::ByteOrder::BigEndian),
        [numbers @ .., "little"] => (numbers, v1::ByteOrder::LittleEndian),
        numbers => (numbers, v1::ByteOrder::LittleEndian),
    };
    let numbers: Result<Vec<u32>, _> = numbers.iter().map(|part| part.parse()).collect();
    let Ok([f_port, offset_bytes, length_bytes]) = numbers.as_deref() else {
        return None;
    };
    Some(v1::UplinkField {
        f_port: *f_port,
        offset_bytes: *offset_bytes,
        length_bytes: *length_bytes,
        byte_order: byte_order.into(),
    })
}

/// Where the version of a profile is read from, as JSON.
pub(super) fn version_source_json(profile: &v1::DeviceProfile) -> Value {
    match profile.version_source.and_then(|it| it.source) {
        None => Value::Null,
        Some(Source::FirmwareManagement(())) => json!({"firmware_management": {}}),
        Some(Source::UplinkField(field)) => json!({"uplink_field": uplink_field_json(&field)}),
    }
}

pub(super) fn uplink_field_json(field: &v1::UplinkField) -> Value {
    json!({
        "f_port": field.f_port,
        "offset_bytes": field.offset_bytes,
        "length_bytes": field.length_bytes,
        "byte_order": word_json::<v1::ByteOrder>(field.byte_order),
    })
}

/// The same for people.
pub(super) fn version_source_text(profile: &v1::DeviceProfile) -> String {
    match profile.version_source.and_then(|it| it.source) {
        None => String::new(),
        Some(Source::FirmwareManagement(())) => "TS006".into(),
        Some(Source::UplinkField(field)) => uplink_field_text(&field),
    }
}

pub(super) fn uplink_field_text(field: &v1::UplinkField) -> String {
    format!(
        "uplinks on port {}, {} bytes at {}",
        field.f_port, field.length_bytes, field.offset_bytes
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_ts006_or_a_field() {
        let json = |text: &str| {
            version_source_json(&v1::DeviceProfile {
                version_source: Some(parse_version_source(text).unwrap()),
                ..Default::default()
            })
        };
        assert_eq!(json("ts006"), json!({"firmware_management": {}}));
        assert_eq!(
            json("10:2:4:big")["uplink_field"]["byte_order"],
            "BIG_ENDIAN"
        );
        assert_eq!(json("10:2:4")["uplink_field"]["length_bytes"], 4);
        for wrong in ["", "10", "10:2", "10:2:4:middle", "10:2:4:5:big"] {
            assert!(parse_version_source(wrong).is_err(), "{wrong}");
        }
    }
}
