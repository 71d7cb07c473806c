//! Identifiers of the link layer.

/// Device address: 32 bits, sent little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevAddr(pub u32);
