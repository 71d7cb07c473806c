//! Firmware updates over the air for LoRaWAN fleets.

pub mod campaign;
pub mod cli;
pub mod dialogue;
pub mod erasure;
pub mod firmware;
pub mod lorawan;
pub mod network;
pub mod proto;
pub mod record;
pub mod runtime;
pub mod store;
pub mod task;
pub mod time;
