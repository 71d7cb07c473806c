//! End-devices: proto <-> record. Keys are read and never shown.

use crate::lorawan::keys::Key128;
use crate::lorawan::region::Region;
use crate::lorawan::{PackageVersion, identifiers::DevEui};
use crate::proto::v1;
use crate::record::{
    Activation, DeviceKeys, DeviceProfile, DeviceSettings, DeviceStatus, JoinState, LorawanVersion,
    MulticastKeys, Session, TaskId, VersionEvidence,
};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::device_profile_records::key_derivation;
use super::errors::ApiError;
use super::fields::{Fields, show_length, show_moment, tenant};
use super::gateways::decimal;
use super::names;

/// All that is stored of a device.
pub(super) struct Known<'a> {
    pub(super) settings: &'a DeviceSettings,
    pub(super) status: &'a DeviceStatus,
    pub(super) keys: Option<&'a DeviceKeys>,
    pub(super) join: Option<&'a JoinState>,
    pub(super) session: Option<&'a Session>,
    pub(super) active_task: Option<&'a TaskId>,
}

/// A new join state or session.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) join: Option<JoinState>,
    pub(super) session: Option<Session>,
}

/// What the operator says of a device; what is wrong is noted.
pub(super) fn read_settings(
    fields: &mut Fields,
    given: &v1::EndDevice,
    (created_at, updated_at): (Timestamp, Timestamp),
) -> Option<DeviceSettings> {
    let dev_eui = names::dev_eui(&given.dev_eui);
    if dev_eui.is_none() {
        fields.bad("dev_eui", "not 16 hex digits");
    }
    fields.text("display_name", &given.display_name, 255);
    fields.text("model", &given.model, 63);
    fields.marks("tags", &given.tags, 255);
    let profile = fields.name("device_profile", "deviceProfiles", &given.device_profile);
    Some(DeviceSettings {
        tenant: tenant(),
        dev_eui: dev_eui?,
        profile: profile?.to_owned(),
        display_name: given.display_name.clone(),
        model: given.model.clone(),
        tags: given.tags.clone(),
        created_at,
        updated_at,
    })
}

/// The versions an operator says a device runs; what is wrong is noted.
pub(super) fn read_versions(
    fields: &mut Fields,
    given: &BTreeMap<String, v1::ComponentVersion>,
) -> BTreeMap<String, u32> {
    const MOST: usize = 16;
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let good = |name: &String| (1..=63).contains(&name.len()) && name.chars().all(word);
    if given.len() > MOST {
        fields.bad("versions", format!("more than {MOST}"));
    } else if !given.keys().all(good) {
        fields.bad("versions", "a component is not of [A-Za-z0-9_-]{1,63}");
    }
    given
        .iter()
        .map(|(component, version)| (component.clone(), version.version))
        .collect()
}

/// The multicast keys of a device, if any are given; what is wrong is noted. `app_key` is the one stored, for a
/// device
/// whose activation is not given along.
pub(super) fn read_keys(
    fields: &mut Fields,
    given: &v1::EndDevice,
    dev_eui: DevEui,
    profile: &DeviceProfile,
    app_key: Option<&Key128>,
) -> Option<DeviceKeys> {
    use v1::end_device::{Activation, Keys};
    use v1::root_keys::Source;

    let by_app_key = profile.lorawan_version == LorawanVersion::V1_1;
    let multicast = match given.keys.as_ref()? {
        Keys::RootKeys(root) => {
            let key = match &root.source {
                None => {
                    fields.bad("root_keys", "no key given");
                    return None;
                }
                Some(Source::GenAppKey(_)) if by_app_key => {
                    fields.bad(
                        "root_keys.gen_app_key",
                        "the profile derives from the AppKey",
                    );
                    return None;
                }
                Some(Source::AppKey(_)) if !by_app_key => {
                    fields.bad(
                        "root_keys.app_key",
                        "the profile derives from the GenAppKey",
                    );
                    return None;
                }
                Some(Source::GenAppKey(key)) => fields.key("root_keys.gen_app_key", key)?,
                Some(Source::AppKey(key)) => fields.key("root_keys.app_key", key)?,
                Some(Source::SameAsAppKey(false)) => {
                    fields.bad("root_keys.same_as_app_key", "must be true");
                    return None;
                }
                Some(Source::SameAsAppKey(true)) => match (&given.activation, app_key) {
                    // A wrong length is noted where the activation is read.
                    (Some(Activation::Otaa(otaa)), _) if !otaa.app_key.is_empty() => {
                        Key128::from_bytes(<[u8; 16]>::try_from(otaa.app_key.as_ref()).ok()?)
                    }
                    (_, Some(app_key)) => app_key.clone(),
                    _ => {
                        fields.bad("root_keys.same_as_app_key", "needs otaa");
                        return None;
                    }
                },
            };
            MulticastKeys::Root {
                key,
                derivation: key_derivation(profile.lorawan_version),
            }
        }
        Keys::DerivedKeys(derived) => {
            let mc_root_key = fields.key("derived_keys.mc_root_key", &derived.mc_root_key);
            let version = profile
                .packages
                .fragmentation
                .map(|package| package.version);
            let data_block_int_key =
                if derived.data_block_int_key.is_empty() && version != Some(PackageVersion::V2) {
                    // TS004 version 1 has no MIC: no such key is ever used.
                    Some(Key128::from_bytes([0; 16]))
                } else {
                    fields.key(
                        "derived_keys.data_block_int_key",
                        &derived.data_block_int_key,
                    )
                };
            MulticastKeys::Derived {
                mc_root_key: mc_root_key?,
                data_block_int_key: data_block_int_key?,
            }
        }
    };
    Some(DeviceKeys { dev_eui, multicast })
}

/// Join state or session of a device, if any is given; what is wrong is noted.
pub(super) fn read_activation(
    fields: &mut Fields,
    given: &v1::EndDevice,
    profile: &DeviceProfile,
    now: Timestamp,
) -> Secrets {
    use v1::end_device::Activation;

    let (field, secrets) = match &given.activation {
        None => return Secrets::default(),
        Some(Activation::Otaa(otaa)) => (
            "otaa",
            Secrets {
                join: read_join(fields, otaa),
                session: None,
            },
        ),
        Some(Activation::Abp(abp)) => (
            "abp",
            Secrets {
                join: None,
                session: read_session(fields, abp, profile.region, now),
            },
        ),
    };
    if profile.lorawan_version == LorawanVersion::V1_1 {
        fields.bad(
            field,
            "the built-in network server serves LoRaWAN 1.0.x only",
        );
    }
    secrets
}

fn read_join(fields: &mut Fields, given: &v1::OtaaActivation) -> Option<JoinState> {
    let digits = given.join_eui.len() == 16;
    let join_eui = digits.then(|| given.join_eui.parse().ok()).flatten();
    if join_eui.is_none() {
        fields.bad("otaa.join_eui", "not 16 hex digits");
    }
    let app_key = fields.key("otaa.app_key", &given.app_key);
    let mut dev_nonces = BTreeSet::new();
    for nonce in &given.used_dev_nonces {
        match u16::try_from(*nonce) {
            Ok(nonce) => dev_nonces.insert(nonce),
            Err(_) => {
                fields.bad(
                    "otaa.used_dev_nonces",
                    format!("{nonce} is not in 0..=65535"),
                );
                break;
            }
        };
    }
    if given.used_dev_nonces.len() > 65_536 {
        fields.bad("otaa.used_dev_nonces", "more than 65536");
    }
    let next_join_nonce = fields.number_or(
        "otaa.next_join_nonce",
        given.next_join_nonce,
        1..=0xff_ffff,
        1,
    );
    Some(JoinState {
        join_eui: join_eui?,
        app_key: app_key?,
        next_join_nonce: next_join_nonce?,
        dev_nonces,
        last_dev_nonce: None,
    })
}

fn read_session(
    fields: &mut Fields,
    given: &v1::AbpActivation,
    region: Region,
    now: Timestamp,
) -> Option<Session> {
    let digits = given.dev_addr.len() == 8;
    let dev_addr = digits.then(|| given.dev_addr.parse().ok()).flatten();
    if dev_addr.is_none() {
        fields.bad("abp.dev_addr", "not 8 hex digits");
    }
    let nwk_s_key = fields.key("abp.nwk_s_key", &given.nwk_s_key);
    let app_s_key = fields.key("abp.app_s_key", &given.app_s_key);
    let receive = given.receive_parameters.unwrap_or_default();
    let delay = fields.length(
        "abp.receive_parameters.rx1_delay",
        receive.rx1_delay.as_ref(),
        Duration::from_secs(1)..=Duration::from_secs(15),
    );
    if delay.is_some_and(|delay| delay.subsec_nanos() != 0) {
        fields.bad("abp.receive_parameters.rx1_delay", "not in whole seconds");
    }
    let rx1_dr_offset = fields.number(
        "abp.receive_parameters.rx1_dr_offset",
        receive.rx1_dr_offset,
        0..=7,
    );
    let (region_hz, region_dr) = region.rx2();
    let rx2_dr = fields.number(
        "abp.receive_parameters.rx2_data_rate",
        receive.rx2_data_rate.unwrap_or_else(|| region_dr.into()),
        0..=15,
    );
    let rx2_hz = fields.frequency(
        "abp.receive_parameters.rx2_frequency_hz",
        receive.rx2_frequency_hz,
    );
    Some(Session {
        dev_addr: dev_addr?,
        nwk_s_key: nwk_s_key?,
        app_s_key: app_s_key?,
        f_cnt_up: given.f_cnt_up.checked_sub(1),
        next_f_cnt_down: given.f_cnt_down,
        rx1_delay_s: u8::try_from(delay.map_or(1, |delay| delay.as_secs())).unwrap_or(1),
        rx1_dr_offset: rx1_dr_offset?,
        rx2_dr: rx2_dr?,
        rx2_frequency_hz: rx2_hz.unwrap_or(region_hz),
        activated_at: now,
        imported: true,
    })
}

impl Secrets {
    /// What may follow on `present`: nonces and counters never go back under one key.
    pub(super) fn after(
        mut self,
        fields: &mut Fields,
        present: &Activation,
    ) -> Result<Self, ApiError> {
        if let Some(join) = &mut self.join {
            match &present.join {
                Some(old) if old.app_key == join.app_key => {
                    join.dev_nonces.extend(&old.dev_nonces);
                    join.last_dev_nonce = old.last_dev_nonce;
                    join.next_join_nonce = join.next_join_nonce.max(old.next_join_nonce);
                }
                None if present.session.is_some() => {
                    fields.bad("otaa", "a change from abp is not supported yet");
                }
                _ => {}
            }
        }
        if let Some(session) = &self.session {
            if present.join.is_some() {
                fields.bad("abp", "a change from otaa is not supported yet");
            }
            if let Some(old) = &present.session {
                let same_keys =
                    old.nwk_s_key == session.nwk_s_key || old.app_s_key == session.app_s_key;
                if same_keys && session.next_f_cnt_down < old.next_f_cnt_down {
                    return Err(ApiError::refused(
                        "COUNTER_GOES_BACK",
                        format!(
                            "f_cnt_down {} is below {}, which may have been used under these keys",
                            session.next_f_cnt_down, old.next_f_cnt_down
                        ),
                    ));
                }
            }
        }
        Ok(self)
    }
}

/// A device as the API shows it.
pub(super) fn show_device(known: &Known<'_>) -> v1::EndDevice {
    let (settings, status) = (known.settings, known.status);
    v1::EndDevice {
        name: names::name("devices", settings.dev_eui),
        dev_eui: settings.dev_eui.to_string(),
        display_name: settings.display_name.clone(),
        device_profile: names::name("deviceProfiles", &settings.profile),
        model: settings.model.clone(),
        tags: settings.tags.clone(),
        keys: known.keys.map(show_keys),
        activation: show_activation(known.join, known.session),
        session: known.session.map(|session| v1::DeviceSession {
            dev_addr: session.dev_addr.to_string(),
            f_cnt_up: session.f_cnt_up.map_or(0, |last| last.saturating_add(1)),
            f_cnt_down: session.next_f_cnt_down,
            receive_parameters: Some(show_receive_parameters(session)),
            activate_time: Some(show_moment(session.activated_at)),
        }),
        versions: status
            .versions
            .iter()
            .map(|(component, version)| {
                let shown = v1::ComponentVersion {
                    version: version.version,
                    report_time: Some(show_moment(version.at)),
                    evidence: show_evidence(version.evidence).into(),
                };
                (component.clone(), shown)
            })
            .collect(),
        reported_packages: status
            .capabilities
            .iter()
            .map(|(package, capability)| {
                let shown = v1::ReportedPackage {
                    version: capability.version.into(),
                    report_time: Some(show_moment(capability.at)),
                };
                (u32::from(*package), shown)
            })
            .collect(),
        last_seen_time: status.last_seen.map(show_moment),
        links: show_links(status),
        leftovers: show_leftovers(status),
        active_task: known
            .active_task
            .map(|task| names::name("tasks", task))
            .unwrap_or_default(),
        create_time: Some(show_moment(settings.created_at)),
        update_time: Some(show_moment(settings.updated_at)),
        version_history: status
            .version_history
            .iter()
            .map(|change| v1::VersionChange {
                component: change.component.clone(),
                version: change.version,
                since_time: Some(show_moment(change.since)),
                evidence: show_evidence(change.evidence).into(),
            })
            .collect(),
        security_counters: status.security_counters.clone(),
    }
}

fn show_evidence(evidence: VersionEvidence) -> v1::VersionEvidence {
    match evidence {
        VersionEvidence::FirmwareManagement => v1::VersionEvidence::FirmwareManagement,
        VersionEvidence::UplinkField => v1::VersionEvidence::UplinkField,
        VersionEvidence::User => v1::VersionEvidence::User,
    }
}

/// Which kind of keys there is, without them.
fn show_keys(keys: &DeviceKeys) -> v1::end_device::Keys {
    use crate::lorawan::keys::KeyDerivation;
    use prost::bytes::Bytes;
    use v1::end_device::Keys;
    use v1::root_keys::Source;

    match &keys.multicast {
        MulticastKeys::Root { derivation, .. } => Keys::RootKeys(v1::RootKeys {
            source: Some(match derivation {
                KeyDerivation::GenAppKey => Source::GenAppKey(Bytes::new()),
                KeyDerivation::AppKey => Source::AppKey(Bytes::new()),
            }),
        }),
        MulticastKeys::Derived { .. } => Keys::DerivedKeys(v1::DerivedKeys::default()),
    }
}

fn show_activation(
    join: Option<&JoinState>,
    session: Option<&Session>,
) -> Option<v1::end_device::Activation> {
    use v1::end_device::Activation;

    if let Some(join) = join {
        return Some(Activation::Otaa(v1::OtaaActivation {
            join_eui: join.join_eui.to_string(),
            next_join_nonce: join.next_join_nonce,
            used_dev_nonce_count: u32::try_from(join.dev_nonces.len()).unwrap_or(u32::MAX),
            last_dev_nonce: join.last_dev_nonce.map(u32::from),
            ..v1::OtaaActivation::default()
        }));
    }
    let session = session.filter(|session| session.imported)?;
    Some(Activation::Abp(v1::AbpActivation {
        dev_addr: session.dev_addr.to_string(),
        f_cnt_up: session.f_cnt_up.map_or(0, |last| last.saturating_add(1)),
        f_cnt_down: session.next_f_cnt_down,
        receive_parameters: Some(show_receive_parameters(session)),
        ..v1::AbpActivation::default()
    }))
}

fn show_receive_parameters(session: &Session) -> v1::ReceiveParameters {
    v1::ReceiveParameters {
        rx1_delay: Some(show_length(Duration::from_secs(session.rx1_delay_s.into()))),
        rx1_dr_offset: session.rx1_dr_offset.into(),
        rx2_data_rate: Some(session.rx2_dr.into()),
        rx2_frequency_hz: session.rx2_frequency_hz,
    }
}

/// The gateways that heard a device, best signal first.
fn show_links(status: &DeviceStatus) -> Vec<v1::GatewayLink> {
    const MOST: usize = 16;
    let mut links: Vec<_> = status.links.iter().collect();
    links.sort_by(|(_, a), (_, b)| {
        b.snr_db
            .total_cmp(&a.snr_db)
            .then(b.rssi_dbm.cmp(&a.rssi_dbm))
    });
    links
        .into_iter()
        .take(MOST)
        .map(|(gateway, link)| v1::GatewayLink {
            gateway: names::name("gateways", gateway),
            rssi_dbm: f64::from(link.rssi_dbm),
            snr_db: decimal(link.snr_db),
            receive_time: Some(show_moment(link.at)),
        })
        .collect()
}

fn show_leftovers(status: &DeviceStatus) -> Vec<v1::Leftover> {
    let groups = (0u32..).zip(&status.mc_slots).filter_map(|(index, slot)| {
        let slot = slot.as_ref().filter(|slot| slot.leftover)?;
        Some(v1::Leftover {
            kind: v1::LeftoverKind::MulticastGroup.into(),
            index,
            task: names::name("tasks", &slot.session.task),
        })
    });
    let sessions = (0u32..)
        .zip(&status.frag_slots)
        .filter_map(|(index, slot)| {
            let slot = slot.as_ref().filter(|slot| slot.leftover)?;
            Some(v1::Leftover {
                kind: v1::LeftoverKind::FragSession.into(),
                index,
                task: names::name("tasks", &slot.task),
            })
        });
    groups.chain(sessions).collect()
}
