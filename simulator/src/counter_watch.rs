//! A watch over downlink counters: no counter of an address is ever used for two different frames.
//!
//! It sees what gateways put on air. The same frame from several gateways is one frame. Counters are told apart by
//! their 16 bits on air, so an address must not send more frames than that in one run. Only digests of frames are kept.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use lorawan_fuota::lorawan::frame::{Direction, Frame};
use lorawan_fuota::lorawan::identifiers::DevAddr;

/// Frames seen by address, session of that address, and counter.
#[derive(Clone, Debug, Default)]
pub struct CounterWatch {
    /// A digest of the frame, and how often it was seen.
    frames: BTreeMap<(DevAddr, u32, u16), (u64, u32)>,
    reused: u64,
}

impl CounterWatch {
    /// Takes in a frame on air. Returns address and counter if another frame had them before.
    pub fn see(&mut self, phy_payload: &[u8]) -> Option<(DevAddr, u16)> {
        let Ok(Frame::Data(frame)) = Frame::parse(phy_payload) else {
            return None;
        };
        if frame.direction != Direction::Downlink {
            return None;
        }
        let is_reused = self.see_frame((frame.dev_addr, 0), frame.f_cnt, phy_payload);
        is_reused.then_some((frame.dev_addr, frame.f_cnt))
    }

    /// Takes in a downlink of an address, and of one of the sessions that have had it. True if another frame had its
    /// counter before.
    pub fn see_frame(
        &mut self,
        (address, session): (DevAddr, u32),
        f_cnt: u16,
        phy_payload: &[u8],
    ) -> bool {
        let digest = digest(phy_payload);
        let key = (address, session, f_cnt);
        let seen = self.frames.entry(key).or_insert((digest, 0));
        seen.1 += 1;
        let is_reused = seen.0 != digest;
        seen.0 = digest;
        self.reused += u64::from(is_reused);
        is_reused
    }

    /// How often frames of this counter were seen.
    pub fn times(&self, (address, session): (DevAddr, u32), f_cnt: u16) -> u32 {
        let seen = self.frames.get(&(address, session, f_cnt));
        seen.map_or(0, |seen| seen.1)
    }

    /// Counters used twice so far.
    pub fn reused(&self) -> u64 {
        self.reused
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
