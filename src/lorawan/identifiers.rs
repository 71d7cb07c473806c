//! Identifiers of LoRaWAN: EUIs and device addresses, as numbers that know their text form and their wire order.
//!
//! Text is hexadecimal, most significant digit first, as printed on labels; the wire is little-endian. What an address
//! means (its network, whether it is a multicast address) is not decided here.
//!
//! Source: TS001-1.0.4 §6 (end-device activation).

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text is no identifier of the wanted length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("identifier needs {expected_digits} hexadecimal digits")]
pub struct InvalidIdentifier {
    /// How many hexadecimal digits the text must have.
    pub expected_digits: usize,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident($number:ty)) => {
        $(#[$doc])*
        ///
        /// Written as lower-case hexadecimal digits, most significant first; read in either case and with `-` or `:`
        /// between the octets. Serialized as that string, so it can be a key of a JSON object.
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $number);

        impl $name {
            const OCTETS: usize = size_of::<$number>();

            /// From the octets as they are on the wire: little-endian.
            pub const fn from_le_bytes(bytes: [u8; Self::OCTETS]) -> Self {
                Self(<$number>::from_le_bytes(bytes))
            }

            /// The octets as they go on the wire: little-endian.
            pub const fn to_le_bytes(self) -> [u8; Self::OCTETS] {
                self.0.to_le_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:0width$x}", self.0, width = 2 * Self::OCTETS)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = InvalidIdentifier;

            fn from_str(text: &str) -> Result<Self, InvalidIdentifier> {
                octets_from_hex(text)
                    .map(|octets| Self(<$number>::from_be_bytes(octets)))
                    .ok_or(InvalidIdentifier { expected_digits: 2 * Self::OCTETS })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(formatter, "a string of {} hexadecimal digits", 2 * $name::OCTETS)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

identifier! {
    /// EUI-64 of an end-device, unique in the world (16 digits).
    DevEui(u64)
}

identifier! {
    /// EUI-64 of the join server an end-device asks for; AppEUI before LoRaWAN 1.0.4 (16 digits).
    JoinEui(u64)
}

identifier! {
    /// EUI-64 of a gateway (16 digits).
    GatewayEui(u64)
}

identifier! {
    /// Address of an end-device or a multicast group on the air (8 digits). Several devices may share one.
    DevAddr(u32)
}

/// A [`DevAddr`] that addresses a multicast group: `McAddr` of TS005.
pub type McAddr = DevAddr;

/// Exactly `N` octets in hexadecimal, in the order written, with at most one `-` or `:` between two octets.
pub(super) fn octets_from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut octets = [0; N];
    let mut rest = text.as_bytes();
    for (index, octet) in octets.iter_mut().enumerate() {
        if index > 0
            && let [b'-' | b':', after @ ..] = rest
        {
            rest = after;
        }
        let [high, low, after @ ..] = rest else {
            return None;
        };
        *octet = hex_digit(*high)? << 4 | hex_digit(*low)?;
        rest = after;
    }
    rest.is_empty().then_some(octets)
}

fn hex_digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn text_is_most_significant_first_and_wire_is_little_endian() {
        let dev_eui = DevEui(0x70b3_d549_9000_00ab);
        assert_eq!(dev_eui.to_string(), "70b3d549900000ab");
        assert_eq!(format!("{dev_eui:?}"), "70b3d549900000ab");
        assert_eq!(
            dev_eui.to_le_bytes(),
            [0xab, 0, 0, 0x90, 0x49, 0xd5, 0xb3, 0x70]
        );
        assert_eq!(
            DevAddr::from_le_bytes([0xda, 0x1b, 0x01, 0x26]).to_string(),
            "26011bda"
        );
        assert_eq!(DevAddr(1).to_string(), "00000001");
    }

    #[test]
    fn reads_labels_in_the_usual_spellings() {
        let expected = Ok(GatewayEui(0x70b3_d549_9000_00ab));
        for text in [
            "70b3d549900000ab",
            "70B3D549900000AB",
            "70-B3-D5-49-90-00-00-AB",
            "70:b3:d5:49:90:00:00:ab",
            "70b3d549-900000ab",
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "70b3d549900000a",
            "70b3d549900000abc",
            "70b3d549900000ab ",
            "-70b3d549900000ab",
            "70b3d549900000ab-",
            "70--b3d549900000ab",
            "7-0b3d549900000ab",
            "0x70b3d549900000",
            "70b3d549900000ag",
            "+0b3d549900000ab",
            "70b3d549900000é",
        ] {
            assert_eq!(
                text.parse::<JoinEui>(),
                Err(InvalidIdentifier {
                    expected_digits: 16
                }),
                "{text}"
            );
        }
        assert_eq!(
            "0".parse::<DevAddr>(),
            Err(InvalidIdentifier { expected_digits: 8 })
        );
    }

    #[test]
    fn is_a_json_string_and_a_json_key() {
        let map = BTreeMap::from([(DevEui(0xff), DevAddr(0xfe00_0001))]);
        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(json, r#"{"00000000000000ff":"fe000001"}"#);
        assert_eq!(
            serde_json::from_str::<BTreeMap<DevEui, DevAddr>>(&json).unwrap(),
            map
        );
        assert!(serde_json::from_str::<DevAddr>("1").is_err());
        let error = serde_json::from_str::<DevAddr>(r#""xyz""#).unwrap_err();
        assert!(error.to_string().contains("8 hexadecimal digits"));
    }

    proptest! {
        #[test]
        fn round_trips(number in any::<u64>()) {
            prop_assert_eq!(DevEui(number).to_string().parse(), Ok(DevEui(number)));
            prop_assert_eq!(DevEui::from_le_bytes(DevEui(number).to_le_bytes()), DevEui(number));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}|[0-9a-f:-]{8,24}") {
            if let Ok(dev_eui) = text.parse::<DevEui>() {
                let digits: String = text.chars().filter(|c| !matches!(c, '-' | ':')).collect();
                prop_assert_eq!(dev_eui.to_string(), digits.to_lowercase());
            }
        }
    }
}
