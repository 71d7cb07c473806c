//! Firmware updates over the air for LoRaWAN fleets.

pub mod erasure;
pub mod firmware;
pub mod lorawan;
pub mod proto;
pub mod record;
pub mod task;
pub mod time;
