//! Images that do not fit: each rule by itself, what is refused and what is left out; and which devices get a delta.

use super::*;

const BASE: Sha256 = Sha256([1; 32]);

/// Two devices of model `m` that run version 1 of `main`, whose slot has 10 000 bytes, and an image of version 2 for
/// them.
fn fitting() -> Network {
    let mut network = Network::new(5000, 1).with(2, &[(1, 5.0)]);
    network.task.options.skip_unfit = false;
    network.image.model = "m".to_owned();
    for device in &mut network.devices {
        device.settings.model = "m".to_owned();
        device
            .status
            .note_version("main", 1, VersionEvidence::FirmwareManagement, NOW);
        let profile = Arc::make_mut(&mut device.profile);
        profile.components = vec![
            component("main", 0, Some(10_000)),
            component("radio", 7, None),
        ];
    }
    network
}

fn component(name: &str, number: u8, max_image_bytes: Option<u32>) -> Component {
    Component {
        name: name.to_owned(),
        number,
        max_image_bytes,
        applies_deltas: true,
        version_field: None,
    }
}

/// What one change makes of a plan that was good: the field that stands against the first device, and the reason.
fn refused(change: impl Fn(&mut Network)) -> Option<(&'static str, DeviceReason, usize)> {
    let mut network = fitting();
    change(&mut network);
    match network.plan() {
        Ok(_) => None,
        Err(PlanError::Unfit(devices)) => {
            let first = devices.first()?;
            Some((first.unfit?, first.reason, devices.len()))
        }
        Err(error) => panic!("{error}"),
    }
}

fn first_runs(network: &mut Network, version: u32) {
    let status = &mut network.devices[0].status;
    status.note_version("main", version, VersionEvidence::FirmwareManagement, NOW);
}

#[test]
fn what_fits_is_planned() {
    assert_eq!(refused(|_| {}), None);
    assert_eq!(refused(|n| n.image.model.clear()), None);
    assert_eq!(
        refused(|n| n.image.facts.source_versions = [1, 7].into()),
        None
    );
    assert_eq!(refused(|n| n.image.size_bytes = 10_000), None);
}

#[test]
fn each_rule_refuses_the_task_and_names_the_field() {
    type Rule = (fn(&mut Network), &'static str, DeviceReason, usize);
    let rules: [Rule; 8] = [
        (
            |n| n.devices[0].settings.model.clear(),
            "model",
            DeviceReason::WrongModel,
            1,
        ),
        (
            |n| n.image.component = "boot".to_owned(),
            "component",
            DeviceReason::NoSuchComponent,
            2,
        ),
        (
            |n| n.image.facts.source_versions = [7].into(),
            "source_versions",
            DeviceReason::SourceVersion,
            2,
        ),
        (
            |n| first_runs(n, 3),
            "target_version",
            DeviceReason::Downgrade,
            1,
        ),
        (
            |n| {
                n.image.facts.security_counter = Some(4);
                let counters = &mut n.devices[0].status.security_counters;
                counters.insert("main".to_owned(), 5);
            },
            "security_counter",
            DeviceReason::SecurityCounter,
            1,
        ),
        (
            |n| n.image.size_bytes = 10_001,
            "size_bytes",
            DeviceReason::SlotTooSmall,
            2,
        ),
        (
            |n| Arc::make_mut(&mut n.devices[0].profile).limits.max_nb_frag = 3,
            "size_bytes",
            DeviceReason::DecoderLimit,
            1,
        ),
        (
            |n| n.image.release.state = ReleaseState::Draft,
            "allowed_devices",
            DeviceReason::NotReleased,
            2,
        ),
    ];
    for (change, field, reason, devices) in rules {
        assert_eq!(refused(change), Some((field, reason, devices)), "{field}");
    }
}

#[test]
fn an_image_without_a_counter_does_not_go_where_one_was() {
    let counted = refused(|n| {
        let counters = &mut n.devices[1].status.security_counters;
        counters.insert("main".to_owned(), 1);
    });
    assert_eq!(
        counted,
        Some(("security_counter", DeviceReason::SecurityCounter, 1))
    );
}

#[test]
fn a_downgrade_goes_through_when_it_is_asked_for() {
    let asked = refused(|n| {
        first_runs(n, 3);
        n.task.options.allow_downgrade = true;
    });
    assert_eq!(asked, None);
}

#[test]
fn devices_that_run_the_target_are_skipped_and_never_unfit() {
    let mut network = fitting();
    first_runs(&mut network, 2);
    network.devices[0].settings.model.clear();
    let plan = network.plan().unwrap();
    assert_eq!(plan.skipped.len(), 1);
    assert_eq!(plan.skipped[0].reason, DeviceReason::AlreadyCurrent);
}

#[test]
fn unfit_devices_are_left_out_when_that_is_asked_for() {
    let mut network = fitting();
    first_runs(&mut network, 3);
    network.task.options.skip_unfit = true;
    let plan = network.plan().unwrap();
    assert_eq!(plan.skipped[0].reason, DeviceReason::Downgrade);
    assert_eq!(plan.sessions[0].devices, [DevEui(2)]);
}

#[test]
fn lists_bind_drafts_and_restricted_images() {
    let listed = |n: &mut Network, all: bool| {
        let count = if all { 2 } else { 1 };
        let devices = n.devices.iter().take(count).map(|d| d.settings.dev_eui);
        n.image.release.allowed_devices = devices.collect();
    };
    for state in [ReleaseState::Draft, ReleaseState::Active] {
        for all in [true, false] {
            let outcome = refused(|n| {
                listed(n, all);
                n.image.release.state = state;
                n.image.release.restricted = state == ReleaseState::Active;
            });
            assert_eq!(outcome.is_none(), all, "{state:?}");
        }
    }
    assert_eq!(refused(|n| listed(n, false)), None);
    let mut network = fitting();
    network.image.release.state = ReleaseState::Withdrawn;
    let withdrawn = network.plan();
    assert!(matches!(
        withdrawn,
        Err(PlanError::Field {
            field: "images",
            ..
        })
    ));
}

fn delta(byte: u8, base_version: u32, size_bytes: u32) -> Image {
    let target = image(5000);
    Image {
        sha256: Sha256([byte; 32]),
        size_bytes,
        container: ImageContainer::Delta,
        facts: ImageFacts {
            delta: Some(Delta {
                base: BASE,
                base_version,
                target: target.sha256,
                target_size_bytes: 5000,
            }),
            ..ImageFacts::default()
        },
        ..target
    }
}

/// Delta and size in bytes of each session.
fn sessions(network: &Network) -> Vec<(Option<Sha256>, u32)> {
    let plan = network.plan().unwrap();
    let bytes = |s: &PlannedSession| {
        let block = u32::from(s.block.nb_frag) * u32::from(s.block.frag_size);
        block - u32::from(s.block.padding)
    };
    plan.sessions.iter().map(|s| (s.delta, bytes(s))).collect()
}

#[test]
fn each_device_gets_the_smallest_delta_from_what_it_runs() {
    let mut network = fitting();
    network.deltas = vec![delta(5, 1, 900), delta(6, 1, 800), delta(7, 3, 10)];
    assert_eq!(sessions(&network), [(Some(Sha256([6; 32])), 800)]);
    // A device of another version gets the whole image, in a session of its own.
    first_runs(&mut network, 0);
    let mut made = sessions(&network);
    made.sort();
    assert_eq!(made, [(None, 5000), (Some(Sha256([6; 32])), 800)]);
}

#[test]
fn deltas_go_to_those_only_who_can_apply_them_and_gain_by_it() {
    let whole = |change: fn(&mut Network)| {
        let mut network = fitting();
        network.deltas = vec![delta(6, 1, 800)];
        change(&mut network);
        sessions(&network) == [(None, 5000)]
    };
    assert!(!whole(|_| {}));
    assert!(whole(|n| n.task.options.no_deltas = true));
    assert!(whole(|n| n.deltas[0].size_bytes = 5000));
    assert!(whole(|n| {
        for device in &mut n.devices {
            Arc::make_mut(&mut device.profile).components[0].applies_deltas = false;
        }
    }));
    assert!(whole(|n| {
        if let Some(patch) = &mut n.deltas[0].facts.delta {
            patch.target = BASE;
        }
    }));
}

#[test]
fn the_descriptor_follows_the_rule_of_the_profile() {
    let made = |rule, change: fn(&mut Network)| {
        let mut network = fitting();
        for device in &mut network.devices {
            Arc::make_mut(&mut device.profile).descriptor = rule;
        }
        change(&mut network);
        network.plan().unwrap().sessions[0].block.descriptor
    };
    let radio = |n: &mut Network| n.image.component = "radio".to_owned();
    let patched = |n: &mut Network| n.deltas = vec![delta(6, 1, 800)];
    assert_eq!(made(DescriptorRule::Version, |_| {}), [2, 0, 0, 0]);
    assert_eq!(made(DescriptorRule::Component, radio), [7, 0, 0, 0]);
    assert_eq!(made(DescriptorRule::Component, patched), [0, 1, 0, 0]);
    assert_eq!(
        made(DescriptorRule::Fixed([9, 8, 7, 6]), |_| {}),
        [9, 8, 7, 6]
    );
    let by_hand = |n: &mut Network| n.task.options.descriptor = Some([1; 4]);
    assert_eq!(made(DescriptorRule::Component, by_hand), [1; 4]);
}
