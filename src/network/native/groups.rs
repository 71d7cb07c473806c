//! Multicast groups: a queue of frames each, put on air one after the other by every gateway of the group.
//!
//! A frame's start is fixed only when it is time to hand it over, so that answers to uplinks, which cannot wait, find
//! their place before it. Then it gets its counter and is charged; until then it has used up nothing. Which gateways of
//! a group send it together, and which after one another, is decided in `turns`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::When;
use super::air::{Air, Emission, ReportKey, Start, Transmission};
use super::downlinks::data_frame_length;
use super::turns::{self, Turn, Wanted};
use crate::lorawan::frame::{DataFields, Direction, FCtrl};
use crate::lorawan::identifiers::{GatewayEui, McAddr};
use crate::lorawan::keys::{Key128, mc_app_s_key, mc_nwk_s_key};
use crate::record::{
    Change, DeviceClass, Downlink, KeptGroup, McGroup, Refusal, SessionId, TxOutcome,
};
use crate::time::Timestamp;

#[derive(Clone, Debug)]
struct Group {
    record: McGroup,
    nwk_s_key: Key128,
    app_s_key: Key128,
    queue: VecDeque<(Timestamp, Downlink)>,
    head: Option<Head>,
    /// End of the last frame: the next one starts after it at every gateway, so that counters arrive in order.
    not_before: Timestamp,
    /// When it last got air, as a running number: groups that share a gateway take turns.
    served: u64,
    /// The start that was found for the head and lies ahead, and until when it is not looked for again.
    found: Option<(Start, Timestamp)>,
}

/// A start that lies ahead is looked for again after so long, in case a gateway went or a place became free: each look
/// asks all gateways of the group for all that stands in the way.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The frame being sent.
#[derive(Clone, Debug)]
struct Head {
    downlink: Downlink,
    asked_at: Timestamp,
    report: ReportKey,
    emission: Emission,
    /// Built with its counter once the first gateway's start is due.
    phy_payload: Option<Vec<u8>>,
    /// Gateways that have still to send it.
    turns: VecDeque<Turn>,
    end: Timestamp,
}

/// All groups, and which of them changed since the last commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<SessionId, Group>,
    changed: BTreeSet<SessionId>,
    deleted: BTreeSet<SessionId>,
    /// Where the counters of removed groups stand: a group put back goes on from there.
    retired: BTreeMap<SessionId, u32>,
    served: u64,
    wake: Option<Timestamp>,
}

impl Groups {
    pub(super) fn restore(records: &[McGroup]) -> Self {
        let groups = records
            .iter()
            .map(|record| (record.session.clone(), Group::new(record.clone())));
        Self {
            groups: groups.collect(),
            ..Self::default()
        }
    }

    pub(super) fn has_address(&self, address: McAddr) -> bool {
        self.groups
            .values()
            .any(|group| group.record.mc_addr == address)
    }

    /// Knows a group; one that was known keeps its queue, and its counter unless the given one is ahead. One whose key
    /// another group has goes on from the counter of that.
    pub(super) fn put(&mut self, record: McGroup) {
        let session = record.session.clone();
        let mut group = Group::new(record);
        let same = |other: &&McGroup| {
            (other.mc_addr, &other.mc_key) == (group.record.mc_addr, &group.record.mc_key)
        };
        let others = self.groups.values().map(|group| &group.record);
        let counters = others.filter(same).map(|other| other.next_mc_f_cnt);
        let counter = counters.max().unwrap_or(0);
        group.record.next_mc_f_cnt = group.record.next_mc_f_cnt.max(counter);
        if let Some(counter) = self.retired.remove(&session) {
            group.record.next_mc_f_cnt = group.record.next_mc_f_cnt.max(counter);
        }
        if let Some(known) = self.groups.remove(&session) {
            let counter = known.record.next_mc_f_cnt;
            group.record.next_mc_f_cnt = group.record.next_mc_f_cnt.max(counter);
            group.queue = known.queue;
            group.head = known.head;
            group.not_before = known.not_before;
            group.served = known.served;
            // A frame under an address or key no longer in use is of no use to anyone: it is built anew.
            if (group.record.mc_addr, &group.record.mc_key)
                != (known.record.mc_addr, &known.record.mc_key)
                && let Some(head) = &mut group.head
            {
                head.phy_payload = None;
            }
        }
        self.deleted.remove(&session);
        self.changed.insert(session.clone());
        self.groups.insert(session, group);
    }

    /// Forgets a group; what was queued is reported as refused.
    pub(super) fn remove(&mut self, session: &SessionId, air: &mut Air) {
        let Some(mut group) = self.groups.remove(session) else {
            return;
        };
        group.clear(air);
        let counter = group.record.next_mc_f_cnt;
        self.retired.insert(session.clone(), counter);
        self.changed.remove(session);
        self.deleted.insert(session.clone());
    }

    /// Knows a group without sending to it; what was queued is reported as refused.
    pub(super) fn keep(&mut self, session: &SessionId, kept: Option<KeptGroup>, air: &mut Air) {
        let Some(group) = self.groups.get_mut(session) else {
            return;
        };
        group.clear(air);
        if group.record.kept != kept {
            group.record.kept = kept;
            self.changed.insert(session.clone());
        }
    }

    /// The groups that are known, with their counters.
    pub(super) fn records(&self) -> impl Iterator<Item = &McGroup> {
        self.groups.values().map(|group| &group.record)
    }

    /// Queues a frame.
    pub(super) fn send(
        &mut self,
        now: Timestamp,
        session: &SessionId,
        downlink: Downlink,
        air: &mut Air,
    ) {
        match self.groups.get_mut(session) {
            Some(group) if group.record.kept.is_none() => group.queue.push_back((now, downlink)),
            _ => air.refuse(downlink.id, Refusal::NoSession),
        }
    }

    /// Hands over every frame whose time has come, and refuses those whose time is over.
    pub(super) fn pump(&mut self, now: Timestamp, air: &mut Air) {
        self.wake = None;
        // Each turn takes one gateway off one frame, so this ends.
        loop {
            let mut due: Option<(u64, SessionId, Start)> = None;
            let mut wake = None;
            for (session, group) in &mut self.groups {
                let Some(start) = group.next_start(now, air) else {
                    continue;
                };
                if start.hand_over_at > now {
                    wake = earlier(wake, start.hand_over_at);
                } else if due
                    .as_ref()
                    .is_none_or(|(served, ..)| group.served < *served)
                {
                    due = Some((group.served, session.clone(), start));
                }
            }
            let Some((_, session, start)) = due else {
                self.wake = wake;
                return;
            };
            self.served += 1;
            if let Some(group) = self.groups.get_mut(&session) {
                group.served = self.served;
                if group.hand_over(now, &start, air) {
                    self.changed.insert(session);
                }
            }
        }
    }

    /// When the next frame is to be handed over, as of the last [`Groups::pump`].
    pub(super) fn wake(&self) -> Option<Timestamp> {
        self.wake
    }

    pub(super) fn take_changes(&mut self, changes: &mut Vec<Change>) {
        let deleted = std::mem::take(&mut self.deleted);
        changes.extend(deleted.into_iter().map(Change::DeleteMcGroup));
        for session in std::mem::take(&mut self.changed) {
            let group = self.groups.get(&session);
            changes.extend(group.map(|group| Change::PutMcGroup(group.record.clone())));
        }
    }
}

impl Group {
    fn new(record: McGroup) -> Self {
        Self {
            nwk_s_key: mc_nwk_s_key(&record.mc_key, record.mc_addr),
            app_s_key: mc_app_s_key(&record.mc_key, record.mc_addr),
            record,
            queue: VecDeque::new(),
            head: None,
            not_before: Timestamp::default(),
            served: 0,
            found: None,
        }
    }

    /// Refuses all that was to be sent.
    fn clear(&mut self, air: &mut Air) {
        if let Some(head) = self.head.take() {
            self.not_before = self.not_before.max(head.end);
            for gateway in head.turns.into_iter().flat_map(|turn| turn.gateways) {
                refuse(air, head.report, gateway, Refusal::NoSession);
            }
        }
        for (_, downlink) in self.queue.drain(..) {
            air.refuse(downlink.id, Refusal::NoSession);
        }
    }

    /// When the next gateways of this group would start. Frames and gateways that cannot make it are refused on the
    /// way.
    fn next_start(&mut self, now: Timestamp, air: &mut Air) -> Option<Start> {
        if let Some((start, _)) = self.found.filter(|(_, until)| now < *until) {
            return Some(start);
        }
        self.found = None;
        loop {
            if self.head.is_none() {
                let (asked_at, downlink) = self.queue.pop_front()?;
                self.head = self.take_up(now, asked_at, downlink, air);
                continue;
            }
            let slots = self.record.ping_slots;
            let slots = slots.map(|slots| (self.record.mc_addr, slots));
            let head = self.head.as_mut()?;
            let Some(turn) = head
                .turns
                .front_mut()
                .filter(|turn| !turn.gateways.is_empty())
            else {
                if head.turns.pop_front().is_none() {
                    self.not_before = self.not_before.max(head.end);
                    self.head = None;
                }
                continue;
            };
            let wanted = Wanted {
                emission: &head.emission,
                from: head.downlink.earliest.max(self.not_before),
                deadline: head.downlink.deadline,
                asked_at: head.asked_at,
                slots,
            };
            match turns::common_start(now, air, turn, &wanted) {
                Ok(start) => {
                    let until = start.hand_over_at.min(now + LOOK_AGAIN);
                    self.found = Some((start, until));
                    return Some(start);
                }
                Err(refused) => {
                    for (gateway, refusal) in refused {
                        turn.gateways.retain(|eui| *eui != gateway);
                        refuse(air, head.report, gateway, refusal);
                    }
                }
            }
        }
    }

    /// Makes a frame the next one, if it can be sent at all.
    fn take_up(
        &self,
        now: Timestamp,
        asked_at: Timestamp,
        downlink: Downlink,
        air: &mut Air,
    ) -> Option<Head> {
        match self.emission(&downlink) {
            Ok(emission) => {
                let report = air.open_report(downlink.id, self.record.gateways.len());
                Some(Head {
                    downlink,
                    asked_at,
                    report,
                    emission,
                    phy_payload: None,
                    turns: turns::turns(&self.record, &air.abilities(now)),
                    end: self.not_before,
                })
            }
            Err(refusal) => {
                air.refuse(downlink.id, refusal);
                None
            }
        }
    }

    fn emission(&self, downlink: &Downlink) -> Result<Emission, Refusal> {
        let record = &self.record;
        if record.gateways.is_empty() {
            return Err(Refusal::NoGateway);
        }
        let fits = match record.class {
            DeviceClass::A => false,
            DeviceClass::B => record.ping_slots.is_some(),
            DeviceClass::C => true,
        };
        if !fits || !(1..=223).contains(&downlink.f_port) {
            return Err(Refusal::Other);
        }
        let direction = Direction::Downlink;
        let data_rate = record
            .region
            .data_rate(record.data_rate, direction)
            .ok_or(Refusal::Other)?;
        let limit = record
            .region
            .max_payload(record.data_rate, direction, false)
            .unwrap_or(0);
        if downlink.payload.len() > usize::from(limit) {
            return Err(Refusal::TooLong);
        }
        Ok(Emission {
            region: record.region,
            frequency_hz: record.frequency_hz,
            data_rate,
            phy_length: data_frame_length(downlink.payload.len()).ok_or(Refusal::TooLong)?,
        })
    }

    /// Hands the frame over to the next gateways. `true` if a counter was used for it.
    fn hand_over(&mut self, now: Timestamp, start: &Start, air: &mut Air) -> bool {
        self.found = None;
        let Some(head) = &mut self.head else {
            return false;
        };
        let Some(turn) = head.turns.pop_front() else {
            return false;
        };
        let mut counted = false;
        let phy_payload = match head.phy_payload.clone() {
            Some(built) => built,
            None => {
                let built = build(
                    &mut self.record,
                    &self.nwk_s_key,
                    &self.app_s_key,
                    &head.downlink,
                );
                counted = built.is_ok();
                match built {
                    Ok(built) => head.phy_payload.insert(built).clone(),
                    Err(refusal) => {
                        for gateway in turn.gateways {
                            refuse(air, head.report, gateway, refusal);
                        }
                        return false;
                    }
                }
            }
        };
        head.end = head.end.max(start.at + head.emission.airtime());
        for gateway in turn.gateways {
            let when = if turn.by_gps {
                When::Gps(start.at.to_gps())
            } else {
                air.when(now, gateway, start)
            };
            let transmission = Transmission {
                start: start.at,
                when,
                hand_over_at: now,
                mapped: start.timed && !turn.by_gps,
                phy_payload: phy_payload.clone(),
                report: Some(head.report),
            };
            air.transmit(now, gateway, &head.emission, transmission);
        }
        counted
    }
}

/// Builds the frame with the group's next counter, which is used up by it.
fn build(
    record: &mut McGroup,
    nwk_s_key: &Key128,
    app_s_key: &Key128,
    downlink: &Downlink,
) -> Result<Vec<u8>, Refusal> {
    let f_cnt = record.next_mc_f_cnt;
    let next = f_cnt.checked_add(1).ok_or(Refusal::NoSession)?;
    let fields = DataFields {
        direction: Direction::Downlink,
        confirmed: false,
        dev_addr: record.mc_addr,
        f_ctrl: FCtrl::default(),
        f_cnt,
        f_opts: &[],
        f_port: Some(downlink.f_port),
        payload: &downlink.payload,
    };
    let phy_payload = fields
        .build(nwk_s_key, app_s_key)
        .map_err(|_| Refusal::TooLong)?;
    record.next_mc_f_cnt = next;
    Ok(phy_payload)
}

fn refuse(air: &mut Air, report: ReportKey, gateway: GatewayEui, refusal: Refusal) {
    air.outcome(report, Some(gateway), TxOutcome::Refused(refusal));
}

fn earlier(one: Option<Timestamp>, other: Timestamp) -> Option<Timestamp> {
    Some(one.map_or(other, |one| one.min(other)))
}
