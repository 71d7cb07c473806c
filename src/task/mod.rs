//! What is to be done: the forecast of a task before it starts, and the rules its order has to follow.
//!
//! PURE. How it is done is `campaign`'s business; what the plan promises and what the campaign does come from the same
//! figures in [`sizing`].

pub mod air;
pub mod calendar;
mod checks;
pub mod clock;
mod course;
mod gate;
pub mod link;
mod needs;
mod outlook;
mod place;
pub mod plan;
mod plan_session;
pub mod rates;
pub mod sizing;
mod unicast;
pub mod waits;
mod waves;

pub use outlook::{SessionOutlook, Span};
pub use plan::{
    Forecast, Plan, PlanError, PlanRefusal, PlanRequest, PlannedSession, SkippedDevice, plan,
};

#[cfg(test)]
mod tests;
