//! Device profiles: proto <-> record.

use std::time::Duration;

use crate::lorawan::PackageVersion;
use crate::lorawan::keys::KeyDerivation;
use crate::proto::v1;
use crate::record::{
    AfterReboot, ApplicationReboot, DecoderLimits, DeviceProfile, FCntReset, LorawanVersion,
    Package, Packages, StatusInterpretation, VersionSource,
};
use crate::time::Timestamp;

use super::errors::ApiError;
use super::fields::{Fields, show_length, show_moment, tenant};
use super::mask::Mask;
use super::{device_parts, names, regions};

pub(super) fn merge(
    mut into: v1::DeviceProfile,
    new: v1::DeviceProfile,
    mask: &Mask,
) -> v1::DeviceProfile {
    macro_rules! take {
        ($($field:ident),*) => {$( mask.take(stringify!($field), &mut into.$field, new.$field); )*};
    }
    take!(
        display_name,
        lorawan_version,
        region,
        supports_class_b,
        supports_class_c,
        clock_sync,
        multicast_setup,
        fragmentation,
        firmware_management,
        decoder_limits,
        status_interpretation,
        uplink_interval,
        after_reboot,
        version_source,
        application_reboot,
        components,
        descriptor_rule
    );
    if mask.has("multicast_root_key") {
        into.multicast_root_key = new.multicast_root_key;
    } else if mask.has("lorawan_version") {
        // It follows the version unless it is written itself.
        into.multicast_root_key = 0;
    }
    into
}

/// The record of a profile, or all that is wrong with it.
pub(super) fn read(
    mut fields: Fields,
    given: &v1::DeviceProfile,
    id: &str,
    (created_at, updated_at): (Timestamp, Timestamp),
) -> Result<DeviceProfile, ApiError> {
    fields.text("display_name", &given.display_name, 255);
    let version = version_of(given.lorawan_version);
    let version = fields.known("lorawan_version", version);
    let region = fields.known("region", regions::read(given.region));
    let packages = read_packages(&mut fields, given);
    let limits = read_limits(&mut fields, given.decoder_limits.unwrap_or_default());
    let interpretation = fields.known(
        "status_interpretation",
        interpretation_of(given.status_interpretation),
    );
    let claims = limits.is_some_and(|limits| limits.reed_solomon);
    if claims && interpretation.is_some_and(|it| it != StatusInterpretation::Spec) {
        let what = "needs status_interpretation SPEC";
        fields.bad("decoder_limits.reed_solomon", what);
    }
    let uplink_interval = fields
        .length(
            "uplink_interval",
            given.uplink_interval.as_ref(),
            Duration::from_secs(1)..=Duration::from_secs(30 * 86_400),
        )
        .unwrap_or(Duration::from_secs(3600));
    if let Some(version) = version {
        check_root_key(&mut fields, given.multicast_root_key, version);
    }
    let after_reboot = read_after_reboot(&mut fields, given.after_reboot.unwrap_or_default());
    let source = given
        .version_source
        .as_ref()
        .and_then(|source| source.source.as_ref());
    let version_source = read_version_source(&mut fields, source, &packages);
    let application_reboot = given.application_reboot.as_ref().and_then(|given| {
        let port = fields.number("application_reboot.f_port", given.f_port, 1..=223);
        if port.is_some_and(|port| packages.ports().any(|taken| taken == port)) {
            fields.bad("application_reboot.f_port", "the port of a package");
        }
        if !(1..=51).contains(&given.payload.len()) {
            fields.bad("application_reboot.payload", "not 1 to 51 bytes");
        }
        Some(ApplicationReboot {
            f_port: port?,
            payload: given.payload.to_vec(),
        })
    });
    let components = device_parts::read_components(&mut fields, &given.components, &packages);
    let descriptor = device_parts::read_rule(&mut fields, given.descriptor_rule.as_ref());
    let whole = (version.zip(region)).zip(limits.zip(interpretation));
    let ((lorawan_version, region), (limits, status_interpretation)) = fields.finish_with(whole)?;
    Ok(DeviceProfile {
        tenant: tenant(),
        id: id.to_owned(),
        display_name: given.display_name.clone(),
        lorawan_version,
        region,
        supports_class_b: given.supports_class_b,
        supports_class_c: given.supports_class_c,
        always_class_c: false,
        packages,
        limits,
        status_interpretation,
        uplink_interval,
        after_reboot,
        version_source,
        created_at,
        updated_at,
        application_reboot,
        components,
        descriptor,
    })
}

fn read_packages(fields: &mut Fields, given: &v1::DeviceProfile) -> Packages {
    let mut package = |name: &str, package: Option<v1::Package>, highest: u32, port: u8| {
        let package = package?;
        if package.version == 0 {
            return None;
        }
        let version = u8::try_from(package.version)
            .ok()
            .filter(|_| package.version <= highest)
            .and_then(PackageVersion::from_number);
        if version.is_none() {
            fields.bad(&format!("{name}.version"), format!("not in 0..={highest}"));
        }
        let f_port = fields.number_or(&format!("{name}.f_port"), package.f_port, 1..=223, port);
        Some(Package {
            version: version?,
            f_port: f_port?,
        })
    };
    let packages = Packages {
        clock_sync: package("clock_sync", given.clock_sync, 2, 202),
        multicast_setup: package("multicast_setup", given.multicast_setup, 2, 200),
        fragmentation: package("fragmentation", given.fragmentation, 2, 201),
        firmware_management: package("firmware_management", given.firmware_management, 1, 203),
    };
    let mut ports = Vec::new();
    for (name, package) in [
        ("clock_sync", packages.clock_sync),
        ("multicast_setup", packages.multicast_setup),
        ("fragmentation", packages.fragmentation),
        ("firmware_management", packages.firmware_management),
    ] {
        let Some(package) = package else { continue };
        if ports.contains(&package.f_port) {
            fields.bad(&format!("{name}.f_port"), "another package has this port");
        }
        ports.push(package.f_port);
    }
    packages
}

fn read_limits(fields: &mut Fields, given: v1::DecoderLimits) -> Option<DecoderLimits> {
    let max_nb_frag = fields.number_or(
        "decoder_limits.max_nb_frag",
        given.max_nb_frag,
        1..=16_383,
        16_383,
    );
    let max_frag_size = fields.number_or(
        "decoder_limits.max_frag_size",
        given.max_frag_size,
        1..=239,
        239,
    );
    let max_lost = match given.max_lost_fragments {
        0 => None,
        lost => fields.number("decoder_limits.max_lost_fragments", lost, 1..=16_383),
    };
    let max_groups = fields.number_or(
        "decoder_limits.max_multicast_groups",
        given.max_multicast_groups,
        1..=4,
        1,
    );
    let max_frag_sessions = fields.number_or(
        "decoder_limits.max_frag_sessions",
        given.max_frag_sessions,
        1..=4,
        1,
    );
    Some(DecoderLimits {
        max_nb_frag: max_nb_frag?,
        max_frag_size: max_frag_size?,
        max_lost,
        max_groups: max_groups?,
        max_frag_sessions: max_frag_sessions?,
        reed_solomon: given.reed_solomon,
        keeps_blocks: given.keeps_finished_blocks,
    })
}

fn read_after_reboot(fields: &mut Fields, given: v1::AfterReboot) -> AfterReboot {
    let f_cnt_reset = match v1::FCntReset::try_from(given.f_cnt_reset) {
        Ok(v1::FCntReset::AllowAfterReboot) => FCntReset::AllowAfterReboot,
        Ok(v1::FCntReset::Unspecified | v1::FCntReset::Refuse) => FCntReset::Refuse,
        Err(_) => {
            fields.bad(
                "after_reboot.f_cnt_reset",
                "a value this server does not know",
            );
            FCntReset::Refuse
        }
    };
    AfterReboot {
        rejoins: given.rejoins,
        f_cnt_reset,
        loses_groups: given.loses_multicast_groups,
    }
}

fn read_version_source(
    fields: &mut Fields,
    given: Option<&v1::version_source::Source>,
    packages: &Packages,
) -> VersionSource {
    use v1::version_source::Source;

    match given {
        None => VersionSource::FirmwareManagement,
        Some(Source::FirmwareManagement(())) => {
            if packages.firmware_management.is_none() {
                fields.bad(
                    "version_source.firmware_management",
                    "needs firmware_management.version 1",
                );
            }
            VersionSource::FirmwareManagement
        }
        Some(Source::UplinkField(field)) => {
            let path = "version_source.uplink_field";
            let field = device_parts::read_uplink_field(fields, path, field, packages);
            VersionSource::UplinkField(field)
        }
    }
}

/// How the multicast keys of a device with this link layer derive from its root key.
pub(super) fn key_derivation(version: LorawanVersion) -> KeyDerivation {
    match version {
        LorawanVersion::V1_1 => KeyDerivation::AppKey,
        _ => KeyDerivation::GenAppKey,
    }
}

/// The root key follows from the LoRaWAN version.
fn check_root_key(fields: &mut Fields, given: i32, version: LorawanVersion) {
    match v1::MulticastRootKey::try_from(given) {
        Ok(v1::MulticastRootKey::Unspecified) => {}
        Ok(root) if root == show_root_key(version) => {}
        Ok(_) => fields.bad(
            "multicast_root_key",
            "another one than that of the LoRaWAN version",
        ),
        Err(_) => fields.bad("multicast_root_key", "a value this server does not know"),
    }
}

fn show_root_key(version: LorawanVersion) -> v1::MulticastRootKey {
    match key_derivation(version) {
        KeyDerivation::GenAppKey => v1::MulticastRootKey::GenAppKey,
        KeyDerivation::AppKey => v1::MulticastRootKey::AppKey,
    }
}

const VERSIONS: [(v1::LorawanVersion, LorawanVersion); 6] = [
    (
        v1::LorawanVersion::LorawanVersion100,
        LorawanVersion::V1_0_0,
    ),
    (
        v1::LorawanVersion::LorawanVersion101,
        LorawanVersion::V1_0_1,
    ),
    (
        v1::LorawanVersion::LorawanVersion102,
        LorawanVersion::V1_0_2,
    ),
    (
        v1::LorawanVersion::LorawanVersion103,
        LorawanVersion::V1_0_3,
    ),
    (
        v1::LorawanVersion::LorawanVersion104,
        LorawanVersion::V1_0_4,
    ),
    (v1::LorawanVersion::LorawanVersion11, LorawanVersion::V1_1),
];

fn version_of(value: i32) -> Option<LorawanVersion> {
    let known = VERSIONS
        .iter()
        .find(|(proto, _)| i32::from(*proto) == value);
    known.map(|(_, version)| *version)
}

fn show_version(version: LorawanVersion) -> v1::LorawanVersion {
    let known = VERSIONS.iter().find(|(_, known)| *known == version);
    known.map_or(v1::LorawanVersion::Unspecified, |(proto, _)| *proto)
}

pub(super) fn version_word(version: LorawanVersion) -> String {
    regions::word_of(show_version(version).as_str_name(), "LORAWAN_VERSION_")
}

pub(super) fn is_version_word(word: &str) -> bool {
    v1::LorawanVersion::from_str_name(&format!("LORAWAN_VERSION_{word}")).is_some()
}

fn interpretation_of(value: i32) -> Option<StatusInterpretation> {
    Some(match v1::StatusInterpretation::try_from(value).ok()? {
        v1::StatusInterpretation::Unspecified | v1::StatusInterpretation::Spec => {
            StatusInterpretation::Spec
        }
        v1::StatusInterpretation::LoramacNode => StatusInterpretation::LoramacNode,
        v1::StatusInterpretation::Lbm => StatusInterpretation::LoraBasicsModem,
        v1::StatusInterpretation::Zephyr => StatusInterpretation::Zephyr,
    })
}

pub(super) fn show(profile: &DeviceProfile) -> v1::DeviceProfile {
    let package = |package: Option<Package>| {
        package.map(|package| v1::Package {
            version: package.version.number().into(),
            f_port: package.f_port.into(),
        })
    };
    let limits = profile.limits;
    v1::DeviceProfile {
        name: names::name("deviceProfiles", &profile.id),
        display_name: profile.display_name.clone(),
        lorawan_version: show_version(profile.lorawan_version).into(),
        region: regions::show(profile.region).into(),
        supports_class_b: profile.supports_class_b,
        supports_class_c: profile.supports_class_c,
        clock_sync: package(profile.packages.clock_sync),
        multicast_setup: package(profile.packages.multicast_setup),
        fragmentation: package(profile.packages.fragmentation),
        firmware_management: package(profile.packages.firmware_management),
        decoder_limits: Some(v1::DecoderLimits {
            max_nb_frag: limits.max_nb_frag.into(),
            max_frag_size: limits.max_frag_size.into(),
            max_lost_fragments: limits.max_lost.unwrap_or(0).into(),
            max_multicast_groups: limits.max_groups.into(),
            max_frag_sessions: limits.max_frag_sessions.into(),
            reed_solomon: limits.reed_solomon,
            keeps_finished_blocks: limits.keeps_blocks,
        }),
        status_interpretation: match profile.status_interpretation {
            StatusInterpretation::Spec => v1::StatusInterpretation::Spec,
            StatusInterpretation::LoramacNode => v1::StatusInterpretation::LoramacNode,
            StatusInterpretation::LoraBasicsModem => v1::StatusInterpretation::Lbm,
            StatusInterpretation::Zephyr => v1::StatusInterpretation::Zephyr,
        }
        .into(),
        uplink_interval: Some(show_length(profile.uplink_interval)),
        multicast_root_key: show_root_key(profile.lorawan_version).into(),
        application_reboot: profile.application_reboot.as_ref().map(|downlink| {
            v1::ApplicationReboot {
                f_port: downlink.f_port.into(),
                payload: downlink.payload.clone().into(),
            }
        }),
        components: profile
            .components
            .iter()
            .map(device_parts::show_component)
            .collect(),
        descriptor_rule: Some(device_parts::show_rule(profile.descriptor)),
        after_reboot: Some(v1::AfterReboot {
            rejoins: profile.after_reboot.rejoins,
            f_cnt_reset: match profile.after_reboot.f_cnt_reset {
                FCntReset::Refuse => v1::FCntReset::Refuse,
                FCntReset::AllowAfterReboot => v1::FCntReset::AllowAfterReboot,
            }
            .into(),
            loses_multicast_groups: profile.after_reboot.loses_groups,
        }),
        version_source: show_version_source(profile),
        create_time: Some(show_moment(profile.created_at)),
        update_time: Some(show_moment(profile.updated_at)),
    }
}

/// Unset where the version is read from nowhere: TS006 is the default, and the devices have not got it.
fn show_version_source(profile: &DeviceProfile) -> Option<v1::VersionSource> {
    use v1::version_source::Source;

    let source = match profile.version_source {
        VersionSource::FirmwareManagement => {
            profile.packages.firmware_management?;
            Source::FirmwareManagement(())
        }
        VersionSource::UplinkField(field) => {
            Source::UplinkField(device_parts::show_uplink_field(field))
        }
    };
    Some(v1::VersionSource {
        source: Some(source),
    })
}
