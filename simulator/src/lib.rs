//! Simulated end-devices and gateways for lorawan-fuota, and the worlds they live in.
//!
//! `device`, `gateway` and `channel` are PURE and written from the specifications, never from the server's code. `lab`
//! steps them in virtual time; `realtime` runs a lab against the wall clock and real sockets.

pub mod channel;
pub mod device;
pub mod fleet;
pub mod gateway;
pub mod lab;
pub mod random;
pub mod realtime;
pub mod rule_watch;
pub mod semtech;
pub mod udp;
