//! Decisions on made-up fleets: by example, and for any fleet that is dealt.

use proptest::prelude::*;

use super::*;
use crate::record::{
    DeviceState, ImageContainer, ImageFacts, RebootMode, Release, RolloutSchedule, RolloutSelector,
    RolloutValidation, SuccessCriterion, TaskCounters, TaskOptions, TenantId,
};

const OLD: u32 = 1;
const TARGET: u32 = 2;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn image(byte: u8, version: u32) -> Image {
    Image {
        tenant: TenantId::default(),
        sha256: Sha256([byte; 32]),
        size_bytes: 100,
        container: ImageContainer::Raw,
        file_name: String::new(),
        model: "m".to_owned(),
        component: "main".to_owned(),
        target_version: version,
        version_text: String::new(),
        annotations: BTreeMap::new(),
        created_at: at(0),
        facts: ImageFacts::default(),
        release: Release {
            state: ReleaseState::Active,
            ..Release::default()
        },
    }
}

fn task(id: &TaskId, state: TaskState) -> Task {
    Task {
        tenant: TenantId::default(),
        id: id.clone(),
        display_name: String::new(),
        images: vec![],
        install: Default::default(),
        groups: vec![],
        success: SuccessCriterion::Running,
        reboot: RebootMode::None,
        prepare_after: None,
        window_start: None,
        deadline: None,
        options: TaskOptions::default(),
        state,
        reason: None,
        reason_text: String::new(),
        sequence: 1,
        counters: TaskCounters::default(),
        retry_of: None,
        waves: Default::default(),
        thresholds: Default::default(),
        failures_accepted: Default::default(),
        held: None,
        resumed_at: None,
        expected_end: None,
        tags: BTreeMap::new(),
        created_at: at(0),
        updated_at: at(0),
        started_at: None,
        ended_at: None,
        seed: None,
        waiting: None,
        rules: Default::default(),
        deltas: vec![],
    }
}

fn rollout() -> Rollout {
    Rollout {
        tenant: TenantId::default(),
        id: "r".to_owned(),
        order: RolloutOrder {
            display_name: String::new(),
            selector: RolloutSelector {
                model: "m".to_owned(),
                component: "main".to_owned(),
                ..RolloutSelector::default()
            },
            image: None,
            template: Box::new(task(&TaskId(String::new()), TaskState::Draft)),
            schedule: RolloutSchedule::default(),
            validation: RolloutValidation {
                test_devices: BTreeSet::new(),
                required_percent: 100,
            },
            max_failures: 2,
            retry_after: Duration::from_secs(100),
        },
        switch: RolloutSwitch::Enabled,
        next_number: 1,
        tasks: vec![],
        last_start: None,
        gathering_since: None,
        tries_of: None,
        tries: BTreeMap::new(),
        validated: None,
        not_validated: None,
        refused: None,
        status: RolloutStatus::default(),
        created_at: at(0),
        updated_at: at(0),
    }
}

/// What is in the store of a pretended network.
struct Network {
    now: Timestamp,
    images: Vec<Image>,
    devices: Vec<DeviceFacts>,
    tasks: BTreeMap<TaskId, TaskSeen>,
}

impl Network {
    /// Devices 0, 1, ... that run these versions, reported at the beginning.
    fn of(versions: &[u32]) -> Self {
        let devices = (0..).zip(versions);
        Self {
            now: at(1000),
            images: vec![image(1, TARGET)],
            devices: devices
                .map(|(n, version)| DeviceFacts {
                    dev_eui: DevEui(n),
                    model: "m".to_owned(),
                    profile: "p".to_owned(),
                    tags: BTreeMap::new(),
                    versions: BTreeMap::from([("main".to_owned(), (*version, at(0)))]),
                })
                .collect(),
            tasks: BTreeMap::new(),
        }
    }

    fn held(&self) -> BTreeSet<DevEui> {
        let active = self.tasks.values().filter(|t| t.task.state.is_active());
        let open = active.flat_map(|t| &t.devices);
        open.filter(|d| !d.state.is_failure() && d.state != DeviceState::Running)
            .map(|d| d.dev_eui)
            .collect()
    }

    fn decide(&self, rollout: &Rollout) -> Decision {
        let held = self.held();
        let survey = Survey {
            now: self.now,
            images: &self.images,
            devices: &self.devices,
            members: None,
            held: &held,
            tasks: &self.tasks,
        };
        let decision = decide(rollout.clone(), &survey);
        assert_eq!(decide(rollout.clone(), &survey), decision);
        decision
    }

    /// Decides, and starts what is to be started.
    fn go(&mut self, rollout: &mut Rollout) -> Option<Start> {
        let Decision {
            rollout: decided,
            start,
            drop,
            cancel,
        } = self.decide(rollout);
        *rollout = decided;
        for task in drop {
            self.tasks.remove(&task);
        }
        for task in cancel {
            self.end(&task, TaskState::Cancelled, |_| DeviceState::Cancelled);
        }
        if let Some(start) = &start {
            self.put(start, TaskState::Distributing);
            started(rollout, &start.task);
        }
        start
    }

    fn put(&mut self, start: &Start, state: TaskState) {
        let device = |dev_eui: &DevEui| TaskDevice::new(start.task.clone(), *dev_eui, self.now);
        let seen = TaskSeen {
            task: task(&start.task, state),
            devices: start.devices.iter().map(device).collect(),
        };
        self.tasks.insert(start.task.clone(), seen);
    }

    /// Ends a task; who is running then reports the target.
    fn end(&mut self, id: &TaskId, state: TaskState, of: impl Fn(DevEui) -> DeviceState) {
        let seen = self.tasks.get_mut(id).unwrap();
        seen.task.state = state;
        seen.task.ended_at = Some(self.now);
        for device in &mut seen.devices {
            device.state = of(device.dev_eui);
            if device.state == DeviceState::Running {
                let facts = self
                    .devices
                    .iter_mut()
                    .find(|d| d.dev_eui == device.dev_eui);
                let version = ("main".to_owned(), (TARGET, self.now));
                facts.unwrap().versions = BTreeMap::from([version]);
            }
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

fn euis(devices: &[u64]) -> BTreeSet<DevEui> {
    devices.iter().copied().map(DevEui).collect()
}

#[test]
fn devices_that_are_behind_are_taken_and_the_others_are_not() {
    let mut network = Network::of(&[OLD, TARGET, OLD, TARGET + 1]);
    let mut rollout = rollout();
    let start = network.go(&mut rollout).unwrap();
    assert_eq!(start.task, TaskId("r-1".to_owned()));
    assert_eq!(
        (start.purpose, &start.devices),
        (RolloutPurpose::Wide, &euis(&[0, 2]))
    );
    assert_eq!(network.go(&mut rollout), None);
    assert_eq!(rollout.status.state, RolloutState::Running);
    let counts = rollout.status.counts;
    assert_eq!(
        (counts.in_task, counts.up_to_date, counts.selected()),
        (2, 2, 4)
    );
    network.end(&start.task, TaskState::Completed, |_| DeviceState::Running);
    assert_eq!(network.go(&mut rollout), None);
    assert_eq!(rollout.status.state, RolloutState::UpToDate);
    assert_eq!(rollout.tasks[0].ended.map(|end| end.succeeded), Some(2));
    // One falls back; it is taken again once it has had its time.
    network.devices[0]
        .versions
        .insert("main".to_owned(), (OLD, network.now));
    assert_eq!(network.go(&mut rollout), None);
    network.wait(100);
    network.devices[0]
        .versions
        .insert("main".to_owned(), (OLD, network.now));
    let start = network.go(&mut rollout).unwrap();
    assert_eq!(start.devices, euis(&[0]));
}

#[test]
fn who_fails_waits_and_is_left_out_in_the_end() {
    let mut network = Network::of(&[OLD, OLD]);
    let mut rollout = rollout();
    let fail_first = |dev_eui| match dev_eui {
        DevEui(0) => DeviceState::Failed,
        _ => DeviceState::Running,
    };
    let start = network.go(&mut rollout).unwrap();
    network.end(&start.task, TaskState::Completed, fail_first);
    assert_eq!(network.go(&mut rollout), None);
    assert_eq!(rollout.status.state, RolloutState::Waiting);
    assert_eq!(rollout.status.next_start, Some(at(1100)));
    network.wait(100);
    let start = network.go(&mut rollout).unwrap();
    assert_eq!(start.devices, euis(&[0]));
    network.end(&start.task, TaskState::Completed, fail_first);
    network.wait(10_000);
    assert_eq!(network.go(&mut rollout), None);
    assert_eq!(rollout.status.counts.failed, 1);
    assert_eq!(rollout.status.state, RolloutState::UpToDate);
    // Another image is another chance.
    network.images.push(image(2, TARGET + 1));
    assert_eq!(network.go(&mut rollout).unwrap().devices, euis(&[0, 1]));
}

#[test]
fn a_task_that_is_cancelled_is_not_made_again_at_once() {
    let mut network = Network::of(&[OLD]);
    let mut rollout = rollout();
    for round in 1..=5 {
        let start = network.go(&mut rollout).unwrap();
        assert_eq!(start.task, TaskId(format!("r-{round}")));
        network.end(&start.task, TaskState::Cancelled, |_| {
            DeviceState::Cancelled
        });
        assert_eq!(network.go(&mut rollout), None);
        network.wait(100);
    }
}

#[test]
fn a_success_without_a_version_counts_until_the_device_says_otherwise() {
    let mut network = Network::of(&[OLD]);
    let mut rollout = rollout();
    let start = network.go(&mut rollout).unwrap();
    network.tasks.get_mut(&start.task).unwrap().task.success = SuccessCriterion::Verified;
    network.end(&start.task, TaskState::Completed, |_| DeviceState::Verified);
    network.wait(5000);
    assert_eq!(network.go(&mut rollout), None);
    assert_eq!(rollout.status.counts.up_to_date, 1);
    network.devices[0]
        .versions
        .insert("main".to_owned(), (OLD, network.now));
    assert!(network.go(&mut rollout).is_some());
}

#[test]
fn the_image_is_tried_first_and_a_failure_stops_everything() {
    let mut network = Network::of(&[OLD, OLD, OLD, OLD]);
    let mut rollout = rollout();
    rollout.order.validation = RolloutValidation {
        test_devices: euis(&[0, 1]),
        required_percent: 100,
    };
    let start = network.go(&mut rollout).unwrap();
    assert_eq!(start.purpose, RolloutPurpose::Validation);
    assert_eq!(start.devices, euis(&[0, 1]));
    assert_eq!(network.go(&mut rollout), None);
    assert_eq!(rollout.status.state, RolloutState::Validating);
    network.end(&start.task, TaskState::Completed, |dev_eui| match dev_eui {
        DevEui(0) => DeviceState::Running,
        _ => DeviceState::RolledBack,
    });
    for _ in 0..3 {
        assert_eq!(network.go(&mut rollout), None);
        assert_eq!(rollout.status.state, RolloutState::ValidationFailed);
        network.wait(100_000);
    }
    // Another image goes through the same, and then to all.
    network.images.push(image(2, TARGET + 1));
    let start = network.go(&mut rollout).unwrap();
    assert_eq!(start.devices, euis(&[0, 1]));
    for device in &mut network.devices[..2] {
        device
            .versions
            .insert("main".to_owned(), (TARGET + 1, network.now));
    }
    network.end(&start.task, TaskState::Completed, |_| DeviceState::Verified);
    let start = network.go(&mut rollout).unwrap();
    assert_eq!(
        (start.purpose, start.devices),
        (RolloutPurpose::Wide, euis(&[2, 3]))
    );
    assert_eq!(rollout.validated, Some(network.images[1].sha256));
}

#[test]
fn a_refused_start_keeps_its_number_and_goes_with_the_time() {
    let mut network = Network::of(&[OLD]);
    let mut rollout = rollout();
    let decision = network.decide(&rollout);
    let start = decision.start.unwrap();
    rollout = decision.rollout;
    network.put(&start, TaskState::Draft);
    refused(&mut rollout, network.now, "unsigned".to_owned());
    let decision = network.decide(&rollout);
    assert_eq!((&decision.start, decision.drop.len()), (&None, 0));
    assert_eq!(decision.rollout.status.state, RolloutState::Blocked);
    assert_eq!(decision.rollout.status.message, "unsigned");
    // Whoever has come meanwhile is taken along.
    network.devices.push(DeviceFacts {
        dev_eui: DevEui(7),
        ..network.devices[0].clone()
    });
    network.wait(60);
    let again = network.go(&mut rollout).unwrap();
    assert_eq!((again.task, again.devices), (start.task, euis(&[0, 7])));
    assert_eq!(rollout.refused, None);
}

#[test]
fn a_draft_that_nobody_needs_is_dropped() {
    let mut network = Network::of(&[OLD]);
    let decision = network.decide(&rollout());
    let start = decision.start.unwrap();
    network.put(&start, TaskState::Draft);
    network.devices[0]
        .versions
        .insert("main".to_owned(), (TARGET, network.now));
    let after = network.decide(&decision.rollout);
    assert_eq!((after.start, after.drop), (None, vec![start.task]));
    assert!(after.rollout.tasks.is_empty());
}

#[test]
fn what_is_withdrawn_is_cancelled_until_it_is() {
    let mut network = Network::of(&[OLD]);
    let mut rollout = rollout();
    let start = network.go(&mut rollout).unwrap();
    rollout.switch = RolloutSwitch::Withdrawn;
    let cancelled = &network.decide(&rollout).cancel;
    assert_eq!(cancelled, std::slice::from_ref(&start.task));
    network.tasks.get_mut(&start.task).unwrap().task.state = TaskState::Cancelling;
    let decision = network.decide(&rollout);
    assert!(decision.cancel.is_empty());
    assert_eq!(decision.rollout.status.state, RolloutState::Withdrawn);
}

#[test]
fn who_cannot_be_served_is_counted_and_left_alone() {
    let mut network = Network::of(&[OLD, OLD, OLD, OLD]);
    network.images[0].facts.source_versions = [OLD].into();
    network.devices[1]
        .versions
        .insert("main".to_owned(), (0, at(0)));
    network.devices[2].versions.clear();
    network.devices[3].model = "other".to_owned();
    let start = network.decide(&rollout()).start.unwrap();
    assert_eq!(start.devices, euis(&[0]));
    let counts = network.decide(&rollout()).rollout.status.counts;
    assert_eq!((counts.left_alone, counts.selected()), (2, 3));
    // With source versions nobody knows whether it fits; without them it may be asked for.
    network.images[0].facts.source_versions.clear();
    let mut asked = rollout();
    assert_eq!(network.decide(&asked).rollout.status.counts.unknown, 1);
    asked.order.selector.include_unknown = true;
    let start = network.decide(&asked).start.unwrap();
    assert_eq!(start.devices, euis(&[0, 1, 2]));
    let mut some = rollout();
    some.order.selector.from_versions = [0].into();
    assert_eq!(network.decide(&some).start.unwrap().devices, euis(&[1]));
}

/// What happens to a pretended network, one step after another.
#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    Report(usize, u32),
    End(usize, Vec<u8>),
    NewImage(u32),
    Refuse,
    Switch(RolloutSwitch),
    Push(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u64..400).prop_map(Event::Wait),
        2 => (0usize..6, 0u32..5).prop_map(|(n, version)| Event::Report(n, version)),
        3 => (any::<usize>(), prop::collection::vec(any::<u8>(), 6))
            .prop_map(|(n, fates)| Event::End(n, fates)),
        1 => (1u32..6).prop_map(Event::NewImage),
        1 => Just(Event::Refuse),
        1 => prop_oneof![
            Just(RolloutSwitch::Enabled),
            Just(RolloutSwitch::Disabled),
            Just(RolloutSwitch::Withdrawn)
        ]
        .prop_map(Event::Switch),
        1 => (0usize..6).prop_map(Event::Push),
    ]
}

fn fate(byte: u8) -> DeviceState {
    match byte % 6 {
        0 | 1 => DeviceState::Running,
        2 => DeviceState::Failed,
        3 => DeviceState::Silent,
        4 => DeviceState::RolledBack,
        _ => DeviceState::Skipped,
    }
}

/// Checks a start against all that must hold for it.
fn check(network: &Network, before: &Rollout, start: &Start) -> Result<(), TestCaseError> {
    let image = network.images.iter().find(|i| i.sha256 == start.image);
    let image = image.unwrap();
    let highest = network.images.iter().map(|i| i.target_version).max();
    prop_assert!(!start.devices.is_empty());
    prop_assert_eq!(before.switch, RolloutSwitch::Enabled);
    prop_assert_eq!(Some(image.target_version), highest);
    let held = network.held();
    for dev_eui in &start.devices {
        prop_assert!(!held.contains(dev_eui), "held");
        let device = network
            .devices
            .iter()
            .find(|d| d.dev_eui == *dev_eui)
            .unwrap();
        let version = device.versions["main"].0;
        if start.purpose == RolloutPurpose::Wide {
            prop_assert!(version < image.target_version, "is current");
            let tries = before
                .tries
                .get(dev_eui)
                .filter(|_| before.tries_of == Some(image.sha256));
            prop_assert!(
                tries.is_none_or(|t| t.count < before.order.max_failures),
                "exhausted"
            );
        } else {
            prop_assert!(version != image.target_version, "is current");
            prop_assert!(before.order.validation.test_devices.contains(dev_eui));
        }
    }
    if let Some(at) = before.order.schedule.not_before {
        prop_assert!(network.now >= at, "too early");
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_no_device_is_served_that_should_not_be(
        versions in prop::collection::vec(0u32..4, 6),
        tests in prop::collection::btree_set(0u64..6, 0..3),
        percent in 1u8..=100,
        interval in prop::option::of(300u64..2000),
        not_before in prop::option::of(0i64..3000),
        min_devices in 1u32..4,
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut network = Network::of(&versions);
        let mut rollout = rollout();
        rollout.order.schedule = RolloutSchedule {
            not_before: not_before.map(at),
            repeat_interval: interval.map(Duration::from_secs),
            start_within: None,
            min_devices,
            max_wait: None,
        };
        rollout.order.validation = RolloutValidation {
            test_devices: tests.into_iter().map(DevEui).collect(),
            required_percent: percent,
        };
        let mut wide: Vec<Timestamp> = vec![];
        for event in events {
            let mut refuse = false;
            match event {
                Event::Wait(seconds) => network.wait(seconds),
                Event::Report(n, version) => {
                    let now = network.now;
                    network.devices[n].versions.insert("main".to_owned(), (version, now));
                }
                Event::End(n, fates) => {
                    let active = network.tasks.iter().filter(|(_, t)| t.task.state.is_active());
                    let ids: Vec<TaskId> = active.map(|(id, _)| id.clone()).collect();
                    if let Some(id) = ids.get(n % ids.len().max(1)) {
                        let of = |DevEui(n): DevEui| fate(fates[usize::try_from(n).unwrap()]);
                        network.end(id, TaskState::Completed, of);
                    }
                }
                Event::NewImage(version) => {
                    let byte = u8::try_from(network.images.len()).unwrap() + 1;
                    let mut image = image(byte, version);
                    image.created_at = network.now;
                    network.images.push(image);
                }
                Event::Refuse => refuse = true,
                Event::Switch(switch) => rollout.switch = switch,
                Event::Push(n) => {
                    let dev_eui = DevEui(u64::try_from(n).unwrap());
                    if rollout.switch == RolloutSwitch::Withdrawn || network.held().contains(&dev_eui) {
                        continue;
                    }
                    let target = target(&rollout.order, &network.images).unwrap().unwrap();
                    let image = target.sha256;
                    let task = push(&mut rollout, network.now, image, &[dev_eui]);
                    let start = Start {
                        task: task.clone(),
                        image,
                        purpose: RolloutPurpose::Push,
                        devices: [dev_eui].into(),
                    };
                    network.put(&start, TaskState::Distributing);
                    started(&mut rollout, &task);
                }
            }
            let mut before = rollout.clone();
            let decision = network.decide(&rollout);
            if let Some(start) = &decision.start {
                // What has ended since is in the decision's record.
                before.tries = decision.rollout.tries.clone();
                before.tries_of = decision.rollout.tries_of;
                check(&network, &before, start)?;
                if start.purpose == RolloutPurpose::Wide {
                    prop_assert!(
                        before.order.validation.test_devices.is_empty()
                            || decision.rollout.validated == Some(start.image),
                        "not validated"
                    );
                    if let (false, Some(interval)) = (refuse, interval) {
                        let anchor = not_before.unwrap_or(0);
                        let slot = |at: Timestamp| {
                            (at.as_unix_seconds() - anchor).div_euclid(i64::try_from(interval).unwrap())
                        };
                        let now = slot(network.now);
                        let before = wide.iter().any(|at| slot(*at) == now);
                        prop_assert!(!before, "twice in an interval");
                        wide.push(network.now);
                    }
                }
            }
            if refuse {
                rollout = decision.rollout;
                for id in &decision.drop {
                    network.tasks.remove(id);
                }
                if let Some(start) = &decision.start {
                    network.put(start, TaskState::Draft);
                    refused(&mut rollout, network.now, "no".to_owned());
                }
            } else {
                network.go(&mut rollout);
            }
            let open = rollout.tasks.iter().filter(|t| !t.started).count();
            prop_assert!(open <= 1, "more than one draft");
            prop_assert!(rollout.tasks.iter().filter(|t| t.ended.is_some()).count() <= 10);
        }
    }
}
