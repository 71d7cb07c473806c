//! Counters and fragments on air: never twice, never back, never before they are committed.
//!
//! Works on frames as gateways sent them and on committed records; fragments are read with the keys of their group.

use std::collections::BTreeMap;

use lorawan_fuota::lorawan::fragmentation::DataFragment;
use lorawan_fuota::lorawan::frame::{DataFrame, Direction, Frame};
use lorawan_fuota::lorawan::identifiers::{DevAddr, GatewayEui};
use lorawan_fuota::lorawan::keys::mc_app_s_key;
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
    /// Next counter by address, as committed last.
    committed: BTreeMap<DevAddr, u32>,
    /// Highest counter on air by address.
    highest: BTreeMap<DevAddr, u16>,
    groups: BTreeMap<DevAddr, McGroup>,
    fragments: Vec<FragmentOnAir>,
    /// Highest uncoded fragment on air.
    uncoded: BTreeMap<SessionId, u16>,
    /// The last frame in words.
    last: String,
    /// The server cannot know when gateways send what they were given.
    out_of_order: bool,
}

impl Counters {
    pub(super) fn fragments(&self) -> &[FragmentOnAir] {
        &self.fragments
    }

    pub(super) fn tolerate_order(&mut self) {
        self.out_of_order = true;
    }

    /// The last frame in words.
    pub(super) fn last(&self) -> String {
        self.last.clone()
    }

    pub(super) fn commit(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutSession(_, session) => {
                    self.committed
                        .insert(session.dev_addr, session.next_f_cnt_down);
                }
                Change::PutMcGroup(group) => {
                    self.committed.insert(group.mc_addr, group.next_mc_f_cnt);
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
        records: &Records,
    ) -> Vec<Broken> {
        let Ok(Frame::Data(frame)) = Frame::parse(&sent.phy_payload) else {
            self.last = "a join-accept".to_owned();
            return Vec::new();
        };
        self.last = format!("counter {} of {}", frame.f_cnt, frame.dev_addr);
        if frame.direction != Direction::Downlink {
            return Vec::new();
        }
        let mut broken = self.counters(&sent.phy_payload, &frame);
        broken.extend(self.fragment(gateway, sent.start, &frame, records));
        broken
    }

    /// The checker of [`Checker::Counters`].
    fn counters(&mut self, phy_payload: &[u8], frame: &DataFrame) -> Vec<Broken> {
        let (address, f_cnt) = (frame.dev_addr, frame.f_cnt);
        let mut broken = Vec::new();
        if self.watch.see(phy_payload).is_some() {
            broken.push(format!("counter {f_cnt} of {address} used twice"));
        }
        let next = self.committed.get(&address).copied().unwrap_or(0);
        if u32::from(f_cnt) >= next {
            broken.push(format!(
                "counter {f_cnt} of {address} on air, but only those below {next} are committed"
            ));
        }
        let highest = self.highest.entry(address).or_insert(f_cnt);
        let known = self.watch.times(address, f_cnt) > 1;
        if f_cnt < *highest && !known && !self.out_of_order {
            broken.push(format!(
                "counter {f_cnt} of {address} on air for the first time after {highest}"
            ));
        }
        *highest = f_cnt.max(*highest);
        let broken = broken.into_iter();
        broken.map(|what| (Checker::Counters, None, what)).collect()
    }

    /// The checker of [`Checker::Fragments`].
    fn fragment(
        &mut self,
        gateway: GatewayEui,
        at: Timestamp,
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
            return Vec::new();
        };
        let mut broken = Vec::new();
        if n <= block.nb_frag {
            let released = session.uncoded_sent;
            if n > released {
                broken.push(format!("fragment {n} on air, {released} are committed"));
            }
            let highest = self.uncoded.entry(session.id.clone()).or_insert(n);
            // The same frame from another gateway may come later.
            let first = self.watch.times(frame.dev_addr, frame.f_cnt) == 1;
            if n < *highest && first && !self.out_of_order {
                broken.push(format!("fragment {n} on air after {highest}"));
            }
            *highest = n.max(*highest);
        } else if session.coded_sent == 0 {
            broken.push(format!("coded fragment {n} on air, none is committed"));
        }
        self.last.push_str(&format!(", fragment {n}"));
        self.fragments.push(FragmentOnAir {
            at,
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
