//! A task of several images: a device goes from one to the next, and waits in between until every other device of its
//! wave has a verdict or waits too, so that all share the next image's frames; but not for long for the last of them.
//!
//! Images that are installed together ([`InstallMode::Together`]) stay on the device, each under the `FragIndex` that
//! is its place in the task, until all are there; then the device is asked to reboot, once. Who fails before that is
//! told to delete the good images it holds (TS006-1.0.0 §3.6), lest a later reboot installs half of the set. In turn
//! ([`InstallMode::InTurn`]) each image runs before the next is sent.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lorawan::identifiers::DevEui;
use crate::record::{
    CleanupState, DeviceClass, DeviceReason, DeviceState, Image, ImageAhead, ImageDone,
    InstallMode, SessionPhase, SetupStage, SuccessCriterion, TaskDevice, TaskState,
};
use crate::time::Timestamp;

use super::follow_ups::Next;
use super::{Campaign, Surroundings};

/// Uplinks of the slowest device that others wait for it after the last of them is through, and the least they wait.
const STRAGGLERS_UPLINKS: u32 = 3;
const STRAGGLERS_LEAST: Duration = Duration::from_secs(300);

impl Campaign {
    /// The image at a place of the task.
    pub(super) fn image_at(&self, image: u8) -> &Image {
        let last = self.images.len() - 1;
        &self.images[usize::from(image).min(last)].0
    }

    /// The image a device is at.
    pub(super) fn image_of(&self, record: &TaskDevice) -> &Image {
        self.image_at(self.place_of(record))
    }

    /// The place of the image a device is at.
    pub(super) fn place_of(&self, record: &TaskDevice) -> u8 {
        self.session_of(record).map_or(0, |s| s.record.image)
    }

    /// The images whose versions decide whether a device is done: where all are installed together those it has had,
    /// and the one it is at.
    pub(super) fn at_stake<'a>(
        &'a self,
        record: &'a TaskDevice,
    ) -> impl Iterator<Item = &'a Image> {
        let together = self.task.install == InstallMode::Together;
        let course = record.images.as_ref().filter(|_| together);
        let done = course.into_iter().flat_map(|course| &course.done);
        let done = done.map(|done| self.image_at(done.image));
        done.chain([self.image_of(record)])
    }

    /// A device that enters `state` is through with its image, and another one is to come.
    pub(super) fn has_had_image(&self, dev_eui: DevEui, state: DeviceState) -> bool {
        let course = self.devices.get(&dev_eui).and_then(|d| d.images.as_ref());
        let Some(course) = course.filter(|course| !course.ahead.is_empty()) else {
            return false;
        };
        let enough = match (self.task.install, self.task.success) {
            (InstallMode::InTurn, _) => DeviceState::Running,
            (InstallMode::Together, SuccessCriterion::ReportedReceived) => {
                DeviceState::ReportedReceived
            }
            (InstallMode::Together, SuccessCriterion::Verified) => DeviceState::Verified,
            (InstallMode::Together, SuccessCriterion::Running) if course.managed => {
                DeviceState::Verified
            }
            // Nothing more is to be learned of an image before it runs.
            (InstallMode::Together, SuccessCriterion::Running) => DeviceState::ReportedReceived,
        };
        (enough..=DeviceState::Running).contains(&state) && self.task.state != TaskState::Cancelling
    }

    /// The device has its image: it waits for the next one.
    pub(super) fn await_next_image(&mut self, now: Timestamp, dev_eui: DevEui, evidence: &str) {
        let place = self.devices.get(&dev_eui).map(|d| self.place_of(d));
        if let Some((device, image)) = self.devices.get_mut(&dev_eui).zip(place)
            && let Some(course) = &mut device.images
        {
            course.done.push(ImageDone {
                image,
                session: device.session.unwrap_or_default(),
                version_before: device.version_before,
                at: now,
            });
        }
        self.go_on(now, dev_eui, evidence);
    }

    /// The device runs the image it is at already: it is passed over. What it holds of others is installed.
    pub(super) fn pass_over_image(&mut self, now: Timestamp, dev_eui: DevEui, evidence: String) {
        let course = self.devices.get(&dev_eui).and_then(|d| d.images.as_ref());
        let (more, holds) = course.map_or((false, false), |course| {
            (!course.ahead.is_empty(), !course.done.is_empty())
        });
        match (more, holds) {
            (true, _) => self.go_on(now, dev_eui, &evidence),
            (false, true) => self.conclude(now, dev_eui, DeviceState::Verified, None, evidence),
            (false, false) => {
                let current = Some(DeviceReason::AlreadyCurrent);
                self.conclude(now, dev_eui, DeviceState::Skipped, current, evidence);
            }
        }
    }

    fn go_on(&mut self, now: Timestamp, dev_eui: DevEui, evidence: &str) {
        self.spoil_group_of(dev_eui);
        let frag_index = self.devices.get(&dev_eui).and_then(|d| self.session_of(d));
        let frag_index = frag_index.map(|session| session.record.block.frag_index);
        let of = self.images.len();
        let Some(device) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        let Some(course) = device.images.as_mut().filter(|c| !c.ahead.is_empty()) else {
            return;
        };
        let next = course.ahead.remove(0);
        if let Some(index) = frag_index.filter(|_| device.frag_cleanup == CleanupState::Pending) {
            course.frag_sessions.insert(index, CleanupState::Pending);
            device.frag_cleanup = CleanupState::NotNeeded;
        }
        course.waits_since = Some(now);
        device.session = Some(next.session);
        device.version_before = next.version_before;
        device.state = DeviceState::Preparing;
        device.reason = None;
        device.evidence = format!("{evidence}; image {} of {of} comes next", next.image + 1);
        device.setup = SetupStage::default();
        (device.fragments, device.unicast) = (None, None);
        (device.tries, device.reboots_unanswered) = (0, 0);
        device.reboot_at = None;
        device.whole = false;
        self.talks.remove(&dev_eui);
        self.changed.devices.insert(dev_eui);
        self.due.insert((now, dev_eui));
        self.held_back.insert(dev_eui);
        (self.last_held, self.newly_held) = (Some(now), true);
    }

    /// A device that has rebooted and does not run what it got starts from its first image again: what it held is gone.
    pub(super) fn start_over(&mut self, dev_eui: DevEui) {
        let Some(record) = self.devices.get(&dev_eui) else {
            return;
        };
        let rebooted = record.state == DeviceState::Rebooting;
        let now_at = ImageAhead {
            image: self.place_of(record),
            session: record.session.unwrap_or_default(),
            version_before: record.version_before,
        };
        let index = self.session_of(record).map(|s| s.record.block.frag_index);
        if !rebooted || self.task.install == InstallMode::InTurn {
            return;
        }
        self.spoil_group_of(dev_eui);
        let Some(device) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        let Some(course) = &mut device.images else {
            return;
        };
        let done = course.done.drain(..).map(|done| ImageAhead {
            image: done.image,
            session: done.session,
            version_before: done.version_before,
        });
        let mut all: Vec<ImageAhead> = done.chain([now_at]).collect();
        let first = all.remove(0);
        all.append(&mut course.ahead);
        course.ahead = all;
        if let Some(index) = index.filter(|_| device.frag_cleanup == CleanupState::Pending) {
            course.frag_sessions.insert(index, CleanupState::Pending);
            device.frag_cleanup = CleanupState::NotNeeded;
        }
        device.session = Some(first.session);
        device.version_before = first.version_before;
    }

    /// After a restart, and when a wave begins: whether a device waits for its next image.
    pub(super) fn note_held_back(&mut self, dev_eui: DevEui) {
        let Some(device) = self.devices.get(&dev_eui) else {
            return;
        };
        let Some(session) = self.session_of(device).map(|s| &s.record) else {
            return;
        };
        let wave = self.waves.get(usize::from(session.wave));
        let in_wave = wave.is_some_and(|wave| wave.started_at.is_some());
        let rests = matches!(session.phase, SessionPhase::Planned | SessionPhase::Closed);
        let waits = device.images.is_some() && device.state < DeviceState::Receiving;
        let open = self.open.contains(&dev_eui) && device.retry_at.is_none();
        if open && waits && rests && in_wave {
            let since = device.images.as_ref().and_then(|course| course.waits_since);
            self.held_back.insert(dev_eui);
            self.last_held = self.last_held.max(since.or(self.task.started_at));
            self.newly_held = true;
        }
    }

    /// When the next image begins for those who wait, though others of the wave are still busy with an earlier one: one
    /// that is gone must not keep all from it.
    pub(super) fn next_image_at(&self) -> Option<Timestamp> {
        let waits = !self.held_back.is_empty();
        self.last_held
            .filter(|_| waits)
            .map(|last| last + self.image_patience)
    }

    /// Begins the next image once nobody of the wave is busy with an earlier one, or nobody has come to wait for long.
    /// Devices whose session has begun, or is one of class A, have nobody to wait for.
    pub(super) fn see_to_images(&mut self, now: Timestamp, around: &Surroundings<'_>) {
        let waiting = self.held_back.len();
        if waiting == 0 || self.task.state == TaskState::Cancelling {
            return;
        }
        if self.image_patience == Duration::ZERO {
            self.image_patience = self.patience_for_images(around);
        }
        let all_wait = self.open_in_wave <= waiting;
        let due = all_wait || self.next_image_at().is_some_and(|at| at <= now);
        if !due && !std::mem::take(&mut self.newly_held) {
            return;
        }
        let mut by_session: BTreeMap<(u8, usize), Vec<DevEui>> = BTreeMap::new();
        for dev_eui in &self.held_back {
            if let Some(device) = self.devices.get(dev_eui) {
                let session = device.session.map_or(0, usize::from);
                let devices = by_session.entry((self.place_of(device), session));
                devices.or_default().push(*dev_eui);
            }
        }
        let rests = |number: usize| {
            let session = self.sessions.get(number).map(|s| &s.record);
            session.is_none_or(|s| {
                s.class != DeviceClass::A
                    && matches!(s.phase, SessionPhase::Planned | SessionPhase::Closed)
            })
        };
        let mut first = by_session.keys().filter(|(_, number)| rests(*number));
        let first = first.next().map(|(image, _)| *image).filter(|_| due);
        let begins: Vec<(usize, Vec<DevEui>)> = by_session
            .into_iter()
            .filter(|((image, number), _)| Some(*image) == first || !rests(*number))
            .map(|((_, number), devices)| (number, devices))
            .collect();
        if begins.is_empty() {
            return;
        }
        for (number, devices) in begins {
            self.begin_image(now, number, devices, around);
        }
        self.last_held = Some(now);
        self.enter(TaskState::Preparing);
    }

    /// A few uplinks of the device with the fewest: who is busy shows in them how far it is.
    fn patience_for_images(&self, around: &Surroundings<'_>) -> Duration {
        let devices = self.devices.keys().filter_map(|d| around.fleet.get(*d));
        let interval = devices.map(|d| d.profile.uplink_interval).max();
        (interval.unwrap_or_default() * STRAGGLERS_UPLINKS).max(STRAGGLERS_LEAST)
    }

    /// Begins the session that was planned for an image, or another one for devices that come after it; one that goes
    /// on has them as late devices.
    fn begin_image(
        &mut self,
        now: Timestamp,
        number: usize,
        devices: Vec<DevEui>,
        around: &Surroundings<'_>,
    ) {
        for dev_eui in &devices {
            self.held_back.remove(dev_eui);
            self.due.insert((now, *dev_eui));
        }
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        let (phase, class) = (session.record.phase, session.record.class);
        let frag_algo = session.record.block.frag_algo;
        if !matches!(phase, SessionPhase::Planned | SessionPhase::Closed) {
            session.late_seen_to = false;
            return;
        }
        let start = self.setup_ends(now, &devices, class, around);
        if phase == SessionPhase::Planned && !self.is_beyond(start) {
            return self.begin_session(now, number, start);
        }
        let next = Next {
            frag_algo,
            start,
            why: "it comes after the session of its image",
            reason: DeviceReason::WindowClosed,
        };
        self.move_on(now, number, devices, next, around);
    }

    /// What a device failed at, in the words of its evidence.
    pub(super) fn naming_the_image(
        &self,
        dev_eui: DevEui,
        state: DeviceState,
        evidence: String,
    ) -> String {
        let several = self.images.len() > 1 && state.is_failure();
        let Some(device) = self.devices.get(&dev_eui).filter(|_| several) else {
            return evidence;
        };
        let (place, image) = (self.place_of(device) + 1, self.image_of(device));
        let of = self.images.len();
        format!("image {place} of {of} ({}): {evidence}", image.component)
    }

    /// A device has failed, or is out of the task: good images it holds and was not asked to install are to be deleted.
    /// `before` is the state it was in.
    pub(super) fn discard_images(&mut self, dev_eui: DevEui, before: DeviceState) {
        let Some(device) = self.devices.get(&dev_eui) else {
            return;
        };
        let stays = device.state == DeviceState::Skipped || !device.state.is_failure();
        if stays || before == DeviceState::Rebooting || self.task.install == InstallMode::InTurn {
            return;
        }
        let place = self.place_of(device);
        let at = (before >= DeviceState::ReportedReceived).then_some(place);
        let images = &self.images;
        let Some(course) = self
            .devices
            .get_mut(&dev_eui)
            .and_then(|d| d.images.as_mut())
        else {
            return;
        };
        if !course.managed || course.done.is_empty() {
            return;
        }
        let held = course.done.iter().map(|done| done.image).chain(at);
        let versions =
            held.filter_map(|image| Some(images.get(usize::from(image))?.0.target_version));
        course.discard = versions
            .map(|version| (version, CleanupState::Pending))
            .collect();
    }
}
