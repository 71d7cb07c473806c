//! Firmware updates over the air for LoRaWAN fleets.

pub mod lorawan;
pub mod proto;
pub mod time;
