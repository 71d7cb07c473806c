//! The part of the contract that lists: pages, filters and orders.

use std::collections::BTreeMap;

use lorawan_fuota::record::*;
use lorawan_fuota::store::{Catalog, DeviceFilter, Page, Store, TaskDeviceFilter, TaskFilter};

use super::{Place, after, filled, first};
use crate::store_records::*;

pub(super) async fn lists_are_paged_by_key<P: Place>(place: &P) {
    let store = filled(place).await;
    let t = tenant();
    let mut changes = Vec::new();
    for n in (3..=7).rev() {
        changes.push(Change::PutDeviceSettings(settings(&t, n)));
        changes.push(Change::PutGatewaySettings(gateway(n)));
        changes.push(Change::PutTask(
            task(&t, &format!("t{n}"), TaskState::Draft).into(),
        ));
        changes.push(Change::PutDeviceProfile(profile(&t, &format!("p{n}"))));
        changes.push(Change::PutMulticastGroup(group(&t, &format!("g{n}"))));
        changes.push(put_image(&t, u8::try_from(n).unwrap()));
        let device = task_device("t1", n, DeviceState::Pending, 0);
        changes.push(Change::PutTaskDevice(device.into()));
    }
    store.commit(&changes).await.unwrap();

    let any = DeviceFilter::default();
    let mut page = first(3);
    let mut seen = Vec::new();
    loop {
        let devices = store.devices(&t, &any, &page).await.unwrap();
        let Some(last) = devices.last() else { break };
        page = after(3, last.settings.dev_eui);
        seen.push(devices.len());
    }
    assert_eq!(seen, [3, 3, 1]);

    let page = after(2, gateway_eui(3));
    let gateways = store.gateways(&page).await.unwrap();
    let euis: Vec<_> = gateways.iter().map(|g| g.settings.eui).collect();
    assert_eq!(euis, [gateway_eui(4), gateway_eui(5)]);
    let tasks = store
        .tasks(&t, &TaskFilter::default(), &after(2, "t4"))
        .await;
    let ids: Vec<_> = tasks.unwrap().into_iter().map(|t| t.id.0).collect();
    assert_eq!(ids, ["t5", "t6"]);
    let profiles = store.device_profiles(&t, &after(9, "p6")).await.unwrap();
    assert_eq!(profiles, [profile(&t, "p7")]);
    let groups = store.multicast_groups(&t, &after(1, "g1")).await.unwrap();
    assert_eq!(groups, [group(&t, "g3")]);
    let images = store.images(&t, &after(1, sha(5))).await.unwrap();
    assert_eq!(images, [image(&t, 6).0]);
    let filter = TaskDeviceFilter::default();
    let devices = store
        .task_devices(&task_id("t1"), &filter, &after(2, eui(1)))
        .await
        .unwrap();
    let euis: Vec<_> = devices.iter().map(|d| d.dev_eui).collect();
    assert_eq!(euis, [eui(2), eui(3)]);
}

pub(super) async fn devices_are_filtered<P: Place>(place: &P) {
    let store = filled(place).await;
    let t = tenant();
    let mut odd = settings(&t, 3);
    odd.profile = "valve".to_owned();
    odd.model = "m2".to_owned();
    odd.tags = BTreeMap::from([("site".to_owned(), "south".to_owned())]);
    let changes = [
        Change::PutDeviceProfile(profile(&t, "valve")),
        Change::PutDeviceSettings(odd),
    ];
    store.commit(&changes).await.unwrap();

    let tags = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(owned).collect()
    };
    let filter =
        |profile: Option<&str>, model: Option<&str>, pairs: &[(&str, &str)]| DeviceFilter {
            profile: profile.map(str::to_owned),
            model: model.map(str::to_owned),
            tags: tags(pairs),
        };
    let odd_tag = ("it's \"odd\" $.", "50 %_");
    let cases: [(DeviceFilter, &[u64]); 9] = [
        (filter(Some("valve"), None, &[]), &[3]),
        (filter(Some("meter"), None, &[]), &[1, 2]),
        (filter(None, Some("m2"), &[]), &[3]),
        (filter(None, None, &[("site", "north")]), &[1, 2]),
        (filter(None, None, &[("site", "south")]), &[3]),
        (filter(None, None, &[odd_tag, ("site", "north")]), &[1, 2]),
        (filter(None, None, &[odd_tag, ("site", "south")]), &[]),
        (filter(None, None, &[("site", "nort_")]), &[]),
        (filter(Some("meter"), Some("m2"), &[]), &[]),
    ];
    for (filter, expected) in cases {
        let devices = store.devices(&t, &filter, &first(9)).await.unwrap();
        let found: Vec<_> = devices.iter().map(|d| d.settings.dev_eui).collect();
        let expected: Vec<_> = expected.iter().map(|n| eui(*n)).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    let page = after(1, eui(1));
    let filter = filter(None, None, &[("site", "north")]);
    let devices = store.devices(&t, &filter, &page).await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].settings.dev_eui, eui(2));
}

pub(super) async fn tags_follow_the_settings<P: Place>(place: &P) {
    let store = filled(place).await;
    let t = tenant();
    let mut moved = settings(&t, 1);
    moved.tags = BTreeMap::from([("site".to_owned(), "south".to_owned())]);
    let changes = [
        Change::PutDeviceSettings(moved),
        Change::DeleteDevice(eui(2)),
    ];
    store.commit(&changes).await.unwrap();
    for (value, expected) in [("north", 0), ("south", 1)] {
        let filter = DeviceFilter {
            tags: BTreeMap::from([("site".to_owned(), value.to_owned())]),
            ..DeviceFilter::default()
        };
        let devices = store.devices(&t, &filter, &first(9)).await.unwrap();
        assert_eq!(devices.len(), expected, "{value}");
    }
}

pub(super) async fn tasks_are_filtered<P: Place>(place: &P) {
    let store = filled(place).await;
    let t = tenant();
    let mut other_image = task(&t, "t2", TaskState::Draft);
    other_image.images = vec![sha(2)];
    let mut changed_image = task(&t, "t3", TaskState::Draft);
    let changes = [
        put_image(&t, 2),
        Change::PutTask(other_image.into()),
        Change::PutTask(changed_image.clone().into()),
        Change::PutTaskDevice(task_device("t3", 2, DeviceState::Pending, 0).into()),
    ];
    store.commit(&changes).await.unwrap();
    changed_image.images = vec![sha(2)];
    store
        .commit(&[Change::PutTask(changed_image.into())])
        .await
        .unwrap();

    let any = TaskFilter::default();
    let state = |state| TaskFilter {
        state: Some(state),
        ..any.clone()
    };
    let image = |image| TaskFilter {
        image: Some(image),
        ..any.clone()
    };
    let device = |device| TaskFilter {
        device: Some(device),
        ..any.clone()
    };
    let both = TaskFilter {
        state: Some(TaskState::Draft),
        image: Some(sha(2)),
        device: Some(eui(2)),
    };
    let cases: [(TaskFilter, &[&str]); 9] = [
        (any.clone(), &["t1", "t2", "t3"]),
        (state(TaskState::Draft), &["t2", "t3"]),
        (state(TaskState::Completed), &[]),
        (image(sha(1)), &["t1"]),
        (image(sha(2)), &["t2", "t3"]),
        (device(eui(1)), &["t1"]),
        (device(eui(2)), &["t1", "t3"]),
        (device(eui(9)), &[]),
        (both, &["t3"]),
    ];
    for (filter, expected) in cases {
        let tasks = store.tasks(&t, &filter, &first(9)).await.unwrap();
        let ids: Vec<_> = tasks.iter().map(|task| task.id.0.as_str()).collect();
        assert_eq!(ids, expected, "{filter:?}");
    }
}

pub(super) async fn task_devices_are_filtered<P: Place>(place: &P) {
    let store = filled(place).await;
    let mut silent = task_device("t1", 3, DeviceState::Silent, 0);
    silent.reason = Some(DeviceReason::NoAnswer);
    let mut pending = task_device("t1", 4, DeviceState::Pending, 0);
    pending.reason = None;
    let changes = [
        Change::PutTaskDevice(silent.into()),
        Change::PutTaskDevice(pending.into()),
    ];
    store.commit(&changes).await.unwrap();

    let filter = |state, reason| TaskDeviceFilter {
        state,
        reason,
        after_sequence: None,
    };
    let mic = Some(DeviceReason::MicError);
    let cases: [(TaskDeviceFilter, &[u64]); 6] = [
        (filter(None, None), &[1, 2, 3, 4]),
        (filter(Some(DeviceState::Failed), None), &[2]),
        (filter(None, mic), &[1, 2]),
        (filter(Some(DeviceState::Receiving), mic), &[1]),
        (filter(Some(DeviceState::Silent), mic), &[]),
        (filter(Some(DeviceState::Pending), None), &[4]),
    ];
    for (filter, expected) in cases {
        let page = first(9);
        let devices = store.task_devices(&task_id("t1"), &filter, &page).await;
        let found: Vec<_> = devices.unwrap().iter().map(|d| d.dev_eui).collect();
        let expected: Vec<_> = expected.iter().map(|n| eui(*n)).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

pub(super) async fn task_devices_come_in_sequence_order<P: Place>(place: &P) {
    let store = filled(place).await;
    let sequences = [(3, 100), (4, 20), (5, 3), (6, 9)];
    let changes: Vec<_> = sequences
        .iter()
        .map(|(n, sequence)| task_device("t1", *n, DeviceState::Failed, *sequence))
        .map(|device| Change::PutTaskDevice(device.into()))
        .collect();
    store.commit(&changes).await.unwrap();

    let id = task_id("t1");
    let filter = |after_sequence| TaskDeviceFilter {
        after_sequence: Some(after_sequence),
        ..TaskDeviceFilter::default()
    };
    let cases: [(u64, Page, &[u64]); 6] = [
        (0, first(9), &[3, 7, 8, 9, 20, 100]),
        (7, first(9), &[8, 9, 20, 100]),
        (7, first(2), &[8, 9]),
        (7, after(2, 9), &[20, 100]),
        (30, after(2, 9), &[100]),
        (u64::MAX, first(9), &[]),
    ];
    for (sequence, page, expected) in cases {
        let devices = store.task_devices(&id, &filter(sequence), &page).await;
        let found: Vec<_> = devices.unwrap().iter().map(|d| d.sequence).collect();
        assert_eq!(found, expected, "after {sequence}, {page:?}");
    }
    let failed = TaskDeviceFilter {
        state: Some(DeviceState::Failed),
        ..filter(7)
    };
    let devices = store.task_devices(&id, &failed, &first(9)).await.unwrap();
    let found: Vec<_> = devices.iter().map(|d| d.sequence).collect();
    assert_eq!(found, [9, 20, 100]);
    let bad_page = after(9, "x");
    let error = store.task_devices(&id, &filter(0), &bad_page).await;
    assert!(error.is_err());
}

pub(super) async fn devices_are_counted_by_state<P: Place>(place: &P) {
    let store = filled(place).await;
    let change = Change::PutTaskDevice(task_device("t1", 3, DeviceState::Failed, 0).into());
    store.commit(&[change]).await.unwrap();
    let counts = store.task_counts(&task_id("t1")).await.unwrap();
    let expected = BTreeMap::from([(DeviceState::Receiving, 1), (DeviceState::Failed, 2)]);
    assert_eq!(counts, expected);
}

pub(super) async fn active_tasks_of_devices<P: Place>(place: &P) {
    let store = filled(place).await;
    let mut changes = Vec::new();
    for (id, state) in [
        ("a", TaskState::Scheduled),
        ("b", TaskState::Draft),
        ("c", TaskState::Completed),
    ] {
        changes.push(Change::PutTask(task(&tenant(), id, state).into()));
        let device = task_device(id, 2, DeviceState::Pending, 0);
        changes.push(Change::PutTaskDevice(device.into()));
    }
    store.commit(&changes).await.unwrap();
    let asked = [eui(2), eui(1), eui(2), eui(9)];
    let held = store.active_tasks_of(&asked).await.unwrap();
    // The second device has failed in t1, and nothing is left on it to delete: t1 holds it no more.
    let mut expected = vec![(eui(1), task_id("t1")), (eui(2), task_id("a"))];
    assert_eq!(held, expected);
    let mut littered = task_device("t1", 2, DeviceState::Failed, 0);
    littered.group_cleanup = CleanupState::Pending;
    let change = Change::PutTaskDevice(littered.into());
    store.commit(&[change]).await.unwrap();
    expected.push((eui(2), task_id("t1")));
    assert_eq!(store.active_tasks_of(&asked).await.unwrap(), expected);
    assert_eq!(store.active_tasks_of(&[]).await.unwrap(), []);
}
