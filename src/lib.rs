//! Firmware updates over the air for LoRaWAN fleets.
//!
//! ARCHITECTURE.md tells how the parts work together; from the base up:
//!
//! | layer | modules |
//! |---|---|
//! | pure | [`time`], [`lorawan`], [`erasure`], [`firmware`], [`record`], [`task`], [`campaign`], [`dialogue`] |
//! | ports | [`network`] (its native core is pure too), [`store`] |
//! | shell | [`runtime`] |
//! | edges | [`api`]; [`proto`] is what they speak |

pub mod api;
pub mod campaign;
pub mod cli;
pub mod dialogue;
pub mod erasure;
pub mod firmware;
pub mod lorawan;
pub mod network;
pub mod proto;
pub mod record;
pub mod rollout;
pub mod runtime;
pub mod store;
pub mod task;
pub mod time;
