//! An end-device as JSON and for people. Keys are never looked at.

use serde_json::{Map, Value, json};

use crate::cli::moment::{duration_json, duration_text, now, time_json, time_text};
use crate::cli::names::{id, pairs_text, word, word_json};
use crate::cli::network::link_json;
use crate::cli::output::fields;
use crate::proto::v1;

/// `0x01020003`, with the component where it is not `main`.
pub(super) fn versions_text(device: &v1::EndDevice) -> String {
    let versions: Vec<_> = device
        .versions
        .iter()
        .map(|(component, version)| match component.as_str() {
            "main" => format!("{:#010x}", version.version),
            component => format!("{component}={:#010x}", version.version),
        })
        .collect();
    versions.join(" ")
}

/// Which kind of keys is stored. The keys themselves are never looked at.
fn key_kind(device: &v1::EndDevice) -> Option<&'static str> {
    use v1::end_device::Keys;
    use v1::root_keys::Source;
    match device.keys.as_ref()? {
        Keys::DerivedKeys(_) => Some("DERIVED_KEYS"),
        Keys::RootKeys(keys) => Some(match keys.source {
            Some(Source::GenAppKey(_)) => "GEN_APP_KEY",
            Some(Source::AppKey(_)) => "APP_KEY",
            Some(Source::SameAsAppKey(_)) => "SAME_AS_APP_KEY",
            None => "ROOT_KEYS",
        }),
    }
}

fn receive_json(parameters: Option<&v1::ReceiveParameters>) -> Value {
    parameters.map_or(Value::Null, |it| {
        json!({
            "rx1_delay": duration_json(it.rx1_delay.as_ref()),
            "rx1_dr_offset": it.rx1_dr_offset,
            "rx2_data_rate": it.rx2_data_rate,
            "rx2_frequency_hz": it.rx2_frequency_hz,
        })
    })
}

fn activation_json(device: &v1::EndDevice) -> Value {
    use v1::end_device::Activation;
    match &device.activation {
        None => Value::Null,
        Some(Activation::Otaa(otaa)) => json!({"otaa": {
            "join_eui": otaa.join_eui,
            "next_join_nonce": otaa.next_join_nonce,
            "last_dev_nonce": otaa.last_dev_nonce,
            "used_dev_nonce_count": otaa.used_dev_nonce_count,
        }}),
        Some(Activation::Abp(abp)) => json!({"abp": {
            "dev_addr": abp.dev_addr,
            "f_cnt_up": abp.f_cnt_up,
            "f_cnt_down": abp.f_cnt_down,
            "receive_parameters": receive_json(abp.receive_parameters.as_ref()),
        }}),
    }
}

fn activation_text(device: &v1::EndDevice) -> String {
    use v1::end_device::Activation;
    match &device.activation {
        None => "none".into(),
        Some(Activation::Otaa(otaa)) => format!("OTAA, JoinEUI {}", otaa.join_eui),
        Some(Activation::Abp(abp)) => format!("imported session, DevAddr {}", abp.dev_addr),
    }
}

/// A device, as JSON.
pub(super) fn device_json(device: &v1::EndDevice) -> Value {
    let versions: Map<_, _> = device
        .versions
        .iter()
        .map(|(component, version)| {
            let value = json!({
                "version": version.version,
                "report_time": time_json(version.report_time.as_ref()),
                "evidence": word_json::<v1::VersionEvidence>(version.evidence),
            });
            (component.clone(), value)
        })
        .collect();
    let packages: Map<_, _> = device
        .reported_packages
        .iter()
        .map(|(package, reported)| {
            let value = json!({
                "version": reported.version,
                "report_time": time_json(reported.report_time.as_ref()),
            });
            (package.to_string(), value)
        })
        .collect();
    json!({
        "name": device.name,
        "dev_eui": device.dev_eui,
        "display_name": device.display_name,
        "device_profile": device.device_profile,
        "model": device.model,
        "tags": device.tags,
        "key_kind": key_kind(device),
        "activation": activation_json(device),
        "session": device.session.as_ref().map(|session| json!({
            "dev_addr": session.dev_addr,
            "f_cnt_up": session.f_cnt_up,
            "f_cnt_down": session.f_cnt_down,
            "receive_parameters": receive_json(session.receive_parameters.as_ref()),
            "activate_time": time_json(session.activate_time.as_ref()),
        })),
        "versions": versions,
        "version_history": device.version_history.iter().map(|change| json!({
            "component": change.component,
            "version": change.version,
            "since_time": time_json(change.since_time.as_ref()),
            "evidence": word_json::<v1::VersionEvidence>(change.evidence),
        })).collect::<Vec<_>>(),
        "security_counters": device.security_counters,
        "reported_packages": packages,
        "last_seen_time": time_json(device.last_seen_time.as_ref()),
        "links": device.links.iter().map(link_json).collect::<Vec<_>>(),
        "leftovers": device.leftovers.iter().map(|leftover| json!({
            "kind": word_json::<v1::LeftoverKind>(leftover.kind),
            "index": leftover.index,
            "task": leftover.task,
        })).collect::<Vec<_>>(),
        "active_task": device.active_task,
        "create_time": time_json(device.create_time.as_ref()),
        "update_time": time_json(device.update_time.as_ref()),
    })
}

/// A device, for people.
pub(super) fn device_text(device: &v1::EndDevice) -> String {
    let now = now();
    let session = device.session.as_ref().map_or_else(String::new, |session| {
        let rx1 = session.receive_parameters.and_then(|it| it.rx1_delay);
        let rx1 = rx1.map_or_else(String::new, |it| {
            format!(", RX1 after {}", duration_text(Some(&it)))
        });
        format!(
            "DevAddr {}, counters {} up {} down{rx1}, since {}",
            session.dev_addr,
            session.f_cnt_up,
            session.f_cnt_down,
            time_text(session.activate_time.as_ref(), &now)
        )
    });
    let packages: Vec<_> = device
        .reported_packages
        .iter()
        .map(|(package, reported)| match package {
            1 => format!("TS003 v{}", reported.version),
            2 => format!("TS005 v{}", reported.version),
            3 => format!("TS004 v{}", reported.version),
            4 => format!("TS006 v{}", reported.version),
            other => format!("package {other} v{}", reported.version),
        })
        .collect();
    let links: Vec<_> = device
        .links
        .iter()
        .map(|link| {
            format!(
                "{} ({} dBm, {} dB)",
                id(&link.gateway),
                link.rssi_dbm,
                link.snr_db
            )
        })
        .collect();
    let leftovers: Vec<_> = device
        .leftovers
        .iter()
        .map(|it| {
            format!(
                "{} {} of {}",
                word::<v1::LeftoverKind>(it.kind),
                it.index,
                it.task
            )
        })
        .collect();
    fields(&[
        ("name", device.name.clone()),
        ("display name", device.display_name.clone()),
        ("profile", id(&device.device_profile).into()),
        ("model", device.model.clone()),
        ("tags", pairs_text(&device.tags)),
        ("multicast keys", key_kind(device).unwrap_or("none").into()),
        ("activation", activation_text(device)),
        ("session", session),
        ("runs", versions_text(device)),
        ("ran", history_text(device, &now)),
        ("reported packages", packages.join(", ")),
        ("last seen", time_text(device.last_seen_time.as_ref(), &now)),
        ("heard by", links.join(", ")),
        ("left on it", leftovers.join(", ")),
        ("active task", device.active_task.clone()),
        ("created", time_text(device.create_time.as_ref(), &now)),
        ("updated", time_text(device.update_time.as_ref(), &now)),
    ])
}

/// What it has come to run, latest first: `0x00000002 since 2026-03-01T02:00:00Z (3d ago), 0x00000001 since ...`.
fn history_text(device: &v1::EndDevice, now: &prost_types::Timestamp) -> String {
    const SHOWN: usize = 4;
    let mut changes: Vec<_> = device
        .version_history
        .iter()
        .rev()
        .take(SHOWN)
        .map(|change| {
            let component = match change.component.as_str() {
                "main" => String::new(),
                component => format!("{component}="),
            };
            let since = time_text(change.since_time.as_ref(), now);
            format!("{component}{:#010x} since {since}", change.version)
        })
        .collect();
    if device.version_history.len() > SHOWN {
        changes.push("...".to_owned());
    }
    changes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_never_shown_even_if_a_server_returned_them() {
        let key = || prost::bytes::Bytes::from_static(&[0xA7; 16]);
        let device = v1::EndDevice {
            name: "devices/70b3d57ed0000001".into(),
            keys: Some(v1::end_device::Keys::RootKeys(v1::RootKeys {
                source: Some(v1::root_keys::Source::GenAppKey(key())),
            })),
            activation: Some(v1::end_device::Activation::Otaa(v1::OtaaActivation {
                join_eui: "0000000000000001".into(),
                app_key: key(),
                ..Default::default()
            })),
            ..Default::default()
        };
        for text in [device_json(&device).to_string(), device_text(&device)] {
            assert!(text.contains("GEN_APP_KEY"));
            let text = text.to_lowercase();
            assert!(!text.contains("a7a7") && !text.contains("167"), "{text}");
        }
    }

    #[test]
    fn versions_name_other_components() {
        let version = |version| v1::ComponentVersion {
            version,
            ..Default::default()
        };
        let device = v1::EndDevice {
            versions: [
                ("main".into(), version(0x0102_0003)),
                ("radio".into(), version(7)),
            ]
            .into(),
            ..Default::default()
        };
        assert_eq!(versions_text(&device), "0x01020003 radio=0x00000007");
    }
}
