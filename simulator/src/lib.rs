//! Simulated LoRaWAN gateways and end-devices.

pub mod bound;
pub mod operator;
pub mod random;
pub mod server;
