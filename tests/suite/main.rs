//! The integration tests, linked once.
mod golden_erasure;
