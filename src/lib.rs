//! Firmware updates over the air for LoRaWAN fleets.

pub mod lorawan;
