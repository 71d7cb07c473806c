//! Multicast frames stay within the windows their devices were told of.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::frame::{Direction, Frame};
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::record::{Change, SessionId};
use lorawan_fuota::time::Timestamp;

use crate::gateway::OnAir;

use super::{Broken, Checker};

/// Clocks of devices are right to fractions of a second, and a frame may start or end this much outside.
const TOLERANCE: Duration = Duration::from_millis(500);

/// All windows that were committed, and whose they are.
#[derive(Default)]
pub struct Windows {
    groups: BTreeMap<DevAddr, SessionId>,
    windows: BTreeMap<SessionId, Vec<(Timestamp, Timestamp)>>,
    /// What the server's clock may be off.
    clock_off: Duration,
}

impl Windows {
    pub(super) fn tolerate(&mut self, off: Duration) {
        self.clock_off = self.clock_off.max(off);
    }

    pub(super) fn commit(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutDistributionSession(session) => {
                    let window = (session.window.start, session.window.end());
                    let windows = self.windows.entry(session.id.clone()).or_default();
                    if !windows.contains(&window) {
                        windows.push(window);
                    }
                }
                Change::PutMcGroup(group) => {
                    self.groups.insert(group.mc_addr, group.session.clone());
                }
                _ => {}
            }
        }
    }

    /// Whose frame it is, if it is one of a group.
    pub(super) fn session(&self, sent: &OnAir) -> Option<&SessionId> {
        let Ok(Frame::Data(frame)) = Frame::parse(&sent.phy_payload) else {
            return None;
        };
        self.groups
            .get(&frame.dev_addr)
            .filter(|_| frame.direction == Direction::Downlink)
    }

    /// The checker of [`Checker::Windows`].
    pub(super) fn on_air(&self, sent: &OnAir) -> Option<Broken> {
        let session = self.session(sent)?;
        let tolerance = TOLERANCE + self.clock_off;
        let inside = self.windows.get(session).is_some_and(|windows| {
            windows
                .iter()
                .any(|(from, to)| sent.start + tolerance >= *from && sent.end <= *to + tolerance)
        });
        let what = || {
            format!(
                "a frame of session {} outside of its windows",
                session.number
            )
        };
        (!inside).then(|| (Checker::Windows, None, what()))
    }
}
