//! What the native network server dropped or refused on its own account, by kind.

/// Counts since the machine was restored. None of these is an error: the air is full of frames of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NativeCounters {
    /// Frames received, each gateway's copy counted.
    pub received: u64,
    /// Copies of a frame that was waiting for them.
    pub copies: u64,
    /// Messages of gateways that are not on the allow-list.
    pub not_allow_listed: u64,
    /// Frames that are no LoRaWAN frame, or of a type no end-device sends.
    pub malformed: u64,
    /// Frames at a data rate the device's region does not have.
    pub unknown_data_rate: u64,
    /// Copies of a frame that came after its de-duplication window.
    pub late_copies: u64,
    /// Frames dropped because too many others were waiting for their copies.
    pub overflow: u64,
    /// Data frames to an address no device has.
    pub unknown_address: u64,
    /// Data frames whose MIC fits no device of that address.
    pub wrong_mic: u64,
    /// Data frames with a good MIC and a counter of the past.
    pub replayed: u64,
    /// Repetitions of the last frame (NbTrans, or a confirmed uplink sent again).
    pub repeated: u64,
    /// Frames accepted.
    pub uplinks: u64,
    /// Uplink counters that restarted.
    pub f_cnt_restarts: u64,
    /// Bytes of MAC commands that could not be read.
    pub unread_mac_bytes: u64,
    /// Join-requests accepted and answered.
    pub joins: u64,
    /// Join-requests of devices without join state, or with another JoinEUI.
    pub join_unknown: u64,
    /// Join-requests with a wrong MIC.
    pub join_wrong_mic: u64,
    /// Join-requests with a DevNonce used before.
    pub join_replayed: u64,
    /// Join-requests that could not be answered: no air, no gateway, or no nonce left.
    pub join_unanswered: u64,
    /// Uplinks whose own answer (ACK or MAC commands) found no air.
    pub answers_dropped: u64,
    /// Answers of gateways to transmissions that were given up, or never were.
    pub stray_tx_acks: u64,
}
