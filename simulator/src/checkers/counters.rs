//! Counters and fragments on air: never twice, never back, never before they are committed.
//!
//! Works on frames as gateways sent them and on committed records; fragments are read with the keys of their group.

use std::collections::BTreeMap;

use lorawan_fuota::lorawan::fragmentation::DataFragment;
use lorawan_fuota::lorawan::frame::DataFrame;
use lorawan_fuota::lorawan::identifiers::{DevAddr, GatewayEui};
use lorawan_fuota::lorawan::keys::{Key128, mc_app_s_key, mc_nwk_s_key};
use lorawan_fuota::record::{Change, McGroup, SessionId};
use lorawan_fuota::time::Timestamp;

use crate::counter_watch::CounterWatch;
use crate::gateway::OnAir;

use super::records::Records;
use super::{Broken, Checker};

/// A fragment as a gateway sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FragmentOnAir {
    /// Its first moment.
    pub at: Timestamp,
    /// Its last.
    pub end: Timestamp,
    /// Who sent it.
    pub gateway: GatewayEui,
    /// Whose it is.
    pub session: SessionId,
    /// Which one: `N`.
    pub n: u16,
    /// Counter of the frame.
    pub f_cnt: u16,
}

/// The watch over counters and fragments.
#[derive(Default)]
pub struct Counters {
    watch: CounterWatch,
    /// The sessions that have had an address, in the order they got it.
    sessions: BTreeMap<DevAddr, Vec<Holder>>,
    groups: BTreeMap<DevAddr, McGroup>,
    fragments: Vec<FragmentOnAir>,
    /// When frames of groups that are no fragments began.
    polls: Vec<Timestamp>,
    /// Highest uncoded fragment on air.
    uncoded: BTreeMap<SessionId, u16>,
    /// The last frame: counter, address and fragment; `None` for a join-accept.
    last: Option<(u16, DevAddr, Option<u16>)>,
    /// The server cannot know when gateways send what they were given.
    out_of_order: bool,
}

/// A session of a device or group: a key, under which no counter may come twice. Devices that join get addresses that
/// others have left, and may share one.
struct Holder {
    nwk_s_key: Key128,
    /// Next counter, as committed last.
    next: u32,
    /// Highest counter on air.
    highest: Option<u16>,
}

impl Counters {
    /// A session of this key was committed.
    fn hold(&mut self, address: DevAddr, nwk_s_key: &Key128, next: u32) {
        let holders = self.sessions.entry(address).or_default();
        match holders.iter_mut().find(|h| h.nwk_s_key == *nwk_s_key) {
            Some(holder) => holder.next = next,
            None => holders.push(Holder {
                nwk_s_key: nwk_s_key.clone(),
                next,
                highest: None,
            }),
        }
    }

    /// Whose frame it is, of those that have had its address; 0 if nobody is known.
    fn holder_of(&self, frame: &DataFrame) -> u32 {
        let holders = self.sessions.get(&frame.dev_addr);
        let holders = holders.map_or(&[][..], Vec::as_slice);
        if holders.len() < 2 {
            return 0;
        }
        let signs = |h: &&Holder| frame.verify_mic(&h.nwk_s_key, u32::from(frame.f_cnt));
        let found = (0..).zip(holders).find(|(_, holder)| signs(holder));
        found.map_or(0, |(number, _)| number)
    }

    pub(super) fn fragments(&self) -> &[FragmentOnAir] {
        &self.fragments
    }

    pub(super) fn tolerate_order(&mut self) {
        self.out_of_order = true;
    }

    /// The last frame in words.
    pub(super) fn last(&self) -> String {
        let Some((f_cnt, address, n)) = self.last else {
            return "a join-accept".to_owned();
        };
        let fragment = n.map_or_else(String::new, |n| format!(", fragment {n}"));
        format!("counter {f_cnt} of {address}{fragment}")
    }

    pub(super) fn polls(&self) -> &[Timestamp] {
        &self.polls
    }

    pub(super) fn commit(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutSession(_, session) => {
                    let next = session.next_f_cnt_down;
                    self.hold(session.dev_addr, &session.nwk_s_key, next);
                }
                Change::PutMcGroup(group) => {
                    let key = mc_nwk_s_key(&group.mc_key, group.mc_addr);
                    self.hold(group.mc_addr, &key, group.next_mc_f_cnt);
                    self.groups.insert(group.mc_addr, group.clone());
                }
                _ => {}
            }
        }
    }

    pub(super) fn on_air(
        &mut self,
        gateway: GatewayEui,
        sent: &OnAir,
        frame: Option<&DataFrame>,
        records: &Records,
    ) -> Vec<Broken> {
        self.last = None;
        let Some(frame) = frame else {
            return Vec::new();
        };
        self.last = Some((frame.f_cnt, frame.dev_addr, None));
        let mut broken = self.counters(&sent.phy_payload, frame);
        broken.extend(self.fragment(gateway, sent, frame, records));
        broken
    }

    /// The checker of [`Checker::Counters`].
    fn counters(&mut self, phy_payload: &[u8], frame: &DataFrame) -> Vec<Broken> {
        let (address, f_cnt) = (frame.dev_addr, frame.f_cnt);
        let session = (address, self.holder_of(frame));
        let mut broken = Vec::new();
        if self.watch.see_frame(session, f_cnt, phy_payload) {
            broken.push(format!("counter {f_cnt} of {address} used twice"));
        }
        let known = self.watch.times(session, f_cnt) > 1;
        let holder = self.sessions.get_mut(&address).and_then(|holders| {
            let at = usize::try_from(session.1).ok()?;
            holders.get_mut(at)
        });
        let next = holder.as_ref().map_or(0, |holder| holder.next);
        if u32::from(f_cnt) >= next {
            broken.push(format!(
                "counter {f_cnt} of {address} on air, but only those below {next} are committed"
            ));
        }
        if let Some(holder) = holder {
            let highest = holder.highest.unwrap_or(f_cnt);
            if f_cnt < highest && !known && !self.out_of_order {
                broken.push(format!(
                    "counter {f_cnt} of {address} on air for the first time after {highest}"
                ));
            }
            holder.highest = Some(f_cnt.max(highest));
        }
        let broken = broken.into_iter();
        broken.map(|what| (Checker::Counters, None, what)).collect()
    }

    /// The checker of [`Checker::Fragments`].
    fn fragment(
        &mut self,
        gateway: GatewayEui,
        sent: &OnAir,
        frame: &DataFrame,
        records: &Records,
    ) -> Vec<Broken> {
        let Some(group) = self.groups.get(&frame.dev_addr) else {
            return Vec::new();
        };
        let Some(session) = records.sessions.get(&group.session) else {
            let what = format!("a frame of {:?}, which is not committed", group.session);
            return vec![(Checker::Fragments, None, what)];
        };
        let key = mc_app_s_key(&group.mc_key, group.mc_addr);
        let payload = frame.decrypt(&key, u32::from(frame.f_cnt));
        let block = session.block;
        let found = DataFragment::decode(&payload).ok().map(|f| f.n);
        let Some(n) = found.filter(|_| frame.f_port == Some(session.frag_port)) else {
            self.polls.push(sent.start);
            return Vec::new();
        };
        let mut broken = Vec::new();
        if n <= block.nb_frag {
            let released = session.uncoded_sent;
            if n > released {
                broken.push(format!("fragment {n} on air, {released} are committed"));
            }
            // The same frame from another gateway may come later.
            let holder = (frame.dev_addr, self.holder_of(frame));
            let first = self.watch.times(holder, frame.f_cnt) == 1;
            let highest = self.uncoded.entry(session.id.clone()).or_insert(n);
            if n < *highest && first && !self.out_of_order {
                broken.push(format!("fragment {n} on air after {highest}"));
            }
            *highest = n.max(*highest);
        } else if session.coded_sent == 0 {
            broken.push(format!("coded fragment {n} on air, none is committed"));
        }
        self.last = Some((frame.f_cnt, frame.dev_addr, Some(n)));
        self.fragments.push(FragmentOnAir {
            at: sent.start,
            end: sent.end,
            gateway,
            session: session.id.clone(),
            n,
            f_cnt: frame.f_cnt,
        });
        let broken = broken.into_iter();
        broken
            .map(|what| (Checker::Fragments, None, what))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lorawan_fuota::lorawan::frame::{DataFields, Direction, FCtrl};
    use lorawan_fuota::lorawan::identifiers::DevEui;
    use lorawan_fuota::lorawan::region::Region;
    use lorawan_fuota::record::Session;

    use super::*;

    const ADDRESS: DevAddr = DevAddr(0x0075_a2d0);

    fn session(device: u8, next_f_cnt_down: u32) -> Change {
        let key = Key128::from_bytes([device; 16]);
        let (rx2_frequency_hz, rx2_dr) = Region::Us915.rx2();
        let session = Session {
            dev_addr: ADDRESS,
            nwk_s_key: key.clone(),
            app_s_key: key,
            f_cnt_up: None,
            next_f_cnt_down,
            rx1_delay_s: 1,
            rx1_dr_offset: 0,
            rx2_dr,
            rx2_frequency_hz,
            activated_at: Timestamp::default(),
            imported: false,
        };
        Change::PutSession(DevEui(device.into()), session)
    }

    fn downlink(device: u8, f_cnt: u32, payload: &[u8]) -> OnAir {
        let key = Key128::from_bytes([device; 16]);
        let fields = DataFields {
            direction: Direction::Downlink,
            confirmed: false,
            dev_addr: ADDRESS,
            f_ctrl: FCtrl::default(),
            f_cnt,
            f_opts: &[],
            f_port: Some(1),
            payload,
        };
        OnAir {
            start: Timestamp::default(),
            end: Timestamp::default() + Duration::from_millis(50),
            frequency_hz: 923_300_000,
            data_rate: Region::Us915.data_rate(13, Direction::Downlink).unwrap(),
            phy_payload: fields.build(&key, &key).unwrap(),
            power_dbm: 20,
            beacon: false,
        }
    }

    /// What a checker finds that saw these commits and then these frames.
    fn broken(commits: &[Change], frames: &[OnAir]) -> Vec<String> {
        let mut counters = Counters::default();
        counters.commit(commits);
        let records = Records::default();
        let found = frames.iter().flat_map(|sent| {
            let frame = DataFrame::parse(&sent.phy_payload).ok();
            counters.on_air(GatewayEui(1), sent, frame.as_ref(), &records)
        });
        found.map(|(_, _, what)| what).collect()
    }

    #[test]
    fn an_address_that_changes_hands_counts_from_the_start() {
        let commits = [session(1, 4), session(2, 4)];
        let frames = [
            downlink(1, 3, b"one"),
            downlink(2, 0, b"two"),
            downlink(2, 3, b"two"),
        ];
        assert_eq!(broken(&commits, &frames), Vec::<String>::new());
    }

    #[test]
    fn a_counter_used_twice_under_one_key_is_found() {
        let commits = [session(1, 4), session(2, 2)];
        let twice = [downlink(1, 3, b"one"), downlink(1, 3, b"other")];
        assert_eq!(
            broken(&commits, &twice),
            ["counter 3 of 0075a2d0 used twice"]
        );
        let early = broken(&commits, &[downlink(2, 3, b"two")]);
        assert_eq!(early.len(), 1, "{early:?}");
        let back = broken(&commits, &[downlink(1, 3, b"b"), downlink(1, 2, b"a")]);
        assert_eq!(back.len(), 1, "{back:?}");
    }
}
