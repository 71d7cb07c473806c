//! What devices say outside tasks, and whose version it is.

use lorawan_fuota::dialogue::Dialogue;
use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::firmware_management::{DevVersionAns, UplinkCommand};
use lorawan_fuota::record::*;

use crate::store_records::{at, eui, profile, root_keys, settings, tenant};

/// Port of all application uplinks here.
const PORT: u8 = 7;

fn field(offset: u8) -> Option<UplinkField> {
    Some(UplinkField {
        f_port: PORT,
        offset,
        length: 2,
        big_endian: true,
    })
}

fn component(name: &str, version_field: Option<UplinkField>) -> Component {
    Component {
        name: name.to_owned(),
        number: 0,
        max_image_bytes: None,
        applies_deltas: false,
        version_field,
    }
}

/// The versions known of a device with this source and these components once it has said this.
fn known(
    version_source: VersionSource,
    components: Vec<Component>,
    said: &[(u8, &[u8])],
) -> Vec<(String, u32, VersionEvidence)> {
    let mut fleet = Fleet::default();
    fleet.put_profile(DeviceProfile {
        version_source,
        components,
        ..profile(&tenant(), "meter")
    });
    assert!(fleet.put_device(settings(&tenant(), 1), Some(root_keys(1))));
    let mut dialogue = Dialogue::default();
    for (f_port, payload) in said {
        let uplink = Uplink {
            dev_eui: eui(1),
            f_cnt: 1,
            f_port: Some(*f_port),
            payload: payload.to_vec(),
            received_at: at(1),
            data_rate: 5,
            frequency_hz: 868_100_000,
            confirmed: false,
            class_b: false,
            asked_time: false,
            receptions: vec![],
        };
        assert_eq!(dialogue.hear(at(1), &uplink, false, &mut fleet), None);
    }
    let versions = &fleet.get(eui(1)).unwrap().status.versions;
    let versions = versions.iter();
    versions
        .map(|(component, known)| (component.clone(), known.version, known.evidence))
        .collect()
}

fn dev_version_ans(fw_version: u32) -> Vec<u8> {
    let mut payload = Vec::new();
    UplinkCommand::DevVersionAns(DevVersionAns {
        fw_version,
        hw_version: 1,
    })
    .encode(PackageVersion::V1, &mut payload);
    payload
}

#[test]
fn one_uplink_tells_the_versions_of_all_components() {
    let of_profile = VersionSource::UplinkField(field(0).unwrap());
    let components = vec![
        component("radio", field(2)),
        component("main", None),
        component("node", field(4)),
    ];
    let by_uplink = |name: &str, version| (name.to_owned(), version, VersionEvidence::UplinkField);
    assert_eq!(
        known(
            of_profile,
            components.clone(),
            &[(PORT, &[0, 1, 0, 2, 0, 3])]
        ),
        [
            by_uplink("main", 1),
            by_uplink("node", 3),
            by_uplink("radio", 2)
        ]
    );
    // Too short for the last field, and another port.
    assert_eq!(
        known(of_profile, components.clone(), &[(PORT, &[0, 1, 0, 2])]),
        [by_uplink("main", 1), by_uplink("radio", 2)]
    );
    assert_eq!(known(of_profile, components, &[(PORT + 1, &[0; 6])]), []);
    assert_eq!(
        known(of_profile, vec![], &[(PORT, &[0, 1, 0, 2])]),
        [by_uplink("main", 1)]
    );
}

#[test]
fn firmware_management_speaks_of_the_first_component_without_a_field() {
    let ts006 = VersionSource::FirmwareManagement;
    let answer = dev_version_ans(9);
    let said: [(u8, &[u8]); 2] = [(PORT, &[0, 1]), (203, &answer)];
    let by_ts006 = |name: &str| (name.to_owned(), 9, VersionEvidence::FirmwareManagement);
    let app = ("app".to_owned(), 1, VersionEvidence::UplinkField);
    assert_eq!(
        known(
            ts006,
            vec![component("app", field(0)), component("radio", None)],
            &said
        ),
        [app.clone(), by_ts006("radio")]
    );
    assert_eq!(known(ts006, vec![], &said), [by_ts006("main")]);
    // Nobody is left it could speak of, `main` or not.
    assert_eq!(known(ts006, vec![component("app", field(0))], &said), [app]);
    let main = ("main".to_owned(), 1, VersionEvidence::UplinkField);
    assert_eq!(
        known(ts006, vec![component("main", field(0))], &said),
        [main]
    );
}
