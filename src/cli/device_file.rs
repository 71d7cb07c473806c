//! What a user hands in about end-devices beside plain flags: keys, and files of many devices (CSV or JSON).
//!
//! Keys come from a file, standard input or the environment. No message of this file repeats a value that may be
//! a key.

use std::collections::BTreeMap;
use std::path::Path;

use prost::bytes::Bytes;
use serde_json::Value;

use super::image::parse_number;
use super::names::{eui, parse_hex, resource};
use super::output::Failure;
use super::settings::read_text;
use crate::proto::v1;

/// Bytes of a LoRaWAN key.
const KEY_BYTES: usize = 16;
/// Problems of one file that are shown.
const PROBLEMS_MAX: usize = 20;

/// The keys that may be handed in, by the names used in files.
const KEY_NAMES: [&str; 7] = [
    "gen_app_key",
    "root_app_key",
    "mc_root_key",
    "data_block_int_key",
    "app_key",
    "nwk_s_key",
    "app_s_key",
];

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

/// Keys of one device. It has no `Debug`.
#[derive(Default)]
pub(super) struct Secrets(BTreeMap<&'static str, Bytes>);

impl Secrets {
    /// Reads lines `NAME = HEX`; `#` begins a comment. `-` reads standard input.
    ///
    /// # Errors
    /// The file cannot be read, or a line is none of these.
    pub(super) fn from_file(path: &Path) -> Result<Self, Failure> {
        let text = read_text(path)?;
        Self::from_lines(&text)
            .map_err(|message| Failure::Usage(format!("{}: {message}", path.display())))
    }

    fn from_lines(text: &str) -> Result<Self, String> {
        let mut secrets = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let place = |problem: &str| format!("line {}: {problem}", index + 1);
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| place("expected NAME = HEX"))?;
            secrets
                .insert(name.trim(), value)
                .map_err(|problem| place(&problem))?;
        }
        Ok(secrets)
    }

    /// Reads `FUOTA_GEN_APP_KEY` and the like.
    ///
    /// # Errors
    /// One of them is no key.
    pub(super) fn from_environment() -> Result<Self, Failure> {
        let mut secrets = Self::default();
        for name in KEY_NAMES {
            let variable = format!("FUOTA_{}", name.to_uppercase());
            if let Some(value) = std::env::var_os(&variable) {
                secrets
                    .insert(name, &value.to_string_lossy())
                    .map_err(|problem| Failure::Usage(format!("{variable}: {problem}")))?;
            }
        }
        Ok(secrets)
    }

    fn insert(&mut self, name: &str, value: &str) -> Result<(), String> {
        let name = KEY_NAMES
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(name))
            .ok_or_else(|| format!("unknown key name; known are {}", KEY_NAMES.join(", ")))?;
        let bytes = parse_hex(value).map_err(|problem| format!("{name} {problem}"))?;
        if bytes.len() != KEY_BYTES {
            return Err(format!(
                "{name} has {} bytes instead of {KEY_BYTES}",
                bytes.len()
            ));
        }
        self.0.insert(name, bytes.into());
        Ok(())
    }

    fn take(&mut self, name: &str) -> Option<Bytes> {
        self.0.remove(name)
    }
}

/// How a device gets its keys and its session.
#[derive(Default)]
pub(super) struct Identity {
    /// Its keys.
    pub(super) secrets: Secrets,
    /// The multicast root key is the AppKey.
    pub(super) same_as_app_key: bool,
    /// JoinEUI, for OTAA.
    pub(super) join_eui: Option<String>,
    /// The JoinNonce of its next join.
    pub(super) next_join_nonce: Option<u32>,
    /// DevAddr, for an imported session.
    pub(super) dev_addr: Option<String>,
    /// Lowest uplink counter to be accepted.
    pub(super) f_cnt_up: Option<u32>,
    /// Counter of the next downlink.
    pub(super) f_cnt_down: Option<u32>,
    /// How it listens.
    pub(super) receive_parameters: Option<v1::ReceiveParameters>,
}

impl Identity {
    /// Writes keys and activation into a device; returns the fields it wrote.
    ///
    /// # Errors
    /// Keys or settings are missing, or do not belong together.
    pub(super) fn apply(mut self, device: &mut v1::EndDevice) -> Result<Vec<&'static str>, String> {
        let mut paths = Vec::new();
        self.apply_activation(device, &mut paths)?;
        self.apply_keys(device, &mut paths)?;
        match self.secrets.0.keys().next() {
            Some(name) => Err(format!("{name} is not used with the rest")),
            None => Ok(paths),
        }
    }

    fn apply_activation(
        &mut self,
        device: &mut v1::EndDevice,
        paths: &mut Vec<&'static str>,
    ) -> Result<(), String> {
        use v1::end_device::Activation;

        match (self.join_eui.take(), self.dev_addr.take()) {
            (None, None) => {}
            (Some(_), Some(_)) => return Err("both a JoinEUI and a DevAddr are given".into()),
            (Some(join_eui), None) => {
                let app_key = self
                    .secrets
                    .take("app_key")
                    .ok_or("a JoinEUI needs an app_key")?;
                paths.push("otaa");
                device.activation = Some(Activation::Otaa(v1::OtaaActivation {
                    join_eui: eui(&join_eui),
                    app_key,
                    next_join_nonce: self.next_join_nonce.take().unwrap_or(0),
                    ..Default::default()
                }));
            }
            (None, Some(dev_addr)) => {
                const NEEDED: &str = "a DevAddr needs nwk_s_key and app_s_key";
                paths.push("abp");
                device.activation = Some(Activation::Abp(v1::AbpActivation {
                    dev_addr: eui(&dev_addr),
                    nwk_s_key: self.secrets.take("nwk_s_key").ok_or(NEEDED)?,
                    app_s_key: self.secrets.take("app_s_key").ok_or(NEEDED)?,
                    f_cnt_up: self.f_cnt_up.take().unwrap_or(0),
                    f_cnt_down: self.f_cnt_down.take().unwrap_or(0),
                    receive_parameters: self.receive_parameters.take(),
                }));
            }
        }
        if self.f_cnt_up.is_some() || self.f_cnt_down.is_some() || self.receive_parameters.is_some()
        {
            return Err("counters and receive parameters need a DevAddr".into());
        }
        if self.next_join_nonce.is_some() {
            return Err("a JoinNonce needs a JoinEUI".into());
        }
        Ok(())
    }

    fn apply_keys(
        &mut self,
        device: &mut v1::EndDevice,
        paths: &mut Vec<&'static str>,
    ) -> Result<(), String> {
        use v1::end_device::Keys;
        use v1::root_keys::Source;

        let root = |source| {
            Keys::RootKeys(v1::RootKeys {
                source: Some(source),
            })
        };
        let data_block_int_key = self.secrets.take("data_block_int_key");
        if data_block_int_key.is_some() && !self.secrets.0.contains_key("mc_root_key") {
            return Err("data_block_int_key needs mc_root_key".into());
        }
        let mut found = Vec::new();
        if let Some(key) = self.secrets.take("gen_app_key") {
            found.push(("root_keys", root(Source::GenAppKey(key))));
        }
        if let Some(key) = self.secrets.take("root_app_key") {
            found.push(("root_keys", root(Source::AppKey(key))));
        }
        if self.same_as_app_key {
            found.push(("root_keys", root(Source::SameAsAppKey(true))));
        }
        if let Some(mc_root_key) = self.secrets.take("mc_root_key") {
            let keys = v1::DerivedKeys {
                mc_root_key,
                data_block_int_key: data_block_int_key.unwrap_or_default(),
            };
            found.push(("derived_keys", Keys::DerivedKeys(keys)));
        }
        if found.len() > 1 {
            let text = "only one of gen_app_key, root_app_key, same_as_app_key and mc_root_key may be given";
            return Err(text.into());
        }
        if let Some((path, keys)) = found.pop() {
            paths.push(path);
            device.keys = Some(keys);
        }
        Ok(())
    }
}

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

    #[test]
    fn key_files_have_names_and_comments() {
        let text = format!("# keys of one device\nGEN_APP_KEY = {KEY} # root\n\napp_key={OTHER}\n");
        assert_eq!(Secrets::from_lines(&text).unwrap().0.len(), 2);
        let problem = Secrets::from_lines("\nSECRET").err().unwrap();
        assert_eq!(problem, "line 2: expected NAME = HEX");
        let problem = Secrets::from_lines("SECRET=00").err().unwrap();
        assert!(!problem.contains("SECRET"), "{problem}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", quotes in "[\",\\r\\na=]*") {
            let _ = parse_devices(&text, Some("p"));
            let _ = parse_devices(&format!("dev_eui\n{quotes}"), Some("p"));
            let _ = Secrets::from_lines(&text);
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
