//! Keys and addresses of a task's multicast groups, diversified from the task's secret seed.
//!
//! The seed is 128 random bits made at the start of the task. Every session gets its own `McKey` and `McAddr`, so that
//! no key is used with two counters (TS005-2.0.0 §4.1 allows derivation where the result is unpredictable and unique).

use crate::lorawan::identifiers::{DevAddr, McAddr};
use crate::lorawan::keys::{Key128, aes128_cmac};

/// `McKey` of a session.
pub(super) fn mc_key(seed: &Key128, session: u16) -> Key128 {
    Key128::from_bytes(aes128_cmac(seed, &[b"McKey", &session.to_le_bytes()]))
}

/// `McAddr` of a session: the network owns the leading bits, the seed gives the others. Never 0.
pub(super) fn mc_addr(seed: &Key128, session: u16, network: super::AddressSpace) -> McAddr {
    let super::AddressSpace {
        prefix,
        prefix_bits,
    } = network;
    let bytes = aes128_cmac(seed, &[b"McAddr", &session.to_le_bytes()]);
    let random = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let free = u32::MAX >> u32::from(prefix_bits.clamp(1, 31));
    // Devices cannot derive keys for address 0.
    DevAddr((prefix & !free) | (random & free).max(1))
}
