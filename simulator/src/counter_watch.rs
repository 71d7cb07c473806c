//! A watch over downlink counters: no counter of an address is ever used for two different frames.
//!
//! It sees what gateways put on air. The same frame from several gateways is one frame. Counters are told apart by
//! their 16 bits on air, so an address must not send more frames than that in one run.

use std::collections::BTreeMap;

use lorawan_fuota::lorawan::frame::{Direction, Frame};
use lorawan_fuota::lorawan::identifiers::DevAddr;

/// Frames seen by address and counter.
#[derive(Clone, Debug, Default)]
pub struct CounterWatch {
    /// The frame, and how often it was seen.
    frames: BTreeMap<(DevAddr, u16), (Vec<u8>, u32)>,
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
        let key = (frame.dev_addr, frame.f_cnt);
        let seen = self
            .frames
            .entry(key)
            .or_insert_with(|| (phy_payload.to_vec(), 0));
        seen.1 += 1;
        if seen.0 == phy_payload {
            return None;
        }
        phy_payload.clone_into(&mut seen.0);
        self.reused += 1;
        Some(key)
    }

    /// How often frames of this counter were seen.
    pub fn times(&self, address: DevAddr, f_cnt: u16) -> u32 {
        self.frames.get(&(address, f_cnt)).map_or(0, |seen| seen.1)
    }

    /// Counters used twice so far.
    pub fn reused(&self) -> u64 {
        self.reused
    }
}
