//! Words and names: enum values without their prefix, resource names from what people type.
//!
//! Knows nothing of what the words mean; that stands in the proto files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::marker::PhantomData;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use serde_json::Value;

use crate::proto::v1;

/// An enum of the API.
pub(super) trait ProtoEnum: TryFrom<i32> + Copy + Send + Sync + 'static {
    /// The value as the proto file writes it, prefix included.
    fn full_name(self) -> &'static str;
    /// The value of that name.
    fn from_full_name(name: &str) -> Option<Self>;
}

macro_rules! proto_enums {
    ($($name:ident)*) => {$(
        impl ProtoEnum for v1::$name {
            fn full_name(self) -> &'static str {
                self.as_str_name()
            }
            fn from_full_name(name: &str) -> Option<Self> {
                Self::from_str_name(name)
            }
        }
    )*};
}

proto_enums! {
    ByteOrder CleanupState DeviceClass DeviceReason DistributionSessionReason
    DistributionSessionState FCntReset FragAlgo GatewayState ImageContainer InstallMode KeyKind LeftoverKind LorawanVersion
    MemberState MulticastRootKey PlanProblemReason RebootMode Region ReleaseState RolloutPurpose RolloutState StatusInterpretation
    SuccessCriterion TaskDeviceImageState TaskDeviceState TaskReason TaskState ThresholdAction TrustedKeyState Verdict VersionEvidence
    WaveApproval WaveState Weekday
}

/// `PREFIX_` of an enum, known from its zero value `PREFIX_UNSPECIFIED`.
fn prefix<E: ProtoEnum>() -> &'static str {
    E::try_from(0)
        .ok()
        .and_then(|zero| zero.full_name().strip_suffix("UNSPECIFIED"))
        .unwrap_or("")
}

/// The word of an enum value: its name without prefix, empty where nothing is specified, the number
/// where this program is older than the server.
pub(super) fn word<E: ProtoEnum>(value: i32) -> String {
    match E::try_from(value) {
        Ok(_) if value == 0 => String::new(),
        Ok(known) => known.full_name().trim_start_matches(prefix::<E>()).into(),
        Err(_) => value.to_string(),
    }
}

/// As [`word`], null where nothing is specified.
pub(super) fn word_json<E: ProtoEnum>(value: i32) -> Value {
    match word::<E>(value) {
        empty if empty.is_empty() => Value::Null,
        word => word.into(),
    }
}

/// Reads enum values on the command line, in upper or lower case and with `.` or `-` for `_`, and lists
/// them in the help.
#[derive(Clone)]
pub(super) struct EnumParser<E>(PhantomData<E>);

/// The parser for one enum.
pub(super) fn enum_parser<E: ProtoEnum>() -> EnumParser<E> {
    EnumParser(PhantomData)
}

/// The words of an enum. Values are numbered with gaps, below 100.
fn words<E: ProtoEnum>() -> impl Iterator<Item = &'static str> {
    (1..100)
        .filter_map(|number| E::try_from(number).ok())
        .map(|value| value.full_name().trim_start_matches(prefix::<E>()))
}

impl<E: ProtoEnum> TypedValueParser for EnumParser<E> {
    type Value = E;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<E, clap::Error> {
        let word = value
            .to_string_lossy()
            .to_uppercase()
            .replace(['.', '-'], "_");
        // Words that are none are refused in the way, and with the list, that clap has for it.
        let word =
            PossibleValuesParser::new(words::<E>()).parse_ref(command, arg, word.as_ref())?;
        E::from_full_name(&format!("{}{word}", prefix::<E>()))
            .ok_or_else(|| clap::Error::new(ErrorKind::InvalidValue).with_cmd(command))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(words::<E>().map(PossibleValue::new)))
    }
}

/// `collection/id` from an id or from a full name.
pub(super) fn resource(collection: &str, id: &str) -> String {
    let id = id.trim();
    if id.starts_with(collection) && id[collection.len()..].starts_with('/') {
        id.to_owned()
    } else {
        format!("{collection}/{id}")
    }
}

/// As [`resource`] for names that end in an EUI: separators go, letters become lower case.
pub(super) fn eui_resource(collection: &str, id: &str) -> String {
    let name = resource(collection, id);
    format!("{collection}/{}", eui(&name[collection.len() + 1..]))
}

/// An EUI in lower case without separators.
pub(super) fn eui(text: &str) -> String {
    text.trim().replace([':', '-'], "").to_ascii_lowercase()
}

/// The last part of a resource name.
pub(super) fn id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// `KEY=VALUE`.
///
/// # Errors
/// There is no `=`, or nothing before it.
pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err("expected KEY=VALUE".into()),
    }
}

/// Pairs as a text `a=1 b=2`.
pub(super) fn pairs_text(pairs: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(" ")
}

/// Bytes as lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hex digits; blanks and `:` between them are skipped. The message never repeats the text, for
/// it may be a key.
///
/// # Errors
/// Another character, or an odd number of digits.
pub(super) fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    match digits {
        None => Err("contains something else than hex digits".into()),
        Some(digits) if digits.len() % 2 == 1 => Err("has an odd number of hex digits".into()),
        Some(digits) => Ok(digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_words_have_no_prefix() {
        assert_eq!(word::<v1::Region>(v1::Region::As9231.into()), "AS923_1");
        assert_eq!(
            word::<v1::TaskState>(v1::TaskState::Distributing.into()),
            "DISTRIBUTING"
        );
        assert_eq!(word::<v1::Verdict>(0), "");
        assert_eq!(word::<v1::Verdict>(77), "77");
        assert_eq!(word_json::<v1::Verdict>(0), Value::Null);
    }

    #[test]
    fn enum_values_are_read_in_any_spelling() {
        let command = clap::Command::new("test")
            .arg(clap::Arg::new("version").value_parser(enum_parser::<v1::LorawanVersion>()));
        for text in ["1.0.4", "1_0_4", "1-0-4"] {
            let found = command.clone().get_matches_from(["test", text]);
            assert_eq!(
                found.get_one("version"),
                Some(&v1::LorawanVersion::LorawanVersion104),
            );
        }
        assert!(command.try_get_matches_from(["test", "2.0"]).is_err());
    }

    #[test]
    fn names_are_completed() {
        assert_eq!(resource("tasks", "a"), "tasks/a");
        assert_eq!(resource("tasks", "tasks/a"), "tasks/a");
        assert_eq!(resource("tasks", "tasksa"), "tasks/tasksa");
        assert_eq!(
            eui_resource("devices", "70-B3-D5-7E-D0-00-00-01"),
            "devices/70b3d57ed0000001"
        );
        assert_eq!(eui_resource("devices", "devices/AA"), "devices/aa");
        assert_eq!(id("tasks/a/devices/b"), "b");
    }

    #[test]
    fn hex_is_read_and_never_repeated_in_errors() {
        assert_eq!(parse_hex("00:ff A0"), Ok(vec![0, 0xFF, 0xA0]));
        assert!(!parse_hex("secret").unwrap_err().contains("secret"));
        assert!(parse_hex("123").is_err());
        assert!(parse_hex("é0").is_err());
    }
}
