//! The parts of devices that can be updated, where uplinks tell their versions, and the descriptor that names them:
//! proto <-> record.

use std::collections::BTreeSet;

use crate::proto::v1;
use crate::proto::v1::descriptor_rule::Rule;
use crate::record::{Component, DescriptorRule, Packages, UplinkField};

use super::fields::Fields;
use super::names;

/// Parts a device may have.
const MOST_COMPONENTS: usize = 16;

pub(super) fn read_components(
    fields: &mut Fields,
    given: &[v1::Component],
    packages: &Packages,
) -> Vec<Component> {
    if given.len() > MOST_COMPONENTS {
        fields.bad("components", format!("more than {MOST_COMPONENTS}"));
        return Vec::new();
    }
    let (mut names_taken, mut numbers_taken) = (BTreeSet::new(), BTreeSet::new());
    let mut read = Vec::new();
    for (at, component) in given.iter().enumerate() {
        let field = |name: &str| format!("components[{at}].{name}");
        if !names::is_mark_key(&component.name) {
            fields.bad(&field("name"), "not 1 to 63 characters of [A-Za-z0-9_-]");
        } else if !names_taken.insert(component.name.clone()) {
            fields.bad(&field("name"), "given twice");
        }
        if component.max_image_bytes == Some(0) {
            fields.bad(&field("max_image_bytes"), "0 bytes hold no image");
        }
        let number = fields.number::<u8>(&field("number"), component.number, 0..=u8::MAX);
        if number.is_some_and(|number| !numbers_taken.insert(number)) {
            fields.bad(&field("number"), "given twice");
        }
        let version_field = component.version_field.as_ref();
        let version_field = version_field
            .map(|given| read_uplink_field(fields, &field("version_field"), given, packages));
        read.push(Component {
            name: component.name.clone(),
            number: number.unwrap_or(0),
            max_image_bytes: component.max_image_bytes,
            applies_deltas: component.applies_deltas,
            version_field,
        });
    }
    read
}

/// A field of uplinks that come from no package; `path` is its own.
pub(super) fn read_uplink_field(
    fields: &mut Fields,
    path: &str,
    given: &v1::UplinkField,
    packages: &Packages,
) -> UplinkField {
    let at = |name: &str| format!("{path}.{name}");
    let f_port: Option<u8> = fields.number(&at("f_port"), given.f_port, 1..=223);
    if f_port.is_some_and(|port| packages.ports().any(|taken| taken == port)) {
        fields.bad(&at("f_port"), "a package has this port");
    }
    let offset = fields.number(&at("offset_bytes"), given.offset_bytes, 0..=241);
    let length = fields.number(&at("length_bytes"), given.length_bytes, 1..=4);
    if v1::ByteOrder::try_from(given.byte_order).is_err() {
        fields.bad(&at("byte_order"), "a value this server does not know");
    }
    UplinkField {
        f_port: f_port.unwrap_or(1),
        offset: offset.unwrap_or(0),
        length: length.unwrap_or(1),
        big_endian: given.byte_order == i32::from(v1::ByteOrder::BigEndian),
    }
}

pub(super) fn read_rule(fields: &mut Fields, given: Option<&v1::DescriptorRule>) -> DescriptorRule {
    match given.and_then(|given| given.rule.as_ref()) {
        None | Some(Rule::Version(true)) => DescriptorRule::Version,
        Some(Rule::Component(true)) => DescriptorRule::Component,
        Some(Rule::Version(false)) => {
            fields.bad("descriptor_rule.version", "must be true");
            DescriptorRule::Version
        }
        Some(Rule::Component(false)) => {
            fields.bad("descriptor_rule.component", "must be true");
            DescriptorRule::Component
        }
        Some(Rule::Fixed(bytes)) => match <[u8; 4]>::try_from(bytes.as_ref()) {
            Ok(bytes) => DescriptorRule::Fixed(bytes),
            Err(_) => {
                let why = format!("{} bytes instead of 4", bytes.len());
                fields.bad("descriptor_rule.fixed", why);
                DescriptorRule::Version
            }
        },
    }
}

pub(super) fn show_component(component: &Component) -> v1::Component {
    v1::Component {
        name: component.name.clone(),
        number: component.number.into(),
        max_image_bytes: component.max_image_bytes,
        applies_deltas: component.applies_deltas,
        version_field: component.version_field.map(show_uplink_field),
    }
}

pub(super) fn show_uplink_field(field: UplinkField) -> v1::UplinkField {
    let byte_order = if field.big_endian {
        v1::ByteOrder::BigEndian
    } else {
        v1::ByteOrder::LittleEndian
    };
    v1::UplinkField {
        f_port: field.f_port.into(),
        offset_bytes: field.offset.into(),
        length_bytes: field.length.into(),
        byte_order: byte_order.into(),
    }
}

pub(super) fn show_rule(rule: DescriptorRule) -> v1::DescriptorRule {
    let rule = match rule {
        DescriptorRule::Version => Rule::Version(true),
        DescriptorRule::Component => Rule::Component(true),
        DescriptorRule::Fixed(bytes) => Rule::Fixed(bytes.to_vec().into()),
    };
    v1::DescriptorRule { rule: Some(rule) }
}
