//! The parts of devices on the command line, and the descriptor that names them.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::names::{hex, parse_hex};
use crate::cli::profile::version::{
    FIELD, parse_uplink_field, uplink_field_json, uplink_field_text,
};
use crate::cli::settings::Mask;
use crate::proto::v1;
use crate::proto::v1::descriptor_rule::Rule;

const PARTS: &str = "Parts of the devices";

/// Which parts can be updated by themselves.
#[derive(Args)]
pub(super) struct PartArgs {
    /// A part that can be updated: NAME:NUMBER[:SLOT_BYTES][:deltas][@F_PORT:OFFSET:LENGTH[:big]], where uplinks tell
    /// its version after the @; may be repeated [default: main, of any size]
    #[arg(long = "component", value_name = "PART", value_parser = parse_component, help_heading = PARTS)]
    components: Vec<v1::Component>,

    /// What the descriptor of a fragmentation session says: version, component, or four bytes in hex
    /// [default: version]
    #[arg(long, value_name = "RULE", value_parser = parse_rule, help_heading = PARTS)]
    descriptor: Option<v1::DescriptorRule>,
}

impl PartArgs {
    pub(super) fn apply(self, profile: &mut v1::DeviceProfile, mask: &mut Mask) {
        let components = (!self.components.is_empty()).then_some(self.components);
        mask.put("components", &mut profile.components, components);
        mask.put(
            "descriptor_rule",
            &mut profile.descriptor_rule,
            self.descriptor,
        );
    }
}

fn parse_component(text: &str) -> Result<v1::Component, String> {
    let read = || {
        let (part, field) = match text.split_once('@') {
            None => (text, None),
            Some((part, field)) => (part, Some(parse_uplink_field(field)?)),
        };
        let mut parts = part.split(':').peekable();
        let name = parts.next()?.to_owned();
        let number = parts.next()?.parse().ok()?;
        let bytes = parts.next_if(|part| *part != "deltas");
        let max_image_bytes = bytes.map(|bytes| bytes.parse().map_err(|_| ())).transpose();
        let applies_deltas = parts.next_if(|part| *part == "deltas").is_some();
        parts.next().is_none().then_some(v1::Component {
            name,
            number,
            max_image_bytes: max_image_bytes.ok()?,
            applies_deltas,
            version_field: field,
        })
    };
    read().ok_or_else(|| {
        format!(
            "expected NAME:NUMBER[:SLOT_BYTES][:deltas][@{FIELD}], such as main:0:245760:deltas"
        )
    })
}

fn parse_rule(text: &str) -> Result<v1::DescriptorRule, String> {
    let rule = match text {
        "version" => Rule::Version(true),
        "component" => Rule::Component(true),
        hex => match parse_hex(hex) {
            Ok(bytes) if bytes.len() == 4 => Rule::Fixed(bytes.into()),
            _ => return Err("expected version, component, or four bytes in hex".into()),
        },
    };
    Ok(v1::DescriptorRule { rule: Some(rule) })
}

pub(super) fn components_json(profile: &v1::DeviceProfile) -> Value {
    let shown = profile.components.iter().map(|component| {
        json!({
            "name": component.name,
            "number": component.number,
            "max_image_bytes": component.max_image_bytes,
            "applies_deltas": component.applies_deltas,
            "version_field": component.version_field.as_ref().map(uplink_field_json),
        })
    });
    shown.collect()
}

pub(super) fn components_text(profile: &v1::DeviceProfile) -> String {
    let shown = profile.components.iter().map(|component| {
        let mut text = format!("{} (number {}", component.name, component.number);
        if let Some(bytes) = component.max_image_bytes {
            text.push_str(&format!(", slot of {bytes} bytes"));
        }
        if component.applies_deltas {
            text.push_str(", applies deltas");
        }
        if let Some(field) = &component.version_field {
            text.push_str(&format!(", version in {}", uplink_field_text(field)));
        }
        text.push(')');
        text
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// `version`, `component`, or the bytes in hex.
pub(super) fn rule_text(profile: &v1::DeviceProfile) -> String {
    let rule = profile.descriptor_rule.as_ref();
    match rule.and_then(|rule| rule.rule.as_ref()) {
        None => String::new(),
        Some(Rule::Version(_)) => "version".to_owned(),
        Some(Rule::Component(_)) => "component".to_owned(),
        Some(Rule::Fixed(bytes)) => hex(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_with_and_without_slot() {
        let whole = parse_component("main:0:245760:deltas").unwrap();
        assert_eq!((whole.number, whole.max_image_bytes), (0, Some(245_760)));
        assert!(whole.applies_deltas);
        let short = parse_component("radio:1").unwrap();
        assert_eq!((short.max_image_bytes, short.applies_deltas), (None, false));
        assert!(parse_component("radio:1:deltas").unwrap().applies_deltas);
        for bad in [
            "main",
            "main:x",
            "main:0:x",
            "main:0:1:deltas:2",
            "main:0:1:2",
        ] {
            assert!(parse_component(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_say_where_uplinks_tell_their_version() {
        let field = |text: &str| parse_component(text).unwrap().version_field;
        assert_eq!(field("radio:1"), None);
        let told = v1::UplinkField {
            f_port: 10,
            offset_bytes: 4,
            length_bytes: 2,
            byte_order: v1::ByteOrder::BigEndian.into(),
        };
        for text in ["radio:1@10:4:2:big", "radio:1:98304:deltas@10:4:2:big"] {
            assert_eq!(field(text), Some(told), "{text}");
        }
        for bad in [
            "radio:1@",
            "radio:1@10:4",
            "radio@10:4:2",
            "radio:1@10:4:2@",
        ] {
            assert!(parse_component(bad).is_err(), "{bad}");
        }
        let components =
            ["main:0", "radio:1@10:4:2:big"].map(|text| parse_component(text).unwrap());
        let profile = v1::DeviceProfile {
            components: components.into(),
            ..Default::default()
        };
        assert_eq!(
            components_text(&profile),
            "main (number 0), radio (number 1, version in uplinks on port 10, 2 bytes at 4)"
        );
        let shown = components_json(&profile);
        assert_eq!(shown[0]["version_field"], Value::Null);
        assert_eq!(shown[1]["version_field"]["byte_order"], "BIG_ENDIAN");
    }

    #[test]
    fn rules_are_words_or_four_bytes() {
        assert_eq!(
            parse_rule("component").unwrap().rule,
            Some(Rule::Component(true))
        );
        let fixed = parse_rule("01020304").unwrap().rule;
        assert_eq!(fixed, Some(Rule::Fixed(vec![1, 2, 3, 4].into())));
        for bad in ["", "0102", "versions"] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }
}
