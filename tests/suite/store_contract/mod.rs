//! What every store promises: one suite of generic functions, stamped out once per store by [`store_contract!`].

mod lists;

use std::collections::BTreeMap;

use lorawan_fuota::record::*;
use lorawan_fuota::store::{
    Catalog, DeviceFilter, MemoryStore, Page, SqliteStore, Store, StoreError, TaskFilter,
};

use crate::store_records::*;
use crate::store_sqlite::Directory;
use lists::*;

/// A place where one set of records is kept, to be opened again and again.
trait Place {
    type Opened: Catalog;

    fn open(&self) -> impl Future<Output = Self::Opened>;
}

impl Place for MemoryStore {
    type Opened = Self;

    async fn open(&self) -> Self {
        self.clone()
    }
}

impl Place for Directory {
    type Opened = SqliteStore;

    async fn open(&self) -> SqliteStore {
        self.store().await
    }
}

macro_rules! store_contract {
    ($store:ident, $place:expr, [$($case:ident),* $(,)?]) => {
        mod $store {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(&$place).await;
                }
            )*
        }
    };
}

/// The cases, for each store.
macro_rules! stores {
    ($($store:ident => $place:expr;)*) => {
        $(store_contract!($store, $place, [
            every_record_reads_back,
            a_snapshot_holds_the_network_also_after_reopening,
            an_empty_store_has_nothing,
            writing_again_replaces,
            deleting_a_device_takes_all_of_it,
            deleting_a_gateway_leaves_its_air,
            deleting_a_task_takes_all_of_it,
            each_delete_removes_one_record,
            deleting_what_is_not_there_does_nothing,
            a_failing_commit_leaves_nothing,
            a_failing_commit_undoes_replacing_and_deleting,
            references_must_hold,
            keys_and_policies_are_kept,
            rollouts_are_kept,
            what_is_said_of_an_image_changes_and_its_bytes_stay,
            a_delta_that_a_task_names_stays,
            numbers_that_cannot_be_kept_are_refused,
            records_of_another_tenant_are_out_of_reach,
            only_active_tasks_are_restored,
            lists_are_paged_by_key,
            devices_are_filtered,
            tags_follow_the_settings,
            tasks_are_filtered,
            task_devices_are_filtered,
            task_devices_come_in_sequence_order,
            devices_are_counted_by_state,
            active_tasks_of_devices,
            requests_are_forgotten_after_a_day,
            thousands_of_changes_fit_one_commit,
        ]);)*
    };
}

stores! {
    memory => lorawan_fuota::store::MemoryStore::new();
    sqlite => crate::store_sqlite::Directory::new();
}

fn first(size: u32) -> Page {
    Page { size, after: None }
}

fn after(size: u32, key: impl ToString) -> Page {
    Page {
        size,
        after: Some(key.to_string()),
    }
}

async fn filled<P: Place>(place: &P) -> P::Opened {
    let store = place.open().await;
    store.commit(&network()).await.unwrap();
    store
}

async fn keys_and_policies_are_kept<P: Place>(place: &P) {
    let store = filled(place).await;
    let (t, other) = (tenant(), TenantId("other".to_owned()));
    let second = trusted_key(&t, 6);
    let changes = [
        Change::PutTrustedKey(second.clone()),
        Change::PutTrustedKey(trusted_key(&other, 1)),
        Change::PutImagePolicy(policy(&t, "others")),
    ];
    store.commit(&changes).await.unwrap();
    drop(store);
    let store = place.open().await;
    let keys = store.trusted_keys(&t).await.unwrap();
    assert_eq!(keys, [trusted_key(&t, 5), second.clone()]);
    let models = [policy(&t, "m1"), policy(&t, "others")];
    assert_eq!(store.image_policies(&t).await.unwrap(), models);
    let retired = TrustedKey {
        retired_at: None,
        ..second
    };
    let changes = [
        Change::PutTrustedKey(retired.clone()),
        Change::DeleteImagePolicy(t.clone(), "m1".to_owned()),
        Change::DeleteImagePolicy(t.clone(), "never".to_owned()),
    ];
    store.commit(&changes).await.unwrap();
    assert_eq!(store.trusted_keys(&t).await.unwrap()[1], retired);
    assert_eq!(store.trusted_keys(&other).await.unwrap().len(), 1);
    assert_eq!(store.image_policies(&t).await.unwrap(), models[1..]);
}

async fn rollouts_are_kept<P: Place>(place: &P) {
    let store = filled(place).await;
    let (t, other) = (tenant(), TenantId("other".to_owned()));
    let put = |rollout: &Rollout| Change::PutRollout(Box::new(rollout.clone()));
    let (nightly, later) = (rollout(&t, "nightly"), rollout(&t, "z"));
    let theirs = rollout(&other, "nightly");
    let changes = [put(&later), put(&nightly), put(&theirs)];
    store.commit(&changes).await.unwrap();
    drop(store);
    let store = place.open().await;
    let all = store.rollouts(&t).await.unwrap();
    assert_eq!(all, [nightly.clone(), later.clone()]);
    let mut changed = nightly;
    changed.switch = RolloutSwitch::Withdrawn;
    changed.tries.clear();
    let changes = [
        put(&changed),
        Change::DeleteRollout(t.clone(), "z".to_owned()),
        Change::DeleteRollout(t.clone(), "never".to_owned()),
    ];
    store.commit(&changes).await.unwrap();
    assert_eq!(store.rollouts(&t).await.unwrap(), [changed.clone()]);
    assert_eq!(store.rollouts(&other).await.unwrap(), [theirs]);
    // A commit that fails leaves it as it was.
    let mut lost = changed.clone();
    lost.next_number += 1;
    let refused = store.commit(&[put(&lost), put_lost_image()]).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(store.rollouts(&t).await.unwrap(), [changed]);
}

/// What is said of an image that is not there.
fn put_lost_image() -> Change {
    let (mut image, _) = image(&tenant(), 1);
    image.sha256 = sha(77);
    Change::PutImageRecord(image)
}

async fn what_is_said_of_an_image_changes_and_its_bytes_stay<P: Place>(place: &P) {
    let store = filled(place).await;
    let t = tenant();
    let (mut image, bytes) = image(&t, 1);
    image.release.state = ReleaseState::Withdrawn;
    let change = Change::PutImageRecord(image.clone());
    store.commit(&[change]).await.unwrap();
    assert_eq!(store.image(&t, sha(1)).await.unwrap(), Some(image.clone()));
    assert_eq!(store.image_bytes(&t, sha(1)).await.unwrap(), Some(bytes));
    image.sha256 = sha(77);
    let refused = store.commit(&[Change::PutImageRecord(image)]).await;
    assert!(
        matches!(refused, Err(StoreError::NotFound(_))),
        "{refused:?}"
    );
}

async fn a_delta_that_a_task_names_stays<P: Place>(place: &P) {
    let store = filled(place).await;
    let t = tenant();
    let refused = store
        .commit(&[Change::DeleteImage(t.clone(), sha(9))])
        .await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "{refused:?}"
    );
    let users = TaskFilter::of_image(sha(9));
    assert_eq!(store.tasks(&t, &users, &first(9)).await.unwrap().len(), 1);
    let lost = Task {
        deltas: vec![sha(78)],
        ..task(&t, "t1", TaskState::Distributing)
    };
    let refused = store.commit(&[Change::PutTask(lost.into())]).await;
    assert!(
        matches!(refused, Err(StoreError::NotFound(_))),
        "{refused:?}"
    );
    let done = [
        Change::DeleteTask(task_id("t1")),
        Change::DeleteImage(t.clone(), sha(9)),
    ];
    store.commit(&done).await.unwrap();
    assert_eq!(store.image(&t, sha(9)).await.unwrap(), None);
}

async fn every_record_reads_back<P: Place>(place: &P) {
    let store = filled(place).await;
    let t = tenant();
    let profiles = store.device_profiles(&t, &first(9)).await.unwrap();
    assert_eq!(profiles, [profile(&t, "meter")]);
    assert_eq!(
        store.device_profile(&t, "meter").await.unwrap(),
        Some(profile(&t, "meter"))
    );
    let expected = network_snapshot();
    let all = store
        .devices(&t, &DeviceFilter::default(), &first(9))
        .await
        .unwrap();
    assert_eq!(all, expected.devices);
    for device in expected.devices {
        let read = store.device(&t, device.settings.dev_eui).await.unwrap();
        assert_eq!(read, Some(device));
    }
    assert!(store.device_exists(eui(1)).await.unwrap());
    for keys in expected.keys {
        let read = store.device_keys(keys.dev_eui).await.unwrap();
        assert_eq!(read, Some(keys));
    }
    let activation = store.activation(eui(1)).await.unwrap();
    let expected_activation = Activation {
        dev_eui: eui(1),
        join: Some(join()),
        session: Some(session(0x8000_0000)),
    };
    assert_eq!(activation, expected_activation);
    assert_eq!(store.gateways(&first(9)).await.unwrap(), expected.gateways);
    assert_eq!(store.air_ledgers().await.unwrap(), expected.ledgers);
    for gateway in expected.gateways {
        let read = store.gateway(gateway.settings.eui).await.unwrap();
        assert_eq!(read, Some(gateway));
    }
    let read = store.multicast_group(&t, "g1").await.unwrap();
    assert_eq!(read, Some(group(&t, "g1")));
    let (metadata, bytes) = image(&t, 1);
    assert_eq!(
        store.image(&t, sha(1)).await.unwrap(),
        Some(metadata.clone())
    );
    let all = store.images(&t, &first(9)).await.unwrap();
    assert_eq!(all, [metadata, delta(&t, 9).0]);
    assert_eq!(store.image_bytes(&t, sha(1)).await.unwrap(), Some(bytes));
    let id = task_id("t1");
    let read = store.task(&t, &id).await.unwrap();
    assert_eq!(read, Some(task(&t, "t1", TaskState::Distributing)));
    let read = store.task_device(&id, eui(2)).await.unwrap();
    assert_eq!(read, Some(task_device("t1", 2, DeviceState::Failed, 7)));
    assert_eq!(store.waves(&id).await.unwrap(), [wave("t1", 0)]);
    let sessions = store.distribution_sessions(&id).await.unwrap();
    assert_eq!(sessions, [distribution("t1", 0)]);
    let read = store.distribution_session(&session_id("t1", 0)).await;
    assert_eq!(read.unwrap(), Some(distribution("t1", 0)));
    let read = store.task_snapshot(&t, &id).await.unwrap();
    assert_eq!(read.as_ref(), expected.tasks.first());
    let read = store.request(&t, "r1").await.unwrap();
    assert_eq!(read, Some(request(&t, "r1", at(0))));
}

async fn a_snapshot_holds_the_network_also_after_reopening<P: Place>(place: &P) {
    let store = filled(place).await;
    assert_eq!(store.snapshot().await.unwrap(), network_snapshot());
    drop(store);
    let store = place.open().await;
    assert_eq!(store.snapshot().await.unwrap(), network_snapshot());
}

async fn an_empty_store_has_nothing<P: Place>(place: &P) {
    let store = place.open().await;
    let t = tenant();
    store.commit(&[]).await.unwrap();
    assert_eq!(store.snapshot().await.unwrap(), Snapshot::default());
    assert_eq!(store.device(&t, eui(1)).await.unwrap(), None);
    assert!(!store.device_exists(eui(1)).await.unwrap());
    let activation = store.activation(eui(1)).await.unwrap();
    assert_eq!((activation.join, activation.session), (None, None));
    assert_eq!(store.image_bytes(&t, sha(1)).await.unwrap(), None);
    assert_eq!(store.task_snapshot(&t, &task_id("t1")).await.unwrap(), None);
    assert_eq!(store.request(&t, "r1").await.unwrap(), None);
    let counts = store.task_counts(&task_id("t1")).await.unwrap();
    assert_eq!(counts, BTreeMap::new());
}

async fn writing_again_replaces<P: Place>(place: &P) {
    let store = filled(place).await;
    let mut expected = network_snapshot();
    let mut changes = Vec::new();

    let profile = &mut expected.profiles[0];
    profile.packages.clock_sync = None;
    profile.version_source = VersionSource::FirmwareManagement;
    changes.push(Change::PutDeviceProfile(profile.clone()));
    let device = &mut expected.devices[0];
    device.settings.model = "m2".to_owned();
    device.status = DeviceStatus::default();
    changes.push(Change::PutDeviceSettings(device.settings.clone()));
    changes.push(Change::PutDeviceStatus(
        eui(1),
        DeviceStatus::default().into(),
    ));
    expected.keys[0] = derived_keys(1);
    changes.push(Change::PutDeviceKeys(derived_keys(1)));
    expected.joins[0].1.dev_nonces.insert(2);
    changes.push(Change::PutJoinState(eui(1), expected.joins[0].1.clone()));
    expected.sessions[0].1.f_cnt_up = None;
    changes.push(Change::PutSession(eui(1), expected.sessions[0].1.clone()));
    let gateway = &mut expected.gateways[0];
    gateway.settings.position = None;
    gateway.status.last_seen = None;
    changes.push(Change::PutGatewaySettings(gateway.settings.clone()));
    changes.push(Change::PutGatewayStatus(
        gateway_eui(1),
        gateway.status.clone(),
    ));
    expected.ledgers[0].minutes.clear();
    changes.push(Change::PutAirLedger(expected.ledgers[0].clone()));
    expected.mc_groups[0].next_mc_f_cnt += 1;
    changes.push(Change::PutMcGroup(expected.mc_groups[0].clone()));
    let active = &mut expected.tasks[0];
    active.task.seed = None;
    active.task.state = TaskState::Completing;
    changes.push(Change::PutTask(active.task.clone().into()));
    active.images[0].0.file_name = "renamed".to_owned();
    active.images[0].1 = vec![1, 2, 3].into();
    let (metadata, bytes) = active.images[0].clone();
    changes.push(Change::PutImage(metadata, bytes));
    active.devices[0].reason = None;
    changes.push(Change::PutTaskDevice(active.devices[0].clone().into()));
    active.waves[0].ended_at = None;
    changes.push(Change::PutWave(active.waves[0].clone()));
    active.sessions[0].phase = SessionPhase::Closed;
    changes.push(Change::PutDistributionSession(active.sessions[0].clone()));
    let mut renamed = group(&tenant(), "g1");
    renamed.devices.clear();
    changes.push(Change::PutMulticastGroup(renamed.clone()));
    let again = request(&tenant(), "r1", at(1));
    changes.push(Change::PutRequest(again.clone()));

    store.commit(&changes).await.unwrap();
    assert_eq!(store.snapshot().await.unwrap(), expected);
    let read = store.multicast_group(&tenant(), "g1").await.unwrap();
    assert_eq!(read, Some(renamed));
    assert_eq!(store.request(&tenant(), "r1").await.unwrap(), Some(again));
}

async fn deleting_a_device_takes_all_of_it<P: Place>(place: &P) {
    let store = filled(place).await;
    store.commit(&[Change::DeleteDevice(eui(1))]).await.unwrap();
    let mut expected = network_snapshot();
    expected.devices.remove(0);
    expected.keys.remove(0);
    expected.joins.clear();
    expected.sessions.remove(0);
    assert_eq!(store.snapshot().await.unwrap(), expected);

    let again = Change::PutDeviceSettings(settings(&tenant(), 1));
    store.commit(&[again]).await.unwrap();
    let device = store.device(&tenant(), eui(1)).await.unwrap().unwrap();
    assert_eq!(device.status, DeviceStatus::default());
    let activation = store.activation(eui(1)).await.unwrap();
    assert_eq!((activation.join, activation.session), (None, None));
}

async fn deleting_a_gateway_leaves_its_air<P: Place>(place: &P) {
    let store = filled(place).await;
    store
        .commit(&[Change::DeleteGateway(gateway_eui(1))])
        .await
        .unwrap();
    let mut expected = network_snapshot();
    expected.gateways.remove(0);
    assert_eq!(store.snapshot().await.unwrap(), expected);

    let again = Change::PutGatewaySettings(gateway(1));
    store.commit(&[again]).await.unwrap();
    let read = store.gateway(gateway_eui(1)).await.unwrap().unwrap();
    assert_eq!(read.status, GatewayStatus::default());
}

async fn deleting_a_task_takes_all_of_it<P: Place>(place: &P) {
    let store = filled(place).await;
    let neighbour = [
        Change::PutTask(task(&tenant(), "t10", TaskState::Draft).into()),
        Change::PutTaskDevice(task_device("t10", 1, DeviceState::Pending, 0).into()),
        Change::PutMcGroup(mc_group("t10", 0)),
    ];
    store.commit(&neighbour).await.unwrap();
    let id = task_id("t1");
    store
        .commit(&[Change::DeleteTask(id.clone())])
        .await
        .unwrap();
    let mut expected = network_snapshot();
    expected.tasks.clear();
    expected.mc_groups = vec![mc_group("t10", 0)];
    assert_eq!(store.snapshot().await.unwrap(), expected);
    assert_eq!(store.task_device(&id, eui(1)).await.unwrap(), None);
    assert_eq!(store.waves(&id).await.unwrap(), []);
    assert_eq!(store.distribution_sessions(&id).await.unwrap(), []);
    let counts = store.task_counts(&task_id("t10")).await.unwrap();
    assert_eq!(counts, BTreeMap::from([(DeviceState::Pending, 1)]));
}

async fn each_delete_removes_one_record<P: Place>(place: &P) {
    let store = filled(place).await;
    let more = [
        Change::PutDeviceProfile(profile(&tenant(), "spare")),
        put_image(&tenant(), 7),
    ];
    store.commit(&more).await.unwrap();
    let deletes = [
        Change::DeleteJoinState(eui(1)),
        Change::DeleteSession(eui(2)),
        Change::DeleteMulticastGroup(tenant(), "g1".to_owned()),
        Change::DeleteTaskDevice(task_id("t1"), eui(1)),
        Change::DeleteMcGroup(session_id("t1", 0)),
        Change::DeleteDeviceProfile(tenant(), "spare".to_owned()),
        Change::DeleteImage(tenant(), sha(7)),
    ];
    store.commit(&deletes).await.unwrap();
    let mut expected = network_snapshot();
    expected.joins.clear();
    expected.sessions.pop();
    expected.mc_groups.clear();
    expected.tasks[0].devices.remove(0);
    assert_eq!(store.snapshot().await.unwrap(), expected);
    assert_eq!(store.multicast_group(&tenant(), "g1").await.unwrap(), None);
    assert_eq!(store.image(&tenant(), sha(7)).await.unwrap(), None);
    assert_eq!(store.image_bytes(&tenant(), sha(7)).await.unwrap(), None);
}

async fn deleting_what_is_not_there_does_nothing<P: Place>(place: &P) {
    let store = filled(place).await;
    let deletes = [
        Change::DeleteDeviceProfile(tenant(), "no".to_owned()),
        Change::DeleteDevice(eui(99)),
        Change::DeleteJoinState(eui(99)),
        Change::DeleteSession(eui(99)),
        Change::DeleteGateway(gateway_eui(99)),
        Change::DeleteMulticastGroup(tenant(), "no".to_owned()),
        Change::DeleteImage(tenant(), sha(99)),
        Change::DeleteTask(task_id("no")),
        Change::DeleteTaskDevice(task_id("t1"), eui(99)),
        Change::DeleteMcGroup(session_id("t1", 99)),
    ];
    store.commit(&deletes).await.unwrap();
    assert_eq!(store.snapshot().await.unwrap(), network_snapshot());
}

async fn a_failing_commit_leaves_nothing<P: Place>(place: &P) {
    let store = place.open().await;
    let mut changes = network();
    changes.push(Change::PutSession(eui(99), session(0)));
    let error = store.commit(&changes).await.unwrap_err();
    assert_eq!(
        error,
        StoreError::NotFound("end-device a0b3d57ed0000063".to_owned())
    );
    assert_eq!(store.snapshot().await.unwrap(), Snapshot::default());
    assert_eq!(store.image_bytes(&tenant(), sha(1)).await.unwrap(), None);
    assert_eq!(store.request(&tenant(), "r1").await.unwrap(), None);
    // And the store goes on.
    store.commit(&network()).await.unwrap();
    assert_eq!(store.snapshot().await.unwrap(), network_snapshot());
}

async fn a_failing_commit_undoes_replacing_and_deleting<P: Place>(place: &P) {
    let store = filled(place).await;
    let mut retagged = settings(&tenant(), 2);
    retagged.tags.clear();
    let changes = [
        Change::DeleteTask(task_id("t1")),
        Change::DeleteImage(tenant(), sha(1)),
        Change::DeleteDevice(eui(1)),
        Change::PutDeviceSettings(retagged),
        Change::PutSession(eui(2), session(77)),
        Change::PutSession(eui(2), session(78)),
        Change::DeleteGateway(gateway_eui(1)),
        Change::PutRequest(request(&tenant(), "r2", at(999_999))),
        Change::DeleteDeviceProfile(tenant(), "meter".to_owned()),
    ];
    let error = store.commit(&changes).await.unwrap_err();
    assert_eq!(
        error,
        StoreError::Conflict("device profile meter is in use".to_owned())
    );
    assert_eq!(store.snapshot().await.unwrap(), network_snapshot());
    assert!(store.request(&tenant(), "r1").await.unwrap().is_some());
    let filter = DeviceFilter {
        tags: settings(&tenant(), 2).tags,
        ..DeviceFilter::default()
    };
    let tagged = store.devices(&tenant(), &filter, &first(9)).await.unwrap();
    assert_eq!(tagged.len(), 2);
}

async fn references_must_hold<P: Place>(place: &P) {
    let store = filled(place).await;
    let t = tenant();
    let not_found = |text: &str| StoreError::NotFound(text.to_owned());
    let conflict = |text: &str| StoreError::Conflict(text.to_owned());
    let mut unknown_profile = settings(&t, 3);
    unknown_profile.profile = "no".to_owned();
    let mut unknown_image = task(&t, "t2", TaskState::Draft);
    unknown_image.images = vec![sha(77)];
    let device = "end-device a0b3d57ed0000063";
    let gateway = "gateway f000000000000063";
    let refused = [
        (
            Change::PutDeviceSettings(unknown_profile),
            not_found("device profile no"),
        ),
        (
            Change::PutDeviceStatus(eui(99), status().into()),
            not_found(device),
        ),
        (Change::PutDeviceKeys(root_keys(99)), not_found(device)),
        (Change::PutJoinState(eui(99), join()), not_found(device)),
        (
            Change::PutGatewayStatus(gateway_eui(99), gateway_status()),
            not_found(gateway),
        ),
        (
            Change::PutTask(unknown_image.into()),
            not_found(&format!("an image of task {}", task_id("t2"))),
        ),
        (
            Change::PutTaskDevice(task_device("no", 1, DeviceState::Pending, 0).into()),
            not_found("task no"),
        ),
        (Change::PutWave(wave("no", 0)), not_found("task no")),
        (
            Change::PutDistributionSession(distribution("no", 0)),
            not_found("task no"),
        ),
        (Change::PutMcGroup(mc_group("no", 0)), not_found("task no")),
        (
            Change::DeleteImage(t.clone(), sha(1)),
            conflict(&format!("image {} is in use", sha(1))),
        ),
    ];
    for (change, expected) in refused {
        assert_eq!(store.commit(&[change]).await, Err(expected));
    }
    assert_eq!(store.snapshot().await.unwrap(), network_snapshot());
}

async fn numbers_that_cannot_be_kept_are_refused<P: Place>(place: &P) {
    let store = filled(place).await;
    let mut settings = gateway(1);
    settings.antenna_gain_dbi = f32::NAN;
    let mut heard = status();
    heard.links.get_mut(&gateway_eui(1)).unwrap().snr_db = f32::INFINITY;
    for change in [
        Change::PutGatewaySettings(settings),
        Change::PutDeviceStatus(eui(1), heard.into()),
    ] {
        let error = store.commit(&[change]).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    }
    assert_eq!(store.snapshot().await.unwrap(), network_snapshot());
}

async fn records_of_another_tenant_are_out_of_reach<P: Place>(place: &P) {
    let store = filled(place).await;
    let (mine, theirs) = (tenant(), other_tenant());
    assert_eq!(store.device(&theirs, eui(1)).await.unwrap(), None);
    assert_eq!(store.device_profile(&theirs, "meter").await.unwrap(), None);
    assert_eq!(store.multicast_group(&theirs, "g1").await.unwrap(), None);
    assert_eq!(store.image(&theirs, sha(1)).await.unwrap(), None);
    assert_eq!(store.image_bytes(&theirs, sha(1)).await.unwrap(), None);
    assert_eq!(store.task(&theirs, &task_id("t1")).await.unwrap(), None);
    let snapshot = store.task_snapshot(&theirs, &task_id("t1")).await.unwrap();
    assert_eq!(snapshot, None);
    assert_eq!(store.request(&theirs, "r1").await.unwrap(), None);

    // The same names are free to them, but not the identifiers that are unique in the network.
    let own = [
        Change::PutDeviceProfile(profile(&theirs, "meter")),
        Change::PutMulticastGroup(group(&theirs, "g1")),
        put_image(&theirs, 1),
        put_delta(&theirs, 9),
        Change::PutRequest(request(&theirs, "r1", at(0))),
    ];
    store.commit(&own).await.unwrap();
    assert_eq!(
        store
            .commit(&[Change::PutDeviceSettings(settings(&theirs, 1))])
            .await,
        Err(StoreError::Conflict(
            "end-device a0b3d57ed0000001 exists already".to_owned()
        ))
    );
    assert_eq!(
        store
            .commit(&[Change::PutTask(
                task(&theirs, "t1", TaskState::Draft).into()
            )])
            .await,
        Err(StoreError::Conflict("task t1 exists already".to_owned()))
    );
    let more = [
        Change::PutDeviceSettings(settings(&theirs, 3)),
        Change::PutTask(task(&theirs, "t2", TaskState::Draft).into()),
    ];
    store.commit(&more).await.unwrap();

    let filter = DeviceFilter::default();
    let devices = store.devices(&theirs, &filter, &first(9)).await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].settings.dev_eui, eui(3));
    let tasks = store
        .tasks(&theirs, &TaskFilter::default(), &first(9))
        .await
        .unwrap();
    assert_eq!(tasks, [task(&theirs, "t2", TaskState::Draft)]);
    let groups = store.multicast_groups(&theirs, &first(9)).await.unwrap();
    assert_eq!(groups, [group(&theirs, "g1")]);
    let profiles = store.device_profiles(&theirs, &first(9)).await.unwrap();
    assert_eq!(profiles, [profile(&theirs, "meter")]);
    let images = store.images(&theirs, &first(9)).await.unwrap();
    assert_eq!(images, [image(&theirs, 1).0, delta(&theirs, 9).0]);
    for (owner, count) in [(&mine, 2), (&theirs, 1)] {
        let found = store.count_devices_of_profile(owner, "meter").await;
        assert_eq!(found, Ok(count));
    }
}

async fn only_active_tasks_are_restored<P: Place>(place: &P) {
    let store = filled(place).await;
    let states = [
        ("a", TaskState::Draft),
        ("b", TaskState::Scheduled),
        ("c", TaskState::Preparing),
        ("d", TaskState::Completing),
        ("e", TaskState::Completed),
        ("f", TaskState::Cancelling),
        ("g", TaskState::Cancelled),
        ("h", TaskState::Failed),
    ];
    let changes: Vec<_> = states
        .iter()
        .map(|(id, state)| Change::PutTask(task(&tenant(), id, *state).into()))
        .collect();
    store.commit(&changes).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let restored: Vec<_> = snapshot
        .tasks
        .iter()
        .map(|t| t.task.id.0.as_str())
        .collect();
    assert_eq!(restored, ["b", "c", "d", "f", "t1"]);
    // A draft is no business of the snapshot, but can be read whole.
    let draft = store.task_snapshot(&tenant(), &task_id("a")).await.unwrap();
    assert_eq!(draft.unwrap().images, [image(&tenant(), 1)]);
}

async fn requests_are_forgotten_after_a_day<P: Place>(place: &P) {
    const DAY: i64 = 24 * 3600;
    let store = place.open().await;
    let t = tenant();
    let put = |id: &str, seconds| Change::PutRequest(request(&tenant(), id, at(seconds)));
    let foreign = Change::PutRequest(request(&other_tenant(), "old", at(0)));
    store.commit(&[put("old", 0), foreign]).await.unwrap();
    store.commit(&[put("edge", DAY)]).await.unwrap();
    // Exactly a day old: still there. Kept by the time in the records, not by any clock.
    assert!(store.request(&t, "old").await.unwrap().is_some());
    store.commit(&[put("new", DAY + 1)]).await.unwrap();
    assert_eq!(store.request(&t, "old").await.unwrap(), None);
    assert_eq!(store.request(&other_tenant(), "old").await.unwrap(), None);
    assert!(store.request(&t, "edge").await.unwrap().is_some());
    assert!(store.request(&t, "new").await.unwrap().is_some());
}

async fn thousands_of_changes_fit_one_commit<P: Place>(place: &P) {
    const DEVICES: u64 = 2000;
    let store = place.open().await;
    let mut changes = vec![
        Change::PutDeviceProfile(profile(&tenant(), "meter")),
        put_image(&tenant(), 1),
        put_delta(&tenant(), 9),
        Change::PutTask(task(&tenant(), "t1", TaskState::Preparing).into()),
    ];
    for n in 0..DEVICES {
        changes.push(Change::PutDeviceSettings(settings(&tenant(), n)));
        changes.push(Change::PutDeviceKeys(root_keys(n)));
        changes.push(Change::PutSession(eui(n), session(0)));
        changes.push(Change::PutDeviceStatus(eui(n), status().into()));
        let device = task_device("t1", n, DeviceState::Preparing, n + 1);
        changes.push(Change::PutTaskDevice(device.into()));
    }
    store.commit(&changes).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.devices.len(), 2000);
    assert_eq!(snapshot.tasks[0].devices.len(), 2000);
}
