//! Before the window: capability probes, multicast group and session, fragmentation session, clock check.
//!
//! TS005 §4 and TS004 §3. What a device has to be asked is a function of its record and of the session's; nothing here
//! keeps time apart from the window's start.

use std::time::Duration;

use crate::lorawan::identifiers::DevEui;
use crate::lorawan::keys::{data_block_mic, encrypt_mc_key};
use crate::lorawan::multicast_setup::{self, McGroupSetupReq, McSessionAns};
use crate::lorawan::{PackageVersion, class_b, firmware_management, fragmentation};
use crate::record::{
    Capability, DeviceClass, DeviceReason, DeviceState, FleetDevice, FragAlgo, McGroup,
    NetworkRequest, Package, SessionPhase, SetupStage, TaskDevice, Uplink,
};
use crate::time::Timestamp;

use super::commands::Command;
use super::distribution::SessionRun;
use super::{Campaign, Surroundings, keys};

/// A class C session request that reaches the device later than this before the window is useless.
const LATEST_REQUEST: Duration = Duration::from_secs(3);
/// In class B the device has to hear a beacon before.
const LATEST_REQUEST_CLASS_B: Duration = class_b::BEACON_PERIOD.saturating_mul(2);
/// From when a late device is on air with its session request to the start of its own window.
pub(super) const LATE_LEAD: Duration = Duration::from_secs(3);
/// How far `TimeToStart` may be from what it should be: seconds of queueing and of rounding, not a wrong clock.
const CLOCK_TOLERANCE_S: i64 = 3;
/// Most stacks tell the time to the start as it was when they were asked, not when they answer: an answer that waited
/// says so much more, up to this.
const ANSWER_WAIT_MAX_S: i64 = 30;
/// Session answers with a wrong clock before the device is given up: each followed a chance to get the time.
const CLOCK_ERRORS: u8 = 5;
/// Error answers to one command before the device is believed. LoRaMac-node answers IDerror while its radio is busy.
const BELIEVED_ERRORS: u8 = 3;
/// Highest counter of a group: devices see 16 bits and cannot follow a roll-over.
const MAX_MC_F_CNT: u32 = 65_535;

impl Campaign {
    /// What a device that is being set up has to be asked next.
    pub(super) fn setup_command(
        &self,
        now: Timestamp,
        record: &TaskDevice,
        device: &FleetDevice,
    ) -> Option<Command> {
        let session = self.session_of(record)?;
        if record.retry_at.is_some() {
            return None;
        }
        if record.setup.settles_at.is_some_and(|at| now < at) {
            return None;
        }
        let late = session.is_running() || session.record.uncoded_sent > 0;
        let number = usize::from(session.record.id.number);
        if matches!(
            session.record.phase,
            SessionPhase::Planned | SessionPhase::Closed
        ) || (late && !self.admits(now, number, device))
        {
            return None;
        }
        let packages = &device.profile.packages;
        let probed = device
            .status
            .capabilities
            .contains_key(&fragmentation::PACKAGE_IDENTIFIER);
        if packages.fragmentation.is_some() && !probed {
            return Some(Command::ProbeFragmentation);
        }
        // A device that is tried again may have rebooted since it was heard last.
        let asked = self.asked_component(record, &device.profile);
        let is_known = |component| {
            let known = device.status.versions.get(component);
            known.is_some_and(|v| record.retried_at.is_none_or(|at| v.at >= at))
        };
        if asked.is_some_and(|component| !is_known(component)) {
            return Some(Command::Version);
        }
        if session.record.class == DeviceClass::A {
            return (!record.setup.fragmentation).then_some(Command::FragSession);
        }
        let window = session.record.window;
        if !session.is_running() && now + latest_request(window.class) >= window.start {
            return None;
        }
        if record.setup.resync && packages.clock_sync.is_some() {
            return Some(Command::Resync);
        }
        if !record.setup.group {
            return Some(Command::GroupAndWindow);
        }
        if record.setup.window != Some(window.number) {
            return Some(Command::Window);
        }
        (!record.setup.fragmentation).then_some(Command::FragSession)
    }

    /// `McGroupSetupReq` for a device: the session's key, wrapped for it.
    pub(super) fn group_setup(
        &self,
        session: &SessionRun,
        device: &FleetDevice,
    ) -> Option<multicast_setup::DownlinkCommand> {
        let group = self.group_of(session)?;
        Some(multicast_setup::DownlinkCommand::McGroupSetupReq(
            McGroupSetupReq {
                mc_group_id: session.record.mc_group_id,
                mc_addr: group.mc_addr,
                mc_key_encrypted: encrypt_mc_key(&device.keys.multicast.mc_ke_key(), &group.mc_key),
                // Older frames of the same key must not be replayed to a device that lost the group.
                min_mc_f_cnt: group.next_mc_f_cnt,
                max_mc_f_cnt: MAX_MC_F_CNT,
            },
        ))
    }

    /// `FragSessionSetupReq` for a device: the session's block, with the device's own count and MIC in version 2.
    pub(super) fn frag_session_setup(
        &self,
        session: &SessionRun,
        device: &FleetDevice,
        record: &TaskDevice,
    ) -> fragmentation::DownlinkCommand {
        let block = session.record.block;
        let mic = match block.version {
            PackageVersion::V1 => [0; 4],
            PackageVersion::V2 => {
                let key = device.keys.multicast.data_block_int_key();
                data_block_mic(
                    &key,
                    record.session_cnt,
                    block.frag_index,
                    block.descriptor,
                    self.data_of(&session.record),
                )
            }
        };
        fragmentation::DownlinkCommand::FragSessionSetupReq(fragmentation::FragSessionSetupReq {
            frag_index: block.frag_index,
            mc_group_bit_mask: match session.record.class {
                DeviceClass::A => 0,
                DeviceClass::B | DeviceClass::C => 1 << session.record.mc_group_id,
            },
            nb_frag: block.nb_frag,
            frag_size: block.frag_size,
            // It says more than a status, and nothing that TS006 does not say later and better.
            ack_reception: block.version == PackageVersion::V2
                && device.profile.packages.firmware_management.is_none(),
            frag_algo: block.frag_algo.number(),
            block_ack_delay: block.block_ack_delay,
            padding: block.padding,
            descriptor: block.descriptor,
            session_cnt: record.session_cnt,
            mic,
        })
    }

    /// The group of a session on the air, with the counter it began with; `None` without a seed, which a started task
    /// has.
    pub(super) fn group_of(&self, session: &SessionRun) -> Option<McGroup> {
        let seed = self.task.seed.as_ref()?;
        let record = &session.record;
        let number = record.id.number;
        let (mc_addr, mc_key, next_mc_f_cnt) = match &record.group_use.reused {
            Some(reused) => {
                let key = self.earlier_keys.get(&number)?.clone();
                (key.mc_addr, key.mc_key, reused.first_mc_f_cnt)
            }
            None => {
                let mc_addr = keys::mc_addr(seed, number, self.network);
                (mc_addr, keys::mc_key(seed, number), 0)
            }
        };
        Some(McGroup {
            session: record.id.clone(),
            mc_addr,
            mc_key,
            next_mc_f_cnt,
            region: record.region,
            class: record.class,
            frequency_hz: record.frequency_hz,
            data_rate: record.data_rate,
            gateways: record.gateways.clone(),
            ping_slots: record.ping_slots,
            turns: record.turns.clone(),
            kept: None,
        })
    }

    /// Makes a session's group known to the network.
    pub(super) fn request_group(&mut self, number: usize) {
        if let Some(group) = self
            .sessions
            .get(number)
            .filter(|session| session.record.class != DeviceClass::A)
            .and_then(|session| self.group_of(session))
        {
            self.requests.push(NetworkRequest::PutGroup(group));
        }
    }

    /// `PackageVersionAns`: remembered with the device; a version that differs from the profile's ends it here.
    pub(super) fn package_version(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        identifier: u8,
        version: u8,
        around: &mut Surroundings<'_>,
    ) {
        let Some(device) = around.fleet.get(dev_eui) else {
            return;
        };
        let packages = &device.profile.packages;
        let expected: Option<Package> = match identifier {
            multicast_setup::PACKAGE_IDENTIFIER => packages.multicast_setup,
            fragmentation::PACKAGE_IDENTIFIER => packages.fragmentation,
            firmware_management::PACKAGE_IDENTIFIER => packages.firmware_management,
            _ => None,
        };
        if let Some(status) = around.fleet.status_mut(dev_eui) {
            status
                .capabilities
                .insert(identifier, Capability { version, at: now });
        }
        self.answered(now, dev_eui);
        let in_setup = self
            .devices
            .get(&dev_eui)
            .is_some_and(|d| d.state <= DeviceState::Ready);
        match expected {
            Some(package) if package.version.number() != version && in_setup => {
                let evidence = format!(
                    "package {identifier} answers version {version}, profile says {}",
                    package.version.number()
                );
                self.conclude(
                    now,
                    dev_eui,
                    DeviceState::Failed,
                    Some(DeviceReason::VersionMismatch),
                    evidence,
                );
            }
            _ => {}
        }
    }

    /// `McGroupSetupAns`.
    pub(super) fn group_answered(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        answer: multicast_setup::McGroupSetupAns,
        around: &mut Surroundings<'_>,
    ) {
        if !self.in_setup(now, dev_eui, |session| {
            session.record.mc_group_id == answer.mc_group_id
        }) {
            return;
        }
        if answer.id_error {
            if self.is_believed(dev_eui) {
                let evidence = "McGroupSetupAns with IDerror".to_owned();
                self.conclude(
                    now,
                    dev_eui,
                    DeviceState::Failed,
                    Some(DeviceReason::McGroupIdError),
                    evidence,
                );
            }
            return;
        }
        self.update_setup(dev_eui, |setup| setup.group = true);
        if let Some(status) = around.fleet.status_mut(dev_eui)
            && let Some(Some(slot)) = status.mc_slots.get_mut(usize::from(answer.mc_group_id))
        {
            slot.confirmed = true;
        }
        self.answered(now, dev_eui);
        self.check_ready(now, dev_eui);
    }

    /// `McClassCSessionAns` or `McClassBSessionAns`: its errors, or whether the device's clock agrees with ours.
    pub(super) fn window_answered(
        &mut self,
        now: Timestamp,
        uplink: &Uplink,
        answer: &McSessionAns,
        around: &Surroundings<'_>,
    ) {
        let dev_eui = uplink.dev_eui;
        let Some(session) = self.devices.get(&dev_eui).and_then(|d| self.session_of(d)) else {
            return;
        };
        let setup = self.devices[&dev_eui].setup;
        if !self.open.contains(&dev_eui)
            || self.devices[&dev_eui].retry_at.is_some()
            || session.record.phase == SessionPhase::Closed
            || session.record.mc_group_id != answer.mc_group_id
            || setup.settles_at.is_some_and(|at| now < at)
        {
            return;
        }
        let (window, late_start) = (session.record.window, setup.late_start);
        let start = late_start.unwrap_or(window.start);
        if answer.mc_group_undefined || answer.start_missed {
            // The group is gone, or the clock is ahead of the window: set up again, checking the clock.
            let undefined = answer.mc_group_undefined;
            self.update_setup(dev_eui, |setup| {
                setup.group &= !undefined;
                setup.resync |= !undefined && late_start.is_none();
            });
            self.answered(now, dev_eui);
            return;
        }
        let reason = match (answer.dr_error, answer.freq_error) {
            (true, _) => Some(DeviceReason::DrError),
            (_, true) => Some(DeviceReason::FreqError),
            _ => None,
        };
        let Some(time_to_start) = answer.time_to_start.filter(|_| reason.is_none()) else {
            if self.is_believed(dev_eui) {
                let evidence = format!(
                    "{} refuses: {:?}",
                    session_ans(window.class),
                    answer.errors().collect::<Vec<_>>()
                );
                let reason = reason.unwrap_or(DeviceReason::McGroupUndefined);
                self.conclude(now, dev_eui, DeviceState::Failed, Some(reason), evidence);
            }
            return;
        };
        let heard_at = uplink.received_at.to_gps().seconds();
        // What has begun cannot begin later: the answer says 0.
        let expected = (start.to_gps().seconds() - heard_at).max(0);
        let off = i64::from(time_to_start) - expected;
        self.answered(now, dev_eui);
        let asked_at = self.talks.get(&dev_eui).and_then(|talk| talk.on_air);
        let waited = asked_at.map_or(0, |at| heard_at - at.to_gps().seconds());
        let waited = waited.clamp(0, ANSWER_WAIT_MAX_S);
        if (-CLOCK_TOLERANCE_S..=CLOCK_TOLERANCE_S + waited).contains(&off) {
            self.update_setup(dev_eui, |setup| {
                setup.window = Some(window.number);
                setup.resync = false;
            });
            self.check_ready(now, dev_eui);
            return;
        }
        let evidence = if time_to_start == multicast_setup::TIME_TO_START_UNKNOWN {
            "the device has no time".to_owned()
        } else {
            format!("the device's clock is off by {} s", -off)
        };
        let resyncs = around
            .fleet
            .get(dev_eui)
            .is_some_and(|d| d.profile.packages.clock_sync.is_some());
        let talk = self.talks.entry(dev_eui).or_default();
        talk.clock_errors = talk.clock_errors.saturating_add(1);
        if talk.clock_errors > CLOCK_ERRORS {
            let reason = Some(DeviceReason::ClockNotSynced);
            self.conclude(now, dev_eui, DeviceState::Failed, reason, evidence);
            return;
        }
        self.update_setup(dev_eui, |setup| setup.resync = resyncs);
        self.note(dev_eui, DeviceReason::ClockNotSynced, evidence);
    }

    /// The device was given the time: the window may be asked for again.
    pub(super) fn clock_set(&mut self, now: Timestamp, dev_eui: DevEui) {
        if self.devices.get(&dev_eui).is_some_and(|d| d.setup.resync) {
            self.update_setup(dev_eui, |setup| setup.resync = false);
            self.answered(now, dev_eui);
        }
    }

    /// `FragSessionSetupAns`.
    pub(super) fn frag_session_answered(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        answer: &fragmentation::FragSessionSetupAns,
        around: &mut Surroundings<'_>,
    ) {
        // A late second answer may be about the session the device was in before.
        let asked = self.devices.get(&dev_eui).is_some_and(|d| d.setup.counted);
        if !asked
            || !self.in_setup(now, dev_eui, |session| {
                session.record.block.frag_index == answer.frag_index
            })
        {
            return;
        }
        let repeated = self.devices.get(&dev_eui).is_some_and(|d| d.tries > 1);
        // A replay on a repeat: the first request got through and only its answer was lost (TS004-2.0.0 §3.2).
        let replay_only = answer.session_cnt_replay
            && !(answer.wrong_descriptor
                || answer.frag_index_unsupported
                || answer.not_enough_memory
                || answer.frag_algo_unsupported);
        if replay_only && !repeated {
            self.jump_session_cnt(now, dev_eui, usize::from(answer.frag_index), around);
            return;
        }
        if answer.frag_algo_unsupported
            && let Some(session) = self.devices.get(&dev_eui).and_then(|d| self.session_of(d))
            && session.record.block.frag_algo != FragAlgo::Ts004
        {
            let number = usize::from(session.record.id.number);
            return self.fall_back(now, number, dev_eui, around);
        }
        let refusal = [
            (answer.wrong_descriptor, DeviceReason::WrongDescriptor),
            (
                answer.frag_index_unsupported,
                DeviceReason::FragIndexUnsupported,
            ),
            (answer.not_enough_memory, DeviceReason::NotEnoughMemory),
            (
                answer.frag_algo_unsupported,
                DeviceReason::FragAlgoUnsupported,
            ),
        ];
        if let Some((_, reason)) = refusal.into_iter().find(|(set, _)| *set) {
            let evidence = format!(
                "FragSessionSetupAns refuses: {:?}",
                answer.errors().collect::<Vec<_>>()
            );
            self.conclude(now, dev_eui, DeviceState::Failed, Some(reason), evidence);
            return;
        }
        self.update_setup(dev_eui, |setup| setup.fragmentation = true);
        if let Some(status) = around.fleet.status_mut(dev_eui)
            && let Some(Some(slot)) = status.frag_slots.get_mut(usize::from(answer.frag_index))
        {
            slot.confirmed = true;
        }
        self.answered(now, dev_eui);
        self.check_ready(now, dev_eui);
    }

    /// The device has seen a higher count from another server: ours jumps over it, further at every refusal.
    fn jump_session_cnt(
        &mut self,
        now: Timestamp,
        dev_eui: DevEui,
        index: usize,
        around: &mut Surroundings<'_>,
    ) {
        if self.is_believed(dev_eui) {
            let evidence =
                "FragSessionSetupAns with SessionCnt replay at every count tried".to_owned();
            self.conclude(
                now,
                dev_eui,
                DeviceState::Failed,
                Some(DeviceReason::SessionCntReplay),
                evidence,
            );
            return;
        }
        let (Some(record), Some(status)) = (
            self.devices.get_mut(&dev_eui),
            around.fleet.status_mut(dev_eui),
        ) else {
            return;
        };
        let Some(next) = status.next_session_cnt.get_mut(index) else {
            return;
        };
        *next = next.saturating_add(16).saturating_mul(4);
        record.session_cnt = *next;
        *next = next.saturating_add(1);
        record.tries = 0;
        self.changed.devices.insert(dev_eui);
        if let Some(talk) = self.talks.get_mut(&dev_eui) {
            talk.patience = now;
        }
    }

    /// Forgets what was set up on a device whose groups and sessions are gone.
    pub(super) fn reset_setup(&mut self, now: Timestamp, dev_eui: DevEui, why: &str) {
        let Some(record) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        record.setup = SetupStage::default();
        let session = record.session.map(usize::from);
        if let Some(session) = session.and_then(|number| self.sessions.get_mut(number)) {
            session.late_seen_to = false;
        }
        record.fragments = None;
        record.unicast = None;
        self.conclude(
            now,
            dev_eui,
            DeviceState::Preparing,
            Some(DeviceReason::SessionLost),
            why.to_owned(),
        );
    }

    fn in_setup(
        &self,
        now: Timestamp,
        dev_eui: DevEui,
        fits: impl Fn(&SessionRun) -> bool,
    ) -> bool {
        self.devices.get(&dev_eui).is_some_and(|record| {
            record.state <= DeviceState::Ready
                && record.retry_at.is_none()
                && record.setup.settles_at.is_none_or(|at| now >= at)
                && self.session_of(record).is_some_and(fits)
        })
    }

    /// Counts an error answer; true once it came often enough to be believed.
    fn is_believed(&mut self, dev_eui: DevEui) -> bool {
        let talk = self.talks.entry(dev_eui).or_default();
        talk.errors = talk.errors.saturating_add(1);
        talk.patience = Timestamp::default();
        talk.errors >= BELIEVED_ERRORS
    }

    fn update_setup(&mut self, dev_eui: DevEui, update: impl FnOnce(&mut SetupStage)) {
        if let Some(record) = self.devices.get_mut(&dev_eui) {
            update(&mut record.setup);
            self.changed.devices.insert(dev_eui);
        }
    }

    /// Writes down what holds a device up, without moving it.
    pub(super) fn note(&mut self, dev_eui: DevEui, reason: DeviceReason, evidence: String) {
        if let Some(record) = self.devices.get_mut(&dev_eui) {
            record.reason = Some(reason);
            record.evidence = evidence;
            self.changed.devices.insert(dev_eui);
        }
    }

    fn check_ready(&mut self, now: Timestamp, dev_eui: DevEui) {
        let Some(record) = self.devices.get(&dev_eui) else {
            return;
        };
        let Some(session) = self.session_of(record) else {
            return;
        };
        if session.record.class == DeviceClass::A {
            return self.begin_alone(now, dev_eui);
        }
        let ready = record.setup.group
            && record.setup.fragmentation
            && record.setup.window == Some(session.record.window.number);
        if ready && record.state < DeviceState::Ready {
            let (late, number) = (session.is_running(), usize::from(session.record.id.number));
            let evidence = "group, window and fragmentation session confirmed".to_owned();
            self.conclude(now, dev_eui, DeviceState::Ready, None, evidence);
            if late && let Some(session) = self.sessions.get_mut(number) {
                session.coming.insert(dev_eui);
            }
        }
    }
}

fn latest_request(class: DeviceClass) -> Duration {
    match class {
        DeviceClass::B => LATEST_REQUEST_CLASS_B,
        DeviceClass::A | DeviceClass::C => LATEST_REQUEST,
    }
}

/// The name of the answer to a session request.
fn session_ans(class: DeviceClass) -> &'static str {
    match class {
        DeviceClass::B => "McClassBSessionAns",
        DeviceClass::A | DeviceClass::C => "McClassCSessionAns",
    }
}
