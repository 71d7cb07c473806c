//! What is to be done: the forecast of a task before it starts, and the rules its order has to follow.
//!
//! PURE. How it is done is `campaign`'s business; what the plan promises and what the campaign does come from the same
//! figures in [`sizing`].

pub mod calendar;
pub mod plan;
pub mod sizing;
mod waves;

pub use plan::{Forecast, Plan, PlanError, PlanRequest, PlannedSession, SkippedDevice, plan};
