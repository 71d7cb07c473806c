//! Regions and classes: proto <-> record.

use crate::lorawan::region::Region;
use crate::proto::v1;
use crate::record::DeviceClass;

/// Proto value and region, in the order of the proto.
const REGIONS: [(v1::Region, Region); 14] = [
    (v1::Region::Eu868, Region::Eu868),
    (v1::Region::Us915, Region::Us915),
    (v1::Region::Au915, Region::Au915),
    (v1::Region::As9231, Region::As923_1),
    (v1::Region::As9232, Region::As923_2),
    (v1::Region::As9233, Region::As923_3),
    (v1::Region::As9234, Region::As923_4),
    (v1::Region::Eu433, Region::Eu433),
    (v1::Region::Cn470, Region::Cn470),
    (v1::Region::Cn779, Region::Cn779),
    (v1::Region::Ru864, Region::Ru864),
    (v1::Region::Kr920, Region::Kr920),
    (v1::Region::In865, Region::In865),
    (v1::Region::Ism2400, Region::Ism2400),
];

/// The region a message names.
pub(super) fn read(value: i32) -> Option<Region> {
    REGIONS
        .iter()
        .find(|(proto, _)| i32::from(*proto) == value)
        .map(|(_, region)| *region)
}

/// A region as the API shows it.
pub(super) fn show(region: Region) -> v1::Region {
    REGIONS
        .iter()
        .find(|(_, known)| *known == region)
        .map_or(v1::Region::Unspecified, |(proto, _)| *proto)
}

/// A region as filters write it.
pub(super) fn word(region: Region) -> String {
    word_of(show(region).as_str_name(), "REGION_")
}

/// An enum value without its prefix, as filters write it.
pub(super) fn word_of(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

/// Whether filters may name this region.
pub(super) fn is_word(word: &str) -> bool {
    v1::Region::from_str_name(&format!("REGION_{word}")).is_some()
}

/// A class as the API shows it.
/// The class a client names; `None` where it names none.
pub(super) fn read_class(class: v1::DeviceClass) -> Option<DeviceClass> {
    match class {
        v1::DeviceClass::Unspecified => None,
        v1::DeviceClass::A => Some(DeviceClass::A),
        v1::DeviceClass::B => Some(DeviceClass::B),
        v1::DeviceClass::C => Some(DeviceClass::C),
    }
}

pub(super) fn show_class(class: DeviceClass) -> v1::DeviceClass {
    match class {
        DeviceClass::A => v1::DeviceClass::A,
        DeviceClass::B => v1::DeviceClass::B,
        DeviceClass::C => v1::DeviceClass::C,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_has_its_proto_value() {
        for region in Region::ALL {
            assert_eq!(read(show(region).into()), Some(region));
            assert!(is_word(&word(region)), "{region}");
            assert_eq!(word(region), region.name().replace('-', "_"));
        }
        assert_eq!(read(0), None);
        assert_eq!(read(99), None);
    }
}
