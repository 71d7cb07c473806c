//! A device profile as JSON and for people.

use serde_json::{Value, json};

use crate::cli::moment::{duration_json, duration_text, now, time_json, time_text};
use crate::cli::names::{hex, word, word_json};
use crate::cli::output::{fields, nonzero};
use crate::cli::profile::parts::{components_json, components_text, rule_text};
use crate::cli::profile::version::{version_source_json, version_source_text};
use crate::proto::v1;

/// The LoRaWAN version, such as `1.0.4`.
pub(super) fn lorawan_version(profile: &v1::DeviceProfile) -> String {
    word::<v1::LorawanVersion>(profile.lorawan_version).replace('_', ".")
}

/// The classes it can do, such as `AC`.
pub(super) fn classes(profile: &v1::DeviceProfile) -> String {
    let mut classes = String::from("A");
    if profile.supports_class_b {
        classes.push('B');
    }
    if profile.supports_class_c {
        classes.push('C');
    }
    classes
}

/// `v2`, and the port where it is not the usual one.
pub(super) fn package_text(package: Option<&v1::Package>) -> String {
    match package {
        None | Some(v1::Package { version: 0, .. }) => String::new(),
        Some(v1::Package { version, f_port: 0 }) => format!("v{version}"),
        Some(v1::Package { version, f_port }) => format!("v{version}:{f_port}"),
    }
}

fn package_json(package: Option<&v1::Package>) -> Value {
    package.map_or(
        Value::Null,
        |package| json!({"version": package.version, "f_port": package.f_port}),
    )
}

/// A profile as JSON.
pub(super) fn profile_json(profile: &v1::DeviceProfile) -> Value {
    json!({
        "name": profile.name,
        "display_name": profile.display_name,
        "lorawan_version": word_json::<v1::LorawanVersion>(profile.lorawan_version),
        "region": word_json::<v1::Region>(profile.region),
        "supports_class_b": profile.supports_class_b,
        "supports_class_c": profile.supports_class_c,
        "clock_sync": package_json(profile.clock_sync.as_ref()),
        "multicast_setup": package_json(profile.multicast_setup.as_ref()),
        "fragmentation": package_json(profile.fragmentation.as_ref()),
        "firmware_management": package_json(profile.firmware_management.as_ref()),
        "decoder_limits": profile.decoder_limits.map(|limits| json!({
            "max_nb_frag": limits.max_nb_frag,
            "max_frag_size": limits.max_frag_size,
            "max_lost_fragments": limits.max_lost_fragments,
            "max_multicast_groups": limits.max_multicast_groups,
            "max_frag_sessions": limits.max_frag_sessions,
            "reed_solomon": limits.reed_solomon,
            "keeps_finished_blocks": limits.keeps_finished_blocks,
        })),
        "status_interpretation": word_json::<v1::StatusInterpretation>(profile.status_interpretation),
        "uplink_interval": duration_json(profile.uplink_interval.as_ref()),
        "multicast_root_key": word_json::<v1::MulticastRootKey>(profile.multicast_root_key),
        "after_reboot": profile.after_reboot.map(|reboot| json!({
            "rejoins": reboot.rejoins,
            "f_cnt_reset": word_json::<v1::FCntReset>(reboot.f_cnt_reset),
            "loses_multicast_groups": reboot.loses_multicast_groups,
        })),
        "version_source": version_source_json(profile),
        "application_reboot": profile.application_reboot.as_ref().map(|downlink| json!({
            "f_port": downlink.f_port,
            "payload_hex": hex(&downlink.payload),
        })),
        "components": components_json(profile),
        "descriptor_rule": rule_text(profile),
        "create_time": time_json(profile.create_time.as_ref()),
        "update_time": time_json(profile.update_time.as_ref()),
    })
}

/// A profile for people.
pub(super) fn profile_text(profile: &v1::DeviceProfile) -> String {
    let now = now();
    let limits = profile.decoder_limits.unwrap_or_default();
    let reboot = profile.after_reboot.unwrap_or_default();
    let mut after_reboot = Vec::new();
    if reboot.rejoins {
        after_reboot.push("joins again".to_owned());
    }
    if reboot.loses_multicast_groups {
        after_reboot.push("loses multicast groups".to_owned());
    }
    let f_cnt_reset = word::<v1::FCntReset>(reboot.f_cnt_reset);
    if !f_cnt_reset.is_empty() {
        after_reboot.push(format!("counter reset {f_cnt_reset}"));
    }
    fields(&[
        ("name", profile.name.clone()),
        ("display name", profile.display_name.clone()),
        ("LoRaWAN", lorawan_version(profile)),
        ("region", word::<v1::Region>(profile.region)),
        ("classes", classes(profile)),
        (
            "clock sync (TS003)",
            package_text(profile.clock_sync.as_ref()),
        ),
        (
            "fragmentation (TS004)",
            package_text(profile.fragmentation.as_ref()),
        ),
        (
            "multicast set-up (TS005)",
            package_text(profile.multicast_setup.as_ref()),
        ),
        (
            "firmware management (TS006)",
            package_text(profile.firmware_management.as_ref()),
        ),
        ("most uncoded fragments", nonzero(limits.max_nb_frag)),
        ("largest fragment", nonzero(limits.max_frag_size)),
        ("most lost fragments", nonzero(limits.max_lost_fragments)),
        (
            "multicast groups at once",
            nonzero(limits.max_multicast_groups),
        ),
        ("frag sessions at once", nonzero(limits.max_frag_sessions)),
        (
            "decodes Reed-Solomon",
            String::from(if limits.reed_solomon { "yes" } else { "" }),
        ),
        (
            "keeps finished blocks",
            String::from(if limits.keeps_finished_blocks {
                "yes"
            } else {
                ""
            }),
        ),
        (
            "status answers",
            word::<v1::StatusInterpretation>(profile.status_interpretation),
        ),
        (
            "uplink interval",
            duration_text(profile.uplink_interval.as_ref()),
        ),
        (
            "multicast root key",
            word::<v1::MulticastRootKey>(profile.multicast_root_key),
        ),
        ("after a reboot", after_reboot.join(", ")),
        ("version read from", version_source_text(profile)),
        (
            "application reboot",
            profile
                .application_reboot
                .as_ref()
                .map_or_else(String::new, |downlink| {
                    format!("port {}: {}", downlink.f_port, hex(&downlink.payload))
                }),
        ),
        ("components", components_text(profile)),
        ("descriptor", rule_text(profile)),
        ("created", time_text(profile.create_time.as_ref(), &now)),
        ("updated", time_text(profile.update_time.as_ref(), &now)),
    ])
}
