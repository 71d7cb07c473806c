//! Tests of the simulated devices, gateways and labs through their public interface.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed"
)]

mod bench;
mod garbage;
mod kill;
mod lab;
mod link;
mod parts;
mod peer_faults;
mod realtime;
mod scale;
mod scenarios;
mod update;
