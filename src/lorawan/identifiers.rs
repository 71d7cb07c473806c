//! EUIs and addresses. Text is hex, most significant digit first; the wire is little-endian.

use std::fmt;
use std::str::FromStr;

/// A text that is no identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {expected_digits} hex digits")]
pub struct InvalidIdentifier {
    /// Digits an identifier of this kind has.
    pub expected_digits: usize,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// Wire order.
            pub const fn to_le_bytes(self) -> [u8; $digits / 2] {
                self.0.to_le_bytes()
            }

            /// From wire order.
            pub const fn from_le_bytes(bytes: [u8; $digits / 2]) -> Self {
                Self(<$inner>::from_le_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!(concat!("{:0", $digits, "x}"), self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidIdentifier;

            /// Upper or lower case, with or without `-` or `:` between the digits.
            fn from_str(text: &str) -> Result<Self, InvalidIdentifier> {
                let digits: String = text.chars().filter(|c| !matches!(c, '-' | ':')).collect();
                let good = digits.len() == $digits && digits.bytes().all(|b| b.is_ascii_hexdigit());
                let value = if good { <$inner>::from_str_radix(&digits, 16).ok() } else { None };
                value.map(Self).ok_or(InvalidIdentifier { expected_digits: $digits })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

identifier!(
    /// End-device identifier, 16 hex digits.
    DevEui,
    u64,
    16
);
identifier!(
    /// Join server identifier (AppEUI in LoRaWAN 1.0.x), 16 hex digits.
    JoinEui,
    u64,
    16
);
identifier!(
    /// Gateway identifier, 16 hex digits.
    GatewayEui,
    u64,
    16
);
identifier!(
    /// Device address, unicast or multicast, 8 hex digits. Not unique: the MIC tells devices apart.
    DevAddr,
    u32,
    8
);

/// TS005 `McAddr`: a device address that a group of devices listens to.
pub type McAddr = DevAddr;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let eui: DevEui = "70-B3-D5:7e:d0000042".parse().unwrap();
        assert_eq!(eui.to_string(), "70b3d57ed0000042");
        assert_eq!(serde_json::to_string(&eui).unwrap(), "\"70b3d57ed0000042\"");
        assert_eq!(DevAddr(0x2601_0a0b).to_le_bytes(), [0x0b, 0x0a, 0x01, 0x26]);
    }

    #[test]
    fn wrong_texts_are_refused() {
        for text in [
            "",
            "70b3d57ed000004",
            "70b3d57ed00000422",
            "g0b3d57ed0000042",
            "+0b3d57ed0000042",
        ] {
            assert_eq!(
                text.parse::<DevEui>(),
                Err(InvalidIdentifier {
                    expected_digits: 16
                }),
                "{text}"
            );
        }
    }
}
