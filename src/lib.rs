//! Firmware updates over the air for LoRaWAN fleets.
pub mod erasure;
pub mod firmware;
