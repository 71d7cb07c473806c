//! Devices, their sessions, and whose a data frame is: by address, then by MIC, then by counter.

use std::collections::{BTreeMap, BTreeSet};

use super::receive_windows::Window;
use crate::lorawan::frame::{DataFrame, full_f_cnt};
use crate::lorawan::identifiers::{DevAddr, DevEui};
use crate::network::DeviceLink;
use crate::record::{Change, FCntReset, JoinState, Reception, Session, Snapshot};
use crate::time::Timestamp;

/// How far a counter may be ahead. All the 16 bits on air can tell: the MIC covers the 32 bits, so nothing is gained by
/// refusing a device that was out of reach for long.
const MAX_AHEAD: u32 = 0xffff;
/// Highest counter by which a restart is recognised.
const MAX_RESTART: u32 = 64;

/// A device as the core knows it.
#[derive(Clone, Debug)]
pub(super) struct DeviceState {
    pub(super) link: DeviceLink,
    pub(super) join: Option<JoinState>,
    pub(super) session: Option<Session>,
    /// Who heard it last, best signal first.
    pub(super) heard_by: Vec<Reception>,
    /// The receive windows of its last uplink.
    pub(super) window: Option<Window>,
    /// Repetitions of the last uplink that were acknowledged.
    pub(super) repeats_answered: u8,
    /// End of the last downlink: no other starts before, so that counters arrive in order.
    pub(super) silent_until: Timestamp,
}

impl DeviceState {
    fn new(link: DeviceLink) -> Self {
        Self {
            link,
            join: None,
            session: None,
            heard_by: Vec::new(),
            window: None,
            repeats_answered: 0,
            silent_until: Timestamp::default(),
        }
    }
}

/// Whose a data frame is, and what its counter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// A new frame.
    Fresh { dev_eui: DevEui, f_cnt: u32 },
    /// A new frame under a counter that restarted, which this device may do.
    Restarted { dev_eui: DevEui, f_cnt: u32 },
    /// The last frame again.
    Repeated { dev_eui: DevEui, f_cnt: u32 },
    /// A frame of the past.
    Replayed,
    /// No device of that address has such a key.
    WrongMic,
    /// No device has that address.
    UnknownAddress,
}

/// All devices, and which records of theirs changed since the last commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Devices {
    devices: BTreeMap<DevEui, DeviceState>,
    by_address: BTreeMap<DevAddr, BTreeSet<DevEui>>,
    changed_joins: BTreeSet<DevEui>,
    changed_sessions: BTreeSet<DevEui>,
}

impl Devices {
    pub(super) fn restore(snapshot: &Snapshot) -> Self {
        let profiles: BTreeMap<_, _> = snapshot
            .profiles
            .iter()
            .map(|profile| ((&profile.tenant, &profile.id), profile))
            .collect();
        let mut all = Self::default();
        for device in &snapshot.devices {
            let settings = &device.settings;
            let Some(profile) = profiles.get(&(&settings.tenant, &settings.profile)) else {
                continue;
            };
            let mut state = DeviceState::new(DeviceLink {
                region: profile.region,
                always_class_c: profile.always_class_c,
                f_cnt_reset_allowed: profile.after_reboot.f_cnt_reset
                    == FCntReset::AllowAfterReboot
                    && device.status.reboot_expected,
            });
            let mut links: Vec<_> = device.status.links.iter().collect();
            links.sort_by(|(_, a), (_, b)| {
                let by_signal = b.snr_db.total_cmp(&a.snr_db);
                by_signal.then(b.rssi_dbm.cmp(&a.rssi_dbm))
            });
            state.heard_by = links
                .into_iter()
                .map(|(&gateway, link)| Reception {
                    gateway,
                    rssi_dbm: link.rssi_dbm,
                    snr_db: link.snr_db,
                })
                .collect();
            all.devices.insert(settings.dev_eui, state);
        }
        for (dev_eui, join) in &snapshot.joins {
            if let Some(state) = all.devices.get_mut(dev_eui) {
                state.join = Some(join.clone());
            }
        }
        for (dev_eui, session) in &snapshot.sessions {
            all.set_session(*dev_eui, session.clone());
        }
        all.changed_sessions.clear();
        all
    }

    pub(super) fn get(&self, dev_eui: DevEui) -> Option<&DeviceState> {
        self.devices.get(&dev_eui)
    }

    pub(super) fn get_mut(&mut self, dev_eui: DevEui) -> Option<&mut DeviceState> {
        self.devices.get_mut(&dev_eui)
    }

    /// The session, to be changed: its write is part of the next changes.
    pub(super) fn session_mut(&mut self, dev_eui: DevEui) -> Option<&mut Session> {
        let session = self.devices.get_mut(&dev_eui)?.session.as_mut()?;
        self.changed_sessions.insert(dev_eui);
        Some(session)
    }

    /// The join state, to be changed: its write is part of the next changes.
    pub(super) fn join_mut(&mut self, dev_eui: DevEui) -> Option<&mut JoinState> {
        let join = self.devices.get_mut(&dev_eui)?.join.as_mut()?;
        self.changed_joins.insert(dev_eui);
        Some(join)
    }

    pub(super) fn has_address(&self, address: DevAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    pub(super) fn put_device(&mut self, dev_eui: DevEui, link: DeviceLink) {
        self.devices
            .entry(dev_eui)
            .and_modify(|state| state.link = link)
            .or_insert_with(|| DeviceState::new(link));
    }

    pub(super) fn delete_device(&mut self, dev_eui: DevEui) {
        self.forget_address(dev_eui);
        self.devices.remove(&dev_eui);
        self.changed_joins.remove(&dev_eui);
        self.changed_sessions.remove(&dev_eui);
    }

    /// An operator's join state. Under the same key no nonce is forgotten.
    pub(super) fn import_join(&mut self, dev_eui: DevEui, mut join: JoinState) {
        let Some(state) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        if let Some(known) = state
            .join
            .take()
            .filter(|known| known.app_key == join.app_key)
        {
            let given = (
                join.next_join_nonce,
                join.dev_nonces.len(),
                join.last_dev_nonce,
            );
            join.next_join_nonce = join.next_join_nonce.max(known.next_join_nonce);
            join.dev_nonces.extend(known.dev_nonces);
            join.last_dev_nonce = known.last_dev_nonce.or(join.last_dev_nonce);
            if given
                != (
                    join.next_join_nonce,
                    join.dev_nonces.len(),
                    join.last_dev_nonce,
                )
            {
                self.changed_joins.insert(dev_eui);
            }
        }
        state.join = Some(join);
    }

    /// An operator's session. Under the same keys the downlink counter does not go back.
    pub(super) fn import_session(&mut self, dev_eui: DevEui, mut session: Session) {
        let known = self.get(dev_eui).and_then(|state| state.session.as_ref());
        let same_keys = known.filter(|known| {
            known.nwk_s_key == session.nwk_s_key || known.app_s_key == session.app_s_key
        });
        let ahead = same_keys.map_or(0, |known| known.next_f_cnt_down);
        let given = session.next_f_cnt_down;
        session.next_f_cnt_down = given.max(ahead);
        self.set_session(dev_eui, session);
        if given >= ahead {
            self.changed_sessions.remove(&dev_eui);
        }
    }

    /// Replaces the session, and with it what belonged to the old one.
    pub(super) fn set_session(&mut self, dev_eui: DevEui, session: Session) {
        self.forget_address(dev_eui);
        let Some(state) = self.devices.get_mut(&dev_eui) else {
            return;
        };
        self.by_address
            .entry(session.dev_addr)
            .or_default()
            .insert(dev_eui);
        state.session = Some(session);
        state.window = None;
        state.repeats_answered = 0;
        self.changed_sessions.insert(dev_eui);
    }

    /// Finds the sender of an uplink. Changes nothing.
    pub(super) fn identify(&self, frame: &DataFrame) -> Match {
        let Some(candidates) = self.by_address.get(&frame.dev_addr) else {
            return Match::UnknownAddress;
        };
        let sessions = || {
            candidates.iter().filter_map(|dev_eui| {
                let state = self.devices.get(dev_eui)?;
                Some((*dev_eui, state, state.session.as_ref()?))
            })
        };
        for (dev_eui, _, session) in sessions() {
            let fresh = full_f_cnt(session.f_cnt_up, frame.f_cnt, MAX_AHEAD);
            if let Some(f_cnt) = fresh.filter(|&f_cnt| frame.verify_mic(&session.nwk_s_key, f_cnt))
            {
                return Match::Fresh { dev_eui, f_cnt };
            }
        }
        for (dev_eui, state, session) in sessions() {
            let Some(last) = session.f_cnt_up else {
                continue;
            };
            let wire = u32::from(frame.f_cnt);
            let past = [
                last & 0xffff_0000 | wire,
                (last & 0xffff_0000 | wire).wrapping_sub(0x1_0000),
            ];
            for f_cnt in past.into_iter().filter(|&f_cnt| f_cnt <= last) {
                if !frame.verify_mic(&session.nwk_s_key, f_cnt) {
                    continue;
                }
                if f_cnt == last {
                    return Match::Repeated { dev_eui, f_cnt };
                }
                if !(state.link.f_cnt_reset_allowed && f_cnt < MAX_RESTART) {
                    return Match::Replayed;
                }
            }
            let may_restart = state.link.f_cnt_reset_allowed && wire < MAX_RESTART && wire < last;
            if may_restart && frame.verify_mic(&session.nwk_s_key, wire) {
                let f_cnt = wire;
                return Match::Restarted { dev_eui, f_cnt };
            }
        }
        Match::WrongMic
    }

    pub(super) fn take_changes(&mut self, changes: &mut Vec<Change>) {
        for dev_eui in std::mem::take(&mut self.changed_joins) {
            let join = self.devices.get(&dev_eui).and_then(|s| s.join.clone());
            changes.extend(join.map(|join| Change::PutJoinState(dev_eui, join)));
        }
        for dev_eui in std::mem::take(&mut self.changed_sessions) {
            let session = self.devices.get(&dev_eui).and_then(|s| s.session.clone());
            changes.extend(session.map(|session| Change::PutSession(dev_eui, session)));
        }
    }

    fn forget_address(&mut self, dev_eui: DevEui) {
        let address = self
            .devices
            .get(&dev_eui)
            .and_then(|state| state.session.as_ref())
            .map(|session| session.dev_addr);
        let Some(address) = address else {
            return;
        };
        if let Some(sharing) = self.by_address.get_mut(&address) {
            sharing.remove(&dev_eui);
            if sharing.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}
