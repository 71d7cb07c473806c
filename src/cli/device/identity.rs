//! Keys of a device, from a file, standard input or the environment, and what they are for. No message repeats a
//! value that may be a key.

use std::collections::BTreeMap;
use std::path::Path;

use prost::bytes::Bytes;

use crate::cli::names::{eui, parse_hex};
use crate::cli::output::Failure;
use crate::cli::settings::read_text;
use crate::proto::v1;

/// Bytes of a LoRaWAN key.
const KEY_BYTES: usize = 16;
/// The keys that may be handed in, by the names used in files.
pub(super) const KEY_NAMES: [&str; 7] = [
    "gen_app_key",
    "root_app_key",
    "mc_root_key",
    "data_block_int_key",
    "app_key",
    "nwk_s_key",
    "app_s_key",
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

    /// Takes a key in hex.
    ///
    /// # Errors
    /// The name is unknown, or the value is no key. The message does not repeat it.
    pub(super) fn insert(&mut self, name: &str, value: &str) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f";
    const OTHER: &str = "F0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF";

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
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = Secrets::from_lines(&text);
        }
    }
}
