//! Tests of the simulated devices, gateways and labs through their public interface.

mod bench;
mod garbage;
mod lab;
mod link;
mod realtime;
mod update;
