//! Files of many devices, CSV or JSON. No message repeats a value that may be a key.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::identity::{Identity, KEY_NAMES};
use crate::cli::image::parse_number;
use crate::cli::names::{eui, resource};
use crate::cli::output::Failure;
use crate::cli::settings::read_text;
use crate::proto::v1;

/// Problems of one file that are shown.
const PROBLEMS_MAX: usize = 20;

/// Columns of a file of devices beside the keys and `tags.KEY`.
const COLUMNS: [&str; 12] = [
    "dev_eui",
    "display_name",
    "device_profile",
    "model",
    "version",
    "join_eui",
    "next_join_nonce",
    "same_as_app_key",
    "dev_addr",
    "f_cnt_up",
    "f_cnt_down",
    "rx1_delay_s",
];

/// One line or item of a file of devices.
struct Row {
    place: String,
    values: BTreeMap<String, String>,
}

/// Reads devices from CSV with a header line, or from JSON objects. `profile` stands in where a row names none.
///
/// # Errors
/// The file cannot be read, or rows are wrong; the first of them are named.
pub(super) fn read_devices(
    path: &Path,
    profile: Option<&str>,
) -> Result<Vec<v1::EndDevice>, Failure> {
    let text = read_text(path)?;
    let text = text.trim_start_matches('\u{feff}');
    parse_devices(text, profile)
        .map_err(|problem| Failure::Usage(format!("{}: {problem}", path.display())))
}

fn parse_devices(text: &str, profile: Option<&str>) -> Result<Vec<v1::EndDevice>, String> {
    let rows = if text.trim_start().starts_with(['[', '{']) {
        json_rows(text)?
    } else {
        csv_rows(text)?
    };
    if rows.is_empty() {
        return Err("holds no device".into());
    }
    let mut devices = Vec::with_capacity(rows.len());
    let mut problems = Vec::new();
    for row in rows {
        let place = row.place.clone();
        match row_device(row, profile) {
            Ok(device) => devices.push(device),
            Err(problem) => problems.push(format!("  {place}: {problem}")),
        }
    }
    if problems.is_empty() {
        return Ok(devices);
    }
    let more = problems.len().saturating_sub(PROBLEMS_MAX);
    problems.truncate(PROBLEMS_MAX);
    if more > 0 {
        problems.push(format!("  and {more} more"));
    }
    Err(format!("nothing was sent\n{}", problems.join("\n")))
}

fn row_device(row: Row, profile: Option<&str>) -> Result<v1::EndDevice, String> {
    let mut device = v1::EndDevice::default();
    let mut identity = Identity::default();
    for (name, value) in row.values {
        if value.is_empty() {
            continue;
        }
        let number = || parse_number(&value).map_err(|problem| format!("{name}: {problem}"));
        if let Some(tag) = name.strip_prefix("tags.") {
            device.tags.insert(tag.to_owned(), value);
            continue;
        }
        match name.as_str() {
            "dev_eui" => device.dev_eui = eui(&value),
            "display_name" => device.display_name = value,
            "device_profile" => device.device_profile = resource("deviceProfiles", &value),
            "model" => device.model = value,
            "version" => {
                let version = v1::ComponentVersion {
                    version: number()?,
                    ..Default::default()
                };
                device.versions.insert("main".into(), version);
            }
            "join_eui" => identity.join_eui = Some(value),
            "next_join_nonce" => identity.next_join_nonce = Some(number()?),
            "same_as_app_key" => {
                identity.same_as_app_key = match value.to_lowercase().as_str() {
                    "true" | "yes" | "1" => true,
                    "false" | "no" | "0" => false,
                    _ => return Err("same_as_app_key: expected true or false".into()),
                }
            }
            "dev_addr" => identity.dev_addr = Some(value),
            "f_cnt_up" => identity.f_cnt_up = Some(number()?),
            "f_cnt_down" => identity.f_cnt_down = Some(number()?),
            "rx1_delay_s" => {
                let seconds = number()?.into();
                identity.receive_parameters = Some(v1::ReceiveParameters {
                    rx1_delay: Some(prost_types::Duration { seconds, nanos: 0 }),
                    ..Default::default()
                });
            }
            key => identity.secrets.insert(key, &value)?,
        }
    }
    if device.dev_eui.is_empty() {
        return Err("dev_eui is missing".into());
    }
    if device.device_profile.is_empty() {
        let profile = profile.ok_or("device_profile is missing; --profile gives one to all")?;
        device.device_profile = resource("deviceProfiles", profile);
    }
    identity.apply(&mut device)?;
    Ok(device)
}

/// Whether a file of devices may have such a column. Unknown ones are refused: a misspelt key would be lost.
fn check_column(name: &str) -> Result<(), String> {
    if COLUMNS.contains(&name) || KEY_NAMES.contains(&name) || name.starts_with("tags.") {
        return Ok(());
    }
    let known: Vec<_> = COLUMNS.iter().chain(&KEY_NAMES).copied().collect();
    Err(format!(
        "unknown column {name:.40}; known are {} and tags.KEY",
        known.join(", ")
    ))
}

fn csv_rows(text: &str) -> Result<Vec<Row>, String> {
    let mut records = csv_records(text)?.into_iter();
    let (_, header) = records.next().ok_or("holds no device")?;
    let header: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    if !header.iter().any(|name| name == "dev_eui") {
        return Err("line 1: expected a header line with dev_eui".into());
    }
    for name in &header {
        check_column(name)?;
    }
    records
        .map(|(line, record)| {
            if record.len() != header.len() {
                return Err(format!(
                    "line {line}: {} columns instead of {}",
                    record.len(),
                    header.len()
                ));
            }
            let values = record.iter().map(|value| value.trim().to_owned());
            Ok(Row {
                place: format!("line {line}"),
                values: header.iter().cloned().zip(values).collect(),
            })
        })
        .collect()
}

/// The records of a CSV text (RFC 4180) with the line each begins on; empty lines are skipped.
fn csv_records(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let mut records = Vec::new();
    let (mut record, mut field) = (Vec::new(), String::new());
    let (mut line, mut begin, mut quoted) = (1, 1, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        }
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                let record = std::mem::take(&mut record);
                if record.iter().any(|field: &String| !field.is_empty()) {
                    records.push((begin, record));
                }
                begin = line;
            }
            c => field.push(c),
        }
    }
    if quoted {
        return Err(format!("line {begin}: a quotation mark is not closed"));
    }
    if !field.is_empty() || !record.is_empty() {
        record.push(field);
        records.push((begin, record));
    }
    Ok(records)
}

/// Objects, one after the other or in arrays.
fn json_rows(text: &str) -> Result<Vec<Row>, String> {
    let mut items = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        // The message of the parser may hold a part of the text.
        match value.map_err(|error| format!("line {}: is no JSON", error.line()))? {
            Value::Array(values) => items.extend(values),
            value => items.push(value),
        }
    }
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            let place = format!("item {}", index + 1);
            let Value::Object(object) = item else {
                return Err(format!("{place}: expected an object"));
            };
            let mut values = BTreeMap::new();
            for (name, value) in object {
                match value {
                    Value::Object(tags) if name == "tags" => {
                        for (key, value) in tags {
                            values.insert(format!("tags.{key}"), json_text(value, &place)?);
                        }
                    }
                    value => {
                        check_column(&name).map_err(|problem| format!("{place}: {problem}"))?;
                        values.insert(name, json_text(value, &place)?);
                    }
                }
            }
            Ok(Row { place, values })
        })
        .collect()
}

fn json_text(value: Value, place: &str) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Array(_) | Value::Object(_) => Err(format!("{place}: a value is no text or number")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f";
    const OTHER: &str = "F0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF";

    #[test]
    fn csv_and_json_mean_the_same() {
        let csv = format!(
            "dev_eui,device_profile,tags.site,join_eui,app_key,same_as_app_key,version\r\n\
             70-B3-D5-7E-D0-00-00-01,p,\"north, \"\"gate\"\"\",0000000000000000,{KEY},yes,7\r\n\r\n\
             70b3d57ed0000002,,,,,,\r\n"
        );
        let json = format!(
            r#"[{{"dev_eui":"70b3d57ed0000001","device_profile":"deviceProfiles/p","tags":{{"site":"north, \"gate\""}},
                "join_eui":"0000000000000000","app_key":"{KEY}","same_as_app_key":true,"version":7}},
               {{"dev_eui":"70b3d57ed0000002"}}]"#
        );
        let devices = parse_devices(&csv, Some("q")).unwrap();
        assert_eq!(devices, parse_devices(&json, Some("q")).unwrap());
        assert_eq!(devices[0].device_profile, "deviceProfiles/p");
        assert_eq!(devices[0].tags["site"], "north, \"gate\"");
        assert_eq!(devices[1].device_profile, "deviceProfiles/q");
        assert!(devices[1].activation.is_none());
    }

    #[test]
    fn keys_become_what_they_are_for() {
        let row = format!(
            "dev_eui,dev_addr,nwk_s_key,app_s_key,mc_root_key,data_block_int_key,f_cnt_down\n\
             01,26011234,{KEY},{OTHER},{KEY},{OTHER},9\n"
        );
        let device = parse_devices(&row, Some("p")).unwrap().remove(0);
        let Some(v1::end_device::Activation::Abp(abp)) = device.activation else {
            panic!("no session");
        };
        assert_eq!((abp.app_s_key[0], abp.f_cnt_down), (0xF0, 9));
        let Some(v1::end_device::Keys::DerivedKeys(keys)) = device.keys else {
            panic!("no derived keys");
        };
        assert_eq!(
            (keys.mc_root_key[15], keys.data_block_int_key[15]),
            (15, 0xFF)
        );
    }

    #[test]
    fn problems_name_the_line_and_never_a_key() {
        for (text, expected) in [
            ("dev_eui\n\n", "no device"),
            ("eui\n1\n", "header"),
            ("dev_eui,apkey\n1,SECRET\n", "unknown column apkey"),
            ("dev_eui,app_key\n1,SECRET\n", "line 2: app_key contains"),
            ("dev_eui,app_key\n1,abcdef\n", "app_key has 3 bytes"),
            ("dev_eui,app_key\n1\n", "line 2: 1 columns instead of 2"),
            ("dev_eui,app_key\n1,\"SECRET\n", "line 2: a quotation mark"),
            ("[{\"dev_eui\":1,\"app_key\":SECRET}]", "is no JSON"),
            ("[{\"dev_eui\":1,\"app_key\":[\"SECRET\"]}]", "no text"),
            ("dev_eui,model\n,x\n", "line 2: dev_eui is missing"),
        ] {
            let problem = parse_devices(text, Some("p")).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
            assert!(
                !problem.contains("SECRET") && !problem.contains("abcdef"),
                "{problem}"
            );
        }
        let unused = format!("dev_eui,app_key\n1,{KEY}\n");
        let problem = parse_devices(&unused, Some("p")).unwrap_err();
        assert!(problem.contains("app_key is not used"), "{problem}");
        assert!(
            parse_devices("dev_eui\n1\n", None)
                .unwrap_err()
                .contains("--profile")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", quotes in "[\",\\r\\na=]*") {
            let _ = parse_devices(&text, Some("p"));
            let _ = parse_devices(&format!("dev_eui\n{quotes}"), Some("p"));
        }

        #[test]
        fn quoted_fields_come_back(fields in prop::collection::vec("[a-z\",\n ]{1,8}", 1..5)) {
            let line: Vec<String> = fields
                .iter()
                .map(|field| format!("\"{}\"", field.replace('"', "\"\"")))
                .collect();
            let records = csv_records(&line.join(",")).unwrap();
            prop_assert_eq!(&records[0].1, &fields);
        }
    }
}
