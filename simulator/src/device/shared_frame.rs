//! A downlink that many devices hear: read once, and opened once for each key.

use std::sync::Arc;

use lorawan_fuota::lorawan::frame::{DataFrame, Frame, FrameError};
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::lorawan::keys::Key128;

/// A frame on its way to its listeners.
#[derive(Clone, Debug)]
pub struct SharedFrame {
    phy_payload: Vec<u8>,
    pub(super) frame: Result<Frame, FrameError>,
    pub(super) opened: Opened,
}

/// Payloads of a frame by what they were opened with.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened(Vec<Opening>);

#[derive(Clone, Debug)]
struct Opening {
    nwk_s_key: Key128,
    app_s_key: Key128,
    f_cnt: u32,
    payload: Option<Arc<[u8]>>,
}

/// Keys a frame is opened with before it is no longer remembered for which: a frame has one group.
const REMEMBERED: usize = 4;

impl SharedFrame {
    /// A frame as it is on air.
    pub fn new(phy_payload: &[u8]) -> Self {
        Self {
            frame: Frame::parse(phy_payload),
            phy_payload: phy_payload.to_vec(),
            opened: Opened::default(),
        }
    }

    /// The address a data frame is for.
    pub fn dev_addr(&self) -> Option<DevAddr> {
        match &self.frame {
            Ok(Frame::Data(frame)) => Some(frame.dev_addr),
            Ok(Frame::JoinRequest(_) | Frame::JoinAccept(_)) | Err(_) => None,
        }
    }

    /// Whether it is this one.
    pub fn is(&self, phy_payload: &[u8]) -> bool {
        self.phy_payload == phy_payload
    }
}

impl Opened {
    /// The payload in the clear; `None` if the MIC does not fit.
    pub(super) fn open(
        &mut self,
        frame: &DataFrame,
        (nwk_s_key, app_s_key): (&Key128, &Key128),
        f_cnt: u32,
    ) -> Option<Arc<[u8]>> {
        let known = self.0.iter().find(|known| {
            known.f_cnt == f_cnt && known.nwk_s_key == *nwk_s_key && known.app_s_key == *app_s_key
        });
        if let Some(known) = known {
            return known.payload.clone();
        }
        let payload = frame.open(nwk_s_key, app_s_key, f_cnt).ok().map(Arc::from);
        if self.0.len() < REMEMBERED {
            self.0.push(Opening {
                nwk_s_key: nwk_s_key.clone(),
                app_s_key: app_s_key.clone(),
                f_cnt,
                payload: payload.clone(),
            });
        }
        payload
    }
}
