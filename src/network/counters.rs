//! What came in, and what was done with it, counted. Counters live in memory: they start at 0 with the server process.

/// Counts of the deterministic half. None of these is an error: the air is full of frames of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounters {
    /// Uplink frames received, each gateway's copy counted.
    pub uplinks_received: u64,
    /// Copies of a frame that another gateway, or the same, brought before.
    pub uplinks_duplicate: u64,
    /// Frames that are no LoRaWAN frame an end-device sends, or at a data rate its region has not got.
    pub uplinks_malformed: u64,
    /// Frames of unknown DevAddr, DevEUI or JoinEUI.
    pub uplinks_unknown_device: u64,
    /// Frames with a wrong MIC.
    pub uplinks_mic_failed: u64,
    /// Frames with a counter, or join-requests with a DevNonce, used before; repetitions of the last frame too.
    pub uplinks_replayed: u64,
    /// Data frames accepted.
    pub uplinks_accepted: u64,
    /// Copies dropped because too many others were waiting.
    pub uplinks_dropped: u64,
    /// Join-requests accepted and answered.
    pub joins_accepted: u64,
    /// Downlink frames handed to gateways.
    pub downlinks_handed_over: u64,
    /// Downlink frames given up: refused by every gateway, too late, or no air left.
    pub downlinks_dropped: u64,
}

impl NetworkCounters {
    /// Both together: what a machine counted that is gone, and what the one in its place counted.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            uplinks_received: self.uplinks_received + other.uplinks_received,
            uplinks_duplicate: self.uplinks_duplicate + other.uplinks_duplicate,
            uplinks_malformed: self.uplinks_malformed + other.uplinks_malformed,
            uplinks_unknown_device: self.uplinks_unknown_device + other.uplinks_unknown_device,
            uplinks_mic_failed: self.uplinks_mic_failed + other.uplinks_mic_failed,
            uplinks_replayed: self.uplinks_replayed + other.uplinks_replayed,
            uplinks_accepted: self.uplinks_accepted + other.uplinks_accepted,
            uplinks_dropped: self.uplinks_dropped + other.uplinks_dropped,
            joins_accepted: self.joins_accepted + other.joins_accepted,
            downlinks_handed_over: self.downlinks_handed_over + other.downlinks_handed_over,
            downlinks_dropped: self.downlinks_dropped + other.downlinks_dropped,
        }
    }
}

/// Counts of the socket half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportCounters {
    /// Datagrams of gateways that are not on the allow-list.
    pub refused: u64,
    /// Datagrams, and entries of otherwise good ones, that could not be read.
    pub malformed: u64,
    /// Frames whose radio CRC was bad or missing.
    pub without_crc: u64,
}
