//! SHELL: the only place with a clock, entropy, configuration and sockets, and the one loop that drives everything.
//!
//! [`engine`] is the deterministic sum of network, fleet, dialogue and campaigns; [`drive`](drive::drive) turns the
//! ring around it: receive, step, commit, transmit. [`command`] is how the edges reach it.

pub mod clock;
pub mod command;
pub mod config;
pub mod drive;
pub mod engine;
mod kept;
mod queue;
pub mod secrets;
mod starts;

pub use command::{Command, CommandError, Counters, Handle, NewDevice, Notice};
pub use drive::{Clock, drive};
pub use engine::{Engine, EngineStep};
