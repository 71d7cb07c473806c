//! TS005 on the device: multicast groups, their keys and counters, and sessions by the device's own clock.

use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::class_b::PingSlotPeriodicity;
use lorawan_fuota::lorawan::frame::{DataFrame, Direction, full_f_cnt};
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::lorawan::keys::{
    Key128, KeyDerivation, decrypt_mc_key, mc_app_s_key, mc_ke_key, mc_nwk_s_key, mc_root_key,
};
use lorawan_fuota::lorawan::multicast_setup::{
    DEFAULT_F_PORT, DownlinkCommand, MC_GROUP_COUNT, McClassBSessionReq, McClassCSessionReq,
    McGroupDeleteAns, McGroupSetupAns, McGroupSetupReq, McGroupStatusAns, McGroupStatusReq,
    McSessionAns, PACKAGE_IDENTIFIER, UplinkCommand, class_b_session_length_max,
    class_c_session_length_max, decode_downlink,
};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::Timestamp;

use super::class_b::{self, BeaconLock, PingSlots};
use super::clock::DeviceClock;
use super::environment::Environment;
use super::meter::{self, Continuous};
use super::outbox::{Content, time_to_start};
use super::radio::Listening;
use super::reading::read_commands;
use super::shared_frame::Opened;
use super::stack::{BadParameters, ClassB, GroupStatus, LateStart};

/// `McGroupStatusReq`.
const CID_GROUP_STATUS: u8 = 0x01;

/// A multicast group as the device knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McGroup {
    /// Its address.
    pub mc_addr: DevAddr,
    /// Lowest counter accepted.
    pub min_mc_f_cnt: u32,
    /// Highest counter accepted.
    pub max_mc_f_cnt: u32,
    /// The last counter accepted.
    pub last_mc_f_cnt: Option<u32>,
    /// The session asked for last.
    pub session: Option<McSession>,
    mc_nwk_s_key: Key128,
    mc_app_s_key: Key128,
}

/// A session, GPS microseconds by the device's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McSession {
    /// First moment it listens.
    pub starts_at_us: i64,
    /// First moment it does not any more.
    pub ends_at_us: i64,
    /// What it listens to.
    pub tuned: Listening,
    /// Class B: when it listens; class C listens always.
    pub ping_slots: Option<PingSlots>,
}

/// Why a multicast frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum McRejection {
    NotForUs,
    NoSession,
    CounterOutOfRange,
    Replayed,
    WrongMic,
}

/// The package's memory.
#[derive(Clone, Debug, Default)]
pub(super) struct MulticastSetup {
    groups: [Option<McGroup>; MC_GROUP_COUNT],
}

impl MulticastSetup {
    pub(super) fn groups(&self) -> &[Option<McGroup>; MC_GROUP_COUNT] {
        &self.groups
    }

    pub(super) fn clear(&mut self) {
        self.groups = Default::default();
    }

    /// What the session that is on listens to; the lowest group's if there are several.
    pub(super) fn listening(
        &self,
        clock: &DeviceClock,
        beacons: &BeaconLock,
        at: Timestamp,
    ) -> Option<Listening> {
        let gps_us = clock.gps_us(at);
        self.groups
            .iter()
            .flatten()
            .filter_map(|group| group.session)
            .find(|session| {
                let open = session
                    .ping_slots
                    .is_none_or(|slots| beacons.is_open(slots, at));
                clock.is_set() && session.is_on(gps_us) && open
            })
            .map(|session| session.tuned)
    }

    /// How long the session that is on listened in a span of time; of several at once, the longest.
    pub(super) fn listened(
        &self,
        clock: &DeviceClock,
        from: Timestamp,
        until: Timestamp,
    ) -> Continuous {
        let mut all = Continuous::default();
        if !clock.is_set() {
            return all;
        }
        let (from_us, until_us) = (clock.gps_us(from), clock.gps_us(until));
        for session in self.groups.iter().flatten().filter_map(|g| g.session) {
            let on = session.ends_at_us.min(until_us) - session.starts_at_us.max(from_us);
            let Some(on) = u64::try_from(on).ok().map(Duration::from_micros) else {
                continue;
            };
            match session.ping_slots {
                None => all.on = all.on.max(on),
                Some(slots) if on > all.in_class_b => {
                    let slot = meter::window(session.tuned.data_rate);
                    all.in_class_b = on;
                    all.slots = slot * u32::from(slots.periodicity.ping_nb());
                }
                Some(_) => {}
            }
        }
        all
    }

    /// Whether the session that is on is of class B.
    pub(super) fn is_class_b(&self, clock: &DeviceClock, at: Timestamp) -> bool {
        let gps_us = clock.gps_us(at);
        let sessions = self.groups.iter().flatten().filter_map(|g| g.session);
        let mut on = sessions.filter(|session| session.is_on(gps_us));
        clock.is_set() && on.any(|session| session.ping_slots.is_some())
    }

    /// Whether a class B session is on, or about to begin.
    pub(super) fn wants_beacons(&self, clock: &DeviceClock, at: Timestamp) -> bool {
        let gps_us = clock.gps_us(at);
        let ahead = gps_us.saturating_add(as_micros(class_b::LOOKS_AHEAD));
        let sessions = self
            .groups
            .iter()
            .flatten()
            .filter_map(|group| group.session);
        let mut class_b = sessions.filter(|session| session.ping_slots.is_some());
        clock.is_set() && class_b.any(|s| s.starts_at_us <= ahead && gps_us < s.ends_at_us)
    }

    /// Checks and opens a multicast frame: which group, and the payload in the clear.
    pub(super) fn open(
        &mut self,
        frame: &DataFrame,
        opened: &mut Opened,
        clock: &DeviceClock,
        now: Timestamp,
    ) -> Result<(u8, Arc<[u8]>), McRejection> {
        let gps_us = clock.gps_us(now);
        let mut rejection = McRejection::NotForUs;
        for (id, group) in (0..).zip(&mut self.groups) {
            let Some(group) = group
                .as_mut()
                .filter(|group| group.mc_addr == frame.dev_addr)
            else {
                continue;
            };
            match group.open(frame, opened, clock.is_set(), gps_us) {
                Ok(payload) => return Ok((id, payload)),
                Err(reason) => rejection = reason,
            }
        }
        Err(rejection)
    }

    /// The payload of a frame of one of its groups, whether it listens to it or not.
    pub(super) fn peek(&self, frame: &DataFrame, opened: &mut Opened) -> Option<Arc<[u8]>> {
        let mut groups = self.groups.iter().flatten();
        let group = groups.find(|group| group.mc_addr == frame.dev_addr)?;
        let keys = (&group.mc_nwk_s_key, &group.mc_app_s_key);
        let before = group
            .last_mc_f_cnt
            .or_else(|| group.min_mc_f_cnt.checked_sub(1));
        let f_cnt = full_f_cnt(before, frame.f_cnt, 0xffff);
        opened.open(frame, keys, f_cnt.unwrap_or_else(|| frame.f_cnt.into()))
    }

    pub(super) fn handle(
        &mut self,
        version: PackageVersion,
        payload: &[u8],
        environment: &mut Environment<'_>,
    ) {
        let quirks = environment.quirks();
        let skipped = matches!(quirks.multicast.group_status, GroupStatus::MaskIsCommand)
            .then_some(CID_GROUP_STATUS);
        let mut read = read_commands(
            payload,
            quirks.answers.unreadable,
            skipped,
            |bytes| decode_downlink(version, bytes),
            |command, out| command.encode(version, out),
        );
        for command in read.commands {
            if !environment.takes_another() {
                break;
            }
            if !self.carry_out(version, command, environment) {
                read.loses_answers = true;
                break;
            }
        }
        environment.note_unread(read.rest);
        if read.loses_answers {
            environment.lose_answers();
        }
        environment.send_answers(quirks.answers.multicast_delay);
    }

    /// False if the stack gives the whole downlink up over this command.
    fn carry_out(
        &mut self,
        version: PackageVersion,
        command: DownlinkCommand,
        environment: &mut Environment<'_>,
    ) -> bool {
        let quirks = environment.quirks().multicast;
        let answer = match command {
            DownlinkCommand::PackageVersionReq => {
                environment.answer_version(DEFAULT_F_PORT, PACKAGE_IDENTIFIER, version.number());
                return true;
            }
            DownlinkCommand::McGroupStatusReq(request) => match quirks.group_status {
                GroupStatus::Answered { records } => {
                    UplinkCommand::McGroupStatusAns(self.status(request, records))
                }
                GroupStatus::MaskIsCommand | GroupStatus::LosesAnswers => return false,
            },
            DownlinkCommand::McGroupSetupReq(request) => {
                UplinkCommand::McGroupSetupAns(self.set_up(request, environment))
            }
            DownlinkCommand::McGroupDeleteReq(request) => {
                let group = self.groups.get_mut(usize::from(request.mc_group_id));
                let existed = group.and_then(Option::take).is_some();
                environment.note(format_args!("group {} deleted", request.mc_group_id));
                UplinkCommand::McGroupDeleteAns(McGroupDeleteAns {
                    mc_group_id: request.mc_group_id,
                    mc_group_undefined: !existed,
                })
            }
            DownlinkCommand::McClassCSessionReq(request) => {
                let mut answer = self.session(request, environment);
                let bad = answer.freq_error || answer.dr_error;
                if bad && quirks.bad_parameters == BadParameters::BareCid {
                    UplinkCommand::McClassCSessionAnsWithoutStatus
                } else if let Some(starts_at_us) = self.starts_at(&answer) {
                    if quirks.time_to_start_at_request {
                        let left = time_to_start(environment.now, environment.clock, starts_at_us);
                        answer.time_to_start = Some(left);
                        return answer_with(version, answer, environment);
                    }
                    let content = Content::SessionAns {
                        answer,
                        starts_at_us,
                    };
                    environment.answer_with(DEFAULT_F_PORT, content, 5);
                    return true;
                } else {
                    UplinkCommand::McClassCSessionAns(answer)
                }
            }
            DownlinkCommand::McClassBSessionReq(request)
                if environment.config.class_b && quirks.class_b.is_honest() =>
            {
                UplinkCommand::McClassBSessionAns(self.class_b_session(request, environment))
            }
            DownlinkCommand::McClassBSessionReq(request) => match quirks.class_b {
                ClassB::LosesAnswers => return false,
                ClassB::Refused => UplinkCommand::McClassBSessionAns(self.refuse_class_b(request)),
                ClassB::Accepted | ClassB::RunsAsClassC => {
                    UplinkCommand::McClassBSessionAns(self.as_class_c(request, environment))
                }
            },
        };
        let mut bytes = Vec::new();
        answer.encode(version, &mut bytes);
        environment.answer(DEFAULT_F_PORT, bytes);
        true
    }

    fn status(&self, request: McGroupStatusReq, records: usize) -> McGroupStatusAns {
        let total = self.groups.iter().flatten().count();
        let mut mc_addr = [None; MC_GROUP_COUNT];
        let asked = (0..MC_GROUP_COUNT)
            .filter(|id| request.req_group_mask >> id & 1 == 1)
            .filter_map(|id| Some((id, self.groups[id].as_ref()?.mc_addr)));
        for (id, address) in asked.take(records) {
            mc_addr[id] = Some(address);
        }
        McGroupStatusAns {
            nb_total_groups: u8::try_from(total).unwrap_or(u8::MAX),
            mc_addr,
        }
    }

    fn set_up(
        &mut self,
        request: McGroupSetupReq,
        environment: &mut Environment<'_>,
    ) -> McGroupSetupAns {
        let id = request.mc_group_id;
        let supported = id < environment.config.limits.mc_group_count;
        if supported && let Some(slot) = self.groups.get_mut(usize::from(id)) {
            let root = mc_root_key(KeyDerivation::GenAppKey, &environment.config.gen_app_key);
            let mc_key = decrypt_mc_key(&mc_ke_key(&root), request.mc_key_encrypted);
            *slot = Some(McGroup {
                mc_addr: request.mc_addr,
                min_mc_f_cnt: request.min_mc_f_cnt,
                max_mc_f_cnt: request.max_mc_f_cnt,
                last_mc_f_cnt: None,
                session: None,
                mc_nwk_s_key: mc_nwk_s_key(&mc_key, request.mc_addr),
                mc_app_s_key: mc_app_s_key(&mc_key, request.mc_addr),
            });
            environment.note(format_args!("group {id} set up as {}", request.mc_addr));
        }
        McGroupSetupAns {
            mc_group_id: id,
            id_error: !supported,
        }
    }

    /// Takes a session over, or says why not. `time_to_start` is filled in when the answer leaves.
    fn session(
        &mut self,
        request: McClassCSessionReq,
        environment: &mut Environment<'_>,
    ) -> McSessionAns {
        let quirks = environment.quirks().multicast;
        let region = environment.config.region;
        let clock = &environment.clock;
        let starts_at_us = clock.read_wire(request.session_time, environment.now);
        let ahead_us = starts_at_us.saturating_sub(clock.gps_us(environment.now));
        let late = clock.is_set() && (ahead_us < 0 || (quirks.now_is_late && ahead_us == 0));
        let mut answer = session_answer(request.mc_group_id);
        let data_rate = region.data_rate(request.dr, Direction::Downlink);
        answer.dr_error = data_rate.is_none();
        answer.freq_error = !is_usable(region, request.dl_freq_hz);
        let group = self.groups.get(usize::from(request.mc_group_id));
        if group.is_none_or(Option::is_none) {
            answer.mc_group_undefined = true;
            answer.dr_error |= quirks.undefined_sets_all;
            answer.freq_error |= quirks.undefined_sets_all;
        }
        // The start is looked at once the parameters are good.
        if late && answer.is_accepted() {
            match quirks.late_start {
                LateStart::Accepted => {}
                LateStart::StartMissed => answer.start_missed = true,
                LateStart::GroupUndefined => answer.mc_group_undefined = true,
            }
        }
        let accepted = answer.is_accepted();
        if let (true, Some(data_rate)) = (accepted, data_rate) {
            let length = class_c_session_length_max(request.session_time_out);
            let starts = clock.is_set() || quirks.starts_once_clock_is_set;
            let session = McSession {
                starts_at_us,
                ends_at_us: if starts {
                    starts_at_us.saturating_add(as_micros(length))
                } else {
                    starts_at_us
                },
                tuned: Listening {
                    frequency_hz: request.dl_freq_hz,
                    data_rate,
                },
                ping_slots: None,
            };
            self.put_session(request.mc_group_id, session, quirks.one_session_timer);
        }
        environment.note(format_args!(
            "session of group {} at {} for {} s: {}",
            request.mc_group_id,
            request.session_time,
            class_c_session_length_max(request.session_time_out).as_secs(),
            if accepted { "accepted" } else { "refused" },
        ));
        answer
    }

    fn put_session(&mut self, mc_group_id: u8, session: McSession, alone: bool) {
        if alone {
            for group in self.groups.iter_mut().flatten() {
                group.session = None;
            }
        }
        let group = self.groups.get_mut(usize::from(mc_group_id));
        if let Some(group) = group.and_then(Option::as_mut) {
            group.session = Some(session);
        }
    }

    /// The device has no class B. TS005 has no bit for that; a device that cannot use the parameters says so of both.
    fn refuse_class_b(&self, request: McClassBSessionReq) -> McSessionAns {
        let group = self.groups.get(usize::from(request.mc_group_id));
        let mut answer = session_answer(request.mc_group_id);
        answer.mc_group_undefined = group.is_none_or(Option::is_none);
        answer.freq_error = true;
        answer.dr_error = true;
        answer
    }

    /// Takes a class B session over: what a class C one checks, and the slots.
    fn class_b_session(
        &mut self,
        request: McClassBSessionReq,
        environment: &mut Environment<'_>,
    ) -> McSessionAns {
        let mut answer = self.session(class_c_of(request), environment);
        let Some(starts_at_us) = self.starts_at(&answer) else {
            return answer;
        };
        let left = time_to_start(environment.now, environment.clock, starts_at_us);
        answer.time_to_start = Some(left);
        let group = self.groups.get_mut(usize::from(request.mc_group_id));
        if let Some(group) = group.and_then(Option::as_mut)
            && let Some(session) = &mut group.session
        {
            let length = class_b_session_length_max(request.session_time_out);
            if session.ends_at_us > session.starts_at_us {
                session.ends_at_us = session.starts_at_us.saturating_add(as_micros(length));
            }
            let periodicity = PingSlotPeriodicity::try_from(request.periodicity);
            session.ping_slots = Some(PingSlots {
                mc_addr: group.mc_addr,
                periodicity: periodicity.unwrap_or_default(),
            });
        }
        answer
    }

    /// Accepts as for class C. What follows is class C or nothing.
    fn as_class_c(
        &mut self,
        request: McClassBSessionReq,
        environment: &mut Environment<'_>,
    ) -> McSessionAns {
        let runs = environment.quirks().multicast.class_b == ClassB::RunsAsClassC;
        let mut kept = self.clone();
        let mut answer = self.session(class_c_of(request), environment);
        if let Some(starts_at_us) = self.starts_at(&answer) {
            let left = time_to_start(environment.now, environment.clock, starts_at_us);
            answer.time_to_start = Some(left);
        }
        if !runs {
            std::mem::swap(self, &mut kept);
        }
        answer
    }

    fn starts_at(&self, answer: &McSessionAns) -> Option<i64> {
        if !answer.is_accepted() {
            return None;
        }
        let group = self.groups.get(usize::from(answer.mc_group_id))?.as_ref()?;
        Some(group.session?.starts_at_us)
    }
}

impl McGroup {
    fn open(
        &mut self,
        frame: &DataFrame,
        opened: &mut Opened,
        clock_is_set: bool,
        gps_us: i64,
    ) -> Result<Arc<[u8]>, McRejection> {
        // A session's last frame may end after it.
        const GRACE_US: i64 = 5_000_000;
        let on = self.session.is_some_and(|session| {
            (session.starts_at_us..session.ends_at_us.saturating_add(GRACE_US)).contains(&gps_us)
        });
        if !clock_is_set || !on {
            return Err(McRejection::NoSession);
        }
        let before = self
            .last_mc_f_cnt
            .or_else(|| self.min_mc_f_cnt.checked_sub(1));
        let f_cnt = full_f_cnt(before, frame.f_cnt, 0xffff);
        let Some(f_cnt) = f_cnt else {
            return Err(McRejection::Replayed);
        };
        let in_range = (self.min_mc_f_cnt..=self.max_mc_f_cnt).contains(&f_cnt);
        let keys = (&self.mc_nwk_s_key, &self.mc_app_s_key);
        match opened.open(frame, keys, f_cnt) {
            Some(_) if !in_range => Err(McRejection::CounterOutOfRange),
            Some(payload) => {
                self.last_mc_f_cnt = Some(f_cnt);
                Ok(payload)
            }
            // An old frame is a wrong one a full turn ahead.
            None if self.is_replay(frame) => Err(McRejection::Replayed),
            None => Err(McRejection::WrongMic),
        }
    }

    fn is_replay(&self, frame: &DataFrame) -> bool {
        let Some(last) = self.last_mc_f_cnt else {
            return false;
        };
        let old = (last & 0xffff_0000) | u32::from(frame.f_cnt);
        old <= last && frame.verify_mic(&self.mc_nwk_s_key, old)
    }
}

impl McSession {
    fn is_on(&self, gps_us: i64) -> bool {
        (self.starts_at_us..self.ends_at_us).contains(&gps_us)
    }
}

/// Answers with what is known of the session now.
fn answer_with(
    version: PackageVersion,
    answer: McSessionAns,
    environment: &mut Environment<'_>,
) -> bool {
    let mut bytes = Vec::new();
    UplinkCommand::McClassCSessionAns(answer).encode(version, &mut bytes);
    environment.answer(DEFAULT_F_PORT, bytes);
    true
}

fn class_c_of(request: McClassBSessionReq) -> McClassCSessionReq {
    McClassCSessionReq {
        mc_group_id: request.mc_group_id,
        session_time: request.session_time,
        session_time_out: request.session_time_out,
        dl_freq_hz: request.dl_freq_hz,
        dr: request.dr,
    }
}

fn session_answer(mc_group_id: u8) -> McSessionAns {
    McSessionAns {
        mc_group_id,
        mc_group_undefined: false,
        freq_error: false,
        dr_error: false,
        start_missed: false,
        reserved_error: false,
        time_to_start: None,
    }
}

/// Whether the region's devices can tune to a frequency at all.
fn is_usable(region: Region, frequency_hz: u32) -> bool {
    region.sub_band(frequency_hz, 0).is_some()
}

fn as_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
