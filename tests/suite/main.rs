//! Tests of the crate from outside, in one binary so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod campaign;
mod cli;
mod frames_foreign;
mod golden_erasure;
